"""GigaCount: CLIP-EBC's block classification on a ConvNeXt-Tiny without its last stage, with a multi-scale neck.

Phan et al., "GigaCount: Enhancing Crowd Counting by Integrating a Multi-Scale Feature Fusion Model into CLIP-EBC".
Numbers checked against AdamHermes/GigaCount@d57191e, the Stage-4 layout against erdongsanshi/FFNet@77a29ba and ODConv
against OSVAI/ODConv@0901cc1 (golden cases ``gigacount.json``). No weights were released.

The settings' defaults are the code at HEAD. Where the article says otherwise, a setting switches: ODConv blocks for the
backbone (section 3.2), QuickGELU in the text tower, prompts, the last stage, the parts of the hybrid loss (equation 4).

Deviations: the output grid, 28 x 28 in the code whatever the input, is input / block here (the same at 224 pixels);
the text tower is not part of the state dict, only its features are; pictures are normalised inside the network.
The layout with Stage 4 is inferred: no commit of the released code contains it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional

from recount.augmentation.crowd import CrowdAugmentation, augmented_crop
from recount.data.windows import Windows
from recount.nn.bins import (
    AnchorKind,
    Bins,
    Coincident,
    Granularity,
    PromptStyle,
    block_counts,
    cross_entropy,
    expectation,
    probability_loss,
    prompts,
    published_bins,
)
from recount.nn.clip import Activation, TextFeatures, TextTower, encode, tower_state
from recount.nn.dm_loss import DM_SUMS, DM_WEIGHTS, Domain, dm_terms
from recount.nn.normalise import Normalise
from recount.nn.precision import full_precision, without_autocast
from recount.nn.weights import read_tensors, renamed
from recount.settings.base import Strict
from recount.settings.recipe import Optimiser, Recipe, Schedule
from recount.systems.base import Batch, Example, Pool, Prediction, System

KERNELS = 4  # of an ODConv layer
ATTENTION_REDUCTION = 16
LEAST_ATTENTION_CHANNELS = 16
STOCHASTIC_DEPTH = 0.1


class GigaCountSettings(Strict):
    """GigaCount's settings; the defaults are the released code at HEAD."""

    input_size: int = Field(224, gt=0, description="edge of training crops and of evaluation windows, pixels")
    block: int = Field(8, gt=0, description="edge of a block, pixels")
    backbone: Literal["convnext", "odconv"] = Field(
        "convnext", description="odconv: as section 3.2 of the article says"
    )
    backbone_weights: str = Field("random", description="path of torchvision's ConvNeXt-Tiny state dict, or random")
    widths: tuple[int, int, int, int] = (96, 192, 384, 768)
    depths: tuple[int, int, int, int] = (3, 3, 9, 3)
    layer_scale: float = Field(1e-6, gt=0, description="initial scale of a block's branch where the weights are random")
    stage4: bool = Field(False, description="keep the backbone's last stage and shift the taps (FFNet's layout)")
    neck_widths: tuple[int, int, int] = (16, 32, 64)
    decoder_width: int = Field(768, gt=0)

    text_width: int = Field(512, gt=0)
    text_heads: int = Field(8, gt=0)
    text_layers: int = Field(12, gt=0)
    text_features: int = Field(512, gt=0)
    text_activation: Activation = Field("gelu", description="the code runs gelu; CLIP was trained with quickgelu")
    text_weights: str = Field("random", description="path of a CLIP ViT-B/16 state dict, or random (fixed seed)")
    prompts: PromptStyle = "word"
    initial_scale: float = Field(1 / 0.07, gt=0, description="of the cosine logits; learned from there")

    bins_of: Literal["qnrf", "sha", "shb", "nwpu", "jhu"] = Field("qnrf", description="data set of the bins")
    truncation: int = Field(4, gt=0, description="block counts from here on share the last bin")
    granularity: Granularity = "fine"
    anchors: AnchorKind = "average"
    last_anchor: float | None = Field(
        None, description="count of the last bin; null: as anchors says (4.21937 as coded; 4.32696 at image size 2048)"
    )
    loss: Literal["ce", "dace", "ce_prob", "hybrid"] = "hybrid"
    dm_weight: float = Field(1.0, ge=0, description="lambda 1 of the hybrid loss")
    transport_domain: Domain = Field("scaling", description="of the Sinkhorn iterations")
    coincident_points: Coincident = Field("set", description="whether points of one pixel count once in the target")

    augmentation: Literal["full", "crop_flip"] = "full"
    crops: int = Field(2, gt=0, description="per picture and epoch")
    crop_scale: tuple[float, float] = (0.8, 1.0)
    hue: float = Field(0.2, ge=0, le=0.5, description="0.2 by a slip of the released code")
    blur: Literal["vertical", "isotropic"] = Field("vertical", description="vertical by a slip of the released code")

    @property
    def bins(self) -> Bins:
        """Return the bins with their anchors."""
        bins = published_bins(self.bins_of, self.block, self.truncation, self.granularity, self.anchors)
        return bins if self.last_anchor is None else bins.with_last_anchor(self.last_anchor)

    @property
    def text(self) -> TextTower:
        """Return the text tower's settings."""
        return TextTower(
            width=self.text_width,
            heads=self.text_heads,
            layers=self.text_layers,
            features=self.text_features,
            activation=self.text_activation,
            weights=self.text_weights,
        )

    @property
    def crop_augmentation(self) -> CrowdAugmentation:
        """Return how crops are made."""
        full = CrowdAugmentation(crops=self.crops, crop_scale=self.crop_scale, hue=self.hue, blur_kind=self.blur)
        return full if self.augmentation == "full" else full.without_photometric()


