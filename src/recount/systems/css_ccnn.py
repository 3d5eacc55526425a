"""CSS-CCNN: a crowd counter that sees no label, only the largest count that may occur.

"Completely Self-Supervised Crowd Counting via Distribution Matching" (Babu Sam et al., ECCV 2022). Networks, prior,
losses and recipes were checked against val-iisc/css-ccnn@0d5691b (UCF-QNRF settings).

Stage 1, ``rotation``: features learn to tell by how many quarter turns a crop was turned. Stage 2, ``matching``: on the
frozen features a density head is trained so that the sums over blocks of 64 pixels are distributed like draws from a
truncated power law, compared by an entropic transport cost over all crops of a batch.

Deviations from the released code, none in the numbers of a step: the draws of the prior come with the crops (49 each),
so a resumed run repeats them, and are sampled by rejection from a Pareto law, not an exponential one (the same law, 100
times fewer trials). The selection has the same draws and crops in every epoch, and the 240 pictures that it
is made on are drawn by the run's seed (the authors drew theirs once and for all). "++" is not stopped when its sparse
term diverges. An image shorter than the crop (after the size rule; the code raises) is enlarged. "CSS-CCNN-Random" is
not in the code: stage 2 on the untrained net is inferred.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from recount.data.pictures import resize_like_opencv
from recount.data.size_rules import css_ccnn
from recount.nn.maps import blurred
from recount.nn.reads import worth_reading
from recount.nn.weights import read_released, read_tensors, renamed
from recount.settings.base import Strict
from recount.settings.recipe import Optimiser, Recipe, resolve_recipe
from recount.systems.base import Batch, Example, ExampleMaker, Pool, Prediction, Stage, System

# all from val-iisc/css-ccnn@0d5691b
ROTATIONS = 4
CHANNEL_MEANS = (104.008, 116.669, 122.675)  # subtracted from RGB in 0..255; the code's are in BGR order
BLOCK = 8  # cells of the output (8 pixels each) along an edge of a block
BLOCKS_PER_IMAGE = 4 * 16  # an image is thought of as 4 crops of 4 x 4 blocks
ALPHA = 2.0  # exponent of the power law
SHIFT_QUANTILE = 0.28  # of the law: draws below it are drawn again
DRAWS_PER_CROP = 49
EPSILON = 0.1  # weight of the entropy in the transport cost
ITERATIONS = 1000  # of Sinkhorn, at most
TOLERANCE = 0.1  # of the potentials' summed change
COST_WEIGHT = 0.01  # of the transport cost in the loss
LOSS_WEIGHTS = dict.fromkeys(("sinkhorn", "sinkhorn_sparse", "sinkhorn_dense"), COST_WEIGHT)
SPARSE_SHARE = 0.3  # "++": share of the blocks that count as sparse
VALIDATION_CROPS = 5  # "++": crops per held-out image in the selection (stage2_main++.py)
CANNY_LOW, CANNY_HIGH = 225, 250  # a ridge pixel above the first is an edge if it hangs on one above the second
EDGE_BLUR, EDGE_SIGMA = 5, 2.0  # "++": of the edge density, cells

IMAGENET_MEAN_255 = (123.675, 116.28, 103.53)
IMAGENET_STD_255 = (58.395, 57.12, 57.375)
# torchvision's vgg16_bn numbers its layers: the seven convolutions of the feature net (their normalisations follow)
VGG16_BN_LAYERS = {"1_1": 0, "1_2": 3, "2_1": 7, "2_2": 10, "3_1": 14, "3_2": 17, "3_3": 20}

ROTATION = Recipe(  # of stage 1
    epochs=1000,
    batch_size=16,
    drop_last=True,
    optimiser=Optimiser(name="sgd", lr=1e-3, momentum=0.9, weight_decay=1e-4),
    evaluate_every=1,
    select_by="own",
    held_out=240 / 1201,
)


class CssCcnnSettings(Strict):
    """CSS-CCNN on UCF-QNRF; ShanghaiTech A: cmax 3000, num_samples 482, rotation batch 4, "++": cmax 3500."""

    widths: tuple[int, int, int] = Field((64, 128, 256), description="channels of the three feature blocks")
    rotation_widths: tuple[int, int] = Field((128, 64), description="channels of the rotation head")
    density_widths: tuple[int, int] = Field((128, 64), description="channels of the density head")
    features: Literal["rotation", "random", "imagenet"] = Field("rotation", description="imagenet: VGG-16-BN (control)")
    feature_weights: str = Field("random", description="path of torchvision's vgg16_bn weights, for features: imagenet")
    crop: int = Field(224, gt=0, le=224, multiple_of=8, description="pixels; no edge of an image is below 224")
    maximum_size: int = Field(1024, gt=0, description="longest edge, stage 2 and test")
    rotation_maximum_size: int = Field(768, gt=0, description="longest edge, stage 1")
    cmax: float = Field(12000, gt=0, description="the one thing known of the data: the largest count of an image")
    num_samples: int = Field(1500, gt=1, description="draws among which one is expected beyond the largest block")
    split_by_edges: bool = Field(False, description='"++": match sparse and dense blocks separately')
    dense_weight: float = Field(0.01, ge=0, description='"++": weight of the dense term in the selection; 0.1 for A')
    rotation: Recipe = Field(ROTATION, description="recipe of stage 1")


class _Features(nn.Module):
    def __init__(self, widths: tuple[int, int, int]) -> None:
        super().__init__()
        one, two, three = widths
        channels = (3, one, one, two, two, three, three, three)
        for name, (before, after) in zip(VGG16_BN_LAYERS, pairwise(channels), strict=True):
            self.add_module(f"conv{name}", nn.Conv2d(before, after, 3, padding=1, bias=False))
            self.add_module(f"batch_norm_{name}", nn.BatchNorm2d(after))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        # the maps after the second pooling [B, 128, H/4, W/4] and the third block [B, 256, H/4, W/4]
        for name in VGG16_BN_LAYERS:
            if name in ("2_1", "3_1"):
                x = pooled = F.max_pool2d(x, 2)
            x = F.relu(self.get_submodule(f"batch_norm_{name}")(self.get_submodule(f"conv{name}")(x)))
        return pooled, x


class RotationHead(nn.Module):
    """Stage 1, rotation: which quarter turn; keys as released."""

    def __init__(self, channels: int, widths: tuple[int, int]) -> None:
        super().__init__()
        self.conv4_1 = nn.Conv2d(channels, widths[0], 3, padding=1, bias=False)
        self.batch_norm_4_1 = nn.BatchNorm2d(widths[0])
        self.conv5_1 = nn.Conv2d(widths[0], widths[1], 3, padding=1, bias=False)
        self.batch_norm_5_1 = nn.BatchNorm2d(widths[1])
        self.fc = nn.Linear(widths[1], ROTATIONS)

    def forward(self, x: Tensor) -> Tensor:
        """Return logits [B, 4] from the third block's map."""
        x = F.relu(self.batch_norm_4_1(self.conv4_1(F.max_pool2d(x, 2))))
        x = F.relu(self.batch_norm_5_1(self.conv5_1(F.max_pool2d(x, 2))))
        return self.fc(x.mean(dim=(2, 3)))


