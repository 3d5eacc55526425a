"""``recount compare``: cells side by side with honest differences, and what differed in how runs were made."""

import csv
import json
import math
import re
import shutil
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from rich.console import Console
from typer.testing import CliRunner

from projects import csv_rows
from recount.chain import MADE
from recount.cli import app
from recount.documents import FORMATS, show, write
from recount.errors import UserError
from recount.exchange import reproduction
from recount.exchange.compare import ComparedCell, Comparison, compare
from recount.exchange.compare_view import document
from recount.exchange.reproduction import open_reproduction
from recount.metrics import MAE
from recount.results.files import Made, ResultsError, file_digest, note_tables
from recount.results.predictions import Timing, timing_path
from recount.results.run_record import RunRecord, read_run_record
from recount.results.scores import SCORES
from recount.results.verdicts import VERDICTS
from recount.scoring.statistics import paired_difference

TRUE = np.random.default_rng(1).integers(1, 300, 60).astype(float)
NOISE = np.random.default_rng(2).normal(0, 12, 60)
CLOSE = np.random.default_rng(3).normal(0, 12, 60)
HOSTILE = "<script>alert(1)</script>|`x`"


def results(folder: Path, **given: Any) -> Path:
    """Write the results of one system; ``given``: errors by seed, true, dataset, record, extra rows."""
    errors: dict[int, np.ndarray] = given.get("errors", {0: NOISE})
    true, dataset = given.get("true", TRUE), given.get("dataset", "dots/test")
    rows = []
    values = []
    for seed, wrong in errors.items():
        path = folder / f"predictions/{dataset}/good/full/seed{seed}.csv"
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("w", newline="") as stream:
            writer = csv.writer(stream)
            writer.writerow(["id", "image", "prompt", "true_count", "predicted_count", "selection"])
            for k, (t, e) in enumerate(zip(true, wrong, strict=True)):
                writer.writerow([f"s{k}", f"s{k}.jpg", "", repr(float(t)), repr(float(t + e)), "last"])
        values.append(MAE(true, true + wrong))
        rows.append(row(str(seed), values[-1], dataset))
        record = {
            "run": {"system": "good", "variant": "full", "seed": seed},
            "settings": {"width": 16},
            "recipe": {"epochs": 3},
            "precision_used": "fp32",
            "selections": {"last": {"epoch": 3, "model": "last.safetensors", "sha256": f"{seed}" * 64}},
            "cost": {"wall_seconds": 10.0},
            "provenance": {"commit": "aa", "device": "cpu", "packages": {"torch": "2.9.0"}, "command": ["x"]},
        }
        record |= given.get("record", {})
        RunRecord.model_validate(record).write(folder / f"runs/good/full/seed{seed}/run.json")
    rows.append(row("all", float(np.mean(values)), dataset))
    rows += given.get("extra", [])
    with (folder / "scores.csv").open("w", newline="") as stream:
        writer = csv.DictWriter(stream, SCORES.columns)
        writer.writeheader()
        writer.writerows(rows)
    return whole(folder)


def whole(folder: Path) -> Path:
    """Write what the results say of themselves, as they lie there; return ``folder``."""
    predictions = sorted(folder.glob("predictions/*/*/*/*/seed*.csv"))
    for path in predictions:
        record = read_run_record(folder / "runs" / Path(*path.parts[-3:]).with_suffix(""))
        models = {name: selection.sha256 for name, selection in record.selections.items()}
        made = Made(content={path.name: file_digest(path)}, run=record.id, models=models)
        Timing(made=made, device="cpu", precision="fp32", selections={}).write(timing_path(path))
    digests = {path.relative_to(folder).as_posix(): file_digest(path) for path in predictions}
    note_tables(folder / MADE["score"], ("scores.csv",), Made(results=digests))
    return folder


def edited(path: Path, content: bytes) -> None:
    """Write other scores, as ``recount score`` would."""
    path.write_bytes(content)
    whole(path.parent)


def row(seed: str, value: float | str, dataset: str = "dots/test", **other: Any) -> dict[str, Any]:
    return {
        "paper": "paper",
        "table": "table1",
        "row": "good_row",
        "system": "good",
        "variant": "full",
        "seed": seed,
        "benchmark": "shown/test",
        "dataset": dataset,
        "selection": "last",
        "metric": "mae",
        "value": value,
        "n": len(TRUE),
        "status": "trained",
        **other,
    }


