"""Extremal perturbations against the paper's optimisation written out, and where the best mask is known."""

from itertools import pairwise
from math import ceil, prod

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from glasshouse import attribute
from glasshouse.attribute.areas import template
from glasshouse.attribute.pyramids import blur_into_zero
from glasshouse.core import BadInput, watching

QUICK = {"perturbation": "fade", "step": 3, "sigma": 9, "n_steps": 400, "learning_rate": 0.02}


@pytest.fixture
def precise(images) -> Tensor:
    return images.double()


def dense_masks(cells: Tensor, size: tuple[int, int], step: int, sigma: int) -> tuple[Tensor, Tensor]:
    """Masks inside the image, and whole: the soft maximum over all cells at once, those out of reach left out.

    Reach is counted in blocks of `step` pixels; places in reach without a cell add e^0 below the fraction bar.
    """
    reach, padding = 1 + ceil(sigma / step), 1 + ceil(2 * sigma / step)
    sides = [step * (ceil(side / step) + 2 * (padding - reach)) - step + 1 for side in size]
    near, squares = list[Tensor](), list[Tensor]()
    for side, count in zip(sides, cells.shape[1:], strict=True):
        pixel, cell = torch.arange(side)[:, None], torch.arange(count)
        first = pixel // step - padding
        near.append((first <= cell) & (cell <= first + 2 * reach))
        squares.append((pixel - sigma - step * cell).double() ** 2)
    there = near[0][:, None, :, None] & near[1][None, :, None, :]
    z = (squares[0][:, None, :, None] + squares[1][None, :, None, :]).sqrt() / sigma
    value = torch.exp(-2 * (z - 0.5).clamp(min=0) ** 2) * cells[:, None, None]
    power = torch.exp(20 * value) * there
    missing = (2 * reach + 1) ** 2 - there.sum((2, 3))
    whole = ((value * power).sum((3, 4)) / (power.sum((3, 4)) + missing)).clamp(0, 1)
    return whole[:, sigma : sigma + size[0], sigma : sigma + size[1]], whole


def dense_perturbed(image: Tensor, masks: Tensor, perturbation: str) -> Tensor:
    """A sum over all eight stages, each weighted by how close seven times the mask is to its number."""
    total = torch.zeros_like(image)
    for level in range(8):
        stage = image * level / 7 if perturbation == "fade" else blur_into_zero(image, 20 * (1 - level / 7))
        total = total + (1 - (7 * masks[:, None] - level).abs()).clamp(min=0) * stage
    return total


def by_hand(net, image, target, areas, n_steps, mode, perturbation, reward):
    """One image; all areas as a batch, with torch's own optimiser."""
    size, (step, sigma) = (image.shape[2], image.shape[3]), (4, 5)
    free = torch.ones(len(areas), *(ceil(side / step) for side in size), dtype=torch.float64)
    optimiser = torch.optim.SGD([free], lr=0.01, momentum=0.9, dampening=0.9)

    def score(seen: Tensor, flip: bool) -> Tensor:
        x = dense_perturbed(image, seen, perturbation)
        y = net(x.flip(3) if flip else x)
        others = torch.cat([y[:, :target], y[:, target + 1 :]], 1)
        return y[:, target] - (others.amax(1) if reward == "contrastive" else 0)

    for t in range(n_steps):
        free.requires_grad_()
        seen, whole = dense_masks(free, size, step, sigma)
        flip = t % 2 == 0 and t < n_steps - 1
        gains = {"preserve": lambda: score(seen, flip), "delete": lambda: -score(1 - seen, flip)}  # noqa: B023
        worth = gains["preserve"]() + gains["delete"]() if mode == "dual" else gains[mode]()
        if t == n_steps - 1:
            return seen.detach(), worth.detach()
        n = prod(whole.shape[1:])
        counts = torch.tensor([n - int(n * (1 - area)) for area in areas])
        off = whole.flatten(1) - template(whole.detach().flatten(1), counts)
        optimiser.zero_grad()
        (300 * 1.0035**t * off.square().mean(1) - worth).sum().backward()
        optimiser.step()
        free.data.clamp_(0, 1)
    raise AssertionError


