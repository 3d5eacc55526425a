"""What a result was made with: code digest, commit, packages, hardware, data digests. Light: imports nothing heavy.

The code digest of a step is a SHA-256 over the syntax trees of every recount module that the step imports, directly or
not, lazily or not. Comments, docstrings, formatting and ``if TYPE_CHECKING:`` imports are left out, so that only a
change that can change a result makes Snakemake run the step again. Data files that belong to a module, and weights that
come with recount and that a module names, count too. Left out on purpose:

* ``recount.settings``: what they decide reaches a job resolved, as Snakemake params (``run_settings``);
* ``recount.provenance``: it describes results and changes none;
* the fetcher, for ``fetch``: a file's checksum already says that its bytes are right.
"""

from __future__ import annotations

import ast
import json
import os
import platform
import subprocess
import sys
from collections.abc import Iterable, Iterator, Mapping
from functools import cache
from importlib.metadata import distributions, entry_points
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal

from recount.results.files import file_digest, text_digest
from recount.settings.project import Project, Run
from recount.settings.recipe import Recipe, resolve_recipe

Step = Literal["fetch", "prepare", "train", "predict", "test_prompts", "score", "judge", "report"]

# Here and not among the installed packages: in a conda environment recount runs without being installed.
VERSION = "0.1.0"

PACKAGE = Path(__file__).parent
_LEFT_OUT = ("recount.settings", "recount.provenance")
_NO_MEANING = {"ctx", "kind", "type_comment"}  # fields of a syntax tree that follow from the others, or mean nothing

# Where a step's imports begin: a module, or a package with everything in it (``.*``). The step's system or data set is
# found by its name at run time, so that no import statement leads to it; ``step_roots`` adds it.
ROOTS: dict[Step, tuple[str, ...]] = {
    "fetch": (),
    "prepare": ("recount.data.prepare",),
    "train": ("recount.training.run",),
    "predict": ("recount.prediction.predict",),
    "test_prompts": ("recount.prediction.run_prompt_tests",),
    "score": ("recount.scoring.score",),
    "judge": ("recount.judging.judge",),
    "report": ("recount.report.*", "recount.papers.*"),
}
PLUGINS: dict[Step, str] = {
    "fetch": "datasets",
    "prepare": "datasets",
    "train": "systems",
    "predict": "systems",
    "test_prompts": "systems",
}


# ------------------------------------------------------------------------------------------------------ code digests


