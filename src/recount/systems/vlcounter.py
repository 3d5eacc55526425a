"""VLCounter: zero-shot counting by text; its visual prompts depend on the text, and similarity leads its decoder.

Kang, Moon, Kim, Heo, "VLCounter: Text-Aware Visual Representation for Zero-Shot Object Counting" (AAAI 2024, arXiv
2312.16580). Numbers checked against Seunggu0305/VLCounter@6321e06 (golden cases ``vlcounter.json``), which carries no
licence: this file is written from a description. CLIP's towers are open_clip's (MIT) with OpenAI's weights.

The image side is CLIP's ViT at 384 pixels with ten tokens per block that are made of learned vectors and the text;
its last block keeps the value path only. The products of projected patches with the projected text, after a learned
affine map per cell, are concatenated to the patches and multiply the skip connections of the decoder.

Every default is the released code's: the class embedding is added twice (``cls_twice``), training maps have sigma 3,
the rank loss weighs 1e-6, and on car parks a hand-made rule corrects the count (``carpk_cell_rule``). The released
rule is that of a script for CARPK; here it applies to every data set that asks for cars and has boxes (CARPK and its
stand-in). ``pucpr_normalise: false`` is the released PUCPR+ script, which asks for vehicles and forgets the
normalisation; the prompt tells.

Deviations: the earlier of two equally good epochs is kept (the release keeps the later); names outside FSC-147's 147
classes go into the templates as they are (the release asks the package inflect for a plural).
"""

import math
from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional

from recount.augmentation.countr_protocol import CELL, DENSITY_SCALE, CarpkWidth, is_car_park
from recount.augmentation.text_guided import VLCOUNTER, CountrAugmentation
from recount.data.sample import Sample
from recount.errors import UserError
from recount.nn import clip
from recount.nn.clip import MINI_TOWERS, NOT_A_TOWER, ClipTowers, FrozenText
from recount.nn.precision import full_precision, without_autocast
from recount.nn.weights import read_released, renamed
from recount.settings.base import Strict
from recount.settings.recipe import Optimiser, Recipe
from recount.systems.base import READING, Batch, Prediction
from recount.systems.countr_family import CountrSystem

TEMPLATES = (
    *(f"a photo of a number of {size}{{}}." for size in ("", "small ", "medium ", "large ")),
    *(f"there are a photo of a number of {size}{{}}." for size in ("", "small ", "medium ", "large ")),
    "a number of {} in the scene.",
    "a photo of a number of {} in the scene.",
    "there are a number of {} in the scene.",
)
SINGULARS = (
    *("chopstick", "cupcake tray", "donuts tray", "fresh cut", "go game", "goldfish snack", "ice cream", "lipstick"),
    *("naan bread", "skateboard", "spoon", "watermelon"),
)
PLURALS = {name: f"{name}s" for name in SINGULARS}  # of FSC-147's class names that inflect 7.6.0 takes for singulars
PLURALS |= {"nail polish": "nail polishes", "supermarket shelf": "supermarket shelves"}
PUCPR_PROMPT = "vehicles"
CELL_LIMIT = 1.224  # objects in a cell of 16 x 16 pixels above which the rule for cars takes one away
RANK_EDGES = (1.0, 0.8, 0.6, 0.4)
GROUPS = 8  # of the decoder's norms
DROPOUT = 0.1  # of the visual prompts


