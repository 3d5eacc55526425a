"""What a run costs: parameters, operations, seconds, memory. Measured, or counted by PyTorch."""

import json
import resource
import sys
import time
from collections.abc import Iterable, Mapping
from functools import cache
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from recount import systems
from recount.settings.base import merged
from recount.settings.project import Project, Run
from recount.settings.recipe import Optimiser, resolve_recipe
from recount.systems.base import System


def parameters(network: nn.Module) -> dict[str, int]:
    """Count the parameters: all of them, and those that training changes."""
    numbers = [(parameter.numel(), parameter.requires_grad) for parameter in network.parameters()]
    trained = sum(number for number, changes in numbers if changes)
    return {"parameters_total": sum(number for number, _ in numbers), "parameters_trained": trained}


def bytes_on_disk(network: nn.Module, optimiser: Optimiser) -> tuple[int, int]:
    """Return the bytes of a training's state, in which frozen weights are not, and of a model."""

    def size(tensors: Iterable[Tensor]) -> int:
        return sum(tensor.numel() * tensor.element_size() for tensor in tensors)

    trained = size(parameter for parameter in network.parameters() if parameter.requires_grad)
    model, moments = size(network.state_dict().values()), 2 if optimiser.name != "sgd" else int(optimiser.momentum > 0)
    frozen = size(parameter for parameter in network.parameters() if not parameter.requires_grad)
    return model - frozen + moments * trained, model


def planned_bytes(project: Project, run: Run) -> tuple[int, int]:
    """Return ``bytes_on_disk`` of a run that is planned, of a network without content."""
    system_class = systems.load(run.system)
    size = system_class.mini_settings() if run.size == "mini" else {}
    settings = merged(size, _without_files(run.settings, f"{project.weights}/"))
    optimiser = resolve_recipe(system_class.recipe, run.recipe).optimiser
    return _bytes_on_disk(system_class, json.dumps(settings, sort_keys=True), optimiser)


@cache
def _bytes_on_disk(system_class: type[System], settings: str, optimiser: Optimiser) -> tuple[int, int]:
    with torch.device("meta"):
        return bytes_on_disk(system_class(system_class.Settings.model_validate_json(settings)), optimiser)


def _without_files(settings: Mapping[str, Any], below: str) -> dict[str, Any]:
    """Return settings without those that name a file below a folder: another start has the same size."""
    return {
        key: _without_files(value, below) if isinstance(value, Mapping) else value
        for key, value in settings.items()
        if not str(value).startswith(below)
    }


@torch.no_grad()
def flops_of_prediction(system: System, image: Tensor, prompt: str) -> tuple[int, list[int]]:
    """Count the floating-point operations (2 per multiply-add) of predicting one window of an image, and its size."""
    prepared = system.prepare_image(image)
    if system.windows is not None:
        height, width = system.windows.height, system.windows.width
        missing = (0, max(0, width - prepared.shape[2]), 0, max(0, height - prepared.shape[1]))
        prepared = nn.functional.pad(prepared, missing)[:, :height, :width]
    trained = [parameter for parameter in system.parameters() if parameter.requires_grad]
    for parameter in trained:
        parameter.requires_grad_(False)  # the counter hooks backward passes of parameters that stand alone (prompts)
    with FlopCounterMode(display=False) as counter:
        system.predict(prepared.unsqueeze(0), [prompt])
    for parameter in trained:
        parameter.requires_grad_(True)
    return int(counter.get_total_flops()), list(prepared.shape[1:])


class Meter:
    """Measures wall seconds, GPU seconds and peak memory from its making on, of a run on so many equal devices."""

    def __init__(self, device: torch.device, devices: int = 1) -> None:
        self.device, self.devices, self.started = device, devices, time.monotonic()
        if device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(device)

    def read(self) -> dict[str, Any]:
        """Return the seconds (on a GPU: of all cards held) and the peaks, which are those of this process."""
        seconds = time.monotonic() - self.started
        unit = 1 if sys.platform == "darwin" else 1024  # ru_maxrss: bytes on macOS, KiB elsewhere
        memory = round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e6, 1)
        found = {"wall_seconds": round(seconds, 2), "gpu_seconds": 0.0, "peak_memory_mb": memory}
        if self.device.type != "cuda":
            return found | {"peak_gpu_memory_mb": None}
        on_gpu = round(torch.cuda.max_memory_allocated(self.device) / 1e6, 1)
        return found | {"gpu_seconds": round(seconds * self.devices, 2), "peak_gpu_memory_mb": on_gpu}
