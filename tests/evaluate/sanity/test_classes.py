"""Other classes, adversarial twins: closed forms for linear models, and what Sobel edges must score."""

import math

import pytest
import torch
from scipy.stats import spearmanr
from torch import nn

from glasshouse import attribute
from glasshouse.core import BadInput
from glasshouse.evaluate.sanity import replaying
from glasshouse.evaluate.sanity.classes import adversarial_sensitivity, drawn_classes, logit_distance, random_logit


def linear(classes: int) -> nn.Sequential:
    """A linear classifier of images of 14 × 18 pixels."""
    model = nn.Sequential(nn.Flatten(), nn.Linear(3 * 14 * 18, classes))
    model[1].weight.data.copy_(torch.randn(model[1].weight.shape, generator=torch.Generator().manual_seed(0)))
    return model.eval()


def test_an_edge_detector_draws_the_same_for_every_class(cnn, images, sobel):
    explanation = sobel(cnn, images)
    for others in (1, "top5"):
        score = random_logit(cnn, images, explanation, others=others)
        torch.testing.assert_close(score.value, torch.ones(3))
    assert (score.chance, score.direction) == (1.0, "down")
    torch.testing.assert_close(logit_distance(cnn, images, explanation).value, torch.zeros(3))
    twin = adversarial_sensitivity(cnn, images, sobel(cnn, images, 0), adversarial=images)
    assert twin.value[twin.valid].abs().max() < 1e-6


def test_the_cosine_of_class_maps_of_a_linear_model_is_exact(images):
    model = linear(3)
    rows = model[1].weight.detach()
    explanation = attribute.saliency(model, images, 0)
    score = logit_distance(model, images, explanation, other=2)
    cosine = torch.cosine_similarity(rows[0], rows[2], dim=0)
    torch.testing.assert_close(score.extras["cosine"], cosine.expand(3))
    torch.testing.assert_close(score.extras["unit_distance"], (2 - 2 * cosine).sqrt().expand(3))
    apart = (rows[0] / rows[0].abs().max() - rows[2] / rows[2].abs().max()).norm()
    torch.testing.assert_close(score.value, apart.expand(3))
    assert score.extras["other"].tolist() == [2, 2, 2]


def test_the_map_of_a_random_class_is_compared_by_hand(images):
    model = linear(4)
    explanation = attribute.input_x_gradient(model, images, [0, 1, 2])
    score = random_logit(model, images, explanation, others=3)
    for index in range(3):
        others = [k for k in range(4) if k != index]
        assert sorted(score.extras["others"][index].int().tolist()) == others
        maps = [attribute.input_x_gradient(model, images[index : index + 1], k).heatmap.flatten() for k in others]
        expected = [spearmanr(explanation.heatmap[index].flatten(), each).statistic for each in maps]
        assert float(score.value[index]) == pytest.approx(sum(expected) / 3, abs=1e-5)
    some = random_logit(model, images, explanation, others=2)
    for index, drawn in enumerate(some.extras["others"].int().tolist()):
        maps = [attribute.input_x_gradient(model, images[index : index + 1], k).heatmap.flatten() for k in drawn]
        one, two = (spearmanr(explanation.heatmap[index].flatten(), each).statistic for each in maps)
        assert float(some.stderr[index]) == pytest.approx(abs(one - two) / 2, abs=1e-5), "of the mean of two draws"


@pytest.mark.parametrize("classes", [2, 10])
def test_quantus_fails_below_a_thousand_classes_but_here_any_number_will_do(images, classes):
    model = linear(classes)
    for others in (1, 5, 1000, "top5"):
        score = random_logit(model, images, attribute.saliency(model, images), others=others)
        assert score.valid.all()
        count = min(5 if others == "top5" else others, classes - 1)
        assert score.extras["others"].shape == (3, count)
        assert score.n_forward == 3 * (1 + count)
        assert score.n_backward == 3 * count


def test_the_top_five_are_the_five_best_others():
    scores = torch.tensor([[3.0, 9, 1, 7, 5, 8, 2], [3.0, 9, 1, 7, 5, 8, 2]])
    assert drawn_classes(scores, (1, 4), "top5", 0).tolist() == [[5, 3, 4, 0, 6], [1, 5, 3, 0, 6]]


