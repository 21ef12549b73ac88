"""What all metrics against a mask have in common."""

from functools import partial

import pytest
import torch

from glasshouse.core import BadInput, Score, find_method
from glasshouse.evaluate.localisation import detection, mass, overlap, pointing, ranking
from glasshouse.evaluate.localisation.masks import beside

SHARES = {  # 1 for the mask itself, 0 for the rest of the image
    "pointing_game": partial(pointing.pointing_game, tolerance_px=0),
    "relevance_mass": mass.relevance_mass,
    "attribution_localisation": mass.attribution_localisation,
    "relevance_rank": ranking.relevance_rank,
    "top_k_intersection": partial(ranking.top_k_intersection, k=8),
    "localisation_auc": ranking.localisation_auc,
    "iou_at": overlap.iou_at,
    "best_iou": overlap.best_iou,
    "mean_iou": overlap.mean_iou,
    "best_iou by the mean": partial(overlap.best_iou, thresholds="mean"),
    "mean_iou by energy": partial(overlap.mean_iou, thresholds="energy"),
    "max_box_acc": detection.max_box_acc,
}
OTHERS = {
    "concept_influence": ranking.concept_influence,
    "localisation_ap": ranking.localisation_ap,
    "pxap": detection.pxap,
    "pointing_game with tolerance": pointing.pointing_game,
    "weighted": partial(mass.attribution_localisation, weighted=True),
}
METRICS = SHARES | OTHERS
every_metric = pytest.mark.parametrize("metric", METRICS.values(), ids=METRICS)


@pytest.fixture
def square():
    """A rectangle of 8 pixels in an image of 48, twice."""
    masks = torch.zeros(2, 6, 8, dtype=torch.bool)
    masks[0, 1:3, 2:6] = True
    masks[1, 2:6, 5:7] = True
    return masks


@pytest.mark.parametrize("metric", SHARES.values(), ids=SHARES)
def test_the_mask_itself_scores_1(metric, asked, square):
    torch.testing.assert_close(asked(metric, square.float(), square).value, torch.ones(2))


def test_the_mask_itself_has_perfect_precision_and_the_most_influence(asked, square):
    for metric in (ranking.localisation_ap, detection.pxap):
        torch.testing.assert_close(asked(metric, square.float(), square).value, torch.ones(2))
    torch.testing.assert_close(asked(ranking.concept_influence, square.float(), square).value, torch.full((2,), 6.0))


@pytest.mark.parametrize("metric", [m for name, m in SHARES.items() if name != "max_box_acc"])
def test_everything_but_the_mask_scores_0(metric, asked, square):
    assert asked(metric, (~square).float(), square).value.tolist() == [0, 0]


@pytest.mark.parametrize(
    ("metric", "expected"),
    [
        (pointing.pointing_game, None),
        (mass.relevance_mass, 8 / 48),
        (mass.attribution_localisation, 8 / 48),
        (partial(mass.attribution_localisation, weighted=True), 1),
        (ranking.relevance_rank, 8 / 48),
        (ranking.top_k_intersection, 8 / 48),
        (ranking.concept_influence, 1),
        (ranking.localisation_auc, 1 / 2),
        (ranking.localisation_ap, 8 / 48),
    ],
)
def test_an_even_map_scores_chance_exactly(metric, expected, asked, square):
    score = asked(metric, torch.full((2, 6, 8), 0.3), square)
    torch.testing.assert_close(score.value, score.extras["chance"])
    torch.testing.assert_close(score.extras["lead"], torch.zeros(2))
    if expected is not None:
        assert score.value.tolist() == pytest.approx([expected] * 2)
        assert score.chance == pytest.approx(expected)


