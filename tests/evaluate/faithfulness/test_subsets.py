"""Random sets: exact contributions of a linear model correlate perfectly, random maps do not."""

import pytest
import torch

from glasshouse import evaluate
from glasshouse.core import BadInput

METRICS = {
    "faithfulness_correlation": lambda *a, **k: evaluate.faithfulness_correlation(*a, subset_size=10, **k),
    "mu_fidelity": lambda *a, **k: evaluate.mu_fidelity(*a, grid=(6, 8), **k),
}
each = pytest.mark.parametrize("metric", METRICS.values(), ids=METRICS)


@each
@pytest.mark.parametrize("sign", [1, -1])
def test_exact_contributions_correlate_perfectly(linear, inputs, contributions, explained, metric, sign):
    score = metric(linear, inputs, explained(sign * contributions))
    torch.testing.assert_close(score.value, torch.full((3,), float(sign)), atol=1e-5, rtol=0)
    assert (score.stderr < 1e-4).all()


@each
def test_random_maps_correlate_by_chance_only(linear, explained, random_maps, metric):
    many = torch.randn(200, 1, 6, 8, generator=torch.Generator().manual_seed(4), dtype=torch.float64)
    score = metric(linear, many, explained(random_maps(200)), n_samples=64)
    assert abs(score.mean) < 3 * score.error
    assert (score.value.abs() > 3 * score.stderr).float().mean() < 0.05
    assert score.stderr.square().mean().sqrt() == pytest.approx(float(score.value.std()), rel=0.25)


def test_the_correlation_is_that_of_sums_and_drops(cnn, images, explained, random_maps):
    score = evaluate.faithfulness_correlation(cnn, images, explained(random_maps(3, (14, 18)), 1), n_samples=20)
    for row in range(3):
        pair = torch.stack([score.extras["sums"][row], score.extras["drops"][row]]).double()
        assert float(score.value[row]) == pytest.approx(float(torch.corrcoef(pair)[0, 1]), abs=1e-4)


def test_sums_and_drops_come_from_the_same_sets(linear, inputs, contributions, explained):
    extras = evaluate.faithfulness_correlation(linear, inputs, explained(contributions)).extras
    torch.testing.assert_close(extras["sums"], extras["drops"])


def test_sets_do_not_depend_on_the_map(cnn, images, explained, random_maps):
    maps = random_maps(9, (14, 18)).view(3, 3, 14, 18)
    answers = evaluate.Answers(cnn, images, 1)
    spent = [evaluate.mu_fidelity(cnn, images, explained(m, 1), answers=answers).n_forward for m in maps]
    assert spent == [3 * 201, 0, 0]


def test_a_model_that_ignores_the_image_has_no_correlation(linear, inputs, contributions, explained):
    linear.weight.data.zero_()
    assert set(evaluate.mu_fidelity(linear, inputs, explained(contributions)).reason) == {"constant_score"}


def test_a_map_with_equal_cells_has_no_correlation(linear, inputs, explained):
    checker = torch.tensor([[1.0, -1.0], [-1.0, 1.0]]).repeat(3, 3, 4)
    score = evaluate.mu_fidelity(linear, inputs, explained(checker), grid=(3, 4))
    assert set(score.reason) == {"constant_sums"}


@pytest.mark.parametrize("settings", [{"n_samples": 15}, {"fraction": 0.0}, {"fraction": 1.0}, {"grid": (7, 8)}])
def test_settings_that_leave_nothing_to_correlate_are_refused(linear, inputs, contributions, explained, settings):
    with pytest.raises(BadInput):
        evaluate.mu_fidelity(linear, inputs, explained(contributions), **settings)
