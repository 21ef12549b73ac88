"""LRP against a dense derivation by loops in float64, its laws, and every operation it knows."""

import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from conformance.architectures import BUILDERS, CLASSES, QUICK, Residual, fresh, pictures
from glasshouse import attribute
from glasshouse.attribute import Conservation, relevance
from glasshouse.core import BadModel, NothingMatched

Array = np.ndarray
EVERY = [pytest.param(name, marks=() if name in QUICK else pytest.mark.slow) for name in BUILDERS]
PRESETS = [
    "epsilon_plus",
    "epsilon_plus_flat",
    "epsilon_gamma_box",
    "epsilon_alpha2_beta1",
    "epsilon_alpha2_beta1_flat",
    "epsilon",
    "zero",
]


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)).double()


def filled(net: nn.Module, biases: bool = True) -> nn.Module:
    """Random weights, the same for every net of this form."""
    for n, (name, weight) in enumerate(net.named_parameters()):
        weight.data = draw(*weight.shape, seed=n) * (biases or not name.endswith("bias"))
    return net.double().eval()


class Block(nn.Module):
    """Convolution, ReLU, a residual addition, ReLU, average pooling, linear."""

    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Conv2d(2, 3, 3, padding=1, stride=2), nn.Conv2d(3, 3, 3, padding=1)
        self.head = nn.Linear(3 * 2, 4)

    def forward(self, images: Tensor) -> Tensor:
        x = F.relu(self.first(images))
        x = F.relu(x + self.second(x))
        return self.head(F.avg_pool2d(x, 2).flatten(1))


# ---- a second derivation: every layer as a dense matrix of contributions, every rule as a loop over it


def dense(layer: Callable[[Tensor], Tensor], x: Array) -> tuple[Array, Array]:
    """The matrix `w[j, i]` and bias of a layer, read off by feeding it one unit vector after the other."""
    zero = torch.zeros(1, *x.shape, dtype=torch.float64)
    bias = layer(zero).detach().flatten().numpy()
    rows = []
    for i in range(x.size):
        one = zero.clone()
        one.view(-1)[i] = 1
        rows.append(layer(one).detach().flatten().numpy() - bias)
    return np.stack(rows, 1), bias


def sign(z: float) -> float:
    return 1.0 if z >= 0 else -1.0


def shared_out(z: Array, b: float, r: float, epsilon: float = 1e-6) -> Array:
    """`z_i / (sum z + b + epsilon sign) * r` for the contributions to one output."""
    total = z.sum() + b
    denominator = total + epsilon * sign(total)
    return z / denominator * r if denominator else 0 * z


def rule(name: str, x: Array, w: Array, b: Array, r: Array, epsilon: float = 1e-6) -> Array:
    """Relevance of every input by a rule of the literature, one output after the other."""
    found = np.zeros(x.size)
    for j in range(len(w)):
        z, bias = x.flatten() * w[j], float(b[j])
        if name == "epsilon":
            found += shared_out(z, bias, r[j], epsilon)
        elif name == "z_plus":
            found += shared_out(z.clip(0), max(bias, 0), r[j])
        elif name == "alpha_beta":
            found += 2 * shared_out(z.clip(0), max(bias, 0), r[j])
            found -= 1 * shared_out(z.clip(max=0), min(bias, 0), r[j])
        elif name == "gamma":
            if z.sum() + bias > 0:
                found += shared_out(z + 0.25 * z.clip(0), bias + 0.25 * max(bias, 0), r[j])
            else:
                found += shared_out(z + 0.25 * z.clip(max=0), bias + 0.25 * min(bias, 0), r[j])
        elif name == "flat":
            found += shared_out((w[j] != 0).astype(float), 0, r[j])
        elif name == "w_square":
            found += shared_out(w[j] ** 2, bias**2, r[j])
        elif name == "z_box":
            found += shared_out(z - (-3) * w[j].clip(0) - 3 * w[j].clip(max=0), 0, r[j])
    return found.reshape(x.shape)


RULES = {
    "epsilon_plus": ("z_plus", "z_plus"),
    "epsilon_plus_flat": ("flat", "z_plus"),
    "epsilon_gamma_box": ("z_box", "gamma"),
    "epsilon_alpha2_beta1": ("alpha_beta", "alpha_beta"),
    "epsilon_alpha2_beta1_flat": ("flat", "alpha_beta"),
    "epsilon": ("epsilon", "epsilon"),
    "zero": ("epsilon", "epsilon"),
}


