"""Every attribution method on every family: an answer or an error that says why, and no trace left either way.

What counts as a trace: modes, gradients, hooks, modules, flags, weights, random state, inputs, and memory.
"""

import gc
import os
import warnings
import weakref
from contextlib import nullcontext
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from conformance.architectures import BUILDERS, CLASSES, QUICK, SIZE, Residual, build, fresh, pictures, toy
from glasshouse import attribute  # noqa: F401 - fills the registry
from glasshouse.core import GlasshouseError, find_method, list_methods
from glasshouse.core.plan import TrainingModeWarning

METHODS = [name for name in list_methods("attribute.*") if find_method(name).maps]
ANYWHERE = [name for name in METHODS if not find_method(name).needs]
POOLED = {  # average pooling, then one linear layer, and nothing else: what CAM is defined for
    "toy",
    "residual",
    "resnet18",
    "densenet",
    "mobilenet_v2",
    "regnet_y",
    "shufflenet_v2_x0_5",
    "swin",
    "efficientnet_lite0",
    "timm_seresnet18",
    "timm_resnet10t",
    "timm_swin",
}
SMOOTH_ACTIVATIONS = {name for name in BUILDERS if "vit" in name or "swin" in name or "convnext" in name} | {
    "mobilenet_v3_small",  # hard-swish beside ReLU
    "timm_distilled",
}
VISION_TRANSFORMERS = {"vit", "timm_vit", "timm_vit_registers", "timm_distilled"}
NEEDS = {
    "attribute.cam": set(BUILDERS) - POOLED,
    "attribute.guided_backprop": SMOOTH_ACTIVATIONS,
    "attribute.guided_grad_cam": SMOOTH_ACTIVATIONS,
    "attribute.deconvnet": SMOOTH_ACTIVATIONS,
    "attribute.contrastive_excitation_backprop": {"squeezenet1_1"},  # its usual layer lies above the classifier
    # where the usual layer feeds norms alone, activation times gradient is 0 everywhere
    "attribute.linear_approximation": VISION_TRANSFORMERS,
    "attribute.spatial_attribution": VISION_TRANSFORMERS,
    **{name: set(BUILDERS) - VISION_TRANSFORMERS for name in METHODS if find_method(name).needs == "attention"},
}
HOOKS = [name for name in vars(nn.Module()) if name.endswith("_hooks")]


def call(method: str, model: nn.Module, images: Tensor, target: Any = 3):
    info = find_method(method)
    return info.function(model, images, target, **info.example)


def snapshot(model: nn.Module, images: Tensor) -> dict[str, Any]:
    """All that a caller could find changed."""
    weights = [*model.named_parameters(), *model.named_buffers()]
    return {
        "modes": [m.training for m in model.modules()],
        "modules": [(name, id(m), type(m), sorted(vars(m))) for name, m in model.named_modules()],
        "settings": [m.extra_repr() for m in model.modules()],
        "hooks": [len(vars(m)[name]) for m in model.modules() for name in HOOKS],
        "weights": [(name, id(w), w.data_ptr(), w._version, w.requires_grad) for name, w in weights],
        "values": [w.detach().clone() for _, w in weights],
        "gradients": [None if w.grad is None else (id(w.grad), w.grad._version) for _, w in weights],
        "gradient values": [w.grad.clone() for _, w in weights if w.grad is not None],
        "random": torch.random.get_rng_state(),
        "input": (images._version, images.requires_grad, images.is_leaf, images.grad),
        "pixels": images.detach().clone(),
        "switches": (torch.is_grad_enabled(), torch.is_inference_mode_enabled()),
        "attention": torch.backends.mha.get_fastpath_enabled(),
        "function modes": torch._C._len_torch_function_stack(),
    }


def assert_same(before: dict[str, Any], after: dict[str, Any]) -> None:
    for name, value in before.items():
        if isinstance(value, Tensor):
            assert torch.equal(value, after[name]), name
        elif isinstance(value, list) and value and isinstance(value[0], Tensor):
            assert all(map(torch.equal, value, after[name])), name
        else:
            assert value == after[name], name


def stop(error: type[BaseException]):
    """A target that ends the method in the middle."""

    def target(output: Tensor) -> Tensor:
        raise error

    return target


