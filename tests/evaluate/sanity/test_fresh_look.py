"""Entropies of maps against NumPy and SciPy; averages over noise against a slow loop; Sobel fails both."""

import copy
import math
from dataclasses import replace

import numpy as np
import pytest
import scipy.stats
import torch

from glasshouse import attribute
from glasshouse.core import BadInput, generator
from glasshouse.evaluate.sanity.fresh_look import (
    efficient_mprt,
    entropy_rise,
    histogram_entropy,
    number_of_bins,
    smooth_mprt,
    smoothed,
)
from glasshouse.evaluate.sanity.randomising import Randomising, ever_more_random
from glasshouse.evaluate.sanity.replaying import replay
from glasshouse.evaluate.sanity.weights import randomise_parameters


@pytest.mark.parametrize(("rule", "theirs"), [("freedman_diaconis", "fd"), ("scott", "scott"), ("sturges", "sturges")])
@pytest.mark.parametrize("d", [60, 999])
def test_the_number_of_bins_is_that_of_numpy(rule, theirs, d):
    values = torch.randn(d, dtype=torch.float64, generator=generator(d))
    edges = np.histogram_bin_edges(values.numpy(), bins=theirs)
    assert number_of_bins(values, rule) == len(edges) - 1


def test_a_map_that_is_mostly_zero_falls_back_to_sturges():
    values = torch.zeros(1024, dtype=torch.float64)
    values[:9] = torch.arange(1, 10)
    assert number_of_bins(values, "freedman_diaconis") == number_of_bins(values, "sturges") == 11


def test_heavy_tails_do_not_ask_for_more_bins_than_pixels():
    values = torch.randn(50, dtype=torch.float64, generator=generator(0))
    values[0] = 1e9
    assert number_of_bins(values, "freedman_diaconis") == 50


@pytest.mark.parametrize("bins", [2, 7, 40])
def test_the_entropy_of_a_histogram_is_that_of_scipy(bins):
    values = torch.randn(500, dtype=torch.float64, generator=generator(bins))
    counts, _ = np.histogram(values.numpy(), bins=bins)
    assert histogram_entropy(values, bins)[0] == pytest.approx(scipy.stats.entropy(counts))


def test_the_error_of_an_entropy_is_the_spread_over_samples():
    draws = torch.rand(400, 300, dtype=torch.float64, generator=generator(1)).square()
    draws[:, 0], draws[:, 1] = 0.0, 1.0  # the same range for all
    found = torch.tensor([histogram_entropy(row, 8) for row in draws])
    assert float(found[:, 1].mean().sqrt()) == pytest.approx(float(found[:, 0].std()), rel=0.15)


def test_the_error_of_a_rise_is_the_spread_over_samples_of_both_maps():
    first, second = (torch.rand(300, 20, 20, dtype=torch.float64, generator=generator(seed)) for seed in (1, 2))
    first = first.square()
    for maps in (first, second):
        maps[:, 0, 0], maps[:, 0, 1] = 0.0, 1.0  # the same range for all
    value, variance, _, reason = entropy_rise(first, second, "sturges")
    assert set(reason) == {""}
    assert float(variance.mean().sqrt()) == pytest.approx(float(value.std()), rel=0.15)


def test_the_rise_of_entropy_is_taken_from_the_two_maps_by_hand(cnn, images):
    explanation = attribute.input_x_gradient(cnn, images)
    score = efficient_mprt(cnn, images, explanation, seed=4)
    (module,) = ever_more_random(copy.deepcopy(cnn), Randomising(seed=4), 0)
    other = attribute.input_x_gradient(copy.deepcopy(module), images, list(explanation.target)).heatmap
    for index in range(3):
        a, b = (maps[index].flatten().double().numpy() for maps in (explanation.heatmap, other))
        bins = len(np.histogram_bin_edges(a, bins="fd")) - 1
        h, random = (scipy.stats.entropy(np.histogram(values, bins=bins)[0]) for values in (a, b))
        assert float(score.value[index]) == pytest.approx((random - h) / h, abs=1e-5)
        assert float(score.extras["entropy"][index]) == pytest.approx(h, abs=1e-5)
    assert (score.direction, score.chance, score.n_forward, score.n_backward) == ("up", 0.0, 3, 3)


