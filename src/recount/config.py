"""Typed configuration: the only reader of config.yaml, papers/*/paper.yaml and suites/*.yaml.

Snakemake imports this module for each job, so it must stay light: no torch, no pandas.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from functools import cached_property
from pathlib import Path
from types import MappingProxyType
from typing import Annotated, Any, Literal, Self, TypeVar

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from recount.errors import UserError

SYSTEM_SCHEMAS = Path(__file__).parent / "systems" / "schemas"

Selection = Literal["last", "best_on_test", "best_on_held_out"]
Precision = Literal["fp32", "bf16", "fp16"]
ProbeTest = Literal["negative_prompts", "mosaics", "pairs", "maps"]
Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.+-]*$")]
BenchmarkId = Annotated[str, Field(pattern=r"^[a-z0-9_]+/[a-z0-9_]+$")]

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


WEIGHTS = "weights:"  # begins the name of a file that is fetched into resources/weights


class ConfigError(UserError):
    """The configuration is wrong; the message has one line per error: file, key, value, what is allowed."""


class Strict(BaseModel):
    """A model that forbids unknown keys and is immutable."""

    model_config = ConfigDict(extra="forbid", frozen=True)


# --------------------------------------------------------------------------------------------------- how to train


class Optimiser(Strict):
    """An optimiser and its hyper-parameters; the keys that an optimiser does not have are ignored by it."""

    name: Literal["adam", "adamw", "sgd", "radam"] = "adamw"
    lr: float = Field(1e-4, gt=0)
    weight_decay: float = Field(0.0, ge=0)
    betas: tuple[float, float] = (0.9, 0.999)
    eps: float = Field(1e-8, gt=0)
    momentum: float = Field(0.0, ge=0)


class Schedule(Strict):
    """A learning-rate schedule. ``unit`` says what one step of it is.

    ``warmup_cosine_restarts``: linear from ``initial_lr`` to the optimiser's rate over ``warmup`` units, then cosine
    restarts (``period``, ``period_factor``, ``minimum_lr``). ``warmup_cosine``: linear over ``warmup``, then one half
    cosine to ``minimum_lr`` at the end. ``linear``: to ``minimum_lr`` at the end. ``step``: times ``factor`` every
    ``period`` units. ``step_at``: times ``factor`` at each of ``milestones``. ``sawtooth``: CountCLIP's, as coded.
    """

    name: Literal["constant", "warmup_cosine_restarts", "warmup_cosine", "linear", "step", "step_at", "sawtooth"] = (
        "constant"
    )
    unit: Literal["epoch", "step", "fraction"] = Field("epoch", description="fraction: epochs, updated at each step")
    warmup: float = Field(0, ge=0, description="units of warm-up; a value below 1 is a share of all units")
    initial_lr: float = Field(0.0, ge=0)
    minimum_lr: float = Field(0.0, ge=0)
    period: int = Field(1, gt=0)
    period_factor: int = Field(1, gt=0)
    factor: float = Field(0.5, gt=0)
    milestones: tuple[int, ...] = ()


class Recipe(Strict):
    """How a system is trained."""

    epochs: int = Field(1, gt=0)
    max_steps: int | None = Field(None, gt=0, description="stop after so many optimiser steps, whatever the epochs")
    batch_size: int = Field(
        1, gt=0, description="training samples per optimiser step (an image may yield several crops)"
    )
    shuffle: bool = True
    drop_last: bool = False
    optimiser: Optimiser = Optimiser()
    schedule: Schedule = Schedule()
    clip_norm: float | None = Field(None, gt=0)
    precision: Precision = "fp32"
    evaluate_every: int | None = Field(
        None, gt=0, description="epochs between evaluations during training; null: never"
    )
    evaluate_from: int = Field(0, ge=0, description="first epoch (counted from 1) that may be evaluated")
    select_by: Literal["mae", "rmse", "mae+rmse", "2rmse+mae", "accuracy", "own"] = "mae"
    held_out: float = Field(
        0.0,
        ge=0,
        lt=1,
        description="share of the training samples held out for selection, where the data set has no list",
    )
    eval_mode_after_first_evaluation: bool = Field(
        False, description="the slip of some released scripts: nothing switches back to training mode"
    )


# --------------------------------------------------------------------------------------------------- what was claimed


class Variant(Strict):
    """A named way to run a system: an ablation, a protocol, a released checkpoint."""

    label: str
    settings: dict[str, Any] = {}
    recipe: dict[str, Any] = {}
    protocol: Literal["as_code", "as_paper", "clean"] = "as_code"
    checkpoint: Name | None = Field(
        None, description="evaluate this released checkpoint (a key of config.yaml's checkpoints) instead of training"
    )
    stands_for: Name | None = Field(
        None, description="for released weights: the variant whose claims they are judged by"
    )
    note: str = ""


class PaperSystem(Strict):
    """A system of a paper: one that recount runs, or one that is only quoted."""

    label: str
    citation: str = ""
    trained_on: BenchmarkId | None = Field(None, description="the paper's training split, for instance ucf_qnrf/train")
    evaluated_on: tuple[BenchmarkId, ...] = ()
    held_out: BenchmarkId | None = Field(None, description="the split that a model is selected on")
    selected_on_test: BenchmarkId | None = Field(
        None, description="the test split that the released code selects on; watched during training, and flagged"
    )
    clean_trained_on: BenchmarkId | None = Field(None, description="trained_on of variants with protocol clean")
    clean_held_out: BenchmarkId | None = Field(None, description="held_out of variants with protocol clean")
    probed_on: dict[BenchmarkId, tuple[ProbeTest, ...]] = Field(
        {},
        description="what a text-guided system is tested for beyond its errors: negative_prompts and mosaics (PrACo), "
        "pairs (majority, minority and absent class of a picture), maps (where attention and similarity lie)",
    )
    variants: dict[Name, Variant] = {}
    quoted_because: str = Field("", description="why recount does not run it; set exactly for quoted systems")


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


# --------------------------------------------------------------------------------------------------- how big


class Benchmark(Strict):
    """What stands for a benchmark of the papers in this suite."""

    dataset: Name
    split: Name
    preparation: Name = "original"
    note: str = ""


class Cost(Strict):
    """What training costs, as somebody measured or published it."""

    gpu_hours_per_100_epochs: float = Field(ge=0)
    source: str = Field(min_length=1, description="who measured it, on which card")


class SuiteVariant(Strict):
    """What this suite changes in one variant, over the paper's variant."""

    settings: dict[str, Any] = {}
    recipe: dict[str, Any] = {}
    cost: Cost | None = None
    skip: str = Field("", description="why this suite does not run the variant; empty: it does")


