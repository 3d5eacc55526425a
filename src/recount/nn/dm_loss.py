"""Distribution matching for counting: count, optimal-transport and total-variation loss over a batch of images.

Wang et al., "Distribution Matching for Crowd Counting" (NeurIPS 2020), as CLIP-EBC and GigaCount use it.
Numbers checked against Yiming-M/CLIP-EBC@b52a594 (losses/dm_loss.py, losses/bregman_pytorch.py) and
cvlab-stonybrook/DM-Count@cc5f213 (golden cases ``dm_loss.json``).

Deviations: the Sinkhorn iterations of all images run together, as products with one block-diagonal sparse kernel; each
image still stops by its own rule. Entries of the kernel too small to move a sum that holds the floor are zero: in
single precision that is everything beyond 30 pixels. How many are stored follows from shapes, not from values, so that
a card is not waited for; what it iterates beyond the stop of all images changes nothing. The released code also stops
before the first value that is not finite; with the floors there is none unless the density itself is not finite, and
then neither is the loss.
"""

import math
import warnings
from collections.abc import Sequence

import torch
from torch import Tensor

from recount.nn.precision import full_precision, without_autocast
from recount.nn.reads import worth_reading

REGULARISATION = 10.0
ITERATIONS = 100
TOLERANCE = 1e-9
CHECK_EVERY = 10
FLOOR = 1e-16  # added to each denominator and inside each logarithm of the Sinkhorn iterations
NEGLIGIBLE = 1e-48  # a scaling is at most 1/FLOOR, so times this it is nothing beside FLOOR, in double precision too
NORM_EPS = 1e-8  # in the gradient of the transport term
EBC_EPS = 1e-8  # in the normalisation of predicted and true map: CLIP-EBC, GigaCount
DM_COUNT_EPS = 1e-6  # the same in DM-Count's own code

DM_WEIGHTS = {"count": 1.0, "transport": 0.1, "variation": 0.01, "transport_cost": 0.0}
DM_SUMS = frozenset({"transport", "transport_cost"})  # the terms that are sums over images, not means


def sinkhorn(
    source: Tensor, target: Tensor, kernel: Tensor, transposed: Tensor, start: Tensor, *, iterations: int = ITERATIONS
) -> tuple[Tensor, Tensor]:
    """Scale B kernels so that their marginals become ``source`` [P] and ``target`` [B, M]; return u [P] and v [B, M].

    ``kernel`` is block-diagonal, exp(-C/regularisation) [P, B*M], dense or CSR; ``start`` [P] is u before the first
    iteration. Each problem stops by itself at a squared marginal error up to ``TOLERANCE``; the plan is u * K * v.
    """
    left, goal = start, target.flatten()
    kept, result, stopped = start, target, torch.zeros(len(target), dtype=torch.bool, device=target.device)
    for iteration in range(1, iterations + 1):
        right = goal / (transposed @ left + FLOOR)
        left = source / (kernel @ right + FLOOR)
        check, between = divmod(iteration, CHECK_EVERY)
        if between and iteration < iterations:
            continue
        kept = torch.where(stopped.all(), kept, left)
        result = torch.where(stopped[:, None], result, right.view_as(target))
        errors = (goal - right * (transposed @ left)).square().view_as(target).sum(dim=1)
        stopped = stopped | (errors <= TOLERANCE)
        if iteration < iterations and worth_reading(check, target.device) and stopped.all():
            break
    return kept, result


def _squared_distances(points: Tensor, size: tuple[int, int], block: int, normalised: bool) -> tuple[Tensor, Tensor]:
    # along y [P, h] and along x [P, w]
    distances = []
    for axis, cells in ((1, size[0]), (0, size[1])):
        centres = torch.arange(cells, device=points.device, dtype=points.dtype) * block + block / 2
        places = points[:, axis : axis + 1]
        if normalised:
            centres, places = (2 * value / (cells * block) - 1 for value in (centres, places))
        distances.append((places - centres).square())
    return distances[0], distances[1]


def _window(distances: Tensor, reach: float, spacing: float) -> tuple[Tensor, Tensor]:
    # indices [P, n] of adjacent cells, ``spacing`` apart, that cover all cells within reach, and their distances [P, n]
    width = min(distances.shape[1], int(2 * math.sqrt(reach) / spacing) + 1)
    first = (distances <= reach).int().argmax(dim=1).clamp(max=distances.shape[1] - width)
    cells = first.unsqueeze(1) + torch.arange(width, device=distances.device)
    return cells, distances.gather(1, cells)


def _csr(starts: Tensor, columns: Tensor, values: Tensor, size: tuple[int, ...]) -> Tensor:
    # indices of 32 bits, because wider ones would be converted at every product
    with warnings.catch_warnings():
        # torch calls the format beta; all that is used of it here is the product with a vector
        warnings.filterwarnings("ignore", message="Sparse CSR tensor support is in beta")
        return torch.sparse_csr_tensor(starts.int(), columns.int(), values, size=size, check_invariants=False)


