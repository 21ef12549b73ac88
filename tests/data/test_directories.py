"""Folders of images: what is found in them and how it is said, and that nothing odd in them stops a pass."""

import json
import os
import pickle
import random
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import DataLoader

from glasshouse.core import Preprocess
from glasshouse.core.errors import BadImage, BadInput, NotFound
from glasshouse.core.result import Noun
from glasshouse.core.shards import Data, sweep
from glasshouse.core.stats import Moments
from glasshouse.data.directories import Entry, folder
from glasshouse.data.listing import natural

NOISE = np.random.default_rng(0)


def photo(path: Path, height: int = 6, width: int = 8, **settings) -> np.ndarray:
    """A photograph of noise, written without loss."""
    pixels = NOISE.integers(0, 256, (height, width, 3), dtype=np.uint8)
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path, **settings)
    return pixels


def drawn(path: Path, numbers: np.ndarray) -> np.ndarray:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(numbers).save(path)
    return numbers


@pytest.fixture
def pets(tmp_path) -> Path:
    """Three classes, one of them with folders of its own, and what lies about in folders."""
    for name in ("dog/10.png", "dog/2.png", "cat/b/1.png", "cat/a/7.png", "Ape/x.PNG"):
        photo(tmp_path / "pets" / name)
    for name in ("notes.txt", "dog/Thumbs.db", ".hidden.png", ".cache/1.png", "cat/._1.png"):
        path = tmp_path / "pets" / name
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(b"odd")
    return tmp_path / "pets"


def test_the_first_folder_of_a_path_is_its_class_numbered_as_by_torchvision(pets):
    found = folder(pets)
    assert isinstance(found, Data)
    assert found.ids == ("Ape/x.PNG", "cat/a/7.png", "cat/b/1.png", "dog/2.png", "dog/10.png")
    assert found.class_names == ("Ape", "cat", "dog")
    assert found.targets.tolist() == [0, 1, 1, 2, 2]
    assert repr(found) == "Folder(pets: 5 images, 3 classes)"
    assert "classes: the 3 folders Ape, cat, dog." in found.chosen
    assert "left aside: 1 of 6 files, no photographs by their names (.txt)." in found.chosen


def test_names_sort_by_the_value_of_their_numbers_whatever_order_they_come_in():
    names = ["1.png", "a/2.png", "a/10.png", "A/11.png", "a-1.png", "b2/1.png", "b10/0.png", "b10/0a.png"]
    for seed in range(20):
        shuffled = random.Random(seed).sample(names, len(names))
        assert sorted(shuffled, key=natural) == ["1.png", "a/2.png", "a/10.png", "A/11.png", *names[4:]]


def test_ids_do_not_depend_on_how_the_folder_is_written(pets, monkeypatch):
    monkeypatch.chdir(pets / "dog")
    for written in ("..", "../../pets/", "../dog/.."):
        assert folder(written).ids == folder(pets).ids
    monkeypatch.chdir(pets)
    assert folder(".").ids == folder(pets).ids
    assert repr(folder(".")) == repr(folder(pets))


def test_pixels_come_back_bit_for_bit_without_a_size(tmp_path):
    pixels = photo(tmp_path / "a.png")
    item = folder(tmp_path)[0]
    assert item["image"].dtype == torch.float32
    assert torch.equal((item["image"] * 255).round().byte(), torch.from_numpy(pixels).permute(2, 0, 1))
    assert item["target"].dtype == torch.int64
    assert int(item["target"]) == -1


def test_a_flat_folder_has_no_classes_and_says_so(tmp_path):
    photo(tmp_path / "1.png")
    found = folder(tmp_path)
    assert found.class_names == ()
    assert found.targets.tolist() == [-1]
    assert "classes: none, as no folders name any." in found.chosen


def test_images_beside_the_folders_of_classes_have_none_and_are_counted(pets):
    photo(pets / "odd.png")
    found = folder(pets)
    assert found.targets[list(found.ids).index("odd.png")] == -1
    assert "without a class: 1 of 6 images, beside the folders of the classes." in found.chosen


