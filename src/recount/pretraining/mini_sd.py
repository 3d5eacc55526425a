"""A tiny Stable Diffusion, trained from nothing on captioned procedural scenes.

Structure: that of Stable Diffusion v1 (Rombach et al., CVPR 2022) at a four-hundredth of its size: a VAE (stride 4), a
CLIP-style causal text encoder, a cross-attention UNet with four levels, the v1 noise schedule, velocity prediction. As
in Stable Diffusion the text encoder is frozen; there is no pretrained one of this size, so it stays as it was drawn:
it tells words apart, and colours as well as shapes (trained along, it came to ignore the shapes).

Two stages. In the first, captions name classes of a scene ("red stars and blue rings") and never where they are:
denoising alone teaches the attention to find them (AUC of the fused map 0.61 after 1,000 steps, 0.93 after today's). It
tells the named things from the ground, and only in part from other things: no trial taught it shapes, which change a
few cells of a noisy latent. So a second stage goes on denoising and also says, for each word of the caption, which
cells show what it names: the token-level supervision of TokenCompose (Wang et al., CVPR 2024), where a segmentation
network says it; here the drawing does. The card tells both stages apart.

The colour-shape pairs of the `val` and `test` classes of the data set `shapes` never occur in pretraining; the quality
measure uses scenes of exactly these.
"""

import logging
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from pydantic import Field
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.optim import swa_utils

from recount.nn import stable_diffusion as sd
from recount.prediction.localisation import auc
from recount.pretraining.common import WEIGHTS, descend, save_half, write_card
from recount.scenes import shapes as scenes
from recount.scenes.car_parks import parking_scene
from recount.settings.base import Strict
from recount.systems import t2icount
from recount.training.checkpoints import load_state, save_state

log = logging.getLogger(__name__)

OTHER_WORDS = ("cars", "blood", "cells", "platelets", "dice", "showing", "pip", "pips", "and")
BACKBONE = sd.Backbone(
    **{"unet_channels": (24, 48, 56, 56), "unet_heads": (1, 1, 2, 2), "unet_groups": 8, "context": 64},
    **{"vae_channels": (8, 16, 32), "vae_groups": 1, "vae_layers": 1},
    **{"text_layers": 2, "text_heads": 4, "text_feedforward": 128, "text_length": 12, "image_size": 96},
    vocabulary=(*scenes.COLOURS, *scenes.SHAPES, *OTHER_WORDS, *scenes.NUMBER_WORDS),
)

MOST_NAMED = 3  # classes in a caption


class Plan(Strict):
    """How much is trained."""

    vae_scenes: int = 4000
    vae_side: int = Field(96, description="of the autoencoder's scenes, pixels")
    scenes: int = 6000
    side: int = Field(64, description="of the diffusion's scenes, pixels; the network is used on windows of 96")
    vae_steps: int = 4000
    vae_batch: int = 8
    vae_crop: int = 48
    vae_lr: float = 2e-3
    kl_weight: float = 1e-7
    steps: int = Field(2500, description="of denoising alone")
    batch: int = 16
    lr: float = 1.5e-3
    warmup: int = 50
    weight_decay: float = 1e-2
    noisy_steps: tuple[int, int] = Field((500, 950), description="timesteps in which colours drown but blobs do not")
    noisy_share: float = Field(0.7, description="of the samples with such a timestep; the others: any of the 1000")
    average: float = 0.99
    drop_caption: float = 0.05
    one_class_caption: float = Field(0.4, description="share of the first stage's captions that name a single class")
    grounded_scenes: int = 12000
    grounded_steps: int = Field(8500, description="of the second stage")
    grounded_one_class: float = Field(0.55, description="share of the second stage's captions that name a single class")
    grounded_lr: float = 2e-3
    grounding: float = Field(2.0, description="weight of the token loss beside the denoising loss")
    clear_steps: tuple[int, int] = Field((0, 50), description="timesteps in which the picture is clear")
    clear_share: float = Field(0.8, description="of the second stage's samples with such a timestep; others: from 300")
    any_paint: float = Field(0.5, description="share of the second stage's scenes with shapes in paints without name")
    one_colour: float = Field(0.2, description="share of the second stage's scenes with shapes of one named colour")