def by_hand(net: Block, image: Array, target: int, first: str, convolution: str, epsilon: float) -> Array:
    """Relevance of one image, layer by layer from the score down."""

    def run(layer: Callable[[Tensor], Tensor], x: Array) -> Array:
        return layer(torch.as_tensor(x)[None])[0].detach().numpy()

    def pool(x: Tensor) -> Tensor:
        return F.avg_pool2d(x, 2)

    a = run(net.first, image).clip(0)
    added = a + run(net.second, a)
    b = added.clip(0)
    pooled = run(pool, b)
    score = float(net.head.weight[target].detach().numpy() @ pooled.flatten() + net.head.bias[target].item())

    weight = net.head.weight.detach().numpy()[target : target + 1]
    r = rule("epsilon", pooled, weight, net.head.bias.detach().numpy()[target:], np.array([score]), epsilon)
    r = rule("epsilon", b, *dense(pool, b), r.flatten(), epsilon)
    branch, skip = np.zeros_like(a), np.zeros_like(a)
    for at in np.ndindex(*a.shape):
        skip[at], branch[at] = shared_out(np.array([a[at], added[at] - a[at]]), 0, r[at], epsilon)
    r = skip + rule(convolution, a, *dense(net.second, a), branch.flatten(), epsilon)
    return rule(first, image, *dense(net.first, image), r.flatten(), epsilon)


@pytest.mark.parametrize("preset", PRESETS)
def test_a_derivation_by_loops_over_dense_matrices_gives_the_same(preset):
    net, images = filled(Block()), draw(2, 2, 4, 8, seed=9)
    box = {"low": -3.0, "high": 3.0} if "box" in preset else {}
    found = attribute.lrp(net, images, 2, preset=preset, **box).native.numpy()
    epsilon = 0.0 if preset == "zero" else 1e-6
    expected = np.stack([by_hand(net, image, 2, *RULES[preset], epsilon) for image in images.numpy()])
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-9 * np.abs(expected).max())


def test_rules_may_be_given_by_layer_and_by_kind():
    net, images = filled(Block()), draw(1, 2, 4, 8, seed=9)
    rules = {"first": relevance.w_square(), "sec*": relevance.gamma(), "linear": relevance.epsilon()}
    found = attribute.lrp(net, images, 1, rules=rules).native[0].numpy()
    expected = by_hand(net, images[0].numpy(), 1, "w_square", "gamma", 1e-6)
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-9 * np.abs(expected).max())


def test_a_rule_for_a_layer_that_is_not_there_is_an_error():
    with pytest.raises(NothingMatched, match="called 'third'"):
        attribute.lrp(filled(Block()), draw(1, 2, 4, 8), rules={"third": relevance.flat()})


def test_alpha_one_beta_zero_is_z_plus():
    net, images = filled(Block()), draw(1, 2, 4, 8)
    rules = {"convolution": relevance.alpha_beta(1.0, 0.0)}
    plus = attribute.lrp(net, images, 0)
    assert torch.equal(attribute.lrp(net, images, 0, rules=rules).native, plus.native)


def test_an_unbounded_box_takes_the_extremes_of_each_image():
    net, images = filled(Block()), draw(2, 2, 4, 8)
    low, high = images.amin((2, 3), keepdim=True), images.amax((2, 3), keepdim=True)
    free = attribute.lrp(net, images, 0, preset="epsilon_gamma_box")
    given = attribute.lrp(net, images, 0, preset="epsilon_gamma_box", low=low, high=high)
    assert torch.equal(free.native, given.native)


# ---- laws


def gradient_times_input(net: nn.Module, images: Tensor, target: int) -> Tensor:
    return attribute.input_x_gradient(net, images, target).native


def test_the_zero_rule_on_a_net_without_biases_is_gradient_times_input():
    net, images = filled(Block(), biases=False), draw(2, 2, 4, 8)
    found = attribute.lrp(net, images, 3, preset="zero").native
    expected = gradient_times_input(net, images, 3)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-5 * float(expected.abs().max()))


