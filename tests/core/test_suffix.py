"""The rest of a network from a layer's activation: exact, cheap, and honest about what it cannot do."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from glasshouse.core import BadInput, BadModel, LayerNotFound, ablate, cut, edit, probe


class Skips(nn.Module):
    """Values from before the layer are read behind it: as they were, overwritten in place, and sliced."""

    def __init__(self):
        super().__init__()
        self.stem, self.deep = nn.Conv2d(3, 4, 3, padding=1), nn.Conv2d(4, 4, 3, padding=1)
        self.layer, self.last = nn.Conv2d(4, 4, 3, padding=1), Counted(nn.Conv2d(4, 4, 1))
        self.head = nn.Linear(4, 5)

    def forward(self, inputs: Tensor) -> Tensor:
        x = self.stem(inputs)
        skip = F.relu(x)
        x = x * 2
        x.relu_()
        gate = torch.sigmoid(self.deep(x)).mean((2, 3), keepdim=True)
        x[:, 0] = 1.0
        y = self.layer(self.deep(skip))
        y += skip
        y = F.relu(y, inplace=True) * gate + x[:, [1, 0, 2, 3]] + inputs.mean((1, 2, 3), keepdim=True)
        return self.head(self.last(y).mean((2, 3)))


class Counted(nn.Module):
    """Counts its runs."""

    def __init__(self, inner: nn.Module):
        super().__init__()
        self.inner, self.runs = inner, 0

    def forward(self, x: Tensor) -> Tensor:
        self.runs += 1
        return self.inner(x)


@pytest.fixture
def net() -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(2)
        return Skips().eval().requires_grad_(False)


def replaced(net: nn.Module, images: Tensor, layer: str, activation: Tensor) -> Tensor:
    handle = net.get_submodule(layer).register_forward_hook(lambda *_: activation.clone())
    try:
        return net(images)
    finally:
        handle.remove()


@pytest.mark.parametrize("layer", ["stem", "layer", "last", "last.inner", "head"])
def test_a_suffix_is_the_model_with_that_layer_replaced(net, images, layer):
    suffix = cut(net, images, layer)
    torch.testing.assert_close(suffix(suffix.activation), net(images), rtol=0, atol=0)
    torch.testing.assert_close(suffix.output, net(images), rtol=0, atol=0)
    other = torch.randn(suffix.activation.shape)
    torch.testing.assert_close(suffix(other), replaced(net, images, layer, other), rtol=0, atol=0)


def test_a_cut_at_an_input_replaces_what_the_layer_is_given(net, images):
    suffix = cut(net, images, "layer.input")
    other = torch.randn(suffix.activation.shape)
    expected = replaced(net, images, "layer", net.layer(other))
    torch.testing.assert_close(suffix(other), expected, rtol=0, atol=0)


def test_gradients_through_a_suffix_are_those_of_the_whole(net, images):
    with probe(net, "layer") as seen:
        whole = net(images.requires_grad_())[:, 3].sum()
    (expected,) = torch.autograd.grad(whole, seen["layer"])
    suffix = cut(net, images, "layer")
    leaf = suffix.activation.clone().requires_grad_()
    (result,) = torch.autograd.grad(suffix(leaf)[:, 3].sum(), leaf)
    torch.testing.assert_close(result, expected)


def test_an_activation_is_not_written_into_even_by_what_works_in_place(images):
    net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(inplace=True), nn.Flatten(), nn.Linear(4 * 12 * 16, 2))
    suffix = cut(net, images, "0")
    torch.testing.assert_close(suffix.activation, net[0](images), rtol=0, atol=0)
    given = torch.randn(suffix.activation.shape)
    kept = given.clone()
    first = suffix(given)
    assert torch.equal(given, kept)
    torch.testing.assert_close(suffix(given), first, rtol=0, atol=0)
    leaf = given.requires_grad_()
    (gradient,) = torch.autograd.grad(suffix(leaf).sum(), leaf)
    assert not gradient[kept < 0].any()


def test_nothing_before_the_layer_is_computed_again(images):
    net = nn.Sequential(Counted(nn.Conv2d(3, 4, 3)), nn.Conv2d(4, 4, 3), Counted(nn.Conv2d(4, 2, 1)), nn.Flatten())
    suffix = cut(net, images, "1")
    with torch.no_grad():
        net[0].inner.weight.fill_(torch.nan)
    assert suffix(suffix.activation).isfinite().all()
    assert not net(images).isfinite().any()


def test_a_suffix_may_be_run_many_times_and_leaves_no_hook(net, images):
    suffix = cut(net, images, "layer")
    outputs = [suffix(suffix.activation * k) for k in (1, 2, 1)]
    torch.testing.assert_close(outputs[0], outputs[2], rtol=0, atol=0)
    assert not torch.equal(outputs[0], outputs[1])
    with pytest.raises(RuntimeError):
        suffix(suffix.activation.double())
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in net.modules())


def test_layers_behind_the_cut_can_be_probed(net, images):
    suffix = cut(net, images, "layer")
    with probe(net, "last.inner") as seen:
        net(images)
    with probe(net, "last.inner") as behind:
        suffix(suffix.activation)
    torch.testing.assert_close(behind["last.inner"], seen["last.inner"], rtol=0, atol=0)


def test_a_model_that_runs_differently_than_when_it_was_cut_is_an_error(net, images):
    suffix = cut(net, images, "layer")
    with pytest.raises(BadModel, match="runs differently this time"), probe(net, "stem"):
        suffix(suffix.activation)
    with pytest.raises(BadModel, match="runs differently this time"), edit(net, {"stem": ablate([0])}):
        suffix(suffix.activation)


def test_a_layer_that_ran_twice_or_not_at_all_or_is_not_there_is_an_error(net, images):
    with pytest.raises(BadInput, match="'deep' ran 2 times"):
        cut(net, images, "deep")
    net.spare = nn.ReLU()
    with pytest.raises(BadInput, match="'spare' ran 0 times"):
        cut(net, images, "spare")
    with pytest.raises(LayerNotFound, match="'lair'"):
        cut(net, images, "lair")


def test_the_only_run_of_a_layer_may_be_numbered(net, images):
    suffix = cut(net, images, "layer#0")
    torch.testing.assert_close(suffix.activation, cut(net, images, "layer").activation)


def test_another_number_of_images_is_an_error(net, images):
    suffix = cut(net, images, "layer")
    with pytest.raises(BadInput, match="Cut the model again"):
        suffix(suffix.activation[:1])


ROWS = [torch.tensor(rows) for rows in ([2], [0, 0, 2], [1, 2, 0, 0, 1, 2, 2])]


@pytest.mark.parametrize("index", ROWS, ids=len)
@pytest.mark.parametrize("layer", ["stem", "layer", "last", "last.inner", "head", "layer.input"])
def test_rows_are_the_rest_of_the_model_for_those_images(net, images, layer, index):
    part = cut(net, images, layer).rows(index)
    expected = cut(net, images[index], layer)
    torch.testing.assert_close(part.output, net(images[index]))
    torch.testing.assert_close(part.activation, expected.activation)
    other = torch.randn(part.activation.shape, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(part(other), expected(other))


class Tokens(nn.Module):
    """Sizes computed from the batch: a class token for each image, windows folded into the batch, tokens in front."""

    def __init__(self, minor: bool = False):
        super().__init__()
        self.minor = minor
        self.patches, self.token = nn.Conv2d(3, 6, 2, stride=2), nn.Parameter(torch.ones(1, 1, 6))
        self.units, self.windows = nn.Linear(6, 6), Counted(nn.Linear(6, 6))
        self.sequence, self.head = nn.Linear(6, 6), nn.Linear(6, 4)

    def forward(self, images: Tensor) -> Tensor:
        batch = images.shape[0]
        x = self.patches(images).flatten(2).transpose(1, 2)
        x = torch.cat([self.token.expand(batch, -1, -1), self.units(x)], 1)
        first, grid = x[:, 0], x[:, 1:]
        if self.minor:
            y = grid.reshape(batch, 9, 7, 6).transpose(0, 1).reshape(9 * batch, 7, 6)
            y = self.windows(y.tanh()) * y
            y = y.view(9, batch, 7, 6).transpose(0, 1).reshape(batch, 63, 6)
        else:
            y = grid.reshape(9 * batch, 7, 6)
            y = (self.windows(y.tanh()) * y).view(batch, 63, 6)
        z = self.sequence(y.transpose(0, 1).contiguous())  # tokens, images, units
        return self.head((z.exp() * y.transpose(0, 1)).mean(0) + first)


@pytest.mark.parametrize("index", ROWS, ids=len)
@pytest.mark.parametrize("n", [1, 3])
@pytest.mark.parametrize("layer", ["patches", "units", "windows", "sequence", "head"])
def test_rows_are_found_wherever_the_axis_of_images_is(images, layer, n, index):
    net, images, index = Tokens().double(), images[:n].double(), index % n
    suffix = cut(net, images, layer)
    part = suffix.rows(index)
    expected = cut(net, images[index], layer)
    assert part.activation.shape == expected.activation.shape
    other = torch.randn(part.activation.shape, dtype=torch.float64)
    torch.testing.assert_close(part(other), expected(other))
    again = suffix.rows(index.flip(0)).rows(torch.tensor([0]))
    torch.testing.assert_close(again(again.activation), net(images[index[-1:]]))


def test_rows_cost_nothing_before_the_layer_and_may_differ_from_run_to_run(images):
    net = nn.Sequential(Counted(nn.Conv2d(3, 4, 3)), nn.Conv2d(4, 4, 3), nn.Conv2d(4, 2, 1), nn.Flatten())
    suffix = cut(net, images, "1")
    outputs = suffix.output.clone()
    suffix.rows(ROWS[0])
    with torch.no_grad():
        net[0].inner.weight.fill_(torch.nan)
    for index in ROWS:
        part = suffix.rows(index)
        torch.testing.assert_close(part(part.activation), outputs[index])


def test_gradients_reach_the_rows(net, images):
    index = torch.tensor([1, 1, 0])
    part = cut(net, images, "layer").rows(index)
    leaf = part.activation.clone().requires_grad_()
    (found,) = torch.autograd.grad(part(leaf)[:, 3].sum(), leaf)
    whole = cut(net, images[index], "layer")
    leaf = whole.activation.clone().requires_grad_()
    (expected,) = torch.autograd.grad(whole(leaf)[:, 3].sum(), leaf)
    torch.testing.assert_close(found, expected)


def test_rows_that_cannot_be_told_apart_are_an_error(images):
    suffix = cut(Tokens(minor=True), images, "windows")
    suffix.rows(torch.tensor([0, 1, 2]))
    with pytest.raises(BadModel, match="cannot be cut at 'windows'"):
        suffix.rows(torch.tensor([1, 0]))

    class Counts(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer, self.head = nn.Conv2d(3, 2, 1), nn.Linear(2, 2)

        def forward(self, inputs: Tensor) -> Tensor:
            inputs = inputs * 2 if len(inputs) > 1 else inputs + inputs
            return self.head(self.layer(inputs).mean((2, 3)))

    with pytest.raises(BadModel, match="depend on the number of images"):
        cut(Counts(), images, "layer").rows(torch.tensor([1, 0]))


def test_a_model_whose_answer_changes_each_time_cannot_be_cut(images):
    class Restless(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = nn.Conv2d(3, 2, 1)

        def forward(self, inputs: Tensor) -> Tensor:
            y = self.layer(inputs)
            return (y + torch.rand_like(y)).mean((2, 3))

    with pytest.raises(BadModel, match="cannot be cut at 'layer'"):
        cut(Restless(), images, "layer")


def test_cutting_under_no_grad_and_inference_mode_gives_the_same(net, images):
    expected = cut(net, images, "layer")(torch.ones(3, 4, 14, 18))
    for mode in (torch.no_grad, torch.inference_mode):
        with mode():
            torch.testing.assert_close(cut(net, images, "layer")(torch.ones(3, 4, 14, 18)), expected, rtol=0, atol=0)


def test_a_cut_model_in_a_container_output_is_read(images):
    class Named(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = nn.Conv2d(3, 2, 1)

        def forward(self, inputs: Tensor) -> dict[str, Tensor]:
            return {"logits": self.layer(inputs).mean((2, 3)), "size": inputs.mean((1, 2, 3))}

    suffix = cut(net := Named(), images, "layer")
    torch.testing.assert_close(suffix(suffix.activation)["logits"], net(images)["logits"], rtol=0, atol=0)
