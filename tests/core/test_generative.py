from collections.abc import Callable
from dataclasses import replace
from typing import get_args

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from glasshouse.core.errors import BadInput, BadModel, LayerNotFound
from glasshouse.core.generative import (
    Generator,
    GeneratorSpec,
    Latent,
    LayerEdit,
    LayerInfo,
    Space,
    SpaceNotAvailable,
    Synthesis,
)
from glasshouse.zoo.nets.generators import ConvGenerator, StyleGenerator

N = 3


class Halves(nn.Module):
    """Two units on 2 × 2, z shared out among positions; red is the first one's activation, green the second's."""

    def __init__(self):
        super().__init__()
        self.spread = nn.Linear(4, 8, bias=False)
        self.maps = nn.Unflatten(1, (2, 2, 2))
        self.colour = nn.Conv2d(2, 3, 1, bias=False)
        with torch.no_grad():
            self.spread.weight.copy_(torch.eye(4).repeat(2, 1))
            self.colour.weight.copy_(torch.tensor([[1.0, 0.0], [0.0, 1.0], [0.0, 0.0]])[:, :, None, None])
        self.spec = GeneratorSpec(("z",), 4, 2, (LayerInfo("maps", 2, (2, 2)),), prior="uniform")

    def draw(self, data: Tensor) -> Tensor:
        return self.colour(self.maps(self.spread(data)))

    def forward(self, z: Tensor) -> Tensor:
        return self.draw(z)

    def advance(self, data: Tensor, space: Space) -> Tensor:
        raise AssertionError("there is one space")

    def style_affines(self):
        return ()


def made(build: Callable[[], nn.Module]) -> Generator:
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(0)
        network = build().eval()
    for name, weight in network.named_buffers():
        if name.endswith(("running_mean", "w_mean")):
            weight += torch.linspace(-0.5, 0.5, len(weight))
    return Generator.of(network)


GENERATORS: dict[str, Callable[[], nn.Module]] = {
    "halves": Halves,
    "conv": lambda: ConvGenerator(z_dim=5, units=(6, 6, 4)),
    "style": lambda: StyleGenerator(z_dim=5, w_dim=7, units=(6, 6, 4), mapping_layers=2),
}


@pytest.fixture(params=GENERATORS, scope="module")
def generator(request: pytest.FixtureRequest) -> Generator:
    return made(GENERATORS[request.param])


@pytest.fixture
def style() -> Generator:
    return made(GENERATORS["style"])


@pytest.fixture
def z(generator: Generator) -> Latent:
    return generator.sample_z(N, seed=3)


@pytest.fixture(autouse=True)
def no_gradients():
    with torch.no_grad():
        yield


def hooks(generator: Generator) -> int:
    return sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in generator.module.modules())


# For every generator


def test_synthesis_of_a_mapped_latent_is_what_the_network_draws(generator: Generator, z: Latent):
    image = generator.module(z.data)
    for space in generator.spec.spaces:
        assert torch.equal(generator.synthesize(generator.map(z, space)).image, image)
    assert image.shape == (N, generator.spec.channels, generator.spec.resolution, generator.spec.resolution)


def test_the_first_latents_do_not_depend_on_how_many_are_drawn(generator: Generator):
    many = generator.sample_z(40, seed=5).data
    for n in (1, 7, 16, 17):
        assert torch.equal(generator.sample_z(n, seed=5).data, many[:n])
    assert not torch.equal(generator.sample_z(40, seed=6).data, many)


def test_drawing_latents_leaves_the_global_stream_alone(generator: Generator):
    before = torch.random.get_rng_state()
    generator.sample_z(9)
    assert torch.equal(torch.random.get_rng_state(), before)


def test_every_space_has_the_shape_that_the_spec_states(generator: Generator, z: Latent):
    for space in generator.spec.spaces:
        assert generator.map(z, space).data.shape == (N, *generator.spec.shape(space))


def test_images_of_a_batch_do_not_influence_each_other(generator: Generator, z: Latent):
    together = generator.synthesize(z).image
    for i in range(N):
        torch.testing.assert_close(generator.synthesize(z[i : i + 1]).image[0], together[i])


def test_layers_have_the_units_and_the_grid_that_they_state_and_run_in_order(generator: Generator, z: Latent):
    names = [layer.name for layer in generator.layers()]
    seen = generator.synthesize(z, retain=names).activations
    for layer in generator.layers():
        assert seen[layer.name].shape == (N, layer.units, *layer.grid)
    for i, name in enumerate(names):
        stopped = generator.synthesize(z, retain=names[:i], stop_at=name)
        assert stopped.image is None
        assert list(stopped.activations) == names[: i + 1]
        assert torch.equal(stopped.activations[name], seen[name])


def test_reading_layers_and_edits_of_strength_0_change_no_bit(generator: Generator, z: Latent):
    names = [layer.name for layer in generator.layers()]
    edits = [LayerEdit(name, alpha=0.0, value=7.0, units=(1,)) for name in names]
    assert torch.equal(generator.synthesize(z, edits=edits, retain=names).image, generator.module(z.data))


