"""Activation times gradient: its sums, its paths, its groups, and what it says between two layers."""

import pytest
import torch
from torch import Tensor, nn

from conformance.architectures import Residual, build, fresh, pictures
from glasshouse.attribute import (
    LayerAttribution,
    UnitAttribution,
    channel_attribution,
    group_attribution,
    layer_attribution,
    linear_approximation,
    spatial_attribution,
)
from glasshouse.attribute.blocks import nonnegative
from glasshouse.core import BadInput, NothingMatched
from glasshouse.data.glass import wired_classifier

VITS = ["vit", "timm_vit", "timm_vit_registers"]
BEHIND_A_NORM = {"vit": "encoder.layers.encoder_layer_1.ln_1"}


@pytest.fixture
def net() -> nn.Module:
    return fresh("toy").double()


@pytest.fixture
def images() -> Tensor:
    return pictures(2, (20, 24)).double()


def by_hand(net: nn.Module, images: Tensor, target: int, layer: int) -> Tensor:
    """A g at one layer of a sequential network: n k i j."""
    maps = net[: layer + 1](images).detach().requires_grad_()
    (slope,) = torch.autograd.grad(net[layer + 1 :](maps.clone())[:, target].sum(), maps)
    return (maps * slope).detach()


@pytest.mark.parametrize("layer", [2, 3, 5])
def test_values_are_activation_times_gradient(net, images, layer):
    product = by_hand(net, images, 3, layer)
    found = linear_approximation(net, images, 3, layer=str(layer)).native
    torch.testing.assert_close(found, product.sum(1), rtol=1e-9, atol=1e-12)
    assert torch.equal(spatial_attribution(net, images, 3, layer=str(layer)).native, found)
    units = channel_attribution(net, images, 3, layer=str(layer)).values
    torch.testing.assert_close(units, product.sum((2, 3)), rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("path", ["gradient", "ig"])
@pytest.mark.parametrize("layer", ["2", "5"])
def test_positions_units_and_the_rest_make_the_same_total(net, images, layer, path):
    settings = {"layer": layer, "path": path, "n_steps": 8}
    places, units = spatial_attribution(net, images, 3, **settings), channel_attribution(net, images, 3, **settings)
    torch.testing.assert_close(places.native.sum((1, 2)), units.values.sum(1), rtol=1e-9, atol=1e-12)
    total = units.values.sum(1) + units.extras["rest"] + units.extras["prefix"]
    torch.testing.assert_close(total, net(images)[:, 3].detach(), rtol=1e-9, atol=1e-12)


def test_behind_the_layer_the_rest_is_what_biases_add(net, images):
    # From layer 5 on: pooling, then one linear layer. What no unit adds is the bias, exactly.
    rest = linear_approximation(net, images, 3, layer="5").extras["rest"]
    torch.testing.assert_close(rest, net[8].bias[3].detach().expand(2), rtol=1e-9, atol=1e-12)
    nn.init.zeros_(net[8].bias)
    nn.init.zeros_(net[4].bias)
    for layer in ("3", "5"):
        rest = linear_approximation(net, images, 3, layer=layer).extras["rest"]
        torch.testing.assert_close(rest, torch.zeros(2).double(), rtol=0, atol=1e-12)


def test_along_a_path_the_values_sum_to_what_the_layer_adds(net, images):
    layer = net[:3](images).detach()
    ends = [net[3:](layer * a)[:, 3].detach() for a in (0, 1)]
    errors = []
    for n_steps in (4, 64):
        e = channel_attribution(net, images, 3, layer="2", path="ig", n_steps=n_steps)
        missed = (e.values.sum(1) - (ends[1] - ends[0])).abs() / (ends[1] - ends[0]).abs()
        torch.testing.assert_close(e.extras["gap"], missed, rtol=1e-5, atol=1e-9)
        errors.append(float(missed.max()))
    assert errors[1] < 0.01
    assert errors[1] < errors[0]


def test_along_a_path_it_is_the_integral_of_the_gradient(net, images):
    layer, places = net[:3](images).detach(), (torch.arange(400).double() + 0.5) / 400
    mean = torch.zeros_like(layer)
    for place in places:
        point = (place * layer).requires_grad_()
        mean += torch.autograd.grad(net[3:](point.clone())[:, 3].sum(), point)[0] / 400
    found = spatial_attribution(net, images, 3, layer="2", path="ig", n_steps=200).native
    torch.testing.assert_close(
        found, (layer * mean).sum(1), rtol=0, atol=0.02 * float((layer * mean).sum(1).abs().max())
    )


def test_units_that_a_class_does_not_read_get_nothing():
    glass = wired_classifier()
    module, truth = glass.module, glass.truth
    (layer, reads), *_ = truth.reads.items()
    images = torch.rand(2, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    for target in range(len(reads)):
        values = channel_attribution(module, images, target, layer=layer).values
        assert not values[:, reads[target] == 0].any()
        assert values[:, reads[target] != 0].any()


def test_the_strongest_units_come_first(net, images):
    e = channel_attribution(net, images, 3)
    assert e.layer == "5"
    best = e.top(8)
    assert torch.equal(e.values.gather(1, best), e.values.sort(1, descending=True).values)
    for count in (0, 9):
        with pytest.raises(BadInput, match="strongest units of 8"):
            e.top(count)


def test_a_unit_attribution_is_one_per_image_and_can_be_kept(net, images, tmp_path):
    e = channel_attribution(net, images, [3, 1])
    assert repr(e) == "UnitAttribution(channel_attribution at 5, 2 × 8 units, target 3, 1)"
    assert len(e) == 2
    assert torch.equal(e[-1].values, e.values[1:])
    assert e[-1].target == (1,)
    assert e[1].extras["rest"].shape == (1,)
    with pytest.raises(IndexError):
        e[2]
    back = UnitAttribution.load(e.save(tmp_path / "e.safetensors"))
    assert torch.equal(back.values, e.values)
    assert (back.method, back.layer, back.settings) == (e.method, e.layer, e.settings)


def test_single_units_as_groups_are_the_units(net, images):
    units = channel_attribution(net, images, 3)
    groups = group_attribution(net, images, 3, groups=torch.eye(8))  # the layer is a ReLU's output: not negative
    torch.testing.assert_close(groups.values, units.values, rtol=1e-6, atol=1e-9)
    torch.testing.assert_close(groups.extras["residual"], torch.zeros(2).double(), rtol=0, atol=1e-7)


def test_groups_and_residual_make_the_total(net, images):
    directions = torch.rand(8, 3, generator=torch.Generator().manual_seed(0))
    e = group_attribution(net, images, 3, groups=directions, layer="5")
    maps, strengths = e.extras["maps"], e.extras["strengths"]
    torch.testing.assert_close(maps.sum((2, 3)), e.values, rtol=1e-9, atol=1e-12)
    activation = net[:6](images).detach()
    slope = net[8].weight[3].detach() / activation[0, 0].numel()  # of pooling and one linear layer
    left_out = activation - torch.einsum("kg,ngij->nkij", directions.double(), strengths)
    residual = torch.einsum("nkij,k->n", left_out, slope)
    torch.testing.assert_close(e.extras["residual"], residual, rtol=1e-6, atol=1e-9)
    total = channel_attribution(net, images, 3, layer="5").values.sum(1)
    torch.testing.assert_close(e.values.sum(1) + residual, total, rtol=1e-6, atol=1e-9)


def test_given_strengths_are_used(net, images):
    source = torch.Generator().manual_seed(0)
    directions = torch.rand(8, 2, generator=source, dtype=torch.float64)
    strengths = torch.rand(2, 2, 10, 12, generator=source, dtype=torch.float64)
    e = group_attribution(net, images, 3, groups=directions, strengths=strengths, layer="5")
    slope = net[8].weight[3].detach() / 120
    expected = torch.einsum("ngij,kg,k->ng", strengths, directions, slope)
    torch.testing.assert_close(e.values, expected, rtol=1e-9, atol=1e-12)


def test_strengths_are_the_least_squares_that_are_not_negative():
    # Karush-Kuhn-Tucker: no slope where a strength is positive, none downwards where it is 0.
    source = torch.Generator().manual_seed(0)
    maps = torch.randn(2, 7, 3, 4, generator=source, dtype=torch.float64)
    groups = torch.rand(7, 4, generator=source, dtype=torch.float64)
    found = nonnegative(maps, groups)
    slope = torch.einsum("kg,nkij->ngij", groups, torch.einsum("kg,ngij->nkij", groups, found) - maps)
    assert (found >= 0).all()
    assert (found > 0).any()
    assert slope[found > 0].abs().max() < 1e-4
    assert slope[found == 0].min() > -1e-4


@pytest.mark.parametrize(
    ("groups", "words"),
    [(torch.ones(7, 2), "7 units at layer '5', which has 8"), (torch.zeros(8, 2), "0 for every unit")],
)
def test_groups_that_make_no_sense_are_errors(net, images, groups, words):
    with pytest.raises(BadInput, match=words):
        group_attribution(net, images, groups=groups)


def test_from_layer_to_layer_each_position_is_asked_by_itself(net, images):
    found = layer_attribution(net, images, source="3", to="5", positions=[(0, 0), (4, 7)])
    assert found.values.shape == (2, 2, 10 * 12)
    for row, (i, j) in enumerate(found.positions):
        early = net[:4](images).detach().requires_grad_()
        late = net[4:6](early.clone())
        vector = late[:, :, i, j]
        (slope,) = torch.autograd.grad((vector * vector.detach()).sum(), early)
        expected = (early * slope).sum(1).flatten(1).detach()
        torch.testing.assert_close(found.values[:, row], expected, rtol=1e-9, atol=1e-12)
        torch.testing.assert_close(found.strength[:, row], vector.square().sum(1).detach(), rtol=1e-9, atol=1e-12)
        outside = found.maps()[:, row].clone()
        outside[:, max(0, i - 1) : i + 2, max(0, j - 1) : j + 2] = 0
        assert not outside.any()  # a convolution of 3×3 sees its neighbours only


def test_without_biases_a_layer_is_made_of_nothing_but_the_layer_before(net, images):
    nn.init.zeros_(net[4].bias)
    found = layer_attribution(net, images, source="3", to="5")
    assert found.values.shape == (2, 120, 120)
    torch.testing.assert_close(found.values.sum(2), found.strength, rtol=1e-9, atol=1e-12)
    torch.testing.assert_close(found.extras["rest"], torch.zeros(2, 120).double(), rtol=0, atol=1e-12)


def test_a_layer_attribution_can_be_kept(net, images, tmp_path):
    found = layer_attribution(net, images, source="2", to="5", positions=[(1, 2)])
    assert repr(found) == "LayerAttribution(2 → 5, 2 × 1 positions from 20×24)"
    assert len(found) == 2
    back = LayerAttribution.load(found.save(tmp_path / "l.safetensors"))
    assert torch.equal(back.values, found.values)
    assert (back.positions, back.grid) == (found.positions, found.grid)


def test_layers_in_the_wrong_order_and_positions_outside_are_errors(net, images):
    with pytest.raises(BadInput, match="'2' does not depend on '5'"):
        layer_attribution(net, images, source="5", to="2")
    for positions in ([(10, 0)], [(0, -1)], []):
        with pytest.raises(BadInput, match="10×12 positions"):
            layer_attribution(net, images, source="2", to="5", positions=positions)


@pytest.mark.usefixtures("timm")
@pytest.mark.parametrize("architecture", VITS)
def test_tokens_before_the_grid_keep_their_share_apart(architecture):
    net, images = fresh(architecture).double(), pictures().double()
    layer = BEHIND_A_NORM.get(architecture, "blocks.1.norm1")
    e, units = linear_approximation(net, images, 3, layer=layer), channel_attribution(net, images, 3, layer=layer)
    assert e.native.shape == (2, 4, 4)
    assert e.extras["prefix"].abs().min() > 0
    seen: dict[str, Tensor] = {}
    handle = net.get_submodule(layer).register_forward_hook(lambda *a: seen.update(out=a[2]))
    score = net(images)[:, 3]
    handle.remove()
    (slope,) = torch.autograd.grad(score.sum(), seen["out"])
    product = (seen["out"] * slope).sum(2).detach()
    prefix = product.shape[1] - 16
    torch.testing.assert_close(e.native.flatten(1), product[:, prefix:], rtol=1e-7, atol=1e-9)
    torch.testing.assert_close(e.extras["prefix"], product[:, :prefix].sum(1), rtol=1e-7, atol=1e-9)
    torch.testing.assert_close(e.extras["rest"], (score - product.sum(1)).detach(), rtol=1e-7, atol=1e-9)
    torch.testing.assert_close(units.values.sum(1), e.native.sum((1, 2)), rtol=1e-7, atol=1e-9)


@pytest.mark.usefixtures("timm")
@pytest.mark.parametrize("method", [linear_approximation, spatial_attribution])
@pytest.mark.parametrize("architecture", VITS)
def test_a_layer_that_a_norm_reads_cancels_which_is_an_error_that_names_the_norm(architecture, method):
    norm = BEHIND_A_NORM.get(architecture, "blocks.1.norm1")
    with pytest.raises(NothingMatched, match=f"cancel at every position.*layer='{norm}'"):
        method(build(architecture), pictures(), 3)
    assert method(build(architecture), pictures(), 3, layer=norm).heatmap.std() > 0


def test_what_attention_moves_is_seen_between_layers():
    pytest.importorskip("timm")
    found = layer_attribution(build("timm_vit"), pictures(1), source="blocks.1.norm1", to="blocks.1.attn")
    assert found.values.shape == (1, 16, 16)
    assert (found.values != 0).all()
    assert found.extras["prefix"].shape == (1, 16)


@pytest.mark.parametrize("settings", [{"path": "straight"}, {"path": "ig", "n_steps": 0}])
def test_settings_that_make_no_sense_are_errors(net, images, settings):
    with pytest.raises(Exception, match=r"path|n_steps"):
        spatial_attribution(net, images, **settings)


def test_images_of_one_channel_and_odd_size_are_explained():
    net, images = Residual(1).eval(), pictures(2, (33, 47), 1)
    assert linear_approximation(net, images).heatmap.shape == (2, 33, 47)
    assert channel_attribution(net, images, path="ig", n_steps=2).values.shape == (2, 8)
