"""Single features: closed forms of linear models and gates, slow loops, and the right values where a peer errs."""

import math
from dataclasses import replace

import pytest
import torch
from scipy.stats import spearmanr
from torch import nn

from glasshouse import evaluate
from glasshouse.core import BadInput, blur
from glasshouse.evaluate.faithfulness import features
from glasshouse.evaluate.questions import Elements, Segments, grid_of, sums_over

PIXELS = (6, 8)
SINGLES = ("faithfulness_estimate", "monotonicity", "monotonicity_correlation", "non_sensitivity")
each = pytest.mark.parametrize("metric", [getattr(evaluate, name) for name in SINGLES], ids=SINGLES)


class Gate(nn.Module):
    """Two classes: a function of what the first and the last cell of a 4 × 4 grid hold, and 0."""

    def __init__(self, function):
        super().__init__()
        self.function = function

    def forward(self, x):
        score = self.function(x[:, 0, :2, :2].mean((1, 2)), x[:, 0, 6:, 6:].mean((1, 2)))
        return torch.stack([score, torch.zeros_like(score)], 1)


@pytest.fixture
def shares():
    """Shapley values of both gates: half of the score in each of the two cells."""
    maps = torch.zeros(1, 8, 8)
    maps[:, :2, :2] = maps[:, 6:, 6:] = 1 / 8
    return maps


