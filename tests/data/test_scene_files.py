"""Scenes written to disk read back as they were, whole or not at all."""

import csv
import json
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from glasshouse.core.errors import BadInput, NotFound
from glasshouse.data import Faults, Scenes, Shortcut, scenes
from glasshouse.data.directories import Folder, folder
from glasshouse.data.scene_files import about_set, broden_words, check_set, labelled, read_set, write_scenes
from glasshouse.data.segmentations import Broden
from glasshouse.data.world.scene import stream

PRESETS = ("houses", "creatures", "shapes")


def stored(one: Scenes) -> torch.Tensor:
    """Pixels as eight bits can hold them."""
    return (one.images * 255).round() / 255


def lines(path: Path) -> list[dict]:
    return [json.loads(line) for line in (path / "manifest.jsonl").read_text(encoding="utf-8").splitlines()]


@pytest.mark.parametrize("preset", PRESETS)
def test_every_plane_comes_back_from_brodens_format(preset, tmp_path):
    made = scenes(preset, 5, size=18, seed=5)
    read = write_scenes(made, tmp_path / "set", format="broden")
    assert isinstance(read, Broden)
    assert read.categories == ("color", "object", "material", "part", "scene", "texture")
    rows = {f"{name}.png": row for row, name in enumerate(made.ids)}
    assert sorted(read.ids) == sorted(rows)
    names = ["-"] + ["?"] * read.last_number
    for label in read.labels:
        names[label.number] = label.name
    endings = {"color": "-c", "scene": "-s"}
    for item, name in zip(read, read.ids, strict=True):
        row = rows[name]
        torch.testing.assert_close(item["image"], stored(made)[row])
        planes = {
            read.categories[c]: plane for c, plane in zip(item["plane_category"].tolist(), item["planes"], strict=True)
        }
        assert set(planes) == {"color", "object", "material", "part", "texture"}
        for category, plane in planes.items():
            words = made.vocabulary[category]
            for number, place in zip(
                plane.flatten().tolist(), made.labels[category][row].flatten().tolist(), strict=True
            ):
                assert names[number] == (words[place] + endings.get(category, "") if place else "-")
        (whole,) = item["whole"].tolist()
        assert names[whole] == made.vocabulary["scene"][int(made.labels["scene"][row, 3, 3])] + "-s"
    assert check_set(tmp_path / "set").ok


@pytest.mark.parametrize("preset", PRESETS)
def test_images_classes_and_masks_come_back_from_a_folder(preset, tmp_path):
    made = scenes(preset, 5, size=18, seed=5)
    read = write_scenes(made, tmp_path / "set")
    assert isinstance(read, Folder)
    assert read.class_names == made.class_names
    assert read.ids == tuple(made.ids)
    assert torch.equal(read.targets, made.categories)
    for row, item in enumerate(read):
        torch.testing.assert_close(item["image"], stored(made)[row])
        assert torch.equal(item["mask"], made.labels["part"][row])
    plain = folder(tmp_path / "set" / "images", masks=tmp_path / "set" / "masks" / "object")  # as ImageFolder sees it
    for entry, item in zip(plain.entries, plain, strict=True):
        row = next(row for row, name in enumerate(made.ids) if name.endswith(entry.image.stem))
        assert plain.class_names[entry.target] == made.class_names[made.categories[row]]
        assert torch.equal(item["mask"], made.labels["object"][row])
    assert check_set(tmp_path / "set").ok
    words = about_set(tmp_path / "set")["vocabulary"]
    assert words == {name: list(known) for name, known in made.vocabulary.items()}


