"""Ablation of units: the same as a hook in a loop, by every route, whatever the order; and what is read from it."""

import pickle
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from conformance.architectures import Attentive, Residual, build, pictures
from glasshouse.core import BadInput, BadModel, NotFound, cut
from glasshouse.core.shards import serial
from glasshouse.dissect.ablations.ablation import ablate_units, strangers
from glasshouse.dissect.ablations.damage import Ablation, correlate
from glasshouse.dissect.ablations.outcomes import Changes, Responses
from glasshouse.dissect.ablations.removal import Head, plan_removal, read_head
from glasshouse.dissect.passes import reading

N, CLASSES = 40, 4
PHOTOS = torch.randn(N, 3, 14, 18, generator=torch.Generator().manual_seed(1))
TARGETS = torch.arange(N) % CLASSES
COUNTED = ("total", "right", "predicted", "lost", "won", "shift", "idle", "reruns")


class Pairs:
    """A data set of (image, class)."""

    def __init__(self, photos: Tensor, targets: Tensor):
        self.photos, self.targets = photos, targets

    def __len__(self) -> int:
        return len(self.photos)

    def __getitem__(self, index: int, /) -> tuple[Tensor, int]:
        return self.photos[index], int(self.targets[index])


DATA = Pairs(PHOTOS.double(), TARGETS)


def seeded(make: Callable[[], nn.Module]) -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(0)
        return make().eval().double()


class ChannelsLast(nn.Module):
    """A ConvNeXt block in small: channels on the last axis, a norm behind the units."""

    def __init__(self):
        super().__init__()
        self.stem, self.wide = nn.Conv2d(3, 6, 2, stride=2), nn.Linear(6, 10)
        self.norm, self.head = nn.LayerNorm(10), nn.Linear(10, CLASSES)

    def forward(self, images: Tensor) -> Tensor:
        inside = self.wide(self.stem(images).permute(0, 2, 3, 1)).relu()
        return self.head(self.norm(inside.mean((1, 2))))


class Twice(nn.Module):
    """One convolution that runs twice, so that the network cannot be cut there."""

    def __init__(self):
        super().__init__()
        self.conv, self.head = nn.Conv2d(3, 3, 3, padding=1), nn.Linear(3, CLASSES)

    def forward(self, images: Tensor) -> Tensor:
        return self.head(self.conv(self.conv(images).relu()).relu().mean((2, 3)))


class Flattened(nn.Module):
    """A head that weighs every position on its own."""

    def __init__(self):
        super().__init__()
        self.conv, self.relu, self.head = nn.Conv2d(3, 5, 5, stride=3), nn.ReLU(), nn.Linear(5 * 4 * 5, CLASSES)

    def forward(self, images: Tensor) -> Tensor:
        return self.head(self.relu(self.conv(images)).flatten(1))


def balanced(model: nn.Module, photos: Tensor) -> nn.Module:
    """With a head that prefers no class, so that small changes turn many answers over."""
    head = [module for module in model.modules() if isinstance(module, nn.Linear)][-1]
    with torch.no_grad():
        head.bias -= model(photos).mean(0)
    return model


def hooked(model: nn.Module, layer: str, images: Tensor, rewrite: Callable[[Tensor], Tensor | None]) -> Tensor:
    """Logits of the user's own network with a hook, and nothing else of ours."""
    handle = model.get_submodule(layer).register_forward_hook(lambda module, args, out: rewrite(out.clone()))
    try:
        with torch.no_grad():
            return model(images)
    finally:
        handle.remove()


def cleared(units: Sequence[int], axis: int, tokens: int = 0) -> Callable[[Tensor], Tensor]:
    def clear(out: Tensor) -> Tensor:
        where = [slice(None)] * out.ndim
        where[axis] = torch.tensor(list(units))
        if tokens:
            where[1] = slice(tokens, None)
        out[tuple(where)] = 0
        return out

    return clear


def counted_by_hand(clean: Tensor, ablated: Sequence[Tensor], targets: Tensor) -> dict[str, list[Any]]:
    """Image by image, from logits."""
    k = clean.shape[1]
    found = {name: [[0] * k for _ in ablated] for name in ("lost", "won", "shift")}
    for group, logits in enumerate(ablated):
        for before, after, truth in zip(
            clean.argmax(1).tolist(), logits.argmax(1).tolist(), targets.tolist(), strict=True
        ):
            found["lost"][group][truth] += before == truth != after
            found["won"][group][truth] += after == truth != before
            found["shift"][group][after] += 1
            found["shift"][group][before] -= 1
    return found


