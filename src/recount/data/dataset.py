"""How a data set describes itself: files, licence, splits, reader, preparations. No torch in this module."""

import logging
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import wraps
from pathlib import Path
from traceback import walk_tb
from typing import Any, ClassVar

from recount.data.sample import Need, RawSample
from recount.data.size_rules import ORIGINAL_SIZE, SizeRule
from recount.errors import UserError
from recount.settings.base import unknown

log = logging.getLogger(__name__)

MANIFEST = "manifest.json"  # in the folder of a source: it is fetched
HOW_TO_GET_PICTURES = (
    "recount doctor says how to get the data set's pictures; then recount fetch it and recount prepare it again"
)


_LONGEST = 200  # characters of an exception's text


class DataError(UserError):
    """Something is wrong with a data set's files; the message is for the user and lists every defect found."""


@dataclass(frozen=True, slots=True)
class RemoteFile:
    """A file that a data set needs."""

    path: str  # where it lies below ``resources/raw/<dataset>/`` and below ``<mirror>/<dataset>/``
    # Addresses tried in order: ``https://…``, ``gdrive:<file id>``, ``hf:<repo>@<revision>/<path>`` (the revision is a
    # commit, for a branch moves); none: by hand only
    urls: tuple[str, ...] = ()
    # Of the bytes, or its first digits where only these are public; None: recorded at the first download, and later
    # downloads are compared with it
    sha256: str | None = None
    bytes: int | None = None
    unpack: bool = False  # a zip or tar archive, to be unpacked beside itself into ``<path without suffix>/``
    optional: bool = False  # the data set can be read without it
    git_blob: str | None = None  # the id that git has for the content: SHA-1 of "blob <bytes>\0" and the bytes
    md5: str | None = None
    # Which of sha256, bytes, git_blob and md5 only one source states that is not the file's own: a mismatch is told,
    # and the file is taken
    seen_once: tuple[str, ...] = ()
    # Folders that stand for an archive where they lie there by hand, beside the one it is unpacked into; "a+b": both
    unpacked: tuple[str, ...] = ()


class Source(ABC):
    """What is fetched as a whole: a data set, or weights."""

    name: str  # of its folder; what follows is for people
    title: str
    homepage: str = ""
    licence: str
    citation: str = ""
    by_hand: str = ""  # how to get what no address can deliver ("" if every file can be fetched)

    @abstractmethod
    def files(self) -> list[RemoteFile]:
        """Return the files to fetch."""

    def listed_files(self, raw: Path) -> list[RemoteFile]:
        """Return further files, listed in one of ``files()``, which lie in ``raw`` by now; a broken list: DataError."""
        return []


def one_line(text: str, longest: int) -> str:
    """Return a text as one printable line of at most ``longest`` characters, its end left out if it must be."""
    line = "".join(letter if letter.isprintable() else repr(letter)[1:-1] for letter in " ".join(text.splitlines()))
    return line if len(line) <= longest else f"{line[:longest]}…"


def reason(error: Exception) -> str:
    """Return an exception in a few words of one line."""
    text = one_line(str(error), _LONGEST)
    return {KeyError: f"there is no {text}", RecursionError: "it is nested too deeply"}.get(type(error), text)


