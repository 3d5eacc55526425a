"""TransCrowd: crowd counts by a vision transformer that learns from counts alone.

"TransCrowd: weakly-supervised crowd counting with transformers" (Liang et al., 2022). Networks, data and recipe were
checked against dk-liang/TransCrowd@e4fe7ec; the transformer is timm's (MIT), base weights are DeiT-B/16 at 384 pixels
(Apache 2.0).

Every picture is forced to three by two tiles (upright: two by three), its aspect is not kept; each tile is counted by
itself. ``token``: the class token goes through DeiT's own 1000-class head to one number. ``gap``: all patch tokens,
averaged over their channels to 48 numbers each, go through a small network. The released code counts heads in a 0/1 dot
map made after resizing, which loses heads that fall on one pixel or outside: ``dots: merged``, ``lost_heads``.

Deviations: training stops after 60 evaluations (300 epochs) without a better one; the code goes on until somebody stops
it, at most to epoch 20,000, and no log says where the authors did (``patience: null`` trains all epochs). All six tiles
of an image are in one batch (the code shuffles tiles; ``batch_size: 4`` images are its README's 24 tiles); tiles are
not saved as JPEG; heads left of or above the picture are lost, where the code moves them to the opposite border.
"""

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from pydantic import Field
from torch import Tensor, nn

from recount.data.pictures import resize_like_opencv
from recount.data.size_rules import forced
from recount.nn.maps import cut_grid
from recount.nn.normalise import Normalise
from recount.nn.weights import read_released, renamed
from recount.settings.base import Strict
from recount.settings.recipe import Optimiser, Recipe, Schedule
from recount.systems.base import Batch, Example, Pool, Prediction, System

LONG_TILES, SHORT_TILES = 3, 2  # along a picture's edges (data/predataset_qnrf.py)
PATCH = 16  # of DeiT-B/16
DROPOUT = 0.5  # of the counting heads (Networks/models.py)
LOSS_WEIGHTS = {"lost_heads": 0.0}  # only recorded


class TransCrowdSettings(Strict):
    """TransCrowd with DeiT-B/16; ``gap`` is the row of the published tables that is better."""

    head: Literal["token", "gap"] = "gap"
    tile: int = Field(384, gt=0, description="edge of a tile in pixels")
    width: int = Field(768, gt=0)
    depth: int = Field(12, gt=0)
    heads: int = Field(12, gt=0)
    classes: int = Field(1000, gt=0, description="outputs of DeiT's own head")
    pooled: int = Field(48, gt=0, description="gap: numbers that the channels of a token are averaged to")
    hidden: int = Field(128, gt=0, description="gap: width of the hidden layer")
    dots: Literal["merged", "all"] = Field("merged", description="merged: heads on one pixel once, outside ones not")
    weights: str = Field("random", description="path of deit_base_patch16_384-8de9b5d1.pth")


def _forced_size(height: int, width: int, tile: int) -> tuple[int, int]:
    rule = forced("transcrowd", tile * LONG_TILES, tile * SHORT_TILES, "TransCrowd predataset_qnrf.py")
    new_width, new_height = rule.new_size(width, height)
    return new_height, new_width


