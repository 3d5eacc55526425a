"""What all settings share: names, strict models, reading YAML, one line per error."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, TypeVar

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from recount.errors import UserError

Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.+-]*$")]
BenchmarkId = Annotated[str, Field(pattern=r"^[a-z0-9_]+/[a-z0-9_]+$")]


class ConfigError(UserError):
    """The configuration is wrong; the message has one line per error: file, key, value, what is allowed."""


class Strict(BaseModel):
    """A model that forbids unknown keys and is immutable."""

    model_config = ConfigDict(extra="forbid", frozen=True)


def read_yaml(path: Path) -> dict[str, Any]:
    """Return the keys and values of a YAML file.

    Raises:
        ConfigError: it is missing, not YAML, or not keys and values.
    """
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ConfigError(f"{path}: no such file") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: not valid YAML: {' '.join(str(error).split())}") from None
    if not isinstance(content, dict):
        raise ConfigError(f"{path}: expected keys and values, found {type(content).__name__}")
    return content


def error_lines(error: ValidationError, where: str) -> Iterator[str]:
    """Yield one line per error: file, key, value, what is allowed."""
    for problem in error.errors():
        key = ".".join(str(part) for part in problem["loc"]) or "(top level)"
        value = problem["input"]
        shown = "" if problem["type"] == "missing" else f" = {json.dumps(value, default=str)[:80]}"
        allowed = problem["msg"].removeprefix("Value error, ")
        if problem["type"] == "extra_forbidden":
            allowed = "no such key"
        yield f"{where}: {key}{shown}: {allowed}"


Model = TypeVar("Model", bound=BaseModel)


def checked(model: type[Model], content: Mapping[str, Any], where: str) -> Model:
    """Return ``content`` as ``model``.

    Raises:
        ConfigError: one line per error, which begins with ``where``.
    """
    try:
        return model.model_validate(dict(content))
    except ValidationError as error:
        raise ConfigError("\n".join(error_lines(error, where))) from None


def merged(base: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    """Return ``base`` with ``over`` laid on it, dictionaries key by key."""
    result = dict(base)
    for key, value in over.items():
        below = result.get(key)
        result[key] = merged(below, value) if isinstance(value, Mapping) and isinstance(below, Mapping) else value
    return result
