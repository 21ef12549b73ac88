"""Smooth masks against their definition, pixel by pixel and in double precision, and against what is known of them."""

from math import ceil, exp, hypot

import pytest
import torch
from torch import Tensor

from glasshouse.attribute.smooth_masks import draw_masks, inside, lattice
from glasshouse.core import BadInput

SIZES = [((14, 18), 7, 21), ((33, 17), 5, 8.5), ((9, 30), 4, 3), ((16, 16), 1, 2)]


def canvas(size: tuple[int, int], n: int = 1) -> Tensor:
    return torch.zeros(n, 3, *size, dtype=torch.float64)


def random_cells(on, n: int = 2) -> Tensor:
    return torch.rand(n, *on.cells, dtype=torch.float64, generator=torch.Generator().manual_seed(0))


def by_definition(cells: Tensor, whole: tuple[int, int], step: int, sigma: float) -> Tensor:
    """smax of every cell in reach, for one pixel after the other; cells that are not there count as empty."""
    mask, reach, padding = torch.zeros(whole).double(), 1 + ceil(sigma / step), 1 + ceil(2 * sigma / step)
    for v in range(whole[0]):
        for u in range(whole[1]):
            above = below = 0.0
            for y in range(v // step - padding, v // step - padding + 2 * reach + 1):
                for x in range(u // step - padding, u // step - padding + 2 * reach + 1):
                    there = 0 <= y < cells.shape[0] and 0 <= x < cells.shape[1]
                    z = hypot(v - sigma - step * y, u - sigma - step * x) / sigma
                    value = exp(-2 * max(0.0, z - 0.5) ** 2) * float(cells[y, x]) if there else 0.0
                    above, below = above + value * exp(20 * value), below + exp(20 * value)
            mask[v, u] = above / below
    return mask


@pytest.mark.parametrize(("size", "step", "sigma"), [SIZES[1], SIZES[2]])
def test_masks_are_the_soft_maximum_of_bumps(size, step, sigma):
    on = lattice(canvas(size), step, sigma)
    cells = random_cells(on)
    masks = draw_masks(cells, on)
    for row in range(2):
        torch.testing.assert_close(masks[row], by_definition(cells[row], on.whole, step, sigma), rtol=0, atol=1e-12)


@pytest.mark.parametrize(("size", "step", "sigma"), SIZES)
def test_the_image_lies_inside_its_margin(size, step, sigma):
    on = lattice(canvas(size), step, sigma)
    masks = draw_masks(random_cells(on), on)
    assert masks.shape[1:] == on.whole
    assert torch.equal(inside(masks, on), masks[:, on.margin :, on.margin :][:, : size[0], : size[1]])
    assert inside(masks, on).shape[1:] == size


def test_the_gradient_is_that_of_the_mask():
    on = lattice(canvas((6, 9)), 4, 3)
    cells = 0.05 + 0.9 * random_cells(on)
    assert torch.autograd.gradcheck(lambda free: draw_masks(free, on), cells.requires_grad_())


def test_full_cells_give_nearly_1_inside_and_fade_in_the_margin():
    # A soft maximum of several equal values stays below them.
    on = lattice(torch.zeros(1, 3, 224, 224), 7, 21)
    whole = draw_masks(torch.ones(1, *on.cells), on)
    seen = inside(whole, on)
    assert on.cells == (32, 32)
    assert on.whole == (260, 260)
    assert on.weights.shape == (81, 49)
    assert (round(float(seen.min()), 3), round(float(seen.max()), 3)) == (0.976, 0.996)
    assert round(float(whole.min()), 3) == 0.067


def test_one_cell_draws_one_bump():
    on = lattice(torch.zeros(1, 3, 224, 224), 7, 21)
    cells = torch.zeros(1, *on.cells)
    cells[0, 16, 16] = 1
    mask = inside(draw_masks(cells, on), on)[0]
    assert float(mask.max()) == pytest.approx(1, abs=1e-6)
    assert int((mask > 0.5).sum()) == 1641
    assert mask[16 * 7, 16 * 7] == mask.max()
    assert mask[0, 0] == 0


def test_rows_do_not_influence_each_other():
    on = lattice(canvas((21, 24)), 7, 21)
    cells = random_cells(on, 3)
    torch.testing.assert_close(draw_masks(cells, on)[1:2], draw_masks(cells[1:2], on), rtol=0, atol=1e-15)


@pytest.mark.parametrize(("step", "sigma"), [(0, 21), (7, 0), (-1, 3)])
def test_a_lattice_without_cells_or_reach_is_an_error(step, sigma):
    with pytest.raises(BadInput, match="no lattice"):
        lattice(canvas((14, 14)), step, sigma)
