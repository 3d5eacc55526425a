"""What CLIP-Count, VLCounter and CounTX share: CLIP's base weights, CounTR's training crops and sizes of evaluation."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from operator import attrgetter
from typing import Any, ClassVar

import numpy as np
from torch import Tensor

from recount.augmentation.countr_protocol import evaluation_size, resized_without_antialias
from recount.augmentation.text_guided import CountrCrops
from recount.data.pictures import resize_like_pillow
from recount.data.sample import Sample
from recount.data.windows import Windows
from recount.nn.clip import CLIP_MEAN, CLIP_STD, base_towers, check_prompts
from recount.nn.normalise import Normalise
from recount.systems.base import Example, Pool, System


@dataclass(frozen=True, slots=True)
class Crops:
    """Makes one training crop of a sample; ``prompt_of`` says what it is prompted with."""

    crops: CountrCrops
    prompt_of: Callable[[Sample], str] = attrgetter("prompt")  # the class name

    def __call__(self, index: int, pool: Pool, rng: np.random.Generator) -> list[Example]:
        """Return one crop of sample ``index``."""
        sample = pool.samples[index]
        image, maps, count = self.crops(index, pool, rng)
        return [Example(sample.id, image, self.prompt_of(sample), count=count, maps=maps)]


class CountrSystem(System):
    """A system on CLIP's towers, trained on CounTR's crops; its density has the picture's resolution."""

    text_guided = True
    needs = frozenset({"points", "prompts"})
    image_prefix: ClassVar[str] = "image.tower."  # in the state dict

    def __init__(self, settings: Any, stitch: Any) -> None:
        super().__init__(settings)
        self.windows = Windows(settings.window, settings.window, settings.window // 3, stitch=stitch)
        self.normalise = Normalise(CLIP_MEAN, CLIP_STD)

    def prepare_training(self, samples: Sequence[Sample]) -> None:
        """Load CLIP's weights, and check that every prompt can be read."""
        check_prompts(self.sentences_of(samples), self.settings.clip)
        if self.settings.weights != "random":
            self.load_state_dict(self.base_state(), strict=False)

    def targets_of(self, samples: Sequence[Sample]) -> str:
        """Return that densities are dots blurred here."""
        return "own kernel"

    def sentences_of(self, samples: Sequence[Sample]) -> list[str]:
        """Return what the text tower will read of samples."""
        return [self.prompt_of(sample) for sample in samples]

    def base_state(self) -> dict[str, Tensor]:
        """Return the base weights of both towers."""
        return base_towers(self.settings.weights, self.state_dict(), self.image_prefix, "text.tower.")

    def example_maker(self) -> Crops:
        """Return the maker of augmented crops, prompted by the class name."""
        return Crops(CountrCrops(self.settings.window, self.settings.augmentation))

    def prepare_image(self, image: Tensor) -> Tensor:
        """Return the picture at the window's height."""
        height, width = image.shape[1:]
        size = evaluation_size(height, width, self.settings.window, self.settings.carpk_width)
        like_pillow = height == self.settings.window or self.settings.carpk_antialias
        return resize_like_pillow(image, size, "bilinear") if like_pillow else resized_without_antialias(image, size)