def counts(result: Ablation) -> dict[str, Any]:
    return {name: getattr(result, name).tolist() for name in ("lost", "won", "shift")}


def small_cnn() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(3, 6, 3, padding=1),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(6, 8, 3, padding=1),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(8, CLASSES),
    )


NETS: dict[str, tuple[Callable[[], nn.Module], str, str, int, int]] = {
    # maker, layer, route, axis of the units, tokens before the grid
    "pooled": (small_cnn, "4", "linear", 1, 0),
    "before the pooling's ReLU": (small_cnn, "3", "suffix", 1, 0),
    "inner": (small_cnn, "1", "suffix", 1, 0),
    "logits": (small_cnn, "7", "linear", 1, 0),
    "flattened": (Flattened, "relu", "linear", 1, 0),
    "residual": (Residual, "drop", "linear", 1, 0),
    "inside a residual": (Residual, "norm1", "suffix", 1, 0),
    "channels last": (ChannelsLast, "wide", "suffix", 3, 0),
    "tokens": (partial(Attentive, classes=CLASSES), "blocks.0", "suffix", 2, 1),
}


@pytest.mark.parametrize("name", NETS)
def test_every_unit_does_what_a_hook_in_a_loop_says(name: str):
    make, layer, route, axis, tokens = NETS[name]
    photos = DATA.photos[:, :, :12, :16] if tokens else DATA.photos
    model = balanced(seeded(make), photos)
    result = ablate_units(model, Pairs(photos, TARGETS), layer=layer, batch_size=7)
    with torch.no_grad():
        clean = model(photos)
    ablated = [hooked(model, layer, photos, cleared(unit, axis, tokens)) for unit in result.members]
    assert result.names == tuple(str(unit) for unit in range(len(ablated)))
    assert counts(result) == counted_by_hand(clean, ablated, TARGETS)
    assert result.lost.sum() + result.won.sum() > 4
    hits = [torch.bincount(TARGETS[logits.argmax(1) == TARGETS], minlength=clean.shape[1]) for logits in ablated]
    torch.testing.assert_close(result.ablated[:, :CLASSES], torch.stack(hits)[:, :CLASSES].double() / 10)
    assert result.route == route
    assert (result.reruns == 0) == (route == "linear")


@pytest.mark.parametrize("layer", ["4", "3"])
def test_groups_are_what_hooks_on_all_their_units_say(layer: str):
    model, groups = balanced(seeded(small_cnn), DATA.photos), {"few": [1, 4], "one": [6], "most": [0, 2, 3, 5, 6, 7]}
    result = ablate_units(model, DATA, layer=layer, groups=groups)
    ablated = [hooked(model, layer, DATA.photos, cleared(units, 1)) for units in groups.values()]
    assert counts(result) == counted_by_hand(model(DATA.photos).detach(), ablated, TARGETS)
    assert (result.names, result.traits) == (("few", "one", "most"), None)
    alone = ablate_units(model, DATA, layer=layer, units=[6])
    assert torch.equal(alone.lost[0], result.lost[result.row("one")])
    listed = ablate_units(model, DATA, layer=layer, groups=list(groups.values()))
    assert (listed.names, counts(listed)) == (("0", "1", "2"), counts(result))


@pytest.mark.parametrize("layer", ["4", "1"])
def test_a_unit_can_be_held_at_its_mean_or_take_the_map_of_another_image(layer: str):
    model = balanced(seeded(small_cnn), DATA.photos)
    maps = model[: int(layer) + 1](DATA.photos).detach()
    partner = strangers(N, seed=5)
    assert sorted(partner.tolist()) == list(range(N))
    assert (partner != torch.arange(N)).all()
    for how, new in (("mean", maps.mean((0, 2, 3), keepdim=True).expand_as(maps)), ("resample", maps[partner])):
        result = ablate_units(model, DATA, layer=layer, how=how, seed=5, batch_size=6)

        def put(out: Tensor, unit: int, new: Tensor = new) -> Tensor:
            out[:, unit] = new[:, unit]
            return out

        ablated = [hooked(model, layer, DATA.photos, partial(put, unit=unit)) for unit in range(maps.shape[1])]
        assert counts(result) == counted_by_hand(model(DATA.photos).detach(), ablated, TARGETS)


