"""What CountCLIP's published numbers show by themselves, computed from ``papers/countclip/published.csv`` and evidence.

``evidence/confusions.csv``: the 29 confusion matrices printed in figures 3 to 5 of the ReScience PDF (transcribed from
SforAiDl/CountCLIP@a15672d); ``evidence/epochs.csv``: losses and accuracies of three runs recovered from the history of
its notebook. Nothing is typed in here. No per-image predictions were published, so tests of paired differences are
bounded over all ways in which the printed matrices can be matched.
"""

import math
from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.stats import binomtest

from recount.errors import UserError
from recount.results.published import read_published

NUMBERS = tuple(range(2, 11))
BASELINE = "baseline"
END, BEST = "end of epoch 10", "early stop"
TABLE_OF = {END: "table1_last", BEST: "table1_best"}
PRINTED_SHARE = 0.5e-4  # accuracies are printed in per cent with two decimals
LARGE = (7, 8, 9, 10)
LARGEST = (8, 9, 10)
SIMULATIONS = 100_000
EPOCHS = 10
CONFIGURATIONS = 11  # of a study

Accuracies = Mapping[str, Mapping[str, float]]  # share by table and variant


@dataclass(frozen=True)
class Panel:
    """A printed confusion matrix: rows are true numbers two to ten, columns the predicted ones."""

    figure: str
    panel: str
    state: str
    label: str
    variant: str
    matrix: NDArray[np.int64]

    @property
    def name(self) -> str:
        """Return figure and panel, for instance ``fig3c``."""
        return f"{self.figure}{self.panel}"

    @property
    def n(self) -> int:
        """Return how many images it counts."""
        return int(self.matrix.sum())

    @property
    def correct(self) -> int:
        """Return how many of them are on the diagonal."""
        return int(np.trace(self.matrix))

    @property
    def accuracy(self) -> float:
        """Return the share on the diagonal."""
        return self.correct / self.n

    @property
    def standard_error(self) -> float:
        """Return the binomial standard error of the accuracy."""
        return math.sqrt(self.accuracy * (1 - self.accuracy) / self.n)

    def hits(self, numbers: Iterable[int]) -> tuple[int, int]:
        """Return right answers and images of several numbers."""
        rows = [NUMBERS.index(number) for number in numbers]
        return int(np.diag(self.matrix)[rows].sum()), int(self.matrix[rows].sum())

    @property
    def largest(self) -> float:
        """Return the share of right answers over the images of eight to ten."""
        right, images = self.hits(LARGEST)
        return right / images

    def fits(self, accuracy: float) -> bool:
        """Return whether it has a printed accuracy, to the printed digits."""
        return abs(self.accuracy - accuracy) <= PRINTED_SHARE + 1e-9


def read_panels(path: Path) -> list[Panel]:
    """Return the printed matrices in the file's order; ``UserError`` where the rows are not two to ten."""
    panels = []
    for key, lines in pd.read_csv(path).groupby(["figure", "panel", "state", "config", "variant"], sort=False):
        figure, panel, state, label, variant = map(str, key)
        if lines["true"].tolist() != list(NUMBERS):
            raise UserError(f"{path}: {figure} {panel}: the rows must be the true numbers 2 to 10, in order")
        matrix = lines[[f"pred_{number}" for number in NUMBERS]].to_numpy()
        panels.append(Panel(figure, panel, state, label, variant, matrix))
    return panels


def _accuracies(folder: Path) -> Accuracies:
    result: dict[str, dict[str, float]] = {}
    for row in read_published(folder):
        if (row.metric, row.system) == ("accuracy", "countclip"):
            result.setdefault(row.table, {})[row.variant] = float(row.value)
    return result


@dataclass(frozen=True)
class RecoveredRun:
    """A run whose epochs stand in the notebook's history; accuracies are shares, empty where not printed."""

    source: str
    variant: str
    accuracies: tuple[float, ...]


def read_epochs(path: Path) -> list[RecoveredRun]:
    """Return the recovered runs in the file's order."""
    runs = pd.read_csv(path).groupby(["source", "variant"], sort=False)["val_accuracy_percent"]
    known = {key: tuple(column.dropna().astype(float) / 100) for key, column in runs}
    return [RecoveredRun(str(source), str(variant), accuracies) for (source, variant), accuracies in known.items()]


@dataclass(frozen=True)
class AgainstBaseline:
    """How the eleven configurations stand to the untrained baseline, as printed: differences of shares by variant."""

    baseline: float
    at_end: dict[str, float]
    at_best: dict[str, float]

    @property
    def below_at_end(self) -> list[str]:
        """Return the variants below the baseline after the last epoch."""
        return [variant for variant, difference in self.at_end.items() if difference < 0]

    @property
    def above_at_best(self) -> list[str]:
        """Return the variants above the baseline at the epoch chosen on the test set."""
        return [variant for variant, difference in self.at_best.items() if difference > 0]


def _against_baseline(accuracies: Accuracies) -> AgainstBaseline:
    end, best = (
        {name: round(value - printed[BASELINE], 6) for name, value in printed.items() if name != BASELINE}
        for printed in (accuracies[TABLE_OF[END]], accuracies[TABLE_OF[BEST]])
    )
    return AgainstBaseline(accuracies[TABLE_OF[END]][BASELINE], end, best)