@pytest.mark.parametrize("form", ["folder", "broden"])
def test_the_manifest_tells_the_factors_and_finds_each_part_in_its_mask(form, tmp_path):
    made = scenes("creatures", 5, size=32, shortcut=Shortcut("border"), split="conflicting")
    write_scenes(made, tmp_path / "set", format=form)
    words = {factor.name: factor.values for factor in made.schema}
    for row, line in enumerate(lines(tmp_path / "set")):
        assert line["id"] == made.ids[row]
        assert line["label"] == made.class_names[made.categories[row]]
        assert line["signal"] == made.class_names[made.signal[row]]
        assert line["signal"] != line["label"]
        for name, value in line["factors"].items():
            true = made.factors[name][row]
            assert value == (words[name][int(true)] if words[name] else float(true))
        with Image.open(tmp_path / "set" / line["image"]) as image:
            assert image.size == (32, 32)
        for name, part in line["parts"].items():
            seen = made.masks[row, made.part(name)]
            area = int(made.amodal[row, made.part(name)].sum())
            assert part["visible"] == pytest.approx(int(seen.sum()) / area, abs=1e-3)
            if seen.any():
                inside = seen.nonzero()
                box = [*inside.amin(0).tolist(), *(inside.amax(0) + 1).tolist()]
                assert part["box"] == box
        absent = set(made.part_names) - set(line["parts"])
        assert not any(made.amodal[row, made.part(name)].any() for name in absent)


def test_both_formats_divide_the_same_images_alike(tmp_path):
    made = scenes("shapes", 30, size=16)
    for form in ("folder", "broden"):
        write_scenes(made, tmp_path / form, format=form, train=0.5)
    splits = [{line["id"]: line["split"] for line in lines(tmp_path / form)} for form in ("folder", "broden")]
    assert splits[0] == splits[1]
    with (tmp_path / "broden" / "index.csv").open(newline="") as file:
        index = {row["image"].removesuffix(".png"): row["split"] for row in csv.DictReader(file)}
    assert index == splits[0]
    assert set(index.values()) == {"train", "val"}


def test_batches_give_the_set_that_all_at_once_gives(tmp_path):
    whole = scenes("houses", 11, size=16, seed=2, start=3)
    counted: list[tuple[int, int]] = []
    batches = stream(partial(scenes, "houses", size=16, seed=2), 11, start=3, batch_size=4)
    write_scenes(batches, tmp_path / "a", n=11, progress=lambda done, total: counted.append((done, total)))
    write_scenes(whole, tmp_path / "b")
    files = sorted(path.relative_to(tmp_path / "a") for path in (tmp_path / "a").rglob("*") if path.is_file())
    assert files == sorted(path.relative_to(tmp_path / "b") for path in (tmp_path / "b").rglob("*") if path.is_file())
    assert len(files) == 3 * 11 + 2
    assert all((tmp_path / "a" / file).read_bytes() == (tmp_path / "b" / file).read_bytes() for file in files)
    assert counted == [(done, 11) for done in range(1, 12)]


def test_broden_counts_every_image_twice_on_the_way(tmp_path):
    counted: list[tuple[int, int]] = []
    batches = stream(partial(scenes, "shapes", size=16), 5, batch_size=2)
    write_scenes(batches, tmp_path / "a", format="broden", n=5, progress=lambda *at: counted.append(at))
    assert counted == [(done, 10) for done in range(1, 11)]


def test_only_one_batch_is_asked_for_ahead(tmp_path):
    written: list[int] = []

    def batches() -> Iterator[Scenes]:
        for start in range(0, 6, 2):
            written.append(len(list(tmp_path.rglob("images/*/*.png"))))
            yield scenes("shapes", 2, size=16, start=start)

    write_scenes(batches(), tmp_path / "set")
    assert written == [0, 2, 4]


@pytest.mark.parametrize("form", ["folder", "broden"])
def test_a_scene_that_is_shown_again_has_a_name_of_its_own(form, tmp_path):
    faults = Faults(memorised=0.9, mislabelled=0.5)
    batches = stream(partial(scenes, "shapes", size=16, faults=faults), 24, batch_size=5)
    whole = scenes("shapes", 24, size=16, faults=faults)
    assert len(set(whole.ids)) < 24
    write_scenes(batches, tmp_path / "set", format=form)
    rows = lines(tmp_path / "set")
    assert len({row["id"] for row in rows}) == 24
    assert [row["id"].partition("-")[0] for row in rows] == whole.ids
    assert [row["faults"]["mislabelled"] for row in rows] == whole.manifest["mislabelled"].tolist()
    for row, line in enumerate(rows):
        with Image.open(tmp_path / "set" / line["image"]) as image:
            np.testing.assert_allclose(np.asarray(image) / 255, stored(whole)[row].permute(1, 2, 0), atol=1e-6)


