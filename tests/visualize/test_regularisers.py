"""Penalties and filters beside loops, and the equalities between them that the papers state."""

import math

import pytest
import torch
import torch.nn.functional as F

from glasshouse.core import BadInput, generator
from glasshouse.visualize import (
    Sight,
    alpha_norm,
    bilateral,
    blur_penalty,
    blurred,
    box,
    drop_small_contributions,
    drop_small_norms,
    even,
    even_bands,
    l1,
    l2,
    penalised,
    roughness,
)
from glasshouse.visualize.regularisers import Moment, collapsed, halved, laplacian_pyramid, softened

SHAPES = [(2, 3, 6, 7), (1, 1, 5, 5), (2, 4, 1, 3)]


def values(shape=(2, 3, 6, 7), seed=0):
    return 0.3 * torch.randn(shape, generator=generator(seed), dtype=torch.float64)


def at(step=0, steps=1, gradient=None):
    return Moment(step, steps, torch.zeros(1) if gradient is None else gradient)


def judged(objective, pixels):
    return objective(Sight(pixels, {}, None, int))


def gradient_of(objective, pixels):
    pixels = pixels.requires_grad_()
    return torch.autograd.grad(judged(objective, pixels).sum(), pixels)[0]


@pytest.mark.parametrize("shape", SHAPES)
def test_penalties_are_sums_over_pixels(shape):
    x = values(shape)
    ones, sixth, rough, rough_edges = [0.0] * len(x), [0.0] * len(x), [0.0] * len(x), [0.0] * len(x)
    for n in range(shape[0]):
        for c in range(shape[1]):
            for i in range(shape[2]):
                for j in range(shape[3]):
                    here = float(x[n, c, i, j])
                    down = float(x[n, c, i + 1, j]) - here if i + 1 < shape[2] else 0
                    across = float(x[n, c, i, j + 1]) - here if j + 1 < shape[3] else 0
                    ones[n] += abs(here)
                    sixth[n] += here**6
                    rough[n] += down**2 + across**2
                    rough_edges[n] += math.sqrt(down**2 + across**2)
    pixels = x + 0.5
    for objective, expected in ((l1(), ones), (alpha_norm(6), sixth), (roughness(2), rough)):
        torch.testing.assert_close(judged(objective, pixels), torch.tensor(expected, dtype=torch.float64))
    edges = torch.tensor(rough_edges, dtype=torch.float64)
    torch.testing.assert_close(judged(roughness(1), pixels), edges, atol=2e-3, rtol=1e-6)


def test_penalties_have_gradients_on_an_even_picture():
    for objective in (l1(), alpha_norm(), roughness(1), roughness(2), blur_penalty()):
        assert gradient_of(objective, torch.full((1, 3, 4, 4), 0.5)).isfinite().all()
        assert not objective.activation.terms


def test_a_step_down_the_blur_penalty_is_a_blur():
    pixels = values() + 0.5
    stepped = pixels - 0.3 * gradient_of(blur_penalty(), pixels.clone())
    torch.testing.assert_close(stepped, 0.7 * pixels + 0.3 * softened(pixels))


def test_the_blur_of_the_penalty_weighs_the_rim_by_half_and_leaves_out_what_is_outside():
    x = values((1, 1, 4, 5))
    for i in range(4):
        for j in range(5):
            near = [(a, b) for a in (i - 1, i, i + 1) for b in (j - 1, j, j + 1) if 0 <= a < 4 and 0 <= b < 5]
            weight = [1.0 if (a, b) == (i, j) else 0.5 for a, b in near]
            mean = sum(w * float(x[0, 0, a, b]) for w, (a, b) in zip(weight, near, strict=True)) / sum(weight)
            assert float(softened(x)[0, 0, i, j]) == pytest.approx(mean)


def test_a_step_down_l2_is_decay():
    x = values()
    torch.testing.assert_close(penalised(l2(), 0.01)(x, at()), 0.98 * x)


def test_blur_is_annealed_and_left_out_in_between():
    x = values((1, 2, 9, 9))
    impulse = torch.zeros(1, 1, 31, 31, dtype=torch.float64)
    impulse[..., 15, 15] = 1
    offset = torch.arange(-15, 16).double()
    spread = [
        float((blurred(2, 0.5)(impulse, at(step, 11)).sum(2)[0, 0] * offset**2).sum().sqrt()) for step in (0, 5, 10)
    ]
    assert spread == pytest.approx([2, 1.25, 0.5], rel=0.1)
    rare = blurred(1, every=4)
    assert [torch.equal(rare(x, at(step, 8)), x) for step in range(8)] == [True, True, True, False] * 2


@pytest.mark.parametrize("shape", SHAPES)
def test_the_bilateral_filter_is_its_formula(shape):
    x, sigma_px, sigma_range = values(shape), 1.0, 0.3
    expected = torch.zeros_like(x)
    for n in range(shape[0]):
        for i in range(shape[2]):
            for j in range(shape[3]):
                total, weights = torch.zeros(shape[1], dtype=torch.float64), 0.0
                for a in range(max(0, i - 2), min(shape[2], i + 3)):
                    for b in range(max(0, j - 2), min(shape[3], j + 3)):
                        apart = float((x[n, :, i, j] - x[n, :, a, b]).square().sum())
                        near = ((a - i) ** 2 + (b - j) ** 2) / (2 * sigma_px**2)
                        weight = math.exp(-near - apart / (2 * sigma_range**2))
                        total, weights = total + weight * x[n, :, a, b], weights + weight
                expected[n, :, i, j] = total / weights
    torch.testing.assert_close(bilateral(sigma_px, sigma_range)(x, at()), expected)