def test_a_head_that_does_not_fit_a_batch_is_not_used():
    model = balanced(seeded(small_cnn), DATA.photos)
    with reading(model, DATA, ["4"]) as read:
        removal = plan_removal(read.network, read.first, read.places["4"], "4", torch.eye(8, dtype=torch.bool), None)
        assert removal.head is not None
        wrong = replace(removal, head=Head(1.1 * removal.head.weight, removal.head.bias))
        known, found = (plan(DATA.photos, torch.zeros(1, 1, 1, 1).double()) for plan in (removal, wrong))
    assert torch.equal(found.top, known.top)
    assert (known.reruns, found.reruns) == (0, int((~found.idle).sum()))


def test_where_a_layer_runs_twice_the_whole_network_runs_again():
    model = balanced(seeded(Twice), DATA.photos)
    with pytest.raises(BadInput, match="ran 2 times"):
        ablate_units(model, DATA, layer="conv")
    result, runs = ablate_units(model, DATA, layer="conv#1"), [0]

    def second(out: Tensor, unit: int) -> Tensor:
        runs[0] += 1
        return out if runs[0] % 2 else cleared([unit], 1)(out)

    ablated = [hooked(model, "conv", DATA.photos, partial(second, unit=unit)) for unit in range(3)]
    assert result.route == "full"
    assert counts(result) == counted_by_hand(model(DATA.photos).detach(), ablated, TARGETS)


@pytest.mark.parametrize("name", ["toy", "squeezenet1_1", "convnext", "vit", "timm_swin"])
def test_families_of_networks_agree_with_hooks(name: str, timm: Any):
    model, images = build(name), pictures(3)
    with torch.no_grad():
        clean = model(images)
    result = ablate_units(model, Pairs(images, clean.argmax(1)), units=[0, 3, 7])
    with reading(model, images, [result.layer]) as read:
        place = next(iter(read.places.values()))
    for unit, lost in zip((0, 3, 7), result.lost, strict=True):

        def off(out: Tensor, unit: int = unit) -> Tensor:
            maps = place.maps(out).clone()
            maps[:, unit] = 0
            return place.unmaps(maps, out)

        kept = hooked(model, result.layer, images, off).argmax(1) == clean.argmax(1)
        assert torch.equal(lost, torch.bincount(clean.argmax(1)[~kept], minlength=10))


def test_the_matrix_of_a_linear_head_gives_the_logits_without_each_unit(timm: Any):
    for name, layer in (("toy", "5"), ("resnet18", "layer4"), ("squeezenet1_1", "classifier.2")):
        model, images = build(name), pictures(2)
        with reading(model, images, [layer]) as read:
            place = read.places[layer]
            head = read_head(cut(read.network, read.first, layer), place)
        maps: list[Tensor] = []
        clean = hooked(model, layer, images, lambda out, maps=maps: maps.append(out))
        assert head is not None
        assert head.gives(maps[0], clean)
        assert not head.gives(maps[0] * 1.1, clean)
        for unit in (0, 5):
            moved = head.features(maps[0])[:, unit] @ head.weight[unit]
            torch.testing.assert_close(
                clean - moved, hooked(model, layer, images, cleared([unit], 1)), rtol=0, atol=1e-4
            )


# Silent units, order of work, what is left behind


def test_a_unit_that_is_always_silent_changes_nothing_and_is_never_run(monkeypatch: pytest.MonkeyPatch):
    model = seeded(small_cnn)
    with torch.no_grad():
        model[0].bias[2] = -100
    result = ablate_units(model, DATA, layer="1")
    assert result.idle[2] == N
    assert not result.damage[2].any()
    assert not result.shift[2].any()
    assert result.reruns == 6 * N - int(result.idle.sum()) <= 5 * N
    assert result.traits is not None
    assert (result.traits.firing_rate[2], result.traits.selectivity[2], result.traits.peak[2]) == (0, 0, 0)
    assert result.traits.class_correlation[2].isnan()


def backwards(work: Callable[[int], None], shards: Sequence[int]) -> None:
    serial(work, list(reversed(shards)))