class Applied(nn.Module):
    """A function of maps `n 2 4 6` between two convolutions without biases."""

    def __init__(self, function: Callable[[Tensor], Tensor], channels: int = 2):
        super().__init__()
        self.function = function
        self.before, self.after = nn.Conv2d(2, 2, 1, bias=False), nn.LazyLinear(3, bias=False)
        self.after(function(torch.zeros(1, 2, 4, 6)).flatten(1))

    def forward(self, images: Tensor) -> Tensor:
        return self.after(self.function(self.before(images)).flatten(1))


W = {shape: draw(*shape, seed=7).float() for shape in [(3, 2, 3), (3, 2, 3, 3), (3, 2, 1, 3, 3), (4, 1, 3, 3), (6, 5)]}


def w(*shape: int, like: Tensor) -> Tensor:
    return W[shape].to(like)


LINEAR: dict[str, Callable[[Tensor], Tensor]] = {
    "conv1d": lambda x: F.conv1d(x.flatten(2), w(3, 2, 3, like=x), padding=1),
    "conv2d stride": lambda x: F.conv2d(x, w(3, 2, 3, 3, like=x), stride=2, padding=1),
    "conv2d same": lambda x: F.conv2d(x, w(3, 2, 3, 3, like=x), padding="same", dilation=2),
    "conv2d groups": lambda x: F.conv2d(x, w(4, 1, 3, 3, like=x), groups=2),
    "conv2d by name": lambda x: F.conv2d(input=x, weight=w(3, 2, 3, 3, like=x), bias=None),
    "conv3d": lambda x: F.conv3d(x[:, :, None], w(3, 2, 1, 3, 3, like=x)),
    "conv_transpose2d": lambda x: F.conv_transpose2d(x, w(3, 2, 3, 3, like=x).transpose(0, 1), stride=2),
    "linear": lambda x: F.linear(x, w(6, 5, like=x).T),
    "matmul": lambda x: x @ w(6, 5, like=x),
    "matmul from the left": lambda x: w(6, 5, like=x).T @ x.transpose(2, 3),
    "einsum": lambda x: torch.einsum("ncij,jk->nkci", x, w(6, 5, like=x)),
    "einsum from the left": lambda x: torch.einsum("jk,ncij->nkci", w(6, 5, like=x), x),
    "addmm": lambda x: torch.addmm(torch.zeros(5).to(x), x.flatten(0, 2), w(6, 5, like=x)).view(len(x), -1),
    "sum": lambda x: x.sum(2),
    "mean": lambda x: x.mean((2, 3)),
    "avg_pool2d": lambda x: F.avg_pool2d(x, 2),
    "adaptive_avg_pool2d": lambda x: F.adaptive_avg_pool2d(x, (3, 2)),
    "interpolate": lambda x: F.interpolate(x, scale_factor=2.0, mode="bilinear"),
    "add": lambda x: x + x.flip(1),
    "add with alpha": lambda x: torch.add(x, x.flip(1), alpha=2),
    "subtract": lambda x: x - 2 * x.flip(1),
    "subtract from zero": lambda x: 0 - x,
    "negative": lambda x: -x,
    "scaled": lambda x: 3 * x / 2,
    "affine": lambda x: torch.addcmul(torch.zeros(1).to(x), torch.tensor([2.0]).to(x), x),
    "layer scale": lambda x: x * torch.tensor([2.0, -1.0]).to(x)[:, None, None],
    "broadcast": lambda x: x[:, :1] * torch.tensor([2.0, -1.0]).to(x)[:, None, None],
    "cat": lambda x: torch.cat([x, x.relu()], 1),
    "stack": lambda x: torch.stack([x, x], 2),
    "chunk": lambda x: x.chunk(2, 3)[1],
    "split": lambda x: torch.cat(x.split(1, 1)[::-1], 1),
    "roll": lambda x: x.roll((1, 2), (2, 3)),
    "index": lambda x: x[:, :, 1:, ::2],
    "pad": lambda x: F.pad(x, (1, 2, 0, 1)),
    "reflect": lambda x: F.pad(x, (1, 1, 1, 1), mode="reflect"),
    "permute": lambda x: x.permute(0, 2, 3, 1).reshape(len(x), 4, -1),
    "view and transpose": lambda x: x.view(len(x), 2, 2, 2, 6).transpose(1, 2).contiguous(),
    "pixel_shuffle": lambda x: F.pixel_unshuffle(x, 2),
    "where": lambda x: torch.where(torch.arange(6) < 4, x, torch.zeros(6).to(x)),
    "relu": F.relu,
    "relu6": lambda x: F.relu6(x / 100),
    "leaky": lambda x: F.leaky_relu(x).clamp(min=0),
    "max_pool2d": lambda x: F.max_pool2d(x, 2),
    "max": lambda x: x.amax(3),
    "dropout": lambda x: F.dropout(x, 0.5, training=False),
}


