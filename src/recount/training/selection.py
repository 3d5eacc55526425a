"""Which of a run's epochs is reported: evaluation during training, and when an epoch is the best so far."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from recount.data.sample import Sample
from recount.metrics import ACCURACY, MAE, RMSE
from recount.prediction.samples import predict_samples
from recount.settings.recipe import Precision
from recount.systems.base import Pool, System
from recount.training.processes import Processes


@dataclass(frozen=True)
class Watched:
    """A benchmark evaluated during training; ``column`` is the prefix of its columns in history.csv."""

    pool: Pool
    column: str

    def load_image(self, sample: Sample) -> Tensor:
        """Return the picture of one of the pool's samples, uint8 [3, H, W]."""
        return self.pool.image(self.places[sample.id])

    @cached_property
    def places(self) -> dict[str, int]:
        """Return where in the pool each sample is."""
        return {sample.id: index for index, sample in enumerate(self.pool.samples)}


def evaluate(
    system: System, watched: Watched, device: torch.device, precision: Precision, processes: Processes
) -> dict[str, float]:
    """Return mae and rmse (for count-by-caption systems accuracy too) of ``system`` on a watched benchmark.

    Each process predicts its share of the samples. Random draws are undone, so that nothing changes for training.
    """
    cards = [device] if device.type == "cuda" else []
    with torch.random.fork_rng(devices=cards):
        samples = processes.share(watched.pool.samples)
        predicted = list(predict_samples(system, samples, watched.load_image, device=device, precision=precision))
        own = [(p.sample.count, p.count) for p in predicted if p.kept]
        shares = processes.gathered(own)
        pairs = own if processes.copies(len(watched.pool.samples)) > 1 else [pair for share in shares for pair in share]
        true, counts = [pair[0] for pair in pairs], [pair[1] for pair in pairs]
        metrics = [MAE, RMSE] + ([ACCURACY] if predicted[0].scores is not None else [])
        return {metric.name: metric(true, counts) for metric in metrics} | system.own_selection(watched.pool)


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
    return best is None or selection_value(values, select_by) < selection_value(best["on"], select_by)
