"""Guided backprop and DeconvNet against a backward pass written out by hand, in float64."""

from collections.abc import Callable

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from glasshouse import attribute
from glasshouse.core import NothingMatched, find_method

Array = np.ndarray
Gate = Callable[[Array, Array], Array]

GATES: dict[str, Gate] = {
    "saliency": lambda signal, z: signal * (z > 0),
    "guided_backprop": lambda signal, z: np.maximum(signal, 0) * (z > 0),
    "deconvnet": lambda signal, z: np.maximum(signal, 0),
}
METHODS = [attribute.guided_backprop, attribute.deconvnet]


class Small(nn.Module):
    """Convolution, activation, convolution, activation, max-pooling, linear."""

    def __init__(self, act: Callable = F.relu):
        super().__init__()
        self.act = act
        self.first, self.second = nn.Conv2d(2, 4, 3), nn.Conv2d(4, 3, 2)
        self.head = nn.Linear(3 * 2 * 3, 5)
        draw = torch.Generator().manual_seed(0)
        for weight in self.parameters():
            nn.init.normal_(weight, generator=draw)
        self.double().eval()

    def forward(self, images):
        x = self.act(self.second(self.act(self.first(images))))
        return self.head(F.max_pool2d(x, 2).flatten(1))


def convolve(x: Array, weight: Array, bias: Array) -> Array:
    """Valid convolution of `c h w`, position by position."""
    k, _, rows, cols = weight.shape
    out = np.zeros((k, x.shape[1] - rows + 1, x.shape[2] - cols + 1))
    for i, j in np.ndindex(*out.shape[1:]):
        out[:, i, j] = (weight * x[:, i : i + rows, j : j + cols]).sum((1, 2, 3)) + bias
    return out


def spread(signal: Array, weight: Array) -> Array:
    """The transposed convolution: each position hands its signal to the values that it was computed from."""
    _, c, rows, cols = weight.shape
    out = np.zeros((c, signal.shape[1] + rows - 1, signal.shape[2] + cols - 1))
    for k, i, j in np.ndindex(*signal.shape):
        out[:, i : i + rows, j : j + cols] += signal[k, i, j] * weight[k]
    return out


def unpool(signal: Array, x: Array) -> Array:
    """Each signal goes to the largest of the 2 x 2 values it was pooled from."""
    out = np.zeros_like(x)
    for k, i, j in np.ndindex(*signal.shape):
        window = x[k, 2 * i : 2 * i + 2, 2 * j : 2 * j + 2]
        row, col = np.unravel_index(window.argmax(), window.shape)
        out[k, 2 * i + row, 2 * j + col] = signal[k, i, j]
    return out


def by_hand(net: Small, image: torch.Tensor, target: int, act: Callable[[Array], Array], gate: Gate) -> Array:
    """What comes back at one image when activations let signals through as `gate(signal, z)` says."""
    w = {name: weight.detach().numpy() for name, weight in net.named_parameters()}
    z1 = convolve(image.numpy(), w["first.weight"], w["first.bias"])
    z2 = convolve(act(z1), w["second.weight"], w["second.bias"])
    signal = unpool(w["head.weight"][target].reshape(3, 2, 3), act(z2))
    signal = spread(gate(signal, z2), w["second.weight"])
    return spread(gate(signal, z1), w["first.weight"])


@pytest.fixture
def small_images() -> torch.Tensor:
    return torch.randn(2, 2, 7, 9, generator=torch.Generator().manual_seed(1)).double()


def agree(found: torch.Tensor, expected: list[Array]) -> None:
    np.testing.assert_allclose(found.numpy(), np.stack(expected), rtol=0, atol=1e-10 * np.abs(expected).max())


@pytest.mark.parametrize("name", GATES)
def test_a_backward_pass_by_hand_gives_the_same(name, small_images):
    net = Small()
    expected = [by_hand(net, image, 2, lambda z: np.maximum(z, 0), GATES[name]) for image in small_images]
    agree(getattr(attribute, name)(net, small_images, 2).native, expected)


