"""Random sets: exact contributions of a linear model correlate perfectly, random maps do not."""

from dataclasses import replace
from itertools import combinations

import pytest
import torch
from scipy.stats import spearmanr
from torch import nn

from glasshouse import evaluate
from glasshouse.core import BadInput, find_method
from glasshouse.evaluate.faithfulness.features import distinct_sets, luck, own_sets
from glasshouse.evaluate.faithfulness.subsets import sizes_of
from glasshouse.evaluate.questions import Elements, Segments

METRICS = {
    "faithfulness_correlation": lambda *a, **k: evaluate.faithfulness_correlation(*a, subset_size=10, **k),
    "mu_fidelity": lambda *a, **k: evaluate.mu_fidelity(*a, **{"grid": (6, 8), **k}),
    "sensitivity_n": lambda *a, **k: evaluate.sensitivity_n(*a, **{"grid": (6, 8), "n_sizes": 4, **k}),
}
each = pytest.mark.parametrize("metric", METRICS.values(), ids=METRICS)


@each
@pytest.mark.parametrize("sign", [1, -1])
def test_exact_contributions_correlate_perfectly(linear, inputs, contributions, explained, metric, sign):
    score = metric(linear, inputs, explained(sign * contributions))
    torch.testing.assert_close(score.value, torch.full((3,), float(sign)), atol=1e-5, rtol=0)
    assert (score.stderr < 1e-4).all()


@each
@pytest.mark.parametrize("kind", ["signed", "positive"])
def test_random_maps_correlate_by_chance_only(linear, explained, random_maps, metric, kind):
    many = torch.randn(200, 1, 6, 8, generator=torch.Generator().manual_seed(4), dtype=torch.float64)
    maps = random_maps(200) if kind == "signed" else random_maps(200).exp()
    score = metric(linear, many, explained(maps), n_samples=64)
    assert abs(score.mean) < 3 * score.error
    assert (score.value.abs() > 3 * score.stderr).float().mean() < 0.05
    assert score.stderr.square().mean().sqrt() == pytest.approx(float(score.value.std()), rel=0.25)


@each
def test_the_errors_of_repeated_draws_are_the_standard_error_but_for_the_luck_of_maps(
    cnn, images, explained, random_maps, metric
):
    """The luck of random maps is no matter of the draw; without it, what is left is the spread over seeds."""
    maps = random_maps(3, (14, 18)) + 0.5 * images.sum(1)
    settings = {"n_samples": 20, "grid": (6, 8)}
    runs = [metric(cnn, images, explained(maps, 1), seed=seed, **settings) for seed in range(20)]
    value, stderr = (torch.stack([getattr(run, name).double() for run in runs]) for name in ("value", "stderr"))
    drawn = (stderr.square() - (1 - value.square()).square() / 47).mean(0).sqrt()
    torch.testing.assert_close(drawn, value.std(0), rtol=0.4, atol=0)


def test_the_correlation_is_that_of_sums_and_drops(cnn, images, explained, random_maps):
    score = evaluate.faithfulness_correlation(cnn, images, explained(random_maps(3, (14, 18)), 1), n_samples=20)
    for row in range(3):
        pair = torch.stack([score.extras["sums"][row], score.extras["drops"][row]]).double()
        assert float(score.value[row]) == pytest.approx(float(torch.corrcoef(pair)[0, 1]), abs=1e-4)


def test_mu_fidelity_compares_ranks(cnn, images, explained, random_maps):
    score = evaluate.mu_fidelity(cnn, images, explained(random_maps(3, (14, 18)).exp(), 1), n_samples=30)
    for value, sums, drops in zip(score.value, score.extras["sums"], score.extras["drops"], strict=True):
        assert float(value) == pytest.approx(spearmanr(sums, drops).statistic, abs=1e-5)


def test_the_luck_of_a_random_map_shrinks_as_it_agrees():
    # Pearson's r of n pairs has the standard error (1 - r²) / sqrt(n - 1).
    expected = [1 / 4, 0.75 / 4, 0.75 / 4, 0, 1 / 8]
    assert luck(torch.tensor([0, 0.5, -0.5, 1, 0]), [17, 17, 17, 17, 65]).tolist() == pytest.approx(expected)


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


