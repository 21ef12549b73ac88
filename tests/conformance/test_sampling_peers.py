"""RISE, LIME and Kernel SHAP beside their peers: agreement on the same samples, and the places where peers differ."""

import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from conformance.architectures import fresh, pictures
from glasshouse import attribute
from glasshouse.attribute.random_masks import draw_masks
from glasshouse.attribute.surrogates import closeness, draw

TARGETS = [3, 7]
N, PLAYERS, SEED = 200, 12, 5


@pytest.fixture(scope="module")
def net(torchvision) -> nn.Module:
    """Sure enough of itself for probabilities to differ."""
    net = fresh("toy").double()
    with torch.no_grad():
        net[-1].weight *= 10
    return net


@pytest.fixture(scope="module")
def images() -> Tensor:
    return pictures().double()


@pytest.fixture(scope="module")
def labels(images) -> Tensor:
    return attribute.regions(images, kind="grid", count=PLAYERS)


def quietly(run: Callable[..., Any], *args: Any, **settings: Any) -> Any:
    """Peers warn about their own dependencies."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return run(*args, **settings)


def agree(found: Tensor, expected: Tensor, tolerance: float) -> None:
    expected = expected.to(found)
    assert expected.abs().max() > 0
    torch.testing.assert_close(found, expected, rtol=0, atol=tolerance * float(expected.abs().max()))


def masks_of(images: Tensor, n_masks: int, p: float = 0.5) -> Tensor:
    return draw_masks(n_masks, (images.shape[2], images.shape[3]), (7, 7), p, SEED).of(torch.arange(n_masks))


@pytest.mark.parametrize("p", [0.5, 0.3])
def test_rise_is_the_formula_of_its_authors(net, images, p):
    # Their program, image by image: (p.T @ masks.reshape(N, H W)) / N / p1, for all classes.
    masks = masks_of(images, N, p)
    e = attribute.rise(net, images, TARGETS, n_masks=N, p=p, seed=SEED, classes="all")
    for n, image in enumerate(images):
        with torch.no_grad():
            answers = net(masks[:, None] * image).softmax(1)
        expected = (answers.T @ masks.flatten(1) / N / p).view(-1, *image.shape[1:])
        agree(e.extras["classes"][n], expected, 1e-6)
        agree(e.native[n, 0], expected[TARGETS[n]], 1e-6)


def test_torchray_takes_a_sigmoid_of_the_output_and_leaves_out_1_over_p(net, images):
    rise = pytest.importorskip("torchray.attribution.rise").rise
    masks = masks_of(images, N)[:, None]
    theirs = quietly(rise, net, images[:1], num_masks=N, filter_masks=masks, batch_size=50)[0]
    softmax = attribute.rise(net, images[:1], 3, n_masks=N, seed=SEED, classes="all").extras["classes"][0]
    assert not torch.allclose(theirs.double() / 0.5, softmax, rtol=0.1)
    for k in TARGETS:  # with the sigmoid for a target, and p taken out again, it is the same sum
        sigmoid = attribute.rise(net, images[:1], lambda y, k=k: y[:, k].sigmoid(), n_masks=N, seed=SEED, score="logit")
        agree(0.5 * sigmoid.native[0, 0], theirs[k], 1e-5)


class OurDraws:
    """Stands in for a random state: hands out the samples that we drew."""

    def __init__(self, shown: Tensor):
        self.shown = shown

    def randint(self, low: int, high: int, size: int) -> np.ndarray:
        assert (low, high, size) == (0, 2, self.shown.numel())
        return self.shown.long().flatten().numpy()


@pytest.mark.parametrize("hide_color", [None, 0.0])
def test_lime_is_what_its_authors_compute_from_the_same_samples(net, images, labels, hide_color):
    library = pytest.importorskip("lime.lime_image")

    def classify(batch: np.ndarray) -> np.ndarray:
        with torch.no_grad():
            return net(torch.from_numpy(batch).permute(0, 3, 1, 2)).softmax(1).numpy()

    settings = {"n_samples": N, "n_regions": PLAYERS, "feature_mask": "grid", "seed": SEED, "classes": "all"}
    ours = attribute.lime(net, images, TARGETS, baselines=hide_color, **settings)
    for n, image in enumerate(images):
        explainer = library.LimeImageExplainer(random_state=0)
        explainer.random_state = OurDraws(draw(N, PLAYERS, SEED))
        theirs = quietly(
            explainer.explain_instance,
            image.permute(1, 2, 0).numpy(),
            classify,
            labels=TARGETS,
            top_labels=None,
            hide_color=hide_color,
            num_samples=N,
            segmentation_fn=lambda _: labels[0].numpy(),
            random_seed=0,
        )
        for k in TARGETS:
            expected = torch.zeros(PLAYERS).double()
            for region, value in theirs.local_exp[k]:
                expected[region] = float(value)
            agree(ours.extras["classes"][n, k], expected[labels[n]], 1e-4)
        k = TARGETS[n]
        assert float(theirs.intercept[k]) == pytest.approx(float(ours.extras["intercept"][n]), rel=1e-4)
        r2 = theirs.score[k] if isinstance(theirs.score, dict) else None
        assert r2 is None or float(r2) == pytest.approx(float(ours.extras["r2"][n]), rel=1e-4)


def test_lime_is_captums_ridge_on_the_same_samples(net, images, labels):
    captum = pytest.importorskip("captum.attr")
    models = pytest.importorskip("captum._utils.models.linear_model")
    pytest.importorskip("sklearn")
    shown = draw(N, PLAYERS, SEED)

    def probabilities(batch: Tensor) -> Tensor:
        return net(batch).softmax(1)

    def rows(*_: Any, **__: Any):
        yield from shown[:, None].double()

    def hide(row: Tensor, image: Tensor, **_: Any) -> Tensor:
        return torch.where(row[0].bool()[labels[:1]][:, None], image, 0.5)

    ours = attribute.lime(
        net, images[:1], 3, n_samples=N, n_regions=PLAYERS, feature_mask="grid", baselines=0.5, seed=SEED
    )
    peer = captum.LimeBase(
        probabilities,
        models.SkLearnRidge(alpha=1.0),
        similarity_func=lambda _, __, row, **___: float(closeness(row.bool(), 0.25)),
        perturb_func=rows,
        perturb_interpretable_space=True,
        from_interp_rep_transform=hide,
        to_interp_rep_transform=None,
    )
    theirs = quietly(peer.attribute, images[:1], target=3, n_samples=N, perturbations_per_eval=16)
    agree(ours.native[0, 0], theirs[0][labels[0]], 1e-4)


@pytest.fixture(scope="module")
def small() -> tuple[nn.Module, Tensor, Tensor]:
    """A network of twelve pixels, an image, and a label map with a region for each pixel."""
    net = nn.Sequential(nn.Flatten(), nn.Linear(PLAYERS, 16), nn.Tanh(), nn.Linear(16, 3)).double()
    source = torch.Generator().manual_seed(0)
    for weights in net.parameters():
        nn.init.normal_(weights, generator=source)
    image = torch.randn(1, 1, 3, 4, generator=source).double()
    return net, image, torch.arange(PLAYERS).view(1, 3, 4)


def shap_package(net: nn.Module, image: Tensor, n_samples: int) -> Tensor:
    """Its answer about class 1, with the global random state that it draws from put back."""
    shap = pytest.importorskip("shap")

    def worths(rows: np.ndarray) -> np.ndarray:
        with torch.no_grad():
            return net(torch.from_numpy(rows).view(-1, *image.shape[1:]) * image)[:, 1].numpy()

    explainer = shap.KernelExplainer(worths, np.zeros((1, PLAYERS)), silent=True)
    state = np.random.get_state()  # noqa: NPY002 - the state that the package uses
    np.random.seed(0)  # noqa: NPY002
    values = quietly(explainer.shap_values, np.ones((1, PLAYERS)), nsamples=n_samples, l1_reg=False, silent=True)
    np.random.set_state(state)  # noqa: NPY002
    return torch.from_numpy(values[0]).view(image.shape[2:])


def kernel_shap(net: nn.Module, image: Tensor, n_samples: int, seed: int = 0) -> Tensor:
    labels = torch.arange(PLAYERS).view(3, 4)
    settings = {"feature_mask": labels, "score": "logit", "chunk": 5000, "seed": seed}
    return attribute.kernel_shap(net, image, 1, n_samples=n_samples, **settings).native[0, 0]


def test_kernel_shap_is_that_of_the_shap_package_where_all_coalitions_are_taken(small):
    net, image, _ = small
    agree(kernel_shap(net, image, 4094), shap_package(net, image, 4094), 1e-6)


def test_sampled_values_are_as_close_to_the_truth_as_those_of_the_shap_package(small):
    net, image, _ = small
    exact = kernel_shap(net, image, 4094)
    theirs = (shap_package(net, image, 600) - exact).norm()
    ours = torch.stack([(kernel_shap(net, image, 600, seed) - exact).norm() for seed in range(8)])
    assert 0 < ours.median() < 1.5 * theirs
    assert ours.max() < 0.1 * exact.norm()


def test_captums_kernel_shap_tends_to_the_same_values_more_slowly(small):
    captum = pytest.importorskip("captum.attr")
    net, image, labels = small
    exact, peer = kernel_shap(net, image, 4094), captum.KernelShap(net)
    settings = {"target": 1, "feature_mask": labels[:, None], "n_samples": 2000, "perturbations_per_eval": 1000}
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(0)
        theirs = torch.stack([quietly(peer.attribute, image, **settings)[0, 0] for _ in range(4)])
    agree(theirs.mean(0), exact, 0.1)
    ours = torch.stack([kernel_shap(net, image, 2000, seed) for seed in range(4)])
    # Whole sizes and pairs: the same number of passes, less than half of the error.
    assert (ours - exact).norm() < 0.5 * (theirs - exact).norm()
