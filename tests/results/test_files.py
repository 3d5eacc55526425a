"""Files below results/ are read as they were written, or refused with one line that says what to do."""

import csv
import io
import json
import math
import os
import stat
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import save_file

from people import may_not_read, umask
from recount.results.files import (
    CsvTable,
    ResultsError,
    SaveError,
    csv_text,
    file_digest,
    from_text,
    is_there,
    read_arrays,
    shared_lock,
    text_digest,
    write_atomically,
    write_text,
)  # fmt: skip
from recount.results.predictions import PREDICTIONS, PredictionRow, Timing, read_predictions
from recount.results.prompt_tests import NotTested, PromptTests
from recount.results.reason import NOTHING, Reason, joined
from recount.results.run_record import RunRecord, read_run_record, write_history
from recount.results.scores import SCORES, Score
from recount.results.verdicts import VERDICTS, VerdictRow

RECORD = {
    "run": {"system": "good", "variant": "full", "seed": 0},
    "selections": {"last": {"epoch": 5, "model": "model.safetensors", "sha256": "0" * 64}},
}
PROMPT_TESTS = {
    "made": {"run": "good/full/seed0"},
    "selection": "last",
    "benchmarks": {"a/test": {"dataset": "a", "split": "test", "pairs": {"not_tested": "it shows one class"}}},
}
TIMING = {"made": {}, "device": "cpu", "precision": "fp32", "selections": {}}
text = st.text(st.characters(codec="utf-8", exclude_categories=("Cs",)), max_size=20)


@dataclass(frozen=True)
class Line:
    name: str
    value: float
    n: int | None
    reason: Reason


LINES = CsvTable(Line, "recount test")
lines = st.builds(
    Line, text, st.floats(), st.none() | st.integers(), st.builds(Reason, st.sampled_from(["", "failed"]), text, text)
)


def same(one: Line, other: Line) -> bool:
    return (one.value == other.value or (math.isnan(one.value) and math.isnan(other.value))) and {
        **asdict(one), "value": 0,
    } == {**asdict(other), "value": 0}  # fmt: skip


@given(st.lists(lines, max_size=5))
def test_rows_read_back_as_they_were_written(tmp_path_factory: pytest.TempPathFactory, rows: list[Line]) -> None:
    path = tmp_path_factory.mktemp("rows") / "lines.csv"
    LINES.write(path, rows)
    assert all(same(one, other) for one, other in zip(rows, LINES.read(path), strict=True))
    assert [row.name for row in rows] == LINES.frame(path.read_bytes(), "lines.csv")["name"].tolist()


@pytest.mark.parametrize("table", [SCORES, VERDICTS, PREDICTIONS])
def test_a_table_of_an_older_recount_is_refused_with_the_command_that_writes_it(
    tmp_path: Path, table: CsvTable
) -> None:
    path = tmp_path / "old.csv"
    path.write_text(",".join(table.columns[1:]) + "\n")
    for read in (table.read, table.frame):
        with pytest.raises(ResultsError, match=rf"old\.csv: no column {table.columns[0]}: an older .* `{table.step}`"):
            read(path)


def test_a_column_of_a_newer_recount_is_left_alone() -> None:
    content = ",".join([*LINES.columns, "later"]) + "\na,1.5,,,,,x\n"
    assert LINES.read(content.encode(), "new.csv") == [Line("a", 1.5, None, NOTHING)]


def test_a_kind_of_reason_that_is_not_known_is_refused() -> None:
    content = ",".join(LINES.columns) + "\na,1.5,,tired,it slept,\n"
    with pytest.raises(ResultsError, match=r"reason_kind = 'tired', which only a newer recount knows"):
        LINES.read(content.encode(), "new.csv")


def test_a_reason_has_columns_of_its_own() -> None:
    reason = Reason("failed", "training failed", "line 1\nout of memory")
    assert {"reason_kind", "reason", "log"} <= set(SCORES.columns) & set(VERDICTS.columns)
    assert joined([Reason("note", "2 of 3 seeds"), reason, reason]) == Reason(
        "failed", "2 of 3 seeds; training failed", reason.log
    )


def test_a_value_that_is_no_number_is_named(tmp_path: Path) -> None:
    path = tmp_path / "p.csv"
    PREDICTIONS.write(path, [PredictionRow("s0", "", "cups", 3.0, math.nan, "last")])
    assert "nan" in path.read_text()
    assert read_predictions(path)["last"].not_finite == ["s0"]
    path.write_text(path.read_text().replace("nan", "many"))
    with pytest.raises(ResultsError, match=r"p\.csv: damaged: line 2: predicted_count = .many. is not a number"):
        read_predictions(path)


