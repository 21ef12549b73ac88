"""What is stated of every glass classifier holds, and so does what is stated of each."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import product

import jaxtyping
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from glasshouse.core import ablate, edit, geometry, insert, probe
from glasshouse.core.errors import BadInput, NotFound
from glasshouse.data import glass
from glasshouse.data.glass.colours import PALETTE
from glasshouse.data.glass.outlines import UPRIGHT
from glasshouse.data.glass.templates import nearest_distance
from glasshouse.data.world.scene import scenes
from glasshouse.data.world.shortcuts import Shortcut


def randn(*shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(0))


def rand(*shape: int) -> Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


@contextmanager
def unchecked() -> Iterator[None]:
    """No checks of types while rendering, which cost ten times what it does; the renderer has tests of its own."""
    before = jaxtyping.config.jaxtyping_disable
    jaxtyping.config.update("jaxtyping_disable", True)
    try:
        yield
    finally:
        jaxtyping.config.update("jaxtyping_disable", before)


def painted_squares() -> Tensor:
    """Two images, 20 × 24, in which every paint of `shapes` has a block of its own, on dark noise."""
    images = 0.1 * rand(2, 3, 20, 24)
    for k, paint in enumerate(PALETTE.values()):
        tint = torch.tensor(paint, dtype=torch.float64)[:, None, None]
        top, left = 10 * (k // 4), 6 * (k % 4)
        block = images[:, :, top : top + 5 + k % 3, left : left + 5]
        block[:] = (tint + 0.18 * (rand(*block.shape) - 0.5)).clamp(0, 1)  # some pixels saturate, some do not
    return images


def stamped(*codes: int) -> Tensor:
    """Two noisy images, 48 × 48, with plates that do not touch."""
    images = 0.2 * rand(2, 3, 48, 48)
    for code, (top, left) in zip(codes, [(2, 3), (20, 30), (30, 5), (4, 31)], strict=False):
        noisy = (glass.plate(code) - 0.01 * rand(3, 10, 10)).clamp(0, 1)
        images = glass.stamp(images, noisy.to(images), top, left)
    return images


def figures() -> Tensor:
    """Three kinds that are known and one that is not."""
    shown = [
        scenes("shapes", 1, size=48, seed=2, fixed=UPRIGHT | {"colour": "red", "kind": kind})
        for kind in ("circle", "triangle", "star", "square")
    ]
    return torch.cat([scene.images for scene in shown]).double()


def watermarked() -> Tensor:
    return scenes("creatures", 4, size=32, shortcut=Shortcut("watermark"), labels=False).images.double()


CASES: dict[str, tuple[Callable[[], glass.Glass], Callable[[], Tensor]]] = {
    "colour_detector": (glass.colour_detector, painted_squares),
    "wired_classifier": (glass.wired_classifier, painted_squares),
    "planted_concept": (glass.planted_concept, painted_squares),
    "rotated_concept": (lambda: glass.planted_concept(shared=(1, 5, 6)), painted_squares),
    "template_matcher": (glass.template_matcher, lambda: stamped(1, 2, 8)),
    "weighted_sum": (glass.weighted_sum, lambda: stamped(1, 2, 4, 8)),
    "logic_gates": (glass.logic_gates, lambda: stamped(6, 9)),
    "counter": (glass.counter, lambda: stamped(6, 6, 6)),
    "shape_matcher": (glass.shape_matcher, figures),
    "linear_classifier": (lambda: glass.linear_classifier(randn(3, 3, 8, 10), randn(3)), lambda: rand(2, 3, 8, 10)),
    "null_channels": (glass.null_channels, lambda: rand(2, 3, 8, 10)),
    "separate_evidence": (glass.separate_evidence, lambda: rand(2, 3, 32, 32)),
    "watermark_reader": (lambda: glass.watermark_reader([f"c{i}" for i in range(12)], 32), watermarked),
}
Case = tuple[glass.Glass, Tensor]
TURNED = ("rotated_concept",)  # where what is not read cancels in exact numbers, and to a rounding error in floats


@pytest.fixture(params=CASES, scope="module")
def case(request: pytest.FixtureRequest) -> Case:
    build, draw = CASES[request.param]
    with unchecked():
        return double(build()), draw()


def double(model: glass.Glass) -> glass.Glass:
    model.module.double()
    return model


def close(actual: Tensor, expected: Tensor):
    # weights are rounded to float32 once, then everything is float64
    torch.testing.assert_close(actual.double(), expected.double(), rtol=1e-5, atol=3e-5)


# Every model


def test_the_scores_are_what_the_formula_says(case: Case):
    model, images = case
    close(model(images), model.truth.scores(images))
    assert model(images).shape[1] == len(model.class_names)
    assert model(images).std() > 0


def test_regions_are_disjoint_and_keeping_any_of_them_on_black_gives_their_worth(case: Case):
    model, images = case
    regions = model.truth.regions(images)
    assert regions.shape == (len(images), len(model.truth.region_names), *images.shape[2:])
    assert (regions.sum(1) <= 1).all()
    for kept in list(product((False, True), repeat=regions.shape[1]))[::3]:
        chosen = torch.tensor(kept).expand(len(images), -1)
        close(model(model.truth.keep(images, chosen)), model.truth.worth(images, chosen))


def test_outside_the_pixels_that_matter_the_gradient_is_exactly_zero_and_black_changes_nothing(case: Case):
    model, images = case
    leaf = images.clone().requires_grad_()
    score = (model(leaf) * torch.arange(1.0, len(model.class_names) + 1)).sum()
    (gradient,) = torch.autograd.grad(score, leaf)
    beside = ~model.truth.pixels(images)[:, None].expand_as(gradient)
    assert not gradient[beside].any()
    close(model(images * model.truth.pixels(images)[:, None]), model(images))


def test_units_that_a_class_does_not_read_may_take_any_value_and_those_it_reads_may_not(case: Case, request):
    model, images = case
    clean, slack = model(images), 1e-6 if any(name in request.node.name for name in TURNED) else 0.0
    values = [0.0, -2.5, 3.0, *((1.0, 2.0, 4.0, 1 / 39**2, 2 / 39**2, 4 / 39**2) if model.name == "counter" else ())]
    for layer, read in model.truth.reads.items():
        assert read.shape[0] == len(model.class_names)
        for unit in range(0, read.shape[1], max(1, read.shape[1] // 3)):
            gap = torch.zeros(len(model.class_names), dtype=torch.float64)
            for value in values:
                with unchecked(), edit(model.module, {layer: insert([unit], value)}):
                    gap = gap.maximum((model(images) - clean).abs().amax(0) / max(1, abs(value) * 50))
            assert (gap[~read[:, unit]] <= slack).all(), (layer, unit)
            assert (gap[read[:, unit]] > slack).all(), (layer, unit)


def test_shapley_values_sum_to_the_score_less_that_of_black(case: Case):
    model, images = case
    close(model.truth.shapley(images).sum(1), model(images) - model(torch.zeros_like(images)))


def test_removals_are_measured_on_the_network_as_stated(case: Case):
    model, images = case
    removal = model.truth.removal(images)
    for r in range(removal.shape[1]):
        without = images * ~model.truth.regions(images)[:, r : r + 1]
        close(model(images) - model(without), removal[:, r])


def test_every_layer_has_a_geometry(case: Case):
    model, images = case
    found = geometry(model.module, images)
    for layer in model.truth.reads:
        assert found[layer].units == model.truth.reads[layer].shape[1]


# Shapley values, on paper


def test_shapley_values_equal_the_mean_gain_over_all_orders():
    model, images = double(glass.logic_gates()), stamped(6, 9)
    first, second = torch.eye(2, dtype=torch.bool)[:, None].expand(2, 2, 2)
    none, both = torch.zeros(2, 2, dtype=torch.bool), torch.ones(2, 2, dtype=torch.bool)
    worth = lambda kept: model.truth.worth(images, kept)  # noqa: E731
    expected = (worth(first) - worth(none) + worth(both) - worth(second)) / 2
    close(model.truth.shapley(images)[:, 0], expected)


def exactly(*codes: int) -> Tensor:
    images = torch.zeros(1, 3, 48, 48)
    for code, (top, left) in zip(codes, [(2, 3), (20, 30), (30, 5), (4, 31)], strict=False):
        images = glass.stamp(images, glass.plate(code), top, left)
    return images


@pytest.mark.parametrize(("a", "b"), list(product((False, True), repeat=2)))
def test_gates_follow_their_truth_tables(a: bool, b: bool):
    images = exactly(*([6] if a else []), *([9] if b else []))
    close(glass.logic_gates()(images), torch.tensor([[a and b, a or b, a != b]]))


def test_credit_for_two_present_patches_is_halved_by_and_or_and_none_by_xor():
    truth, images = glass.logic_gates().truth, exactly(6, 9)
    close(truth.shapley(images)[0], torch.tensor([[0.5, 0.5, 0], [0.5, 0.5, 0]]))
    close(truth.removal(images)[0], torch.tensor([[1.0, 0, -1], [1, 0, -1]]))


@pytest.mark.parametrize("n", range(5))
def test_the_counter_counts_and_shares_credit_equally(n: int):
    model, images = glass.counter(), exactly(*[6] * n)
    close(model(images), torch.eye(5)[n : n + 1])
    if n:
        credit = torch.zeros(4, 5)
        credit[:n, n], credit[:n, 0] = 1 / n, -1 / n
        close(model.truth.shapley(images)[0], credit)


# Colours


def test_a_colour_detector_measures_area():
    images = torch.zeros(1, 3, 10, 10)
    images[:, :, 2:5, 1:7] = torch.tensor(PALETTE["blue"])[:, None, None] + 0.05
    expected = torch.zeros(1, 8)
    expected[0, 4] = 0.18
    close(glass.colour_detector()(images), expected)


def test_within_a_box_the_unit_is_saturated_and_the_gradient_is_zero_though_the_pixel_counts():
    images = torch.tensor(PALETTE["blue"]).reshape(1, 3, 1, 1).repeat(1, 1, 4, 4).requires_grad_()
    model = glass.colour_detector()
    (gradient,) = torch.autograd.grad(model(images)[0, 4], images)
    assert not gradient.any()
    close(model.truth.removal(images.detach())[0, 4, 4], torch.tensor(1.0))


def test_boxes_that_meet_or_hold_black_are_refused():
    with pytest.raises(BadInput, match="boxes meet"):
        glass.colour_detector({"a": (0.5, 0.5, 0.5), "b": (0.5, 0.5, 0.55)})
    with pytest.raises(BadInput, match="black"):
        glass.colour_detector({"a": (0.05, 0.0, 0.0)})


# Concepts


@settings(max_examples=8, deadline=None)
@given(st.permutations(range(8)), st.integers(2, 3), st.integers(0, 10**6))
def test_a_rotated_code_computes_the_same_function_and_its_direction_reads_the_concept(order, n, seed):
    shared, unit = tuple(order[:n]), order[0]
    plain = double(glass.planted_concept("green", unit))
    turned = double(glass.planted_concept("green", unit, shared=shared, rotation=glass.random_rotation(n, seed)))
    images = painted_squares()
    close(turned(images), plain(images))
    with probe(plain.module, "code") as before, probe(turned.module, "code") as after:
        plain(images), turned(images)
    direction = turned.truth.directions["code"][unit].double()
    close(torch.einsum("k,nkij->nij", direction, after["code"]), before["code"][:, unit])
    assert set(direction.nonzero()[:, 0].tolist()) <= set(shared)
    assert turned.truth.concept_names[unit] == "green"


def test_the_planted_unit_is_the_membership_and_switching_it_off_takes_the_class_away():
    model, images = double(glass.planted_concept("red", 5)), painted_squares()
    with probe(model.module, "code") as seen:
        model(images)
    assert torch.equal(seen["code"][:, 5] > 0, model.truth.regions(images)[:, 5])
    with edit(model.module, {"code": ablate([5])}):
        without = model(images)
    assert not without[:, 0].any()
    assert torch.equal(without[:, 1], model(images)[:, 1])


def test_a_concept_that_cannot_be_planted_is_refused():
    with pytest.raises(NotFound, match="paint 'redd'"):
        glass.planted_concept("redd")
    with pytest.raises(BadInput, match="shared"):
        glass.planted_concept("red", 5, shared=(1, 2))
    with pytest.raises(BadInput, match="orthogonal"):
        glass.planted_concept("red", 5, shared=(1, 5), rotation=torch.ones(2, 2))


def test_a_random_rotation_is_orthogonal_and_depends_on_its_seed():
    turn = glass.random_rotation(6, 3)
    torch.testing.assert_close(turn @ turn.T, torch.eye(6, dtype=torch.float64))
    assert torch.equal(turn, glass.random_rotation(6, 3))
    assert not torch.allclose(turn, glass.random_rotation(6, 4))


def test_wired_classes_read_what_they_are_wired_to():
    model = double(glass.wired_classifier())
    assert model.truth.idle["code"] == (5, 6, 7)
    image = torch.tensor(PALETTE["blue"]).reshape(1, 3, 1, 1).expand(1, 3, 3, 3).double()
    close(model(image), torch.tensor([[0.0, 1, -3, -1]]))


# Templates


@settings(max_examples=12, deadline=None)
@given(st.integers(0, 15), st.integers(0, 20), st.integers(0, 26))
def test_a_matcher_fires_at_its_own_part_only_and_knows_where(code, top, left):
    patches = torch.stack([glass.plate(c) for c in (3, 5, 6, 12)])
    model = glass.template_matcher(patches)
    images = glass.stamp(torch.zeros(1, 3, 30, 36), glass.plate(code), top, left)
    own = torch.tensor([[c == code for c in (3, 5, 6, 12)]])
    close(model(images), own)
    where = model.truth.regions(images)[0]
    assert where.flatten(1).any(1).tolist() == own[0].tolist()
    if own.any():
        rows, columns = where[own[0]][0].nonzero().unbind(1)
        assert (rows.min(), rows.max(), columns.min(), columns.max()) == (top, top + 9, left, left + 9)


def test_the_distance_between_templates_is_that_of_the_nearest_shift():
    patches = torch.stack([glass.plate(c) for c in (1, 3, 9)])[:, :, :5, :6]
    scene = torch.nn.functional.pad(patches, (6, 6, 5, 5))
    best = min(
        float((scene[a, :, y : y + 5, x : x + 6] - patches[b]).abs().sum())
        for a, b in product(range(3), repeat=2)
        for y, x in product(range(11), range(13))
        if (a, y, x) != (b, 5, 6)
    )
    assert nearest_distance(patches) == best
    with pytest.raises(BadInput, match="other templates"):
        glass.template_matcher(patches, margin=best + 1)


def test_templates_patches_and_counts_that_make_no_sense_are_refused():
    with pytest.raises(BadInput, match="zeros and ones"):
        glass.template_matcher(torch.full((1, 3, 4, 4), 0.5))
    with pytest.raises(BadInput, match="leaves the image"):
        glass.stamp(torch.zeros(1, 3, 12, 12), glass.plate(1), 3, 0)
    with pytest.raises(BadInput, match="code 16"):
        glass.plate(16)
    with pytest.raises(BadInput, match="weights for 4 templates"):
        glass.weighted_sum(torch.ones(1, 3))
    with pytest.raises(BadInput, match="copies"):
        glass.counter(size=(8, 8))


# Scenes


def test_figures_of_the_shapes_preset_are_found_in_their_place():
    kinds = ("circle", "triangle", "star")
    with unchecked():
        model = glass.shape_matcher("red", kinds)
        shown = scenes("shapes", 60, size=48, seed=5, fixed=UPRIGHT | {"colour": "red"})
        other = scenes("shapes", 12, size=48, seed=5, fixed=UPRIGHT | {"colour": "green"})
    scores, regions = model(shown.images), model.truth.regions(shown.images)
    for i, kind in enumerate(shown.named("kind")):
        expected = [kind == name for name in kinds]
        assert (scores[i] > 0).tolist() == expected, kind
        if any(expected):
            figure = shown.masks[i, shown.part("figure")]
            assert (figure <= regions[i, expected.index(True)]).all()
    assert not model(other.images).any()


@pytest.mark.parametrize(("preset", "size"), [("creatures", 32), ("creatures", 64), ("houses", 64), ("shapes", 32)])
def test_a_watermark_reader_is_always_right_when_aligned_and_always_wrong_when_conflicting(preset: str, size: int):
    for split, accuracy in (("aligned", 1), ("conflicting", 0)):
        with unchecked():
            shown = scenes(preset, 30, size=size, seed=3, shortcut=Shortcut("watermark"), split=split)
        model = glass.watermark_reader(shown.class_names, size)
        scores = model(shown.images)
        assert (scores.argmax(1) == shown.categories).double().mean() == accuracy
        assert torch.equal(scores.argmax(1), shown.signal)
        if preset != "houses":  # where the light is tinted, and so is the watermark
            close(scores.amax(1), torch.ones(len(scores)))
            assert (scores.topk(2, 1).values[:, 1] < 1e-5).all()
        assert (model.truth.pixels(shown.images) <= shown.shortcut_mask).all()


def test_too_small_a_watermark_and_too_many_classes_are_refused():
    with pytest.raises(BadInput, match="no pixel lies wholly"):
        glass.watermark_reader(["a", "b"], 16)
    with pytest.raises(BadInput, match="16 classes"):
        glass.watermark_reader([str(i) for i in range(16)])


# Readers


def test_the_gradient_of_the_linear_classifier_is_its_weight():
    weight = randn(2, 3, 6, 7)
    model, images = glass.linear_classifier(weight), rand(1, 3, 6, 7).float().requires_grad_()
    for c in range(2):
        (gradient,) = torch.autograd.grad(model(images)[0, c], images)
        assert torch.equal(gradient[0], weight[c])
    close(model.truth.shapley(images.detach()), model.truth.removal(images.detach()))


def test_the_null_channel_has_no_gradient_and_its_busiest_units_have_no_effect():
    model = glass.null_channels(null_channel=1, idle_units=(0, 3))
    images = rand(2, 3, 6, 7).float().requires_grad_()
    for c in range(3):
        (gradient,) = torch.autograd.grad(model(images)[:, c].sum(), images)
        assert not gradient[:, 1].any()
        assert gradient[:, [0, 2]].all()
    with probe(model.module, "mix_on") as seen, torch.no_grad():
        model(images)
    activity = seen["mix_on"].mean((0, 2, 3))
    assert set(activity.topk(2).indices.tolist()) == {0, 3}
    assert model.truth.idle["mix.input"] == (1,)
    assert model.truth.idle["mix_on"] == (0, 3)


@pytest.mark.parametrize("rows", [0, 3, 8, 12, 16])
def test_blackening_a_share_of_a_cell_lowers_its_own_score_as_stated(rows: int):
    model, images = glass.separate_evidence(threshold=0.25), torch.ones(1, 3, 32, 32)
    images[:, :, :rows, 16:] = 0
    expected = torch.ones(1, 4)
    expected[0, 1] = max(1 - rows / 16 - 0.25, 0) / 0.75
    close(model(images), expected)
    close(model.truth.shapley(images)[0], torch.diag(expected[0]))


def test_a_glass_model_says_what_it_is_and_keeps_its_weights():
    model = glass.logic_gates()
    assert repr(model) == "Glass(logic_gates: and, or, xor)"
    assert isinstance(model.module, nn.Sequential)
    assert not model.module.training
    assert not any(weight.requires_grad for weight in model.module.parameters())
    assert model.index("xor") == 2
