"""``recount merge``: the exports of several people as one results folder, in which their seeds are one population.

One population is: the settings that are planned here, one code of each system's training and prediction, one state of
each prepared data set and of weights. What is not of it is kept apart, below ``apart/``, which nothing reads. The code
is that of most runs, the data are those that are prepared here, else those of most. A run that is there twice is
compared, and the one with more results is kept, else the one that was named first.

Exports are strangers' files (``reproduction``): each file is checked against its record, only files of known names are
written, and one that is not what it should be refuses the whole merge. The folder is built beside its place, verified
there and moved, so that there is a whole one or none. Tables are not merged: `recount score` and `judge` make them.
"""

import hashlib
import math
import os
import re
import shutil
import tempfile
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

from recount import provenance
from recount.chain import Chain
from recount.documents import Document, Sheet
from recount.errors import UserError
from recount.exchange.reproduction import Reproduction, open_reproduction
from recount.exchange.shares import in_shell
from recount.results.attempts import is_process
from recount.results.files import Made, ResultsError, is_there
from recount.results.hands import APART, HANDS, Hand, Hands
from recount.results.predictions import PREDICTIONS, read_predictions, timing_path
from recount.results.prompt_tests import PromptTests
from recount.results.run_record import HISTORY, RUN, ModelRecord, RunRecord
from recount.results.verdicts import LOOKS, Looks
from recount.settings.drift import flat
from recount.settings.project import WEIGHTS, Project, load
from recount.verify import Verification

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.+-]*")  # of a part of a path
TRAINED_WITH = {"size", "settings", "recipe", "training", "held_out", "selected_on_test", "checkpoint", "weights"}
Voted = tuple[str, str]  # what a population has one of: (code of which step or "data", system or data set)


@dataclass(frozen=True, slots=True)
class _Read:
    """A file of predictions or prompt tests: with its record's, the digests of its files by name."""

    files: Mapping[str, str]
    made: Made
    step: str


@dataclass(frozen=True, slots=True)
class _Training:
    """A training as an export has it, with all that was read with it."""

    export: "_Export"
    record: RunRecord
    files: Mapping[str, str]
    read: Mapping[str, _Read]
    who: str

    @property
    def votes(self) -> dict[Voted, str]:
        return {
            ("train", self.record.run.system): self.record.provenance.code,
            **{("data", name): digest for name, digest in self.record.provenance.data.items()},
        }


@dataclass(eq=False)
class _Export:
    """A reproduction that is to be merged, and what is wrong with it."""

    there: Reproduction
    name: str  # no other of the exports is called so
    problems: dict[str, None] = field(default_factory=dict)  # in their order, each once

    def refuse(self, what: str) -> None:
        """Note why the export is refused."""
        self.problems[f"{self.there.path}: {what}"] = None

    def digest(self, name: str) -> str:
        return hashlib.sha256(self.there.read(name)).hexdigest()

    def record(self, kind: type[Any], name: str) -> Any:
        """Return a record, or None: there is none, or it is refused."""
        if name not in self.there.names:
            return None
        try:
            return kind.parse(self.there.read(name), name)
        except ResultsError as error:
            self.refuse(str(error))
        return None


@dataclass(frozen=True, slots=True)
class Apart:
    """What was kept apart: a run, or one file that was read with it; from which export, and why."""

    what: str
    source: str
    why: str


@dataclass(frozen=True, slots=True)
class MergedRun:
    """A run of the merged folder."""

    run: str
    who: str
    source: str
    computed_on: str


@dataclass(frozen=True, slots=True)
class Merged:
    """What ``recount merge`` made."""

    path: str
    seeds: list[int]
    runs: list[MergedRun]
    apart: list[Apart]
    twice: list[str]
    next: list[str]  # commands


