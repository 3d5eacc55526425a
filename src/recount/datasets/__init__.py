"""One module per data set, discovered by name; outside packages add theirs by the entry point ``recount.datasets``."""

from importlib import import_module
from importlib.metadata import entry_points
from pkgutil import iter_modules

from recount.data.dataset import DataError, Dataset
from recount.settings.base import unknown


def _own() -> set[str]:
    return {module.name for module in iter_modules(__path__) if not module.ispkg}


def names() -> list[str]:
    """Return the names of all known data sets, sorted."""
    return sorted(_own() | {point.name for point in entry_points(group="recount.datasets")})


def load(name: str) -> Dataset:
    """Return the data set called ``name``; the ``DataError`` for an unknown one names the nearest."""
    if name in _own():
        return import_module(f"{__name__}.{name}").DATASET
    for point in entry_points(group="recount.datasets", name=name):
        return point.load()
    raise DataError(f"{name}: {unknown('data set', name, names())}")
