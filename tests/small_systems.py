"""Systems at their mini size, and a few steps of training them."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from golden_tools import refilled
from recount.errors import UserError
from recount.settings.base import Strict
from recount.settings.recipe import Recipe
from recount.systems.base import Batch, System
from tiny_pool import TinyPool


class OnlyPredicts(System):
    """A system that is never trained, for tests of what is done with predictions."""

    Settings = Strict
    recipe = Recipe()

    def example_maker(self) -> Any:
        raise NotImplementedError

    def losses(self, batch: Batch) -> dict[str, Tensor]:
        raise NotImplementedError


def mini(system: type[System], **changes: Any) -> Any:
    """Return a system in evaluation mode with the weights of seed 0 and ``changes`` of its mini settings."""
    torch.manual_seed(0)
    return system(system.Settings.model_validate({**system.mini_settings(), **changes})).eval()


def filled_in_part(system: type[System], names: Sequence[str]) -> Any:
    """Return a system at paper size of which only the parts of these names have weights, made by formula."""
    with torch.device("meta"):
        whole: Any = system(system.Settings())
    for name in names:
        part = getattr(whole, name).to_empty(device="cpu")
        state = refilled(torch.nn.ModuleDict({name: part}))
        part.load_state_dict({key.removeprefix(f"{name}."): value for key, value in state.items()})
    return whole


def assert_imported(system: type[System], content: Any, want: dict[str, Tensor], settings: Any, path: Path) -> None:
    """Assert that a file of this content becomes a state dict."""
    torch.save(content, path)
    state = system.import_checkpoint(path, settings)
    assert set(state) == set(want)
    assert all(torch.equal(state[key], want[key]) for key in want)


def assert_refused(system: type[System], content: Any, settings: Any, path: Path, said: str) -> None:
    """Assert that a file of this content is refused with words that match ``said``."""
    torch.save(content, path)
    with pytest.raises(UserError, match=said):
        system.import_checkpoint(path, settings)


def batch_of(system: System, pool: TinyPool, seeds: Sequence[int] = (0,)) -> Batch:
    """Return the examples that a system makes of the first pictures of a pool, one picture with each seed."""
    torch.manual_seed(0)
    maker: Any = system.example_maker()
    places = [(k % len(pool.samples), np.random.default_rng(seed)) for k, seed in enumerate(seeds)]
    return Batch.of([example for index, rng in places for example in maker(index, pool, rng)]).to("cpu")


def loss_of(system: System, batch: Batch) -> Tensor:
    """Return the weighted sum of the terms."""
    terms = system.losses(batch)
    return torch.stack([system.loss_weights.get(name, 1.0) * value for name, value in terms.items()]).sum()


def losses_of_steps(system: System, batch: Batch, optimiser: torch.optim.Optimizer, steps: int) -> list[float]:
    """Train so many steps on one batch; return the loss before each."""
    losses = []
    for _ in range(steps):
        loss = loss_of(system, batch)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(loss.item())
    return losses