class CodeBase:
    """The Python packages whose code counts; each module is read and parsed once.

    Args:
        packages: top-level package -> its folder. Imports of any other package are not followed.
    """

    def __init__(self, packages: Mapping[str, Path]) -> None:
        self.packages = dict(packages)
        self._trees: dict[str, ast.Module] = {}
        self._digests: dict[str, str] = {}
        self._imports: dict[str, set[str]] = {}

    def file(self, module: str) -> Path | None:
        """Return the file of ``module``, or None if these packages have no such module."""
        top, *rest = module.split(".")
        if top not in self.packages:
            return None
        base = self.packages[top].joinpath(*rest)
        candidates = (base / "__init__.py", base.with_name(f"{base.name}.py"))
        return next((path for path in candidates if path.is_file()), None)

    def closure(self, roots: Iterable[str]) -> list[str]:
        """Return the modules that importing ``roots`` can bring in, sorted, without those that change no result.

        Args:
            roots: modules (``recount.prediction.predict``), or packages with all in them (``recount.report.*``).

        Raises:
            ModuleNotFoundError: there is no such module.
        """
        waiting = [module for root in roots for module in self._modules(root)]
        seen: set[str] = set()
        while waiting:
            module = waiting.pop()
            if module not in seen and not module.startswith(_LEFT_OUT):
                seen.add(module)
                waiting.extend(self._imports_of(module))
        return sorted(seen)

    def outside_imports(self, roots: Iterable[str]) -> set[str]:
        """Return the top-level names of the packages outside this code base that the closure of ``roots`` imports."""
        groups = (names for module in self.closure(roots) for names in self._imported_names(module))
        return {names[0].partition(".")[0] for names in groups} - set(self.packages)

    def digest(self, roots: Iterable[str]) -> str:
        """Return the SHA-256 over the closure of ``roots`` and the data files that belong to it."""
        roots = list(roots)
        lines = [f"{module} {self._digest_of(module)}" for module in self.closure(roots)]
        for package in (root.removesuffix(".*") for root in roots if root.endswith(".*")):
            lines += [f"{file.name} {file_digest(file)}" for file in self._files_below(package) if _is_data(file)]
        return text_digest("\n".join(lines))

    def _files_below(self, package: str) -> list[Path]:
        start = self._existing(package)
        return sorted(start.parent.rglob("*")) if start.name == "__init__.py" else [start]

    def _modules(self, root: str) -> list[str]:
        name = root.removesuffix(".*")
        start = self._existing(name)
        if name == root:
            return [name]
        below = [file.relative_to(start.parent) for file in self._files_below(name) if file.suffix == ".py"]
        return [".".join([name, *path.with_suffix("").parts]).removesuffix(".__init__") for path in below]

    def _existing(self, module: str) -> Path:
        path = self.file(module)
        if path is None:
            raise ModuleNotFoundError(f"{', '.join(self.packages)}: no module is called {module}")
        return path

    def _imported_names(self, module: str) -> Iterator[list[str]]:
        is_package = self._existing(module).name == "__init__.py"
        return _imported_names(self._tree(module), module if is_package else module.rpartition(".")[0])

    def _tree(self, module: str) -> ast.Module:
        if module not in self._trees:
            path = self._existing(module)
            self._trees[module] = ast.parse(path.read_bytes(), filename=str(path))
        return self._trees[module]

    def _imports_of(self, module: str) -> set[str]:
        """Return the modules of this code base that ``module`` imports, with the packages they and itself are in."""
        if module not in self._imports:
            names = [module, *(name for group in self._imported_names(module) for name in group)]
            found = set()
            for parts in (name.split(".") for name in names):
                found |= {".".join(parts[:length]) for length in range(1, len(parts) + 1)}
            self._imports[module] = {name for name in found if self.file(name) is not None}
        return self._imports[module]

    def _digest_of(self, module: str) -> str:
        if module not in self._digests:
            tokens: list[str] = []
            _write_tokens(self._tree(module), tokens)
            lines = [
                " ".join(tokens),
                *(f"{file.name} {file_digest(file)}" for file in data_files(self._existing(module))),
                *(f"{file.name} {file_digest(file)}" for file in self._weights() if repr(file.stem) in tokens),
            ]
            self._digests[module] = text_digest("\n".join(lines))
        return self._digests[module]

    def _weights(self) -> list[Path]:
        """Return the weights that come with the packages; they count for each module that names them ("mini_clip")."""
        folders = (folder / "pretraining" / "weights" for folder in self.packages.values())
        return [file for folder in folders for file in sorted(folder.glob("*.safetensors"))]


def data_files(module: Path) -> list[Path]:
    """Return the data files that belong to a module ``x.py``, sorted.

    They are the files ``x.*``, ``x_*`` and ``x-*`` beside it, and in folders beside it that are not packages
    (``datasets/files/x.tsv`` belongs to ``datasets/x.py``).

    Args:
        module: the module's file.
    """
    starts = (f"{module.stem}.", f"{module.stem}_", f"{module.stem}-")
    beside = list(module.parent.iterdir())
    folders = [path for path in beside if path.is_dir() and not (path / "__init__.py").exists()]
    beside += [file for folder in folders for file in folder.rglob("*")]
    return sorted(file for file in beside if file.name.startswith(starts) and _is_data(file))


def _is_data(file: Path) -> bool:
    return file.is_file() and file.suffix not in {".py", ".pyc", ".pyi"}


