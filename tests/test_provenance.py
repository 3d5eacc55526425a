"""The code digest changes exactly with what can change a result; the rest is what the machine says of itself."""

import ast
import hashlib
import os
import shutil
import stat
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from prepared import sealed
from recount import datasets, provenance, systems
from recount.provenance import CodeBase
from recount.results.files import ResultsError
from recount.settings import project as config
from recount.settings.project import PromptTest, Run, Split
from recount.settings.recipe import Arithmetic

MODULES = {
    "__init__": "",
    "settings/__init__": "",
    "settings/project": "LIMIT = 1\n",
    "nn/__init__": "",
    "nn/layers": '"""Layers."""\n\nDEPTH = 3\n',
    "systems/__init__": "",
    "systems/base": "from typing import TYPE_CHECKING\n\nif TYPE_CHECKING:\n    from recount.report import page\n",
    "systems/alpha": "from . import base\nfrom recount.settings import project\nWIDTH = 1\n",
    "systems/beta": "def build():\n    from ..nn.layers import DEPTH\n    return DEPTH\n",
    "report/__init__": "",
    "report/page": "import recount.nn.layers\n",
}
ALPHA, BETA, REPORT = ["recount.systems.alpha"], ["recount.systems.beta"], ["recount.report.*"]


class Package:
    """A small package called recount that tests may edit."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        for name, text in MODULES.items():
            self.write(f"{name}.py", text)
        self.write("systems/sizes/alpha.json", "{}")
        self.write("systems/sizes/beta_large.tsv", "1\n")
        self.write("report/templates/page.html", "<html>")

    def write(self, name: str, text: str) -> None:
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")

    def read(self) -> CodeBase:
        return CodeBase({"recount": self.folder})

    def digests(self) -> dict[str, str]:
        code_base = self.read()
        return {name: code_base.digest(roots) for name, roots in (("alpha", ALPHA), ("beta", BETA), ("report", REPORT))}

    def changed_by(self, name: str, text: str) -> set[str]:
        """Return whose digests change when a file gets another content."""
        before = self.digests()
        self.write(name, text)
        return {key for key, value in self.digests().items() if value != before[key]}


@pytest.fixture
def package(tmp_path: Path) -> Package:
    return Package(tmp_path / "recount")


WORDS = '"""Other words."""\n\n# why\nDEPTH   =   (3)\n"""Said of DEPTH."""\n'


@pytest.mark.parametrize(
    ("edited", "text", "changed"),
    [
        ("systems/alpha.py", MODULES["systems/alpha"].replace("1", "2"), {"alpha"}),  # that system only
        ("nn/layers.py", "DEPTH = 4\n", {"beta", "report"}),  # lazy and relative imports are followed
        ("nn/layers.py", WORDS, set()),  # comments, docstrings and formatting
        ("report/page.py", "import recount.nn.layers\nTITLE = 1\n", {"report"}),  # imported for type checking only
        ("settings/project.py", "LIMIT = 2\n", set()),  # configuration is left out
        ("systems/__init__.py", "ORDER = 1\n", {"alpha", "beta"}),  # a package on the way counts
        ("systems/sizes/alpha.json", "[]", {"alpha"}),  # data count for the module whose name theirs starts with
        ("systems/sizes/beta_large.tsv", "2\n", {"beta"}),
        ("report/templates/page.html", "<body>", {"report"}),
        ("report/figures.py", "DPI = 1\n", {"report"}),  # a new module of a whole package
    ],
)
def test_an_edit_changes_the_digests_of_what_it_can_change(
    package: Package, edited: str, text: str, changed: set[str]
) -> None:
    assert package.changed_by(edited, text) == changed


def test_what_is_imported_where_types_are_not_checked_is_followed(package: Package) -> None:
    package.write("systems/base.py", MODULES["systems/base"] + "else:\n    from recount.nn import layers\n")
    assert package.changed_by("nn/layers.py", "DEPTH = 4\n") == {"alpha", "beta", "report"}


@pytest.mark.parametrize("statement", ["register(WIDTH)", "WIDTH.x", "del WIDTH", "assert WIDTH", "global WIDTH"])
def test_every_statement_but_a_docstring_counts(package: Package, statement: str) -> None:
    text = MODULES["systems/alpha"] + "def build():\n    pass\n"
    package.write("systems/alpha.py", text)
    assert package.changed_by("systems/alpha.py", f"{text}    {statement}\n") == {"alpha"}


def test_the_digest_is_the_same_in_every_process(package: Package) -> None:
    digest = f"CodeBase({{'recount': Path({str(package.folder)!r})}}).digest({BETA})"
    code = f"from pathlib import Path; from recount.provenance import CodeBase; print({digest})"
    said = [
        subprocess.run(
            [sys.executable, "-c", code], env=os.environ | {"PYTHONHASHSEED": seed}, capture_output=True, check=True
        ).stdout.decode()
        for seed in "123"
    ]
    assert said == [package.read().digest(BETA) + "\n"] * 3


def test_shipped_weights_count_for_the_modules_that_name_them(package: Package) -> None:
    package.write("pretraining/weights/mini_clip.safetensors", "old")
    assert package.changed_by("pretraining/weights/mini_clip.safetensors", "new") == set()
    package.write("systems/beta.py", MODULES["systems/beta"] + 'WEIGHTS = "mini_clip"\n')
    assert package.changed_by("pretraining/weights/mini_clip.safetensors", "newer") == {"beta"}


def test_renamed_root_is_an_error(package: Package) -> None:
    with pytest.raises(ModuleNotFoundError, match=r"no module is called recount\.systems\.gamma"):
        package.read().digest(["recount.systems.gamma"])


@given(st.sampled_from(["1", "True", "None", "'1'", "b'1'", "1.0", "-1", "()", "[]", "f'{x}'", "x", "x()", "x[1]"]))
def test_different_expressions_have_different_digests(
    tmp_path_factory: pytest.TempPathFactory, expression: str
) -> None:
    package = Package(tmp_path_factory.mktemp("package") / "recount")
    changed = package.changed_by("systems/alpha.py", f"WIDTH = {expression}\n")
    assert changed == {"alpha"}


def test_fields_that_only_newer_pythons_have_are_left_out(package: Package, monkeypatch: pytest.MonkeyPatch) -> None:
    package.write("systems/alpha.py", "def f(x):\n    return x\n")
    before = package.read().digest(ALPHA)
    fields = tuple(dict.fromkeys([*ast.FunctionDef._fields, "type_params", "not_yet_invented"]))
    monkeypatch.setattr(ast.FunctionDef, "_fields", fields)
    assert package.read().digest(ALPHA) == before


@pytest.mark.parametrize("name", systems.names())
def test_every_system_has_its_own_module_in_its_digest(name: str) -> None:
    code_base, roots = provenance.step_roots("train", name)
    modules = code_base.closure(roots)
    assert f"recount.systems.{name}" in modules
    assert not any(module.startswith("recount.report") for module in modules)


@pytest.mark.parametrize("step", ["prepare", "train", "predict", "test_prompts", "score", "report"])
def test_every_step_is_where_the_command_line_finds_it(step: provenance.Step) -> None:
    tree = (provenance.PACKAGE / "cli.py").read_text(encoding="utf-8")
    command = tree[tree.index(f"\ndef {step}(") :].split("@app.command")[0]
    module = provenance.ROOTS[step][0].removesuffix(".*")
    assert f"from {module}" in command


def digests_of_steps(folder: Path) -> dict[str, str]:
    """Return the digests of all steps, of those with a plugin with every system or data set there is."""
    code_base = CodeBase({"recount": folder})
    plugins = {"systems": systems.own_names(), "datasets": datasets.names()}
    found = {}
    for step, roots in provenance.ROOTS.items():
        kind = provenance.PLUGINS.get(step)
        for name in plugins[kind] if kind else [""]:
            found[f"{step} {name}"] = code_base.digest([*roots, *([f"recount.{kind}.{name}"] if name else [])])
    return found


def test_a_verdicts_column_a_settings_words_and_an_exhibit_make_no_result_again(tmp_path: Path) -> None:
    copied = tmp_path / "recount"
    shutil.copytree(provenance.PACKAGE, copied, ignore=shutil.ignore_patterns("__pycache__"))
    before = digests_of_steps(copied)
    edits = {
        "results/verdicts.py": ('    claim_rule: str = ""', '    claim_rule: str = ""\n    later: str = ""'),
        "settings/paper.py": ('"""A row of a table', '"""One row of a table'),
        "settings/base.py": ("import json\n", "import json\n\nMORE = 1\n"),
        "papers/t2icount.py": ("import pandas as pd\n", "import pandas as pd\n\nMORE = 1\n"),
    }
    for name, (old, new) in edits.items():
        text = (copied / name).read_text(encoding="utf-8")
        assert old in text
        (copied / name).write_text(text.replace(old, new, 1), encoding="utf-8")
    changed = {step.split()[0] for step, digest in digests_of_steps(copied).items() if digest != before[step]}
    assert changed == {"judge", "report"}


def test_unknown_system_is_named() -> None:
    with pytest.raises(ModuleNotFoundError, match=r"recount\.systems\.nothing"):
        provenance.step_digest("train", "nothing")


def test_digesting_loads_no_heavy_package() -> None:
    code = f"""