class SuiteSystem(Strict):
    """How this suite runs a system: size, budget, preparation.

    A paper's variant goes over ``settings`` and ``recipe``, so that a suite cannot undo what an ablation switches; the
    suite's own ``variants`` go over both.
    """

    size: Literal["paper", "mini"] = Field(
        "paper",
        description="paper: the defaults are the released code's settings; mini: those of the system's mini size",
    )
    settings: dict[str, Any] = {}
    recipe: dict[str, Any] = {}
    preparation: Name | None = None
    variants: dict[Name, SuiteVariant] = {}
    cost: Cost | None = Field(None, description="of training; null: not known before a run of it has ended")


class Suite(Strict):
    """A size of the whole undertaking."""

    name: Name = ""
    title: str
    summary: str = ""
    checkpoints: dict[Name, str] = Field(
        {}, description="released checkpoint -> weights:<name>/<file> that is fetched; config.yaml's go over it"
    )
    comparable: bool = Field(description="whether its numbers may be compared with the published ones")
    why_not_comparable: str = ""
    benchmarks: dict[BenchmarkId, Benchmark] = {}
    systems: dict[Name, SuiteSystem] = {}
    probed_pictures: int | None = Field(
        None, gt=0, description="pictures of each benchmark that text-guided systems are probed on; null: all"
    )
    training_mem_mb: int = Field(4000, gt=0)
    training_minutes: int = Field(60, gt=0)


