"""The filter that made CountCLIP's training set."""

from __future__ import annotations

from PIL import Image

from golden_tools import golden
from recount.data.laion_filter import Candidate, candidates, confirmed, kept_urls, number_in_caption


def test_captions_and_addresses_are_kept_as_the_golden_file_says() -> None:
    want = golden("countclip")["cases"]["filter"]["outputs"]
    for case in want["captions"]:
        assert number_in_caption(case["caption"]) == (case["number"] if case["keep"] else None), case["caption"]
    for case in want["urls"]:
        assert sorted(kept_urls(case["url"])) == sorted(case["kept_as"]), case["url"]


def test_a_row_needs_a_number_and_a_picture_address() -> None:
    rows = [("http://a/x.jpg?w=1", "Three cats"), ("http://a/x.jpg", "cats"), ("http://a/x", "two cats")]
    assert list(candidates(rows)) == [Candidate("http://a/x.jpg", "Three cats", 3)]


class Sees:
    def __init__(self, **boxes: int) -> None:
        self.boxes = boxes

    def boxes_per_class(self, image: Image.Image) -> dict[str, int]:
        return self.boxes


def test_the_class_with_most_boxes_decides_whatever_it_is() -> None:
    candidate, picture = Candidate("u", "three cats", 3), Image.new("RGB", (4, 4))
    assert confirmed(candidate, picture, Sees(dog=3, cat=1))
    assert not confirmed(candidate, picture, Sees(cat=3, dog=4))
    assert not confirmed(candidate, picture, Sees())
