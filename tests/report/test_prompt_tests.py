"""The sections on prompts, from invented answers of two systems: one that reads its prompt, one that does not."""

import base64
import io
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import yaml
from PIL import Image

from links import complete_run
from prepared import written
from recount.papers import part
from recount.report.exhibits import Context, Variant
from recount.report.export import sheet_files
from recount.report.prompt_tests import (
    PromptTested,
    exhibits,
    heat_uri,
    kept_sheet,
    map_sheet,
    prompt_galleries,
    prompt_scores,
    prompt_sheet,
    prompt_tested,
    reads,
)
from recount.report.sources import Sources
from recount.report.write import write_report
from recount.results.prompt_tests import PromptTests
from recount.settings.project import Project, load

ROOT = Path(__file__).parents[2]
READER, BLIND = Variant("t2icount", "full", "T2ICount"), Variant("vlcounter", "as_released", "VLCounter")
NAMES = ("a<b>", "b", "c")
SUITE: dict[str, Any] = {
    "title": "Drawn",
    "comparable": False,
    "why_not_comparable": "it is a test",
    "benchmarks": {
        "fsc147/train": {"dataset": "drawn", "split": "train"},
        "fsc147/val": {"dataset": "drawn", "split": "val"},
        "fsc147/test": {"dataset": "drawn", "split": "test"},
        "fsc147s/v1": {"dataset": "drawn", "split": "minority"},
    },
    "systems": {"t2icount": {"size": "mini"}, "vlcounter": {"size": "mini"}},
}


def answers(reads: bool) -> dict[str, Any]:
    """Return the file of a run that counts 10 of the majority, 2 of the minority and nothing else, or always 10."""
    rows = [
        {
            **{"id": name, "majority": "reds", "majority_true": 10.0, "majority_predicted": 10.0, "minority": "blues"},
            **{"minority_true": 2.0, "minority_predicted": 2.0 if reads else 10.0},
            **{"absent": "greens", "absent_predicted": 0.0 if reads else 10.0},
        }
        for name in NAMES
    ]
    wrong = 0.0 if reads else 10.0
    pictures = [{"id": name, "prompt": "reds", "true": 10.0, "right": 10.0, "wrong": wrong} for name in NAMES]
    negative = {"np": 1.0, "nmn": wrong / 10, "pccn": 100.0 if reads else 0.0, "mae": 0.0, "rmse": 0.0}
    means = {key: rows[0][key] for key in rows[0] if key.endswith(("true", "predicted"))}
    pairs = {"means": means, "minority_mae": 0.0, "nearer_to_majority": 1.0 - reads, "prompt_swap": float(reads)}
    count = {"recall": 1.0, "precision": 1.0 if reads else 0.5, "f": 1.0 if reads else None}
    return {
        "selection": "best_on_held_out",
        "benchmarks": {
            "fsc147/test": {
                **{"dataset": "drawn", "split": "test", "mosaics": {"count": count}},
                "negative_prompts": {**negative, "prompt_swap": 1.0, "pictures": pictures},
            },
            "fsc147s/v1": {"dataset": "drawn", "split": "minority", "pairs": {**pairs, "pictures": rows}},
        },
    }


def maps_of(reads: bool) -> dict[str, np.ndarray]:
    kinds = ("density", "attention", "attention_fine", "S2") if reads else ("density",)
    grid = np.linspace(0, 1, 8 * 12, dtype=np.float16).reshape(8, 12)
    prompts = ("majority", "minority")
    return {f"drawn/minority/{name}/{p}/{kind}": grid for name in NAMES for p in prompts for kind in kinds}


def write_run(project: Project, variant: Variant, content: dict[str, Any], maps: dict[str, np.ndarray]) -> None:
    run = project.run(variant.system, variant.variant, 0)
    for benchmark, tests in content["benchmarks"].items():
        path = project.root / project.prompt_test_file(run, benchmark)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(content | {"benchmarks": {benchmark: tests}}))
        np.savez(path.with_suffix(".npz"), **(maps if "pairs" in tests else {}))  # type: ignore[arg-type]
    complete_run(project, run)


