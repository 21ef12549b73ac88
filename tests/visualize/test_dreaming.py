"""Dreams beside a literal second version, and what holds for all of them."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from glasshouse.core import BadInput, LayerNotFound, Model, Preprocess, generator
from glasshouse.visualize import layer_energy, logit, unit
from glasshouse.visualize.composition import best_match
from glasshouse.visualize.dreaming import dream, equalised, sizes, spans


@pytest.fixture
def photos():
    return torch.rand(2, 3, 23, 30, generator=generator(1))


def test_no_steps_return_the_photographs(cnn, photos):
    picture = dream(cnn, photos, layer="3", steps=0)
    assert torch.equal(picture.pixels, photos)
    assert picture.history.shape == (2, 0)
    assert torch.equal(picture.activation, picture.reference)
    assert not picture.drawn.any()


def test_a_dream_equals_the_same_written_out_in_plain_torch(cnn, photos):
    cnn, photo = cnn.double(), photos[:1].double()
    picture = dream(cnn, photo, layer="3", octaves=2, octave_scale=1.5, steps=3, step_size=0.01, jitter=4, seed=6)
    draws, change = generator(6), torch.zeros(1, 3, 15, 20, dtype=torch.float64)
    for height, width in ((15, 20), (23, 30)):
        shrunk = (height, width) != (23, 30)
        base = F.interpolate(photo, (height, width), mode="bilinear", antialias=True) if shrunk else photo
        if change.shape[-1] != width:
            change = F.interpolate(change, (height, width), mode="bilinear")
        pixels = base + change
        for _ in range(3):
            y, x = torch.randint(-4, 5, (2,), generator=draws).tolist()
            moved = torch.roll(pixels, (y, x), (2, 3)).requires_grad_()
            (gradient,) = torch.autograd.grad(cnn[:4](moved).square().mean(), moved)
            gradient = torch.roll(gradient, (-y, -x), (2, 3))
            pixels = (pixels + 0.01 * gradient / gradient.abs().mean()).clamp(0, 1)
        change = pixels - base
    torch.testing.assert_close(picture.pixels, photo + change, atol=1e-9, rtol=0)


@pytest.mark.parametrize("settings", [{}, {"laplacian_levels": 3}, {"tile": 13}, {"octaves": 1}])
def test_the_objective_rises_at_every_octave_and_above_the_photographs(cnn, photos, settings):
    picture = dream(cnn, photos, layer="4", steps=4, jitter=3, **settings)
    climbs = picture.history.unflatten(1, (-1, 4))
    assert climbs.shape[1] == settings.get("octaves", 4)
    assert (climbs[:, :, -1] > climbs[:, :, 0]).all()
    assert (picture.excess > 0).all()
    assert picture.drawn.all()
    assert picture.pixels.shape == photos.shape
    assert picture.pixels.min() >= 0
    assert picture.pixels.max() <= 1


def test_a_step_moves_pixels_by_its_size_on_average(cnn, photos):
    photo = 0.4 + 0.2 * photos
    picture = dream(cnn, photo, layer="3", octaves=1, steps=1, step_size=0.01)
    moved = (picture.pixels - photo).abs().mean((1, 2, 3))
    torch.testing.assert_close(moved, torch.full((2,), 0.01), rtol=1e-3, atol=0)


def test_what_was_changed_at_small_sizes_is_carried_to_large_ones(cnn):
    # One position sees few pixels, so at full size only fine structure can be put in.
    photo = torch.full((1, 3, 32, 32), 0.5) + 0.02 * torch.rand(1, 3, 32, 32, generator=generator(0))
    both, last = (dream(cnn, photo, layer="3", octaves=n, octave_scale=4, steps=3, jitter=0).pixels for n in (2, 1))

    def slow(pixels):
        return float(F.avg_pool2d(pixels - photo, 8).std())

    assert slow(both) > 1.3 * slow(last)


def test_each_picture_of_a_batch_is_dreamt_as_if_alone_and_the_same_again(cnn, photos):
    together = dream(cnn, photos, layer="3", steps=2, octaves=2, seed=5)
    for row in range(2):
        alone = dream(cnn, photos[row : row + 1], layer="3", steps=2, octaves=2, seed=5 + row)
        torch.testing.assert_close(together.pixels[row : row + 1], alone.pixels, atol=1e-5, rtol=0)
    again = dream(cnn, photos, layer="3", steps=2, octaves=2, seed=5)
    assert torch.equal(together.pixels, again.pixels)
    assert not torch.equal(together.pixels, dream(cnn, photos, layer="3", steps=2, octaves=2, seed=6).pixels)


def test_tiles_of_a_local_objective_give_the_gradient_of_the_whole():
    net = nn.Sequential(nn.Conv2d(3, 4, 1), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten()).eval()
    photo = torch.rand(1, 3, 17, 12, generator=generator(2))
    whole = dream(net, photo, layer="1", octaves=1, steps=3, jitter=0)
    parts = dream(net, photo, layer="1", octaves=1, steps=3, jitter=0, tile=5)
    torch.testing.assert_close(whole.pixels, parts.pixels, atol=1e-5, rtol=0)
    torch.testing.assert_close(whole.history, parts.history)


@pytest.mark.parametrize(("length", "tile"), [(17, 5), (10, 5), (4, 9), (512, 100), (7, 1)])
def test_tiles_cover_a_side_once_and_none_is_long_or_a_sliver(length, tile):
    found = spans(length, tile)
    assert [place for first, last in found for place in range(first, last)] == list(range(length))
    lengths = [last - first for first, last in found]
    assert max(lengths) <= tile
    assert max(lengths) - min(lengths) <= 1


def test_octaves_end_at_the_size_of_the_photograph_whether_odd_or_even():
    assert sizes(torch.zeros(1, 1, 225, 100), 3, 1.5) == [(100, 44), (150, 67), (225, 100)]
    assert sizes(torch.zeros(1, 1, 3, 2), 3, 4) == [(1, 1), (1, 1), (3, 2)]


def test_bands_of_the_gradient_are_made_equally_strong_whatever_the_gradient():
    def wave(period):
        return torch.sin(2 * torch.pi * (torch.arange(96.0) + 0.5) / period).expand(1, 1, 96, 96)

    def share(gradient):
        power = torch.fft.rfft(gradient[0, 0, 48, 16:80]).abs()  # away from the border
        return float(power[16] / power[2])  # periods of 4 and of 32 pixels

    faint, strong = wave(4) + 8 * wave(32), wave(4) + wave(32)
    assert share(equalised(faint, 4)) > 2.5 * share(faint)
    assert share(equalised(faint, 4)) > 0.3 * share(equalised(strong, 4))
    assert equalised(faint, 0) is faint
    assert not equalised(0 * faint, 4).any()
    assert equalised(torch.randn(2, 3, 7, 5, generator=generator(0)), 9).isfinite().all()


def test_a_guide_of_its_own_layer_pulls_towards_what_the_guide_shows(cnn, photos):
    red = torch.zeros(1, 3, 12, 12)
    red[:, 0] = 1
    guided = dream(cnn, photos, layer="0", guide=red, octaves=2, steps=6, jitter=2)
    plain = dream(cnn, photos, layer="0", octaves=2, steps=6, jitter=2)
    with torch.no_grad():
        goal = best_match("0", cnn[:1](red))
    assert guided.objective == repr(goal)
    assert (guided.excess > 0).all()

    def match(pixels):
        with torch.no_grad():
            return torch.einsum("nkij,kq->nijq", cnn[:1](pixels), cnn[:1](red)[0].flatten(1)).amax(3).mean((1, 2))

    torch.testing.assert_close(guided.activation, match(guided.pixels))
    assert (match(guided.pixels) > match(plain.pixels)).all()


def test_any_objective_can_be_dreamt_of_in_pixels_before_the_preprocessing(cnn, photos):
    preprocess = Preprocess(size=(23, 30), mean=(0.4, 0.5, 0.6), std=(0.2, 0.2, 0.3))
    model = Model.of(cnn, preprocess=preprocess, class_names=("a", "b", "c", "d"))
    inputs = preprocess.normalise(photos)
    picture = dream(model, inputs, objective=logit("c") + 0.1 * unit("3", 1), octaves=2, steps=3)
    with torch.no_grad():
        shown = preprocess.normalise(picture.pixels)
        expected = cnn(shown)[:, 2] + 0.1 * cnn[:4](shown)[:, 1].mean((1, 2))
    torch.testing.assert_close(picture.activation, expected)
    still = dream(model, inputs, layer="3", steps=0)
    torch.testing.assert_close(still.pixels, photos)


@pytest.mark.parametrize("channels", [1, 5])
def test_photographs_may_have_any_number_of_channels_and_be_tiny(channels):
    net = nn.Sequential(nn.Conv2d(channels, 2, 3, padding=1), nn.Flatten()).eval()
    photo = torch.rand(1, channels, 7, 2, generator=generator(0))
    picture = dream(net, photo, layer="0", steps=2)
    assert picture.pixels.shape == photo.shape
    assert (picture.excess > 0).all()


def test_values_outside_of_pixels_are_kept_when_nothing_is_known_of_them(cnn):
    inputs = 3 * torch.randn(1, 3, 12, 12, generator=generator(0))
    assert torch.equal(dream(cnn, inputs, layer="0", steps=0).pixels, inputs)
    assert float(dream(cnn, inputs, layer="0", octaves=1, steps=2).pixels.abs().max()) <= float(inputs.abs().max())


@pytest.mark.parametrize(
    ("settings", "error", "message"),
    [
        ({}, BadInput, "needs a layer"),
        ({"layer": "3", "objective": layer_energy("3")}, BadInput, "needs a layer"),
        ({"objective": layer_energy("3"), "guide": torch.rand(1, 3, 8, 8)}, BadInput, "guide is compared in a layer"),
        ({"layer": "3", "octaves": 0}, BadInput, "octaves=0"),
        ({"layer": "3", "octave_scale": 1.0}, BadInput, "above 1"),
        ({"layer": "3", "tile": 0}, BadInput, "tile=0"),
        ({"layer": "3", "steps": -1}, BadInput, "steps=-1"),
        ({"layer": "33"}, LayerNotFound, "no layer '33'"),
        ({"objective": unit("3", [0, 1, 2])}, BadInput, "3 pictures"),
    ],
)
def test_what_makes_no_dream_is_an_error(cnn, photos, settings, error, message):
    with pytest.raises(error, match=message):
        dream(cnn, photos, **settings)


def test_progress_counts_all_steps(cnn, photos):
    told = []
    dream(cnn, photos, layer="0", octaves=3, steps=2, progress=lambda done, total: told.append((done, total)))
    assert told == [(step, 6) for step in range(1, 7)]
