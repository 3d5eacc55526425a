"""Somebody else's counter: from a file or a function into the tables, beside the others, and out again."""

import csv
import json
import math
import re
import shlex
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner, Result

from prepared import written
from projects import ROOT, copy_settings, csv_rows, experiment
from recount.chain import Chain, Unfit
from recount.cli import app
from recount.judging.judge import judge
from recount.judging.submitted import _among_all
from recount.report.sources import Sources
from recount.report.tables import paper_tables
from recount.results.submissions import Against, Submission, submissions
from recount.settings.project import Project, load
from recount.verify import Verification, mend
from small_project import TRUE, cells_of, make_project, predict

ON = ("--benchmark", "shown/test")
MINE = ("submit", "mine.csv", *ON, "--name", "My counter")


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Project:
    monkeypatch.chdir(tmp_path)
    project = make_project(tmp_path)
    predict(project, "good/full/seed0", {"last": [5.0, -4.0, 6.0, 3.0, -5.0, 4.0]})
    write({f"s{k}": count for k, count in enumerate(TRUE)})
    return project


def write(counts: dict[str, Any], name: str = "mine.csv", *more: str) -> None:
    Path(name).write_text("\n".join(["id,count", *(f"{key},{count}" for key, count in counts.items()), *more]))


def run(*command: str) -> Result:
    return CliRunner().invoke(app, [*command], env={"COLUMNS": "200"})


def test_a_table_becomes_a_row_a_comparison_and_a_verdict(project: Project) -> None:
    answer = run(*MINE, "--paper", "https://example.org", "--output", "out.json")
    assert answer.exit_code == 0, answer.output
    said = json.loads(Path("out.json").read_text())
    assert said["metrics"]["mae"]["value"] == 0
    assert {row["against"]: row["verdict"] for row in said["against"]} == {
        "good/full": "leans better",  # one seed
        "best_constant": "undecided",  # six pictures, one of which weighs most
    }
    rows = cells_of(project, system="submitted", metric="mae")
    assert [(row["table"], row["variant"], row["status"], float(row["value"])) for row in rows] == [
        ("table1", "my_counter", "submitted", 0.0)
    ]
    judge(project)
    (mine, *_) = csv_rows(project.root / project.results / "submitted.csv")
    assert (mine["counter"], mine["against"], mine["value_against"]) == ("submitted/my_counter", "good/full", "4.5")
    assert mine["verdict"] == "leans better"
    table = next(table for table in paper_tables(Sources(project), "paper") if table.name == "table1")
    (row,) = [row for row in table.rows if row.system == "submitted"]
    assert (row.label, row.status) == ("My counter", "submitted")
    assert "leans better: good/full" in row.note and "https://example.org" in row.note


ALL = {f"s{k}": 1 for k in range(len(TRUE))}


@pytest.mark.parametrize(
    ("counts", "more", "told"),
    [
        ({key: 1 for key in ALL if key != "s2"}, (), "1 images have no prediction: s2"),
        (ALL | {"s9": 1}, (), "1 images are not in .*: s9; in suite small, dots/test stands for shown/test"),
        (ALL, ("s3,1",), "s3: occurs twice"),
        (ALL | {"s1": "nan"}, (), "s1"),
        (ALL | {"s1": "many"}, (), "s1: 'many'"),
    ],
)
def test_ids_and_counts_are_checked_and_nothing_is_written(project: Project, counts: Any, more: Any, told: str) -> None:
    write(counts, "mine.csv", *more)
    answer = run(*MINE)
    assert answer.exit_code == 1 and re.search(told, answer.output), answer.output
    assert "mine.csv: " in answer.output
    assert not list(submissions(project))


