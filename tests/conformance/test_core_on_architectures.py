"""Probing, planning, cutting and layer geometry on the families that people use, each against a plain run."""

import copy

import pytest
import torch
from torch import Tensor, nn

from conformance.architectures import BUILDERS, QUICK, SIZE, build, pictures, timm_vit
from glasshouse.core import BadInput, borrow, cut, geometry, prepare, probe
from glasshouse.core.trace import plain_attention, record

pytestmark = pytest.mark.usefixtures("timm")
slow = pytest.mark.slow
EVERY = [pytest.param(name, marks=() if name in QUICK else slow) for name in BUILDERS]


def out_of_place(model: nn.Module) -> nn.Module:
    """A copy whose modules write nothing in place."""
    model = copy.deepcopy(model)
    for module in model.modules():
        if hasattr(module, "inplace"):
            module.inplace = False
    return model


def clones(model: nn.Module, images: Tensor) -> dict[str, Tensor]:
    """What every layer gave, copied at once: what functional in-place operations do later is not in it."""
    kept: dict[str, Tensor] = {}

    def keep(name: str, out) -> None:
        kept[name] = (out if isinstance(out, Tensor) else out[0]).clone()

    handles = [
        module.register_forward_hook(lambda m, args, out, name=name: keep(name, out))
        for name, module in model.named_modules()
        if name
    ]
    with torch.no_grad():
        model(images)
    for handle in handles:
        handle.remove()
    return kept


@pytest.mark.parametrize("name", EVERY)
def test_every_layer_reads_as_in_a_net_without_in_place_modules(name):
    model, images = build(name), pictures(1)
    expected = clones(out_of_place(model), images)
    runs = record(model, images).calls
    layers = [layer + ("#-1" if len(runs[layer]) > 1 else "") for layer in expected]
    with torch.no_grad(), probe(model, *layers) as seen:
        output = model(images)
    with torch.no_grad():
        torch.testing.assert_close(output, model(images), rtol=0, atol=0)
    for layer in layers:
        plain = expected[layer.removesuffix("#-1")]
        torch.testing.assert_close(seen[layer], plain, rtol=0, atol=0, msg=lambda m, at=layer: f"{at}: {m}")


@pytest.mark.parametrize("name", EVERY)
def test_every_input_reads_as_what_the_layer_was_given(name):
    model, images = build(name), pictures(1)
    runs = record(model, images).calls
    given: dict[str, Tensor] = {}

    def keep(layer: str, first) -> None:
        if isinstance(first, Tensor):  # DenseNet's layers are given lists
            given[layer] = first.clone()

    handles = [
        module.register_forward_pre_hook(lambda m, args, at=layer: keep(at, args[0]))
        for layer, module in model.named_modules()
        if len(runs.get(layer, ())) == 1 and runs[layer][0].inputs
    ]
    with torch.no_grad(), plain_attention():
        model(images)
    for handle in handles:
        handle.remove()
    with torch.no_grad(), plain_attention(), probe(model, *(f"{layer}.input" for layer in given)) as seen:
        model(images)
    for layer, value in given.items():
        torch.testing.assert_close(seen[f"{layer}.input"], value, rtol=0, atol=0)


