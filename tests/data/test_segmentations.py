"""Broden is read as it is on disk; what cannot be read is named."""

import pickle
import shutil
from pathlib import Path
from time import process_time

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader

from data.mini_broden import CATEGORIES, NAMES, PLANE_SIZE, SIZE, SYNONYMS, Truth, write
from glasshouse.core.errors import BadImage, BadInput, NotFound
from glasshouse.core.shards import Data, sweep
from glasshouse.core.stats import Moments
from glasshouse.data.segmentation_labels import Codes
from glasshouse.data.segmentations import Broden, broden


@pytest.fixture(scope="module")
def mini(tmp_path_factory) -> tuple[Path, list[Truth]]:
    root = tmp_path_factory.mktemp("sets") / "mini"
    return root, write(root)


@pytest.fixture
def copy(mini, tmp_path) -> Path:
    """A data set to break."""
    return Path(shutil.copytree(mini[0], tmp_path / "mini"))


def replace_in(file: Path, line: int, old: str, new: str) -> None:
    lines = file.read_text(encoding="utf-8").split("\n")
    assert old in lines[line - 1], lines[line - 1]
    lines[line - 1] = lines[line - 1].replace(old, new, 1)
    file.write_text("\n".join(lines), encoding="utf-8")


def planes_of(item: dict[str, Tensor], place: int) -> list[list[list[int]]]:
    return [p.tolist() for p, c in zip(item["planes"], item["plane_category"].tolist(), strict=True) if c == place]


def whole_of(item: dict[str, Tensor], place: int) -> list[int]:
    pairs = zip(item["whole"].tolist(), item["whole_category"].tolist(), strict=True)
    return [number for number, category in pairs if category == place]


def test_every_item_holds_what_was_written(mini):
    root, truths = mini
    data = broden(root)
    assert isinstance(data, Data)
    assert data.categories == CATEGORIES
    shown = [truth for truth in truths if truth.planes or truth.whole]
    assert data.ids == tuple(truth.image for truth in shown)
    assert len(data) == 63  # one image has nothing marked in it
    for truth, item in zip(shown, (data[i] for i in range(len(data))), strict=True):
        if truth.image.endswith(".png"):
            assert torch.equal(item["image"], torch.from_numpy(truth.pixels).permute(2, 0, 1) / 255)
        for place, category in enumerate(CATEGORIES):
            assert planes_of(item, place) == [plane.tolist() for plane in truth.planes.get(category, [])]
            assert whole_of(item, place) == truth.whole.get(category, [])
        assert (item["planes"][item["plane_category"] == -1] == 0).all()
        assert (item["whole"][item["whole_category"] == -1] == 0).all()


def test_the_set_has_every_kind_of_cell(mini):
    def kind(item: str) -> str:
        return {"": "", "0": "0"}.get(item, "n" if item.isdigit() else "p")

    lines = (mini[0] / "index.csv").read_text(encoding="utf-8").splitlines()[1:]
    cells = ["".join(sorted(map(kind, cell.split(";")))) for line in lines for cell in line.split(",")[6:]]
    assert set(cells) == {"", "0", "n", "nn", "p", "pp", "ppp", "0n", "np"}


def test_items_stack_and_keep_their_types(mini):
    batch = next(iter(DataLoader(broden(mini[0]), batch_size=5, num_workers=0)))
    assert {name: tuple(x.shape) for name, x in batch.items()} == {
        "image": (5, 3, *SIZE),
        "planes": (5, 5, *PLANE_SIZE),
        "plane_category": (5, 5),
        "whole": (5, 2),
        "whole_category": (5, 2),
    }
    assert {name: x.dtype for name, x in batch.items() if x.dtype != torch.long} == {"image": torch.float32}


def test_labels_have_names_synonyms_and_gaps(mini):
    data = broden(mini[0])
    assert {label.number: label.name for label in data.labels} == NAMES
    assert {label.number: label.synonyms for label in data.labels if label.synonyms} == SYNONYMS
    assert data.last_number == 4000
    assert data.label(300).name == "lamp"
    for absent in (0, 7, 299, 4001):
        with pytest.raises(NotFound, match=f"no label {absent} "):
            data.label(absent)


