"""Expanded weights: composed kernels where there is a closed form, checked changes elsewhere, errors where neither."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from glasshouse.core import BadInput, BadModel, LayerNotFound, Model, NotFound, Preprocess, find_method, generator
from glasshouse.dissect import ExpandedWeights, expanded_weights

EXACT = {"rtol": 1e-6, "atol": 1e-9}


def seeded(*modules: nn.Module) -> nn.Sequential:
    """In float64, with weights that are drawn, biases and statistics of norms included."""
    net, source = nn.Sequential(*modules).double().eval(), generator(0)
    for name, value in [*net.named_parameters(), *net.named_buffers()]:
        if value.is_floating_point():
            drawn = torch.randn(value.shape, generator=source, dtype=torch.float64)
            value.data.copy_(drawn.abs() + 0.5 if "running_var" in name else drawn)
    return net


def images(size: int = 16, n: int = 1, channels: int = 2) -> Tensor:
    return torch.randn(n, channels, size, size, generator=generator(1), dtype=torch.float64)


def naive(network, source: Tensor, unit: int, at: tuple[int, int]) -> Tensor:
    """Derivative of one unit at one place, one input at a time, by central differences: exact for linear maps."""
    slope = torch.zeros_like(source[0])
    for place in range(slope.numel()):
        step = torch.zeros_like(slope).flatten()
        step[place] = 0.5
        up, down = (network(source + sign * step.view_as(slope))[0, unit, at[0], at[1]] for sign in (1, -1))
        slope.view(-1)[place] = up - down
    return slope


def uncut(seen: ExpandedWeights, grid: tuple[int, int]) -> Tensor:
    """The weights on all of the source's grid."""
    u, v, i, j = seen.weights.shape
    whole = seen.weights.new_zeros(u, v, *grid)
    row, column = seen.origin
    whole[:, :, row : row + i, column : column + j] = seen.weights
    return whole


def test_between_neighbours_they_are_the_layers_own_weights():
    net = seeded(nn.Conv2d(2, 3, 3), nn.ReLU(), nn.Conv2d(3, 4, 5, padding=2), nn.ReLU())
    seen = expanded_weights(net, images(), source="1", layer="2")
    torch.testing.assert_close(seen.weights, net[2].weight.detach(), **EXACT)
    assert not seen.at_border
    assert repr(seen) == "ExpandedWeights(1 → 2, 3 → 4 units, 5×5, linear)"


def test_two_convolutions_compose_to_one_kernel():
    net = seeded(nn.Conv2d(2, 3, 1), nn.Conv2d(3, 4, 3, padding=1), nn.ReLU(), nn.Conv2d(4, 5, 3, padding=1), nn.ReLU())
    first, second = net[1].weight.detach(), net[3].weight.detach()
    composed = torch.zeros(5, 3, 5, 5, dtype=torch.float64)
    for i in range(3):
        for j in range(3):
            for p in range(3):
                for q in range(3):
                    composed[:, :, i + p, j + q] += second[:, :, i, j] @ first[:, :, p, q]
    seen = expanded_weights(net, images(), source="0", layer="4")
    torch.testing.assert_close(seen.weights, composed, **EXACT)
    flipped = F.conv2d(first.permute(1, 0, 2, 3), second.flip(2, 3), padding=2).permute(1, 0, 2, 3)
    torch.testing.assert_close(seen.weights, flipped, **EXACT)


def test_one_by_one_convolutions_multiply_as_matrices():
    net = seeded(nn.Conv2d(2, 6, 1), nn.ReLU(), nn.Conv2d(6, 3, 1), nn.GELU(), nn.Conv2d(3, 5, 1))
    seen = expanded_weights(net, images(5), source="0", layer="4")
    product = net[4].weight.detach().flatten(1) @ net[2].weight.detach().flatten(1)
    assert seen.weights.shape == (5, 6, 1, 1)
    torch.testing.assert_close(seen.weights[:, :, 0, 0], product, **EXACT)


