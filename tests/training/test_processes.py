"""Several processes train one run with the losses and weights of a single one, or say why they cannot."""

import errno
import json
import os
import re
import signal
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from accelerate.state import AcceleratorState
from safetensors.torch import load_file
from test_batch_norm import batch, layer
from tiny_system import MemoryPool, TinySettings, TinySystem, after_saving, kill_this_process, trainer_of
from torch import Tensor, nn
from torchvision.ops import StochasticDepth

from recount import systems
from recount.errors import UserError
from recount.jobs import KilledError, WalltimeError
from recount.systems.base import Batch, System
from recount.training import checkpoints
from recount.training.batch_norm import share_statistics
from recount.training.checkpoints import save_model
from recount.training.loop import Trainer
from recount.training.parts import check_shareable
from recount.training.processes import Processes, together
from tiny_pool import TinyPool

CPU = torch.device("cpu")
WORDS = ["three red circles", "six blue stars"]  # that every tiny text tower knows


class Plain(TinySystem):
    """The tiny network without BatchNorm and dropout, and a pair of loss terms: a mean and a sum over the batch."""

    batch_sums = frozenset({"sum"})

    def __init__(self, settings: TinySettings) -> None:
        super().__init__(settings)
        self.body[1], self.body[3] = nn.Identity(), nn.Identity()
        self.unused = nn.Parameter(torch.ones(3))  # that weight decay must leave alone, as in a single process

    def losses(self, batch: Batch) -> dict[str, Tensor]:
        density = self.head(self.body(batch.images))
        return super().losses(batch) | {"sum": 1e-4 * density.square().mean(dim=(1, 2, 3)).sum()}


class ShortOfMemory(Plain):
    """Out of memory in one of two processes, with more than one example."""

    def losses(self, batch: Batch) -> dict[str, Tensor]:
        if os.environ["RANK"] == "1" and len(batch) > 1:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return super().losses(batch)


def scenes() -> TinyPool:
    """Return nine noisy pictures with bright dots, in which systems of the repository find something to learn."""
    rng = np.random.default_rng(0)
    return TinyPool([(128, 160)] * 9, [rng.uniform(0, (160, 128), (number, 2)) for number in range(1, 10)], WORDS)


class BatchNorm(TinySystem):
    """The tiny network with BatchNorm, without dropout and the bias before BatchNorm, whose gradient is only noise."""

    def __init__(self, settings: TinySettings) -> None:
        super().__init__(settings)
        self.body[0].bias, self.body[3] = None, nn.Identity()


def of_repository(name: str) -> System:
    system_class = systems.load(name)
    system = system_class(system_class.Settings.model_validate(system_class.mini_settings()))
    for module in system.modules():  # each process draws its own numbers for these
        if isinstance(module, nn.Dropout | StochasticDepth):
            module.p = 0.0
    return system


MADE = {
    "plain": lambda: Plain(TinySettings()),
    "poisoned": lambda: Plain(TinySettings(poison="s7")),
    "batch_norm": lambda: BatchNorm(TinySettings()),
    "short_of_memory": lambda: ShortOfMemory(TinySettings()),
}


def train(processes: Processes, device: torch.device, name: str, out: str, recipe: Mapping[str, Any]) -> None:
    """Train a system; the first process writes its history, best epochs and weights."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    system = MADE[name]() if name in MADE else of_repository(name)
    pool = MemoryPool() if name in MADE else scenes()
    minutes = float(os.environ.get("TEST_CHECKPOINT_MINUTES", "10"))
    options = {"device": device, "processes": processes, "checkpoint_minutes": minutes}
    progress = trainer_of(system, Path(out), recipe, pool=pool, watched={"test": pool}, **options).train()
    if processes.first:
        save_model(Path(out, "weights.safetensors"), system.state_dict())
        written = {"history": progress.history, "best": progress.best, "parts": progress.parts}
        Path(out, "progress.json").write_text(json.dumps(written))


def read(folder: Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    return json.loads((folder / "progress.json").read_text()), load_file(folder / "weights.safetensors")


@pytest.fixture(autouse=True)
def here_for_the_processes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(sys.path))


SHORT = {"epochs": 2, "batch_size": 4, "evaluate_every": 1, "evaluate_from": 0, "precision": "fp32"}
CASES: dict[str, tuple[str, dict[str, Any]]] = {
    "batches of 4, 4 and 2": ("plain", {"epochs": 3}),
    "of 3 and, at last, of 1 for two processes": ("plain", {"epochs": 2, "batch_size": 3, "clip_norm": 0.5}),
    "BatchNorm, with a last batch of 2": ("batch_norm", {"epochs": 3}),
    "BatchNorm, of 3 and, at last, of 1 for two processes": ("batch_norm", {"epochs": 2, "batch_size": 3}),
}
OF_REPOSITORY: dict[str, tuple[str, dict[str, Any]]] = {
    "mcnn": ("mcnn", SHORT),
    "gigacount, with BatchNorm": ("gigacount", SHORT),
    "dm_count, with a sum over the batch": ("dm_count", SHORT),
    "countx, with a mask for the whole batch": ("countx", SHORT),
    "clip_ebc, with CLIP's ResNet": ("clip_ebc", SHORT),
}


def train_all(processes: Processes, device: torch.device, folder: str, cases: Mapping[str, Any]) -> None:
    """Do one thing after the other: a process takes longer to start than to train all cases."""
    if processes.size == 2:
        normalise_part(processes, folder)
        add_up_as_pytorch_does(processes, folder)
    for name, (system, recipe) in cases.items():
        train(processes, device, system, str(Path(folder, name)), recipe)
        AcceleratorState._reset_state(reset_partial_state=True)


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder of what one process (one) and two (two) made of all cases, and the message of the last one."""
    folder = tmp_path_factory.mktemp("processes")
    train_all(Processes(), CPU, str(folder / "one"), CASES)
    failing = {name: (name, {}) for name in ("short_of_memory", "poisoned")}
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", os.pathsep.join(sys.path))
        with pytest.raises(UserError) as failed:
            together(train_all, (str(folder / "two"), CASES | failing), [CPU, CPU])
    (folder / "message").write_text(str(failed.value), encoding="utf-8")
    return folder


