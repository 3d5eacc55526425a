"""Contrastive training of a tiny CLIP: what ``mini_clip`` and ``mini_towers`` have in common."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from recount.nn.clip_towers import CLIP_MEAN, CLIP_STD
from recount.settings.base import Strict

LARGEST_SCALE = math.log(100)


class Budget(Strict):
    """What every plan says of the optimiser."""

    steps: int
    lr: float
    warmup: int
    weight_decay: float


def normalised(images: Tensor) -> Tensor:
    """Return uint8 images [B, 3, H, W] as CLIP's towers see them, float32."""
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in (CLIP_MEAN, CLIP_STD))
    return (images.float() / 255 - mean) / std


def shared_loss(logits: Tensor, fits: Tensor) -> Tensor:
    """Return CLIP's symmetric cross-entropy, with the target of a picture or caption shared evenly by what fits it.

    Args:
        logits: [B, K] scaled cosines, pictures x captions.
        fits: bool [B, K], at least one in each row and column; the identity gives CLIP's loss.
    """
    target, transposed = (each / each.sum(dim=1, keepdim=True) for each in (fits.float(), fits.T.float()))
    return (functional.cross_entropy(logits, target) + functional.cross_entropy(logits.T, transposed)) / 2


def optimise(model: Any, plan: Budget, loss_of_step: Callable[[int], Tensor], log: logging.Logger) -> None:
    """Train a CLIP with AdamW over one cycle of the learning rate; its ``logit_scale`` is capped as CLIP's.

    Args:
        model: with a parameter ``logit_scale``.
        plan: steps, learning rate, warm-up in steps, weight decay (of matrices).
        loss_of_step: gives the loss of a step, by number.
        log: gets the loss of every 50th step.
    """
    decayed = [parameter for parameter in model.parameters() if parameter.ndim > 1]
    others = [parameter for parameter in model.parameters() if parameter.ndim <= 1]
    groups: list[dict[str, Any]] = [{"params": decayed}, {"params": others, "weight_decay": 0.0}]
    optimiser = torch.optim.AdamW(groups, lr=plan.lr, weight_decay=plan.weight_decay, betas=(0.9, 0.98))
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimiser, plan.lr, total_steps=plan.steps, pct_start=plan.warmup / plan.steps
    )
    for step in range(plan.steps):
        loss = loss_of_step(step)
        optimiser.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimiser.step()
        schedule.step()
        with torch.no_grad():
            model.logit_scale.clamp_(max=LARGEST_SCALE)
        if step % 50 == 0:
            log.info("step %d: loss %.4f", step, loss.item())


def card_opening(card: Mapping[str, Any], title: str, steps: int) -> list[str]:
    """Return the first lines of a card as text: what it is, how it was made, how large it is.

    Args:
        card: with name, command, seed, cpu_seconds and parameters.
        title: what the model is.
        steps: of training.
    """
    return [
        f"# {card['name']}: {title}",
        "",
        "Made by recount from its own drawings: no outside picture, text or weight went into it (MIT).",
        f"Command: `{card['command']}`, seed {card['seed']}, {steps} steps, {card['cpu_seconds']} CPU seconds on one "
        "core.",
        f"Parameters: {card['parameters']}; stored in half precision.",
        "",
    ]
