"""Net2Vec: readouts of concepts from units, compared with loops from the paper, other optimizers and planted truth."""

from itertools import product
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from glasshouse.core import BadInput, NotFound, find_method
from glasshouse.core.labelled import Label
from glasshouse.dissect import Activations
from glasshouse.dissect.concepts.combinations import net2vec
from glasshouse.dissect.concepts.fitting import Readout, Recipe, fit, loss_per_image, queue
from glasshouse.dissect.concepts.readouts import Net2Vec
from glasshouse.dissect.concepts.tasks import Classification, Segmentation, balanced_accuracy, best_cut
from glasshouse.dissect.masking import thresholds

NAMES = ("left", "right", "both", "scene")


def rand(*shape: int, seed: int = 0) -> Tensor:
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed))


def stored(maps: Tensor, planes: Tensor, whole: Tensor | None = None, names: tuple[str, ...] = NAMES) -> Activations:
    labels = tuple(Label(number, name, "object") for number, name in enumerate(names, 1))
    n = len(maps)
    none = torch.zeros(n, 0, dtype=torch.long)
    targets = torch.full((n,), -1)
    return Activations(
        "conv",
        torch.arange(maps.shape[1]),
        maps,
        targets,
        planes.int(),
        none if whole is None else whole,
        labels,
        (16, 16),
    )


@pytest.fixture
def random() -> Activations:
    """Twenty images, five units on a 3×4 grid, label maps of 6×8, and a scene."""
    planes = (4 * rand(20, 2, 6, 8, seed=1)).long().clamp(max=3) * (rand(20, 2, 6, 8, seed=2) < 0.4)
    planes[::3] = torch.where(planes[::3] == 1, 0, planes[::3])
    whole = 4 * (rand(20, 1, seed=3) < 0.5).long()
    return stored(rand(20, 5, 3, 4), planes, whole)


@pytest.fixture
def planted() -> Activations:
    """Units 0 and 1 are on in the two halves of the concept, units 2 to 5 anywhere; each is on at 6 of 64 positions."""
    n = 40
    maps, planes = 0.2 * rand(n, 6, 8, 8), torch.zeros(n, 1, 8, 8)
    for image in range(n):
        row, col = image % 5, image % 4
        maps[image, 0, row : row + 3, col : col + 2] += 1
        maps[image, 1, row : row + 3, col + 2 : col + 4] += 1
        planes[image, 0, row : row + 3, col : col + 4] = 1
        for unit in range(2, 6):
            maps[image, unit].view(-1)[rand(64, seed=100 * image + unit).argsort()[:6]] += 1
    return stored(maps, planes, names=("thing",))


def parts(activations: Activations, task: str = "segmentation") -> tuple[Any, Tensor]:
    """Scoring of all concepts of the random data, and where each is."""
    rows = {"train": torch.arange(12), "val": torch.arange(12, 20)}
    there = activations.concepts().flatten(2).any(2).T
    if task == "classification":
        return Classification.of(activations, there, rows), there
    above = thresholds(activations, 0.8, rows["train"])
    return Segmentation.of(activations, above, (1, 2, 3, 4), there, rows), above


def enlarged_by_hand(on: Tensor) -> Tensor:
    return F.interpolate(on.double()[None, None], (6, 8), mode="bilinear", align_corners=False)[0, 0]


# Scores


def test_single_units_score_as_a_loop_over_images_and_pixels_says(random):
    scoring, above = parts(random)
    found = scoring.singles("val")
    masks = random.concepts()
    for unit, concept in product(range(5), range(4)):
        shared = either = 0
        for image in range(12, 20):
            if masks[image, concept].any():
                on = enlarged_by_hand(random.maps[image, unit] > above[unit]) > 0
                shared += int((on & masks[image, concept]).sum())
                either += int((on | masks[image, concept]).sum())
        assert found[unit, concept] == pytest.approx(shared / either)


def test_readouts_score_as_a_loop_that_enlarges_every_unit_first(random):
    scoring, above = parts(random)
    weights = rand(2, 4, 5, seed=9) - 0.5
    found = scoring.scores(Readout(weights, torch.zeros(2, 4)), "train")
    masks = random.concepts()
    for kind, concept in product(range(2), range(4)):
        shared = either = 0
        for image in range(12):
            if masks[image, concept].any():
                large = [enlarged_by_hand(random.maps[image, unit] > above[unit]) for unit in range(5)]
                logit = sum(w * map_ for w, map_ in zip(weights[kind, concept].double(), large, strict=True))
                marked = torch.sigmoid(logit) > 0.5
                shared += int((marked & masks[image, concept]).sum())
                either += int((marked | masks[image, concept]).sum())
        assert found[kind, concept] == pytest.approx(shared / either)


