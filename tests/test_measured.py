"""README's numbers of suite mini are those of the reference run."""

import runpy
from pathlib import Path

import pytest

from recount.results.files import Made
from recount.results.reference import Reference, ReferenceScore, read

ROOT = Path(__file__).parents[1]
MEASURED = runpy.run_path(str(ROOT / "docs/measured.py"))
README = (ROOT / "README.md").read_text(encoding="utf-8")
RECORD = Reference(
    suite="mini", when="2026-12-01", seeds=[0, 1, 2], made=Made(), planned={}, code={},
    origin={"commit": "abcdef0123", "hardware": {"cpu": "a processor", "kernels": "AVX2"}},
)  # fmt: skip


def scores(run: str, place: str, metric: str, *values: float, selection: str = "last") -> list[ReferenceScore]:
    system, variant = run.split("/")
    return [ReferenceScore(system, variant, k, place, selection, metric, v, 180) for k, v in enumerate(values)]


def test_means_and_deviations_of_the_last_epoch_stand_between_the_marks() -> None:
    rows = [
        *scores("t2icount/full", "shapes/test", "mae", 1.0, 2.0, 3.0),
        *scores("t2icount/full", "shapes/test", "mae", 9.0, selection="best_on_test"),
        *scores("t2icount/full", "shapes/test", "rmse", 7.0),
        *scores("countclip/baseline", "shapes_ten/test", "accuracy", 0.1),
        *scores("countclip/b3", "shapes_ten/test", "accuracy", 0.2, 0.3),
        *scores("countclip/b2", "shapes_ten/test", "accuracy", 0.4),
    ]
    text = MEASURED["measured"](README, RECORD, rows)
    assert "(commit abcdef0, seeds 0, 1, 2, a processor, AVX2), last epoch" in text
    assert "| t2icount/full | 2.00 ± 1.00 | – | – |" in text
    assert "10.0 % right before tuning, 25.0 to 40.0 % in 2 configurations (180 pictures" in text
    outside = [text.split(MEASURED["BEGIN"])[0], text.split(MEASURED["END"])[1]]
    assert outside == [README.split(MEASURED["BEGIN"])[0], README.split(MEASURED["END"])[1]]
    assert MEASURED["measured"](text, RECORD, rows) == text


def test_readme_has_the_numbers_of_the_reference() -> None:
    found = read(ROOT / "reference/mini")
    if found is None:
        pytest.skip("reference/mini is not made yet: `recount reference --write`")
    assert MEASURED["measured"](README, *found[:2]) == README
