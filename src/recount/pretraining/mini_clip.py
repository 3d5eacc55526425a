"""A tiny CLIP, trained from nothing on captioned procedural scenes: what CountCLIP starts from in suite mini.

Structure and loss are CLIP's (Radford et al., 2021) at about a million parameters. A scene shows one or two kinds of
coloured shapes. Of numbers a caption says little: most use a vague quantity ("a few", "many"), ``Plan.number_words`` of
them a number word, which is right in ``Plan.right_words`` of the cases and else any, and the rest only name the shapes.
A batch holds several scenes of each of its classes: where the class alone tells a batch's pictures apart, nothing is
learnt of how many there are. The card beside the weights says how well the tiny CLIP retrieves unseen scenes, and how
it counts before fine-tuning.
"""

from __future__ import annotations

import json
import logging
import math
import time
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from recount.config import Strict
from recount.data.captioned_scenes import (
    CLASSES,
    EDGE,
    MOST,
    NUMBER_WORDS,
    VOCABULARY,
    Shapes,
    draw_shapes,
    sentence,
    vague_quantity,
)
from recount.systems.countclip import (
    CLIP_MEAN,
    CLIP_STD,
    NUMBERS,
    WORD_OF,
    ClipSize,
    build_clip,
    clip_loss,
    nine_captions,
    token_ids,
)

log = logging.getLogger(__name__)

WEIGHTS = Path(__file__).parent / "weights"

SIZE = ClipSize(
    embed_dim=64,
    image_size=EDGE,
    patch=15,
    vision_width=112,
    vision_layers=4,
    vision_head_width=28,
    text_width=96,
    text_heads=3,
    text_layers=3,
    context=14,
    vocabulary=VOCABULARY,
)


class Plan(Strict):
    """How much is trained, and what captions say."""

    scenes: int = 3000
    steps: int = 800
    batch: int = 96
    per_class: int = 6
    lr: float = 2e-3
    warmup: int = 60
    weight_decay: float = 0.05
    vague_words: float = 0.7
    number_words: float = 0.2
    right_words: float = 0.5


def caption(shapes: Shapes, rng: np.random.Generator, plan: Plan) -> str:
    """Return a caption of a scene: its classes, the main one with a quantity as ``plan`` says."""
    number = shapes.counts[shapes.main]
    draw = rng.random()
    quantity = ""
    if draw < plan.vague_words:
        quantity = vague_quantity(number, rng)
    elif draw < plan.vague_words + plan.number_words:
        said = number if rng.random() < plan.right_words else int(rng.integers(1, MOST + 1))
        quantity = NUMBER_WORDS[said - 1]
    return sentence(shapes, quantity, rng)


# ------------------------------------------------------------------------------------------------------------ training


def pictures_of(shown: Sequence[Shapes]) -> Tensor:
    """Return the pictures of scenes, uint8 [N, 3, H, W]."""
    return torch.stack([torch.from_numpy(np.asarray(each.picture()).copy()).permute(2, 0, 1) for each in shown])


def normalised(images: Tensor) -> Tensor:
    """Return uint8 images as CLIP's towers see them, float32."""
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in (CLIP_MEAN, CLIP_STD))
    return (images.float() / 255 - mean) / std


def train(plan: Plan, seed: int) -> nn.Module:
    """Train the tiny CLIP contrastively; the same seed gives the same weights on one machine."""
    torch.manual_seed(seed)
    drawn = [draw_shapes(np.random.default_rng([seed, 81, index])) for index in range(plan.scenes)]
    images = pictures_of(drawn)
    model = build_clip(SIZE)
    decayed = [parameter for parameter in model.parameters() if parameter.ndim > 1]
    others = [parameter for parameter in model.parameters() if parameter.ndim <= 1]
    groups: list[dict[str, Any]] = [{"params": decayed}, {"params": others, "weight_decay": 0.0}]
    optimiser = torch.optim.AdamW(groups, lr=plan.lr, weight_decay=plan.weight_decay, betas=(0.9, 0.98))
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimiser, plan.lr, total_steps=plan.steps, pct_start=plan.warmup / plan.steps
    )
    for step in range(plan.steps):
        rng = np.random.default_rng([seed, 82, step])
        loss = _batch_loss(model, drawn, images, plan, rng)
        optimiser.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimiser.step()
        schedule.step()
        with torch.no_grad():
            model.logit_scale.clamp_(max=math.log(100))
        if step % 50 == 0:
            log.info("mini_clip step %d: loss %.4f", step, loss.item())
    return model.eval()


def _batch_loss(model: Any, drawn: Sequence[Shapes], images: Tensor, plan: Plan, rng: np.random.Generator) -> Tensor:
    chosen = _chosen(drawn, plan, rng)
    captions = [caption(drawn[int(index)], rng, plan) for index in chosen]
    pictures = torch.rot90(images[torch.from_numpy(chosen)], int(rng.integers(4)), (2, 3))
    if rng.random() < 0.5:
        pictures = pictures.flip(-1)
    features = model.encode_image(normalised(pictures))
    return clip_loss(features, model.encode_text(token_ids(captions, SIZE)), model.logit_scale)


