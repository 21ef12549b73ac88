"""Captum, TorchRay and SHAP in float64: agreement on plain module networks, and where they go wrong beyond them."""

import contextlib
import io
import warnings
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from conformance.architectures import Residual, fresh, pictures
from glasshouse import attribute

TARGETS = [3, 7]


@pytest.fixture(scope="module")
def captum(torchvision):
    return pytest.importorskip("captum.attr")


@pytest.fixture
def images() -> Tensor:
    return pictures(2, (32, 32)).double()


@pytest.fixture
def start() -> Tensor:
    return pictures(2, (32, 32), seed=1).double()


@pytest.fixture
def net() -> nn.Module:
    return fresh("toy").double()


def quiet(call, *args: Any, **settings: Any) -> Any:
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
        warnings.simplefilter("ignore")
        return call(*args, **settings)


def theirs(explainer, images: Tensor, **settings: Any) -> Tensor:
    return quiet(explainer.attribute, images, target=TARGETS, **settings).detach()


def agree(found: Tensor, expected: Tensor, tolerance: float = 1e-8) -> None:
    assert expected.abs().max() > 0
    torch.testing.assert_close(found, expected.double(), rtol=0, atol=tolerance * float(expected.abs().max()))


def missed(net: nn.Module, values: Tensor, images: Tensor, start: Tensor) -> float:
    with torch.no_grad():
        change = (net(images) - net(start))[range(2), TARGETS]
    return float(((values.flatten(1).sum(1) - change).abs() / change.abs()).max())


@pytest.fixture
def spaced(net) -> nn.Module:
    """The toy network with a layer that does nothing between its ReLU and its pooling."""
    return nn.Sequential(*net[:3], nn.AvgPool2d(1), *net[3:])


def test_deep_lift_of_a_network_of_modules(captum, spaced, images, start):
    found = attribute.deep_lift(spaced, images, TARGETS, baselines=start).native
    agree(found, theirs(captum.DeepLift(spaced), images, baselines=start), 1e-10)
    assert missed(spaced, found, images, start) < 1e-8


def test_deep_lift_averaged_over_baselines(captum, spaced, images):
    starts = pictures(3, (32, 32), seed=2).double()
    found = attribute.deep_lift(spaced, images, TARGETS, baselines=starts[:, None]).native
    agree(found, theirs(captum.DeepLiftShap(spaced), images, baselines=starts), 1e-10)


def test_captum_goes_wrong_where_pooling_touches_a_relu(captum, net, spaced, images, start):
    # Both are the same function, and Captum's own values differ; those for the pooling behind the ReLU do not add up.
    expected = theirs(captum.DeepLift(spaced), images, baselines=start)
    agree(attribute.deep_lift(net, images, TARGETS, baselines=start).native, expected, 1e-10)
    wrong = theirs(captum.DeepLift(net), images, baselines=start)
    assert missed(net, wrong, images, start) > 0.5
    assert missed(net, expected, images, start) < 1e-8


class Functional(nn.Module):
    """The same network, its ReLUs and its pooling written as functions."""

    def __init__(self, net: nn.Sequential):
        super().__init__()
        self.first, self.norm, self.second, self.head = net[0], net[1], net[4], net[8]

    def forward(self, images: Tensor) -> Tensor:
        x = F.max_pool2d(F.relu(self.norm(self.first(images))), 2)
        return self.head(F.relu(self.second(x)).mean((2, 3)))


def test_captum_does_not_see_functions_and_answers_with_gradient_times_difference(captum, net, images, start):
    # captum issue 1082. What it gives misses the change of the score.
    other = Functional(net).eval()
    expected = attribute.deep_lift(net, images, TARGETS, baselines=start).native
    agree(attribute.deep_lift(other, images, TARGETS, baselines=start).native, expected)
    wrong = theirs(captum.DeepLift(other), images, baselines=start)
    agree(wrong, (images - start) * attribute.saliency(other, images, TARGETS).native)
    assert missed(net, wrong, images, start) > 0.05
    assert missed(net, expected, images, start) < 1e-8


def test_captum_cannot_use_one_relu_twice(captum, images, start):
    net = Residual().double().eval()
    with pytest.raises((RuntimeError, AssertionError, AttributeError, ValueError)):
        theirs(captum.DeepLift(net), images, baselines=start)
    assert missed(net, attribute.deep_lift(net, images, TARGETS, baselines=start).native, images, start) < 1e-8


class Reused(nn.Module):
    """One ReLU, used twice."""

    def __init__(self):
        super().__init__()
        self.first, self.second, self.relu, self.head = (
            nn.Conv2d(3, 4, 3),
            nn.Conv2d(4, 4, 3),
            nn.ReLU(),
            nn.Linear(4, 10),
        )

    def forward(self, images: Tensor) -> Tensor:
        return self.head(self.relu(self.second(self.relu(self.first(images)))).mean((2, 3)))


def test_shap_cannot_use_one_relu_twice_either(torchvision, images, start):
    # shap issues 1479 and 3466.
    shap = pytest.importorskip("shap")
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(0)
        net = Reused().double().eval()
    found = attribute.deep_lift(net, images, TARGETS, baselines=start[:1]).native
    assert missed(net, found, images, start[:1].expand_as(images)) < 1e-8
    with pytest.raises(RuntimeError, match="size of tensor"):
        quiet(shap.DeepExplainer(net, start[:1]).shap_values, images, check_additivity=False)


def test_gradient_shap_without_noise(captum, net, images, start):
    # Captum draws from global generators, so many samples are compared.
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(0)
        expected = theirs(captum.GradientShap(net), images, baselines=start, n_samples=2000, stdevs=0.0)
    found = attribute.expected_gradients(net, images, TARGETS, baselines=start, n_samples=400, chunk=64).native
    assert float((found - expected).norm() / expected.norm()) < 0.1
    assert float(torch.corrcoef(torch.stack([found.flatten(), expected.flatten()]))[0, 1]) > 0.99


@pytest.mark.parametrize("layer", ["3", "5"])
def test_linear_approximation(captum, net, images, layer):
    e = attribute.linear_approximation(net, images, TARGETS, layer=layer)
    agree(e.native, theirs(captum.LayerGradientXActivation(net, net[int(layer)]), images).sum(1))
    pytest.importorskip("torchray")
    from torchray.attribution.linear_approx import linear_approx

    expected = quiet(linear_approx, net, images, torch.tensor(TARGETS), saliency_layer=layer)
    agree(e.native, expected[:, 0].detach())


def test_a_path_at_a_layer(captum, images):
    # Captum's path leads from the layer's values for a baseline image; these are 0 where nothing has a bias.
    net = fresh("toy").double()
    net[0].bias.data.zero_()
    net[1].bias.data.zero_()
    net[1].running_mean.zero_()
    explainer = captum.LayerIntegratedGradients(net, net[3])
    expected = theirs(explainer, images, n_steps=20, method="gausslegendre")
    e = attribute.spatial_attribution(net, images, TARGETS, layer="3", path="ig", n_steps=20)
    agree(e.native, expected.sum(1))
    units = attribute.channel_attribution(net, images, TARGETS, layer="3", path="ig", n_steps=20)
    agree(units.values, expected.sum((2, 3)))
