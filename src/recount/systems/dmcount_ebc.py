"""DMCount-EBC: DM-Count's VGG-19 auto-encoder with CLIP-EBC's block classification in place of its density layer.

Ma, Sanchez, Guha, "CLIP-EBC", arXiv 2403.09281. Numbers were checked against Yiming-M/CLIP-EBC@b52a594 (MIT; golden
cases ``dmcount_ebc_vgg19_96x64`` and ``dace_*``); base weights are torchvision's VGG-19 (BSD).

Bins, DACE loss, crops and recipe are CLIP-EBC's (``recount.systems.clip_ebc``). Features are enlarged without aligned
corners, unlike DM-Count's. Deviations: pictures are normalised inside the network; a picture whose edges are not
multiples of 16 is padded with black at the right and the bottom (CLIP-EBC's preparation leaves none).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from pydantic import Field
from torch import Tensor, nn

from recount.nn.bins import expectation
from recount.nn.normalise import Normalise
from recount.nn.precision import full_precision
from recount.nn.weights import read_tensors, renamed
from recount.systems.base import Batch, Prediction, System
from recount.systems.clip_ebc import (
    BlockClassification,
    ClipEbc,
    initialise,
    padded,
    released_state,
    rescaled,
)
from recount.systems.gigacount import Crops

STRIDE = 16  # of VGG-19 up to its fourth pooling
CONVOLUTIONS = (2, 2, 4, 4, 4)  # of VGG-19, per stage
HIDDEN = 512  # width from which the released classifier has a hidden layer of this width


class DmCountEbcSettings(BlockClassification):
    """DMCount-EBC's settings; the defaults are the released code's."""

    input_size: int = Field(448, gt=0, description="edge of training crops, pixels")
    widths: tuple[int, int, int, int, int] = Field((64, 128, 256, 512, 512), description="channels of VGG-19's stages")
    decoder_widths: tuple[int, int] = Field((256, 128), description="channels of the two regression layers")
    backbone_weights: str = Field("random", description="path of torchvision's vgg19 state dict, or random")


def vgg_features(widths: Sequence[int]) -> nn.Sequential:
    """Return VGG-19's convolutions without the last pooling, with torchvision's layer numbers."""
    from torchvision.models.vgg import make_layers

    layers: list[str | int] = []
    for width, number in zip(widths, CONVOLUTIONS, strict=True):
        layers += [width] * number + ["M"]
    return make_layers(layers[:-1])


class AutoEncoder(nn.Module):
    """VGG-19, enlarged to one cell per block, and two convolutions; keys as released."""

    def __init__(self, settings: DmCountEbcSettings) -> None:
        super().__init__()
        middle, out = settings.decoder_widths
        self.block = settings.block
        self.features = vgg_features(settings.widths)
        self.reg_layer = nn.Sequential(
            nn.Conv2d(settings.widths[-1], middle, 3, padding=1),
            nn.ReLU(),
            nn.Conv2d(middle, out, 3, padding=1),
            nn.ReLU(),
        )
        initialise(self.features)  # as torchvision's VGG is
        initialise(self.reg_layer)
        if settings.backbone_weights != "random":
            self._load(Path(settings.backbone_weights))

    def _load(self, path: Path) -> None:
        def our_name(key: str) -> str | None:
            return key.removeprefix("features.") if key.startswith("features.") else None  # no ImageNet classifier

        self.features.load_state_dict(renamed(read_tensors(path), our_name, self.features.state_dict(), source=path))

    def forward(self, images: Tensor) -> Tensor:
        """Return [B, 128, H/block, W/block] of normalised images [B, 3, H, W]."""
        return self.reg_layer(rescaled(self.features(images), STRIDE, self.block))


def build_classifier(channels: int, bins: int) -> nn.Module:
    """Return the 1 x 1 classifier of the blocks; with a hidden layer only for wide features."""
    if channels <= HIDDEN:
        classifier: nn.Module = nn.Conv2d(channels, bins, 1)
    else:
        classifier = nn.Sequential(nn.Conv2d(channels, HIDDEN, 1), nn.ReLU(), nn.Conv2d(HIDDEN, bins, 1))
    initialise(classifier)
    return classifier


class DmCountEbc(System):
    """The whole network; logits of the bins per block, and their expectation as density."""

    anchors: Tensor

    Settings = DmCountEbcSettings
    recipe = ClipEbc.recipe
    batch_sums = ClipEbc.batch_sums

    def __init__(self, settings: DmCountEbcSettings) -> None:
        super().__init__(settings)
        self.normalise = Normalise()
        self.backbone = AutoEncoder(settings)
        self.classifier = build_classifier(settings.decoder_widths[1], len(settings.bins))
        self.register_buffer("anchors", torch.tensor(settings.bins.anchors), persistent=False)

    @classmethod
    def mini_settings(cls) -> dict[str, Any]:
        """Return an eighth of the channels, for crops of 112 pixels that zoom out a little, as CLIP-EBC's."""
        return {"input_size": 112, "crop_scale": (1.0, 1.25), "widths": (8, 16, 32, 64, 64), "decoder_widths": (32, 16)}

    def classify(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Return logits [B, K, h, w] and density [B, 1, h, w] of images [B, 3, H, W] in [0, 1]."""
        return self.head(self.backbone(self.normalise(images)))

    def head(self, features: Tensor) -> tuple[Tensor, Tensor]:
        """Return logits and density of the auto-encoder's features [B, 128, h, w]."""
        logits = full_precision(self.classifier(features))
        return logits, expectation(logits, self.anchors)

    def example_maker(self) -> Crops:
        """Return the maker of random crops."""
        return self.settings.crop_maker(self.settings.input_size)

    def losses(self, batch: Batch) -> dict[str, Tensor]:
        """Return the terms of the DACE loss."""
        logits, density = self.classify(batch.images)
        return self.settings.dace_terms(logits, density, batch.maps["blocks"], batch.points)

    @property
    def loss_weights(self) -> Mapping[str, float]:
        """Return the weights of the count terms."""
        return self.settings.dace_weights

    def prepare_image(self, image: Tensor) -> Tensor:
        """Return the image padded to multiples of 16 (32 for blocks of 32)."""
        return padded(image, max(STRIDE, self.settings.block))

    def predict(self, images: Tensor, prompts: Sequence[str]) -> Prediction:
        """Return the density per block."""
        return Prediction(density=self.classify(images)[1])

    @classmethod
    def import_checkpoint(cls, path: Path, settings: DmCountEbcSettings) -> dict[str, Tensor]:
        """Read a released checkpoint: a bare state dict, or ckpt.pth.

        Raises:
            CheckpointError: the file cannot be read, or keys are missing, unexpected or of the wrong shape.
        """
        bare = settings.model_copy(update={"backbone_weights": "random"})
        return renamed(released_state(path), lambda key: key, cls(bare).state_dict(), source=path)


SYSTEM = DmCountEbc
