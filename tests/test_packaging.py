"""Packages and bounds are the same in pyproject.toml, requirements.lock and the conda files; the wheel is whole."""

import os
import re
import shutil
import subprocess
import sys
import tomllib
import zipfile
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version
from typer.testing import CliRunner

from conda_files import conda_requirements
from recount import datasets, init, provenance, systems
from recount.cli import app

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
ENVIRONMENTS = {path.stem: path for path in sorted((ROOT / "workflow" / "envs").glob("*.yaml"))}
# What the command line, the configuration and the provenance need; every job imports them.
COMMAND = {"jsonschema", "platformdirs", "psutil", "pydantic", "pyyaml", "typer"}
STEPS_OF: dict[str, tuple[provenance.Step, ...]] = {
    "data": ("fetch", "prepare"),
    "train": ("train", "predict", "test_prompts"),
    "report": ("score", "report"),
}


def requirements(lines: list[str]) -> dict[str, str]:
    """Return name -> bounds."""
    parsed = [Requirement(line) for line in lines]
    return {canonicalize_name(requirement.name): str(requirement.specifier) for requirement in parsed}


def declared() -> dict[str, str]:
    return requirements(PROJECT["dependencies"])


def conda_packages(path: Path) -> dict[str, str]:
    """Return the packages of a conda file with their bounds, without Python and pip themselves."""
    found = conda_requirements(path)
    return {name: str(found[name].specifier) for name in found if name not in ("python", "pip")}


def locked() -> dict[str, list[Version]]:
    text = (ROOT / "requirements.lock").read_text(encoding="utf-8")
    found: dict[str, list[Version]] = {}
    for name, version in re.findall(r"^([a-z0-9-]+)==(\S+)", text, flags=re.MULTILINE):
        found.setdefault(name, []).append(Version(version))
    return found


def imported_by(step: provenance.Step) -> set[str]:
    """Return the packages, by their names of pyproject.toml, that any job of ``step`` may import."""
    names = {"datasets": datasets.names(), "systems": systems.names()}
    kind = provenance.PLUGINS.get(step)
    fetcher = ("recount.fetching.fetch",) if step == "fetch" else ()
    plugins = [f"recount.{kind}.{name}" for name in names[kind]] if kind else []
    code_base, roots = provenance.step_roots(step)
    modules = code_base.outside_imports([*roots, *fetcher, *plugins]) - set(sys.stdlib_module_names)
    owners = packages_distributions()
    found = {canonicalize_name(owners.get(module, [module])[0]) for module in modules}
    return (found - optional()) | COMMAND


def optional() -> set[str]:
    """Return the packages of the extras; code that imports one says how to install it where it is missing."""
    extras = PROJECT["optional-dependencies"]
    return {name for extra, lines in extras.items() if extra != "dev" for name in requirements(lines)}


def test_environment_yml_has_the_packages_and_bounds_of_pyproject_and_what_runs_the_tests() -> None:
    dev = requirements(PROJECT["optional-dependencies"]["dev"])
    tests = {name: dev[name] for name in ("hypothesis", "pytest", "pytest-timeout", "pytest-xdist")}
    assert conda_packages(ROOT / "environment.yml") == declared() | tests


@pytest.mark.parametrize("name", ENVIRONMENTS)
def test_job_environment_has_bounds_of_pyproject(name: str) -> None:
    packages = conda_packages(ENVIRONMENTS[name])
    assert packages == {package: declared().get(package) for package in packages}


@pytest.mark.parametrize("name", ENVIRONMENTS)
def test_job_environment_has_all_that_its_steps_import(name: str) -> None:
    imported = set().union(*(imported_by(step) for step in STEPS_OF[name]))
    assert imported - set(conda_packages(ENVIRONMENTS[name])) == set()


@pytest.mark.parametrize("path", [ROOT / "environment.yml", *ENVIRONMENTS.values()], ids=lambda path: path.stem)
def test_conda_file_takes_python_from_pyproject_and_no_default_channel(path: Path) -> None:
    content = yaml.safe_load(path.read_text(encoding="utf-8"))
    assert content["dependencies"][0] == f"python{PROJECT['requires-python']}"
    assert content["channels"][0] == "conda-forge"
    assert content["channels"][-1] == "nodefaults"


