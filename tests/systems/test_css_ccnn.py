"""CSS-CCNN: the prior and the transport cost, the two stages, "++", and what each switch changes."""

from dataclasses import replace
from functools import partial

import numpy as np
import pytest
import torch
from scipy import integrate

from golden_tools import assert_matches, golden_case, refilled, tensor
from recount.errors import UserError
from recount.nn.reads import worth_reading
from recount.systems import css_ccnn
from recount.systems.base import Batch
from recount.systems.css_ccnn import (
    EPSILON,
    ITERATIONS,
    SYSTEM,
    VGG16_BN_LAYERS,
    CssCcnnSettings,
    canny_edges,
    edge_density,
    official_name,
    prior,
    sinkhorn_cost,
)
from small_systems import batch_of, losses_of_steps, mini
from tiny_pool import TinyPool

tiny = partial(mini, SYSTEM)


def in_stage(system, number):
    system.begin_stage(system.stages(SYSTEM.recipe)[number])
    return system.train()


def batch(system, size=4):
    return batch_of(system, TinyPool([(240, 260)] * size), range(size))


# ------------------------------------------------------------------------------------------------------------ golden


@pytest.mark.parametrize("asked", ["cpu", "cuda"])  # how often the host asks whether to stop
def test_sinkhorn_cost_and_gradient_agree_with_the_released_code(asked, monkeypatch):
    monkeypatch.setattr(css_ccnn, "worth_reading", lambda check, _: worth_reading(check, torch.device(asked)))
    inputs, want = golden_case("crowd_eval", "css_ccnn_sinkhorn")
    x, y = (tensor(inputs[name]).flatten() for name in "xy")
    x.requires_grad_()
    assert (inputs["epsilon"], inputs["iterations"]) == (EPSILON, ITERATIONS)
    cost = sinkhorn_cost(x, y)
    cost.backward()
    assert_matches(cost, want["loss"])
    assert_matches(x.grad[:, None], want["grad_x"])


@pytest.mark.parametrize("place", ["sha", "qnrf"])
def test_the_prior_follows_from_the_largest_count_as_in_the_released_code(place):
    expected = golden_case("crowd_eval", "css_ccnn_prior")[1][place]
    law = prior(expected["cmax"], expected["num_samples"])
    assert law.rate == pytest.approx(expected["lambda"])
    assert law.threshold == pytest.approx(expected["shift_threshold"])


def test_counting_net_agrees_with_the_released_code():
    inputs, want = golden_case("crowd_eval", "css_ccnn_stage2")
    system = SYSTEM(CssCcnnSettings()).eval()
    names = {key: official_name(key) for key in inputs["tensors"]}
    state = refilled(system, inputs["weights"]["then_multiply"], names)
    assert {key: list(value.shape) for key, value in state.items()} == inputs["tensors"]
    assert sum(v.numel() for k, v in state.items() if "running" not in k and "num_batches" not in k) == 2253505
    system.load_state_dict({names[key]: value for key, value in state.items()})  # without the head of stage 1
    density = system.double().density(tensor(inputs["image_0_255"]).double() / 255)
    assert_matches(density, want["out"], rtol=1e-7)
    assert_matches(density.sum(), want["count"], rtol=1e-7)


def test_rotation_net_agrees_with_the_released_code():
    inputs, want = golden_case("crowd_eval", "css_ccnn_stage1")
    system = SYSTEM(CssCcnnSettings()).eval()
    head = ("conv4", "conv5", "batch_norm_4", "batch_norm_5", "fc")
    names = {key: f"{'rotation_head' if key.startswith(head) else 'features'}.{key}" for key in inputs["tensors"]}
    state = refilled(system, inputs["weights"]["then_multiply"], names)
    assert {key: list(value.shape) for key, value in state.items()} == inputs["tensors"]
    parameters = dict(system.named_parameters())
    assert sum(parameters[name].numel() for name in names.values() if name in parameters) == 2105924
    system.load_state_dict({names[key]: value for key, value in state.items()}, strict=False)
    assert_matches(system.turns(tensor(inputs["image_0_255"]) / 255), want["logits"])


@pytest.mark.parametrize("size", ["400x300", "600x9000", "2013x2902"])
def test_images_are_read_at_the_size_of_the_released_code(size):
    expected = golden_case("crowd_eval", "resize_rule_css_ccnn")[1]["stage 2"][size]
    height, width = map(int, size.split("x"))
    assert list(SYSTEM(CssCcnnSettings()).prepare_image(torch.zeros(3, height, width)).shape[1:]) == expected


# ------------------------------------------------------------------------------------------------------------- prior


def test_draws_follow_the_truncated_power_law():
    law = prior(12000, 1500)
    draws = law.draw(40000, np.random.default_rng(0))
    assert draws.min() >= 0
    above = draws[draws >= 2.0]

    def tail(start):
        return integrate.quad(lambda x: x**-2 * np.exp(-law.rate * x), start, 20000, limit=500)[0]

    assert (above >= 8).mean() == pytest.approx(tail(8) / tail(2), rel=0.04)
    assert (above >= 32).mean() == pytest.approx(tail(32) / tail(2), rel=0.1)


