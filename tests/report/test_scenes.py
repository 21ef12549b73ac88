"""Scenes as pictures."""

import base64
import io
import re

import numpy as np
import pytest
import torch
from PIL import Image

from glasshouse.core import BadInput
from glasshouse.core.result import draw
from glasshouse.data import Scenes, scenes
from glasshouse.data.world.colours import COLOURS
from glasshouse.report.colour import to_oklab
from glasshouse.report.scenes import contact_sheet, label_colours, mark_parts, paint_labels, stack_sheets


@pytest.fixture(scope="module")
def houses() -> Scenes:
    return scenes("houses", 30, size=32, seed=1)


def picture(source: str) -> Image.Image:
    return Image.open(io.BytesIO(base64.b64decode(source.partition(",")[2]))).convert("RGB")


def test_a_drawing_is_whole_html_that_fetches_nothing(houses, parsed):
    html = draw(houses)
    reader = parsed(html)
    assert all(image["src"].startswith("data:image/png;base64,") for image in reader.all("img"))
    assert not reader.all("script")
    assert "the first 24 of 30" in html
    assert all(name in html for name in ("object", "material", "texture", "horizon", "wall_material"))


def test_the_legend_names_what_the_first_scene_shows_in_the_colours_it_has(houses, parsed):
    html = draw(houses)
    for figure, plane in zip(re.findall("<figure.*?</figure>", html, re.S), ("object", "part"), strict=False):
        legend = dict(re.findall(r"background:(#\w{6})\"></span> ([^<]+)</span>", figure))
        shown = [houses.vocabulary[plane][i] for i in houses.labels[plane][0].unique().tolist() if i]
        assert sorted(set(legend.values()) - {"none"}) == sorted(shown)
        pixels = np.asarray(picture(parsed(figure).all("img")[0]["src"]))
        seen = {"#" + bytes(colour.tolist()).hex() for colour in np.unique(pixels.reshape(-1, 3), axis=0)}
        assert seen == set(legend)


def test_scenes_without_labels_are_drawn_without_planes(parsed):
    html = draw(scenes("shapes", 2, size=16, labels=False))
    assert len(parsed(html).all("img")) == 1


def test_colours_of_labels_can_be_told_apart(houses):
    for words in houses.vocabulary.values():
        lab = to_oklab(label_colours(words))
        gaps = np.linalg.norm(lab[:, None] - lab[None], axis=2) + np.eye(len(lab))
        assert gaps.min() > 0.03
    assert not np.array_equal(label_colours(COLOURS)[2], label_colours(("-", "a", "b"))[2])
    blue = label_colours(COLOURS)[COLOURS.index("blue")]
    assert blue.argmax() == 2


def test_a_label_map_is_painted_label_by_label():
    plane = torch.tensor([[[0, 1], [2, 1]]])
    words = ("-", "sky", "tree")
    table = torch.from_numpy(label_colours(words)).float()
    painted = paint_labels(plane, words)
    torch.testing.assert_close(painted[0, :, 1, 0], table[2])
    torch.testing.assert_close(painted[0, :, 0, 1], painted[0, :, 1, 1])


@pytest.mark.parametrize("captions", [(), ("one", "a caption that is much longer than its image")])
def test_a_contact_sheet_holds_every_image_at_equal_distances(houses, captions):
    sheet = torch.from_numpy(np.array(contact_sheet(houses.images[:7], across=3, gap_px=4, captions=captions)))
    room = sheet.shape[0] - (3 * 32 + 2 * 4)
    assert sheet.shape[1] == 3 * 32 + 2 * 4
    assert (room > 0) == bool(captions)
    for place in range(7):
        x, y = place % 3 * 36, place // 3 * (36 + room // 3)
        tile = (houses.images[place] * 255).round().permute(1, 2, 0)
        assert torch.equal(sheet[y : y + 32, x : x + 32].float(), tile)
    assert (sheet[:32, 32:36] == 255).all()


def test_sheets_stand_below_each_other_at_one_width():
    wide, narrow, large = (Image.new("RGB", size, "black") for size in ((100, 10), (40, 10), (200, 20)))
    page = np.asarray(stack_sheets([wide, narrow, large], gap_px=5))
    assert page.shape == (40, 100, 3)
    assert (page[:10] == 0).all()
    assert (page[10:15] == 255).all()
    assert (page[15:25, 40:] == 255).all()
    assert (page[30:] == 0).all()
    assert np.asarray(stack_sheets([wide], ["title"])).shape[0] > 10


def test_boxes_of_parts_are_drawn_where_they_are(houses):
    plain = houses.images[0]
    part = next(name for name in houses.part_names if name == "wall" or name == "car body")
    row = next(i for i in range(30) if int(houses.boxes[i, houses.part(part), 2]))
    marked = mark_parts(houses, row, names=[part], zoom=2)
    assert marked.shape == (3, 64, 64)
    large = (houses.images[row] * 255).round().div(255).repeat_interleave(2, 1).repeat_interleave(2, 2)
    changed = (marked - large).abs().amax(0) > 1e-4
    top, left, bottom, right = (2 * houses.boxes[row, houses.part(part)]).tolist()
    rows, columns = changed.any(1).nonzero()[:, 0], changed.any(0).nonzero()[:, 0]
    assert (int(rows.min()), int(rows.max()) + 1) == (top, bottom)
    assert (int(columns.min()), int(columns.max()) + 1) == (left, right)
    assert torch.equal(houses.images[0], plain)


def test_sheets_of_nothing_are_errors(houses):
    for wrong in ({"across": 0}, {"captions": ["a", "b", "c"]}):
        with pytest.raises(BadInput, match="make no sheet"):
            contact_sheet(houses.images[:2], **wrong)
    with pytest.raises(BadInput, match="headings"):
        stack_sheets([Image.new("RGB", (4, 4))], ["a", "b"])
