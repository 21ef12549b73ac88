"""Classes whose score is the sum over a blob: what is lost without it is known to the last digit."""

import math

import pytest
import torch
from torch import nn

from glasshouse.core import BadInput
from glasshouse.evaluate.inside.similarity_regions import around, prototype_deletion

SIZE = (14, 23)


class Sums(nn.Module):
    """Class 0: sum of the first channel; class 1: of the second, twice."""

    def forward(self, x):
        return x[:, :2].sum((2, 3)) * torch.tensor([1.0, 2.0], dtype=x.dtype)


def blobs(n, seed=0):
    """Images with a square of ones, five pixels wide, at a random place of the first channel; its middle."""
    source = torch.Generator().manual_seed(seed)
    at = torch.stack([torch.randint(2, side - 2, (n,), generator=source) for side in SIZE], 1)
    images = torch.zeros(n, 2, *SIZE, dtype=torch.float64)
    for image, (y, x) in zip(images, at.tolist(), strict=True):
        image[0, y - 2 : y + 3, x - 2 : x + 3] = 1.0
        image[0, y, x] = 2.0
    return images, at


def test_without_its_region_a_class_loses_all_it_was_and_elsewhere_next_to_nothing():
    images, _ = blobs(6)
    seen = prototype_deletion(Sums(), images, images[:, :1], of_prototypes=torch.tensor([0]), half_px=2, baseline=0.0)
    assert seen.drop[0].tolist() == [26.0] * 6
    assert seen.value.tolist() == [26.0]
    share = 26 * 25 / (14 * 23)  # what boxes of this size hold on average, at most
    assert 0 <= float(seen.chance) < 3 * share
    assert float(seen.gap) == pytest.approx(26 - float(seen.chance))
    assert sorted(seen.images[0].tolist()) == list(range(6))
    assert seen.n_forward == 6 * (1 + 1 + 8)


def test_a_prototype_that_looks_elsewhere_is_not_missed():
    images, at = blobs(8)
    maps = torch.zeros(8, 1, *SIZE)
    away = torch.where(at[:, 1] < 11, SIZE[1] - 1, 0)
    maps[torch.arange(8), 0, SIZE[0] - 1 - at[:, 0], away] = 1.0
    seen = prototype_deletion(
        Sums(), images, maps, of_prototypes=torch.tensor([0]), half_px=2, baseline=0.0, n_chance=40
    )
    assert seen.value.tolist() == [0.0]
    assert float(seen.gap) < 0


def test_boxes_elsewhere_cost_what_boxes_anywhere_hold():
    images, _ = blobs(1)
    given = {"of_prototypes": torch.tensor([0]), "half_px": 2, "baseline": 0.0}
    seen = prototype_deletion(Sums(), images, images[:, :1], n_chance=250, **given)
    held = images[0, 0].unfold(0, 5, 1).unfold(1, 5, 1).sum((2, 3))
    assert float(seen.chance) == pytest.approx(float(held.mean()), rel=0.3)


def test_each_prototype_is_tried_with_its_own_class_on_its_own_images():
    images, _ = blobs(6)
    images[3:] = images[3:].flip(1)  # the blob is now in the channel of class 1
    maps, kinds = images.sum(1, keepdim=True).expand(6, 2, *SIZE), torch.arange(6) // 3
    given = {"half_px": 2, "baseline": 0.0, "n_chance": 1}
    classes = torch.tensor([0, 1])
    seen = prototype_deletion(Sums(), images, maps, categories=kinds, of_prototypes=classes, **given)
    assert [sorted(row.tolist()) for row in seen.images] == [[-1, -1, -1, 0, 1, 2], [-1, -1, -1, 3, 4, 5]]
    assert seen.value.tolist() == [26.0, 52.0]
    assert seen.drop.isnan().sum(1).tolist() == [3, 3]
    assert seen.n_forward == 2 * 3 * 3
    top = prototype_deletion(Sums(), images, maps, of_prototypes=None, top=2, **given)
    assert top.images.shape == (2, 2)
    assert set(top.drop.flatten().tolist()) <= {26.0, 52.0}  # the top class of each image


def test_images_to_fill_in_with_belong_to_their_images():
    images, _ = blobs(5)
    maps = images[:, :1] * torch.tensor([1.0, 5, 3, 2, 4]).view(5, 1, 1, 1)
    behind = torch.arange(5.0).double().view(5, 1, 1, 1).expand_as(images).contiguous()
    seen = prototype_deletion(
        Sums(), images, maps, of_prototypes=torch.tensor([0]), half_px=2, baseline=behind, top=3, n_chance=1
    )
    assert seen.images[0].tolist() == [1, 4, 2]
    assert seen.drop[0].tolist() == [26 - 25 * i for i in (1, 4, 2)]


def test_the_box_is_that_of_the_other_scores_and_ends_at_the_border():
    boxes = around(torch.tensor([[0.0, 22.0], [7.0, 3.0]]).double(), 2.5, SIZE)
    assert boxes.tolist() == [[0, 20, 3, 23], [5, 1, 10, 6]]
    for (y, x), (first, left, last, right) in zip([(0, 22), (7, 3)], boxes.tolist(), strict=True):
        assert [r for r in range(14) if abs(r - y) <= 2.5] == list(range(first, last))
        assert [c for c in range(23) if abs(c - x) <= 2.5] == list(range(left, right))


def test_a_box_as_large_as_the_image_replaces_it():
    images, _ = blobs(2)
    seen = prototype_deletion(Sums(), images, images[:, :1], of_prototypes=torch.tensor([0]), half_px=99, baseline=0.0)
    assert seen.drop[0].tolist() == seen.elsewhere[0].tolist() == [26.0, 26.0]
    assert float(seen.gap) == 0


def test_flat_prototypes_have_no_region(tmp_path):
    images, _ = blobs(4)
    maps = torch.cat([images[:, :1], torch.ones(4, 1, *SIZE).double()], 1)
    seen = prototype_deletion(Sums(), images, maps, half_px=2)
    assert seen.value.isnan().tolist() == [False, True]
    assert seen.images[1].tolist() == [-1] * 4
    assert math.isnan(seen.stderr)
    assert repr(type(seen).load(seen.save(tmp_path / "noun"))) == repr(seen)


def test_what_does_not_fit_is_refused():
    images, _ = blobs(4)
    with pytest.raises(BadInput, match="3 images of maps, 4 images"):
        prototype_deletion(Sums(), images, images[:3, :1])
    with pytest.raises(BadInput, match="2 classes for 1 prototypes"):
        prototype_deletion(Sums(), images, images[:, :1], of_prototypes=torch.tensor([0, 1]))
