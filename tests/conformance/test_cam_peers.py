"""Captum 0.9.0, pytorch-grad-cam 1.5.7 and torchcam 0.5.0: agreement where they are right, and where they are not."""

import copy
import warnings
from types import ModuleType

import pytest
import torch
from einops import einsum
from torch import Tensor, nn

from conformance.architectures import fresh, pictures
from glasshouse import attribute
from glasshouse.core import Explanation, probe, resize

TARGETS = [3, 7]
ONE_PASS = {
    "grad_cam": "GradCAM",
    "grad_cam_pp": "GradCAMPlusPlus",
    "layer_cam": "LayerCAM",
    "hires_cam": "HiResCAM",
    "xgrad_cam": "XGradCAM",
    "grad_cam_elementwise": "GradCAMElementWise",
}


@pytest.fixture(scope="module")
def captum(torchvision) -> ModuleType:
    return pytest.importorskip("captum.attr")


@pytest.fixture(scope="module")
def grad_cams(torchvision) -> ModuleType:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return pytest.importorskip("pytorch_grad_cam")


@pytest.fixture(scope="module")
def torchcam(torchvision) -> ModuleType:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return pytest.importorskip("torchcam.methods")


@pytest.fixture(params=["toy", pytest.param("resnet18", marks=pytest.mark.slow)])
def net(request, torchvision) -> nn.Module:
    return fresh(request.param)


@pytest.fixture
def images() -> Tensor:
    return pictures()


def usual(net: nn.Module) -> str:
    """A layer behind a ReLU with several positions, behind which nothing is written in place."""
    return "5" if isinstance(net, nn.Sequential) else "layer3"


def stretched(maps: Tensor) -> Tensor:
    """Each map between 0 and 1, as pytorch-grad-cam gives them."""
    low, high = maps.amin((1, 2), keepdim=True), maps.amax((1, 2), keepdim=True)
    return (maps - low) / (high - low).clamp(min=1e-7)


def finished(native: Tensor, images: Tensor) -> Tensor:
    """What pytorch-grad-cam does to values on a layer's grid: nothing negative, enlarged, stretched."""
    return stretched(resize(native.relu()[:, None], images.shape[2:])[:, 0])


def library(peer: ModuleType, name: str, net: nn.Module, images: Tensor, layer: str, score=None) -> Tensor:
    """What pytorch-grad-cam answers; it changes the model, so it gets a copy."""
    theirs = copy.deepcopy(net)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        explain = getattr(peer, name)(model=theirs, target_layers=[theirs.get_submodule(layer)])
        goals = [score or (lambda y, k=k: y[k]) for k in TARGETS]
        return torch.as_tensor(explain(input_tensor=images, targets=goals))


def raw(peer: ModuleType, name: str, net: nn.Module, images: Tensor, layer: str) -> Tensor:
    """What torchcam answers, before it stretches the values; it cuts negative ones off."""
    theirs = copy.deepcopy(net)
    with getattr(peer, name)(theirs, layer) as explain:
        output = theirs(images)
        return explain(TARGETS, output, normalized=False)[0].detach()


def explained(method: str, net: nn.Module, images: Tensor, **settings) -> Explanation:
    if method in ("hires_cam", "xgrad_cam"):
        settings["relu"] = True  # as both libraries do
    return getattr(attribute, method)(net, images, TARGETS, **settings)


def agree(found: Tensor, expected: Tensor, tolerance: float) -> None:
    assert expected.abs().max() > 0
    torch.testing.assert_close(found, expected, rtol=0, atol=tolerance * float(expected.abs().max()))


@pytest.mark.parametrize("method", [name for name in ONE_PASS if name != "grad_cam_pp"])
def test_pytorch_grad_cam_after_its_stretching(grad_cams, net, images, method):
    e = explained(method, net, images, layer=usual(net))
    agree(stretched(e.heatmap), library(grad_cams, ONE_PASS[method], net, images, usual(net)), 1e-3)


@pytest.mark.parametrize(
    ("method", "name"), [("grad_cam", "GradCAM"), ("xgrad_cam", "XGradCAM"), ("layer_cam", "LayerCAM")]
)
def test_torchcam_before_its_stretching(torchcam, net, images, method, name):
    e = explained(method, net, images, layer=usual(net))
    agree(e.native, raw(torchcam, name, net, images, usual(net)), 1e-4)