@dataclass(frozen=True)
class Headline:
    """The gain of one printed matrix over another on the same images."""

    n: int  # images
    before: int  # right answers
    after: int
    standard_error: float  # of the difference of two shares, unpaired
    z: float
    gained_at_least: int  # images that changed to right whatever the pairing: from the recalls
    lost_at_least: int  # to wrong
    smallest_p: float  # McNemar's exact two-sided p if no other image changed; other pairings give larger ones
    interval: tuple[float, float]  # 95 %, of the gain in images in that pairing, exact in the changed images

    @property
    def images(self) -> int:
        """Return the gain in images."""
        return self.after - self.before


def headline(before: Panel, after: Panel) -> Headline:
    """Return what can be said of the gain of ``after`` over ``before``.

    Only the matrices are public. Per true number, the right answers rose or fell by the difference of the diagonals;
    at least so many images changed. With the difference fixed, more changed images make the p-value larger.
    """
    change = np.diag(after.matrix) - np.diag(before.matrix)
    gained, lost = int(change[change > 0].sum()), int(-change[change < 0].sum())
    error = math.hypot(before.standard_error, after.standard_error)
    test = binomtest(gained, gained + lost)
    share = test.proportion_ci(0.95, "exact")
    low, high = ((gained + lost) * (2 * float(end) - 1) for end in (share.low, share.high))
    z = (after.accuracy - before.accuracy) / error
    right = before.correct, after.correct
    return Headline(before.n, *right, error, z, gained, lost, float(test.pvalue), (low, high))


@dataclass(frozen=True)
class BestOfTen:
    """How much choosing the best of ten epochs on the test set gains when nothing else does."""

    claimed: float  # gain over the baseline, a share
    sd: float  # of accuracies from epoch to epoch within the recovered runs, with n - 1 per run
    observed_gains: dict[str, float]  # best minus last epoch of each recovered run
    expected_gain: float  # mean over simulated runs of the best epoch minus the run's level
    share_of_runs: float  # simulated runs at the baseline's level whose best epoch exceeds it by the claimed gain
    share_of_studies: float  # studies of eleven such runs in which the best of them does
    in_standard_errors: float  # expected best of ten independent evaluations, in standard errors of one


def best_of_ten(runs: Iterable[RecoveredRun], claimed: float) -> BestOfTen:
    """Simulate selection on the test set with the authors' own variation from epoch to epoch.

    A simulated run has ten accuracies: the baseline's level plus deviations drawn from the recovered runs' own
    deviations from their means, scaled by sqrt(n / (n - 1)) for the mean taken out. The level is that of the baseline,
    so that training is supposed to change nothing. The deviations include whatever trend a run has. Runs without
    accuracies are left out.
    """
    known = [run for run in runs if len(run.accuracies) == EPOCHS]
    deviations = np.concatenate([np.array(run.accuracies) - np.mean(run.accuracies) for run in known])
    variance = (deviations**2).sum() / (len(deviations) - len(known))
    rng = np.random.default_rng(0)
    drawn = rng.choice(deviations * math.sqrt(EPOCHS / (EPOCHS - 1)), (SIMULATIONS, EPOCHS)).max(axis=1)
    reached = float((drawn >= claimed).mean())
    return BestOfTen(
        claimed=claimed,
        sd=float(math.sqrt(variance)),
        observed_gains={run.variant: max(run.accuracies) - run.accuracies[-1] for run in known},
        expected_gain=float(drawn.mean()),
        share_of_runs=reached,
        share_of_studies=1 - (1 - reached) ** CONFIGURATIONS,
        in_standard_errors=float(rng.standard_normal((SIMULATIONS, EPOCHS)).max(axis=1).mean()),
    )


@dataclass(frozen=True)
class Mismatch:
    """A printed matrix whose accuracy is not that of its row in Table 1, and the state whose accuracy it has."""

    panel: str
    variant: str
    said: str
    printed: float
    recomputed: float
    correct: int
    fits: str


def _mismatches(panels: Sequence[Panel], accuracies: Accuracies) -> list[Mismatch]:
    result = []
    for panel in panels:
        printed = accuracies[TABLE_OF[panel.state]][panel.variant]
        if not panel.fits(printed):
            fitting = (state for state, table in TABLE_OF.items() if panel.fits(accuracies[table][panel.variant]))
            numbers = printed, panel.accuracy, panel.correct
            result.append(Mismatch(panel.name, panel.variant, panel.state, *numbers, next(fitting, "")))
    return result


@dataclass(frozen=True)
class Evidence:
    """Everything that CountCLIP's published numbers say."""

    panels: list[Panel]
    runs: list[RecoveredRun]
    baseline: AgainstBaseline
    headline: Headline
    selection: BestOfTen
    mismatches: list[Mismatch]
    lost_words: list[dict[Hashable, int]]  # index in CountBench.json, number, and where its word lies beyond the cut


def evidence(folder: Path) -> Evidence:
    """Compute the evidence from ``papers/countclip``."""
    panels = read_panels(folder / "evidence" / "confusions.csv")
    runs = read_epochs(folder / "evidence" / "epochs.csv")
    accuracies = _accuracies(folder)
    printed = accuracies[TABLE_OF[BEST]]
    at_best = {panel.variant: panel for panel in panels if panel.figure == "fig5_best"}
    claim = headline(at_best[BASELINE], at_best[max(printed, key=printed.__getitem__)])
    selection = best_of_ten(runs, claim.images / claim.n)
    lost_words = pd.read_csv(folder / "evidence" / "cut_77.csv").to_dict("records")
    baseline, exchanged = _against_baseline(accuracies), _mismatches(panels, accuracies)
    return Evidence(panels, runs, baseline, claim, selection, exchanged, lost_words)
