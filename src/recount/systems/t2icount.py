"""T2ICount: zero-shot counting by text, on the features and cross-attention of a text-to-image diffusion model.

Paper: Qian, Guo, Deng, Lei, Zhao, Lau, Hong, Pound, *T2ICount: Enhancing Cross-modal Understanding for Zero-Shot
Counting*, CVPR 2025, arXiv 2502.20625. Numbers were checked against cha15yq/T2ICount@289d3fb, which carries no licence:
this file is written from a description. Its base is Stable Diffusion v1.5 (CreativeML Open RAIL-M) with CLIP (MIT).

One denoising pass of the UNet gives four feature maps F4 (coarse) to F1 and, per cross-attention layer, how much each
cell attends to the prompt. The hierarchical semantic correction module (HSCM) refines the features from coarse to fine
with the text, a counter turns them into a density map at the latent's stride. The attention, fused over three
resolutions, labels certain background for the representational regional coherence loss (RRC).

Deviations: the released code stores all attention maps of all layers; here only the prompt's share of cross-attention
is kept, and self-attention stays on the fast kernel. RRC and HSCM are independent toggles, which the release does not
have: their definition is recount's. Every default is the released code's; the axes where the paper's text differs are
settings (``noise``, ``latent_scale``, ``attention_threshold``).
"""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache, partial
from importlib import resources
from pathlib import Path
from typing import Any, ClassVar, Literal, Protocol

import numpy as np
import torch
import torch.nn.functional as F
from pydantic import Field, field_validator
from torch import Tensor, nn

from recount.data.health import load_npy
from recount.data.pictures import load_image
from recount.data.sample import Sample
from recount.data.windows import Windows
from recount.errors import UserError
from recount.settings.base import Strict
from recount.settings.recipe import Optimiser, Recipe
from recount.systems.base import (
    Batch,
    CheckpointError,
    Example,
    ExampleMaker,
    Pool,
    Prediction,
    System,
    read_tensors,
    renamed,
)

log = logging.getLogger(__name__)

_TRIED = 2
"""Training pictures on which a start is tried."""
_DEAD = 0.01
"""Share of cells with a count above zero below which a start is dead."""

# ------------------------------------------------------------------------------------------------------- backbone


class Backbone(Strict):
    """The sizes of a Stable Diffusion: UNet, VAE and text encoder. The defaults are version 1.5."""

    unet_channels: tuple[int, int, int, int] = (320, 640, 1280, 1280)
    unet_heads: tuple[int, int, int, int] = (8, 8, 8, 8)
    unet_groups: int = 32
    context: int = Field(768, description="width of the text states")
    vae_channels: tuple[int, ...] = (128, 256, 512, 512)
    vae_groups: int = 32
    vae_layers: int = 2
    text_layers: int = 12
    text_heads: int = 12
    text_feedforward: int = 3072
    text_length: int = Field(77, description="positions, start and end included")
    vocabulary: tuple[str, ...] | None = Field(None, description="words of a word tokenizer; null: CLIP's byte pairs")
    image_size: int = Field(384, description="side of the windows of prediction, pixels")

    @property
    def stride(self) -> int:
        """Return the pixels per latent cell."""
        return 2 ** (len(self.vae_channels) - 1)


@cache
def mini_sd_card() -> dict[str, Any]:
    """Return the card of the tiny Stable Diffusion that comes with recount: sizes, origin, measured quality."""
    return json.loads(resources.files("recount").joinpath("pretraining/weights/mini_sd.json").read_text("utf-8"))


def unet(backbone: Backbone) -> Any:
    """Return a ``UNet2DConditionModel`` with Stable Diffusion v1's structure and random weights."""
    from diffusers import UNet2DConditionModel

    return UNet2DConditionModel(
        sample_size=backbone.image_size // backbone.stride,
        block_out_channels=backbone.unet_channels,
        down_block_types=("CrossAttnDownBlock2D",) * 3 + ("DownBlock2D",),
        up_block_types=("UpBlock2D",) + ("CrossAttnUpBlock2D",) * 3,
        layers_per_block=2,
        cross_attention_dim=backbone.context,
        attention_head_dim=backbone.unet_heads,  # diffusers' name for the number of heads in v1 models
        norm_num_groups=backbone.unet_groups,
        flip_sin_to_cos=True,
        freq_shift=0,
    )


def autoencoder(backbone: Backbone) -> Any:
    """Return an ``AutoencoderKL`` with Stable Diffusion v1's structure and random weights."""
    from diffusers import AutoencoderKL

    levels = len(backbone.vae_channels)
    return AutoencoderKL(
        block_out_channels=backbone.vae_channels,
        down_block_types=("DownEncoderBlock2D",) * levels,
        up_block_types=("UpDecoderBlock2D",) * levels,
        layers_per_block=backbone.vae_layers,
        norm_num_groups=backbone.vae_groups,
        latent_channels=4,
        sample_size=backbone.image_size,
    )


def text_encoder(backbone: Backbone) -> Any:
    """Return a ``CLIPTextModel`` with random weights."""
    from transformers import CLIPTextConfig, CLIPTextModel

    words = tokenizer(backbone)
    config = CLIPTextConfig(
        vocab_size=words.size,
        hidden_size=backbone.context,
        intermediate_size=backbone.text_feedforward,
        num_hidden_layers=backbone.text_layers,
        num_attention_heads=backbone.text_heads,
        max_position_embeddings=backbone.text_length,
        bos_token_id=words.start,
        eos_token_id=words.end,
        pad_token_id=words.end,
    )
    return CLIPTextModel(config)


class Tokenizer(Protocol):
    """Turns a prompt into token ids, without the special tokens."""

    size: int
    start: int
    end: int

    def encode(self, prompt: str) -> list[int]:
        """Return the ids of a prompt."""
        ...


class ClipTokenizer:
    """CLIP's byte-pair encoding; the merges come with open_clip, so nothing is downloaded."""

    size, start, end = 49408, 49406, 49407

    def encode(self, prompt: str) -> list[int]:
        """Return the ids of the prompt's byte pairs."""
        return _byte_pairs().encode(prompt)


@cache
def _byte_pairs() -> Any:
    from open_clip.tokenizer import SimpleTokenizer

    return SimpleTokenizer()


class WordTokenizer:
    """One id per word of a fixed vocabulary."""

    start, end = 0, 1

    def __init__(self, vocabulary: Sequence[str]) -> None:
        self.ids = {word: index for index, word in enumerate(vocabulary, start=2)}
        self.size = len(self.ids) + 2

    def encode(self, prompt: str) -> list[int]:
        """Return the ids of the prompt's words.

        Raises:
            UserError: a word is not in the vocabulary.
        """
        words = prompt.lower().replace(",", " ").split()
        unknown = [word for word in words if word not in self.ids]
        if unknown:
            raise UserError(
                f"prompt {prompt!r}: the tiny Stable Diffusion does not know {', '.join(unknown)}; it knows: "
                f"{', '.join(self.ids)}. Use these words, or a backbone with CLIP's vocabulary (sd15)"
            )
        return [self.ids[word] for word in words]


def tokenizer(backbone: Backbone) -> Tokenizer:
    """Return the tokenizer that belongs to a backbone."""
    return ClipTokenizer() if backbone.vocabulary is None else WordTokenizer(backbone.vocabulary)


