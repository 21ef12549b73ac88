"""Compositional labels: formulas against all that there are, pixel by pixel, and planted ones that must be found."""

from collections.abc import Iterator
from itertools import product
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from glasshouse.core import BadInput, NotFound, find_method
from glasshouse.core.labelled import Label
from glasshouse.dissect import Activations
from glasshouse.dissect.masking import thresholds
from glasshouse.dissect.netdissect import pixel_kinds
from glasshouse.dissect.netdissect.formulas import CompositionalLabels, compositional_labels

NAMES = ("tree", "lamp", "red-c", "roof", "snow-s")
JOIN = {"OR": lambda a, b: a | b, "AND": lambda a, b: a & b, "AND NOT": lambda a, b: a & ~b}


def rand(*shape: int, seed: int = 0) -> Tensor:
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed))


def stored(maps: Tensor, planes: Tensor, whole: Tensor, names: tuple[str, ...] = NAMES) -> Activations:
    labels = tuple(Label(number, name, "object") for number, name in enumerate(names, 1))
    targets = torch.full((len(maps),), -1)
    return Activations(
        "conv", torch.arange(10, 10 + maps.shape[1]), maps, targets, planes.int(), whole, labels, (16, 16)
    )


@pytest.fixture
def random() -> Activations:
    """Four units, 15 images, three planes of label maps that overlap, and a scene in some images."""
    planes = torch.stack([(5 * rand(15, 6, 6, seed=seed)).long() for seed in (1, 2, 3)], 1)
    return stored(rand(15, 4, 3, 3), planes, 5 * (rand(15, 1, seed=4) < 0.3).long())


@pytest.fixture
def planted() -> Activations:
    """Units that are on where a formula is true, at every tenth pixel or so, on label maps as fine as the layer."""
    planes = torch.zeros(20, 2, 12, 12)
    planes[:, 0] = (4 * rand(20, 12, 12, seed=1)).long()
    planes[:, 1] = 3 * (rand(20, 12, 12, seed=2) < 0.5)
    planes[:, 0][planes[:, 0] == 3] = 4
    blank = stored(torch.zeros(20, 1, 12, 12), planes, torch.zeros(20, 0, dtype=torch.long))
    tree, lamp, red, roof, _ = blank.concepts().unbind(1)
    truths = torch.stack([tree & ~red, tree & red, tree | lamp, (tree | roof) & ~red, tree], 1)
    return stored(truths + 0.1 * rand(*truths.shape, seed=3), planes, blank.whole)


def marked_by_hand(activations: Activations, unit: int, above: Tensor) -> Tensor:
    maps = F.interpolate(activations.maps[:, unit : unit + 1], activations.planes.shape[2:], mode="bilinear")
    return maps[:, 0] > above[unit]


def iou_by_hand(one: Tensor, other: Tensor) -> float:
    return float((one & other).sum()) / max(float((one | other).sum()), 1)


def every_formula(masks: Tensor, length: int) -> Iterator[tuple[str, Tensor]]:
    """All formulas of exactly so many concepts, read from left to right, in words and pixels."""
    if length == 1:
        yield from zip(NAMES, masks.unbind(1), strict=True)
        return
    for words, true in every_formula(masks, length - 1):
        for (operator, join), (name, concept) in product(JOIN.items(), zip(NAMES, masks.unbind(1), strict=True)):
            yield f"{f'({words})' if length > 2 else words} {operator} {name}", join(true, concept)


# Exactness


@pytest.mark.parametrize("length", [1, 2, 3])
def test_with_a_wide_beam_no_formula_is_better(length, random):
    seen = compositional_labels(random, length=length, beam=5 if length < 3 else 10**4, level=0.9)
    above, masks = thresholds(random, 0.9), random.concepts()
    for unit in range(4):
        marked = marked_by_hand(random, unit, above)
        for shorter in range(1, length + 1):
            best = max(iou_by_hand(marked, true) for n in range(1, shorter + 1) for _, true in every_formula(masks, n))
            assert seen.iou[unit, shorter - 1] == pytest.approx(best)


