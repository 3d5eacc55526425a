"""Claims and verdicts on the page: labels, regions, drawings, forests; nothing is decided here."""

import math
import re
from dataclasses import replace
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
    effect_in_words,
    region,
    relative_effects,
    tallies,
    values_text,
)
from recount.report.sources import Sources
from recount.report.tables import paper_tables
from recount.results.verdicts import VerdictRow
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
    assert all(trained(view).look in VERDICTS for view in views.values())


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


def test_region_is_where_the_row_says_that_the_claim_puts_the_effect(views: Views) -> None:
    assert region(trained(views["G2"]).row) == (0.0, math.inf)
    assert region(trained(views["G5"]).row) is None
    printed = next(part.row for part in views["G5"].parts if part.row.evidence_status == "published")
    assert region(printed) == (0.0, math.inf)


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


def test_what_was_counted_again_and_what_was_printed_are_tallied_apart(views: Views) -> None:
    found = {tally.title: tally for tally in tallies(list(views.values()), "drawn scenes")}
    assert list(found) == ["The papers' claims, trained again", "Printed numbers, audited"]
    audited = [view.audit for view in views.values() if view.audit is not None]
    assert sum(found["Printed numbers, audited"].counted.values()) == len(audited)
    assert set(found["Printed numbers, audited"].counted) <= {"consistent", "cannot tell", "inconsistent", "not tested"}


def test_stand_ins_count_for_no_paper() -> None:
    row = VerdictRow(*"pc", "comparative", "paper", "s", "all", "trained", "last", match="stand-in", decided="holds")
    row = replace(row, headline="yes", verdict="same direction on drawn scenes")
    claim = Claim.model_validate(
        {"id": "c", "says": "s", "arm": "a/b", "against": "c/d", "on": "x/y", "expect": "lower mae"}
    )
    view = ClaimView("p", claim, {"trained": Judgement(row, "a", "b", "")}, ())
    (tally,) = tallies([view], "drawn scenes")
    assert tally.counted == {}
    assert "1 same direction" in tally.note
    assert "no paper" in tally.note
    exact = replace(view, headlines={"trained": Judgement(replace(row, match="exact", verdict="holds"), "a", "b", "")})
    (tally,) = tallies(
        [exact, replace(exact, headlines={"trained": Judgement(replace(row, same_as="p x"), "", "", "")})], ""
    )
    assert tally.counted == {"holds": 1}
    assert "1 of 1 tested claims is decided" in tally.note


def test_one_sentence_says_what_would_decide_and_what_that_costs(views: Views) -> None:
    open_still = [trained(view) for view in views.values() if trained(view).row.needed]
    assert open_still
    for judgement in open_still:
        assert judgement.decides.endswith(".")
        assert judgement.row.needed[1:] in judgement.decides


def test_exported_verdicts_carry_rule_and_reason(views: Views) -> None:
    sheet = claim_sheet("x", list(views.values()))
    rows = {(line.values[0], line.values[3]): dict(zip(sheet.heads, line.cells, strict=True)) for line in sheet.lines}
    assert "over seeds" in rows["G2", "Retrained here"]["Rule"].shown
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
    assert "Rule: the interval of the difference lies above 0" in claim
    assert "What would contradict it" in claim
    assert "degrees of freedom" in claim or "not tested" in claim
    assert "lower mae than the arm it is compared with" in claim


def test_effects_have_their_unit(views: Views) -> None:
    assert re.match(r"(better|worse) by [\d.]+ MAE \(", trained(views["G2"]).words)
    assert re.match(r"(better|worse) by [\d.]+ percentage points \(", trained(views["K1"]).words)


PAPERS = load(Path(__file__).parents[2], {"suite": "paper"}).papers


@pytest.mark.parametrize("claim", [c for paper in PAPERS.values() for c in paper.claims], ids=lambda claim: claim.id)
def test_every_claim_says_where_it_stands_and_what_would_contradict_it(claim: Claim) -> None:
    assert len(claim.where) > 5
    assert re.search("wholly .*(below|above)|beyond the margin|the opposite stands", claim.contradicted_by)


def test_words_of_an_effect_agree_with_its_sign() -> None:
    claim = Claim(id="c", says="s", arm="a/b", against="c/d", on="ucf_qnrf/test", expect="lower mae")
    better = VerdictRow(*"pc", "comparative", "paper", "s", "all", "trained", "last", metric="mae", effect=61.0)
    better = replace(better, ci_low=50.0, ci_high=72.0, level=0.05)
    worse = replace(better, effect=-61.0, ci_low=-72.0, ci_high=-50.0)
    assert effect_in_words(claim, better) == "better by 61.00 MAE (95 % interval 50.00 to 72.00)"
    assert effect_in_words(claim, worse) == "worse by 61.00 MAE (95 % interval 50.00 to 72.00)"
