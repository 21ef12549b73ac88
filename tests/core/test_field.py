"""Receptive fields: published numbers, and the support of the gradient as a second derivation."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from glasshouse.core import geometry
from glasshouse.core.field import Extent


def caffe_alexnet() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(3, 2, 11, 4),
        nn.MaxPool2d(3, 2),
        nn.Conv2d(2, 2, 5, padding=2),
        nn.MaxPool2d(3, 2),
        nn.Conv2d(2, 2, 3, padding=1),
        nn.Conv2d(2, 2, 3, padding=1),
        nn.Conv2d(2, 2, 3, padding=1),
    )


def vgg16() -> nn.Module:
    layers: list[nn.Module] = []
    for convolutions in (2, 2, 3, 3, 3):
        layers += [nn.Conv2d(3, 3, 3, padding=1, groups=3) for _ in range(convolutions)] + [nn.MaxPool2d(2)]
    return nn.Sequential(*layers[:-1])


class Block(nn.Module):
    """ResNet's basic block."""

    def __init__(self, stride: int = 1):
        super().__init__()
        self.conv1 = nn.Conv2d(2, 2, 3, stride, 1)
        self.conv2 = nn.Conv2d(2, 2, 3, 1, 1)
        self.short = nn.Conv2d(2, 2, 1, stride) if stride > 1 else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        out = self.conv2(F.relu(self.conv1(x)))
        out += self.short(x)
        return F.relu(out)


def resnet18() -> nn.Module:
    stem = [nn.Conv2d(3, 2, 7, 2, 3), nn.ReLU(), nn.MaxPool2d(3, 2, 1)]
    return nn.Sequential(*stem, *(Block(s) for s in (1, 1, 2, 1, 2, 1, 2, 1)))


@pytest.mark.parametrize(
    ("net", "size", "field", "jump", "start"),
    [
        (caffe_alexnet(), 227, 163, 16, 17.0),  # (11-1)/2 + 4 (3-1)/2 + 8 (3-1)/2: only these windows have no padding
        (vgg16(), 224, 196, 16, 7.5),
        (resnet18(), 224, 435, 32, 0.0),
    ],
    ids=["AlexNet conv5", "VGG-16 conv5_3", "ResNet-18 layer4"],
)
def test_published_receptive_fields(net, size, field, jump, start):
    layers = geometry(net, torch.zeros(1, 3, size, size))
    last = layers[list(layers.layers)[-2]]
    assert last.local
    assert last.rows == last.cols == Extent(float(jump), float(field), start)


def test_the_recurrence_of_araujo_norris_and_sim():
    # Their closed forms, with S_l the product of the strides before layer l:
    # size = 1 + sum_l (k_l - 1) S_l,  centre of the first = sum_l ((k_l - 1) / 2 - p_l) S_l.
    kernels, strides, pads, spread = [3, 5, 2, 3], [2, 1, 3, 2], [1, 0, 0, 2], [1, 2, 1, 3]
    extent, size, start, jump = Extent(), 1.0, 0.0, 1.0
    for k, s, p, d in zip(kernels, strides, pads, spread, strict=True):
        extent = extent.through(k, s, p, d)
        size += (k - 1) * d * jump
        start += ((k - 1) * d / 2 - p) * jump
        jump *= s
    assert extent == Extent(jump, size, start)