class DensityHead(nn.Module):
    """Stage 2, density from the hypercolumn; keys as released."""

    def __init__(self, channels: int, widths: tuple[int, int]) -> None:
        super().__init__()
        self.conv4_1 = nn.Conv2d(channels, widths[0], 3, padding=1)
        self.conv4_2 = nn.Conv2d(widths[0], widths[1], 3, padding=1)
        self.conv5_1 = nn.Conv2d(widths[1], 1, 3, padding=1)
        for name, parameter in self.named_parameters():
            nn.init.zeros_(parameter) if name.endswith("bias") else nn.init.normal_(parameter, std=0.01)

    def forward(self, pooled: Tensor, block: Tensor) -> Tensor:
        """Return the density [B, 1, H/8, W/8]."""
        x = F.relu(self.conv4_1(torch.cat((pooled, block), dim=1)))
        x = F.relu(self.conv4_2(x))
        return F.relu(self.conv5_1(F.max_pool2d(x, 2)))


@dataclass(frozen=True, slots=True)
class Prior:
    """The truncated power law that block counts are thought to follow: p(x) ~ x^-alpha exp(-rate x) for x >= 1."""

    rate: float
    threshold: float  # draws below are drawn again, uniform in [0, threshold)

    def draw(self, number: int, rng: np.random.Generator) -> np.ndarray:
        """Return ``number`` draws, float32."""
        draws = np.empty(0)
        while len(draws) < number:
            pareto = (1 - rng.random(2 * number)) ** (-1 / (ALPHA - 1))
            draws = np.append(draws, pareto[rng.random(2 * number) < np.exp(-self.rate * (pareto - 1))])
        draws = draws[:number]
        small = draws < self.threshold
        draws[small] = rng.uniform(0, self.threshold, int(small.sum()))
        return draws.astype(np.float32)