def test_labelled_images_are_those_that_export_takes():
    made = scenes("houses", 2, size=16)
    first, second = labelled(made)
    assert (first.id, second.id) == ("houses/0/00000000.png", "houses/0/00000001.png")
    words = broden_words(made)
    assert words["color"][1:4] == ("black-c", "blue-c", "brown-c")
    assert words["scene"] == ("-", "meadow-s", "desert-s", "snow-s", "street-s")
    assert words["part"] == made.vocabulary["part"]
    assert words["scene"][second.whole["scene"][0]] == f"{made.named('ground')[1]}-s"
    torch.testing.assert_close(second.pixels.float() / 255, stored(made)[1].permute(1, 2, 0))


@pytest.mark.parametrize("form", ["folder", "broden"])
@pytest.mark.parametrize("error", [KeyboardInterrupt, ZeroDivisionError])
def test_a_run_that_stops_leaves_what_was_there(form, error, tmp_path):
    def broken() -> Iterator[Scenes]:
        yield scenes("shapes", 2, size=16)
        assert list(tmp_path.glob(".set.tmp-*/*"))
        raise error

    with pytest.raises(error):
        write_scenes(broken(), tmp_path / "set", format=form)
    assert list(tmp_path.iterdir()) == []
    write_scenes(scenes("shapes", 3, size=16, seed=9), tmp_path / "set")
    before = sorted((path, path.read_bytes()) for path in (tmp_path / "set").rglob("*") if path.is_file())
    with pytest.raises(error):
        write_scenes(broken(), tmp_path / "set", format=form, overwrite=True)
    assert sorted((path, path.read_bytes()) for path in tmp_path.rglob("*") if path.is_file()) == before


def test_only_a_set_of_scenes_is_replaced_and_only_when_asked(tmp_path):
    made = scenes("shapes", 2, size=16)
    (tmp_path / "set").mkdir()
    write_scenes(made, tmp_path / "set")  # empty: nothing to lose
    with pytest.raises(BadInput, match="already there"):
        write_scenes(made, tmp_path / "set")
    assert len(write_scenes(scenes("shapes", 3, size=16), tmp_path / "set", format="broden", overwrite=True)) == 3
    assert not (tmp_path / "set" / "masks").exists()
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "scenes.json").write_text("{}")
    with pytest.raises(BadInput, match="no set of scenes"):
        write_scenes(made, tmp_path / "mine", overwrite=True)
    (tmp_path / "file").write_text("mine")
    with pytest.raises(BadInput, match="no set of scenes"):
        write_scenes(made, tmp_path / "file", overwrite=True)
    with pytest.raises(BadInput, match="there is no folder"):
        write_scenes(made, tmp_path / "no" / "set")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "mine", "set"]


def test_what_cannot_be_written_is_said(tmp_path):
    made = scenes("shapes", 2, size=16)
    for wrong, error, words in (
        ({"format": "voc"}, NotFound, "no format 'voc'"),
        ({"train": 1.5}, BadInput, "train=1.5"),
    ):
        with pytest.raises(error, match=words):
            write_scenes(made, tmp_path / "set", **wrong)
    with pytest.raises(BadInput, match="no scenes to write"):
        write_scenes(iter(()), tmp_path / "set")
    with pytest.raises(BadInput, match="no labels"):
        write_scenes(scenes("shapes", 2, size=16, labels=False), tmp_path / "set")
    for other in (
        scenes("houses", 2, size=16),
        scenes("shapes", 2, size=20),
        scenes("shapes", 2, size=16, n_objects=2),
    ):
        with pytest.raises(BadInput, match="one set"):
            write_scenes([made, other], tmp_path / "set")
    assert list(tmp_path.iterdir()) == []


def test_other_data_sets_are_read_too(tmp_path):
    for name in ("a/1.png", "b/2.png"):
        (tmp_path / name).parent.mkdir()
        Image.new("RGB", (4, 4)).save(tmp_path / name)
    read = read_set(tmp_path)
    assert isinstance(read, Folder)
    assert read.class_names == ("a", "b")
    assert about_set(tmp_path) == {}
    (tmp_path / "a/1.png").write_bytes(b"")
    assert list(check_set(tmp_path).problems) == ["a/1.png"]
