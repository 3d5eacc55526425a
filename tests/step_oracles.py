"""Five training steps from a decoded JPEG, ours and an oracle's: what independent re-implementations of steps share.

An oracle is written from the specification of a system, with functions of torch alone: forward pass in training mode,
loss, gradient, optimiser. It sees the batches that ours saw (pictures, targets, points), starts from the same weights,
and draws its dropout masks from the same state of torch's generator: another number or shape of masks shows. Everything
is in double precision, so that rounding does not hide what differs.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from accelerate.state import AcceleratorState
from PIL import Image
from torch import Tensor

from recount import systems
from recount.data.pool import ImagePool
from recount.data.sample import Sample
from recount.settings.base import merged
from recount.settings.recipe import Recipe, resolve_recipe
from recount.systems.base import Batch
from recount.training.loop import Trainer

STEPS = 5
State = dict[str, Tensor]
IMAGENET = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # mean and deviation
ANCHORS = (0.0, 1.0, 2.0, 3.0, 4.21937)  # of CLIP-EBC's bins for UCF-QNRF
PATTERNS: dict[str, Callable[[np.random.Generator], np.ndarray]] = {  # points in units of the picture's edges
    "six": lambda rng: rng.uniform(0.3, 0.7, (6, 2)),
    "none": lambda rng: np.zeros((0, 2)),
    "one": lambda rng: rng.uniform(0.4, 0.6, (1, 2)),
    "coincident": lambda rng: np.repeat(rng.uniform(0.4, 0.6, (4, 2)), (3, 2, 1, 1), axis=0),
    "on the border": lambda rng: np.concatenate([np.mgrid[0:3, 0:3].reshape(2, -1).T / 2, rng.uniform(0, 1, (3, 2))]),
}


@dataclass(frozen=True)
class Scene:
    """Pictures to train on: their size, name -> pattern of points, how many make a batch (an epoch), and a seed."""

    width: int
    height: int
    pictures: dict[str, str]
    batch: int = 2
    seed: int = 3


SCENES: dict[str, Scene] = {
    "crowd": Scene(192, 160, {"crowd": "six", "nobody": "none"}),
    "edges": Scene(288, 144, {"one": "one", "pairs": "coincident", "border": "on the border"}, 3, 17),
}


IN_SCENES = pytest.mark.parametrize(
    "scene", [pytest.param(s, marks=pytest.mark.more) if s != "crowd" else s for s in SCENES]
)


def jpeg_pool(folder: Path, scene: str = "crowd") -> ImagePool:
    """Return the JPEGs of a scene: squares at the points of a pattern, on noise."""
    shape, samples = SCENES[scene], []
    rng, size = np.random.default_rng(shape.seed), (shape.width, shape.height)
    for name, pattern in shape.pictures.items():
        pixels = rng.integers(0, 120, (shape.height, shape.width, 3), dtype=np.uint8)
        points = (PATTERNS[pattern](rng) * size).astype(np.float32)
        for x, y in points.astype(int):
            pixels[max(y - 4, 0) : y + 4, max(x - 4, 0) : x + 4] = 250
        path = folder / f"{name}.jpg"
        Image.fromarray(pixels).save(path, quality=90)
        samples.append(Sample(name, "train", path, points, float(len(points)), "six red circles", *size))
    return ImagePool(samples, 1.0)


@dataclass
class Trained:
    """What a training of five steps began with, saw and made."""

    system: Any  # trained
    recipe: Recipe
    start: State
    end: State
    batches: list[Batch]
    generator: Tensor  # torch's, before the first step


def doubled(batch: Batch) -> Batch:
    """Return a batch in double precision."""
    maps = {name: value.double() if value.is_floating_point() else value for name, value in batch.maps.items()}
    points = [each.double() for each in batch.points]
    return replace(batch, images=batch.images.double(), maps=maps, points=points, counts=batch.counts.double())


def copied(state: State) -> State:
    """Return a state dict that later steps do not change."""
    return {name: value.detach().clone() for name, value in state.items()}


def trained(
    name: str,
    folder: Path,
    scene: str = "crowd",
    *,
    pool: Any = None,
    recipe: dict[str, Any] | None = None,
    opened: str = "",
    **over: Any,
) -> Trained:
    """Train a system at mini size for five steps with its own recipe; weights are stirred, so that nothing is dead.

    ``opened`` names the bias before a last ReLU that would else be shut for all pictures.
    """
    fixed = SCENES[scene]
    AcceleratorState._reset_state(reset_partial_state=True)
    system_class = systems.load(name)
    torch.manual_seed(fixed.seed + 1)
    system = system_class(system_class.Settings.model_validate(merged(system_class.mini_settings(), over)))
    five = {"epochs": STEPS, "max_steps": STEPS, "batch_size": fixed.batch, "evaluate_every": None, "held_out": 0.0}
    resolved = resolve_recipe(system_class.recipe, merged(five, recipe or {}))
    batches: list[Batch] = []
    seen: dict[str, Any] = {}
    losses, stages = system.losses, system.stages

    def watched_losses(batch: Batch) -> dict[str, Tensor]:
        batches.append(doubled(batch))
        return losses(batches[-1])

    def watched_stages(recipe: Recipe) -> Any:  # called once, before the first step
        system.double()
        stirring = torch.Generator().manual_seed(fixed.seed - 2)
        for parameter in system.parameters():
            parameter.data.add_(0.02 * torch.randn(parameter.shape, generator=stirring, dtype=torch.float64))
        if opened:
            system.get_parameter(opened).data.fill_(0.5)
        seen["start"], seen["generator"] = copied(system.state_dict()), torch.get_rng_state()
        return stages(recipe)

    system.losses, system.stages = watched_losses, watched_stages
    options: dict[str, Any] = {
        "watched": {},
        "seed": fixed.seed + 2,
        "folder": folder,
        "made_from": "d",
        "device": torch.device("cpu"),
    }
    Trainer(system, resolved, pool or jpeg_pool(folder, scene), **options).train()
    return Trained(system, resolved, end=copied(system.state_dict()), batches=batches, **seen)


Loss = Callable[[State, Batch, int], Tensor]  # of (weights, batch, step)
Update = Callable[[State, Tensor, Tensor, float, float, int], Tensor]  # (memory, p, gradient, rate, decay, step) -> p


def adam(betas: tuple[float, float] = (0.9, 0.999), eps: float = 1e-8, *, decoupled: bool = False) -> Update:
    """Return Adam (weight decay in the gradient), or AdamW (``decoupled``)."""

    def update(memory: State, p: Tensor, g: Tensor, rate: float, decay: float, step: int) -> Tensor:
        p, g = (p * (1 - rate * decay), g) if decoupled else (p, g + decay * p)
        m = memory["m"] = betas[0] * memory.get("m", torch.zeros_like(g)) + (1 - betas[0]) * g
        v = memory["v"] = betas[1] * memory.get("v", torch.zeros_like(g)) + (1 - betas[1]) * g * g
        m, v = m / (1 - betas[0] ** step), v / (1 - betas[1] ** step)
        return p - rate * m / (v.sqrt() + eps)

    return update


def radam(memory: State, p: Tensor, g: Tensor, rate: float, decay: float, step: int) -> Tensor:
    """RAdam's first five steps, whose variance is not yet tractable: momentum without adaptation."""
    m = memory["m"] = 0.9 * memory.get("m", torch.zeros_like(g)) + 0.1 * g
    return p - rate * m / (1 - 0.9**step)


