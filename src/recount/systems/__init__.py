"""One module per system, discovered by name; outside packages add theirs by the entry point ``recount.systems``."""

from __future__ import annotations

from importlib import import_module
from importlib.metadata import entry_points
from pkgutil import iter_modules
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from recount.systems.base import System

_NOT_SYSTEMS = {"base", "countr_family"}


def own_names() -> set[str]:
    """Return the names of the systems in this package."""
    return {module.name for module in iter_modules(__path__)} - _NOT_SYSTEMS


def names() -> list[str]:
    """Return the names of all known systems, sorted. Imports none of them."""
    return sorted(own_names() | {point.name for point in entry_points(group="recount.systems")})


def load(name: str) -> type[System]:
    """Return the class of the system called ``name`` (its module's ``SYSTEM``).

    Raises:
        KeyError: there is none of that name; the message lists those there are.
    """
    if name in own_names():
        return import_module(f"{__name__}.{name}").SYSTEM
    for point in entry_points(group="recount.systems", name=name):
        return point.load()
    raise KeyError(f"no system is called {name!r}; there are: {', '.join(names())}")
