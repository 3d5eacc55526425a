"""Large libraries by the parts that are used: a package of ``ON_DEMAND`` runs its ``__init__`` only when it is needed.

``from open_clip.transformer import VisionTransformer`` runs all of open_clip, torchvision, timm and transformers before
it, and the first step of an optimiser all of PyTorch's compiler: six seconds of processor time in each job, where
PyTorch itself takes two. Here the parts of a package can be imported alone, and it is read as a whole as soon as
somebody asks it for a name that no part of it has. What is computed is the same: nothing here is compiled.
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
        self.__class__ = ModuleType  # type: ignore[assignment]
        self.__path__ = list(spec.submodule_search_locations or ())
        spec.loader.exec_module(self)
        return getattr(self, name)


def _unmarked(function: Any = None, *arguments: Any, **named: Any) -> Any:
    """Return a function as it is, or a decorator that does: in place of marks that only the compiler reads."""
    return _unmarked if function is None else function


_MARKS = ("allow_in_graph", "assume_constant_result", "disable", "graph_break")
# Packages, those above first -> names that are known before they are read. The compiler's parts need each other in the
# order in which it reads them: one with such names is read as a whole before any part of it.
ON_DEMAND: dict[str, dict[str, Any]] = {
    "torch._dynamo": dict.fromkeys(_MARKS, _unmarked),
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
