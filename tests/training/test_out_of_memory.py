"""Out of memory: the batch is computed in parts with the same result, or training stops and says what to do."""

import json
import logging
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from tiny_system import TinySettings, TinySystem, after_saving, trainer_of
from torch import Tensor, nn

from projects import experiment, write_project
from recount import feeding
from recount.errors import UserError
from recount.settings.project import load
from recount.systems.base import Batch
from recount.systems.mcnn import Mcnn
from recount.training import checkpoints
from recount.training.loop import Progress
from recount.training.run import train as train_run
from small_project import write_index_rows

FULL = 4  # the recipe's batch; the ten samples of the pool make batches of 4, 4 and 2


class Card(TinySystem):
    """The tiny network, without what ties a batch together, on a card that holds so many examples at once."""

    holds = FULL

    def __init__(self, settings: TinySettings) -> None:
        super().__init__(settings)
        self.body[1] = nn.Identity()  # instead of BatchNorm
        self.sizes: list[int] = []

    def losses(self, batch: Batch) -> dict[str, Tensor]:
        terms = super().losses(batch)  # the dropout has drawn its numbers before memory runs out
        if len(batch) > self.holds:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 MiB")
        self.sizes.append(len(batch))
        return terms


def train(folder: Path, system: TinySystem, **options: float) -> Progress:
    return trainer_of(system, folder, **options).train()


def card(holds: int, *, dropout: float = 0.0, kind: type[Card] = Card) -> Card:
    torch.manual_seed(0)
    system = kind(TinySettings())
    system.body[3] = nn.Dropout(dropout)
    system.holds = holds
    return system


def test_a_batch_that_does_not_fit_is_halved_until_it_does_and_trains_the_same(tmp_path: Path) -> None:
    whole, halved = card(FULL), card(1)
    unbroken, cut = train(tmp_path / "a", whole), train(tmp_path / "b", halved)
    assert set(halved.sizes) == {1}
    assert (unbroken.parts, cut.parts) == (1, 4)
    for row, other in zip(unbroken.history, cut.history, strict=True):
        assert row["loss"] == pytest.approx(other["loss"], rel=1e-5)
    for name, value in whole.state_dict().items():
        torch.testing.assert_close(halved.state_dict()[name], value, rtol=1e-4, atol=1e-5)


class Frugal(Card):
    """Holds the whole batch once it saves memory."""

    def __init__(self, settings: TinySettings) -> None:
        super().__init__(settings)
        self.told: list[bool] = []  # whether a batch had failed

    def losses(self, batch: Batch) -> dict[str, Tensor]:
        self.failed = len(batch) > self.holds
        return super().losses(batch)

    def save_memory(self) -> bool:
        self.told.append(self.failed)
        saves, self.holds = self.holds < FULL, FULL
        return saves

    failed = False


@pytest.mark.parametrize("coupled", ["", "the loss compares all pairs"])
def test_memory_is_saved_before_a_batch_is_cut_and_trains_the_same(
    coupled: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    whole, frugal = card(FULL, dropout=0.5), card(2, dropout=0.5, kind=Frugal)
    whole.batch_coupled_by = frugal.batch_coupled_by = coupled
    train(tmp_path / "a", whole)
    with caplog.at_level(logging.WARNING):
        assert train(tmp_path / "b", frugal).parts == 1
    assert "out of memory: from step 1 on, less is kept for the backward pass" in caplog.text
    for name, value in whole.state_dict().items():
        assert torch.equal(frugal.state_dict()[name], value)


@pytest.mark.parametrize(("megabytes", "saves"), [(10**6, False), (0, True)])
def test_a_processor_saves_memory_from_the_start_where_it_has_little(
    megabytes: int, saves: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(feeding, "memory_mb", lambda: megabytes)
    frugal = card(2, kind=Frugal)
    train(tmp_path, frugal)
    assert frugal.told[0] is not saves


def test_the_log_says_from_which_step_on_a_batch_is_cut(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        train(tmp_path, card(2))
    assert "out of memory: from step 1 on, a batch of 4 is computed in 2 parts" in caplog.text


def test_the_failed_attempt_draws_no_random_numbers(tmp_path: Path) -> None:
    """A run that knows from the start that it must cut draws the same dropout as one that finds out."""
    found_out, knew = card(2, dropout=0.5), card(2, dropout=0.5)
    train(tmp_path / "a", found_out)
    trainer = trainer_of(knew, tmp_path / "b")
    trainer.progress.parts = 2
    trainer.train()
    for name, value in found_out.state_dict().items():
        assert torch.equal(knew.state_dict()[name], value)


def test_a_resumed_run_goes_on_in_as_many_parts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt() -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(checkpoints, "save_state", after_saving(2, interrupt))
    with pytest.raises(KeyboardInterrupt):
        train(tmp_path, card(2), checkpoint_minutes=0)
    resumed = card(FULL)
    assert train(tmp_path, resumed).parts == 2
    assert set(resumed.sizes) <= {1, 2}


def test_one_sample_that_does_not_fit_ends_training_with_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"step 1: .*one sample at a time.*precision: bf16.*gradient_checkpointing"):
        train(tmp_path, card(0))


def test_a_loss_over_the_whole_batch_is_never_cut(tmp_path: Path) -> None:
    system = card(2)
    system.batch_coupled_by = "the loss compares all pairs"
    with pytest.raises(UserError, match="cannot be computed in parts: the loss compares all pairs"):
        train(tmp_path, system)


def test_batch_norm_in_training_mode_is_never_cut(tmp_path: Path) -> None:
    system = card(2)
    system.body[1] = nn.BatchNorm2d(4)
    with pytest.raises(UserError, match="BatchNorm normalises by the whole batch"):
        train(tmp_path, system)


def test_memory_that_runs_out_in_the_optimiser_is_not_taken_for_a_large_batch(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object, **__: object) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(torch.optim.AdamW, "step", full)
    with pytest.raises(torch.OutOfMemoryError):
        train(tmp_path, card(FULL))


EXPERIMENTS = {"mcnn": experiment("MCNN", {"rgb": "in colour"}, trained_on="dots/train", evaluated_on=["dots/train"])}
PAPER = {"tables": {"table1": {"title": "Table 1", "on": "dots/train", "rows": ["mcnn/rgb"]}}}
SUITE = {
    **{"title": "small", "comparable": False, "benchmarks": {"dots/train": {"dataset": "dots", "split": "train"}}},
    "systems": {"mcnn": {"size": "mini", "recipe": {"epochs": 1, "batch_size": 4, "evaluate_every": None}}},
}


def test_the_record_of_the_run_says_in_how_many_parts_a_batch_was_computed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = {"suite": "small", "device": "cpu"}
    write_project(tmp_path, experiments=EXPERIMENTS, papers={"demo": PAPER}, suite=SUITE, config=config)
    rows = [[number, "train", f"{number}.png", "", 0, 160, 128, "", "", "{}"] for number in range(4)]
    for number, _, name, *_ in rows:
        path = tmp_path / "resources/data/dots/original" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (160, 128), (60 * number, 0, 0)).save(path)
    write_index_rows(tmp_path, rows)
    compute = Mcnn.losses

    def on_a_small_card(system: Mcnn, batch: Batch) -> dict[str, Any]:
        if len(batch) > 1:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return compute(system, batch)

    monkeypatch.setattr(Mcnn, "losses", on_a_small_card)
    project = load(tmp_path, {})
    record = json.loads(train_run(project, project.run("mcnn", "rgb", 0)).read_text())
    assert (record["status"], record["parts"], record["processes"]) == ("trained", 4, 1)
