"""How many prompts CLIP-Count's text defect touches, computed from the class names of the real benchmarks.

CLIP-Count (songrise/CLIP-Count@ba57fd0) inserts two learned vectors after the start token, but reads the text out where
the end token stood before. With CLIP's causal attention a name of n tokens is therefore read after its first n - 1: a
name of one token is not read at all, so that all of them have one and the same embedding, and a longer name loses its
last token. Only annotation files are needed. Checked against golden case ``one_token_names`` of ``clip_count.json``.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import astuple, dataclass, fields
from functools import cache
from pathlib import Path
from typing import Any

from recount import datasets
from recount.data.dataset import DataError
from recount.data.sample import RawSample
from recount.results.files import write_rows

BENCHMARKS = (("fsc147", "train"), ("fsc147", "val"), ("fsc147", "test"), ("fsc147s", "v1"), ("fsc147s", "v2"))


@dataclass(frozen=True, slots=True)
class Unread:
    """What the defect does to the prompts of one benchmark.

    Attributes:
        dataset, split: the benchmark.
        prompts: samples, each with its prompt.
        unread: samples whose prompt is one token, so that nothing of it is read.
        names: different prompts.
        unread_names: of them, those of one token.
        told_apart: how many different prompts are left of ``names`` when each loses its last token.
    """

    dataset: str
    split: str
    prompts: int
    unread: int
    names: int
    unread_names: int
    told_apart: int


COLUMNS = tuple(field.name for field in fields(Unread))


@cache
def _tokenizer() -> Any:
    from open_clip.tokenizer import SimpleTokenizer

    return SimpleTokenizer()


def tokens(prompt: str) -> tuple[int, ...]:
    """Return the ids of a prompt's CLIP tokens, without start and end."""
    return tuple(_tokenizer().encode(prompt))


def unread_of(dataset: str, split: str, samples: Sequence[RawSample]) -> Unread:
    """Return what the defect does to the prompts of these samples."""
    names = {sample.prompt: tokens(sample.prompt) for sample in samples}
    return Unread(
        dataset=dataset,
        split=split,
        prompts=len(samples),
        unread=sum(len(names[sample.prompt]) == 1 for sample in samples),
        names=len(names),
        unread_names=sum(len(ids) == 1 for ids in names.values()),
        told_apart=len({ids[:-1] for ids in names.values()}),
    )


def unread_rows(raw: Path) -> list[Unread]:
    """Return a row for each benchmark.

    Args:
        raw: the folder of fetched data sets, with ``fsc147`` and ``fsc147s`` in it.

    Raises:
        DataError: an annotation file is missing.
    """
    read = {name: list(datasets.load(name).read(raw / name)) for name in dict.fromkeys(name for name, _ in BENCHMARKS)}
    rows = []
    for name, split in BENCHMARKS:
        samples = [sample for sample in read[name] if sample.split == split]
        if not samples:
            raise DataError(f"{raw / name}: no sample is in split {split}")
        rows.append(unread_of(name, split, samples))
    return rows


def write_unread_rows(rows: Iterable[Unread], path: Path) -> None:
    """Write ``unread_rows`` as a CSV file."""
    write_rows(path, COLUMNS, [[str(value) for value in astuple(row)] for row in rows])
