"""Units that detect a planted concept, and units that have nothing to do with any."""

import math

import pytest
import torch
from scipy import stats

from glasshouse import data, dissect
from glasshouse.core import BadInput, probe
from glasshouse.data import glass
from glasshouse.data.glass.colours import PALETTE
from glasshouse.evaluate.inside.claims import ablation_specificity, detection_accuracy, iou_null


def source(seed=0):
    return torch.Generator().manual_seed(seed)


@pytest.fixture(scope="module")
def painted():
    """Images with two of the eight paints each, their masks, and the maps of the glass units that see them."""
    kinds = torch.stack([torch.randperm(8, generator=source(i))[:2] for i in range(48)])
    images, masks = torch.zeros(48, 3, 24, 32), torch.zeros(48, 8, 24, 32, dtype=torch.bool)
    for i, pair in enumerate(kinds.tolist()):
        for place, kind in enumerate(pair):
            top, left = (i % 5) * 3, 16 * place + i % 7
            images[i, :, top : top + 8, left : left + 6] = torch.tensor(list(PALETTE.values())[kind])[:, None, None]
            masks[i, kind, top : top + 8, left : left + 6] = True
    model = glass.colour_detector(half=0.02, soft=0.1)
    with probe(model.module, "inside_on") as seen, torch.no_grad():
        model.module(images)
    return images, masks, seen["inside_on"], kinds, model


HALF = torch.full((8,), 0.5)


def test_planted_detectors_are_found_wholly(painted):
    _, masks, maps, _, _ = painted
    seen = detection_accuracy(maps, masks, HALF, torch.arange(8))
    for values in (seen.balanced, seen.iou, seen.precision, seen.recall):
        assert values.tolist() == [1.0] * 8
    assert seen.iou_stderr.tolist() == [0.0] * 8
    assert 0 < float(seen.stderr.min()) < 0.1
    assert float(seen.iou_chance.max()) < 0.1


def test_claims_about_the_wrong_concept_are_no_better_than_chance(painted):
    _, masks, maps, _, _ = painted
    seen = detection_accuracy(maps, masks, HALF, (torch.arange(8) + 1) % 8)
    assert seen.iou.tolist() == [0.0] * 8
    assert float(seen.balanced.max()) < 0.6


def test_noise_detects_at_chance():
    maps = torch.rand(300, 6, 4, 4, generator=source())
    masks = torch.rand(300, 2, 4, 4, generator=source(1)) < 0.04
    seen = detection_accuracy(maps, masks, torch.full((6,), 0.96), torch.tensor([0, 1, 0, 1, 0, 1]))
    assert seen.balanced.tolist() == pytest.approx([0.5] * 6, abs=0.08)
    torch.testing.assert_close(seen.iou, seen.iou_chance, atol=0.02, rtol=0)


def test_every_number_of_a_detector_is_what_a_loop_counts():
    maps = torch.rand(20, 2, 3, 4, generator=source())
    masks = torch.rand(20, 3, 3, 4, generator=source(1)) < 0.2
    masks[::3] = False
    limits, claims = torch.tensor([0.8, 0.95]), torch.tensor([2, 0])
    seen = detection_accuracy(maps, masks, limits, claims)
    for u in range(2):
        on = [[float(v) > float(limits[u]) for v in maps[i, u].flatten()] for i in range(20)]
        real = [masks[i, int(claims[u])].flatten().tolist() for i in range(20)]
        shared = [sum(a and b for a, b in zip(on[i], real[i], strict=True)) for i in range(20)]
        either = [sum(a or b for a, b in zip(on[i], real[i], strict=True)) for i in range(20)]
        assert float(seen.iou[u]) == pytest.approx(sum(shared) / sum(either))
        assert int(seen.found[u]) == sum(any(on[i]) and any(real[i]) for i in range(20))
        assert int(seen.spared[u]) == sum(not any(on[i]) and not any(real[i]) for i in range(20))
        assert float(seen.recall[u]) == pytest.approx(sum(shared) / sum(map(sum, real)))
        others = [(i, j) for i in range(20) for j in range(20) if i != j]
        pairs = [sum(a and b for a, b in zip(on[i], real[j], strict=True)) for i, j in others]
        expected = sum(pairs) / 19  # each image with the labels of any other
        total = sum(map(sum, on)) + sum(map(sum, real))
        assert float(seen.iou_chance[u]) == pytest.approx(expected / (total - expected))
        assert seen.sensitivity(u).total + seen.specificity(u).total == 20