EVERY_PAIR = bool(os.environ.get("GLASSHOUSE_EVERY_PAIR"))
KIN = {"grad_cam_pp", "hires_cam", "xgrad_cam", "grad_cam_elementwise", "layer_cam", "deconvnet", "smallest_area"}
"""Methods that run a network as another one does, and need not be tried on every network again."""
PAIRS = [
    pytest.param(method, name, marks=() if name in QUICK else pytest.mark.slow)
    for m, method in enumerate(METHODS)
    for a, name in enumerate(BUILDERS)
    if name in QUICK or (method.partition(".")[2] not in KIN and (EVERY_PAIR or (m + a) % 5 == 0))
]
"""Every method on the small networks and a fifth of the large ones; each of these meets a fifth of the methods."""


@pytest.mark.usefixtures("timm")
@pytest.mark.parametrize(("method", "architecture"), PAIRS)
def test_a_method_gives_an_answer_or_says_why_not_and_leaves_no_trace(method, architecture):
    model, images = build(architecture), pictures()
    model.zero_grad()
    before = snapshot(model, images)
    if architecture in NEEDS.get(method, ()):
        with pytest.raises(GlasshouseError, match=r"\w+ .*\."):
            call(method, model, images)
    else:
        e = call(method, model, images)
        assert e.heatmap.shape == (2, SIZE, SIZE)
        assert e.heatmap.isfinite().all()
        assert e.native.isfinite().all()
        assert not e.native.requires_grad
        assert e.target == (3, 3)
        torch.testing.assert_close(e.score, reading(model, images, e.settings["score"]), rtol=1e-3, atol=1e-4)
    assert_same(before, snapshot(model, images))


def reading(model: nn.Module, images: Tensor, score: str) -> Tensor:
    with torch.no_grad():
        output = model(images)
    return (output.softmax(1) if score == "prob" else output)[:, 3]


@pytest.mark.usefixtures("timm")
@pytest.mark.parametrize("architecture", QUICK)
@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("error", [ZeroDivisionError, KeyboardInterrupt])
def test_a_method_that_is_stopped_in_the_middle_leaves_no_trace(method, architecture, error):
    model, images = build(architecture), pictures(1)
    before = snapshot(model, images)
    with pytest.raises((error, GlasshouseError)):
        call(method, model, images, stop(error))
    assert_same(before, snapshot(model, images))


@pytest.fixture(params=ANYWHERE)
def method(request) -> str:
    return request.param


@pytest.fixture
def net() -> nn.Module:
    return fresh("residual")


@pytest.fixture
def images() -> Tensor:
    return pictures()


@pytest.mark.parametrize("error", [None, ZeroDivisionError, KeyboardInterrupt])
def test_1_and_8_modes_come_back_one_by_one_and_a_warning_names_what_was_training(method, net, images, error):
    expected = call(method, net, images)
    net.train()
    net.conv1.eval()
    net.norm2.eval()
    before = snapshot(net, images)
    with pytest.warns(TrainingModeWarning, match=r"\(norm1, drop\)"):
        result = call(method, net, images) if error is None else interrupted(method, net, images, error)
    assert_same(before, snapshot(net, images))
    assert result is None or torch.equal(result.native, expected.native)


def interrupted(method: str, net: nn.Module, images: Tensor, error: type[BaseException]) -> None:
    with pytest.raises(error):
        call(method, net, images, stop(error))


def test_2_gradients_of_the_weights_are_left_as_they_were(method, net, images):
    net(images).square().sum().backward()
    net.stem.weight.requires_grad_(False)
    net.head.bias.grad = None
    before = snapshot(net, images)
    call(method, net, images)
    assert_same(before, snapshot(net, images))


@pytest.mark.parametrize("error", [None, ZeroDivisionError, KeyboardInterrupt])
def test_3_a_model_with_hooks_is_run_itself_and_keeps_them(method, net, images, error):
    calls: list[int] = []
    handles = [
        net.conv2.register_forward_hook(lambda *_: calls.append(1)),
        net.register_forward_pre_hook(lambda *_: None),
    ]
    before = snapshot(net, images)
    if error is None:
        call(method, net, images)
        assert calls
    else:
        interrupted(method, net, images, error)
    assert_same(before, snapshot(net, images))
    assert net.relu.inplace
    for handle in handles:
        handle.remove()


def test_4_the_global_random_state_is_neither_moved_nor_read(method, net, images):
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(1)
        first = call(method, net, images)
        torch.default_generator.manual_seed(2)
        state = torch.random.get_rng_state()
        second = call(method, net, images)
        assert torch.equal(torch.random.get_rng_state(), state)
    assert torch.equal(first.native, second.native)


