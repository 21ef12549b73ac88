"""Laws of the scene world: what holds of every set of scenes."""

from functools import partial

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from glasshouse.core.errors import BadInput, NotFound
from glasshouse.data.world.factors import Copula, Joint
from glasshouse.data.world.faults import Faults
from glasshouse.data.world.presets import PRESETS
from glasshouse.data.world.scene import Scenes, scene_grid, scenes, stream
from glasshouse.data.world.shortcuts import Shortcut

SETTINGS = {
    "houses": {"shortcut": Shortcut("watermark", 0.5)},
    "creatures": {"n_objects": 2, "faults": Faults(blotch=0.3)},
    "shapes": {"n_objects": 4, "shortcut": Shortcut("distractor")},
}
WORLDS = list(PRESETS)
pytestmark = pytest.mark.usefixtures("unchecked")


@pytest.fixture(scope="module", params=WORLDS)
def some(request) -> Scenes:
    return scenes(request.param, 12, size=32, seed=2, **SETTINGS[request.param])


def same(one: Scenes, other: Scenes) -> bool:
    tensors = ("images", "categories", "masks", "amodal", "parts", "boxes", "signal", "shortcut_mask")
    return (
        all(torch.equal(getattr(one, name), getattr(other, name)) for name in tensors)
        and all(torch.equal(plane, other.labels[name]) for name, plane in one.labels.items())
        and all(torch.equal(value, other.factors[name]) for name, value in one.factors.items())
    )


def rows(whole: Scenes, begin: int, end: int) -> dict[str, torch.Tensor]:
    found = {"images": whole.images, "masks": whole.masks, "amodal": whole.amodal, "boxes": whole.boxes}
    found |= {"categories": whole.categories, "signal": whole.signal, "parts": whole.parts}
    return {name: value[begin:end] for name, value in (found | whole.labels | whole.factors).items()}


