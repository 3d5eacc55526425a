"""Tables as files: nothing in the data can break out of a cell."""

import shutil
import subprocess
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from projects import csv_rows
from recount.report.export import LATEX_PREAMBLE, LATEX_SPECIAL, escape_latex, escape_markdown


def test_latex_specials_are_printed_as_they_are() -> None:
    assert escape_latex(r"50 % of a_b & c\d {e} $f$") == (r"50 \% of a\_b \& c\textbackslash{}d \{e\} \$f\$")


@given(st.text())
def test_no_bare_latex_special_is_left(text: str) -> None:
    escaped = escape_latex(text)
    for known in sorted(set(LATEX_SPECIAL.values()), key=len, reverse=True):
        escaped = escaped.replace(known, "")
    assert not set(escaped) & set("\\&%$#_{}~^")


def test_character_that_latex_does_not_know_is_named_by_its_number() -> None:
    assert escape_latex("計 ⚑ é") == "[U+8A08] [U+2691] é"


def compiles(files: list[Path], folder: Path) -> bool:
    """Return whether pdfLaTeX sets the tables, with the packages that each names in its first line."""
    preamble = files[0].read_text(encoding="utf-8").splitlines()[0].removeprefix("% ")
    inputs = "".join(rf"\input{{{path.as_posix()}}}\clearpage" for path in files)
    source = folder / "tables.tex"
    source.write_text(
        rf"\documentclass{{article}}{preamble}\begin{{document}}{inputs}\end{{document}}", encoding="utf-8"
    )
    command = ["pdflatex", "-interaction=nonstopmode", "-halt-on-error", "-no-shell-escape", source.name]
    return subprocess.run(command, check=False, cwd=folder, capture_output=True, timeout=120).returncode == 0


needs_latex = pytest.mark.skipif(
    shutil.which("pdflatex") is None,
    reason="pdflatex is not installed (apt-get install texlive-latex-base texlive-latex-recommended)",
)


@needs_latex
@pytest.mark.parametrize("which", ["page", "hostile_page"])
def test_latex_tables_compile(which: str, request: pytest.FixtureRequest, tmp_path: Path) -> None:
    tables = sorted((request.getfixturevalue(which).parent / "tables").glob("*.tex"))
    assert tables
    assert compiles(tables, tmp_path)


@needs_latex
def test_every_latin_letter_and_every_escape_compiles(tmp_path: Path) -> None:
    text = "".join(map(chr, range(0x20, 0x100))) + "".join(LATEX_SPECIAL) + "計"
    table = tmp_path / "table.tex"
    table.write_text(LATEX_PREAMBLE + "\n" + escape_latex(text) + "\n", encoding="utf-8")
    assert compiles([table], tmp_path)


@given(st.text())
def test_no_markdown_cell_has_a_bare_border_or_tag(text: str) -> None:
    escaped = escape_markdown(text)
    assert "<" not in escaped
    assert "\n" not in escaped
    assert "|" not in escaped.replace("\\|", "")


def test_every_table_has_its_three_files(page: Path) -> None:
    names = {path.name for path in (page.parent / "tables").iterdir()}
    assert {f"gigacount-table1.{suffix}" for suffix in ("csv", "tex", "md")} <= names


def test_csv_has_a_line_per_cell_with_full_precision(page: Path) -> None:
    lines = csv_rows(page.parent / "tables/gigacount-table1.csv")
    mine = [line for line in lines if (line["system"], line["metric"]) == ("gigacount", "mae")]
    assert len(mine) == 1
    assert (mine[0]["measured_on"], mine[0]["difference"]) == ("crowd/test", "")  # not comparable
    assert mine[0]["published_chosen_on_test"] == "True"
    assert next(line for line in lines if line["system"] == "dm_count")["status"] == "missing"


def test_latex_and_markdown_say_that_numbers_are_not_comparable(page: Path) -> None:
    for suffix in ("tex", "md"):
        assert "Not comparable" in (page.parent / f"tables/gigacount-table1.{suffix}").read_text(encoding="utf-8")


def test_rows_of_a_latex_table_have_equally_many_cells(hostile_page: Path) -> None:
    text = (hostile_page.parent / "tables/gigacount-table1.tex").read_text(encoding="utf-8")
    rows = [line for line in text.splitlines() if line.endswith(r" \\")]
    assert len({line.count(" & ") for line in rows}) == 1
