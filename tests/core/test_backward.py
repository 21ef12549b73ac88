"""Backward rules: one derivation by hand, and every way of writing a ReLU."""

import warnings

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from glasshouse.core import RELU, RELU6, BadModel, NothingMatched, rules
from glasshouse.core.backward import (
    LEAKY_RELU,
    SMOOTH,
    DeconvReLU,
    DeconvReLU6,
    GuidedReLU,
    GuidedReLU6,
    guided,
    python_module,
)

GUIDED, DECONV = {RELU: GuidedReLU.apply}, {RELU: DeconvReLU.apply}


class Layers(nn.Module):
    """linear, act, linear, act, linear: two activations written as told."""

    def __init__(self, act):
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        self.weights = [torch.randn(s, generator=generator, dtype=torch.float64) for s in ((6, 5), (7, 6), (3, 7))]
        self.act = act

    def forward(self, x: Tensor) -> Tensor:
        for weight in self.weights[:2]:
            x = self.act(x @ weight.T)
        return x @ self.weights[2].T


def by_hand(net: Layers, x: Tensor, k: int, gate, clamp: bool, function) -> Tensor:
    """The signal carried back by matrix products alone, `gate` given the inputs of an activation."""
    before: list[Tensor] = []
    for weight in net.weights[:2]:
        before.append(x @ weight.T)
        x = function(before[-1])
    signal = net.weights[2][k].expand(len(x), -1)
    for weight, z in zip(net.weights[1::-1], before[::-1], strict=True):
        signal = (signal.clamp(min=0) if clamp else signal) * gate(z) @ weight
    return signal


