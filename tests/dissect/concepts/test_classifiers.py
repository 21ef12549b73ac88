"""Linear classifiers: the optimum that scikit-learn finds, and the laws that make directions comparable."""

import pytest
import torch
from torch import Tensor

from glasshouse.dissect.concepts.classifiers import (
    LOSSES,
    apply,
    balanced,
    balanced_accuracy,
    coordinates,
    fit,
    principal,
    ranking,
)

N, D, B, L2 = 300, 8, 4, 0.02


@pytest.fixture(scope="module")
def samples() -> tuple[Tensor, Tensor, Tensor]:
    """Unequal axes, labels with noise, from common to rare, and the first 40 left out of learning."""
    seed = torch.Generator().manual_seed(0)
    x = torch.randn(N, D, generator=seed, dtype=torch.float64) * torch.linspace(0.1, 3, D) + 1
    noisy = x @ torch.randn(D, B, generator=seed, dtype=torch.float64) + torch.randn(N, B, generator=seed)
    used = torch.ones(B, N, dtype=torch.bool)
    used[:, :40] = False
    return x, (noisy > torch.linspace(0, 6, B)).T.contiguous(), used


@pytest.mark.parametrize("solver", sorted(LOSSES))
def test_the_optimum_is_that_of_scikit_learn(samples, solver):
    linear, svm = pytest.importorskip("sklearn.linear_model"), pytest.importorskip("sklearn.svm")
    x, positive, used = samples
    w, bias = fit(x[None], positive, used, solver, L2)
    scale = float((x - x.mean(0)).square().sum(1).mean().sqrt())
    given = ((x - x.mean(0)) / scale).numpy()
    for b in range(B):
        rows, sign = used[b].numpy(), torch.where(positive[b], 1.0, -1.0)[used[b]].numpy()
        weights = balanced(positive, used)[b].numpy()[rows]
        other = {
            "logistic": linear.LogisticRegression(C=1 / L2, tol=1e-10, max_iter=10_000),
            "ridge": linear.Ridge(alpha=L2),
            "svm": svm.LinearSVC(C=1 / (2 * L2), dual=False, tol=1e-12, max_iter=100_000, intercept_scaling=1e3),
        }[solver].fit(given[rows], sign, sample_weight=weights)
        torch.testing.assert_close(w[b] * scale, torch.tensor(other.coef_).flatten(), rtol=1e-4, atol=1e-5)
        score = (x @ w[b] + bias[b])[used[b]].numpy()
        told = other.predict(given[rows]) if solver == "ridge" else other.decision_function(given[rows])
        assert abs(score - told).max() < 1e-3


def test_the_mean_difference_decides_half_way_between_the_means(samples):
    x, positive, used = samples
    w, bias = fit(x[None], positive, used, "mean_difference")
    for b in range(B):
        one, other = x[used[b] & positive[b]].mean(0), x[used[b] & ~positive[b]].mean(0)
        torch.testing.assert_close(w[b], one - other)
        torch.testing.assert_close(bias[b], -(one - other) @ (one + other) / 2)


@pytest.mark.parametrize("solver", [*sorted(LOSSES), "mean_difference"])
def test_a_rotation_of_the_units_rotates_the_weights_and_a_scale_of_all_changes_nothing(samples, solver):
    x, positive, used = samples
    turn = torch.linalg.qr(torch.randn(D, D, generator=torch.Generator().manual_seed(1), dtype=torch.float64)).Q
    w, bias = fit(x[None], positive, used, solver, L2)
    turned, turned_bias = fit((7 * x @ turn)[None], positive, used, solver, L2)
    factor = 7 if solver == "mean_difference" else 1 / 7
    torch.testing.assert_close(turned, factor * w @ turn, rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(turned_bias, bias * (49 if solver == "mean_difference" else 1), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("solver", [*sorted(LOSSES), "mean_difference"])
def test_classifiers_do_not_influence_each_other_and_may_have_samples_of_their_own(samples, solver):
    x, positive, used = samples
    together = fit(x[None], positive, used, solver, L2)
    apart = fit(x.expand(B, -1, -1), positive, used, solver, L2)
    one = fit(x[None], positive[2:3], used[2:3], solver, L2)
    for shared, own in zip(together, apart, strict=True):
        torch.testing.assert_close(shared, own, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(together[0][2], one[0][0], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("shape", [(60, 5), (12, 40)])
def test_principal_axes_keep_all_inner_products_and_take_weights_back(shape):
    x = torch.randn(shape, generator=torch.Generator().manual_seed(2), dtype=torch.float64) + 3
    z, axes = principal(x)
    centred = x - x.mean(0)
    torch.testing.assert_close(z @ z.T, centred @ centred.T)
    w = torch.randn(3, z.shape[1], generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    w[:, 0] = 0  # of 12 centred samples one axis has nothing on it
    torch.testing.assert_close(centred @ (w @ axes).T, z @ w.T, rtol=1e-6, atol=1e-8)


def test_samples_from_their_inner_products_alone_even_where_some_are_equal():
    x = torch.randn(9, 30, generator=torch.Generator().manual_seed(4), dtype=torch.float64)
    x[5] = x[2]
    z, back = coordinates((x @ x.T)[None])
    torch.testing.assert_close(z[0] @ z[0].T, x @ x.T)
    w = z[0].T @ torch.arange(9.0, dtype=torch.float64)
    torch.testing.assert_close(x @ (x.T @ (back[0] @ w)), z[0] @ w)


def test_ranking_equals_counting_pairs_and_scikit_learns_precision():
    metrics = pytest.importorskip("sklearn.metrics")
    seed = torch.Generator().manual_seed(5)
    score, positive = torch.randint(0, 12, (80,), generator=seed).double(), torch.rand(80, generator=seed) > 0.7
    auc, precision = ranking(score, positive)
    pairs = score[positive][:, None] - score[~positive]
    assert auc == pytest.approx(float((pairs > 0).double().mean() + (pairs == 0).double().mean() / 2))
    assert precision == pytest.approx(metrics.average_precision_score(positive, score))
    assert all(value != value for value in ranking(score, torch.zeros(80, dtype=torch.bool)))


def test_accuracy_weighs_both_sides_alike_and_is_unknown_without_one_of_them():
    score = torch.tensor([[1.0, -1, -1, -1, 2], [1, 1, 1, 1, 1]], dtype=torch.float64)
    positive = torch.tensor([[True, True, False, False, False], [True] * 5])
    found = balanced_accuracy(score, positive, torch.ones(2, 5, dtype=torch.bool))
    assert float(found[0]) == pytest.approx((1 / 2 + 2 / 3) / 2)
    assert found[1].isnan()


def test_weighted_sums_are_the_same_for_shared_and_own_samples():
    x, w = torch.randn(1, 6, 3, dtype=torch.float64), torch.randn(4, 3, dtype=torch.float64)
    torch.testing.assert_close(apply(x, w), apply(x.expand(4, -1, -1), w))
