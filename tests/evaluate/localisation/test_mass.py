"""Where the positive mass lies, against sums by hand."""

import math

import pytest
import torch

from glasshouse import evaluate
from glasshouse.core import BadInput
from glasshouse.evaluate.localisation.mass import (
    attribution_localisation,
    class_localisation_gap,
    energy_pointing_game,
    relevance_mass,
)


def by_hand(a, s):
    inside = sum(max(v, 0) for v, here in zip(a.flatten().tolist(), s.flatten().tolist(), strict=True) if here)
    return inside / sum(max(v, 0) for v in a.flatten().tolist())


def test_mass_is_the_share_of_positive_values_inside(asked, pairs):
    maps, masks = pairs()
    expected = [by_hand(a, s) for a, s in zip(maps, masks, strict=True)]
    score = asked(relevance_mass, maps, masks)
    assert score.value.tolist() == pytest.approx(expected)
    assert energy_pointing_game is relevance_mass
    area = masks.flatten(1).float().mean(1)
    torch.testing.assert_close(score.extras["chance"], area)
    torch.testing.assert_close(score.extras["lead"], score.value - area)


def test_the_mass_of_a_signed_map_is_a_share_where_quantus_gives_any_number(asked):
    maps = torch.tensor([[[3.0, -2.9, 1.0, -1.0]]])
    masks = torch.tensor([[[True, False, False, False]]])
    assert float(maps[masks].sum() / maps.sum()) == pytest.approx(30, rel=1e-4)  # negative values not left out
    assert asked(relevance_mass, maps, masks).value.tolist() == pytest.approx([3 / 4])


def test_a_map_with_nothing_positive_has_a_reason(asked, pairs):
    maps, masks = pairs(3)
    maps[0], maps[1] = 0.0, -maps[1].abs()
    for metric in (relevance_mass, attribution_localisation):
        assert asked(metric, maps, masks).reason == ("zero_total", "no_positive", "")
    assert asked(class_localisation_gap, maps, masks, ~masks).reason == ("zero_total", "no_positive", "")


def test_weighted_localisation_divides_by_the_area_of_each_image_where_quantus_counts_the_batch(asked, pairs):
    maps, masks = pairs()
    weighted = asked(attribution_localisation, maps, masks, weighted=True)
    for value, a, s in zip(weighted.value.tolist(), maps, masks, strict=True):
        assert value == pytest.approx(by_hand(a, s) * s.numel() / int(s.sum()))
    assert weighted.chance == 1
    torch.testing.assert_close(asked(attribution_localisation, maps, masks).value,
                               asked(relevance_mass, maps, masks).value)  # fmt: skip


def test_large_masks_can_be_left_out(asked, pairs):
    maps, masks = pairs()
    score = asked(attribution_localisation, maps, masks, max_area=0.5)
    area = masks.flatten(1).float().mean(1)
    assert score.reason == tuple("large_mask" if share > 0.5 else "" for share in area.tolist())
    assert {"large_mask", ""} == set(score.reason)
    for wrong in (0.0, 1.5, math.nan):
        with pytest.raises(BadInput, match="max_area"):
            asked(attribution_localisation, maps, masks, max_area=wrong)


def test_the_gap_between_two_objects_runs_from_1_to_minus_1(asked):
    own, other = torch.zeros(2, 1, 5, 6, dtype=torch.bool)
    own[0, :2, :2], other[0, 3:, 3:] = True, True
    for maps, expected in ((own, 1), (other, -1), (own | other, (4 - 6) / 10), (torch.ones(1, 5, 6), (4 - 6) / 30)):
        score = asked(class_localisation_gap, maps.float(), own, other)
        assert score.value.tolist() == pytest.approx([expected])
    assert score.chance == pytest.approx((4 - 6) / 30)
    assert asked(class_localisation_gap, own.float(), own, ~torch.ones_like(other)).reason == ("empty_other_mask",)
    assert asked(class_localisation_gap, own.float(), ~torch.ones_like(own), other).reason == ("empty_mask",)


def test_the_gap_is_zero_on_average_for_an_edge_detector_and_not_for_exact_contributions(linear, explained):
    images = torch.zeros(1, 1, 6, 8, dtype=torch.float64)
    own, other = torch.zeros(2, 1, 6, 8, dtype=torch.bool)
    own[0, 1:3, 1:3], other[0, 1:3, 5:7] = True, True
    images[0, 0][own[0] | other[0]] = 1.0
    linear.weight.data = torch.where(own, 1.0, -1.0).double()
    exact = explained((linear.weight * images).detach()[:, 0])
    assert class_localisation_gap(linear, images, exact, own, other).value.tolist() == [1]
    edges = explained(evaluate.complexity.edges(images))
    assert class_localisation_gap(linear, images, edges, own, other).value.tolist() == pytest.approx([0], abs=1e-6)