def without_room(processes: Processes, device: torch.device) -> None:
    raise OSError(errno.ENOSPC, "No space left on device", "/results/state.pt")


@pytest.mark.more
def test_a_full_disk_in_a_process_of_its_own_is_said_by_the_one_that_started_it() -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", os.pathsep.join(sys.path))
        with pytest.raises(UserError, match=r"^/results/state\.pt: No space left on device: make room"):
            together(without_room, (), [CPU])


@pytest.mark.parametrize("case", CASES)
def test_two_processes_give_the_losses_and_weights_of_one(trained: Path, case: str) -> None:
    compare(trained, case)


@pytest.mark.more
def test_two_processes_train_systems_of_the_repository_as_one_does(tmp_path: Path) -> None:
    train_all(Processes(), CPU, str(tmp_path / "one"), OF_REPOSITORY)
    together(train_all, (str(tmp_path / "two"), OF_REPOSITORY), [CPU, CPU])
    for case in OF_REPOSITORY:
        compare(tmp_path, case)


def compare(trained: Path, case: str) -> None:
    (one, weights), (two, shared) = read(trained / "one" / case), read(trained / "two" / case)
    for row, other in zip(one["history"], two["history"], strict=True):
        for key in row.keys() - {"seconds", "stage"}:
            assert other[key] == pytest.approx(row[key], rel=1e-4, abs=1e-4), key
    assert one["best"]["best_on_test"]["epoch"] == two["best"]["best_on_test"]["epoch"]
    for key, value in weights.items():
        torch.testing.assert_close(shared[key], value, rtol=1e-4, atol=1e-4)


def test_one_process_out_of_memory_makes_both_cut_the_batch(trained: Path) -> None:
    (one, _), (two, _) = read(trained / "one/batches of 4, 4 and 2"), read(trained / "two/short_of_memory")
    assert (one["parts"], two["parts"]) == (1, 2)
    assert [row["loss"] for row in two["history"]] == pytest.approx([row["loss"] for row in one["history"]], rel=1e-4)


def test_the_message_of_a_process_that_fails_is_passed_on(trained: Path) -> None:
    assert re.search(r"the loss is not finite.*s7", (trained / "message").read_text(encoding="utf-8"))


def normalise_part(processes: Processes, folder: str) -> None:
    """Write what BatchNorm makes of this process's part of a batch: 3 samples in the first, 4 in the second."""
    network, x = nn.Sequential(layer(nn.BatchNorm2d)), batch(nn.BatchNorm2d).detach()
    share_statistics(network)
    mine = x[:3] if processes.first else x[3:]
    mine.requires_grad_()
    network(mine).pow(3).sum().backward()
    processes.add_gradients(network.parameters())
    found = {"x": mine.grad, "weight": network[0].weight.grad, "variance": network[0].running_var}
    Path(folder).mkdir(parents=True, exist_ok=True)
    torch.save(found, Path(folder, f"{processes.rank}.pt"))


def add_up_as_pytorch_does(processes: Processes, folder: str) -> None:
    """Write the gradients of two parts of a batch in each process, by us and by DistributedDataParallel."""
    torch.manual_seed(0)
    network, x = nn.Sequential(nn.Linear(6, 5), nn.Tanh(), nn.Linear(5, 1)), torch.randn(8, 6).chunk(4)
    first, second = x[2 * processes.rank : 2 * processes.rank + 2]
    for part in (first, second):
        network(part).sum().backward()
    processes.add_gradients(network.parameters())
    ours = [parameter.grad.clone() for parameter in network.parameters() if parameter.grad is not None]
    network.zero_grad()
    parallel = nn.parallel.DistributedDataParallel(network)
    with parallel.no_sync():
        parallel(first).sum().backward()
    parallel(second).sum().backward()
    theirs = [parameter.grad * processes.size for parameter in network.parameters() if parameter.grad is not None]
    with pytest.raises(ValueError, match="expected input tensor to be on GPU") as refused:
        nn.SyncBatchNorm(6)(first)
    torch.save(
        {"ours": ours, "theirs": theirs, "refused": str(refused.value)}, Path(folder, f"sums{processes.rank}.pt")
    )


