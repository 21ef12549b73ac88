"""Passes: several layers and analyses are counted in one, and the network stops where it is no longer needed."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from glasshouse.core import BadInput, LayerNotFound, NotFound
from glasshouse.core.stats import Moments
from glasshouse.dissect.passes import Analysis, Course, Part, key_of, reading, run

PHOTOS = torch.randn(10, 3, 14, 18, generator=torch.Generator().manual_seed(1))


class Mean:
    """The mean of every unit over images and positions."""

    def stats(self) -> dict[str, Moments]:
        return {"mean": Moments()}

    def count(self, maps: Tensor, batch: Any, ids: Tensor) -> dict[str, tuple[Tensor]]:
        return {"mean": (maps.mean((2, 3)),)}


def test_several_analyses_of_several_layers_share_one_pass(cnn: nn.Sequential):
    passes = 0

    def count(module: nn.Module, inputs: Any) -> None:
        nonlocal passes
        passes += len(inputs[0])

    assert isinstance(Mean(), Analysis)
    with reading(cnn, PHOTOS, ["1", "4", "1"]) as read:
        read.network.register_forward_pre_hook(count)
        analyses = {"1": {"a": Mean(), "b": Mean()}, "4": {"a": Mean()}}
        seen = run(read, PHOTOS, analyses, Course(batch_size=4))
    assert passes == 10
    for layer, stop in (("1", 2), ("4", 5)):
        maps = cnn[:stop](PHOTOS).detach()
        torch.testing.assert_close(seen[layer]["a"]["mean"].mean, maps.double().mean((0, 2, 3)))
    assert torch.equal(seen["1"]["a"]["mean"].mean, seen["1"]["b"]["mean"].mean)


def test_the_usual_layer_is_taken_where_none_is_named(cnn: nn.Sequential):
    with reading(cnn, PHOTOS, [None], [6, 1]) as read:
        assert list(read.places) == ["4"]
        maps = read({"image": PHOTOS[:2]}, torch.tensor([0, 1]))["4"]
    assert torch.equal(maps, cnn[:5](PHOTOS[:2]).detach()[:, [6, 1]])


def test_what_cannot_be_read_is_said(cnn: nn.Sequential):
    with pytest.raises(BadInput, match="the data set is empty"), reading(cnn, PHOTOS[:0], [None]):
        pass
    with pytest.raises(LayerNotFound, match="no layer '44'"), reading(cnn, PHOTOS, ["44"]):
        pass
    with pytest.raises(NotFound, match="no unit 8 in layer '4'"), reading(cnn, PHOTOS, ["4"], [8]):
        pass
    with reading(cnn, PHOTOS, ["4"]) as read:
        with pytest.raises(BadInput, match=r"image '3' is \(3, 9, 9\) torch\.float32, the first is \(3, 14, 18\)"):
            read(torch.zeros(1, 3, 9, 9), torch.tensor([3]))
        with pytest.raises(BadInput, match="image '5' gives activations that are NaN"):
            read(torch.stack([PHOTOS[4], PHOTOS[5] * torch.nan]), torch.tensor([4, 5]))


def test_the_key_is_that_of_weights_to_the_bit_and_of_the_question(cnn: nn.Sequential):
    before = key_of(cnn, "means")
    assert key_of(cnn, "means") == before != key_of(cnn, "peaks")
    with torch.no_grad():
        cnn[0].weight[0, 0, 0, 0] = torch.nextafter(cnn[0].weight[0, 0, 0, 0], torch.tensor(9.0))
    assert key_of(cnn, "means") != before


def test_a_part_of_a_data_set_keeps_its_names():
    part = Part(PHOTOS, torch.tensor([7, 2]))
    assert (len(part), list(part.ids)) == (2, [7, 2])
    assert torch.equal(part[1], PHOTOS[2])


def test_each_of_several_passes_has_a_folder_of_its_own(tmp_path: Path):
    course = Course(into=tmp_path, batch_size=3)
    assert course.below("counts") == Course(into=tmp_path / "counts", batch_size=3)
    assert Course().below("counts").into is None
