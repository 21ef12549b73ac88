"""DeepLIFT: by hand, in closed form, and exact on whatever operation a network is made of."""

import math
from itertools import combinations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from conformance.architectures import BUILDERS, QUICK, SIZE, Residual, build, fresh, pictures, toy
from glasshouse import zoo
from glasshouse.attribute import deep_lift
from glasshouse.attribute.multipliers import Pair, chord, log_softmax, max_pool, midpoint, norm, quotient, softmax
from glasshouse.core import BadInput, BadModel


@pytest.fixture(autouse=True)
def same_weights_every_time():
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(0)
        yield


class Of(nn.Module):
    """A function of an image's four pixels as a network of two classes, which weigh the sum of its values."""

    def __init__(self, function):
        super().__init__()
        self.function = function
        self.head = nn.Linear(1, 2)

    def forward(self, images: Tensor) -> Tensor:
        return self.function(images.flatten(1)).reshape(len(images), -1).sum(1, keepdim=True) @ self.head.weight.T


def numbers(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def change(net: nn.Module, images: Tensor, start: Tensor, target: int = 1) -> Tensor:
    with torch.no_grad():
        return (net(images) - net(start))[:, target]


def missed(net: nn.Module, images: Tensor, start: Tensor) -> float:
    """How far the values miss the change of the score, as a share of the values' sizes."""
    values = deep_lift(net, images, 1, baselines=start).native
    miss = values.flatten(1).sum(1) - change(net, images, start)
    return float((miss.abs() / values.flatten(1).abs().sum(1)).max())


def test_on_a_linear_network_it_is_the_gradient_times_the_difference():
    net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.AvgPool2d(2), nn.Flatten(), nn.LazyLinear(5)).double()
    images, start = pictures(2, (9, 8)).double(), pictures(2, (9, 8), seed=1).double()
    net(images)
    weight = torch.autograd.functional.jacobian(lambda x: net(x)[0, 3], images[:1])
    e = deep_lift(net, images, 3, baselines=start)
    torch.testing.assert_close(e.native, (images - start) * weight, rtol=1e-12, atol=1e-12)
    assert float(e.extras["gap"].max()) < 1e-12


def test_multipliers_are_chained_as_in_the_paper():
    # x -> W -> relu -> V -> sigmoid, sec. 3.4 and 3.5.1 written out: m_x = sum over paths of products of ratios.
    net = nn.Sequential(nn.Flatten(), nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 2), nn.Sigmoid()).double()
    first, second = net[1], net[3]
    x, x0 = numbers(4), numbers(4, seed=1)
    hidden, hidden0 = first.weight @ x + first.bias, first.weight @ x0 + first.bias
    out, out0 = second.weight @ hidden.relu() + second.bias, second.weight @ hidden0.relu() + second.bias
    m_relu = (hidden.relu() - hidden0.relu()) / (hidden - hidden0)
    m_sigmoid = (out.sigmoid() - out0.sigmoid())[1] / (out - out0)[1]
    expected = torch.zeros(4, dtype=torch.float64)
    for pixel in range(4):
        for unit in range(3):
            expected[pixel] += m_sigmoid * second.weight[1, unit] * m_relu[unit] * first.weight[unit, pixel]
    e = deep_lift(net, x.view(1, 1, 2, 2), 1, baselines=x0.view(1, 2, 2))
    torch.testing.assert_close(e.native.flatten(), (expected * (x - x0)).detach(), rtol=1e-10, atol=1e-12)


def test_a_product_of_inputs_is_shared_as_shapley_values_share_it():
    net = Of(lambda x: x[:, 0:1] * x[:, 1:2]).double()
    x, x0 = numbers(1, 1, 2, 2), numbers(1, 1, 2, 2, seed=1)

    def worth(players: tuple[int, ...]) -> float:
        mixed = x0.flatten().clone()
        mixed[list(players)] = x.flatten()[list(players)]
        return float(net(mixed.view(1, 1, 2, 2)).detach()[0, 1])

    shapley = torch.zeros(4, dtype=torch.float64)
    for player in range(4):
        others = [p for p in range(4) if p != player]
        for size in range(4):
            weight = math.factorial(size) * math.factorial(3 - size) / math.factorial(4)
            for group in combinations(others, size):
                shapley[player] += weight * (worth((*group, player)) - worth(group))
    e = deep_lift(net, x, 1, baselines=x0)
    torch.testing.assert_close(e.native.flatten(), shapley, rtol=1e-9, atol=1e-12)


