"""``recount merge``: exports of several people are one population, or are kept apart and named, or refused."""

import json
import re
import shutil
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from recount.chain import MADE
from recount.cli import app
from recount.errors import UserError
from recount.exchange.crate import export
from recount.exchange.merge import _names, merge
from recount.judging.judge import judge
from recount.papers import part
from recount.provenance import VERSION
from recount.report.sources import Sources
from recount.report.write import write_report
from recount.results.files import MadeTables, file_digest, write_text
from recount.results.hands import HANDS, read_hands
from recount.results.predictions import Timing, timing_path
from recount.results.run_record import RUN, RecordedRun, RunRecord
from recount.results.scores import ALL_SEEDS
from recount.results.verdicts import LOOKS, Looks
from recount.scoring.score import score
from recount.settings.project import Project, load
from recount.verify import Verification
from small_project import PAPER, make_project, predict

CLAIM = {"id": "P-1", "says": "It is better than a constant.", "arm": "good/full", "against": "best_constant",
         "expect": "lower mae", "on": "shown/test", "where": "abstract"}  # fmt: skip
ERRORS = {0: [1.0, -1, 2, 3, -4, 0], 1: [2.0, 1, -2, 5, 6, 1], 2: [0.0, -1, 1, -6, 9, 1]}
RECORD = f"runs/good/full/seed0/{RUN}"
PREDICTED = "predictions/dots/test/good/full/seed0.csv"


def made(folder: Path, seeds: list[int], errors: dict[int, list[float]] = ERRORS, **changes: Any) -> Project:
    """Return a small project in which somebody trained these seeds; ``changes`` of each record's provenance."""
    project = make_project(folder, paper={**PAPER, "claims": [CLAIM]}, seeds=seeds)
    (folder / "Snakefile").touch()
    card = {"gpus": [{"name": f"Card of {folder.name}"}], "cpu": "a processor"}
    for seed in seeds:
        path = folder / project.results / f"runs/good/full/seed{seed}" / RUN
        path.parent.mkdir(parents=True)
        origin = {"recount": VERSION, "code": "c" * 64, "device": "cuda:0", "hardware": card, **changes}
        path.write_text(json.dumps({"run": {"suite": "small"}, "provenance": origin}))
        predict(project, f"good/full/seed{seed}", {"last": errors[seed], "best_on_test": errors[seed]})
    score(project)
    judge(project)
    return project


def handed_in(
    folder: Path, seeds: list[int], errors: dict[int, list[float]] = ERRORS, by: str = "", **changes: Any
) -> Path:
    """Return the export of such a project, a zip file beside it."""
    target = folder.with_suffix(".zip")
    export(made(folder, seeds, errors, **changes), target, by=by or folder.name.capitalize())
    return target


@pytest.fixture
def three(tmp_path: Path) -> list[Path]:
    """Three people's exports, a seed each."""
    return [handed_in(tmp_path / name, [seed]) for seed, name in enumerate(("ada", "bob", "eve"))]


def place(tmp_path: Path, **overrides: Any) -> Project:
    """Return a project like theirs without results."""
    return make_project(tmp_path / "all", paper={**PAPER, "claims": [CLAIM]}, **overrides)


def unpacked(archive: Path) -> Path:
    """Return an export as a folder, as if nobody had judged it: its verdicts would not fit what tests change."""
    folder = archive.with_suffix("")
    shutil.rmtree(folder)
    with zipfile.ZipFile(archive) as opened:
        opened.extractall(folder)
    for path in folder.glob("results/verdicts.*"):
        path.unlink()
    return folder


def test_three_exports_are_one_population_of_three_seeds(three: list[Path], tmp_path: Path) -> None:
    project = place(tmp_path)
    merged = merge(project, three)
    assert (merged.seeds, merged.apart, merged.twice) == ([0, 1, 2], [], [])
    assert [(run.who, run.computed_on) for run in merged.runs] == [
        (n, f"Card of {n.lower()}") for n in ("Ada", "Bob", "Eve")
    ]
    whole = load(project.root, {"seeds": merged.seeds})
    findings = Verification(whole).findings()
    assert [finding.kind for finding in findings if finding.kind != "older code"] == ["elsewhere"] * 3
    score(whole)
    judge(whole)
    assert not [finding for finding in Verification(whole).findings() if finding.unfit]
    wanted = ("good", "shown/test", "mae", "last", ALL_SEEDS, "trained")
    cells = [r for r in Sources(whole).score_rows
             if (r.system, r.benchmark, r.metric, r.selection, r.seed, r.status) == wanted]  # fmt: skip
    mean = sum(abs(error) for errors in ERRORS.values() for error in errors) / 18
    assert cells and all(cell.value == pytest.approx(mean) for cell in cells)
    rows = Sources(whole).verdicts
    assert {row.seeds for row in rows if row.evidence_status == "trained" and row.headline} == {"0 1 2"}
    page = write_report(whole, part).with_name("provenance.html").read_text()
    for name in ("Ada", "Bob", "Eve"):
        assert re.search(rf"{name}.*Card of {name.lower()}", page, re.DOTALL)


