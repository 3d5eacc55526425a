"""What the VGG-19 counters share: torchvision's layers without the last pooling, their start, and their weights."""

from collections.abc import Sequence
from pathlib import Path

from torch import nn

from recount.nn.weights import read_tensors, renamed

DEPTHS = (2, 2, 4, 4, 4)  # convolutions per stage
STRIDE = 16  # four poolings


def vgg19(widths: Sequence[int]) -> nn.Sequential:
    """Return VGG-19 up to conv5_4 and its ReLU, with torchvision's layer numbers; ``widths`` are the stages'."""
    from torchvision.models.vgg import make_layers

    layers: list[str | int] = []
    for width, depth in zip(widths, DEPTHS, strict=True):
        layers += [*([width] * depth), "M"]
    return make_layers(layers[:-1])


def regression(channels: int, widths: tuple[int, int]) -> nn.Sequential:
    """Return DM-Count's two 3 x 3 convolutions with ReLU."""
    first, second = widths
    return nn.Sequential(
        nn.Conv2d(channels, first, 3, padding=1), nn.ReLU(), nn.Conv2d(first, second, 3, padding=1), nn.ReLU()
    )


def initialise(part: nn.Module) -> None:
    """Initialise convolutions as torchvision's VGG and CLIP-EBC do: Kaiming-normal over the outputs, biases 0."""
    for layer in part.modules():
        if isinstance(layer, nn.Conv2d):
            nn.init.kaiming_normal_(layer.weight, mode="fan_out", nonlinearity="relu")
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)


def load_vgg19(features: nn.Sequential, weights: str) -> None:
    """Load the convolutions of torchvision's VGG-19 state dict, unless ``weights`` is "random"."""
    if weights == "random":
        return

    def our_name(key: str) -> str | None:
        return key.removeprefix("features.") if key.startswith("features.") else None  # no ImageNet classifier

    state = read_tensors(Path(weights))
    features.load_state_dict(renamed(state, our_name, features.state_dict(), source=weights))