def test_two_classes_of_a_softmax_are_the_rescale_rule_of_a_sigmoid():
    z, z0 = numbers(1, 2).requires_grad_(), numbers(1, 2, seed=1)
    p = softmax(Pair(z, z0), 1)
    (slope,) = torch.autograd.grad(p.image[0, 0], z)
    gap, gap0 = z[0, 0] - z[0, 1], z0[0, 0] - z0[0, 1]
    ratio = ((gap.sigmoid() - gap0.sigmoid()) / (gap - gap0)).detach()
    torch.testing.assert_close(slope[0], torch.stack([ratio, -ratio]), rtol=1e-10, atol=1e-12)


ACCOUNTED = {
    "softmax": lambda x: softmax(x, -1),
    "log softmax": lambda x: log_softmax(x, 0),
    "layer norm": lambda x: norm(x, (-1,), 1e-5),
    "square": lambda x: midpoint(torch.square, x),
    "gelu": lambda x: chord(F.gelu, x),
    "quotient": lambda x: quotient(x, chord(torch.exp, x)),
    "max pooling": lambda x: max_pool(
        lambda v: F.max_pool2d(v, 2, 2, return_indices=True), x.map(lambda v: v.view(1, 1, 4, 6))
    ),
    "overlapping max pooling": lambda x: max_pool(
        lambda v: F.max_pool2d(v, 3, 1, 1, return_indices=True), x.map(lambda v: v.view(1, 1, 4, 6))
    ),
}


@pytest.mark.parametrize("scale", [0.0, 1e-9, 1e-4, 1.0, 30.0], ids="change {}".format)
@pytest.mark.parametrize("name", ACCOUNTED)
def test_multipliers_account_for_any_change_of_an_operation(name, scale):
    x0 = numbers(4, 6)
    x = (x0 + scale * numbers(4, 6, seed=1)).requires_grad_()
    out, silent = ACCOUNTED[name](Pair(x, x0))
    weight = numbers(*out.shape, seed=2)
    (slope,) = torch.autograd.grad((out * weight).sum(), x)
    found, expected = (slope * (x - x0)).sum().detach(), ((out - silent) * weight).sum().detach()
    assert slope.isfinite().all()
    torch.testing.assert_close(found, expected, rtol=1e-7, atol=1e-12 * max(1.0, scale))


@pytest.mark.parametrize("name", ACCOUNTED)
def test_without_a_change_multipliers_are_derivatives(name):
    x = numbers(4, 6).requires_grad_()
    out = ACCOUNTED[name](Pair(x, x.detach().clone())).image
    weight = numbers(*out.shape, seed=2)
    (slope,) = torch.autograd.grad((out * weight).sum(), x)
    moved = numbers(4, 6, seed=3)
    step = 1e-6
    ends = [ACCOUNTED[name](Pair(v, v)).image for v in ((x + step * moved).detach(), (x - step * moved).detach())]
    expected = ((ends[0] - ends[1]) * weight).sum() / (2 * step)
    torch.testing.assert_close((slope * moved).sum(), expected, rtol=1e-6, atol=1e-7)


def test_a_maximum_that_rises_is_credited_where_it_is_and_one_that_falls_where_it_was():
    def credit(now: list[float], before: list[float]) -> list[float]:
        x, x0 = (torch.tensor(v).double().view(1, 1, 2, 2) for v in (now, before))
        x.requires_grad_()
        out = max_pool(lambda v: F.max_pool2d(v, 2, return_indices=True), Pair(x, x0)).image
        return (torch.autograd.grad(out.sum(), x)[0] * (x - x0)).flatten().tolist()

    assert credit([5, 1, 0, 0], [0, 3, 0, 0]) == [2, 0, 0, 0]
    assert credit([2, 0, 0, 0], [0, 3, 0, 0]) == [0, -1, 0, 0]
    assert credit([2, 4, 0, 0], [2, 4, 0, 0]) == [0, 0, 0, 0]


