"""Removal curves against closed forms: models that add up, need everything, or need anything."""

from dataclasses import replace
from itertools import pairwise

import pytest
import torch
from torch import nn

from glasshouse import attribute, evaluate
from glasshouse.core import BadInput, find_method
from glasshouse.core.mask import cells
from glasshouse.evaluate.questions import Elements, Segments

EXACT = {"score": "logit", "baseline": 0.0, "grid": None, "n_steps": 48}


def trapezoid(curve):
    return sum((a + b) / 2 for a, b in pairwise(curve)) / (len(curve) - 1)


def test_deletion_of_a_linear_model_has_a_closed_form(linear, inputs, contributions, explained):
    score = evaluate.deletion(linear, inputs, explained(contributions.float()), **EXACT)
    for value, c in zip(score.value.tolist(), contributions.flatten(1).tolist(), strict=True):
        falling = sorted(c, reverse=True)
        assert value == pytest.approx(trapezoid([sum(falling[k:]) for k in range(49)]), abs=1e-5)


def test_insertion_of_a_linear_model_mirrors_deletion(linear, inputs, contributions, explained):
    explanation = explained(contributions.float())
    both = [metric(linear, inputs, explanation, **EXACT).value for metric in (evaluate.deletion, evaluate.insertion)]
    torch.testing.assert_close(both[0] + both[1], contributions.flatten(1).sum(1).float())


def test_gain_of_a_linear_model_is_twice_the_mean_partial_sum_less_the_total(linear, inputs, contributions, explained):
    score = evaluate.srg(linear, inputs, explained(contributions.float()), **{**EXACT, "grid": (6, 8)})
    for value, c in zip(score.value.tolist(), contributions.flatten(1).tolist(), strict=True):
        falling = sorted(c, reverse=True)
        partial = trapezoid([sum(falling[:k]) for k in range(49)])
        assert value == pytest.approx(2 * partial - sum(c), abs=1e-4)


def test_the_reverse_map_has_the_opposite_gain(linear, inputs, contributions, explained):
    gains = [evaluate.srg(linear, inputs, explained(s * contributions.float())).value for s in (1, -1)]
    torch.testing.assert_close(gains[0], -gains[1])


def test_where_all_contribute_equally_every_order_loses_half(linear, inputs, explained, random_maps):
    linear.weight.data = 1 / inputs[0]
    explanation = explained(random_maps(1))
    deletion = evaluate.deletion(linear, inputs[:1], explanation, **EXACT)
    gain = evaluate.srg(linear, inputs[:1], explanation, **{**EXACT, "n_steps": 8})
    assert deletion.value.item() == pytest.approx(48 / 2)
    assert gain.value.item() == pytest.approx(0, abs=1e-5)
    assert gain.stderr.item() == pytest.approx(0, abs=1e-5)


def test_a_random_ranking_gains_nothing_and_the_error_says_how_far_it_may_stray(linear, explained, random_maps):
    many = torch.randn(300, 1, 6, 8, generator=torch.Generator().manual_seed(4), dtype=torch.float64)
    score = evaluate.srg(linear, many, explained(random_maps(300)), n_steps=8, score="logit", baseline=0.0)
    assert abs(score.mean) < 3 * score.error
    assert (score.value.abs() > 3 * score.stderr).float().mean() < 0.05
    assert score.stderr.square().mean().sqrt() == pytest.approx(float(score.value.std()), rel=0.08)


class Gate(nn.Module):
    """Sure of class 0 if all pixels are there ("and"), or if any is ("or")."""

    def __init__(self, kind: str):
        super().__init__()
        self.kind = kind

    def forward(self, x):
        there = (x > 0.5).flatten(1)
        fires = there.all(1) if self.kind == "and" else there.any(1)
        return torch.where(fires, 50.0, -50.0)[:, None] * torch.tensor([1.0, 0.0])


def test_a_model_that_any_missing_pixel_kills_has_no_area(explained, random_maps):
    score = evaluate.deletion(Gate("and"), torch.ones(1, 1, 6, 8), explained(random_maps(1)), n_steps=48)
    assert score.value.item() == pytest.approx(0.5 / 48)


def test_a_model_that_any_pixel_satisfies_fills_the_area(explained, random_maps):
    score = evaluate.insertion(
        Gate("or"), torch.ones(1, 1, 6, 8), explained(random_maps(1)), n_steps=48, baseline="mean"
    )
    assert score.value.item() == pytest.approx(1 - 0.5 / 48)


