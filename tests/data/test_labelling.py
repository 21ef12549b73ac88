"""Scenes, folders and segmenting networks as labelled data sets."""

from pathlib import Path

import pytest
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import default_collate

from data.mini_broden import write
from glasshouse import data
from glasshouse.core.errors import BadInput
from glasshouse.core.labelled import Labelled, completed
from glasshouse.core.model import Preprocess

GREY = Preprocess(size=(32, 32), mean=(0.5, 0.5, 0.5), std=(0.25, 0.25, 0.25))


@pytest.fixture(scope="module")
def scenes() -> data.Scenes:
    return data.scenes("houses", 6, seed=1, size=32)


def test_every_plane_of_a_scene_is_there_under_one_numbering(scenes: data.Scenes):
    labelled = data.with_labels(scenes)
    assert isinstance(labelled, Labelled)
    assert [label.number for label in labelled.labels] == list(range(1, len(labelled.labels) + 1))
    numbers = {(label.category, label.name): label.number for label in labelled.labels}
    for row in range(6):
        item = labelled[row]
        assert torch.equal(item["image"], scenes[row]["image"])
        assert int(item["target"]) == int(scenes[row]["target"])
        for plane, place in zip(item["planes"], item["plane_category"].tolist(), strict=True):
            category = labelled.categories[place]
            words = scenes.vocabulary[category]
            suffix = "-c" if category == "color" else ""
            expected = [numbers[category, word + suffix] if word != "-" else 0 for word in words]
            assert torch.equal(plane, torch.tensor(expected)[scenes.labels[category][row].long()])
        kind = scenes.vocabulary["scene"][int(scenes.labels["scene"][row, 0, 0])]
        assert item["whole"].tolist() == [numbers["scene", f"{kind}-s"]]
        assert [labelled.categories[place] for place in item["whole_category"].tolist()] == ["scene"]
    assert list(labelled.ids) == list(scenes.ids)
    assert default_collate([labelled[0], labelled[1]])["planes"].shape == (2, 5, 32, 32)


@pytest.fixture
def photos(tmp_path: Path) -> data.Folder:
    for part in ("images", "masks"):
        (tmp_path / part).mkdir()
    for number in range(3):
        Image.new("RGB", (6, 4), (9, 9, 9)).save(tmp_path / "images" / f"{number}.png")
        mask = Image.new("L", (6, 4))
        mask.putpixel((number, 1), number)
        mask.save(tmp_path / "masks" / f"{number}.png")
    return data.folder(tmp_path / "images", masks=tmp_path / "masks")


def test_masks_in_a_folder_are_named(photos: data.Folder):
    labelled = data.with_labels(photos, ["sky", "car"])
    assert [(label.number, label.name, label.category) for label in labelled.labels] == [
        (1, "sky", "object"),
        (2, "car", "object"),
    ]
    assert [int(labelled[row]["planes"].max()) for row in range(3)] == [0, 1, 2]
    assert labelled[2]["planes"][0, 1, 2] == 2
    assert labelled[0]["whole"].shape == (0,)
    assert [label.name for label in data.with_labels(photos).labels] == ["label 1", "label 2"]
    with pytest.raises(BadInput, match="a mask holds 2, and there are 1 names"):
        data.with_labels(photos, ["sky"])[2]


def test_what_has_labels_already_stays_and_what_has_none_is_refused(tmp_path: Path):
    write(tmp_path)
    broden = data.broden(tmp_path)
    assert data.with_labels(broden) is broden
    (tmp_path / "plain").mkdir()
    Image.new("RGB", (6, 4)).save(tmp_path / "plain" / "0.png")
    with pytest.raises(BadInput, match="has no masks"):
        data.with_labels(data.folder(tmp_path / "plain"))


def test_inputs_are_normalised_and_label_maps_pass(scenes: data.Scenes):
    labelled = data.with_labels(scenes)
    fed = data.inputs(labelled, GREY)
    assert isinstance(fed, Labelled)
    assert (fed.labels, fed.categories, list(fed.ids)) == (labelled.labels, labelled.categories, list(labelled.ids))
    torch.testing.assert_close(fed[2]["image"], (labelled[2]["image"] - 0.5) / 0.25)
    assert torch.equal(fed[2]["planes"], labelled[2]["planes"])
    other = Preprocess(size=(16, 16), mean=(0.0,) * 3, std=(1.0,) * 3)
    with pytest.raises(BadInput, match=r"an image with masks has \(32, 32\) pixels, the model takes \(16, 16\)"):
        data.inputs(labelled, other)[0]


def test_inputs_without_label_maps_are_resized(photos: data.Folder):
    pairs = [(torch.rand(3, 20, 24, generator=torch.Generator().manual_seed(0)), 7)]
    fed = data.inputs(pairs, GREY)
    assert not isinstance(fed, Labelled)
    image, target = fed[0]
    assert (image.shape, target) == ((3, 32, 32), 7)
    torch.testing.assert_close(image, GREY(pairs[0][0])[0])
    assert data.inputs([torch.zeros(3, 32, 32)], GREY)[0].unique().tolist() == [-2.0]


# Networks that segment


def by_brightness(images: Tensor) -> Tensor:
    """2 where an image is bright, 1 where it is not."""
    return (images.mean(1) > 0.5).long() + 1


@pytest.mark.parametrize("scores", [False, True])
def test_a_network_labels_a_batch_at_once(scenes: data.Scenes, scores: bool):
    def segmenter(images: Tensor) -> Tensor:
        numbers = by_brightness(images)
        return torch.nn.functional.one_hot(numbers, 3).permute(0, 3, 1, 2).float() if scores else numbers

    made = data.segmented(scenes, segmenter, ["dark", "bright"])
    assert isinstance(made, Labelled)
    assert "planes" not in made[0]
    batch = default_collate([made[0], made[1]])
    full = completed(made, batch)
    assert torch.equal(full["planes"][:, 0], by_brightness(batch["image"]))
    assert torch.equal(full["target"], batch["target"])
    assert full["plane_category"].tolist() == [[0], [0]]


def test_a_network_sees_pixels_whatever_the_model_is_fed(scenes: data.Scenes):
    seen: list[Tensor] = []

    def segmenter(images: Tensor) -> Tensor:
        seen.append(images)
        return by_brightness(images)

    fed = data.inputs(data.segmented(scenes, segmenter, ["dark", "bright"]), GREY)
    batch = default_collate([fed[0], fed[1]])
    full = completed(fed, batch)
    torch.testing.assert_close(seen[0], scenes.images[:2], atol=1e-6, rtol=0)
    assert torch.equal(full["image"], batch["image"])
    assert torch.equal(full["planes"][:, 0], by_brightness(seen[0]))


def test_what_a_network_gives_is_checked(scenes: data.Scenes):
    batch = {"image": scenes.images[:2]}
    with pytest.raises(BadInput, match=r"the segmenter gave torch\.float32 of shape \(2, 32, 32\) for 2 images"):
        data.segmented(scenes, lambda images: images[:, 0], ["dark"]).complete(batch)
    with pytest.raises(BadInput, match="the segmenter gave number 2; there are 1 names"):
        data.segmented(scenes, by_brightness, ["dark"]).complete(batch)
