"""Folders that somebody has unpacked: they stand for their archive, and each file in them is proved and digested."""

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

from recount.data.dataset import RemoteFile
from recount.fetching.archives import is_unpacked, unpacked_folder
from recount.fetching.ledger import Fetched
from recount.fetching.proof import TEXT, UnusableError, kind_of, prove
from recount.results.files import file_digest

LEFT_BY_SYSTEMS = ("thumbs.db", "desktop.ini", "__macosx")  # beside hidden files
NOT_TAKEN = (".rejected", ".part", ".part.source")


def folders_for(file: RemoteFile, root: Path) -> list[Path]:
    """Return the folders below ``root`` that lie in an archive's place, and that recount did not unpack."""
    own = unpacked_folder(root / file.path)
    found = [own] if own.is_dir() and any(own.iterdir()) and not is_unpacked(own) else []
    for names in file.unpacked:
        several = [root / name for name in names.split("+")]
        found += several if all(folder.is_dir() for folder in several) else []
    return found


def is_there(file: RemoteFile, root: Path) -> bool:
    """Return whether a file lies below ``root``, or folders that stand for it; what they hold is not looked at."""
    return (root / file.path).is_file() or (file.unpack and bool(folders_for(file, root)))


def examined(
    folders: Sequence[Path], root: Path, recorded: Mapping[str, Fetched], check: Callable[[], None]
) -> tuple[dict[str, str], list[str]]:
    """Return the SHA-256 of each file in ``folders`` by its path below ``root``, and what is wrong with them.

    Wrong is what cannot be used, and what is not as it was ``recorded``. ``check`` is called before each file.
    """
    digests, faults = {}, []
    for path in _files(folders):
        check()
        name = path.relative_to(root).as_posix()
        if not path.is_file():
            faults.append(f"{name} is no file")
            continue
        digests[name] = file_digest(path)
        known = recorded.get(name)
        if known is not None and known.sha256 != digests[name]:
            faults.append(f"{name} has changed since {known.date}")
        try:
            if known is None and (path.stat().st_size or kind_of(name) is not TEXT):  # no objects: an empty list
                prove(path, name)
        except UnusableError as error:
            faults.append(f"{name} {error}")
    within = tuple(f"{folder.relative_to(root).as_posix()}/" for folder in folders)
    gone = sorted(name for name in recorded if name.startswith(within) and name not in digests)
    return digests, faults + [f"{name} is gone" for name in gone]


def _files(folders: Sequence[Path]) -> Iterator[Path]:
    """Yield the files below ``folders``, through links to folders, too."""
    seen: set[str] = set()
    for folder in folders:
        for place, names, files in os.walk(folder, followlinks=True):
            real = os.path.realpath(place)
            names[:] = [] if real in seen else sorted(filter(_is_data, names))
            yield from (Path(place, name) for name in ([] if real in seen else sorted(filter(_is_data, files))))
            seen.add(real)


def _is_data(name: str) -> bool:
    return not name.startswith(".") and name.lower() not in LEFT_BY_SYSTEMS and not name.endswith(NOT_TAKEN)
