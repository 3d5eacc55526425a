"""Golden cases: outputs of the official code on formula-made weights and inputs, kept outside the repository."""

import importlib.util
import json
import os
import re
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch

SHARED = Path(os.environ.get("RECOUNT_SHARED", Path(__file__).resolve().parents[2] / "shared"))


def shared(*parts: str) -> Path:
    """Return a path below the shared folder; skips the test where that folder is absent."""
    path = SHARED.joinpath(*parts)
    if not path.exists():
        pytest.skip(f"{path} is not here: golden values and mirror data are kept outside the repository")
    return path


def golden(name: str) -> dict[str, Any]:
    """Return the parsed golden file ``<name>.json``."""
    return json.loads(shared("golden", f"{name}.json").read_text())


def golden_case(file: str, name: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return what goes into a golden case, and what comes out of it."""
    case = golden(file)["cases"][name]
    return case["inputs"], case["outputs"]


def fill() -> ModuleType:
    """Return the module that makes weights and inputs by formula."""
    spec = importlib.util.spec_from_file_location("golden_fill", shared("golden", "fill.py"))
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def wave(spec: dict[str, Any]) -> np.ndarray:
    """Return the input that a golden case describes: {"shape", "a", "b", "scale", "offset"?}."""
    values = fill().wave(tuple(spec["shape"]), spec["a"], spec["b"], spec.get("scale", 1.0))
    return values + np.float32(spec.get("offset", 0.0))


def tensor(spec: dict[str, Any]) -> torch.Tensor:
    """Return ``wave`` as a tensor."""
    return torch.from_numpy(wave(spec))


def assert_matches(actual: Any, expected: Any, rtol: float = 1e-4) -> None:
    """Assert that a tensor agrees with a golden digest (or a plain value) within the golden files' tolerance."""
    values = np.asarray(actual.detach().cpu() if hasattr(actual, "detach") else actual, dtype=np.float64)
    if not isinstance(expected, dict):
        want = np.asarray(expected, dtype=np.float64)
        assert values.shape == want.shape, f"shape {values.shape}, expected {want.shape}"
        scale = np.sqrt(np.mean(want**2)) if want.ndim else 0.0
        np.testing.assert_allclose(values, want, rtol=rtol, atol=rtol * scale)
        return
    assert list(values.shape) == list(expected["shape"])
    got = fill().digest(values)
    samples = np.asarray(expected["samples"], dtype=np.float64)
    rms = float(np.sqrt(np.mean(samples**2)))
    np.testing.assert_allclose(got["samples"], samples, rtol=rtol, atol=rtol * rms)
    np.testing.assert_allclose(got["abs_sum"], expected["abs_sum"], rtol=rtol)
    assert abs(got["sum"] - expected["sum"]) <= rtol * expected["abs_sum"]


def refilled(
    module: Any, then_multiply: list[list[Any]] | None = None, names: dict[str, str] | None = None
) -> dict[str, Any]:
    """Return a torch module's state dict refilled by formula on the official key names, as golden weights are.

    Args:
        module: whose state dict and normalisation layers count.
        then_multiply: [pattern, factor] pairs of the golden case.
        names: official key -> the module's own key, where they differ; the result has the official keys.
    """
    tools = fill()
    own = module.state_dict()
    official = names or {key: key for key in own}
    scales = tools.norm_scale_keys(module)
    state = tools.fill_state_dict(
        {key: own[name] for key, name in official.items()},
        norm_scales={key for key, name in official.items() if name in scales},
    )
    for pattern, factor in then_multiply or []:
        for key in state:
            if re.fullmatch(pattern, key):
                state[key] = (state[key] * np.float32(factor)).to(torch.float32)
    return state
