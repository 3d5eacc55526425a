"""The cheapest path to verdicts: which trainings decide the most of the papers' claims per GPU hour.

Released weights come first, as they need no training. Then, again and again, the claim and number of seeds are taken
whose missing trainings buy the most: the gain in the chance of being decided, summed over all claims that these
trainings complete, for each hour. The chances are the rules' own power (``judging.expected``), at the planned looks.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from recount.judging.expected import Expected, expected
from recount.settings.project import Project

ENOUGH = 0.005  # of a claim: a step that gains less is not listed


@dataclass(frozen=True, slots=True)
class Step:
    """Trainings to make next, and what they are expected to decide."""

    runs: tuple[str, ...]  # system/variant
    seeds: int  # that each of them has then
    hours: float
    total_hours: float  # with all steps before it
    gains: Mapping[str, float] = field(default_factory=dict)  # claim -> what is added to its chance of being decided

    @property
    def gain(self) -> float:
        """Return the expected number of claims that it decides."""
        return sum(self.gains.values())


def path(
    claims: Sequence[Expected], hours: Mapping[str, float], looks: Sequence[int], have: Mapping[str, int] | None = None
) -> list[Step]:
    """Return the steps in the order of what they decide an hour; ``have``: the seeds that trainings already have.

    ``hours``: of one seed of each training (``system/variant``); a claim with a training that is not in it is left out.
    Besides the planned looks one seed is tried, which decides facts.
    """
    level, looks = len(looks), sorted({1, *looks})
    claims = [claim for claim in claims if set(claim.trainings) <= hours.keys()]
    seeds = {training: (have or {}).get(training, 0) for claim in claims for training in claim.trainings}
    power = [{k: claim.power(k, level) for k in (0, *looks)} for claim in claims]

    def reached(number: int, at: Mapping[str, int]) -> float:
        fewest = min(at[training] for training in claims[number].trainings)
        return power[number][max(k for k in (0, *looks) if k <= fewest)]

    done = [reached(number, seeds) for number in range(len(claims))]
    steps, total = list[Step](), 0.0
    while True:
        best: tuple[float, Step, list[float]] | None = None
        for claim in claims:
            for look in looks:
                need = {t: look - seeds[t] for t in claim.trainings if seeds[t] < look}
                if not need:
                    continue
                cost = sum(hours[training] * more for training, more in need.items())
                then = seeds | dict.fromkeys(need, look)
                after = [reached(number, then) for number in range(len(claims))]
                gains = {
                    f"{c.paper} {c.claim.id}": after[i] - done[i] for i, c in enumerate(claims) if after[i] > done[i]
                }
                step = Step(tuple(need), look, cost, total + cost, gains)
                rate = step.gain / max(cost, 1e-9)
                if step.gain >= ENOUGH and (best is None or rate > best[0]):
                    best = rate, step, after
        if best is None:
            return steps
        _, step, done = best
        total = step.total_hours
        seeds |= dict.fromkeys(step.runs, step.seeds)
        steps.append(step)


def order(project: Project, hours: Mapping[str, float], have: Mapping[str, int]) -> list[str]:
    """Return every training in the order in which the path takes it; what decides no claim comes last, cheap first."""
    trainings = dict.fromkeys(f"{run.system}/{run.variant}" for run in project.trainings)
    first = [training for training in trainings if hours.get(training) == 0]
    steps = path(expected(project), hours, project.config.looks, have)
    first += [training for step in steps for training in step.runs]
    rest = sorted(trainings, key=lambda training: hours.get(training, math.inf))
    return [training for training in dict.fromkeys((*first, *rest)) if training in trainings]


def affordable(
    project: Project, hours: Mapping[str, float], have: Mapping[str, int], spent: Mapping[str, float]
) -> set[str]:
    """Return the trainings that fit into the project's budget, those with ended seeds first, then in the path's order.

    ``hours``: of one seed; ``have``, ``spent``: how many have ended, and what they took.
    """
    budget, seeds = project.config.budget_gpu_hours, len(project.config.seeds)
    assert budget is not None
    chosen, used = set(), sum(spent.values())
    for training in sorted(order(project, hours, have), key=lambda name: not have.get(name)):
        left = hours.get(training, math.inf) * (seeds - have.get(training, 0))
        if left == 0 or used + left <= budget:
            chosen.add(training)
            used += left
    return chosen