class Pads(nn.Module):
    """Calls of `F.pad` that differ on each side, before a convolution without padding."""

    def __init__(self, *amounts: int):
        super().__init__()
        self.amounts, self.conv = amounts, nn.Conv2d(1, 1, 3, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(F.pad(x, self.amounts))


class Joins(nn.Module):
    """Two branches with different fields side by side."""

    def __init__(self):
        super().__init__()
        self.wide, self.long = nn.Conv2d(1, 1, 5, padding=2), nn.Conv2d(1, 1, (1, 7), padding=(0, 3))
        self.mix = nn.Conv2d(2, 1, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.mix(torch.cat([self.wide(x), self.long(x)], 1))


class Adds(nn.Module):
    """A residual block whose branches see unlike parts: the box holds both."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(1, 1, (3, 1), padding=(1, 0))
        self.back = nn.Conv2d(1, 1, (1, 5), padding=(0, 2))

    def forward(self, x: Tensor) -> Tensor:
        y = self.back(self.conv(x))
        y += x
        return y


class Slices(nn.Module):
    """Crops and steps by indexing."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(1, 1, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(x[..., 3:, 1::2])


class Permutes(nn.Module):
    """Goes channels-last through a linear layer, as Swin and ConvNeXt do."""

    def __init__(self):
        super().__init__()
        self.conv, self.mix, self.after = nn.Conv2d(1, 2, 4, 4), nn.Linear(2, 2), nn.Conv2d(2, 1, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return self.after(self.mix(self.conv(x).permute(0, 2, 3, 1)).permute(0, 3, 1, 2))


class Tokenises(nn.Module):
    """Goes to tokens and back."""

    def __init__(self):
        super().__init__()
        self.conv, self.mix, self.after = nn.Conv2d(1, 2, 3, 3), nn.Linear(2, 2), nn.Conv2d(2, 1, 3)

    def forward(self, x: Tensor) -> Tensor:
        y = self.conv(x)
        tokens = self.mix(y.flatten(2).transpose(1, 2))
        return self.after(tokens.transpose(1, 2).reshape(y.shape))


NETS = {
    "one convolution": nn.Conv2d(1, 1, 3),
    "padding and stride": nn.Conv2d(1, 1, 5, 2, 2),
    "not square": nn.Conv2d(1, 1, (3, 7), (2, 3), (0, 2)),
    "dilation": nn.Sequential(nn.Conv2d(1, 1, 3, dilation=2, padding=2), nn.Conv2d(1, 1, 3, 2, 1, dilation=3)),
    "same padding": nn.Sequential(nn.Conv2d(1, 1, (5, 3), padding="same"), nn.Conv2d(1, 1, 2, padding="valid")),
    "average pooling": nn.Sequential(nn.Conv2d(1, 1, 3, padding=1), nn.AvgPool2d(3, 2), nn.AvgPool2d(2)),
    "pooling up to the border": nn.Sequential(nn.Conv2d(1, 1, 3, padding=1), nn.AvgPool2d(2, ceil_mode=True)),
    "adaptive pooling": nn.Sequential(nn.Conv2d(1, 1, (2, 3)), nn.AdaptiveAvgPool2d((6, 4))),
    "one position": nn.Sequential(nn.Conv2d(1, 1, 3), nn.AdaptiveAvgPool2d(1)),
    "uneven padding": nn.Sequential(Pads(0, 1, 2, 0), Pads(3, 1, 0, 2)),
    "cropping": nn.Sequential(nn.ZeroPad2d((-2, 1, -1, -3)), nn.Conv2d(1, 1, 3)),
    "concatenation": nn.Sequential(Joins(), nn.AvgPool2d(2)),
    "two blocks": nn.Sequential(Adds(), nn.AvgPool2d(2), Adds()),
    "slices": Slices(),
    "channels last": Permutes(),
    "tokens": Tokenises(),
}


HOLES_AT_BORDERS = {
    "dilation",
    "channels last",
    "uneven padding",
}  # taps, or pixels cut off by a stride, that nothing reads


def support(net: nn.Module, images: Tensor, position: int) -> list[int]:
    """Box around the pixels that move one position: (top, left, bottom, right), the last two exclusive."""
    images = images.requires_grad_()
    (gradient,) = torch.autograd.grad(net(images).sum(1).flatten()[position], images)
    rows, cols = gradient[0, 0].any(1).nonzero().flatten().tolist(), gradient[0, 0].any(0).nonzero().flatten().tolist()
    return [rows[0], cols[0], rows[-1] + 1, cols[-1] + 1] if rows else []


@pytest.mark.parametrize("name", NETS)
@pytest.mark.parametrize("size", [(23, 31), (24, 20)])
def test_boxes_are_the_support_of_the_gradient(name, size):
    # All weights positive, so that nothing cancels.
    net = nn.Sequential(NETS[name]).double()
    for parameter in net.parameters():
        nn.init.uniform_(parameter, 0.1, 1.0)
    images = torch.rand(1, 1, *size, dtype=torch.float64)
    layer = geometry(net, images)["0"]
    last = layer.grid[0] * layer.grid[1] - 1
    chosen = torch.tensor(sorted({*range(0, last, 7), layer.grid[1] - 1, last}))
    boxes, whole = layer.boxes(chosen).tolist(), layer.boxes(chosen, clip=False).tolist()
    for position, box, free in zip(chosen.tolist(), boxes, whole, strict=True):
        seen = support(net, images, position)
        if not seen:
            continue  # a position of padding alone
        too_large = [b - s for b, s in zip(box[2:], seen[2:], strict=True)]
        too_large += [s - b for b, s in zip(box[:2], seen[:2], strict=True)]
        assert min(too_large) >= 0, f"position {position}: {box} leaves out part of {seen}"
        if name == "adaptive pooling":
            assert max(too_large) <= 1  # windows differ by one where the grid does not divide the image
        elif name not in HOLES_AT_BORDERS or box == free:
            assert box == seen, f"position {position}"


def test_adaptive_pooling_that_divides_evenly_is_exact():
    net = nn.Sequential(nn.AdaptiveAvgPool2d((4, 3)))
    layer = geometry(net, torch.zeros(1, 1, 20, 21))["0"]
    assert layer.boxes(torch.tensor([0, 5, 11])).tolist() == [[0, 0, 5, 7], [5, 14, 10, 21], [15, 14, 20, 21]]


def test_boxes_can_reach_beyond_the_image_when_not_clipped():
    layer = geometry(nn.Sequential(nn.Conv2d(1, 1, 5, 2, 2)), torch.zeros(1, 1, 8, 8))["0"]
    assert layer.boxes(torch.tensor([0]), clip=False).tolist() == [[-2, -2, 3, 3]]
    assert layer.boxes(torch.tensor([0])).tolist() == [[0, 0, 3, 3]]


class Gate(nn.Module):
    """Squeeze and excitation: every position is scaled by what the whole image holds."""

    def __init__(self, pool: nn.Module):
        super().__init__()
        self.pool, self.fc = pool, nn.Conv2d(2, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        return x * torch.sigmoid(self.fc(self.pool(x)))


class Mean(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.mean((2, 3), keepdim=True)


@pytest.mark.parametrize("pool", [nn.AdaptiveAvgPool2d(1), Mean()], ids=["pooling", "mean"])
def test_a_gate_makes_positions_see_everything(pool):
    net = nn.Sequential(nn.Conv2d(1, 2, 3), Gate(pool), nn.Conv2d(2, 2, 3))
    layers = geometry(net, torch.zeros(1, 1, 12, 12))
    assert layers["0"].local
    assert not layers["1"].local
    assert not layers["2"].local
    assert layers["2"].rows.size == 5


@pytest.mark.parametrize("norm", [nn.GroupNorm(1, 2), nn.InstanceNorm2d(2)])
def test_norms_over_the_image_make_positions_see_everything(norm):
    layers = geometry(nn.Sequential(nn.Conv2d(1, 2, 3), norm, nn.ReLU()), torch.zeros(1, 1, 12, 12))
    assert layers["0"].local
    assert not layers["2"].local
