"""CAM against sums written out, under every spelling of its head."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from glasshouse import attribute
from glasshouse.attribute.cam import pooled_head, read_head
from glasshouse.core import BadModel, probe
from glasshouse.core.trace import record


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


def test_layers_that_only_activations_keep_from_the_pooling_are_known(images):
    class Deep(nn.Module):
        def __init__(self):
            super().__init__()
            self.early, self.conv = nn.Conv2d(3, 8, 3), nn.Sequential(nn.Conv2d(8, 8, 3), nn.BatchNorm2d(8))
            self.act, self.twice, self.fc = nn.ReLU(inplace=True), nn.Identity(), nn.Linear(8, 4)

        def forward(self, images):
            x = self.twice(self.conv(self.early(images)))
            return self.fc(F.silu(self.act(x)).mean((2, 3)))

    net = Deep().eval()
    head = pooled_head(net, record(net, images))
    assert set(head.makers) == {"conv", "conv.1", "twice", "act"}
    for layer in head.makers:
        read = read_head(net, images, head, layer)
        torch.testing.assert_close(read.layer, seen_at(net, images, layer))
        torch.testing.assert_close(read.output, net(images))
    assert pooled_head(Head("maximum"), record(Head("maximum"), images.double())) is None


@pytest.mark.parametrize("spelling", ["norm between", "maximum", "scaled", "flat"])
def test_a_head_of_another_kind_is_refused(images, spelling):
    with pytest.raises(BadModel, match="does not end in average pooling and one linear layer"):
        attribute.cam(Head(spelling), images.double())


def test_mirrored_weights_and_images_give_mirrored_maps(cnn, images):
    before = attribute.cam(cnn.double(), images.double(), 1).native
    for part in cnn:
        if isinstance(part, nn.Conv2d):
            part.weight.data = part.weight.flip(3).detach()
    found = attribute.cam(cnn, images.double().flip(3), 1).native
    torch.testing.assert_close(found.flip(2), before)
