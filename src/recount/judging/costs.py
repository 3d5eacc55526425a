"""What deciding a claim costs: GPU hours of trainings, measured here or as the suite quotes them with their source."""

from collections.abc import Iterable, Iterator
from functools import cache

from recount.judging.arms import is_fixed
from recount.results.reason import Missing
from recount.scoring.measured import Measurements
from recount.settings.paper import TRIVIAL_ARMS, Claim
from recount.settings.project import Run


class Costs:
    """Costs of training one more seed of each arm."""

    def __init__(self, measurements: Measurements) -> None:
        self.measurements, self.project = measurements, measurements.project
        self._of_arm = cache(self._hours)

    def _hours(self, arm: str) -> tuple[str, float | None, str]:
        """Return the training, the hours of one seed of it (None: not known), and on what that is based."""
        system, _, variant = arm.partition("/")
        runs = self.measurements.runs.get((system, variant))
        if runs is None:
            return arm, None, self.project.not_run(system, variant)
        if is_fixed(runs[0]):
            return arm, 0.0, "no training"
        training = runs[0].training_id.rpartition("/")[0]
        measured = [seconds for run in runs for seconds in self._measured(run)]
        if measured:
            return training, sum(measured) / len(measured) / 3600, "measured here"
        return training, *self.project.gpu_hours(system, variant)

    def _measured(self, run: Run) -> Iterator[float]:
        try:
            cost = self.measurements.record(run.id).cost
        except Missing:
            return
        seconds = cost.gpu_seconds or cost.wall_seconds
        if seconds is not None:
            yield seconds

    def text(self, arms: Iterable[str], seeds: int, words: str) -> str:
        """Return in words what so many seeds of each of these arms cost; "" where nothing is trained."""
        found = {training: (hours, basis) for training, hours, basis in map(self._of_arm, dict.fromkeys(arms))}
        known = [hours for hours, _ in found.values() if hours is not None]
        unknown = [training for training, (hours, _) in found.items() if hours is None]
        if not any(known) and not unknown:
            return ""
        total = sum(known) * seeds
        shown = f"{total:.3g} hours" if total >= 1 or not total else f"{60 * total:.2g} minutes"
        bases = dict.fromkeys(basis for hours, basis in found.values() if hours)
        text = f"{words}: about {shown} of training ({'; '.join(bases)})" if any(known) else f"{words}"
        if not unknown:
            return text
        cost = "cost" if len(unknown) > 1 else "costs"
        return f"{text}{', and' if any(known) else ':'} what {', '.join(unknown)} {cost}, which is not known"

    def arms_of(self, claim: Claim, quoted: Iterable[str]) -> list[str]:
        """Return the arms of a claim that are runs."""
        every = dict.fromkeys(arm for arm in (*claim.arm, *claim.against) if arm)
        return [arm for arm in every if arm not in TRIVIAL_ARMS and arm not in set(quoted)]