@pytest.fixture
def points() -> Tensor:
    return torch.randn(4, 5, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


def ignored(change):
    """The caller throws away what an in-place call returns, and goes on with its own tensor."""

    def act(x: Tensor) -> Tensor:
        change(x)
        return x

    return act


MODULE = nn.ReLU()
RELUS = {
    "nn.ReLU": MODULE,
    "nn.ReLU in place": nn.ReLU(inplace=True),
    "F.relu": F.relu,
    "F.relu in place": lambda x: F.relu(x, inplace=True),
    "F.relu in place by position": lambda x: F.relu(x, True),
    "F.relu_": F.relu_,
    "torch.relu": torch.relu,
    "torch.relu_": torch.relu_,
    "x.relu()": lambda x: x.relu(),
    "x.relu_()": lambda x: x.relu_(),
    "F.threshold": lambda x: F.threshold(x, 0, 0),
    "F.threshold in place": lambda x: F.threshold(x, 0.0, 0.0, True),
    "nn.Threshold": nn.Threshold(0, 0.0, inplace=True),
    "x.clamp(min=0)": lambda x: x.clamp(min=0),
    "x.clamp_(0)": lambda x: x.clamp_(0),
    "torch.clamp": lambda x: torch.clamp(x, 0.0, None),
    "torch.clamp_min": lambda x: torch.clamp_min(x, 0),
    "x.clamp_min_()": lambda x: x.clamp_min_(0),
    "x.relu_() ignored": ignored(lambda x: x.relu_()),
    "F.relu in place ignored": ignored(lambda x: F.relu(x, inplace=True)),
    "nn.ReLU in place ignored": ignored(nn.ReLU(inplace=True)),
    "clamp_ ignored": ignored(lambda x: x.clamp_(min=0)),
}


@pytest.mark.parametrize("spelling", RELUS)
@pytest.mark.parametrize(
    ("table", "gate"), [(GUIDED, lambda z: (z > 0).double()), (DECONV, torch.ones_like)], ids=["guided", "deconv"]
)
def test_every_way_to_write_a_relu_gives_the_derivation_by_hand(points, spelling, table, gate):
    net = Layers(RELUS[spelling])
    expected = by_hand(net, points, 1, gate, True, F.relu)
    points.requires_grad_()
    with rules(table) as active:
        output = net(points)
    (result,) = torch.autograd.grad(output[:, 1].sum(), points)
    torch.testing.assert_close(output, Layers(F.relu)(points))
    torch.testing.assert_close(result, expected, rtol=1e-12, atol=1e-12)
    assert active.applied == 2
    plain = by_hand(net, points.detach(), 1, lambda z: (z > 0).double(), False, F.relu)
    assert not torch.allclose(result, plain)


RELU6S = {
    "nn.ReLU6": nn.ReLU6(),
    "nn.ReLU6 in place": nn.ReLU6(inplace=True),
    "F.relu6": F.relu6,
    "F.relu6 in place": lambda x: F.relu6(x, inplace=True),
    "F.relu6 by position": lambda x: F.relu6(x, True),
    "F.hardtanh": lambda x: F.hardtanh(x, 0, 6),
    "F.hardtanh in place": lambda x: F.hardtanh(x, min_val=0.0, max_val=6.0, inplace=True),
    "F.hardtanh by position": lambda x: F.hardtanh(x, 0.0, 6.0, True),
    "nn.Hardtanh": nn.Hardtanh(0, 6, inplace=True),
    "clamp": lambda x: x.clamp(0, 6),
    "clamp_ by name": lambda x: x.clamp_(min=0, max=6),
    "clamp_ ignored": ignored(lambda x: x.clamp_(0, 6)),
}


@pytest.mark.parametrize("spelling", RELU6S)
@pytest.mark.parametrize(
    ("rule", "gate"),
    [(GuidedReLU6.apply, lambda z: ((z > 0) & (z < 6)).double()), (DeconvReLU6.apply, torch.ones_like)],
    ids=["guided", "deconv"],
)
def test_every_way_to_write_a_relu6_gives_the_derivation_by_hand(points, spelling, rule, gate):
    net = Layers(RELU6S[spelling])
    points = points * 4
    assert any((points @ net.weights[0].T > 6).flatten())
    expected = by_hand(net, points, 0, gate, True, F.relu6)
    points.requires_grad_()
    with rules({RELU6: rule}):
        output = net(points)
    (result,) = torch.autograd.grad(output[:, 0].sum(), points)
    torch.testing.assert_close(output, Layers(F.relu6)(points))
    torch.testing.assert_close(result, expected, rtol=1e-12, atol=1e-12)


def test_one_module_used_many_times_and_mixed_spellings_count_each_time(points):
    calls = iter([MODULE, lambda x: x.relu_()])
    net = Layers(lambda x: next(calls)(x))
    expected = by_hand(net, points, 2, lambda z: (z > 0).double(), True, F.relu)
    points.requires_grad_()
    with rules(GUIDED):
        output = net(points)
    torch.testing.assert_close(torch.autograd.grad(output[:, 2].sum(), points)[0], expected)


def test_exact_zero_blocks_as_autograd_does():
    value = torch.tensor([0.0, -0.0, 1.0], requires_grad=True)
    with rules(GUIDED):
        output = F.relu(value)
    (result,) = torch.autograd.grad(output.sum(), value)
    assert result.tolist() == [0, 0, 1]


@pytest.mark.parametrize("name", SMOOTH)
def test_the_generalised_rule_clamps_signal_and_slope(name):
    value = torch.linspace(-4, 4, 41, dtype=torch.float64, requires_grad=True)
    signal = torch.randn(41, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    function = SMOOTH[name]
    step = 1e-6  # the slope by differences
    slope = (function(value.detach() + step) - function(value.detach() - step)) / (2 * step)
    with rules({name: guided(function)}):
        output = function(value)
    torch.testing.assert_close(output, function(value))
    (result,) = torch.autograd.grad(output, value, signal)
    expected = signal.clamp(min=0) * slope.clamp(min=0)
    kinks = torch.isclose(value.detach().abs(), torch.tensor(3.0, dtype=torch.float64)) | (value.detach() == 0)
    torch.testing.assert_close(result[~kinks], expected[~kinks], rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize(
    "act",
    [lambda x: F.gelu(x, approximate="tanh"), lambda x: F.elu(x, 0.5, True), lambda x: F.softplus(x, beta=2)],
    ids=["gelu", "elu", "softplus"],
)
def test_an_activation_with_settings_of_its_own_is_not_taken_for_the_usual_one(points, act):
    table = {name: guided(function) for name, function in SMOOTH.items()}
    with pytest.raises(BadModel, match="settings of its own"), rules(table):
        Layers(act)(points)


@pytest.mark.parametrize("act", [nn.ELU(inplace=True), nn.SiLU(inplace=True), nn.GELU(), nn.Hardswish(inplace=True)])
def test_the_generalised_rule_keeps_the_output(points, act):
    with rules({name: guided(function) for name, function in SMOOTH.items()}) as active:
        output = Layers(act)(points)
    torch.testing.assert_close(output, Layers(act)(points))
    assert active.applied == 2


@pytest.mark.parametrize("act", [F.gelu, F.silu, torch.tanh, F.leaky_relu, lambda x: F.hardtanh(x, -1, 1)])
def test_rules_that_met_nothing_are_an_error_that_names_what_there_is(points, act):
    with pytest.raises(
        NothingMatched, match=r"no relu in this model: it has (gelu|silu|tanh|leaky_relu|hardtanh) \(2\)"
    ):
        with rules(GUIDED):
            Layers(act)(points)


def test_gates_are_named_only_where_there_is_nothing_else(points):
    with pytest.raises(NothingMatched, match=r"it has gelu \(2\)\."), rules(GUIDED):
        Layers(lambda x: F.gelu(x) * torch.sigmoid(x))(points)
    with pytest.raises(NothingMatched, match=r"it has sigmoid \(2\)\."), rules(GUIDED):
        Layers(torch.sigmoid)(points)


def test_a_linear_model_needs_no_rule(points):
    points.requires_grad_()
    with rules(GUIDED):
        output = Layers(lambda x: x)(points)
    w1, w2, w3 = Layers(None).weights
    (result,) = torch.autograd.grad(output[:, 0].sum(), points)
    torch.testing.assert_close(result, (w3[0] @ w2 @ w1).expand(4, -1))


def test_clamps_with_other_bounds_are_left_alone():
    value = torch.linspace(-2, 2, 5, requires_grad=True)
    with rules(GUIDED | {RELU6: GuidedReLU6.apply}) as active:
        output = value.clamp(-1, 1) + F.threshold(value, 0.1, 20) + value.clamp(max=0) + F.relu(value)
    assert active.applied == 1
    assert active.seen["clamp"] == 2
    expected = value.clamp(-1, 1) + F.threshold(value, 0.1, 20) + value.clamp(max=0) + F.relu(value)
    torch.testing.assert_close(output, expected)


def test_a_bound_given_as_a_tensor_is_no_relu():
    with pytest.raises(NothingMatched, match="clamp"), rules(GUIDED):
        torch.clamp(torch.ones(3), min=torch.zeros(3))


def test_rules_end_with_the_with_however_it_ends(points):
    points.requires_grad_()
    net = Layers(F.relu)
    plain = torch.autograd.grad(net(points)[:, 1].sum(), points)[0]
    fused = torch.backends.mha.get_fastpath_enabled()
    with rules(GUIDED):
        pass
    for error in (ValueError, KeyboardInterrupt):
        with pytest.raises(error), rules(GUIDED):
            raise error
    torch.testing.assert_close(torch.autograd.grad(net(points)[:, 1].sum(), points)[0], plain, rtol=0, atol=0)
    assert torch.backends.mha.get_fastpath_enabled() == fused


def test_inner_rules_replace_outer_ones(points):
    net = Layers(F.relu)
    expected = by_hand(net, points, 1, lambda z: (z > 0).double(), True, F.relu)
    points.requires_grad_()
    with rules({LEAKY_RELU: F.leaky_relu}) as outer, rules(GUIDED):
        output = net(points)
        F.leaky_relu(points)
    torch.testing.assert_close(torch.autograd.grad(output[:, 1].sum(), points)[0], expected)
    assert outer.seen["leaky_relu"] == 1


def test_rules_work_under_no_grad_for_the_values(points):
    with torch.no_grad(), rules(GUIDED):
        output = Layers(F.relu)(points)
    torch.testing.assert_close(output, Layers(F.relu)(points))


def test_scripted_models_are_refused():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # TorchScript is deprecated
        scripted = torch.jit.script(nn.Sequential(nn.Conv2d(3, 2, 1), nn.ReLU()))
        with pytest.raises(BadModel, match="TorchScript"):
            python_module(scripted)
        with pytest.raises(BadModel, match="'1' is TorchScript"):
            python_module(nn.Sequential(nn.Identity(), scripted))


@pytest.mark.slow
def test_compiled_models_are_unwrapped(cnn):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # importing the compiler uses deprecated parts of torch
        assert python_module(torch.compile(cnn)) is cnn
    assert python_module(cnn) is cnn
