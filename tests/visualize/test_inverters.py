"""Inverters of layers that keep everything or nothing, and trainings that are stopped and go on."""

import math

import pytest
import torch
from torch import nn

from glasshouse.core import BadInput, Model, Preprocess, ablate, find_method, generator, resize
from glasshouse.visualize import Inverter, invert, train_inverter
from glasshouse.visualize import inverter_training as training
from glasshouse.visualize.inverters import decoder, stairs


def photos(n, size=(12, 12), channels=3, seed=0):
    return resize(torch.rand(n, channels, 3, 3, generator=generator(seed)), size)


def blind():
    """A network whose layer `0` is the image and whose layer `1` is the same for every image."""
    net = nn.Sequential(nn.Conv2d(3, 3, 1, bias=False), nn.Conv2d(3, 2, 1), nn.Flatten(), nn.Linear(288, 2)).eval()
    with torch.no_grad():
        net[0].weight.copy_(torch.eye(3)[:, :, None, None])
        net[1].weight.zero_()
    return net


class Stopped(Exception):
    pass


def stop_at(step):
    def told(done, total):
        if done == step:
            raise Stopped

    return told


def test_features_that_are_the_image_are_drawn_at_more_than_30_decibels():
    found = train_inverter(blind(), photos(64), layer="0", steps=400, batch_size=8, learning_rate=6e-3, width=16)
    found = found.measured(blind(), photos(32, seed=1))
    assert found.psnr.mean() > 30
    assert found.error.mean() < 0.1


def test_features_that_say_nothing_are_drawn_as_the_mean_image():
    net, pixels = blind(), photos(64)
    found = train_inverter(net, pixels, layer="1", steps=120, batch_size=32, learning_rate=4e-3, width=16)
    drawn = found.through(net, pixels[:2])
    assert torch.equal(drawn[0], drawn[1])
    least = (pixels - pixels.mean(0)).square().mean()  # no one drawing for all images has a smaller error
    reached = found.measured(net, pixels).squares.mean()
    assert least <= reached < 1.1 * least


def test_a_stopped_training_goes_on_to_the_same_bits(cnn, tmp_path, monkeypatch):
    monkeypatch.setattr(training, "SAVE_EVERY", 3)
    pixels = photos(20)
    options = {"layer": "1", "steps": 8, "batch_size": 8, "width": 16, "seed": 3}
    whole = train_inverter(cnn, pixels, **options)
    with pytest.raises(Stopped):
        train_inverter(cnn, pixels, **options, into=tmp_path, progress=stop_at(5))
    told = []
    resumed = train_inverter(cnn, pixels, **options, into=tmp_path, progress=lambda *pair: told.append(pair))
    assert told == [(step, 8) for step in range(4, 9)]  # the first three steps were kept
    assert torch.equal(resumed.loss, whole.loss)
    assert all(torch.equal(resumed.weights[name], value) for name, value in whole.weights.items())
    again = train_inverter(cnn, pixels, **options, into=tmp_path, progress=stop_at(1))  # nothing is left to do
    assert torch.equal(again.loss, whole.loss)
    with pytest.raises(BadInput, match=r"holds another training.*Use another folder"):
        train_inverter(cnn, pixels, **{**options, "seed": 4}, into=tmp_path)
    with torch.no_grad():
        cnn[0].weight.mul_(1.01)
    with pytest.raises(BadInput, match="holds another training"):
        train_inverter(cnn, pixels, **options, into=tmp_path)


def test_the_seed_decides_everything_and_nothing_else_is_random(cnn):
    before = torch.get_rng_state()
    first, second, other = (
        train_inverter(cnn, photos(10), layer="4", steps=3, batch_size=4, width=16, seed=seed) for seed in (1, 1, 2)
    )
    assert torch.equal(before, torch.get_rng_state())
    assert all(torch.equal(first.weights[name], value) for name, value in second.weights.items())
    assert not torch.equal(first.loss, other.loss)


def test_batches_hold_each_image_once_a_round_and_go_on_from_any_step():
    def take(n, first=0):
        batches = training.orders(10, 4, seed=7, first=first)
        return [next(batches).tolist() for _ in range(n)]

    rounds = take(6)
    assert [len(batch) for batch in rounds] == [4, 4, 2, 4, 4, 2]
    assert all(sorted(row for batch in lap for row in batch) == list(range(10)) for lap in (rounds[:3], rounds[3:]))
    assert rounds[:3] != rounds[3:]
    assert all(take(6 - first, first) == rounds[first:] for first in range(6))


@pytest.mark.parametrize(
    ("grid", "size", "steps"),
    [
        ((8, 8), (64, 64), [(8, 8), (16, 16), (32, 32), (64, 64)]),
        ((7, 9), (14, 18), [(7, 9), (14, 18)]),
        ((13, 13), (227, 227), [(15, 15), (29, 29), (57, 57), (114, 114), (227, 227)]),
        ((12, 12), (12, 12), [(12, 12)]),
        ((1, 1), (26, 18), [(7, 5), (13, 9), (26, 18)]),
        ((1, 1), (2, 3), [(2, 3)]),
        ((16, 16), (10, 12), [(10, 12)]),
        ((1, 6), (1, 24), [(1, 6), (1, 12), (1, 24)]),
    ],
)
def test_the_picture_grows_by_doubling_to_its_very_size(grid, size, steps):
    assert stairs(grid, size) == steps
    net = decoder(5, grid, (2, *size), 32, "cpu").begin(torch.randn(3, 5, *grid), torch.rand(3, 2, *size), 0)
    assert net(torch.randn(3, 5, *grid)).shape == (3, 2, *size)