@pytest.mark.parametrize(
    ("mode", "perturbation", "reward"),
    [
        ("preserve", "blur", "simple"),
        ("delete", "blur", "contrastive"),
        ("dual", "fade", "simple"),
        ("preserve", "fade", "contrastive"),
        ("dual", "blur", "contrastive"),
    ],
)
def test_the_optimisation_written_out_gives_the_same_masks(cnn, precise, mode, perturbation, reward):
    net, areas = cnn.double().requires_grad_(False), (0.1, 0.35)
    e = attribute.extremal_perturbation(
        net,
        precise,
        [3, 0, 1],
        areas=areas,
        mode=mode,
        perturbation=perturbation,
        reward=reward,
        n_steps=12,
        step=4,
        sigma=5,
    )
    for n, target in enumerate((3, 0, 1)):
        seen, worth = by_hand(net, precise[n : n + 1], target, areas, 12, mode, perturbation, reward)
        torch.testing.assert_close(e.extras["masks"][n], seen, rtol=0, atol=1e-9)
        torch.testing.assert_close(e.extras["reward"][n], worth, rtol=0, atol=1e-9)


class Rectangle(nn.Module):
    """Scores the light inside a rectangle, less half of that outside; the second class is the opposite."""

    def __init__(self, factor: float):
        super().__init__()
        inside = torch.zeros(48, 48)
        inside[14:32, 12:36] = 1  # a mirrored image scores the same
        self.register_buffer("inside", inside)
        self.factor = factor

    def forward(self, x: Tensor) -> Tensor:
        y = self.factor * (x.mean(1) * (1.5 * self.inside - 0.5)).mean((1, 2))
        return torch.stack([y, -y], 1)


SHARE = 18 * 24 / 64**2  # of the rectangle, in masks with their margin


@pytest.fixture
def rectangle() -> Rectangle:
    return Rectangle(100.0).eval()


def overlap(explanation, net: Rectangle) -> float:
    mask, truth = explanation.extras["masks"][0, 0] > 0.5, net.inside > 0
    return float((mask & truth).sum() / (mask | truth).sum())


@pytest.mark.parametrize("mode", ["preserve", "delete", pytest.param("dual", marks=pytest.mark.slow)])
def test_the_mask_of_the_right_area_is_the_rectangle_that_is_read(rectangle, mode):
    light = torch.ones(1, 3, 48, 48)
    e = attribute.extremal_perturbation(rectangle, light, 0, areas=SHARE, mode=mode, **QUICK)
    assert overlap(e, rectangle) > 0.6
    assert float((e.extras["area"] - SHARE).abs()) < 0.02


def test_the_opposite_class_is_kept_by_all_but_the_rectangle(rectangle):
    e = attribute.extremal_perturbation(rectangle, torch.ones(1, 3, 48, 48), 1, areas=SHARE, **QUICK)
    assert overlap(e, rectangle) < 0.05


def test_a_weak_score_loses_to_the_area():
    # The penalty is the same however small scores are; left to itself it keeps the border, where cells are fewer.
    weak = Rectangle(1.0).eval()
    e = attribute.extremal_perturbation(weak, torch.ones(1, 3, 48, 48), 0, areas=SHARE, **QUICK)
    assert overlap(e, weak) < 0.3


@pytest.mark.slow
def test_masks_end_with_the_area_asked_for_and_a_larger_one_keeps_more_of_the_score(rectangle):
    areas = (0.03, 0.06, SHARE)
    light = 0.5 + torch.rand(2, 3, 48, 48, generator=torch.Generator().manual_seed(0))
    e = attribute.extremal_perturbation(rectangle, light, 0, areas=areas, **QUICK)
    assert (e.extras["area"] - torch.tensor(areas)).abs().max() < 0.02
    assert ((e.extras["masks"] < 0.1) | (e.extras["masks"] > 0.9)).float().mean() > 0.7
    assert all(more > less for less, more in pairwise(e.extras["reward"].mean(0).tolist()))


@pytest.mark.slow
def test_fewer_longer_steps_lead_to_about_the_same_place(rectangle):
    light = torch.ones(1, 3, 48, 48)
    fine, coarse = (
        attribute.extremal_perturbation(
            rectangle, light, 0, areas=SHARE, **{**QUICK, "n_steps": n, "learning_rate": 8 / n}
        ).heatmap.flatten()
        for n in (800, 400)
    )
    assert torch.corrcoef(torch.stack([fine, coarse]))[0, 1] > 0.97


