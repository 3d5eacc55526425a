"""The DM loss: golden values and gradients, batching, and the two domains."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

import step_oracles
from block_targets import dm_loss, stacked_block_counts
from golden_tools import assert_matches, fill, golden, golden_case, wave
from recount.nn.dm_loss import DM_COUNT_EPS, dm_terms, sinkhorn
from recount.nn.reads import worth_reading

SINKHORN = ["sinkhorn_2x3", "sinkhorn_far_points", "sinkhorn_zero_mass", "sinkhorn_low_reg_7_iterations"]
SMALL = ("empty_and_coincident", "points_outside", "zero_prediction")
EBC = ["dm_224_8_dense", "dm_128_16_normalised_coordinates", *(f"dm_64_8_{name}" for name in SMALL)]
ORIGINAL = ["dm_count_original_64", "dm_count_original_512"]


def density_of(inputs: dict, dtype: torch.dtype) -> Tensor:
    density = torch.from_numpy(wave(inputs["pred"])).to(dtype)
    density[inputs["pred"].get("images_set_to_zero", [])] = 0
    return density.requires_grad_()


def points_of(inputs: dict) -> list[Tensor]:
    return [torch.tensor(each, dtype=torch.float32).reshape(-1, 2) for each in inputs["points_xy"]]


@pytest.mark.parametrize("name", SINKHORN)
def test_sinkhorn_gives_the_golden_plan_and_potentials(name: str) -> None:
    inputs, want = golden_case("dm_loss", name)
    a, b, cost = (torch.tensor(inputs[key]) for key in ("a", "b", "C"))
    reg = inputs["reg"]
    kernel, start = torch.exp(-cost / reg), torch.full_like(a, 1 / len(a))
    left, right = sinkhorn(a, b[None], kernel, kernel.T, start, iterations=inputs["max_iter"])
    assert_matches(left[:, None] * kernel * right[0], want["P"])
    assert_matches(reg * torch.log(left + 1e-16), want["alpha"])
    assert_matches(reg * torch.log(right[0] + 1e-16), want["beta"])


@pytest.mark.parametrize("name", EBC + ORIGINAL)
def test_terms_and_gradients_are_the_golden_ones(name: str) -> None:
    case = golden("dm_loss")["cases"][name]
    inputs, want = case["inputs"], case["outputs"]
    dtype = torch.float64 if "float64" in case.get("precision", "") else torch.float32
    rtol = 1e-7 if dtype == torch.float64 else 1e-4
    original = name in ORIGINAL
    density, points = density_of(inputs, dtype), points_of(inputs)
    size, block = inputs.get("input_size", inputs.get("crop_size")), inputs["reduction"]
    rules = {"coincident": "add", "rounding": "half_even"} if original else {}
    target = stacked_block_counts(points, size, size, block, **rules)
    options = {"normalised_coordinates": inputs.get("norm_cood", False), **({"eps": DM_COUNT_EPS} if original else {})}
    terms = dm_terms(density, target, points, block, **options)
    loss = dm_loss(terms)
    assert_matches(loss, want["loss"], rtol)
    assert_matches(terms["variation"], want["tv"], rtol)
    assert_matches(terms["count"], want["count"], rtol)
    assert_matches(terms["transport_cost"], want["transport_cost"], rtol)
    if "grad_of_ot_alone" in want:
        (transport,) = torch.autograd.grad(terms["transport"], density, retain_graph=True)
        assert_matches(transport, want["grad_of_ot_alone"], rtol)
    (gradient,) = torch.autograd.grad(loss, density)
    assert_matches(gradient, want["grad"], rtol)
    if original:
        assert_matches(target, want["gt_blocks"])


def random_case(seed: int, images: int = 5, grid: int = 8) -> tuple[Tensor, list[Tensor], Tensor]:
    generator = torch.Generator().manual_seed(seed)
    density = torch.rand(images, 1, grid, grid, generator=generator)
    numbers = torch.randint(0, 40, (images,), generator=generator).tolist()
    points = [torch.rand(number, 2, generator=generator) * grid * 8 for number in numbers]
    return density, points, stacked_block_counts(points, grid * 8, grid * 8, 8)


@given(seed=st.integers(0, 1000))
@settings(max_examples=15)
def test_a_batch_gives_what_its_images_give_one_by_one(seed: int) -> None:
    density, points, target = random_case(seed)
    density.requires_grad_()
    together = dm_terms(density, target, points, 8)
    alone = [dm_terms(density[i : i + 1], target[i : i + 1], points[i : i + 1], 8) for i in range(len(points))]
    (gradient,) = torch.autograd.grad(together["transport"], density)
    (gradient_alone,) = torch.autograd.grad(sum(terms["transport"] for terms in alone), density)
    torch.testing.assert_close(gradient, gradient_alone, rtol=1e-3, atol=1e-3)
    torch.testing.assert_close(together["count"], torch.stack([terms["count"] for terms in alone]).mean())
    torch.testing.assert_close(together["variation"], torch.stack([terms["variation"] for terms in alone]).mean())


SCATTERED = st.tuples(st.floats(-20, 150), st.floats(-20, 150))
ON_THE_BORDER = st.tuples(st.sampled_from([0.0, 64.0, 96.0, 95.5]), st.sampled_from([0.0, 64.0, 128.0, 4.0]))


@given(
    points=st.lists(st.lists(SCATTERED | ON_THE_BORDER | st.just((40.0, 40.0)), max_size=9), min_size=1, max_size=3),
    grid=st.sampled_from([(8, 12), (16, 5), (1, 9)]),
    block=st.sampled_from([8, 16, 32]),
    eps=st.sampled_from([1e-8, DM_COUNT_EPS]),
    wave=st.tuples(st.floats(0.1, 3), st.floats(0, 6)),
)
@settings(max_examples=25, deadline=None)
def test_any_points_give_what_the_pseudocode_gives(
    points: list[list[tuple[float, float]]], grid: tuple[int, int], block: int, eps: float, wave: tuple[float, float]
) -> None:
    """None, one, coincident, outside and on the border; maps that are not square, blocks of other sizes; to 1e-5."""
    places = [torch.tensor(each, dtype=torch.float64).reshape(-1, 2) for each in points]
    shape = (len(points), 1, *grid)
    density = torch.from_numpy(fill().wave(shape, *wave)).double().abs().requires_grad_()
    target = torch.from_numpy(fill().wave(shape, wave[1], wave[0])).double().abs()
    terms = dm_terms(density, target, places, block, eps=eps)
    ours = terms["count"] + 0.1 * terms["transport"] + 0.01 * terms["variation"]
    oracle = step_oracles.dm_loss(density, target, places, block, eps)
    (gradient,), (expected,) = (torch.autograd.grad(loss, density) for loss in (ours, oracle))
    assert_matches(ours, oracle.item(), 1e-5)
    assert_matches(gradient, expected.numpy(), 1e-5)


def test_a_card_that_is_asked_less_often_computes_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    density, points, target = random_case(3)
    often = dm_terms(density, target, points, 8)
    asked: list[int] = []

    def as_on_a_card(check: int, device: torch.device) -> bool:
        asked.append(check)
        return worth_reading(check, torch.device("cuda"))

    monkeypatch.setattr("recount.nn.dm_loss.worth_reading", as_on_a_card)
    assert all(torch.equal(value, often[name]) for name, value in dm_terms(density, target, points, 8).items())
    assert [check for check in range(1, 10) if worth_reading(check, torch.device("cuda"))] == [1, 2, 4, 8]
    assert asked == list(range(1, len(asked) + 1))


def test_a_batch_without_any_point_has_no_transport() -> None:
    density = torch.rand(2, 1, 8, 8, requires_grad=True)
    terms = dm_terms(density, torch.zeros(2, 1, 8, 8), [torch.zeros(0, 2)] * 2, 8)
    assert terms["transport"] == 0
    dm_loss(terms).backward()
    assert density.grad is not None
    assert torch.isfinite(density.grad).all()


def test_half_precision_densities_are_matched_in_single_precision() -> None:
    density, points, target = random_case(5)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        terms = dm_terms(density.bfloat16(), target, points, 8)
    assert all(term.dtype == torch.float32 for term in terms.values())