@pytest.mark.parametrize(
    ("name", "settings"),
    [
        ("faithfulness_correlation", {"subset_size": 1, "n_samples": 60}),
        ("mu_fidelity", {"grid": (2, 8), "fraction": 0.125, "n_samples": 500}),
        ("sensitivity_n", {"grid": (4, 4), "n_samples": 50}),
        ("sensitivity_n", {"sizes": [2, 9], "n_samples": 30}),
        ("faithfulness_estimate", {"grid": (3, 8)}),
        ("monotonicity_correlation", {"donors": torch.arange(144.0).view(3, 1, 6, 8), "n_samples": 7}),
        ("non_sensitivity", {"grid": (2, 2), "n_samples": 3}),
        ("infidelity", {"perturbation": "square", "largest": 2, "n_samples": 500}),
        ("infidelity", {"perturbation": "square", "n_samples": 20}),
    ],
)
def test_the_price_is_known_beforehand_whatever_the_settings(linear, inputs, contributions, explained, name, settings):
    info = find_method(name, "evaluate")
    score = info.function(linear, inputs, explained(contributions), **settings)
    assert score.n_forward == 3 * info.cost(settings, inputs.shape).forward


# features of other kinds


def segments(*numbers):
    """Label maps of 6 × 8 with so many segments each."""
    return Segments.of(torch.stack([torch.arange(48).view(6, 8) * number // 48 for number in numbers]))


FEW = "few_features"


@pytest.mark.parametrize(
    ("grid", "reason"),
    [((3, 5), (FEW,) * 3), ((4, 4), ("",) * 3), (segments(15, 16, 15), (FEW, "", FEW))],
    ids=["15 cells", "16 cells", "segments"],
)
def test_fewer_than_16_different_sets_give_a_reason(linear, inputs, contributions, explained, grid, reason):
    explanation = explained(contributions)
    assert evaluate.faithfulness_correlation(linear, inputs, explanation, subset_size=1, grid=grid).reason == reason
    assert evaluate.mu_fidelity(linear, inputs, explanation, fraction=0.06, grid=grid).reason == reason


@each
def test_sets_can_be_of_segments(linear, inputs, contributions, explained, metric):
    score = metric(linear, inputs, explained(contributions), grid=segments(48, 17, 24), n_samples=20)
    torch.testing.assert_close(score.value, torch.ones(3), atol=1e-5, rtol=0)


@each
def test_images_with_other_numbers_of_segments_score_as_alone(linear, inputs, explained, random_maps, metric):
    whole, explanation = segments(48, 17, 24), explained(random_maps(3))
    together = metric(linear, inputs, explanation, grid=whole, n_samples=20)
    for n in range(3):
        own = Segments.of(whole.labels[n : n + 1])
        alone = metric(linear, inputs[n : n + 1], explanation[n], grid=own, n_samples=20)
        torch.testing.assert_close(alone.value, together.value[n : n + 1])
        torch.testing.assert_close(alone.stderr, together.stderr[n : n + 1])


@each
def test_sets_can_be_of_single_elements(explained, metric):
    draws = torch.Generator().manual_seed(0)
    weight, images = torch.randn(1, 3, 4, 5, generator=draws), torch.randn(2, 3, 4, 5, generator=draws)
    model = nn.Sequential(nn.Flatten(), nn.Linear(60, 2, bias=False))
    model[1].weight.data[0] = weight.flatten()
    explanation = replace(explained((weight * images).sum(1)), native=weight * images)
    score = metric(model, images, explanation, grid=Elements((3, 4, 5)))
    torch.testing.assert_close(score.value, torch.ones(2), atol=1e-4, rtol=0)


def test_sets_are_all_different_and_all_of_them_where_there_are_no_more():
    some = distinct_sets(8, 3, 50, torch.Generator().manual_seed(0))
    assert some.sum(1).tolist() == [3] * 50
    assert len({bytes(row.numpy()) for row in some}) == 50
    every = distinct_sets(8, 3, 60, torch.Generator().manual_seed(0))
    assert {tuple(row.nonzero().flatten().tolist()) for row in every} == set(combinations(range(8), 3))


def test_sets_of_an_image_are_its_own_whatever_the_others_have():
    few, many = (own_sets([5, other], [2, 3], 40, torch.Generator().manual_seed(0)) for other in (6, 50))
    assert few[:, 0, :5].equal(many[:, 0, :5])
    assert not many[:, 0, 5:].any()
    assert few.sum(2).tolist() == many.sum(2).tolist() == [[2, 3]] * 40
    shares = own_sets([6], [2], 3000, torch.Generator().manual_seed(0)).double().mean(0)[0]
    assert (shares - 1 / 3).abs().max() < 4 * (2 / 9 / 3000) ** 0.5


# sensitivity_n


def test_sizes_run_from_1_to_80_percent_by_equal_factors():
    assert sizes_of(196, 10) == [1, 2, 3, 5, 9, 17, 29, 51, 89, 157]
    assert sizes_of(20, 3) == [1, 4, 16]
    assert sizes_of(20, 300) == list(range(1, 17))
    assert sizes_of(2, 10) == [1]


@pytest.mark.parametrize("chunk", [4, 64])
def test_quantus_gives_exact_contributions_037_or_027_depending_on_the_batch_size_here_each_size_scores_1(
    linear, inputs, contributions, explained, chunk
):
    answers = evaluate.Answers(linear, inputs, [0, 0, 0], chunk=chunk)
    score = evaluate.sensitivity_n(linear, inputs, explained(contributions), grid=(6, 8), answers=answers)
    assert score.settings["sizes"] == (1, 2, 3, 5, 8, 11, 17, 26, 38)
    torch.testing.assert_close(score.extras["by_size"], torch.ones(3, 9), atol=1e-5, rtol=0)
    torch.testing.assert_close(score.value, torch.ones(3), atol=1e-5, rtol=0)


def test_each_size_is_the_correlation_of_its_own_sets_and_the_score_their_mean(cnn, images, explained, random_maps):
    maps = random_maps(3, (14, 18))
    score = evaluate.sensitivity_n(cnn, images, explained(maps, 1), grid=(4, 4), sizes=[1, 15], n_samples=16)
    cell = (torch.arange(14) * 4 // 14)[:, None] * 4 + torch.arange(18) * 4 // 18
    masks = torch.stack([cell == number for number in range(16)])
    for place, gone in enumerate((masks, ~masks)):  # every set of 1, every set of 15
        shown = torch.where(gone[:, None, None], 0.0, images)
        drops = cnn(images)[:, 1] - cnn(shown.flatten(0, 1))[:, 1].view(16, 3)
        sums = (gone[:, None] * maps).sum((2, 3))
        for n in range(3):
            expected = torch.corrcoef(torch.stack([sums[:, n], drops[:, n].detach()]).double())[0, 1]
            assert float(score.extras["by_size"][n, place]) == pytest.approx(float(expected), abs=1e-4)
    torch.testing.assert_close(score.value, score.extras["by_size"].mean(1))
    assert score.n_forward == 3 * 33


@pytest.mark.parametrize(
    "settings", [{"n_samples": 15}, {"n_sizes": 1}, {"sizes": [0, 3]}, {"sizes": [48]}, {"sizes": []}]
)
def test_sizes_that_are_no_sets_are_refused(linear, inputs, contributions, explained, settings):
    with pytest.raises(BadInput):
        evaluate.sensitivity_n(linear, inputs, explained(contributions), grid=(6, 8), **settings)


def test_a_size_at_which_nothing_moves_is_left_out_of_the_mean(explained):
    class AllGone(nn.Module):
        """Falls only where at least 40 of 48 pixels are gone."""

        def forward(self, x):
            there = (x[:, 0].flatten(1) != 0).double()
            weights = torch.arange(48.0, dtype=torch.float64)
            score = torch.where(there.sum(1) > 8, 1000.0, (weights * there).sum(1))
            return torch.stack([score, torch.zeros_like(score)], 1)

    maps = torch.arange(48.0).view(1, 6, 8)
    score = evaluate.sensitivity_n(AllGone(), torch.ones(1, 1, 6, 8), explained(maps), grid=(6, 8), sizes=[3, 41, 44])
    assert score.extras["by_size"][0].isnan().tolist() == [True, False, False]
    assert float(score.value) == pytest.approx(1, abs=1e-6)
