"""A shift that the model takes back: gradients stay, products with the input do not, by a known amount."""

import copy

import pytest
import torch
from torch import nn

from glasshouse import attribute
from glasshouse.core import BadInput
from glasshouse.evaluate.sanity.invariance import input_invariance


@pytest.mark.parametrize("method", ["saliency", "guided_backprop", "deconvnet", "grad_cam", "layer_cam"])
def test_methods_that_only_see_the_gradient_pass(cnn, images, method):
    score = input_invariance(cnn, images, getattr(attribute, method)(cnn, images), shift=2.0)
    assert score.value.max() < 1e-3
    assert score.extras["holds"].tolist() == [1, 1, 1]


def test_gradient_times_input_fails_by_the_shift_times_the_gradient(cnn, images):
    explanation = attribute.input_x_gradient(cnn, images)
    slope = attribute.saliency(cnn, images).native
    score = input_invariance(cnn, images, explanation, shift=2.0)
    expected = (2 * slope).abs().flatten(1).amax(1) / explanation.native.abs().flatten(1).amax(1)
    torch.testing.assert_close(score.value, expected, atol=1e-4, rtol=1e-3)
    assert score.extras["holds"].tolist() == [0, 0, 0]
    assert (score.n_forward, score.n_backward, score.direction) == (3, 3, "down")


def test_a_baseline_decides_whether_integrated_gradients_pass(cnn, images):
    fixed = attribute.integrated_gradients(cnn, images, n_steps=4)
    assert (input_invariance(cnn, images, fixed).value > 0.05).all()


def test_it_is_the_network_with_another_bias_where_nothing_is_padded(images):
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(0)
        model = nn.Sequential(nn.Conv2d(3, 5, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(5, 3))
    folded = copy.deepcopy(model).eval()
    folded[0].bias.data -= 2.0 * folded[0].weight.data.sum((1, 2, 3))
    explanation = attribute.input_x_gradient(model.eval(), images)
    again = attribute.input_x_gradient(folded, images + 2.0, list(explanation.target)).native
    expected = (again - explanation.native).abs().flatten(1).amax(1) / explanation.native.abs().flatten(1).amax(1)
    score = input_invariance(model, images, explanation, shift=2.0)
    torch.testing.assert_close(score.value, expected, atol=1e-4, rtol=1e-3)


def test_the_model_keeps_no_trace(cnn, images):
    input_invariance(cnn, images, attribute.saliency(cnn, images))
    assert not cnn._forward_pre_hooks


def test_reasons_and_wrong_settings(cnn, images, explained):
    explanation = attribute.saliency(cnn, images)
    with pytest.raises(BadInput, match="test nothing"):
        input_invariance(cnn, images, explanation, shift=0.0)
    assert set(input_invariance(cnn, images, explained(torch.rand(3, 14, 18))).reason) == {"unknown_method"}
    cnn[7].weight.data.zero_()
    assert set(input_invariance(cnn, images, attribute.saliency(cnn, images)).reason) == {"zero_total"}
