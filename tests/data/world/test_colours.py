"""Paint: HSV, CIELAB and the eleven names."""

import colorsys

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from glasshouse.data.world.colours import COLOURS, TYPICAL, hsv, lab, name_colours

unit = st.floats(0, 1, width=32)


@settings(deadline=None, max_examples=40)
@given(unit, unit, unit)
def test_hsv_is_that_of_the_standard_library(hue, saturation, value):
    expected = torch.tensor([colorsys.hsv_to_rgb(hue, saturation, value)])
    torch.testing.assert_close(hsv(hue, saturation, value), expected, atol=2e-6, rtol=0)


def test_hsv_takes_one_value_for_all_or_one_each():
    hues = torch.tensor([0.0, 1 / 3, 2 / 3])
    torch.testing.assert_close(hsv(hues, 1.0, 1.0), torch.eye(3), atol=1e-6, rtol=0)


def test_lab_of_a_colour_computed_by_hand():
    # sRGB (1, 0, 0): X, Y, Z is the matrix's first column; over white 0.43395, 0.21267, 0.01776, all but the last
    # above (6/29)³, so f = 0.75707, 0.59692, 0.26083: L = 116·0.59692 − 16, a = 500·(f_x − f_y), b = 200·(f_y − f_z).
    expected = torch.tensor([53.24, 80.09, 67.20])
    torch.testing.assert_close(lab(torch.tensor([1.0, 0.0, 0.0])), expected, atol=0.02, rtol=0)


def test_lab_of_greys_has_no_colour_and_its_lightness_runs_from_0_to_100():
    greys = lab(torch.linspace(0, 1, 21, dtype=torch.float64)[:, None].expand(21, 3))
    assert greys[:, 1:].abs().max() < 0.02
    assert abs(float(greys[0, 0])) < 1e-6
    assert float(greys[-1, 0]) == pytest.approx(100, abs=1e-3)
    assert (greys[:, 0].diff() > 0).all()


def test_lab_is_that_of_scikit_image():
    color = pytest.importorskip("skimage.color")
    colours = torch.rand(500, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    torch.testing.assert_close(lab(colours), torch.from_numpy(color.rgb2lab(colours.numpy())), atol=0.02, rtol=0)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *(("black", (0, 0, 0)), ("white", (1, 1, 1)), ("grey", (0.5, 0.5, 0.5)), ("red", (0.9, 0.05, 0.05))),
        *(("green", (0, 0.6, 0)), ("blue", (0, 0, 1)), ("yellow", (1, 1, 0)), ("orange", (1, 0.6, 0))),
        *(("brown", (0.45, 0.27, 0.1)), ("pink", (1, 0.6, 0.8)), ("purple", (0.5, 0, 0.5))),
    ],
)
def test_clear_colours_bear_their_names(name, value):
    assert COLOURS[int(name_colours(torch.tensor(value, dtype=torch.float32)))] == name


def test_every_typical_value_bears_the_name_it_stands_for():
    for name, values in TYPICAL.items():
        assert [COLOURS[i] for i in name_colours(torch.tensor(values)).tolist()] == [name] * len(values)


def test_names_are_in_the_shape_of_the_colours_and_none_is_no_colour():
    assert set(TYPICAL) == set(COLOURS[1:])
    named = name_colours(torch.rand(2, 3, 4, 3, generator=torch.Generator().manual_seed(0)))
    assert named.shape == (2, 3, 4)
    assert named.min() > 0
