"""The Dockerfile and the Apptainer definition: read as their tools read them, since neither tool is here."""

import fnmatch
import json
import re
import shlex
import shutil
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest
from packaging.specifiers import SpecifierSet
from typer.main import get_command

from recount.cli import app

ROOT = Path(__file__).parents[1]
PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
PROJECT = PYPROJECT["project"]
DOCKERFILE = (ROOT / "Dockerfile").read_text(encoding="utf-8")
DEFINITION = (ROOT / "recount.def").read_text(encoding="utf-8")
KNOWN = {"FROM", "WORKDIR", "COPY", "RUN", "ENV", "USER", "ENTRYPOINT", "CMD"}
OF_THE_BASE = {"python", "useradd", "install", "rm", "export", "exec"}  # Debian's, its shell's, and Python's image


def instructions() -> list[tuple[str, str]]:
    """Return (instruction, its arguments) of the Dockerfile, continued lines joined."""
    lines = [line for line in DOCKERFILE.splitlines() if line.strip() and not line.startswith("#")]
    found = [line.partition(" ") for line in "\n".join(lines).replace("\\\n", " ").splitlines()]
    return [(name, arguments.strip()) for name, _, arguments in found]


def sections() -> dict[str, list[str]]:
    """Return the lines of each section of the definition; "" is its head."""
    found: dict[str, list[str]] = {"": []}
    for line in DEFINITION.splitlines():
        if line.startswith("%"):
            found[line.strip("% ")] = []
        elif line.strip() and not line.startswith("#"):
            found[list(found)[-1]].append(line.strip())
    return found


def copied_by_docker() -> dict[Path, Path]:
    """Return source -> target below /source of what the first stage copies from here."""
    found = {}
    for name, arguments in instructions():
        *sources, target = shlex.split(arguments)
        if name == "COPY" and not sources[0].startswith("--from"):
            for source in sources:
                found[Path(source)] = Path(source) if target == "./" else Path(target)
    return found


def copied_by_apptainer() -> dict[Path, Path]:
    """Return the same of %files; a folder is copied into its target, a file to it."""
    found = {}
    for line in sections()["files"]:
        source, target = map(Path, shlex.split(line))
        below = target.relative_to("/source")
        found[source] = below / source.name if (ROOT / source).is_dir() else below
    return found


def ignored(path: Path) -> bool:
    """Return whether .dockerignore keeps a path of the top folder from the image: its last line that fits decides."""
    out = False
    for line in (ROOT / ".dockerignore").read_text(encoding="utf-8").splitlines():
        if line and not line.startswith("#") and fnmatch.fnmatch(str(path), line.lstrip("!")):
            out = not line.startswith("!")
    return out


def commands() -> list[list[str]]:
    """Return the words of each command that builds or starts either image."""
    said = [arguments for name, arguments in instructions() if name == "RUN"]
    said += [line for part in ("post", "environment", "runscript", "test") for line in sections()[part]]
    return [shlex.split(each) for line in said for each in line.split("&&")]


def test_both_copy_the_same_files_which_are_here_and_not_ignored() -> None:
    docker, apptainer = copied_by_docker(), copied_by_apptainer()
    assert docker == apptainer
    assert all((ROOT / source).exists() and not ignored(source) for source in docker)
    wheel = PYPROJECT["tool"]["hatch"]["build"]["targets"]["wheel"]
    assert {Path(Path(source).parts[0]) for source in wheel["force-include"]} <= docker.keys()
    assert all(ignored(Path(name)) for name in (".venv", "results", "resources", "shared", ".git"))


@pytest.mark.more
def test_what_they_copy_builds_the_whole_wheel(tmp_path: Path) -> None:
    (tmp_path / "source").mkdir()
    for source, target in copied_by_docker().items():
        copy = shutil.copytree if (ROOT / source).is_dir() else shutil.copy
        copy(ROOT / source, tmp_path / "source" / target)
    names: list[set[str]] = []
    for place in (ROOT, tmp_path / "source"):
        out = tmp_path / f"wheel{len(names)}"
        build = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(out)]
        subprocess.run(build, cwd=place, check=True, capture_output=True)
        names.append(
            {name for name in zipfile.ZipFile(next(out.glob("*.whl"))).namelist() if "__pycache__" not in name}
        )
    assert names[0] == names[1]


def test_their_commands_are_those_of_the_base_of_the_environment_and_of_recount() -> None:
    installed = {"pip", *PROJECT["scripts"]}
    for words in commands():
        place, _, program = words[0].rpartition("/")
        assert program in (installed if place == "/opt/recount/bin" else OF_THE_BASE), words
    installs = [words for words in commands() if "pip" in words[0]]
    assert len(installs) == 4  # the lock and recount itself, twice
    assert all("--require-hashes" in words or "--no-deps" in words for words in installs)
    assert [words[-1].rpartition("/")[2] for words in installs] == [
        "requirements.lock",
        ".",
        "requirements.lock",
        "source",
    ]


def test_docker_runs_recount_as_a_user_who_is_not_root() -> None:
    found = instructions()
    assert {name for name, _ in found} <= KNOWN
    last = found[max(place for place, (name, _) in enumerate(found) if name == "FROM") :]
    values = {name: arguments for name, arguments in last if name != "RUN"}
    assert values["USER"] not in ("root", "0")
    assert f"--create-home {values['USER']}" in dict(last)["RUN"]
    assert json.loads(values["ENTRYPOINT"]) == ["recount"]
    assert json.loads(values["CMD"]) == ["--help"]


def test_both_start_from_the_same_python_that_recount_and_the_lock_support() -> None:
    bases = {arguments.split()[0] for name, arguments in instructions() if name == "FROM"}
    head = dict(line.split(": ") for line in sections()[""])
    assert bases == {head["From"]}
    (version,) = re.findall(r"^python:(\d+\.\d+)-slim$", head["From"])
    assert version in SpecifierSet(PROJECT["requires-python"])
    assert f"Programming Language :: Python :: {version}" in PROJECT["classifiers"]


def test_the_lock_brings_cuda_so_that_the_base_need_not() -> None:
    lock = (ROOT / "requirements.lock").read_text(encoding="utf-8")
    assert re.search(r"^nvidia-cuda-runtime\S*==\S+ ; .*sys_platform == 'linux'", lock, re.MULTILINE)


@pytest.mark.parametrize("text", [DOCKERFILE, DEFINITION, (ROOT / "README.md").read_text(encoding="utf-8")])
def test_what_their_heads_and_the_readme_tell_to_run_is_a_command_of_recount(text: str) -> None:
    told = re.findall(r"(?:docker run .* recount|apptainer run .*recount\.sif) ([a-z-]+)", text)
    assert len(told) >= 2
    assert set(told) <= set(get_command(app).commands)  # type: ignore[attr-defined]
