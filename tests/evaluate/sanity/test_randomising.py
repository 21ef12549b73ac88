"""Random weights: what becomes random, in which order, and what the mean over a cascade holds."""

import copy
from functools import partial
from types import MethodType
from typing import get_args

import numpy as np
import pytest
import torch
from scipy.stats import spearmanr
from skimage.feature import hog
from torch import nn

from conformance.architectures import Attentive
from glasshouse import attribute
from glasshouse.core import BadInput, Images, Target, method, select
from glasshouse.evaluate.sanity.likeness import likeness, oriented_gradients
from glasshouse.evaluate.sanity.randomising import Cascade, Randomising, ever_more_random, over_random_models
from glasshouse.evaluate.sanity.weights import data_randomisation, randomise_parameters


@pytest.fixture
def normed() -> nn.Sequential:
    """Convolution, norm, linear layer: every tensor has values of its own."""
    draws = torch.Generator().manual_seed(5)
    model = nn.Sequential(
        nn.Conv2d(3, 6, 3), nn.BatchNorm2d(6), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(6, 4)
    )
    for value in (*model.parameters(), model[1].running_mean):
        value.data.copy_(torch.randn(value.shape, generator=draws))
    model[1].running_var.copy_(0.5 + torch.rand(6, generator=draws))
    return model.eval()


@pytest.fixture
def attentive() -> Attentive:
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(0)
        return Attentive().eval()


def states(model: nn.Module, **plan) -> list[dict[str, torch.Tensor]]:
    """The state of the model at each step of the cascade."""
    module = copy.deepcopy(model)
    return [copy.deepcopy(each.state_dict()) for each in ever_more_random(module, Randomising(**plan), 0)]


def changed(model: nn.Module, state: dict[str, torch.Tensor]) -> set[str]:
    """Modules of which some tensor is not what it was."""
    return {name.rpartition(".")[0] for name, value in model.state_dict().items() if not value.equal(state[name])}


@pytest.mark.parametrize(
    ("order", "steps"),
    [
        ("full", [{"0", "1", "5"}]),
        ("top_down", [{"5"}, {"5", "1"}, {"5", "1", "0"}]),
        ("bottom_up", [{"0"}, {"0", "1"}, {"0", "1", "5"}]),
        ("independent", [{"5"}, {"1"}, {"0"}]),
    ],
)
def test_each_order_randomises_the_layers_that_it_names(normed, order, steps):
    assert [changed(normed, state) for state in states(normed, order=order)] == steps


def test_a_layer_gets_the_same_random_weights_in_every_order(normed):
    full, alone = states(normed)[0], states(normed, order="independent")
    for step, layer in enumerate(("5", "1", "0")):
        for name in ("weight", "bias"):
            assert alone[step][f"{layer}.{name}"].equal(full[f"{layer}.{name}"])
    for order in ("top_down", "bottom_up"):
        last = states(normed, order=order)[-1]
        assert all(last[name].equal(value) for name, value in full.items())


def test_statistics_of_norms_stay_or_are_reset(normed):
    kept, reset = states(normed)[0], states(normed, bn="reset")[0]
    assert kept["1.running_mean"].equal(normed[1].running_mean)
    assert reset["1.running_mean"].equal(torch.zeros(6))
    assert reset["1.running_var"].equal(torch.ones(6))
    assert states(normed, how="reset")[0]["1.running_mean"].equal(normed[1].running_mean)


def test_a_norm_without_weights_has_its_turn_when_statistics_are_reset(images):
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4, affine=False), nn.Flatten(), nn.LazyLinear(3)).eval()
    model(images)
    model[1].running_mean.fill_(2.0)
    assert Randomising(bn="reset").layers(model) == ["3", "1", "0"]
    assert Randomising(bn="keep").layers(model) == ["3", "0"]
    assert states(model, bn="reset")[0]["1.running_mean"].equal(torch.zeros(4))


