"""Metrics beside Quantus, where it is right and where it is known not to be, and SSIM beside scikit-image.

Other agreements are tested beside what they are about: infidelity and the largest sensitivity with Captum
(`tests/evaluate/faithfulness/test_noise.py`, `robustness/test_sensitivity.py`), areas with scikit-learn
(`localisation/test_ranking.py`), imputation with SciPy's sparse solver (`test_imputation.py`), Xplique's two models
that any missing pixel kills and any pixel satisfies (`faithfulness/test_curves.py`).
"""

import importlib
import warnings
from collections.abc import Callable
from dataclasses import replace
from importlib.metadata import PackageNotFoundError, version
from types import ModuleType
from typing import Any
from unittest.mock import patch

import numpy as np
import pytest
import torch
from torch import nn

from glasshouse import attribute, evaluate
from glasshouse.evaluate.agreement import ssim
from glasshouse.evaluate.faithfulness.features import distinct_sets
from glasshouse.evaluate.questions import Elements, Segments
from glasshouse.evaluate.robustness.neighbours import uniform

SIDE, PATCH = 12, 4
PLAIN = {"disable_warnings": True, "normalise": False, "abs": False, "return_aggregate": False}
REMOVAL = {**PLAIN, "perturb_baseline": 0.0}
STEP = {"features_in_step": 3 * SIDE}  # as many pixels as an image has columns, in all three channels

try:
    released = version("quantus") == "0.6.0"
except PackageNotFoundError:
    released = False
pinned = pytest.mark.skipif(not released, reason="what is wrong was found in Quantus 0.6.0")


