"""What every metric of the registry must do, whoever wrote it."""

import math
from functools import cache
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor, nn

from glasshouse import attribute, evaluate
from glasshouse.core import Explanation, find_method
from glasshouse.evaluate.baselines import Donors

METRICS = evaluate.list_metrics()
OF_A_SET = ("consistency", "sufficiency")  # they ask whether images with equal maps have equal answers
every_metric = pytest.mark.parametrize("name", METRICS)
every_metric_of_an_image = pytest.mark.parametrize("name", [name for name in METRICS if name not in OF_A_SET])
THREE = (3, 3, 14, 18)


class Case(NamedTuple):
    """What metrics are called with: made once, because nothing may change it."""

    model: nn.Module
    images: Tensor
    explanation: Explanation
    known: dict[str, Any]
    batches: list[int]


@cache
def case(shape=THREE, counted=False):
    """A network, images, a map, and all that some metric wants to know besides.

    Args:
        counted: note the sizes of batches; the hook for it keeps methods from a fast copy of the network.
    """
    n, c, h, w = shape
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(0)
        body = nn.Conv2d(c, 6, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(6, 8, 3, padding=1), nn.ReLU()
        model = nn.Sequential(*body, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 4)).eval()
    images = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    masks = torch.zeros(n, h, w, dtype=torch.bool)
    masks[:, 2:7, 3:8] = True
    labels = (torch.arange(h * w).view(h, w) * 4 // (h * w)).expand(n, h, w)
    known = {
        "masks": masks,
        "other_masks": masks.flip(2),
        "parts": torch.stack([labels == part for part in range(4)], 1),
        "other_model": model,
        "adversarial": flipped(model, images),
    }
    explanation, batches = attribute.integrated_gradients(model, images, n_steps=2), list[int]()
    if counted:
        model.register_forward_hook(lambda module, args, output: batches.append(len(args[0])))
    return Case(model, images, explanation, known, batches)


def flipped(model, images):
    """The images moved against their class until another one wins."""
    moved = images.clone()
    first = model(moved).argmax(1)
    for _ in range(200):
        moved.requires_grad_()
        logits = model(moved)
        top, second = logits.topk(2, dim=1).values.unbind(1)
        lead = logits.gather(1, first[:, None])[:, 0] - torch.where(logits.argmax(1) == first, second, top)
        if lead.amax() < -1e-2:
            break
        (gradient,) = torch.autograd.grad(lead.sum(), moved)
        step = gradient / gradient.flatten(1).norm(dim=1).clamp(min=1e-9).view(-1, 1, 1, 1)
        moved = (moved - step * (lead > -1e-2).float().view(-1, 1, 1, 1)).detach()
    return moved.detach()


def settings_of(name, given, **more):
    info = find_method(name, "evaluate")
    return {key: each for key, each in given.known.items() if key in info.parameters.parameters} | info.example | more


def call(name, given, **more):
    metric = find_method(name, "evaluate").function
    return metric(given.model, given.images, given.explanation, **settings_of(name, given, **more))


@cache
def score_of(name):
    """The score that all are compared with."""
    return call(name, case())


def test_all_metrics_are_listed_and_found_by_pattern():
    assert {"deletion", "insertion", "srg", "mu_fidelity", "sparseness"} <= set(METRICS)
    assert evaluate.list_metrics("*fidelity") == ["infidelity", "mu_fidelity"]


@every_metric_of_an_image
@pytest.mark.parametrize("shape", [(1, 1, 12, 20), (2, 3, 15, 11), THREE], ids=str)
def test_any_image_gets_a_number_or_a_reason(name, shape):
    score = score_of(name) if shape == THREE else call(name, case(shape))
    assert score.metric == name
    assert len(score.value) == len(score.stderr) == len(score.reason) == shape[0]
    assert score.valid.all()
    assert (score.stderr >= 0).all()
    assert score.n_forward >= 0


@every_metric_of_an_image
def test_an_image_scores_the_same_alone_and_among_others(name):
    together, (model, images, explanation, known, _) = score_of(name), case()
    last = {key: each[2:] if isinstance(each, Tensor) else each for key, each in known.items()}
    alone = call(name, Case(model, images[2:], explanation[2], last, []))
    torch.testing.assert_close(alone.value, together.value[2:], atol=2e-4, rtol=1e-3)
    torch.testing.assert_close(alone.stderr, together.stderr[2:], atol=2e-4, rtol=1e-2)


@every_metric
def test_the_same_seed_gives_the_same_score_and_no_other_randomness_moves(name):
    first, before = score_of(name), torch.random.get_rng_state()
    again = call(name, case())
    torch.testing.assert_close(again.value, first.value, atol=0, rtol=0, equal_nan=True)
    assert before.equal(torch.random.get_rng_state())


@every_metric
def test_declared_passes_are_the_passes_made(name):
    given = case(counted=True)
    given.batches.clear()
    score, info = call(name, given), find_method(name, "evaluate")
    assert score.n_forward == sum(given.batches)
    cost = info.price({**info.defaults, **settings_of(name, given)}, THREE)
    assert cost is None or score.n_forward == 3 * cost.forward


@pytest.mark.parametrize(
    "name", [name for name in METRICS if "baseline" in find_method(name, "evaluate").parameters.parameters]
)
def test_every_metric_with_a_baseline_takes_donors_and_declares_their_passes(name):
    given, info = case(counted=True), find_method(name, "evaluate")
    given.batches.clear()
    donors = Donors.of(torch.randn(2, *THREE[1:], generator=torch.Generator().manual_seed(1)))
    removing = {"perturbation": "square", "n_samples": 8} if name == "infidelity" else {}
    score = call(name, given, baseline=donors, **removing)
    assert score.valid.all()
    assert score.n_forward == sum(given.batches)
    cost = info.price({**info.defaults, **settings_of(name, given, baseline=donors, **removing)}, THREE)
    assert cost is None or score.n_forward == 3 * cost.forward


@every_metric
@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_it_works_without_gradients_and_in_inference_mode(name, mode):
    with mode():
        torch.testing.assert_close(call(name, case()).value, score_of(name).value, equal_nan=True)


@every_metric
def test_maps_that_say_nothing_never_give_an_unexplained_gap(name, explained):
    maps = torch.ones(3, 14, 18)
    maps[1] = torch.nan
    maps[2] = 0.0
    score = call(name, case()._replace(explanation=explained(maps, 1, method="saliency")))
    for value, reason in zip(score.value.tolist(), score.reason, strict=True):
        assert math.isnan(value) == bool(reason)
    assert score.reason[1] != ""


@every_metric
def test_a_score_is_saved_and_shown(name, tmp_path):
    score = score_of(name)
    again = type(score).load(score.save(tmp_path / "score.safetensors"))
    assert repr(again) == repr(score)
    assert name in repr(score)
