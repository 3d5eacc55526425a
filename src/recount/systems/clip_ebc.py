"""CLIP-EBC: crowds counted block by block, each block classified against sentences such as "There are two people."

Ma, Sanchez, Guha, "CLIP-EBC: CLIP Can Count Accurately through Enhanced Blockwise Classification", arXiv 2403.09281.
Numbers were checked against Yiming-M/CLIP-EBC@b52a594 (MIT; golden cases ``clip_ebc.json``); the image trunks are
open_clip's classes (MIT), base weights are OpenAI's CLIP (MIT).

Two trunks: CLIP's ResNet-50, all of it trained, whose last stage keeps its resolution for blocks up to 16 pixels; and
CLIP's ViT-B/16, frozen, with trained visual prompts in every layer ("deep") or only before the first ("shallow").
``vit.visual_prompts: 0`` with ``vit.input_size: 256`` and ``window_fit: resize`` is version 1 of March 2024, which has
no prompts and trains the whole ViT.

The recipe is the released default (ResNet-50). The README's ViT command on UCF-QNRF: settings ``crops: 2``, recipe
``batch_size: 16, precision: fp16, schedule: {initial_lr: 1.0e-3}`` (its "warm-up" comes down from 1e-3).

Deviations: "dynamic" and "coarse" bins work (their prompts raise in the released code); the text tower's features are
kept instead of the tower; pictures are normalised inside the network; a picture for the ResNet whose edges are not
multiples of its stride is padded with black at the right and the bottom (CLIP-EBC's preparation leaves none).
With ``weights: random``, as in suite mini, there is no CLIP: trunk and sentences are random projections, the ViT's
trunk stays one, and only prompts, decoder and head learn.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional

from recount.augmentation.crowd import CrowdAugmentation
from recount.data.windows import Fit, Windows
from recount.nn.bins import (
    AnchorKind,
    Bins,
    Coincident,
    Granularity,
    PromptStyle,
    block_error,
    cross_entropy,
    expectation,
    prompts,
    published_bins,
)
from recount.nn.clip import TextFeatures, TextTower, encode, tower_state
from recount.nn.dm_loss import DM_SUMS, DM_WEIGHTS, dm_terms
from recount.nn.normalise import Normalise
from recount.nn.precision import full_precision
from recount.nn.weights import CheckpointError, read_tensors, renamed
from recount.settings.base import Strict
from recount.settings.recipe import Optimiser, Recipe, Schedule
from recount.systems.base import Batch, Prediction, System
from recount.systems.gigacount import Crops

if TYPE_CHECKING:
    from open_clip.modified_resnet import ModifiedResNet

INITIAL_LOGIT_SCALE = math.log(1 / 0.07)

CountLoss = Literal["none", "mae", "mse", "dmcount"]


class BlockClassification(Strict):
    """What CLIP-EBC and DMCount-EBC have in common: bins, DACE loss and crops. The defaults are the released code's."""

    block: Literal[8, 16, 32] = Field(8, description="edge of a block, pixels; 16 and 32 have bins for qnrf only")
    bins_of: Literal["qnrf", "sha", "shb", "nwpu", "jhu"] = Field("qnrf", description="data set of the bins")
    truncation: int = Field(4, gt=0, description="block counts from here on share the last bin")
    granularity: Granularity = "fine"
    anchors: AnchorKind = "average"
    last_anchor: float | None = Field(None, description="count of the last bin; null: as anchors says")
    count_loss: CountLoss = Field("dmcount", description="DACE is cross-entropy plus this; none: cross-entropy alone")
    count_weight: float = Field(1.0, ge=0)
    coincident_points: Coincident = Field("set", description="whether points of one pixel count once in the target")

    augmentation: Literal["full", "crop_flip"] = "full"
    crops: int = Field(1, gt=0, description="per picture and epoch")
    crop_scale: tuple[float, float] = Field((1.0, 2.0), description="edge of a crop over the input size: zooms out")
    hue: float = Field(0.0, ge=0, le=0.5)
    blur: Literal["vertical", "isotropic"] = Field("vertical", description="vertical by a slip of the released code")

    @property
    def bins(self) -> Bins:
        """Return the bins with their anchors."""
        bins = published_bins(self.bins_of, self.block, self.truncation, self.granularity, self.anchors)
        return bins if self.last_anchor is None else bins.with_last_anchor(self.last_anchor)

    def crop_maker(self, size: int) -> Crops:
        """Return the maker of random crops of ``size`` pixels."""
        full = CrowdAugmentation(
            crops=self.crops, crop_scale=self.crop_scale, clamp=False, hue=self.hue, blur_kind=self.blur
        )
        augmentation = full if self.augmentation == "full" else full.without_photometric()
        return Crops(size, self.block, self.coincident_points, augmentation)

    def dace_terms(
        self, logits: Tensor, density: Tensor, blocks: Tensor, points: Sequence[Tensor]
    ) -> dict[str, Tensor]:
        """Return the terms of the DACE loss; ``dace_weights`` weighs them.

        Args:
            logits: [B, K, h, w].
            density: [B, 1, h, w].
            blocks: true block counts [B, 1, h, w].
            points: B tensors [N_b, 2], pixels.
        """
        terms = {"cross_entropy": cross_entropy(logits, self.bins.classes(blocks[:, 0]))}
        match self.count_loss:
            case "mae":
                terms["count_mae"] = block_error(density, blocks, 1)
            case "mse":
                terms["count_mse"] = block_error(density, blocks, 2)
            case "dmcount":
                terms.update(dm_terms(density, blocks, points, self.block))
        return terms

    @property
    def dace_weights(self) -> dict[str, float]:
        """Return the weight of each count term; cross-entropy weighs 1."""
        of_terms = {"count_mae": 1.0, "count_mse": 1.0, **DM_WEIGHTS}
        return {name: self.count_weight * weight for name, weight in of_terms.items()}


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
    prompt_dropout: float = Field(0.0, ge=0, lt=1)
    weights: str = Field("random", description="path of CLIP ViT-B/16's state dict (image and text), or random")


