"""CountCLIP: CLIP tuned so that a caption with the right number lies nearer to its picture than one with a wrong one.

"[Re] Teaching CLIP to Count to Ten" (arXiv 2406.03586, ReScience C), a re-implementation of Paiss et al. (ICCV 2023).
Numbers checked against model.ipynb of SforAiDl/CountCLIP@a15672d and clip/model.py of openai/CLIP@d05afc4 (golden cases
``countclip.json``). The towers are open_clip's, with QuickGELU; OpenAI's state dicts load under the same names.

L = L_CLIP + lambda * L_count (equation 1). L_CLIP is CLIP's symmetric cross-entropy over all pairs of a batch with
their own captions; L_count (equation 2) and L_count+ (equation 7) are softmax cross-entropies over the raw cosines,
without temperature, of the counting pair's own caption against one, or against all eight, with another number word.
Lambda weighs a pair by how rare its number is among the counting pairs (equations 3 to 6).

The settings' defaults are the notebook's: a substring swap, captions cut to 110 characters in training and to 77 in
evaluation, one wrong number drawn per pair for the whole training, and weights that go through half precision after
every step without a master copy.

Deviations: images and all captions of a step are encoded once (the notebook encodes them twice; gradients are equal);
losses are computed in single precision at least; a caption of more than 77 tokens is truncated by open_clip, where
OpenAI's tokenizer raises and the notebook drops the item; on a processor, half-precision weights and gradients keep the
values they would have in half precision but are computed with in single precision.
"""

import math
import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from pydantic import Field, field_validator
from torch import Tensor, nn
from torch.nn import functional

from recount.data.sample import Sample
from recount.errors import UserError
from recount.nn import clip
from recount.nn.clip import NOT_A_TOWER, ClipSize, build_clip, image_features, text_features
from recount.nn.normalise import Normalise
from recount.nn.precision import as_floats, full_precision, without_autocast
from recount.nn.weights import card, read_tensors, renamed
from recount.settings.base import Strict
from recount.settings.recipe import Optimiser, Recipe
from recount.systems.base import READING, Batch, Example, Pool, Prediction, Stage, System

NOT_COUNTING = -1
CAPTIONS_PER_PASS = 1024  # of the text tower, in evaluation
NUMBERS = (2, 3, 4, 5, 6, 7, 8, 9, 10)
WORDS = ("two", "three", "four", "five", "six", "seven", "eight", "nine", "ten")
WORD_OF = dict(zip(NUMBERS, WORDS, strict=True))

Weighting = Literal["const", "norm", "modal", "log"]
Swap = Literal["substring", "whole_word"]


LARGE = {"embed_dim": 768, "vision_width": 1024, "vision_layers": 24}
LARGE |= {"text_width": 768, "text_heads": 12, "text_layers": 12}
SIZES = {"vit_b_32": ClipSize(), "vit_b_16": ClipSize(patch=16), "vit_l_14": ClipSize(patch=14, **LARGE)}
SizeName = Literal["vit_b_32", "vit_b_16", "vit_l_14", "mini_clip"]
OPEN_CLIP_NAMES = ("ViT-B-32-quickgelu", "ViT-B-16-quickgelu", "ViT-L-14-quickgelu")
OPEN_CLIP_MODELS = dict(zip(SIZES.values(), OPEN_CLIP_NAMES, strict=True))


