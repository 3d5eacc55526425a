"""Provenance as the report shows it: what all runs share is said once, what differs stands per run; health of data."""

from collections.abc import Iterable, Sequence

from recount.data.checks import TOLD_OUTSIDE
from recount.metrics import metric
from recount.reference import Agreement
from recount.report.exhibits import Cell, Line, Sheet
from recount.report.numbers import percent, seconds
from recount.report.sources import ReportedRun, Sources
from recount.results.prepared import Summary
from recount.results.run_record import RunRecord
from recount.settings.drift import flat

_HEALTH = (
    ("Data set", "and how it is prepared"),
    ("Pictures", ""),
    ("Points", "before the preparation dropped or merged any"),
    ("Outside", "share of the points that lie outside their picture"),
    ("Coincident", "points at the place of another one"),
    ("Count ≠ points", "samples whose count is not the number of their points"),
    ("Repaired", "pictures that lack their end, which is filled with grey"),
    ("Rotated", "pictures with an EXIF orientation, which is not applied"),
    ("Transparent", "pictures that are laid on white"),
    ("Grey", "pictures with one channel"),
    ("Accepted because", "why so many points may lie outside, where somebody had to say it"),
)


def health(summaries: Iterable[Summary]) -> Sheet:
    """Return the table of what is odd about each prepared data set."""
    lines = []
    for summary in summaries:
        whole, pictures = summary.whole, summary.pictures
        share = whole.share_outside if whole.points else None
        alarm = bool(share and share > TOLD_OUTSIDE)
        outside = Cell(share, percent(share, 2), below=f"{whole.points_outside} points" if alarm else "", alarm=alarm)
        cells: list[Cell | str | int] = [f"{summary.dataset}/{summary.preparation}", pictures.number, whole.points]
        cells += [outside, whole.points_coincident, whole.counts_that_are_not_points]
        odd = (pictures.repaired, pictures.with_unapplied_exif_orientation, pictures.transparent)
        lines.append(Line((*cells, *map(len, odd), pictures.grey, summary.accepted)))
    return Sheet("data_health", "Health of the data", tuple(head for head, _ in _HEALTH), tuple(lines), hints=_HEALTH)


def differing_cells(found: Agreement) -> Sheet:
    """Return the table of cells that differ from the reference run, those that do so most clearly first."""
    heads = ("Run", "On", "Weights", "Metric", "Here", "Reference", "q")
    lines = [
        Line((f"{c.system}/{c.variant}", c.dataset, c.selection.replace("_", " "), metric(c.metric).label, c.here,
              Cell(c.reference, f"{c.reference:.4g} ± {c.sd:.2g}"), Cell(c.q_value, f"{c.q_value:.2g}")))
        for c in found.outcomes.get("differs", [])
    ]  # fmt: skip
    return Sheet("differs_from_reference", "Differs from the reference run", heads, tuple(lines))


def hands(sources: Sources) -> Sheet:
    """Return the table of who ran what on which card, of results that several people share; without lines elsewhere."""
    grouped: dict[tuple[str, str, str], list[ReportedRun]] = {}
    whose = sources.hands.runs
    for run in (run for run in sources.runs if run.record and whose):
        record, hand = run.record, whose.get(f"{run.system}/{run.variant}/seed{run.seed}")
        assert record is not None
        who, source = (hand.who, hand.source) if hand else ("whoever wrote this report", "")
        grouped.setdefault((who, source, record.computed_on), []).append(run)
    lines = []
    for (who, source, card), runs in grouped.items():
        seeds = dict[str, list[str]]()
        for run in runs:
            seeds.setdefault(f"{run.system}/{run.variant}", []).append(str(run.seed))
        took = sum(run.record.cost.wall_seconds or 0.0 for run in runs if run.record)
        which = "; ".join(f"{name} {' '.join(has)}" for name, has in seeds.items())
        lines.append(Line((who, card, len(runs), Cell(took, seconds(took)), which, source)))
    return Sheet(
        "hands", "Who ran what", ("Who", "On", "Trainings", "Took", "Which, with seeds", "Came in"), tuple(lines)
    )


def _made_with(record: RunRecord) -> dict[str, str]:
    computed = {"precision": record.precision_used, "determinism": record.determinism_used, **record.feeding}
    return flat({name: value for name, value in computed.items() if value != ""}) | flat(
        record.provenance.model_dump(exclude_unset=True)
    )


def shared_and_differing(
    runs: Sequence[ReportedRun],
) -> tuple[dict[str, str], list[str], list[tuple[str, dict[str, str]]]]:
    """Return what all runs share, the keys that differ or are not everywhere, and (run, its values of those keys)."""
    tables = [(f"{run.system}/{run.variant}/seed{run.seed}", _made_with(run.record)) for run in runs if run.record]
    keys = list(dict.fromkeys(key for _, table in tables for key in table))
    shared = {key: tables[0][1][key] for key in keys if len({table.get(key) for _, table in tables}) == 1}
    differing = [key for key in keys if key not in shared]
    return shared, differing, [(name, {key: table.get(key, "") for key in differing}) for name, table in tables]
