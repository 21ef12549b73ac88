"""What holds for every attribution method, whoever wrote it: written once, run for all names in the registry."""

import copy
import inspect
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from conformance.architectures import Attentive
from glasshouse import attribute
from glasshouse.core import Explanation, GlasshouseError, Info, find_method, list_methods

METHODS = [info for name in list_methods("attribute.*") if (info := find_method(name)).maps]
SIZE = (24, 20)


@pytest.fixture(params=METHODS, ids=lambda info: info.short)
def info(request) -> Info:
    return request.param


def with_setting(name: str) -> pytest.MarkDecorator:
    """For the methods that have this setting only."""
    return only(lambda info: name in info.parameters.parameters)


def only(which: Callable[[Info], bool]) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("info", list(filter(which, METHODS)), ids=lambda info: info.short)


@pytest.fixture
def net(info: Info, convolutional: nn.Module, attentive: nn.Module) -> nn.Module:
    """A network with what the method needs."""
    return attentive if info.needs == "attention" else convolutional


@pytest.fixture(scope="module")
def attentive() -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(0)
        return Attentive(classes=4).eval()


@pytest.fixture(scope="module")
def convolutional() -> nn.Module:
    """Two stages, in-place ReLUs, a norm, a head that CAM can read; random, but with opinions."""
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(0)
        net = nn.Sequential(
            nn.Conv2d(3, 6, 3, padding=1),
            nn.BatchNorm2d(6),
            nn.ReLU(inplace=True),
            nn.MaxPool2d(2),
            nn.Conv2d(6, 8, 3, padding=1),
            nn.ReLU(inplace=True),
            nn.AdaptiveAvgPool2d(1),
            nn.Flatten(),
            nn.Linear(8, 4),
        )
        nn.init.normal_(net[1].running_mean, std=0.2)
        nn.init.uniform_(net[1].weight, 0.5, 2.0)
        nn.init.normal_(net[8].weight)
    return net.eval()


@pytest.fixture
def images() -> Tensor:
    return torch.randn(3, 3, *SIZE, generator=torch.Generator().manual_seed(0))


def call(info: Info, net: nn.Module, images: Tensor, target: Any = None, **changes: Any) -> Explanation:
    return info.function(net, images, target, **{**info.example, **changes})


def close(a: Tensor, b: Tensor, tolerance: float) -> None:
    torch.testing.assert_close(a, b, rtol=tolerance, atol=tolerance * float(b.abs().max()), check_dtype=False)


def test_the_folder_shows_every_method_and_nothing_else_is_registered(info):
    assert getattr(attribute, info.short) is info.function
    assert info.folder == "attribute"


def test_every_method_says_what_it_means_and_where_it_comes_from(info):
    assert info.title.endswith(".")
    assert info.paper
    assert info.paper.split(" ")[0].strip(",") in info.function.__doc__
    assert info.cost is not None or info.needs == "attention", "how many windows there are depends on the network"


def test_arguments_are_in_the_common_order_and_have_defaults(info):
    parameters = list(info.parameters.parameters.values())
    assert [p.name for p in parameters[:3]] == ["model", "inputs", "target"]
    assert parameters[2].default is None
    assert all(p.kind is inspect.Parameter.KEYWORD_ONLY for p in parameters[3:])
    assert all(p.default is not inspect.Parameter.empty for p in parameters[3:])
    assert set(info.example) <= {p.name for p in parameters[3:]}


def test_there_is_one_map_per_image_on_the_pixel_grid(info, net, images):
    e = call(info, net, images)
    assert e.heatmap.shape == (3, *SIZE)
    assert e.heatmap.dtype == torch.float32
    assert e.heatmap.isfinite().all()
    assert (e.heatmap.flatten(1).std(1) > 0).all()
    assert len(e.native) == len(e.score) == len(e.target) == 3
    assert e.native.ndim in (3, 4)
    assert e.method == info.short


def test_the_score_is_the_models_own(info, net, images):
    e = call(info, net, images, 1)
    with torch.no_grad():
        output = net(images)
    output = {"logit": output, "prob": output.softmax(1), "logprob": output.log_softmax(1)}[e.settings["score"]]
    close(e.score, output[:, 1], 1e-5)


def test_images_do_not_influence_each_other(info, net, images):
    together = call(info, net, images)
    for n in range(3):
        alone = call(info, net, images[n : n + 1])
        close(alone.heatmap, together.heatmap[n : n + 1], 1e-4)
        close(alone.native, together.native[n : n + 1], 1e-4)
        assert alone.target == together.target[n : n + 1]
        for name, value in alone.extras.items():
            row = together.extras[name][n : n + 1]
            torch.testing.assert_close(value, row, rtol=1e-3, atol=1e-5 + 1e-3 * float(row.abs().max()))
    backwards = call(info, net, images.flip(0))
    close(backwards.heatmap.flip(0), together.heatmap, 1e-4)


def test_the_same_call_gives_the_same_bits(info, net, images):
    first, second = call(info, net, images, 2), call(info, copy.deepcopy(net), images.clone(), 2)
    assert torch.equal(first.native, second.native)
    assert torch.equal(first.heatmap, second.heatmap)
    assert all(torch.equal(first.extras[name], second.extras[name]) for name in first.extras)


