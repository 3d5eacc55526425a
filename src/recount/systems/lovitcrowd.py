"""LoViTCrowd: the heads in a cell of 32 x 32 pixels, from the 3 x 3 cells around it, by a ResNet-34 and a ViT-B.

BMVC 2022, paper 729, whose body could not be read here. The network was checked against nguyen1312/LoViTCrowd@fa6db84
(golden cases ``lovitcrowd.json``); transformer blocks are timm's (Apache-2.0), and so are the base weights.

Nothing of the training was released, and no code that cuts windows. The recipe is recount's own, each choice a setting:
loss, optimiser, rates, epochs, sampling of cells, target, augmentation, sizes of pictures but ShanghaiTech B's.
Inferred from the test script and the figure: all pictures of a set have one size (lying or upright), a frame of one
cell in the picture's mean colour gives border cells full windows, and a cell's target is what a density sums to over
it. Known: one regression loss per cell, the dropout, the base weights, negative outputs set to 0.

Deviations: attention is computed once (the code does it twice, to return its weights); the 1000-class head that is in
the released state dict and never used is dropped; windows are cut in memory (theirs were JPEG files of unknown
quality).
"""

from collections import OrderedDict
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Literal, Self

import numpy as np
import torch
from pydantic import Field, model_validator
from torch import Tensor, nn
from torch.nn import functional

from recount.data.pictures import resize_like_opencv
from recount.nn.bins import dot_map
from recount.nn.maps import blurred
from recount.nn.normalise import IMAGENET_MEAN, Normalise
from recount.nn.vgg import initialise
from recount.nn.weights import read_released, read_tensors, renamed
from recount.settings.base import Strict
from recount.settings.recipe import Optimiser, Recipe, Schedule
from recount.systems.base import READING, Batch, Example, Pool, Prediction, System

CELL = 32  # pixels: the trunk's stride
SIDE = 3  # cells of a window along an edge
WINDOW = SIDE * CELL
CENTRE = SIDE**2 // 2  # of the nine tokens, after the class token is dropped
WINDOWS_PER_PASS = 256  # in evaluation
DROPOUT = 0.5
KERNEL, SIGMA = 25, 4.0  # of the Gaussian target, pixels
FLIPPED = 0.5  # share of the windows
LOSS_WEIGHTS = {"outside_heads": 0.0}  # only recorded


class LovitcrowdSettings(Strict):
    """LoViTCrowd's settings: the released network, and recount's own recipe with TransCrowd's size of pictures."""

    size: Literal["forced", "aspect"] = Field(
        "forced",
        description="forced: long x short, lying or upright; aspect: shorter edge at most short, multiples of 32",
    )
    long: int = Field(1152, gt=0, multiple_of=CELL, description="pixels; 1024 (and 768) is known of ShanghaiTech B")
    short: int = Field(768, gt=0, multiple_of=CELL)
    frame: Literal["mean", "zeros", "reflect"] = Field(
        "mean",
        description="of one cell: the picture's mean colour; zeros after normalisation; the picture's reflection",
    )
    surround: Literal["seen", "hidden"] = Field("seen", description="hidden: the 8 outer cells in the frame's colour")
    target: Literal["points", "gaussian"] = Field("points", description="heads in the cell, or their blurred density")
    windows: int = Field(64, gt=1, description="per picture and epoch")
    sampling: Literal["half_occupied", "uniform"] = Field("half_occupied", description="half of the windows hold heads")
    loss: Literal["smooth_l1", "l1", "mse"] = "smooth_l1"
    jitter: float = Field(0.0, ge=0, lt=1, description="of brightness, contrast and saturation")
    trunk_norm: Literal["batch", "frozen"] = Field("batch", description="frozen: the base weights' statistics stay")
    new_rate: float = Field(10.0, gt=0, description="rate of projection and head over that of the pretrained parts")
    negatives: Literal["zero", "kept"] = Field(
        "zero", description="negative counts of cells, in a picture's sum", json_schema_extra=READING
    )
    trunk_widths: tuple[int, int, int, int] = (64, 128, 256, 512)
    trunk_depths: tuple[int, int, int, int] = Field((3, 4, 6, 3), description="basic blocks; the very last is cut off")
    width: int = Field(768, gt=0)
    depth: int = Field(12, ge=0, description="transformer blocks; 0: the head sees the trunk alone")
    heads: int = Field(12, gt=0)
    skip: bool = Field(True, description="false: no sum of the encoder's input and output")
    hidden: tuple[int, int] = Field((256, 128), description="widths of the counting head")
    trunk_weights: str = Field("random", description="path of timm's resnet34-43635321.pth, or random")
    transformer_weights: str = Field("random", description="path of timm's jx_vit_base_p32_384-830016f5.pth, or random")

    @model_validator(mode="after")
    def _possible(self) -> Self:
        if self.surround == "hidden" and self.frame == "reflect":
            raise ValueError("surround: hidden paints cells in the frame's colour, but frame: reflect has none")
        if self.width % self.heads:
            raise ValueError(f"width {self.width} is no multiple of heads {self.heads}")
        if min(self.trunk_depths) < 1 or self.trunk_depths[3] < 2:
            raise ValueError(f"trunk_depths {self.trunk_depths}: a block at least in each stage, two in the last one")
        return self


