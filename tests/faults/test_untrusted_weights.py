"""Weights and states that hold more than tensors are refused, and nothing in them is run."""

import logging
from pathlib import Path

import pytest
import torch

from recount.errors import UserError
from recount.nn.weights import read_tensors
from recount.results.seal import seal
from recount.training.checkpoints import STATE, load_state


class Trap:
    """Makes a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, tuple[Path]]:
        return Path.touch, (self.path,)


def test_a_pickled_object_in_released_weights_is_refused_and_not_run(tmp_path: Path) -> None:
    torch.save({"weights": torch.zeros(1), "trap": Trap(tmp_path / "sprung")}, tmp_path / "released.pth")
    with pytest.raises(UserError, match=r"released.pth: .*recount executes no pickle"):
        read_tensors(tmp_path / "released.pth")
    assert not (tmp_path / "sprung").exists()


def test_a_pickled_object_in_a_training_state_is_ignored_and_not_run(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    torch.save({"made_from": "d", "trap": Trap(tmp_path / "sprung")}, tmp_path / STATE)
    seal(tmp_path / STATE)
    with caplog.at_level(logging.WARNING):
        assert load_state(tmp_path, "d") is None
    assert "cannot be read" in caplog.text
    assert not (tmp_path / "sprung").exists()


@pytest.mark.parametrize("name", ["cut.pth", "cut.safetensors"])
def test_weights_that_are_cut_off_are_named(name: str, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(b"\x80\x00\x00")
    with pytest.raises(UserError, match=f"{name}: not a readable checkpoint"):
        read_tensors(tmp_path / name)
