"""Exemplars as an object: saved, shown, cut into patches."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from glasshouse.core import BadInput, NotFound
from glasshouse.dissect import Exemplars, exemplars

PHOTOS = torch.rand(10, 3, 14, 18, generator=torch.Generator().manual_seed(2))


@pytest.fixture
def seen(cnn) -> Exemplars:
    return exemplars(cnn, PHOTOS, layer="3", k=3)


def with_box(seen: Exemplars, box: list[int], window: tuple[int, int]) -> Exemplars:
    """The same, with every image's field at one place."""
    boxes = torch.tensor(box).expand_as(seen.strongest.boxes)
    return replace(seen, strongest=replace(seen.strongest, boxes=boxes), window=window)


def test_saving_and_loading_is_the_identity(seen: Exemplars, tmp_path: Path):
    again = Exemplars.load(seen.save(tmp_path / "units.safetensors"))
    assert again.to_dict() == seen.to_dict()
    torch.testing.assert_close(again.patches(PHOTOS, 5), seen.patches(PHOTOS, 5), rtol=0, atol=0)


def test_it_says_what_it_is_in_one_line(seen: Exemplars):
    assert repr(seen) == "Exemplars(3, 8 units, 3 of 10 images by max, 0 dead)"
    one = repr(seen.unit(5))
    assert one.startswith("Exemplars(3 unit 5, 3 of 10 images by max, peak ")
    assert "\n" not in one
    assert repr(seen.random) == "Picks(3 images for each of 8 units)"


def test_one_unit_is_a_row_of_everything(seen: Exemplars):
    one = seen.unit(5)
    assert one.units.tolist() == [5]
    assert torch.equal(one.maps[0], seen.maps[5])
    assert torch.equal(one.spectrum.ids[0], seen.spectrum.ids[5])
    assert float(one.threshold) == float(seen.threshold[5])
    torch.testing.assert_close(one.masked(PHOTOS, 5), seen.masked(PHOTOS, 5))


@pytest.mark.parametrize(
    ("box", "window", "grey_rows", "grey_columns"),
    [
        ([3, 4, 9, 10], (6, 6), [], []),
        ([0, 4, 4, 10], (6, 6), [0, 1], []),
        ([11, 0, 14, 5], (6, 6), [3, 4, 5], [0]),
        ([8, 14, 14, 18], (6, 6), [], [4, 5]),
    ],
    ids=["inside", "top", "bottom left", "right"],
)
def test_what_lies_beyond_the_image_is_grey(box, window, grey_rows, grey_columns, seen: Exemplars):
    patches = with_box(seen, box, window).patches(PHOTOS, 2, size=6)
    assert patches.shape == (3, 3, 6, 6)
    outside = torch.zeros(6, 6, dtype=torch.bool)
    outside[grey_rows] = True
    outside[:, grey_columns] = True
    assert (patches[:, :, outside] == 0.5).all()
    top, left, bottom, right = box
    inside = PHOTOS[seen.strongest.ids[2], :, top:bottom, left:right]
    torch.testing.assert_close(patches[:, :, ~outside], inside.flatten(2))


def test_a_field_that_holds_the_whole_image_is_the_image(seen: Exemplars):
    wide = with_box(seen, [0, 0, 14, 18], (200, 300))
    patches = wide.patches(PHOTOS, 2)
    assert patches.shape == (3, 3, 18, 18)
    assert not (patches == 0.5).all(3).any()  # no grey border
    # Constant rows stay what they are when only the other axis is resized.
    ramp = torch.arange(18.0).expand(10, 3, 14, 18)
    torch.testing.assert_close(wide.patches(ramp, 2)[0, 0], torch.arange(18.0).expand(18, 18))


def test_patches_of_any_group_show_that_group(cnn):
    identity = nn.Sequential(nn.Conv2d(3, 3, 1, bias=False), nn.AdaptiveAvgPool2d(1), nn.Flatten()).eval()
    with torch.no_grad():
        identity[0].weight.copy_(torch.eye(3)[..., None, None])
    seen = exemplars(identity, PHOTOS, layer="0", k=4)
    for group in ("strongest", "weakest", "random", "spectrum"):
        patches = seen.patches(PHOTOS, 1, group=group)
        torch.testing.assert_close(patches[:, 1, 0, 0], getattr(seen, group).values[1])


@pytest.mark.parametrize(
    ("images", "said"),
    [
        (PHOTOS[:9], "these are 9 images, but exemplars were chosen among 10"),
        (PHOTOS[:, :, :9], r"have \(9, 18\) pixels, the inputs had \(14, 18\)"),
    ],
)
def test_other_images_than_the_data_set_are_refused(images: Tensor, said: str, seen: Exemplars):
    with pytest.raises(BadInput, match=said):
        seen.patches(images, 0)


def test_a_unit_that_was_not_looked_at_is_not_found(seen: Exemplars):
    with pytest.raises(NotFound, match=r"unit 8 is not among the 8 units of this result. They are 0, 1, 2"):
        seen.unit(8)
