"""What a run's own history says: how it scatters from epoch to epoch, what choosing the best gains, when it settles."""

import math
from collections.abc import Sequence

import numpy as np
import pandas as pd
from scipy import special

from recount.judging.verdicts import chance_gain
from recount.metrics import Floats
from recount.results.reason import Missing
from recount.results.run_record import HISTORY
from recount.scoring.measured import Measurements
from recount.settings.project import Run

SETTLED = 0.05  # share of the final value


def watched(measurements: Measurements, run: Run, metric: str, images: Sequence[str] = ("test", "held_out")) -> Floats:
    """Return (epoch, metric) [evaluations, 2] of what was watched during training; ``Missing`` where nothing was."""
    path = measurements.project.root / measurements.project.run_folder(run) / HISTORY
    if path.is_file():
        history = pd.read_csv(path)
        for name in images:
            if f"{name}_{metric}" in history:
                return history[["epoch", f"{name}_{metric}"]].dropna().to_numpy(dtype=np.float64)
    raise Missing("undefined", f"its {metric} was not watched during training")


def _scatter(values: Floats, share: bool) -> float:
    """Return the standard deviation of logs (logits of shares) from one evaluation to the next, over the second half:
    half the variance of the steps, so that a trend counts little."""
    late = values[len(values) // 2 :] if len(values) > 3 else values
    late = late[(late > 0) & (late < 1)] if share else late[late > 0]
    scaled = special.logit(late) if share else np.log(late)
    return float(np.sqrt((np.diff(scaled) ** 2).mean() / 2)) if len(late) > 1 else math.nan


def epoch_sd(measurements: Measurements, runs: Sequence[Run], metric: str, share: bool) -> float:
    """Return how the log (logit of a share) of a metric scatters from epoch to epoch, over the runs that watched it.

    0: none did.
    """
    found = [sd for sd, _ in _seen(measurements, runs, metric, share)]
    return float(np.mean(found)) if found else 0.0


def epochs_seen(measurements: Measurements, runs: Sequence[Run], metric: str) -> float:
    """Return the share that the best of as many epochs as were watched gains by chance; NaN where nothing was."""
    found = [chance_gain(epochs, sd) for sd, epochs in _seen(measurements, runs, metric)]
    return float(np.mean(found)) if found else math.nan


def _seen(measurements: Measurements, runs: Sequence[Run], metric: str, share: bool = False) -> list[tuple[float, int]]:
    found = []
    for run in runs:
        try:
            values = watched(measurements, run, metric, ("test",))[:, 1]
        except Missing:
            continue
        sd = _scatter(values, share)
        if math.isfinite(sd):
            found.append((round(sd, 6), len(values)))
    return found


def settles(measurements: Measurements, run: Run) -> float:
    """Return the first epoch from which the watched MAE stays within 5 % of its last value."""
    epochs, values = watched(measurements, run, "mae", ("held_out", "test")).T
    away = np.flatnonzero(np.abs(values - values[-1]) > SETTLED * values[-1])
    return float(epochs[away[-1] + 1] if len(away) else epochs[0])
