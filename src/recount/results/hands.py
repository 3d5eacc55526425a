"""Who made what of results that several people share: ``results/<suite>/hands.json``.

``recount export --by NAME`` notes whose the runs in an export are, ``recount merge`` from which export each run came.
A run that was made anew since has another ``run.json`` than is noted, and is nobody's but this folder's.
"""

from pathlib import Path
from typing import Annotated, ClassVar

from pydantic import AfterValidator, Field

from recount.results.files import Fields, JsonRecord, file_digest, is_there
from recount.results.run_record import RUN

HANDS = "hands.json"
APART = "apart"  # the folder of what was not merged, because it is of another population


def _plain(text: str) -> str:
    if not text.isprintable() or not text.strip():
        raise ValueError("expected printable characters")
    return text


Who = Annotated[str, Field(min_length=1, max_length=80), AfterValidator(_plain)]


class Hand(Fields):
    """Whose a run is: ``source`` is the export that it came in ("": it was made by whoever exports it)."""

    who: Who
    source: str = ""
    run_sha256: str  # of its run.json


class Hands(JsonRecord):
    """Content of hands.json: by run id; what was kept apart, and what was there twice, in words."""

    STEP: ClassVar[str] = "recount merge"

    runs: dict[str, Hand] = Field(default_factory=dict)
    apart: list[str] = Field(default_factory=list)
    twice: list[str] = Field(default_factory=list)


def read_hands(results: Path) -> Hands:
    """Return who made the runs below results/<suite>, without those made anew since; empty where nobody shared.

    A ``ResultsError`` where the record is damaged.
    """
    path = results / HANDS
    if not is_there(path):
        return Hands()
    found = Hands.read(path)
    found.runs = {run: hand for run, hand in found.runs.items() if _is(results / "runs" / run / RUN, hand.run_sha256)}
    return found


def _is(path: Path, digest: str) -> bool:
    return is_there(path) and file_digest(path) == digest