def merge(project: Project, paths: Sequence[Path]) -> Merged:
    """Join exports into the project's results folder, which must not be there; a UserError changes nothing."""
    target = project.root / project.results
    if target.exists():
        raise UserError(f"{target}: exists already; name another place (--config results=merged), or move it away")
    exports = [_Export(open_reproduction(path), name) for path, name in zip(paths, _names(paths), strict=True)]
    found = [training for export in exports for training in _trainings(export, project)]
    looks = _looks(exports)
    if problems := [problem for export in exports for problem in export.problems]:
        raise UserError("\n".join([*problems, "nothing was merged: leave these exports out, or ask for new ones"]))
    seeds = sorted({training.record.run.seed for training in found}) or [*project.config.seeds]
    whole = load(project.root, project.overrides | {"seeds": seeds})
    apart: list[Apart] = []
    population = [training for training in found if not _kept_apart(_unplanned(whole, training), training, apart)]
    one = _majority((training.votes for training in population), _here(whole, population))
    population = [
        training for training in population if not _kept_apart(_differs(training.votes, one), training, apart)
    ]
    kept, twice = _each_once(population)
    reads = _reads(whole, kept, apart)
    if not kept:
        raise UserError(
            "\n".join(["no run of these exports fits this project:", *(f"{a.what}: {a.why}" for a in apart)])
        )
    _same_truth(kept, reads)
    target.parent.mkdir(parents=True, exist_ok=True)
    begun = f".{target.name}.merging"
    for left in target.parent.glob(f"{begun}.[0-9]*.*"):  # by a merge that was killed
        if not is_process(int(left.name.split(".")[-2])):
            shutil.rmtree(left, ignore_errors=True)
    with tempfile.TemporaryDirectory(prefix=f"{begun}.{os.getpid()}.", dir=target.parent) as place:
        stage = Path(place, target.name)
        for training in found:
            _write(stage, training, kept.get(training.record.id) is training, reads)
        looks.write(stage / LOOKS)
        hands = {
            run: Hand(who=t.who, source=t.export.name, run_sha256=t.files[f"runs/{run}/{RUN}"])
            for run, t in kept.items()
        }
        told = [f"{each.what} ({each.source}): {each.why}" for each in apart]
        Hands(runs=hands, apart=told, twice=twice).write(stage / HANDS)
        _verify(load(project.root, whole.overrides | {"results": place}))
        stage.rename(target)
    runs = [MergedRun(run, t.who, t.export.name, t.record.computed_on) for run, t in sorted(kept.items())]
    given = in_shell({**whole.overrides, "suite": project.suite.name})
    commands = [f"recount {step} --config {given}" for step in ("verify", "score", "judge", "report")]
    return Merged(
        str(project.results), sorted({t.record.run.seed for t in kept.values()}), runs, apart, twice, commands
    )


def _names(paths: Iterable[Path]) -> list[str]:
    """Return how the exports are called, so that no two are called alike."""
    names, seen = list[str](), Counter[str]()
    for name in (path.resolve().name for path in paths):
        seen[name] += 1
        names.append(f"{name}-{seen[name]}" if seen[name] > 1 else name)
    return names


def _trainings(export: _Export, project: Project) -> Iterator[_Training]:
    """Yield the trainings of an export; what must not be used is noted as its problem."""
    there = export.there
    for why in there.unfit.values():
        export.refuse(why)
    hands = export.record(Hands, HANDS) or Hands()
    reads = dict[str, dict[str, _Read]]()
    for name in there.names:
        if name not in there.unfit and (found := _read_of(export, name)):
            reads.setdefault(found.made.run, {})[name] = found
    for run, record in there.records.items():
        if record.run.suite != project.suite.name:
            export.refuse(
                f"its runs are of suite {record.run.suite}: this project's is {project.suite.name} (--config suite=)"
            )
        if record.provenance.recount != provenance.VERSION:
            made_by, here = record.provenance.recount or "an unknown recount", provenance.VERSION
            export.refuse(f"its runs were made by recount {made_by}, and this is {here}: merge with the same one")
        files = dict(_run_files(export, run, record))
        hand = hands.runs.get(run)
        known = hand is not None and hand.run_sha256 == files.get(f"runs/{run}/{RUN}")
        yield _Training(
            export, record, files, reads.get(run, {}), hand.who if hand and known else Path(export.name).stem
        )


