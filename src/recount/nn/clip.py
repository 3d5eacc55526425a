"""CLIP at any size: its tokens, its two towers, its base weights, and features of fixed sentences.

Radford et al., "Learning Transferable Visual Models From Natural Language Supervision" (2021). The networks are
open_clip's (MIT). open_clip names tensors as OpenAI does, so one set of names serves both. Numbers checked against the
text tower of AdamHermes/GigaCount@d57191e in both activations, and of Yiming-M/CLIP-EBC@b52a594 (golden cases
``text_tower``, ``text_tower_1024``, ``prompts``).

Some systems only need the text features of sentences that never change (``encode``): they keep these, and the tower's
number of parameters, and not the tower.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import torch
from pydantic import Field
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn import functional

from recount.errors import UserError
from recount.nn.libraries import without
from recount.nn.precision import full_precision
from recount.nn.weights import read_released, read_tensors, renamed, shipped
from recount.results.files import file_digest, text_digest
from recount.settings.base import Strict
from recount.settings.schemas import cache_folder

if TYPE_CHECKING:
    from open_clip.model import CLIP
    from open_clip.transformer import TextTransformer, VisionTransformer

CLIP_MEAN = (0.48145466, 0.4578275, 0.40821073)
CLIP_STD = (0.26862954, 0.26130258, 0.27577711)
CONTEXT = 77
BYTE_PAIRS = 49408  # size of CLIP's vocabulary
RANDOM_SEED = 0  # of a text tower without trained weights: the same one whatever the seed of the run
VIT_B_16 = {"openai": "ViT-B-16-quickgelu", "laion2b_s34b_b88k": "ViT-B-16"}  # weights -> open_clip's model
# names of the text tower in a full CLIP state dict and in CLIP-EBC's and GigaCount's checkpoints
TEXT_KEYS = ("token_embedding.", "positional_embedding", "transformer.", "ln_final.", "text_projection")
NOT_A_TOWER = ("logit_scale", "input_resolution", "context_length", "vocab_size", "attn_mask")

Activation = Literal["gelu", "quickgelu"]


class ClipTowers(Strict):
    """The sizes of a CLIP with a ViT. The defaults are ViT-B/16."""

    features: int = Field(512, gt=0, description="length of the common features")
    image_size: int = Field(224, gt=0, description="edge of the square that the image tower sees, pixels")
    patch: int = Field(16, gt=0)
    vision_width: int = Field(768, gt=0)
    vision_layers: int = Field(12, gt=0)
    vision_heads: int = Field(12, gt=0)
    text_width: int = Field(512, gt=0)
    text_heads: int = Field(8, gt=0)
    text_layers: int = Field(12, gt=0)
    context: int = Field(CONTEXT, gt=2, description="tokens of a prompt, start and end included")
    vocabulary: tuple[str, ...] | None = Field(None, description="words of a word tokenizer; null: CLIP's byte pairs")
    activation: Activation = Field("quickgelu", description="LAION's CLIP was trained with gelu")

    @property
    def grid(self) -> int:
        """Return the patches along an edge."""
        return self.image_size // self.patch


class TextTower(Strict):
    """Which text tower: its size, activation and weights. The defaults are CLIP ViT-B/16's size, without weights."""

    width: int = Field(512, gt=0)
    heads: int = Field(8, gt=0)
    layers: int = Field(12, gt=0)
    features: int = Field(512, gt=0, description="length of a feature vector: 512, or 1024 for ResNet-50")
    activation: Activation = Field("quickgelu", description="CLIP was trained with quickgelu; GigaCount runs gelu")
    weights: str = Field(
        "random", description="path of a CLIP state dict, or 'random': an untrained tower made with a fixed seed"
    )