def test_reset_calls_the_modules_own_initialiser_and_nobody_elses_randomness_moves(normed):
    before = torch.random.get_rng_state()
    first, second = (states(normed, how="reset", seed=seed)[0] for seed in (3, 3))
    assert all(first[name].equal(second[name]) for name in first)
    assert torch.random.get_rng_state().equal(before)
    bound = 1 / (3 * 9) ** 0.5  # kaiming_uniform with a = sqrt(5): uniform in ± 1 / sqrt(fan_in)
    assert first["0.weight"].abs().max() <= bound < normed[0].weight.abs().max()
    assert not first["0.weight"].equal(states(normed, how="reset", seed=4)[0]["0.weight"])


def test_quantus_leaves_parameters_without_an_initialiser_alone_but_here_a_class_token_is_randomised(attentive):
    model = attentive
    model.token.data.copy_(torch.randn(1, 1, 16, generator=torch.Generator().manual_seed(1)))
    model.scale = nn.Parameter(torch.linspace(1, 2, 16))  # as LayerScale holds: a bare parameter
    for how in ("permute", "reset"):
        state = states(model, how=how)[0]
        for name in ("token", "scale"):
            assert not state[name].equal(model.state_dict()[name])
            assert state[name].flatten().sort().values.equal(model.state_dict()[name].flatten().sort().values)
    score = randomise_parameters(model, torch.randn(2, 3, 12, 16), attribute.saliency(model, torch.randn(2, 3, 12, 16)))
    assert score.valid.all()


def test_every_tensor_of_a_transformer_becomes_random(attentive):
    for value in attentive.parameters():  # norms and biases too: trained ones are not all ones and zeros
        value.data.copy_(torch.randn(value.shape, generator=torch.Generator().manual_seed(value.numel())))
    state = states(attentive)[0]
    assert {name for name, value in attentive.named_parameters() if state[name].equal(value)} == set()


class Halfway(nn.Linear):
    """A layer with a gain that its initialiser forgets."""

    def __init__(self, *sizes: int):
        super().__init__(*sizes)
        self.gain = nn.Parameter(torch.arange(1.0, 1.0 + sizes[1]))

    def forward(self, x):
        return self.gain * super().forward(x)


def test_what_an_initialiser_leaves_as_it_was_is_permuted():
    model = nn.Sequential(nn.Flatten(), Halfway(12, 7)).eval()
    state = states(model, how="reset")[0]
    assert not state["1.weight"].flatten().sort().values.equal(model[1].weight.detach().flatten().sort().values)
    assert not state["1.gain"].equal(model[1].gain)
    assert state["1.gain"].sort().values.equal(model[1].gain.detach())


class Twice(nn.Module):
    """Two convolutions with one weight."""

    def __init__(self):
        super().__init__()
        self.one, self.two, self.head = nn.Conv2d(3, 3, 3), nn.Conv2d(3, 3, 3), nn.Linear(3, 4)
        self.two.weight = self.one.weight

    def forward(self, x):
        return self.head(self.two(self.one(x).relu()).relu().mean((2, 3)))


@pytest.mark.parametrize("order", get_args(Cascade))
def test_tied_weights_stay_tied_in_the_random_models_and_in_the_users(images, order):
    model = Twice().eval()
    before = copy.deepcopy(model.state_dict())
    for each in ever_more_random(copy.deepcopy(model), Randomising(order), 0):
        assert each.one.weight is each.two.weight
    explanation = attribute.input_x_gradient(model, images)
    assert randomise_parameters(model, images, explanation, order=order, how="reset").valid.all()
    assert model.one.weight is model.two.weight
    assert all(before[name].equal(value) for name, value in model.state_dict().items())