def test_one_pixel_inside_wins_by_points_and_mass_and_fills_its_part_of_the_ranks(asked, square):
    maps = torch.zeros(2, 6, 8)
    maps[0, 1, 2] = maps[1, 3, 5] = 2.0
    assert asked(pointing.pointing_game, maps, square, tolerance_px=0).value.tolist() == [1, 1]
    assert asked(mass.relevance_mass, maps, square).value.tolist() == [1, 1]
    ties = (1 + 7 * 7 / 47) / 8  # 7 of the 47 zeros fill the top 8, of which 7 are inside
    assert asked(ranking.relevance_rank, maps, square).value.tolist() == pytest.approx([ties] * 2)


@every_metric
def test_no_value_depends_on_the_other_images(metric, asked, pairs):
    for levels in (None, 3):
        maps, masks = pairs(levels=levels)
        together = asked(metric, maps, masks)
        for index in range(len(maps)):
            alone = asked(metric, maps[index : index + 1], masks[index : index + 1])
            torch.testing.assert_close(alone.value, together.value[index : index + 1], equal_nan=True)


@every_metric
def test_what_cannot_be_scored_has_a_reason(metric, asked, pairs):
    maps, masks = pairs(4)
    maps[0, 2, 3], maps[1, 0, 0], masks[2] = torch.nan, -torch.inf, False
    score = asked(metric, maps, masks)
    assert score.reason == ("not_finite", "not_finite", "empty_mask", "")
    assert score.value.isnan().tolist() == [True, True, True, False]
    if score.chance is not None:
        assert score.chance == pytest.approx(float(score.extras["chance"][3]))
        assert score.extras["lead"].isnan().tolist() == [True, True, True, False]
    assert asked(metric, maps[:3], masks[:3]).chance is None


@every_metric
def test_maps_of_any_size_and_precision(metric, asked, pairs):
    for size in ((1, 1), (1, 9), (8, 1), (17, 23)):
        if size == (1, 1) and "k" in getattr(metric, "keywords", {}):
            continue  # fewer pixels than k
        maps, masks = pairs(3, size)
        asked(metric, maps, masks)
    maps, masks = pairs(4)
    torch.testing.assert_close(asked(metric, maps.double(), masks).value, asked(metric, maps, masks).value)
    half = maps.half()
    torch.testing.assert_close(asked(metric, half, masks).value, asked(metric, half.float(), masks).value)


@every_metric
def test_a_full_mask_is_always_hit_unless_there_is_nothing_to_compare_with(metric, asked, pairs):
    maps, masks = pairs(2)
    score = asked(metric, maps, torch.ones_like(masks))
    if score.metric == "localisation_auc":
        assert score.reason == ("full_mask",) * 2
    elif score.metric not in ("iou_at", "best_iou", "mean_iou", "max_box_acc"):
        torch.testing.assert_close(score.value, torch.ones(2))


@every_metric
def test_scores_are_exact_cost_nothing_and_are_saved(metric, asked, pairs, tmp_path):
    score = asked(metric, *pairs())
    assert score.stderr.tolist() == [0] * 6
    assert (score.n_forward, score.n_backward, score.direction) == (0, 0, "up")
    info = find_method(score.metric, "evaluate")
    assert info.cost(info.example, (6, 1, 9, 13)).forward == 0
    again = Score.load(score.save(tmp_path / "score.safetensors"))
    assert repr(again) == repr(score)


def test_images_flipped_together_score_the_same(asked, pairs):
    for levels in (None, 3):
        maps, masks = pairs(levels=levels)
        for metric in METRICS.values():
            flipped = asked(metric, maps.flip(1, 2), masks.flip(1, 2)).value
            torch.testing.assert_close(flipped, asked(metric, maps, masks).value, equal_nan=True)


def test_masks_that_do_not_fit_are_refused(pairs):
    maps, masks = pairs(2)
    with pytest.raises(BadInput, match=r"not of these maps \(2, 9, 13\)"):
        beside(masks[:, :5], maps)
    with pytest.raises(BadInput, match=r"masks > 0\.5"):
        beside(masks.float(), maps)
