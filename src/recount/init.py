"""``recount init``: the settings and the workflow that recount comes with, as a project; ``recount run``: runs it."""

import os
import shutil
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NoReturn

from recount.errors import UserError
from recount.settings.base import PACKAGE
from recount.settings.schemas import cache_of_snakemake

#: what a project is made of; the wheel has it below recount/project (pyproject.toml), a clone at its top
FILES = ("config.yaml", "benchmarks.yaml", "official.yaml", "Snakefile", "experiments", "papers", "suites",
         "workflow/rules", "workflow/envs", "profiles", "reference")  # fmt: skip


def source() -> Path:
    """Return the folder that a project is copied from: the clone that recount runs from, or what was installed.

    Raises:
        UserError: what was installed is not whole.
    """
    folder = next((at for at in (PACKAGE.parents[1], PACKAGE / "project") if (at / "Snakefile").is_file()), None)
    absent = [name for name in FILES if not (folder or PACKAGE / "project").joinpath(name).exists()]
    if folder is None or absent:
        raise UserError(
            f"{folder or PACKAGE / 'project'}: the project's files that come with recount are not there "
            f"({', '.join(absent)}): install its wheel again, or run in a clone"
        )
    return folder


def init(folder: Path, *, overwrite: bool = False) -> Iterator[str]:
    """Copy the project's files into a folder; yield a line for each file that differs there already, and a summary.

    Such a file is kept, unless ``overwrite``.
    """
    written = same = 0
    for file in _files(source()):
        target = folder / file.relative_to(source())
        if target.is_file() and target.read_bytes() == file.read_bytes():
            same += 1
            continue
        if target.is_file():
            yield f"{'overwritten' if overwrite else 'kept, though recount has another'}: {target}"
        if overwrite or not target.is_file():
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(file, target)
            written += 1
    there = f", {same} were there" if same else ""
    yield f"{folder}: {written} files written{there}; go on with `cd {folder} && recount run -n`"


def _files(root: Path) -> Iterator[Path]:
    for name in FILES:
        path = root / name
        every = [path] if path.is_file() else sorted(path.rglob("*"))
        yield from (file for file in every if file.is_file() and "__pycache__" not in file.parts)


def run(arguments: Sequence[str]) -> NoReturn:
    """Become Snakemake in this folder, with all cores unless the arguments say how many."""
    if not Path("Snakefile").is_file():
        raise UserError(f"there is no Snakefile in {Path.cwd()}: `recount init DIR` makes a project, then run in it")
    said = any(a in ("-c", "-j", "--profile") or a.startswith(("--cores", "--jobs", "-c", "-j")) for a in arguments)
    cores = [] if said else ["--cores", "all"]
    os.environ |= cache_of_snakemake()
    sys.stdout.flush()
    os.execv(sys.executable, [sys.executable, "-m", "snakemake", *cores, *arguments])
