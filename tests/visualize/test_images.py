"""Parameterizations beside literal formulas."""

import cmath
import math

import pytest
import torch
import torch.nn.functional as F

from glasshouse.core import BadInput, generator
from glasshouse.visualize import (
    clipped_image,
    fit_colours,
    fourier_image,
    laplacian_image,
    natural_colours,
    pixel_image,
    shared_image,
    sphere_image,
)

SIZES = [(6, 6), (5, 7), (6, 5), (5, 8), (1, 4)]


def generators(n):
    return [generator(seed) for seed in range(n)]


def literal_fourier(theta, height, width, decay):
    """The real part of the sum over all waves, each of the half spectrum standing for its mirror image too."""
    image = torch.zeros(height, width, dtype=torch.float64)
    for y in range(theta.shape[0]):
        for x in range(theta.shape[1]):
            f = math.hypot(min(y, height - y) / height, x / width)
            wave = complex(*theta[y, x].tolist()) / max(f, 1 / max(height, width)) ** decay
            twice = 1 if x == 0 or 2 * x == width else 2
            for p in range(height):
                for q in range(width):
                    phase = cmath.exp(2j * math.pi * (y * p / height + x * q / width))
                    image[p, q] += twice * (wave * phase).real
    return image / math.sqrt(height * width) / 4


@pytest.mark.parametrize(("height", "width"), SIZES)
@pytest.mark.parametrize("decay", [1.0, 0.5])
def test_fourier_pixels_equal_a_literal_sum_of_waves(height, width, decay):
    canvas, shape = fourier_image(decay=decay, std=1.0, colours="plain"), (1, height, width)
    theta = canvas.start(shape, generators(1)).double()
    expected = literal_fourier(theta[0, 0], height, width, decay).sigmoid()
    torch.testing.assert_close(canvas.pixels(theta, shape)[0, 0], expected, atol=1e-12, rtol=0)


@pytest.mark.parametrize("canvas", [fourier_image(), pixel_image(), sphere_image(0.4)], ids=repr)
@pytest.mark.parametrize("channels", [1, 3, 5])
@pytest.mark.parametrize(("height", "width"), SIZES)
def test_pictures_have_the_size_asked_for_and_stay_in_range(canvas, channels, height, width):
    shape = (channels, height, width)
    pixels = canvas.pixels(50 * canvas.start(shape, generators(2)), shape)
    assert pixels.shape == (2, *shape)
    assert pixels.min() >= 0
    assert pixels.max() <= 1


def test_natural_colours_are_the_published_matrix_over_its_longest_column():
    m = [[0.26, 0.09, 0.02], [0.27, 0.00, -0.05], [0.27, -0.09, 0.03]]
    longest = max(math.sqrt(sum(row[column] ** 2 for row in m)) for column in range(3))
    expected = [[value / longest for value in row] for row in m]
    torch.testing.assert_close(natural_colours(), torch.tensor(expected, dtype=torch.float64))


def test_mixed_noise_has_the_colour_covariance_of_the_matrix():
    shape = (3, 300, 300)
    theta = pixel_image(std=1.0).start(shape, generators(1)).double()
    values = pixel_image(std=1.0, colours="natural").pixels(theta, shape).logit()
    matrix = natural_colours()
    torch.testing.assert_close(torch.cov(values[0].flatten(1)), matrix @ matrix.T, atol=0.01, rtol=0)


def test_fitted_colours_give_back_the_covariance_of_the_images():
    mixing = torch.randn(5, 5, generator=generator(1), dtype=torch.float64)
    noise = torch.randn(5, 40 * 40, generator=generator(2), dtype=torch.float64)
    pixels = (mixing @ noise).view(1, 5, 40, 40)
    matrix, covariance = fit_colours(pixels), torch.cov(pixels[0].flatten(1))
    product = matrix @ matrix.T
    torch.testing.assert_close(product / product.trace(), covariance / covariance.trace())
    assert float(matrix.norm(dim=0).max()) == pytest.approx(1)
    assert matrix.norm(dim=0).argmax() == 0


