"""CounTX: open-world counting by text; CLIP's image encoder is fine-tuned whole, its text encoder is frozen.

Amini-Naieni, Amini-Naieni, Han, Zisserman, "Open-world Text-specified Object Counting" (BMVC 2023, arXiv 2306.01851).
Numbers checked against niki-amini-naieni/CounTX@6e2af64 (MIT; golden cases ``countx.json``); the towers are open_clip's
(MIT) with LAION's weights ViT-B-16 ``laion2b_s34b_b88k`` (MIT).

Every default is the released code's. Its copy of open_clip projects every image token without the last norm
(``vision_norm: none``). It is trained and tested with the descriptions of FSC-147-D (``text``); where a data set has
none, the description is "the" and the class name, as those are for 93 % of FSC-147. ``test_text: class_name`` tests the
model that was trained with descriptions with bare class names. Pictures are resized to CLIP's size with antialiasing,
which under the authors' torchvision 0.11 their argument asks for.

Deviation: selection is on every ``evaluate_every``-th epoch of the recipe, 1 as released.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, Literal

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional

from recount.augmentation.countr_protocol import DENSITY_SCALE, CarpkWidth
from recount.augmentation.text_guided import COUNTX, CountrAugmentation
from recount.data.sample import Sample
from recount.nn.clip import MINI_TOWERS, NOT_A_TOWER, ClipTowers, FrozenText, image_tower
from recount.nn.interaction import InteractionBlock
from recount.nn.maps import kept_pixels
from recount.nn.precision import full_precision
from recount.nn.weights import read_released, renamed
from recount.settings.base import Strict
from recount.settings.recipe import Optimiser, Recipe, Schedule
from recount.systems.base import READING, Batch, Prediction
from recount.systems.countr_family import CountrSystem, Crops

PATCH = 16  # pixels of the window per cell of the decoder's first map: four doublings
GROUPS = 8  # of the decoder's norms
KEPT = 0.8  # share of pixels whose error counts in a step

Text = Literal["fsc147_d", "class_name"]


class CounTXSettings(Strict):
    """CounTX's settings; the defaults are the released code's."""

    clip: ClipTowers = ClipTowers(activation="gelu")
    weights: str = Field("laion2b_s34b_b88k", description='of open_clip, "mini_towers", a path, or "random"')
    window: int = Field(384, gt=0, multiple_of=48, description="edge of training crops and windows; stride: a third")
    resize_antialias: bool = Field(True, description="of the bicubic resize to CLIP's size")
    vision_norm: Literal["none", "ln_post"] = Field("none", description="ln_post is stock open_clip's")
    text: Text = Field("fsc147_d", description="what is said of a picture: its description, or the bare class name")
    test_text: Text | None = Field(None, description="outside training; null: as text", json_schema_extra=READING)
    heads: int = Field(16, gt=0)
    decoder_width: int = Field(256, gt=0, multiple_of=8)
    density_scale: float = Field(DENSITY_SCALE, gt=0)
    augmentation: CountrAugmentation = COUNTX
    carpk_width: CarpkWidth = Field(683, json_schema_extra=READING)
    carpk_antialias: bool = Field(
        False,
        description="of resizing pictures that are not as high as a window, as CARPK's",
        json_schema_extra=READING,
    )


def description(sample: Sample, text: Text) -> str:
    """Return what CounTX is told about a sample."""
    if text == "class_name":
        return sample.prompt
    return str(sample.attributes.get("description", f"the {sample.prompt}"))


def position_table(grid: int, width: int) -> Tensor:
    """Return the fixed table [1, grid * grid, width]: for the column, then for the row, all sines, then all cosines."""
    frequencies = 10000.0 ** (-torch.arange(width // 4, dtype=torch.float64) / (width / 4))
    angles = torch.arange(grid, dtype=torch.float64)[:, None] * frequencies
    line = torch.cat([angles.sin(), angles.cos()], dim=1)  # (grid, width / 2)
    columns, rows = line.repeat(grid, 1), line.repeat_interleave(grid, dim=0)
    return torch.cat([columns, rows], dim=1)[None].float()


def image_tokens(tower: Any, images: Tensor, norm: str) -> Tensor:
    """Return the image tokens: projected patch tokens [B, n, features] of normalised images of the tower's size."""
    tokens = tower.transformer(tower._embeds(images))  # open_clip's own embedding, norm before the blocks included
    if norm == "ln_post":
        tokens = tower.ln_post(tokens)
    return (tokens @ tower.proj)[:, 1:]


def _head(low: int, width: int) -> list[nn.Module]:
    return [nn.Conv2d(low, width, 3, padding=1), nn.GroupNorm(GROUPS, width), nn.ReLU(inplace=True)]


def train_loss(density: Tensor, target: Tensor, mask: Tensor) -> Tensor:
    """Return the training loss: the squared error under ``mask`` [H, W], per pixel and image of scaled densities."""
    return ((density - target) ** 2 * mask).sum() / (mask.numel() * len(density))