def test_an_edge_detector_gains_no_disorder_and_survives_smoothing(cnn, images, sobel):
    torch.testing.assert_close(efficient_mprt(cnn, images, sobel(cnn, images)).value, torch.zeros(3))
    score = smooth_mprt(cnn, images, sobel(cnn, images), n_samples=4)
    torch.testing.assert_close(score.value, torch.ones(3))


def test_several_draws_average_and_have_an_error_of_their_own(cnn, images):
    explanation = attribute.input_x_gradient(cnn, images)
    score = efficient_mprt(cnn, images, explanation, n_draws=3)
    draws = []
    for draw in range(3):
        (module,) = ever_more_random(copy.deepcopy(cnn), Randomising(), draw)
        other = attribute.input_x_gradient(module, images, list(explanation.target)).heatmap
        draws.append(entropy_rise(explanation.heatmap, other, "freedman_diaconis")[0])
    torch.testing.assert_close(score.value.double(), torch.stack(draws).mean(0), atol=1e-4, rtol=1e-3)
    torch.testing.assert_close(score.stderr.double(), torch.stack(draws).std(0) / 3**0.5, atol=1e-4, rtol=1e-3)
    assert score.n_forward == 9


@pytest.mark.parametrize("method", ["saliency", "grad_cam"])
def test_smoothing_is_a_slow_loop_over_noisy_images(cnn, images, method):
    explain = getattr(attribute, method)
    explanation = explain(cnn, images)
    fast = smoothed(replay(explanation), cnn, images, explanation.target, 3, 0.2, 7)
    slow = torch.zeros(3, 14, 18)
    for sample in range(3):
        noise = torch.randn(3, 14, 18, generator=torch.Generator().manual_seed(7 * 1_000_003 + sample))
        for index in range(3):
            width = 0.2 * (images[index].max() - images[index].min())
            noisy = (images[index] + width * noise)[None]
            slow[index] += explain(cnn, noisy, explanation.target[index]).heatmap[0] / 3
    torch.testing.assert_close(fast.float(), slow, atol=1e-5, rtol=1e-3)


def test_quantus_smooths_its_own_explainer_but_here_it_is_the_explanations_method(cnn, images):
    scores = [
        smooth_mprt(cnn, images, explain(cnn, images), n_samples=3).extras["cosine"]
        for explain in (attribute.saliency, attribute.input_x_gradient)
    ]
    assert not torch.allclose(*scores)


def test_smoothing_without_noise_is_plain_randomisation(cnn, images):
    explanation = attribute.input_x_gradient(cnn, images)
    plain = randomise_parameters(cnn, images, explanation, order="top_down")
    smooth = smooth_mprt(cnn, images, explanation, order="top_down", sigma=0.0, n_samples=2)
    torch.testing.assert_close(smooth.value, plain.value, atol=1e-4, rtol=1e-3)
    assert smooth.settings["layers"] == plain.settings["layers"]
    assert smooth.n_forward == 3 * 2 * (3 + 1)


def test_maps_that_say_nothing_have_reasons(cnn, images, explained):
    maps = torch.randn(3, 14, 18)
    maps[0], maps[1, 0, 0] = 1.0, math.nan
    for metric in (efficient_mprt, smooth_mprt):
        score = metric(cnn, images, explained(maps, 1, method="saliency"))
        assert score.reason == ("constant_map", "not_finite", "")
    dead = attribute.saliency(cnn, images)
    cnn[7].weight.data.fill_(0.0)
    assert set(efficient_mprt(cnn, images, dead).reason) == {"randomised_constant_map"}


def test_what_cannot_be_run_again_says_why(cnn, images):
    explanation = attribute.smooth(cnn, images, n_samples=2)
    broken = replace(explanation, settings=explanation.settings | {"n_samples": 0})
    custom = attribute.saliency(cnn, images, lambda output: output[:, 0])
    for metric in (efficient_mprt, smooth_mprt):
        assert set(metric(cnn, images, broken).reason) == {"rerun_failed"}
        assert set(metric(cnn, images, custom).reason) == {"custom_target"}


def test_wrong_settings_are_refused(cnn, images):
    explanation = attribute.saliency(cnn, images)
    with pytest.raises(BadInput, match="bins 'many'"):
        getattr(efficient_mprt, "__wrapped__", efficient_mprt)(cnn, images, explanation, bins="many")
    with pytest.raises(BadInput, match="n_samples 0"):
        smooth_mprt(cnn, images, explanation, n_samples=0)