def test_folders_that_name_splits_are_no_classes(tmp_path):
    for name in ("train/cat/1.png", "train/dog/1.png", "val/cat/1.png", "val/dog/1.png", "val/dog/2.png"):
        photo(tmp_path / name)
    found = folder(tmp_path)
    assert "splits: the folders train, val." in found.chosen
    assert found.class_names == ("cat", "dog")
    assert found.split("val").ids == ("val/cat/1.png", "val/dog/1.png", "val/dog/2.png")
    assert found.split("val").targets.tolist() == [0, 1, 1]
    with pytest.raises(NotFound, match=r"no split 'vall'.*'val'"):
        found.split("vall")
    photo(tmp_path / "ape/1.png")  # and with another folder beside them they are
    assert folder(tmp_path).class_names == ("ape", "train", "val")


def test_given_class_names_set_the_numbers(pets):
    found = folder(pets, class_names=["dog", "cow", "cat", "Ape"])
    assert found.targets.tolist() == [3, 2, 2, 0, 0]
    assert found.class_names == ("dog", "cow", "cat", "Ape")
    with pytest.raises(NotFound, match=r"folder 'cat'.*no class 'cat'.*'cats'"):
        folder(pets, class_names=["dog", "cats", "Ape"])
    for wrong in ("cat", ["cat", "cat"]):
        with pytest.raises(BadInput, match="no list of different names"):
            folder(pets, class_names=wrong)


def test_what_a_camera_or_a_scanner_writes_becomes_upright_rgb(tmp_path):
    pixels = photo(tmp_path / "1-plain.png", 4, 4)
    rotated = Image.Exif()
    rotated[0x0112] = 6  # the first row stored is the right column
    Image.fromarray(np.ascontiguousarray(np.rot90(pixels, 1))).save(tmp_path / "2-turned.png", exif=rotated)
    clear = np.dstack([pixels, np.zeros((4, 4), np.uint8)])
    Image.fromarray(clear).save(tmp_path / "3-clear.png")
    Image.fromarray(np.arange(16, dtype=np.uint16).reshape(4, 4) * 257 * 17).save(tmp_path / "4-deep.png")
    Image.fromarray(np.zeros((4, 4, 4), np.uint8), "CMYK").save(tmp_path / "5-print.tif")
    images = [item["image"] for item in folder(tmp_path)]
    assert torch.equal(images[0], images[1])
    assert torch.equal(images[2], torch.ones(3, 4, 4))
    torch.testing.assert_close(images[3], (torch.arange(16.0).view(4, 4) / 15).expand(3, 4, 4))
    assert torch.equal(images[4], torch.ones(3, 4, 4))


@pytest.mark.parametrize("crop", ["center", "squash"])
def test_with_a_size_pixels_are_those_of_the_preprocessing_of_models(crop, tmp_path):
    photo(tmp_path / "a.png", 30, 40)
    preprocess = Preprocess(size=(12, 10), mean=(0.0,) * 3, std=(1.0,) * 3, crop_mode=crop)
    found = folder(tmp_path, size=(12, 10), crop=crop)
    assert torch.equal(found[0]["image"], preprocess(tmp_path / "a.png")[0])
    assert repr(found).endswith("1 images, 12 x 10 px)")
    assert folder(tmp_path, size=5)[0]["image"].shape == (3, 5, 5)


def test_the_geometry_none_accepts_one_size_only_and_names_the_file(tmp_path):
    photo(tmp_path / "a.png", 8, 8)
    photo(tmp_path / "b.png", 8, 9)
    found = folder(tmp_path, size=8, crop="none")
    assert found[0]["image"].shape == (3, 8, 8)
    with pytest.raises(BadImage, match=r"b\.png.*8 x 9 px"):
        found[1]


def test_a_mask_is_cut_as_its_image_is_each_pixel_from_the_nearest_centre(tmp_path):
    height, width = 9, 13
    for crop in ("center", "squash"):
        photo(tmp_path / crop / "images/a.png", height, width)
        mask = drawn(tmp_path / crop / "masks/a.png", NOISE.integers(0, 256, (height, width), dtype=np.uint8))
        found = folder(tmp_path / crop / "images", masks=tmp_path / crop / "masks", size=(6, 5), crop=crop)
        h, w, left = (6, 8, 2) if crop == "center" else (6, 5, 0)
        rows = [min(range(height), key=lambda y: abs((y + 0.5) / height - (i + 0.5) / h)) for i in range(6)]
        columns = [min(range(width), key=lambda x: abs((x + 0.5) / width - (j + left + 0.5) / w)) for j in range(5)]
        assert found[0]["mask"].dtype == torch.int64
        assert found[0]["mask"].tolist() == mask[np.ix_(rows, columns)].tolist()


