"""A tiny Stable Diffusion, trained from nothing on captioned procedural scenes.

Structure: that of Stable Diffusion v1 (Rombach et al., CVPR 2022) at a four-hundredth of its size: a VAE (stride 4), a
CLIP-style causal text encoder (trained together with the UNet: there is no pretrained one), a cross-attention UNet with
four levels, the v1 noise schedule, velocity prediction. Captions name classes of a scene ("red stars and blue rings"),
never where they are: that the attention finds them is learnt from denoising alone.

The colour-shape pairs of the `val` and `test` classes of the data set `shapes` never occur in pretraining; the quality
measure uses scenes of exactly these.
"""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from pydantic import Field
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from recount.config import Strict
from recount.data import scenes
from recount.systems import t2icount

log = logging.getLogger(__name__)

WEIGHTS = Path(__file__).parent / "weights"

VOCABULARY = (
    *scenes.COLOURS,
    *scenes.SHAPES,
    *("cars", "blood", "cells", "platelets", "dice", "showing", "pip", "pips", "and"),
    *scenes.NUMBER_WORDS,
)

BACKBONE = t2icount.Backbone(
    unet_channels=(16, 32, 64, 64),
    unet_heads=(1, 1, 2, 2),
    unet_groups=8,
    context=64,
    vae_channels=(8, 16, 32),
    vae_groups=1,
    vae_layers=1,
    text_layers=2,
    text_heads=4,
    text_feedforward=128,
    text_length=12,
    vocabulary=VOCABULARY,
    image_size=96,
)


class Plan(Strict):
    """How much is trained."""

    vae_scenes: int = 4000
    vae_side: int = Field(96, description="of the autoencoder's scenes, pixels")
    scenes: int = 6000
    side: int = Field(64, description="of the diffusion's scenes, pixels; the network is used on windows of 96")
    vae_steps: int = 400
    vae_batch: int = 8
    vae_crop: int = 48
    vae_lr: float = 2e-3
    kl_weight: float = 1e-7
    steps: int = 1500
    batch: int = 16
    lr: float = 1.5e-3
    warmup: int = 50
    weight_decay: float = 1e-2
    noisy_steps: tuple[int, int] = Field((500, 950), description="timesteps in which colours drown but blobs do not")
    noisy_share: float = Field(0.7, description="of the samples with such a timestep; the others: any of the 1000")
    average: float = 0.99
    drop_caption: float = 0.05
    one_class_caption: float = 0.15


@dataclass(frozen=True, slots=True)
class Captioned:
    """A picture, uint8 [3, H, W], and the classes it shows."""

    image: Tensor
    classes: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Room:
    """How many things fit: ranges of shapes (ends included), and of cells and dice (upper ends excluded)."""

    majority: tuple[int, int]
    minority: tuple[int, int]
    red: tuple[int, int]
    white: int
    dice: int


_ROOM = {64: Room((2, 8), (1, 3), (2, 9), 2, 3), 96: Room((3, 14), (1, 6), (4, 18), 3, 4)}


def captioned_scene(index: int, seed: int, size: int) -> Captioned:
    """Return pretraining scene ``index``: 78 % shapes of the train classes, 8 % car parks, 8 % blood, 6 % dice."""
    rng = np.random.default_rng([seed, 71, index])
    room = _ROOM[size]
    kind = rng.random()
    if kind < 0.78:
        counts = scenes.majority_and_minorities(rng, scenes.shape_classes("train"), room.majority, room.minority)
        scene = scenes.shapes_scene(rng, counts, size, size)
    elif kind < 0.86:
        scene = scenes.parking_scene(rng, size, size, rng.uniform(0.1, 0.9))
    elif kind < 0.94:
        cells = {"red blood cells": int(rng.integers(*room.red))}
        cells |= {"white blood cells": int(rng.integers(0, room.white))}
        scene = scenes.blood_scene(rng, size, size, cells | {"platelets": int(rng.integers(0, room.white + 1))})
    else:
        faces = rng.choice(len(scenes.DICE), int(rng.integers(1, 4)), replace=False)
        scene = scenes.dice_scene(
            rng, size, size, {scenes.DICE[int(face)]: int(rng.integers(1, room.dice)) for face in faces}
        )
    picture = torch.from_numpy(np.asarray(scene.render()).copy()).permute(2, 0, 1)
    return Captioned(picture, tuple(scene.counts()))