class ClipSize(Strict):
    """The sizes of a whole CLIP, under open_clip's names. The defaults are ViT-B/32."""

    embed_dim: int = 512
    image_size: int = Field(224, description="edge of the square the image tower sees, pixels")
    patch: int = 32
    vision_width: int = 768
    vision_layers: int = 12
    vision_head_width: int = 64
    text_width: int = 512
    text_heads: int = 8
    text_layers: int = 12
    context: int = Field(CONTEXT, description="tokens of a caption, start and end included")
    vocabulary: tuple[str, ...] | None = Field(None, description="words of a word tokenizer; null: CLIP's byte pairs")


WORDS = (
    *("red", "orange", "yellow", "green", "blue", "purple", "white", "black"),
    *("circles", "squares", "triangles", "stars", "hearts", "crosses", "diamonds", "rings"),
    *("car", "cars", "vehicles", "blood", "cells", "platelets", "dice", "showing", "pip", "pips"),
    *("one", "two", "three", "four", "five", "six"),
    *("a", "the", "photo", "of", "number", "small", "medium", "large", "there", "are", "in", "scene"),
)
"""The words of recount's procedural and open data sets, and of the systems' templates."""

MINI_TOWERS: Mapping[str, Any] = {
    **{"features": 64, "image_size": 72, "patch": 8, "vision_width": 64, "vision_layers": 3, "vision_heads": 4},
    **{"text_width": 64, "text_heads": 4, "text_layers": 2, "context": 16, "vocabulary": WORDS},
}
"""Sizes of the tiny towers that come with recount (``recount pretrain mini_towers``)."""


@cache
def _byte_pairs() -> Any:
    from open_clip.tokenizer import SimpleTokenizer  # the merges come with open_clip, so nothing is downloaded

    return SimpleTokenizer()


class Tokenizer:
    """CLIP's byte pairs (None), or one id per word of a fixed vocabulary.

    ``specials_first``: the ids of start and end come before those of the words. CLIP's come last, because its text
    tower reads out where the highest id stands.
    """

    def __init__(self, vocabulary: Sequence[str] | None, *, specials_first: bool = False) -> None:
        self.ids: dict[str, int] | None = None
        self.size, self.start, self.end = BYTE_PAIRS, BYTE_PAIRS - 2, BYTE_PAIRS - 1
        if vocabulary is not None:
            first = 2 if specials_first else 1  # 0 pads, or is the start
            self.ids = {word: index for index, word in enumerate(vocabulary, start=first)}
            self.start, self.end = (0, 1) if specials_first else (len(self.ids) + 1, len(self.ids) + 2)
            self.size = len(self.ids) + (2 if specials_first else 3)

    def encode(self, prompt: str) -> list[int]:
        """Return the ids of a prompt, without start and end; a word that the vocabulary lacks is a UserError."""
        if self.ids is None:
            return _byte_pairs().encode(prompt)
        words = prompt.lower().replace(",", " ").replace(".", " ").split()
        unknown = [word for word in dict.fromkeys(words) if word not in self.ids]
        if unknown:
            raise UserError(
                f"prompt {prompt[:200]!r}: the tiny model does not know {', '.join(unknown)}; it knows: "
                f"{', '.join(self.ids)}. Use these words, or sizes with CLIP's byte pairs (vocabulary: null)"
            )
        return [self.ids[word] for word in words]


def token_ids(prompts: Sequence[str], size: ClipTowers | ClipSize) -> Tensor:
    """Return int64 [K, context]: start, prompt (byte pairs too many are cut), end (the highest id), zeros."""
    return _padded(_token_rows(prompts, size), size.context)


def _token_rows(prompts: Sequence[str], size: ClipTowers | ClipSize) -> list[list[int]]:
    words, rows = Tokenizer(size.vocabulary), []
    for prompt in prompts:
        ids = words.encode(prompt)
        if words.ids is not None and len(ids) > size.context - 2:
            raise UserError(f"prompt {prompt[:200]!r}: the tiny model reads at most {size.context - 2} words")
        rows.append([words.start, *ids[: size.context - 2], words.end])
    return rows


def _padded(rows: Sequence[list[int]], length: int) -> Tensor:
    return torch.tensor([row + [0] * (length - len(row)) for row in rows], dtype=torch.long).view(-1, length)


