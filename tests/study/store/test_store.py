"""A study keeps what was put into it, to the bit, and gives it back to whoever may read."""

import io
import json
import math
import os
import shutil
import sqlite3
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

from glasshouse.core import Model, Noun, Preprocess
from glasshouse.core.errors import BadInput, Interrupted, NotFound
from glasshouse.core.shards import sweep
from glasshouse.core.stats import Moments
from glasshouse.study import Store
from glasshouse.study.store import check, encode_jpeg

LAYERS = ["blocks.3.2.conv", "Blocks.3.2.conv", "layer 4 / größe", "../../etc/passwd", "con", "ends.", "x" * 300, "層"]


@dataclass(frozen=True, repr=False)
class Sheet(Noun):
    """A result with a tensor, a number and text."""

    table: Tensor
    level: float
    name: str


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    with Store.create(tmp_path / "study") as made:
        yield made


def numbers(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(0))


# What goes in comes out


VALUES = {
    "float32": numbers(3, 4),
    "float16": numbers(3, 4).half(),
    "transposed": numbers(2, 3, 4).mT,
    "int64": torch.arange(5),
    "bool": torch.tensor([True, False]),
    "scalar": torch.tensor(2.5),
    "empty": torch.empty(0, 7),
    "with a gradient": numbers(3, 4).requires_grad_(),
}


@pytest.mark.parametrize("values", VALUES.values(), ids=VALUES)
def test_an_array_comes_back_to_the_bit_mapped_and_read_only(store: Store, values: Tensor):
    store.put_array("layer4", "iou", values)
    seen = store.array("layer4", "iou")
    assert seen.dtype == values.detach().numpy().dtype
    np.testing.assert_array_equal(seen, values.detach().numpy())
    if values.numel():
        assert isinstance(seen, np.memmap)
        assert not seen.flags.writeable


def test_bfloat16_becomes_float32_which_holds_it_exactly(store: Store):
    values = numbers(9).bfloat16()
    store.put_array("a", "b", values)
    np.testing.assert_array_equal(store.array("a", "b"), values.float().numpy())


def test_numpy_alone_can_read_an_array(store: Store):
    store.put_array("layer4", "iou", numbers(3, 4))
    alone = np.load(store.path / "arrays" / "layer4" / "iou.npy", mmap_mode="r", allow_pickle=False)
    np.testing.assert_array_equal(alone, numbers(3, 4).numpy())


def test_objects_are_no_array(store: Store):
    with pytest.raises(BadInput, match="array of object cannot be kept"):
        store.put_array("a", "b", np.array([{}, None]))
    assert store.files() == []
    assert not list(store.path.rglob("*.tmp-*"))


def test_patches_come_back_by_unit_and_are_pictures(store: Store):
    pixels = torch.rand(3, 16, 12, generator=torch.Generator().manual_seed(0))
    kept = [[encode_jpeg(pixels), b"two"], [], [encode_jpeg(pixels[:1])]]
    store.put_patches("layer4", kept)
    assert [store.patches("layer4", unit) for unit in range(4)] == [*kept, []]
    pictures = [Image.open(io.BytesIO(store.patches("layer4", unit)[0])) for unit in (0, 2)]
    assert [(picture.size, picture.mode) for picture in pictures] == [((12, 16), "RGB"), ((12, 16), "L")]


def test_a_jpeg_shows_its_pixels():
    smooth = torch.linspace(0, 1, 16).expand(3, 16, 16) * torch.tensor([1, 0.5, 0.25])[:, None, None]
    seen = torch.from_numpy(np.array(Image.open(io.BytesIO(encode_jpeg(smooth))))).permute(2, 0, 1) / 255
    assert (seen - smooth).abs().max() < 0.04
    with pytest.raises(BadInput, match="1 or 3 channels, not 2"):
        encode_jpeg(smooth[:2])


