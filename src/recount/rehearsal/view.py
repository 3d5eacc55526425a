"""A rehearsal as a table that is read at 80 columns and in a pipe, with what it told below."""

from collections.abc import Sequence
from statistics import mean

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from recount.results.rehearsals import Rehearsed


def show(found: Sequence[Rehearsed], console: Console) -> None:
    """Print the rows, and what does not fit, is absent or failed."""
    right = ("s/step", "waits", "MB", "parts", "state MB", "s/image")
    table = Table("System", title="Rehearsal", padding=(0, 1, 0, 0), show_edge=False)
    for name in right:
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("resumed")
    for row in found:
        memory = row.peak_memory_mb if row.peak_gpu_memory_mb is None else row.peak_gpu_memory_mb
        seconds = None if row.seconds_per_step is None else _number(row.seconds_per_step)
        waits = None if row.waiting is None else f"{row.waiting:.0%}"
        images = _number(mean(row.seconds_per_image.values())) if row.seconds_per_image else None
        cells = (seconds, waits, _mb(memory), str(row.parts), _mb(row.state_mb), images)
        told = "FAILED" if row.error else row.resumed.partition(":")[0]
        table.add_row(row.run.rpartition("/")[0].replace("/", "/\u200b"), *(cell or "–" for cell in cells), told)
    console.print(table)
    for line in _notes(found):
        console.print(line, highlight=False, soft_wrap=True)


def _notes(found: Sequence[Rehearsed]) -> list[str]:
    done = [row for row in found if not row.error]
    lines = [f"[bold red]{row.run}[/]: {escape(row.error)}" for row in found if row.error]
    lines += [f"[bold]{row.run}[/]: {escape(text)}" for row in found for text in row.told]
    cut = [f"{row.run} {row.batch_taken} of {row.batch}" for row in done if row.batch_taken < row.batch]
    if cut:
        lines.append(f"Steps of fewer samples than the recipe's, s/step scaled to all of them: {', '.join(cut)}")
    if small := {row.cut_to: row.run for row in done if row.cut_to and row.seconds_per_image}:
        sides = " and ".join(f"{side} x {side}" for side in small)
        lines.append(f"Pictures were predicted from at most {sides} pixels; s/image is scaled to all of them, by area")
    drawn = [row.run for row in done if row.data == "generated"]
    if drawn:
        lines.append(f"Trained on drawn scenes, because the training set is not prepared here: {', '.join(drawn)}")
    random = [row.run for row in done if row.weights == "random"]
    if random:
        lines.append(f"With random base weights: {', '.join(random)}")
    absent = sorted({name for row in done for name in row.absent})
    if absent:
        lines.append(f"Benchmarks whose pictures are not prepared here (drawn ones stood in): {', '.join(absent)}")
    return lines


def _number(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def _mb(value: float | None) -> str | None:
    return None if value is None else f"{value:,.0f}" if value >= 10 else f"{value:.2g}"
