"""A tiny CLIP, trained from nothing on captioned procedural scenes: what CountCLIP starts from in suite mini.

Structure and loss are CLIP's (Radford et al., 2021) at about a million parameters. A scene shows one or two kinds of
coloured shapes. Most captions use a vague quantity ("a few", "many"), the others only name the shapes; none has a
number word, so that what fine-tuning teaches of them is told from what was known before.

Two things differ from CLIP, both because a batch has 96 captions of a small vocabulary and not 32,768 of the web. A
batch holds several scenes of each of its classes: where the class alone tells a batch's pictures apart, nothing is
learnt of how many there are. And captions that say the same share the target (``shared_caption_loss``): "some red
circles" beside three pictures of red circles is no error.
"""

from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from recount.nn.clip import ClipSize, build_clip, token_ids
from recount.pretraining.common import WEIGHTS, Budget, normalised, optimise, shared_loss, trained, turned, write_card
from recount.scenes import captions
from recount.scenes.captions import CLASSES, EDGE, Shapes, draw_shapes
from recount.systems.countclip import NUMBERS, WORD_OF, nine_captions

SIZE = ClipSize(
    **{"embed_dim": 64, "image_size": EDGE, "patch": 15, "vision_width": 112, "vision_layers": 4},
    **{"vision_head_width": 28, "text_width": 96, "text_heads": 3, "text_layers": 3},
    **{"context": 14, "vocabulary": captions.VOCABULARY},
)


class Plan(Budget):
    """How much is trained, and what captions say."""

    scenes: int = 3000
    steps: int = 1200
    batch: int = 96
    per_class: tuple[int, ...] = (16, 4)  # scenes in a batch, by turns: many teach quantities, few teach classes
    lr: float = 1.5e-3
    warmup: int = 60
    weight_decay: float = 0.05
    vague_words: float = 0.8


def caption(shapes: Shapes, rng: np.random.Generator, plan: Plan) -> str:
    """Return a caption of a scene: its classes, the main one with a vague quantity as often as ``plan`` says."""
    vague = rng.random() < plan.vague_words
    quantity = captions.vague_quantity(shapes.counts[shapes.main], rng) if vague else ""
    return captions.sentence(shapes, quantity, rng)


def pictures_of(shown: Sequence[Shapes]) -> Tensor:
    """Return the pictures of scenes, uint8 [N, 3, H, W]."""
    return torch.stack([torch.from_numpy(np.asarray(each.scene.render()).copy()).permute(2, 0, 1) for each in shown])


def train(plan: Plan, seed: int) -> nn.Module:
    """Train the tiny CLIP contrastively; the same seed gives the same weights on one machine."""
    torch.manual_seed(seed)
    drawn = [draw_shapes(np.random.default_rng([seed, 81, index])) for index in range(plan.scenes)]
    images = pictures_of(drawn)
    model = build_clip(SIZE)

    def loss_of(step: int) -> Tensor:
        return _batch_loss(model, drawn, images, plan, step, np.random.default_rng([seed, 82, step]))

    optimise(model, plan, loss_of)
    return model.eval()


def _batch_loss(
    model: Any, drawn: Sequence[Shapes], images: Tensor, plan: Plan, step: int, rng: np.random.Generator
) -> Tensor:
    chosen = _chosen(drawn, plan, step, rng)
    texts = [caption(drawn[int(index)], rng, plan) for index in chosen]
    pictures = turned(images[torch.from_numpy(chosen)], rng)
    image = model.encode_image(normalised(pictures), normalize=True)
    text = model.encode_text(token_ids(texts, SIZE), normalize=True)
    return shared_caption_loss(model.logit_scale.exp() * image @ text.T, [meaning(each) for each in texts])


def shared_caption_loss(logits: Tensor, meanings: Sequence[frozenset[str]]) -> Tensor:
    """Return ``shared_loss`` with the target shared by captions that mean the same; where all differ, CLIP's loss."""
    same = torch.tensor([[one == other for other in meanings] for one in meanings], device=logits.device)
    return shared_loss(logits, same)


def meaning(text: str) -> frozenset[str]:
    """Return the parts of a caption without its opening ("a photo of"), in no order."""
    opening = next(each for each in sorted(captions.OPENINGS, key=len, reverse=True) if text.startswith(each))
    return frozenset(text.removeprefix(opening).strip().split(" and "))


