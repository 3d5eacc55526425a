"""How long the front door takes: a dry run of each suite, ``recount --help``, the digest of the whole package."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

from recount.provenance import PACKAGE, CodeBase

ROOT = Path(__file__).parents[1]
REPEATS = 3
DRY_RUN_TARGET, HELP_TARGET, DIGEST_TARGET = 5.0, 0.5, 1.0  # seconds


def seconds_of(*command: str) -> tuple[float, float]:
    """Return wall and processor seconds of the fastest of several runs of a command."""
    found = []
    for _ in range(REPEATS):
        began, before = time.perf_counter(), os.times()
        subprocess.run(command, cwd=ROOT, check=True, capture_output=True)
        after = os.times()
        processor = after.children_user - before.children_user + after.children_system - before.children_system
        found.append((time.perf_counter() - began, processor))
    return min(found)


def digest_seconds() -> float:
    """Return the seconds it takes to read and digest every module."""
    began = time.perf_counter()
    CodeBase({"recount": PACKAGE}).digest(["recount.*"])
    return time.perf_counter() - began


def main() -> None:
    """Print a line per measurement."""
    python = sys.executable
    for suite in sorted(path.stem for path in (ROOT / "suites").glob("*.yaml")):
        wall, processor = seconds_of(python, "-m", "snakemake", "--dry-run", "--config", f"suite={suite}")
        print(f"snakemake -n, suite {suite}: {wall:.2f} s, {processor:.2f} s processor (target {DRY_RUN_TARGET} s)")
    wall, processor = seconds_of(python, "-m", "recount", "--help")
    print(f"recount --help: {wall:.2f} s, {processor:.2f} s processor (target {HELP_TARGET} s)")
    print(
        f"digest of the whole package: {min(digest_seconds() for _ in range(REPEATS)):.2f} s (target {DIGEST_TARGET} s)"
    )


if __name__ == "__main__":
    main()
