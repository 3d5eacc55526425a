"""``snakemake --report report.zip`` wraps recount's page with Snakemake's own provenance."""

import zipfile

import pytest
from house import House


@pytest.fixture(scope="module")
def archive(finished_house: House) -> zipfile.ZipFile:
    folder = finished_house.work / "reports" / "mini"
    (folder / "tables").mkdir()
    (folder / "tables" / "demo-table1.csv").write_text("paper\n", encoding="utf-8")
    answer = finished_house.run("--report", "report.zip")
    assert answer.code == 0, answer.text
    return zipfile.ZipFile(finished_house.work / "report.zip")


def test_page_and_the_tables_that_it_links_to_are_wrapped_together(archive: zipfile.ZipFile) -> None:
    names = archive.namelist()
    (page,) = [name for name in names if name.endswith("/index.html")]
    assert page.replace("index.html", "tables/demo-table1.csv") in names


def test_wrapped_report_has_the_rules_and_the_suite(archive: zipfile.ZipFile) -> None:
    (name,) = [name for name in archive.namelist() if name.endswith("report.html")]
    text = archive.read(name).decode()
    assert '"labels": {"suite": "mini"}' in text
    assert all(f'"{rule}"' in text for rule in ("prepare", "train", "score", "judge", "report"))
