"""BatchNorm over the batch of several processes: the statistics and gradients of a single process with all of it.

PyTorch's own SyncBatchNorm computes on GPUs only; this one computes wherever the processes do, so that what trains on
GPUs is what the tests compare, on processors, with a single process. Ioffe and Szegedy, "Batch Normalization"
(ICML 2015), Algorithm 1 and section 3.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn.modules.batchnorm import _BatchNorm


class SharedBatchNorm(_BatchNorm):
    """BatchNorm of any number of dimensions; in training mode it normalises by the statistics of all processes."""

    shared = True  # each process has a part of the batch; where each has all of it, it normalises by its own

    @classmethod
    def of(cls, layer: _BatchNorm) -> SharedBatchNorm:
        """Return a layer with the parameters, buffers and settings of ``layer``, which are not copied."""
        new = cls(layer.num_features, layer.eps, layer.momentum, layer.affine, layer.track_running_stats)
        for name in ("weight", "bias", "running_mean", "running_var", "num_batches_tracked"):
            setattr(new, name, getattr(layer, name))
        return new.train(layer.training)

    def forward(self, x: Tensor) -> Tensor:
        """Return x [B, C, ...], normalised, in its own type; the statistics are computed in single precision."""
        if not (self.training and self.shared):
            return super().forward(x)
        with torch.no_grad():
            number, mean, variance = _statistics(x.detach().float())
            if self.running_mean is not None and self.running_var is not None and self.num_batches_tracked is not None:
                self.num_batches_tracked.add_(1)
                share = 1 / float(self.num_batches_tracked) if self.momentum is None else self.momentum
                self.running_mean.lerp_(mean, share)
                self.running_var.lerp_(variance * number / (number - 1), share)  # the unbiased one
        normalised: Tensor = _Normalised.apply(x, self.weight, self.bias, number, mean, (variance + self.eps).rsqrt())
        return normalised

    def _check_input_dim(self, input: Tensor) -> None:
        """Take any number of dimensions."""


class _Normalised(torch.autograd.Function):
    """(x - mean) / deviation * weight + bias, with the gradient through mean and deviation of all processes' parts."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor | None, bias: Tensor | None, number: Tensor, mean: Tensor, factor: Tensor
    ) -> Tensor:
        """Normalise x [B, C, ...]; mean and factor (1 / deviation) [C] are of ``number`` values per channel."""
        ctx.save_for_backward(x, weight, number, mean, factor)
        scaled = factor if weight is None else factor * weight
        out = (x.float() - _channels(mean, x)) * _channels(scaled, x)
        return (out if bias is None else out + _channels(bias, x)).to(x.dtype)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        """Return the gradients of x, and of weight and bias by this process's part (the trainer adds these up)."""
        x, weight, number, mean, factor = ctx.saved_tensors
        grad, unit = grad.float(), (x.float() - _channels(mean, x)) * _channels(factor, x)
        of_weight, of_bias = _sums(grad * unit), _sums(grad)
        added = torch.stack([of_weight, of_bias])
        dist.all_reduce(added)
        along, common = (added / number).unbind()
        scaled = factor if weight is None else factor * weight
        of_x = (grad - _channels(common, x) - unit * _channels(along, x)) * _channels(scaled, x)
        wanted = ctx.needs_input_grad
        return of_x.to(x.dtype), of_weight if wanted[1] else None, of_bias if wanted[2] else None, None, None, None


def _statistics(x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return how many values a channel has in all processes, and their mean and biased variance [C]."""
    sums = torch.cat([_sums(x), x.new_tensor([x.numel() / x.shape[1]])])
    dist.all_reduce(sums)
    number, mean = sums[-1], sums[:-1] / sums[-1]
    squares = _sums((x - _channels(mean, x)).square())
    dist.all_reduce(squares)
    return number, mean, squares / number


def _sums(x: Tensor) -> Tensor:
    """Return the sums over all but the channels [C] of x [B, C, ...]."""
    return x.sum(dim=[0, *range(2, x.dim())])


def _channels(values: Tensor, x: Tensor) -> Tensor:
    """Return values [C] in the shape in which they meet x [B, C, ...]."""
    return values.view(1, -1, *[1] * (x.dim() - 2))


def batch_norms(network: nn.Module) -> list[nn.Module]:
    """Return the layers of a network that normalise by statistics of the batch when they are in training mode."""
    return [layer for layer in network.modules() if isinstance(layer, _BatchNorm)]


def share_statistics(network: nn.Module) -> None:
    """Replace each BatchNorm of a network by a shared one, under the same names."""
    for name, layer in network.named_children():
        if isinstance(layer, SharedBatchNorm):
            continue
        if isinstance(layer, _BatchNorm):
            setattr(network, name, SharedBatchNorm.of(layer))
        else:
            share_statistics(layer)