def test_the_primary_category_is_the_one_where_a_label_covers_most(mini):
    root, truths = mini
    for chosen in (CATEGORIES, ("object", "material"), ("material",)):
        data = broden(root, categories=chosen)
        covers = {c: sum((p == 5).mean() for t in truths for p in t.planes.get(c, [])) for c in chosen}
        assert data.category_of(5) == max(chosen, key=lambda category: covers[category])
    assert broden(root).category_of(12) == "scene"


def test_equal_coverage_goes_to_the_later_category_as_in_the_reference(copy):
    for category in ("object", "material"):
        rows = (copy / f"c_{category}.csv").read_text().split("\r\n")
        rows = [",".join([*row.split(",")[:-1], "2.5"]) if ",fabric," in row else row for row in rows]
        (copy / f"c_{category}.csv").write_text("\r\n".join(rows))
    assert broden(copy).category_of(5) == "material"
    assert broden(copy, categories=["object", "color"]).category_of(5) == "object"


def test_codes_are_dense_and_lead_back(mini):
    codes = broden(mini[0]).codes("object")
    lines = (mini[0] / "c_object.csv").read_text(encoding="utf-8").splitlines()[1:]
    assert codes.numbers == (0, *(int(line.split(",")[1]) for line in lines))
    every = torch.arange(len(codes.numbers))
    assert torch.equal(codes.to_codes(codes.to_numbers(every)), every)
    assert codes.to_codes(torch.tensor([[0, 7], [1, 9999]])).tolist() == [[0, 0], [0, 0]]  # of no or another category
    assert Codes("part", (0, 5, 0, 7)).to_codes(torch.tensor([0, 5, 6, 7])).tolist() == [0, 1, 0, 3]  # code 2 is absent
    with pytest.raises(NotFound, match=r"no category 'objects'.*'object'"):
        broden(mini[0]).codes("objects")


def test_a_category_filter_drops_columns_and_images_without_any_data(mini):
    root, truths = mini
    data = broden(root, categories=["texture", "object"])
    assert data.categories == ("object", "texture")  # in the order of the data set
    shown = [t for t in truths if t.planes.get("object") or t.whole.get("texture")]
    assert data.ids == tuple(truth.image for truth in shown)
    assert {label.category for label in data.labels} == {"object", "texture"}
    item = data[data.ids.index("src1/0004.png")]
    assert whole_of(item, 1) == [16, 15]
    assert data[0]["planes"].shape[0] == 2
    assert broden(root, categories="scene")[0]["planes"].shape == (0, *PLANE_SIZE)


def test_splits_divide_the_images(mini):
    train, val = broden(mini[0], split="train"), broden(mini[0], split="val")
    assert sorted(train.ids + val.ids) == sorted(broden(mini[0]).ids)
    assert val.ids == tuple(name for name in broden(mini[0]).ids if int(name[5:9]) % 4 == 0)
    with pytest.raises(NotFound, match="no split 'test'"):
        broden(mini[0], split="test")


def test_resized_labels_are_those_at_the_pixel_centres(mini):
    native = broden(mini[0])
    data = broden(mini[0], size=(9, 10), plane_size=(3, 9))
    item, plain = data[1], native[1]
    assert item["image"].shape == (3, 9, 10)
    for row in range(3):
        for column in range(9):
            at = int((row + 0.5) * 8 / 3), int((column + 0.5) * 6 / 9)
            assert torch.equal(item["planes"][:, row, column], plain["planes"][:, at[0], at[1]])
    assert torch.equal(broden(mini[0], plane_size=PLANE_SIZE)[1]["planes"], plain["planes"])


def test_label_maps_of_different_sizes_are_read_and_stack_once_resized(copy):
    name = "src0/0000_color_0.png"
    Image.fromarray(np.full((4, 9, 3), [2, 0, 0], np.uint8)).save(copy / "images" / name)
    replace_in(copy / "index.csv", 2, ",8,6,", ",4,9,")
    data = broden(copy, categories=["color"])
    assert data[0]["planes"].shape == (1, 4, 9)
    batch = next(iter(DataLoader(broden(copy, categories=["color"], plane_size=(8, 6)), batch_size=2)))
    assert (batch["planes"][0] == 2).all()


