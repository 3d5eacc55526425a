"""One small tree and one report for all tests of the report: building them takes seconds."""

from pathlib import Path

import pytest

from recount.papers import part
from recount.report.write import write_report
from recount.settings.project import load
from report import tree


@pytest.fixture(scope="session")
def built(tmp_path_factory: pytest.TempPathFactory) -> tree.Tree:
    return tree.build(tmp_path_factory.mktemp("plain"))


@pytest.fixture(scope="session")
def page(built: tree.Tree) -> Path:
    return write_report(load(built.root), part)


@pytest.fixture(scope="session")
def hostile_page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    built = tree.build(tmp_path_factory.mktemp("hostile"), hostile=True)
    return write_report(load(built.root), part)
