"""``recount verify``: walk the chain from raw files to the report, and say what does not fit.

Nothing is rewritten, because Snakemake goes by the times of files. ``--mend`` moves what is unfit to
``results/<suite>/unfit/``, so that the next run makes it anew. What was not made yet is no fault, and neither is a step
that was killed: its cell is missing, and says so.
"""

import json
import shutil
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from functools import cached_property, partial
from itertools import product
from pathlib import Path
from typing import Literal

from rich.console import Console
from rich.table import Table

from recount.chain import MADE, TABLES, Chain, Unfit
from recount.data.dataset import MANIFEST, DataError
from recount.data.digests import unfit_files
from recount.fetching.ledger import Ledger
from recount.results.attempts import failed_of_data, failed_of_suite
from recount.results.digest_cache import DigestCache
from recount.results.files import ResultsError, file_digest, made_anew
from recount.results.hands import HANDS, Hand, read_hands
from recount.results.predictions import Timing, timing_path
from recount.results.prepared import SUMMARY
from recount.results.prompt_tests import PromptTests
from recount.results.run_record import RUN, STATE, ModelRecord, RunRecord
from recount.results.seal import damage
from recount.results.submissions import STEP, SUBMITTED, submissions
from recount.results.verdicts import LOOKS, Looks
from recount.settings.project import Project

#: "stale" to "untracked" are unfit; the others are only told
Kind = Literal["stale", "damaged", "missing", "untracked", "failed", "older code", "aside", "elsewhere"]
UNFIT: tuple[Kind, ...] = ("stale", "damaged", "missing", "untracked")


@dataclass(frozen=True, slots=True)
class Finding:
    """A file that is not what the chain says, or of which something is to be told."""

    path: str  # relative to the project, where it lies in it
    kind: Kind
    why: str
    again: str = ""  # what makes it anew
    expected: str = ""  # digest
    found: str = ""
    files: tuple[str, ...] = ()  # that go with it, and that --mend moves

    @property
    def unfit(self) -> bool:
        """Return whether it must not be used."""
        return self.kind in UNFIT