def test_a_sweep_counts_every_pixel_of_every_label(mini):
    root, truths = mini
    data = broden(root)

    def pixels(batch: dict[str, Tensor], ids: Tensor) -> tuple[Tensor]:
        hits = [(batch["planes"] == number).flatten(1).sum(1) for number in NAMES]
        return (torch.stack(hits, 1).double(),)

    mean = sweep(pixels, data, Moments(), batch_size=7, shard_size=20).mean
    counted = [
        sum(int((p == number).sum()) for t in truths for ps in t.planes.values() for p in ps) for number in NAMES
    ]
    assert (mean * len(data)).round().long().flatten().tolist() == counted


def test_what_cannot_be_read_is_named_and_left_out_by_a_sweep(copy):
    (copy / "images/src1/0001.png").unlink()
    (copy / "images/src0/0000_object_0.png").write_bytes((copy / "images/src0/0000_object_0.png").read_bytes()[:60])
    data = broden(copy)
    with pytest.raises(BadImage, match=r"no file '0001\.png'"):
        data[1]
    with pytest.raises(BadImage, match=r"0000_object_0\.png' is damaged or cut short"):
        data[0]
    skipped: dict[str, str] = {}

    def means(batch: dict[str, Tensor], ids: Tensor) -> tuple[Tensor]:
        return (batch["image"].mean((2, 3)),)

    stat = sweep(means, data, Moments(), on_skip=skipped.__setitem__)
    assert set(skipped) == {"src0/0000.png", "src1/0001.png"}
    assert int(stat.count) == len(data) - 2


def test_missing_files_and_broken_rows_can_be_left_out_beforehand(copy):
    (copy / "images/src1/0001.png").unlink()
    (copy / "images/src2/0002_part_1.png").unlink()
    replace_in(copy / "index.csv", 5, ",16,", ",x,")
    skipped: dict[str, str] = {}
    data = broden(copy, on_skip=skipped.__setitem__)
    assert skipped == {
        "src1/0001.png": "no file 'images/src1/0001.png'",
        "src2/0002.png": "no file 'images/src2/0002_part_1.png'",
        "src0/0003.png": "index.csv, line 5, column 'ih': 'x' is no whole number of 1 or more",
    }
    assert len(data) == 60
    assert all(len(data[i]["planes"]) == 5 for i in range(len(data)))


@pytest.mark.parametrize(
    ("file", "line", "old", "new", "said"),
    [
        ("index.csv", 5, ",16,", ",-1,", r"index\.csv, line 5, column 'ih': '-1' is no whole number of 1 or more"),
        ("index.csv", 5, ",8,6,", ",8,0,", r"index\.csv, line 5, column 'sw': '0' is no whole"),
        ("index.csv", 5, ",,,,12,", ",,,,7,", r"line 5, column 'scene': label 7 is not in label\.csv"),
        ("index.csv", 5, "src0/0003_color", "../0003_color", "line 5, column 'color': '../0003_color_0.png' leads out"),
        ("index.csv", 5, "src0/0003.png", "/etc/passwd", "line 5, column 'image': '/etc/passwd' is no path below"),
        ("index.csv", 5, "src0/0003.png", "src0/0000.png", "line 5, column 'image': .* is also in line 2"),
        ("index.csv", 5, ",,,,12,", ",,,12,", r"index\.csv, line 5: has 11 cells where the header has 12"),
        ("index.csv", 1, ",scene", ",szene", r"index\.csv, line 1, column 'scene': is missing"),
        ("index.csv", 1, "split,ih", "ih,ih", "line 1, column '(split|ih)': is"),
        ("label.csv", 3, "2,", "1,", r"label\.csv, line 3, column 'number': label 1 is there twice"),
        ("label.csv", 3, "color(", "colour(", r"label\.csv, line 3, column 'category': 'colour' is not in category"),
        ("label.csv", 3, "color(", "color[", r"label\.csv, line 3, column 'category': 'color\[.* does not read like"),
        ("label.csv", 8, "8,wheel", "7,wheel", r"label\.csv, line 8, column 'number': label 7 is in no c_"),
        ("category.csv", 3, "object", "../x", r"category\.csv, line 3, column 'name': '../x' cannot be the name"),
        (
            "category.csv",
            3,
            "object",
            "color",
            r"category\.csv, line 3, column 'name': .*'color' is there twice",
        ),
        ("c_object.csv", 2, "1,", "one,", r"c_object\.csv, line 2, column 'code': 'one' is no whole number"),
        ("c_part.csv", 3, ".", "nan", r"c_part\.csv, line 3, column 'coverage': .* is no number of 0 or more"),
    ],
)
def test_a_broken_table_is_refused_with_file_line_and_column(file, line, old, new, said, copy):
    replace_in(copy / file, line, old, new)
    with pytest.raises(BadInput, match=said):
        broden(copy)