def _distribution(x: float, rate: float) -> float:
    # the released code's 1 - rate Gamma(-1, rate x), not normalised at x = 1; one step of the recurrence, because SciPy
    # has no incomplete gamma function of negative order
    from scipy.special import exp1

    z = rate * x
    return 1 - rate * float(math.exp(-z) / z - exp1(z))


def prior(cmax: float, num_samples: int) -> Prior:
    """Return the prior that follows from the largest count: golden ``css_ccnn_prior``."""
    largest, rare = cmax / BLOCKS_PER_IMAGE, 1 - 1 / num_samples
    rate = next((rate for rate in np.arange(0.001, 0.1, 0.001) if _distribution(largest, rate) > rare), None)
    if rate is None:
        raise ValueError(
            f"css_ccnn: cmax = {cmax} is too small for num_samples = {num_samples}: no rate up to 0.099 leaves less "
            "than one draw in num_samples beyond the largest block; raise cmax or lower num_samples"
        )
    threshold = next(value for value in np.arange(1.01, 10, 0.01) if _distribution(value, rate) > SHIFT_QUANTILE)
    return Prior(float(rate), round(float(threshold), 2))


def sinkhorn_cost(x: Tensor, y: Tensor) -> Tensor:
    """Return the Sinkhorn loss, the entropic transport cost between numbers x [N] and y [M]: ``css_ccnn_sinkhorn``.

    The gradient runs through all iterations, as released; each is recomputed in the backward pass to save memory. Those
    that a card computes beyond the rule to stop change nothing.
    """
    cost = (x[:, None] - y[None, :]) ** 2  # [N, M]
    log_a, log_b = (math.log(1 / len(numbers) + 1e-8) for numbers in (x, y))

    def step(u: Tensor, v: Tensor, cost: Tensor) -> tuple[Tensor, Tensor]:
        u = EPSILON * (log_a - torch.logsumexp((u[:, None] + v[None, :] - cost) / EPSILON, dim=1)) + u
        v = EPSILON * (log_b - torch.logsumexp((u[:, None] + v[None, :] - cost) / EPSILON, dim=0)) + v
        return u, v

    u, v, stopped = torch.zeros_like(x), torch.zeros_like(y), torch.zeros((), dtype=torch.bool, device=x.device)
    for iteration in range(1, ITERATIONS + 1):
        new_u, new_v = checkpoint(step, u, v, cost, use_reentrant=False, preserve_rng_state=False)
        change = (new_u - u).detach().abs().sum() + (new_v - v).detach().abs().sum()
        u, v = torch.where(stopped, u, new_u), torch.where(stopped, v, new_v)
        stopped = stopped | (change < TOLERANCE)
        if worth_reading(iteration, x.device) and stopped:
            break
    plan = torch.exp((u[:, None] + v[None, :] - cost) / EPSILON)
    return (plan * cost).sum()


