"""DMCount-EBC: DM-Count's VGG-19 auto-encoder with CLIP-EBC's block classification in place of its density layer.

Ma, Sanchez, Guha, "CLIP-EBC", arXiv 2403.09281. Numbers were checked against Yiming-M/CLIP-EBC@b52a594 (MIT; golden
cases ``dmcount_ebc_vgg19_96x64`` and ``dace_*``); base weights are torchvision's VGG-19 (BSD).

Bins, DACE loss, crops and recipe are CLIP-EBC's, and so are the deviations. Features are enlarged without aligned
corners, unlike DM-Count's.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from pydantic import Field
from torch import Tensor, nn

from recount.nn.bins import Bins, expectation
from recount.nn.precision import full_precision
from recount.nn.vgg import STRIDE, initialise, load_vgg19, regression, vgg19
from recount.nn.weights import renamed
from recount.systems.clip_ebc import BlockCounter, ClipEbc, EbcSettings, dace_loss, padded, released_state, rescaled


class DmCountEbcSettings(EbcSettings):
    """DMCount-EBC's settings; the defaults are the released code's."""

    input_size: int = Field(448, gt=0, description="edge of training crops, pixels")
    widths: tuple[int, int, int, int, int] = Field((64, 128, 256, 512, 512), description="channels of VGG-19's stages")
    decoder_widths: tuple[int, int] = Field((256, 128), description="channels of the two regression layers")
    backbone_weights: str = Field("random", description="path of torchvision's vgg19 state dict, or random")


class AutoEncoder(nn.Module):
    """DM-Count's auto-encoder: VGG-19, enlarged to one cell per block, and two convolutions; keys as released."""

    def __init__(self, settings: DmCountEbcSettings) -> None:
        super().__init__()
        self.block = settings.block
        self.features = vgg19(settings.widths)
        self.reg_layer = regression(settings.widths[-1], settings.decoder_widths)
        initialise(self.features)
        initialise(self.reg_layer)
        load_vgg19(self.features, settings.backbone_weights)

    def forward(self, images: Tensor) -> Tensor:
        """Return [B, 128, H/block, W/block] of normalised images [B, 3, H, W]."""
        return self.reg_layer(rescaled(self.features(images), STRIDE, self.block))


class DmCountEbc(BlockCounter):
    """The whole network."""

    Settings = DmCountEbcSettings
    recipe = ClipEbc.recipe

    def __init__(self, settings: DmCountEbcSettings) -> None:
        super().__init__(settings)
        self.backbone = AutoEncoder(settings)
        self.classifier = nn.Conv2d(settings.decoder_widths[1], len(settings.bins), 1)
        initialise(self.classifier)

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

    def prepare_image(self, image: Tensor) -> Tensor:
        """Return the image padded to multiples of 16 (32 for blocks of 32)."""
        return padded(image, max(STRIDE, self.settings.block))

    @classmethod
    def import_checkpoint(cls, path: Path, settings: DmCountEbcSettings) -> dict[str, Tensor]:
        """Read a released checkpoint: a bare state dict, or ckpt.pth."""
        bare = settings.model_copy(update={"backbone_weights": "random"})
        return renamed(released_state(path), lambda key: key, cls(bare).state_dict(), source=path)


SYSTEM = DmCountEbc

EQUATIONS: dict[str, Callable[..., Any]] = {
    "auto-encoder": AutoEncoder,
    "integer-valued bins": Bins.classes,
    "density map": expectation,
    "DACE loss": dace_loss,
}
