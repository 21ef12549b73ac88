"""Units, directions and coefficients that were found, against those that were planted."""

import math
from itertools import combinations

import pytest
import torch
import torch.nn.functional as F
from scipy.stats import somersd
from torch import nn

from glasshouse import data, dissect, evaluate
from glasshouse.core import BadInput, NotFound
from glasshouse.data import glass
from glasshouse.data.glass.truth import random_rotation
from glasshouse.evaluate.truth.planted import PlantedTable, labelled_by, planted_concepts, planted_pairs, planted_units

TRUE = [(0, "red"), (1, "blue"), (2, "green")]


def test_precision_and_recall_count_pairs():
    found = planted_pairs([(0, "red"), (1, "green"), (5, "blue"), (2, "green")], TRUE)
    assert (found.precision, found.recall) == (2 / 4, 2 / 3)
    assert found.f1 == pytest.approx(2 * 2 / (4 + 3))
    assert found.missed == ((1, "blue"),)
    assert found.wrong == ((1, "green"), (5, "blue"))


def test_nothing_found_is_right_as_far_as_it_goes():
    nothing = planted_pairs([], TRUE)
    assert (nothing.precision, nothing.recall, nothing.f1) == (1.0, 0.0, 0.0)


def test_nothing_planted_cannot_be_found():
    with pytest.raises(BadInput, match="nothing was planted"):
        planted_pairs([(0, "red")], [])


# Units


def test_a_table_of_units_has_chance_by_drawing_pairs_at_random():
    found, draws = [(0, "red"), (1, "green"), (5, "blue"), (2, "green")], torch.Generator().manual_seed(0)
    seen = planted_units(found, TRUE, n_units=6, n_concepts=3, invented=(3, 40))
    assert (seen["precision"].value, seen["recall"].value) == (2 / 4, 2 / 3)
    assert seen["F1"].value == pytest.approx(planted_pairs(found, TRUE).f1)
    # 4 of the 18 pairs at random, 3 of which are true
    drawn = torch.rand(4000, 18, generator=draws).argsort(1)[:, :4]
    right = (drawn < 3).sum(1).double()
    error = float(right.std()) / 4000**0.5
    assert seen["precision"].chance == pytest.approx(float(right.mean()) / 4, abs=4 * error / 4)
    assert seen["recall"].chance == pytest.approx(float(right.mean()) / 3, abs=4 * error / 3)
    assert seen["F1"].chance == pytest.approx(2 * float(right.mean()) / 7, abs=4 * error * 2 / 7)
    assert seen["precision"].stderr == pytest.approx(math.sqrt(0.25 / 4))
    assert seen["recall"].stderr == pytest.approx(math.sqrt(2 / 9 / 3))
    assert seen["F1"].stderr == pytest.approx(seen["recall"].stderr * 2 * 3 / 7)  # F1 is 2 right / 7
    assert seen["false positives"].value == 3 / 40
    assert seen["false positives"].direction == "down"


def test_nothing_found_in_units_has_no_error_of_its_precision():
    seen = planted_units([], TRUE, n_units=6, n_concepts=3)
    assert [row.value for row in seen.rows] == [1.0, 0.0, 0.0]
    assert math.isnan(seen["precision"].stderr)
    assert seen["precision"].tolerance == 0.02
    with pytest.raises(BadInput, match="3 pairs of 2 units and 1 concepts"):
        planted_units([], TRUE, n_units=2, n_concepts=1)


def test_dissection_finds_every_unit_that_was_planted_and_tells_its_iou():
    model, scenes = glass.colour_detector(), data.scenes("shapes", 96, size=32, seed=1, n_objects=3)
    shown = labelled_by(model, scenes)
    names = [f"{name}-c" for name in model.truth.region_names]
    seen = dissect.units(model, data.with_labels(shown), layer="inside_on", concepts=names)
    said = [(unit, seen.label(unit).name) for unit in range(8) if bool(seen.detectors[unit])]
    with torch.no_grad():
        maps = model.module[:4](scenes.images)  # as large as the images
    marked = maps > seen.threshold[:, None, None].to(maps)
    there = shown.labels["color"][:, None] == torch.arange(1, 9)[:, None, None]
    counted = (marked & there).sum((0, 2, 3)).double() / (marked | there).sum((0, 2, 3))
    told = torch.stack([seen.of(name)[unit] for unit, name in enumerate(names)])
    found = planted_units(said, list(enumerate(names)), n_units=8, n_concepts=8, iou=(told, counted))
    assert [found[name].value for name in ("precision", "recall", "F1")] == [1.0, 1.0, 1.0]
    assert found["IoU error"].value < 1e-4
    assert found["precision"].chance == 1 / 8


