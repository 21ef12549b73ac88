"""Concept vectors: planted directions found, whoever asks, and nothing learnt from what is held out."""

from collections.abc import Sequence

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from glasshouse.core import BadInput, NotFound
from glasshouse.core.labelled import Label
from glasshouse.data import glass, scenes, with_labels
from glasshouse.dissect import activations
from glasshouse.dissect.concepts.directions import ConceptVectors, concept_vectors
from glasshouse.dissect.stored import Activations

UNITS, GRID = 6, (3, 4)


def stored(maps: Tensor, marks: Tensor | None = None, names: Sequence[str] = ()) -> Activations:
    """Activations with one plane of labels per concept, at the layer's own resolution."""
    n, u = maps.shape[:2]
    planes = torch.zeros(n, 0, 1, 1).long() if marks is None else marks * torch.arange(1, len(names) + 1)[:, None, None]
    labels = tuple(Label(number, name, "object") for number, name in enumerate(names, 1))
    none = torch.zeros(n, 0, dtype=torch.long)
    return Activations("layer", torch.arange(u), maps, torch.full((n,), -1), planes, none, labels, (30, 40))


@pytest.fixture(scope="module")
def planted() -> tuple[Activations, Tensor]:
    """Noise, to which wherever a concept is, a direction of its own is added; and one concept that is nowhere."""
    seed = torch.Generator().manual_seed(0)
    marks = torch.rand(90, 3, *GRID, generator=seed) < torch.tensor([0.3, 0.05, 0.0])[:, None, None]
    directions = F.normalize(torch.randn(3, UNITS, generator=seed))
    noise = torch.randn(90, UNITS, *GRID, generator=seed)
    maps = noise + 6 * torch.einsum("ncij,cu->nuij", marks.float(), directions)
    return stored(maps, marks.long(), ("sky", "moon", "unicorn")), directions


@pytest.mark.parametrize("solver", ["logistic", "ridge", "svm", "mean_difference"])
def test_planted_directions_are_found_and_told_right_where_they_were_not_learnt(planted, solver):
    kept, directions = planted
    found = concept_vectors(kept, solver=solver)
    assert [label.name for label in found.concepts] == ["sky", "moon"]
    assert found.dropped == ("unicorn",)
    assert (F.cosine_similarity(found.vectors, directions[:2]) > 0.95).all()
    torch.testing.assert_close(found.vectors.norm(dim=1), torch.ones(2))
    assert (found.accuracy > 0.97).all()
    assert (found.auc > 0.99).all()
    assert (found.average_precision > 0.9).all()


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("solver", ["logistic", "mean_difference"])
def test_fifty_images_of_a_concept_are_enough_for_a_cosine_of_95(solver, seed):
    seed = torch.Generator().manual_seed(seed)
    maps, direction = torch.randn(400, UNITS, 1, 1, generator=seed), F.normalize(torch.ones(UNITS), dim=0)
    maps[:75] += 4 * direction[:, None, None]
    found = concept_vectors(stored(maps), positives={"it": range(75)}, pooling="mean", solver=solver, l2=0.01)
    assert 45 <= found.positives.item() <= 55
    assert F.cosine_similarity(found["it"], direction, dim=0) > 0.95


def test_the_pattern_is_the_covariance_with_the_label_over_its_variance(planted):
    kept, _ = planted
    found = concept_vectors(kept, seed=3)
    torch.testing.assert_close(found.pattern, concept_vectors(kept, seed=3, solver="ridge").pattern)
    held = torch.rand(90, generator=torch.Generator().manual_seed(3)).argsort() < 30
    x = kept.maps[~held].double().permute(0, 2, 3, 1).reshape(-1, UNITS)
    t = kept.on_grid(["sky"])[~held].flatten().double()
    by_hand = ((t - t.mean())[:, None] * x).mean(0) / t.var(correction=0)
    torch.testing.assert_close(found.pattern[0], by_hand.float(), rtol=1e-4, atol=1e-5)
    assert found.positives[0] == t.sum()
    assert found.negatives[0] == (1 - t).sum()


