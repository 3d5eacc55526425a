"""Points against points: the most pairs, as an independent search finds them, and sums over images before dividing."""

import json
import math
import time
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from recount.documents import as_json
from recount.errors import UserError
from recount.exchange.user_files import read_table
from recount.exchange.user_predictions import score_files
from recount.scoring import matching
from recount.scoring.matching import localisation, matched, of_boxes

# Image 3113 of NWPU-Crowd's val_gt_loc.txt, the first five of its 35 heads: x, y, sigma_s, sigma_l, level.
NWPU = "3113 5 135 2333 149 219 4 81 2108 60 125 4 320 2111 143 216 4 1181 2105 59 102 4 3522 2298 153 216 4\n"
coordinates = st.tuples(st.integers(0, 6), st.integers(0, 6))
points = st.lists(coordinates, max_size=9).map(lambda pairs: np.array(pairs, float).reshape(-1, 2))


def most_pairs(true: np.ndarray, predicted: np.ndarray, radii: np.ndarray) -> int:
    """Find the most pairs by augmenting paths over the full matrix of distances (Kuhn's algorithm)."""
    near = np.hypot(*np.moveaxis(true[:, None] - predicted[None], -1, 0)) <= radii[:, None]
    taken: dict[int, int] = {}

    def augment(row: int, seen: set[int]) -> bool:
        for column in set(np.flatnonzero(near[row]).tolist()) - seen:
            seen.add(column)
            if column not in taken or augment(taken[column], seen):
                taken[column] = row
                return True
        return False

    return sum(augment(row, set()) for row in range(len(true)))


@given(points, points, st.lists(st.floats(0.5, 9), min_size=9, max_size=9))
def test_as_many_pairs_as_can_be(true: np.ndarray, predicted: np.ndarray, radii: list[float]) -> None:
    each = np.array(radii[: len(true)])
    assert matched(true, predicted, each) == most_pairs(true, predicted, each)
    assert matched(true, predicted, 2.0) == most_pairs(true, predicted, np.full(len(true), 2.0))


def test_the_nearest_partner_is_given_up_for_another_pair() -> None:
    true, predicted = np.array([[0.0, 0], [3, 0]]), np.array([[2.0, 0], [6, 0]])
    assert matched(true, predicted, 3.0) == 2
    assert matched(true, predicted, 2.9) == 1


def test_a_threshold_is_reached_on_it() -> None:
    assert matched(np.array([[0.0, 0]]), np.array([[0.0, 8]]), 8.0) == 1
    assert matched(np.array([[0.0, 0]]), np.array([[0.0, 8]]), 7.999) == 0


def test_twenty_thousand_points_are_matched_in_seconds() -> None:
    rng, grid = np.random.default_rng(0), np.stack(np.meshgrid(*[np.arange(63) * 10.0] * 2), axis=-1).reshape(-1, 2)
    crowd = rng.uniform(0, 3000, (20_000, 2))
    start = time.process_time()
    assert matched(crowd, crowd + rng.normal(0, 2, crowd.shape), 8.0) > 19_900
    assert matched(grid, grid[::-1] + 3, 40.0) == len(grid)  # an order in which other searches take minutes
    assert time.process_time() - start < 20