@pytest.mark.parametrize("rank", [0, 1])
def test_gradients_are_those_of_pytorchs_data_parallel_which_normalises_no_batch_on_processors(
    trained: Path, rank: int
) -> None:
    found = torch.load(trained / "two" / f"sums{rank}.pt")
    torch.testing.assert_close(found["ours"], found["theirs"], rtol=1e-6, atol=1e-6)
    assert "GPU" in found["refused"]


def test_two_processes_normalise_parts_of_a_batch_as_one_normalises_the_whole(trained: Path) -> None:
    whole, x = layer(nn.BatchNorm2d), batch(nn.BatchNorm2d)
    whole(x).pow(3).sum().backward()
    first, second = (torch.load(trained / "two" / f"{rank}.pt") for rank in (0, 1))
    torch.testing.assert_close(torch.cat([first["x"], second["x"]]), x.grad, rtol=1e-4, atol=1e-3)
    for found in (first, second):
        torch.testing.assert_close(found["weight"], whole.weight.grad, rtol=1e-4, atol=1e-3)
        torch.testing.assert_close(found["variance"], whole.running_var, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    ("name", "batch_size", "reason"),
    [
        ("plain", 1, "its batch of 1 is too small for 2 processes"),
        ("vlcounter", 4, "the rank loss grades density by the extremes of the whole batch"),
    ],
)
def test_what_cannot_be_shared_says_why(name: str, batch_size: int, reason: str) -> None:
    system = MADE[name]() if name in MADE else of_repository(name)
    with pytest.raises(UserError, match=f"gpus_per_job = 2: .*{reason}"):
        check_shareable(system, 2, 10, batch_size)


@pytest.mark.more
def test_a_killed_run_of_two_processes_resumes_and_ends_with_the_same_weights(
    trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TEST_CHECKPOINT_MINUTES", "0")
    case = CASES["batches of 4, 4 and 2"]
    with pytest.raises(
        KilledError, match=r"^process 1 of 2 was ended by SIGKILL .*, and the others with it; started a"
    ):
        together(train_until_killed, (case[0], str(tmp_path), case[1]), [CPU, CPU])
    together(train, (case[0], str(tmp_path), case[1]), [CPU, CPU])
    (whole, weights), (resumed, other) = read(trained / "two/batches of 4, 4 and 2"), read(tmp_path)
    assert all(torch.equal(other[key], value) for key, value in weights.items())
    assert [row["loss"] for row in whole["history"]] == [row["loss"] for row in resumed["history"]]


def wait_for_a_killed_process(processes: Processes, device: torch.device) -> None:
    if not processes.first:
        os.kill(os.getpid(), signal.SIGKILL)
    processes.gathered(None)


@pytest.mark.more
def test_a_process_that_waits_for_a_killed_one_does_not_hide_who_was_killed() -> None:
    with pytest.raises(KilledError, match="process 2 of 2 was ended by SIGKILL"):
        together(wait_for_a_killed_process, (), [CPU, CPU])


def train_until_killed(processes: Processes, *arguments: Any) -> None:
    """Train, and kill the first process when it has saved its state for the fourth time."""
    checkpoints.save_state = after_saving(4, kill_this_process)
    train(processes, *arguments)


@pytest.mark.more
def test_two_processes_of_which_one_is_told_to_end_save_together_and_go_on(
    trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    case = CASES["batches of 4, 4 and 2"]
    with pytest.raises(WalltimeError, match="as somebody ended it; started again, it goes on from there"):
        together(train_until_told, (case[0], str(tmp_path), case[1]), [CPU, CPU])
    together(train, (case[0], str(tmp_path), case[1]), [CPU, CPU])
    (_, weights), (_, other) = read(trained / "two/batches of 4, 4 and 2"), read(tmp_path)
    assert all(torch.equal(other[key], value) for key, value in weights.items())


def train_until_told(processes: Processes, *arguments: Any) -> None:
    """Train, and have the second process told to end after three steps."""
    make_step = Trainer._train_step

    def step(trainer: Trainer, *batch: Any) -> None:
        make_step(trainer, *batch)
        if trainer.progress.steps_done == 3 and not processes.first:
            os.kill(os.getpid(), signal.SIGTERM)

    Trainer._train_step = step  # type: ignore[method-assign]
    train(processes, *arguments)
