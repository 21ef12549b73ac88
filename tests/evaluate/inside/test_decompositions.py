"""Class vectors that are all concept, half concept, and none."""

import math

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from glasshouse import data, dissect
from glasshouse.core import BadInput, probe
from glasshouse.evaluate.inside.decompositions import basis_fidelity


def draw(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def test_without_a_residual_everything_stays():
    weights, features = draw(3, 8), draw(50, 8, seed=1)
    seen = basis_fidelity(weights, torch.zeros(3, 8), features, features @ weights.T)
    assert seen.residual.tolist() == [0, 0, 0]
    assert seen.without.agreement.share == seen.without.r2 == 1.0


def test_a_class_vector_that_is_all_residual_leaves_only_the_bias():
    weights, features, bias = draw(3, 8), draw(60, 8, seed=1), torch.tensor([0.0, 5.0, 1.0])
    seen = basis_fidelity(weights, F.normalize(weights), features, features @ weights.T + bias)
    assert seen.residual.tolist() == pytest.approx([1, 1, 1])
    assert seen.without.surrogate.tolist() == [1] * 60
    assert seen.without.agreement.share <= seen.without.chance


def test_every_number_is_what_a_loop_computes():
    weights, features, left = 3 * draw(3, 6), draw(40, 6, seed=1), 0.3 * draw(3, 6, seed=2)
    logits = features @ weights.T + draw(40, 3, seed=3)
    seen = basis_fidelity(weights, left, features, logits, logits.argmin(1))
    kept = 0
    for i in range(40):
        other = [float(logits[i, k] - weights[k].norm() * left[k] @ features[i]) for k in range(3)]
        kept += other.index(max(other)) == int(logits[i].argmax())
    assert 0 < kept < 40
    assert seen.without.agreement.hits == kept
    assert seen.without.where_wrong.hits == kept
    lengths = [math.sqrt(sum(float(v) ** 2 for v in row)) for row in left]
    assert seen.residual.tolist() == pytest.approx(lengths)
    assert f"top class kept {kept / 40:.3f}" in repr(seen)


def test_a_real_decomposition_is_judged_by_what_its_own_account_leaves_out():
    scenes = data.scenes("shapes", 24, size=32, seed=3)
    with torch.random.fork_rng():
        torch.default_generator.manual_seed(0)
        net = nn.Sequential(nn.Conv2d(3, 12, 5, stride=2), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten())
        net = nn.Sequential(*net, nn.Linear(12, 4)).eval()
    kept = dissect.activations(net, data.with_labels(scenes), layer="1")
    names = [f"{name}-c" for name in ("red", "green", "blue", "yellow")]
    vectors = dissect.concept_vectors(kept, names, solver="mean_difference")
    parts = dissect.decompose(net, scenes.images, vectors, n_concepts=2)
    with probe(net, "1") as found, torch.no_grad():
        logits = net(scenes.images)
    features = found["1"].mean((2, 3))[:, parts.units]
    seen = basis_fidelity(parts.weights, parts.residual, features, logits)
    torch.testing.assert_close(seen.residual.float(), parts.errors[:, -1], atol=1e-5, rtol=1e-4)
    account = [parts.explain(net, scenes.images, target=k) for k in range(4)]
    without = torch.stack([each.logit - each.residual for each in account], 1)
    assert seen.without.surrogate.tolist() == without.argmax(1).tolist()


def test_parts_that_do_not_fit_are_refused(tmp_path):
    weights, features = draw(3, 8), draw(50, 8, seed=1)
    with pytest.raises(BadInput, match="not k u, k u, n u, n k"):
        basis_fidelity(weights, torch.zeros(3, 8), features, draw(50, 2))
    with pytest.raises(BadInput, match="not finite"):
        basis_fidelity(weights, torch.full((3, 8), torch.nan), features, draw(50, 3))
    seen = basis_fidelity(weights, torch.zeros(3, 8), features, draw(50, 3))
    assert repr(type(seen).load(seen.save(tmp_path / "noun"))) == repr(seen)