def token_ids(prompts: Sequence[str], words: Tokenizer, length: int) -> tuple[Tensor, Tensor]:
    """Return padded ids [B, L] (start, prompt, then end up to the last) and the mask [B, L] of the prompt's tokens.

    A prompt longer than L - 2 tokens is cut. There is no attention mask: all positions go to the UNet.

    Raises:
        UserError: a prompt has no token.
    """
    ids = torch.full((len(prompts), length), words.end)
    ids[:, 0] = words.start
    mask = torch.zeros(len(prompts), length)
    for row, prompt in enumerate(prompts):
        tokens = words.encode(prompt)[: length - 2]
        if not tokens:
            raise UserError(f"prompt {prompt!r} has no words: T2ICount needs the name of what to count")
        ids[row, 1 : 1 + len(tokens)] = torch.tensor(tokens)
        mask[row, 1 : 1 + len(tokens)] = 1
    return ids, mask


# ------------------------------------------------------------------------- features and attention of one UNet pass


class _KeepPromptAttention:
    """Cross-attention with an explicit softmax; keeps, per cell, a weighted sum over the tokens, averaged over heads.

    It overwrites by layer name: under gradient checkpointing a layer runs again in the backward pass.
    """

    def __init__(self, name: str, kept: UNetPass) -> None:
        self.name = name
        self.kept = kept

    def __call__(
        self, attn: Any, hidden_states: Tensor, encoder_hidden_states: Tensor, attention_mask: None = None, **_: Any
    ) -> Tensor:
        query = attn.head_to_batch_dim(attn.to_q(hidden_states))  # (B * heads, N, C / heads)
        key = attn.head_to_batch_dim(attn.to_k(encoder_hidden_states))
        value = attn.head_to_batch_dim(attn.to_v(encoder_hidden_states))
        attention = attn.get_attention_scores(query, key)  # (B * heads, N, L)
        kept = attention if self.kept.differentiable else attention.detach()
        mean = kept.float().unflatten(0, (len(hidden_states), -1)).mean(dim=1)  # (B, N, L)
        self.kept.attention[self.name] = torch.bmm(mean, self.kept.token_weights.float())
        out = attn.batch_to_head_dim(attention.to(value.dtype) @ value)
        return attn.to_out[1](attn.to_out[0](out))


class UNetPass:
    """Runs a diffusers UNet once and keeps its decoder features and its prompt attention.

    Only cross-attention outside the middle block gets its own processor. F4, F3, F2 are taken after the *second* of the
    three layers of their level, F1 after the last of its level.

    Args:
        network: a ``UNet2DConditionModel``.
        differentiable: whether gradients flow through the kept attention (counting needs none).

    Attributes:
        attention: layer name -> float32 [B, N, T], filled by each pass.
        token_weights: [B, L, T], what is kept of the attention over L tokens.
    """

    def __init__(self, network: Any, *, differentiable: bool = False) -> None:
        self.network = network
        self.differentiable = differentiable
        self.attention: dict[str, Tensor] = {}
        self.token_weights = torch.empty(0)
        self._features: dict[str, Tensor] = {}
        up = network.up_blocks
        places = {
            "F4": up[0].resnets[1],
            "F3": up[1].attentions[1],
            "F2": up[2].attentions[1],
            "F1": up[3].attentions[2],
        }
        for name, module in places.items():
            module.register_forward_hook(partial(self._keep, name))
        for name, module in network.named_modules():
            if name.endswith("attn2") and not name.startswith("mid_block"):
                module.set_processor(_KeepPromptAttention(name, self))

    def _keep(self, name: str, _module: nn.Module, _inputs: Any, output: Any) -> None:
        self._features[name] = output[0] if isinstance(output, tuple) else output

    def __call__(
        self, latent: Tensor, context: Tensor, token_weights: Tensor
    ) -> tuple[dict[str, Tensor], dict[int, Tensor]]:
        """Run the UNet at timestep 0.

        Args:
            latent: [B, 4, h, w].
            context: text states [B, L, D].
            token_weights: [B, L, T]; for the mean over the prompt's tokens, the mask divided by its sum, with T = 1.

        Returns:
            F1..F4 ([B, C, h, w], at strides 1, 2, 4 and 8 of the latent), and per resolution (1, 2, 4: the divisor of
            the latent's size) the attention [B, T, h, w], the mean over the layers of that resolution.
        """
        first = torch.zeros(len(latent), dtype=torch.long, device=latent.device)
        _, attention = self.denoise(latent, first, context, token_weights)
        features, self._features = self._features, {}
        return features, attention

    def denoise(
        self, latent: Tensor, timestep: Tensor, context: Tensor, token_weights: Tensor
    ) -> tuple[Tensor, dict[int, Tensor]]:
        """Run the UNet at timesteps [B]; return its own output [B, 4, h, w], and the attention as ``__call__`` does."""
        self.token_weights = token_weights
        output = self.network(latent, timestep, context).sample
        return output, layer_average(self.attention, latent.shape[-2:])


