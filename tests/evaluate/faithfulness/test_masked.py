"""The image seen through the map: by hand, at the ends of the scale, and with the method run again."""

import numpy as np
import pytest
import torch
from torch import nn

from glasshouse import attribute
from glasshouse.core import Model, Preprocess, blur
from glasshouse.evaluate.engine import Answers
from glasshouse.evaluate.faithfulness.masked import adcc, average_drop, average_gain, increase_in_confidence

METRICS = (average_drop, increase_in_confidence, average_gain)


def through(image, heatmap):
    """The image times the map stretched to 0…1, pixel by pixel."""
    low, high = float(heatmap.min()), float(heatmap.max())
    seen = torch.zeros_like(image)
    for row in range(heatmap.shape[0]):
        for col in range(heatmap.shape[1]):
            seen[:, row, col] = image[:, row, col] * (float(heatmap[row, col]) - low) / (high - low)
    return seen


def probabilities(model, images, maps, target):
    with torch.no_grad():
        before = model(images).softmax(1)[:, target].tolist()
        seen = torch.stack([through(image, heatmap) for image, heatmap in zip(images, maps, strict=True)])
        return list(zip(before, model(seen).softmax(1)[:, target].tolist(), strict=True))


@pytest.mark.parametrize("target", [0, 1, 2, 3])
def test_drop_increase_and_gain_are_what_the_papers_write(cnn, images, explained, random_maps, target):
    maps = random_maps(3, (14, 18))
    pairs = probabilities(cnn, images, maps, target)
    slow = [
        [max(0, p - behind) / p for p, behind in pairs],
        [float(behind > p) for p, behind in pairs],
        [max(0, behind - p) / (1 - p) for p, behind in pairs],
    ]
    for metric, values in zip(METRICS, slow, strict=True):
        score = metric(cnn, images, explained(maps, target))
        assert score.value.tolist() == pytest.approx(values, abs=1e-5)
        assert score.n_forward == 6
        assert score.extras["masked"].tolist() == pytest.approx([behind for _, behind in pairs], abs=1e-6)


def test_the_three_share_their_passes(cnn, images, explained, random_maps, counted):
    sizes, explanation = counted(cnn), explained(random_maps(3, (14, 18)), 1)
    answers = Answers(cnn, images, 1)
    spent = [metric(cnn, images, explanation, answers=answers).n_forward for metric in METRICS]
    assert spent == [6, 0, 0]
    assert sum(sizes) == 6


def test_a_map_of_all_that_counts_loses_nothing(linear, inputs, explained):
    images = inputs.abs()
    linear.weight.data = torch.zeros(1, 6, 8, dtype=torch.float64)
    linear.weight.data[:, 2:4, 3:6] = 1.0
    right = explained(linear.weight.detach()[0].float().expand(3, 6, 8))
    wrong = explained(1 - right.heatmap)
    for score in ("logit", "prob"):
        assert average_drop(linear, images, right, score=score).value.tolist() == pytest.approx([0] * 3, abs=1e-6)
    assert average_drop(linear, images, wrong, score="logit").value.tolist() == pytest.approx([1] * 3)
    assert increase_in_confidence(linear, images, right).value.tolist() == [0, 0, 0]


def test_a_map_that_hides_what_speaks_against_the_class_raises_it(linear, inputs, explained):
    images = inputs.abs()
    linear.weight.data = torch.ones(1, 6, 8, dtype=torch.float64)
    linear.weight.data[:, :, :4] = -1.0
    explanation = explained((linear.weight.detach()[0].float() > 0).float().expand(3, 6, 8))
    assert increase_in_confidence(linear, images, explanation).value.tolist() == [1, 1, 1]
    left, right = images[..., :4].sum((1, 2, 3)), images[..., 4:].sum((1, 2, 3))
    before, behind = (right - left).sigmoid(), right.sigmoid()
    torch.testing.assert_close(
        average_gain(linear, images, explanation).value,
        ((behind - before) / (1 - before)).float(),
        atol=1e-5,
        rtol=1e-4,
    )


def test_another_baseline_shows_through_where_the_map_is_low(cnn, images, explained, random_maps):
    maps = random_maps(3, (14, 18))
    flat = maps.flatten(1)
    mask = ((flat - flat.amin(1, True)) / (flat.amax(1, True) - flat.amin(1, True))).view_as(maps)[:, None]
    seen = mask * images + (1 - mask) * blur(images, 2.0)
    score = average_drop(cnn, images, explained(maps, 1), baseline="blur:2")
    torch.testing.assert_close(score.extras["masked"], cnn(seen).softmax(1)[:, 1].detach(), atol=1e-6, rtol=1e-5)


