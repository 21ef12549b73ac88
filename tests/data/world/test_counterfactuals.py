"""Counterfactuals: what is asked for changes, and nothing else."""

from dataclasses import replace
from itertools import combinations

import pytest
import torch
from torch import Tensor
from torch.nn.functional import max_pool2d

from glasshouse.core.errors import BadInput, NotFound
from glasshouse.data.world.presets import PRESETS
from glasshouse.data.world.raster import rasterise
from glasshouse.data.world.scene import Scenes, scenes, strokes_of

WORLDS = list(PRESETS)
SIZE = 24
pytestmark = pytest.mark.usefixtures("unchecked")


def plain(preset: str, n: int = 6, **settings: int) -> Scenes:
    return scenes(preset, n, size=SIZE, seed=11, **settings)


def grown(mask: Tensor) -> Tensor:
    """The pixels of a mask and their neighbours."""
    return max_pool2d(mask.float()[:, None], 3, 1, 1)[:, 0] > 0


def interior(scene: Scenes) -> Tensor:
    """Pixels whose neighbours all show the same part of a thing in the foreground: nothing behind shines through."""
    front = scene.masks & (scene.labels["instance"] > 0)[:, None]
    front[:, [name in ("petals", "bush") for name in scene.part_names]] = False  # there are gaps between their ellipses
    return (~grown((~front).flatten(0, 1))).view_as(front).any(1)


def check_only(before: Scenes, after: Scenes, changed: set[str]) -> None:
    """No factor but these differs."""
    assert {name for name, value in before.factors.items() if not torch.equal(value, after.factors[name])} <= changed


def names_of(preset: str) -> list[str]:
    world = PRESETS[preset]
    return sorted({*world.parts, *world.objects} - {"-"})


@pytest.mark.parametrize("preset", WORLDS)
def test_removing_anything_changes_only_where_it_could_be_seen_its_shadow_and_its_glow(preset):
    size = 40  # all that has a label is wider than a pixel; the tips of stars, spikes and spires reach one further
    before = scenes(preset, 4, size=size, seed=11)
    strokes, words = strokes_of(before), before.vocabulary
    never_there = 0
    for name in names_of(preset):
        of_object = strokes.object == (words["object"].index(name) if name in words["object"] else -1)
        by_part = [
            name in (owner, words["part"][part]) for owner, part in zip(strokes.owner, strokes.part, strict=True)
        ]
        hit = (of_object | torch.tensor(by_part)) & (strokes.shape >= 0)
        allowed = torch.zeros(len(before), size, size, dtype=torch.bool)
        touched = {(i, strokes.slot[s]) for i, s in hit.nonzero().tolist()}
        for i, slot in touched:
            if slot >= 0:
                allowed[i] |= before.amodal[i, slot]
        unlabelled = torch.tensor([slot < 0 for slot in strokes.slot])
        white = torch.ones_like(strokes.paint)
        veil = replace(strokes, shape=torch.where(hit & unlabelled, strokes.shape, -1), paint=white)
        allowed = grown(grown(allowed)) | (rasterise(veil, size, labels=False).images > 0).any(1)
        after = before.do(remove=name)
        assert not ((after.images != before.images).any(1) & ~allowed).any(), name
        check_only(before, after, set())
        assert torch.equal(after.categories, before.categories)
        for i in range(len(before)):
            for slot in range(len(before.part_names)):
                if (i, slot) not in touched:
                    assert torch.equal(after.amodal[i, slot], before.amodal[i, slot]), name
        if name in words["object"]:
            assert not after.mask_of(name).any()
        if name in words["part"]:
            assert not after.mask_of(name, "part").any()
        still = ~hit.any(1)
        assert torch.equal(after.images[still], before.images[still])
        never_there += int(still.all())
    assert never_there < len(names_of(preset)) / 2


@pytest.mark.parametrize("preset", WORLDS)
def test_what_was_behind_a_removed_part_shows(preset):
    name = {"houses": "roof", "creatures": "body", "shapes": "figure"}[preset]
    before = plain(preset)
    after = before.do(remove=name)
    slot = before.part(name)
    assert before.masks[:, slot].any()
    assert not after.amodal[:, slot].any()
    others = [p for p in range(len(before.part_names)) if p != slot]
    assert not (before.masks[:, others] & ~after.masks[:, others]).any()  # nothing else lost a pixel
    assert (after.labels["part"][before.masks[:, slot]] > 0).double().mean() > 0.9


