"""CLIP's text tower as a frozen maker of class features: tokens in, one feature vector per sentence out, once.

Radford et al., "Learning Transferable Visual Models From Natural Language Supervision" (2021), built with open_clip's
classes at any width and depth. Numbers checked against the tower of AdamHermes/GigaCount@d57191e in both activations,
and Yiming-M/CLIP-EBC@b52a594 (golden cases ``text_tower``, ``text_tower_1024``, ``prompts``).

The tower never trains, so a system keeps only its features (a buffer in its state dict) and the tower's parameter
count; a released checkpoint's own tower is read when the checkpoint is imported.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from recount.config import Strict
from recount.nn.weights import CheckpointError, read_tensors

if TYPE_CHECKING:
    from open_clip.transformer import TextTransformer

CONTEXT = 77
VOCABULARY = 49408
RANDOM_SEED = 0  # of a tower without trained weights: the same one whatever the seed of the run
# names of the text tower in a full CLIP state dict (open_clip, OpenAI) and in CLIP-EBC's and GigaCount's checkpoints
TEXT_KEYS = ("token_embedding.", "positional_embedding", "transformer.", "ln_final.", "text_projection")

Activation = Literal["gelu", "quickgelu"]


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


@dataclass(frozen=True, slots=True)
class TextFeatures:
    """Features of sentences, float32 [K, features], not normalised, and how many parameters the tower has."""

    values: Tensor
    parameters: int


def build_tower(tower: TextTower) -> TextTransformer:
    """Return the network with open_clip's initialisation."""
    from open_clip.transformer import QuickGELU, TextTransformer

    return TextTransformer(
        context_length=CONTEXT,
        vocab_size=VOCABULARY,
        width=tower.width,
        heads=tower.heads,
        layers=tower.layers,
        output_dim=tower.features,
        act_layer=QuickGELU if tower.activation == "quickgelu" else nn.GELU,
    )


@cache
def _tokenizer() -> object:
    from open_clip.tokenizer import SimpleTokenizer

    return SimpleTokenizer(context_length=CONTEXT)


def tokenize(sentences: Sequence[str]) -> Tensor:
    """Return CLIP's token ids, int64 [K, 77], padded with 0."""
    return _tokenizer()(list(sentences))  # type: ignore[operator]


def tower_state(state: Mapping[str, Tensor], prefix: str = "") -> dict[str, Tensor]:
    """Return the text tower's part of a CLIP state dict in float32 (its image part is left out).

    Args:
        state: OpenAI's or open_clip's names, with ``prefix`` before each.
        prefix: for instance ``text_encoder.``.
    """
    stripped = {key.removeprefix(prefix): value for key, value in state.items() if key.startswith(prefix)}
    return {key: value.float() for key, value in stripped.items() if key.startswith(TEXT_KEYS)}


def encode(tower: TextTower, sentences: Sequence[str], state: Mapping[str, Tensor] | None = None) -> TextFeatures:
    """Return the features of sentences.

    Args:
        tower: size, activation and, where ``state`` is None, weights.
        sentences: K of them.
        state: the tower's own weights, from a checkpoint.

    Raises:
        CheckpointError: the weights file cannot be read, or does not fit.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(RANDOM_SEED)
        network = build_tower(tower).eval()
    source = "the checkpoint" if state is not None else tower.weights
    if state is None and tower.weights != "random":
        state = tower_state(read_tensors(Path(tower.weights)))
    if state is not None:
        try:
            network.load_state_dict(dict(state))
        except RuntimeError as error:
            problem = " ".join(str(error).split())
            raise CheckpointError(f"text tower from {source}: {problem}") from error
    with torch.no_grad():
        values = network(tokenize(sentences))
    return TextFeatures(values, sum(parameter.numel() for parameter in network.parameters()))