def test_the_index_of_a_pack_says_where_each_picture_lies(store: Store):
    store.put_patches("layer4", [[b"one", b"three"], [], [b"x"]])
    assert store.path.joinpath("blobs/layer4/top.pack").read_bytes() == b"onethreex"
    index = np.load(store.path / "blobs" / "layer4" / "top.idx.npy")
    assert index.tolist() == [[0, 0, 3], [0, 3, 8], [2, 8, 9]]


def test_nouns_come_back_of_the_layer_or_of_the_network(store: Store):
    store.put_noun("dissection", Sheet(numbers(3), 0.5, "layer4"), layer="layer4")
    store.put_noun("dissection", Sheet(numbers(2), math.nan, "all"))
    seen = store.noun("dissection", Sheet, layer="layer4")
    assert (seen.level, seen.name) == (0.5, "layer4")
    torch.testing.assert_close(seen.table, numbers(3), rtol=0, atol=0)
    assert store.noun("dissection", Sheet).name == "all"
    assert Sheet.load(store.path / "tensors" / "layer4" / "dissection.safetensors").name == "layer4"
    assert not list(store.path.rglob("*.tmp-*"))


@pytest.mark.parametrize("layer", LAYERS)
def test_any_printable_layer_name_has_a_folder_inside_the_study(store: Store, layer: str):
    store.put_array(layer, "iou", numbers(2))
    store.put_units(layer, [{"unit": 0, "iou": 0.5}])
    assert store.layers() == [layer]
    (row,) = store.files()
    path = (store.path / row["path"]).resolve()
    assert path.relative_to(store.path.resolve()).parts[0] == "arrays"
    assert len(path.relative_to(store.path.resolve()).parts) == 3
    np.testing.assert_array_equal(store.array(layer, "iou"), numbers(2).numpy())


def test_layers_have_folders_of_their_own_also_where_case_does_not_count(store: Store):
    for place, layer in enumerate(LAYERS):
        store.put_array(layer, "iou", torch.tensor([place]))
    folders = {row["path"].lower() for row in store.files()}
    assert len(folders) == len(LAYERS)
    assert [int(store.array(layer, "iou")[0]) for layer in LAYERS] == list(range(len(LAYERS)))
    assert store.files(layer="blocks.3.2.conv")[0]["path"] == "arrays/blocks.3.2.conv/iou.npy"


@pytest.mark.parametrize("name", ["../iou", "a/b", "a\\b", "", ".", "..", ".hidden", "IoU", "a~1", "nul", "a\n", "ü"])
def test_names_that_could_lead_elsewhere_are_refused(store: Store, name: str):
    with pytest.raises(BadInput, match="cannot name"):
        store.put_array("layer4", name, numbers(2))
    with pytest.raises(BadInput, match="cannot name"):
        store.put_noun(name, Sheet(numbers(1), 0.0, ""))
    assert store.files() == []


@pytest.mark.parametrize("layer", ["a\0b", "a\nb", "\x1b[2J"])
def test_a_layer_name_that_cannot_be_printed_is_refused(store: Store, layer: str):
    with pytest.raises(BadInput, match="cannot name a layer"):
        store.put_array(layer, "iou", numbers(2))


def test_putting_again_replaces_and_leaves_no_file_behind(store: Store):
    for turn in range(3):
        store.put_array("layer4", "iou", torch.full((2,), turn))
        store.put_patches("layer4", [[b"%d" % turn]])
    assert store.array("layer4", "iou").tolist() == [2, 2]
    assert store.patches("layer4", 0) == [b"2"]
    assert len([path for place in ("arrays", "blobs") for path in (store.path / place).rglob("*.*")]) == 3


def test_what_is_not_there_is_named(store: Store):
    with pytest.raises(NotFound, match=r"no array of layer 'layer4'.*Looked for 'iou'"):
        store.array("layer4", "iou")
    store.put_array("layer4", "iou", numbers(2))
    with pytest.raises(NotFound, match=r"no array 'iuo' here.*'iou'"):
        store.array("layer4", "iuo")
    with pytest.raises(NotFound, match="no noun of the network"):
        store.noun("dissection", Sheet)


# Rows


