"""Stored activations: what a plain forward pass gives, in memory and in files, and the labels beside it."""

from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from dissect.marked import Marked, random_net
from glasshouse.core import BadInput
from glasshouse.core.shards import serial
from glasshouse.dissect import Activations, activations

PHOTOS = torch.randn(21, 3, 14, 18, generator=torch.Generator().manual_seed(1))


class Classes:
    """Pairs of image and class number, with names."""

    ids = tuple(f"photo {number}" for number in range(21))

    def __len__(self) -> int:
        return len(PHOTOS)

    def __getitem__(self, index: int, /) -> tuple[Tensor, int]:
        return PHOTOS[index], index % 3


def test_maps_are_those_of_a_plain_forward_pass(cnn: nn.Sequential):
    seen = activations(cnn, Classes(), layer="4", batch_size=4)
    torch.testing.assert_close(seen.maps, cnn[:5](PHOTOS).detach())
    assert seen.targets.tolist() == [index % 3 for index in range(21)]
    assert seen.names == Classes.ids
    assert seen.image_size == (14, 18)
    assert (len(seen), seen.layer, seen.units.tolist()) == (21, "4", list(range(8)))
    assert seen.labels == ()
    assert repr(seen) == "Activations(4, 21 images × 8 units × 7×9)"


def test_some_units_are_some_of_the_columns(cnn: nn.Sequential):
    every, some = activations(cnn, PHOTOS, layer="4"), activations(cnn, PHOTOS, layer="4", units=[5, 2])
    assert torch.equal(some.maps, every.maps[:, [5, 2]])
    assert some.targets.tolist() == [-1] * 21


def test_half_precision_rounds_and_is_read_in_single(cnn: nn.Sequential):
    half, single = (activations(cnn, PHOTOS, layer="4", dtype=kind) for kind in ("float16", "float32"))
    assert half.maps.dtype == torch.float16
    assert torch.equal(half.maps, single.maps.half())
    assert half.rows(slice(3, 5)).dtype == torch.float32
    assert torch.equal(half.rows(torch.tensor([4, 1])), half.maps[[4, 1]].float())


def test_label_maps_are_kept_and_read_as_masks():
    marked = Marked()
    seen = activations(random_net(), marked, layer="1")
    assert torch.equal(seen.planes.long(), marked.planes)
    assert torch.equal(seen.whole, marked.whole)
    assert "7 concepts" in repr(seen)
    masks = seen.concepts(["l7", 12])
    for place, number in enumerate((7, 12)):
        expected = (marked.planes == number).any(1) | (marked.whole == number).any(1)[:, None, None]
        assert torch.equal(masks[:, place], expected)
    assert torch.equal(seen.concepts(["l7"], slice(2, 6)), masks[2:6, :1])
    # On the grid of 6 × 8 positions: the label at the middle of each cell of 7 × 9 pixels.
    rows, columns = ([int((p + 0.5) * old / new) for p in range(new)] for old, new in ((7, 6), (9, 8)))
    assert torch.equal(seen.on_grid(["l7", 12]), masks[:, :, rows][:, :, :, columns])


def test_label_maps_may_be_kept_smaller():
    marked = Marked()
    seen = activations(random_net(), marked, layer="1", label_size=(2, 3))
    assert torch.equal(seen.planes.long(), marked.planes[:, :, [1, 5]][..., [1, 4, 7]])


def test_files_hold_the_same_and_a_killed_pass_goes_on(cnn: nn.Sequential, tmp_path: Path):
    def dying(work: Callable[[int], None], shards: Sequence[int]) -> None:
        serial(work, shards[:1])
        raise KeyboardInterrupt

    memory = activations(cnn, Classes(), layer="4", batch_size=4)
    with pytest.raises(KeyboardInterrupt):
        activations(cnn, Classes(), layer="4", batch_size=4, shard_size=8, into=tmp_path, engine=dying)
    ran = 0

    def counted(work: Callable[[int], None], shards: Sequence[int]) -> None:
        nonlocal ran
        ran = len(shards)
        serial(work, shards)

    files = activations(cnn, Classes(), layer="4", batch_size=4, shard_size=8, into=tmp_path, engine=counted)
    assert ran == 2
    assert torch.equal(files.maps, memory.maps)
    assert torch.equal(files.targets, memory.targets)
    with torch.no_grad():
        cnn[0].bias[0] += 1
    with pytest.raises(BadInput, match="results of another pass"):
        activations(cnn, Classes(), layer="4", batch_size=4, shard_size=8, into=tmp_path)


def test_it_saves_and_loads(tmp_path: Path):
    seen = activations(random_net(), Marked(), layer="1")
    loaded = Activations.load(seen.save(tmp_path / "seen.safetensors"))
    assert loaded.to_dict() == seen.to_dict()
    assert torch.equal(loaded.concepts(["l4"]), seen.concepts(["l4"]))
