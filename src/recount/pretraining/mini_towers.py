"""Tiny CLIP towers, trained from nothing on captioned procedural scenes: what the text-guided systems start from.

Structure and loss are CLIP's (Radford et al., 2021) at a four-hundredth of ViT-B/16's size (``MINI_TOWERS``). Pictures
are the tiny Stable Diffusion's: coloured shapes of the training classes of ``shapes`` on clutter, car parks, blood
smears and dice. Captions are the sentences that CLIP-Count, VLCounter and CounTX say: a class's bare name, with "the",
or in one of VLCounter's templates. They never tell where anything is, or how many there are.

Two things differ from CLIP. A batch has 48 pictures of a few dozen classes and not 32,768 of the web, so a picture has
a caption for each class that it shows, captions that say the same are one, and pairs that fit share the target. And
half of the patches are hidden, as in FLIP (Li et al., CVPR 2023), which costs less and finds more: with all patches
shown, those of the ground came to hold what is elsewhere in the picture.

The colour-shape pairs of the `val` and `test` classes of ``shapes`` never occur.
"""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional

from recount.nn.clip import MINI_TOWERS, ClipTowers, image_tower, text_tower, token_ids, values_only
from recount.prediction.localisation import auc
from recount.pretraining.common import WEIGHTS, Budget, normalised, optimise, shared_loss, trained, turned, write_card
from recount.pretraining.mini_sd import Captioned, captioned_scene, picture_of_scene, unseen_scene
from recount.scenes import shapes as scenes
from recount.systems.vlcounter import TEMPLATES

SIZE = ClipTowers(**MINI_TOWERS)
SIDE = 96  # pixels of a scene
SENTENCES = ("{}", "{}", "the {}", "the {}", *TEMPLATES)
SYNONYMS = {scenes.CARS: (scenes.CARS, "car", "vehicles")}  # of CLIP-Count's and VLCounter's scripts for car parks
CLASSES = tuple(f"{colour} {shape}" for colour in scenes.COLOURS for shape in scenes.SHAPES)


class Plan(Budget):
    """How much is trained."""

    scenes: int = 3000
    steps: int = 800
    batch: int = 48
    lr: float = 2e-3
    warmup: int = 40
    weight_decay: float = 0.05
    hidden: float = Field(0.5, description="share of the patches that a picture is shown without, as in FLIP")


class TinyClip(nn.Module):
    """Both towers and the temperature of their cosines."""

    def __init__(self, hidden: float = 0.0) -> None:
        from open_clip.transformer import PatchDropout

        super().__init__()
        self.visual, self.text = image_tower(SIZE), text_tower(SIZE)
        self.visual.patch_dropout = PatchDropout(hidden)
        self.logit_scale = nn.Parameter(torch.tensor(math.log(1 / 0.07)))

    def encode_image(self, images: Tensor) -> Tensor:
        """Return features of unit length [B, features] of images uint8 [B, 3, H, W]; training hides patches."""
        return functional.normalize(self.visual(small(images)), dim=-1)

    def encode_text(self, sentences: Sequence[str]) -> Tensor:
        """Return features of unit length [K, features]."""
        return functional.normalize(self.text(token_ids(sentences, SIZE)), dim=-1)

    def clip_state(self) -> dict[str, Tensor]:
        """Return the state dict under CLIP's names."""
        image = {f"visual.{key}": value for key, value in self.visual.state_dict().items()}
        return {**image, **self.text.state_dict(), "logit_scale": self.logit_scale.detach()}


def small(images: Tensor) -> Tensor:
    """Return uint8 images as the image tower sees them, float32, normalised and of its size."""
    size = (SIZE.image_size, SIZE.image_size)
    return functional.interpolate(normalised(images), size, mode="bilinear", align_corners=False, antialias=True)


def sentence(name: str, rng: np.random.Generator) -> str:
    """Return one of the sentences that systems say about a class."""
    words = SYNONYMS.get(name, (name,))
    return SENTENCES[int(rng.integers(len(SENTENCES)))].format(words[int(rng.integers(len(words)))])