def check_prompts(prompts: Sequence[str], size: ClipTowers) -> None:
    """Refuse prompts that are empty or cannot be read (UserError), before anything is trained."""
    if any(not prompt.strip() for prompt in prompts):
        raise UserError("a prompt is empty: a text-guided system needs the name of what to count")
    token_ids(list(dict.fromkeys(prompts)), size)


def _sizes(towers: ClipTowers, side: str) -> dict[str, Any]:
    from open_clip.transformer import QuickGELU

    sizes = {name: getattr(towers, f"{side}_{name}") for name in ("width", "heads", "layers")}
    activation = QuickGELU if towers.activation == "quickgelu" else nn.GELU
    return {**sizes, "output_dim": towers.features, "act_layer": activation}


def image_tower(towers: ClipTowers) -> VisionTransformer:
    """Return open_clip's ViT with random weights."""
    from open_clip.transformer import VisionTransformer

    return VisionTransformer(towers.image_size, towers.patch, mlp_ratio=4.0, **_sizes(towers, "vision"))


def text_tower(towers: ClipTowers) -> TextTransformer:
    """Return open_clip's text transformer with random weights."""
    from open_clip.transformer import TextTransformer

    return TextTransformer(towers.context, Tokenizer(towers.vocabulary).size, **_sizes(towers, "text"))


def build_tower(tower: TextTower) -> TextTransformer:
    """Return the text transformer of ``tower`` with random weights."""
    sizes = {f"text_{name}": getattr(tower, name) for name in ("width", "heads", "layers")}
    return text_tower(ClipTowers(**sizes, features=tower.features, activation=tower.activation))


def build_clip(size: ClipSize) -> CLIP:
    """Return open_clip's whole CLIP with QuickGELU and random weights."""
    with without("timm", "transformers"):  # which open_clip's own towers do not use
        from open_clip.model import CLIP, CLIPTextCfg, CLIPVisionCfg

    sizes = {name: getattr(size, f"vision_{name}") for name in ("layers", "width", "head_width")}
    vision = CLIPVisionCfg(patch_size=size.patch, image_size=size.image_size, **sizes)
    sizes = {name: getattr(size, f"text_{name}") for name in ("width", "heads", "layers")}
    text = CLIPTextCfg(context_length=size.context, vocab_size=Tokenizer(size.vocabulary).size, **sizes)
    return CLIP(size.embed_dim, vision, text, quick_gelu=True)


def text_features(tower: CLIP | TextTransformer, prompts: Sequence[str], size: ClipTowers | ClipSize) -> Tensor:
    """Return features [K, features] of prompts, not normalised, by a CLIP or its text tower.

    Tokens after the longest prompt's end are left out: none that is read sees them.
    """
    rows = _token_rows(prompts, size)
    device = tower.positional_embedding.device
    ids = _padded(rows, max(map(len, rows))).to(device)
    places = torch.tensor([row.index(max(row)) for row in rows])
    return read_at(tower, tower.token_embedding(ids), places.to(device))


def read_at(tower: CLIP | TextTransformer, embedded: Tensor, places: Tensor) -> Tensor:
    """Return features [K, features], not normalised, at ``places`` (int64 [K]) of embedded tokens [K, L, width]."""
    length = embedded.shape[1]
    states = embedded + tower.positional_embedding[:length].to(embedded.dtype)
    mask = None if tower.attn_mask is None else tower.attn_mask[:length, :length]
    return tower.ln_final(states_at(tower.transformer, states, places, mask)) @ tower.text_projection


def image_features(tower: VisionTransformer, images: Tensor) -> Tensor:
    """Return features [B, features] of normalised images [B, 3, H, W], not normalised."""
    tokens = tower.ln_pre(embedded_patches(tower, images))
    first = torch.zeros(len(tokens), dtype=torch.long, device=tokens.device)
    return tower.ln_post(states_at(tower.transformer, tokens, first)) @ tower.proj


