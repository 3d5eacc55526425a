"""Shared BatchNorm is BatchNorm: it gives what PyTorch's gives (test_processes.py: in two processes, too)."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from torch import Tensor, nn

from recount.training.batch_norm import SharedBatchNorm, share_statistics

SHAPES = {nn.BatchNorm1d: (7, 5), nn.BatchNorm2d: (7, 5, 3, 2)}


@pytest.fixture
def alone(tmp_path: Path) -> Iterator[None]:
    dist.init_process_group("gloo", init_method=(tmp_path / "rendezvous").as_uri(), rank=0, world_size=1)
    yield
    dist.destroy_process_group()


def layer(kind: type[nn.Module], **options: object) -> nn.Module:
    torch.manual_seed(1)
    made = kind(5, **options)
    for parameter in made.parameters():
        nn.init.normal_(parameter)
    return made


def batch(kind: type[nn.Module]) -> Tensor:
    torch.manual_seed(2)
    return (3 + 2 * torch.randn(*SHAPES[kind])).requires_grad_()


@pytest.mark.parametrize("kind", SHAPES)
@pytest.mark.parametrize("options", [{}, {"momentum": None}, {"affine": False}, {"track_running_stats": False}])
def test_it_gives_what_pytorchs_gives_forward_backward_and_in_its_statistics(
    alone: None, kind: type[nn.Module], options: dict[str, object]
) -> None:
    network, x = nn.Sequential(layer(kind, **options)), batch(kind)
    of_network, y = nn.Sequential(layer(kind, **options)), batch(kind)
    share_statistics(network)
    assert isinstance(network[0], SharedBatchNorm)
    for _ in range(2):
        for each, data in ((network, x), (of_network, y)):
            each(data).pow(3).sum().backward()
    torch.testing.assert_close(x.grad, y.grad, rtol=1e-4, atol=1e-3)  # of two passes, in single precision
    for one, other in zip(network.parameters(), of_network.parameters(), strict=True):
        torch.testing.assert_close(one.grad, other.grad, rtol=1e-4, atol=1e-3)
    state, expected = network.state_dict(), of_network.state_dict()
    assert list(state) == list(expected)
    for name, value in expected.items():
        torch.testing.assert_close(state[name], value, rtol=1e-5, atol=1e-6)
    network.eval(), of_network.eval()
    torch.testing.assert_close(network(x), of_network(y), rtol=1e-5, atol=1e-5)


def test_half_precision_stays_and_is_computed_in_single_precision(alone: None) -> None:
    shared = SharedBatchNorm(5)
    x = torch.randn(7, 5, 3, 2).bfloat16() + 100
    assert shared(x).dtype is torch.bfloat16
    assert shared.running_var.dtype is torch.float32
    torch.testing.assert_close(shared.running_mean, 0.1 * x.float().mean(dim=(0, 2, 3)))
