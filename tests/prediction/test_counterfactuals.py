"""Tests of what a count-by-caption system's answer follows, with systems that follow one thing alone."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from recount.data.sample import Sample
from recount.errors import UserError
from recount.judging.prompt_evidence import aligned, picture_values
from recount.prediction.counterfactuals import askable, counterfactuals, in_boxes, on_plain_ground, partners
from recount.prediction.samples import Asking
from recount.results.files import Made
from recount.results.prompt_tests import BenchmarkTests, PromptTests
from recount.settings.base import Strict
from recount.systems.base import Prediction
from recount.systems.countclip import NUMBERS, WORD_OF, nine_captions
from small_systems import OnlyPredicts

EDGE = 40


class Follows(OnlyPredicts):
    """Answers with a number of two to ten that a function makes of the picture [3, H, W] and the first caption."""

    text_guided = True

    def __init__(self, number: Callable[[Tensor, str], int], cut: int | None = None) -> None:
        super().__init__(Strict())
        self.number, self.cut = number, cut

    def prompt_of(self, sample: Sample) -> str:
        return "\n".join(nine_captions(sample.prompt, int(sample.count), self.cut))

    def predict(self, images: Tensor, prompts: Sequence[str]) -> Prediction:
        answers = [self.number(image, prompt) for image, prompt in zip(images, prompts, strict=True)]
        scores = torch.tensor([[float(number == answer) for number in NUMBERS] for answer in answers])
        return Prediction(scores=scores, numbers=NUMBERS)


def objects(image: Tensor, _: str) -> int:
    return max(int((image[0, 10] > 0.9).sum()) // 2, 2)


def caption(_: Tensor, prompt: str) -> int:
    return 2 + prompt.index("\n") % 9


def background(image: Tensor, _: str) -> int:
    return 2 + round(float(image[1, -1].mean()) * 255) % 9


def scene(number: int, boxed: bool = True) -> tuple[Sample, Tensor]:
    """Return a picture of so many white objects above a ground that has a stripe of another colour for each number."""
    picture = torch.full((3, EDGE, EDGE), 107, dtype=torch.uint8)
    picture[:, -3:] = number
    boxes = np.array([[4 * k, 8, 4 * k + 2, 12] for k in range(number)], np.float32)
    for left, top, right, bottom in boxes.astype(int).tolist():
        picture[:, top:bottom, left:right] = 255
    said = f"a photo of {WORD_OF[number]} dogs" + "s" * number
    drawn = boxes if boxed else None
    return Sample(f"s{number}", "test", Path(f"s{number}"), boxes[:, :2], number, said, EDGE, EDGE, drawn), picture


def asked(system: Follows, boxed: bool = True) -> Any:
    scenes = [scene(number, boxed) for number in (2, 3, 5, 7, 9)]
    pictures = {sample.image: picture for sample, picture in scenes}
    chosen = askable(system, [sample for sample, _ in scenes])
    assert not isinstance(chosen, str)
    return counterfactuals(Asking(system, lambda sample: pictures[sample.image]), chosen)


@pytest.mark.parametrize(
    ("follows", "stays"),
    [
        (objects, {"caption": 0.0, "picture": 1.0, "objects": 1.0}),
        (caption, {"caption": 1.0, "picture": 0.0, "objects": 1.0, "background": 1.0}),
        (background, {"caption": 0.0, "picture": 1.0, "objects": 0.0, "background": 1.0}),
    ],
)
def test_answer_stays_with_what_it_follows(follows: Callable[[Tensor, str], int], stays: dict[str, float]) -> None:
    found = asked(Follows(follows))
    assert {kept: found.stays[kept] for kept in stays} == stays
    assert len(found.pictures) == 5
    assert follows is not objects or found.stays["background"] < 0.5  # but for the two that it says of no object


def test_quantities_are_means_of_what_stays() -> None:
    tests = BenchmarkTests(dataset="d", split="test", counterfactuals=asked(Follows(background)))
    record = PromptTests(made=Made(), selection="last", benchmarks={"b": tests})
    for metric, mean in (("picture_over_caption", 1.0), ("objects_over_background", -1.0)):
        tops, bottoms = aligned([picture_values(record, "b", metric)[""]])
        assert tops.sum() / bottoms.sum() == mean


def test_without_boxes_neither_objects_nor_background_are_kept_alone() -> None:
    found = asked(Follows(objects), boxed=False)
    assert set(found.stays) == {"caption", "picture"}
    assert {(row.objects, row.background) for row in found.pictures} == {(None, None)}


def test_other_picture_has_another_number_and_is_another_picture() -> None:
    samples = [scene(number)[0] for number in (2, 2, 3)]
    assert {(one.count, other.count) for one, other in partners(samples)} == {(2, 3), (3, 2)}
    assert partners(samples[:2]) == []


def test_captions_that_have_lost_their_number_word_ask_nothing() -> None:
    samples = [scene(number)[0] for number in (2, 3)]
    assert askable(Follows(objects), samples) == samples
    said = askable(Follows(objects, cut=8), samples)
    assert isinstance(said, str)
    assert "captions that name them" in said


def test_ground_is_the_median_outside_the_objects_and_boxes_may_reach_beyond_the_picture() -> None:
    sample, picture = scene(2)
    assert sample.boxes is not None
    mask = in_boxes(sample, EDGE, EDGE)
    assert mask is not None
    assert int(mask.sum()) == 2 * 8
    plain = on_plain_ground(picture, mask, mask)
    assert int(plain[0, 8:12].max()) == 107
    assert (on_plain_ground(picture, ~mask, mask)[:, -3:] == 107).all()
    sample.boxes[0] = [-5, -5, 2, 3]
    mask = in_boxes(sample, EDGE, EDGE)
    assert mask is not None
    assert int(mask.sum()) == 6 + 8
    sample.boxes[:] = [0, 0, EDGE + 9, EDGE + 9]
    assert in_boxes(sample, EDGE, EDGE) is None


def test_system_that_counts_by_density_is_refused() -> None:
    class Density(Follows):
        def predict(self, images: Tensor, prompts: Sequence[str]) -> Prediction:
            return Prediction(density=images[:, :1])

    with pytest.raises(UserError, match="chooses among captions"):
        asked(Density(objects))