def canny_edges(grey: np.ndarray) -> np.ndarray:
    """Return the Canny edges, bool [H, W], of a grey picture uint8 [H, W] as OpenCV finds them (3 x 3, |dx| + |dy|)."""
    from scipy import ndimage

    values = grey.astype(np.int64)
    dx = ndimage.sobel(values, axis=1, mode="nearest")
    dy = ndimage.sobel(values, axis=0, mode="nearest")
    strength = np.abs(dx) + np.abs(dy)
    ridge = (strength > CANNY_LOW) & _is_ridge(strength, dx, dy)
    parts, _ = ndimage.label(ridge, structure=np.ones((3, 3)))
    strong = np.unique(parts[ridge & (strength > CANNY_HIGH)])
    return ridge & np.isin(parts, strong)


def _is_ridge(strength: np.ndarray, dx: np.ndarray, dy: np.ndarray) -> np.ndarray:
    # where strength is largest across the edge: OpenCV's four directions, in its fixed-point numbers
    height, width = strength.shape
    around = np.pad(strength, 1)

    def neighbour(down: int, right: int) -> np.ndarray:
        return around[1 + down : 1 + down + height, 1 + right : 1 + right + width]

    run, rise = np.abs(dx), np.abs(dy) << 15
    slope_22 = run * 13573  # tan(22.5 degrees) in units of 2^-15
    slope_67 = slope_22 + (run << 16)
    horizontal = (strength > neighbour(0, -1)) & (strength >= neighbour(0, 1))
    vertical = (strength > neighbour(-1, 0)) & (strength >= neighbour(1, 0))
    falling = (strength > neighbour(-1, -1)) & (strength > neighbour(1, 1))
    rising = (strength > neighbour(-1, 1)) & (strength > neighbour(1, -1))
    diagonal = np.where((dx ^ dy) < 0, rising, falling)
    return np.where(rise < slope_22, horizontal, np.where(rise > slope_67, vertical, diagonal))


def edge_density(image: Tensor) -> Tensor:
    """Return the pseudo density of a picture [3, H, W] in [0, 1]: blurred edges per cell, float32 [1, H/8, W/8]."""
    # as coded: whole numbers throughout, and RGB turned to grey with the weights of BGR
    red, green, blue = (image * 255).round().long().cpu().numpy()
    grey = ((red * 1868 + green * 9617 + blue * 4899 + (1 << 13)) >> 14).astype(np.uint8)
    edges = torch.from_numpy(canny_edges(grey).astype(np.float32) * 255)[None, None]
    height, width = edges.shape[-2] // 8, edges.shape[-1] // 8
    small = F.interpolate(edges, (height, width), mode="bilinear", align_corners=False).round()
    margin = EDGE_BLUR // 2
    around = F.pad(small, [margin] * 4, mode="reflect")[0]
    return blurred(around, EDGE_BLUR, EDGE_SIGMA)[:, margin:-margin, margin:-margin].round()


def _sized(image: Tensor, stage: str, maximum: int, multiple: int, least: int = 0) -> Tensor:
    width, height = css_ccnn(stage, maximum, multiple).new_size(image.shape[2], image.shape[1])
    return resize_like_opencv(image, (max(height, least), max(width, least)))


def _random_crop(image: Tensor, size: int, multiple: int, rng: np.random.Generator) -> Tensor:
    if rng.random() < 0.5:
        image = image.flip(2)
    top, left = (
        0 if edge == size else int(rng.integers(edge - size)) // multiple * multiple for edge in image.shape[1:]
    )
    return image[:, top : top + size, left : left + size]


def _read_for_rotation(settings: CssCcnnSettings, index: int, pool: Pool) -> Tensor:
    image = pool.image(index).float() / 255
    return _sized(image, "stage1", settings.rotation_maximum_size, 4, settings.crop)


