"""The number that a caption names."""

from golden_tools import golden
from recount.datasets.formats.captions import number_in_caption


def test_the_number_of_a_caption_is_as_in_the_golden_file() -> None:
    for case in golden("countclip")["cases"]["filter"]["outputs"]["captions"]:
        assert number_in_caption(case["caption"]) == (case["number"] if case["keep"] else None), case["caption"]