@pytest.mark.parametrize("name", ["grad_cam", "guided_backprop", "lrp", "attention_relevance"])
def test_methods_with_a_fast_copy_of_their_own_see_the_random_weights(normed, attentive, images, name):
    model, order, explain = normed, "top_down", getattr(attribute, name)
    if name.startswith("attention"):
        model, order = attentive, "full"
    explanation = explain(model, images)
    with torch.inference_mode():  # where nothing counts the changes of a weight
        score = randomise_parameters(model, images, explanation, order=order, seed=3)
    found = score.extras["cascade"].unbind(1) if order == "top_down" else [score.value]
    for value, state in zip(found, states(model, order=order, seed=3), strict=True):
        other = copy.deepcopy(model)
        other.load_state_dict(state)
        again = explain(other, images, list(explanation.target)).heatmap.abs().flatten(1)
        pairs = zip(explanation.heatmap.abs().flatten(1), again, strict=True)
        expected = torch.tensor([spearmanr(a, b).statistic for a, b in pairs], dtype=torch.float32)
        torch.testing.assert_close(value, expected, atol=2e-3, rtol=0)


def test_a_forward_that_still_calls_the_original_is_not_taken_for_a_map_that_survives(cnn, images):
    original = cnn.forward
    cnn.forward = lambda x: original(x)
    score = randomise_parameters(cnn, images, attribute.saliency(cnn, images))
    assert set(score.reason) == {"model_not_copyable"}


@pytest.mark.parametrize("bind", [partial, MethodType])
def test_a_forward_that_is_copied_with_its_model_is_randomised(cnn, images, bind):
    expected = randomise_parameters(cnn, images, attribute.saliency(cnn, images)).value
    cnn.forward = bind(nn.Sequential.forward, cnn)
    score = randomise_parameters(cnn, images, attribute.saliency(cnn, images))
    torch.testing.assert_close(score.value, expected, atol=1e-4, rtol=1e-3)


def test_an_error_in_the_method_leaves_the_model_as_it_was(cnn, images, own_methods):
    trained = cnn[0].weight.detach().clone()

    @method
    def fragile(model: nn.Module, inputs: Images, target: Target = None) -> Images:
        select(model(inputs), target)
        if not model[0].weight.equal(trained):
            raise RuntimeError("it fell")
        return inputs

    explanation = fragile(cnn, images)
    cnn.train()
    before = copy.deepcopy(cnn.state_dict())
    for order in ("full", "independent"):
        with pytest.raises(RuntimeError, match="it fell"):
            randomise_parameters(cnn, images, explanation, order=order)
    assert all(before[name].equal(value) for name, value in cnn.state_dict().items())
    assert all(module.training and not module._forward_hooks for module in cnn.modules())
    assert "forward" not in vars(cnn)


