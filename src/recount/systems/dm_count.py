"""DM-Count: a VGG-19 that regresses a density map, trained by distribution matching.

Wang et al., "Distribution Matching for Crowd Counting" (NeurIPS 2020), section 4. Numbers checked against
cvlab-stonybrook/DM-Count@cc5f213 (golden cases ``dm_count_network``, ``dm_count_original_*``, ``dot_maps``); its four
released state dicts import unchanged.

Deviations: a picture smaller than the crop is enlarged for every data set (the released code does so for ShanghaiTech
only; its preparation leaves no such picture of UCF-QNRF), and without the rounding of its new size.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional

from recount.augmentation.crowd import as_floats, enlarge_to
from recount.nn.bins import block_counts
from recount.nn.dm_loss import DM_COUNT_EPS, DM_SUMS, Domain, dm_terms
from recount.nn.normalise import Normalise
from recount.nn.weights import read_tensors, renamed
from recount.settings.base import Strict
from recount.settings.recipe import Optimiser, Recipe
from recount.systems.base import Batch, Example, Pool, Prediction, System

BLOCK = 8  # edge of a cell of the density map: four poolings, then one doubling


class DmCountSettings(Strict):
    """DM-Count's settings; the defaults are the released code's on UCF-QNRF."""

    crop_size: int = Field(512, gt=0, multiple_of=16, description="512: UCF-QNRF, ShanghaiTech B; 256: A; 384: NWPU")
    flip: float = Field(0.5, ge=0, le=1, description="probability of the horizontal flip")
    flip_rule: Literal["width", "width_minus_one"] = Field(
        "width", description="what x is taken from when flipped: the crop's width, or (ShanghaiTech) one less"
    )
    transport_weight: float = Field(0.1, ge=0)
    variation_weight: float = Field(0.01, ge=0)
    transport_domain: Domain = Field("scaling", description="of the Sinkhorn iterations")
    widths: tuple[int, int, int, int, int] = (64, 128, 256, 512, 512)
    depths: tuple[int, int, int, int, int] = (2, 2, 4, 4, 4)
    regression_widths: tuple[int, int] = (256, 128)
    output_bias: float | None = Field(
        None, description="initial bias of the density layer; null: torch's random one, which can leave its ReLU shut"
    )
    backbone_weights: str = Field("random", description="path of torchvision's VGG-19 state dict, or random")


@dataclass(frozen=True, slots=True)
class Crops:
    """Makes one random crop of a picture, with the counts of its blocks."""

    size: int
    flip: float
    flip_rule: Literal["width", "width_minus_one"]

    def __call__(self, index: int, pool: Pool, rng: np.random.Generator) -> list[Example]:
        """Return one crop of sample ``index``."""
        sample, size = pool.samples[index], self.size
        image, points = enlarge_to(pool.image(index), torch.from_numpy(sample.points), size, clamp=True)
        top = int(rng.integers(0, image.shape[1] - size + 1))
        left = int(rng.integers(0, image.shape[2] - size + 1))
        piece = as_floats(image[:, top : top + size, left : left + size])
        points = points - points.new_tensor([left, top])
        points = points[((points >= 0) & (points <= size)).all(dim=1)]
        # the map is made before the flip and mirrored with the picture: mirrored points would round differently
        blocks = block_counts(points, size, size, BLOCK, coincident="add", rounding="half_even")
        if rng.random() < self.flip:
            piece, blocks = piece.flip(2), blocks.flip(2)
            edge = size if self.flip_rule == "width" else size - 1
            points = torch.stack([edge - points[:, 0], points[:, 1]], dim=1)
        return [Example(sample.id, piece, points=points, count=float(len(points)), maps={"blocks": blocks})]


class DmCount(System):
    """The whole network; its density map has cells of 8 x 8 pixels."""

    Settings = DmCountSettings
    recipe = Recipe(
        epochs=1000,
        batch_size=10,
        optimiser=Optimiser(name="adam", lr=1e-5, weight_decay=1e-4),
        evaluate_every=5,
        evaluate_from=50,
        select_by="2rmse+mae",
    )
    batch_sums = DM_SUMS

    def __init__(self, settings: DmCountSettings) -> None:
        super().__init__(settings)
        self.normalise = Normalise()
        self.features = self._features(settings)
        first, second = settings.regression_widths
        self.reg_layer = nn.Sequential(
            nn.Conv2d(settings.widths[-1], first, 3, padding=1),
            nn.ReLU(),
            nn.Conv2d(first, second, 3, padding=1),
            nn.ReLU(),
        )
        output = nn.Conv2d(second, 1, 1)
        if settings.output_bias is not None:
            nn.init.constant_(output.bias, settings.output_bias)  # type: ignore[arg-type]
        self.density_layer = nn.Sequential(output, nn.ReLU())

    @staticmethod
    def _features(settings: DmCountSettings) -> nn.Sequential:
        """Return VGG-19 to conv5_4 and its ReLU, without the last pooling."""
        from torchvision.models.vgg import make_layers

        plan: list[str | int] = []
        for width, depth in zip(settings.widths, settings.depths, strict=True):
            plan += [*([width] * depth), "M"]
        features = make_layers(plan[:-1])
        for layer in features:
            if isinstance(layer, nn.Conv2d):  # as torchvision initialises its VGG
                nn.init.kaiming_normal_(layer.weight, mode="fan_out", nonlinearity="relu")
                layer.bias.data.zero_()  # type: ignore[union-attr]
        if settings.backbone_weights != "random":
            path = Path(settings.backbone_weights)

            def our_name(key: str) -> str | None:
                return key.removeprefix("features.") if key.startswith("features.") else None

            features.load_state_dict(renamed(read_tensors(path), our_name, features.state_dict(), source=path))
        return features

    @classmethod
    def mini_settings(cls) -> dict[str, Any]:
        """Return an eighth of the channels, for crops of 128 pixels.

        Without ImageNet weights the last ReLU is often shut everywhere from the start, and then nothing is ever
        learned: the bias opens it.
        """
        return {"crop_size": 128, "widths": (8, 16, 32, 64, 64), "regression_widths": (32, 16), "output_bias": 0.2}

    def density(self, images: Tensor) -> Tensor:
        """Return the density [B, 1, h, w] of normalised images [B, 3, H, W]."""
        features = self.features(images)  # (B, 512, H/16, W/16)
        features = functional.interpolate(features, scale_factor=2, mode="bilinear", align_corners=True)
        return self.density_layer(self.reg_layer(features))  # (B, 1, H/8, W/8)

    def example_maker(self) -> Crops:
        """Return the maker of random crops."""
        return Crops(self.settings.crop_size, self.settings.flip, self.settings.flip_rule)

    def losses(self, batch: Batch) -> dict[str, Tensor]:
        """Return the count, transport and variation terms."""
        density = self.density(self.normalise(batch.images))
        domain = self.settings.transport_domain
        return dm_terms(density, batch.maps["blocks"], batch.points, BLOCK, eps=DM_COUNT_EPS, domain=domain)

    @property
    def loss_weights(self) -> Mapping[str, float]:
        """Return the weights of the terms; the plan's cost is only recorded."""
        settings = self.settings
        return {
            "count": 1.0,
            "transport": settings.transport_weight,
            "variation": settings.variation_weight,
            "transport_cost": 0.0,
        }

    def predict(self, images: Tensor, prompts: Sequence[str]) -> Prediction:
        """Return the density; whole images of any size."""
        return Prediction(density=self.density(self.normalise(images)))

    @classmethod
    def import_checkpoint(cls, path: Path, settings: DmCountSettings) -> dict[str, Tensor]:
        """Read a released state dict, whose names are ours.

        Raises:
            CheckpointError: the file cannot be read, or keys are missing, unexpected or of the wrong shape.
        """
        network = cls(settings.model_copy(update={"backbone_weights": "random"}))
        return renamed(read_tensors(path), lambda key: key, network.state_dict(), source=path)


SYSTEM = DmCount