# --------------------------------------------------------------------------------------------------- what to run


class Config(Strict):
    """config.yaml: what to run here, and where things lie."""

    suite: Name = "mini"
    papers: tuple[Name, ...] = Field((), description="empty: all")
    systems: tuple[Name, ...] = Field((), description="empty: all of the papers")
    tables: tuple[Name, ...] = Field((), description="only runs that a row of these tables shows; empty: all")
    claims: tuple[Name, ...] = Field((), description="only runs that these claims compare; empty: all")
    budget_gpu_hours: float | None = Field(None, ge=0, description="runs beyond it are left out; null: no limit")
    seeds: tuple[Annotated[int, Field(ge=0)], ...] = Field((0,), min_length=1)
    device: Literal["auto", "cpu", "cuda"] = "auto"
    precision: Precision | None = Field(None, description="null: as each recipe says")
    checkpoints: dict[Name, str] = Field({}, description="released checkpoint -> path of its file")
    checkpoint_minutes: float = Field(10, ge=0)
    loader_processes: int = Field(0, ge=0)
    image_cache_mb: int = Field(2000, ge=0)
    jobs_per_gpu: int = Field(1, gt=0)
    gpus_per_job: int = Field(1, gt=0, description="that train one run; on processors, as many processes")
    training_threads: int = Field(1, gt=0)
    resources: str = "resources"
    results: str = "results"
    reports: str = "reports"


class Split(Strict):
    """Prepared samples: a data set, a split of it (several joined by ``+``), and how it is prepared."""

    dataset: Name
    split: Name
    preparation: Name


class Probe(Strict):
    """What a text-guided run is tested for on one benchmark, beyond its errors."""

    split: Split
    tests: tuple[ProbeTest, ...]
    pictures: int | None


class Run(Strict):
    """One training run, resolved: everything its jobs need to know, and nothing else."""

    suite: Name
    system: Name
    variant: Name
    seed: int
    size: Literal["paper", "mini"]
    settings: dict[str, Any]
    recipe: dict[str, Any]
    protocol: str
    checkpoint: str | None
    checkpoint_path: str | None
    weights: tuple[Name, ...] = ()
    training: Split | None
    held_out: Split | None
    selected_on_test: Split | None
    benchmarks: dict[BenchmarkId, Split]
    probes: dict[BenchmarkId, Probe] = {}

    @property
    def id(self) -> str:
        """Return ``<system>/<variant>/seed<k>``."""
        return f"{self.system}/{self.variant}/seed{self.seed}"

    @property
    def benchmark_of_split(self) -> dict[tuple[str, str], BenchmarkId]:
        """Return the first benchmark that each split (data set, split) stands for: several may share one."""
        found: dict[tuple[str, str], BenchmarkId] = {}
        for benchmark, split in self.benchmarks.items():
            found.setdefault((split.dataset, split.split), benchmark)
        return found


def _read_yaml(path: Path) -> dict[str, Any]:
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ConfigError(f"{path}: no such file") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: not valid YAML: {' '.join(str(error).split())}") from None
    if not isinstance(content, dict):
        raise ConfigError(f"{path}: expected keys and values, found {type(content).__name__}")
    return content


def _lines(error: ValidationError, where: str) -> Iterator[str]:
    for problem in error.errors():
        key = ".".join(str(part) for part in problem["loc"]) or "(top level)"
        value = problem["input"]
        shown = "" if problem["type"] == "missing" else f" = {json.dumps(value, default=str)[:80]}"
        allowed = problem["msg"].removeprefix("Value error, ")
        if problem["type"] == "extra_forbidden":
            allowed = "no such key"
        yield f"{where}: {key}{shown}: {allowed}"


