"""Operations on boxes against the same operations on whole activations, and the ways in which a model is not local."""

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from glasshouse.core import BadModel
from glasshouse.core.patches import clean_pass, covered, patched_outputs

SIZE = (26, 31)
BOXES = torch.tensor(
    [(0, 0, 3, 2), (11, 13, 14, 16), (23, 28, 26, 31), (5, 20, 7, 24), (12, 0, 13, 4), (11, 14, 14, 17)]
)


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


class Through(nn.Module):
    """A convolution, a function of its maps, another convolution, and the mean of a square."""

    def __init__(self, function: Callable[[Tensor], Tensor], channels: int = 4):
        super().__init__()
        self.function = function
        self.first, self.last = nn.Conv2d(3, 4, 3, padding=1), nn.Conv2d(channels, 5, 3)

    def forward(self, inputs: Tensor) -> Tensor:
        return self.last(self.function(self.first(inputs))).square().mean((2, 3))


def made(module: nn.Module) -> nn.Module:
    for number, weight in enumerate(module.parameters()):
        weight.data = 0.5 * draw(*weight.shape, seed=number)
    return module.double().eval().requires_grad_(False)


def gap(net: nn.Module, boxes: Tensor = BOXES) -> tuple[float, float]:
    """How far the answers by boxes are from those of whole passes, and what they cost."""
    image, cover = draw(1, 3, *SIZE, seed=9), draw(1, 3, *SIZE, seed=10)
    clean = clean_pass(net, image, boxes, cover, "incremental")
    assert clean is not None
    expected = net(covered(image, boxes, cover))
    assert (expected - net(image)).flatten(1).abs().amax(1).min() > 1e-6
    return float((clean.patched(boxes, cover) - expected).abs().max() / expected.abs().max()), clean.work


def norm(x: Tensor) -> Tensor:
    return F.batch_norm(x, draw(4), draw(4, seed=1).square() + 0.1, draw(4, seed=2), draw(4, seed=3))


def channels_last(x: Tensor) -> Tensor:
    y = F.layer_norm(x.permute(0, 2, 3, 1), (4,), draw(4), draw(4, seed=1))
    return F.gelu(F.linear(y, draw(4, 4), draw(4))).permute(0, 3, 1, 2)


