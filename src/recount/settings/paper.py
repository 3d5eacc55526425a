"""What a paper says: bibliography, tables, claims."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from types import MappingProxyType
from typing import Literal, Self

from pydantic import Field, model_validator

from recount.settings.base import BenchmarkId, ConfigError, Name, Strict, checked, read_yaml
from recount.settings.experiment import PaperSystem

Selection = Literal["last", "best_on_test", "best_on_held_out"]

# What claims speak about. recall_7_to_10: accuracy over the images whose true number is seven to ten.
PredictionMetric = Literal["mae", "rmse", "nae", "sre", "accuracy", "mean_absolute_deviation", "recall_7_to_10"]
CostMetric = Literal["train_hours_100_epochs", "inference_seconds_per_image", "parameters_total", "parameters_trained"]
ClaimMetric = Literal[PredictionMetric, CostMetric]
# nearer_to_majority: share of predictions nearer to the majority's count than to the prompted one. pccn, nmn: PrACo's
# tests. attention_reached: share of points with an attention of at least 0.3. attention_auc: attention of
# cells with against those without an object. similarity_gain: the similarity map's AUC minus that of an attention map.
# base_*: of the pretrained network, before training.
QuantityMetric = Literal[
    "nearer_to_majority", "pccn", "nmn", "similarity_gain",
    "attention_reached", "attention_auc", "base_attention_reached", "base_attention_auc",
]  # fmt: skip
Test = Literal[
    "difference", "ratio", "value", "relative_drop", "quantity",
    "log_holds", "log_at_end", "log_own_run", "log_same_rate", "log_constant_rate", "log_settled",
]  # fmt: skip
TRIVIAL_ARMS = MappingProxyType(
    {
        "best_constant": "the best constant for MAE, the median of the true counts: an oracle",
        "prompt_blind": "a perfect counter of each picture's majority class, whatever it is asked for: an oracle",
    }
)


class Row(Strict):
    """A row of a table: one variant of one system (of this paper, or of another one that defines it)."""

    label: str
    system: Name
    variant: Name | None = None
    published: Name | None = Field(None, description="row id in published.csv, where it is not <system>/<variant>")
    group: str = ""
    note: str = ""


class Table(Strict):
    """A table of a paper."""

    title: str
    caption: str = ""
    benchmarks: tuple[BenchmarkId, ...] = ()
    metrics: tuple[str, ...] = ("mae", "rmse")
    selection: Selection = Field("last", description="the protocol of the published numbers")
    rows: tuple[Row, ...] = ()


class Bound(Strict):
    """A quantity and where a claim puts it; the ends are excluded."""

    metric: QuantityMetric
    at_least: float | None = None
    at_most: float | None = None

    @model_validator(mode="after")
    def _bounded(self) -> Self:
        if self.at_least is None and self.at_most is None:
            raise ValueError("give at_least, at_most or both")
        return self


class Claim(Strict):
    """A statement of a paper that evidence can decide. ``test`` says how; ``rule`` in the specification's words.

    Arms are ``system/variant``, the name of a system that is only quoted, or one of ``TRIVIAL_ARMS``. Where ``better``
    and ``worse`` are equally long they are compared in order; a single one is compared with each of the others.

    ``difference``: metric of ``better`` against that of ``worse``, over the same images; with ``at_least``, better by
    more than that. ``ratio``: metric of ``better`` over that of ``worse``, against ``at_least`` and ``at_most``.
    ``value``: metric of ``better`` against ``published``. ``relative_drop``: 1 - better/worse is larger on the second
    benchmark than on the first. ``quantity``: what ``bounds`` name, of each arm. The others read the log that the
    authors published: ``log_holds`` (the printed errors of the arms stand in it), ``log_at_end`` (and at the number of
    epochs that their row states), ``log_own_run`` (each is read off a run of its own), ``log_same_rate`` (the arms'
    runs differ in nothing that the log shows but their name: same learning rates), ``log_constant_rate`` (their run's
    rate does not change), ``log_settled`` (the best run changes less over its last sixth than it scatters).
    """

    id: Name
    statement: str
    kind: Literal["numeric", "comparative", "evidence"] = "comparative"
    test: Test = "difference"
    source: str = ""
    better: tuple[str, ...] = Field((), description="system/variant that should have the better metric")
    worse: tuple[str, ...] = ()
    benchmarks: tuple[BenchmarkId, ...] = ()
    metric: ClaimMetric = "mae"
    published: float | None = None
    tolerance: float | None = Field(None, gt=0, description="spread of published replications: closer is the same")
    close: float | None = Field(
        None, gt=0, description="share of the published value: within it, it holds in direction"
    )
    at_least: float | None = None
    at_most: float | None = None
    bounds: tuple[Bound, ...] = ()
    rule: str = ""

    @property
    def at_least_in_units(self) -> bool:
        """Whether the claim is about an amount of the metric itself, which another data set or size does not share."""
        return self.test == "difference" and self.at_least is not None

    @property
    def pairs(self) -> tuple[tuple[str, str], ...]:
        """Return which arm is compared with which."""
        size = max(len(self.better), len(self.worse))
        sides = [side * size if len(side) == 1 else side for side in (self.better, self.worse)]
        return tuple(zip(*sides, strict=True))

    @model_validator(mode="after")
    def _complete(self) -> Self:
        paired = self.test in ("difference", "ratio", "relative_drop", "log_same_rate")
        lengths = {len(self.better), len(self.worse)}
        if paired and (0 in lengths or len(lengths - {1}) > 1):
            raise ValueError(
                f"test {self.test} pairs better ({len(self.better)}) and worse ({len(self.worse)}) in order, or one "
                "with each: give as many of both, or one of either"
            )
        if not paired and not self.better and self.test != "log_settled":
            raise ValueError(f"test {self.test} is about the arms of better: give at least one")
        if not self.test.startswith("log_") and not self.benchmarks:
            raise ValueError(f"test {self.test} needs benchmarks")
        needed = {
            "ratio": self.at_least is not None or self.at_most is not None,
            "value": self.published is not None,
            "quantity": bool(self.bounds),
            "relative_drop": len(self.benchmarks) == 2,
        }
        if not needed.get(self.test, True):
            missing = {"ratio": "at_least or at_most", "value": "published", "quantity": "bounds"}
            raise ValueError(f"test {self.test} needs {missing.get(self.test, 'two benchmarks')}")
        return self


class Paper(Strict):
    """A paper: what it claims, with which systems, in which tables."""

    name: Name = ""
    title: str
    short_title: str
    authors: str
    year: int
    venue: str
    url: str = ""
    code: str = ""
    summary: str = ""
    systems: dict[Name, PaperSystem] = {}
    tables: dict[Name, Table] = {}
    claims: tuple[Claim, ...] = ()


def read_paper(folder: Path, root: Path) -> Paper:
    """Read ``<folder>/paper.yaml``.

    Raises:
        ConfigError: one line per error.
    """
    path = folder / "paper.yaml"
    paper = checked(Paper, {**read_yaml(path), "name": folder.name}, str(path.relative_to(root)))
    problems = []
    for table_name, table in paper.tables.items():
        for row in table.rows:
            system = paper.systems.get(row.system)
            if system is None:
                problems.append(f"tables.{table_name}: row {row.label!r}: no system is called {row.system!r}")
            elif row.variant is not None and not system.quoted_because and row.variant not in system.variants:
                known = ", ".join(system.variants)
                where = f"tables.{table_name}: row {row.label!r}"
                problems.append(f"{where}: {row.system} has no variant {row.variant!r}; it has: {known}")
    for name, system in paper.systems.items():
        if bool(system.quoted_because) == bool(system.variants):
            problems.append(f"systems.{name}: give either variants (recount runs it) or quoted_because (it does not)")
        for variant_name, variant in system.variants.items():
            if variant.stands_for is not None and (not variant.checkpoint or variant.stands_for not in system.variants):
                where = f"systems.{name}.variants.{variant_name}: stands_for = {variant.stands_for!r}"
                problems.append(
                    f"{where}: released weights stand for a variant of {name}: {', '.join(system.variants)}"
                )
    problems.extend(_claim_problems(paper))
    if problems:
        raise ConfigError("\n".join(f"{path.relative_to(root)}: {problem}" for problem in problems))
    return paper


def _claim_problems(paper: Paper) -> Iterator[str]:
    """Yield what is wrong with the references of a paper's claims."""
    benchmarks = {name for system in paper.systems.values() for name in system.evaluated_on}
    benchmarks |= {name for table in paper.tables.values() for name in table.benchmarks}
    ids = [claim.id for claim in paper.claims]
    yield from (f"claims: {name} is there twice" for name in dict.fromkeys(ids) if ids.count(name) > 1)
    for claim in paper.claims:
        where = f"claims.{claim.id}"
        for arm in dict.fromkeys((*claim.better, *claim.worse)):
            wrong = _arm_problem(paper, arm)
            if wrong:
                yield f"{where}: {arm!r}: {wrong}"
        for benchmark in claim.benchmarks:
            if benchmark not in benchmarks:
                yield f"{where}: no system or table has the benchmark {benchmark!r}; allowed are {sorted(benchmarks)}"


def _arm_problem(paper: Paper, arm: str) -> str:
    """Return what is wrong with an arm of a claim ("" if nothing)."""
    if arm in TRIVIAL_ARMS:
        return ""
    name, _, variant = arm.partition("/")
    system = paper.systems.get(name)
    if system is None:
        return f"no system is called {name!r}; allowed are {', '.join([*paper.systems, *TRIVIAL_ARMS])}"
    if variant and variant not in system.variants:
        return f"{name} has no variant {variant!r}; it has: {', '.join(system.variants)}"
    if not variant and not system.quoted_because:
        return f"say which variant: {', '.join(f'{name}/{known}' for known in system.variants)}"
    return ""