@pytest.mark.parametrize(
    ("command", "told"),
    [
        (("submit", "mine.csv", "--benchmark", "shown/tset", "--name", "x"), "the nearest is shown/test"),
        (
            ("submit", "mine.csv", "--benchmark", "hidden/test", "--name", "x"),
            "has nothing that stands for hidden/test",
        ),
        (("submit", "mine.csv", *ON, "--name", "!"), "letters a-z or digits"),
        (("submit", "mine.csv", *ON, "--name", "x", "--paper", "javascript:x"), "expected an address"),
        (("submit", "mine.csv", *ON), "give a file, --benchmark and --name"),
        (("submit", "--remove", "--name", "x"), "nothing of that name was submitted; there is: nothing"),
        (("submit", "mine.csv", *ON, "--name", "x", "--output", "a.pdf"), "ends in .txt, .json, .csv, .md, .html"),
        (("predict", "--with", "counters:count"), "or --with, --benchmark and --name"),
        (("questions", "shown/test", "--prompts"), "benchmarks that name what is counted"),
    ],
)
def test_what_is_wrong_is_one_line(project: Project, command: tuple[str, ...], told: str) -> None:
    answer = run(*command)
    assert answer.exit_code == 1 and told in answer.output and answer.output.count("\n") == 1, answer.output
    assert not list(submissions(project))


def test_two_names_of_one_folder_are_refused_and_the_same_name_replaces(project: Project) -> None:
    run(*MINE)
    assert "'My counter' is there" in run("submit", "mine.csv", *ON, "--name", "my-counter").output
    write(ALL)
    assert "replaced what was submitted before" in run(*MINE).output
    (path,) = submissions(project)
    assert set(Chain(project).submission(path)[1].predicted) == {1.0}


@pytest.mark.parametrize("broken", ["test.csv", "test.json", "data"])
def test_what_was_changed_is_found_not_scored_and_moved_aside(project: Project, broken: str) -> None:
    run(*MINE)
    (path,) = submissions(project)
    if broken == "data":
        index = project.root / project.index(Submission.read(path).place)
        written(index, [[f"s{k}", "test", "", "", 2, 8, 8, "", "", "{}"] for k in range(6)])
    else:
        file = path.with_name(broken)
        file.write_bytes(file.read_bytes().replace(b"s1", b"s2", 1).replace(b"My counter", b"Our counter"))
    with pytest.raises(Unfit):
        Chain(project).submission(path)
    (row,) = cells_of(project, system="submitted", metric="mae")
    assert row["status"] == "missing" and row["reason_kind"] in ("damaged", "stale")
    mend(project, Verification(project).findings())
    assert not path.is_file() and not path.with_suffix(".csv").is_file()
    assert not [finding for finding in Verification(project).findings() if "submitted/" in finding.path]


def test_scores_from_before_a_submission_and_after_its_removal_are_stale(project: Project) -> None:
    def why() -> list[str]:
        return [f.why for f in Verification(project).findings() if f.path.endswith("scores.made.json") and f.unfit]

    cells_of(project)
    assert why() == []
    run(*MINE)
    assert "made without submitted/my_counter" in why()[0]
    cells_of(project)
    assert why() == []
    assert "removed" in run("submit", "--remove", "--name", "My counter").output
    assert "submitted/my_counter/dots/test.json" in why()[0]
    assert cells_of(project, system="submitted") == [] and why() == []


COUNTERS = """
import numpy as np

def count(image, prompt): return np.asarray(image, float)[..., 0] / 255
def number(image, prompt): return np.float32(7)
def raises(image, prompt): raise ValueError("two\\nlines")
def nan(image, prompt): return [[float("nan")]]
def text(image, prompt): return "3"
def true(image, prompt): return True
def nothing(image, prompt): return None
def three(image, prompt): return np.zeros((2, 3, 4))
def ragged(image, prompt): return [[1], [1, 2]]
"""


