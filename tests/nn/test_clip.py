"""CLIP's tokens and text tower at full and tiny size."""

from pathlib import Path
from typing import Any, cast

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from golden_tools import assert_matches, golden, refilled
from recount.errors import UserError
from recount.nn import clip
from recount.nn.clip import (
    ClipSize,
    ClipTowers,
    TextTower,
    build_clip,
    build_tower,
    check_prompts,
    encode,
    image_features,
    image_tower,
    text_features,
    text_tower,
    token_ids,
    tower_state,
)
from recount.systems import clip_ebc

TINY = TextTower(width=32, heads=2, layers=2, features=16)


def test_token_ids_are_the_golden_ones() -> None:
    for name in ("word", "number"):
        case = golden("gigacount")["cases"]["prompts"]["outputs"][name]
        for ids, want in zip(token_ids(case["text"], ClipTowers()).tolist(), case["token_ids"], strict=True):
            assert ids == want + [0] * (77 - len(want))


def test_range_prompts_have_the_golden_token_ids() -> None:
    case = golden("clip_ebc")["cases"]["tokens_of_intended_range_prompts"]
    for ids, want in zip(
        token_ids(case["inputs"]["text"], ClipTowers()).tolist(), case["outputs"]["token_ids"], strict=True
    ):
        assert ids[: len(want)] == want


def test_a_prompt_of_too_many_byte_pairs_is_cut_before_its_end() -> None:
    ids = token_ids(["a " * 100], ClipTowers())[0]
    assert ids.shape == (77,)
    assert ids[[0, -1]].tolist() == [49406, 49407]


def test_the_tiny_vocabulary_refuses_what_it_does_not_know() -> None:
    size = ClipTowers(vocabulary=("two", "cats"), context=4)
    assert token_ids(["two Cats."], size).tolist() == [[3, 1, 2, 4]]
    with pytest.raises(UserError, match="does not know dogs; it knows: two, cats"):
        token_ids(["two dogs"], size)
    with pytest.raises(UserError, match="at most 2 words"):
        token_ids(["two two cats"], size)


def test_an_empty_prompt_is_refused_before_training() -> None:
    with pytest.raises(UserError, match="empty"):
        check_prompts(["two", " "], ClipTowers())


@pytest.mark.parametrize("activation", [pytest.param("gelu", marks=pytest.mark.more), "quickgelu"])
def test_full_tower_gives_the_golden_features(activation: str) -> None:
    case = golden("gigacount")["cases"]["text_tower"]
    tower = TextTower(activation=activation)  # type: ignore[arg-type]
    state = refilled(build_tower(tower), case["inputs"]["weights"]["then_multiply"])
    features = encode(tower, case["inputs"]["prompts"], state)
    assert_matches(features.values, case["outputs"][activation])
    assert features.parameters == 63_428_096


@pytest.mark.parametrize(
    "resized", [lambda p: clip.resized_positions(p, 5), lambda p: clip_ebc.resized_positions(p, (5, 5))]
)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_resized_positions_are_computed_in_their_own_type(resized: Any, dtype: torch.dtype) -> None:
    positions = torch.linspace(0, 1, 50 * 8, dtype=torch.float64).view(50, 8).to(dtype) ** 3
    found = resized(positions)
    assert found.dtype == dtype
    # in float64 not only the type of the result: no digit goes through float32
    assert dtype == torch.float32 or not torch.equal(found[1:], resized(positions.float())[1:].double())


def test_tower_of_resnet50_gives_the_golden_features() -> None:
    case = golden("clip_ebc")["cases"]["text_tower_1024"]
    tower = TextTower(features=1024)
    state = refilled(build_tower(tower), case["inputs"]["weights"]["then_multiply"])
    assert_matches(encode(tower, case["inputs"]["prompts"], state).values, case["outputs"]["features"])


def test_random_tower_is_the_same_whatever_the_seed_of_the_run() -> None:
    torch.manual_seed(1)
    first = encode(TINY, ["There is no person."]).values
    torch.manual_seed(2)
    before = torch.get_rng_state()
    assert torch.equal(encode(TINY, ["There is no person."]).values, first)
    assert torch.equal(torch.get_rng_state(), before)


