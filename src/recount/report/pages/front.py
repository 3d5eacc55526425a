"""The front page: what this is, three findings a paper, its claims at a glance, what was run and what was not, cost."""

from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any

from recount.report.claims import VERDICTS, ClaimView
from recount.report.numbers import megabytes, seconds
from recount.report.pages.findings import RULE
from recount.report.pages.paper import PaperView, address
from recount.report.pages.site import Page
from recount.report.sources import Sources
from recount.report.tables import STATUSES, status_counts

MOST_REASONS = 4  # for what was not run; the rest is one line


def front_page(sources: Sources, views: Sequence[PaperView]) -> Page:
    """Return the front page; reasons why something was not run are those of the settings."""
    judged = [claim for view in views for claim in view.claims]
    looks = {found.look for claim in judged for found in claim.counted.values() if claim.claim.whose == "paper"}
    counts = status_counts(table.view for view in views for table in view.tables)
    content = {
        "papers": views,
        "claimed": {view.name: list(_claimed(view)) for view in views},
        "legend": {word: VERDICTS[word] for word in VERDICTS if word in looks},
        "apart": _apart(judged),
        "rule": RULE,
        "run": list(_run(sources)),
        "not_run": list(_not_run(sources)),
        "cost": list(_cost(sources)),
        "counts": {status: (times, *STATUSES.get(status, ("◐", ""))) for status, times in counts.items()},
        "address": address,
        "agreement": sources.agreement,
    }
    return Page("index.html", "Summary", "front.html.j2", ("summary", "top"), (), content, searchable=False)


def _claimed(view: PaperView) -> Iterator[tuple[ClaimView, str, Any]]:
    """Yield the paper's own claims with the verdict of the trainings, and that of released weights that were tested."""
    for claim in view.claims:
        for kind, found in claim.counted.items() if claim.claim.whose == "paper" else ():
            if kind == "trained" or found.look != "not tested":
                yield claim, kind, found


def _apart(judged: Sequence[ClaimView]) -> dict[str, str]:
    """Return what is not the papers' claims counted again: recount's own claims, and the audit of printed numbers."""
    own = Counter(f.look for claim in judged if claim.claim.whose == "recount" for f in claim.counted.values())
    audit = Counter(claim.audit.look for claim in judged if claim.audit is not None)
    named = (("recount's own claims", own), ("printed numbers, audited", audit))
    return {
        what: ", ".join(f"{looks[word]} {word}" for word in VERDICTS if looks[word]) for what, looks in named if looks
    }


def _run(sources: Sources) -> Iterator[str]:
    """Yield what was trained and evaluated."""
    runs, seeds = sources.runs, sources.project.config.seeds
    if runs:
        variants = len({run.key for run in runs})
        planned = len(sources.project.trainings)
        yield (
            f"{len(runs)} of {planned} planned trainings are there, of {variants} systems and variants, "
            f"seed{'s' if len(seeds) > 1 else ''} {', '.join(map(str, seeds))}."
        )
    hands = Counter(hand.who for hand in sources.hands.runs.values())
    if hands:
        yield f"Trained by {', '.join(f'{who} ({number})' for who, number in hands.items())}."
    places = []
    for place in sources.places():
        number = len(sources.counts(place.dataset, place.preparation, place.split))
        places.append(f"{place} ({number} pictures)")
    if places:
        yield f"Evaluated on {', '.join(dict.fromkeys(places))}."


def _not_run(sources: Sources) -> Iterator[str]:
    """Yield why variants of the papers' rows were not run, with how many each reason holds for."""
    project, why = sources.project, dict[str, set[str]]()
    for paper in project.papers.values():
        for run in paper.runs:
            system, _, variant = run.partition("/")
            if reason := project.not_run(system, variant):
                why.setdefault(reason, set()).add(run)
        for row in paper.quoted.values():
            why.setdefault("quoted only", set()).add(row.system)
    ordered = sorted(why.items(), key=lambda entry: -len(entry[1]))
    for reason, runs in ordered[:MOST_REASONS]:
        yield f"{len(runs)}: {reason}"
    if rest := ordered[MOST_REASONS:]:
        yield f"{sum(len(runs) for _, runs in rest)}: for {len(rest)} further reasons, which stand in the tables"


def _cost(sources: Sources) -> Iterator[str]:
    """Yield what the trainings and predictions took, summed over the runs that say it."""
    costs = [run.record.cost for run in sources.runs if run.record]
    wall = [cost.wall_seconds for cost in costs if cost.wall_seconds is not None]
    cards = [cost.gpu_seconds for cost in costs if cost.gpu_seconds]
    memory = [cost.peak_memory_mb for cost in costs if cost.peak_memory_mb is not None]
    if wall:
        longest = f", the longest {seconds(max(wall))}" if len(wall) > 1 else ""
        on_gpu = f", {seconds(sum(cards))} of GPU time" if cards else "; no run used a GPU"
        yield f"Training took {seconds(sum(wall))} in all, one run after another{longest}{on_gpu}."
    if memory:
        yield f"The largest run needed {megabytes(max(memory))} of memory."
    read = [entry.seconds for _, _, _, timing in sources.predicted for entry in timing.selections.values()]
    if read:
        yield f"Prediction took {seconds(sum(read))}."
