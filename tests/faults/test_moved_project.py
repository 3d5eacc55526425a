"""A project's folder, copied to another place: nothing in its results points to the old one."""

import shutil
from pathlib import Path

import pytest

from recount.papers import part
from recount.report.write import write_report
from recount.settings.project import load
from report import tree


def _contents(folder: Path) -> dict[Path, bytes]:
    return {path.relative_to(folder): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.more
def test_moved_results_give_the_same_report(tmp_path: Path) -> None:
    built = tree.build(tmp_path / "here")
    write_report(load(built.root), part)
    before = _contents(built.root / "reports")
    moved = tmp_path / "there" / "moved"
    moved.parent.mkdir()
    shutil.move(built.root, moved)
    shutil.rmtree(moved / "reports")
    write_report(load(moved), part)
    assert before
    assert _contents(moved / "reports") == before
    named = str(built.root).encode()
    assert [path for path, content in _contents(moved).items() if named in content] == []
