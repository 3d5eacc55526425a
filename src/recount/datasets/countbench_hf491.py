"""CountBench as ``nielsr/countbench`` on the Hugging Face Hub has it: edition "hf491".

One parquet file with 540 rows (``image_url``, ``text``, ``number``, ``image`` as bytes); 491 have a picture, one of
them grey (counted by google-research/big_vision@0127fb6 countbenchqa.py). Paiss et al., ICCV 2023.
"""

import logging
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

from PIL import Image

from recount.data.dataset import DataError
from recount.data.health import Defects
from recount.data.pictures import decoded
from recount.data.sample import RawSample
from recount.datasets.formats.captions import MISSING, TEST, item
from recount.datasets.formats.files import Described, fetched

log = logging.getLogger(__name__)

_FILE = "data/train-00000-of-00001-cf54c241ba947306.parquet"


class CountBenchHf491(Described):
    """540 captions from two to ten, 491 of them with a picture."""

    name = "countbench_hf491"
    gives = frozenset({"prompts"})
    splits = (TEST, MISSING)

    def read(self, raw: Path) -> Iterator[RawSample]:
        """Yield the rows in their order, those without a usable picture in split ``missing``."""
        import pyarrow.parquet

        path, defects = fetched(raw / _FILE, self.name), Defects()
        with defects.collected(f"{path}: not a readable parquet file"):
            rows = pyarrow.parquet.read_table(path, columns=["text", "number", "image"]).to_pylist()
        defects.raise_if_any()
        for index, row in enumerate(rows):
            with defects.collected(where := f"{path}, item {index}"):
                yield item(index, row["number"], row["text"], _usable(row["image"], where), path)
        defects.raise_if_any()


def _usable(picture: dict[str, bytes] | None, where: str) -> Callable[[], Image.Image] | None:
    content = (picture or {}).get("bytes")
    if not content:
        return None
    decode = partial(decoded, content, where)
    try:
        decode()
    except DataError as error:
        log.warning("%s; the item has no picture", error)
        return None
    return decode


DATASET = CountBenchHf491()
