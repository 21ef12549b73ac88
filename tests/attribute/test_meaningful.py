"""Meaningful perturbation against a literal loop with matrices, and on networks whose object is known."""

import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from glasshouse import attribute, data, zoo
from glasshouse.attribute.meaningful import penalty, radii
from glasshouse.core import BadInput
from glasshouse.data import glass
from glasshouse.data.glass.colours import PALETTE

TOP, LEFT, BOTTOM, RIGHT = 8, 14, 24, 40


class Window(nn.Module):
    """One score: the mean of a known rectangle, scaled and moved."""

    def __init__(self, scale: float = 1.0, offset: float = 0.0):
        super().__init__()
        self.scale, self.offset = scale, offset

    def forward(self, images: Tensor) -> Tensor:
        return self.scale * images[..., TOP:BOTTOM, LEFT:RIGHT].mean((1, 2, 3))[:, None] + self.offset


@pytest.fixture
def rectangle() -> Tensor:
    inside = torch.zeros(48, 56).bool()
    inside[TOP:BOTTOM, LEFT:RIGHT] = True
    return inside


@pytest.fixture
def scene(rectangle) -> Tensor:
    """A bright rectangle, and others that do not matter."""
    image = 0.1 * torch.rand(1, 3, 48, 56, generator=torch.Generator().manual_seed(0))
    image[..., rectangle] += 1
    image[..., 34:44, 4:20] += 1
    return image


def blur_matrix(size: int, sigma: float) -> Tensor:
    """Row o: the weights of all places in what comes out at o; what lies beyond the border repeats it."""
    reach = max(1, round(3 * sigma))
    taps = torch.tensor([math.exp(-(t**2) / (2 * sigma**2)) for t in range(-reach, reach + 1)]).double()
    matrix = torch.zeros(size, size).double()
    for out in range(size):
        for t, weight in zip(range(-reach, reach + 1), taps / taps.sum(), strict=True):
            matrix[out, min(max(out + t, 0), size - 1)] += weight
    return matrix


def blurred(image: Tensor, sigma: float) -> Tensor:
    return blur_matrix(image.shape[-2], sigma) @ image @ blur_matrix(image.shape[-1], sigma).T