def test_facts_about_units_join_and_replace_what_was_known(store: Store):
    store.put_units("layer4", [{"unit": 1, "label": "sky", "iou": 0.2}, {"unit": 0, "label": "door", "iou": math.nan}])
    store.put_units("layer4", [{"unit": 1, "iou": torch.tensor(0.25), "damage": np.float32(0.5)}])
    assert store.units("layer4") == [
        {"unit": 0, "label": "door", "iou": None},
        {"unit": 1, "label": "sky", "iou": 0.25, "damage": 0.5},
    ]


def test_units_are_ordered_by_any_fact_and_those_without_it_come_last(store: Store):
    store.put_units("a", [{"unit": unit, "iou": iou} for unit, iou in enumerate([0.1, None, 0.3, 0.2])])
    store.put_units("a", [{"unit": 4, "label": "no iou"}])
    order = [row["unit"] for row in store.units("a", order_by="iou", descending=True)]
    assert order == [2, 3, 0, 1, 4]
    assert [row["unit"] for row in store.units("a", order_by="iou", limit=2)] == [0, 3]
    assert [row["unit"] for row in store.units("a", descending=True, limit=1)] == [4]
    with pytest.raises(BadInput, match="cannot name a fact"):
        store.units("a", order_by='iou") --')


def test_labels_of_one_source_replace_each_other_and_leave_other_sources_alone(store: Store):
    store.put_labels("a", [{"unit": 0, "label": "old"}], source="dissect")
    store.put_labels("a", [{"unit": 0, "label": "lamp"}], source="ann")
    store.put_labels("a", [{"unit": 0, "label": "sky", "iou": 0.3}, {"unit": 0, "label": "sea"}], source="dissect")
    assert store.labels("a", 0) == [
        {"unit": 0, "label": "lamp", "source": "ann", "place": 0},
        {"unit": 0, "label": "sky", "source": "dissect", "place": 0, "iou": 0.3},
        {"unit": 0, "label": "sea", "source": "dissect", "place": 1},
    ]
    assert store.labels("b") == []


def test_images_have_the_numbers_of_the_data_set(store: Store):
    store.put_images([{"id": "a.jpg", "split": "train"}, {"id": "größe b.jpg", "target": 3}])
    assert store.images([1, 0]) == [
        {"number": 1, "id": "größe b.jpg", "target": 3},
        {"number": 0, "id": "a.jpg", "split": "train"},
    ]
    assert len(store.images()) == 2


def test_notes_stay_in_the_order_they_were_written(store: Store):
    for text in ("looks like a door", "'; DROP TABLE notes; --"):
        store.note("layer4", 3, text, author="Ann")
    assert [(row["unit"], row["text"], row["author"]) for row in store.notes("layer4", 3)] == [
        (3, "looks like a door", "Ann"),
        (3, "'; DROP TABLE notes; --", "Ann"),
    ]
    assert store.notes("layer4", 4) == []


def test_a_transaction_that_fails_leaves_nothing(store: Store):
    with pytest.raises(KeyError):
        store.put_units("a", [{"unit": 0}, {"number": 1}])
    assert (store.units("a"), store.layers()) == ([], [])


# Where it is from


def test_a_study_says_what_it_is_of(tmp_path: Path, cnn: nn.Sequential, images: Tensor):
    preprocess = Preprocess(size=(14, 18), mean=(0.5,) * 3, std=(0.2,) * 3)
    model = Model.of(cnn, preprocess=preprocess, class_names=["a", "b", "c", "d"])
    layers = [{"name": "4", "units": 8, "grid": (7, 9)}]
    with Store.create(tmp_path / "s", model, images, layers=layers, seed=3, arguments={"level": 0.99}) as store:
        about = store.about
    assert (about["format"], about["schema_version"]) == ("glasshouse study", 1)
    assert about["provenance"]["torch"] == torch.__version__
    assert (about["provenance"]["seed"], about["provenance"]["arguments"]) == (3, {"level": 0.99})
    assert (about["model"]["class"], about["model"]["class_names"]) == ("Sequential", ["a", "b", "c", "d"])
    assert (about["model"]["device"], about["model"]["dtype"]) == ("cpu", "torch.float32")
    assert Preprocess.from_dict(about["preprocess"]) == preprocess
    assert about["data"]["n_items"] == 3
    assert len(about["data"]["fingerprint"]) == len(about["model"]["fingerprint"]) == 64
    assert about["layers"] == [{"name": "4", "units": 8, "grid": [7, 9]}]
    assert store.path.joinpath("study.json").read_text().startswith("{\n")


