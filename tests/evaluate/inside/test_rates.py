"""Exact limits beside scipy's beta distribution, tails beside its binomial."""

import math

import pytest
import torch
from scipy import stats

from glasshouse.core import BadInput
from glasshouse.evaluate.inside.rates import Rate, binomial_tail, bootstrap, clopper_pearson

COUNTS = [(0, 1), (1, 1), (0, 20), (1, 20), (9, 10), (10, 10), (90, 100), (481, 500), (3, 20_000), (19_999, 20_000)]


@pytest.mark.parametrize("level", [0.5, 0.95, 0.999])
@pytest.mark.parametrize(("hits", "total"), COUNTS)
def test_the_limits_are_quantiles_of_the_beta_distribution(hits, total, level):
    rest = (1 - level) / 2
    low = stats.beta.ppf(rest, hits, total - hits + 1) if hits else 0.0
    high = stats.beta.ppf(1 - rest, hits + 1, total - hits) if hits < total else 1.0
    assert clopper_pearson(hits, total, level) == pytest.approx((low, high), rel=1e-7, abs=1e-13)


@pytest.mark.parametrize(
    ("hits", "total", "share"), [(0, 5, 0.3), (6, 5, 0.3), (3, 5, 0.0), (3, 5, 1.0), (57, 90, 0.5)]
)
def test_tails_are_scipys(hits, total, share):
    assert binomial_tail(hits, total, share) == pytest.approx(stats.binom.sf(hits - 1, total, share), rel=1e-11)


def test_the_limits_hold_at_least_as_often_as_they_promise():
    for share in (0.03, 0.4, 0.9):
        held = sum(
            stats.binom.pmf(hits, 25, share)
            for hits in range(26)
            if clopper_pearson(hits, 25)[0] <= share <= clopper_pearson(hits, 25)[1]
        )
        assert held >= 0.95


def test_hits_and_misses_mirror_each_other():
    low, high = clopper_pearson(7, 30)
    assert clopper_pearson(23, 30) == pytest.approx((1 - high, 1 - low), abs=1e-12)


def test_a_rate_of_nothing_knows_nothing():
    assert math.isnan(Rate(0, 0).share)
    assert Rate(0, 0).interval == (0.0, 1.0)
    assert repr(Rate(0, 0)) == "Rate(of nothing)"


def test_a_rate_is_saved_and_shown(tmp_path):
    rate = Rate(9, 10)
    assert Rate.load(rate.save(tmp_path / "rate")) == rate
    assert repr(rate) == "Rate(0.900, 0.555…0.997, 9 of 10)"


def test_more_hits_than_trials_are_refused():
    with pytest.raises(BadInput, match="11 of 10"):
        clopper_pearson(11, 10)
    with pytest.raises(BadInput, match="level=95"):
        clopper_pearson(1, 10, 95.0)


def test_the_bootstrap_spreads_a_mean_as_theory_says():
    values = torch.randn(50, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    drawn = bootstrap(lambda rows: float(values[rows].mean()), 50, 0)
    assert float(drawn.std()) == pytest.approx(float(values.std(correction=0)) / math.sqrt(50), rel=0.1)
