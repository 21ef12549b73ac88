"""SmoothGrad against the copies that the network was really shown, and a closed form."""

import math

import pytest
import torch
from torch import nn

from glasshouse import attribute
from glasshouse.core import BadInput, NotFound


class Watched(nn.Module):
    """A network that keeps every batch it is shown; copies of it share the list."""

    shown: list[torch.Tensor] = []  # noqa: RUF012

    def __init__(self, net: nn.Module):
        super().__init__()
        self.net = net

    def forward(self, images):
        self.shown.append(images.detach().clone())
        return self.net(images)


@pytest.fixture
def watched(cnn) -> Watched:
    return Watched(cnn.double()).eval()


def copies_shown(net: Watched, images: torch.Tensor, **settings) -> torch.Tensor:
    """What `smooth` shows the network, `s n c h w`; the first samples are the images themselves."""
    attribute.smooth(net, images, 1, n_samples=1)  # so that no trial run of the private copy is counted
    net.shown.clear()
    attribute.smooth(net, images, 1, **settings)
    return torch.cat(net.shown).unflatten(0, (-1, len(images)))


@pytest.mark.parametrize("of", ["saliency", "input_x_gradient", "integrated_gradients", "grad_cam", "occlusion"])
def test_one_sample_is_the_method_itself(cnn, of):
    images = torch.randn(2, 3, 32, 34, generator=torch.Generator().manual_seed(0))
    one = attribute.smooth(cnn, images, of=of, n_samples=1, score="prob")
    assert torch.equal(one.native, getattr(attribute, of)(cnn, images, score="prob").native)
    assert torch.equal(one.heatmap, getattr(attribute, of)(cnn, images, score="prob").heatmap)
    assert (one.extras["stderr"] == 0).all()


def test_the_result_is_the_mean_over_the_copies_and_its_standard_error(watched, images):
    images = images.double()
    settings = {"n_samples": 6, "chunk": 4, "seed": 3}
    copies = copies_shown(watched, images, **settings)
    assert len(copies) == 6
    gradients = []
    for batch in copies:
        batch = batch.requires_grad_()
        gradients += torch.autograd.grad(watched.net(batch)[:, 1].sum(), batch)
    expected = torch.stack(gradients)
    found = attribute.smooth(watched, images, 1, **settings)
    torch.testing.assert_close(found.native, expected.mean(0))
    torch.testing.assert_close(found.extras["stderr"], expected.std(0) / math.sqrt(6), atol=1e-9, rtol=1e-6)


def test_noise_is_normal_and_a_share_of_each_images_range(watched, images):
    images = images.double() * torch.tensor([1.0, 3.0, 0.2]).view(3, 1, 1, 1)
    copies = copies_shown(watched, images, n_samples=41, sigma=0.2)
    assert torch.equal(copies[0], images)
    span = (images.amax((1, 2, 3)) - images.amin((1, 2, 3))).view(3, 1, 1, 1)
    unit = (copies[1:] - images) / (0.2 * span)
    count = unit[:, 0].numel()  # 40 samples of 756 values
    assert abs(unit[:, 0].mean()) < 5 / math.sqrt(count)
    assert abs(unit[:, 0].var() - 1) < 5 * math.sqrt(2 / count)
    assert abs(unit[:, 0].pow(4).mean() - 3) < 5 * math.sqrt(96 / count)
    torch.testing.assert_close(unit[:, 0], unit[:, 2], atol=1e-5, rtol=1e-5)  # the same noise for every image


class SumOfRelus(nn.Module):
    def forward(self, images):
        return images.relu().sum((1, 2, 3))[:, None]


def test_the_step_of_a_relu_becomes_a_normal_distribution_function():
    # The gradient is [x > 0]; under normal noise of width s its mean is Phi(x / s).
    images = torch.linspace(-1, 1, 20, dtype=torch.float64).view(1, 1, 4, 5)
    n = 2000
    found = attribute.smooth(SumOfRelus(), images, n_samples=n, sigma=0.25, chunk=500)
    phi = 0.5 * (1 + torch.erf(images / (0.25 * 2) / math.sqrt(2)))
    expected = phi + ((images > 0).double() - phi) / n  # one of the samples carries no noise
    error = (phi * (1 - phi) / n).sqrt()
    assert ((found.native - expected).abs() < 5 * error).all()
    assert ((found.extras["stderr"] / error - 1).abs() < 0.5).all()


def test_noise_leaves_the_gradient_of_a_linear_model_alone(images):
    net = nn.Sequential(nn.Flatten(), nn.Linear(images[0].numel(), 2)).double().eval()
    found = attribute.smooth(net, images.double(), 1, n_samples=7)
    torch.testing.assert_close(found.native, attribute.saliency(net, images.double(), 1).native)
    assert found.extras["stderr"].max() < 1e-8


def test_the_number_of_copies_per_pass_changes_nothing(cnn, images):
    whole = attribute.smooth(cnn.double(), images.double(), n_samples=5, chunk=100)
    for chunk in (1, 4):
        part = attribute.smooth(cnn, images.double(), n_samples=5, chunk=chunk)
        torch.testing.assert_close(part.native, whole.native)
        torch.testing.assert_close(part.extras["stderr"], whole.extras["stderr"])


def test_an_image_does_not_feel_its_neighbours(cnn, images):
    together = attribute.smooth(cnn.double(), images.double(), [0, 1, 2], n_samples=5)
    for i in range(3):
        alone = attribute.smooth(cnn, images[i : i + 1].double(), i, n_samples=5)
        torch.testing.assert_close(together.native[i], alone.native[0])


def test_the_seed_and_nothing_else_decides_the_noise(cnn, images):
    first, other = (attribute.smooth(cnn, images, n_samples=4, seed=seed).native for seed in (0, 1))
    torch.rand(7, generator=torch.default_generator)
    assert torch.equal(attribute.smooth(cnn, images, n_samples=4).native, first)
    assert not torch.allclose(first, other)


def test_the_class_is_that_of_the_clean_image(cnn, images):
    clean = attribute.saliency(cnn, images).target
    noisy = attribute.smooth(cnn, images, n_samples=8, sigma=2.0)
    assert noisy.target == clean
    explicit = attribute.smooth(cnn, images, list(clean), n_samples=8, sigma=2.0)
    assert torch.equal(noisy.native, explicit.native)


def test_a_method_may_be_named_or_given(cnn, images):
    named = attribute.smooth(cnn, images, of="guided_backprop", n_samples=3)
    given = attribute.smooth(cnn, images, of=attribute.guided_backprop, n_samples=3)
    assert torch.equal(named.native, given.native)
    with pytest.raises(NotFound, match=r"no method 'saliencey'.*'saliency'"):
        attribute.smooth(cnn, images, of="saliencey")
    with pytest.raises(BadInput, match="no attribution method"):
        attribute.smooth(cnn, images, of=lambda model, inputs: inputs)


@pytest.mark.parametrize("settings", [{"n_samples": 0}, {"chunk": 0}, {"sigma": -0.1}])
def test_settings_out_of_range_are_refused(cnn, images, settings):
    with pytest.raises(BadInput, match="not all in range"):
        attribute.smooth(cnn, images, **settings)
