"""Three findings about a paper, a sentence each, chosen and worded by rule from its results.

The rule (``RULE``, which the front page prints): first, what the published record shows by itself; second, how the best
of the paper's own rows in its first table with measured scores did, against the best constant and the best other
system; third, whether its systems read their prompts where that was tested, else what choosing the epoch on the test
images gains, else which way its claims point. Where one has nothing to say, the next of these takes its place.
"""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice

import pandas as pd

from recount.metrics import metric as metric_of
from recount.report.claims import VERDICTS, ClaimView
from recount.report.exhibits import Context, Exhibit
from recount.report.numbers import in_a_sentence, percent
from recount.report.sections import SelectionRow
from recount.report.tables import RUN_HERE, RowView, TableView
from recount.report.words import said

RULE = said("findings_rule")
FINDINGS = 3
FLAG = " ⚑"


@dataclass(frozen=True)
class Finding:
    """A sentence, and the anchor of what it was made from."""

    text: str
    anchor: str


def findings(
    context: Context, exhibits: Sequence[Exhibit], judged: Sequence[ClaimView], selections: Sequence[SelectionRow]
) -> list[Finding]:
    """Return the first three of the paper's findings, in the order of the rule."""
    name = context.name
    stated = [Finding(exhibit.glance, f"{name}-{exhibit.id}") for exhibit in exhibits if exhibit.glance]
    record = [found for found in stated if not found.anchor.endswith("-prompts")]
    read = [found for found in stated if found.anchor.endswith("-prompts")]
    found = [*(record or list(_audited(context, judged)))[:1], *islice(_own(context), 1)]
    found += [*read, *_gain(context, selections), *_direction(context, judged)]
    return found[:FINDINGS]


def _audited(context: Context, judged: Sequence[ClaimView]) -> Iterator[Finding]:
    looks = Counter(claim.audit.look for claim in judged if claim.audit is not None)
    if looks:
        counted = ", ".join(f"{looks[word]} {word}" for word in VERDICTS if looks[word])
        text = f"Its printed numbers, read again, bear on {looks.total()} of its claims: {counted}."
        yield Finding(text, f"{context.name}-claims")


def _own(context: Context) -> Iterator[Finding]:
    for table in context.tables:
        measured = [row for row in table.rows if row.cells and row.cells[0].status in RUN_HERE and _known(row)]
        own = [row for row in measured if row.system == context.name and not row.beside]
        if measured and metric_of(table.columns[0].metric).scored:
            yield Finding(_against(table, measured, own), table.id)


def _known(row: RowView) -> bool:
    return row.cells[0].value is not None


def _against(table: TableView, measured: Sequence[RowView], own: Sequence[RowView]) -> str:
    column, shown = table.columns[0], metric_of(table.columns[0].metric)
    best = min(measured, key=_wrong)
    row = min(own, key=_wrong) if own else best
    cell, unit = row.cells[0], " %" if shown.is_share else ""
    marked = FLAG if cell.selection == "best_on_test" else ""
    which = f", best of its {len(own)} rows," if len(own) > 1 else ""
    text = f"On {column.used}, {row.label}{which} has {_a(shown.label)} of {column.shown(cell.value)}{unit}{marked}"
    if column.constant is not None and cell.of_constant is not None:
        constant = f"{column.constant_label}, {column.shown(column.constant)}{unit}"
        if cell.of_constant >= 1:
            text += f", no better than the best constant ({constant})"
        elif shown.is_share:
            text += f"; the best constant ({column.constant_label}) has {column.shown(column.constant)}{unit}"
        else:
            text += f", {percent(1 - cell.of_constant)} below the best constant ({constant})"
    others = len(measured) - 1
    if row is best:
        return f"{text}: the {shown.best} of {len(measured)} rows measured." if others else f"{text}."
    return (
        f"{text}; the {shown.best} of {len(measured)} rows is {column.shown(best.cells[0].value)}{unit} ({best.label})."
    )


def _wrong(row: RowView) -> float:
    cell = row.cells[0]
    return metric_of(cell.column.metric).wrong(cell.value or 0.0)


def _a(label: str) -> str:
    word = in_a_sentence(label)
    return f"{'an' if word[0] in 'aeiouMRNFS' else 'a'} {word}"


def gained(gains: "pd.Series[float]") -> str:
    """Return in words by how much each variant looks better; a median that rounds to nothing is not said."""
    most, none = percent(gains.max(), 1), int((gains.round(3) <= 0).sum())
    if len(gains) == 1:
        return f"{most}, of the one variant that shows it"
    if round(gains.median(), 3) <= 0:
        return f"{most} at most, and in {none} of {len(gains)} variants by nothing"
    return f"{percent(gains.median(), 1)} in the median over {len(gains)} variants, by {most} at most"


def _gain(context: Context, selections: Sequence[SelectionRow]) -> Iterator[Finding]:
    """Yield how much better a metric looks when the epoch is chosen on the test images."""
    gains = pd.Series([row.relative for row in selections], dtype=float).dropna()
    if len(gains) and round(gains.max(), 3) > 0:
        shown, places = metric_of(selections[0].metric), ", ".join(dict.fromkeys(row.used for row in selections))
        does = "raises" if shown.best == "highest" else "lowers"
        what = f"{does} the {in_a_sentence(shown.label)} on {places}"
        text = f"Choosing the epoch on the test images {what} by {gained(gains)}."
        yield Finding(text, f"{context.name}-selection")


def _direction(context: Context, judged: Sequence[ClaimView]) -> Iterator[Finding]:
    looks = Counter(claim.headlines["trained"].look for claim in judged if "trained" in claim.headlines)
    if looks.total() > looks["not tested"]:
        counted = ", ".join(f"{looks[word]} {word}" for word in VERDICTS if looks[word])
        yield Finding(f"Of {looks.total()} claims trained again: {counted}.", f"{context.name}-claims")
