"""Sanity checks: an edge detector must fail them, a gradient has a closed form."""

import copy
from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy.stats import spearmanr
from torch import nn

from glasshouse import attribute, evaluate
from glasshouse.core import BadInput
from glasshouse.core.registry import _registry
from glasshouse.evaluate.sanity.randomising import Randomising, ever_more_random


class TwoViews(nn.Module):
    """A linear classifier of three classes, as one matrix on the flattened image."""

    def __init__(self):
        super().__init__()
        self.head = nn.Linear(14 * 18 * 3, 3, bias=False)
        weight = torch.randn(self.head.weight.shape, generator=torch.Generator().manual_seed(0))
        self.head.weight.data.copy_(weight)

    def forward(self, x):
        return self.head(x.flatten(1))


def test_an_edge_detector_fails_both_tests(cnn, images, sobel):
    explanation = sobel(cnn, images)
    torch.testing.assert_close(evaluate.randomise_parameters(cnn, images, explanation).value, torch.ones(3))
    torch.testing.assert_close(evaluate.class_sensitivity(cnn, images, explanation).value, torch.zeros(3))


def test_the_gradient_of_a_linear_classifier_has_the_angle_of_its_weights(images):
    model = TwoViews()
    explanation = attribute.integrated_gradients(model, torch.ones_like(images), 0, n_steps=1)
    score = evaluate.class_sensitivity(model, torch.ones_like(images), explanation, other=2)
    rows = model.head.weight.detach().view(3, 3, -1).sum(1)  # the map sums over channels, and x is 1
    angle = torch.cosine_similarity(rows[0], rows[2], dim=0)
    torch.testing.assert_close(score.extras["cosine"], angle.expand(3))
    assert score.extras["other"].tolist() == [2, 2, 2]


def test_opposite_classes_have_opposite_maps(images):
    model = TwoViews()
    model.head.weight.data[1] = -model.head.weight.data[0]
    explanation = attribute.input_x_gradient(model, images, 0)
    score = evaluate.class_sensitivity(model, images, explanation, other=1)
    torch.testing.assert_close(score.value, torch.full((3,), 2.0))


def test_the_other_class_is_the_runner_up(cnn, images):
    order = cnn(images).argsort(1, descending=True)
    for place in (0, 1, 3):
        explanation = attribute.saliency(cnn, images, order[:, place])
        other = evaluate.class_sensitivity(cnn, images, explanation).extras["other"]
        assert other.tolist() == order[:, 1 if place == 0 else 0].tolist()


def test_a_random_model_forgets_where_to_look(images):
    model = TwoViews()
    explanation = attribute.saliency(model, images, 0)
    score = evaluate.randomise_parameters(model, images, explanation, n_draws=4)
    assert (score.value.abs() < 0.25).all()
    assert (score.value.abs() < 5 * score.stderr).all()


def test_the_model_keeps_its_weights(cnn, images):
    before = copy.deepcopy(cnn.state_dict())
    evaluate.randomise_parameters(cnn, images, attribute.saliency(cnn, images), order="top_down")
    assert all(before[name].equal(value) for name, value in cnn.state_dict().items())


def test_randomising_permutes_every_tensor(cnn, images, sobel, monkeypatch):
    seen = []
    explanation = sobel(cnn, images)
    original = sobel.__wrapped__

    def spy(model, *args, **settings):
        seen.append(copy.deepcopy(model.state_dict()))
        return sobel(model, *args, **settings)

    info = _registry["attribute.sobel"]
    monkeypatch.setitem(_registry, "attribute.sobel", type(info)(**{**vars(info), "function": spy}))
    evaluate.randomise_parameters(cnn, images, explanation)
    assert original is not spy
    for name, value in cnn.state_dict().items():
        torch.testing.assert_close(seen[0][name].flatten().sort().values, value.flatten().sort().values)
        assert value.numel() < 3 or not seen[0][name].equal(value)


def test_the_cascade_ends_where_full_randomisation_does(cnn, images):
    explanation = attribute.input_x_gradient(cnn, images)
    full = evaluate.randomise_parameters(cnn, images, explanation, seed=3)
    cascade = evaluate.randomise_parameters(cnn, images, explanation, order="top_down", seed=3)
    assert cascade.settings["layers"] == ("7", "3", "0")
    torch.testing.assert_close(cascade.extras["cascade"][:, -1], full.value)
    torch.testing.assert_close(cascade.extras["cascade"].mean(1), cascade.value)