@pytest.mark.parametrize("count", [math.nan, math.inf, -math.inf])
def test_predictions_that_are_not_finite_are_named(tmp_path: Path, count: float) -> None:
    rows = [PredictionRow(name, "", "", 3.0, predicted, "last") for name, predicted in (("s0", 1.0), ("s1", count))]
    PREDICTIONS.write(tmp_path / "p.csv", rows)
    assert read_predictions(tmp_path / "p.csv")["last"].not_finite == ["s1"]


def test_a_sample_that_is_there_twice_is_refused(tmp_path: Path) -> None:
    PREDICTIONS.write(tmp_path / "p.csv", [PredictionRow("s0", "", "", 3.0, 4.0, "last")] * 2)
    with pytest.raises(ResultsError, match="it has s0 twice"):
        read_predictions(tmp_path / "p.csv")


@pytest.mark.parametrize(("kind", "content"), [(RunRecord, RECORD), (PromptTests, PROMPT_TESTS), (Timing, TIMING)])
def test_records_read_back_and_of_older_and_newer_recounts_are_refused(
    tmp_path: Path, kind: type[RunRecord], content: dict
) -> None:
    path = tmp_path / "new.json"
    written = kind.model_validate({**content, "what_is_this": 1})
    written.write(path)
    assert kind.read(path) == written
    assert json.loads(path.read_text())["schema_version"] == kind.SCHEMA
    older = json.dumps({"schema_version": kind.OLDEST - 1})  # whatever it lacks
    with pytest.raises(ResultsError, match=rf"x\.json: schema_version = {kind.OLDEST - 1}: an older .* `{kind.STEP}`"):
        kind.parse(older, "x.json")
    newer = json.dumps({**content, "schema_version": kind.SCHEMA + 1})
    with pytest.raises(ResultsError, match=rf"x\.json: schema_version = {kind.SCHEMA + 1}: a newer recount wrote it"):
        kind.parse(newer, "x.json")


def test_a_record_whose_content_changed_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "run.json"
    RunRecord.model_validate(RECORD).write(path)
    path.write_text(path.read_text().replace('"epoch": 5', '"epoch": 6'))
    with pytest.raises(
        ResultsError, match=r"run\.json: damaged: its checksum is .*and its content has .*`recount train`"
    ):
        RunRecord.read(path)


def test_a_record_that_cannot_be_read_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ResultsError, match="cannot be read: Is a directory"):
        RunRecord.read(tmp_path)


@pytest.mark.parametrize(
    ("content", "what"),
    [
        ("{", "EOF"),
        ("[]", "Input should be an object"),
        (f'{{"schema_version": {RunRecord.SCHEMA}, "run": {{}}, "selections": {{}}}}', r"run\.system: Field required"),
    ],
)
def test_a_damaged_record_is_refused_with_the_place_and_the_command(tmp_path: Path, content: str, what: str) -> None:
    (tmp_path / "run.json").write_text(content)
    with pytest.raises(ResultsError, match=rf"run\.json: damaged: .*{what}.*; `recount train` makes it anew$"):
        read_run_record(tmp_path)


def test_a_run_that_is_not_trained_says_so(tmp_path: Path) -> None:
    with pytest.raises(ResultsError, match=r"run\.json: no such file: this run is not trained"):
        read_run_record(tmp_path)


def test_what_json_does_not_have_comes_back(tmp_path: Path) -> None:
    record = RunRecord.model_validate(RECORD)
    record.selections["last"].on["mae"] = math.nan
    record.write(tmp_path / "run.json")
    assert math.isnan(read_run_record(tmp_path).selections["last"].on["mae"])
    tested = PromptTests.model_validate(PROMPT_TESTS).benchmarks["a/test"]
    assert (tested.maps, tested.pairs) == (None, NotTested(not_tested="it shows one class"))


def test_history_has_every_column_that_an_epoch_has(tmp_path: Path) -> None:
    write_history(tmp_path / "history.csv", [{"epoch": 1, "loss": 0.5}, {"epoch": 2, "loss": 0.25, "mae": 3.0}])
    assert (tmp_path / "history.csv").read_text() == "epoch,loss,mae\n1,0.5,\n2,0.25,3.0\n"


def test_a_file_that_cannot_be_written_leaves_the_old_one(tmp_path: Path) -> None:
    path = tmp_path / "scores.csv"
    SCORES.write(path, [])
    before = file_digest(path)

    def fail(temporary: Path) -> None:
        temporary.write_text("half")
        raise OSError(28, "No space left on device")

    with pytest.raises(SaveError, match=r"scores\.csv: cannot be written: .*No space left on device.*unchanged"):
        write_atomically(path, fail)
    assert file_digest(path) == before == text_digest(path.read_text())
    assert [entry.name for entry in tmp_path.iterdir()] == ["scores.csv"]


