"""Predicting samples by windows and as whole images, and predicting with a finished run."""

import json
import math
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from safetensors.torch import save_file
from torch import Tensor, nn

from golden_tools import golden
from links import complete_run
from projects import csv_rows
from records import save_run
from recount.chain import Chain
from recount.data.sample import Sample
from recount.data.windows import Windows
from recount.errors import UserError
from recount.prediction import predict
from recount.prediction import samples as predicting
from recount.prediction.predict import kept_maps, predict_benchmark, predict_run, shrunk
from recount.prediction.samples import Predicted, predict_samples
from recount.results.files import ResultsError
from recount.results.run_record import read_run_record
from recount.settings.base import Strict
from recount.settings.project import Project, Run
from recount.systems.base import Prediction, System
from small_project import let_good_be, make_project, write_index_rows
from small_systems import OnlyPredicts


class ToySystem(OnlyPredicts):
    """A convolution over windows (or whole images): enough to tell one window from another."""

    class Settings(Strict):
        windowed: bool = True
        batch: int = 4
        cell: int = 8

    def __init__(self, settings: Any) -> None:
        super().__init__(settings)
        torch.manual_seed(5)
        self.network = nn.Conv2d(3, 1, settings.cell, stride=settings.cell)
        self.windows = Windows(32, 32, 24, batch=settings.batch) if settings.windowed else None
        self.passes: list[int] = []

    def predict(self, images: Tensor, prompts: list[str]) -> Prediction:
        self.passes.append(len(images))
        assert len(images) == len(prompts)
        assert not self.training
        density = self.network(images).abs()
        return Prediction(density=density, maps={"edge": density / 2})


class ToyReader(ToySystem):
    """Answers with class scores: the brightest channel's number."""

    def __init__(self, settings: Any) -> None:
        super().__init__(settings)
        self.windows = None

    def predict(self, images: Tensor, prompts: list[str]) -> Prediction:
        return Prediction(scores=images.mean(dim=(2, 3)).log(), numbers=(2, 3, 4))


def samples_of(sizes: list[tuple[int, int]]) -> list[Sample]:
    return [
        Sample(f"s{k}", "test", Path(f"images/s{k}.jpg"), np.zeros((k, 2), np.float32), k, f"prompt {k}", width, height)
        for k, (height, width) in enumerate(sizes)
    ]


def picture(sample: Sample) -> Tensor:
    generator = torch.Generator().manual_seed(int(sample.id[1:]) + 17)
    shape = (3, sample.height, sample.width)
    return torch.randint(0, 256, shape, dtype=torch.uint8, generator=generator)


def counts(system: System, samples: list[Sample], **options: Any) -> list[float]:
    return [row.count for row in predict_samples(system, samples, picture, **options)]


def toy(**values: Any) -> ToySystem:
    return ToySystem(ToySystem.Settings(**values))


sizes = st.lists(st.tuples(st.sampled_from([16, 32, 56, 80]), st.sampled_from([32, 40, 64])), min_size=1, max_size=5)


@given(sizes, st.integers(1, 9))
@settings(max_examples=40)
def test_batching_windows_changes_no_count(sizes: list[tuple[int, int]], batch: int) -> None:
    samples = samples_of(sizes)
    assert counts(toy(batch=batch), samples) == pytest.approx(counts(toy(batch=1), samples), rel=1e-5)


def test_windows_of_several_images_share_a_pass() -> None:
    system = toy(batch=4)
    counts(system, samples_of([(32, 32), (32, 56), (56, 32), (32, 32)]))  # 1 + 2 + 2 + 1 windows
    assert system.passes == [4, 2]


def test_whole_images_of_equal_size_share_a_pass_and_others_do_not() -> None:
    system = toy(windowed=False)
    counts(system, samples_of([(32, 32), (32, 32), (32, 48), (32, 32)]))
    assert system.passes == [2, 1, 1]


