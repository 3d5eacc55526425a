"""What a published training log shows: its runs, where printed numbers stand in it, and how its learning rate moved.

Input is a table of the lines of a log that a paper's authors committed (``papers/<paper>/evidence/*.csv``) with the
columns line, segment, kind (train or eval), epoch, total_epochs, loss, lr_after_step, mae, rmse. Everything here is
computed from it; nothing is typed in. Written for GigaCount's ``eval_log.txt`` (AdamHermes/GigaCount@d57191e).
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from recount.errors import UserError

COLUMNS = ("line", "segment", "kind", "epoch", "total_epochs", "loss", "lr_after_step", "mae", "rmse")
#: A segment goes on with the run before it if it starts this near to where that one ended: checkpoints are written
#: every second epoch, so a resume repeats or skips at most two.
RESUME_WITHIN_EPOCHS = 2
PRINTED_RATE = 1e-6  # the log prints learning rates with six decimals
PRINTED_SCORE = 0.005  # and errors with two
LATE_SHARE = 5 / 6  # "late" is the last sixth of the longest run: epochs 500 to 600


@dataclass(frozen=True)
class LoggedRun:
    """One training run of a log, resumes included."""

    number: int  # position in the log, from 1
    lines: tuple[int, int]  # first and last
    epochs: int  # the highest
    evaluations: pd.DataFrame  # columns line, epoch, mae, rmse; in the order of the log
    rates: pd.DataFrame  # columns epoch, rate (after that epoch's step); the last where a resume repeats an epoch

    def best(self, horizon: int | None = None) -> pd.Series | None:
        """Return the evaluation with the lowest MAE up to ``horizon`` epochs, or None if there was none."""
        upto = self.evaluations if horizon is None else self.evaluations[self.evaluations["epoch"] <= horizon]
        return None if upto.empty else upto.iloc[int(upto["mae"].argmin())]

    def at(self, epoch: int) -> pd.Series | None:
        """Return the evaluation at ``epoch`` (the last one, if it was repeated), or None."""
        there = self.evaluations[self.evaluations["epoch"] == epoch]
        return None if there.empty else there.iloc[-1]


@dataclass(frozen=True)
class Found:
    """Where a printed pair of errors stands in a log."""

    run: LoggedRun
    line: int
    epoch: int
    horizon: int | None  # the number of epochs that the printed table states
    is_best: bool  # whether this evaluation has the lowest MAE of the run up to the horizon
    at_horizon: tuple[float, float] | None  # MAE and RMSE at the horizon itself; None if it was not evaluated


@dataclass(frozen=True)
class Start:
    """A point where the learning-rate schedule of a run began, for the first time or once more."""

    epoch: int  # the first one of the warm-up
    initial: float  # rate at the start, extrapolated one step back from the first printed one
    highest: float  # the highest rate printed before the next start


@dataclass(frozen=True)
class Late:
    """Statistics of the evaluations of a run from an epoch on; standard deviation with n - 1."""

    first_epoch: int
    n: int
    mae_mean: float
    mae_sd: float
    mae_min: float
    mae_max: float
    mae_slope: float  # of their least-squares line, per epoch
    rmse_mean: float


def read_log(path: Path) -> pd.DataFrame:
    """Read a log's table; ``UserError`` where a column is missing."""
    log = pd.read_csv(path)
    absent = [column for column in COLUMNS if column not in log.columns]
    if absent:
        raise UserError(f"{path}: no column {', '.join(absent)}; expected {', '.join(COLUMNS)}")
    return log.sort_values("line", ignore_index=True)


def logged_runs(log: pd.DataFrame) -> list[LoggedRun]:
    """Split a log into runs; a segment that starts where the one before it ended is a resume of it."""
    runs: list[list[pd.DataFrame]] = []
    last_epoch: int | None = None
    for _, segment in log.groupby("segment", sort=True):
        first = int(segment["epoch"].iloc[0])
        if last_epoch is not None and first > 1 and abs(first - last_epoch) <= RESUME_WITHIN_EPOCHS:
            runs[-1].append(segment)
        else:
            runs.append([segment])
        last_epoch = int(segment["epoch"].iloc[-1])
    return [_run(number, pd.concat(parts)) for number, parts in enumerate(runs, start=1)]


def _run(number: int, lines: pd.DataFrame) -> LoggedRun:
    evaluations = lines.loc[lines["kind"] == "eval", ["line", "epoch", "mae", "rmse"]].reset_index(drop=True)
    training = lines.loc[lines["kind"] == "train", ["epoch", "lr_after_step"]]
    rates = training.drop_duplicates("epoch", keep="last").sort_values("epoch", ignore_index=True)
    span = int(lines["line"].min()), int(lines["line"].max())
    rates = rates.rename(columns={"lr_after_step": "rate"})
    return LoggedRun(number, span, int(lines["epoch"].max()), evaluations, rates)


