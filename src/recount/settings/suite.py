"""How big: what stands for the benchmarks, sizes, budgets."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field

from recount.settings.base import BenchmarkId, Name, Strict


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
    prompt_test_pictures: int | None = Field(
        None, gt=0, description="pictures of each benchmark that text-guided systems are prompt-tested on; null: all"
    )
    training_mem_mb: int = Field(4000, gt=0)
    training_minutes: int = Field(60, gt=0)
