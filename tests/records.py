"""Small but whole records of results, for tests that need a few of their values."""

from __future__ import annotations

from typing import Any

from recount.results.run_record import RunRecord

SELECTION = {"epoch": 5, "model": "model.safetensors", "sha256": "0" * 64}


def run_record(run_id: str = "good/full/seed0", **changes: Any) -> RunRecord:
    """Return the record of a run, with ``changes`` of its fields."""
    system, variant, seed = run_id.split("/")
    run = {"system": system, "variant": variant, "seed": int(seed.removeprefix("seed"))}
    return RunRecord.model_validate({"run": run, "selections": {"last": SELECTION}} | changes)


def negative_prompts(pictures: list[dict[str, Any]]) -> dict[str, Any]:
    """Return the record of a negative-prompt test of these pictures."""
    means = dict.fromkeys(("np", "nmn", "pccn", "mae", "rmse", "prompt_swap"), 0.0)
    return {**means, "pictures": [{"prompt": "cups", **picture} for picture in pictures]}


def maps(pictures: list[dict[str, Any]]) -> dict[str, Any]:
    """Return the record of where the maps of these pictures lie."""
    return {"auc": {}, "pictures": [{"points": 1, "auc": {}, **picture} for picture in pictures]}