def layer_average(attention: Mapping[str, Tensor], size: Sequence[int]) -> dict[int, Tensor]:
    """Average cross-attention over the layers of each resolution, middle block excluded.

    Args:
        attention: diffusers layer name -> [B, N, T].
        size: (h, w) of the latent.

    Returns:
        divisor of the latent's size (1, 2, 4) -> [B, T, h / divisor, w / divisor].
    """
    levels: dict[int, list[Tensor]] = {1: [], 2: [], 4: []}
    for name, value in attention.items():
        block, index = name.split(".")[:2]
        if block == "mid_block":
            continue
        levels[2 ** (int(index) if block == "down_blocks" else 3 - int(index))].append(value)
    return {
        divisor: torch.stack(maps).mean(dim=0).mT.unflatten(-1, (size[0] // divisor, size[1] // divisor))
        for divisor, maps in levels.items()
    }


def normalised(maps: Tensor) -> Tensor:
    """Return maps [B, 1, h, w] stretched to [0, 1] per image: (x - min) / (max - min + 1e-7)."""
    low, high = maps.amin(dim=(1, 2, 3), keepdim=True), maps.amax(dim=(1, 2, 3), keepdim=True)
    return (maps - low) / (high - low + 1e-7)


def fused_attention(per_resolution: Mapping[int, Tensor], weights: Sequence[float]) -> Tensor:
    """Return the fused cross-attention map A of the prompt, float32 [B, 1, h, w] in [0, 1].

    Args:
        per_resolution: divisor (1, 2, 4) -> attention averaged over the prompt's tokens [B, 1, h / d, w / d].
        weights: of the coarse, middle and fine map (the paper's: 0.6, 0.3, 0.1).
    """
    size = per_resolution[1].shape[-2:]
    fused = torch.zeros_like(per_resolution[1])
    for weight, divisor in zip(weights, (4, 2, 1), strict=True):
        enlarged = F.interpolate(per_resolution[divisor], size=size, mode="bilinear", align_corners=False)
        fused = fused + weight * normalised(enlarged)
    return fused


# ---------------------------------------------------------------------------------------------- decoder (HSCM, counter)


def _twice(x: Tensor) -> Tensor:
    return F.interpolate(x, scale_factor=2, mode="bilinear", align_corners=False)


def _tokens(x: Tensor) -> Tensor:
    return x.flatten(2).mT  # (B, C, H, W) -> (B, H * W, C)


def similarity_map(features: Tensor, text: Tensor) -> Tensor:
    """Return the cosine over channels between features [B, C, H, W] and a text vector [B, C], float32 [B, 1, H, W]."""
    return F.cosine_similarity(features.float(), text.float()[:, :, None, None], dim=1).unsqueeze(1)


class Attention(nn.Module):
    """Multi-head attention with biases, scale 1 / sqrt(C / heads), no dropout."""

    def __init__(self, channels: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.query = nn.Linear(channels, channels)
        self.key = nn.Linear(channels, channels)
        self.value = nn.Linear(channels, channels)
        self.out = nn.Linear(channels, channels)

    def forward(self, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        """Attend from [B, N, C] to [B, M, C]."""
        projected = ((self.query, query), (self.key, key), (self.value, value))
        q, k, v = (linear(x).unflatten(-1, (self.heads, -1)).transpose(1, 2) for linear, x in projected)
        return self.out(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))


class TextFusion(nn.Module):
    """One exchange between image cells and the one text vector, text first (semantic enhancement)."""

    def __init__(self, channels: int, heads: int) -> None:
        super().__init__()
        self.position = nn.Conv2d(channels, channels, 3, padding=1, groups=channels)
        self.text_reads_image = Attention(channels, heads)
        self.norm_read = nn.LayerNorm(channels)
        self.mlp = nn.Sequential(nn.Linear(channels, 4 * channels), nn.GELU(), nn.Linear(4 * channels, channels))
        self.norm_mlp = nn.LayerNorm(channels)
        self.image_reads_text = Attention(channels, heads)
        self.norm_image = nn.LayerNorm(channels)

    def forward(self, image: Tensor, text: Tensor) -> tuple[Tensor, Tensor]:
        """Return image [B, C, H, W] and text [B, C] after the exchange."""
        cells, places = _tokens(image), _tokens(self.position(image))
        before = text[:, None]  # (B, 1, C)
        read = self.norm_read(before + self.text_reads_image(before, cells + places, cells))
        after = self.norm_mlp(read + self.mlp(read))
        # With one key the softmax is 1: this adds one vector per picture, and query and key learn nothing.
        cells = self.norm_image(cells + self.image_reads_text(cells + places, after + before, after))
        return cells.mT.unflatten(-1, image.shape[-2:]), after[:, 0]


class Stage(nn.Module):
    """One step of the decoder from a coarse map to the next finer one.

    Args:
        low, high, out: channels of the coarse map, of the finer feature, of the result.
        text: width of the text states; 0 for a stage without a text vector.
        fusion: whether text and image exchange (SEM); needs ``text``.
        heads: of the exchange.
    """

    def __init__(self, low: int, high: int, out: int, *, text: int, fusion: bool, heads: int) -> None:
        super().__init__()
        self.reduce = nn.Conv2d(low, out, 3, padding=1)
        self.merge = nn.Conv2d(high + out, out, 3, padding=1)
        if text:
            self.text_projection = nn.Linear(text, out)
            self.text_norm = nn.LayerNorm(out)
        if fusion:
            self.fusion1 = TextFusion(out, heads)
            self.refine = nn.Conv2d(out, out, 3, padding=1)
            self.fusion2 = TextFusion(out, heads)
        self.has_text, self.has_fusion = bool(text), fusion

    def forward(
        self, low: Tensor, high: Tensor, text: Tensor, similarity: Tensor | None
    ) -> tuple[Tensor, Tensor | None]:
        """Return V [B, out, H, W] and, where the stage has one, its text vector c' [B, out].

        Args:
            low: [B, low, H / 2, W / 2].
            high: [B, high, H, W].
            text: pooled prompt [B, D].
            similarity: [B, 1, H, W], for the semantic correction (SCM), or None.
        """
        low = F.relu(self.reduce(_twice(low)))
        x = F.relu(self.merge(torch.cat([high, low], dim=1)))
        if similarity is not None:
            x = x + similarity * low
        if not self.has_text:
            return x, None
        vector = self.text_projection(text)
        vector = vector + self.text_norm(vector)
        if self.has_fusion:
            x, vector = self.fusion1(x, vector)
            x, vector = self.fusion2(F.relu(self.refine(x)), vector)
        return x, vector


class Counter(nn.Module):
    """Two self-attentions over all cells, a convolution between them, then a convolutional head ending in a relu."""

    def __init__(self, channels: int, heads: int) -> None:
        super().__init__()
        self.position1 = nn.Conv2d(channels, channels, 3, padding=1, groups=channels)
        self.attention1 = Attention(channels, heads)
        self.norm1 = nn.LayerNorm(channels)
        self.between = nn.Conv2d(channels, channels, 3, padding=1)
        self.position2 = nn.Conv2d(channels, channels, 3, padding=1, groups=channels)
        self.attention2 = Attention(channels, heads)
        self.norm2 = nn.LayerNorm(channels)
        self.head = nn.Sequential(
            *(nn.Conv2d(channels, channels, 3, padding=1), nn.ReLU()),
            *(nn.Conv2d(channels, 128, 3, padding=1), nn.ReLU()),
            *(nn.Conv2d(128, 1, 1), nn.ReLU()),
        )

    def forward(self, x: Tensor) -> Tensor:
        """Return the scaled density [B, 1, H, W] of features [B, C, H, W]."""
        x = self._attended(x, self.position1, self.attention1, self.norm1)
        x = F.relu(self.between(x))
        return self.head(self._attended(x, self.position2, self.attention2, self.norm2))

    @staticmethod
    def _attended(x: Tensor, position: nn.Module, attention: nn.Module, norm: nn.Module) -> Tensor:
        cells = _tokens(x)
        placed = cells + _tokens(position(x))
        return norm(cells + attention(placed, placed, cells)).mT.unflatten(-1, x.shape[-2:])


class Decoder(nn.Module):
    """Three stages and the counter.

    Args:
        channels: of F1, F2, F3, F4.
        context: width of the text states.
        width: of the counter.
        heads: of every attention in the decoder.
        hscm: semantic enhancement (text fusion) and semantic correction (similarity times the coarser map).
        similarity: whether S3 and S2 are made at all; always with ``hscm``, otherwise only for the RRC loss.
    """

    def __init__(
        self, channels: Sequence[int], context: int, width: int, heads: int, *, hscm: bool, similarity: bool
    ) -> None:
        super().__init__()
        f1, f2, f3, f4 = channels
        text = context if hscm or similarity else 0
        self.stage1 = Stage(f4, f3, f4 // 2, text=text, fusion=hscm, heads=heads)
        self.stage2 = Stage(f4 // 2, f2, f4 // 4, text=text, fusion=hscm, heads=heads)
        self.stage3 = Stage(f4 // 4, f1, width, text=0, fusion=False, heads=heads)
        self.counter = Counter(width, heads)
        self.hscm = hscm

    def forward(self, features: Mapping[str, Tensor], text: Tensor) -> dict[str, Tensor]:
        """Decode.

        Args:
            features: F1..F4.
            text: t0, the mean text state of the prompt's tokens [B, D].

        Returns:
            "density" (60 x objects per cell) [B, 1, h, w], the stages' outputs "V3", "V2", "V1", and, where they are
            made, text vectors "c3", "c2" and similarity maps "S3", "S2" [B, 1, h, w] in [-1, 1].
        """
        v3, c3 = self.stage1(features["F4"], features["F3"], text, None)
        s3 = None if c3 is None else similarity_map(_twice(_twice(v3)), c3)
        correction = None
        if self.hscm and s3 is not None:
            correction = F.interpolate(s3, size=features["F2"].shape[-2:], mode="bilinear", align_corners=False)
        v2, c2 = self.stage2(v3, features["F2"], text, correction)
        s2 = None if c2 is None else similarity_map(_twice(v2), c2)
        v1, _ = self.stage3(v2, features["F1"], text, s2 if self.hscm else None)
        made = {"density": self.counter(v1), "V3": v3, "V2": v2, "V1": v1, "c3": c3, "c2": c2, "S3": s3, "S2": s2}
        return {name: value for name, value in made.items() if value is not None}


# --------------------------------------------------------------------------------------------------------- losses


def ssim_window() -> Tensor:
    """Return the 3x3 Gaussian window of the SSIM term, sigma 1.5, sum 1, [1, 1, 3, 3]."""
    weights = torch.exp(-(torch.arange(-1.0, 2.0) ** 2) / (2 * 1.5**2))
    weights = weights / weights.sum()
    return torch.outer(weights, weights)[None, None]


def structural_similarity(a: Tensor, b: Tensor) -> Tensor:
    """Return the mean SSIM over cells and batch of two maps [B, 1, h, w]; zero padding, C1 = 1e-4, C2 = 9e-4."""
    smooth = partial(F.conv2d, weight=ssim_window().to(a), padding=1)
    mean_a, mean_b = smooth(a), smooth(b)
    variance_a = smooth(a * a) - mean_a**2
    variance_b = smooth(b * b) - mean_b**2
    covariance = smooth(a * b) - mean_a * mean_b
    luminance = (2 * mean_a * mean_b + 1e-4) / (mean_a**2 + mean_b**2 + 1e-4)
    structure = (2 * covariance + 9e-4) / (variance_a + variance_b + 9e-4)
    return (luminance * structure).mean()


def ssim_losses(predicted: Tensor, target: Tensor, foreground: Tensor) -> list[Tensor]:
    """Return 1 - SSIM of the masked maps at full, half and quarter resolution."""
    a, b = predicted * foreground, target * foreground
    losses = []
    for _ in range(3):
        losses.append(1 - structural_similarity(a, b))
        a, b = F.avg_pool2d(a, 2), F.avg_pool2d(b, 2)
    return losses


def distribution_loss(predicted: Tensor, target: Tensor) -> Tensor:
    """Return the batch mean of the L1 distance between both maps, each divided by its sum (+ 1e-6)."""
    shares = [x / (x.sum(dim=(1, 2, 3), keepdim=True) + 1e-6) for x in (predicted, target)]
    return (shares[0] - shares[1]).abs().sum(dim=(1, 2, 3)).mean()


def regression_loss(predicted: Tensor, target: Tensor, threshold: float = 0.06, dist_weight: float = 0.1) -> Tensor:
    """Return L_reg: the mean SSIM loss over three levels within the foreground, plus 0.1 times the distribution loss.

    Args:
        predicted: 60 x objects per cell, float32 [B, 1, h, w].
        target: the same of the truth.
        threshold: cells above it (strictly) are foreground.
        dist_weight: of the distribution loss.

    On a sample without objects it is ``dist_weight`` (0 for an empty prediction) with practically no gradient.
    """
    foreground = (target > threshold).to(predicted)
    ssim = torch.stack(ssim_losses(predicted, target, foreground)).mean()
    return ssim + dist_weight * distribution_loss(predicted, target)


def region_labels(
    target: Tensor, attention: Tensor, own: Tensor, threshold: float | Literal["mean"], positive: float = 0.06
) -> Tensor:
    """Return the positive-negative-ambiguous labels: 1, 0, -1, float32 [B, 1, h, w].

    Args:
        target: 60 x objects per cell.
        attention: fused cross-attention A in [0, 1].
        own: 1 where the pixels come from a picture of the prompt's class; 0 on foreign tiles and under a wrong prompt.
        threshold: cells with A * own at or above it are attended; "mean" (the paper's text): own cells with A at or
            above its mean over them. Cells that are neither positive nor attended are negative.
        positive: cells with a target at or above it are positive.
    """
    if threshold == "mean":
        mean = (attention * own).sum(dim=(1, 2, 3), keepdim=True) / (own.sum(dim=(1, 2, 3), keepdim=True) + 1e-7)
        attended = (attention >= mean) & (own > 0)
    else:
        attended = attention * own >= threshold
    labels = torch.where(attended, -1.0, 0.0)
    return torch.where(target >= positive, 1.0, labels)


def coherence_loss(similarity: Tensor, labels: Tensor, positive_weight: float = 2.0) -> Tensor:
    """Return L_RRC: per image the mean of 1 - S over positive cells (times 2) and of max(S, 0) over negative ones."""
    positive, negative = (labels == 1).to(similarity), (labels == 0).to(similarity)
    cells = (1, 2, 3)
    pull = ((1 - similarity) * positive).sum(cells) / (positive.sum(cells) + 1e-7)
    push = (similarity.clamp(min=0) * negative).sum(cells) / (negative.sum(cells) + 1e-7)
    return (positive_weight * pull + push).mean()


# ---------------------------------------------------------------------------------------------- training examples


@dataclass(frozen=True, slots=True)
class Canvas:
    """A picture on its way to an example: image uint8 [3, H, W], density [H, W], own (1 or 0) [H, W]."""

    image: Tensor
    density: Tensor
    own: Tensor

    def cut(self, top: int, left: int, side: int) -> Canvas:
        """Return the square of ``side`` pixels whose upper left corner is (top, left)."""
        rows, columns = slice(top, top + side), slice(left, left + side)
        return Canvas(self.image[:, rows, columns], self.density[rows, columns], self.own[rows, columns])

    def blank(self) -> Canvas:
        """Return the picture as one of another class: no density, not own."""
        return Canvas(self.image, torch.zeros_like(self.density), torch.zeros_like(self.own))

    def enlarged(self, scale: float) -> Canvas:
        """Return it enlarged: picture bicubic (Pillow), density cubic divided by scale^2, own nearest.

        The sides are truncated to int(scale * side), but the nominal scale divides the density, as in the release.
        """
        from PIL import Image

        height, width = int(scale * self.density.shape[0]), int(scale * self.density.shape[1])
        picture = Image.fromarray(self.image.permute(1, 2, 0).numpy()).resize((width, height), Image.Resampling.BICUBIC)
        resize = partial(F.interpolate, size=(height, width))
        return Canvas(
            torch.from_numpy(np.array(picture)).permute(2, 0, 1),
            resize(self.density[None, None], mode="bicubic", align_corners=False)[0, 0] / scale**2,
            resize(self.own[None, None], mode="nearest")[0, 0],
        )


def mosaic(tiles: Sequence[Canvas]) -> Canvas:
    """Return four equally large tiles on one canvas: top left, top right, bottom left, bottom right."""

    def joined(parts: Sequence[Tensor]) -> Tensor:
        return torch.cat([torch.cat([parts[0], parts[1]], -1), torch.cat([parts[2], parts[3]], -1)], -2)

    return Canvas(*(joined([getattr(tile, name) for tile in tiles]) for name in ("image", "density", "own")))


def training_maps(canvas: Canvas, stride: int, mirror: bool) -> tuple[Tensor, dict[str, Tensor]]:
    """Return the image [3, H, W] in [0, 1] and "density" (summed per cell) and "own" (every stride-th), [1, h, w]."""
    cells = canvas.density.unflatten(0, (-1, stride)).unflatten(-1, (-1, stride)).sum(dim=(1, 3))
    maps = {"density": cells.float()[None], "own": canvas.own[::stride, ::stride].float()[None]}
    image = canvas.image.float() / 255
    if mirror:
        image, maps = image.flip(-1), {name: value.flip(-1) for name, value in maps.items()}
    return image, maps


def density_from_points(points: np.ndarray, width: int, height: int, sigma: float | Literal["adaptive"]) -> Tensor:
    """Return a density map [H, W], float64, whose sum is the number of points inside the picture.

    "adaptive" is the rule that the FSC-147 paper describes for its ready maps (Ranjan et al., CVPR 2021): the window is
    the mean distance of the points to their nearest neighbour, sigma a quarter of it, here at least 1 pixel. Their own
    code is not public, so a map built here stands in for the ready one. A single point has no neighbour: its window is
    a quarter of the picture's shorter side. The kernel is cut at two sigma and reflected at the border.
    """
    from scipy.ndimage import gaussian_filter
    from scipy.spatial import cKDTree

    impulses = np.zeros((height, width))
    inside = points[(points[:, 0] >= 0) & (points[:, 0] < width) & (points[:, 1] >= 0) & (points[:, 1] < height)]
    if not len(inside):
        return torch.from_numpy(impulses)
    np.add.at(impulses, (inside[:, 1].astype(int), inside[:, 0].astype(int)), 1.0)
    if sigma == "adaptive":
        window = min(width, height) / 4
        if len(inside) > 1:
            window = float(cKDTree(inside).query(inside, k=2)[0][:, 1].mean())
        sigma = max(window / 4, 1.0)
    return torch.from_numpy(gaussian_filter(impulses, sigma, truncate=2.0))


class _ExampleMaker:
    """Half own prompts, a quarter prompts of another training picture, a quarter mosaics; then enlarge, crop, mirror.

    Data sets that have several prompts per picture (FSC-147 has one) know the truth of a drawn prompt: it is used
    instead of an empty target.
    """

    def __init__(self, settings: T2ICountSettings) -> None:
        self.settings = settings
        self._rows: dict[tuple[Path | None, str], int] = {}

    def __call__(self, index: int, pool: Pool, rng: np.random.Generator) -> list[Example]:
        chosen = self.settings.sample_kinds
        kind = rng.choice(("own", "other_prompt", "mosaic"), p=(chosen.own, chosen.other_prompt, chosen.mosaic))
        prompt = pool.samples[index].prompt
        if kind == "other_prompt":
            prompt = pool.samples[int(rng.integers(len(pool.samples)))].prompt
        canvas = self._mosaic(index, pool, rng) if kind == "mosaic" else self._canvas(index, prompt, pool)
        if rng.random() < self.settings.enlarge_probability:
            canvas = canvas.enlarged(1 + rng.random() * (self.settings.largest_scale - 1))
        canvas = self._random_cut(canvas, self.settings.crop, rng)
        image, maps = training_maps(canvas, self.settings.backbone.stride, bool(rng.random() < 0.5))
        return [Example(pool.samples[index].id, image, prompt, count=float(maps["density"].sum()), maps=maps)]

    def _mosaic(self, index: int, pool: Pool, rng: np.random.Generator) -> Canvas:
        """Return four crops: of this picture and of three others (with repetition where there are fewer)."""
        others = [row for row in range(len(pool.samples)) if row != index] or [index]
        rows = [index, *(int(row) for row in rng.choice(others, 3, replace=len(others) < 3))]
        prompt = pool.samples[index].prompt
        side = self.settings.mosaic_tile
        tiles = [self._random_cut(self._canvas(row, prompt, pool), side, rng) for row in rows]
        return mosaic([tiles[int(place)] for place in rng.permutation(4)])

    def _canvas(self, index: int, prompt: str, pool: Pool) -> Canvas:
        """Return picture ``index`` with the truth for ``prompt``: its own, that of another row, or none."""
        sample, image = pool.samples[index], pool.image(index)
        if min(image.shape[-2:]) < self.settings.crop:
            raise UserError(
                f"{sample.id}: the picture is {image.shape[-1]}x{image.shape[-2]} pixels, T2ICount cuts squares of "
                f"{self.settings.crop}: prepare the data set at a size whose shorter side is at least that"
            )
        if sample.prompt != prompt:
            row = self._row_of(sample.image, prompt, pool)
            if row is None:
                empty = torch.zeros(image.shape[-2:], dtype=torch.float64)
                return Canvas(image, empty, torch.zeros(image.shape[-2:]))
            sample = pool.samples[row]
        density = _density(sample, image.shape[-1], image.shape[-2], self.settings.density_sigma)
        return Canvas(image, density, torch.ones(image.shape[-2:]))

    def _row_of(self, image: Path | None, prompt: str, pool: Pool) -> int | None:
        if not self._rows:
            self._rows = {(sample.image, sample.prompt): row for row, sample in enumerate(pool.samples)}
        return self._rows.get((image, prompt))

    @staticmethod
    def _random_cut(canvas: Canvas, side: int, rng: np.random.Generator) -> Canvas:
        height, width = canvas.density.shape
        return canvas.cut(int(rng.integers(height - side + 1)), int(rng.integers(width - side + 1)), side)


def _density(sample: Sample, width: int, height: int, sigma: float | Literal["adaptive"]) -> Tensor:
    """Return the ready density map of a sample where its data set has one, else one built from its points."""
    ready = sample.attributes.get("density_map")
    if ready is None:
        return density_from_points(sample.points, width, height, sigma)
    assert sample.image is not None  # <resources>/data/<data set>/<preparation>/images/<file>
    path = sample.image.parents[4] / "raw" / ready
    density = load_npy(path)
    if density.shape != (height, width):
        raise UserError(f"{path}: the density map is {density.shape}, the picture of {sample.id} {(height, width)}")
    return torch.from_numpy(density.astype(np.float64))


# --------------------------------------------------------------------------------------------------------- system


class SampleKinds(Strict):
    """The shares of the three kinds of training samples."""

    own: float = Field(0.5, ge=0, le=1)
    other_prompt: float = Field(0.25, ge=0, le=1)
    mosaic: float = Field(0.25, ge=0, le=1)


class T2ICountSettings(Strict):
    """What T2ICount is; the defaults are the released code's."""

    backbone: Backbone = Field(Backbone(), description='sizes of the diffusion model, or the name "sd15" or "mini_sd"')
    weights: str = Field(
        "resources/weights/sd15/v1-5-pruned-emaonly.safetensors",
        description='base weights: a Stable Diffusion v1 file, "mini_sd" (comes with recount), or "random"',
    )
    rrc: bool = Field(True, description="train the similarity maps with the coherence loss")
    hscm: bool = Field(True, description="semantic enhancement and correction in the decoder")
    counter_width: int = Field(256, gt=0)
    heads: int = Field(8, gt=0, description="of the decoder's attentions")
    noise: Literal["none", "first_step"] = Field(
        "none", description="first_step: noise of timestep 0 (the paper's text)"
    )
    latent_scale: float = Field(1.0, gt=0, description="0.18215 is the usual factor of Stable Diffusion v1")
    attention_threshold: float | Literal["mean"] = 0.3
    attention_weights: tuple[float, float, float] = Field((0.6, 0.3, 0.1), description="coarse, middle, fine")
    density_scale: float = Field(60.0, gt=0)
    foreground: float = Field(1e-3, ge=0, description="objects per cell from which a cell counts as foreground")
    dist_weight: float = Field(0.1, ge=0)
    rrc_weight: float = Field(0.01, ge=0, description="gamma")
    positive_weight: float = Field(2.0, ge=0, description="lambda")
    wrong_prompt_weight: float = Field(
        0.0,
        ge=0,
        description="recount's control: of the mean count under wrong prompts, which L_reg leaves alone",
    )
    unet_factor: float = Field(0.1, gt=0, description="of learning rate and weight decay of the UNet")
    gradient_checkpointing: bool = True
    crop: int = Field(384, gt=0, description="side of the training crops, pixels")
    mosaic_tile: int = Field(224, gt=0)
    enlarge_probability: float = Field(0.5, ge=0, le=1)
    largest_scale: float = Field(2.0, ge=1)
    density_sigma: float | Literal["adaptive"] = "adaptive"
    sample_kinds: SampleKinds = SampleKinds()

    @field_validator("backbone", mode="before", json_schema_input_type=Backbone | Literal["sd15", "mini_sd"])
    @classmethod
    def _named_backbone(cls, value: Any) -> Any:
        if value == "mini_sd":
            return mini_sd_card()["backbone"]
        return {} if value == "sd15" else value


@dataclass(frozen=True, slots=True)
class Outputs:
    """What one pass makes: the decoder's tensors (see ``Decoder.forward``), A [B, 1, h, w], A per resolution."""

    decoded: dict[str, Tensor]
    attention: Tensor
    per_resolution: dict[int, Tensor]


class T2ICount(System):
    """Counts what a prompt names, on one pass of a diffusion model."""

    Settings = T2ICountSettings
    recipe: ClassVar[Recipe] = Recipe(
        epochs=300,
        batch_size=16,
        optimiser=Optimiser(name="adamw", lr=5e-5, weight_decay=5e-5),
        evaluate_every=1,
        evaluate_from=51,
        select_by="mae+rmse",
    )
    text_guided = True
    settings: T2ICountSettings

    def __init__(self, settings: T2ICountSettings) -> None:
        super().__init__(settings)
        if settings.wrong_prompt_weight:
            self.batch_coupled_by = "the count under wrong prompts is a mean over those of the batch that have one"
        backbone = settings.backbone
        side = backbone.image_size
        self.windows = Windows(side, side, side, stitch="average_pixels")
        self.words = tokenizer(backbone)
        self.unet = unet(backbone)
        self.vae = autoencoder(backbone)
        del self.vae.decoder
        self.text = text_encoder(backbone)
        self.vae.requires_grad_(False)
        self.text.requires_grad_(False)
        self.decoder = Decoder(
            backbone.unet_channels,
            backbone.context,
            settings.counter_width,
            settings.heads,
            hscm=settings.hscm,
            similarity=settings.rrc or settings.hscm,
        )
        self.to(memory_format=torch.channels_last)  # convolutions are faster so
        self._pass = UNetPass(self.unet)
        if settings.gradient_checkpointing:
            self.unet.enable_gradient_checkpointing()

    @classmethod
    def mini_settings(cls) -> dict[str, Any]:
        """Return the settings on the tiny Stable Diffusion, for trainings of a few hundred steps.

        Training crops have the size of its pretraining scenes; windows of prediction are larger, because in one without
        the class, of which L_reg teaches nothing, things of other classes are counted. The rest was chosen on held-out
        scenes of the training and validation classes of ``shapes``, because a few hundred steps have to do: targets
        near one, which a network reaches soon from its start; blobs of one size, because those of rare things, which
        have no near neighbour, would be as wide as the scene; a UNet that learns 0.3 times as fast as the decoder and
        not 0.1 times (as fast as the decoder, it forgets to tell shapes apart); more mosaics, in which the things of
        other pictures are to be left alone; and more weight on the two terms that tell the prompted class from others,
        the distribution loss and RRC. In RRC the positive cells count half: with the paper's double weight all
        similarities go to 1, where a cosine has no gradient any more. The finest attention, which is the sharpest on a
        grid this small (see the model's card), has the most weight, and in the paper the coarsest.
        """
        return {
            "attention_weights": (0.1, 0.3, 0.6),
            "backbone": "mini_sd",
            "weights": "mini_sd",
            "counter_width": 32,
            "heads": 2,
            "gradient_checkpointing": False,
            "crop": 64,
            "mosaic_tile": 40,
            "largest_scale": 1.3,
            "density_sigma": 4.0,
            "density_scale": 6.0,
            "dist_weight": 1.5,
            "rrc_weight": 1.0,
            "positive_weight": 0.5,
            "unet_factor": 0.3,
            "sample_kinds": {"own": 0.35, "other_prompt": 0.15, "mosaic": 0.5},
        }

    def prepare_training(self, samples: Sequence[Sample]) -> None:
        """Load the base weights, check that every prompt can be read, and turn a counter that starts dead."""
        for prompt in dict.fromkeys(sample.prompt for sample in samples):
            self.words.encode(prompt)
        self.restore_base_weights()
        self._turn_dead_counter(samples[:_TRIED])

    @torch.no_grad()
    def _turn_dead_counter(self, samples: Sequence[Sample]) -> None:
        """Negate the counter's last layer if the untrained network counts nothing anywhere in some training pictures.

        After the last layer comes a relu: where it is zero everywhere, nothing gets a gradient and the network stays
        so. PyTorch's default start is as likely as its negative, so this chooses between two equally likely starts. The
        release has no such rule; without it, two of four seeds of the mini size's B count zero for ever.
        """
        side = self.settings.crop
        pictures = [(load_image(sample.image)[None, :, :side, :side], sample) for sample in samples if sample.image]
        fitting = [(picture, sample.prompt) for picture, sample in pictures if picture.shape[-2:] == (side, side)]
        training = self.training
        self.eval()
        densities = [self.predict(picture.float() / 255, [prompt]).density for picture, prompt in fitting]
        self.train(training)
        counted = [density > 0 for density in densities if density is not None]
        if counted and float(torch.cat(counted).float().mean()) < _DEAD:
            last: Any = self.decoder.counter.head[-2]
            last.weight.neg_()
            last.bias.neg_()
            log.warning("the counter starts with zero everywhere and would stay so: its last layer is negated")

    def restore_base_weights(self) -> bool:
        """Load the base weights of the diffusion model; the decoder stays as it is. False for random weights."""
        if self.settings.weights == "random":
            return False
        self.load_state_dict(self._base_weights(self.settings.weights), strict=False)
        return True

    def foreground(self, sample: Sample) -> tuple[Tensor, int]:
        """Return the positive cells of the coherence loss, bool [h, w], and the latent's stride."""
        density = _density(sample, sample.width, sample.height, self.settings.density_sigma)
        stride = self.settings.backbone.stride
        padded = F.pad(density[None, None], (0, -sample.width % stride, 0, -sample.height % stride))
        return F.avg_pool2d(padded, stride)[0, 0] * stride**2 >= self.settings.foreground, stride

    def mini_weights(self, path: Path) -> dict[str, Tensor]:
        """Return what ``recount pretrain mini_sd`` wrote to ``path``, under our names; all of it must be there."""
        return renamed(read_tensors(path), _mini_key, self._base_state(), source=path)

    def _base_state(self) -> dict[str, Tensor]:
        return {name: value for name, value in self.state_dict().items() if not name.startswith("decoder.")}

    def _base_weights(self, weights: str) -> dict[str, Tensor]:
        if weights == "mini_sd":
            with resources.as_file(resources.files("recount") / "pretraining/weights/mini_sd.safetensors") as path:
                return self.mini_weights(path)
        path, expected = Path(weights), self._base_state()
        state = read_tensors(path)
        return renamed(_linear_attention(state.get("state_dict", state)), _base_key(expected), expected, source=path)

    def latent(self, images: Tensor) -> Tensor:
        """Return what the UNet sees of images [B, 3, H, W] in [0, 1]: [B, 4, h, w], by default the posterior's mode."""
        with torch.no_grad():
            clean = self.settings.latent_scale * self.vae.encode(images * 2 - 1).latent_dist.mode()
        if self.settings.noise == "none":
            return clean
        signal = first_alpha_bar()
        noise = torch.randn_like(clean) if self.training else _fixed_noise(clean)
        return signal**0.5 * clean + (1 - signal) ** 0.5 * noise

    def context(self, prompts: Sequence[str]) -> tuple[Tensor, Tensor]:
        """Return the text states [B, L, D] and the mask [B, L] of the prompt's own tokens."""
        device = self.text.device
        ids, mask = token_ids(prompts, self.words, self.settings.backbone.text_length)
        with torch.no_grad():
            return self.text(ids.to(device)).last_hidden_state, mask.to(device)

    def decode(self, latent: Tensor, context: Tensor, mask: Tensor) -> Outputs:
        """Run UNet and decoder on a latent [B, 4, h, w], text states [B, L, D] and a token mask [B, L]."""
        share = (mask / mask.sum(dim=1, keepdim=True)).unsqueeze(-1)  # (B, L, 1)
        features, per_resolution = self._pass(latent, context, share)
        text = (context * share).sum(dim=1)
        attention = fused_attention(per_resolution, self.settings.attention_weights)
        return Outputs(self.decoder(features, text), attention, per_resolution)

    def example_maker(self) -> ExampleMaker:
        """Return the maker of own-prompt, other-prompt and mosaic samples."""
        return _ExampleMaker(self.settings)

    def losses(self, batch: Batch) -> dict[str, Tensor]:
        """Return "regression", with RRC "rrc_s3" and "rrc_s2", and the recorded "train_mae" (all in float32)."""
        context, mask = self.context(batch.prompts)
        outputs = self.decode(self.latent(batch.images), context, mask)
        with torch.autocast(batch.images.device.type, enabled=False):
            return self.loss_terms(outputs, batch.maps["density"], batch.maps["own"])

    def loss_terms(self, outputs: Outputs, density: Tensor, own: Tensor) -> dict[str, Tensor]:
        """Return the loss terms for a target density (objects per cell) and own mask, [B, 1, h, w]."""
        settings = self.settings
        predicted = outputs.decoded["density"].float()
        target = settings.density_scale * density
        threshold = settings.density_scale * settings.foreground
        counts = predicted.sum(dim=(1, 2, 3)) / settings.density_scale
        terms = {"regression": regression_loss(predicted, target, threshold, settings.dist_weight)}
        if settings.rrc:
            labels = region_labels(target, outputs.attention, own, settings.attention_threshold, threshold)
            for name in ("S3", "S2"):
                loss = coherence_loss(outputs.decoded[name], labels, settings.positive_weight)
                terms[f"rrc_{name.lower()}"] = loss
        if settings.wrong_prompt_weight:
            wrong = (own.amax(dim=(1, 2, 3)) == 0).to(counts)
            terms["wrong_prompt"] = (counts * wrong).sum() / wrong.sum().clamp(min=1)
        terms["train_mae"] = (counts - density.sum(dim=(1, 2, 3))).abs().mean().detach()
        return terms

    @property
    def loss_weights(self) -> Mapping[str, float]:
        """Return gamma for both coherence losses and 0 for what is only recorded."""
        gamma = self.settings.rrc_weight
        return {
            "rrc_s3": gamma,
            "rrc_s2": gamma,
            "wrong_prompt": self.settings.wrong_prompt_weight,
            "train_mae": 0.0,
        }

    def predict(self, images: Tensor, prompts: Sequence[str]) -> Prediction:
        """Predict the density at the latent's stride.

        ``maps``: "attention" (fused), "attention_coarse", "attention_middle", "attention_fine", and, where the variant
        has them, the similarity maps "S3" and "S2".
        """
        context, mask = self.context(prompts)
        outputs = self.decode(self.latent(images), context, mask)
        maps = {name: value for name, value in outputs.decoded.items() if name in ("S3", "S2")}
        maps["attention"] = outputs.attention
        for name, divisor in (("coarse", 4), ("middle", 2), ("fine", 1)):
            maps[f"attention_{name}"] = outputs.per_resolution[divisor]
        return Prediction(density=outputs.decoded["density"].float() / self.settings.density_scale, maps=maps)

    def parameter_groups(self, recipe: Recipe) -> list[dict[str, Any]]:
        """Return the decoder at the full rate, and the UNet at ``unet_factor`` of rate and weight decay (a tenth)."""
        factor = self.settings.unet_factor
        slow = {"lr_scale": factor, "weight_decay": factor * recipe.optimiser.weight_decay}
        return [{"params": list(self.decoder.parameters())}, {"params": list(self.unet.parameters()), **slow}]

    @classmethod
    def import_checkpoint(cls, path: Path, settings: Any) -> dict[str, Tensor]:
        """Read ``best_model_paper.pth`` (or any state dict of the released code) and return it under our names.

        Raises:
            CheckpointError: the settings are not those of the released weights, or keys or shapes differ (all listed).
        """
        if settings.latent_scale != 1 or settings.noise != "none" or not settings.hscm:
            raise CheckpointError(
                f"{path}: the released weights need latent_scale 1, noise none and hscm true; found "
                f"{settings.latent_scale}, {settings.noise} and {settings.hscm}"
            )
        with torch.device("meta"):
            expected = cls(settings).state_dict()
        return renamed(_linear_attention(read_tensors(path)), _released_key(expected), expected, source=path)


def first_alpha_bar() -> float:
    """Return the signal share of the first step of the Stable Diffusion v1 schedule, 0.99915."""
    return 1 - 0.00085


def _fixed_noise(like: Tensor) -> Tensor:
    """Return the same noise for every window, so that a prediction depends on nothing but its window."""
    noise = torch.randn(like.shape[1:], generator=torch.Generator().manual_seed(0))
    return noise.to(like).expand_as(like)


# --------------------------------------------------------------------------------------------------- checkpoint names

_RESNET = {
    "in_layers.0": "norm1",
    "in_layers.2": "conv1",
    "emb_layers.1": "time_emb_proj",
    "out_layers.0": "norm2",
    "out_layers.3": "conv2",
    "skip_connection": "conv_shortcut",
}
_FUSION = {
    "img_pe_transform": "position",
    "txt2img": "text_reads_image",
    "img2txt": "image_reads_text",
    "norm1": "norm_read",
    "norm2": "norm_mlp",
    "norm3": "norm_image",
    "mlp.net.0.0": "mlp.0",
    "mlp.net.2": "mlp.2",
}
_COUNTER = {
    "conv.0": "between",
    "img_pe_transform": "position",
    "self_attn": "attention",
    "reg_head.": "head.",
}
_PROJECTIONS = {"q_proj": "query", "k_proj": "key", "v_proj": "value", "out_proj": "out"}


def _replaced(name: str, table: Mapping[str, str]) -> str:
    for old, new in table.items():
        name = name.replace(old, new)
    return name


def unet_key(name: str) -> str:
    """Return the diffusers name of a tensor of LDM's UNet, for example ``input_blocks.1.0.in_layers.0.weight``."""
    place, _, rest = name.partition(".")
    simple = {"time_embed.0": "time_embedding.linear_1", "time_embed.2": "time_embedding.linear_2"}
    simple |= {"input_blocks.0.0": "conv_in", "out.0": "conv_norm_out", "out.2": "conv_out"}
    for old, new in simple.items():
        if name.startswith(f"{old}."):
            return new + name.removeprefix(old)
    if place == "middle_block":
        index, _, rest = rest.partition(".")
        module = {"0": "resnets.0", "1": "attentions.0", "2": "resnets.1"}[index]
        return f"mid_block.{module}.{_replaced(rest, _RESNET)}"
    block, part, rest = (*rest.split(".", 2), "")[:3]
    return _down_key(int(block), part, rest) if place == "input_blocks" else _up_key(int(block), part, rest)


def _down_key(block: int, part: str, rest: str) -> str:
    level, layer = divmod(block - 1, 3)
    if rest.startswith("op."):
        return f"down_blocks.{level}.downsamplers.0.conv.{rest.removeprefix('op.')}"
    module = "resnets" if part == "0" else "attentions"
    return f"down_blocks.{level}.{module}.{layer}.{_replaced(rest, _RESNET)}"


def _up_key(block: int, part: str, rest: str) -> str:
    level, layer = divmod(block, 3)
    if rest.startswith("conv."):
        return f"up_blocks.{level}.upsamplers.0.{rest}"
    module = "resnets" if part == "0" else "attentions"
    return f"up_blocks.{level}.{module}.{layer}.{_replaced(rest, _RESNET)}"


def vae_key(name: str) -> str | None:
    """Return the diffusers name of a tensor of the original VAE; None for its decoder, which counting does not need."""
    if name.startswith(("decoder.", "loss.")):
        return None
    name = re.sub(r"\.down\.(\d)\.block\.", r".down_blocks.\1.resnets.", name)
    name = re.sub(r"\.down\.(\d)\.downsample\.", r".down_blocks.\1.downsamplers.0.", name)
    name = name.replace("mid.block_1", "mid_block.resnets.0").replace("mid.block_2", "mid_block.resnets.1")
    attention = {"attn_1.norm": "attn_1.group_norm", "attn_1.proj_out": "attn_1.to_out.0"}
    name = _replaced(name, attention | {f"attn_1.{x}.": f"attn_1.to_{x}." for x in "qkv"})
    name = name.replace("mid.attn_1", "mid_block.attentions.0")
    return name.replace("nin_shortcut", "conv_shortcut").replace("encoder.norm_out", "encoder.conv_norm_out")


def decoder_key(name: str) -> str:
    """Return our name of a tensor of the released decoder, for example ``upsample1.img_txt_fusion1.norm3.weight``."""
    if name.startswith("regressor."):
        return "counter." + _replaced(name.removeprefix("regressor."), _COUNTER | _PROJECTIONS)
    stage, _, rest = name.partition(".")
    return f"{stage.replace('upsample', 'stage')}.{stage_key(rest)}"


def stage_key(name: str) -> str:
    """Return our name of a tensor within one stage of the released decoder."""
    if name.startswith("img_txt_fusion"):
        fusion, _, rest = name.partition(".")
        return f"fusion{fusion[-1]}.{_replaced(rest, _FUSION | _PROJECTIONS)}"
    names = {"conv1.0": "reduce", "conv2.0": "merge", "conv3.0": "refine"}
    return _replaced(name, names | {"text_conv": "text_projection", "norm1": "text_norm"})


def _text_key(name: str, expected: Mapping[str, Tensor]) -> str | None:
    """Return our name of a CLIP text tensor; transformers names its tensors with or without ``text_model.``."""
    if name.endswith("embeddings.position_ids"):
        return None
    level = "text_model." if any(key.startswith("text.text_model.") for key in expected) else ""
    return f"text.{level}{name.removeprefix('text_model.')}"


def _released_key(expected: Mapping[str, Tensor]) -> Callable[[str], str | None]:
    def rename(key: str) -> str | None:
        if key.startswith("decoder."):
            return f"decoder.{decoder_key(key.removeprefix('decoder.'))}"
        for ours, theirs in (("model.", "unet.unet."), ("first_stage_model.", "vae."), ("cond_stage_model.", "clip.")):
            if key.startswith(theirs):
                return base(ours + key.removeprefix(theirs))
        return key

    base = _base_key(expected)
    return rename


def _base_key(expected: Mapping[str, Tensor]) -> Callable[[str], str | None]:
    """Return what renames the keys of a Stable Diffusion v1 file (LDM layout); others (EMA, schedule) are dropped."""

    def rename(key: str) -> str | None:
        if key.startswith("model.diffusion_model."):
            return f"unet.{unet_key(key.removeprefix('model.diffusion_model.'))}"
        if key.startswith("first_stage_model."):
            name = vae_key(key.removeprefix("first_stage_model."))
            return None if name is None else f"vae.{name}"
        if key.startswith("cond_stage_model.transformer."):
            return _text_key(key.removeprefix("cond_stage_model.transformer."), expected)
        return None

    return rename


def _mini_key(key: str) -> str | None:
    return None if key.startswith("vae.decoder.") else key


def _linear_attention(state: Mapping[str, Any]) -> dict[str, Tensor]:
    """Return a state dict whose VAE attention has linear weights [C, C] instead of 1x1 convolutions [C, C, 1, 1]."""
    pattern = re.compile(r"mid\.attn_1\.(q|k|v|proj_out)\.weight$")
    return {key: value[..., 0, 0] if pattern.search(key) and value.ndim == 4 else value for key, value in state.items()}


SYSTEM = T2ICount
