"""Captum 0.9.0 in float64: agreement where it is right, and the place where it is not."""

import warnings
from types import ModuleType

import pytest
import torch
from torch import Tensor, nn

from conformance.architectures import Residual, fresh, pictures
from glasshouse import attribute

TARGETS = [3, 7]


@pytest.fixture(scope="module")
def captum(torchvision) -> ModuleType:
    return pytest.importorskip("captum.attr")


@pytest.fixture(scope="module", params=["sequential", pytest.param("resnet18", marks=pytest.mark.slow)])
def net(request, torchvision) -> nn.Module:
    return fresh("toy" if request.param == "sequential" else "resnet18").double()


@pytest.fixture(scope="module")
def images() -> Tensor:
    return pictures().double()


def theirs(explainer, *args, **settings) -> Tensor:
    """Captum's answer; it warns about gradients it switches on and hooks it sets."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return explainer.attribute(*args, target=TARGETS, **settings).detach()


def agree(found: Tensor, expected: Tensor, tolerance: float = 1e-8) -> None:
    assert found.dtype == torch.float64
    assert expected.abs().max() > 0
    torch.testing.assert_close(found, expected.double(), rtol=0, atol=tolerance * float(expected.abs().max()))


def usual(net: nn.Module) -> str:
    return "5" if isinstance(net, nn.Sequential) else "layer4"


def test_saliency(captum, net, images):
    e = attribute.saliency(net, images, TARGETS)
    agree(e.native, theirs(captum.Saliency(net), images, abs=False))
    strongest = theirs(captum.Saliency(net), images).amax(1)
    torch.testing.assert_close(e.heatmap.double(), strongest, rtol=1e-6, atol=1e-9)


def test_input_x_gradient(captum, net, images):
    agree(attribute.input_x_gradient(net, images, TARGETS).native, theirs(captum.InputXGradient(net), images))


def test_integrated_gradients(captum, net, images):
    settings = {"n_steps": 20, "baselines": 0.7}
    expected = theirs(
        captum.IntegratedGradients(net), images, method="gausslegendre", internal_batch_size=20, **settings
    )
    agree(attribute.integrated_gradients(net, images, TARGETS, **settings).native, expected, 1e-7)


def test_guided_backprop(captum, net, images):
    agree(attribute.guided_backprop(net, images, TARGETS).native, theirs(captum.GuidedBackprop(net), images))


def test_deconvnet(captum, net, images):
    agree(attribute.deconvnet(net, images, TARGETS).native, theirs(captum.Deconvolution(net), images))


def test_grad_cam(captum, net, images):
    e = attribute.grad_cam(net, images, TARGETS)
    assert e.layer == usual(net)
    layer = net.get_submodule(e.layer)
    agree(e.native, theirs(captum.LayerGradCam(net, layer), images, relu_attributions=True)[:, 0])


@pytest.mark.slow
def test_grad_cam_of_a_layer_that_is_overwritten(captum, torchvision, images):
    # The block adds its input to the norm's output in place, then applies ReLU in place: who keeps the tensor
    # that the layer gave out reads the end of the block instead.
    net = fresh("resnet18").double()
    expected = theirs(captum.LayerGradCam(net, net.layer4[1].bn2), images, relu_attributions=True)[:, 0]
    agree(attribute.grad_cam(net, images, TARGETS, layer="layer4.1.bn2").native, expected)
    block = attribute.grad_cam(net, images, TARGETS, layer="layer4.1").native
    assert not torch.allclose(block, expected)


@pytest.mark.parametrize(("window", "stride"), [((16, 24), (16, 12)), ((20, 20), (15, 15))])
def test_occlusion(captum, net, images, window, stride):
    expected = theirs(
        captum.Occlusion(net),
        images,
        sliding_window_shapes=(3, *window),
        strides=(3, *stride),
        baselines=0.5,
        perturbations_per_eval=4,
    )
    e = attribute.occlusion(
        net, images, TARGETS, sliding_window_shapes=window, strides=stride, baselines=0.5, score="logit"
    )
    agree(e.native.expand_as(expected), expected, tolerance=1e-6)  # Captum answers in float32


def test_smooth_without_noise(captum, net, images):
    # Captum's noise comes from the global generator, so the samples themselves cannot be compared.
    tunnel = captum.NoiseTunnel(captum.Saliency(net))
    expected = theirs(tunnel, images, nt_samples=1, stdevs=0.0, abs=False)
    agree(attribute.smooth(net, images, TARGETS, n_samples=1).native, expected)
    agree(attribute.smooth(net, images, TARGETS, n_samples=3, sigma=0.0).native, expected)


class Functional(nn.Module):
    """Another network's weights, its ReLUs written as functions."""

    def __init__(self, net: nn.Sequential):
        super().__init__()
        self.parts = nn.ModuleList(part for part in net if not isinstance(part, nn.ReLU))

    def forward(self, images: Tensor) -> Tensor:
        conv1, norm, pool, conv2, *head = self.parts
        x = torch.relu(conv2(pool(torch.relu(norm(conv1(images))))))
        for part in head:
            x = part(x)
        return x


@pytest.mark.parametrize("name", ["GuidedBackprop", "Deconvolution"])
def test_captum_does_not_see_functional_relu_and_answers_with_the_plain_gradient(captum, images, name):
    modules = fresh("toy").double()
    functional = Functional(modules).eval()
    plain = attribute.saliency(modules, images, TARGETS).native
    agree(theirs(getattr(captum, name)(functional), images), plain)
    ours = {"GuidedBackprop": attribute.guided_backprop, "Deconvolution": attribute.deconvnet}[name]
    expected = theirs(getattr(captum, name)(modules), images)
    agree(ours(functional, images, TARGETS).native, expected)
    assert not torch.allclose(expected, plain)


def test_captum_misses_the_functional_relu_of_a_residual_net_too(captum, images):
    net = Residual().double().eval()
    found = attribute.guided_backprop(net, images, TARGETS).native
    mixture = theirs(captum.GuidedBackprop(net), images)  # guided at the module's runs, plain at the stem
    assert not torch.allclose(found, mixture)
    net.stem = nn.Sequential(net.stem, nn.ReLU())  # F.relu of what is positive already changes nothing
    agree(attribute.guided_backprop(net, images, TARGETS).native, found)
    agree(found, theirs(captum.GuidedBackprop(net), images))