def quietly(run: Callable[..., Any], *args: Any, **settings: Any) -> Any:
    """Peers warn about their own dependencies."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return run(*args, **settings)


@pytest.fixture(scope="module")
def quantus(torchvision: ModuleType) -> ModuleType:
    try:
        return quietly(importlib.import_module, "quantus")
    except ImportError as error:
        pytest.skip(f"quantus cannot be imported: {error}")


@pytest.fixture
def images() -> torch.Tensor:
    """Square ones, of which Quantus knows where the channels are."""
    return torch.randn(3, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(0))


@pytest.fixture
def masks() -> torch.Tensor:
    return torch.rand(3, SIDE, SIDE, generator=torch.Generator().manual_seed(1)) > 0.7


@pytest.fixture
def explanation(cnn, images):
    return attribute.input_x_gradient(cnn, images)


@pytest.fixture
def ask(cnn, images, masks, explanation) -> Callable[..., torch.Tensor]:
    """What a metric of Quantus says of these images; `native` where it is to have a value for each channel."""

    def ask(metric: Any, native: bool = False, **more: Any) -> torch.Tensor:
        maps = explanation.native if native else explanation.heatmap[:, None]
        given = {"x_batch": images.numpy().copy(), "y_batch": np.array(explanation.target), "device": "cpu"}
        given["a_batch"] = maps.numpy().copy()
        return torch.as_tensor(np.array(quietly(metric, model=cnn, **{**given, **more})))

    return ask


def gradient(model: nn.Module, inputs: Any, targets: Any, **ignored: Any) -> Any:
    leaf = torch.as_tensor(inputs, dtype=torch.float32).requires_grad_()
    score = model(leaf)[range(len(leaf)), torch.as_tensor(targets)].sum()
    return (torch.autograd.grad(score, leaf)[0] * leaf).detach().numpy()


def agree(found: torch.Tensor, expected: torch.Tensor, tolerance: float = 1e-5) -> None:
    assert expected.std() > 0
    torch.testing.assert_close(found.double(), expected.double(), atol=tolerance, rtol=tolerance)


def test_faithfulness_correlation_agrees_on_the_same_sets(quantus, ask, cnn, images, explanation):
    settings = {"n_samples": 30, "subset_size": 50, "grid": Elements((3, SIDE, SIDE)), "baseline": 0.0}
    gone = distinct_sets(3 * SIDE * SIDE, 50, 30, torch.Generator().manual_seed(0)).numpy()
    own = evaluate.faithfulness_correlation(cnn, images, explanation, **settings)
    sets = (np.flatnonzero(row) for row in gone for _ in images)
    metric = quantus.FaithfulnessCorrelation(nr_runs=30, subset_size=50, **REMOVAL)
    with patch("numpy.random.choice", side_effect=lambda *args, **more: next(sets)):
        theirs = ask(metric, native=True)
    agree(own.value, theirs)


def test_faithfulness_estimate_agrees_on_groups_of_consecutive_ranks(quantus, ask, cnn, images, explanation):
    place = explanation.heatmap.flatten(1).argsort(descending=True).argsort().view(3, SIDE, SIDE)
    own = evaluate.faithfulness_estimate(cnn, images, explanation, grid=Segments.of(place // SIDE), baseline=0.0)
    assert set(own.reason) == {"few_features"}, "12 groups are too few for a number of ours"
    pixels = Segments.of(place // 4)
    own = evaluate.faithfulness_estimate(cnn, images, explanation, grid=pixels, baseline=0.0)
    agree(own.value, ask(quantus.FaithfulnessEstimate(features_in_step=12, **REMOVAL)))


def test_monotonicity_correlation_agrees_on_the_same_donors(quantus, ask, cnn, images, explanation):
    place = explanation.heatmap.abs().flatten(1).argsort(descending=True).argsort().view(3, SIDE, SIDE)
    donors, turns = torch.randn(2, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(3)), iter(range(1000))
    grid = Segments.of(place // 4)
    absolute = replace(explanation, heatmap=explanation.heatmap.abs())
    settings = {"donors": donors, "n_samples": 2, "grid": grid, "score": "prob"}
    own = evaluate.monotonicity_correlation(cnn, images, absolute, **settings)

    def perturb(arr: Any, indices: Any, **ignored: Any) -> Any:
        rows, donor = np.arange(len(arr))[:, None], donors[next(turns) % 2].flatten().numpy()
        changed = arr.copy()
        changed[rows, indices] = donor[indices]
        return changed

    metric = quantus.MonotonicityCorrelation(
        nr_samples=2, features_in_step=12, perturb_func=perturb, **{**PLAIN, "abs": True}
    )
    agree(own.value, ask(metric))


def test_pixel_flipping_is_our_deletion_curve_without_its_start(quantus, ask, cnn, images, explanation):
    curve = evaluate.deletion(cnn, images, explanation, n_steps=SIDE, baseline=0.0).extras["curve"]
    agree(curve[:, 1:], ask(quantus.PixelFlipping(**STEP, **REMOVAL)))
    by_value = {"grid": Elements((3, SIDE, SIDE)), "n_steps": 3, "baseline": 0.0}
    curve = evaluate.deletion(cnn, images, explanation, **by_value).extras["curve"]
    agree(curve[:, 1:], ask(quantus.PixelFlipping(features_in_step=SIDE * SIDE, **REMOVAL), native=True))


def test_selectivity_and_region_perturbation_agree_patch_by_patch(quantus, ask, cnn, images, explanation):
    settings = {"patch_px": PATCH, "baseline": 0.0}
    curve = evaluate.selectivity(cnn, images, explanation, **settings).extras["curve"]
    agree(curve[:, 1:], ask(quantus.Selectivity(patch_size=PATCH, **REMOVAL)))
    drops = ask(quantus.RegionPerturbation(patch_size=PATCH, **REMOVAL))
    own = evaluate.region_perturbation(cnn, images, explanation, **settings)
    agree(curve[:, :1] - own.extras["curve"][:, 1:], drops)
    agree(own.value, drops.sum(1) / (drops.shape[1] + 1))


@pytest.mark.parametrize(
    ("name", "theirs"),
    [
        ("max_sensitivity", "MaxSensitivity"),
        ("avg_sensitivity", "AvgSensitivity"),
        ("local_lipschitz", "LocalLipschitzEstimate"),
    ],
)
def test_robustness_agrees_on_the_same_copies(quantus, ask, cnn, images, explanation, name, theirs):
    number = iter(range(8))

    def perturb(arr: Any, **ignored: Any) -> Any:
        return arr + 0.2 * uniform(images, 0, next(number)).flatten().numpy()

    settings = {"radius": 0.2, "n_samples": 8, "same_prediction": False}
    own = getattr(evaluate, name)(cnn, images, explanation, **settings)
    metric = getattr(quantus, theirs)(nr_samples=8, perturb_func=perturb, **PLAIN)
    agree(own.value, ask(metric, native=True, explain_func=gradient), 1e-4)


def test_complexity_agrees(quantus, ask, cnn, images, explanation):
    absolute = {**PLAIN, "abs": True}
    agree(evaluate.sparseness(cnn, images, explanation).value, ask(quantus.Sparseness(**absolute)), 1e-4)
    agree(evaluate.entropy(cnn, images, explanation).value, ask(quantus.Complexity(**absolute)), 1e-4)
    counted = quantus.EffectiveComplexity(eps=0.3, **{**absolute, "normalise": True})
    own = evaluate.effective_complexity_count(cnn, images[:1], explanation[0], eps=0.3)
    given = {"x_batch": images[:1].numpy(), "y_batch": np.array(explanation.target[:1])}
    one = ask(counted, **given, a_batch=explanation.heatmap[:1, None].numpy().copy())
    assert own.value.tolist() == one.tolist(), "of one image alone: elsewhere it depends on the others"


def test_localisation_agrees_on_masks_of_single_pixels(quantus, ask, cnn, images, masks, explanation):
    seen = {"s_batch": masks[:, None].numpy()}
    for own, theirs in (
        (evaluate.relevance_rank(cnn, images, explanation, masks), quantus.RelevanceRankAccuracy(**PLAIN)),
        (evaluate.top_k_intersection(cnn, images, explanation, masks, k=20), quantus.TopKIntersection(k=20, **PLAIN)),
        (evaluate.localisation_auc(cnn, images, explanation, masks), quantus.AUC(**PLAIN)),
    ):
        agree(own.value, ask(theirs, **seen))
    hit = evaluate.pointing_game(cnn, images, explanation, masks, tolerance_px=0)
    assert hit.value.tolist() == ask(quantus.PointingGame(**PLAIN), **seen).double().tolist()


@pinned
def test_its_monotonicity_is_true_of_any_map_and_of_its_opposite(quantus, cnn, images, explanation):
    for sign in (1, -1):
        maps = sign * explanation.heatmap[:, None].numpy()
        given = {"x_batch": images.numpy(), "y_batch": np.array(explanation.target), "a_batch": maps}
        assert all(quietly(quantus.Monotonicity(**STEP, **REMOVAL), model=cnn, device="cpu", **given))
    own = evaluate.monotonicity(cnn, images, explanation, grid=(6, 6), baseline=0.0)
    assert not own.extras["monotone"].all()


@pinned
def test_its_sensitivity_n_depends_on_the_batch(quantus, ask):
    metric = quantus.SensitivityN(n_max_percentage=0.8, **STEP, **REMOVAL)
    assert not torch.equal(ask(metric, batch_size=3), ask(metric, batch_size=2))


@pinned
def test_its_road_and_irof_do_not_take_colour(quantus, ask):
    with pytest.raises(IndexError):
        ask(quantus.ROAD(percentages=[50], **PLAIN))
    with pytest.raises(AssertionError):
        ask(quantus.IROF(**REMOVAL))


@pinned
def test_its_repeats_of_infidelity_are_the_same(quantus, ask):
    once, often = (ask(quantus.Infidelity(n_perturb_samples=n, perturb_patch_sizes=[PATCH], **REMOVAL)) for n in (1, 5))
    torch.testing.assert_close(once, often)
    with pytest.raises((IndexError, ValueError)):
        ask(quantus.Infidelity(n_perturb_samples=1, perturb_patch_sizes=[5], **REMOVAL))


@pinned
def test_its_completeness_asks_for_equal_bits(quantus, cnn, images):
    exact = attribute.integrated_gradients(cnn, images, n_steps=200)
    assert evaluate.completeness_gap(cnn, images, exact).value.max() < 0.02
    given = {"x_batch": images.numpy(), "y_batch": np.array(exact.target), "a_batch": exact.native.detach().numpy()}
    assert not any(quietly(quantus.Completeness(**REMOVAL), model=cnn, device="cpu", **given))


@pinned
def test_its_pointing_game_counts_a_hit_on_an_empty_mask(quantus, cnn, images, masks, explanation):
    empty = torch.zeros_like(masks)
    given = {"x_batch": images.numpy(), "y_batch": np.array(explanation.target)}
    given |= {"a_batch": explanation.heatmap[:, None].numpy(), "s_batch": empty[:, None].numpy()}
    with patch("quantus.helpers.asserts.assert_segmentations"):
        assert all(quietly(quantus.PointingGame(**PLAIN), model=cnn, device="cpu", **given))
    assert set(evaluate.pointing_game(cnn, images, explanation, empty).reason) == {"empty_mask"}


@pinned
def test_its_relevance_mass_of_a_signed_map_is_no_share(quantus, ask, masks, cnn, images, explanation):
    signed = ask(quantus.RelevanceMassAccuracy(**PLAIN), s_batch=masks[:, None].numpy())
    own = evaluate.relevance_mass(cnn, images, explanation, masks).value
    assert ((own >= 0) & (own <= 1)).all()
    assert not torch.allclose(signed.float(), own, atol=0.05)


@pinned
def test_its_random_logit_expects_a_thousand_classes(quantus, ask):
    with pytest.raises(IndexError):
        ask(quantus.RandomLogit(seed=0, **PLAIN), native=True, explain_func=gradient)


@pinned
def test_its_count_of_pixels_depends_on_the_batch(quantus, ask, explanation):
    maps = explanation.heatmap[:, None].numpy().copy()
    metric = quantus.EffectiveComplexity(eps=0.01, **{**PLAIN, "abs": True, "normalise": True})
    alone = ask(metric, a_batch=maps.copy())
    maps[1] *= 1e6
    beside = ask(metric, a_batch=maps)
    assert alone[0] > 0
    assert beside[0] == 0


def test_structural_similarity_is_that_of_scikit_image_with_the_border_repeated():
    metrics = pytest.importorskip("skimage.metrics")
    first, second = torch.randn(2, 1, 30, 41, generator=torch.Generator().manual_seed(0)).double()
    second = first + 0.5 * second
    x, y = (m / m.abs().max() for m in (first, second))
    both = torch.stack([x, y])
    # scikit-image leaves 5 pixels of the border out of its mean; ours continues the map there, and counts them
    wide = nn.functional.pad(both, (5, 5, 5, 5), mode="replicate")[:, 0].numpy()
    gaussian = {"gaussian_weights": True, "sigma": 1.5, "use_sample_covariance": False}
    theirs = metrics.structural_similarity(*wide, data_range=float(both.max() - both.min()), **gaussian)
    assert float(ssim(first, second)) == pytest.approx(theirs, abs=1e-6)