def test_what_was_merged_is_exported_and_merged_again_with_the_same_hands(three: list[Path], tmp_path: Path) -> None:
    first = place(tmp_path)
    (first.root / "Snakefile").touch()
    whole = load(first.root, {"seeds": merge(first, three[:2]).seeds})
    score(whole)
    export(whole, tmp_path / "both.zip", by="Nobody else")
    again = merge(load(first.root, {"results": "again"}), [tmp_path / "both.zip", three[2]])
    assert [run.who for run in again.runs] == ["Ada", "Bob", "Eve"]


def test_a_run_made_anew_is_nobody_else_s_any_more(three: list[Path], tmp_path: Path) -> None:
    project = place(tmp_path)
    merge(project, three)
    results = project.root / project.results
    record = RunRecord.read(results / RECORD)
    record.cost.wall_seconds = 5.0
    record.write(results / RECORD)
    assert [*read_hands(results).runs] == ["good/full/seed1", "good/full/seed2"]


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"code": "d" * 64}, "trained with other code of good (dddddddddddd, not cccccccccccc)"),
        ({"data": {"dots/original": "e" * 64}}, "made from another state of dots/original (eeeeeeeeeeee, not "),
    ],
)
def test_another_population_is_kept_apart_and_said(
    three: list[Path], tmp_path: Path, changes: dict[str, Any], why: str
) -> None:
    folder = unpacked(three[2])
    path = folder / "results/runs/good/full/seed2" / RUN
    record = RunRecord.read(path)
    record.provenance = record.provenance.model_copy(update=changes)
    record.write(path)
    project = place(tmp_path)
    merged = merge(project, [*three[:2], folder])
    assert [(each.what, each.source) for each in merged.apart] == [("good/full/seed2", "eve")]
    assert merged.apart[0].why.startswith(why) and merged.seeds == [0, 1]
    results = project.root / project.results
    assert (results / "apart/eve/runs/good/full/seed2" / RUN).is_file()
    assert why in read_hands(results).apart[0]
    assert not (results / "runs/good/full/seed2").exists()


def test_other_settings_are_kept_apart_with_what_differs(three: list[Path], tmp_path: Path) -> None:
    project = place(tmp_path)
    folder = unpacked(three[2])
    path = folder / "results/runs/good/full/seed2" / RUN
    record = RunRecord.read(path)
    record.planned = "f" * 64
    run = load(project.root, {"seeds": [2]}).run("good", "full", 2).model_dump(mode="json")
    record.run = RecordedRun.model_validate(run | {"recipe": {"epochs": 77}})
    record.write(path)
    merged = merge(project, [three[0], folder])
    assert "other settings than are planned here: recipe.epochs = 77" in merged.apart[0].why


def test_the_same_run_twice_is_compared_and_kept_once(tmp_path: Path) -> None:
    same = [handed_in(tmp_path / name, [0]) for name in ("ada", "bob")]
    other = handed_in(tmp_path / "eve", [0], {0: [error + 1.5 for error in ERRORS[0]]})
    merged = merge(place(tmp_path), [*same, other])
    assert len(merged.runs) == 1 and merged.runs[0].who == "Ada"
    bytes_, counts = merged.twice
    assert "the same weights, the same bytes of predictions on dots/test; kept that of ada.zip" in bytes_
    assert "counts on dots/test at most 1.5 and on average 1.5 apart" in counts


def test_looks_at_claims_are_those_of_all(three: list[Path], tmp_path: Path) -> None:
    project = place(tmp_path)
    merge(project, three)
    looks = Looks.read(project.root / project.results / LOOKS).looks
    assert {tuple(sorted(look.seeds for look in taken)) for key, taken in looks.items() if "trained" in key} == {
        ("0", "1", "2")
    }


def edit_record(folder: Path) -> None:
    write_text(folder / RECORD, (folder / RECORD).read_text().replace('"seed": 0', '"seed": 3'))


def edit_predictions(folder: Path) -> None:
    path = folder / PREDICTED
    write_text(path, path.read_text().replace("s0.jpg", "s9.jpg"))


def edit_history(folder: Path) -> None:
    write_text(folder / RECORD.replace(RUN, "history.csv"), "stage,epoch\n")