@pytest.mark.parametrize("name", LINEAR)
def test_the_zero_rule_of_every_operation_without_constants_is_gradient_times_input(name):
    net, images = filled(Applied(LINEAR[name])), draw(2, 2, 4, 6, seed=3)
    found = attribute.lrp(net, images, 1, preset="zero").native
    if name == "leaky":  # all relevance passes an activation; slopes do not matter where it is the identity
        net = filled(Applied(F.relu))
    expected = gradient_times_input(net, images, 1)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-9 * float(expected.abs().max()))


@pytest.mark.parametrize("name", LINEAR)
def test_every_operation_conserves_relevance(name):
    net, images = filled(Applied(LINEAR[name])), draw(2, 2, 4, 6, seed=3)
    report = attribute.conservation(net, images, 1)
    assert abs(report.gap) < 1e-9 * abs(report.start)


# ---- ways of writing the same network


def spelled(relu: Callable[[Tensor], Tensor], add: Callable[[Tensor, Tensor], Tensor]) -> Block:
    class Spelled(Block):
        def forward(self, images: Tensor) -> Tensor:
            x = relu(self.first(images))
            x = relu(add(self.second(x), x))
            return self.head(F.avg_pool2d(x, 2).flatten(1))

    return filled(Spelled())


def added_and_ignored(a: Tensor, b: Tensor) -> Tensor:
    a.add_(b)
    return a


def relu_and_ignored(z: Tensor) -> Tensor:
    F.relu(z, inplace=True)
    return z


def added_into_what_was_read(a: Tensor, b: Tensor) -> Tensor:
    b += a  # b is the input of the convolution that made a
    return b


RELUS = [nn.ReLU(), nn.ReLU(inplace=True), torch.relu_, lambda z: z.clamp(min=0), relu_and_ignored]
ADDS = [lambda a, b: a + b, torch.add, added_and_ignored, added_into_what_was_read]


@pytest.mark.parametrize("preset", ["epsilon_gamma_box", "epsilon"])
@pytest.mark.parametrize("add", ADDS)
@pytest.mark.parametrize("relu", RELUS)
def test_every_spelling_of_a_network_has_the_same_relevance(relu, add, preset):
    images = draw(2, 2, 4, 8)
    expected = attribute.lrp(filled(Block()), images, 2, preset=preset).native
    found = attribute.lrp(spelled(relu, add), images, 2, preset=preset).native
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("preset", ["epsilon_plus", "epsilon_gamma_box", "epsilon"])
def test_norms_are_folded_whether_the_model_can_be_copied_or_not(preset):
    net, images = fresh("residual").double(), pictures().double()
    expected = attribute.lrp(net, images, 3, preset=preset).native
    handle = net.stem.register_forward_hook(lambda *_: None)  # so that the model itself is run
    found = attribute.lrp(net, images, 3, preset=preset).native
    handle.remove()
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-9 * float(expected.abs().max()))


def test_weights_that_ask_for_gradients_are_no_signal():
    class Standardised(Block):
        def forward(self, images: Tensor) -> Tensor:
            weight = self.second.weight - self.second.weight.mean((1, 2, 3), keepdim=True)
            x = F.relu(self.first(images))
            x = F.relu(x + F.conv2d(x, weight, self.second.bias, padding=1))
            return self.head(F.avg_pool2d(x, 2).flatten(1))

    net, images = filled(Standardised()), draw(1, 2, 4, 8)
    expected = attribute.lrp(net, images, 0).native
    handle = net.first.register_forward_hook(lambda *_: None)
    assert all(weight.requires_grad for weight in net.parameters())
    torch.testing.assert_close(attribute.lrp(net, images, 0).native, expected)
    handle.remove()


# ---- norms, gates, attention


