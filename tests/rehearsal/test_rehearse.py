"""recount rehearse: real steps, a save, a resume; each system in a process of its own; what it leaves."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from tiny_system import MemoryPool, TinySettings, TinySystem
from typer.testing import CliRunner

from projects import copy_settings
from recount import planning
from recount.cli import app
from recount.data.sample import HIDDEN
from recount.errors import UserError
from recount.rehearsal.generated import SIZES, generated
from recount.rehearsal.rehearse import Cut, chosen, part_read, random_weights, rehearse
from recount.rehearsal.steps import TimedTrainer, digest_of, shortened, taken_again
from recount.results.files import ResultsError
from recount.results.rehearsals import Rehearsals
from recount.settings.project import Project, Split, load
from recount.settings.recipe import Recipe
from recount.systems.base import System
from recount.training.checkpoints import STATE


@pytest.mark.parametrize(
    ("recipe", "samples", "expected"),
    [
        (Recipe(epochs=300, batch_size=4, evaluate_every=5, evaluate_from=7), 100, (4, 1, 1)),
        (Recipe(epochs=300, batch_size=4), 100, (4, 1, None)),
        (Recipe(epochs=300, batch_size=64, patience=3, evaluate_every=1), 10, (8, 2, 2)),
        (Recipe(epochs=300, batch_size=3, drop_last=True, evaluate_every=1), 7, (3, 2, 2)),
    ],
)
def test_a_shortened_recipe_has_so_many_steps_and_is_evaluated_once_at_the_end(
    recipe: Recipe, samples: int, expected: tuple[Any, ...]
) -> None:
    short = shortened(recipe, samples, steps=3, batch=8)
    assert (short.batch_size, short.epochs, short.evaluate_every) == expected
    assert short.max_steps == 3
    assert sum(short.evaluates(epoch) for epoch in range(1, short.epochs + 1)) == (recipe.evaluate_every is not None)


def tiny(folder: Path) -> tuple[System, TimedTrainer]:
    torch.manual_seed(0)
    system = TinySystem(TinySettings())
    options: dict[str, Any] = {
        "watched": {"held_out": MemoryPool(2)},
        "seed": 0,
        "made_from": "d",
        "device": torch.device("cpu"),
    }
    return system, TimedTrainer(system, system.recipe, MemoryPool(), folder=folder, **options, steps=4, batch=2)


def test_the_last_step_is_taken_again_from_the_state_and_gives_the_same_weights(tmp_path: Path) -> None:
    system, trainer = tiny(tmp_path)
    history = trainer.train().history
    seconds, waiting = trainer.seconds_per_step()
    assert [len(stage) for stage in trainer.timed] == [4]
    assert seconds == pytest.approx(2 * np.median([sum(step) for step in trainer.timed[0][1:]]))  # a batch of 4, by 2
    assert 0 < waiting < 1
    assert trainer.state_bytes == (tmp_path / STATE).stat().st_size
    assert taken_again(lambda: tiny(tmp_path), digest_of(system), history) == "equal"


def test_a_resume_that_goes_another_way_is_told(tmp_path: Path) -> None:
    history = tiny(tmp_path)[1].train().history
    assert taken_again(lambda: tiny(tmp_path), "another", history).startswith("close: ")
    far = [{**row, "loss": 2 * row["loss"]} for row in history]
    assert taken_again(lambda: tiny(tmp_path), "another", far).startswith(
        "differs: the numbers of its last step are 0.5"
    )
    (tmp_path / STATE).unlink()
    assert taken_again(lambda: tiny(tmp_path), "another", history) == (
        "not from the saved state: 4 steps were taken again"
    )


@pytest.mark.parametrize(
    ("dataset", "preparation", "kind"),
    [("nwpu", "original", "crowd"), ("fsc147", "original", "text"), ("countclip_zenodo", "original", "captions")],
)
def test_drawn_samples_stand_for_a_benchmark_at_the_size_of_its_pictures(
    tmp_path: Path, dataset: str, preparation: str, kind: Any
) -> None:
    samples = generated(Split(dataset=dataset, split="train", preparation=preparation), kind, tmp_path)
    assert {(one.width, one.height) for one in samples} == {SIZES.get(dataset, (512, 384))}
    for sample in samples[:2]:
        assert sample.image is not None
        assert Image.open(sample.image).size == (sample.width, sample.height)
    if kind == "captions":  # CountCLIP weighs every number, and trains on pairs that do not count, too
        counting = [one.count for one in samples if not one.attributes.get(HIDDEN)]
        assert sorted(counting) == list(range(2, 11))
        assert len(samples) == 5 * len(counting)
    else:
        assert all(len(one.points) == one.count > 0 and (one.points[:, 0] <= one.width).all() for one in samples)


def mini(folder: Path, **over: Any) -> Project:
    return load(copy_settings(folder), {"suite": "mini", **over})


def test_systems_are_chosen_by_name_and_else_the_released_code_s_variant_of_each(tmp_path: Path) -> None:
    project = mini(tmp_path)
    every = [f"{run.system}/{run.variant}" for run in chosen(project, [])]
    assert len({name.partition("/")[0] for name in every}) == len(every) == len(project.suite.systems)
    assert {"t2icount/full", "mcnn/rgb", "gigacount/full"} <= {*every}
    assert [run.variant for run in chosen(project, ["t2icount/b_rrc", "mcnn"])] == ["b_rrc", "rgb"]
    with pytest.raises(UserError, match=r"--systems = mcn: .*mcnn"):
        chosen(project, ["mcn"])


def test_absent_base_weights_are_random_ones_and_nothing_else_changes(tmp_path: Path) -> None:
    project = load(copy_settings(tmp_path), {"suite": "paper"})
    (run,) = chosen(project, ["gigacount"])
    there = tmp_path / str(run.settings["text_weights"])
    there.parent.mkdir(parents=True)
    there.touch()
    assert random_weights(project, run.settings, only_absent=True) == run.settings | {"backbone_weights": "random"}
    assert random_weights(project, run.settings)["text_weights"] == "random"


def test_a_rehearsal_is_a_row_a_checked_record_and_the_basis_of_the_plan(tmp_path: Path) -> None:
    project = mini(tmp_path, systems=["mcnn"])
    (row,) = rehearse(project, chosen(project, []), random_weights=False, steps=2, minutes=5)
    assert (row.error, row.resumed, row.data, row.batch, row.batch_taken) == ("", "equal", "generated", 4, 4)
    assert row.absent == [*project.runs[0].benchmarks]
    assert all(value and value > 0 for value in (row.seconds_per_step, row.state_mb, row.peak_memory_mb))
    assert not (tmp_path / "results" / ".rehearsal").exists()
    (file,) = (tmp_path / "resources" / "rehearsals").glob("*.json")
    assert Rehearsals.read(file).rehearsed == {row.run: row}
    costs = {cost.run: cost for cost in planning._run_costs(project)}
    assert costs[row.run].basis.startswith("measured on this machine (")
    # 48 pictures in batches of 4, 9 epochs
    assert costs[row.run].gpu_hours == pytest.approx(float(row.seconds_per_step or 0) * 12 * 9 / 3600)
    file.write_text(file.read_text().replace('"steps": 2', '"steps": 3'))
    with pytest.raises(ResultsError, match="checksum"):
        Rehearsals.read(file)
    assert {cost.run: cost for cost in planning._run_costs(project)}[row.run].basis.startswith("one job")


def test_one_that_takes_too_long_takes_none_along(tmp_path: Path) -> None:
    project = mini(tmp_path, systems=["mcnn", "dm_count"])
    rows = [*rehearse(project, chosen(project, []), random_weights=False, steps=2, minutes=0)]
    assert len(rows) == 2
    assert {row.error for row in rows} == {
        "its 0 minutes were over before a step of its last stage was done: --minutes gives each training more"
    }
    assert not (tmp_path / "results" / ".rehearsal").exists()


@pytest.mark.more
def test_what_was_measured_until_the_time_was_over_is_the_row_and_is_noted(tmp_path: Path) -> None:
    project = mini(tmp_path, systems=["mcnn"])
    (row,) = rehearse(project, chosen(project, []), random_weights=False, steps=10**6, minutes=0.5)
    assert (row.error, row.resumed) == ("", "not tried")
    left = "not tried: saving, predicting, resuming (--minutes gives it more)"
    assert row.told == [f"its 0.5 minutes were over after {row.steps} steps; {left}"]
    (file,) = (tmp_path / "resources" / "rehearsals").glob("*.json")
    assert Rehearsals.read(file).rehearsed == {row.run: row}
    assert {cost.run: cost for cost in planning._run_costs(project)}[row.run].basis.startswith("measured on this")


def test_pictures_are_cut_and_their_seconds_scaled_by_area(tmp_path: Path) -> None:
    samples = generated(Split(dataset="nwpu", split="train", preparation="original"), "crowd", tmp_path)[:1]
    assert Cut(samples, 512).image(0).shape == (3, 512, 512)
    assert Cut(samples, None).image(0).shape == (3, samples[0].height, samples[0].width)
    assert part_read(samples[0], 512) == 512 * 512 / (samples[0].width * samples[0].height)
    assert part_read(samples[0], None) == 1


@pytest.mark.more
def test_a_system_that_fails_is_its_own_row_and_the_exit_status(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(copy_settings(tmp_path))
    broken = tmp_path / "resources" / "weights" / "vgg19" / "vgg19-dcbb9e9d.pth"
    broken.parent.mkdir(parents=True)
    broken.write_bytes(b"not weights")
    chosen_ = ["--systems", "dm_count", "--systems", "mcnn", "--config", "suite=paper"]
    done = CliRunner().invoke(app, ["rehearse", *chosen_, "--steps", "2"])
    assert done.exit_code == 1
    assert "dm_count/vgg19/seed0: " in done.stdout
    assert "vgg19-dcbb9e9d.pth" in done.stdout.partition("Trained on drawn")[0]
    assert "mcnn/rgb/seed0" in done.stdout.partition("Trained on drawn")[2]  # it got its numbers
    assert "Traceback" not in done.output
