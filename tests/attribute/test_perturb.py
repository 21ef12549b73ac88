"""Occlusion against a loop over windows, and against what a linear model must answer; by boxes and as a whole."""

import pytest
import torch
from torch import nn

from glasshouse import attribute
from glasshouse.attribute.baselines import BLUR, baseline_images
from glasshouse.core import BadInput, BadModel, blur


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


@pytest.mark.parametrize("engine", ["incremental", "dense"])
@pytest.mark.parametrize("edge", ["truncate", "shift"])
@pytest.mark.parametrize(
    ("window", "stride"), [((5, 4), (3, 3)), ((14, 18), (1, 1)), ((1, 7), (1, 7)), ((6, 6), (4, 5))]
)
def test_a_loop_over_windows_gives_the_same(cnn, precise, window, stride, edge, engine):
    net, target = cnn.double(), [3, 0, 1]
    cover = torch.randn(precise.shape, generator=torch.Generator().manual_seed(5)).double()
    with torch.no_grad():
        grid, heat = by_hand(net, precise, target, window, stride, cover, edge)
    settings = {"sliding_window_shapes": window, "strides": stride, "baselines": cover, "edge": edge, "engine": engine}
    e = attribute.occlusion(net, precise, target, chunk=7, **settings)
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


@pytest.mark.parametrize("engine", ["incremental", "dense"])
def test_patches_side_by_side_share_out_the_change_of_a_linear_convolution(precise, engine):
    net = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.AvgPool2d(2), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    net, cover = net.double().eval(), precise.flip(0)
    settings = {"sliding_window_shapes": (4, 5), "strides": (4, 5), "baselines": cover, "score": "logit"}
    e = attribute.occlusion(net, precise, 2, engine=engine, **settings)
    torch.testing.assert_close(e.extras["grid"].sum((1, 2)), (net(precise) - net(cover))[:, 2].detach())


def test_every_class_is_read_from_the_same_passes(undecided, precise):
    settings = {"sliding_window_shapes": 5, "strides": 4, "score": "logit"}
    e = attribute.occlusion(undecided, precise, all_classes=True, **settings)
    clean = undecided(precise).detach()
    assert e.extras["scores"].shape == (3, 4, *e.extras["grid"].shape[1:])
    for target in range(4):
        alone = attribute.occlusion(undecided, precise, target, **settings).extras["grid"]
        torch.testing.assert_close(clean[:, target, None, None] - e.extras["scores"][:, target], alone)
    assert torch.equal(e.extras["scores"].argmax(1), e.extras["top"])
    assert "scores" not in attribute.occlusion(undecided, precise, **settings).extras


def test_all_classes_of_a_map_are_refused(images):
    net = nn.Sequential(nn.Conv2d(3, 4, 1)).eval()
    assert attribute.occlusion(net, images, (1, 2, 3), sliding_window_shapes=7, strides=7, score="logit").native.any()
    with pytest.raises(BadInput, match="positions besides classes"):
        attribute.occlusion(net, images, (1, 2, 3), sliding_window_shapes=7, strides=7, all_classes=True)


def test_the_work_of_a_patch_is_told(cnn, images):
    settings = {"sliding_window_shapes": 2, "strides": 2}
    assert attribute.occlusion(cnn, images, **settings).extras["work"].tolist() == [1, 1, 1]
    assert (attribute.occlusion(cnn, images, engine="incremental", **settings).extras["work"] < 0.5).all()


def test_a_model_that_boxes_are_wrong_for_says_so_if_they_are_asked_for(images):
    class Shared(nn.Module):
        def forward(self, inputs):
            twice = inputs * 2
            twice.view(inputs.shape).add_(1)  # changes what `twice` holds, through another tensor
            return twice.mean((2, 3))

    settings = {"sliding_window_shapes": 2, "strides": 1}
    with pytest.raises(BadModel, match="Shared cannot be run by boxes"):
        attribute.occlusion(Shared(), images, engine="incremental", **settings)
    assert attribute.occlusion(Shared(), images, **settings).extras["work"].tolist() == [1, 1, 1]


def test_baselines_made_of_the_image(precise):
    mean = precise.mean((2, 3), keepdim=True)
    assert torch.equal(baseline_images("mean", precise), mean.expand_as(precise))
    assert torch.equal(baseline_images("blur", precise), blur(precise, BLUR * 14))
    noise = (baseline_images("noise", precise) - mean) / precise.std((2, 3), correction=0, keepdim=True)
    torch.testing.assert_close(noise, noise[:1].expand_as(noise))  # one draw for all images
    assert abs(float(noise.mean())) < 0.1
    assert 0.9 < float(noise.std()) < 1.1


@pytest.mark.parametrize("kind", ["mean", "blur", "noise"])
def test_a_kind_of_baseline_is_that_image(cnn, precise, kind):
    settings = {"sliding_window_shapes": 7, "strides": 7}
    named = attribute.occlusion(cnn.double(), precise, 1, baselines=kind, **settings)
    given = attribute.occlusion(cnn, precise, 1, baselines=baseline_images(kind, precise), **settings)
    assert torch.equal(named.native, given.native)
    assert named.settings["baselines"] == kind


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