def shuffled(x: Tensor) -> Tensor:
    n, c, h, w = x.size()
    a, b = x.view(n, 2, c // 2, h, w).transpose(1, 2).contiguous().view(n, c, h, w).chunk(2, dim=1)
    return torch.cat([F.conv2d(a, draw(3, 2, 3, 3), padding=1), b[:, :1]], 1)


def residual(x: Tensor) -> Tensor:
    y = F.conv2d(F.relu(x), draw(4, 4, 3, 3), padding=1)
    y += x
    return F.relu(y, inplace=True)


def branches(x: Tensor) -> Tensor:
    wide, narrow = F.conv2d(x, draw(4, 4, 5, 1), padding=(2, 0)), F.conv2d(x, draw(4, 4, 1, 3), padding=(0, 1))
    return torch.maximum(wide, narrow) * torch.sigmoid(narrow[:, :1]) - 0.5 * x


def constants(x: Tensor) -> Tensor:
    place = draw(1, 4, *SIZE) + draw(*SIZE, seed=1)
    return (2 - x) * place / (1 + draw(4, 1, 1).square()) + torch.arange(4.0, dtype=x.dtype).view(1, 4, 1, 1)


def overwritten(x: Tensor) -> Tensor:
    y = x.detach()
    y.mul_(2).clamp_(max=1.5)
    return y + y.data


LOCAL = {
    "kernel": lambda x: F.conv2d(x, draw(4, 4, 3, 5)),
    "strides": lambda x: F.conv2d(x, draw(4, 4, 3, 2), draw(4), stride=(2, 3), padding=(2, 1)),
    "stride above the kernel": lambda x: F.conv2d(x, draw(4, 4, 1, 2), stride=(3, 4)),
    "dilation": lambda x: F.conv2d(x, draw(4, 4, 3, 3), padding=2, dilation=(2, 3)),
    "groups": lambda x: F.conv2d(x, draw(4, 1, 3, 3), padding=1, groups=4),
    "same padding": lambda x: F.conv2d(x, draw(4, 4, 5, 3), padding="same", dilation=(1, 2)),
    "valid padding": lambda x: F.conv2d(x, draw(4, 4, 4, 3), padding="valid"),
    "by keywords": lambda x: F.conv2d(x, weight=draw(4, 4, 3, 3), stride=2, padding=1),
    "max pooling": lambda x: F.max_pool2d(x, 3, 2, 1),
    "max pooling, ceiling": lambda x: F.max_pool2d(x, (3, 2), (2, 3), ceil_mode=True),
    "max pooling, dilated": lambda x: F.max_pool2d(x, 2, 1, 1, dilation=2),
    "average pooling": lambda x: F.avg_pool2d(x, 3, 2, 1),
    "average pooling by rows": lambda x: F.avg_pool2d(x, (2, 1)),
    "divided by another number": lambda x: F.avg_pool2d(x, 2, divisor_override=3),
    "adaptive pooling": lambda x: F.adaptive_avg_pool2d(x, (13, 31)),
    "padding": lambda x: F.pad(x, (1, 2, 3, 0)),
    "padding with a number": lambda x: F.pad(x, (2, 0), value=1.5),
    "activations": lambda x: F.hardswish(F.silu(x) + F.leaky_relu(x, 0.2)).tanh(),
    "parameters per channel": lambda x: F.prelu(x, draw(4)),
    "dropout": lambda x: F.dropout(x, 0.5, training=False),
    "norm": norm,
    "channels last": channels_last,
    "shuffled": shuffled,
    "residual": residual,
    "branches": branches,
    "constants": constants,
    "overwritten": overwritten,
}


@pytest.mark.parametrize("name", LOCAL)
def test_a_local_operation_is_exact_and_cheap(name):
    error, work = gap(made(Through(LOCAL[name])))
    assert error < 1e-12
    assert work < 0.5


def gate(x: Tensor) -> Tensor:
    return x * x.mean((2, 3), keepdim=True).sigmoid()


def gate_in_place(x: Tensor) -> Tensor:
    y = F.relu(x)
    y *= F.adaptive_avg_pool2d(x, 1)
    return y


def attention(x: Tensor) -> Tensor:
    tokens = x.flatten(2).transpose(1, 2)
    mixed = F.scaled_dot_product_attention(tokens, tokens, tokens)
    return mixed.transpose(1, 2).reshape(x.shape)


def written(x: Tensor) -> Tensor:
    x[:, :2, 3:9] = 0.5
    return x.relu()


def one_row(x: Tensor) -> Tensor:
    return x + x[:, :, 4:5] + x.mean(2, keepdim=True)


def asked(x: Tensor) -> Tensor:
    return x * 2 if float(x.detach().abs().amax()) > 0 and x.isfinite().all() else x - 1


def numpy(x: Tensor) -> Tensor:
    return torch.from_numpy(x.numpy() * 2) + x


def dynamic(x: Tensor) -> Tensor:
    weight = x[:, :, 2:5, 2:5].reshape(-1, 1, 3, 3)
    return F.conv2d(x.reshape(1, -1, *x.shape[2:]), weight, padding=1, groups=len(weight)).view_as(x)


class Doubled(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        return x.clone().mul_(2)


GLOBAL = {
    "gate": gate,
    "gate in place": gate_in_place,
    "attention": attention,
    "written": written,
    "one row": one_row,
    "asked": asked,
    "numpy": numpy,
    "dynamic weights": dynamic,
    "custom function": Doubled.apply,
    "group norm": lambda x: F.group_norm(x, 2),
    "instance norm": lambda x: F.instance_norm(x),
    "batch statistics of the image": lambda x: F.instance_norm(x, use_input_stats=True),
    "softmax over rows": lambda x: x.softmax(2),
    "reflected": lambda x: F.pad(x, (1, 1, 1, 1), mode="reflect"),
    "cropped": lambda x: F.pad(x, (-1, 0, 2, 0)),
    "flipped": lambda x: x.flip(3),
    "upsampled": lambda x: F.interpolate(x, scale_factor=2),
    "border windows": lambda x: F.avg_pool2d(x, 3, 2, 1, count_include_pad=False),
    "border windows, ceiling": lambda x: F.avg_pool2d(x, 3, 2, ceil_mode=True),
    "uneven windows": lambda x: F.adaptive_avg_pool2d(x, (7, 9)),
    "places of the maxima": lambda x: F.max_pool2d(x, 2, return_indices=True)[0],
    "a bound that is a tensor": lambda x: x.clamp(min=x.mean(1, keepdim=True)),
    "stacked rows": lambda x: torch.cat([x, x], 2),
    "every other row": lambda x: x[:, :, ::2],
    "layer norm of all": lambda x: F.layer_norm(x, x.shape[1:]),
    "transposed": lambda x: F.conv_transpose2d(x, draw(4, 4, 2, 2), stride=2),
    "turned": lambda x: x.transpose(2, 3),
    "read by keyword": lambda x: F.relu(input=x),
}


@pytest.mark.parametrize("name", GLOBAL)
def test_an_operation_that_is_not_local_is_run_as_a_whole(name):
    error, _ = gap(made(Through(GLOBAL[name])))
    assert error < 1e-12


@pytest.mark.parametrize("boxes", [BOXES[:1], BOXES[1:2], BOXES[[1, 5]], torch.tensor([(0, 0, 26, 31), (2, 3, 4, 5)])])
def test_boxes_of_any_number_and_size_are_exact(boxes):
    assert gap(made(Through(residual)), boxes)[0] < 1e-12


def test_a_map_is_the_answer():
    net = made(nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU()))
    assert gap(net)[0] < 1e-12


class Shared(nn.Module):
    """Writes through a view of a map that is read again."""

    def forward(self, inputs: Tensor) -> Tensor:
        x = inputs * 2
        x[:, :1].relu_()
        half = x.view(x.shape)
        half += 1
        return x.mean((2, 3))


class SharedLocally(nn.Module):
    def forward(self, inputs: Tensor) -> Tensor:
        x = F.relu(inputs)
        part, _ = x.split([1, 2], dim=1)
        part *= 2
        return x.mean((2, 3))


@pytest.mark.parametrize("net", [Shared(), SharedLocally()])
def test_writing_through_a_view_is_noticed(net):
    image, cover = draw(1, 3, *SIZE), torch.zeros(1, 3, *SIZE).double()
    with pytest.raises(BadModel, match="shares"):
        clean_pass(net, image, BOXES, cover, "incremental")
    many = BOXES.repeat(20, 1)
    outputs = torch.cat([part.output for part in patched_outputs(net, image, many, cover)])
    torch.testing.assert_close(outputs, net(covered(image, many, cover)), rtol=1e-12, atol=1e-12)


class Counting(nn.Module):
    """Takes another way where more than three images come at once."""

    def forward(self, inputs: Tensor) -> Tensor:
        x = F.avg_pool2d(inputs, 2)
        return (x.exp() if len(inputs) > 3 else x.square()).mean((2, 3))


def test_a_chunk_that_takes_another_way_is_run_as_a_whole():
    image, cover = draw(1, 3, *SIZE), torch.zeros(1, 3, *SIZE).double()
    clean = clean_pass(Counting(), image, BOXES, cover, "incremental")
    for boxes in (BOXES, BOXES[:2]):
        torch.testing.assert_close(clean.patched(boxes, cover), Counting()(covered(image, boxes, cover)))


class Noisy(nn.Module):
    def forward(self, inputs: Tensor) -> Tensor:
        return F.dropout(inputs, 0.5, training=True).mean((2, 3))


def test_a_model_that_answers_otherwise_every_time_is_refused():
    with torch.random.fork_rng(devices=[]), pytest.raises(BadModel, match=r"Noisy cannot be run by boxes: .* differ"):
        clean_pass(Noisy(), draw(1, 3, *SIZE), BOXES, draw(1, 3, *SIZE), "incremental")
