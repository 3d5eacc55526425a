"""How a system is run (``experiments/<system>.yaml``): variants, and what it is trained, chosen and evaluated on."""

from collections.abc import Iterator
from typing import Any, Literal, Self

from pydantic import Field, model_validator

from recount.settings.base import BenchmarkId, Name, Strict, absent

PromptTestKind = Literal["negative_prompts", "mosaics", "pairs", "maps", "counterfactuals"]


class Data(Strict):
    """What a system is trained, chosen and evaluated on, by the ids of ``benchmarks.yaml``."""

    trained_on: BenchmarkId
    held_out: BenchmarkId | None = Field(None, description="the split that a model is selected on")
    selected_on_test: BenchmarkId | None = Field(
        None, description="the test split that the released code selects on; watched during training, and flagged"
    )
    evaluated_on: tuple[BenchmarkId, ...] = Field(min_length=1)


class Variant(Strict):
    """A named way to run a system: an ablation, a protocol, another reading of a training, a released checkpoint.

    It names only what it switches; sizes and budgets are the suites'.
    """

    label: str
    settings: dict[str, Any] = {}
    recipe: dict[str, Any] = {}
    data: Name | None = Field(None, description="a key of the experiment's data; null: the first")
    protocol: Literal["as_code", "as_paper", "clean"] = "as_code"
    reads: Name | None = Field(
        None, description="the variant whose training is read in another way; settings then change the reading alone"
    )
    checkpoint: Name | None = Field(
        None, description="evaluate this released checkpoint (a key of config.yaml's checkpoints) instead of training"
    )
    stands_for: Name | None = Field(
        None, description="for released weights: the variant whose claims they are judged by"
    )
    note: str = ""

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.reads is not None and (self.recipe or self.data or self.checkpoint):
            raise ValueError("a variant that reads another's training has no recipe, data or checkpoint of its own")
        if self.stands_for is not None and not self.checkpoint:
            raise ValueError("only released weights (checkpoint) stand for a variant")
        return self


class Experiment(Strict):
    """A system and its variants."""

    name: Name = ""
    label: str
    citation: str = ""
    data: dict[Name, Data] = Field(min_length=1, description="by name; the first is every variant's that names none")
    prompt_tests: dict[BenchmarkId, tuple[PromptTestKind, ...]] = Field(
        {},
        description="what a text-guided system is tested for beyond its errors: negative_prompts and mosaics (PrACo), "
        "pairs (majority, minority and absent class of a picture), maps (where attention and similarity lie), "
        "counterfactuals (of what the answer of a count-by-caption system follows)",
    )
    prompt_tested: tuple[Name, ...] = Field((), description="variants that are so tested; empty: all")
    variants: dict[Name, Variant] = Field(min_length=1)

    def data_of(self, variant: str) -> Data:
        """Return what a variant is trained, chosen and evaluated on."""
        entry = self.variants[variant]
        return self.data[
            entry.data or (self.variants[entry.reads].data if entry.reads else None) or next(iter(self.data))
        ]

    def problems(self) -> Iterator[str]:
        """Yield what is wrong with the names that variants refer to."""
        for name in self.prompt_tested:
            yield from absent("prompt_tested", "variant", name, self.variants)
        for name, variant in self.variants.items():
            where = f"variants.{name}"
            if variant.data is not None and variant.data not in self.data:
                yield from absent(f"{where}.data", "entry of data", variant.data, self.data)
                continue
            for key, other in (("reads", variant.reads), ("stands_for", variant.stands_for)):
                if other is not None:
                    yield from absent(f"{where}.{key}", "variant", other, self.variants)
            if variant.reads in self.variants and self.variants[variant.reads].reads:
                yield f"{where}.reads = {variant.reads}: that variant has no training of its own; name the one it reads"
            if variant.protocol == "clean" and variant.reads is None and self.data_of(name).selected_on_test:
                yield f"{where}.data: a clean protocol chooses nothing on test data, but this has selected_on_test"

    def ids(self) -> Iterator[tuple[str, str]]:
        """Yield (key, benchmark id) of every benchmark that is named."""
        for name, data in self.data.items():
            for key in ("trained_on", "held_out", "selected_on_test"):
                if getattr(data, key) is not None:
                    yield f"data.{name}.{key}", getattr(data, key)
            yield from ((f"data.{name}.evaluated_on", benchmark) for benchmark in data.evaluated_on)
        yield from (("prompt_tests", benchmark) for benchmark in self.prompt_tests)
