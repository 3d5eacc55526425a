"""Which of a run's epochs is reported: evaluation during training, and when an epoch is the best so far."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch

from recount.evaluation.metrics import training_metrics
from recount.evaluation.predict import predict_samples
from recount.systems.base import Pool, System


@dataclass(frozen=True, slots=True)
class Watched:
    """A benchmark evaluated during training.

    Attributes:
        pool: its samples.
        column: prefix of its columns in history.csv ("test" or "held_out").
    """

    pool: Pool
    column: str


def evaluate(system: System, watched: Watched, device: torch.device, precision: str) -> dict[str, float]:
    """Return mae and rmse (for count-by-caption systems accuracy too) of ``system`` on a watched benchmark.

    Random draws inside are undone, so that evaluating changes nothing of the training that follows.
    """
    cards = [device] if device.type == "cuda" else []
    with torch.random.fork_rng(devices=cards):
        rows = list(predict_samples(system, watched.pool, device=device, precision=precision))
        return training_metrics(rows) | system.own_selection(watched.pool)


def selection_value(values: Mapping[str, float], select_by: str) -> float:
    """Return what is minimised when the best epoch is chosen; infinite where it is not finite."""
    match select_by:
        case "mae+rmse":
            value = values["mae"] + values["rmse"]
        case "2rmse+mae":
            value = 2 * values["rmse"] + values["mae"]
        case "accuracy":
            value = -values["accuracy"]
        case _:
            value = values[select_by]
    return value if math.isfinite(value) else math.inf


def is_better(values: Mapping[str, float], best: Mapping[str, Any] | None, select_by: str) -> bool:
    """Return whether an evaluation beats the best so far; the earlier epoch wins ties."""
    if best is None:
        return True
    return selection_value(values, select_by) < selection_value(best["on"], select_by)