def caption(classes: Sequence[str], rng: np.random.Generator, plan: Plan) -> str:
    """Return a caption that names one or up to three classes, in random order; "" drops it (for guidance)."""
    if not classes or rng.random() < plan.drop_caption:
        return ""
    few = 1 if rng.random() < plan.one_class_caption else min(len(classes), 3)
    chosen = rng.choice(len(classes), few, replace=False)
    return " and ".join(classes[int(index)] for index in chosen)


def context_ids(captions: Sequence[str]) -> Tensor:
    """Return token ids [B, L]; an empty caption is all padding."""
    words = t2icount.tokenizer(BACKBONE)
    ids, _ = t2icount.token_ids([text or "and" for text in captions], words, BACKBONE.text_length)
    for row, text in enumerate(captions):
        if not text:
            ids[row, 1:] = words.end
    return ids


# ------------------------------------------------------------------------------------------------------- training


def train_vae(images: Tensor, plan: Plan, seed: int) -> Any:
    """Train the autoencoder on images uint8 [N, 3, H, W] (mean squared error + KL) and scale its latent to unit spread.

    The scale is folded into ``quant_conv`` and ``post_quant_conv``, so that the latent needs no scaling factor:
    T2ICount does not apply one. Training sees random crops: for a convolutional network as good as whole pictures.
    """
    torch.manual_seed(seed)
    vae = t2icount.autoencoder(BACKBONE)
    _start_linear(vae)
    optimiser = torch.optim.AdamW(vae.parameters(), lr=plan.vae_lr, betas=(0.9, 0.99), weight_decay=0.0)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, plan.vae_lr, total_steps=plan.vae_steps, pct_start=0.1)
    rng = np.random.default_rng([seed, 70])
    for step in range(plan.vae_steps):
        top, left = rng.integers(0, images.shape[-1] - plan.vae_crop + 1, 2)
        chosen = torch.from_numpy(rng.integers(0, len(images), plan.vae_batch))
        batch = scaled(images[chosen][:, :, top : top + plan.vae_crop, left : left + plan.vae_crop])
        posterior = vae.encode(batch).latent_dist
        loss = F.mse_loss(vae.decode(posterior.sample()).sample, batch) + plan.kl_weight * posterior.kl().mean()
        optimiser.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(vae.parameters(), 1.0)
        optimiser.step()
        schedule.step()
        if step % 50 == 0:
            log.info("VAE step %d: loss %.4f", step, loss.item())
    _scale_to_unit_spread(vae, images[:256])
    return vae.eval().requires_grad_(False)