@pytest.mark.parametrize("preset", WORLDS)
def test_removing_then_restoring_gives_the_same_bits(preset):
    before = plain(preset, 4)
    names = names_of(preset)[::4]
    after = before.do(remove=names).do(restore=names)
    assert torch.equal(before.images, after.images)
    assert torch.equal(before.amodal, after.amodal)
    assert torch.equal(before.masks, after.masks)
    assert all(torch.equal(plane, after.labels[name]) for name, plane in before.labels.items())


def test_removing_what_is_absent_changes_nothing():
    alone = scenes("creatures", 3, size=SIZE, fixed={"occluder": "none", "rock_there": "no"})
    for name in ("bush", "rock"):
        assert torch.equal(alone.do(remove=name).images, alone.images)
        assert torch.equal(alone.do(remove=name).masks, alone.masks)


def test_removing_a_part_of_one_creature_leaves_the_other_alone():
    two = plain("creatures", n_objects=2)
    after = two.do(remove="body_2")
    assert torch.equal(two.amodal[:, two.part("body")], after.amodal[:, two.part("body")])
    assert not after.amodal[:, two.part("body_2")].any()


SWAPS = {
    "houses": {"wall_hue": 0.3, "roof": "dome", "time": "night", "companion_height": 1.0},
    "creatures": {"hue": 0.1, "tail_shown": "no", "facing": "left", "texture": "dots", "nod": 10.0},
    "shapes": {"colour": "blue", "angle": 12.0, "texture": "checker", "ground_hue": 0.5},
}


@pytest.mark.parametrize(("preset", "name"), [(preset, name) for preset, swaps in SWAPS.items() for name in swaps])
def test_a_swap_changes_that_factor_only_and_is_the_scene_fixed_so(preset, name):
    before = plain(preset, 10)
    after = before.do(swap={name: SWAPS[preset][name]})
    check_only(before, after, {name})
    fixed = scenes(preset, 10, size=SIZE, seed=11, fixed={name: SWAPS[preset][name]})
    assert torch.equal(after.images, fixed.images)
    assert torch.equal(after.categories, before.categories)
    assert not torch.equal(after.images, before.images)


@pytest.mark.parametrize(
    ("preset", "swap"), [("houses", {"main": "car"}), ("creatures", {"category": "fipo"}), ("shapes", {"kind": "star"})]
)
def test_swapping_what_decides_the_category_changes_the_category(preset, swap):
    after = plain(preset).do(swap=swap)
    assert torch.equal(after.categories, scenes(preset, 6, size=SIZE, seed=11, fixed=swap).categories)


@pytest.mark.parametrize(("preset", "place"), [("houses", "snow"), ("creatures", "lake"), ("shapes", "dark")])
def test_another_background_keeps_every_mask_and_the_pixels_of_what_stands_before_it(preset, place):
    before = plain(preset)
    after = before.do(background=place)
    assert set(after.named(PRESETS[preset].ground[0])) == {place}
    check_only(before, after, {PRESETS[preset].ground[0]})
    assert torch.equal(before.masks, after.masks)
    assert torch.equal(before.amodal, after.amodal)
    kept = (before.images == after.images).all(1)
    assert interior(before).any()
    assert kept[interior(before)].all()
    assert not torch.equal(before.images, after.images)


@pytest.mark.parametrize("preset", WORLDS)
def test_a_background_drawn_anew_keeps_the_main_thing(preset):
    before = plain(preset)
    after = before.do(background=5)
    background = {factor.name for factor in before.schema if factor.group == "background"}
    check_only(before, after, background)
    drawn = scenes(preset, 6, size=SIZE, seed=5)
    assert all(torch.equal(after.factors[name], drawn.factors[name]) for name in background)
    main = before.labels["instance"] == 1
    assert torch.equal(main, after.labels["instance"] == 1)
    assert torch.equal(after.do(background=11).images, before.images)
    if preset != "houses":  # there the hour of the day is part of it, whose light falls on everything
        assert (before.images == after.images).all(1)[interior(before) & main].all()


