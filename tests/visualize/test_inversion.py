"""Inversions whose answer is known, the objective written out in loops, and the promises that hold for all of them."""

import math

import pytest
import torch
from torch import nn

from glasshouse.core import (
    BadInput,
    Model,
    NotFound,
    Preprocess,
    ablate,
    draw,
    find_method,
    generator,
    probe,
    replace,
    resize,
)
from glasshouse.visualize import Inversion, class_means, invert, only, permuted
from glasshouse.visualize.inversion import Descent, prior

B = 80 / 255
STANDARD = Preprocess(size=(6, 5), mean=(0.3, 0.5, 0.6), std=(0.2, 0.25, 0.3), channel_order="bgr")


def identity(channels=3):
    """A network whose layer `0` is the image."""
    net = nn.Sequential(nn.Conv2d(channels, channels, 1, bias=False), nn.Flatten()).eval()
    with torch.no_grad():
        net[0].weight.copy_(torch.eye(channels)[:, :, None, None])
    return net


def photos(n=2, size=(6, 5), channels=3, seed=0):
    """Smooth ones, as photographs are."""
    return resize(torch.rand(n, channels, 2, 2, generator=generator(seed)), size)


def test_the_prior_is_the_papers_sum_pixel_by_pixel():
    theta = torch.randn(2, 3, 4, 5, dtype=torch.float64, generator=generator(0))
    for image, value in zip(theta, prior(theta), strict=True):
        total = 0.0
        for c in range(3):
            for y in range(4):
                for x in range(5):
                    here = B * image[c, y, x].item()  # in pixels, with the constants of the paper
                    down = B * image[c, y + 1, x].item() - here if y < 3 else 0.0
                    across = B * image[c, y, x + 1].item() - here if x < 4 else 0.0
                    total += abs(here) ** 6 / (4 * 5 * B**6) + (down**2 + across**2) / (4 * 5 * (B / 6.5) ** 2)
        assert math.isclose(value.item(), total, rel_tol=1e-12)


def test_the_objective_is_the_normalised_error_plus_the_prior():
    pixels, target = photos(2).double(), torch.randn(2, 3, 6, 5, dtype=torch.float64, generator=generator(1))
    mean = torch.tensor([0.6, 0.5, 0.3], dtype=torch.float64).view(1, 3, 1, 1)  # as red, green, blue
    theta = (pixels - mean) / B
    descent = Descent(lambda x: 2 * x + 1, target, STANDARD, pixels, 30.0)
    torch.testing.assert_close(descent.pixels(theta), pixels)
    inputs = (pixels.flip(1) - mean.flip(1)) / torch.tensor([0.2, 0.25, 0.3]).double().view(1, 3, 1, 1)
    for row in range(2):
        missed = ((2 * inputs[row] + 1 - target[row]) ** 2).sum() / (target[row] ** 2).sum()
        expected = 30 * missed + prior(theta[row : row + 1])[0]
        torch.testing.assert_close(descent.objective(theta)[row], expected)


def test_a_layer_that_is_the_image_gives_it_back():
    pixels = photos(2)
    found = invert(identity(), pixels, layer="0", weight=1e5, steps=80, learning_rate=0.1)
    torch.testing.assert_close(found["0"], pixels, atol=0.03, rtol=0)
    assert (found.residual < 0.03).all()
    assert torch.equal(found.originals, pixels)


def test_a_plain_image_is_pulled_to_the_mean_as_far_as_the_equation_says():
    # With θ constant all roughness vanishes: minimise C (θ - a)² / a² + θ^6, whose slope has one root.
    a, weight = 1.2, 3
    scaled = Preprocess(size=(4, 4), mean=(0.5,), std=(B,))
    found = invert(identity(1), torch.full((1, 1, 4, 4), a), layer="0", weight=weight, steps=80, preprocess=scaled)
    low, high = 0.0, a
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if 2 * weight * (middle - a) / a**2 + 6 * middle**5 < 0 else (low, middle)
    torch.testing.assert_close(found["0"], torch.full((1, 1, 4, 4), 0.5 + B * low), atol=2e-3, rtol=0)


