"""Completeness: exact where it must be, measured where it is missed, named where it is not claimed."""

from dataclasses import replace

import pytest
import torch

from glasshouse import attribute, evaluate


def test_integrated_gradients_of_a_linear_model_leave_no_gap(linear, inputs):
    explanation = attribute.integrated_gradients(linear, inputs, 0, baselines=0.5, n_steps=3)
    score = evaluate.completeness_gap(linear, inputs, explanation)
    assert float(score.value.max()) < 1e-6
    assert score.n_forward == 6


def test_the_gap_is_the_share_of_the_change_that_is_missed(linear, inputs):
    explanation = attribute.integrated_gradients(linear, inputs, 0, n_steps=3)
    short = replace(explanation, native=0.7 * explanation.native)
    torch.testing.assert_close(evaluate.completeness_gap(linear, inputs, short).value, torch.full((3,), 0.3))


def test_the_gap_agrees_with_what_the_method_measured(cnn, images):
    explanation = attribute.integrated_gradients(cnn, images, n_steps=3)
    ours = evaluate.completeness_gap(cnn, images, explanation)
    torch.testing.assert_close(ours.value, explanation.extras["gap"], atol=1e-4, rtol=1e-2)


def test_a_gap_that_the_method_measured_costs_nothing_more(cnn, images):
    explanation = attribute.integrated_gradients(cnn, images, n_steps=3)
    gap = evaluate.card(cnn, images, explanation, tier="free").scores["completeness_gap"]
    assert gap.n_forward == 0
    assert gap.value.equal(explanation.extras["gap"])


@pytest.mark.parametrize(
    ("explain", "reason"),
    [
        (attribute.saliency, "not_claimed"),
        (lambda m, x: replace(attribute.integrated_gradients(m, x), native=x[:, 0]), "layer_values"),
        (lambda m, x: attribute.integrated_gradients(m, x, baselines=torch.zeros_like(x[:1])), "baseline_not_kept"),
    ],
)
def test_where_there_is_nothing_to_compare_with_the_reason_says_so(cnn, images, explain, reason):
    score = evaluate.completeness_gap(cnn, images, explain(cnn, images))
    assert set(score.reason) == {reason}


@pytest.mark.parametrize("broken", [torch.nan, torch.inf])
def test_values_that_are_no_numbers_have_a_reason_and_harm_no_other(cnn, images, broken):
    explanation = attribute.integrated_gradients(cnn, images, n_steps=2)
    native = explanation.native.clone()
    native[1, 0, 2, 3] = broken
    score = evaluate.completeness_gap(cnn, images, replace(explanation, native=native))
    assert score.reason == ("", "not_finite", "")
    whole = evaluate.completeness_gap(cnn, images, explanation)
    assert score.value[::2].equal(whole.value[::2])


def test_a_score_that_does_not_change_has_no_relative_gap(linear, inputs):
    linear.weight.data.zero_()
    explanation = attribute.integrated_gradients(linear, inputs, 0, n_steps=2)
    assert set(evaluate.completeness_gap(linear, inputs, explanation).reason) == {"no_change"}
