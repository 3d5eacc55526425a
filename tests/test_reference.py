"""The reference run: written from results, and in which cells other results agree with it."""

import html
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

from links import complete
from recount import reference
from recount.cli import app
from recount.documents import FORMATS
from recount.errors import UserError
from recount.exchange.reference_view import document
from recount.judging.judge import judge
from recount.judging.verdicts import Pool
from recount.reference import ComparedCell, agreement, write
from recount.report.write import write_report
from recount.results.reference import ReferenceScore
from recount.results.run_record import RUN, RunRecord
from recount.scoring.score import score
from recount.settings.project import Project
from small_project import TRUE, cells_of, make_project, predict

ERRORS = {seed: [float(e) for e in np.random.default_rng(seed).normal(0, 9, len(TRUE))] for seed in range(6)}
SEEDS = [0, 1, 2]


def small(root: Path, seeds: list[int] = SEEDS, factor: float = 1.0, **overrides: Any) -> Project:
    """Return a scored project whose errors are ``factor`` times those of its seeds."""
    project = make_project(root, seeds=seeds, **overrides)
    for seed in seeds:
        predict(project, f"good/full/seed{seed}", {"last": [factor * e for e in ERRORS[seed]]})
    score(project)
    return project


def made_on(project: Project, **hardware: Any) -> None:
    """Have all runs be of another machine."""
    for run in project.trainings:
        path = project.root / project.run_folder(run) / RUN
        record = RunRecord.read(path)
        record.provenance.hardware.update(hardware)
        record.write(path)
    complete(project)


def test_the_run_that_it_was_made_from_is_identical(tmp_path: Path) -> None:
    project = small(tmp_path)
    folder = write(project)
    assert sorted(path.name for path in folder.iterdir()) == ["predictions.csv", "reference.json", "scores.csv"]
    found = agreement(project)
    assert found is not None and len(found.cells) > 2 and {cell.outcome for cell in found.cells} == {"identical"}
    assert found.lines == [
        f"Agrees with the reference in {len(found.cells)} of {len(found.cells)} cells ({len(found.cells)} of them "
        "identical, 0 within chance); 3 of 3 files of predictions are the same byte by byte."
    ]


@pytest.mark.parametrize("seeds", [[0], [3], SEEDS, [3, 4, 5]])
def test_other_seeds_and_small_changes_agree_and_large_ones_differ(tmp_path: Path, seeds: list[int]) -> None:
    write(small(tmp_path))
    near = agreement(small(tmp_path, seeds, factor=1.01))
    assert near is not None and {cell.outcome for cell in near.cells} == {"agrees"}
    assert near.files == {f"predictions/dots/test/good/full/seed{seed}.csv": False for seed in seeds if seed in SEEDS}
    far = agreement(small(tmp_path, seeds, factor=400.0))
    assert far is not None
    worse = {cell.metric: cell for cell in far.outcomes["differs"]}
    assert "mae" in worse and worse["mae"].here > 100 * worse["mae"].reference
    assert "Differs here: " in far.differs and "good/full on dots/test" in far.differs


def test_what_was_made_otherwise_is_named_where_numbers_are_not_identical(tmp_path: Path) -> None:
    project = small(tmp_path)
    made_on(project, kernels="AVX512", cpu="EPYC")
    score(project)
    write(project)
    again = small(tmp_path, factor=1.01)
    made_on(again, kernels="AVX2", cpu="Xeon")
    score(again)
    found = agreement(again)
    assert found is not None
    assert "kernels AVX2 here, AVX512 there; processor Xeon here, EPYC there" in found.reasons
    assert found.reference.title.endswith("EPYC, AVX512")


def test_other_settings_are_not_compared(tmp_path: Path) -> None:
    write(small(tmp_path))
    other = agreement(small(tmp_path, precision="bf16"))
    assert other is not None and {cell.outcome for cell in other.cells} == {"other settings"}
    assert other.lines[0] == "Nothing here can be compared with the reference run."
    assert other.not_compared == f"Not compared: {len(other.cells)} (other settings)."


def test_cells_that_are_not_here_are_counted_and_not_compared(tmp_path: Path) -> None:
    write(small(tmp_path))
    project = small(tmp_path)
    for path in (tmp_path / project.results / "predictions").rglob("*.csv"):
        path.unlink()
    score(project)
    found = agreement(project)
    assert found is not None and {cell.outcome for cell in found.cells} == {"not here"} and found.files == {}


def test_rounding_of_what_is_not_trained_agrees(tmp_path: Path) -> None:
    cell = ComparedCell("a", "b", "d/test", "last", "mae", 2.0, 0.0)

    def of(*values: float) -> dict[int, ReferenceScore]:
        return {k: ReferenceScore("a", "b", k, "d/test", "last", "mae", value, 50) for k, value in enumerate(values)}

    assert reference._compared(cell, of(2.0, 2.0, 2.0), of(2.0 + 1e-6), Pool()).outcome == "agrees"
    apart = reference._compared(cell, of(2.0, 2.0, 2.0), of(2.1), Pool())
    assert apart.p_value == 0


