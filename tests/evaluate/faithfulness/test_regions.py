"""Curves over regions, against closed forms and loops, where Quantus 0.6.0 is known to be wrong too."""

from itertools import pairwise

import pytest
import torch
from torch import nn

from glasshouse import attribute
from glasshouse.core import BadInput, find_method
from glasshouse.core.mask import cells
from glasshouse.evaluate.faithfulness.curves import deletion
from glasshouse.evaluate.faithfulness.regions import irof, part_of_luck, region_perturbation, road, selectivity
from glasshouse.evaluate.imputation import impute
from glasshouse.evaluate.questions import Elements

EXACT = {"score": "logit", "baseline": 0.0}
METRICS = (region_perturbation, selectivity, irof, road)


def trapezoid(curve):
    return sum((a + b) / 2 for a, b in pairwise(curve)) / (len(curve) - 1)


def sums(values, labels):
    """The sum over each segment, the largest first."""
    return sorted((float(values[labels == name].sum()) for name in labels.unique()), reverse=True)


class Both(nn.Module):
    """1 on class 0 if both halves of the image are there ("and"), or if one is ("or")."""

    def __init__(self, kind):
        super().__init__()
        self.kind = kind

    def forward(self, x):
        left, right = (half.flatten(1).amin(1).clamp(0, 1) for half in x.chunk(2, dim=3))
        score = torch.minimum(left, right) if self.kind == "and" else torch.maximum(left, right)
        return torch.stack([score, torch.zeros_like(score)], 1)


@pytest.mark.parametrize("n_regions", [3, 6, 100])
def test_region_perturbation_of_a_linear_model_has_a_closed_form(linear, inputs, contributions, explained, n_regions):
    settings = {"patch_px": 3, "n_regions": n_regions, **EXACT}  # 6 × 8 pixels: 2 × 3 patches
    score = region_perturbation(linear, inputs, explained(contributions.float()), **settings)
    for value, c in zip(score.value.tolist(), contributions, strict=True):
        falling, last = sums(c, cells((6, 8), (2, 3))), min(n_regions, 6)
        assert value == pytest.approx(sum(sum(falling[:k]) for k in range(last + 1)) / (last + 1), abs=1e-5)
    assert score.n_forward == 3 * (min(n_regions, 6) + 1)


def test_larger_drops_are_better_and_said_to_be_where_quantus_labels_them_lower(
    linear, inputs, contributions, explained
):
    right, settings = contributions.float(), {"patch_px": 2, **EXACT}
    good, bad = (region_perturbation(linear, inputs, explained(sign * right), **settings) for sign in (1, -1))
    assert good.direction == "up"
    assert (good.value > bad.value).all()


def test_selectivity_is_deletion_patch_by_patch(linear, inputs, contributions, explained):
    explanation = explained(contributions.float())
    score = selectivity(linear, inputs, explanation, patch_px=4, **EXACT)  # 2 × 2 patches
    torch.testing.assert_close(score.value, deletion(linear, inputs, explanation, grid=(2, 2), **EXACT).value)
    for value, c in zip(score.value.tolist(), contributions, strict=True):
        falling = sums(c, cells((6, 8), (2, 2)))
        assert value == pytest.approx(trapezoid([sum(falling[k:]) for k in range(5)]), abs=1e-5)
    assert score.direction == "down"
    clean = contributions.flatten(1).sum(1).float()
    share = torch.where(clean > 0, score.value / clean, torch.nan)
    torch.testing.assert_close(score.extras["normalised"], share, equal_nan=True)


def test_where_all_contribute_equally_every_order_loses_half(linear, inputs, explained, random_maps):
    linear.weight.data = 1 / inputs[0]
    explanation, one = explained(random_maps(1)), inputs[:1]
    assert region_perturbation(linear, one, explanation, patch_px=2, **EXACT).value.item() == pytest.approx(24)
    assert selectivity(linear, one, explanation, patch_px=2, **EXACT).value.item() == pytest.approx(24)
    assert irof(linear, one, explanation, **EXACT).value.item() == pytest.approx(0.5)
    gain = road(linear, one, explanation, **EXACT)
    assert gain.value.item() == pytest.approx(0, abs=1e-4)
    assert gain.stderr.item() == pytest.approx(0, abs=1e-4)