def test_a_study_is_made_in_an_empty_folder_only(tmp_path: Path):
    (tmp_path / "holiday.jpg").touch()
    with pytest.raises(BadInput, match=r"is not empty: it holds 'holiday.jpg'"):
        Store.create(tmp_path)
    Store.create(tmp_path / "new").close()
    with pytest.raises(BadInput, match=r"is not empty.*Open the study"):
        Store.create(tmp_path / "new")


def test_a_study_whose_making_was_interrupted_can_be_made_again(tmp_path: Path):
    with Store.create(tmp_path) as store:
        store.note("a", 0, "before")
    (tmp_path / "study.json").unlink()
    with pytest.raises(BadInput, match=r"is no study: there is no study.json"):
        Store.open(tmp_path)
    with Store.create(tmp_path) as store:
        assert store.notes() == []


# Jobs


def test_a_job_is_done_once(store: Store):
    for turn in range(2):
        with store.job("scan layer 4", "key", arguments={"k": 9}) as job:
            assert job.done == (turn == 1)
            assert job.partials.is_dir() == (turn == 0)
            assert job.partials == store.partials("scan layer 4")
    (row,) = store.jobs()
    assert (row["state"], row["resumes"], row["error"], row["arguments"]) == ("done", 0, "", {"k": 9})
    assert row["seconds"] > 0
    assert not store.partials("scan layer 4").exists()


def test_a_job_that_fails_says_why_and_goes_on_from_its_partial_results(store: Store):
    photos = numbers(64, 3)
    seen: list[int] = []

    def step(batch: Tensor, ids: Tensor) -> tuple[Tensor]:
        seen.extend(ids.tolist())
        if len(seen) == 48:
            raise Interrupted("the light went out.")
        return (batch,)

    for turn in range(2):
        try:
            with store.job("scan", "key") as job:
                stat = sweep(step, photos, Moments(), batch_size=16, shard_size=16, into=job.partials)
                store.put_array("layer4", "mean", stat.mean)
        except Interrupted:
            assert turn == 0
            assert store.jobs()[0]["state"] == "failed"
            assert store.jobs()[0]["error"] == "Interrupted: the light went out."
    assert seen == [*range(48), *range(32, 64)]
    assert (store.jobs()[0]["state"], store.jobs()[0]["resumes"]) == ("done", 1)
    whole = sweep(lambda batch, ids: (batch,), photos, Moments(), batch_size=16, shard_size=16)
    np.testing.assert_array_equal(store.array("layer4", "mean"), whole.mean.numpy())


def test_a_job_with_other_settings_is_an_error_until_it_is_restarted(store: Store):
    with store.job("scan", "k=9") as job:
        pass
    with pytest.raises(BadInput, match=r"job 'scan' is done with other settings: 'k=9', not 'k=12'"):
        with store.job("scan", "k=12"):
            pass
    with store.job("scan", "k=12", restart=True) as job:
        assert not job.done
    assert store.jobs()[0]["fingerprint"] == "k=12"


# Readers and writers


def test_a_reader_cannot_write(store: Store):
    reader = Store.open(store.path)
    for attempt in (
        lambda: reader.put_array("a", "b", numbers(2)),
        lambda: reader.note("a", 0, "text"),
        lambda: reader.job("scan").__enter__(),
    ):
        with pytest.raises(BadInput, match=r"opened for reading. Use Store.open\(path, write=True\)"):
            attempt()
    reader.close()
    assert repr(store).endswith("0 layers, 0 files, being written)")


