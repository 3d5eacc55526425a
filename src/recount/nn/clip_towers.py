"""CLIP's two towers, separately and at any size, for systems that read other layers or other positions than CLIP does.

Radford et al., "Learning Transferable Visual Models From Natural Language Supervision" (2021); the networks are
open_clip's (MIT), with OpenAI's or open_clip's weights. Used by CLIP-Count, VLCounter and CounTX.
"""

from __future__ import annotations

import math
from argparse import Namespace
from collections.abc import Mapping, Sequence
from functools import cache
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional

from recount.errors import UserError
from recount.nn.weights import CheckpointError, read_tensors
from recount.settings.base import Strict

if TYPE_CHECKING:
    from open_clip.transformer import TextTransformer, VisionTransformer

CLIP_MEAN = (0.48145466, 0.4578275, 0.40821073)
CLIP_STD = (0.26862954, 0.26130258, 0.27577711)
BYTE_PAIRS = 49408
# what open_clip calls the model whose weights have that name
DOWNLOADS = {"openai": "ViT-B-16-quickgelu", "laion2b_s34b_b88k": "ViT-B-16"}
MINI_WEIGHTS = "mini_towers"  # come with recount and fit MINI_TOWERS; other values of ``weights`` are paths
NOT_A_TOWER = ("logit_scale", "input_resolution", "context_length", "vocab_size", "attn_mask")


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
    context: int = Field(77, gt=2, description="tokens of a prompt, start and end included")
    vocabulary: tuple[str, ...] | None = Field(None, description="words of a word tokenizer; null: CLIP's byte pairs")
    activation: Literal["quickgelu", "gelu"] = Field("quickgelu", description="LAION's CLIP was trained with gelu")

    @property
    def grid(self) -> int:
        """Return the patches along an edge."""
        return self.image_size // self.patch


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


class PromptError(UserError):
    """A prompt cannot be read; the message quotes it and says what is allowed."""


def _activation(towers: ClipTowers) -> type[nn.Module]:
    from open_clip.transformer import QuickGELU

    return QuickGELU if towers.activation == "quickgelu" else nn.GELU


def image_tower(towers: ClipTowers) -> VisionTransformer:
    """Return open_clip's ViT with random weights."""
    from open_clip.transformer import VisionTransformer

    return VisionTransformer(
        image_size=towers.image_size,
        patch_size=towers.patch,
        width=towers.vision_width,
        layers=towers.vision_layers,
        heads=towers.vision_heads,
        mlp_ratio=4.0,
        output_dim=towers.features,
        act_layer=_activation(towers),
    )


def text_tower(towers: ClipTowers) -> TextTransformer:
    """Return open_clip's text transformer with random weights."""
    from open_clip.transformer import TextTransformer

    return TextTransformer(
        context_length=towers.context,
        vocab_size=BYTE_PAIRS if towers.vocabulary is None else len(towers.vocabulary) + 3,
        width=towers.text_width,
        heads=towers.text_heads,
        layers=towers.text_layers,
        output_dim=towers.features,
        act_layer=_activation(towers),
    )


# -------------------------------------------------------------------------------------------------------------- tokens


@cache
def _byte_pairs(context: int) -> Any:
    from open_clip.tokenizer import SimpleTokenizer

    return SimpleTokenizer(context_length=context)


def token_ids(prompts: Sequence[str], towers: ClipTowers) -> Tensor:
    """Return token ids, int64 [K, context]: start, prompt, end (the highest id), zeros.

    Raises:
        PromptError: a prompt has no words, or words that a word vocabulary lacks.
    """
    for prompt in prompts:
        if not prompt.strip():
            raise PromptError("a prompt is empty: a text-guided system needs the name of what to count")
    if towers.vocabulary is None:
        return _byte_pairs(towers.context)(list(prompts))
    ids = {word: index for index, word in enumerate(towers.vocabulary, start=1)}
    rows = torch.zeros(len(prompts), towers.context, dtype=torch.long)
    for row, prompt in zip(rows, prompts, strict=True):
        words = prompt.lower().replace(",", " ").replace(".", " ").split()[: towers.context - 2]
        unknown = sorted(set(words) - set(ids))
        if unknown:
            raise PromptError(
                f"prompt {prompt[:200]!r}: the tiny text tower does not know {', '.join(unknown)}; it knows: "
                f"{', '.join(ids)}. Use these words, or CLIP's byte pairs (clip: {{vocabulary: null}})"
            )
        row[: len(words) + 2] = torch.tensor([len(ids) + 1, *(ids[word] for word in words), len(ids) + 2])
    return rows


