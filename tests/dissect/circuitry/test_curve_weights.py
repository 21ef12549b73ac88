"""The rule that writes curve detectors: shapes in closed form, turned by turning, rivals gone."""

from math import cos, hypot, pi, sin

import pytest
import torch
from torch import Tensor

from glasshouse.dissect.circuitry import curve_weights as written
from glasshouse.dissect.circuitry.curve_weights import Shape, Tile, nearest_point, normalised, template, without

NORMALS = written.line_normals(16)


def test_the_nearest_point_of_an_arc_is_found_by_trying_all():
    shape = Shape(normal=0.7, curvature=1 / 9)
    for right, up in ((3.0, 2.0), (-4.0, 1.0), (0.0, -5.0)):
        turns = torch.linspace(-pi, pi, 20_001, dtype=torch.float64)
        # The arc starts at the centre, turns about 9 px along the normal, and its normal turns with it.
        x = 9 * cos(0.7) - 9 * torch.cos(0.7 - turns)
        y = 9 * sin(0.7) - 9 * torch.sin(0.7 - turns)
        gap = torch.hypot(x - right, y - up)
        best = int(gap.argmin())
        distance, length, normal = nearest_point(shape, torch.tensor(right).double(), torch.tensor(up).double())
        assert float(distance.abs()) == pytest.approx(float(gap[best]), abs=1e-5)
        assert float(length) == pytest.approx(9 * float(turns[best]), abs=5e-3)
        assert float(normal) == pytest.approx(0.7 - float(turns[best]), abs=5e-3)
        assert (float(distance) > 0) == (hypot(right - 9 * cos(0.7), up - 9 * sin(0.7)) < 9)  # inside


def test_a_line_is_an_arc_of_no_curvature():
    points = written.offsets(9)
    flat, bent = (nearest_point(Shape(0.4, curvature), *points) for curvature in (0.0, 1e-6))
    for one, other in zip(flat, bent, strict=True):
        torch.testing.assert_close(one, other, atol=1e-3, rtol=0)


def test_a_template_is_the_rule_written_out():
    tile, shape, side = Tile(1.5, 2.0, 3.0), Shape(0.3), 9
    expected = torch.zeros(len(NORMALS), side, side, dtype=torch.float64)
    for unit, normal in enumerate(NORMALS.tolist()):
        for row in range(side):
            for column in range(side):
                right, up = column - 4, 4 - row
                distance = right * cos(0.3) + up * sin(0.3)
                length = up * cos(0.3) - right * sin(0.3)
                fit = 3.0 * (cos(2 * (normal - 0.3)) - 1)
                expected[unit, row, column] = fit - distance**2 / (2 * 1.5**2) - length**2 / (2 * 2.0**2)
    torch.testing.assert_close(template(shape, NORMALS, pi, tile), expected.exp())


def test_what_a_pattern_shares_with_its_rivals_is_gone():
    draw = torch.Generator().manual_seed(0)
    pattern, *rivals = torch.randn(4, 3, 5, 5, generator=draw, dtype=torch.float64)
    left = without(pattern, rivals, ridge=1e-12)
    assert max(abs(float((left * rival).sum())) for rival in rivals) < 1e-9
    rows = torch.stack([rival.flatten() for rival in rivals])
    solved = pattern.flatten() - rows.T @ torch.linalg.lstsq(rows.T, pattern.flatten()[:, None]).solution[:, 0]
    torch.testing.assert_close(left.flatten(), solved)
    torch.testing.assert_close(
        without(pattern, [rivals[0], rivals[0]]), without(pattern, rivals[:1]), atol=1e-2, rtol=0
    )


def turned(kernels: Tensor, inputs: int) -> Tensor:
    """Kernels a quarter turn on, with the inputs renumbered."""
    return torch.rot90(kernels, 1, (-2, -1)).roll(inputs, 1)


@pytest.mark.parametrize("n", [8, 16])
def test_a_quarter_turn_of_a_unit_turns_its_kernels_and_its_inputs(n: int):
    normals, lines = written.curve_normals(n), written.line_normals(n)
    early = written.early_curves(normals, lines, 6.5)  # no weight lies at the arc's centre
    torch.testing.assert_close(early.roll(-n // 4, 0), turned(early, len(lines) // 2))
    curves = written.curves(normals, 6.5)
    torch.testing.assert_close(curves.roll(-n // 4, 0), turned(curves, n // 4))
    straight = written.lines(lines, 0.5)
    torch.testing.assert_close(straight.roll(-len(lines) // 2, 0), turned(straight, len(lines) // 2))


def test_filters_do_not_see_brightness_and_their_phases_cancel():
    filters = written.gabors(NORMALS, 1.0)[:, 0].unflatten(0, (-1, 4))
    torch.testing.assert_close(filters.sum((-2, -1)), torch.zeros(len(NORMALS), 4).double(), atol=1e-12, rtol=0)
    torch.testing.assert_close(filters[:, 0], -filters[:, 2])
    torch.testing.assert_close(filters[:, 1], -filters[:, 3])


@pytest.mark.parametrize(("n", "lines"), [(16, 8), (10, 10), (8, 8), (6, 9), (3, 9), (5, 10), (20, 10)])
def test_lines_are_so_many_that_curves_turn_by_whole_steps_of_them(n: int, lines: int):
    normals = written.line_normals(n)
    assert len(normals) == lines
    steps = (2 * pi / n) / (pi / lines)
    assert steps == pytest.approx(round(steps))


def test_positive_weights_sum_to_one():
    weights = normalised(torch.tensor([3.0, -4.0, 1.0]))
    assert weights.tolist() == [0.75, -1.0, 0.25]
