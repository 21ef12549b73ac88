"""Exemplars: the right images, places and numbers, whatever the order and the kind of network."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from glasshouse.core import BadInput, NotFound, Noun, find_method
from glasshouse.core.shards import serial
from glasshouse.core.stats import Sample
from glasshouse.dissect import Exemplars, activity, exemplars

N = 40
GROUPS = ("strongest", "weakest", "random", "spectrum")
PHOTOS = torch.randn(N, 3, 14, 18, generator=torch.Generator().manual_seed(1))


class Album:
    """A data set of (image, label) pairs with names."""

    def __init__(self, photos: Tensor):
        self.photos = photos
        self.ids = [f"photos/{index:03d}.png" for index in range(len(photos))]

    def __len__(self) -> int:
        return len(self.photos)

    def __getitem__(self, index: int, /) -> tuple[Tensor, int]:
        return self.photos[index], index % 3


class TokenNet(nn.Module):
    """A transformer in small: patches of 4×4 pixels, a class token in front, one attention block."""

    def __init__(self):
        super().__init__()
        self.embed = nn.Conv2d(3, 8, 4, stride=4)
        self.token = nn.Parameter(torch.randn(1, 1, 8))
        self.norm = nn.LayerNorm(8)
        self.attention = nn.MultiheadAttention(8, 2, batch_first=True)
        self.head = nn.Linear(8, 4)

    def forward(self, images: Tensor) -> Tensor:
        tokens = self.embed(images).flatten(2).transpose(1, 2)
        tokens = torch.cat([self.token.expand(len(tokens), -1, -1), tokens], 1)
        tokens = self.norm(tokens)
        tokens = tokens + self.attention(tokens, tokens, tokens, need_weights=False)[0]
        return self.head(tokens[:, 0])


class ChannelsLast(nn.Module):
    """A ConvNeXt block in small: what follows the convolution has its channels on the last axis."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(3, 6, 2, stride=2)
        self.norm = nn.LayerNorm(6)
        self.wide = nn.Linear(6, 10)
        self.head = nn.Linear(10, 4)

    def forward(self, images: Tensor) -> Tensor:
        inside = self.wide(self.norm(self.stem(images).permute(0, 2, 3, 1)))
        return self.head(inside.mean((1, 2)))


def seeded(make: Callable[[], nn.Module]) -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(0)
        return make().eval()


def same(one: Noun, other: Noun) -> bool:
    return one.to_dict() == other.to_dict()


def by_hand(maps: Tensor, score: Callable[[Tensor], float], k: int) -> list[list[tuple[float, int]]]:
    """For each unit the k strongest as (value, id), by a loop over all images."""
    ranked = []
    for unit in range(maps.shape[1]):
        values = [(score(maps[image, unit]), image) for image in range(len(maps))]
        ranked.append(sorted(values, key=lambda pair: (-pair[0], pair[1]))[:k])
    return ranked


@pytest.fixture
def detector() -> nn.Module:
    """Unit 0 matches a diagonal cross of 3×3 pixels, unit 1 a bar; the layer's threshold is in its bias."""
    conv = nn.Conv2d(1, 2, 3, padding=1)
    cross = torch.tensor([[1.0, -1, 1], [-1, 1, -1], [1, -1, 1]])
    bar = torch.tensor([[-1.0, 1, -1], [-1, 1, -1], [-1, 1, -1]])
    with torch.no_grad():
        conv.weight.copy_(torch.stack([cross, bar])[:, None])
        conv.bias.zero_()
    return nn.Sequential(conv, nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(2, 2)).eval()


@pytest.fixture
def planted() -> tuple[Tensor, list[tuple[int, int, int]]]:
    """Images with a cross in five of them, and (id, row, column of its centre) of each, clearest first."""
    images = torch.zeros(20, 1, 12, 16)
    cross = torch.tensor([[1.0, 0, 1], [0, 1, 0], [1, 0, 1]])
    places = [(13, 4, 9), (2, 1, 1), (17, 10, 14), (5, 6, 6), (8, 3, 12)]
    for rank, (image, i, j) in enumerate(places):
        images[image, 0, i - 1 : i + 2, j - 1 : j + 2] = cross * (1 - 0.1 * rank)
    return images, places