class Verification:
    """All findings on one project; ``full`` reads all bytes, else files that have not changed are not read again."""

    def __init__(self, project: Project, *, full: bool = False) -> None:
        self.project, self.full = project, full
        self.results = project.root / project.results
        self.cache = DigestCache(self.results / ".digests.json")
        self.digest = file_digest if full else self.cache.digest
        self.chain = Chain(project, self.digest)

    @cached_property
    def elsewhere(self) -> Mapping[str, Hand]:
        """Whose the runs are that came by an export, without weights and maps."""
        try:
            return {run: hand for run, hand in read_hands(self.results).runs.items() if hand.source}
        except ResultsError:
            return {}  # its own finding

    def findings(self) -> list[Finding]:
        """Return everything that is to be told, in the order of the chain."""
        steps = (
            self._fetched,
            self._prepared,
            self._states,
            self._runs,
            self._evaluations,
            self._submissions,
            self._tables,
            self._attempts,
        )
        found: dict[Finding, set[str]] = {}
        for finding in (finding for step in steps for finding in step()):
            found.setdefault(replace(finding, files=()), set()).update(finding.files)
        self.cache.save()
        return [replace(finding, files=tuple(sorted(files))) for finding, files in found.items()]

    def _finding(
        self, path: Path, kind: Kind, why: str, again: str = "", expected: str = "", found: str = "", *,
        also: tuple[Path, ...] = (),
    ) -> Finding:  # fmt: skip
        why = why.replace(f"{self.project.root}/", "")
        return Finding(self._name(path), kind, why, again, expected, found, tuple(map(self._name, (path, *also))))

    def _name(self, path: Path) -> str:
        return str(path.relative_to(self.project.root)) if path.is_relative_to(self.project.root) else str(path)

    def _fetched(self) -> Iterator[Finding]:
        project = self.project  # of which this recount may not know every data set
        sets = {project.raw / split.dataset for run in project.runs for split in run.splits}
        weights = {project.weights / name for run in project.runs for name in run.weights}
        for step, below in (*product(["fetch"], sorted(sets)), *product(["fetch-weights"], sorted(weights))):
            folder = project.root / below
            manifest = folder / MANIFEST
            if not manifest.is_file():
                continue
            again = f"`recount {step} {folder.name}` gets it again"
            try:
                entries = Ledger(folder).entries
            except DataError as error:
                yield self._finding(manifest, "damaged", str(error), again)
                continue
            for entry in entries.values():
                path = folder / entry.path
                if path.is_file():  # raw files may be deleted once they are prepared
                    found = self._digest(path)
                    if found != entry.sha256:
                        what = "not the file that was fetched"
                        yield self._finding(path, "damaged", what, again, entry.sha256, found, also=(manifest,))

    def _digest(self, path: Path) -> str:
        try:
            return self.digest(path)
        except OSError as error:
            return f"cannot be read: {error.strerror}"

    def _prepared(self) -> Iterator[Finding]:
        for index in sorted({self.project.index(split) for run in self.project.runs for split in run.splits}):
            folder = self.project.root / index.parent
            if not any((folder / name).exists() for name in ("index.csv", SUMMARY)):
                continue
            again = f"`recount prepare {' '.join(folder.parts[-2:])}` makes it anew"
            for file in unfit_files(folder, full=self.full):
                also = (folder / "index.csv",) if file.kind != "untracked" else ()
                what = {
                    "stale": "prepared from another raw file than is there now",
                    "damaged": "not what was prepared",
                    "missing": "it belongs to the prepared data, and is not there",
                    "untracked": "nobody prepared it",
                }[file.kind]
                unfit = file.path if file.kind != "stale" else folder / "index.csv"
                yield self._finding(unfit, file.kind, what, again, file.expected, file.found, also=also)

    def _states(self) -> Iterator[Finding]:
        for path in sorted((self.results / "checkpoints").glob(f"*/*/*/{STATE}")):
            wrong = damage(path)
            if wrong:
                yield self._finding(path, "damaged", wrong, "the training starts anew")
            elif "@" in path.parent.name:
                yield self._finding(path.parent, "aside", "an unfinished training with other settings, code or data")

    def _runs(self) -> Iterator[Finding]:
        for run in self.project.trainings:
            folder = self.project.root / self.project.run_folder(run)
            again = f"`recount train {run.id}` makes it anew"
            models = tuple(sorted(folder.glob("model*")))
            try:
                record = self.chain.run(run)
            except FileNotFoundError:
                goes_on = (self.project.root / self.project.checkpoint_folder(run) / STATE).exists()
                kind: Kind = "aside" if goes_on else "untracked"
                why = "of a training that goes on from its state" if goes_on else "so nothing says what it is"
                yield from (self._finding(path, kind, f"there is no {RUN}, {why}", again) for path in models)
                continue
            except Unfit as unfit:
                yield self._of(unfit, *models)
                continue
            except ResultsError:
                continue  # the data's own finding
            if record.id in self.elsewhere and not any(
                (folder / s.model).is_file() for s in record.selections.values()
            ):
                hand = self.elsewhere[record.id]
                yield self._finding(folder, "elsewhere", f"its weights are with {hand.who} ({hand.source})")
            else:
                yield from self._models(folder, record, again)
            older = self.chain.older(run)
            if older:
                yield self._finding(folder / RUN, "older code", older)

    def _models(self, folder: Path, record: RunRecord, again: str) -> Iterator[Finding]:
        for name, selection in record.selections.items():
            path = folder / selection.model
            also = (folder / RUN, path.with_suffix(".json"))
            if not path.is_file():
                yield self._finding(path, "missing", f"{RUN} names it ({name})", again, selection.sha256, also=also)
                continue
            found = self._digest(path)
            if found != selection.sha256:
                yield self._finding(path, "damaged", "not what was trained", again, selection.sha256, found, also=also)
            try:
                said = ModelRecord.read(path.with_suffix(".json"))
            except FileNotFoundError:
                what = f"{path.name} is there, and it is not"
                yield self._finding(path.with_suffix(".json"), "missing", what, again, also=(*also, path))
                continue
            except ResultsError as error:
                what = error.what.removeprefix("damaged: ")
                yield self._finding(path.with_suffix(".json"), "damaged", what, again, also=also)
                continue
            if (said.run, said.selection.sha256) != (record.id, selection.sha256):
                what = f"it is of {said.run}, epoch {said.selection.epoch}"
                digests = selection.sha256, said.selection.sha256
                yield self._finding(path.with_suffix(".json"), "damaged", what, again, *digests, also=also)

    def _evaluations(self) -> Iterator[Finding]:
        known: set[Path] = set()
        for run in self.project.evaluations:
            for benchmark in run.benchmark_of_split.values():
                path = self.project.root / self.project.predictions(run, benchmark)
                known |= {path, timing_path(path)}
                again = made_anew(f"recount predict {run.evaluation_id} {benchmark}")
                yield from self._fit(partial(self.chain.predictions, run, benchmark), timing_path(path), path)
                yield from self._fit(partial(self.chain.maps, run, benchmark), path, timing_path(path))
                yield from self._absent(Timing, timing_path(path), again, path)
            for benchmark in run.prompt_tests:
                path = self.project.root / self.project.prompt_test_file(run, benchmark)
                again = made_anew(f"recount test-prompts {run.evaluation_id} {benchmark}")
                yield from self._fit(partial(self.chain.prompt_maps, run, benchmark), path, path.with_suffix(".npz"))
                yield from self._absent(PromptTests, path, again)
        for path in sorted((self.results / "predictions").glob("*/*/*/*/seed*.csv")):
            if path not in known and not timing_path(path).is_file():
                yield self._finding(path, "untracked", "no record says what it was made from, and no run makes it")

    def _submissions(self) -> Iterator[Finding]:
        records = list(submissions(self.project))
        for path in records:
            files = (path.with_suffix(".csv"), path.with_suffix(".npz"))
            yield from self._fit(partial(self.chain.submission, path), path, *files)
        for path in sorted((self.results / SUBMITTED).glob("*/*/*")):
            if path.with_suffix(".json") not in records:
                yield self._finding(path, "untracked", "no record says whose predictions these are", f"`{STEP}`")

    def _absent(self, kind: type[Timing | PromptTests], record: Path, again: str, *also: Path) -> Iterator[Finding]:
        """Tell what a record names and is not there; reading results does without maps, which no export has."""
        try:
            made = kind.read(record).made
        except (OSError, ResultsError):
            return  # not made yet, or its own finding
        for path in self.chain.absent(made, record) if made.run not in self.elsewhere else ():
            yield self._finding(path, "missing", f"{record.name} is there, and it is not", again, also=(record, *also))

    def _fit(self, read: Callable[[], object], *also: Path) -> Iterator[Finding]:
        try:
            read()
        except FileNotFoundError:
            return
        except Unfit as unfit:
            yield self._of(unfit, *also)
        except (DataError, ResultsError):
            return  # the data's own finding

    def _of(self, unfit: Unfit, *also: Path) -> Finding:
        others = tuple(path for path in also if path != unfit.where)
        return self._finding(unfit.where, unfit.kind, unfit.why, unfit.again, unfit.expected, unfit.found, also=others)

    def _tables(self) -> Iterator[Finding]:
        report = self.project.root / self.project.report
        yield from self._looks()
        try:
            read_hands(self.results)
        except ResultsError as error:
            why = error.what.removeprefix("damaged: ")
            yield self._finding(self.results / HANDS, "damaged", why, "`recount merge` makes it anew")
        for step, made in MADE.items():
            folder, tables = (report, ("index.html",)) if step == "report" else (self.results, TABLES[step])
            paths = tuple(folder / name for name in tables)
            whole = (folder,) if step == "report" else ()  # Snakemake knows the folder of a report, not its files
            if not (folder / made).is_file():
                again = f"`recount {step}` makes it anew"
                what = "no record says what it was made from"
                there = [path for path in paths if path.is_file()]
                yield from (self._finding(path, "untracked", what, again, also=whole) for path in there)
            else:
                yield from self._fit(partial(self.chain.tables, step), folder / made, *paths, *whole)

    def _looks(self) -> Iterator[Finding]:
        path, verdicts = self.results / LOOKS, self.results / MADE["judge"]
        again = "`recount judge` counts the looks at each claim anew"
        try:
            Looks.read(path)
        except FileNotFoundError:
            if verdicts.is_file():
                yield self._finding(path, "missing", "claims were judged, and it is not there", again, also=(verdicts,))
        except ResultsError as error:
            yield self._finding(path, "damaged", error.what.removeprefix("damaged: "), again)

    def _attempts(self) -> Iterator[Finding]:
        for job, text in failed_of_data(self.project).items():
            yield self._finding(self._folder_of(*job), "failed", text, f"`recount {' '.join(job)}` tries again")
        for path, text in failed_of_suite(self.project).items():
            yield self._finding(path, "failed", text)

    def _folder_of(self, step: str, *job: str) -> Path:
        below = {"fetch": self.project.raw, "fetch-weights": self.project.weights, "prepare": self.project.data}
        return self.project.root.joinpath(below[step], *job)