def _run_files(export: _Export, run: str, record: RunRecord) -> Iterator[tuple[str, str]]:
    """Yield the files of a run's folder with their digests, each of which is what the record says."""
    folder = f"runs/{run}"
    if not all(map(NAME.fullmatch, run.split("/"))):
        export.refuse(f"{folder}: no run is called so")
        return
    yield f"{folder}/{RUN}", export.digest(f"{folder}/{RUN}")
    history = f"{folder}/{HISTORY}"
    if history not in export.there.names:
        export.refuse(f"{history}: missing: {RUN} is there, and it is not")
    elif export.digest(history) != record.history_sha256:
        export.refuse(f"{history}: damaged: its content is not what was written")
    else:
        yield history, record.history_sha256
    for selection in record.selections.values():
        if not NAME.fullmatch(selection.model) or not selection.model.endswith(".safetensors"):
            export.refuse(f"{folder}/{RUN}: {selection.model!r} is no name of a model")
            continue
        name = f"{folder}/{PurePosixPath(selection.model).with_suffix('.json')}"
        said = export.record(ModelRecord, name)
        if said is None and name not in export.there.names:
            export.refuse(f"{name}: missing: {RUN} names its model")
        elif said is not None and (said.run, said.selection.sha256) != (record.id, selection.sha256):
            export.refuse(f"{name}: damaged: it is of another model than {RUN} names")
        elif said is not None:
            yield name, export.digest(name)


def _read_of(export: _Export, name: str) -> _Read | None:
    """Return a file that was read with a training, or None: it is another one, or refused."""
    there, path = export.there, PurePosixPath(name)
    try:
        if path.match("predictions/*/*/*/*/seed*.csv") and len(path.parts) == 6:
            timing = timing_path(Path(name)).as_posix()
            read_predictions(there.read(name), name)
            found = _Read({each: export.digest(each) for each in (name, timing)}, there.timing(name).made, "predict")
        elif path.match("prompt_tests/*/*/*/*/seed*.json") and len(path.parts) == 6:
            made = PromptTests.parse(there.read(name), name).made
            if made.run not in there.records or {*made.models.items()} - {*_models(there.records[made.run]).items()}:
                raise ResultsError(name, f"stale: made with another model than {made.run or 'any run'} has")
            found = _Read({name: export.digest(name)}, made, "test_prompts")
        else:
            return None
        system, _, seed = path.with_suffix("").parts[-3:]
        if (system, seed) != (found.made.run.split("/")[0], found.made.run.split("/")[-1]):
            raise ResultsError(name, f"damaged: it was made by {found.made.run or 'nobody'}")
        for other in (*found.made.content, name):
            if other != path.name and not all(map(NAME.fullmatch, other.split("/"))):
                raise ResultsError(name, f"it names {other!r}, which is no file of results")
    except ResultsError as error:
        export.refuse(str(error).removeprefix(f"{there.path}: "))
        return None
    return found


def _models(record: RunRecord) -> dict[str, str]:
    return {name: selection.sha256 for name, selection in record.selections.items()}


def _looks(exports: Iterable[_Export]) -> Looks:
    """Return the looks that anybody took at the claims."""
    every = Looks()
    for export in exports:
        for claim, looks in (export.record(Looks, LOOKS) or Looks()).looks.items():
            known = every.looks.setdefault(claim, [])
            for look in looks:
                same = next((other for other in known if other.seeds == look.seeds), None)
                if same is None:
                    known.append(look)
                else:
                    same.first = min(same.first, look.first)
    return every


def _kept_apart(why: str, training: _Training, apart: list[Apart]) -> bool:
    if why:
        apart.append(Apart(training.record.id, training.export.name, why))
    return bool(why)


def _unplanned(whole: Project, training: _Training) -> str:
    """Return why a training is not one that is planned here, "" if it is."""
    record = training.record
    run = next((run for run in whole.trainings if run.id == record.id), None)
    if run is None:
        known = (
            record.run.system in whole.experiments
            and record.run.variant in whole.experiments[record.run.system].variants
        )
        why = whole.not_run(record.run.system, record.run.variant) if known else ""
        return f"no run of this project{f': {why}' if why else ''}"
    if record.planned == provenance.planned(whole, run):
        return ""
    ours, theirs = (flat(each.model_dump(mode="json", include=TRAINED_WITH)) for each in (run, record.run))
    other = [
        f"{key} = {theirs.get(key, 'absent')} (here {ours.get(key, 'absent')})"
        for key in {**ours, **theirs}
        if ours.get(key) != theirs.get(key)
    ]
    return f"other settings than are planned here: {', '.join(other[:3]) or 'precision, determinism or defaults'}"


