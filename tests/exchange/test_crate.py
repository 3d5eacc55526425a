"""``recount export``: a whole, described and shareable crate; nothing private goes out."""

import csv
import hashlib
import json
import re
import shutil
import zipfile
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import pandas as pd
import pytest
from typer.testing import CliRunner

from recount.chain import MADE, TABLES, Chain
from recount.cli import app
from recount.errors import UserError
from recount.exchange import crate
from recount.exchange.compare import compare
from recount.exchange.crate import export
from recount.exchange.reproduction import open_reproduction
from recount.judging.judge import judge
from recount.results.files import Made, MadeTables, file_digest, is_formula, note_tables
from recount.results.prepared import data_digest
from recount.results.run_record import RunRecord
from recount.settings.project import Project, load
from report import tree

ROOT = Path(__file__).parents[2]
FORMULA = "=HYPERLINK(1)|<b>"
RUN = "runs/gigacount/scheduler/seed1/run.json"
MODELS = ("model", "model.best_on_test", "model.best_on_held_out")
DATA = "resources/data/crowd/original/index.csv"
TEXT = ("id", "prompt", "seeds", "seed")


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> tuple[Project, Path]:
    """A project with results and report, and its export as a folder."""
    root = tmp_path_factory.mktemp("project")
    tree.build(root)
    shutil.copytree(ROOT / "workflow", root / "workflow")
    shutil.copy(ROOT / "Snakefile", root)
    project = load(root, {"seeds": [0, 1]})
    _hide_paths_in(project)
    page = project.root / project.report / "index.html"
    page.parent.mkdir(parents=True)
    page.write_text(f"<html><p>{project.root}/results: a report</p></html>")
    note_tables(page.with_name(MADE["report"]), [page.name], Made(results=Chain(project).tables_now()))
    target = tmp_path_factory.mktemp("shared") / "export"
    export(project, target, licence="CC-BY-4.0")
    return project, target


def _hide_paths_in(project: Project) -> None:
    """Put absolute paths where logs and settings bring them: into a reason, and into a run.json."""
    results = project.root / project.results
    path = results / RUN
    record = RunRecord.read(path)
    record.provenance.command = ["recount", "train", "--config", "data=[/home/somebody/x]", "/home/somebody/results"]
    record.write(path)
    judge(project)
    table = pd.read_csv(results / "scores.csv", dtype=str)
    table.loc[0, "reason"] = f"{project.root}/logs/x.log ends: OSError: /home/somebody/weights/sd15.ckpt: no such file"
    table.loc[1, "reason"] = FORMULA
    table.to_csv(results / "scores.csv", index=False)
    made = results / MADE["score"]
    note_tables(made, TABLES["score"], MadeTables.read(made).made)


def graph_of(folder: Path) -> dict[str, dict[str, Any]]:
    content = json.loads((folder / "ro-crate-metadata.json").read_text("utf-8"))
    assert content["@context"][0] == "https://w3id.org/ro/crate/1.1/context"
    entities = {entity["@id"]: entity for entity in content["@graph"]}
    assert len(entities) == len(content["@graph"])
    return entities


def files_of(folder: Path) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}


def references(value: Any) -> set[str]:
    if isinstance(value, list):
        return {name for item in value for name in references(item)}
    return {value["@id"]} if isinstance(value, dict) else set()


def test_every_file_is_described_with_its_size_and_digest(exported: tuple[Project, Path]) -> None:
    folder = exported[1]
    entities = graph_of(folder)
    described = {unquote(name) for name, entity in entities.items() if "File" in entity["@type"]}
    assert described == files_of(folder) - {"ro-crate-metadata.json"}
    for name in described:
        content = (folder / name).read_bytes()
        entity = entities[name]
        assert entity["contentSize"] == str(len(content))
        assert entity["sha256"] == hashlib.sha256(content).hexdigest()
    assert {unquote(name) for name in references(entities["./"]["hasPart"])} == described


def test_the_crate_is_a_workflow_run_crate(exported: tuple[Project, Path]) -> None:
    entities = graph_of(exported[1])
    descriptor, root = entities["ro-crate-metadata.json"], entities["./"]
    assert descriptor["about"] == {"@id": "./"}
    assert {"@id": "https://w3id.org/ro/crate/1.1"} in descriptor["conformsTo"]
    assert {"@id": "https://w3id.org/ro/wfrun/workflow/0.5"} in root["conformsTo"]
    assert re.fullmatch(r"\d{4}-\d\d-\d\d", root["datePublished"])
    assert root["license"] == {"@id": "https://spdx.org/licenses/CC-BY-4.0"}
    workflow = entities[root["mainEntity"]["@id"]]
    assert workflow["@type"] == ["File", "SoftwareSourceCode", "ComputationalWorkflow"]
    assert entities["#workflow-run"]["instrument"] == {"@id": workflow["@id"]}
    assert {"@id": "results/scores.csv"} in entities["#workflow-run"]["result"]