def compared(a: Path, b: Path) -> Comparison:
    return compare(open_reproduction(a), open_reproduction(b))


def only_cell(a: Path, b: Path) -> ComparedCell:
    (cell,) = compared(a, b).cells
    return cell


def test_the_same_results_are_identical(tmp_path: Path) -> None:
    comparison = compared(results(tmp_path / "a"), results(tmp_path / "b"))
    assert comparison.outcomes == {"identical": 1}
    assert comparison.changed == ()
    assert [run.same_weights for run in comparison.runs] == [True]


def test_a_difference_is_b_minus_a_with_its_interval_over_images(tmp_path: Path) -> None:
    cell = only_cell(results(tmp_path / "a"), results(tmp_path / "b", errors={0: NOISE * 2}))
    expected = paired_difference(MAE, TRUE, TRUE + NOISE * 2, TRUE + NOISE)
    assert cell.difference == pytest.approx(cell.b.value - cell.a.value)
    assert cell.difference == pytest.approx(np.abs(NOISE).mean())
    assert (cell.low, cell.high, cell.p_value) == (expected.low, expected.high, expected.p_value)
    assert cell.outcome == "differ"


def test_errors_of_one_size_agree(tmp_path: Path) -> None:
    cell = only_cell(results(tmp_path / "a"), results(tmp_path / "b", errors={0: CLOSE}))
    assert cell.outcome == "agree"
    assert cell.low < 0 < cell.high


def test_seeds_are_the_second_level(tmp_path: Path) -> None:
    cell = only_cell(
        results(tmp_path / "a", errors={0: NOISE, 1: CLOSE}), results(tmp_path / "b", errors={0: CLOSE * 3, 1: NOISE})
    )
    expected = paired_difference(MAE, TRUE, TRUE + np.stack([CLOSE * 3, NOISE]), TRUE + np.stack([NOISE, CLOSE]))
    assert (cell.a.seeds, cell.b.seeds) == ("0 1", "0 1")
    assert (cell.low, cell.high) == (expected.low, expected.high)


def test_p_values_are_adjusted_for_the_number_of_systems_but_not_of_tables(tmp_path: Path) -> None:
    def with_more(folder: Path, wrong: np.ndarray) -> Path:
        value = MAE(TRUE, TRUE + wrong)
        again = row("all", value, table="table2")
        other = row("all", value, system="other")
        results(folder, errors={0: wrong}, extra=[again, other])
        for good in ("predictions/dots/test/good", "runs/good"):
            shutil.copytree(folder / good, (folder / good).with_name("other"))
        record = read_run_record(folder / "runs/good/full/seed0")
        record.run.system = "other"
        record.write(folder / "runs/other/full/seed0/run.json")
        return whole(folder)

    alone = only_cell(results(tmp_path / "a"), results(tmp_path / "b", errors={0: CLOSE * 1.2}))
    cells = compared(with_more(tmp_path / "c", NOISE), with_more(tmp_path / "d", CLOSE * 1.2)).cells
    assert len(cells) == 3
    assert all(cell.p_value == pytest.approx(min(1, 2 * alone.p_value)) for cell in cells)


def test_other_data_are_not_compared(tmp_path: Path) -> None:
    a = results(tmp_path / "a")
    other_set = only_cell(a, results(tmp_path / "b", dataset="lines/test", errors={0: CLOSE}))
    other_counts = only_cell(a, results(tmp_path / "c", true=TRUE + 1, errors={0: CLOSE}))
    fewer = only_cell(a, results(tmp_path / "d", true=TRUE[:50], errors={0: CLOSE[:50]}))
    for cell, why in ((other_set, "dots/test and lines/test"), (other_counts, "true counts"), (fewer, "other images")):
        assert cell.outcome == "other data"
        assert why in cell.why
        assert math.isnan(cell.difference)


def test_without_predictions_there_is_a_difference_and_no_interval(tmp_path: Path) -> None:
    b = results(tmp_path / "b", errors={0: CLOSE})
    next(b.glob("predictions/**/*.csv")).unlink()
    cell = only_cell(results(tmp_path / "a"), b)
    assert cell.outcome == "no interval"
    assert cell.why == "no predictions in B"
    assert math.isfinite(cell.difference)
    assert math.isnan(cell.low)


