"""A disk that is really full while a training run saves its state: the state before it stays, and one line says so."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch

from recount.training.checkpoints import load_state, save_state

SAVE = """
import resource, sys
from pathlib import Path
import torch
from recount.errors import UserError
from recount.training.checkpoints import save_state
if sys.argv[2] == "limited":
    resource.setrlimit(resource.RLIMIT_FSIZE, (1_000_000, 1_000_000))
try:
    save_state(Path(sys.argv[1]), "d", {"weights": torch.ones(1_000_000)})
except UserError as error:
    sys.exit(str(error))
"""


def save_too_much(folder: Path, how: str) -> str:
    """Save 4 MB in a process of its own and return what it says as it fails."""
    done = subprocess.run([sys.executable, "-c", SAVE, str(folder), how], capture_output=True, text=True, check=False)
    assert done.returncode == 1, done.stderr
    return done.stderr


def assert_first_state_is_there(folder: Path) -> None:
    state = load_state(folder, "d")
    assert state is not None
    assert torch.equal(state["weights"], torch.zeros(10))
    assert [path.name for path in folder.iterdir()] == ["state.pt"]


def test_a_state_that_grows_beyond_the_limit_of_files_leaves_the_old_one(tmp_path: Path) -> None:
    save_state(tmp_path, "d", {"weights": torch.zeros(10)})
    message = save_too_much(tmp_path, "limited")
    assert "state.pt: cannot be written" in message
    assert "Traceback" not in message
    assert_first_state_is_there(tmp_path)


def test_a_state_on_a_full_file_system_leaves_the_old_one(tmp_path: Path) -> None:
    mount = ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(tmp_path)]
    if subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("a small file system can be mounted by root only")
    try:
        save_state(tmp_path, "d", {"weights": torch.zeros(10)})
        message = save_too_much(tmp_path, "unlimited")
        assert "state.pt: cannot be written" in message
        assert "unchanged" in message
        assert_first_state_is_there(tmp_path)
    finally:
        subprocess.run(["umount", str(tmp_path)], check=True)