def test_bytes_are_on_the_disk_before_they_have_their_name_and_the_name_is_after(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    done: list[str] = []
    fsync, replace = os.fsync, Path.replace

    def flushed(descriptor: int) -> None:
        done.append("folder" if stat.S_ISDIR(os.fstat(descriptor).st_mode) else "bytes")
        fsync(descriptor)

    def named(self: Path, target: Path) -> Path:
        done.append("name")
        return replace(self, target)

    monkeypatch.setattr(os, "fsync", flushed)
    monkeypatch.setattr(Path, "replace", named)
    write_text(tmp_path / "a.txt", "x")
    assert done == ["bytes", "name", "folder"]


def test_arrays_that_hold_pickled_objects_are_damaged(tmp_path: Path) -> None:
    np.savez(tmp_path / "maps.npz", a=np.array([{}], dtype=object))
    with pytest.raises(ResultsError, match=r"maps\.npz: damaged: .*; `recount predict` makes it anew$"):
        read_arrays(tmp_path / "maps.npz", "recount predict")


def test_every_column_of_a_row_has_a_place(tmp_path: Path) -> None:
    score = Score("p", "t", "r", "s", "v", "all", "b", "d", "last", "mae", value=1.5, n=3, status="trained")
    SCORES.write(tmp_path / "scores.csv", [score])
    read = SCORES.read(tmp_path / "scores.csv")[0]
    assert (read.row, read.value, read.n, math.isnan(read.sd), read.reason) == ("r", 1.5, 3, True, NOTHING)
    verdict = VerdictRow(*"pcwkst", "trained", "last", published=None, reason=Reason("note", "why"))
    VERDICTS.write(tmp_path / "verdicts.csv", [verdict])
    assert VERDICTS.frame(tmp_path / "verdicts.csv")["reason"].tolist() == ["why"]


@pytest.mark.parametrize("mask", [0o022, 0o077])
def test_a_file_has_the_mode_that_the_umask_leaves(tmp_path: Path, mask: int) -> None:
    path = tmp_path / "model.safetensors"
    with umask(mask):
        write_atomically(path, lambda temporary: os.close(os.open(temporary, os.O_CREAT | os.O_WRONLY, 0o600)))
        assert path.stat().st_mode & 0o777 == 0o666 & ~mask
        write_atomically(path, lambda temporary: save_file({"w": torch.zeros(1)}, temporary))
    assert path.stat().st_mode & 0o777 == 0o666 & ~mask


def test_locks_can_be_taken_by_others_whatever_the_umask(tmp_path: Path) -> None:
    with umask(0o077), shared_lock(tmp_path / "run.lock"):
        assert (tmp_path / "run.lock").stat().st_mode & 0o777 == 0o666


def test_a_name_may_be_as_long_as_the_file_system_allows(tmp_path: Path) -> None:
    path = tmp_path / f"{'é' * 125}.csv"
    write_text(path, "x")
    assert path.read_text() == "x"
    with pytest.raises(SaveError, match=r"cannot be written: .*too long"):
        write_text(tmp_path / ("n" * 300), "x")


FORMULAS = ["=1+1", "+SUM(A1)", "-2+3", "@x", "\t=1", "\r=1", "'=1", "''-a", "＝1"]


@pytest.mark.parametrize("cell", FORMULAS)
def test_a_text_is_never_a_formula_and_reads_back_as_it_was(cell: str) -> None:
    (shown,) = list(csv.reader(io.StringIO(csv_text(["a"], [[cell]]), newline="")))[1]
    assert shown.startswith("'")
    assert from_text(shown) == cell
    row = Line(cell, 1.0, 2, Reason("note", cell, cell))
    written = csv_text(LINES.columns, [[cell, 1.0, 2, "note", cell, cell]])
    assert LINES.read(written.encode(), "x.csv") == [row]


@pytest.mark.parametrize("number", ["-1", "+0.5", "-1e-05", "-inf", "nan", -3, -0.25])
def test_a_number_stays_a_number(number: str | float) -> None:
    assert csv_text(["a"], [[number]]) == f"a\n{number}\n"


def test_a_file_that_may_not_be_read_says_so_in_one_line(tmp_path: Path) -> None:
    for name in ("scores.csv", "run.json", "maps.npz"):
        (tmp_path / name).write_text("{}")
    with may_not_read(tmp_path / "scores.csv", tmp_path / "run.json", tmp_path / "maps.npz"):
        for read in (SCORES.read, RunRecord.read, lambda path: read_arrays(path, "recount predict")):
            for name in ("scores.csv", "run.json", "maps.npz"):
                with pytest.raises(ResultsError, match=rf"{name}: cannot be read: Permission denied$"):
                    read(tmp_path / name)
    (tmp_path / "closed").mkdir()
    with may_not_read(tmp_path / "closed"), pytest.raises(ResultsError, match="cannot be read: Permission denied"):
        is_there(tmp_path / "closed" / "scores.csv")