FUNCTIONS = {
    "silu by hand": lambda x: x * x.sigmoid(),
    "in place": lambda x: torch.relu_(x - 0.1) + (x * 2).mul_(x),
    "division": lambda x: x / (1 + x.abs()),
    "one over": lambda x: 1 / (2 + x.square()),
    "a power": lambda x: x**3,
    "einsum": lambda x: torch.einsum("ni,nj->nij", x, x.exp()),
    "matmul": lambda x: x[:, :, None] @ x[:, None, :],
    "gate": lambda x: F.hardsigmoid(x[:, :2]) * x[:, 2:],
    "softmax": lambda x: x.softmax(-1) * x,
    "group norm": lambda x: F.group_norm(x[..., None], 2).exp(),
    "layer norm": lambda x: F.layer_norm(x, (4,), torch.arange(4.0).double()),
    "attention": lambda x: F.scaled_dot_product_attention(x[..., None], x[..., None].sin(), x[..., None]),
    "masked attention": lambda x: F.scaled_dot_product_attention(
        x[..., None], x[..., None], x[..., None], attn_mask=torch.ones(4, 4, dtype=torch.bool).tril()
    ),
    "clamp": lambda x: x.clamp(-0.3, 0.4) + x.clamp(min=0),
}


@pytest.mark.parametrize("name", FUNCTIONS)
def test_values_add_up_through_any_operation_that_has_a_rule(name):
    net = Of(FUNCTIONS[name]).double()
    images, start = numbers(3, 1, 2, 2), numbers(3, 1, 2, 2, seed=1)
    assert missed(net, images, start) < 1e-10


@pytest.mark.usefixtures("timm")
@pytest.mark.parametrize(
    "architecture", [pytest.param(name, marks=() if name in QUICK else pytest.mark.slow) for name in BUILDERS]
)
def test_values_add_up_on_every_family_of_networks(architecture):
    images = pictures(1)
    assert missed(build(architecture), images, torch.zeros_like(images)) < 1e-4
    net = fresh(architecture).double()
    assert missed(net, images.double(), pictures(1, seed=1).double()) < 1e-8


@pytest.mark.parametrize("name", ["creatures_cnn", "creatures_vit"])
def test_values_add_up_on_trained_networks(name):
    net = zoo.load(name).module
    images = pictures(2)
    e = deep_lift(net, images)
    assert float(e.extras["gap"].max()) < 1e-4


class Written(nn.Module):
    """A net of two convolutions, its ReLUs written in several ways."""

    def __init__(self, way: str):
        super().__init__()
        self.way, self.relu, self.writing = way, nn.ReLU(), nn.ReLU(inplace=True)
        self.first, self.second, self.head = nn.Conv2d(3, 5, 3), nn.Conv2d(5, 5, 3), nn.Linear(5, 4)

    def rectified(self, x: Tensor) -> Tensor:
        if self.way == "reused module":
            return self.relu(x)
        if self.way == "functional":
            return F.relu(x)
        if self.way == "clamp":
            return x.clamp(min=0)
        if self.way == "in place, its return ignored":
            x.relu_()
            return x
        return self.writing(x)

    def forward(self, images: Tensor) -> Tensor:
        x = self.rectified(self.first(images))
        y = self.second(x)
        y += x[:, :, 1:-1, 1:-1]
        return self.head(self.rectified(y).mean((2, 3)))


@pytest.mark.parametrize("way", ["functional", "clamp", "in place, its return ignored", "in-place module"])
def test_it_does_not_matter_how_a_relu_is_written(way):
    plain, other = Written("reused module").double(), Written(way).double()
    other.load_state_dict(plain.state_dict())
    images, start = pictures(2, (9, 11)).double(), pictures(2, (9, 11), seed=1).double()
    expected = deep_lift(plain, images, 1, baselines=start).native
    torch.testing.assert_close(deep_lift(other, images, 1, baselines=start).native, expected, rtol=1e-9, atol=1e-12)
    assert missed(other, images, start) < 1e-10


