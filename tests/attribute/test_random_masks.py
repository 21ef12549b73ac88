"""RISE against loops over full masks, exact expectations, and the scatter over seeds."""

from itertools import product

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from glasshouse import attribute, data
from glasshouse.attribute.random_masks import Masks, Spread, draw_masks
from glasshouse.core import BadInput, watching

SIZE = (14, 18)


def full(masks: Masks, size: tuple[int, int]) -> Tensor:
    """All masks as the paper makes them: enlarge the grid of cells, cut out a window."""
    (s, t), found = masks.bits.shape[1:], []
    length = -(-size[0] // s), -(-size[1] // t)
    for bits, shift in zip(masks.bits.double(), masks.shift.tolist(), strict=True):
        enlarged = (s + 1) * length[0], (t + 1) * length[1]
        whole = F.interpolate(bits[None, None], enlarged, mode="bilinear", align_corners=False)[0, 0]
        top, left = shift // length[1], shift % length[1]
        found.append(whole[top : top + size[0], left : left + size[1]])
    return torch.stack(found)


def by_hand(
    net: nn.Module, images: Tensor, target: int, masks: Tensor, cover: Tensor, p: float = 0.5
) -> dict[str, Tensor]:
    """The three estimates, one masked image at a time."""
    maps: dict[str, list[Tensor]] = {"paper": [], "normalized": [], "centered": []}
    for image in images:
        scores = torch.stack([net((m * image + (1 - m) * cover)[None]).softmax(1)[0, target].detach() for m in masks])
        weighted = sum(y * m for y, m in zip(scores, masks, strict=True))
        maps["paper"].append(weighted / (len(masks) * 0.5))
        maps["normalized"].append(weighted / masks.sum(0))
        around = sum((y - scores.mean()) * m for y, m in zip(scores, masks, strict=True))
        maps["centered"].append(around / (len(masks) * 0.5))
    return {name: torch.stack(found)[:, None] for name, found in maps.items()}


@pytest.fixture
def sure(cnn) -> nn.Module:
    """A network whose answers differ, in double precision."""
    cnn = cnn.double()
    cnn[-1].weight.data *= 40
    return cnn


@pytest.fixture
def precise(images) -> Tensor:
    return images.double()


@pytest.mark.parametrize("grid", [(7, 7), (3, 5), (1, 2), SIZE])
def test_masks_are_enlarged_grids_seen_through_a_window(grid):
    masks = draw_masks(20, SIZE, grid, 0.5, seed=3)
    torch.testing.assert_close(masks.of(torch.arange(20)), full(masks, SIZE))
    assert masks.shift.unique().numel() > 1 or grid == SIZE


@pytest.mark.parametrize("p", [0.2, 0.7])
def test_every_pixel_is_shown_with_the_same_probability(p):
    masks = draw_masks(4000, SIZE, (4, 5), p, seed=0).of(torch.arange(4000))
    error = masks.std(0) / 4000**0.5
    assert ((masks.mean(0) - p).abs() < 4.5 * error).all()


@pytest.mark.parametrize("estimator", ["paper", "normalized", "centered"])
def test_a_loop_over_masks_gives_the_same(sure, precise, estimator):
    cover = torch.tensor([0.3, -1.0, 2.0]).double().view(3, 1, 1)
    settings = {"n_masks": 36, "grid": (3, 4), "seed": 5}
    masks = full(draw_masks(36, SIZE, (3, 4), 0.5, 5), SIZE)
    expected = by_hand(sure, precise, 2, masks, cover)[estimator]
    e = attribute.rise(sure, precise, 2, estimator=estimator, baselines=cover, chunk=7, **settings)
    torch.testing.assert_close(e.native, expected)


def test_the_estimate_tends_to_its_exact_expectation():
    # Three by two pixels under as many cells: there is one shift, and 64 masks can all be tried.
    net = nn.Sequential(nn.Flatten(), nn.Linear(12, 8), nn.ReLU(), nn.Linear(8, 3)).double()
    source = torch.Generator().manual_seed(0)
    for weights in net.parameters():
        nn.init.normal_(weights, generator=source)
    image, p = torch.randn(1, 2, 3, 2, generator=source).double(), 0.3
    bits = torch.tensor(list(product((False, True), repeat=6))).view(-1, 3, 2)
    drawn = draw_masks(4, (3, 2), (3, 2), p, 0)
    masks = full(Masks(bits, torch.zeros(64, dtype=torch.long), drawn.down, drawn.right), (3, 2))
    chance = torch.where(bits, p, 1 - p).flatten(1).prod(1).double()
    scores = net(masks[:, None] * image).softmax(1)[:, 1].detach()
    expected = torch.einsum("m,m,mhw->hw", chance, scores, masks) / p
    centered = expected - chance @ scores * torch.einsum("m,mhw->hw", chance, masks) / p
    settings = {"n_masks": 20_000, "grid": (3, 2), "p": p, "chunk": 5000}
    for estimator, exact in (("paper", expected), ("centered", centered)):
        e = attribute.rise(net, image, 1, estimator=estimator, **settings)
        assert ((e.native[0, 0] - exact).abs() < 4.5 * e.extras["stderr"][0]).all()
        assert e.extras["stderr"].max() < 0.1 * exact.abs().max()


def constant(value: float = 1.0) -> nn.Module:
    net = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(3, 2)).eval()
    nn.init.zeros_(net[2].weight)
    nn.init.constant_(net[2].bias, value)
    return net


