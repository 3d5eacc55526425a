"""T2ICount: zero-shot counting by text, on the features and cross-attention of a text-to-image diffusion model.

Paper: Qian, Guo, Deng, Lei, Zhao, Lau, Hong, Pound, *T2ICount: Enhancing Cross-modal Understanding for Zero-Shot
Counting*, CVPR 2025, arXiv 2502.20625. Numbers were checked against cha15yq/T2ICount@289d3fb, which carries no licence:
this file is written from a description. Its base is Stable Diffusion v1.5 (CreativeML Open RAIL-M) with CLIP (MIT).

One denoising pass of the UNet gives four feature maps F4 (coarse) to F1 and, per cross-attention layer, how much each
cell attends to the prompt. The hierarchical semantic correction module (HSCM) refines the features from coarse to fine
with the text, a counter turns them into a density map at the latent's stride. The attention, fused over three
resolutions, labels certain background for the representational regional coherence loss (RRC).

Deviations: only the prompt's share of cross-attention is kept (the release stores all maps of all layers); RRC and HSCM
are independent toggles by recount's definition. Every default is the released code's; where the paper's text differs,
there is a setting (``noise``, ``latent_scale``, ``attention_threshold``).
"""

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
import torch
import torch.nn.functional as F
from pydantic import Field, field_validator
from torch import Tensor, nn

from recount.augmentation.prompted import PromptedCrops, SampleKinds, density_of
from recount.data.needs import has_ready_map
from recount.data.pictures import load_image
from recount.data.sample import Sample
from recount.data.windows import Windows
from recount.errors import UserError
from recount.nn import stable_diffusion as sd
from recount.nn.precision import full_precision
from recount.nn.weights import card, read_tensors, renamed
from recount.settings.base import Strict
from recount.settings.recipe import Optimiser, Recipe
from recount.systems.base import Batch, Example, ExampleMaker, Pool, Prediction, System

log = logging.getLogger(__name__)

FOREGROUND = 1e-3  # objects per cell from which a cell is foreground
FIRST_OF_SEVERAL = 600  # timestep at which several denoising steps begin
TRIED = 2  # training pictures on which a start is tried
RESOLUTIONS = {"coarse": 4, "middle": 2, "fine": 1}  # divisor of the latent's size
DEAD = 0.01  # share of cells with a count above zero below which a start is dead


class T2ICountSettings(Strict):
    """What T2ICount is; the defaults are the released code's."""

    backbone: sd.Backbone = Field(sd.Backbone(), description='sizes of the diffusion model, or "sd15" or "mini_sd"')
    weights: str = Field(
        "resources/weights/sd15/v1-5-pruned-emaonly.safetensors",
        description='base weights: a Stable Diffusion v1 file, "mini_sd" (comes with recount), or "random"',
    )
    rrc: bool = Field(True, description="train the similarity maps with the coherence loss")
    hscm: bool = Field(True, description="semantic enhancement and correction in the decoder")
    counter_width: int = Field(256, gt=0)
    heads: int = Field(8, gt=0, description="of the decoder's attentions")
    noise: Literal["none", "first_step"] = Field("none", description="first_step: of timestep 0 (the paper's text)")
    denoising_steps: int = Field(1, gt=0, description="more: from timestep 600, by DDIM; features of the last step")
    latent_scale: float = Field(1.0, gt=0, description="0.18215 is the usual factor of Stable Diffusion v1")
    attention_threshold: float | Literal["mean"] = 0.3
    ambiguous: Literal["left_out", "background"] = Field(
        "left_out", description="what the coherence loss makes of them"
    )
    attention_weights: tuple[float, float, float] = Field((0.6, 0.3, 0.1), description="coarse, middle, fine")
    density_scale: float = Field(60.0, gt=0)
    dist_weight: float = Field(0.1, ge=0)
    rrc_weight: float = Field(0.01, ge=0, description="gamma")
    positive_weight: float = Field(2.0, ge=0, description="lambda")
    wrong_prompt_weight: float = Field(
        0.0, ge=0, description="recount's control: of the mean count under wrong prompts, which L_reg leaves alone"
    )
    unet_factor: float = Field(0.1, gt=0, description="of learning rate and weight decay of the UNet")
    gradient_checkpointing: bool | Literal["auto"] = Field(
        "auto", description="of the UNet, whose forward pass then runs twice; auto: once memory did not suffice"
    )
    crop: int = Field(384, gt=0, description="side of the training crops, pixels")
    mosaic_tile: int = Field(224, gt=0)
    largest_scale: float = Field(2.0, ge=1)
    density_sigma: float | Literal["adaptive"] = "adaptive"
    sample_kinds: SampleKinds = SampleKinds()

    @field_validator("backbone", mode="before", json_schema_input_type=sd.Backbone | Literal["sd15", "mini_sd"])
    @classmethod
    def _named_backbone(cls, value: Any) -> Any:
        if value == "mini_sd":
            return card("mini_sd")["backbone"]
        return {} if value == "sd15" else value