def _rotation_examples(settings: CssCcnnSettings, index: int, pool: Pool, rng: np.random.Generator) -> list[Example]:
    # the centre half of a random crop, turned counter-clockwise
    quarter = settings.crop // 4
    crop = _random_crop(_read_for_rotation(settings, index, pool), settings.crop, 4, rng)
    turns = int(rng.integers(ROTATIONS))
    turned = torch.rot90(crop[:, quarter : 3 * quarter, quarter : 3 * quarter], turns, dims=(1, 2)).contiguous()
    return [Example(pool.samples[index].id, turned, maps={"turns": torch.tensor(turns)})]


def _matching_examples(
    settings: CssCcnnSettings, law: Prior, index: int, pool: Pool, rng: np.random.Generator
) -> list[Example]:
    image = _sized(pool.image(index).float() / 255, "stage2", settings.maximum_size, 8, settings.crop)
    crop = _random_crop(image, settings.crop, 8, rng)
    maps = {"prior": torch.from_numpy(law.draw(DRAWS_PER_CROP, rng))}
    if settings.split_by_edges:
        maps["edges"] = edge_density(crop)
    return [Example(pool.samples[index].id, crop.contiguous(), maps=maps)]


def _block_sums(density: Tensor) -> Tensor:
    return (F.avg_pool2d(density.float(), BLOCK) * BLOCK**2).flatten()


def _below_quantile(values: Tensor) -> Tensor:
    rank = int(round(1 - SPARSE_SHARE, 2) * len(values))
    return values < values.topk(rank).values[-1]


def matching_loss(density: Tensor, draws: Tensor, edges: Tensor | None) -> dict[str, Tensor]:
    """Return the terms of distribution matching of a density [B, 1, h, w]; "++" splits the blocks by ``edges``."""
    sums = _block_sums(density)
    if edges is None:
        return {"sinkhorn": sinkhorn_cost(sums, draws)}
    sparse, sparse_draws = _below_quantile(_block_sums(edges)), _below_quantile(draws)
    if int(sparse.sum()) <= 2:  # as coded: too few edges to split by, so nothing is split
        return {"sinkhorn_sparse": sinkhorn_cost(sums, draws), "sinkhorn_dense": sums.new_zeros(())}
    dense = sinkhorn_cost(sums[~sparse], draws[~sparse_draws])
    return {"sinkhorn_sparse": sinkhorn_cost(sums[sparse], draws[sparse_draws]), "sinkhorn_dense": dense}


