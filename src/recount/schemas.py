"""JSON schemas generated from the typed configuration: for Snakemake's ``validate()``, editors, settings of systems."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from pydantic import BaseModel
from pydantic.json_schema import GenerateJsonSchema

from recount import systems
from recount.settings.paper import Paper
from recount.settings.project import SYSTEM_SCHEMAS, Config
from recount.settings.suite import Suite


def all_schemas(root: Path) -> dict[Path, dict[str, Any]]:
    """Return every schema by the path it belongs at.

    Args:
        root: of the working copy.
    """
    folder = root / "workflow" / "schemas"
    found = {folder / f"{model.__name__.lower()}.schema.json": schema_of(model) for model in (Config, Paper, Suite)}
    for name in systems.own_names():
        found[SYSTEM_SCHEMAS / f"{name}.json"] = schema_of_system(name)
    return found


def schema_of_system(name: str) -> dict[str, Any]:
    """Return the schema of a system's settings, with its recipe (null: it does not train)."""
    system = systems.load(name)
    recipe = system.recipe.model_dump(mode="json") if system.trains else None
    return {**system.Settings.model_json_schema(), "recipe": recipe}


def schema_of(model: type[BaseModel]) -> dict[str, Any]:
    """Return a model's schema and the dialect it is written in (Snakemake's ``validate()`` refuses it without)."""
    return {"$schema": GenerateJsonSchema.schema_dialect, **model.model_json_schema()}


def text_of(schema: dict[str, Any]) -> str:
    """Return a schema as it stands in its file."""
    return json.dumps(schema, indent=1, sort_keys=True) + "\n"


def write_schemas(root: Path) -> list[Path]:
    """Write every schema that is not up to date; return the paths written."""
    written = []
    for path, schema in all_schemas(root).items():
        path.parent.mkdir(parents=True, exist_ok=True)
        if not path.is_file() or path.read_text(encoding="utf-8") != text_of(schema):
            path.write_text(text_of(schema), encoding="utf-8")
            written.append(path)
    return written
