"""BatchNorm over the batch of several processes: the statistics and gradients of a single process with all of it.

PyTorch's own SyncBatchNorm refuses processors (torch/nn/modules/batchnorm.py: "SyncBatchNorm expected input tensor to
be on GPU"; a test tries it); this one computes wherever the processes do, so that what trains on GPUs is what the tests
compare, on processors, with a single process. Ioffe and Szegedy, "Batch Normalization"
(ICML 2015), Algorithm 1 and section 3.
"""

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn.modules.batchnorm import _BatchNorm


class SharedBatchNorm(_BatchNorm):
    """BatchNorm that in training mode normalises by the statistics of all processes."""

    shared = True  # each process has a part of the batch; where each has all of it, it normalises by its own

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
        pass


class _Normalised(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor | None, bias: Tensor | None, number: Tensor, mean: Tensor, factor: Tensor
    ) -> Tensor:
        # factor is 1 / deviation [C]; the gradient goes through mean and deviation of all processes' parts
        ctx.save_for_backward(x, weight, number, mean, factor)
        scaled = factor if weight is None else factor * weight
        out = (x.float() - _channels(mean, x)) * _channels(scaled, x)
        return (out if bias is None else out + _channels(bias, x)).to(x.dtype)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        # those of weight and bias by this process's part: the trainer adds them up
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
    # of all processes: values per channel, mean and biased variance [C]
    sums = torch.cat([_sums(x), x.new_tensor([x.numel() / x.shape[1]])])
    dist.all_reduce(sums)
    number, mean = sums[-1], sums[:-1] / sums[-1]
    squares = _sums((x - _channels(mean, x)).square())
    dist.all_reduce(squares)
    return number, mean, squares / number


def _sums(x: Tensor) -> Tensor:
    return x.sum(dim=[0, *range(2, x.dim())])


def _channels(values: Tensor, x: Tensor) -> Tensor:
    return values.view(1, -1, *[1] * (x.dim() - 2))


def batch_norms(network: nn.Module) -> list[nn.Module]:
    """Return the layers of a network that normalise by statistics of the batch when they are in training mode."""
    return [layer for layer in network.modules() if isinstance(layer, _BatchNorm)]


def share_statistics(network: nn.Module) -> None:
    """Turn each BatchNorm of a network into a shared one; its parameters, buffers and settings stay."""
    for layer in batch_norms(network):
        layer.__class__ = SharedBatchNorm