@pytest.mark.parametrize("relu", [True, False])
def test_captum_with_and_without_relu(captum, net, images, relu):
    net, images = net.double(), images.double()
    peer = captum.LayerGradCam(net, net.get_submodule(usual(net)))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        expected = peer.attribute(images, target=TARGETS, relu_attributions=relu)[:, 0].detach()
    agree(attribute.grad_cam(net, images, TARGETS, layer=usual(net), relu=relu).native, expected, 1e-10)


def test_captum_guided_grad_cam(captum, images):
    net, images = fresh("toy").double(), images.double()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        peer = captum.GuidedGradCam(net, net[5])
        expected = peer.attribute(images, target=TARGETS, interpolate_mode="bilinear").detach()
    agree(attribute.guided_grad_cam(net, images, TARGETS, layer="5").native, expected, 1e-10)


def grad_cam_pp_exactly(maps: Tensor, slopes: Tensor) -> Tensor:
    """From gradients and activations behind a ReLU, in float64, with alpha = 1 / (2 + g sum A) where g > 0."""
    maps, slopes = maps.double(), slopes.double()
    alpha = torch.where(slopes > 0, 1 / (2 + slopes.clamp(min=0) * maps.sum((2, 3), keepdim=True)), 0)
    return einsum((alpha * slopes).sum((2, 3)), maps, "n k, n k i j -> n i j").relu()


def read(net: nn.Module, images: Tensor, layer: str) -> tuple[Tensor, Tensor]:
    with probe(net, layer) as seen:
        y = net(images.clone().requires_grad_())[range(2), TARGETS]
    return seen[layer].detach(), torch.autograd.grad(y.sum(), seen[layer])[0]


def test_grad_cam_pp_is_the_closed_form_which_both_libraries_miss(grad_cams, torchcam, net, images):
    layer = usual(net)
    maps, slopes = read(net, images, layer)
    expected = grad_cam_pp_exactly(maps, slopes)
    e = explained("grad_cam_pp", net, images, layer=layer)
    agree(e.native.double(), expected, 1e-5)
    # torchcam divides a copy of alpha, and so uses the square of the gradient itself.
    square = einsum((slopes**2 * slopes.relu()).sum((2, 3)), maps, "n k, n k i j -> n i j").relu()
    theirs = raw(torchcam, "GradCAMpp", net, images, layer)
    agree(theirs, square, 1e-4)
    assert (theirs - e.native).abs().max() > 0.5 * e.native.max()
    # pytorch-grad-cam adds 1e-6 to a denominator of the size of the squared gradient; larger ones do not feel it.
    theirs = library(grad_cams, "GradCAMPlusPlus", net, images, layer)
    assert (theirs - stretched(e.heatmap)).abs().max() > 5e-3
    for scale, gap in ((1e-3, 0.02), (1e3, 1e-3)):
        louder = copy.deepcopy(net)
        head = louder[-1] if isinstance(louder, nn.Sequential) else louder.fc
        head.weight.data *= scale
        gaps = library(grad_cams, "GradCAMPlusPlus", louder, images, layer)
        gaps = (gaps - stretched(explained("grad_cam_pp", louder, images, layer=layer).heatmap)).abs()
        assert gaps.max() > gap if scale < 1 else gaps.max() < gap


@pytest.mark.slow
def test_both_libraries_misread_a_layer_that_is_written_into(grad_cams, torchcam, images):
    # The norm's output becomes the end of the block: the shortcut is added in place, then ReLU works in place.
    net, layer = fresh("resnet18"), "layer4.1.bn2"
    maps, slopes = read(net, images, layer)
    expected = einsum(slopes.mean((2, 3)), maps, "n k, n k i j -> n i j").relu()
    found = attribute.grad_cam(net, images, TARGETS, layer=layer)
    agree(found.native, expected, 1e-4)
    # torchcam takes both sides of the product from the end of the block: it explains another layer.
    block = attribute.grad_cam(net, images, TARGETS, layer="layer4.1").native
    agree(raw(torchcam, "GradCAM", net, images, layer), block, 1e-4)
    assert (block - expected).abs().max() > 0.1 * expected.max()
    # pytorch-grad-cam multiplies the gradient at the norm with what the block gives.
    with probe(net, "layer4.1") as seen, torch.no_grad():
        net(images)
    mixture = einsum(slopes.mean((2, 3)), seen["layer4.1"], "n k, n k i j -> n i j")
    theirs = library(grad_cams, "GradCAM", net, images, layer)
    agree(theirs, finished(mixture, images), 1e-3)
    assert (theirs - finished(expected, images)).abs().max() > 0.1


