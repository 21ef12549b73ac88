"""Class activation maps against sums written out, for channels first, channels last and tokens."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from glasshouse import attribute
from glasshouse.core import BadModel, LayerNotFound, geometry, probe


def seen_at(net: nn.Module, images: torch.Tensor, layer: str) -> torch.Tensor:
    with probe(net, layer) as seen, torch.no_grad():
        net(images)
    return seen[layer]


def cam_by_hand(weight: torch.Tensor, maps: torch.Tensor, classes: list[int]) -> torch.Tensor:
    """Unit by unit and place by place; `maps` is `n k i j`."""
    n, k, rows, cols = maps.shape
    out = torch.zeros(n, rows, cols, dtype=maps.dtype)
    for image in range(n):
        for unit in range(k):
            for i in range(rows):
                for j in range(cols):
                    out[image, i, j] += weight[classes[image], unit] * maps[image, unit, i, j]
    return out


def test_cam_is_the_weighted_sum_of_units(cnn, images):
    cnn, images = cnn.double(), images.double()
    expected = cam_by_hand(cnn[-1].weight.detach(), seen_at(cnn, images, "4"), [2, 0, 3])
    torch.testing.assert_close(attribute.cam(cnn, images, [2, 0, 3]).native, expected)


def test_the_mean_of_cam_and_the_bias_are_the_logit(cnn, images):
    e = attribute.cam(cnn.double(), images.double(), 1)
    logit = cnn(images.double())[:, 1].detach()
    torch.testing.assert_close(e.native.mean((1, 2)) + cnn[-1].bias[1].detach(), logit)
    assert (e.native < 0).any()


def test_grad_cam_is_cam_where_the_head_is_pooling_then_linear(cnn, images):
    # Then dy/dA_k = w_k / (h w): Grad-CAM is CAM without negative values, divided by the number of positions.
    cam = attribute.cam(cnn.double(), images.double(), 2).native
    found = attribute.grad_cam(cnn, images.double(), 2)
    assert found.layer == "4"
    torch.testing.assert_close(found.native, cam.relu() / cam[0].numel())


def test_a_mixture_of_classes_has_the_mixture_of_their_maps(cnn, images):
    cnn, images = cnn.double(), images.double()
    each = torch.stack([attribute.cam(cnn, images, k).native for k in range(4)])
    weights = torch.tensor([1.0, -1.0, 0.0, 2.0]).double()
    mixture = attribute.cam(cnn, images, weights.expand(3, 4)).native
    torch.testing.assert_close(mixture, torch.einsum("k,knij->nij", weights, each))
    # Of a probability: its gradient with respect to the logits says how they mix.
    p = cnn(images).softmax(1).detach()
    share = p[:, 1:2] * (F.one_hot(torch.tensor(1), 4) - p)
    torch.testing.assert_close(
        attribute.cam(cnn, images, 1, score="prob").native, torch.einsum("nk,knij->nij", share, each)
    )


class Head(nn.Module):
    """A convolution, then average pooling and a linear layer in one of many spellings."""

    def __init__(self, spelling: str, bias: bool = True):
        super().__init__()
        self.spelling, self.conv = spelling, nn.Conv2d(3, 8, 3, padding=1)
        self.fc = nn.Linear(8, 4, bias=bias)
        self.norm = nn.LayerNorm(8)
        self.point = nn.Conv2d(8, 4, 1)
        self.double().eval()

    def forward(self, images):
        x = self.conv(images).relu()
        match self.spelling:
            case "mean":
                return self.fc(x.mean((2, 3)))
            case "functional":
                return F.linear(F.adaptive_avg_pool2d(x, 1).flatten(1), self.fc.weight, bias=self.fc.bias)
            case "convolution":
                return self.point(F.avg_pool2d(x, x.shape[-2:])).flatten(1)
            case "channels last":
                return self.fc(x.permute(0, 2, 3, 1).mean((1, 2)))
            case "tokens":
                return self.fc(x.flatten(2).transpose(1, 2).mean(1))
            case "norm between":
                return self.fc(self.norm(x.mean((2, 3))))
            case "maximum":
                return self.fc(x.amax((2, 3)))
            case "scaled":
                return 2 * self.fc(x.mean((2, 3)))
            case "flat":
                return self.fc(x.reshape(len(x), 8, -1)[:, :, 0])
        raise AssertionError(self.spelling)


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("spelling", ["mean", "functional", "convolution", "channels last", "tokens"])
def test_the_head_is_found_however_it_is_written(images, spelling, bias):
    net, images = Head(spelling, bias), images.double()
    weight = net.point.weight[:, :, 0, 0] if spelling == "convolution" else net.fc.weight
    maps = net.conv(images).relu().detach()
    expected = cam_by_hand(weight.detach(), maps, [1, 1, 1])
    torch.testing.assert_close(attribute.cam(net, images, 1).native, expected)


@pytest.mark.parametrize("spelling", ["norm between", "maximum", "scaled", "flat"])
def test_a_head_of_another_kind_is_refused(images, spelling):
    with pytest.raises(BadModel, match="does not end in average pooling and one linear layer"):
        attribute.cam(Head(spelling), images.double())


class Mixer(nn.Module):
    """A tiny transformer-like net: patches, a class token, a layer that mixes tokens, a head on the class token."""

    def __init__(self):
        super().__init__()
        self.patches = nn.Conv2d(3, 6, 4, stride=4)
        self.token = nn.Parameter(torch.randn(1, 1, 6, generator=torch.Generator().manual_seed(0)))
        self.units = nn.Linear(6, 6)
        self.norm = nn.LayerNorm(6)
        self.head = nn.Linear(6, 4)
        self.double().eval()

    def start(self, images):
        x = self.patches(images).flatten(2).transpose(1, 2)
        return torch.cat([self.token.expand(len(x), 1, 6), x], 1)

    def finish(self, x):
        x = self.norm(x)
        share = (x @ x.transpose(1, 2)).softmax(-1)
        return self.head((share @ x.tanh())[:, 0])

    def forward(self, images):
        return self.finish(self.units(self.start(images)))


def test_grad_cam_of_tokens_leaves_the_class_token_out():
    net, images = Mixer(), torch.randn(2, 3, 12, 20, generator=torch.Generator().manual_seed(1)).double()
    tokens = net.units(net.start(images)).detach().requires_grad_()
    (slope,) = torch.autograd.grad(net.finish(tokens)[:, 3].sum(), tokens)
    weight = slope[:, 1:].mean(1)
    expected = (tokens[:, 1:] * weight[:, None]).sum(2).relu().view(2, 3, 5)
    e = attribute.grad_cam(net, images, 3, layer="units")
    torch.testing.assert_close(e.native, expected.detach())
    assert e.heatmap.shape == (2, 12, 20)
    assert e.native.abs().sum() > 0


class ChannelsLast(nn.Module):
    """A stem, then layers whose units are the last axis."""

    def __init__(self):
        super().__init__()
        self.stem, self.units, self.head = nn.Conv2d(3, 5, 2, stride=2), nn.Linear(5, 7), nn.Linear(7, 4)
        self.double().eval()

    def finish(self, x):
        return self.head((x.tanh() * x).mean((1, 2)).exp())

    def forward(self, images):
        return self.finish(self.units(self.stem(images).permute(0, 2, 3, 1)))


def test_grad_cam_finds_the_units_on_the_last_axis(images):
    net, images = ChannelsLast(), images.double()
    maps = net.units(net.stem(images).permute(0, 2, 3, 1)).detach().requires_grad_()
    (slope,) = torch.autograd.grad(net.finish(maps)[:, 0].sum(), maps)
    expected = torch.einsum("nk,nijk->nij", slope.mean((1, 2)), maps).relu().detach()
    torch.testing.assert_close(attribute.grad_cam(net, images, 0, layer="units").native, expected)


def test_grad_cam_reads_a_layer_before_what_overwrites_it(images):
    # The ReLU after the norm writes in place, and the norm would be folded away if nobody looked at its input.
    def build(inplace: bool) -> nn.Sequential:
        draw = torch.Generator().manual_seed(0)
        parts = [nn.Conv2d(3, 6, 3), nn.BatchNorm2d(6), nn.ReLU(inplace), nn.AdaptiveAvgPool2d(1)]
        net = nn.Sequential(*parts, nn.Flatten(), nn.Linear(6, 4)).double().eval()
        for weight in net.parameters():
            nn.init.normal_(weight, generator=draw)
        nn.init.uniform_(net[1].running_var, 0.5, 2, generator=draw)
        return net

    for layer in ("0", "1", "2"):
        maps = seen_at(build(False), images.double(), layer).requires_grad_()
        tail = build(False)[int(layer) + 1 :]
        (slope,) = torch.autograd.grad(tail(maps)[:, 1].sum(), maps)
        expected = torch.einsum("nk,nkij->nij", slope.mean((2, 3)), maps).relu().detach()
        found = attribute.grad_cam(build(True), images.double(), 1, layer=layer).native
        torch.testing.assert_close(found, expected)


def test_without_a_layer_the_last_one_with_positions_is_used_and_named(cnn, images):
    e = attribute.grad_cam(cnn, images)
    assert e.layer == geometry(cnn, images).usual() == "4"
    assert e.settings["layer"] == "4"
    assert e.native.shape == (3, 7, 9)
    assert e.heatmap.shape == (3, 14, 18)


def test_mirrored_weights_and_images_give_mirrored_maps(cnn, images):
    mirrored = cnn.double()
    before = {m: getattr(attribute, m)(cnn, images.double(), 1).native for m in ("cam", "grad_cam")}
    for part in mirrored:
        if isinstance(part, nn.Conv2d):
            part.weight.data = part.weight.flip(3).detach()
    for name, native in before.items():
        found = getattr(attribute, name)(mirrored, images.double().flip(3), 1).native
        torch.testing.assert_close(found.flip(2), native)


def test_a_layer_that_is_not_there_names_the_nearest(cnn, images):
    with pytest.raises(LayerNotFound, match=r"no layer '44' here.*Did you mean '4'"):
        attribute.grad_cam(cnn, images, layer="44")


def test_a_net_without_positions_has_no_map():
    net = nn.Sequential(nn.Flatten(), nn.Linear(12, 3), nn.ReLU(), nn.Linear(3, 2)).eval()
    with pytest.raises(BadModel, match="no layer of this model has a spatial output"):
        attribute.grad_cam(net, torch.randn(1, 3, 2, 2, generator=torch.Generator().manual_seed(0)))
