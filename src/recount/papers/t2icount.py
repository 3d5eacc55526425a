"""What T2ICount's public evidence shows without a GPU: real annotations, real class names, the authors' training log.

``recount evidence t2icount`` makes the first two files (``t2icount_evidence``); the log is ``logs/train.log`` of
cha15yq/T2ICount@289d3fb, one row per epoch.
"""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import pandas as pd
from matplotlib.figure import Figure

from recount.errors import UserError
from recount.metrics import metric as metric_of
from recount.papers.t2icount_evidence import (
    ANNOTATION,
    TRIVIAL,
    UNREAD,
    annotation_rows,
    trivial_rows,
    unread_rows,
)
from recount.report.exhibits import Cell, Context, Exhibit, Line, Sheet
from recount.report.numbers import interval, number, percent, seconds
from recount.report.sources import Sources
from recount.report.style import ALARM, BEHIND, MUTED, SERIES, WIDTH
from recount.settings.paper import Paper

EVIDENCE = {TRIVIAL: trivial_rows, UNREAD: unread_rows, ANNOTATION: annotation_rows}
LOG = "trainlog"
METRICS = ("mae", "rmse")
BLIND = "prompt_blind"
#: table of the paper -> real benchmarks, in the order of their columns
REAL_TABLES: Mapping[str, tuple[str, ...]] = {
    "table1": ("fsc147/test", "fsc147/test_without_1123_7611", "fsc147/val"),
    "table2": ("fsc147s/v1", "fsc147s/v2"),
    "table3": ("carpk/test",),
}
COLUMNS = {
    TRIVIAL: ("dataset", "split", "predictor", "label", "oracle", "metric", "value", "ci_low", "ci_high", "n"),
    UNREAD: ("dataset", "split", "prompts", "unread", "names", "unread_names", "told_apart"),
    LOG: ("epoch", "val_mae", "val_rmse", "test_mae", "test_rmse", "train_seconds", "val_seconds", "test_seconds"),
}
Record = Mapping[Any, Any]  # a row of a table, by column


def read(path: Path) -> pd.DataFrame:
    """Return a file of evidence, with a column ``benchmark`` where it has data set and split."""
    try:
        table = pd.read_csv(path)
    except (OSError, ValueError) as error:
        raise UserError(f"not a readable CSV: {error}") from None
    if absent := [column for column in COLUMNS[path.stem] if column not in table.columns]:
        raise UserError(f"no column {', '.join(absent)}")
    if path.stem == LOG and table[["val_mae", "val_rmse"]].dropna().empty:
        raise UserError("no epoch has a validation error")
    return table.assign(benchmark=table["dataset"] + "/" + table["split"]) if "split" in table else table


def exhibits(context: Context) -> Iterator[Exhibit]:
    """Yield what the real annotation and the authors' training log show."""
    trivial, unread, log = (context.sources.evidence(context.paper, name, read) for name in (TRIVIAL, UNREAD, LOG))
    if trivial is not None or unread is not None:
        yield _real(context, trivial, unread)
    if log is not None:
        yield _train_log(context, log)


def curves(sources: Sources, paper: Paper, metric: str) -> Mapping[str, pd.DataFrame]:
    """Return the validation errors of the training log, whose epochs are counted from 0: columns epoch, value."""
    log = sources.evidence(paper, LOG, read) if metric == "mae" else None
    if log is None:
        return {}
    seen = log.dropna(subset="val_mae")
    return {"authors' run, on val": pd.DataFrame({"epoch": seen["epoch"] + 1, "value": seen["val_mae"]})}


def real_cells(name: str, paper: Paper, trivial: pd.DataFrame, published: pd.DataFrame) -> Sequence[Record]:
    """Return a table of the paper on its real benchmarks: printed numbers among those of trivial predictors.

    ``kind``: published, constant or oracle (uses the answers that it is tested on); ``low``, ``high``: NaN where
    printed; ``source``: where it is printed, or which constant it is.
    """
    here = trivial[trivial["benchmark"].isin(REAL_TABLES[name]) & trivial["metric"].isin(METRICS)]
    here = here.rename(columns={"predictor": "name", "ci_low": "low", "ci_high": "high"})
    labels = here.groupby("name")["label"].agg(lambda texts: texts.iloc[0] if texts.nunique() == 1 else "")
    # The number in a constant's label stays only if it is the same on every benchmark.
    label = here["name"].map(labels).where(lambda texts: texts != "", here["label"].str.split(" (", regex=False).str[0])
    kind = here["oracle"].map({True: "oracle", False: "constant"})
    parts, seen = [here.assign(source=here["label"], text="", kind=kind, label=label)], set()
    for key, words in dict.fromkeys((row.key, row.label or row.key) for row in paper.tables[name].rows):
        mine = published[(published["table"] == name) & (published["row"] == key)]
        mine = mine.assign(text=mine["value"], value=pd.to_numeric(mine["value"], errors="coerce"))
        mine = mine.dropna(subset="value")
        once = repr(sorted(zip(mine["benchmark"], mine["metric"], mine["value"], strict=True)))
        if len(mine) and once not in seen:  # released weights and trained ones share a printed row
            seen.add(once)
            parts.append(mine.assign(name=key, label=words, kind="published"))
    columns = ["name", "label", "kind", "benchmark", "metric", "value", "low", "high", "text", "source"]
    return pd.concat(parts, ignore_index=True)[columns].to_dict("records")


