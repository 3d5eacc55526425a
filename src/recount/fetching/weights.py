"""Weights that systems start from, and released checkpoints: ``weights.yaml`` beside this file. Fetched like data sets.

A suite or config.yaml names a file as ``weights:<name>/<file>``: it lies in ``resources/weights/<name>/<file>``, and
the mirror is asked for ``<mirror>/<name>/<file>``.
"""

from pathlib import Path

import yaml

from recount.data.dataset import RemoteFile, Source


class Weights(Source):
    """A file of weights."""

    def __init__(self, name: str, title: str, homepage: str, licence: str, file: RemoteFile, by_hand: str = "") -> None:
        self.name, self.title, self.homepage, self.licence = name, title, homepage, licence
        self.file, self.by_hand = file, by_hand

    def files(self) -> list[RemoteFile]:
        """Return the one file."""
        return [self.file]


def _declared() -> dict[str, Weights]:
    table = yaml.safe_load(Path(__file__).with_suffix(".yaml").read_text(encoding="utf-8"))
    for entry in table.values():
        entry["file"] = RemoteFile(**entry["file"] | {"urls": tuple(entry["file"].get("urls", ()))})
    return {name: Weights(name, **entry) for name, entry in table.items()}


WEIGHTS = _declared()
