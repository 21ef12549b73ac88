"""Caricatures and accents: from where they start, what they reach, and what they come to for a linear layer."""

import pytest
import torch
from torch import nn

from glasshouse.core import BadInput, LayerNotFound, Model, Preprocess, generator
from glasshouse.visualize import jitter, logit, sphere_image, unit
from glasshouse.visualize.likeness import accentuate, caricature, photo_image


@pytest.fixture
def photos():
    return 0.1 + 0.8 * torch.rand(2, 3, 15, 18, generator=generator(1))


def test_the_caricature_of_a_linear_layer_is_the_photograph_seen_through_it_twice():
    # <W p, W x> is largest on a ball around grey where p - 1/2 points along Wᵀ W x.
    net = nn.Sequential(nn.Conv2d(3, 4, 3, bias=False), nn.Flatten()).double().eval()
    photo = torch.rand(1, 3, 6, 5, generator=generator(0), dtype=torch.float64)
    found = caricature(net, photo, layer="0", cosine_power=0, image=sphere_image(0.5), transforms=(), steps=100)
    weight = net[0].weight.detach()
    pattern = nn.functional.conv_transpose2d(nn.functional.conv2d(photo, weight), weight)
    torch.testing.assert_close(found.pixels - 0.5, 0.5 * pattern / pattern.norm(), atol=3e-3, rtol=0)


def test_the_activation_is_the_product_with_that_of_the_photograph(cnn, photos):
    picture = caricature(cnn, photos, layer="3", steps=6)
    with torch.no_grad():
        drawn, photo = cnn[:4](picture.pixels), cnn[:4](photos)
    product = (drawn * photo).sum((1, 2, 3))
    cosine = product / drawn.flatten(1).norm(dim=1) / photo.flatten(1).norm(dim=1)
    positions = photo.shape[2] * photo.shape[3]
    torch.testing.assert_close(picture.activation, product / positions * cosine.clamp(min=0.1), rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(picture.reference, photo.square().sum((1, 2, 3)) / positions, rtol=1e-4, atol=1e-6)
    assert picture.pixels.shape == photos.shape
    assert picture.labels == ("3 caricature",) * 2


def test_a_caricature_exaggerates(cnn, photos):
    picture = caricature(cnn, photos, layer="4", cosine_power=0, steps=40, transforms=())
    assert (picture.excess > 0).all()
    assert (picture.history[:, -1] > picture.history[:, 0]).all()


def test_the_photograph_is_moved_as_the_picture_is(cnn, photos):
    # A canvas that is the photograph itself: whatever the move, both are alike then, and their product is an energy.
    picture = caricature(cnn, photos, layer="0", image=photo_image(photos), steps=1, transforms=[jitter(6)], seed=3)
    moved = caricature(cnn, photos, layer="0", image=photo_image(photos), steps=1, transforms=(), seed=3)
    assert not torch.allclose(picture.history, moved.history)
    with torch.no_grad():
        energies = cnn[:1](photos).square().sum(1).flatten(1)
    assert (picture.history[:, 0] <= energies.amax(1)).all()
    assert (picture.history > 0).all()
    torch.testing.assert_close(moved.history[:, 0], energies.mean(1), rtol=1e-4, atol=0)


def test_caricatures_of_a_batch_are_those_drawn_alone_and_the_same_again(cnn, photos):
    together = caricature(cnn, photos, layer="3", steps=4, seed=5)
    for row in range(2):
        alone = caricature(cnn, photos[row : row + 1], layer="3", steps=4, seed=5 + row)
        torch.testing.assert_close(together.pixels[row : row + 1], alone.pixels, atol=1e-5, rtol=0)
    assert torch.equal(together.pixels, caricature(cnn, photos, layer="3", steps=4, seed=5).pixels)


@pytest.mark.parametrize("size", [(9, 12), (9, 11), (8, 11), (8, 12)])
def test_a_photo_image_starts_as_the_photograph(size):
    photos = torch.rand(2, 3, *size, generator=generator(0), dtype=torch.float64)
    photos[0, :, 0, 0], photos[0, :, 0, 1] = 0, 1
    canvas, shape = photo_image(photos), (3, *size)
    theta = canvas.start(shape, [generator(0), generator(1)])
    gap = (canvas.pixels(theta.double(), shape) - photos).abs()
    assert gap.max() <= 1 / 510 + 1e-9
    assert gap[1].max() <= 1 / 510 + 1e-9
    assert (gap[:, :, 2:].amax() < 1 / 510 + 1e-9).all()


def test_coarse_changes_cost_fewer_free_numbers_than_fine_ones():
    photo = torch.full((1, 1, 16, 16), 0.5)
    canvas = photo_image(photo, decay=1.5)
    for row, power in ((2, 1.0), (4, 2**-1.5), (8, 4**-1.5)):
        theta = torch.zeros(1, 1, 16, 9, 2)
        theta[0, 0, row, 0, 0] = 0.01
        change = canvas.pixels(theta, (1, 16, 16)) - photo
        if row == 2:
            first = float(change.norm())
        scale = 2**0.5 if row == 8 else 1  # the highest frequency is its own mirror image
        assert float(change.norm()) == pytest.approx(first * power * scale, rel=0.5)


def test_accents_raise_the_objective_and_a_penalty_keeps_the_photograph(cnn, photos):
    free, held = (
        accentuate(cnn, photos, unit("3", 2), penalty=p, learning_rate=0.05, steps=20, transforms=()) for p in (0, 1000)
    )
    with torch.no_grad():
        before = cnn[:4](photos)[:, 2].mean((1, 2))
    assert (held.activation > before).all()
    assert (free.activation > held.activation).all()
    moved = [(picture.pixels - photos).square().mean() for picture in (free, held)]
    assert moved[1] < 0.2 * moved[0]
    torch.testing.assert_close(held.reference, before)
    assert held.labels == ("3 unit 2",) * 2


def test_one_photograph_is_a_start_for_several_units(cnn, photos):
    picture = accentuate(cnn, photos[:1], unit("3", [1, 4, 2]), penalty=1, steps=6, transforms=())
    assert picture.pixels.shape == (3, 3, 15, 18)
    assert (picture.excess > 0).all()


def test_both_work_before_the_preprocessing(cnn, photos):
    preprocess = Preprocess(size=(15, 18), mean=(0.4, 0.5, 0.6), std=(0.2, 0.2, 0.3))
    model = Model.of(cnn, preprocess=preprocess, class_names=("a", "b", "c", "d"))
    inputs = preprocess.normalise(photos)
    accent = accentuate(model, inputs, logit("b"), steps=2)
    with torch.no_grad():
        torch.testing.assert_close(accent.activation, cnn(preprocess.normalise(accent.pixels))[:, 1])
        energy = cnn[:4](inputs).square().sum((1, 2, 3)) / cnn[:4](inputs)[0, 0].numel()
    picture = caricature(model, inputs, layer="3", steps=2)
    torch.testing.assert_close(picture.reference, energy, rtol=1e-4, atol=1e-6)


def test_what_cannot_be_drawn_is_an_error(cnn, photos):
    with pytest.raises(LayerNotFound, match="no layer '33'"):
        caricature(cnn, photos, layer="33")
    with pytest.raises(BadInput, match="steps=0"):
        caricature(cnn, photos, layer="3", steps=0)
    with pytest.raises(BadInput, match="Give one for each"):
        photo_image(photos).start((3, 15, 18), [generator(0)] * 3)
    with pytest.raises(BadInput, match="to begin"):
        photo_image(photos).start((3, 15, 15), [generator(0)] * 2)
