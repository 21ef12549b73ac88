"""Prototypes that are a part's own mask, and prototypes that point anywhere."""

import pytest
import torch

from glasshouse import data
from glasshouse.core import BadInput
from glasshouse.evaluate.inside.prototypes import (
    prototype_consistency,
    prototype_purity,
    prototype_stability,
    with_noise,
)

NAMES = ("head", "body", "eye")
SIZE = (64, 64)


@pytest.fixture(scope="module")
def creatures():
    return data.scenes("creatures", 40, size=64, seed=3)


@pytest.fixture(scope="module")
def parts(creatures):
    return creatures.parts[:, [creatures.part(name) for name in NAMES]]


def bumps(parts, size=SIZE):
    """Maps that are highest at the middle of each part."""
    rows, cols = torch.meshgrid(torch.arange(size[0]), torch.arange(size[1]), indexing="ij")
    away = (rows - parts[..., 0, None, None]) ** 2 + (cols - parts[..., 1, None, None]) ** 2
    return torch.exp(-away / 50)


def test_the_mask_of_a_part_is_a_pure_consistent_and_stable_prototype(creatures, parts):
    eye = creatures.masks[:, [creatures.part("eye")]].float()
    noisy = eye + 0.2 * with_noise(torch.zeros_like(eye))
    only = parts[:, 2:]
    purity = prototype_purity(eye, only, size=SIZE, place=(0, 1))
    assert (purity.mean, float(purity.empty)) == (1.0, 0.0)
    assert prototype_consistency(eye, only, size=SIZE).mean == 100.0
    stable = prototype_stability(eye, noisy, only, size=SIZE)
    assert (stable.mean, float(stable.empty)) == (100.0, 0.0)


def test_peaks_on_the_middles_of_parts_name_these_parts(parts):
    narrow = 2
    purity = prototype_purity(bumps(parts), parts, size=SIZE, place=(0, 1), box_px=narrow)
    assert purity.value.tolist() == [1.0, 1.0, 1.0]
    assert purity.part.tolist() == [0, 1, 2]
    assert purity.chance < 0.2
    seen = prototype_consistency(bumps(parts), parts, size=SIZE, half_px=narrow / 2)
    assert (seen.mean, seen.part.tolist()) == (100.0, [0, 1, 2])
    assert 100 * seen.chance < 5


def test_chance_is_what_random_peaks_score(parts):
    maps = torch.rand(40, 16, *SIZE, generator=torch.Generator().manual_seed(0))
    purity = prototype_purity(maps, parts, size=SIZE)
    assert purity.mean == pytest.approx(purity.chance, abs=0.05)
    other = torch.rand(40, 16, *SIZE, generator=torch.Generator().manual_seed(1))
    stable = prototype_stability(maps, other, parts, size=SIZE)
    assert stable.mean == pytest.approx(100 * stable.chance, abs=4)
    assert stable.chance > 0.2  # two boxes on nothing agree
    assert float(stable.empty.mean()) > 0.2


