"""Occlusion against a loop over windows, and against what a linear model must answer."""

import pytest
import torch
from torch import nn

from glasshouse import attribute
from glasshouse.core import BadInput


@pytest.fixture
def linear(images) -> nn.Sequential:
    net = nn.Sequential(nn.Flatten(), nn.Linear(images[0].numel(), 2)).double().eval()
    nn.init.normal_(net[1].weight, generator=torch.Generator().manual_seed(0))
    return net


@pytest.fixture
def precise(images) -> torch.Tensor:
    return images.double()


@pytest.fixture
def undecided(cnn, precise) -> nn.Module:
    """A network in doubt: over the three images, every class has the same mean logit."""
    cnn = cnn.double()
    cnn[-1].weight.data *= 30
    cnn[-1].bias.data -= cnn(precise).mean(0).detach()
    return cnn


def spans(size: int, window: int, stride: int, edge: str) -> list[slice]:
    """Windows from the left until one touches the right border."""
    found, start = [], 0
    while True:
        first = min(start, size - window) if edge == "shift" else start
        found.append(slice(first, min(first + window, size)))
        if start + window >= size:
            return found
        start += stride


def by_hand(net, images, target, window, stride, cover, edge="truncate"):
    """Grid and map of `n` images, one covered image at a time."""
    n, _, h, w = images.shape
    rows, cols = (spans(size, win, st, edge) for size, win, st in zip((h, w), window, stride, strict=True))
    grid, total, count = torch.zeros(n, len(rows), len(cols)).double(), torch.zeros(n, h, w).double(), torch.zeros(h, w)
    for image in range(n):
        clean = net(images[image : image + 1]).softmax(1)[0, target[image]]
        for i, row in enumerate(rows):
            for j, col in enumerate(cols):
                covered = images[image : image + 1].clone()
                covered[..., row, col] = cover[image][..., row, col]
                drop = clean - net(covered).softmax(1)[0, target[image]]
                grid[image, i, j] = drop
                total[image, row, col] += drop
                count[row, col] += 1
    return grid, total / (count / n)


@pytest.mark.parametrize("edge", ["truncate", "shift"])
@pytest.mark.parametrize(
    ("window", "stride"), [((5, 4), (3, 3)), ((14, 18), (1, 1)), ((1, 7), (1, 7)), ((6, 6), (4, 5))]
)
def test_a_loop_over_windows_gives_the_same(cnn, precise, window, stride, edge):
    net, target = cnn.double(), [3, 0, 1]
    cover = torch.randn(precise.shape, generator=torch.Generator().manual_seed(5)).double()
    with torch.no_grad():
        grid, heat = by_hand(net, precise, target, window, stride, cover, edge)
    e = attribute.occlusion(
        net, precise, target, sliding_window_shapes=window, strides=stride, baselines=cover, edge=edge, chunk=7
    )
    torch.testing.assert_close(e.extras["grid"], grid)
    torch.testing.assert_close(e.native[:, 0], heat)
    torch.testing.assert_close(e.heatmap, heat.float())


def test_covering_single_pixels_of_a_linear_model_gives_its_terms(linear, precise):
    e = attribute.occlusion(linear, precise, 1, sliding_window_shapes=1, strides=1, score="logit", chunk=512)
    terms = (linear[1].weight[1].view(1, 3, 14, 18) * precise).sum(1)
    torch.testing.assert_close(e.native[:, 0], terms.detach())


@pytest.mark.parametrize("window", [(7, 6), (4, 5)])
def test_the_patches_of_a_linear_model_sum_to_its_change(linear, precise, window):
    # Windows side by side cover every pixel once, also where the last one is cut off.
    baseline = torch.tensor([0.3, -1.0, 2.0]).double().view(3, 1, 1)
    e = attribute.occlusion(
        linear, precise, 0, sliding_window_shapes=window, strides=window, baselines=baseline, score="logit"
    )
    change = (linear(precise) - linear(baseline.expand_as(precise)))[:, 0].detach()
    torch.testing.assert_close(e.extras["grid"].sum((1, 2)), change)