def test_held_out_images_change_the_accuracy_and_not_the_vector(planted):
    kept, _ = planted
    held = torch.rand(90, generator=torch.Generator().manual_seed(0)).argsort() < 30
    shuffled = kept.maps.clone()
    shuffled[held] = shuffled[held].flip(0).flip(2)
    other = stored(shuffled, kept.concepts().long(), ("sky", "moon", "unicorn"))
    one, two = concept_vectors(kept, ["sky"]), concept_vectors(other, ["sky"])
    torch.testing.assert_close(one.vectors, two.vectors, rtol=1e-4, atol=1e-5)
    assert one.accuracy > 0.97
    assert two.accuracy < 0.7


def test_a_vector_does_not_depend_on_the_other_concepts_asked_for(planted):
    kept, _ = planted
    torch.testing.assert_close(
        concept_vectors(kept)["moon"], concept_vectors(kept, ["moon"])["moon"], rtol=1e-4, atol=1e-5
    )


def test_images_listed_by_hand_are_the_images_with_the_label(planted):
    kept, _ = planted
    rows = kept.on_grid(["moon"]).flatten(1).any(1).nonzero()[:, 0].tolist()
    for pooling in ("mean", "flat"):
        marked = concept_vectors(kept, ["moon"], pooling=pooling)
        listed = concept_vectors(kept, positives={"moon": rows}, pooling=pooling)
        assert torch.equal(marked.vectors, listed.vectors)
        assert marked.positives == listed.positives


def test_more_dimensions_than_samples_give_the_optimum_of_the_whole_space():
    seed = torch.Generator().manual_seed(2)
    maps = torch.randn(40, 30, 2, 2, generator=seed)
    kept, l2 = stored(maps), 0.05
    found = concept_vectors(kept, positives={"it": range(20)}, pooling="flat", l2=l2)
    held = torch.rand(40, generator=torch.Generator().manual_seed(0)).argsort() < 13
    x, t = maps.flatten(1).double(), torch.arange(40) < 20
    scaled = (x - x.mean(0)) / (x - x.mean(0)).square().sum(1).mean().sqrt()
    w = torch.zeros(120, dtype=torch.float64, requires_grad=True)
    b = torch.zeros((), dtype=torch.float64, requires_grad=True)
    descent = torch.optim.LBFGS([w, b], max_iter=500, tolerance_grad=1e-10, line_search_fn="strong_wolfe")

    def loss() -> Tensor:
        descent.zero_grad()
        costs = F.softplus(torch.where(t, -1.0, 1.0) * (scaled @ w + b))
        total = costs[t & ~held].mean() / 2 + costs[~t & ~held].mean() / 2 + l2 / 2 * w.square().sum()
        total.backward()
        return total

    descent.step(loss)
    torch.testing.assert_close(found["it"], F.normalize(w.detach(), dim=0).float(), rtol=1e-3, atol=1e-4)


def test_relative_vectors_tell_concepts_from_each_other_only():
    seed = torch.Generator().manual_seed(3)
    maps = torch.randn(150, UNITS, 1, 1, generator=seed)
    maps[:50, 0] += 8  # both concepts share this
    maps[:25, 1] += 8
    concepts = {"dots": range(25), "stripes": range(25, 50)}
    alone = concept_vectors(stored(maps), positives=concepts, pooling="mean")
    relative = concept_vectors(stored(maps), positives=concepts, pooling="mean", negatives="concepts")
    named = concept_vectors(stored(maps), positives={"dots": range(25)}, pooling="mean", negatives=range(25, 50))
    assert alone["stripes"][0] > 0.5
    assert abs(relative["dots"][0]) < 0.2
    assert relative["dots"][1] > 0.95
    torch.testing.assert_close(relative["dots"], -relative["stripes"], rtol=1e-3, atol=1e-4)
    torch.testing.assert_close(relative["dots"], named["dots"], rtol=1e-4, atol=1e-5)
    assert named.negatives + named.positives < 50