def enlarging_matrix(size: int, cells: int, sigma: float) -> Tensor:
    nearest = torch.zeros(size, cells).double()
    for place in range(size):
        nearest[place, place * cells // size] = 1
    return blur_matrix(size, sigma) @ nearest


def by_hand(net, image, target, sign, *, steps, l1, l2, beta, seed=0):
    """Coarse part of one image that was perturbed (kept, for sign -1), with what was minimised at each step."""
    h, w = image.shape[-2:]
    pixel = min(h, w) / 224
    grid = min(h, round(h / (8 * pixel))), min(w, round(w / (8 * pixel)))
    rows, cols = (enlarging_matrix(size, cells, 5 * pixel) for size, cells in zip((h, w), grid, strict=True))
    null = blurred(image, 10 * pixel)
    start, end = (image, null) if sign > 0 else (null, image)

    def score(part: Tensor, start: Tensor, end: Tensor) -> Tensor:
        share = rows @ part @ cols.T
        return sign * net((1 - share) * start + share * end).softmax(1)[0, target]

    whole, nothing = score(torch.ones(grid).double(), start, end), score(torch.zeros(grid).double(), start, end)
    for radius in range(0, 1000, 5):
        part = torch.ones(grid).double()
        if radius > math.hypot(h, w) / 2 / pixel + 15:
            break
        disc = torch.zeros(h, w).double()
        for y in range(h):
            for x in range(w):
                disc[y, x] = math.hypot(y - (h - 1) / 2, x - (w - 1) / 2) < radius * pixel
        soft = blurred(disc, 10 * pixel)[None, None]
        part = F.interpolate(soft, grid, mode="bilinear", antialias=True)[0, 0] if (h, w) != grid else soft[0, 0]
        if score(part, start, end) <= whole + 0.01 * (nothing - whole):
            break
    shift, draws, history = math.ceil(4 * pixel), torch.Generator().manual_seed(seed), []
    wide = [F.interpolate(side, (h + shift, w + shift), mode="bilinear") for side in (start, end)]
    mean, square = torch.zeros_like(part), torch.zeros_like(part)
    for step in range(1, steps + 1):
        part = part.detach().requires_grad_()
        top, left = torch.randint(shift + 1, (2,), generator=draws).tolist()
        cost = score(part, *(side[..., top : top + h, left : left + w] for side in wide)) + l1 * part.sum()
        for i in range(grid[0]):
            for j in range(grid[1]):
                down = part[i + 1, j] - part[i, j] if i + 1 < grid[0] else 0 * part[i, j]
                right = part[i, j + 1] - part[i, j] if j + 1 < grid[1] else 0 * part[i, j]
                cost = cost + l2 * (down**2 + right**2) ** (beta / 2)
        history.append(cost.detach())
        (slope,) = torch.autograd.grad(cost, part)
        mean, square = 0.9 * mean + 0.1 * slope, 0.999 * square + 0.001 * slope**2
        part = part.detach() - 0.1 * mean / (1 - 0.9**step) / ((square / (1 - 0.999**step)) ** 0.5 + 1e-8)
        part = part.clamp(0, 1)
    return part, rows @ part @ cols.T, torch.stack(history)


@pytest.mark.parametrize(("game", "sign"), [("deletion", 1), ("preservation", -1)])
def test_equals_the_formula_and_its_descent_written_out(cnn, images, game, sign):
    net, images = cnn.double(), images.double()
    net[-1].weight.data *= 10
    settings = {"l1": 1e-5, "l2": 1e-2, "beta": 3.0}
    e = attribute.meaningful_perturbation(net, images, [0, 1, 2], game=game, n_steps=4, **settings)
    moved = 0
    for n in range(2):
        part, share, history = by_hand(net, images[n : n + 1], n, sign, steps=4, **settings)
        torch.testing.assert_close(e.extras["mask"][n], 1 - part if sign > 0 else part, rtol=0, atol=1e-6)
        torch.testing.assert_close(e.native[n, 0], share, rtol=0, atol=1e-6)
        torch.testing.assert_close(e.extras["history"][n], history, rtol=0, atol=1e-8)
        moved += float(share.std()) > 0.01
    assert moved > 0


@pytest.mark.parametrize("beta", [1.0, 2.0, 3.0])
def test_the_price_of_a_mask_has_the_gradient_of_its_formula(beta):
    # d/dp_ij of sum (dy² + dx²)^(beta/2): beta (dy² + dx²)^(beta/2 - 1) (-dy - dx), and what the neighbours before add.
    part = torch.rand(2, 4, 5, generator=torch.Generator().manual_seed(0)).double().requires_grad_()
    (slope,) = torch.autograd.grad(penalty(part, 0.3, 0.7, beta).sum(), part)
    p, expected = part.detach(), torch.full((2, 4, 5), 0.3).double()
    for n in range(2):
        for i in range(4):
            for j in range(5):
                down = p[n, i + 1, j] - p[n, i, j] if i < 3 else p.new_zeros(())
                right = p[n, i, j + 1] - p[n, i, j] if j < 4 else p.new_zeros(())
                if i == 3 and j == 4:
                    continue
                factor = 0.7 * beta * (down**2 + right**2) ** (beta / 2 - 1)
                expected[n, i, j] -= factor * (down + right)
                if i < 3:
                    expected[n, i + 1, j] += factor * down
                if j < 4:
                    expected[n, i, j + 1] += factor * right
    torch.testing.assert_close(slope, expected)


@pytest.mark.parametrize("beta", [1.0, 2.0, 3.0])
def test_a_flat_mask_has_a_finite_slope(beta):
    part = torch.full((1, 3, 3), 0.5, requires_grad=True)
    (slope,) = torch.autograd.grad(penalty(part, 0.0, 1.0, beta).sum(), part)
    assert torch.equal(slope, torch.zeros(1, 3, 3))


def test_what_is_minimised_falls(scene):
    for game in ("deletion", "preservation"):
        e = attribute.meaningful_perturbation(Window(), scene, 0, score="logit", game=game, jitter=0, n_steps=60)
        history = e.extras["history"][0]
        assert history[-10:].max() < history[0]
        assert history[-1] < history[20] + 1e-3


@pytest.mark.parametrize("perturbation", ["blur", "constant", "noise"])
@pytest.mark.parametrize("game", ["deletion", "preservation"])
def test_the_rectangle_that_the_score_is_read_from_is_found(scene, rectangle, game, perturbation):
    settings = {"l1": 1e-3, "l2": 1e-3, "blur_sigma": 60.0, "n_steps": 120}  # a small blur leaves the middle bright
    e = attribute.meaningful_perturbation(
        Window(), scene, 0, score="logit", game=game, perturbation=perturbation, **settings
    )
    found = e.heatmap[0] > 0.5
    assert (found & rectangle).sum() / (found | rectangle).sum() > 0.7


def test_scaling_the_score_together_with_the_prices_changes_nothing(scene):
    # Adam's steps do not depend on the scale of the gradient, nor the discs on that of the score.
    settings = {"score": "logit", "perturbation": "constant", "n_steps": 30}
    plain = attribute.meaningful_perturbation(Window(), scene, 0, l1=1e-3, l2=1e-2, **settings)
    scaled = attribute.meaningful_perturbation(Window(64.0, -3.0), scene, 0, l1=64e-3, l2=64e-2, **settings)
    torch.testing.assert_close(plain.heatmap, scaled.heatmap, rtol=0, atol=2e-3)
    assert plain.heatmap.std() > 0.05


def test_discs_have_the_papers_radii_at_the_papers_size():
    assert radii(224, 224) == [5.0 * place for place in range(35)]
    assert radii(448, 448) == [10.0 * place for place in range(35)]
    assert max(radii(224, 448)) > math.hypot(224, 448) / 2


def test_lengths_scale_with_the_image(scene):
    # Doubling every pixel doubles every length, so the masks of the two sizes have the same cells.
    small = attribute.meaningful_perturbation(Window(), scene, 0, score="logit", n_steps=1)
    large = attribute.meaningful_perturbation(
        nn.Sequential(nn.AvgPool2d(2), Window()), scene.repeat_interleave(2, 2).repeat_interleave(2, 3), 0,
        score="logit", n_steps=1,
    )  # fmt: skip
    assert small.extras["mask"].shape == large.extras["mask"].shape == (1, 28, 33)


def test_the_perturbed_score_is_that_of_the_image_behind_the_mask(cnn, images):
    e = attribute.meaningful_perturbation(cnn, images, 2, perturbation="constant", l1=1e-6, n_steps=4)
    keep = 1 - e.heatmap[:, None]
    with torch.no_grad():
        behind = cnn(keep * images + (1 - keep) * images.mean((2, 3), keepdim=True)).softmax(1)[:, 2]
    torch.testing.assert_close(e.extras["perturbed"], behind)
    kept = attribute.meaningful_perturbation(cnn, images, 2, game="preservation", perturbation="constant", n_steps=4)
    keep = kept.heatmap[:, None]
    with torch.no_grad():
        behind = cnn(keep * images + (1 - keep) * images.mean((2, 3), keepdim=True)).softmax(1)[:, 2]
    torch.testing.assert_close(kept.extras["perturbed"], behind)


def test_nothing_is_deleted_where_deletion_takes_nothing_away(scene):
    darker = attribute.meaningful_perturbation(
        Window(-1.0), scene, 0, score="logit", perturbation="constant", n_steps=20
    )
    assert not darker.heatmap.any()
    assert torch.equal(darker.extras["mask"], torch.ones_like(darker.extras["mask"]))


def test_several_classes_are_explained_together_by_weights(cnn, images):
    with torch.no_grad():
        top = cnn(images).topk(2).indices
    weights = torch.zeros(3, 4).scatter_(1, top, 1.0)
    e = attribute.meaningful_perturbation(cnn, images, weights, l1=1e-3, beta=2.0, n_steps=3)
    assert e.target == ()
    with torch.no_grad():
        torch.testing.assert_close(e.score, cnn(images).softmax(1).gather(1, top).sum(1))


def test_half_precision_does_not_silence_a_sure_class(cnn, images):
    sure = cnn.bfloat16()
    sure[-1].bias.data[1] += 9  # a probability that rounds to 1
    e = attribute.meaningful_perturbation(sure, images.bfloat16(), 1, l1=0.0, l2=0.0, n_steps=3)
    assert e.extras["perturbed"].dtype == torch.float32
    assert e.heatmap.flatten(1).std(1).gt(0).all()


@pytest.mark.parametrize("game", ["deletion", "preservation"])
def test_values_are_shares_on_images_of_any_kind(game):
    net = nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 3)).eval()
    images = torch.randn(2, 1, 33, 47, generator=torch.Generator().manual_seed(0))
    e = attribute.meaningful_perturbation(net, images, game=game, n_steps=3)
    assert e.native.shape == (2, 1, 33, 47)
    assert e.heatmap.min() >= 0
    assert e.heatmap.max() <= 1 + 1e-6