def test_a_threshold_that_takes_all_needs_no_search_and_one_that_takes_too_many_is_refused(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    rng = np.random.default_rng(0)
    true, predicted = rng.uniform(0, 100, (300, 2)), rng.uniform(0, 100, (200, 2))
    monkeypatch.setattr(matching, "MOST_PAIRS", 100)
    assert matched(true, predicted, 1000.0) == matched(predicted, true, 1000.0) == 200
    with pytest.raises(UserError, match="pairs of points lie within the threshold on one image"):
        matched(true, predicted, 30.0)


def test_pairs_are_summed_over_images_before_dividing() -> None:
    one, none = np.zeros((1, 2)), np.zeros((0, 2))
    three = np.array([[0.0, 0], [50, 0], [90, 0]])
    found = localisation([one, three, none, one], [one, one, one, none], [4.0] * 4, "4 px")
    assert (found.found, found.false, found.missed) == (2, 1, 3)
    assert (found.precision.value, found.recall.value) == (pytest.approx(2 / 3), pytest.approx(2 / 5))
    assert found.f1.value == pytest.approx(2 * 2 / (3 + 5))
    nothing = localisation([none], [none], [4.0], "4 px")
    assert np.isnan([nothing.precision.value, nothing.recall.value, nothing.f1.value]).all()


def test_intervals_are_over_images() -> None:
    rng = np.random.default_rng(0)
    true = [rng.uniform(0, 500, (rng.integers(5, 60), 2)) for _ in range(80)]
    predicted = [points + rng.normal(0, 5, points.shape) for points in true]
    recall = localisation(true, predicted, [6.0] * 80, "6 px").recall
    assert recall.low < recall.value < recall.high < recall.low + 0.1


def test_thresholds_of_boxes_are_those_of_nwpu() -> None:
    np.testing.assert_allclose(of_boxes(np.array([[10.0, 20, 40, 60], [5, 5, 1, 8]])), [[15, 25], [1.5, 2.5]])


def test_nwpus_files_are_scored_as_its_evaluation_does(tmp_path: Path) -> None:
    (tmp_path / "gt.txt").write_text(NWPU + "7 0\n8 1 10 10 2 3 0\n")
    # within both of the 1st, between sigma_s and sigma_l of the 2nd, near nothing; an empty image; outside and inside
    (tmp_path / "p.txt").write_text("3113 3 200 2333 81 2200 2000 100\n7 1 3 3\n8 2 14 10 10 12\n")
    scores = score_files([tmp_path / "p.txt"], tmp_path / "gt.txt")
    small, large = scores.systems[0].localisation[2:]
    assert small.threshold.startswith("sigma_s") and (small.found, small.false, small.missed) == (2, 4, 4)
    assert large.threshold.startswith("sigma_l") and (large.found, large.false, large.missed) == (3, 3, 3)
    assert [entry.threshold for entry in scores.systems[0].localisation[:2]] == ["4 px", "8 px"]
    assert "points within 4 px: precision 0.1667" in scores.text()
    assert json.loads(as_json(scores.document()))["systems"][0]["localisation"][3]["f1"]["value"] == pytest.approx(0.5)


def evaluated(truth: str, predictions: str, sigma: int) -> list[float]:
    """Return precision, recall and F1 as NWPU's and FIDTM's evaluations define them: sums over images, then shares.

    ``sigma``: 0 for sigma_s, 1 for sigma_l, which stand behind x and y of each true point.
    """
    rows = [[np.array(line.split(), float) for line in text.splitlines()] for text in (truth, predictions)]
    heads, dots = ({row[0]: row[2:].reshape(-1, each) for row in side} for side, each in zip(rows, (5, 2), strict=True))
    hits = sum(most_pairs(of[:, :2], dots[image], of[:, 2 + sigma]) for image, of in heads.items())
    precision, recall = (hits / sum(map(len, side.values())) for side in (dots, heads))
    return [precision, recall, 2 * precision * recall / (precision + recall)]


@pytest.mark.parametrize(("fixed", "end"), [(True, " \n"), (False, "\n")])  # as FIDTM and NWPU write their lines
def test_files_of_both_evaluations_give_what_their_definitions_give(fixed: bool, end: str, tmp_path: Path) -> None:
    rng = np.random.default_rng(int(fixed))
    truth = predictions = ""
    for image in rng.permutation(np.arange(3098, 3128)):
        true = rng.integers(0, 300, (rng.integers(0, 60), 2))
        found = np.concatenate(
            [true[rng.random(len(true)) < 0.8] + rng.integers(-9, 10, 2), rng.integers(0, 300, (9, 2))]
        )
        found = found[: 0 if image % 7 == 0 else None]
        sigmas = np.where(fixed, [[4, 8]], np.sort(rng.integers(1, 30, (len(true), 2))))
        rows = np.concatenate([true, np.broadcast_to(sigmas, (len(true), 2)), np.ones((len(true), 1), int)], axis=1)
        truth += " ".join(map(str, [image, len(true), *rows.astype(int).flat])) + end
        predictions += " ".join(map(str, [image, len(found), *found.flat])) + end
    (tmp_path / "gt.txt").write_text(truth)
    (tmp_path / "p.txt").write_text(predictions)
    scored = score_files([tmp_path / "p.txt"], tmp_path / "gt.txt").systems[0].localisation
    for place in (0, 1):
        want = evaluated(truth, predictions, place)
        by_point = scored[2 + place]
        assert [by_point.precision.value, by_point.recall.value, by_point.f1.value] == pytest.approx(want, rel=1e-12)
        if fixed:
            assert (scored[place].found, scored[place].missed) == (by_point.found, by_point.missed)


@pytest.mark.parametrize(
    "text", ["3113 0\n8 0\n", "3113 0 \r\n8 0 \r\n", "image,count\n3113,0\n8,0\n", '{"3113": 0, "8": []}']
)
def test_a_file_of_nothing_but_zeros_is_one_of_points(text: str, tmp_path: Path) -> None:
    (tmp_path / "gt.txt").write_text(NWPU + "8 1 10 10 2 3 0\n")
    (tmp_path / "zeros").write_text(text, newline="")
    (tmp_path / "some").write_text("3113 1\n8 0\n")
    scores = score_files([tmp_path / "zeros"], tmp_path / "gt.txt", sigmas=[4])
    heads = read_table(tmp_path / "gt.txt", "truth").entries
    assert [entry.missed for entry in scores.systems[0].localisation] == [int(sum(e.count for e in heads))] * 3
    assert "nothing but zeros: no image has points" in scores.text()
    turned = score_files([tmp_path / "gt.txt"], tmp_path / "zeros").systems[0].localisation
    assert all(entry.precision.value == 0 and math.isnan(entry.recall.value) for entry in turned)
    assert score_files([tmp_path / "some"], tmp_path / "gt.txt").systems[0].localisation == []


def test_thresholds_can_be_chosen_and_need_points(tmp_path: Path) -> None:
    (tmp_path / "gt.txt").write_text(NWPU)
    (tmp_path / "p.json").write_text('{"3113": [[140, 2333]]}')
    (tmp_path / "c.csv").write_text("image,count\n3113,4\n")
    scores = score_files([tmp_path / "p.json"], tmp_path / "gt.txt", sigmas=[4.9, 5])
    assert [entry.found for entry in scores.systems[0].localisation] == [0, 1, 1, 1]
    assert score_files([tmp_path / "c.csv"], tmp_path / "gt.txt").systems[0].localisation == []
    with pytest.raises(UserError, match=r"c\.csv: --sigma is for points, and column count has counts"):
        score_files([tmp_path / "c.csv"], tmp_path / "gt.txt", sigmas=[4])
    with pytest.raises(UserError, match="--sigma -1: expected pixels, more than 0"):
        score_files([tmp_path / "p.json"], tmp_path / "gt.txt", sigmas=[-1])