def sgd(memory: State, p: Tensor, g: Tensor, rate: float, decay: float, step: int) -> Tensor:
    """SGD with momentum 0.9 and weight decay in the gradient."""
    g = g + decay * p
    m = memory["m"] = 0.9 * memory["m"] + g if "m" in memory else g
    return p - rate * m


def oracle(
    begun: Trained,
    loss: Loss,
    update: Update,
    *,
    trains: Callable[[str], bool],
    rate: Callable[[str, int], float],
    decay: Callable[[str, Tensor], float],
    clip_norm: float = math.inf,
    after: Callable[[str, Tensor], Tensor] = lambda _, p: p,
    gradient: Callable[[str, Tensor], Tensor] = lambda _, g: g,
    batches: Sequence[Batch] | None = None,
    start: State | None = None,
) -> State:
    """Return the weights after an oracle's steps; ``rate`` is of (name, step from 0), ``decay`` of (name, weight)."""
    weights = copied(begun.start if start is None else start)
    torch.set_rng_state(begun.generator)
    memories: dict[str, tuple[State, int]] = {}  # what the optimiser keeps, and how often it moved the weight
    largest = 0.0
    for step, batch in enumerate(begun.batches if batches is None else batches):
        leaves = {n: w.requires_grad_() for n, w in weights.items() if w.is_floating_point() and trains(n)}
        found = torch.autograd.grad(loss(weights, batch, step), list(leaves.values()), allow_unused=True)
        gradients = {n: gradient(n, g) for n, g in zip(leaves, found, strict=True) if g is not None}
        norm = math.sqrt(sum(float(g.square().sum()) for g in gradients.values()))
        factor, largest = min(1.0, clip_norm / (norm + 1e-6)), max(largest, norm)
        weights = {n: w.detach() for n, w in weights.items()}
        for n, g in gradients.items():
            memory, times = memories.get(n, ({}, 0))
            moved = update(memory, weights[n], factor * g, rate(n, step), decay(n, weights[n]), times + 1)
            weights[n] = after(n, moved)
            memories[n] = memory, times + 1
    assert largest > 0, "no step had a gradient: nothing but the decay would be compared"
    return weights


