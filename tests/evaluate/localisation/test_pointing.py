"""The pointing game against distances computed one by one, and against TorchRay."""

import math

import pytest
import torch

from glasshouse.core import BadInput, Score
from glasshouse.evaluate.localisation.pointing import mean_over_classes, pointing_game, widened


def closer(mask, distance):
    """Every pixel's distance to every pixel of the mask."""
    points = torch.cartesian_prod(*(torch.arange(side, dtype=torch.float64) for side in mask.shape))
    gaps = torch.cdist(points, points[mask.flatten()], compute_mode="donot_use_mm_for_euclid_dist")
    return ((gaps < distance - 1e-9) | (gaps == 0)).any(1).view(mask.shape)


@pytest.mark.parametrize("distance", [0, 0.5, 1, 1.01, 1.5, 2, 2.5, 5, 30])
def test_a_mask_is_widened_by_less_than_the_distance(distance):
    draws = torch.Generator().manual_seed(0)
    for size in ((9, 14), (1, 8), (8, 1), (1, 1)):
        masks = torch.rand(4, *size, generator=draws) < 0.06
        for mask, near in zip(masks, widened(masks, distance), strict=True):
            assert near.equal(closer(mask, distance)) or not mask.any()


@pytest.mark.filterwarnings("ignore:torch.meshgrid")
@pytest.mark.parametrize("tolerance", [1, 3, 15])
def test_hits_are_those_of_torchray(asked, tolerance, torchvision):
    game = pytest.importorskip("torchray.benchmark.pointing_game").PointingGame
    draws = torch.Generator().manual_seed(2)
    maps = torch.randn(40, 31, 45, generator=draws)
    masks = torch.rand(40, 31, 45, generator=draws) < 10 ** (-3.2 + 2.5 * torch.rand(40, 1, 1, generator=draws))
    masks[:, 3, 4] = True  # none is empty
    theirs, expected = game(5, tolerance), []
    classes = torch.randint(5, (40,), generator=draws).tolist()
    for index, (a, s) in enumerate(zip(maps, masks, strict=True)):
        row, col = divmod(int(a.argmax()), 45)
        hit = theirs.evaluate(s, (col, row))
        theirs.aggregate(hit, classes[index])
        expected.append((hit + 1) // 2)
    score = asked(pointing_game, maps, masks, tolerance_px=tolerance)
    assert score.value.tolist() == expected
    assert {0, 1} <= set(expected) or tolerance == 15
    assert mean_over_classes(score, classes) == pytest.approx(float(theirs.accuracy))


def test_the_tolerance_is_15_pixels_for_an_image_of_224_and_strict(asked):
    masks, maps = torch.zeros(2, 224, 300, dtype=torch.bool), torch.zeros(2, 224, 300)
    masks[:, 100, 100] = True
    maps[0, 100, 115] = maps[1, 109, 111] = 1.0  # 15, and the root of 202
    score = asked(pointing_game, maps, masks)
    assert score.settings == {"tolerance_px": 15}
    assert score.value.tolist() == [0, 1]
    assert asked(pointing_game, maps[:, ::2, ::2], masks[:, ::2, ::2]).settings == {"tolerance_px": 7.5}


def test_several_highest_points_count_by_their_share(asked):
    maps, masks = torch.zeros(1, 4, 5), torch.zeros(1, 4, 5, dtype=torch.bool)
    masks[0, :2] = True
    maps[0, 0, 0] = maps[0, 1, 4] = maps[0, 3, 3] = 2.0
    assert asked(pointing_game, maps, masks, tolerance_px=0).value.tolist() == pytest.approx([2 / 3])


def test_an_empty_mask_is_no_hit_where_quantus_counts_one(asked):
    score = asked(pointing_game, torch.rand(1, 5, 6), torch.zeros(1, 5, 6, dtype=torch.bool))
    assert score.reason == ("empty_mask",)
    assert math.isnan(score.mean)


def test_chance_is_the_share_of_points_that_hit(asked):
    draws = torch.Generator().manual_seed(0)
    masks = torch.zeros(1, 12, 10, dtype=torch.bool)
    masks[0, 4:6, 5] = True
    chance = asked(pointing_game, torch.randn(1, 12, 10), masks, tolerance_px=2).extras["chance"]
    assert chance.tolist() == pytest.approx([12 / 120])  # two pixels, and those beside and diagonal to them
    maps = torch.randn(2000, 12, 10, generator=draws)
    drawn = asked(pointing_game, maps, masks.expand(2000, -1, -1).contiguous(), tolerance_px=2)
    assert drawn.mean == pytest.approx(0.1, abs=4 * drawn.error)


def test_a_tolerance_must_be_a_distance(asked, pairs):
    for wrong in (-1, math.inf, math.nan):
        with pytest.raises(BadInput, match="not a distance"):
            asked(pointing_game, *pairs(), tolerance_px=wrong)


def test_frequent_classes_do_not_count_more():
    value = torch.tensor([1.0, 1, 1, 0, torch.nan])
    score = Score("x", value, torch.zeros(5), None, "up", ("", "", "", "", "empty_mask"))
    assert mean_over_classes(score, [3, 3, 3, 7, 9]) == 0.5
    with pytest.raises(BadInput, match="one class per image"):
        mean_over_classes(score, [1])
    nothing = Score("x", value[4:], torch.zeros(1), None, "up", ("empty_mask",))
    assert math.isnan(mean_over_classes(nothing, [1]))
