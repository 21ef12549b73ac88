"""Network Dissection beside loops over images, units, labels and pixels, and on networks whose units are known."""

import pickle
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from data.mini_broden import write
from dissect.marked import Loops, Marked, loops, random_net
from glasshouse import data, dissect, zoo
from glasshouse.core import BadInput, NotFound
from glasshouse.core.labelled import Label
from glasshouse.core.shards import serial
from glasshouse.data import glass
from glasshouse.data.glass.colours import PALETTE
from glasshouse.data.glass.truth import random_rotation
from glasshouse.dissect import Dissection
from glasshouse.dissect.netdissect import detection

MODES: dict[str, dict[str, Any]] = {
    "2017": {"how": "centers", "level": 0.995},
    "2020": {"how": "zero", "level": 0.99, "over_enlarged": True},
}


def items_of(marked: Any) -> list[dict[str, Tensor]]:
    return [marked[index] for index in range(len(marked))]


def expect(seen: Dissection, slow: Loops, mode: str = "2017") -> None:
    """Every count is the same, and every ratio follows from the counts."""
    torch.testing.assert_close(seen.threshold.double(), torch.tensor(slow.thresholds, dtype=torch.float64))
    columns = [label.number for label in seen.labels]
    assert seen.shared.sum(0).tolist() == slow.shared[:, columns].tolist()
    assert seen.truth.sum(0).tolist() == slow.truth[columns].tolist()
    assert seen.area.sum(0)[:, -1].tolist() == slow.everywhere.tolist()
    places = [seen.categories.index(label.category) for label in seen.labels]
    assert seen.area.sum(0)[:, places].tolist() == slow.area[:, columns].tolist()
    for unit in range(len(seen.units)):
        for place, number in enumerate(columns):
            assert float(seen.iou[unit, place]) == pytest.approx(slow.iou(unit, number, mode == "2017"), rel=1e-12)


@pytest.mark.parametrize("dedupe", [False, True])
@pytest.mark.parametrize("mode", MODES)
def test_loops_in_double_precision_count_the_same_pixels(mode, dedupe):
    marked, net = Marked(), random_net()
    size = (7, 9) if mode == "2017" else (3, 4)
    seen = dissect.units(net, marked, layer="1", mode=mode, dedupe=dedupe, min_images=1, batch_size=7)
    maps = net[:2](marked.images).detach()
    slow = loops(maps, items_of(marked), marked.labels, start=1, jump=2, size=size, dedupe=dedupe, **MODES[mode])
    expect(seen, slow, mode)
    assert {label.number for label in seen.labels} == {n for n in range(13) if slow.seen_in[n]}
    assert seen.n_for_threshold == len(marked)


@pytest.mark.parametrize("size", [(5, 6), (13, 11), (14, 18), (1, 1)])
@pytest.mark.parametrize("how", ["centers", "half_pixel", "zero"])
def test_each_way_of_enlarging_is_the_one_worked_out_by_hand(how, size):
    marked, net = Marked(n=10), random_net(3)
    seen = dissect.units(net, marked, layer="0", label_size=size, enlarging=how, level=0.9, min_images=1)
    maps = net[:1](marked.images).detach()
    expect(seen, loops(maps, items_of(marked), marked.labels, start=1, jump=2, size=size, how=how, level=0.9))


@pytest.mark.parametrize("dedupe", [False, True])
@pytest.mark.parametrize("mode", MODES)
def test_loops_agree_on_a_small_broden(mode, dedupe, tmp_path: Path):
    write(tmp_path)
    broden, net = data.broden(tmp_path), random_net(4)

    class Doubled:
        categories, labels = broden.categories, broden.labels

        def __len__(self) -> int:
            return len(broden)

        def __getitem__(self, index: int, /) -> dict[str, Tensor]:
            return {**broden[index], "image": broden[index]["image"].double()}

    marked = Doubled()
    seen = dissect.units(net, marked, layer="1", mode=mode, dedupe=dedupe, min_images=1)
    maps = net[:2](torch.stack([item["image"] for item in items_of(marked)])).detach()
    size = (8, 6) if mode == "2017" else (4, 3)
    slow = loops(maps, items_of(marked), broden.labels, start=1, jump=2, size=size, dedupe=dedupe, **MODES[mode])
    expect(seen, slow, mode)


