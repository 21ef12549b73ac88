"""Counting of detectors: by hand on a small table, and as published on the authors' own tables."""

import csv
import gzip
import os
from pathlib import Path

import pytest
import torch

from glasshouse.core import BadInput
from glasshouse.dissect import Best, Tally, read_tally

# Four units, three categories. IoU is intersect / (truth + activation - intersect).
TABLE = """\
unit,category,label,score,object-label,object-truth,object-activation,object-intersect,object-iou,\
part-label,part-truth,part-activation,part-intersect,part-iou,\
color-label,color-truth,color-activation,color-intersect,color-iou
3,object,car,0.5,car,100,50.0,50,0.5,wheel,100,60.0,40,0.3333333333333333,red-c,900,100.0,0,0.0
1,part,wheel,0.25,car,100,25.0,5,0.041666666666666664,wheel,100,25.0,25,0.25,red-c,100,100.0,8,0.041666666666666664
4,object,tree,0.04,tree,100,4.0,4,0.04,wheel,100,10.0,1,0.009174311926605505,red-c,900,100.0,1,0.001001001001001001
2,color,red-c,0.1,bus,100,100.0,8,0.041666666666666664,,,,,,red-c,100,10.0,10,0.1
"""


@pytest.fixture
def small(tmp_path: Path) -> Tally:
    (tmp_path / "small.csv").write_text(TABLE)
    return read_tally(tmp_path / "small.csv", layer="conv5")


def test_a_unit_counts_in_every_category_in_which_it_passes(small: Tally):
    assert small.units.tolist() == [0, 1, 2, 3]
    assert small.n_detectors == 3
    assert small.by_category("any") == {"object": 2, "part": 1, "color": 1}
    assert {kind: dict(counts) for kind, counts in small.detected("any").items()} == {
        "object": {"car": 2, "bus": 1},
        "part": {"wheel": 2},
        "color": {"red-c": 2},
    }
    assert sorted(small.unique("any")) == ["bus", "car", "red-c", "wheel"]


def test_or_in_its_best_category_alone(small: Tally):
    assert small.by_category("best") == {"object": 1, "part": 1, "color": 1}
    assert {kind: dict(counts) for kind, counts in small.detected("best").items()} == {
        "object": {"car": 1},
        "part": {"wheel": 1},
        "color": {"red-c": 1},
    }
    assert repr(small) == "Tally(conv5, 4 units: 3 detectors, 4 unique, 3 by best category)"


def test_a_detector_has_more_than_the_least(small: Tally, tmp_path: Path):
    winner = small.winner(3)
    assert winner is not None
    assert winner[1].iou == 0.04
    assert read_tally(tmp_path / "small.csv", min_iou=0.039).n_detectors == 4
    assert read_tally(tmp_path / "small.csv", min_iou=0.5).n_detectors == 0


def test_equal_ratios_go_to_the_first_category():
    one = Best("car", 10, 10, 10)
    tally = Tally("l", torch.arange(1), ("object", "part"), ((one, Best("wheel", 5, 5, 5)),))
    assert tally.winner(0) == ("object", one)
    assert tally.by_category("best") == {"object": 1, "part": 0}


def test_a_concept_without_pixels_has_no_overlap():
    assert Best("nothing", 0, 0, 0).iou == 0
    assert Tally("l", torch.arange(1), ("object",), ((None,),)).n_detectors == 0


def test_a_name_in_two_categories_counts_in_both():
    one = Best("ground", 10, 10, 9)
    tally = Tally("l", torch.arange(1), ("object", "part"), ((one, one),))
    assert tally.unique("any") == ("ground", "ground")
    assert tally.unique("best") == ("ground",)