def test_the_rest_behind_a_layer_gives_the_whole(generator: Generator, z: Latent):
    for layer in generator.layers():
        rest = generator.start_from(z, layer.name)
        prefix = generator.synthesize(z, stop_at=layer.name).activations[layer.name]
        torch.testing.assert_close(rest(prefix), generator.synthesize(z).image)
        edit = LayerEdit(layer.name, units=(0,))
        torch.testing.assert_close(rest(edit(prefix)), generator.synthesize(z, edits=[edit]).image)


def test_switching_a_unit_off_changes_the_image_until_the_with_ends(generator: Generator, z: Latent):
    clean = generator.synthesize(z).image
    for layer in generator.layers():
        edits = [LayerEdit(layer.name, value=3.0)]
        assert not torch.allclose(generator.synthesize(z, edits=edits).image, clean)
    assert torch.equal(generator.synthesize(z).image, clean)
    assert hooks(generator) == 0


def test_no_hook_is_left_after_an_error(generator: Generator, z: Latent):
    name = generator.layers()[0].name
    with pytest.raises(BadInput, match="not all in layer"):
        generator.synthesize(z, edits=[LayerEdit(name), LayerEdit(name, units=(99,))], retain=[name])
    with pytest.raises(LayerNotFound):
        generator.synthesize(z, edits=[LayerEdit(name), LayerEdit("nowhere")])
    assert hooks(generator) == 0


def test_gradients_reach_latents_and_edits(generator: Generator, z: Latent):
    name = generator.layers()[-1].name
    with torch.enable_grad():
        data, alpha = z.data.clone().requires_grad_(), torch.full((generator.layers()[-1].units,), 0.5).requires_grad_()
        image = generator.synthesize(Latent("z", data), edits=[LayerEdit(name, alpha=alpha, value=0.3)]).image
        for gradient in torch.autograd.grad(image.square().sum(), [data, alpha]):
            assert gradient.abs().sum() > 0


def test_a_space_that_is_not_there_is_an_error_that_names_those_that_are(generator: Generator, z: Latent):
    for space in set(get_args(Space)) - set(generator.spec.spaces):
        with pytest.raises(SpaceNotAvailable, match=f"no space '{space}'.*'z'"):
            generator.map(z, space)
    if "style" not in generator.spec.spaces:
        with pytest.raises(SpaceNotAvailable, match="'style'"):
            generator.style_affines()


# Edits, on a network where the answer can be read off


def test_an_edit_is_a_weighted_mean_of_the_old_and_the_new_value():
    halves = made(Halves)
    z = Latent("z", torch.tensor([[0.1, 0.2, 0.3, 0.4]]))
    grid = torch.tensor([[0.1, 0.2], [0.3, 0.4]])
    image = halves.synthesize(z, edits=[LayerEdit("maps", alpha=0.25, value=0.8, units=(1,))]).image[0]
    torch.testing.assert_close(image[0], grid)
    torch.testing.assert_close(image[1], 0.75 * grid + 0.25 * 0.8)


def test_edits_are_made_from_left_to_right():
    halves = made(Halves)
    z = halves.sample_z(1)
    fill, dim = LayerEdit("maps", value=1.0), LayerEdit("maps", alpha=0.5)
    assert torch.equal(halves.synthesize(z, edits=[fill, dim]).image[0, 0], torch.full((2, 2), 0.5))
    assert torch.equal(halves.synthesize(z, edits=[dim, fill]).image[0, 0], torch.ones(2, 2))


def test_activations_are_kept_from_before_the_edits_unless_asked_otherwise():
    halves = made(Halves)
    z, edits = halves.sample_z(2), [LayerEdit("maps", value=9.0)]
    clean = halves.synthesize(z, retain=["maps"]).activations["maps"]
    for stop in (None, "maps"):
        kept = halves.synthesize(z, edits=edits, retain=["maps"], stop_at=stop)
        assert torch.equal(kept.activations["maps"], clean)
        late = halves.synthesize(z, edits=edits, retain=["maps"], stop_at=stop, after=True)
        assert (late.activations["maps"] == 9).all()


@pytest.mark.parametrize(
    ("shape", "full"),
    [((), "1 1 1 1"), ((2,), "1 2 1 1"), ((4, 5), "1 1 4 5"), ((3, 4, 5), "3 1 4 5"), ((3, 2, 1, 1), "3 2 1 1")],
)
def test_strengths_are_per_unit_per_position_or_per_image(shape: tuple[int, ...], full: str):
    draws = torch.Generator().manual_seed(0)
    maps, alpha = torch.randn(3, 6, 4, 5, generator=draws), torch.rand(shape, generator=draws)
    wide = alpha.reshape([int(side) for side in full.split()])
    expected = maps.clone()
    expected[:, [4, 1]] = (1 - wide) * maps[:, [4, 1]] + wide * 2.0
    torch.testing.assert_close(LayerEdit("any", alpha=alpha, value=2.0, units=(4, 1))(maps), expected)
    swapped = LayerEdit("any", alpha=torch.ones(()), value=alpha, units=(4, 1))(maps)[:, [4, 1]]
    assert torch.equal(swapped, wide.expand(3, 2, 4, 5))