@dataclass(frozen=True, slots=True)
class Captioned:
    """A picture, uint8 [3, H, W], and the classes it shows; in the second stage, their share of each cell."""

    image: Tensor
    classes: tuple[str, ...]
    shares: Tensor | None = None  # float16 [classes, h, w]


class Room(NamedTuple):
    """How many things fit: ranges of shapes (ends included), and of cells and dice (upper ends excluded)."""

    majority: tuple[int, int]
    minority: tuple[int, int]
    red: tuple[int, int]
    white: int
    dice: int


_ROOM = {64: Room((2, 8), (1, 3), (2, 9), 2, 3), 96: Room((3, 14), (1, 6), (4, 18), 3, 4)}


def captioned_scene(index: int, seed: int, size: int) -> Captioned:
    """Return pretraining scene ``index``: 78 % shapes of the train classes, 8 % car parks, 8 % blood, 6 % dice."""
    scene = _any_scene(np.random.default_rng([seed, 71, index]), size)
    return Captioned(picture_of_scene(scene), tuple(scene.counts()))


def _any_scene(rng: np.random.Generator, size: int) -> scenes.Scene:
    room = _ROOM[size]
    kind = rng.random()
    if kind < 0.78:
        counts = scenes.majority_and_minorities(rng, scenes.shape_classes("train"), room.majority, room.minority)
        return scenes.shapes_scene(rng, counts, size, size)
    if kind < 0.86:
        return parking_scene(rng, size, size, rng.uniform(0.1, 0.9))
    if kind < 0.94:
        cells = {"red blood cells": int(rng.integers(*room.red))}
        cells |= {"white blood cells": int(rng.integers(0, room.white))}
        return scenes.blood_scene(rng, size, size, cells | {"platelets": int(rng.integers(0, room.white + 1))})
    faces = rng.choice(len(scenes.DICE), int(rng.integers(1, 4)), replace=False)
    dice = {scenes.DICE[int(face)]: int(rng.integers(1, room.dice)) for face in faces}
    return scenes.dice_scene(rng, size, size, dice)


def picture_of_scene(scene: scenes.Scene) -> Tensor:
    """Return a scene as it is seen, uint8 [3, H, W]."""
    return torch.from_numpy(np.asarray(scene.render()).copy()).permute(2, 0, 1)


def grounded_scene(index: int, seed: int, size: int, plan: Plan) -> Captioned:
    """Return scene ``index`` of the second stage: in paints without name, of one colour, or as in the first stage."""
    rng = np.random.default_rng([seed, 75, index])
    room = _ROOM[size]
    kind = rng.random()
    if kind < plan.any_paint:
        counts = scenes.majority_and_minorities(rng, scenes.SHAPES, room.majority, room.minority)
        paint = {name: unnamed_paint(rng) for name in counts}
        if rng.random() < 0.8:
            paint = dict.fromkeys(counts, paint[next(iter(counts))])
        scene = scenes.shapes_scene(rng, counts, size, size, paints=paint)
    elif kind < plan.any_paint + plan.one_colour:
        colour = tuple(scenes.COLOURS)[int(rng.integers(len(scenes.COLOURS)))]
        pairs = [name for name in scenes.shape_classes("train") if name.startswith(f"{colour} ")]
        counts = scenes.majority_and_minorities(rng, pairs, room.majority, room.minority)
        scene = scenes.shapes_scene(rng, counts, size, size)
    else:
        scene = _any_scene(rng, size)
    classes = tuple(scene.counts())
    cells, stride = size // BACKBONE.stride, BACKBONE.stride
    shares = [scene.mask(name).reshape(cells, stride, cells, stride).mean(axis=(1, 3)) for name in classes]
    stacked = torch.from_numpy(np.array(shares, np.float16).reshape(-1, cells, cells))
    return Captioned(picture_of_scene(scene), classes, stacked)