def test_distances_are_those_in_the_users_own_model(cnn):
    inputs = STANDARD.normalise(photos(3))
    found = invert(Model.of(cnn, preprocess=STANDARD), inputs, layer=["1", "3"], steps=4)
    with torch.no_grad(), probe(cnn, "1", "3") as wanted:
        cnn(inputs)
    for row, layer in enumerate(("1", "3")):
        with torch.no_grad(), probe(cnn, layer) as seen:
            cnn(STANDARD.normalise(found[layer]))
        goal = wanted[layer].flatten(1)
        distance = (seen[layer].flatten(1) - goal).norm(dim=1)
        torch.testing.assert_close(found.distance[row], distance, atol=1e-5, rtol=1e-4)
        torch.testing.assert_close(found.residual[row], distance / goal.norm(dim=1), atol=1e-5, rtol=1e-4)
        pairs = [(goal[a] - goal[b]).norm() for a in range(3) for b in range(a)]
        torch.testing.assert_close(found.error[row], distance / (sum(pairs) / 3), atol=1e-5, rtol=1e-4)


def test_reference_images_say_how_far_apart_features_are(cnn):
    one, others = photos(1, (14, 18)), photos(20, (14, 18), seed=3)
    lonely = invert(cnn, one, layer="3", steps=2)
    with pytest.raises(BadInput, match=r"reference=images"):
        _ = lonely.error
    found = invert(cnn, one, layer="3", steps=2, reference=others)
    with torch.no_grad():
        rows = cnn[:4](others).flatten(1).double()
    expected = sum((rows[a] - rows[b]).norm().item() for a in range(20) for b in range(a)) / 190
    assert math.isclose(found.spread.item(), expected, rel_tol=1e-5)


def test_the_objective_falls_and_features_come_near(cnn):
    found = invert(cnn, photos(2, (14, 18)), layer=["0", "4"], steps=40)
    assert (found.history[:, :, -1] < 0.4 * found.history[:, :, 0]).all()
    assert (found.error < 0.5).all()


def test_each_image_and_each_layer_is_inverted_for_itself(cnn):
    pixels = photos(3, (14, 18))
    together = invert(cnn, pixels, layer=["1", "3"], weight=[300, 20], steps=4, seed=5)
    for number, (layer, weight) in enumerate([("1", 300), ("3", 20)]):
        for row in range(3):
            alone = invert(cnn, pixels[row : row + 1], layer=layer, weight=weight, steps=4, seed=5 + row)
            torch.testing.assert_close(together.pixels[number, row], alone.pixels[0, 0], atol=1e-4, rtol=0)


def test_the_same_seed_gives_the_same_bits_and_nothing_else_is_random(cnn):
    before = torch.get_rng_state()
    first, second, other = (invert(cnn, photos(1, (14, 18)), layer="3", steps=6, seed=seed) for seed in (2, 2, 3))
    assert torch.equal(first.pixels, second.pixels)
    assert not torch.equal(first.pixels, other.pixels)
    assert torch.equal(before, torch.get_rng_state())


def test_a_unit_that_is_switched_off_goes_from_the_image_and_others_stay():
    pixels = 0.2 + 0.6 * photos(1)
    off = invert(identity(), pixels, layer="0", weight=1e5, steps=80, learning_rate=0.1, change=ablate([0]))["0"]
    torch.testing.assert_close(off, pixels * torch.tensor([0, 1, 1]).view(3, 1, 1), atol=0.03, rtol=0)
    assert torch.equal(only([2, 0])(pixels), pixels * torch.tensor([1, 0, 1]).view(3, 1, 1))


def test_the_mean_features_of_a_class_can_be_asked_for():
    pixels = photos(4)
    means = class_means(pixels, torch.tensor([7, 2, 7, 2]))
    torch.testing.assert_close(means, torch.stack([pixels[[1, 3]].mean(0), pixels[[0, 2]].mean(0)]))
    found = invert(
        identity(), pixels[:1], layer="0", weight=1e5, steps=80, learning_rate=0.1, change=replace(means[:1])
    )
    torch.testing.assert_close(found["0"], means[:1], atol=0.03, rtol=0)


def test_permuted_units_are_all_there_in_one_other_order():
    maps = torch.randn(2, 9, 3, 4, generator=generator(0))
    found = permuted(1)(maps)
    order = [int((found[0, :, :1, :1] == maps[0, k, 0, 0]).flatten().nonzero()) for k in range(9)]
    assert sorted(order) == list(range(9)) != order
    assert torch.equal(found[:, order], maps)
    assert torch.equal(found, permuted(1)(maps))


class Tokens(nn.Module):
    """A class token, then a grid of 3 x 2 tokens."""

    def __init__(self):
        super().__init__()
        self.embed, self.mlp, self.head = nn.Conv2d(3, 4, 2, 2), nn.Linear(4, 5), nn.Linear(5, 3)
        self.token = nn.Parameter(torch.zeros(1, 1, 4))

    def forward(self, x):
        tokens = self.embed(x).flatten(2).transpose(1, 2)
        return self.head(self.mlp(torch.cat([self.token.expand(len(x), -1, -1), tokens], 1)).mean(1))


