"""Whether a released file gives the printed number: printed, measured, accepted band, pass or fail, seconds.

A check of file, data and code, never a claim about a recipe: a file is one training. A file is held against what its
publisher states of it (``judge`` in ``fetching/weights.yaml``), which need not be what the paper printed; one that
recount has no address of against what the paper printed of its row. The band is that of ``judge``, from what third
parties measured, else one per cent of the printed number.
"""

from collections.abc import Iterator
from dataclasses import replace

from recount.fetching.weights import WEIGHTS
from recount.results.published import read_published
from recount.results.reason import Missing
from recount.results.verdicts import FidelityRow
from recount.scoring.measured import Measurements
from recount.settings.project import Project

BAND_SHARE = 0.01


def fidelity(measurements: Measurements) -> Iterator[FidelityRow]:
    """Yield a row for each number that a file of released weights in some table is held against."""
    for row in dict.fromkeys(_expected(measurements.project)):
        yield _held(row, measurements)


def _expected(project: Project) -> Iterator[FidelityRow]:
    for paper in project.papers.values():
        lines = read_published(paper.folder)
        for key, table in paper.tables.items():
            for row in table.rows:
                name = project.experiments[row.system].variants[row.variant].checkpoint if row.run else None
                if name is None or row.run is None:
                    continue
                stated = WEIGHTS[name].judge if name in WEIGHTS else ()
                for number in stated:
                    if number.run in ("", row.run):
                        for metric, value, band in (("mae", number.mae, number.band), ("rmse", number.rmse, None)):
                            if value is not None:
                                yield _bare(name, row.run, number.on, metric, value, number.source, band)
                for line in () if stated else lines:
                    if (line.table, line.row) == (key, row.key) and line.metric in table.metrics:
                        yield _bare(name, row.run, line.benchmark, line.metric, float(line.value), line.source)


def _bare(
    weights: str, arm: str, benchmark: str, metric: str, printed: float, source: str, band: float | None = None
) -> FidelityRow:
    return FidelityRow(weights, arm, benchmark, metric, printed, source, band=band or BAND_SHARE * printed)


def _held(row: FidelityRow, measurements: Measurements) -> FidelityRow:
    system, _, variant = row.arm.partition("/")
    project, runs = measurements.project, measurements.runs.get((system, variant))
    try:
        if not runs:
            raise Missing("skipped", project.not_run(system, variant))
        if not project.suite.comparable:
            raise Missing("no counterpart", f"suite {project.suite.name} has other pictures")
        if row.benchmark not in runs[0].benchmarks:
            no_data = project.why_no_data(row.benchmark)
            raise Missing("no counterpart", no_data or f"{row.arm} is not evaluated on {row.benchmark}")
        found = measurements.measured(runs[0].id, row.benchmark, row.metric).get("last")
        if found is None or not found.reason.is_note:
            raise Missing("undefined", found.reason.text if found else "it has no predictions")
    except Missing as missing:
        return replace(row, passed="not tested", reason=missing.reason)
    times = measurements.predicted(runs[0].id, row.benchmark)[1].selections
    value, seconds = found.interval.value, times["last"].seconds if "last" in times else row.seconds
    passed = "pass" if abs(value - row.printed) <= row.band else "fail"
    return replace(row, measured=value, passed=passed, seconds=seconds, reason=found.reason)