def test_a_single_unit_scores_as_the_readout_that_has_it_alone(random):
    scoring, _ = parts(random)
    singles = scoring.singles("train")
    alone = Readout(torch.eye(5)[:, None].expand(5, 4, 5), torch.zeros(5, 4))
    torch.testing.assert_close(scoring.scores(alone, "train"), singles)


def test_thresholds_are_exceeded_by_the_share_that_was_asked_for(random):
    above = thresholds(random, 0.9, torch.arange(10))
    share = (random.maps[:10] > above[:, None, None]).double().mean((0, 2, 3))
    torch.testing.assert_close(share, torch.full((5,), 0.1, dtype=torch.float64), atol=1 / 120, rtol=0)


def test_the_best_cut_is_the_best_of_all_cuts():
    values, there = (rand(30, 4) * 8).round() / 8, rand(30, seed=5) < 0.3
    accuracy, cut, above = best_cut(values, there)
    for column in range(4):
        every = [
            balanced_accuracy(((values[:, column] > at) == side)[None, None], there[None])
            for at, side in product([-1.0, *(values[:, column] + 1e-3).tolist()], (True, False))
        ]
        assert accuracy[column] == pytest.approx(float(torch.stack(every).max()))
        said = (values[:, column] > cut[column]) == above[column]
        assert balanced_accuracy(said[None, None], there[None]) == pytest.approx(float(accuracy[column]))


# Training


@pytest.mark.parametrize("loss", ["linear", "bce"])
def test_the_loss_is_the_papers_and_its_gradient_the_one_on_paper(loss):
    features, targets = (rand(1, 3, 5, 4, 4) < 0.3).double(), rand(1, 3, 4, 4, seed=4) < 0.4
    weights = (rand(1, 1, 5, seed=6).double() - 0.5).requires_grad_()
    alpha, beta = 0.7, 0.3
    readout = Readout(weights, torch.zeros(1, 1, dtype=torch.float64))
    found = loss_per_image(readout(features, (4, 4)), targets, torch.tensor([[alpha, beta]]), loss).mean()
    expected, slope = 0.0, torch.zeros(5, dtype=torch.float64)
    for image, i, j in product(range(3), range(4), range(4)):
        x = features[0, image, :, i, j]
        mark, there = torch.sigmoid(weights[0, 0].detach() @ x), float(targets[0, image, i, j])
        if loss == "linear":
            expected -= float(alpha * mark * there + beta * (1 - mark) * (1 - there)) / 3
            slope -= (alpha * there - beta * (1 - there)) * mark * (1 - mark) * x / 3
        else:
            expected -= float(alpha * there * mark.log() + beta * (1 - there) * (1 - mark).log()) / 3
            slope -= (alpha * there * (1 - mark) - beta * (1 - there) * mark) * x / 3
    assert found.item() == pytest.approx(expected)
    (gradient,) = torch.autograd.grad(found, weights)
    torch.testing.assert_close(gradient[0, 0], slope)


def test_training_is_that_of_torch_on_the_loss_written_out(random):
    scoring, above = parts(random)
    rows = scoring.there[0, :12].nonzero()[:, 0]
    masks = random.concepts(["left"])[:, 0].double()
    large = torch.stack(
        [torch.stack([enlarged_by_hand(m > t) for m, t in zip(x, above, strict=True)]) for x in random.maps]
    )
    draw = torch.Generator().manual_seed(0)
    weights = ((2 * torch.rand(5, generator=draw) - 1) / 5**0.5).double().requires_grad_()
    theirs = torch.optim.SGD([weights], lr=0.02, momentum=0.9)
    alpha = 1 - masks[rows].mean()
    for _ in range(3):
        order = torch.randperm(12, generator=draw)
        for batch in order[torch.isin(order, rows)].split(4):
            mark = torch.sigmoid(torch.einsum("k,nkab->nab", weights, large[batch]))
            there = masks[batch]
            loss = -(alpha * mark * there + (1 - alpha) * (1 - mark) * (1 - there)).sum() / len(batch)
            (weights.grad,) = torch.autograd.grad(loss, weights)
            theirs.step()
    found = fit(scoring.problem(), torch.ones(1, 4, 5, dtype=torch.bool), Recipe("linear", 0.02, 3, 4, 0))
    torch.testing.assert_close(found.weights[0, 0].double(), weights.detach(), rtol=1e-4, atol=1e-6)


def test_a_concept_comes_out_as_if_it_were_trained_alone(random):
    together, alone = net2vec(random, epochs=3, level=0.8), net2vec(random, ["both"], epochs=3, level=0.8)
    torch.testing.assert_close(together.weights[together.row("both")], alone.weights[0])


