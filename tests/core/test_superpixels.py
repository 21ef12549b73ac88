"""Regions are connected, numbered without gaps, and follow what can be seen."""

import pytest
import torch
from torch import Tensor

from glasshouse import attribute
from glasshouse.core import BadInput
from glasshouse.core.mask import cells
from glasshouse.core.superpixels import components, grid_of, joined, label_maps


def noise(n: int, c: int, h: int, w: int) -> Tensor:
    return torch.randn(n, c, h, w, generator=torch.Generator().manual_seed(0))


def flood(labels: Tensor) -> Tensor:
    """Connected parts, pixel by pixel with a stack, numbered as they are met in reading order."""
    h, w = labels.shape
    found, count = torch.full((h, w), -1), 0
    for start in range(h * w):
        if found[start // w, start % w] >= 0:
            continue
        stack = [(start // w, start % w)]
        while stack:
            i, j = stack.pop()
            if not (0 <= i < h and 0 <= j < w) or found[i, j] >= 0 or labels[i, j] != labels[start // w, start % w]:
                continue
            found[i, j] = count
            stack += [(i + 1, j), (i - 1, j), (i, j + 1), (i, j - 1)]
        count += 1
    return found


@pytest.mark.parametrize(("c", "h", "w"), [(1, 33, 47), (3, 24, 20), (5, 9, 40)])
@pytest.mark.parametrize("kind", ["slic", "grid"])
def test_regions_are_connected_and_numbered_in_reading_order(kind, c, h, w):
    labels = attribute.regions(noise(2, c, h, w), kind=kind, count=20)
    assert labels.shape == (2, h, w)
    for image in labels:
        assert torch.equal(image, flood(image))
        assert 5 <= int(image.max()) + 1 <= 40


def test_connected_parts_are_those_of_a_flood():
    labels = torch.randint(3, (17, 23), generator=torch.Generator().manual_seed(1))
    assert torch.equal(components(labels), flood(labels))
    spiral = torch.zeros(9, 9, dtype=torch.long)
    spiral[1, 1:8] = spiral[1:8, 7] = spiral[7, 1:8] = spiral[3:8, 1] = spiral[3, 1:6] = 1
    assert torch.equal(components(spiral), flood(spiral))


def test_small_parts_join_the_larger_neighbour_with_the_longest_border():
    labels = torch.zeros(6, 8, dtype=torch.long)
    labels[:, 5:] = 1
    labels[2, 4], labels[3, 4] = 2, 2  # 4 sides to region 0 and 2 to region 1
    labels[0, 7] = 3  # has region 1 alone beside it
    expected = torch.zeros(6, 8, dtype=torch.long)
    expected[:, 5:] = 1
    expected[2:4, 4] = 0
    assert torch.equal(joined(components(labels), 3.0), expected)
    assert torch.equal(joined(components(labels), 1.0), components(labels))
    pixels = torch.arange(12).view(3, 4)  # all too small: they join until enough are together
    assert joined(pixels, 4.0).flatten().bincount().min() >= 4
    assert not joined(pixels, 100.0).any()


def test_superpixels_do_not_cross_a_clear_edge():
    image = torch.zeros(1, 3, 40, 60)
    image[..., 23:] = 1.0  # no border of the grid
    image[:, 1, 17:, :31] = 2.0
    labels = attribute.regions(image, count=24, compactness=0.1)
    for number in labels.unique():
        pixels = image[0, :, labels[0] == number]
        assert (pixels == pixels[:, :1]).all()
    assert torch.equal(attribute.regions(torch.zeros(1, 2, 40, 60), count=24)[0], cells((40, 60), (4, 6)))


def test_superpixels_depend_on_their_own_image_alone_and_not_on_its_kind_of_number():
    images = noise(3, 3, 24, 30).bfloat16()
    labels = attribute.regions(images.float(), count=12)
    assert torch.equal(attribute.regions(images[1:2].double(), count=12), labels[1:2])
    assert torch.equal(attribute.regions(images, count=12), labels)
    assert torch.equal(attribute.regions(-2 * images.double(), count=12), labels)  # contrast does not matter


def test_compact_superpixels_are_more_like_squares():
    def border(compactness: float) -> int:
        labels = attribute.regions(noise(1, 3, 48, 48), count=16, compactness=compactness)[0]
        return int((labels[1:] != labels[:-1]).sum() + (labels[:, 1:] != labels[:, :-1]).sum())

    assert border(20.0) < border(1.0)
    assert border(20.0) == pytest.approx(6 * 48, rel=0.1)


@pytest.mark.parametrize(
    ("count", "size", "grid"),
    [(50, (224, 224), (7, 7)), (12, (30, 40), (3, 4)), (1, (5, 9), (1, 1)), (6, (1, 9), (1, 6))],
)
def test_a_grid_has_about_as_many_cells_as_asked_for(count, size, grid):
    assert grid_of(count, size) == grid


def test_a_label_map_is_numbered_without_gaps_in_each_image():
    images = noise(2, 3, 4, 6)
    given = torch.tensor([7, 3]).view(2, 1, 1).repeat(1, 4, 6)
    given[:, :, 3:] = 9
    expected = torch.zeros(2, 4, 6).long()
    expected[:, :, 3:] = 1
    assert torch.equal(label_maps(images, given, 50), expected)
    assert torch.equal(label_maps(images, given[:, None], 50), expected)
    assert torch.equal(label_maps(images, given[0], 50), expected)


@pytest.mark.parametrize("shape", [(4, 5), (3, 4, 6), (2, 3, 4, 6)])
def test_a_label_map_of_another_shape_is_refused(shape):
    with pytest.raises(BadInput, match="does not belong to images"):
        label_maps(noise(2, 3, 4, 6), torch.zeros(shape, dtype=torch.long), 50)


@pytest.mark.parametrize("settings", [{"count": 0}, {"count": 1000}, {"compactness": 0.0}])
def test_regions_that_cannot_be_are_refused(settings):
    with pytest.raises(BadInput):
        attribute.regions(noise(1, 3, 8, 9), **settings)