class CountClipSettings(Strict):
    """CountCLIP's settings; the defaults are the released notebook."""

    clip: ClipSize = Field(ClipSize(), description='sizes, or "vit_b_32", "vit_b_16", "vit_l_14" or "mini_clip"')
    weights: str = Field("openai", description='"openai", "mini_clip", "random", or a CLIP state dict\'s path')
    train: bool = Field(True, description="false: the base weights as they are (the untrained baseline)")
    loss: Literal["count", "countplus"] = Field("count", description="against one wrong number (eq. 2), or all (eq. 7)")
    weighting: Weighting = Field("const", description="lambda by the frequency of the number (eq. 3 to 6)")
    weighting_rescale: Literal["none", "unit_mean"] = Field(
        "none", description="unit_mean: lambda divided by its mean over the counting pairs (not in the paper)"
    )
    count_weight: float = Field(1.0, ge=0, description="lambda 0; 0 continues training with L_CLIP alone")
    swap: Swap = Field("substring", description='whether "ten" is also swapped inside "kitten"')
    draw: Literal["fixed", "per_epoch"] = Field("fixed", description="when the wrong number of a pair is drawn")
    cut_train: int | None = Field(110, gt=0, description="characters of a caption in training; null: all")
    cut_eval: int | None = Field(77, gt=0, description="the same in evaluation", json_schema_extra=READING)
    lost_word: Literal["predict_two", "drop"] = Field(
        "predict_two", description="for items whose number word the cut removes", json_schema_extra=READING
    )
    precision: Literal["fp16_roundtrip", "fp32", "bf16"] = Field(
        "fp16_roundtrip", description="fp16_roundtrip: weights back to half precision after each step; bf16: autocast"
    )
    eval_dtype: Literal["model", "float32"] = Field(
        "model", description="of the cosines that are compared", json_schema_extra=READING
    )

    @field_validator("clip", mode="before", json_schema_input_type=ClipSize | SizeName)
    @classmethod
    def _named_size(cls, value: Any) -> Any:
        if value == "mini_clip":
            return card("mini_clip")["clip"]
        if isinstance(value, str) and value not in SIZES:
            raise ValueError(f"allowed are sizes, or {', '.join([*SIZES, 'mini_clip'])}")
        return SIZES.get(value, value) if isinstance(value, str) else value


def cut_and_lowered(caption: str, cut: int | None) -> str:
    """Return the lower-cased caption, cut to ``cut`` characters (None: whole)."""
    return caption.lower()[:cut]


def has_number_word(lowered: str, number: int, swap: Swap = "substring") -> bool:
    """Return whether the word of ``number`` is in a lower-cased caption."""
    return re.search(_pattern(number, swap), lowered) is not None


def swapped(lowered: str, number: int, other: int, swap: Swap = "substring") -> str:
    """Return a lower-cased caption with every word of ``number`` replaced by the word of ``other``."""
    return re.sub(_pattern(number, swap), WORD_OF[other], lowered)


def _pattern(number: int, swap: Swap) -> str:
    word = re.escape(WORD_OF[number])
    return rf"\b{word}\b" if swap == "whole_word" else word


def nine_captions(caption: str, number: int, cut: int | None, swap: Swap = "substring") -> list[str]:
    """Return the caption's variants with "two" to "ten"; all equal where the number word lies beyond the cut."""
    lowered = cut_and_lowered(caption, cut)
    return [swapped(lowered, number, other, swap) for other in NUMBERS]


def captions_of_prompt(prompt: str) -> list[str]:
    """Return the nine captions of a prompt: nine lines, for two to ten, or one caption with one number word."""
    lines = prompt.split("\n")
    if len(lines) == len(NUMBERS):
        return lines
    found = [number for number in NUMBERS if has_number_word(prompt.lower(), number, "whole_word")]
    if len(lines) != 1 or len(found) != 1:
        raise UserError(
            f"prompt {prompt[:200]!r}: CountCLIP chooses among nine captions: give one caption with exactly one of "
            f"the words {', '.join(WORDS)}, or nine captions, one per line"
        )
    return nine_captions(prompt, found[0], None, "whole_word")


def clip_loss(image: Tensor, text: Tensor, logit_scale: Tensor) -> Tensor:
    """Return L_CLIP of (1), for raw features [B, D] and [B, D]: the symmetric cross-entropy of the scaled cosines."""
    logits = logit_scale.exp() * functional.normalize(image, dim=-1) @ functional.normalize(text, dim=-1).T  # (B, B)
    target = torch.arange(len(logits), device=logits.device)
    return (functional.cross_entropy(logits, target) + functional.cross_entropy(logits.T, target)) / 2


def count_loss(cosines: Tensor) -> Tensor:
    """Return L_count (2), where K = 1, or L_count+ (7), where K = 8, [N], of ``cosines`` [N, 1 + K], the own first."""
    return -functional.log_softmax(cosines, dim=1)[:, 0]


