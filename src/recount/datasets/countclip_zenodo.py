"""CountCLIP's own archive: its merged training set, and the edition of CountBench that the paper scores (zenodo509).

Zenodo record 10981852 of "[Re] Teaching CLIP to Count to Ten" (arXiv 2406.03586): ``merged.json`` lists 10,505 pairs
in a fixed order, four without a number and then one that counts; ``faulty.csv`` replaces 100 broken ones without a
number; ``val.json`` lists CountBench, of which 509 pictures are usable. Readers follow model.ipynb of
SforAiDl/CountCLIP@a15672d. Captions and addresses are raw web text: do not print them.

Split ``train`` is the whole training set. The paper has no validation set. To select a model without the test set, the
lists ``train_most`` and ``held_out`` hold out every tenth counting pair of each number; the four pairs before it are
left out too, so that the order stays four to one.

The list ``train_1_in_32`` has Paiss et al.'s share of counting pairs (ICCV 2023), one in 32, of these pairs, as theirs
are not public: of each eight groups 31 pairs without a number, and the counting pair whose number is the rarest in the
whole set (they undersample frequent numbers; how, is our reading).
"""

import logging
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import BaseModel, TypeAdapter

from recount.data.dataset import DataError
from recount.data.health import Defects
from recount.data.sample import HIDDEN, LISTS, NO_POINTS, RawSample
from recount.datasets.formats.captions import ITEMS, MISSING, NUMBERS, TEST, item, usable
from recount.datasets.formats.files import Described, Number, csv_rows, json_lines, parsed
from recount.datasets.formats.mat import find_folder

TRAIN, TRAIN_MOST, HELD_OUT, ONE_IN_32 = "train", "train_most", "held_out", "train_1_in_32"
GROUP = 5
EIGHT = 8  # groups, of which one keeps its counting pair in ``train_1_in_32``
HELD_OUT_EVERY = 10
PAIRS = 10_505
REPLACED = 100
# Inferred from figure 2 of the paper, whose last two bars are swapped, and the notebooks; another count is a warning
CLASS_COUNTS = {2: 1353, 3: 427, 4: 182, 5: 64, 6: 35, 7: 15, 8: 11, 9: 6, 10: 8}


class _Pair(BaseModel):
    pths: str  # of the picture
    caps: str
    urls: Any
    counts: Number  # -1: the caption names none


_ROW = TypeAdapter(_Pair)
Row = Mapping[str, Any]

log = logging.getLogger(__name__)


class CountClipZenodo(Described):
    """10,505 training pairs, 2,101 of which count, and 509 usable items of CountBench."""

    name = "countclip_zenodo"
    gives = frozenset({"prompts"})
    splits = (TRAIN, TRAIN_MOST, HELD_OUT, ONE_IN_32, TEST, MISSING)

    def read(self, raw: Path) -> Iterator[RawSample]:
        """Yield the training pairs in their order, then CountBench's items, the unusable ones in ``missing``."""
        rows, items = Defects().gathered(
            lambda: with_replacements(_read_rows(raw / "merged.json"), raw / "faulty.csv"),
            lambda: _read_rows(raw / "val.json"),
        )
        check_order(rows, raw / "merged.json")
        if len(items) != ITEMS:
            raise DataError(f"{raw / 'val.json'}: {len(items)} rows; CountBench has {ITEMS}")
        pictures, shown = Defects().gathered(*(partial(find_folder, raw, (name,), self) for name in ("merged", "VAL")))
        numbers = [int(row["counts"]) for row in rows[GROUP - 1 :: GROUP]]
        held_out, of_eights = held_out_groups(numbers), one_in_32(numbers)
        yield from (_pair(index, row, pictures, held_out, of_eights) for index, row in enumerate(rows))
        for index, row in enumerate(items):
            picture = usable(shown / Path(row["pths"]).name)
            yield item(index, row["counts"], row["caps"], picture, raw / "val.json")


def _read_rows(path: Path) -> Sequence[Row]:
    defects = Defects()
    rows = [row.model_dump() for _, row in json_lines(path, "countclip_zenodo", _ROW, defects)]
    defects.raise_if_any()
    return rows


def with_replacements(rows: Sequence[Row], faulty: Path) -> list[Row]:
    """Return ``rows`` with those that ``faulty.csv`` names (``index`` from 0, ``json_str``) replaced."""
    result, defects = list(rows), Defects()
    replacements = list(csv_rows(faulty, "countclip_zenodo", ("index", "json_str")))
    if len(replacements) != REPLACED:
        raise DataError(f"{faulty}: {len(replacements)} rows instead of {REPLACED}")
    for place, line in replacements:
        where = f"{place}, index {line['index']}"
        with defects.collected(where):
            index, row = int(line["index"]), parsed(line["json_str"], where, _ROW).model_dump()
            if not 0 <= index < len(result) or result[index]["counts"] != -1 or row["counts"] != -1:
                raise DataError(f"{where}: it must replace a pair without a number by one")
            result[index] = row
    defects.raise_if_any()
    return result


def check_order(rows: Sequence[Row], where: Path) -> None:
    """Raise unless there are four pairs without a number (-1) before each counting one, as many as the paper has.

    How many pairs each number has is inferred, so that another distribution is only told.
    """
    expected = [False, False, False, False, True] * (len(rows) // GROUP)
    if len(rows) != PAIRS or [row["counts"] in NUMBERS.values() for row in rows] != expected:
        raise DataError(f"{where}: expected {PAIRS:,} rows, four with counts -1 and then one with 2 to 10, throughout")
    found = Counter(int(row["counts"]) for row in rows if row["counts"] != -1)
    if found != CLASS_COUNTS:
        what = "%s: counting pairs per number are %s, and not %s as inferred from the paper; lambda is of those found"
        log.warning(what, where, dict(sorted(found.items())), CLASS_COUNTS)


def held_out_groups(numbers: Sequence[int]) -> set[int]:
    """Return which groups are held out: those of every tenth counting pair of each number, in their order."""
    groups = ([group for group, other in enumerate(numbers) if other == number] for number in set(numbers))
    return {group for own in groups for group in own[HELD_OUT_EVERY - 1 :: HELD_OUT_EVERY]}


def one_in_32(numbers: Sequence[int]) -> set[int]:
    """Return the pairs, by their place among all, of which one in 32 counts: see the module's docstring."""
    times, kept = Counter(numbers), set()
    for start in range(0, len(numbers) - EIGHT + 1, EIGHT):
        rarest = min(range(start, start + EIGHT), key=lambda group: times[numbers[group]])
        plain = {GROUP * group + place for group in range(start, start + EIGHT) for place in range(GROUP - 1)}
        kept |= plain - {GROUP * start} | {GROUP * rarest + GROUP - 1}
    return kept


def _pair(index: int, row: Row, pictures: Path, held_out: set[int], of_eights: set[int]) -> RawSample:
    group, place = divmod(index, GROUP)
    counting = place == GROUP - 1
    lists = [TRAIN_MOST] if group not in held_out else [HELD_OUT] if counting else []
    lists += [ONE_IN_32] if index in of_eights else []
    attributes = {"counting": counting, LISTS: lists} | ({} if counting else {HIDDEN: True})
    picture, count = pictures / Path(row["pths"]).name, row["counts"] if counting else np.nan
    return RawSample(f"pair{index:05d}", TRAIN, picture, NO_POINTS, count, row["caps"], attributes=attributes)


DATASET = CountClipZenodo()
