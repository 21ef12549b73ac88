"""What methods promise of their values, held against every method that promises it.

The promises are those of `Claim`; the networks here are made so that each promise can be checked without knowing how
any method works.
"""

import copy
from typing import get_args

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from glasshouse import attribute  # noqa: F401 - fills the registry
from glasshouse.core import Claim, Explanation, Info, find_method, list_methods

METHODS = [info for name in list_methods("attribute.*") if (info := find_method(name)).maps]
TARGET = 1


def claimed(claim: Claim) -> pytest.MarkDecorator:
    return pytest.mark.parametrize(
        "info", [info for info in METHODS if claim in info.claims], ids=lambda info: info.short
    )


def call(info: Info, net: nn.Module, images: Tensor, target: int | Tensor = TARGET, **settings: str) -> Explanation:
    return info.function(net, images, target, **{**info.example, **settings})


def close(a: Tensor, b: Tensor, tolerance: float = 1e-4) -> None:
    torch.testing.assert_close(a, b, rtol=tolerance, atol=tolerance * float(b.abs().max()))


class Net(nn.Module):
    """Two convolutions and a norm over a circular image, average pooling, one linear layer; nothing knows its place."""

    def __init__(self):
        super().__init__()
        self.first = nn.Conv2d(3, 6, 3, padding=1, padding_mode="circular")
        self.norm = nn.BatchNorm2d(6)
        self.second = nn.Conv2d(6, 8, 3, padding=1, padding_mode="circular")
        self.relu, self.last = nn.ReLU(), nn.ReLU()
        self.head = nn.Linear(8, 4)

    def forward(self, inputs: Tensor) -> Tensor:
        x = self.relu(self.norm(self.first(inputs)))
        return self.head(self.last(self.second(x)).mean((2, 3)))


class Rewritten(nn.Module):
    """The same function: the norm multiplied in, one convolution as the sum of two, activations as functions."""

    def __init__(self, net: Net):
        super().__init__()
        factor = net.norm.weight / (net.norm.running_var + net.norm.eps).sqrt()
        self.first = copy.deepcopy(net.first)
        self.first.weight.data = net.first.weight.data * factor[:, None, None, None]
        self.first.bias.data = (net.first.bias - net.norm.running_mean) * factor + net.norm.bias
        self.left, self.right = copy.deepcopy(net.second), copy.deepcopy(net.second)
        share = torch.rand(net.second.weight.shape, generator=torch.Generator().manual_seed(3))
        self.left.weight.data = net.second.weight.data * share
        self.right.weight.data = net.second.weight.data * (1 - share)
        self.left.bias.data.zero_()
        self.last, self.head = nn.ReLU(), net.head

    def forward(self, inputs: Tensor) -> Tensor:
        x = F.relu(self.first(inputs))
        return F.linear(self.last(self.left(x) + self.right(x)).mean((2, 3)), self.head.weight, self.head.bias)


class Crowd(nn.Module):
    """Every pixel by itself, then their mean: no pixel can be told from another."""

    def __init__(self):
        super().__init__()
        self.first, self.second, self.head = nn.Conv2d(3, 6, 1), nn.Conv2d(6, 8, 1), nn.Linear(8, 4)
        self.relu, self.last = nn.ReLU(), nn.ReLU()

    def forward(self, inputs: Tensor) -> Tensor:
        return self.head(self.last(self.second(self.relu(self.first(inputs)))).mean((2, 3)))


@pytest.fixture(scope="module")
def crowd() -> Crowd:
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(0)
        return Crowd().eval().requires_grad_(False)


@pytest.fixture(scope="module")
def net() -> Net:
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(0)
        net = Net().eval().requires_grad_(False)
        nn.init.uniform_(net.norm.weight, 0.5, 2.0)
        nn.init.normal_(net.norm.running_mean, std=0.2)
        nn.init.normal_(net.head.weight)
    return net


@pytest.fixture
def images() -> Tensor:
    return torch.randn(2, 3, 16, 20, generator=torch.Generator().manual_seed(0))


@claimed("complete")
def test_what_is_complete_sums_to_a_difference_of_scores(info, net, images):
    e = call(info, net.double(), images.double())
    with torch.no_grad():
        change = (net(images.double()) - net(torch.zeros_like(images).double()))[:, TARGET]
    net.float()
    total = e.native.flatten(1).sum(1)
    assert ((total - change).abs() <= 0.05 * change.abs()).all()


@claimed("dummy")
def test_what_the_network_ignores_gets_nothing_and_changes_nothing(info, net, images):
    blind = copy.deepcopy(net)
    blind.first.weight[:, 1] = 0
    other = images.clone()
    other[:, 1] = images[:, 1].flip(1)  # other values in other places, within the same range
    seen, again = call(info, blind, images), call(info, blind, other)
    if seen.native.ndim == 4 and seen.native.shape[1] == 3:
        assert not seen.native[:, 1].any()
    close(again.heatmap, seen.heatmap)
    assert seen.heatmap.any()


@claimed("implementation")
def test_the_same_function_written_in_another_way_gets_the_same_values(info, net, images):
    other = Rewritten(net).eval()
    close(other(images), net(images))
    close(call(info, other, images).heatmap, call(info, net, images).heatmap, 1e-3)


@claimed("silent")
def test_a_network_that_always_answers_the_same_gets_zeros(info, net, images):
    constant = copy.deepcopy(net)
    constant.head.weight.zero_()
    e = call(info, constant, images)
    assert not e.heatmap.any()
    assert e.heatmap.isfinite().all()


@claimed("equivariant")
def test_the_map_of_a_shifted_image_is_shifted(info, net, images):
    shifted = images.roll((4, -6), (2, 3))
    close(call(info, net, shifted).heatmap, call(info, net, images).heatmap.roll((4, -6), (1, 2)), 1e-3)


@claimed("linear")
def test_the_values_for_a_weighted_sum_of_scores_are_the_weighted_sum_of_values(info, net, images):
    one, other = torch.randn(2, 2, 4, generator=torch.Generator().manual_seed(5))
    first, second, both = (
        call(info, net, images, weights, score="logit").native for weights in (one, other, 2 * one - 0.5 * other)
    )
    close(both, 2 * first - 0.5 * second)
    assert not torch.allclose(first, second, rtol=0.1)


@claimed("symmetric")
def test_pixels_that_cannot_be_told_apart_get_the_same_values(info, crowd, images):
    twins = images.clone()
    twins[:, :, 3, 4] = twins[:, :, 12, 15]
    swapped = twins.flatten(2)[:, :, torch.randperm(320, generator=torch.Generator().manual_seed(1))].view_as(twins)
    close(crowd(swapped), crowd(twins))
    values = call(info, crowd, twins).native
    close(values[:, :, 3, 4], values[:, :, 12, 15])
    assert not torch.allclose(values[:, :, 3, 4], values[:, :, 3, 5], rtol=0.1)


@claimed("input_invariant")
def test_a_constant_that_the_first_layer_takes_away_changes_nothing(info, net, images):
    constant = torch.tensor([0.7, -0.4, 1.1])
    other = copy.deepcopy(net)
    other.first.bias -= (net.first.weight.sum((2, 3)) * constant).sum(1)
    moved = images + constant[:, None, None]
    close(other(moved), net(images))
    close(call(info, other, moved).heatmap, call(info, net, images).heatmap, 1e-3)


@pytest.mark.parametrize("claim", get_args(Claim))
def test_every_promise_is_made_by_some_method(claim):
    assert any(claim in info.claims for info in METHODS)