@pytest.mark.parametrize("spelling", [F.relu6, lambda z: F.hardtanh(z, 0, 6), lambda z: z.clamp(0, 6)])
@pytest.mark.parametrize("name", GATES)
def test_relu6_is_open_between_zero_and_six(name, spelling, small_images):
    net, images = Small(spelling), 2 * small_images

    def gate(signal: Array, z: Array) -> Array:
        return GATES[name](signal, z) if name == "deconvnet" else GATES[name](signal, z) * (z < 6)

    assert (F.conv2d(images, net.first.weight, net.first.bias) > 6).double().mean() > 0.1
    expected = [by_hand(net, image, 2, lambda z: z.clip(0, 6), gate) for image in images]
    agree(getattr(attribute, name)(net, images, 2).native, expected)


def test_guided_on_silu_clamps_the_signal_and_the_slope(small_images):
    def sigmoid(z: Array) -> Array:
        return 1 / (1 + np.exp(-z))

    def gate(signal: Array, z: Array) -> Array:
        slope = sigmoid(z) * (1 + z * (1 - sigmoid(z)))
        return np.maximum(signal, 0) * np.maximum(slope, 0)

    net = Small(F.silu)
    expected = [by_hand(net, image, 1, lambda z: z * sigmoid(z), gate) for image in small_images]
    agree(attribute.guided_backprop(net, small_images, 1, others="guided").native, expected)


def in_place_and_ignored(z):
    z.relu_()
    return z


SPELLINGS = [
    nn.ReLU(),  # one module, used twice
    nn.ReLU(inplace=True),
    lambda z: F.relu(z, inplace=True),
    torch.relu,
    torch.relu_,
    lambda z: z.relu(),
    lambda z: z.relu_(),
    lambda z: z.clamp(min=0),
    lambda z: F.threshold(z, 0, 0),
    in_place_and_ignored,
]


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("act", SPELLINGS)
def test_every_spelling_of_relu_is_seen(method, act, small_images):
    expected = method(Small(), small_images, 3).native
    found = method(Small(act), small_images, 3).native
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)
    assert not torch.allclose(found, attribute.saliency(Small(), small_images, 3).native)


@pytest.mark.parametrize("method", METHODS)
def test_only_positive_signals_pass_below_a_relu(method, small_images):
    net = nn.Sequential(nn.ReLU(), Small()).eval()
    images = small_images.abs() + 0.1  # the first ReLU is open everywhere
    assert (method(net, images, 0).native >= 0).all()
    assert (attribute.saliency(net, images, 0).native < 0).any()
    assert (method(Small(), images, 0).native < 0).any()  # below the first convolution signs return


def test_guided_backprop_is_silent_where_the_gradient_and_deconvnet_agree_that_a_unit_is_off():
    # One unit, z = x - 1: off for x <= 1, exact zero included; DeconvNet does not look at z.
    net = nn.Sequential(nn.Conv2d(1, 1, 1), nn.ReLU(), nn.Flatten(), nn.Linear(3, 1)).double()
    for weight, value in zip(net.parameters(), (1.0, -1.0, 2.0, 0.0), strict=True):
        nn.init.constant_(weight, value)
    image = torch.tensor([0.5, 1.0, 1.5], dtype=torch.float64).view(1, 1, 1, 3)
    assert attribute.guided_backprop(net, image).native.flatten().tolist() == [0, 0, 2]
    assert attribute.deconvnet(net, image).native.flatten().tolist() == [2, 2, 2]


@pytest.mark.parametrize("method", METHODS)
def test_a_net_without_relu_is_refused_and_what_it_has_is_named(method, small_images):
    for others in ("error", "pass"):
        with pytest.raises(NothingMatched, match=r"no relu or relu6 in this model: it has gelu \(2\)"):
            method(Small(F.gelu), small_images, others=others)


