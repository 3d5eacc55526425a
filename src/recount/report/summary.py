"""What a reader should know first, as sentences; each is computed."""

from collections.abc import Iterator, Sequence

import pandas as pd

from recount.metrics import metric as metric_of
from recount.report.numbers import in_a_sentence, number, percent
from recount.report.sections import HEAVY, Influential, SelectionRow
from recount.report.tables import RUN_HERE, TableView


def findings(
    tables: Sequence[TableView], selections: Sequence[SelectionRow], heavy: Sequence[Influential]
) -> Iterator[str]:
    """Yield what all papers' tables show together."""
    # by each table's first metric; a row may stand in several tables
    trained = {
        (row.system, row.variant): row
        for table in tables
        for row in table.rows
        if row.cells and row.cells[0].status in RUN_HERE and row.cells[0].column.constant
    }
    if nothing := [row.label for row in trained.values() if row.cells[0].learned_nothing]:
        names = ", ".join(nothing)
        yield f"{len(nothing)} of {len(trained)} systems and variants do no better than the best constant: {names}."
    elif trained:
        yield f"All {len(trained)} systems and variants do better than the best constant predictor."
    for table in tables[:1]:
        yield from _against_training_mean(table)
    yield from _gains(selections)
    shares = [(f"{image.id} ({label}", image.share_of_squared_error) for label, image in heavy]
    if alone := [f"{words}, {percent(share)})" for words, share in shares if share > HEAVY]:
        yield f"A single image carries more than half of a squared error: {', '.join(dict.fromkeys(alone))}."


def _gains(selections: Sequence[SelectionRow]) -> Iterator[str]:
    for name in dict.fromkeys(row.metric for row in selections):
        gains = pd.Series([row.relative for row in selections if row.metric == name], dtype=float).dropna()
        shown = metric_of(name)
        does = "raises" if shown.best == "highest" else "lowers"
        if len(gains):
            yield (
                f"Choosing the epoch on the test images {does} the {in_a_sentence(shown.label)} by "
                f"{percent(gains.median(), 1)} in the median over {len(gains)} variants, by {percent(gains.max(), 1)} "
                "at most."
            )


def _against_training_mean(table: TableView) -> Iterator[str]:
    means = [row.cells[0].value for row in table.rows if row.status == "trivial" and "training mean" in row.label]
    trained = [(row.label, row.cells[0].value) for row in table.rows if row.status in RUN_HERE]
    if means and means[0] is not None and trained:
        behind = [label for label, value in trained if value is not None and value >= means[0]]
        label = in_a_sentence(metric_of(table.columns[0].metric).label)
        but = f"; {', '.join(behind)} {'have' if len(behind) > 1 else 'has'} not" if behind else ""
        yield (
            f"{len(trained) - len(behind)} of the {len(trained)} systems run in {table.short_title} have a lower "
            f"{label} than the training mean ({number(means[0])}){but}."
        )


def best_rows(tables: Sequence[TableView]) -> Iterator[str]:
    """Yield, for each table of scores, which row is best, and by how much it beats the best constant."""
    for table in tables:
        first = [(row.cells[0].of_constant, row) for row in table.rows if row.cells and row.cells[0].status in RUN_HERE]
        if not (ranked := [(share, row) for share, row in first if share is not None]):
            continue
        share, row = min(ranked, key=lambda entry: entry[0])
        column, cell, name = table.columns[0], row.cells[0], table.short_title
        shown = metric_of(column.metric)
        if share >= 1:
            yield f"{name}: no row is better than the best constant."
            continue
        against = f"{percent(1 - share)} below the best constant"
        if shown.best == "highest":
            against = f"against {number(column.constant)} of the best constant"
        label = in_a_sentence(shown.label)
        yield f"{name}: the {shown.best} {label} measured is {number(cell.value)} ({row.label}), {against}."
