"""``recount count``: pictures go the way of the run's training pictures; what cannot be counted says why."""

import logging
import math
from collections.abc import Iterator, Mapping
from contextlib import chdir
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from PIL import Image
from typer.testing import CliRunner

import records
from projects import csv_rows
from recount import datasets, systems
from recount.cli import app
from recount.data.dataset import Dataset
from recount.data.index import read_index
from recount.data.pictures import Picture, load_image
from recount.data.prepare import prepare
from recount.data.sample import RawSample, Sample
from recount.data.size_rules import ORIGINAL_SIZE, SizeRule, clip_ebc
from recount.errors import UserError
from recount.exchange import counting
from recount.prediction.samples import predict_samples
from recount.results.run_record import RunRecord
from recount.settings.project import Project, load
from recount.systems.base import System

ROOT = Path(__file__).parents[2]
count = partial(counting.count, anyway=True)  # these runs know drawn scenes alone
ORIGINAL = {"dataset": "crowd", "split": "train", "preparation": "original"}


@pytest.fixture
def project(tmp_path: Path) -> Project:
    return load(ROOT, {"results": str(tmp_path / "results"), "device": "cpu", "suite": "mini"})


def save_run(
    project: Project,
    name: str,
    training: dict[str, str] = ORIGINAL,
    selections: tuple[str, ...] = ("last",),
    seed: int = 3,
    variant: str = "full",
    **settings: Any,
) -> System:
    """Write the folder of a run ``<name>/<variant>/seed0`` with random weights; return its system, not training."""
    torch.manual_seed(seed)
    system_class = systems.load(name)
    system = system_class(system_class.Settings.model_validate({**system_class.mini_settings(), **settings})).eval()
    folder = project.root / project.results / "runs" / name / variant / "seed0"
    models = dict.fromkeys(selections, system.state_dict())
    known = system.settings.model_dump(mode="json")
    records.save_run(folder, f"{name}/{variant}/seed0", models, training=training, recipe=system.recipe, **known)
    return system


def noise(width: int, height: int) -> Image.Image:
    rng = np.random.default_rng(width * height)
    coarse = Image.fromarray(rng.integers(0, 255, (9, 12, 3), dtype=np.uint8))
    return coarse.resize((width, height), Image.Resampling.BICUBIC)


@pytest.fixture
def photo(tmp_path: Path) -> Path:
    noise(192, 96).save(tmp_path / "photo.png")
    return tmp_path / "photo.png"


class OnePhoto(Dataset):
    """A data set of one picture, with a rule that resizes and saves JPEG."""

    name, title, licence, splits = "one_photo", "one photo", "none", ("test",)
    preparations: ClassVar[Mapping[str, SizeRule]] = {"original": ORIGINAL_SIZE, "clip_ebc": clip_ebc(96, 160)}

    def read(self, raw: Path) -> Iterator[RawSample]:
        yield RawSample("photo", "test", raw / "photo.png", np.zeros((0, 2), np.float32), 0.0)


