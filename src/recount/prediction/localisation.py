"""Where a text-guided system's maps lie: does its attention, does its similarity find what the prompt names?

For T2ICount's claims about its maps (its Figures 3 and 5): the share of annotated points that the attention reaches,
and per picture the area under the ROC curve (AUC) of a map's value as a test for the prompted objects' cells against
all others. Thresholds are the claims' (0.3: the attention from which T2ICount calls a cell attended).
"""

from collections.abc import Sequence

import numpy as np
import torch.nn.functional as F
from torch import Tensor

from recount.data.sample import Sample
from recount.errors import UserError
from recount.metrics import Floats
from recount.prediction.samples import Asking
from recount.results.prompt_tests import Maps, MapsPicture

ATTENDED = 0.3
ATTENTION = "attention"


def auc(values: Floats, positive: np.ndarray) -> float:
    """Return the share of (positive, other) pairs with a higher value of the positive, ties counting half; or NaN."""
    from scipy.stats import rankdata

    number, others = int(positive.sum()), int((~positive).sum())
    if not number or not others:
        return float("nan")
    ranks = rankdata(values)[positive.ravel()]
    return float((ranks.sum() - number * (number + 1) / 2) / (number * others))


def over_picture(values: Tensor, sample: Sample) -> Tensor:
    """Return a map [1, h, w] in the picture's pixels, [1, H, W]: without the padding of windows, or enlarged."""
    if values.shape[-2] >= sample.height and values.shape[-1] >= sample.width:
        return values[:, : sample.height, : sample.width]
    size = (sample.height, sample.width)
    return F.interpolate(values[None], size, mode="bilinear", align_corners=False)[0]


def in_cells(values: Tensor, side: int) -> Tensor:
    """Return a map [1, H, W] in pixels as means over square cells, [h, w]; those at the border may be smaller."""
    return F.avg_pool2d(values[None].float(), side, ceil_mode=True, count_include_pad=False)[0, 0]


def reached(attention: Tensor, sample: Sample) -> int:
    """Return at how many of a sample's points the attention in pixels, [1, H, W], is at least ``ATTENDED``."""
    height, width = attention.shape[-2:]
    rows, columns = (np.clip(sample.points[:, axis], 0, top - 1).astype(int) for axis, top in ((1, height), (0, width)))
    return int((attention[0].numpy()[rows, columns] >= ATTENDED).sum())


def localisation(asking: Asking, samples: Sequence[Sample]) -> Maps:
    """Return the quality of each map of a system with a ``foreground`` of its own, over the samples with points.

    ``auc`` and ``reached_elsewhere`` (the share of cells without objects whose "attention" is at least ``ATTENDED``)
    are means over pictures; ``points_reached`` is a share of all points.
    """
    pointed = [sample for sample in samples if len(sample.points)]
    if not pointed:
        raise UserError("no sample has points, so where maps should lie is not known")
    rows = []
    for result in asking.predict(pointed, keep_maps=True):
        sample = result.sample
        seen = asking.system.foreground(sample)
        if seen is None:
            raise UserError("maps are tested for systems that say where their training sees the prompted objects")
        positive, side = seen[0].numpy().ravel(), seen[1]
        maps = {name: over_picture(values, sample) for name, values in result.maps.items()}
        areas = {name: auc(in_cells(each, side).numpy().ravel(), positive) for name, each in maps.items()}
        found = MapsPicture(id=sample.id, points=len(sample.points), auc=areas)
        if ATTENTION in maps:
            cells = in_cells(maps[ATTENTION], side).numpy().ravel()
            found.reached = reached(maps[ATTENTION], sample)
            found.reached_elsewhere = _mean((cells[~positive] >= ATTENDED).astype(np.float64))
        rows.append(found)
    means = {name: _mean(np.array([row.auc[name] for row in rows])) for name in rows[0].auc}
    whole = Maps(auc=means, pictures=rows)
    if rows[0].reached is not None:
        whole.points_reached = sum(row.reached or 0 for row in rows) / sum(row.points for row in rows)
        whole.reached_elsewhere = _mean(np.array([row.reached_elsewhere for row in rows]))
    return whole


def _mean(values: Floats) -> float:
    known = values[~np.isnan(values)]
    return float(known.mean()) if len(known) else float("nan")