def test_an_image_that_is_its_own_mask_stays_so_when_both_are_enlarged(tmp_path):
    # Blocks of 4 x 4 pixels: in the middle of a block bilinear, bicubic and nearest agree.
    blocks = np.kron(NOISE.integers(0, 2, (5, 7)), np.ones((4, 4))).astype(np.uint8) * 255
    drawn(tmp_path / "images/a.png", blocks)
    drawn(tmp_path / "masks/a.png", blocks)
    item = folder(tmp_path / "images", masks=tmp_path / "masks", size=(60, 60))[0]
    agree = (item["image"][0] > 0.5) == (item["mask"] > 0)
    assert agree.float().mean() > 0.97


def test_masks_hold_whole_numbers_of_any_depth(tmp_path):
    numbers = {
        "bits": np.array([[True, False], [False, True]]),
        "bytes": np.array([[0, 255], [7, 1]], np.uint8),
        "words": np.array([[0, 65535], [7, 300]], np.uint16),
    }
    for name, values in numbers.items():
        photo(tmp_path / f"images/{name}.png", 2, 2)
        drawn(tmp_path / f"masks/{name}.png", values)
    photo(tmp_path / "images/palette.png", 2, 2)
    palette = Image.fromarray(np.array([[2, 0], [1, 2]], np.uint8), "P")
    palette.putpalette([255, 0, 0, 0, 255, 0, 0, 0, 255])
    palette.save(tmp_path / "masks/palette.png")
    found = folder(tmp_path / "images", masks=tmp_path / "masks")
    masks = {name: item["mask"].tolist() for name, item in zip(found.ids, found, strict=True)}
    assert masks["bits.png"] == [[1, 0], [0, 1]]
    assert masks["bytes.png"] == [[0, 255], [7, 1]]
    assert masks["words.png"] == [[0, 65535], [7, 300]]
    assert masks["palette.png"] == [[2, 0], [1, 2]]


def test_a_mask_that_was_turned_with_its_image_is_upright_too(tmp_path):
    turned = Image.Exif()
    turned[0x0112] = 3  # upside down
    values = np.arange(6, dtype=np.uint8).reshape(2, 3)
    for name in ("images", "masks"):
        (tmp_path / name).mkdir()
        Image.fromarray(values).save(tmp_path / name / "a.png", exif=turned)
    item = folder(tmp_path / "images", masks=tmp_path / "masks")[0]
    assert item["mask"].tolist() == values[::-1, ::-1].tolist()
    assert torch.equal((item["image"][0] * 255).round().long(), item["mask"])


def test_masks_that_do_not_fit_are_named_when_they_are_read(tmp_path):
    for name in ("big", "colour", "cut", "none", "fine"):
        photo(tmp_path / f"images/{name}.png", 2, 3)
        drawn(tmp_path / f"masks/{name}.png", np.zeros((2, 3), np.uint8))
    drawn(tmp_path / "masks/big.png", np.zeros((3, 2), np.uint8))
    photo(tmp_path / "masks/colour.png", 2, 3)
    (tmp_path / "masks/cut.png").write_bytes((tmp_path / "masks/fine.png").read_bytes()[:40])
    (tmp_path / "masks/none.png").unlink()
    found = folder(tmp_path / "images", masks=tmp_path / "masks")
    assert "masks: 4 of 5 images have one." in found.chosen
    problems = found.check().problems
    assert list(problems) == ["big.png", "colour.png", "cut.png", "none.png"]
    assert "masks/big.png' has 3 x 2 px, its image (upright) 2 x 3" in problems["big.png"]
    assert "holds colours (mode 'RGB')" in problems["colour.png"]
    assert "masks/cut.png' cannot be read as a mask" in problems["cut.png"]
    assert "images/none.png' has no mask, and others have one" in problems["none.png"]