def test_the_error_of_the_iou_is_its_spread_over_draws_of_images():
    values = []
    for seed in range(60):
        maps = torch.rand(50, 1, 6, 6, generator=source(seed))
        masks = (maps + 0.3 * torch.rand(50, 1, 6, 6, generator=source(1000 + seed))) > 1.0
        seen = detection_accuracy(maps, masks, torch.tensor([0.8]), torch.tensor([0]))
        values.append((float(seen.iou), float(seen.iou_stderr)))
    found, errors = torch.tensor(values).T
    assert float(errors.mean()) == pytest.approx(float(found.std()), rel=0.25)


def test_one_image_leaves_error_and_chance_of_the_iou_unknown():
    maps, masks = torch.rand(3, 1, 4, 5, generator=source()), torch.rand(3, 1, 4, 5, generator=source(1)) < 0.5
    claim = torch.full((1,), 0.5), torch.zeros(1).long()
    seen = detection_accuracy(maps[:1], masks[:1], *claim)
    assert float(seen.iou) > 0
    assert seen.iou_stderr.isnan().all()
    assert seen.iou_chance.isnan().all()
    masks[1:], maps[1:] = False, 0.0  # and two more images that hold nothing tell no more of its error
    seen = detection_accuracy(maps, masks, *claim)
    assert seen.iou_stderr.isnan().all()
    assert seen.iou_chance.tolist() == [0.0]


def test_concepts_that_are_always_there_leave_no_balanced_accuracy():
    seen = detection_accuracy(
        torch.rand(4, 1, 2, 2), torch.ones(4, 1, 2, 2).bool(), torch.zeros(1), torch.zeros(1).long()
    )
    assert math.isnan(float(seen.balanced))
    assert float(seen.iou) == 1.0


def test_planted_units_stand_against_shuffled_labels_and_others_do_not(painted):
    _, masks, maps, _, _ = painted
    noise = torch.rand(48, 4, 24, 32, generator=source())
    seen = iou_null(torch.cat([maps, noise], 1), masks, torch.cat([HALF, torch.full((4,), 0.98)]), n_shuffles=99)
    assert seen.best[:8].tolist() == list(range(8))
    assert seen.familywise.diagonal().tolist() == [0.01] * 8
    assert seen.significant().tolist() == [True] * 8 + [False] * 4
    assert (seen.p_value <= seen.corrected).all()
    assert (seen.corrected <= seen.familywise).all()


def test_p_values_of_unrelated_units_are_even_and_the_best_of_many_is_corrected():
    masks = torch.rand(30, 12, 5, 5, generator=source(7)) < 0.15
    maps = torch.rand(30, 60, 5, 5, generator=source(8))
    seen = iou_null(maps, masks, torch.full((60,), 0.85), n_shuffles=99)
    assert float((seen.p_value <= 0.1).double().mean()) == pytest.approx(0.1, abs=0.04)
    best = seen.best[:, None]
    assert float((seen.p_value.gather(1, best) <= 0.05).double().mean()) > 0.25  # what choosing the best does
    assert float((seen.corrected.gather(1, best) <= 0.05).double().mean()) < 0.13
    assert not seen.significant().any()


def test_what_is_always_in_the_same_place_is_no_evidence():
    masks = torch.zeros(20, 1, 4, 4, dtype=torch.bool)
    masks[:, :, :2] = True  # sky
    maps = masks.float()  # a unit that is on at the top of every image
    seen = iou_null(maps, masks, torch.tensor([0.5]), n_shuffles=50)
    assert float(seen.iou) == 1.0
    assert float(seen.p_value) == 1.0


def test_the_null_is_what_explicit_permutations_give():
    maps = torch.rand(5, 2, 3, 3, generator=source())
    masks = torch.rand(5, 2, 3, 3, generator=source(1)) < 0.4
    limits = torch.tensor([0.5, 0.7])
    seen = iou_null(maps, masks, limits, n_shuffles=6, seed=3)
    draw = source(3)
    nulls = []
    for _ in range(6):
        order = torch.randperm(5, generator=draw)
        on, real = maps > limits[:, None, None], masks[order]
        shared = (on[:, :, None] & real[:, None]).double().sum((0, 3, 4))
        nulls.append(shared / (on[:, :, None] | real[:, None]).double().sum((0, 3, 4)))
    torch.testing.assert_close(seen.null_mean, torch.stack(nulls).mean(0))
    counts = sum((null >= seen.iou - 1e-12).long() for null in nulls)
    torch.testing.assert_close(seen.p_value, (1 + counts).double() / 7)


def test_the_iou_is_that_of_network_dissection():
    scenes = data.scenes("shapes", 24, size=32, seed=1)
    model = glass.colour_detector().module
    found = dissect.units(model, data.with_labels(scenes), layer="inside_on", thresholds=HALF, min_images=1)
    with probe(model, "inside_on") as seen, torch.no_grad():
        model(scenes.images)
    masks = torch.stack([scenes.mask_of(name, "color") for name in PALETTE], 1)
    ours = detection_accuracy(seen["inside_on"], masks, found.threshold, torch.arange(8))
    theirs = torch.stack([found.of(f"{name}-c")[row] for row, name in enumerate(PALETTE)])
    torch.testing.assert_close(ours.iou.nan_to_num(), theirs)
    assert float(ours.iou.max()) > 0.3