def test_a_lone_batch_norm_absorbs_by_its_shift_or_passes():
    net = nn.Sequential(nn.BatchNorm2d(2), nn.ReLU(), nn.Flatten(), nn.Linear(2, 1, bias=False)).double().eval()
    net[0].running_mean.copy_(torch.tensor([1.0, -1.0]))
    net[0].weight.data, net[3].weight.data = torch.tensor([2.0, 1.0]).double(), torch.tensor([[1.0, 3.0]]).double()
    image = torch.tensor([3.0, 4.0]).double().view(1, 2, 1, 1)
    z = torch.tensor([2 * (3 - 1), 1 * (4 + 1)]).double() / math.sqrt(1 + 1e-5)
    r = torch.tensor([1.0, 3.0]).double() * z
    passed = attribute.lrp(net, image, 0, bn="pass", epsilon=1e-12).native.flatten()
    torch.testing.assert_close(passed, r, rtol=1e-9, atol=0)
    shares = torch.tensor([2 * 3.0, 1 * 4.0]).double() / math.sqrt(1 + 1e-5) / z
    torch.testing.assert_close(
        attribute.lrp(net, image, 0, epsilon=1e-12).native.flatten(), shares * r, rtol=1e-9, atol=0
    )


def conserved(net: nn.Module, images: Tensor) -> Conservation:
    report = attribute.conservation(net, images, 1)
    assert abs(report.gap) < 1e-9 * max(abs(report.start), float(report.received.abs().max()))
    return report


def test_a_gate_gets_nothing_and_two_equal_factors_get_half_each():
    gated, images = filled(Applied(lambda x: x * x.mean((2, 3), keepdim=True).sigmoid())), draw(1, 2, 4, 6)
    plain = filled(Applied(lambda x: x))

    def of(net: nn.Module) -> Tensor:
        return attribute.lrp(net, images, 1, preset="zero").native

    constant = images.clone()
    gate = F.conv2d(constant, plain.before.weight).mean((2, 3), keepdim=True).sigmoid().detach()
    torch.testing.assert_close(of(gated), of(filled(Applied(lambda x: x * gate.to(x)))), rtol=1e-9, atol=1e-12)
    same_size = filled(Applied(lambda x: x * x.sigmoid()))
    torch.testing.assert_close(of(same_size).sum(), of(filled(Applied(F.silu))).sum(), rtol=1e-9, atol=1e-12)
    conserved(filled(Applied(lambda x: x * x.flip(1))), images)
    halves = filled(Applied(lambda x: x * x.flip(1)))
    torch.testing.assert_close(of(halves), gradient_times_input(halves, images, 1) / 2, rtol=1e-9, atol=1e-12)


def test_a_product_of_two_signals_is_shared_by_halves():
    # Achtibat et al., ICML 2024, prop. 3.3 on a bilinear net: x * dy/dx counts each factor once, so twice the score.
    net, images = filled(Applied(lambda x: x @ x.flip(1).transpose(2, 3))), draw(1, 2, 4, 6)
    found = attribute.lrp(net, images, 1, preset="zero").native
    torch.testing.assert_close(found, gradient_times_input(net, images, 1) / 2, rtol=1e-9, atol=1e-12)
    conserved(net, images)


def test_softmax_follows_the_first_order_of_taylor():
    net, images = filled(Applied(lambda x: F.softmax(x, 3))), draw(1, 2, 4, 6)
    x = F.conv2d(images, net.before.weight).detach()
    s = x.softmax(3)
    r = net.after.weight[1].detach().view(1, 2, 4, 6) * s
    at_x = torch.zeros_like(x)
    for at in np.ndindex(*x.shape):
        row = at[:3]
        at_x[at] = x[at] * (r[at] - s[at] * r[row].sum())
    weight = net.before.weight.detach()[:, :, 0, 0]
    expected = torch.einsum("ki,nihw,nkhw->nihw", weight, images, at_x / x)
    found = attribute.lrp(net, images, 1, preset="zero").native
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-12)
    conserved(net, images)


def written_out(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None = None) -> Tensor:
    scores = q @ k.transpose(-2, -1) / math.sqrt(q.shape[-1])
    return torch.softmax(scores if mask is None else scores.masked_fill(~mask, -math.inf), -1) @ v


