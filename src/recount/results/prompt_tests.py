"""What ``recount test-prompts`` writes for each text-guided run and benchmark: ``seed<k>.json``, and a few maps (.npz).

What the numbers mean stands in ``recount.prediction.prompt_tests`` and ``recount.prediction.localisation``.
"""

from __future__ import annotations

from typing import ClassVar

from pydantic import Field

from recount.results.files import Fields, JsonRecord, Made
from recount.results.run_record import Number


class NotTested(Fields):
    """Why a test cannot be run on a benchmark."""

    not_tested: str


class NegativePicture(Fields):
    """A picture asked for its own class (``right``) and for the others (``wrong``, their mean)."""

    id: str
    prompt: str
    true: float
    right: Number
    wrong: Number


class NegativePrompts(Fields):
    """PrACo's negative-prompt test, and ``prompt_swap``: the share of pictures whose count another prompt changes."""

    np: Number
    nmn: Number
    pccn: Number
    mae: Number
    rmse: Number
    prompt_swap: Number
    pictures: list[NegativePicture]


class MosaicScore(Fields):
    """Means over classes, then over pictures."""

    recall: Number
    precision: Number
    f: Number


class PairPicture(Fields):
    """Majority and minority of a picture and a class that it is not known to show ("": there is none)."""

    id: str
    majority: str
    majority_true: float
    majority_predicted: Number
    minority: str
    minority_true: float
    minority_predicted: Number
    absent: str
    absent_predicted: Number


class Pairs(Fields):
    """Prompts swapped in pairs; ``nearer_to_majority``: share of counts for the minority nearer to the majority's."""

    means: dict[str, Number]
    minority_mae: Number
    nearer_to_majority: Number
    prompt_swap: Number
    pictures: list[PairPicture]


class MapsOf(Fields):
    """AUC by map, and what attention reaches: None for a system without attention."""

    auc: dict[str, Number]
    reached_elsewhere: Number | None = None


class MapsPicture(MapsOf):
    """The same of one picture; ``reached`` counts its points."""

    id: str
    points: int
    reached: int | None = None


class Maps(MapsOf):
    """Where maps lie; ``points_reached`` is a share of all points."""

    points_reached: Number | None = None
    pictures: list[MapsPicture] = Field(min_length=1)


class AnswersPicture(Fields):
    """What is answered of a picture, and when only one thing of it is kept (``prediction.counterfactuals``)."""

    id: str
    beside: str  # whose picture, and whose caption, take the place of its own
    true: float
    own: float
    caption: float
    picture: float
    objects: float | None = None  # None: not known where they are
    background: float | None = None


class Counterfactuals(Fields):
    """Share of pictures whose answer stays, by what was kept of them."""

    stays: dict[str, float]
    pictures: list[AnswersPicture] = Field(min_length=1)


class BenchmarkTests(Fields):
    """The tests of one benchmark; None: its experiment does not name the test."""

    dataset: str
    split: str
    negative_prompts: NegativePrompts | NotTested | None = None
    mosaics: dict[str, MosaicScore] | NotTested | None = None
    pairs: Pairs | NotTested | None = None
    maps: Maps | NotTested | None = None
    maps_before_training: Maps | NotTested | None = None
    counterfactuals: Counterfactuals | NotTested | None = None


class PromptTests(JsonRecord):
    """Content of a file of prompt tests: which model of a run was tested, and what was found on its benchmark."""

    SCHEMA: ClassVar[int] = 2
    OLDEST: ClassVar[int] = 2
    STEP: ClassVar[str] = "recount test-prompts"

    made: Made
    selection: str
    benchmarks: dict[str, BenchmarkTests]