@pytest.mark.parametrize("method", METHODS)
def test_an_activation_beside_relu_is_an_error_unless_it_may_pass(method, small_images):
    calls: list[int] = []

    def mixed(z):  # GELU first, then ReLU
        calls.append(1)
        return F.gelu(z) if len(calls) % 2 else F.relu(z)

    with pytest.raises(NothingMatched, match="mixes ReLU with gelu"):
        method(Small(mixed), small_images, 0)
    calls.clear()
    passed = method(Small(mixed), small_images, 0, others="pass").native
    assert passed.abs().sum() > 0


def test_a_leaky_relu_is_named_even_where_guided_rules_may_stand_in(small_images):
    net = nn.Sequential(nn.ReLU(), Small(F.leaky_relu)).eval()
    with pytest.raises(NothingMatched, match="mixes ReLU with leaky_relu"):
        attribute.guided_backprop(net, small_images, 0, others="guided")


@pytest.mark.parametrize("method", METHODS)
def test_a_linear_net_has_its_gradient(method, small_images):
    net = Small(lambda z: 2 * z)
    assert torch.equal(method(net, small_images, 1).native, attribute.saliency(net, small_images, 1).native)


def test_deconvnet_without_max_pooling_does_not_look_at_the_image(small_images):
    convolutions = nn.Sequential(nn.Conv2d(2, 4, 3), nn.ReLU(), nn.Conv2d(4, 3, 2), nn.ReLU(), nn.AvgPool2d(2))
    net = nn.Sequential(*convolutions, nn.Flatten(), nn.Linear(18, 5)).double().eval()
    for weight in net.parameters():
        nn.init.normal_(weight, generator=torch.Generator().manual_seed(0))
    first, second = attribute.deconvnet(net, small_images, 2).native
    assert torch.equal(first, second)
    assert first.abs().sum() > 0
    first, second = attribute.deconvnet(Small(), small_images, 2).native  # the recorded maxima differ
    assert not torch.equal(first, second)


@pytest.mark.parametrize("method", METHODS)
def test_a_channel_that_the_model_ignores_gets_exactly_nothing(method, small_images):
    net = Small()
    net.first.weight.data[:, 1] = 0
    native = method(net, small_images, 0).native
    assert (native[:, 1] == 0).all()
    assert (native[:, 0] != 0).any()


def cosine(a: torch.Tensor, b: torch.Tensor) -> float:
    return float(F.cosine_similarity(a.flatten(), b.flatten(), 0))


def test_guided_backprop_of_a_random_net_is_the_image_with_its_patches_made_equal():
    # Nie, Zhang and Patel (ICML 2018): one random convolution of N units, one random linear layer with spread s.
    # E[w [w.y > 0]] = s y / (|y| sqrt(2 pi)) and E[V+] = s / sqrt(2 pi) give N s s / (2 pi) sum_j D_j^T y_j / |y_j|.
    n_units, window, spread_of_weights, size = 256, 5, 0.1, 16
    draw = torch.Generator().manual_seed(0)
    net = nn.Sequential(
        nn.Conv2d(1, n_units, window, bias=False), nn.ReLU(), nn.Flatten(), nn.Linear(n_units * 12 * 12, 2)
    ).double()
    for weight in net.parameters():
        nn.init.normal_(weight, 0, spread_of_weights, generator=draw)
    image = torch.randn(1, 1, size, size, generator=draw).double()
    patches = F.unfold(image, window)
    equal = F.fold(patches / patches.norm(dim=1, keepdim=True), (size, size), window)
    expected = n_units * spread_of_weights**2 / (2 * np.pi) * equal
    first, second = (attribute.guided_backprop(net, image, k).native for k in (0, 1))
    assert cosine(first, expected) > 0.85
    assert cosine(first, second) > 0.85  # whatever the class
    assert float((first * expected).sum() / expected.square().sum()) == pytest.approx(1, abs=0.05)
    assert abs(cosine(attribute.saliency(net, image, 0).native, expected)) < 0.3
    for name in ("guided_backprop", "deconvnet"):
        info = find_method(name)
        assert not info.class_sensitive
        assert "recovers the image" in info.warning
