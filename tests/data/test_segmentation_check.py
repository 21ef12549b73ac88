"""Checking a data set finds all that is wrong with it, each with file, line and column."""

import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from data.mini_broden import write
from glasshouse.core.errors import BadInput
from glasshouse.data.segmentation_check import Check, check_broden


@pytest.fixture(scope="module")
def mini(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("sets") / "mini"
    write(root)
    return root


def test_nothing_is_wrong_with_a_sound_set(mini: Path):
    steps: list[tuple[int, int]] = []
    seen = check_broden(mini, progress=lambda done, total: steps.append((done, total)))
    assert seen.ok
    assert (seen.n_images, seen.n_labels, seen.problems) == (64, 20, ())
    assert seen.n_planes == len(list((mini / "images").rglob("*_*.png")))
    assert steps == [(done, 64) for done in range(1, 65)]
    assert repr(seen).endswith("20 labels, no problem)")


def test_all_problems_are_found_at_once_and_placed(mini: Path, tmp_path: Path):
    root = Path(shutil.copytree(mini, tmp_path / "mini"))
    images = root / "images"
    (images / "src1/0001.png").unlink()
    (images / "src2/0002_part_1.png").write_bytes(b"nothing")
    Image.fromarray(np.full((8, 6, 3), [3, 0, 0], np.uint8)).save(images / "src0/0003_color_0.png")  # an object
    Image.new("L", (6, 8)).save(images / "src1/0004_color_0.png")
    Image.new("RGB", (5, 5)).save(images / "src0/0006.png")
    swaps = [
        ("index.csv", 10, ",16,12,", ",16,x,"),
        ("index.csv", 10, ",8,6,", ",y,6,"),
        ("index.csv", 11, "src0/0009_color", "/0009_color"),
        ("index.csv", 13, ",,,,14,", ",,,,15,"),
        ("category.csv", 2, "1,2,2,", "1,2,3,"),
        ("label.csv", 4, "object(", "object(1"),
        ("c_scene.csv", 2, "-s,", "-t,"),
        ("c_texture.csv", 3, "2,", "9,"),
    ]
    for file, line, old, new in swaps:
        lines = (root / file).read_text(encoding="utf-8").splitlines()
        assert old in lines[line - 1], (file, lines[line - 1])
        lines[line - 1] = lines[line - 1].replace(old, new, 1)
        (root / file).write_text("\n".join(lines), encoding="utf-8")
    seen = check_broden(root)
    places = {(problem.file, problem.row, problem.column) for problem in seen.problems}
    assert places == {
        ("index.csv", 3, "image"),
        ("index.csv", 4, "part"),
        ("index.csv", 5, "color"),
        ("index.csv", 6, "color"),
        ("index.csv", 8, "image"),
        ("index.csv", 10, "image"),  # its size is not known any more,
        ("index.csv", 10, "color"),  # nor is that of its label maps
        ("index.csv", 10, "object"),
        ("index.csv", 10, "iw"),
        ("index.csv", 10, "sh"),
        ("index.csv", 11, "color"),
        ("index.csv", 13, "scene"),
        ("category.csv", 2, "count"),
        ("label.csv", 4, "category"),
        ("label.csv", 4, "frequency"),
        ("c_scene.csv", None, "name"),
        ("c_texture.csv", None, "code"),
    }
    assert "'src0/0003_color_0.png' has 3, not in c_color.csv" in repr(seen.problems)
    assert not seen.ok
    assert f"{len(seen.problems)} problems; first: " in repr(seen)


def test_a_check_is_a_noun(mini: Path, tmp_path: Path):
    root = Path(shutil.copytree(mini, tmp_path / "mini"))
    (root / "images/src1/0001.png").unlink()
    (root / "c_part.csv").unlink()
    seen = check_broden(root)
    assert seen.problems[0].file == "c_part.csv"
    again = Check.load(seen.save(tmp_path / "check.safetensors"))
    assert again == seen
    assert "\n" not in repr(seen)


def test_tables_without_a_line_and_folders_that_are_not_there(mini: Path, tmp_path: Path):
    root = Path(shutil.copytree(mini, tmp_path / "mini"))
    (root / "category.csv").write_text("name,first,last,count,frequency\n")
    assert "category.csv: lists nothing" in [repr(problem) for problem in check_broden(root).problems]
    with pytest.raises(BadInput, match="no folder"):
        check_broden(tmp_path / "absent")