def test_a_colour_is_recorded_by_its_name(cnn, images, explained, random_maps):
    model = Model.of(cnn, preprocess=Preprocess(size=(14, 18), mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5)))
    score = average_drop(model, images, explained(random_maps(3, (14, 18)), 1), baseline="rgb:0.5")
    assert score.settings["baseline"] == "rgb:0.5"
    black = average_drop(cnn, images, explained(random_maps(3, (14, 18)), 1), baseline=0.0)
    torch.testing.assert_close(score.value, black.value)  # 0.5 is normalised to 0


def test_a_score_without_room_has_a_reason(linear, inputs, explained, contributions):
    explanation = explained(contributions.float())
    signs = (contributions.flatten(1).sum(1) > 0).tolist()
    drop = average_drop(linear, inputs, explanation, score="logit")
    assert list(drop.reason) == ["" if sign else "score_not_positive" for sign in signs]
    linear.weight.data *= 1e3
    gain = average_gain(linear, inputs, explanation)
    assert list(gain.reason) == ["already_certain" if sign else "" for sign in signs]


@pytest.mark.parametrize("metric", METRICS)
def test_a_map_that_cannot_be_stretched_has_a_reason_and_harms_no_other(metric, cnn, images, explained, random_maps):
    maps = random_maps(3, (14, 18))
    whole = metric(cnn, images, explained(maps, 1)).value
    maps[0], maps[2, 3, 4] = 0.7, torch.nan
    score = metric(cnn, images, explained(maps, 1))
    assert score.reason == ("constant_map", "", "not_finite")
    torch.testing.assert_close(score.value[1], whole[1])


def test_adcc_is_the_harmonic_mean_of_its_parts_by_hand(cnn, images):
    explanation = attribute.grad_cam(cnn, images, 2, layer="4")
    score = adcc(cnn, images, explanation)
    pairs = probabilities(cnn, images, explanation.heatmap, 2)
    for index, (before, behind) in enumerate(pairs):
        heatmap = explanation.heatmap[index]
        seen = through(images[index], heatmap)[None]
        again = attribute.grad_cam(cnn, seen, 2, layer="4").heatmap[0]
        coherency = (1 + np.corrcoef(heatmap.flatten().double(), again.flatten().double())[0, 1]) / 2
        complexity = float(((heatmap - heatmap.min()) / (heatmap.max() - heatmap.min())).mean())
        drop = max(0, before - behind) / before
        value = 3 / (1 / coherency + 1 / (1 - complexity) + 1 / (1 - drop))
        assert float(score.value[index]) == pytest.approx(value, abs=1e-4)
        assert float(score.extras["coherency"][index]) == pytest.approx(coherency, abs=1e-4)
        assert float(score.extras["complexity"][index]) == pytest.approx(complexity, abs=1e-5)
        assert float(score.extras["average_drop"][index]) == pytest.approx(drop, abs=1e-5)
    assert (score.n_forward, score.n_backward) == (3 * 3, 3)


def test_adcc_says_why_there_is_none(cnn, images, explained, random_maps):
    maps = random_maps(3, (14, 18))
    assert set(adcc(cnn, images, explained(maps, 1)).reason) == {"unknown_method"}
    assert set(adcc(cnn, images, explained(maps, None)).reason) == {"custom_target"}
    blind = nn.Sequential(nn.Flatten(), nn.Linear(3 * 14 * 18, 2)).eval()
    with torch.no_grad():
        blind[1].weight.zero_()
    score = adcc(blind, images, explained(maps, 1, method="saliency"))
    assert set(score.reason) == {"masked_constant_map"}


def test_adcc_of_a_map_that_hides_everything_is_nothing(linear, inputs, explained):
    linear.weight.data = torch.full((1, 6, 8), -40.0, dtype=torch.float64)
    linear.weight.data[:, 0, 0] = 4000.0
    images = torch.ones_like(inputs)
    maps = torch.ones(3, 6, 8) - linear.weight.detach()[0].float().clamp(min=0).sign()
    score = adcc(linear, images, explained(maps, method="input_x_gradient"))
    assert score.value.tolist() == pytest.approx([0] * 3, abs=1e-5)
    assert score.extras["average_drop"].tolist() == pytest.approx([1] * 3)
