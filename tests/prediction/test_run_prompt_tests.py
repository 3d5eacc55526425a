"""Tests of the step ``test_prompts``: one job per run, a JSON file of scores and a file of maps."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

from links import complete_run
from records import save_run
from recount.chain import Chain
from recount.data.sample import Sample
from recount.data.windows import Windows
from recount.errors import UserError
from recount.prediction.run_prompt_tests import chosen_samples, run_prompt_tests
from recount.settings.project import Project
from recount.systems.base import Prediction
from small_project import EXPERIMENTS, SUITE, let_good_be, make_project, write_index_rows
from small_systems import OnlyPredicts

COLOURS = ("reds", "greens", "blues")
EDGE, CELL = 32, 8


class Reader(OnlyPredicts):
    """Counts lit cells of the colour that it is asked for; a weight says how strongly it reads its prompt at all."""

    text_guided = True
    windows = Windows(EDGE, EDGE, EDGE, stitch="average_pixels")

    def __init__(self, settings: Any) -> None:
        super().__init__(settings)
        self.reading = nn.Parameter(torch.tensor(1.0))

    def restore_base_weights(self) -> bool:
        with torch.no_grad():
            self.reading.fill_(0.0)
        return True

    def foreground(self, sample: Sample) -> tuple[Tensor, int]:
        cells = torch.zeros(EDGE // CELL, EDGE // CELL, dtype=torch.bool)
        for x, y in (sample.points // CELL).astype(int):
            cells[y, x] = True
        return cells, CELL

    def predict(self, images: Tensor, prompts: Sequence[str]) -> Prediction:
        lit = nn.functional.avg_pool2d(images, CELL)
        own = torch.stack([image[COLOURS.index(name)] for image, name in zip(lit, prompts, strict=True)])[:, None]
        density = self.reading * own + (1 - self.reading) * lit.sum(dim=1, keepdim=True)
        return Prediction(density=density, maps={"attention": density.clip(max=1), "S2": density})


def picture(counts: dict[str, int]) -> Image.Image:
    """Return a picture with so many lit cells of each colour, one row of cells for each."""
    values = np.zeros((EDGE, EDGE, 3), np.uint8)
    for row, (name, number) in enumerate(counts.items()):
        values[row * CELL : (row + 1) * CELL, : number * CELL, COLOURS.index(name)] = 255
    return Image.fromarray(values)


def write_data(root: Path) -> None:
    """Write four pictures that ask for their majority (split test), and the same ones asked for a minority."""
    folder = root / "resources/data/dots/original"
    for name in ("images", "points"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    rows = []
    for k, counts in enumerate(({"reds": 4, "greens": 1}, {"greens": 3, "blues": 2}, {"reds": 2}, {"blues": 4})):
        picture(counts).save(folder / "images" / f"{k}.png")
        for place, (name, number) in enumerate(counts.items()):
            centres = [(column * CELL + 4, place * CELL + 4) for column in range(number)]
            np.save(folder / "points" / f"{k}{name}.npy", np.array(centres, np.float32))
            attributes = json.dumps({"counts": counts})
            split = "minority" if place else "test"
            size = [EDGE, EDGE, f"points/{k}{name}.npy", "", attributes]
            rows.append([f"{split}{k}", split, f"images/{k}.png", name, number, *size])
    write_index_rows(root, rows)


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Project:
    """Return a project whose run good/full is finished and prompt-tested on two benchmarks."""
    let_good_be(Reader, monkeypatch)
    tested = {"shown/test": ["negative_prompts", "mosaics", "maps"], "hidden/test": ["pairs"], "else/test": ["pairs"]}
    experiments = {**EXPERIMENTS, "good": {**EXPERIMENTS["good"], "prompt_tests": tested}}
    minority = {"dataset": "dots", "split": "minority"}
    suite = {**SUITE, "benchmarks": {**SUITE["benchmarks"], "hidden/test": minority}}
    project = make_project(tmp_path, experiments=experiments, suite=suite)
    write_data(tmp_path)
    blind, reads = {"reading": torch.tensor(0.0)}, {"reading": torch.tensor(1.0)}
    run = project.run("good", "full", 0)
    models = {"last": blind, "best_on_test": blind, "best_on_held_out": reads}
    save_run(project.root / project.run_folder(run), "good/full/seed0", models)
    complete_run(project, run)
    return project


def found_in(project: Project) -> dict[str, Any]:
    """Return all prompt tests of the run, as one file."""
    run = project.run("good", "full", 0)
    files = [json.loads(run_prompt_tests(project, run, benchmark).read_text()) for benchmark in run.prompt_tests]
    return files[0] | {"benchmarks": {name: tests for file in files for name, tests in file["benchmarks"].items()}}


def test_every_benchmark_of_this_suite_has_its_file(project: Project) -> None:
    found = found_in(project)
    assert found["made"]["run"] == "good/full/seed0"
    assert set(found["benchmarks"]) == {"shown/test", "hidden/test"}  # nothing stands for else/test
    shown = found["benchmarks"]["shown/test"]
    assert (shown["dataset"], shown["split"]) == ("dots", "test")
    assert {"negative_prompts", "mosaics", "maps", "maps_before_training"} <= shown.keys()
    assert "pairs" in found["benchmarks"]["hidden/test"]
    assert Chain(project).prompt_tests(project.run("good", "full", 0), "shown/test").selection == found["selection"]


def test_the_weights_are_never_those_chosen_on_test(project: Project) -> None:
    found = found_in(project)
    assert found["selection"] == "best_on_held_out"
    assert found["benchmarks"]["shown/test"]["negative_prompts"]["nmn"] == pytest.approx(0.0)  # it reads its prompt


def test_pairs_are_of_the_pictures_majority_and_its_prompt(project: Project) -> None:
    rows = found_in(project)["benchmarks"]["hidden/test"]["pairs"]["pictures"]
    asked = [(row["majority"], row["minority"], row["absent"]) for row in rows]
    assert asked == [("reds", "greens", "blues"), ("greens", "blues", "reds")]
    assert [row["majority_predicted"] for row in rows] == pytest.approx([4, 3])
    assert [row["minority_predicted"] for row in rows] == pytest.approx([1, 2])


def test_attention_before_training_is_that_of_the_base_weights(project: Project) -> None:
    shown = found_in(project)["benchmarks"]["shown/test"]
    assert shown["maps"]["auc"]["attention"] == 1.0
    before = shown["maps_before_training"]["auc"]
    assert before["attention"] < 1.0  # blind to the prompt, it also looks at the minority
    assert list(before) == ["attention"]  # nothing else comes from the base weights alone


def test_maps_of_two_prompts_lie_beside_the_scores(project: Project) -> None:
    run = project.run("good", "full", 0)
    path = run_prompt_tests(project, run, "hidden/test").with_suffix(".npz")
    assert Chain(project).prompt_maps(run, "hidden/test") == path
    with np.load(path) as stored:
        assert set(stored.files) == {
            f"dots/minority/minority{k}/{prompt}/{name}"
            for k in (0, 1)
            for prompt in ("majority", "minority")
            for name in ("density", "attention", "S2")
        }
        assert stored["dots/minority/minority0/majority/density"].sum() == pytest.approx(4, rel=1e-3)
        assert stored["dots/minority/minority0/minority/density"].dtype == np.float16


def test_probing_twice_gives_the_same_bytes(project: Project) -> None:
    run = project.run("good", "full", 0)
    first = run_prompt_tests(project, run, "shown/test").read_bytes()
    assert run_prompt_tests(project, run, "shown/test").read_bytes() == first


def test_a_run_that_has_no_prompt_tests_is_refused(project: Project) -> None:
    bare = project.run("good", "full", 0).model_copy(update={"prompt_tests": {}})
    with pytest.raises(UserError, match="prompt_tests"):
        run_prompt_tests(project, bare, "shown/test")


# ------------------------------------------------------------------------------------------------- which pictures


def row(prompt: str, count: float, **counts: int) -> Sample:
    points = np.zeros((int(count), 2), np.float32)
    return Sample(prompt, "test", None, points, count, prompt, EDGE, EDGE, attributes={"counts": counts})


def test_a_test_that_a_benchmark_cannot_bear_says_why() -> None:
    assert "asks for" in str(chosen_samples("negative_prompts", [row("reds", 2), row("reds", 1)], None))
    assert "more of another class" in str(chosen_samples("pairs", [row("reds", 3, greens=1)], None))
    listed = Sample("a", "test", None, np.zeros((0, 2), np.float32), 3.0, "reds", EDGE, EDGE)
    assert "counts only" in str(chosen_samples("maps", [listed], None))


def test_pictures_are_thinned_out_to_the_suites_number() -> None:
    samples = [row(name, 2) for name in ("reds", "greens", "blues")]
    assert [sample.prompt for sample in chosen_samples("mosaics", samples, 2)] == ["reds", "blues"]  # type: ignore[union-attr]
    assert len(chosen_samples("maps", samples, 1)) == 1