def test_the_last_window_is_cut_off_or_moved_inside():
    # Six columns, window and stride 4: the second window covers two columns, or the last four.
    net = nn.Sequential(nn.Flatten(), nn.Linear(6, 1, bias=False)).double().eval()
    net[1].weight.data = torch.tensor([[1.0, 2, 4, 8, 16, 32]]).double()
    image = torch.ones(1, 1, 1, 6).double()
    settings = {"sliding_window_shapes": (1, 4), "strides": (1, 4), "score": "logit"}
    cut = attribute.occlusion(net, image, 0, **settings)
    assert cut.extras["grid"].flatten().tolist() == [15, 48]
    assert cut.native.flatten().tolist() == [15, 15, 15, 15, 48, 48]
    moved = attribute.occlusion(net, image, 0, edge="shift", **settings)
    assert moved.extras["grid"].flatten().tolist() == [15, 60]
    assert moved.native.flatten().tolist() == [15, 15, 37.5, 37.5, 60, 60]


def test_the_number_of_covered_images_per_pass_changes_nothing(cnn, precise):
    settings = {"sliding_window_shapes": 6, "strides": 4}
    whole = attribute.occlusion(cnn.double(), precise, chunk=10_000, **settings)
    for chunk in (1, 5):
        part = attribute.occlusion(cnn, precise, chunk=chunk, **settings)
        torch.testing.assert_close(part.native, whole.native)
        for name, value in whole.extras.items():
            torch.testing.assert_close(part.extras[name], value)


def test_the_extras_are_what_the_network_says_under_each_patch(undecided, precise):
    net, cover = undecided, precise.flip(0)
    e = attribute.occlusion(net, precise, 2, sliding_window_shapes=(7, 9), strides=(7, 9), baselines=cover)
    for i in range(2):
        for j in range(2):
            covered = precise.clone()
            part = (..., slice(7 * i, 7 * i + 7), slice(9 * j, 9 * j + 9))
            covered[part] = cover[part]
            logits = net(covered).detach()
            torch.testing.assert_close(e.extras["probability"][:, i, j], logits.softmax(1)[:, 2])
            assert torch.equal(e.extras["top"][:, i, j], logits.argmax(1))
    assert e.extras["top"].unique().numel() > 1


def test_by_default_the_drop_is_of_the_probability(cnn, precise):
    e = attribute.occlusion(cnn.double(), precise, 1, sliding_window_shapes=(14, 18), strides=1)
    p, silent = (cnn(x).softmax(1)[:, 1].detach() for x in (precise, torch.zeros_like(precise)))
    torch.testing.assert_close(e.extras["grid"][:, 0, 0], p - silent)


def test_the_class_is_that_of_the_clean_image(undecided, precise):
    settings = {"sliding_window_shapes": 7, "strides": 7, "baselines": 3.0}
    found = attribute.occlusion(undecided, precise, **settings)
    best = undecided(precise).argmax(1).tolist()
    assert found.target == tuple(best)
    assert (found.extras["top"] != torch.tensor(best).view(3, 1, 1)).any()  # under some patch another class wins
    assert torch.equal(found.native, attribute.occlusion(undecided, precise, best, **settings).native)


def test_a_model_that_ignores_the_image_loses_nothing(precise):
    net = nn.Sequential(nn.Flatten(), nn.Linear(precise[0].numel(), 2)).double().eval()
    nn.init.zeros_(net[1].weight)
    assert (attribute.occlusion(net, precise, 0, sliding_window_shapes=5, strides=5).native == 0).all()


@pytest.mark.parametrize(
    "settings",
    [
        {"sliding_window_shapes": 15},
        {"sliding_window_shapes": 0},
        {"sliding_window_shapes": 4, "strides": 5},
        {"sliding_window_shapes": (4, 4), "strides": (2, 0)},
        {"sliding_window_shapes": 4, "strides": 2, "chunk": 0},
    ],
)
def test_windows_that_leave_pixels_out_are_refused(cnn, images, settings):
    with pytest.raises(BadInput):
        attribute.occlusion(cnn, images, **settings)


def test_a_baseline_of_another_shape_is_refused(cnn, images):
    with pytest.raises(BadInput, match=r"baselines of shape \(2, 1, 1\)"):
        attribute.occlusion(cnn, images, sliding_window_shapes=4, strides=4, baselines=torch.zeros(2, 1, 1))
