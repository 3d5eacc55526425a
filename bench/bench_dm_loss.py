"""DM loss of 48 crops: all images together against one after the other, as the released code computes it.

The per-image loop is the plain algorithm of DM-Count and CLIP-EBC (a stored [points, blocks] kernel, matrix-vector
products, a look at the values after every iteration); both give the same gradient, which is checked before timing.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from itertools import product

import torch
from torch import Tensor

from recount.nn.bins import block_counts
from recount.nn.dm_loss import CHECK_EVERY, DM_WEIGHTS, FLOOR, ITERATIONS, NORM_EPS, REGULARISATION, TOLERANCE, dm_terms

CROPS, SIZE, BLOCK = 48, 224, 8
# points per crop are LARGEST_CROWD * u^power: UCF-QNRF has about 15 heads per 224 x 224 pixels at 2048 pixels, unevenly
LARGEST_CROWD = 500
CROWDS = {"as in UCF-QNRF": 24, "dense": 3}
REPEATS = 5
TARGET = 5.0  # how much faster the batch has to be


def crops(device: str, power: int) -> tuple[Tensor, list[Tensor], Tensor]:
    """Return densities [48, 1, 28, 28], points (few to 500, some crops empty), and block counts."""
    generator = torch.Generator().manual_seed(0)
    density = torch.rand(CROPS, 1, SIZE // BLOCK, SIZE // BLOCK, generator=generator)
    numbers = (torch.rand(CROPS, generator=generator) ** power * LARGEST_CROWD).long().tolist()
    points = [torch.rand(number, 2, generator=generator) * SIZE for number in numbers]
    target = torch.stack([block_counts(each, SIZE, SIZE, BLOCK) for each in points])
    return density.to(device), [each.to(device) for each in points], target.to(device)


def _sinkhorn(source: Tensor, target: Tensor, kernel: Tensor) -> Tensor:
    left = source
    right = torch.full_like(target, 1 / len(target))
    for iteration in range(1, ITERATIONS + 1):
        before = left, right
        right = target / (kernel.T @ left + FLOOR)
        left = source / (kernel @ right + FLOOR)
        if torch.isnan(left).any() or torch.isnan(right).any() or torch.isinf(left).any() or torch.isinf(right).any():
            left, right = before
            break
        if iteration % CHECK_EVERY == 0 and (target - right * (kernel.T @ left)).square().sum().item() <= TOLERANCE:
            break
    return REGULARISATION * torch.log(right + FLOOR)


def _weighted(terms: dict[str, Tensor]) -> Tensor:
    return torch.stack([DM_WEIGHTS[name] * term for name, term in terms.items()]).sum()


def _one_by_one(density: Tensor, points: list[Tensor]) -> Tensor:
    centres = torch.arange(density.shape[2], device=density.device) * BLOCK + BLOCK / 2
    value = density.new_zeros(())
    for image, places in zip(density, points, strict=True):
        if not len(places):
            continue
        predicted, total = image.flatten(), image.detach().sum()
        along_x = (places[:, :1] - centres).square()
        along_y = (places[:, 1:] - centres).square()
        cost = (along_y[:, :, None] + along_x[:, None, :]).flatten(1)
        source = torch.full_like(places[:, 0], 1 / len(places))
        beta = _sinkhorn(source, predicted.detach() / (total + NORM_EPS), torch.exp(-cost / REGULARISATION))
        norm = total.square() + NORM_EPS
        value = value + (predicted * (total / norm * beta - (predicted.detach() * beta).sum() / norm)).sum()
    return value


def loop(density: Tensor, points: list[Tensor], target: Tensor) -> Tensor:
    """Return the DM loss with the transport term computed image by image."""
    terms = dm_terms(density, target, [each[:0] for each in points], BLOCK)
    numbers = torch.tensor([len(each) for each in points], device=density.device, dtype=density.dtype)
    totals = density.sum(dim=(1, 2, 3))
    shares = density / (totals + NORM_EPS)[:, None, None, None]
    truth = target / (numbers + NORM_EPS)[:, None, None, None]
    terms["count"] = (totals - numbers).abs().mean()
    terms["variation"] = (numbers * (shares - truth).abs().sum(dim=(1, 2, 3))).mean()
    terms["transport"] = _one_by_one(density, points)
    return _weighted(terms)


def together(density: Tensor, points: list[Tensor], target: Tensor) -> Tensor:
    """Return the DM loss as recount computes it."""
    return _weighted(dm_terms(density, target, points, BLOCK))


def clock(device: str) -> float:
    """Return seconds: of processor time on a CPU, where other work must not count, and of wall time on a GPU."""
    if device == "cpu":
        return time.process_time()
    torch.cuda.synchronize()
    return time.perf_counter()


def timed(loss: Callable[..., Tensor], device: str, power: int) -> tuple[float, Tensor]:
    """Return seconds per loss with its gradient (the best of a few), and the gradient."""
    density, points, target = crops(device, power)
    density.requires_grad_()
    best, gradient = float("inf"), density
    for _ in range(REPEATS):
        start = clock(device)
        (gradient,) = torch.autograd.grad(loss(density, points, target), density)
        best = min(best, clock(device) - start)
    return best, gradient


def main() -> None:
    """Print seconds per batch on each device."""
    devices = ["cpu"] + (["cuda"] if torch.cuda.is_available() else [])
    print(f"DM loss and gradient, {CROPS} crops of {SIZE} px, block {BLOCK}")
    print(f"{'device':8}{'crowd':16}{'points':>8}{'one by one':>14}{'together':>12}{'factor':>9}")
    for device, (crowd, power) in product(devices, CROWDS.items()):
        slow, expected = timed(loop, device, power)
        fast, gradient = timed(together, device, power)
        torch.testing.assert_close(gradient, expected, rtol=1e-3, atol=1e-3)
        total = sum(len(each) for each in crops("cpu", power)[1])
        verdict = "" if slow / fast >= TARGET else f"  below the {TARGET:.0f} that are wanted"
        print(f"{device:8}{crowd:16}{total:>8}{slow:>12.3f} s{fast:>10.3f} s{slow / fast:>9.1f}{verdict}")


if __name__ == "__main__":
    main()