def check_equal(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> None:
    assert [name for name, value in one.items() if not torch.equal(value, other[name])] == []


def test_visible_masks_are_disjoint_and_inside_what_could_be_seen(some):
    assert int(some.masks.sum(1).max()) == 1
    assert not (some.masks & ~some.amodal).any()


def test_visible_masks_are_the_part_plane(some):
    words = some.vocabulary["part"]
    assert torch.equal(some.masks.any(1), some.labels["part"] > 0)
    for p, slot in enumerate(some.part_names):
        named = some.labels["part"][some.masks[:, p]].unique().tolist()
        if slot.split("_")[0] in words:
            assert named in ([], [words.index(slot.split("_")[0])])


def test_boxes_contain_their_masks_and_touch_them_on_all_sides(some):
    for i in range(len(some)):
        for mask, (top, left, bottom, right) in zip(some.masks[i], some.boxes[i].tolist(), strict=True):
            assert mask[top:bottom, left:right].sum() == mask.sum()
            if mask.any():
                inner = mask[top:bottom, left:right]
                assert inner[0].any() and inner[-1].any() and inner[:, 0].any() and inner[:, -1].any()  # noqa: PT018
            else:
                assert (top, left, bottom, right) == (0, 0, 0, 0)


def test_shares_seen_are_mask_over_amodal_mask(some):
    whole = some.amodal.sum((2, 3))
    expected = torch.where(whole > 0, some.masks.sum((2, 3)) / whole.clamp(min=1), 0)
    torch.testing.assert_close(some.parts[..., 2], expected.float())


def test_labels_lie_in_their_vocabularies_and_images_in_0_to_1(some):
    for name, words in some.vocabulary.items():
        assert words[0] == "-"
        assert len(set(words)) == len(words)
        assert some.labels[name].min() >= 0
        assert some.labels[name].max() < len(words)
    assert some.labels["scene"].min() > 0
    assert some.images.min() >= 0
    assert some.images.max() <= 1
    assert some.categories.min() >= 0
    assert some.categories.max() < len(some.class_names)


def test_planes_agree_about_where_nothing_is(some):
    nothing = some.labels["part"] == 0
    for name in ("object", "color", "texture"):
        assert torch.equal(some.labels[name] == 0, nothing), name
    without_material = torch.zeros_like(nothing)
    for name in ("shortcut", "blotch"):
        without_material |= some.mask_of(name)
    assert torch.equal(some.labels["material"] == 0, nothing | without_material)
    assert not some.labels["instance"][nothing].any()


@pytest.mark.parametrize("preset", WORLDS)
def test_background_is_everywhere_and_instances_belong_to_one_object(preset):
    plain = scenes(preset, 8, size=32, seed=5)
    assert (plain.labels["object"] > 0).double().mean() > 0.99
    for i in range(len(plain)):
        for instance in (1, 2, 3):
            assert len(plain.labels["object"][i][plain.labels["instance"][i] == instance].unique()) <= 1
        main = plain.labels["object"][i][plain.labels["instance"][i] == 1].unique()
        named = plain.vocabulary["object"][int(main)]
        assert plain.class_names[int(plain.categories[i])].split(" and ")[0] == named


@pytest.mark.parametrize("preset", WORLDS)
def test_the_same_seed_gives_the_same_bits_and_another_seed_others(preset):
    made = [scenes(preset, 4, size=24, seed=seed, **SETTINGS[preset]) for seed in (7, 7, 8)]
    assert same(made[0], made[1])
    assert not (made[0].images == made[2].images).flatten(1).all(1).any()
    assert made[0].ids == [f"{preset}/7/{i:08d}" for i in range(4)]


@pytest.fixture(scope="module", params=WORLDS)
def whole(request) -> Scenes:
    return scenes(request.param, 19, size=16, seed=3, **SETTINGS[request.param])


@settings(max_examples=6, deadline=None)
@given(start=st.integers(0, 14), n=st.integers(1, 5))
def test_a_scene_does_not_depend_on_how_many_are_made_or_where_they_start(whole, start, n):
    preset = whole.preset
    piece = scenes(preset, n, size=16, seed=3, start=start, **SETTINGS[preset])
    check_equal(rows(piece, 0, n), rows(whole, start, start + n))


@pytest.mark.parametrize("preset", WORLDS)
def test_scenes_one_by_one_and_in_batches_are_those_made_together(preset):
    whole = scenes(preset, 8, size=20, seed=1, start=2)
    for batch_size in (1, 7):
        pieces = [
            rows(piece, 0, len(piece))
            for piece in stream(partial(scenes, preset, size=20, seed=1), 8, start=2, batch_size=batch_size)
        ]
        joined = {name: torch.cat([piece[name] for piece in pieces]) for name in pieces[0]}
        check_equal(joined, rows(whole, 0, 8))


@pytest.mark.parametrize("preset", WORLDS)
def test_size_changes_no_factor_and_little_of_what_is_where(preset):
    small, large = (scenes(preset, 4, size=size, seed=3) for size in (32, 64))
    check_equal(small.factors, large.factors)
    pooled = torch.nn.functional.avg_pool2d(large.images, 2)
    assert (pooled - small.images).abs().mean() < 0.02
    wide = small.amodal.sum((2, 3)) > 30
    torch.testing.assert_close(small.parts[..., 2][wide], large.parts[..., 2][wide], atol=0.1, rtol=0)


@pytest.mark.parametrize("preset", WORLDS)
def test_without_labels_the_images_are_the_same(preset):
    full = scenes(preset, 5, size=24, seed=3, **SETTINGS[preset])
    bare = scenes(preset, 5, size=24, seed=3, labels=False, **SETTINGS[preset])
    assert torch.equal(full.images, bare.images)
    assert torch.equal(full.categories, bare.categories)
    assert bare.labels == {}
    assert bare.masks.shape == (5, 0, 24, 24)
    assert torch.equal(full.do(remove="ground").images, bare.do(remove="ground").images)


GRIDS = {
    "houses": {"main": 4, "roof": 3, "wall_hue": 2},
    "creatures": {"category": 12, "facing": 2},
    "shapes": {"kind": 6, "x": 3},
}


@pytest.mark.parametrize("preset", WORLDS)
def test_a_grid_shows_every_combination_once_and_holds_all_else_still(preset):
    grid = scene_grid(preset, GRIDS[preset])
    made = scenes(preset, size=16, grid=GRIDS[preset], labels=False)
    levels = grid.levels(made.index)
    assert len(made) == len(grid) == len({tuple(row) for row in levels.tolist()})
    for factor in made.schema:
        values = made.factors[factor.name]
        if factor.name not in GRIDS[preset]:
            assert (values == factor.middle()).all(), factor.name
        elif factor.values:
            assert torch.equal(values, levels[:, list(GRIDS[preset]).index(factor.name)])
        else:
            assert len(values.unique()) == GRIDS[preset][factor.name]
            assert factor.low < values.min()
            assert values.max() < factor.high
    row = int(grid.index(levels[5:6]))
    assert row == 5
    one = scenes(preset, 1, size=16, grid=GRIDS[preset], start=5, labels=False)
    assert torch.equal(one.images[0], made.images[5])
    fixed = {name: value[5:6] for name, value in made.factors.items()}
    assert torch.equal(scenes(preset, 1, size=16, seed=99, fixed=fixed, labels=False).images[0], made.images[5])


def test_a_grid_takes_fixed_factors_and_ends_where_it_ends():
    made = scenes("shapes", size=16, grid=["kind"], fixed={"colour": "blue"}, labels=False)
    assert made.named("colour") == ["blue"] * 6
    assert made.named("kind") == list(made.class_names)
    assert len(scenes("shapes", size=16, grid=["kind"], start=4, labels=False)) == 2
    with pytest.raises(BadInput, match=r"0…5"):
        scenes("shapes", 7, size=16, grid=["kind"])


def test_factors_can_be_tied_together():
    table = torch.eye(4)[:, [1, 0, 3, 2]]
    tied = scenes("houses", 40, size=16, labels=False, together=[Joint(("main", "ground"), table)])
    assert torch.equal(tied.factors["ground"], torch.tensor([1, 0, 3, 2])[tied.factors["main"]])
    matrix = torch.tensor([[1.0, 0.95], [0.95, 1.0]])
    tied = scenes("shapes", 200, size=16, labels=False, together=[Copula(("x", "y"), matrix)])
    assert float(torch.corrcoef(torch.stack([tied.factors["x"], tied.factors["y"]]))[0, 1]) > 0.9


@pytest.mark.parametrize("setting", ["church", 1, torch.tensor([1, 1, 1])])
def test_fixed_factors_are_as_given(setting):
    made = scenes("houses", 3, size=16, labels=False, fixed={"main": setting, "wall_hue": 0.25})
    assert made.named("main") == ["church"] * 3
    assert made.factors["wall_hue"].tolist() == [0.25] * 3


@pytest.mark.parametrize(
    ("wrong", "error", "message"),
    [
        ({"size": 8}, BadInput, r"size=8 is not in 16…1024"),
        ({"size": 2000}, BadInput, r"size=2000"),
        ({"n": 0}, BadInput, r"n=0 must be 1 or more"),
        ({"start": -1}, BadInput, r"start=-1"),
        ({"seed": -1}, BadInput, r"seed=-1"),
        ({"seed": 2**63}, BadInput, r"seed="),
        ({"n_objects": 0}, BadInput, r"n_objects=0.*1…4"),
        ({"n_objects": 5}, BadInput, r"n_objects=5.*1…4"),
        ({"fixed": {"color": "red"}}, NotFound, r"no factor 'color'.*'colour'"),
        ({"fixed": {"colour": "ret"}}, NotFound, r"no value of 'colour' 'ret'.*'red'"),
        ({"fixed": {"colour": 8}}, BadInput, r"'colour' has 8 values"),
        ({"fixed": {"x": torch.zeros(3)}}, BadInput, r"'x' has shape \(3,\) for 2 scenes"),
        ({"grid": ["color"]}, NotFound, r"no factor 'color'"),
        ({"grid": {"kind": 7}}, BadInput, r"'kind' has 6 values; 7"),
        ({"together": [Joint(("kind", "ground"), torch.ones(2, 6))]}, BadInput, r"need \(6, 2\)"),
        ({"together": [Joint(("kind", "grund"), torch.ones(6, 2))]}, NotFound, r"no factor 'grund'"),
        ({"faults": Faults(dropped=("cube",))}, NotFound, r"no category 'cube'"),
    ],
)
def test_what_cannot_be_rendered_is_refused_with_what_was_seen(wrong, error, message):
    with pytest.raises(error, match=message):
        scenes("shapes", **{"n": 2, "size": 16, **wrong})


@pytest.mark.parametrize("make", [lambda: scenes("house", 2), lambda: scene_grid("house", ["main"])])
def test_an_unknown_preset_is_refused(make):
    with pytest.raises((NotFound, TypeError), match="house"):
        make()


def test_looking_up_parts_labels_and_items():
    made = scenes("shapes", 3, size=24, seed=1, n_objects=2)
    assert made.part_names[made.part("figure_2")] == "figure_2"
    with pytest.raises(NotFound, match=r"no part 'figure_3'.*'figure_2'"):
        made.part("figure_3")
    with pytest.raises(NotFound, match=r"no label plane 'colour'.*'color'"):
        made.mask_of("red", "colour")
    with pytest.raises(NotFound, match=r"no object label 'circel'.*'circle'"):
        made.mask_of("circel")
    with pytest.raises(NotFound, match="no factor 'kinds'"):
        made.named("kinds")
    assert torch.equal(made.mask_of("figure", "part"), made.masks[:, 1:].any(1))
    assert torch.equal(made[-1]["image"], made.images[2])
    assert torch.equal(made[1]["labels"]["object"], made.labels["object"][1])
    assert made[0]["target"] == made.categories[0]
    with pytest.raises(IndexError, match="scene 3 of 3"):
        made[3]


@pytest.mark.parametrize("preset", WORLDS)
def test_saving_and_loading_is_the_identity(preset, tmp_path):
    made = scenes(preset, 3, size=20, seed=4, **SETTINGS[preset]).do(remove="ground")
    again = Scenes.load(made.save(tmp_path / "scenes.safetensors"))
    assert same(made, again)
    assert (again.vocabulary, again.part_names, again.class_names) == (
        made.vocabulary,
        made.part_names,
        made.class_names,
    )
    assert same(again.do(restore="ground"), made.do(restore="ground"))
    assert repr(again) == repr(made)


def test_scenes_show_what_they_are():
    made = scenes("houses", 2, size=16, seed=4, labels=False, shortcut=Shortcut("border", 0.5))
    assert repr(made) == "Scenes(houses, 2 × 16×16, seed 4, Shortcut(border, strength 0.5))"
    assert len(made) == 2
