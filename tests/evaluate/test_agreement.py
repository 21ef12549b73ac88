"""Correlations, their errors, and structural similarity, derived a second time."""

import math

import numpy as np
import pytest
import torch

from glasshouse.evaluate.agreement import correlation, cosine, mean_ranks, spearman, ssim


def rows(n, m, seed=0):
    return torch.randn(2, n, m, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_correlation_is_numpys():
    x, y = rows(4, 30)
    value, _ = correlation(x + 1e3, y * 1e-4 + x * 5e-5, 0)
    expected = [np.corrcoef(a, b)[0, 1] for a, b in zip((x + 1e3).numpy(), (y * 1e-4 + x * 5e-5).numpy(), strict=True)]
    assert value.tolist() == pytest.approx(expected, abs=1e-9)


def test_equal_values_share_their_rank():
    assert mean_ranks(torch.tensor([[3.0, 1.0, 3.0, 2.0, 3.0]])).tolist() == [[3, 0, 3, 1, 3]]


def test_the_bootstrap_error_is_the_spread_of_repeated_draws():
    x, y = rows(400, 60)
    value, stderr = correlation(x, y, 0)
    assert float(stderr.mean()) == pytest.approx(float(value.std()), rel=0.1)
    assert float(stderr.mean()) == pytest.approx(1 / math.sqrt(59), rel=0.1)


def test_neighbours_that_repeat_each_other_do_not_shrink_the_error():
    x, y = rows(20, 40)
    repeated = [each.repeat_interleave(9, 1) for each in (x, y)]
    blocks = torch.arange(40).repeat_interleave(9)
    value, stderr = correlation(*repeated, 0, blocks)
    torch.testing.assert_close(value, correlation(x, y, 0)[0])
    torch.testing.assert_close(stderr, correlation(x, y, 0)[1])


def test_a_row_that_does_not_vary_has_no_correlation():
    x, y = rows(2, 20)
    x[1] = 0.1
    value, _ = correlation(x, y, 0)
    assert value.isnan().tolist() == [False, True]


def test_rank_correlation_ignores_any_rising_function():
    maps = rows(2, 12 * 10)[0].view(2, 12, 10).float()
    value, stderr = spearman(maps, maps.exp(), 0, (4, 5))
    torch.testing.assert_close(value, torch.ones(2, dtype=torch.float64))
    assert (stderr < 1e-6).all()


def test_similarity_of_a_map_with_itself_is_one():
    maps = rows(2, 12 * 10)[0].view(2, 12, 10).float()
    torch.testing.assert_close(ssim(maps, 3 * maps), torch.ones(2, dtype=torch.float64))
    torch.testing.assert_close(cosine(maps, -2 * maps), -torch.ones(2, dtype=torch.float64))


@pytest.mark.parametrize("scale", [1e-30, 1e-12, 1e12])
def test_similarity_does_not_depend_on_the_size_of_the_values(scale):
    first, second = (each.view(2, 12, 10).float() for each in rows(2, 12 * 10))
    for alike in (cosine, ssim):
        torch.testing.assert_close(alike(scale * first, second), alike(first, second), rtol=1e-5, atol=1e-5)
    assert cosine(0 * first, second).tolist() == [0, 0]


def test_structural_similarity_equals_a_loop_over_windows():
    first, second = (each.view(7, 6) for each in rows(1, 42)[:, 0])
    x, y = (np.pad((m / m.abs().max()).numpy(), 5, mode="edge") for m in (first, second))
    tap = np.exp(-0.5 * (np.arange(-5, 6) / 1.5) ** 2)
    window = np.outer(tap, tap) / tap.sum() ** 2
    extent = max(x.max(), y.max()) - min(x.min(), y.min())
    one, two = (0.01 * extent) ** 2, (0.03 * extent) ** 2
    values = []
    for row in range(7):
        for col in range(6):
            a, b = x[row : row + 11, col : col + 11], y[row : row + 11, col : col + 11]
            ma, mb = (window * a).sum(), (window * b).sum()
            va, vb = (window * (a - ma) ** 2).sum(), (window * (b - mb) ** 2).sum()
            both = (window * (a - ma) * (b - mb)).sum()
            values.append((2 * ma * mb + one) * (2 * both + two) / ((ma**2 + mb**2 + one) * (va + vb + two)))
    assert float(ssim(first[None].float(), second[None].float())) == pytest.approx(np.mean(values), abs=1e-6)
