"""The colour maps and their scale, against their definitions."""

import numpy as np
import pytest
import torch

from glasshouse.core import BadInput
from glasshouse.report import colour


def lightness(table: np.ndarray) -> np.ndarray:
    """CIE L*, derived apart from OKLab."""
    linear = np.where(table <= 0.04045, table / 12.92, ((table + 0.055) / 1.055) ** 2.4)
    luminance = linear @ np.array([0.2126, 0.7152, 0.0722])
    return np.where(luminance > (6 / 29) ** 3, 116 * np.cbrt(luminance) - 16, luminance * (29 / 3) ** 3)


def test_oklab_gives_back_the_colour_and_calls_white_white():
    table = np.random.default_rng(0).random((50, 3))
    np.testing.assert_allclose(colour.from_oklab(colour.to_oklab(table)), table, atol=1e-6)
    np.testing.assert_allclose(colour.to_oklab(np.ones((1, 3))), [[1, 0, 0]], atol=1e-6)


def test_brighter_means_more_in_the_sequential_map():
    assert (np.diff(lightness(colour.sequential())) > 0).all()


def test_the_diverging_map_is_white_at_zero_and_equally_light_at_equal_distance():
    table = colour.diverging()
    np.testing.assert_allclose(table[colour.zero_level(True)], 1, atol=1e-6)
    light = lightness(table)
    np.testing.assert_allclose(light, light[::-1], atol=4)
    assert (np.diff(light[: colour.N_LEVELS]) > 0).all()
    assert table[0, 2] > table[0, 0] + 0.3, "negative is blue"
    assert table[-1, 0] > table[-1, 2] + 0.3, "positive is red"


@pytest.mark.parametrize("signed", [True, False])
def test_paint_over_the_colour_of_zero_is_the_colour_map(signed):
    paint = colour.veiled(signed) / 255
    ground = colour.colours(signed)[colour.zero_level(signed)]
    mixed = paint[:, 3:] * paint[:, :3] + (1 - paint[:, 3:]) * ground
    np.testing.assert_allclose(mixed, colour.colours(signed), atol=0.6 / 255)
    assert paint[colour.zero_level(signed), 3] == 0, "zero hides nothing"


def test_zero_and_the_ends_have_their_own_colours():
    how = colour.Scale(signed=True, end=2.0, percentile=100.0, beyond=0.0)
    assert how.levels(torch.tensor([[-9.0, -2.0, 0.0, 2.0, 9.0]])).tolist() == [[0, 0, 127, 254, 254]]
    how = colour.Scale(signed=False, end=2.0, percentile=100.0, beyond=0.0)
    assert how.levels(torch.tensor([[0.0, 1.0, 2.0, 9.0]])).tolist() == [[0, 127, 254, 254]]


def test_the_scale_ends_at_the_percentile_and_counts_what_lies_beyond():
    values = torch.arange(1.0, 101.0).view(10, 10)
    how = colour.scale(values, percentile=90.0)
    assert how.end == sorted(values.flatten().tolist())[90]
    assert how.beyond == pytest.approx(9 / 100)
    assert not how.signed
    assert colour.scale(-values).signed


def test_a_speck_on_nothing_is_drawn_at_its_own_size():
    values = torch.zeros(20, 20)
    values[3, 4] = 7
    how = colour.scale(values)
    assert (how.end, how.percentile, how.beyond) == (7, 100, 0)


def test_a_map_of_zeros_has_a_scale():
    how = colour.scale(torch.zeros(4, 4))
    assert (how.levels(torch.zeros(4, 4)) == 0).all()


def test_a_percentile_out_of_range_is_an_error():
    with pytest.raises(BadInput, match=r"percentile 0\.0"):
        colour.scale(torch.ones(2, 2), percentile=0.0)