def _real(context: Context, trivial: pd.DataFrame | None, unread: pd.DataFrame | None) -> Exhibit:
    names = [name for name in REAL_TABLES if name in context.paper.tables] if trivial is not None else []
    published = context.sources.published[context.name]
    tables = {name: real_cells(name, context.paper, trivial, published) for name in names if trivial is not None}
    blind = [found for cells in tables.values() for found in prompt_blind(cells)]
    findings = [found for cells in tables.values() for found in below_a_constant(cells)] + blind
    findings += [] if unread is None else list(unread_names(unread))
    sentence = (
        "The published rows of Tables 1 to 3 among predictors that look at no picture, scored on the papers' own "
        "annotation files. These are real numbers in every suite: only counts and class names are needed. Oracles "
        "use the answers that they are tested on. Intervals are 95 % over pictures."
    )
    sheets = tuple(_sheet(context, name, cells, trivial) for name, cells in tables.items() if trivial is not None)
    title = "Computed on the real annotation: what needs no picture"
    glance = f"On the real annotation of {' '.join((blind or findings)[0])}" if findings else ""
    return Exhibit("real", title, sentence, (), sheets, tuple(findings), short="On the real annotation", glance=glance)


def _sheet(context: Context, name: str, cells: Sequence[Record], trivial: pd.DataFrame) -> Sheet:
    columns = [(benchmark, metric) for benchmark in REAL_TABLES[name] for metric in METRICS]
    rows: dict[tuple[str, str], dict[tuple[str, str], Cell]] = {}
    for row in cells:
        ends: tuple[float, float] | None = None if pd.isna(row["low"]) else (row["low"], row["high"])
        shown = Cell(row["value"], row["text"], ends, hint=row["source"])
        rows.setdefault((row["label"], row["kind"]), {})[row["benchmark"], row["metric"]] = shown
    lines = []
    for label, kind in sorted(rows, key=lambda row: [float(rows[row].get(p, Cell("inf")).value or 0) for p in columns]):
        found = [rows[label, kind].get(place, Cell(None)) for place in columns]
        lines.append(Line((label, kind, *found), "quoted" if kind == "published" else "trivial"))
    sizes = trivial.groupby("benchmark")["n"].first()
    without = ("/test_without_1123_7611", "/test without 1123.jpg and 7611.jpg")
    groups = [(f"{b.replace(*without)}, {sizes.get(b, 0)} samples", len(METRICS)) for b in REAL_TABLES[name]]
    heads = ("Row", "Kind", *(metric_of(metric).label for _, metric in columns))
    title = context.paper.tables[name].title
    return Sheet(
        f"{context.name}-real-{name}", title, heads, tuple(lines), groups=(("", 2), *groups), folded=True
    )  # fmt: skip


def _maes(cells: Sequence[Record], benchmark: str, kind: str) -> list[Record]:
    wanted = (benchmark, "mae", kind)
    mine = [cell for cell in cells if (cell["benchmark"], cell["metric"], cell["kind"]) == wanted]
    return sorted(mine, key=lambda cell: cell["value"])


def below_a_constant(cells: Sequence[Record]) -> Iterator[tuple[str, str]]:
    """Yield, for each benchmark, the best constant where not all published systems have a lower MAE."""
    for benchmark in dict.fromkeys(cell["benchmark"] for cell in cells if cell["kind"] == "constant"):
        best, printed = _maes(cells, benchmark, "constant")[0], _maes(cells, benchmark, "published")
        below = sum(cell["value"] < best["value"] for cell in printed)
        if below < len(printed):
            lowest = printed[0]
            yield (
                f"{benchmark}:",
                f"“{best['label']}” has an MAE of {_with_interval(best)}; {below or 'none'} of the {len(printed)} "
                f"published systems {'are' if below > 1 else 'is'} below it. The lowest published is "
                f"{lowest['label']} with {lowest['text']}.",
            )


def prompt_blind(cells: Sequence[Record]) -> Iterator[tuple[str, str]]:
    """Yield the perfect counter that ignores the prompt beside the published systems, for each version of FSC-147-S."""
    for blind in cells:
        if (blind["name"], blind["metric"]) == (BLIND, "mae"):
            above, below = list[str](), list[str]()
            for cell in _maes(cells, blind["benchmark"], "published"):
                (above if cell["value"] >= blind["low"] else below).append(f"{cell['label']} {cell['text']}")
            yield (
                f"{blind['benchmark']}, a perfect counter that ignores the prompt",
                f"has an MAE of {_with_interval(blind)}; published in that interval or above it: "
                f"{', '.join(above) or 'none'}; below it: {', '.join(below) or 'none'}.",
            )


def _with_interval(cell: Record) -> str:
    return f"{number(cell['value'])} ({interval(cell['low'], cell['high'], cell['value'])})"