def lambdas(weighting: Weighting, counts: Mapping[int, int]) -> dict[int, float]:
    """Return lambda of each number from how many counting pairs have it: (3), (4), (5) and (6), with lambda 0 = 1.

    ``modal`` divides the count of two, whichever number is the most frequent; ``log`` divides by the largest of the
    double logarithms, not by their range, and needs every number: both as coded.
    """
    total = sum(counts.values())
    there = [number for number in NUMBERS if counts.get(number, 0)]
    if weighting == "const":
        return dict.fromkeys(there, 1.0)
    if weighting == "norm":
        return {number: 1 - counts[number] / total for number in there}
    if weighting == "modal":
        return {number: counts.get(2, 0) / counts[number] for number in there}
    absent = [WORD_OF[number] for number in NUMBERS if number not in there]
    if absent:
        raise UserError(
            f"weighting log: the training set has no counting pair for {', '.join(absent)}; the formula needs every "
            "number from two to ten. Choose another weighting or training set"
        )
    sigma = {number: math.log2(math.log2(total / counts[number])) for number in NUMBERS}
    least, most = min(sigma.values()), max(sigma.values())
    return {number: 1 + (value - least) / most for number, value in sigma.items()}


def clip_square(image: Tensor, size: int) -> Tensor:
    """Return a picture uint8 [3, H, W] as CLIP sees it, uint8: short side to ``size`` (bicubic), centre crop."""
    from torchvision.transforms.v2 import InterpolationMode
    from torchvision.transforms.v2 import functional as transforms

    resized = transforms.resize(image, [size], interpolation=InterpolationMode.BICUBIC, antialias=True)
    square: Tensor = transforms.center_crop(resized, [size, size])
    return square


@dataclass(frozen=True)
class Pairs:
    """Makes the pair of one training sample: its picture, its caption, and the captions with wrong numbers."""

    settings: CountClipSettings
    drawn: Mapping[str, int] | None  # sample id -> its wrong number, where that is drawn once

    def __call__(self, index: int, pool: Pool, rng: np.random.Generator) -> list[Example]:
        """Return one example; ``attributes`` hold its number (-1: not a counting pair) and its counterfactuals."""
        sample, settings = pool.samples[index], self.settings
        number = number_of(sample)
        lowered = cut_and_lowered(sample.prompt, settings.cut_train)
        wrong = [other for other in NUMBERS if number not in (other, NOT_COUNTING)]
        if wrong and settings.loss == "count":
            wrong = [self.drawn[sample.id] if self.drawn is not None else int(rng.choice(wrong))]
        counterfactuals = [swapped(lowered, number, other, settings.swap) for other in wrong]
        image = clip_square(pool.image(index), settings.clip.image_size)
        attributes = {"number": number, "counterfactuals": counterfactuals}
        caption = sample.prompt[: settings.cut_train]
        return [Example(sample.id, image, caption, count=sample.count, attributes=attributes)]


def number_of(sample: Sample) -> int:
    """Return the number that a sample's caption names, or -1 if the sample is not a counting pair."""
    if math.isnan(sample.count):
        return NOT_COUNTING
    if sample.count not in NUMBERS:
        told = f"sample {sample.id}: count {sample.count:g}"
        raise UserError(f"{told}; CountCLIP's counting pairs have two to ten objects")
    return int(sample.count)


def half_precision_keys(network: nn.Module) -> set[str]:
    """Return which of a CLIP's parameters OpenAI's ``convert_weights`` halves: not norms, embeddings and the scale."""
    shapes = {id(parameter): nn.Parameter(parameter.to("meta")) for parameter in network.parameters()}
    converted = deepcopy(network, shapes)
    from open_clip.model import convert_weights_to_fp16  # build_clip has read it, without what it can do without

    convert_weights_to_fp16(converted)
    return {name for name, parameter in converted.named_parameters() if parameter.dtype == torch.float16}


def _in_half(gradient: Tensor) -> Tensor:
    return gradient.half().to(gradient.dtype)