def edit_truth(folder: Path) -> None:
    """Change a true count and all digests of the file that holds it."""
    path = folder / PREDICTED
    write_text(path, path.read_text().replace("s1.jpg,,10.0", "s1.jpg,,11.0"))
    timing = Timing.read(timing_path(path))
    timing.made.content[path.name] = file_digest(path)
    timing.write(timing_path(path))
    scored = MadeTables.read(folder / MADE["score"])
    scored.made.results[PREDICTED] = file_digest(path)
    scored.write(folder / MADE["score"])


def with_record(change: Callable[[RunRecord], None]) -> Callable[[Path], None]:
    def edit(folder: Path) -> None:
        record = RunRecord.read(folder / RECORD)
        change(record)
        record.write(folder / RECORD)

    return edit


def name_a_model_outside(record: RunRecord) -> None:
    record.selections["last"].model = "../../../../../etc/x.safetensors"


def of_another_suite(record: RunRecord) -> None:
    record.run.suite = "paper"


def of_another_recount(record: RunRecord) -> None:
    record.provenance.recount = "99.1"


def name_files_outside(folder: Path) -> None:
    timing = Timing.read(timing_path(folder / PREDICTED))
    timing.made.content["../../../x.npz"] = "0" * 64
    timing.write(timing_path(folder / PREDICTED))


def lose_model_record(folder: Path) -> None:
    next((folder / RECORD).parent.glob("model*.json")).unlink()


def newer_format(folder: Path) -> None:
    write_text(folder / RECORD, (folder / RECORD).read_text().replace('"schema_version": 3', '"schema_version": 99'))


def hostile_hands(folder: Path) -> None:
    text = '{"schema_version": 1, "checksum": "", "runs": {"good/full/seed0": {"who": "a\\u001bb", "run_sha256": ""}}}'
    write_text(folder / HANDS, text)


BAD: list[tuple[Callable[[Path], None], str]] = [
    (edit_record, f"{RECORD}: damaged: its checksum is"),
    (newer_format, f"{RECORD}: schema_version = 99: a newer recount wrote it"),
    (edit_predictions, f"{PREDICTED}: damaged: its content is not what was written"),
    (edit_history, "runs/good/full/seed0/history.csv: damaged"),
    (edit_truth, "the true count of s1 is 11"),
    (with_record(name_a_model_outside), "'../../../../../etc/x.safetensors' is no name of a model"),
    (with_record(of_another_suite), "its runs are of suite paper: this project's is small"),
    (with_record(of_another_recount), "its runs were made by recount 99.1, and this is"),
    (name_files_outside, "it names '../../../x.npz', which is no file of results"),
    (lose_model_record, "missing: run.json names its model"),
    (hostile_hands, "hands.json: damaged"),
]


@pytest.mark.parametrize(("spoil", "said"), BAD, ids=[said[:40] for _, said in BAD])
def test_a_damaged_or_hostile_export_is_refused_by_name_and_leaves_nothing(
    tmp_path: Path, spoil: Callable[[Path], None], said: str
) -> None:
    first, good = unpacked(handed_in(tmp_path / "ada", [0])), handed_in(tmp_path / "bob", [1])
    spoil(first / "results")
    project = place(tmp_path)
    shutil.rmtree(project.root / "resources")  # whose truth would be known
    before = sorted(project.root.rglob("*"))
    with pytest.raises(UserError) as refused:
        merge(project, [good, first])
    assert said in str(refused.value) and str(first) in str(refused.value)
    assert sorted(project.root.rglob("*")) in (before, sorted([*before, project.root / "results"]))


def test_a_merge_that_fails_while_it_writes_leaves_nothing(
    three: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    project = place(tmp_path)
    monkeypatch.setattr("recount.exchange.merge.Looks.write", _full_disk)
    with pytest.raises(OSError, match="No space"):
        merge(project, three)
    assert [*(project.root / "results").iterdir()] == []


def _full_disk(*_: Any) -> None:
    raise OSError(28, "No space left on device")


def test_results_that_are_there_are_not_touched(three: list[Path], tmp_path: Path) -> None:
    project = place(tmp_path)
    merge(project, three[:1])
    with pytest.raises(UserError, match="exists already; name another place"):
        merge(project, three)


def test_the_command_says_who_ran_what_and_what_to_do_next(
    three: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(place(tmp_path).root)
    answer = CliRunner().invoke(app, ["merge", *map(str, three), "--config", "results=joined"])
    assert answer.exit_code == 0, answer.output
    assert "joined/small: 3 runs by Ada, Bob, Eve; seeds 0, 1, 2" in answer.stdout
    assert "recount judge --config results=joined 'seeds=[0,1,2]' suite=small" in answer.stdout


def test_exports_that_are_called_alike_are_told_apart() -> None:
    paths = [Path(folder, "export.zip") for folder in "abc"]
    assert _names(paths) == ["export.zip", "export.zip-2", "export.zip-3"]
