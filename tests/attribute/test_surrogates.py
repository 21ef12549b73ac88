"""LIME against least squares written out, leave-one-out refits, and models that are linear in what is shown."""

import pytest
import torch
from torch import Tensor, nn

from glasshouse import attribute, data
from glasshouse.attribute.surrogates import closeness, draw, ridge
from glasshouse.core import BadInput
from glasshouse.core.mask import cells

QUICK = {"n_samples": 60, "feature_mask": "grid", "n_regions": 6, "chunk": 20}


def wild(m: int = 6, s: int = 40, q: int = 2) -> tuple[Tensor, Tensor, Tensor]:
    """Samples, answers that are not linear in them, weights."""
    source = torch.Generator().manual_seed(0)
    x = (torch.rand(s, m, generator=source) < 0.5).double()
    y = torch.randn(s, q, generator=source).double() + x @ torch.randn(m, q, generator=source).double()
    return x, y, 0.2 + torch.rand(s, generator=source).double()


def stacked(x: Tensor, y: Tensor, weight: Tensor, alpha: float) -> Tensor:
    """Ridge as plain least squares: rows times the root of their weight, and one row per penalty. Intercept first."""
    m = x.shape[1]
    rows = torch.cat([torch.ones(len(x), 1).double(), x], 1) * weight.sqrt()[:, None]
    penalty = torch.cat([torch.zeros(m, 1), torch.eye(m)], 1).double() * alpha**0.5
    answers = torch.cat([y * weight.sqrt()[:, None], torch.zeros(m, y.shape[1]).double()])
    return torch.linalg.lstsq(torch.cat([rows, penalty]), answers).solution


@pytest.fixture
def linear() -> nn.Module:
    net = nn.Sequential(nn.Flatten(), nn.Linear(3 * 14 * 18, 3)).double().eval()
    nn.init.normal_(net[1].weight, generator=torch.Generator().manual_seed(1))
    return net


@pytest.fixture
def sure(cnn) -> nn.Module:
    cnn = cnn.double()
    cnn[-1].weight.data *= 40
    return cnn


@pytest.mark.parametrize("alpha", [0.0, 1.0, 30.0])
def test_ridge_is_least_squares_with_a_row_for_each_penalty(alpha):
    x, y, weight = wild()
    fit, expected = ridge(x, y, weight, alpha), stacked(x, y, weight, alpha)
    torch.testing.assert_close(fit.slopes, expected[1:])
    torch.testing.assert_close(fit.intercept, expected[0])
    residual = y - expected[0] - x @ expected[1:]
    around = y - (weight @ y) / weight.sum()
    torch.testing.assert_close(fit.r2, 1 - (weight @ residual.square()) / (weight @ around.square()))


@pytest.mark.parametrize("alpha", [0.0, 1.0])
def test_the_jackknife_is_what_leaving_each_sample_out_gives(alpha):
    x, y, weight = wild()
    fit, kept = ridge(x, y, weight, alpha), 1 - torch.eye(len(x), dtype=torch.bool).double()
    without = torch.stack([stacked(x, y, weight * rest, alpha)[1:, 0] for rest in kept])
    torch.testing.assert_close(fit.stderr, (without - fit.slopes[:, 0]).square().sum(0).sqrt())


@pytest.mark.parametrize("alpha", [0.0, 1.0])
def test_the_standard_error_is_the_scatter_over_seeds(alpha):
    source = torch.Generator().manual_seed(0)
    w, b = torch.randn(10, 10, generator=source).double() / 4, torch.randn(10, generator=source).double()
    fits = []
    for seed in range(200):
        shown = draw(80, 10, seed)
        x = shown.double()
        fits.append(ridge(x, (x @ b + ((x @ w) * x).sum(1))[:, None], closeness(shown, 0.25), alpha))
    scatter = torch.stack([fit.slopes[:, 0] for fit in fits]).std(0)
    stated = torch.stack([fit.stderr for fit in fits]).square().mean(0).sqrt()
    torch.testing.assert_close(stated, scatter, rtol=0.25, atol=0)


def test_samples_far_from_the_image_count_less():
    shown = torch.tensor([[1, 1, 1, 1], [1, 0, 0, 0], [0, 0, 0, 0]]).bool()
    distance = torch.tensor([0.0, 1 - 0.5, 1.0]).double()  # cosines 1, 1/2, 0
    torch.testing.assert_close(closeness(shown, 0.25), (-distance.square() / 0.25**2).exp().sqrt())


def test_half_of_the_regions_are_shown_and_all_at_first():
    shown = draw(2000, 30, seed=3)
    assert shown[0].all()
    assert float(shown[1:].double().mean()) == pytest.approx(0.5, abs=0.01)
    assert not torch.equal(shown, draw(2000, 30, seed=4))


@pytest.mark.parametrize("baselines", [0.0, None])
@pytest.mark.parametrize("feature_mask", ["slic", "grid"])
def test_a_model_linear_in_its_pixels_is_recovered_exactly_without_a_penalty(linear, images, baselines, feature_mask):
    images = images.double()
    settings = {**QUICK, "feature_mask": feature_mask, "alpha": 0.0, "score": "logit", "baselines": baselines}
    e = attribute.lime(linear, images, 1, **settings)
    for image, labels, found in zip(images, e.extras["regions"], e.native[:, 0], strict=True):
        for k in labels.unique():
            inside = labels == k
            cover = image[:, inside].mean(1, keepdim=True) if baselines is None else 0.0
            worth = (linear[1].weight[1].view(3, 14, 18)[:, inside] * (image[:, inside] - cover)).sum().detach()
            torch.testing.assert_close(found[inside], worth.expand(int(inside.sum())))
    torch.testing.assert_close(e.extras["r2"], torch.ones(3).double())
    assert e.extras["stderr"].max() < 1e-9
    everything = torch.stack(
        [
            sum(found[labels == k][0] for k in labels.unique())
            for found, labels in zip(e.native[:, 0], e.extras["regions"], strict=True)
        ]
    )
    torch.testing.assert_close(e.extras["intercept"] + everything, linear(images)[:, 1].detach())


