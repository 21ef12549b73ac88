"""Shortcuts: how often they tell the truth, where they are seen, and what hides in a pattern nobody sees."""

import math
from typing import get_args

import pytest
import torch
from torch import Tensor
from torch.nn.functional import max_pool2d

from glasshouse.core.errors import BadInput, NotFound
from glasshouse.data.world.presets import PRESETS
from glasshouse.data.world.scene import scenes
from glasshouse.data.world.shortcuts import DRAWN, PATTERN_AMPLITUDE, Shortcut, ShortcutKind

MANY = torch.arange(20_000)
KINDS: tuple[ShortcutKind, ...] = get_args(ShortcutKind)
OF_EVERY_WORLD = [(preset, kind) for preset in PRESETS for kind in KINDS]
pytestmark = pytest.mark.usefixtures("unchecked")


def near(mask: Tensor) -> Tensor:
    """The pixels of a mask and their neighbours."""
    return max_pool2d(mask.float()[:, None], 3, 1, 1)[:, 0] > 0


@pytest.mark.parametrize("categories", [2, 6, 12])
@pytest.mark.parametrize("strength", [0.0, 0.3, 0.9, 1.0])
def test_agreement_while_training_is_strength_plus_luck(strength, categories):
    truth = MANY % categories
    signal = Shortcut("hue", strength).signal(truth, categories, MANY, 0, "train")
    agreement = float((signal == truth).double().mean())
    expected = strength + (1 - strength) / categories
    assert agreement == pytest.approx(expected, abs=4 * math.sqrt(expected * (1 - expected) / len(MANY)) + 1e-12)
    wrong = signal[signal != truth]
    if len(wrong):
        shares = wrong.bincount(minlength=categories) / len(wrong)
        assert (shares - 1 / categories).abs().max() < 4 / math.sqrt(len(wrong))


def test_test_splits_are_aligned_conflicting_or_absent():
    truth, shortcut = MANY % 5, Shortcut("border", 0.4)
    assert torch.equal(shortcut.signal(truth, 5, MANY, 0, "aligned"), truth)
    assert (shortcut.signal(truth, 5, MANY, 0, "absent") == -1).all()
    conflicting = shortcut.signal(truth, 5, MANY, 0, "conflicting")
    assert ((conflicting - truth) % 5).bincount(minlength=5)[0] == 0
    counts = ((conflicting - truth) % 5).bincount(minlength=5)[1:]
    assert (counts / len(MANY) - 0.25).abs().max() < 0.02  # every other category equally often
    with pytest.raises(BadInput, match="single category"):
        shortcut.signal(torch.zeros(3, dtype=torch.long), 1, MANY[:3], 0, "conflicting")


@pytest.mark.parametrize(("preset", "kind"), OF_EVERY_WORLD)
def test_scenes_carry_the_signal_and_splits_leave_the_rest_alone(preset, kind):
    aligned, conflicting, absent = (
        scenes(preset, 6, size=16, seed=2, shortcut=Shortcut(kind), split=split)
        for split in ("aligned", "conflicting", "absent")
    )
    plain = scenes(preset, 6, size=16, seed=2)
    assert torch.equal(aligned.signal, aligned.categories)
    assert (conflicting.signal != conflicting.categories).all()
    assert not absent.shortcut_mask.any()
    assert torch.equal(absent.images, plain.images)
    carriers = {"background": PRESETS[preset].ground, "position": PRESETS[preset].place}.get(kind, ())
    for name, value in plain.factors.items():
        if name not in carriers:
            assert torch.equal(aligned.factors[name], value), name
            assert torch.equal(conflicting.factors[name], value), name


@pytest.mark.parametrize(("preset", "kind"), OF_EVERY_WORLD)
def test_different_signals_look_different_and_the_same_signal_the_same(preset, kind):
    some = scenes(preset, 1, size=32, seed=4, labels=False, shortcut=Shortcut(kind))
    shown = [some.do(signal=k) for k in range(len(some.class_names))]
    pictures = {tuple((scene.images * 1e4).round().long().flatten().tolist()) for scene in shown}
    assert len(pictures) == len(some.class_names)
    assert torch.equal(some.do(signal=0).do(signal=int(some.signal)).images, some.images)