def test_tokens_on_a_grid_are_features_like_others():
    net = Tokens().eval()
    with torch.no_grad():
        for weight in net.parameters():
            weight.copy_(torch.randn(weight.shape, generator=generator(5)))
    found = invert(net, photos(2, (6, 4)), layer="mlp", steps=40)
    assert found.layers == ("mlp",)
    assert (found.residual < 0.3).all()


@pytest.mark.parametrize("channels", [1, 5])
def test_networks_of_other_channels_and_numbers_are_inverted_too(channels):
    net = nn.Sequential(nn.Conv2d(channels, 4, 3), nn.GELU(), nn.Flatten()).eval().bfloat16()
    found = invert(net, photos(1, (7, 9), channels).bfloat16(), layer="1", steps=5)
    assert found.pixels.shape == (1, 1, channels, 7, 9)
    assert (found.history[0, :, -1] < found.history[0, :, 0]).all()
    assert "data:image/png" in draw(found)


def test_the_declared_passes_are_made_and_nothing_after_the_layer_runs(cnn):
    counts = [0, 0]

    def counted(place):
        return lambda _, inputs, output: counts.__setitem__(place, counts[place] + len(output))

    cnn[0].register_forward_hook(counted(0))
    cnn[6].register_forward_hook(counted(1))
    pixels = photos(2, (14, 18))
    for steps in (1, 7):
        counts[:] = 0, 0
        invert(cnn, pixels, layer=["1", "3"], steps=steps)
    cost = find_method("visualize.invert").price({"layer": ["1", "3"], "steps": 7}, pixels.shape)
    assert cost == (18, 14)
    assert counts == [2 * 18, 0]


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_the_callers_mode_changes_nothing(cnn, mode):
    expected = invert(cnn, photos(1, (14, 18)), steps=3)
    with mode():
        found = invert(cnn, photos(1, (14, 18)), steps=3)
    assert found.layers == ("4",)
    assert torch.equal(found.pixels, expected.pixels)


def test_the_model_comes_back_as_it_was(cnn):
    weights = {name: value.clone() for name, value in cnn.state_dict().items()}
    invert(cnn, photos(1, (14, 18)), steps=2)
    with pytest.raises(NotFound):
        invert(cnn, photos(1, (14, 18)), layer="44")
    assert all(torch.equal(value, weights[name]) for name, value in cnn.state_dict().items())
    assert all(p.grad is None and p.requires_grad for p in cnn.parameters())
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in cnn.modules())


def test_an_inversion_is_saved_and_read_again(cnn, tmp_path):
    found = invert(cnn, photos(2, (14, 18)), layer=["0", "4"], steps=2, change=ablate([1]))
    again = Inversion.load(found.save(tmp_path / "found"))
    assert torch.equal(again["4"], found["4"])
    assert again.settings == found.settings
    assert repr(again).startswith("Inversion(2 × 14×18, |Φ(x) - Φ0| / |Φ0|: 0 ")


def test_progress_is_told_over_all_layers(cnn):
    told = []
    invert(cnn, photos(1, (14, 18)), layer=["0", "3"], steps=6, progress=lambda *pair: told.append(pair))
    assert told == [(step, 12) for step in range(1, 13)]


def test_what_cannot_be_inverted_is_refused_with_advice(cnn):
    pixels = photos(2, (14, 18))
    with pytest.raises(BadInput, match=r"inputs reach from -1 to 1.*Pass preprocess="):
        invert(cnn, (2 * pixels - 1).round())
    with pytest.raises(BadInput, match="weight=\\[1, 2\\] for 1 layers"):
        invert(cnn, pixels, weight=[1, 2])
    with pytest.raises(BadInput, match="steps=0"):
        invert(cnn, pixels, steps=0)
    with pytest.raises(BadInput, match="all features asked for at layer '3' are 0"):
        invert(cnn, pixels, layer="3", change=lambda maps: 0 * maps)
    with pytest.raises(BadInput, match=r"change gave \(1, 8, 7, 9\) for features \(2, 8, 7, 9\)"):
        invert(cnn, pixels, layer="3", change=lambda maps: maps[:1])
    with pytest.raises(BadInput, match=r"units \[8\] are not in this layer. It has 0…7"):
        invert(cnn, pixels, layer="3", change=only([8]))
    with pytest.raises(BadInput, match="no layer was named"):
        invert(cnn, pixels, layer=[])
    with pytest.raises(NotFound, match=r"no layer '1' here"):
        _ = invert(cnn, pixels, layer="3", steps=1)["1"]
