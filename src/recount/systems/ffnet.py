"""FFNet (Fuss-Free Network): ConvNeXt-Tiny, three focus transition modules, one fusion, and DM-Count's loss.

"The Effectiveness of a Simplified Model Structure for Crowd Counting" (arXiv 2404.07847, IEEE TIM 2025); its body could
not be read here, so parts are named as its abstract and its code name them. Numbers checked against
erdongsanshi/FFNet@77a29ba (golden cases ``ffnet.json``); backbone and neck are those of GigaCount with Stage 4. Base
weights are torchvision's (BSD-3-Clause); the state dicts that were released for ShanghaiTech and NWPU-Crowd import.

Evaluation by tiles as coded enlarges each tile's map with aligned corners, which does not keep its sum; with
``tiles: whole`` the plain map of the whole picture is summed.

Deviations: pictures smaller than the crop or tile are enlarged for every data set (the code does so for ShanghaiTech;
the preparations of UCF-QNRF and NWPU-Crowd leave none).
"""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal, Self

import numpy as np
import torch
from pydantic import Field, model_validator
from torch import Tensor, nn
from torch.nn import functional

from recount.augmentation.crowd import random_block_crop
from recount.data.pictures import resize_like_pillow
from recount.data.windows import Windows
from recount.nn.dm_loss import DM_COUNT_EPS, DM_SUMS, DM_WEIGHTS, dm_terms
from recount.nn.focus import CCSM, ConvNeXtEncoder, FeatureFusion, our_name
from recount.nn.normalise import Normalise
from recount.nn.weights import read_tensors, renamed
from recount.settings.base import Strict
from recount.settings.recipe import Optimiser, Recipe
from recount.systems.base import READING, Batch, Example, Pool, Prediction, System

BLOCK = 8  # edge of a cell of the density map
STRIDE = 32  # of the backbone
FLIPPED_ABOVE = 0.5  # (datasets/crowd.py)


class FfnetSettings(Strict):
    """FFNet's settings; the defaults are the released code's on UCF-QNRF."""

    crop_size: int = Field(
        512, gt=0, multiple_of=STRIDE, description="512: UCF-QNRF, ShanghaiTech B; 256: A; 384: NWPU"
    )
    flip_rule: Literal["width", "width_minus_one"] = Field("width", description="minus x; ShanghaiTech: one less")
    tiles: Literal["averaged", "whole"] = Field(
        "averaged",
        description="averaged: as coded, tiles' maps enlarged with aligned corners; whole: the sum over whole pictures",
        json_schema_extra=READING,
    )
    tile: int | None = Field(
        None,
        gt=0,
        multiple_of=STRIDE,
        description="edge of evaluation tiles; null: crop_size, as README; the test script's own default is 384",
        json_schema_extra=READING,
    )
    widths: tuple[int, int, int, int] = (96, 192, 384, 768)
    depths: tuple[int, int, int, int] = (3, 3, 9, 3)
    layer_scale: float = Field(1e-6, gt=0, description="initial scale of a block's branch where the weights are random")
    neck_widths: tuple[int, int, int] = (16, 32, 64)
    gates: bool = Field(True, description="false: focus transition modules without channel and spatial attention")
    output_bias: float | None = Field(None, description="at the start; null: torch's, which can leave the ReLU shut")
    backbone_weights: str = Field("random", description="path of torchvision's ConvNeXt-Tiny state dict, or random")

    @model_validator(mode="after")
    def _used(self) -> Self:
        if self.tiles == "whole" and self.tile is not None:
            raise ValueError(
                f"tile: {self.tile} is the edge of tiles, but tiles: whole has none; leave one of them out"
            )
        return self

    @property
    def tile_size(self) -> int:
        """Return the edge of evaluation tiles in pixels."""
        return self.tile or self.crop_size


def enlarged_size(height: int, width: int, edge: int) -> tuple[int, int]:
    """Return (height, width) of a picture whose shorter edge is below ``edge``, scaled to it, rounded half to even."""
    short = min(height, width)
    return (height, width) if short >= edge else (round(height * edge / short), round(width * edge / short))


def crops(settings: FfnetSettings, index: int, pool: Pool, rng: np.random.Generator) -> list[Example]:
    """Return one random crop of a picture, with the counts of its blocks."""
    sample, size, image = pool.samples[index], settings.crop_size, pool.image(index)
    scale = max(1.0, size / min(image.shape[1:]))
    image = resize_like_pillow(image, enlarged_size(image.shape[1], image.shape[2], size), "bicubic")
    points = torch.from_numpy(sample.points) * scale
    piece, points, blocks = random_block_crop(
        image, points, size, BLOCK, rng, flips=lambda drawn: drawn > FLIPPED_ABOVE, flip_rule=settings.flip_rule
    )
    return [Example(sample.id, piece, points=points, count=float(len(points)), maps={"blocks": blocks})]