@pytest.mark.parametrize(
    "between",
    [
        [nn.Conv2d(3, 4, 3, stride=2, padding=1), nn.ReLU(), nn.Conv2d(4, 4, 3, padding=1)],
        [nn.Conv2d(3, 6, 3, padding=1, groups=3), nn.BatchNorm2d(6), nn.ReLU6(), nn.Conv2d(6, 4, 1)],
        [nn.Conv2d(3, 4, 3, dilation=2, padding=2), nn.Hardswish(), nn.AvgPool2d(2), nn.Dropout(0.5)],
        [nn.BatchNorm2d(3), nn.LeakyReLU(), nn.Conv2d(3, 4, (1, 3), padding=(0, 1)), nn.Tanh()],
    ],
    ids=["strided", "depthwise", "dilated", "norm first"],
)
def test_any_stretch_is_the_naive_derivative_of_what_is_left_of_it(between):
    net = seeded(nn.Conv2d(2, 3, 1), nn.ReLU(), *between)
    kinds = (nn.ReLU, nn.ReLU6, nn.Hardswish, nn.LeakyReLU, nn.Tanh, nn.Dropout)
    straight = nn.Sequential(*(module for module in net[2:] if not isinstance(module, kinds)))
    last = str(len(net) - 1)
    seen = expanded_weights(net, images(7), source="1", layer=last)
    with torch.no_grad():
        source = net[:2](images(7))
        for unit in (0, 3):
            wanted = naive(straight, source, unit, seen.position)
            torch.testing.assert_close(uncut(seen, (7, 7))[unit], wanted, rtol=1e-6, atol=1e-9)


def test_max_pooling_counts_as_the_average_of_the_places_it_covers():
    net = seeded(nn.Conv2d(2, 3, 1), nn.MaxPool2d(3, stride=2, padding=1), nn.Conv2d(3, 1, 1))
    seen = expanded_weights(net, images(9), source="0", layer="2")
    weight = net[2].weight.detach()[:, :, 0, 0]
    torch.testing.assert_close(seen.weights, (weight / 9)[:, :, None, None].expand(1, 3, 3, 3), **EXACT)
    net = seeded(nn.Conv2d(2, 3, 1), nn.AdaptiveMaxPool2d(1), nn.Flatten(), nn.Linear(3, 4))
    seen = expanded_weights(net, images(5), source="0", layer="3")
    assert seen.at_border
    torch.testing.assert_close(seen.weights[:, :, 2, 2], net[3].weight.detach() / 25, **EXACT)