class CountCLIP(System):
    """CLIP with a counting loss. Predicts scores over two to ten: cosines of a picture with nine captions."""

    Settings = CountClipSettings
    recipe = Recipe(
        epochs=10,
        batch_size=5,
        shuffle=False,
        optimiser=Optimiser(name="adam", lr=5e-6, weight_decay=0.2, betas=(0.9, 0.98), eps=5e-6),
        evaluate_every=1,
        select_by="accuracy",
    )
    text_guided = True
    needs = frozenset({"prompts"})
    batch_coupled_by = "CLIP's loss contrasts each picture with all captions of the batch"
    settings: CountClipSettings

    def __init__(self, settings: CountClipSettings) -> None:
        super().__init__(settings)
        self.trains = settings.train
        self.clip = build_clip(settings.clip)
        self.normalise = Normalise(clip.CLIP_MEAN, clip.CLIP_STD)
        self.lambdas: dict[int, float] = {}
        self.drawn: dict[str, int] | None = None
        halves = half_precision_keys(self.clip) if settings.precision == "fp16_roundtrip" else set()
        self.halves = [parameter for name, parameter in self.clip.named_parameters() if name in halves]
        for parameter in self.halves:
            parameter.register_hook(_in_half)

    @classmethod
    def mini_settings(cls) -> dict[str, Any]:
        """Return the tiny CLIP that comes with recount: a million parameters, 60 pixels, a vocabulary of words."""
        return {"clip": "mini_clip", "weights": "mini_clip"}

    def prepare_training(self, samples: Sequence[Sample]) -> None:
        """Load the base weights; weigh the numbers by their frequency; draw the wrong number of each counting pair."""
        path = base_weights(self.settings)
        if path is not None:
            self.load_state_dict(self.import_checkpoint(path, self.settings))
        self.after_step()
        counting = {sample.id: number_of(sample) for sample in samples if not math.isnan(sample.count)}
        self.set_lambdas(Counter(counting.values()))
        if self.settings.draw == "fixed":
            drawn = torch.randint(len(NUMBERS) - 1, (len(counting),)).tolist()
            pairs = zip(counting.items(), drawn, strict=True)
            self.drawn = {name: [n for n in NUMBERS if n != number][place] for (name, number), place in pairs}

    def set_lambdas(self, counts: Mapping[int, int]) -> None:
        """Set lambda of each number from the class counts of the counting pairs."""
        table = lambdas(self.settings.weighting, counts)
        mean = 1.0
        if self.settings.weighting_rescale == "unit_mean" and counts:
            mean = sum(table[number] * times for number, times in counts.items()) / sum(counts.values())
        self.lambdas = {number: value / mean for number, value in table.items()}

    def lambda_of(self, caption: str, number: int) -> float:
        """Return lambda of a counting pair; 1 if the number word is not in the cut caption, as coded."""
        kept = has_number_word(cut_and_lowered(caption, self.settings.cut_train), number)
        return self.settings.count_weight * (self.lambdas[number] if kept else 1.0)

    def example_maker(self) -> Pairs:
        """Return the maker of pairs."""
        return Pairs(self.settings, self.drawn)

    def begin_stage(self, stage: Stage) -> None:
        """Put the weights into the precision that training keeps them in."""
        self.after_step()

    @torch.no_grad()
    def after_step(self) -> None:
        """Take weights through half precision: what an update is too small to move stays where it was."""
        for parameter in self.halves:
            parameter.copy_(parameter.half())

    def losses(self, batch: Batch) -> dict[str, Tensor]:
        """Return the terms of (1): L_CLIP over all pairs ("clip") and lambda times L_count or L_count+ ("count")."""
        numbers = batch.attributes["number"]
        texts = [*batch.prompts, *(text for row in batch.attributes["counterfactuals"] for text in row)]
        image = self.encode_images(batch.images)  # (B, D)
        text = self.encode_captions(texts)  # (B + N K, D)
        with without_autocast(image.device):
            terms = {"clip": clip_loss(image, text[: len(image)], full_precision(self.clip.logit_scale))}
            counting = [place for place, number in enumerate(numbers) if number != NOT_COUNTING]
            if not counting:
                return terms | {"count": image.sum() * 0}
            pair = torch.tensor(counting, device=image.device)
            others = text[len(image) :].unflatten(0, (len(counting), -1))  # (N, K, D)
            captions = torch.cat([text[pair][:, None], others], dim=1)  # (N, 1 + K, D)
            cosines = functional.cosine_similarity(image[pair][:, None], captions, dim=-1)
            weights = [self.lambda_of(batch.prompts[place], numbers[place]) for place in counting]
            return terms | {"count": (count_loss(cosines) * cosines.new_tensor(weights)).mean()}

    def encode_images(self, images: Tensor) -> Tensor:
        """Return raw features [B, D], in single precision at least, of images [B, 3, H, W] in [0, 1]."""
        with self._autocast(images.device):
            return full_precision(image_features(self.clip.visual, self.normalise(images)))

    def encode_captions(self, captions: Sequence[str]) -> Tensor:
        """Return raw features [N, D], in single precision at least, of captions."""
        with self._autocast(self.clip.logit_scale.device):
            return full_precision(text_features(self.clip, captions, self.settings.clip))

    def _autocast(self, device: torch.device) -> AbstractContextManager[Any]:
        if self.settings.precision == "bf16":
            return torch.autocast(device.type, torch.bfloat16)
        if self.settings.precision == "fp16_roundtrip" and device.type == "cuda":
            return torch.autocast(device.type, torch.float16)
        return nullcontext()

    def prompt_of(self, sample: Sample) -> str:
        """Return the nine captions of a sample, one per line; of one without a count, its own caption."""
        if math.isnan(sample.count):
            return sample.prompt
        captions = nine_captions(sample.prompt, number_of(sample), self.settings.cut_eval, self.settings.swap)
        return "\n".join(" ".join(caption.split("\n")) for caption in captions)

    def prepare_image(self, image: Tensor) -> Tensor:
        """Return the square [3, S, S] that CLIP sees of an image in [0, 1]."""
        return as_floats(clip_square((image * 255).round().byte(), self.settings.clip.image_size))

    def predict(self, images: Tensor, prompts: Sequence[str]) -> Prediction:
        """Return the cosines of each picture with its nine captions; the first of equal ones is the answer."""
        captions = [captions_of_prompt(prompt) for prompt in prompts]
        texts = list(dict.fromkeys(text for nine in captions for text in nine))
        parts = [texts[start : start + CAPTIONS_PER_PASS] for start in range(0, len(texts), CAPTIONS_PER_PASS)]
        features = torch.cat([self.encode_captions(part) for part in parts])
        place = {text: index for index, text in enumerate(texts)}
        chosen = torch.tensor([[place[text] for text in nine] for nine in captions], device=images.device)
        scores = self._cosines(self.encode_images(images)[:, None], features[chosen])
        kept = None
        if self.settings.lost_word == "drop":
            kept = torch.tensor([len(set(nine)) > 1 for nine in captions], device=images.device)
        return Prediction(scores=scores, numbers=NUMBERS, kept=kept)

    def _cosines(self, image: Tensor, text: Tensor) -> Tensor:
        """Return cosines [B, 9] in single precision; as coded, compared in the precision of the model."""
        with without_autocast(image.device):
            if self.settings.eval_dtype == "model" and self.settings.precision == "fp16_roundtrip":
                image, text = image.half(), text.half()
            return functional.cosine_similarity(image, text, dim=-1).float()

    @classmethod
    def import_checkpoint(cls, path: Path, settings: CountClipSettings) -> dict[str, Tensor]:
        """Read a CLIP state dict (OpenAI's names, as the notebook saves it, or open_clip's) under our names."""
        with torch.device("meta"):
            expected = {f"clip.{key}": value for key, value in build_clip(settings.clip).state_dict().items()}

        def rename(key: str) -> str | None:  # OpenAI's files hold numbers beside the weights
            if key in NOT_A_TOWER and key != "logit_scale":
                return None
            return key if key.startswith("clip.") else f"clip.{key}"

        state = renamed(read_tensors(path), rename, expected, source=path)
        return {key: value.float() for key, value in state.items()}


def base_weights(settings: CountClipSettings) -> Path | None:
    """Return the file of the weights that training starts from; None for random ones."""
    if settings.weights == "random":
        return None
    if settings.weights == "openai" and settings.clip not in OPEN_CLIP_MODELS:
        raise UserError("weights: openai: OpenAI's weights fit clip: vit_b_32, vit_b_16 or vit_l_14 only")
    return clip.weights_file(settings.weights, {"openai": OPEN_CLIP_MODELS.get(settings.clip, "")})


EQUATIONS: dict[str, Callable[..., Any]] = {
    "(1) L = L_CLIP + lambda L_count": CountCLIP.losses,
    "(2) L_count": count_loss,
    "(3)-(6) lambda: const, norm, modal, log": lambdas,
    "(7) L_count+": count_loss,
}

SYSTEM = CountCLIP
