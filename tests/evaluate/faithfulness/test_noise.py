"""Infidelity: closed forms of linear and quadratic models, loops over all squares, agreement with captum."""

from dataclasses import replace

import pytest
import torch
from captum.metrics import infidelity as captum_infidelity
from torch import nn

from glasshouse import attribute, evaluate
from glasshouse.core import BadInput, blur
from glasshouse.evaluate.faithfulness.features import seeds
from glasshouse.evaluate.faithfulness.noise import Square, noise_of, square_at, squares_in


class Quadratic(nn.Module):
    """Two classes: g . x + x' H x / 2, and 0."""

    def __init__(self, slope, curvature):
        super().__init__()
        self.slope, self.curvature = slope, curvature

    def forward(self, x):
        x = x.flatten(1)
        score = x @ self.slope + ((x @ self.curvature) * x).sum(1) / 2
        return torch.stack([score, torch.zeros_like(score)], 1)


@pytest.fixture
def quadratic():
    draws = torch.Generator().manual_seed(0)
    half = torch.randn(6, 6, generator=draws, dtype=torch.float64)
    return Quadratic(torch.randn(6, generator=draws, dtype=torch.float64), half + half.T)


def gradient_of(explained, values):
    """An explanation of gradient type: native values for every channel."""
    return replace(explained(values.sum(1)), native=values)


# noise


def test_the_weights_of_a_linear_model_foresee_any_change(linear, inputs, explained):
    weights = linear.weight.detach().expand(3, -1, -1)
    for settings in ({}, {"sigma": 3.0}, {"perturbation": "square"}, {"perturbation": "square", "baseline": "blur:2"}):
        score = evaluate.infidelity(linear, inputs, explained(weights), **settings)
        assert score.value.abs().max() < 1e-10
        assert score.extras["normalised"].abs().max() < 1e-10
        torch.testing.assert_close(score.extras["beta"], torch.ones(3))


def test_a_map_of_zeros_misses_sigma_squared_times_the_weights_squared(linear, inputs, explained):
    score = evaluate.infidelity(linear, inputs, explained(torch.zeros(3, 6, 8)), n_samples=200, sigma=0.3)
    expected = 0.3**2 * float(linear.weight.detach().square().sum())
    assert ((score.value - expected).abs() < 4 * score.stderr).all()
    # (I . w)² has twice its mean squared as variance.
    torch.testing.assert_close(score.stderr, torch.full((3,), expected * (2 / 200) ** 0.5), rtol=0.35, atol=0)
    torch.testing.assert_close(score.extras["normalised"], torch.ones(3))
    assert score.extras["beta"].tolist() == [0, 0, 0]