@pytest.mark.parametrize("kind", ["plain", "leaf with a gradient", "part of a graph", "view", "expanded"])
def test_5_inputs_are_left_as_they_were(method, net, kind):
    images = (
        pictures(1).expand(2, 3, SIZE, SIZE)
        if kind == "expanded"
        else pictures(3)[1:]
        if kind == "view"
        else pictures()
    )
    if kind == "leaf with a gradient":
        images.requires_grad_().square().sum().backward()
    if kind == "part of a graph":
        images = images.requires_grad_() * 2
    before = snapshot(net, images.detach() if kind == "part of a graph" else images)
    flags, grad = (
        (images.requires_grad, images.grad_fn),
        None if not images.is_leaf or images.grad is None else images.grad.clone(),
    )
    e = call(method, net, images)
    assert_same(before, snapshot(net, images.detach() if kind == "part of a graph" else images))
    assert (images.requires_grad, images.grad_fn) == flags
    assert grad is None or torch.equal(images.grad, grad)
    assert e.heatmap.grad_fn is None


SEEN: list[weakref.ref] = []


class Watched(nn.Module):
    """Remembers its activations weakly, in whatever copy it runs."""

    def __init__(self):
        super().__init__()
        self.conv, self.head = nn.Conv2d(3, 4, 3, padding=1), nn.Linear(4, CLASSES)

    def forward(self, inputs: Tensor) -> Tensor:
        maps = F.relu(self.conv(inputs))
        pooled = maps.mean((2, 3))
        SEEN.extend([weakref.ref(inputs), weakref.ref(maps), weakref.ref(pooled)])
        return self.head(pooled)


def test_5_no_activation_outlives_the_call(method):
    SEEN.clear()
    model, images = Watched().eval(), pictures()
    explanation = call(method, model, images)
    gc.collect()
    assert len(SEEN) > 3
    assert not [ref for ref in SEEN if ref() is not None and ref() is not images]
    assert explanation is not None


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_6_the_callers_gradient_mode_does_not_matter(method, net, mode):
    expected = call(method, net, pictures())
    with mode():
        images = pictures()
        result = call(method, net, images)
        assert torch.is_inference_mode_enabled() == (mode is torch.inference_mode)
        assert not torch.is_grad_enabled()
    torch.testing.assert_close(result.native, expected.native, rtol=0, atol=0)
    torch.testing.assert_close(result.heatmap + 0, expected.heatmap, rtol=0, atol=0)


def test_7_frozen_weights_give_the_same_answer(method, net, images):
    expected = call(method, net, images)
    net.requires_grad_(False)
    before = snapshot(net, images)
    torch.testing.assert_close(call(method, net, images).native, expected.native, rtol=0, atol=0)
    assert_same(before, snapshot(net, images))


@pytest.mark.parametrize("channels", [1, 3, 5])
@pytest.mark.parametrize(("n", "size"), [(1, (33, 47)), (2, (48, 32))])
def test_images_of_any_number_of_channels_and_any_shape_are_explained(method, channels, n, size):
    model = toy(channels).eval() if n == 1 else Residual(channels).eval()
    images = pictures(n, size, channels)
    before = snapshot(model, images)
    e = call(method, model, images)
    assert e.heatmap.shape == (n, *size)
    assert e.heatmap.isfinite().all()
    assert e.native.shape[0] == n
    assert_same(before, snapshot(model, images))


def test_half_precision_stays_and_agrees_with_single(method, net, images):
    expected = call(method, net, images)
    half = fresh("residual").bfloat16()
    before = snapshot(half, images.bfloat16())
    e = call(method, half, images.bfloat16())
    assert_same(before, snapshot(half, images.bfloat16()))
    assert e.heatmap.dtype == torch.float32
    assert e.native.isfinite().all()
    both = torch.stack([e.heatmap.flatten(), expected.heatmap.flatten()])
    assert torch.corrcoef(both)[0, 1] > 0.9


def test_nothing_is_printed_or_warned(method, net, images, capsys):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        call(method, net, images)
    assert capsys.readouterr() == ("", "")


@pytest.mark.parametrize("outer", [nullcontext, torch.no_grad])
def test_a_model_in_use_elsewhere_in_a_graph_stays_usable(method, net, images, outer):
    before = net(images).square().sum()
    with outer():
        call(method, net, images)
    before.backward()
    assert net.stem.weight.grad.any()
