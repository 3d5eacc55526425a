"""Points against points: precision, recall and F1 of predicted points, over all images of a file or benchmark.

A predicted point may stand for a true one that is at most a threshold sigma away; of all ways to give each point at
most one partner, the one with most pairs counts, and pairs are summed over images before dividing. So do NWPU-Crowd's
evaluation (gjy3035/NWPU-Crowd-Sample-Code-for-Localization@37178e1, eval/eval.py) and FIDTM's
(dk-liang/FIDTM@185b542, local_eval/eval.py). Thresholds there: sigma_s = min(w, h) / 2 and
sigma_l = sqrt(w^2 + h^2) / 2 of each true box (Wang et al., TPAMI 2020), or 4 and 8 pixels where there are no boxes.

Pairs are found with a k-d tree and matched as a maximum flow (Dinic): 20,000 points take seconds. SciPy's
``maximum_bipartite_matching`` has the same result, but took more than a minute for some orders of the same pairs.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from scipy.sparse import csr_matrix
from scipy.sparse.csgraph import maximum_flow
from scipy.spatial import KDTree

from recount.errors import UserError
from recount.metrics import Floats
from recount.scoring.statistics import Interval, interval_of, weights_over

MOST_PAIRS = 20_000_000  # within a threshold on one image: about 3 GB
ROWS = 2_000  # true points whose neighbours are listed at once


@dataclass(frozen=True, slots=True)
class Localisation:
    """How well points lie where objects are, at one threshold."""

    threshold: str  # in words
    precision: Interval
    recall: Interval
    f1: Interval
    found: int  # true points with a predicted one (true positives)
    false: int  # predicted points without a true one
    missed: int  # true points without a predicted one


def of_boxes(boxes: Floats) -> Floats:
    """Return sigma_s and sigma_l [n, 2] of boxes [n, 4] as x1, y1, x2, y2, in pixels."""
    width, height = np.abs(boxes[:, 2:] - boxes[:, :2]).T
    return np.stack([np.minimum(width, height) / 2, np.hypot(width, height) / 2], axis=1)


def matched(true: Floats, predicted: Floats, radii: Floats | float) -> int:
    """Return how many true points [n, 2] can have a predicted one [m, 2] of their own within ``radii`` ([n] or one)."""
    if len(predicted) < len(true) and np.ndim(radii) == 0:
        true, predicted = predicted, true
    if not len(true) or not len(predicted):
        return 0
    each, tree = np.broadcast_to(radii, len(true)), KDTree(predicted)
    near = tree.query_ball_point(true, each, return_length=True)
    certain = near >= len(true)  # whoever gets what, one is left for these
    true, each, near = true[~certain], each[~certain], near[~certain]
    if near.sum() > MOST_PAIRS:
        raise UserError(f"{near.sum():,} pairs of points lie within the threshold on one image: choose a smaller one")
    return int(certain.sum()) + (_most_pairs(len(true), len(predicted), *_pairs(tree, true, each)) if len(true) else 0)


def _pairs(tree: KDTree, true: Floats, radii: Floats) -> tuple[np.ndarray, np.ndarray]:
    """Return the rows of true points and of the predicted points within their radii."""
    rows, columns = [], []
    for start in range(0, len(true), ROWS):
        lists = tree.query_ball_point(true[start : start + ROWS], radii[start : start + ROWS], return_sorted=False)
        rows.append(np.repeat(np.arange(start, start + len(lists), dtype=np.int32), [len(found) for found in lists]))
        columns.append(np.concatenate([np.asarray(found, dtype=np.int32) for found in lists]))
    return np.concatenate(rows), np.concatenate(columns)


def _most_pairs(true: int, predicted: int, rows: np.ndarray, columns: np.ndarray) -> int:
    """Return the size of the largest matching: the flow from a source over true and predicted points to a sink."""
    source, sink = true + predicted, true + predicted + 1
    start = np.concatenate([np.full(true, source), rows, np.arange(true, source)])
    end = np.concatenate([np.arange(true), true + columns, np.full(predicted, sink)])
    edges = csr_matrix((np.ones(len(start), np.int32), (start, end)), shape=(sink + 1, sink + 1))
    return int(maximum_flow(edges, source, sink, method="dinic").flow_value)


def localisation(
    true: Sequence[Floats], predicted: Sequence[Floats], radii: Sequence[Floats | float], threshold: str
) -> Localisation:
    """Return precision, recall and F1 of predicted points over images, with intervals over images.

    Each list has an entry per image: points [n, 2] and [m, 2] in pixels; thresholds [n] of the true ones, or one for
    all. A share of nothing (no point predicted, or none there) is NaN.
    """
    found = np.array([matched(*image) for image in zip(true, predicted, radii, strict=True)], dtype=np.float64)
    there, claimed = (np.array([len(points) for points in side], dtype=np.float64) for side in (true, predicted))
    sums = np.stack([found, claimed, there], axis=1)  # (images, 3)
    resampled = np.concatenate(list(_resampled(sums))) if len(sums) > 1 else np.full((1, 3), np.nan)
    values = zip(_shares(sums.sum(axis=0)), _shares(resampled), strict=True)
    precision, recall, f1 = (Interval(float(value), *interval_of(spread)) for value, spread in values)
    hits = int(found.sum())
    return Localisation(
        threshold, precision, recall, f1, found=hits, false=int(claimed.sum()) - hits, missed=int(there.sum()) - hits
    )


def _resampled(sums: Floats) -> Iterator[Floats]:
    for weights in weights_over(len(sums)):
        yield weights @ sums


def _shares(sums: Floats) -> tuple[Floats, Floats, Floats]:
    """Return precision, recall and F1 of sums [..., 3]: pairs, predicted points, true points."""
    hits, claimed, there = np.moveaxis(sums, -1, 0)
    with np.errstate(invalid="ignore"):
        return hits / claimed, hits / there, 2 * hits / (claimed + there)