def test_the_pattern_on_a_sphere_has_exactly_its_radius():
    shape = (3, 4, 5)
    canvas = sphere_image(0.3)
    pixels = canvas.pixels(canvas.start(shape, generators(3)).double(), shape)
    torch.testing.assert_close((pixels - 0.5).flatten(1).norm(dim=1), torch.full((3,), 0.3, dtype=torch.float64))


def test_a_picture_starts_alike_alone_and_in_a_batch():
    for canvas in (fourier_image(), pixel_image()):
        batch = canvas.start((3, 4, 6), generators(3))
        assert torch.equal(batch[2:], canvas.start((3, 4, 6), [generator(2)]))
        assert not torch.equal(batch[0], batch[1])


def test_colours_of_another_number_of_channels_are_refused():
    canvas = pixel_image(colours=torch.eye(2))
    with pytest.raises(BadInput, match=r"colours of shape \(2, 2\) for 3 channels. Give a 3 x 3 matrix"):
        canvas.pixels(torch.zeros(1, 3, 2, 2), (3, 2, 2))
    with pytest.raises(BadInput, match="do not vary"):
        fit_colours(torch.ones(1, 3, 4, 4))


def test_clipped_pixels_are_measured_from_grey():
    canvas = clipped_image(std=0.2)
    theta = torch.tensor([-0.7, -0.5, 0.0, 0.25, 0.6], dtype=torch.float64).view(1, 1, 1, 5)
    expected = torch.tensor([0, 0, 0.5, 0.75, 1], dtype=torch.float64)
    assert torch.equal(canvas.pixels(theta, (1, 1, 5))[0, 0, 0], expected)
    assert float(canvas.start((3, 50, 50), generators(1)).std()) == pytest.approx(0.2, rel=0.05)


@pytest.mark.parametrize("canvas", [clipped_image(), laplacian_image(), shared_image(shared_px=4)], ids=repr)
@pytest.mark.parametrize(("height", "width"), SIZES)
def test_the_other_canvases_draw_any_size_too(canvas, height, width):
    shape = (4, height, width)
    pixels = canvas.pixels(50 * canvas.start(shape, generators(2)), shape)
    assert pixels.shape == (2, *shape)
    assert 0 <= float(pixels.min()) <= float(pixels.max()) <= 1


def test_a_laplacian_image_is_a_sum_of_enlarged_levels():
    canvas, shape = laplacian_image(levels=3, std=1.0, colours="plain"), (2, 7, 10)
    theta = canvas.start(shape, generators(1)).double()
    parts, total = theta.split([70, 20, 6], 2), torch.zeros(1, 2, 7, 10, dtype=torch.float64)
    for part, size in zip(parts, ((7, 10), (4, 5), (2, 3)), strict=True):
        total += F.interpolate(part.view(1, 2, *size), (7, 10), mode="bilinear", align_corners=False)
    torch.testing.assert_close(canvas.pixels(theta, shape), total.sigmoid())


def test_pictures_share_what_is_coarse_and_nothing_else():
    canvas, shape = shared_image(shared_px=6, std=1.0, colours="plain"), (1, 24, 24)
    theta = canvas.start(shape, generators(3)).double()
    before = canvas.pixels(theta, shape).logit()
    theta[0, 1] += 1  # what the first picture says of the common part
    theta[2, 0] += 1  # what the third says of its own
    change = canvas.pixels(theta, shape).logit() - before
    torch.testing.assert_close(change[0], change[1])
    assert not torch.allclose(change[0], change[2])
    power = torch.fft.rfft2(change[0, 0]).abs()
    rows, cols = torch.fft.fftfreq(24), torch.fft.rfftfreq(24)
    fine = (rows[:, None].square() + cols.square()).sqrt() > 1 / 6 + 1e-6
    assert float(power[fine].max()) < 1e-9 < float(power[~fine].max())
