"""Folders of photographs and masks become labelled images, and a data set."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from glasshouse.core.errors import BadImage, BadInput
from glasshouse.data.segmentation_export import export_broden
from glasshouse.data.segmentation_folders import labelled_images

VALUES = np.random.default_rng(0).integers(0, 3, (4, 6)).astype(np.uint8)
WORDS = {"object": ("-", "cat", "dog"), "part": ("-", *(f"part {i}" for i in range(400)))}


def save(values: np.ndarray, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(values).save(path)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    photo = np.random.default_rng(1).integers(0, 256, (8, 12, 3)).astype(np.uint8)
    for name in ("photos/a.jpg", "photos/more/b.png", "photos/more/c.png"):
        save(photo, tmp_path / name)
    save(VALUES, tmp_path / "masks/a.png")
    palette = Image.fromarray(VALUES).convert("P")
    palette.putpalette([200, 100, 50] * 256)
    (tmp_path / "masks/more").mkdir()
    palette.save(tmp_path / "masks/more/b.png")
    save(VALUES.astype(np.uint16) * 150, tmp_path / "parts/a.png")
    return tmp_path


def test_masks_of_any_depth_are_read_by_value(root: Path):
    masks = {"object": root / "masks", "part": root / "parts"}
    one, two, three = labelled_images(root / "photos", masks)
    assert [item.id for item in (one, two, three)] == ["photos/a.jpg", "more/b.png", "more/c.png"]
    assert one.planes["object"][0].tolist() == two.planes["object"][0].tolist() == VALUES.tolist()
    assert one.planes["part"][0].tolist() == (VALUES.astype(int) * 150).tolist()
    assert "part" not in two.planes
    assert three.planes == {}
    with Image.open(root / "photos/more/b.png") as image:
        assert np.array_equal(two.pixels.numpy(), np.asarray(image))


def test_folders_become_a_data_set_in_one_call(root: Path):
    masks = {"object": root / "masks", "part": root / "parts"}
    items = labelled_images(root / "photos", masks, size=(16, 18), plane_size=(2, 3))
    data = export_broden(items, root / "own", vocabulary=WORDS)
    assert set(data.ids) == {"photos/a.jpg", "more/b.png"}  # the third image has no mask
    item = data[data.ids.index("more/b.png")]
    assert item["image"].shape == (3, 16, 18)
    names = [[data.label(n).name if n else "-" for n in row] for row in item["planes"][0].tolist()]
    assert names == [[WORDS["object"][n] for n in row] for row in VALUES[1::2, 1::2].tolist()]


def test_void_pixels_have_no_label(root: Path):
    save(np.where(VALUES == 2, 255, VALUES).astype(np.uint8), root / "masks/a.png")
    one, *_ = labelled_images(root / "photos", {"object": root / "masks"}, void=255)
    assert one.planes["object"][0].tolist() == np.where(VALUES == 2, 0, VALUES).tolist()
    with pytest.raises(BadInput, match=r"'photos/a\.jpg' has 255 in 'object', whose vocabulary has 0…2"):
        export_broden(labelled_images(root / "photos", {"object": root / "masks"}), root / "own", vocabulary=WORDS)


def test_what_cannot_be_read_is_named_or_left_out(root: Path):
    save(np.zeros((4, 6, 3), np.uint8), root / "masks/a.png")
    (root / "photos/more/b.png").write_bytes(b"nothing")
    masks = {"object": root / "masks"}
    with pytest.raises(BadImage, match=r"masks/a\.png' has colours \(mode 'RGB'\)"):
        list(labelled_images(root / "photos", masks))
    skipped: dict[str, str] = {}
    left = list(labelled_images(root / "photos", masks, on_skip=skipped.__setitem__))
    assert [item.id for item in left] == ["more/c.png"]
    assert set(skipped) == {"a.jpg", "more/b.png"}
    (root / "masks/a.png").write_bytes((root / "masks/more/b.png").read_bytes()[:70])
    with pytest.raises(BadImage, match="is damaged, or no PNG"):
        list(labelled_images(root / "photos", masks))


def test_folders_that_do_not_fit_are_refused_at_once(root: Path):
    (root / "other").mkdir()
    save(VALUES, root / "other/A1.png")
    for images, masks, said in (
        ("absent", {"object": "masks"}, "no folder"),
        ("photos", {"object": "absent"}, "no folder .* for the masks of 'object'"),
        ("photos", {"object": "other"}, r"no mask in .* is called like an image, such as 'a\.png'.*'A1\.png'|A1\.png"),
        ("photos", {}, "masks names no category"),
        ("masks/more/..", {"object": "parts"}, None),
    ):
        folders = {category: root / folder for category, folder in masks.items()}
        if said is None:
            first, *_ = labelled_images(root / images, folders)
            assert first.id == "masks/a.png"  # the folder's own name, however it is written
        else:
            with pytest.raises(BadInput, match=said):
                labelled_images(root / images, folders)


def test_a_photograph_on_its_side_is_turned_upright(root: Path):
    image = Image.fromarray(np.arange(72, dtype=np.uint8).reshape(4, 6, 3))
    exif = Image.Exif()
    exif[0x0112] = 6  # turn by a quarter, clockwise
    image.save(root / "photos/more/b.png", exif=exif)
    _, two, _ = labelled_images(root / "photos", {"object": root / "masks"})
    assert torch.equal(two.pixels, torch.from_numpy(np.rot90(np.asarray(image), -1).copy()))