def read_at(tower: TextTransformer, embedded: Tensor, places: Tensor) -> Tensor:
    """Run a text tower on embedded tokens and read it out.

    Args:
        tower: open_clip's.
        embedded: [K, L, width], without positions, L at most the tower's context.
        places: int64 [K], the position that is read out of each row.

    Returns:
        Features [K, features], not normalised.
    """
    length = embedded.shape[1]
    states = embedded + tower.positional_embedding[:length].to(embedded.dtype)
    mask = None if tower.attn_mask is None else tower.attn_mask[:length, :length]
    states = tower.ln_final(tower.transformer(states, attn_mask=mask))
    return states[torch.arange(len(states), device=states.device), places] @ tower.text_projection


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
            device = self.tower.positional_embedding.device
            # inference mode would mark the remembered features as unusable in training
            with torch.inference_mode(False), torch.no_grad():
                self._known.update(zip(new, self.tower(token_ids(new, self.towers).to(device)), strict=True))
        return torch.stack([self._known[sentence] for sentence in sentences]).to(self.tower.positional_embedding)

    def _apply(self, fn: Any, recurse: bool = True) -> FrozenText:
        self._known.clear()  # moved or cast: what is remembered would stay behind
        return super()._apply(fn, recurse)


# ------------------------------------------------------------------------------------------------------------- weights


def base_weights(weights: str) -> tuple[dict[str, Tensor], str]:
    """Return a CLIP state dict in float32 and where it is from.

    Args:
        weights: a name of ``DOWNLOADS``, which open_clip fetches, "mini_towers", which come with recount, or the path
            of a state dict.

    Raises:
        CheckpointError: the file cannot be read.
    """
    path = Path(weights)
    if weights in DOWNLOADS:
        from open_clip import download_pretrained, get_pretrained_cfg

        path = Path(download_pretrained(get_pretrained_cfg(DOWNLOADS[weights], weights)))
    elif weights == MINI_WEIGHTS:
        path = Path(str(resources.files("recount") / f"pretraining/weights/{MINI_WEIGHTS}.safetensors"))
    content = read_tensors(path)
    state = content.get("state_dict", content)
    return {key: value.float() for key, value in state.items() if key not in NOT_A_TOWER}, str(path)


def tower_keys(state: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Return the image tower's and the text tower's part of a CLIP state dict, under the towers' own names."""
    image = {key.removeprefix("visual."): value for key, value in state.items() if key.startswith("visual.")}
    text = {key: value for key, value in state.items() if not key.startswith("visual.") and key not in NOT_A_TOWER}
    return image, text


def resized_positions(positions: Tensor, grid: int) -> Tensor:
    """Return a position embedding [1 + n*n, C] for ``grid`` x ``grid`` patches: bilinear, the class row kept."""
    edge = math.isqrt(len(positions) - 1)
    if edge == grid:
        return positions
    square = positions[1:].T.unflatten(1, (edge, edge))[None].float()  # (1, C, edge, edge)
    square = functional.interpolate(square, (grid, grid), mode="bilinear", align_corners=False)
    return torch.cat([positions[:1], square[0].flatten(1).T.to(positions.dtype)])


def read_released(path: Path) -> dict[str, Any]:
    """Return the content of a training script's checkpoint, which may hold the script's arguments beside the tensors.

    Raises:
        CheckpointError: the file cannot be read, or is not a dictionary.
    """
    with torch.serialization.safe_globals([Namespace]):
        content = read_tensors(path)
    if not isinstance(content, dict):
        raise CheckpointError(f"{path}: not a dictionary of tensors but {type(content).__name__}")
    return content