def test_a_picture_is_counted_as_prepared_and_predicted(
    project: Project, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(datasets, "names", lambda: ["one_photo"])
    monkeypatch.setattr(datasets, "load", lambda name: OnePhoto())
    (tmp_path / "raw" / "one_photo").mkdir(parents=True)
    picture = tmp_path / "raw" / "one_photo" / "photo.png"
    noise(333, 250).save(picture)
    training = {"dataset": "one_photo", "split": "test", "preparation": "clip_ebc"}
    system = save_run(project, "gigacount", training)
    (sample,) = read_index(prepare(OnePhoto(), "clip_ebc", tmp_path / "raw", tmp_path / "data"))
    (predicted,) = predict_samples(system, [sample], lambda entry: load_image(entry.image or Path()))
    (counted,) = count(project, "gigacount/full/seed0", [picture]).counted
    assert (counted.width, counted.height) == (sample.width, sample.height) != (333, 250)
    assert counted.count == pytest.approx(predicted.count, abs=1e-5)


def test_a_picture_that_does_not_fit_whole_cells_is_resized_to_them(project: Project, tmp_path: Path) -> None:
    save_run(project, "gigacount")
    noise(203, 155).save(tmp_path / "odd.png")
    (counted,) = count(project, "gigacount/full/seed0", [tmp_path / "odd.png"]).counted
    assert (counted.width, counted.height) == (200, 152)
    assert math.isfinite(counted.count)


def test_a_picture_smaller_than_a_window_is_counted_as_it_is(project: Project, tmp_path: Path) -> None:
    save_run(project, "gigacount")
    noise(50, 31).save(tmp_path / "small.png")
    (counted,) = count(project, "gigacount/full/seed0", [tmp_path / "small.png"]).counted
    assert (counted.width, counted.height) == (50, 31)
    assert math.isfinite(counted.count)


def test_a_picture_too_small_for_the_network_has_a_problem(project: Project, tmp_path: Path) -> None:
    save_run(project, "mcnn")
    noise(1, 1).save(tmp_path / "dot.png")
    counts = count(project, "mcnn/full/seed0", [tmp_path / "dot.png"])
    assert counts.problems == [f"{tmp_path / 'dot.png'}: 1 x 1 pixels are too few for this system"]


def test_a_picture_that_does_not_fit_into_memory_has_a_problem(
    project: Project, photo: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: Any, **__: Any) -> Iterator[None]:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20 GiB")

    save_run(project, "mcnn")
    monkeypatch.setattr(counting.Asking, "predict", full)
    (problem,) = count(project, "mcnn/full/seed0", [photo]).problems
    assert "192 x 96 pixels do not fit into the memory of cpu" in problem


def test_an_exif_orientation_is_told_and_not_applied(
    project: Project, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    save_run(project, "mcnn")
    turned = Image.Exif()
    turned[0x0112] = 6
    noise(96, 64).save(tmp_path / "upright.jpg")
    noise(96, 64).save(tmp_path / "turned.jpg", exif=turned)
    with caplog.at_level(logging.WARNING):
        upright, other = count(
            project, "mcnn/full/seed0", [tmp_path / "upright.jpg", tmp_path / "turned.jpg"], output=tmp_path / "out"
        ).counted
    assert other.count == upright.count
    assert "turned.jpg: its EXIF orientation is not applied" in caplog.text
    assert "upright.jpg" not in caplog.text


def test_unreadable_pictures_are_named_and_the_others_counted(project: Project, photo: Path, tmp_path: Path) -> None:
    save_run(project, "mcnn")
    (tmp_path / "empty.jpg").write_bytes(b"")
    noise(96, 64).save(tmp_path / "whole.jpg")
    (tmp_path / "cut.jpg").write_bytes((tmp_path / "whole.jpg").read_bytes()[:400])
    names = ("empty.jpg", "cut.jpg", "absent.jpg", "photo.png")
    counts = count(project, "mcnn/full/seed0", [tmp_path / name for name in names], output=tmp_path / "out")
    assert [math.isnan(entry.count) for entry in counts.counted] == [True, True, True, False]
    for name, problem, reason in zip(names, counts.problems, ("0 bytes", "readable", "no such file"), strict=False):
        assert name in problem
        assert reason in problem
    assert counts.csv is not None
    rows = csv_rows(counts.csv)
    assert [bool(row["count"]) for row in rows] == [False, False, False, True]
    assert float(rows[3]["count"]) == counts.counted[3].count
    assert [bool(row["problem"]) for row in rows] == [True, True, True, False]


def test_a_hundred_megapixels_are_brought_to_the_size_of_the_preparation(project: Project, tmp_path: Path) -> None:
    save_run(project, "mcnn", {"dataset": "ucf_qnrf", "split": "train", "preparation": "css_ccnn"})
    Image.new("L", (12_500, 8_000), 90).save(tmp_path / "huge.png")
    (counted,) = count(project, "mcnn/full/seed0", [tmp_path / "huge.png"]).counted
    assert (counted.width, counted.height) == (1024, 656)
    assert math.isfinite(counted.count)


def test_the_overlay_is_the_picture_with_a_line_below_it(project: Project, photo: Path) -> None:
    save_run(project, "gigacount")
    counts = count(project, "gigacount/full/seed0", [photo])
    assert counts.csv is None
    assert counts.counted[0].overlay == photo.with_name("photo.png.recount.png")
    drawn = np.array(Image.open(photo.with_name("photo.png.recount.png")))
    assert drawn.shape[1] == 2 * 192  # small pictures are enlarged
    assert drawn.shape[0] > 2 * 96
    assert (drawn[2 * 96 :] > 200).any()
    assert not np.array_equal(drawn[: 2 * 96 : 2, ::2], np.array(Image.open(photo)))


@pytest.mark.skipif("transparent" not in Picture.__slots__, reason="pictures are not laid on white by this recount")
def test_what_transparency_hides_is_not_counted(project: Project, photo: Path) -> None:
    save_run(project, "mcnn")
    for name, hidden in (("black", 0), ("white", 255)):
        layer = np.full((64, 64, 4), hidden, np.uint8)
        layer[:, :32, :3], layer[:, :, 3] = 90, 0
        layer[:, :32, 3] = 255
        Image.fromarray(layer).save(photo.with_name(f"{name}.png"))
    paths = [photo.with_name(f"{name}.png") for name in ("black", "white")]
    black, white = count(project, "mcnn/full/seed0", paths, output=photo.parent).counted
    assert black.count == white.count


def test_a_picture_of_sixteen_bits_is_refused(project: Project, photo: Path) -> None:
    save_run(project, "mcnn")
    Image.fromarray(np.full((64, 64), 40_000, np.uint16)).save(photo.with_name("deep.png"))
    (problem,) = count(project, "mcnn/full/seed0", [photo.with_name("deep.png")]).problems
    assert "deep.png: mode I;16 has more than 8 bits per channel; convert it" in problem


def test_overlays_of_an_earlier_count_are_left_out(
    project: Project, photo: Path, caplog: pytest.LogCaptureFixture
) -> None:
    save_run(project, "mcnn")
    noise(64, 64).save(photo.with_name("other.png"))
    first = count(project, "mcnn/full/seed0", sorted(photo.parent.glob("*.png")), output=photo.parent)
    with caplog.at_level(logging.INFO):
        again = count(project, "mcnn/full/seed0", sorted(photo.parent.glob("*.png")), output=photo.parent)
    assert "2 overlays of an earlier count (.recount.png) are left out" in caplog.text
    assert [(entry.image, entry.count) for entry in again.counted] == [(e.image, e.count) for e in first.counted]
    assert again.csv is not None
    assert len(csv_rows(again.csv)) == len(again.counted) == 2
    with pytest.raises(UserError, match=r"nothing to count: what ends in \.recount\.png is an overlay"):
        count(project, "mcnn/full/seed0", [photo.with_name("photo.png.recount.png")])


def test_a_name_too_long_for_an_overlay_loses_only_the_overlay(project: Project, photo: Path) -> None:
    save_run(project, "mcnn")
    named = photo.with_name("n" * 248 + ".png")
    photo.rename(named)
    noise(64, 64).save(photo)
    counts = count(project, "mcnn/full/seed0", [named, photo], output=photo.parent)
    assert [entry.overlay is None for entry in counts.counted] == [True, False]
    assert all(math.isfinite(entry.count) for entry in counts.counted)
    (problem,) = counts.problems
    assert "cannot be written: File name too long: shorten the name" in problem


@pytest.mark.parametrize("name", ["=1+1.png", "+cmd.png", "@x.png"])
def test_a_pictures_name_is_no_formula_in_the_csv(project: Project, photo: Path, name: str) -> None:
    save_run(project, "mcnn")
    noise(64, 64).save(photo.with_name(name))
    with chdir(photo.parent):
        table = count(project, "mcnn/full/seed0", [Path(name)], output=Path("out")).csv
        assert table is not None
        assert csv_rows(table)[0]["image"] == f"'{name}"


def test_the_density_is_drawn_where_it_is(tmp_path: Path) -> None:
    density = torch.zeros(1, 10, 20)
    density[0, 2, 4] = 1.0
    black = Image.new("RGB", (200, 100))
    sample = Sample("x", "", None, np.zeros((0, 2), np.float32), math.nan, "", 200, 100)
    drawn = np.array(counting._overlay(black, counting.Predicted(sample, 1.0, 0.0, density=density), "1")).sum(axis=2)
    row, column = np.unravel_index(drawn[:200].argmax(), (200, 400))
    assert abs(row - 50) <= 10
    assert abs(column - 90) <= 10


def test_several_pictures_of_one_name_do_not_overwrite_each_other(
    project: Project, photo: Path, tmp_path: Path
) -> None:
    save_run(project, "mcnn")
    with pytest.raises(UserError, match=r"photo\.png\.recount\.png: count them in separate calls"):
        count(project, "mcnn/full/seed0", [photo, tmp_path / "other" / "photo.png"], output=tmp_path / "out")


def test_a_missing_run_lists_those_there_are(project: Project, photo: Path) -> None:
    with pytest.raises(UserError, match="nothing is trained there yet"):
        count(project, "gigacount/full/seed7", [photo])
    save_run(project, "mcnn")
    with pytest.raises(UserError, match="trained are: mcnn/full/seed0"):
        count(project, "gigacount/full/seed7", [photo])


def test_a_run_that_reads_anothers_training_counts_with_it_in_its_own_way(
    project: Project, photo: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = []

    def load_run(folder: Path, reading: Mapping[str, Any]) -> tuple[RunRecord, System]:
        record, system = loaded(folder, reading)
        asked.append((folder.parent.name, system.settings.model_dump()["carpk_cell_rule"]))
        return record, system

    loaded = counting.load_run
    monkeypatch.setattr(counting, "load_run", load_run)
    with pytest.raises(UserError, match="`recount train vlcounter/as_released/seed0` trains it"):
        count(project, "vlcounter/no_cell_rule/seed0", [photo], prompt="stars")
    save_run(project, "vlcounter", variant="as_released", weights="random")
    for variant in ("as_released", "no_cell_rule"):
        (counted,) = count(project, f"vlcounter/{variant}/seed0", [photo], prompt="stars").counted
        assert math.isfinite(counted.count)
    assert asked == [("as_released", True), ("as_released", False)]


@pytest.mark.parametrize("run", ["gigacount", "../../etc/seed0", "a/b/c/seed0", "gigacount/full/0"])
def test_a_run_that_is_none_is_refused(project: Project, photo: Path, run: str) -> None:
    with pytest.raises(UserError, match="expected SYSTEM/VARIANT/seedK"):
        count(project, run, [photo])


def test_weights_are_the_best_there_are_unless_others_are_named(project: Project, photo: Path) -> None:
    save_run(project, "mcnn", selections=("last", "best_on_test"))
    assert count(project, "mcnn/full/seed0", [photo]).selection == "best_on_test"
    assert count(project, "mcnn/full/seed0", [photo], selection="last").selection == "last"
    with pytest.raises(UserError, match="it has: last, best_on_test"):
        count(project, "mcnn/full/seed0", [photo], selection="best_on_held_out")


def test_a_text_guided_run_needs_a_prompt_and_no_other_takes_one(project: Project, photo: Path) -> None:
    save_run(project, "countclip", weights="random")
    save_run(project, "mcnn")
    with pytest.raises(UserError, match="say what, for instance --prompt"):
        count(project, "countclip/full/seed0", [photo], prompt=" ")
    with pytest.raises(UserError, match="reads no prompt"):
        count(project, "mcnn/full/seed0", [photo], prompt="people")


def test_a_prompt_outside_the_vocabulary_says_which_words_are_known(project: Project, photo: Path) -> None:
    save_run(project, "t2icount", weights="random")
    with pytest.raises(UserError, match=r"does not know zeppelins; it knows: .*stars"):
        count(project, "t2icount/full/seed0", [photo], prompt="zeppelins")


def test_t2icount_counts_what_the_prompt_names(project: Project, photo: Path) -> None:
    save_run(project, "t2icount", seed=5, weights="random")  # whose density is not cut off at 0
    (stars,) = count(project, "t2icount/full/seed0", [photo], prompt="red stars").counted
    (other,) = count(project, "t2icount/full/seed0", [photo], prompt="blue squares").counted
    assert math.isfinite(stars.count)
    assert stars.count != other.count


def test_countclip_counts_by_a_caption_with_a_number_word(project: Project, photo: Path) -> None:
    save_run(project, "countclip", weights="random")
    (counted,) = count(project, "countclip/full/seed0", [photo], prompt="three red stars").counted
    assert counted.count in range(2, 11)
    with pytest.raises(UserError, match="exactly one of the words two, three"):
        count(project, "countclip/full/seed0", [photo], prompt="red stars")


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU here")
def test_a_wanted_card_that_is_not_there_is_an_error(project: Project, photo: Path) -> None:
    save_run(project, "mcnn")
    wanted = load(ROOT, {"results": project.config.results, "device": "cuda", "suite": "mini"})
    with pytest.raises(UserError, match="device is cuda, but nvidia-smi names no card"):
        count(wanted, "mcnn/full/seed0", [photo])


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_a_card_counts_as_the_processor_does(project: Project, photo: Path) -> None:
    save_run(project, "gigacount")
    (on_processor,) = count(project, "gigacount/full/seed0", [photo]).counted
    card = load(
        ROOT, {"results": project.config.results, "device": "cuda", "suite": "mini", "evaluation_precision": "fp32"}
    )
    (on_card,) = count(card, "gigacount/full/seed0", [photo]).counted
    assert on_card.count == pytest.approx(on_processor.count, rel=1e-3)


def test_the_command_prints_counts_and_fails_where_one_is_missing(
    project: Project, photo: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save_run(project, "mcnn")
    monkeypatch.chdir(ROOT)
    place = [
        "--config",
        f"results={project.config.results}",
        "--config",
        "device=cpu",
        "--output",
        str(tmp_path),
        "--anyway",
    ]
    good = CliRunner().invoke(app, ["count", str(photo), "--run", "mcnn/full/seed0", *place])
    assert good.exit_code == 0, good.output
    assert f"{photo}: " in good.stdout
    assert str(tmp_path / "recount_counts.csv") in good.stdout
    bad = CliRunner().invoke(app, ["count", str(photo), "gone.jpg", "--run", "mcnn/full/seed0", *place])
    assert bad.exit_code == 1
    assert "gone.jpg: no such file" in bad.output
    assert f"{photo}: " in bad.stdout
    assert "was trained on crowd/train (Drawn street and stadium crowds)" in good.stderr
    refused = CliRunner().invoke(app, ["count", str(photo), "--run", "mcnn/full/seed0", *place[:-1]])
    assert refused.exit_code == 1 and "photo.png is no picture of it" in refused.output and "--anyway" in refused.output


def test_what_a_run_was_trained_for_is_counted_without_asking(tmp_path: Path) -> None:
    project = load(ROOT, {"results": str(tmp_path / "results"), "resources": str(tmp_path), "device": "cpu"})
    index = prepare(datasets.load("shapes"), "original", project.root / project.raw, project.root / project.data)
    sample, *_ = read_index(index, "train")
    save_run(project, "t2icount", {"dataset": "shapes", "split": "train", "preparation": "original"})
    assert sample.image is not None
    own = partial(counting.count, project, "t2icount/full/seed0", [sample.image], output=tmp_path)
    assert "Coloured shapes" in own(prompt=sample.prompt).trained_on
    with pytest.raises(UserError, match=r"it was never asked for 'red dragons'.*--anyway"):
        own(prompt="red dragons")


def test_the_photograph_shows_through_the_density_which_has_a_scale() -> None:
    white = Image.new("RGB", (200, 100), "white")
    sample = Sample("x", "", None, np.zeros((0, 2), np.float32), math.nan, "", 200, 100)
    density = torch.full((1, 10, 20), 0.02)
    predicted = partial(counting.Predicted, sample, 4.0, 0.0)
    with_density = np.array(counting._overlay(white, predicted(density=density), "4"))
    without = np.array(counting._overlay(white, predicted(), "4"))
    assert with_density[:200].min() > 90  # of 255: nowhere covered
    assert len(with_density) > len(without)
    colours = with_density[len(without) :].astype(int)
    assert (np.ptp(colours, axis=2) > 30).any()  # the scale's; text is grey