def pickled(work: Callable[[int], None], shards: Sequence[int]) -> None:
    serial(pickle.loads(pickle.dumps(work)), shards)


def threaded(work: Callable[[int], None], shards: Sequence[int]) -> None:
    from concurrent.futures import ThreadPoolExecutor

    with ThreadPoolExecutor(3) as pool:
        list(pool.map(work, shards))


@pytest.mark.parametrize("layer", ["1", "4"])
def test_the_answer_does_not_depend_on_batches_chunks_shards_or_engines(layer: str):
    model = balanced(seeded(small_cnn), DATA.photos)
    whole = ablate_units(model, DATA, layer=layer)
    for settings in (
        {"batch_size": 1},
        {"batch_size": 7, "chunk": 5},
        {"shard_size": 9, "engine": backwards},
        {"shard_size": 11, "engine": threaded},
    ):
        other = ablate_units(model, DATA, layer=layer, **settings)
        for name in COUNTED:
            assert torch.equal(torch.as_tensor(getattr(other, name)), torch.as_tensor(getattr(whole, name))), name
        torch.testing.assert_close(other.traits.class_mean, whole.traits.class_mean)
        torch.testing.assert_close(other.traits.class_correlation, whole.traits.class_correlation)


@pytest.mark.parametrize("how", ["zero", "resample"])
def test_a_shard_can_be_done_in_another_process(how: Any, tmp_path: Path):
    model, settings = balanced(seeded(small_cnn), DATA.photos), {"layer": "1", "how": how, "shard_size": 16}
    whole = ablate_units(model, DATA, **settings)
    assert ablate_units(model, DATA, **settings, into=tmp_path, engine=pickled).to_dict() == whole.to_dict()


@pytest.mark.parametrize("how", ["zero", "mean"])
def test_a_killed_pass_goes_on_to_the_same_bits(how: Any, tmp_path: Path):
    model = seeded(small_cnn)

    def broken(work: Callable[[int], None], shards: Sequence[int]) -> None:
        serial(work, shards[:2])
        raise KeyboardInterrupt

    settings = {"layer": "1", "how": how, "shard_size": 8, "batch_size": 4}
    whole = ablate_units(model, DATA, **settings)
    for _ in range(2):  # "mean" is killed in its first pass, then in its second
        with pytest.raises(KeyboardInterrupt):
            ablate_units(model, DATA, **settings, into=tmp_path, engine=broken)
    assert len(list(tmp_path.rglob("shard*"))) >= 4
    assert ablate_units(model, DATA, **settings, into=tmp_path).to_dict() == whole.to_dict()
    with pytest.raises(BadInput, match="results of another pass"):
        ablate_units(model, DATA, **{**settings, "units": [0]}, into=tmp_path)


def test_the_model_comes_back_as_it_was_also_after_an_error():
    model = seeded(small_cnn)
    before = {name: weight.clone() for name, weight in model.state_dict().items()}

    def stop(done: int, total: int) -> None:
        raise ZeroDivisionError

    with torch.inference_mode():
        ablate_units(model, DATA, layer="1")
    for layer in ("1", "4"):
        with pytest.raises(ZeroDivisionError):
            ablate_units(model, DATA, layer=layer, progress=stop)
    assert all(torch.equal(weight, before[name]) for name, weight in model.state_dict().items())
    assert all(weight.requires_grad and weight.grad is None for weight in model.parameters())
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())


def test_counts_and_sums_merge_to_the_same_however_they_are_split():
    draw = torch.Generator().manual_seed(0)
    targets, clean = torch.randint(0, 5, (2, 30), generator=draw)
    top, idle = torch.randint(0, 5, (30, 3), generator=draw), torch.rand(30, 3, generator=draw) < 0.2
    maps, chances = torch.randn(30, 3, 2, 2, generator=draw), torch.rand(30, 5, generator=draw)
    whole, sums = Changes(), Responses()
    whole.update(targets, clean, top, idle, 5, 30)
    sums.update(targets, maps, chances)
    parts, part_sums = Changes(), Responses()
    for rows in torch.randperm(30, generator=draw).split([1, 12, 0, 17]):
        part, part_sum = Changes(), Responses()
        part.update(targets[rows], clean[rows], top[rows], idle[rows], 5, len(rows))
        part_sum.update(targets[rows], maps[rows], chances[rows])
        copy = part.fresh()
        copy.load(part.state())
        parts.merge(copy)
        part_sums.merge(part_sum)
    assert all(torch.equal(value, parts.state()[name]) for name, value in whole.state().items())
    for name, value in sums.state().items():
        torch.testing.assert_close(part_sums.state()[name], value)


