"""Priors on images whose distribution is known: what they can draw, and what they learn."""

import math
from dataclasses import replace

import pytest
import torch

from glasshouse import zoo
from glasshouse.core import BadInput, Preprocess, generator
from glasshouse.core.generative import Generator
from glasshouse.visualize import render, unit
from glasshouse.visualize.prior_training import blank, loss, start
from glasshouse.visualize.priors import LearnedPrior, generator_image, in_ball, prior_image, train_prior

SETTINGS = {"n_codes": 3, "units": (6, 8), "batch_size": 8, "learning_rate": 0.01}


def discs(n, shape=(3, 16, 16), seed=0):
    """White discs on grey, of one size, anywhere: two numbers say which."""
    _, height, width = shape
    places = 4 + 8 * torch.rand(n, 2, generator=generator(seed))
    y, x = torch.arange(height).view(1, -1, 1), torch.arange(width).view(1, 1, -1)
    distance = ((y - places[:, :1, None]) ** 2 + (x - places[:, 1:, None]) ** 2).sqrt()
    return (0.25 + 0.5 * (4 - distance).clamp(0, 1))[:, None].expand(n, *shape).contiguous()


def untrained():
    net = blank((3, 16, 16), 3, (4, 6))
    start(net, 0)
    return net


@pytest.fixture(scope="module")
def images():
    return discs(64)


@pytest.fixture(scope="module", params=["vae", "denoising"])
def prior(request, images):
    return train_prior(images, kind=request.param, n_steps=120, **SETTINGS)


def test_a_prior_learns_to_draw_what_it_was_shown(prior, images):
    assert prior.loss[-20:].mean() < prior.loss[:20].mean()
    assert prior.error < 0.6
    held_out = discs(16, seed=9)
    again = prior.decode(prior.encode(held_out))
    assert (again - held_out).square().mean() < 0.6 * (held_out - images.mean(0)).square().mean()


