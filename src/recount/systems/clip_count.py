"""CLIP-Count: zero-shot counting by text on a frozen CLIP with learned visual prompts and a learned text context.

Jiang, Liu, Chen, "CLIP-Count: Towards Text-Guided Zero-Shot Object Counting" (ACM MM 2023, arXiv 2305.07304). Numbers
checked against songrise/CLIP-Count@ba57fd0 (MIT; golden cases ``clip_count.json``); CLIP's towers are open_clip's (MIT)
with OpenAI's weights.

Every default is the released code's, with its slips, each of which has a setting:

* ``eot_index``: the text is read at the end token's place *before* two context vectors are inserted, so a class name of
  n tokens is read after n - 1 of them, and all names of one token have one and the same embedding;
* ``count_mask``: the mask multiplies a loss that is a scalar already, so it masks nothing;
* ``vpt_index``: the first set of visual prompts is used twice and the last never;
* ``output_activation``: a sigmoid, at most 1, for targets that peak at 9.55;
* ``augmentation.mosaic_jitter``: the colours of mosaics are jittered, then the unjittered crops are taken.

Deviations: selection is by whole validation pictures (the release measures one random crop of each); CLIP computes in
the recipe's precision. ``decoder_ln_pre``, ``decoder_norm`` and the first block's convolution are never used, as there.
"""

import math
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Literal, cast

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional

from recount.augmentation.countr_protocol import DENSITY_SCALE, CarpkWidth, is_car_park
from recount.augmentation.text_guided import CLIP_COUNT, CountrAugmentation
from recount.data.sample import Sample
from recount.errors import UserError
from recount.nn.clip import MINI_TOWERS, ClipTowers, embedded_patches, image_tower, read_at, text_tower, token_ids
from recount.nn.interaction import InteractionBlock
from recount.nn.maps import kept_pixels
from recount.nn.precision import full_precision, without_autocast
from recount.nn.weights import read_released, renamed
from recount.settings.base import Strict
from recount.settings.recipe import Optimiser, Recipe, Schedule
from recount.systems.base import READING, Batch, Prediction
from recount.systems.countr_family import CountrSystem

GROUPS = 8  # of the decoder's norms
CONTEXT_VECTORS = 2  # learned, before the class name
DROPOUT = 0.1
TEMPERATURE = 0.07  # of the contrast
CONTRAST_EPS = 1e-5
KEPT = 0.8  # share of the count loss's mask that is one
CARPK_PROMPT = "car"  # what the released script asks for in CARPK's pictures
FROZEN = ("image.tower.", "text.tower.")


class ClipCountSettings(Strict):
    """CLIP-Count's settings; the defaults are the released code's."""

    clip: ClipTowers = ClipTowers()
    weights: str = Field("openai", description='"openai" (open_clip fetches them), "mini_towers", a path, or "random"')
    window: int = Field(384, gt=0, multiple_of=48, description="edge of training crops and windows; stride: a third")
    resize_antialias: bool = Field(False, description="of the resize to CLIP's size; off in the authors' torchvision")
    visual_prompts: int = Field(20, gt=0, description="tokens")
    prompted_blocks: int = Field(10, gt=0, description="blocks that see prompts; the others see none")
    vpt_index: Literal["previous", "own"] = Field("previous", description="which prompts block i > 0 gets: i - 1, or i")
    eot_index: Literal["as_released", "fixed"] = "as_released"
    width: int = Field(512, gt=0, description="of the interaction")
    heads: int = Field(8, gt=0)
    decoder_widths: tuple[int, int, int, int] = (256, 128, 64, 32)
    output_activation: Literal["sigmoid", "linear"] = "sigmoid"
    density_scale: float = Field(DENSITY_SCALE, gt=0)
    count_mask: Literal["scalar", "spatial"] = "scalar"
    contrast_epochs: int = Field(20, ge=0, description="epochs 0 to this one train the contrast alone (paper: 30)")
    augmentation: CountrAugmentation = CLIP_COUNT
    carpk_width: CarpkWidth = Field(682, json_schema_extra=READING)
    carpk_antialias: bool = Field(
        True, description="of resizing pictures that are not as high as a window, as CARPK's", json_schema_extra=READING
    )


