"""What a paper says (``papers/<paper>/paper.yaml``): bibliography, tables whose rows name runs, claims."""

from collections.abc import Iterator, Mapping
from datetime import date
from pathlib import Path
from types import MappingProxyType
from typing import Annotated, Any, Literal, Self

from pydantic import BeforeValidator, Field, model_validator

from recount.metrics import ALL, BIAS, COSTS, METRICS, QUANTITIES, RECALLS, Metric
from recount.settings.base import BenchmarkId, ConfigError, Name, RunId, Strict, absent, checked, read_yaml, unknown

Selection = Literal["last", "best_on_test", "best_on_held_out"]

Test = Literal[
    "difference", "ratio", "value", "relative_drop", "quantity",
    "log_holds", "log_at_end", "log_own_run", "log_same_rate", "log_constant_rate", "log_settled",
    "annotation", "figures",
]  # fmt: skip
CLAIMED: Mapping[str, Metric] = MappingProxyType(
    {**METRICS, **{name: ALL[name] for name in (*RECALLS, BIAS.name)}, **COSTS}
)
DIRECTIONS = MappingProxyType({"low": "lower", "high": "higher", None: "equal"})
SAME_IMAGES = ", on the same images"
PAIRED = ("difference", "ratio", "relative_drop", "log_same_rate", "figures")
RULES_SINCE = date(2026, 12, 1)  # of the rules of judging/verdicts.py
TRIVIAL_ARMS = MappingProxyType(
    {
        "zero": "the constant 0",
        "one": "the constant 1",
        "training_mean": "the mean of the training counts",
        "training_median": "the median of the training counts",
        "best_constant": "the best constant for MAE, the median of the true counts: an oracle",
        "prompt_blind": "a perfect counter of each picture's majority class, whatever it is asked for: an oracle",
    }
)
_AUDITS = MappingProxyType(
    {
        "log_holds": "MAE and RMSE of each row stand together in an evaluation of the authors' log",
        "log_at_end": "the authors' log has the printed MAE at the number of epochs that the row states",
        "log_own_run": "no other row is read off the same run of the authors' log",
        "log_same_rate": "the two runs of the authors' log have the same learning rates up to the rows' epochs",
        "log_constant_rate": "the learning rate that the authors' log prints does not change",
        "log_settled": "over the last sixth of the authors' best run the line through its errors changes by less than "
        "one standard deviation",
        "annotation": "what recount counted in the fetched annotation, as the bounds say",
        "figures": "in each printed picture the arm's printed prediction is nearer to the printed truth",
    }
)


def _one_or_more(value: Any) -> Any:
    return (value,) if isinstance(value, str) else value


def _row(value: Any) -> Any:
    return {"run": value} if isinstance(value, str) else value


class Row(Strict):
    """A row of a table: a run (``system/variant``), or numbers that are only quoted (``quoted`` says why)."""

    run: RunId | None = None
    quoted: str = Field("", description="why recount does not run it")
    id: Name | None = Field(None, description="of a quoted row: its system in published.csv")
    label: str = Field("", description="empty: as the experiment calls the variant")
    citation: str = ""
    published: str | None = Field(None, description="row id in published.csv, where it is not the run's")
    group: str = ""
    note: str = ""

    @property
    def system(self) -> str:
        """Return the system, or the id of a quoted row."""
        return self.run.partition("/")[0] if self.run else str(self.id)

    @property
    def variant(self) -> str:
        """Return the variant; "" of a quoted row."""
        return self.run.partition("/")[2] if self.run else ""

    @property
    def key(self) -> str:
        """Return its id in published.csv and scores.csv."""
        return self.published or self.run or str(self.id)

    @model_validator(mode="after")
    def _one_of_two(self) -> Self:
        if bool(self.run) == bool(self.quoted) or bool(self.quoted) != bool(self.id):
            raise ValueError("give run (system/variant), or quoted (why recount does not run it) and id")
        return self