def test_masks_below_the_folder_are_not_taken_for_images(tmp_path):
    photo(tmp_path / "cat/1.jpg", 4, 4)
    drawn(tmp_path / "masks/cat/1.png", np.ones((4, 4), np.uint8))
    found = folder(tmp_path, masks="masks")
    assert found.ids == ("cat/1.jpg",)
    assert torch.equal(found[0]["mask"], torch.ones(4, 4, dtype=torch.int64))
    with pytest.raises(BadInput, match="lie in one folder"):
        folder(tmp_path, masks=tmp_path)
    with pytest.raises(BadInput, match="does not exist"):
        folder(tmp_path, masks="mask")
    drawn(tmp_path / "masks/cat/1.tif", np.ones((4, 4), np.uint8))
    with pytest.raises(BadInput, match="masks of one image"):
        folder(tmp_path, masks="masks")
    photo(tmp_path / "elsewhere/2.png")
    with pytest.raises(BadInput, match=r"none of the 1 images has a mask.*masks/1\.png"):
        folder(tmp_path / "cat", masks=tmp_path / "masks")
    with pytest.raises(BadInput, match="none of the 1 images"):
        folder(tmp_path / "elsewhere", masks=tmp_path / "masks")


def listed(path: Path, rows: list[dict]) -> Path:
    """The same rows as a table of either kind."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".jsonl":
        path.write_text("\n".join(json.dumps(row) for row in rows) + "\n\n")
        return path
    columns = list(dict.fromkeys(column for row in rows for column in row))
    lines = [",".join(columns), *(",".join(str(row.get(column, "")) for column in columns) for row in rows)]
    path.write_bytes("\r\n".join(lines).encode("utf-8-sig"))  # as a spreadsheet writes it
    return path


@pytest.mark.parametrize("suffix", [".csv", ".jsonl"])
def test_a_manifest_says_what_each_image_is(suffix, tmp_path):
    for name in ("b.png", "a.png", "c.png"):
        photo(tmp_path / "images" / name, 2, 2)
    drawn(tmp_path / "lists/m.png", np.full((2, 2), 9, np.uint8))
    rows = [
        {"image": "../images/b.png", "label": "dog", "split": "train", "mask": "m.png", "weight": 3},
        {"image": "../images/a.png", "label": "cat", "split": "test", "mask": "m.png"},
        {"image": "..\\images\\c.png", "label": "", "split": "test", "mask": "m.png", "id": "see"},
    ]
    listed(tmp_path / f"lists/all{suffix}", rows)
    found = folder(tmp_path, manifest=f"lists/all{suffix}")
    assert found.ids == ("images/b.png", "images/a.png", "see")
    assert found.class_names == ("cat", "dog")
    assert found.targets.tolist() == [1, 0, -1]
    assert found.split("test").ids == ("images/a.png", "see")
    assert found[2]["mask"].tolist() == [[9, 9], [9, 9]]
    assert found.check().ok
    assert "classes: the 2 labels cat, dog, in alphabetical order." in found.chosen
    assert "not read: the columns weight." in found.chosen
    assert folder(tmp_path, manifest=tmp_path / f"lists/all{suffix}").ids == found.ids
    with pytest.raises(BadInput, match="masks= is given, and the manifest has a column mask"):
        folder(tmp_path, manifest=f"lists/all{suffix}", masks="lists")


@pytest.mark.parametrize("suffix", [".csv", ".jsonl"])
def test_labels_are_names_or_numbers(suffix, tmp_path):
    rows = [{"image": "a.png", "label": 12}, {"image": "b.png", "label": "3"}, {"image": "c.png"}]
    listed(tmp_path / f"x{suffix}", [*rows, {"image": "d.png", "label": -1}])
    assert folder(tmp_path, manifest=f"x{suffix}").targets.tolist() == [12, 3, -1, -1]
    listed(tmp_path / f"x{suffix}", rows)
    found = folder(tmp_path, manifest=f"x{suffix}")
    assert found.targets.tolist() == [12, 3, -1]
    assert found.class_names == ()
    names = [f"class {number}" for number in range(13)]
    assert folder(tmp_path, manifest=f"x{suffix}", class_names=names).targets.tolist() == [12, 3, -1]
    with pytest.raises(
        NotFound, match=rf"x\{suffix}', line {2 if suffix == '.csv' else 1}, column label: no class '12'"
    ):
        folder(tmp_path, manifest=f"x{suffix}", class_names=["cat", "dog"])
    assert folder(tmp_path, manifest=f"x{suffix}", class_names=["12", "3"]).targets.tolist() == [0, 1, -1]


BAD_TABLES = {
    "x.csv": {
        "path,label\na.png,cat": "line 1: the header .path, label. must hold the column image",
        "image,image\na.png,b.png": "line 1: .* none twice",
        "": "line 1: the header .. must hold the column image",
        "image\n": "lists no images",
        "image,label\na.png,cat\n,dog": "line 3, column image: there is no path",
        "image,label\na.png,cat,dog": "line 2, column 3: the line has 3 cells, the header 2",
        "image,label\na.png": "line 2, column label: the line has 1 cells, the header 2",
        "image,label\na.png,cat\nb.png,dog\na.png,cat": "line 4, column image: 'a.png' is on line 2 already",
        "image,id\na.png,1\nb.png,1": "line 3, column id: '1' is on line 2 already",
        'image\n"a.png': "line 2: unexpected end of data",
        "image,label\na.png,\xff": "is not UTF-8",
    },
    "x.jsonl": {
        '{"image": "a.png"}\n{"label": 3}': "line 2, column image: there is no path",
        '{"image": "a.png"}\n{"image": ': "line 2: no JSON",
        "[1]": "line 1: a list",
        '{"image": ["a.png"]}': "line 1, column image: a list",
        '{"image": "a.png", "label": 1.5}': "line 1, column label: a float",
        '{"image": "a.png", "label": true}': "line 1, column label: a bool",
        "\n": "lists no images",
    },
    "x.txt": {"image": "ends in none of .csv"},
}


@pytest.mark.parametrize(("name", "text"), [(name, text) for name, texts in BAD_TABLES.items() for text in texts])
def test_a_bad_table_is_refused_with_its_line_and_column(name, text, tmp_path):
    (tmp_path / name).write_bytes(text.encode("latin-1"))
    with pytest.raises(BadInput, match=rf"{name[:-4]}.*{BAD_TABLES[name][text]}"):
        folder(tmp_path, manifest=name)


def spoilt(pets: Path) -> Path:
    """Two of seven images can be read no more: one cut short, one that is none; two lead nowhere."""
    whole = (pets / "dog/2.png").read_bytes()
    (pets / "dog/2.png").write_bytes(whole[: len(whole) // 2])
    (pets / "cat/a/7.png").write_bytes(b"<html>not found</html>")
    (pets / "dog/3.png").symlink_to(pets / "gone.png")
    (pets / "dog/4.png").symlink_to(pets / "dog/4.png")
    return pets


def test_images_that_cannot_be_read_are_errors_when_read_and_all_listed_by_check(pets, tmp_path):
    found, seen = folder(spoilt(pets)), []
    assert len(found) == 7
    with pytest.raises(BadImage, match=r"7\.png' is no recognisable image"):
        found[1]
    report = found.check(progress=lambda done, n: seen.append((done, n)))
    assert list(report.problems) == ["cat/a/7.png", "dog/2.png", "dog/3.png", "dog/4.png"]
    assert "2.png' is damaged or cut short" in report.problems["dog/2.png"]
    assert "no file '3.png'" in report.problems["dog/3.png"]
    assert not report.ok
    assert repr(report).startswith("FolderCheck(4 of 7 images cannot be read; 'cat/a/7.png': ")
    assert seen == [(done, 7) for done in range(1, 8)]
    assert Noun.load(report.save(tmp_path / "report")) == report
    assert repr(folder(pets / "Ape").check()) == "FolderCheck(all 1 images can be read)"


def test_with_on_skip_they_are_left_out_and_reported(pets):
    skipped, ticks = {}, []
    found = folder(spoilt(pets), on_skip=skipped.__setitem__, progress=lambda done, n: ticks.append(done))
    assert found.ids == ("Ape/x.PNG", "cat/b/1.png", "dog/10.png")
    assert found.class_names == ("Ape", "cat", "dog")
    assert list(skipped) == ["cat/a/7.png", "dog/2.png", "dog/3.png", "dog/4.png"]
    assert found.chosen[-1] == "left out: 4 of 7 images, which cannot be read."
    assert ticks == list(range(1, 8))
    assert found.check().ok
    (pets / "Ape/x.PNG").write_bytes(b"odd")
    with pytest.raises(BadInput, match=r"none of the 1 images can be read; the first is 'x\.PNG'"):
        folder(pets / "Ape", on_skip=skipped.__setitem__)


def test_a_sweep_goes_on_without_them(pets):
    skipped = {}
    found = folder(spoilt(pets), size=4)
    mean = sweep(
        lambda batch, ids: (batch["image"].flatten(1),), found, Moments(), batch_size=3, on_skip=skipped.__setitem__
    ).mean
    good = [found[index]["image"] for index in (0, 2, 6)]
    torch.testing.assert_close(mean, torch.stack(good).flatten(1).double().mean(0))
    assert len(skipped) == 4


def test_links_to_folders_are_followed_but_never_in_a_circle(pets):
    (pets / "dog/again").symlink_to(pets)
    (pets / "dog/self").symlink_to("self")
    (pets / "wolf").symlink_to(pets / "dog")
    assert [name for name in folder(pets).ids if name.startswith("wolf")] == ["wolf/2.png", "wolf/10.png"]
    assert len(folder(pets)) == 7


@pytest.mark.skipif(sys.platform != "linux", reason="names of files are Unicode there")
def test_names_that_are_no_unicode_still_make_ids(tmp_path):
    photo(tmp_path / "a.png")
    os.rename(tmp_path / "a.png", os.fsencode(tmp_path) + b"/caf\xe9.png")
    assert folder(tmp_path).ids == ("caf\\xe9.png",)
    assert folder(tmp_path).check().ok
    photo(tmp_path / "e\u0301.png")  # an e with an accent, as two characters and as one
    assert folder(tmp_path).ids[1] == "\u00e9.png"
    photo(tmp_path / "\u00e9.png")
    with pytest.raises(BadInput, match="one name in Unicode's normal form"):
        folder(tmp_path)


def test_subsets_are_by_index_mask_or_question_and_keep_ids(pets):
    found = folder(pets)
    assert found.subset([4, 0]).ids == ("dog/10.png", "Ape/x.PNG")
    assert found.subset([-1]).ids == ("dog/10.png",)
    assert found.subset(found.targets == 1).ids == ("cat/a/7.png", "cat/b/1.png")
    assert found.subset([True, False, False, False, True]).ids == ("Ape/x.PNG", "dog/10.png")
    dogs = found.subset(lambda entry: entry.target == 2)
    assert dogs.ids == ("dog/2.png", "dog/10.png")
    assert dogs.class_names == found.class_names
    assert dogs.chosen[-1] == "subset: 2 of 5 images."
    assert torch.equal(dogs[1]["image"], found[4]["image"])
    for nothing in ([], lambda entry: False):
        with pytest.raises(BadInput, match="is empty"):
            found.subset(nothing)


def test_it_travels_to_the_workers_of_a_loader(pets):
    found = pickle.loads(pickle.dumps(folder(pets, size=4)))
    (batch,) = DataLoader(found, batch_size=5)
    assert batch["image"].shape == (5, 3, 4, 4)
    assert batch["target"].tolist() == [0, 1, 1, 2, 2]
    assert all(torch.equal(batch["image"][row], item["image"]) for row, item in enumerate(found))
    assert isinstance(found.entries[0], Entry)


def test_a_folder_without_images_is_refused(tmp_path):
    (tmp_path / "photos").mkdir()
    with pytest.raises(NotFound, match=r"no folder.*Did you mean 'photos'"):
        folder(tmp_path / "photo")
    with pytest.raises(BadInput, match="photos' is empty"):
        folder(tmp_path / "photos")
    (tmp_path / "photos/a.txt").write_text("a")
    with pytest.raises(BadImage, match=r"holds no photographs.*\.jpg"):
        folder(tmp_path / "photos")
    with pytest.raises(NotFound, match=r"no folder.*a\.txt"):
        folder(tmp_path / "photos/a.txt")
    with pytest.raises(NotFound, match="no manifest"):
        folder(tmp_path / "photos", manifest="a.csv")
