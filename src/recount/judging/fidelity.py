"""Whether a released file gives the printed number: printed, measured, accepted band, pass or fail.

A check of file, data and code, never a claim about a recipe: a file is one training. The band is the row's own
(``band`` in paper.yaml, from what third parties measured), else one per cent of the printed number.
"""

from collections.abc import Iterator

from recount.results.published import read_published
from recount.results.reason import Missing, Reason
from recount.results.verdicts import FidelityRow
from recount.scoring.measured import Measurements

BAND_SHARE = 0.01


def fidelity(measurements: Measurements) -> Iterator[FidelityRow]:
    """Yield a row for each printed number of each row of released weights."""
    project = measurements.project
    for name, paper in project.papers.items():
        lines = read_published(paper.folder)
        for key, table in paper.tables.items():
            for row in table.rows:
                if not row.run or not project.experiments[row.system].variants[row.variant].checkpoint:
                    continue
                for line in lines:
                    if (line.table, line.row) == (key, row.key) and line.metric in table.metrics:
                        printed = float(line.value)
                        bare = FidelityRow(name, key, row.label, row.run, line.benchmark, line.metric, printed)
                        yield _held(bare, measurements, row.band or BAND_SHARE * printed)


def _held(row: FidelityRow, measurements: Measurements, band: float) -> FidelityRow:
    system, _, variant = row.arm.partition("/")
    runs = measurements.runs.get((system, variant))

    def filled(passed: str, reason: Reason, measured: float = float("nan")) -> FidelityRow:
        where = (row.paper, row.table, row.row, row.arm, row.benchmark, row.metric, row.printed)
        return FidelityRow(*where, measured, band, passed, reason)

    try:
        if not runs:
            raise Missing("skipped", measurements.project.not_run(system, variant))
        if not measurements.project.suite.comparable:
            raise Missing("no counterpart", f"suite {measurements.project.suite.name} has other pictures")
        found = measurements.measured(runs[0].id, row.benchmark, row.metric).get("last")
        if found is None or not found.reason.is_note:
            raise Missing("undefined", found.reason.text if found else "it has no predictions")
    except Missing as missing:
        return filled("not tested", missing.reason)
    near = abs(found.interval.value - row.printed) <= band
    return filled("pass" if near else "fail", found.reason, found.interval.value)
