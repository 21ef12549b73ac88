"""What is written out says what the study says."""

import csv
import json
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from glasshouse.core.errors import MissingPackage, NotFound
from glasshouse.study import Store
from glasshouse.study.store import export

UNITS = [{"unit": 0, "label": 'größe, "x"', "iou": 0.1}, {"unit": 1, "iou": None, "box": [1, 2]}]


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    with Store.create(tmp_path / "study") as made:
        made.put_units("layer 4", UNITS)
        made.put_labels("layer 4", [{"unit": 0, "label": "sky", "iou": 0.1}], source="dissect")
        made.put_array("layer 4", "iou", torch.tensor([[0.5, float("nan")]]))
        made.put_array("layer 4", "large", torch.zeros(200, 200))
        yield made


def test_json_holds_all_rows_and_the_small_arrays(store: Store, tmp_path: Path):
    paths = export(store, tmp_path / "out")
    assert [path.name for path in paths] == ["units.json", "labels.json", "images.json", "notes.json", "arrays.json"]
    units, labels, images, notes, arrays = (json.loads(path.read_text()) for path in paths)
    assert units == [{"layer": "layer 4", **row} for row in UNITS]
    assert labels == [{"layer": "layer 4", "unit": 0, "label": "sky", "source": "dissect", "place": 0, "iou": 0.1}]
    assert (images, notes) == ([], [])
    iou = {"layer": "layer 4", "name": "iou", "shape": [1, 2], "dtype": "float32", "values": [[0.5, None]]}
    assert arrays == [iou]


def test_csv_has_a_column_for_every_fact(store: Store, tmp_path: Path):
    paths = export(store, tmp_path / "out", "csv")
    with paths[0].open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert rows[0] == {"layer": "layer 4", "unit": "0", "label": 'größe, "x"', "iou": "0.1", "box": ""}
    assert rows[1] == {"layer": "layer 4", "unit": "1", "label": "", "iou": "", "box": "[1, 2]"}


def test_parquet_says_the_same(store: Store, tmp_path: Path):
    parquet = pytest.importorskip("pyarrow.parquet")
    paths = export(store, tmp_path / "out", "parquet")
    rows = parquet.read_table(paths[0]).to_pylist()
    assert rows[0] == {"layer": "layer 4", "unit": 0, "label": 'größe, "x"', "iou": 0.1, "box": None}
    assert rows[1]["box"] == "[1, 2]"
    assert parquet.read_table(paths[3]).num_rows == 0


def test_without_pyarrow_parquet_says_what_to_install(store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(MissingPackage, match=r"pip install 'glasshouse\[parquet\]'"):
        export(store, tmp_path / "out", "parquet")


def test_other_formats_are_an_error(store: Store, tmp_path: Path):
    with pytest.raises(NotFound, match="no format 'xls'"):
        getattr(export, "__wrapped__", export)(store, tmp_path / "out", "xls")
