"""A copy of the house in a temporary folder, whose recount command only notes that it was called and writes its files.

So the rules themselves are tested in seconds: what runs, why, in which order, and what a failure leaves.
"""

import multiprocessing
import os
import re
import shutil
import sys
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
HERE = Path(__file__).parent
DOTS = """
from recount.data.dataset import Dataset

class Dots(Dataset):
    name, title, licence, splits = "dots", "Dots", "CC0", ("train", "test", "val")

    def read(self, raw):
        return []

DATASET = Dots()
"""

EVERY_JOB = [  # of the small suite, sorted
    *("fetch dots", "judge"),
    *("predict alpha/full/seed0 sha_a/test", "predict alpha/full/seed0 ucf_qnrf/test"),
    *("predict alpha/small/seed0 sha_a/test", "predict alpha/small/seed0 ucf_qnrf/test"),
    *("predict beta/full/seed0 ucf_qnrf/test", "prepare dots original", "report", "score"),
    "test-prompts beta/full/seed0 sha_a/test",
    *("train alpha/full/seed0", "train alpha/small/seed0", "train beta/full/seed0"),
]

# Snakemake takes seconds to import: one process does it, and each run is forked from that one.
FORKS = multiprocessing.get_context("forkserver")
FORKS.set_forkserver_preload(["snakemake.cli"])


@dataclass(frozen=True)
class Answer:
    """What Snakemake returned, and what it printed on both of its streams."""

    code: int
    text: str


def _snakemake(options: list[str], work: Path, source: Path, environment: dict[str, str], output: Path) -> None:
    with output.open("wb") as stream:
        os.dup2(stream.fileno(), 1)
        os.dup2(stream.fileno(), 2)
    os.chdir(work)
    os.environ.update(environment, PYTHONPATH=str(source), SNAKEMAKE_PID=str(os.getpid()))
    sys.path.insert(0, str(source))
    sys.argv = ["snakemake", *options]
    from snakemake.cli import main

    main()


def snakemake(*options: str, work: Path, source: Path = ROOT / "src", environment: dict[str, str]) -> Answer:
    """Run Snakemake, which names each job and why, as its profile does not.

    Args:
        options: of the command line.
        work: the folder to run it in.
        source: the folder that the package recount is imported from.
        environment: variables to set.
    """
    output = work.parent / "snakemake_output.txt"
    process = FORKS.Process(target=_snakemake, args=(["--quiet", "host", *options], work, source, environment, output))
    process.start()
    process.join()
    assert process.exitcode is not None
    return Answer(process.exitcode, output.read_text(encoding="utf-8"))


def copy_config(folder: Path) -> None:
    """Copy the repository's config.yaml for other papers than the repository's."""
    text = (ROOT / "config.yaml").read_text(encoding="utf-8")
    (folder / "config.yaml").write_text(re.sub(r"(?m)^papers: .*$", "papers: []", text), encoding="utf-8")


class House:
    """A copy of the workflow and of the package, and a working folder with a small suite.

    Its systems ``alpha`` and ``beta`` and its data set ``dots`` are a few lines each, for digests; nothing trains them.

    Attributes:
        source: the copy of ``src/recount``.
        work: the working folder: config.yaml, papers, suites, and what the workflow makes.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.source = folder / "src" / "recount"
        self.work = folder / "work"
        shutil.copytree(ROOT / "src" / "recount", self.source, ignore=shutil.ignore_patterns("__pycache__"))
        shutil.copytree(ROOT / "workflow", folder / "workflow")
        shutil.copytree(ROOT / "profiles", folder / "profiles")
        shutil.copy(ROOT / "Snakefile", folder)
        shutil.copytree(HERE / "tiny", self.work)
        copy_config(self.work)
        shutil.copy(HERE / "stand_in_command.py", self.source / "__main__.py")
        for system in ("alpha", "beta"):
            (self.source / "systems" / f"{system}.py").write_text("from recount.nn import shared\nWIDTH = 1\n")
        (self.source / "nn" / "shared.py").write_text("DEPTH = 1\n")
        (self.source / "datasets" / "dots.py").write_text(DOTS)

    def snakemake(self, *options: str, **environment: str) -> Answer:
        """Run Snakemake in the working folder."""
        snakefile = str(self.folder / "Snakefile")
        source = self.folder / "src"
        return snakemake("--snakefile", snakefile, *options, work=self.work, source=source, environment=environment)

    def run(self, *options: str, **environment: str) -> Answer:
        """Run the workflow on two cores."""
        return self.snakemake("--cores", "2", *options, **environment)

    def planned(self, *options: str) -> Counter[str]:
        """Return how many jobs of each rule a dry run plans, ``all`` left out; those of drawn data are one."""
        answer = self.snakemake("--dry-run", *options)
        assert answer.code == 0, answer.text
        rules = re.findall(r"^(?:local)?rule ([a-z_]+?)(?:_of_\w+)?:$", answer.text, flags=re.MULTILINE)
        return Counter(rule for rule in rules if rule != "all")

    def add(self, code: str) -> None:
        """Append code to the Snakefile: it runs once the workflow has been read."""
        with (self.folder / "Snakefile").open("a", encoding="utf-8") as stream:
            stream.write(code)

    def calls(self, *, in_order: bool = False) -> list[str]:
        """Return the recount commands that ran since the last time this was asked, sorted unless in their order."""
        notes = self.work / "calls.txt"
        found = notes.read_text().splitlines() if notes.exists() else []
        notes.unlink(missing_ok=True)
        return found if in_order else sorted(found)