def test_a_formula_in_words_is_true_of_the_pixels_that_were_counted(random):
    seen = compositional_labels(random, level=0.9, beam=3)
    above, masks = thresholds(random, 0.9), random.concepts()
    by_words = {words: true for n in (1, 2, 3) for words, true in every_formula(masks, n)}
    for row, unit in enumerate(seen.units.tolist()):
        for length in (1, 2, 3):
            true = by_words[seen.formula(unit, length)]
            found = iou_by_hand(marked_by_hand(random, row, above), true)
            assert seen.iou[row, length - 1] == pytest.approx(found)
            rows = torch.tensor([3, 9, 2])
            assert torch.equal(seen.masks(random, unit, rows, length=length), true[rows])


def test_kinds_of_pixels_count_every_pixel_once(random, monkeypatch):
    above, numbers = thresholds(random, 0.8), [4, 1, 5]
    whole = pixel_kinds.pixel_kinds(random, above, numbers)
    masks = random.concepts(numbers)
    assert len(whole.marked.unique(dim=0)) == len(whole.marked)
    for kind, marked in enumerate(whole.marked):
        here = (masks == marked[:, None, None]).all(1)
        assert whole.count[kind] == here.sum()
        for unit in range(4):
            assert whole.hits[unit, kind] == (here & marked_by_hand(random, unit, above)).sum()
    monkeypatch.setattr(pixel_kinds, "AT_ONCE", 1)
    parts = pixel_kinds.pixel_kinds(random, above, numbers)
    assert all(torch.equal(getattr(whole, name), getattr(parts, name)) for name in ("marked", "count", "hits"))
    weight = rand(2, len(whole.count)).double()
    true = rand(3, len(whole.count)) < 0.5
    expected = torch.einsum("ws,bs,sc->wbc", weight, true.double(), whole.marked.double())
    torch.testing.assert_close(whole.sums(weight, true), expected)


def test_more_concepts_than_fit_into_a_word_are_told_apart():
    planes = torch.arange(1, 101).repeat(3, 1, 1).reshape(3, 1, 10, 10)
    maps = torch.zeros(3, 2, 10, 10)
    maps[:, 0, 9, 9] = maps[:, 1, 3, 4] = 1
    names = tuple(f"c{number}" for number in range(1, 101))
    seen = compositional_labels(stored(maps, planes, torch.zeros(3, 0, dtype=torch.long), names), level=0.98, beam=2)
    assert [seen.formula(unit, 1) for unit in (10, 11)] == ["c100", "c35"]
    assert seen.iou[:, 0].tolist() == [1, 1]


# Planted truth, and laws


def test_planted_formulas_are_found(planted):
    said = [
        {"tree AND NOT red-c"},
        {"tree AND red-c", "red-c AND tree"},
        {"tree OR lamp", "lamp OR tree"},
        {"(tree OR roof) AND NOT red-c", "(roof OR tree) AND NOT red-c"},
        {"tree"},
    ]
    for unit, words in enumerate(said):
        share = float((planted.maps[:, unit] >= 0.5).double().mean())
        one = stored(planted.maps[:, unit : unit + 1], planted.planes, planted.whole)
        seen = compositional_labels(one, level=1 - share)
        assert seen.formula(10) in words
        assert seen.iou[0, -1] == 1
        assert seen.formulas == (seen.formula(10),)


def test_longer_formulas_are_never_worse(random):
    seen = compositional_labels(random, length=5, beam=3, level=0.9)
    assert (seen.iou.diff(dim=1) >= 0).all()
    assert seen.iou[:, -1].mean() > seen.iou[:, 0].mean()


def test_a_penalty_keeps_formulas_short_that_gain_little(random):
    free, dear = (compositional_labels(random, level=0.9, penalty=penalty) for penalty in (1.0, 0.5))
    assert torch.equal(dear.iou[:, 0], free.iou[:, 0])
    lengths = [(seen.terms[:, -1, :, 0] >= 0).sum(1) for seen in (free, dear)]
    assert (lengths[1] <= lengths[0]).all()
    assert lengths[1].sum() < lengths[0].sum()
    gain = dear.iou[:, -1] * 0.5 ** (lengths[1] - 1)
    assert (gain >= free.iou[:, 0]).all()