@pytest.fixture
def project(tmp_path: Path) -> Project:
    (tmp_path / "suites").mkdir()
    (tmp_path / "suites/mini.yaml").write_text(yaml.safe_dump(SUITE))
    (tmp_path / "config.yaml").write_text("suite: mini\npapers: [t2icount]\n")
    shutil.copytree(ROOT / "papers/t2icount", tmp_path / "papers/t2icount")
    shutil.copytree(ROOT / "experiments", tmp_path / "experiments")
    shutil.copy(ROOT / "benchmarks.yaml", tmp_path)
    folder = tmp_path / "resources/data/drawn/original"
    folder.mkdir(parents=True)
    Image.new("RGB", (96, 64), (90, 120, 90)).save(folder / "p.png")
    np.save(folder / "p.npy", np.array([[10.0, 10.0], [40.0, 30.0]], np.float32))
    same = ["minority", "p.png", "blues", 2, 96, 64, "p.npy", "", "{}"]
    written(folder / "index.csv", [[name, *same] for name in NAMES])
    project = load(tmp_path)
    content = answers(reads=True)
    row = {"id": "a", "points": 2, "reached": 2, "reached_elsewhere": 0.25, "auc": {"attention": 0.9, "S2": 0.6}}
    maps = {"auc": row["auc"], "points_reached": 1.0, "reached_elsewhere": 0.25, "pictures": [row]}
    before = {**maps, "auc": {"attention": 0.7}}
    at = {"dataset": "drawn", "split": "val", "maps": maps, "maps_before_training": before}
    content["benchmarks"]["fsc147/val"] = at
    write_run(project, READER, content, maps_of(reads=True))
    write_run(project, BLIND, answers(reads=False), maps_of(reads=False))
    return project


@pytest.fixture
def entries(project: Project) -> list[PromptTested]:
    return prompt_tested(Sources(project), [READER, BLIND])[0]


def parsed(reads: bool) -> PromptTests:
    return PromptTests.model_validate({**answers(reads), "made": {}})


def scores_of(entries: list[PromptTested]) -> list[dict[str, Any]]:
    return [{str(name): value for name, value in row.items()} for row in prompt_scores(entries).to_dict("records")]


def test_the_table_tells_a_reader_from_a_blind_system(entries: list[PromptTested]) -> None:
    reader, blind = scores_of(entries)
    assert (reader["minority_true"], reader["minority"], reader["absent"]) == (2.0, 2.0, 0.0)
    assert (blind["minority_true"], blind["minority"], blind["absent"]) == (2.0, 10.0, 10.0)
    assert (reader["nearer"], blind["nearer"]) == (0.0, 1.0)
    assert (reader["nmn"].value, blind["nmn"].value) == (0.0, 1.0)
    assert (reader["pccn"].value, blind["pccn"].value) == (1.0, 0.0)
    assert (reader["f"], reader["pictures"], reader["pairs"]) == (1.0, 3, 3)
    assert np.isnan(blind["f"])  # null in the file


def test_intervals_are_over_pictures(project: Project) -> None:
    content = answers(reads=True)
    negative = content["benchmarks"]["fsc147/test"]["negative_prompts"]
    negative["pictures"][0]["wrong"] = 5.0
    negative["nmn"] = 5 / 30
    write_run(project, READER, content, maps_of(reads=True))
    (row,) = scores_of(prompt_tested(Sources(project), [READER])[0])
    assert row["nmn"].low == 0.0 < row["nmn"].value < row["nmn"].high <= 0.5


def test_seeds_are_averaged() -> None:
    (row,) = scores_of([PromptTested(READER, {0: parsed(reads=True), 1: parsed(reads=False)})])
    assert (row["seeds"], row["minority"], row["nmn"].value, row["pccn"].value) == (2, 6.0, 0.5, 0.5)