# ------------------------------------------------------------------------------------------------------------- ODConv


class ODConvAttention(nn.Module):
    """The four attentions of ODConv, from the pooled input: channel, filter, spatial and kernel."""

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
        for layer in self.children():
            if isinstance(layer, nn.Conv2d):
                nn.init.kaiming_normal_(layer.weight, mode="fan_out", nonlinearity="relu")
                if layer.bias is not None:
                    nn.init.zeros_(layer.bias)

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
    """Omni-dimensional dynamic convolution: y = f * conv(c * x, sum over j of k_j * s * W_j), without bias.

    Li et al., "Omni-Dimensional Dynamic Convolution" (ICLR 2022). Each sample gets its own aggregated kernel; runs in
    single precision whatever the autocast.
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
            return filters * _per_sample_convolution(channels * x, weight)


def _per_sample_convolution(x: Tensor, weight: Tensor) -> Tensor:
    """Convolve each sample of x [B, C, H, W] with its own kernel [B, F, C, k, k], zero padding k // 2."""
    batch, filters, channels, size, _ = weight.shape
    if size == 1:
        return (weight.flatten(2) @ x.flatten(2)).unflatten(2, x.shape[2:])
    joined = x.reshape(1, batch * channels, *x.shape[2:])
    kernels = weight.reshape(batch * filters, channels, size, size)
    return functional.conv2d(joined, kernels, padding=size // 2, groups=batch).unflatten(1, (batch, filters))[0]


# ---------------------------------------------------------------------------------------------------------- backbones


class ConvNeXtEncoder(nn.Module):
    """ConvNeXt-Tiny (torchvision) without its last stage, or with it and the taps one stage deeper."""

    def __init__(self, widths: Sequence[int], depths: Sequence[int], stage4: bool, layer_scale: float) -> None:
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

    def forward(self, images: Tensor) -> list[Tensor]:
        """Return the shallow, middle and deep map of images [B, 3, H, W]."""
        stem = self.stem(images)  # (B, 96, H/4, W/4)
        first = self.stage1(stem)  # (B, 192, H/8, W/8)
        second = self.stage2(first)  # (B, 384, H/16, W/16)
        if self.stage3 is None:
            return [stem, first, second]
        return [first, second, self.stage3(second)]  # the last (B, 768, H/32, W/32)

    def load_torchvision(self, path: Path) -> None:
        """Load a ConvNeXt state dict of torchvision, strictly; its classifier and the stages cut off are left out.

        Raises:
            CheckpointError: it does not fit.
        """
        parts = {f"features.{2 * stage + part}": f"{name}.{part}" for stage, name in self._stages() for part in (0, 1)}

        def rename(key: str) -> str | None:
            part = ".".join(key.split(".")[:2])
            return key.replace(part, parts[part], 1) if part in parts else None

        self.load_state_dict(renamed(read_tensors(path), rename, self.state_dict(), source=path))

    def _stages(self) -> list[tuple[int, str]]:
        names = ["stem", "stage1", "stage2"] + ([] if self.stage3 is None else ["stage3"])
        return list(enumerate(names))


class ODConvBlock(nn.Module):
    """ODConv 3 x 3, BatchNorm, GELU; no residual, no depth-wise convolution."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv = ODConv2d(width, width, kernel_size=3)
        self.norm = nn.BatchNorm2d(width)

    def forward(self, x: Tensor) -> Tensor:
        """Return a map of the same shape."""
        return functional.gelu(self.norm(self.conv(x)))


class ODConvEncoder(nn.Module):
    """The backbone of ODConv blocks that section 3.2 of the article describes and the code at HEAD never calls."""

    def __init__(self, widths: Sequence[int], depths: Sequence[int]) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, widths[0], 4, stride=4), nn.BatchNorm2d(widths[0]))
        self.stages = nn.ModuleList(
            nn.Sequential(*(ODConvBlock(width) for _ in range(depth)))
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


# ----------------------------------------------------------------------------------------------------------- the neck


class CCSM(nn.Module):
    """FFNet's channel and spatial attention around four 1 x 1 ODConv layers (keys ``ccsm1`` to ``ccsm3``)."""

    def __init__(self, channels: int, middle: int, out: int) -> None:
        super().__init__()
        self.channel_attention = nn.Conv2d(channels, channels, 1, bias=False)
        self.spatial_attention = nn.Conv2d(1, 1, 7, padding=3, bias=False)
        self.conv1 = self._layer(channels, channels)
        self.conv2 = self._layer(channels, middle)
        self.conv3 = self._layer(middle, middle)
        self.conv4 = self._layer(middle, out)

    @staticmethod
    def _layer(channels: int, out: int) -> nn.Sequential:
        return nn.Sequential(ODConv2d(channels, out), nn.ReLU(), nn.BatchNorm2d(out))

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
    """Brings three maps to the size of the shallow one and concatenates them."""

    def __init__(self, shallow: int, middle: int, deep: int) -> None:
        super().__init__()
        self.upsample_1 = nn.ConvTranspose2d(middle, middle, 4, stride=2, padding=1)
        self.upsample_2 = nn.ConvTranspose2d(deep, deep, 4, stride=4)
        # never called; it stays because the released network counts and saves it
        self.final = nn.Sequential(nn.Conv2d(shallow + middle + deep, 1, 1), nn.ReLU())

    def forward(self, shallow: Tensor, middle: Tensor, deep: Tensor) -> Tensor:
        """Return [B, all channels, H, W] of maps at 1, 1/2 and 1/4 of H x W."""
        return torch.cat([shallow, self.upsample_1(middle), self.upsample_2(deep)], dim=1)


def _decoder(channels: int, width: int) -> nn.Sequential:
    from torchvision.models.resnet import BasicBlock

    shortcut = nn.Sequential(nn.Conv2d(channels, width, 1, bias=False), nn.BatchNorm2d(width))
    return nn.Sequential(BasicBlock(channels, width, downsample=shortcut))


def _initialise(part: nn.Module) -> None:
    """Initialise decoder and projection as the code does: Kaiming-uniform over the inputs, clamped to [-1, 1]."""
    for layer in part.modules():
        if isinstance(layer, nn.Conv2d):
            nn.init.kaiming_uniform_(layer.weight)
            with torch.no_grad():
                layer.weight.clamp_(-1, 1)
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)