def test_draws_below_the_threshold_are_uniform():
    law = prior(12000, 1500)
    small = law.draw(40000, np.random.default_rng(0))
    small = small[small < law.threshold]
    assert small.mean() == pytest.approx(law.threshold / 2, rel=0.03)


def test_a_larger_cmax_gives_larger_draws():
    means = [prior(cmax, 1500).draw(20000, np.random.default_rng(0)).mean() for cmax in (6000, 24000)]
    assert means[0] < means[1]


def test_an_impossible_prior_says_what_to_change():
    with pytest.raises(ValueError, match="raise cmax or lower num_samples"):
        prior(100, 1500)


# ------------------------------------------------------------------------------------------------------------- edges


def test_canny_finds_the_outline_of_a_square():
    grey = np.zeros((40, 40), np.uint8)
    grey[10:30, 10:30] = 255
    edges = canny_edges(grey)
    assert edges.sum() == 76  # as many as OpenCV 5.0's cv2.Canny(grey, 225, 250)
    assert not edges[12:28, 12:28].any()


def test_weak_ridges_alone_are_no_edges():
    grey = np.zeros((20, 20), np.uint8)
    grey[:, 10:] = 60  # |dx| = 240: above 225, not above 250
    assert not canny_edges(grey).any()


def test_edge_density_has_a_cell_per_eight_pixels():
    image = torch.zeros(3, 64, 96)
    image[:, 20:52, 20:52] = 1  # cells see the pixels 3 and 4 of their eight
    density = edge_density(image)
    assert density.shape == (1, 8, 12)
    assert density[0, 2, 2] > 0
    assert density[0, 7, 11] == 0


# ------------------------------------------------------------------------------------------------------------ stages


def test_there_are_two_stages_with_recipes_of_their_own():
    stages = SYSTEM(CssCcnnSettings()).stages(SYSTEM.recipe)
    assert [stage.name for stage in stages] == ["rotation", "matching"]
    assert stages[0].recipe.optimiser.lr == 1e-3
    assert stages[1].recipe.optimiser.lr == 1e-5


def test_without_learnt_features_there_is_one_stage():
    assert [stage.name for stage in tiny(features="random").stages(SYSTEM.recipe)] == ["matching"]


def test_the_rotation_stage_trains_features_and_its_head_only():
    system = in_stage(tiny(), 0)
    sum(system.losses(batch(system)).values()).backward()
    trained = {name.split(".")[0] for name, p in system.named_parameters() if p.grad is not None}
    assert trained == {"features", "rotation_head"}


def test_the_matching_stage_trains_the_density_head_only():
    system = in_stage(tiny(), 1)
    before = {name: buffer.clone() for name, buffer in system.features.named_buffers()}
    sum(system.losses(batch(system)).values()).backward()
    assert {name.split(".")[0] for name, p in system.named_parameters() if p.grad is not None} == {"density_head"}
    assert all(torch.equal(before[name], buffer) for name, buffer in system.features.named_buffers())


def test_rotation_examples_are_turned_as_they_say():
    system = in_stage(tiny(), 0)
    pool, maker = TinyPool([(240, 260)]), system.example_maker()
    examples = [maker(0, pool, np.random.default_rng(seed))[0] for seed in range(40)]
    assert {int(example.maps["turns"]) for example in examples} == {0, 1, 2, 3}
    assert examples[0].image.shape == (3, 64, 64)


def test_matching_examples_carry_49_draws_each():
    system = in_stage(tiny(), 1)
    assert batch(system).maps["prior"].shape == (4, 49)


def test_panoramas_are_enlarged_to_the_crop():
    system = in_stage(SYSTEM(CssCcnnSettings()), 1)
    example = system.example_maker()(0, TinyPool([(60, 900)]), np.random.default_rng(0))[0]
    assert example.image.shape == (3, 224, 224)


def test_matching_pulls_block_sums_towards_the_prior():
    system = in_stage(tiny(), 1)
    with torch.no_grad():
        system.density_head.conv5_1.bias.fill_(0.3)
    costs = losses_of_steps(system, batch(system, 8), torch.optim.Adam(system.density_head.parameters(), 3e-3), 12)
    assert costs[-1] < 0.7 * costs[0]


# ------------------------------------------------------------------------------------------------------------ switches


def test_split_by_edges_gives_a_sparse_and_a_dense_term():
    system = in_stage(tiny(split_by_edges=True), 1)
    terms = system.losses(batch(system, 8))
    assert set(terms) == {"sinkhorn_sparse", "sinkhorn_dense"}
    assert terms["sinkhorn_dense"].item() > terms["sinkhorn_sparse"].item()


