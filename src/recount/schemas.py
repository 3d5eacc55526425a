"""JSON schemas of the typed settings: for editors, and to check a system's settings without importing it."""

import json
from pathlib import Path

from pydantic import BaseModel
from pydantic.json_schema import GenerateJsonSchema

from recount import systems
from recount.results.files import write_text
from recount.settings.experiment import Experiment
from recount.settings.paper import Paper
from recount.settings.project import Config
from recount.settings.suite import Benchmark, Suite

MODELS: tuple[type[BaseModel], ...] = (Config, Benchmark, Experiment, Paper, Suite)


def write_schemas(folder: Path) -> list[Path]:
    """Write ``<model>.schema.json`` of each kind of YAML file, ``<system>.json`` of each system; return the paths."""
    dialect = {"$schema": GenerateJsonSchema.schema_dialect}
    schemas = {f"{model.__name__.lower()}.schema.json": dialect | model.model_json_schema() for model in MODELS}
    for name in sorted(systems.own_names()):
        system = systems.load(name)
        recipe = system.recipe.model_dump(mode="json") if system.trains else None  # it does not train
        schema = system.Settings.model_json_schema()
        schemas[f"{name}.json"] = {**schema, "recipe": recipe, "needs": sorted(system.needs)}
    for name, schema in schemas.items():
        write_text(folder / name, json.dumps(schema, indent=1, sort_keys=True) + "\n")
    return [folder / name for name in schemas]
