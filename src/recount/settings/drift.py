"""What a suite trains a variant with, beside what ``official.yaml`` says that its authors do."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from recount.settings.base import merged
from recount.settings.project import Project, default_recipe
from recount.settings.schemas import system_schema


def flat(content: Mapping[str, Any], prefix: str = "") -> dict[str, str]:
    """Return nested keys joined by dots, values as text."""
    result: dict[str, str] = {}
    for key, value in content.items():
        name = f"{prefix}{key}"
        if isinstance(value, Mapping):
            result |= flat(value, f"{name}.")
        elif isinstance(value, list | tuple):
            result[name] = " ".join(str(entry) for entry in value) or "none"
        else:
            result[name] = "none" if value is None else str(value)
    return result


def _text(value: Any) -> str:
    return next(iter(lowered({"": value}).values()))


def lowered(content: Mapping[str, Any]) -> dict[str, str]:
    """Return nested keys joined by dots, values as text, true and false as YAML writes them."""
    return {key: value.lower() if value in ("True", "False") else value for key, value in flat(content).items()}


def resolved_values(project: Project, system: str, variant: str) -> dict[str, str]:
    """Return what a variant is trained with, its defaults too: ``recipe.*``, ``settings.*``, preparation, data."""
    run, data = project.resolved(system, variant), project.experiments[system].data_of(variant)
    described = system_schema(system).get("properties", {})
    defaults = {key: entry["default"] for key, entry in described.items() if "default" in entry}
    return lowered(
        {
            "recipe": merged(default_recipe(system) or {}, run.recipe),
            "settings": merged(defaults, run.settings),
            "preparation": run.training.preparation if run.training else None,
            "trained_on": data.trained_on,
            "chosen_on": data.selected_on_test or data.held_out,
        }
    )


AMOUNTS = ("recipe.epochs", "recipe.batch_size")  # what a variant switches of these stands in official.yaml, too


@dataclass(frozen=True)
class Compared:
    """A setting of a variant: what is official, ours, and why they differ ("": they do not)."""

    key: str
    official: str
    ours: str
    why: str
    source: str
    drifted: str = ""  # what official.yaml says is ours, where it is not


def compared(project: Project, system: str, name: str) -> list[Compared]:
    """Return the settings of a variant that ``official.yaml`` knows."""
    entry, found = project.official[system], resolved_values(project, system, name)
    variant = project.experiments[system].variants[name]
    switched = flat({"recipe": variant.recipe, "settings": variant.settings})
    lines = []
    for key, value in entry.of(name).items():
        official, expected, ours = _text(value.official), _text(value.ours), found.get(key, "no such setting")
        of_variant = key in switched and key not in (*AMOUNTS, *entry.variants.get(name, {}))
        why = f"this variant: {variant.label}" if of_variant else value.why
        drifted = expected if ours != expected and not of_variant else ""
        lines.append(Compared(key, official, ours, why if official != ours else "", value.source, drifted))
    return lines