def unnamed_paint(rng: np.random.Generator) -> tuple[int, int, int]:
    """Return a paint whose distance to every named colour is over 60 (of 442 between black and white)."""
    named = np.array(list(scenes.COLOURS.values()), float)
    while True:
        paint = rng.uniform(15, 245, 3)
        if np.linalg.norm(named - paint, axis=1).min() > 60:
            return int(paint[0]), int(paint[1]), int(paint[2])


def named(classes: Sequence[str], rng: np.random.Generator, one_class: float, dropped: float) -> list[int]:
    """Return which classes a caption names: none (``dropped``, for guidance), one (``one_class``) or up to three."""
    if not classes or rng.random() < dropped:
        return []
    few = 1 if rng.random() < one_class else min(len(classes), MOST_NAMED)
    return [int(index) for index in rng.choice(len(classes), few, replace=False)]


def context_ids(captions: Sequence[str]) -> Tensor:
    """Return token ids [B, L]; an empty caption is all padding."""
    words = sd.tokenizer(BACKBONE)
    ids, _ = sd.token_ids([text or "and" for text in captions], words, BACKBONE.text_length)
    ids[torch.tensor([not text for text in captions]), 1:] = words.end
    return ids


class Work:
    """What an interrupted pretraining has reached, and the CPU seconds that this took; ``made_from`` must be equal."""

    def __init__(self, folder: Path, made_from: str) -> None:
        self.folder = folder
        self.made_from = made_from
        self._before = 0.0
        self._began = time.process_time()

    def seconds(self) -> float:
        """Return the CPU seconds until now, with those of earlier calls whose work was taken up."""
        return self._before + time.process_time() - self._began

    def keep(self, stage: str, state: Mapping[str, Any]) -> None:
        """Write the state of a stage, and the seconds until now."""
        save_state(self.folder / stage, self.made_from, {**state, "seconds": self.seconds()})

    def kept(self, stage: str) -> dict[str, Any] | None:
        """Return the state of a stage that an earlier call kept, or None."""
        if (state := load_state(self.folder / stage, self.made_from)) is not None:
            self._before = max(self._before, state["seconds"])
        return state


def train_vae(images: Tensor, plan: Plan, seed: int) -> Any:
    """Train the autoencoder on crops of images uint8 [N, 3, H, W] (mean squared error + KL); standardise its latent."""
    torch.manual_seed(seed)
    vae = sd.autoencoder(BACKBONE)
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
        descend(loss, vae.parameters(), optimiser, schedule)
        if step % 50 == 0:
            log.info("VAE step %d: loss %.4f", step, loss.item())
    _standardise(vae, images[:256])
    return vae.eval().requires_grad_(False)


@torch.no_grad()
def _start_linear(vae: Any) -> None:
    """Start as 4x4 average pooling and its inverse: from a random start, colour takes thousands of steps to appear.

    Residual branches are silent; each value is a pair of channels (+x, -x), because silu(x) - silu(-x) = x.
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
def _standardise(vae: Any, images: Tensor) -> None:
    """Fold into the convolutions of the latent that it has mean 0 and spread 1 (T2ICount scales no latent)."""
    latent = vae.encode(scaled(images)).latent_dist.mode()
    mean, spread = latent.mean(dim=(0, 2, 3)), latent.std(dim=(0, 2, 3))
    rows = len(mean)  # of quant_conv: first the mean, then the log variance
    vae.quant_conv.weight[:rows] /= spread.view(-1, 1, 1, 1)
    vae.quant_conv.bias[:rows] = (vae.quant_conv.bias[:rows] - mean) / spread
    vae.quant_conv.bias[rows:] -= 2 * spread.log()
    vae.post_quant_conv.bias += vae.post_quant_conv.weight[:, :, 0, 0] @ mean
    vae.post_quant_conv.weight *= spread.view(1, -1, 1, 1)


@dataclass(frozen=True, slots=True)
class Latents:
    """Scenes as the UNet sees them: latents [N, 4, h, w], classes, and in the second stage the classes' shares."""

    latents: Tensor
    classes: Sequence[Sequence[str]]
    shares: Sequence[Tensor] = ()