@torch.no_grad()
def _start_linear(vae: Any) -> None:
    """Start the autoencoder as 4x4 average pooling and its inverse, with silent residual branches.

    From a random start a network this narrow needs thousands of steps before it reconstructs colour at all. Each value
    travels as a pair of channels (+x, -x), because silu(x) - silu(-x) = x.
    """
    for module in vae.modules():
        kind = type(module).__name__
        if kind == "ResnetBlock2D":
            nn.init.zeros_(module.conv2.weight)
            if module.conv_shortcut is not None:
                nn.init.dirac_(module.conv_shortcut.weight)
        elif kind == "Attention":
            nn.init.zeros_(module.to_out[0].weight)
        elif kind == "Upsample2D":
            nn.init.dirac_(module.conv.weight)
        elif kind == "Downsample2D":
            nn.init.zeros_(module.conv.weight)
            module.conv.weight[:, :, :2, :2] = torch.eye(len(module.conv.weight))[:, :, None, None] / 4
    for convolution, inputs in ((vae.encoder.conv_in, 3), (vae.decoder.conv_in, 4)):
        convolution.weight.mul_(0.1)
        for channel in range(inputs):
            convolution.weight[2 * channel : 2 * channel + 2, channel, 1, 1] = torch.tensor([1.0, -1.0])
    vae.encoder.conv_in.bias[6:8] = torch.tensor([1.0, -1.0])  # a constant carries the scale that GroupNorm takes away
    for convolution, outputs in ((vae.encoder.conv_out, 4), (vae.decoder.conv_out, 3)):
        convolution.weight.mul_(0.1)
        for channel in range(outputs):
            convolution.weight[channel, 2 * channel : 2 * channel + 2, 1, 1] = torch.tensor([1.0, -1.0])
    nn.init.dirac_(vae.quant_conv.weight)
    nn.init.dirac_(vae.post_quant_conv.weight)
    vae.quant_conv.bias[4:] = -5  # a small posterior variance


def scaled(images: Tensor) -> Tensor:
    """Return uint8 images as float32 in [-1, 1]."""
    return images.float() / 127.5 - 1


@torch.no_grad()
def _scale_to_unit_spread(vae: Any, images: Tensor) -> None:
    spread = float(vae.encode(scaled(images)).latent_dist.mode().std())
    mean_rows = vae.config.latent_channels  # the first rows are the mean, the others the log variance
    vae.quant_conv.weight[:mean_rows] /= spread
    vae.quant_conv.bias[:mean_rows] /= spread
    vae.quant_conv.bias[mean_rows:] -= 2 * np.log(spread)
    vae.post_quant_conv.weight *= spread


@torch.no_grad()
def encoded(vae: Any, images: Tensor) -> Tensor:
    """Return the latents [N, 4, h, w] of uint8 images, as the posterior's mode."""
    return torch.cat([vae.encode(scaled(part)).latent_dist.mode() for part in images.split(64)])


def alpha_bar() -> Tensor:
    """Return the cumulative signal share of the Stable Diffusion v1 schedule, [1000]."""
    return torch.cumprod(1 - torch.linspace(0.00085**0.5, 0.012**0.5, 1000, dtype=torch.float64) ** 2, 0).float()


def train_diffusion(latents: Tensor, classes: Sequence[Sequence[str]], plan: Plan, seed: int, work: Path) -> nn.Module:
    """Train UNet and text encoder to predict the noise; resumes from ``work/diffusion.pt`` if it is there.

    Returns:
        a module with the averaged weights of ``unet`` and ``text``.
    """
    torch.manual_seed(seed)
    model = nn.ModuleDict({"unet": t2icount.unet(BACKBONE), "text": t2icount.text_encoder(BACKBONE)})
    _start_silent(model)
    average = torch.optim.swa_utils.AveragedModel(
        model, multi_avg_fn=torch.optim.swa_utils.get_ema_multi_avg_fn(plan.average)
    )
    optimiser = torch.optim.AdamW(model.parameters(), lr=plan.lr, weight_decay=plan.weight_decay)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimiser, plan.lr, total_steps=plan.steps, pct_start=plan.warmup / plan.steps
    )
    parts: dict[str, Any] = {"model": model, "average": average, "optimiser": optimiser, "schedule": schedule}
    begin = _resumed(work / "diffusion.pt", parts)
    for step in range(begin, plan.steps):
        loss = _denoising_loss(model, latents, classes, plan, np.random.default_rng([seed, 72, step]))
        optimiser.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimiser.step()
        schedule.step()
        average.update_parameters(model)
        if step % 50 == 0:
            log.info("diffusion step %d: loss %.4f", step, loss.item())
        if step % 200 == 199:
            torch.save(
                {name: part.state_dict() for name, part in parts.items()} | {"step": step + 1}, work / "diffusion.pt"
            )
    return average.module.eval().requires_grad_(False)