def test_every_reference_leads_somewhere(exported: tuple[Project, Path]) -> None:
    assert_references_lead_somewhere(exported[1])


def assert_references_lead_somewhere(folder: Path) -> None:
    entities = graph_of(folder)
    outside = ("https://w3id.org/ro/crate/", "https://bioschemas.org/", "https://snakemake.readthedocs.io")
    for entity in entities.values():
        for name in (name for key, value in entity.items() if key != "@id" for name in references(value)):
            assert name in entities or name.startswith(outside), (entity["@id"], name)


def test_a_run_is_an_action_from_its_data_to_its_files(exported: tuple[Project, Path]) -> None:
    project, folder = exported
    entities = graph_of(folder)
    action = entities["#run-gigacount/scheduler/seed1"]
    assert entities[action["instrument"]["@id"]]["version"] == "0123456789abcdef0123456789abcdef01234567"
    data = [entities[name] for name in references(action["object"]) if name.startswith("#data-")]
    assert [entity["sha256"] for entity in data] == [data_digest(project.root / DATA)]
    assert references(action["result"]) == {
        "results/runs/gigacount/scheduler/seed1/run.json",
        "results/runs/gigacount/scheduler/seed1/history.csv",
        *(f"results/runs/gigacount/scheduler/seed1/{name}.json" for name in MODELS),
        "results/predictions/crowd/test/gigacount/scheduler/seed1.csv",
    }
    runs = len(list((project.root / project.results).glob("runs/*/*/*/run.json")))
    assert sum(name.startswith("#run-") for name in entities) == runs


def test_tables_are_there_as_csv_and_as_parquet(exported: tuple[Project, Path]) -> None:
    folder = exported[1]
    tables = sorted(path.stem for path in (folder / "tables").glob("*.csv"))
    assert "gigacount-table1" in tables
    for name in tables:
        frame = pd.read_parquet(folder / "tables" / f"{name}.parquet")
        text = pd.read_csv(folder / "tables" / f"{name}.csv", dtype=dict.fromkeys(TEXT, str))
        assert list(frame.columns) == list(text.columns)
        assert len(frame) == len(text)
        for column in ("value", "predicted_count"):
            if column in frame:
                assert frame[column].tolist() == pytest.approx(text[column].tolist(), nan_ok=True)
    predictions = pd.read_parquet(folder / "tables" / "predictions.parquet")
    assert set(predictions["system"]) >= {"gigacount", "mcnn"}
    scores = pd.read_parquet(folder / "tables" / "scores.parquet")
    assert len(scores) == len(pd.read_csv(folder / "results" / "scores.csv"))


def test_no_cell_of_any_table_is_a_formula(exported: tuple[Project, Path]) -> None:
    cells = []
    for path in exported[1].rglob("*.csv"):
        with path.open(newline="", encoding="utf-8") as stream:
            cells += [cell for row in csv.reader(stream) for cell in row]
    assert f"'{FORMULA}" in cells
    assert [cell for cell in cells if is_formula(cell) and not cell.startswith("'")] == []


def test_no_path_of_this_machine_goes_out(exported: tuple[Project, Path]) -> None:
    project, folder = exported
    for name in files_of(folder):
        content = (folder / name).read_bytes()
        assert str(project.root).encode() not in content, name
        assert b"/home/somebody" not in content, name
    assert RunRecord.read(folder / "results" / RUN).provenance.command[-1] == "results"
    reasons = pd.read_csv(folder / "results" / "scores.csv", dtype=str)["reason"]
    assert reasons[0] == "logs/x.log ends: OSError: sd15.ckpt: no such file"


def test_what_goes_out_is_believed_where_it_comes_in(exported: tuple[Project, Path]) -> None:
    project, folder = exported
    there, here = open_reproduction(folder), open_reproduction(project.root / project.results)
    assert there.unfit == here.unfit == {}
    assert compare(there, here).outcomes.keys() <= {"identical", "neither"}
    made = MadeTables.read(folder / "results" / MADE["judge"]).made
    assert made.content["verdicts.csv"] == file_digest(folder / "results" / "verdicts.csv")