def test_curves_begin_and_end_at_the_clean_and_the_empty_image(cnn, images, explained, random_maps):
    explanation = explained(random_maps(3, (14, 18)), 2)
    with torch.no_grad():
        clean, empty = (cnn(x).softmax(1)[:, 2] for x in (images, torch.zeros_like(images)))
    down = evaluate.deletion(cnn, images, explanation, n_steps=7).extras["curve"]
    up = evaluate.insertion(cnn, images, explanation, n_steps=7, baseline="mean").extras["curve"]
    for start, end in ((down[:, 0], down[:, -1]), (up[:, -1], up[:, 0])):
        torch.testing.assert_close(start, clean, atol=1e-6, rtol=1e-5)
        torch.testing.assert_close(end, empty, atol=1e-6, rtol=1e-5)


def test_the_papers_step_is_224_pixels_at_224(cnn, explained, random_maps):
    settings = evaluate.deletion(cnn, torch.randn(1, 3, 14, 18), explained(random_maps(1, (14, 18)), 0)).settings
    assert settings["n_steps"] == 224
    assert 224 * 224 // settings["n_steps"] == 224


def test_few_pixels_make_few_steps(linear, inputs, contributions, explained):
    score = evaluate.deletion(linear, inputs, explained(contributions.float()))
    assert score.n_forward == 3 * 49


@pytest.mark.parametrize("fault", ["constant_map", "not_finite"])
def test_a_map_that_cannot_be_ranked_has_a_reason_and_no_value(linear, inputs, contributions, explained, fault):
    maps = contributions.float()
    maps[1] = 0.3 if fault == "constant_map" else maps[1].index_fill(0, torch.tensor([0]), torch.nan)
    alone = replace(explained(maps[:1]))
    for metric in (evaluate.deletion, evaluate.insertion, evaluate.srg):
        score = metric(linear, inputs, explained(maps))
        assert score.reason == ("", fault, "")
        assert score.valid.tolist() == [True, False, True]
        torch.testing.assert_close(score.value[:1], metric(linear, inputs[:1], alone).value)


def test_a_model_without_a_number_has_a_reason(linear, inputs, contributions, explained):
    class Breaks(nn.Module):
        def forward(self, x):
            return linear(x) / (x != 0).flatten(1).all(1, keepdim=True)

    score = evaluate.deletion(Breaks(), inputs, explained(contributions.float()))
    assert set(score.reason) == {"score_not_finite"}


def test_a_target_of_ones_own_must_be_passed_again(linear, inputs, contributions, explained):
    explanation = explained(contributions.float(), None)
    assert set(evaluate.srg(linear, inputs, explanation).reason) == {"custom_target"}
    known = evaluate.srg(linear, inputs, explanation, target=0)
    assert known.value.equal(evaluate.srg(linear, inputs, explained(contributions.float())).value)


@pytest.mark.parametrize(
    "call", [lambda **k: evaluate.deletion(n_steps=0, **k), lambda **k: evaluate.srg(n_steps=0, **k)]
)
def test_too_few_steps_are_refused(linear, inputs, contributions, explained, call):
    with pytest.raises(BadInput, match="n_steps"):
        call(model=linear, inputs=inputs, explanation=explained(contributions.float()))


def test_the_area_is_also_given_as_a_share_of_the_clean_score_where_that_is_above_0(
    linear, inputs, contributions, explained
):
    clean = contributions.flatten(1).sum(1).float()
    assert len(set((clean > 0).tolist())) == 2
    for metric in (evaluate.deletion, evaluate.insertion):
        score = metric(linear, inputs, explained(contributions.float()), **EXACT)
        share = [area / whole if whole > 0 else torch.nan for area, whole in zip(score.value, clean, strict=True)]
        torch.testing.assert_close(score.extras["normalised"], torch.tensor(share), equal_nan=True)
        assert score.valid.all()