def test_eigen_cam_is_pytorch_grad_cams_up_to_its_sign(grad_cams, net, images):
    # Its sign is whatever the decomposition gave; what is negative is cut off.
    expected = library(grad_cams, "EigenCAM", net, images, usual(net))
    native = attribute.eigen_cam(net, images, TARGETS, layer=usual(net), center=True).native
    gaps = [(finished(sign * native, images) - expected).abs().amax((1, 2)) for sign in (1, -1)]
    assert torch.minimum(*gaps).max() < 2e-3


def test_score_cam_with_masks_that_need_no_enlarging(grad_cams, torchcam, images):
    net = fresh("toy")
    e = attribute.score_cam(net, images, TARGETS, layer="2")
    agree(stretched(e.heatmap), library(grad_cams, "ScoreCAM", net, images, "2"), 1e-3)
    with torch.no_grad():
        theirs = raw(torchcam, "ScoreCAM", net, images, "2")
    agree(e.native, theirs, 1e-3)


def test_score_cam_with_masks_enlarged_from_the_middle_of_pixels(grad_cams, net, images, monkeypatch):
    # pytorch-grad-cam puts the corners of the grid onto the corners of the image, where they do not belong.
    e = attribute.score_cam(net, images, TARGETS, layer=usual(net))
    aligned = library(grad_cams, "ScoreCAM", net, images, usual(net))
    middle = lambda size: nn.Upsample(size, mode="bilinear", align_corners=False)  # noqa: E731
    monkeypatch.setattr(nn, "UpsamplingBilinear2d", middle)
    agree(stretched(e.heatmap), library(grad_cams, "ScoreCAM", net, images, usual(net)), 1e-3)
    assert (stretched(e.heatmap) - aligned).abs().max() > 2e-3


def test_ablation_cam_where_scores_are_positive_and_the_least_activation_is_0(grad_cams, net, images):
    head = net[-1] if isinstance(net, nn.Sequential) else net.fc
    head.bias.data += 10
    layer = usual(net)
    e = attribute.ablation_cam(net, images, TARGETS, layer=layer)
    assert (e.score > 0).all()
    agree(stretched(e.heatmap), library(grad_cams, "AblationCAM", net, images, layer), 2e-3)


def test_pytorch_grad_cam_turns_ablation_cam_over_where_the_score_is_negative(grad_cams, images):
    net = fresh("toy")
    with torch.no_grad():
        net[-1].bias -= 10
    expected = library(grad_cams, "AblationCAM", net, images, "5")
    e = attribute.ablation_cam(net, images, TARGETS, layer="5", relu=False)
    assert (e.score < 0).all()
    agree(finished(-e.native, images), expected, 2e-3)


def test_pytorch_grad_cam_does_not_ablate_to_0_where_activations_are_negative(grad_cams, images):
    # It writes minus ten million instead, and every weight becomes that of an explosion.
    net = fresh("toy")
    net[-1].bias.data += 10
    e = attribute.ablation_cam(net, images, TARGETS, layer="4")
    theirs = library(grad_cams, "AblationCAM", net, images, "4")
    assert (theirs - stretched(e.heatmap)).abs().max() > 0.1


def test_peers_cannot_explain_half_precision(grad_cams, torchcam, images):
    net = fresh("toy").bfloat16()
    with pytest.raises(TypeError):
        library(grad_cams, "GradCAM", net, images.bfloat16(), "5")
    assert attribute.grad_cam(net, images.bfloat16(), TARGETS, layer="5").native.isfinite().all()