def test_attention_before_training_comes_first(entries: list[PromptTested]) -> None:
    sheet = map_sheet("t2icount", entries)
    before, trained = ([cell.value for cell in line.cells] for line in sheet.lines)
    assert sheet.heads[2:4] == ("attention, fused", "similarity S2")
    assert before[:3] == ["before training", "drawn/val", 0.7]
    assert trained[:5] == ["T2ICount", "drawn/val", 0.9, 0.6, 1.0]


def test_what_answers_follow_is_told_once_for_benchmarks_that_are_the_same_pictures() -> None:
    row = {"id": "s", "beside": "t", "true": 2.0, "own": 3.0, "caption": 3.0, "picture": 2.0}
    found = {"stays": {"caption": 1.0, "picture": 0.0}, "pictures": [row]}
    tests = {"dataset": "drawn", "split": "test", "counterfactuals": found}
    content = {"made": {}, "selection": "last", "benchmarks": {"a/test": tests, "b/test": tests}}
    (line,) = kept_sheet("p", [PromptTested(READER, {0: PromptTests.model_validate(content)})]).lines
    assert [cell.shown for cell in line.cells] == ["T2ICount", "drawn/test", "0 %", "100 %", "–", "–", "1"]


def test_a_picture_is_shown_with_both_prompts_and_every_system(project: Project, entries: list[PromptTested]) -> None:
    shown, _ = prompt_galleries(Sources(project), entries, "x")
    assert shown is not None
    assert len(shown.groups) == 2 * len(NAMES)
    majority, minority = shown.photos[:2]
    assert (majority.prompt, majority.count, majority.points) == ("reds", 10.0, "")  # its points are not known
    assert (minority.prompt, minority.count) == ("blues", 2.0)
    assert minority.points
    truth, *cards = shown.groups[1].cards
    assert (truth.kind, truth.value) == ("truth", "2")
    assert [(card.label, card.value) for card in cards] == [("T2ICount", "2"), ("VLCounter", "10")]
    assert majority.css != minority.css


def test_strips_show_the_maps_of_the_system_that_has_attention(project: Project, entries: list[PromptTested]) -> None:
    _, strips = prompt_galleries(Sources(project), entries[::-1], "x")
    assert strips is not None
    assert "Maps of T2ICount" in strips.sentence
    assert len(strips.groups) == 2 * len(NAMES)
    _, fine, fused, similarity, density = strips.groups[0].cards
    assert [fine.label, fused.label, similarity.label] == ["attention, fine", "attention, fused", "similarity S2"]
    assert fused.words == "0 to 1"
    assert similarity.words == "0 to 1"  # its own range, not all that a cosine can be
    assert density.label == "T2ICount"


def test_a_picture_that_one_system_was_not_asked_about_is_shown_without_it(project: Project) -> None:
    content = answers(reads=True)
    pairs = content["benchmarks"]["fsc147s/v1"]["pairs"]
    pairs["pictures"] = pairs["pictures"][1:]
    maps = {key: values for key, values in maps_of(reads=True).items() if NAMES[0] not in key}
    write_run(project, READER, content, maps)
    sources = Sources(project)
    shown, strips = prompt_galleries(sources, prompt_tested(sources, [BLIND, READER])[0], "x")
    assert shown is not None and strips is not None
    assert [card.label for card in shown.groups[0].cards[1:]] == ["VLCounter"]
    assert {group.cards[0].photo.id for group in strips.groups} == set(NAMES[1:])


def test_a_damaged_file_of_maps_is_listed_and_nothing_else_is_lost(project: Project) -> None:
    path = project.root / project.prompt_test_file(project.run("vlcounter", "as_released", 0), "fsc147s/v1")
    path.with_suffix(".npz").write_bytes(b"no zip")
    sources = Sources(project)
    entries, _ = prompt_tested(sources, [READER, BLIND])
    shown, _ = prompt_galleries(sources, entries, "x")
    assert shown is not None
    assert [card.label for card in shown.groups[0].cards[1:]] == ["T2ICount"]
    assert any("damaged" in what and "test-prompts" in what for _, what in sources.problems)
    assert len(prompt_scores(entries)) == 2


