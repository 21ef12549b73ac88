"""Resizing and blurring against sums written out."""

import math

import numpy as np
import pytest
import torch

from glasshouse.core import BadInput, blur, resize
from glasshouse.core.image import gaussian_kernel


def test_enlarging_is_linear_between_pixel_centres():
    row = torch.tensor([[[[0.0, 10.0, 4.0]]]])
    centres = (np.arange(9) + 0.5) / 3 - 0.5  # where the new pixels lie among the old
    expected = np.interp(centres, [0, 1, 2], [0, 10, 4])
    torch.testing.assert_close(resize(row, (1, 9))[0, 0, 0], torch.tensor(expected, dtype=torch.float32))


def test_shrinking_averages_instead_of_skipping():
    stripes = torch.tensor([0.0, 1.0]).repeat(1, 1, 8, 32)
    assert (resize(stripes, (2, 16)) - 0.5).abs().max() < 0.05


def test_the_same_size_changes_nothing_and_constants_stay():
    images = torch.randn(2, 3, 5, 7)
    assert resize(images, (5, 7)) is images
    for size in ((3, 4), (9, 20), (2, 30)):
        torch.testing.assert_close(resize(torch.full((1, 2, 5, 7), 0.3), size), torch.full((1, 2, *size), 0.3))


@pytest.mark.parametrize(("sigma", "size"), [(1.0, None), (5.0, 11), (0.4, 3)])
def test_blurring_is_a_weighted_sum_over_the_repeated_border(sigma, size):
    images = torch.randn(2, 3, 6, 9, dtype=torch.float64)
    taps = size or 2 * max(1, round(3 * sigma)) + 1
    reach, expected = taps // 2, torch.zeros_like(images)
    weights = [math.exp(-0.5 * (offset / sigma) ** 2) for offset in range(-reach, reach + 1)]
    for y in range(6):
        for x in range(9):
            for dy in range(-reach, reach + 1):
                for dx in range(-reach, reach + 1):
                    pixel = images[:, :, min(max(y + dy, 0), 5), min(max(x + dx, 0), 8)]
                    expected[:, :, y, x] += pixel * weights[dy + reach] * weights[dx + reach] / sum(weights) ** 2
    torch.testing.assert_close(blur(images, sigma, size), expected)


def test_taps_are_symmetric_and_sum_to_one():
    taps = gaussian_kernel(2.0)
    assert len(taps) == 13
    torch.testing.assert_close(taps, taps.flip(0))
    torch.testing.assert_close(taps.sum(), torch.tensor(1.0, dtype=torch.float64))


@pytest.mark.parametrize(
    ("sigma", "size", "text"), [(0.0, None, "not above 0"), (-1.0, 3, "not above 0"), (1.0, 4, "Use an odd")]
)
def test_a_blur_that_cannot_be_is_an_error(sigma, size, text):
    with pytest.raises(BadInput, match=text):
        blur(torch.zeros(1, 1, 8, 8), sigma, size)