class Ffnet(System):
    """The whole network; its density map has cells of 8 x 8 pixels."""

    Settings = FfnetSettings
    recipe = Recipe(
        epochs=2001,  # as coded: 0 to 2000
        batch_size=16,
        optimiser=Optimiser(name="adamw", lr=1e-5),
        evaluate_every=1,
        evaluate_from=501,  # epoch 500, counted from 0
        select_by="mae",
    )
    batch_sums = DM_SUMS
    loss_weights = DM_WEIGHTS | {"empty_maps": 0.0}
    needs = frozenset({"points"})
    examples = staticmethod(crops)

    def __init__(self, settings: FfnetSettings) -> None:
        super().__init__(settings)
        size = settings.tile_size
        self.windows = Windows(size, size, size, "average_corners") if settings.tiles == "averaged" else None
        self.normalise = Normalise()
        self.backbone = ConvNeXtEncoder(
            settings.widths, settings.depths, True, settings.layer_scale, settings.backbone_weights
        )
        taps = zip(self.backbone.out_widths, settings.neck_widths, strict=True)
        self.ccsm1, self.ccsm2, self.ccsm3 = (CCSM(c, c // 2, out, gates=settings.gates) for c, out in taps)
        self.fusion = FeatureFusion(*settings.neck_widths)
        if settings.output_bias is not None:
            nn.init.constant_(self.fusion.final[0].bias, settings.output_bias)  # type: ignore[arg-type]

    @classmethod
    def mini_settings(cls) -> dict[str, Any]:
        """Return a sixth of the channels for crops of 128 pixels; untrained blocks are quiet, and the ReLU is open."""
        return {
            **{"crop_size": 128, "widths": (16, 32, 64, 128), "depths": (1, 1, 2, 1), "layer_scale": 0.1},
            **{"neck_widths": (8, 8, 16), "output_bias": 0.2},
        }

    def neck(self, first: Tensor, second: Tensor, third: Tensor) -> Tensor:
        """Return the density map [B, 1, H/8, W/8] of the backbone's maps at 1/8, 1/16 and 1/32 of H x W."""
        fused = self.fusion(self.ccsm1(first), self.ccsm2(second), self.ccsm3(third))  # (B, 112, H/8, W/8)
        density: Tensor = self.fusion.final(fused)
        return density

    def density(self, images: Tensor) -> Tensor:
        """Return the density [B, 1, H/8, W/8] of images [B, 3, H, W] in [0, 1], edges multiples of 32."""
        return self.neck(*self.backbone(self.normalise(images)))

    def losses(self, batch: Batch) -> dict[str, Tensor]:
        """Return DM-Count's terms: count, transport and variation; and the share of maps that the last ReLU left empty.

        Such a map gets no gradient.
        """
        density = self.density(batch.images)
        terms = dm_terms(density, batch.maps["blocks"], batch.points, BLOCK, eps=DM_COUNT_EPS)
        return terms | {"empty_maps": (density.detach().amax(dim=(1, 2, 3)) == 0).float().mean()}

    def prepare_image(self, image: Tensor) -> Tensor:
        """Return the image, enlarged where it is smaller than a tile; whole, padded with black to multiples of 32."""
        height, width = image.shape[1:]
        if self.settings.tiles == "averaged":
            return resize_like_pillow(image, enlarged_size(height, width, self.settings.tile_size), "bicubic")
        return functional.pad(image, (0, -width % STRIDE, 0, -height % STRIDE))

    def predict(self, images: Tensor, prompts: Sequence[str]) -> Prediction:
        """Return the density of tiles, or of whole images."""
        return Prediction(density=self.density(images))

    @classmethod
    def import_checkpoint(cls, path: Path, settings: FfnetSettings) -> dict[str, Tensor]:
        """Read a released state dict."""
        network = cls(settings.model_copy(update={"backbone_weights": "random"}))
        return renamed(read_tensors(path), our_name, network.state_dict(), source=path)


SYSTEM = Ffnet

EQUATIONS: dict[str, Callable[..., Any]] = {
    "backbone": ConvNeXtEncoder,
    "focus transition module": CCSM,
    "fusion": FeatureFusion,
    "density map": Ffnet.neck,
    "loss": dm_terms,
}
