"""The interface between a system and the rest of recount: examples in, losses and predictions out."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any, ClassVar, Protocol

import numpy as np
import torch
from torch import Tensor, nn

from recount.data.needs import Need
from recount.data.sample import Sample
from recount.data.windows import Windows
from recount.errors import UserError
from recount.nn.precision import as_floats
from recount.settings.base import Strict
from recount.settings.recipe import Recipe

__all__ = ["READING", "Batch", "Example", "ExampleMaker", "Pool", "Prediction", "Stage", "System", "UserError"]

READING: dict[str, Any] = {"reading": True}
"""``json_schema_extra`` of a setting that changes how a trained model is read or prompted, and no training."""


def _stacked(images: Sequence[Tensor]) -> Tensor:
    alike = all(image.dtype == images[0].dtype for image in images)
    return torch.stack([*images] if alike else [as_floats(image) for image in images])


@dataclass(slots=True)
class Example:
    """One training example: a crop or a whole image."""

    id: str  # of the sample it was made from (shown when a loss is not finite)
    # [3, H, W], not normalised (a system does that inside its network): float32 in [0, 1], or uint8, which is a quarter
    # of it on the way to the device
    image: Tensor
    prompt: str = ""  # what is to be counted
    points: Tensor = field(default_factory=lambda: torch.zeros(0, 2))  # float32 [N, 2], x and y in pixels of ``image``
    count: float = 0.0  # the true one
    maps: dict[str, Tensor] = field(default_factory=dict)  # further tensors that stack over a batch (density, ...)
    attributes: dict[str, Any] = field(default_factory=dict)  # further values that stay a list over a batch


@dataclass(slots=True)
class Batch:
    """A batch of examples; ``maps`` are stacked."""

    ids: list[str]
    images: Tensor  # [B, 3, H, W]: float32 in [0, 1], where ``to`` has not been called perhaps uint8
    prompts: list[str]
    points: list[Tensor]  # [N_b, 2]
    counts: Tensor  # [B]
    maps: dict[str, Tensor]
    attributes: dict[str, list[Any]]
    seed: int = 0  # for random numbers that all examples of a training batch share: its parts have the same

    @classmethod
    def of(cls, examples: Sequence[Example]) -> "Batch":
        """Stack examples of one size."""
        return cls(
            ids=[each.id for each in examples],
            images=_stacked([each.image for each in examples]),
            prompts=[each.prompt for each in examples],
            points=[each.points for each in examples],
            counts=torch.tensor([float(each.count) for each in examples]),
            maps={name: torch.stack([each.maps[name] for each in examples]) for name in examples[0].maps},
            attributes={name: [each.attributes[name] for each in examples] for name in examples[0].attributes},
        )

    def to(self, device: torch.device | str) -> "Batch":
        """Return the batch with every tensor on ``device``, the images as float32 in [0, 1]."""
        moved = self._with_each(lambda tensor: tensor.to(device, non_blocking=True))
        return replace(moved, images=as_floats(moved.images))

    def pin_memory(self) -> "Batch":
        """Return the batch in page-locked memory, from which a card copies while it computes: PyTorch's loader asks."""
        return self._with_each(Tensor.pin_memory)

    def _with_each(self, change: Callable[[Tensor], Tensor]) -> "Batch":
        points, maps = list(map(change, self.points)), {name: change(value) for name, value in self.maps.items()}
        return replace(self, images=change(self.images), points=points, counts=change(self.counts), maps=maps)

    def __len__(self) -> int:
        return len(self.ids)

    def split(self, parts: int) -> "list[Batch]":
        """Return the batch cut into at most ``parts`` nearly equal, non-empty batches (micro-batches)."""
        edges = np.linspace(0, len(self), min(parts, len(self)) + 1).astype(int)
        return [self._rows(int(start), int(end)) for start, end in pairwise(edges)]

    def _rows(self, start: int, end: int) -> "Batch":
        def cut(value: Any) -> Any:
            return {name: cut(rows) for name, rows in value.items()} if isinstance(value, dict) else value[start:end]

        parts = {item.name: cut(getattr(self, item.name)) for item in fields(self) if item.name != "seed"}
        return Batch(**parts, seed=self.seed)


@dataclass(slots=True)
class Prediction:
    """What a system says of a batch: a density, or (count-by-caption systems) scores."""

    density: Tensor | None = None  # [B, 1, h, w], objects per cell, so that its sum is the count
    scores: Tensor | None = None  # [B, K], of the classes that ``numbers`` stand for
    numbers: tuple[int, ...] = ()
    kept: Tensor | None = None  # bool [B], False where the protocol leaves an item out of the evaluation; None: all
    maps: dict[str, Tensor] = field(default_factory=dict)  # further maps [B, 1, h, w] for figures (similarity, ...)

    def counts(self) -> Tensor:
        """Return the counts [B] in float32."""
        if self.density is not None:
            return self.density.float().sum(dim=(1, 2, 3))
        if self.scores is None:
            raise ValueError("a prediction needs a density or scores")
        return torch.tensor(self.numbers, device=self.scores.device)[self.scores.argmax(dim=1)].float()


class Pool(Protocol):
    """The training samples, as an example maker sees them."""

    samples: Sequence[Sample]

    def image(self, index: int) -> Tensor:
        """Return the picture of sample ``index``, uint8 [3, H, W] RGB."""