# What is read from the counts


@pytest.fixture
def planted() -> tuple[nn.Module, Pairs]:
    """Unit k sees colour k, which is class k; class 3 has none of the three. Unit 3 is a second unit 2."""
    conv, head = nn.Conv2d(3, 4, 1, bias=False), nn.Linear(4, CLASSES)
    with torch.no_grad():
        conv.weight.copy_(torch.eye(3)[[0, 1, 2, 2]][:, :, None, None])
        head.weight.copy_(torch.tensor([[1.0, 0, 0, 0], [0, 1, 0, 0], [0, 0, 1, 1], [0, 0, 0, 0]]))
        head.bias.copy_(torch.tensor([0, 0, 0, 0.2]))
    targets = torch.arange(24) % 4
    photos = torch.zeros(24, 3, 6, 6)
    for image, colour in enumerate(targets.tolist()):
        if colour < 3:
            photos[image, colour] = 1
    return nn.Sequential(conv, nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), head).eval(), Pairs(photos, targets)


def test_a_planted_unit_takes_its_class_with_it_and_a_spare_one_does_not(planted):
    result = ablate_units(*planted, layer="1", groups={"0": [0], "1": [1], "2": [2], "3": [3], "23": [2, 3]})
    everything = torch.zeros(5, CLASSES, dtype=torch.float64)
    everything[0, 0] = everything[1, 1] = everything[4, 2] = 1
    torch.testing.assert_close(result.damage, everything)
    torch.testing.assert_close(result.overall_drop, everything.mean(1))
    assert result.max_class_drop.tolist() == [1, 1, 0, 0, 1]
    assert result.worst_class[[0, 1, 4]].tolist() == [0, 1, 2]
    assert result.interaction("2", "3", "23").tolist() == [0, 0, 1, 0]
    # The class that is gone has TPR 0 and TNR 1; all its images go to class 3, whose TNR is then 12 of 18.
    torch.testing.assert_close(result.balanced[0], torch.tensor([0.5, 1, 1, (1 + 12 / 18) / 2]).double())
    assert result.clean_balanced.tolist() == [1] * 4
    assert result.ranking(2).tolist() == [4, 0, 1, 2, 3]


def test_traits_of_planted_units_are_known(planted):
    traits = ablate_units(*planted, layer="1").traits
    assert traits is not None
    expected = torch.eye(4)[[0, 1, 2, 2]].double()
    expected[:, 3] = 0
    torch.testing.assert_close(traits.class_mean, expected)
    assert traits.selectivity.tolist() == [1] * 4
    assert (traits.mean.tolist(), traits.peak.tolist(), traits.firing_rate.tolist()) == (
        [0.25] * 4,
        [1] * 4,
        [0.25] * 4,
    )
    assert (traits.incoming.tolist(), traits.outgoing.tolist()) == ([1] * 4, [1] * 4)


def test_traits_are_those_of_a_plain_loop():
    model = seeded(small_cnn)
    traits = ablate_units(model, DATA, layer="4", units=[5, 1]).traits
    assert traits is not None
    maps, chances = model[:5](DATA.photos).detach(), model(DATA.photos).softmax(1).detach()
    for row, unit in enumerate((5, 1)):
        means = maps[:, unit].mean((1, 2))
        by_class = [float(means[target == TARGETS].mean()) for target in range(CLASSES)]
        np.testing.assert_allclose(traits.class_mean[row], by_class)
        best, rest = max(by_class), (sum(by_class) - max(by_class)) / 3
        np.testing.assert_allclose(traits.selectivity[row], (best - rest) / (best + rest))
        correlations = [np.corrcoef(means, chances[:, target])[0, 1] for target in range(CLASSES)]
        np.testing.assert_allclose(traits.class_correlation[row], max(correlations), rtol=1e-5)
        np.testing.assert_allclose(traits.firing_rate[row], (maps[:, unit] > 0).double().mean(), rtol=1e-6)
        np.testing.assert_allclose(traits.peak[row], maps[:, unit].max())
        np.testing.assert_allclose(traits.incoming[row], model[3].weight[unit].abs().sum().item())
        np.testing.assert_allclose(traits.outgoing[row], model[7].weight[:, unit].abs().sum().item())