def states_at(transformer: Any, tokens: Tensor, places: Tensor, mask: Tensor | None = None) -> Tensor:
    """Return the states [K, width] at ``places`` (int64 [K]) after all blocks, the last of which computes no others."""
    *blocks, last = transformer.resblocks
    for block in blocks:
        tokens = block(tokens, attn_mask=mask)
    rows, normed = torch.arange(len(tokens), device=tokens.device), last.ln_1(tokens)
    seen = None if mask is None else mask[places].to(normed.dtype)  # (K, L)
    query = normed[rows, places][:, None]
    attended, _ = last.attn(query, normed, normed, key_padding_mask=seen, need_weights=False)
    states = tokens[rows, places] + attended[:, 0]
    return states + last.mlp(last.ln_2(states))


def embedded_patches(tower: Any, images: Tensor, *, cls_twice: bool = False) -> Tensor:
    """Return a ViT's tokens [B, 1 + n, width] with positions, not yet normed; ``cls_twice`` adds the class twice."""
    patches = tower.conv1(images).flatten(2).transpose(1, 2)  # (B, n, width)
    tokens = torch.cat([tower.class_embedding.to(patches).expand(len(images), 1, -1), patches], dim=1)
    positions = tower.positional_embedding.to(tokens)
    if cls_twice:
        positions = torch.cat([positions[:1] + tower.class_embedding.to(tokens), positions[1:]])
    return tokens + positions


def values_only(block: Any, tokens: Tensor) -> Tensor:
    """Return tokens [B, N, width] plus what a block's attention adds if each token attends to itself alone."""
    width = block.attn.embed_dim
    weight, bias = block.attn.in_proj_weight[2 * width :], block.attn.in_proj_bias[2 * width :]
    return tokens + block.attn.out_proj(functional.linear(block.ln_1(tokens), weight, bias))


class FrozenText(nn.Module):
    """A frozen text tower that remembers the features of sentences it has read."""

    def __init__(self, towers: ClipTowers) -> None:
        super().__init__()
        self.towers = towers
        self.tower = text_tower(towers).requires_grad_(False)
        self._known: dict[str, Tensor] = {}
        self.register_load_state_dict_post_hook(lambda module, _: module._known.clear())

    def forward(self, sentences: Sequence[str]) -> Tensor:
        """Return features [K, features] of sentences, not normalised."""
        new = [sentence for sentence in dict.fromkeys(sentences) if sentence not in self._known]
        if new:
            # inference mode would mark the remembered features as unusable in training
            with torch.inference_mode(False), torch.no_grad():
                self._known.update(zip(new, text_features(self.tower, new, self.towers), strict=True))
        return torch.stack([self._known[sentence] for sentence in sentences]).to(self.tower.positional_embedding)

    def _apply(self, fn: Any, recurse: bool = True) -> FrozenText:
        self._known.clear()  # moved or cast: what is remembered would stay behind
        return super()._apply(fn, recurse)


def weights_file(weights: str, models: Mapping[str, str]) -> Path:
    """Return the file of base weights: recount's own, a path, or of a name in ``models`` (-> open_clip's model)."""
    if weights in models:
        from open_clip import download_pretrained, get_pretrained_cfg

        return Path(download_pretrained(get_pretrained_cfg(models[weights], weights)))
    own = shipped(f"{weights}.safetensors")
    return own if own.is_file() else Path(weights)


def named_towers(state: Mapping[str, Tensor], image: str, text: str) -> dict[str, Tensor]:
    """Return a CLIP state dict in float32 with the prefixes ``image`` and ``text``, without numbers beside them."""
    return {
        image + key.removeprefix("visual.") if key.startswith("visual.") else text + key: value.float()
        for key, value in state.items()
        if key not in NOT_A_TOWER
    }