def test_pictures_without_edges_are_not_split():
    system = in_stage(tiny(split_by_edges=True), 1)
    without = batch(system)
    without.maps["edges"].zero_()
    terms = system.losses(without)
    whole = in_stage(tiny(), 1).losses(batch(in_stage(tiny(), 1), 4))["sinkhorn"]
    assert terms["sinkhorn_sparse"].item() == pytest.approx(whole.item(), rel=1e-5)
    assert terms["sinkhorn_dense"].item() == 0


def test_dense_weight_changes_the_selection_of_split_matching():
    pool = TinyPool([(240, 260)] * 3)
    light, heavy = (in_stage(tiny(split_by_edges=True, dense_weight=weight), 1) for weight in (0.0, 1.0))
    assert light.own_selection(pool)["own"] < heavy.own_selection(pool)["own"]


def test_imagenet_features_are_those_of_vgg16_bn(tmp_path):
    from torchvision.models.vgg import cfgs, make_layers

    torch.manual_seed(3)
    vgg = torch.nn.ModuleDict({"features": make_layers(cfgs["D"], batch_norm=True)}).eval()
    for module in vgg.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.running_mean.normal_(0, 0.1)
            module.running_var.uniform_(0.5, 1.5)
    for number in VGG16_BN_LAYERS.values():
        vgg["features"][number].bias.data.normal_(0, 0.1)
    torch.save(vgg.state_dict(), tmp_path / "vgg16_bn.pth")
    system = SYSTEM(CssCcnnSettings(features="imagenet", feature_weights=str(tmp_path / "vgg16_bn.pth"))).eval()
    image = torch.rand(1, 3, 32, 48)
    mean, std = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    normalised = (image - mean.view(1, 3, 1, 1)) / std.view(1, 3, 1, 1)
    assert_matches(system.features(image * 255 - system.means)[1], vgg["features"][:23](normalised).detach().numpy())


def test_imagenet_features_need_a_file():
    with pytest.raises(ValueError, match="feature_weights"):
        tiny(features="imagenet")


# --------------------------------------------------------------------------------------------- selection, checkpoints


def test_own_selection_of_rotation_is_the_share_of_wrong_answers():
    system = in_stage(tiny(), 0)
    with torch.no_grad():
        system.rotation_head.fc.weight.zero_()
        system.rotation_head.fc.bias.copy_(torch.tensor([1.0, 0, 0, 0]))
    assert system.own_selection(TinyPool([(240, 260)] * 2)) == {"own": 0.75}
    assert system.training


def test_own_selection_of_matching_does_not_look_at_counts():
    system = in_stage(tiny(), 1)
    few, many = TinyPool([(240, 260)] * 2), TinyPool([(240, 260)] * 2)
    many.samples = [replace(sample, points=np.zeros((900, 2)), count=900) for sample in many.samples]
    assert system.own_selection(few) == system.own_selection(many)


def test_a_released_checkpoint_is_imported_strictly(tmp_path):
    tensors = golden_case("crowd_eval", "css_ccnn_stage2")[0]["tensors"]
    state = {key: torch.full(shape, 0.01) for key, shape in tensors.items()}
    path = tmp_path / "stage2.pth"
    torch.save({"epoch": 3, "state_dict": state, "optimizer": {}}, path)
    settings = CssCcnnSettings()
    system = SYSTEM(settings)
    system.load_state_dict(SYSTEM.import_checkpoint(path, settings))
    assert float(system.features.conv3_3.weight.mean()) == pytest.approx(0.01)
    torch.save({"state_dict": {**state, "conv9.weight": torch.zeros(1)} | {"conv5_1.bias": torch.zeros(2)}}, path)
    with pytest.raises(UserError, match=r"unexpected: conv9\.weight; wrong shape: density_head\.conv5_1\.bias"):
        SYSTEM.import_checkpoint(path, settings)


def test_another_file_is_not_a_checkpoint(tmp_path):
    torch.save({"weights": torch.zeros(1)}, tmp_path / "other.pth")
    with pytest.raises(UserError, match=r"missing: density_head.*unexpected: weights"):
        SYSTEM.import_checkpoint(tmp_path / "other.pth", CssCcnnSettings())


def test_the_rotation_stage_learns_where_the_sky_is():
    pool = TinyPool([(240, 260)] * 8)
    for number, picture in enumerate(pool.pictures):
        pool.pictures[number] = (picture // 4 + torch.linspace(190, 0, 240)[:, None]).to(torch.uint8)
    system = in_stage(tiny(), 0)
    maker, rng = system.example_maker(), np.random.default_rng(0)
    optimiser = torch.optim.SGD([p for p in system.parameters() if p.requires_grad], 0.01, momentum=0.9)
    errors = []
    for step in range(1, 61):
        shown = Batch.of([example for index in range(8) for example in maker(index, pool, rng)])
        optimiser.zero_grad()
        system.losses(shown)["rotation"].backward()
        optimiser.step()
        if step % 6 == 0:  # the error jumps from evaluation to evaluation; training keeps the best one, too
            errors.append(system.own_selection(pool)["own"])
    assert min(errors) < 0.2
