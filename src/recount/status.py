"""``recount status``: what each run of each paper is doing, from files alone: beside SLURM, and after a crash.

A step that works has a record that it touches (``results.attempts``), and a training says beside its saved state how
far it has come. What is done is only there: whether it fits is ``recount verify``'s affair.
"""

import textwrap
import time
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

from recount.documents import Document, Sheet
from recount.results.attempts import (
    LOST,
    PROGRESS,
    Attempt,
    TrainingProgress,
    is_alive,
    last_sign,
    log_tail,
    predict_job,
)
from recount.results.files import ResultsError
from recount.results.run_record import RUN
from recount.settings.project import Project, Run

State = Literal["running", "failed", "waiting", "done", "skipped"]
STATES: tuple[State, ...] = ("running", "failed", "waiting", "done", "skipped")
SETTLING = 60  # seconds after which a log that ends without a result is of a job that failed
WIDTH = 79
WATCH_SECONDS = 5
COLOURS = (("running", "cyan"), ("failed", "red"), ("done", "green"))


@dataclass(frozen=True, slots=True)
class RunState:
    """A run of a paper: ``step`` is what it is at, ``text`` what is to be said of that."""

    paper: str
    run: str
    state: State
    step: str = ""
    text: str = ""
    log: str = ""
    tail: str = ""  # last lines of the log of a step that failed
    host: str = ""
    process: int | None = None
    began: str = ""
    silent_seconds: float | None = None  # since the last sign of life
    stage: str = ""
    epoch: int | None = None
    epochs: int | None = None
    in_epoch: int | None = None  # steps
    steps: int | None = None
    loss: float | None = None
    seconds_left: float | None = None  # of the stage
    device: str = ""


def states(project: Project) -> Iterator[RunState]:
    """Yield each run of each paper; a variant that is not run stands there once, without a seed."""
    known: dict[str, RunState] = {}
    by_name: dict[str, list[Run]] = {}
    for run in project.runs:
        by_name.setdefault(f"{run.system}/{run.variant}", []).append(run)
    for name, paper in project.papers.items():
        for variant in paper.runs:
            if why := project.not_run(*variant.split("/", 1)):
                yield RunState(name, variant, "skipped", text=why)
            for run in by_name.get(variant, ()):
                if run.id not in known:
                    known[run.id] = _state(project, run)
                yield RunState(**(asdict(known[run.id]) | {"paper": name}))


def _state(project: Project, run: Run) -> RunState:
    root, trained, read = project.root, run.training_id, run.evaluation_id
    steps = [("train", trained, trained, root / project.run_folder(run) / RUN)]
    for name in run.benchmark_of_split.values():
        steps.append(("predict", read, predict_job(run, name), root / project.predictions(run, name)))
    for name in run.prompt_tests:
        steps.append(("test-prompts", read, f"{read}/{name}", root / project.prompt_test_file(run, name)))
    for step, whose, job, result in steps:
        found = _of_step(project, run, step, whose, job, result)
        if found is not None:
            return found
    return RunState("", run.id, "done")


def _of_step(project: Project, run: Run, step: str, whose: str, job: str, result: Path) -> RunState | None:
    """Return the state of a run that is at this step, ``whose`` run does; None: the step is done."""
    logs = [project.log(step.replace("-", "_"), *parts.split("/")) for parts in (job, whose)]
    log = next((log for log in logs if (project.root / log).is_file()), logs[-1])  # of its own job, or one with others
    same = f", as {whose}" if whose != run.id else ""
    try:
        attempt, silent = last_sign(project, step, job) or (None, 0.0)
    except ResultsError as error:
        return RunState("", run.id, "failed", step, str(error), str(log))
    if attempt is not None and is_alive(attempt, silent):
        return _running(project, run, attempt, silent, f"{step}{same}", str(log))
    if attempt is not None and attempt.end == "walltime":
        return RunState("", run.id, "waiting", step, attempt.text, str(log))
    if attempt is not None:
        text = (
            attempt.text if attempt.error is not None else f"{step} was killed without a word{_where(attempt, silent)}"
        )
        tail = log_tail(project.root / log)
        return RunState("", run.id, "failed", step, text, str(log), tail, attempt.host, attempt.process, attempt.began)
    if result.is_file():
        return None
    tail = log_tail(project.root / log)
    if tail and not tail.endswith(result.name) and time.time() - (project.root / log).stat().st_mtime > SETTLING:
        return RunState("", run.id, "failed", step, f"{step} ended without its result", str(log), tail)
    missing = [split for split in run.splits if not (project.root / project.index(split)).is_file()]
    data = ", ".join(dict.fromkeys(f"{split.dataset} ({split.preparation})" for split in missing))
    return RunState("", run.id, "waiting", step, f"not prepared: {data}" if data else f"for {step}{same}")


