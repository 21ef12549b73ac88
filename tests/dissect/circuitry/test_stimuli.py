"""Synthetic pictures: what their pixels are, and how they turn."""

from collections.abc import Callable
from math import cos, pi, radians, sin

import pytest
import torch
from torch import Tensor

from glasshouse.core import BadInput
from glasshouse.dissect.circuitry import stimuli
from glasshouse.dissect.circuitry.stimuli import Stimulus

ORIENTED = (
    stimuli.edge,
    stimuli.curved_edge,
    stimuli.line,
    stimuli.curve,
    stimuli.angle,
    stimuli.grating,
    stimuli.gabor,
    stimuli.high_low,
    stimuli.checker,
    stimuli.colour_pair,
)
SIZE = (21, 21)


def brute(inside: Callable[[float, float], float], size: tuple[int, int], samples: int) -> Tensor:
    """The mean of point samples in each pixel, one by one; y points up."""
    height, width = size
    found = torch.zeros(size, dtype=torch.float64)
    steps = [(s + 0.5) / samples - 0.5 for s in range(samples)]
    for row in range(height):
        for column in range(width):
            points = [(column - (width - 1) / 2 + a, (height - 1) / 2 - row + b) for a in steps for b in steps]
            found[row, column] = sum(float(inside(x, y)) for x, y in points) / samples**2
    return found