def test_a_planted_detector_finds_its_pattern_in_order_with_the_right_boxes(detector, planted):
    images, places = planted
    seen = exemplars(detector, images, layer="1", k=5)
    assert seen.strongest.ids[0].tolist() == [image for image, _, _ in places]
    assert seen.strongest.positions[0].tolist() == [[i, j] for _, i, j in places]
    assert seen.strongest.boxes[0].tolist() == [[i - 1, j - 1, i + 2, j + 2] for _, i, j in places]
    torch.testing.assert_close(seen.strongest.values[0], 5 * torch.tensor([1, 0.9, 0.8, 0.7, 0.6]))
    patches = seen.patches(images, 0)
    cross = torch.tensor([[1.0, 0, 1], [0, 1, 0], [1, 0, 1]])
    for rank, patch in enumerate(patches):
        torch.testing.assert_close(patch[0], cross * (1 - 0.1 * rank))


def test_masks_show_the_pattern_and_nothing_else(detector, planted):
    images, places = planted
    seen = exemplars(detector, images, layer="1", k=2, level=0.999)
    for mask, (_, i, j) in zip(seen.masks(0), places, strict=False):
        assert mask[i, j]
    assert seen.masks(0).sum() < 2 * 9
    shown = seen.masked(images, 0, dim=0.5)
    whole = images[seen.strongest.ids[0]]
    torch.testing.assert_close(shown, torch.where(seen.masks(0)[:, None], whole, whole / 2))


