"""What GigaCount's published log shows, computed from ``papers/gigacount/evidence/evallog.csv`` and ``published.csv``.

The log is ``eval_log.txt`` of AdamHermes/GigaCount@d57191e, parsed line by line. Only the names of runs are given here.
"""

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from itertools import combinations
from pathlib import Path

import matplotlib.pyplot as plt
import pandas as pd
from matplotlib.figure import Figure

from recount.judging import published_log as logs
from recount.judging.published_log import Found, LoggedRun, restarts, schedule_starts
from recount.metrics import metric as metric_of
from recount.report.exhibits import Cell, Context, Exhibit, Line, Sheet
from recount.report.figures import plain_log
from recount.report.numbers import signed
from recount.report.sources import Sources
from recount.report.style import ALARM, PAPER, SERIES, WIDTH
from recount.settings.paper import Paper

LOG = "evallog"
RUN_NAMES = {26: "N", 218: "A", 778: "S", 1141: "B"}  # first line in the log -> name in the notes of published.csv
CURVES = 2  # logged runs drawn behind ours: the longest named ones


@dataclass(frozen=True)
class _LoggedRow:
    table: str
    label: str
    mae: float
    rmse: float
    found: Found | None  # where the printed numbers stand in the log; None: nowhere

    @property
    def run(self) -> str:
        return "" if self.found is None else RUN_NAMES.get(self.found.run.lines[0], f"no. {self.found.run.number}")


@dataclass(frozen=True)
class Log:
    """The log's runs, and the rows of GigaCount itself that print MAE and RMSE."""

    runs: list[LoggedRun]
    rows: list[_LoggedRow]

    @cached_property
    def named(self) -> dict[str, LoggedRun]:
        """Return the runs that have a name."""
        return {RUN_NAMES[run.lines[0]]: run for run in self.runs if run.lines[0] in RUN_NAMES}

    @property
    def ablations(self) -> list[tuple[_LoggedRow, Found]]:
        """Return the rows whose label states a number of epochs, with their place in the log."""
        return [(row, row.found) for row in self.rows if row.found is not None and row.found.horizon is not None]

    @property
    def headline(self) -> _LoggedRow | None:
        """Return the row whose numbers the log does not hold."""
        return next((row for row in self.rows if row.found is None), None)


def read(path: Path, paper: Paper, published: pd.DataFrame) -> Log:
    """Read the log and look up the printed rows; "(N epochs)" in a label is the horizon. Raises ``UserError``."""
    runs = logs.logged_runs(logs.read_log(path))
    rows = []
    for key, table in paper.tables.items():
        for row in table.rows:
            values = published[(published["table"] == key) & (published["row"] == row.key)]
            printed = dict(zip(values["metric"], values["value"], strict=True))
            if row.system.startswith("gigacount") and {"mae", "rmse"} <= printed.keys():
                pair = float(printed["mae"]), float(printed["rmse"])
                found = logs.find_pair(runs, *pair, logs.stated_epochs(row.label))
                rows.append(_LoggedRow(key, row.label, *pair, found))
    return Log(runs, rows)


def _log(sources: Sources, paper: Paper) -> Log | None:
    return sources.evidence(paper, LOG, lambda path: read(path, paper, sources.published[paper.name]))


def curves(sources: Sources, paper: Paper, metric: str) -> Mapping[str, pd.DataFrame]:
    """Return the longest named runs of the log, evaluated on the test images: columns epoch, value."""
    log = _log(sources, paper) if metric == "mae" else None
    longest = sorted(log.named.items(), key=lambda item: -item[1].epochs)[:CURVES] if log else []
    return {
        f"authors' run {name}, {run.epochs} epochs": run.evaluations.rename(columns={"mae": "value"})
        for name, run in longest
    }


def exhibits(context: Context) -> Iterator[Exhibit]:
    """Yield what the log shows."""
    if (log := _log(context.sources, context.paper)) is None:
        return
    caption = (
        "The authors' evaluation log: MAE on the test images and learning rate of the runs that printed numbers come "
        "from. Circles: the evaluations that became rows of Table 3."
    )
    evaluations = sum(len(run.evaluations) for run in log.runs)
    published = context.sources.published[context.name]
    yield Exhibit(
        id="log",
        title="What the published log shows",
        sentence=(
            f"The authors committed the log of their training runs: {evaluations} evaluations in {len(log.runs)} runs, "
            f"all of them on the test images. Everything below is computed from it (papers/{context.name}/evidence/"
            f"{LOG}.csv) and from the printed tables."
        ),
        figures=(context.plot(figure(log), "published-log", caption),),
        tables=(_row_sheet(context.name, log), _rate_sheet(context.name, log)),
        findings=tuple(findings(log, published, {name: entry.label for name, entry in context.experiments.items()})),
        glance=_glance(log),
    )


def _pair(mae: float, rmse: float) -> str:
    return f"{mae:.2f} / {rmse:.2f}"