@pytest.mark.parametrize(("preset", "kind"), [(p, k) for p, k in OF_EVERY_WORLD if k in (*DRAWN, "hue", "pattern")])
def test_a_shortcut_is_visible_only_inside_its_mask(preset, kind):
    with_it = scenes(preset, 4, size=32, seed=1, shortcut=Shortcut(kind))
    without = with_it.do(signal=-1)
    changed = (with_it.images != without.images).any(1)
    assert changed.flatten(1).any(1).all()
    assert not (changed & ~near(near(with_it.shortcut_mask))).any()  # the tips of a star are thinner than a pixel
    assert not without.shortcut_mask.any()
    assert torch.equal(without.images, scenes(preset, 4, size=32, seed=1).images)
    words = with_it.vocabulary
    if kind in DRAWN:
        for plane in ("object", "part"):
            assert torch.equal(with_it.labels[plane] == words[plane].index("shortcut"), with_it.shortcut_mask)
        assert torch.equal(with_it.labels["instance"] == 20, with_it.shortcut_mask)
    else:
        assert with_it.shortcut_mask.all()
        assert all(torch.equal(plane, without.labels[name]) for name, plane in with_it.labels.items())


@pytest.mark.parametrize("preset", ["creatures", "shapes"])
def test_a_background_shortcut_is_visible_only_in_the_background(preset):
    with_it = scenes(preset, 6, size=32, seed=1, shortcut=Shortcut("background"))
    without = with_it.do(signal=-1)
    assert torch.equal(without.images, scenes(preset, 6, size=32, seed=1).images)
    changed = (with_it.images != without.images).any(1)
    front = with_it.masks & ~with_it.shortcut_mask[:, None]
    firm = (~near((~front).flatten(0, 1))).view_as(front).any(1)  # all around the same part, nothing shines through
    assert firm.any()
    assert changed[with_it.shortcut_mask].double().mean() > 0.5
    assert not changed[firm].any()
    assert torch.equal(with_it.masks, without.masks)


@pytest.mark.parametrize("kind", ["background", "position"])
@pytest.mark.parametrize("preset", PRESETS)
def test_the_factors_that_carry_a_signal_tell_it(preset, kind):
    world = PRESETS[preset]
    told = scenes(preset, 60, size=16, labels=False, shortcut=Shortcut(kind, 0.5))
    carriers = world.ground if kind == "background" else world.place
    seen: dict[int, set[tuple[float, ...]]] = {}
    for signal, *values in zip(told.signal.tolist(), *(told.factors[name].tolist() for name in carriers), strict=True):
        seen.setdefault(signal, set()).add(tuple(values))
    assert all(len(values) == 1 for values in seen.values())
    assert len(set.union(*seen.values())) == len(seen) > 5
    schema = {factor.name: factor for factor in told.schema}
    for name in carriers:
        if not schema[name].values:
            assert schema[name].low <= told.factors[name].min()
            assert told.factors[name].max() <= schema[name].high


def test_the_mask_of_a_position_shortcut_is_the_main_thing():
    told = scenes("creatures", 4, size=32, shortcut=Shortcut("position"))
    assert torch.equal(told.shortcut_mask, told.labels["instance"] == 1)


@pytest.mark.parametrize("preset", PRESETS)
def test_nobody_sees_the_pattern_yet_its_correlation_tells_the_category(preset):
    n, k = 40, len(PRESETS[preset].categories)
    with_it = scenes(preset, n, size=64, labels=False, shortcut=Shortcut("pattern", 0.0))
    without = with_it.do(signal=-1)
    assert (with_it.images - without.images).abs().max() <= PATTERN_AMPLITUDE + 1e-6
    assert PATTERN_AMPLITUDE <= 2 / 255
    at = torch.arange(64.0)
    turns = torch.arange(k) * (math.pi / k)
    waves = (2.2 * (turns.cos()[:, None, None] * at + turns.sin()[:, None, None] * at[:, None])).sin()
    difference = (with_it.images - without.images).mean(1)
    score = torch.einsum("nhw,khw->nk", difference, waves)
    assert torch.equal(score.argmax(1), with_it.signal)


def test_kinds_and_strengths_that_do_not_exist_are_refused():
    for strength in (-0.1, 1.1, math.nan):
        with pytest.raises(BadInput, match=r"strength is 0…1"):
            Shortcut("hue", strength)
    with pytest.raises((NotFound, TypeError), match="watermarks"):
        Shortcut("watermarks")


def test_signals_that_do_not_exist_are_refused():
    plain = scenes("shapes", 2, size=16)
    with pytest.raises(BadInput, match="no shortcut"):
        plain.do(signal=0)
    told = scenes("shapes", 2, size=16, shortcut=Shortcut("border"))
    for signal in (-2, 6):
        with pytest.raises(BadInput, match=r"0…5"):
            told.do(signal=signal)


def test_a_shortcut_shows_and_keeps_itself(tmp_path):
    shortcut = Shortcut("watermark", 0.75)
    assert repr(shortcut) == "Shortcut(watermark, strength 0.75)"
    assert Shortcut.load(shortcut.save(tmp_path / "shortcut.safetensors")) == shortcut