class ClipEbcSettings(BlockClassification):
    """CLIP-EBC's settings; the defaults are the released code's ResNet-50."""

    backbone: Literal["resnet50", "vit_b16"] = "resnet50"
    resnet: ResNetTrunk = ResNetTrunk()
    vit: VitTrunk = VitTrunk()
    text_width: int = Field(512, gt=0)
    text_heads: int = Field(8, gt=0)
    text_layers: int = Field(12, gt=0)
    prompts: PromptStyle = "word"
    window_fit: Fit = Field("shift", description="vit_b16: what is done with images that windows do not cover exactly")

    @property
    def trunk(self) -> ResNetTrunk | VitTrunk:
        """Return the settings of the chosen trunk."""
        return self.resnet if self.backbone == "resnet50" else self.vit

    @property
    def text(self) -> TextTower:
        """Return the text tower's settings; its weights come with the trunk's."""
        return TextTower(
            width=self.text_width,
            heads=self.text_heads,
            layers=self.text_layers,
            features=self.trunk.features,
            activation="quickgelu",
            weights=self.trunk.weights,
        )


# ------------------------------------------------------------------------------------------------------------ trunks


class ResNetEncoder(nn.Module):
    """CLIP's ResNet without its attention pooling; /16 for blocks up to 16 pixels, otherwise /32."""

    def __init__(self, settings: ResNetTrunk, block: int) -> None:
        super().__init__()
        self.trunk = _resnet(settings)
        self.stride = 32
        if block <= 16:
            first = self.trunk.layer4[0]
            first.avgpool = nn.Identity()
            first.downsample[0] = nn.Identity()
            self.stride = 16
        self.channels = 32 * settings.width
        if settings.weights != "random":
            state = _image_part(Path(settings.weights), left_out=("attnpool.",))
            self.trunk.load_state_dict(
                renamed(state, lambda key: key, self.trunk.state_dict(), source=settings.weights)
            )

    def forward(self, images: Tensor) -> Tensor:
        """Return features [B, channels, H/stride, W/stride] of normalised images [B, 3, H, W]."""
        return self.trunk(images)


