"""Small but whole records of results, for tests that need a few of their values."""

from pathlib import Path
from typing import Any

from safetensors.torch import save_file
from torch import Tensor

from recount.results.files import file_digest
from recount.results.run_record import RUN, RunRecord, Selection, write_model_record
from recount.settings.recipe import Recipe

SELECTION = {"epoch": 5, "model": "model.safetensors", "sha256": "0" * 64}


def run_record(run_id: str = "good/full/seed0", **changes: Any) -> RunRecord:
    """Return the record of a run, with ``changes`` of its fields."""
    system, variant, seed = run_id.split("/")
    run = {"system": system, "variant": variant, "seed": int(seed.removeprefix("seed"))}
    return RunRecord.model_validate({"run": run, "selections": {"last": SELECTION}} | changes)


def with_digests(folder: Path, run_id: str, selections: dict[str, Any]) -> dict[str, Any]:
    """Return selections with the digests of their models, which lie in a folder; write the record beside each."""
    found = {name: {**said, "sha256": file_digest(folder / said["model"])} for name, said in selections.items()}
    for said in found.values():
        write_model_record(folder, run_id, Selection.model_validate(said))
    return found


def save_run(folder: Path, run_id: str, models: dict[str, dict[str, Tensor]], **settings: Any) -> None:
    """Write the folder of a finished run: the weights of each selection, and its record (``links`` adds the rest)."""
    folder.mkdir(parents=True)
    selections = {}
    for name, state in models.items():
        model = "model.safetensors" if name == "last" else f"model.{name}.safetensors"
        save_file(state, folder / model)
        selections[name] = {"epoch": 3, "model": model}
    selections = with_digests(folder, run_id, selections)
    run_record(run_id, settings=settings, recipe=Recipe().model_dump(), selections=selections).write(folder / RUN)


def negative_prompts(pictures: list[dict[str, Any]]) -> dict[str, Any]:
    """Return the record of a negative-prompt test of these pictures."""
    means = dict.fromkeys(("np", "nmn", "pccn", "mae", "rmse", "prompt_swap"), 0.0)
    return {**means, "pictures": [{"prompt": "cups", **picture} for picture in pictures]}


def maps(pictures: list[dict[str, Any]]) -> dict[str, Any]:
    """Return the record of where the maps of these pictures lie."""
    return {"auc": {}, "pictures": [{"points": 1, "auc": {}, **picture} for picture in pictures]}
