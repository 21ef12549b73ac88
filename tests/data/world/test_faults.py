"""Faults on demand, and the manifest of where they are."""

import math

import pytest
import torch

from glasshouse.core.errors import BadInput, NotFound
from glasshouse.data.world.faults import POOL, Faults
from glasshouse.data.world.scene import Scenes, scenes

pytestmark = pytest.mark.usefixtures("unchecked")


def shapes(n: int, **settings: float | tuple[str, ...]) -> Scenes:
    return scenes("shapes", n, size=16, labels=False, faults=Faults(**settings))


@pytest.mark.parametrize("rate", [0.0, 0.2, 1.0])
@pytest.mark.parametrize(
    ("fault", "where"), [("blotch", "blotch"), ("memorised", "memorised"), ("mislabelled", "mislabelled")]
)
def test_faults_come_as_often_as_asked_and_the_manifest_says_where(fault, where, rate):
    made = shapes(1500, **{fault: rate})
    share = float(made.manifest[where].double().mean())
    by_luck = POOL / 1500 if fault == "memorised" else 0  # a scene that shows itself is no copy
    assert share == pytest.approx(rate, abs=4 * math.sqrt(rate * (1 - rate) / 1500) + by_luck)


def test_memorised_images_are_one_of_sixteen_to_the_bit():
    made, plain = shapes(120, memorised=0.5), scenes("shapes", POOL, size=16, labels=False)
    shows, copied = made.manifest["shows"], made.manifest["memorised"]
    assert copied.any()
    assert shows[copied].max() < POOL
    assert torch.equal(shows[~copied], torch.arange(120)[~copied])
    assert torch.equal(made.images[copied], plain.images[shows[copied]])
    assert torch.equal(made.categories[copied], plain.categories[shows[copied]])


def test_a_blotch_is_where_its_label_says_and_nowhere_else():
    made = scenes("creatures", 30, size=32, faults=Faults(blotch=0.5))
    plain = scenes("creatures", 30, size=32)
    seen = made.mask_of("blotch").flatten(1).any(1)
    assert torch.equal(seen, made.manifest["blotch"])
    near = torch.nn.functional.max_pool2d(made.mask_of("blotch").float()[:, None], 3, 1, 1)[:, 0] > 0
    changed = (made.images != plain.images).any(1)
    assert not (changed & ~near).any()
    assert torch.equal(changed.flatten(1).any(1), made.manifest["blotch"])
    assert torch.equal(made.do(remove="blotch").images, plain.images)


def test_mislabelled_scenes_bear_another_category_and_the_manifest_keeps_the_true_one():
    made, plain = shapes(600, mislabelled=0.3), scenes("shapes", 600, size=16, labels=False)
    assert torch.equal(made.manifest["true_category"], plain.categories)
    assert torch.equal(made.categories != plain.categories, made.manifest["mislabelled"])
    assert torch.equal(made.images, plain.images)
    wrong = ((made.categories - plain.categories) % 6)[made.manifest["mislabelled"]]
    assert set(wrong.tolist()) == {1, 2, 3, 4, 5}


@pytest.mark.parametrize(("preset", "dropped"), [("shapes", ("ring", "star")), ("houses", ("church and fence",))])
def test_dropped_categories_never_occur_and_all_others_do(preset, dropped):
    made = scenes(preset, 500, size=16, labels=False, faults=Faults(dropped=dropped))
    assert {made.class_names[i] for i in made.categories.tolist()} == set(made.class_names) - set(dropped)


def test_imbalance_is_the_ratio_of_the_first_category_to_the_last():
    shares = Faults(imbalance=10).shares(("a", "b", "c"))
    assert float(shares[0] / shares[-1]) == pytest.approx(10)
    assert float(shares[1]) == pytest.approx(float(shares[0] * shares[2]) ** 0.5)  # geometric
    counts = shapes(3000, imbalance=5).categories.bincount(minlength=6).double()
    expected = 5.0 ** -(torch.arange(6) / 5)
    expected = 3000 * expected / expected.sum()
    assert float(((counts - expected).square() / expected).sum()) < 5 + 4 * math.sqrt(10)


def test_no_faults_are_the_plain_scenes():
    made, plain = shapes(20), scenes("shapes", 20, size=16, labels=False)
    assert torch.equal(made.images, plain.images)
    assert torch.equal(made.categories, plain.categories)


@pytest.mark.parametrize("name", ["blotch", "memorised", "mislabelled"])
@pytest.mark.parametrize("rate", [-0.1, 1.5, math.nan])
def test_rates_outside_of_0_to_1_are_refused(name, rate):
    with pytest.raises(BadInput, match=f"{name} is a share"):
        Faults(**{name: rate})


def test_categories_and_ratios_that_cannot_be_are_refused():
    with pytest.raises(BadInput, match="ratio above 0"):
        Faults(imbalance=0)
    with pytest.raises(NotFound, match=r"no category 'rings'.*'ring'"):
        shapes(4, dropped=("rings",))
    with pytest.raises(BadInput, match="every category"):
        Faults(dropped=("a", "b")).shares(("a", "b"))


def test_faults_show_and_keep_themselves(tmp_path):
    faults = Faults(blotch=0.1, dropped=("ring",), imbalance=3)
    assert repr(faults) == "Faults(blotch 0.1, imbalance 3, no ring)"
    assert repr(Faults()) == "Faults(none)"
    assert Faults.load(faults.save(tmp_path / "faults.safetensors")) == faults