def _here(whole: Project, trainings: Iterable[_Training]) -> dict[Voted, str]:
    """Return the digests of the data and weights that are here, which decide what the population's are."""
    found = {("data", name): digest for name, digest in Chain(whole).data_now().items()}
    for _, name in {vote for training in trainings for vote in training.votes if vote[1].startswith(WEIGHTS)}:
        manifest = whole.root / whole.weights / name.removeprefix(WEIGHTS) / "manifest.json"
        if is_there(manifest):
            found["data", name] = provenance.weights_digest(manifest)
    return found


def _majority(votes: Iterable[Mapping[Voted, str]], here: Mapping[Voted, str]) -> dict[Voted, str]:
    """Return what most have, of equally many the first; ``here`` decides what it knows."""
    counted = dict[Voted, Counter[str]]()
    for vote in votes:
        for what, digest in vote.items():
            counted.setdefault(what, Counter())[digest] += 1
    return {what: here.get(what) or digests.most_common(1)[0][0] for what, digests in counted.items()}


def _differs(votes: Mapping[Voted, str], one: Mapping[Voted, str]) -> str:
    """Return in what something is not of the population, "" if it is."""
    other = [(what, digest, one[what]) for what, digest in votes.items() if digest != one[what]]
    words = {
        "train": "trained with other code of",
        "predict": "predicted with other code of",
        "test_prompts": "asked with other code of",
        "data": "made from another state of",
    }
    return ", ".join(f"{words[step]} {name} ({digest[:12]}, not {ours[:12]})" for (step, name), digest, ours in other)


def _each_once(population: Iterable[_Training]) -> tuple[dict[str, _Training], list[str]]:
    """Return one training of each run, and how those that are there twice compare."""
    every = dict[str, list[_Training]]()
    for training in population:
        every.setdefault(training.record.id, []).append(training)
    kept = {run: max(same, key=lambda training: len(training.read)) for run, same in every.items()}
    twice = [
        f"{run}: {_compared(kept[run], other)}; kept that of {kept[run].export.name}"
        for run, same in every.items()
        for other in same
        if other is not kept[run]
    ]
    return kept, twice


def _compared(one: _Training, other: _Training) -> str:
    """Return how far apart two trainings of one run are."""
    same = "the same weights" if _models(one.record) == _models(other.record) else "other weights"
    said = [f"{one.export.name} and {other.export.name} have {same}"]
    for name in (name for name in one.read if name in other.read and name.endswith(".csv")):
        place = "/".join(PurePosixPath(name).parts[1:3])
        if one.read[name].files[name] == other.read[name].files[name]:
            said.append(f"the same bytes of predictions on {place}")
            continue
        first, second = (
            PREDICTIONS.frame(each.export.there.read(name), name).set_index(["id", "prompt", "selection"])[
                "predicted_count"
            ]
            for each in (one, other)
        )
        a, b = first.align(second, join="inner")
        apart = (a - b).abs()
        most = (
            "no picture in common"
            if apart.isna().all()
            else f"at most {apart.max():.4g} and on average {apart.mean():.4g} apart"
        )
        said.append(f"counts on {place} {most}")
    return ", ".join(said)


