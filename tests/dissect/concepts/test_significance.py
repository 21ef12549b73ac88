"""Welch's test beside SciPy's."""

import pytest
import torch

from glasshouse.dissect.concepts.significance import welch


def test_welch_equals_scipy():
    stats = pytest.importorskip("scipy.stats")
    seed = torch.Generator().manual_seed(0)
    one, other = torch.randn(3, 4, 12, generator=seed), 2 * torch.randn(3, 4, 30, generator=seed) + 1
    expected = stats.ttest_ind(one.double(), other.double(), axis=-1, equal_var=False).pvalue
    torch.testing.assert_close(welch(one, other), torch.tensor(expected), rtol=1e-8, atol=0)


def test_samples_that_do_not_vary_are_equal_or_not():
    ones, zeros = torch.ones(2, 5), torch.zeros(2, 5)
    assert welch(ones, ones).tolist() == [1, 1]
    assert welch(ones, zeros).tolist() == [0, 0]
