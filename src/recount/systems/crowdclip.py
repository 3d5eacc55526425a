"""CrowdCLIP: CLIP tuned to rank nested crops by crowdedness, without any label; counting by choosing a prompt.

Liang et al., "CrowdCLIP: Unsupervised Crowd Counting via Vision-Language Model", CVPR 2023. Crops, prompts, loss, test
and recipe were checked against dk-liang/CrowdCLIP@4751f65 (configs/qnrf.yaml), which lacks only the call that starts
training; the towers are open_clip's classes (MIT), base weights are OpenAI's CLIP ViT-B/16 (MIT).

Training: the six nested centre crops of a picture, small to large, should fit six prompts ("There are 20 persons in the
crowd" … 195) in that order; only the image tower learns. Test: a picture is cut into patches; the *untuned* CLIP keeps
those in which it sees a crowd, and then human heads; the tuned tower counts each kept patch as the number of its best
prompt. If no patch is kept, all are counted. So a count on UCF-QNRF is at least 20 and at most 3120.
With ``clip_weights: random``, as in suite mini, towers and sentences are random projections, the filter passes patches
by chance, and all that can be learnt is the ranking.

Pictures come with a longer edge of at most 2048 pixels and the heads of whole patches merged by pixel: preparation
``crowdclip`` (``recount.data.size_rules``).

Deviations: crops and patches are not saved as JPEG; the text tower's features replace the tower; RAdam is torch's.
"""

from collections.abc import Callable, Sequence
from copy import deepcopy
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional

from recount.errors import UserError
from recount.nn.clip import ClipTowers, TextTower, encode, image_tower, tower_state
from recount.nn.maps import cut_grid
from recount.nn.normalise import Normalise
from recount.nn.precision import full_precision
from recount.nn.weights import read_released, renamed
from recount.settings.base import Strict
from recount.settings.recipe import Optimiser, Recipe, Schedule
from recount.systems.base import READING, Batch, Example, Pool, Prediction, System
from recount.systems.clip_ebc import load_image_tower

OBJECTS = ("crowd", "tree", "car", "traffic light")
PARTS = ("human heads", "hands", "legs", "road", "house", "shadow of man")
PARTS_LOOKED_AT = 3
LOGIT_SCALE = 100.0


class CrowdClipSettings(Strict):
    """CrowdCLIP on UCF-QNRF; ShanghaiTech A has ``patches: 3``."""

    numbers: tuple[int, ...] = Field((20, 55, 90, 125, 160, 195), min_length=2, description="of the prompts, rising")
    patches: int = Field(4, gt=0, description="patches along an edge of a test picture")
    resized: int = Field(256, gt=0, description="edge that crops and patches are resized to, aspect not kept")
    input_size: int = Field(224, gt=0, description="edge of the part that the tower sees")
    patch: int = Field(16, gt=0)
    width: int = Field(768, gt=0)
    layers: int = Field(12, gt=0)
    heads: int = Field(12, gt=0)
    features: int = Field(512, gt=0)
    text_width: int = Field(512, gt=0)
    text_heads: int = Field(8, gt=0)
    text_layers: int = Field(12, gt=0)
    clip_weights: str = Field("random", description="path of CLIP ViT-B/16's state dict (image and text), or random")
    count_with: Literal["tuned", "untuned"] = Field(
        "tuned", description="untuned: what CLIP says without training", json_schema_extra=READING
    )

    @property
    def text(self) -> TextTower:
        """Return the text tower's sizes and weights."""
        sizes = {name: getattr(self, f"text_{name}") for name in ("width", "heads", "layers")}
        return TextTower(features=self.features, activation="quickgelu", weights=self.clip_weights, **sizes)

    @property
    def sentences(self) -> list[str]:
        """Return all prompts: numbers, objects, parts."""
        return [
            *(f"There are {number} persons in the crowd" for number in self.numbers),
            *(f"The object is {name}" for name in OBJECTS),
            *(f"The objects are {name}" for name in PARTS),
        ]


