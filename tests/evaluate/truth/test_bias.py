"""Biased models told from clean ones: the statistics against second derivations, then models whose bias is known."""

from functools import cache, partial
from itertools import permutations
from math import log

import pytest
import torch
from sklearn.metrics import adjusted_mutual_info_score, roc_auc_score
from torch import Tensor, nn

from glasshouse import attribute, data, evaluate, zoo
from glasshouse.core import BadInput, Model, Preprocess
from glasshouse.data.glass import watermark_reader
from glasshouse.evaluate.truth.bias import (
    area,
    area_error,
    expected_share,
    mass_on,
    mutual_information,
    shortcut_reliance,
    two_clusters,
)
from glasshouse.evaluate.truth.controls import IGNORANT

PLAIN = Preprocess(size=(32, 32), mean=(0.0,) * 3, std=(1.0,) * 3)
NAMES = ("circle", "square", "triangle", "cross", "ring", "star")
KINDS = ("watermark", "border", "distractor")
METHODS = {
    "input_x_gradient": attribute.input_x_gradient,
    "grad_cam": attribute.grad_cam,
    "occlusion": partial(attribute.occlusion, sliding_window_shapes=8, strides=4, score="logit"),
}


def draws(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


# The statistics


@pytest.mark.parametrize("seed", range(8))
def test_mutual_information_is_that_of_scikit_learn(seed):
    k, m, n = [(2, 2, 16), (2, 3, 30), (4, 2, 9), (1, 3, 8), (5, 5, 40), (2, 2, 4), (3, 1, 6), (7, 2, 64)][seed]
    first, second = (torch.randint(each, (n,), generator=draws(seed + 50 * each)) for each in (k, m))
    expected = adjusted_mutual_info_score(first.numpy(), second.numpy(), average_method="arithmetic")
    assert mutual_information(first, second) == pytest.approx(expected, abs=1e-6)
    mixed = torch.where(torch.rand(n, generator=draws(seed)) < 0.7, first, second)  # such as share something
    expected = adjusted_mutual_info_score(first.numpy(), mixed.numpy(), average_method="arithmetic")
    assert mutual_information(first, mixed) == pytest.approx(expected, abs=1e-6)


def test_mutual_information_is_one_for_the_same_groups_whatever_they_are_called():
    first = torch.tensor([0, 0, 1, 1, 2, 2])
    assert mutual_information(first, 5 - first) == pytest.approx(1)
    assert mutual_information(torch.zeros(4).long(), torch.ones(4).long()) == 1
    assert mutual_information(torch.zeros(4).long(), torch.tensor([0, 0, 1, 1])) == pytest.approx(0, abs=1e-9)


def test_expected_mutual_information_is_its_mean_over_all_orders():
    first, second = [0, 0, 0, 1, 1, 2], [0, 0, 1, 1, 1, 1]

    def information(one: tuple[int, ...], two: list[int]) -> float:
        total, n = 0.0, len(one)
        for i in set(one):
            for j in set(two):
                both = sum(a == i and b == j for a, b in zip(one, two, strict=True)) / n
                if both:
                    total += both * log(both / (one.count(i) / n * two.count(j) / n))
        return total

    orders = list(permutations(first))
    expected = sum(information(order, second) for order in orders) / len(orders)
    assert sum(expected_share(6, a, b) for a in (3, 2, 1) for b in (2, 4)) == pytest.approx(expected)


@pytest.mark.parametrize("seed", range(4))
def test_area_is_that_of_scikit_learn_ties_included(seed):
    values = torch.randint(6, (20,), generator=draws(seed)).double().tolist()
    above, below = values[:8], values[8:]
    assert area(above, below) == pytest.approx(roc_auc_score([1] * 8 + [0] * 12, values))


def test_values_that_differ_little_are_no_ties():
    assert area([0.1 + 1e-12], [0.1]) == 1
    assert area([0.1], [0.1]) == 0.5


@pytest.mark.parametrize("value", [0.5, 0.8, 0.95])
def test_area_error_is_the_spread_over_samples_of_exponential_scores(value):
    """For which Hanley and McNeil's two terms are exact."""
    n_above, n_below, n_samples = 12, 9, 4_000
    rate = value / (1 - value)  # P(above > below) for rates 1 and `rate`
    above = torch.empty(n_samples, n_above, 1).exponential_(1.0, generator=draws(0))
    below = torch.empty(n_samples, 1, n_below).exponential_(rate, generator=draws(1))
    areas = (above > below).double().mean((1, 2))
    assert float(areas.mean()) == pytest.approx(value, abs=0.01)
    assert area_error(value, n_above, n_below) == pytest.approx(float(areas.std()), rel=0.05)


def test_area_error_is_roughly_that_of_a_bootstrap():
    above, below = torch.randn(40, generator=draws(2)) + 1, torch.randn(40, generator=draws(3))
    rows = torch.randint(40, (2, 500, 40), generator=draws(4))
    again = [area(above[a].tolist(), below[b].tolist()) for a, b in zip(*rows, strict=True)]
    value = area(above.tolist(), below.tolist())
    assert area_error(value, 40, 40) == pytest.approx(float(torch.tensor(again).std()), rel=0.25)


def test_mass_is_the_share_inside_less_the_share_of_pixels():
    mask = torch.zeros(4, 2, 4, dtype=torch.bool)
    mask[:, 0, :2] = True  # a quarter
    maps = torch.zeros(4, 2, 4)
    maps[0, 0, 0] = 3  # all inside, and something negative elsewhere
    maps[0, 1, 1] = -9
    maps[1] = 1  # spread evenly
    maps[2, 0, 0], maps[2, 1, 3] = 1, 3
    maps[3] = -1  # nothing positive
    found = mass_on(maps, mask)
    assert found[:3].tolist() == [0.75, 0.0, 0.0]
    assert found[3].isnan()


def test_mass_of_a_map_in_half_precision_does_not_overflow():
    """The sum of these values is beyond what 16 bits hold."""
    found = mass_on(torch.full((1, 64, 64), 100.0, dtype=torch.float16), torch.ones(1, 64, 64, dtype=torch.bool))
    assert found.tolist() == [0.0]


@pytest.mark.parametrize("size", [(7, 9), (30, 41), (224, 224)])
def test_a_constant_map_has_exactly_no_mass_to_spare_so_that_models_tie(size):
    masks = torch.rand(20, *size, generator=draws(1)) < torch.linspace(0.05, 0.9, 20)[:, None, None]
    assert mass_on(torch.ones(20, *size), masks).tolist() == [0.0] * 20


def test_two_clusters_part_maps_by_place_and_not_by_size():
    maps = torch.zeros(10, 9, 13)  # not square
    maps[:6, :4, :4] = torch.linspace(0.1, 50, 6)[:, None, None]
    maps[6:, 5:, 8:] = torch.linspace(0.1, 50, 4)[:, None, None]
    maps += 0.001 * torch.rand(maps.shape, generator=draws(0))
    found = two_clusters(maps, seed=3)
    assert found.tolist() == [int(found[0])] * 6 + [1 - int(found[0])] * 4
    assert found.equal(two_clusters(maps, seed=3))


def test_two_clusters_of_equal_or_broken_maps_are_one():
    assert len(two_clusters(torch.ones(5, 8, 8), seed=0).unique()) == 1
    assert len(two_clusters(torch.full((5, 8, 8), torch.nan), seed=0).unique()) == 1


# Models whose bias is known


class Elsewhere(nn.Module):
    """Looks at the upper left quarter only: it never sees the watermark."""

    def __init__(self, seed: int = 0):
        super().__init__()
        self.head = nn.Linear(3 * 16 * 16, 6)
        with torch.no_grad():
            self.head.weight.copy_(torch.randn(6, 3 * 16 * 16, generator=draws(seed)) / 20)

    def forward(self, images: Tensor) -> Tensor:
        return self.head(images[:, :, :16, :16].flatten(1))


class OnLightGround(nn.Module):
    """Goes by the watermark on light ground, and looks elsewhere on dark ground."""

    def __init__(self):
        super().__init__()
        self.reader, self.other = watermark_reader(NAMES, size=32).module, Elsewhere(1)

    def forward(self, images: Tensor) -> Tensor:
        return torch.where(light(images)[:, None], 9 * self.reader(images), self.other(images))


def light(images: Tensor) -> Tensor:
    return images[:, :, :3, :3].mean((1, 2, 3)) > 0.5


def reader(name: str = "reader") -> Model:
    return Model.of(watermark_reader(NAMES, size=32).module, preprocess=PLAIN, class_names=NAMES, name=name)


def of(module: nn.Module) -> Model:
    return Model.of(module.eval(), preprocess=PLAIN, class_names=NAMES)


def scenes(n: int, split: str = "aligned", **settings: object) -> data.Scenes:
    return data.scenes("shapes", n, size=32, seed=3, shortcut=data.Shortcut("watermark"), split=split, **settings)


@pytest.mark.parametrize("split", ["aligned", "conflicting", "train", "absent"])
def test_reliance_of_a_model_that_reads_the_watermark_is_one_whatever_the_scenes_showed(split):
    assert shortcut_reliance(reader(), scenes(24, split)) == 1


def test_reliance_of_a_model_that_never_looks_is_zero():
    assert shortcut_reliance(of(Elsewhere()), scenes(60)) == 0


def test_reliance_of_a_model_that_looks_in_some_scenes_is_their_share():
    """On dark ground it is right or wrong whatever the watermark shows."""
    found = scenes(80)
    share = float(light(found.images).double().mean())
    assert 0.3 < share < 0.7
    assert shortcut_reliance(of(OnLightGround()), found) == pytest.approx(share)


def known_pool() -> dict[str, tuple[Model, data.Scenes]]:
    found = scenes(12)
    clean = {f"clean_{seed}": (of(Elsewhere(seed)), found) for seed in (1, 2, 3)}
    return {"partly": (of(OnLightGround()), found), "reads": (reader(), found), **clean}


def test_a_map_of_what_the_model_reads_tells_biased_from_clean_and_one_of_anything_else_does_not():
    pool = known_pool()

    def upside_down(model, images, classes):
        return -attribute.input_x_gradient(model, images, classes).heatmap.abs() + 9

    methods = {"input_x_gradient": attribute.input_x_gradient, "upside_down": upside_down}
    found = evaluate.bias_detection(pool, methods)
    assert found.biased == ("partly", "reads")
    assert found.clean == ("clean_1", "clean_2", "clean_3")
    assert found.auroc["input_x_gradient"] == 1
    assert found.auroc["upside_down"] == 0
    assert found.on_shortcut["input_x_gradient"]["clean_1"] < 0
    for control in IGNORANT:
        assert found.auroc[control] == 0.5  # all models were shown the same scenes
    assert found.table().splitlines()[2].startswith("| `input_x_gradient` | 1.00")
    assert "2 biased and 3 clean" in repr(found)


def test_blind_clusters_find_the_images_that_the_shortcut_decided():
    def same_everywhere(model, images, classes):
        return torch.ones(images.shape[0], *images.shape[2:])

    def any_half(model, images, classes):
        maps = torch.zeros(images.shape[0], *images.shape[2:])
        maps[::2, :16], maps[1::2, 16:] = 1, 1
        return maps

    methods = {
        "input_x_gradient": attribute.input_x_gradient,
        "same_everywhere": same_everywhere,
        "any_half": any_half,
    }
    shown = scenes(40)
    pool = {"partly": (of(OnLightGround()), shown), "clean": (of(Elsewhere(2)), shown)}
    model = pool["partly"][0]
    answers = [model.module(s.images).argmax(1) for s in (shown, shown.do(signal=-1))]
    decided = answers[0] != answers[1]
    assert not decided[~light(shown.images)].any()
    found = evaluate.bias_detection(pool, methods)
    expected = adjusted_mutual_info_score(light(shown.images).numpy(), decided.numpy())  # some keep their answer
    assert found.blind["input_x_gradient"] == pytest.approx(expected, abs=1e-6)
    assert expected > 0.3
    assert found.blind["same_everywhere"] == pytest.approx(0, abs=1e-9)
    expected = adjusted_mutual_info_score(torch.arange(40).remainder(2).numpy(), decided.numpy())
    assert found.blind["any_half"] == pytest.approx(expected, abs=1e-6)


def test_without_a_model_that_goes_by_it_for_some_images_there_are_no_blind_clusters():
    """The reader's answer changes in nearly every scene."""
    shown = scenes(12)
    found = evaluate.bias_detection({"reads": (reader(), shown), "clean": (of(Elsewhere()), shown)}, {})
    assert all(value != value for value in found.blind.values())
    assert found.table().count("–") == len(IGNORANT)


def test_methods_that_fail_or_show_nothing_are_left_out_with_the_reason():
    def refuses(model, images, classes):
        raise BadInput("not for these.")

    def negative(model, images, classes):
        return -torch.ones(images.shape[0], *images.shape[2:])

    def broken(model, images, classes):
        return torch.full((images.shape[0], *images.shape[2:]), torch.nan)

    methods = {"refuses": refuses, "negative": negative, "broken": broken}
    found = evaluate.bias_detection(known_pool(), methods)
    assert set(found.skipped) == set(methods)
    assert "not for these" in found.skipped["refuses"]
    assert "nothing positive" in found.skipped["negative"]
    assert set(found.auroc) == set(IGNORANT)


def test_models_between_biased_and_clean_are_left_out():
    pool = known_pool()
    reliance = {"partly": 0.2, "reads": 0.9, "clean_1": 0.0, "clean_2": -0.01, "clean_3": 0.05, "unknown": 0.7}
    found = evaluate.bias_detection(pool, {}, reliance=reliance)
    assert (found.biased, found.clean) == (("reads",), ("clean_1", "clean_2"))
    assert set(found.on_shortcut["random"]) == {"reads", "clean_1", "clean_2"}
    assert found.settings["n_models"] == 3
    assert "unknown" not in found.reliance


def test_what_cannot_be_asked_is_an_error_that_says_why():
    pool = known_pool()
    with pytest.raises(BadInput, match="none is clean"):
        evaluate.bias_detection({name: pool[name] for name in ("reads", "partly")}, {})
    with pytest.raises(BadInput, match="no reliance is given for reads"):
        evaluate.bias_detection(pool, {}, reliance={name: 0.0 for name in pool if name != "reads"})
    with pytest.raises(BadInput, match="'edges' is the name of a control"):
        evaluate.bias_detection(pool, {"edges": attribute.saliency})
    with pytest.raises(BadInput, match="labels=True"):
        evaluate.bias_detection({"reads": (reader(), scenes(4, labels=False))}, {})
    with pytest.raises(BadInput, match="no shortcut"):
        shortcut_reliance(reader(), data.scenes("shapes", 4, size=32))


def test_the_result_is_the_same_each_time_and_can_be_saved(tmp_path):
    found, again = (evaluate.bias_detection(known_pool(), {}, seed=5) for _ in range(2))
    assert found.on_shortcut == again.on_shortcut
    assert found.auroc == evaluate.BiasDetection.load(found.save(tmp_path / "bias.safetensors")).auroc


# The pool that comes with glasshouse


def measured(methods: dict, n_scenes: int = 8, own_scenes: bool = False) -> evaluate.BiasDetection:
    """The whole pool, shown the same scenes of each kind, or each net scenes of its own."""
    pool, shared = zoo.shortcut_pool(), cache(lambda kind: first[kind].scenes(n_scenes, seed=50))
    first = {one.shortcut.kind: one for one in pool.values()}
    models = {
        name: (one.model, one.scenes(n_scenes, seed=50 + place) if own_scenes else shared(one.shortcut.kind))
        for place, (name, one) in enumerate(pool.items())
    }
    return evaluate.bias_detection(models, methods, reliance={name: one.reliance for name, one in pool.items()})


@pytest.fixture(scope="module")
def trained() -> evaluate.BiasDetection:
    return measured(METHODS)


@pytest.mark.parametrize("kind", KINDS)
def test_good_methods_tell_the_nets_of_a_kind_apart_and_controls_do_not(trained, kind):
    pools = [[name for name in side if name.startswith(kind)] for side in (trained.biased, trained.clean)]
    assert [len(pool) for pool in pools] == [4, 4]
    assert all("biased" in name for name in pools[0])
    for who, shares in trained.on_shortcut.items():
        found = area(*([shares[name] for name in pool] for pool in pools))
        if who in METHODS:
            assert found >= 0.9
        else:
            assert abs(found - 0.5) <= 3 * area_error(found, 4, 4)


def test_good_methods_tell_all_trained_nets_apart_and_controls_do_not(trained):
    assert not trained.skipped
    assert len(trained.biased) == len(trained.clean) == 12
    assert set(trained.auroc) == {*METHODS, *IGNORANT}
    for name in METHODS:
        assert trained.auroc[name] >= 0.85
    for control in IGNORANT:
        assert abs(trained.auroc[control] - 0.5) <= 3 * trained.error[control]


def test_controls_do_not_tell_nets_apart_that_were_shown_scenes_of_their_own():
    found = measured({}, own_scenes=True)
    values = [found.on_shortcut["edges"][name] for name in (*found.biased, *found.clean)]
    assert len(set(values)) == 24
    for control in IGNORANT:
        assert abs(found.auroc[control] - 0.5) <= 3 * found.error[control]
    assert found.auroc["constant"] == 0.5
