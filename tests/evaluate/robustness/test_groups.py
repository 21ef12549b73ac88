"""Consistency and sufficiency over a set: slow loops, and sets whose answer is known."""

import math

import pytest
import torch
from torch import nn

from glasshouse.core import BadInput
from glasshouse.evaluate.robustness.groups import consistency, sufficiency


class Sign(nn.Module):
    """Class 1 where the mean is above 0."""

    def forward(self, x):
        mean = x.flatten(1).mean(1)
        return torch.stack([-mean, mean], 1)


@pytest.fixture
def pool() -> torch.Tensor:
    return torch.randn(24, 1, 8, 12, generator=torch.Generator().manual_seed(0))


def classes(images: torch.Tensor) -> list[int]:
    return [int(mean > 0) for mean in images.mean((1, 2, 3))]


def test_maps_that_tell_the_decision_are_consistent_and_sufficient(pool, explained):
    maps = torch.zeros(24, 8, 12)
    for index, predicted in enumerate(classes(pool)):
        maps[index, 1 + 5 * predicted, 3] = 1.0 + index
    for metric in (consistency, sufficiency):
        score = metric(Sign(), pool, explained(maps))
        assert score.value.tolist() == [1.0] * 24
        assert score.stderr.tolist() == [0.0] * 24
        assert score.n_forward == 24
        counts = [classes(pool).count(predicted) - 1 for predicted in classes(pool)]
        assert score.extras["neighbours"].int().tolist() == counts
        assert score.chance == pytest.approx(sum(count / 23 for count in counts) / 24)


def test_the_same_map_for_every_image_scores_chance(pool, explained, random_maps):
    maps = random_maps(1, (8, 12)).expand(24, -1, -1).contiguous()
    for metric in (consistency, sufficiency):
        score = metric(Sign(), pool, explained(maps))
        torch.testing.assert_close(score.value, score.extras["chance"])
        assert score.mean == pytest.approx(score.chance)


def test_consistency_is_a_slow_loop_over_pairs(pool, explained, random_maps):
    maps, grid = random_maps(24, (8, 12)), (2, 3)
    for n_top in (1, 2):
        score = consistency(Sign(), pool, explained(maps), n_top=n_top, grid=grid)
        codes = []
        for each in maps:
            sums = [
                float(each[4 * i : 4 * i + 4, 4 * j : 4 * j + 4].double().sum()) for i in range(2) for j in range(3)
            ]
            strongest = sorted(range(6), key=lambda cell: -abs(sums[cell]))[:n_top]
            codes.append({(cell, math.copysign(1, sums[cell])) for cell in strongest})
        predicted = classes(pool)
        for i in range(24):
            others = [j for j in range(24) if j != i and codes[j] == codes[i]]
            if not others:
                assert score.reason[i] == "no_neighbour"
                continue
            share = sum(predicted[j] == predicted[i] for j in others) / len(others)
            assert float(score.value[i]) == pytest.approx(share)
            assert float(score.stderr[i]) == pytest.approx(math.sqrt(share * (1 - share) / len(others)), abs=1e-6)


def test_sufficiency_is_a_slow_loop_over_pairs(pool, explained, random_maps):
    maps = random_maps(24, (8, 12)) + 0.8
    score = sufficiency(Sign(), pool, explained(maps), similarity=0.4)
    predicted = classes(pool)
    for i in range(24):
        near = [
            j
            for j in range(24)
            if j != i and float(torch.cosine_similarity(maps[i].flatten(), maps[j].flatten(), dim=0)) >= 0.4
        ]
        assert int(score.extras["neighbours"][i]) == len(near)
        if near:
            assert float(score.value[i]) == pytest.approx(sum(predicted[j] == predicted[i] for j in near) / len(near))


def test_the_order_of_images_does_not_matter(pool, explained, random_maps):
    maps, order = random_maps(24, (8, 12)), torch.randperm(24, generator=torch.Generator().manual_seed(2))
    for metric in (consistency, sufficiency):
        score = metric(Sign(), pool, explained(maps))
        shuffled = metric(Sign(), pool[order], explained(maps[order]))
        torch.testing.assert_close(shuffled.value, score.value[order], equal_nan=True)


def test_maps_that_say_nothing_are_left_out_on_both_sides(pool, explained):
    maps = torch.zeros(24, 8, 12)
    maps[:, 2, 2] = 1.0
    maps[0], maps[1] = torch.nan, 0.5
    for metric in (consistency, sufficiency):
        score = metric(Sign(), pool, explained(maps))
        assert score.reason == ("not_finite", "constant_map", *[""] * 22)
        assert score.extras["neighbours"][2:].tolist() == [21] * 22


def test_an_image_alone_has_nobody_to_agree_with(pool, explained, random_maps):
    for metric in (consistency, sufficiency):
        score = metric(Sign(), pool[:1], explained(random_maps(1, (8, 12))))
        assert score.reason == ("no_neighbour",)
        assert score.chance is None


def test_wrong_settings_are_refused(pool, explained, random_maps):
    explanation = explained(random_maps(24, (8, 12)))
    with pytest.raises(BadInput, match="n_top 0"):
        consistency(Sign(), pool, explanation, n_top=0)
    with pytest.raises(BadInput, match="no cosine"):
        sufficiency(Sign(), pool, explanation, similarity=2.0)