@with_setting("seed")
def test_a_seed_decides_what_is_drawn(info, net, images):
    first, again, other = (call(info, net, images, 2, seed=seed) for seed in (5, 5, 6))
    assert torch.equal(first.native, again.native)
    assert not torch.equal(first.native, other.native)


def test_single_and_double_precision_agree(info, net, images):
    single, double = call(info, net, images, 1), call(info, copy.deepcopy(net).double(), images.double(), 1)
    assert double.native.dtype == torch.float64
    close(single.heatmap, double.heatmap, 2e-3)


@pytest.mark.parametrize("size", [(33, 17), (16, 40), (21, 21)])
def test_images_of_any_shape_are_explained(info, net, size):
    images = torch.randn(1, 3, *size, generator=torch.Generator().manual_seed(0))
    changes = {"sliding_window_shapes": 8, "strides": 8} if info.short == "occlusion" else {}
    e = call(info, net, images, **changes)
    assert e.heatmap.shape == (1, *size)
    assert e.heatmap.isfinite().all()


@pytest.mark.parametrize("chunk", [1, 2, 7, 1000])
@with_setting("chunk")
def test_the_size_of_chunks_changes_nothing(info, net, images, chunk):
    whole, parts = call(info, net, images, chunk=16), call(info, net, images, chunk=chunk)
    close(parts.native, whole.native, 1e-4)
    for name, value in whole.extras.items():
        close(parts.extras[name], value, 1e-3)


def test_no_target_means_the_top_class_of_each_image(info, net, images):
    with torch.no_grad():
        top = net(images).argmax(1)
    free = call(info, net, images)
    assert free.target == tuple(top.tolist())
    for spec in (top, top.tolist(), torch.eye(4)[top]):
        close(call(info, net, images, spec).heatmap, free.heatmap, 1e-6)


def test_each_image_can_be_asked_about_its_own_class(info, net, images):
    mixed = call(info, net, images, [3, 0, 2])
    assert mixed.target == (3, 0, 2)
    for n, target in enumerate(mixed.target):
        close(mixed.heatmap[n], call(info, net, images, target).heatmap[n], 1e-6)


@only(lambda info: not info.class_sensitive)
def test_a_method_that_hardly_feels_the_class_carries_a_warning(info):
    assert info.warning


@only(lambda info: info.class_sensitive)
def test_another_class_has_another_map(info, net, images):
    a, b = call(info, net, images, 0).heatmap, call(info, net, images, 1).heatmap
    assert not torch.allclose(a, b, rtol=1e-3, atol=1e-3 * float(a.abs().max()))


@only(lambda info: "complete" in info.claims)
def test_what_is_complete_sums_to_the_difference_of_scores(info, net, images):
    e = call(info, net, images)
    total = e.native.flatten(1).sum(1) if e.native.ndim == 4 else e.native.mean((1, 2))
    with torch.no_grad():
        silent = net(torch.zeros_like(images)) if e.native.ndim == 4 else net[8].bias.expand(3, -1)
        change = (net(images) - silent)[range(3), list(e.target)]
    assert (total - change).abs().max() < 0.15 * change.abs().max()


def test_the_settings_that_are_recorded_repeat_the_call(info, net, images):
    first = call(info, net, images)
    assert set(first.settings) == set(info.parameters.parameters) - {"model", "inputs", "target"}
    again = info.function(net, images, list(first.target), **first.settings)
    assert torch.equal(first.native, again.native)


@with_setting("layer")
def test_a_layer_that_was_chosen_is_named_and_may_be_given(info, net, images):
    chosen = call(info, net, images)
    assert chosen.layer == chosen.settings["layer"] == "5"
    assert torch.equal(call(info, net, images, layer="5").native, chosen.native)
    assert not torch.equal(call(info, net, images, layer="2").native[:, :10, :10], chosen.native)


def test_an_explanation_is_saved_and_loaded_as_it_was(info, net, images, tmp_path):
    e = call(info, net, images)
    back = Explanation.load(e.save(tmp_path / "e.safetensors"))
    assert torch.equal(back.native, e.native)
    assert torch.equal(back.heatmap, e.heatmap)
    assert (back.method, back.target, back.settings, back.layer) == (e.method, e.target, e.settings, e.layer)


@pytest.mark.parametrize(
    "target",
    [4, -1, [0, 1], (0, 1), lambda y: y, torch.zeros(3, 5)],
    ids=["4", "-1", "two", "tuple", "function", "weights"],
)
def test_a_target_that_makes_no_sense_is_an_error_for_every_method(info, net, images, target):
    with pytest.raises(GlasshouseError):
        call(info, net, images, target)


@pytest.mark.parametrize("score", ["logit", "prob", "logprob"])
def test_every_reading_of_the_score_is_explained(info, net, images, score):
    e = call(info, net, images, 2, score=score)
    assert e.settings["score"] == score
    assert e.heatmap.isfinite().all()