@pytest.mark.parametrize("mask", [None, "causal", "bool", "float"])
def test_fused_attention_is_taken_apart(mask):
    lower = torch.ones(4, 4).bool().tril()
    options = {
        None: {},
        "causal": {"is_causal": True},
        "bool": {"attn_mask": lower},
        "float": {"attn_mask": torch.zeros(4, 4).double().masked_fill(~lower, -math.inf)},
    }[mask]

    def fused(x: Tensor) -> Tensor:
        given = {**options, "attn_mask": options["attn_mask"].to(x)} if mask == "float" else options
        return F.scaled_dot_product_attention(x, x.flip(1), 2 * x, **given)

    def explicit(x: Tensor) -> Tensor:
        return written_out(x, x.flip(1), 2 * x, None if mask is None else lower)

    images = draw(2, 2, 4, 6)
    found, expected = (attribute.lrp(filled(Applied(f)), images, 1, preset="zero").native for f in (fused, explicit))
    assert found.isfinite().all()
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-12)
    conserved(filled(Applied(fused)), images)


@pytest.mark.parametrize("need_weights", [True, False])
def test_multi_head_attention_is_taken_apart(need_weights):
    heads = filled(nn.MultiheadAttention(6, 2, batch_first=True))

    def module(x: Tensor) -> Tensor:
        tokens = x.flatten(1, 2)
        return heads.to(x.dtype)(tokens, tokens, tokens, need_weights=need_weights)[0]

    def explicit(x: Tensor) -> Tensor:
        tokens = x.flatten(1, 2)
        qkv = F.linear(tokens, heads.in_proj_weight.to(x), heads.in_proj_bias.to(x)).chunk(3, -1)
        q, k, v = (part.unflatten(2, (2, 3)).transpose(1, 2) for part in qkv)
        out = written_out(q, k, v).transpose(1, 2).flatten(2)
        return F.linear(out, heads.out_proj.weight.to(x), heads.out_proj.bias.to(x))

    images = draw(2, 2, 4, 6)
    found, expected = (attribute.lrp(filled(Applied(f)), images, 1).native for f in (module, explicit))
    torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-9)


# ---- what is not known, and where relevance ends


def test_an_operation_without_a_rule_is_named_once_relevance_reaches_it():
    net, images = filled(Applied(lambda x: x.abs().exp())), draw(1, 2, 4, 6)
    with pytest.raises(BadModel, match="no relevance rule for exp"):
        attribute.lrp(net, images, 1)
    natural = attribute.lrp(net, images, 1, others="gradient").native
    assert natural.isfinite().all()
    assert natural.any()


def test_an_operation_without_a_rule_is_harmless_where_no_relevance_comes():
    net = filled(Applied(lambda x: x * x.exp().mean((2, 3), keepdim=True)))
    conserved(net, draw(1, 2, 4, 6))


def test_the_report_says_what_constants_keep():
    # z = 2 x + 3 at x = 1, then z + 5: of the score 10, half stays in the constant, and 3 of the rest in the bias.
    class Shifted(nn.Module):
        def __init__(self):
            super().__init__()
            self.linear = nn.Linear(1, 1).double()
            nn.init.constant_(self.linear.weight, 2)
            nn.init.constant_(self.linear.bias, 3)

        def forward(self, images: Tensor) -> Tensor:
            return self.linear(images.flatten(1)) + 5

    report = attribute.conservation(Shifted().eval(), torch.ones(1, 1, 1, 1).double(), 0, epsilon=1e-9)
    assert report.operations == ("linear", "add")
    assert report.layers == ("linear", "")
    assert report.start == pytest.approx(10)
    assert report.end == pytest.approx(2)
    assert report.bias.tolist() == pytest.approx([3, 5])
    assert report.absorbed == pytest.approx(8)
    assert abs(report.gap) < 1e-9


def test_constants_that_are_joined_keep_what_they_get():
    token = draw(1, 1, 4, 6, seed=5)
    net = filled(Applied(lambda x: torch.cat([token.to(x).expand(len(x), -1, -1, -1), x], 1)))
    report = conserved(net, draw(2, 2, 4, 6))
    place = report.operations.index("cat")
    assert report.bias[place] == pytest.approx(float(report.received[place] - report.passed[place]))
    assert abs(report.bias[place]) > 1e-3


