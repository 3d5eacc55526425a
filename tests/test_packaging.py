"""pyproject.toml, requirements.lock, environment.yml and workflow/envs name the same packages with the same bounds."""

import re
import sys
import tomllib
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

from conda_files import conda_requirements
from recount import datasets, provenance, systems

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