def test_the_bilateral_filter_keeps_a_strong_edge_and_smooths_a_weak_one():
    edge = torch.zeros(1, 1, 8, 8, dtype=torch.float64)
    edge[..., 4:] = 1
    kept, lost = bilateral(1, 0.1)(0.9 * edge, at()), bilateral(1, 0.1)(0.05 * edge, at())
    torch.testing.assert_close(kept, 0.9 * edge, atol=1e-9, rtol=0)
    assert float((lost - 0.05 * edge).abs().max()) > 0.01


def test_small_pixels_are_dropped_in_each_picture_by_rank():
    x, slope = values((2, 3, 4, 5)), values((2, 3, 4, 5), seed=1)
    by_norm = drop_small_norms(0.5)(x, at())
    by_contribution = drop_small_contributions(0.9)(x, at(gradient=slope))
    for n in range(2):
        norms = sorted((float(x[n, :, i, j].norm()), i, j) for i in range(4) for j in range(5))
        parts = sorted((abs(float(x[n, :, i, j] @ slope[n, :, i, j])), i, j) for i in range(4) for j in range(5))
        for found, order, dropped in ((by_norm, norms, 10), (by_contribution, parts, 18)):
            for place, (_, i, j) in enumerate(order):
                expected = torch.zeros(3).double() if place < dropped else x[n, :, i, j]
                assert torch.equal(found[n, :, i, j], expected)
    assert drop_small_norms(0.0)(x, at()) is x


def test_even_steps_have_one_mean_size_whatever_the_scale():
    x = values() * torch.tensor([1e-6, 1e6]).double().view(2, 1, 1, 1)
    torch.testing.assert_close(even()(x, at()).abs().mean((1, 2, 3)), torch.ones(2).double())
    assert torch.equal(even()(torch.zeros(1, 3, 4, 4), at()), torch.zeros(1, 3, 4, 4))


@pytest.mark.parametrize("shape", [(2, 3, 16, 16), (1, 1, 13, 22), (2, 4, 5, 1)])
def test_the_octaves_of_a_picture_add_up_to_it(shape):
    x = values(shape)
    bands = laplacian_pyramid(x, 4)
    assert len(bands) == 5
    torch.testing.assert_close(collapsed(bands), x)


def test_an_octave_is_halved_by_five_binomial_taps():
    x, taps = values((1, 1, 7, 6)), [1, 4, 6, 4, 1]
    found = halved(x)
    assert found.shape == (1, 1, 4, 3)
    for i in range(4):
        for j in range(3):
            total = 0.0
            for a, down in enumerate(taps):
                for b, across in enumerate(taps):
                    row, column = 2 * i + a - 2, 2 * j + b - 2
                    if 0 <= row < 7 and 0 <= column < 6:
                        total += down * across / 256 * float(x[0, 0, row, column])
            assert float(found[0, 0, i, j]) == pytest.approx(total)


def test_even_bands_give_a_strong_and_a_weak_octave_the_same_say():
    rows, columns = torch.meshgrid(torch.arange(64.0), torch.arange(64.0), indexing="ij")
    fine, coarse = (torch.sin(2 * math.pi * columns / 3), torch.sin(2 * math.pi * rows / 24))
    before = (fine + 0.01 * coarse).double()[None, None]
    after = even_bands(4)(before, at())

    def ratio(image):
        power = torch.fft.fft2(image)[0, 0].abs()
        return float(power[3, 0] + power[2, 0]) / float(power[0, 21] + power[0, 22])

    assert ratio(before) < 0.05
    assert ratio(after) > 0.5


@pytest.mark.parametrize(
    "filter_",
    [even(), even_bands(), bilateral(), blurred(1), drop_small_norms(0.3), box(), penalised(roughness(1), 0.1)],
    ids=lambda filter_: filter_.__name__,
)
def test_rows_are_filtered_alike_alone_and_in_a_batch(filter_):
    x = values((3, 2, 9, 10))
    together = filter_(x, at(3, 8, x))
    for row in range(3):
        one = x[row : row + 1]
        torch.testing.assert_close(filter_(one, at(3, 8, one)), together[row : row + 1])
    assert x.equal(values((3, 2, 9, 10)))


def test_the_blur_repeats_the_border():
    x = values((1, 1, 6, 6))
    taps = torch.tensor([math.exp(-0.5 * k * k / 0.25) for k in (-2, -1, 0, 1, 2)]).double()
    kernel = torch.outer(taps, taps) / taps.sum() ** 2
    expected = F.conv2d(F.pad(x, (2, 2, 2, 2), mode="replicate"), kernel[None, None])
    torch.testing.assert_close(blurred(0.5)(x, at()), expected, atol=1e-4, rtol=0)


def test_filters_that_do_nothing_are_refused():
    with pytest.raises(BadInput, match="averages nothing"):
        bilateral(0)
    with pytest.raises(BadInput, match=r"share of 1\.0 of"):
        drop_small_norms(1.0)(values(), at())
