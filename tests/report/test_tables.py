"""The papers' tables: what is in a cell, and why there is nothing."""

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from recount.report.sections import selection_rows
from recount.report.sources import Sources
from recount.report.tables import Cell, RowView, TableView, _stand_in_notes, paper_tables, status_counts
from recount.settings.project import load
from report.tree import BENCHMARK, Tree


@pytest.fixture(scope="module")
def tables(built: Tree) -> dict[str, TableView]:
    return {table.name: table for table in paper_tables(Sources(load(built.root)), "gigacount")}


def row(table: TableView, label: str) -> RowView:
    return next(row for row in table.rows if row.label == label)


@pytest.fixture
def gigacount(tables: dict[str, TableView]) -> Cell:
    return row(tables["table1"], "GigaCount").cells[0]


@pytest.fixture
def modal(captions: TableView) -> Cell:
    return row(captions, "C3 modal").cells[0]


def test_published_numbers_stay_as_they_were_printed(tables: dict[str, TableView]) -> None:
    published = row(tables["table1"], "MCNN").cells[0].published
    assert published is not None
    assert (published.text, published.value) == ("277.0", 277.0)


def test_rows_without_a_number_that_repeat_printed_ones_are_beside_the_table() -> None:
    project = load(Path(__file__).parents[2], {"papers": ["gigacount"], "results": "nowhere"})
    (table, *_) = paper_tables(Sources(project), "gigacount")
    released = {entry.label for entry in table.rows if entry.label.endswith("released weights")}
    assert "DM-Count, released weights" in released
    assert released <= {entry.label for entry in table.rows_beside}
    assert "DM-Count" in {entry.label for entry in table.papers_rows}


def test_label_says_how_many_epochs_the_suite_trains_instead_of_the_papers() -> None:
    project = load(Path(__file__).parents[2], {"papers": ["gigacount"], "suite": "mini"})
    sources = Sources(project)
    labels = [sources.label_of(entry) for table in project.papers["gigacount"].tables.values() for entry in table.rows]
    epochs = project.resolved("gigacount", "full").recipe["epochs"]
    assert f"GigaCount ({epochs} epochs for 600)" in labels
    assert "CLIP-EBC (ResNet50), released weights" in labels


def test_weights_chosen_among_one_epoch_are_not_said_to_be_chosen(built: Tree, monkeypatch: pytest.MonkeyPatch) -> None:
    sources = Sources(load(built.root))
    monkeypatch.setattr(Sources, "epochs_evaluated", lambda *_: 1)
    cells = [entry.cells[0] for table in paper_tables(sources, "gigacount") for entry in table.rows]
    chosen = {cell.selection for cell in cells if cell.value is not None and cell.status == "trained"}
    assert "only" in chosen
    assert not {"best_on_test", "best_on_held_out"} & chosen
    assert selection_rows(sources, paper_tables(sources, "gigacount")) == []


def test_published_range_is_shown_as_a_range(tables: dict[str, TableView]) -> None:
    cell = row(tables["table2"], "GigaCount").cells[1]
    assert cell.published is not None
    assert (cell.published.text, cell.published.value, cell.difference) == ("5 to 20", None, None)


def test_measured_cell_is_the_mean_over_seeds_of_the_tables_own_selection(built: Tree, gigacount: Cell) -> None:
    wanted = ("gigacount", "table1", "gigacount", "default", "mae", "best_on_test")
    seeds = [
        s.value
        for s in Sources(load(built.root)).score_rows
        if (s.paper, s.table, s.system, s.variant, s.metric, s.selection) == wanted and s.seed != "all"
    ]
    assert (gigacount.seeds, gigacount.selection) == (("0", "1"), "best_on_test")
    assert gigacount.value == pytest.approx(sum(seeds) / len(seeds))
    assert gigacount.difference is None  # what is not comparable has no difference to a printed number
    comparable = replace(gigacount, column=replace(gigacount.column, comparable=True))
    assert comparable.difference == pytest.approx(gigacount.value - 103.3)


def test_quoted_row_has_no_measured_number_and_says_why(tables: dict[str, TableView]) -> None:
    quoted = row(tables["table1"], "LoViTCrowd")
    assert (quoted.status, quoted.cells[0].value) == ("quoted", None)
    assert [(reason.text, reason.log) for reason in quoted.reasons] == [("no code was released", "")]


def test_failed_run_shows_the_last_lines_of_its_log(tables: dict[str, TableView]) -> None:
    failed = row(tables["table1"], "DM-Count")
    (reason,) = failed.reasons
    assert (failed.status, reason.kind) == ("missing", "failed")
    assert "logs/mini/train/dm_count/default/seed0.log" in reason.text
    assert "loss is NaN at step 312" in reason.log