def test_whole_images_share_a_pass_only_within_the_pixel_budget(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(predicting, "WHOLE_IMAGE_PIXELS", 2 * 32 * 32)
    system = toy(windowed=False)
    counts(system, samples_of([(32, 32)] * 5 + [(64, 64)]))
    assert system.passes == [2, 2, 1, 1]


def test_samples_come_back_in_order_with_their_own_counts() -> None:
    samples = samples_of([(80, 64), (32, 32), (56, 40)])
    rows = list(predict_samples(toy(batch=3), samples, picture))
    assert [row.sample.id for row in rows] == ["s0", "s1", "s2"]
    alone = [counts(toy(), [sample])[0] for sample in samples]
    assert [row.count for row in rows] == pytest.approx(alone, rel=1e-5)
    assert all(row.seconds > 0 for row in rows)


def test_density_and_maps_come_back_only_when_asked_for() -> None:
    samples = samples_of([(56, 80)])
    (plain,) = predict_samples(toy(), samples, picture)
    (full,) = predict_samples(toy(), samples, picture, keep_density=True, keep_maps=True)
    (map_alone,) = predict_samples(toy(), samples, picture, keep_maps=True)
    assert map_alone.density is None
    assert torch.equal(map_alone.maps["edge"], full.maps["edge"])
    assert plain.density is None
    assert plain.maps == {}
    assert full.density is not None
    assert full.density.shape == (1, 7, 10)
    assert float(full.density.sum()) == pytest.approx(full.count, rel=1e-5)
    assert full.maps["edge"].shape == (1, 56, 80)


def test_class_scores_become_numbers() -> None:
    samples = samples_of([(16, 16)] * 3)

    def one_bright_channel(sample: Sample) -> Tensor:
        image = torch.ones(3, 16, 16, dtype=torch.uint8)
        image[0 if sample.id == "s1" else 2] = 200
        return image

    rows = list(predict_samples(ToyReader(ToyReader.Settings()), samples, one_bright_channel))
    assert [row.count for row in rows] == [4, 2, 4]
    assert all(row.scores is not None and row.scores.shape == (3,) for row in rows)


class Particular(ToyReader):
    """Is told a sample's id, answers all numbers alike, and leaves the sample s1 out."""

    def prompt_of(self, sample: Sample) -> str:
        return sample.id

    def predict(self, images: Tensor, prompts: list[str]) -> Prediction:
        kept = torch.tensor([prompt != "s1" for prompt in prompts])
        return Prediction(scores=torch.ones(len(images), 3), numbers=(2, 3, 4), kept=kept)


def test_a_sample_that_the_protocol_leaves_out_is_not_in_the_file_but_named_beside_it(
    run_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    let_good_be(Particular, monkeypatch)
    predict_run(run_folder, samples_of([(16, 16)] * 3), tmp_path / "p.csv", picture)
    assert {row["id"] for row in csv_rows(tmp_path / "p.csv")} == {"s0", "s2"}
    timing = json.loads((tmp_path / "p.timing.json").read_text())["selections"]["last"]
    assert timing["left_out"] == ["s1"]
    assert timing["ties"] == ["s0", "s1", "s2"]


def test_output_that_is_not_finite_is_recorded_as_nan_and_the_sample_named(caplog: pytest.LogCaptureFixture) -> None:
    system = toy()
    good = counts(system, samples_of([(32, 32)]))[0]
    with torch.no_grad():
        system.network.bias.fill_(math.inf)
    assert math.isfinite(good)
    assert math.isnan(counts(system, samples_of([(32, 32)]))[0])
    assert "sample s0" in caplog.text


def test_scores_that_are_not_finite_give_no_number() -> None:
    black = lambda sample: torch.zeros(3, 8, 8, dtype=torch.uint8)  # noqa: E731
    (row,) = predict_samples(ToyReader(ToyReader.Settings()), samples_of([(8, 8)]), black)
    assert math.isnan(row.count)


@pytest.mark.parametrize("frozen", [True, False])
def test_the_mode_of_every_module_is_put_back(frozen: bool) -> None:
    system = toy().train()
    system.network.train(not frozen)
    counts(system, samples_of([(32, 32)]))
    assert system.training
    assert system.network.training is not frozen


def test_scores_of_windows_are_refused() -> None:
    system = ToyReader(ToyReader.Settings())
    system.windows = Windows(8, 8, 8)
    with pytest.raises(ValueError, match="cannot be stitched"):
        counts(system, samples_of([(8, 8)]))


def test_autocast_changes_little() -> None:
    samples = samples_of([(56, 64)])
    assert counts(toy(), samples, precision="bf16") == pytest.approx(counts(toy(), samples), rel=0.02)


def test_an_image_that_cannot_be_decoded_stops_the_prediction() -> None:
    def broken(sample: Sample) -> Tensor:
        raise OSError(f"{sample.image}: truncated")

    with pytest.raises(OSError, match=r"s0\.jpg: truncated"):
        list(predict_samples(toy(), samples_of([(32, 32)]), broken))


# ------------------------------------------------------------------------------------------------------ a finished run


@pytest.fixture
def run_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    let_good_be(ToySystem, monkeypatch)
    folder = tmp_path / "runs" / "good" / "full" / "seed0"
    state = toy().state_dict()
    moved = {key: value + 0.5 for key, value in state.items()}
    models = {"last": state, "best_on_test": state, "best_on_held_out": moved}
    save_run(folder, "good/full/seed0", models, **toy().settings.model_dump())
    return folder


def test_a_run_is_predicted_with_each_of_its_selections(run_folder: Path, tmp_path: Path) -> None:
    samples = samples_of([(32, 56), (56, 80)])
    predict_run(run_folder, samples, tmp_path / "p.csv", picture)
    rows = csv_rows(tmp_path / "p.csv")
    assert [(row["id"], row["selection"]) for row in rows] == [
        (sample.id, selection) for selection in ("last", "best_on_test", "best_on_held_out") for sample in samples
    ]
    assert list(rows[0]) == ["id", "image", "prompt", "true_count", "predicted_count", "selection"]
    assert (rows[1]["image"], rows[1]["prompt"], float(rows[1]["true_count"])) == ("s1.jpg", "prompt 1", 1)
    assert [float(row["predicted_count"]) for row in rows[:2]] == counts(toy(), samples)
    assert [row["predicted_count"] for row in rows[:2]] == [row["predicted_count"] for row in rows[2:4]]
    assert rows[4]["predicted_count"] != rows[0]["predicted_count"]


def test_predicting_twice_gives_the_same_bytes_and_times_lie_beside_them(run_folder: Path, tmp_path: Path) -> None:
    samples = samples_of([(32, 56), (56, 80)])
    for name in ("a", "b"):
        predict_run(run_folder, samples, tmp_path / f"{name}.csv", picture)
    assert (tmp_path / "a.csv").read_bytes() == (tmp_path / "b.csv").read_bytes()
    timing = json.loads((tmp_path / "a.timing.json").read_text())
    assert timing["selections"]["last"]["images"] == 2
    assert set(timing["selections"]["last"]["seconds_per_image"]) == {"s0", "s1"}


def test_a_run_that_was_not_trained_is_named(tmp_path: Path) -> None:
    with pytest.raises(ResultsError, match=r"run\.json: no such file: this run is not trained"):
        predict_run(tmp_path, samples_of([(32, 32)]), tmp_path / "p.csv", picture)


def test_changed_weights_are_refused(run_folder: Path, tmp_path: Path) -> None:
    save_file({"x": torch.zeros(1)}, run_folder / "model.safetensors")
    with pytest.raises(UserError, match=r"model\.safetensors: sha256 is not the one"):
        predict_run(run_folder, samples_of([(32, 32)]), tmp_path / "p.csv", picture)
    assert not (tmp_path / "p.csv").exists()


def test_weights_that_do_not_fit_the_settings_are_refused(run_folder: Path, tmp_path: Path) -> None:
    record = read_run_record(run_folder)
    record.settings["cell"] = 4
    record.write(run_folder / "run.json")
    with pytest.raises(UserError, match="does not fit the settings"):
        predict_run(run_folder, samples_of([(32, 32)]), tmp_path / "p.csv", picture)


def test_settings_that_an_older_recount_had_are_one_line(run_folder: Path, tmp_path: Path) -> None:
    record = read_run_record(run_folder)
    record.settings["gone"] = 4
    record.write(run_folder / "run.json")
    with pytest.raises(UserError, match=r"run\.json: settings\.gone: .*another recount trained it"):
        predict_run(run_folder, samples_of([(32, 32)]), tmp_path / "p.csv", picture)


def test_a_failed_prediction_leaves_no_file(run_folder: Path, tmp_path: Path) -> None:
    def broken(sample: Sample) -> Tensor:
        raise OSError("no")

    with pytest.raises(OSError, match="no"):
        predict_run(run_folder, samples_of([(32, 32)]), tmp_path / "out" / "p.csv", broken)
    assert not (tmp_path / "out").exists() or not list((tmp_path / "out").iterdir())


def test_a_benchmark_without_samples_is_refused(run_folder: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no samples"):
        predict_run(run_folder, [], tmp_path / "p.csv", picture)


# -------------------------------------------------------------------------------------------------- maps for figures


@given(st.integers(1, 700), st.integers(1, 700))
@settings(max_examples=30)
def test_a_shrunk_map_keeps_the_count_and_has_at_most_256_cells_a_side(height: int, width: int) -> None:
    density = torch.rand(1, height, width, generator=torch.Generator().manual_seed(height))
    small = shrunk(density)
    assert max(small.shape) <= 256
    assert float(small.double().sum()) == pytest.approx(float(density.double().sum()), rel=1e-5)


def test_a_map_for_display_keeps_the_count_that_the_official_display_changes() -> None:
    case = golden("crowd_eval")["cases"]["display_resize"]
    density = torch.tensor(case["inputs"]["map"], dtype=torch.float32).repeat_interleave(200, 1)[None] / 200
    assert case["outputs"]["sum_after"] != case["outputs"]["sum_before"]
    assert shrunk(density).shape == (1, 1, 200)
    assert float(shrunk(density).sum()) == pytest.approx(case["outputs"]["sum_before"], rel=1e-5)


def predicted(count: float, error: float, name: str, side: int = 4) -> Predicted:
    sample = Sample(name, "test", None, np.zeros((0, 2), np.float32), count, "", 32, 32)
    return Predicted(sample, count + error, 0.1, torch.ones(1, side, side))


def test_maps_of_quantiles_and_of_best_median_and_worst_cases_are_kept_first(monkeypatch: pytest.MonkeyPatch) -> None:
    rows = [predicted(count=k, error=(k - 13) ** 2 + 1, name=f"s{k:02}") for k in range(41)]
    monkeypatch.setattr(predict, "MAP_BYTES", 7 * 32)
    assert set(kept_maps(rows)) == {"s00", "s10", "s20", "s30", "s40", "s13", "s23"}


def test_all_maps_are_kept_while_there_is_room() -> None:
    rows = [predicted(k, 0, f"s{k}") for k in range(5)]
    kept = kept_maps(rows)
    assert sorted(kept) == [f"s{k}" for k in range(5)]
    assert all(values.shape == (4, 4) and values.dtype == np.float16 for values in kept.values())


def test_a_run_s_maps_are_stored_by_selection_and_sample(run_folder: Path, tmp_path: Path) -> None:
    samples = samples_of([(32, 56), (56, 80)])
    predict_run(run_folder, samples, tmp_path / "p.csv", picture, maps=tmp_path / "p.npz")
    with np.load(tmp_path / "p.npz", allow_pickle=False) as stored:
        assert set(stored.files) == {
            f"{selection}/{name}" for selection in ("last", "best_on_test", "best_on_held_out") for name in ("s0", "s1")
        }
        total = float(stored["last/s1"].astype(np.float64).sum())
    row = next(row for row in csv_rows(tmp_path / "p.csv") if (row["selection"], row["id"]) == ("last", "s1"))
    assert total == pytest.approx(float(row["predicted_count"]), rel=1e-3)


def test_a_benchmark_of_the_project_is_predicted_from_its_index(run_folder: Path, tmp_path: Path) -> None:
    project = make_project(tmp_path / "project")
    write_pictures(project, [(56, 64), (32, 32)])
    run = finished(project, run_folder)
    output = predict_benchmark(project, run, "shown/test")
    assert output == project.root / "results/small/predictions/dots/test/good/full/seed0.csv"
    rows = [row for row in csv_rows(output) if row["selection"] == "last"]
    told = [(row["id"], row["image"], float(row["true_count"])) for row in rows]
    assert told == [("s0", "s0.png", 0), ("s1", "s1.png", 1)]
    expected = counts(toy(), samples_of([(56, 64), (32, 32)]))
    assert [float(row["predicted_count"]) for row in rows] == pytest.approx(expected)
    with np.load(project.root / "results/small/maps/dots/test/good/full/seed0.npz") as stored:
        assert "last/s0" in stored.files
    chain = Chain(project)
    found, timing = chain.predictions(run, "shown/test")
    assert found.keys() == timing.made.models.keys() == {"last", "best_on_test", "best_on_held_out"}
    assert chain.maps(run, "shown/test") == project.root / "results/small/maps/dots/test/good/full/seed0.npz"


def finished(project: Project, run_folder: Path) -> Run:
    """Put a finished run in the place of the project's good/full/seed0, made from the data that are there."""
    run = project.run("good", "full", 0)
    shutil.copytree(run_folder, project.root / project.run_folder(run))
    complete_run(project, run)
    return run


def write_pictures(project: Project, sizes: list[tuple[int, int]]) -> None:
    """Write an index with pictures whose pixels are those of ``picture``."""
    folder = project.root / project.data / "dots" / "original"
    rows = []
    for s in samples_of(sizes):
        Image.fromarray(picture(s).permute(1, 2, 0).numpy()).save(folder / f"{s.id}.png")
        rows.append([s.id, "test", f"{s.id}.png", "", s.count, s.width, s.height, "", "", "{}"])
    write_index_rows(project.root, rows)


def test_a_benchmark_that_a_run_is_not_evaluated_on_is_refused(tmp_path: Path) -> None:
    project = make_project(tmp_path)
    with pytest.raises(UserError, match=r"good/full/seed0 is not evaluated on hidden/test.*it is on: shown/test"):
        predict_benchmark(project, project.run("good", "full", 0), "hidden/test")


def test_a_sample_without_a_picture_cannot_be_predicted(run_folder: Path, tmp_path: Path) -> None:
    project = make_project(tmp_path / "project")
    run = finished(project, run_folder)
    with pytest.raises(UserError, match="6 of 6 samples have only their annotation here"):
        predict_benchmark(project, run, "shown/test")


def test_a_run_that_was_made_from_other_data_is_not_read(run_folder: Path, tmp_path: Path) -> None:
    project = make_project(tmp_path / "project")
    run = finished(project, run_folder)
    write_pictures(project, [(56, 64), (32, 32)])
    with pytest.raises(
        UserError, match=r"run\.json: stale: made from other data \(dots/original\).*`recount train good"
    ):
        predict_benchmark(project, run, "shown/test")


@pytest.mark.parametrize(("own", "used"), [(None, "bf16"), ("fp32", "fp32")])
def test_a_run_is_predicted_in_the_precision_in_which_its_recipe_evaluates(
    run_folder: Path, tmp_path: Path, own: str | None, used: str
) -> None:
    record = read_run_record(run_folder)
    record.recipe |= {"precision": "bf16", "evaluation_precision": own}
    record.write(run_folder / "run.json")
    predict_run(run_folder, samples_of([(32, 32)]), tmp_path / "p.csv", picture)
    assert json.loads((tmp_path / "p.timing.json").read_text())["precision"] == used


def test_fp16_on_the_processor_becomes_fp32_and_says_so(
    run_folder: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    predict_run(run_folder, samples_of([(32, 32)]), tmp_path / "p.csv", picture, precision="fp16")
    assert "fp16 needs a GPU" in caplog.text
    assert json.loads((tmp_path / "p.timing.json").read_text())["precision"] == "fp32"