class VLCounterSettings(Strict):
    """VLCounter's settings; the defaults are the released code's."""

    clip: ClipTowers = Field(ClipTowers(image_size=384), description="positions are enlarged from CLIP's 14 x 14")
    weights: str = Field("openai", description='"openai" (open_clip fetches them), "mini_towers", a path, or "random"')
    window: int = Field(384, gt=0, multiple_of=48, description="edge of training crops and windows; stride: a third")
    visual_prompts: int = Field(10, gt=0, description="tokens per block")
    cls_twice: bool = Field(True, description="the class embedding is added to itself")
    skips: tuple[int, int, int] = Field((8, 7, 6), description="blocks whose output goes to decoder stages 1, 2, 3")
    width: int = Field(64, gt=0, multiple_of=8, description="of the counter")
    density_scale: float = Field(DENSITY_SCALE, gt=0)
    rank_weight: float = Field(1e-6, ge=0)
    augmentation: CountrAugmentation = Field(VLCOUNTER, description="its sigma, 3, is that of the training maps")
    carpk_width: CarpkWidth = Field(683, json_schema_extra=READING)
    carpk_antialias: bool = Field(
        False,
        description="of resizing pictures that are not as high as a window, as CARPK's",
        json_schema_extra=READING,
    )
    carpk_cell_rule: bool = Field(True, description="hand-made correction on car parks", json_schema_extra=READING)
    pucpr_normalise: bool = Field(False, description="normalise PUCPR+; not in the release", json_schema_extra=READING)


def sentences(name: str) -> list[str]:
    """Return the eleven sentences about a class name, in the plural."""
    return [template.format(PLURALS.get(name, name)) for template in TEMPLATES]


def mean_direction(features: Tensor) -> Tensor:
    """Return the normalised mean of normalised features: [B, 11, C] -> [B, C]."""
    return functional.normalize(functional.normalize(features, dim=-1).mean(dim=1), dim=-1)


class TextPromptedImage(nn.Module):
    """The frozen ViT with semantic-conditioned prompts, made of vectors and text, and a last block without mixing."""

    def __init__(self, towers: ClipTowers, text: int, settings: VLCounterSettings) -> None:
        super().__init__()
        self.tower = clip.image_tower(towers).requires_grad_(False)
        self.grid, self.cls_twice = towers.grid, settings.cls_twice
        self.kept = tuple(sorted(settings.skips))
        width, prompts = towers.vision_width, settings.visual_prompts
        bound = math.sqrt(6 / (3 * towers.patch**2 + width))
        self.prompt_embeddings = nn.Parameter(torch.empty(1, prompts, width).uniform_(-bound, bound))
        deep = torch.empty(towers.vision_layers - 1, prompts, width).uniform_(-bound, bound)
        self.deep_prompt_embeddings = nn.Parameter(deep)
        self.prompt_proj = nn.Linear(width, width)
        self.text_proj = nn.Linear(text, width)
        for layer in (self.prompt_proj, self.text_proj):
            nn.init.kaiming_normal_(layer.weight, a=0, mode="fan_out")
        self.prompt_norm = nn.LayerNorm(width, eps=1e-6)
        self.dropout = nn.Dropout(DROPOUT)

    def _slots(self, block: int, text: Tensor) -> Tensor:
        """Return the tokens of a block for texts [B, 1, C], [B, prompts, width]; dropout: a mask per image and slot."""
        vectors = self.prompt_embeddings[0] if block == 0 else self.deep_prompt_embeddings[block - 1]
        shape = (len(text), len(vectors), -1)
        return self.dropout(self.prompt_proj(vectors).expand(shape)) + self.dropout(self.text_proj(text).expand(shape))

    def _square(self, tokens: Tensor) -> Tensor:
        """Return patch tokens [B, 1 + prompts + n, C] as a map of unit length over channels, [B, C, h, w]."""
        patches = tokens[:, -(self.grid**2) :]
        return functional.normalize(patches.transpose(1, 2).unflatten(2, (self.grid, self.grid)), dim=1)

    def forward(self, images: Tensor, text: Tensor) -> tuple[dict[int, Tensor], Tensor]:
        """Return the kept blocks' maps [B, width, h, w] by number, and the final one, of unit text [B, 1, features]."""
        tokens = self.tower.ln_pre(clip.embedded_patches(self.tower, images, cls_twice=self.cls_twice))
        after_slots = 1 + self.prompt_embeddings.shape[1]
        *blocks, last = self.tower.transformer.resblocks
        maps = {}
        for number, block in enumerate(blocks):
            rest = tokens[:, 1:] if number == 0 else tokens[:, after_slots:]
            tokens = block(torch.cat([tokens[:, :1], self._slots(number, text).to(tokens), rest], dim=1))
            if number in self.kept:
                maps[number] = self._square(tokens)
        patches = clip.values_only(last, tokens[:, after_slots:])
        return maps, self._square(self.tower.ln_post(self.prompt_norm(patches)) @ self.tower.proj)