def segments(*numbers):
    """Label maps of 6 × 8 with so many segments each."""
    return Segments.of(torch.stack([torch.arange(48).view(6, 8) * number // 48 for number in numbers]))


# faithfulness_estimate


@pytest.mark.parametrize("sign", [1, -1])
@pytest.mark.parametrize("grid", [PIXELS, None, segments(20, 20, 20)], ids=["pixels", "default", "segments"])
def test_exact_contributions_score_1_and_negated_ones_minus_1(linear, inputs, contributions, explained, sign, grid):
    score = evaluate.faithfulness_estimate(linear, inputs, explained(sign * contributions), grid=grid)
    torch.testing.assert_close(score.value, torch.full((3,), float(sign)), atol=1e-5, rtol=0)
    assert (score.stderr < 1e-4).all()
    torch.testing.assert_close(score.extras["sums"], sign * score.extras["drops"])


def test_random_maps_score_0_in_the_mean_and_their_errors_are_right(linear, explained, random_maps):
    many = torch.randn(200, 1, 6, 8, generator=torch.Generator().manual_seed(4), dtype=torch.float64)
    score = evaluate.faithfulness_estimate(linear, many, explained(random_maps(200)), grid=PIXELS)
    assert abs(score.mean) < 3 * score.error
    assert score.stderr.square().mean().sqrt() == pytest.approx(float(score.value.std()), rel=0.25)


@pytest.mark.parametrize("baseline", ["mean", "blur:2"])
def test_the_estimate_equals_a_loop_over_cells(cnn, images, explained, random_maps, baseline):
    maps, grid = random_maps(3, (14, 18)), (4, 5)
    score = evaluate.faithfulness_estimate(cnn, images, explained(maps, 2), grid=grid, baseline=baseline)
    fill = torch.zeros_like(images) if baseline == "mean" else blur(images, 2.0)
    for n in range(3):
        mass, drops = torch.zeros(20), torch.zeros(20)
        for cell in range(20):
            gone = torch.zeros(14, 18, dtype=torch.bool)
            for i in range(14):
                for j in range(18):
                    gone[i, j] = (i * 4 // 14, j * 5 // 18) == divmod(cell, 5)
            mass[cell] = maps[n][gone].sum()
            both = torch.stack([images[n], torch.where(gone, fill[n], images[n])])
            drops[cell] = (cnn(both)[0, 2] - cnn(both)[1, 2]).detach()
        expected = torch.corrcoef(torch.stack([mass, drops]).double())[0, 1]
        assert float(score.value[n]) == pytest.approx(float(expected), abs=1e-3)


def test_single_elements_are_compared_with_native_values(inputs, explained):
    weight = torch.randn(3, 5, 4, generator=torch.Generator().manual_seed(0))
    images = torch.randn(2, 3, 5, 4, generator=torch.Generator().manual_seed(1))
    model = nn.Sequential(nn.Flatten(), nn.Linear(60, 2, bias=False))
    model[1].weight.data[0] = weight.flatten()
    explanation = replace(explained((weight * images).sum(1)), native=weight * images)
    score = evaluate.faithfulness_estimate(model, images, explanation, grid=Elements((3, 5, 4)))
    torch.testing.assert_close(score.value, torch.ones(2), atol=1e-4, rtol=0)
    assert score.n_forward == 2 * 61
    with pytest.raises(BadInput, match="not one for each element"):
        evaluate.faithfulness_estimate(model, images, explained(images[:, 0]), grid=Elements((3, 5, 4)))


def test_removing_either_part_of_an_and_costs_all_of_it(explained, shares):
    gate = Gate(lambda first, last: torch.minimum(first, last))
    score = evaluate.faithfulness_estimate(gate, torch.ones(1, 1, 8, 8), explained(shares), grid=(4, 4))
    drops = score.extras["drops"][0]
    assert drops[0] == drops[15] == 1
    assert drops[1:15].abs().max() == 0
    assert float(score.value) == pytest.approx(1, abs=1e-6)  # halves are right up to a factor


def test_removing_one_part_of_an_or_costs_nothing_but_sets_find_it(explained, shares):
    gate = Gate(lambda first, last: torch.maximum(first, last))
    images, explanation = torch.ones(1, 1, 8, 8), explained(shares)
    assert evaluate.faithfulness_estimate(gate, images, explanation, grid=(4, 4)).reason == ("constant_score",)
    by_size = evaluate.sensitivity_n(gate, images, explanation, grid=(4, 4), sizes=[1, 8]).extras["by_size"][0]
    assert by_size[0].isnan()
    assert by_size[1] > 0.6


def test_fewer_than_16_features_give_a_reason(linear, inputs, contributions, explained):
    for name in ("faithfulness_estimate", "monotonicity_correlation", "sensitivity_n"):
        score = getattr(evaluate, name)(linear, inputs, explained(contributions), grid=(3, 5))
        assert set(score.reason) == {"few_features"}


# monotonicity


def positive(linear, n_negative):
    """Inputs whose contributions are all positive but for some."""
    images = linear.weight.detach().sign().expand(2, -1, -1, -1).clone()
    images[:, 0, 2, :n_negative] *= -1
    return images, (linear.weight.detach() * images)[:, 0]


@pytest.mark.parametrize("by", ["magnitude", "value"])
@pytest.mark.parametrize("n_negative", [0, 1, 3])
def test_each_feature_against_the_class_takes_one_part_in_d(linear, explained, n_negative, by):
    images, exact = positive(linear, n_negative)
    score = evaluate.monotonicity(linear, images, explained(exact), grid=PIXELS, by=by)
    torch.testing.assert_close(score.value, torch.full((2,), 1 - n_negative / 48))
    assert score.extras["monotone"].tolist() == [float(n_negative == 0)] * 2


def test_quantus_monotonicity_is_1_for_any_map_because_its_image_never_changes_ours_is_not(linear, explained):
    images, exact = positive(linear, 48)  # one row only: 8 against
    curve = evaluate.monotonicity(linear, images, explained(exact), grid=PIXELS).extras["curve"]
    torch.testing.assert_close(curve[:, 0], torch.zeros(2))
    torch.testing.assert_close(curve[:, -1], exact.sum((1, 2)).float())
    backward = evaluate.monotonicity(linear, -images, explained(-exact), grid=PIXELS)
    torch.testing.assert_close(backward.value, torch.full((2,), 8 / 48))  # the other 40 now speak against


def test_the_least_important_feature_comes_first(explained):
    # The last cell only hurts while the first is away: f = first - relu(last - first).
    gate = Gate(lambda first, last: first - (last - first).relu())
    maps = torch.zeros(2, 8, 8)
    maps[:, :2, :2] = torch.tensor([-3.0, 1.0]).view(2, 1, 1)
    maps[:, 6:, 6:] = torch.tensor([1.0, -3.0]).view(2, 1, 1)
    images = torch.ones(2, 1, 8, 8)
    by_magnitude = evaluate.monotonicity(gate, images, explained(maps), grid=(4, 4))
    assert by_magnitude.value.tolist() == [1 - 1 / 16, 1]
    by_value = evaluate.monotonicity(gate, images, explained(maps), grid=(4, 4), by="value")
    assert by_value.value.tolist() == [1, 1 - 1 / 16]


def test_the_curve_equals_a_loop_over_features(cnn, images, explained, random_maps):
    maps = random_maps(3, (14, 18))
    score = evaluate.monotonicity(cnn, images, explained(maps, 1))
    order = sums_over(maps, grid_of((14, 18))).abs().argsort(1)
    rows, cols = grid_of((14, 18))
    cell = (torch.arange(14) * rows // 14)[:, None] * cols + torch.arange(18) * cols // 18
    for n in range(3):
        shown = [torch.where(torch.isin(cell, order[n, :k]), images[n], 0.0) for k in range(rows * cols + 1)]
        slow = cnn(torch.stack(shown))[:, 1].detach()
        torch.testing.assert_close(score.extras["curve"][n], slow, atol=1e-5, rtol=1e-4)
        assert float(score.value[n]) == pytest.approx(float((slow.diff() >= 0).float().mean()), abs=0.03)


# monotonicity_correlation


def test_effects_are_mean_squared_changes_over_donors_and_their_root_scores_1(cnn, images, explained, random_maps):
    donors = torch.randn(4, 3, 14, 18, generator=torch.Generator().manual_seed(7))
    settings = {"donors": donors, "n_samples": 10, "grid": (5, 4)}
    found = evaluate.monotonicity_correlation(cnn, images, explained(random_maps(3, (14, 18)), 0), **settings)
    assert found.settings["n_samples"] == 4
    assert found.n_forward == 3 * (4 * 20 + 1)
    cell = (torch.arange(14) * 5 // 14)[:, None] * 4 + torch.arange(18) * 4 // 18
    clean, maps, backward = cnn(images)[:, 0].detach(), torch.zeros(3, 14, 18), torch.zeros(3, 14, 18)
    for feature in range(20):
        shown = torch.stack([torch.where(cell == feature, donor, images) for donor in donors])
        change = clean - cnn(shown.flatten(0, 1))[:, 0].detach().view(4, 3)
        effect = change.square().mean(0)
        torch.testing.assert_close(found.extras["effects"][:, feature], effect, atol=1e-5, rtol=1e-3)
        inside = (cell == feature) / (cell == feature).sum()
        maps += effect.sqrt()[:, None, None] * inside
        backward += inside / effect[:, None, None]
    for n in range(3):
        expected = spearmanr(found.extras["sums"][n].numpy(), found.extras["effects"][n].numpy()).statistic
        assert float(found.value[n]) == pytest.approx(float(expected), abs=1e-5)
    for sign in (1, -1):  # of the map: it does not matter
        score = evaluate.monotonicity_correlation(cnn, images, explained(sign * maps, 0), **settings)
        torch.testing.assert_close(score.value, torch.ones(3), atol=1e-4, rtol=0)
    score = evaluate.monotonicity_correlation(cnn, images, explained(backward, 0), **settings)
    torch.testing.assert_close(score.value, -torch.ones(3), atol=1e-4, rtol=0)


def effects_of_a_linear_model(kind, explained, replace_by):
    """Images `n 12` of 3 × 4 pixels, squared weights, and effects from 120 draws of each pixel."""
    draws = torch.Generator().manual_seed(0)
    weight, images = torch.randn(1, 3, 4, generator=draws), torch.randn(2, 1, 3, 4, generator=draws)
    settings = {"n_samples": 120, "grid": (3, 4), "replace_by": replace_by}
    score = evaluate.monotonicity_correlation(kind(weight), images, explained((weight * images)[:, 0]), **settings)
    return images.flatten(1), weight.flatten().square(), score.extras["effects"]


def test_uniform_replacements_of_a_linear_model_have_their_closed_form(linear, explained):
    # E (x - u)² for u uniform on [low, high] is (x - middle)² + (high - low)² / 12.
    images, squared, effects = effects_of_a_linear_model(type(linear), explained, "noise")
    low, high = images.amin(1, True), images.amax(1, True)
    expected = squared * ((images - (low + high) / 2).square() + (high - low).square() / 12)
    # The relative spread of (x - u)² is 0.9 at most, and 24 pixels are looked at.
    assert (effects / expected - 1).abs().max() < 3.5 * 0.9 / math.sqrt(120)


def test_the_images_own_pixels_can_stand_in(linear, explained):
    images, squared, effects = effects_of_a_linear_model(type(linear), explained, "permute")
    gaps = (images[:, :, None] - images[:, None, :]).square()
    error = (gaps.var(2) / 120).sqrt() * squared
    assert ((effects - squared * gaps.mean(2)).abs() < 4 * error).all()


def test_random_maps_have_no_correlation_with_effects(linear, explained, random_maps):
    many = torch.randn(100, 1, 6, 8, generator=torch.Generator().manual_seed(4), dtype=torch.float64)
    score = evaluate.monotonicity_correlation(linear, many, explained(random_maps(100)), grid=PIXELS, n_samples=3)
    assert abs(score.mean) < 3 * score.error
    assert score.stderr.square().mean().sqrt() == pytest.approx(float(score.value.std()), rel=0.3)


def test_quantus_monotonicity_correlation_fails_where_the_score_is_near_0_ours_does_not(linear, explained):
    weight = linear.weight.detach()[None]
    images = weight.roll(1, 3)
    images = images - weight * (weight * images).sum() / weight.square().sum()
    assert linear(images)[0, 0].abs() < 1e-12
    donors = torch.zeros(1, 1, 6, 8, dtype=torch.float64)
    exact = (weight * images)[:, 0]
    score = evaluate.monotonicity_correlation(linear, images, explained(exact), donors=donors, grid=PIXELS)
    assert float(score.value) == pytest.approx(1, abs=1e-5)


# non_sensitivity


@pytest.fixture
def half_blind(linear):
    """A linear model that ignores the right half of its image."""
    linear.weight.data[..., 4:] = 0
    return linear


@pytest.mark.parametrize(("grid", "replace_by"), [(PIXELS, "noise"), (PIXELS, "permute"), ((3, 4), "noise")])
def test_the_exact_map_of_a_model_that_ignores_half_scores_0_and_a_uniform_one_half(
    half_blind, inputs, explained, grid, replace_by
):
    exact = (half_blind.weight.detach() * inputs)[:, 0]
    maps = [exact, torch.ones_like(exact), torch.zeros_like(exact), exact.flip(2)]
    for each_map, missed, in_vain in zip(maps, (0.0, 0.0, 0.5, 0.5), (0.0, 0.5, 0.0, 0.5), strict=True):
        score = evaluate.non_sensitivity(half_blind, inputs, explained(each_map), grid=grid, replace_by=replace_by)
        torch.testing.assert_close(score.value, torch.full((3,), missed + in_vain))
        torch.testing.assert_close(score.extras["missed"], torch.full((3,), missed))
        torch.testing.assert_close(score.extras["in_vain"], torch.full((3,), in_vain))


def test_quantus_non_sensitivity_fails_on_features_of_several_pixels_ours_marks_a_cell_that_cancels(
    half_blind, inputs, explained
):
    maps = torch.zeros(3, 6, 8)
    maps[:, ::2, :4], maps[:, 1::2, :4] = 1, -1  # each 2 × 2 cell sums to 0
    score = evaluate.non_sensitivity(half_blind, inputs, explained(maps), grid=(3, 4))
    assert score.value.tolist() == [0, 0, 0]


def test_rounding_is_not_sensitivity(inputs, explained):
    # The left half matters a little beside a large constant; single precision moves the rest by less.
    weight = torch.randn(1, 6, 8, generator=torch.Generator().manual_seed(1))
    weight[..., 4:] = 0

    class Offset(nn.Module):
        def forward(self, x):
            score = (x * weight).flatten(1).sum(1) + 1000 + 1e-4 * torch.sin(1e4 * x[:, 0, 0, 7])
            return torch.stack([score, torch.zeros_like(score)], 1)

    exact = (weight * inputs)[:, 0].float()
    score = evaluate.non_sensitivity(Offset(), inputs.float(), explained(exact), grid=PIXELS, tolerance=1e-7)
    assert score.value.tolist() == [0, 0, 0]


def test_the_error_is_0_where_all_draws_agree_and_not_where_one_decides(half_blind, inputs, explained):
    maps = torch.ones(3, 6, 8)
    assert evaluate.non_sensitivity(half_blind, inputs, explained(maps), grid=PIXELS).stderr.tolist() == [0, 0, 0]
    donors = inputs[:1].repeat(3, 1, 1, 1)
    donors[2, 0, :, 0] += 1  # one of three donors differs, in six pixels, from the first image
    score = evaluate.non_sensitivity(half_blind, inputs[:1], explained(maps[:1]), grid=PIXELS, donors=donors)
    assert float(score.value) == pytest.approx(1 - 6 / 48)
    # Without that draw 6 more of 48 seem idle: values (v, v, v + 1/8), jackknife sqrt(2/3 * sum of squares).
    gaps = torch.tensor([0, 0, 0.125])
    assert float(score.stderr) == pytest.approx(float((2 / 3 * (gaps - gaps.mean()).square().sum()).sqrt()))


# all of them


@each
def test_a_score_counts_one_pass_per_changed_image_unlike_quantus_non_sensitivity(
    linear, inputs, contributions, explained, counted, metric
):
    sizes = counted(linear)
    score = metric(linear, inputs, explained(contributions), grid=(4, 4))
    draws = score.settings.get("n_samples", 1)
    assert score.n_forward == sum(sizes) == 3 * (16 * draws + 1)


@each
def test_all_read_the_logit_unless_told_otherwise(linear, inputs, contributions, explained, metric):
    explanation = explained(contributions)
    assert metric(linear, inputs, explanation).settings["score"] == "logit"
    assert metric(linear, inputs, explanation, score="prob").settings["score"] == "prob"


@each
def test_images_with_other_numbers_of_segments_score_as_alone(linear, inputs, contributions, explained, metric):
    whole = segments(48, 17, 24)
    explanation = explained(contributions)
    together = metric(linear, inputs, explanation, grid=whole)
    for n in range(3):
        own = Segments.of(whole.labels[n : n + 1])
        alone = metric(linear, inputs[n : n + 1], explanation[n], grid=own)
        torch.testing.assert_close(alone.value, together.value[n : n + 1])
        torch.testing.assert_close(alone.stderr, together.stderr[n : n + 1])


@pytest.mark.parametrize("by", ["magnitude", "value"])
def test_what_decides_between_equal_segments_is_chance_but_not_other_images(cnn, images, explained, by):
    labels = torch.stack([torch.arange(252).view(14, 18) * number // 252 for number in (20, 60, 30)])
    explanation = explained((labels % 3).float(), 1)
    together = evaluate.monotonicity(cnn, images, explanation, grid=Segments.of(labels), by=by)
    for n in range(3):
        whole = Segments.of(labels[n : n + 1])
        alone, other = (
            evaluate.monotonicity(cnn, images[n : n + 1], explanation[n], grid=whole, by=by, seed=seed)
            for seed in range(2)
        )
        torch.testing.assert_close(alone.value, together.value[n : n + 1])
        assert not alone.extras["curve"].allclose(other.extras["curve"])


@each
def test_very_many_features_are_asked_about_without_a_byte_for_each_pair(
    cnn, images, explained, random_maps, metric, monkeypatch
):
    explanation = explained(random_maps(3, (14, 18)), 1)
    plain = metric(cnn, images, explanation, grid=(5, 4))
    monkeypatch.setattr(features, "MOST_AS_BYTES", 10)
    views = metric(cnn, images, explanation, grid=(5, 4))
    torch.testing.assert_close(views.value, plain.value)
    assert views.n_forward == plain.n_forward


@each
def test_constant_and_broken_maps_have_a_reason_or_a_value(linear, inputs, explained, metric):
    maps = torch.ones(3, 6, 8)
    maps[1, 0, 0] = torch.nan
    score = metric(linear, inputs, explained(maps), grid=PIXELS)
    constant = "" if metric is evaluate.non_sensitivity else "constant_map"
    assert score.reason == (constant, "not_finite", constant)


@pytest.mark.parametrize(
    ("name", "settings", "said"),
    [
        ("monotonicity_correlation", {"n_samples": 0}, "0 draws"),
        ("monotonicity_correlation", {"donors": torch.zeros(2, 1, 6, 7)}, "do not have the shape"),
        ("non_sensitivity", {"tolerance": 1.0}, "tolerance"),
        ("faithfulness_estimate", {"grid": (7, 8)}, "cannot cut"),
        ("faithfulness_estimate", {"grid": segments(4)}, "not of these maps"),
    ],
)
def test_bad_settings_are_refused(linear, inputs, contributions, explained, name, settings, said):
    with pytest.raises(BadInput, match=said):
        getattr(evaluate, name)(linear, inputs, explained(contributions), **settings)
