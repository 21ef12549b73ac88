"""TorchRay, by the authors of extremal perturbations: agreement, and three places where it is not to be followed."""

import copy
import warnings
from types import ModuleType
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from conformance.architectures import fresh, pictures
from glasshouse import attribute
from glasshouse.attribute import extremal
from glasshouse.attribute.areas import climb
from glasshouse.attribute.pyramids import at_level, blur_into_zero, pyramid
from glasshouse.attribute.smooth_masks import draw_masks, inside, lattice
from glasshouse.core import blur

AREAS = (0.03, 0.1)


@pytest.fixture(scope="module")
def torchray(torchvision: ModuleType) -> ModuleType:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return pytest.importorskip("torchray.attribution.extremal_perturbation")


@pytest.fixture(scope="module")
def image() -> Tensor:
    smooth = blur(pictures(1), 4.0)
    return smooth / smooth.std()


def theirs(torchray: ModuleType, net: nn.Module, image: Tensor, **settings: Any) -> tuple[Tensor, Tensor]:
    """Masks `a h w` and their history; a copy of the network, as its weights stay frozen."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        masks, history = torchray.extremal_perturbation(copy.deepcopy(net), image, 3, **settings)
    return masks[:, 0], history


def generator_of(torchray: ModuleType, size: tuple[int, int], step: int, sigma: int) -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return torchray.MaskGenerator(size, step, sigma)


@pytest.mark.parametrize(("size", "step", "sigma"), [((64, 64), 7, 21), ((50, 75), 7, 21), ((40, 33), 5, 10)])
def test_smooth_masks_and_their_gradients(torchray, size, step, sigma):
    peer, on = generator_of(torchray, size, step, sigma), lattice(torch.zeros(1, 3, *size), step, sigma)
    cells = torch.rand(3, *on.cells, generator=torch.Generator().manual_seed(0))
    weights = torch.randn(3, *on.whole, generator=torch.Generator().manual_seed(1))
    a, b = cells.clone().requires_grad_(), cells.clone().requires_grad_()
    (cropped, whole), found = peer.generate(a[:, None]), draw_masks(b, on)
    torch.testing.assert_close(found, whole[:, 0], rtol=0, atol=1e-5)
    torch.testing.assert_close(inside(found, on), cropped[:, 0], rtol=0, atol=1e-5)
    (expected,) = torch.autograd.grad((weights * whole[:, 0]).sum(), a)
    (slope,) = torch.autograd.grad((weights * found).sum(), b)
    torch.testing.assert_close(slope, expected, rtol=0, atol=2e-5 * float(expected.abs().max()))


@pytest.mark.parametrize("perturbation", ["blur", "fade"])
def test_perturbed_images(torchray, image, perturbation):
    masks = torch.rand(3, 64, 64, generator=torch.Generator().manual_seed(0))
    masks[0, :5], masks[1, :5] = 0, 1
    expected = torchray.Perturbation(image, type=perturbation).apply(masks[:, None])
    found = at_level(pyramid(image, perturbation), torch.zeros(3, dtype=torch.long), masks)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-5)


@pytest.fixture
def from_unequal_cells(torchray, monkeypatch) -> None:
    """Both searches start from the same random cells instead of ones, so that no two values are equal."""
    start, begun = 1 - 0.2 * torch.rand(2, 10, 10, generator=torch.Generator().manual_seed(1)), list[bool]()
    generate = torchray.MaskGenerator.generate

    def prepared(self: Any, cells: Tensor) -> Any:
        if not begun:
            begun.append(True)
            cells.data.copy_(start[:, None])
        return generate(self, cells)

    monkeypatch.setattr(torchray.MaskGenerator, "generate", prepared)
    monkeypatch.setattr(extremal, "climb", lambda game, cells, *settings: climb(game, start, *settings))


@pytest.mark.usefixtures("from_unequal_cells")
@pytest.mark.parametrize(
    ("mode", "perturbation", "reward"),
    [
        ("preserve", "blur", "simple"),
        ("delete", "fade", "simple"),
        ("preserve", "fade", "contrastive"),
        pytest.param("dual", "blur", "contrastive", marks=pytest.mark.slow),
        pytest.param("dual", "fade", "simple", marks=pytest.mark.slow),
    ],
)
def test_masks_after_50_steps(torchray, image, mode, perturbation, reward):
    game = {"areas": list(AREAS), "perturbation": perturbation, "variant": mode, "smooth": 0.09}
    game["reward_func"] = torchray.contrastive_reward if reward == "contrastive" else torchray.simple_reward
    expected, _ = theirs(torchray, fresh("toy"), image, max_iter=50, **game)
    e = attribute.extremal_perturbation(
        fresh("toy"), image, 3, areas=AREAS, mode=mode, perturbation=perturbation, reward=reward, n_steps=50
    )
    smooth = blur_into_zero(e.extras["masks"], 0.09 * 64)[0]
    torch.testing.assert_close(smooth, expected, rtol=0, atol=1e-3)
    assert float((expected - 1).abs().mean()) > 0.1  # it has moved


def test_from_equal_cells_the_two_differ_as_torchray_gives_the_area_to_whatever_sorting_puts_last(torchray, image):
    # A network that says the same of every image: nothing distinguishes left from right, or top from bottom.
    net = fresh("toy")
    nn.init.zeros_(net[8].weight)
    expected, _ = theirs(torchray, net, image, max_iter=5, areas=[0.3])
    found = attribute.extremal_perturbation(net, image, 3, areas=0.3, n_steps=5).extras["masks"][0]
    for axis in (1, 2):
        assert (found - found.flip(axis)).abs().max() < 1e-5
        assert (expected - expected.flip(axis)).abs().max() > 1e-4


def test_torchrays_contrastive_reward_mixes_areas_in_its_history(torchray):
    # Its gradient is right, as energies are summed over areas; what it reports is not the reward of any.
    output = torch.tensor([[5.0, 1.0, 0.0], [2.0, 4.0, 0.0]])
    reported = torchray.contrastive_reward(output, 0, "preserve").reshape(2, -1).mean(1)
    assert reported.tolist() == [3.5 - 1, 3.5 - 4]
    assert (output[:, 0] - output[:, 1:].amax(1)).tolist() == [4, -2]


def test_torchray_leaves_the_weights_frozen_and_we_do_not(torchray, image):
    net = fresh("toy")
    attribute.extremal_perturbation(net, image, 3, areas=0.1, n_steps=2)
    assert all(weight.requires_grad for weight in net.parameters())
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torchray.extremal_perturbation(net, image, 3, areas=[0.1], max_iter=1)
    assert not any(weight.requires_grad for weight in net.parameters())
