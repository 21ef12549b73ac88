"""Units on a page."""

import pytest
import torch

from glasshouse import dissect, report, visualize
from glasshouse.core import BadInput


def test_tiles_are_the_photograph_in_reading_order():
    photo = torch.arange(4 * 6).view(1, 4, 6).expand(3, -1, -1) / 255
    found = report.tiles([photo], size_px=2, across=2)
    assert found.shape == (6, 3, 2, 2)
    torch.testing.assert_close(found[1], photo[:, 0:2, 2:4])
    torch.testing.assert_close(found[3], photo[:, 2:4, 0:2])


def test_each_unit_stands_with_its_strongest_images_and_its_picture(model, photos, parsed):
    pixels = report.tiles(photos, size_px=12, across=2)
    seen = dissect.exemplars(model, model.preprocess.normalise(pixels), layer="3", k=3)
    picture = visualize.render(model, visualize.unit("3", [5, 2]), size=12, steps=2)
    page = report.unit_page(seen, pixels, picture, units=[5, 2], model=model)
    reader = parsed(page)
    words = [image["alt"] for image in reader.all("img")]
    assert sum("unit 5, strongest" in text for text in words) == 3
    assert sum(text.startswith("picture drawn for unit 2") for text in words) == 1
    assert page.index("Unit 5") < page.index("Unit 2")


def test_a_picture_for_another_number_of_units_is_an_error(model, photos):
    pixels = report.tiles(photos, size_px=12, across=2)
    seen = dissect.exemplars(model, model.preprocess.normalise(pixels), layer="3", k=3)
    picture = visualize.render(model, visualize.unit("3", [5]), size=12, steps=1)
    with pytest.raises(BadInput, match="1 pictures for 8 units"):
        report.unit_section(seen, pixels, picture)
    with pytest.raises(BadInput, match="give no tiles"):
        report.tiles([])