FORMULAS: dict[str, tuple[Stimulus, Callable[[float, float], float]]] = {
    "edge": (stimuli.edge(30), lambda x, y: x * cos(radians(30)) + y * sin(radians(30)) > 0),
    "line": (stimuli.line(75, 3), lambda x, y: abs(x * cos(radians(75)) + y * sin(radians(75))) < 1.5),
    "disc": (stimuli.disc(3.3), lambda x, y: x * x + y * y < 3.3**2),
    "circle": (stimuli.circle(3, 2), lambda x, y: 2**2 < x * x + y * y < 4**2),
    "curved_edge": (stimuli.curved_edge(90, 4), lambda x, y: x * x + (y - 4) ** 2 < 16),
    "checker": (stimuli.checker(0, 3), lambda x, y: (x // 3 + y // 3) % 2 == 0),
    "angle": (stimuli.angle(0, 90, 2), lambda x, y: to_angle(x, y) < 1),
    "curve": (stimuli.curve(0, 4, 2, span=180), lambda x, y: to_arc(x, y) < 1),
    "grating": (stimuli.grating(0, 0.1, 30, contrast=0.5), lambda x, y: 0.5 + cos(2 * pi * x / 10 + pi / 6) / 4),
}


def to_angle(x: float, y: float) -> float:
    """Distance from two rays at ±45°, by hand."""
    y = abs(y)
    return abs(x - y) / 2**0.5 if x + y > 0 else (x * x + y * y) ** 0.5


def to_arc(x: float, y: float) -> float:
    """Distance from the left half of a circle around (4, 0)."""
    if x <= 4:
        return abs(((x - 4) ** 2 + y * y) ** 0.5 - 4)
    return min(((x - 4) ** 2 + (y - end) ** 2) ** 0.5 for end in (-4, 4))


@pytest.mark.parametrize("name", FORMULAS)
def test_pixels_are_what_brute_supersampling_gives(name: str):
    stimulus, inside = FORMULAS[name]
    drawn = stimulus.pixels((13, 11), channels=1, samples=8)[0].double()
    torch.testing.assert_close(drawn, brute(inside, (13, 11), 24), rtol=0, atol=0.02)


def test_an_upright_border_covers_exactly_its_share_of_a_pixel():
    drawn = stimuli.line(0, 2.5).pixels((5, 7), channels=1, samples=2)[0]
    assert drawn[2].tolist() == [0, 0, 0.75, 1, 0.75, 0, 0]
    assert torch.equal(drawn, drawn[:1].expand(5, -1))


@pytest.mark.parametrize("draw", ORIENTED, ids=lambda draw: draw.__name__)
@pytest.mark.parametrize("degrees", [0, 17.5, -33])
def test_a_quarter_turn_of_the_orientation_turns_the_pixels_exactly(draw: Callable[..., Stimulus], degrees: float):
    upright, turned = (draw(orientation=at).pixels(SIZE) for at in (degrees, degrees + 90))
    assert torch.equal(turned, upright.rot90(1, (1, 2)))
    assert not torch.equal(turned, upright)


@pytest.mark.parametrize("draw", ORIENTED, ids=lambda draw: draw.__name__)
def test_a_full_turn_changes_nothing(draw: Callable[..., Stimulus]):
    assert torch.equal(draw(orientation=40).pixels(SIZE), draw(orientation=400).pixels(SIZE))


def test_every_stimulus_points_to_the_right_at_first():
    right, left = stimuli.edge(0).pixels(SIZE)[0, 10, [15, 5]].tolist()
    assert (right, left) == (1, 0)
    assert stimuli.curved_edge(0, 6).pixels(SIZE)[0, 10, [15, 5]].tolist() == [1, 0]
    for draw in (stimuli.curve(0, 6), stimuli.angle(0, 60)):
        drawn = draw.pixels(SIZE)[0]
        assert drawn[:, 11:].sum() > 2 * drawn[:, :10].sum()
    fine = stimuli.high_low(0).pixels(SIZE)[0].diff(dim=0).abs()
    assert fine[:, 12:].mean() > 2 * fine[:, :9].mean()


def test_large_circles_become_straight():
    far = 1e6
    torch.testing.assert_close(
        stimuli.curve(25, far, 3).pixels(SIZE), stimuli.line(25, 3).pixels(SIZE), atol=1e-3, rtol=0
    )
    torch.testing.assert_close(
        stimuli.curved_edge(25, far).pixels(SIZE), stimuli.edge(25).pixels(SIZE), atol=1e-3, rtol=0
    )
    torch.testing.assert_close(stimuli.angle(25, 180).pixels(SIZE), stimuli.line(25).pixels(SIZE), atol=1e-3, rtol=0)


def test_a_wide_gabor_is_a_grating_and_phase_moves_it():
    plain = stimuli.grating(10, 0.1, 40).pixels(SIZE)
    torch.testing.assert_close(stimuli.gabor(10, 0.1, 40, sigma=1e5).pixels(SIZE), plain, atol=1e-5, rtol=0)
    opposite = stimuli.grating(10, 0.1, 220).pixels(SIZE)
    torch.testing.assert_close(plain + opposite, torch.ones_like(plain), atol=2e-6, rtol=0)


def test_the_area_of_a_disc_is_that_of_the_formula():
    assert float(stimuli.disc(7.3).pixels((24, 24), channels=1).sum()) == pytest.approx(pi * 7.3**2, rel=1e-3)


def test_blur_is_a_ramp_of_the_width_asked_for():
    drawn = stimuli.edge(0, blur_px=4).pixels((1, 9), channels=1)[0, 0]
    expected = (0.5 + (torch.arange(9.0) - 4) / 4).clamp(0, 1)
    torch.testing.assert_close(drawn[[0, 1, 3, 4, 5, 7, 8]], expected[[0, 1, 3, 4, 5, 7, 8]])


def test_hues_have_one_lightness_and_opposites_are_complements():
    colours = torch.tensor([stimuli.hued(hue) for hue in range(0, 360, 20)])
    torch.testing.assert_close(colours.mean(1), torch.full((18,), 0.5))
    torch.testing.assert_close(colours[:9] + colours[9:], torch.ones(9, 3))
    assert colours[0].argmax() == 0
    assert colours[6].argmax() == 1
    assert colours[12].argmax() == 2
    patch = stimuli.colour_patch(120, saturation=0.5).pixels((4, 4))
    torch.testing.assert_close(patch[:, 0, 0], torch.tensor([0.375, 0.75, 0.375]))


def test_the_centre_may_lie_between_pixels_or_outside():
    moved = stimuli.disc(2).pixels((9, 12), channels=1, centre=(3, 7.5))[0]
    rows, columns = torch.arange(9.0), torch.arange(12.0)
    assert float((moved.sum(1) * rows).sum() / moved.sum()) == pytest.approx(3)
    assert float((moved.sum(0) * columns).sum() / moved.sum()) == pytest.approx(7.5)
    assert not stimuli.disc(2).pixels((9, 12), centre=(-20, 0)).any()


def test_figure_and_ground_fill_any_number_of_channels():
    drawn = stimuli.edge(figure=(0.1, 0.2, 0.3, 0.4, 0.5), ground=0.9).pixels((2, 8), channels=5)
    torch.testing.assert_close(drawn[:, 0, 7], torch.tensor([0.1, 0.2, 0.3, 0.4, 0.5]))
    torch.testing.assert_close(drawn[:, 0, 0], torch.full((5,), 0.9))
    assert torch.equal(stimuli.line().emptied().pixels((4, 4)), torch.zeros(3, 4, 4))
    assert torch.equal(stimuli.grating().emptied().pixels((4, 4)), torch.full((3, 4, 4), 0.5))


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        (lambda: stimuli.curve(radius=0), "radius=0 is not above 0"),
        (lambda: stimuli.line(width=-1), "width=-1 is not above 0"),
        (lambda: stimuli.colour_patch().pixels((4, 4), channels=1), "a colour of 3 numbers for an image of 1"),
        (lambda: stimuli.edge().pixels((0, 4)), "draw nothing"),
    ],
)
def test_a_mistake_is_named(wrong: Callable[[], object], said: str):
    with pytest.raises(BadInput, match=said):
        wrong()
