"""Draws by seed, name and index."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from glasshouse.data.world.chance import between, choice, uniform

MANY = torch.arange(20_000)


def chi_square(counts: torch.Tensor, shares: torch.Tensor) -> float:
    """Σ (seen − expected)² / expected, in standard deviations above its mean."""
    expected = shares.double() / shares.sum() * counts.sum()
    freedom = len(counts) - 1
    return float(((counts - expected).square() / expected).sum() - freedom) / math.sqrt(2 * freedom)


@pytest.mark.parametrize("seed", [0, 1, 2**62])
def test_draws_are_uniform(seed):
    drawn = uniform(MANY, seed, "hue")
    assert drawn.min() >= 0
    assert drawn.max() < 1
    assert chi_square(torch.histc(drawn, 50, 0, 1).double(), torch.ones(50)) < 4


@pytest.mark.parametrize(("seed", "name"), [(0, "x_2"), (1, "x"), (0, "y")])
def test_draws_of_other_names_and_seeds_are_independent(seed, name):
    one, other = uniform(MANY, 0, "x"), uniform(MANY, seed, name)
    assert abs(float(torch.corrcoef(torch.stack([one, other]))[0, 1])) < 4 / math.sqrt(len(MANY))
    cells = (one * 8).long() * 8 + (other * 8).long()
    assert chi_square(cells.bincount(minlength=64).double(), torch.ones(64)) < 4


def test_neighbouring_numbers_are_independent():
    drawn = uniform(MANY, 0, "x")
    assert abs(float(torch.corrcoef(torch.stack([drawn[1:], drawn[:-1]]))[0, 1])) < 4 / math.sqrt(len(MANY))


@settings(deadline=None, max_examples=40)
@given(st.integers(0, 2**63 - 1), st.lists(st.integers(0, 2**40), min_size=1, max_size=20))
def test_a_draw_depends_on_its_own_index_only(seed, numbers):
    together = uniform(torch.tensor(numbers), seed, "x")
    alone = torch.cat([uniform(torch.tensor([number]), seed, "x") for number in numbers])
    assert torch.equal(together, alone)


def test_between_keeps_to_its_range():
    drawn = between(MANY, 3, "x", -2, 5)
    assert -2 <= drawn.min() < -1.99
    assert 4.99 < drawn.max() < 5


def test_choices_come_as_often_as_their_weights_say_and_never_with_weight_zero():
    weights = torch.tensor([0.0, 3.0, 1.0, 0.0, 0.5, 0.0])
    counts = choice(MANY, 0, "kind", weights).bincount(minlength=6)
    assert counts[weights == 0].sum() == 0
    assert chi_square(counts[weights > 0].double(), weights[weights > 0]) < 4
