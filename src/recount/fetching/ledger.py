"""What was fetched into a folder: ``manifest.json``, written last, and ``.fetched.jsonl``, a line per file as it comes.

The second is not redundant: Snakemake deletes a rule's declared output, which the manifest is, before each run and
after each failure, and the digests recorded at the first download must survive.
"""

import json
import threading
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from recount.data.dataset import MANIFEST, DataError, Source
from recount.results.files import now, text_digest, write_text

LEDGER = ".fetched.jsonl"


@dataclass(frozen=True, slots=True)
class Fetched:
    """A file that is there."""

    path: str  # below the data set's folder
    bytes: int
    sha256: str
    address: str  # one of the file's addresses, ``mirror:<dataset>/<path>``, or "by hand"
    date: str  # UTC


class Ledger:
    """Both files of a folder; DataError where one is broken."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._lock = threading.Lock()
        self.entries: dict[str, Fetched] = {}  # by path; the last line of ``.fetched.jsonl`` counts
        manifest, ledger = folder / MANIFEST, folder / LEDGER
        if manifest.exists():
            self._read(manifest, lambda: json.loads(manifest.read_text(encoding="utf-8"))["files"])
        if ledger.exists():
            lines = ledger.read_bytes().split(b"\n")
            if lines.pop():  # killed in the middle of a line
                ledger.write_bytes(b"".join(line + b"\n" for line in lines))
            self._read(ledger, lambda: [json.loads(line) for line in lines])

    def _read(self, path: Path, rows: Callable[[], list[dict[str, Any]]]) -> None:
        try:
            for row in rows():
                if row.keys() == {"path", "rejected"}:
                    self.entries.pop(row["path"], None)
                else:
                    self.entries[row["path"]] = Fetched(**row)
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise DataError(f"{path}: is broken ({error}); delete it and fetch again") from error

    def record(self, path: str, sha256: str, address: str) -> Fetched:
        """Write down a file that has just come; any thread may."""
        entry = Fetched(path, (self._folder / path).stat().st_size, sha256, address, now())
        with self._lock:
            self.entries[path] = entry
            self._append(asdict(entry))
        return entry

    def forget(self, path: str, sha256: str) -> None:
        """Write down that a file of this digest, recorded before, was rejected: a later one need not be like it."""
        with self._lock:
            if path in self.entries and self.entries[path].sha256 == sha256:
                del self.entries[path]
                self._append({"path": path, "rejected": sha256})

    def drop_manifest(self) -> None:
        """Remove the manifest, which is of a complete set; what it records stays in ``.fetched.jsonl``."""
        if (self._folder / MANIFEST).exists():
            for entry in self.entries.values():
                self._append(asdict(entry))
            (self._folder / MANIFEST).unlink()

    def _append(self, row: dict[str, Any]) -> None:
        with (self._folder / LEDGER).open("a", encoding="utf-8") as stream:
            stream.write(json.dumps(row, ensure_ascii=False) + "\n")


def write_manifest(source: Source, folder: Path, there: Sequence[Fetched], missing: Sequence[str]) -> dict[str, Any]:
    """Write the manifest, unless it says the same already, and return it (see ``fetch``)."""
    lines = "".join(f"{entry.sha256}  {entry.path}\n" for entry in sorted(there, key=lambda entry: entry.path))
    about = {name: getattr(source, name) for name in ("title", "homepage", "licence", "citation")}
    files = [asdict(entry) for entry in there]
    known = {"digest": text_digest(lines), "files": files, "missing": list(missing)}
    manifest = {"dataset": source.name, **about, **known}
    path, text = folder / MANIFEST, json.dumps(manifest, indent=1, ensure_ascii=False) + "\n"
    if not path.exists() or path.read_text(encoding="utf-8") != text:
        write_text(path, text)
    return manifest
