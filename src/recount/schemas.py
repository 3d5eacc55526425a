"""JSON schemas of the typed settings: for editors, and to check a system's settings without importing it."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from pydantic import BaseModel
from pydantic.json_schema import GenerateJsonSchema

from recount import systems
from recount.settings.experiment import Experiment
from recount.settings.paper import Paper
from recount.settings.project import Config
from recount.settings.suite import Benchmark, Suite

MODELS: tuple[type[BaseModel], ...] = (Config, Benchmark, Experiment, Paper, Suite)


def schema_of_system(name: str) -> dict[str, Any]:
    """Return the schema of a system's settings, with its recipe (null: it does not train)."""
    system = systems.load(name)
    recipe = system.recipe.model_dump(mode="json") if system.trains else None
    return {**system.Settings.model_json_schema(), "recipe": recipe}


def write_schemas(folder: Path) -> list[Path]:
    """Write ``<model>.schema.json`` of each kind of YAML file, ``<system>.json`` of each system; return the paths."""
    schemas = {f"{model.__name__.lower()}.schema.json": _schema_of(model) for model in MODELS}
    schemas |= {f"{name}.json": schema_of_system(name) for name in sorted(systems.own_names())}
    folder.mkdir(parents=True, exist_ok=True)
    for name, schema in schemas.items():
        unfinished = folder / f".{os.getpid()}.{name}"
        unfinished.write_text(json.dumps(schema, indent=1, sort_keys=True) + "\n", encoding="utf-8")
        unfinished.replace(folder / name)
    return [folder / name for name in schemas]


def _schema_of(model: type[BaseModel]) -> dict[str, Any]:
    return {"$schema": GenerateJsonSchema.schema_dialect, **model.model_json_schema()}
