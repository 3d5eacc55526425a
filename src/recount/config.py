"""Typed configuration: the only reader of config.yaml, papers/*/paper.yaml and suites/*.yaml.

Snakemake imports this module for each job, so it must stay light: no torch, no pandas.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError

SYSTEM_SCHEMAS = Path(__file__).parent / "systems" / "schemas"

Selection = Literal["last", "best_on_test", "best_on_held_out"]
Precision = Literal["fp32", "bf16", "fp16"]
Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.+-]*$")]
BenchmarkId = Annotated[str, Field(pattern=r"^[a-z0-9_]+/[a-z0-9_]+$")]


class ConfigError(Exception):
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

    ``warmup_cosine_restarts``: linear from ``initial_lr`` to the optimiser's rate over ``warmup`` units, then cosine restarts
    (``period``, ``period_factor``, ``minimum_lr``). ``warmup_cosine``: linear over ``warmup``, then one half cosine to
    ``minimum_lr`` at the end. ``linear``: to ``minimum_lr`` at the end. ``step``: times ``factor`` every ``period`` units.
    ``step_at``: times ``factor`` at each of ``milestones``. ``sawtooth``: CountCLIP's schedule as coded.
    """

    name: Literal["constant", "warmup_cosine_restarts", "warmup_cosine", "linear", "step", "step_at", "sawtooth"] = (
        "constant"
    )
    unit: Literal["epoch", "step"] = "epoch"
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
    batch_size: int = Field(1, gt=0, description="training samples per optimiser step (an image may yield several crops)")
    shuffle: bool = True
    drop_last: bool = False
    optimiser: Optimiser = Optimiser()
    schedule: Schedule = Schedule()
    clip_norm: float | None = Field(None, gt=0)
    precision: Precision = "fp32"
    evaluate_every: int | None = Field(None, gt=0, description="epochs between evaluations during training; null: never")
    evaluate_from: int = Field(0, ge=0, description="first epoch (counted from 1) that may be evaluated")
    select_by: Literal["mae", "rmse", "mae+rmse", "2rmse+mae", "accuracy", "own"] = "mae"
    held_out: float = Field(
        0.0, ge=0, lt=1, description="share of the training samples held out for selection, where the data set has no list"
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
    note: str = ""


class PaperSystem(Strict):
    """A system of a paper: one that recount runs, or one that is only quoted."""

    label: str
    citation: str = ""
    trained_on: BenchmarkId | None = Field(None, description="the paper's training split, for instance ucf_qnrf/train")
    evaluated_on: tuple[BenchmarkId, ...] = ()
    held_out: BenchmarkId | None = Field(None, description="the split that a clean protocol selects on")
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


class Claim(Strict):
    """A statement of a paper that evidence can decide."""

    id: Name
    statement: str
    kind: Literal["numeric", "comparative", "evidence"] = "comparative"
    source: str = ""
    better: tuple[str, ...] = Field((), description="system/variant that should have the lower error")
    worse: tuple[str, ...] = ()
    benchmarks: tuple[BenchmarkId, ...] = ()
    metric: str = "mae"
    published: float | None = None
    tolerance: float | None = None
    rule: str = ""


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


class SuiteSystem(Strict):
    """How this suite runs a system: size, budget, preparation; each of it over the paper's settings."""

    settings: dict[str, Any] = {}
    recipe: dict[str, Any] = {}
    preparation: Name | None = None
    weights: tuple[Name, ...] = Field((), description="base weights that must be fetched first")
    variants: dict[Name, Variant | dict[str, Any]] = {}
    gpu_hours: float | None = Field(None, ge=0, description="published or measured cost of one training run")


class Suite(Strict):
    """A size of the whole undertaking."""

    name: Name = ""
    title: str
    summary: str = ""
    comparable: bool = Field(description="whether its numbers may be compared with the published ones")
    why_not_comparable: str = ""
    benchmarks: dict[BenchmarkId, Benchmark] = {}
    systems: dict[Name, SuiteSystem] = {}
    training_mem_mb: int = Field(4000, gt=0)
    training_minutes: int = Field(60, gt=0)


# --------------------------------------------------------------------------------------------------- what to run


class Config(Strict):
    """config.yaml: what to run here, and where things lie."""

    suite: Name = "mini"
    papers: tuple[Name, ...] = Field((), description="empty: all")
    systems: tuple[Name, ...] = Field((), description="empty: all of the papers")
    seeds: tuple[Annotated[int, Field(ge=0)], ...] = Field((0,), min_length=1)
    device: Literal["auto", "cpu", "cuda"] = "auto"
    precision: Precision | None = Field(None, description="null: as each recipe says")
    checkpoints: dict[Name, str] = Field({}, description="released checkpoint -> path of its file")
    checkpoint_minutes: float = Field(10, ge=0)
    loader_processes: int = Field(0, ge=0)
    image_cache_mb: int = Field(2000, ge=0)
    jobs_per_gpu: int = Field(1, gt=0)
    training_threads: int = Field(1, gt=0)
    resources: str = "resources"
    results: str = "results"
    reports: str = "reports"


class TrainingData(Strict):
    """Where a run's training samples come from."""

    dataset: Name
    split: Name
    preparation: Name


class Run(Strict):
    """One training run, resolved: everything its jobs need to know, and nothing else."""

    suite: Name
    system: Name
    variant: Name
    seed: int
    settings: dict[str, Any]
    recipe: dict[str, Any]
    protocol: str
    checkpoint: str | None
    checkpoint_path: str | None
    weights: tuple[Name, ...]
    training: TrainingData | None
    held_out: TrainingData | None
    benchmarks: dict[BenchmarkId, TrainingData]

    @property
    def id(self) -> str:
        """Return ``<system>/<variant>/seed<k>``."""
        return f"{self.system}/{self.variant}/seed{self.seed}"


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
