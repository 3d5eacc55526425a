"""What CountCLIP's published numbers show: recomputed from the printed matrices and the recovered epochs."""

from pathlib import Path

import numpy as np
import pytest

from golden_tools import golden, shared
from recount.datasets.countbench import read_items
from recount.errors import UserError
from recount.judging.countclip_evidence import BEST, END, LARGE, Evidence, best_of_ten, evidence, headline, read_panels
from recount.systems.countclip import WORD_OF

PAPER = Path(__file__).parents[2] / "papers" / "countclip"


@pytest.fixture(scope="module")
def found() -> Evidence:
    return evidence(PAPER)


def test_printed_matrices_have_the_golden_metrics(found: Evidence) -> None:
    want = golden("countclip")["cases"]["confusion_metrics"]["outputs"]
    assert len(found.panels) == len(want) == 29
    for panel in found.panels:
        case = want[f"{panel.name} {panel.label}"]
        assert (panel.n, panel.correct) == (case["n"], case["correct"])
        assert 100 * panel.accuracy == pytest.approx(case["accuracy_percent"], abs=1e-9)
        assert 100 * panel.standard_error == pytest.approx(case["standard_error_percent"], abs=1e-9)
        recall = panel.matrix.diagonal() / panel.matrix.sum(axis=1)
        assert 100 * recall == pytest.approx(case["recall_percent"], abs=1e-9)
        assert 100 * panel.matrix.sum(axis=0) / panel.n == pytest.approx(case["predicted_share_percent"], abs=1e-9)


def test_after_ten_epochs_every_configuration_is_below_the_baseline(found: Evidence) -> None:
    assert found.baseline.baseline == 0.275
    assert len(found.baseline.below_at_end) == 11
    assert found.baseline.above_at_best == ["sched_modal_countplus", "sched_log"]
    assert found.baseline.at_end["sched_modal_countplus"] == pytest.approx(-0.0117)


def test_the_headline_is_seven_images_and_no_pairing_makes_it_significant(found: Evidence) -> None:
    claim = found.headline
    assert (claim.n, claim.before, claim.after, claim.images) == (509, 140, 147, 7)
    assert claim.standard_error == pytest.approx(0.028, abs=5e-4)
    assert claim.z == pytest.approx(0.49, abs=0.005)
    assert (claim.gained_at_least, claim.lost_at_least) == (50, 43)
    assert claim.smallest_p == pytest.approx(0.534, abs=5e-4)
    assert claim.interval[0] < 0 < claim.interval[1]


def test_choosing_the_best_of_ten_epochs_gains_more_than_the_headline(found: Evidence) -> None:
    selection = found.selection
    assert selection.claimed == pytest.approx(7 / 509)
    assert selection.in_standard_errors == pytest.approx(1.54, abs=0.01)
    assert selection.expected_gain > selection.claimed
    assert 0.9 < selection.share_of_runs < 0.96
    assert selection.share_of_studies > 0.999
    assert selection.observed_gains["const"] == pytest.approx(0.0334, abs=1e-4)


def test_the_simulation_is_the_same_each_time(found: Evidence) -> None:
    assert best_of_ten(found.runs, 7 / 509) == found.selection


def test_a_run_that_never_varies_gains_nothing_by_selection(found: Evidence) -> None:
    still = [type(run)(run.source, run.variant, (0.25,) * 10) for run in found.runs[:1]]
    selection = best_of_ten(still, 0.01)
    assert (selection.sd, selection.expected_gain, selection.share_of_runs) == (0, 0, 0)


def test_the_panels_of_a2_are_swapped_and_all_others_fit(found: Evidence) -> None:
    said = {
        found_panel.panel: (found_panel.said, found_panel.fits, found_panel.correct) for found_panel in found.mismatches
    }
    assert said == {"fig3b": (BEST, END, 115), "fig4_endc": (END, BEST, 132), "fig5_bestc": (BEST, END, 115)}


def test_large_numbers_are_unlearned(found: Evidence) -> None:
    by_state = {(panel.variant, panel.state): panel for panel in found.panels if panel.figure != "fig3"}
    assert by_state["baseline", END].largest == pytest.approx(0.259, abs=5e-4)
    trained = [panel for (variant, state), panel in by_state.items() if state == END and variant != "baseline"]
    assert max(panel.largest for panel in trained) <= 0.0403
    best = by_state["sched_modal_countplus", BEST]
    shares = [right / images for right, images in map(best.hits, ((2, 3, 4, 5, 6), LARGE))]
    assert (*shares, best.largest) == pytest.approx((0.448, 0.099, 0.011), abs=6e-4)
    baseline = by_state["baseline", END]
    assert baseline.matrix[:, -3:].sum() / baseline.n == pytest.approx(0.43, abs=0.005)


def test_the_lost_number_words_are_those_of_the_list(found: Evidence) -> None:
    rows = read_items(shared("mirror", "countbench", "CountBench.json"))
    places = [row["text"].lower().find(WORD_OF[row["number"]]) for row in rows]
    cut = [k for k, row in enumerate(rows) if places[k] + len(WORD_OF[row["number"]]) > 77]
    expected = [{"index": k, "number": rows[k]["number"], "position": places[k]} for k in cut]
    assert expected == found.lost_words
    assert len(found.lost_words) == 21
    assert sum(item["number"] == 2 for item in found.lost_words) == 3


def test_a_gain_without_losses_is_tested_as_such(found: Evidence) -> None:
    before = found.panels[0]
    better = np.array(before.matrix)
    better[0, 0] += 7
    better[0, 1] -= 7
    claim = headline(before, type(before)("f", "x", BEST, "l", "v", better))
    assert (claim.gained_at_least, claim.lost_at_least) == (7, 0)
    assert claim.smallest_p == pytest.approx(2 / 2**7)


def test_a_matrix_with_a_missing_row_is_refused(tmp_path: Path) -> None:
    lines = (PAPER / "evidence" / "confusions.csv").read_text().splitlines()
    (tmp_path / "confusions.csv").write_text("\n".join(lines[:9]))
    with pytest.raises(UserError, match="2 to 10"):
        read_panels(tmp_path / "confusions.csv")
