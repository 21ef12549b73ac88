"""What methods cost, counted rather than timed: passes, arithmetic, memory, and what importing them pulls in."""

import subprocess
import sys
from collections.abc import Callable, Mapping
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import flop_registry

from conformance.architectures import Attentive
from glasshouse import attribute  # noqa: F401 - fills the registry
from glasshouse.core import Cost, find_method, list_methods
from glasshouse.core.trace import plain_attention

SIZE = 32


def told(name: str, **settings: Any) -> Cost | None:
    """What a method declares for one image, under its example and other settings; None where only a model knows."""
    info = find_method(name)
    return info.price({**info.defaults, **info.example, **settings}, (2, 3, SIZE, SIZE))


METHODS = [name for name in list_methods("attribute.*") if find_method(name).maps and told(name)]
HEAVY = ("torchvision", "timm", "transformers", "matplotlib", "ray", "fastapi", "sklearn", "scipy.stats")
NOT_IMPORTED = (*HEAVY, "torch._dynamo", "rich")


class Passes:
    """Images that went through, forward and backward. Copies of a network share its counter."""

    def __init__(self):
        self.forward, self.backward = 0, 0

    def __deepcopy__(self, memo: dict[int, Any]) -> "Passes":
        return self


class Counted(nn.Module):
    """A classifier of four classes that counts the images it is given and the rows of gradient it gets back."""

    def __init__(self):
        super().__init__()
        self.passes = Passes()
        self.stem, self.norm = nn.Conv2d(3, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8)
        self.conv, self.relu = nn.Conv2d(8, 8, 3, padding=1), nn.ReLU()
        self.last, self.pool, self.head = nn.Conv2d(8, 8, 3, padding=1), nn.AdaptiveAvgPool2d(1), nn.Linear(8, 4)

    def scores(self, inputs: Tensor) -> Tensor:
        x = self.relu(self.norm(self.stem(inputs)))
        x = self.relu(self.last(self.relu(self.conv(x))))
        return self.head(self.pool(x).flatten(1))

    def forward(self, inputs: Tensor) -> Tensor:
        out = self.scores(inputs)
        self.passes.forward += len(inputs)
        if out.requires_grad:
            out.register_hook(self.count)
        return out

    def count(self, gradient: Tensor) -> None:
        self.passes.backward += len(gradient)


class Watch(TorchDispatchMode):
    """Below autograd: how many multiplications and additions were made, and the bytes of the largest tensor."""

    def __init__(self):
        super().__init__()
        self.operations, self.largest = 0, 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        if count := flop_registry.get(func._overloadpacket):
            self.operations += count(*args, **(kwargs or {}), out_val=out)
        self.largest = max([self.largest, *(leaf.nbytes for leaf in tree_leaves(out) if isinstance(leaf, Tensor))])
        return out


def watched(run: Callable[[], Any]) -> Watch:
    with plain_attention(), Watch() as watch:
        run()
    return watch


class CountedTokens(Counted):
    """The same with attention."""

    def __init__(self):
        super().__init__()
        self.inner = Attentive(classes=4)

    def scores(self, inputs: Tensor) -> Tensor:
        return self.inner(inputs)


@pytest.fixture
def net(name: str) -> Counted:
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(0)
        return (CountedTokens if find_method(name).needs == "attention" else Counted)().eval()


def photos(n: int) -> Tensor:
    return torch.randn(n, 3, SIZE, SIZE, generator=torch.Generator().manual_seed(1))


def ready(name: str, net: Counted, images: Tensor, **settings: Any) -> tuple[Callable[[], Any], Cost]:
    """A call whose plan and geometry are already known, and what the method declares that it costs per image."""
    info = find_method(name)
    chosen: Mapping[str, Any] = {**info.example, **settings}

    def run() -> Any:
        return info.function(net, images, 1, **chosen)

    cost = told(name, **settings)
    assert cost is not None, f"{name} declares no cost"
    run()
    net.passes.forward = net.passes.backward = 0
    return run, cost


@pytest.mark.parametrize("name", METHODS)
def test_a_method_makes_the_passes_that_it_declares(name: str, net: Counted):
    images = photos(2)
    run, cost = ready(name, net, images)
    run()
    assert (net.passes.forward, net.passes.backward) == (cost.forward * len(images), cost.backward * len(images))


OTHERWISE = {
    "channel_attribution": ({}, {"path": "ig", "n_steps": 6}, {"layer": "conv"}),
    "conservation": ({},),
    "deep_lift": ({"baselines": torch.zeros(3, 1, 1, 1, 1)},),
    "expected_gradients": ({"baselines": torch.zeros(5, 3, SIZE, SIZE), "n_samples": 4},),
    "extremal_perturbation": ({"mode": "dual"}, {"areas": 0.1}),
    "grad_cam": ({"layer": "stem"},),
    "integrated_gradients": ({"n_steps": 3, "rule": "midpoint"},),
    "kernel_shap": ({"feature_mask": "grid", "n_regions": 4}, {"feature_mask": "grid", "n_samples": 60}),
    "lime": ({"feature_mask": "grid"},),
    "meaningful_perturbation": ({"game": "preservation", "perturbation": "noise"},),
    "occlusion": ({"sliding_window_shapes": 8, "strides": 5, "edge": "shift"}, {"engine": "dense"}),
    "rise": ({"estimator": "centered", "grid": 3},),
    "score_cam": ({"layer": "stem", "top_k": 3},),
    "smallest_area": ({"n_rounds": 3},),
    "smooth": ({"of": "guided_grad_cam"}, {"of": "lrp"}),
    "spatial_attribution": ({"path": "ig", "n_steps": 6},),
}
"""Settings that ask for other passes than the example does; and methods that give no map."""


