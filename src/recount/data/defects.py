"""Collecting everything that is wrong with a data set before saying so, so that one run names every broken file."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from recount.data.dataset import DataError


class Defects:
    """A list of defects, one line each; ``raise_if_any`` makes one ``DataError`` of them."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def add(self, line: str) -> None:
        """Note a defect: what is wrong, where, and what to do."""
        self.lines.append(line)

    @contextmanager
    def collected(self) -> Iterator[None]:
        """Note a ``DataError`` raised in this context instead of letting it stop the reading."""
        try:
            yield
        except DataError as error:
            self.lines.extend(str(error).splitlines())

    def raise_if_any(self) -> None:
        """Raise one ``DataError`` with all lines, if there are any."""
        if self.lines:
            raise DataError("\n".join(self.lines))