def test_seed_with_a_prediction_that_is_not_a_number_is_left_out_and_said(tables: dict[str, TableView]) -> None:
    cell = row(tables["table3"], "with LR scheduler (14 epochs for 30)").cells[0]
    assert cell.value is not None
    assert "1 of 2 seeds" in cell.reason.text


def test_constants_stand_last_with_the_best_first(tables: dict[str, TableView]) -> None:
    trivial = [row.status == "trivial" for row in tables["table1"].rows]
    assert trivial == sorted(trivial)
    values = [row.cells[0].value for row in tables["table1"].rows if row.status == "trivial"]
    assert values == sorted(values, key=lambda value: value or 0)
    assert values[0] == tables["table1"].columns[0].constant


def test_system_worse_than_the_best_constant_has_learned_nothing(tables: dict[str, TableView]) -> None:
    assert row(tables["table3"], "no LR scheduler (13 epochs for 30)").cells[0].learned_nothing
    assert not row(tables["table1"], "GigaCount").cells[0].learned_nothing


def test_every_cell_of_the_papers_columns_is_counted_once(tables: dict[str, TableView]) -> None:
    cells = sum(len([c for c in row.cells if not c.column.extra]) for table in tables.values() for row in table.rows)
    counts = status_counts(tables.values())
    assert sum(counts.values()) == cells
    assert {"trained", "quoted", "trivial", "missing"} <= counts.keys()


def test_table_that_is_not_comparable_says_so(tables: dict[str, TableView]) -> None:
    assert all("drawn" in table.why_not_comparable for table in tables.values())
    assert any(BENCHMARK in note and "crowd/test" in note for note in tables["table1"].notes)


def test_gain_by_selection_is_last_minus_best_on_test(built: Tree, tables: dict[str, TableView]) -> None:
    rows = selection_rows(Sources(load(built.root)), list(tables.values()))
    for entry in rows:
        assert entry.gain == pytest.approx(entry.last - entry.best_on_test)
    assert {entry.label for entry in rows} >= {"GigaCount", "MCNN"}


def test_what_stands_for_several_benchmarks_is_said_once() -> None:
    entries = {
        "small/v1": SimpleNamespace(dataset="drawn", split="test", note="the same pictures"),
        "small/v2": SimpleNamespace(dataset="drawn", split="test", note="the same pictures"),
        "real/test": SimpleNamespace(dataset="real", split="test", note="196 entries"),
        "plain/test": SimpleNamespace(dataset="plain", split="test", note=""),
    }
    project = SimpleNamespace(
        stand_ins=entries, why_no_data=lambda name: f"nothing stands for {name}",
        place=lambda name: f"{entries[name].dataset}/{entries[name].split}",
    )  # fmt: skip
    sources, table = SimpleNamespace(project=project), SimpleNamespace(on=[*entries, "absent/test"])
    assert sorted(_stand_in_notes(cast(Any, sources), cast(Any, table))) == [
        "nothing stands for absent/test.",
        "real/test: 196 entries",
        "small/v1, small/v2: drawn/test stands for it here. the same pictures",
    ]


@pytest.fixture(scope="module")
def captions(built: Tree) -> TableView:
    return paper_tables(Sources(load(built.root)), "captioner")[0]


def test_best_constant_of_an_accuracy_is_the_highest_one(captions: TableView) -> None:
    trivial = [row.cells[0].value for row in captions.rows if row.status == "trivial"]
    assert captions.columns[0].constant == max(value for value in trivial if value is not None)
    assert trivial[0] == captions.columns[0].constant


def test_accuracy_above_the_best_constant_was_learned_and_below_it_nothing(captions: TableView, modal: Cell) -> None:
    worse = row(captions, "worse than one answer for all").cells[0]
    assert worse.learned_nothing and not modal.learned_nothing


def test_share_of_the_constants_error_is_of_wrong_answers(modal: Cell) -> None:
    assert modal.value is not None and modal.column.constant is not None
    assert modal.of_constant == pytest.approx((1 - modal.value) / (1 - modal.column.constant))


def test_accuracy_chosen_on_test_is_flagged_printed_and_measured(modal: Cell) -> None:
    assert modal.selection == "best_on_test"
    assert modal.published is not None and modal.published.chosen_on_test


def test_gain_by_selection_of_an_accuracy_is_what_it_rises_by(built: Tree, captions: TableView) -> None:
    rows = {entry.label: entry for entry in selection_rows(Sources(load(built.root)), [captions])}
    assert rows["C3 modal"].gain == pytest.approx(0.2)
    assert rows["C3 modal"].metric == "accuracy"


def test_rows_of_a_table_have_links_of_their_own() -> None:
    project = load(Path(__file__).parents[2], {"papers": []})
    for name in project.papers:
        for table in paper_tables(Sources(project), name):
            anchors = [row.anchor for row in table.rows]
            assert len(set(anchors)) == len(anchors), (name, table.name)