@torch.no_grad()
def as_latents(vae: Any, pictures: Sequence[Captioned]) -> Latents:
    """Return scenes as the UNet sees them; the latent is the posterior's mode."""
    images = torch.stack([picture.image for picture in pictures])
    latents = torch.cat([vae.encode(scaled(part)).latent_dist.mode() for part in images.split(64)])
    shares = [picture.shares.float() for picture in pictures if picture.shares is not None]
    return Latents(latents, [picture.classes for picture in pictures], shares)


def frozen_text_encoder(seed: int) -> Any:
    """Return the text encoder as it is drawn, with words whose embeddings differ."""
    torch.manual_seed(seed)
    text = sd.text_encoder(BACKBONE)
    nn.init.normal_(text.get_input_embeddings().weight, std=0.5)
    return text.eval().requires_grad_(False)


def new_unet(seed: int) -> Any:
    """Return a UNet with the last layer of every residual branch zero, as LDM starts."""
    torch.manual_seed(seed)
    unet = sd.unet(BACKBONE)
    last = {"ResnetBlock2D": "conv2", "Transformer2DModel": "proj_out"}
    for module in unet.modules():
        if type(module).__name__ in last:
            nn.init.zeros_(getattr(module, last[type(module).__name__]).weight)
    nn.init.zeros_(unet.conv_out.weight)
    return unet.to(memory_format=torch.channels_last)


def optimise(
    unet: Any, loss_of_step: Callable[[int], Tensor], steps: int, lr: float, plan: Plan, work: Work, stage: str
) -> Any:
    """Train the UNet from what ``work`` kept of the stage; return the UNet with averaged weights."""
    average = swa_utils.AveragedModel(unet, multi_avg_fn=swa_utils.get_ema_multi_avg_fn(plan.average))
    optimiser = torch.optim.AdamW(unet.parameters(), lr=lr, weight_decay=plan.weight_decay, fused=True)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, lr, total_steps=steps, pct_start=plan.warmup / steps)
    parts: dict[str, Any] = {"unet": unet, "average": average, "optimiser": optimiser, "schedule": schedule}
    state = work.kept(stage) or {"step": 0}
    for name in parts.keys() & state.keys():
        parts[name].load_state_dict(state[name])
    for step in range(state["step"], steps):
        loss = loss_of_step(step)
        descend(loss, unet.parameters(), optimiser, schedule)
        average.update_parameters(unet)
        if step % 50 == 0:
            log.info("%s step %d: loss %.4f", stage, step, loss.item())
        if (step + 1) % 200 == 0 or step + 1 == steps:
            work.keep(stage, {name: part.state_dict() for name, part in parts.items()} | {"step": step + 1})
    return average.module


def _denoising_loss(unet: Any, text: Any, shown: Latents, plan: Plan, rng: np.random.Generator) -> Tensor:
    chosen = rng.integers(0, len(shown.latents), plan.batch)
    clean = shown.latents[torch.from_numpy(chosen)]
    if rng.random() < 0.5:
        clean = clean.flip(-1)
    classes = [shown.classes[int(row)] for row in chosen]
    places = [named(names, rng, plan.one_class_caption, plan.drop_caption) for names in classes]
    captions = [" and ".join(names[place] for place in some) for names, some in zip(classes, places, strict=True)]
    noisy = rng.random(plan.batch) < plan.noisy_share
    timestep = np.where(noisy, rng.integers(*plan.noisy_steps, plan.batch), rng.integers(0, 1000, plan.batch))
    drowned, velocity = _drowned(clean, timestep, rng)
    return F.mse_loss(unet(drowned, torch.from_numpy(timestep), _states(text, captions)).sample, velocity)


