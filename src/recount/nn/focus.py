"""FFNet's network: ConvNeXt-Tiny, and a neck of ODConv layers and gates. GigaCount took it over, one stage earlier.

"The Effectiveness of a Simplified Model Structure for Crowd Counting" (arXiv 2404.07847); Li et al.,
"Omni-Dimensional Dynamic Convolution" (ICLR 2022). Checked against erdongsanshi/FFNet@77a29ba, OSVAI/ODConv@0901cc1 and
AdamHermes/GigaCount@d57191e (golden cases ``odconv_*``, ``ccsm_*``, ``fusion``, ``image_encoder_64x96``, and both whole
networks). All its ODConv layers are 1 x 1, so that their spatial attention never acts; the layer itself has it.
"""

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional

from recount.nn.precision import full_precision, without_autocast
from recount.nn.vgg import initialise
from recount.nn.weights import read_tensors, renamed

KERNELS = 4  # of an ODConv layer
ATTENTION_REDUCTION = 16
LEAST_ATTENTION_CHANNELS = 16
STOCHASTIC_DEPTH = 0.1


class ODConvAttention(nn.Module):
    """The four attentions of GigaCount's section 3.2, from the pooled input: channel, filter, spatial and kernel."""

    def __init__(self, channels: int, filters: int, kernel_size: int) -> None:
        super().__init__()
        width = max(channels // ATTENTION_REDUCTION, LEAST_ATTENTION_CHANNELS)
        self.kernel_size = kernel_size
        self.fc = nn.Conv2d(channels, width, 1, bias=False)
        self.bn = nn.BatchNorm2d(width)
        self.channel_fc = nn.Conv2d(width, channels, 1)
        self.filter_fc = nn.Conv2d(width, filters, 1)
        if kernel_size > 1:
            self.spatial_fc = nn.Conv2d(width, kernel_size**2, 1)
        self.kernel_fc = nn.Conv2d(width, KERNELS, 1)
        initialise(self)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Return attentions over channels [B,C,1,1], filters [B,F,1,1], places [B,1,1,1,k,k] and kernels [B,4]."""
        pooled = functional.relu(self.bn(self.fc(x.mean(dim=(2, 3), keepdim=True))))  # (B, A, 1, 1)
        if self.kernel_size > 1:
            places = self.spatial_fc(pooled).sigmoid().view(-1, 1, 1, 1, self.kernel_size, self.kernel_size)
        else:
            places = pooled.new_ones(1, 1, 1, 1, 1, 1)
        kernels = self.kernel_fc(pooled).flatten(1).softmax(dim=1)
        return self.channel_fc(pooled).sigmoid(), self.filter_fc(pooled).sigmoid(), places, kernels


class ODConv2d(nn.Module):
    """Omni-dimensional dynamic convolution: y = f * conv(c * x, sum over j of k_j * s * W_j), in single precision.

    Li et al., "Omni-Dimensional Dynamic Convolution" (ICLR 2022). Each sample gets its own aggregated kernel.
    """

    def __init__(self, channels: int, filters: int, kernel_size: int = 1) -> None:
        super().__init__()
        self.attention = ODConvAttention(channels, filters, kernel_size)
        self.weight = nn.Parameter(torch.empty(KERNELS, filters, channels, kernel_size, kernel_size))
        for kernel in self.weight:
            nn.init.kaiming_normal_(kernel, mode="fan_out", nonlinearity="relu")

    def forward(self, x: Tensor) -> Tensor:
        """Return the convolved map [B, F, H, W] of a map [B, C, H, W]."""
        with without_autocast(x.device):
            x = full_precision(x)
            channels, filters, places, kernels = self.attention(x)
            weight = (kernels[:, :, None, None, None, None] * places * self.weight).sum(dim=1)  # (B, F, C, k, k)
            x, size = channels * x, weight.shape[-1]
            if size == 1:
                return filters * (weight.flatten(2) @ x.flatten(2)).unflatten(2, x.shape[2:])
            joined = functional.conv2d(x.flatten(0, 1)[None], weight.flatten(0, 1), padding=size // 2, groups=len(x))
            return filters * joined.unflatten(1, weight.shape[:2])[0]


class ConvNeXtEncoder(nn.Module):
    """ConvNeXt-Tiny (torchvision): FFNet's backbone, or without its last stage, GigaCount's of section 3.2."""

    def __init__(
        self, widths: Sequence[int], depths: Sequence[int], stage4: bool, layer_scale: float, weights: str = "random"
    ) -> None:
        super().__init__()
        from torchvision.models.convnext import CNBlockConfig, ConvNeXt

        following: list[int | None] = [*widths[1:], None]
        stages = [CNBlockConfig(*stage) for stage in zip(widths, following, depths, strict=True)]
        # drop probabilities grow over the blocks of the whole network, so the last stage is built even where it is cut
        features = ConvNeXt(stages, stochastic_depth_prob=STOCHASTIC_DEPTH, layer_scale=layer_scale).features
        self.stem = nn.Sequential(features[0], features[1])
        self.stage1 = nn.Sequential(features[2], features[3])
        self.stage2 = nn.Sequential(features[4], features[5])
        self.stage3 = nn.Sequential(features[6], features[7]) if stage4 else None
        self.out_widths: tuple[int, ...] = tuple(widths[1:] if stage4 else widths[:3])
        if weights != "random":
            self._load_torchvision(Path(weights))

    def forward(self, images: Tensor) -> list[Tensor]:
        """Return the shallow, middle and deep map of images [B, 3, H, W]."""
        stem = self.stem(images)  # (B, 96, H/4, W/4)
        first = self.stage1(stem)  # (B, 192, H/8, W/8)
        second = self.stage2(first)  # (B, 384, H/16, W/16)
        if self.stage3 is None:
            return [stem, first, second]
        return [first, second, self.stage3(second)]  # the last (B, 768, H/32, W/32)

    def _load_torchvision(self, path: Path) -> None:
        names = ["stem", "stage1", "stage2"] + ([] if self.stage3 is None else ["stage3"])
        parts = {f"features.{2 * n + part}": f"{name}.{part}" for n, name in enumerate(names) for part in (0, 1)}

        def rename(key: str) -> str | None:
            part = ".".join(key.split(".")[:2])
            return key.replace(part, parts[part], 1) if part in parts else None

        self.load_state_dict(renamed(read_tensors(path), rename, self.state_dict(), source=path))


class CCSM(nn.Module):
    """FFNet's focus transition module: four 1 x 1 ODConv layers between two gates (keys ``ccsm1`` to ``ccsm3``).

    Under autocast the ODConv layers compute in single precision, as released, and the attentions do not.
    """

    def __init__(self, channels: int, middle: int, out: int, *, gates: bool = True) -> None:
        super().__init__()
        self.gates = gates
        if gates:
            self.channel_attention = nn.Conv2d(channels, channels, 1, bias=False)
            self.spatial_attention = nn.Conv2d(1, 1, 7, padding=3, bias=False)
        sizes = ((channels, channels), (channels, middle), (middle, middle), (middle, out))
        self.conv1, self.conv2, self.conv3, self.conv4 = (
            nn.Sequential(ODConv2d(before, after), nn.ReLU(), nn.BatchNorm2d(after)) for before, after in sizes
        )

    def forward(self, x: Tensor) -> Tensor:
        """Return a map [B, out, H, W] of a map [B, channels, H, W]."""
        if self.gates:
            pooled = x.mean(dim=(2, 3), keepdim=True)
            x = x * functional.relu(self.channel_attention(pooled)).sigmoid()  # the ReLU keeps the attention above 0.5
        x = self.conv1(x) + x
        x = self.conv2(x)
        x = self.conv3(x) + x
        x = self.conv4(x)
        return x * self.spatial_attention(x.mean(dim=1, keepdim=True)).sigmoid() if self.gates else x


class FeatureFusion(nn.Module):
    """The feature fusion, GigaCount's section 3.2: three maps at the size of the shallow one, concatenated."""

    def __init__(self, shallow: int, middle: int, deep: int) -> None:
        super().__init__()
        self.upsample_1 = nn.ConvTranspose2d(middle, middle, 4, stride=2, padding=1)
        self.upsample_2 = nn.ConvTranspose2d(deep, deep, 4, stride=4)
        # FFNet's head, which is its caller's; GigaCount never calls it, but its released network counts and saves it
        self.final = nn.Sequential(nn.Conv2d(shallow + middle + deep, 1, 1), nn.ReLU())

    def forward(self, shallow: Tensor, middle: Tensor, deep: Tensor) -> Tensor:
        """Return [B, all channels, H, W] of maps at 1, 1/2 and 1/4 of H x W."""
        return torch.cat([shallow, self.upsample_1(middle), self.upsample_2(deep)], dim=1)


def our_name(key: str) -> str:
    """Return our key of a released one of the neck; all others are the same."""
    return key.replace(".ch_att_s.shared_MLP.0.", ".channel_attention.").replace(".sa_s.conv1.", ".spatial_attention.")