def test_scores_older_than_predictions_are_noticed(tmp_path: Path) -> None:
    b = results(tmp_path / "b", errors={0: CLOSE})
    scores = pd.read_csv(b / "scores.csv").assign(value=99.0)
    scores.to_csv(b / "scores.csv", index=False)
    with pytest.raises(ResultsError, match=r"scores\.csv: damaged: .*; `recount score` makes it anew"):
        only_cell(results(tmp_path / "a"), b)
    whole(b)
    cell = only_cell(results(tmp_path / "a"), b)
    assert cell.outcome == "no interval"
    assert "score again" in cell.why


def test_a_number_on_one_side_is_told_with_the_reason_for_the_other(tmp_path: Path) -> None:
    missing = [row("all", "", selection="", status="missing", reason="out of memory")]
    b = results(tmp_path / "b", errors={0: CLOSE}, extra=[row("all", 3.0, system="third")])
    table = pd.read_csv(b / "scores.csv", dtype=str, keep_default_na=False)
    kept = pd.concat([table[table["system"] == "third"], pd.DataFrame(missing).astype(str)]).fillna("")
    edited(b / "scores.csv", kept.to_csv(index=False).encode())
    cells = {cell.system: cell for cell in compared(results(tmp_path / "a"), b).cells}
    assert (cells["good"].outcome, cells["good"].why) == ("only A", "out of memory")
    assert (cells["third"].outcome, cells["third"].why) == ("only B", "no such cell")


def test_a_quoted_number_is_none_of_ours(tmp_path: Path) -> None:
    quoted = [row("all", 12.5, system="old", status="quoted")]
    cells = compared(results(tmp_path / "a", extra=quoted), results(tmp_path / "b", extra=quoted)).cells
    assert {cell.system: cell.outcome for cell in cells}["old"] == "neither"


def test_what_differed_in_the_making_is_said_once_with_its_runs(tmp_path: Path) -> None:
    two = {0: NOISE, 1: CLOSE}
    made_with = {
        "commit": "bb",
        "device": "cuda:0",
        "packages": {"torch": "2.9.1", "triton": "3"},
        "command": ["other"],
        "hardware": {"gpus": [{"name": "a card"}]},
    }
    b = results(tmp_path / "b", errors=two, record={"provenance": made_with, "recipe": {"epochs": 4}})
    changed = compared(results(tmp_path / "a", errors=two), b).changed
    found = {(entry.part, entry.key): (entry.a, entry.b) for entry in changed}
    assert found[("recipe", "epochs")] == ("3", "4")
    assert found[("commit", "")] == ("aa", "bb")
    assert found[("device", "")] == ("cpu", "cuda:0")
    assert found[("packages", "torch")] == ("2.9.0", "2.9.1")
    assert found[("packages", "triton")] == ("absent", "3")
    assert "a card" in found[("hardware", "gpus")][1]
    assert not any("command" in key for key in found)
    assert all(entry.runs == ("good/full/seed0", "good/full/seed1") for entry in changed)


def test_verdicts_stand_side_by_side(tmp_path: Path) -> None:
    def judged(folder: Path, **verdicts: str) -> Path:
        results(folder)
        rows = [
            dict.fromkeys(VERDICTS.columns, "")
            | {"paper": "paper", "claim": claim, "evidence_status": "trained", "headline": headline, "verdict": verdict}
            for claim, text in verdicts.items()
            for headline, verdict in (("yes", text), ("", "not this row"))
        ]
        pd.DataFrame(rows).to_csv(folder / "verdicts.csv", index=False)
        note_tables(folder / MADE["judge"], ("verdicts.csv",), Made())
        return folder

    a = judged(tmp_path / "a", first="holds", second="undecided")
    comparison = compared(a, judged(tmp_path / "b", first="holds", second="does not hold", third="holds"))
    assert [(entry.claim, entry.a, entry.b) for entry in comparison.verdicts] == [
        ("first", "holds", "holds"),
        ("second", "undecided", "does not hold"),
        ("third", "", "holds"),
    ]
    write(document(comparison, everything=True), tmp_path / "out.md")
    assert "3 verdicts on claims, 2 of them different" in (tmp_path / "out.md").read_text("utf-8")


def test_runs_of_one_side_are_named(tmp_path: Path) -> None:
    comparison = compared(results(tmp_path / "a", errors={0: NOISE, 1: CLOSE}), results(tmp_path / "b"))
    assert comparison.only_a == ("good/full/seed1",)
    assert comparison.only_b == ()


