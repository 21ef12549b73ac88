"""Marks and overlaps of units and concepts: rules of counting, intervals, chance and information."""

import math
from pathlib import Path

import pytest
import torch
from torch import Tensor

from glasshouse.core import BadInput
from glasshouse.core.labelled import Label
from glasshouse.core.stats.hashing import scramble
from glasshouse.core.stats.student import t_limit
from glasshouse.dissect import Dissection
from glasshouse.dissect.netdissect.enlarging import Hits
from glasshouse.dissect.netdissect.overlaps import ConceptOverlap, Marks

SIDE = 8
BELONGS = torch.tensor([[0, 0], [1, 0], [1, 0], [0, 1], [0, 1]], dtype=torch.bool)  # labels 1, 2 and 3, 4


def batch(planes: Tensor, whole: Tensor | None = None) -> dict[str, Tensor]:
    return {"planes": planes, "whole": torch.zeros(len(planes), 0, dtype=torch.long) if whole is None else whole}


def random_labels(n: int, seed: int, m: int = 2) -> Tensor:
    return torch.randint(0, 5, (n, m, SIDE, SIDE), generator=torch.Generator().manual_seed(seed))


def random_masks(n: int, u: int, seed: int, share: float = 0.2) -> Tensor:
    return torch.rand(n, u, SIDE, SIDE, generator=torch.Generator().manual_seed(seed)) < share


def hits_of(masks: Tensor) -> Hits:
    image, unit, pixel = masks.flatten(2).nonzero(as_tuple=True)
    return Hits(image, unit, pixel)


def counted(masks: Tensor, planes: Tensor, whole: Tensor | None = None, n_groups: int = 20) -> ConceptOverlap:
    found = ConceptOverlap(masks.shape[1], 4, 2, n_groups)
    found.update([hits_of(masks)], Marks.of(batch(planes, whole), BELONGS), torch.arange(len(masks)))
    return found