def test_the_box_of_an_identity_convolution_is_the_pixel():
    identity = nn.Sequential(nn.Conv2d(1, 1, 1, bias=False), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    nn.init.ones_(identity[0].weight)
    images = torch.rand(6, 1, 5, 7, generator=torch.Generator().manual_seed(0))
    seen = exemplars(identity.eval(), images, layer="0", k=6)
    assert (seen.window, seen.local) == ((1, 1), True)
    for image, value, box in zip(seen.strongest.ids[0], seen.strongest.values[0], seen.strongest.boxes[0], strict=True):
        top, left, bottom, right = box.tolist()
        assert (bottom - top, right - left) == (1, 1)
        assert images[image, 0, top, left] == value == images[image].max()


@pytest.mark.parametrize(
    ("score", "formula"),
    [
        ("max", lambda map: float(map.max())),
        ("mean", lambda map: float(map.mean())),
        ("energy", lambda map: float(map.square().sum())),
    ],
)
def test_a_plain_loop_in_double_precision_gives_the_same(score, formula, cnn):
    cnn = cnn.double()
    maps = cnn[:5](PHOTOS.double()).detach()
    seen = exemplars(cnn, PHOTOS.double(), layer="4", k=7, score=score)
    for unit, ranked in enumerate(by_hand(maps, formula, 7)):
        assert seen.strongest.ids[unit].tolist() == [image for _, image in ranked]
        expected = torch.tensor([value for value, _ in ranked], dtype=torch.float64)
        torch.testing.assert_close(seen.strongest.values[unit], expected, rtol=1e-12, atol=1e-14)
    for unit, ranked in enumerate(by_hand(-maps, lambda map: -formula(-map), 7)):
        assert seen.weakest.ids[unit].tolist() == [image for _, image in ranked]
    # Maps, places and statistics of all positions.
    for unit, ids in enumerate(seen.strongest.ids):
        torch.testing.assert_close(seen.maps[unit], maps[ids, unit])
        for map, position in zip(seen.maps[unit], seen.strongest.positions[unit].tolist(), strict=True):
            assert position == [int(i) for i in (map == map.max()).nonzero()[0]]
    rows = maps.transpose(0, 1).flatten(1)
    torch.testing.assert_close(seen.peak, rows.amax(1))
    torch.testing.assert_close(seen.mean, rows.mean(1))
    torch.testing.assert_close(seen.resting, (rows == 0).double().mean(1), rtol=1e-6, atol=0)
    threshold = torch.from_numpy(np.quantile(rows, 0.995, axis=1, method="hazen"))
    torch.testing.assert_close(seen.threshold, threshold)


def test_energy_is_shown_where_the_activation_is_largest_in_size(cnn):
    seen = exemplars(cnn, PHOTOS, layer="3", k=N, score="energy")
    maps = cnn[:4](PHOTOS).detach()
    signs = set()
    for unit in range(8):
        for image, (i, j) in zip(seen.strongest.ids[unit], seen.strongest.positions[unit].tolist(), strict=True):
            map = maps[image, unit]
            torch.testing.assert_close(map[i, j].abs(), map.abs().max())
            signs.add(bool(map[i, j] > 0))
    assert signs == {True, False}


def test_the_spectrum_is_the_deciles_of_the_score(cnn):
    seen = exemplars(cnn, PHOTOS, layer="3")
    peaks = cnn[:4](PHOTOS).amax((2, 3)).detach()
    assert seen.spectrum.ids.shape == (8, 9)
    for unit, values in enumerate(seen.spectrum.values):
        for tenth, value in enumerate(values, 1):
            assert int((peaks[:, unit] <= value + 1e-5).sum()) == N * tenth // 10
        assert seen.spectrum.ids[unit].unique().numel() == 9


def test_the_random_images_are_the_same_whatever_the_batch_size(cnn):
    runs = [exemplars(cnn, PHOTOS, layer="4", k=5, batch_size=size, seed=3).random for size in (1, 7, 64)]
    assert all(torch.equal(run.ids, runs[0].ids) for run in runs)
    assert len(runs[0].ids.unique()) == 5
    fair = Sample(5, seed=3)
    fair.update(torch.zeros(N, 1), torch.arange(N), torch.zeros(N, 1, dtype=torch.int64))
    assert runs[0].ids[0].tolist() == fair.ids.tolist()
    other = exemplars(cnn, PHOTOS, layer="4", k=5, seed=4)
    assert not torch.equal(other.random.ids, runs[0].ids)


# Order of work


def test_shuffled_shards_and_a_resumed_pass_give_the_same_bits(cnn, tmp_path: Path):
    def backwards(work: Callable[[int], None], shards: Sequence[int]) -> None:
        serial(work, list(reversed(shards)))

    def broken(work: Callable[[int], None], shards: Sequence[int]) -> None:
        serial(work, shards[:2])
        raise KeyboardInterrupt

    def run(engine: Any, into: Path | None = None) -> Exemplars:
        return exemplars(cnn, PHOTOS, layer="4", k=4, batch_size=4, shard_size=8, into=into, engine=engine)

    whole = run(serial)
    assert same(run(backwards), whole)
    with pytest.raises(KeyboardInterrupt):
        run(broken, tmp_path)
    assert len(list(tmp_path.glob("*.safetensors"))) == 2
    assert same(run(serial, tmp_path), whole)


def test_a_folder_with_results_of_other_weights_is_refused(cnn, tmp_path: Path):
    exemplars(cnn, PHOTOS, layer="4", into=tmp_path)
    with torch.no_grad():
        cnn[0].bias[0] += 1
    with pytest.raises(BadInput, match="results of another pass"):
        exemplars(cnn, PHOTOS, layer="4", into=tmp_path)


def test_every_image_runs_once_and_nothing_behind_the_layer(cnn):
    counts = {"layer": 0, "behind": 0}

    class Counting(nn.Module):
        def __init__(self, name: str):
            super().__init__()
            self.name = name

        def forward(self, values: Tensor) -> Tensor:
            counts[self.name] += len(values)
            return values + 0

    net = nn.Sequential(cnn[:2], Counting("layer"), cnn[2:], Counting("behind")).eval()
    exemplars(net, PHOTOS, layer="1", units=[0], k=3)
    started = dict(counts)
    assert counts["behind"] < 10  # while the network was looked at
    exemplars(net, PHOTOS, layer="1", units=[0], k=3)
    assert counts["behind"] == started["behind"]
    assert counts["layer"] - started["layer"] == N


def test_progress_covers_the_pass(cnn):
    seen: list[tuple[int, int]] = []
    exemplars(cnn, PHOTOS, layer="4", k=2, progress=lambda *at: seen.append(at))
    done = [at[0] for at in seen]
    assert done == sorted(done)
    assert seen[-1] == (N, N)


# Small data, ties, odd values


def test_more_images_may_be_asked_for_than_there_are(cnn):
    seen = exemplars(cnn, PHOTOS[:3], layer="4", k=9)
    for group in ("strongest", "weakest", "random"):
        assert getattr(seen, group).ids.shape == (8, 3)
        assert getattr(seen, group).ids.sort(1).values.tolist() == [[0, 1, 2]] * 8
    assert seen.maps.shape == (8, 3, 7, 9)
    assert seen.spectrum.ids.shape == (8, 9)


def test_equal_scores_are_ordered_by_id(cnn):
    copies = PHOTOS[:1].expand(12, -1, -1, -1)
    seen = exemplars(cnn, copies, layer="4", k=4, batch_size=5)
    assert seen.strongest.ids.tolist() == [[0, 1, 2, 3]] * 8
    assert seen.weakest.ids.tolist() == [[0, 1, 2, 3]] * 8
    assert seen.spectrum.ids.tolist() == [[1, 2, 3, 4, 5, 7, 8, 9, 10]] * 8


def test_a_unit_that_is_never_active_is_called_dead(cnn):
    with torch.no_grad():
        cnn[3].bias[2] = -100
    seen = exemplars(cnn, PHOTOS, layer="4", k=3)
    assert seen.dead.tolist() == [unit == 2 for unit in range(8)]
    assert (seen.peak[2], seen.threshold[2], seen.resting[2]) == (0, 0, 1)
    assert not seen.masks(2).any()
    assert "1 dead" in repr(seen)


@pytest.mark.parametrize("value", [torch.nan, torch.inf])
def test_an_image_that_gives_no_number_is_named(value: float, cnn):
    photos = PHOTOS.clone()
    photos[23, 1, 4, 4] = value
    with pytest.raises(BadInput, match=r"image '23' gives activations that are NaN or infinite"):
        exemplars(cnn, photos, layer="4")
    with pytest.raises(BadInput, match=r"image 'photos/023.png'"):
        exemplars(cnn, Album(photos), layer="4")


def test_a_sketch_stands_in_where_the_upper_tail_would_not_fit(cnn, monkeypatch):
    whole = exemplars(cnn, PHOTOS, layer="3", level=0.9)
    monkeypatch.setattr(activity, "MOST_KEPT", 0)
    sketch = exemplars(cnn, PHOTOS, layer="3", level=0.9)
    assert whole.rank_error == 0 < sketch.rank_error < 0.01
    torch.testing.assert_close(sketch.peak, whole.peak, rtol=0, atol=0)
    rows = cnn[:4](PHOTOS).detach().transpose(0, 1).flatten(1)
    below = (rows < sketch.threshold[:, None]).double().mean(1)
    assert ((below - 0.9).abs() <= sketch.rank_error).all()


# Kinds of data and of networks


def test_a_data_set_of_pairs_gives_what_its_images_give(cnn):
    plain, named = exemplars(cnn, PHOTOS, layer="4"), exemplars(cnn, Album(PHOTOS), layer="4")
    for group in GROUPS:
        assert same(getattr(plain, group), getattr(named, group))
    shown = {int(i) for group in GROUPS for i in getattr(named, group).ids.unique()}
    assert named.names == {index: f"photos/{index:03d}.png" for index in sorted(shown)}
    assert plain.names == {}
    torch.testing.assert_close(named.patches(Album(PHOTOS), 1), plain.patches(PHOTOS, 1))


def test_tokens_are_units_on_a_grid_without_the_class_token():
    net = seeded(TokenNet)
    photos = PHOTOS[:, :, :12, :16]
    seen = exemplars(net, photos, layer="norm", k=4)
    tokens = net.norm(net.embed(photos).flatten(2).transpose(1, 2)).detach()
    maps = tokens.transpose(1, 2).unflatten(2, (3, 4))
    assert seen.maps.shape == (8, 4, 3, 4)
    for unit, ranked in enumerate(by_hand(maps, lambda map: float(map.max()), 4)):
        assert seen.strongest.ids[unit].tolist() == [image for _, image in ranked]
    i, j = seen.strongest.positions[0, 0].tolist()
    assert seen.local
    assert seen.strongest.boxes[0, 0].tolist() == [4 * i, 4 * j, 4 * i + 4, 4 * j + 4]


def test_behind_attention_boxes_are_said_to_be_the_direct_path_only():
    class Mixed(TokenNet):
        def forward(self, images: Tensor) -> Tensor:
            tokens = self.embed(images).flatten(2).transpose(1, 2)
            tokens = tokens + self.attention(tokens, tokens, tokens, need_weights=False)[0]
            return self.head(self.norm(tokens).mean(1))

    seen = exemplars(seeded(Mixed), PHOTOS[:, :, :12, :16], layer="norm", k=2)
    i, j = seen.strongest.positions[0, 0].tolist()
    assert not seen.local
    assert seen.strongest.boxes[0, 0].tolist() == [4 * i, 4 * j, 4 * i + 4, 4 * j + 4]


def test_the_last_axis_is_the_units_where_channels_are_last():
    net = seeded(ChannelsLast)
    seen = exemplars(net, PHOTOS, layer="wide", k=4)
    maps = net.wide(net.norm(net.stem(PHOTOS).permute(0, 2, 3, 1))).permute(0, 3, 1, 2).detach()
    assert seen.units.tolist() == list(range(10))
    for unit, ranked in enumerate(by_hand(maps, lambda map: float(map.max()), 4)):
        assert seen.strongest.ids[unit].tolist() == [image for _, image in ranked]
    assert seen.window == (2, 2)


def test_a_layer_without_positions_has_one(cnn):
    seen = exemplars(cnn, PHOTOS, layer="7", k=3)
    logits = cnn(PHOTOS).detach()
    assert seen.maps.shape == (4, 3, 1, 1)
    assert seen.strongest.ids.tolist() == logits.argsort(0, descending=True)[:3].T.tolist()


def test_no_layer_named_takes_the_last_one_with_positions(cnn):
    assert exemplars(cnn, PHOTOS, k=1).layer == "4"


def test_some_units_give_what_all_of_them_give(cnn):
    every, some = exemplars(cnn, PHOTOS, layer="4", k=3), exemplars(cnn, PHOTOS, layer="4", k=3, units=[5, 1])
    assert some.units.tolist() == [5, 1]
    for unit in (5, 1):
        assert same(some.unit(unit), every.unit(unit))


def test_the_model_comes_back_as_it_was(cnn):
    before = {name: weight.clone() for name, weight in cnn.state_dict().items()}
    with torch.inference_mode():
        exemplars(cnn, PHOTOS, layer="4", k=1)
    assert all(torch.equal(weight, before[name]) for name, weight in cnn.state_dict().items())
    assert all(weight.requires_grad and weight.grad is None for weight in cnn.parameters())
    assert not any(module._forward_hooks for module in cnn.modules())


# Mistakes


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"data": PHOTOS[:0]}, "the data set is empty"),
        ({"units": [3, 8]}, "no unit 8 in layer '4'. It has 8"),
        ({"units": []}, "no units were asked for"),
        ({"k": 0}, "n_kept=0 is too small"),
        ({"level": 1.5}, "level 1.5 is not in 0…1"),
        ({"data": PHOTOS[0]}, "the batch axis is missing"),
        ({"data": ["cat.jpg"]}, "holds a str where an image tensor is due"),
    ],
    ids=lambda x: next(iter(x)) if isinstance(x, dict) else "",
)
def test_a_mistake_is_named(change: dict[str, Any], said: str, cnn):
    with pytest.raises((BadInput, NotFound), match=said):
        exemplars(cnn, **{"data": PHOTOS, "layer": "4"} | change)


def test_images_of_another_size_are_named(cnn):
    photos = [PHOTOS[0], PHOTOS[1], PHOTOS[2, :, :10]]
    with pytest.raises(BadInput, match=r"image '2' is \(3, 10, 18\)"):
        exemplars(cnn, photos, layer="4", batch_size=1)


def test_it_is_found_by_its_name():
    assert find_method("exemplars", "dissect").function is exemplars
