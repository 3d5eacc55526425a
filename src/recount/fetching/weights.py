"""Weights that systems start from, and released checkpoints: ``weights.yaml`` beside this file. Fetched like data sets.

A suite or config.yaml names a file as ``weights:<name>/<file>``: it lies in ``resources/weights/<name>/<file>``, and
the mirror is asked for ``<mirror>/<name>/<file>``.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from recount.data.dataset import MANIFEST, RemoteFile, Source
from recount.errors import UserError
from recount.fetching.file_lists import remote_file
from recount.fetching.ledger import Ledger
from recount.results.files import file_digest
from recount.settings.base import read_yaml


@dataclass(frozen=True, slots=True)
class Number:
    """Errors that a released checkpoint has on a benchmark, as somebody states them."""

    on: str  # a benchmark's id
    mae: float
    source: str
    rmse: float | None = None
    run: str = ""  # system/variant that reads the file in the way that this is of; "": every one
    band: float | None = None  # accepted distance from the MAE, where somebody measured how far it scatters


class Weights(Source):
    """A file of weights; a released checkpoint has the numbers to ``judge`` it by, and what ``others`` got from it."""

    def __init__(
        self,
        name: str,
        title: str,
        homepage: str,
        licence: str,
        file: RemoteFile,
        by_hand: str = "",
        judge: Sequence[Number] = (),
        others: Sequence[Number] = (),
    ) -> None:
        self.name, self.title, self.homepage, self.licence = name, title, homepage, licence
        self.file, self.by_hand, self.judge, self.others = file, by_hand, judge, others

    def files(self) -> list[RemoteFile]:
        """Return the one file."""
        return [self.file]

    def told(self) -> Iterator[str]:
        """Yield a line for each number that the checkpoint is held against."""
        for what, numbers in (("to be judged by", self.judge), ("others got", self.others)):
            for n in numbers:
                yield f"{what}: {n.on}: MAE {n.mae:g}{'' if n.rmse is None else f', RMSE {n.rmse:g}'} ({n.source})"


def _declared() -> dict[str, Weights]:
    table = read_yaml(Path(__file__).with_suffix(".yaml"))
    entries = {name: entry for name, entry in table.items() if not name.startswith("_")}
    for entry in entries.values():
        entry["file"] = remote_file(entry["file"])
        entry |= {key: [Number(**number) for number in entry.get(key, ())] for key in ("judge", "others")}
    return {name: Weights(name, **entry) for name, entry in entries.items()}


WEIGHTS = _declared()


def check_weights(folder: Path, names: Iterable[str], *, fetched: bool = True) -> None:
    """Refuse files below ``folder`` that are not what was fetched; ``fetched``: those that were not fetched, too.

    All bytes are read. One that was not fetched is held against the digest that is declared, if there is one.

    Raises:
        UserError: a line for each file, with what to do.
    """
    problems = []
    for name in names:
        file, place = WEIGHTS[name].file, folder / name
        path, known, again = place / file.path, Ledger(place).entries.get(file.path), f"`recount fetch-weights {name}`"
        if fetched and not (place / MANIFEST).is_file():
            problems.append(f"{path}: was not fetched, or not checked: {again} does both, with a file put there, too")
        wanted = known.sha256 if known else file.sha256 or ""
        if path.is_file() and not (found := file_digest(path)).startswith(wanted):
            which = f"what was fetched has {wanted}" if known else f"{WEIGHTS[name].title} has {wanted}"
            what = f"its sha256 is {found}, but {which}: it is another file or revision, or damaged"
            problems.append(f"{path}: {what}; move it away, and {again} gets the right one")
    if problems:
        raise UserError("\n".join(problems))
