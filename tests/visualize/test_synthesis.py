"""Pictures whose best form is known, and the promises that hold for all of them."""

import gc

import pytest
import torch
from torch import Tensor, nn

from glasshouse.core import BadInput, Model, NotFound, Preprocess, find_method, generator
from glasshouse.visualize import (
    PRESETS,
    Picture,
    direction,
    diversity,
    fourier_image,
    layer_energy,
    logit,
    neuron,
    pixel_image,
    render,
    sphere_image,
    total_variation,
    unit,
)


class Patches(nn.Module):
    """A ViT in miniature, with a class token: unit 2 of `mlp` answers only to red."""

    def __init__(self):
        super().__init__()
        self.embed = nn.Conv2d(3, 6, 4, 4)
        self.token = nn.Parameter(torch.zeros(1, 1, 6))
        self.mlp = nn.Linear(6, 5)
        self.head = nn.Linear(5, 3)

    def forward(self, x):
        tokens = self.embed(x).flatten(2).transpose(1, 2)
        tokens = torch.cat([self.token.expand(len(x), -1, -1), tokens], 1)
        return self.head(self.mlp(tokens).mean(1))


class ChannelsLast(nn.Module):
    """Layers that keep units in the last axis, on a grid of 5 x 5 positions, as many as there are units."""

    def __init__(self):
        super().__init__()
        self.embed = nn.Conv2d(3, 6, 4, 4)
        self.mlp = nn.Linear(6, 5)
        self.head = nn.Linear(5, 3)

    def forward(self, x):
        return self.head(self.mlp(self.embed(x).permute(0, 2, 3, 1)).mean((1, 2)))


def planted(net):
    """Unit 2 of `mlp` is the mean red of a patch less its mean green; all else is nearly nothing."""
    with torch.no_grad():
        for weight in net.parameters():
            weight.copy_(1e-3 * torch.randn(weight.shape, generator=generator(5)))
        net.embed.weight[0, 0], net.embed.weight[0, 1] = 1 / 16, -1 / 16
        net.mlp.weight[2, 0] = 1
    return net.eval()


def sharpness(pixels):
    """Share of the power above a quarter of a cycle per pixel."""
    power = torch.fft.rfft2(pixels - pixels.mean((2, 3), keepdim=True)).abs().square()
    rows, cols = torch.fft.fftfreq(pixels.shape[2]), torch.fft.rfftfreq(pixels.shape[3])
    fine = (rows[:, None].square() + cols.square()).sqrt() > 0.25
    return float(power[..., fine].sum() / power.sum())


def test_the_best_picture_of_a_linear_filter_is_the_filter():
    net = nn.Sequential(nn.Conv2d(3, 2, 5), nn.Flatten()).double().eval()
    with torch.no_grad():
        net[0].weight.copy_(torch.randn(net[0].weight.shape, generator=generator(0)))
    picture = render(net, unit("0", [0, 1]), image=sphere_image(0.5), transforms=(), size=5, steps=250)
    pattern, w = picture.pixels - 0.5, net[0].weight.detach()
    best = 0.5 * w / w.flatten(1).norm(dim=1).view(2, 1, 1, 1)
    torch.testing.assert_close(pattern, best, atol=1e-6, rtol=0)


def test_each_picture_of_a_batch_equals_the_one_drawn_alone(cnn):
    together = render(cnn, unit("3", [3, 5, 1]), size=(18, 15), steps=20, seed=7)
    assert together.labels == ("3 unit 3", "3 unit 5", "3 unit 1")
    for row, k in enumerate((3, 5, 1)):
        alone = render(cnn, unit("3", k), size=(18, 15), steps=20, seed=7 + row)
        torch.testing.assert_close(together.pixels[row : row + 1], alone.pixels, atol=1e-5, rtol=0)
        torch.testing.assert_close(together.history[row : row + 1], alone.history, atol=1e-5, rtol=1e-4)


def test_the_same_seed_gives_the_same_bits(cnn):
    first, second = (render(cnn, unit("3", 1), size=16, steps=8, seed=3) for _ in range(2))
    assert torch.equal(first.pixels, second.pixels)
    assert torch.equal(first.history, second.history)
    assert not torch.equal(first.pixels, render(cnn, unit("3", 1), size=16, steps=8, seed=4).pixels)


