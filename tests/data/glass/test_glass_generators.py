"""Generators whose truth is stated: units, directions, faults, and what edits do."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from glasshouse.core.errors import BadInput, NotFound
from glasshouse.core.generative import Generator, Latent, LayerEdit
from glasshouse.data.glass import GlassUnit, MaskGenerator, StyleGlassBox, random_rotation
from glasshouse.data.glass.little_scene import CLASSES, FACTORS, GROUPS, painted, visible

D = 12
SCALES = tuple(0.5 + 0.25 * i for i in range(D))


def masks(resolution: int = 32, **settings) -> MaskGenerator:
    return MaskGenerator(resolution, rotation=random_rotation(D, 1), **settings).double()


def styles(resolution: int = 32) -> StyleGlassBox:
    return StyleGlassBox(resolution, mapping=random_rotation(8, 1), basis=random_rotation(8, 2)).double()


GENERATORS = {
    "plain": lambda: MaskGenerator(32).double(),
    "masks": lambda: masks(scales=SCALES),
    "faulty": lambda: masks(n_artifacts=2, artifact_rate=0.6),
    "soft": lambda: masks(sharpness=0.2),
    "styles": styles,
}


@pytest.fixture(params=GENERATORS, scope="module")
def generator(request: pytest.FixtureRequest) -> Generator:
    return Generator.of(GENERATORS[request.param]().eval())


@pytest.fixture(autouse=True)
def no_gradients():
    with torch.no_grad():
        yield


def draws(n: int, d: int = D, seed: int = 0) -> Tensor:
    return torch.randn(n, d, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


# The protocol


def test_synthesis_from_every_space_is_what_the_network_draws(generator: Generator):
    z = generator.sample_z(4)
    image = generator.module(z.data)
    for space in generator.spec.spaces:
        latent = generator.map(z, space)
        assert latent.data.shape == (4, *generator.spec.shape(space))
        assert torch.equal(generator.synthesize(latent).image, image)
    assert image.shape == (4, 3, 32, 32)
    assert image.abs().max() <= 1


def test_layers_have_the_units_and_the_grid_that_they_state(generator: Generator):
    names = [layer.name for layer in generator.layers()]
    seen = generator.synthesize(generator.sample_z(2), retain=names).activations
    for layer in generator.layers():
        assert seen[layer.name].shape == (2, layer.units, *layer.grid)


def test_edits_of_strength_0_change_no_bit_and_hooks_are_gone_after_an_error(generator: Generator):
    z = generator.sample_z(3)
    edits = [LayerEdit(layer.name, alpha=0.0, value=5.0) for layer in generator.layers()]
    assert torch.equal(generator.synthesize(z, edits=edits).image, generator.module(z.data))
    with pytest.raises(BadInput):
        generator.synthesize(z, edits=[LayerEdit("occupancy", units=(99,))])
    assert not any(module._forward_hooks for module in generator.module.modules())


def test_the_rest_behind_a_layer_gives_the_whole_also_after_an_edit(generator: Generator):
    z = generator.sample_z(3)
    for layer in generator.layers():
        rest = generator.start_from(z, layer.name)
        prefix = generator.synthesize(z, stop_at=layer.name).activations[layer.name]
        torch.testing.assert_close(rest(prefix), generator.synthesize(z).image)
        edit = LayerEdit(layer.name, units=tuple(range(layer.units)), alpha=0.5)
        torch.testing.assert_close(rest(edit(prefix)), generator.synthesize(z, edits=[edit]).image)


def test_images_of_a_batch_do_not_influence_each_other(generator: Generator):
    z = generator.sample_z(4)
    together = generator.synthesize(z).image
    for i in range(4):
        torch.testing.assert_close(generator.synthesize(z[i : i + 1]).image[0], together[i])


def test_images_are_differentiable_in_the_latent(generator: Generator):
    z = generator.sample_z(1).data.requires_grad_()
    weight = draws(3, 32 * 32, seed=9).reshape(1, 3, 32, 32)
    with torch.enable_grad():
        (gradient,) = torch.autograd.grad((generator.module(z) * weight).sum(), z)
    step = 1e-6 * draws(1, z.shape[1], seed=3)
    change = ((generator.module(z + step) - generator.module(z - step)) * weight).sum() / 2
    torch.testing.assert_close((gradient * step).sum(), change, rtol=1e-3, atol=1e-9)
    assert gradient.abs().sum() > 0


# Units


def counts(unit: Tensor, threshold: float, label: Tensor) -> tuple[float, float]:
    above = unit > threshold
    return float((above & label).sum()), float((above | label).sum())


def iou(unit: Tensor, label: Tensor, threshold: float = 0.5) -> float:
    both, either = counts(unit, threshold, label)
    return both / either


def test_a_class_unit_has_overlap_1_with_its_class_and_0_with_all_others():
    network = masks()
    z = draws(20)
    maps = Generator.of(network.eval()).synthesize(Latent("z", z), retain=["occupancy"]).activations["occupancy"]
    labels = network.labels(z)
    for kind in ("class", "duplicate"):
        for unit in network.units_of(kind):
            for k, name in enumerate(CLASSES):
                assert iou(maps[:, unit], labels == k + 1) == (name in network.units[unit].classes)
    for k, name in enumerate(CLASSES):
        assert len(network.units_of("class", name)) == 1
        assert (labels == k + 1).any()


def test_distractors_are_what_they_are_said_to_be():
    network = masks()
    z = draws(6)
    maps = Generator.of(network.eval()).synthesize(Latent("z", z), retain=["occupancy"]).activations["occupancy"]
    seen = dict(zip(CLASSES, network.seen(z).unbind(1), strict=True))
    torch.testing.assert_close(network.seen(z).sum(1), torch.ones(6, 32, 32).double())
    for u, unit in enumerate(network.units):
        own = [seen[name] for name in unit.classes]
        if unit.kind in ("class", "duplicate"):
            assert torch.equal(maps[:, u], own[0])
        if unit.kind == "negated":
            assert torch.equal(maps[:, u], -own[0])
        if unit.kind == "mixture":
            torch.testing.assert_close(maps[:, u], own[0] + own[1])
            a, b = (float((part > 0.5).sum()) for part in own)
            both = float((own[0] + own[1] > 0.5).sum())
            assert abs(iou(maps[:, u], own[0] > 0.5) - a / both) < 1e-9
            assert both >= a + b


@pytest.mark.parametrize("px", [1, 2, 3])
def test_a_dilated_square_has_the_overlap_of_the_areas(px: int):
    # at 80 px this house is a square of 20 px whose sides lie between pixels
    network = MaskGenerator(80, distractors=[GlassUnit("dilated", ("house",), px)]).double().eval()
    z = network.latents({"house_x": 26 / 80, "house_size": 10 / 80, "tree_x": 0.84, "tree_size": 0.081})
    maps = Generator.of(network).synthesize(Latent("z", z), retain=["occupancy"]).activations["occupancy"]
    unit, house = network.units_of("dilated")[0], network.labels(z) == 1 + CLASSES.index("house")
    assert house.sum() == 20**2
    assert abs(iou(maps[:, unit], house) - 20**2 / (20 + 2 * px) ** 2) < 1e-12


def test_noise_overlaps_as_chance_would_have_it():
    network = masks(distractors=[GlassUnit("noise")])
    z = draws(200)
    maps = Generator.of(network.eval()).synthesize(Latent("z", z), retain=["occupancy"]).activations["occupancy"]
    noise = maps[:, network.units_of("noise")[0]]
    for threshold in (0.3, 0.8):
        p = 1 - threshold
        assert abs(float((noise > threshold).double().mean()) - p) < 0.03
        for name in ("sky", "house"):
            label = network.labels(z) == 1 + CLASSES.index(name)
            q = float(label.double().mean())
            assert abs(iou(noise, label, threshold) - p * q / (p + q - p * q)) < 0.03


def test_only_units_of_classes_and_artifacts_have_an_effect():
    network = masks(n_artifacts=2, artifact_rate=1).eval()
    generator, z = Generator.of(network), Latent("z", draws(3))
    clean = generator.synthesize(z).image
    causal = set(network.units_of("class")) | set(network.units_of("artifact"))
    for u in range(len(network.units)):
        for value in (0.0, 4.0):
            changed = generator.synthesize(z, edits=[LayerEdit("occupancy", value=value, units=(u,))]).image
            if u not in causal:
                assert torch.equal(changed, clean)
    for u in causal:
        changed = generator.synthesize(z, edits=[LayerEdit("occupancy", value=1.0, units=(u,))]).image
        assert not torch.equal(changed, clean) or network.units[u].classes == ("sky",)


@pytest.mark.parametrize("name", CLASSES)
def test_switching_a_class_off_removes_its_pixels_and_no_others(name: str):
    network = masks().eval()
    generator, z = Generator.of(network), draws(5)
    edit = LayerEdit("occupancy", units=network.units_of("class", name))
    before, after = generator.synthesize(Latent("z", z)).image, generator.synthesize(Latent("z", z), edits=[edit]).image
    own = network.seen(z)[:, CLASSES.index(name)]
    assert torch.equal((before != after).any(1), own > 0)
    torch.testing.assert_close(after.movedim(1, -1)[own == 1], torch.zeros(int((own == 1).sum()), 3).double())
    whole = network.seen(z).amax(1) == 1
    k = CLASSES.index(name) + 1
    labels = network.labels(z)
    assert torch.equal(network.segment(before)[whole], labels[whole])
    assert torch.equal(network.segment(after)[whole], labels.where(labels != k, 0)[whole])


@pytest.mark.parametrize("name", CLASSES)
def test_a_class_that_is_inserted_shows_wherever_nothing_nearer_stands(name: str):
    network = masks().eval()
    generator, z = Generator.of(network), draws(5)
    edit = LayerEdit("occupancy", value=1.0, units=network.units_of("class", name))
    after = network.segment(generator.synthesize(Latent("z", z), edits=[edit]).image)
    whole, labels, k = network.seen(z).amax(1) == 1, network.labels(z), CLASSES.index(name) + 1
    assert torch.equal(after[whole], labels.where(labels > k, k)[whole])


def test_compositing_is_painters_order():
    covers = torch.rand(2, 6, 3, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    covers[:, 0] = 1
    paint = torch.rand(6, 3, generator=torch.Generator().manual_seed(1)).tolist()
    canvas = torch.zeros(2, 3, 3, 4, dtype=torch.float64)
    for k in range(6):
        canvas = canvas.lerp(
            torch.tensor(paint[k]).double()[:, None, None].expand_as(canvas),
            covers[:, k : k + 1].expand_as(canvas),
        )
    torch.testing.assert_close(painted(visible(covers), paint), 2 * canvas - 1)


def test_units_are_listed_in_an_order_of_their_seed():
    one, same, other = (MaskGenerator(16, seed=seed).units for seed in (1, 1, 2))
    assert one == same
    assert one != other
    assert sorted(map(repr, one)) == sorted(map(repr, other))


# Directions


@settings(max_examples=20, deadline=None)
@given(st.integers(0, D - 1), st.floats(-1.5, 1.5), st.integers(0, 10**6))
def test_a_step_along_a_direction_changes_its_factor_and_no_other(i: int, step: float, seed: int):
    network = masks(16, scales=SCALES)
    z = draws(2, seed=seed)
    before, after = network.shares(z), network.shares(z + step * network.directions[i])
    others = [j for j in range(D) if j != i]
    torch.testing.assert_close(after[:, others], before[:, others], rtol=1e-5, atol=1e-6)
    expected = torch.special.ndtr(torch.special.ndtri(before[:, i]) + step)
    torch.testing.assert_close(after[:, i], expected, rtol=1e-5, atol=1e-6)


def test_directions_are_the_rows_of_the_rotation_and_the_right_singular_vectors_of_the_first_layer():
    network = masks(16, scales=SCALES)
    torch.testing.assert_close(network.directions, random_rotation(D, 1), rtol=1e-5, atol=1e-6)
    _, values, rows = torch.linalg.svd(network.turn.weight)
    torch.testing.assert_close(values, torch.tensor(SCALES).double().flip(0), rtol=1e-5, atol=1e-6)
    torch.testing.assert_close((rows * network.directions.flip(0)).sum(1).abs(), torch.ones(D).double())


def test_factors_are_evenly_spread_and_independent():
    share = masks(16, scales=SCALES).shares(draws(4000))
    assert (share.sort(0).values - torch.linspace(0, 1, 4000).double()[:, None]).abs().max() < 0.04
    assert (share.T.corrcoef() - torch.eye(D)).abs().max() < 0.06


def test_latents_of_given_factors_draw_those_factors():
    network = masks(16, scales=SCALES)
    asked = {"horizon": 0.6, "sun_x": torch.tensor([0.2, 0.7]), "tree_size": 0.1}
    found = network.factors(network.latents(asked))
    for name, value in asked.items():
        torch.testing.assert_close(found[name], torch.as_tensor(value).double().expand(2), rtol=1e-5, atol=1e-6)
    middles = {factor.name: (factor.low + factor.high) / 2 for factor in FACTORS}
    torch.testing.assert_close(found["house_x"], torch.full((2,), middles["house_x"]).double(), rtol=1e-5, atol=1e-6)
    with pytest.raises(NotFound, match="factor 'moon'"):
        network.latents({"moon": 1.0})
    with pytest.raises(BadInput, match="end of its range"):
        network.latents({"horizon": 0.9})


def test_mixed_second_derivatives_of_things_apart_are_zero():
    network = MaskGenerator(32).double()
    z = network.latents({"house_x": 0.25, "tree_x": 0.84, "tree_size": 0.081, "house_size": 0.11})
    for first, second, mixed in (("sun_size", "house_x", False), ("sun_x", "sun_y", True)):
        a, b = (torch.eye(D).double()[network.factor_names.index(name)] * 0.1 for name in (first, second))
        bend = network(z + a + b) - network(z + a - b) - network(z - a + b) + network(z - a - b)
        assert bool((bend.abs() > 1e-9).any()) == mixed


# Faults


def test_faulty_images_are_the_clean_ones_with_blotches_where_the_manifest_says():
    clean, bad = masks(), masks(n_artifacts=3, artifact_rate=0.3)
    z = draws(300)
    faulty = bad.faulty(z)
    assert abs(float(faulty.double().mean()) - 0.3) < 0.08
    assert torch.equal(bad.blotches(z).flatten(1).any(1), faulty)
    z = z[:40]
    changed = (clean(z) != bad(z)).any(1)
    assert torch.equal(changed.flatten(1).any(1), bad.faulty(z))
    assert (bad.blotches(z) <= changed).all()
    assert not bad.labels(z)[bad.blotches(z)].any()
    pixels = bad(z).movedim(1, -1)[bad.blotches(z)]
    assert (pixels - torch.tensor([1.0, -1, 1])).abs().amin(0).max() == 0


def test_switching_the_artifact_units_off_mends_the_images():
    clean, bad = masks().eval(), masks(n_artifacts=3, artifact_rate=0.5).eval()
    z = draws(20)
    mended = Generator.of(bad).synthesize(
        Latent("z", z), edits=[LayerEdit("occupancy", units=bad.units_of("artifact"))]
    )
    torch.testing.assert_close(mended.image, clean(z))
    one = Generator.of(bad).synthesize(
        Latent("z", z), edits=[LayerEdit("occupancy", units=bad.units_of("artifact")[:1])]
    )
    assert not torch.allclose(one.image, clean(z))


# Styles


def test_a_slice_of_w_drives_its_own_group_and_nothing_else():
    network = styles().eval()
    generator = Generator.of(network)
    z = generator.sample_z(3)
    wplus = generator.map(z, "wplus").data
    names = [f"groups.{i}" for i in range(len(GROUPS))]
    before = generator.synthesize(Latent("wplus", wplus), retain=names).activations
    for i, own in enumerate(names):
        moved = wplus.clone()
        moved[:, i] += draws(3, 8, seed=i)
        after = generator.synthesize(Latent("wplus", moved), retain=names).activations
        assert [name for name in names if not torch.equal(before[name], after[name])] == [own]


def test_along_its_direction_a_factor_changes_alone_and_across_all_of_them_nothing_does():
    network = styles().eval()
    generator = Generator.of(network)
    wplus = generator.map(generator.sample_z(2), "wplus").data
    before = network.factors(generator.map(Latent("wplus", wplus), "style").data)
    for i, factor in enumerate(network.factor_names):
        moved = wplus.clone()
        moved[:, network.slice_of(factor)] += 0.7 * network.directions[i]
        after = network.factors(generator.map(Latent("wplus", moved), "style").data)
        changed = [name for name in before if not torch.allclose(before[name], after[name], atol=1e-6)]
        assert changed == [factor]
        aside = wplus.clone()
        for other in range(network.spec.n_w):
            if other != network.slice_of(factor):
                aside[:, other] += 0.7 * network.directions[i]
        torch.testing.assert_close(network.draw(network.advance(aside, "wplus")), generator.synthesize(
            Latent("wplus", wplus)).image, rtol=1e-4, atol=1e-4)  # fmt: skip


def test_style_affines_are_the_map_from_w_to_styles_and_their_singular_vectors_the_directions():
    network = styles().eval()
    generator = Generator.of(network)
    wplus = generator.map(generator.sample_z(3), "wplus")
    style = generator.map(wplus, "style").data
    begin = 0
    for affine in generator.style_affines():
        assert affine.columns[0] == begin
        begin = affine.columns[1]
        expected = wplus.data[:, affine.slice_of_w] @ affine.weight.T + affine.bias
        torch.testing.assert_close(style[:, slice(*affine.columns)], expected)
        torch.testing.assert_close(
            affine.weight @ affine.weight.T, torch.eye(len(affine.weight)).double(), rtol=1e-5, atol=1e-5
        )
        layer = next(layer for layer in generator.layers() if layer.name == affine.layer)
        assert layer.slice_of_w == affine.slice_of_w
    assert begin == network.spec.n_styles
    torch.testing.assert_close(network.directions, random_rotation(8, 2), rtol=1e-5, atol=1e-6)


def test_the_mean_of_w_is_the_one_that_truncation_uses():
    network = styles().eval()
    generator = Generator.of(network)
    many = generator.map(generator.sample_z(3000), "w").data
    assert (many.mean(0) - network.w_mean).abs().max() < 0.07
    nothing = generator.map(generator.sample_z(2), "w", truncation=0).data
    middles = network.factors(network.advance(network.advance(nothing, "w"), "wplus"))
    for factor in FACTORS:
        torch.testing.assert_close(
            middles[factor.name], torch.full((2,), (factor.low + factor.high) / 2).double(), rtol=1e-5, atol=1e-6
        )


def test_both_generators_draw_the_same_scene():
    network, other = masks(), styles()
    z = draws(3)
    style = torch.special.ndtri(network.shares(z)[:, :8])
    torch.testing.assert_close(other.draw(style), network(z), rtol=1e-4, atol=1e-4)


def test_settings_that_make_no_sense_are_refused():
    with pytest.raises(BadInput, match="orthogonal matrix of 12"):
        MaskGenerator(32, rotation=torch.ones(D, D))
    with pytest.raises(BadInput, match="orthogonal matrix of 8"):
        StyleGlassBox(32, mapping=torch.ones(8, 8))
    with pytest.raises(BadInput, match="3 scales"):
        MaskGenerator(32, scales=(1.0, 2.0, 3.0))
    with pytest.raises(BadInput, match="kind mixture"):
        GlassUnit("mixture", ("sun",))
    with pytest.raises(NotFound, match="class 'moon'"):
        GlassUnit("duplicate", ("moon",))