def _squeezed(pictures: Tensor, size: int) -> Tensor:
    # antialiased as Pillow's
    return functional.interpolate(pictures, (size, size), mode="bilinear", align_corners=False, antialias=True)


def nested_crops(image: Tensor, number: int) -> list[Tensor]:
    """Return the nested crops of a picture [3, H, W]: the i-th is 2 (i + 1) steps of 2 * ``number`` along each edge."""
    height, width = image.shape[1:]
    down, across = height // (2 * number), width // (2 * number)
    crops = []
    for half in range(1, number + 1):
        top, left = height // 2 - half * down, width // 2 - half * across
        crops.append(image[:, top : top + 2 * half * down, left : left + 2 * half * across])
    return crops


def crop_examples(settings: CrowdClipSettings, index: int, pool: Pool, rng: np.random.Generator) -> list[Example]:
    """Return one example; ``maps["crops"]`` has nested crops [K, 3, S, S], small to large."""
    crops, size = [], settings.input_size
    for crop in nested_crops(pool.image(index).float() / 255, len(settings.numbers)):
        crop = _squeezed(crop[None], settings.resized)[0]
        top, left = rng.integers(0, settings.resized - size + 1, 2)
        crop = crop[:, top : top + size, left : left + size]
        crops.append(crop.flip(2) if rng.random() < 0.5 else crop)
    return [Example(pool.samples[index].id, crops[-1], maps={"crops": torch.stack(crops)})]


def ranking_loss(logits: Tensor) -> Tensor:
    """Return the ranking loss of logits [..., K, K] of crops, small to large, by prompts: ``crowdclip_rank_loss``.

    The sum over i < j of max(0, logits[i, j] - logits[j, j]): a prompt must fit no smaller crop better than its own.
    """
    own = logits.diagonal(dim1=-2, dim2=-1).unsqueeze(-2)  # (..., 1, K)
    return (logits - own).clamp(min=0).triu(diagonal=1).sum(dim=(-2, -1))


