"""What a result was made with: code digest, commit, packages, hardware, data digests. Light: imports nothing heavy.

The code digest of a step is a SHA-256 over the syntax trees of every recount module that the step imports, directly or
not, lazily or not. Comments, docstrings, formatting and ``if TYPE_CHECKING:`` imports are left out, so that only a
change that can change a result makes Snakemake run the step again. Data files that belong to a module, and weights that
come with recount and that a module names, count too. Left out on purpose:

* ``recount.settings``: what they decide reaches a job resolved, as Snakemake params (``run_settings``);
* ``recount.provenance``: it describes results and changes none;
* the fetcher, for ``fetch``: a file's checksum already says that its bytes are right.
"""

import ast
import json
import os
import platform
import subprocess
import sys
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from importlib.metadata import PackageNotFoundError, distributions, entry_points, version
from importlib.util import find_spec
from itertools import chain
from pathlib import Path
from typing import Any, Literal

from recount.feeding import memory_mb
from recount.results.files import ResultsError, file_digest, text_digest
from recount.results.prepared import data_digest
from recount.settings.project import WEIGHTS, Project, Run
from recount.settings.recipe import Arithmetic, Recipe, resolve_recipe

Step = Literal["fetch", "prepare", "train", "predict", "test_prompts", "score", "judge", "report"]

# Here and not among the installed packages: in a conda environment recount runs without being installed.
VERSION = "0.1.0"

PACKAGE = Path(__file__).parent
COMPUTING = (
    "torch",
    "torchvision",
    "timm",
    "open-clip-torch",
    "diffusers",
    "transformers",
    "accelerate",
    "numpy",
    "pillow",
)
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
_OF_SYSTEMS: tuple[Step, ...] = ("train", "predict", "test_prompts")
PLUGINS: dict[Step, str] = {"fetch": "datasets", "prepare": "datasets", **dict.fromkeys(_OF_SYSTEMS, "systems")}


@dataclass(frozen=True)
class _Module:
    inside: set[str]  # modules of the code base that it imports, with the packages that they and itself are in
    outside: set[str]  # top-level names of other packages that it imports
    digest: str  # of its code, its data files and the shipped weights that it names


class CodeBase:
    """The code of ``packages``, top-level name -> folder; imports of others are not followed."""

    def __init__(self, packages: Mapping[str, Path]) -> None:
        self.packages = dict(packages)
        self._read: dict[str, _Module] = {}

    def file(self, module: str) -> Path | None:
        """Return the file of ``module``, or None if these packages have no such module."""
        top, *rest = module.split(".")
        if top not in self.packages:
            return None
        base = self.packages[top].joinpath(*rest)
        candidates = (base / "__init__.py", base.with_name(f"{base.name}.py"))
        return next((path for path in candidates if path.is_file()), None)

    def closure(self, roots: Iterable[str]) -> list[str]:
        """Return the modules that importing ``roots`` can bring in, sorted, without those that change no result."""
        waiting = [module for root in roots for module in self._modules(root)]
        seen: set[str] = set()
        while waiting:
            module = waiting.pop()
            if module not in seen and not module.startswith(_LEFT_OUT):
                seen.add(module)
                waiting.extend(self._module(module).inside)
        return sorted(seen)

    def outside_imports(self, roots: Iterable[str]) -> set[str]:
        """Return the top-level names of the packages outside this code base that the closure of ``roots`` imports."""
        return set().union(*(self._module(module).outside for module in self.closure(roots)))

    def digest(self, roots: Iterable[str]) -> str:
        """Return the SHA-256 over the closure of ``roots`` and the data files that belong to it."""
        roots = list(roots)
        lines = [f"{module} {self._module(module).digest}" for module in self.closure(roots)]
        for package in (root.removesuffix(".*") for root in roots if root.endswith(".*")):
            files = sorted(self._existing(package).parent.rglob("*"))
            lines += _named_digests(file for file in files if _is_data(file))
        return text_digest("\n".join(lines))

    def _modules(self, root: str) -> list[str]:
        name = root.removesuffix(".*")
        folder = self._existing(name).parent
        if name == root:
            return [name]
        below = [file.relative_to(folder).with_suffix("").parts for file in folder.rglob("*.py")]
        return [".".join([name, *parts]).removesuffix(".__init__") for parts in below]

    def _existing(self, module: str) -> Path:
        path = self.file(module)
        if path is None:
            raise ModuleNotFoundError(f"{', '.join(self.packages)}: no module is called {module}")
        return path

    def _module(self, name: str) -> _Module:
        if name not in self._read:
            path = self._existing(name)
            tree = ast.parse(path.read_bytes(), filename=str(path))
            package = name if path.name == "__init__.py" else name.rpartition(".")[0]
            imported = list(_imported_names(tree, package))
            tokens: list[str] = []
            _write_tokens(tree, tokens)
            folders = (folder / "pretraining" / "weights" for folder in self.packages.values())
            weights = [file for folder in folders for file in sorted(folder.glob("*.safetensors"))]
            named = [file for file in weights if repr(file.stem) in tokens]  # "mini_clip"
            code = [" ".join(tokens), *_named_digests([*_data_files(path), *named])]
            parts = [each.split(".") for each in (name, *chain.from_iterable(imported))]
            above = {".".join(each[:length]) for each in parts for length in range(1, len(each) + 1)}
            self._read[name] = _Module(
                inside={module for module in above if self.file(module) is not None},
                outside={names[0].partition(".")[0] for names in imported} - set(self.packages),
                digest=text_digest("\n".join(code)),
            )
        return self._read[name]


