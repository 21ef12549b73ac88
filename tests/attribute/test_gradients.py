"""Gradient methods against differences, closed forms and laws, in float64."""

import copy

import numpy as np
import pytest
import torch
from torch import nn

from glasshouse import attribute
from glasshouse.attribute.gradients import nodes
from glasshouse.core import BadInput

GRADIENTS = (attribute.saliency, attribute.input_x_gradient, attribute.integrated_gradients)


def close(found, expected, rtol=1e-10):
    torch.testing.assert_close(found, expected, rtol=rtol, atol=rtol * float(expected.abs().max()))


@pytest.fixture
def exact(cnn) -> nn.Module:
    return cnn.double()


@pytest.fixture
def precise(images) -> torch.Tensor:
    return images.double()


@pytest.fixture
def linear() -> nn.Sequential:
    """Two classes, one weight per input value; the biases should play no part."""
    net = nn.Sequential(nn.Flatten(), nn.Linear(3 * 14 * 18, 2)).double()
    net[1].weight.data.normal_(generator=torch.Generator().manual_seed(1))
    return net.eval()


@pytest.fixture
def homogeneous(exact) -> nn.Module:
    """Doubling the image doubles every logit: ReLU and max-pooling, no biases."""
    for part in exact:
        if getattr(part, "bias", None) is not None:
            part.bias = None
    return exact


class Cubes(nn.Module):
    """First class: the sum of the cubes of all inputs; second: their sum. Counts the images it is shown."""

    shown: list[int] = []  # noqa: RUF012 - shared with the copies that methods run

    def forward(self, images):
        self.shown.append(len(images))
        return torch.stack([images.pow(3).sum((1, 2, 3)), images.sum((1, 2, 3))], 1)


def test_saliency_is_what_a_small_step_changes(exact, precise):
    step, place = 1e-6, torch.Generator().manual_seed(0)
    native = attribute.saliency(exact, precise, 2).native[0]
    for at in torch.randint(precise[0].numel(), (30,), generator=place).tolist():
        moved = precise[:1].repeat(2, 1, 1, 1)
        moved.view(2, -1)[:, at] += torch.tensor([step, -step], dtype=torch.float64)
        up, down = exact(moved)[:, 2].tolist()
        assert native.flatten()[at].item() == pytest.approx((up - down) / (2 * step), rel=1e-5, abs=1e-9)


def test_a_saliency_map_shows_the_strongest_channel_without_its_sign(exact, precise):
    e = attribute.saliency(exact, precise, [0, 1, 2])
    strongest = np.abs(e.native.numpy()).max(1)
    np.testing.assert_allclose(e.heatmap.numpy(), strongest, rtol=1e-6)
    assert (e.native < 0).any()


@pytest.mark.parametrize("score", ["prob", "logprob"])
def test_gradients_of_probabilities_mix_the_classes_as_softmax_does(exact, precise, score):
    # d p_c = p_c (d y_c - sum_k p_k d y_k);  d log p_c lacks the factor p_c.
    p = exact(precise).softmax(1).detach()
    each = torch.stack([attribute.saliency(exact, precise, k).native for k in range(4)], 1)
    expected = each[:, 1] - torch.einsum("nk,nkchw->nchw", p, each)
    if score == "prob":
        expected *= p[:, 1, None, None, None]
    close(attribute.saliency(exact, precise, 1, score=score).native, expected)


@pytest.mark.parametrize("method", [attribute.input_x_gradient, attribute.integrated_gradients])
def test_a_linear_model_is_explained_by_its_terms(method, linear, precise):
    terms = linear[1].weight[1].view(1, 3, 14, 18) * precise
    close(method(linear, precise, 1).native, terms.detach())


def test_a_linear_model_has_its_weights_as_saliency(linear, precise):
    weights = linear[1].weight[1].detach().view(1, 3, 14, 18).expand_as(precise)
    assert torch.equal(attribute.saliency(linear, precise, 1).native, weights)


@pytest.mark.parametrize("settings", [{"n_steps": 1}, {"n_steps": 7, "rule": "midpoint"}])
def test_in_a_homogeneous_net_integrated_gradients_is_input_x_gradient_and_complete(homogeneous, precise, settings):
    # The gradient is the same all along the ray from 0, and Euler's theorem gives the sum.
    path = attribute.integrated_gradients(homogeneous, precise, 3, **settings)
    close(path.native, attribute.input_x_gradient(homogeneous, precise, 3).native)
    close(path.native.sum((1, 2, 3)), homogeneous(precise)[:, 3].detach())
    assert path.extras["gap"].max() < 1e-10


@pytest.mark.parametrize("n", [1, 2, 3, 10, 50, 200])
def test_gauss_legendre_nodes_are_numpys_moved_to_the_unit_interval(n):
    places, weights = nodes("gausslegendre", n)
    theirs, their_weights = np.polynomial.legendre.leggauss(n)
    np.testing.assert_allclose(places.numpy(), (theirs + 1) / 2, rtol=0, atol=1e-13)
    np.testing.assert_allclose(weights.numpy(), their_weights / 2, rtol=0, atol=1e-13)


