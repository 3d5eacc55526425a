"""CLIP-EBC: crowds counted block by block, each block classified against sentences such as "There are two people."

Ma, Sanchez, Guha, "CLIP-EBC: CLIP Can Count Accurately through Enhanced Blockwise Classification", arXiv 2403.09281.
Numbers were checked against Yiming-M/CLIP-EBC@b52a594 (MIT; golden cases ``clip_ebc.json``); the image trunks are
open_clip's classes (MIT), base weights are OpenAI's CLIP (MIT).
Two trunks: CLIP's ResNet-50, all of it trained, whose last stage keeps its resolution for blocks up to 16 pixels; and
CLIP's ViT-B/16, frozen, with trained visual prompts in every layer ("deep") or only before the first ("shallow").
``vit.visual_prompts: 0``, ``vit.input_size: 256`` and ``window_fit: resize`` are version 1, which trains the whole ViT.

Deviations: "dynamic" and "coarse" bins work (their prompts raise in the released code); the text tower's features are
kept instead of the tower; pictures are normalised inside the network; a picture for the ResNet whose edges are not
multiples of its stride is padded with black (CLIP-EBC's preparation leaves none). With ``weights: random``, as in suite
mini, trunk and sentences are random projections, and with the ViT only prompts, decoder and head learn.
"""

import math
from abc import abstractmethod
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional

from recount.augmentation.crowd import CrowdAugmentation, augmented_crop
from recount.data.windows import Fit, Windows
from recount.errors import UserError
from recount.nn.bins import (
    AnchorKind,
    Bins,
    Coincident,
    Granularity,
    PromptStyle,
    block_counts,
    block_error,
    cross_entropy,
    expectation,
    prompts,
    published_bins,
)
from recount.nn.clip import Activation, ClipTowers, TextFeatures, TextTower, encode, image_tower, tower_state
from recount.nn.dm_loss import DM_SUMS, DM_WEIGHTS, dm_terms
from recount.nn.normalise import Normalise
from recount.nn.precision import full_precision
from recount.nn.vgg import initialise
from recount.nn.weights import read_released, renamed
from recount.settings.base import Strict
from recount.settings.recipe import Optimiser, Recipe, Schedule
from recount.systems.base import READING, Batch, Example, Pool, Prediction, System

INITIAL_LOGIT_SCALE = math.log(1 / 0.07)  # of CLIP; trained from there, not clamped


class BlockSettings(Strict):
    """What all counters by blocks have: bins and crops."""

    block: Literal[8, 16, 32] = Field(8, description="edge of a block, pixels; 16 and 32 have bins for qnrf only")
    bins_of: Literal["qnrf", "sha", "shb", "nwpu", "jhu"] = Field("qnrf", description="data set of the bins")
    truncation: int = Field(4, gt=0, description="block counts from here on share the last bin")
    granularity: Granularity = "fine"
    anchors: AnchorKind = "average"
    last_anchor: float | None = Field(None, description="of the open bin; null: as anchors (4.21937; 4.32696 at 2048)")
    coincident_points: Coincident = Field("set", description="whether points of one pixel count once in the target")
    augmentation: Literal["full", "crop_flip"] = "full"
    crops: int = Field(1, gt=0, description="per picture and epoch")
    crop_scale: tuple[float, float] = Field((1.0, 2.0), description="edge of a crop over the input size: zooms out")
    hue: float = Field(0.0, ge=0, le=0.5)
    blur: Literal["vertical", "isotropic"] = Field("vertical", description="vertical by a slip of the released code")

    clamps_crops: ClassVar[bool] = False  # to [0, 1] after each bicubic resize

    @property
    def bins(self) -> Bins:
        """Return the bins with their anchors."""
        bins = published_bins(self.bins_of, self.block, self.truncation, self.granularity, self.anchors)
        return bins if self.last_anchor is None else bins.with_last_anchor(self.last_anchor)