@pytest.mark.parametrize(
    ("name", "settings"),
    [
        pytest.param(f"attribute.{short}", settings, id=f"{short}-{'-'.join(settings) or 'example'}")
        for short, several in OTHERWISE.items()
        for settings in several
    ],
)
def test_what_it_declares_follows_the_settings(name: str, settings: dict[str, Any], net: Counted):
    run, cost = ready(name, net, photos(2), **settings)
    run()
    assert net.passes.forward == pytest.approx(cost.forward * 2, rel=0.2)
    assert net.passes.backward == pytest.approx(cost.backward * 2, rel=0.2)


UNTOLD = {
    "ablation_cam": {},  # behind a pooled layer none, else one more for each unit
    "channel_extremal_perturbation": {},  # and one for each unit
    "integrated_gradients": {"tolerance": 0.1},  # as many as it takes
    "score_cam": {"top_k": None},  # one for each unit
    "smooth": {"of": "ablation_cam"},
}
"""What nobody can know from the settings and the shape of an image is not declared; that of tokens has no function."""


def test_what_only_a_model_knows_is_not_declared():
    assert all(told(f"attribute.{short}", **settings) is None for short, settings in UNTOLD.items())
    silent = {name.partition(".")[2] for name in list_methods("attribute.*") if told(name) is None}
    assert silent == {"ablation_cam", "channel_extremal_perturbation", "token_occlusion"}


MORE = {
    "attention_relevance": 1.9,  # the way back through attention leads to both factors of each product
    "attention_rollout": 1.3,
    "eigen_cam": 1.1,  # products of the layer with itself
    "lrp": 1.7,  # z-plus runs each convolution once more, on positive weights
}
"""Methods that need more arithmetic than plain passes, and how much."""


@pytest.mark.parametrize("name", METHODS)
def test_a_method_computes_no_more_than_its_passes_need(name: str, net: Counted):
    # A backward pass to the images alone costs what a forward pass does; gradients of weights would double it.
    images = photos(2)
    run, cost = ready(name, net, images)
    allowed = (cost.forward + cost.backward) * watched(lambda: net(images)).operations
    assert 0 < watched(run).operations <= MORE.get(name.partition(".")[2], 1.02) * allowed


MANY = {
    "deep_lift": ({"baselines": torch.zeros(2, 1, 1, 1, 1)}, {"baselines": torch.zeros(20, 1, 1, 1, 1)}),
    "expected_gradients": ({"n_samples": 16}, {"n_samples": 160}),
    "extremal_perturbation": ({"n_steps": 3}, {"n_steps": 12}),
    "smallest_area": ({"n_steps": 2}, {"n_steps": 20}),
    "score_cam": ({"top_k": 2}, {"top_k": 8}),
    "kernel_shap": ({"n_samples": 32}, {"n_samples": 320}),
    "lime": ({"n_samples": 16}, {"n_samples": 160}),
    "rise": ({"n_masks": 16}, {"n_masks": 160}),
    "meaningful_perturbation": ({"n_steps": 4}, {"n_steps": 40}),
    "spatial_attribution": ({"path": "ig", "n_steps": 16}, {"path": "ig", "n_steps": 160}),
    "integrated_gradients": ({"n_steps": 16}, {"n_steps": 160}),
    "smooth": ({"n_samples": 16}, {"n_samples": 160}),
    "occlusion": (
        {"sliding_window_shapes": 8, "strides": 8},
        {"sliding_window_shapes": 3, "strides": 1},
    ),
}
"""For methods of many passes, settings with few of them and with many."""


@pytest.mark.parametrize("name", METHODS)
def test_no_tensor_grows_with_the_number_of_passes(name: str, net: Counted):
    # Masks, noise and points on a path are made chunk by chunk, so the largest tensor is a chunk's activation.
    few, many = MANY.get(name.partition(".")[2], ({}, {}))
    chunk = {"chunk": 8} if "chunk" in find_method(name).parameters.parameters else {}
    run, cost = ready(name, net, photos(2), **few, **chunk)
    more, more_cost = ready(name, net, photos(2), **many, **chunk)
    assert bool(many) == (more_cost.forward > cost.forward), "say in MANY how to make few and many passes"
    assert many or cost.forward + cost.backward <= 4
    one_chunk = watched(lambda: net(photos(8))).largest
    assert watched(more).largest <= 1.01 * max(watched(run).largest, one_chunk)


def test_importing_the_methods_pulls_in_nothing_heavy():
    command = [sys.executable, "-X", "importtime", "-c", "import glasshouse.core, glasshouse.attribute"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    names = {line.rpartition("|")[2].strip() for line in done.stderr.splitlines() if line.startswith("import time:")}
    assert "glasshouse.attribute" in names
    heavy = {name for name in names for unwanted in NOT_IMPORTED if f"{name}.".startswith(f"{unwanted}.")}
    assert not heavy