class ByHand(nn.Module):
    """What `nn.MultiheadAttention` computes, in single steps."""

    def __init__(self, other: nn.MultiheadAttention):
        super().__init__()
        self.other = other

    def forward(self, tokens: Tensor) -> Tensor:
        joined = F.linear(tokens, self.other.in_proj_weight, self.other.in_proj_bias)
        query, key, value = (part.unflatten(-1, (2, -1)).transpose(1, 2) for part in joined.chunk(3, -1))
        weights = (query @ key.mT / math.sqrt(query.shape[-1])).softmax(-1)
        return self.other.out_proj((weights @ value).transpose(1, 2).flatten(2))


class Tokens(nn.Module):
    def __init__(self, attention: nn.Module):
        super().__init__()
        self.attention = attention

    def forward(self, images: Tensor) -> Tensor:
        tokens = images.flatten(2).mT
        module = isinstance(self.attention, nn.MultiheadAttention)
        out = self.attention(tokens, tokens, tokens)[0] if module else self.attention(tokens)
        return out.mean(1)


def test_attention_is_one_account_whether_it_is_one_operation_or_many():
    attention = nn.MultiheadAttention(6, 2, batch_first=True).double()
    images, start = numbers(2, 6, 3, 3), numbers(2, 6, 3, 3, seed=1)
    one, many = Tokens(attention).eval(), Tokens(ByHand(attention)).eval()
    found = deep_lift(one, images, 1, baselines=start).native
    torch.testing.assert_close(found, deep_lift(many, images, 1, baselines=start).native, rtol=1e-9, atol=1e-12)
    assert missed(one, images, start) < 1e-10


def test_several_baselines_give_the_mean():
    net, images = toy().double().eval(), pictures(2, (20, 16)).double()
    starts = pictures(3, (20, 16), seed=1).double()
    single = [deep_lift(net, images, 2, baselines=start).native for start in starts]
    e = deep_lift(net, images, 2, baselines=starts[:, None])
    torch.testing.assert_close(e.native, torch.stack(single).mean(0), rtol=1e-10, atol=1e-14)
    assert float(e.extras["gap"].max()) < 1e-8


def test_the_baseline_itself_gets_nothing():
    images = pictures(1, (20, 16)).double()
    e = deep_lift(toy().double().eval(), images, 2, baselines=images)
    assert not e.native.any()


@pytest.mark.parametrize("score", ["prob", "logprob"])
def test_probabilities_are_accounted_for_too(score):
    net, images = fresh("toy").double(), pictures(2, (20, 16)).double()
    e = deep_lift(net, images, 2, score=score)
    with torch.no_grad():
        read = F.softmax if score == "prob" else F.log_softmax
        expected = (read(net(images), 1) - read(net(torch.zeros_like(images)), 1))[:, 2]
    torch.testing.assert_close(e.native.flatten(1).sum(1), expected, rtol=1e-8, atol=1e-12)


def test_images_of_one_channel_and_odd_size_are_explained():
    e = deep_lift(Residual(1).double().eval(), pictures(2, (33, 47), channels=1).double())
    assert e.native.shape == (2, 1, 33, 47)
    assert float(e.extras["gap"].max()) < 1e-8


@pytest.mark.parametrize(
    ("name", "function"),
    [
        ("sort", lambda x: x.sort(1)[0]),
        ("cumprod", lambda x: x.cumprod(1)),
        ("norm", lambda x: x.norm(dim=1)),
        ("linear", lambda x: F.linear(x, x)),
        ("einsum", lambda x: torch.einsum("ni,ni,ni->n", x, x, x)),
    ],
)
def test_an_operation_without_a_rule_is_named(name, function):
    with pytest.raises(BadModel, match=f"no rule for '{name}'"):
        deep_lift(Of(function).double(), numbers(2, 1, 2, 2))


def test_a_model_that_runs_differently_on_the_baseline_is_refused():
    class Choosy(nn.Module):
        def forward(self, images: Tensor) -> Tensor:
            flat = images.flatten(1)
            return flat.tanh() if images.sum() > 0 else flat.exp()

    with pytest.raises(BadModel, match=r"differently on the image \(tanh\) and on the baseline \(exp\)"):
        deep_lift(Choosy(), torch.ones(1, 1, 2, 2), 0)


def test_baselines_that_do_not_fit_are_refused():
    with pytest.raises(BadInput, match="do not broadcast"):
        deep_lift(toy().eval(), pictures(2, (SIZE, SIZE)), baselines=torch.zeros(3, 5, 5))