class Table(Strict):
    """A table of a paper."""

    title: str
    caption: str = ""
    on: Annotated[tuple[BenchmarkId, ...], BeforeValidator(_one_or_more)] = Field(min_length=1)
    metrics: tuple[str, ...] = ("mae", "rmse")
    weights: Selection = Field("last", description="which epoch's weights the published numbers are of")
    rows: tuple[
        Annotated[Row, BeforeValidator(lambda value: {"run": value} if isinstance(value, str) else value)], ...
    ] = ()
    floor: Literal["constants"] | None = Field(None, description="constants: rows of predictors that see no picture")


class Bound(Strict):
    """A quantity and where a claim puts it; the ends are excluded."""

    metric: str
    at_least: float | None = None
    at_most: float | None = None

    @model_validator(mode="after")
    def _bounded(self) -> Self:
        if self.at_least is None and self.at_most is None:
            raise ValueError("give at_least, at_most or both")
        if self.metric not in QUANTITIES:
            raise ValueError(unknown("quantity", self.metric, QUANTITIES))
        return self


#: what only some tests of a claim read
ONLY_WITH = {
    "margin": ("value",), "published": ("value", "difference"), "best_of": ("value",),
    "at_least": ("ratio", "difference"), "at_most": ("ratio", "difference"), "bounds": ("quantity", "annotation"),
}  # fmt: skip