def _start_silent(model: Any) -> None:
    """Zero the last layer of every residual branch, as LDM does, and start with words whose embeddings differ."""
    for module in model["unet"].modules():
        kind = type(module).__name__
        if kind == "ResnetBlock2D":
            nn.init.zeros_(module.conv2.weight)
        elif kind == "Transformer2DModel":
            nn.init.zeros_(module.proj_out.weight)
    nn.init.zeros_(model["unet"].conv_out.weight)
    nn.init.normal_(model["text"].get_input_embeddings().weight, std=0.5)


def _resumed(path: Path, parts: Mapping[str, Any]) -> int:
    if not path.is_file():
        return 0
    state = torch.load(path, weights_only=True)
    for name, part in parts.items():
        part.load_state_dict(state[name])
    return int(state["step"])


def _denoising_loss(
    model: nn.ModuleDict, latents: Tensor, classes: Sequence[Sequence[str]], plan: Plan, rng: np.random.Generator
) -> Tensor:
    """Return the mean squared error of the predicted velocity on one random batch.

    v = sqrt(abar) noise - sqrt(1 - abar) latent (Salimans and Ho 2022; Stable Diffusion 2 is trained so): compared with
    predicted noise it weighs the steps more in which the picture is hidden and only the caption tells the colours.
    """
    chosen = rng.integers(0, len(latents), plan.batch)
    clean = latents[torch.from_numpy(chosen)]
    if rng.random() < 0.5:
        clean = clean.flip(-1)
    captions = [caption(classes[int(index)], rng, plan) for index in chosen]
    context = model["text"](context_ids(captions)).last_hidden_state
    noisy = rng.random(plan.batch) < plan.noisy_share
    timestep = torch.from_numpy(
        np.where(noisy, rng.integers(*plan.noisy_steps, plan.batch), rng.integers(0, 1000, plan.batch))
    )
    noise = torch.from_numpy(rng.standard_normal(clean.shape).astype(np.float32))
    signal = alpha_bar()[timestep].view(-1, 1, 1, 1)
    drowned = signal.sqrt() * clean + (1 - signal).sqrt() * noise
    velocity = signal.sqrt() * noise - (1 - signal).sqrt() * clean
    return F.mse_loss(model["unet"](drowned, timestep, context).sample, velocity)


# -------------------------------------------------------------------------------------------------------- quality


def unseen_scene(index: int, seed: int) -> scenes.Scene:
    """Return quality scene ``index``: shapes of the test classes only, which pretraining never showed."""
    rng = np.random.default_rng([seed, 73, index])
    counts = scenes.majority_and_minorities(rng, scenes.shape_classes("test"), (3, 14), (1, 6))
    return scenes.shapes_scene(rng, counts, BACKBONE.image_size, BACKBONE.image_size)


def area_under_curve(scores: np.ndarray, positive: np.ndarray) -> float:
    """Return the probability that a positive pixel scores above another one (ties count one half)."""
    from scipy.stats import rankdata

    ranks = rankdata(scores.ravel())
    hits = positive.ravel()
    n = int(hits.sum())
    return float((ranks[hits].sum() - n * (n + 1) / 2) / (n * (hits.size - n)))


@torch.no_grad()
def quality(system: t2icount.T2ICount, count: int = 100, seed: int = 0) -> dict[str, float]:
    """Return how well prompt attention finds the prompted class's pixels: mean AUC over (scene, class) pairs.

    Every class of every scene is prompted by its bare name, as T2ICount does (timestep 0, no noise). Maps are enlarged
    bilinearly to the picture; positives are the visible pixels of the class.

    Returns:
        the AUC of the fused map as T2ICount's mini size fuses it ("fused"), with the paper's weights ("paper"), with
        equal weights ("equal"), and of each resolution ("coarse", "middle", "fine"); "pairs" is their number.
    """
    system.eval()
    found: dict[str, list[float]] = {}
    for index in range(count):
        scene = unseen_scene(index, seed)
        image = torch.from_numpy(np.asarray(scene.render()).copy()).permute(2, 0, 1)[None].float() / 255
        for label in scene.counts():
            mask = scene.mask(label)
            if not mask.any():
                continue
            for name, attention in _attention_maps(system, image, label).items():
                large = F.interpolate(attention, size=image.shape[-2:], mode="bilinear", align_corners=False)
                found.setdefault(name, []).append(area_under_curve(large[0, 0].numpy(), mask))
    return {name: float(np.mean(values)) for name, values in found.items()} | {"pairs": len(found["fused"])}