def test_the_reward_is_the_score_of_the_image_seen_through_the_mask(cnn, precise):
    e = attribute.extremal_perturbation(cnn.double(), precise, 2, areas=(0.1, 0.3), perturbation="fade", n_steps=9)
    with torch.no_grad():
        for area in range(2):
            seen = cnn(precise * e.extras["masks"][:, area, None])[:, 2]
            torch.testing.assert_close(e.extras["reward"][:, area], seen)
    torch.testing.assert_close(e.extras["history"][..., -1], e.extras["reward"])
    torch.testing.assert_close(e.native, e.extras["masks"].sum(1, keepdim=True))
    assert e.extras["history"].shape == (3, 2, 9)


def test_one_step_shows_where_the_search_begins(cnn, images):
    e = attribute.extremal_perturbation(cnn, images, 2, areas=0.1, n_steps=1)
    assert float(e.heatmap.min()) > 0.95
    assert e.extras["masks"].shape == (3, 1, 14, 18)


def test_rows_of_images_and_areas_are_searched_each_as_if_alone(cnn, precise):
    settings = {"n_steps": 15, "perturbation": "blur"}
    together = attribute.extremal_perturbation(cnn.double(), precise, [0, 1, 2], areas=(0.05, 0.2), chunk=4, **settings)
    for n in range(3):
        for index, area in enumerate((0.05, 0.2)):
            alone = attribute.extremal_perturbation(cnn, precise[n : n + 1], n, areas=area, **settings)
            torch.testing.assert_close(
                alone.extras["masks"][0, 0], together.extras["masks"][n, index], rtol=0, atol=1e-10
            )


def test_smoothing_blurs_the_map_and_leaves_the_masks(cnn, images):
    settings = {"areas": 0.2, "n_steps": 5}
    plain = attribute.extremal_perturbation(cnn, images, 0, **settings)
    soft = attribute.extremal_perturbation(cnn, images, 0, smooth=0.09, **settings)
    assert torch.equal(soft.extras["masks"], plain.extras["masks"])
    torch.testing.assert_close(soft.native, blur_into_zero(plain.native, 0.09 * 14))


@pytest.mark.slow
def test_masks_that_have_settled_rest(rectangle):
    light, areas = torch.ones(1, 3, 48, 48), (0.05, SHARE)
    full, early = (
        attribute.extremal_perturbation(rectangle, light, 0, areas=areas, tolerance=tolerance, **QUICK)
        for tolerance in (0.0, 0.05)
    )
    assert (early.extras["history"][0, :, -50:].diff() == 0).all(1).any()
    assert torch.corrcoef(torch.stack([full.heatmap.flatten(), early.heatmap.flatten()]))[0, 1] > 0.95


@pytest.mark.parametrize("shape", [(2, 1, 33, 47), (1, 5, 16, 9)])
def test_images_of_any_shape_and_number_of_channels(shape):
    net = nn.Sequential(nn.Conv2d(shape[1], 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 3))
    images = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    e = attribute.extremal_perturbation(net.eval(), images, areas=(0.1, 0.2), n_steps=3)
    assert e.heatmap.shape == (shape[0], *shape[2:])
    assert e.extras["masks"].shape == (shape[0], 2, *shape[2:])
    assert float(e.extras["masks"].amin()) >= 0
    assert float(e.extras["masks"].amax()) <= 1


def test_settings_out_of_range_are_errors(cnn, images):
    for settings in (
        {"areas": ()},
        {"areas": 0.0},
        {"areas": (0.1, 1.2)},
        {"n_steps": 0},
        {"learning_rate": 0.0},
        {"chunk": 0},
        {"smooth": -0.1},
        {"step": 0},
        {"sigma": 0},
    ):
        with pytest.raises(BadInput):
            attribute.extremal_perturbation(cnn, images, 1, **settings)


def test_a_contrast_needs_a_class(cnn, images):
    with pytest.raises(BadInput, match="set against the others"):
        attribute.extremal_perturbation(cnn, images, lambda y: y[:, 0], reward="contrastive", n_steps=2)


def test_progress_counts_steps_on_a_real_network(lite0):
    told: list[tuple[int, int]] = []
    images = F.avg_pool2d(torch.randn(1, 3, 128, 128, generator=torch.Generator().manual_seed(0)), 2)
    with watching(lambda done, total: told.append((done, total))):
        attribute.extremal_perturbation(lite0, images, areas=(0.1, 0.2), n_steps=4, chunk=1)
    assert told[:3] == [(1, 3), (2, 3), (3, 3)]