def _drowned(clean: Tensor, timestep: np.ndarray, rng: np.random.Generator) -> tuple[Tensor, Tensor]:
    """Return latents [B, 4, h, w] with the noise of timesteps [B], and the velocity that is to be predicted.

    v = sqrt(abar) noise - sqrt(1 - abar) latent (Salimans and Ho 2022) weighs the steps more than predicted noise in
    which the picture is hidden and only the caption tells the colours.
    """
    noise = torch.from_numpy(rng.standard_normal(clean.shape).astype(np.float32))
    signal = sd.alpha_bar()[torch.from_numpy(timestep)].view(-1, 1, 1, 1)
    drowned = signal.sqrt() * clean + (1 - signal).sqrt() * noise
    return drowned, signal.sqrt() * noise - (1 - signal).sqrt() * clean


@torch.no_grad()
def _states(text: Any, captions: Sequence[str]) -> Tensor:
    return text(context_ids(captions)).last_hidden_state


def _grounding_loss(run: sd.UNetPass, text: Any, shown: Latents, plan: Plan, rng: np.random.Generator) -> Tensor:
    chosen = rng.integers(0, len(shown.latents), plan.batch)
    clean = shown.latents[torch.from_numpy(chosen)]
    classes = [shown.classes[int(row)] for row in chosen]
    places = [named(names, rng, plan.grounded_one_class, plan.drop_caption) for names in classes]
    spoken = [[names[place] for place in some] for names, some in zip(classes, places, strict=True)]
    pairs = zip(chosen, places, strict=True)
    target = torch.stack([target_shares(shown.shares[int(row)], some) for row, some in pairs])
    if rng.random() < 0.5:
        clean, target = clean.flip(-1), target.flip(-1)
    clear = rng.random(plan.batch) < plan.clear_share
    timestep = np.where(clear, rng.integers(*plan.clear_steps, plan.batch), rng.integers(300, 1000, plan.batch))
    drowned, velocity = _drowned(clean, timestep, rng)
    context = _states(text, [" and ".join(names) for names in spoken])
    groups = torch.stack([token_groups(names) for names in spoken])
    predicted, attention = run.denoise(drowned, torch.from_numpy(timestep), context, groups)
    captioned = torch.tensor([float(bool(names)) for names in spoken])
    return F.mse_loss(predicted, velocity) + plan.grounding * token_loss(attention, target, captioned)


def token_groups(names: Sequence[str]) -> Tensor:
    """Return the group of each token, 0 or 1, [L, 1 + MOST_NAMED]: k for the k-th class named, 0 for all else."""
    groups = torch.zeros(BACKBONE.text_length, 1 + MOST_NAMED)
    place = 1
    for group, name in enumerate(names, start=1):
        words = len(name.split())
        groups[place : min(place + words, BACKBONE.text_length - 1), group] = 1
        place += words + 1  # "and"
    groups[:, 0] = 1 - groups[:, 1:].sum(dim=1)
    return groups


def target_shares(shares: Tensor, places: Sequence[int]) -> Tensor:
    """Return the share of each cell that shows none, and each, of the named classes (``places``), [1 + most, h, w]."""
    target = torch.zeros(1 + MOST_NAMED, *shares.shape[-2:])
    for group, place in enumerate(places, start=1):
        target[group] = shares[place]
    target[0] = (1 - target[1:].sum(dim=0)).clamp(min=0)
    return target


def token_loss(attention: Mapping[int, Tensor], target: Tensor, captioned: Tensor) -> Tensor:
    """Return the cross-entropy between the shares of what a cell shows and its attention to the words of each.

    Per resolution the mean over cells of named classes and that over the others, weighted equally; the finest weighs 1,
    others 1/2 and 1/4. ``attention`` is divisor d -> [B, T, h / d, w / d], ``target`` [B, T, h, w], ``captioned`` [B].
    """
    total = target.new_zeros(())
    for divisor, maps in attention.items():
        wanted = F.avg_pool2d(target, divisor)
        entropy = -(wanted * torch.log(maps + 1e-4)).sum(dim=1)
        other = wanted[:, 0] * captioned.view(-1, 1, 1)
        shown = (1 - wanted[:, 0]) * captioned.view(-1, 1, 1)
        means = [(entropy * cells).sum() / cells.sum().clamp(min=1) for cells in (shown, other)]
        total = total + (means[0] + means[1]) / 2 / divisor
    return total


