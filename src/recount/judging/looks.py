"""Which look at a claim this is. Seeds are added until a claim is decided, so each look takes its share of the 5 %.

Each ``recount judge`` with another set of seeds is a look, planned or not, and is recorded in ``looks.json``, which is
never deleted by the workflow. Looks at which nothing could be decided (one seed) are recorded, but take no share.
"""

from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

from recount.results.files import ResultsError
from recount.results.verdicts import Look, Looks


class LookBook:
    """The looks so far, and the one that is being taken."""

    def __init__(self, path: Path, planned: Sequence[int]) -> None:
        self.path, self.planned = path, len(planned)
        try:
            self.record = Looks.read(path) if path.is_file() else Looks()
        except ResultsError as error:
            mend = "`recount verify --mend` moves it aside, and looks at claims are counted anew"
            raise ResultsError(path, error.what, mend) from None

    def take(self, paper: str, claim: str, evidence: str, seeds: str) -> tuple[int | None, int]:
        """Return which look this is (None: nothing random) and how many share the error; a new one is added."""
        if not seeds:
            return None, 1
        taken = self.record.looks.setdefault(f"{paper}/{claim}/{evidence}", [])
        if seeds not in [look.seeds for look in taken]:
            taken.append(Look(seeds=seeds, first=datetime.now(UTC).date()))
        spending = [look.seeds for look in taken if len(look.seeds.split("|")[0].split()) > 1]
        number = spending.index(seeds) + 1 if seeds in spending else None
        return number, max(self.planned, len(spending), 1)

    def save(self) -> None:
        """Write looks.json."""
        self.record.write(self.path)