def test_labels_of_a_glass_model_are_its_own_regions_and_nothing_else_changes():
    model, scenes = glass.colour_detector(), data.scenes("shapes", 4, size=16, seed=1)
    shown = labelled_by(model, scenes)
    for number, name in enumerate(model.truth.region_names, 1):
        assert shown.mask_of(name, "color").equal(model.truth.regions(scenes.images)[:, number - 1])
    assert shown.images is scenes.images
    assert shown.labels["object"] is scenes.labels["object"]


# Concepts


def test_the_truth_itself_gets_the_best_number_and_its_opposite_the_worst():
    planted, reads = random_rotation(6, 1)[:4], torch.tensor([[1.0, 0.0], [0.5, 2.0], [0.0, 2.0], [-1.0, 0.3]])
    right = planted_concepts(planted, planted, reliance=(reads, reads), coefficients=(reads.T, reads.T))
    assert [row.value for row in right.rows] == pytest.approx([1, 1, 0, 1])
    assert [row.name for row in right.rows] == ["cosine", "reliance tau", "coefficient error", "coefficient cosine"]
    wrong = planted_concepts(-planted, planted, reliance=(-reads, reads), coefficients=(-reads.T, reads.T))
    expected = [-1, -1, 2 * float(reads.abs().mean()), -1]
    assert [row.value for row in wrong.rows] == pytest.approx(expected)
    assert [row.direction for row in wrong.rows] == ["up", "up", "down", "up"]


def test_tau_is_somers_d_of_scipy_and_what_only_rounding_tells_apart_is_a_tie():
    draws = torch.Generator().manual_seed(0)
    told, true = torch.randn(7, 3, generator=draws), torch.randint(4, (7, 3), generator=draws).float()
    told[3] = told[2]
    expected = [somersd(true[:, k].numpy(), told[:, k].numpy()).statistic for k in range(3)]
    noisy = true * (1 + 1e-7 * torch.randn(7, 3, generator=draws))
    seen = planted_concepts(torch.eye(7), torch.eye(7), reliance=(told, noisy))["reliance tau"]
    assert seen.value == pytest.approx(sum(expected) / 3)
    assert seen.stderr == pytest.approx(float(torch.tensor(expected).std()) / 3**0.5, rel=1e-5)
    slow = [
        sum(((told[i, 0] - told[j, 0]).sign() * (true[i, 0] - true[j, 0]).sign()).item() for i, j in pairs_of(7))
        / sum(bool(true[i, 0] != true[j, 0]) for i, j in pairs_of(7))
    ]
    assert expected[0] == pytest.approx(slow[0])


def pairs_of(n):
    return list(combinations(range(n), 2))


def test_chance_of_coefficients_is_what_any_order_of_them_gets():
    draws = torch.Generator().manual_seed(0)
    told, true = torch.rand(2, 5, generator=draws), torch.rand(2, 5, generator=draws)
    seen = planted_concepts(torch.eye(5), torch.eye(5), coefficients=(told, true))
    orders = torch.rand(20000, 5, generator=draws).argsort(1)
    mixed = told[:, orders]  # k r c
    error = (mixed - true[:, None]).abs().mean(2).mean()
    alike = F.cosine_similarity(mixed, true[:, None], dim=2).mean()
    assert seen["coefficient error"].chance == pytest.approx(float(error), abs=2e-3)
    assert seen["coefficient cosine"].chance == pytest.approx(float(alike), abs=2e-3)


def test_random_directions_are_at_chance_and_runs_of_one_concept_give_its_error():
    draws = torch.Generator().manual_seed(0)
    random = planted_concepts(torch.randn(300, 9, generator=draws), torch.randn(300, 9, generator=draws))["cosine"]
    assert abs(random.value - random.chance) < 4 * random.stderr
    runs = torch.eye(4)[None, :1] + 0.3 * torch.randn(12, 1, 4, generator=draws)
    one = planted_concepts(runs, torch.eye(4)[:1])["cosine"]
    each = F.cosine_similarity(runs[:, 0], torch.eye(4)[:1])
    assert (one.value, one.stderr) == pytest.approx((float(each.mean()), float(each.std()) / 12**0.5), rel=1e-4)


def test_what_does_not_belong_together_is_refused_and_a_strange_row_named():
    with pytest.raises(BadInput, match=r"reliance \(3, 2\) told, \(2, 2\) true"):
        planted_concepts(torch.eye(3), torch.eye(3), reliance=(torch.ones(3, 2), torch.ones(2, 2)))
    with pytest.raises(NotFound, match="There are cosine"):
        planted_concepts(torch.eye(3), torch.eye(3))["sine"]


def test_a_class_that_relies_on_all_alike_has_no_order_to_find():
    same, reads = torch.ones(3, 1), torch.tensor([[1.0], [2.0], [3.0]])
    told = torch.cat([reads, reads], 1)
    seen = planted_concepts(torch.eye(3), torch.eye(3), reliance=(told, torch.cat([same, reads], 1)))
    assert seen["reliance tau"].value == 1.0
    assert math.isnan(planted_concepts(torch.eye(3), torch.eye(3), reliance=(reads, same))["reliance tau"].value)


