"""The images of a study by name."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from glasshouse import data
from glasshouse.core import BadInput, Model, NotFound, Preprocess
from glasshouse.core.labelled import Labelled
from glasshouse.study import find_images


@pytest.fixture
def model() -> Model:
    plain = Preprocess(size=(24, 24), mean=(0.0,) * 3, std=(1.0,) * 3)
    return Model.of(nn.Identity(), preprocess=plain, class_names=["tabby cat", "dog"])


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """Four images in folders of three classes, with masks of values 0…2."""
    for number, name in enumerate(["Tabby_cat/1", "Tabby_cat/2", "dog/1", "bird/1"]):
        image, mask = tmp_path / "photos" / f"{name}.png", tmp_path / "masks" / f"{name}.png"
        for file, values in ((image, np.full((30, 40, 3), 60 * number)), (mask, np.arange(1200).reshape(30, 40) % 3)):
            file.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(values.astype(np.uint8)).save(file)
    return tmp_path / "photos"


def test_scenes_are_rendered_at_the_models_size(model: Model):
    found, said = find_images("scenes:creatures:5:3", model)
    assert isinstance(found, Labelled)
    assert len(found) == 5
    assert found.ids[0] == "creatures/3/00000000"
    assert found[0]["image"].shape == (3, 24, 24)
    assert said == ["images: rendered, creatures:5:3."]
    assert len(find_images("scenes:houses", model)[0]) == 400


@pytest.mark.parametrize("name", ["scenes:houses:many", "scenes:houses:1:2:3", "scenes:houses:-3"])
def test_scenes_that_are_not_counted_are_refused(model: Model, name: str):
    with pytest.raises(BadInput, match="how many scenes"):
        find_images(name, model)


def test_unknown_scenes_name_the_known_ones(model: Model):
    with pytest.raises(NotFound, match="preset of scenes"):
        find_images("scenes:hoses", model)


def test_classes_get_the_models_numbers(model: Model, photos: Path):
    found, said = find_images(str(photos), model)
    targets = {found.ids[row]: int(found[row]["target"]) for row in range(4)}  # type: ignore[attr-defined]
    assert targets == {"Tabby_cat/1.png": 0, "Tabby_cat/2.png": 0, "dog/1.png": 1, "bird/1.png": -1}
    assert "classes: 2 of 3 are called like a class of 'Identity'." in said


def test_masks_become_labels_under_the_names_given(model: Model, photos: Path):
    found, _ = find_images(str(photos), model, masks=str(photos.parent / "masks"), names=["fur", "grass"])
    assert isinstance(found, Labelled)
    assert [label.name for label in found.labels] == ["fur", "grass"]
    assert found[0]["planes"].shape == (1, 24, 24)
    assert found[0]["planes"].unique().tolist() == [0, 1, 2]


def test_a_set_of_scenes_on_disk_brings_its_own_names(model: Model, tmp_path: Path):
    data.write_scenes([data.scenes("houses", 6, size=24)], tmp_path / "set")
    found, _ = find_images(str(tmp_path / "set"), model)
    assert isinstance(found, Labelled)
    assert {"roof", "window"} <= {label.name for label in found.labels}
    again = data.with_labels(data.scenes("houses", 6, size=24))
    numbers = {label.name: label.number for label in found.labels}
    parts = {label.name: label.number for label in again.labels if label.category == "part"}
    for row, name in enumerate(found.ids):  # type: ignore[attr-defined]
        same = again[list(again.ids).index(name)]  # type: ignore[attr-defined]
        assert torch.equal(found[row]["planes"][0] == numbers["roof"], (same["planes"] == parts["roof"]).any(0))


def test_broden_is_known_by_its_index(model: Model, tmp_path: Path):
    data.write_scenes([data.scenes("houses", 6, size=24)], tmp_path / "set", format="broden")
    found, _ = find_images(str(tmp_path / "set"), model)
    assert isinstance(found, data.Broden)
    assert found[0]["image"].shape == (3, 24, 24)