def test_the_gradient_of_a_quadratic_misses_what_its_curvature_adds(quadratic, explained):
    images = torch.randn(2, 1, 2, 3, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    gradient = (quadratic.slope + images.flatten(1) @ quadratic.curvature).view_as(images)
    score = evaluate.infidelity(quadratic, images, gradient_of(explained, gradient), n_samples=400, sigma=0.5)
    curvature = quadratic.curvature
    expected = 0.5**4 / 4 * float(curvature.trace() ** 2 + 2 * (curvature @ curvature).trace())
    assert ((score.value - expected).abs() < 4 * score.stderr).all()
    assert (score.stderr < 0.25 * expected).all()


def test_the_errors_of_repeated_draws_are_the_standard_error(cnn, images, explained, random_maps):
    explanation = explained(random_maps(3, (14, 18)), 1)
    runs = [evaluate.infidelity(cnn, images, explanation, n_samples=16, seed=seed) for seed in range(20)]
    spread = torch.stack([run.value for run in runs]).std(0)
    error = torch.stack([run.stderr for run in runs]).square().mean(0).sqrt()
    torch.testing.assert_close(error, spread, rtol=0.35, atol=0)


@pytest.mark.parametrize("normalize", [False, True])
@pytest.mark.parametrize("native", [True, False])
def test_it_is_captums_with_the_same_noise(cnn, images, explained, random_maps, normalize, native):
    explanation = attribute.saliency(cnn, images) if native else explained(random_maps(3, (14, 18)), 1)
    values = explanation.native if native else explanation.heatmap[:, None].expand(-1, 3, -1, -1)
    scale = "optimal" if normalize else None
    ours = evaluate.infidelity(cnn, images, explanation, n_samples=12, scale=scale, seed=5)
    parts = iter(seeds(12, 5))

    def perturb(inputs):
        noise = noise_of(images, 0.2, next(parts)).expand_as(inputs)
        return noise, inputs - noise

    target = torch.tensor(explanation.target)
    settings = {"n_perturb_samples": 12, "max_examples_per_batch": 3, "normalize": normalize}
    with torch.no_grad():
        theirs = captum_infidelity(cnn, perturb, images, values, target=target, **settings)
    torch.testing.assert_close(ours.value, theirs, rtol=1e-3, atol=1e-8)
    with_both = ours.extras["optimal"] if normalize else ours.value
    torch.testing.assert_close(with_both, ours.value)


def test_noise_is_the_same_for_every_image_and_differs_between_samples(linear, inputs, explained):
    same = inputs[:1].expand(3, -1, -1, -1)
    extras = evaluate.infidelity(linear, same, explained(torch.ones(3, 6, 8)), n_samples=30).extras
    torch.testing.assert_close(extras["drops"][0], extras["drops"][2])
    torch.testing.assert_close(extras["expected"][0], extras["expected"][2])
    assert len(set(extras["expected"][0].tolist())) == 30


def test_quantus_infidelity_piles_up_its_perturbations_ours_starts_each_from_the_image(linear, inputs, explained):
    # The drop for a linear model is I . w: independent draws have the variance of one, not of a sum of many.
    extras = evaluate.infidelity(linear, inputs, explained(torch.ones(3, 6, 8)), n_samples=200, sigma=0.3).extras
    one = 0.3 * float(linear.weight.detach().norm())
    torch.testing.assert_close(extras["drops"].std(1), torch.full((3,), one), rtol=0.2, atol=0)
    first, last = extras["drops"][:, :100].std(1), extras["drops"][:, 100:].std(1)
    torch.testing.assert_close(first, last, rtol=0.3, atol=0)


def test_the_best_factor_is_the_least_squares_one(cnn, images):
    explanation = attribute.saliency(cnn, images)
    plain = evaluate.infidelity(cnn, images, explanation)
    tripled = replace(explanation, native=3 * explanation.native)
    for_tripled = evaluate.infidelity(cnn, images, tripled, scale="optimal")
    torch.testing.assert_close(for_tripled.value, plain.extras["optimal"])
    torch.testing.assert_close(for_tripled.extras["beta"], plain.extras["beta"] / 3)
    assert (for_tripled.value <= plain.value).all()
    expected, drop = plain.extras["expected"].double(), plain.extras["drops"].double()
    solved = torch.linalg.lstsq(expected[0][:, None], drop[0][:, None]).solution
    assert float(plain.extras["beta"][0]) == pytest.approx(float(solved), rel=1e-4)


# squares


def every_square(size, largest):
    h, w = size
    sides = range(1, largest + 1)
    return [Square(s, i, j) for s in sides for i in range(h - s + 1) for j in range(w - s + 1)]


def test_squares_are_counted_in_order():
    expected = every_square((5, 7), 4)
    assert squares_in((5, 7), 4) == len(expected)
    assert [square_at(index, (5, 7)) for index in range(len(expected))] == expected


@pytest.mark.parametrize("convention", ["gradient", "contribution"])
@pytest.mark.parametrize("baseline", ["mean", "blur:2", 0.5])
def test_all_squares_give_the_exact_value_of_a_slow_loop(explained, convention, baseline):
    draws = torch.Generator().manual_seed(3)
    images, values = (torch.randn(2, 2, 5, 7, generator=draws) for _ in range(2))
    model = nn.Sequential(nn.Flatten(), nn.Linear(70, 5), nn.Tanh(), nn.Linear(5, 2)).eval()
    for parameter in model.parameters():
        parameter.data = 0.3 * torch.randn(parameter.shape, generator=draws)
    settings = {"perturbation": "square", "convention": convention, "largest": 3, "baseline": baseline}
    score = evaluate.infidelity(model, images, gradient_of(explained, values), n_samples=1000, **settings)
    fill = {"mean": torch.zeros_like(images), "blur:2": blur(images, 2.0), 0.5: torch.full_like(images, 0.5)}[baseline]
    misses = torch.zeros(2)
    squares = every_square((5, 7), 3)
    for side, row, col in squares:
        taken = torch.zeros(2, 2, 5, 7)
        inside = (..., slice(row, row + side), slice(col, col + side))
        taken[inside] = (images - fill)[inside]
        drop = (model(images) - model(images - taken))[:, 0].detach()
        foreseen = (values * taken).flatten(1).sum(1) if convention == "gradient" else values[inside].sum((1, 2, 3))
        misses += (foreseen - drop) ** 2 / len(squares)
    torch.testing.assert_close(score.value, misses, rtol=1e-4, atol=1e-5)
    assert score.stderr.tolist() == [0, 0]
    assert score.n_forward == 2 * (len(squares) + 1)
    assert score.settings["n_samples"] == len(squares)


def test_exact_contributions_foresee_every_square(linear, inputs, contributions, explained):
    settings = {"perturbation": "square", "convention": "contribution"}
    for sign, normalised in ((1, 0), (-1, 4), (0, 1)):
        score = evaluate.infidelity(linear, inputs, explained(sign * contributions), **settings)
        torch.testing.assert_close(score.extras["normalised"], torch.full((3,), float(normalised)), atol=1e-6, rtol=0)
    assert (
        evaluate.infidelity(linear, inputs, explained(contributions), **settings, scale="optimal").value.max() < 1e-10
    )


def test_quantus_infidelity_crashes_on_patches_that_do_not_fit_ours_takes_any_square(
    cnn, images, explained, random_maps
):
    score = evaluate.infidelity(cnn, images, explained(random_maps(3, (14, 18)), 0), perturbation="square", largest=5)
    assert score.valid.all()
    assert score.settings["largest"] == 5


def test_a_sample_of_squares_agrees_with_all_of_them(cnn, images, explained, random_maps):
    explanation = explained(random_maps(3, (14, 18)), 0)
    settings = {"perturbation": "square", "convention": "contribution", "largest": 3}
    all_of_them = evaluate.infidelity(cnn, images, explanation, n_samples=10_000, **settings)
    some = evaluate.infidelity(cnn, images, explanation, n_samples=150, **settings)
    assert ((some.value - all_of_them.value).abs() < 4 * some.stderr).all()
    assert (all_of_them.stderr == 0).all()


def test_contributions_can_be_tested_against_imputed_squares(cnn, images):
    explanation = attribute.integrated_gradients(cnn, images, n_steps=4)
    settings = {"perturbation": "square", "baseline": "road", "n_samples": 20}
    assert evaluate.infidelity(cnn, images, explanation, convention="contribution", **settings).valid.all()
    with pytest.raises(BadInput, match="depends on the square"):
        evaluate.infidelity(cnn, images, explanation, **settings)


# both


@pytest.mark.parametrize("perturbation", ["gaussian", "square"])
def test_changed_images_do_not_depend_on_the_map_and_are_asked_once(cnn, images, perturbation):
    answers = evaluate.Answers(cnn, images, 1)
    explanations = [attribute.saliency(cnn, images, 1), attribute.grad_cam(cnn, images, 1)]
    settings = {"perturbation": perturbation, "n_samples": 20, "answers": answers}
    spent = [evaluate.infidelity(cnn, images, explanation, **settings).n_forward for explanation in explanations]
    assert spent == [3 * 21, 0]


@pytest.mark.parametrize("perturbation", ["gaussian", "square"])
def test_an_image_scores_as_among_others_whatever_the_chunk(cnn, images, perturbation):
    explanation = attribute.saliency(cnn, images, 2)
    settings = {"perturbation": perturbation, "n_samples": 30}
    together = evaluate.infidelity(cnn, images, explanation, **settings)
    chunked = evaluate.Answers(cnn, images, [2, 2, 2], chunk=7)
    torch.testing.assert_close(
        evaluate.infidelity(cnn, images, explanation, answers=chunked, **settings).value, together.value
    )
    for n in range(3):
        alone = evaluate.infidelity(cnn, images[n : n + 1], explanation[n], **settings)
        torch.testing.assert_close(alone.value, together.value[n : n + 1], rtol=1e-4, atol=1e-7)


def test_where_the_score_never_moves_there_is_nothing_to_divide_by(linear, inputs, contributions, explained):
    linear.weight.data.zero_()
    score = evaluate.infidelity(linear, inputs, explained(contributions), n_samples=4)
    assert (score.value > 0).all()
    assert score.extras["normalised"].isnan().all()


def test_a_constant_map_has_a_value_and_a_broken_one_a_reason(cnn, images, explained):
    maps = torch.ones(3, 14, 18)
    maps[1, 0, 0] = torch.nan
    assert evaluate.infidelity(cnn, images, explained(maps, 0)).reason == ("", "not_finite", "")


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"convention": "contribution"}, "do not say what noise does"),
        ({"n_samples": 1}, "at least 2"),
        ({"sigma": 0.0}, "above 0"),
        ({"perturbation": "square", "largest": 7}, "do not fit"),
        ({"perturbation": "square", "largest": 0}, "do not fit"),
    ],
)
def test_settings_that_do_not_go_together_are_refused(linear, inputs, contributions, explained, settings, said):
    with pytest.raises(BadInput, match=said):
        evaluate.infidelity(linear, inputs, explained(contributions), **settings)