class CrowdClip(System):
    """A tuned and an untuned image tower, and the features of all prompts."""

    number_features: Tensor
    object_features: Tensor
    part_features: Tensor
    numbers: Tensor
    Settings = CrowdClipSettings
    recipe = Recipe(
        epochs=100,
        batch_size=1,
        shuffle=False,
        optimiser=Optimiser(name="radam", lr=1e-6),
        schedule=Schedule(name="step_at", milestones=(60,), factor=0.1),
        precision="fp16",
        evaluate_every=1,
        select_by="mae",
    )
    examples = staticmethod(crop_examples)

    def __init__(self, settings: CrowdClipSettings, *, text: dict[str, Tensor] | None = None) -> None:
        super().__init__(settings)
        self.normalise = Normalise()
        sizes = {f"vision_{name}": getattr(settings, name) for name in ("width", "layers", "heads")}
        towers = ClipTowers(features=settings.features, image_size=settings.input_size, patch=settings.patch, **sizes)
        self.image_encoder = image_tower(towers)
        if settings.clip_weights != "random":
            load_image_tower(self.image_encoder, settings.clip_weights)
        self.untuned = deepcopy(self.image_encoder).requires_grad_(False)
        features = encode(settings.text, settings.sentences, text)
        self.frozen_text_parameters = features.parameters
        lengths = [len(settings.numbers), len(OBJECTS), len(PARTS)]
        for name, values in zip(("number", "object", "part"), features.values.split(lengths), strict=True):
            self.register_buffer(f"{name}_features", functional.normalize(values, dim=1))
        self.register_buffer("numbers", torch.tensor(settings.numbers, dtype=torch.float32), persistent=False)

    @classmethod
    def mini_settings(cls) -> dict[str, Any]:
        """Return a tower of two layers for inputs of 48 pixels, and prompts for thinner crowds."""
        return {
            "numbers": (1, 3, 6, 10, 15, 20),
            **{"resized": 56, "input_size": 48, "patch": 8, "width": 48, "layers": 2, "heads": 3, "features": 32},
            **{"text_width": 64, "text_heads": 1, "text_layers": 1},
        }

    def similarities(self, tower: nn.Module, inputs: Tensor, sentences: Tensor) -> Tensor:
        """Return 100 times the cosine [B, K] between inputs [B, 3, S, S] in [0, 1] and sentences' features [K, C]."""
        features = functional.normalize(full_precision(tower(self.normalise(inputs))), dim=1)
        return LOGIT_SCALE * features @ sentences.T

    def losses(self, batch: Batch) -> dict[str, Tensor]:
        """Return the ranking loss, averaged over pictures."""
        crops = batch.maps["crops"]  # (B, K, 3, S, S)
        logits = self.similarities(self.image_encoder, crops.flatten(0, 1), self.number_features)
        return {"ranking": ranking_loss(logits.unflatten(0, crops.shape[:2])).mean()}

    def patches(self, images: Tensor) -> Tensor:
        """Return the towers' inputs [B, P * P, 3, S, S] of images [B, 3, H, W], row by row."""
        number, size, resized = self.settings.patches, self.settings.input_size, self.settings.resized
        patches = _squeezed(cut_grid(images, number, number).flatten(0, 1), resized)
        start = (resized - size + 1) // 2
        inputs = patches[:, :, start : start + size, start : start + size]
        return inputs.unflatten(0, (len(images), number**2))

    def kept(self, inputs: Tensor) -> Tensor:
        """Return by progressive filtering which patches [B, N] of inputs [B, N, 3, S, S] are counted."""
        flat = inputs.flatten(0, 1)
        crowds = self.similarities(self.untuned, flat, self.object_features).argmax(dim=1) == OBJECTS.index("crowd")
        best = self.similarities(self.untuned, flat, self.part_features).topk(PARTS_LOOKED_AT, dim=1).indices
        passed = (crowds & (best == PARTS.index("human heads")).any(dim=1)).view(inputs.shape[:2])
        return passed | ~passed.any(dim=1, keepdim=True)

    def predict(self, images: Tensor, prompts: Sequence[str]) -> Prediction:
        """Return a density with one cell per patch; ``maps["kept"]`` is 1 where a patch passed the filter."""
        inputs = self.patches(images)
        kept = self.kept(inputs)  # (B, P * P)
        tower = self.image_encoder if self.settings.count_with == "tuned" else self.untuned
        choice = self.similarities(tower, inputs.flatten(0, 1), self.number_features).argmax(dim=1)
        counts = self.numbers[choice].view(kept.shape) * kept
        shape = (len(images), 1, self.settings.patches, self.settings.patches)
        return Prediction(density=counts.view(shape), maps={"kept": kept.float().view(shape)})

    @classmethod
    def import_checkpoint(cls, path: Path, settings: CrowdClipSettings) -> dict[str, Tensor]:
        """Read a released checkpoint, which holds the tuned tower only; the untuned one comes from ``clip_weights``."""
        if settings.clip_weights == "random":
            raise UserError(
                f"{path}: the filter needs the untuned CLIP, which the checkpoint does not hold: set clip_weights"
            )
        state = {key.removeprefix("module."): value for key, value in read_released(path).items()}
        own = cls(settings, text=tower_state(state, "text_encoder.")).state_dict()
        tuned = {key: value for key, value in own.items() if key.startswith("image_encoder.")}
        frozen = ("text_encoder.", "logit_scale")
        tower = renamed(state, lambda key: None if key.startswith(frozen) else key, tuned, source=path)
        return {**own, **tower}


SYSTEM = CrowdClip

EQUATIONS: dict[str, Callable[..., Any]] = {
    "nested crops": nested_crops,
    "ranking loss": ranking_loss,
    "progressive filtering": CrowdClip.kept,
}