def tile_counts(points: Tensor, tile: int, rows: int, columns: int, dots: str) -> Tensor:
    """Return the heads in each tile, float32 [rows, columns]; with dots "all", outside ones are in the nearest."""
    width, height = columns * tile, rows * tile
    pixels = points.trunc().long()  # (N, 2)
    if dots == "merged":
        inside = (points >= 0).all(dim=1) & (pixels[:, 0] < width) & (pixels[:, 1] < height)
        pixels = pixels[inside].unique(dim=0)
    x, y = pixels[:, 0].clamp(0, width - 1), pixels[:, 1].clamp(0, height - 1)
    cells = (y // tile) * columns + x // tile
    return torch.bincount(cells, minlength=rows * columns).view(rows, columns).float()


def tile_examples(settings: TransCrowdSettings, index: int, pool: Pool, rng: np.random.Generator) -> list[Example]:
    """Return the tiles of a picture, mirrored or not; ``maps["lost"]`` is each one's part of the lost heads."""
    sample, edge = pool.samples[index], settings.tile
    image = pool.image(index).float() / 255
    height, width = image.shape[1:]
    size = _forced_size(height, width, edge)
    rows, columns = size[0] // edge, size[1] // edge
    tiles = cut_grid(resize_like_opencv(image, size)[None], rows, columns)[0]
    points = torch.from_numpy(sample.points) * torch.tensor([size[1] / width, size[0] / height])
    counts = tile_counts(points, edge, rows, columns, settings.dots).flatten()
    lost = torch.tensor((len(points) - float(counts.sum())) / len(counts))
    examples = []
    for tile, count in zip(tiles, counts, strict=True):
        turned = tile.flip(2) if rng.random() > 0.5 else tile.contiguous()
        examples.append(Example(sample.id, turned, count=float(count), maps={"lost": lost}))
    return examples


def build_transformer(settings: TransCrowdSettings) -> Any:
    """Return the transformer encoder, DeiT's, with timm's initialisation."""
    from timm.models.vision_transformer import VisionTransformer

    return VisionTransformer(
        img_size=settings.tile,
        patch_size=PATCH,
        embed_dim=settings.width,
        depth=settings.depth,
        num_heads=settings.heads,
        num_classes=settings.classes,
        norm_layer=partial(nn.LayerNorm, eps=1e-6),
    )


def build_head(settings: TransCrowdSettings) -> nn.Sequential:
    """Return the regression head, of the token or of the average (gap); its layers' places are the released names."""
    if settings.head == "token":
        return nn.Sequential(nn.ReLU(), nn.Dropout(DROPOUT), nn.Linear(settings.classes, 1))
    tokens = (settings.tile // PATCH) ** 2
    pooled = nn.Sequential(nn.AdaptiveAvgPool1d(settings.pooled), nn.Flatten(), nn.ReLU())  # (B, tokens * pooled)
    hidden = nn.Linear(tokens * settings.pooled, settings.hidden)
    return nn.Sequential(pooled, hidden, nn.ReLU(), nn.Dropout(DROPOUT), nn.Linear(settings.hidden, 1))


class TransCrowd(System):
    """A timm vision transformer and a counting head; see the module's docstring."""

    Settings = TransCrowdSettings
    recipe = Recipe(
        epochs=20000,
        batch_size=4,
        optimiser=Optimiser(name="adam", lr=1e-5, weight_decay=5e-4),
        schedule=Schedule(name="step_at", milestones=(300,), factor=0.1),
        evaluate_every=5,
        evaluate_from=11,  # epochs that are multiples of 5, counted from 0
        patience=60,  # 300 epochs, as many as before the rate drops; the code runs until somebody stops it
        select_by="mae",
    )
    batch_sums = frozenset({"count"})
    loss_weights = LOSS_WEIGHTS
    needs = frozenset({"points"})
    examples = staticmethod(tile_examples)

    def __init__(self, settings: TransCrowdSettings) -> None:
        super().__init__(settings)
        self.normalise = Normalise()
        self.vit = build_transformer(settings)
        self.output1 = build_head(settings)
        for module in self.output1.modules():
            if isinstance(module, nn.Linear):
                nn.init.trunc_normal_(module.weight, std=0.02)
                nn.init.zeros_(module.bias)
        if settings.weights != "random":
            state = read_released(Path(settings.weights), "model")
            self.vit.load_state_dict(renamed(state, lambda key: key, self.vit.state_dict(), source=settings.weights))

    @classmethod
    def mini_settings(cls) -> dict[str, Any]:
        """Return tiles of 96 pixels and a transformer of two layers."""
        return {"tile": 96, "width": 48, "depth": 2, "heads": 3, "classes": 64, "pooled": 12, "hidden": 32}

    def tokens(self, normalised: Tensor) -> Tensor:
        """Return the class token [B, C], or for ``gap`` the patch tokens [B, N, C], after the last norm."""
        tokens = self.vit.forward_features(normalised)
        return tokens[:, 0] if self.settings.head == "token" else tokens[:, 1:]

    def count_tiles(self, tiles: Tensor) -> Tensor:
        """Return the count [B] of each tile [B, 3, tile, tile] in [0, 1]; it may be negative."""
        tokens = self.tokens(self.normalise(tiles))
        return self.output1(self.vit.head(tokens) if self.settings.head == "token" else tokens).squeeze(1)

    def losses(self, batch: Batch) -> dict[str, Tensor]:
        """Return the L1 loss summed over the tiles, and the mean number of heads lost per tile."""
        counts = self.count_tiles(batch.images)
        return {"count": (counts - batch.counts).abs().sum(), "lost_heads": batch.maps["lost"].mean()}

    def prepare_image(self, image: Tensor) -> Tensor:
        """Return the image at the size of all tiles."""
        return resize_like_opencv(image, _forced_size(image.shape[1], image.shape[2], self.settings.tile))

    def predict(self, images: Tensor, prompts: Sequence[str]) -> Prediction:
        """Return a density with one cell per tile."""
        rows, columns = (edge // self.settings.tile for edge in images.shape[2:])
        counts = self.count_tiles(cut_grid(images, rows, columns).flatten(0, 1))
        return Prediction(density=counts.view(len(images), 1, rows, columns))

    @classmethod
    def import_checkpoint(cls, path: Path, settings: TransCrowdSettings) -> dict[str, Tensor]:
        """Read a released checkpoint ({"state_dict": keys under ``module.``, ...})."""
        return renamed(read_released(path), our_name, cls(settings).state_dict(), source=path)


def our_name(key: str) -> str:
    """Return our key for a released one: timm's names lie under ``vit.``."""
    key = key.removeprefix("module.")
    return key if key.startswith("output1.") else f"vit.{key}"


SYSTEM = TransCrowd

EQUATIONS: dict[str, Callable[..., Any]] = {
    "transformer encoder": build_transformer,
    "regression head": build_head,
    "L1 loss": TransCrowd.losses,
}