def test_a_label_counts_for_the_category_that_it_belongs_to_wherever_it_is_written():
    # Label 7 is a part. In the second image it stands in a plane of objects, where nothing else is marked.
    marked = Marked(n=2)
    marked.planes.zero_()
    marked.whole.zero_()
    marked.planes[0, 0, 0, 0], marked.planes[1, 0, 0, 0] = 4, 7
    marked.plane_category[:, 0] = 1
    net = random_net(1)
    seen = dissect.units(net, marked, layer="0", level=0.5, min_images=1)
    assert seen.n_marked.tolist() == [0, 1, 1, 2]
    alone = dissect.units(net, data_part(marked, [1]), layer="0", thresholds=seen.threshold, min_images=1)
    assert seen.area.sum(0)[:, 2].tolist() == alone.area.sum(0)[:, 3].tolist()


def data_part(marked: Any, rows: list[int]) -> Any:
    class Some:
        categories, labels = marked.categories, marked.labels

        def __len__(self) -> int:
            return len(rows)

        def __getitem__(self, index: int, /) -> dict[str, Tensor]:
            return marked[rows[index]]

    return Some()


# Units that say little


def test_dead_units_and_constant_maps_mark_nothing():
    net, marked = random_net(4), Marked()
    with torch.no_grad():
        net[0].weight[1:3] = 0
        net[0].bias[1], net[0].bias[2] = -1, 3
    seen = dissect.units(net, marked, layer="1", min_images=1)
    assert seen.threshold[1:3].tolist() == [0, 3]
    assert not seen.area[:, 1:3].any()
    assert seen.iou[1:3].tolist() == torch.zeros(2, len(seen.labels)).tolist()
    assert seen.detectors[1:3].tolist() == [False, False]
    assert float(seen.iqr[1:3].max()) < 1e-12


def test_a_constant_map_above_its_threshold_marks_every_pixel():
    net, marked = random_net(1), Marked()
    with torch.no_grad():
        net[0].weight.zero_()
        net[0].bias.fill_(3)
    below = torch.tensor([2.9], dtype=torch.float64)
    seen = dissect.units(net, marked, layer="1", thresholds=below, min_images=1)
    assert seen.n_for_threshold == 0
    assert seen.area.sum(0)[0, -1] == len(marked) * 7 * 9


def test_negative_thresholds_take_in_the_silent_surroundings_where_beyond_the_grid_is_zero():
    net, marked = random_net(2), Marked(n=6)
    maps = net[:1](marked.images).detach()
    for how in ("centers", "zero"):
        seen = dissect.units(net, marked, layer="0", level=0.1, enlarging=how, label_size=(14, 18), min_images=1)
        slow = loops(maps, items_of(marked), marked.labels, start=1, jump=2, size=(14, 18), how=how, level=0.1)
        assert max(slow.thresholds) < 0
        expect(seen, slow)


def test_a_layer_without_positions_marks_whole_images():
    net, marked = random_net(3), Marked()
    for mode in ("2017", "2020"):
        seen = dissect.units(net, marked, layer="3", mode=mode, level=0.9, min_images=1)
        values = net[:4](marked.images).detach()
        active = (values > seen.threshold).sum(0)
        assert seen.area.sum(0)[:, -1].tolist() == (active * seen.n_pixels).tolist()


# Kinds of networks


