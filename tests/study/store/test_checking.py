"""A study that is not as it was is diagnosed, whatever was done to it; the reader never crashes."""

import json
import os
import shutil
import sqlite3
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from random import Random

import numpy as np
import pytest
import torch
from torch import Tensor

from glasshouse.core import Score
from glasshouse.core.errors import BadInput, GlasshouseError
from glasshouse.core.shards import sweep
from glasshouse.core.stats import Moments
from glasshouse.study import Store
from glasshouse.study.store import catalog, check, encode_jpeg

SAMPLE = Path(__file__).parent / "version_1.zip"
SCORE = Score("m", torch.ones(2), torch.zeros(2), None, "up", ("", ""))


def fill(store: Store) -> None:
    """A little of everything."""
    store.put_array("layer4", "iou", torch.arange(12.0).view(3, 4))
    store.put_patches("layer4", [[encode_jpeg(torch.zeros(3, 8, 8))], [b"x", b"y"]])
    store.put_noun("score", SCORE)
    store.put_units("layer4", [{"unit": 0, "label": "sky", "iou": 0.5}])
    store.put_labels("layer4", [{"unit": 0, "label": "sky"}], source="dissect")
    store.put_images([{"id": "a.jpg"}])
    store.note("layer4", 0, "blue", author="Ann")
    with store.job("scan", "key"):
        pass


@pytest.fixture(scope="module")
def filled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    with Store.create(tmp_path_factory.mktemp("filled") / "study") as store:
        fill(store)
    return store.path


@pytest.fixture
def study(filled: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(filled, tmp_path / "study"))


def read_everything(path: Path) -> None:
    """What a page would ask for. It may be refused, but only as we say it."""
    with suppress(GlasshouseError), Store.open(path) as store:
        for ask in (store.layers, store.notes, store.images, store.jobs, lambda: store.noun("score", Score)):
            with suppress(GlasshouseError):
                ask()
        for ask in (
            lambda layer: store.array(layer, "iou").sum(),
            lambda layer: store.patches(layer, 0),
            lambda layer: store.patches(layer, 1),
            lambda layer: store.units(layer, order_by="iou"),
            store.labels,
        ):
            for layer in ("layer4", *store.layers()):
                with suppress(GlasshouseError):
                    ask(layer)


def test_a_study_that_is_whole_has_no_findings(study: Path):
    seen = check(study)
    assert (seen.whole, seen.findings, seen.n_files) == (True, (), 4)
    assert seen.n_bytes == sum(row["size"] for row in Store.open(study).files())
    assert repr(seen) == f"StudyCheck('{study}', 4 files, 0.0 MB: nothing amiss)"
    assert check(study, repair=True).removed == ()