class CssCcnn(System):
    """Feature net, rotation head and density head; see the module's docstring."""

    means: Tensor
    Settings = CssCcnnSettings
    recipe = resolve_recipe(
        ROTATION,
        {"epochs": 200, "batch_size": 32, "optimiser": {"lr": 1e-5}}
        # from epoch 7 on the mean of the last five chooses; more than 100 in a row without a better one end training
        | {"evaluate_from": 3, "moving_mean": 5, "patience": 101},
    )
    batch_coupled_by = "the transport cost matches the blocks of the whole batch with the prior"
    loss_weights = LOSS_WEIGHTS

    def __init__(self, settings: CssCcnnSettings) -> None:
        super().__init__(settings)
        self.prior = prior(settings.cmax, settings.num_samples)
        self.features = _Features(settings.widths)
        self.rotation_head = RotationHead(settings.widths[2], settings.rotation_widths)
        self.density_head = DensityHead(settings.widths[1] + settings.widths[2], settings.density_widths)
        for module in (*self.features.modules(), *self.rotation_head.modules()):
            if isinstance(module, nn.Conv2d | nn.Linear):
                nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
        nn.init.zeros_(self.rotation_head.fc.bias)
        means = IMAGENET_MEAN_255 if settings.features == "imagenet" else CHANNEL_MEANS
        self.register_buffer("means", torch.tensor(means).view(1, 3, 1, 1), persistent=False)
        if settings.features == "imagenet":
            self.features.load_state_dict(_imagenet_features(settings.feature_weights, self.features.state_dict()))
        self.stage = "matching"
        # A finished model, and a released one, counts without the head of stage 1.
        self.register_load_state_dict_post_hook(_rotation_head_may_be_missing)

    @classmethod
    def mini_settings(cls) -> dict[str, Any]:
        """Return an eighth of the channels, crops of 128 pixels, at most 600 heads; stage 1 in a few large steps."""
        few_steps = {"epochs": 16, "batch_size": 8, "evaluate_every": 4, "optimiser": {"lr": 0.03}}
        return {
            **{"widths": (8, 16, 32), "rotation_widths": (16, 8), "density_widths": (16, 8)},
            **{"crop": 128, "maximum_size": 448, "rotation_maximum_size": 448, "cmax": 600, "num_samples": 24},
            "rotation": resolve_recipe(ROTATION, few_steps).model_dump(),
        }

    def stages(self, recipe: Recipe) -> list[Stage]:
        """Return rotation (only where the features come from it) and matching."""
        rotation = [Stage("rotation", self.settings.rotation)] if self.settings.features == "rotation" else []
        return [*rotation, Stage("matching", recipe)]

    def begin_stage(self, stage: Stage) -> None:
        """Train features and rotation head in stage 1, the density head alone in stage 2."""
        self.stage = stage.name
        rotation = stage.name == "rotation"
        self.features.requires_grad_(rotation)
        self.rotation_head.requires_grad_(rotation)
        self.density_head.requires_grad_(not rotation)
        self.train(self.training)

    def train(self, mode: bool = True) -> "CssCcnn":
        """Switch to training; the frozen features of stage 2 keep their running statistics."""
        super().train(mode)
        if self.stage == "matching":
            self.features.eval()
            self.rotation_head.eval()
        return self

    def example_maker(self) -> ExampleMaker:
        """Return the maker of the current stage's examples."""
        if self.stage == "rotation":
            return partial(_rotation_examples, self.settings)
        return partial(_matching_examples, self.settings, self.prior)

    def turns(self, images: Tensor) -> Tensor:
        """Return the logits [B, 4] of how many quarters images [B, 3, H, W] in [0, 1] were turned."""
        return self.rotation_head(self.features(images * 255 - self.means)[1])

    def density(self, images: Tensor) -> Tensor:
        """Return the density [B, 1, H/8, W/8] of images [B, 3, H, W] in [0, 1]."""
        return self.density_head(*self.features(images * 255 - self.means))

    def losses(self, batch: Batch) -> dict[str, Tensor]:
        """Return the rotation loss, or the terms of distribution matching."""
        if self.stage == "rotation":
            return {"rotation": F.cross_entropy(self.turns(batch.images), batch.maps["turns"])}
        return matching_loss(self.density(batch.images), batch.maps["prior"].flatten(), batch.maps.get("edges"))

    def predict(self, images: Tensor, prompts: Sequence[str]) -> Prediction:
        """Return the density at 1/8 of the images' size."""
        return Prediction(density=self.density(images))

    def prepare_image(self, image: Tensor) -> Tensor:
        """Return the image at the size of stage 2 (edges of multiples of 8)."""
        return _sized(image, "test", self.settings.maximum_size, 8)

    @torch.no_grad()
    def own_selection(self, pool: Pool) -> dict[str, float]:
        """Return what the released code selects by: the error of stage 1, or the cost of stage 2, without counts."""
        training, rng = self.training, np.random.default_rng(0)
        self.eval()
        try:
            if self.stage == "rotation":
                return {"own": self._rotation_error(pool)}
            costs = self._crop_costs if self.settings.split_by_edges else self._image_costs
            return {"own": COST_WEIGHT * float(np.mean(costs(pool, rng)))}
        finally:
            self.train(training)

    def _rotation_error(self, pool: Pool) -> float:
        half, wrong = self.settings.crop // 2, 0
        for index in range(len(pool.samples)):
            image = _read_for_rotation(self.settings, index, pool)
            top, left = (edge // 2 - half // 2 for edge in image.shape[1:])
            centre = image[:, top : top + half, left : left + half].to(self.means.device)
            turned = torch.stack([torch.rot90(centre, turns, dims=(1, 2)) for turns in range(ROTATIONS)])
            answers = self.turns(turned).argmax(dim=1).tolist()
            wrong += sum(answer != turns for turns, answer in enumerate(answers))
        return wrong / (ROTATIONS * len(pool.samples))

    def _image_costs(self, pool: Pool, rng: np.random.Generator) -> list[float]:
        draws = torch.from_numpy(self.prior.draw(32 * DRAWS_PER_CROP, rng)).to(self.means.device)
        costs = []
        for index in range(len(pool.samples)):
            image = self.prepare_image(pool.image(index).float() / 255).to(self.means.device)
            costs.append(float(sinkhorn_cost(_block_sums(self.density(image[None])), draws)))
        return costs

    def _crop_costs(self, pool: Pool, rng: np.random.Generator) -> list[float]:
        maker, costs = self.example_maker(), []
        indices = list(range(len(pool.samples))) * VALIDATION_CROPS
        for start in range(0, len(indices), 32):
            examples = [example for index in indices[start : start + 32] for example in maker(index, pool, rng)]
            terms = self.losses(Batch.of(examples).to(self.means.device))
            costs.append(float(terms["sinkhorn_sparse"]) + self.settings.dense_weight * float(terms["sinkhorn_dense"]))
        return costs

    @classmethod
    def import_checkpoint(cls, path: Path, settings: CssCcnnSettings) -> dict[str, Tensor]:
        """Read a released stage-2 checkpoint."""
        own = cls(settings).state_dict()
        expected = {key: value for key, value in own.items() if not key.startswith("rotation_head.")}
        return renamed(read_released(path), official_name, expected, source=path)


def official_name(key: str) -> str:
    """Return our key for a key of the released stage-2 network."""
    return f"{'density_head' if key.startswith(('conv4_', 'conv5_')) else 'features'}.{key}"


def _rotation_head_may_be_missing(module: nn.Module, keys: Any) -> None:
    keys.missing_keys[:] = [key for key in keys.missing_keys if not key.startswith("rotation_head.")]


def _imagenet_features(weights: str, expected: Mapping[str, Tensor]) -> dict[str, Tensor]:
    # VGG-16-BN's biases move into our running means, ImageNet's standard deviation into the first convolution
    if weights == "random":
        raise ValueError("css_ccnn: features: imagenet needs feature_weights: the path of torchvision's vgg16_bn file")
    ours: dict[str, str] = {}
    for name, number in VGG16_BN_LAYERS.items():
        ours |= {f"features.{number}.weight": f"conv{name}.weight", f"features.{number}.bias": f"shift{name}"}
        parts = ("weight", "bias", "running_mean", "running_var")
        ours |= {f"features.{number + 1}.{part}": f"batch_norm_{name}.{part}" for part in parts}
    counters = {key: value for key, value in expected.items() if key.endswith("num_batches_tracked")}
    needed = {key: value for key, value in expected.items() if key not in counters}
    needed |= {f"shift{name}": expected[f"batch_norm_{name}.bias"] for name in VGG16_BN_LAYERS}
    state = renamed(read_tensors(Path(weights)), ours.get, needed, source=weights)
    for name in VGG16_BN_LAYERS:
        state[f"batch_norm_{name}.running_mean"] = state[f"batch_norm_{name}.running_mean"] - state.pop(f"shift{name}")
    state["conv1_1.weight"] = state["conv1_1.weight"] / torch.tensor(IMAGENET_STD_255).view(1, 3, 1, 1)
    return {**state, **counters}


SYSTEM = CssCcnn

EQUATIONS: dict[str, Callable[..., Any]] = {
    "rotation": RotationHead,
    "density": DensityHead,
    "truncated power law": Prior,
    "largest count": prior,
    "Sinkhorn loss": sinkhorn_cost,
    "distribution matching": matching_loss,
    "pseudo density": edge_density,
}