def _resnet(settings: ResNetTrunk) -> ModifiedResNet:
    from open_clip.modified_resnet import ModifiedResNet

    trunk = ModifiedResNet(list(settings.blocks), output_dim=settings.features, heads=1, width=settings.width)
    trunk.attnpool = nn.Identity()
    return trunk


class PromptedVit(nn.Module):
    """CLIP's ViT with trained prompt tokens between the class token and the patches; the trunk is frozen then."""

    def __init__(self, settings: VitTrunk) -> None:
        from open_clip.transformer import QuickGELU, VisionTransformer

        super().__init__()
        self.settings = settings
        self.stride, self.channels = settings.patch, settings.width
        self.trunk = VisionTransformer(
            image_size=settings.input_size,
            patch_size=settings.patch,
            width=settings.width,
            layers=settings.layers,
            heads=settings.heads,
            mlp_ratio=4,
            act_layer=QuickGELU,
        )
        self.trunk.proj = None
        if settings.weights != "random":
            self._load(Path(settings.weights))
        sets = 0 if not settings.visual_prompts else settings.layers if settings.deep else 1
        # the bound of the released code takes the patch's edge where the formula has its area
        bound = math.sqrt(6 / (3 * settings.patch + settings.width))
        self.prompts = nn.ParameterList(
            torch.empty(settings.visual_prompts, settings.width).uniform_(-bound, bound) for _ in range(sets)
        )
        self.dropout = nn.Dropout(settings.prompt_dropout)
        self.trunk.requires_grad_(sets == 0)

    def _load(self, path: Path) -> None:
        state = _image_part(path, left_out=("proj",))
        if "positional_embedding" in state:
            edge = self.settings.input_size // self.settings.patch
            state["positional_embedding"] = resized_positions(state["positional_embedding"], (edge, edge))
        self.trunk.load_state_dict(renamed(state, lambda key: key, self.trunk.state_dict(), source=path))

    def embed(self, images: Tensor) -> Tensor:
        """Return class token and patches [B, 1 + h*w, C] of images [B, 3, H, W], with positions and normed."""
        trunk = self.trunk
        patches = trunk.conv1(images)  # (B, C, h, w)
        positions = resized_positions(trunk.positional_embedding, (patches.shape[2], patches.shape[3]))
        first = trunk.class_embedding.expand(len(images), 1, -1).to(patches.dtype)
        tokens = torch.cat([first, patches.flatten(2).transpose(1, 2)], dim=1)
        return trunk.ln_pre(tokens + positions.to(tokens.dtype))

    def _prompt(self, layer: int, batch: int) -> Tensor:
        return self.dropout(self.prompts[layer].expand(batch, -1, -1))

    def forward(self, images: Tensor) -> Tensor:
        """Return features [B, C, H/patch, W/patch] of normalised images [B, 3, H, W]."""
        tokens, number = self.embed(images), self.settings.visual_prompts
        for layer, block in enumerate(self.trunk.transformer.resblocks):
            if number and (layer == 0 or self.settings.deep):
                prompt = self._prompt(layer, len(images)).to(tokens.dtype)
            if not number:
                tokens = block(tokens)
                continue
            tokens = block(torch.cat([tokens[:, :1], prompt, tokens[:, 1:]], dim=1))
            prompt = tokens[:, 1 : 1 + number]
            tokens = torch.cat([tokens[:, :1], tokens[:, 1 + number :]], dim=1)
        patches = self.trunk.ln_post(tokens)[:, 1:]
        size = (images.shape[2] // self.stride, images.shape[3] // self.stride)
        return patches.transpose(1, 2).unflatten(2, size)


def resized_positions(positions: Tensor, size: tuple[int, int]) -> Tensor:
    """Return a position embedding [1 + h*w, C] for a grid of ``size``: bicubic, the class row kept."""
    edge = math.isqrt(len(positions) - 1)
    if (edge, edge) == size:
        return positions
    grid = positions[1:].T.unflatten(1, (edge, edge))[None]  # (1, C, edge, edge)
    grid = functional.interpolate(grid.float(), size, mode="bicubic", align_corners=False).to(positions.dtype)
    return torch.cat([positions[:1], grid[0].flatten(1).T])


def _image_part(path: Path, left_out: tuple[str, ...]) -> dict[str, Tensor]:
    """Return the image tower of a CLIP state dict, without the parts that start with ``left_out``."""
    state = {key.removeprefix("visual."): value for key, value in read_tensors(path).items() if "visual." in key}
    return {key: value.float() for key, value in state.items() if not key.startswith(left_out)}


# ------------------------------------------------------------------------------------------------------ decoder, system


def build_decoder(backbone: str, width: int) -> nn.Sequential:
    """Return one residual block that keeps its width: a bottleneck without a narrow middle, or (ViT) a basic block."""
    from torchvision.models.resnet import BasicBlock, Bottleneck

    class WideBottleneck(Bottleneck):
        expansion = 1

    decoder = nn.Sequential((WideBottleneck if backbone == "resnet50" else BasicBlock)(width, width))
    initialise(decoder)
    return decoder


def initialise(part: nn.Module) -> None:
    """Initialise convolutions as the released code does: Kaiming-normal over the outputs, biases 0."""
    for layer in part.modules():
        if isinstance(layer, nn.Conv2d):
            nn.init.kaiming_normal_(layer.weight, mode="fan_out", nonlinearity="relu")
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)


