"""``--use-conda``: the real commands, each in an environment of nothing but what the conda file of its rule declares.

Real conda is not run: a stand-in for it builds the environments with uv. ``make test-environments``; it needs a package
registry.
"""

import json
import os
import shutil
import subprocess
from pathlib import Path

import pytest
import stand_in_conda
from house import ROOT, Answer, copy_config, snakemake

from conda_files import conda_requirements
from projects import experiment, write_project

pytestmark = [pytest.mark.environments, pytest.mark.timeout(1800)]

TRAIN, TEST, TEXT = "ucf_qnrf/train", "ucf_qnrf/test", "fsc147s/v1"
EXPERIMENTS = {
    "mcnn": experiment("MCNN", {"rgb": "MCNN"}, trained_on=TRAIN, evaluated_on=[TEST]),
    "t2icount": {
        **experiment("T2ICount", {"full": "T2ICount"}, trained_on=TEXT, evaluated_on=[TEXT]),
        "prompt_tests": {TEXT: ["pairs", "maps"]},
    },
}
TABLES = {"table1": (TEST, "mcnn/rgb"), "table2": (TEXT, "t2icount/full")}
PAPER = {"tables": {name: {"title": name, "on": on, "rows": [run]} for name, (on, run) in TABLES.items()}}
SUITE = {
    "title": "For the test of the environments",
    "comparable": False,
    "why_not_comparable": "it is a test",
    "prompt_test_pictures": 2,
    "benchmarks": {
        TRAIN: {"dataset": "crowd", "split": "train"},
        TEST: {"dataset": "crowd", "split": "test"},
        TEXT: {"dataset": "shapes_minority", "split": "test"},
    },
    "systems": {name: {"size": "mini", "recipe": {"epochs": 1}} for name in ("mcnn", "t2icount")},
}


@pytest.fixture(scope="module")
def conda(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder of the stand-in; its environments lie beside."""
    uv = stand_in_conda.uv()
    if uv is None:
        pytest.skip("uv is not installed (make test-environments does it)")
    asked = [uv, "pip", "compile", "--quiet", "--no-deps", "--refresh", "-"]
    answer = subprocess.run(asked, input="typer", capture_output=True, text=True, check=False)
    if answer.returncode:
        pytest.skip(f"no package registry answers: {answer.stderr.strip()}")
    folder = tmp_path_factory.mktemp("conda")
    stand_in_conda.install(folder)
    return folder


def run(conda: Path, house: Path, work: Path, *options: str) -> Answer:
    """Run the workflow with environments, which stay for the next run."""
    everywhere = ["--snakefile", str(house / "Snakefile"), "--cores", "all"]
    environments = ["--use-conda", "--conda-prefix", str(conda / "envs")]
    variables = {
        "PATH": os.pathsep.join([str(conda / "bin"), *os.get_exec_path()]),
        "PYTHONDONTWRITEBYTECODE": "",  # the environments come without bytecode: only the first job is to compile them
    }
    return snakemake(*everywhere, *environments, *options, work=work, source=ROOT / "src", environment=variables)


@pytest.fixture(scope="module")
def work(conda: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder in which a tiny suite has been run to its report."""
    work = tmp_path_factory.mktemp("environments") / "work"
    write_project(work, experiments=EXPERIMENTS, papers={"demo": PAPER}, suite=SUITE, config={"suite": "mini"})
    copy_config(work)
    answer = run(conda, ROOT, work)
    assert answer.code == 0, answer.text
    return work


def test_the_suite_comes_to_its_report(work: Path) -> None:
    assert (work / "reports" / "mini" / "index.html").is_file()
    page = "".join(path.read_text(encoding="utf-8") for path in (work / "reports" / "mini").rglob("*.html"))
    assert all(name in page for name in ("MCNN", "T2ICount"))


def test_every_job_runs_in_the_environment_of_its_rule(work: Path) -> None:
    environments = (work / "environments.txt").read_text(encoding="utf-8").splitlines()
    assert {line: environments.count(line) for line in environments} == {
        "# recount fetch, recount prepare": 4,
        "# recount train, recount predict, recount test-prompts": 5,
        "# recount score, recount judge, recount report": 3,
    }


def test_a_job_sees_the_packages_of_its_environment_and_not_those_of_the_tests(work: Path) -> None:
    record = json.loads((work / "results/mini/runs/mcnn/rgb/seed0/run.json").read_text(encoding="utf-8"))
    packages = set(record["provenance"]["packages"])
    declared = set(conda_requirements(ROOT / "workflow" / "envs" / "train.yaml")) - {"python"}
    assert declared - packages == set()
    assert packages & {"pytest", "snakemake", "seaborn"} == set()


@pytest.mark.parametrize(
    ("environment", "package", "module", "product"),
    [
        ("data", "pillow", "PIL", "resources/data/crowd/original/index.csv"),
        ("train", "accelerate", "accelerate", "results/mini/runs/mcnn/rgb/seed0/run.json"),
        ("report", "seaborn", "seaborn", "reports/mini"),
    ],
)
def test_a_package_that_one_file_forgets_fails_the_job(
    environment: str, package: str, module: str, product: str, conda: Path, work: Path, tmp_path: Path
) -> None:
    workflow, copy = tmp_path / "workflow", tmp_path / "work"
    shutil.copytree(ROOT / "workflow", workflow)
    shutil.copytree(ROOT / "profiles", tmp_path / "profiles")
    shutil.copy(ROOT / "Snakefile", tmp_path)
    shutil.copytree(work, copy)
    file = workflow / "envs" / f"{environment}.yaml"
    lines = file.read_text(encoding="utf-8").splitlines(keepends=True)
    kept = [line for line in lines if not line.startswith(f"  - {package}>=")]
    assert len(kept) == len(lines) - 1
    file.write_text("".join(kept), encoding="utf-8")
    answer = run(conda, tmp_path, copy, "--no-hooks", "--rerun-triggers", "mtime", "--force", product)
    assert answer.code != 0, answer.text
    assert f"No module named '{module}'" in answer.text