def _where(attempt: Attempt, silent: float) -> str:
    gone = f"no sign of life for {_duration(silent)}" if silent > LOST else f"process {attempt.process} is gone"
    return f" on {attempt.host} (memory, time limit, or the machine): {gone}"


def _running(project: Project, run: Run, attempt: Attempt, silent: float, step: str, log: str) -> RunState:
    bare = {"paper": "", "run": run.id, "state": "running", "step": step, "log": log, "host": attempt.host,
            "process": attempt.process, "began": attempt.began, "silent_seconds": round(silent, 1)}  # fmt: skip
    said = [step]
    try:
        if attempt.step == "train":
            record = TrainingProgress.read(project.root / project.checkpoint_folder(run) / PROGRESS)
            bare |= record.model_dump(include={"stage", "epoch", "epochs", "steps", "loss", "seconds_left", "device"})
            bare["in_epoch"] = record.step
            said += [f"{record.stage} epoch {record.epoch}/{record.epochs}", f"step {record.step}/{record.steps}"]
            said += [f"loss {record.loss:.4g}"] if record.loss is not None else []
            said += [f"{_duration(record.seconds_left)} left"] if record.seconds_left is not None else []
            said += [record.device]
    except (FileNotFoundError, ResultsError):
        pass  # it has not begun its first stage, or an older recount trains
    said.append(f"{attempt.host}, process {attempt.process}")
    return RunState(**bare, text=", ".join(said))  # type: ignore[arg-type]


def _duration(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 90 * 60 else f"{seconds / 3600:.1f} h"


def document(project: Project) -> Document:
    """Return the state of all runs as a document: a paper's running and failed runs first, the others by name."""
    found = list(states(project))
    papers = {name: [state for state in found if state.paper == name] for name in project.papers}
    once = {state.run: state for state in found}.values()
    head = f"Suite {project.suite.name}, {time.strftime('%H:%M:%S')}: {counted(once)}"
    plain = [head]
    for name, mine in papers.items():
        plain += ["", f"{project.papers[name].short_title} ({name}): {counted(mine)}"]
        for state in mine:
            if state.state in ("running", "failed"):
                plain += _wrapped(f"{state.state:<8} {state.run}: {state.text}")
                plain += [f"           | {line[: WIDTH - 13]}" for line in state.tail.splitlines()]
                plain += _wrapped(f"{'':<8} {state.log}") if state.state == "failed" else []
        for kind in STATES[2:]:
            groups: dict[str, list[str]] = {}
            for state in (state for state in mine if state.state == kind):
                groups.setdefault(state.text, []).append(state.run)
            for text, runs in groups.items():
                plain += _wrapped(f"{kind:<8} {text}{': ' if text else ''}{', '.join(runs)}")
    plain += ["", *steps(project)]
    heads = ("Paper", "Run", "State", "What", "Log")
    rows = [(s.paper, s.run, s.state, s.text, s.log if s.state == "failed" else "") for s in found]
    columns = list(RunState.__dataclass_fields__)
    content = {"suite": project.suite.name, "runs": found}
    table = [[getattr(state, column) for column in columns] for state in found]
    sheet = Sheet("", heads, rows, [state.state for state in found])
    return Document(head, steps(project), [sheet], content, columns, table, colours=COLOURS, plain=plain)


def is_over(found: Document) -> bool:
    """Return whether nothing runs or waits any more."""
    return not any(state.state in ("running", "waiting") for state in found.content["runs"])


def counted(found: Iterable[RunState]) -> str:
    """Return how many runs are in each state, in words."""
    every = [state.state for state in found]
    return ", ".join(f"{every.count(kind)} {kind}" for kind in STATES if kind in every) or "nothing to run"


def _wrapped(text: str) -> list[str]:
    return textwrap.wrap(text, WIDTH, initial_indent="  ", subsequent_indent=" " * 11, break_on_hyphens=False)


def steps(project: Project) -> list[str]:
    """Return whether the suite's tables, verdicts and page are there."""
    said = []
    places = {"score": project.results / "scores.csv", "judge": project.results / "verdicts.csv",
              "report": project.report / "index.html"}  # fmt: skip
    for step, path in places.items():
        attempt = last_sign(project, step, project.suite.name)
        state = "done" if (project.root / path).is_file() else "waiting"
        if attempt is not None:
            state = "running" if is_alive(*attempt) else f"failed: {attempt[0].text}"
        said.append(f"{step}: {state}")
    return said