@pytest.mark.parametrize("order", ["full", "top_down"])
def test_the_error_over_draws_is_that_of_their_mean(cnn, images, order):
    explanation = attribute.input_x_gradient(cnn, images)
    score = evaluate.randomise_parameters(cnn, images, explanation, order=order, n_draws=4)
    draws = []
    for draw in range(4):
        steps = ever_more_random(copy.deepcopy(cnn), Randomising(order), draw)
        maps = [attribute.input_x_gradient(module, images, list(explanation.target)).heatmap for module in steps]
        pairs = [zip(explanation.heatmap.abs().flatten(1), each.abs().flatten(1), strict=True) for each in maps]
        draws.append(np.mean([[spearmanr(a, b).statistic for a, b in pair] for pair in pairs], axis=0))
    np.testing.assert_allclose(score.value.numpy(), np.mean(draws, axis=0), atol=1e-4)
    np.testing.assert_allclose(score.stderr.numpy(), np.std(draws, axis=0, ddof=1) / 2, atol=1e-4)


class Stubborn(nn.Linear):
    """A layer that refuses to be copied."""

    def __deepcopy__(self, memo):
        raise RuntimeError("no copies")


def replayed(cnn, images, case):
    if case == "custom_target":
        return cnn, attribute.saliency(cnn, images, lambda output: output[:, 0])
    if case == "settings_not_kept":
        return cnn, attribute.integrated_gradients(cnn, images, baselines=torch.zeros_like(images), n_steps=2)
    if case == "rerun_failed":
        explanation = attribute.smooth(cnn, images, n_samples=2)
        return cnn, replace(explanation, settings=explanation.settings | {"n_samples": 0})
    if case == "no_parameters":
        model = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten())
        return model, attribute.saliency(model, images)
    cnn[7] = Stubborn(8, 4)
    return cnn, attribute.saliency(cnn, images)


CASES = ("custom_target", "settings_not_kept", "rerun_failed", "no_parameters", "model_not_copyable")


@pytest.mark.parametrize("case", CASES)
def test_what_cannot_be_run_again_says_why(cnn, images, case):
    model, explanation = replayed(cnn, images, case)
    assert set(evaluate.randomise_parameters(model, images, explanation).reason) == {case}
    if case in CASES[:3]:
        assert set(evaluate.class_sensitivity(model, images, explanation).reason) == {case}


def test_a_method_that_is_gone_says_so(cnn, images, explained, random_maps):
    explanation = explained(random_maps(3, (14, 18)), 1)
    assert set(evaluate.randomise_parameters(cnn, images, explanation).reason) == {"unknown_method"}


def test_settings_are_used_again(cnn, images):
    explanation = attribute.smooth(cnn, images, of="input_x_gradient", n_samples=3, seed=4, sigma=0.3)
    target = list(explanation.target)
    score = evaluate.class_sensitivity(cnn, images, explanation, other=target)
    assert set(score.reason) == {"no_other_class"}
    torch.testing.assert_close(score.extras["cosine"], torch.ones(3))


def test_passes_are_counted(cnn, images, counted):
    explanation = attribute.input_x_gradient(cnn, images)
    sizes = counted(cnn)
    score = evaluate.class_sensitivity(cnn, images, explanation)
    assert (score.n_forward, score.n_backward) == (sum(sizes), 3) == (6, 3)
    sizes.clear()
    score = evaluate.randomise_parameters(cnn, images, explanation, n_draws=2)
    assert (score.n_forward, score.n_backward) == (sum(sizes), 6) == (6, 6)


def test_wrong_settings_are_refused(cnn, images):
    explanation = attribute.saliency(cnn, images)
    with pytest.raises(BadInput, match="draws"):
        evaluate.randomise_parameters(cnn, images, explanation, n_draws=0)
    with pytest.raises(BadInput, match="out of range"):
        evaluate.class_sensitivity(cnn, images, explanation, other=9)


def test_a_method_whose_cost_only_the_network_knows_has_a_card_all_the_same(cnn, images):
    explanation = attribute.score_cam(cnn, images, 1)
    card = evaluate.card(cnn, images, explanation, tier="standard")
    assert card.scores["srg"].valid.all()
    assert attribute.compare(cnn, images, ["score_cam"], [1])["score_cam"][0].target == (1, 1, 1)