def test_first_weights_draw_near_the_mean_colour():
    maps, pixels = 50 + 9 * torch.randn(20, 6, 4, 4, generator=generator(0)), photos(20, (16, 16))
    net = decoder(6, (4, 4), (3, 16, 16), 64, "cpu").begin(maps, pixels, 0)
    with torch.no_grad():
        drawn = net(maps)
    torch.testing.assert_close(drawn.mean((0, 2, 3)), pixels.mean((0, 2, 3)), atol=0.1, rtol=0)
    assert 0.01 < drawn.std() < 0.3


def test_errors_are_distances_over_the_mean_distance_of_two_images(cnn):
    scaled = Preprocess(size=(12, 12), mean=(0.4, 0.5, 0.6), std=(0.2, 0.3, 0.2))
    model, pixels = Model.of(cnn, preprocess=scaled), photos(9)
    inputs = scaled.normalise(pixels)
    found = train_inverter(model, inputs, layer="3", steps=2, batch_size=4, width=16)
    with torch.no_grad():
        drawn = found.reconstruct(cnn[:4](inputs)).double()
    wrong = [(drawn[row] - pixels[row]).norm().item() for row in range(9)]
    apart = [(pixels[a].double() - pixels[b]).norm().item() for a in range(9) for b in range(a)]
    expected = torch.tensor([one / (sum(apart) / 36) for one in wrong])
    measured = found.measured(model, inputs, batch_size=4)
    torch.testing.assert_close(measured.error, expected, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(measured.psnr, torch.tensor([-20 * math.log10(one / math.sqrt(432)) for one in wrong]))
    bare = train_inverter(cnn, inputs, layer="3", steps=2, batch_size=4, width=16, preprocess=scaled)
    assert torch.equal(bare.loss, found.loss)
    torch.testing.assert_close(bare.measured(cnn, inputs, preprocess=scaled).squares, measured.squares)


def test_the_loss_is_the_mean_squared_error_of_the_first_drawings(cnn):
    pixels = photos(6)
    found = train_inverter(cnn, pixels, layer="1", steps=1, batch_size=6, width=16, seed=2)
    with torch.no_grad():
        maps = cnn[:2](pixels)
        drawn = decoder(6, (12, 12), (3, 12, 12), 16, "cpu").begin(maps, pixels, 2)(maps)
    torch.testing.assert_close(found.loss[0], (drawn - pixels).square().mean(), atol=1e-4, rtol=1e-3)


@pytest.mark.parametrize("layer", ["2", "5", "6", "7", None])
def test_an_inverter_is_saved_and_draws_the_same(cnn, layer, tmp_path):
    pixels = photos(5, (12, 18))
    found = train_inverter(cnn, pixels, layer=layer, steps=1, batch_size=5, width=16)
    again = Inverter.load(found.save(tmp_path / "inverter"))
    drawn = again.through(cnn, pixels, ablate([1]))
    assert drawn.shape == pixels.shape
    assert 0 <= drawn.min() <= drawn.max() <= 1
    maps = again.maps(cnn, pixels)
    assert torch.equal(drawn, found.reconstruct(ablate([1])(maps)))
    assert repr(again).startswith(f"Inverter({layer or '4'}, {maps.shape[1]} units on")


@pytest.mark.parametrize("form", ["tuple", "dict", "list"])
def test_data_of_every_form_are_read_alike(cnn, form):
    pixels = photos(6)
    forms = {
        "tuple": [(image, 3) for image in pixels],
        "dict": [{"image": image} for image in pixels],
        "list": list(pixels),
    }
    expected = train_inverter(cnn, pixels, steps=2, batch_size=4, width=16)
    found = train_inverter(cnn, forms[form], steps=2, batch_size=4, width=16)
    assert torch.equal(found.loss, expected.loss)
    assert torch.equal(found.measured(cnn, forms[form]).squares, expected.measured(cnn, pixels).squares)


def test_the_callers_mode_and_model_change_nothing(cnn):
    expected = train_inverter(cnn, photos(4), steps=2, batch_size=4, width=16)
    weights = {name: value.clone() for name, value in cnn.state_dict().items()}
    with torch.inference_mode():
        found = train_inverter(cnn, photos(4), steps=2, batch_size=4, width=16)
        assert torch.equal(found.loss, expected.loss)
        found.through(cnn, photos(2))
    assert all(torch.equal(value, weights[name]) for name, value in cnn.state_dict().items())
    assert all(p.grad is None and p.requires_grad for p in cnn.parameters())


def test_what_cannot_be_trained_is_refused_with_advice(cnn):
    with pytest.raises(BadInput, match="the data set is empty"):
        train_inverter(cnn, photos(4)[:0])
    with pytest.raises(BadInput, match="steps=0"):
        train_inverter(cnn, photos(4), steps=0)
    with pytest.raises(BadInput, match=r"item [01] of the data set holds \(3, .* like the others"):
        train_inverter(cnn, [photos(1)[0], photos(1, (6, 6))[0]], seed=1)
    with pytest.raises(BadInput, match="so they are not pixels"):
        train_inverter(cnn, photos(4) - 1)
    found = train_inverter(cnn, photos(4), steps=1, batch_size=4, width=16)
    with pytest.raises(BadInput, match=r"inverter.measured\(model, others\)"):
        _ = found.error
    with pytest.raises(BadInput, match=r"features of shape \(1, 8, 5, 5\) for an inverter of 8 units on \(6, 6\)"):
        found.reconstruct(torch.zeros(1, 8, 5, 5))


def test_both_are_in_the_registry():
    assert find_method("visualize.train_inverter").function is train_inverter
    assert find_method("visualize.invert").function is invert