def test_an_edit_of_the_wrong_shape_says_both_shapes():
    with pytest.raises(BadInput, match=r"\(3,\) does not fit \(1, 2, 2, 2\)"):
        made(Halves).synthesize(made(Halves).sample_z(1), edits=[LayerEdit("maps", alpha=torch.ones(3))])


# Sampling


def test_normal_latents_are_the_stream_of_the_reference_code(style: Generator):
    expected = np.random.RandomState(11).standard_normal((6, 5)).astype("float32")
    assert (style.sample_z(6, seed=11).data.numpy() == expected).all()


def test_uniform_latents_fill_their_range():
    drawn = made(Halves).sample_z(2_000, seed=1).data
    assert drawn.min() >= -1
    assert drawn.max() <= 1
    assert abs(float(drawn.var(correction=0)) - 1 / 3) < 0.02


@pytest.mark.parametrize(("n", "seed"), [(0, 0), (2, -1), (2, 2**32)])
def test_a_seed_or_a_number_out_of_range_is_an_error(n: int, seed: int):
    with pytest.raises(BadInput, match="cannot draw"):
        made(Halves).sample_z(n, seed)


# Mapping


def test_slices_of_w_that_are_equal_draw_what_w_draws(style: Generator):
    w = style.map(style.sample_z(N), "w")
    slices = Latent("wplus", w.data[:, None].repeat(1, style.spec.n_w, 1))
    torch.testing.assert_close(style.synthesize(slices).image, style.synthesize(w).image)


def test_truncation_scales_the_distance_to_the_mean_of_w(style: Generator):
    z = style.sample_z(N)
    full, mean = style.map(z, "w").data, style.module.w_mean
    torch.testing.assert_close(style.map(z, "w", truncation=0.3).data, mean + 0.3 * (full - mean))
    same = style.map(z, "w", truncation=0).data
    torch.testing.assert_close(same, mean.expand_as(same))


def test_truncation_reaches_the_first_slices_up_to_the_cutoff(style: Generator):
    z = style.sample_z(N)
    full = style.map(z, "wplus").data
    cut = style.map(z, "wplus", truncation=0.5, cutoff=2).data
    assert torch.equal(cut[:, 2:], full[:, 2:])
    torch.testing.assert_close(cut[:, :2], style.map(z, "wplus", truncation=0.5).data[:, :2])
    assert not torch.allclose(cut[:, :2], full[:, :2])
    torch.testing.assert_close(
        style.map(z, "style", truncation=0.5, cutoff=2).data, style.map(Latent("wplus", cut), "style").data
    )


def test_a_latent_cannot_be_mapped_back_or_truncated_where_w_is_not_passed(style: Generator):
    w = style.map(style.sample_z(1), "w")
    with pytest.raises(SpaceNotAvailable, match="comes before"):
        style.map(w, "z")
    with pytest.raises(SpaceNotAvailable, match="on the way into 'w'"):
        style.map(w, "w", truncation=0.5)
    with pytest.raises(BadInput, match="cutoff 99"):
        style.map(w, "wplus", truncation=0.5, cutoff=99)


def test_a_latent_of_another_generator_is_refused(style: Generator):
    with pytest.raises(BadInput, match=r"shape \(4,\) each.*\(5,\)"):
        style.synthesize(made(Halves).sample_z(1))


# The rest


def test_a_network_in_training_mode_is_run_in_evaluation_mode():
    conv = made(GENERATORS["conv"])
    z, clean = conv.sample_z(N), conv.synthesize(conv.sample_z(N)).image
    conv.module.train()
    with pytest.warns(UserWarning, match="training mode"):
        assert torch.equal(conv.synthesize(z).image, clean)
    assert conv.module.training


def test_a_network_that_cannot_be_a_generator_is_refused():
    with pytest.raises(BadModel, match="no spec, draw"):
        Generator.of(nn.Linear(2, 2))
    halfway = nn.Linear(2, 2)
    halfway.spec, halfway.draw = GeneratorSpec(("z", "w"), 2, 4, (), w_dim=2), halfway.forward
    with pytest.raises(BadModel, match="no advance, style_affines"):
        Generator.of(halfway)


def test_latents_and_syntheses_are_saved_and_shown(tmp_path, style: Generator):
    latent = style.map(style.sample_z(2), "wplus")
    drawn = style.synthesize(latent, retain=["layers.0"])
    assert torch.equal(Latent.load(latent.save(tmp_path / "latent")).data, latent.data)
    assert torch.equal(Synthesis.load(drawn.save(tmp_path / "drawn")).image, drawn.image)
    assert repr(latent) == "Latent(wplus, 2 × 6 × 7)"
    assert repr(drawn) == "Synthesis(2 × 3 × 16 × 16, layers.0)"
    assert repr(style) == "Generator(StyleGenerator: z, w, wplus, style → 16 px, 5 layers)"
    torch.testing.assert_close(drawn.pixels, (drawn.image + 1) / 2)
    with pytest.raises(BadInput, match="stopped"):
        _ = replace(drawn, image=None).pixels