@pytest.fixture
def pictured(project: Project, monkeypatch: pytest.MonkeyPatch) -> Project:
    """The same project with pictures: the first has two white pixels, the second one."""
    folder = project.root / "resources/data/dots/original"
    rows = []
    for k, white in enumerate((2, 1)):
        pixels = np.zeros((4, 4, 3), np.uint8)
        pixels[0, :white] = 255
        Image.fromarray(pixels).save(folder / f"p{k}.png")
        rows.append([f"s{k}", "test", f"p{k}.png", "", white, 4, 4, "", "", "{}"])
    written(folder / "index.csv", rows)
    Path("counters.py").write_text(COUNTERS)
    monkeypatch.delitem(__import__("sys").modules, "counters", raising=False)
    return load(project.root)


@pytest.mark.parametrize(("function", "counts", "maps"), [("count", [2, 1], True), ("number", [7, 7], False)])
def test_a_function_counts_and_its_maps_are_kept(
    pictured: Project, function: str, counts: list[float], maps: bool
) -> None:
    answer = run("predict", "--with", f"counters:{function}", *ON, "--name", "Mine")
    assert answer.exit_code == 0, answer.output
    (path,) = submissions(pictured)
    record, predictions = Chain(pictured).submission(path)
    assert predictions.predicted.tolist() == counts
    assert set(record.files) == {"counters.py"} and record.came_from == f"counters:{function}"
    assert path.with_suffix(".npz").is_file() == maps
    if maps:
        with np.load(path.with_suffix(".npz")) as stored:
            assert stored["last/s0"].sum() == 2


@pytest.mark.parametrize(
    ("function", "told"),
    [
        ("counters:raises", "sample s0: the function raised ValueError: two lines (counters.py, line 6)"),
        ("counters:nan", "sample s0: the function returned nan"),
        ("counters:text", "sample s0: the function returned str"),
        ("counters:true", "sample s0: the function returned bool"),
        ("counters:nothing", "sample s0: the function returned NoneType"),
        ("counters:three", "sample s0: the function returned an array of float64 [2, 3, 4]"),
        ("counters:ragged", "sample s0: the function returned"),
        ("counters:nosuch", "counters has no function nosuch"),
        ("nosuch_module:f", "nosuch_module cannot be imported: ModuleNotFoundError"),
        ("counters", "expected module:function"),
    ],
)
def test_what_a_function_does_wrong_is_one_line(pictured: Project, function: str, told: str) -> None:
    answer = run("predict", "--with", function, *ON, "--name", "Mine")
    assert answer.exit_code == 1 and told in answer.output and answer.output.count("\n") == 1, answer.output
    assert not list(submissions(pictured))