class Claim(Strict):
    """A statement of a paper that evidence can decide; ``test`` says how, and ``rule`` puts it into words.

    Arms are runs (``system/variant``), ids of quoted rows, or ``TRIVIAL_ARMS``. Where ``arm`` and ``against`` are
    equally long they are compared in order; a single one is compared with each of the others.

    ``difference``: the metric of ``arm`` against that of ``against``, over the same images: better by more than
    ``at_least`` (0 if left out) and, where it is given, less than ``at_most``. ``ratio``: metric of ``arm`` over that
    of ``against``, between ``at_least`` and ``at_most``. ``value``: metric of ``arm`` against ``published``, within
    ``margin``. ``relative_drop``: 1 - arm/against is larger on the second benchmark than on the first. ``quantity``:
    what ``bounds`` name, of each arm. The others are audits of what the authors published. Of the log: ``log_holds``
    (the printed errors of the arms stand in it), ``log_at_end`` (and at the number of epochs that their row states),
    ``log_own_run`` (each is read off a run of its own), ``log_same_rate`` (the arms' runs differ in nothing that the
    log shows but their name: same learning rates), ``log_constant_rate`` (their run's rate does not change),
    ``log_settled`` (the best run changes less over its last sixth than it scatters). ``annotation``: what recount
    counted in the data set's annotation (``evidence/annotation.csv``). ``figures``: predictions printed beside single
    pictures.
    """

    id: Name
    says: str
    whose: Literal["paper", "recount"] = "paper"
    where: str = Field("", description="where the paper says it")
    test: Test = "difference"
    weights: Selection = Field("last", description="the epoch whose weights the claim is about: its headline")
    arm: Annotated[tuple[str, ...], BeforeValidator(_one_or_more)] = ()
    against: Annotated[tuple[str, ...], BeforeValidator(_one_or_more)] = ()
    on: Annotated[tuple[BenchmarkId, ...], BeforeValidator(_one_or_more)] = ()
    expect: str = Field("", pattern=r"^$|^(lower|higher|equal) [a-z0-9_]+$", description="for instance: lower mae")
    published: float | None = None
    margin: float | None = Field(
        None, gt=0, description="of a printed number, in the metric's own units; null: 10 % of it"
    )
    best_of: int | None = Field(
        None, gt=1, description="the printed number is the best of so many epochs, on test images"
    )
    at_least: float | None = None
    at_most: float | None = None
    bounds: tuple[Bound, ...] = ()
    near: str = Field("", description="why even the paper's own data and sizes test only something near to the claim")
    since: date = Field(RULES_SINCE, description="when its rule last changed")

    @property
    def metric(self) -> str:
        """Return the metric that is expected to be lower, higher or equal ("mae" of claims about logs)."""
        return self.expect.partition(" ")[2] or "mae"

    @property
    def kind(self) -> Literal["numeric", "comparative", "evidence"]:
        """Return what sort of claim it is."""
        kinds: dict[str, Literal["numeric", "comparative"]] = {
            "difference": "comparative",
            "ratio": "numeric",
            "value": "numeric",
        }
        return kinds.get(self.test, "evidence")

    @property
    def audits(self) -> bool:
        """Return whether only what the authors published decides it, not runs."""
        return self.test in _AUDITS

    @property
    def pairs(self) -> tuple[tuple[str, str], ...]:
        """Return which arm is compared with which; with "" where there is nothing to compare with."""
        if not self.against:
            return tuple((arm, "") for arm in self.arm)
        size = max(len(self.arm), len(self.against))
        sides = [side * size if len(side) == 1 else side for side in (self.arm, self.against)]
        return tuple(zip(*sides, strict=True))

    @property
    def rule(self) -> str:
        """Return in a sentence what decides the claim."""
        if self.audits:
            return _AUDITS[self.test]
        ends = _between(self.at_least, self.at_most)
        of_each = " of each" if len(self.arm) > 1 else ""
        first, last = (self.on[0], self.on[-1]) if self.on else ("", "")
        within = f"{self.margin:g}" if self.margin is not None else "10 %"
        sentences = {
            "difference": f"{self.expect}{of_each} than the arm it is compared with"
            + (f", by {ends.replace('above', 'more than').replace('below', 'less than')}" if ends else SAME_IMAGES),
            "ratio": f"{self.metric}{of_each} over that of the arm it is compared with {ends}",
            "value": f"{self.metric} as printed"
            + (f": {self.published:g}, or worse by at most {within}" if self.published is not None else ""),
            "relative_drop": f"the relative drop of the {self.metric} is larger on {last} than on {first}",
            "quantity": " and ".join(f"{b.metric} {_between(b.at_least, b.at_most)}" for b in self.bounds) + of_each,
        }
        return sentences[self.test]

    @property
    def contradicted_by(self) -> str:
        """Return in a sentence what would contradict the claim."""
        if self.audits:
            return "the opposite stands in what the authors published"
        if self.test == "value":
            return (
                "the seeds' mean lies beyond the margin with 95 % confidence, and the printed number outside the "
                "prediction interval of another run"
            )
        several = (
            len(self.pairs) * len(self.bounds or (None,)) * (len(self.on) if self.test != "relative_drop" else 1) > 1
        )
        part = " of one of its parts, after Holm's correction," if several else ""
        amount = {"ratio": " of the ratio", "quantity": ""}.get(self.test, " of the difference")
        zero = self.at_least or 0.0 if self.test in ("difference", "relative_drop") else self.at_least
        sides = [f"{b.metric} {_outside(b.at_least, b.at_most)}" for b in self.bounds] or [_outside(zero, self.at_most)]
        return f"the interval{amount}{part} lies wholly {' or '.join(sides)}"

    @model_validator(mode="after")
    def _complete(self) -> Self:
        direction, _, name = self.expect.partition(" ")
        if name and name not in CLAIMED:
            raise ValueError(f"expect = {self.expect}: {unknown('metric', name, CLAIMED)}")
        if name and DIRECTIONS[CLAIMED[name].better] != direction:
            raise ValueError(f"expect = {self.expect}: a better {name} is {DIRECTIONS[CLAIMED[name].better]}")
        strange = [
            key for key, tests in ONLY_WITH.items() if getattr(self, key) not in (None, ()) and self.test not in tests
        ]
        if strange:
            wanted = ", ".join(f"{key} belongs to test {' or '.join(ONLY_WITH[key])}" for key in strange)
            raise ValueError(f"test {self.test} does not read {', '.join(strange)}: {wanted}")
        lengths = {len(self.arm), len(self.against)}
        if self.test in PAIRED and (0 in lengths or len(lengths - {1}) > 1):
            raise ValueError(
                f"test {self.test} pairs arm ({len(self.arm)}) and against ({len(self.against)}) in order, or one "
                "with each: give as many of both, or one of either"
            )
        if self.test not in PAIRED and not self.arm and self.test not in ("log_settled", "annotation"):
            raise ValueError(f"test {self.test} is about the arms of arm: give at least one")
        if not self.audits and not self.on:
            raise ValueError(f"test {self.test} needs on: the benchmarks")
        needed = {
            "difference": bool(self.expect),
            "ratio": bool(self.expect) and (self.at_least is not None or self.at_most is not None),
            "value": bool(self.expect) and self.published is not None,
            "quantity": bool(self.bounds),
            "annotation": bool(self.bounds),
            "relative_drop": bool(self.expect) and len(self.on) == 2,
        }
        if not needed.get(self.test, True):
            missing = {
                "ratio": "expect, and at_least or at_most", "value": "expect and published", "quantity": "bounds",
                "annotation": "bounds", "relative_drop": "expect and two benchmarks",
            }  # fmt: skip
            raise ValueError(f"test {self.test} needs {missing.get(self.test, 'expect, for instance: lower mae')}")
        return self


