"""What was fetched into a folder: ``manifest.json``, written last, and ``.fetched.jsonl``, a line per file as it comes.

The second is not redundant: Snakemake deletes a rule's declared output, which the manifest is, before each run and
after each failure, and the digests recorded at the first download must survive.
"""

import json
import threading
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from recount.data.dataset import MANIFEST, DataError, Source
from recount.results.files import text_digest, write_text

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
            lines = ledger.read_text(encoding="utf-8").split("\n")
            if lines.pop():  # killed in the middle of a line
                ledger.write_text("".join(line + "\n" for line in lines), encoding="utf-8")
            self._read(ledger, lambda: [json.loads(line) for line in lines])

    def _read(self, path: Path, rows: Callable[[], list[dict[str, Any]]]) -> None:
        try:
            self.entries |= {row["path"]: Fetched(**row) for row in rows()}
        except (json.JSONDecodeError, KeyError, TypeError) as error:
            raise DataError(f"{path}: is broken ({error}); delete it and fetch again") from error

    def record(self, path: str, sha256: str, address: str) -> Fetched:
        """Write down a file that has just come; any thread may."""
        now = datetime.now(UTC).isoformat(timespec="seconds")
        entry = Fetched(path, (self._folder / path).stat().st_size, sha256, address, now)
        with self._lock, (self._folder / LEDGER).open("a", encoding="utf-8") as stream:
            self.entries[path] = entry
            stream.write(json.dumps(asdict(entry), ensure_ascii=False) + "\n")
        return entry


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
