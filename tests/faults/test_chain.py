"""Mixed provenance: one link in the middle of a real chain is changed, and nothing behind it is believed."""

import json
import logging
import os
import random
import re
import shutil
import textwrap
from collections.abc import Callable, Iterator
from dataclasses import asdict
from pathlib import Path

import pytest
from accelerate.state import AcceleratorState
from typer.testing import CliRunner

from prepared import written_pictures
from projects import ROOT, experiment, write_project
from recount import doctor, provenance
from recount.chain import Chain, Unfit
from recount.cli import app
from recount.data.dataset import MANIFEST, DataError, Dataset, RemoteFile
from recount.data.index import read_index
from recount.data.pictures import load_image
from recount.data.sample import RawSample
from recount.errors import UserError
from recount.fetching.ledger import Fetched
from recount.jobs import attempt
from recount.judging.judge import judge
from recount.papers import part
from recount.prediction.predict import predict_benchmark
from recount.report.sources import Sources
from recount.report.write import write_report
from recount.results.attempts import predict_job
from recount.results.files import Made, write_text
from recount.results.predictions import Timing, timing_path
from recount.results.prepared import RAW as RAW_LIST
from recount.results.prepared import RAW_FILES, SUMMARY, RawFile, Summary
from recount.results.prompt_tests import PromptTests
from recount.results.run_record import HISTORY, RunRecord
from recount.results.scores import SCORES
from recount.scoring.score import score
from recount.settings.project import Project, load
from recount.training import checkpoints
from recount.training.run import train
from recount.verify import Verification, mend

TRAIN, TEST = "ucf_qnrf/train", "ucf_qnrf/test"
VARIANTS = {"rgb": "MCNN", "slow": {"label": "slower", "recipe": {"optimiser": {"lr": 1e-5}}}}
EXPERIMENTS = {
    "mcnn": experiment("MCNN", VARIANTS, trained_on=TRAIN, evaluated_on=[TEST], selected_on_test=TEST),
}
PAPER = {"tables": {"table1": {"title": "Table 1", "on": TEST, "metrics": ["mae"], "rows": ["mcnn/rgb", "mcnn/slow"]}}}
RECIPE = {"epochs": 2, "evaluate_every": 1, "evaluate_from": 0}
SUITE = {
    "title": "small",
    "comparable": False,
    "why_not_comparable": "it is a test",
    "benchmarks": {TRAIN: {"dataset": "crowd", "split": "train"}, TEST: {"dataset": "crowd", "split": "test"}},
    "systems": {"mcnn": {"size": "mini", "recipe": RECIPE}},
}
DATA = Path("resources/data/crowd/original")
RUN = Path("results/small/runs/mcnn/rgb/seed0")
PREDICTIONS = Path("results/small/predictions/crowd/test/mcnn/rgb/seed0.csv")


def write_data(root: Path, shift: int = 0) -> None:
    """Write six pictures with points, as ``recount prepare`` does; ``shift`` moves one point of one picture."""
    written_pictures(root / DATA, ["train"] * 4 + ["test"] * 2, shift)


def trained(project: Project, variant: str, seed: int = 0) -> None:
    """Train and predict a run, as its jobs do."""
    run = project.run("mcnn", variant, seed)
    train(project, run)
    AcceleratorState._reset_state(reset_partial_state=True)
    predict_benchmark(project, run, TEST)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("whole")
    config = {"suite": "small", "training_threads": 1, "checkpoint_minutes": 0}
    write_project(root, experiments=EXPERIMENTS, papers={"paper": PAPER}, suite=SUITE, config=config)
    write_data(root)
    project = load(root)
    for variant in VARIANTS:
        trained(project, variant)
    score(project)
    judge(project)
    return root


@pytest.fixture
def project(whole: Path, tmp_path: Path) -> Iterator[Project]:
    shutil.copytree(whole, tmp_path / "work")
    yield load(tmp_path / "work")
    AcceleratorState._reset_state(reset_partial_state=True)


def cell(project: Project, variant: str = "rgb") -> tuple[str, str]:
    """Score, and return status and kind of reason of a variant's cell."""
    rows = SCORES.read(score(project))
    found = {(row.status, row.reason.kind) for row in rows if row.variant == variant and row.metric == "mae"}
    assert len(found) == 1, found
    return found.pop()