def test_the_error_and_the_spread_of_codes_are_those_of_the_images(prior, images):
    codes = prior.encode(images)
    lost = (prior.decode(codes) - images).square().sum() / (images - images.mean(0)).square().sum()
    assert prior.error == pytest.approx(float(lost), rel=1e-4)
    torch.testing.assert_close(prior.mean, codes.mean(0), atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(prior.std, codes.std(0, correction=0), atol=1e-5, rtol=1e-4)


def test_the_loss_of_a_vae_is_the_bound_with_the_best_noise_level(images):
    net = untrained()
    with torch.no_grad():
        value = loss(net, "vae", images[:5], 0.0, generator(3))
        mean, log_variance = net.encode(images[:5])
        codes = mean + log_variance.exp().sqrt() * torch.randn(5, 3, generator=generator(3))
        error = (net.draw(codes) - images[:5]).square()
    d = 3 * 16 * 16
    best = None
    for sigma in torch.linspace(0.02, 0.6, 400).tolist():  # of a Gaussian decoder, without constants
        bound = float(error.sum()) / 5 / (2 * sigma**2) + d * math.log(sigma) - d / 2
        best = bound if best is None else min(best, bound)
    divergence = 0.0
    for row in range(5):
        for m, s in zip(mean[row].tolist(), log_variance[row].tolist(), strict=True):
            divergence += (m * m + math.exp(s) - 1 - s) / 2 / 5
    assert float(value) * d == pytest.approx(best + divergence, rel=1e-3, abs=0.1)


def test_the_loss_of_a_denoiser_is_against_the_clean_image(images):
    net = untrained()
    noisy = images[:5] + 0.3 * torch.randn(5, 3, 16, 16, generator=generator(3))
    expected = (net.draw(net.code(noisy)) - images[:5]).square().mean()
    torch.testing.assert_close(loss(net, "denoising", images[:5], 0.3, generator(3)), expected)


@pytest.mark.parametrize("kind", ["vae", "denoising"])
def test_a_training_that_was_stopped_goes_on_to_the_same_bits(kind, images, tmp_path, monkeypatch):
    monkeypatch.setattr("glasshouse.visualize.prior_training.SAVE_EVERY", 4)

    def stop(done, total):
        if done == 6:
            raise KeyboardInterrupt

    whole = train_prior(images, kind=kind, n_steps=10, seed=4, **SETTINGS)
    with pytest.raises(KeyboardInterrupt):
        train_prior(images, kind=kind, n_steps=10, seed=4, into=tmp_path, progress=stop, **SETTINGS)
    told = []
    resumed = train_prior(
        images, kind=kind, n_steps=10, seed=4, into=tmp_path, progress=lambda done, _: told.append(done), **SETTINGS
    )
    assert told[0] == 5
    assert torch.equal(whole.loss, resumed.loss)
    assert all(torch.equal(whole.weights[name], resumed.weights[name]) for name in whole.weights)
    with pytest.raises(BadInput, match="another training"):
        train_prior(images, kind=kind, n_steps=10, seed=5, into=tmp_path, **SETTINGS)


def test_the_global_random_state_is_not_touched(images):
    before = torch.random.get_rng_state()
    train_prior(images, n_steps=2, **SETTINGS)
    assert torch.equal(before, torch.random.get_rng_state())


def test_a_prior_is_saved_and_loaded(prior, tmp_path):
    again = LearnedPrior.load(prior.save(tmp_path / "prior.safetensors"))
    assert torch.equal(again.sample(2, seed=1), prior.sample(2, seed=1))
    assert repr(again) == repr(prior)


def test_pictures_through_a_prior_are_drawn_by_its_decoder(prior, cnn):
    objective = unit("3", [1, 2])
    picture = render(cnn, objective, image=prior_image(prior), transforms=(), size=16, steps=12)
    assert (picture.history[:, -1] > picture.history[:, 0]).all()
    assert picture.drawn.all()
    # In the ball of codes there are no other pictures than these.
    theta = torch.randn(400, 3, generator=generator(0))
    codes = prior.mean + prior.std * in_ball(theta, math.sqrt(3))
    assert picture.pixels.amax() <= prior.decode(codes).amax() + 0.1
    free = render(cnn, objective, transforms=(), size=16, steps=12)
    assert (free.activation > picture.activation).all()


@pytest.mark.parametrize("size", [(16, 16), (21, 9)])
def test_pictures_through_a_prior_have_the_size_asked_for(prior, cnn, size):
    picture = render(cnn, unit("3", 1), image=prior_image(prior), size=size, steps=2)
    assert picture.pixels.shape == (1, 3, *size)


@pytest.mark.parametrize("shape", [(1, 9, 7), (5, 16, 10)])
def test_images_of_any_size_and_number_of_channels(shape):
    data = torch.rand(6, *shape, generator=generator(0))
    prior = train_prior(data, n_steps=2, n_codes=2, units=(3, 4), batch_size=2)
    assert prior.sample(2).shape == (2, *shape)


def test_inputs_of_a_model_are_turned_into_pixels_first(images):
    preprocess = Preprocess(size=(16, 16), mean=(0.4, 0.5, 0.6), std=(0.2, 0.2, 0.3))
    inputs = [{"image": one, "target": 0} for one in preprocess.normalise(images)]
    first = train_prior(images, n_steps=3, **SETTINGS)
    second = train_prior(inputs, n_steps=3, preprocess=preprocess, **SETTINGS)
    torch.testing.assert_close(first.loss, second.loss, atol=1e-4, rtol=1e-4)
    with pytest.raises(BadInput, match="not pixels"):
        train_prior(inputs, n_steps=3, **SETTINGS)


def test_long_rows_are_shortened_and_others_kept():
    rows = torch.tensor([[3.0, 4.0], [0.3, 0.4], [0.0, 0.0]])
    torch.testing.assert_close(in_ball(rows, 1.0), torch.tensor([[0.6, 0.8], [0.3, 0.4], [0.0, 0.0]]))


@pytest.fixture(scope="module")
def gan():
    return Generator.of(zoo.load("houses_gan").module, name="houses_gan")


def test_a_generators_picture_is_what_it_draws_of_a_latent_in_the_ball(gan):
    canvas = generator_image(gan, radius=0.8)
    theta = 2 * canvas.start((3, 32, 32), [generator(0), generator(1)])
    z = theta / theta.norm(dim=1, keepdim=True) * 0.8 * math.sqrt(gan.spec.z_dim)
    with torch.no_grad():
        expected = gan.module(z) / 2 + 0.5
        side = gan.spec.resolution
        torch.testing.assert_close(canvas.pixels(theta, (3, side, side)), expected, atol=1e-5, rtol=0)
        assert canvas.pixels(theta, (3, 20, 31)).shape == (2, 3, 20, 31)


def test_a_generators_latent_climbs_and_the_generator_is_left_alone(gan, cnn):
    before = {name: value.clone() for name, value in gan.module.state_dict().items()}
    picture = render(cnn, unit("3", [1, 2]), image=generator_image(gan), transforms=(), size=32, steps=6)
    assert (picture.history[:, -1] > picture.history[:, 0]).all()
    assert all(torch.equal(before[name], value) for name, value in gan.module.state_dict().items())
    assert all(weight.grad is None for weight in gan.module.parameters())


def test_uniform_latents_are_clipped_to_their_range(gan, monkeypatch):
    monkeypatch.setattr(gan.module, "spec", replace(gan.spec, prior="uniform"))
    canvas = generator_image(gan)
    theta, side = canvas.start((3, 8, 8), [generator(0)]), gan.spec.resolution
    assert -1 <= float(theta.min()) < 0 < float(theta.max()) <= 1
    with torch.no_grad():
        expected = gan.module((3 * theta).clamp(-1, 1)) / 2 + 0.5
        torch.testing.assert_close(canvas.pixels(3 * theta, (3, side, side)), expected, atol=1e-5, rtol=0)


def test_what_cannot_be_a_prior_is_an_error(gan, prior, images):
    with pytest.raises(BadInput, match="radius 0"):
        prior_image(prior, radius=0)
    with pytest.raises(BadInput, match="3 channels, and the picture has 1"):
        generator_image(gan).start((1, 8, 8), [generator(0)])
    with pytest.raises(BadInput, match="train nothing"):
        train_prior(images, n_steps=0)
    with pytest.raises(BadInput, match="train nothing"):
        train_prior([])
    with pytest.raises(BadInput, match="holds a str"):
        train_prior(["a.png"])
