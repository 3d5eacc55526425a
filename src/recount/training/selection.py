"""Which of a run's epochs is reported: evaluation during training, and when an epoch is the best so far."""

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from recount.data.sample import Sample
from recount.metrics import ACCURACY, MAE, RMSE
from recount.prediction.samples import predict_samples
from recount.settings.recipe import Precision
from recount.systems.base import Pool, System
from recount.training.processes import Processes

# what is minimised when the best epoch is chosen; any other name is a value of its own
MINIMISED = {"mae+rmse": {"mae": 1, "rmse": 1}, "2rmse+mae": {"rmse": 2, "mae": 1}, "accuracy": {"accuracy": -1}}


def evaluate(
    system: System, pool: Pool, device: torch.device, precision: Precision, processes: Processes
) -> dict[str, float]:
    """Return mae and rmse (of classes accuracy too) on a benchmark; each process predicts its share of it."""
    places = {sample.id: index for index, sample in enumerate(pool.samples)}

    def load_image(sample: Sample) -> Tensor:
        return pool.image(places[sample.id])

    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        samples = processes.share(pool.samples)
        own, by_caption = [], False
        for predicted in predict_samples(system, samples, load_image, device=device, precision=precision):
            own += [(predicted.sample.count, predicted.count)] if predicted.kept else []
            by_caption |= predicted.scores is not None
        shares = processes.gathered(own)
        pairs = own if processes.copies(len(pool.samples)) > 1 else [pair for share in shares for pair in share]
        true, counts = [pair[0] for pair in pairs], [pair[1] for pair in pairs]
        metrics = [MAE, RMSE] + ([ACCURACY] if by_caption else [])
        return {metric.name: metric(true, counts) for metric in metrics} | system.own_selection(pool)


def _minimised(values: Mapping[str, float], select_by: str) -> float:
    weights = MINIMISED.get(select_by, {select_by: 1})
    value = sum(weight * values[name] for name, weight in weights.items())
    return value if math.isfinite(value) else math.inf


def is_better(values: Mapping[str, float], best: Mapping[str, Any] | None, select_by: str) -> bool:
    """Return whether an evaluation beats the best so far."""
    return best is None or _minimised(values, select_by) < _minimised(best["on"], select_by)