def _attention_maps(system: t2icount.T2ICount, image: Tensor, prompt: str) -> dict[str, Tensor]:
    context, mask = system.context([prompt])
    outputs = system.decode(system.latent(image), context, mask)
    names = {"coarse": 4, "middle": 2, "fine": 1}
    maps = {name: outputs.per_resolution[divisor] for name, divisor in names.items()}
    for name, weights in (("paper", (0.6, 0.3, 0.1)), ("equal", (1 / 3, 1 / 3, 1 / 3))):
        maps[name] = t2icount.fused_attention(outputs.per_resolution, weights)
    return maps | {"fused": outputs.attention}


# ------------------------------------------------------------------------------------------------------- commands


def pretrain(work: Path, weights: Path = WEIGHTS, plan: Plan | None = None, seed: int = 0) -> dict[str, Any]:
    """Train the tiny Stable Diffusion and write ``mini_sd.safetensors``, ``mini_sd.json`` and ``mini_sd.md``.

    Args:
        work: holds what an interrupted run has reached; a second call goes on from there.
        weights: gets the three files.
        plan: how much is trained; None: as the packaged weights were.
        seed: of scenes, captions, starts and noise.

    Returns:
        the card.
    """
    plan = plan or Plan()
    began = time.process_time()
    work.mkdir(parents=True, exist_ok=True)
    latents, classes, vae = _latents(work / "latents.pt", plan, seed)
    model = train_diffusion(latents, classes, plan, seed, work)
    parts = {"vae": vae, "unet": model.get_submodule("unet"), "text": model.get_submodule("text")}
    state = {f"{part}.{name}": value for part, module in parts.items() for name, value in module.state_dict().items()}
    weights.mkdir(parents=True, exist_ok=True)
    save_file({name: value.half().contiguous() for name, value in state.items()}, weights / "mini_sd.safetensors")
    return write_card(weights, plan, seed, time.process_time() - began)


def _latents(path: Path, plan: Plan, seed: int) -> tuple[Tensor, list[list[str]], Any]:
    """Return latents and classes of the scenes and the trained autoencoder, from ``path`` if it is there."""
    vae = t2icount.autoencoder(BACKBONE)
    if not path.is_file():
        large = [captioned_scene(index, seed, plan.vae_side) for index in range(plan.vae_scenes)]
        trained = train_vae(torch.stack([scene.image for scene in large]), plan, seed)
        drawn = [captioned_scene(index, seed, plan.side) for index in range(plan.scenes)]
        images = torch.stack([scene.image for scene in drawn])
        classes = [list(scene.classes) for scene in drawn]
        torch.save({"vae": trained.state_dict(), "latents": encoded(trained, images), "classes": classes}, path)
    saved = torch.load(path, weights_only=True)
    vae.load_state_dict(saved["vae"])
    return saved["latents"], saved["classes"], vae.eval().requires_grad_(False)


def mini_system(weights: str = "mini_sd") -> t2icount.T2ICount:
    """Return T2ICount on the tiny Stable Diffusion, with the packaged weights or "random" ones (seeded)."""
    torch.manual_seed(0)
    settings = t2icount.T2ICount.mini_settings() | {"backbone": BACKBONE, "weights": weights}
    system = t2icount.T2ICount(t2icount.T2ICountSettings(**settings))
    system.prepare_training([])
    return system.eval()


