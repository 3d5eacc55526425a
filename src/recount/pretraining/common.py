"""What the pretrainings of the tiny models share: a step, contrastive training, and their cards."""

import json
import logging
import math
import time
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn import functional
from torch.optim.lr_scheduler import OneCycleLR

from recount.nn.clip import CLIP_MEAN, CLIP_STD
from recount.settings.base import Strict

WEIGHTS = Path(__file__).parent / "weights"
CARDS = Path(__file__).parent / "cards"
log = logging.getLogger(__name__)
LARGEST_SCALE = math.log(100)  # of CLIP's logits


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
    """Return CLIP's loss of scaled cosines [B, K], each target shared evenly by what fits (at least one each way)."""
    target, transposed = (each / each.sum(dim=1, keepdim=True) for each in (fits.float(), fits.T.float()))
    return (functional.cross_entropy(logits, target) + functional.cross_entropy(logits.T, transposed)) / 2


def descend(loss: Tensor, parameters: Iterable[nn.Parameter], optimiser: Any, schedule: Any) -> None:
    """Do one step of an optimiser and its schedule, with gradients clipped at norm 1."""
    optimiser.zero_grad()
    loss.backward()
    nn.utils.clip_grad_norm_(parameters, 1.0)
    optimiser.step()
    schedule.step()


def optimise(model: Any, plan: Budget, loss_of_step: Callable[[int], Tensor]) -> None:
    """Train a CLIP with AdamW (decay of matrices) over one cycle of the learning rate; cap ``logit_scale`` as CLIP."""
    decayed = [parameter for parameter in model.parameters() if parameter.ndim > 1]
    others = [parameter for parameter in model.parameters() if parameter.ndim <= 1]
    groups: list[dict[str, Any]] = [{"params": decayed}, {"params": others, "weight_decay": 0.0}]
    optimiser = torch.optim.AdamW(groups, lr=plan.lr, weight_decay=plan.weight_decay, betas=(0.9, 0.98))
    schedule = OneCycleLR(optimiser, plan.lr, total_steps=plan.steps, pct_start=plan.warmup / plan.steps)
    for step in range(plan.steps):
        loss = loss_of_step(step)
        descend(loss, model.parameters(), optimiser, schedule)
        with torch.no_grad():
            model.logit_scale.clamp_(max=LARGEST_SCALE)
        if step % 50 == 0:
            log.info("step %d: loss %.4f", step, loss.item())


def turned(pictures: Tensor, rng: np.random.Generator) -> Tensor:
    """Return pictures [B, 3, H, W], all turned by the same quarter turns, and mirrored in half of the cases."""
    pictures = torch.rot90(pictures, int(rng.integers(4)), (2, 3))
    return pictures.flip(-1) if rng.random() < 0.5 else pictures


def save_half(state: Mapping[str, Tensor], path: Path) -> None:
    """Write weights in half precision; the folder is made."""
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file({name: value.half().contiguous() for name, value in state.items()}, path)


def trained(
    name: str,
    train: Callable[[Any, int], Any],
    state_of: Callable[[Any], Mapping[str, Tensor]],
    plan: Budget,
    seed: int,
    folder: Path,
) -> tuple[Any, dict[str, Any]]:
    """Train a CLIP and write its weights (half precision); return it as written, and what its card says of that."""
    started = time.process_time()
    model = train(plan, seed)
    seconds = round(time.process_time() - started)
    model = model.half().float().eval()  # what is written is what is measured
    save_half(state_of(model), folder / f"{name}.safetensors")
    size = sum(parameter.numel() for parameter in model.parameters())
    said = {"plan": plan.model_dump(mode="json"), "seed": seed, "torch": torch.__version__, "cpu_seconds": seconds}
    return model, {"name": name, **said, "parameters": size}


def write_card(folder: Path, card: dict[str, Any]) -> dict[str, Any]:
    """Write a card as JSON and, by the template ``cards/<name>.md``, as text; return it with the command."""
    card = {"name": card["name"], "command": f"recount pretrain {card['name']}", **card}
    (folder / f"{card['name']}.json").write_text(json.dumps(card, indent=1) + "\n", encoding="utf-8")
    text = (CARDS / f"{card['name']}.md").read_text(encoding="utf-8").format_map(card)
    (folder / f"{card['name']}.md").write_text(text, encoding="utf-8")
    return card