def unseen_scene(index: int, seed: int) -> scenes.Scene:
    """Return quality scene ``index``: shapes of the test classes only, which pretraining never showed."""
    rng = np.random.default_rng([seed, 73, index])
    counts = scenes.majority_and_minorities(rng, scenes.shape_classes("test"), (3, 14), (1, 6))
    return scenes.shapes_scene(rng, counts, BACKBONE.image_size, BACKBONE.image_size)


def twins_scene(index: int, seed: int) -> scenes.Scene:
    """Return quality scene ``index`` of three shapes of one colour; some of the pairs were in pretraining."""
    rng = np.random.default_rng([seed, 74, index])
    colour = tuple(scenes.COLOURS)[int(rng.integers(len(scenes.COLOURS)))]
    chosen = rng.choice(len(scenes.SHAPES), 3, replace=False)
    counts = {f"{colour} {scenes.SHAPES[int(shape)]}": int(rng.integers(2, 5)) for shape in chosen}
    return scenes.shapes_scene(rng, counts, BACKBONE.image_size, BACKBONE.image_size)


@torch.no_grad()
def quality(system: t2icount.T2ICount, count: int = 100, seed: int = 0) -> dict[str, float]:
    """Return how well attention finds the prompted class: mean AUC over (scene, class) pairs (keys: see the card)."""
    system.eval()
    found: dict[str, list[float]] = {}
    for index in range(count):
        for name, scores, mask, things in _prompted(system, unseen_scene(index, seed)):
            found.setdefault(name, []).append(auc(scores, mask))
            if name == "fused" and (things & ~mask).any():
                found.setdefault("things", []).append(auc(scores[things], mask[things]))
        for name, scores, mask, things in _prompted(system, twins_scene(index, seed)):
            if name == "fused" and (things & ~mask).any():
                found.setdefault("shapes", []).append(auc(scores[things], mask[things]))
    return {name: float(np.mean(values)) for name, values in found.items()} | {"pairs": len(found["fused"])}


def _prompted(
    system: t2icount.T2ICount, scene: scenes.Scene
) -> Iterator[tuple[str, np.ndarray, np.ndarray, np.ndarray]]:
    """Yield, for each visible class and map: the map's name, the map, and where the class and any things are."""
    image = picture_of_scene(scene)[None].float() / 255
    masks = {label: scene.mask(label) for label in scene.counts()}
    things = np.any(list(masks.values()), axis=0)
    for label, mask in masks.items():
        if mask.any():
            for name, attention in _attention_maps(system, image, label).items():
                large = F.interpolate(attention, size=image.shape[-2:], mode="bilinear", align_corners=False)
                yield name, large[0, 0].numpy(), mask, things


def _attention_maps(system: t2icount.T2ICount, image: Tensor, prompt: str) -> dict[str, Tensor]:
    context, mask = system.context([prompt])
    outputs = system.decode(system.latent(image), context, mask)
    maps = {name: outputs.per_resolution[divisor] for name, divisor in t2icount.RESOLUTIONS.items()}
    for name, weights in (("paper", (0.6, 0.3, 0.1)), ("equal", (1 / 3, 1 / 3, 1 / 3))):
        maps[name] = t2icount.fused_attention(outputs.per_resolution, weights)
    return maps | {"fused": outputs.attention}