@pytest.mark.parametrize("order", ["top_down", "bottom_up", "independent"])
def test_quantus_averages_the_untouched_model_in_but_here_the_mean_is_over_random_models_alone(cnn, images, order):
    explanation = attribute.saliency(cnn, images)
    score = randomise_parameters(cnn, images, explanation, order=order, seed=2)
    module, expected = copy.deepcopy(cnn), []
    for each in ever_more_random(module, Randomising(order, seed=2), 0):
        other = attribute.saliency(copy.deepcopy(each), images, list(explanation.target)).heatmap
        pairs = zip(explanation.heatmap.flatten(1), other.flatten(1), strict=True)
        expected.append([spearmanr(a.numpy(), b.numpy()).statistic for a, b in pairs])
    expected = torch.tensor(np.array(expected)).float().T
    assert score.extras["cascade"].shape == (3, 3), "three layers, and no step without random weights"
    torch.testing.assert_close(score.extras["cascade"], expected, atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(score.value, expected.mean(1), atol=1e-5, rtol=1e-4)
    for name in ("ssim", "cosine", "spearman_signed", "hog"):
        torch.testing.assert_close(score.extras[f"cascade_{name}"].mean(1), score.extras[name])
    assert score.n_forward == 3 * 3


def test_a_model_that_is_not_random_gives_a_similarity_of_one(cnn, images):
    for parameter in cnn.parameters():
        parameter.data.fill_(0.5)  # permuting changes nothing
    score = randomise_parameters(cnn, images, attribute.input_x_gradient(cnn, images), order="top_down")
    torch.testing.assert_close(score.value, torch.ones(3))
    for name in ("ssim", "cosine", "spearman_signed", "hog"):
        torch.testing.assert_close(score.extras[name], torch.ones(3))


@pytest.mark.parametrize("size", [(40, 56), (24, 24), (33, 25)])
def test_histograms_of_gradients_agree_with_scikit_image(size, random_maps):
    maps = random_maps(2, size)
    for mine, each in zip(oriented_gradients(maps), maps, strict=True):
        scaled = (each / each.abs().max()).double().numpy()
        theirs = hog(scaled, orientations=9, pixels_per_cell=(8, 8), cells_per_block=(3, 3), feature_vector=True)
        torch.testing.assert_close(mine, torch.tensor(theirs), atol=1e-6, rtol=1e-5)


def test_small_maps_have_histograms_too(random_maps):
    assert oriented_gradients(random_maps(2, (3, 5))).shape == (2, 9 * 3 * 3 * 3)
    assert oriented_gradients(random_maps(2, (1, 2))).isfinite().all()


def test_signed_similarities_see_the_sign_and_absolute_ones_do_not(random_maps):
    maps = random_maps(2, (16, 20))
    found = likeness(maps, -maps, absolute=True)
    for name, value in (("cosine", -1.0), ("spearman_signed", -1.0), ("ssim", 1.0), ("hog", 1.0)):
        torch.testing.assert_close(found[name], torch.full((2,), value, dtype=torch.float64))


def test_a_model_trained_on_other_labels_is_compared_by_hand(cnn, images):
    other = copy.deepcopy(cnn)
    other[7].weight.data.neg_()
    explanation = attribute.saliency(cnn, images)
    score = data_randomisation(cnn, images, explanation, other_model=other)
    torch.testing.assert_close(score.value, torch.ones(3))  # the gradient only changes its sign
    other[3].weight.data.copy_(other[3].weight.flip(0))
    score = data_randomisation(cnn, images, explanation, other_model=other)
    maps = attribute.saliency(other, images, list(explanation.target)).heatmap
    rows = zip(explanation.heatmap.flatten(1), maps.flatten(1), strict=True)
    expected = [spearmanr(a.numpy(), b.numpy()).statistic for a, b in rows]
    torch.testing.assert_close(score.value.double(), torch.tensor(expected), atol=1e-5, rtol=1e-5)
    assert (score.chance, score.direction, score.n_forward, score.n_backward) == (1.0, "down", 3, 3)


def test_an_edge_detector_learns_nothing_from_labels(cnn, images, sobel):
    other = nn.Sequential(nn.Flatten(), nn.Linear(14 * 18 * 3, 4))
    score = data_randomisation(cnn, images, sobel(cnn, images), other_model=other)
    torch.testing.assert_close(score.value, torch.ones(3))


def test_wrong_plans_are_refused(cnn, images):
    explanation = attribute.saliency(cnn, images)
    untyped = getattr(randomise_parameters, "__wrapped__", randomise_parameters)
    for name, wrong in (("order", "sideways"), ("how", "burn"), ("bn", "recalibrate")):
        with pytest.raises(BadInput, match=f"{name} '{wrong}' is unknown"):
            untyped(cnn, images, explanation, **{name: wrong})


def test_the_models_are_asked_one_after_the_other(cnn):
    assert over_random_models(cnn, Randomising("top_down", n_draws=2), lambda module: 1) == [1] * 6


def test_a_model_with_hooks_is_randomised_in_inference_mode_too(cnn, images, counted):
    explanation = attribute.input_x_gradient(cnn, images)
    plain = randomise_parameters(cnn, images, explanation)
    sizes = counted(cnn)
    with torch.inference_mode():
        score = randomise_parameters(cnn, images, explanation)
    torch.testing.assert_close(score.value, plain.value, atol=1e-4, rtol=1e-3)
    assert sizes == [3]
