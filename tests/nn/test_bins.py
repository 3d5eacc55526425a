"""Bins, block counts, class prompts and the losses over blocks."""

import json
import math
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from block_targets import dm_loss, stacked_block_counts
from golden_tools import assert_matches, golden_case, shared, tensor
from recount.nn.bins import (
    Bins,
    block_counts,
    cross_entropy,
    dot_map,
    expectation,
    probability_loss,
    prompt,
    prompts,
    published_bins,
)
from recount.nn.dm_loss import dm_terms

HYBRID = ["hybrid_loss_3_images", "hybrid_loss_uniform_logits", "hybrid_loss_coincident_points"]


def as_bins(intervals: list, anchors: list | None = None) -> Bins:
    return Bins(tuple((float(low), float(high)) for low, high in intervals), tuple(anchors or range(len(intervals))))


def targets(given: list[Any], bins: Bins) -> tuple[list[torch.Tensor], torch.Tensor, torch.Tensor]:
    listed = [each["xy"] if isinstance(each, dict) else each for each in given]
    points = [torch.tensor(each, dtype=torch.float32).reshape(-1, 2) for each in listed]
    blocks = stacked_block_counts(points, 224, 224, 8)
    return points, blocks, bins.classes(blocks)[:, 0]


@pytest.mark.parametrize("name", HYBRID)
def test_hybrid_loss_and_its_gradient_are_the_golden_ones(name: str) -> None:
    inputs, want = golden_case("gigacount", name)
    bins = as_bins(inputs["bins"], inputs["anchors"])
    logits = tensor(inputs["logits"]).requires_grad_()
    points, blocks, classes = targets(inputs["points"], bins)
    density = expectation(logits, torch.tensor(bins.anchors))
    ce, prob = cross_entropy(logits, classes), probability_loss(logits, classes)
    terms = dm_terms(density, blocks, points, 8)
    loss = ce + prob + dm_loss(terms)
    for key, value in {"ce": ce, "prob": prob, "tv": terms["variation"], "count": terms["count"], "loss": loss}.items():
        assert_matches(value, want[key])
    assert_matches(dm_loss(terms), want["dm"])
    assert_matches(ce + dm_loss(terms), want["ce_plus_dm"])
    assert_matches(ce + prob, want["ce_plus_prob"])
    assert classes.flatten().bincount(minlength=5).tolist() == want["class_histogram"]
    assert blocks.sum(dim=(1, 2, 3)).tolist() == want["target_sum"]
    (gradient,) = torch.autograd.grad(loss, logits)
    assert_matches(gradient, want["grad_logits"])


def test_dot_maps_follow_both_released_rules() -> None:
    inputs, want = golden_case("dm_loss", "dot_maps")
    size = inputs["size"]
    ebc = dot_map(torch.tensor(inputs["points_xy"]), size, size)
    given = torch.tensor(inputs["points_given_to_dm_count"])
    dm_count = dot_map(given, size, size, coincident="add", rounding="half_even")
    for dots, key in ((ebc, "ebc_yx_value"), (dm_count, "dm_count_yx_value")):
        assert [[y, x, dots[0, y, x].item()] for _, y, x in dots.nonzero().tolist()] == want[key]


def test_coincident_points_are_set_once_or_added() -> None:
    points = torch.tensor([[3.2, 3.4], [3.9, 3.1], [9.0, 1.0]])
    assert block_counts(points, 16, 16, 8, coincident="set").tolist() == [[[1, 1], [0, 0]]]
    assert block_counts(points, 16, 16, 8, coincident="add").tolist() == [[[2, 1], [0, 0]]]


@given(xy=st.lists(st.tuples(st.floats(-50, 300), st.floats(-50, 300)), max_size=60))
@settings(max_examples=50)
def test_added_blocks_hold_every_point(xy: list[tuple[float, float]]) -> None:
    points = torch.tensor(xy, dtype=torch.float32).reshape(-1, 2)
    assert block_counts(points, 224, 160, 16, coincident="add").sum() == len(xy)
    assert block_counts(points, 224, 160, 16, coincident="set").sum() <= len(xy)


def test_classes_are_the_golden_ones() -> None:
    inputs, want = golden_case("clip_ebc", "bin_assignment")
    counts = torch.tensor(inputs["counts"])
    for name, intervals in inputs["bins"].items():
        assert as_bins(intervals).classes(counts).tolist() == want[name]


def test_every_published_bin_is_here_unchanged() -> None:
    for entry in json.loads(shared("published", "ebc_bins.json").read_text())["entries"]:
        key = (entry["dataset"], entry["block"], entry["truncation"], entry["granularity"])
        for kind in ("average", "middle"):
            bins = published_bins(*key, anchors=kind)
            assert [list(each) for each in bins.intervals] == [[float(a), float(b)] for a, b in entry["bins"]]
            assert list(bins.anchors) == entry["anchors"][kind]


def test_recomputed_anchor_differs_from_the_published_one() -> None:
    assert published_bins("qnrf", 8, 4).anchors[-1] == 4.21937
    assert published_bins("qnrf", 8, 4, anchors="recomputed").anchors[-1] == 4.32696


def test_unknown_bins_are_an_error_that_lists_the_known_ones() -> None:
    with pytest.raises(ValueError, match=r"qnrf/8/5/fine.*there are .*qnrf/16/8/dynamic"):
        published_bins("qnrf", 8, 5)


@pytest.mark.parametrize("style", ["word", "number"])
@pytest.mark.parametrize("bins", ["qnrf_8_4_fine", "qnrf_16_8_fine"])
def test_prompts_are_the_golden_ones(bins: str, style: Any) -> None:
    inputs, want = golden_case("clip_ebc", "prompts")
    assert prompts(as_bins(inputs[bins]), style) == want[bins][style]["text"]


def test_range_prompts_are_the_intended_sentences() -> None:
    inputs, _ = golden_case("clip_ebc", "tokens_of_intended_range_prompts")
    assert [prompt(low, low + 1, style) for style in ("word", "number") for low in (4, 6)] == inputs["text"]


def test_paper_prompts_name_the_number_in_the_papers_sentence() -> None:
    assert prompt(2, 2, "paper") == "There are 2 people in the image"
    assert prompt(4, math.inf, "paper") == "There are more than 4 people in the image"
    assert prompt(4, 5, "paper") == "There are between 4 and 5 people in the image"