def dissection(found: ConceptOverlap, local: bool = True, min_iou: float = 0.04) -> Dissection:
    labels = tuple(Label(number, f"l{number}", "ab"[(number - 1) // 2]) for number in (1, 2, 3, 4))
    columns = torch.tensor([1, 2, 3, 4])
    return Dissection(
        "layer",
        torch.arange(found.n_units),
        labels,
        ("a", "b"),
        torch.zeros(found.n_units),
        0.995,
        int(found.n_images.sum()),
        shared=found.shared[:, :, columns],
        area=found.area,
        truth=found.truth[:, columns],
        n_images=found.n_images,
        n_marked=found.n_marked,
        n_pixels=SIDE**2,
        chance=found.by_chance(SIDE, SIDE)[:, columns],
        local=local,
        min_iou=min_iou,
    )


# Marks


def test_a_pixel_with_a_label_in_two_planes_counts_twice_and_once_without_doubles():
    planes = torch.zeros(1, 3, 2, 2, dtype=torch.long)
    planes[0, :, 0, 0] = torch.tensor([3, 3, 1])
    planes[0, :, 0, 1] = torch.tensor([2, 0, 2])
    both = Marks.of(batch(planes), BELONGS)
    once = Marks.of(batch(planes), BELONGS, dedupe=True)
    assert both.pixels.tolist() == [[0, 1, 2, 2, 0]]
    assert once.pixels.tolist() == [[0, 1, 1, 1, 0]]
    assert once.planes[0, :, 0, :].tolist() == [[3, 2], [0, 0], [1, 0]]
    assert planes[0, 1, 0, 0] == 3  # what was handed in stays


def test_labels_of_the_whole_image_cover_every_pixel_and_double_what_they_cover():
    planes = torch.zeros(2, 1, 2, 3, dtype=torch.long)
    planes[0, 0, 0, 0] = 4
    whole = torch.tensor([[4, 4], [1, 0]])
    both = Marks.of(batch(planes, whole), BELONGS)
    once = Marks.of(batch(planes, whole), BELONGS, dedupe=True)
    assert both.pixels.tolist() == [[0, 0, 0, 0, 13], [0, 6, 0, 0, 0]]
    assert once.pixels.tolist() == [[0, 0, 0, 0, 6], [0, 6, 0, 0, 0]]
    assert both.categories.tolist() == once.categories.tolist() == [[False, True], [True, False]]


def test_a_category_is_marked_where_one_of_its_own_labels_is():
    planes = torch.zeros(3, 2, 2, 2, dtype=torch.long)
    planes[0, 0, 1, 1], planes[1, 1, 0, 0] = 2, 3
    assert Marks.of(batch(planes), BELONGS).categories.tolist() == [[True, False], [False, True], [False, False]]


# Counts


@pytest.mark.parametrize("n_groups", [4, 20])
def test_a_loop_over_images_counts_the_same(n_groups):
    n, u = 30, 3
    masks, planes = random_masks(n, u, 0), random_labels(n, 1)
    whole = torch.randint(0, 5, (n, 2), generator=torch.Generator().manual_seed(2))
    found = counted(masks, planes, whole, n_groups)
    shared, area = torch.zeros(n_groups, u, 5, dtype=torch.long), torch.zeros(n_groups, u, 3, dtype=torch.long)
    truth, with_label = torch.zeros(n_groups, 5, dtype=torch.long), torch.zeros(5, dtype=torch.long)
    for row in range(n):
        group = int(scramble(torch.tensor([row]), 0)) % n_groups
        carried = [planes[row, 0], planes[row, 1], *(w.expand(SIDE, SIDE) for w in whole[row])]
        for label in range(1, 5):
            where = [plane == label for plane in carried]
            truth[group, label] += sum(int(one.sum()) for one in where)
            with_label[label] += any(one.any() for one in where)
            for unit in range(u):
                shared[group, unit, label] += sum(int((masks[row, unit] & one).sum()) for one in where)
        for unit in range(u):
            kinds = [any((plane == label).any() for plane in carried for label in pair) for pair in ((1, 2), (3, 4))]
            area[group, unit] += int(masks[row, unit].sum()) * torch.tensor([*kinds, True])
    assert torch.equal(found.shared, shared)
    assert torch.equal(found.area, area)
    assert torch.equal(found.truth, truth)
    assert torch.equal(found.n_with, with_label)
    assert found.n_images.sum() == n == found.n_marked[-1]


def test_batches_and_merges_in_any_order_change_no_bit():
    masks, planes = random_masks(30, 3, 0), random_labels(30, 1)
    whole = counted(masks, planes)
    parts = []
    for rows in (slice(20, 30), slice(0, 7), slice(7, 20)):
        part = whole.fresh()
        for row in reversed(range(30)[rows]):
            marks = Marks.of(batch(planes[row : row + 1]), BELONGS)
            part.update([hits_of(masks[row : row + 1])], marks, torch.tensor([row]))
        parts.append(part)
    merged = whole.fresh()
    assert merged.shape == (0, 0)
    for part in parts:
        merged.merge(part)
    loaded = whole.fresh()
    loaded.load(merged.state())
    for name, tensor in whole.state().items():
        assert torch.equal(tensor, loaded.state()[name]), name
    with pytest.raises(BadInput, match="cannot merge"):
        whole.merge(ConceptOverlap(3, 5, 2))


# Ratios


def test_iou_is_summed_over_the_data_set_before_it_is_divided():
    masks, planes = random_masks(12, 3, 0), random_labels(12, 1, m=1)
    seen = dissection(counted(masks, planes), local=False)
    for unit in range(3):
        for place, label in enumerate((1, 2, 3, 4)):
            both = (masks[:, unit] & (planes[:, 0] == label)).sum()
            either = (masks[:, unit] | (planes[:, 0] == label)).sum()
            assert float(seen.iou[unit, place]) == pytest.approx(float(both) / float(either), rel=1e-15)


def test_the_information_quality_ratio_equals_entropies_of_the_pixels():
    masks, planes = random_masks(12, 3, 0), random_labels(12, 1, m=1)
    masks[:, 1] = planes[:, 0] == 2  # the unit is the concept
    masks[:, 2] = False  # and this one is silent

    def entropy(values: Tensor) -> float:
        shares = values.unique(return_counts=True)[1].double() / values.numel()
        return -sum(share * math.log(share) for share in shares.tolist())

    seen = dissection(counted(masks, planes))
    for unit in range(3):
        for place, label in enumerate((1, 2, 3, 4)):
            m, s = masks[:, unit].flatten().long(), (planes[:, 0] == label).flatten().long()
            joint = entropy(2 * m + s)
            expected = (entropy(m) + entropy(s) - joint) / joint
            assert float(seen.iqr[unit, place]) == pytest.approx(expected, abs=1e-12)
    assert float(seen.iqr[1, 1]) == pytest.approx(1)
    assert float(seen.iqr[2].max()) == pytest.approx(0, abs=1e-12)


@pytest.mark.parametrize("local", [False, True])
def test_chance_is_the_average_over_all_pairings_of_maps_with_label_maps(local):
    # Units and labels that keep to their places, and images in which nothing of a category is marked.
    n = 9
    masks, planes = random_masks(n, 2, 0, 0.6), random_labels(n, 1, m=1)
    masks[:, 0, 4:], planes[:, :, 2:, 3:] = False, 0
    planes[::3] = planes[::3].clamp(max=2)
    seen = dissection(counted(masks, planes), local)
    for unit in range(2):
        for place, label in enumerate((1, 2, 3, 4)):
            kind = (1, 2) if label < 3 else (3, 4)
            shared = area = 0.0
            for x in range(n):
                for y in range(n):
                    mask, plane = masks[x, unit], planes[y, 0]
                    shared += float((mask & (plane == label)).sum()) / n
                    marked = any((plane == one).any() for one in kind) or not local
                    area += float(mask.sum()) * marked / n
            union = area + float((planes == label).sum()) - shared
            assert float(seen.chance_iou[unit, place]) == pytest.approx(shared / union, rel=1e-9)


def test_position_alone_is_said_to_make_detectors():
    # Unit 0 always marks the upper half, and so does label 1; unit 1 marks single pixels anywhere.
    masks, planes = random_masks(40, 2, 0, 0.01), torch.zeros(40, 1, SIDE, SIDE, dtype=torch.long)
    masks[:, 0], planes[:, 0, :4] = False, 1
    masks[:, 0, :4] = True
    seen = dissection(counted(masks, planes))
    assert seen.detectors.tolist() == [True, False]
    assert seen.false_positive_rate == 0.5
    assert float(seen.chance_iou[0, 0]) == 1
    assert seen.significant.tolist() == [False, False]


# Intervals


def test_the_jackknife_leaves_out_one_group_after_the_other():
    n = 60
    masks, planes = random_masks(n, 2, 0), random_labels(n, 1, m=1)
    seen = dissection(counted(masks, planes), local=False)
    group = scramble(torch.arange(n), 0).remainder(20)
    used = group.unique().tolist()
    for unit, place in ((0, 1), (1, 3)):
        left = []
        for one in used:
            rest = group != one
            mask, truth = masks[rest, unit], planes[rest, 0] == place + 1
            left.append(float((mask & truth).sum()) / float((mask | truth).sum()))
        middle, mean = float(seen.iou[unit, place]), sum(left) / len(left)
        g = len(used)
        error = math.sqrt((g - 1) / g * sum((value - mean) ** 2 for value in left))
        reach = t_limit(0.9, g - 1) * error
        (limits,) = seen.limits(torch.tensor([unit]), torch.tensor([place]), 0.9).tolist()
        assert limits == pytest.approx([max(middle - reach, 0), middle + reach], rel=1e-9)
    assert torch.equal(seen.interval(), seen.limits(torch.arange(2), seen.best))


def test_one_image_has_no_interval():
    seen = dissection(counted(random_masks(1, 2, 0), random_labels(1, 1)))
    assert seen.interval().isnan().all()
    assert not seen.significant.any()


def test_the_interval_holds_the_true_ratio_about_as_often_as_it_says():
    # Blobs of random size that follow the concept in part: the true IoU is that of very many images.
    def draw(n: int, seed: int) -> tuple[Tensor, Tensor]:
        source = torch.Generator().manual_seed(seed)
        height = torch.randint(1, SIDE, (n, 1, 1), generator=source)
        planes = (torch.arange(SIDE)[:, None] < height).long().expand(n, SIDE, SIDE)[:, None]
        seen = torch.rand(n, 1, 1, 1, generator=source) < 0.5
        masks = (planes > 0) & seen | (torch.rand(n, 1, SIDE, SIDE, generator=source) < 0.1)
        return masks, planes

    masks, planes = draw(20_000, 999)
    true = float((masks & (planes > 0)).sum()) / float((masks | (planes > 0)).sum())
    inside = 0
    for seed in range(200):
        low, high = dissection(counted(*draw(80, seed)), local=False).interval(0.9)[0].tolist()
        inside += low <= true <= high
    assert 0.82 < inside / 200 < 0.97


def test_units_without_any_relation_are_not_called_significant():
    n_units, found = 0, 0
    for seed in range(4):
        source = torch.Generator().manual_seed(seed)
        corners = torch.randint(0, SIDE - 2, (100, 20, 2), generator=source)
        active = torch.rand(100, 20, generator=source) < 0.15
        masks = torch.zeros(100, 20, SIDE, SIDE, dtype=torch.bool)
        for row, unit in active.nonzero().tolist():
            i, j = corners[row, unit].tolist()
            masks[row, unit, i : i + 2, j : j + 2] = True
        planes = torch.zeros(100, 1, SIDE, SIDE, dtype=torch.long)
        for row in range(0, 100, 2):
            i, j = corners[row, 0].flip(0).tolist()
            planes[row, 0, i : i + 3, j : j + 2] = 1 + row // 2 % 4
        seen = dissection(counted(masks, planes), min_iou=0.0)
        n_units, found = n_units + 20, found + int(seen.significant.sum())
    assert found <= 0.025 * n_units + 2


def test_a_dissection_saves_loads_and_writes_its_table(tmp_path: Path):
    seen = dissection(counted(random_masks(30, 3, 0), random_labels(30, 1)))
    loaded = Dissection.load(seen.save(tmp_path / "seen.safetensors"))
    assert loaded.to_dict() == seen.to_dict()
    assert loaded.tally.to_dict() == seen.tally.to_dict()
    for row in range(3):
        for category, best in enumerate(seen.tally.best[row]):
            columns = [2 * category, 2 * category + 1]
            assert best is not None
            assert best.iou == pytest.approx(float(seen.iou[row, columns].max()), rel=1e-15)