class CounTX(CountrSystem):
    """The whole network; its density has the resolution of the picture."""

    Settings = CounTXSettings
    recipe = Recipe(
        epochs=1000,
        batch_size=8,
        optimiser=Optimiser(name="adamw", lr=6.25e-6, betas=(0.9, 0.95), weight_decay=0.05),
        schedule=Schedule(name="warmup_cosine", unit="fraction", warmup=10),
        precision="fp16",
        evaluation_precision="fp32",  # validation and test are outside autocast
        evaluate_every=1,
        select_by="mae",
    )
    image_prefix = "image."
    settings: CounTXSettings
    fim_pos_embed: Tensor

    def __init__(self, settings: CounTXSettings) -> None:
        super().__init__(settings, "halving")
        towers, width = settings.clip, settings.decoder_width
        self.image = image_tower(towers)
        self.text = FrozenText(towers)
        self.register_buffer("fim_pos_embed", position_table(towers.grid, towers.features))
        self.fim_blocks = nn.ModuleList(InteractionBlock(towers.features, settings.heads, eps=1e-6) for _ in range(2))
        self.fim_norm = nn.LayerNorm(towers.features, eps=1e-6)
        for layer in self.fim_blocks.modules():
            if isinstance(layer, nn.Linear):
                nn.init.xavier_uniform_(layer.weight)
                nn.init.zeros_(layer.bias)
        self.decode_head0 = nn.Sequential(*_head(towers.features, width))
        self.decode_head1 = nn.Sequential(*_head(width, width))
        self.decode_head2 = nn.Sequential(*_head(width, width))
        self.decode_head3 = nn.Sequential(*_head(width, width), nn.Conv2d(width, 1, 1))

    @classmethod
    def mini_settings(cls) -> dict[str, Any]:
        """Return the tiny towers that come with recount, on windows of 144 pixels."""
        # Targets are wide and well above one: of the released ones, too little is learnt in a few hundred steps.
        return {
            **{"clip": MINI_TOWERS, "weights": "mini_towers", "window": 144, "heads": 4, "decoder_width": 32},
            **{"density_scale": 600.0, "augmentation": {**COUNTX.model_dump(), "sigma": 4.0}},
        }

    def interact(self, tokens: Tensor, text: Tensor) -> Tensor:
        """Return the feature interaction: image tokens [B, n, C] that have read the text [B, 1, C] twice, normed."""
        tokens = tokens + self.fim_pos_embed.to(tokens.dtype)
        for block in self.fim_blocks:
            tokens = block(tokens, text)
        return self.fim_norm(tokens)

    def decode(self, tokens: Tensor) -> Tensor:
        """Return the decoder's density map [B, 1, window, window], scaled, of tokens [B, n, C]."""
        grid, cells = self.settings.clip.grid, self.settings.window // PATCH
        x = tokens.transpose(1, 2).unflatten(2, (grid, grid))
        x = functional.interpolate(x, size=(cells, cells), mode="bilinear", align_corners=False)
        for head in (self.decode_head0, self.decode_head1, self.decode_head2, self.decode_head3):
            x = functional.interpolate(head(x), scale_factor=2, mode="bilinear", align_corners=False)
        return x

    def count(self, images: Tensor, prompts: Sequence[str]) -> Tensor:
        """Return the scaled density [B, 1, window, window] of windows [B, 3, window, window] in [0, 1]."""
        settings = self.settings
        resize = partial(functional.interpolate, mode="bicubic", antialias=settings.resize_antialias)
        small = self.normalise(resize(images, (settings.clip.image_size,) * 2))
        tokens = image_tokens(self.image, small, settings.vision_norm)
        return self.decode(self.interact(tokens, self.text(prompts)[:, None]))

    def example_maker(self) -> Crops:
        """Return the maker of augmented crops, prompted by the description or the class name."""
        return replace(super().example_maker(), prompt_of=partial(description, text=self.settings.text))

    def losses(self, batch: Batch) -> dict[str, Tensor]:
        """Return "density", the masked squared error."""
        density = full_precision(self.count(batch.images, batch.prompts))
        mask = kept_pixels(density, KEPT, batch.seed)
        return {"density": train_loss(density, self.settings.density_scale * batch.maps["density"], mask)}

    def parameter_groups(self, recipe: Recipe) -> list[dict[str, Any]]:
        """Return parameters with weight decay, and without (vectors, biases, norms)."""
        trained = [parameter for parameter in self.parameters() if parameter.requires_grad]
        return [
            {"params": [parameter for parameter in trained if parameter.ndim > 1]},
            {"params": [parameter for parameter in trained if parameter.ndim <= 1], "weight_decay": 0.0},
        ]

    def prompt_of(self, sample: Sample) -> str:
        """Return the description of a sample, or its class name."""
        return description(sample, self.settings.test_text or self.settings.text)

    def predict(self, images: Tensor, prompts: Sequence[str]) -> Prediction:
        """Return the density per pixel of windows, which may be negative."""
        return Prediction(density=self.count(images, prompts).float() / self.settings.density_scale)

    @classmethod
    def import_checkpoint(cls, path: Path, settings: CounTXSettings) -> dict[str, Tensor]:
        """Read a released checkpoint, which holds both towers too."""
        return renamed(read_released(path, "model"), our_name, cls(settings).state_dict(), source=path)


def our_name(key: str) -> str | None:
    """Return our name of a key of the released network; None for numbers beside CLIP's weights."""
    if not key.startswith("clip_model."):
        return key
    name = key.removeprefix("clip_model.")
    if name in NOT_A_TOWER:
        return None
    return f"image.{name.removeprefix('visual.')}" if name.startswith("visual.") else f"text.tower.{name}"


EQUATIONS: dict[str, Callable[..., Any]] = {
    "image tokens: the encoder that is fine-tuned": image_tokens,
    "feature interaction: image tokens read the text": CounTX.interact,
    "decoder: the density map": CounTX.decode,
    "training loss: masked squared error": train_loss,
}
"""The paper's steps, in words: the sources that this was written from do not number its equations."""

SYSTEM = CounTX