def unfit(project: Project, *, full: bool = False) -> dict[str, str]:
    """Return what ``recount verify`` finds unfit: path below the project -> kind."""
    return {f.path: f.kind for f in Verification(project, full=full).findings() if f.unfit}


def change(path: Path, old: str, new: str) -> None:
    text = path.read_text(encoding="utf-8")
    assert old in text
    write_text(path, text.replace(old, new, 1))


def test_an_unbroken_chain_is_believed(project: Project) -> None:
    assert cell(project) == ("trained", "")
    judge(project)
    assert unfit(project) == unfit(project, full=True) == {}


def test_a_failed_retraining_leaves_nothing_of_the_old_run_in_the_tables(project: Project) -> None:
    with pytest.raises(UserError), attempt(project, "train", "mcnn/rgb/seed0"):
        raise UserError("out of memory")
    assert cell(project) == ("missing", "failed")
    assert cell(project, "slow") == ("trained", "")
    trained(project, "rgb")
    assert cell(project) == ("trained", "")


def test_a_step_that_was_killed_leaves_a_missing_cell_that_says_so(project: Project) -> None:
    with attempt(project, "predict", predict_job(project.run("mcnn", "rgb", 0), TEST)):
        left = next((project.root / "results/small/attempts/predict").iterdir())
        kept = left.read_bytes()
    left.write_bytes(kept)
    assert cell(project) == ("missing", "failed")
    assert unfit(project).keys() <= {"results/small/verdicts.made.json"}


class Absent(Dataset):
    """Of which nothing is to be had."""

    name, title, licence, splits = "crowd", "Crowd", "none", ("train", "test")

    def files(self) -> list[RemoteFile]:
        """Return a file without an address."""
        return [RemoteFile("a.zip")]

    def read(self, raw: Path) -> Iterator[RawSample]:
        """Say that there is no file."""
        raise DataError(f"{raw}: no such file, only by hand")


@pytest.mark.parametrize("job", [("fetch", "crowd"), ("prepare", "crowd", "original")])
def test_a_failed_fetch_or_preparation_over_older_files_is_told(
    project: Project, monkeypatch: pytest.MonkeyPatch, job: tuple[str, ...]
) -> None:
    monkeypatch.setattr("recount.datasets.load", lambda _: Absent())
    monkeypatch.chdir(project.root)
    assert CliRunner().invoke(app, [*job]).exit_code == 1
    told = [f for f in Verification(project).findings() if f.kind == "failed"]
    assert [(f.path.split("/")[2:], f.again) for f in told] == [([*job[1:]], f"`recount {' '.join(job)}` tries again")]
    assert "only by hand" in told[0].why
    assert unfit(project) == {}
    assert [f.subject for f in doctor._failed(project) if "only by hand" in f.found] == ["crowd"]
    page = write_report(project, part).with_name("provenance.html").read_text(encoding="utf-8")
    assert f"The last <code>recount {' '.join(job)}</code> did not end well: {job[0]} failed: " in page
    shutil.rmtree(project.root / DATA)
    assert cell(project) == ("trained", "")  # what was made before is not held against data that are gone
    shutil.rmtree(project.root / "results/small/runs")
    assert cell(project) == ("missing", "failed")


