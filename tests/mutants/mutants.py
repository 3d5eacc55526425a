"""``make mutants``: do the tests notice a line that somebody breaks? Each fault of mutants.yaml, one at a time.

A mutant is a fault that a careless edit could make: ``old`` stands once in ``file`` (below src/recount) and becomes
``new``. It is made in a copy of src, and only its nearest tests (below tests) are run; it is caught if one of them
fails, or hangs. The full list takes about half an hour on two slow cores and writes its table between the marks of
docs/reliability.md; ``make mutants ARGS="TEXT"`` tries those whose id or file has TEXT in it, and writes nothing. Exit
status 1: too few are caught, or the list does not follow the code.
"""

import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.util import cache_from_source
from pathlib import Path
from queue import SimpleQueue
from tempfile import TemporaryDirectory
from typing import TypeVar

import psutil
import yaml

ROOT = Path(__file__).parents[2]
LIST, PAGE = Path(__file__).with_suffix(".yaml"), ROOT / "docs/reliability.md"
BEGIN, END = "<!-- mutants: begin -->", "<!-- mutants: end -->"
ENOUGH = 0.9  # of the mutants are to be caught
AT_ONCE = 2
SLOWER, LEAST_SECONDS = 10, 180  # a hang: so many times the seconds of the unbroken code, and no fewer than these
ALL_PASSED, ONE_FAILED = 0, 1  # exit codes of pytest; all others say that the tests could not be run
FAILED = re.compile(r"^(?:FAILED|ERROR) (tests/[\w/]+\.py::\w+)", re.MULTILINE)
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Mutant:
    """A fault, where it is made, and the tests that lie nearest."""

    id: str
    file: str  # below src/recount
    old: str
    new: str
    tests: tuple[str, ...]  # files or tests, below tests


@dataclass(frozen=True, slots=True)
class Outcome:
    """What the tests said of a copy: by which of them a fault was noticed, "" if by none, and how long it took."""

    caught_by: str
    seconds: float


def read() -> list[Mutant]:
    """Return the list; SystemExit with a line for each entry that does not fit the code as it is now."""
    mutants = [Mutant(**entry | {"tests": tuple(entry["tests"])}) for entry in yaml.safe_load(LIST.read_text("utf-8"))]
    wrong = [f"{LIST.name}: {mutant.id}: {what}" for mutant in mutants for what in misfits(mutant)]
    ids = [mutant.id for mutant in mutants]
    wrong += [f"{LIST.name}: {name}: it is there twice" for name in dict.fromkeys(ids) if ids.count(name) > 1]
    if wrong:
        sys.exit("\n".join(wrong))
    return mutants


def misfits(mutant: Mutant) -> Iterator[str]:
    """Yield what in an entry does not fit the code or the tests."""
    file = ROOT / "src/recount" / mutant.file
    times = file.read_text("utf-8").count(mutant.old) if file.is_file() else 0
    if times != 1:
        yield f"`old` stands {times} times in src/recount/{mutant.file}, not once: write it as the code is now"
    if mutant.old == mutant.new:
        yield "`new` is `old`"
    for test in mutant.tests:
        path, _, name = test.partition("::")
        source = (ROOT / "tests" / path).read_text("utf-8") if (ROOT / "tests" / path).is_file() else ""
        if f"def {name.partition('[')[0]}" not in source:
            yield f"there is no tests/{test}"


@contextmanager
def copies(folder: Path) -> Iterator[SimpleQueue[Path]]:
    """Yield as many copies of src as are tried at once; Python must find recount in them."""
    free: SimpleQueue[Path] = SimpleQueue()
    for number in range(AT_ONCE):
        copy = folder / f"src{number}"
        shutil.copytree(ROOT / "src", copy, ignore=shutil.ignore_patterns("__pycache__"))
        where = [sys.executable, "-c", "import recount; print(recount.__file__)"]
        found = subprocess.run(where, env=_environment(copy), capture_output=True, text=True, check=True).stdout
        assert Path(found.strip()).is_relative_to(copy), f"recount is imported from {found}"
        free.put(copy)
    yield free


def _environment(copy: Path) -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": str(copy), "OMP_NUM_THREADS": "1"}


