"""Lights: the share of maps that know nothing of a model whose score is lower."""

import math

import pytest
import torch

from glasshouse import evaluate
from glasshouse.core import Card, Score
from glasshouse.evaluate import calibration
from glasshouse.evaluate.calibration import ahead_of, light, reference, share_below, standing


def score(metric, values, stderr=0.1):
    value = torch.tensor(values)
    reason = tuple("" if v == v else "constant_map" for v in values)
    return Score(metric, value, torch.full_like(value, stderr), 0.0, "up", reason)


def test_shares_are_those_of_the_values_behind_the_quantiles():
    drawn = torch.randn(4000, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    quantiles = drawn.quantile(torch.linspace(0, 1, 21, dtype=torch.float64)).tolist()
    asked = torch.tensor([-9.0, -1.0, 0.0, 0.7, 9.0])
    counted = torch.tensor([(drawn < value).double().mean() for value in asked.tolist()])
    torch.testing.assert_close(share_below(quantiles, asked), counted, atol=0.01, rtol=0)


def test_the_least_share_over_the_kinds_of_map_counts(monkeypatch):
    monkeypatch.setattr(
        calibration, "reference", lambda: {"mu_fidelity": {"centre": [0.0, 1.0], "random": [-1.0, 0.0]}}
    )
    assert ahead_of(score("mu_fidelity", [0.5, -0.5, 2.0])) == pytest.approx((0.5, 0.0, 1.0))


def test_a_gain_counts_in_units_of_luck_on_its_own_image():
    assert standing(score("srg", [0.3], stderr=0.1)).tolist() == pytest.approx([3.0])
    assert standing(score("mu_fidelity", [0.3])).tolist() == pytest.approx([0.3])


def test_undefined_scores_and_metrics_without_a_reference_have_no_share():
    assert math.isnan(ahead_of(score("srg", [float("nan")]))[0])
    assert math.isnan(ahead_of(score("deletion", [0.3]))[0])


def test_the_words_follow_the_shares():
    assert [light(share) for share in (1.0, 0.95, 0.94, 0.5, 0.49, float("nan"))] == [
        *("good", "good", "fair", "fair", "poor", "unknown")
    ]
    card = Card("lite", {"srg": score("srg", [9.0, -9.0]), "entropy": score("entropy", [1.0, 1.0])}, ("", ""))
    assert evaluate.lights(card) == {"srg": ("good", "poor")}


def test_the_reference_knows_what_chance_and_a_strong_control_look_like():
    for metric, kinds in reference().items():
        assert set(kinds) == {"centre", "edges", "random"}
        assert all(list(q) == sorted(q) and len(q) == 21 for q in kinds.values())
        assert kinds["random"][10] < kinds["centre"][10], f"{metric}: noise does better than the centre"
        assert abs(kinds["random"][10]) < 0.5


def test_an_exact_map_of_a_linear_model_is_ahead_of_most_that_know_nothing(linear, explained):
    linear.weight.data = torch.linspace(-1, 2, 48, dtype=torch.float64).view(1, 6, 8) / 20
    bright = torch.ones(1, 1, 6, 8, dtype=torch.float64)
    exact = explained(linear.weight[0].detach().float()[None])
    gain = evaluate.srg(linear, bright, exact, baseline=0.0)
    assert ahead_of(gain)[0] > 0.9