def test_lock_holds_every_package_within_the_bounds_of_pyproject() -> None:
    development = requirements(PROJECT["optional-dependencies"]["dev"])
    versions = locked()
    for name, bounds in (declared() | development).items():
        requirement = Requirement(f"{name}{bounds}")
        assert versions.get(name), f"{name} is not in requirements.lock: make lock"
        assert all(requirement.specifier.contains(version) for version in versions[name]), f"{name}: make lock"


def test_lock_has_a_checksum_for_each_package_and_names_no_index() -> None:
    text = (ROOT / "requirements.lock").read_text(encoding="utf-8")
    entries = re.split(r"\n(?=[a-z0-9])", text[text.index("\naccelerate") + 1 :])
    assert all("--hash=sha256:" in entry for entry in entries)
    assert "://" not in text
    assert "--index" not in text


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with what the wheel holds, as pip would install it."""
    folder = tmp_path_factory.mktemp("wheel")
    build = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(folder)]
    subprocess.run(build, cwd=ROOT, check=True, capture_output=True)
    (wheel,) = folder.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(folder / "site")
    return folder / "site"


def recount(installed: Path, folder: Path, *command: str) -> str:
    """Run the installed recount without network, cache or home; return what it prints."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("RECOUNT_", "XDG_"))}
    environment |= {"PYTHONPATH": str(installed), "HOME": "/proc/none", "TMPDIR": str(folder), "COLUMNS": "200"}
    environment |= {"https_proxy": "http://127.0.0.1:9", "http_proxy": "http://127.0.0.1:9"}
    done = subprocess.run(
        [sys.executable, "-m", "recount", *command],
        check=False,
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


def test_the_wheel_makes_a_project_and_never_overwrites_without_saying(installed: Path, tmp_path: Path) -> None:
    recount(installed, tmp_path, "init", "mine")
    for name in init.FILES:
        there = sorted(p.relative_to(ROOT) for p in (ROOT / name).rglob("*") if p.is_file() and p.suffix != ".pyc")
        for file in there or [Path(name)]:
            assert (tmp_path / "mine" / file).read_bytes() == (ROOT / file).read_bytes(), file
    config = tmp_path / "mine" / "config.yaml"
    config.write_text("suite: open\n")
    (tmp_path / "mine" / "benchmarks.yaml").unlink()
    said = recount(installed, tmp_path, "init", "mine")
    assert "kept, though recount has another: mine/config.yaml" in said and "1 files written" in said
    assert config.read_text() == "suite: open\n"
    assert "overwritten: mine/config.yaml" in recount(installed, tmp_path, "init", "mine", "--overwrite")
    assert config.read_bytes() == (ROOT / "config.yaml").read_bytes()


def test_an_installed_recount_runs_the_workflow_of_its_project_with_a_home_that_cannot_be_written(
    installed: Path, tmp_path: Path
) -> None:
    recount(installed, tmp_path, "init", ".")
    said = recount(installed, tmp_path, "run", "-n", "--config", "systems=[mcnn]")
    jobs = dict(re.findall(r"^(\w+) +(\d+)$", said, re.MULTILINE))
    assert jobs["train"] == "1" and jobs["report"] == "1", said


@pytest.mark.parametrize("there", [(), ("Snakefile", "config.yaml")])
def test_an_installation_without_its_project_files_is_one_line(
    there: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    package = tmp_path / "site-packages" / "recount"
    (package / "project").mkdir(parents=True)
    for name in there:
        shutil.copy(ROOT / name, package / "project")
    monkeypatch.setattr("recount.init.PACKAGE", package)
    answer = CliRunner().invoke(app, ["init", str(tmp_path / "mine")])
    assert answer.exit_code == 1
    message = answer.stderr.strip()
    assert message.startswith(
        f"recount: {package / 'project'}: the project's files that come with recount are not there"
    )
    assert "\n" not in message and "experiments" in message and ("Snakefile" in message) != bool(there)
    assert not (tmp_path / "mine").exists()


def test_run_without_a_project_says_what_makes_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for command in (["run", "-n"], ["plan"]):
        answer = CliRunner().invoke(app, command)
        assert answer.exit_code == 1 and "`recount init DIR`" in answer.output


def test_every_supported_python_is_declared() -> None:
    declared_versions = {name.rpartition(" ")[2] for name in PROJECT["classifiers"]}
    assert declared_versions == {"3.11", "3.12", "3.13", "3.14"}
    assert ".".join(map(str, sys.version_info[:2])) in declared_versions