def train(plan: Plan, seed: int) -> TinyClip:
    """Train the towers contrastively; the same seed gives the same weights on one machine."""
    torch.manual_seed(seed)
    every = [captioned_scene(index, seed, SIDE) for index in range(plan.scenes)]
    drawn = [scene for scene in every if scene.classes]  # a car park may be empty
    model = TinyClip(plan.hidden)
    optimise(model, plan, lambda step: _batch_loss(model, drawn, plan, np.random.default_rng([seed, 91, step])))
    return model.eval()


def _batch_loss(model: TinyClip, drawn: Sequence[Captioned], plan: Plan, rng: np.random.Generator) -> Tensor:
    chosen = [drawn[int(place)] for place in rng.choice(len(drawn), plan.batch, replace=False)]
    names = sorted({name for scene in chosen for name in scene.classes})
    fits = torch.tensor([[name in scene.classes for name in names] for scene in chosen])
    pictures = turned(torch.stack([scene.image for scene in chosen]), rng)
    text = model.encode_text([sentence(name, rng) for name in names])
    return shared_loss(model.logit_scale.exp() * model.encode_image(pictures) @ text.T, fits)


@torch.no_grad()
def class_features(model: TinyClip) -> dict[str, Tensor]:
    """Return the text of each of the 64 colour-shape pairs, of unit length: the mean of its sentences."""
    text = {name: model.encode_text([each.format(name) for each in dict.fromkeys(SENTENCES)]) for name in CLASSES}
    return {name: functional.normalize(features.mean(dim=0), dim=0) for name, features in text.items()}


@torch.no_grad()
def patch_features(model: TinyClip, images: Tensor) -> Tensor:
    """Return features [B, n, features] of patches, unit length; the last block passes on values only, as VLCounter."""
    tower: Any = model.visual
    tokens = tower._embeds(small(images))
    *blocks, last = tower.transformer.resblocks
    for block in blocks:
        tokens = block(tokens)
    return functional.normalize(tower.ln_post(values_only(last, tokens))[:, 1:] @ tower.proj, dim=-1)


@torch.no_grad()
def quality(model: TinyClip, seed: int, count: int = 100) -> dict[str, float]:
    """Return how well classes that pretraining never showed are recognised and found in ``count`` unseen scenes.

    "recognised": the nearest of 64 class names is one of the scene's. "patch_auc": mean over "pairs" of scene and class
    of the area under the curve of the patches' similarity to the text, for the class's visible pixels (chance: 0.5).
    """
    model.eval()
    text = class_features(model)
    table, recognised, chance, areas = torch.stack(list(text.values())), [], [], []
    for index in range(count):
        scene = unseen_scene(index, seed)
        image = picture_of_scene(scene)[None]
        found = CLASSES[int((model.encode_image(image) @ table.T).argmax())]
        recognised.append(found in scene.counts())
        chance.append(len(scene.counts()) / len(CLASSES))
        patches = patch_features(model, image).unflatten(1, (SIZE.grid, SIZE.grid))
        for name in scene.counts():
            mask = scene.mask(name)
            if mask.any():
                similarity = (patches @ text[name])[:, None]
                large = functional.interpolate(similarity, size=mask.shape, mode="bilinear", align_corners=False)
                areas.append(auc(large[0, 0].numpy(), mask))
    return {
        "recognised": float(np.mean(recognised)),
        "recognised_chance": float(np.mean(chance)),
        "patch_auc": float(np.mean(areas)),
        "pairs": len(areas),
        "scenes": count,
    }


def pretrain(folder: Path = WEIGHTS, plan: Plan | None = None, seed: int = 0) -> dict[str, Any]:
    """Train the towers, write their weights (half precision) and their card into ``folder``; return the card."""
    model, numbers = trained("mini_towers", train, TinyClip.clip_state, plan or Plan(), seed, folder)
    torch.manual_seed(seed)
    untrained = TinyClip()
    card = {
        "licence": "MIT (made by recount from its own drawings)",
        **numbers,
        "quality": quality(model, seed),
        "quality_random": quality(untrained, seed),
        "clip": SIZE.model_dump(mode="json"),
    }
    return write_card(folder, card)
