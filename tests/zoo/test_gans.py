from dataclasses import replace
from functools import partial

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from glasshouse.core.errors import NothingMatched
from glasshouse.core.generative import Generator, GeneratorSpec, Latent, LayerInfo
from glasshouse.zoo.nets.generators import ConvGenerator, Discriminator, StyleGenerator
from glasshouse.zoo.recipes import gans, generated
from glasshouse.zoo.recipes.gans import Adversarial, Setting
from glasshouse.zoo.training import CHECKPOINT, Recipe, open_run, train

SMALL = Setting(batch=4, r1_every=2, average=0.5)
NETWORKS = {
    "conv": lambda: ConvGenerator(3, (4, 4)),
    "style": lambda: StyleGenerator(3, 4, (4, 4), mapping_layers=1),
}


def pool(seed: int = 0) -> torch.Tensor:
    """A white square on black, somewhere."""
    images = torch.zeros(16, 3, 8, 8, dtype=torch.uint8)
    for i in range(16):
        images[i, :, i % 4 : i % 4 + 3, i // 4 : i // 4 + 3] = 255
    return images


def task(kind: str, seed: int = 0, device: torch.device | None = None, setting: Setting = SMALL) -> Adversarial:
    return Adversarial(
        NETWORKS[kind],
        partial(Discriminator, (4, 4)),
        images=pool,
        look=lambda network: {"brightness": float(gans.drawn(network, 4).mean())},
        setting=replace(setting, relative=(kind == "style", False)),
        seed=seed,
        device=device or torch.device("cpu"),
    )


def recipe(kind: str) -> Recipe:
    return Recipe(name=kind, about="", steps=6, task=partial(task, kind), network=NETWORKS[kind], figures=lambda _: {})


def same(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(value, other[name]) for name, value in one.items())


# Training


@pytest.mark.parametrize("kind", NETWORKS)
def test_stopping_and_going_on_gives_the_same_bits_as_going_through(kind: str, tmp_path):
    before = torch.random.get_rng_state()
    train(recipe(kind), tmp_path / "whole")
    train(recipe(kind), tmp_path / "parts", max_steps=3)
    train(recipe(kind), tmp_path / "parts")
    whole, parts = (open_run(recipe(kind), tmp_path / name).task.state() for name in ("whole", "parts"))
    assert (tmp_path / "parts" / CHECKPOINT).is_file()
    assert same(whole, parts)
    assert torch.equal(torch.random.get_rng_state(), before)


def test_another_seed_starts_and_goes_elsewhere():
    one, other = task("conv", seed=1), task("conv", seed=2)
    assert not same(one.state(), other.state())
    assert one.step(0) != other.step(0)


def test_a_step_depends_on_its_number_alone():
    one, other = task("conv"), task("conv")
    other.real(torch.Generator().manual_seed(9))
    assert one.step(3) == other.step(3)
    assert same(one.state(), other.state())


def test_the_average_follows_the_trained_weights_by_the_formula():
    it = task("conv", setting=replace(SMALL, average=0.5))
    for step in range(8, 10):
        before = {name: value.clone() for name, value in it.network.state_dict().items()}
        it.step(step)
        for name, value in it.made.state_dict().items():
            expected = 0.5 * before[name] + 0.5 * value if value.is_floating_point() else value
            torch.testing.assert_close(it.network.state_dict()[name], expected)
    assert not it.network.training
    assert not any(weight.requires_grad for weight in it.network.parameters())


def test_the_mean_of_w_is_that_of_what_the_mapping_gives():
    it = task("style", setting=replace(SMALL, batch=500, average=0.5, rates=(0.0, 0.0), r1_every=1_000))
    for step in range(101, 109):
        it.step(step)
    made = Generator.of(it.network)
    expected = made.map(made.sample_z(4_000), "w").data.mean(0)
    assert float((it.network.w_mean - expected).norm() / expected.norm()) < 0.2


def test_the_penalty_is_the_squared_slope_of_a_linear_critic():
    slope = torch.randn(3, 4, 4, generator=torch.Generator().manual_seed(0))

    class Linear(nn.Module):
        def forward(self, images: torch.Tensor) -> torch.Tensor:
            return (images * slope).sum((1, 2, 3)) + 5

    torch.testing.assert_close(gans.squared_gradient(Linear(), torch.zeros(2, 3, 4, 4)), slope.square().sum())


def test_rates_are_relative_to_the_size_of_a_weight_where_asked():
    layer = nn.Linear(3, 2)
    nn.init.constant_(layer.weight, 0.25)
    for relative, expected in ((True, 0.25e-3), (False, 1e-3)):
        optimiser = gans.adam(layer, 1e-3, Setting(), relative=relative)
        assert [group["lr"] for group in optimiser.param_groups] == pytest.approx([expected, 1e-3])


def test_the_mapping_alone_learns_at_a_pace_of_its_own():
    network = NETWORKS["style"]()
    optimiser = gans.adam(network, 1e-2, Setting(mapping=0.1), relative=False)
    rates = [group["lr"] for group in optimiser.param_groups]
    expected = [1e-3 if name.startswith("mapping.") else 1e-2 for name, _ in network.named_parameters()]
    assert rates == pytest.approx(expected)
    assert 0 < sum(rate < 1e-2 for rate in rates) < len(rates)


def test_training_brings_the_brightness_of_the_data():
    it = task("conv", setting=Setting(batch=8, rates=(5e-3, 5e-3), average=0.9, low_precision=False))
    start = it.measure()["brightness"]
    for step in range(60):
        it.step(step)
    truth = float(pool().float().mean() / 255)
    assert abs(it.measure()["brightness"] - truth) < 0.4 * abs(start - truth)


# Figures, on a generator whose units are the parts


class Blocks(nn.Module):
    """Unit 0 is the roof's mask, 1 the wall's, 2 a copy of the sky's that nothing reads; colours are red, green, blue.

    z moves the roof sideways, and away where it is below -1.
    """

    def __init__(self):
        super().__init__()
        self.maps = nn.Identity()
        self.weight = nn.Parameter(torch.zeros(1))
        self.spec = GeneratorSpec(("z",), 1, 8, (LayerInfo("maps", 8, (8, 8)),))

    def draw(self, data: torch.Tensor) -> torch.Tensor:
        column = torch.arange(8) + (2 * data).round()
        roof = torch.zeros(len(data), 8, 8)
        roof[:, 2:4] = ((column >= 2) & (column < 6) & (data > -1)).float()[:, None]
        wall = torch.zeros(len(data), 8, 8)
        wall[:, 4:] = 1
        rest = 1 - roof - wall
        maps = self.maps(torch.stack([roof, wall, rest, *(rest * i for i in range(5))], 1))
        colours = torch.stack([maps[:, 0], maps[:, 1], 1 - maps[:, 0] - maps[:, 1]], 1)
        return 2 * colours - 1

    def forward(self, z: torch.Tensor) -> torch.Tensor:
        return self.draw(z)

    def advance(self, data: torch.Tensor, space: str) -> torch.Tensor:
        raise AssertionError

    def style_affines(self):
        return ()


NAMES = ("roof", "wall", "sky")


def segmenter(pixels: torch.Tensor) -> torch.Tensor:
    """Red is roof, green is wall, blue is sky."""
    return 20 * pixels


@torch.no_grad()
def test_a_census_counts_pixels_and_images():
    images = torch.zeros(2, 3, 8, 8)
    images[:, 2] = 1
    images[0, :, 0, :6] = torch.tensor([1.0, 0.0, 0.0])[:, None]
    images[1, :, 0, :4] = torch.tensor([1.0, 0.0, 0.0])[:, None]  # four pixels are not yet seen
    found = generated.census(segmenter, images)
    assert found.area.tolist() == [10 / 128, 0, 118 / 128]
    assert found.presence.tolist() == [0.5, 0, 1]
    assert found.confidence == pytest.approx(float(F.softmax(torch.tensor([20.0, 0, 0]), 0)[0]))


def test_areas_are_compared_where_they_are_large_and_presence_where_it_is_visible():
    rendered = generated.Census(torch.tensor([0.5, 0.015, 0.001]), torch.tensor([1.0, 0.4, 0.1]), 1.0)
    drawn = generated.Census(torch.tensor([0.4, 0.03, 0.005]), torch.tensor([0.9, 0.7, 1.0]), 0.9)
    found = generated.beside(drawn, rendered, NAMES)
    assert found["area_error"] == pytest.approx(0.2)
    assert found["presence_gap"] == pytest.approx(0.3)
    assert found["area_wall"] == pytest.approx(0.03)
    assert found["presence_sky_data"] == pytest.approx(0.1)


def test_variety_is_1_for_data_and_scales_with_the_spread_and_sees_repetition():
    data = torch.rand(6, 3, 4, 4, generator=torch.Generator().manual_seed(0))
    assert generated.variety(data, data) == 1
    assert generated.variety(data / 4, data) == pytest.approx(0.25)
    assert generated.variety(data[:3].repeat(2, 1, 1, 1), data) == 0
    other = torch.tensor([0.0, 1, 3]).view(3, 1, 1, 1)  # nearest neighbours at 1, 1, 2
    assert generated.variety(other, torch.tensor([0.0, 2, 4]).view(3, 1, 1, 1)) == pytest.approx(4 / 6)


@torch.no_grad()
@pytest.mark.parametrize("rank", [generated.by_overlap, generated.by_effect, generated.by_descent])
def test_the_unit_that_is_the_roof_comes_first(rank):
    made = Generator.of(Blocks())
    assert rank(made, segmenter, made.sample_z(16), 0, "maps")[0] == 0


def test_switching_the_roofs_unit_off_leaves_no_roof_and_changes_nothing_else():
    found = generated.removal(Generator.of(Blocks()), segmenter, 0, "maps", n=8)
    assert found["left"] == 0
    assert found["others_changed"] == found["others_renamed"] == 0
    assert found["units"] in (1, 2)


@torch.no_grad()
def test_what_is_left_and_what_else_changes_is_counted_in_pixels():
    made = Generator.of(Blocks())
    z = Latent("z", torch.zeros(1, 1))
    left, changed, renamed = generated.switched_off(made, segmenter, z, 0, "maps", [0, 1])
    assert left == 0
    assert changed == pytest.approx(32 / 56)  # the wall, of all that is no roof
    assert 0 <= renamed <= changed
    assert generated.switched_off(made, segmenter, z, 0, "maps", [2, 5]) == (1, 0, 0)


def test_a_part_that_is_never_drawn_is_an_error():
    with pytest.raises(NothingMatched, match="none of 16"):
        generated.removal(Generator.of(Blocks()), lambda x: torch.cat([20 * x, x[:, :1] * 0], 1), 3, "maps", n=2)


def test_figures_are_the_same_each_time_and_name_every_part(monkeypatch):
    def rendered(seed: int, n: int, start: int = 0) -> torch.Tensor:
        return Blocks().draw(torch.zeros(n, 1)) * 0.5 + 0.5 + torch.linspace(0, 0.1, n).view(n, 1, 1, 1)

    monkeypatch.setattr(gans, "rendered", rendered)
    measured = [gans.figures("maps", Blocks(), segmenter=segmenter, names=NAMES, n=50) for _ in range(2)]
    assert measured[0] == measured[1]
    assert measured[0]["area_wall"] == measured[0]["area_wall_data"] == 0.5
    assert measured[0]["roof_left"] == 0


def test_recipes_are_trained_on_houses_of_the_scene_world():
    found = gans.pool(0, 3)
    assert found.dtype == torch.uint8
    assert found.shape == (3, 3, 32, 32)
    assert torch.equal(gans.pool(0, 2), found[:2])
    assert {recipe.name for recipe in gans.RECIPES} == {"houses_gan", "houses_stylegan"}