def test_activation_switch_changes_the_features() -> None:
    gelu = TINY.model_copy(update={"activation": "gelu"})
    assert not torch.equal(encode(TINY, ["a"]).values, encode(gelu, ["a"]).values)


def test_weights_switch_reads_the_text_part_of_a_clip_file(tmp_path: Path) -> None:
    state = refilled(build_tower(TINY))
    path = tmp_path / "clip.safetensors"
    save_file({**state, "visual.proj": torch.zeros(3)}, path)
    from_file = encode(TINY.model_copy(update={"weights": str(path)}), ["two people"]).values
    assert torch.equal(from_file, encode(TINY, ["two people"], state).values)
    assert not torch.equal(from_file, encode(TINY, ["two people"]).values)


def test_weights_of_another_size_are_an_error_that_names_the_file(tmp_path: Path) -> None:
    path = tmp_path / "clip.safetensors"
    save_file(refilled(build_tower(TINY.model_copy(update={"layers": 1}))), path)
    with pytest.raises(UserError, match=r"clip\.safetensors.*resblocks\.1"):
        encode(TINY.model_copy(update={"weights": str(path)}), ["two people"])


def test_prefix_selects_the_tower_of_a_counting_checkpoint() -> None:
    state = {"text_encoder.ln_final.weight": torch.ones(2, dtype=torch.float16), "projection.weight": torch.ones(1)}
    assert list(tower_state(state, "text_encoder.")) == ["ln_final.weight"]
    assert tower_state(state, "text_encoder.")["ln_final.weight"].dtype == torch.float32


def test_features_are_computed_once_and_again_when_anything_changes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RECOUNT_CACHE", str(tmp_path))
    small = TextTower(width=16, heads=2, layers=1, features=8)
    first = encode(small, ["There is no person."])
    monkeypatch.setattr(clip, "build_tower", lambda _: pytest.fail("the features are known already"))
    again = encode(small, ["There is no person."])
    assert torch.equal(first.values, again.values)
    assert first.parameters == again.parameters
    deeper = small.model_copy(update={"layers": 2})
    for tower, sentence in ((small, "There is one person."), (deeper, "There is no person.")):
        with pytest.raises(pytest.fail.Exception, match="known already"):
            encode(tower, [sentence])


@pytest.mark.parametrize("whole", [True, False])
def test_text_is_read_to_the_longest_prompts_end_with_the_features_and_gradients_of_the_whole_context(whole) -> None:
    size: ClipSize | ClipTowers = ClipTowers(text_width=16, text_heads=2, text_layers=2, features=8, context=12)
    if whole:
        size = ClipSize(embed_dim=8, text_width=16, text_heads=2, text_layers=2, context=12, vision_layers=1)
    torch.manual_seed(0)
    tower: Any = (build_clip(size) if whole else text_tower(size)).double()
    nn.init.normal_(tower.positional_embedding)
    prompts, seen = ["two cats", "a photo of seven <|endoftext|> red cats"], []
    ids, read = token_ids(prompts, size), tower.encode_text if whole else tower
    names = [name for name, each in tower.named_parameters() if not name.startswith(("visual.", "logit_scale"))]
    parameters = [each for name, each in tower.named_parameters() if name in names]
    want = read(ids)
    tower.token_embedding.register_forward_hook(lambda _, inputs, __: seen.append(inputs[0].shape[1]))
    got = text_features(tower, prompts, size)
    assert seen == [int((ids > 0).sum(dim=1).max())]
    torch.testing.assert_close(got, want)
    weights = torch.randn_like(want)
    for name, one, other in zip(
        names, *(torch.autograd.grad((made * weights).sum(), parameters) for made in (got, want)), strict=True
    ):
        torch.testing.assert_close(one, other, msg=name)


def test_the_image_tower_computes_its_last_block_for_the_class_token_alone() -> None:
    torch.manual_seed(0)
    tower = image_tower(
        ClipTowers(image_size=32, patch=16, vision_width=16, vision_layers=2, vision_heads=2, features=8)
    ).double()
    images, seen = torch.rand(3, 3, 32, 32, dtype=torch.float64), []
    want = tower(images)
    cast(Any, tower.transformer.resblocks[-1]).mlp.register_forward_hook(lambda _, inputs, __: seen.append(inputs[0]))
    torch.testing.assert_close(image_features(tower, images), want)
    assert [each.shape for each in seen] == [(3, 16)]