@pytest.mark.parametrize("file", ["index.csv", "label.csv", "category.csv", "c_scene.csv"])
def test_a_missing_or_unreadable_table_is_named(file, copy):
    content = (copy / file).read_bytes()
    (copy / file).write_bytes(content + b"\xff\xfe\xff")
    with pytest.raises(BadInput, match=rf"{file}, line \d+: cannot be read from here on"):
        broden(copy, on_skip=lambda name, reason: None)
    (copy / file).write_bytes(content.splitlines(keepends=True)[0])
    if file != "c_scene.csv":
        with pytest.raises(BadInput):
            broden(copy)
    (copy / file).unlink()
    with pytest.raises(BadInput, match=f"{file}: no such file"):
        broden(copy)


def test_arguments_that_cannot_be_meant_are_refused(mini):
    with pytest.raises(NotFound, match=r"no category 'objects'.*'object'"):
        broden(mini[0], categories=["objects"])
    with pytest.raises(BadInput, match="categories is empty"):
        broden(mini[0], categories=[])
    with pytest.raises(BadInput, match="no folder"):
        broden(mini[0] / "absent")
    with pytest.raises(BadInput, match="size is"):
        broden(mini[0], size=(0, 5))


def test_sizes_that_the_index_gets_wrong_are_an_error_when_read(copy):
    replace_in(copy / "index.csv", 2, ",16,12,", ",16,13,")
    replace_in(copy / "index.csv", 3, ",8,6,", ",6,8,")
    data = broden(copy)
    with pytest.raises(BadImage, match=r"0000\.png' has 16 x 12 px, and its index 16 x 13"):
        data[0]
    with pytest.raises(BadImage, match=r"0001_color_0\.png' has 8 x 6 px, and its index 6 x 8"):
        data[1]


def test_a_number_beyond_the_last_label_is_an_error_when_read(copy):
    Image.fromarray(np.full((8, 6, 3), [200, 200, 0], np.uint8)).save(copy / "images/src0/0000_color_0.png")
    with pytest.raises(BadInput, match=r"0000_color_0.png' holds label 51400, and label.csv ends at 4000"):
        broden(copy)[0]


def test_it_pickles_says_what_it_is_in_one_line_and_has_subsets(mini):
    data = broden(mini[0], split="val")
    again: Broden = pickle.loads(pickle.dumps(data))
    assert again == data
    assert repr(data) == f"Broden(mini, 16 images of 'val', 20 labels in {', '.join(CATEGORIES)})"
    some = data.subset([3, 1])
    assert some.ids == (data.ids[3], data.ids[1])
    assert all(torch.equal(some[1][name], data[1][name]) for name in data[1])
    with pytest.raises(BadInput, match="no images"):
        data.subset([])


def test_reading_an_index_takes_time_in_proportion_to_its_length(mini, tmp_path):
    """Sixteen times the rows may take eighty times as long, not two hundred and fifty-six."""

    def seconds(n: int) -> float:
        root = Path(shutil.copytree(mini[0], tmp_path / str(n), ignore=shutil.ignore_patterns("images")))
        header, *rows = (root / "index.csv").read_text().splitlines()
        rows = [rows[i % len(rows)].replace("src", f"{i}src") for i in range(n)]
        (root / "index.csv").write_text("\n".join([header, *rows]))
        start = process_time()
        assert len(broden(root)) >= n * 62 // 64
        return process_time() - start

    few = min(seconds(500), seconds(501))
    assert seconds(8000) < 80 * few