class PromptedImage(nn.Module):
    """The frozen ViT with visual prompts: learned tokens after the class token, replaced before each block."""

    def __init__(self, towers: ClipTowers, prompts: int, blocks: int, index: str) -> None:
        super().__init__()
        self.tower = image_tower(towers).requires_grad_(False)
        self.blocks, self.index, width = blocks, index, towers.vision_width
        bound = math.sqrt(6 / (3 * towers.patch**2 + width))
        self.visual_prompt = nn.Parameter(torch.empty(blocks, prompts, width).uniform_(-bound, bound))
        self.vpt_norm = nn.LayerNorm(width, eps=1e-6)
        self.vpt_proj = nn.Linear(width, width)
        nn.init.kaiming_normal_(self.vpt_proj.weight, a=0, mode="fan_out")
        self.dropout = nn.Dropout(DROPOUT)

    def prompt(self, block: int, batch: int) -> Tensor:
        """Return the prompt tokens of a block, [B, prompts, width]; dropout draws a mask for each image."""
        row = max(block - 1, 0) if self.index == "previous" else block
        return self.dropout(self.vpt_proj(self.visual_prompt[row]).expand(batch, -1, -1))

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Return states of class token and patches [B, 1 + n, width] and the projected class token [B, 1, features]."""
        tower, batch, after = self.tower, len(images), 1 + self.visual_prompt.shape[1]
        tokens = embedded_patches(tower, images)
        tokens = tower.ln_pre(torch.cat([tokens[:, :1], self.prompt(0, batch).to(tokens), tokens[:, 1:]], dim=1))
        for number, block in enumerate(tower.transformer.resblocks):
            if 0 < number < self.blocks:
                tokens = torch.cat([tokens[:, :1], self.prompt(number, batch).to(tokens), tokens[:, after:]], dim=1)
            elif number == self.blocks:
                tokens = torch.cat([tokens[:, :1], tokens[:, after:]], dim=1)
            tokens = block(tokens)
        if self.blocks >= len(tower.transformer.resblocks):
            tokens = torch.cat([tokens[:, :1], tokens[:, after:]], dim=1)
        states = self.vpt_norm(tokens)
        return states, tower.ln_post(states[:, :1]) @ tower.proj


class ContextText(nn.Module):
    """The frozen text tower with a text context: learned vectors after the start token."""

    def __init__(self, towers: ClipTowers, vectors: int, index: str) -> None:
        super().__init__()
        self.towers, self.index = towers, index
        self.tower = text_tower(towers).requires_grad_(False)
        self.learnable_context = nn.Parameter(0.02 * torch.randn(vectors, towers.text_width))

    def forward(self, prompts: Sequence[str]) -> Tensor:
        """Return text features [B, 1, features] of bare class names."""
        tokens = token_ids(prompts, self.towers).to(self.learnable_context.device)
        vectors, length = len(self.learnable_context), tokens.shape[1]
        embedded = self.tower.token_embedding(tokens)  # (B, L, width)
        context = self.learnable_context.to(embedded).expand(len(tokens), -1, -1)
        embedded = torch.cat([embedded[:, :1], context, embedded[:, 1:]], dim=1)[:, :length]
        end = tokens.argmax(dim=1)  # the end token has the highest id
        if self.index == "fixed":
            end = (end + vectors).clamp(max=length - 1)
        return read_at(self.tower, embedded, end)[:, None]


def position_table(length: int, width: int) -> Tensor:
    """Return the fixed table [1, length, width]: even channels sine, odd channels cosine of the token's number."""
    # In single precision, as released: for the last tokens that differs from exact sines in the sixth digit.
    frequencies = torch.exp(torch.arange(0, width, 2).float() * -(math.log(10000.0) / width))
    angles = torch.arange(length).float()[:, None] * frequencies
    return torch.stack([angles.sin(), angles.cos()], dim=-1).flatten(1)[None]