def _enlarged(x: Tensor, size: Sequence[int]) -> Tensor:
    return F.interpolate(x, size=size, mode="bilinear", align_corners=False)


def _twice(x: Tensor) -> Tensor:
    return F.interpolate(x, scale_factor=2, mode="bilinear", align_corners=False)


def _tokens(x: Tensor) -> Tensor:
    return x.flatten(2).mT  # (B, C, H, W) -> (B, H * W, C)


def similarity_map(features: Tensor, text: Tensor) -> Tensor:
    """Return S_i: the cosine over channels of features [B, C, H, W] and a text vector [B, C], float32 [B, 1, H, W]."""
    return F.cosine_similarity(full_precision(features), full_precision(text)[:, :, None, None], dim=1).unsqueeze(1)


class Attention(nn.Module):
    """Multi-head attention with biases, scale 1 / sqrt(C / heads), no dropout."""

    def __init__(self, channels: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.query = nn.Linear(channels, channels)
        self.key = nn.Linear(channels, channels)
        self.value = nn.Linear(channels, channels)
        self.out = nn.Linear(channels, channels)

    def forward(self, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        """Attend from [B, N, C] to [B, M, C]."""
        inputs = ((self.query, query), (self.key, key), (self.value, value))
        q, k, v = (linear(x).unflatten(-1, (self.heads, -1)).transpose(1, 2) for linear, x in inputs)
        return self.out(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))


class TextFusion(nn.Module):
    """One exchange between image cells and the one text vector, text first (semantic enhancement)."""

    def __init__(self, channels: int, heads: int) -> None:
        super().__init__()
        self.position = nn.Conv2d(channels, channels, 3, padding=1, groups=channels)
        self.text_reads_image = Attention(channels, heads)
        self.norm_read = nn.LayerNorm(channels)
        self.mlp = nn.Sequential(nn.Linear(channels, 4 * channels), nn.GELU(), nn.Linear(4 * channels, channels))
        self.norm_mlp = nn.LayerNorm(channels)
        self.image_reads_text = Attention(channels, heads)
        self.norm_image = nn.LayerNorm(channels)

    def forward(self, image: Tensor, text: Tensor) -> tuple[Tensor, Tensor]:
        """Return image [B, C, H, W] and text [B, C] after the exchange."""
        cells, places = _tokens(image), _tokens(self.position(image))
        before = text[:, None]  # (B, 1, C)
        read = self.norm_read(before + self.text_reads_image(before, cells + places, cells))
        after = self.norm_mlp(read + self.mlp(read))
        # With one key the softmax is 1: this adds one vector per picture, and query and key learn nothing.
        cells = self.norm_image(cells + self.image_reads_text(cells + places, after + before, after))
        return cells.mT.unflatten(-1, image.shape[-2:]), after[:, 0]


class Stage(nn.Module):
    """One step of HSCM: F'_i, then V_i, of a coarse map and a finer feature. SEM is ``fusion``; ``text`` 0: no text."""

    def __init__(self, low: int, high: int, out: int, *, text: int, fusion: bool, heads: int) -> None:
        super().__init__()
        self.reduce = nn.Conv2d(low, out, 3, padding=1)
        self.merge = nn.Conv2d(high + out, out, 3, padding=1)
        if text:
            self.text_projection = nn.Linear(text, out)
            self.text_norm = nn.LayerNorm(out)
        if fusion:
            self.fusion1 = TextFusion(out, heads)
            self.refine = nn.Conv2d(out, out, 3, padding=1)
            self.fusion2 = TextFusion(out, heads)
        self.has_text, self.has_fusion = bool(text), fusion

    def forward(
        self, low: Tensor, high: Tensor, text: Tensor, similarity: Tensor | None
    ) -> tuple[Tensor, Tensor | None]:
        """Return V [B, out, H, W], at the finer size, and its text vector c' [B, out]; ``similarity`` is for SCM."""
        low = F.relu(self.reduce(_twice(low)))
        x = F.relu(self.merge(torch.cat([high, low], dim=1)))
        if similarity is not None:
            x = x + similarity * low
        if not self.has_text:
            return x, None
        vector = self.text_projection(text)
        vector = vector + self.text_norm(vector)
        if self.has_fusion:
            x, vector = self.fusion1(x, vector)
            x, vector = self.fusion2(F.relu(self.refine(x)), vector)
        return x, vector


class Counter(nn.Module):
    """Two self-attentions over all cells, a convolution between them, then a convolutional head ending in a relu."""

    def __init__(self, channels: int, heads: int) -> None:
        super().__init__()
        self.position1 = nn.Conv2d(channels, channels, 3, padding=1, groups=channels)
        self.attention1 = Attention(channels, heads)
        self.norm1 = nn.LayerNorm(channels)
        self.between = nn.Conv2d(channels, channels, 3, padding=1)
        self.position2 = nn.Conv2d(channels, channels, 3, padding=1, groups=channels)
        self.attention2 = Attention(channels, heads)
        self.norm2 = nn.LayerNorm(channels)
        self.head = nn.Sequential(
            *(nn.Conv2d(channels, channels, 3, padding=1), nn.ReLU()),
            *(nn.Conv2d(channels, 128, 3, padding=1), nn.ReLU()),
            *(nn.Conv2d(128, 1, 1), nn.ReLU()),
        )

    def forward(self, x: Tensor) -> Tensor:
        """Return the scaled density [B, 1, H, W] of features [B, C, H, W]."""
        x = self._attended(x, self.position1, self.attention1, self.norm1)
        x = F.relu(self.between(x))
        return self.head(self._attended(x, self.position2, self.attention2, self.norm2))

    @staticmethod
    def _attended(x: Tensor, position: nn.Module, attention: nn.Module, norm: nn.Module) -> Tensor:
        cells = _tokens(x)
        placed = cells + _tokens(position(x))
        return norm(cells + attention(placed, placed, cells)).mT.unflatten(-1, x.shape[-2:])


class Decoder(nn.Module):
    """HSCM, three stages from coarse to fine, and the counter; ``channels`` are those of F1 to F4.

    ``hscm``: semantic enhancement and correction; ``similarity``: whether S3 and S2 are made without it (for RRC).
    """

    def __init__(
        self, channels: Sequence[int], context: int, width: int, heads: int, *, hscm: bool, similarity: bool
    ) -> None:
        super().__init__()
        f1, f2, f3, f4 = channels
        text = context if hscm or similarity else 0
        self.stage1 = Stage(f4, f3, f4 // 2, text=text, fusion=hscm, heads=heads)
        self.stage2 = Stage(f4 // 2, f2, f4 // 4, text=text, fusion=hscm, heads=heads)
        self.stage3 = Stage(f4 // 4, f1, width, text=0, fusion=False, heads=heads)
        self.counter = Counter(width, heads)
        self.hscm = hscm

    def forward(self, features: Mapping[str, Tensor], text: Tensor) -> dict[str, Tensor]:
        """Decode F1..F4 and t0 [B, D] into "density" (60 x objects per cell), V, and where they are made c' and S."""
        v3, c3 = self.stage1(features["F4"], features["F3"], text, None)
        s3 = None if c3 is None else similarity_map(_twice(_twice(v3)), c3)
        correction = _enlarged(s3, features["F2"].shape[-2:]) if self.hscm and s3 is not None else None
        v2, c2 = self.stage2(v3, features["F2"], text, correction)
        s2 = None if c2 is None else similarity_map(_twice(v2), c2)
        v1, _ = self.stage3(v2, features["F1"], text, s2 if self.hscm else None)
        made = {"density": self.counter(v1), "V3": v3, "V2": v2, "V1": v1, "c3": c3, "c2": c2, "S3": s3, "S2": s2}
        return {name: value for name, value in made.items() if value is not None}


def normalised(maps: Tensor) -> Tensor:
    """Return maps [B, 1, h, w] stretched to [0, 1] per image: (x - min) / (max - min + 1e-7)."""
    low, high = maps.amin(dim=(1, 2, 3), keepdim=True), maps.amax(dim=(1, 2, 3), keepdim=True)
    return (maps - low) / (high - low + 1e-7)


def fused_attention(per_resolution: Mapping[int, Tensor], weights: Sequence[float]) -> Tensor:
    """Return A^cross, the fused cross-attention of the prompt [B, 1, h, w] in [0, 1], of divisor 4, 2, 1 -> map."""
    fused = torch.zeros_like(per_resolution[1])
    for weight, divisor in zip(weights, RESOLUTIONS.values(), strict=True):
        fused = fused + weight * normalised(_enlarged(per_resolution[divisor], fused.shape[-2:]))
    return fused


def region_labels(
    target: Tensor, attention: Tensor, own: Tensor, threshold: float | Literal["mean"], positive: float = 0.06
) -> Tensor:
    """Return the PNA map, the positive-negative-ambiguous labels: 1, 0, -1, float32 [B, 1, h, w].

    Positive are cells whose ``target`` (60 x objects per cell) is at least ``positive``, ambiguous other attended ones:
    with ``attention`` * ``own`` of at least ``threshold``; "mean" (the paper's text): own cells with at least the mean
    attention of own cells. ``own`` is 0 on foreign tiles and under a wrong prompt, else 1.
    """
    if threshold == "mean":
        mean = (attention * own).sum(dim=(1, 2, 3), keepdim=True) / (own.sum(dim=(1, 2, 3), keepdim=True) + 1e-7)
        attended = (attention >= mean) & (own > 0)
    else:
        attended = attention * own >= threshold
    labels = torch.where(attended, -1.0, 0.0)
    return torch.where(target >= positive, 1.0, labels)


def coherence_loss(similarity: Tensor, labels: Tensor, positive_weight: float = 2.0) -> Tensor:
    """Return L_RRC = lambda L_pos + L_neg: image means of 1 - S where positive and of max(S, 0) where negative."""
    positive, negative = (labels == 1).to(similarity), (labels == 0).to(similarity)
    cells = (1, 2, 3)
    pull = ((1 - similarity) * positive).sum(cells) / (positive.sum(cells) + 1e-7)
    push = (similarity.clamp(min=0) * negative).sum(cells) / (negative.sum(cells) + 1e-7)
    return (positive_weight * pull + push).mean()


def ssim_window() -> Tensor:
    """Return the 3x3 Gaussian window of the SSIM term, sigma 1.5, sum 1, [1, 1, 3, 3]."""
    weights = torch.exp(-(torch.arange(-1.0, 2.0) ** 2) / (2 * 1.5**2))
    weights = weights / weights.sum()
    return torch.outer(weights, weights)[None, None]


def structural_similarity(a: Tensor, b: Tensor) -> Tensor:
    """Return the mean SSIM over cells and batch of two maps [B, 1, h, w]; zero padding, C1 = 1e-4, C2 = 9e-4."""
    smooth = partial(F.conv2d, weight=ssim_window().to(a), padding=1)
    mean_a, mean_b = smooth(a), smooth(b)
    variance_a, variance_b = smooth(a * a) - mean_a**2, smooth(b * b) - mean_b**2
    covariance = smooth(a * b) - mean_a * mean_b
    luminance = (2 * mean_a * mean_b + 1e-4) / (mean_a**2 + mean_b**2 + 1e-4)
    structure = (2 * covariance + 9e-4) / (variance_a + variance_b + 9e-4)
    return (luminance * structure).mean()


def ssim_losses(predicted: Tensor, target: Tensor, foreground: Tensor) -> list[Tensor]:
    """Return 1 - SSIM of the masked maps at full, half and quarter resolution."""
    a, b = predicted * foreground, target * foreground
    losses = []
    for _ in range(3):
        losses.append(1 - structural_similarity(a, b))
        a, b = F.avg_pool2d(a, 2), F.avg_pool2d(b, 2)
    return losses


def distribution_loss(predicted: Tensor, target: Tensor) -> Tensor:
    """Return the batch mean of the L1 distance between both maps, each divided by its sum (+ 1e-6)."""
    shares = [x / (x.sum(dim=(1, 2, 3), keepdim=True) + 1e-6) for x in (predicted, target)]
    return (shares[0] - shares[1]).abs().sum(dim=(1, 2, 3)).mean()


def regression_loss(predicted: Tensor, target: Tensor, threshold: float = 0.06, dist_weight: float = 0.1) -> Tensor:
    """Return L_reg: the mean SSIM loss over three levels within the foreground, plus 0.1 times the distribution loss.

    Maps are 60 x objects per cell, float32 [B, 1, h, w]; foreground is strictly above ``threshold``. On a sample
    without objects the loss is ``dist_weight`` (0 for an empty prediction) with practically no gradient.
    """
    foreground = (target > threshold).to(predicted)
    ssim = torch.stack(ssim_losses(predicted, target, foreground)).mean()
    return ssim + dist_weight * distribution_loss(predicted, target)


@dataclass(frozen=True, slots=True)
class Examples:
    """Makes the training example of a sample: a crop under its own or another's prompt, or of a mosaic."""

    crops: PromptedCrops

    def __call__(self, index: int, pool: Pool, rng: np.random.Generator) -> list[Example]:
        """Return one example."""
        image, prompt, maps = self.crops(index, pool, rng)
        return [Example(pool.samples[index].id, image, prompt, count=float(maps["density"].sum()), maps=maps)]


@dataclass(frozen=True, slots=True)
class Outputs:
    """What one pass makes: the decoder's tensors (see ``Decoder.forward``), A [B, 1, h, w], A per resolution."""

    decoded: dict[str, Tensor]
    attention: Tensor
    per_resolution: dict[int, Tensor]


class T2ICount(System):
    """Counts what a prompt names, on one pass of a diffusion model."""

    Settings = T2ICountSettings
    recipe: ClassVar[Recipe] = Recipe(
        epochs=300,
        batch_size=16,
        optimiser=Optimiser(name="adamw", lr=5e-5, weight_decay=5e-5),
        evaluate_every=1,
        evaluate_from=51,
        select_by="mae+rmse",
    )
    text_guided = True
    needs = frozenset({"density", "prompts"})
    settings: T2ICountSettings

    def __init__(self, settings: T2ICountSettings) -> None:
        super().__init__(settings)
        if settings.wrong_prompt_weight:
            self.batch_coupled_by = "the count under wrong prompts is a mean over those of the batch that have one"
        backbone = settings.backbone
        side = backbone.image_size
        self.windows = Windows(side, side, side, stitch="average_pixels")
        self.words = sd.tokenizer(backbone)
        self.unet = sd.unet(backbone)
        self.vae = sd.autoencoder(backbone)
        del self.vae.decoder
        self.text = sd.text_encoder(backbone)
        self.vae.requires_grad_(False)
        self.text.requires_grad_(False)
        sizes = (backbone.unet_channels, backbone.context, settings.counter_width, settings.heads)
        self.decoder = Decoder(*sizes, hscm=settings.hscm, similarity=settings.rrc or settings.hscm)
        self.to(memory_format=torch.channels_last)  # makes convolutions faster
        self._pass = sd.UNetPass(self.unet)
        if settings.gradient_checkpointing is True:
            self.unet.enable_gradient_checkpointing()

    @classmethod
    def mini_settings(cls) -> dict[str, Any]:
        """Return the settings on the tiny Stable Diffusion, for trainings of a few hundred steps.

        Crops have the size of its pretraining scenes; windows of prediction are larger, because in one without the
        class, of which L_reg teaches nothing, things of other classes are counted. The rest was chosen on held-out
        scenes of the training and validation classes of ``shapes``: targets near one; blobs of one size (those of rare
        things would be as wide as the scene); a slower UNet, which else forgets to tell shapes apart; more mosaics; and
        more weight on what tells the prompted class from others, the distribution loss and RRC. There positive cells
        count half: with the paper's double weight all similarities go to 1, where a cosine has no gradient. The finest
        attention, the sharpest on so small a grid, has the most weight; in the paper it is the coarsest.
        """
        return {
            **{"backbone": "mini_sd", "weights": "mini_sd", "counter_width": 32, "heads": 2},
            **{"attention_weights": (0.1, 0.3, 0.6), "unet_factor": 0.3},
            **{"crop": 64, "mosaic_tile": 40, "largest_scale": 1.3, "density_sigma": 4.0, "density_scale": 6.0},
            **{"dist_weight": 1.5, "rrc_weight": 1.0, "positive_weight": 0.5},
            "sample_kinds": {"own": 0.35, "other_prompt": 0.15, "mosaic": 0.5},
        }

    def prepare_training(self, samples: Sequence[Sample]) -> None:
        """Load the base weights, check that every prompt can be read, and turn a counter that starts dead."""
        for prompt in dict.fromkeys(sample.prompt for sample in samples):
            self.words.encode(prompt)
        self.restore_base_weights()
        self._turn_dead_counter(samples[:TRIED])

    @torch.no_grad()
    def _turn_dead_counter(self, samples: Sequence[Sample]) -> None:
        """Negate the counter's last layer if the untrained network counts nothing anywhere in some training pictures.

        Behind the final relu nothing would get a gradient. PyTorch's default start is as likely as its negative. The
        release has no such rule; without it, two of four seeds of the mini size's B count zero for ever.
        """
        side = self.settings.crop
        shown = [(load_image(sample.image, sample.image_sha256), sample.prompt) for sample in samples if sample.image]
        crops = [(picture[None, :, :side, :side], prompt) for picture, prompt in shown]
        fitting = [(crop, prompt) for crop, prompt in crops if crop.shape[-2:] == (side, side)]
        training = self.training
        self.eval()
        densities = [self.predict(crop.float() / 255, [prompt]).density for crop, prompt in fitting]
        self.train(training)
        counted = [density > 0 for density in densities if density is not None]
        if counted and float(torch.cat(counted).float().mean()) < DEAD:
            last: Any = self.decoder.counter.head[-2]
            last.weight.neg_()
            last.bias.neg_()
            log.warning("the counter starts with zero everywhere and would stay so: its last layer is negated")

    def targets_of(self, samples: Sequence[Sample]) -> str:
        """Return whether the data set's ready density maps are learnt, or dots blurred here."""
        return "ready maps" if samples and all(map(has_ready_map, samples)) else "own kernel"

    def restore_base_weights(self) -> bool:
        """Load the base weights of the diffusion model; the decoder stays as it is. False for random weights."""
        found = self.settings.weights != "random"
        if found:
            self.load_state_dict(sd.base_weights(self.settings.weights, self.base_state()), strict=False)
        return found

    def base_state(self) -> dict[str, Tensor]:
        """Return the state dict without the decoder."""
        return {name: value for name, value in self.state_dict().items() if not name.startswith("decoder.")}

    def foreground(self, sample: Sample) -> tuple[Tensor, int]:
        """Return the positive cells of the coherence loss, bool [h, w], and the latent's stride."""
        density = density_of(sample, sample.width, sample.height, self.settings.density_sigma)
        stride = self.settings.backbone.stride
        padded = F.pad(density[None, None], (0, -sample.width % stride, 0, -sample.height % stride))
        return F.avg_pool2d(padded, stride)[0, 0] * stride**2 >= FOREGROUND, stride

    def latent(self, images: Tensor) -> Tensor:
        """Return z_t, what the UNet sees of images [B, 3, H, W] in [0, 1]: [B, 4, h, w]; as released without noise."""
        with torch.no_grad():
            clean = self.settings.latent_scale * self.vae.encode(images * 2 - 1).latent_dist.mode()
        if self.settings.noise == "none":
            return clean
        if self.training:
            noise = torch.randn_like(clean)
        else:  # the same for every window, so that a prediction depends on its window only
            noise = torch.randn(clean.shape[1:], generator=torch.Generator().manual_seed(0)).to(clean).expand_as(clean)
        return sd.FIRST_ALPHA_BAR**0.5 * clean + (1 - sd.FIRST_ALPHA_BAR) ** 0.5 * noise

    def context(self, prompts: Sequence[str]) -> tuple[Tensor, Tensor]:
        """Return the text states [B, L, D] and the mask [B, L] of the prompt's own tokens."""
        device = self.text.device
        ids, mask = sd.token_ids(prompts, self.words, self.settings.backbone.text_length)
        with torch.no_grad():
            return self.text(ids.to(device)).last_hidden_state, mask.to(device)

    @torch.no_grad()
    def _denoised(self, latent: Tensor, context: Tensor, share: Tensor) -> Tensor:
        """Return what the last of several denoising steps sees: DDIM (eta 0) from timestep 600; else the latent."""
        if self.settings.denoising_steps == 1:
            return latent
        times = torch.linspace(FIRST_OF_SEVERAL, 0, self.settings.denoising_steps).round().long()
        signal = sd.alpha_bar().to(latent)
        noise = torch.randn(latent.shape[1:], generator=torch.Generator().manual_seed(0)).to(latent).expand_as(latent)
        latent = signal[times[0]] ** 0.5 * latent + (1 - signal[times[0]]) ** 0.5 * noise
        for now, following in pairwise(times):
            found, _ = self._pass.denoise(latent, now.to(latent.device).expand(len(latent)), context, share)
            clean = (latent - (1 - signal[now]) ** 0.5 * found) / signal[now] ** 0.5
            latent = signal[following] ** 0.5 * clean + (1 - signal[following]) ** 0.5 * found
        return latent

    def decode(self, latent: Tensor, context: Tensor, mask: Tensor) -> Outputs:
        """Run UNet and decoder on a latent [B, 4, h, w], text states [B, L, D] and a token mask [B, L]."""
        share = (mask / mask.sum(dim=1, keepdim=True)).unsqueeze(-1)  # (B, L, 1)
        features, per_resolution = self._pass(self._denoised(latent, context, share), context, share)
        text = (context * share).sum(dim=1)
        attention = fused_attention(per_resolution, self.settings.attention_weights)
        return Outputs(self.decoder(features, text), attention, per_resolution)

    def save_memory(self) -> bool:
        """Recompute the UNet in the backward pass, if the settings leave that open."""
        saves = self.settings.gradient_checkpointing == "auto" and not self.unet.is_gradient_checkpointing
        if saves:
            self.unet.enable_gradient_checkpointing()
        return saves

    def example_maker(self) -> ExampleMaker:
        """Return the maker of own-prompt, other-prompt and mosaic samples."""
        settings, stride = self.settings, self.settings.backbone.stride
        sizes = (settings.crop, settings.mosaic_tile, settings.largest_scale, settings.density_sigma, stride)
        return Examples(PromptedCrops(*sizes, settings.sample_kinds))

    def losses(self, batch: Batch) -> dict[str, Tensor]:
        """Return "regression", with RRC "rrc_s3" and "rrc_s2", and the recorded "train_mae" (all in float32)."""
        context, mask = self.context(batch.prompts)
        outputs = self.decode(self.latent(batch.images), context, mask)
        with torch.autocast(batch.images.device.type, enabled=False):
            return self.loss_terms(outputs, batch.maps["density"], batch.maps["own"])

    def loss_terms(self, outputs: Outputs, density: Tensor, own: Tensor) -> dict[str, Tensor]:
        """Return the terms of L, the total loss, for a target density (objects per cell) and own mask, [B, 1, h, w]."""
        settings = self.settings
        predicted = full_precision(outputs.decoded["density"])
        target, threshold = settings.density_scale * density, settings.density_scale * FOREGROUND
        counts = predicted.sum(dim=(1, 2, 3)) / settings.density_scale
        terms = {"regression": regression_loss(predicted, target, threshold, settings.dist_weight)}
        if settings.rrc:
            labels = region_labels(target, outputs.attention, own, settings.attention_threshold, threshold)
            if settings.ambiguous == "background":
                labels = labels.clamp(min=0)
            for name in ("S3", "S2"):
                similarity = outputs.decoded[name]
                terms[f"rrc_{name.lower()}"] = coherence_loss(similarity, labels, settings.positive_weight)
        if settings.wrong_prompt_weight:
            wrong = (own.amax(dim=(1, 2, 3)) == 0).to(counts)
            terms["wrong_prompt"] = (counts * wrong).sum() / wrong.sum().clamp(min=1)
        terms["train_mae"] = (counts - density.sum(dim=(1, 2, 3))).abs().mean().detach()
        return terms

    @property
    def loss_weights(self) -> Mapping[str, float]:
        """Return gamma for both coherence losses and 0 for what is only recorded."""
        gamma, wrong = self.settings.rrc_weight, self.settings.wrong_prompt_weight
        return {"rrc_s3": gamma, "rrc_s2": gamma, "wrong_prompt": wrong, "train_mae": 0.0}

    def predict(self, images: Tensor, prompts: Sequence[str]) -> Prediction:
        """Predict the density at the latent's stride, with attention maps, and similarity maps where there are any."""
        context, mask = self.context(prompts)
        outputs = self.decode(self.latent(images), context, mask)
        maps = {name: value for name, value in outputs.decoded.items() if name in ("S3", "S2")}
        maps["attention"] = outputs.attention
        maps |= {f"attention_{name}": outputs.per_resolution[divisor] for name, divisor in RESOLUTIONS.items()}
        return Prediction(density=outputs.decoded["density"].float() / self.settings.density_scale, maps=maps)

    def parameter_groups(self, recipe: Recipe) -> list[dict[str, Any]]:
        """Return the decoder at the full rate, and the UNet at ``unet_factor`` of rate and weight decay (a tenth)."""
        factor = self.settings.unet_factor
        slow = {"lr_scale": factor, "weight_decay": factor * recipe.optimiser.weight_decay}
        return [{"params": list(self.decoder.parameters())}, {"params": list(self.unet.parameters()), **slow}]

    @classmethod
    def import_checkpoint(cls, path: Path, settings: Any) -> dict[str, Tensor]:
        """Return ``best_model_paper.pth``, or any state dict of the released code, under our names, strictly."""
        if settings.latent_scale != 1 or settings.noise != "none" or not settings.hscm:
            raise UserError(
                f"{path}: the released weights need latent_scale 1, noise none and hscm true; found "
                f"{settings.latent_scale}, {settings.noise} and {settings.hscm}"
            )
        with torch.device("meta"):
            expected = cls(settings).state_dict()
        state = sd.linear_attention(read_tensors(path))
        of_base = sd.ldm_renamer([ldm_key(key) for key in state], expected)

        def rename(key: str) -> str | None:
            if key.startswith("decoder."):
                return f"decoder.{decoder_key(key.removeprefix('decoder.'))}"
            return of_base(name) if (name := ldm_key(key)) != key else key

        return renamed(state, rename, expected, source=path)


# what the release calls the parts of Stable Diffusion -> what LDM calls them
BASES = {"unet.unet.": "model.", "vae.": "first_stage_model.", "clip.": "cond_stage_model."}
PROJECTIONS = {"q_proj": "query", "k_proj": "key", "v_proj": "value", "out_proj": "out", "img_pe_transform": "position"}
FUSION = PROJECTIONS | {
    **{"txt2img": "text_reads_image", "img2txt": "image_reads_text", "mlp.net.0.0": "mlp.0", "mlp.net.2": "mlp.2"},
    **{"norm1": "norm_read", "norm2": "norm_mlp", "norm3": "norm_image"},
}
COUNTER = PROJECTIONS | {"regressor.": "counter.", "conv.0": "between", "self_attn": "attention", "reg_head.": "head."}
STAGE = {"conv1.0": "reduce", "conv2.0": "merge", "conv3.0": "refine"}
STAGE |= {"text_conv": "text_projection", "norm1": "text_norm"}


def ldm_key(name: str) -> str:
    """Return LDM's name of a tensor of the release's Stable Diffusion; another name stays as it is."""
    return next((ldm + name.removeprefix(ours) for ours, ldm in BASES.items() if name.startswith(ours)), name)


def decoder_key(name: str) -> str:
    """Return our name of a tensor of the released decoder, for example ``upsample1.img_txt_fusion1.norm3.weight``."""
    if name.startswith("regressor."):
        return _replaced(name, COUNTER)
    stage, _, rest = name.partition(".")
    return f"{stage.replace('upsample', 'stage')}.{stage_key(rest)}"


def stage_key(name: str) -> str:
    """Return our name of a tensor within one stage of the released decoder."""
    fused = name.startswith("img_txt_fusion")
    return _replaced(name.replace("img_txt_fusion", "fusion", 1), FUSION if fused else STAGE)


def _replaced(name: str, table: Mapping[str, str]) -> str:
    for old, new in table.items():
        name = name.replace(old, new)
    return name


EQUATIONS: dict[str, Callable[..., Any]] = {
    "z_t: the noisy latent of one denoising step": T2ICount.latent,
    "F'_i, V_i: feature fusion, semantic enhancement and correction (HSCM)": Stage,
    "S_i: text-image similarity map": similarity_map,
    "A^cross: fused cross-attention": fused_attention,
    "PNA map: positive, negative and ambiguous cells": region_labels,
    "L_pos, L_neg, L_RRC: regional coherence": coherence_loss,
    "L_reg: regression": regression_loss,
    "L: total loss": T2ICount.loss_terms,
}
"""The paper's equations, by symbol: the text that this was written from does not number them."""

SYSTEM = T2ICount
