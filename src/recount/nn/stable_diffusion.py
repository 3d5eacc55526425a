"""Stable Diffusion v1 as a network to read features from: UNet, VAE, text encoder, tokens, checkpoint names.

Rombach et al., "High-Resolution Image Synthesis with Latent Diffusion Models" (CVPR 2022). The UNet and the VAE are
diffusers' (Apache 2.0), the text encoder is transformers' (Apache 2.0); the weights of v1.5 are CreativeML Open RAIL-M.
Names of checkpoint files (LDM layout) are translated by diffusers' own conversion. Numbers checked against the UNet of
cha15yq/T2ICount@289d3fb (golden cases ``unet_*``, ``vae_encoder_64``, ``clip_text``).
"""

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from pydantic import Field
from torch import Tensor, nn

from recount.errors import UserError
from recount.nn.clip import Tokenizer
from recount.nn.weights import read_tensors, renamed, shipped
from recount.settings.base import Strict

LAYERS_PER_BLOCK = 2  # residual blocks of a UNet level


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


def unet(backbone: Backbone) -> Any:
    """Return a ``UNet2DConditionModel`` with Stable Diffusion v1's structure and random weights."""
    from diffusers import UNet2DConditionModel

    return UNet2DConditionModel(
        sample_size=backbone.image_size // backbone.stride,
        block_out_channels=backbone.unet_channels,
        down_block_types=("CrossAttnDownBlock2D",) * 3 + ("DownBlock2D",),
        up_block_types=("UpBlock2D",) + ("CrossAttnUpBlock2D",) * 3,
        layers_per_block=LAYERS_PER_BLOCK,
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


def tokenizer(backbone: Backbone) -> Tokenizer:
    """Return the tokenizer that belongs to a backbone."""
    return Tokenizer(backbone.vocabulary, specials_first=True)


def token_ids(prompts: Sequence[str], words: Tokenizer, length: int) -> tuple[Tensor, Tensor]:
    """Return padded ids [B, L] (start, prompt, then end up to the last) and the mask [B, L] of the prompt's tokens.

    A prompt longer than L - 2 tokens is cut; one without is a UserError. All positions go to the UNet.
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


FIRST_ALPHA_BAR = 1 - 0.00085  # signal share of the first step of the v1 schedule


def alpha_bar() -> Tensor:
    """Return the cumulative signal share of each step of the v1 schedule, [1000]."""
    return torch.cumprod(1 - torch.linspace(0.00085**0.5, 0.012**0.5, 1000, dtype=torch.float64) ** 2, 0).float()


class _KeepPromptAttention:
    """Cross-attention with an explicit softmax; keeps, per cell, the heads' mean of a weighted sum over the tokens."""

    def __init__(self, name: str, kept: "UNetPass") -> None:
        self.name, self.kept = name, kept

    def __call__(
        self, attn: Any, hidden_states: Tensor, encoder_hidden_states: Tensor, attention_mask: None = None, **_: Any
    ) -> Tensor:
        query = attn.head_to_batch_dim(attn.to_q(hidden_states))  # (B * heads, N, C / heads)
        key, value = (attn.head_to_batch_dim(part(encoder_hidden_states)) for part in (attn.to_k, attn.to_v))
        attention = attn.get_attention_scores(query, key)  # (B * heads, N, L)
        kept = attention if self.kept.differentiable else attention.detach()
        mean = kept.float().unflatten(0, (len(hidden_states), -1)).mean(dim=1)  # (B, N, L)
        # by name: under gradient checkpointing a layer runs again in the backward pass
        self.kept.attention[self.name] = torch.bmm(mean, self.kept.token_weights.float())
        out = attn.batch_to_head_dim(attention.to(value.dtype) @ value)
        return attn.to_out[1](attn.to_out[0](out))


class UNetPass:
    """Runs a diffusers UNet once and keeps its decoder features and its prompt attention.

    Only cross-attention outside the middle block gets its own processor. F4, F3, F2 are taken after the *second* of the
    three layers of their level, F1 after the last. Gradients flow through the attention if it is ``differentiable``.
    """

    def __init__(self, network: Any, *, differentiable: bool = False) -> None:
        self.network = network
        self.differentiable = differentiable
        self.attention: dict[str, Tensor] = {}  # layer name -> float32 [B, N, T], filled by each pass
        self.token_weights = torch.empty(0)  # [B, L, T], what is kept of the attention over L tokens
        self._features: dict[str, Tensor] = {}
        up = network.up_blocks
        places = (up[0].resnets[1], up[1].attentions[1], up[2].attentions[1], up[3].attentions[2])
        for name, module in zip(("F4", "F3", "F2", "F1"), places, strict=True):
            module.register_forward_hook(partial(self._keep, name))
        for name, module in network.named_modules():
            if name.endswith("attn2") and not name.startswith("mid_block"):
                module.set_processor(_KeepPromptAttention(name, self))

    def _keep(self, name: str, _module: nn.Module, _inputs: Any, output: Any) -> None:
        self._features[name] = output[0] if isinstance(output, tuple) else output

    def __call__(
        self, latent: Tensor, context: Tensor, token_weights: Tensor
    ) -> tuple[dict[str, Tensor], dict[int, Tensor]]:
        """Run the UNet at timestep 0 on a latent [B, 4, h, w], text states [B, L, D] and token weights [B, L, T].

        Returns F1..F4 ([B, C, h, w], at strides 1, 2, 4 and 8 of the latent), and the attention by ``layer_average``.
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
    """Average attention (layer name -> [B, N, T]) per divisor d of the latent's ``size``, -> [B, T, h / d, w / d]."""
    levels: dict[int, list[Tensor]] = {1: [], 2: [], 4: []}
    for name, value in attention.items():
        block, index = name.split(".")[:2]
        if block != "mid_block":
            levels[2 ** (int(index) if block == "down_blocks" else 3 - int(index))].append(value)
    return {
        divisor: torch.stack(maps).mean(dim=0).mT.unflatten(-1, (size[0] // divisor, size[1] // divisor))
        for divisor, maps in levels.items()
    }


class _Name(str):
    """A tensor's name, given to diffusers' conversion in place of the tensor, so that it tells where each name goes."""

    shape = ()


def ldm_names(keys: Iterable[str], vae_levels: int) -> dict[str, str]:
    """Return LDM's name -> our name of the UNet's tensors ("unet.") and the VAE's without its decoder ("vae.")."""
    from diffusers.loaders.single_file_utils import convert_ldm_unet_checkpoint, convert_ldm_vae_checkpoint

    names = {key: _Name(key) for key in keys if not key.startswith(("first_stage_model.decoder.", "model_ema."))}
    levels = range(vae_levels)
    try:
        converted = {
            "unet.": convert_ldm_unet_checkpoint(names, {"layers_per_block": LAYERS_PER_BLOCK}),
            "vae.": convert_ldm_vae_checkpoint(names, {"down_block_types": levels, "up_block_types": levels}),
        }
    except KeyError as error:
        raise UserError(f"a Stable Diffusion file without {error}") from error
    pairs = [(theirs, part + ours) for part, table in converted.items() for ours, theirs in table.items()]
    return {str(theirs): ours for theirs, ours in pairs if theirs is not None}


def ldm_renamer(keys: Iterable[str], expected: Mapping[str, Tensor]) -> Callable[[str], str | None]:
    """Return what translates the ``keys`` of a Stable Diffusion v1 file into ours; to None what is not needed."""
    table = ldm_names(keys, 1 + sum(re.search(r"^vae.*downsamplers.0.conv.bias", key) is not None for key in expected))
    # transformers names a text model's tensors with or without ``text_model.``, which depends on its version
    level = "text_model." if any(key.startswith("text.text_model.") for key in expected) else ""

    def rename(key: str) -> str | None:
        if key.startswith("cond_stage_model.transformer."):
            name = key.removeprefix("cond_stage_model.transformer.").removeprefix("text_model.")
            return None if name == "embeddings.position_ids" else f"text.{level}{name}"
        known = key.startswith(("model.diffusion_model.", "first_stage_model."))
        unused = key.startswith(("first_stage_model.decoder.", "first_stage_model.loss."))
        return table.get(key, key) if known and not unused else None

    return rename


def linear_attention(state: Mapping[str, Any]) -> dict[str, Tensor]:
    """Return a state dict whose VAE attention has linear weights [C, C] instead of 1x1 convolutions [C, C, 1, 1]."""
    pattern = re.compile(r"mid\.attn_1\.(q|k|v|proj_out)\.weight$")
    return {key: value[..., 0, 0] if pattern.search(key) and value.ndim == 4 else value for key, value in state.items()}


def base_weights(weights: str, expected: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return base weights under our names, strictly: "mini_sd", or those of a Stable Diffusion v1 file."""
    own = shipped(f"{weights}.safetensors")
    if own.is_file():
        return mini_weights(own, expected)
    content = read_tensors(Path(weights))
    state = content.get("state_dict", content)
    return renamed(linear_attention(state), ldm_renamer(state, expected), expected, source=weights)


def mini_weights(path: Path, expected: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return what ``recount pretrain mini_sd`` wrote to ``path``; all must be there, and the VAE's decoder goes."""
    state = {key: value for key, value in read_tensors(path).items() if not key.startswith("vae.decoder.")}
    return renamed(state, str, expected, source=path)