def test_a_table_that_is_written_reads_the_same(small: Tally, tmp_path: Path):
    again = read_tally(small.to_csv(tmp_path / "deep" / "out.csv"), layer="conv5")
    assert again.to_dict() == small.to_dict()
    with (tmp_path / "deep" / "out.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["unit"] for row in rows] == ["3", "1", "2", "4"]  # the best first, counted from 1
    assert [row["category"] for row in rows] == ["object", "part", "color", "object"]
    assert [float(row["score"]) for row in rows] == [0.5, 0.25, 0.1, 0.04]
    assert rows[2]["part-label"] == ""
    assert not list((tmp_path / "deep").glob("*.tmp*"))
    assert Tally.load(small.save(tmp_path / "tally.safetensors")).to_dict() == small.to_dict()


def test_a_packed_table_reads_the_same(small: Tally, tmp_path: Path):
    (tmp_path / "small.csv.gz").write_bytes(gzip.compress(TABLE.encode()))
    assert read_tally(tmp_path / "small.csv.gz", layer="conv5").to_dict() == small.to_dict()


def test_another_table_is_refused(tmp_path: Path):
    for text in ("", "a,b\n1,2\n"):
        (tmp_path / "other.csv").write_text(text)
        with pytest.raises(BadInput, match="is no table of Network Dissection"):
            read_tally(tmp_path / "other.csv")


# The authors' tables: Bau et al., CVPR 2017. They are not part of the project.

PUBLISHED = {
    "caffe_reference_places365": (256, 118, 91, (40, 9, 13, 2, 25, 2)),
    "caffe_reference_places205": (256, 107, 79, (36, 8, 12, 1, 20, 2)),
    "ResNet-152-model_places365": (2048, 1452, 347, (84, 26, 188, 5, 42, 2)),
}
ORDER = ("object", "part", "scene", "material", "texture", "color")


def published(name: str) -> Path:
    folder = os.environ.get("GLASSHOUSE_NETDISSECT")
    if not folder:
        pytest.skip("GLASSHOUSE_NETDISSECT names no folder with the authors' tables")
    return Path(folder) / f"{name}.csv.gz"


@pytest.mark.parametrize("name", PUBLISHED)
def test_the_published_numbers_of_detectors_come_out(name: str):
    n_units, n_detectors, n_unique, by_category = PUBLISHED[name]
    tally = read_tally(published(name))
    assert len(tally.units) == n_units
    assert tally.n_detectors == n_detectors
    assert len(tally.unique("any")) == n_unique
    assert tuple(tally.by_category("any")[category] for category in ORDER) == by_category


def test_counting_the_best_category_alone_gives_fewer():
    assert len(read_tally(published("caffe_reference_places365")).unique("best")) == 72
    assert len(read_tally(published("ResNet-152-model_places365")).unique("best")) == 278


@pytest.mark.parametrize("name", PUBLISHED)
def test_every_ratio_of_the_published_tables_follows_from_its_pixels(name: str):
    path = published(name)
    tally = read_tally(path)
    with gzip.open(path, "rt", encoding="utf-8") as file:
        rows = sorted(csv.DictReader(file), key=lambda row: int(row["unit"]))
    for number, row in enumerate(rows):
        winner = tally.winner(number)
        assert winner is not None
        assert winner[1].iou == pytest.approx(float(row["score"]), rel=1e-12)
        assert (winner[0], winner[1].label) == (row["category"], row["label"])
        for category, best in zip(tally.categories, tally.best[number], strict=True):
            truth, activation, intersect = (
                int(float(row[f"{category}-{name}"])) for name in ("truth", "activation", "intersect")
            )
            cell = Best(row[f"{category}-label"], truth, activation, intersect)
            assert cell.iou == pytest.approx(float(row[f"{category}-iou"]), rel=1e-12, abs=1e-15)
            assert best == (cell if cell.label else None)  # 695 units of ResNet-152 have a texture without a name


def test_single_units_are_those_of_the_paper():
    tally = read_tally(published("caffe_reference_places365"))
    for unit, name, iou in ((107, "road", 0.1554651), (79, "car", 0.1387741), (252, "waffled", 0.1385185)):
        winner = tally.winner(unit - 1)
        assert winner is not None
        assert (winner[1].label, round(winner[1].iou, 7)) == (name, iou)
    car = dict(zip(tally.categories, tally.best[78], strict=True))
    assert car["part"] == Best("wheel", 1_540_612, 1_928_590, 364_504)