def test_weights_are_found_through_flattening_and_groups_and_not_beside_a_sum():
    model = seeded(Flattened)
    traits = ablate_units(model, DATA, layer="relu").traits
    weight = model.head.weight.detach().unflatten(1, (5, 20))
    torch.testing.assert_close(traits.outgoing, weight.abs().sum((0, 2)))
    depthwise = seeded(lambda: nn.Sequential(*small_cnn()[:2], nn.Conv2d(6, 12, 3, groups=6), nn.ReLU(), nn.Flatten()))
    traits = ablate_units(depthwise, Pairs(DATA.photos[:4], TARGETS[:4]), layer="1").traits
    torch.testing.assert_close(traits.outgoing, depthwise[2].weight.detach().abs().sum((1, 2, 3)).view(6, 2).sum(1))
    residual = ablate_units(seeded(Residual), Pairs(DATA.photos, TARGETS), layer="norm2").traits
    assert not residual.incoming.isnan().any()
    assert residual.outgoing.isnan().all()


def test_a_class_without_images_has_no_accuracy_and_an_image_without_class_is_left_out():
    model = seeded(small_cnn)
    targets = TARGETS.clone()
    targets[TARGETS == 2] = -1
    result = ablate_units(model, Pairs(DATA.photos, targets), layer="4")
    assert result.n_images == 30
    for values in (result.accuracy, result.ablated, result.damage, result.damage_error, *result.interval()):
        assert values[..., 2].isnan().all()
        assert not values[..., [0, 1, 3]].isnan().any()
    some = ablate_units(model, Pairs(DATA.photos[TARGETS != 2], TARGETS[TARGETS != 2]), layer="4")
    assert counts(result) == counts(some)
    assert not result.overall_drop.isnan().any()
    assert not result.max_class_drop.isnan().any()
    assert not (result.worst_class == 2).any()
    assert result.traits.class_mean[:, 2].isnan().all()
    assert not result.traits.selectivity.isnan().any()
    assert result.damage[:, [0, 1, 3]].mean(1).tolist() == pytest.approx(result.overall_drop.tolist())


def drawn(chance_lost: float, chance_won: float, n: int, draws: int) -> Ablation:
    """Many ablations of one class, the same images seen twice."""
    random = torch.distributions.Multinomial(n, torch.tensor([chance_lost, chance_won, 1 - chance_lost - chance_won]))
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(0)
        lost, won, _ = random.sample((draws,)).long().T
    one, none = torch.tensor([n]), torch.zeros(draws, dtype=torch.int64)
    names, members = tuple(map(str, range(draws))), ((0,),) * draws
    counted = (one, one, one, lost[:, None], won[:, None], torch.zeros_like(lost[:, None]), none, 0)
    return Ablation("layer", names, members, "zero", "linear", *counted)


@pytest.mark.parametrize(("lost", "won", "n"), [(0.1, 0.02, 50), (0.3, 0.3, 30), (0.02, 0.0, 50), (0.0, 0.0, 20)])
def test_intervals_hold_the_true_damage_as_often_as_they_say(lost: float, won: float, n: int):
    result = drawn(lost, won, n, 4000)
    low, high = result.interval(0.95)
    assert ((low <= lost - won) & (lost - won <= high)).double().mean() >= 0.935
    torch.testing.assert_close(result.damage_error.square().mean(), result.damage.var(), rtol=0.1, atol=1e-9)
    wider = result.interval(0.99)
    assert ((wider[0] <= low) & (wider[1] >= high)).all()
    if lost == won == 0:
        assert (result.damage_error == 0).all()
        assert (high > 0.05).all()


