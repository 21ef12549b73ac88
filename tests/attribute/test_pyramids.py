"""Stages of an image, from nothing to clean, and pixels between two of them."""

from inspect import unwrap
from math import ceil, exp

import pytest
import torch
from torch import Tensor

from glasshouse.attribute.pyramids import at_level, blur_into_zero, pyramid
from glasshouse.core import BadInput


@pytest.fixture
def images() -> Tensor:
    return torch.randn(2, 2, 9, 13, dtype=torch.float64, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("sigma", [0.7, 2.0, 20.0])
def test_a_blur_into_zero_is_the_weighted_sum_around_every_pixel(images, sigma):
    reach = ceil(4 * sigma)
    taps = [exp(-0.5 * (offset / sigma) ** 2) for offset in range(-reach, reach + 1)]
    expected = torch.zeros_like(images)
    for v in range(9):
        for u in range(13):
            for y in range(max(0, v - reach), min(9, v + reach + 1)):
                for x in range(max(0, u - reach), min(13, u + reach + 1)):
                    weight = taps[y - v + reach] * taps[x - u + reach] / sum(taps) ** 2
                    expected[:, :, v, u] += weight * images[:, :, y, x]
    torch.testing.assert_close(blur_into_zero(images, sigma), expected)


def test_no_blur_leaves_the_image(images):
    assert torch.equal(blur_into_zero(images, 0), images)


@pytest.mark.parametrize("perturbation", ["blur", "fade"])
def test_eight_stages_end_in_the_clean_image(images, perturbation):
    stages = pyramid(images, perturbation)
    assert stages.shape == (2, 8, 9, 13, 2)
    assert torch.equal(stages[:, 7].permute(0, 3, 1, 2), images)
    for level in range(8):
        expected = images * level / 7 if perturbation == "fade" else blur_into_zero(images, 20 * (1 - level / 7))
        torch.testing.assert_close(stages[:, level].permute(0, 3, 1, 2), expected)


def test_fading_by_a_mask_is_multiplying_by_it(images):
    masks = torch.rand(3, 9, 13, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    masks[0, 0], masks[0, 1] = 0, 1
    image = torch.tensor([1, 0, 1])
    torch.testing.assert_close(at_level(pyramid(images, "fade"), image, masks), images[image] * masks[:, None])


def test_a_mask_between_two_stages_mixes_these_two(images):
    stages = pyramid(images, "blur").permute(0, 1, 4, 2, 3)
    for mask, low, share in ((0.0, 0, 0.0), (0.5 / 7, 0, 0.5), (3 / 7, 3, 0.0), (4.25 / 7, 4, 0.25), (6.9 / 7, 6, 0.9)):
        masks = torch.full((1, 9, 13), mask, dtype=torch.float64)
        expected = (1 - share) * stages[1, low] + share * stages[1, low + 1]
        found = at_level(pyramid(images, "blur"), torch.tensor([1]), masks)[0]
        torch.testing.assert_close(found, expected)


def test_the_slope_is_seven_times_the_step_between_stages(images):
    masks = torch.full((1, 9, 13), 0.4, dtype=torch.float64).requires_grad_()
    stages = pyramid(images, "blur")
    (slope,) = torch.autograd.grad(at_level(stages, torch.tensor([0]), masks).sum(), masks)
    torch.testing.assert_close(slope[0], 7 * (stages[0, 3] - stages[0, 2]).sum(2))


def test_an_unknown_perturbation_names_those_that_are(images):
    with pytest.raises(BadInput, match="Use 'blur' or 'fade'"):
        unwrap(pyramid)(images, "noise")