def _glance(log: Log) -> str:
    best, row = logs.best_run(log.runs).best(), log.headline
    if row is None or best is None:
        return ""
    return (
        f"The printed {row.mae:g} / {row.rmse:.1f} (MAE / RMSE) is not in the authors' own log; the best pair there is "
        f"{best['mae']:g} / {best['rmse']:g}."
    )


def _row_sheet(paper: str, log: Log) -> Sheet:
    heads = ("Row", "Printed MAE", "Printed RMSE", "Line of the log", "Run", "Epoch", "What it is",
             "MAE at the stated epoch", "RMSE at the stated epoch", "Selection took off")  # fmt: skip
    lines = []
    for row, found in log.ablations:
        what = ("lowest test MAE" if found.is_best else "not the lowest") + f" up to epoch {found.horizon}"
        at = found.at_horizon or (math.nan, math.nan)
        errors = [Cell(value, f"{value:g}") for value in (row.mae, row.rmse, *at)]
        place = found.line, row.run, found.epoch, what
        lines.append(Line((row.label, *errors[:2], *place, *errors[2:], at[0] - row.mae)))
    title = "Where the rows of the tables come from (all chosen on the test images ⚑)"
    return Sheet(f"{paper}-log", title, heads, tuple(lines))


def _rate_sheet(paper: str, log: Log) -> Sheet:
    heads = ("Run", "First line", "Last line", "Epochs", "Best MAE", "Its RMSE", "Its epoch",
             "Warm-ups: epoch (first rate → highest)", "Jumps without warm-up after epoch")  # fmt: skip
    lines = []
    for name, run in log.named.items():
        best = run.best()
        starts = ", ".join(f"{s.epoch} ({s.initial:.0e} → {s.highest:g})" for s in schedule_starts(run))
        jumps = ", ".join(map(str, restarts(run))) or "–"
        pair = (None, None, None) if best is None else (float(best["mae"]), float(best["rmse"]), int(best["epoch"]))
        lines.append(Line((name, *run.lines, run.epochs, *pair, starts, jumps)))
    return Sheet(f"{paper}-rates", "The learning rate of the named runs", heads, tuple(lines), folded=True)


def findings(log: Log, published: pd.DataFrame, labels: Mapping[str, str]) -> Iterator[tuple[str, str]]:
    """Yield what the log and the printed numbers show."""
    if log.headline is not None:
        yield "The headline is not in the log.", _of_headline(log, log.headline)
    by_run: dict[str, list[str]] = {}
    for row, _ in log.ablations:
        by_run.setdefault(row.run, []).append(row.label)
    shared = {run: labels for run, labels in by_run.items() if len(labels) > 1}
    more = " Two ablations that share both runs cannot be told apart: what differs between the runs differs in both."
    more = more if len(shared) > 1 else ""
    for place, (run, rows) in enumerate(shared.items()):
        yield "One run, several rows.", f"{'; '.join(rows)}: all are read off run {run}.{more if place == 0 else ''}"
    yield from _of_pairs(log)
    yield from _of_scheduler(log)
    horizon = min((found.horizon or 0 for _, found in log.ablations), default=0)
    bests = [(name, run.best(horizon)) for name, run in log.named.items()]
    listed = ", ".join(f"run {name} {best['mae']:.2f}" for name, best in bests if best is not None)
    if listed:
        yield f"Other runs at the same {horizon} epochs.", f"Lowest test MAE up to epoch {horizon}: {listed}."
    yield from conflicts(published, labels)


def _of_headline(log: Log, row: _LoggedRow) -> str:
    known = [name for name, value in (("mae", row.mae), ("rmse", row.rmse)) if logs.occurs(log.runs, name, value)]
    where = f"its {known[0].upper()} occurs somewhere, the pair does not" if known else ""
    where = where or "neither number occurs in any evaluation"
    run = logs.best_run(log.runs)
    best, last = run.best(), run.evaluations.iloc[-1]
    late = logs.late_evaluations(run, int(run.epochs * logs.LATE_SHARE))
    assert best is not None
    return (
        f"{row.label} is printed with {row.mae:g} / {row.rmse:.1f}; {where}. The best pair in the log is "
        f"{_pair(best['mae'], best['rmse'])} (epoch {best['epoch']:.0f}, line {best['line']:.0f}). The last evaluation "
        f"of that run is {_pair(last['mae'], last['rmse'])} (epoch {last['epoch']:.0f}). The mean of its {late.n} "
        f"evaluations from epoch {late.first_epoch} on is {late.mae_mean:.1f} / {late.rmse_mean:.1f} (standard "
        f"deviation of the MAE {late.mae_sd:.2f}, range {late.mae_min:.2f} to {late.mae_max:.2f})."
    )


