"""Student's t beside SciPy, closed forms and the tables of textbooks."""

import math

import pytest

from glasshouse.core.stats.student import t_limit, two_sided


@pytest.mark.parametrize("df", [1.0, 2.0, 3.7, 9.0, 58.3, 499.0, 1e5])
def test_tails_equal_those_of_scipy_down_to_the_smallest(df: float):
    stats = pytest.importorskip("scipy.stats")
    for t in (0.0, 1e-3, 0.5, 1.0, 2.0, 5.0, 10.0, 40.0, 200.0):
        assert two_sided(t, df) == pytest.approx(float(2 * stats.t.sf(t, df)), rel=1e-9, abs=1e-280)
        assert two_sided(-t, df) == two_sided(t, df)


@pytest.mark.parametrize("t", [1e-8, 0.3, 1.0, 77.0])
def test_one_and_two_degrees_have_closed_forms(t: float):
    assert two_sided(t, 1.0) == pytest.approx(1 - 2 / math.pi * math.atan(t), rel=1e-12)
    assert two_sided(t, 2.0) == pytest.approx(1 - t / math.sqrt(2 + t * t), rel=1e-9)


@pytest.mark.parametrize("df", [1, 2, 3, 5, 19, 100])
@pytest.mark.parametrize("level", [0.5, 0.9, 0.95, 0.99, 0.9995])
def test_limits_equal_those_of_scipy(level: float, df: int):
    stats = pytest.importorskip("scipy.stats")
    assert t_limit(level, df) == pytest.approx(stats.t.ppf((1 + level) / 2, df), rel=1e-7)


def test_the_table_of_textbooks():
    assert [round(t_limit(0.95, df), 3) for df in (1, 4, 19)] == [12.706, 2.776, 2.093]
