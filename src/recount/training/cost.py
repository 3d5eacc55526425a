"""What a run costs: parameters, operations, seconds, memory. Measured, or counted by PyTorch."""

import resource
import sys
import time
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from recount.systems.base import System


def parameters(network: nn.Module) -> dict[str, int]:
    """Count the parameters: all of them, and those that training changes."""
    numbers = [(parameter.numel(), parameter.requires_grad) for parameter in network.parameters()]
    trained = sum(number for number, changes in numbers if changes)
    return {"parameters_total": sum(number for number, _ in numbers), "parameters_trained": trained}


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
