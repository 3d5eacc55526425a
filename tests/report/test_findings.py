"""The findings of the front page: chosen and worded by rule, with the data and the mark that belong to them."""

import html
import re
from pathlib import Path
from types import SimpleNamespace

import pandas as pd
import pytest

from recount.report.pages.findings import FINDINGS, _gain, gained


@pytest.fixture
def found(page: Path) -> dict[str, list[str]]:
    text = page.read_text(encoding="utf-8")
    cards = re.findall(r'<article class="finding" aria-labelledby="about-(\w+)">(.*?)</article>', text, flags=re.DOTALL)
    lines = {name: re.findall(r"<li>(.*?) <a", card, flags=re.DOTALL) for name, card in cards}
    return {name: [html.unescape(line) for line in entries] for name, entries in lines.items()}


def test_each_paper_has_at_most_three_and_each_leads_to_its_source(page: Path, found: dict[str, list[str]]) -> None:
    assert {name: len(lines) for name, lines in found.items()} == {"captioner": FINDINGS, "gigacount": FINDINGS}
    for name, anchor in re.findall(
        r'href="(\w+)/index.html#([^"]+)" aria-label="Where', page.read_text(encoding="utf-8")
    ):
        assert f'id="{anchor}"' in (page.parent / name / "index.html").read_text(encoding="utf-8")


def test_first_comes_what_the_published_record_shows(found: dict[str, list[str]]) -> None:
    assert found["gigacount"][0] == (
        "The printed 103.3 / 198.0 (MAE / RMSE) is not in the authors' own log; the best pair there is 106.07 / 196.37."
    )


def test_own_system_is_told_with_data_mark_and_constant(found: dict[str, list[str]]) -> None:
    error, share = found["gigacount"][1], found["captioner"][1]
    assert re.match(r"On crowd/test, GigaCount has an MAE of [\d.]+ ⚑, \d+ % below the best constant \(", error)
    assert re.match(
        r"On shapes_ten/test, C3 modal, best of its \d rows, has an accuracy of 80.0\d? % ⚑; the best constant", share
    )
    assert share.endswith("rows measured.")


def test_gain_says_which_way_the_metric_moves_and_where(found: dict[str, list[str]]) -> None:
    assert re.search(r"lowers the MAE on crowd/test by [\d.]+ % in the median over \d+ variants", found["gigacount"][2])
    assert "raises the accuracy on shapes_ten/test" in found["captioner"][2]


@pytest.mark.parametrize(
    ("gains", "said"),
    [
        ([0.02], "2.0 %, of the one variant that shows it"),
        ([0.0, 0.01, 0.02], "1.0 % in the median over 3 variants, by 2.0 % at most"),
        ([0.0, 0.0004, 0.031], "3.1 % at most, and in 2 of 3 variants by nothing"),
    ],
)
def test_gain_that_rounds_to_nothing_in_the_median_is_not_said_to_be_one(gains: list[float], said: str) -> None:
    assert gained(pd.Series(gains)) == said


def test_rule_and_cost_and_what_was_not_run_stand_on_the_page(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    assert "Findings are chosen by rule: what the published record shows" in " ".join(text.split())
    assert "Training took" in text
    assert "1: quoted only" in text


def test_no_gain_is_no_finding() -> None:
    rows = [SimpleNamespace(relative=0.0001, metric="mae", used="d/test")]
    assert list(_gain(SimpleNamespace(name="paper"), rows)) == []  # type: ignore[arg-type]
