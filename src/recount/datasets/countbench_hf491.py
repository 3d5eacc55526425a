"""CountBench as ``nielsr/countbench`` on the Hugging Face Hub has it: edition "hf491".

One parquet file with 540 rows (``image_url``, ``text``, ``number``, ``image`` as bytes); 491 have a picture, one of
them grey (counted by google-research/big_vision@0127fb6 countbenchqa.py). Paiss et al., ICCV 2023.
"""

from collections.abc import Iterator
from functools import partial
from pathlib import Path

from PIL import UnidentifiedImageError

from recount.data.pictures import decoded
from recount.data.sample import RawSample
from recount.datasets.formats.captions import MISSING, TEST, item
from recount.datasets.formats.files import Described, fetched

_FILE = "data/train-00000-of-00001-cf54c241ba947306.parquet"


class CountBenchHf491(Described):
    """540 captions from two to ten, 491 of them with a picture."""

    name = "countbench_hf491"
    splits = (TEST, MISSING)

    def read(self, raw: Path) -> Iterator[RawSample]:
        """Yield the rows in their order, those without a usable picture in split ``missing``."""
        import pyarrow.parquet

        table = pyarrow.parquet.read_table(fetched(raw / _FILE, self.name), columns=["text", "number", "image"])
        for index, row in enumerate(table.to_pylist()):
            picture = partial(decoded, (row["image"] or {}).get("bytes") or b"")
            try:
                picture()
            except (UnidentifiedImageError, OSError, SyntaxError, ValueError):
                yield item(index, int(row["number"]), row["text"], None)
            else:
                yield item(index, int(row["number"]), row["text"], picture)


DATASET = CountBenchHf491()