def test_what_is_unfit_stays_and_unfit_scores_are_refused(exported: tuple[Project, Path], tmp_path: Path) -> None:
    root = tmp_path / "project"
    shutil.copytree(exported[0].root, root)
    project = load(root)
    results = root / project.results
    (results / RUN).write_text("{")
    older = results / "runs/gigacount/scheduler/seed7"  # no run that is planned now
    shutil.copytree((results / RUN).parent.parent / "seed0", older)
    answer = export(project, tmp_path / "export")
    assert any(f"Left out, damaged: {project.results / RUN}" in note for note in answer.notes)
    assert any("runs/gigacount/scheduler/seed7/run.json: damaged: it is the record of" in note for note in answer.notes)
    assert not [name for name in files_of(answer.path) if name == f"results/{RUN}" or "seed7" in name]
    assert_references_lead_somewhere(answer.path)
    (results / "scores.csv").write_text("edited")
    with pytest.raises(UserError, match=r"scores\.csv: damaged: its content is not what was written"):
        export(project, tmp_path / "another")


def test_weights_maps_and_pictures_stay_at_home(exported: tuple[Project, Path]) -> None:
    project, folder = exported
    kinds = {Path(name).suffix for name in files_of(folder) if name.startswith(("results/", "data/"))}
    assert kinds == {".csv", ".json"}
    assert list((project.root / project.results).glob("maps/**/*.npz"))


def test_the_configuration_is_the_resolved_one(exported: tuple[Project, Path]) -> None:
    assert "seeds:\n- 0\n- 1\n" in (exported[1] / "config.yaml").read_text()


def test_a_zip_holds_what_the_folder_holds(exported: tuple[Project, Path], tmp_path: Path) -> None:
    project, folder = exported
    answer = export(project, tmp_path / "new" / "export.zip", licence="CC-BY-4.0")
    with zipfile.ZipFile(answer.path) as archive:
        assert set(archive.namelist()) == files_of(folder)
        assert archive.testzip() is None
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["export.zip"]


def test_the_report_goes_out_where_its_photographs_may_be_shown(exported: tuple[Project, Path]) -> None:
    assert "report/index.html" in files_of(exported[1])


def test_the_report_stays_where_a_licence_forbids_its_photographs(
    exported: tuple[Project, Path], tmp_path: Path
) -> None:
    root = tmp_path / "project"
    shutil.copytree(exported[0].root, root)
    shutil.copytree(root / "results/mini/predictions/crowd", root / "results/mini/predictions/sha_train75")
    answer = export(load(root), tmp_path / "export")
    assert not any(name.startswith("report/") for name in files_of(answer.path))
    assert any("sha_train75" in note and "licence" in note for note in answer.notes)
    told = graph_of(answer.path)["./"]["description"]
    assert "The report is left out: it shows photographs of sha_train75" in told
    assert "The report is left out" in (answer.path / "README.md").read_text("utf-8")


def test_without_a_licence_the_crate_says_that_there_is_none(exported: tuple[Project, Path], tmp_path: Path) -> None:
    answer = export(exported[0], tmp_path / "export")
    entities = graph_of(answer.path)
    assert entities[entities["./"]["license"]["@id"]]["name"] == "No licence given"
    assert any("--licence" in note for note in answer.notes)


def test_a_licence_is_given_by_its_name(exported: tuple[Project, Path], tmp_path: Path) -> None:
    with pytest.raises(UserError, match="expected the SPDX name"):
        export(exported[0], tmp_path / "export", licence="do what you like")


def test_what_is_there_is_not_overwritten(exported: tuple[Project, Path]) -> None:
    project, folder = exported
    before = files_of(folder)
    with pytest.raises(UserError, match="exists already"):
        export(project, folder)
    assert files_of(folder) == before


def test_nothing_scored_is_an_error(exported: tuple[Project, Path], tmp_path: Path) -> None:
    empty = load(exported[0].root, {"results": "none"})
    with pytest.raises(UserError, match="nothing is scored yet"):
        export(empty, tmp_path / "export")


def test_a_failed_export_leaves_nothing_behind(
    exported: tuple[Project, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full_disk(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(crate, "write_metadata", full_disk)
    with pytest.raises(OSError, match="No space"):
        export(exported[0], tmp_path / "export.zip")
    assert list(tmp_path.iterdir()) == []


def test_the_command_says_what_it_wrote(
    exported: tuple[Project, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(exported[0].root)
    answer = CliRunner().invoke(app, ["export", str(tmp_path / "mine.zip")])
    assert answer.exit_code == 0, answer.output
    assert re.search(r"mine\.zip: \d+ files, ", answer.stdout)
    assert "Weights, density maps and data sets are not included" in answer.stdout
