"""What two machines found out about the same network comes together, whole and without a word lost."""

import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from glasshouse.core import Score
from glasshouse.core.errors import BadInput, Interrupted
from glasshouse.core.shards import Work, serial, sweep
from glasshouse.core.stats import Moments, TopK
from glasshouse.study import Store
from glasshouse.study.store import check, merge

PHOTOS = torch.randn(60, 5, generator=torch.Generator().manual_seed(0))
SCORE = Score("m", torch.ones(2), torch.zeros(2), None, "up", ("", ""))


def make(path: Path, net: nn.Module) -> Store:
    return Store.create(path, net, PHOTOS)


def step(batch: Tensor, ids: Tensor) -> dict[str, tuple[Tensor, ...]]:
    return {"mean": (batch,), "top": (batch, ids, torch.zeros_like(batch, dtype=torch.int64))}


def scan(store: Store, chosen: slice = slice(None)) -> dict[str, Any]:
    """All or some of a pass: an engine that leaves out shards ends it early."""

    def some(work: Work, shards: Sequence[int]) -> None:
        serial(work, shards[chosen])

    with store.job("scan", "key") as job:
        stats: dict[str, Any] = {"mean": Moments(), "top": TopK(3)}
        return sweep(step, PHOTOS, stats, batch_size=4, shard_size=6, into=job.partials / "pass", engine=some)


def assert_same_bits(seen: dict[str, Any], whole: dict[str, Any]) -> None:
    for name in whole:
        for field, values in whole[name].state().items():
            torch.testing.assert_close(seen[name].state()[field], values, rtol=0, atol=0)


@pytest.mark.parametrize("how", ["merge", "copy"])
def test_two_machines_do_half_of_a_pass_each_and_the_bits_are_those_of_one(how: str, tmp_path: Path, cnn: nn.Module):
    whole = sweep(step, PHOTOS, {"mean": Moments(), "top": TopK(3)}, batch_size=4, shard_size=6)
    first, second = make(tmp_path / "first", cnn), make(tmp_path / "second", cnn)
    for store, half in ((first, slice(0, None, 2)), (second, slice(1, None, 2))):
        with pytest.raises(Interrupted):
            scan(store, half)
    second.close()
    with pytest.raises(Interrupted):
        scan(first, slice(0, 0))
    if how == "merge":
        with Store.open(tmp_path / "second") as other:
            assert merge(first, other).taken["partials"] == 5
    else:
        for shard in second.partials("scan").rglob("*.safetensors"):
            shutil.copy(shard, first.partials("scan") / "pass")
    assert_same_bits(scan(first, slice(0, 0)), whole)  # nothing is left to do
    assert [job["state"] for job in first.jobs()] == ["done"]
    assert not first.partials("scan").exists()
    first.close()


def test_a_shard_of_another_network_is_not_counted(tmp_path: Path):
    for key in ("a", "b"):
        sweep(step, PHOTOS, {"mean": Moments(), "top": TopK(3)}, shard_size=30, into=tmp_path / key, key=key)
    shutil.copy(tmp_path / "a" / "shard-000001.safetensors", tmp_path / "b")
    with pytest.raises(BadInput, match="is shard 1 of another pass"):
        sweep(step, PHOTOS, {"mean": Moments(), "top": TopK(3)}, shard_size=30, into=tmp_path / "b", key="b")


def test_what_is_not_here_comes_over_and_a_second_time_changes_nothing(tmp_path: Path, cnn: nn.Module):
    with make(tmp_path / "a", cnn) as here, make(tmp_path / "b", cnn) as there:
        here.put_array("layer3", "iou", torch.zeros(2))
        here.put_units("layer4", [{"unit": 0, "label": "sky"}])
        there.put_array("layer4", "iou", torch.ones(2))
        there.put_patches("layer4", [[b"one"], [b"two"]])
        there.put_noun("score", SCORE, layer="layer4")
        there.put_units("layer4", [{"unit": 0, "damage": 0.5}, {"unit": 1, "label": "sea"}])
        there.put_labels("layer4", [{"unit": 1, "label": "sea"}], source="dissect")
        there.put_images([{"id": "a.jpg"}])
        there.note("layer4", 1, "wet", author="Bob")
        scan(there)
        seen = merge(here, there)
        assert seen.conflicts == ()
        assert seen.taken == {
            **{"files": 4, "partials": 0, "layers": 0, "images": 1},  # layer4 came with its files
            **{"units": 2, "labels": 1, "notes": 1, "jobs": 1},
        }
        assert here.layers() == ["layer3", "layer4"]
        np.testing.assert_array_equal(here.array("layer4", "iou"), [1, 1])
        assert here.patches("layer4", 1) == [b"two"]
        assert here.noun("score", Score, layer="layer4").metric == "m"
        assert here.units("layer4") == [{"unit": 0, "damage": 0.5, "label": "sky"}, {"unit": 1, "label": "sea"}]
        assert [row["text"] for row in here.notes()] == ["wet"]
        assert [row["state"] for row in here.jobs()] == ["done"]
        again = merge(here, there)
        assert (set(again.taken.values()), again.conflicts) == ({0}, ())
        assert repr(again) == "Merged(nothing; 0 conflicts)"
    assert check(tmp_path / "a").findings == ()


def test_where_both_differ_it_is_told_and_stays_as_it_was(tmp_path: Path, cnn: nn.Module):
    with make(tmp_path / "a", cnn) as here, make(tmp_path / "b", cnn) as there:
        for store, value in ((here, 1), (there, 2)):
            store.put_array("layer4", "iou", torch.full((2,), value))
            store.put_units("layer4", [{"unit": 0, "iou": value, "label": "sky"}])
            store.put_labels("layer4", [{"unit": 0, "label": f"sky {value}"}], source="dissect")
            store.put_images([{"id": f"{value}.jpg"}])
            with store.job("scan", f"k={value}"):
                pass
        seen = merge(here, there)
        assert seen.conflicts == (
            "array 'iou' of layer 'layer4'",
            "images 0: id",
            "units 'layer4' 0: iou",
            "labels 'layer4' 0 'dissect' 0: label",
            "jobs 'scan': other settings",
        )
        assert here.array("layer4", "iou").tolist() == [1, 1]
        assert here.units("layer4")[0]["iou"] == 1
        assert here.jobs()[0]["fingerprint"] == "k=1"


def test_studies_of_different_networks_or_data_are_not_merged(tmp_path: Path, cnn: nn.Module):
    with make(tmp_path / "a", cnn) as here:
        changed = nn.Sequential(*cnn)
        with torch.no_grad():
            changed[0].weight[0, 0, 0, 0] += 1e-6
        with make(tmp_path / "b", changed) as there, pytest.raises(BadInput, match="of different networks"):
            merge(here, there)
        with Store.create(tmp_path / "c", changed, PHOTOS[:-1]) as there, pytest.raises(BadInput, match="different"):
            merge(here, there)


def test_a_damaged_file_does_not_come_over(tmp_path: Path, cnn: nn.Module):
    with make(tmp_path / "a", cnn) as here, make(tmp_path / "b", cnn) as there:
        there.put_array("layer4", "iou", torch.ones(2))
        path = there.path / "arrays" / "layer4" / "iou.npy"
        path.write_bytes(path.read_bytes()[:-1] + b"x")
        with pytest.raises(BadInput, match=r"iou.npy' is damaged"):
            merge(here, there)
        assert here.files() == []