def _chosen(drawn: Sequence[Shapes], plan: Plan, step: int, rng: np.random.Generator) -> np.ndarray:
    """Return the places of a batch's scenes: several of each of some classes, so that quantities tell them apart."""
    by_class = _by_class(tuple(scene.main for scene in drawn))
    per_class = plan.per_class[step % len(plan.per_class)]
    names = rng.choice(len(by_class), plan.batch // per_class, replace=False)
    return np.concatenate([rng.choice(by_class[int(name)], per_class, replace=False) for name in names])


@cache
def _by_class(mains: tuple[str, ...]) -> list[np.ndarray]:
    return [np.array([place for place, main in enumerate(mains) if main == name]) for name in sorted(set(mains))]


@torch.no_grad()
def retrieval_accuracy(model: Any, seed: int) -> float:
    """Return how often the nearest of 64 class names is that of an unseen scene's main class (chance: 1/64)."""
    text = model.encode_text(token_ids(CLASSES, SIZE), normalize=True)
    hits = 0
    for repeat in range(4):
        shown = [draw_shapes(np.random.default_rng([seed, 83, repeat, n]), name) for n, name in enumerate(CLASSES)]
        image = model.encode_image(normalised(pictures_of(shown)), normalize=True)
        hits += int((image @ text.T).argmax(dim=1).eq(torch.arange(len(CLASSES))).sum())
    return hits / (4 * len(CLASSES))


@torch.no_grad()
def counting_accuracy(model: Any, seed: int, per_number: int = 100) -> float:
    """Return how often the nearest of nine captions names the number of an unseen scene (chance: 1/9)."""
    hits = 0
    for number in NUMBERS:
        rngs = [np.random.default_rng([seed, 84, number, index]) for index in range(per_number)]
        shown = [draw_shapes(rng, number=number) for rng in rngs]
        image = model.encode_image(normalised(pictures_of(shown)), normalize=True)
        nine = [text for each in shown for text in nine_captions(f"{WORD_OF[number]} {each.main}", number, None)]
        text = model.encode_text(token_ids(nine, SIZE), normalize=True).unflatten(0, (-1, len(NUMBERS)))  # (B, 9, D)
        hits += int((text @ image[:, :, None])[..., 0].argmax(dim=1).eq(number - 2).sum())
    return hits / (per_number * len(NUMBERS))


@torch.no_grad()
def regression_accuracy(model: Any, seed: int, scenes: int = 1200) -> float:
    """Return how often a line that is fitted to picture features rounds to an unseen scene's number (chance: 1/10)."""
    shown = [draw_shapes(np.random.default_rng([seed, 85, index])) for index in range(scenes)]
    numbers = np.array([each.counts[each.main] for each in shown], dtype=float)
    features = model.encode_image(normalised(pictures_of(shown)), normalize=True).double().numpy()
    features = np.column_stack([features, np.ones(scenes)])
    fitted = scenes * 2 // 3
    line, *_ = np.linalg.lstsq(features[:fitted], numbers[:fitted], rcond=None)
    return float(np.mean(np.rint(features[fitted:] @ line) == numbers[fitted:]))


def pretrain(folder: Path = WEIGHTS, plan: Plan | None = None, seed: int = 0) -> dict[str, Any]:
    """Train the tiny CLIP, write its weights (half precision) and its card into ``folder``; return the card."""
    plan = plan or Plan()
    model, numbers = trained("mini_clip", train, nn.Module.state_dict, plan, seed, folder)
    card = {
        "licence": "MIT (made by recount)",
        "data": (
            f"{plan.scenes} procedural scenes of {EDGE} x {EDGE} pixels: one to ten coloured shapes of a main class, "
            "evenly, and in one of five scenes one to three of a second class"
        ),
        "captions": (
            f"names of the classes, {plan.vague_words:.0%} with a vague quantity, none with a number word; a batch of "
            f"{plan.batch} has, by turns, {' or '.join(str(each) for each in plan.per_class)} scenes of a class"
        ),
        "steps_done": plan.steps,
        **numbers,
        "quality": quality(model, seed),
        "clip": SIZE.model_dump(mode="json"),
    }
    return write_card(folder, card)


def quality(model: nn.Module, seed: int) -> dict[str, float]:
    """Return retrieval, regression and counting accuracy on unseen scenes, with chance levels and numbers of scenes."""
    return {
        "retrieval_accuracy_64_classes": retrieval_accuracy(model, seed),
        "retrieval_chance": 1 / len(CLASSES),
        "retrieval_scenes": 4 * len(CLASSES),
        "regression_accuracy": regression_accuracy(model, seed),
        "regression_chance": 1 / captions.MOST,
        "regression_scenes": 400,
        "counting_accuracy_before_fine_tuning": counting_accuracy(model, seed),
        "counting_chance": 1 / len(NUMBERS),
        "counting_scenes": 100 * len(NUMBERS),
    }
