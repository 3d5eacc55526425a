"""Distribution matching for counting: count, optimal-transport and total-variation loss over a batch of images.

Wang et al., "Distribution Matching for Crowd Counting" (NeurIPS 2020), as CLIP-EBC and GigaCount use it.
Numbers checked against Yiming-M/CLIP-EBC@b52a594 (losses/dm_loss.py, losses/bregman_pytorch.py) and
cvlab-stonybrook/DM-Count@cc5f213 (golden cases ``dm_loss.json``).

Deviations: the Sinkhorn iterations of all images run together, padded to the largest number of points; each image
still stops by its own rule. The squared distance between a point and a block centre is a sum over x and y, so its
kernel exp(-C/10) is a product, and the [points, blocks] matrix is never stored.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from recount.nn.precision import full_precision, without_autocast

REGULARISATION = 10.0
ITERATIONS = 100
TOLERANCE = 1e-9
CHECK_EVERY = 10
FLOOR = 1e-16  # added to each denominator and inside each logarithm of the Sinkhorn iterations
NORM_EPS = 1e-8  # in the gradient of the transport term
EBC_EPS = 1e-8  # in the normalisation of predicted and true map: CLIP-EBC, GigaCount
DM_COUNT_EPS = 1e-6  # the same in DM-Count's own code

DM_WEIGHTS = {"count": 1.0, "transport": 0.1, "variation": 0.01, "transport_cost": 0.0}

Domain = Literal["scaling", "log"]


class Kernel(Protocol):
    """A batch of Gibbs kernels K = exp(-C/regularisation), each [N, M]."""

    def times(self, right: Tensor) -> Tensor:
        """Return K v for v [B, M] as [B, N]."""

    def transposed_times(self, left: Tensor) -> Tensor:
        """Return K^T u for u [B, N] as [B, M]."""

    def select(self, rows: Tensor) -> Kernel:
        """Return the kernels of the batch rows given by an index [B']."""


@dataclass(slots=True)
class DenseKernel:
    """Kernels stored as matrices [B, N, M]."""

    matrix: Tensor

    @classmethod
    def of_cost(cls, cost: Tensor, regularisation: float) -> DenseKernel:
        """Return exp(-cost/regularisation)."""
        return cls(torch.exp(-cost / regularisation))

    def times(self, right: Tensor) -> Tensor:
        """Return K v as [B, N]."""
        return (self.matrix @ right.unsqueeze(2)).squeeze(2)

    def transposed_times(self, left: Tensor) -> Tensor:
        """Return K^T u as [B, M]."""
        return (left.unsqueeze(1) @ self.matrix).squeeze(1)

    def select(self, rows: Tensor) -> DenseKernel:
        """Return the kernels of the batch rows given by an index."""
        return DenseKernel(self.matrix[rows])


@dataclass(slots=True)
class GridKernel:
    """Kernels between points and a grid: a factor over its rows [B, N, h] times one over its columns [B, N, w]."""

    rows: Tensor
    columns: Tensor

    def times(self, right: Tensor) -> Tensor:
        """Return K v for v [B, h*w] as [B, N]."""
        grid = right.unflatten(1, (self.rows.shape[2], self.columns.shape[2]))  # (B, h, w)
        return ((self.rows @ grid) * self.columns).sum(dim=2)

    def transposed_times(self, left: Tensor) -> Tensor:
        """Return K^T u for u [B, N] as [B, h*w]."""
        return ((self.rows * left.unsqueeze(2)).transpose(1, 2) @ self.columns).flatten(1)

    def select(self, rows: Tensor) -> GridKernel:
        """Return the kernels of the batch rows given by an index."""
        return GridKernel(self.rows[rows], self.columns[rows])


def sinkhorn(
    source: Tensor,
    target: Tensor,
    kernel: Kernel,
    *,
    iterations: int = ITERATIONS,
    tolerance: float = TOLERANCE,
    check_every: int = CHECK_EVERY,
) -> tuple[Tensor, Tensor]:
    """Scale kernels so that their marginals become ``source`` and ``target`` (matrix scaling with floors).

    Each problem of the batch stops by itself: when the squared marginal error, looked at every ``check_every``
    iterations, is at most ``tolerance``; or before the first value that is not finite.

    Args:
        source: weights of the rows [B, N]; 0 marks padding.
        target: weights of the columns [B, M].
        kernel: the Gibbs kernels.
        iterations: at most so many.
        tolerance: of the squared error.
        check_every: iterations between two looks at the error.

    Returns:
        The scalings u [B, N] and v [B, M]; the plan is u * K * v.
    """
    result_left = source.new_zeros(source.shape)
    result_right = torch.full_like(target, 1 / target.shape[1])
    left = torch.where(source > 0, 1 / (source > 0).sum(dim=1, keepdim=True).to(source.dtype), 0.0)
    right = result_right
    active = torch.arange(source.shape[0], device=source.device)
    broken = torch.zeros(source.shape[0], dtype=torch.bool, device=source.device)
    for iteration in range(1, iterations + 1):
        new_right = target / (kernel.transposed_times(left) + FLOOR)
        new_left = source / (kernel.times(new_right) + FLOOR)
        broken = broken | ~(new_left.isfinite().all(dim=1) & new_right.isfinite().all(dim=1))
        left = torch.where(broken[:, None], left, new_left)
        right = torch.where(broken[:, None], right, new_right)
        if iteration % check_every and iteration < iterations:
            continue
        result_left[active], result_right[active] = left, right
        error = (target - right * kernel.transposed_times(left)).square().sum(dim=1)
        going = torch.nonzero((error > tolerance) & ~broken).squeeze(1)
        if not len(going):
            break
        if len(going) < len(active):
            kernel, source, target = kernel.select(going), source[going], target[going]
            left, right, active, broken = left[going], right[going], active[going], broken[going]
    return result_left, result_right


def log_sinkhorn(
    source: Tensor,
    target: Tensor,
    cost: Tensor,
    *,
    regularisation: float = REGULARISATION,
    iterations: int = ITERATIONS,
    tolerance: float = TOLERANCE,
    check_every: int = CHECK_EVERY,
) -> tuple[Tensor, Tensor]:
    """Solve the same problem as ``sinkhorn`` in the logarithmic domain, where no kernel underflows.

    Only ``target`` is floored, so columns far from all points get their true potential instead of the common value that
    the floors of ``sinkhorn`` give them.

    Args:
        source, target: as in ``sinkhorn``.
        cost: [B, N, M].
        regularisation: of the entropy.
        iterations, tolerance, check_every: as in ``sinkhorn``; a problem that has converged is iterated further with
            the others, which leaves it converged.

    Returns:
        The logarithms of the scalings, [B, N] (-inf for padding) and [B, M].
    """
    log_kernel = -cost / regularisation
    log_source, log_target = source.log(), (target + FLOOR).log()
    log_left = torch.where(source > 0, -(source > 0).sum(dim=1, keepdim=True).log(), -math.inf)
    log_right = torch.zeros_like(log_target)
    for iteration in range(1, iterations + 1):
        log_right = log_target - torch.logsumexp(log_kernel + log_left.unsqueeze(2), dim=1)
        log_left = log_source - torch.logsumexp(log_kernel + log_right.unsqueeze(1), dim=2)
        if iteration % check_every == 0:
            marginal = (log_right + torch.logsumexp(log_kernel + log_left.unsqueeze(2), dim=1)).exp()
            if ((target - marginal).square().sum(dim=1) <= tolerance).all():
                break
    return log_left, log_right


def _squared_distances(points: Tensor, size: tuple[int, int], block: int, normalised: bool) -> tuple[Tensor, Tensor]:
    """Return the squared distances of points [B, N, 2] to the block centres along y [B, N, h] and along x [B, N, w]."""
    distances = []
    for axis, cells in ((1, size[0]), (0, size[1])):
        centres = torch.arange(cells, device=points.device, dtype=points.dtype) * block + block / 2
        places = points[:, :, axis]
        if normalised:
            centres, places = (2 * value / (cells * block) - 1 for value in (centres, places))
        distances.append((places.unsqueeze(2) - centres).square())
    return distances[0], distances[1]


def _potentials(
    source: Tensor, target: Tensor, along_y: Tensor, along_x: Tensor, domain: Domain
) -> tuple[Tensor, Tensor]:
    """Return the column potentials beta [B, h*w] and the transport costs [B]."""
    if domain == "log":
        cost = (along_y.unsqueeze(3) + along_x.unsqueeze(2)).flatten(2)  # (B, N, h*w)
        log_left, log_right = log_sinkhorn(source, target, cost)
        plan = (log_left.unsqueeze(2) + log_right.unsqueeze(1) - cost / REGULARISATION).exp()
        return REGULARISATION * log_right, (plan * cost).sum(dim=(1, 2))
    rows, columns = torch.exp(-along_y / REGULARISATION), torch.exp(-along_x / REGULARISATION)
    left, right = sinkhorn(source, target, GridKernel(rows, columns))
    weighted = GridKernel(rows * along_y, columns).times(right) + GridKernel(rows, columns * along_x).times(right)
    return REGULARISATION * torch.log(right + FLOOR), (left * weighted).sum(dim=1)


def transport(
    density: Tensor,
    points: Sequence[Tensor],
    block: int,
    *,
    eps: float = EBC_EPS,
    domain: Domain = "scaling",
    normalised_coordinates: bool = False,
) -> tuple[Tensor, Tensor]:
    """Return the optimal-transport term between points and predicted density, and the cost of the plan.

    The term is the sum over images with points of <density, g>, where g is the gradient of the dual objective and is
    held constant: its value is about 0, only its gradient acts. Because it is a sum, its strength grows with the batch.

    Args:
        density: [B, 1, h, w], objects per block.
        points: B tensors [N_b, 2], x and y in pixels.
        block: edge of a block, pixels.
        eps: in the normalisation of the density.
        domain: "scaling" as in the released code, or "log".
        normalised_coordinates: measure distances in [-1, 1] instead of pixels (in the released code, never used).

    Returns:
        Two scalars: the term, and the summed transport cost (pixels squared), which carries no gradient.
    """
    some = [index for index, each in enumerate(points) if len(each)]
    if not some:
        return 0.0 * density.sum(), density.new_zeros(())
    size = (density.shape[2], density.shape[3])
    predicted = density[some].flatten(1)  # (B', h*w)
    with torch.no_grad():
        total = predicted.sum(dim=1, keepdim=True)  # (B', 1)
        places = pad_sequence([points[index].to(density) for index in some], batch_first=True)  # (B', N, 2)
        numbers = torch.tensor([len(points[index]) for index in some], device=density.device).unsqueeze(1)
        real = torch.arange(places.shape[1], device=density.device) < numbers
        weights = torch.where(real, 1 / numbers.to(density.dtype), 0.0)
        along_y, along_x = _squared_distances(places, size, block, normalised_coordinates)
        potentials, costs = _potentials(weights, predicted / (total + eps), along_y, along_x, domain)
        norm = total.square() + NORM_EPS
        gradient = total / norm * potentials - (predicted * potentials).sum(dim=1, keepdim=True) / norm
    return (predicted * gradient).sum(), costs.sum()


def dm_terms(
    density: Tensor,
    target: Tensor,
    points: Sequence[Tensor],
    block: int,
    *,
    eps: float = EBC_EPS,
    domain: Domain = "scaling",
    normalised_coordinates: bool = False,
) -> dict[str, Tensor]:
    """Return the terms of the DM loss; ``DM_WEIGHTS`` weighs them.

    Computed in float32 with autocast off (in float64 if the density is).

    Args:
        density: predicted objects per block [B, 1, h, w].
        target: true objects per block [B, 1, h, w].
        points: B tensors [N_b, 2], x and y in pixels of the image; they may lie outside it.
        block: edge of a block, pixels.
        eps: in the normalisation of both maps: ``EBC_EPS`` or ``DM_COUNT_EPS``.
        domain, normalised_coordinates: see ``transport``.

    Returns:
        ``count``: mean over images of |predicted - true count|; ``variation``: mean over images of the true count times
        the L1 distance of the normalised maps; ``transport``: see ``transport``; ``transport_cost``: of the plan, only
        recorded.
    """
    with without_autocast(density.device):
        density = full_precision(density)
        target = target.to(density)
        numbers = torch.tensor([len(each) for each in points], device=density.device, dtype=density.dtype)
        totals = density.sum(dim=(1, 2, 3))
        shares = density / (totals + eps)[:, None, None, None]
        true_shares = target / (numbers + eps)[:, None, None, None]
        value, cost = transport(
            density, points, block, eps=eps, domain=domain, normalised_coordinates=normalised_coordinates
        )
        return {
            "count": (totals - numbers).abs().mean(),
            "transport": value,
            "variation": (numbers * (shares - true_shares).abs().sum(dim=(1, 2, 3))).mean(),
            "transport_cost": cost,
        }


def dm_loss(terms: dict[str, Tensor]) -> Tensor:
    """Return count + 0.1 transport + 0.01 variation."""
    return terms["count"] + DM_WEIGHTS["transport"] * terms["transport"] + DM_WEIGHTS["variation"] * terms["variation"]
