"""What a result was made with: code digest, commit, packages, hardware, data digests. Light: imports nothing heavy.

The code digest of a step is a SHA-256 over the syntax trees of every recount module that the step imports, directly or
not, lazily or not. Comments, docstrings, formatting and ``if TYPE_CHECKING:`` imports are left out, so that only a change
that can change a result makes Snakemake run the step again. Left out on purpose:

* ``recount.config``: what it decides reaches a job resolved, as Snakemake params (``Run`` and its full recipe);
* ``recount.provenance``: it describes results and changes none;
* the fetcher, for ``fetch``: a file's checksum already says that its bytes are right.
"""

from __future__ import annotations

import ast
import hashlib
from collections.abc import Iterable
from pathlib import Path
from typing import Literal

Step = Literal["fetch", "prepare", "train", "predict", "score", "report"]

PACKAGE = Path(__file__).parent
_LEFT_OUT = {"recount.config", "recount.provenance"}
_NO_DATA = {".py", ".pyc", ".pyi"}

# Where a step's imports begin: modules, or packages with everything in them (``.*``). The system or the data set is
# found by name at run time, so no import statement leads to it: see ``step_roots``.
_STEP_ROOTS: dict[str, tuple[str, ...]] = {
    "fetch": (),
    "prepare": ("recount.data.prepare",),
    "train": ("recount.training.*",),
    "predict": ("recount.evaluation.predict",),
    "score": ("recount.evaluation.*",),
    "report": ("recount.report.*",),
}
_PLUGINS = {"fetch": "datasets", "prepare": "datasets", "train": "systems", "predict": "systems"}


# ------------------------------------------------------------------------------------------------------ code digests


class CodeBase:
    """The Python packages whose code counts, read and parsed once each.

    Args:
        packages: top-level package -> its folder. Imports of other packages are not followed.
    """

    def __init__(self, packages: dict[str, Path]) -> None:
        self.packages = packages
        self._imports: dict[str, frozenset[str]] = {}
        self._digests: dict[str, str] = {}
        self._trees: dict[str, ast.Module] = {}

    def path(self, module: str) -> Path | None:
        """Return the file of ``module``, or None if there is no such module in these packages."""
        top, *rest = module.split(".")
        if top not in self.packages:
            return None
        base = self.packages[top].joinpath(*rest)
        candidates = (base / "__init__.py", base.with_name(f"{base.name}.py"))
        return next((path for path in candidates if path.is_file()), None)

    def expand(self, root: str) -> list[str]:
        """Return the modules that ``root`` stands for: itself, or with ``.*`` a package and all below it.

        Raises:
            ModuleNotFoundError: there is no such module.
        """
        name = root.removesuffix(".*")
        path = self.path(name)
        if path is None:
            raise ModuleNotFoundError(f"no module {name} in {', '.join(self.packages)}: is it still called so?")
        if name == root:
            return [name]
        below = (file.relative_to(path.parent).with_suffix("").parts for file in path.parent.rglob("*.py"))
        return sorted({".".join([name, *parts]).removesuffix(".__init__") for parts in below})

    def closure(self, roots: Iterable[str]) -> list[str]:
        """Return the modules that importing ``roots`` can bring in, sorted, without those that change no result."""
        waiting = [module for root in roots for module in self.expand(root)]
        seen: set[str] = set()
        while waiting:
            module = waiting.pop()
            if module not in seen and module not in _LEFT_OUT:
                seen.add(module)
                waiting.extend(self._imported_by(module))
        return sorted(seen)

    def outside_imports(self, modules: Iterable[str]) -> set[str]:
        """Return the top-level names of the packages outside this code base that ``modules`` import."""
        found: set[str] = set()
        for module in modules:
            names = (name for group in _imported_names(self._tree(module), self._package(module)) for name in group[:1])
            found |= {name.partition(".")[0] for name in names}
        return found - set(self.packages)

    def digest(self, roots: Iterable[str]) -> str:
        """Return the SHA-256 over the closure of ``roots`` and the data files that belong to it."""
        whole = hashlib.sha256()
        for module in self.closure(roots):
            whole.update(f"{module} {self._digest_of(module)}\n".encode())
        return whole.hexdigest()

    def _package(self, module: str) -> str:
        path = self.path(module)
        assert path is not None, module
        return module if path.name == "__init__.py" else module.rpartition(".")[0]

    def _tree(self, module: str) -> ast.Module:
        if module not in self._trees:
            path = self.path(module)
            assert path is not None, module
            self._trees[module] = ast.parse(path.read_bytes(), filename=str(path))
        return self._trees[module]

    def _imported_by(self, module: str) -> frozenset[str]:
        if module not in self._imports:
            found: set[str] = set()
            for names in _imported_names(self._tree(module), self._package(module)):
                for name in names:
                    parts = name.split(".")
                    parents = (".".join(parts[:length]) for length in range(1, len(parts) + 1))
                    found |= {parent for parent in parents if self.path(parent) is not None}
            self._imports[module] = frozenset(found)
        return self._imports[module]

    def _digest_of(self, module: str) -> str:
        if module not in self._digests:
            path = self.path(module)
            assert path is not None, module
            content = hashlib.sha256("\n".join(_tokens(self._tree(module))).encode())
            for file in data_files(path):
                content.update(f"{file.name} {file_sha256(file)}\n".encode())
            self._digests[module] = content.hexdigest()
        return self._digests[module]


def data_files(module: Path) -> list[Path]:
    """Return the data files that belong to a module, sorted.

    To a module ``x.py`` belong the files ``x.*``, ``x_*`` and ``x-*`` beside it and in folders beside it that are not
    packages; to a package's ``__init__.py`` everything in its folders that are not packages (``report/templates``).

    Args:
        module: the module's file.
    """
    own = module.stem
    folders = [
        folder for folder in module.parent.iterdir() if folder.is_dir() and not (folder / "__init__.py").exists()
    ]
    if own == "__init__":
        found = [
            file for folder in folders for file in folder.rglob("*") if not _is_list_of_modules(folder, module.parent)
        ]
    else:
        beside = [*module.parent.iterdir(), *(file for folder in folders for file in folder.rglob("*"))]
        found = [file for file in beside if file.name.startswith((f"{own}.", f"{own}_", f"{own}-"))]
    return sorted(file for file in found if file.is_file() and file.suffix not in _NO_DATA)
