"""Conda's environment files, read by the names that Python's package index has for the packages."""

from pathlib import Path
from typing import Any

import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

# Where conda's name of a package is another one.
PYTHON_NAMES = {"matplotlib-base": "matplotlib", "pytorch": "torch"}


def conda_requirements(path: Path) -> dict[str, Requirement]:
    """Return the packages that a conda file declares, Python itself among them, by the index's names."""
    content: dict[str, Any] = yaml.safe_load(path.read_text(encoding="utf-8"))
    found = {}
    for entry in content["dependencies"]:
        if isinstance(entry, str):
            requirement = Requirement(entry)
            name = canonicalize_name(requirement.name)
            requirement.name = PYTHON_NAMES.get(name, name)
            found[requirement.name] = requirement
    return found
