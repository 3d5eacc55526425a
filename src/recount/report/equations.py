"""From a paper's equations to the functions that compute them, without importing a system (and torch with it).

The file of a system ends in ``EQUATIONS``, a map of equations to functions, classes or methods of that file, or
imported from another file of recount. It is read from the source text; a system without one has no table.
"""

import ast
from collections.abc import Iterator
from functools import cache
from importlib.metadata import PackageNotFoundError, metadata
from pathlib import Path
from typing import NamedTuple

import recount
from recount.report.exhibits import Cell, Context, Exhibit, Line, Sheet

SOURCE = Path(recount.__file__).parent
Definition = ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef | ast.Assign | ast.AnnAssign


class Equation(NamedTuple):
    """An equation, and the function that computes it: its name, its file below ``src`` and its line."""

    label: str
    function: str
    file: str
    line: int


def equations_of(system: str, source: Path = SOURCE) -> list[Equation]:
    """Return the equations of a system of recount, in its file's order; ``source`` is the package's folder."""
    path = source / "systems" / f"{system}.py"
    entry = _names(path).get("EQUATIONS") if path.is_file() else None
    mapping = entry.value if isinstance(entry, ast.Assign | ast.AnnAssign) else None
    found = []
    for key, value in zip(mapping.keys, mapping.values, strict=True) if isinstance(mapping, ast.Dict) else ():
        if isinstance(key, ast.Constant):
            name = ast.unparse(value)
            file, line = _find(path, name.split("."), source) or (path, value.lineno)
            found.append(Equation(str(key.value), name, file.relative_to(source.parent).as_posix(), line))
    return found


@cache
def _names(path: Path) -> dict[str, Definition | ast.ImportFrom]:
    names: dict[str, Definition | ast.ImportFrom] = {}
    for node in ast.parse(path.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            names[node.name] = node
        elif isinstance(node, ast.ImportFrom):
            names |= {alias.asname or alias.name: node for alias in node.names}
        elif isinstance(node, ast.Assign | ast.AnnAssign):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            names |= {target.id: node for target in targets if isinstance(target, ast.Name)}
    return names


def _find(path: Path, name: list[str], source: Path) -> tuple[Path, int] | None:
    """Return file and line of a (dotted) name as it is known in a file; None if it is not recount's."""
    node = _names(path).get(name[0])
    if isinstance(node, ast.ImportFrom):
        original = next(alias.name for alias in node.names if (alias.asname or alias.name) == name[0])
        package, *parts = (node.module or "").split(".")
        folder = source.joinpath(*parts)
        if package != source.name:
            return None
        if (folder / f"{original}.py").is_file():  # from recount.nn import bins
            return _find(folder / f"{original}.py", name[1:], source)
        file = folder / "__init__.py" if folder.is_dir() else folder.with_suffix(".py")
        return _find(file, [original, *name[1:]], source) if file.is_file() else None
    if isinstance(node, ast.ClassDef) and len(name) == 2:
        for member in node.body:
            if isinstance(member, ast.FunctionDef) and member.name == name[1]:
                return path, member.lineno
        inherited = (_find(path, [*ast.unparse(base).split("."), name[1]], source) for base in node.bases)
        return next(filter(None, inherited), (path, node.lineno))
    return None if node is None else (path, node.lineno)


def equations(context: Context) -> Iterator[Exhibit]:
    """Yield, for each system of the paper, which function computes which equation."""
    address = repository()
    sheets: list[Sheet] = []
    for name, entry in context.experiments.items():
        lines = []
        for found in equations_of(name):
            where = f"src/{found.file}:{found.line}"
            links = ((f"{address}/blob/main/src/{found.file}#L{found.line}", where),) if address else ()
            lines.append(Line((found.label, found.function, Cell(where, links=links))))
        if lines:
            heads, file = ("Equation", "Function", "Where"), f"{context.name}-equations-{name}"
            sheets.append(Sheet(file, entry.label, heads, tuple(lines), folded=bool(sheets)))
    if sheets:
        sentence = "Which function computes which equation of a system's paper, with the file and line where it stands."
        yield Exhibit("equations", "From equations to code", sentence, tables=tuple(sheets))


def repository() -> str:
    """Return the address of recount's repository as its package names it, or ""."""
    try:
        urls = [url.split(", ") for url in metadata("recount").get_all("Project-URL") or ()]
    except PackageNotFoundError:
        return ""
    return next((url.rstrip("/") for label, url in urls if label.lower() in ("repository", "source")), "")