def test_an_export_and_its_zip_are_read_like_results(tmp_path: Path) -> None:
    results(tmp_path / "export" / "results")
    (tmp_path / "export" / "tables").mkdir()
    (tmp_path / "export" / "report" / "tables").mkdir(parents=True)
    (tmp_path / "export" / "report" / "tables" / "scores.csv").write_text("not this one")
    with zipfile.ZipFile(tmp_path / "export.zip", "w") as archive:
        for path in (tmp_path / "export").rglob("*.*"):
            archive.write(path, f"mine/{path.relative_to(tmp_path / 'export').as_posix()}")
    plain = results(tmp_path / "plain")
    for other in (tmp_path / "export", tmp_path / "export.zip"):
        assert compared(plain, other).outcomes == {"identical": 1}


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda path: None, "no such file or folder"),
        (lambda path: path.mkdir(), "no scores.csv in it: give an export"),
        (lambda path: path.write_bytes(b"PK\x03\x04 no zip"), "neither a folder nor a readable zip file"),
        (lambda path: [results(path / suite) for suite in ("mini", "open")], "results of several suites: mini/, open/"),
        (lambda path: (results(path) / "scores.csv").write_text("a,b\n1,2\n"), "scores.csv: damaged: its content"),
        (lambda path: (results(path) / MADE["score"]).unlink(), "scores.csv: no scores.made.json says what it was"),
        (lambda path: edited(results(path) / "scores.csv", b"a,b\n1,2\n"), "scores.csv: no column paper"),
        (lambda path: edited(results(path) / "scores.csv", b"\xff\xfe\x00"), "scores.csv: cannot be read"),
        (lambda path: results(path, extra=[row("all", "many", system="x")]), "value = 'many' is not a number"),
    ],
)
def test_what_cannot_be_read_is_told(tmp_path: Path, make: Any, message: str) -> None:
    make(tmp_path / "b")
    with pytest.raises((UserError, ResultsError), match=re.escape(message)):
        compared(results(tmp_path / "a"), tmp_path / "b")


PREDICTED = "predictions/dots/test/good/full/seed{}.csv"


def older(path: Path) -> None:
    path.write_text(path.read_text().replace('"schema_version": 3', '"schema_version": 2'))


def swapped(folder: Path) -> None:
    """Exchange the predictions of two seeds, with their records."""
    for kind in (".csv", ".timing.json"):
        one, other = (folder / PREDICTED.format(seed).replace(".csv", kind) for seed in (0, 1))
        content = one.read_bytes(), other.read_bytes()
        one.write_bytes(content[1]), other.write_bytes(content[0])
    digests = {PREDICTED.format(seed): file_digest(folder / PREDICTED.format(seed)) for seed in (0, 1)}
    note_tables(folder / MADE["score"], ("scores.csv",), Made(results=digests))


def of_another_benchmark(folder: Path) -> None:
    path = timing_path(folder / PREDICTED.format(0))
    record = Timing.read(path)
    record.made.data = {"other/original": "0" * 64}
    record.write(path)


@pytest.mark.parametrize(
    ("fault", "said"),
    [
        (lambda b: (b / "runs/good/full/seed0/run.json").write_text("{"), "run.json: damaged: Invalid JSON"),
        (lambda b: older(b / "runs/good/full/seed0/run.json"), "run.json: schema_version = 2: an older recount"),
        (lambda b: shutil.copy(b / "runs/good/full/seed1/run.json", b / "runs/good/full/seed0"), "the record of good"),
        (lambda b: (b / PREDICTED.format(0)).write_text("id\n"), "damaged: its content is not what was written"),
        (lambda b: (b / "verdicts.csv").write_text("edited"), "verdicts.csv: no verdicts.made.json"),
        (swapped, "seed0.csv: damaged: its content is not what was written"),
        (of_another_benchmark, "damaged: it was made by good/full/seed0 on other/original"),
    ],
)
def test_one_unfit_file_costs_its_own_rows_and_is_named(tmp_path: Path, fault: Any, said: str) -> None:
    extra = [row("all", 3.0, system="third")]
    b = results(tmp_path / "b", errors={0: NOISE, 1: CLOSE}, extra=extra)
    fault(b)
    comparison = compared(results(tmp_path / "a", extra=extra), b)
    assert any(said in why for why in comparison.unfit), comparison.unfit
    cells = {cell.system: cell for cell in comparison.cells}
    assert cells["third"].outcome == "identical"
    assert cells["good"].b.status == ("trained" if "verdicts" in said else "missing")