def test_a_sample_keeps_rare_concepts_and_finds_nearly_the_same(planted):
    kept, directions = planted
    found = concept_vectors(kept, n_samples=300)
    assert found.positives[1] > 0.5 * kept.on_grid(["moon"]).sum() * 2 / 3
    assert (F.cosine_similarity(found.vectors, directions[:2]) > 0.9).all()


def test_block_sizes_change_nothing(planted, monkeypatch):
    kept, _ = planted
    for n_samples in (300, 50_000):
        whole = concept_vectors(kept, n_samples=n_samples)
        monkeypatch.setattr("glasshouse.dissect.concepts.directions.BLOCK", 7)
        parts = concept_vectors(kept, n_samples=n_samples)
        monkeypatch.undo()
        assert torch.equal(whole.vectors, parts.vectors)
        assert torch.equal(whole.accuracy, parts.accuracy)


def test_scores_are_components_along_the_vector_and_images_are_ranked_by_the_cosine(planted):
    kept, _ = planted
    found = concept_vectors(kept)
    scores = found.scores(kept, "sky")
    for image, i, j in ((0, 0, 0), (88, 2, 3)):
        torch.testing.assert_close(scores[image, i, j], kept.maps[image, :, i, j] @ found["sky"])
    cosines = [float(F.cosine_similarity(maps.mean((1, 2)), found["sky"], dim=0)) for maps in kept.maps]
    assert found.ranked(kept, "sky").tolist() == sorted(range(90), key=lambda row: -cosines[row])
    flat = concept_vectors(kept, pooling="flat", l2=1)
    torch.testing.assert_close(flat.scores(kept, 2)[5], kept.maps[5].flatten() @ flat["moon"])


def test_the_yes_of_the_classifier_is_what_the_accuracy_counts(planted):
    kept, _ = planted
    found = concept_vectors(kept, ["sky"])
    held = torch.rand(90, generator=torch.Generator().manual_seed(0)).argsort() < 30
    yes = found.length[0] * found.scores(kept, "sky")[held] + found.bias[0] > 0
    has = kept.on_grid(["sky"])[held][:, 0]
    told = (yes[has].double().mean() + (~yes[~has]).double().mean()) / 2
    torch.testing.assert_close(found.accuracy[0], told.float())
    torch.testing.assert_close(found.share[0], has.float().mean())


def test_the_direction_of_a_glass_box_is_recovered_from_rendered_images():
    box, world = glass.planted_concept("red", unit=5, shared=(2, 5)), scenes("shapes", 40, seed=0)
    seen = activations(box.module, with_labels(world), layer="code")
    truth = box.truth.directions["code"][box.truth.concept_names.index("red")]
    found = concept_vectors(seen, ["red-c"], solver="mean_difference")
    assert F.cosine_similarity(found["red-c"], truth, dim=0) > 0.99


def test_vectors_save_and_load(planted, tmp_path):
    found = concept_vectors(planted[0])
    again = ConceptVectors.load(found.save(tmp_path / "vectors.safetensors"))
    assert again.to_dict() == found.to_dict()
    assert "2 concepts" in repr(again)
    assert "1 dropped" in repr(again)


def test_what_cannot_be_learnt_is_said(planted):
    kept, _ = planted
    with pytest.raises(NotFound, match="concept"):
        concept_vectors(kept, ["ski"])
    with pytest.raises(BadInput, match="none of 1 concepts has 10 samples"):
        concept_vectors(kept, ["unicorn"])
    with pytest.raises(BadInput, match="no label maps"):
        concept_vectors(stored(kept.maps))
    with pytest.raises(BadInput, match="given twice"):
        concept_vectors(kept, ["sky"], positives={"sky": [1]})
    with pytest.raises(BadInput, match="not among the 90"):
        concept_vectors(kept, positives={"sky": [90]})
    with pytest.raises(BadInput, match="holdout"):
        concept_vectors(kept, holdout=1.0)
    with pytest.raises(BadInput, match="same for all samples"):
        concept_vectors(stored(torch.ones(60, 3, 2, 2)), positives={"it": range(30)})
    found = concept_vectors(kept, ["sky"])
    with pytest.raises(BadInput, match="not what these vectors were learnt on"):
        found.scores(stored(kept.maps[:, :4]), "sky")
