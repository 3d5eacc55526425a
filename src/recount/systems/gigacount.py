"""GigaCount: CLIP-EBC's block classification on a ConvNeXt-Tiny without its last stage, with a multi-scale neck.

Phan et al., "GigaCount: Enhancing Crowd Counting by Integrating a Multi-Scale Feature Fusion Model into CLIP-EBC".
Numbers checked against AdamHermes/GigaCount@d57191e, the Stage-4 layout against erdongsanshi/FFNet@77a29ba and ODConv
against OSVAI/ODConv@0901cc1 (golden cases ``gigacount.json``). No weights were released.

The settings' defaults are the code at HEAD; where the article says otherwise, a setting switches.

Deviations: the output grid, 28 x 28 in the code whatever the input, is input / block here; only the features of the
text tower are in the state dict; pictures are normalised inside the network. The layout with Stage 4 is inferred: no
commit of the released code contains it.
"""

from collections import OrderedDict
from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any, ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional

from recount.data.windows import Windows
from recount.nn.bins import Bins, cross_entropy, probability_loss
from recount.nn.clip import Activation, TextFeatures, TextTower
from recount.nn.dm_loss import dm_terms
from recount.nn.focus import CCSM, ConvNeXtEncoder, FeatureFusion, ODConv2d, ODConvAttention, our_name
from recount.settings.recipe import Optimiser, Recipe, Schedule
from recount.systems.clip_ebc import SentenceCounter, SentenceSettings


class GigaCountSettings(SentenceSettings):
    """GigaCount's settings; the defaults are the released code at HEAD."""

    input_size: int = Field(224, gt=0, description="edge of training crops and of evaluation windows, pixels")
    backbone: Literal["convnext", "odconv"] = Field("convnext", description="odconv: as the article's section 3.2")
    backbone_weights: str = Field("random", description="path of torchvision's ConvNeXt-Tiny state dict, or random")
    widths: tuple[int, int, int, int] = (96, 192, 384, 768)
    depths: tuple[int, int, int, int] = (3, 3, 9, 3)
    layer_scale: float = Field(1e-6, gt=0, description="initial scale of a block's branch where the weights are random")
    stage4: bool = Field(False, description="keep the backbone's last stage and shift the taps (FFNet's layout)")
    neck_widths: tuple[int, int, int] = (16, 32, 64)
    fusion: bool = Field(True, description="false: the decoder sees the deep map alone, enlarged")
    decoder_width: int = Field(768, gt=0)

    text_features: int = Field(512, gt=0)
    text_activation: Activation = Field("gelu", description="the code runs gelu; CLIP was trained with quickgelu")
    text_weights: str = Field("random", description="path of a CLIP ViT-B/16 state dict, or random (fixed seed)")
    loss: Literal["ce", "dace", "ce_prob", "hybrid"] = "hybrid"

    crops: int = Field(2, gt=0, description="per picture and epoch")
    crop_scale: tuple[float, float] = Field((0.8, 1.0), description="edge of a crop over the input size: zooms in")
    hue: float = Field(0.2, ge=0, le=0.5, description="0.2 by a slip of the released code")

    clamps_crops: ClassVar[bool] = True

    @property
    def text(self) -> TextTower:
        """Return the text tower's settings."""
        return self.text_tower(self.text_features, self.text_weights, self.text_activation)


def odconv_block(width: int) -> nn.Sequential:
    """Return ODConv 3 x 3, BatchNorm and GELU; no residual, no depth-wise convolution."""
    conv = ODConv2d(width, width, kernel_size=3)
    return nn.Sequential(OrderedDict(conv=conv, norm=nn.BatchNorm2d(width), activation=nn.GELU()))


class ODConvEncoder(nn.Module):
    """The backbone of ODConv blocks of section 3.2, which the code at HEAD never calls."""

    def __init__(self, widths: Sequence[int], depths: Sequence[int]) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, widths[0], 4, stride=4), nn.BatchNorm2d(widths[0]))
        self.stages = nn.ModuleList(
            nn.Sequential(*(odconv_block(width) for _ in range(depth)))
            for width, depth in zip(widths, depths, strict=True)
        )
        self.downsamples = nn.ModuleList(
            nn.Sequential(nn.BatchNorm2d(width), nn.Conv2d(width, following, 2, stride=2))
            for width, following in pairwise(widths)
        )
        self.out_widths: tuple[int, ...] = tuple(widths[:3])

    def forward(self, images: Tensor) -> list[Tensor]:
        """Return the stem's map and those of stages 2 and 3; as in the code, stage 4 is computed and thrown away."""
        maps = [self.stem(images)]  # (B, 96, H/4, W/4)
        x = self.stages[0](maps[0])
        for downsample, stage in zip(self.downsamples, self.stages[1:], strict=True):
            x = stage(downsample(x))
            maps.append(x)  # (B, 192, H/8, W/8), (B, 384, H/16, W/16), (B, 768, H/32, W/32)
        return maps[:3]


def _initialise(part: nn.Module) -> None:
    # as the code does: Kaiming-uniform over the inputs, clamped
    for layer in part.modules():
        if isinstance(layer, nn.Conv2d):
            nn.init.kaiming_uniform_(layer.weight)
            with torch.no_grad():
                layer.weight.clamp_(-1, 1)
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)


