"""The training loop: deterministic, resumable after a kill, honest about broken losses and about what it selects on."""

import json
import logging
import multiprocessing
import signal
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate.state import AcceleratorState
from tiny_system import MemoryPool, TinySettings, TinySystem, after_saving, kill_this_process, trainer_of

from recount.data.dataset import DataError
from recount.errors import UserError
from recount.results.files import SaveError
from recount.settings.recipe import Recipe, Schedule
from recount.training import checkpoints
from recount.training.checkpoints import load_state, save_model, save_state
from recount.training.loop import Progress, samples_with_pictures
from recount.training.selection import is_better


def train(folder: Path, *, seed: int = 0, poison: str = "", **options: Any):
    torch.manual_seed(seed)
    system = TinySystem(TinySettings(poison=poison))
    return trainer_of(system, folder, seed=seed, **options).train(), system


def weights(system: TinySystem) -> dict[str, torch.Tensor]:
    return {name: value.clone() for name, value in system.state_dict().items()}


def same(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    return all(torch.equal(one[name], other[name]) for name in one)


def test_the_same_seed_gives_the_same_weights_and_another_seed_others(tmp_path: Path) -> None:
    first = weights(train(tmp_path / "a")[1])
    assert same(first, weights(train(tmp_path / "b")[1]))
    assert not same(first, weights(train(tmp_path / "c", seed=1)[1]))


def test_loader_processes_change_nothing(tmp_path: Path) -> None:
    assert same(weights(train(tmp_path / "a")[1]), weights(train(tmp_path / "b", loader_processes=2)[1]))


def test_training_is_deterministic_and_fills_no_memory_for_it(tmp_path: Path) -> None:
    torch.use_deterministic_algorithms(False)
    torch.utils.deterministic.fill_uninitialized_memory = True
    train(tmp_path)
    assert torch.are_deterministic_algorithms_enabled()
    assert not torch.utils.deterministic.fill_uninitialized_memory


def test_making_examples_leaves_the_gpu_s_generator_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Or dropout would draw the same after each batch, and something else with loader processes."""
    seeded: list[int] = []
    monkeypatch.setattr(torch.cuda, "manual_seed_all", seeded.append)
    progress, _ = train(tmp_path)
    assert progress.steps_done > 1
    assert seeded == [0, 0]  # the weights of the test, and the run


def test_evaluating_during_training_changes_nothing_of_the_training(tmp_path: Path) -> None:
    watched = {"test": MemoryPool(6)}
    with_evaluation = weights(train(tmp_path / "a", watched=watched)[1])
    assert same(with_evaluation, weights(train(tmp_path / "b")[1]))


def test_a_system_may_change_its_weights_after_each_step(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def rounded(self: TinySystem) -> None:
        for parameter in self.parameters():
            parameter.data.copy_(parameter.half())

    monkeypatch.setattr(TinySystem, "after_step", rounded)
    _, system = train(tmp_path / "a")
    assert all(torch.equal(parameter, parameter.half().float()) for parameter in system.parameters())


def test_history_has_a_row_per_epoch_with_terms_rate_and_evaluations(tmp_path: Path) -> None:
    progress, _ = train(tmp_path, watched={"test": MemoryPool(6)})
    assert [row["epoch"] for row in progress.history] == [1, 2, 3]
    assert progress.history[-1]["step"] == 9
    for row in progress.history:
        assert {"stage", "lr", "loss", "count", "test_mae", "test_rmse", "seconds"} <= set(row)
        assert row["loss"] == pytest.approx(row["count"])


def test_the_best_epoch_on_test_is_kept_and_is_the_minimum_of_the_history(tmp_path: Path) -> None:
    progress, _ = train(tmp_path, recipe={"epochs": 5}, watched={"test": MemoryPool(6)})
    maes = [row["test_mae"] for row in progress.history]
    assert progress.best["best_on_test"]["epoch"] == maes.index(min(maes)) + 1
    assert (tmp_path / "model.best_on_test.safetensors").is_file()


def train_saving_each_step(folder: Path):
    return train(folder, watched={"test": MemoryPool(6)}, checkpoint_minutes=0)


def train_until_killed(folder: Path) -> None:
    """Train, and kill this process in the middle of the second epoch."""
    torch.set_num_threads(1)
    checkpoints.save_state = after_saving(5, kill_this_process)
    train_saving_each_step(folder)


def test_a_run_killed_in_mid_epoch_resumes_and_ends_with_the_same_weights(tmp_path: Path) -> None:
    process = multiprocessing.get_context("spawn").Process(target=train_until_killed, args=(tmp_path / "killed",))
    process.start()
    process.join()
    assert process.exitcode == -signal.SIGKILL
    state = load_state(tmp_path / "killed", "d")
    assert state is not None and json.loads(state["progress"])["steps_done"] == 5
    resumed, system = train_saving_each_step(tmp_path / "killed")
    unbroken, whole = train_saving_each_step(tmp_path / "whole")
    assert same(weights(system), weights(whole))
    assert resumed.best == unbroken.best
    assert len(resumed.history) == len(unbroken.history) == 3


def test_a_state_of_other_settings_or_code_is_ignored_with_a_message(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    save_state(tmp_path, "old", {"progress": "{}"})
    with caplog.at_level(logging.WARNING):
        assert load_state(tmp_path, "new") is None
    assert "other settings or other code" in caplog.text


def test_a_broken_state_is_ignored_with_a_message(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / checkpoints.STATE).write_bytes(b"not a checkpoint")
    with caplog.at_level(logging.WARNING):
        assert load_state(tmp_path, "d") is None
    assert "cannot be read" in caplog.text


def test_a_full_disk_leaves_the_old_file_and_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save_model(tmp_path / "model.safetensors", {"a": torch.ones(1)})
    before = (tmp_path / "model.safetensors").read_bytes()

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(checkpoints, "save_file", full)
    with pytest.raises(SaveError, match=r"No space left on device.*unchanged"):
        save_model(tmp_path / "model.safetensors", {"a": torch.zeros(1)})
    assert (tmp_path / "model.safetensors").read_bytes() == before
    assert [path.name for path in tmp_path.iterdir()] == ["model.safetensors"]


def test_a_loss_that_is_not_finite_names_step_terms_and_samples(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"epoch 1, step \d: .*count = nan.*s7"):
        train(tmp_path, poison="s7")


def test_gradient_clipping_changes_the_result(tmp_path: Path) -> None:
    clipped = weights(train(tmp_path / "a", recipe={"clip_norm": 1e-3, "optimiser": {"name": "sgd"}})[1])
    assert not same(clipped, weights(train(tmp_path / "b", recipe={"optimiser": {"name": "sgd"}})[1]))


def test_staying_in_evaluation_mode_after_the_first_evaluation_freezes_batch_norm(tmp_path: Path) -> None:
    watched = {"test": MemoryPool(6)}
    slip = {"eval_mode_after_first_evaluation": True}
    after_one = weights(train(tmp_path / "a", recipe={"epochs": 1}, watched=watched)[1])
    stuck = weights(train(tmp_path / "b", recipe=slip, watched=watched)[1])
    moved = weights(train(tmp_path / "c", watched=watched)[1])
    assert torch.equal(stuck["body.1.running_mean"], after_one["body.1.running_mean"])
    assert not torch.equal(moved["body.1.running_mean"], after_one["body.1.running_mean"])


def test_max_steps_cuts_training_short(tmp_path: Path) -> None:
    progress, _ = train(tmp_path, recipe={"max_steps": 4})
    assert progress.steps_done == 4


def test_the_schedule_sets_the_rate_of_each_epoch(tmp_path: Path) -> None:
    progress, _ = train(tmp_path, recipe={"schedule": Schedule(name="step", factor=0.5).model_dump()})
    assert [row["lr"] for row in progress.history] == pytest.approx([1e-2, 5e-3, 2.5e-3])


def test_bf16_trains_and_differs_from_fp32(tmp_path: Path) -> None:
    low = weights(train(tmp_path / "a", recipe={"precision": "bf16"})[1])
    AcceleratorState._reset_state(reset_partial_state=True)
    assert not same(low, weights(train(tmp_path / "b")[1]))


@pytest.mark.parametrize(
    ("select_by", "better"),
    [("mae", {"mae": 1, "rmse": 9}), ("rmse", {"mae": 9, "rmse": 1}), ("mae+rmse", {"mae": 3, "rmse": 2})],
)
def test_the_best_epoch_is_chosen_by_what_the_recipe_says(select_by: str, better: dict[str, float]) -> None:
    best = {"epoch": 1, "on": {"mae": 2, "rmse": 4}}
    assert is_better(better, best, select_by)
    assert not is_better(best["on"], best, select_by), "the earlier epoch wins a tie"
    assert not is_better({"mae": float("nan"), "rmse": float("nan")}, best, select_by)


def test_progress_is_json() -> None:
    assert Progress(**json.loads(json.dumps(asdict(Progress())))) == Progress()


def test_annotation_without_pictures_is_refused_with_what_to_do() -> None:
    samples = MemoryPool(2).samples  # which have none
    with pytest.raises(DataError, match=r"countx/vitb16/seed0: 2 of 2 samples .* recount doctor says how to get"):
        samples_with_pictures(samples, "countx/vitb16/seed0")


def test_recipes_of_systems_are_recipes() -> None:
    assert isinstance(TinySystem.recipe, Recipe)
