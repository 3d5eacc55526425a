"""What the annotation itself scores: points in pixels, and blocks in bins."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from recount.data.sample import Sample
from recount.nn.bins import block_counts, published_bins
from recount.scoring.trivial import block_bins_counts, dot_map_counts
from small_project import cells_of, make_project, predict, write_index_rows

FINE: dict[str, Any] = {
    **{"bins_of": "qnrf", "block": 8, "truncation": 4, "granularity": "fine"},
    **{"anchors": "average", "last_anchor": None, "coincident_points": "set"},
}


def sample(points: list[tuple[float, float]], width: int = 16, height: int = 16) -> Sample:
    return Sample("s", "test", None, np.array(points, np.float32).reshape(-1, 2), len(points), "", width, height)


def test_points_of_one_pixel_count_once() -> None:
    assert dot_map_counts([sample([(1.1, 1.1), (1.9, 1.9), (2.0, 1.0)])]).tolist() == [2]


def test_points_outside_move_to_the_border() -> None:
    assert dot_map_counts([sample([(-3.0, 4.0), (99.0, 4.0), (15.2, 4.0)])]).tolist() == [2]


def test_sparse_blocks_lose_nothing_and_full_ones_get_the_last_anchor() -> None:
    sparse, full = sample([(1, 1), (9, 9), (10, 9)]), sample([(x, y) for x in range(3) for y in range(3)])
    assert block_bins_counts([sparse, full], FINE).tolist() == [3, pytest.approx(4.21937)]
    assert block_bins_counts([full], FINE | {"last_anchor": 4.32696}).tolist() == [pytest.approx(4.32696)]


def test_variants_that_add_coincident_points_keep_them() -> None:
    twice = sample([(1, 1), (1, 1)])
    assert block_bins_counts([twice], FINE).tolist() == [1]
    assert block_bins_counts([twice], FINE | {"coincident_points": "add"}).tolist() == [2]


def test_picture_without_points_is_zero_in_both_forms() -> None:
    assert dot_map_counts([sample([])]).tolist() == block_bins_counts([sample([])], FINE).tolist() == [0]


def test_bins_are_those_of_the_training_targets() -> None:
    points = np.random.default_rng(0).uniform(0, 32, (400, 2)).astype(np.float32)
    blocks = block_counts(torch.from_numpy(points), 32, 32, 8)
    bins = published_bins("qnrf", 8, 4)
    expected = torch.tensor(bins.anchors)[bins.classes(blocks)].sum()
    crowded = sample([(float(x), float(y)) for x, y in points], 32, 32)
    assert block_bins_counts([crowded], FINE).tolist() == [pytest.approx(float(expected), rel=1e-5)]
    assert dot_map_counts([crowded]).tolist() == [float(blocks.sum())]


def test_oracle_stands_in_the_scores_beside_the_constants(tmp_path: Path) -> None:
    project = make_project(tmp_path)
    rows: list[list[Any]] = []
    for k, points in enumerate(([[1.0, 1.0], [1.5, 1.5]], [[3.0, 3.0]])):
        path = tmp_path / "resources/data/dots/original" / f"points_{k}.npy"
        np.save(path, np.array(points, np.float32))
        rows.append([f"s{k}", "test", "", "", len(points), 8, 8, path.name, "", "{}"])
    write_index_rows(tmp_path, rows)
    predict(project, "good/full/seed0", {"last": [0.0, 0.0]}, samples=[2.0, 1.0])
    (row,) = cells_of(project, table="table1", metric="mae", row="oracle/dot_map")
    assert (float(row["value"]), row["status"], row["n"]) == (0.5, "oracle", "2")
    assert "1 of 2 pictures" in row["reason"]


def test_oracle_of_a_set_of_counts_says_that_there_are_no_points(tmp_path: Path) -> None:
    project = make_project(tmp_path)
    (row,) = cells_of(project, table="table1", metric="mae", row="oracle/dot_map")
    assert row["status"] == "missing"
    assert "only counts are known" in row["reason"]
