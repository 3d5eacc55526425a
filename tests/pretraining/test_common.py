"""The cards of the tiny models."""

import json
from pathlib import Path

import pytest

from recount.pretraining.common import WEIGHTS, write_card


@pytest.mark.parametrize("name", ["mini_clip", "mini_sd", "mini_towers"])
def test_the_shipped_card_is_what_is_written_of_its_numbers(name: str, tmp_path: Path) -> None:
    write_card(tmp_path, json.loads((WEIGHTS / f"{name}.json").read_text("utf-8")))
    for file in (f"{name}.json", f"{name}.md"):
        assert (tmp_path / file).read_text("utf-8") == (WEIGHTS / file).read_text("utf-8")