@pytest.mark.parametrize(("kind", "after_one"), [("and", 0.0), ("or", 1.0)])
def test_one_half_gone_is_all_gone_for_and_nothing_for_or(explained, random_maps, kind, after_one):
    ones, explanation, halves = torch.ones(1, 1, 6, 8), explained(random_maps(1)), {"grid": (1, 2), **EXACT}
    assert selectivity(Both(kind), ones, explanation, **halves).value.item() == pytest.approx((0.5 + after_one) / 2)
    fell = region_perturbation(Both(kind), ones, explanation, **halves).value.item()
    assert fell == pytest.approx((1 - after_one + 1) / 3)
    segments = cells((6, 8), (1, 2))[None]
    value = irof(Both(kind), ones, explanation, segments=segments, **EXACT).value.item()
    assert value == pytest.approx(1 - (0.5 + after_one) / 2)


@pytest.fixture
def uneven():
    """Label maps of 12, 3 and 5 segments, some larger than others, on 6 × 8 pixels."""
    fine = cells((6, 8), (3, 4))
    return torch.stack([fine, fine // 5 + 7, (fine - 7).clamp(min=0)])


def test_irof_of_a_linear_model_has_a_closed_form_where_segments_go_by_their_mean(linear, inputs, explained, uneven):
    linear.weight.data = linear.weight.abs() / inputs.abs().sum(0)
    images = inputs.abs()
    contributions = (linear.weight * images).detach()[:, 0]
    score = irof(linear, images, explained(contributions.float()), segments=uneven, **EXACT)
    for value, c, labels in zip(score.value.tolist(), contributions, uneven, strict=True):
        parts = [c[labels == name] for name in labels.unique()]
        falling = [float(part.sum()) for part in sorted(parts, key=lambda part: -float(part.mean()))]
        curve = [sum(falling[k:]) / sum(falling) for k in range(len(falling) + 1)]
        assert value == pytest.approx(1 - trapezoid(curve), abs=1e-5)
    assert score.direction == "up"
    assert score.n_forward == 3 * 13


def test_irof_of_an_image_does_not_depend_on_the_segments_of_others(cnn, images, explained, random_maps):
    fine = cells((14, 18), (4, 5))
    labels, maps = torch.stack([fine, fine // 3, fine // 7]), random_maps(3, (14, 18))
    together = irof(cnn, images, explained(maps, 1), segments=labels)
    for index in range(3):
        one = slice(index, index + 1)
        alone = irof(cnn, images[one], explained(maps[one], 1), segments=labels[one])
        torch.testing.assert_close(alone.value, together.value[one])


def test_irof_takes_superpixels_of_an_rgb_image_where_quantus_asserts(cnn, images, explained, random_maps):
    segmentation = pytest.importorskip("skimage.segmentation")
    slic = [segmentation.slic(image.permute(1, 2, 0).double().numpy(), n_segments=20) for image in images]
    segments = torch.stack([torch.from_numpy(labels) for labels in slic])
    score = irof(cnn, images, explained(random_maps(3, (14, 18)), 1), segments=segments)
    assert score.valid.all()


def test_irof_has_no_meaning_where_the_score_is_not_positive(linear, inputs, explained, contributions):
    score = irof(linear, inputs, explained(contributions.float()), **EXACT)
    signs = (contributions.flatten(1).sum(1) > 0).tolist()
    assert list(score.reason) == ["" if sign else "score_not_positive" for sign in signs]
    assert len(set(signs)) == 2


def slow_road(model, image, heatmap, fractions, target):
    """Mean probabilities, pixels imputed one image at a time: most important first, least important first."""
    h, w = heatmap.shape
    ascending, means = heatmap.flatten().argsort().tolist(), []
    for order in (ascending[::-1], ascending):
        seen = []
        for fraction in fractions:
            keep = torch.ones(h * w, dtype=torch.bool)
            keep[order[: round(fraction * h * w)]] = False
            filled = impute(image[None], keep.view(1, h, w), noise=0.01)
            seen.append(float(model(filled).softmax(1)[0, target]))
        means.append(sum(seen) / len(seen))
    return means


def test_road_ranks_pixels_of_rgb_images_and_scores_each_one_where_quantus_does_neither(
    cnn, images, explained, random_maps
):
    maps, fractions = random_maps(3, (14, 18)), (0.2, 0.5, 0.8)
    explanation = explained(maps, 1)
    found = {
        order: road(cnn, images, explanation, order=order, fractions=fractions) for order in ("morf", "lerf", "gain")
    }
    with torch.no_grad():
        slow = [slow_road(cnn, image, heatmap, fractions, 1) for image, heatmap in zip(images, maps, strict=True)]
    morf, lerf = torch.tensor(slow).T
    torch.testing.assert_close(found["morf"].value, morf, atol=1e-4, rtol=1e-3)
    torch.testing.assert_close(found["lerf"].value, lerf, atol=1e-4, rtol=1e-3)
    torch.testing.assert_close(found["gain"].value, lerf - morf, atol=2e-4, rtol=1e-3)
    assert [found[order].direction for order in found] == ["down", "up", "up"]
    assert [found[order].chance for order in found] == [None, None, 0.0]


def test_road_finds_the_patch_that_a_colour_detector_sees(explained):
    class Red(nn.Module):
        def forward(self, x):
            red = x[:, 0].flatten(1).mean(1)
            return torch.stack([20 * red, torch.ones_like(red)], 1)

    images = torch.rand(2, 3, 12, 16, generator=torch.Generator().manual_seed(0)) * 0.1
    images[:, 0, 3:8, 5:10] = 1
    right, wrong = images[:, 0], images[:, 2]
    good, bad = (road(Red(), images, explained(maps)) for maps in (right, wrong))
    assert (good.value > 3 * good.stderr).all()
    assert (good.value > bad.value + 0.2).all()


def test_road_under_the_margin_reads_whether_the_target_is_still_predicted(cnn, images, explained, random_maps):
    score = road(cnn, images, explained(random_maps(3, (14, 18)), 1), score="margin", fractions=(0.3, 0.6))
    for name in ("most_first", "least_first"):
        assert score.extras[f"{name}_predicted"].equal((score.extras[name] > 0).float())


def test_a_random_ranking_gains_nothing_and_the_error_says_how_far_it_may_stray(linear, explained, random_maps):
    many = torch.randn(300, 1, 6, 8, generator=torch.Generator().manual_seed(4), dtype=torch.float64)
    score = road(linear, many, explained(random_maps(300)), **EXACT)
    assert abs(score.mean) < 3 * score.error
    assert (score.value.abs() > 3 * score.stderr).float().mean() < 0.05
    assert score.stderr.square().mean().sqrt() == pytest.approx(float(score.value.std()), rel=0.08)


def test_luck_over_fractions_everywhere_is_that_of_the_whole_curve():
    everywhere = [(place + 0.5) / 1000 for place in range(1000)]
    assert part_of_luck(everywhere) == pytest.approx(2 / 3, abs=1e-3)
    assert part_of_luck([0.5]) == pytest.approx(2)  # var d(1/2) = 1, twice the mean


@pytest.mark.parametrize("order", ["gain", "morf", "lerf"])
@pytest.mark.parametrize("grid", [None, (3, 4)])
def test_road_declares_its_passes(cnn, images, explained, random_maps, order, grid):
    settings = {"order": order, "fractions": (0.1, 0.12, 0.5), "grid": grid}
    score = road(cnn, images, explained(random_maps(3, (14, 18)), 1), **settings)
    assert score.n_forward == 3 * find_method("road", "evaluate").cost(settings, images.shape).forward


@pytest.mark.parametrize("fault", ["constant_map", "not_finite"])
@pytest.mark.parametrize("metric", METRICS)
def test_a_map_that_cannot_be_ranked_has_a_reason_and_no_value(metric, cnn, images, explained, random_maps, fault):
    maps = random_maps(3, (14, 18))
    maps[1] = 0.3 if fault == "constant_map" else maps[1].index_fill(0, torch.tensor([0]), torch.nan)
    score = metric(cnn, images, explained(maps, 1))
    assert score.reason == ("", fault, "")
    assert score.valid.tolist() == [True, False, True]


@pytest.mark.parametrize("metric", METRICS)
def test_maps_of_any_shape_are_scored_the_same_alone_and_together(metric, cnn, explained, random_maps):
    images = torch.randn(2, 3, 13, 10, generator=torch.Generator().manual_seed(0))
    explanation = attribute.saliency(cnn, images)
    together = metric(cnn, images, explanation)
    alone = metric(cnn, images[1:], explanation[1])
    torch.testing.assert_close(alone.value, together.value[1:], atol=1e-5, rtol=1e-4)


BAD = [
    (region_perturbation, {"patch_px": 0}, "patch_px"),
    (region_perturbation, {"n_regions": 0}, "n_regions"),
    (selectivity, {"patch_px": 0}, "patch_px"),
    (irof, {"segments": torch.zeros(3, 2, 2, dtype=torch.long)}, "segments"),
    (road, {"fractions": ()}, "fractions"),
    (road, {"fractions": (0.5, 1.0)}, "fractions"),
    (road, {"grid": Elements((3, 14, 18))}, "whole pixels"),
]


@pytest.mark.parametrize(("metric", "settings", "word"), BAD)
def test_what_makes_no_sense_is_refused(cnn, images, metric, settings, word):
    with pytest.raises(BadInput, match=word):
        metric(cnn, images, attribute.input_x_gradient(cnn, images, 1), **settings)