def find_pair(runs: Sequence[LoggedRun], mae: float, rmse: float, horizon: int | None = None) -> Found | None:
    """Return where a printed MAE and RMSE stand together in a log, to the printed digits; None if nowhere."""
    for run in runs:
        table = run.evaluations
        hits = table[((table["mae"] - mae).abs() < PRINTED_SCORE) & ((table["rmse"] - rmse).abs() < PRINTED_SCORE)]
        if hits.empty:
            continue
        line, epoch = int(hits.iloc[0]["line"]), int(hits.iloc[0]["epoch"])
        best = run.best(horizon)
        end = run.at(horizon) if horizon is not None else None
        at_horizon = None if end is None else (float(end["mae"]), float(end["rmse"]))
        return Found(run, line, epoch, horizon, best is not None and int(best["line"]) == line, at_horizon)
    return None


def stated_epochs(label: str) -> int | None:
    """Return how many epochs the label of a table's row states ("(150 epochs)"), or None."""
    stated = re.search(r"(\d+) epochs", label)
    return int(stated.group(1)) if stated else None


def different_rates(first: LoggedRun, second: LoggedRun, horizon: int | None) -> tuple[int, int]:
    """Return after how many epochs up to a horizon two runs print different rates, and how many both print."""
    both = first.rates.merge(second.rates, on="epoch", suffixes=("_first", "_second"))
    both = both if horizon is None else both[both["epoch"] <= horizon]
    return int(((both["rate_first"] - both["rate_second"]).abs() > PRINTED_RATE).sum()), len(both)


def rate_changes(run: LoggedRun) -> int:
    """Return after how many epochs the printed learning rate differs from the one before."""
    return int((run.rates["rate"].diff().abs() > 0).sum())


def occurs(runs: Sequence[LoggedRun], metric: str, value: float) -> bool:
    """Return whether any evaluation has ``value`` for ``metric`` (mae or rmse), to the digits of ``value``."""
    digits = len(f"{value}".partition(".")[2])
    tolerance = 0.5 * 10.0**-digits
    return any(bool(((run.evaluations[metric] - value).abs() <= tolerance).any()) for run in runs)


def best_run(runs: Sequence[LoggedRun]) -> LoggedRun:
    """Return the run that holds the lowest MAE of a log."""
    return min((run for run in runs if not run.evaluations.empty), key=lambda run: float(run.evaluations["mae"].min()))


def late_evaluations(run: LoggedRun, first_epoch: int) -> Late:
    """Summarise the evaluations of a run from ``first_epoch`` on."""
    late = run.evaluations[run.evaluations["epoch"] >= first_epoch]
    mean, sd, low, high = late["mae"].agg(["mean", "std", "min", "max"]).astype(float)
    slope = np.polyfit(late["epoch"].to_numpy(dtype=float), late["mae"].to_numpy(dtype=float), 1)[0]
    return Late(first_epoch, len(late), mean, sd, low, high, float(slope), float(late["rmse"].mean()))


def _warm_ups(rates: np.ndarray) -> list[tuple[int, int]]:
    """Return (first, last) index of each stretch of two or more gains that agree to the printed digits."""
    gains = np.diff(rates)
    rising = (gains[:-1] > PRINTED_RATE) & (np.abs(np.diff(gains)) <= 2.5 * PRINTED_RATE)
    stretches: list[tuple[int, int]] = []
    for i in map(int, np.flatnonzero(rising)):
        if stretches and stretches[-1][1] == i + 1:
            stretches[-1] = (stretches[-1][0], i + 2)
        else:
            stretches.append((i, i + 2))
    return stretches


def schedule_starts(run: LoggedRun) -> list[Start]:
    """Find where a linear warm-up of the learning rate begins.

    A warm-up is two or more equal gains in a row: a cosine only falls, and its restarts are single jumps.
    """
    epochs = run.rates["epoch"].to_numpy()
    rates = run.rates["rate"].to_numpy(dtype=float)
    firsts = [first for first, _ in _warm_ups(rates)]
    ends = [*firsts[1:], len(rates)] if firsts else []
    starts = []
    for first, end in zip(firsts, ends, strict=True):
        initial = max(0.0, float(2 * rates[first] - rates[first + 1]))
        starts.append(Start(int(epochs[first]), initial, float(rates[first:end].max())))
    return starts


def restarts(run: LoggedRun) -> list[int]:
    """Return the epochs after which the learning rate jumps up without a warm-up, as cosine restarts do."""
    epochs = run.rates["epoch"].to_numpy()
    rates = run.rates["rate"].to_numpy(dtype=float)
    warming = {index for first, last in _warm_ups(rates) for index in range(first, last + 1)}
    return [int(epochs[i]) for i in range(1, len(rates)) if rates[i] - rates[i - 1] > PRINTED_RATE and i not in warming]