def assert_same_updates(begun: Trained, expected: State, tolerance: float = 1e-5) -> None:
    """Assert that ours moved every weight as the oracle did, relative to the largest move of each tensor."""
    floating = [n for n, w in expected.items() if w.is_floating_point() and w.numel()]
    moves = {n: float((expected[n] - begun.start[n]).abs().max()) for n in floating}
    apart = {n: float((begun.end[n] - expected[n]).abs().max()) for n in floating}
    most = max(moves.values())
    assert most > 0, "nothing was trained"
    # what moves a thousand times less has no gradient but rounding
    wrong = {n: (apart[n], moves[n]) for n in floating if apart[n] > tolerance * max(moves[n], most / 1000)}
    assert not wrong, f"(difference, largest move) of {wrong}"


def assert_same_predictions(
    begun: Trained, predicted: Callable[[State, Tensor], Tensor], *sizes: tuple[int, ...]
) -> None:
    """Assert that ours, as trained, predicts in evaluation mode the density that the oracle does.

    ``predicted`` is of weights and pictures in [0, 1]; these are made by formula, in batches of ``sizes`` [B, H, W].
    """
    begun.system.eval()
    for number, (batch, height, width) in enumerate(sizes):
        angles = (0.61 + 0.1 * number) * torch.arange(1, 1 + batch * 3 * height * width, dtype=torch.float64) + 0.3
        images = (0.5 + 0.5 * angles.sin()).view(batch, 3, height, width)
        _Mode.training = False
        try:
            with torch.no_grad():
                want = predicted(copied(begun.end), images)
                ours = begun.system.predict(images, ["six red circles"] * batch).density
        finally:
            _Mode.training = True
        assert ours.shape == want.shape
        assert float(want.abs().max()) > 0, "nothing is predicted"
        apart, largest = float((ours - want).abs().max()), float(want.abs().max())
        assert apart <= 1e-5 * largest, f"{height} x {width}: {apart} apart, of up to {largest}"


class _Mode:
    training = True  # whether the parts below compute as in training


# ------------------------------------------------------------------------------------------------ parts of networks


def dropout(x: Tensor, rate: float) -> Tensor:
    """Dropout; nothing in evaluation mode."""
    return F.dropout(x, rate, _Mode.training)


def dropped(x: Tensor, rate: float) -> Tensor:
    """A residual path [B, ...], dropped for whole samples; nothing in evaluation mode."""
    if not rate or not _Mode.training:
        return x
    kept = torch.empty(len(x), *[1] * (x.ndim - 1), dtype=x.dtype).bernoulli_(1 - rate)
    return x * kept / (1 - rate)


