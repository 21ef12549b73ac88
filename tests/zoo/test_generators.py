import math

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from glasshouse.core.generative import Generator
from glasshouse.zoo.nets.generators import (
    ConvGenerator,
    Discriminator,
    PixelNorm,
    StyledConv,
    StyleGenerator,
    batch_spread,
    twice,
)
from glasshouse.zoo.training import seeded


def draws(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.fixture
def style() -> StyleGenerator:
    with seeded(0):
        return StyleGenerator(z_dim=5, w_dim=7, units=(6, 6, 4), mapping_layers=2).eval()


def test_one_transposed_convolution_equals_repeating_then_convolving():
    maps, weight = draws(2, 5, 4, 3), draws(7, 5, 3, 3, seed=1)
    expected = F.conv2d(F.interpolate(maps, scale_factor=2), weight, padding=1)
    torch.testing.assert_close(twice(maps, weight), expected)


@pytest.mark.parametrize("up", [False, True])
def test_scaling_maps_equals_the_papers_scaled_and_normalised_weights(up: bool):
    with seeded(1):
        layer = StyledConv(5, 4, 3, up=up).double()
    layer.bias.data = draws(4, seed=2)
    maps, style = draws(3, 5, 4, 4), draws(3, 5, seed=3)
    expected = []
    for image, scales in zip(maps, style, strict=True):
        weight = layer.weight * scales[:, None, None]
        weight = weight / (weight.square().sum((1, 2, 3), keepdim=True) + 1e-8).sqrt()
        wide = F.interpolate(image[None], scale_factor=2) if up else image[None]
        expected.append(F.leaky_relu(F.conv2d(wide, weight, layer.bias, padding=1), 0.2) * math.sqrt(2))
    torch.testing.assert_close(layer(maps, style), torch.cat(expected))


def test_styles_are_the_affine_maps_of_the_slices_that_drive_them(style: StyleGenerator):
    slices = draws(2, style.spec.n_w, style.spec.w_dim).float()
    styles = style.advance(slices, "wplus")
    for affine in style.style_affines():
        expected = slices[:, affine.slice_of_w] @ affine.weight.T + affine.bias
        torch.testing.assert_close(styles[:, slice(*affine.columns)], expected)
    assert style.style_affines()[-1].columns[1] == style.spec.n_styles


@torch.no_grad()
def test_a_slice_of_w_changes_the_layers_that_it_drives_and_those_behind(style: StyleGenerator):
    generator = Generator.of(style)
    wplus = generator.map(generator.sample_z(1), "wplus")
    names = [layer.name for layer in generator.layers()]
    clean = generator.synthesize(wplus, retain=names).activations
    for layer in generator.layers():
        moved = wplus.data.clone()
        moved[:, layer.slice_of_w] += 1
        seen = generator.synthesize(type(wplus)("wplus", moved), retain=names).activations
        changed = [name for name in names if not torch.equal(seen[name], clean[name])]
        assert changed == names[names.index(layer.name) :]


def test_numbers_of_slices_are_those_of_the_official_code():
    for resolution, n_w in ((64, 10), (256, 14), (1024, 18)):
        n_blocks = int(math.log2(resolution)) - 1
        spec = StyleGenerator(4, 4, (2,) * n_blocks, mapping_layers=1).spec
        assert (spec.resolution, spec.n_w) == (resolution, n_w)


def test_pixel_norm_gives_vectors_of_unit_mean_square():
    values = PixelNorm()(draws(3, 6, 2, 2))
    torch.testing.assert_close(values.square().mean(1), torch.ones(3, 2, 2, dtype=torch.float64))


def test_the_spread_of_a_batch_is_the_mean_standard_deviation_of_each_group():
    maps = draws(8, 3, 2, 2)
    maps[4:] = maps[4]  # the second group has collapsed
    spread = batch_spread(maps)
    assert spread.shape == (8, 1, 2, 2)
    torch.testing.assert_close(spread[0, 0, 0, 0], maps[:4].std(0, correction=0).mean())
    assert float(spread[4:].max()) < 1e-3


def test_a_batch_that_groups_do_not_divide_is_one_group():
    maps = draws(5, 3, 2, 2)
    torch.testing.assert_close(batch_spread(maps)[3, 0, 1, 1], maps.std(0, correction=0).mean())


@pytest.mark.parametrize(("n_layers", "side"), [(2, 8), (4, 32)])
def test_the_image_doubles_with_each_layer_and_the_critic_reads_it(n_layers: int, side: int):
    with seeded(0):
        networks = [ConvGenerator(4, (4,) * n_layers), StyleGenerator(4, 4, (4,) * n_layers, mapping_layers=1)]
        critic = Discriminator((4,) * n_layers)
    for network in networks:
        images = network.eval()(draws(4, 4).float())
        assert images.shape == (4, 3, side, side)
        assert float(images.detach().abs().max()) < 1
        assert critic(images).shape == (4,)


def test_units_of_the_plain_generator_are_read_behind_their_rectifier():
    with seeded(0):
        network = ConvGenerator(4, (4, 4)).eval()
    seen = Generator.of(network).synthesize(Generator.of(network).sample_z(5), retain=["layers.0", "layers.1"])
    for maps in seen.activations.values():
        assert maps.min() == 0
        assert maps.max() > 0


def test_there_are_128_units_in_each_layer_to_be_dissected():
    from glasshouse.zoo.recipes.gans import RECIPES

    for recipe in RECIPES:
        with torch.device("meta"):
            network: nn.Module = recipe.network()
        layers = Generator.of(network).layers()
        assert all(layer.units == 128 for layer in layers if layer.grid in ((8, 8), (16, 16)))
        assert Generator.of(network).spec.resolution == 32