def _guarded(read: Callable[[Any, Path], Iterable[RawSample]]) -> Callable[[Any, Path], Iterator[RawSample]]:
    """Return a reader that raises nothing but a ``DataError``, which names file, place in the code and entry."""

    @wraps(read)
    def samples(dataset: "Dataset", raw: Path) -> Iterator[RawSample]:
        last = "at its first sample"
        try:
            for sample in read(dataset, raw):
                last = f"after sample {getattr(sample, 'id', sample)!r}"
                yield sample
        except DataError:
            raise
        except Exception as error:
            frames = [(frame, line) for frame, line in walk_tb(error.__traceback__)][1:]
            paths = [value for frame, _ in frames for value in frame.f_locals.values() if isinstance(value, Path)]
            file = getattr(error, "filename", None) or ([path for path in paths if raw in path.parents] or [raw])[-1]
            code = [
                (frame.f_code, line) for frame, line in frames if frame.f_globals.get("__name__") == read.__module__
            ]
            where = f" ({Path(code[-1][0].co_filename).name}, line {code[-1][1]})" if code else ""
            what = f"{type(error).__name__}: {reason(error)}"
            log.debug("%s cannot be read", raw, exc_info=True)
            raise DataError(
                f"{file}: the reader of {dataset.name} stumbles here, {last}{where}: {what}; "
                f"if the file is broken, delete it and `recount fetch {dataset.name}`"
            ) from error

    return samples


class Dataset(Source):
    """A data set. A module ``recount/datasets/<name>.py`` holds one subclass, bound to the module's ``DATASET``.

    Whatever its ``read`` raises, whoever calls it gets a ``DataError``; readers note what is wrong with each entry in
    ``health.Defects`` and go on.
    """

    publishable: ClassVar[bool] = False  # whether its licence lets its pictures stand in a published report
    embedded: ClassVar[bool] = False  # whether it is procedural (nothing to fetch)
    lenient: ClassVar[bool] = False  # whether a JPEG whose end is missing is filled with grey instead of being a defect
    # Folders below its own, one of which holds the pictures, if the annotation can be had without them
    picture_folders: ClassVar[tuple[str, ...]] = ()
    pictures_of: ClassVar[str] = ""  # the data set whose pictures it uses, if not its own: that one is fetched first
    splits: ClassVar[tuple[str, ...]]
    # What its samples have beside their pictures; a set with counts or captions alone says so
    gives: ClassVar[frozenset[Need]] = frozenset({"points", "prompts"})
    accept: ClassVar[str] = (
        ""  # why more of its points than usual lie outside its pictures; config.yaml may say it, too
    )
    # The size rules it can be prepared with, by name; always has "original"
    preparations: ClassVar[Mapping[str, SizeRule]] = {"original": ORIGINAL_SIZE}
    # Checked after reading: {"train": {"images": 300, "points": 162413}}. Keys: a split or "all"; in it "samples",
    # "images" (different pictures; a sample without one counts as one), "points", "boxes", "count" (sum of counts)
    totals: ClassVar[Mapping[str, Mapping[str, float]]] = {}

    def __init_subclass__(cls) -> None:
        super().__init_subclass__()
        if "read" in vars(cls):
            cls.read = _guarded(cls.read)  # type: ignore[method-assign, assignment]

    def files(self) -> list[RemoteFile]:
        """Return the files to fetch; empty for a procedural data set."""
        return []

    def check_preparation(self, name: str) -> None:
        """Raise a ``DataError`` unless it can be prepared so."""
        if name not in self.preparations:
            raise DataError(f"{self.name}: {name}: {unknown('preparation', name, self.preparations)}")

    @property
    def roots_of_pictures(self) -> set[str]:
        """The first parts of its folders of pictures."""
        return {folder.partition("/")[0] for folder in self.picture_folders}

    def lacks_pictures(self, raw: Path) -> bool:
        """Return whether its pictures are not below ``raw``, so that nothing can be trained or predicted on them."""
        return bool(self.picture_folders) and not any((raw / folder).is_dir() for folder in self.picture_folders)

    @property
    def may_be_shown(self) -> bool:
        """Whether its pictures may stand in a published report: by its licence, or because recount drew them."""
        return self.publishable or self.embedded

    @abstractmethod
    def read(self, raw: Path) -> Iterable[RawSample]:
        """Yield all samples in a fixed order from ``raw`` (``resources/raw/<name>``); a ``DataError`` lists defects."""


class Drawn(Dataset):
    """A data set that recount draws when a sample's function is called; nothing is fetched."""

    licence = "MIT (made by recount)"
    publishable = True
    embedded = True