def conv(w: State, name: str, x: Tensor, **how: Any) -> Tensor:
    """A convolution; ``padding`` keeps the size unless told otherwise."""
    weight = w[f"{name}.weight"]
    return F.conv2d(x, weight, w.get(f"{name}.bias"), padding=how.pop("padding", weight.shape[-1] // 2), **how)


def linear(w: State, name: str, x: Tensor) -> Tensor:
    """A linear layer."""
    return x @ w[f"{name}.weight"].T + w[f"{name}.bias"]


def norm(w: State, name: str, x: Tensor, eps: float = 1e-5) -> Tensor:
    """LayerNorm over the last axis."""
    centred = x - x.mean(-1, keepdim=True)
    return centred / (centred.square().mean(-1, keepdim=True) + eps).sqrt() * w[f"{name}.weight"] + w[f"{name}.bias"]


def batch_norm(w: State, name: str, x: Tensor) -> Tensor:
    """BatchNorm, which in training mode moves its running statistics in ``w``."""
    if not _Mode.training:
        return frozen_norm(w, name, x)
    mean, var = x.mean((0, 2, 3)), x.var((0, 2, 3), unbiased=False)
    number = x.numel() // x.shape[1]
    with torch.no_grad():
        w[f"{name}.running_mean"] = 0.9 * w[f"{name}.running_mean"] + 0.1 * mean
        w[f"{name}.running_var"] = 0.9 * w[f"{name}.running_var"] + 0.1 * var * number / (number - 1)
    shape = (1, -1, 1, 1)
    x = (x - mean.view(shape)) / (var.view(shape) + 1e-5).sqrt()
    return x * w[f"{name}.weight"].view(shape) + w[f"{name}.bias"].view(shape)


def frozen_norm(w: State, name: str, x: Tensor) -> Tensor:
    """BatchNorm by its running statistics."""
    mean, var, scale, shift = (
        w[f"{name}.{n}"][:, None, None] for n in ("running_mean", "running_var", "weight", "bias")
    )
    return (x - mean) / (var + 1e-5).sqrt() * scale + shift


def group_norm(w: State, name: str, x: Tensor, groups: int = 8) -> Tensor:
    """GroupNorm."""
    return F.group_norm(x, groups, w[f"{name}.weight"], w[f"{name}.bias"])


def larger(x: Tensor, size: Any, *, corners: bool = False) -> Tensor:
    """Bilinear interpolation to a factor (int) or a size."""
    to = {"scale_factor": size} if isinstance(size, int) else {"size": size}
    return F.interpolate(x, mode="bilinear", align_corners=corners, **to)


def single(values: Sequence[float]) -> Tensor:
    """Numbers as the networks hold them: rounded to single precision."""
    return torch.tensor(values, dtype=torch.float32).double()


def imagenet(x: Tensor, mean: Sequence[float] = IMAGENET[0], std: Sequence[float] = IMAGENET[1]) -> Tensor:
    """Pictures in [0, 1], normalised."""
    return (x - single(mean).view(1, 3, 1, 1)) / single(std).view(1, 3, 1, 1)


def as_clip_sees(x: Tensor) -> Tensor:
    """Pictures in [0, 1], normalised by CLIP's mean and deviation."""
    return imagenet(x, (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711))


def quick_gelu(x: Tensor) -> Tensor:
    """CLIP's activation."""
    return x * torch.sigmoid(1.702 * x)


def attend(q: Tensor, k: Tensor, v: Tensor, heads: int, mask: Tensor | None = None) -> Tensor:
    """Attention of [B, N, C] over [B, M, C]."""
    q, k, v = (x.unflatten(-1, (heads, -1)).transpose(1, 2) for x in (q, k, v))
    scores = q @ k.mT / math.sqrt(q.shape[-1]) + (0 if mask is None else mask)
    return (scores.softmax(-1) @ v).transpose(1, 2).flatten(2)


def clip_block(w: State, name: str, x: Tensor, heads: int, act: Any = quick_gelu, mask: Tensor | None = None) -> Tensor:
    """One of CLIP's residual blocks."""
    n = norm(w, f"{name}.ln_1", x)
    q, k, v = (n @ w[f"{name}.attn.in_proj_weight"].T + w[f"{name}.attn.in_proj_bias"]).chunk(3, -1)
    x = x + linear(w, f"{name}.attn.out_proj", attend(q, k, v, heads, mask))
    return x + linear(w, f"{name}.mlp.c_proj", act(linear(w, f"{name}.mlp.c_fc", norm(w, f"{name}.ln_2", x))))


def patch_tokens(w: State, name: str, x: Tensor) -> Tensor:
    """Class token and patches with their positions."""
    kernel = w[f"{name}.conv1.weight"]
    patches, places = F.conv2d(x, kernel, stride=kernel.shape[-1]), w[f"{name}.positional_embedding"]
    edge = math.isqrt(len(places) - 1)
    if patches.shape[2:] != (edge, edge):
        grid = places[1:].T.unflatten(1, (edge, edge))[None]
        grid = F.interpolate(grid, patches.shape[2:], mode="bicubic", align_corners=False)
        places = torch.cat([places[:1], grid[0].flatten(1).T])
    first = w[f"{name}.class_embedding"].expand(len(x), 1, -1)
    return torch.cat([first, patches.flatten(2).mT], 1) + places


def clip_text(w: State, name: str, ids: Tensor, heads: int, layers: int, act: Any = quick_gelu) -> Tensor:
    """Features of token rows, not normalised, read at the end token, which has the highest id."""
    return text_states(w, name, w[f"{name}token_embedding.weight"][ids], ids.argmax(1), heads, layers, act)


def text_states(w: State, name: str, x: Tensor, at: Tensor, heads: int, layers: int, act: Any = quick_gelu) -> Tensor:
    """Features of embedded tokens [K, L, C], read at ``at``."""
    length = x.shape[1]
    x = x + w[f"{name}positional_embedding"][:length]
    mask = torch.full((length, length), -math.inf, dtype=x.dtype).triu(1)
    for i in range(layers):
        x = clip_block(w, f"{name}transformer.resblocks.{i}", x, heads, act, mask)
    return norm(w, f"{name}ln_final", x)[torch.arange(len(x)), at] @ w[f"{name}text_projection"]


def dm_loss(density: Tensor, blocks: Tensor, points: Sequence[Tensor], cell: int = 8, eps: float = 1e-8) -> Tensor:
    """The distribution-matching loss, image by image, from its pseudocode (count + 0.1 OT + 0.01 TV)."""
    total = density.new_zeros(())
    for d, t, p in zip(density[:, 0], blocks[:, 0], points, strict=True):
        n, mass = float(len(p)), d.sum()
        total = total + ((mass - n).abs() + 0.01 * n * (d / (mass + eps) - t / (n + eps)).abs().sum()) / len(density)
        if len(p):
            total = total + 0.1 * (d * _dual_gradient(d.detach(), p, cell, eps)).sum()
    return total


def _dual_gradient(d: Tensor, p: Tensor, cell: int, eps: float) -> Tensor:
    height, width = d.shape
    ys, xs = (torch.arange(n, dtype=d.dtype) * cell + cell / 2 for n in (height, width))
    cost = ((p[:, 1:, None] - ys.view(1, -1, 1)) ** 2 + (p[:, :1, None] - xs.view(1, 1, -1)) ** 2).flatten(1)
    kernel, b = torch.exp(-cost / 10), (d / (d.sum() + eps)).flatten()
    a = torch.full((len(p),), 1 / len(p), dtype=d.dtype)
    u = a.clone()
    for i in range(1, 101):
        v = b / (kernel.T @ u + 1e-16)
        u = a / (kernel @ v + 1e-16)
        if i % 10 == 0 and float(((b - v * (kernel.T @ u)) ** 2).sum()) <= 1e-9:
            break
    beta, s = 10 * torch.log(v + 1e-16), d.sum()
    return (s / (s**2 + 1e-8) * beta - (d.flatten() @ beta) / (s**2 + 1e-8)).view_as(d)


def classes_of(blocks: Tensor) -> Tensor:
    """The bin of each block: 0, 1, 2, 3, or four and more."""
    return blocks[:, 0].round().long().clamp(max=4)


def expected(logits: Tensor) -> Tensor:
    """The density: the mean of the bins' anchors under the softmax of logits [B, 5, h, w]."""
    return (logits.softmax(1) * single(ANCHORS).view(1, -1, 1, 1)).sum(1, keepdim=True)


def block_cross_entropy(logits: Tensor, classes: Tensor) -> Tensor:
    """Sum over blocks, mean over images."""
    return -logits.log_softmax(1).gather(1, classes[:, None]).sum() / len(logits)