import sys
from recount import provenance
provenance.step_digest("report")
provenance.step_digest("prepare", {datasets.names()[0]!r})
print(sorted({{"torch", "pandas", "numpy"}} & set(sys.modules)))
"""
    answer = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert answer.stdout.strip() == "[]"


PLAIN = Arithmetic()
CHANGES = {"seed": 1, "settings": {"width": 9}, "recipe": {"epochs": 4}}
ARITHMETICS = {"precision": "bf16", "evaluation_precision": "fp16", "fp32_as": "tf32", "determinism": "bitwise"}


@pytest.fixture
def run(tmp_path: Path) -> Run:
    shutil.copytree(Path(__file__).parent / "workflow" / "tiny", tmp_path, dirs_exist_ok=True)
    (tmp_path / "config.yaml").write_text("suite: mini\n", encoding="utf-8")
    return config.load(tmp_path).runs[0]


@pytest.mark.parametrize(
    ("changes", "arithmetic"),
    [
        *(({name: value}, {}) for name, value in CHANGES.items()),
        *(({}, {name: value}) for name, value in ARITHMETICS.items()),
    ],
)
def test_what_a_run_depends_on_is_in_its_settings(
    run: Run, changes: dict[str, object], arithmetic: dict[str, Any]
) -> None:
    changed = run.model_copy(update=changes)
    assert provenance.run_settings(changed, Arithmetic(**arithmetic)) != provenance.run_settings(run, Arithmetic())


def test_what_a_run_is_evaluated_and_prompt_tested_on_is_not_in_its_settings(run: Run) -> None:
    split = next(iter(run.benchmarks.values()))
    tested = {"a/b": PromptTest(split=split, tests=("pairs",), pictures=None)}
    for changes in ({"benchmarks": {}}, {"prompt_tests": tested}):
        assert provenance.run_settings(run.model_copy(update=changes), PLAIN) == provenance.run_settings(run, PLAIN)


def test_how_a_training_is_read_and_in_which_precision_is_in_the_digest_of_a_reading(run: Run, tmp_path: Path) -> None:
    project, coarse = config.load(tmp_path), config.load(tmp_path, {"evaluation_precision": "bf16"})
    flipped = run.model_copy(update={"reading": {"flip": False}})
    readings = [provenance.reading_of(*read) for read in ((project, run), (project, flipped), (coarse, run))]
    assert len({*readings}) == 3


@pytest.mark.parametrize("role", ["training", "held_out", "selected_on_test"])
def test_data_that_a_run_is_trained_or_chosen_on_are_among_what_it_was_made_from(
    run: Run, tmp_path: Path, role: str
) -> None:
    project = config.load(tmp_path)
    index = tmp_path / project.data / "a" / "original" / "index.csv"
    index.parent.mkdir(parents=True)
    index.write_bytes(b"id\n")
    sealed(index)
    splits = dict.fromkeys(("training", "held_out", "selected_on_test")) | {
        role: Split(dataset="a", split="b", preparation="original")
    }
    found = provenance.data_of(project, run.model_copy(update={**splits, "weights": ()}))
    assert found == {"a/original": hashlib.sha256(b"id\n").hexdigest()}


def test_weights_that_a_run_starts_from_are_among_what_it_was_made_from(run: Run, tmp_path: Path) -> None:
    project = config.load(tmp_path)
    manifest = tmp_path / project.weights / "clip" / "manifest.json"
    manifest.parent.mkdir(parents=True)
    manifest.write_text('{"digest": "d"}')
    alone = dict.fromkeys(("training", "held_out", "selected_on_test")) | {"weights": ("clip", "not_fetched")}
    assert provenance.data_of(project, run.model_copy(update=alone)) == {"weights:clip": "d"}


@pytest.mark.parametrize(
    ("visible", "names"),
    [(None, ["A", "B", "C"]), ("", []), ("-1", []), ("2,0", ["C", "A"]), ("0,7,1", ["A"]), ("GPU-bb", ["B"])],
)
def test_visible_gpus_follow_the_rule_of_cuda(
    visible: str | None, names: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    program = tmp_path / "nvidia-smi"
    rows = "\\n".join(f"{index}, GPU-{name.lower() * 2}1, {name}, 570.1, 81559" for index, name in enumerate("ABC"))
    program.write_text(f"#!/bin/sh\nprintf '{rows}\\n'\n")
    program.chmod(program.stat().st_mode | stat.S_IEXEC)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    if visible is None:
        monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    else:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    assert [card["name"] for card in provenance.visible_gpus()] == names
    assert {card["name"] for card in provenance.hidden_gpus()} == {*"ABC"} - {*names}


def test_no_gpu_without_nvidia_smi(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert provenance.visible_gpus() == []


def test_surroundings_name_commit_packages_and_machine() -> None:
    found = provenance.surroundings()
    assert found["packages"]["pydantic"]
    assert found["hardware"]["cores"] >= 1
    assert found["commit"] is None or len(found["commit"]) == 40


def test_data_digests_are_named_by_data_set_and_preparation(tmp_path: Path) -> None:
    index = tmp_path / "crowd" / "original" / "index.csv"
    index.parent.mkdir(parents=True)
    index.write_bytes(b"id\n")
    sealed(index)
    assert provenance.data_digests([index]) == {"crowd/original": hashlib.sha256(b"id\n").hexdigest()}
    index.write_bytes(b"id\n\n")
    with pytest.raises(ResultsError, match=r"index\.csv: damaged.*`recount prepare crowd original` makes it anew"):
        provenance.data_digests([index])
