"""One training run in several processes, one for each of its GPUs: what each takes, and what they do together.

Every process computes the gradients of its own part of the global batch; they are added up before the optimiser's
step, so that all processes keep the same weights. Nothing is exchanged within the forward and backward pass (but the
statistics of synchronised BatchNorm): a process that is out of memory can say so, and all cut the batch further.

PyTorch starts the processes: ``together`` by torch.multiprocessing on one machine, or torchrun (or accelerate launch)
on one or several, whose process ``launched`` joins. What is ours is the sum of the gradients: DistributedDataParallel
gives the same (a test compares them, with ``no_sync``), but within the last backward pass, where a process that is out
of memory leaves all others waiting (torch/nn/parallel/distributed.py, ``no_sync``: gradients are synchronised in the
first forward-backward pass exiting the context).
"""

import datetime
import os
import signal
import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from multiprocessing.connection import wait
from pathlib import Path
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.multiprocessing.spawn import ProcessException, start_processes

from recount.errors import UserError, in_words
from recount.jobs import KilledError, WalltimeError

T = TypeVar("T")

BUCKET = 2**24  # numbers that are added up at once: 64 MB
GRACE = 1.0  # seconds for the others to end by themselves, when one has failed; and again until they are killed
PATIENCE = datetime.timedelta(hours=2)  # longest time that a process may be behind the others


class Processes:
    """The processes of one run, seen from number ``rank``; the ``first`` is the only one that writes and speaks."""

    def __init__(self, rank: int = 0, size: int = 1) -> None:
        self.rank, self.size, self.first = rank, size, rank == 0
        # small messages go between processors, so that no GPU is waited for
        self._messages: Any = dist.new_group(backend="gloo", timeout=PATIENCE) if size > 1 else None

    def share(self, items: Sequence[T]) -> Sequence[T]:
        """Return this process's part of a batch; where there are fewer items than processes, all of it."""
        if len(items) < self.size:
            return items
        edges = [place * len(items) // self.size for place in range(self.size + 1)]
        return items[edges[self.rank] : edges[self.rank + 1]]

    def copies(self, items: int) -> int:
        """Return how many processes compute each item of a batch of so many items: see ``share``."""
        return self.size if items < self.size else 1

    def gathered(self, item: T) -> list[T]:
        """Return what each process gives, in their order."""
        if self.size == 1:
            return [item]
        items: list[Any] = [None] * self.size
        dist.all_gather_object(items, item, group=self._messages)
        return items

    def add_up(self, tensor: Tensor) -> Tensor:
        """Return the sum of all processes' tensors, in place."""
        if self.size > 1:
            dist.all_reduce(tensor)
        return tensor

    def add_gradients(self, parameters: Iterable[nn.Parameter]) -> None:
        """Replace each gradient by the sum over all processes; parameters that have one nowhere keep none."""
        if self.size == 1:
            return
        trained = list(parameters)
        present = torch.tensor([parameter.grad is not None for parameter in trained], dtype=torch.int32)
        dist.all_reduce(present, group=self._messages)
        for parameter, processes in zip(trained, present.tolist(), strict=True):
            if processes and parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
        for bucket in _buckets(parameter.grad for parameter in trained if parameter.grad is not None):
            flat = self.add_up(torch.cat([gradient.flatten() for gradient in bucket]))
            for gradient, part in zip(bucket, flat.split([gradient.numel() for gradient in bucket]), strict=True):
                gradient.copy_(part.view_as(gradient))

    def same_weights(self, network: nn.Module) -> None:
        """Give every process the first one's parameters and buffers."""
        if self.size > 1:
            for tensor in (*network.parameters(), *network.buffers()):
                dist.broadcast(tensor.detach(), src=0)


def _buckets(tensors: Iterable[Tensor]) -> Iterable[list[Tensor]]:
    # of one type and at most BUCKET numbers (a larger tensor is alone)
    bucket: list[Tensor] = []
    for tensor in tensors:
        full = bucket and sum(each.numel() for each in bucket) + tensor.numel() > BUCKET
        if full or (bucket and bucket[0].dtype != tensor.dtype):
            yield bucket
            bucket = []
        bucket.append(tensor)
    if bucket:
        yield bucket


def together(work: Callable[..., None], arguments: Sequence[Any], devices: Sequence[torch.device]) -> None:
    """Call ``work(processes, device, *arguments)`` in a new process for each device (all cards or all processors).

    They end with this process; if one fails, the others are ended (what can be said in words is a ``UserError``, one
    that was killed a ``KilledError``).
    """
    with tempfile.TemporaryDirectory(prefix="recount-processes-") as folder:
        given = (folder, [str(device) for device in devices], work, tuple(arguments))
        started: Any = start_processes(_begin, given, len(devices), join=False, start_method="spawn")
        killed: dict[int, int] = {}  # before any of them was ended for another's sake
        try:
            while not killed and started.sentinels:
                for sentinel in wait(started.sentinels):
                    started.processes[started.sentinels[sentinel]].join()
                killed = {rank: -(each.exitcode or 0) for rank, each in enumerate(started.processes)}
                killed = {rank: number for rank, number in killed.items() if number > 0}
                started.join(grace_period=GRACE)
        except ProcessException:
            for kind in (UserError, WalltimeError):  # what went wrong before what was saved in time
                for path in sorted(Path(folder).glob(f"*.{kind.__name__}")):
                    raise kind(path.read_text(encoding="utf-8")) from None
            for rank, number in killed.items():
                raise KilledError(
                    f"process {rank + 1} of {len(devices)} was ended by {signal.Signals(number).name} (memory, or "
                    "somebody's kill), and the others with it; started again, the training goes on from its last state"
                ) from None
            raise


@contextmanager
def launched(device: torch.device) -> Iterator[Processes]:
    """Yield all processes of a run that torchrun started (``dist.is_torchelastic_launched``), seen from this one.

    Who they are and where they meet stands in the environment, for PyTorch and for accelerate.
    """
    backend = "nccl" if device.type == "cuda" else "gloo"
    dist.init_process_group(backend, timeout=PATIENCE)
    yield Processes(dist.get_rank(), dist.get_world_size())
    dist.destroy_process_group()  # not after an error: the others are ended by torchrun


def _begin(rank: int, folder: str, devices: list[str], work: Callable[..., None], arguments: tuple[Any, ...]) -> None:
    size = len(devices)
    device, backend = torch.device(devices[rank]), "gloo"
    if device.type == "cuda":
        # hide all other cards: accelerate counts them from 0
        cards = [int(torch.device(each).index) for each in devices]
        visible = os.environ.get("CUDA_VISIBLE_DEVICES")
        names = visible.split(",") if visible else [str(card) for card in range(max(cards) + 1)]
        os.environ["CUDA_VISIBLE_DEVICES"] = ",".join(names[card] for card in cards)
        device, backend = torch.device("cuda", rank), "nccl"
        torch.cuda.set_device(device)
    # accelerate asks the environment who it is
    os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(size), "LOCAL_WORLD_SIZE": str(size)}
    meeting = Path(folder, "rendezvous").as_uri()
    dist.init_process_group(backend, init_method=meeting, rank=rank, world_size=size, timeout=PATIENCE)
    try:
        work(Processes(rank, size), device, *arguments)
    except (UserError, OSError, RuntimeError) as error:
        message = in_words(error)
        if message is None:
            raise
        kind = WalltimeError if isinstance(error, WalltimeError) else UserError
        Path(folder, f"{rank}.{kind.__name__}").write_text(message, encoding="utf-8")
        raise SystemExit(1) from None
    dist.destroy_process_group()
