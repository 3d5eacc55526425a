"""The report as files: whole, self-contained, the same for the same results, and there even when much is missing."""

import re
import shutil
from collections import Counter
from pathlib import Path
from urllib.parse import unquote

import numpy as np
import pytest

from links import complete
from recount.papers import part
from recount.report.pages.site import TEMPLATES
from recount.report.write import write_report
from recount.results.prepared import Pictures, Samples, Summary, data_digest
from recount.settings.project import load
from report.tree import HOSTILE, Tree

PACKAGE = TEMPLATES.parents[1]
SOURCES = [path.read_text(encoding="utf-8") for room in ("report", "papers") for path in (PACKAGE / room).glob("*.py")]
ADDRESS = r"""(?:\bsrc=|\bhref=|xlink:href=|url\()["'(]*([^"')\s>]+)"""


def pages_of(page: Path) -> dict[str, str]:
    """Return the text of each page of a report, by its file below the report's folder."""
    root = page.parent
    return {
        path.relative_to(root).as_posix(): path.read_text(encoding="utf-8") for path in sorted(root.rglob("*.html"))
    }


@pytest.fixture
def pages(page: Path) -> dict[str, str]:
    return pages_of(page)


@pytest.fixture
def text(pages: dict[str, str]) -> str:
    return pages["gigacount/index.html"]


def whole(page: Path) -> str:
    return "".join(pages_of(page).values())


def test_there_is_a_page_for_each_thing(pages: dict[str, str]) -> None:
    of_papers = {"captioner/index.html", "gigacount/index.html", "gigacount/pictures.html"}
    assert {*pages} == of_papers | {"index.html", "browse.html", "verdicts.html", "provenance.html", "reading.html"}


def test_pages_load_nothing_from_outside_and_every_link_leads_somewhere(page: Path, pages: dict[str, str]) -> None:
    for name, text in pages.items():
        assert "default-src 'none'" in text
        loaded = re.findall(ADDRESS.replace(r"\bhref=|", "", 1), text)
        assert [source for source in loaded if re.match(r"(?!data:)[a-z]+:|//|/", source)] == []
        linked = {*loaded, *re.findall(ADDRESS, text)} - {"data:,"}
        within = [address for address in linked if not re.match(r"[a-z]+:", address)]
        for address, _, anchor in (address.partition("#") for address in within):
            target = (page.parent / name).parent / unquote(address) if address else page.parent / name
            assert target.is_file(), (name, address)
            if anchor and target.suffix == ".html":
                assert f'id="{anchor}"' in target.read_text(encoding="utf-8"), (name, address, anchor)


def test_pages_are_small(page: Path) -> None:
    sizes = {path.name: path.stat().st_size for path in page.parent.rglob("*.html")}
    assert max(sizes.values()) < 3e6


def test_same_results_give_the_same_bytes(built: Tree, page: Path) -> None:
    before = {path.relative_to(page.parent): path.read_bytes() for path in page.parent.rglob("*") if path.is_file()}
    write_report(load(built.root), part)
    after = {path.relative_to(page.parent): path.read_bytes() for path in page.parent.rglob("*") if path.is_file()}
    assert before == after


def test_text_from_data_is_escaped(hostile_page: Path) -> None:
    text = whole(hostile_page)
    assert HOSTILE not in text
    assert "<script>window" not in text
    assert "&lt;script&gt;window.hacked" in text


def test_every_table_says_that_it_is_not_comparable(text: str) -> None:
    tables = re.findall(r'<section id="gigacount-table\d" class="table">.*?</section>', text, flags=re.DOTALL)
    assert len(tables) == 3
    assert all("Not comparable:" in table and "the images are drawn" in table for table in tables)


def test_what_is_not_comparable_has_no_difference_and_names_the_data_used(page: Path, text: str) -> None:
    assert 'class="num difference' not in text
    assert "off the published number" not in whole(page)
    heads = re.findall(r'<th colspan="2" scope="colgroup"><abbr.*?</th>', text, flags=re.DOTALL)
    assert heads
    assert all("crowd/test" in head and "ucf_qnrf" not in head for head in heads)
    table = (page.parent / "tables/gigacount-table1.md").read_text(encoding="utf-8")
    assert "difference" not in table.lower()
    assert r"MAE measured on crowd/test" in table
    drawn = list((page.parent / "figures").glob("*.svg"))
    assert drawn
    assert [path.name for path in drawn if "ucf_qnrf" in path.name + path.read_text(encoding="utf-8")] == []