def test_units_do_not_influence_each_other(random):
    whole = compositional_labels(random, level=0.9)
    some = stored(random.maps[:, 2:3], random.planes, random.whole)
    assert torch.equal(compositional_labels(some, level=0.9).terms[0], whole.terms[2])


def test_on_the_same_images_it_scores_the_same_and_on_others_as_counted(random):
    seen = compositional_labels(random, level=0.9)
    torch.testing.assert_close(seen.iou_on(random), seen.iou)
    other = stored(rand(8, 4, 3, 3, seed=9), random.planes[:8].flip(0), random.whole[:8])
    found = seen.iou_on(other)
    for row, unit in enumerate(seen.units.tolist()):
        true = seen.masks(other, unit, torch.arange(8))
        marked = marked_by_hand(other, row, seen.thresholds)
        assert found[row, -1] == pytest.approx(iou_by_hand(marked, true))


def test_a_unit_that_never_meets_a_concept_has_no_name(random):
    maps = random.maps.clone()
    maps[:, 1] = 0
    seen = compositional_labels(stored(maps, random.planes, random.whole), level=0.9)
    assert seen.formula(11) == ""
    assert seen.iou[1].tolist() == [0, 0, 0]
    assert not seen.masks(random, 11, torch.arange(3)).any()


def test_concepts_that_are_nowhere_are_left_out_unless_named(random):
    planes = torch.where(random.planes == 2, 0, random.planes)
    without = stored(random.maps, planes, random.whole)
    assert "lamp" not in [label.name for label in compositional_labels(without, length=1).labels]
    named = compositional_labels(without, ["lamp", "tree"], length=1)
    assert [label.name for label in named.labels] == ["lamp", "tree"]


def test_what_was_saved_is_read_again(random, tmp_path):
    seen = compositional_labels(random)
    again = CompositionalLabels.load(seen.save(tmp_path / "seen.safetensors"))
    assert again.to_dict() == seen.to_dict()
    assert again.formulas == seen.formulas
    assert "4 units, mean IoU" in repr(again)


def test_progress_is_told(random):
    told: list[tuple[int, int]] = []
    compositional_labels(random, length=1, progress=lambda *at: told.append(at))
    assert told[-1] == (4, 4)


# Mistakes


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"length": 0}, "length=0 and beam=10 must be 1 or more"),
        ({"beam": 0}, "length=3 and beam=0 must be 1 or more"),
        ({"penalty": 1.5}, "penalty=1.5 above 0 and at most 1"),
        ({"concepts": ["treee"]}, "no concept 'treee' here"),
        ({"level": 2.0}, "level 2.0 is not in"),
    ],
    ids=lambda x: next(iter(x)) if isinstance(x, dict) else "",
)
def test_a_mistake_is_named(settings: dict[str, Any], said: str, random):
    with pytest.raises((BadInput, NotFound), match=said):
        compositional_labels(random, **settings)


def test_what_was_not_asked_for_cannot_be_read(random):
    seen = compositional_labels(random, length=2)
    with pytest.raises(NotFound, match="unit 3 is not among the 4 units"):
        seen.formula(3)
    with pytest.raises(BadInput, match=r"no formulas of 3 concepts were tried. There are 1 to 2"):
        seen.formula(10, 3)
    with pytest.raises(BadInput, match="activations of other units"):
        seen.iou_on(stored(random.maps[:, :2], random.planes, random.whole))
    bare = stored(random.maps, torch.zeros_like(random.planes), torch.zeros(15, 0, dtype=torch.long))
    with pytest.raises(BadInput, match="nothing is marked in these images"):
        compositional_labels(bare)


def test_it_is_found_by_its_name():
    assert find_method("compositional_labels", "dissect").function is compositional_labels
