"""Pictures of fixed amplitudes: an image's own phases give it back, and only phases ever change."""

import pytest
import torch
from torch import nn

from glasshouse.core import BadInput, generator
from glasshouse.visualize import fit_colours, fit_spectrum, neuron, phase_image, render
from glasshouse.visualize.spectra import natural_spectrum, unmix

SIZES = [(8, 8), (7, 9), (8, 5), (5, 12)]


def photographs(n=1, channels=3, size=(8, 8)):
    return 0.1 + 0.8 * torch.rand(n, channels, *size, generator=generator(3), dtype=torch.float64)


def generators(n):
    return [generator(seed) for seed in range(n)]


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("channels", [1, 3, 4])
def test_amplitudes_and_phases_of_an_image_give_it_back(size, channels):
    image = photographs(1, channels, size)
    phases = torch.fft.rfft2(unmix(image.logit(), "natural"), norm="ortho").angle()
    canvas = phase_image(fit_spectrum(image))
    torch.testing.assert_close(canvas.pixels(phases, (channels, *size)), image)


def test_colours_of_ones_own_are_taken_out_and_put_back():
    image = photographs(2, 4)
    colours = fit_colours(image)
    phases = torch.fft.rfft2(unmix(image.logit(), colours), norm="ortho").angle()
    canvas = phase_image(fit_spectrum(image[:1], colours=colours), colours=colours)
    torch.testing.assert_close(canvas.pixels(phases[:1], (4, 8, 8)), image[:1])


def test_the_fitted_spectrum_is_the_mean_amplitude():
    images = photographs(5, 1, (6, 7))
    each = [torch.fft.rfft2(image.logit(), norm="ortho").abs() for image in images]
    torch.testing.assert_close(fit_spectrum(images), sum(each) / 5)
    assert fit_spectrum(images, size=(9, 4)).shape == (1, 9, 3)
    assert fit_spectrum(torch.tensor([0.0, 1.0]).view(2, 1, 1, 1)).isfinite().all()


@pytest.mark.parametrize("size", SIZES)
def test_without_data_amplitudes_fall_with_frequency_at_a_contrast_of_one(size):
    shape = (2, *size)
    spectrum = natural_spectrum(shape, 1.0)
    assert spectrum[0, 0, 0] == 0
    assert float(spectrum[0, 0, 1] / spectrum[0, 0, 2]) == pytest.approx(2)
    noise = torch.fft.rfft2(torch.randn(400, *shape, generator=generator(0), dtype=torch.float64))
    values = torch.fft.irfft2(spectrum * noise / noise.abs(), s=size, norm="ortho")
    assert float(values.square().mean()) == pytest.approx(1, rel=1e-6)  # waves of real images keep their whole power
    torch.testing.assert_close(spectrum[0], spectrum[1])


def test_only_phases_are_free_so_the_contrast_of_every_wave_stays():
    net = nn.Sequential(nn.Conv2d(1, 1, 5), nn.Flatten()).eval()
    spectrum = fit_spectrum(photographs(1, 1, (12, 12)))
    picture = render(
        net,
        neuron("0", 0),
        image=phase_image(spectrum),
        transforms=(),
        size=12,
        channels=1,
        steps=30,
        learning_rate=0.2,
    )
    assert picture.history[0, -1] > picture.history[0, 0] + 0.1
    found = torch.fft.rfft2(picture.pixels.double().logit(), norm="ortho").abs()[0, 0]
    inner = slice(1, -1)  # waves whose mirror image is stored too, at the two ends, may cancel
    torch.testing.assert_close(found[:, inner], spectrum[0, :, inner], atol=1e-4, rtol=1e-4)
    assert (found <= spectrum[0].maximum(spectrum[0].roll(-1, 0).flip(0)) + 1e-4).all()


def test_phases_start_uniform_and_alike_alone_and_in_a_batch():
    start = phase_image().start((3, 20, 20), generators(3))
    assert torch.equal(start[2:], phase_image().start((3, 20, 20), [generator(2)]))
    assert float(start.abs().max()) <= torch.pi
    assert float(start.square().mean()) == pytest.approx(torch.pi**2 / 3, rel=0.1)


def test_a_spectrum_of_another_size_is_refused():
    with pytest.raises(BadInput, match=r"a spectrum of \(3, 8, 5\) for a picture of \(3, 9, 9\)"):
        phase_image(fit_spectrum(photographs())).pixels(torch.zeros(1, 3, 9, 5), (3, 9, 9))
