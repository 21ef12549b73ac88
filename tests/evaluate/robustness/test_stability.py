"""Relative stabilities: exact for gradient × input of a linear model, slow loops, one flipped neighbour."""

import math

import pytest
import torch
from torch import nn

from glasshouse import attribute
from glasshouse.core import BadInput, Images, LayerNotFound, Target, method, select
from glasshouse.evaluate.robustness.stability import (
    head_of,
    relative,
    relative_input_stability,
    relative_output_stability,
    relative_representation_stability,
)

ALL = (relative_input_stability, relative_output_stability, relative_representation_stability)


def draw(shape: torch.Size, seed: int, number: int) -> torch.Tensor:
    source = torch.Generator().manual_seed(seed * 1_000_003 + number)
    return (2 * torch.rand(shape, generator=source, dtype=torch.float64) - 1).float()


def test_gradient_times_input_of_a_linear_model_changes_exactly_as_the_image_does(linear, inputs):
    explanation = attribute.input_x_gradient(linear, inputs, 0)
    score = relative_input_stability(linear, inputs, explanation)
    torch.testing.assert_close(score.value, torch.ones(3), atol=1e-6, rtol=0)
    torch.testing.assert_close(score.stderr, torch.zeros(3), atol=1e-6, rtol=0)
    torch.testing.assert_close(score.extras["log"], torch.zeros(3), atol=1e-6, rtol=0)


def test_so_it_does_by_norm_where_all_weights_are_equal(linear, inputs):
    linear.weight.data.fill_(3.0)
    explanation = attribute.input_x_gradient(linear, inputs, 0)
    score = relative_input_stability(linear, inputs, explanation, denom="norm")
    torch.testing.assert_close(score.value, torch.ones(3), atol=1e-6, rtol=0)


@pytest.mark.parametrize("metric", ALL[:2])
def test_the_gradient_of_a_linear_model_never_changes(metric, linear, inputs):
    assert metric(linear, inputs, attribute.saliency(linear, inputs, 0)).value.tolist() == [0, 0, 0]


@pytest.mark.parametrize("denom", ["element", "norm"])
@torch.no_grad()
def test_all_three_are_a_slow_loop_over_copies(cnn, images, denom):
    explanation = attribute.integrated_gradients(cnn, images, n_steps=2)
    settings = {"n_steps": 2, "target": None}

    def change(before, after):
        if denom == "norm":
            return float((after - before).norm() / before.norm())
        total = 0.0
        for b, a in zip(before.flatten().tolist(), after.flatten().tolist(), strict=True):
            total += ((a - b) / (b if b != 0 else 1e-6)) ** 2
        return total**0.5

    expected = torch.zeros(3, 3)
    for index in range(3):
        clean = images[index : index + 1]
        for number in range(2):
            copy = clean + 0.05 * draw(images.shape[1:], 1, number)
            settings["target"] = explanation.target[index]
            moved = attribute.integrated_gradients(cnn, copy, **settings).native[0]
            assert cnn(copy).argmax() == cnn(clean).argmax()
            up = change(explanation.native[index], moved)
            below = (change(clean, copy), float((cnn(copy) - cnn(clean)).norm()), change(cnn[:7](clean), cnn[:7](copy)))
            for which, divisor in enumerate(below):
                expected[which, index] = max(float(expected[which, index]), up / max(divisor, 1e-6))
    for which, metric in enumerate(ALL):
        score = metric(cnn, images, explanation, denom=denom, n_samples=2, seed=1)
        torch.testing.assert_close(score.value, expected[which], atol=1e-4, rtol=5e-3)
        torch.testing.assert_close(score.extras["log"], score.value.log())
        assert (score.n_forward, score.n_backward) == (6 * 4 + 9, 6 * 2)


class Edge(nn.Module):
    """Two classes that part where the mean is 0.5; the gradient of both depends on the image."""

    def forward(self, x):
        mean, rough = x.flatten(1).mean(1), x.flatten(1).square().mean(1)
        return torch.stack([rough + 0.5 - mean, rough + mean - 0.5], 1)


def test_quantus_answers_nan_for_one_flipped_neighbour_in_200_but_here_it_does_not_count():
    images = torch.rand(2, 1, 6, 8, generator=torch.Generator().manual_seed(1))
    noises = torch.tensor([float((0.05 * draw(images.shape[1:], 0, s)).mean()) for s in range(200)])
    images[0] += 0.5 - noises.sort().values[:2].mean() - images[0].mean()  # below all copies but one
    images[1] += 3.0
    explanation = attribute.input_x_gradient(Edge(), images)
    options = {"n_samples": 200, "same_prediction": True}
    score = relative_input_stability(Edge(), images, explanation, **options)
    torch.testing.assert_close(score.extras["dropped"], torch.tensor([1 / 200, 0.0]))
    assert score.valid.all()


def test_a_layer_is_found_named_and_recorded(cnn, images):
    assert head_of(cnn) == "7.input"
    explanation = attribute.input_x_gradient(cnn, images)
    score = relative_representation_stability(cnn, images, explanation, n_samples=2, denom="norm")
    assert score.settings["layer"] == "7.input"
    same = relative_representation_stability(cnn, images, explanation, layer="6", n_samples=2, denom="norm")
    torch.testing.assert_close(same.value, score.value, atol=1e-4, rtol=1e-3)
    other = relative_representation_stability(cnn, images, explanation, layer="3", n_samples=2, denom="norm")
    assert not torch.allclose(other.value, score.value)
    with pytest.raises(LayerNotFound, match="no layer '9'"):
        relative_representation_stability(cnn, images, explanation, layer="9")


def test_a_model_without_a_linear_layer_says_so(images):
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Tanh(), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    explanation = attribute.input_x_gradient(model, images)
    assert set(relative_representation_stability(model, images, explanation).reason) == {"no_linear_layer"}
    named = relative_representation_stability(model, images, explanation, layer="0", n_samples=2)
    assert named.valid.all()


def test_scores_that_do_not_move_have_the_least_denominator_too(images, own_methods):
    class Still(nn.Module):
        def forward(self, x):
            return torch.tensor([1.0, 0.0]).repeat(len(x), 1) + 0 * x.flatten(1).sum(1, keepdim=True)

    @method
    def itself(model: nn.Module, inputs: Images, target: Target = None) -> Images:
        select(model(inputs), target)
        return inputs

    score = relative_output_stability(Still(), images, itself(Still(), images), denom="norm", n_samples=1)
    change = (0.05 * draw(images.shape[1:], 0, 0)).norm() / images.flatten(1).norm(dim=1)
    torch.testing.assert_close(score.value, change / 1e-6, rtol=1e-3, atol=0)


def test_zeros_have_the_least_denominator():
    before, after = torch.tensor([[0.0, 2.0]]), torch.tensor([[1e-6, 3.0]])
    torch.testing.assert_close(relative(before, after, "element"), torch.tensor([math.sqrt(1.25)]))
    torch.testing.assert_close(relative(before, after, "norm"), torch.tensor([0.5]))


@pytest.mark.parametrize("metric", ALL)
def test_maps_without_weight_and_wrong_settings(metric, cnn, images):
    explanation = attribute.input_x_gradient(cnn, images)
    with pytest.raises(BadInput, match="denom 'both'"):
        getattr(metric, "__wrapped__", metric)(cnn, images, explanation, denom="both")
    cnn[7].weight.data.zero_()
    assert set(metric(cnn, images, attribute.input_x_gradient(cnn, images)).reason) == {"zero_total"}