def test_tokens_and_channels_last_are_read_as_units_on_a_grid():
    from dissect.test_activity import ChannelsLast, TokenNet, seeded

    for make, layer, jump, start, prefix in ((TokenNet, "norm", 4, 1.5, 1), (ChannelsLast, "wide", 2, 0.5, 0)):
        marked, net = Marked(n=8, image=(16, 20), labels=(8, 10)), seeded(make).double()
        caught: dict[str, Tensor] = {}
        handle = net.get_submodule(layer).register_forward_hook(
            lambda module, inputs, out, caught=caught: caught.update(out=out.detach())
        )
        net(marked.images)
        handle.remove()
        out = caught["out"][:, prefix:] if prefix else caught["out"].flatten(1, 2)
        maps = out.transpose(1, 2).unflatten(2, (16 // jump, 20 // jump))
        seen = dissect.units(net, marked, layer=layer, level=0.9, min_images=1)
        size, kinds = (8, 10), marked.labels
        expect(seen, loops(maps, items_of(marked), kinds, start=start, jump=jump, size=size, level=0.9))


def test_some_units_and_concepts_give_the_rows_and_columns_of_all():
    marked, net = Marked(), random_net()
    every = dissect.units(net, marked, layer="1", min_images=1)
    some = dissect.units(net, marked, layer="1", units=[3, 1], concepts=["l7", 4], min_images=1)
    assert some.units.tolist() == [3, 1]
    assert [label.name for label in some.labels] == ["l7", "l4"]
    columns = [[label.name for label in every.labels].index(name) for name in ("l7", "l4")]
    assert torch.equal(some.iou, every.iou[[3, 1]][:, columns])
    assert torch.equal(some.of("l4"), some.iou[:, 1])
    assert some.row(1) == 1
    with pytest.raises(NotFound, match="unit 0 is not among the 2 units"):
        some.label(0)


def test_units_along_other_directions_are_those_of_the_turned_layer():
    marked, net = Marked(), random_net()
    turn = random_rotation(5)
    seen = dissect.units(net, marked, layer="0", rotation=turn, min_images=1)
    turned = random_net()
    with torch.no_grad():
        turned[0].weight.copy_(torch.einsum("vu,ucij->vcij", turn, net[0].weight))
        turned[0].bias.copy_(turn @ net[0].bias)
    other = dissect.units(turned, marked, layer="0", min_images=1)
    torch.testing.assert_close(seen.threshold, other.threshold)
    assert torch.equal(seen.shared, other.shared)


# Order of work


def same(one: Dissection, other: Dissection) -> bool:
    return one.to_dict() | {"settings": 0} == other.to_dict() | {"settings": 0}


def test_batches_shards_and_engines_change_no_bit(tmp_path: Path):
    def backwards(work: Callable[[int], None], shards: Sequence[int]) -> None:
        serial(work, list(reversed(shards)))

    marked, net = Marked(n=40), random_net()
    whole = dissect.units(net, marked, layer="1", min_images=1, batch_size=40)
    for size, shards, engine in ((1, 40, serial), (7, 16, backwards), (16, 5, serial)):
        found = dissect.units(net, marked, layer="1", min_images=1, batch_size=size, shard_size=shards, engine=engine)
        assert same(found, whole), (size, shards)


def test_a_pass_that_was_killed_goes_on_to_the_same_bits(tmp_path: Path):
    marked, net = Marked(n=40), random_net()
    calls = 0

    def dying(work: Callable[[int], None], shards: Sequence[int]) -> None:
        nonlocal calls
        calls += 1
        if calls == 2:  # the first pass is through, the second is half done
            serial(work, shards[:2])
            raise KeyboardInterrupt
        serial(work, shards)

    def run(engine: Any, into: Path | None) -> Dissection:
        return dissect.units(net, marked, layer="1", min_images=1, batch_size=4, shard_size=8, engine=engine, into=into)

    with pytest.raises(KeyboardInterrupt):
        run(dying, tmp_path)
    assert len(list((tmp_path / "counts").glob("*.safetensors"))) == 2
    assert same(run(serial, tmp_path), run(serial, None))
    with pytest.raises(BadInput, match="results of another pass"):
        dissect.units(random_net(seed=1), marked, layer="1", batch_size=4, shard_size=8, into=tmp_path)


def test_the_network_runs_once_for_each_image_where_its_maps_fit_in_memory(monkeypatch):
    marked, net = Marked(n=40), random_net()
    runs = 0

    class Counted(nn.Module):
        def forward(self, images: Tensor) -> Tensor:
            nonlocal runs
            runs += len(images)
            return images + 0

    counted = nn.Sequential(Counted(), *net).eval()
    dissect.units(counted, marked, layer="2", min_images=1)
    before = runs
    once = dissect.units(counted, marked, layer="2", min_images=1)
    assert runs - before <= 40 + 2  # one image more to look at the network
    monkeypatch.setattr(detection, "MOST_KEPT", 0)
    before = runs
    assert same(dissect.units(counted, marked, layer="2", min_images=1), once)
    assert runs - before >= 80


def test_what_is_counted_can_be_sent_to_another_process(tmp_path: Path):
    # Engines with several processes pickle the work; a copy fills the same folder with the same shards.
    def sent(work: Callable[[int], None], shards: Sequence[int]) -> None:
        serial(pickle.loads(pickle.dumps(work)), shards)

    marked, net, turn = Marked(), random_net(), random_rotation(5)
    options: dict[str, Any] = {"layer": "1", "min_images": 1, "rotation": turn, "shard_size": 8}
    far = dissect.units(net, marked, into=tmp_path, engine=sent, **options)
    assert same(far, dissect.units(net, marked, **options))


def test_thresholds_come_from_a_sample_where_there_are_many_images(monkeypatch):
    marked, net = Marked(n=40), random_net()
    monkeypatch.setattr(detection, "MOST_KEPT", 0)
    monkeypatch.setattr(detection, "N_SAMPLED", 16)
    sampled = dissect.units(net, marked, layer="1", min_images=1)
    exact = dissect.units(net, marked, layer="1", min_images=1, thresholds="exact")
    assert (sampled.n_for_threshold, exact.n_for_threshold) == (16, 40)
    assert (sampled.rank_error, exact.rank_error) == (0, 0)
    given = dissect.units(net, marked, layer="1", min_images=1, thresholds=exact.threshold)
    assert torch.equal(given.shared, exact.shared)
    assert not torch.equal(sampled.threshold, exact.threshold)
    monkeypatch.setattr(detection, "MOST_RANKED", 0)
    sketch = dissect.units(net, marked, layer="1", min_images=1, thresholds="exact")
    assert 0 < sketch.rank_error < 0.01


# What is found


class Painted:
    """Noise with small patches in the paints of `shapes`; label k is paint k."""

    categories = ("color",)

    def __init__(self, names: Sequence[str], n: int = 60):
        source = torch.Generator().manual_seed(0)
        self.labels = tuple(Label(number, name, "color") for number, name in enumerate(names, 1))
        self.images, self.planes = torch.zeros(n, 3, 32, 32), torch.zeros(n, 1, 32, 32, dtype=torch.long)
        for row in range(n):
            for number, name in enumerate(names, 1):
                top, left = (4 * torch.randperm(8, generator=source)[:2]).tolist()
                noise = 0.03 * (torch.rand(3, 4, 4, generator=source) - 0.5)
                paint = torch.tensor(PALETTE[name])[:, None, None]
                self.images[row, :, top : top + 4, left : left + 4] = paint + noise
                self.planes[row, 0, top : top + 4, left : left + 4] = number

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int, /) -> dict[str, Tensor]:
        none = torch.zeros(0, dtype=torch.long)
        places = {"plane_category": torch.zeros(1, dtype=torch.long), "whole": none, "whole_category": none}
        return {"image": self.images[index], "planes": self.planes[index], **places}


@pytest.mark.parametrize("make", [glass.colour_detector, glass.wired_classifier, glass.planted_concept])
def test_every_planted_unit_is_found_under_its_own_name(make):
    model = make(half=0, soft=0.12)
    names = model.truth.concept_names or tuple(PALETTE)
    seen = dissect.units(model, Painted(names), layer="inside_on")
    assert [seen.label(unit).name for unit in range(8)] == list(names)
    assert seen.detectors.all()
    assert seen.significant.all()
    assert seen.false_positive_rate == 0
    assert float(seen.iou.amax(1).min()) > 0.25  # half a per cent is marked, one to one and a half per cent is painted
    assert seen.unique("best") == names


def test_a_concept_spread_over_units_is_found_once_they_are_turned_back():
    even = torch.tensor([[1.0, 1, 1, 1], [1, -1, 1, -1], [1, 1, -1, -1], [1, -1, -1, 1]]) / 2
    model = glass.planted_concept("red", 5, shared=(1, 3, 5, 6), rotation=even, half=0, soft=0.12)
    names, back = model.truth.concept_names, model.truth.directions["code"].double()
    painted, half = Painted(names), torch.full((8,), 0.5)
    spread = dissect.units(model, painted, layer="code", thresholds=half)
    turned = dissect.units(model, painted, layer="code", thresholds=half, rotation=back)
    assert float(spread.of("red").max()) < 0.1 < 0.9 < float(turned.of("red")[5])
    assert turned.label(5).name == "red"


@pytest.mark.parametrize("seed", range(3))
def test_no_detector_is_invented_where_images_and_labels_have_nothing_to_do_with_each_other(seed):
    # Scenes with the label maps of other scenes: what is left is where things usually are.
    scenes = data.scenes("houses", 120, seed=seed, size=32)
    labelled = data.with_labels(scenes)

    class Exchanged:
        categories, labels = labelled.categories, labelled.labels

        def __len__(self) -> int:
            return len(labelled)

        def __getitem__(self, index: int, /) -> dict[str, Tensor]:
            return {**labelled[(index + 60) % 120], "image": labelled[index]["image"]}

    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        net = nn.Sequential(nn.Conv2d(3, 48, 5, stride=2), nn.ReLU(), nn.Conv2d(48, 64, 3, stride=2), nn.ReLU()).eval()
    seen = dissect.units(net, Exchanged(), layer="3")
    n_found = int(seen.detectors.sum())
    assert n_found <= 64 * seen.false_positive_rate + 3 * (64 * 0.05) ** 0.5
    assert int(seen.significant.sum()) <= 64 * 0.025 + 3 * (64 * 0.025) ** 0.5
    true = dissect.units(net, labelled, layer="3")
    assert int(true.detectors.sum()) > n_found  # random filters do see colours, and what has them


@pytest.mark.real
@pytest.mark.slow
def test_a_trained_network_has_units_for_most_kinds_of_objects():
    model = zoo.load("houses_cnn")
    scenes = data.scenes("houses", 240, seed=3, size=model.preprocess.size[0])
    seen = dissect.units(model, data.inputs(data.with_labels(scenes), model.preprocess))
    assert len(set(seen.unique("any")) & {"house", "church", "tower", "car", "tree", "lamp", "fence"}) >= 5
    assert float(seen.significant.double().mean()) > 0.5


@pytest.mark.real
def test_a_network_that_segments_may_make_the_label_maps():
    segmenter, model = zoo.load("houses_segmenter"), zoo.load("houses_cnn")
    scenes = data.scenes("houses", 48, seed=5, size=segmenter.preprocess.size[0])
    made = data.segmented(scenes, segmenter, segmenter.class_names[1:], category="part")
    fed = data.inputs(made, model.preprocess)
    seen = dissect.units(model, fed, mode="2020", min_images=5)
    true = dissect.units(model, data.inputs(data.with_labels(scenes), model.preprocess), mode="2020", min_images=5)
    names = {label.name for label in seen.labels} & {one.name for one in true.labels if one.category == "part"}
    assert len(names) > 10
    parts = [label.number for label in true.labels if label.category == "part" and label.name in names]
    ours = torch.stack([seen.of(label.name) for label in true.labels if label.number in parts], 1)
    theirs = torch.stack([true.of(number) for number in parts], 1)
    assert torch.corrcoef(torch.stack([ours.flatten(), theirs.flatten()]))[0, 1] > 0.95


# Errors


def test_what_cannot_be_dissected_is_said():
    net, marked = random_net(), Marked()

    class Bare(Marked):
        def __getitem__(self, index: int, /) -> dict[str, Tensor]:
            return {"image": self.images[index]}

    with pytest.raises(BadInput, match="no label maps"):
        dissect.units(net, Bare(), layer="1")
    with pytest.raises(BadInput, match=r"level 1\.5 is not between 0 and 1"):
        dissect.units(net, marked, layer="1", level=1.5)
    with pytest.raises(NotFound, match="no concept 'l8'"):
        dissect.units(net, marked, layer="1", concepts=["l8"])
    with pytest.raises(BadInput, match="thresholds has 3 rows for 5 units"):
        dissect.units(net, marked, layer="1", thresholds=torch.zeros(3))
    with pytest.raises(BadInput, match="rotation has 4 rows for 5 units"):
        dissect.units(net, marked, layer="1", rotation=torch.eye(4))
    with pytest.raises(BadInput, match="none of the 7 concepts is seen in 1000 images"):
        dissect.units(net, marked, layer="1", min_images=1000)
    with pytest.raises(NotFound, match="no units were asked for"):
        dissect.units(net, marked, layer="1", units=[])


def test_it_saves_and_loads(tmp_path: Path):
    seen = dissect.units(random_net(), Marked(), layer="1", min_images=1)
    assert same(Dissection.load(seen.save(tmp_path / "seen.safetensors")), seen)
    assert repr(seen) == f"Dissection(1, 5 units, 24 images: {int(seen.detectors.sum())} detectors of " + (
        f"{len(seen.unique())} concepts)"
    )