def test_correlations_and_their_intervals_are_scipys():
    stats = pytest.importorskip("scipy.stats")
    draw = torch.Generator().manual_seed(0)
    x = torch.randn(30, generator=draw, dtype=torch.float64)
    y = (x + torch.randn(30, generator=draw, dtype=torch.float64)).mul(2).round() / 2  # with ties
    pearson, spearman = correlate(x, y, "pearson"), correlate(x, y, "spearman")
    theirs = stats.pearsonr(x, y)
    np.testing.assert_allclose(pearson.value, theirs.statistic)
    np.testing.assert_allclose((pearson.low, pearson.high), theirs.confidence_interval(0.95))
    np.testing.assert_allclose(spearman.value, stats.spearmanr(x, y).statistic)
    assert spearman.low < spearman.value < spearman.high
    holes = torch.cat([x, torch.tensor([torch.nan, 1.0])]), torch.cat([y, torch.tensor([1.0, torch.nan])])
    assert correlate(*holes, "pearson") == pearson
    assert np.isnan(correlate(x, torch.ones(30), "spearman").value)
    assert np.isnan(correlate(x[:3], y[:3], "spearman").value)
    assert correlate(x, 3 * x, "spearman").high == 1


def test_the_result_can_be_tabled_saved_and_read(tmp_path: Path):
    result = ablate_units(seeded(small_cnn), DATA, layer="4", units=[3, 0])
    table = result.table()
    assert [row["group"] for row in table] == ["3", "0"]
    assert table[0]["max_class_drop"] == float(result.max_class_drop[0])
    assert set(result.correlations("max_class_drop", kind="pearson")) <= set(table[0])
    result.save(tmp_path / "ablation")
    assert Ablation.load(tmp_path / "ablation").to_dict() == result.to_dict()
    assert "2 units, 40 images, largest class drop" in repr(result)
    with pytest.raises(NotFound, match="no group '7'"):
        result.row(7)
    with pytest.raises(BadInput, match="class 4 is out of range"):
        result.ranking(4)
    groups = ablate_units(seeded(small_cnn), DATA, layer="4", groups={"a": [1], "b": [2], "c": [1, 3]})
    with pytest.raises(BadInput, match="does not hold the units of"):
        groups.interaction("a", "b", "c")
    with pytest.raises(BadInput, match="have no traits"):
        groups.correlations()


# Mistakes


@pytest.mark.parametrize(
    ("change", "error", "said"),
    [
        ({"data": Pairs(DATA.photos[:0], TARGETS[:0])}, BadInput, "the data set is empty"),
        ({"data": DATA.photos}, BadInput, "do not say which class they are of"),
        ({"data": Pairs(DATA.photos, TARGETS + 2)}, BadInput, "image '2' is of class 4; the model has 4"),
        ({"data": Pairs(DATA.photos, -torch.ones(N))}, BadInput, "no item of the data set has a class"),
        ({"units": [9]}, NotFound, "no unit 9 in layer '4'"),
        ({"groups": {"a": [1], "none": []}}, NotFound, "no units were asked for"),
        ({"groups": []}, NotFound, "no groups were asked for"),
        ({"units": [1], "groups": [[1]]}, BadInput, "both units and groups"),
        ({"data": Pairs(DATA.photos[:1], TARGETS[:1]), "how": "resample"}, BadInput, "there is only one"),
        ({"layer": "44"}, NotFound, "no layer '44'"),
        ({"model": nn.Sequential(nn.Conv2d(3, 2, 3)).double()}, BadModel, "no scores of two classes"),
    ],
    ids=lambda x: next(iter(x)) if isinstance(x, dict) else "",
)
def test_a_mistake_is_named(change: dict[str, Any], error: type[Exception], said: str):
    call = {"model": seeded(small_cnn), "data": DATA, "layer": "4", **change}
    if "model" in change:
        call["layer"] = "0"
    with pytest.raises(error, match=said):
        ablate_units(call.pop("model"), call.pop("data"), **call)


def test_an_image_that_gives_no_number_is_named():
    photos = DATA.photos.clone()
    photos[23, 1, 4, 4] = torch.nan
    for layer in ("1", "4"):
        with pytest.raises(BadInput, match="image '23' holds NaN"):
            ablate_units(seeded(small_cnn), Pairs(photos, TARGETS), layer=layer)


def test_the_cheapest_exact_route_is_taken():
    model = seeded(small_cnn)
    members = torch.eye(8, dtype=torch.bool)
    for layer, route in (("4", "linear"), ("5", "linear"), ("6", "linear"), ("3", "suffix")):
        with reading(model, DATA, [layer]) as read:
            assert plan_removal(read.network, read.first, read.places[layer], layer, members, None).route == route