def test_groups_of_concepts_make_no_difference(random):
    scoring, _ = parts(random)
    recipe = Recipe("linear", 0.03, 2, 4, 0)
    used = torch.ones(1, 4, 5, dtype=torch.bool)
    whole, single = fit(scoring.problem(), used, recipe), fit(scoring.problem(), used, recipe, at_once=1)
    torch.testing.assert_close(whole.weights, single.weights)


def test_an_epoch_shows_a_concept_each_of_its_images_once():
    there = rand(3, 50) < torch.tensor([0.1, 0.5, 0.9])[:, None]
    draw = torch.Generator().manual_seed(0)
    for row, images in zip(there, queue(there, False, draw), strict=True):
        assert sorted(images[images >= 0].tolist()) == row.nonzero()[:, 0].tolist()
    for row, images in zip(there, queue(there, True, draw), strict=True):
        images = images[images >= 0]
        assert len(images.unique()) == len(images) == 2 * min(int(row.sum()), int((~row).sum()))
        assert row[images].double().mean() == 0.5


def test_pixels_of_a_concept_weigh_as_much_as_it_is_rare(random):
    scoring, _ = parts(random)
    problem, masks = scoring.problem(), random.concepts()[:12]
    for concept in range(3):
        mine = masks[:, concept][masks[:, concept].flatten(1).any(1)]
        alpha = 1 - float(mine.double().mean())
        assert problem.weight[concept].tolist() == pytest.approx([alpha, 1 - alpha])


def test_a_concept_that_fills_its_images_is_learnt_without_weights(random):
    # α would be 0, and the loss would not depend on the weights at all.
    scoring, _ = parts(random)
    assert scoring.problem().weight[3].tolist() == [1, 1]
    seen = net2vec(random, ["scene"], level=0.5, epochs=60)
    assert seen.score[0] > 0.9


# Planted truth


def test_a_concept_that_is_either_of_two_units_takes_both(planted):
    seen = net2vec(planted, level=1 - 6 / 64, subsets=[1, 2, 6])
    assert int(seen.best[0]) in (0, 1)
    assert seen.single[0] == pytest.approx(0.5, abs=0.01)
    assert seen.score[0] > 0.95
    assert sorted(seen.weights[0].topk(2).indices.tolist()) == [0, 1]
    assert seen.curves[0, 0] == pytest.approx(0.5, abs=0.01)
    assert seen.curves[0, 1] > 0.99
    assert seen.needed().tolist() == seen.needed(0.8).tolist() == [2]
    torch.testing.assert_close(seen.curves[0, 2], seen.score[0])
    masks = seen.masks(planted, "thing", torch.tensor([0, 7]))
    assert (masks == planted.concepts(["thing"], torch.tensor([0, 7]))[:, 0]).double().mean() > 0.98


def test_whole_images_are_told_apart_by_the_unit_that_differs():
    n = 60
    maps, planes = rand(n, 4, 2, 2), torch.zeros(n, 1, 2, 2)
    planes[::3, 0, 0, 0] = 1
    maps[::3, 2] += 2
    seen = net2vec(stored(maps, planes, names=("thing",)), task="classification", epochs=60, subsets=[1])
    assert int(seen.best[0]) == 2
    assert seen.single[0] == seen.score[0] == seen.curves[0, 0] == 1
    assert int(seen.weights[0].abs().argmax()) == 2
    assert seen.bias[0] < 0


def test_classification_scores_as_counted_by_hand(random):
    scoring, there = parts(random, "classification")
    weights, bias = rand(1, 4, 5, seed=8) - 0.5, rand(1, 4) / 10
    found = scoring.scores(Readout(weights, bias), "val")
    for concept in range(3):
        right: dict[bool, list[bool]] = {True: [], False: []}
        for image in range(12, 20):
            logit = weights[0, concept] @ random.maps[image].mean((1, 2)) + bias[0, concept]
            right[bool(there[concept, image])].append(bool(logit > 0) == bool(there[concept, image]))
        means = [sum(side) / len(side) for side in right.values() if side]
        if len(means) == 2:
            assert found[0, concept] == pytest.approx(sum(means) / 2)


def test_files_in_memory_and_on_disk_read_alike(random, tmp_path):
    np.save(tmp_path / "maps.npy", random.maps.numpy())
    kept = torch.from_numpy(np.load(tmp_path / "maps.npy", mmap_mode="r+"))
    one, other = (net2vec(stored(maps, random.planes, random.whole), epochs=2) for maps in (random.maps, kept))
    assert one.to_dict() == other.to_dict()


# What can be asked of the vectors


