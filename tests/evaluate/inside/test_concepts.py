"""Concepts that hold all, half or nothing of what a head reads, and directions that were planted."""

import math

import pytest
import torch
from torch import nn

from glasshouse import data, dissect
from glasshouse.core import BadInput
from glasshouse.core.plan import TrainingModeWarning
from glasshouse.data import glass
from glasshouse.evaluate.inside.concepts import concept_completeness, direction_cosine


def draw(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@pytest.fixture(scope="module")
def world():
    """Features of 12 dimensions, of which a linear head reads four."""
    head = nn.Linear(12, 4, bias=False)
    nn.init.zeros_(head.weight)
    head.weight.data[torch.arange(4), torch.arange(4)] = 1.0
    features = draw(400, 12)
    return features, head.requires_grad_(False), torch.arange(400) % 2 == 0


def test_concepts_that_span_what_the_head_reads_are_complete(world):
    features, head, held_out = world
    turned = torch.linalg.qr(draw(4, 4, seed=3)).Q @ torch.eye(4, 12)
    seen = concept_completeness(features, turned, head, held_out=held_out)
    assert seen.eta > 0.97
    assert seen.model.share == 1.0
    assert seen.eta > seen.chance + 3 * seen.stderr


def test_concepts_that_the_head_does_not_read_recover_nothing(world):
    features, head, held_out = world
    seen = concept_completeness(features, torch.eye(12)[4:7], head, held_out=held_out)
    assert abs(seen.eta) < 0.12
    assert seen.constant.share == pytest.approx(0.25, abs=0.06)


def test_half_of_the_concepts_recover_what_the_best_rule_on_them_does(world):
    features, head, held_out = world
    seen = concept_completeness(features, torch.eye(12)[:2], head, held_out=held_out)
    # The best rule knows x1 and x2: the larger of them where it is above the median of the maximum of two others.
    limit = 0.5449  # Φ(t)² = 1/2
    best = features[:, :2].amax(1) > limit
    said = features[:, :2].argmax(1)
    guess = torch.where(best, said, 2)
    right = (guess == features[:, :4].argmax(1))[held_out].double().mean()
    assert seen.concepts.share == pytest.approx(float(right), abs=0.06)
    assert 0.2 < seen.eta < 0.7


def test_eta_is_the_ratio_of_its_accuracies_and_the_error_its_spread(world):
    features, head, held_out = world
    labels = head(features).argmax(1)
    labels[::5] = 0
    seen = concept_completeness(features, torch.eye(12)[:3], head, labels, held_out=held_out)
    constant = seen.constant.share
    assert seen.eta == pytest.approx((seen.concepts.share - constant) / (seen.model.share - constant))
    assert seen.model.share < 1
    assert 0 < seen.stderr < 0.2
    assert seen.random.shape == (3,)


def test_it_is_measured_without_gradients_and_leaves_the_head_alone(world):
    features, head, held_out = world
    before = head.weight.clone()
    plain = concept_completeness(features, torch.eye(12)[:3], head, held_out=held_out, n_random=1)
    with torch.no_grad():
        assert concept_completeness(features, torch.eye(12)[:3], head, held_out=held_out, n_random=1).eta == plain.eta
    with torch.inference_mode():
        inside = concept_completeness(features, torch.eye(12)[:3], head, held_out=held_out, n_random=1)
    assert inside.eta == plain.eta
    assert head.weight.equal(before)
    assert head.weight.grad is None


def test_a_head_that_always_says_the_same_leaves_nothing_to_recover(world):
    features, _, held_out = world
    always = nn.Linear(12, 3)
    nn.init.zeros_(always.weight)
    always.bias.data.copy_(torch.tensor([1.0, 0, 0]))
    assert math.isnan(concept_completeness(features, torch.eye(12)[:1], always, held_out=held_out).eta)


def test_a_head_that_learns_while_it_runs_is_as_it_was_afterwards(world):
    features, head, held_out = world
    normed = nn.Sequential(nn.BatchNorm1d(12), head).train()
    with pytest.warns(TrainingModeWarning):
        seen = concept_completeness(features, torch.eye(12)[:3], normed, held_out=held_out, n_random=1, n_steps=2)
    assert normed.training
    assert normed[0].running_mean.equal(torch.zeros(12))
    plain = concept_completeness(features, torch.eye(12)[:3], normed.eval(), held_out=held_out, n_random=1, n_steps=2)
    assert seen.eta == plain.eta


def test_images_must_be_held_out(world):
    features, head, held_out = world
    with pytest.raises(BadInput, match="399 of 400 images held out"):  # nothing is learnt from one image
        concept_completeness(features, torch.eye(12), head, held_out=torch.arange(400) > 0)
    with pytest.raises(BadInput, match="not finite"):
        concept_completeness(features * torch.nan, torch.eye(12), head, held_out=held_out)
    with pytest.raises(BadInput, match="labels are not known"):
        concept_completeness(features, torch.eye(12), head, torch.full((400,), -1), held_out=held_out)
    with pytest.raises(BadInput, match="400 of 400 images held out"):
        concept_completeness(features, torch.eye(12), head, held_out=torch.ones_like(held_out))
    with pytest.raises(BadInput, match=r"directions \(1, 5\)"):
        concept_completeness(features, torch.ones(1, 5), head, held_out=held_out)


def test_a_planted_direction_is_recognised_with_its_sign():
    planted = draw(3, 20)
    seen = direction_cosine(torch.stack([2 * planted[0], -planted[1], draw(20, seed=9)]), planted)
    assert seen.cosine[:2].tolist() == pytest.approx([1.0, -1.0])
    assert seen.p_value[:2].max() < 1e-12
    assert seen.p_value[2] > 0.01
    assert seen.stderr.tolist() == [0, 0, 0]


def test_random_directions_are_as_far_off_as_the_chance_level_says():
    found, planted = draw(200, 7), draw(1, 7, seed=1).expand(200, 7)
    seen = direction_cosine(found, planted)
    assert float(seen.cosine.abs().mean()) == pytest.approx(seen.chance_size, rel=0.12)
    for level in (0.05, 0.5):
        assert float((seen.p_value <= level).double().mean()) == pytest.approx(level, abs=0.08)
    assert direction_cosine(torch.ones(1, 2), torch.ones(1, 2)).chance_size == pytest.approx(2 / math.pi)
    assert direction_cosine(torch.ones(1, 1), torch.ones(1, 1)).p_value.tolist() == [1.0]


def test_the_spread_over_runs_is_the_error():
    planted = torch.eye(1, 30)
    runs = planted + 0.1 * draw(50, 1, 30)
    seen = direction_cosine(runs, planted)
    each = torch.cosine_similarity(runs[:, 0].double(), planted.double())
    assert float(seen.cosine) == pytest.approx(float(each.mean()))
    assert float(seen.stderr) == pytest.approx(float(each.std()) / math.sqrt(50))


def test_directions_without_length_are_refused():
    with pytest.raises(BadInput, match="zero or not finite"):
        direction_cosine(torch.zeros(1, 3), torch.ones(1, 3))
    with pytest.raises(BadInput, match="zero or not finite"):
        direction_cosine(torch.ones(1, 3), torch.full((1, 3), torch.nan))
    with pytest.raises(BadInput, match="for planted ones"):
        direction_cosine(torch.ones(2, 3), torch.ones(1, 3))


def test_a_concept_vector_learnt_from_scenes_points_where_the_glass_box_has_it():
    box, scenes = glass.planted_concept("red", unit=5, shared=(2, 5)), data.scenes("shapes", 30, seed=0, size=32)
    kept = dissect.activations(box.module, data.with_labels(scenes), layer="code")
    vector = dissect.concept_vectors(kept, ["red-c"], solver="mean_difference").vectors
    truth = box.truth.directions["code"][[box.truth.concept_names.index("red")]]
    seen = direction_cosine(vector, truth)
    assert float(seen.cosine) > 0.99
    assert float(seen.p_value) < 1e-4


def test_results_are_saved_and_shown(world, tmp_path):
    features, head, held_out = world
    for seen in (
        concept_completeness(features, torch.eye(12)[:1], head, held_out=held_out, n_steps=2),
        direction_cosine(draw(2, 4), draw(2, 4, seed=1)),
    ):
        assert repr(type(seen).load(seen.save(tmp_path / "noun"))) == repr(seen)