def _between(low: float | None, high: float | None) -> str:
    if low is not None and high is not None:
        return f"between {low:g} and {high:g}"
    return f"above {low:g}" if low is not None else f"below {high:g}" if high is not None else ""


def _outside(low: float | None, high: float | None) -> str:
    ends = [f"below {low:g}"] if low is not None else []
    return " or ".join(ends + ([f"above {high:g}"] if high is not None else []))


class Reply(Strict):
    """What somebody answered to a verdict (``papers/<paper>/replies.yaml``), shown beside it."""

    claim: Name
    who: str = Field(min_length=1)
    when: date
    text: str = Field(min_length=1)
    link: str = ""


class _Replies(Strict):
    replies: tuple[Reply, ...] = ()


class Paper(Strict):
    """A paper: what it claims, in which tables."""

    name: Name = ""
    folder: Path = Path()
    title: str
    short_title: str
    authors: str
    year: int
    venue: str
    url: str = ""
    code: str = ""
    summary: str = ""
    tables: dict[Name, Table] = {}
    claims: tuple[Claim, ...] = ()
    replies: tuple[Reply, ...] = Field((), description="in replies.yaml beside paper.yaml")

    @property
    def rows(self) -> Iterator[Row]:
        """Yield every row of every table."""
        for table in self.tables.values():
            yield from table.rows

    @property
    def runs(self) -> dict[str, None]:
        """Return the runs (``system/variant``) that its tables name, each once, in their order."""
        return {row.run: None for row in self.rows if row.run}

    @property
    def quoted(self) -> dict[str, Row]:
        """Return the quoted rows by id."""
        return {row.id: row for row in reversed([*self.rows]) if row.id}

    @property
    def published(self) -> Path:
        """Return the file of the numbers that it printed."""
        return self.folder / "published.csv"

    @property
    def evidence(self) -> dict[str, Path]:
        """Return its evidence files by name without suffix."""
        return {path.stem: path for path in sorted((self.folder / "evidence").glob("*.csv"))}


def read_paper(folder: Path, shown: str) -> Paper:
    """Read ``<folder>/paper.yaml``."""
    content = read_yaml(folder / "paper.yaml", shown)
    paper = checked(Paper, {**content, "name": folder.name, "folder": folder}, shown)
    problems: list[str] = []
    answers, said_in = folder / "replies.yaml", str(Path(shown).with_name("replies.yaml"))
    if answers.is_file():
        replies = checked(_Replies, read_yaml(answers, said_in), said_in).replies
        ids = [claim.id for claim in paper.claims]
        wrong = [line for reply in replies for line in absent("replies.claim", "claim", reply.claim, ids)]
        if wrong:
            raise ConfigError("\n".join(f"{said_in}: {line}" for line in wrong))
        paper = paper.model_copy(update={"replies": replies})
    for name, table in paper.tables.items():
        keys = [(row.run or row.id, row.key) for row in table.rows]
        problems += [
            f"tables.{name}.rows: {key[0]} is there twice" for key in dict.fromkeys(keys) if keys.count(key) > 1
        ]
    ids = [claim.id for claim in paper.claims]
    problems += [f"claims: {name} is there twice" for name in dict.fromkeys(ids) if ids.count(name) > 1]
    if problems:
        raise ConfigError("\n".join(f"{shown}: {problem}" for problem in problems))
    return paper