class Skip(nn.Module):
    """A residual block that writes in place and reuses its ReLU."""

    def __init__(self):
        super().__init__()
        self.stem, self.relu = nn.Conv2d(2, 3, 1), nn.ReLU(inplace=True)
        self.conv1, self.conv2 = nn.Conv2d(3, 3, 3, padding=1), nn.Conv2d(3, 3, 3, padding=1)
        self.after, self.end = nn.Identity(), nn.Conv2d(3, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.relu(self.stem(x))
        y = self.conv2(self.relu(self.conv1(x)))
        y += x
        return self.end(self.after(F.relu(y)))


@pytest.fixture
def skip() -> Skip:
    return seeded(Skip())[0]


def test_skip_connections_add_to_the_way_through_the_block(skip):
    first, second = skip.conv1.weight.detach(), skip.conv2.weight.detach()
    composed = F.conv2d(first.permute(1, 0, 2, 3), second.flip(2, 3), padding=2).permute(1, 0, 2, 3)
    composed[range(3), range(3), 2, 2] += 1
    seen = expanded_weights(skip, images(), source="stem", layer="after")
    torch.testing.assert_close(seen.weights, composed, **EXACT)
    inner = expanded_weights(skip, images(), source="conv1", layer="after")  # the skip goes around this one
    torch.testing.assert_close(inner.weights, second, **EXACT)


def test_linear_weights_are_the_same_for_all_images_and_gradients_heed_them(skip):
    one, two = (expanded_weights(skip, x, source="stem", layer="after") for x in (images(), 3 * images() - 1))
    assert torch.equal(one.weights, two.weights)
    photos = images(n=5)
    seen = expanded_weights(skip, photos, source="stem", layer="after", how="gradient", units=[2])
    row, column = seen.position
    total = torch.zeros(3, 16, 16, dtype=torch.float64)
    for photo in photos:
        maps = skip.stem(photo[None]).detach().requires_grad_()
        x = maps.relu()
        out = F.relu(skip.conv2(F.relu(skip.conv1(x))) + x)
        total += torch.autograd.grad(out[0, 2, row, column], maps)[0][0] / 5
    torch.testing.assert_close(uncut(seen, (16, 16))[0], total, **EXACT)


def test_the_expected_gradient_of_a_linear_stretch_is_its_weight():
    net = seeded(nn.Conv2d(2, 3, 3), nn.Conv2d(3, 4, 3), nn.Conv2d(4, 5, 3))
    linear = expanded_weights(net, images(), source="0", layer="2")
    gradient = expanded_weights(net, images(n=20), source="0", layer="2", how="gradient")
    torch.testing.assert_close(gradient.weights, linear.weights, **EXACT)


def test_channels_on_the_last_axis_are_units_all_the_same():
    class Last(nn.Module):
        def __init__(self):
            super().__init__()
            self.stem, self.turned, self.wide, self.narrow = (
                nn.Conv2d(2, 3, 2),
                nn.Identity(),
                nn.Linear(3, 6),
                nn.Linear(6, 4),
            )

        def forward(self, x: Tensor) -> Tensor:
            x = self.turned(self.stem(x).permute(0, 2, 3, 1))
            return self.narrow(F.gelu(self.wide(x)))

    net = seeded(Last())[0]
    seen = expanded_weights(net, images(7), source="turned", layer="narrow")
    torch.testing.assert_close(seen.weights[:, :, 0, 0], net.narrow.weight.detach() @ net.wide.weight.detach(), **EXACT)


class Tokens(nn.Module):
    """A patch embedding, a class token, and one block of layer norm and attention."""

    def __init__(self):
        super().__init__()
        self.embed, self.token = nn.Conv2d(2, 4, 4, stride=4), nn.Parameter(torch.zeros(1, 1, 4))
        self.start, self.norm, self.values = nn.Identity(), nn.LayerNorm(4), nn.Linear(4, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = self.embed(x).flatten(2).transpose(1, 2)
        x = self.start(torch.cat([self.token.expand(len(x), -1, -1), x], 1))
        y = self.norm(x)
        return self.values(x + (y @ y.transpose(1, 2)).softmax(2) @ y)


def test_attention_is_an_error_unless_gradients_are_asked_for():
    net = seeded(Tokens())[0]
    with pytest.raises(BadModel, match=r"between 'start' and 'values' lies more than linear maps.*how='gradient'"):
        expanded_weights(net, images(), source="start", layer="values")
    seen = expanded_weights(net, images(n=2), source="start", layer="values", how="gradient", units=[1])
    assert seen.weights.shape == (1, 4, 4, 4)
    assert seen.at_border
    assert seen.weights.abs().min() > 0


def test_a_gate_is_an_error():
    class Gate(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x * x.mean((2, 3), keepdim=True).sigmoid()

    with pytest.raises(BadModel, match="a gate"):
        expanded_weights(seeded(nn.Conv2d(2, 3, 1), Gate()), images(), source="0", layer="1")
    net = seeded(nn.Conv2d(2, 3, 1), nn.MaxPool2d(2, dilation=2))
    with pytest.raises(BadModel, match="a pooling that is no average"):
        expanded_weights(net, images(), source="0", layer="1")


def test_strongest_inputs_and_outputs_go_by_norm():
    net = seeded(nn.Conv2d(2, 5, 1), nn.Conv2d(5, 7, 3))
    seen = expanded_weights(net, images(), source="0", layer="1", units=[6, 2, 4], source_units=[3, 0, 1])
    weight = net[1].weight.detach()
    sizes = {v: float(weight[2, v].norm()) for v in (3, 0, 1)}
    assert seen.inputs_of(2, 2).tolist() == sorted(sizes, key=lambda v: -sizes[v])[:2]
    sizes = {u: float(weight[u, 1].norm()) for u in (6, 2, 4)}
    assert seen.outputs_of(1).tolist() == sorted(sizes, key=lambda u: -sizes[u])
    torch.testing.assert_close(seen.kernel(4, 3), weight[4, 3], **EXACT)
    with pytest.raises(NotFound, match="unit 5 is not among the 3 units"):
        seen.kernel(5, 3)


def test_input_units_that_act_alike_fall_into_one_group():
    net = seeded(nn.Conv2d(2, 6, 1), nn.Conv2d(6, 4, 3))
    parts, mix = torch.randn(4, 2, 3, 3, generator=generator(2), dtype=torch.float64), torch.zeros(2, 6).double()
    mix[0, :3], mix[1, 3:] = torch.tensor([1.0, 2.0, 3.0]), torch.tensor([2.0, 1.0, 1.0])
    with torch.no_grad():
        net[1].weight.copy_(torch.einsum("ugij,gv->uvij", parts, mix))
    seen = expanded_weights(net, images(), source="0", layer="1")
    groups = seen.input_groups(2)
    assert repr(groups).startswith("InputGroups(0, 2 groups of 6 units, 100.0%")
    assert groups.explained > 1 - 1e-6
    directions = groups.directions if groups.directions[0, 0] > 0.1 else groups.directions.flip(0)
    torch.testing.assert_close(directions, F.normalize(mix, dim=1), rtol=1e-3, atol=1e-3)
    rebuilt = torch.einsum("ugij,gv->uvij", groups.exciting - groups.inhibiting, groups.directions)
    torch.testing.assert_close(rebuilt, seen.weights, rtol=1e-2, atol=1e-2)
    red, blue = groups.painted()
    assert max(red.max(), blue.max()) == 1
    torch.testing.assert_close(red[:, :2] / blue[:, :2].max(), groups.exciting / groups.inhibiting.max())
    assert (red[:, 2] == 0).all()


def test_nothing_is_left_behind_and_the_mode_of_the_caller_does_not_matter(skip):
    wanted = expanded_weights(skip, images(), source="stem", layer="after").weights
    weights = {name: value.clone() for name, value in skip.state_dict().items()}
    for mode in (torch.no_grad, torch.inference_mode):
        with mode():
            assert torch.equal(expanded_weights(skip, images(), source="stem", layer="after").weights, wanted)
    with pytest.raises(BadInput):
        expanded_weights(skip, images(), source="after", layer="stem")
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in skip.modules())
    assert all(torch.equal(value, weights[name]) for name, value in skip.state_dict().items())
    assert torch._C._len_torch_function_stack() == 0


def test_the_size_of_inputs_comes_from_the_preprocessing(cnn, tmp_path):
    model = Model.of(cnn, preprocess=Preprocess(size=(14, 18), mean=(0.5,) * 3, std=(0.5,) * 3))
    seen = expanded_weights(model, source="1", layer="3")
    torch.testing.assert_close(seen.weights[:, :, ::2, ::2], cnn[3].weight.detach() / 4)
    assert (seen.position, seen.origin) == ((3, 4), (4, 6))
    again = ExpandedWeights.load(seen.save(tmp_path / "weights"))
    assert torch.equal(again.weights, seen.weights)
    assert (again.how, again.origin, again.settings) == (seen.how, seen.origin, seen.settings)


def test_what_has_no_weights_is_refused_with_advice(cnn, skip):
    with pytest.raises(BadInput, match="layer '0' does not read '3'"):
        expanded_weights(cnn, images(channels=3).float(), source="3", layer="0")
    with pytest.raises(BadInput, match=r"no preprocessing. Pass inputs"):
        expanded_weights(cnn, source="0", layer="3")
    with pytest.raises(BadInput, match="images are a NoneType"):
        expanded_weights(cnn, source="0", layer="3", how="gradient")
    with pytest.raises(LayerNotFound, match="no layer 'conv3'"):
        expanded_weights(skip, images(), source="stem", layer="conv3")
    with pytest.raises(BadInput, match="layer 'relu' runs 2 times"):
        expanded_weights(skip, images(), source="relu", layer="after")
    with pytest.raises(NotFound, match="no unit 3 in layer 'after'"):
        expanded_weights(skip, images(), source="stem", layer="after", units=[3])


def test_it_is_in_the_registry():
    assert find_method("dissect.expanded_weights").function is expanded_weights
