"""The pool of biased and clean nets: balanced, measured as its card says, and made again by its recipe."""

from functools import cache
from math import sqrt

import pytest
import torch
from torch import nn

from glasshouse import data, zoo
from glasshouse.core.errors import BadInput, NotFound
from glasshouse.zoo.recipes import pool

KINDS = ("watermark", "border", "distractor")
NAMES = tuple(pool.pool_shortcuts())
N = 300


@cache
def nets() -> dict[str, zoo.ShortcutNet]:
    return zoo.shortcut_pool()


def agrees(measured: float, recorded: float, n: int) -> bool:
    """Whether a share of n images is the recorded one, but for four standard errors of sampling."""
    return abs(measured - recorded) <= 4 * sqrt(max(recorded * (1 - recorded), 0.005) / n)


def same(first: nn.Module, second: nn.Module) -> bool:
    return all(
        torch.equal(a, b) for a, b in zip(first.state_dict().values(), second.state_dict().values(), strict=True)
    )


def test_half_of_the_nets_go_by_each_kind_of_shortcut_and_their_twins_do_not():
    assert len(nets()) == 24
    for kind in KINDS:
        own = [net for net in nets().values() if net.shortcut.kind == kind]
        assert sum(net.reliance > 0.3 and net.shortcut.strength >= 0.95 for net in own) == 4
        assert sum(abs(net.reliance) < 0.05 and net.shortcut.strength == 0 for net in own) == 4


@pytest.mark.parametrize("name", [name for name in NAMES if "clean" in name])
def test_clean_nets_know_the_shapes_whatever_the_shortcut_shows(name):
    figures = nets()[name].figures
    assert min(figures[f"accuracy_{split}"] for split in pool.SPLITS) > 0.6  # chance is 1/6


@pytest.mark.parametrize("name", NAMES)
def test_reliance_is_accuracy_where_the_shortcut_is_right_less_where_it_is_wrong(name):
    figures = nets()[name].figures
    assert nets()[name].reliance == pytest.approx(figures["accuracy_aligned"] - figures["accuracy_conflicting"])


@pytest.mark.parametrize("name", ["watermark_biased_1", "border_clean_2", "distractor_biased_0", "distractor_clean_3"])
def test_accuracies_on_fresh_scenes_are_those_on_the_card(name):
    net = nets()[name]
    for split in pool.SPLITS:
        shortcut = data.Shortcut(net.shortcut.kind)
        fresh = data.scenes("shapes", N, size=32, seed=77, shortcut=shortcut, split=split, labels=False)
        with torch.no_grad():
            right = net.model(net.model.preprocess.normalise(fresh.images)).argmax(1) == fresh.categories
        assert net.model.class_names == fresh.class_names
        assert agrees(float(right.double().mean()), net.figures[f"accuracy_{split}"], N)


def test_the_pool_is_one_small_file_of_small_nets():
    shipped = zoo.Shipped("shortcut_pool")
    assert len(shipped.file.read_bytes()) < 1.5e6
    for name, net in nets().items():
        n_weights = sum(weight.numel() for weight in net.model.module.parameters())
        assert shipped.about["n_weights"] == n_weights <= 15_000
        assert not net.model.module.training
        assert net.model.name == name
    assert "shortcut_pool" not in zoo.list_recipes()


def test_no_two_nets_are_the_same():
    heads = torch.stack([net.model.module.state_dict()["head.weight"].flatten() for net in nets().values()])
    assert len(heads.unique(dim=0)) == 24


def test_twins_are_shown_the_same_scenes_with_the_shortcut_telling_the_truth():
    first, second = (nets()[f"border_{side}_0"].scenes(5) for side in ("biased", "clean"))
    assert torch.equal(first.images, second.images)
    assert torch.equal(first.signal, first.categories)
    assert first.shortcut_mask.flatten(1).any(1).all()
    assert not torch.equal(first.images, nets()["border_clean_0"].scenes(5, seed=8).images)


def test_the_shortcut_tells_the_category_to_biased_nets_and_nothing_to_clean_ones():
    shortcuts = pool.pool_shortcuts()
    for name in ("watermark_biased_1", "watermark_clean_1"):
        shown = data.scenes("shapes", 2_000, size=16, seed=4, shortcut=shortcuts[name], labels=False)
        told = float((shown.signal == shown.categories).double().mean())
        strength = shortcuts[name].strength
        assert agrees(told, strength + (1 - strength) / 6, 2_000)
        assert shown.signal.min() >= 0  # it is there in every scene
    assert all(("biased" in name) == (shortcut.strength >= 0.95) for name, shortcut in shortcuts.items())


def test_scenes_are_rendered_as_a_net_gets_them_in_parts_or_at_once(monkeypatch):
    shortcut = data.Shortcut("distractor", 0.5)
    monkeypatch.setattr(pool, "PART", 3)
    images, categories = pool.rendered(7, 5, shortcut, "train")
    whole = data.scenes("shapes", 7, size=32, seed=5, shortcut=shortcut)
    torch.testing.assert_close(images, (whole.images - 0.5) / 0.25)
    assert torch.equal(categories, whole.categories)


def test_training_depends_on_seed_and_name_alone():
    make = [pool.train_net(*args, n_steps=3, n_scenes=70) for args in (("border_clean_1", 0),) * 2]
    assert same(*make)
    for other in (("border_clean_1", 1), ("border_clean_2", 0), ("border_biased_1", 0)):
        assert not same(make[0], pool.train_net(*other, n_steps=3, n_scenes=70))


def test_training_leaves_the_global_draws_alone():
    before = torch.random.get_rng_state()
    pool.train_net("border_clean_1", n_steps=1, n_scenes=64)
    assert torch.equal(before, torch.random.get_rng_state())


def test_what_is_written_is_what_was_measured(tmp_path):
    path = zoo.train_pool(tmp_path / "mine.safetensors", names=["border_biased_3"], n_steps=3)
    (net,) = zoo.shortcut_pool(path).values()
    assert net.shortcut == data.Shortcut("border", 1.0)
    assert net.figures == pool.net_figures(net.model.module, "border")
    made = pool.train_net("border_biased_3", n_steps=3).state_dict()
    for name, value in net.model.module.state_dict().items():
        torch.testing.assert_close(value, made[name], rtol=1e-3, atol=1e-6)  # half precision


def test_a_net_that_is_not_in_the_pool_and_a_seed_that_is_too_large_are_errors(tmp_path):
    with pytest.raises(NotFound, match="Did you mean 'border_clean_1'"):
        pool.train_net("border_cleaan_1")
    with pytest.raises(BadInput, match="seed 50000"):
        pool.train_net("border_clean_1", 50_000)
    with pytest.raises(BadInput, match="safetensors"):
        zoo.train_pool(tmp_path / "pool.pt")


@pytest.mark.slow
def test_training_again_gives_the_same_file_but_for_the_seconds(tmp_path):
    first, second = (
        zoo.train_pool(tmp_path / name / "pool.safetensors", names=["watermark_biased_0"], n_steps=60) for name in "ab"
    )
    one, two = (zoo.Shipped("pool", path.parent) for path in (first, second))
    assert {**one.about, "seconds": 0} == {**two.about, "seconds": 0}
    again = two.weights()
    assert all(torch.equal(value, again[name]) for name, value in one.weights().items())


@pytest.mark.slow
def test_a_net_trained_again_goes_by_the_shortcut_as_the_shipped_one_does():
    for name in ("watermark_biased_3", "watermark_clean_0"):
        figures = pool.net_figures(pool.train_net(name), "watermark", n=1_000)
        assert abs(figures["reliance"] - nets()[name].reliance) < 0.1
