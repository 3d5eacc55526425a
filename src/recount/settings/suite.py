"""How big (``suites/<suite>.yaml``): what stands for the benchmarks, sizes, budgets."""

from typing import Any, Literal, Self

from pydantic import Field, model_validator

from recount.settings.base import BenchmarkId, Name, Strict

Kind = Literal["crowd", "text", "captions"]
Role = Literal["train", "held_out", "test"]


class Benchmark(Strict):
    """A benchmark of the papers (``benchmarks.yaml``)."""

    title: str
    images: int | None = Field(None, gt=1, description="how many it has, as its authors count")
    kind: Kind = Field(description="what is counted: people in crowds, what a text names, by choosing a caption")
    role: Role
    data: BenchmarkId | None = Field(None, description="<data set>/<split>; null: as the benchmark's id")
    by_hand: str = Field("", description="why nobody can have its data; it is then quoted only")


class StandIn(Strict):
    """What stands for a benchmark in a suite: prepared samples of a data set's split, or nothing, and why."""

    dataset: Name | None = None
    split: Name | None = Field(None, description="several joined by +")
    preparation: Name = "original"
    stand_in: Literal["none"] | None = None
    note: str = ""

    @model_validator(mode="after")
    def _whole(self) -> Self:
        there = self.dataset is not None and self.split is not None
        if there == (self.stand_in == "none") or (self.dataset is None) != (self.split is None):
            raise ValueError("give dataset and split, or stand_in: none with a note that says why")
        return self


class Cost(Strict):
    """What training costs, as somebody measured or published it."""

    gpu_hours_per_100_epochs: float = Field(ge=0)
    source: str = Field(min_length=1, description="who measured it, on which card")


class SuiteVariant(Strict):
    """What this suite changes in one variant, over the experiment's variant."""

    settings: dict[str, Any] = {}
    recipe: dict[str, Any] = {}
    cost: Cost | None = None


class SuiteSystem(Strict):
    """How this suite runs a system: size, budget, preparation.

    An experiment's variant goes over ``settings`` and ``recipe``, so that a suite cannot undo what an ablation
    switches; the suite's own ``variants`` go over both.
    """

    size: Literal["paper", "mini"] = Field(
        "paper",
        description="paper: the defaults are the released code's settings; mini: those of the system's mini size",
    )
    settings: dict[str, Any] = {}
    recipe: dict[str, Any] = {}
    preparation: Name | None = None
    variants: dict[Name, SuiteVariant] = {}
    skip: dict[str, tuple[Name, ...]] = Field({}, description="why -> variants that this suite does not run")
    cost: Cost | None = Field(None, description="of training; null: not known before a run of it has ended")

    def variant(self, name: str) -> SuiteVariant:
        """Return what the suite says of one variant."""
        return self.variants.get(name, SuiteVariant())

    def skipped(self, name: str) -> str:
        """Return why the suite does not run a variant ("" if it does)."""
        return next((why for why, names in self.skip.items() if name in names), "")


class Suite(Strict):
    """A size of the whole undertaking."""

    name: Name = ""
    title: str
    summary: str = ""
    checkpoints: dict[Name, str] = Field(
        {}, description="released checkpoint -> weights:<name>/<file> that is fetched; config.yaml's go over it"
    )
    comparable: bool = Field(
        description="whether its numbers may be compared with the published ones: its data are the benchmarks' own"
    )
    why_not_comparable: str = ""
    as_published: bool = Field(
        True,
        description="false: its recipes are not the papers', so that it tests only something near; what differs from "
        "official.yaml is found without it",
    )
    pictures: str = Field("other pictures", description="what a suite that is not comparable shows: drawn scenes")
    benchmarks: dict[BenchmarkId, StandIn] = {}
    stand_in_by_kind: dict[Kind, dict[Role, StandIn]] = Field(
        {}, description="of benchmarks that are not listed; where there is none, a comparable suite has their own data"
    )
    preparation_by_kind: dict[Kind, Name] = Field({}, description="of a comparable suite; original where it says none")
    systems: dict[Name, SuiteSystem] = {}
    prompt_test_pictures: int | None = Field(
        None, gt=0, description="pictures of each benchmark that text-guided systems are prompt-tested on; null: all"
    )
    prompt_tests_without_listed: bool = Field(
        False, description="leave out of negative prompts and mosaics what PrACo lists as showing several classes"
    )
    fp32_as: Literal["fp32", "tf32"] = Field(
        "fp32", description="in what a card trains where the recipe says fp32; the evaluation stays in fp32"
    )
    first_page: Kind | None = Field(
        None,
        description="kind of benchmarks; one run of each of its systems comes first, for reports/<suite>-so-far",
    )
    training_mem_mb: int = Field(4000, gt=0, description="of one training process")
    training_minutes: int = Field(
        60, gt=0, description="of one job on a cluster; a longer training goes on in the next, from its saved state"
    )
    evaluation_mem_mb: int = Field(4000, gt=0, description="of predicting a benchmark, or of its prompt tests")
    evaluation_minutes: int = Field(60, gt=0, description="the same; a job that begins anew, with more, if it fails")

    def stand_in(self, name: str, benchmark: Benchmark) -> StandIn | None:
        """Return what stands for a benchmark; None: nothing does."""
        found = self.benchmarks.get(name) or self.stand_in_by_kind.get(benchmark.kind, {}).get(benchmark.role)
        if found is None and self.comparable and not benchmark.by_hand:
            dataset, _, split = (benchmark.data or name).partition("/")
            preparation = self.preparation_by_kind.get(benchmark.kind, "original")
            return StandIn(dataset=dataset, split=split, preparation=preparation)
        return found
