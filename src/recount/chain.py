"""The chain from prepared data to a number: whoever reads results reads them here, and only what fits is used.

Each file that a step writes carries its own digest and those of all it was made from (``results.files.Made``). What was
made from something else than what is there now is *stale*; what is not what was written is *damaged*. Neither is used:
the reader gets an ``Unfit`` with both digests and the command that makes it anew. Other code or other packages behind a
finished result make nothing unfit. Prepared data check themselves (``recount.data.index``).
"""

import math
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import replace
from functools import cache, cached_property, partial
from pathlib import Path
from typing import Any, Literal, TypeVar

from recount import provenance
from recount.data.dataset import DataError
from recount.data.index import read_truth
from recount.errors import UserError
from recount.results.attempts import failed, predict_job
from recount.results.files import CsvTable, JsonRecord, Made, MadeTables, ResultsError, file_digest, is_there, made_anew
from recount.results.predictions import Predictions, Timing, read_predictions, timing_path
from recount.results.prepared import data_digest
from recount.results.prompt_tests import PromptTests
from recount.results.reason import NOTHING, Reason, joined
from recount.results.run_record import HISTORY, RUN, RunRecord
from recount.results.scores import ALL_SEEDS, SCORES, InfluentialImage, Score, Stratum
from recount.results.submissions import SELECTION, SUBMITTED, Submission, submission_path, submissions
from recount.settings.project import WEIGHTS, Project, Run, Split

#: step -> the record beside what it makes
MADE = {"score": "scores.made.json", "judge": "verdicts.made.json", "report": "index.made.json"}
TABLES = {
    "score": ("scores.csv", "strata.csv", "influence.csv"),
    "judge": ("verdicts.csv", "fidelity.csv", "submitted.csv"),
}
MEASURED = ("trained", "checkpoint")  # status of a cell that predictions give
NO_NUMBERS: dict[str, Any] = {"value": math.nan, "ci_low": math.nan, "ci_high": math.nan, "sd": math.nan, "n": None}
OfRun = TypeVar("OfRun", InfluentialImage, Stratum)
RecordType = TypeVar("RecordType", bound=JsonRecord)
SHOWN = 3  # ids in a message
Kind = Literal["stale", "damaged", "failed", "missing"]


class Unfit(UserError):
    """A result that must not be used."""

    def __init__(self, path: Path, kind: Kind, why: str, again: str, expected: str = "", found: str = "") -> None:
        digests = (
            f" (expected {expected[:12] or 'nothing'}, found {found[:12] or 'nothing'})" if expected or found else ""
        )
        super().__init__(f"{path}: {kind}: {why}{digests}; {again}")
        self.where, self.kind, self.why, self.again, self.expected, self.found = path, kind, why, again, expected, found


def _other(source: str, digest: str, now: str) -> str:
    """Return in words that a result was made from another state of a file than that of now ("": there is none)."""
    if not now:
        return f"made from {source}, which is gone or does not fit now"
    return f"made from another {source} than is there now" if digest else f"made without {source}"


def _digest_of_data(source: Path) -> str:
    if source.name == "index.csv":
        return data_digest(source)
    return provenance.weights_digest(source)