def crops(settings: Any, index: int, pool: Pool, rng: np.random.Generator) -> list[Example]:
    """Return a picture's random crops with the counts of their blocks, as ``BlockSettings`` say."""
    sample, image, size = pool.samples[index], pool.image(index), settings.input_size
    values = {"crops": settings.crops, "crop_scale": settings.crop_scale, "hue": settings.hue}
    augmentation = CrowdAugmentation(clamp=settings.clamps_crops, blur_kind=settings.blur, **values)
    if settings.augmentation == "crop_flip":
        augmentation = augmentation.without_photometric()
    examples = []
    for _ in range(settings.crops):
        piece, inside = augmented_crop(image, torch.from_numpy(sample.points), size, augmentation, rng)
        blocks = block_counts(inside, size, size, settings.block, coincident=settings.coincident_points)
        examples.append(Example(sample.id, piece, points=inside, count=float(len(inside)), maps={"blocks": blocks}))
    return examples


class EbcSettings(BlockSettings):
    """What CLIP-EBC and DMCount-EBC have in common; the defaults are the released code's."""

    count_loss: Literal["none", "mae", "mse", "dmcount"] = Field("dmcount", description="beside the cross-entropy")


class SentenceSettings(BlockSettings):
    """What counters have whose bins are sentences: CLIP-EBC and GigaCount. The defaults are CLIP ViT-B/16's tower."""

    text_width: int = Field(512, gt=0)
    text_heads: int = Field(8, gt=0)
    text_layers: int = Field(12, gt=0)
    prompts: PromptStyle = "word"

    def text_tower(self, features: int, weights: str, activation: Activation) -> TextTower:
        """Return the text tower."""
        sizes = {name: getattr(self, f"text_{name}") for name in ("width", "heads", "layers")}
        return TextTower(features=features, activation=activation, weights=weights, **sizes)


class ResNetTrunk(Strict):
    """CLIP's ResNet-50."""

    width: int = Field(64, gt=0, multiple_of=2)
    blocks: tuple[int, int, int, int] = Field((3, 4, 6, 3), description="per stage")
    features: int = Field(1024, gt=0, description="length of a text feature vector")
    input_size: int = Field(448, gt=0, description="edge of training crops, pixels")
    weights: str = Field("random", description="path of CLIP RN50's state dict (image and text), or random")


class VitTrunk(Strict):
    """CLIP's ViT-B/16."""

    width: int = Field(768, gt=0)
    layers: int = Field(12, gt=0)
    heads: int = Field(12, gt=0)
    patch: int = Field(16, gt=0)
    features: int = Field(512, gt=0, description="length of a text feature vector")
    input_size: int = Field(224, gt=0, description="edge of training crops and evaluation windows, pixels")
    visual_prompts: int = Field(32, ge=0, description="trained tokens per layer; 0: none, and the trunk is trained")
    deep: bool = Field(True, description="new prompts in every layer, or (shallow) one set that is carried on")
    weights: str = Field("random", description="path of CLIP ViT-B/16's state dict (image and text), or random")


class ClipEbcSettings(EbcSettings, SentenceSettings):
    """CLIP-EBC's settings; the defaults are the released code's ResNet-50."""

    backbone: Literal["resnet50", "vit_b16"] = "resnet50"
    resnet: ResNetTrunk = ResNetTrunk()
    vit: VitTrunk = VitTrunk()
    window_fit: Fit = Field(
        "shift", description="vit_b16: for images that windows do not cover exactly", json_schema_extra=READING
    )

    @property
    def trunk(self) -> ResNetTrunk | VitTrunk:
        """Return the settings of the chosen trunk."""
        return self.resnet if self.backbone == "resnet50" else self.vit

    @property
    def input_size(self) -> int:
        """Return the edge of training crops, pixels."""
        return self.trunk.input_size

    @property
    def text(self) -> TextTower:
        """Return the text tower's settings; its weights come with the trunk's."""
        return self.text_tower(self.trunk.features, self.trunk.weights, "quickgelu")


class _ResNetEncoder(nn.Module):
    def __init__(self, settings: ResNetTrunk, block: int) -> None:
        from open_clip.modified_resnet import ModifiedResNet

        super().__init__()
        self.trunk = ModifiedResNet(list(settings.blocks), output_dim=settings.features, heads=1, width=settings.width)
        self.trunk.attnpool = nn.Identity()
        self.stride, self.channels = 32, 32 * settings.width
        if block <= 16:
            self.trunk.layer4[0].avgpool = nn.Identity()
            self.trunk.layer4[0].downsample[0] = nn.Identity()
            self.stride = 16
        if settings.weights != "random":
            load_image_tower(self.trunk, settings.weights, "attnpool.")

    def forward(self, images: Tensor) -> Tensor:
        return self.trunk(images)  # (B, C, H/stride, W/stride)


