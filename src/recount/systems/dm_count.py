"""DM-Count: a VGG-19 that regresses a density map, trained by distribution matching.

Wang et al., "Distribution Matching for Crowd Counting" (NeurIPS 2020), section 4. Numbers checked against
cvlab-stonybrook/DM-Count@cc5f213 (golden cases ``dm_count_network``, ``dm_count_original_*``, ``dot_maps``); its four
released state dicts import unchanged.

Deviations: a picture smaller than the crop is enlarged for every data set (the released code does so for ShanghaiTech
only; its preparation leaves no such picture of UCF-QNRF), and without the rounding of its new size.
"""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional

from recount.augmentation.crowd import enlarge_to, random_block_crop
from recount.nn.dm_loss import DM_COUNT_EPS, DM_SUMS, DM_WEIGHTS, dm_terms, transport
from recount.nn.normalise import Normalise
from recount.nn.vgg import initialise, load_vgg19, regression, vgg19
from recount.nn.weights import read_tensors, renamed
from recount.settings.base import Strict
from recount.settings.recipe import Optimiser, Recipe
from recount.systems.base import Batch, Example, Pool, Prediction, System

BLOCK = 8  # edge of a cell of the density map: four poolings, then one doubling
FLIPPED = 0.5  # share of the crops (datasets/crowd.py)


class DmCountSettings(Strict):
    """DM-Count's settings; the defaults are the released code's on UCF-QNRF."""

    crop_size: int = Field(512, gt=0, multiple_of=16, description="512: UCF-QNRF, ShanghaiTech B; 256: A; 384: NWPU")
    flip_rule: Literal["width", "width_minus_one"] = Field("width", description="minus x; ShanghaiTech: one less")
    widths: tuple[int, int, int, int, int] = (64, 128, 256, 512, 512)
    regression_widths: tuple[int, int] = (256, 128)
    output_bias: float | None = Field(None, description="at the start; null: torch's, which can leave the ReLU shut")
    backbone_weights: str = Field("random", description="path of torchvision's VGG-19 state dict, or random")


def crops(settings: DmCountSettings, index: int, pool: Pool, rng: np.random.Generator) -> list[Example]:
    """Return one random crop of a picture, with the counts of its blocks."""
    sample, size = pool.samples[index], settings.crop_size
    image, points = enlarge_to(pool.image(index), torch.from_numpy(sample.points), size, clamp=True)
    piece, points, blocks = random_block_crop(
        image, points, size, BLOCK, rng, flips=lambda drawn: drawn < FLIPPED, flip_rule=settings.flip_rule
    )
    return [Example(sample.id, piece, points=points, count=float(len(points)), maps={"blocks": blocks})]


class DmCount(System):
    """The whole network; its density map has cells of 8 x 8 pixels."""

    Settings = DmCountSettings
    recipe = Recipe(
        epochs=1001,  # as coded: 0 to 1000
        batch_size=10,
        optimiser=Optimiser(name="adam", lr=1e-5, weight_decay=1e-4),
        evaluate_every=5,
        evaluate_from=51,  # epochs that are multiples of 5, counted from 0
        select_by="2rmse+mae",
    )
    batch_sums = DM_SUMS
    loss_weights = DM_WEIGHTS
    needs = frozenset({"points"})
    examples = staticmethod(crops)

    def __init__(self, settings: DmCountSettings) -> None:
        super().__init__(settings)
        self.normalise = Normalise()
        self.features = vgg19(settings.widths)
        initialise(self.features)
        load_vgg19(self.features, settings.backbone_weights)
        self.reg_layer = regression(settings.widths[-1], settings.regression_widths)
        output = nn.Conv2d(settings.regression_widths[1], 1, 1)
        if settings.output_bias is not None:
            nn.init.constant_(output.bias, settings.output_bias)  # type: ignore[arg-type]
        self.density_layer = nn.Sequential(output, nn.ReLU())

    @classmethod
    def mini_settings(cls) -> dict[str, Any]:
        """Return an eighth of the channels, for crops of 128 pixels; the bias opens the ReLU."""
        return {"crop_size": 128, "widths": (8, 16, 32, 64, 64), "regression_widths": (32, 16), "output_bias": 0.2}

    def density(self, images: Tensor) -> Tensor:
        """Return the density [B, 1, h, w] of images [B, 3, H, W], normalised already."""
        features = functional.interpolate(self.features(images), scale_factor=2, mode="bilinear", align_corners=True)
        return self.density_layer(self.reg_layer(features))  # (B, 1, H/8, W/8)

    def losses(self, batch: Batch) -> dict[str, Tensor]:
        """Return the terms of section 4: count, transport and variation."""
        density = self.density(self.normalise(batch.images))
        return dm_terms(density, batch.maps["blocks"], batch.points, BLOCK, eps=DM_COUNT_EPS)

    def predict(self, images: Tensor, prompts: Sequence[str]) -> Prediction:
        """Return the density; whole images of any size."""
        return Prediction(density=self.density(self.normalise(images)))

    @classmethod
    def import_checkpoint(cls, path: Path, settings: DmCountSettings) -> dict[str, Tensor]:
        """Read a released state dict, whose names are ours."""
        network = cls(settings.model_copy(update={"backbone_weights": "random"}))
        return renamed(read_tensors(path), lambda key: key, network.state_dict(), source=path)


SYSTEM = DmCount

EQUATIONS: dict[str, Callable[..., Any]] = {
    "section 4: overall loss": dm_terms,
    "section 4: optimal-transport loss": transport,
}
