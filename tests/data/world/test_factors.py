"""Factors: how they are drawn, numbered, fixed and tied together."""

import math
from dataclasses import dataclass

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from glasshouse.core.errors import BadInput, NotFound
from glasshouse.data.world.factors import Copula, Factor, Grid, Joint, draw_factors, find, grid_of
from glasshouse.data.world.presets import PRESETS

MANY = torch.arange(12_000)
NOISE = 4 / math.sqrt(len(MANY))


def schema() -> dict[str, Factor]:
    factors = (
        Factor("sky", ("sun", "moon", "cloud"), weights=(3.0, 1.0, 1.0)),
        Factor("ground", ("sand", "snow")),
        Factor("size", low=2.0, high=6.0),
        Factor("hue"),
    )
    return {factor.name: factor for factor in factors}


def excess(counts: torch.Tensor, shares: torch.Tensor) -> float:
    """χ² in standard deviations above its mean."""
    expected = shares.double() / shares.sum() * counts.sum()
    freedom = counts.numel() - 1
    return float(((counts - expected).square() / expected).sum() - freedom) / math.sqrt(2 * freedom)


@pytest.mark.parametrize("preset", PRESETS)
def test_every_factor_follows_its_weights_or_fills_its_range_evenly(preset):
    factors = {factor.name: factor for factor in PRESETS[preset].schema(1)}
    drawn = draw_factors(factors, MANY, 5)
    for name, factor in factors.items():
        if factor.values:
            counts = drawn[name].bincount(minlength=len(factor.values))
            shares = torch.tensor(factor.weights or [1.0] * len(factor.values))
        else:
            counts, shares = torch.histc(drawn[name], 20, factor.low, factor.high), torch.ones(20)
            assert factor.low <= drawn[name].min()
            assert drawn[name].max() <= factor.high
        assert excess(counts.double(), shares) < 4.5, name


@pytest.mark.parametrize("preset", PRESETS)
def test_factors_are_independent(preset):
    factors = {factor.name: factor for factor in PRESETS[preset].schema(1)}
    drawn = torch.stack([value.double() for value in draw_factors(factors, MANY, 5).values()])
    correlation = torch.corrcoef(drawn) - torch.eye(len(drawn))
    assert correlation.abs().max() < 5 / math.sqrt(len(MANY))


def test_a_factor_that_is_added_leaves_the_others_as_they_were():
    more = {"new": Factor("new"), **schema()}
    before, after = draw_factors(schema(), MANY, 1), draw_factors(more, MANY, 1)
    assert all(torch.equal(before[name], after[name]) for name in before)


sizes = st.lists(st.integers(1, 5), max_size=5)


@settings(deadline=None)
@given(sizes)
def test_a_grid_numbers_every_combination_once(levels):
    names = ("a", "b", "c", "d", "e")
    factors = {name: Factor(name) for name in names}
    grid = grid_of(factors, dict(zip(names, levels, strict=False)))
    number = torch.arange(len(grid))
    rows = grid.levels(number)
    assert len(grid) == math.prod(levels)
    assert len({tuple(row) for row in rows.tolist()}) == len(grid)
    assert ((rows >= 0) & (rows < torch.tensor(grid.sizes, dtype=torch.long))).all()
    assert torch.equal(grid.index(rows), number)


def test_the_last_factor_of_a_grid_runs_fastest_and_numbers_are_taken_at_middles():
    grid = grid_of(schema(), {"sky": 0, "size": 2})
    assert grid.sizes == (3, 2)
    values = grid.values(torch.arange(6))
    assert values["sky"].tolist() == [0, 0, 1, 1, 2, 2]
    assert values["size"].tolist() == [3, 5, 3, 5, 3, 5]
    assert grid_of(schema(), ["ground", "hue"]).sizes == (2, 5)


def test_a_grid_refuses_numbers_and_sizes_it_does_not_have():
    grid = grid_of(schema(), ["ground"])
    for number in (-1, 2):
        with pytest.raises(BadInput, match=r"0…1"):
            grid.levels(torch.tensor([number]))
    with pytest.raises(BadInput, match=r"'ground' has 2 values; 3 levels"):
        grid_of(schema(), {"ground": 3})
    with pytest.raises(BadInput, match=r"-1 levels"):
        grid_of(schema(), {"hue": -1})
    with pytest.raises(NotFound, match=r"no factor 'grund'.*'ground'"):
        grid_of(schema(), ["grund"])
    assert Grid((), ()).levels(torch.tensor([0])).shape == (1, 0)


@pytest.mark.parametrize(
    ("setting", "expected"),
    [("moon", [1, 1, 1]), (2, [2, 2, 2]), (torch.tensor([0, 2, 1]), [0, 2, 1]), (torch.tensor(1), [1, 1, 1])],
)
def test_a_fixed_factor_takes_a_name_a_number_or_a_tensor(setting, expected):
    drawn = draw_factors(schema(), torch.arange(3), 0, fixed={"sky": setting})
    assert drawn["sky"].tolist() == expected
    assert torch.equal(drawn["size"], draw_factors(schema(), torch.arange(3), 0)["size"])