def _imported_names(tree: ast.Module, package: str) -> Iterator[list[str]]:
    """Yield for each import the modules that it may bring in; for ``from a import b`` both ``a`` and ``a.b``."""
    waiting: list[ast.AST] = [tree]
    while waiting:
        node = waiting.pop()
        if isinstance(node, ast.Import):
            yield from ([alias.name] for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            parts = package.split(".")
            above = parts[: len(parts) - node.level + 1] if node.level else []
            base = ".".join([*above, *([node.module] if node.module else [])])
            yield [base, *(f"{base}.{alias.name}" for alias in node.names)]
        elif isinstance(node, ast.If) and ast.unparse(node.test).endswith("TYPE_CHECKING"):
            waiting.extend(node.orelse)
        elif not isinstance(node, ast.expr):
            waiting.extend(ast.iter_child_nodes(node))


def _write_tokens(node: Any, tokens: list[str]) -> None:
    """Append ``node`` in a flat form without docstrings and positions that every Python from 3.11 writes alike.

    Empty fields are left out, because newer Pythons have more of them (``type_params``).
    """
    if isinstance(node, ast.AST):
        tokens.append(f"{type(node).__name__}(")
        for name in node._fields:
            value = getattr(node, name, None)
            if value is not None and value != [] and name not in _NO_MEANING:
                tokens.append(name)
                _write_tokens(value, tokens)
        tokens.append(")")
    elif isinstance(node, list):
        tokens.append("[")
        for item in node:
            if not _is_docstring(item):
                _write_tokens(item, tokens)
        tokens.append("]")
    else:
        tokens.append(repr(node))


def _is_docstring(node: Any) -> bool:
    """Return whether a statement is a bare string: a docstring, or a comment in its place."""
    return isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str)


@cache
def _code_base(extra: str | None = None) -> CodeBase:
    packages = {"recount": PACKAGE}
    if extra is not None:
        spec = find_spec(extra)
        if spec is None or not spec.submodule_search_locations:
            raise ModuleNotFoundError(f"an entry point names the package {extra}, which is not installed as a folder")
        packages[extra] = Path(spec.submodule_search_locations[0])
    return CodeBase(packages)


def step_roots(step: Step, plugin: str | None = None) -> tuple[CodeBase, list[str]]:
    """Return where the imports of a step begin.

    Args:
        step: the step.
        plugin: the data set (fetch, prepare) or system (train, predict) that the step works on.
    """
    roots = list(ROOTS[step])
    if plugin is None:
        return _code_base(), roots
    kind = PLUGINS[step]
    own = f"recount.{kind}.{plugin}"
    if _code_base().file(own) is not None:
        return _code_base(), [*roots, own]
    for point in entry_points(group=f"recount.{kind}", name=plugin):
        return _code_base(point.module.partition(".")[0]), [*roots, point.module]
    raise ModuleNotFoundError(f"there is no {own}, and no installed package adds {plugin!r} to recount.{kind}")


@cache
def step_digest(step: Step, plugin: str | None = None) -> str:
    """Return the digest of all code that a result of ``step`` depends on.

    Args:
        step: the step.
        plugin: the data set (fetch, prepare) or system (train, predict) that the step works on.

    Raises:
        ModuleNotFoundError: there is no such data set or system.
    """
    code_base, roots = step_roots(step, plugin)
    return code_base.digest(roots)


# ------------------------------------------------------------------------------------------------ what a run is made of

NOT_OF_TRAINING = {
    "suite",
    "variant",
    "trained_as",
    "evaluated_as",
    "reading",
    "protocol",
    "checkpoint_path",
    "benchmarks",
    "prompt_tests",
}


def run_settings(run: Run, precision: str | None) -> str:
    """Return as JSON all settings that a run's training depends on, with the defaults of the recipe written out.

    What a run is evaluated on is left out: to evaluate on one benchmark more retrains nothing.

    Args:
        run: the run.
        precision: config.yaml's precision, which goes over the recipe's.
    """
    settings = run.model_dump(mode="json", exclude=NOT_OF_TRAINING)
    settings["recipe_defaults"] = Recipe().model_dump(mode="json")
    settings["recipe"] = resolve_recipe(Recipe(), run.recipe).model_dump(mode="json")
    return json.dumps({**settings, "precision": precision}, sort_keys=True)


