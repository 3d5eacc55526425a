"""What ``recount score`` writes: scores.csv, strata.csv and influence.csv."""

import math
from dataclasses import dataclass
from typing import Literal

from recount.results.files import CsvTable
from recount.results.reason import NOTHING, Reason

Status = Literal["trained", "checkpoint", "quoted", "trivial", "oracle", "submitted", "missing"]
STEP = "recount score"
ALL_SEEDS = "all"


@dataclass(frozen=True, slots=True)
class Score:
    """A cell of a paper's table with one seed, or the mean over "all", and one selection.

    Numbers are NaN or None where there is none. ``reason`` says why, or what must be said of the number.
    """

    paper: str
    table: str
    row: str
    system: str
    variant: str
    seed: str
    benchmark: str
    dataset: str
    selection: str
    metric: str
    value: float = math.nan
    ci_low: float = math.nan
    ci_high: float = math.nan
    sd: float = math.nan
    n: int | None = None
    status: str = "missing"
    reason: Reason = NOTHING


@dataclass(frozen=True, slots=True)
class Stratum:
    """An error over the images of one bin or tercile of the true count."""

    system: str
    variant: str
    seed: int
    benchmark: str
    dataset: str
    selection: str
    kind: str
    stratum: str
    metric: str
    value: float
    ci_low: float
    ci_high: float
    n: int


@dataclass(frozen=True, slots=True)
class InfluentialImage:
    """An image and what it does to MAE and RMSE; rank 1 carries the largest share of the squared error."""

    system: str
    variant: str
    seed: int
    benchmark: str
    dataset: str
    selection: str
    rank: int
    id: str
    image: str
    true_count: float
    predicted_count: float
    share_of_squared_error: float
    mae_effect: float
    rmse_effect: float
    mae_without: float
    rmse_without: float
    rmse_without_this_and_larger: float


SCORES = CsvTable(Score, STEP)
STRATA = CsvTable(Stratum, STEP)
INFLUENCE = CsvTable(InfluentialImage, STEP)
