"""What the papers' own published numbers say of their claims: from the project's paper.yaml and evidence files."""

from functools import cache
from pathlib import Path

import pytest

from recount.judging.judge import AUDIT, Case
from recount.judging.printed_claims import PrintedClaims
from recount.judging.verdicts import combine
from recount.results.published import read_published
from recount.settings.paper import Claim, Paper
from recount.settings.project import load

ROOT = Path(__file__).parents[2]
PAPERS = [path.parent.name for path in sorted(ROOT.glob("papers/*/paper.yaml"))]


@cache
def paper(name: str) -> Paper:
    return load(ROOT, {"papers": []}).papers[name]


def claim(name: str, wanted: str) -> Claim:
    return next(entry for entry in paper(name).claims if entry.id == wanted)


def verdict(name: str, wanted: str, selection: str) -> str:
    parts = [part for part in PrintedClaims(paper(name)).parts(claim(name, wanted), selection) if part.finding]
    decisions = Case(name, claim(name, wanted), "published", selection, parts).decisions
    return AUDIT.get(combine(decisions).decided, "cannot tell")


@pytest.mark.parametrize(
    ("wanted", "expected"),
    [
        ("T3-log", "consistent"),
        ("T3-end", "inconsistent"),
        ("T3-runs", "inconsistent"),
        ("T3-factor", "inconsistent"),
        ("G1-log", "inconsistent"),
        ("G3-log", "inconsistent"),
        ("G9", "consistent"),
    ],
)
def test_gigacounts_statements_about_its_own_log(wanted: str, expected: str) -> None:
    assert verdict("gigacount", wanted, "") == expected


def test_rows_of_table_3_stand_in_the_log_where_the_notes_say() -> None:
    parts = PrintedClaims(paper("gigacount")).parts(claim("gigacount", "T3-log"), "")
    lines = [part.finding.notes[0].rpartition("line ")[2].partition(",")[0] for part in parts if part.finding]
    assert lines == ["49", "807", "356", "1307", "429", "1365"]


def test_headline_of_gigacount_is_nearest_to_the_logs_best() -> None:
    (part,) = PrintedClaims(paper("gigacount")).parts(claim("gigacount", "G1-log"), "")
    assert part.finding is not None
    assert part.finding.effect == pytest.approx(106.07 - 103.3)


def test_order_of_table_1_holds_as_printed() -> None:
    assert verdict("gigacount", "G11", "best_on_test") == "consistent"


def test_constant_beats_the_printed_headline_on_fsc147s() -> None:
    printed = PrintedClaims(paper("t2icount"))
    parts = {
        (part.worse, part.benchmark): part for part in printed.parts(claim("t2icount", "T2I-5"), "best_on_held_out")
    }
    best, blind = parts["best_constant", "fsc147s/v1"], parts["prompt_blind", "fsc147s/v1"]
    assert (best.value_better, round(best.value_worse, 2)) == (4.69, 3.53)
    assert round(blind.value_worse, 2) == 46.24
    assert verdict("t2icount", "T2I-5", "best_on_held_out") == "inconsistent"


def test_improvement_over_85_percent_is_of_the_first_version_where_the_text_says_it() -> None:
    parts = PrintedClaims(paper("t2icount")).parts(claim("t2icount", "T2I-3"), "best_on_held_out")
    ratios = {(part.worse, part.benchmark): part.finding.effect for part in parts if part.finding}
    assert {benchmark for _, benchmark in ratios} == {"fsc147s/v1"}
    assert ratios["vlcounter/as_released", "fsc147s/v1"] == pytest.approx(1 - 0.867, abs=0.001)


def test_gain_of_countclip_is_seven_images_and_decides_nothing() -> None:
    printed = PrintedClaims(paper("countclip"))
    (part,) = printed.parts(claim("countclip", "K1"), "best_on_test")
    assert part.finding is not None
    assert part.finding.effect == pytest.approx(7 / 509)
    assert "147 against 140 of 509" in part.finding.notes[0]
    assert part.finding.interval is not None
    standard_error = (part.finding.interval[1] - part.finding.interval[0]) / 2 / 1.96
    assert part.finding.effect / standard_error == pytest.approx(0.49, abs=0.01)
    assert verdict("countclip", "K1", "best_on_test") == "cannot tell"
    assert verdict("countclip", "K1", "last") == "cannot tell"


def test_exchanged_matrices_are_put_back_by_their_accuracy() -> None:
    """The paper's panels of A2 are swapped: "last" is the one with 115 right answers."""
    printed = PrintedClaims(paper("countclip"))
    rows = {
        selection: next(
            part
            for part in printed.parts(claim("countclip", "K5"), selection)
            if part.better == "countclip/sched_const"
        )
        for selection in ("last", "best_on_test")
    }
    assert round(rows["last"].value_better * 509) == 115
    assert round(rows["best_on_test"].value_better * 509) == 132


def test_balancing_is_held_against_lambda_1_and_not_against_the_untrained_network() -> None:
    entry = claim("countclip", "K4")
    assert set(entry.against) == {"countclip/const", "countclip/sched_const"}
    parts = PrintedClaims(paper("countclip")).parts(entry, "best_on_test")
    assert all(part.finding and part.finding.effect > -0.02 for part in parts)


def test_smaller_set_is_asked_for_a_gain_and_not_for_the_originals() -> None:
    assert claim("countclip", "K7").at_least is None
    assert verdict("countclip", "K7", "best_on_test") == "cannot tell"


def test_25_claims_or_more_can_be_judged() -> None:
    assert sum(len(paper(name).claims) for name in PAPERS) >= 25


@pytest.mark.parametrize(
    ("wanted", "expected"),
    [
        ("CC-1", "consistent"),
        ("CX-1", "consistent"),
        ("CX-1-rmse", "consistent"),
        ("CX-3", "inconsistent"),  # descriptions are printed as worse than class names
        ("VL-2", "consistent"),
        ("VL-3", "consistent"),
        ("VL-3-rule", "not tested"),  # nobody printed CARPK without the rule
        ("TXT-1", "inconsistent"),  # 48.42 against 46.24 of a counter that cannot read
        ("TXT-3", "inconsistent"),
    ],
)
def test_what_text_guided_counters_printed_says_of_their_claims(wanted: str, expected: str) -> None:
    assert verdict("text_counting", wanted, "best_on_held_out") == expected


def test_constants_on_the_real_annotation_are_the_same_for_both_papers() -> None:
    lines = [
        (paper(name).folder / "evidence/trivial_on_real_annotation.csv").read_text(encoding="utf-8").splitlines()
        for name in ("text_counting", "t2icount")
    ]
    assert len(lines[0]) > 1
    assert set(lines[0]) <= set(lines[1])


def test_papers_that_print_the_same_cell_of_a_run_print_the_same_number() -> None:
    printed: dict[tuple[str, str, str], set[float]] = {}
    for name in ("text_counting", "t2icount"):
        keys = {(table, row.key): row.run for table, entry in paper(name).tables.items() for row in entry.rows}
        for line in read_published(paper(name).folder):
            run = keys.get((line.table, line.row))
            if run and not run.endswith(("/released", "/released_class_names")):
                printed.setdefault((run, line.benchmark, line.metric), set()).add(float(line.value))
    assert len(printed) > 20
    assert all(len(values) == 1 for values in printed.values()), printed


def test_every_claim_says_how_it_is_decided_and_where_it_stands() -> None:
    for name in PAPERS:
        for entry in paper(name).claims:
            assert entry.rule, (name, entry.id)
            assert entry.where or entry.whose == "recount", (name, entry.id)
