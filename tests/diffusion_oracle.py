"""Stable Diffusion v1 in functions of torch alone, by the names of its state dict: UNet, VAE encoder, text states.

Written from the architecture (Rombach et al., CVPR 2022; CLIP for the text), so that what diffusers and transformers
compute for recount has something independent beside it. ``w`` holds each part's tensors below ``unet.``, ``vae.`` and
``text.``.
"""

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from step_oracles import State, attend, conv, linear, norm, quick_gelu


def _has(w: State, name: str) -> bool:
    return f"{name}.weight" in w


def _normed(w: State, name: str, x: Tensor, groups: int, eps: float) -> Tensor:
    grouped = x.unflatten(1, (groups, -1)).flatten(2)
    centred = grouped - grouped.mean(-1, keepdim=True)
    x = (centred / (centred.square().mean(-1, keepdim=True) + eps).sqrt()).view(x.shape)
    return x * w[f"{name}.weight"].view(-1, 1, 1) + w[f"{name}.bias"].view(-1, 1, 1)


def _residual(w: State, name: str, x: Tensor, groups: int, eps: float, time: Tensor | None = None) -> Tensor:
    y = conv(w, f"{name}.conv1", F.silu(_normed(w, f"{name}.norm1", x, groups, eps)))
    if time is not None:
        y = y + linear(w, f"{name}.time_emb_proj", F.silu(time))[:, :, None, None]
    y = conv(w, f"{name}.conv2", F.silu(_normed(w, f"{name}.norm2", y, groups, eps)))
    return y + (conv(w, f"{name}.conv_shortcut", x) if _has(w, f"{name}.conv_shortcut") else x)


def _crossed(w: State, name: str, x: Tensor, text: Tensor, heads: int, groups: int, seen: dict[str, Tensor]) -> Tensor:
    """A transformer block over cells; ``seen`` gets its cross-attention over the tokens [B, N, L], mean over heads."""
    height, before, n = x.shape[-2], x, f"{name}.transformer_blocks.0"
    x = conv(w, f"{name}.proj_in", _normed(w, f"{name}.norm", x, groups, 1e-6)).flatten(2).mT
    for number, of in ((1, None), (2, text)):
        cells, a = norm(w, f"{n}.norm{number}", x), f"{n}.attn{number}"
        source = cells if of is None else of
        q, k, v = (y @ w[f"{a}.to_{p}.weight"].T for p, y in (("q", cells), ("k", source), ("v", source)))
        x = x + linear(w, f"{a}.to_out.0", attend(q, k, v, heads))
        if of is not None:
            q, k = (y.unflatten(-1, (heads, -1)).transpose(1, 2) for y in (q, k))
            seen[name] = (q @ k.mT / math.sqrt(q.shape[-1])).softmax(-1).mean(1)
    value, gate = linear(w, f"{n}.ff.net.0.proj", norm(w, f"{n}.norm3", x)).chunk(2, -1)
    x = x + linear(w, f"{n}.ff.net.2", value * F.gelu(gate))
    return before + conv(w, f"{name}.proj_out", x.mT.unflatten(2, (height, -1)))


