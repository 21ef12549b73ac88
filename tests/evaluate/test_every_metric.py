"""What every metric of the registry must do, whoever wrote it."""

import math

import pytest
import torch
from torch import nn

from glasshouse import attribute, evaluate
from glasshouse.core import find_method

METRICS = evaluate.list_metrics()
every_metric = pytest.mark.parametrize("name", METRICS)
OF_A_SET = ("consistency", "sufficiency")  # they ask whether images with equal maps have equal answers


def needed(name, model, images):
    """What a metric wants to know besides images and map: masks, parts, another model, attacked images."""
    n, _, h, w = images.shape
    masks = torch.zeros(n, h, w, dtype=torch.bool)
    masks[:, 2:7, 3:8] = True
    labels = (torch.arange(h * w).view(h, w) * 4 // (h * w)).expand(n, h, w)
    known = {
        "masks": lambda: masks,
        "other_masks": lambda: masks.flip(2),
        "parts": lambda: torch.stack([labels == part for part in range(4)], 1),
        "other_model": lambda: model,
        "adversarial": lambda: flipped(model, images),
    }
    return {key: make() for key, make in known.items() if key in find_method(name, "evaluate").parameters.parameters}


def flipped(model, images):
    """The images moved against their class until another one wins."""
    with torch.inference_mode(False), torch.enable_grad():
        moved = images.clone()
        first = model(moved).argmax(1)
        for _ in range(200):
            moved.requires_grad_()
            logits = model(moved)
            top, second = logits.topk(2, dim=1).values.unbind(1)
            lead = logits.gather(1, first[:, None])[:, 0] - torch.where(logits.argmax(1) == first, second, top)
            (gradient,) = torch.autograd.grad(lead.sum(), moved)
            step = gradient / gradient.flatten(1).norm(dim=1).clamp(min=1e-9).view(-1, 1, 1, 1)
            moved = (moved - step * (lead > -1e-2).float().view(-1, 1, 1, 1)).detach()
    return moved


def call(name, model, images, explanation, **settings):
    info = find_method(name, "evaluate")
    return info.function(model, images, explanation, **{**needed(name, model, images), **info.example, **settings})


def test_all_metrics_are_listed_and_found_by_pattern():
    assert {"deletion", "insertion", "srg", "mu_fidelity", "sparseness"} <= set(METRICS)
    assert evaluate.list_metrics("*fidelity") == ["infidelity", "mu_fidelity"]


@pytest.mark.parametrize("name", [name for name in METRICS if name not in OF_A_SET])
@pytest.mark.parametrize("shape", [(1, 1, 12, 20), (3, 3, 15, 11), (2, 3, 16, 16)], ids=str)
def test_any_image_gets_a_number_or_a_reason(name, shape):
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(0)
        model = nn.Sequential(nn.Conv2d(shape[1], 4, 3), nn.ReLU(), nn.Flatten(2), nn.AdaptiveAvgPool1d(3)).eval()
        model = nn.Sequential(model, nn.Flatten(), nn.Linear(12, 5)).eval()
    images = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    score = call(name, model, images, attribute.integrated_gradients(model, images, n_steps=2))
    assert score.metric == name
    assert len(score.value) == len(score.stderr) == len(score.reason) == shape[0]
    assert score.valid.all()
    assert (score.stderr >= 0).all()
    assert score.n_forward >= 0


@pytest.mark.parametrize("name", [name for name in METRICS if name not in OF_A_SET])
def test_an_image_scores_the_same_alone_and_among_others(name, cnn, images):
    explanation = attribute.integrated_gradients(cnn, images, n_steps=2)
    together = call(name, cnn, images, explanation)
    for index in range(3):
        alone = call(name, cnn, images[index : index + 1], explanation[index])
        torch.testing.assert_close(alone.value, together.value[index : index + 1], atol=2e-4, rtol=1e-3)
        torch.testing.assert_close(alone.stderr, together.stderr[index : index + 1], atol=2e-4, rtol=1e-2)


@every_metric
def test_the_same_seed_gives_the_same_score_and_no_other_randomness_moves(name, cnn, images):
    explanation = attribute.input_x_gradient(cnn, images)
    before = torch.random.get_rng_state()
    first, second = (call(name, cnn, images, explanation) for _ in range(2))
    torch.testing.assert_close(first.value, second.value, atol=0, rtol=0, equal_nan=True)
    assert before.equal(torch.random.get_rng_state())


@every_metric
def test_declared_passes_are_the_passes_made(name, cnn, images, counted):
    explanation = attribute.integrated_gradients(cnn, images, n_steps=2)
    extra = needed(name, cnn, images)
    sizes, info = counted(cnn), find_method(name, "evaluate")
    score = info.function(cnn, images, explanation, **{**extra, **info.example})
    assert score.n_forward == sum(sizes)
    settings = {**info.defaults, **extra, **info.example}
    if (cost := info.price(settings, images.shape)) is not None:
        assert score.n_forward == 3 * cost.forward


@every_metric
def test_it_works_without_gradients_and_in_inference_mode(name, cnn, images):
    explanation = attribute.input_x_gradient(cnn, images)
    plain = call(name, cnn, images, explanation).value
    with torch.no_grad():
        torch.testing.assert_close(call(name, cnn, images, explanation).value, plain, equal_nan=True)
    with torch.inference_mode():
        torch.testing.assert_close(call(name, cnn, images, explanation).value, plain, equal_nan=True)


@every_metric
def test_maps_that_say_nothing_never_give_an_unexplained_gap(name, cnn, images, explained):
    maps = torch.ones(3, 14, 18)
    maps[1] = torch.nan
    maps[2] = 0.0
    score = call(name, cnn, images, explained(maps, 1, method="saliency"))
    for value, reason in zip(score.value.tolist(), score.reason, strict=True):
        assert math.isnan(value) == bool(reason)
    assert score.reason[1] != ""


@every_metric
def test_a_score_is_saved_and_shown(name, cnn, images, tmp_path):
    score = call(name, cnn, images, attribute.input_x_gradient(cnn, images))
    again = type(score).load(score.save(tmp_path / "score.safetensors"))
    assert repr(again) == repr(score)
    assert name in repr(score)
