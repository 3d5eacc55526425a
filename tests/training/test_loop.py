"""The training loop: deterministic, resumable after a kill, honest about broken losses and about what it selects on."""

import json
import logging
import multiprocessing
import re
import signal
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from accelerate.state import AcceleratorState
from tiny_system import MemoryPool, TinySettings, TinySystem, after_saving, kill_this_process, trainer_of

from recount.data.dataset import DataError
from recount.errors import UserError
from recount.results.files import SaveError, file_digest
from recount.settings.recipe import Arithmetic, Recipe, Schedule
from recount.systems.base import Example
from recount.training import checkpoints
from recount.training.checkpoints import load_state, save_model, save_state, set_aside
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


def test_on_a_processor_training_is_bitwise_and_fills_no_memory_for_it(tmp_path: Path) -> None:
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
    best = progress.best["best_on_test"]
    assert best["epoch"] == maes.index(min(maes)) + 1
    assert best["model"] == f"best_on_test@{best['epoch']}.safetensors"
    assert file_digest(tmp_path / best["model"]) == best["sha256"]


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
    assert "was made from something else: training starts anew" in caplog.text


def test_a_state_of_other_settings_waits_until_they_are_wanted_again(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder = tmp_path / "seed0"
    first, second = (json.dumps({"recipe": {"epochs": epochs}, "code": "c"}) for epochs in (3, 4))
    save_state(folder, first, {"progress": "{}"})
    with caplog.at_level(logging.WARNING):
        set_aside(folder, second)
    assert "made from something else (recipe: epochs: 3 is now 4)" in caplog.text
    assert not folder.exists()
    save_state(folder, second, {"progress": "{}"})
    for wanted in (first, second, first):
        set_aside(folder, wanted)
        assert load_state(folder, wanted) is not None
    assert len([*tmp_path.iterdir()]) == 2


@pytest.mark.parametrize(
    ("change", "why"),
    [
        (lambda state: b"not a checkpoint", "its end is missing"),
        (lambda state: state[:-1], "its end is missing"),
        (lambda state: state[:100] + bytes([state[100] ^ 1]) + state[101:], "its content has .* instead of"),
    ],
)
def test_a_broken_state_is_ignored_with_a_message(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, change: Callable[[bytes], bytes], why: str
) -> None:
    save_state(tmp_path, "d", {"progress": "{}"})
    path = tmp_path / checkpoints.STATE
    path.write_bytes(change(path.read_bytes()))
    with caplog.at_level(logging.WARNING):
        assert load_state(tmp_path, "d") is None
    assert re.search(rf"state\.pt cannot be read \({why}.*training starts anew", caplog.text)


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


def test_a_part_of_the_network_may_learn_at_a_rate_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def groups(self: TinySystem, _: Recipe) -> list[dict[str, Any]]:
        return [{"params": self.body.parameters()}, {"params": self.head.parameters(), "lr_scale": 0.0}]

    monkeypatch.setattr(TinySystem, "parameter_groups", groups)
    trained = weights(train(tmp_path)[1])
    torch.manual_seed(0)
    before = weights(TinySystem(TinySettings()))
    assert torch.equal(trained["head.weight"], before["head.weight"])
    assert not torch.equal(trained["body.0.weight"], before["body.0.weight"])


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


@pytest.fixture
def maes(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """What evaluations will measure, one after the other."""
    left: list[float] = []
    monkeypatch.setattr("recount.training.loop.evaluate", lambda *_: {"mae": left.pop(0), "rmse": 0.0})
    return left


def chosen_in(progress: Progress) -> tuple[int, dict[str, float]]:
    """Return the epoch that was chosen on test samples, and for what."""
    best = progress.best["best_on_test"]
    return best["epoch"], best["on"]


def test_training_stops_after_so_many_evaluations_without_a_better_one(tmp_path: Path, maes: list[float]) -> None:
    maes += [5, 4, 6, 3, 3, 3, 9]
    recipe = {"epochs": 9, "patience": 2}
    progress, _ = train(tmp_path, recipe=recipe, watched={"test": MemoryPool(2)})
    assert progress.epochs_done == 6
    assert chosen_in(progress) == (4, {"mae": 3, "rmse": 0})


def test_a_state_that_could_not_be_saved_leaves_the_models_of_the_one_before(
    tmp_path: Path, maes: list[float], monkeypatch: pytest.MonkeyPatch
) -> None:
    maes += [5, 4]
    save = checkpoints.save_state

    def full(folder: Path, made_from: str, state: dict[str, Any]) -> None:
        if "best_on_test@2" in state["progress"]:
            raise SaveError("the disk is full")
        save(folder, made_from, state)

    monkeypatch.setattr(checkpoints, "save_state", full)
    with pytest.raises(SaveError):
        train(tmp_path, watched={"test": MemoryPool(2)}, checkpoint_minutes=0)
    state = load_state(tmp_path, "d")
    assert state is not None
    assert (tmp_path / json.loads(state["progress"])["best"]["best_on_test"]["model"]).is_file()


def test_the_moving_mean_chooses_the_last_epoch_of_its_window(tmp_path: Path, maes: list[float]) -> None:
    maes += [8, 1, 6, 5, 3, 9]  # from epoch 2 on, in threes: 5, 4, 4.67, 5.67
    recipe = {"epochs": 7, "evaluate_from": 2, "moving_mean": 3, "patience": 2}
    progress, _ = train(tmp_path, recipe=recipe, watched={"test": MemoryPool(2)})
    assert chosen_in(progress) == (5, {"mae": 4, "rmse": 0})
    assert progress.epochs_done == 7  # what fills the window is not counted as an evaluation without a better one


def test_a_model_is_chosen_in_the_precision_of_evaluation(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[str] = []

    def evaluated(_system: Any, _pool: Any, _device: Any, precision: str, _processes: Any) -> dict[str, float]:
        seen.append(precision)
        return {"mae": 1.0, "rmse": 1.0}

    monkeypatch.setattr("recount.training.loop.evaluate", evaluated)
    recipe = {"epochs": 1, "precision": "bf16"}
    for name, own in (("a", None), ("b", "fp32")):
        train(tmp_path / name, recipe={**recipe, "evaluation_precision": own}, watched={"test": MemoryPool(2)})
        AcceleratorState._reset_state(reset_partial_state=True)
    assert seen == ["bf16", "fp32"]


@pytest.mark.parametrize(
    ("recipe", "evaluated"),
    [
        ({"evaluate_every": 5}, [5, 10, 15, 20]),
        ({"evaluate_every": 5, "evaluate_from": 11}, [11, 16]),
        ({"evaluate_every": 10, "evaluate_from": 1, "evaluate_each_from": 18}, [1, 11, 18, 19, 20]),
        ({"evaluate_every": None, "evaluate_each_from": 3}, []),
    ],
)
def test_which_epochs_are_evaluated(recipe: dict[str, Any], evaluated: list[int]) -> None:
    assert [epoch for epoch in range(1, 21) if Recipe(**recipe).evaluates(epoch)] == evaluated


@pytest.mark.parametrize(
    ("recipe", "chosen", "trained", "evaluated"),
    [
        ({"precision": "fp16", "evaluation_precision": "fp32"}, {}, "fp16", "fp32"),
        ({"precision": "fp16"}, {}, "fp16", "fp16"),
        ({"precision": "fp16"}, {"precision": "bf16"}, "bf16", "fp16"),
        ({"precision": "fp16"}, {"evaluation_precision": "fp32"}, "fp16", "fp32"),
        ({}, {"fp32_as": "tf32"}, "tf32", "fp32"),
        ({}, {"fp32_as": "tf32", "precision": "fp32"}, "fp32", "fp32"),
        ({"precision": "fp16"}, {"fp32_as": "tf32"}, "fp16", "fp16"),
    ],
)
def test_training_and_evaluation_have_a_precision_each(
    recipe: dict[str, Any], chosen: dict[str, Any], trained: str, evaluated: str
) -> None:
    resolved = Arithmetic(**chosen).of(Recipe(**recipe))
    assert (resolved.precision, resolved.precision_of_evaluation()) == (trained, evaluated)


class Pointed(TinySystem):
    """Learns maps of points, as its maker gives them."""

    needs = frozenset({"points"})
    target = 1.0  # of each point

    def example_maker(self) -> Any:
        def made(index: int, pool: Any, rng: Any) -> list[Example]:
            sample = pool.samples[index]
            density = torch.full((1, 2, 2), self.target * len(sample.points) / 4)
            return [Example(sample.id, torch.zeros(3, 24, 24), count=sample.count, maps={"density": density})]

        return made


def pointed(folder: Path, points: int, target: float, pictures: int = 3) -> None:
    pool = MemoryPool(pictures)
    pool.samples = [replace(s, points=np.zeros((points, 2), np.float32), count=2.0) for s in pool.samples]
    system = type("Taught", (Pointed,), {"target": target})(TinySettings())
    trainer_of(system, folder, {"epochs": 2, "batch_size": 2}, pool=pool).train()


def test_a_training_on_its_counts_goes_through(tmp_path: Path) -> None:
    pointed(tmp_path, 2, 1.0)


@pytest.mark.parametrize(
    ("points", "target", "told"),
    [
        (0, 1.0, r"3 of 3 training samples \(s0, s1, s2\) have no points"),
        (2, 3.0, "the training targets of s., s. do not sum to their counts"),
        (2, 0.01, "the training targets of s., s. do not sum to their counts"),
    ],
)
def test_targets_that_nobody_gave_stop_in_the_first_epoch(
    tmp_path: Path, points: int, target: float, told: str
) -> None:
    with pytest.raises(UserError, match=told):
        pointed(tmp_path, points, target)


def test_targets_that_are_all_zero_stop_after_the_first_epoch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("recount.training.loop.unlike", lambda *_: False)  # a maker that counts what it drew itself
    pointed(tmp_path / "few", 2, 0.0)  # crops of so few pictures may have missed all objects
    with pytest.raises(UserError, match="all training targets of the first epoch sum to zero, though s0, s1, s2"):
        pointed(tmp_path / "many", 2, 0.0, pictures=10)


def test_progress_is_json() -> None:
    assert Progress(**json.loads(json.dumps(asdict(Progress())))) == Progress()


def test_annotation_without_pictures_is_refused_with_what_to_do() -> None:
    samples = MemoryPool(2).samples  # which have none
    with pytest.raises(DataError, match=r"countx/vitb16/seed0: 2 of 2 samples .* recount doctor says how to get"):
        samples_with_pictures(samples, "countx/vitb16/seed0")


def test_recipes_of_systems_are_recipes() -> None:
    assert isinstance(TinySystem.recipe, Recipe)