def test_a_model_that_never_changes_its_mind(images):
    # The centred map is zero to the bit; the paper's is the answer times how often each pixel was shown.
    settings = {"n_masks": 40, "score": "logit"}
    assert not attribute.rise(constant(), images, 0, estimator="centered", **settings).native.any()
    level = attribute.rise(constant(3.0), images, 0, estimator="normalized", **settings).native
    torch.testing.assert_close(level, torch.full_like(level, 3.0))
    paper = attribute.rise(constant(3.0), images, 0, **settings).native
    shown = draw_masks(40, SIZE, (7, 7), 0.5, 0).of(torch.arange(40)).mean(0)
    torch.testing.assert_close(paper[0, 0], (3 * shown / 0.5).float())
    assert paper.std() > 0.1


@pytest.mark.parametrize("estimator", ["paper", "normalized", "centered"])
def test_the_map_is_linear_in_the_score(sure, precise, estimator):
    weights = torch.tensor([[2.0, -1.0, 0.5, 0.0]]).double().expand(3, 4)
    settings = {"n_masks": 20, "estimator": estimator, "score": "logit"}
    maps = [attribute.rise(sure, precise, k, **settings).native for k in range(3)]
    combined = attribute.rise(sure, precise, weights, **settings).native
    torch.testing.assert_close(combined, 2 * maps[0] - maps[1] + 0.5 * maps[2])


@pytest.mark.parametrize("estimator", ["paper", "normalized", "centered"])
def test_the_standard_error_is_the_scatter_over_seeds(precise, estimator):
    image = precise[:1, :1, :6, :8]
    net = nn.Sequential(nn.Flatten(), nn.Linear(48, 4)).double()
    nn.init.normal_(net[1].weight, std=0.3, generator=torch.Generator().manual_seed(0))
    settings = {"n_masks": 64, "grid": 3, "estimator": estimator, "chunk": 16}
    runs = [attribute.rise(net, image, 1, seed=seed, **settings) for seed in range(40)]
    scatter = torch.stack([e.native[0, 0] for e in runs]).var(0).mean()
    stated = torch.stack([e.extras["stderr"][0].square() for e in runs]).mean()
    assert float(stated / scatter) == pytest.approx(1, abs=0.25)


def test_all_classes_come_from_the_same_passes(sure, precise):
    settings = {"n_masks": 24, "estimator": "centered", "chunk": 10}
    every = attribute.rise(sure, precise, [0, 3, 1], classes="all", **settings)
    assert every.extras["classes"].shape == (3, 4, *SIZE)
    for k in range(4):
        torch.testing.assert_close(
            every.extras["classes"][:, k], attribute.rise(sure, precise, k, **settings).native[:, 0]
        )
    some = attribute.rise(sure, precise, 1, classes=[3, 0], **settings)
    torch.testing.assert_close(some.extras["classes"], every.extras["classes"][:, [3, 0]])
    torch.testing.assert_close(some.native[:, 0], every.extras["classes"][:, 1])