@pytest.fixture
def vectors() -> Net2Vec:
    """Concepts whose vectors are known: green things and blue things."""
    weights = torch.tensor([[2.0, 0, 1], [0, 3, 1], [4, 0, 0], [0, 0.5, 0]])
    c, u = weights.shape
    labels = tuple(Label(i, name, "object") for i, name in enumerate(("grass", "sky", "green-c", "blue-c"), 1))
    scores = torch.tensor([0.5, 0.4, 0.3, 0.2])
    return Net2Vec(
        layer="conv",
        units=torch.tensor([7, 8, 9]),
        labels=labels,
        task="segmentation",
        weights=weights,
        bias=torch.zeros(c),
        thresholds=torch.zeros(u),
        score=scores,
        train_score=scores,
        best=torch.tensor([7, 8, 7, 8]),
        single=scores / 2,
        subsets=(1, 2),
        curves=torch.tensor([[0.1, 0.49], [0.4, 0.4], [0, 0], [0.2, 0.1]]),
        n_images=torch.zeros(c, 2, dtype=torch.long),
    )


def test_vectors_add_up_as_words_do(vectors):
    name, cosine = vectors.nearest(vectors["grass"] + vectors["blue-c"] - vectors["green-c"], without=("blue-c",))[0]
    assert name == "sky"
    assert cosine > 0.8
    assert vectors.nearest("grass", 2) == tuple(
        (name, pytest.approx(float(F.cosine_similarity(vectors["grass"], vectors[name], dim=0))))
        for name in ("green-c", "sky")
    )
    torch.testing.assert_close(vectors.cosines.diagonal(), torch.ones(4))


def test_units_are_counted_by_the_concepts_that_use_them(vectors):
    assert vectors.n_best().tolist() == [2, 2, 0]
    assert vectors.n_among(1).tolist() == [2, 2, 0]
    assert vectors.n_among(99).tolist() == [4, 4, 4]


def test_the_fewest_units_that_suffice_are_told(vectors):
    assert vectors.needed(0.95).tolist() == [2, 1, 3, 1]


def test_what_was_saved_is_read_again(random, tmp_path):
    seen = net2vec(random, epochs=1, subsets=[2])
    again = Net2Vec.load(seen.save(tmp_path / "seen.safetensors"))
    assert again.to_dict() == seen.to_dict()
    assert repr(again).startswith("Net2Vec(conv, 4 concepts × 5 units, mean IoU ")


def test_same_seed_same_answer_and_progress_is_told(random):
    told: list[tuple[int, int]] = []
    one = net2vec(random, epochs=3, seed=4, progress=lambda *at: told.append(at))
    assert one.to_dict() == net2vec(random, epochs=3, seed=4).to_dict()
    assert one.to_dict() != net2vec(random, epochs=3, seed=5).to_dict()
    assert told[-1] == (3, 3)
    with torch.inference_mode():
        assert one.to_dict() == net2vec(random, epochs=3, seed=4).to_dict()


# Mistakes


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"concepts": ["lefd"]}, "no concept 'lefd' here .4 known.. Did you mean 'left'"),
        ({"subsets": [6]}, "no subset of 6 units can be chosen among 5"),
        ({"task": "classification", "loss": "linear"}, "the linear loss is for pixels"),
        ({"split": 1.0}, "split=1.0 leaves no images on one side"),
        ({"split": (torch.arange(20), torch.arange(0))}, "20 images split into 20 and 0"),
        (
            {"concepts": ["left"], "split": (torch.tensor([1]), torch.tensor([0, 3]))},
            "'left' is in .* and 0 of 2 others",
        ),
    ],
    ids=lambda x: next(iter(x)) if isinstance(x, dict) else "",
)
def test_a_mistake_is_named(settings: dict[str, Any], said: str, random):
    with pytest.raises((BadInput, NotFound), match=said):
        net2vec(random, **settings)


def test_activations_without_label_maps_are_refused(random):
    bare = stored(random.maps, torch.zeros(20, 0, 1, 1), names=())
    with pytest.raises(BadInput, match="come without label maps"):
        net2vec(bare)


def test_masks_are_for_pixels_and_for_the_same_units(random):
    whole = net2vec(random, ["left"], task="classification", epochs=1)
    with pytest.raises(BadInput, match="readouts of whole images have no masks"):
        whole.masks(random, "left", torch.arange(2))
    pixels = net2vec(random, ["left"], epochs=1)
    with pytest.raises(BadInput, match="activations of other units"):
        pixels.masks(stored(random.maps[:, :3], random.planes), "left", torch.arange(2))
    with pytest.raises(BadInput, match="no subsets of units were tried"):
        pixels.needed()


def test_it_is_found_by_its_name():
    assert find_method("net2vec", "dissect").function is net2vec