def pretrain(work: Path, weights: Path = WEIGHTS, plan: Plan | None = None, seed: int = 0) -> dict[str, Any]:
    """Train the tiny Stable Diffusion, going on from ``work``; write weights and card into ``weights``; return it."""
    plan = plan or Plan()
    made_from = f"{plan.model_dump_json()} {BACKBONE.model_dump_json()} {seed}"
    kept = Work(work, made_from)
    vae = _autoencoder(plan, seed, kept)
    text = frozen_text_encoder(seed)
    shown = as_latents(vae, [captioned_scene(index, seed, plan.side) for index in range(plan.scenes)])
    start = new_unet(seed)

    def denoising(step: int) -> Tensor:
        return _denoising_loss(start, text, shown, plan, np.random.default_rng([seed, 72, step]))

    unet = optimise(start, denoising, plan.steps, plan.lr, plan, kept, "denoising")
    _save(weights, vae, unet, text)
    alone = quality(mini_system(weights))
    drawn = as_latents(vae, [grounded_scene(index, seed, plan.side, plan) for index in range(plan.grounded_scenes)])
    run = sd.UNetPass(unet, differentiable=True)

    def grounding(step: int) -> Tensor:
        return _grounding_loss(run, text, drawn, plan, np.random.default_rng([seed, 76, step]))

    unet = optimise(unet, grounding, plan.grounded_steps, plan.grounded_lr, plan, kept, "grounding")
    _save(weights, vae, unet, text)
    return write_card(weights, _card(weights, plan, seed, kept.seconds(), alone))


def _save(weights: Path, vae: Any, unet: Any, text: Any) -> None:
    parts = {"vae": vae, "unet": unet, "text": text}
    state = {f"{part}.{name}": value for part, module in parts.items() for name, value in module.state_dict().items()}
    save_half(state, weights / "mini_sd.safetensors")


def _autoencoder(plan: Plan, seed: int, work: Work) -> Any:
    """Return the trained autoencoder, from what was kept of an earlier call if there is."""
    if (state := work.kept("vae")) is None:
        large = [captioned_scene(index, seed, plan.vae_side) for index in range(plan.vae_scenes)]
        state = {"vae": train_vae(torch.stack([scene.image for scene in large]), plan, seed).state_dict()}
        work.keep("vae", state)
    vae = sd.autoencoder(BACKBONE)
    vae.load_state_dict(state["vae"])
    return vae.eval().requires_grad_(False)


def mini_system(weights: Path | None = WEIGHTS) -> t2icount.T2ICount:
    """Return T2ICount on the tiny Stable Diffusion of the folder ``weights``; None: on random weights (seeded)."""
    torch.manual_seed(0)
    settings = t2icount.T2ICount.mini_settings() | {"backbone": BACKBONE, "weights": "random"}
    system = t2icount.T2ICount(t2icount.T2ICountSettings(**settings))
    if weights is not None:
        system.load_state_dict(sd.mini_weights(weights / "mini_sd.safetensors", system.base_state()), strict=False)
    return system.eval()


@torch.no_grad()
def _reconstruction_error(weights: Path) -> float:
    """Return the mean squared error of the autoencoder on 32 unseen scenes, pictures in [-1, 1]."""
    vae = sd.autoencoder(BACKBONE)
    stored = load_file(weights / "mini_sd.safetensors")
    vae.load_state_dict({name.removeprefix("vae."): value for name, value in stored.items() if name.startswith("vae.")})
    images = scaled(torch.stack([picture_of_scene(unseen_scene(index, 1)) for index in range(32)]))
    return float(F.mse_loss(vae.eval()(images).sample, images))


def _card(weights: Path, plan: Plan, seed: int, seconds: float, alone: Mapping[str, float]) -> dict[str, Any]:
    trained = mini_system(weights)
    parts = {"unet": trained.unet, "vae_encoder": trained.vae, "text_encoder": trained.text}
    return {
        "name": "mini_sd",
        "seed": seed,
        "cpu_seconds": round(seconds),
        "licence": "MIT (made by recount from its own drawings)",
        "backbone": BACKBONE.model_dump(mode="json"),
        "plan": plan.model_dump(mode="json"),
        "parameters": {name: sum(value.numel() for value in part.parameters()) for name, part in parts.items()},
        "attention_auc": quality(trained),
        "attention_auc_denoising_alone": dict(alone),
        "attention_auc_random": quality(mini_system(None)),
        "reconstruction_mse": _reconstruction_error(weights),
    }