@pytest.mark.parametrize("preset", PRESETS)
def test_every_preset_climbs_above_the_best_of_many_noise_images(cnn, preset):
    picture = render(cnn, unit("3", 2), preset=preset, size=24, steps=40)
    noise = torch.rand(200, 3, 24, 24, generator=generator(0))
    with torch.no_grad():
        best = cnn[:4](noise)[:, 2].mean((1, 2)).max()
    assert picture.activation > best or preset == "fel2023"  # whose contrast is fixed, below that of noise
    assert picture.history[0, -1] > picture.history[0, 0]


def test_fourier_pictures_are_smoother_than_pixel_pictures(cnn):
    pixel, fourier = (
        render(cnn, unit("0", 1), image=image, transforms=(), size=32, steps=12)
        for image in (pixel_image(), fourier_image())
    )
    assert sharpness(fourier.pixels) < 0.5 * sharpness(pixel.pixels)


def test_the_activation_is_that_of_the_picture_in_the_users_own_model(cnn):
    preprocess = Preprocess(size=(16, 20), mean=(0.4, 0.5, 0.6), std=(0.2, 0.2, 0.3))
    model = Model.of(cnn, preprocess=preprocess, class_names=("a", "b", "c", "d"))
    picture = render(model, logit(["c", 0]) - 0.001 * total_variation(), steps=5)
    assert picture.pixels.shape == (2, 3, 16, 20)
    assert picture.labels == ("class c", "class 0")
    with torch.no_grad():
        scores = cnn(preprocess.normalise(picture.pixels))
    torch.testing.assert_close(picture.activation, torch.stack([scores[0, 2], scores[1, 0]]))
    bare = render(cnn, logit([2, 0]) - 0.001 * total_variation(), steps=5, preprocess=preprocess)
    assert torch.equal(bare.pixels, picture.pixels)


@pytest.mark.parametrize("kind", [Patches, ChannelsLast])
def test_units_are_found_on_the_right_axis(kind):
    picture = render(planted(kind()), unit("mlp", 2), preset="unregularised", size=20, steps=40)
    red, green, _ = picture.pixels.mean((0, 2, 3)).tolist()
    assert red > green + 0.6
    torch.testing.assert_close(picture.activation, torch.tensor([red - green]), atol=0.02, rtol=0)


def test_one_neuron_changes_only_what_it_sees():
    net = nn.Sequential(nn.Conv2d(3, 2, 3), nn.Flatten()).eval()
    picture = render(net, neuron("0", 1, at=(2, 4)), preset="unregularised", size=12, steps=5)
    start = render(net, 0 * neuron("0", 1), preset="unregularised", size=12, steps=1)
    changed = (picture.pixels != start.pixels).any(1)[0].nonzero()
    assert changed.amin(0).tolist() == [2, 4]
    assert changed.amax(0).tolist() == [4, 6]


def test_diversity_makes_pictures_of_one_unit_differ(cnn):
    alike = render(cnn, unit("3", 2), n_images=3, preset="fourier", size=16, steps=40)
    varied = render(cnn, unit("3", 2) + 5 * diversity("3"), n_images=3, preset="fourier", size=16, steps=40)

    def similarity(picture):
        with torch.no_grad():
            flat = cnn[:4](picture.pixels).flatten(2)
        gram = (flat @ flat.mT).flatten(1)
        return float(torch.corrcoef(gram).triu(1).sum())

    assert similarity(varied) < similarity(alike) - 0.05


def test_a_unit_asleep_at_the_start_is_woken():
    net = nn.Sequential(nn.Conv2d(3, 2, 1), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(2, 2)).eval()
    with torch.no_grad():
        net[0].weight.fill_(1)
        net[0].bias.copy_(torch.tensor([-2.0, -9.0]))
    picture = render(net, unit("1", [0, 1]), preset="unregularised", size=8, steps=40)
    assert picture.activation[0] > 0.2
    assert picture.drawn.all()
    assert picture.activation[1] == 0  # more than white would be needed


def test_a_unit_cut_off_from_the_picture_is_reported():
    net = nn.Sequential(nn.Conv2d(3, 2, 1), nn.Flatten()).eval()
    with torch.no_grad():
        net[0].weight[1] = 0
    picture = render(net, unit("0", [0, 1]), size=8, steps=3)
    assert picture.drawn.tolist() == [True, False]
    assert "1 without gradient" in repr(picture)


def test_photographs_are_set_beside_the_picture(cnn, images):
    picture = render(cnn, unit("3", [1, 2]) + diversity("3"), size=16, steps=3, reference=images)
    with torch.no_grad():
        best = cnn[:4](images).mean((2, 3)).amax(0)[[1, 2]]
    torch.testing.assert_close(picture.reference, best)
    torch.testing.assert_close(picture.excess, picture.activation - best)