def test_a_second_writer_is_refused_by_name(store: Store):
    with pytest.raises(BadInput, match=f"is being written by process {os.getpid()} on "):
        Store.open(store.path, write=True)
    store.close()
    Store.open(store.path, write=True).close()


def test_readers_see_what_is_finished_while_it_is_written(store: Store):
    with Store.open(store.path) as reader:
        for turn in range(5):
            store.put_array("layer4", "iou", torch.full((4,), turn))
            store.put_units("layer4", [{"unit": 0, "turn": turn}])
            seen = reader.array("layer4", "iou")
            assert seen.tolist() == [turn] * 4
            assert reader.units("layer4") == [{"unit": 0, "turn": turn}]


def test_a_reader_that_stays_does_not_hinder_the_writers_that_come_and_go(store: Store):
    reader = Store.open(store.path)
    for turn in range(3):
        store.close()
        store = Store.open(store.path, write=True)
        store.note("a", turn, "text")
        assert len(reader.notes()) == turn + 1
    reader.close()
    store.close()


def test_a_closed_study_is_one_catalogue_that_can_be_copied_anywhere(store: Store, tmp_path: Path):
    store.put_array("layer 4", "iou", numbers(3))
    store.put_units("layer 4", [{"unit": 0, "iou": 0.5}])
    store.close()
    alone = ["arrays", "catalog.sqlite", "study.json", "writer.lock"]
    assert sorted(path.name for path in store.path.iterdir()) == alone
    for target in (tmp_path / "a copy, größer?#%20", tmp_path / "zipped"):
        if target.name == "zipped":
            shutil.unpack_archive(shutil.make_archive(str(tmp_path / "z"), "zip", store.path), target)
        else:
            shutil.copytree(store.path, target)
        with Store.open(target) as seen:
            assert seen.units("layer 4") == [{"unit": 0, "iou": 0.5}]
            np.testing.assert_array_equal(seen.array("layer 4", "iou"), numbers(3).numpy())
        assert check(target).findings == ()
        assert sorted(path.name for path in target.iterdir()) == alone


@contextmanager
def nobody() -> Iterator[None]:
    """As a user who may not write: root may write anywhere."""
    if os.geteuid():
        yield
        return
    os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(0)


@pytest.mark.skipif(os.name != "posix", reason="permissions of POSIX")
@pytest.mark.parametrize("killed", [False, True], ids=["closed", "killed"])
def test_a_study_can_be_read_where_nothing_may_be_written(killed: bool):
    place = Path(tempfile.mkdtemp())
    try:
        with Store.create(place / "open") as store:
            store.put_array("a", "iou", numbers(3))
            store.note("a", 0, "first")
            if killed:  # the second file of the catalogue still holds everything
                shutil.copytree(store.path, place / "study")
                assert (place / "study" / "catalog.sqlite-wal").stat().st_size
                (place / "study" / "catalog.sqlite-shm").unlink()
        if not killed:
            shutil.copytree(place / "open", place / "study")
        for path in [place, *place.rglob("*")]:
            path.chmod(0o555 if path.is_dir() else 0o444)
        with nobody():
            with Store.open(place / "study") as store:
                assert [row["text"] for row in store.notes()] == ["first"]
                assert store.array("a", "iou").tolist() == numbers(3).tolist()
            assert check(place / "study").whole
            with pytest.raises(BadInput, match="cannot be written"):
                Store.open(place / "study", write=True)
    finally:
        for path in [place, *place.rglob("*")]:
            path.chmod(0o755 if path.is_dir() else 0o644)
        shutil.rmtree(place)


def test_a_catalogue_that_sqlite_alone_reads(store: Store):
    store.put_units("layer4", [{"unit": 7, "label": "sky"}])
    store.close()
    db = sqlite3.connect(store.path / "catalog.sqlite")
    ((layer, unit, facts),) = db.execute("SELECT * FROM units").fetchall()
    db.close()
    assert (layer, unit, json.loads(facts)) == ("layer4", 7, {"label": "sky"})