def unet(
    w: State, latent: Tensor, text: Tensor, heads: Sequence[int], groups: int
) -> tuple[dict[str, Tensor], dict[int, Tensor]]:
    """Return F1 to F4 at timestep 0, and the cross-attention per divisor of the latent's size, [B, L, h, w]."""
    width = w["unet.conv_in.weight"].shape[0]
    time = torch.cat([torch.ones(width // 2), torch.zeros(width - width // 2)]).to(latent).expand(len(latent), -1)
    embedding = "unet.time_embedding.linear_"  # cosines of zero, then sines
    time = linear(w, f"{embedding}2", F.silu(linear(w, f"{embedding}1", time)))
    seen: dict[str, Tensor] = {}

    def layer(block: str, j: int, x: Tensor, of_level: int) -> Tensor:
        x = _residual(w, f"unet.{block}.resnets.{j}", x, groups, 1e-5, time)
        attention = f"unet.{block}.attentions.{j}"
        crossed = _has(w, f"{attention}.proj_in")
        return _crossed(w, attention, x, text, heads[of_level], groups, seen) if crossed else x

    skips = [x := conv(w, "unet.conv_in", latent)]
    for i in range(4):
        for j in range(2):
            skips.append(x := layer(f"down_blocks.{i}", j, x, i))
        if i < 3:
            skips.append(x := conv(w, f"unet.down_blocks.{i}.downsamplers.0.conv", x, stride=2))
    x = layer("mid_block", 0, x, 3)
    x = _residual(w, "unet.mid_block.resnets.1", x, groups, 1e-5, time)
    features = {}
    for i in range(4):
        for j in range(3):
            x = layer(f"up_blocks.{i}", j, torch.cat([x, skips.pop()], 1), 3 - i)
            if j == (2 if i == 3 else 1):
                features[f"F{4 - i}"] = x
        if i < 3:
            larger = x.repeat_interleave(2, 2).repeat_interleave(2, 3)
            x = conv(w, f"unet.up_blocks.{i}.upsamplers.0.conv", larger)
    maps: dict[int, list[Tensor]] = {1: [], 2: [], 4: []}
    for name, attention in seen.items():
        _, block, index, *_ = name.split(".")
        if block != "mid_block":
            maps[2 ** (int(index) if block == "down_blocks" else 3 - int(index))].append(attention)
    height = latent.shape[-2]
    return features, {d: torch.stack(each).mean(0).mT.unflatten(2, (height // d, -1)) for d, each in maps.items()}


def encoded(w: State, pictures: Tensor, groups: int) -> Tensor:
    """Return the mode of the VAE's posterior of pictures in [-1, 1]."""
    x, e = conv(w, "vae.encoder.conv_in", pictures), "vae.encoder"
    levels = 1 + max(int(name.split(".")[3]) for name in w if name.startswith(f"{e}.down_blocks."))
    for i in range(levels):
        j = 0
        while _has(w, block := f"{e}.down_blocks.{i}.resnets.{j}.conv1"):
            x, j = _residual(w, block.removesuffix(".conv1"), x, groups, 1e-6), j + 1
        if i < levels - 1:  # one row and column of zeros, below and on the right
            x = conv(w, f"{e}.down_blocks.{i}.downsamplers.0.conv", F.pad(x, (0, 1, 0, 1)), stride=2, padding=0)
    x, a = _residual(w, f"{e}.mid_block.resnets.0", x, groups, 1e-6), f"{e}.mid_block.attentions.0"
    cells = _normed(w, f"{a}.group_norm", x, groups, 1e-6).flatten(2).mT
    read = attend(*(linear(w, f"{a}.to_{part}", cells) for part in "qkv"), 1)
    x = x + linear(w, f"{a}.to_out.0", read).mT.view(x.shape)
    x = _residual(w, f"{e}.mid_block.resnets.1", x, groups, 1e-6)
    x = conv(w, f"{e}.conv_out", F.silu(_normed(w, f"{e}.conv_norm_out", x, groups, 1e-6)))
    return conv(w, "vae.quant_conv", x)[:, :4]


def text_states(w: State, ids: Tensor, heads: int) -> Tensor:
    """Return the last states of CLIP's text tower, [B, L, D], of token rows; no position is masked but later ones."""
    part = "text.text_model." if "text.text_model.final_layer_norm.weight" in w else "text."
    length = ids.shape[1]
    x = w[f"{part}embeddings.token_embedding.weight"][ids] + w[f"{part}embeddings.position_embedding.weight"][:length]
    mask = torch.full((length, length), -math.inf, dtype=x.dtype).triu(1)
    for i in range(sum(name.startswith(part) and name.endswith("layer_norm1.weight") for name in w)):
        n = f"{part}encoder.layers.{i}"
        y = norm(w, f"{n}.layer_norm1", x)
        q, k, v = (linear(w, f"{n}.self_attn.{p}_proj", y) for p in "qkv")
        x = x + linear(w, f"{n}.self_attn.out_proj", attend(q, k, v, heads, mask))
        wide = linear(w, f"{n}.mlp.fc1", norm(w, f"{n}.layer_norm2", x))
        x = x + linear(w, f"{n}.mlp.fc2", quick_gelu(wide))
    return norm(w, f"{part}final_layer_norm", x)
