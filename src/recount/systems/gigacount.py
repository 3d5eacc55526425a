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
from pathlib import Path
from typing import Any, ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional

from recount.data.windows import Windows
from recount.nn.bins import Bins, cross_entropy, probability_loss
from recount.nn.clip import Activation, TextFeatures, TextTower
from recount.nn.dm_loss import dm_terms
from recount.nn.precision import full_precision, without_autocast
from recount.nn.vgg import initialise
from recount.nn.weights import read_tensors, renamed
from recount.settings.recipe import Optimiser, Recipe, Schedule
from recount.systems.clip_ebc import SentenceCounter, SentenceSettings

KERNELS = 4  # of an ODConv layer
ATTENTION_REDUCTION = 16
LEAST_ATTENTION_CHANNELS = 16
STOCHASTIC_DEPTH = 0.1


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


class ODConvAttention(nn.Module):
    """The four attentions of section 3.2, from the pooled input: channel, filter, spatial and kernel."""

    def __init__(self, channels: int, filters: int, kernel_size: int) -> None:
        super().__init__()
        width = max(channels // ATTENTION_REDUCTION, LEAST_ATTENTION_CHANNELS)
        self.kernel_size = kernel_size
        self.fc = nn.Conv2d(channels, width, 1, bias=False)
        self.bn = nn.BatchNorm2d(width)
        self.channel_fc = nn.Conv2d(width, channels, 1)
        self.filter_fc = nn.Conv2d(width, filters, 1)
        if kernel_size > 1:
            self.spatial_fc = nn.Conv2d(width, kernel_size**2, 1)
        self.kernel_fc = nn.Conv2d(width, KERNELS, 1)
        initialise(self)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Return attentions over channels [B,C,1,1], filters [B,F,1,1], places [B,1,1,1,k,k] and kernels [B,4]."""
        pooled = functional.relu(self.bn(self.fc(x.mean(dim=(2, 3), keepdim=True))))  # (B, A, 1, 1)
        if self.kernel_size > 1:
            places = self.spatial_fc(pooled).sigmoid().view(-1, 1, 1, 1, self.kernel_size, self.kernel_size)
        else:
            places = pooled.new_ones(1, 1, 1, 1, 1, 1)
        kernels = self.kernel_fc(pooled).flatten(1).softmax(dim=1)
        return self.channel_fc(pooled).sigmoid(), self.filter_fc(pooled).sigmoid(), places, kernels


class ODConv2d(nn.Module):
    """Omni-dimensional dynamic convolution: y = f * conv(c * x, sum over j of k_j * s * W_j), in single precision.

    Li et al., "Omni-Dimensional Dynamic Convolution" (ICLR 2022). Each sample gets its own aggregated kernel.
    """

    def __init__(self, channels: int, filters: int, kernel_size: int = 1) -> None:
        super().__init__()
        self.attention = ODConvAttention(channels, filters, kernel_size)
        self.weight = nn.Parameter(torch.empty(KERNELS, filters, channels, kernel_size, kernel_size))
        for kernel in self.weight:
            nn.init.kaiming_normal_(kernel, mode="fan_out", nonlinearity="relu")

    def forward(self, x: Tensor) -> Tensor:
        """Return the convolved map [B, F, H, W] of a map [B, C, H, W]."""
        with without_autocast(x.device):
            x = full_precision(x)
            channels, filters, places, kernels = self.attention(x)
            weight = (kernels[:, :, None, None, None, None] * places * self.weight).sum(dim=1)  # (B, F, C, k, k)
            x, size = channels * x, weight.shape[-1]
            if size == 1:
                return filters * (weight.flatten(2) @ x.flatten(2)).unflatten(2, x.shape[2:])
            joined = functional.conv2d(x.flatten(0, 1)[None], weight.flatten(0, 1), padding=size // 2, groups=len(x))
            return filters * joined.unflatten(1, weight.shape[:2])[0]


class ConvNeXtEncoder(nn.Module):
    """Section 3.2: ConvNeXt-Tiny (torchvision) without its last stage, or with it and the taps one stage deeper."""

    def __init__(
        self, widths: Sequence[int], depths: Sequence[int], stage4: bool, layer_scale: float, weights: str = "random"
    ) -> None:
        super().__init__()
        from torchvision.models.convnext import CNBlockConfig, ConvNeXt

        following: list[int | None] = [*widths[1:], None]
        stages = [CNBlockConfig(*stage) for stage in zip(widths, following, depths, strict=True)]
        # drop probabilities grow over the blocks of the whole network, so the last stage is built even where it is cut
        features = ConvNeXt(stages, stochastic_depth_prob=STOCHASTIC_DEPTH, layer_scale=layer_scale).features
        self.stem = nn.Sequential(features[0], features[1])
        self.stage1 = nn.Sequential(features[2], features[3])
        self.stage2 = nn.Sequential(features[4], features[5])
        self.stage3 = nn.Sequential(features[6], features[7]) if stage4 else None
        self.out_widths: tuple[int, ...] = tuple(widths[1:] if stage4 else widths[:3])
        if weights != "random":
            self._load_torchvision(Path(weights))

    def forward(self, images: Tensor) -> list[Tensor]:
        """Return the shallow, middle and deep map of images [B, 3, H, W]."""
        stem = self.stem(images)  # (B, 96, H/4, W/4)
        first = self.stage1(stem)  # (B, 192, H/8, W/8)
        second = self.stage2(first)  # (B, 384, H/16, W/16)
        if self.stage3 is None:
            return [stem, first, second]
        return [first, second, self.stage3(second)]  # the last (B, 768, H/32, W/32)

    def _load_torchvision(self, path: Path) -> None:
        names = ["stem", "stage1", "stage2"] + ([] if self.stage3 is None else ["stage3"])
        parts = {f"features.{2 * n + part}": f"{name}.{part}" for n, name in enumerate(names) for part in (0, 1)}

        def rename(key: str) -> str | None:
            part = ".".join(key.split(".")[:2])
            return key.replace(part, parts[part], 1) if part in parts else None

        self.load_state_dict(renamed(read_tensors(path), rename, self.state_dict(), source=path))


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


class CCSM(nn.Module):
    """FFNet's channel and spatial attention around four 1 x 1 ODConv layers (keys ``ccsm1`` to ``ccsm3``).

    Under autocast the ODConv layers compute in single precision, as released, and the attentions do not.
    """

    def __init__(self, channels: int, middle: int, out: int) -> None:
        super().__init__()
        self.channel_attention = nn.Conv2d(channels, channels, 1, bias=False)
        self.spatial_attention = nn.Conv2d(1, 1, 7, padding=3, bias=False)
        sizes = ((channels, channels), (channels, middle), (middle, middle), (middle, out))
        self.conv1, self.conv2, self.conv3, self.conv4 = (
            nn.Sequential(ODConv2d(before, after), nn.ReLU(), nn.BatchNorm2d(after)) for before, after in sizes
        )

    def forward(self, x: Tensor) -> Tensor:
        """Return a map [B, out, H, W] of a map [B, channels, H, W]."""
        pooled = x.mean(dim=(2, 3), keepdim=True)
        x = x * functional.relu(self.channel_attention(pooled)).sigmoid()  # the ReLU keeps the attention above 0.5
        x = self.conv1(x) + x
        x = self.conv2(x)
        x = self.conv3(x) + x
        x = self.conv4(x)
        return x * self.spatial_attention(x.mean(dim=1, keepdim=True)).sigmoid()


class FeatureFusion(nn.Module):
    """The feature fusion module of section 3.2: three maps at the size of the shallow one, concatenated."""

    def __init__(self, shallow: int, middle: int, deep: int) -> None:
        super().__init__()
        self.upsample_1 = nn.ConvTranspose2d(middle, middle, 4, stride=2, padding=1)
        self.upsample_2 = nn.ConvTranspose2d(deep, deep, 4, stride=4)
        # never called; it stays because the released network counts and saves it
        self.final = nn.Sequential(nn.Conv2d(shallow + middle + deep, 1, 1), nn.ReLU())

    def forward(self, shallow: Tensor, middle: Tensor, deep: Tensor) -> Tensor:
        """Return [B, all channels, H, W] of maps at 1, 1/2 and 1/4 of H x W."""
        return torch.cat([shallow, self.upsample_1(middle), self.upsample_2(deep)], dim=1)


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
        ours = key.replace(".ch_att_s.shared_MLP.0.", ".channel_attention.")
        return None if key.startswith("text_encoder.") else ours.replace(".sa_s.conv1.", ".spatial_attention.")


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
