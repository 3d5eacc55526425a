"""How a data set describes itself: files, licence, splits, reader, preparations. No torch in this module."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from recount.data.sample import RawSample
from recount.data.size_rules import ORIGINAL_SIZE, SizeRule
from recount.errors import UserError

MANIFEST = "manifest.json"  # in the folder of a source: it is fetched
HOW_TO_GET_PICTURES = (
    "recount doctor says how to get the data set's pictures; then recount fetch it and recount prepare it again"
)


@dataclass(frozen=True, slots=True)
class RemoteFile:
    """A file that a data set needs.

    Attributes:
        path: where it lies below ``resources/raw/<dataset>/`` and below ``<mirror>/<dataset>/``.
        urls: addresses tried in order: ``https://…``, ``gdrive:<file id>``, ``hf:<repo>@<revision>/<path>``; empty if
            the file can only be had by hand.
        sha256: of the bytes, or its first digits where only these are public; None where it is not known. What is not
            known is recorded at the first download and compared ever after.
        bytes: size, or None.
        unpack: whether it is a zip or tar archive, to be unpacked beside itself into ``<path without suffix>/``.
        optional: whether the data set can be read without it.
    """

    path: str
    urls: tuple[str, ...] = ()
    sha256: str | None = None
    bytes: int | None = None
    unpack: bool = False
    optional: bool = False


class Source(ABC):
    """What is fetched as a whole: a data set, or weights.

    Attributes:
        name: of its folder.
        title, homepage, licence, citation: for people; shown in the report and in by-hand instructions.
        by_hand: how to get what no address can deliver ("" if every file can be fetched).
    """

    name: str
    title: str
    homepage: str = ""
    licence: str
    citation: str = ""
    by_hand: str = ""

    @abstractmethod
    def files(self) -> list[RemoteFile]:
        """Return the files to fetch."""

    def listed_files(self, raw: Path) -> list[RemoteFile]:
        """Return further files, whose addresses stand in a file of ``files()`` (default: none); fetched after those.

        Args:
            raw: its folder, where ``files()`` are by now.

        Raises:
            DataError: the file that lists them is broken.
        """
        return []


class Dataset(Source):
    """A data set. A module ``recount/datasets/<name>.py`` holds one subclass, bound to the module's ``DATASET``.

    Attributes, beside those of a source:
        publishable: whether its licence lets its pictures stand in a published report.
        embedded: whether it is procedural (nothing to fetch).
        lenient: whether a JPEG whose end is missing is filled with grey instead of being a defect.
        picture_folders: folders below its own, one of which holds the pictures, if the annotation can be had without
            them; empty if what must be fetched holds them.
        pictures_of: the data set whose pictures it uses, if not its own: that one is fetched first.
        splits: the names of its splits.
        preparations: the size rules it can be prepared with, by name; always has "original".
        totals: integrity totals checked after reading, for instance ``{"train": {"images": 300, "points": 162413}}``.
            Keys: a split or "all"; in it "samples", "images" (different pictures; a sample without one counts as one),
            "points", "boxes", "count" (sum of counts).
    """

    publishable: ClassVar[bool] = False
    embedded: ClassVar[bool] = False
    lenient: ClassVar[bool] = False
    picture_folders: ClassVar[tuple[str, ...]] = ()
    pictures_of: ClassVar[str] = ""
    splits: ClassVar[tuple[str, ...]]
    preparations: ClassVar[Mapping[str, SizeRule]] = {"original": ORIGINAL_SIZE}
    totals: ClassVar[Mapping[str, Mapping[str, float]]] = {}

    def files(self) -> list[RemoteFile]:
        """Return the files to fetch; empty for a procedural data set."""
        return []

    def lacks_pictures(self, raw: Path) -> bool:
        """Return whether its pictures are not below ``raw``, so that nothing can be trained or predicted on them."""
        return bool(self.picture_folders) and not any((raw / folder).is_dir() for folder in self.picture_folders)

    @abstractmethod
    def read(self, raw: Path) -> Iterable[RawSample]:
        """Yield every sample of every split, in a fixed order.

        Args:
            raw: ``resources/raw/<name>``, as fetched.

        Raises:
            DataError: a file is missing or broken; the message names it.
        """


class DataError(UserError):
    """Something is wrong with a data set's files; the message is for the user and lists every defect found."""