@pytest.mark.parametrize(
    ("rule", "n_steps", "factor"),
    [
        ("gausslegendre", 2, 1),  # two nodes integrate cubics exactly, so the parabola 3 a^2 too
        ("midpoint", 4, sum(3 * ((k + 0.5) / 4) ** 2 for k in range(4)) / 4),
        ("riemann_right", 4, sum(3 * ((k + 1) / 4) ** 2 for k in range(4)) / 4),
    ],
)
def test_each_rule_integrates_a_cube_as_its_nodes_say(precise, rule, n_steps, factor):
    e = attribute.integrated_gradients(Cubes(), precise, 0, n_steps=n_steps, rule=rule)
    close(e.native, factor * precise**3)
    # Relative to y(x) - y(0) = sum x^3, the sum misses by |factor - 1|.
    gap = torch.full((3,), abs(factor - 1.0), dtype=torch.float64)
    torch.testing.assert_close(e.extras["gap"], gap, rtol=1e-9, atol=1e-12)


def test_a_baseline_other_than_zero_is_where_the_path_starts(precise):
    baseline = torch.linspace(-1, 1, 18, dtype=torch.float64)
    e = attribute.integrated_gradients(Cubes(), precise, 0, baselines=baseline, n_steps=3)
    close(e.native, precise**3 - baseline**3)


def test_integrated_gradients_sum_to_what_the_way_from_the_baseline_changes(exact, precise):
    smooth = nn.Sequential(*(nn.Softplus() if isinstance(part, nn.ReLU) else part for part in exact))
    smooth[2] = nn.AvgPool2d(2)
    change = (smooth(precise) - smooth(torch.full_like(precise, 0.5)))[:, 1].detach()
    e = attribute.integrated_gradients(smooth, precise, 1, baselines=0.5)
    close(e.native.sum((1, 2, 3)), change)
    coarse = attribute.integrated_gradients(smooth, precise, 1, baselines=0.5, n_steps=2, rule="riemann_right")
    missed = (coarse.native.sum((1, 2, 3)) - change).abs() / change.abs()
    close(coarse.extras["gap"], missed)
    assert missed.min() > 1e-3


def test_tripling_the_midpoints_computes_only_the_new_ones(precise):
    net = Cubes()

    def gap(n_steps: int) -> float:
        return attribute.integrated_gradients(net, precise, 0, n_steps=n_steps, rule="midpoint").extras["gap"].max()

    tolerance = float(gap(9) + gap(27)) / 2
    net.shown.clear()
    e = attribute.integrated_gradients(net, precise, 0, n_steps=3, tolerance=tolerance)
    assert sum(net.shown) == (2 + 27) * len(precise)  # both ends, and 3 + 6 + 18 points
    expected = attribute.integrated_gradients(net, precise, 0, n_steps=27, rule="midpoint")
    close(e.native, expected.native)
    assert e.extras["gap"].max() <= tolerance


def test_the_number_of_points_per_pass_changes_nothing(exact, precise):
    whole = attribute.integrated_gradients(exact, precise, n_steps=5, chunk=1000)
    for chunk in (1, 4):
        close(attribute.integrated_gradients(exact, precise, n_steps=5, chunk=chunk).native, whole.native)


def test_the_class_is_that_of_the_image_all_along_the_path(precise):
    # At 0 both logits of Cubes are equal and argmax says 0; near 0 the plain sum is larger.
    small = precise.abs() / 10
    e = attribute.integrated_gradients(Cubes(), small, baselines=3.0, n_steps=4)
    assert e.target == (1, 1, 1)
    close(e.native, small - 3)


@pytest.mark.parametrize("method", GRADIENTS)
def test_a_channel_that_the_model_ignores_gets_exactly_nothing(method, exact, precise):
    exact[0].weight.data[:, 1] = 0
    native = method(exact, precise, 0).native
    assert (native[:, 1] == 0).all()
    assert (native[:, [0, 2]] != 0).any()


class Rewritten(nn.Module):
    """The same function as `cnn` with a norm after its first convolution, computed another way."""

    def __init__(self, net: nn.Sequential, norm: nn.BatchNorm2d):
        super().__init__()
        factor = norm.weight / (norm.running_var + norm.eps).sqrt()
        self.halves = nn.ParameterList([0.25 * factor[:, None, None, None] * net[0].weight] * 1)
        self.halves.append(0.75 * factor[:, None, None, None] * net[0].weight)
        self.bias = nn.Parameter((net[0].bias - norm.running_mean) * factor + norm.bias)
        self.net = net

    def forward(self, images):
        first, second = (nn.functional.conv2d(images, half, padding=1) for half in self.halves)
        x = first.add_(second).add_(self.bias[:, None, None]).relu_()
        x = torch.relu(self.net[3](self.net[2](x)))
        return self.net[-1](x.sum((2, 3)) / x[0, 0].numel())


@pytest.mark.parametrize("method", [*GRADIENTS, attribute.guided_backprop, attribute.deconvnet])
def test_the_way_a_function_is_written_changes_nothing(method, exact, precise):
    # A convolution split in two, a norm folded away, other spellings of ReLU, addition and pooling.
    norm = nn.BatchNorm2d(6).double().eval()
    draw = torch.Generator().manual_seed(3)
    for values in (norm.weight.data, norm.running_mean, norm.running_var):
        values.uniform_(0.5, 1.5, generator=draw)
    net = nn.Sequential(exact[0], norm, *exact[1:]).eval()
    rewritten = Rewritten(copy.deepcopy(exact), norm).eval()
    close(method(rewritten, precise, 2).native, method(net, precise, 2).native)


def test_settings_that_make_no_path_are_refused(cnn, images):
    for settings in ({"n_steps": 0}, {"chunk": 0}):
        with pytest.raises(BadInput, match="must be at least 1"):
            attribute.integrated_gradients(cnn, images, **settings)
    with pytest.raises(BadInput, match=r"baselines of shape \(5,\).*\(3, 3, 14, 18\)"):
        attribute.integrated_gradients(cnn, images, baselines=torch.zeros(5))