@pytest.fixture
def uneven():
    """Label maps of 12, 3 and 6 segments on 6 × 8 pixels."""
    fine = cells((6, 8), (3, 4))
    return torch.stack([fine, fine // 4 + 7, fine // 2])


CURVES = [
    (evaluate.deletion, {"n_steps": 5}),
    (evaluate.deletion, {}),
    (evaluate.insertion, {"n_steps": 4}),
    (evaluate.srg, {"n_steps": 4}),
    (evaluate.srg, {"n_steps": 40}),
]


@pytest.mark.parametrize(("metric", "settings"), CURVES)
def test_segments_that_are_cells_give_the_curves_of_cells(linear, inputs, contributions, explained, metric, settings):
    explanation, labels = explained(contributions.float()), cells((6, 8), (3, 4)).expand(3, 6, 8)
    one = metric(linear, inputs, explanation, grid=(3, 4), **settings)
    two = metric(linear, inputs, explanation, grid=Segments.of(labels), **settings)
    torch.testing.assert_close(one.value, two.value)
    torch.testing.assert_close(one.extras["fraction"], two.extras["fraction"])


def test_segments_of_other_images_are_refused(linear, inputs, contributions, explained):
    explanation, labels = explained(contributions.float()), torch.arange(48).view(1, 6, 8)
    for wrong in (labels.expand(2, 6, 8), labels[:, :5].expand(3, 5, 8)):
        for metric in (evaluate.deletion, evaluate.insertion, evaluate.srg):
            with pytest.raises(BadInput, match="not of these maps"):
                metric(linear, inputs, explanation, grid=Segments.of(wrong))


@pytest.mark.parametrize(("metric", "settings"), CURVES)
def test_an_image_of_few_segments_scores_the_same_beside_one_of_many(
    linear, inputs, contributions, explained, uneven, metric, settings
):
    maps = contributions.float()
    together = metric(linear, inputs, explained(maps), grid=Segments.of(uneven), **settings)
    for index in range(3):
        one = slice(index, index + 1)
        alone = metric(linear, inputs[one], explained(maps[one]), grid=Segments.of(uneven[one]), **settings)
        torch.testing.assert_close(alone.value, together.value[one])
        torch.testing.assert_close(alone.stderr, together.stderr[one])


def test_deletion_by_segments_has_a_closed_form(linear, inputs, contributions, explained, uneven):
    settings = {"score": "logit", "baseline": 0.0, "grid": Segments.of(uneven)}
    score = evaluate.deletion(linear, inputs, explained(contributions.float()), **settings)
    for value, c, labels in zip(score.value.tolist(), contributions, uneven, strict=True):
        falling = sorted((float(c[labels == name].sum()) for name in labels.unique()), reverse=True)
        curve = [sum(falling[k:]) for k in range(len(falling) + 1)]
        assert value == pytest.approx(trapezoid(curve), abs=1e-5)


def test_single_values_of_an_rgb_image_are_removed_one_by_one(linear, explained):
    weight = torch.randn(3, 6, 8, generator=torch.Generator().manual_seed(5))
    linear.weight.data = weight.double()
    images = torch.randn(2, 3, 6, 8, generator=torch.Generator().manual_seed(6), dtype=torch.float64)
    explanation = attribute.input_x_gradient(linear, images, 0)
    score = evaluate.deletion(
        linear, images, explanation, n_steps=144, score="logit", baseline=0.0, grid=Elements((3, 6, 8))
    )
    for value, c in zip(score.value.tolist(), (weight * images).flatten(1).tolist(), strict=True):
        falling = sorted(c, reverse=True)
        assert value == pytest.approx(trapezoid([sum(falling[k:]) for k in range(145)]), abs=1e-4)
    with pytest.raises(BadInput, match="not one for each element"):
        evaluate.deletion(linear, images, explained(torch.randn(2, 6, 8)), grid=Elements((3, 6, 8)))


@pytest.mark.parametrize("name", ["deletion", "insertion", "srg"])
@pytest.mark.parametrize("grid", [None, (1, 2), (3, 4), Segments.of(cells((6, 8), (3, 4)).expand(3, 6, 8))], ids=str)
def test_passes_are_declared_for_every_kind_of_feature(linear, inputs, contributions, explained, name, grid):
    info, settings = find_method(name, "evaluate"), {"grid": grid} if name == "srg" else {"grid": grid, "n_steps": 7}
    score = info.function(linear, inputs, explained(contributions.float()), **settings)
    declared = info.cost(settings, inputs.shape).forward
    if grid == (1, 2):  # so few sets that random ones repeat each other
        assert score.n_forward <= 3 * declared
    else:
        assert score.n_forward == 3 * declared


def test_equal_segments_are_ordered_by_chance_and_not_by_what_other_images_have(cnn, images, explained):
    fine = cells((14, 18), (5, 6))
    labels, maps = torch.stack([fine // 7, fine, fine // 2]), torch.zeros(3, 14, 18)
    maps[:, 3:5, 4:7] = 1.0  # most segments hold nothing
    settings = [{"n_steps": 6}, {"n_steps": 6, "seed": 1}]
    for metric in (evaluate.deletion, evaluate.srg):
        both = [metric(cnn, images, explained(maps, 1), grid=Segments.of(labels), **chosen) for chosen in settings]
        assert not both[0].value.equal(both[1].value)
        for index in range(3):
            one = slice(index, index + 1)
            alone = metric(cnn, images[one], explained(maps[one], 1), grid=Segments.of(labels[one]), **settings[0])
            torch.testing.assert_close(alone.value, both[0].value[one])
            torch.testing.assert_close(alone.stderr, both[0].stderr[one])
