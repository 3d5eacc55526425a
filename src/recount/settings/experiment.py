"""How a system is run: variants, protocol, what it is trained, chosen and evaluated on."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field

from recount.settings.base import BenchmarkId, Name, Strict

PromptTestKind = Literal["negative_prompts", "mosaics", "pairs", "maps"]


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
    prompt_tests: dict[BenchmarkId, tuple[PromptTestKind, ...]] = Field(
        {},
        description="what a text-guided system is tested for beyond its errors: negative_prompts and mosaics (PrACo), "
        "pairs (majority, minority and absent class of a picture), maps (where attention and similarity lie)",
    )
    variants: dict[Name, Variant] = {}
    quoted_because: str = Field("", description="why recount does not run it; set exactly for quoted systems")
