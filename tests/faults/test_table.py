"""The README's table of faults names tests that exist."""

import re
from pathlib import Path

ROOT = Path(__file__).parents[2]


def test_every_test_that_the_table_names_exists() -> None:
    rows = [line for line in (ROOT / "docs/reliability.md").read_text(encoding="utf-8").splitlines() if "::" in line]
    assert len(rows) >= 20
    for row in rows:
        named = re.findall(r"`(tests/[\w/]+\.py)::(\w+)`( \(`make test-more`\))?", row)
        assert named, row
        for file, name, more in named:
            source = (ROOT / file).read_text(encoding="utf-8")
            assert f"def {name}(" in source, f"{file} has no {name}"
            marked = f"@pytest.mark.more\ndef {name}(" in source or bool(
                re.search(r"^pytestmark = .*pytest\.mark\.more", source, flags=re.MULTILINE)
            )
            assert marked == bool(more), f"{file}: is {name} in make test or in make test-more?"


def test_every_test_of_faults_is_in_the_table() -> None:
    table = (ROOT / "docs/reliability.md").read_text(encoding="utf-8")
    for path in Path(__file__).parent.glob("test_*.py"):
        if path.name == Path(__file__).name:
            continue
        names = re.findall(r"^def (test_\w+)\(", path.read_text(encoding="utf-8"), flags=re.MULTILINE)
        assert [name for name in names if name not in table] == [], path.name
