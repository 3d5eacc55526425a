"""Equations and the functions that compute them are read from the source text of a system."""

import subprocess
import sys
from pathlib import Path

import pytest

from recount import systems
from recount.report.equations import SOURCE, Equation, equations_of

SYSTEM = """
from recount.nn import bins
from recount.nn.losses import loss as hybrid_loss
from elsewhere import Base


class Net(bins.Bins):
    def forward(self):
        pass


def here():
    pass


EQUATIONS: dict[str, object] = {
    "(1) L": hybrid_loss,
    "(2) bins": bins.edges,
    "(3) forward": Net.forward,
    "inherited": Net.classes,
    "(4) here": here,
    "foreign": Base,
}
"""


@pytest.fixture
def source(tmp_path: Path) -> Path:
    package = tmp_path / "src/recount"
    for folder in ("systems", "nn"):
        (package / folder).mkdir(parents=True)
    (package / "systems/net.py").write_text(SYSTEM)
    (package / "systems/plain.py").write_text("def loss():\n    pass\n")
    (package / "nn/losses.py").write_text("\n\ndef loss():\n    pass\n")
    (package / "nn/bins.py").write_text(
        "def edges():\n    pass\n\n\nclass Bins:\n    def classes(self):\n        pass\n"
    )
    return package


def test_functions_are_found_where_they_stand(source: Path) -> None:
    assert equations_of("net", source) == [
        Equation("(1) L", "hybrid_loss", "recount/nn/losses.py", 3),
        Equation("(2) bins", "bins.edges", "recount/nn/bins.py", 1),
        Equation("(3) forward", "Net.forward", "recount/systems/net.py", 8),
        Equation("inherited", "Net.classes", "recount/nn/bins.py", 6),
        Equation("(4) here", "here", "recount/systems/net.py", 12),
        Equation("foreign", "Base", "recount/systems/net.py", 22),  # not recount's: where the map names it
    ]


@pytest.mark.parametrize("system", ["plain", "absent"])
def test_a_system_without_a_map_has_no_equations(source: Path, system: str) -> None:
    assert equations_of(system, source) == []


def test_every_equation_of_a_system_is_defined_where_the_table_says() -> None:
    for system in systems.own_names():
        for found in equations_of(system):
            line = (SOURCE.parent / found.file).read_text(encoding="utf-8").splitlines()[found.line - 1]
            assert found.function.rsplit(".")[-1] in line, (system, found)


def test_reading_equations_imports_no_torch() -> None:
    script = "import sys; from recount.report.equations import equations_of; equations_of('gigacount'); "
    script += "print('torch' in sys.modules)"
    found = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "False"
