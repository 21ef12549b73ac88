"""Excitation backprop: a derivation by loops, conservation, and what its dual is."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from conformance.architectures import QUICK, fresh, pictures
from glasshouse import attribute
from glasshouse.core import NothingMatched, probe, select

Array = np.ndarray


class Small(nn.Module):
    """Convolution, ReLU, max-pooling, convolution, ReLU, average pooling, linear."""

    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Conv2d(2, 4, 3), nn.Conv2d(4, 3, 2)
        self.head = nn.Linear(3, 5)
        for n, weight in enumerate(self.parameters()):
            nn.init.normal_(weight, generator=torch.Generator().manual_seed(n))
        self.double().eval()

    def forward(self, images: Tensor) -> Tensor:
        x = F.max_pool2d(F.relu(self.first(images)), 2)
        return self.head(F.relu(self.second(x)).mean((2, 3)))


@pytest.fixture
def images() -> Tensor:
    return torch.randn(2, 2, 10, 12, generator=torch.Generator().manual_seed(1)).double()


def walk_down(a: Array, weight: Array, signal: Array) -> Array:
    """One convolution of `c h w`: every output hands its signal to the inputs that excite it, in proportion."""
    _, _, rows, cols = weight.shape
    found = np.zeros_like(a)
    for k, i, j in np.ndindex(*signal.shape):
        window = a[:, i : i + rows, j : j + cols].clip(0) * weight[k].clip(0)
        if window.sum() > 0:
            found[:, i : i + rows, j : j + cols] += window / window.sum() * signal[k, i, j]
    return found


def by_hand(net: Small, image: Tensor, target: int, dual: bool = False) -> Array:
    """What reaches the first pooled maps, `c i j`."""
    with torch.no_grad():
        pooled = F.max_pool2d(F.relu(net.first(image[None])), 2)
        maps = F.relu(net.second(pooled))[0].numpy()
    head = net.head.weight.detach().numpy()[target]
    top = maps.mean((1, 2)) * (-head if dual else head).clip(0)
    signal = top / top.sum() if top.sum() > 0 else 0 * top
    share = np.divide(maps, maps.sum((1, 2), keepdims=True), out=0 * maps, where=maps > 0)
    return walk_down(pooled[0].numpy(), net.second.weight.detach().numpy(), signal[:, None, None] * share)


class Named(Small):
    """With a name for the layer that is looked at."""

    def __init__(self):
        super().__init__()
        self.pool = nn.MaxPool2d(2)

    def forward(self, images: Tensor) -> Tensor:
        x = self.pool(F.relu(self.first(images)))
        return self.head(F.relu(self.second(x)).mean((2, 3)))


def test_a_walk_by_hand_gives_the_same(images):
    net = Named()
    expected = np.stack([by_hand(net, image, 2).sum(0) for image in images])
    found = attribute.excitation_backprop(net, images, 2, layer="pool").native
    np.testing.assert_allclose(found.numpy(), expected, rtol=0, atol=1e-12)


def test_the_contrast_is_what_the_class_has_more_than_its_dual(images):
    net = Named()
    both = [(by_hand(net, image, 2), by_hand(net, image, 2, dual=True)) for image in images]
    expected = np.stack([(ours - dual).sum(0).clip(0) for ours, dual in both])
    found = attribute.contrastive_excitation_backprop(net, images, 2, layer="pool").native
    np.testing.assert_allclose(found.numpy(), expected, rtol=0, atol=1e-12)
    assert found.any()


@pytest.mark.parametrize("target", [0, 1, 2])
def test_all_of_the_probability_arrives_at_layers_of_positive_units(images, target):
    found = attribute.excitation_backprop(Named(), images, target, layer="pool").native
    torch.testing.assert_close(found.sum((1, 2)), torch.ones(2).double())
    assert (found >= 0).all()


def test_the_pixels_are_a_layer_too(images):
    found = attribute.excitation_backprop(Named(), images.abs(), 2, layer=".input")
    assert found.native.shape == (2, 10, 12)
    torch.testing.assert_close(found.native.sum((1, 2)), torch.ones(2).double())
    assert found.layer == ".input"


def test_a_bias_excites_nothing(images):
    shifted, plain = Named(), Named()
    shifted.head.bias.data += 5
    found, expected = (attribute.excitation_backprop(net, images, 1, layer="pool").native for net in (shifted, plain))
    assert torch.equal(found, expected)


def test_a_class_whose_weights_are_opposite_has_no_contrast_with_itself(images):
    # Where two classes have opposite weights, each is the other's dual: their contrasts do not overlap.
    net = Named()
    net.head.weight.data[1] = -net.head.weight.data[2]
    ours, theirs = (attribute.contrastive_excitation_backprop(net, images, k, layer="pool").native for k in (2, 1))
    assert ours.any()
    assert not (ours * theirs).any()


def test_branches_below_zero_get_nothing_or_less_than_nothing():
    class Sum(nn.Module):
        """Two branches, 3 and -1 where x = 1, whose sum a class reads."""

        def __init__(self):
            super().__init__()
            self.left, self.right = nn.Conv2d(1, 1, 1, bias=False), nn.Conv2d(1, 1, 1, bias=False)
            nn.init.constant_(self.left.weight, 3)
            nn.init.constant_(self.right.weight, -1)

        def forward(self, images: Tensor) -> Tensor:
            return (self.left(images) + self.right(images)).flatten(1)

    net, image = Sum().double().eval(), torch.ones(1, 1, 1, 1).double()
    positive, signed = two(net, image, "left")
    assert (positive.item(), signed.item()) == pytest.approx((1, 1.5))
    positive, signed = two(net, image, "right")
    assert (positive.item(), signed.item()) == pytest.approx((0, -0.5))


def two(net: nn.Module, image: Tensor, layer: str) -> tuple[Tensor, ...]:
    ways = ("positive", "signed")
    return tuple(attribute.excitation_backprop(net, image, 0, layer=layer, residual=way).native for way in ways)


def test_a_layer_above_the_classifier_has_no_contrast():
    net = nn.Sequential(
        nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Conv2d(4, 2, 1), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten()
    )
    with pytest.raises(NothingMatched, match="layer '3' does not lie below the last weighted sum"):
        attribute.contrastive_excitation_backprop(net.eval(), pictures(1), 0, layer="3")
    for conv in (net[0], net[2]):
        nn.init.constant_(conv.weight, 0.1)  # so that something is active, and both classes differ
        nn.init.constant_(conv.bias, 1.0)
    nn.init.constant_(net[2].weight[1], 0.0)
    found = attribute.contrastive_excitation_backprop(net.eval(), pictures(1), 0, layer="1").native
    assert found.any()


def test_the_model_keeps_its_weights_when_the_walk_is_interrupted(images):
    net = Named()
    before = [weight.clone() for weight in net.parameters()]

    def stop(output: Tensor) -> Tensor:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        attribute.contrastive_excitation_backprop(net, images, stop, layer="pool")
    assert all(map(torch.equal, before, net.parameters()))


def test_the_score_is_read_but_does_not_scale_the_map(images):
    net = Named()
    e = attribute.excitation_backprop(net, images, 3, layer="pool")
    torch.testing.assert_close(e.score, select(net(images), 3).float())
    again = attribute.excitation_backprop(net, images, 3, layer="pool", score="prob")
    torch.testing.assert_close(again.native, e.native)


@pytest.mark.usefixtures("timm")
@pytest.mark.parametrize("architecture", [*QUICK, pytest.param("mobilenet_v3_small", marks=pytest.mark.slow)])
def test_maps_are_probabilities_in_every_architecture(architecture):
    found = attribute.excitation_backprop(fresh(architecture), pictures(), 3).native
    assert (found >= 0).all()
    assert (found.sum((1, 2)) <= 1 + 1e-5).all()
    assert found.flatten(1).any(1).all()


def test_a_probe_sees_what_the_model_really_computes(images):
    net = Named()
    with probe(net, "pool") as seen:
        expected = net(images)
    e = attribute.excitation_backprop(net, images, [int(k) for k in expected.argmax(1)], layer="pool")
    assert e.native.shape == (2, *seen["pool"].shape[-2:])
