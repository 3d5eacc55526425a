"""Counters that recount did not train: what ``recount submit`` and ``recount predict --with`` leave below results/.

``submitted/<counter>/<data set>/<split>.json`` says whose predictions lie beside it (``.csv``, in the form of
``results.predictions``; ``.npz``: density maps, where it has any), and what they were made from.
"""

import math
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from recount.errors import UserError
from recount.results.files import CsvTable, JsonRecord, Made
from recount.results.prompt_tests import BenchmarkTests
from recount.results.reason import NOTHING, Reason
from recount.settings.project import Project, Split

SUBMITTED = "submitted"  # folder, "system" and status of such counters
SELECTION = "last"  # their only one
STEP = "recount submit"


class Submission(JsonRecord):
    """Content of the record: whose counter, on what, from where. ``files``: SHA-256 of the files given."""

    STEP: ClassVar[str] = STEP

    name: str
    paper: str = ""  # an address
    benchmark: str  # that was named; all that the same split stands for have the row
    place: Split
    came_from: str  # the name of the file, or module:function
    when: str
    files: dict[str, str]
    made: Made
    prompt_tests: BenchmarkTests | None = None


@dataclass(frozen=True, slots=True)
class Against:
    """A submitted counter beside another system or the best constant, on the same images."""

    counter: str  # submitted/<counter>
    name: str
    against: str  # system/variant, or best_constant
    benchmark: str
    dataset: str
    metric: str
    selection: str  # of the other
    value: float = math.nan
    value_against: float = math.nan
    seeds: str = ""  # of the other
    n: int | None = None
    verdict: str = "not tested"  # better, worse, undecided; "leans": one seed does not decide
    effect: float = math.nan  # positive: the submitted counter is better
    ci_low: float = math.nan
    ci_high: float = math.nan
    p_value: float = math.nan  # adjusted by Holm's rule for all rows of the counter
    reason: Reason = NOTHING


AGAINST = CsvTable(Against, "recount judge")


def counter_id(name: str) -> str:
    """Return what the folder of a counter of this name is called."""
    found = re.sub(r"[^a-z0-9]+", "_", name.lower()).strip("_")
    if not found or len(name) > 60 or not name.isprintable():
        raise UserError(f"--name {name!r}: expected 1 to 60 printable characters, letters a-z or digits among them")
    return found


def submission_path(project: Project, counter: str, place: Split) -> Path:
    """Return the record of a counter on a split."""
    folder = project.root / project.results / SUBMITTED / counter / place.dataset
    return folder / f"{place.split}.json"


def submissions(project: Project, place: str = "*/*") -> Iterator[Path]:
    """Yield the records of all submitted counters, or of those on one ``<data set>/<split>``."""
    yield from sorted((project.root / project.results / SUBMITTED).glob(f"*/{place}.json"))