def new_size(settings: LovitcrowdSettings, height: int, width: int) -> tuple[int, int]:
    """Return (height, width) at which a picture is cut into cells."""
    if settings.size == "forced":
        return (settings.short, settings.long) if width >= height else (settings.long, settings.short)
    scale = min(1.0, settings.short / min(height, width))
    high, wide = (max(2, round(edge * scale / CELL)) * CELL for edge in (height, width))
    return high, wide


def framed(image: Tensor, frame: str) -> Tensor:
    """Return a picture, float [3, H, W] in [0, 1], with a frame of one cell around it."""
    if frame == "reflect":
        return functional.pad(image, (CELL,) * 4, mode="reflect")
    colour = image.mean(dim=(1, 2)) if frame == "mean" else image.new_tensor(IMAGENET_MEAN)
    height, width = image.shape[1:]
    canvas = colour[:, None, None].repeat(1, height + 2 * CELL, width + 2 * CELL)
    canvas[:, CELL:-CELL, CELL:-CELL] = image
    return canvas


def windows_of(picture: Tensor, cells: Tensor, surround: str) -> Tensor:
    """Return the windows [N, 3, 96, 96] around cells (int64 [N], counted row by row) of a framed picture."""
    every = picture.unfold(1, WINDOW, CELL).unfold(2, WINDOW, CELL)  # (3, rows, columns, 96, 96), a view
    columns = every.shape[2]
    chosen = every[:, cells // columns, cells % columns].movedim(0, 1)
    if surround == "seen":
        return chosen
    alone = picture[:, :1, :1].expand_as(chosen).clone()  # the frame's corner
    inner = slice(CELL, 2 * CELL)
    alone[..., inner, inner] = chosen[..., inner, inner]
    return alone


def cell_targets(points: Tensor, height: int, width: int, target: str) -> Tensor:
    """Return what each cell is taught, float32 [rows * columns]; heads outside count in the nearest cell."""
    dots = dot_map(points.floor(), height, width, coincident="add")  # [1, H, W]
    dots = blurred(dots, KERNEL, SIGMA) if target == "gaussian" else dots
    return functional.avg_pool2d(dots, CELL, divisor_override=1).flatten()


def _drawn(targets: Tensor, settings: LovitcrowdSettings, rng: np.random.Generator) -> Tensor:
    # indices of cells, with replacement
    occupied = targets.nonzero()[:, 0].numpy()
    half = settings.windows // 2 if settings.sampling == "half_occupied" and len(occupied) else 0
    anywhere = rng.integers(0, len(targets), settings.windows - half)
    return torch.from_numpy(np.concatenate([anywhere, rng.choice(occupied, half)]) if half else anywhere)


def cells(settings: LovitcrowdSettings, index: int, pool: Pool, rng: np.random.Generator) -> list[Example]:
    """Return windows of a picture with the heads of their central cells.

    ``maps["outside"]`` is how many heads of the picture lie outside it.
    """
    sample, image = pool.samples[index], pool.image(index).float() / 255
    height, width = new_size(settings, image.shape[1], image.shape[2])
    points = torch.from_numpy(sample.points) * torch.tensor([width / image.shape[2], height / image.shape[1]])
    targets = cell_targets(points, height, width, settings.target)
    outside = ((points < 0) | (points >= torch.tensor([width, height]))).any(dim=1).sum().float()
    chosen = _drawn(targets, settings, rng)
    picture = framed(resize_like_opencv(image, (height, width)), settings.frame)
    examples = []
    for window, count in zip(windows_of(picture, chosen, settings.surround), targets[chosen], strict=True):
        turned = window.flip(2) if rng.random() < FLIPPED else window
        seen = _jittered(turned, settings.jitter)
        examples.append(Example(sample.id, seen, count=float(count), maps={"outside": outside}))
    return examples


def _jittered(window: Tensor, amount: float) -> Tensor:
    if not amount:
        return window
    from torchvision.transforms.v2 import ColorJitter

    jittered: Tensor = ColorJitter(amount, amount, amount)(window)
    return jittered


def build_trunk(widths: Sequence[int], depths: Sequence[int]) -> nn.Sequential:
    """Return ResNet-34 up to a truncated last block: conv, BatchNorm, ReLU, conv; no second BatchNorm, sum or ReLU."""
    from torchvision.models.resnet import BasicBlock

    stages: list[list[nn.Module]] = []
    before = widths[0]
    for place, (width, depth) in enumerate(zip(widths, depths, strict=True)):
        stages.append([])
        for block in range(depth):
            stride = 2 if place and not block else 1
            cut = nn.Conv2d(before, width, 1, stride, bias=False), nn.BatchNorm2d(width)
            shortcut = nn.Sequential(*cut) if stride != 1 or before != width else None
            stages[-1].append(BasicBlock(before, width, stride, shortcut))
            before = width
    last, conv = widths[3], partial(nn.Conv2d, widths[3], widths[3], 3, padding=1, bias=False)
    parts: dict[str, nn.Module] = {"0": conv(), "1": nn.BatchNorm2d(last), "2": nn.ReLU(), "5": conv()}
    stages[3][-1] = nn.Sequential(OrderedDict(parts))  # places of the released block's layers
    stem = nn.Conv2d(3, widths[0], 7, 2, 3, bias=False), nn.BatchNorm2d(widths[0]), nn.ReLU(), nn.MaxPool2d(3, 2, 1)
    trunk = nn.Sequential(*stem, *(nn.Sequential(*stage) for stage in stages))
    initialise(trunk)
    return trunk


def resized_positions(positions: Tensor, side: int = SIDE) -> Tensor:
    """Return a position embedding [1, 1 + n * n, C] for a grid of ``side`` cells: bilinear, with aligned corners."""
    edge = round((positions.shape[1] - 1) ** 0.5)
    grid = positions[:, 1:].transpose(1, 2).unflatten(2, (edge, edge))  # (1, C, n, n)
    grid = functional.interpolate(grid, size=(side, side), mode="bilinear", align_corners=True)
    return torch.cat([positions[:, :1], grid.flatten(2).transpose(1, 2)], dim=1)


class PatchEmbedding(nn.Module):
    """The trunk and a projection: nine tokens of a window, row by row."""

    def __init__(self, settings: LovitcrowdSettings) -> None:
        super().__init__()
        self.backbone = build_trunk(settings.trunk_widths, settings.trunk_depths)
        self.proj = nn.Conv2d(settings.trunk_widths[3], settings.width, 1)

    def forward(self, windows: Tensor) -> Tensor:
        """Return tokens [B, 9, C] of normalised windows [B, 3, 96, 96]."""
        tokens: Tensor = self.proj(self.backbone(windows)).flatten(2).transpose(1, 2)
        return tokens


class LoViTCrowd(System):
    """The whole network; its density map has cells of 32 x 32 pixels."""

    Settings = LovitcrowdSettings
    recipe = Recipe(  # recount's own; optimiser's decay as TransCrowd
        epochs=300,
        batch_size=8,
        optimiser=Optimiser(name="adam", lr=1e-5, weight_decay=5e-4),
        schedule=Schedule(name="step_at", milestones=(200,), factor=0.1),
        evaluate_every=10,
        evaluate_from=10,
        select_by="mae",
    )
    loss_weights = LOSS_WEIGHTS
    needs = frozenset({"points"})
    examples = staticmethod(cells)

    def __init__(self, settings: LovitcrowdSettings) -> None:
        from timm.models.vision_transformer import Block

        super().__init__(settings)
        width, (first, second) = settings.width, settings.hidden
        norm: Any = partial(nn.LayerNorm, eps=1e-6)
        self.normalise = Normalise()
        self.patch_embed = PatchEmbedding(settings)
        self.cls_token = nn.Parameter(0.02 * torch.randn(1, 1, width))
        self.pos_embed = nn.Parameter(0.02 * torch.randn(1, 1 + SIDE**2, width))
        blocks = (Block(width, settings.heads, qkv_bias=True, norm_layer=norm) for _ in range(settings.depth))
        self.blocks = nn.Sequential(*blocks)
        self.norm = norm(width)
        reduced = nn.Linear(width, first)
        nn.init.trunc_normal_(reduced.weight, std=0.02)
        nn.init.zeros_(reduced.bias)
        self.output1 = nn.Sequential(nn.ReLU(), reduced)
        layers = nn.ReLU(), nn.Linear(first, second), nn.ReLU(), nn.Dropout(DROPOUT), nn.Linear(second, 1)
        self.output2 = nn.Sequential(*layers)
        if settings.trunk_weights != "random":
            self._load_trunk(settings.trunk_weights)
        if settings.transformer_weights != "random":
            self._load_transformer(settings.transformer_weights)

    @classmethod
    def mini_settings(cls) -> dict[str, Any]:
        """Return an eighth of the trunk's channels and two blocks, for pictures of 12 x 8 cells."""
        return {
            **{"long": 384, "short": 256, "windows": 16, "trunk_widths": (8, 16, 32, 64), "trunk_depths": (1, 1, 1, 2)},
            **{"width": 48, "depth": 2, "heads": 3, "hidden": (32, 16)},
        }

    def _load_trunk(self, weights: str) -> None:
        trunk = self.patch_embed.backbone
        places = {"conv1": "0", "bn1": "1", "layer1": "4", "layer2": "5", "layer3": "6", "layer4": "7"}
        cut = f"7.{self.settings.trunk_depths[3] - 1}."
        layers = {f"{cut}conv1.": f"{cut}0.", f"{cut}bn1.": f"{cut}1.", f"{cut}conv2.": f"{cut}5."}

        def ours(key: str) -> str | None:
            part, _, rest = key.partition(".")
            name = f"{places[part]}.{rest}" if part in places else None  # no classifier
            if name is None or not name.startswith(cut):
                return name
            return next((to + name.removeprefix(of) for of, to in layers.items() if name.startswith(of)), None)

        trunk.load_state_dict(renamed(read_tensors(Path(weights)), ours, trunk.state_dict(), source=weights))

    def _load_transformer(self, weights: str) -> None:
        parts = ("cls_token", "pos_embed", "blocks.", "norm.")
        own = {key: value for key, value in self.state_dict().items() if key.startswith(parts)}
        state = dict(read_tensors(Path(weights)))
        if "pos_embed" in state:
            state["pos_embed"] = resized_positions(state["pos_embed"])

        def ours(key: str) -> str | None:  # no patches of its own, no classifier, no blocks beyond ours
            number = key.split(".")[1] if key.startswith("blocks.") else "-1"
            return key if key.startswith(parts) and int(number) < self.settings.depth else None

        self.load_state_dict(renamed(state, ours, own, source=weights), strict=False)

    def train(self, mode: bool = True) -> "LoViTCrowd":
        """Switch to training; frozen statistics of the trunk stay."""
        super().train(mode)
        if self.settings.trunk_norm == "frozen":
            for layer in self.patch_embed.backbone.modules():
                if isinstance(layer, nn.modules.batchnorm._BatchNorm):
                    layer.eval()
        return self

    def encoded(self, tokens: Tensor) -> Tensor:
        """Return the ten tokens [B, 10, C], class token first, after the encoder, before the last norm.

        The skip around the encoder adds its input without positions.
        """
        start = torch.cat([self.cls_token.expand(len(tokens), -1, -1), tokens], dim=1)
        encoded: Tensor = self.blocks(start + self.pos_embed)
        return encoded + start if self.settings.skip else encoded

    def count_cells(self, windows: Tensor) -> Tensor:
        """Return the heads [B] in the central cell of each normalised window [B, 3, 96, 96]; perhaps negative."""
        tokens = self.norm(self.encoded(self.patch_embed(windows)))[:, 1:]
        counts: Tensor = self.output2(self.output1(tokens[:, CENTRE])).squeeze(1)
        return counts

    def losses(self, batch: Batch) -> dict[str, Tensor]:
        """Return the regression loss, a mean over the cells, and the mean number of heads outside their picture."""
        counts = self.count_cells(self.normalise(batch.images))
        rules = {"smooth_l1": functional.smooth_l1_loss, "l1": functional.l1_loss, "mse": functional.mse_loss}
        return {
            "cells": rules[self.settings.loss](counts, batch.counts),
            "outside_heads": batch.maps["outside"].mean(),
        }

    def parameter_groups(self, recipe: Recipe) -> list[dict[str, Any]]:
        """Return the pretrained parts at the recipe's rate, projection and head at ``new_rate`` times it."""
        new = [*self.patch_embed.proj.parameters(), *self.output1.parameters(), *self.output2.parameters()]
        known = {id(parameter) for parameter in new}
        pretrained = [parameter for parameter in self.parameters() if id(parameter) not in known]
        return [{"params": pretrained}, {"params": new, "lr_scale": self.settings.new_rate}]

    def prepare_image(self, image: Tensor) -> Tensor:
        """Return the image at the size of its cells, framed."""
        size = new_size(self.settings, image.shape[1], image.shape[2])
        return framed(resize_like_opencv(image, size), self.settings.frame)

    def predict(self, images: Tensor, prompts: Sequence[str]) -> Prediction:
        """Return a density with one cell per cell of the framed images."""
        rows, columns = (edge // CELL - SIDE + 1 for edge in images.shape[2:])
        every = torch.arange(rows * columns, device=images.device).split(WINDOWS_PER_PASS)
        counts = torch.stack([torch.cat([self._counted(image, part) for part in every]) for image in images])
        return Prediction(density=aggregated(counts, self.settings.negatives).view(len(images), 1, rows, columns))

    def _counted(self, picture: Tensor, cells: Tensor) -> Tensor:
        return self.count_cells(self.normalise(windows_of(picture, cells, self.settings.surround)))

    @classmethod
    def import_checkpoint(cls, path: Path, settings: LovitcrowdSettings) -> dict[str, Tensor]:
        """Read a released state dict; a last convolution that an older timm numbered 3 is taken, too."""
        random = {"trunk_weights": "random", "transformer_weights": "random"}
        network = cls(settings.model_copy(update=random))
        return renamed(read_released(path), our_name, network.state_dict(), source=path)


def aggregated(counts: Tensor, negatives: str) -> Tensor:
    """Return the cells' counts as they are summed over an image."""
    return counts.clamp(min=0) if negatives == "zero" else counts


def our_name(key: str) -> str | None:
    """Return our key of a released one; None for the head that is never used."""
    key = key.removeprefix("module.").removeprefix("part_cnn.")
    if key.startswith("head."):
        return None
    return key.replace("patch_embed.backbone.7.2.3.", "patch_embed.backbone.7.2.5.")


SYSTEM = LoViTCrowd

EQUATIONS: dict[str, Callable[..., Any]] = {
    "cells": windows_of,
    "trunk": PatchEmbedding,
    "skip around the encoder": LoViTCrowd.encoded,
    "central cell": LoViTCrowd.count_cells,
    "regression loss": LoViTCrowd.losses,
}