def _reads(whole: Project, kept: Mapping[str, _Training], apart: list[Apart]) -> dict[str, tuple[_Training, _Read]]:
    """Return what was read with the kept trainings and is of one population, by name."""
    planned: dict[str, str] = {}
    for run in whole.evaluations:
        settings = provenance.reading_of(whole, run)
        results = [whole.predictions(run, name) for name in run.benchmarks]
        results += [whole.prompt_test_file(run, name) for name in run.prompt_tests]
        planned |= {path.relative_to(whole.results).as_posix(): settings for path in results}
    every = [(name, training, read) for training in kept.values() for name, read in training.read.items()]

    def votes(training: _Training, read: _Read) -> dict[Voted, str]:
        data = {("data", name): digest for name, digest in read.made.data.items()}
        return {(read.step, training.record.run.system): read.made.code, **data}

    def is_planned(name: str, read: _Read) -> bool:
        return planned.get(name) == read.made.settings

    here = _here(whole, ()) | {
        vote: digest for training in kept.values() for vote, digest in training.votes.items() if vote[0] == "data"
    }
    one = _majority((votes(training, read) for name, training, read in every if is_planned(name, read)), here)
    found = {}
    for name, training, read in every:
        if not is_planned(name, read):
            why = (
                "read with other settings than are planned here"
                if name in planned
                else "no run of this project is read so"
            )
        else:
            why = _differs(votes(training, read), one)
        if why:
            apart.append(Apart(name, training.export.name, why))
        else:
            found[name] = (training, read)
    return found


def _same_truth(kept: Mapping[str, _Training], reads: Mapping[str, tuple[_Training, _Read]]) -> None:
    """Refuse predictions that hold two true counts of one picture of the same prepared data."""
    known = dict[tuple[str, str, str], tuple[float, str]]()
    for name, (training, read) in reads.items():
        if name.endswith(".csv"):
            place = "/".join(PurePosixPath(name).parts[1:3])
            data = repr(sorted(item for item in read.made.data.items() if not item[0].startswith(WEIGHTS)))
            where = f"{training.export.there.path}: {name}"
            for rows in read_predictions(training.export.there.read(name), name).values():
                for picture, true in zip(rows.ids, rows.true.tolist(), strict=True):
                    then, other = known.setdefault((data, place, picture), (true, where))
                    if then != true and not (math.isnan(then) and math.isnan(true)):
                        raise UserError(
                            f"{where}: the true count of {picture} is {true:g}, and {then:g} in {other}, yet both say "
                            "that they were made from the same data: one of them was edited; nothing was merged"
                        )


def _write(stage: Path, training: _Training, kept: bool, reads: Mapping[str, tuple[_Training, _Read]]) -> None:
    """Write a training and what was read with it, what is not of the population below ``apart/<export>/``."""
    apart = stage / APART / training.export.name
    _copy(training.export, training.files, stage if kept else apart)
    for name, read in training.read.items():
        _copy(training.export, read.files, stage if kept and name in reads else apart)


def _copy(export: _Export, files: Mapping[str, str], folder: Path) -> None:
    """Write files of an export, whose names were checked, if they are what they were then."""
    for name, digest in files.items():
        content = export.there.read(name)
        if hashlib.sha256(content).hexdigest() != digest:
            raise UserError(f"{export.there.path}: {name} was changed while it was read; nothing was merged")
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)


def _verify(staged: Project) -> None:
    """Refuse what `recount verify` would find unfit in the merged folder."""
    below = staged.root / staged.results
    unfit = [
        each
        for each in Verification(staged).findings()
        if each.unfit and staged.root.joinpath(each.path).is_relative_to(below)
    ]
    if unfit:
        lines = [f"{staged.root.joinpath(each.path).relative_to(below)}: {each.kind}: {each.why}" for each in unfit]
        raise UserError("\n".join([*lines, "nothing was merged: these files of the exports do not fit what is here"]))


def document(merged: Merged) -> Document:
    """Return what was merged as a document."""
    hands = dict.fromkeys(run.who for run in merged.runs)
    lines = [f"{merged.path}: {len(merged.runs)} runs by {', '.join(hands)}; seeds {', '.join(map(str, merged.seeds))}"]
    lines += [f"there twice: {said}" for said in merged.twice]
    columns = ("run", "who", "source", "computed_on")
    rows = [(run.run, run.who, run.source, run.computed_on) for run in merged.runs]
    sheets = [
        Sheet("Runs", ("Run", "Who", "From", "Computed on"), rows),
        Sheet("Kept apart", ("What", "From", "Why"), [(each.what, each.source, each.why) for each in merged.apart]),
    ]
    after = ["Weights and maps are with whoever trained: tables are made without them.", "Now:", *merged.next]
    return Document("Merged results", lines, sheets, asdict(merged), columns, rows, after)
