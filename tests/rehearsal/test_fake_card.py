"""A card without a card: every system at paper size on fake tensors, and the file of what its steps cost."""

import tempfile
import warnings
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
import torch

from projects import ROOT
from recount import systems
from recount.data.pool import ImagePool
from recount.rehearsal.costs import StepCost, cards, counted
from recount.rehearsal.counting import Counter, Ledger
from recount.rehearsal.generated import generated, kind_of
from recount.rehearsal.rehearse import chosen, random_weights
from recount.settings.project import load
from recount.settings.recipe import resolve_recipe
from recount.systems.base import Batch
from recount.systems.mcnn import SYSTEM as MCNN

PAPER = load(ROOT, {"suite": "paper"})
SYSTEMS = [run.system for run in chosen(PAPER, [])]
READS = 20  # of a value on the card by the host, in a step; CSS-CCNN's two transports ask ten times each
RESERVE = 1e9  # bytes of a card that the driver and cuDNN take


def counter_of(system: str, system_class: Any = None) -> tuple[str, Counter]:
    """Return a system's first training and a counter of its last stage, on drawn samples and random weights."""
    warnings.simplefilter("ignore")
    (run,) = chosen(PAPER, [system])
    system_class = system_class or systems.load(system)
    assert run.training is not None
    with tempfile.TemporaryDirectory() as folder:
        samples = generated(run.training, kind_of(PAPER, run.training), Path(folder))
        recipe = resolve_recipe(system_class.recipe, run.recipe)
        counter = Counter(system_class, random_weights(PAPER, run.settings), recipe, ImagePool(samples, 1000))
    return f"{run.system}/{run.variant}", counter


def noted(run: str, precision: str, parts: int = 1) -> StepCost:
    return next(
        cost for cost in counted() if (cost.run, cost.precision, cost.parts, cost.last) == (run, precision, parts, True)
    )


def test_what_a_step_costs_is_what_the_file_says() -> None:
    run, counter = counter_of("mcnn")
    found = asdict(counter.count("fp32"))
    kept = noted(run, "fp32").model_dump()
    assert {key: kept[key] for key in found} == found


def test_an_operand_that_was_left_on_the_processor_is_an_error() -> None:
    class Left(MCNN):
        def losses(self, batch: Batch) -> dict[str, torch.Tensor]:
            return {name: term * torch.ones(1) for name, term in super().losses(batch).items()}

    counter = counter_of("mcnn", Left)[1]
    with pytest.raises(RuntimeError, match="cpu"):
        counter.on_card("fp32")


def test_each_value_that_the_host_reads_is_counted() -> None:
    class Curious(MCNN):
        def losses(self, batch: Batch) -> dict[str, torch.Tensor]:
            terms = super().losses(batch)
            dense = batch.images[batch.images > 0.5].mean()  # its size follows from values
            return {name: term * (2 if float(term) > 1 else 1) + 0 * dense for name, term in terms.items()}

    assert counter_of("mcnn", Curious)[1].on_card("fp32").reads == 2


@pytest.mark.parametrize("groups", [1, 2, 6])
def test_a_convolution_costs_twice_as_much_backward_whatever_its_groups(groups: int) -> None:
    image, ledger = torch.rand(2, 6, 9, 8, requires_grad=True), Ledger()
    with ledger:
        torch.conv2d(
            image, torch.rand(6, 6 // groups, 3, 3, requires_grad=True), padding=1, groups=groups
        ).sum().backward()
    assert ledger.flops["full"] == 3 * 2 * (2 * 9 * 8) * 6 * (6 // groups) * 3 * 3


def test_t2icount_fits_a_card_of_24_gb_in_bf16_and_in_parts() -> None:
    halves = noted("t2icount/full", "bf16", 2)
    assert halves.peak + RESERVE <= cards()["4090"].memory * 1e9
    assert halves.flops_half > halves.flops_full
    assert halves.peak > 16 * halves.trained  # weights, gradients and both moments alone; parts do not shrink these


def test_the_model_is_slower_on_a_smaller_card() -> None:
    cost = noted("t2icount/full", "fp32")
    seconds = [cards()[name].seconds(cost, "fp32") for name in ("T4", "A100", "H100", "H200")]
    assert seconds == sorted(seconds, reverse=True)
    assert cards()["H200"].seconds(cost, "tf32") < seconds[-1]
    started = cost.model_copy(update={"kernels": 10**9})
    assert cards()["H200"].seconds(started, "fp32") == pytest.approx(8000)  # 8 microseconds each


@pytest.mark.more
@pytest.mark.parametrize("system", SYSTEMS)
def test_every_system_computes_on_the_card_alone_and_the_host_reads_little(system: str) -> None:
    run, counter = counter_of(system)
    precision = counter.stage.recipe.precision
    found = counter.count(precision)
    kept = noted(run, precision).model_dump()
    assert {key: kept[key] for key in asdict(found)} == asdict(found)
    assert found.reads <= READS
    assert found.peak > 4 * (found.parameters + found.trained)
