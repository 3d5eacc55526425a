"""MCNN: three columns of convolutions with receptive fields of three sizes, trained on Gaussian density maps.

Zhang et al., "Single-Image Crowd Counting via Multi-Column Convolutional Neural Network" (CVPR 2016). Network and
recipe are those of the public run on UCF-QNRF, gjy3035/C-3-Framework@f8e21fa (RGB, output enlarged to the size of the
input); ``colour: grey`` is the network of svishwa/crowdcount-mcnn@e04c67f (grey values 0 to 255, output at a quarter).
Golden cases ``mcnn_rgb``, ``mcnn_grey``.

Deviations: errors are measured against the number of annotated points, not the sum of the blurred map; the dots' pixels
are found by truncation, which the public reports do not state; the grey network's nine crops are new in each epoch, and
its pictures turn grey without being rounded to 256 values.
"""

from collections import OrderedDict
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional

from recount.data.sample import Sample
from recount.nn.bins import dot_map
from recount.nn.maps import blurred
from recount.nn.normalise import Normalise
from recount.nn.weights import read_tensors, renamed
from recount.settings.base import Strict
from recount.settings.recipe import Optimiser, Recipe
from recount.systems.base import Batch, Example, Pool, Prediction, System

QNRF_MEAN = (0.413525998592, 0.378520160913, 0.371616870165)
QNRF_STD = (0.284849464893, 0.277046442032, 0.281509846449)
GREY = (0.299, 0.587, 0.114)  # ITU-R 601, as Pillow and OpenCV turn colours to grey
COLUMNS = {  # kernel sizes and widths of each column's four convolutions
    "branch1": ((9, 7, 7, 7), (16, 32, 16, 8)),
    "branch2": ((7, 5, 5, 5), (20, 40, 20, 10)),
    "branch3": ((5, 3, 3, 3), (24, 48, 24, 12)),
}
REDUCTION = 4
KERNEL, SIGMA = 15, 4.0  # of the density map, pixels
SCALE = 100.0  # the RGB network learns 100 times the density
CROP_MULTIPLE = 16
FLIPPED = 0.5  # share of the crops


class McnnSettings(Strict):
    """MCNN's settings; the defaults are those of the public run on UCF-QNRF."""

    colour: Literal["rgb", "grey"] = "rgb"
    crop_height: int = Field(576, gt=0, multiple_of=CROP_MULTIPLE)
    crop_width: int = Field(768, gt=0, multiple_of=CROP_MULTIPLE)
    crops: int = Field(1, gt=0, description="per picture and epoch; the grey network's authors took 9")
    width: float = Field(1.0, gt=0, description="multiplies every column's channels")


