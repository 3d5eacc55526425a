"""Weights and states that hold more than tensors are refused, and nothing in them is run."""

import logging
from pathlib import Path

import pytest
import torch
from torch import nn
from typer.testing import CliRunner

from projects import copy_settings
from recount.cli import app
from recount.errors import UserError
from recount.fetching.ledger import Ledger, write_manifest
from recount.fetching.weights import WEIGHTS, check_weights
from recount.nn.vgg import load_vgg19
from recount.nn.weights import read_tensors
from recount.results.files import file_digest
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


VGG19 = "vgg19-dcbb9e9d.pth"
GOOD = {"features.0.weight": torch.ones(2, 3, 3, 3), "features.0.bias": torch.ones(2)}


def vgg19(folder: Path, content: object, *, fetched: bool = False) -> Path:
    """Put a file where VGG-19's weights belong, as if it had been fetched or by hand."""
    path = folder / "vgg19" / VGG19
    path.parent.mkdir(parents=True)
    torch.save(content, path)
    if fetched:
        entry = Ledger(path.parent).record(VGG19, file_digest(path), "by hand")
        write_manifest(WEIGHTS["vgg19"], path.parent, [entry], [])
    return path


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ({}, "missing: 0.bias, 0.weight"),
        (torch.zeros(3), "not a dictionary of tensors but Tensor"),
        ([1, 2], "not a dictionary of tensors but list"),
        ({**GOOD, "features.0.bias": 3}, "missing: 0.bias"),
        ({**GOOD, "features.0.bias": torch.ones(4)}, r"wrong shape: 0.bias \[4\] instead of \[2\]"),
        ({**GOOD, "features.0.bias": torch.ones(2).to(torch.int8)}, r"no floating-point numbers: .*bias \(int8\)"),
        (
            {**GOOD, **{f"features.{n}.bias": torch.ones(1) for n in range(2, 22)}},
            "unexpected: .*features.7.bias and 14 m",
        ),
    ],
)
def test_base_weights_of_another_model_are_one_line(content: object, said: str, tmp_path: Path) -> None:
    path = vgg19(tmp_path, content)
    features = nn.Sequential(nn.Conv2d(3, 2, 3))
    with pytest.raises(UserError, match=said) as error:
        load_vgg19(features, str(path))
    assert str(error.value).startswith(f"{path}: ")
    assert "\n" not in str(error.value) and len(str(error.value)) < 500


def test_base_weights_of_another_digest_are_refused_whatever_their_shapes(tmp_path: Path) -> None:
    path = vgg19(tmp_path, GOOD, fetched=True)
    check_weights(tmp_path, ["vgg19"])
    torch.save({name: 2 * value for name, value in GOOD.items()}, path)
    with pytest.raises(UserError, match=f"{VGG19}: its sha256 is .*, but what was fetched has .*fetch-weights vgg19"):
        check_weights(tmp_path, ["vgg19"])


def test_a_training_and_a_rehearsal_stop_at_other_base_weights_before_they_read_data(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(copy_settings(tmp_path))
    vgg19(tmp_path / "resources" / "weights", GOOD)
    done = CliRunner().invoke(app, ["train", "dm_count/vgg19/seed0", "--config", "suite=paper"])
    assert done.exit_code == 1
    assert f"{VGG19}: was not fetched, or not checked: `recount fetch-weights vgg19` does both" in done.stderr
    assert "it is another file or revision" in done.stderr and "Traceback" not in done.output
    done = CliRunner().invoke(app, ["rehearse", "--systems", "dm_count", "--config", "suite=paper"])
    assert done.exit_code == 1
    assert "it is another file or revision" in " ".join(done.stdout.split())