def rescaled(features: Tensor, stride: int, block: int) -> Tensor:
    """Return features at one cell per block, bilinearly."""
    if stride == block:
        return features
    return functional.interpolate(features, scale_factor=stride / block, mode="bilinear", align_corners=False)


class ClipEbc(System):
    """The whole network; logits of the bins per block, and their expectation as density."""

    text_features: Tensor
    anchors: Tensor

    Settings = ClipEbcSettings
    recipe = Recipe(
        epochs=2600,
        batch_size=8,
        optimiser=Optimiser(name="adam", lr=1e-4, weight_decay=1e-4),
        schedule=Schedule(
            name="warmup_cosine_restarts", warmup=50, initial_lr=1e-6, minimum_lr=1e-7, period=5, period_factor=2
        ),
        evaluate_every=1,
        evaluate_from=50,
    )
    batch_sums = DM_SUMS

    def __init__(self, settings: ClipEbcSettings, *, text: TextFeatures | None = None) -> None:
        """Build the network.

        Args:
            settings: sizes and switches.
            text: features of the prompts, where they are known already (from a checkpoint's own tower).
        """
        super().__init__(settings)
        trunk = settings.trunk
        if settings.backbone == "vit_b16":
            self.windows = Windows(trunk.input_size, trunk.input_size, trunk.input_size, fit=settings.window_fit)
        self.bins = settings.bins
        self.normalise = Normalise()
        self.image_encoder: ResNetEncoder | PromptedVit = (
            ResNetEncoder(settings.resnet, settings.block)
            if settings.backbone == "resnet50"
            else PromptedVit(settings.vit)
        )
        self.image_decoder = build_decoder(settings.backbone, self.image_encoder.channels)
        self.projection = nn.Conv2d(self.image_encoder.channels, trunk.features, 1)
        initialise(self.projection)
        self.logit_scale = nn.Parameter(torch.tensor(INITIAL_LOGIT_SCALE))
        text = text or encode(settings.text, prompts(self.bins, settings.prompts))
        self.frozen_text_parameters = text.parameters
        self.register_buffer("text_features", text.values)
        self.register_buffer("anchors", torch.tensor(self.bins.anchors), persistent=False)

    @classmethod
    def mini_settings(cls) -> dict[str, Any]:
        """Return trunks of a few layers for crops of 112 pixels, without CLIP's weights.

        The text tower has one layer and one head: the more layers without training, the more alike all sentences. Crops
        zoom out less than the paper's, because heads in small pictures are a few pixels high already.
        """
        return {
            "crop_scale": (1.0, 1.25),
            "resnet": {"width": 8, "blocks": (1, 1, 1, 1), "features": 64, "input_size": 112},
            "vit": {
                **{"width": 48, "layers": 3, "heads": 3, "patch": 16, "features": 64},
                **{"input_size": 112, "visual_prompts": 4},
            },
            **{"text_width": 64, "text_heads": 1, "text_layers": 1},
        }

    def head(self, features: Tensor) -> tuple[Tensor, Tensor]:
        """Return logits [B, K, h, w] and density [B, 1, h, w] of the trunk's features [B, C, h', w']."""
        blocks = rescaled(features, self.image_encoder.stride, self.settings.block)
        projected = functional.normalize(self.projection(self.image_decoder(blocks)), dim=1)  # (B, features, h, w)
        classes = functional.normalize(self.text_features, dim=1).to(projected.dtype)  # (K, features)
        logits = full_precision(self.logit_scale.exp() * torch.einsum("bchw,kc->bkhw", projected, classes))
        return logits, expectation(logits, self.anchors)

    def classify(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Return logits [B, K, h, w] and density [B, 1, h, w] of images [B, 3, H, W] in [0, 1]."""
        return self.head(self.image_encoder(self.normalise(images)))

    def example_maker(self) -> Crops:
        """Return the maker of random crops."""
        return self.settings.crop_maker(self.settings.trunk.input_size)

    def losses(self, batch: Batch) -> dict[str, Tensor]:
        """Return the terms of the DACE loss."""
        logits, density = self.classify(batch.images)
        return self.settings.dace_terms(logits, density, batch.maps["blocks"], batch.points)

    @property
    def loss_weights(self) -> Mapping[str, float]:
        """Return the weights of the count terms."""
        return self.settings.dace_weights

    def prepare_image(self, image: Tensor) -> Tensor:
        """Return the image padded to multiples of the ResNet's stride; windows take images as they are."""
        return image if self.windows is not None else padded(image, max(self.image_encoder.stride, self.settings.block))

    def predict(self, images: Tensor, prompts: Sequence[str]) -> Prediction:
        """Return the density per block; the prompts are the bins', so ``prompts`` is not looked at."""
        return Prediction(density=self.classify(images)[1])

    @classmethod
    def import_checkpoint(cls, path: Path, settings: ClipEbcSettings) -> dict[str, Tensor]:
        """Read a released checkpoint: a bare state dict (.pth), ckpt.pth, or the .safetensors of Hugging Face.

        The text features are those of the checkpoint's own tower.

        Raises:
            CheckpointError: the file cannot be read, or keys are missing, unexpected or of the wrong shape.
        """
        state = released_state(path)
        if settings.backbone == "vit_b16" and settings.vit.visual_prompts and "vpt_0" not in state:
            raise CheckpointError(
                f"{path}: has no visual prompts (vpt_*), as files of version 1; for those, set "
                "vit: {visual_prompts: 0, input_size: 256} and window_fit: resize"
            )
        sentences = prompts(settings.bins, settings.prompts)
        bare = settings.model_copy(
            update={
                "resnet": settings.resnet.model_copy(update={"weights": "random"}),
                "vit": settings.vit.model_copy(update={"weights": "random"}),
            }
        )
        network = cls(bare, text=encode(bare.text, sentences, tower_state(state, "text_encoder.")))
        expected = network.state_dict()
        text_features = expected.pop("text_features")
        return {**renamed(state, our_name, expected, source=path), "text_features": text_features}


def released_state(path: Path) -> dict[str, Tensor]:
    """Return the state dict of a file that CLIP-EBC's scripts wrote, without the prefix of Hugging Face's wrapper."""
    content = read_tensors(path)
    state = content.get("model_state_dict", content)
    wrapped = all(key.startswith("model.") for key in state)
    return {key.removeprefix("model.") if wrapped else key: value for key, value in state.items()}


def our_name(key: str) -> str | None:
    """Return our name of a key of the released network; None for the text tower."""
    if key.startswith("text_encoder."):
        return None
    if key.startswith("vpt_"):
        return f"image_encoder.prompts.{key.removeprefix('vpt_')}"
    return key.replace("image_encoder.", "image_encoder.trunk.", 1)


def padded(image: Tensor, multiple: int) -> Tensor:
    """Return an image [3, H, W] with black at the right and the bottom, up to multiples of ``multiple``."""
    height, width = image.shape[1:]
    return functional.pad(image, (0, -width % multiple, 0, -height % multiple))


SYSTEM = ClipEbc
