"""Overlap at thresholds, against masks made one by one."""

import pytest
import torch

from glasshouse.core import BadInput
from glasshouse.evaluate.localisation.overlap import best_iou, iou_at, mean_iou, usual_levels


def marked_by_hand(a, thresholds, level):
    positive = a.double().clamp(min=0)
    if thresholds == "energy":
        for value in positive.unique().flip(0):
            if positive[positive >= value].sum() >= level * positive.sum() * (1 - 1e-12):
                return (positive >= value) & (a > 0)
    scale = positive.max() if thresholds == "max" else positive.mean()
    return (positive >= (scale * level).float()) & (a > 0)


@pytest.mark.parametrize("thresholds", ["max", "mean", "energy"])
@pytest.mark.parametrize("levels", [None, 4])
def test_every_threshold_gives_the_overlap_of_the_mask_it_makes(asked, pairs, thresholds, levels):
    maps, masks = pairs(levels=levels)
    score = asked(best_iou, maps, masks, thresholds=thresholds)
    used = usual_levels(thresholds)
    torch.testing.assert_close(score.extras["levels"], torch.tensor(used))
    for row, (a, s) in enumerate(zip(maps, masks, strict=True)):
        curve = []
        for level in used:
            m = marked_by_hand(a, thresholds, level)
            curve.append(int((m & s).sum()) / int((m | s).sum()))
        assert score.extras["curve"][row].tolist() == pytest.approx(curve)
        assert float(score.value[row]) == pytest.approx(max(curve))
        assert float(score.extras["best"][row]) == pytest.approx(used[curve.index(max(curve))])
    mean = asked(mean_iou, maps, masks, thresholds=thresholds)
    torch.testing.assert_close(mean.value, score.extras["curve"].mean(1))


def test_the_levels_are_those_of_fong_and_vedaldi():
    assert usual_levels("max") == usual_levels("energy") == pytest.approx([0.05 * step for step in range(20)])
    assert usual_levels("mean") == pytest.approx([0.5 * step for step in range(21)])


def test_one_level_is_a_point_of_the_curve(asked, pairs):
    maps, masks = pairs()
    curve = asked(mean_iou, maps, masks, levels=[0.2, 0.5]).extras["curve"]
    torch.testing.assert_close(asked(iou_at, maps, masks).value, curve[:, 1])
    torch.testing.assert_close(asked(iou_at, maps, masks, level=0.2).value, curve[:, 0])


def test_negative_values_are_never_marked(asked, pairs):
    maps, masks = pairs()
    for thresholds in ("max", "mean", "energy"):
        lowest = 1.0 if thresholds == "energy" else 0.0
        score = asked(iou_at, maps, masks, level=lowest, thresholds=thresholds)
        expected = [int(((a > 0) & s).sum()) / int(((a > 0) | s).sum()) for a, s in zip(maps, masks, strict=True)]
        assert score.value.tolist() == pytest.approx(expected)


def test_the_smallest_positive_numbers_are_marked(asked, pairs):
    maps, masks = pairs(levels=9)
    tiny = maps.double().mul(2.0**-148).float()  # a few times the smallest float there is
    assert tiny.double().mul(2.0**148).equal(maps.double())
    for thresholds in ("max", "mean", "energy"):
        expected = asked(iou_at, maps, masks, thresholds=thresholds).value
        assert asked(iou_at, tiny, masks, level=0.5, thresholds=thresholds).value.equal(expected)


def test_a_multiple_of_the_mean_that_no_pixel_reaches_marks_nothing(asked):
    maps, masks = torch.full((1, 3, 4), 0.2), torch.ones(1, 3, 4, dtype=torch.bool)
    assert asked(iou_at, maps, masks, level=2.0, thresholds="mean").value.tolist() == [0]


def test_maps_without_evidence_have_a_reason(asked, pairs):
    maps, masks = pairs(3)
    maps[0], maps[1] = 0.0, -1.0
    for metric in (iou_at, best_iou, mean_iou):
        assert asked(metric, maps, masks).reason == ("zero_total", "no_positive", "")


@pytest.mark.parametrize("wrong", [{"levels": []}, {"levels": [1.5]}, {"levels": [-1.0], "thresholds": "mean"}])
def test_levels_must_be_shares(asked, pairs, wrong):
    with pytest.raises(BadInput, match="not shares"):
        asked(best_iou, *pairs(), **wrong)