def test_the_evidence_of_a_glass_box_is_deleted_and_the_rest_is_kept():
    model = glass.colour_detector()
    images = torch.zeros(1, 3, 48, 48)
    for place, colour in enumerate(list(PALETTE.values())[:2]):
        row, column = 6 + 18 * place, 4 + 22 * place
        images[0, :, row : row + 16, column : column + 16] = torch.tensor(colour)[:, None, None]
    e = attribute.meaningful_perturbation(model, images, 1, score="logit", perturbation="constant", n_steps=80)
    evidence = model.truth.regions(images)[0, 1].bool()
    assert e.extras["perturbed"] < 0.1 * e.score
    assert e.heatmap[0][evidence].mean() > 0.1
    assert e.heatmap[0][:20, :16].mean() < 0.02  # the other colour's plate


@pytest.mark.slow
def test_what_is_deleted_of_a_creature_is_the_creature():
    model, scenes = zoo.load("creatures_cnn"), data.scenes("creatures", 4, size=64, seed=1_000_007)
    images = model.preprocess.normalise(scenes.images)
    e = attribute.meaningful_perturbation(model, images, n_steps=80)
    parts = ("tail", "legs", "back", "body", "crown", "head", "eye")
    animal = torch.stack([scenes.masks[:, scenes.part(part)] for part in parts]).any(0)
    assert (e.extras["perturbed"] < 0.2 * e.score).all()
    for heatmap, inside in zip(e.heatmap, animal, strict=True):
        assert heatmap[inside].mean() > 2 * heatmap[~inside].mean()


@pytest.mark.parametrize(
    "settings",
    [{"n_steps": 0}, {"chunk": 0}, {"mask_stride": 0}, {"l1": -1.0}, {"beta": 0.5}, {"lr": 0.0}, {"jitter": -1}],
    ids=str,
)
def test_settings_that_make_no_sense_are_errors(cnn, images, settings):
    with pytest.raises(BadInput):
        attribute.meaningful_perturbation(cnn, images, **settings)
