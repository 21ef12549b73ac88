"""Rank metrics against scikit-learn, slow loops, and the mean over random orders of equal values."""

import pytest
import torch
from torch import nn

from glasshouse.core import BadInput, Explanation
from glasshouse.evaluate.localisation.overlap import mean_iou
from glasshouse.evaluate.localisation.ranking import (
    concept_influence,
    localisation_ap,
    localisation_auc,
    relevance_rank,
    top_k_intersection,
)
from glasshouse.evaluate.localisation.sorting import ordering, sorted_with

LEVELS = pytest.mark.parametrize("levels", [None, 40, 3, 1], ids=["distinct", "some equal", "many equal", "few values"])


@LEVELS
def test_areas_are_those_of_scikit_learn(asked, pairs, levels):
    peer = pytest.importorskip("sklearn.metrics")
    maps, masks = pairs(12, (17, 19), levels=levels)
    flat = list(zip(masks.flatten(1).numpy(), maps.flatten(1).numpy(), strict=True))
    area = [peer.roc_auc_score(*pair) for pair in flat]
    precision = [peer.average_precision_score(*pair) for pair in flat]
    assert asked(localisation_auc, maps, masks).value.tolist() == pytest.approx(area)
    assert asked(localisation_ap, maps, masks).value.tolist() == pytest.approx(precision)


@LEVELS
def test_roc_area_counts_pairs(asked, pairs, levels):
    maps, masks = pairs(levels=levels)
    for value, a, s in zip(asked(localisation_auc, maps, masks).value, maps, masks, strict=True):
        gap = a[s][:, None] - a[~s]
        assert float(value) == pytest.approx(float((gap > 0).double().mean() + (gap == 0).double().mean() / 2))


def test_zero_and_minus_zero_are_equal(asked):
    maps, masks = torch.tensor([[[0.0, -0.0, -0.0, 0.0]]]), torch.tensor([[[True, True, False, False]]])
    assert asked(localisation_auc, maps, masks).value.tolist() == [0.5]
    assert asked(relevance_rank, maps, masks).value.tolist() == [0.5]


@pytest.mark.parametrize("levels", [None, 3, 1])
def test_ranks_are_the_mean_over_random_orders_of_equal_values(asked, pairs, levels):
    maps, masks = pairs(5, levels=levels)
    draws = torch.Generator().manual_seed(1)
    ranks, tops = [], []
    for _ in range(400):
        order = torch.randperm(maps[0].numel(), generator=draws)
        a, s = maps.flatten(1)[:, order], masks.flatten(1)[:, order]
        found = s.gather(1, a.argsort(dim=1, descending=True, stable=True)).double().cumsum(1)
        count = s.sum(1)
        ranks.append(found.gather(1, count[:, None] - 1)[:, 0] / count)
        tops.append(found[:, 19] / 20)
    for metric, drawn in (
        (relevance_rank, torch.stack(ranks)),
        (lambda *given: top_k_intersection(*given, k=20), torch.stack(tops)),
    ):
        error = drawn.std(0) / 400**0.5
        assert ((asked(metric, maps, masks).value - drawn.mean(0)).abs() <= 4 * error + 1e-6).all()


def test_k_is_5_percent_of_the_pixels_and_at_most_all(asked, pairs):
    maps, masks = pairs(2, (20, 30))
    assert asked(top_k_intersection, maps, masks).settings == {"k": 30}
    everything = asked(top_k_intersection, maps, masks, k=600)
    torch.testing.assert_close(everything.value, everything.extras["chance"])
    for k in (0, 601):
        with pytest.raises(BadInput, match="maps have 600 pixels"):
            asked(top_k_intersection, maps, masks, k=k)


def test_concept_influence_is_the_intersection_over_the_area(asked, pairs):
    maps, masks = pairs()
    area = masks.flatten(1).float().mean(1)
    expected = asked(top_k_intersection, maps, masks, k=10).value / area
    torch.testing.assert_close(asked(concept_influence, maps, masks, k=10).value, expected)


def test_one_sort_serves_all_and_changes_nothing(asked, pairs):
    maps, masks = pairs(levels=5)
    explanation = Explanation(maps, maps, "by_hand", (0,) * 6, torch.zeros(6), {})
    order, images = ordering(explanation, masks), torch.zeros(6, 1, *maps.shape[1:])
    for metric in (relevance_rank, top_k_intersection, concept_influence, localisation_auc, localisation_ap, mean_iou):
        shared = metric(nn.Identity(), images, explanation, masks, order=order).value
        torch.testing.assert_close(shared, asked(metric, maps, masks).value, rtol=0, atol=0, equal_nan=True)


def test_an_ordering_of_something_else_is_refused(asked, pairs):
    maps, masks = pairs()
    explanation = Explanation(maps, maps, "by_hand", (0,) * 6, torch.zeros(6), {})
    order = ordering(explanation, masks)
    asked(relevance_rank, maps.clone(), masks.clone(), order=order)
    for others in ((maps + 1, masks), (maps, ~masks)):
        with pytest.raises(BadInput, match="of other maps or masks"):
            asked(relevance_rank, *others, order=order)


@pytest.mark.parametrize("scale", [1.0, 3e38, 1e-37, 2.0**-149])
@pytest.mark.parametrize("wide", [False, True], ids=["one size", "from the smallest to the largest"])
def test_sorting_keeps_every_value_and_its_mask(scale, wide):
    draws = torch.Generator().manual_seed(0)
    values = torch.randn(3, 400, generator=draws).clamp(-1, 1)
    values[0] = values[0].mul(4).round()  # many equal
    values[1, ::3] = 0.0
    values = (values * scale).clamp(-3e38, 3e38)
    values[2, :6] = torch.tensor([0.0, -0.0, *([1.5 * 2.0**-149, -(2.0**-126), 3e38, -3e38] if wide else [0.0] * 4)])
    inside = torch.rand(3, 400, generator=draws) < 0.4
    for given in (values, values.double()):
        found, upto = sorted_with(given, inside)
        assert found.float().equal(values.sort(1).values)
        for row in range(3):
            for value in values[row].unique():
                last = int((values[row] <= value).sum()) - 1
                assert int(upto[row, last]) == int(inside[row][values[row] <= value].sum())


def test_what_float32_cannot_tell_apart_is_ranked_in_float64(asked):
    maps = (1 + 1e-9 * torch.arange(12, dtype=torch.float64)).view(1, 3, 4)
    masks = maps > 1 + 7.5e-9
    assert len(maps.float().unique()) == 1
    for metric in (relevance_rank, localisation_auc, localisation_ap):
        assert asked(metric, maps, masks).value.tolist() == [1]


def test_a_ranking_does_not_depend_on_the_scale_of_the_map(asked, pairs):
    maps, masks = pairs()
    for metric in (relevance_rank, localisation_auc, localisation_ap):
        torch.testing.assert_close(asked(metric, maps.exp() * 1e-30, masks).value, asked(metric, maps, masks).value)
