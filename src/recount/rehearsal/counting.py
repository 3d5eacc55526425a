"""Counting what a training step costs, without a card and without computing: PyTorch's fake tensors at full size.

Fake tensors have shapes, types and devices, no values. A step is counted in two passes, because PyTorch's autograd asks
the driver for streams when it goes backward over a device: forward, losses, optimiser and prediction on fake "cuda",
where an operand that was left on the processor is an error and each value that the host asks for is counted; then the
whole step on the fake processor, for operations, bytes, kernels and the peak of what is alive.
"""

import copy
import weakref
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeCopyMode, FakeTensorMode
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import conv_flop_count, flop_registry

from recount.nn.precision import AUTOCAST
from recount.settings.recipe import Precision, Recipe
from recount.systems.base import Batch, Pool, System
from recount.training.loop import build_optimiser
from recount.training.parts import weight_of_part

aten = torch.ops.aten
_MASKED = (aten.index.Tensor, aten.index_put.default, aten.index_put_.default)


@dataclass
class Ledger(TorchDispatchMode):
    """Counts what happens while it is entered; ``answer`` is what the host reads of a value that nobody knows."""

    answer: bool = True
    flops: dict[str, int] = field(default_factory=lambda: {"full": 0, "half": 0})  # 2 per multiply-add, by type
    bytes: int = 0  # read and written by all kernels
    kernels: int = 0
    reads: int = 0  # values, or sizes that follow from values, that the host waited for
    alive: int = 0  # bytes
    peak: int = 0
    _known: dict[int, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        super().__init__()

    def hold(self, tensor: Tensor) -> None:
        """Count the memory of a tensor until it is freed."""
        if tensor.layout != torch.strided:
            return
        storage = tensor.untyped_storage()
        key, size = storage._cdata, storage.nbytes()
        if key in self._known and self._known[key].alive:
            return
        self.alive += size
        self.peak = max(self.peak, self.alive)
        self._known[key] = weakref.finalize(storage, self._freed, size)

    def _freed(self, size: int) -> None:
        self.alive -= size

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Let an operation happen, and note it."""
        kwargs = kwargs or {}
        if func == torch.ops.prim.device.default:
            return func(*args, **kwargs)
        if func == aten._local_scalar_dense.default:
            self.reads += args[0].device.type != "cpu"  # an optimiser's steps are counted on the processor
            return {torch.bool: self.answer}.get(args[0].dtype, 1.0 if args[0].is_floating_point() else 1)
        if func == aten.nonzero.default:
            self.reads += 1
            return args[0].new_empty((args[0].numel(), args[0].dim()), dtype=torch.int64)
        if func in _MASKED and any(_is_mask(index) for index in args[1]):
            self.reads += 1
            places = [_all_places(index) if _is_mask(index) else [index] for index in args[1]]
            args = (args[0], [place for each in places for place in each], *args[2:])
        if func in (aten.mv.default, aten.mm.default) and args[0].layout != torch.strided:
            result = args[1].new_empty((args[0].shape[0], *args[1].shape[1:]))
        else:
            result = func(*args, **kwargs)
        self._note(func, args, kwargs, result)
        return result

    def _note(self, func: Any, args: Any, kwargs: Any, result: Any) -> None:
        before = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
        after = [leaf for leaf in tree_leaves(result) if isinstance(leaf, Tensor)]
        for tensor in after:
            self.hold(tensor)
        if func.is_view or not after:
            return
        devices = {tensor.device.type for tensor in (*before, *after)}
        if func == aten._to_copy.default and len(devices) > 1 and after[0].device.type == "cpu":
            self.reads += 1
        self.kernels += 1
        self.bytes += sum(tensor.numel() * tensor.element_size() for tensor in (*before, *after))
        if func._overloadpacket in flop_registry:
            kind = "half" if after[0].dtype in (torch.bfloat16, torch.float16) else "full"
            self.flops[kind] += _flops(func._overloadpacket, args, kwargs, result)


def _flops(operation: Any, args: Any, kwargs: Any, result: Any) -> int:
    if operation == aten.convolution_backward:  # PyTorch's formula takes weights of groups for those of all channels
        gradient, images, weight, *_, transposed, _, _, mask = args
        return sum(mask[:2]) * conv_flop_count(images.shape, weight.shape, gradient.shape, transposed)
    return int(flop_registry[operation](*args, **kwargs, out_val=result))


def _is_mask(index: Any) -> bool:
    return isinstance(index, Tensor) and index.dtype == torch.bool


def _all_places(mask: Tensor) -> list[Tensor]:
    return [mask.new_empty((mask.numel(),), dtype=torch.int64) for _ in range(mask.dim())]


@dataclass(frozen=True)
class Counted:
    """What one training step costs, and one prediction; bytes, and floating-point operations (2 per multiply-add)."""

    flops_full: int  # in single precision
    flops_half: int
    bytes: int
    kernels: int
    reads: int  # by the host, at most
    peak: int  # bytes: weights, optimiser, gradients, activations
    predict_flops: int
    predict_peak: int
    parameters: int
    trained: int
    batch: int  # training samples
    parts: int


@contextmanager
def _precision(device: str, precision: Precision) -> Iterator[None]:
    # not torch.autocast, which is off without a driver
    before = torch.is_autocast_enabled(device), torch.get_autocast_dtype(device)
    torch.set_autocast_enabled(device, precision in AUTOCAST)
    torch.set_autocast_dtype(device, AUTOCAST.get(precision, torch.float32))
    try:
        yield
    finally:
        torch.set_autocast_enabled(device, before[0])
        torch.set_autocast_dtype(device, before[1])
        torch.clear_autocast_cache()


def examples_of(system: System, pool: Pool, number: int) -> Batch:
    """Return a batch of the examples that ``number`` samples yield."""
    maker = system.example_maker()
    places = [place % len(pool.samples) for place in range(number)]
    return Batch.of([made for seed, i in enumerate(places) for made in maker(i, pool, np.random.default_rng(seed))])


class Counter:
    """Counts one system's steps in its last stage, where memory is scarce (``saving``: ``System.save_memory``).

    ``pool`` has real samples and pictures.
    """

    def __init__(
        self,
        system_class: type[System],
        settings: Mapping[str, Any],
        recipe: Recipe,
        pool: Pool,
        stage: int = -1,
        *,
        saving: bool = True,
    ) -> None:
        self.recipe, self.pool, self.saving = recipe, pool, saving
        real = system_class(system_class.Settings.model_validate(settings))
        real.prepare_training(pool.samples)
        self.stage = real.stages(recipe)[stage]
        real.begin_stage(self.stage)
        self.real = real
        self.batch = examples_of(real, pool, self.stage.recipe.batch_size)
        self.picture = pool.image(0)

    def _begin(self, device: str, mode: FakeTensorMode, answer: bool) -> tuple[System, Ledger, Batch]:
        with FakeCopyMode(mode):
            system = copy.deepcopy(self.real)
        if self.saving:
            system.save_memory()
        for tensor in (*system.parameters(), *system.buffers()):
            cast(Any, tensor).fake_device = torch.device(device, 0) if device != "cpu" else torch.device("cpu")
        system.train()
        system.begin_stage(self.stage)
        system.begin_epoch(self.stage.recipe.epochs - 1, self.pool.samples)
        ledger = Ledger(answer)
        for tensor in (*system.parameters(), *system.buffers()):
            ledger.hold(tensor)
        batch = Batch(
            self.batch.ids,
            mode.from_tensor(self.batch.images),
            self.batch.prompts,
            [mode.from_tensor(points) for points in self.batch.points],
            mode.from_tensor(self.batch.counts),
            {name: mode.from_tensor(value) for name, value in self.batch.maps.items()},
            self.batch.attributes,
        ).to(device)
        return system, ledger, batch

    def on_card(self, precision: Precision) -> Ledger:
        """Take forward, losses, optimiser and prediction on fake "cuda"; return what the host read, at most."""
        with FakeTensorMode(allow_non_fake_inputs=True) as mode, sdpa_kernel(SDPBackend.MATH):
            system, ledger, batch = self._begin("cuda", mode, answer=False)
            with ledger, _precision("cuda", precision):
                terms = system(batch)
                assert all(term.device.type == "cuda" for term in terms.values())
            optimiser = build_optimiser(system.parameter_groups(self.stage.recipe), self.stage.recipe.optimiser)
            for group in optimiser.param_groups:
                for parameter in group["params"]:
                    parameter.grad = torch.empty_like(parameter)
            with ledger:
                optimiser.step()
                system.after_step()
            self._predict(system.eval(), "cuda", precision)
        return ledger

    def _predict(self, system: System, device: str, precision: Precision) -> Ledger:
        ledger = Ledger()
        for tensor in (*system.parameters(), *system.buffers()):
            ledger.hold(tensor)
        with ledger, _precision(device, precision), torch.no_grad():
            image = system.prepare_image(torch.empty(self.picture.shape, device=device))
            if system.windows is not None:
                window, number = system.windows, system.windows.batch
                images = torch.empty(number, 3, window.height, window.width, device=device)
            else:
                images, number = image[None], 1
            prediction = system.predict(images, [system.prompt_of(self.pool.samples[-1])] * number)
            maps = prediction.density if prediction.density is not None else prediction.scores
            assert maps is not None and maps.device.type == device
        return ledger

    def count(self, precision: Precision, parts: int = 1) -> Counted:
        """Count a whole step of a batch that is computed in ``parts``, and a prediction of one pass."""
        reads = self.on_card(precision).reads
        with FakeTensorMode(allow_non_fake_inputs=True) as mode, ExitStack() as attention:
            system, ledger, batch = self._begin("cpu", mode, answer=True)
            attention.enter_context(sdpa_kernel([SDPBackend.FLASH_ATTENTION, SDPBackend.MATH]))
            optimiser = build_optimiser(system.parameter_groups(self.stage.recipe), self.stage.recipe.optimiser)
            for _ in range(2):  # in the second step, the optimiser's state is there
                ledger.flops, ledger.bytes, ledger.kernels = {"full": 0, "half": 0}, 0, 0
                self._step(system, ledger, batch, optimiser, precision, parts)
            trained = sum(p.numel() for p in system.parameters() if p.requires_grad)
            parameters = sum(p.numel() for p in system.parameters())
            optimiser.state.clear()
            predicted = self._predict(system.eval(), "cpu", self.recipe.precision_of_evaluation())
        flops = ledger.flops
        of_step = (flops["full"], flops["half"], ledger.bytes, ledger.kernels, reads, ledger.peak)
        flops_of_prediction = sum(predicted.flops.values())
        size = self.stage.recipe.batch_size
        return Counted(*of_step, flops_of_prediction, predicted.peak, parameters, trained, size, parts)

    def _step(
        self,
        system: System,
        ledger: Ledger,
        batch: Batch,
        optimiser: torch.optim.Optimizer,
        precision: Precision,
        parts: int,
    ) -> None:
        with ledger:
            for part in batch.split(parts):
                with _precision("cpu", precision):
                    terms = system(part)
                weights = system.loss_weights
                whole = [
                    weights.get(name, 1.0) * weight_of_part(system, name, len(part), len(batch)) * term.float()
                    for name, term in terms.items()
                ]
                torch.stack(whole).sum().backward()
            optimiser.step()
            system.after_step()
            optimiser.zero_grad(set_to_none=True)