def test_shares_are_shown_in_per_cent_as_printed(page: Path, pages: dict[str, str]) -> None:
    table = re.search(r'<section id="captioner-table1".*?</section>', pages["captioner/index.html"], flags=re.DOTALL)
    assert table is not None
    assert "Accuracy, %" in table[0]
    assert ">28.88</span>" in table[0]
    assert ">27.50</span>" in table[0]
    assert "table1,captioner/balanced,C3 modal,captioner,balanced,captions/test,shapes_ten/test,accuracy,0.2888," in (
        page.parent / "tables/captioner-table1.csv"
    ).read_text(encoding="utf-8")


def test_rows_that_are_not_the_papers_fold_below_its_table(text: str) -> None:
    table = re.search(r'<section id="gigacount-table1".*?</section>', text, flags=re.DOTALL)
    assert table is not None
    above, below = table[0].split('<details class="beside">')
    assert "DM-Count" in above
    assert "median of the answers" not in re.sub("<p.*?</p>", "", above, flags=re.DOTALL)
    assert "median of the answers" in below


def test_count_by_caption_has_a_table_of_answers_and_no_twelve_pictures(pages: dict[str, str]) -> None:
    section = re.search(r'<section id="captioner-gallery".*?</section>', pages["captioner/index.html"], flags=re.DOTALL)
    assert section is not None
    assert section[0].count("<tr>") == 1 + 3  # the head, and a line for each system that was run
    assert section[0].count("<img") <= 9
    assert "captioner/pictures.html" not in pages


def test_section_on_the_published_log_is_there(text: str) -> None:
    assert "What the published log shows" in text
    assert "neither number occurs in any evaluation" in text
    assert "106.07 / 196.37" in text


def test_report_of_nothing_says_what_is_absent(built: Tree, tmp_path: Path) -> None:
    made = shutil.ignore_patterns("resources", "results", "reports", "logs")
    shutil.copytree(built.root, tmp_path, ignore=made, dirs_exist_ok=True)
    text = whole(write_report(load(tmp_path), part))
    assert "results/mini/scores.csv" in text
    assert "not run yet" in text


@pytest.fixture
def copy(built: Tree, tmp_path: Path) -> Path:
    shutil.copytree(built.root, tmp_path / "copy", ignore=shutil.ignore_patterns("reports"))
    return tmp_path / "copy"


def test_damaged_files_are_listed_and_stop_nothing(copy: Path) -> None:
    runs = copy / "results/mini/runs/gigacount"
    (runs / "default/seed0/run.json").write_text("{", encoding="utf-8")
    (runs / "stage4/seed0/history.csv").write_text("", encoding="utf-8")
    (copy / "results/mini/predictions/crowd/test/mcnn/default/seed0.csv").write_text("id\n1\n", encoding="utf-8")
    maps = copy / "results/mini/maps/crowd/test/clip_ebc/vit_b_16/seed0.npz"
    maps.write_bytes(b"not a zip file")
    next((copy / "resources/data/crowd/original/images").glob("img_0*")).write_bytes(b"not a picture")
    text = whole(write_report(load(copy), part))
    names = (
        *("gigacount/default/seed0/run.json", "gigacount/stage4/seed0/history.csv", "mcnn/default/seed0.csv"),
        *("seed0.npz", "images/img_0"),
    )
    assert [name for name in names if name not in text] == []