# --------------------------------------------------------------------------------------------------------- the system


@dataclass(frozen=True, slots=True)
class Crops:
    """Makes a picture's random crops with the counts of their blocks."""

    size: int
    block: int
    coincident: Coincident
    augmentation: CrowdAugmentation

    def __call__(self, index: int, pool: Pool, rng: np.random.Generator) -> list[Example]:
        """Return ``augmentation.crops`` crops of sample ``index``."""
        sample, image = pool.samples[index], pool.image(index)
        points = torch.from_numpy(sample.points)
        return [self._crop(sample.id, image, points, rng) for _ in range(self.augmentation.crops)]

    def _crop(self, name: str, image: Tensor, points: Tensor, rng: np.random.Generator) -> Example:
        piece, inside = augmented_crop(image, points, self.size, self.augmentation, rng)
        blocks = block_counts(inside, self.size, self.size, self.block, coincident=self.coincident)
        return Example(name, piece, points=inside, count=float(len(inside)), maps={"blocks": blocks})


class GigaCount(System):
    """The whole network; logits of the bins per block, and their expectation as density."""

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
        evaluate_every=5,
        eval_mode_after_first_evaluation=True,
    )
    batch_sums = DM_SUMS

    text_features: Tensor
    anchors: Tensor

    def __init__(self, settings: GigaCountSettings, *, text: TextFeatures | None = None) -> None:
        """Build the network.

        Args:
            settings: sizes and switches.
            text: features of the prompts, where they are known already (from a checkpoint's own tower).
        """
        super().__init__(settings)
        self.windows = Windows(settings.input_size, settings.input_size, settings.input_size)
        self.bins = settings.bins
        self.normalise = Normalise()
        self.image_encoder = self._encoder(settings)
        shallow, middle, deep = self.image_encoder.out_widths
        self.ccsm1 = CCSM(shallow, shallow // 2, settings.neck_widths[0])
        self.ccsm2 = CCSM(middle, middle // 2, settings.neck_widths[1])
        self.ccsm3 = CCSM(deep, deep // 2, settings.neck_widths[2])
        self.fusion = FeatureFusion(*settings.neck_widths)
        self.image_decoder = _decoder(sum(settings.neck_widths), settings.decoder_width)
        self.projection = nn.Conv2d(settings.decoder_width, settings.text_features, 1)
        _initialise(self.image_decoder)
        _initialise(self.projection)
        self.logit_scale = nn.Parameter(torch.tensor(math.log(settings.initial_scale)))
        text = text or encode(settings.text, prompts(self.bins, settings.prompts))
        self.frozen_text_parameters = text.parameters
        self.register_buffer("text_features", text.values)
        self.register_buffer("anchors", torch.tensor(self.bins.anchors), persistent=False)

    @staticmethod
    def _encoder(settings: GigaCountSettings) -> ConvNeXtEncoder | ODConvEncoder:
        if settings.backbone == "odconv":
            return ODConvEncoder(settings.widths, settings.depths)
        encoder = ConvNeXtEncoder(settings.widths, settings.depths, settings.stage4, settings.layer_scale)
        if settings.backbone_weights != "random":
            encoder.load_torchvision(Path(settings.backbone_weights))
        return encoder

    @classmethod
    def mini_settings(cls) -> dict[str, Any]:
        """Return a network of 0.2 million parameters for crops of 96 pixels (a multiple of 32, for Stage 4).

        The untrained text tower has one layer and one head: the more layers without training, the more alike all
        sentences (cosine of no and one person 0.99 with two layers, 0.04 with one).
        Untrained ConvNeXt blocks start at full scale: at 1e-6 they would pass the picture on unchanged for too long.
        """
        return {
            "input_size": 96,
            "widths": (16, 32, 64, 128),
            "depths": (1, 1, 2, 1),
            "layer_scale": 1.0,
            "neck_widths": (8, 8, 16),
            "decoder_width": 64,
            "text_width": 64,
            "text_heads": 1,
            "text_layers": 1,
            "text_features": 64,
        }

    def neck(self, shallow: Tensor, middle: Tensor, deep: Tensor) -> Tensor:
        """Return the fused map [B, 112, H, W] at the size of the shallow map; in single precision."""
        with without_autocast(shallow.device):
            maps = [full_precision(each) for each in (shallow, middle, deep)]
            return self.fusion(self.ccsm1(maps[0]), self.ccsm2(maps[1]), self.ccsm3(maps[2]))

    def head(self, fused: Tensor, grid: tuple[int, int]) -> tuple[Tensor, Tensor]:
        """Return logits [B, K, h, w] and density [B, 1, h, w] of a fused map, on a grid of h x w blocks."""
        fused = functional.interpolate(fused, size=grid, mode="bilinear", align_corners=False)
        features = functional.normalize(self.projection(self.image_decoder(fused)), dim=1)  # (B, 512, h, w)
        classes = functional.normalize(self.text_features, dim=1).to(features)  # (K, 512)
        logits = self.logit_scale.exp() * torch.einsum("bchw,kc->bkhw", features, classes)
        logits = full_precision(logits)
        return logits, expectation(logits, self.anchors)

    def classify(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Return logits [B, K, h, w] and density [B, 1, h, w] of images [B, 3, H, W] in [0, 1]."""
        grid = (images.shape[2] // self.settings.block, images.shape[3] // self.settings.block)
        return self.head(self.neck(*self.image_encoder(self.normalise(images))), grid)

    def example_maker(self) -> Crops:
        """Return the maker of random crops."""
        settings = self.settings
        return Crops(settings.input_size, settings.block, settings.coincident_points, settings.crop_augmentation)

    def losses(self, batch: Batch) -> dict[str, Tensor]:
        """Return the terms that the setting ``loss`` asks for."""
        logits, density = self.classify(batch.images)
        return self.loss_terms(logits, density, batch.maps["blocks"], batch.points)

    def loss_terms(
        self, logits: Tensor, density: Tensor, blocks: Tensor, points: Sequence[Tensor]
    ) -> dict[str, Tensor]:
        """Return cross-entropy, probability and DM terms of given predictions.

        Args:
            logits: [B, K, h, w].
            density: [B, 1, h, w].
            blocks: true block counts [B, 1, h, w].
            points: B tensors [N_b, 2], pixels.
        """
        loss, classes = self.settings.loss, self.bins.classes(blocks[:, 0])
        terms = {"cross_entropy": cross_entropy(logits, classes)}
        if loss in ("ce_prob", "hybrid"):
            terms["probability"] = probability_loss(logits, classes)
        if loss in ("dace", "hybrid"):
            domain = self.settings.transport_domain
            terms.update(dm_terms(density, blocks, points, self.settings.block, domain=domain))
        return terms

    @property
    def loss_weights(self) -> Mapping[str, float]:
        """Return lambda 1 times the weights of the DM terms; the others weigh 1."""
        return {name: self.settings.dm_weight * weight for name, weight in DM_WEIGHTS.items()}

    def predict(self, images: Tensor, prompts: Sequence[str]) -> Prediction:
        """Return the density per block; the prompts are the bins', so ``prompts`` is not looked at."""
        return Prediction(density=self.classify(images)[1])

    @classmethod
    def import_checkpoint(cls, path: Path, settings: GigaCountSettings) -> dict[str, Tensor]:
        """Read a checkpoint of the released training script (none was published) under our names, strictly.

        The text features are those of the checkpoint's own tower.

        Raises:
            CheckpointError: the file cannot be read, or keys are missing, unexpected or of the wrong shape.
        """
        state = read_tensors(path)
        state = state.get("model_state_dict", state)
        sentences = prompts(settings.bins, settings.prompts)
        network = cls(settings, text=encode(settings.text, sentences, tower_state(state, "text_encoder.")))
        expected = network.state_dict()
        text_features = expected.pop("text_features")
        return {**renamed(state, our_name, expected, source=path), "text_features": text_features}


def our_name(key: str) -> str | None:
    """Return our name of a key of the released network; None for the text tower."""
    if key.startswith("text_encoder."):
        return None
    return key.replace(".ch_att_s.shared_MLP.0.", ".channel_attention.").replace(".sa_s.conv1.", ".spatial_attention.")


SYSTEM = GigaCount