def base_towers(
    weights: str, expected: Mapping[str, Tensor], image: str, text: str, grid: int | None = None
) -> dict[str, Tensor]:
    """Return the base weights of the towers (prefixes ``image`` and ``text``) in a state dict, checked strictly.

    ``weights`` are "openai" or "laion2b_s34b_b88k", "mini_towers", or the path of a CLIP state dict; positions are
    resized to ``grid`` x ``grid`` patches, or must fit (None).
    """
    path = weights_file(weights, VIT_B_16)
    state = named_towers(read_released(path), image, text)
    if grid is not None:
        place = f"{image}positional_embedding"
        state[place] = resized_positions(state[place], grid)
    towers = {key: value for key, value in expected.items() if key.startswith((image, text))}
    return renamed(state, str, towers, source=path)


def resized_positions(positions: Tensor, grid: int) -> Tensor:
    """Return a position embedding [1 + n*n, C] for ``grid`` x ``grid`` patches: bilinear, the class row kept."""
    edge = math.isqrt(len(positions) - 1)
    if edge == grid:
        return positions
    square = full_precision(positions[1:].T.unflatten(1, (edge, edge))[None])  # (1, C, edge, edge)
    square = functional.interpolate(square, (grid, grid), mode="bilinear", align_corners=False)
    return torch.cat([positions[:1], square[0].flatten(1).T.to(positions.dtype)])


@dataclass(frozen=True, slots=True)
class TextFeatures:
    """Features of sentences, float32 [K, features], not normalised, and how many parameters the tower has."""

    values: Tensor
    parameters: int


def tower_state(state: Mapping[str, Tensor], prefix: str = "") -> dict[str, Tensor]:
    """Return the text tower's part, in float32, of a CLIP state dict with ``prefix`` before each name."""
    names = {key: key.removeprefix(prefix) for key in state if key.startswith(prefix)}
    return {name: state[key].float() for key, name in names.items() if name.startswith(TEXT_KEYS)}


def encode(tower: TextTower, sentences: Sequence[str], state: Mapping[str, Tensor] | None = None) -> TextFeatures:
    """Return the features of sentences, with the weights ``state`` of a checkpoint, or with those of ``tower``.

    The latter are the same in every job of a system, so they are kept in the user's cache folder (RECOUNT_CACHE, if
    set), by a digest of all that they depend on. Weights that do not fit are a UserError.
    """
    if state is not None:
        return _encoded(tower, sentences, state, "the checkpoint")
    path = cache_folder() / "text_features" / f"{_digest(tower, sentences)}.safetensors"
    if path.is_file():
        stored = load_file(path)
        return TextFeatures(stored["values"], int(stored["parameters"]))
    weights = None if tower.weights == "random" else tower_state(read_tensors(Path(tower.weights)))
    features = _encoded(tower, sentences, weights, tower.weights)
    if features.values.is_meta:  # of a network without content
        return features
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    save_file({"values": features.values, "parameters": torch.tensor(features.parameters)}, temporary)
    temporary.replace(path)
    return features


def _encoded(
    tower: TextTower, sentences: Sequence[str], state: Mapping[str, Tensor] | None, source: str
) -> TextFeatures:
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(RANDOM_SEED)  # fork_rng puts back no GPU's
        network = build_tower(tower).eval()
    if state is not None:
        try:
            network.load_state_dict(dict(state))
        except RuntimeError as error:
            problem = " ".join(str(error).split())
            raise UserError(f"text tower from {source}: {problem}") from error
    with torch.no_grad():
        values = network(token_ids(sentences, ClipTowers()))
    return TextFeatures(values, sum(parameter.numel() for parameter in network.parameters()))


def _digest(tower: TextTower, sentences: Sequence[str]) -> str:
    """Return the digest of all that features depend on: tower, weights, sentences, and the versions that compute."""
    if tower.weights != "random" and not Path(tower.weights).is_file():
        raise UserError(f"{tower.weights}: no such file")
    weights = "random" if tower.weights == "random" else file_digest(Path(tower.weights))
    versions = [torch.__version__, version("open_clip_torch")]
    constants = [CONTEXT, BYTE_PAIRS, RANDOM_SEED]
    described = [{**tower.model_dump(), "weights": weights}, list(sentences), constants, versions]
    return text_digest(json.dumps(described, sort_keys=True))