class Chain:
    """The results of one project, each checked against what it was made from when it is read."""

    def __init__(self, project: Project, digest: Callable[[Path], str] = file_digest) -> None:
        self.project, self.results = project, project.root / project.results
        self.tables_at = project.root / project.tables
        self.digest = cache(digest)
        self._digest_of = cache(_digest_of_data)
        self._truth = cache(self._truth_of)
        self._runs: dict[str, RunRecord] = {}
        self._predicted: dict[tuple[str, str], tuple[dict[str, Predictions], Timing]] = {}

    def run(self, run: Run) -> RunRecord:
        """Return the record of the training that a run reads; FileNotFoundError where there is none."""
        if run.training_id in self._runs:
            return self._runs[run.training_id]
        path = self.project.root / self.project.run_folder(run) / RUN
        again = f"`recount train {run.training_id}` makes it anew"
        self._no_attempt("train", run.training_id, path, again)
        record = self._record(RunRecord, path, again)
        if record.id != run.training_id:
            raise Unfit(path, "damaged", f"it is the record of {record.id}", again)
        now = provenance.planned(self.project, run)
        if record.planned != now:
            raise Unfit(path, "stale", "trained with other settings than are planned now", again, now, record.planned)
        self._same_data(path, record.provenance.data, again)
        history = path.with_name(HISTORY)
        self._content(history, record.history_sha256, again)
        return self._runs.setdefault(run.training_id, record)

    def older(self, run: Run) -> str:
        """Return what made a run's training that is not what is here now, in words; it is used nevertheless."""
        made = self.run(run).provenance
        now = provenance.computing_packages()
        words = [f"{name} {made.packages[name]}" for name in now if made.packages.get(name, now[name]) != now[name]]
        with suppress(ModuleNotFoundError):  # another package's system, which is not installed here
            if made.code and made.code != provenance.step_digest("train", run.system):
                words.insert(0, "older code")
        return f"trained with {', '.join(words)}" if words else ""

    def predictions(self, run: Run, benchmark: str) -> tuple[dict[str, Predictions], Timing]:
        """Return what a run predicted on a benchmark, by selection, and its record; errors: ``run``, ``Unfit``."""
        path = self.project.root / self.project.predictions(run, benchmark)
        split = run.benchmarks[benchmark]
        key = (run.evaluation_id, f"{split.dataset}/{split.split}/{split.preparation}")
        if key in self._predicted:
            return self._predicted[key]
        again = f"`recount predict {run.evaluation_id} {benchmark}` makes it anew"
        self._no_attempt("predict", predict_job(run, benchmark), path, again)
        if not is_there(path):
            raise FileNotFoundError(path)
        record = self._record(Timing, timing_path(path), again, whose=path)
        self._made(path, record.made, run, again)
        for selection, model in record.made.models.items():
            now = self.run(run).selections.get(selection)
            if now is None or now.sha256 != model:
                what = f"made with another model ({selection}) than the run has now"
                raise Unfit(path, "stale", what, again, now.sha256 if now else "", model)
        found = self._parsed(path, read_predictions, again)
        for selection, predictions in found.items():
            timing = record.selections.get(selection)
            self._same_samples(path, split, predictions, set(timing.left_out or () if timing else ()), again)
        return self._predicted.setdefault(key, (found, record))

    def prompt_tests(self, run: Run, benchmark: str) -> PromptTests:
        """Return the prompt tests of a run on a benchmark; errors: ``predictions``."""
        path = self.project.root / self.project.prompt_test_file(run, benchmark)
        again = f"`recount test-prompts {run.evaluation_id} {benchmark}` makes it anew"
        self._no_attempt("test-prompts", f"{run.evaluation_id}/{benchmark}", path, again)
        record = self._record(PromptTests, path, again)
        self._made(path, record.made, run, again)
        now = self.run(run).selections.get(record.selection)
        model = record.made.models.get(record.selection, "")
        if now is None or now.sha256 != model:
            what = "made with another model than the run has now"
            raise Unfit(path, "stale", what, again, now.sha256 if now else "", model)
        return record

    def submission(self, path: Path) -> tuple[Submission, Predictions]:
        """Return the record of a submitted counter and its predictions; errors: ``predictions``."""
        again = "`recount submit` it again, or take it out (--remove)"
        record = self._record(Submission, path, again)
        if submission_path(self.project, path.parents[1].name, record.place) != path:
            raise Unfit(path, "damaged", f"it is the record of {record.name} on {record.place.dataset}", again)
        for name, digest in record.made.content.items():
            self._content(path.with_name(name), digest, again)
        self._same_data(path, record.made.data, again)
        table = path.with_suffix(".csv")
        predictions = self._parsed(table, read_predictions, again).get(SELECTION)
        if predictions is None or table.name not in record.made.content:
            raise Unfit(path, "damaged", "its record is of another file", again)
        self._same_samples(table, record.place, predictions, set(), again)
        return record, predictions

    def maps(self, run: Run, benchmark: str) -> Path | None:
        """Return the file of the maps that belong to a run's predictions, if it is there; errors: ``predictions``."""
        made = self.predictions(run, benchmark)[1].made
        return self._maps(made, f"`recount predict {run.evaluation_id} {benchmark}` makes it anew")

    def prompt_maps(self, run: Run, benchmark: str) -> Path | None:
        """Return the file of the maps that belong to a run's prompt tests, if it is there; errors: ``prompt_tests``."""
        made = self.prompt_tests(run, benchmark).made
        return self._maps(made, f"`recount test-prompts {run.evaluation_id} {benchmark}` makes it anew")

    def absent(self, made: Made, beside: Path) -> list[Path]:
        """Return the files that a record names, and that are not there; the record lies at ``beside``."""
        named = [self.results / name if "/" in name else beside.with_name(name) for name in made.content]
        return [path for path in named if not path.is_file()]

    def _maps(self, made: Made, again: str) -> Path | None:
        for name, digest in made.content.items():
            path = self.results / name
            if "/" in name and is_there(path):
                self._content(path, digest, again)
                return path
        return None

    def tables(self, step: str) -> MadeTables:
        """Return the record of what ``step`` made (``MADE``); that, and what it was made from, must fit."""
        path, again, record = self._as_written(step)
        self._same_data(path, record.made.data, again)
        for source, digest in record.made.results.items():
            now = self._fit_digest(source)
            if now != digest:
                raise Unfit(path, "stale", _other(source, digest, now), again, now, digest)
        for source, digest in self.digests("submitted").items() if step != "report" else ():
            if source not in record.made.results:
                raise Unfit(path, "stale", _other(source, "", digest), again, digest)
        return record

    def _as_written(self, step: str) -> tuple[Path, str, MadeTables]:
        """Return the record of a step's tables with its path and what makes it anew; the tables must fit it."""
        project = self.project
        path = project.root / project.report / MADE[step] if step == "report" else self.tables_at / MADE[step]
        again = made_anew(f"recount {step}")
        if self.tables_at == self.results:
            self._no_attempt(step, self.project.suite.name, path, again)
        record = self._record(MadeTables, path, again)
        for table, digest in record.made.content.items():
            self._content(path.parent / table, digest, again)
        return path, again, record

    def scores(self) -> list[Score]:
        """Return the rows of scores.csv; errors: ``tables``, but for what single rows were made from.

        A row of predictions that are others than were scored, or that do not fit any more, is a missing cell that says
        so. So is one that only annotations give, where they are others.
        """
        path, again, record = self._as_written("score")
        other_data = self._why_unfit(lambda: self._same_data(path, record.made.data, again))
        rows = SCORES.read(self.tables_at / "scores.csv")
        by_id = {run.id: run for run in self.project.runs}
        why = cache(lambda run, name, used: self._why_not_scored(record.made, by_id[run], name, used, path, again))
        runs: dict[tuple[str, str], list[Run]] = {}
        for run in self.project.runs:
            runs.setdefault((run.system, run.variant), []).append(run)
        used = {(row.system, row.variant, row.benchmark, row.seed) for row in rows if row.status in MEASURED}

        def checked(row: Score) -> Score:
            behind = [run for run in runs.get((row.system, row.variant), ()) if row.benchmark in run.benchmarks]
            behind = [run for run in behind if row.seed in (ALL_SEEDS, str(run.seed))]
            keys = {run.id: (row.system, row.variant, row.benchmark, str(run.seed)) for run in behind}
            unfit = joined(filter(None, (why(run, row.benchmark, key in used) for run, key in keys.items())))
            if row.status in ("trivial", "oracle"):
                unfit = other_data
            if row.status == SUBMITTED:
                unfit = self._why_other(record.made, f"{row.row}/{row.dataset}.json", path, again)
            return replace(row, **NO_NUMBERS, status="missing", reason=unfit) if unfit else row

        return [checked(row) for row in rows]

    def _why_not_scored(self, made: Made, run: Run, benchmark: str, used: bool, path: Path, again: str) -> Reason:
        name = self.project.predictions(run, benchmark).relative_to(self.project.results).as_posix()
        unfit = self._why_unfit(lambda: self.predictions(run, benchmark)) if used else NOTHING
        return unfit or self._why_other(made, name, path, again)

    def _why_other(self, made: Made, name: str, path: Path, again: str) -> Reason:
        then, now = made.results.get(name, ""), self._fit_digest(name)
        if then == now:
            return NOTHING
        return Reason("stale", str(Unfit(path, "stale", _other(name, then, now), again, now, then)))

    def _why_unfit(self, read: Callable[[], object]) -> Reason:
        try:
            read()
        except Unfit as unfit:
            return Reason("damaged" if unfit.kind == "missing" else unfit.kind, str(unfit))
        except (DataError, ResultsError, OSError) as error:
            return Reason("damaged", str(error))
        return NOTHING

    def fitting(self, table: CsvTable[OfRun], name: str) -> list[OfRun]:
        """Return the rows of influence.csv or strata.csv whose predictions are those that were scored, and fit."""
        fit = {(row.system, row.variant, row.benchmark, row.seed) for row in self.scores() if row.status in MEASURED}
        rows = table.read(self.tables_at / name)
        return [row for row in rows if (row.system, row.variant, row.benchmark, str(row.seed)) in fit]

    def tables_now(self) -> dict[str, str]:
        """Return the digests of the tables that a report is made from."""
        return {name: self._digest_or_none(self.tables_at / name) for name in (*TABLES["score"], *TABLES["judge"])}

    def digests(self, *kinds: Literal["predictions", "runs", "prompt_tests", "submitted"]) -> dict[str, str]:
        """Return the digests of all results of some kinds, by path below results/<suite>; "" for what does not fit."""
        return {name: self._fit_digest(name) for name in sorted(self._reads) if name.startswith(kinds)}

    @cached_property
    def _reads(self) -> dict[str, Callable[[], object]]:
        """What reads each result that runs make, by path below results/<suite>."""
        project = self.project
        found: dict[Path, Callable[[], object]] = {}
        for run in project.trainings:
            found[project.run_folder(run) / RUN] = partial(self.run, run)
        for run in project.evaluations:
            found |= {project.predictions(run, name): partial(self.predictions, run, name) for name in run.benchmarks}
            tests = run.prompt_tests
            found |= {project.prompt_test_file(run, name): partial(self.prompt_tests, run, name) for name in tests}
        for path in submissions(project):
            found[path.relative_to(project.root)] = partial(self.submission, path)
        return {path.relative_to(project.results).as_posix(): read for path, read in found.items()}

    def _fit_digest(self, name: str) -> str:
        """Return the digest of a result; "" where there is none, or where it is not to be used.

        Where only the data do not fit themselves, nothing is known of what was made from them.
        """
        with suppress(DataError, ResultsError, FileNotFoundError):
            try:
                self._reads.get(name, lambda: None)()
            except Unfit:
                return ""
        return self._digest_or_none(self.results / name)

    def data_now(self) -> dict[str, str]:
        """Return the data digests of all prepared data of the project's runs that are there and fit."""
        found = {}
        for index in sorted({self.project.index(split) for run in self.project.runs for split in run.splits}):
            with suppress(ResultsError):
                found["/".join(index.parent.parts[-2:])] = self._digest_of(self.project.root / index)
        return found

    def _digest_or_none(self, path: Path) -> str:
        try:
            return self.digest(path)
        except OSError:
            return ""

    def _no_attempt(self, step: str, job: str, path: Path, again: str) -> None:
        why = failed(self.project, step, job)
        if why:
            raise Unfit(path, "failed", why, again)

    def _record(self, kind: type[RecordType], path: Path, again: str, whose: Path | None = None) -> RecordType:
        try:
            return kind.read(path)
        except FileNotFoundError:
            if whose is None:
                raise
            why = f"{path.name} is absent, so nothing says what it was made from"
            raise Unfit(whose, "damaged", why, again) from None
        except ResultsError as error:
            raise Unfit(path, "damaged", error.what.removeprefix("damaged: "), again) from None

    def _parsed(
        self, path: Path, read: Callable[[Path], Mapping[str, Predictions]], again: str
    ) -> dict[str, Predictions]:
        try:
            return dict(read(path))
        except ResultsError as error:
            raise Unfit(path, "damaged", error.what.removeprefix("damaged: "), again) from None

    def _content(self, path: Path, expected: str, again: str) -> None:
        try:
            found = self.digest(path)
        except FileNotFoundError:
            raise Unfit(path, "missing", "its record is there, and it is not", again, expected) from None
        except OSError as error:
            raise Unfit(path, "damaged", f"cannot be read: {error.strerror}", again) from None
        if found != expected:
            raise Unfit(path, "damaged", "its content is not what was written", again, expected, found)

    def _made(self, path: Path, made: Made, run: Run, again: str) -> None:
        for name, digest in made.content.items():
            if "/" not in name:  # maps are large, and checked when they are read
                self._content(path.with_name(name), digest, again)
        if path.suffix == ".csv" and path.name not in made.content:
            raise Unfit(path, "damaged", "its record is of another file", again)
        if made.run != run.training_id:
            raise Unfit(path, "damaged", f"it was made by {made.run or 'nobody'}", again)
        now = provenance.reading_of(self.project, run)
        if made.settings != now:
            raise Unfit(path, "stale", "read with other settings than are planned now", again, now, made.settings)
        self._same_data(path, made.data, again)

    def _same_data(self, path: Path, data: Mapping[str, str], again: str) -> None:
        """Data that are not here any more (results are moved and shared) are not held against a result.

        Data that do not fit themselves are a ``ResultsError`` of theirs: it says nothing of what was made from them.
        """
        for name, digest in data.items():
            weights = name.startswith(WEIGHTS)
            folder = self.project.weights / name.removeprefix(WEIGHTS) if weights else self.project.data / name
            source = self.project.root / folder / ("manifest.json" if weights else "index.csv")
            if is_there(source):
                now = self._digest_of(source)
                if now != digest:
                    raise Unfit(path, "stale", f"made from other data ({name}) than are there now", again, now, digest)

    def _truth_of(self, split: Split) -> Mapping[str, float] | None:
        index = self.project.root / self.project.index(split)
        return read_truth(index, split.split) if is_there(index) else None

    def _same_samples(self, path: Path, split: Split, predictions: Predictions, left_out: set[str], again: str) -> None:
        truth = self._truth(split)
        if truth is None:
            return
        for what, ids in (
            ("lacks", truth.keys() - set(predictions.ids) - left_out),
            ("has what the benchmark lacks:", set(predictions.ids) - truth.keys()),
            (
                "has another true count of",
                {
                    name
                    for name, count in zip(predictions.ids, predictions.true.tolist(), strict=True)
                    if name in truth and count != truth[name] and not (math.isnan(count) and math.isnan(truth[name]))
                },
            ),
        ):
            if ids:
                shown = ", ".join(sorted(ids)[:SHOWN]) + (", …" if len(ids) > SHOWN else "")
                raise Unfit(path, "damaged", f"it {what} {shown} ({len(ids)} of {len(truth)} samples)", again)