@pytest.mark.parametrize("name", EVERY)
def test_the_plan_is_the_model_up_to_rounding(name):
    model = copy.deepcopy(build(name))
    images = pictures(2)
    with torch.no_grad():
        expected = model(images)
        with borrow(model, images) as network:
            assert network is not model
            result = network(images)
        assert (result - expected).abs().max() <= 1e-4 * (expected.max() - expected.min())
        model, images = model.double(), images.double()
        expected = model(images)
        with borrow(model, images) as network:
            torch.testing.assert_close(network(images), expected, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("name", EVERY)
def test_gradients_of_the_plan_are_those_of_the_model(name):
    model, images = copy.deepcopy(build(name)).double(), pictures(1).double()
    with borrow(model, images) as network:
        ours = images.clone().requires_grad_()
        (fast,) = torch.autograd.grad(network(ours)[0, 3], ours)
    theirs = images.clone().requires_grad_()
    (plain,) = torch.autograd.grad(model(theirs)[0, 3], theirs)
    torch.testing.assert_close(fast, plain, rtol=1e-7, atol=1e-9 * float(plain.abs().max()))


@pytest.mark.parametrize("name", EVERY)
def test_layers_that_are_asked_for_read_as_in_the_model(name):
    model, images = build(name), pictures(1)
    layers = [layer for layer, runs in record(model, images).calls.items() if len(runs) == 1]
    with torch.no_grad(), probe(model, *layers) as expected:
        model(images)
    with borrow(model, images, layers) as network, torch.no_grad(), probe(network, *layers) as seen:
        network(images)
    for layer in layers:
        scale = float(expected[layer].abs().max())
        torch.testing.assert_close(seen[layer], expected[layer], rtol=1e-3, atol=1e-4 * scale)


def probed(model: nn.Module, images: Tensor, layer: str) -> Tensor:
    with torch.no_grad(), plain_attention(), probe(model, layer) as seen:
        model(images)
    return seen[layer]


def cutting_points(model: nn.Module, images: Tensor) -> list[str]:
    """Up to a dozen layers spread over the model that give one tensor, once."""
    calls = record(model, images).calls
    names = [name for name, runs in calls.items() if len(runs) == 1 and len(runs[0].outputs) == 1]
    return names[:: max(1, len(names) // 12)]


def like(output, new: Tensor):
    """`new` in the place of the first tensor of an output."""
    return (new, *output[1:]) if isinstance(output, tuple) else new


@pytest.mark.parametrize("name", EVERY)
def test_a_suffix_is_the_model_with_the_layer_replaced(name):
    model, images = build(name), pictures(2)
    for layer in cutting_points(model, images):
        suffix = cut(model, images, layer)
        torch.testing.assert_close(suffix.activation, probed(model, images, layer), rtol=0, atol=0)
        change = torch.rand(suffix.activation.shape, generator=torch.Generator().manual_seed(0)) + 0.5
        given = suffix.activation * change
        kept = given.clone()
        handle = model.get_submodule(layer).register_forward_hook(lambda m, args, out, new=kept: like(out, new.clone()))
        with torch.no_grad(), plain_attention():
            expected = model(images)
            handle.remove()
            result = suffix(given)
        torch.testing.assert_close(result, expected, rtol=0, atol=0, msg=lambda m, at=layer: f"{at}: {m}")
        torch.testing.assert_close(given, kept, rtol=0, atol=0)


@pytest.mark.parametrize("name", EVERY)
def test_gradients_through_a_suffix_are_those_of_the_whole(name):
    model, images = build(name), pictures(1)
    for layer in cutting_points(model, images)[1::3]:
        leaf = cut(model, images, layer).activation.requires_grad_()
        (part,) = torch.autograd.grad(cut(model, images, layer)(leaf)[0, 2], leaf, allow_unused=True)
        with probe(model, layer) as seen:
            score = model(images.requires_grad_())[0, 2]
        (whole,) = torch.autograd.grad(score, seen[layer], allow_unused=True)
        if whole is None:
            assert part is None
        else:
            torch.testing.assert_close(part, whole, rtol=1e-5, atol=1e-6 * float(whole.abs().max()))


GRIDS = {
    "vit": ("encoder.layers.encoder_layer_0", "ntk", (4, 4), 1),
    "timm_vit": ("blocks.0", "ntk", (4, 4), 1),
    "timm_vit_registers": ("blocks.0", "ntk", (4, 4), 5),
    "timm_distilled": ("blocks.0", "ntk", (4, 4), 2),
    "swin": ("features.3.1", "nijk", (8, 8), 0),
    "timm_swin": ("layers.1.blocks.1", "nijk", (8, 8), 0),
    "convnext": ("features.1.0", "nkij", (16, 16), 0),
    "timm_convnext_atto": ("stages.1.blocks.0", "nkij", (8, 8), 0),
    "densenet": ("features.denseblock2", "nkij", (8, 8), 0),
    "resnet18": ("layer3.1", "nkij", (4, 4), 0),
}


@pytest.mark.parametrize(
    "name", [pytest.param(n, marks=() if n in (*QUICK, "timm_distilled") else slow) for n in GRIDS]
)
def test_axes_grid_and_tokens_before_it_are_found(name):
    layer, axes, grid, prefix = GRIDS[name]
    found = geometry(build(name), pictures(1))[layer]
    assert (found.axes, found.grid, found.prefix) == (axes, grid, prefix)
    assert found.units == probed(build(name), pictures(1), layer).shape[axes.index("k")]


USUAL = {
    "toy": "5",
    "resnet18": "layer4",
    "densenet": "features",
    "mobilenet_v2": "features",
    "squeezenet1_1": "classifier.2",
    "vit": "encoder.layers.encoder_layer_0",
    "timm_vit": "blocks.0",
    "timm_vit_registers": "blocks.0",
    "timm_distilled": "blocks.0",
    "convnext": "features",
    "timm_convnext_atto": "stages",
    "regnet_y": "trunk_output",
    "efficientnet_lite0": "head",
}


@pytest.mark.parametrize("name", [pytest.param(n, marks=() if n in QUICK else slow) for n in USUAL])
def test_the_usual_layer_is_the_last_with_positions_that_reach_the_score(name):
    # Before the last attention block, where a class token reads the patches for the last time.
    model, images = build(name), pictures(1)
    assert geometry(model, images).usual() == USUAL[name]
    with borrow(model, images) as network:
        assert geometry(network, images).usual() == USUAL[name]


@pytest.mark.parametrize("name", EVERY)
def test_the_plan_has_the_geometry_of_the_model(name):
    model, images = build(name), pictures(1)
    plain = geometry(model, images)
    with borrow(model, images) as network:
        fast = geometry(network, images)
    assert fast.default == plain.default
    for layer, found in plain.layers.items():
        other = fast.layers[layer]
        assert (other.axes, other.grid, other.prefix, other.rows, other.cols, other.local, other.calls) == (
            (found.axes, found.grid, found.prefix, found.rows, found.cols, found.local, found.calls)
        ), layer


@pytest.mark.parametrize("name", EVERY)
def test_maps_and_unmaps_are_inverse_in_every_layer(name):
    model, images = build(name), pictures(2)
    layers = [g for g in geometry(model, images).layers.values() if "k" in g.axes and g.calls == 1]
    layers = [g for g in layers if not g.name.endswith(".input")]
    assert len(layers) >= 4
    with torch.no_grad(), probe(model, *(g.name for g in layers)) as seen:
        model(images)
    for found in layers:
        output = seen[found.name]
        maps = found.maps(output)
        assert maps.shape == (2, found.units, *found.grid), found.name
        torch.testing.assert_close(found.unmaps(maps, output), output, rtol=0, atol=0)
        new = torch.randn(maps.shape, generator=torch.Generator().manual_seed(0))
        torch.testing.assert_close(found.maps(found.unmaps(new, output)), new, rtol=0, atol=0)


def test_tokens_of_a_net_for_other_than_square_images_lie_on_their_grid():
    model = timm_vit(4, (224, 160)).eval()
    found = geometry(model, torch.zeros(1, 3, 224, 160))["blocks.1"]
    assert (found.grid, found.prefix, found.local) == ((14, 10), 5, False)
    assert found.boxes(torch.tensor([0, 9, 139])).tolist() == [[0, 0, 16, 16], [0, 144, 16, 160], [208, 144, 224, 160]]


@pytest.mark.parametrize(
    "name", ["mobilenet_v2", pytest.param("swin", marks=slow), pytest.param("resnet18", marks=slow)]
)
def test_images_need_not_be_square(name):
    model, images = build(name), pictures(1, (SIZE, 96))
    expected = {"mobilenet_v2": (2, 3), "resnet18": (2, 3), "swin": (8, 12)}[name]
    found = geometry(model, images)
    assert found[found.usual()].grid == expected


@pytest.mark.parametrize("name", ["vit", pytest.param("timm_swin", marks=slow)])
def test_linear_layers_computed_as_convolutions_change_nothing(name, monkeypatch):
    from glasshouse.core import rewrites

    monkeypatch.setattr(rewrites, "faster_as_convolution", lambda *_: True)
    monkeypatch.setattr(rewrites, "LEAST_WORK", 0)
    model, images = copy.deepcopy(build(name)), pictures(2)
    prepared = prepare(model, images)
    assert any("linear layers as convolutions" in step for step in prepared.steps)
    with torch.no_grad():
        torch.testing.assert_close(prepared.model(images), model(images), rtol=1e-4, atol=1e-4)
    plain, fast = geometry(model, images), geometry(prepared.model, images)
    assert {n: (g.axes, g.grid, g.prefix, g.rows) for n, g in plain.layers.items()} == {
        n: (g.axes, g.grid, g.prefix, g.rows) for n, g in fast.layers.items()
    }
    assert plain.default == fast.default


def test_a_layer_that_runs_twice_cannot_be_cut():
    with pytest.raises(BadInput, match="'relu' ran 2 times"):
        cut(build("residual"), pictures(1), "relu")