def test_each_image_stops_when_its_own_map_is_clear(sure, precise):
    settings = {"n_masks": 512, "grid": 3, "estimator": "centered", "chunk": 64}
    assert "n_masks" not in attribute.rise(sure, precise, 1, **settings).extras
    e = attribute.rise(sure, precise, 1, tol=0.35, **settings)
    used = e.extras["n_masks"].tolist()
    assert len(set(used)) > 1
    assert min(used) >= 128
    assert min(used) < 512
    noise = e.extras["stderr"].square().mean((1, 2)).sqrt() / e.native.std((1, 2, 3))
    assert (noise[torch.tensor(used) < 512] < 0.4).all()
    for image in range(3):
        alone = attribute.rise(sure, precise[image : image + 1], 1, tol=0.35, **{**settings, "chunk": 9})
        torch.testing.assert_close(alone.native[0], e.native[image])
        assert alone.extras["n_masks"].tolist() == [used[image]]


def test_an_image_that_stops_had_the_masks_of_a_call_that_never_does(sure, precise):
    settings = {"n_masks": 512, "grid": 3, "chunk": 256}
    early = attribute.rise(sure, precise[:1], 1, tol=100.0, **settings)
    assert early.extras["n_masks"].tolist() == [128]
    masks = full(draw_masks(512, SIZE, (3, 3), 0.5, 0), SIZE)[:128]
    expected = by_hand(sure, precise[:1], 1, masks, torch.zeros(3, 1, 1).double())["paper"]
    torch.testing.assert_close(early.native, expected)


def test_maps_merge_into_their_mean_and_its_error():
    maps = torch.randn(10, 2, 4, 5, generator=torch.Generator().manual_seed(0)).double()
    spread, both = Spread(maps[:2]), torch.arange(2)
    spread = Spread(torch.zeros(2, 1, 4, 5).double())
    for step in maps[:7]:
        spread.add(both, step)
    for step in maps[7:]:
        spread.add(both[1:], step[1:])
    torch.testing.assert_close(spread.mean[0], maps[:7, 0].mean(0))
    torch.testing.assert_close(spread.stderr[0], maps[:7, 0].std(0) / 7**0.5)
    torch.testing.assert_close(spread.stderr[1], maps[:, 1].std(0) / 10**0.5)


def test_the_evidence_of_each_class_is_found_in_its_own_cell():
    model = data.glass.separate_evidence(threshold=0.1)
    images = torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    settings = {"grid": 4, "score": "logit", "estimator": "centered", "chunk": 100}
    e = attribute.rise(model, images, n_masks=300, classes="all", **settings)
    regions = model.truth.regions(images).double()
    means = torch.einsum("nkhw,nrhw->nrk", e.extras["classes"].double(), regions) / regions.sum((2, 3))[..., None]
    assert torch.equal(means.argmax(1), model.truth.shapley(images).argmax(1))
    torch.testing.assert_close(means.argmax(1), torch.arange(4).expand(2, 4))


@pytest.mark.parametrize("shape", [(2, 1, 33, 47), (1, 5, 16, 9)])
def test_odd_images_have_a_grid_of_their_own_shape(shape):
    net = nn.Sequential(
        nn.Conv2d(shape[1], 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 3)
    ).eval()
    images = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    e = attribute.rise(net, images, n_masks=8, grid=(5, 3))
    assert e.native.shape == (shape[0], 1, *shape[2:])
    assert e.extras["stderr"].shape == (shape[0], *shape[2:])
    assert e.native.isfinite().all()


def test_progress_is_told(cnn, images):
    told = []
    with watching(lambda done, total: told.append((done, total))):
        attribute.rise(cnn, images, n_masks=256)
    assert told[-1][0] == told[-1][1]
    assert len(told) == 16


@pytest.mark.parametrize(
    "settings",
    [
        {"n_masks": 1},
        {"p": 0.0},
        {"p": 1.0},
        {"grid": 15},
        {"grid": (0, 2)},
        {"chunk": 0},
        {"tol": 0.0},
        {"estimator": "median"},
        {"baselines": torch.zeros(2, 1, 1)},
        {"classes": [0, 4]},
    ],
)
def test_settings_that_make_no_sense_are_refused(cnn, images, settings):
    with pytest.raises((BadInput, TypeError)):  # wrong words are caught by the type checker here, by us elsewhere
        attribute.rise(cnn, images, **{"n_masks": 8, **settings})