def test_a_fixed_number_may_be_one_for_all_or_one_each():
    assert schema()["size"].encode(9.5, 3).tolist() == [9.5] * 3  # also outside of what is drawn
    assert schema()["size"].encode(torch.tensor([1.0, 2.0, 3.0]), 3).tolist() == [1, 2, 3]


@pytest.mark.parametrize(
    ("name", "setting", "error", "message"),
    [
        ("sky", "sum", NotFound, r"no value of 'sky' 'sum'.*'sun'"),
        ("sky", 3, BadInput, r"'sky' has 3 values"),
        ("sky", -1, BadInput, r"'sky' has 3 values"),
        ("sky", torch.tensor([0, 1]), BadInput, r"shape \(2,\) for 3 scenes"),
        ("sky", torch.zeros(3, 1, dtype=torch.long), BadInput, r"shape \(3, 1\)"),
        ("size", "large", NotFound, r"no value of 'size'"),
        ("size", math.nan, BadInput, r"'size'"),
        ("sise", 1.0, NotFound, r"no factor 'sise'.*'size'"),
    ],
)
def test_settings_that_do_not_fit_are_refused_by_name(name, setting, error, message):
    with pytest.raises(error, match=message):
        draw_factors(schema(), torch.arange(3), 0, fixed={name: setting})


def test_a_fraction_is_no_value_of_a_named_factor():
    with pytest.raises(BadInput, match=r"'sky'.*1\.5"):
        schema()["sky"].encode(1.5, 3)


def test_a_joint_table_is_reproduced_and_changes_no_other_factor():
    table = torch.tensor([[4.0, 0.0], [1.0, 1.0], [0.0, 2.0]])
    drawn = draw_factors(schema(), MANY, 2, together=[Joint(("sky", "ground"), table)])
    counts = (drawn["sky"] * 2 + drawn["ground"]).bincount(minlength=6)
    wanted = table.flatten()
    assert counts[wanted == 0].sum() == 0
    assert excess(counts[wanted > 0].double(), wanted[wanted > 0]) < 4
    assert torch.equal(drawn["size"], draw_factors(schema(), MANY, 2)["size"])


@pytest.mark.parametrize(
    "table", [torch.ones(2, 3), torch.ones(3), torch.zeros(3, 2), torch.tensor([[1.0, -1], [1, 1], [1, 1]])]
)
def test_a_table_that_does_not_fit_says_which_shape_does(table):
    with pytest.raises(BadInput, match=r"need \(3, 2\)"):
        draw_factors(schema(), MANY[:5], 0, together=[Joint(("sky", "ground"), table)])


@pytest.mark.parametrize("wanted", [-0.8, 0.0, 0.6])
def test_a_copula_gives_its_correlation_of_normal_scores_and_keeps_every_distribution(wanted):
    matrix = torch.tensor([[1.0, wanted, 0.0], [wanted, 1.0, 0.0], [0.0, 0.0, 1.0]])
    drawn = draw_factors(schema(), MANY, 3, together=[Copula(("size", "hue", "sky"), matrix)])
    scores = torch.stack([torch.special.ndtri((drawn["size"] - 2) / 4), torch.special.ndtri(drawn["hue"])])
    assert float(torch.corrcoef(scores)[0, 1]) == pytest.approx(wanted, abs=NOISE)
    assert excess(torch.histc(drawn["size"], 20, 2, 6).double(), torch.ones(20)) < 4
    assert excess(torch.histc(drawn["hue"], 20, 0, 1).double(), torch.ones(20)) < 4
    assert excess(drawn["sky"].bincount(minlength=3).double(), torch.tensor([3.0, 1, 1])) < 4


@pytest.mark.parametrize(
    "matrix",
    [
        [[1.0, 1.2], [1.2, 1.0]],  # not positive definite
        [[2.0, 0.1], [0.1, 1.0]],  # a covariance
        [[1.0, 0.9], [0.1, 1.0]],  # not symmetric
        [[1.0, 0.0, 0.0], [0.0, 1.0, 0.0], [0.0, 0.0, 1.0]],  # of three factors
    ],
)
def test_what_is_no_correlation_matrix_is_refused(matrix):
    with pytest.raises(BadInput, match="correlation matrix"):
        draw_factors(schema(), MANY[:5], 0, together=[Copula(("size", "hue"), torch.tensor(matrix))])


@dataclass(frozen=True)
class Draws:
    seed: int
    n: int
    k: int


@settings(max_examples=30, deadline=None)
@given(st.builds(Draws, st.integers(0, 2**40), st.integers(1, 40), st.integers(1, 40)))
def test_the_first_draws_do_not_depend_on_how_many_there_are(case):
    groups = [
        Copula(("size", "hue"), torch.tensor([[1.0, 0.5], [0.5, 1.0]])),
        Joint(("sky", "ground"), torch.ones(3, 2)),
    ]
    few = draw_factors(schema(), torch.arange(min(case.n, case.k)), case.seed, together=groups)
    many = draw_factors(schema(), torch.arange(max(case.n, case.k)), case.seed, together=groups)
    for name, value in few.items():
        torch.testing.assert_close(value, many[name][: len(value)], rtol=0, atol=1e-12)


def test_unknown_names_list_the_nearest_factors():
    with pytest.raises(NotFound, match=r"no factor 'skye'.*'sky'"):
        find(schema(), "skye")
