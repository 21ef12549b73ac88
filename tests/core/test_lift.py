"""The lift from a function to a method, and the registry."""

import inspect
from collections.abc import Iterator

import pytest
import torch
from torch import Tensor, nn

from glasshouse.core import (
    Aim,
    BadInput,
    Cost,
    Explanation,
    LayerNotFound,
    Model,
    NotFound,
    Preprocess,
    Target,
    find_method,
    list_methods,
    method,
    registered,
    select,
)
from glasshouse.core.lift import checked_images, module_of, setting
from glasshouse.core.registry import _registry


@pytest.fixture(autouse=True)
def registry() -> Iterator[None]:
    """What these tests register does not stay."""
    kept = dict(_registry)
    yield
    _registry.clear()
    _registry.update(kept)


def plain(model: nn.Module, inputs: Tensor, target: Target = None, *, factor: float = 2.0) -> Tensor:
    """The images, scaled.

    Nobody, 2000.
    """
    select(model(inputs), target)
    return inputs * factor


def test_the_function_and_its_signature_stay_visible():
    lifted = method(plain)
    assert lifted.__wrapped__ is plain
    assert lifted.__name__ == "plain"
    assert list(inspect.signature(lifted).parameters) == ["model", "inputs", "target", "factor"]
    info = find_method("plain")
    assert info.function is lifted
    assert (info.name, info.folder, info.short, info.title) == (
        "attribute.plain",
        "attribute",
        "plain",
        "The images, scaled.",
    )
    assert list(info.parameters.parameters) == ["model", "inputs", "target", "factor"]


def test_what_a_call_records(cnn, images):
    cost = lambda settings, shape: Cost(settings["factor"], shape[0])  # noqa: E731
    lifted = method(
        cost=cost, claims=("complete",), class_sensitive=False, warning="w", paper="p", example={"factor": 3}
    )(plain)
    e = lifted(cnn, images, 2, factor=0.5)
    assert isinstance(e, Explanation)
    torch.testing.assert_close(e.native, images * 0.5)
    torch.testing.assert_close(e.heatmap, (images * 0.5).sum(1))
    torch.testing.assert_close(e.score, cnn(images)[:, 2].detach())
    assert e.method == "plain"
    assert e.target == (2, 2, 2)
    assert e.settings == {"factor": 0.5}
    assert e.layer is None
    assert e.provenance["dtype"] == "float32"
    assert e.provenance["seconds"] >= 0
    info = find_method("attribute.plain")
    assert ("complete" in info.claims, info.class_sensitive, info.warning, info.paper) == (True, False, "w", "p")
    assert info.cost({"factor": 7.0}, images.shape) == (7.0, 3)
    assert info.example == {"factor": 3}
    assert lifted(cnn, images).target == tuple(cnn(images).argmax(1).tolist())
    assert lifted(cnn, images).settings == {"factor": 2.0}


def test_colours_are_summed_or_the_strongest_is_taken(cnn, images):
    torch.testing.assert_close(method(reduction="sum")(plain)(cnn, images).heatmap, 2 * images.sum(1))
    torch.testing.assert_close(method(reduction="max_abs")(plain)(cnn, images).heatmap, 2 * images.abs().amax(1))


def test_values_on_a_grid_are_brought_to_the_pixels(cnn, images):
    def coarse(model: nn.Module, inputs: Tensor, target: Target = None) -> Tensor:
        select(model(inputs), target)
        return torch.ones(len(inputs), 2, 3) * torch.tensor([1.0, 2.0])[:, None]

    e = method(coarse)(cnn, images)
    assert e.native.shape == (3, 2, 3)
    assert e.heatmap.shape == (3, 14, 18)
    torch.testing.assert_close(e.heatmap[:, 0], torch.ones(3, 18))
    torch.testing.assert_close(e.heatmap[:, -1], torch.full((3, 18), 2.0))


def test_extras_and_the_layer_are_kept(cnn, images):
    def layered(model: nn.Module, inputs: Tensor, target: Target = None, *, layer: str | None = None):
        assert model is not cnn
        select(model(inputs), target)
        return inputs, {"gap": inputs.mean((1, 2, 3)).requires_grad_()}

    lifted = method(layered)
    e = lifted(cnn, images)
    assert e.layer == e.settings["layer"] == "4"
    assert lifted(cnn, images, layer="1").layer == "1"
    assert not e.extras["gap"].requires_grad


