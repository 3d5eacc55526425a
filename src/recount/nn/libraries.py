"""Large libraries by the parts that are used: a package of ``ON_DEMAND`` runs its ``__init__`` only when it is needed.

``from open_clip.transformer import VisionTransformer`` runs all of open_clip, torchvision, timm and transformers before
it: four seconds of processor time in each job, where PyTorch itself takes two. Here the parts of a package can be
imported alone, and it is read as a whole as soon as somebody asks it for a name that no part of it has. All networks of
timm, which CLIP-Count and CounTX use three layers of, take another half a second.

PyTorch's optimisers and torchvision ask its compiler (two seconds) to leave functions alone, as it does anyway as long
as nobody compiles: until somebody asks it for anything else, ``STAND_INS`` answer.
"""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from importlib.util import find_spec, module_from_spec
from threading import RLock
from types import ModuleType
from typing import Any


class _OnDemand(ModuleType):
    def __getattr__(self, name: str) -> Any:
        spec = self.__spec__
        asked_by_python = name.startswith("__") and name not in {"__path__", "__version__"}
        if asked_by_python or spec is None or spec.loader is None:
            raise AttributeError(f"module {self.__name__!r} has no attribute {name!r}")
        whole = self.__name__ in STAND_INS
        if not whole and find_spec(part := f"{self.__name__}.{name}") is not None:
            return import_module(part)
        # parts of timm ask for it, which the whole waits for
        if name == "__version__" and find_spec(part := f"{self.__name__}.version") is not None:
            return import_module(part).__version__
        with _READING:
            if isinstance(self, _OnDemand):  # no other thread has read it meanwhile
                self.__class__ = ModuleType  # type: ignore[assignment]
                self.__path__ = spec.submodule_search_locations or []
                spec.loader.exec_module(self)
        return getattr(self, name)


def _as_it_is(function: Any = None, *_: object, **__: object) -> Any:
    """Do nothing to a function that is not to be compiled, whether it is given or to be decorated."""
    return _as_it_is if function is None else function


_READING = RLock()
STAND_INS = {"torch._dynamo": {"disable": _as_it_is, "graph_break": _as_it_is}}
# those above first
ON_DEMAND = ("torchvision", "torchvision.models", "torchvision.ops", "open_clip", "timm", *STAND_INS)


def _put_off(name: str) -> None:
    spec = None if name in sys.modules else find_spec(name)  # what is imported already stays as it is
    if spec is not None:
        sys.modules[name] = module = module_from_spec(spec)
        module.__class__ = _OnDemand
        vars(module).update(STAND_INS.get(name, {}))
        if name in STAND_INS:
            del module.__path__  # a part of it asks for it, and so for the whole
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


for _name in ON_DEMAND:
    _put_off(_name)