def _chosen(drawn: Sequence[Shapes], plan: Plan, rng: np.random.Generator) -> np.ndarray:
    """Return the places of a batch's scenes: ``per_class`` of each of some classes, so that quantities tell them apart.

    With scenes drawn at random, the class alone names the picture, and nothing is learned of how many there are.
    """
    by_class = _by_class(tuple(scene.main for scene in drawn))
    names = rng.choice(len(by_class), plan.batch // plan.per_class, replace=False)
    return np.concatenate([rng.choice(by_class[int(name)], plan.per_class, replace=False) for name in names])


@cache
def _by_class(mains: tuple[str, ...]) -> list[np.ndarray]:
    """Return the places of the scenes of each main class."""
    return [np.array([place for place, main in enumerate(mains) if main == name]) for name in sorted(set(mains))]


# ------------------------------------------------------------------------------------------------------------- quality


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


def pretrain(folder: Path = WEIGHTS, plan: Plan | None = None, seed: int = 0) -> dict[str, Any]:
    """Train the tiny CLIP, write its weights (half precision) and its card into ``folder``; return the card."""
    plan = plan or Plan()
    started = time.process_time()
    model = train(plan, seed)
    return publish(model, folder, plan, seed, steps=plan.steps, seconds=time.process_time() - started)


def publish(model: nn.Module, folder: Path, plan: Plan, seed: int, *, steps: int, seconds: float) -> dict[str, Any]:
    """Write a trained tiny CLIP, in half precision, and its card; return the card.

    Args:
        model: the network; its weights are rounded to half precision, which the measured quality is of.
        folder: gets ``mini_clip.safetensors``, ``mini_clip.json`` and ``mini_clip.md``.
        plan: how it was trained.
        seed: of the training and of the scenes that quality is measured on.
        steps: of training that were done.
        seconds: of processor time that they took.
    """
    model = model.half().float().eval()
    folder.mkdir(parents=True, exist_ok=True)
    save_file({key: value.half() for key, value in model.state_dict().items()}, folder / "mini_clip.safetensors")
    card = {
        "name": "mini_clip",
        "command": "recount pretrain mini_clip",
        "licence": "MIT (made by recount)",
        **described(plan),
        "plan": plan.model_dump(),
        "steps_done": steps,
        "seed": seed,
        "torch": torch.__version__,
        "cpu_seconds": round(seconds),
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
        "quality": quality(model, seed),
        "clip": SIZE.model_dump(mode="json"),
    }
    (folder / "mini_clip.json").write_text(json.dumps(card, indent=1) + "\n", encoding="utf-8")
    (folder / "mini_clip.md").write_text(_as_text(card), encoding="utf-8")
    return card


def described(plan: Plan) -> dict[str, str]:
    """Return what the card says of pictures and captions."""
    return {
        "data": (
            f"{plan.scenes} procedural scenes of {EDGE} x {EDGE} pixels: one to ten coloured shapes of a main class, "
            "evenly, and in one of five scenes one to three of a second class"
        ),
        "captions": (
            f"names of the classes; {plan.vague_words:.0%} with a vague quantity, {plan.number_words:.0%} with a word "
            f"for the number, right in {plan.right_words:.0%} of the cases and else any of one to ten; a batch has "
            f"{plan.per_class} scenes of each of {plan.batch // plan.per_class} classes"
        ),
    }


def quality(model: nn.Module, seed: int) -> dict[str, float]:
    """Return retrieval and counting accuracy on unseen scenes, each with its chance level and number of scenes."""
    return {
        "retrieval_accuracy_64_classes": retrieval_accuracy(model, seed),
        "retrieval_chance": 1 / len(CLASSES),
        "retrieval_scenes": 4 * len(CLASSES),
        "counting_accuracy_before_fine_tuning": counting_accuracy(model, seed),
        "counting_chance": 1 / len(NUMBERS),
        "counting_scenes": 100 * len(NUMBERS),
    }


def _as_text(card: Mapping[str, Any]) -> str:
    quality = card["quality"]
    found, counted = quality["retrieval_accuracy_64_classes"], quality["counting_accuracy_before_fine_tuning"]
    return "\n".join(
        [
            "# mini_clip: a tiny CLIP",
            "",
            "Made by recount from its own drawings: no outside picture, text or weight went into it (MIT).",
            f"Command: `{card['command']}`, seed {card['seed']}, {card['steps_done']} steps, {card['cpu_seconds']} CPU "
            "seconds on one core.",
            f"Parameters: {card['parameters']}; stored in half precision.",
            "",
            f"Pictures: {card['data']}.",
            f"Captions: {card['captions']}.",
            "",
            "| on scenes that pretraining never showed | accuracy | chance | scenes |",
            "|---|---|---|---|",
            f"| which of 64 classes | {found:.1%} | {quality['retrieval_chance']:.1%} | "
            f"{quality['retrieval_scenes']} |",
            f"| which of two to ten, before fine-tuning | {counted:.1%} | {quality['counting_chance']:.1%} | "
            f"{quality['counting_scenes']} |",
            "",
            "It reads the words in `mini_clip.json` and no others: a caption with another one is refused.",
            "",
        ]
    )
