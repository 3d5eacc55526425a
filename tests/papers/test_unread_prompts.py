"""CLIP-Count's unread prompts, against the golden counts and on names whose answer is plain."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import pytest

from golden_tools import golden, shared
from recount.data.dataset import DataError
from recount.data.sample import RawSample
from recount.papers.unread_prompts import unread_of, unread_rows, write_unread_rows

COMMITTED = Path(__file__).parents[2] / "papers/t2icount/evidence/clip_count_unread_prompts.csv"


def named(*prompts: str) -> list[RawSample]:
    nowhere = np.zeros((0, 2), np.float32)
    return [RawSample(f"s{k}", "test", None, nowhere, 1, prompt) for k, prompt in enumerate(prompts)]


def test_counts_are_the_golden_ones() -> None:
    rows = {(row.dataset, row.split): row for row in unread_rows(shared("mirror"))}
    want = golden("clip_count")["cases"]["one_token_names"]["outputs"]
    for split in ("train", "val", "test"):
        row, expected = rows["fsc147", split], want[split]
        assert (row.prompts, row.unread) == (expected["images"], expected["images_one_token"])
        assert (row.names, row.unread_names) == (expected["classes"], expected["classes_one_token"])


def test_committed_evidence_is_what_the_annotation_says(tmp_path: Path) -> None:
    write_unread_rows(unread_rows(shared("mirror")), tmp_path / "rows.csv")
    assert (tmp_path / "rows.csv").read_text() == COMMITTED.read_text()


def test_names_of_one_token_are_unread_and_all_alike() -> None:
    row = unread_of("x", "test", named("apples", "apples", "eggs"))
    assert (row.prompts, row.unread, row.names, row.unread_names, row.told_apart) == (3, 3, 2, 2, 1)


def test_a_longer_name_loses_its_last_token() -> None:
    row = unread_of("x", "test", named("green peas", "green apples", "red apples"))
    assert (row.unread, row.told_apart) == (0, 2)  # "green" twice, "red"


def test_missing_annotation_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(DataError):
        unread_rows(tmp_path)


def test_evidence_has_a_row_per_benchmark() -> None:
    with COMMITTED.open(newline="") as stream:
        rows = list(csv.DictReader(stream))
    assert [(row["dataset"], row["split"]) for row in rows][-2:] == [("fsc147s", "v1"), ("fsc147s", "v2")]
    assert all(int(row["unread"]) <= int(row["prompts"]) for row in rows)