def test_damage_to_the_preferred_class_is_specific():
    means = torch.rand(7, 6, generator=source())
    assert ablation_specificity(means**3, means).value == pytest.approx(1.0)
    assert ablation_specificity(-means, means).value == pytest.approx(-1.0)


def test_each_unit_is_scipys_spearman_and_unrelated_damage_is_near_zero():
    damage, means = torch.randn(80, 9, generator=source()), torch.rand(80, 9, generator=source(1))
    seen = ablation_specificity(damage, means)
    expected = [stats.spearmanr(a.numpy(), b.numpy()).statistic for a, b in zip(damage, means, strict=True)]
    assert seen.per_unit.tolist() == pytest.approx(expected, abs=1e-6)
    assert abs(seen.value) < 3 * seen.stderr
    assert seen.stderr == pytest.approx(float(seen.per_unit.std()) / math.sqrt(80), rel=0.1)
    assert seen.interval[0] < seen.value < seen.interval[1]


def test_units_without_damage_and_classes_without_images_are_left_out():
    damage, means = torch.rand(4, 6, generator=source()), torch.rand(4, 6, generator=source(1))
    damage[1] = 0.0
    whole = ablation_specificity(damage[:, :5], means[:, :5])
    means[:, 5] = torch.nan
    seen = ablation_specificity(damage, means)
    assert seen.per_unit.isnan().tolist() == [False, True, False, False]
    torch.testing.assert_close(seen.per_unit, whole.per_unit, equal_nan=True)
    assert "3 of 4 units" in repr(seen)


def test_a_unit_whose_selectivity_is_unknown_takes_no_class_from_the_others():
    damage, means = torch.rand(4, 6, generator=source()), torch.rand(4, 6, generator=source(1))
    whole = ablation_specificity(damage, means)
    means[2] = torch.nan
    means[3, :2] = torch.nan
    seen = ablation_specificity(damage, means)
    torch.testing.assert_close(seen.per_unit[:2], whole.per_unit[:2])
    assert seen.per_unit[2].isnan()
    expected = stats.spearmanr(damage[3, 2:].numpy(), means[3, 2:].numpy()).statistic
    assert float(seen.per_unit[3]) == pytest.approx(expected, abs=1e-6)


def test_the_glass_units_that_a_class_reads_are_the_ones_it_loses_most_without(painted):
    images, _, _, kinds, model = painted
    items = [(images[i] * 1.0, int(kinds[i, 0])) for i in range(48)]
    lone = [(image * (torch.arange(32) < 15), kind) for image, kind in items]  # the first paint only
    found = dissect.ablate_units(model.module, lone, layer="inside_on")
    assert found.traits is not None
    seen = ablation_specificity(found.damage, found.traits.class_mean)
    assert found.damage.argmax(1).tolist()[1:] == found.traits.class_mean.argmax(1).tolist()[1:]
    assert seen.value > 0.9


def test_what_does_not_fit_is_refused():
    maps, masks = torch.rand(3, 2, 2, 2), torch.ones(3, 1, 2, 2).bool()
    with pytest.raises(BadInput, match="1 thresholds"):
        iou_null(maps, masks, torch.zeros(1))
    with pytest.raises(BadInput, match="columns 0…0"):
        detection_accuracy(maps, masks, torch.zeros(2), torch.tensor([0, 1]))
    with pytest.raises(BadInput, match="nothing to exchange"):
        iou_null(maps[:1], masks[:1], torch.zeros(2))
    with pytest.raises(BadInput, match="not finite"):
        iou_null(maps / 0, masks, torch.zeros(2))
    with pytest.raises(BadInput, match="one row per unit"):
        ablation_specificity(torch.rand(2, 5), torch.rand(3, 5))
    with pytest.raises(BadInput, match="only 2 classes"):
        ablation_specificity(torch.rand(3, 2), torch.rand(3, 2))
    with pytest.raises(BadInput, match="level=95"):
        ablation_specificity(torch.rand(3, 4), torch.rand(3, 4), level=95.0)


def test_results_are_saved_and_shown(painted, tmp_path):
    _, masks, maps, _, _ = painted
    for seen in (
        detection_accuracy(maps, masks, HALF, torch.arange(8)),
        iou_null(maps, masks, HALF, n_shuffles=3),
        ablation_specificity(torch.rand(4, 5), torch.rand(4, 5)),
    ):
        assert repr(type(seen).load(seen.save(tmp_path / "noun"))) == repr(seen)