def test_a_large_stabiliser_absorbs_and_says_so():
    net, images = filled(Block(), biases=False), draw(1, 2, 4, 8)
    report = attribute.conservation(net, images, 1, preset="epsilon", epsilon=1.0)
    assert abs(float(report.stabiliser.sum())) > 0.05 * abs(report.start)
    assert not report.bias.any()
    assert abs(report.gap) < 1e-9 * abs(report.start)


def test_a_report_is_saved_and_loaded_as_it_was(tmp_path):
    report = attribute.conservation(filled(Block()), draw(1, 2, 4, 8), 1)
    back = Conservation.load(report.save(tmp_path / "report.safetensors"))
    assert (back.operations, back.layers, back.start, back.end) == (
        report.operations,
        report.layers,
        report.start,
        report.end,
    )
    assert torch.equal(back.gaps, report.gaps)
    assert "gap" in repr(back)


def test_relevance_starts_at_the_score_or_at_one():
    net, images = filled(Block()), draw(2, 2, 4, 8)
    score, one = (attribute.lrp(net, images, 1, start=start) for start in ("score", "one"))
    torch.testing.assert_close(score.extras["start"], score.score.double(), rtol=1e-6, atol=0)
    assert one.extras["start"].tolist() == [1, 1]
    scaled = one.native * score.extras["start"].view(-1, 1, 1, 1)
    torch.testing.assert_close(score.native, scaled, rtol=1e-9, atol=1e-12)
    total = score.native.flatten(1).sum(1)
    torch.testing.assert_close(score.extras["start"] - score.extras["absorbed"], total)


@pytest.mark.usefixtures("timm")
@pytest.mark.parametrize("preset", ["epsilon_plus", "epsilon_gamma_box"])
@pytest.mark.parametrize("architecture", EVERY)
def test_nothing_is_lost_in_any_architecture(architecture, preset):
    report = attribute.conservation(fresh(architecture), pictures(1), 3, preset=preset)
    scale = max(abs(report.start), 0.1 * float(report.received.abs().max()))
    assert abs(report.gap) < 1e-4 * scale, report


def torchvision_or_timm(name: str) -> nn.Module:
    import timm
    from torchvision.models import get_model

    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(0)
        if name in ("resnet50", "densenet121"):
            model = get_model(name, weights=None, num_classes=CLASSES)
        else:
            model = timm.create_model(name, num_classes=CLASSES, **({"img_size": 96} if "vit" in name else {}))
        for module in model.modules():
            if isinstance(module, nn.BatchNorm2d | nn.LayerNorm):
                nn.init.uniform_(module.weight, 0.5, 1.5)
                nn.init.normal_(module.bias, std=0.2)
            if isinstance(module, nn.BatchNorm2d):
                module.momentum = 1.0
        with torch.no_grad():
            model.train()(torch.randn(4, 3, 96, 96))
    return model.eval()


@pytest.mark.slow
@pytest.mark.usefixtures("timm")
@pytest.mark.parametrize("name", ["resnet50", "densenet121", "convnext_tiny", "vit_small_patch16_224"])
def test_nothing_is_lost_in_networks_of_full_size(name):
    model, images = torchvision_or_timm(name), pictures(1, (96, 96))
    report = attribute.conservation(model, images, 3)
    if "vit" in name:  # ten million times the score flows in both directions, which single precision cannot count
        assert abs(report.gap) < 1e-4 * float(report.received.abs().max()), report
        report = attribute.conservation(model.double(), images.double(), 3)
    assert abs(report.gap) < 1e-4 * abs(report.start), report


@pytest.mark.slow
def test_nothing_is_lost_in_a_trained_network(lite0):
    report = attribute.conservation(lite0, pictures(1, (96, 96)))
    assert abs(report.gap) < 1e-4 * abs(report.start), report


def test_half_precision_conserves_as_far_as_it_can_count():
    net = fresh("residual").bfloat16()
    report = attribute.conservation(net, pictures(1).bfloat16(), 3)
    assert abs(report.gap) < 0.03 * float(report.received.abs().max())


def test_images_of_one_channel_and_odd_size_are_explained():
    e = attribute.lrp(Residual(1).eval(), pictures(2, (33, 47), 1))
    assert e.native.shape == (2, 1, 33, 47)
