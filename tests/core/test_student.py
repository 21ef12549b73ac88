"""Student's t beside SciPy, closed forms and the tables of textbooks."""

import math

import pytest

from glasshouse.core.stats.student import t_limit, t_within

FREEDOMS = (1, 2, 3, 5, 19, 100)


@pytest.mark.parametrize("freedom", FREEDOMS)
@pytest.mark.parametrize("level", [0.5, 0.9, 0.95, 0.99, 0.9995])
def test_limits_equal_those_of_scipy(level: float, freedom: int):
    stats = pytest.importorskip("scipy.stats")
    assert t_limit(level, freedom) == pytest.approx(stats.t.ppf((1 + level) / 2, freedom), rel=2e-4)


@pytest.mark.parametrize("t", [0.1, 1.0, 2.5, 30.0])
def test_one_and_two_degrees_have_closed_forms(t: float):
    assert t_within(t, 1) == pytest.approx(2 / math.pi * math.atan(t), abs=1e-9)
    assert t_within(t, 2) == pytest.approx(t / math.sqrt(2 + t * t), abs=1e-6)


def test_the_table_of_textbooks():
    assert [round(t_limit(0.95, freedom), 3) for freedom in (1, 4, 19)] == [12.706, 2.776, 2.093]


@pytest.mark.parametrize("freedom", FREEDOMS)
def test_probability_and_limit_are_inverse(freedom: int):
    for level in (0.1, 0.8, 0.975):
        assert t_within(t_limit(level, freedom), freedom) == pytest.approx(level, abs=1e-9)