def _named_digests(files: Iterable[Path]) -> list[str]:
    return [f"{file.name} {file_digest(file)}" for file in files]


def _data_files(module: Path) -> list[Path]:
    """Return the data files of ``x.py``: ``x.*``, ``x_*``, ``x-*`` beside it and in folders there, if no packages."""
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
    """Append ``node`` without docstrings, positions, and empty fields, of which newer Pythons have more."""
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


def _is_docstring(node: Any) -> bool:  # or a comment in its place
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
    """Return where the imports of a step begin that works on ``plugin``, a data set or a system."""
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
    """Return the digest of all code that a result of ``step`` depends on. ModuleNotFoundError: no such ``plugin``."""
    code_base, roots = step_roots(step, plugin)
    return code_base.digest(roots)


_NAMES = {"suite", "variant", "trained_as", "evaluated_as"}
_NOT_OF_TRAINING = _NAMES | {"reading", "protocol", "checkpoint_path", "benchmarks", "prompt_tests"}


def run_settings(run: Run, arithmetic: Arithmetic) -> str:
    """Return as JSON all that a run's training depends on, the recipe's defaults and the project's arithmetic, too.

    What a run is evaluated on is left out: to evaluate on one benchmark more retrains nothing.
    """
    settings = run.model_dump(mode="json", exclude=_NOT_OF_TRAINING)
    settings["recipe_defaults"] = Recipe().model_dump(mode="json")
    settings["recipe"] = resolve_recipe(Recipe(), run.recipe).model_dump(mode="json")
    return json.dumps({**settings, "arithmetic": arithmetic.model_dump(mode="json")}, sort_keys=True)


def planned(project: Project, run: Run) -> str:
    """Return the digest of all that a run's training depends on, as it is planned now."""
    return text_digest(run_settings(project.training_of(run), project.arithmetic))


def reading_of(project: Project, run: Run) -> str:
    """Return the digest of how an evaluation reads a training: the settings laid over it, and the arithmetic."""
    arithmetic = project.arithmetic.model_dump(mode="json", include={"evaluation_precision", "determinism"})
    return text_digest(json.dumps({"reading": run.reading, **arithmetic}, sort_keys=True))


def computing_packages() -> dict[str, str]:
    """Return the versions of the packages that compute; those that are not installed are left out."""
    versions = {}
    for name in COMPUTING:
        with suppress(PackageNotFoundError):
            versions[name] = version(name)
    return versions


def data_digests(indexes: Iterable[Path]) -> dict[str, str]:
    """Return ``{"<dataset>/<preparation>": data digest}`` of prepared data sets, by their index files."""
    return {"/".join(index.parent.parts[-2:]): data_digest(index) for index in indexes}