def test_the_question_is_settled_on_the_clean_images(cnn, images):
    def twice(model: nn.Module, inputs: Tensor, target: Target = None) -> Tensor:
        aim = Aim.of(target)
        select(model(inputs), aim)
        select(-model(inputs), aim)
        return inputs

    e = method(twice)(cnn, images)
    assert e.target == tuple(cnn(images).argmax(1).tolist())
    torch.testing.assert_close(e.score, cnn(images).amax(1).detach())


def test_a_target_that_names_no_class_leaves_the_classes_empty(cnn, images):
    lifted = method(plain)
    e = lifted(cnn, images, lambda y: y[:, 0] - y[:, 1])
    assert e.target == ()
    output = cnn(images).detach()
    torch.testing.assert_close(e.score, output[:, 0] - output[:, 1])
    assert "custom target" in repr(e)


def test_a_model_with_its_preprocessing_is_taken_like_a_bare_one(cnn, images):
    model = Model(cnn, Preprocess(size=(14, 18), mean=(0.0,) * 3, std=(1.0,) * 3), ("a", "b", "c", "d"), "small")
    torch.testing.assert_close(method(plain)(model, images).native, method(plain)(cnn, images).native)
    assert module_of(model) is cnn


@pytest.mark.parametrize(
    ("inputs", "text"),
    [
        ([1, 2], "are a list, not a tensor"),
        (torch.zeros(3, 8, 8), r"Use images\[None\]"),
        (torch.zeros(2, 3, 8), r"Use images\[None\]"),
        (torch.zeros(8, 8), "`n c h w` is needed"),
        (torch.zeros(0, 3, 8, 8), "at least one image"),
        (torch.zeros(1, 3, 8, 8, dtype=torch.uint8), r"images are torch\.uint8"),
        (torch.full((1, 3, 8, 8), torch.nan), r"images \[0\] hold NaN"),
        (torch.stack([torch.zeros(3, 8, 8), torch.full((3, 8, 8), torch.inf)]), r"images \[1\] hold"),
    ],
)
def test_images_that_cannot_be_used_are_an_error(inputs, text):
    with pytest.raises(BadInput, match=text):
        checked_images(inputs)


def test_a_wrong_argument_is_pythons_own_error(cnn, images):
    with pytest.raises(TypeError, match="facto"):
        method(plain)(cnn, images, facto=1)


def test_settings_are_recorded_in_plain_words():
    assert setting(None) is None
    assert setting((1, [2.5, "a"])) == (1, (2.5, "a"))
    assert torch.equal(setting(torch.ones(2, requires_grad=True)), torch.ones(2))
    assert setting(torch.zeros(5, 5)) == "tensor (5, 5)"
    assert setting(plain) == "plain"
    assert setting(nn.ReLU()) == "ReLU"


def test_methods_are_found_by_full_or_short_name_and_by_pattern():
    method(plain)
    registered("dissect", cost=lambda *_: Cost(1))(nearby)
    assert find_method("plain").name == find_method("attribute.plain").name == "attribute.plain"
    assert "attribute.plain" in list_methods("attribute.*ai*")
    assert "attribute.plain" not in list_methods("dissect.*")
    assert find_method("nearby", "dissect").function is nearby
    with pytest.raises(NotFound, match="Did you mean 'plain'"):
        find_method("plian")
    with pytest.raises(NotFound, match=r"Did you mean 'attribute\.plain'"):
        find_method("attribute.plian")
    with pytest.raises(NotFound):
        find_method("plain", "dissect")


def nearby() -> int:
    return 1


def test_a_name_can_be_taken_by_one_module_only():
    def other(model: nn.Module, inputs: Tensor, target: Target = None) -> Tensor:
        return inputs

    method(plain)
    method(plain)
    other.__name__, other.__module__ = "plain", "somebody.elses"
    with pytest.raises(BadInput, match=r"'attribute\.plain' exists already"):
        method(other)


def test_a_layer_that_is_not_there_is_an_error(cnn, images):
    from glasshouse.attribute import grad_cam

    with pytest.raises(LayerNotFound, match="no layer '44'"):
        grad_cam(cnn, images, layer="44")
