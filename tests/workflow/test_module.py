"""The workflow as a module of another one: its project in a folder of its own, its config one key of the other's."""

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from house import EVERY_JOB, Answer, House, snakemake

OUTER = """
configfile: "outer.yaml"


rule all:
    input:
        "summary.txt",


rule fetch:
    output:
        "mine.txt",
    shell:
        "echo mine > {{output}} && cat {{output}} | head -c 0 && ! (false | true)"


module recount:
    snakefile:
        "{snakefile}"
    config:
        config["counting"]
    {place}


use rule * from recount as recount_*


use rule train from recount as recount_train with:
    threads: 1


rule summary:
    input:
        "mine.txt",
        "counting/results/mini/scores.csv",
        "counting/reports/mini",
    output:
        "summary.txt",
    shell:
        "wc -l {{input[1]}} > {{output}}"
"""
Outer = Callable[..., Answer]


@pytest.fixture
def outer(house: House) -> Outer:
    """Return a call of Snakemake in a folder with another workflow, whose folder ``counting`` is the project."""
    folder = house.folder / "outer"
    shutil.copytree(house.work, folder / "counting")
    house.work = folder / "counting"

    def call(*options: str, place: str = 'prefix: "counting"', config: str = "{seeds: [0]}", more: str = "") -> Answer:
        snakefile = OUTER.format(snakefile=house.folder / "Snakefile", place=place)
        (folder / "Snakefile").write_text(snakefile + more)
        (folder / "outer.yaml").write_text(f"samples: [a]\ncounting: {config}\n")
        return snakemake("--cores", "2", *options, work=folder, source=house.folder / "src", environment={})

    return call


def test_another_workflow_runs_this_one_and_reads_its_results(house: House, outer: Outer) -> None:
    answer = outer()
    assert answer.code == 0, answer.text
    assert house.calls() == EVERY_JOB
    made = {path.name for path in house.work.parent.iterdir()}
    assert {"summary.txt", "mine.txt"} <= made
    assert not made & {"results", "resources", "reports", "logs", "benchmarks"}
    assert list((house.work / "logs" / "mini" / "train").rglob("*.log"))
    assert "Nothing to be done" in outer().text


@pytest.mark.more
def test_its_config_is_laid_over_the_projects(house: House, outer: Outer) -> None:
    answer = outer("--dry-run", config="{seeds: [3]}")
    assert answer.code == 0, answer.text
    assert "counting/results/mini/runs/alpha/full/seed3/run.json" in answer.text
    assert "seed0" not in answer.text


@pytest.mark.more
@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"config": "{sedes: [0]}"}, "sedes"),
        ({"config": "{results: ../elsewhere}"}, "results = ../elsewhere: a module's prefix cannot be left by .."),
        ({"place": 'prefix: "nowhere"'}, "there is no config.yaml in"),
        ({"place": 'replace_prefix: {"results": "counting"}'}, "instead of replace_prefix give the module a prefix"),
        ({"more": 'module again:\n    snakefile: "{0}"\n    config: {{"seeds": [1]}}\n    prefix: "counting"\n'
          "use rule * from again as again_*\n"}, "one workflow can use recount as a module once"),
    ],
)  # fmt: skip
def test_what_cannot_be_a_module_is_one_line(
    house: House, outer: Outer, changed: dict[str, str], said: str, tmp_path: Path
) -> None:
    if "more" in changed:
        changed = {"more": changed["more"].format(house.folder / "Snakefile")}
    answer = outer("--dry-run", **changed)
    assert answer.code == 1
    assert said in answer.text
    assert "Traceback" not in answer.text
