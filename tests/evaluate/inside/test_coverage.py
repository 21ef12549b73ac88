"""Prototypes that share out the parts of an object, and prototypes that all sit on one."""

import math

import pytest
import torch

from glasshouse.core import BadInput
from glasshouse.evaluate.inside.coverage import part_coverage

SIZE = (24, 36)


def source(seed=0):
    return torch.Generator().manual_seed(seed)


@pytest.fixture(scope="module")
def parts():
    places = torch.rand(30, 3, 2, generator=source()) * torch.tensor(SIZE)
    return torch.cat([places.floor(), torch.ones(30, 3, 1)], 2)


def peaked(parts):
    """Maps as large as the image with a single peak on each part."""
    n, k, _ = parts.shape
    maps = torch.zeros(n, k, *SIZE)
    at = parts[..., :2].long()
    maps[torch.arange(n)[:, None], torch.arange(k), at[..., 0], at[..., 1]] = 1.0
    return maps


def test_a_prototype_for_every_part_covers_the_object_and_three_for_one_part_a_third(parts):
    every = part_coverage(peaked(parts), parts, size=SIZE, half_px=2)
    assert (every.value, every.covered.all().item()) == (1.0, True)
    assert every.chance < 0.05
    one = part_coverage(peaked(parts)[:, [1, 1, 1]], parts, size=SIZE, half_px=2)
    assert one.covered.tolist() == [[False, True, False]]
    assert one.value == pytest.approx(1 / 3)
    assert math.isnan(one.stderr)


def test_shares_are_what_a_loop_counts_in_each_class():
    parts = torch.rand(20, 3, 3, generator=source()) * torch.tensor([24.0, 36.0, 1.0])
    parts[..., 2] = (parts[..., 2] > 0.4).float()
    kinds, homes = torch.arange(20) % 3, torch.tensor([0, 0, 2, 2])
    parts[kinds == 2, 1, 2] = 0.0  # not to be seen in class 2
    maps = torch.rand(20, 4, *SIZE, generator=source(1))
    seen = part_coverage(
        maps, parts, size=SIZE, categories=kinds, of_prototypes=homes, half_px=9, threshold=0.4, n_chance=1
    )
    for c in range(3):
        for k in range(3):
            images = [i for i in range(20) if kinds[i] == c and parts[i, k, 2] > 0]
            if not images:
                assert seen.share[c, k].isnan()
                continue
            best = 0.0
            for p in [p for p in range(4) if homes[p] == c]:
                peaks = [divmod(int(maps[i, p].argmax()), 36) for i in images]
                near = [
                    abs(float(parts[i, k, 0]) - y) <= 9 and abs(float(parts[i, k, 1]) - x) <= 9
                    for i, (y, x) in zip(images, peaks, strict=True)
                ]
                best = max(best, sum(near) / len(near))
            assert float(seen.share[c, k]) == pytest.approx(best)
    shares = [[v >= 0.4 for v in row if v == v] for row in seen.share.tolist()]
    assert seen.per_class.tolist() == pytest.approx([sum(row) / len(row) for row in shares])
    assert seen.per_class[1] == 0  # no prototype
    assert seen.share[2, 1].isnan()
    assert seen.stderr == pytest.approx(float(seen.per_class.std()) / 3**0.5)


def test_chance_is_what_prototypes_anywhere_cover(parts):
    values, given = list[float](), {"size": SIZE, "half_px": 5, "threshold": 0.2}
    for seed in range(20):
        maps = torch.rand(30, 3, *SIZE, generator=source(seed))
        values.append(part_coverage(maps, parts, n_chance=1, **given).value)
    chance = part_coverage(torch.rand(30, 3, *SIZE), parts, n_chance=60, **given).chance
    assert 0.1 < chance < 0.9
    assert sum(values) / 20 == pytest.approx(chance, abs=0.15)


def test_flat_prototypes_cover_nothing_and_parts_never_seen_count_for_nothing(parts):
    flat = part_coverage(torch.ones(30, 2, 5, 7), parts, size=SIZE)
    assert flat.value == 0
    hidden = parts.clone()
    hidden[:, 2, 2] = 0
    seen = part_coverage(peaked(parts)[:, :2], hidden, size=SIZE, half_px=2)
    assert seen.value == 1
    assert math.isnan(part_coverage(peaked(parts), parts * torch.tensor([1.0, 1, 0]), size=SIZE).value)
    with pytest.raises(BadInput, match="3 images of maps"):
        part_coverage(torch.rand(3, 1, 4, 4), parts, size=SIZE)


def test_a_coverage_is_saved_and_shown(parts, tmp_path):
    seen = part_coverage(peaked(parts), parts, size=SIZE)
    assert repr(type(seen).load(seen.save(tmp_path / "noun"))) == repr(seen)