def test_other_prompts_are_asked_and_their_answers_scored(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    good = experiment("Good", {"full": "full", "unrun": "u", "released": "r"}, trained_on="shown/train",
                      evaluated_on=["shown/test"])  # fmt: skip
    make_project(tmp_path, experiments={"good": good})
    benchmarks = Path("benchmarks.yaml")
    benchmarks.write_text(benchmarks.read_text().replace("kind: crowd", "kind: text"))
    rows = [[f"s{k}", "test", "", ("cats", "dogs")[k % 2], k + 1, 8, 8, "", "", "{}"] for k in range(4)]
    written(tmp_path / "resources/data/dots/original/index.csv", rows)
    asked = list(csv.DictReader(run("questions", "shown/test", "--prompts").stdout.splitlines()))
    assert {(row["id"], row["prompt"]) for row in asked} == {(f"s{k}", p) for k in range(4) for p in ("cats", "dogs")}
    right = {row[0]: row[3] for row in rows}
    lines = [f"{r['id']},{r['prompt']},{(right[r['id']] == r['prompt'] and int(r['id'][1]) + 1) or 0}" for r in asked]
    Path("answers.csv").write_text("\n".join(["id,prompt,count", *lines]))
    Path("mine.csv").write_text("\n".join(["id,count", *(f"{row[0]},{row[4]}" for row in rows)]))
    answer = run("submit", "mine.csv", *ON, "--name", "Mine", "--prompts", "answers.csv")
    assert "NP 1 (ideal 1), NMN 0 (ideal 0), PCCN 100 %" in answer.output, answer.output
    Path("answers.csv").write_text("\n".join(["id,prompt,count", *lines[:-1], "s0,cows,3"]))
    refused = run("submit", "mine.csv", *ON, "--name", "Mine", "--prompts", "answers.csv")
    assert "1 questions have no answer: s3 (" in refused.output
    assert "answers are to no question: s0 (cows)" in refused.output


def test_the_example_of_the_readme(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    section = (ROOT / "README.md").read_text(encoding="utf-8").split("## Your own counter")[1].split("\n## ")[0]
    code = re.findall(r"```(\w+)\n(.*?)```", section, re.DOTALL)
    monkeypatch.chdir(copy_settings(tmp_path))
    (python,) = [text for language, text in code if language == "python"]
    Path("my_counter.py").write_text(python)
    counters = []
    for line in "".join(text for language, text in code if language == "sh").splitlines():
        command = shlex.split(line, comments=True)[1:]
        target = command[command.index(">") + 1] if ">" in command else None
        answer = run(*(command[: command.index(">")] if target else command))
        assert answer.exit_code == 0, (line, answer.output)
        if target:
            rows = list(csv.DictReader(answer.stdout.splitlines()))
            Path(target).write_text("\n".join(["id,count", *(f"{row['id']},2" for row in rows)]))
        counters.append([path.parents[1].name for path in submissions(load())])
    assert counters == [[], [], ["my_counter"], ["edges", "my_counter"], ["my_counter"]]


def test_an_export_holds_it_and_compare_compares_it(project: Project) -> None:
    Path("Snakefile").touch()

    def exported(name: str, counts: dict[str, float]) -> str:
        write(counts)
        for command in (MINE, ("score",), ("judge",), ("export", name)):
            assert (answer := run(*command)).exit_code == 0, answer.output
        return name

    right = {f"s{k}": count for k, count in enumerate(TRUE)}
    a, b = exported("a", right), exported("b", {key: 3 * count for key, count in right.items()})
    rows = [row for row in csv_rows(Path(a, "tables/predictions.csv")) if row["system"] == "submitted"]
    assert [(row["variant"], row["seed"], float(row["predicted_count"])) for row in rows] == [
        ("my_counter", "", count) for count in TRUE
    ]
    assert Path(a, "results/submitted/my_counter/dots/test.json").is_file()
    said = json.loads(run("compare", a, b, "--json").stdout)
    cells = {cell["metric"]: cell for cell in said["cells"] if cell["system"] == "submitted"}
    assert (cells["mae"]["a"]["value"], cells["mae"]["outcome"]) == (0, "agree")  # six pictures decide little
    assert cells["mae"]["b"]["value"] == pytest.approx(2 * np.mean(TRUE))
    assert math.isfinite(cells["mae"]["p_value"])
    table = Path(b, "results/submitted/my_counter/dots/test.csv")
    table.write_text(table.read_text().replace("30.0", "31.0"))
    damaged = json.loads(run("compare", a, b, "--json").stdout)
    assert [why for why in damaged["unfit"] if "submitted/my_counter/dots/test.csv: damaged" in why]
    cell = next(cell for cell in damaged["cells"] if cell["system"] == "submitted" and cell["metric"] == "mae")
    assert cell["outcome"] == "only A"


@pytest.mark.parametrize(
    ("verdict", "p", "said"),
    [("better", 0.01, "better"), ("worse", 0.07, "leans worse"), ("leans better", 0.07, "leans better"),
     ("leans worse", 0.2, "undecided"), ("better", 0.2, "undecided"), ("not tested", math.nan, "not tested")],
)  # fmt: skip
def test_the_word_goes_with_the_p_value_that_is_shown(verdict: str, p: float, said: str) -> None:
    assert _among_all(Against("submitted/a", "A", "b/c", "d", "d/test", "mae", "last", verdict=verdict), p) == said