def _conv_relu(channels: int, out: int, size: int) -> nn.Sequential:
    conv = nn.Conv2d(channels, out, size, padding=size // 2)
    nn.init.normal_(conv.weight, std=0.01)
    nn.init.zeros_(conv.bias)  # type: ignore[arg-type]
    return nn.Sequential(OrderedDict(conv=conv, relu=nn.ReLU()))


def _column(channels: int, sizes: Sequence[int], widths: Sequence[int]) -> nn.Sequential:
    first, second, third, fourth = map(_conv_relu, (channels, *widths[:-1]), widths, sizes)
    return nn.Sequential(first, nn.MaxPool2d(2), second, nn.MaxPool2d(2), third, fourth)


def crops(settings: McnnSettings, index: int, pool: Pool, rng: np.random.Generator) -> list[Example]:
    """Return random crops of a picture, smaller where it is (multiples of 16), with their density maps."""
    sample, image = pool.samples[index], pool.image(index)
    # dots of the whole picture, blurred and then cropped: heads just outside reach into the crop
    dots = dot_map(torch.from_numpy(sample.points), image.shape[1], image.shape[2], coincident="add")
    margin = KERNEL // 2
    around = functional.pad(dots, [margin] * 4)
    height = min(settings.crop_height, image.shape[1] // CROP_MULTIPLE * CROP_MULTIPLE)
    width = min(settings.crop_width, image.shape[2] // CROP_MULTIPLE * CROP_MULTIPLE)
    examples = []
    for _ in range(settings.crops):
        top = int(rng.integers(0, image.shape[1] - height + 1))
        left = int(rng.integers(0, image.shape[2] - width + 1))
        wider = around[:, top : top + height + 2 * margin, left : left + width + 2 * margin]
        density = blurred(wider, KERNEL, SIGMA)[:, margin:-margin, margin:-margin]
        piece = image[:, top : top + height, left : left + width]
        if rng.random() < FLIPPED:
            piece, density = piece.flip(2), density.flip(2)
        examples.append(Example(sample.id, piece, count=float(density.sum()), maps={"density": density}))
    return examples


class Mcnn(System):
    """The whole network."""

    Settings = McnnSettings
    recipe = Recipe(
        epochs=101,  # where the public log ends, which the published number is of; its configuration plans 3000
        batch_size=1,
        optimiser=Optimiser(name="adam", lr=1e-4, weight_decay=1e-4),
        evaluate_every=10,
        evaluate_from=1,  # epochs that are multiples of 10, counted from 0
        evaluate_each_from=201,
    )
    needs = frozenset({"points"})
    examples = staticmethod(crops)
    grey: Tensor

    def __init__(self, settings: McnnSettings) -> None:
        super().__init__(settings)
        channels, out = (3 if settings.colour == "rgb" else 1), 0
        for name, (sizes, widths) in COLUMNS.items():
            scaled = [max(1, round(settings.width * width)) for width in widths]
            self.add_module(name, _column(channels, sizes, scaled))
            out += scaled[-1]
        self.fuse = nn.Sequential(_conv_relu(out, 1, 1))
        self.normalise = Normalise(QNRF_MEAN, QNRF_STD)
        self.register_buffer("grey", torch.tensor(GREY).view(1, 3, 1, 1), persistent=False)

    @classmethod
    def mini_settings(cls) -> dict[str, Any]:
        """Return half the channels, for crops of 96 x 128 pixels."""
        return {"crop_height": 96, "crop_width": 128, "width": 0.5}

    def targets_of(self, samples: Sequence[Sample]) -> str:
        """Return that densities are dots blurred here."""
        return "own kernel"

    def prepared(self, images: Tensor) -> Tensor:
        """Return images [B, 3, H, W] in [0, 1] as the network wants them."""
        if self.settings.colour == "rgb":
            return self.normalise(images)
        return 255 * (images * self.grey).sum(dim=1, keepdim=True)

    def network_output(self, pictures: Tensor) -> Tensor:
        """Return the multi-column network's output for prepared pictures: 100 times the density per pixel.

        Grey: the density per cell of 4 x 4 pixels.
        """
        columns = [self.get_submodule(name)(pictures) for name in COLUMNS]
        fused = self.fuse(torch.cat(columns, dim=1))
        return functional.interpolate(fused, scale_factor=REDUCTION) if self.settings.colour == "rgb" else fused

    def losses(self, batch: Batch) -> dict[str, Tensor]:
        """Return the Euclidean loss: the mean squared error of the map."""
        density = batch.maps["density"]
        target = SCALE * density
        if self.settings.colour == "grey":
            target = functional.avg_pool2d(density, REDUCTION) * REDUCTION**2
        return {"squared_error": functional.mse_loss(self.network_output(self.prepared(batch.images)), target)}

    def prepare_image(self, image: Tensor) -> Tensor:
        """Return the image; for the grey network at multiples of 4 pixels, as its authors' reader has it."""
        height, width = (edge // REDUCTION * REDUCTION for edge in image.shape[1:])
        fits = self.settings.colour == "rgb" or image.shape[1:] == (height, width)
        return image if fits else functional.interpolate(image[None], (height, width), mode="bilinear")[0]

    def predict(self, images: Tensor, prompts: Sequence[str]) -> Prediction:
        """Return the density; whole images of any size."""
        output = self.network_output(self.prepared(images))
        return Prediction(density=output / SCALE if self.settings.colour == "rgb" else output)

    @classmethod
    def import_checkpoint(cls, path: Path, settings: McnnSettings) -> dict[str, Tensor]:
        """Read a state dict of the C-3 framework, or (grey) an HDF5 file of crowdcount-mcnn, below their prefixes."""

        def our_name(key: str) -> str:
            return key.removeprefix("CCN.").removeprefix("DME.").removeprefix("module.")

        return renamed(read_tensors(path), our_name, cls(settings).state_dict(), source=path)


SYSTEM = Mcnn

EQUATIONS: dict[str, Callable[..., Any]] = {
    "density map": blurred,
    "multi-column network": Mcnn.network_output,
    "Euclidean loss": Mcnn.losses,
}
