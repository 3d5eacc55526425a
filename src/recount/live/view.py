"""What the live page shows, read from files alone: runs, curves, cards, failures, what the next hour should go to.

States are those of `recount status`. Curves are of ``history.csv``, and of a training that still runs from the lines of
its log. What comes next is the plan's cheapest path, computed beside the page whenever another run has ended.
"""

import csv
import re
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import accumulate
from pathlib import Path
from typing import Any

from recount import planning
from recount.errors import UserError
from recount.provenance import cpu_name, visible_gpus
from recount.results.attempts import log_end
from recount.results.run_record import HISTORY
from recount.settings.project import Project, Run
from recount.status import STATES, RunState, counted, states, steps

FRESH = 2.0  # seconds for which a view is shown again
CARDS_FRESH = 30.0
MOST_CURVES = 24  # of what runs first, then of what ended last
HOUR = 1.0
_EPOCH = re.compile(r"^\w+ (?P<stage>\S+) epoch (?P<epoch>\d+): .*?\bloss (?P<loss>[\d.e+-]+)", re.MULTILINE)
SETTINGS = ("config.yaml", "benchmarks.yaml", "suites/*.yaml", "experiments/*.yaml", "papers/*/paper.yaml")


@dataclass(frozen=True, slots=True)
class Curve:
    """The loss of a training by epoch, over all its stages."""

    run: str
    state: str
    losses: tuple[float, ...]

    @property
    def line(self) -> str:
        """Return the curve as points of an SVG polyline in a box of 100 x 30."""
        low, high = min(self.losses), max(self.losses)
        across, up = 100 / max(len(self.losses) - 1, 1), 28 / ((high - low) or 1)
        return " ".join(f"{n * across:.1f},{29 - (loss - low) * up:.1f}" for n, loss in enumerate(self.losses))


class Live:
    """The view of a project that ``load`` reads anew when its settings change; ``problem`` where it cannot."""

    def __init__(self, root: Path, load: Callable[[], Project]) -> None:
        self.root, self.load = root, load
        self._lock = threading.Lock()
        self._seen: tuple[float, ...] = ()
        self._project: Project | None = None
        self._view: dict[str, Any] = {}
        self._at = self._cards_at = -CARDS_FRESH
        self._cards: list[str] = []
        self._planned_for: frozenset[str] | None = None
        self._next: dict[str, Any] = {"waiting": "being computed"}

    def view(self) -> dict[str, Any]:
        """Return all that the page shows; never older than two seconds."""
        with self._lock:
            if time.monotonic() - self._at > FRESH:
                try:
                    self._view = self._read(self._current())
                except (UserError, OSError) as error:
                    self._view = {"problem": str(error), "at": time.strftime("%H:%M:%S")}
                self._at = time.monotonic()
            return self._view

    def _current(self) -> Project:
        paths = sorted(path for pattern in SETTINGS for path in self.root.glob(pattern))
        seen = tuple(path.stat().st_mtime for path in paths)
        if self._project is None or seen != self._seen:
            self._project, self._seen, self._planned_for = self.load(), seen, None
        return self._project

    def _read(self, project: Project) -> dict[str, Any]:
        found = list(states(project))
        once = {state.run: state for state in found}
        by_paper = {
            paper.short_title or name: [s for s in found if s.paper == name] for name, paper in project.papers.items()
        }
        running = [state for state in once.values() if state.state == "running"]
        self._plan(project, frozenset(run for run, state in once.items() if state.state == "done"))
        return {
            "suite": project.suite.name,
            "at": time.strftime("%H:%M:%S"),
            "counted": counted(once.values()),
            "papers": {name: _grouped(mine) for name, mine in by_paper.items()},
            "running": running,
            "failed": [state for state in once.values() if state.state == "failed"],
            "steps": steps(project),
            "curves": list(_curves(project, once)),
            "cards": self._cards_here(),
            "on": sorted({f"{state.device or 'starting'} on {state.host}" for state in running}),
            "next": self._next,
        }

    def _cards_here(self) -> list[str]:
        if time.monotonic() - self._cards_at > CARDS_FRESH:
            cards = [f"{card['name']}, {card['memory_mb']} MB, driver {card['driver']}" for card in visible_gpus()]
            self._cards, self._cards_at = cards or [f"no card is visible here; {cpu_name()}"], time.monotonic()
        return self._cards

    def _plan(self, project: Project, done: frozenset[str]) -> None:
        """Have the next hour computed beside the page, once for each set of ended runs."""
        if done != self._planned_for:
            self._planned_for = done
            threading.Thread(target=partial(self._compute_next, project, done), daemon=True).start()

    def _compute_next(self, project: Project, done: frozenset[str]) -> None:
        try:
            found = next_hour(project)
        except (UserError, OSError) as error:
            found = {"waiting": str(error)}
        if done == self._planned_for:
            self._next = found


