"""How near a suite's test is to what a claim says: exact, near or stand-in, from the resolved runs and official.yaml.

``stand-in``: other pictures or small networks. ``near``: the paper's own kind of pictures and networks, but another
recipe, other data, or other pictures than the claim names; each difference is said. ``exact``: none is known. A variant
that is there to switch a setting is the claim's own arm; epochs, batch and training data that it switches beyond what
``official.yaml`` declares are a difference. Released files have no recipe here.
"""

from collections.abc import Iterator

from recount.judging.arms import Evidence
from recount.settings.drift import compared
from recount.settings.paper import TRIVIAL_ARMS, Claim
from recount.settings.project import Project


def match(project: Project, claim: Claim, evidence: Evidence) -> tuple[str, str]:
    """Return exact, near or stand-in, and what differs."""
    suite = project.suite
    systems = dict.fromkeys(arm.partition("/")[0] for arm in _arms(project, claim))
    small = [system for system in systems if suite.systems[system].size == "mini"]
    if not suite.comparable or small:
        return "stand-in", suite.why_not_comparable or f"small networks: {', '.join(small)}"
    found = list(dict.fromkeys(_differences(project, claim, evidence)))
    return ("near", "; ".join(found)) if found else ("exact", "")


def _arms(project: Project, claim: Claim) -> list[str]:
    """Return the arms that are runs of systems of this suite."""
    every = dict.fromkeys((*claim.arm, *claim.against))
    return [arm for arm in every if arm not in TRIVIAL_ARMS and arm.partition("/")[0] in project.suite.systems]


def _differences(project: Project, claim: Claim, evidence: Evidence) -> Iterator[str]:
    if claim.near:
        yield claim.near
    if not project.suite.as_published:
        yield f"suite {project.suite.name} says that its recipes are not the papers'"
    for benchmark in claim.on:
        yield from _other_data(project, benchmark, "tested")
    pictures = project.suite.prompt_test_pictures
    if claim.bounds and pictures is not None:
        yield f"prompts are tested on {pictures} pictures only"
    for arm in _arms(project, claim) if evidence == "trained" else ():
        yield from _of_recipe(project, arm)


def _of_recipe(project: Project, arm: str) -> Iterator[str]:
    system, _, variant = arm.partition("/")
    experiment = project.experiments[system]
    trained = experiment.variants[variant].reads or variant
    if experiment.variants[trained].checkpoint or project.resolved(system, trained).settings.get("train") is False:
        return
    data = experiment.data_of(trained)
    yield from _other_data(project, data.trained_on, f"{arm} is trained")
    if system not in project.official:
        return
    precision = project.config.precision
    for line in compared(project, system, trained):
        if line.drifted:
            yield f"{arm}: {line.key} is {line.ours}, not {line.drifted}"
        if line.key == "recipe.precision" and precision not in (None, line.ours):
            yield f"{arm}: config.yaml's precision is {precision}, not {line.ours}"


def _other_data(project: Project, benchmark: str, what: str) -> Iterator[str]:
    """Yield where a benchmark's pictures are not its own data set's split."""
    own, place = project.benchmarks[benchmark].data or benchmark, project.place(benchmark)
    if place not in ("", own):
        yield f"{what} on {place}, not on {own}"
