"""Removal curves against closed forms: models that add up, need everything, or need anything."""

from dataclasses import replace
from itertools import pairwise

import pytest
import torch
from torch import nn

from glasshouse import evaluate
from glasshouse.core import BadInput

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
    assert score.stderr.square().mean().sqrt() == pytest.approx(float(score.value.std()), rel=0.2)


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