def _conv_norm(low: int, high: int, size: int) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(low, high, size, padding=size // 2), nn.GroupNorm(GROUPS, high), nn.GELU())


class DensityDecoder(nn.Module):
    """Four stages of convolution and doubling, from the coarse to the window's resolution."""

    def __init__(self, width: int, widths: Sequence[int], window: int, activation: str) -> None:
        super().__init__()
        self.window = window
        lows = (width, *widths[:-1])
        self.convs = nn.ModuleList(_conv_norm(low, high, 3) for low, high in zip(lows, widths, strict=True))
        self.pyradim_conv = _conv_norm(width, widths[0], 1)  # the released spelling
        final = nn.Sigmoid() if activation == "sigmoid" else nn.Identity()
        self.final_conv = nn.Sequential(nn.Conv2d(widths[-1], 1, 1), final)
        for layer in self.modules():
            if isinstance(layer, nn.Conv2d):
                nn.init.xavier_normal_(layer.weight)

    def forward(self, coarse: Tensor, fine: Tensor) -> Tensor:
        """Return the scaled density [B, 1, window, window] of coarse [B, C, h, w] and fine [B, C, 2h, 2w] features."""
        x = coarse
        for stage, conv in enumerate(self.convs):
            if stage == 1:
                x = x + self.pyradim_conv(fine)
            x = conv(x)
            last = stage == len(self.convs) - 1
            size = (self.window,) * 2 if last else (2 * x.shape[-2], 2 * x.shape[-1])
            x = functional.interpolate(x, size=size, mode="bilinear", align_corners=False)
        return self.final_conv(x)


def contrastive_losses(patches: Tensor, text: Tensor, density: Tensor, towers: ClipTowers) -> Tensor:
    """Return L_con, the patch-text contrastive loss of each image, [B]; about 18 for a crop without objects.

    Of ``patches`` [B, n, C], row by row, and ``text`` [B, 1, C]; those with ``density`` [B, 1, H, W] are positive.
    """
    cosines = functional.cosine_similarity(patches, text, dim=-1)  # (B, n)
    small = functional.interpolate(density, size=(towers.image_size, towers.image_size), mode="nearest")
    positive = functional.max_pool2d(small, towers.patch).flatten(1) > 0  # (B, n)
    weights = (cosines / TEMPERATURE).exp()
    positives, negatives = (weights * positive).sum(dim=1), (weights * ~positive).sum(dim=1)
    share = (positives + CONTRAST_EPS) / (positives + negatives + 2 * CONTRAST_EPS)
    return -share.log()


def count_loss(density: Tensor, target: Tensor, mask: Tensor, *, spatial: bool) -> Tensor:
    """Return L_count, the squared error under ``mask`` [H, W], of pixels if ``spatial``; as released, of the mean."""
    errors = (density - target) ** 2
    return (errors * mask).mean() if spatial else (errors.mean() * mask).mean()


class ClipCount(CountrSystem):
    """The whole network; its density has the resolution of the picture."""

    Settings = ClipCountSettings
    recipe = Recipe(
        epochs=220,
        batch_size=32,
        optimiser=Optimiser(name="adamw", lr=1e-4, betas=(0.9, 0.95), weight_decay=0.05),
        schedule=Schedule(name="step", period=100, factor=0.33),
        precision="fp16",
        evaluate_every=1,
        select_by="mae",
    )
    settings: ClipCountSettings
    patch_emb_pos_embed: Tensor

    def __init__(self, settings: ClipCountSettings) -> None:
        super().__init__(settings, "sigmoid")
        towers, width = settings.clip, settings.width
        self.contrasting = settings.contrast_epochs > 0
        self.image = PromptedImage(towers, settings.visual_prompts, settings.prompted_blocks, settings.vpt_index)
        self.text = ContextText(towers, CONTEXT_VECTORS, settings.eot_index)
        self.patch_feat_proj = nn.Linear(towers.vision_width, width)
        nn.init.xavier_normal_(self.patch_feat_proj.weight)
        self.patch_feat_proj_contrast = nn.Linear(towers.vision_width, towers.features)
        self.register_buffer("patch_emb_pos_embed", position_table(towers.grid**2, width))
        self.decoder_ln_pre = nn.LayerNorm(width)
        common: dict[str, Any] = {"dropout": DROPOUT, "drop_path": DROPOUT, "convolution": True}
        self.fim_blocks = nn.ModuleList(InteractionBlock(width, settings.heads, **common) for _ in range(2))
        self.decoder_norm = nn.LayerNorm(width)
        sizes = (width, settings.decoder_widths, settings.window)
        self.density_decoder = DensityDecoder(*sizes, settings.output_activation)

    @classmethod
    def mini_settings(cls) -> dict[str, Any]:
        """Return the tiny towers that come with recount, on windows of 144 pixels."""
        # Targets are blobs of an object's size just below one, the most that the sigmoid gives: it starts at one half,
        # and with narrow peaks what is left of that outweighs all objects after so short a training.
        return {
            **{"clip": MINI_TOWERS, "weights": "mini_towers", "window": 144, "visual_prompts": 4, "prompted_blocks": 2},
            **{"width": 64, "heads": 4, "decoder_widths": (32, 24, 16, 8), "density_scale": 200.0},
            **{"augmentation": {**CLIP_COUNT.model_dump(), "sigma": 6.0}, "contrast_epochs": 1},
        }

    def begin_epoch(self, epoch: int, samples: Sequence[Sample]) -> None:
        """Choose the loss: the contrast alone at first, the count alone afterwards."""
        self.contrasting = self.settings.contrast_epochs > 0 and epoch <= self.settings.contrast_epochs

    def patch_features(self, images: Tensor) -> Tensor:
        """Return patch states [B, n, vision width] of images [B, 3, H, W] in [0, 1]."""
        size = self.settings.clip.image_size
        resize = partial(functional.interpolate, mode="bilinear", antialias=self.settings.resize_antialias)
        return self.image(self.normalise(resize(images, (size, size))))[0][:, 1:]

    def decode(self, patches: Tensor, text: Tensor) -> Tensor:
        """Return the scaled density [B, 1, window, window] of patch states [B, n, C] and text [B, 1, features]."""
        coarse, fine = self.interact(patches, text)
        grid = self.settings.clip.grid
        maps = (x.transpose(1, 2).unflatten(2, (side, side)) for x, side in ((coarse, grid), (fine, 2 * grid)))
        return self.density_decoder(*maps)

    def interact(self, patches: Tensor, text: Tensor) -> tuple[Tensor, Tensor]:
        """Return what the hierarchical patch-text interaction makes: tokens [B, n, width] and [B, 4n, width]."""
        grid = self.settings.clip.grid
        first, second = cast("Sequence[InteractionBlock]", self.fim_blocks)
        tokens = self.patch_feat_proj(patches) + self.patch_emb_pos_embed.to(patches.dtype)
        coarse = first(tokens, text)
        return coarse, second(second.doubled(coarse, (grid, grid)), text)

    def losses(self, batch: Batch) -> dict[str, Tensor]:
        """Return "contrast" in the first epochs, "count" later."""
        settings = self.settings
        patches, text = self.patch_features(batch.images), self.text(batch.prompts)
        target = batch.maps["density"]
        if self.contrasting:
            projected = self.patch_feat_proj_contrast(patches)
            with without_autocast(target.device):
                pair = full_precision(projected), full_precision(text)
                return {"contrast": contrastive_losses(*pair, target, settings.clip).mean()}
        density = full_precision(self.decode(patches, text))
        mask, spatial = kept_pixels(density, KEPT, batch.seed), settings.count_mask == "spatial"
        return {"count": count_loss(density, settings.density_scale * target, mask, spatial=spatial)}

    def prompt_of(self, sample: Sample) -> str:
        """Return the class name; for CARPK's pictures the singular, as the released script has it."""
        return CARPK_PROMPT if is_car_park(sample) else sample.prompt

    def predict(self, images: Tensor, prompts: Sequence[str]) -> Prediction:
        """Return the density per pixel of windows."""
        density = self.decode(self.patch_features(images), self.text(prompts))
        return Prediction(density=density.float() / self.settings.density_scale)

    @classmethod
    def import_checkpoint(cls, path: Path, settings: ClipCountSettings) -> dict[str, Tensor]:
        """Read a released Lightning checkpoint, which holds all but CLIP, and put the base weights beside it."""
        if settings.weights == "random":
            raise UserError(
                f'{path}: the released file holds no CLIP; set weights: openai, or the path of ViT-B/16, not "random"'
            )
        network = cls(settings)
        own = {key: value for key, value in network.state_dict().items() if not key.startswith(FROZEN)}
        return network.base_state() | renamed(read_released(path), our_name, own, source=path)


def our_name(key: str) -> str | None:
    """Return our name of a released key; None for parts of CLIP, which are stripped on saving."""
    name = key.removeprefix("model.")  # Lightning's
    if name.startswith(("clip.", "img_encoder.vit.", "text_encoder.clip")):
        return None
    return name.replace("img_encoder.", "image.", 1).replace("text_encoder.", "text.", 1)


EQUATIONS: dict[str, Callable[..., Any]] = {
    "visual prompts: image side": PromptedImage,
    "text context: text side": ContextText,
    "L_con: patch-text contrastive loss": contrastive_losses,
    "hierarchical patch-text interaction": ClipCount.interact,
    "L_count: density regression": count_loss,
}
"""The paper's steps, in words: the sources that this was written from do not number its equations."""

SYSTEM = ClipCount
