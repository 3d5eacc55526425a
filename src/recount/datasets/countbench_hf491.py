"""CountBench as ``nielsr/countbench`` on the Hugging Face Hub has it: edition "hf491".

One parquet file with 540 rows (``image_url``, ``text``, ``number``, ``image`` as bytes); 491 have a picture, one of
them grey (counted by google-research/big_vision@0127fb6 countbenchqa.py). Paiss et al., ICCV 2023.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from pathlib import Path

from PIL import UnidentifiedImageError

from recount.data.dataset import Dataset, RemoteFile
from recount.data.pictures import decoded
from recount.data.sample import RawSample
from recount.datasets.formats.captions import CITATION, ITEMS, LICENCE, MISSING, TEST, item
from recount.datasets.formats.files import fetched

_FILE = "data/train-00000-of-00001-cf54c241ba947306.parquet"
_COLUMNS = ["text", "number", "image"]


class CountBenchHf491(Dataset):
    """540 captions from two to ten, 491 of them with a picture."""

    name = "countbench_hf491"
    title = "CountBench, pictures of nielsr/countbench (edition hf491)"
    homepage = "https://huggingface.co/datasets/nielsr/countbench"
    licence = LICENCE
    citation = CITATION
    by_hand = f"Download {_FILE} (23.4 MB) from https://huggingface.co/datasets/nielsr/countbench"
    splits = (TEST, MISSING)
    totals = {TEST: {"samples": 491}, "all": {"samples": ITEMS, "count": 3240}}  # noqa: RUF012 - ClassVar in the base

    def files(self) -> list[RemoteFile]:
        """Return the parquet file; its digest is recorded at the first download."""
        return [RemoteFile(_FILE, urls=(f"hf:datasets/nielsr/countbench@main/{_FILE}",))]

    def read(self, raw: Path) -> Iterator[RawSample]:
        """Yield the rows in their order, those without a usable picture in split ``missing``."""
        import pyarrow.parquet

        table = pyarrow.parquet.read_table(fetched(raw / _FILE, self.name), columns=_COLUMNS)
        for index, row in enumerate(table.to_pylist()):
            content = (row["image"] or {}).get("bytes")
            picture = partial(decoded, content) if content and _decodes(content) else None
            yield item(index, int(row["number"]), row["text"], picture)


def _decodes(content: bytes) -> bool:
    try:
        decoded(content)
    except (UnidentifiedImageError, OSError, SyntaxError, ValueError):
        return False
    return True


DATASET = CountBenchHf491()