def test_nothing_after_the_layer_runs(cnn):
    runs = []
    cnn[6].register_forward_hook(lambda *_: runs.append(1))
    counts = []
    for steps in (2, 9):
        runs.clear()
        render(cnn, layer_energy("3"), size=15, steps=steps)
        counts.append(len(runs))
    assert counts[1] <= counts[0] <= 2


@pytest.mark.filterwarnings("ignore:the model is in training mode")
def test_a_hundred_renders_leave_no_trace_and_no_tensor(cnn):
    cnn.train()
    cnn[3].eval()
    weights = {name: value.clone() for name, value in cnn.state_dict().items()}
    modes = [module.training for module in cnn.modules()]
    random = torch.get_rng_state()
    alive: list[int] = []
    for seed in range(100):
        render(cnn, unit("3", 1) + diversity("3"), n_images=2, size=12, steps=1, seed=seed)
        if seed in (9, 99):
            gc.collect()
            alive.append(sum(type(thing) in (Tensor, nn.Parameter) for thing in gc.get_objects()))
    assert alive[1] <= alive[0]  # other tests' garbage may have gone meanwhile
    with pytest.raises(BadInput):
        render(cnn, unit("3", 99), size=12)
    assert [module.training for module in cnn.modules()] == modes
    assert not any(m._forward_hooks or m._forward_pre_hooks or m._backward_hooks for m in cnn.modules())
    assert all(p.grad is None and p.requires_grad for p in cnn.parameters())
    assert all(torch.equal(value, weights[name]) for name, value in cnn.state_dict().items())
    assert torch.equal(random, torch.get_rng_state())


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_the_callers_mode_changes_nothing(cnn, mode):
    objective = direction("3", torch.ones(8), cosine_power=1)
    expected = render(cnn, objective, size=12, steps=4)
    with mode():
        vector = torch.ones(8)
        found = render(cnn, direction("3", vector, cosine_power=1), size=12, steps=4)
    assert torch.equal(found.pixels, expected.pixels)


@pytest.mark.parametrize("channels", [1, 5])
def test_networks_of_other_channels_are_drawn_too(channels):
    net = nn.Sequential(nn.Conv2d(channels, 2, 3), nn.GELU(), nn.Flatten()).eval()
    picture = render(net, unit("1", 0), channels=channels, size=(9, 12), steps=3)
    assert picture.pixels.shape == (1, channels, 9, 12)


def test_pictures_for_half_precision_networks_are_climbed_in_single(cnn):
    picture = render(cnn.bfloat16(), unit("3", [1, 2]), preset="fourier", size=12, steps=20)
    assert picture.pixels.dtype == torch.float32
    assert (picture.history[:, -1] > picture.history[:, 0]).all()


def test_progress_is_told_every_step(cnn):
    told = []
    render(cnn, unit("3", 1), size=12, steps=3, progress=lambda done, total: told.append((done, total)))
    assert told == [(1, 3), (2, 3), (3, 3)]


def test_what_cannot_be_drawn_is_refused_with_advice(cnn):
    with pytest.raises(BadInput, match=r"no preprocessing. Pass size=224"):
        render(cnn, unit("3", 1))
    with pytest.raises(NotFound, match=r"no preset 'destill' here \(\d+ known\). Did you mean 'distill'"):
        render(cnn, unit("3", 1), preset="destill", size=12)
    with pytest.raises(NotFound, match=r"no class 'cat'"):
        render(cnn, logit("cat"), size=12)
    with pytest.raises(BadInput, match="n_images=3 for an objective of 2 pictures"):
        render(cnn, unit("3", [1, 2]), n_images=3, size=12)
    with pytest.raises(BadInput, match="steps=0"):
        render(cnn, unit("3", 1), size=12, steps=0)


def test_render_is_in_the_registry():
    info = find_method("visualize.render")
    assert info.function is render
    assert info.cost({"steps": 512}, (1, 3, 224, 224)) == (513, 512)


def test_settings_hold_every_choice(cnn):
    picture = render(cnn, unit("3", 1), size=12, steps=2)
    assert isinstance(picture, Picture)
    assert picture.settings["transforms"][:2] == ("pad(12)", "jitter(8)")
    assert picture.settings["image"] == "fourier_image(decay=1.0, std=0.01, colours=natural)"