def test_a_test_that_was_not_made_is_said_with_its_reason(project: Project) -> None:
    content = answers(reads=True)
    content["benchmarks"]["fsc147/test"]["mosaics"] = {"not_tested": "one class only"}
    write_run(project, READER, content, maps_of(reads=True))
    ((entry,), _) = prompt_tested(Sources(project), [READER])
    assert list(entry.reasons()) == ["T2ICount: fsc147/test, mosaics: one class only"]
    assert np.isnan(scores_of([entry])[0]["f"])


def test_a_run_without_its_file_is_named(project: Project) -> None:
    run = project.run("vlcounter", "as_released", 0)
    first, *others = (project.root / project.prompt_test_file(run, benchmark) for benchmark in run.prompt_tests)
    first.unlink()
    assert prompt_tested(Sources(project), [READER, BLIND])[1] == []  # the other benchmarks are there
    for path in others:
        path.unlink()
    assert prompt_tested(Sources(project), [READER, BLIND])[1] == ["VLCounter"]


def context_of(project: Project) -> Context:
    sources = Sources(project)
    paper = project.papers["t2icount"]
    return Context(sources, "t2icount", paper, (), (READER, BLIND), lambda *_: None)


def test_a_paper_without_prompt_tests_has_no_such_exhibits(project: Project) -> None:
    shutil.rmtree(project.root / project.results)
    assert list(exhibits(context_of(project))) == []


def test_a_system_reads_its_prompt_by_the_rule_of_recount() -> None:
    assert (reads(nmn=0.0, pccn=1.0), reads(nmn=1.0, pccn=0.0)) == (True, False)
    assert reads(nmn=0.0, pccn=0.6) is False
    assert reads(nmn=float("nan"), pccn=1.0) is None


def test_tables_are_written_in_full_precision_and_as_shown(project: Project, entries: list[PromptTested]) -> None:
    published = Sources(project).published["t2icount"]
    files = sheet_files(prompt_sheet("t2icount", prompt_scores(entries), published))
    table = pd.read_csv(io.StringIO(files["csv"])).set_index("System")
    assert table.loc["VLCounter", "Minority"] == 10
    assert table["F"].isna()["VLCounter"]
    assert {"NMN", "NMN low", "NMN high"} <= set(table)
    assert r"\begin{tabular}{lrrr" in files["tex"]
    assert "| T2ICount | 1 |" in files["md"]


def test_heat_is_coloured_between_its_limits() -> None:
    uri = heat_uri(np.array([[0.0, 0.5], [1.0, np.nan]]), 0.0, 1.0, "inferno")
    picture = Image.open(io.BytesIO(base64.b64decode(uri.partition(",")[2]))).convert("L")
    dark, middle, bright, nothing = np.asarray(picture).ravel()
    assert dark < middle < bright
    assert nothing == dark


def test_the_page_holds_every_section_with_text_escaped(project: Project) -> None:
    folder = write_report(project, part).parent / "t2icount"
    page, pictures = ((folder / name).read_text(encoding="utf-8") for name in ("index.html", "pictures.html"))
    for name in ("real", "prompts", "asked", "maps", "trainlog"):
        text = pictures if name in ("asked", "maps") else page
        assert f'<section id="t2icount-{name}"' in text
        assert f'href="#t2icount-{name}"' in text
    for name in ("prompts", "maps", "real-table1", "real-table2", "real-table3"):
        assert f'href="../tables/t2icount-{name}.csv"' in page + pictures
    assert "a&lt;b&gt;" in page + pictures
    assert "a<b>" not in page + pictures
    assert "1.312" in page  # PrACo's published CLIP-Count, quoted beside ours
    assert "CountSE" in page