class ExampleMaker(Protocol):
    """Makes the training examples of one sample. Picklable; holds no parameters."""

    def __call__(self, index: int, pool: Pool, rng: np.random.Generator) -> list[Example]:
        """Return the examples that sample ``index`` yields this time (its crops).

        torch's default generator is seeded like ``rng``, so both give the same draws in any loader process.
        """


@dataclass(frozen=True, slots=True)
class Stage:
    """One stage of training; most systems have one."""

    name: str
    recipe: Recipe


class System(nn.Module, ABC):
    """A counting system: ``SYSTEM`` of its module, whose ``EQUATIONS`` map the paper's to functions that name them."""

    Settings: ClassVar[type[Strict]]  # the system's own; the defaults are the released code's at paper size
    recipe: ClassVar[Recipe]  # how the released code trains it
    examples: ClassVar[Callable[..., list[Example]]]  # of (settings, index, pool, rng): see ``ExampleMaker``
    trains: bool = True  # False for a class, or an instance by its settings, without training steps
    text_guided: ClassVar[bool] = False  # whether the prompt names what is counted
    needs: ClassVar[frozenset[Need]] = frozenset()  # of training samples, beside their pictures
    batch_sums: ClassVar[frozenset[str]] = frozenset()  # the loss terms that are sums over a batch; others are means
    # what in the loss ties the examples of a batch together, so that a batch computed in parts (out of memory, several
    # GPUs) would train something else; BatchNorm in training mode is found by itself
    batch_coupled_by: str = ""
    settings: Any
    windows: Windows | None = None
    frozen_text_parameters: int = 0  # of a text tower whose features are kept instead of the tower itself

    def __init__(self, settings: Any) -> None:
        super().__init__()
        self.settings = settings

    @classmethod
    def mini_settings(cls) -> dict[str, Any]:
        """Return the settings of this system's smallest size: what suite mini trains on a CPU, and what tests build."""
        return {}

    def prepare_training(self, samples: Sequence[Sample]) -> None:
        """Learn what is needed of the whole training set before the first step (class counts, its mean, ...)."""

    def targets_of(self, samples: Sequence[Sample]) -> str:
        """Return what training targets are made by, for run.json: "ready maps", "own kernel" ("": neither)."""
        return ""

    def stages(self, recipe: Recipe) -> list[Stage]:
        """Return the training stages under the resolved ``recipe``."""
        return [Stage("train", recipe)]

    def begin_stage(self, stage: Stage) -> None:
        """Called before each stage: freeze and unfreeze, choose the loss."""

    def begin_epoch(self, epoch: int, samples: Sequence[Sample]) -> None:
        """Called before each epoch (counted from 0)."""

    def example_maker(self) -> ExampleMaker:
        """Return what makes training examples (default: the class's ``examples``)."""
        return partial(type(self).examples, self.settings)

    @abstractmethod
    def losses(self, batch: Batch) -> dict[str, Tensor]:
        """Return the named scalar terms of the loss; ``loss_weights`` weighs them, the sum is minimised."""

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        """Return ``losses(batch)``: the way in for mixed precision."""
        return self.losses(batch)

    @property
    def loss_weights(self) -> Mapping[str, float]:
        """Return the weight of each term (1 where a name is missing). A weight of 0 only records the term."""
        return {}

    @abstractmethod
    def predict(self, images: Tensor, prompts: Sequence[str]) -> Prediction:
        """Predict equally large images or windows, float32 [B, 3, H, W] in [0, 1], not normalised, with B prompts."""

    def read_out(self, prediction: Prediction, sample: Sample) -> Tensor:
        """Return the counts [1] of a whole picture, from its stitched maps (default: the sum of the density)."""
        return prediction.counts()

    def prepare_image(self, image: Tensor) -> Tensor:
        """Return an evaluation image [3, H, W] in [0, 1] at the size this system evaluates it (default: unchanged)."""
        return image

    def own_selection(self, pool: Pool) -> dict[str, float]:
        """Return ``{"own": value}``, smaller is better, for systems whose authors select by a value of their own."""
        return {}

    def foreground(self, sample: Sample) -> tuple[Tensor, int] | None:
        """Return where training sees the prompted objects, bool [h, w], and a cell's side in pixels (default: None)."""
        return None

    def restore_base_weights(self) -> bool:
        """Put back the pretrained weights, to ask what they show before training; return whether there are any."""
        return False

    def prompt_of(self, sample: Sample) -> str:
        """Return what ``predict`` is told about a sample (default: its prompt)."""
        return sample.prompt

    def save_memory(self) -> bool:
        """Train with less memory from now on, in more time, with the same result; return whether there was such a way.

        Called where memory did not suffice, before a batch is cut.
        """
        return False

    def after_step(self) -> None:
        """Called after each optimiser step: change weights in place (their precision, a bound, ...)."""

    def parameter_groups(self, recipe: Recipe) -> list[dict[str, Any]]:
        """Return the optimiser's parameter groups (default: every trainable parameter in one group)."""
        return [{"params": [parameter for parameter in self.parameters() if parameter.requires_grad]}]

    @classmethod
    def import_checkpoint(cls, path: Path, settings: Any) -> dict[str, Tensor]:
        """Read a released checkpoint and return its state dict under our names; ``UserError`` if it misfits."""
        raise UserError(f"{cls.__module__.rpartition('.')[2]} has no released checkpoint")