def next_hour(project: Project) -> dict[str, Any]:
    """Return what the next hour of training should go to: the cheapest path's steps, else what waits, cheap first."""
    plan = planning.plan(project, project.overrides, jobs=False)
    waiting = sorted((run for run in plan.runs if not run.done), key=lambda run: run.gpu_hours)
    rows = list[tuple[str, str, str]]()
    for step in plan.path[: _of_an_hour(step.hours for step in plan.path)]:
        gains = sorted(step.gains.items(), key=lambda item: -item[1])
        said = ", ".join(f"{claim} +{gain:.0%}" for claim, gain in gains if gain >= 0.005)
        rows.append((", ".join(step.runs), f"{step.seeds} seeds, {step.hours:.3g} h", said))
    if rows:
        return {"rows": rows, "why": "the cheapest path to verdicts: what decides most of the papers' claims an hour"}
    for run in waiting[: _of_an_hour(run.gpu_hours for run in waiting)]:
        rows.append((run.run, f"{run.gpu_hours:.3g} h ({run.basis})", ", ".join(run.papers)))
    why = "no training of this suite decides more claims: what waits, the cheapest first" if rows else "nothing waits"
    return {"rows": rows, "why": why}


def _of_an_hour(hours: Iterable[float]) -> int:
    """Return how many of the next steps, of these lengths, are begun within an hour."""
    return sum(start < HOUR for start in list(accumulate(hours, initial=0.0))[:-1])


def _grouped(found: Sequence[RunState]) -> dict[str, Any]:
    """Return a paper's runs by state, and what they are counted."""
    groups = {kind: [state for state in found if state.state == kind] for kind in STATES}
    return {"counted": counted(found), "states": {kind: mine for kind, mine in groups.items() if mine}}


def _curves(project: Project, found: dict[str, RunState]) -> Iterator[Curve]:
    """Yield the curves of trainings: those that run or failed, and then those that ended last."""
    trainings = {run.id: run for run in project.trainings}
    histories = {name: project.root / project.run_folder(run) / HISTORY for name, run in trainings.items()}
    ended = {name: path.stat().st_mtime for name, path in histories.items() if path.is_file()}
    going = [
        name for name in trainings if name in found and found[name].state in ("running", "failed") and name not in ended
    ]
    for name in [*going, *sorted(ended, key=lambda name: -ended[name])][:MOST_CURVES]:
        losses = _of_history(histories[name]) if name in ended else _of_log(project, trainings[name])
        if len(losses) > 1:
            yield Curve(name, found[name].state if name in found else "done", losses)


def _of_history(path: Path) -> tuple[float, ...]:
    try:
        with path.open(encoding="utf-8", errors="replace", newline="") as stream:
            return _finite(row.get("loss") for row in csv.DictReader(stream))
    except (OSError, csv.Error):
        return ()


def _of_log(project: Project, run: Run) -> tuple[float, ...]:
    log = project.root / project.log("train", run.system, run.variant, f"seed{run.seed}")
    last = dict[tuple[str, str], str]()  # a training that went on from a saved state says an epoch again
    for match in _EPOCH.finditer(log_end(log)):
        last[match["stage"], match["epoch"]] = match["loss"]
    return _finite(last.values())


def _finite(texts: Any) -> tuple[float, ...]:
    """Return the numbers among texts that can be drawn."""
    values = []
    for text in texts:
        try:
            value = float(text or "nan")
        except ValueError:
            continue
        if abs(value) < 1e30:
            values.append(value)
    return tuple(values)