def test_random_classes_are_in_the_same_order_for_every_image_and_never_the_target():
    draws = [drawn_classes(torch.zeros(20, 20), tuple(range(20)), 1, seed)[:, 0] for seed in range(6)]
    for drawn in draws:
        assert (drawn != torch.arange(20)).all()
        assert len(drawn.unique()) == 2, "one class, and the next one where that is the target"
    assert len({drawn[0].item() for drawn in draws}) > 1


def test_one_class_has_no_other(images):
    model = linear(1)
    explanation = attribute.saliency(model, images)
    assert set(random_logit(model, images, explanation).reason) == {"no_other_class"}
    assert set(logit_distance(model, images, explanation).reason) == {"no_other_class"}


def test_the_number_of_maps_made_at_once_does_not_matter(cnn, images, monkeypatch):
    explanation = attribute.smooth(cnn, images, n_samples=2)
    whole = random_logit(cnn, images, explanation, others=3).value
    monkeypatch.setattr(replaying, "MOST_AT_ONCE", 2)
    torch.testing.assert_close(random_logit(cnn, images, explanation, others=3).value, whole)


def test_baselines_given_for_each_image_stay_with_it(images, monkeypatch):
    model = linear(4)
    baselines = torch.tensor([0.0, 1.0, -2.0]).view(3, 1, 1, 1)
    explanation = attribute.integrated_gradients(model, images, 0, baselines=baselines, n_steps=1)
    score = random_logit(model, images, explanation, others=3)
    for index in range(3):
        alone = attribute.integrated_gradients(
            model, images[index : index + 1], 0, baselines=baselines[index : index + 1], n_steps=1
        )
        one = random_logit(model, images[index : index + 1], alone, others=3)
        torch.testing.assert_close(one.value, score.value[index : index + 1], atol=1e-4, rtol=1e-4)


def test_a_map_that_follows_the_decision_moves_when_it_flips(images):
    model = linear(2)
    model[1].bias.data.zero_()
    attacked = -images
    explanation = attribute.saliency(model, images)
    score = adversarial_sensitivity(model, images, explanation, adversarial=attacked)
    rows = model[1].weight.detach()
    apart = (rows[0] / rows[0].abs().max() - rows[1] / rows[1].abs().max()).norm()
    torch.testing.assert_close(score.value, apart.expand(3))
    assert score.extras["new_class"].int().tolist() == [1 - target for target in explanation.target]
    assert (score.n_forward, score.n_backward) == (6, 3)


def test_an_attack_that_changes_nothing_says_so(cnn, images):
    explanation = attribute.saliency(cnn, images)
    score = adversarial_sensitivity(cnn, images, explanation, adversarial=images.clone())
    assert set(score.reason) == {"not_flipped"}


def test_maps_changed_by_hand_and_maps_of_zeros_have_reasons(cnn, images, explained):
    maps = torch.rand(3, 14, 18)
    maps[0], maps[1, 2, 3] = 1.0, math.nan
    score = random_logit(cnn, images, explained(maps, 1, method="saliency"))
    assert score.reason == ("constant_map", "not_finite", "")
    changed = explained(torch.rand(3, 14, 18), 1, method="saliency")
    assert set(logit_distance(cnn, images, changed).reason) == {"edited_map"}
    cnn[7].weight.data[0] = 0.0
    empty = attribute.saliency(cnn, images, 0)
    assert set(logit_distance(cnn, images, empty, other=1).reason) == {"zero_total"}
    other = attribute.saliency(cnn, images, 1)
    assert set(logit_distance(cnn, images, other, other=0).reason) == {"other_zero_total"}


def test_wrong_settings_are_refused(cnn, images):
    explanation = attribute.saliency(cnn, images)
    with pytest.raises(BadInput, match="no number of classes"):
        random_logit(cnn, images, explanation, others=0)
    with pytest.raises(BadInput, match="no number of classes"):
        getattr(random_logit, "__wrapped__", random_logit)(cnn, images, explanation, others="top3")
    untyped = getattr(adversarial_sensitivity, "__wrapped__", adversarial_sensitivity)
    with pytest.raises(BadInput, match="not versions of images"):
        untyped(cnn, images, explanation, adversarial=images[:1])
    with pytest.raises(BadInput, match="NaN"):
        adversarial_sensitivity(cnn, images, explanation, adversarial=images * math.nan)
    with pytest.raises(BadInput, match="out of range"):
        logit_distance(cnn, images, explanation, other=9)