@torch.no_grad()
def reconstruction_error(weights: Path = WEIGHTS, count: int = 32) -> float:
    """Return the mean squared error of the autoencoder on unseen scenes, pictures in [-1, 1]."""
    vae = t2icount.autoencoder(BACKBONE)
    stored = load_file(weights / "mini_sd.safetensors")
    vae.load_state_dict({name.removeprefix("vae."): value for name, value in stored.items() if name.startswith("vae.")})
    pictures = [np.asarray(unseen_scene(index, 1).render()).copy() for index in range(count)]
    images = scaled(torch.from_numpy(np.stack(pictures)).permute(0, 3, 1, 2))
    return float(F.mse_loss(vae.eval()(images).sample, images))


def write_card(weights: Path, plan: Plan, seed: int, seconds: float) -> dict[str, Any]:
    """Measure the weights in ``weights`` and write their card, as JSON and as text."""
    card: dict[str, Any] = {
        "name": "mini_sd",
        "command": "recount pretrain mini_sd",
        "seed": seed,
        "cpu_seconds": round(seconds),
        "licence": "MIT (made by recount from its own drawings)",
        "backbone": BACKBONE.model_dump(mode="json"),
        "plan": plan.model_dump(mode="json"),
    }
    (weights / "mini_sd.json").write_text(json.dumps(card, indent=1) + "\n", encoding="utf-8")
    t2icount.mini_sd_card.cache_clear()
    trained = mini_system()
    card["parameters"] = {
        "unet": sum(value.numel() for value in trained.unet.parameters()),
        "vae_encoder": sum(value.numel() for value in trained.vae.parameters()),
        "text_encoder": sum(value.numel() for value in trained.text.parameters()),
    }
    card["attention_auc"] = quality(trained)
    card["attention_auc_random"] = quality(mini_system("random"))
    card["reconstruction_mse"] = reconstruction_error(weights)
    (weights / "mini_sd.json").write_text(json.dumps(card, indent=1) + "\n", encoding="utf-8")
    (weights / "mini_sd.md").write_text(_as_text(card), encoding="utf-8")
    return card


def check() -> dict[str, float]:
    """Return the quality of the packaged weights, measured now (compare the card's ``attention_auc``)."""
    return quality(mini_system())


def _as_text(card: Mapping[str, Any]) -> str:
    names = ("fused", "paper", "equal", "coarse", "middle", "fine")
    rows = [
        f"| {name} | {card['attention_auc'][name]:.3f} | {card['attention_auc_random'][name]:.3f} |" for name in names
    ]
    return "\n".join(
        [
            "# mini_sd: a tiny Stable Diffusion",
            "",
            "Made by recount from its own drawings: no outside picture, text or weight went into it (MIT).",
            f"Command: `{card['command']}`, seed {card['seed']}, {card['cpu_seconds']} CPU seconds on one core.",
            f"Parameters: {card['parameters']}; stored in half precision.",
            "",
            "How well the attention to a prompt finds the pixels of its class, on scenes of colour-shape pairs that "
            f"pretraining never showed: mean AUC over {card['attention_auc']['pairs']} pairs of scene and class.",
            "",
            "| map | trained | random UNet and text |",
            "|---|---|---|",
            *rows,
            "",
            "*fused* has the weights 0.1, 0.3, 0.6 from coarse (6x6) to fine (24x24), which T2ICount's mini size uses;",
            "*paper* the paper's 0.6, 0.3, 0.1, *equal* equal ones. Found: the paper's weights make no sense on a grid",
            "this small. A coarse cell is as large as an object, the coarse attention is worse than chance (it reads",
            "the caption as a palette), and almost all of the location is in the fine maps.",
            "",
            f"Autoencoder: mean squared error {card['reconstruction_mse']:.4f} on such scenes, pictures in [-1, 1].",
            "",
        ]
    )