@pytest.mark.parametrize(("preset", "step"), [("houses", (2, 0)), ("creatures", (3, -2)), ("shapes", (-4, 5))])
def test_a_move_shifts_the_main_thing_by_so_many_pixels(preset, step):
    right, down = step
    before = scenes(preset, 6, size=32, seed=11)
    after = before.do(move=(right / 32, down / 32))
    moved = [
        before.part_names.index(name)
        for name in ("wall", "roof", "head", "body", "tail", "figure")
        if name in before.part_names
    ]
    shifted = torch.roll(before.amodal[:, moved], (down, right), (2, 3))
    inside = torch.zeros(32, 32, dtype=torch.bool)
    inside[max(0, down) : 32 + min(0, down), max(0, right) : 32 + min(0, right)] = True
    assert shifted.any()
    wrong = (shifted != after.amodal[:, moved]) & inside
    assert wrong.sum() <= 2  # a pixel that is half covered may round to either side
    check_only(before, after, {PRESETS[preset].right, PRESETS[preset].down})
    for name in ("sky", "ground"):
        if name in before.part_names:
            slot = before.part_names.index(name)
            assert torch.equal(before.amodal[:, slot], after.amodal[:, slot])


def test_a_house_does_not_fly():
    with pytest.raises(BadInput, match="'houses' stands on the ground"):
        plain("houses", 1).do(move=(0, 0.1))


@pytest.mark.parametrize("preset", WORLDS)
def test_edits_leave_the_scenes_alone_that_were_not_asked_for(preset):
    before, where = plain(preset, 7), torch.tensor([True, False, False, True, False, False, False])
    known = {*PRESETS[preset].parts, *before.part_names}
    edits = [{"background": 3}, {"move": (0.05, 0)}, {"swap": dict(SWAPS[preset])}]
    edits += [{"remove": name} for name in ("roof", "door", "head", "body", "figure") if name in known]
    for edit in edits:
        after, everywhere = before.do(**edit, where=where), before.do(**edit)
        assert torch.equal(after.images[~where], before.images[~where]), edit
        assert torch.equal(after.images[where], everywhere.images[where]), edit
        assert torch.equal(after.masks[~where], before.masks[~where]), edit
        for name, value in before.factors.items():
            assert torch.equal(after.factors[name][~where], value[~where]), edit


@pytest.mark.parametrize("preset", WORLDS)
def test_edits_of_different_things_commute(preset):
    before = plain(preset, 4)
    name = next(iter(SWAPS[preset]))
    part = {"houses": "roof", "creatures": "tail", "shapes": "figure"}[preset]
    edits = [{"remove": part}, {"swap": {name: SWAPS[preset][name]}}, {"move": (0.05, 0)}]
    for one, other in combinations(edits, 2):
        assert torch.equal(before.do(**one).do(**other).images, before.do(**other).do(**one).images)
    assert torch.equal(before.do(**edits[0]).do(**edits[1]).images, before.do(**edits[0] | edits[1]).images)


def test_an_edit_leaves_the_scenes_it_was_made_from_as_they_were():
    before = plain("shapes", 2)
    images, factors = before.images.clone(), {name: value.clone() for name, value in before.factors.items()}
    before.do(remove="figure", swap={"colour": "red"}, background=1, move=(0.1, 0.1))
    assert torch.equal(before.images, images)
    assert all(torch.equal(before.factors[name], value) for name, value in factors.items())
    assert before.removed == {}


@pytest.mark.parametrize(
    ("edit", "error", "message"),
    [
        ({"remove": "figur"}, NotFound, r"no part or object 'figur'.*'figure'"),
        ({"restore": "figur"}, NotFound, r"no part or object 'figur'"),
        ({"remove": "-"}, NotFound, r"no part or object '-'"),
        ({"swap": {"color": "red"}}, NotFound, r"no factor 'color'.*'colour'"),
        ({"swap": {"colour": "ret"}}, NotFound, r"'red'"),
        ({"background": "darc"}, NotFound, r"'dark'"),
    ],
)
def test_edits_that_make_no_sense_are_refused(edit, error, message):
    with pytest.raises(error, match=message):
        plain("shapes", 2).do(**edit)