def hybrid_loss(
    settings: GigaCountSettings, logits: Tensor, density: Tensor, blocks: Tensor, points: Sequence[Tensor]
) -> dict[str, Tensor]:
    """Return the terms of the hybrid loss (1), L_CE + L_Prob + L_Count; takes what ``dace_loss`` takes."""
    classes = settings.bins.classes(blocks[:, 0])
    terms = {"cross_entropy": cross_entropy(logits, classes)}
    if settings.loss in ("ce_prob", "hybrid"):
        terms["probability"] = probability_loss(logits, classes)
    if settings.loss in ("dace", "hybrid"):
        terms.update(dm_terms(density, blocks, points, settings.block))
    return terms


class GigaCount(SentenceCounter):
    """The whole network."""

    Settings = GigaCountSettings
    recipe = Recipe(
        epochs=600,
        batch_size=24,
        optimiser=Optimiser(name="adamw", lr=5e-4, weight_decay=1e-4),
        schedule=Schedule(
            name="warmup_cosine_restarts", warmup=20, initial_lr=1e-5, minimum_lr=5e-6, period=80, period_factor=1
        ),
        clip_norm=1.0,
        precision="fp16",
        evaluation_precision="fp32",  # outside autocast
        evaluate_every=5,
        patience=4,  # 20 epochs; switched off in the authors' log, and so in the variants of their tables
        eval_mode_after_first_evaluation=True,
    )
    loss_terms = staticmethod(hybrid_loss)

    def __init__(self, settings: GigaCountSettings, *, text: TextFeatures | None = None) -> None:
        from torchvision.models.resnet import BasicBlock

        super().__init__(settings)
        self.windows = Windows(settings.input_size, settings.input_size, settings.input_size)
        self.image_encoder: ConvNeXtEncoder | ODConvEncoder
        if settings.backbone == "odconv":
            self.image_encoder = ODConvEncoder(settings.widths, settings.depths)
        else:
            self.image_encoder = ConvNeXtEncoder(
                settings.widths, settings.depths, settings.stage4, settings.layer_scale, settings.backbone_weights
            )
        taps = zip(self.image_encoder.out_widths, settings.neck_widths, strict=True)
        self.ccsm1, self.ccsm2, self.ccsm3 = (CCSM(channels, channels // 2, out) for channels, out in taps)
        self.fusion = FeatureFusion(*settings.neck_widths)
        fused = sum(settings.neck_widths) if settings.fusion else settings.neck_widths[2]
        width = settings.decoder_width
        shortcut = nn.Sequential(nn.Conv2d(fused, width, 1, bias=False), nn.BatchNorm2d(width))
        self.image_decoder = nn.Sequential(BasicBlock(fused, width, downsample=shortcut))
        self.projection = nn.Conv2d(width, settings.text_features, 1)
        _initialise(self.image_decoder)
        _initialise(self.projection)
        self.add_sentences(text)

    @classmethod
    def mini_settings(cls) -> dict[str, Any]:
        """Return 0.2 million parameters for crops of 96 pixels (a multiple of 32, for Stage 4).

        More layers of an untrained text tower make all sentences alike: cosine of no and one person 0.99 with two, 0.04
        with one. Untrained ConvNeXt blocks start at full scale: at 1e-6 they would pass the picture on unchanged.
        """
        return {
            **{"input_size": 96, "widths": (16, 32, 64, 128), "depths": (1, 1, 2, 1), "layer_scale": 1.0},
            **{"neck_widths": (8, 8, 16), "decoder_width": 64},
            **{"text_width": 64, "text_heads": 1, "text_layers": 1, "text_features": 64},
        }

    def neck(self, shallow: Tensor, middle: Tensor, deep: Tensor) -> Tensor:
        """Return the fused map [B, 112, H, W] at the size of the shallow map; without fusion [B, 64, H, W]."""
        if not self.settings.fusion:
            return functional.interpolate(self.ccsm3(deep), size=shallow.shape[2:], mode="bilinear")
        return self.fusion(self.ccsm1(shallow), self.ccsm2(middle), self.ccsm3(deep))

    def head(self, fused: Tensor, grid: tuple[int, int]) -> tuple[Tensor, Tensor]:
        """Return logits [B, K, h, w] and density [B, 1, h, w] of a fused map, on a grid of h x w blocks."""
        return self.compared(functional.interpolate(fused, size=grid, mode="bilinear", align_corners=False))

    def classify(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Return logits [B, K, h, w] and density [B, 1, h, w] of images [B, 3, H, W] in [0, 1]."""
        grid = (images.shape[2] // self.settings.block, images.shape[3] // self.settings.block)
        return self.head(self.neck(*self.image_encoder(self.normalise(images))), grid)

    @staticmethod
    def our_name(key: str) -> str | None:
        """Return our name of a released key; None for the text tower."""
        return None if key.startswith("text_encoder.") else our_name(key)


SYSTEM = GigaCount

EQUATIONS: dict[str, Callable[..., Any]] = {
    "section 3.2: ConvNeXt without Stage 4": ConvNeXtEncoder,
    "section 3.2: ODConv blocks": ODConvEncoder,
    "section 3.2: four attentions": ODConvAttention,
    "section 3.2: feature fusion": FeatureFusion,
    "section 3.2: alignment and density map": SentenceCounter.compared,
    "(1) hybrid loss": hybrid_loss,
    "(2) bin of a block": Bins.classes,
    "(3) L_CE": cross_entropy,
    "(4) L_Prob": probability_loss,
}