@pytest.mark.parametrize("seeds", [1, 3])
@pytest.mark.parametrize("metric", ["mae", "accuracy"])
def test_a_cell_of_one_recipe_differs_in_five_per_cent(seeds: int, metric: str) -> None:
    """Alone, before the correction for many cells, with a pool of four other variants."""
    rng, p = np.random.default_rng(5), []
    cell = ComparedCell("a", "b", "d/test", "last", metric, 1.0, 0.1)
    for _ in range(600):
        drawn = rng.normal(0, 0.2, (5, 3 + seeds))
        values = 1 / (1 + np.exp(-drawn)) if metric == "accuracy" else np.exp(drawn)
        scores = [
            {
                k: ReferenceScore("a", f"v{row}", k, "d/test", "last", metric, float(v), 10**6)
                for k, v in enumerate(line)
            }
            for row, line in enumerate(values)
        ]
        there = {("a", f"v{row}", "d/test", "last", metric): dict(list(s.items())[:3]) for row, s in enumerate(scores)}
        first = ("a", "v0", "d/test", "last", metric)
        here = dict(list(scores[0].items())[3:])
        p.append(reference._compared(cell, there[first], here, reference._pool(first, there)).p_value)
    assert 0.02 < np.mean(np.array(p) <= 0.05) < 0.075


def test_only_a_whole_run_with_three_seeds_of_one_machine_becomes_a_reference(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="at least 3 seeds"):
        write(small(tmp_path / "few", [0, 1]))
    project = small(tmp_path / "gone")
    next((tmp_path / "gone").rglob("seed1/run.json")).unlink()
    with pytest.raises(UserError, match=r"not there, or do not fit: good/full/seed1"):
        write(project)
    mixed = small(tmp_path / "mixed")
    path = mixed.root / mixed.run_folder(mixed.run("good", "full", 1)) / RUN
    record = RunRecord.read(path)
    record.provenance.hardware["cpu"] = "another"
    record.write(path)
    complete(mixed)
    with pytest.raises(UserError, match="not of one machine"):
        write(mixed)
    assert not list(tmp_path.rglob("reference.json"))


def test_a_reference_that_was_edited_is_refused_in_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    project = small(tmp_path)
    path = write(project) / "scores.csv"
    path.write_text(path.read_text().replace("mae", "rmse", 1))
    monkeypatch.chdir(tmp_path)
    answer = CliRunner().invoke(app, ["reference", "--config", "seeds=[0,1,2]"])
    assert answer.exit_code == 1
    assert "scores.csv is not what was written" in " ".join(answer.output.split()).replace(": is", " is")


def test_the_command_says_it_in_every_form(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    small(tmp_path)
    none = CliRunner().invoke(app, ["reference"])
    assert none.exit_code == 1 and "there is no reference run of suite small" in none.output
    assert CliRunner().invoke(app, ["reference", "--write", "--config", "seeds=[0,1,2]"]).exit_code == 0
    found = json.loads(CliRunner().invoke(app, ["reference", "--json"]).output)
    assert found["outcomes"] == {"identical": len(found["cells"])}
    for suffix in FORMATS:
        assert CliRunner().invoke(app, ["reference", "--output", f"said{suffix}"]).exit_code == 0
        assert "good" in Path(f"said{suffix}").read_text() or suffix in (".txt", ".md", ".html")


def test_the_report_says_it_on_its_front_page_and_names_what_differs(tmp_path: Path) -> None:
    write(small(tmp_path))
    project = small(tmp_path, factor=400.0)
    judge(project)
    page = write_report(project, lambda *_: lambda *_: ()).read_text(encoding="utf-8")
    front = html.unescape(page.partition('id="agreement">')[2].partition("</p>")[0])
    assert "Agrees with the reference in 0 of" in front and "Differs here: good/full on dots/test (" in front
    text = (tmp_path / project.report / "provenance.html").read_text(encoding="utf-8")
    assert 'id="reference"' in text and "Differs from the reference run" in text
    assert (tmp_path / project.report / "tables/differs_from_reference.csv").is_file()


def test_a_cell_is_one_measurement_whatever_tables_show_it(tmp_path: Path) -> None:
    project = small(tmp_path)
    write(project)
    found = agreement(project)
    assert found is not None
    shown = {(r["selection"], r["metric"]) for r in cells_of(project, system="good", variant="full", status="trained")}
    cells = [(cell.selection, cell.metric) for cell in found.cells]
    assert len(cells) == len(set(cells)) and set(cells) <= shown
    assert {row[4] for row in document(found).rows} == {cell.metric for cell in found.cells}