FILES = {
    "array": "arrays/layer4/iou.npy",
    "pack": "blobs/layer4/top.pack",
    "index": "blobs/layer4/top.idx.npy",
    "noun": "tensors/score.safetensors",
    "catalogue": "catalog.sqlite",
    "about": "study.json",
}
HARMS: dict[str, Callable[[Path], object]] = {
    "missing": lambda path: path.unlink(),
    "empty": lambda path: path.write_bytes(b""),
    "truncated": lambda path: os.truncate(path, path.stat().st_size * 2 // 3),
    "longer": lambda path: path.write_bytes(path.read_bytes() + b"more"),
    "garbage": lambda path: path.write_bytes(Random(0).randbytes(5000)),
    "a folder": lambda path: (path.unlink(), path.mkdir()),
    "a link outside": lambda path: (path.unlink(), path.symlink_to("/etc/hostname")),
    "first byte": lambda path: path.write_bytes(b"\0" + path.read_bytes()[1:]),
}


@pytest.mark.parametrize("harm", HARMS)
@pytest.mark.parametrize("kind", FILES)
def test_whatever_happens_to_a_file_is_told_and_the_reader_lives(kind: str, harm: str, study: Path):
    HARMS[harm](study / FILES[kind])
    seen = check(study)
    read_everything(study)
    if (kind, harm) == ("catalogue", "longer"):  # SQLite says how long it is itself
        return
    assert not seen.whole
    assert any(finding.where.startswith(FILES[kind]) for finding in seen.findings), seen.findings
    repaired = check(study, repair=True)  # which mends nothing that is lost, and does not crash either
    assert not repaired.whole


def test_one_changed_bit_anywhere_in_a_file_is_found(study: Path):
    for kind in ("array", "pack", "index", "noun"):
        path = study / FILES[kind]
        whole = path.read_bytes()
        for place in Random(1).sample(range(len(whole)), 8):
            path.write_bytes(whole[:place] + bytes([whole[place] ^ 4]) + whole[place + 1 :])
            (finding,) = check(study).findings
            assert (finding.what, finding.where) == ("damage", FILES[kind])
            assert "SHA-256" in finding.why
        path.write_bytes(whole)
    assert check(study).whole


def test_bytes_changed_at_random_in_the_catalogue_never_crash_anyone(study: Path):
    path, random = study / "catalog.sqlite", Random(2)
    whole = path.read_bytes()
    for _ in range(60):
        harmed = bytearray(whole)
        for _ in range(random.choice([1, 30, 1000])):
            harmed[random.randrange(len(harmed))] = random.randrange(256)
        path.write_bytes(harmed)
        check(study)
        read_everything(study)


def catalogue(study: Path, sql: str) -> None:
    db = sqlite3.connect(study / "catalog.sqlite")
    db.executescript(sql)
    db.close()


@pytest.mark.parametrize(
    ("sql", "said"),
    [
        ("PRAGMA application_id = 7", "database of another program"),
        ("PRAGMA user_version = 99", "of version 99, this program reads version 1"),
        ("DROP TABLE notes", "does not have the tables of version 1"),
        ("CREATE TABLE more (x)", "does not have the tables"),
        ("ALTER TABLE units ADD COLUMN more", "does not have the tables"),
        ("DROP TABLE notes; CREATE VIEW notes AS SELECT load_extension('evil')", "does not have the tables"),
        ("CREATE TRIGGER t AFTER INSERT ON notes BEGIN DELETE FROM files; END", "does not have the tables"),
    ],
)
def test_a_catalogue_that_is_not_ours_is_refused_by_readers_and_writers(study: Path, sql: str, said: str):
    catalogue(study, sql)
    for write in (False, True):
        with pytest.raises(BadInput, match=said):
            Store.open(study, write=write)
    (finding,) = check(study).findings
    assert said in finding.why


@pytest.mark.parametrize(
    ("sql", "said"),
    [
        ("UPDATE files SET path = '/etc/passwd' WHERE kind = 'array'", "outside of it"),
        ("UPDATE files SET path = '../study/study.json' WHERE kind = 'array'", "outside of it"),
        ("UPDATE files SET path = 'C:\\x' WHERE kind = 'array'", "outside of it"),
        ("UPDATE files SET path = 'study.json', kind = 'array' WHERE kind = 'array'", "bytes"),
        ("UPDATE files SET path = 7.5 WHERE kind = 'array'", "missing"),
        ("UPDATE files SET path = x'00ff' WHERE kind = 'array'", ""),
        ("UPDATE files SET size = 'many' WHERE kind = 'array'", "a size is 'many'"),
        ("UPDATE files SET kind = 'program' WHERE kind = 'noun'", "no kind of file 'program'"),
        ("DELETE FROM files WHERE kind = 'pack'", "its pack is missing"),
        ("UPDATE units SET facts = '{'", "JSONDecodeError"),
        ("UPDATE units SET facts = '[]'", "facts are no table"),
        (f"UPDATE units SET facts = '{'[' * 100_000}'", "RecursionError"),
        ("UPDATE units SET facts = CAST(x'fffe' AS TEXT)", ""),
        ("UPDATE layers SET name = CAST(x'fffe' AS TEXT)", ""),
        ("UPDATE jobs SET name = x'00', state = 'running'", ""),
    ],
)
def test_a_catalogue_that_says_what_is_not_so_is_diagnosed(study: Path, sql: str, said: str):
    catalogue(study, sql)
    seen = check(study)
    read_everything(study)
    if "layers" not in sql:  # which name a layer bears is nobody's business but its readers'
        assert not seen.whole
        assert any(said in finding.why for finding in seen.findings), seen.findings


OURS = '{"format": "glasshouse study", "schema_version": 1'


@pytest.mark.parametrize(
    "about",
    [
        *("{", "[]", "7", "[" * 100_000, '{"format": "other"}', OURS + "}"),
        OURS + ', "model": {}, "data": {}, "provenance": {}, "layers": [7]}',
    ],
)
def test_a_description_that_is_none_is_refused(study: Path, about: str):
    (study / "study.json").write_text(about)
    with pytest.raises(BadInput, match=r"study.json' is damaged: .*Restore it"):
        Store.open(study)
    assert check(study).findings[0].where == "study.json"


@pytest.mark.parametrize("made", [lambda path: None, Path.mkdir, Path.touch, lambda path: path.write_bytes(b"PK\3\4")])
def test_what_is_no_study_at_all_is_told(made: Callable[[Path], object], tmp_path: Path):
    made(tmp_path / "strange")
    assert not check(tmp_path / "strange").whole
    with pytest.raises(BadInput, match="is no study"):
        Store.open(tmp_path / "strange")


def forged(header: str, body: bytes = b"") -> bytes:
    text = header.encode()
    return b"\x93NUMPY\x02\x00" + len(text).to_bytes(4, "little") + text + body


@pytest.mark.parametrize(
    "content",
    [
        forged("{'descr': '|O', 'fortran_order': False, 'shape': (1,)}\n", b"cos\nsystem\n(S'x'\ntR." + b" " * 8),
        forged("{'descr': '<f8', 'fortran_order': False, 'shape': (-1,)}\n"),
        forged("{'descr': '<f8', 'fortran_order': False, 'shape': (4000000000, 4000000000)}\n", b"1234"),
        forged("{'descr': [('a', '<f8')], 'fortran_order': False, 'shape': (1,)}\n", b"12345678"),
        forged("{'descr': '<U4', 'fortran_order': False, 'shape': (1,)}\n", b"1234" * 4),
        forged("__import__('os').system('true')\n"),
        forged("(" * 5000),
        b"\x93NUMPY\x09\x00",
    ],
)
def test_a_forged_array_is_refused_before_it_is_mapped(study: Path, content: bytes):
    (study / FILES["array"]).write_bytes(content)
    with Store.open(study) as store, pytest.raises(BadInput, match="is damaged"):
        store.array("layer4", "iou")


def test_a_forged_index_cannot_read_beyond_its_pack(study: Path):
    path = study / FILES["index"]
    whole = np.load(path)
    for column, value in ((2, 10**15), (2, -5), (1, -8)):
        rows = whole.copy()
        rows[0, column] = value
        np.save(path, rows)
        with Store.open(study) as store, pytest.raises(BadInput, match="is damaged: bytes"):
            store.patches("layer4", 0)
    np.save(path, whole.astype(np.int32))
    with Store.open(study) as store, pytest.raises(BadInput, match="not int64"):
        store.patches("layer4", 0)


# What is left of interrupted work


def test_files_that_nobody_refers_to_are_orphans_and_can_be_removed(study: Path):
    left = ["arrays/layer4/iou~1.npy", "arrays/new/a.npy", "blobs/layer4/top.pack.tmp-77-abc", "partials/gone/x"]
    left += ["study.json.tmp-7-0"]
    for name in left:
        (study / name).parent.mkdir(parents=True, exist_ok=True)
        (study / name).touch()
    (study / "exports").mkdir()
    (study / "exports" / "units.json").touch()  # what was written out is the user's
    told = {finding.where for finding in check(study).findings if finding.what == "orphan"}
    assert told == {*left[:3], "partials/gone", left[4]}
    assert check(study).whole
    assert set(check(study, repair=True).removed) == told
    assert check(study).findings == ()
    assert (study / "exports" / "units.json").exists()


def test_an_unfinished_job_is_told_with_what_it_has_and_its_shards_are_kept(study: Path):
    def step(batch: Tensor, ids: Tensor) -> tuple[Tensor]:
        if 8 in ids:
            raise KeyboardInterrupt
        return (batch,)

    with Store.open(study, write=True) as store, pytest.raises(KeyboardInterrupt), store.job("scan 2", "key") as job:
        sweep(step, torch.zeros(12, 3), Moments(), shard_size=4, into=job.partials / "first pass")
    seen = check(study, repair=True)
    (finding,) = seen.findings
    assert (seen.whole, finding.what, finding.where) == (True, "unfinished", "scan 2")
    assert finding.why == "failed, KeyboardInterrupt; 2 shards are finished"

    shard = next((study / "partials").rglob("shard-000001*"))
    shard.write_bytes(shard.read_bytes()[:-1] + b"\xff")
    damage = [finding for finding in check(study).findings if finding.what == "damage"]
    assert [Path(finding.where).name for finding in damage] == ["shard 1"]
    (shard.parent / "sweep.json").write_text("[")
    assert not check(study).whole


def test_repairing_needs_to_be_the_only_writer(study: Path):
    with Store.open(study, write=True):
        assert "is being written by process" in check(study, repair=True).findings[0].why
        assert check(study).whole


# Versions


def test_a_study_of_version_1_can_still_be_read(tmp_path: Path):
    shutil.unpack_archive(SAMPLE, tmp_path)
    assert check(tmp_path / "study").findings == ()
    with Store.open(tmp_path / "study") as store:
        assert store.about["schema_version"] == 1
        assert store.array("layer4", "iou").tolist() == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9, 10, 11]]
        assert store.patches("layer4", 1) == [b"x", b"y"]
        assert store.noun("score", Score).metric == "m"
        assert store.units("layer4") == [{"unit": 0, "label": "sky", "iou": 0.5}]
        assert store.labels("layer4") == [{"unit": 0, "label": "sky", "source": "dissect", "place": 0}]
        assert store.images() == [{"number": 0, "id": "a.jpg"}]
        assert [row["text"] for row in store.notes()] == ["blue"]
        assert [row["state"] for row in store.jobs()] == ["done"]