def data_digests(indexes: Iterable[Path]) -> dict[str, str]:
    """Return ``{"<dataset>/<preparation>": sha256}`` of prepared data sets' index files."""
    return {"/".join(index.parent.parts[-2:]): file_digest(index) for index in indexes}


def commit() -> dict[str, Any]:
    """Return ``{"commit": hash, "dirty": bool}`` of the git checkout that recount runs from; None where it is none."""
    answer = output_of("git", "-C", str(PACKAGE), "rev-parse", "HEAD")
    if answer is None:
        return {"commit": None, "dirty": None}
    changes = output_of("git", "-C", str(PACKAGE), "status", "--porcelain", "--untracked-files=no", ":/")
    return {"commit": answer.strip(), "dirty": bool(changes and changes.strip())}


def packages() -> dict[str, str]:
    """Return every installed package with its version, sorted by name."""
    found = {item.metadata["Name"].lower().replace("_", "-"): item.version for item in distributions()}
    return dict(sorted(found.items()))


def visible_gpus() -> list[dict[str, str]]:
    """Return name, driver and memory of each NVIDIA card that a job started now would see. Does not import torch."""
    answer = output_of(
        "nvidia-smi", "--query-gpu=index,uuid,name,driver_version,memory.total", "--format=csv,noheader,nounits"
    )
    rows = [[cell.strip() for cell in line.split(",")] for line in (answer or "").splitlines() if line.count(",") == 4]
    wanted = os.environ.get("CUDA_VISIBLE_DEVICES")
    if wanted is not None:
        # CUDA's own rule: in the given order, by index or beginning of the UUID, up to the first that does not exist.
        chosen = []
        for entry in (part.strip() for part in wanted.split(",")):
            match = [row for row in rows if row[0] == entry or (entry and row[1].startswith(entry))]
            if not match:
                break
            chosen.append(match[0])
        rows = chosen
    return [{"name": name, "driver": driver, "memory_mb": memory} for _, _, name, driver, memory in rows]


def memory_mb() -> int:
    """Return the machine's main memory in MB (10^6 bytes)."""
    import psutil

    return psutil.virtual_memory().total // 10**6


def hardware() -> dict[str, Any]:
    """Return processor, cores, memory and cards of this machine."""
    return {
        "cpu": _cpu_name(),
        "cores": os.cpu_count(),
        "memory_mb": memory_mb(),
        "gpus": visible_gpus(),
        "system": platform.platform(),
    }


def surroundings() -> dict[str, Any]:
    """Return what surrounds a result: recount and its commit, command, Python, packages, hardware."""
    return {
        "recount": VERSION,
        **commit(),
        "command": [Path(sys.argv[0]).name, *sys.argv[1:]],
        "python": platform.python_version(),
        "packages": packages(),
        "hardware": hardware(),
    }


def collect(project: Project, run: Run, *, device: str) -> dict[str, Any]:
    """Return the provenance of a training run, for its run.json.

    Args:
        project: the configuration.
        run: the run.
        device: what it was computed on, for instance ``cuda:0``.
    """
    splits = [split for split in (run.training, run.held_out, run.selected_on_test) if split is not None]
    indexes = {project.root / project.index(split) for split in splits}
    return {
        **surroundings(),
        "device": device,
        "code": step_digest("train", run.system),
        "data": data_digests(sorted(indexes)),
    }


def _cpu_name() -> str:
    if sys.platform == "darwin":
        return (output_of("sysctl", "-n", "machdep.cpu.brand_string") or platform.machine()).strip()
    lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines() if Path("/proc/cpuinfo").exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()


def output_of(*command: str) -> str | None:
    """Return what a command prints, or None if it is not there or fails."""
    try:
        return subprocess.run(command, check=True, capture_output=True, text=True, timeout=30).stdout
    except (OSError, subprocess.SubprocessError):
        return None