def commit() -> dict[str, Any]:
    """Return ``{"commit": hash, "dirty": bool}`` of the git checkout that recount runs from; None where it is none."""
    answer = output_of("git", "-C", str(PACKAGE), "rev-parse", "HEAD")
    if answer is None:
        return {"commit": None, "dirty": None}
    changes = output_of("git", "-C", str(PACKAGE), "status", "--porcelain", "--untracked-files=no", ":/")
    return {"commit": answer.strip(), "dirty": bool(changes and changes.strip())}


def visible_gpus() -> list[dict[str, str]]:
    """Return name, driver and memory of each NVIDIA card that a job started now would see. Does not import torch."""
    return _gpus()[0]


def hidden_gpus() -> list[dict[str, str]]:
    """Return the same of each card that CUDA_VISIBLE_DEVICES hides."""
    return _gpus()[1]


def _gpus() -> tuple[list[dict[str, str]], list[dict[str, str]]]:
    """Return the cards that CUDA shows, and those that it does not."""
    query = "--query-gpu=index,uuid,name,driver_version,memory.total"
    answer = output_of("nvidia-smi", query, "--format=csv,noheader,nounits")
    rows = [[cell.strip() for cell in line.split(",")] for line in (answer or "").splitlines() if line.count(",") == 4]
    chosen, wanted = rows, os.environ.get("CUDA_VISIBLE_DEVICES")
    if wanted is not None:
        # CUDA's own rule: in the given order, by index or beginning of the UUID, up to the first that does not exist.
        chosen = []
        for entry in (part.strip() for part in wanted.split(",")):
            match = [row for row in rows if row[0] == entry or (entry and row[1].startswith(entry))]
            if not match:
                break
            chosen.append(match[0])
    hidden = [row for row in rows if row not in chosen]
    shown, others = (
        [dict(zip(("name", "driver", "memory_mb"), row[2:], strict=True)) for row in part] for part in (chosen, hidden)
    )
    return shown, others


def surroundings() -> dict[str, Any]:
    """Return what surrounds a result: recount and its commit, command, Python, packages, hardware."""
    packages = {item.metadata["Name"].lower().replace("_", "-"): item.version for item in distributions()}
    return {
        "recount": VERSION,
        **commit(),
        "command": [Path(sys.argv[0]).name, *sys.argv[1:]],
        "python": platform.python_version(),
        "packages": dict(sorted(packages.items())),
        "hardware": {
            "cpu": cpu_name(),
            "cores": os.cpu_count(),
            "memory_mb": memory_mb(),
            "gpus": visible_gpus(),
            "system": platform.platform(),
        },
    }


def collect(run: Run, data: Mapping[str, str], *, device: str, chosen: str, kernels: str) -> dict[str, Any]:
    """Return the provenance of a run on ``device`` ("cuda:0": in words ``chosen``) and on ``data`` (``data_of``).

    ``kernels``: the processor's (``devices.kernels``), on which the last digits of a training hang.
    """
    code, found = step_digest("train", run.system), surroundings()
    found["hardware"]["kernels"] = kernels
    return {**found, "device": device, "device_chosen": chosen, "code": code, "data": data}


def data_of(project: Project, run: Run) -> dict[str, str]:
    """Return the data digests of all that a run is trained and chosen on, and of the weights it starts from."""
    data = data_digests(sorted({project.root / project.index(split) for split in run.learnt_from}))
    manifests = {name: project.root / project.weights / name / "manifest.json" for name in run.weights}
    return data | {f"{WEIGHTS}{name}": weights_digest(path) for name, path in manifests.items() if path.is_file()}


def weights_digest(manifest: Path) -> str:
    """Return the digest over a manifest's files; a ``ResultsError`` where it is broken."""
    try:
        return str(json.loads(manifest.read_bytes())["digest"])
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        again = f"delete it, and `recount fetch-weights {manifest.parent.name}` gets them again"
        raise ResultsError(manifest, f"damaged: {error!r}", again) from None


def cpu_name() -> str:
    """Return what the processor calls itself."""
    if sys.platform == "darwin":
        return (output_of("sysctl", "-n", "machdep.cpu.brand_string") or platform.machine()).strip()
    lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines() if Path("/proc/cpuinfo").exists() else []
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, platform.machine())


def output_of(*command: str) -> str | None:
    """Return what a command prints, or None if it is not there or fails."""
    try:
        return subprocess.run(command, check=True, capture_output=True, text=True, timeout=30).stdout
    except (OSError, subprocess.SubprocessError):
        return None
