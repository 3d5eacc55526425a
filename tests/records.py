"""Small but whole records of results, for tests that need a few of their values."""

from pathlib import Path
from typing import Any

from safetensors.torch import save_file
from torch import Tensor

from recount.results.files import file_digest
from recount.results.run_record import RunRecord
from recount.settings.recipe import Recipe

SELECTION = {"epoch": 5, "model": "model.safetensors", "sha256": "0" * 64}


def run_record(run_id: str = "good/full/seed0", **changes: Any) -> RunRecord:
    """Return the record of a run, with ``changes`` of its fields."""
    system, variant, seed = run_id.split("/")
    run = {"system": system, "variant": variant, "seed": int(seed.removeprefix("seed"))}
    return RunRecord.model_validate({"run": run, "selections": {"last": SELECTION}} | changes)


def save_run(folder: Path, run_id: str, models: dict[str, dict[str, Tensor]], **settings: Any) -> None:
    """Write the folder of a finished run: the weights of each selection, and its record."""
    folder.mkdir(parents=True)
    selections = {}
    for name, state in models.items():
        path = folder / ("model.safetensors" if name == "last" else f"model.{name}.safetensors")
        save_file(state, path)
        selections[name] = {"epoch": 3, "model": path.name, "sha256": file_digest(path)}
    record = run_record(run_id, settings=settings, recipe=Recipe().model_dump(), selections=selections)
    record.write(folder / "run.json")


def negative_prompts(pictures: list[dict[str, Any]]) -> dict[str, Any]:
    """Return the record of a negative-prompt test of these pictures."""
    means = dict.fromkeys(("np", "nmn", "pccn", "mae", "rmse", "prompt_swap"), 0.0)
    return {**means, "pictures": [{"prompt": "cups", **picture} for picture in pictures]}


def maps(pictures: list[dict[str, Any]]) -> dict[str, Any]:
    """Return the record of where the maps of these pictures lie."""
    return {"auc": {}, "pictures": [{"points": 1, "auc": {}, **picture} for picture in pictures]}