def test_a_penalty_shrinks(linear, images):
    sizes = [
        attribute.lime(linear, images.double(), 1, **QUICK, score="logit", alpha=alpha).native.norm()
        for alpha in (0.0, 1.0, 100.0)
    ]
    assert sizes[0] > sizes[1] > sizes[2]


def test_the_whole_method_written_out(sure, images):
    images, cover = images.double(), 0.5
    labels = cells((14, 18), (2, 3))
    shown, expected = draw(60, 6, 9).double(), []
    for image in images:
        rows = [torch.where(z.bool()[labels], image, cover) for z in shown]
        y = torch.stack([sure(row[None]).softmax(1)[0, 2].detach() for row in rows])
        distance = torch.tensor(
            [1 - float(z.sum()) / float(z.sum().sqrt() * 6**0.5) if z.any() else 1.0 for z in shown]
        )
        weight = (-(distance.double() ** 2) / 0.25**2).exp().sqrt()
        expected.append(stacked(shown, y[:, None], weight, 1.0)[1:, 0][labels])
    for feature_mask in ("grid", labels + 5, labels.expand(3, 1, 14, 18)):
        e = attribute.lime(sure, images, 2, **{**QUICK, "feature_mask": feature_mask}, baselines=cover, seed=9)
        torch.testing.assert_close(e.native[:, 0], torch.stack(expected))


def test_regions_are_hidden_behind_their_own_mean_colour_unless_told_otherwise(sure, images):
    images, labels = images.double(), cells((14, 18), (2, 3))
    means = torch.zeros_like(images)
    for k in range(6):
        means[:, :, labels == k] = images[:, :, labels == k].mean(2, keepdim=True)
    given = attribute.lime(sure, images, 1, **QUICK, baselines=means)
    torch.testing.assert_close(attribute.lime(sure, images, 1, **QUICK).native, given.native)


def test_all_classes_come_from_the_same_samples(sure, images):
    every = attribute.lime(sure, images.double(), [0, 3, 1], classes="all", **QUICK)
    for k in range(4):
        alone = attribute.lime(sure, images.double(), k, **QUICK)
        torch.testing.assert_close(every.extras["classes"][:, k], alone.native[:, 0])
    some = attribute.lime(sure, images.double(), 2, classes=(1,), **QUICK)
    torch.testing.assert_close(some.extras["classes"], every.extras["classes"][:, 1:2])


def test_where_evidence_adds_up_the_glass_box_says_the_same():
    model, image = data.glass.weighted_sum(), torch.zeros(1, 3, 48, 48)
    for k, (top, left) in enumerate([(2, 3), (4, 30), (30, 5), (33, 31)]):
        image = data.glass.stamp(image, data.glass.plate(1 << k), top, left)
    regions = model.truth.regions(image)[0]
    labels = (regions * torch.arange(1, 5).view(4, 1, 1)).sum(0)
    for c in range(2):
        e = attribute.lime(model, image, c, n_samples=40, feature_mask=labels, baselines=0.0, alpha=0.0, score="logit")
        found = torch.stack([e.native[0, 0][region][0] for region in regions])
        torch.testing.assert_close(found, model.truth.removal(image)[0, :, c], rtol=1e-4, atol=1e-4)
        assert float(e.native[0, 0][labels == 0].abs().max()) < 1e-4
        assert float(e.extras["r2"]) == pytest.approx(1, abs=1e-5)


def test_a_poor_fit_is_shown_by_r2(images):
    class Parity(nn.Module):
        """1 where an even number of six cells is shown."""

        def forward(self, inputs: Tensor) -> Tensor:
            lit = nn.functional.adaptive_avg_pool2d(inputs, (2, 3)).flatten(1).sum(1) * 1.0
            return torch.stack([(lit.round() % 2), 1 - (lit.round() % 2)], 1)

    e = attribute.lime(
        Parity(), torch.ones(1, 1, 14, 18), 0, **{**QUICK, "n_samples": 400}, baselines=0.0, score="logit"
    )
    assert float(e.extras["r2"]) < 0.3


@pytest.mark.parametrize("shape", [(2, 1, 33, 47), (1, 5, 16, 9)])
def test_odd_images_are_explained(shape):
    layers = nn.Conv2d(shape[1], 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 3)
    e = attribute.lime(
        nn.Sequential(*layers).eval(), torch.randn(shape, generator=torch.Generator().manual_seed(0)), n_samples=30
    )
    assert e.native.shape == (shape[0], 1, *shape[2:])
    assert e.native.isfinite().all()


def test_too_few_samples_for_a_fit_without_a_penalty_are_an_error(cnn, images):
    with pytest.raises(BadInput, match="do not tell 9 regions apart"):
        attribute.lime(cnn, images, n_samples=5, feature_mask="grid", n_regions=9, alpha=0.0)


@pytest.mark.parametrize(
    "settings",
    [
        {"n_samples": 1},
        {"chunk": 0},
        {"kernel_width": 0.0},
        {"alpha": -1.0},
        {"n_regions": 0},
        {"feature_mask": torch.zeros(3, 3).long()},
        {"classes": [4]},
        {"baselines": torch.zeros(2, 1, 1)},
    ],
)
def test_settings_that_make_no_sense_are_refused(cnn, images, settings):
    with pytest.raises(BadInput):
        attribute.lime(cnn, images, **{**QUICK, **settings})
