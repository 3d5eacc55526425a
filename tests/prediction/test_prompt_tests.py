"""Tests of whether a system reads its prompt, against PrACo's numbers and with systems whose answer is known."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from golden_tools import golden, golden_case
from recount.data.sample import Sample
from recount.errors import UserError
from recount.prediction.prompt_tests import (
    CLASS_ORDER,
    SEVERAL_CLASSES,
    _classes_of,
    changed_share,
    collage,
    drawn_partners,
    localised_counts,
    majority_and_minority,
    mean_score,
    mosaic_scores,
    mosaics,
    negative_prompts,
    negative_scores,
    pairs,
    spread,
    usable,
)
from recount.prediction.samples import Asking
from recount.settings.base import Strict
from recount.systems.base import Prediction
from small_systems import OnlyPredicts

COLOURS = {"reds": 0, "greens": 1, "blues": 2}
EDGE = 32


class Colourful(OnlyPredicts):
    """Counts pixels of the colour that it is asked for; or, if it is blind, of any colour."""

    text_guided = True

    def __init__(self, *, blind: bool) -> None:
        super().__init__(Strict())
        self.blind = blind

    def predict(self, images: Tensor, prompts: Sequence[str]) -> Prediction:
        lit = (images > 0.5).float()
        if self.blind:
            return Prediction(density=lit.sum(dim=1, keepdim=True))
        chosen = [image[COLOURS[prompt]] for image, prompt in zip(lit, prompts, strict=True)]
        return Prediction(density=torch.stack(chosen)[:, None])


def scene(name: str, number: int, place: int) -> tuple[Sample, Tensor]:
    picture = torch.zeros(3, EDGE, EDGE, dtype=torch.uint8)
    columns = np.arange(number) * 6 + 1
    picture[COLOURS[name], place : place + 2, :] = 0
    for column in columns:
        picture[COLOURS[name], place : place + 4, column : column + 2] = 255
    # one object is 8 pixels here and 4 on a collage, so the truth is given in pixels of the whole picture
    points = np.array([(column + 1, place + 2) for column in columns], np.float32)
    return Sample(f"{name}{place}", "test", Path(f"{name}{place}"), points, 8 * number, name, EDGE, EDGE), picture


def benchmark() -> tuple[list[Sample], Any]:
    scenes = [scene("reds", 3, 4), scene("greens", 2, 12), scene("blues", 4, 20), scene("reds", 1, 8)]
    pictures = {sample.image: picture for sample, picture in scenes}
    return [sample for sample, _ in scenes], lambda sample: pictures[sample.image]


golden_table = partial(golden_case, "praco")


def places(inputs: dict[str, Any]) -> np.ndarray:
    return np.array([inputs["classes"].index(name) for name in inputs["class_of_image"]])


# ------------------------------------------------------------------------------------------------------------ golden


@pytest.mark.parametrize("name", ["metrics_a", "metrics_near_blind"])
def test_negative_scores_are_pracos(name: str) -> None:
    inputs, want = golden_table(name)
    predicted = np.array(inputs["negative_test_predictions (rows images, columns classes)"])
    scores = negative_scores(np.array(inputs["ground_truth"], float), places(inputs), predicted)
    measured = [scores[key] for key in ("np", "nmn", "mae", "rmse")]
    assert measured == pytest.approx([want[key] for key in ("AvgNP", "AvgNMN", "MAE", "RMSE")], abs=1e-6)
    assert scores["pccn"] == pytest.approx(want["PCCN"], abs=5e-3)


@pytest.mark.parametrize("name", ["metrics_a", "metrics_near_blind"])
def test_mosaic_scores_are_pracos(name: str) -> None:
    inputs, want = golden_table(name)
    upper, lower = np.array(inputs["mosaic_upper"]), np.array(inputs["mosaic_lower"])
    per_picture = mosaic_scores(np.array(inputs["ground_truth"], float), places(inputs), upper, lower)
    scores = mean_score(per_picture)
    means = (scores.recall, scores.precision, scores.f)
    assert means == pytest.approx([want[f"AvgCnt{key}"] for key in ("Recall", "Precision", "Fscore")], abs=1e-6)
    for column, key in enumerate(("Recall", "Precision", "F-score")):
        np.testing.assert_allclose(per_picture[:, column], want["per_image"][key], atol=1e-9)


def test_collage_is_pracos() -> None:
    for want in golden("praco")["cases"]["collage"]["outputs"]:
        pictures = [golden_picture(want[f"{name} (W,H)"], number) for number, name in enumerate(("first", "second"))]
        made = collage(*pictures)
        assert [made.shape[2], made.shape[1]] == want["collage (W,H)"]
        half = made.shape[1] // 2
        means = [made[:, :half].double().mean().item(), made[:, half:].double().mean().item()]
        assert means == pytest.approx([want["mean_upper"], want["mean_lower"]], abs=0.5)


def golden_picture(size: list[int], number: int) -> Tensor:
    width, height = size
    channel, y, x = np.mgrid[0:3, 0:height, 0:width]
    return torch.from_numpy((((x // 7) * 11 + (y // 5) * 13 + channel * 60 + 40 * number) % 256).astype(np.uint8))


# ------------------------------------------------------------------------------------------------- what the tests say


def asking(blind: bool) -> Asking:
    return Asking(Colourful(blind=blind), benchmark()[1])


def test_a_system_that_reads_its_prompt_passes() -> None:
    samples, _ = benchmark()
    scores = negative_prompts(asking(blind=False), samples)
    assert (scores.prompt_swap, scores.nmn, scores.pccn) == (1.0, 0.0, 100.0)
    assert scores.np == pytest.approx(1.0)
    assert mosaics(asking(blind=False), samples)["count"].precision == pytest.approx(1.0)


def test_a_system_that_ignores_its_prompt_is_found_out() -> None:
    samples, _ = benchmark()
    scores = negative_prompts(asking(blind=True), samples)
    assert (scores.prompt_swap, scores.pccn) == (0.0, 0.0)
    assert scores.nmn == pytest.approx(scores.np)
    assert mosaics(asking(blind=True), samples)["count"].precision < 0.8


def test_each_picture_stands_beside_the_scores() -> None:
    scores = negative_prompts(asking(blind=True), benchmark()[0])
    first = scores.pictures[0]
    assert first.model_dump() == {"id": "reds4", "prompt": "reds", "true": 24.0, "right": 24.0, "wrong": 24.0}
    shares = [row.wrong / row.true for row in scores.pictures]
    assert np.mean(shares) == pytest.approx(scores.nmn)


def also_blue() -> list[Sample]:
    return [replace(sample, attributes={"counts": {"blues": 2}}) for sample in benchmark()[0]]


def test_classes_that_a_picture_also_shows_are_left_out() -> None:
    asked: list[str] = []

    class Recording(Colourful):
        def predict(self, images: Tensor, prompts: Sequence[str]) -> Prediction:
            asked.extend(prompts)
            return super().predict(images, prompts)

    negative_prompts(Asking(Recording(blind=False), benchmark()[1]), also_blue())
    assert asked.count("blues") == 1  # only the picture of blues itself is asked for them


def test_pictures_that_show_every_class_or_nothing_are_not_used() -> None:
    both = also_blue()
    reds_and_blues = [sample for sample in both if sample.prompt in ("reds", "blues")]
    assert [sample.prompt for sample in usable(reds_and_blues)] == ["blues"]
    empty = Sample("empty", "test", None, np.zeros((0, 2), np.float32), 0.0, "greens", EDGE, EDGE)
    samples, _ = benchmark()
    assert [sample.id for sample in usable([*samples, empty])] == [sample.id for sample in samples]


def test_pictures_are_spread_over_the_benchmark() -> None:
    samples, _ = benchmark()
    assert [sample.id for sample in spread(samples, 2)] == [samples[0].id, samples[-1].id]
    assert len(spread(samples, None)) == len(spread(samples, 9)) == len(samples)


def test_partners_are_of_the_class_and_the_same_each_time() -> None:
    samples, _ = benchmark()
    classes = ["blues", "greens", "reds"]
    drawn = drawn_partners(samples, classes)
    assert drawn == drawn_partners(samples, classes)
    for sample, row in zip(samples, drawn, strict=True):
        for name, other in zip(classes, row, strict=True):
            assert (other is None) == (name == sample.prompt)
            assert other is None or samples[other].prompt == name


def asked_for(names: Sequence[str]) -> list[Sample]:
    some = benchmark()[0][0]
    return [replace(some, id=f"{index}", prompt=name) for index, name in enumerate(names)]


def test_classes_come_in_the_order_of_praco_s_file_by_which_partners_are_drawn() -> None:
    # FSC-147's test split begins so in Split_Classes_FSC147.json; another order gives other pairs from the same seed
    assert _classes_of(asked_for(["stamps", "sea shells", "legos", "hot air balloons"])) == [
        *("sea shells", "hot air balloons", "stamps", "legos"),
    ]
    assert _classes_of(asked_for(["reds", "blues", "legos"])) == ["legos", "blues", "reds"]
    assert len(CLASS_ORDER) == 147
    assert len(SEVERAL_CLASSES) == 38


def test_listed_pictures_are_not_scored_but_still_drawn() -> None:
    samples, load = benchmark()
    asking = Asking(Colourful(blind=True), load)
    one = samples[0].id
    assert [row.id for row in negative_prompts(asking, samples, {one}).pictures] == [s.id for s in samples[1:]]
    rows = mosaics(asking, samples, {s.id for s in samples[1:]})["count"], mosaics(asking, samples)["count"]
    assert rows[0] != rows[1]


def test_localised_counts_punish_the_right_count_at_the_wrong_place() -> None:
    density = torch.zeros(1, 16, 8)
    density[0, 1, 1] = 2.0
    there, elsewhere = np.array([[0.1, 0.05]] * 2), np.array([[0.9, 0.45]] * 2)
    assert localised_counts(density, there, 2) == pytest.approx((2.0, 0.0))
    assert localised_counts(density, elsewhere, 2) == pytest.approx((0.0, 2.0))


def test_where_nothing_is_counted_precision_is_left_out_and_f_is_zero() -> None:
    upper, lower = np.array([[np.nan, 0.0, 4.0]]), np.array([[np.nan, 0.0, 4.0]])
    scores = mean_score(mosaic_scores(np.array([4.0]), np.array([0]), upper, lower))
    assert scores.recall == pytest.approx((1 + 0 + 1) / 3)  # the own class counts as found, as released
    assert scores.precision == 0.5
    assert scores.f == pytest.approx((0 + 2 / 3) / 2)


def two_colours(prompt: str = "greens", majority: str = "reds") -> Sample:
    sample = benchmark()[0][0]
    attributes = {"majority_class": majority, "majority_count": 24, "counts": {"blues": 0}}
    return Sample("a", "test", sample.image, sample.points, 0.0, prompt, EDGE, EDGE, attributes=attributes)


def test_majority_minority_and_an_absent_class_are_asked_of_the_same_picture() -> None:
    (pair,) = majority_and_minority(asking(blind=False), [two_colours()])
    assert (pair.majority, pair.minority, pair.majority_true) == ("reds", "greens", 24.0)
    assert pair.absent in ("greens", "blues")
    assert (pair.majority_predicted, pair.minority_predicted, pair.absent_predicted) == (24.0, 0.0, 0.0)
    (blind,) = majority_and_minority(asking(blind=True), [two_colours()])
    assert blind.majority_predicted == blind.minority_predicted == blind.absent_predicted == 24.0


def test_a_picture_of_every_class_has_no_absent_one() -> None:
    full = replace(two_colours(), count=3.0, attributes={"counts": {"reds": 24}})
    (pair,) = majority_and_minority(asking(blind=False), [full])
    assert pair.absent == ""
    assert np.isnan(pair.absent_predicted)


def test_pairs_say_whether_the_majority_is_counted_instead() -> None:
    blind, reading = (pairs(asking(each), [two_colours()]) for each in (True, False))
    assert (blind.nearer_to_majority, reading.nearer_to_majority) == (1.0, 0.0)
    assert (blind.prompt_swap, reading.prompt_swap) == (0.0, 1.0)
    assert blind.means["absent_predicted"] == 24.0
    assert reading.minority_mae == 0.0


@pytest.mark.parametrize(
    ("test", "said"),
    [(majority_and_minority, "more objects"), (negative_prompts, "two classes")],  # its prompt is the majority
)
def test_a_benchmark_of_one_class_is_refused(test: Callable[..., Any], said: str) -> None:
    with pytest.raises(UserError, match=said):
        test(asking(blind=False), benchmark()[0][:1])


def test_a_change_is_more_than_one_percent() -> None:
    assert changed_share([100, 100, 0], [100.5, 102, 0]) == pytest.approx(1 / 3)


def test_a_system_without_prompts_is_refused() -> None:
    class Mute(Colourful):
        text_guided = False

    samples, load = benchmark()
    with pytest.raises(UserError, match="told what to count"):
        negative_prompts(Asking(Mute(blind=True), load), samples)