class Stage(nn.Module):
    """A convolution, then a norm, GELU and doubling; the last one's norm is there for the checkpoint's sake only."""

    def __init__(self, low: int, high: int, *, last: bool = False) -> None:
        super().__init__()
        self.conv = nn.Conv2d(low, high, 1 if last else 3, padding=0 if last else 1)
        self.gn = nn.GroupNorm(1 if last else GROUPS, high)
        self.last = last

    def forward(self, x: Tensor) -> Tensor:
        """Return [B, high, 2h, 2w] of [B, low, h, w]; the last one keeps the resolution."""
        return self.conv(x) if self.last else _enlarged(functional.gelu(self.gn(self.conv(x))), 2)


def _enlarged(x: Tensor, factor: int) -> Tensor:
    return functional.interpolate(x, scale_factor=factor, mode="bilinear", align_corners=True)


class Counter(nn.Module):
    """Similarity map, its affine version, and the decoder with segment-aware skips."""

    def __init__(self, features: int, vision: int, width: int, grid: int) -> None:
        super().__init__()
        self.t_proj = nn.Linear(features, width)
        self.v_proj = nn.Linear(features, width)
        self.proj = nn.Sequential(nn.Conv2d(vision, width, 1), nn.GroupNorm(GROUPS, width))
        self.proj1 = nn.Sequential(nn.Conv2d(vision, width, 1), nn.GroupNorm(GROUPS, width))
        self.proj2 = nn.Sequential(nn.Conv2d(vision, width, 1), nn.GroupNorm(GROUPS, width))
        stages = [Stage(width + 1, width), *(Stage(width, width) for _ in range(3)), Stage(width, 1, last=True)]
        self.decoder = nn.ModuleList(stages)
        self.attn_weight = nn.Parameter(torch.ones(1, 1, grid, grid))
        self.attn_bias = nn.Parameter(torch.zeros(1, 1, grid, grid))
        for layer in self.modules():
            if isinstance(layer, nn.Linear):
                nn.init.trunc_normal_(layer.weight, std=0.02)
                nn.init.zeros_(layer.bias)
            elif isinstance(layer, nn.Conv2d):
                nn.init.normal_(layer.weight, std=0.01)
                nn.init.zeros_(layer.bias)  # type: ignore[arg-type]

    def similarity(self, final: Tensor, text: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return projected patches [B, width, h, w], the similarity map and its affine version [B, 1, h, w]."""
        patches = self.v_proj(final.movedim(1, -1)).movedim(-1, 1)
        similarity = torch.einsum("bc,bchw->bhw", self.t_proj(text), patches)[:, None]
        return patches, similarity, self.attn_weight * similarity + self.attn_bias

    def forward(self, skips: Sequence[Tensor], final: Tensor, text: Tensor) -> tuple[Tensor, Tensor]:
        """Return the scaled density [B, 1, 16h, 16w] (may be negative) and the affine similarity [B, 1, h, w]."""
        patches, _, affine = self.similarity(final, text)
        x = self.decoder[0](torch.cat([patches, affine], dim=1))
        parts = (self.proj, self.proj1, self.proj2)
        for number, (skip, part, stage) in enumerate(zip(skips, parts, self.decoder[1:4], strict=True), start=1):
            guide = functional.interpolate(affine, scale_factor=2**number, mode="nearest")
            x = stage(x + _enlarged(functional.gelu(part(skip)), 2**number) * guide)
        return self.decoder[4](x), affine


def rank_mask(target: Tensor, grid: int) -> Tensor:
    """Return the target [B, 1, H, W] at every (H / grid)-th pixel, stretched to [0, 1] over the whole batch.

    NaN, as released, where all pixels are alike (an empty crop): no cell is in any set then, and no gradient flows.
    """
    sampled = functional.interpolate(target, size=(grid, grid), mode="nearest")
    low, high = sampled.min(), sampled.max()
    return (sampled - low) / (high - low)


def rank_loss(affine: Tensor, mask: Tensor) -> Tensor:
    """Return L_rank, the rank-aware contrast of the affine similarity and the ``rank_mask``, both [B, 1, h, w].

    Cells outside a mask still contribute exp(0), and a cell of exactly 1 belongs to no set, as released.
    """
    total = affine.new_zeros(())
    for high, low in pairwise(RANK_EDGES):
        positive = (affine * ((mask > low) & (mask < high))).flatten(1).exp().sum(dim=1)
        negative = (affine * (mask < low)).flatten(1).exp().sum(dim=1)
        total = total - (positive / (positive + negative)).log().mean()
    return total


def cell_rule_count(density: Tensor) -> Tensor:
    """Return the counts [B] of complete cells of 16 x 16 pixels, less one for each cell with more than 1.224."""
    cells = functional.avg_pool2d(density, CELL) * CELL**2  # (B, 1, h, w)
    return cells.sum(dim=(1, 2, 3)) - (cells > CELL_LIMIT).sum(dim=(1, 2, 3))


class VLCounter(CountrSystem):
    """The whole network; its density has the resolution of the picture."""

    Settings = VLCounterSettings
    recipe = Recipe(
        epochs=300,
        batch_size=1,
        optimiser=Optimiser(name="adamw", lr=1e-4, weight_decay=1e-2),
        evaluate_every=1,
        select_by="mae",
    )
    batch_coupled_by = "the rank loss grades density by the extremes of the whole batch"
    settings: VLCounterSettings

    def __init__(self, settings: VLCounterSettings) -> None:
        super().__init__(settings, "halving")
        towers = settings.clip
        self.text = FrozenText(towers)
        self.image = TextPromptedImage(towers, towers.features, settings)
        self.counter = Counter(towers.features, towers.vision_width, settings.width, towers.grid)

    @classmethod
    def mini_settings(cls) -> dict[str, Any]:
        """Return the tiny towers that come with recount, on windows of 144 pixels."""
        # Targets are wide and well above one: of the released ones, too little is learnt in a few hundred steps.
        return {
            **{"clip": MINI_TOWERS, "weights": "mini_towers", "window": 144, "visual_prompts": 4, "skips": (1, 1, 0)},
            **{"width": 16, "density_scale": 400.0, "augmentation": {**VLCOUNTER.model_dump(), "sigma": 4.0}},
        }

    def sentences_of(self, samples: Sequence[Sample]) -> list[str]:
        """Return the sentences about the classes of samples."""
        names = dict.fromkeys(self.prompt_of(sample) for sample in samples)
        return [sentence for name in names for sentence in sentences(name)]

    def base_state(self) -> dict[str, Tensor]:
        """Return the base weights of both towers, with CLIP's positions enlarged to this grid."""
        grid = self.settings.clip.grid
        return clip.base_towers(self.settings.weights, self.state_dict(), self.image_prefix, "text.tower.", grid)

    def text_features(self, prompts: Sequence[str]) -> Tensor:
        """Return the text of class names, unit length, [B, features]."""
        every = [sentence for name in prompts for sentence in sentences(name)]
        return mean_direction(self.text(every).unflatten(0, (len(prompts), len(TEMPLATES))))

    def count(self, images: Tensor, prompts: Sequence[str]) -> tuple[Tensor, Tensor]:
        """Return scaled density and affine similarity of normalised windows [B, 3, window, window]."""
        text = self.text_features(prompts)
        size = self.settings.clip.image_size
        if images.shape[-1] != size:  # only where a tiny tower has another patch than 16 pixels
            images = functional.interpolate(images, (size, size), mode="bilinear", align_corners=False, antialias=True)
        maps, final = self.image(images, text[:, None])
        return self.counter([maps[number] for number in self.settings.skips], final, text)

    def losses(self, batch: Batch) -> dict[str, Tensor]:
        """Return the terms of the total loss: "density", the mean squared error, and "rank"."""
        density, affine = self.count(self.normalise(batch.images), batch.prompts)
        target = self.settings.density_scale * batch.maps["density"]
        with without_autocast(target.device):
            error = functional.mse_loss(full_precision(density), target)
            return {"density": error, "rank": rank_loss(full_precision(affine), rank_mask(target, affine.shape[-1]))}

    @property
    def loss_weights(self) -> Mapping[str, float]:
        """Return the weight of the rank loss."""
        return {"rank": self.settings.rank_weight}

    def predict(self, images: Tensor, prompts: Sequence[str]) -> Prediction:
        """Return the density per pixel of windows; ``maps``: "similarity", the affine one."""
        normalised = self.normalise(images)
        if not self.settings.pucpr_normalise:
            raw = torch.tensor([prompt == PUCPR_PROMPT for prompt in prompts], device=images.device)
            normalised = torch.where(raw[:, None, None, None], images, normalised)
        density, affine = self.count(normalised, prompts)
        return Prediction(density=density.float() / self.settings.density_scale, maps={"similarity": affine})

    def read_out(self, prediction: Prediction, sample: Sample) -> Tensor:
        """Return the sum of the density; on car parks, where switched on, by the rule for cars."""
        if self.settings.carpk_cell_rule and is_car_park(sample) and prediction.density is not None:
            return cell_rule_count(prediction.density.float())
        return prediction.counts()

    @classmethod
    def import_checkpoint(cls, path: Path, settings: VLCounterSettings) -> dict[str, Tensor]:
        """Read a released checkpoint, which holds CLIP too; the two copies of the last attention must be equal."""
        state = _without_copy(dict(read_released(path)), path)
        place = "v_enc.positional_embedding"
        if place in state:
            state[place] = clip.resized_positions(state[place].float(), settings.clip.grid)
        return renamed(state, our_name, cls(settings).state_dict(), source=path)


def _without_copy(state: dict[str, Tensor], path: Path) -> dict[str, Tensor]:
    """Drop the second copy of the last block's attention, which the released network registers twice."""
    copies = [key for key in state if key.startswith("v_enc.attn.")]
    blocks = [key.split(".")[3] for key in state if key.startswith("v_enc.transformer.resblocks.")]
    last = max(map(int, blocks), default=0)
    for key in copies:
        other = key.replace("v_enc.attn.", f"v_enc.transformer.resblocks.{last}.attn.")
        value = state.pop(key)
        if other in state and not torch.equal(value, state[other]):
            raise UserError(f"{path}: {key} and {other} should be one tensor, but differ")
        state.setdefault(other, value)
    return state


def our_name(key: str) -> str | None:
    """Return our name of a key of the released network; None for numbers beside CLIP's weights."""
    if key.startswith("t_enc."):
        name = key.removeprefix("t_enc.")
        return None if name in NOT_A_TOWER else f"text.tower.{name}"
    if not key.startswith("v_enc."):
        return f"counter.{key}"
    name = key.removeprefix("v_enc.")
    if "prompt" in name or name.startswith("text_proj"):
        return f"image.{name}"
    name = name.replace(".attn.qkv.weight", ".attn.in_proj_weight").replace(".attn.qkv.bias", ".attn.in_proj_bias")
    return f"image.tower.{name.replace('.attn.proj.', '.attn.out_proj.')}"


EQUATIONS: dict[str, Callable[..., Any]] = {
    "semantic-conditioned prompts: image side": TextPromptedImage,
    "similarity map: with its learnable affine version": Counter.similarity,
    "segment-aware skips: decoder": Counter,
    "L_rank: rank-aware contrastive loss": rank_loss,
    "L: total loss": VLCounter.losses,
}
"""The paper's steps, in words: the sources that this was written from do not number its equations."""

SYSTEM = VLCounter