def test_a_benchmark_that_is_misspelt_costs_no_result(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(project.root)
    done = CliRunner().invoke(app, ["predict", "mcnn/rgb/seed0", "ucf_qnrf/tset"])
    assert (done.exit_code, cell(project)) == (1, ("trained", ""))


def test_results_without_a_run_record_are_never_trained(project: Project) -> None:
    (project.root / RUN / "run.json").unlink()
    assert cell(project) == ("missing", "not run")
    assert unfit(project)[str(RUN / "model.safetensors")] == "untracked"


def cut(path: Path) -> None:
    path.write_bytes(b"\n".join(path.read_bytes().splitlines()[:-1]) + b"\n")


def reorder(path: Path) -> None:
    head, *rows = path.read_bytes().splitlines()
    path.write_bytes(b"\n".join([head, *reversed(rows)]) + b"\n")


def other_truth(path: Path) -> None:
    text = path.read_text()
    assert ",6.0," in text
    path.write_text(text.replace(",6.0,", ",7.0,"))


def of_another_run(path: Path) -> None:
    shutil.copy(str(path).replace("/rgb/", "/slow/"), path)


def with_its_record_of_another_run(path: Path) -> None:
    of_another_run(path)
    shutil.copy(str(timing_path(path)).replace("/rgb/", "/slow/"), timing_path(path))


def without_its_record(path: Path) -> None:
    timing_path(path).unlink()


def with_a_record_of_maps_alone(path: Path) -> None:
    record = Timing.read(timing_path(path))
    record.made.content = {f"maps/{name}": digest for name, digest in record.made.content.items()}
    record.write(timing_path(path))


@pytest.mark.parametrize(
    "fault",
    [
        cut,
        reorder,
        other_truth,
        of_another_run,
        with_its_record_of_another_run,
        without_its_record,
        with_a_record_of_maps_alone,
    ],
)
def test_predictions_that_are_not_what_was_written_are_not_scored(
    project: Project, fault: Callable[[Path], None]
) -> None:
    fault(project.root / PREDICTIONS)
    assert "damaged" in unfit(project).values()
    assert cell(project) == ("missing", "damaged")
    assert cell(project, "slow") == ("trained", "")


@pytest.mark.parametrize("fault", [cut, other_truth])
def test_predictions_must_have_the_benchmark_s_samples_and_true_counts(
    project: Project, fault: Callable[[Path], None]
) -> None:
    """Even where their record says that they were written so."""
    path = project.root / PREDICTIONS
    fault(path)
    record = Timing.read(timing_path(path))
    record.made.content[path.name] = provenance.file_digest(path)
    record.write(timing_path(path))
    with pytest.raises(Unfit, match=r"lacks s5|another true count of s4"):
        Chain(project).predictions(project.run("mcnn", "rgb", 0), TEST)
    assert cell(project) == ("missing", "damaged")


def test_predictions_of_another_model_are_stale(project: Project) -> None:
    before = (project.root / PREDICTIONS).read_bytes(), timing_path(project.root / PREDICTIONS).read_bytes()
    write_data(project.root, shift=1)
    trained(project, "rgb")
    assert cell(project) == ("trained", "")
    (project.root / PREDICTIONS).write_bytes(before[0])
    timing_path(project.root / PREDICTIONS).write_bytes(before[1])
    assert cell(project) == ("missing", "stale")


def test_predictions_of_a_model_that_was_trained_again_are_stale(project: Project) -> None:
    path = project.root / RUN / "run.json"
    record = RunRecord.read(path)
    record.selections["last"].sha256 = "0" * 64
    record.write(path)
    with pytest.raises(Unfit, match=r"stale: made with another model \(last\) than the run has now"):
        Chain(project).predictions(project.run("mcnn", "rgb", 0), TEST)


def test_other_prepared_data_make_run_and_predictions_stale(project: Project) -> None:
    write_data(project.root, shift=1)
    assert cell(project) == ("missing", "stale")
    assert unfit(project)[str(RUN / "run.json")] == "stale"


def test_a_picture_that_changed_is_not_read(project: Project) -> None:
    path = project.root / DATA / "images/4.png"
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    sample = next(s for s in read_index(project.root / DATA / "index.csv") if s.id == "s4")
    with pytest.raises(UserError, match=r"4\.png: damaged: its sha256 is .*recount prepare crowd original"):
        load_image(path, sample.image_sha256)
    assert unfit(project)[str(DATA / "images/4.png")] == "damaged"


def test_what_other_code_or_packages_trained_is_used_and_marked(project: Project) -> None:
    path = project.root / RUN / "run.json"
    record = RunRecord.read(path)
    record.provenance.code = "other"
    record.provenance.packages["torch"] = "1.0"
    record.write(path)
    rows = [row for row in SCORES.read(score(project)) if row.variant == "rgb" and row.metric == "mae"]
    assert {(row.status, row.reason.text) for row in rows} == {("trained", "trained with older code, torch 1.0")}
    judge(project)
    assert unfit(project) == {}


def test_scores_made_from_other_predictions_are_stale(project: Project) -> None:
    predict_benchmark(project, project.run("mcnn", "rgb", 0), TEST)
    assert unfit(project) == {}  # the same bytes
    path = project.root / PREDICTIONS
    change(path, "s4", "s4 ")
    assert unfit(project)["results/small/scores.made.json"] == "stale"
    change(project.root / "results/small/scores.csv", "mae", "mea")
    assert unfit(project)["results/small/scores.csv"] == "damaged"


def test_the_record_of_another_run_is_not_believed(project: Project) -> None:
    shutil.copy(project.root / str(RUN / "run.json").replace("rgb", "slow"), project.root / RUN / "run.json")
    assert cell(project) == ("missing", "damaged")


def test_the_model_of_another_run_is_not_predicted_with(project: Project) -> None:
    for name in ("model.safetensors", "model.json"):
        shutil.copy(project.root / str(RUN / name).replace("rgb", "slow"), project.root / RUN / name)
    with pytest.raises(UserError, match=r"model\.safetensors: sha256 is not the one in run\.json"):
        predict_benchmark(project, project.run("mcnn", "rgb", 0), TEST)
    assert {*unfit(project).values()} == {"damaged", "stale"}  # tables of predictions whose last attempt failed


def test_a_results_folder_copied_over_another_is_not_believed(project: Project, tmp_path: Path) -> None:
    other = tmp_path / "other"
    shutil.copytree(project.root, other)
    write_data(other, shift=1)
    there = load(other)
    trained(there, "rgb")
    score(there)
    shutil.copytree(other / "results", project.root / "results", dirs_exist_ok=True)
    assert unfit(project)[str(RUN / "run.json")] == "stale"
    assert cell(project) == ("missing", "stale")
    assert cell(project, "slow") == ("trained", "")


def test_settings_changed_back_and_forth(project: Project) -> None:
    changed = load(project.root, {"precision": "bf16"})
    assert cell(changed) == ("missing", "stale")
    assert cell(project) == ("trained", "")
    change(project.root / "suites/small.yaml", "epochs: 2", "epochs: 3")  # how the model is read stays the same
    assert cell(load(project.root)) == ("missing", "stale")
    change(project.root / "suites/small.yaml", "epochs: 3", "epochs: 2")
    assert cell(load(project.root)) == ("trained", "")


class Stop(Exception):
    """In the middle of a training."""


def interrupted(project: Project, monkeypatch: pytest.MonkeyPatch, at: int) -> Path:
    """Train until a state is saved for the ``at``-th time; return the folder of the state."""
    save, saved = checkpoints.save_state, []

    def stopping(*args: object) -> None:
        save(*args)  # type: ignore[arg-type]
        saved.append(1)
        if len(saved) == at:
            raise Stop

    run = project.run("mcnn", "rgb", 0)
    with monkeypatch.context() as patch, pytest.raises(Stop):
        patch.setattr(checkpoints, "save_state", stopping)
        train(project, run)
    AcceleratorState._reset_state(reset_partial_state=True)
    return project.root / project.checkpoint_folder(run)


def test_a_training_never_goes_on_with_other_data_and_what_was_saved_waits(
    project: Project, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    before = (project.root / RUN / "model.safetensors").read_bytes()
    folder = interrupted(project, monkeypatch, 3)
    state = (folder / checkpoints.STATE).read_bytes()
    write_data(project.root, shift=1)
    with caplog.at_level(logging.INFO):
        train(project, project.run("mcnn", "rgb", 0))
    AcceleratorState._reset_state(reset_partial_state=True)
    assert "resumed" not in caplog.text
    assert "data: crowd/original" in caplog.text
    aside = list(folder.parent.glob("seed0@*"))
    assert [(path / checkpoints.STATE).read_bytes() for path in aside] == [state]
    write_data(project.root)  # as it was
    with caplog.at_level(logging.INFO):
        train(project, project.run("mcnn", "rgb", 0))
    assert "resumed" in caplog.text
    assert (project.root / RUN / "model.safetensors").read_bytes() == before


def test_a_training_never_goes_on_with_other_packages(
    project: Project, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    interrupted(project, monkeypatch, 3)
    monkeypatch.setattr(provenance, "computing_packages", lambda: {"torch": "9.9"})
    with caplog.at_level(logging.INFO):
        train(project, project.run("mcnn", "rgb", 0))
    assert "resumed" not in caplog.text
    assert "packages: torch: " in caplog.text
    assert "is now 9.9" in caplog.text


def test_the_best_model_is_that_of_the_epoch_that_was_chosen(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    """Killed between writing the weights of a better epoch and the state that says so."""
    before = {path.name: path.read_bytes() for path in (project.root / RUN).glob("model*.safetensors")}
    assert len(before) == 2
    folder = interrupted(project, monkeypatch, 5)  # in the second epoch
    assert [path.name for path in folder.glob("*@*.safetensors")] == ["best_on_test@1.safetensors"]
    shutil.copy(project.root / RUN / "model.safetensors", folder / "best_on_test@2.safetensors")  # no state names it
    train(project, project.run("mcnn", "rgb", 0))
    assert {path.name: path.read_bytes() for path in (project.root / RUN).glob("model*.safetensors")} == before


def test_a_best_model_is_that_of_its_epoch_and_not_the_last(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    errors = iter([1.0, 2.0])
    monkeypatch.setattr("recount.training.loop.evaluate", lambda *_: {"mae": next(errors), "rmse": 0.0})
    kept = RunRecord.read(train(project, project.run("mcnn", "rgb", 0))).selections
    assert [chosen.epoch for chosen in kept.values()] == [2, 1]
    digests = [provenance.file_digest(project.root / RUN / chosen.model) for chosen in kept.values()]
    assert digests == [chosen.sha256 for chosen in kept.values()]
    assert len({*digests}) == 2


def test_a_best_model_that_was_exchanged_is_refused(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    run = project.run("mcnn", "rgb", 0)
    save = checkpoints.save_model

    def exchanging(path: Path, state: dict[str, object]) -> str:
        for best in (project.root / project.checkpoint_folder(run)).glob("*@*.safetensors"):
            save(best, {name: value + 1 for name, value in state.items()})  # type: ignore[operator]
        return save(path, state)  # type: ignore[arg-type]

    monkeypatch.setattr("recount.training.run.save_model", exchanging)
    with pytest.raises(UserError, match=r"not the model of epoch \d that was chosen"):
        train(project, run)


def flipped(path: Path) -> Iterator[int]:
    """Flip a bit at a hundred positions of a file, one after the other; the file is as before at the end."""
    content = path.read_bytes()
    rng = random.Random(0)
    for position in sorted({0, len(content) - 1, *(rng.randrange(len(content)) for _ in range(98))}):
        broken = bytearray(content)
        broken[position] ^= 1 << rng.randrange(8)
        path.write_bytes(broken)
        yield position
    path.write_bytes(content)


def test_no_flipped_bit_of_a_result_is_accepted(project: Project) -> None:
    run = project.run("mcnn", "rgb", 0)
    predictions = project.root / PREDICTIONS
    for path in (project.root / RUN / "run.json", project.root / RUN / HISTORY, predictions, timing_path(predictions)):
        for position in flipped(path):
            with pytest.raises(UserError):
                Chain(project).predictions(run, TEST)
                pytest.fail(f"{path.name}: byte {position}")


def test_no_flipped_bit_of_prepared_data_is_accepted(project: Project) -> None:
    for name in ("index.csv", "summary.json", "points/4.npy"):
        for position in flipped(project.root / DATA / name):
            with pytest.raises(UserError):
                provenance.data_digests([project.root / DATA / "index.csv"])
                read_index(project.root / DATA / "index.csv")
                pytest.fail(f"{name}: byte {position}")


def test_no_flipped_bit_of_a_model_or_a_state_is_accepted(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    model = project.root / RUN / "model.safetensors"
    for position in flipped(model):
        assert unfit(project, full=True).get(str(RUN / model.name)) == "damaged", position
    folder = interrupted(project, monkeypatch, 1)
    state = folder / checkpoints.STATE
    made_from = str(checkpoints.torch.load(state, weights_only=True)["made_from"])
    assert checkpoints.load_state(folder, made_from) is not None
    for position in flipped(state):
        assert checkpoints.load_state(folder, made_from) is None, position


def test_what_verify_mends_is_made_anew_and_nothing_else(project: Project) -> None:
    path = project.root / PREDICTIONS
    before = path.read_bytes()
    cut(path)
    others = {p: p.read_bytes() for p in (project.root / "results").rglob("*") if p.is_file() and "/rgb/" not in str(p)}
    moved = mend(project, Verification(project).findings())
    assert {str(PREDICTIONS), "results/small/scores.csv", "results/small/verdicts.csv"} <= {*moved}
    assert not path.exists() and not timing_path(path).exists()
    assert (project.root / "results/small/unfit" / PREDICTIONS).is_file()
    kept = {p: content for p, content in others.items() if p.exists()}
    assert all(p.read_bytes() == content for p, content in kept.items())
    assert unfit(project) == {}
    predict_benchmark(project, project.run("mcnn", "rgb", 0), TEST)
    assert path.read_bytes() == before
    score(project)
    judge(project)
    assert unfit(project) == {}


def test_what_is_only_told_is_not_mended(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UserError), attempt(project, "train", "mcnn/slow/seed0"):
        raise UserError("out of memory")
    monkeypatch.setattr(provenance, "step_digest", lambda *_: "other")
    findings = Verification(project).findings()
    stale = {finding.path for finding in findings if finding.kind == "stale"}  # made before the step failed
    assert stale == {f"results/small/{name}.made.json" for name in ("scores", "verdicts")}
    assert {finding.kind for finding in findings} == {"failed", "older code", "stale"}
    assert all(name.count("/") == 2 for name in mend(project, findings))  # tables, and nothing that was computed
    assert cell(project) == ("trained", "note")


def test_what_is_mended_twice_is_kept_twice(project: Project) -> None:
    path = project.root / PREDICTIONS
    contents = []
    for end in (b"x", b"y"):
        path.write_bytes(path.read_bytes() + end)
        contents.append(path.read_bytes())
        mend(project, Verification(project).findings())
        predict_benchmark(project, project.run("mcnn", "rgb", 0), TEST)
    unfit = project.root / "results/small/unfit" / PREDICTIONS
    assert [file.read_bytes() for file in (unfit, unfit.with_name(f"{unfit.name}.1"))] == contents


def test_a_raw_file_that_changed_is_told_and_never_moved(project: Project) -> None:
    raw, folder = project.root / "resources/raw/crowd/a.txt", project.root / DATA
    raw.parent.mkdir(parents=True)
    raw.write_text("1")
    RAW_FILES.write(folder / RAW_LIST, [RawFile("crowd/a.txt", provenance.file_digest(raw))])
    summary = Summary.read(folder / SUMMARY)
    summary.raw.sha256 = provenance.file_digest(folder / RAW_LIST)
    summary.write(folder / SUMMARY)
    assert unfit(project) == {}
    raw.write_text("2")
    assert unfit(project) == {str(DATA / "index.csv"): "stale"}
    assert mend(project, Verification(project).findings()) == [str(DATA / "index.csv")]
    assert raw.is_file()


def test_a_fetched_file_that_changed_is_damaged(project: Project) -> None:
    folder = project.root / "resources/raw/crowd"
    folder.mkdir(parents=True)
    (folder / "a.zip").write_text("1")
    entry = Fetched("a.zip", 1, provenance.file_digest(folder / "a.zip"), "by hand", "2026-01-01")
    (folder / MANIFEST).write_text(json.dumps({"files": [asdict(entry)]}))
    assert unfit(project) == {}
    (folder / "a.zip").write_text("2")
    assert unfit(project) == {"resources/raw/crowd/a.zip": "damaged"}


def record_of_another_run(folder: Path) -> None:
    shutil.copy(str(folder / "model.json").replace("rgb", "slow"), folder / "model.json")


@pytest.mark.parametrize(
    ("fault", "file", "kind"),
    [
        (record_of_another_run, RUN / "model.json", "damaged"),
        (lambda folder: (folder / "model.safetensors").unlink(), RUN / "model.safetensors", "missing"),
        (lambda folder: (folder / "run.json").unlink(), RUN / "model.safetensors", "untracked"),
    ],
)
def test_a_model_without_its_own_records_is_told(
    project: Project, fault: Callable[[Path], None], file: Path, kind: str
) -> None:
    fault(project.root / RUN)
    assert unfit(project)[str(file)] == kind


def test_tables_that_no_record_vouches_for_are_told(project: Project) -> None:
    (project.root / "results/small/scores.made.json").unlink()
    assert unfit(project) == {f"results/small/{name}.csv": "untracked" for name in ("scores", "strata", "influence")}


def test_verifying_in_full_believes_no_remembered_digest(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("recount.results.digest_cache._SETTLED_NS", 0)
    monkeypatch.setattr("recount.results.digest_cache._marks", lambda _: [0, 0, 0, 0])  # nothing ever seems to change
    assert unfit(project) == {}
    changed = [RUN / "model.safetensors", DATA / "images/4.png"]
    for path in changed:
        (project.root / path).write_bytes((project.root / path).read_bytes() + b"x")
    assert unfit(project) == {}
    assert unfit(project, full=True).keys() == {*map(str, changed)}


def test_a_result_that_may_not_be_read_is_a_missing_cell(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    path = project.root / PREDICTIONS
    if os.geteuid():
        path.chmod(0)
    else:  # root may read everything
        opened = Path.open

        def refused(self: Path, *args: object, **named: object) -> object:
            if self == path:
                raise PermissionError(13, "Permission denied", str(self))
            return opened(self, *args, **named)  # type: ignore[arg-type]

        monkeypatch.setattr(Path, "open", refused)
    assert cell(project) == ("missing", "damaged")


def test_verifying_thousands_of_pictures_again_reads_none(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("recount.results.digest_cache._SETTLED_NS", 0)
    Verification(project).findings()
    os.utime(project.root / DATA / "images/4.png", (1, 1))
    read: list[Path] = []
    digest = provenance.file_digest
    monkeypatch.setattr("recount.results.digest_cache.file_digest", lambda path: read.append(path) or digest(path))
    assert json.loads(json.dumps(unfit(project))) == {}
    pictures = [path for path in read if path.suffix == ".png"]
    assert [path.name for path in pictures] == ["4.png"]


def declared(project: Project) -> list[list[Path]]:
    """Return what each rule of the workflow declares as its output for one job of this project, read from its text."""
    given = {"dataset": "crowd", "preparation": "original", "system": "mcnn", "variant": "rgb", "seed": "0"}
    folder = project.results / "runs/{system}/{variant}/seed{seed}"
    names: dict[str, object] = {"PROJECT": project, "SEED": "{system}/{variant}/seed{seed}", "RUN_FOLDER": folder}
    names |= {"places": ["crowd/test"], "report": lambda path, **_: path, "directory": lambda path: path}

    def flat(*outputs: object, **named: object) -> list[object]:
        return [one for out in (*outputs, *named.values()) for one in (out if isinstance(out, list) else [out])]

    texts = {path.stem: path.read_text(encoding="utf-8") for path in sorted((ROOT / "workflow/rules").glob("*.smk"))}
    exec("".join(re.findall(r"^EVALUATED = .*?(?=^def evaluated\()", texts["common"], re.MULTILINE | re.DOTALL)), names)
    found = []
    for text in texts.values():
        for _, block in re.findall(r"^( *)output:\n(.*?)^\1\w", text, re.MULTILINE | re.DOTALL):
            for step in names["EVALUATED"] if "step" in block else [""]:
                outputs = eval(f"flat({textwrap.dedent(block)})", names | {"flat": flat, "step": step})
                found.append([Path(str(output).format(**given, weights="none")) for output in outputs])
    return found


def test_verify_knows_every_output_that_a_rule_declares(project: Project) -> None:
    write_report(project, part)
    outputs = declared(project)
    assert len(outputs) == 10
    kinds = {path.name: path for rule in outputs for path in rule}
    assert kinds.keys() >= {
        "index.csv",
        "run.json",
        "model.safetensors",
        "seed0.npz",
        "scores.csv",
        "verdicts.csv",
        "small",
    }
    for rule in outputs:
        for output in rule:
            path = project.root / output
            if output == project.so_far:
                continue  # a first page, which nothing is made from
            if output.parts[:2] == ("resources", "raw") or "weights" in output.parts or "prompt_tests" in output.parts:
                continue  # told by their own tests
            path = path / "index.html" if path.is_dir() else path
            kept = path.read_bytes()
            path.write_bytes(kept + b"x")
            told = {name for finding in Verification(project).findings() if finding.unfit for name in finding.files}
            assert str(path.relative_to(project.root)) in told, f"{output} changed"
            path.unlink()
            if len(rule) > 1 or path.name == "index.html":
                assert unfit(project), f"{output} is gone"
            path.write_bytes(kept)
    assert unfit(project) == {}


@pytest.mark.parametrize(
    "name", ["looks.json", "maps/crowd/test/mcnn/rgb/seed0.npz", "predictions/crowd/test/mcnn/rgb/seed0.csv"]
)
def test_what_a_record_names_and_is_gone_is_told(project: Project, name: str) -> None:
    (project.root / "results/small" / name).unlink()
    assert unfit(project)[f"results/small/{name}"] == "missing"


def test_maps_of_prompt_tests_that_are_gone_are_told(project: Project) -> None:
    path = project.root / "results/small/prompt_tests/mcnn/rgb/seed0.json"
    made = Made(content={"prompt_tests/mcnn/rgb/seed0.npz": "0" * 64})
    PromptTests(made=made, selection="last", benchmarks={}).write(path)
    verification = Verification(project)
    told = [(f.path, f.kind) for f in verification._absent(PromptTests, path, "again")]
    assert told == [("results/small/prompt_tests/mcnn/rgb/seed0.npz", "missing")]


def test_one_changed_predictions_file_costs_its_own_cells_alone(project: Project) -> None:
    path = project.root / PREDICTIONS
    path.write_bytes(path.read_bytes().replace(b"s4", b"s9"))
    rows = {(row.variant, row.seed): row for row in Sources(project).score_rows if row.metric == "mae"}
    assert {key[0]: (row.status, row.reason.kind) for key, row in rows.items()} == {
        "rgb": ("missing", "damaged"),
        "slow": ("trained", ""),
    }
    assert {image.variant for image in Sources(project).influence} == {"slow"}


def test_cells_of_predictions_that_fit_no_more_are_not_shown_although_they_were_scored(project: Project) -> None:
    change(project.root / "suites/small.yaml", "epochs: 2", "epochs: 3")
    changed = load(project.root)
    assert {row.status for row in Sources(changed).score_rows if row.metric == "mae"} == {"missing"}
    assert unfit(changed).keys() >= {"results/small/scores.made.json", "results/small/verdicts.made.json"}


def test_a_damaged_summary_takes_no_result_along(project: Project) -> None:
    path = project.root / DATA / SUMMARY
    path.write_bytes(path.read_bytes() + b"x")
    findings = [finding for finding in Verification(project).findings() if finding.unfit]
    assert [finding.path for finding in findings] == [str(DATA / SUMMARY)]
    assert mend(project, findings) == [str(DATA / SUMMARY), str(DATA / "index.csv")][::-1]


def changed(path: Path) -> None:
    path.write_bytes(path.read_bytes() + b"x")


@pytest.mark.parametrize("fault", [changed, Path.unlink])
@pytest.mark.parametrize(
    "name",
    [
        RUN / "run.json", RUN / HISTORY, RUN / "model.json", PREDICTIONS, timing_path(PREDICTIONS), DATA / SUMMARY,
        DATA / "index.csv", "results/small/scores.csv", "results/small/scores.made.json", "results/small/looks.json",
    ],
    ids=str,
)  # fmt: skip
def test_a_message_says_what_is_wrong_and_what_to_do_once(
    project: Project, name: Path, fault: Callable[[Path], None]
) -> None:
    fault(project.root / name)
    found = [finding for finding in Verification(project).findings() if finding.unfit]
    sources = Sources(project)
    assert (sources.score_rows, sources.influence, sources.verdicts, sources.runs, sources.predicted) is not None
    said = [(f.path, f"{f.kind}: {f.why}; {f.again}") for f in found] + sources.problems
    said += [("a cell", row.reason.text) for row in SCORES.read(score(project))]
    assert len({finding.path for finding in found}) == len(found) > 0
    for file, text in said:
        assert max(text.count(word) for word in ("damaged", "recount ", "Errno", file)) <= 1, (file, text)