def test_an_older_study_is_brought_up_to_date_by_its_writer(study: Path, monkeypatch: pytest.MonkeyPatch):
    tables = catalog.TABLES + "CREATE TABLE rankings (layer TEXT); CREATE TABLE edits (name TEXT);"
    steps = {1: "CREATE TABLE rankings (layer TEXT); CREATE TABLE edits (name TEXT)"}
    for name, value in {"TABLES": tables, "SCHEMA": 2, "MIGRATIONS": steps}.items():
        monkeypatch.setattr(catalog, name, value)
    for module in ("about", "folder"):
        monkeypatch.setattr(f"glasshouse.study.store.{module}.SCHEMA", 2)
    with pytest.raises(BadInput, match=r"is of version 1, this program reads version 2. Open it once with write=True"):
        Store.open(study)
    with Store.open(study, write=True) as store:
        assert store.units("layer4")[0]["label"] == "sky"
    assert json.loads((study / "study.json").read_text())["schema_version"] == 2
    assert check(study).findings == ()


def test_a_step_to_a_new_version_that_fails_leaves_the_old_one(study: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(catalog, "SCHEMA", 2)
    monkeypatch.setattr(catalog, "MIGRATIONS", {1: "DROP TABLE notes; DROP TABLE no_such_table"})
    with pytest.raises(BadInput, match="no such table"):
        Store.open(study, write=True)
    monkeypatch.undo()
    with Store.open(study) as store:
        assert len(store.notes()) == 1
