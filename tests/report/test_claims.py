"""Claims and verdicts on the page: labels, regions, drawings, forests; nothing is decided here."""

import math
import re
from pathlib import Path

import pytest

from recount.report.claims import (
    MARGIN,
    VERDICTS,
    WIDTH,
    ClaimView,
    Judgement,
    claim_sheet,
    claim_views,
    region,
    relative_effects,
    tally,
    values_text,
)
from recount.report.sources import Sources
from recount.report.tables import paper_tables
from recount.settings.paper import Claim
from recount.settings.project import load
from report.tree import Tree

Views = dict[str, ClaimView]  # by the claim's id


@pytest.fixture(scope="module")
def views(built: Tree) -> Views:
    sources = Sources(load(built.root))
    return {
        view.claim.id: view
        for name in ("captioner", "gigacount")
        for view in claim_views(sources, name, paper_tables(sources, name))
    }


def trained(view: ClaimView) -> Judgement:
    return view.headlines["trained"]


def drawn(view: ClaimView) -> list[Judgement]:
    return [part for part in view.parts if part.drawing is not None]


def test_every_claim_of_the_papers_is_there_with_its_verdict(views: Views) -> None:
    assert set(views) == {"K1", "G2", "G12", "G5", "G6"}
    assert all(trained(view).row.verdict in VERDICTS for view in views.values())


def test_claim_about_a_failed_run_is_not_tested_and_says_why(views: Views) -> None:
    assert trained(views["G5"]).row.verdict == "not tested"
    assert "dm_count" in trained(views["G5"]).row.reason.text
    assert all(part.row.evidence_status == "published" for part in drawn(views["G5"]))


def test_arms_are_called_as_the_rows_of_the_tables(views: Views) -> None:
    part = views["G2"].parts[0]
    assert (part.better, part.worse) == ("no Stage 4 (150 epochs)", "with Stage 4 (150 epochs)")
    assert views["G12"].parts[0].worse == "best constant"


def test_drawing_puts_the_effect_in_its_interval_and_the_region_on_the_claimed_side(views: Views) -> None:
    for part in drawn(views["G2"]) + drawn(views["K1"]):
        drawing = part.drawing
        assert drawing is not None
        assert MARGIN <= drawing.at <= WIDTH - MARGIN
        assert drawing.region == (drawing.zero, WIDTH)
        assert (drawing.at > drawing.zero) == (part.row.effect > 0)
        if drawing.low is not None and drawing.high is not None:
            assert drawing.low <= drawing.at <= drawing.high


def test_region_of_each_kind_of_claim_is_read_from_its_yaml() -> None:
    arms = {"says": "s", "arm": "a/b", "on": "x/y"}
    pair = {**arms, "against": "c/d", "expect": "lower mae"}
    ratio = Claim.model_validate({"id": "r", "test": "ratio", "at_most": 0.15, **pair})
    bound = {"metric": "pccn", "at_least": 60}
    quantity = Claim.model_validate({"id": "q", "test": "quantity", "bounds": [bound], **arms})
    value = Claim.model_validate({"id": "v", "test": "value", "published": 1.0, "expect": "lower mae", **arms})
    assert region(Claim.model_validate({"id": "d", **pair}), "mae") == (0.0, math.inf)
    assert region(ratio, "mae") == (-math.inf, 0.15)
    assert region(quantity, "pccn") == (60, math.inf)
    assert region(value, "mae") is None


def test_forest_shows_improvements_as_shares_of_the_worse_arm(views: Views) -> None:
    effects = relative_effects([views["G6"], views["K1"]])
    worse = effects[(effects["claim"] == "G6") & (effects["evidence"] == "trained")].iloc[0]
    better = effects[(effects["claim"] == "K1") & (effects["evidence"] == "trained")].iloc[0]
    part = next(part for part in views["G6"].parts if part.row.selection == trained(views["G6"]).row.selection)
    assert worse["effect"] == pytest.approx(part.row.effect / part.row.value_worse)
    assert worse["effect"] < 0 < better["effect"]
    assert better["low"] <= better["effect"] <= better["high"]


def test_accuracies_are_printed_as_per_cent_and_errors_as_numbers(views: Views) -> None:
    assert re.fullmatch(r"\d+ % : \d+ %", values_text(views["K1"].parts[0]))
    assert re.fullmatch(r"[\d.]+ : [\d.]+", values_text(views["G2"].parts[0]))


def test_tally_counts_each_claim_once_for_each_kind_of_evidence(views: Views) -> None:
    counted = tally(views.values())
    assert sum(counted["trained"].values()) == len(views)
    assert list(counted["trained"]) == [verdict for verdict in VERDICTS if verdict in counted["trained"]]


def test_exported_verdicts_carry_rule_and_reason(views: Views) -> None:
    sheet = claim_sheet("x", list(views.values()))
    rows = {line.values[:3:2]: dict(zip(sheet.heads, line.cells, strict=True)) for line in sheet.lines}
    assert "10,000" in rows["G2", "Retrained here"]["Rule"].shown
    assert not rows["G5", "Retrained here"]["Why"].empty


def test_board_leads_from_every_verdict_to_its_claim(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    board = text[text.index('id="board"') : text.index('class="tiles"')]
    targets = re.findall(r'href="#([^"]+-claim-[^"]+)"', board)
    assert {"gigacount-claim-G2", "captioner-claim-K1"} <= set(targets)
    assert all(f'id="{target}"' in text for target in targets)


def test_rule_stands_beside_each_verdict(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    claim = text[text.index('id="gigacount-claim-G2"') :]
    claim = claim[: claim.index("</article>")]
    assert "Rule: 95 % interval of" in claim
    assert "lower mae than the arm it is compared with" in claim


def test_effects_have_their_unit(views: Views) -> None:
    assert re.match(r"better by [+−][\d.]+ MAE \(", trained(views["G2"]).words)
    assert re.match(r"better by [+−][\d.]+ percentage points \(", trained(views["K1"]).words)