def mend(project: Project, findings: list[Finding]) -> list[str]:
    """Move all unfit files below results/<suite>/unfit/; return the names of those that were there."""
    moved = []
    names = {name for finding in findings if finding.unfit for name in finding.files}
    for name in sorted(names, key=len):  # a folder before what is in it
        path = project.root / name
        if path.exists():
            target = project.root / project.results / "unfit" / name.lstrip("/")
            number = 0
            while target.exists():
                number += 1
                target = target.with_name(f"{path.name}.{number}")
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.move(path, target)
            moved.append(name)
    return moved


def as_json(findings: list[Finding]) -> str:
    """Return the findings as JSON."""
    return json.dumps([{**asdict(finding), "unfit": finding.unfit} for finding in findings], indent=1)


def show(findings: list[Finding], console: Console) -> None:
    """Print the findings as a table."""
    table = Table(box=None, pad_edge=False)
    for name in ("what", "file", "why", "then"):
        table.add_column(name, overflow="fold")
    for finding in findings:
        digests = (
            f" (expected {finding.expected[:12]}, found {finding.found[:12] or 'nothing'})" if finding.expected else ""
        )
        table.add_row(finding.kind, finding.path, finding.why + digests, finding.again)
    if findings:
        console.print(table, highlight=False, markup=False)