def test_old_report_stays_when_writing_a_new_one_fails(copy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    target = copy / "reports/mini/index.html"
    target.parent.mkdir(parents=True)
    target.write_text("the old one", encoding="utf-8")
    monkeypatch.setattr("recount.report.write._Report.write", lambda _: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        write_report(load(copy), part)
    assert target.read_text(encoding="utf-8") == "the old one"
    assert [path.name for path in target.parent.parent.iterdir()] == ["mini"]


def test_maps_are_read_without_unpickling(copy: Path) -> None:
    path = copy / "results/mini/maps/crowd/test/gigacount/default/seed0.npz"
    np.savez(path, **{"best_on_test/img_0": np.array([{"a": 1}], dtype=object)})
    assert "seed0.npz" in whole(write_report(load(copy), part))
    complete(load(copy))  # even where the record says that they were written so
    assert "Object arrays cannot be loaded" in whole(write_report(load(copy), part))


def test_provenance_that_all_runs_share_is_said_once(built: Tree, pages: dict[str, str]) -> None:
    text = pages["provenance.html"]
    assert text.count(">0123456789abcdef0123456789abcdef01234567<") == 1
    for name in ("crowd", "shapes_ten"):
        assert data_digest(built.root / f"resources/data/{name}/original/index.csv") in text


def test_precision_determinism_and_what_fed_a_run_are_told(pages: dict[str, str]) -> None:
    told = pages["provenance.html"]
    assert all(word in told for word in ("precision", "determinism", "seeded", "bitwise", "loader_processes"))


def test_no_two_places_of_a_page_have_the_same_link(pages: dict[str, str]) -> None:
    for text in pages.values():
        ids = re.findall(
            r'\sid="([^"]+)"', re.sub(r"<template>.*?</template>|<svg.*?</svg>", "", text, flags=re.DOTALL)
        )
        assert sorted(name for name, times in Counter(ids).items() if times > 1) == []


def test_no_table_of_a_paper_is_called_like_a_section_of_the_page() -> None:
    project = load(Path(__file__).parents[2])
    sections = {"claims", *re.findall(r'Exhibit\(\s*(?:id=)?"(\w+)"', "".join(SOURCES))}
    assert {"claims", "recipes", "cost", "log"} <= sections
    assert not {table for paper in project.papers.values() for table in paper.tables} & sections


def test_printed_parameters_stand_beside_the_counted_ones(page: Path, text: str) -> None:
    cost = text[text.index('id="gigacount-cost"') :]
    row = re.search(r"<h3>Parameters, printed and counted</h3>.*?<tbody>(.*?)</tbody>", cost, flags=re.DOTALL)
    assert row is not None
    found = re.findall(r"<t[hd].*?</t[hd]>", row.group(1), flags=re.DOTALL)
    cells = [re.sub("<.*?>", "", cell).strip() for cell in found]
    assert cells == ["GigaCount", "29 M", "20.7 M", "41.4 M", "paper text section 1", "the whole backbone"]
    table = (page.parent / "tables/gigacount-parameters.csv").read_text(encoding="utf-8")
    assert "GigaCount,29.0,20722373.0,41444746.0," in table


def test_every_density_has_the_plain_picture_beside_it(pages: dict[str, str]) -> None:
    text = pages["gigacount/pictures.html"]
    groups = re.findall(r'<div class="comparison">(.*?)</div>', text, flags=re.DOTALL)
    with_maps = [group for group in groups if 'class="density"' in group and "more variants" not in group]
    assert with_maps
    assert all('class="card plain"' in group for group in with_maps if 'class="card truth"' in group)
    plain = re.findall(r'<figure class="card plain">.*?</figure>', text, flags=re.DOTALL)
    assert not any("density" in card or "points" in card for card in plain)


def test_health_of_the_data_is_a_table_and_a_broken_summary_a_line(built: Tree, tmp_path: Path) -> None:
    root = tmp_path / "project"
    shutil.copytree(built.root, root, symlinks=True)
    path = root / "resources/data/crowd/original/summary.json"
    summary = Summary.read(path)
    summary.whole = Samples(points=1000, points_outside=250, points_coincident=7)
    summary.pictures = Pictures(number=40, repaired={"images/a.png": 0.5}, transparent=["images/b.png"])
    summary.accepted = "drawn beyond the edge"
    summary.write(path)
    page = write_report(load(root), part)
    (row,) = re.findall(r'<th scope="row">crowd/original.*?</tr>', whole(page), flags=re.DOTALL)
    for words in ("25.00 %", "250 points", "drawn beyond the edge"):
        assert words in row
    lines = (page.parent / "tables" / "data_health.csv").read_text(encoding="utf-8").splitlines()
    assert "crowd/original,40,1000,0.25,7,0,1,0,1,0,drawn beyond the edge" in lines
    path.write_text("{")
    text = whole(write_report(load(root), part))
    assert "resources/data/crowd/original/summary.json" in text
    assert "; `recount prepare crowd original` makes it anew" in text