def test_purity_is_what_a_loop_counts():
    source = torch.Generator().manual_seed(0)
    maps = torch.rand(15, 2, 4, 5, generator=source)
    parts = torch.rand(15, 3, 3, generator=source) * torch.tensor([16.0, 20.0, 1.0])
    parts[..., 2] = (parts[..., 2] > 0.3).float()
    found = prototype_purity(maps, parts, size=(16, 20), box_px=8, top=5, groups=[0, 1, 0])
    for p in range(2):
        best = sorted(range(15), key=lambda i: -float(maps[i, p].max()))[:5]
        counts = [0, 0]
        for i in best:
            flat = int(maps[i, p].argmax())
            y, x = 1.5 + 4 * (flat // 5), 1.5 + 4 * (flat % 5)
            inside = [
                bool(parts[i, k, 2] > 0 and abs(parts[i, k, 0] - y) <= 4 and abs(parts[i, k, 1] - x) <= 4)
                for k in range(3)
            ]
            counts[0] += inside[0] or inside[2]
            counts[1] += inside[1]
        assert float(found.value[p]) == pytest.approx(max(counts) / 5)
        assert int(found.part[p]) in [g for g in (0, 1) if counts[g] == max(counts)] or max(counts) == 0


def test_patches_grow_with_the_image(parts):
    assert prototype_purity(bumps(parts), parts, size=SIZE).settings["box_px"] == pytest.approx(32 * 64 / 224)
    assert prototype_consistency(bumps(parts), parts, size=SIZE).settings["half_px"] == pytest.approx(36 * 64 / 224)


def test_a_prototype_is_judged_on_the_images_of_its_class(parts):
    kinds = torch.arange(40) % 2
    maps = bumps(parts)[:, :1].clone()
    maps[kinds == 1] = maps[kinds == 1].flip(2, 3)
    own, other = (
        prototype_consistency(
            maps, parts[:, :1], size=SIZE, categories=kinds, of_prototypes=torch.tensor([kind]), half_px=3
        )
        for kind in (0, 1)
    )
    assert (own.mean, other.mean) == (100.0, 0.0)
    assert own.n_images.tolist() == [20]


def test_a_part_that_is_hidden_half_the_time_counts_where_it_is_seen(parts):
    hidden = parts[:, :1].clone()
    hidden[::2, :, 2] = 0
    assert prototype_consistency(bumps(hidden), hidden, size=SIZE, half_px=2).mean == 100.0
    assert prototype_purity(bumps(hidden), hidden, size=SIZE, place=(0, 1), top=40).mean == pytest.approx(0.5)


def test_a_moved_peak_is_not_stable(parts):
    maps = bumps(parts[:, :1])
    assert prototype_stability(maps, maps.flip(2, 3), parts[:, :1], size=SIZE, half_px=2).mean < 5


def test_flat_prototypes_have_no_score(parts):
    maps = torch.cat([bumps(parts)[:, :1], torch.ones(40, 1, 64, 64)], 1)
    for found in (
        prototype_purity(maps, parts, size=SIZE),
        prototype_consistency(maps, parts, size=SIZE),
        prototype_stability(maps, maps, parts, size=SIZE),
    ):
        assert found.value.isnan().tolist() == [False, True]
        assert found.n_images[1] == 0
        assert found.empty.isnan().tolist() == [False, True]


@pytest.mark.parametrize("height", [0.1, 0.3, 1.7])
def test_a_flat_map_has_no_peak_however_it_is_enlarged(parts, height):
    maps = torch.full((40, 1, 7, 5), height)
    assert prototype_consistency(maps, parts, size=SIZE).value.isnan().all()
    assert prototype_stability(maps, maps, parts, size=SIZE).value.isnan().all()


def test_maps_of_any_precision_are_enlarged(parts):
    maps = torch.rand(40, 2, 8, 6, generator=torch.Generator().manual_seed(0))
    plain = prototype_consistency(maps.half().float(), parts, size=(64, 48))
    for dtype in (torch.half, torch.double):
        torch.testing.assert_close(
            prototype_consistency(maps.half().to(dtype), parts, size=(64, 48)).value, plain.value
        )


def test_noise_is_clipped_and_seeded():
    images = torch.zeros(2, 3, 20, 30)
    noisy = with_noise(images)
    assert float(noisy.abs().max()) == 0.25
    assert float(noisy.std()) == pytest.approx(0.1628, abs=0.005)  # of the clipped normal distribution
    assert with_noise(images).equal(noisy)


def test_maps_of_other_images_are_refused(parts):
    with pytest.raises(BadInput, match="3 images of maps, 40 of parts"):
        prototype_purity(torch.rand(3, 1, 4, 4), parts, size=SIZE)
    with pytest.raises(BadInput, match="not of the same images"):
        prototype_stability(torch.rand(40, 1, 4, 4), torch.rand(40, 2, 4, 4), parts, size=SIZE)
    with pytest.raises(BadInput, match="for 3 parts"):
        prototype_purity(torch.rand(40, 1, 4, 4), parts, size=SIZE, groups=[0])
    with pytest.raises(BadInput, match="0 of them"):
        prototype_purity(torch.rand(40, 1, 4, 4), parts[:, :0], size=SIZE)
    with pytest.raises(BadInput, match="images have none"):
        prototype_consistency(torch.rand(40, 2, 4, 4), parts, size=SIZE, of_prototypes=torch.zeros(2).long())
    with pytest.raises(BadInput, match="each of 2 units"):
        prototype_consistency(
            torch.rand(40, 2, 4, 4), parts, size=SIZE, categories=torch.arange(40), of_prototypes=torch.zeros(3).long()
        )


def test_consistency_and_stability_are_what_loops_count():
    source = torch.Generator().manual_seed(0)
    maps, noisy = torch.rand(2, 14, 3, 16, 20, generator=source)  # as large as the image: nothing is enlarged
    parts = torch.rand(14, 4, 3, generator=source) * torch.tensor([16.0, 20.0, 1.0])
    parts[..., 2] = (parts[..., 2] > 0.3).float()
    kinds, homes = torch.arange(14) % 2, torch.tensor([0, 1, 1])
    given = {"size": (16, 20), "categories": kinds, "of_prototypes": homes, "half_px": 6}
    consistent = prototype_consistency(maps, parts, threshold=0.6, **given)
    stable = prototype_stability(maps, noisy, parts, **given)

    def near(values, i, k):
        y, x = divmod(int(values[i, p].argmax()), 20)
        return bool(parts[i, k, 2] > 0 and abs(parts[i, k, 0] - y) <= 6 and abs(parts[i, k, 1] - x) <= 6)

    for p in range(3):
        own = [i for i in range(14) if kinds[i] == homes[p]]
        shown = [[i for i in own if parts[i, k, 2] > 0] for k in range(4)]
        shares = [sum(near(maps, i, k) for i in shown[k]) / len(shown[k]) for k in range(4)]
        assert bool(consistent.value[p]) == (max(shares) >= 0.6)
        same = [all(near(maps, i, k) == near(noisy, i, k) for k in range(4)) for i in own]
        assert float(stable.value[p]) == pytest.approx(sum(same) / len(own))
        bare = sum(not any(near(maps, i, k) for k in range(4)) for i in own)
        assert float(consistent.empty[p]) == float(stable.empty[p]) == pytest.approx(bare / len(own))


def test_a_score_is_saved_and_shown(parts, tmp_path):
    found = prototype_purity(bumps(parts), parts, size=SIZE)
    assert repr(type(found).load(found.save(tmp_path / "noun"))) == repr(found)
    assert "purity" in repr(found)
