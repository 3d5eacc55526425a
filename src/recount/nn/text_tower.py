"""CLIP's text tower as a frozen maker of class features: tokens in, one feature vector per sentence out, once.

Radford et al., "Learning Transferable Visual Models From Natural Language Supervision" (2021), built with open_clip's
classes at any width and depth. Numbers checked against the tower of AdamHermes/GigaCount@d57191e in both activations,
and Yiming-M/CLIP-EBC@b52a594 (golden cases ``text_tower``, ``text_tower_1024``, ``prompts``).

The tower never trains, so a system keeps only its features (a buffer in its state dict) and the tower's parameter
count; a released checkpoint's own tower is read when the checkpoint is imported.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import torch
from platformdirs import user_cache_path
from pydantic import Field
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from recount.nn.weights import CheckpointError, read_tensors
from recount.results.files import file_digest, text_digest
from recount.settings.base import Strict

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

    Without ``state`` they are the same in every job of a system, so they are kept in the user's cache folder
    (RECOUNT_CACHE, if set), by a digest of all that they depend on.

    Args:
        tower: size, activation and, where ``state`` is None, weights.
        sentences: K of them.
        state: the tower's own weights, from a checkpoint.

    Raises:
        CheckpointError: the weights file cannot be read, or does not fit.
    """
    if state is not None:
        return _encoded(tower, sentences, state, "the checkpoint")
    path = _cache_folder() / f"{_digest(tower, sentences)}.safetensors"
    if path.is_file():
        stored = load_file(path)
        return TextFeatures(stored["values"], int(stored["parameters"]))
    weights = None if tower.weights == "random" else tower_state(read_tensors(Path(tower.weights)))
    features = _encoded(tower, sentences, weights, tower.weights)
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
            raise CheckpointError(f"text tower from {source}: {problem}") from error
    with torch.no_grad():
        values = network(tokenize(sentences))
    return TextFeatures(values, sum(parameter.numel() for parameter in network.parameters()))


def _cache_folder() -> Path:
    given = os.environ.get("RECOUNT_CACHE")
    return (Path(given) if given else user_cache_path("recount")) / "text_features"


def _digest(tower: TextTower, sentences: Sequence[str]) -> str:
    """Return the digest of all that features depend on: tower, weights, sentences, and the versions that compute."""
    if tower.weights != "random" and not Path(tower.weights).is_file():
        raise CheckpointError(f"{tower.weights}: no such file")
    weights = "random" if tower.weights == "random" else file_digest(Path(tower.weights))
    described = [
        {**tower.model_dump(), "weights": weights},
        list(sentences),
        [CONTEXT, VOCABULARY, RANDOM_SEED],
        [torch.__version__, version("open_clip_torch")],
    ]
    return text_digest(json.dumps(described, sort_keys=True))