def tested(copy: Path, tests: Sequence[str], limit: float) -> Outcome:
    """Run tests on a copy of src; SystemExit where they could not be run."""
    began = time.monotonic()
    command = [sys.executable, "-m", "pytest", "-x", "-q", "-rfE", "--tb=no", "-p", "no:cacheprovider"]
    process = subprocess.Popen(
        [*command, *(f"tests/{test}" for test in tests)], cwd=ROOT, env=_environment(copy), text=True,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
    )  # fmt: skip
    try:
        said, _ = process.communicate(timeout=limit)
    except subprocess.TimeoutExpired:
        for running in [*psutil.Process(process.pid).children(recursive=True), process]:
            running.kill()
        process.communicate()
        return Outcome(f"a hang: not done after {limit:.0f} s", limit)
    if process.returncode not in (ALL_PASSED, ONE_FAILED):
        sys.exit(f"{' '.join(tests)}: pytest ended with exit code {process.returncode}, so nothing was tested:\n{said}")
    seconds = time.monotonic() - began
    return Outcome("" if process.returncode == ALL_PASSED else FAILED.findall(said)[0], seconds)


@contextmanager
def broken(copy: Path, mutant: Mutant) -> Iterator[None]:
    """Have the fault in a copy of src."""
    file = copy / "recount" / mutant.file
    whole = file.read_text("utf-8")
    try:
        _write(file, whole.replace(mutant.old, mutant.new))
        yield
    finally:
        _write(file, whole)


def _write(file: Path, code: str) -> None:
    file.write_text(code, "utf-8")
    Path(cache_from_source(str(file))).unlink(missing_ok=True)  # else code of the same second and size counts as this


def each(items: Sequence[T], free: SimpleQueue[Path], run: Callable[[Path, T], Outcome]) -> dict[T, Outcome]:
    """Return what ``run`` says of each item on a copy of src, as soon as one is free."""

    def on_a_copy(item: T) -> Outcome:
        copy = free.get()
        try:
            return run(copy, item)
        finally:
            free.put(copy)

    with ThreadPoolExecutor(AT_ONCE) as pool:
        return dict(zip(items, pool.map(on_a_copy, items), strict=True))


def outcomes(mutants: Sequence[Mutant]) -> dict[Mutant, Outcome]:
    """Return what the nearest tests say of each mutant; SystemExit where they fail without one."""

    def unbroken(copy: Path, tests: tuple[str, ...]) -> Outcome:
        found = tested(copy, tests, 3600)
        if found.caught_by:
            sys.exit(f"{found.caught_by} fails without any mutant")
        print(f"{'passed':8} {found.seconds:4.0f} s  {' '.join(tests)}", flush=True)
        return found

    def mutated(copy: Path, mutant: Mutant) -> Outcome:
        with broken(copy, mutant):
            found = tested(copy, mutant.tests, max(SLOWER * passed[mutant.tests].seconds, LEAST_SECONDS))
        word = "caught" if found.caught_by else "SURVIVED"
        print(f"{word:8} {found.seconds:4.0f} s  {mutant.file}: {mutant.id}  {found.caught_by}", flush=True)
        return found

    with TemporaryDirectory(prefix="mutants-") as folder, copies(Path(folder)) as free:
        passed = each(list(dict.fromkeys(mutant.tests for mutant in mutants)), free, unbroken)
        return each(mutants, free, mutated)


def markdown(found: dict[Mutant, Outcome]) -> str:
    """Return the share that is caught, and a table with a line for each mutant."""
    rows = []
    for mutant, outcome in found.items():
        by = f"`{outcome.caught_by}`" if "::" in outcome.caught_by else outcome.caught_by or "**survived**"
        rows.append(f"| `{mutant.file}` | {mutant.id} | {by} |")
    head = (
        f"{share(found)} of these faults are caught.\n\n| file below `src/recount` | fault | caught by |\n|---|---|---|"
    )
    return "\n".join([head, *rows])


def share(found: dict[Mutant, Outcome]) -> str:
    """Return how many are caught, in words."""
    caught = sum(bool(outcome.caught_by) for outcome in found.values())
    return f"{caught} of {len(found)} ({caught / len(found):.0%})"


def main(*wanted: str) -> None:
    """Try the mutants whose file or id has one of these texts in it, or all and write their table."""
    mutants = [m for m in read() if not wanted or any(text in f"{m.file}: {m.id}" for text in wanted)]
    found = outcomes(mutants)
    print(f"{share(found)} are caught")
    if not wanted:
        head, _, rest = PAGE.read_text("utf-8").partition(BEGIN)
        PAGE.write_text(f"{head}{BEGIN}\n\n{markdown(found)}\n\n{END}{rest.partition(END)[2]}", "utf-8")
    sys.exit(sum(bool(outcome.caught_by) for outcome in found.values()) < ENOUGH * len(found))


if __name__ == "__main__":
    main(*sys.argv[1:])