class PromptedVit(nn.Module):
    """CLIP's ViT with visual prompts: trained tokens between class token and patches."""

    def __init__(self, settings: VitTrunk) -> None:
        super().__init__()
        self.settings = settings
        self.stride, self.channels = settings.patch, settings.width
        sizes = {f"vision_{name}": getattr(settings, name) for name in ("width", "layers", "heads")}
        self.trunk = image_tower(ClipTowers(image_size=settings.input_size, patch=settings.patch, **sizes))
        self.trunk.proj = None
        if settings.weights != "random":
            load_image_tower(self.trunk, settings.weights, "proj", grid=settings.input_size // settings.patch)
        sets = 0 if not settings.visual_prompts else settings.layers if settings.deep else 1
        # the bound of the released code takes the patch's edge where the formula has its area
        bound = math.sqrt(6 / (3 * settings.patch + settings.width))
        self.prompts = nn.ParameterList(
            torch.empty(settings.visual_prompts, settings.width).uniform_(-bound, bound) for _ in range(sets)
        )
        self.trunk.requires_grad_(sets == 0)

    def forward(self, images: Tensor) -> Tensor:
        """Return features [B, C, H/patch, W/patch] of normalised images [B, 3, H, W]."""
        trunk, number = self.trunk, self.settings.visual_prompts
        patches = trunk.conv1(images)  # (B, C, h, w)
        size = (patches.shape[2], patches.shape[3])
        first = trunk.class_embedding.expand(len(images), 1, -1).to(patches.dtype)
        tokens = torch.cat([first, patches.flatten(2).transpose(1, 2)], dim=1)  # (B, 1 + h*w, C)
        tokens = trunk.ln_pre(tokens + resized_positions(trunk.positional_embedding, size).to(tokens.dtype))
        for layer, block in enumerate(trunk.transformer.resblocks):
            if not number:
                tokens = block(tokens)
                continue
            if layer == 0 or self.settings.deep:
                prompt = self.prompts[layer].expand(len(images), -1, -1).to(tokens.dtype)
            tokens = block(torch.cat([tokens[:, :1], prompt, tokens[:, 1:]], dim=1))
            prompt = tokens[:, 1 : 1 + number]
            tokens = torch.cat([tokens[:, :1], tokens[:, 1 + number :]], dim=1)
        return trunk.ln_post(tokens)[:, 1:].transpose(1, 2).unflatten(2, size)


def resized_positions(positions: Tensor, size: tuple[int, int]) -> Tensor:
    """Return a position embedding [1 + h*w, C] for a grid of ``size``: bicubic, the class row kept."""
    edge = math.isqrt(len(positions) - 1)
    if (edge, edge) == size:
        return positions
    grid = positions[1:].T.unflatten(1, (edge, edge))[None]  # (1, C, edge, edge)
    grid = functional.interpolate(grid, size, mode="bicubic", align_corners=False)
    return torch.cat([positions[:1], grid[0].flatten(1).T])


def load_image_tower(trunk: nn.Module, weights: str, unused: str | tuple[()] = (), grid: int | None = None) -> None:
    """Load the image part of a CLIP state dict but what starts with ``unused``; positions become grid x grid."""
    whole = read_released(Path(weights))
    state = {key.removeprefix("visual."): each.float() for key, each in whole.items() if key.startswith("visual.")}
    if grid and "positional_embedding" in state:
        state["positional_embedding"] = resized_positions(state["positional_embedding"], (grid, grid))
    own = trunk.state_dict()
    trunk.load_state_dict(renamed(state, lambda key: None if key.startswith(unused) else key, own, source=weights))


def rescaled(features: Tensor, stride: int, block: int) -> Tensor:
    """Return features at one cell per block, bilinearly."""
    if stride == block:
        return features
    return functional.interpolate(features, scale_factor=stride / block, mode="bilinear", align_corners=False)


def padded(image: Tensor, multiple: int) -> Tensor:
    """Return an image [3, H, W] with black at the right and the bottom, up to multiples of ``multiple``."""
    height, width = image.shape[1:]
    return functional.pad(image, (0, -width % multiple, 0, -height % multiple))


def dace_loss(
    settings: EbcSettings, logits: Tensor, density: Tensor, blocks: Tensor, points: Sequence[Tensor]
) -> dict[str, Tensor]:
    """Return the terms of the DACE loss, cross-entropy and count loss.

    From logits [B, K, h, w], density and true block counts [B, 1, h, w], and B tensors of points [N_b, 2] in pixels.
    """
    terms = {"cross_entropy": cross_entropy(logits, settings.bins.classes(blocks[:, 0]))}
    match settings.count_loss:
        case "mae":
            terms["count_mae"] = block_error(density, blocks, 1)
        case "mse":
            terms["count_mse"] = block_error(density, blocks, 2)
        case "dmcount":
            terms.update(dm_terms(density, blocks, points, settings.block))
    return terms


class BlockCounter(System):
    """A counter by blocks: logits of the bins per block, and their expectation as density."""

    anchors: Tensor
    needs = frozenset({"points"})
    batch_sums = DM_SUMS
    loss_weights = DM_WEIGHTS
    examples = staticmethod(crops)
    loss_terms: Callable[..., dict[str, Tensor]] = staticmethod(dace_loss)

    def __init__(self, settings: BlockSettings) -> None:
        super().__init__(settings)
        self.normalise = Normalise()
        self.register_buffer("anchors", torch.tensor(settings.bins.anchors), persistent=False)

    @abstractmethod
    def classify(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Return logits [B, K, h, w] and density [B, 1, h, w] of images [B, 3, H, W] in [0, 1]."""

    def losses(self, batch: Batch) -> dict[str, Tensor]:
        """Return the terms of the system's loss."""
        logits, density = self.classify(batch.images)
        return self.loss_terms(self.settings, logits, density, batch.maps["blocks"], batch.points)

    def predict(self, images: Tensor, prompts: Sequence[str]) -> Prediction:
        """Return the density per block; ``prompts`` is not looked at."""
        return Prediction(density=self.classify(images)[1])


class SentenceCounter(BlockCounter):
    """A counter by blocks whose bins are sentences. A subclass has ``image_decoder`` and ``projection``."""

    image_decoder: nn.Module
    projection: nn.Module
    text_features: Tensor

    def add_sentences(self, text: TextFeatures | None) -> None:
        """Take the features of the bins' sentences: ``text`` if a checkpoint brings them, otherwise the tower's."""
        self.logit_scale = nn.Parameter(torch.tensor(INITIAL_LOGIT_SCALE))
        text = text or encode(self.settings.text, prompts(self.settings.bins, self.settings.prompts))
        self.frozen_text_parameters = text.parameters
        self.register_buffer("text_features", text.values)

    def compared(self, features: Tensor) -> tuple[Tensor, Tensor]:
        """Return image-text similarity (logits [B, K, h, w]) and density (section 3.2) [B, 1, h, w] of features."""
        projected = functional.normalize(self.projection(self.image_decoder(features)), dim=1)  # (B, features, h, w)
        classes = functional.normalize(self.text_features, dim=1).to(projected)  # (K, features)
        logits = full_precision(self.logit_scale.exp() * torch.einsum("bchw,kc->bkhw", projected, classes))
        return logits, expectation(logits, self.anchors)

    @staticmethod
    @abstractmethod
    def our_name(key: str) -> str | None:
        """Return our name of a released key; None for the text tower."""

    @classmethod
    def import_checkpoint(cls, path: Path, settings: Any) -> dict[str, Tensor]:
        """Read a released checkpoint, whose own tower gives the text features."""
        state = released_state(path)
        sentences = prompts(settings.bins, settings.prompts)
        network = cls(settings, text=encode(settings.text, sentences, tower_state(state, "text_encoder.")))  # type: ignore[call-arg]
        expected = network.state_dict()
        text_features = expected.pop("text_features")
        return {**renamed(state, cls.our_name, expected, source=path), "text_features": text_features}


class ClipEbc(SentenceCounter):
    """The whole network."""

    Settings = ClipEbcSettings
    recipe = Recipe(
        epochs=2600,
        batch_size=8,
        optimiser=Optimiser(name="adam", lr=1e-4, weight_decay=1e-4),
        schedule=Schedule(
            name="warmup_cosine_restarts", warmup=50, initial_lr=1e-6, minimum_lr=1e-7, period=5, period_factor=2
        ),
        evaluation_precision="fp32",  # outside autocast, where training has it
        evaluate_every=1,
        evaluate_from=50,
    )

    def __init__(self, settings: ClipEbcSettings, *, text: TextFeatures | None = None) -> None:
        from torchvision.models.resnet import BasicBlock, Bottleneck

        class WideBottleneck(Bottleneck):
            expansion = 1

        super().__init__(settings)
        self.image_encoder: _ResNetEncoder | PromptedVit
        if settings.backbone == "resnet50":
            self.image_encoder = _ResNetEncoder(settings.resnet, settings.block)
            self.image_decoder = nn.Sequential(WideBottleneck(self.image_encoder.channels, self.image_encoder.channels))
        else:
            self.image_encoder, size = PromptedVit(settings.vit), settings.vit.input_size
            self.windows = Windows(size, size, size, fit=settings.window_fit)
            self.image_decoder = nn.Sequential(BasicBlock(settings.vit.width, settings.vit.width))
        initialise(self.image_decoder)
        self.projection = nn.Conv2d(self.image_encoder.channels, settings.trunk.features, 1)
        initialise(self.projection)
        self.add_sentences(text)

    @classmethod
    def mini_settings(cls) -> dict[str, Any]:
        """Return trunks of a few layers for crops of 112 pixels that zoom out less: heads are small already."""
        size = {"features": 64, "input_size": 112}
        return {
            **{"crop_scale": (1.0, 1.25), "text_width": 64, "text_heads": 1, "text_layers": 1},
            "resnet": {"width": 8, "blocks": (1, 1, 1, 1), **size},
            "vit": {"width": 48, "layers": 3, "heads": 3, "patch": 16, "visual_prompts": 4, **size},
        }

    def head(self, features: Tensor) -> tuple[Tensor, Tensor]:
        """Return logits and density of the trunk's features [B, C, h, w]."""
        return self.compared(rescaled(features, self.image_encoder.stride, self.settings.block))

    def classify(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Return logits [B, K, h, w] and density [B, 1, h, w] of images [B, 3, H, W] in [0, 1]."""
        return self.head(self.image_encoder(self.normalise(images)))

    def prepare_image(self, image: Tensor) -> Tensor:
        """Return the image padded to multiples of the ResNet's stride; windows take images as they are."""
        return image if self.windows is not None else padded(image, max(self.image_encoder.stride, self.settings.block))

    @staticmethod
    def our_name(key: str) -> str | None:
        """Return our name of a released key; None for the text tower."""
        ours = key.replace("image_encoder.", "image_encoder.trunk.", 1).replace("vpt_", "image_encoder.prompts.", 1)
        return None if key.startswith("text_encoder.") else ours

    @classmethod
    def import_checkpoint(cls, path: Path, settings: ClipEbcSettings) -> dict[str, Tensor]:
        """Read a bare state dict (.pth), ckpt.pth, or the .safetensors of Hugging Face."""
        if settings.backbone == "vit_b16" and settings.vit.visual_prompts and "vpt_0" not in released_state(path):
            raise UserError(
                f"{path}: has no visual prompts (vpt_*), as files of version 1; for those, set "
                "vit: {visual_prompts: 0, input_size: 256} and window_fit: resize"
            )
        trunks = {name: getattr(settings, name).model_copy(update={"weights": "random"}) for name in ("resnet", "vit")}
        return super().import_checkpoint(path, settings.model_copy(update=trunks))


def released_state(path: Path) -> dict[str, Tensor]:
    """Return the state dict of a file that CLIP-EBC's scripts wrote, without the prefix of Hugging Face's wrapper."""
    state = read_released(path, "model_state_dict")
    wrapped = all(key.startswith("model.") for key in state)
    return {key.removeprefix("model.") if wrapped else key: value for key, value in state.items()}


SYSTEM = ClipEbc

# by the paper's terms: recount was written after the released code
EQUATIONS: dict[str, Callable[..., Any]] = {
    "integer-valued bins": Bins.classes,
    "visual prompts": PromptedVit,
    "image-text similarity": SentenceCounter.compared,
    "density map": expectation,
    "DACE loss": dace_loss,
}