def test_concepts_of_a_glass_box_are_found_with_what_its_classes_make_of_them():
    """Vectors, slopes and a decomposition learnt from scenes, against the rotation and the head set by hand."""
    box = glass.planted_concept("red", 5, shared=(2, 5, 6))
    scenes = data.scenes("shapes", 60, size=16, seed=0, n_objects=4)
    q, head = box.truth.directions["code"], box.module.head.weight.detach()
    names = [f"{name}-c" for name in box.truth.concept_names]
    kept = dissect.activations(box.module, data.with_labels(labelled_by(box, scenes)), layer="code")
    vectors = dissect.concept_vectors(kept, names, solver="mean_difference")
    slopes = head @ vectors.vectors.T  # a linear head: what a step along the vector does to a class
    few = dissect.concept_vectors(kept, names[3:6], solver="mean_difference")
    parts = dissect.decompose(box, scenes.images[:4], few, n_concepts=3)
    told = torch.zeros(2, 3).scatter_(1, parts.chosen.clamp(min=0), parts.coefficients)
    centred = F.normalize(q[3:6] - q[3:6].mean(1, keepdim=True))
    true = (F.normalize(head)[:1] @ centred.T) * torch.tensor([0.0, 0.0, 1.0])  # class 0 reads red alone
    seen = planted_concepts(vectors.vectors, q, reliance=(slopes.T, (head @ q.T).T), coefficients=(told[:1], true))
    assert seen["cosine"].value > 0.99
    assert seen["reliance tau"].value == 1.0
    assert seen["coefficient error"].value < 0.01 < seen["coefficient error"].chance
    assert seen["coefficient cosine"].value > 0.99


def test_coefficients_of_a_sum_of_planted_directions_are_recovered():
    """A linear head whose rows are known sums of directions without a mean, as the decomposition centres them."""
    basis = F.normalize(torch.linalg.qr(centring(8)).Q.T[:4].float())
    true = torch.tensor([[0.8, 0.6, 0.0, 0.0], [0.0, 0.0, 0.6, 0.8], [0.5, 0.5, 0.5, 0.5]])
    net = nn.Sequential(nn.Conv2d(8, 8, 1, bias=False), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 3))
    with torch.no_grad():
        nn.init.dirac_(net[0].weight)
        net[3].weight.copy_(3 * true @ basis)
    draws = torch.Generator().manual_seed(0)
    maps, there = torch.randn(240, 8, 2, 2, generator=draws), torch.rand(240, 4, generator=draws) < 0.5
    maps += 3 * (there.float() @ basis)[:, :, None, None]
    none = torch.zeros(240, 0, dtype=torch.long)
    nothing = torch.full((240,), -1)
    kept = dissect.Activations("0", torch.arange(8), maps, nothing, none[:, :, None, None], none, (), (2, 2))
    positives = {str(c): there[:, c].nonzero()[:, 0].tolist() for c in range(4)}
    vectors = dissect.concept_vectors(kept, positives=positives, pooling="mean", solver="ridge")
    parts = dissect.decompose(net.eval(), torch.randn(4, 8, 2, 2, generator=draws), vectors, n_concepts=4)
    told = torch.zeros(3, 4).scatter_(1, parts.chosen.clamp(min=0), parts.coefficients)
    seen = planted_concepts(vectors.vectors, basis, coefficients=(told, true))
    assert seen["cosine"].value > 0.95
    assert seen["coefficient cosine"].value > 0.95 > seen["coefficient cosine"].chance
    assert seen["coefficient error"].value < 0.1


def centring(d):
    """Directions that have no mean."""
    draws = torch.randn(d, d - 1, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    return draws - draws.mean(0)


# The table


def test_a_table_is_shown_saved_and_ready_to_be_compared(tmp_path):
    seen = planted_units([(0, "red")], TRUE, n_units=3, n_concepts=3, invented=(0, 8))
    assert seen.table().splitlines()[:3] == [
        "| | found | chance | tolerance |",
        "|---|---|---|---|",
        "| precision | 1.00 ± 0.00 | 0.33 | 0.02 |",
    ]
    assert seen.table().splitlines()[-1] == "| false positives ↓ | 0.00 ± 0.00 | – | 0.02 |"
    assert PlantedTable.load(seen.save(tmp_path / "table")) == seen
    numbers = evaluate.numbers({"units": seen.means})["values"]
    assert numbers["units/recall"] == {"mean": 0.3333, "tolerance": pytest.approx(seen["recall"].tolerance, abs=1e-4)}
    assert repr(seen) == "PlantedTable(precision 1.00, recall 0.33, F1 0.50, false positives 0.00)"
    assert repr(seen["recall"]) == "PlantedRow(recall 0.333 ± 0.272, chance 0.11)"