def unread_names(unread: pd.DataFrame) -> Iterator[tuple[str, str]]:
    """Yield what CLIP-Count's text defect does to the prompts of each test set (see ``t2icount_evidence``)."""
    why = ", because their class name is one token and the text is read two tokens early; longer names lose their last"
    for row in unread[~unread["split"].isin(("train", "val"))].to_dict("records"):
        yield (
            f"{row['benchmark']}, prompts that CLIP-Count as released does not read:",
            f"{row['unread']} of {row['prompts']} ({percent(row['unread'] / row['prompts'])}){why}. Of "
            f"{row['names']} different names {row['told_apart']} are told apart.",
        )
        why = ""  # once


def evaluated(log: pd.DataFrame) -> pd.DataFrame:
    """Return the epochs with a validation, and ``score``: what the released code selects by (MAE + RMSE)."""
    seen = log.dropna(subset=["val_mae", "val_rmse"]).reset_index(drop=True)
    return seen.assign(score=seen["val_mae"] + seen["val_rmse"])


def selected(seen: pd.DataFrame) -> tuple[Record, Record | None]:
    """Return the epoch that the released code picks, and the next best of those whose test error is in the log."""
    ranked = seen.sort_values("score", kind="stable")
    return ranked.to_dict("records")[0], next(iter(ranked[1:].dropna(subset="test_mae").to_dict("records")), None)


def log_findings(log: pd.DataFrame) -> Iterator[tuple[str, str]]:
    """Yield how much validation errors vary over the epochs, and what was chosen."""
    seen = evaluated(log)
    best, runner_up = selected(seen)
    for metric in METRICS:
        values = seen[f"val_{metric}"]
        lowest = seen["epoch"].iloc[int(values.argmin())]
        yield (
            f"Validation {metric_of(metric).label}",
            f"is {values.min():.2f} (epoch {lowest}) to {values.max():.2f} over these epochs, median "
            f"{values.median():.2f}, standard deviation {values.std():.2f}. From one epoch to the next it changes by "
            f"{values.diff().abs().median():.2f} in the median. The selected epoch has {best[f'val_{metric}']:.2f}.",
        )
    choice = f"Lowest validation MAE + RMSE: epoch {best['epoch']} with {best['score']:.2f}"
    choice += f", test {best['test_mae']:g} / {best['test_rmse']:g}." if pd.notna(best["test_mae"]) else "."
    if runner_up is not None:
        score, mae = (percent(runner_up[name] / best[name] - 1, d) for name, d in (("score", 1), ("test_mae", 0)))
        choice += f" Epoch {runner_up['epoch']} was {score} behind by that score, and its test MAE is "
        choice += f"{runner_up['test_mae']:g}, {mae} higher."
    yield "The choice.", choice


def _train_log(context: Context, log: pd.DataFrame) -> Exhibit:
    seen = evaluated(log)
    hours = log[["train_seconds", "val_seconds", "test_seconds"]].sum().sum() / 3600
    caption = (
        "The authors' training log: validation errors of every evaluated epoch; dashed: their median, shaded: one "
        "standard deviation. Circles: epochs that were the best so far and were tested; red: the one selected."
    )
    sentence = (
        f"The released log holds {len(log)} epochs. {len(seen)} of them (from epoch {seen['epoch'][0]} on) have a "
        f"validation. Training took {hours:.1f} hours in all, {seconds(log['train_seconds'].median())} an epoch. "
        f"Computed from papers/{context.name}/evidence/{LOG}.csv."
    )
    plot, short = context.plot(_validation_noise(seen), "trainlog", caption), "What the training log shows"
    title = "What the authors' training log shows"
    return Exhibit("trainlog", title, sentence, (plot,), findings=tuple(log_findings(log)), short=short)


def _validation_noise(seen: pd.DataFrame) -> Figure:
    figure, axes = plt.subplots(2, 1, figsize=(WIDTH, 4.4), sharex=True, layout="constrained")
    tested = seen.dropna(subset="test_mae").to_dict("records")
    for ax, metric in zip(axes, METRICS, strict=True):
        values = seen[f"val_{metric}"]
        middle, spread = values.median(), values.std()
        ax.axhspan(middle - spread, middle + spread, color=BEHIND, alpha=0.25, linewidth=0)
        ax.axhline(middle, color=MUTED, linewidth=1, linestyle=(0, (5, 3)))
        ax.plot(seen["epoch"], values, color=MUTED, linewidth=1.3, marker="o", markersize=2.6)
        for row in tested:
            place = row["epoch"], row[f"val_{metric}"]
            colour = ALARM if row["epoch"] == selected(seen)[0]["epoch"] else SERIES[0]
            ax.plot(*place, marker="o", markersize=8, markerfacecolor="none", color=colour, markeredgewidth=1.8)
            text = f"test {row[f'test_{metric}']:g}"
            ax.annotate(text, place, xytext=(8, -4), textcoords="offset points", fontsize=8.5, color=colour)
        ax.set_ylabel(f"validation {metric.upper()}")
        ax.grid(axis="y", linewidth=0.6)
    axes[1].set_xlabel("epoch, counted from 0 as in the log")
    return figure
