"""Large libraries by the parts that are used: a package of ``ON_DEMAND`` runs its ``__init__`` only when it is needed.

``from open_clip.transformer import VisionTransformer`` runs all of open_clip, torchvision, timm and transformers before
it, and the first step of an optimiser all of PyTorch's compiler: six seconds of processor time in each job, where
PyTorch itself takes two. Here the parts of a package can be imported alone, and it is read as a whole as soon as
somebody asks it for a name that no part of it has. What is computed is the same, by what is compiled later, too.
"""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from importlib.util import find_spec, module_from_spec
from types import ModuleType
from typing import Any


class _OnDemand(ModuleType):
    def __getattr__(self, name: str) -> Any:
        spec = self.__spec__
        asked_by_python = name.startswith("__") and name not in {"__path__", "__version__"}
        if asked_by_python or spec is None or spec.loader is None:
            raise AttributeError(f"module {self.__name__!r} has no attribute {name!r}")
        if "__path__" in self.__dict__ and find_spec(part := f"{self.__name__}.{name}") is not None:
            return import_module(part)
        _read(self)
        return getattr(self, name)


def _read(package: ModuleType) -> None:
    """Run a package's own code, so that it is as if it had never been put off."""
    spec = package.__spec__
    assert spec is not None and spec.loader is not None
    package.__class__ = ModuleType
    package.__path__ = list(spec.submodule_search_locations or ())
    spec.loader.exec_module(package)
    while package.__name__ == COMPILER and _to_mark:
        vars(_to_mark.pop()).pop("__dynamo_disable", None)  # torch._compile marks it at the next call


COMPILER = "torch._dynamo"
_to_mark: list[Any] = []  # PyTorch's own functions that were called before its compiler was read


def _disable(function: Any = None, *arguments: Any, **named: Any) -> Any:
    """Put off the mark "not to be compiled" until there is a compiler, for PyTorch's own functions when first called.

    Whoever else marks a function reads the compiler.
    """
    if function is not None and sys._getframe(1).f_globals.get("__name__") == "torch._compile":
        _to_mark.append(function)
        return function
    _read(compiler := sys.modules[COMPILER])
    return compiler.disable(function, *arguments, **named)


def _graph_break(*arguments: Any, **named: Any) -> None:
    """Do what PyTorch's own does where nothing is compiled: nothing."""


# Packages, those above first -> names that are known before they are read. The compiler's parts need each other in the
# order in which it reads them: one with such names is read as a whole before any part of it.
ON_DEMAND: dict[str, dict[str, Any]] = {
    COMPILER: {"disable": _disable, "graph_break": _graph_break},
    "torchvision": {},
    "torchvision.models": {},
    "torchvision.ops": {},
    "open_clip": {},
}


def _put_off(name: str, known: dict[str, Any]) -> None:
    spec = None if name in sys.modules else find_spec(name)  # what is imported already stays as it is
    if spec is not None:
        sys.modules[name] = module = module_from_spec(spec)
        if known:
            del module.__path__
            module.__dict__.update(known)
        module.__class__ = _OnDemand
        above, _, last = name.rpartition(".")
        if above:
            setattr(sys.modules[above], last, module)


@contextmanager
def without(*names: str) -> Iterator[None]:
    """Let packages be missing that what is imported here can do without, where they are not imported yet."""
    left_out = [name for name in names if name not in sys.modules]
    sys.modules.update(dict.fromkeys(left_out))  # type: ignore[arg-type]  # None: an ImportError
    try:
        yield
    finally:
        for name in left_out:
            del sys.modules[name]


for _name, _known in ON_DEMAND.items():
    _put_off(_name, _known)
