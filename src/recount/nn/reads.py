"""When the host looks at a value that a device computes: each look makes it wait until the device has caught up."""

import torch


def worth_reading(check: int, device: torch.device) -> bool:
    """Return whether a loop should ask for the result of its ``check``-th test (from 1) of whether to stop.

    On the processor always. On a card at powers of two: a loop runs at most twice as long as it must, with a few reads.
    """
    return device.type == "cpu" or check & (check - 1) == 0