def test_a_damaged_member_of_a_zip_is_told(tmp_path: Path) -> None:
    results(tmp_path / "b")
    with zipfile.ZipFile(tmp_path / "b.zip", "w") as archive:
        for name in ("scores.csv", MADE["score"]):
            archive.write(tmp_path / "b" / name, name)
    content = bytearray((tmp_path / "b.zip").read_bytes())
    content[60] ^= 0xFF
    (tmp_path / "b.zip").write_bytes(bytes(content))
    with pytest.raises(UserError, match=r"scores\.csv: cannot be read"):
        compared(results(tmp_path / "a"), tmp_path / "b.zip")


def linked(archive: zipfile.ZipFile) -> None:
    link = zipfile.ZipInfo("runs/good/full/seed0/run.json")
    link.external_attr = 0o120777 << 16
    archive.writestr(link, "/etc/passwd")


@pytest.mark.parametrize(
    ("add", "message"),
    [
        (
            lambda archive: archive.writestr("scores.csv", b"\0" * 65_000_000),
            "65,000,000 bytes, and a file has at most",
        ),
        (lambda archive: archive.writestr("../scores.csv", "x"), "'../scores.csv' leads out of the export"),
        (lambda archive: archive.writestr("/tmp/x.csv", "x"), "'/tmp/x.csv' leads out of the export"),
        (lambda archive: archive.writestr("a\\..\\..\\x.csv", "x"), "leads out of the export"),
        (lambda archive: [archive.writestr("scores.csv", text) for text in "ab"], "'scores.csv' is in it twice"),
        (linked, "is a link, and no export has any"),
    ],
    ids=["bomb", "up", "absolute", "windows", "twice", "link"],
)
@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_a_zip_that_no_export_is_like_is_refused(tmp_path: Path, add: Any, message: str) -> None:
    with zipfile.ZipFile(tmp_path / "b.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        add(archive)
        archive.write(results(tmp_path / "a") / MADE["score"], MADE["score"])
    with pytest.raises(UserError, match=re.escape(message)):
        compared(tmp_path / "a", tmp_path / "b.zip")


def test_what_is_read_and_how_many_files_there_are_is_limited(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    a, b = results(tmp_path / "a"), results(tmp_path / "b", errors=dict.fromkeys(range(3), CLOSE))
    size = sum(path.stat().st_size for path in b.rglob("*.*"))
    monkeypatch.setattr(reproduction, "MOST_BYTES", size)
    assert compared(a, b).outcomes
    monkeypatch.setattr(reproduction, "MOST_BYTES", size // 2)
    with pytest.raises(UserError, match="all that is read"):
        compared(a, b)
    monkeypatch.setattr(reproduction, "MOST_FILES", 5)
    with pytest.raises(UserError, match="11 files are more than the 5 allowed"):
        compared(a, b)


def test_a_link_that_leads_out_of_a_folder_is_refused(tmp_path: Path) -> None:
    b = results(tmp_path / "b")
    (b / "verdicts.csv").symlink_to("/etc/passwd")
    with pytest.raises(UserError, match=r"verdicts\.csv: a link that leads out"):
        compared(results(tmp_path / "a"), b)
    (b / "verdicts.csv").unlink()
    (b / "again.csv").symlink_to(b / "scores.csv")
    assert compared(results(tmp_path / "a"), b).outcomes == {"identical": 1}


FORMULA = "=HYPERLINK('x')"


def test_what_commands_a_terminal_is_printed_as_text(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    given = {"errors": {0: NOISE}, "extra": [row("all", 1.0, system="\x1b[31mred\x9b2J", status="trained")]}
    show(document(compared(results(tmp_path / "a", **given), results(tmp_path / "b"))), Console(width=200))
    assert r"\x1b[31mred\x9b2J" in capsys.readouterr().out


def test_formulas_of_another_reproduction_are_text(tmp_path: Path) -> None:
    given = {"errors": {0: NOISE}, "extra": [row("all", -0.5, system=FORMULA, status="trained", reason="@SUM(1)|<b>")]}
    comparison = compared(results(tmp_path / "a", **given), results(tmp_path / "b"))
    write(document(comparison, everything=True), tmp_path / "out.csv")
    cells = list(csv.reader((tmp_path / "out.csv").open(newline="")))
    assert any(f"'{FORMULA}" in cell and "'@SUM(1)|<b>" in cell and "-0.5" in cell for cell in cells)
    write(document(comparison, everything=True), tmp_path / "out.md")
    assert f"| \\{FORMULA} |" in (tmp_path / "out.md").read_text().replace("/full", "")


def test_nothing_in_common_is_an_error(tmp_path: Path) -> None:
    b = results(tmp_path / "b")
    table = pd.read_csv(b / "scores.csv").assign(paper="another")
    edited(b / "scores.csv", table.to_csv(index=False).encode())
    with pytest.raises(UserError, match="no cell of any table in common"):
        compared(results(tmp_path / "a"), b)


def test_every_format_says_the_same(tmp_path: Path) -> None:
    comparison = compared(results(tmp_path / "a"), results(tmp_path / "b", errors={0: NOISE * 2}))
    for suffix in FORMATS:
        write(document(comparison, everything=True), tmp_path / f"out{suffix}")
    cell = comparison.cells[0]
    (line,) = csv_rows(tmp_path / "out.csv")
    assert float(line["difference"]) == cell.difference
    assert (float(line["value_a"]), line["outcome"]) == (cell.a.value, "differ")
    content = json.loads((tmp_path / "out.json").read_text("utf-8"))
    assert content["cells"][0]["difference"] == cell.difference
    assert content["cells"][0]["a"]["low"] is None
    assert content["outcomes"] == {"differ": 1}
    for suffix in (".md", ".html"):
        text = (tmp_path / f"out{suffix}").read_text("utf-8")
        assert f"{cell.a.value:.2f}" in text
        assert "differ" in text


def test_foreign_text_cannot_become_markup(tmp_path: Path) -> None:
    extra = [row("all", 3.0, row="hostile", variant=HOSTILE)]
    comparison = compared(results(tmp_path / "a", extra=extra), results(tmp_path / "b", extra=extra))
    for suffix in (".md", ".html"):
        write(document(comparison, everything=True), tmp_path / f"out{suffix}")
        assert "<script>alert" not in (tmp_path / f"out{suffix}").read_text("utf-8")


def test_an_unknown_format_is_told_before_anything_is_read(tmp_path: Path) -> None:
    answer = CliRunner().invoke(app, ["compare", "nothing", "here", "--output", "out.pdf"])
    assert answer.exit_code == 1
    assert "ends in .txt, .json, .csv, .md, .html" in answer.output


def test_the_command_prints_cells_and_what_differed(tmp_path: Path) -> None:
    a = results(tmp_path / "a")
    b = results(tmp_path / "b", errors={0: NOISE * 2}, record={"precision_used": "[bold]fp16[/bold]"})
    answer = CliRunner().invoke(app, ["compare", str(a), str(b)], env={"COLUMNS": "240"})
    assert answer.exit_code == 0, answer.output
    assert "1 cell: differ" in answer.stdout
    assert "good/full" in answer.stdout
    assert "[bold]fp16[/bold]" in answer.stdout
    saved = CliRunner().invoke(app, ["compare", str(a), str(b), "--output", str(tmp_path / "out.html")])
    assert saved.stdout.strip() == str(tmp_path / "out.html")
    assert (tmp_path / "out.html").is_file()


def test_what_agrees_is_counted_and_shown_on_request(tmp_path: Path) -> None:
    extra = [row("all", 1.0, system="only_here", status="trained")]
    a, b = results(tmp_path / "a", extra=extra), results(tmp_path / "b")
    short = CliRunner().invoke(app, ["compare", str(a), str(b)]).stdout
    long = CliRunner().invoke(app, ["compare", str(a), str(b), "--all"]).stdout
    assert "good/full" not in short and "only_here" in short
    assert "1 cells and 0 verdicts on which both sides agree are not shown: --all" in short
    assert "identical" in long and long.index("only_here") < long.index("good/full")


def test_other_counts_from_identical_weights_are_named(tmp_path: Path) -> None:
    edit = NOISE.copy()
    edit[3] += 40
    comparison = compared(results(tmp_path / "a"), results(tmp_path / "b", errors={0: edit}))
    (named,) = comparison.unexplained
    assert named.startswith("good/full/seed0 (last) on dots/test: 1 of") and "edited" in named
    assert compared(tmp_path / "a", results(tmp_path / "c", errors={0: NOISE * (1 + 1e-6)})).unexplained == ()