def _of_pairs(log: Log) -> Iterator[tuple[str, str]]:
    by_horizon: dict[tuple[str, int], list[tuple[_LoggedRow, Found]]] = {}
    for row, found in log.ablations:
        by_horizon.setdefault((row.table, found.horizon or 0), []).append((row, found))
    for (_, horizon), pair in by_horizon.items():
        if len(pair) != 2:
            continue
        (one, other), places = zip(*pair, strict=True)
        ends = [found.at_horizon for found in places if found.at_horizon]
        there = f", at epoch {horizon} itself {signed(ends[0][0] - ends[1][0])}" if len(ends) == 2 else ""
        runs = [found.run for found in places]
        rates = [run.rates.loc[run.rates["epoch"] <= horizon, "rate"].max() for run in runs]
        begun = [sum(start.epoch <= horizon for start in schedule_starts(run)) for run in runs]
        warm_ups = f"; the warm-up was begun {begun[0]} times against {begun[1]}" if begun[0] != begun[1] else ""
        yield (
            f"{one.label} against {other.label[0].lower()}{other.label[1:]}:",
            f"printed difference {signed(one.mae - other.mae)} MAE{there}. Up to there the runs differ in more than "
            f"the named factor: highest learning rate {rates[0]:g} against {rates[1]:g}{warm_ups}.",
        )


def _of_scheduler(log: Log) -> Iterator[tuple[str, str]]:
    for row, found in log.ablations:
        if "no" in row.label.lower() and "scheduler" in row.label.lower():
            run, jumps = found.run, ", ".join(map(str, restarts(found.run)))
            again = f" and jumps up again after epoch {jumps}" if jumps else ""
            yield (
                f"“{row.label}” had a scheduler.",
                f"The learning rate of run {row.run} changes after {logs.rate_changes(run)} of its {run.epochs} "
                f"epochs: it warms up to {run.rates['rate'].max():g}, then falls{again}.",
            )


def conflicts(published: pd.DataFrame, labels: Mapping[str, str]) -> Iterator[tuple[str, str]]:
    """Yield experiments that two sources print with one metric equal (so they are the same) and another different."""
    numbers = published.assign(number=pd.to_numeric(published["value"], errors="coerce")).dropna(subset="number")
    experiments = [
        (keys, {str(row["metric"]): row for row in part.to_dict("records")})
        for keys, part in numbers.groupby(["system", "benchmark", "table", "row", "source", "note"], sort=False)
    ]
    for (one_keys, one), (other_keys, other) in combinations(experiments, 2):
        if one_keys[:2] != other_keys[:2] or one_keys[2] == other_keys[2]:
            continue
        same = [name for name in one if name in other and one[name]["number"] == other[name]["number"]]
        for name in one if same else ():
            if name in other and name not in same:
                values = " against ".join(f"{row['value']} ({row['source']})" for row in (one[name], other[name]))
                where = f"{labels.get(str(one_keys[0]), str(one_keys[0]))} on {one_keys[1]}, {metric_of(name).label}:"
                yield where, f"{values}, with the same {', '.join(map(str.upper, same))} in both."


def figure(log: Log) -> Figure:
    """Draw the named runs with the evaluations that became printed numbers, and their learning rates."""
    drawn, (top, bottom) = plt.subplots(
        2, 1, figsize=(WIDTH, 5.2), sharex=True, height_ratios=(3, 1.15), layout="constrained"
    )
    colours = dict(zip(log.named, SERIES, strict=False))
    for name, run in log.named.items():
        label = f"run {name}, lines {run.lines[0]} to {run.lines[1]}"
        top.plot(run.evaluations["epoch"], run.evaluations["mae"], color=colours[name], linewidth=1.4, label=label)
        bottom.plot(run.rates["epoch"], run.rates["rate"], color=colours[name], linewidth=1.1)
    marks = [(found.epoch, row) for row, found in log.ablations if row.run in colours]
    for place, (epoch, row) in enumerate(sorted(marks, key=lambda mark: mark[0])):
        colour = colours[row.run]
        top.plot(epoch, row.mae, marker="o", markersize=7, markerfacecolor="none", markeredgewidth=1.8, color=colour)
        top.annotate(
            f"{row.mae:g}", (epoch, row.mae), xytext=(-4, -24) if place % 2 else (10, 30), textcoords="offset points",
            fontsize=8.5, color=colour, ha="center", zorder=5,
            bbox={"facecolor": PAPER, "edgecolor": "none", "pad": 1, "alpha": 0.85},
            arrowprops={"arrowstyle": "-", "color": colour, "linewidth": 0.8, "shrinkB": 4},
        )  # fmt: skip
    if log.headline is not None:
        mae = log.headline.mae
        top.axhline(mae, color=ALARM, linewidth=1.2, linestyle=(0, (5, 3)))
        text, at = f"printed in Table 1: {mae:g}, nowhere in the log", (600, mae)
        top.annotate(text, at, xytext=(0, -11), textcoords="offset points", fontsize=8, color=ALARM, ha="right")
    top.set(yscale="log", ylim=(80, 1000), ylabel="MAE on the test images")
    plain_log(top.yaxis, (1, 1.5, 2, 3, 5, 7))
    top.legend(loc="upper right", title=None)
    bottom.set(yscale="log", ylabel="learning rate", xlabel="epoch")
    plain_log(bottom.yaxis)
    for ax in (top, bottom):
        ax.grid(axis="y", linewidth=0.6)
    return drawn
