"""Enlarging: beside the bilinear interpolation of torch where that means the same, and without the large map."""

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from glasshouse.core.field import Extent
from glasshouse.core.layers import LayerGeometry
from glasshouse.dissect.netdissect import enlarging
from glasshouse.dissect.netdissect.enlarging import Enlargement, Enlarging


def layer(grid: tuple[int, int], image: tuple[int, int], jump: float | int, start: float | int) -> LayerGeometry:
    extent = Extent(float(jump), 3.0, float(start))
    return LayerGeometry("conv", "Conv2d", "nkij", (1, 4, *grid), 4, grid, 0, extent, extent, True, 1, image)


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def dense(found: Enlargement, maps: Tensor, thresholds: Tensor) -> Tensor:
    """Masks from hits; a pixel that is hit twice counts twice."""
    n, u = maps.shape[:2]
    height, width = found.size
    masks = torch.zeros(n, u, height * width, dtype=torch.long)
    for image, unit, pixel in found.hits(maps, thresholds):
        for x, k, p in zip(image.tolist(), unit.tolist(), pixel.tolist(), strict=True):
            masks[x, k, p] += 1
    return masks.view(n, u, height, width)


@pytest.mark.parametrize("size", [(12, 20), (7, 5), (3, 5), (50, 31)])
def test_half_pixel_is_what_torch_does_without_aligned_corners(size):
    place, maps = layer((3, 5), (12, 20), 4, 1.5), normal(2, 4, 3, 5)
    seen = Enlargement.of(place, size, "half_pixel").whole(maps)
    torch.testing.assert_close(seen, F.interpolate(maps, size, mode="bilinear", align_corners=False))


def test_centres_that_span_the_image_are_aligned_corners():
    # Positions at pixels 0, 4, 8, 12, 16 of an image of 17.
    place, maps = layer((5, 5), (17, 17), 4, 0), normal(2, 4, 5, 5)
    for how in ("centers", "zero"):
        seen = Enlargement.of(place, (17, 17), how).whole(maps)
        torch.testing.assert_close(seen, F.interpolate(maps, (17, 17), mode="bilinear", align_corners=True))


def test_a_grid_point_shows_its_own_value_at_the_centre_of_its_receptive_field():
    place, maps = layer((3, 4), (14, 18), 4, 2), normal(1, 4, 3, 4)
    for how in ("centers", "zero"):
        seen = Enlargement.of(place, (14, 18), how).whole(maps)
        assert torch.equal(seen[:, :, 2::4, 2::4][:, :, :3, :4], maps)


def test_beyond_the_grid_the_border_goes_on_or_falls_to_zero():
    place, maps = layer((2, 2), (16, 16), 4, 6), torch.ones(1, 4, 2, 2, dtype=torch.float64)
    assert torch.equal(Enlargement.of(place, (16, 16), "centers").whole(maps), torch.ones(1, 4, 16, 16).double())
    faded = Enlargement.of(place, (16, 16), "zero").whole(maps)[0, 0]
    ramp = torch.tensor([0, 0, 0, 0.25, 0.5, 0.75, 1, 1, 1, 1, 1, 0.75, 0.5, 0.25, 0, 0]).double()
    torch.testing.assert_close(faded, ramp[:, None] * ramp)


def test_label_maps_of_half_the_size_sample_every_second_pixel_also_of_an_odd_image():
    # 113 label pixels of 227, as AlexNet has them: pixel i lies at image pixel 2 i.
    place, maps = layer((13, 13), (227, 227), 16, 17), normal(1, 4, 13, 13)
    whole = Enlargement.of(place, (227, 227), "centers").whole(maps)
    torch.testing.assert_close(Enlargement.of(place, (113, 113), "centers").whole(maps), whole[:, :, :226:2, :226:2])


@given(
    st.tuples(st.integers(1, 4), st.integers(1, 4)),
    st.tuples(st.integers(1, 15), st.integers(1, 15)),
    st.sampled_from(["centers", "half_pixel", "zero"]),
    st.floats(-1.5, 1.5),
    st.floats(1, 6),
    st.floats(-3, 8),
    st.integers(0, 99),
)
def test_hits_are_the_pixels_at_which_the_whole_map_is_above(
    grid: tuple[int, int], size: tuple[int, int], how: Enlarging, level: float, jump: float, start: float, seed: int
):
    maps = normal(2, 4, *grid, seed=seed)
    maps[0, 1] = 0
    thresholds = torch.tensor([level, 0.0, level / 2, 9.0], dtype=torch.float64)
    found = Enlargement.of(layer(grid, (15, 16), jump, start), size, how)
    whole = found.whole(maps)
    close = (whole - thresholds[:, None, None]).abs() < 1e-12
    seen, wanted = dense(found, maps, thresholds), (whole > thresholds[:, None, None]).long()
    assert torch.equal(seen[~close], wanted[~close])


def test_hits_do_not_depend_on_how_many_are_computed_together(monkeypatch):
    found = Enlargement.of(layer((4, 4), (16, 16), 4, 1.5), (16, 16), "centers")
    maps, thresholds = normal(3, 4, 4, 4), torch.full((4,), 0.3, dtype=torch.float64)
    once = dense(found, maps, thresholds)
    monkeypatch.setattr(enlarging, "AT_ONCE", 1)
    assert torch.equal(dense(found, maps, thresholds), once)
    assert once.max() == 1


def test_equal_to_the_threshold_is_not_above_it():
    found = Enlargement.of(layer((2, 2), (8, 8), 4, 1.5), (8, 8), "centers")
    maps = torch.full((1, 1, 2, 2), 0.1)
    assert not dense(found, maps, torch.tensor([0.1])).any()
    assert dense(found, maps, torch.tensor([0.1]).nextafter(torch.tensor(0.0))).all()


def test_silence_is_a_mark_where_zero_is_above_the_threshold():
    found = Enlargement.of(layer((2, 2), (16, 16), 2, 7), (16, 16), "zero")
    maps = torch.full((1, 1, 2, 2), -1.0)
    masks = dense(found, maps, torch.tensor([-0.5]))[0, 0]
    assert masks[0, 0] == 1
    assert masks[7:10, 7:10].sum() == 0