def _kernel(
    along_y: Tensor, along_x: Tensor, spacings: tuple[float, float], owners: Tensor, images: int
) -> tuple[Tensor, Tensor, Tensor]:
    """Return the kernel [P, images*h*w], its transpose, and the costs of its entries; owners [P] are the images."""
    height, width, device = along_y.shape[1], along_x.shape[1], owners.device
    reach = -REGULARISATION * math.log(max(torch.finfo(along_y.dtype).tiny, NEGLIGIBLE))
    (cells_y, near_y), (cells_x, near_x) = (
        _window(along, reach, spacing) for along, spacing in zip((along_y, along_x), spacings, strict=True)
    )
    costs = (near_y.unsqueeze(2) + near_x.unsqueeze(1)).flatten()  # P windows
    columns = ((owners[:, None, None] * height + cells_y.unsqueeze(2)) * width + cells_x.unsqueeze(1)).flatten()
    values = torch.where(costs <= reach, torch.exp(-costs / REGULARISATION), 0.0)
    points, entries = len(owners), near_y.shape[1] * near_x.shape[1]  # of a row
    size = (points, images * height * width)
    ordered, order = torch.sort(columns.int(), stable=True)
    starts = torch.searchsorted(ordered, torch.arange(size[1] + 1, dtype=ordered.dtype, device=device))
    transposed = _csr(starts, order // entries, values[order], size[::-1])
    return _csr(torch.arange(points + 1, device=device) * entries, columns, values, size), transposed, costs


def transport(
    density: Tensor, points: Sequence[Tensor], block: int, *, eps: float = EBC_EPS, normalised_coordinates: bool = False
) -> tuple[Tensor, Tensor]:
    """Return DM-Count's optimal-transport loss (section 4), and the plan's cost in pixels squared without a gradient.

    The sum over images with points of <density, g>, where g, the gradient of the dual objective, is held constant: the
    value is about 0, only its gradient acts. As a sum, it grows with the batch.
    """
    some = [index for index, each in enumerate(points) if len(each)]
    if not some:
        return 0.0 * density.sum(), density.new_zeros(())
    predicted = density[some].flatten(1)  # (B', h*w)
    with torch.no_grad():
        total = predicted.sum(dim=1, keepdim=True)  # (B', 1)
        sizes = torch.tensor([len(points[index]) for index in some], device=density.device)
        places = torch.cat([points[index] for index in some]).to(density)
        images = torch.arange(len(some), device=density.device)
        owners = torch.repeat_interleave(images, sizes, output_size=len(places))  # (P)
        weights = (1 / sizes.to(density.dtype))[owners]
        size = (density.shape[2], density.shape[3])
        spacings = (2 / size[0], 2 / size[1]) if normalised_coordinates else (float(block), float(block))
        kernel, transposed, costs = _kernel(
            *_squared_distances(places, size, block, normalised_coordinates), spacings, owners, len(some)
        )
        left, right = sinkhorn(weights, predicted / (total + eps), kernel, transposed, start=weights)
        weighted = _csr(kernel.crow_indices(), kernel.col_indices(), kernel.values() * costs, kernel.shape)
        cost = (left * (weighted @ right.flatten())).sum()
        potentials = REGULARISATION * torch.log(right + FLOOR)
        norm = total.square() + NORM_EPS
        gradient = total / norm * potentials - (predicted * potentials).sum(dim=1, keepdim=True) / norm
    return (predicted * gradient).sum(), cost


def dm_terms(
    density: Tensor,
    target: Tensor,
    points: Sequence[Tensor],
    block: int,
    *,
    eps: float = EBC_EPS,
    normalised_coordinates: bool = False,
) -> dict[str, Tensor]:
    """Return the terms of DM-Count's overall loss (section 4), which ``DM_WEIGHTS`` weighs, in float32 or float64.

    ``density`` and ``target`` are objects per block of ``block`` pixels [B, 1, h, w], ``points`` B tensors [N_b, 2] in
    pixels, also outside the image. ``count``: mean of |predicted - true count|; ``variation``: mean of the true count
    times the L1 distance of the normalised maps. ``normalised_coordinates`` in [-1, 1] were never used.
    """
    with without_autocast(density.device):
        density = full_precision(density)
        target = target.to(density)
        numbers = torch.tensor([len(each) for each in points], device=density.device, dtype=density.dtype)
        totals = density.sum(dim=(1, 2, 3))
        shares = density / (totals + eps)[:, None, None, None]
        true_shares = target / (numbers + eps)[:, None, None, None]
        value, cost = transport(density, points, block, eps=eps, normalised_coordinates=normalised_coordinates)
        return {
            "count": (totals - numbers).abs().mean(),
            "transport": value,
            "variation": (numbers * (shares - true_shares).abs().sum(dim=(1, 2, 3))).mean(),
            "transport_cost": cost,
        }