Model = TypeVar("Model", bound=BaseModel)


def _checked(model: type[Model], content: Mapping[str, Any], where: str) -> Model:
    try:
        return model.model_validate(dict(content))
    except ValidationError as error:
        raise ConfigError("\n".join(_lines(error, where))) from None


def merged(base: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    """Return ``base`` with ``over`` laid on it, dictionaries key by key."""
    result = dict(base)
    for key, value in over.items():
        below = result.get(key)
        result[key] = merged(below, value) if isinstance(value, Mapping) and isinstance(below, Mapping) else value
    return result


def resolve_recipe(base: Recipe, over: Mapping[str, Any]) -> Recipe:
    """Return ``base`` with the keys of ``over`` replaced, validated."""
    return Recipe.model_validate(merged(base.model_dump(), over))


def read_config(root: Path, overrides: Mapping[str, Any] | None = None) -> Config:
    """Read ``<root>/config.yaml`` with ``overrides`` (top-level keys) laid over it.

    Raises:
        ConfigError: one line per error.
    """
    path = root / "config.yaml"
    if not path.is_file():
        raise ConfigError(
            f"there is no config.yaml in {root.absolute()}: run recount in the folder that has it, its clone"
        )
    return _checked(Config, merged(_read_yaml(path), overrides or {}), "config.yaml")


def _read_paper(folder: Path, root: Path) -> Paper:
    path = folder / "paper.yaml"
    paper = _checked(Paper, {**_read_yaml(path), "name": folder.name}, str(path.relative_to(root)))
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


def _chosen(kind: str, wanted: tuple[str, ...], known: list[str]) -> list[str]:
    unknown = [name for name in wanted if name not in known]
    if unknown:
        raise ConfigError(f"config.yaml: {kind} = {unknown}: allowed are {', '.join(known)}")
    return [name for name in known if not wanted or name in wanted]


def _check_settings(system: str, settings: Mapping[str, Any], where: str) -> None:
    """Check settings against the schema generated from the system's own Settings, without importing the system."""
    path = SYSTEM_SCHEMAS / f"{system}.json"
    if not path.is_file():  # an outside package's system: checked when it is built
        return
    from jsonschema import Draft202012Validator

    problems = []
    for error in Draft202012Validator(json.loads(path.read_text(encoding="utf-8"))).iter_errors(dict(settings)):
        key = ".".join(["settings", *(str(part) for part in error.absolute_path)])
        problems.append(f"{where}: {key}: {error.message[:300]}")
    if problems:
        raise ConfigError("\n".join(problems))


def default_recipe(system: str) -> dict[str, Any] | None:
    """Return a system's recipe as it stands in its generated schema, without importing it; None: it does not train."""
    path = SYSTEM_SCHEMAS / f"{system}.json"
    if not path.is_file():  # an outside package's system
        return Recipe().model_dump()
    content: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return content.get("recipe", Recipe().model_dump(mode="json"))


class Project:
    """Everything that is configured: config.yaml, the chosen suite and papers, and the runs that follow from them.

    Attributes:
        root: the folder of config.yaml; all relative paths start there.
        config, suite, papers: as read and checked.
    """

    def __init__(self, root: Path, overrides: Mapping[str, Any] | None = None) -> None:
        self.root = root
        self.config = read_config(root, overrides)
        suites = sorted(path.stem for path in (root / "suites").glob("*.yaml"))
        if self.config.suite not in suites:
            raise ConfigError(f"config.yaml: suite = {self.config.suite!r}: allowed are {', '.join(suites)}")
        path = root / "suites" / f"{self.config.suite}.yaml"
        self.suite = _checked(Suite, {**_read_yaml(path), "name": path.stem}, f"suites/{path.name}")
        folders = sorted(path.parent for path in (root / "papers").glob("*/paper.yaml"))
        known = [folder.name for folder in folders]
        chosen = _chosen("papers", self.config.papers, known)
        every_paper = {folder.name: _read_paper(folder, root) for folder in folders}
        self.papers = {name: every_paper[name] for name in chosen}
        self._check_unique(every_paper)
        every = self.papers.values()
        if self.config.systems:
            _chosen("systems", self.config.systems, sorted({name for p in every for name in p.systems}))
        _chosen("tables", self.config.tables, sorted({name for p in every for name in p.tables}))
        _chosen("claims", self.config.claims, [claim.id for p in every for claim in p.claims])

    @staticmethod
    def _check_unique(papers: Mapping[str, Paper]) -> None:
        owner: dict[tuple[str, str], str] = {}
        for paper in papers.values():
            for system, entry in paper.systems.items():
                for variant in entry.variants:
                    other = owner.setdefault((system, variant), paper.name)
                    if other != paper.name:
                        raise ConfigError(
                            f"papers/{paper.name}/paper.yaml: systems.{system}.variants.{variant}: papers/{other} "
                            "has it already; give it another name"
                        )

    def _split(self, benchmark: str | None, system: SuiteSystem) -> Split | None:
        if benchmark is None:
            return None
        entry = self.suite.benchmarks.get(benchmark)
        if entry is None:
            return None
        return Split(dataset=entry.dataset, split=entry.split, preparation=system.preparation or entry.preparation)

    def _run(self, name: str, paper_system: PaperSystem, variant_name: str, seed: int, where: str) -> Run:
        variant = paper_system.variants[variant_name]
        system = self.suite.systems[name]
        own = system.variants.get(variant_name, SuiteVariant())
        settings = merged(merged(system.settings, variant.settings), own.settings)
        recipe = merged(merged(system.recipe, variant.recipe), own.recipe)
        _check_settings(name, settings, f"{where}: systems.{name}.variants.{variant_name}")
        try:
            resolve_recipe(Recipe(), recipe)
        except ValidationError as error:
            raise ConfigError("\n".join(_lines(error, f"{where}: {name}/{variant_name}: recipe"))) from None
        named: list[str] = []
        settings = self._located(settings, named)
        checkpoint = self._released(variant)
        clean = variant.protocol == "clean"
        benchmarks = {entry: self._split(entry, system) for entry in paper_system.evaluated_on}
        return Run(
            suite=self.suite.name,
            system=name,
            variant=variant_name,
            seed=seed,
            size=system.size,
            settings=settings,
            recipe=recipe,
            protocol=variant.protocol,
            checkpoint=variant.checkpoint,
            checkpoint_path=self._located(checkpoint, named),
            weights=tuple(dict.fromkeys(named)),
            training=self._split((clean and paper_system.clean_trained_on) or paper_system.trained_on, system),
            held_out=self._split((clean and paper_system.clean_held_out) or paper_system.held_out, system),
            selected_on_test=None if clean else self._split(paper_system.selected_on_test, system),
            benchmarks={entry: split for entry, split in benchmarks.items() if split is not None},
            probes=self._probes(paper_system, system),
        )

    def _released(self, variant: Variant) -> str | None:
        """Return the file of a variant's released checkpoint: config.yaml's, or else the one that the suite fetches."""
        if variant.checkpoint is None:
            return None
        return {**self.suite.checkpoints, **self.config.checkpoints}.get(variant.checkpoint)

    def _located(self, value: Any, named: list[str]) -> Any:
        """Return settings with every ``weights:<name>/<file>`` as the file's path, and add the names to ``named``."""
        if isinstance(value, Mapping):
            return {key: self._located(item, named) for key, item in value.items()}
        if not isinstance(value, str) or not value.startswith(WEIGHTS):
            return value
        place = value.removeprefix(WEIGHTS)
        named.append(place.partition("/")[0])
        return str(self.weights / place)

    def _probes(self, paper_system: PaperSystem, system: SuiteSystem) -> dict[str, Probe]:
        splits = {benchmark: self._split(benchmark, system) for benchmark in paper_system.probed_on}
        return {
            benchmark: Probe(split=split, tests=paper_system.probed_on[benchmark], pictures=self.suite.probed_pictures)
            for benchmark, split in splits.items()
            if split is not None
        }

    @cached_property
    def runs(self) -> list[Run]:
        """Return every run of the chosen papers, systems, tables, claims and seeds in this suite, in a fixed order."""
        result: list[Run] = []
        for paper in self.papers.values():
            where = f"papers/{paper.name}/paper.yaml + suites/{self.suite.name}.yaml"
            for name, variant_name in self._wanted(paper):
                if not self.not_run(name, variant_name, paper.systems[name]):
                    system = paper.systems[name]
                    result.extend(self._run(name, system, variant_name, seed, where) for seed in self.config.seeds)
        return result

    def _wanted(self, paper: Paper) -> Iterator[tuple[str, str]]:
        """Yield the systems and variants of a paper that config.yaml chooses and this suite knows."""
        for name, system in paper.systems.items():
            if (not self.config.systems or name in self.config.systems) and name in self.suite.systems:
                yield from ((name, variant) for variant in system.variants)

    def not_run(self, system: str, variant_name: str, described: PaperSystem) -> str:
        """Return why this suite does not run a variant that its paper describes ("" if it does)."""
        return self._not_in_suite(system, variant_name, described) or self._left_out.get((system, variant_name), "")

    def _not_in_suite(self, system: str, variant_name: str, described: PaperSystem) -> str:
        variant, entry = described.variants[variant_name], self.suite.systems.get(system)
        if entry is None:
            return f"suite {self.suite.name} does not run {system}"
        if described.trained_on not in self.suite.benchmarks and not variant.checkpoint:
            return f"suite {self.suite.name} has nothing that stands for {described.trained_on}"
        if variant_name in entry.variants and entry.variants[variant_name].skip:
            return entry.variants[variant_name].skip
        if variant.checkpoint and self._released(variant) is None:
            return f"no file is given for the released checkpoint {variant.checkpoint} (config.yaml: checkpoints)"
        return ""

    @cached_property
    def _left_out(self) -> dict[tuple[str, str], str]:
        """Return the variants that config.yaml's tables, claims and budget leave out, with the reason."""
        result: dict[tuple[str, str], str] = {}
        budget, spent = self.config.budget_gpu_hours, 0.0
        for paper in self.papers.values():
            chosen = self._in_tables_and_claims(paper)
            for key in self._wanted(paper):
                if self._not_in_suite(*key, paper.systems[key[0]]):
                    continue
                hours, _ = self.gpu_hours(*key, paper.systems[key[0]])
                cost = None if hours is None else hours * len(self.config.seeds)
                if chosen is not None and key not in chosen:
                    result[key] = "not in the tables or claims that config.yaml chooses"
                elif budget is not None and cost is None:
                    result[key] = f"left out by the budget of {budget:g} GPU hours: its cost is not known"
                elif budget is not None and cost is not None and spent + cost > budget:
                    result[key] = f"left out by the budget of {budget:g} GPU hours: it takes {cost:.3g}"
                else:
                    spent += cost or 0.0
        return result

    def _in_tables_and_claims(self, paper: Paper) -> set[tuple[str, str]] | None:
        """Return what the chosen tables and claims of a paper need; None where all are chosen."""
        if not self.config.tables and not self.config.claims:
            return None
        tables = [table for name, table in paper.tables.items() if name in self.config.tables]
        rows = {(row.system, row.variant or "") for table in tables for row in table.rows}
        claims = [claim for claim in paper.claims if claim.id in self.config.claims]
        arms = {arm for claim in claims for arm in (*claim.better, *claim.worse)}
        return rows | {(arm.partition("/")[0], arm.partition("/")[2]) for arm in arms}

    def gpu_hours(self, system: str, variant_name: str, described: PaperSystem) -> tuple[float | None, str]:
        """Return the GPU hours of training a variant once, and on what that is based; None: not known beforehand."""
        entry, variant = self.suite.systems[system], described.variants[variant_name]
        recipe = default_recipe(system)
        if variant.checkpoint or recipe is None or variant.settings.get("train") is False:
            return 0.0, "no training"
        own = entry.variants.get(variant_name, SuiteVariant())
        cost = own.cost or entry.cost
        if cost is None:
            return None, "not known before a run of it has ended"
        for over in (entry.recipe, variant.recipe, own.recipe):
            recipe = merged(recipe, over)
        return cost.gpu_hours_per_100_epochs * recipe["epochs"] / 100, cost.source

    def run(self, system: str, variant: str, seed: int) -> Run:
        """Return one run.

        Raises:
            ConfigError: there is no such run in this suite.
        """
        for run in self.runs:
            if (run.system, run.variant, run.seed) == (system, variant, seed):
                return run
        known = ", ".join(sorted({f"{run.system}/{run.variant}" for run in self.runs}))
        raise ConfigError(
            f"suite {self.suite.name} has no run {system}/{variant}/seed{seed}; it has, with seeds "
            f"{list(self.config.seeds)}: {known}"
        )

    # Paths, all relative to ``root``; the Snakefile and the commands use the same functions.

    @property
    def raw(self) -> Path:
        """Return the folder of fetched data sets."""
        return Path(self.config.resources) / "raw"

    @property
    def data(self) -> Path:
        """Return the folder of prepared data sets."""
        return Path(self.config.resources) / "data"

    @property
    def weights(self) -> Path:
        """Return the folder of base weights."""
        return Path(self.config.resources) / "weights"

    @property
    def results(self) -> Path:
        """Return the suite's results folder."""
        return Path(self.config.results) / self.suite.name

    @property
    def report(self) -> Path:
        """Return the suite's report folder."""
        return Path(self.config.reports) / self.suite.name

    def index(self, split: Split) -> Path:
        """Return the index.csv of a prepared data set."""
        return self.data / split.dataset / split.preparation / "index.csv"

    def run_folder(self, run: Run) -> Path:
        """Return the folder of a run's model, history and run.json."""
        return self.results / "runs" / run.id

    def checkpoint_folder(self, run: Run) -> Path:
        """Return the folder where an unfinished training run keeps what it needs to resume."""
        return self.results / "checkpoints" / run.id

    def predictions(self, run: Run, benchmark: str) -> Path:
        """Return the CSV of a run's predictions on a benchmark."""
        split = run.benchmarks[benchmark]
        return (
            self.results
            / "predictions"
            / split.dataset
            / split.split
            / run.system
            / run.variant
            / f"seed{run.seed}.csv"
        )

    def probe(self, run: Run) -> Path:
        """Return the JSON file of a run's prompt tests; its maps are beside it in an .npz."""
        return self.results / "prompt_tests" / run.system / run.variant / f"seed{run.seed}.json"

    def log(self, step: str, *parts: str) -> Path:
        """Return the log file of a job."""
        return Path("logs") / self.suite.name / step / Path(*parts[:-1]) / f"{parts[-1]}.log"


def load(root: Path | str = ".", overrides: Mapping[str, Any] | None = None) -> Project:
    """Read and check the whole configuration below ``root``.

    Args:
        root: the folder of config.yaml, papers/ and suites/.
        overrides: top-level keys of config.yaml to replace, as ``snakemake --config`` gives them.

    Raises:
        ConfigError: one line per error: file, key, value, what is allowed.
    """
    return Project(Path(root), overrides)
