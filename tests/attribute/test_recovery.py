"""Nie, Zhang and Patel: guided backprop of a random network draws the image, the others do not; with its constants."""

from math import pi, sqrt

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from glasshouse import attribute, data, zoo
from glasshouse.attribute.recovery import (
    adversarial_similarity,
    class_similarity,
    cosine_score,
    equalised,
    expected_guided_backprop,
    layers_with_weights,
    partly_random,
    random_net,
    recovery,
    weight_schedule,
)
from glasshouse.core import BadInput

FIRST, SECOND = torch.tensor([3]), torch.tensor([7])


@pytest.fixture(scope="module")
def photo() -> Tensor:
    """A scene, minus ImageNet's mean, on the scale of bytes, as in the released experiments."""
    mean = torch.tensor([123.68, 116.779, 103.939]).view(1, 3, 1, 1)
    return data.scenes("houses", n=1, size=32, seed=3).images * 255 - mean


def test_half_of_a_gaussian_has_the_mean_that_the_theory_uses():
    draws = torch.randn(200_000, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    y = torch.tensor([1.0, -2.0, 2.0], dtype=torch.float64)
    mean = (draws * (draws @ y > 0)[:, None]).mean(0)
    torch.testing.assert_close(mean, y / 3 / sqrt(2 * pi), rtol=0, atol=5e-3)
    assert float(draws[:, 0].clamp(min=0).mean()) == pytest.approx(1 / sqrt(2 * pi), abs=3e-3)


def test_equalised_patches_are_put_together_as_the_definition_says(photo):
    x, k = photo[:, :, :9, :7].double(), 3
    padded, total = F.pad(x, (1, 1, 1, 1)), torch.zeros(1, 3, 11, 9, dtype=torch.float64)
    for i in range(9):
        for j in range(7):
            patch = padded[:, :, i : i + k, j : j + k]
            total[:, :, i : i + k, j : j + k] += patch / patch.norm()
    torch.testing.assert_close(equalised(x, k), total[:, :, 1:-1, 1:-1])


def test_a_brighter_image_and_an_empty_one_are_equalised_too(photo):
    torch.testing.assert_close(equalised(5 * photo), equalised(photo), rtol=1e-4, atol=1e-4)
    assert not equalised(torch.zeros(1, 3, 8, 8)).any()


@pytest.mark.parametrize("method", ["saliency", "deconvnet", "guided_backprop"])
def test_each_method_is_the_sum_that_the_theory_writes_down(method, photo):
    x = photo[:, :, :10, :12].double()
    net = random_net(x, n_filters=5, kernel=3, seed=2)
    w, v = net.filters.weight, net.head.weight[3].view(5, 10, 12)
    padded, total = F.pad(x, (1, 1, 1, 1)), torch.zeros(1, 3, 12, 14, dtype=torch.float64)
    for i in range(10):
        for j in range(12):
            patch = padded[0, :, i : i + 3, j : j + 3]
            for n in range(5):
                on = float((w[n] * patch).sum() > 0)
                share = {
                    "saliency": v[n, i, j] * on,
                    "deconvnet": v[n, i, j].clamp(min=0),
                    "guided_backprop": v[n, i, j].clamp(min=0) * on,
                }[method]
                total[0, :, i : i + 3, j : j + 3] += share * w[n]
    values = getattr(attribute, method)(net, x, 3).native
    torch.testing.assert_close(values, total[:, :, 1:-1, 1:-1])


def mean_of(method: str, photo: Tensor, nets: int, **settings) -> tuple[Tensor, Tensor]:
    """Mean and standard error over random networks."""
    maps = [
        getattr(attribute, method)(random_net(photo, seed=seed, **settings), photo, 3).native.double()
        for seed in range(nets)
    ]
    values = torch.cat(maps)
    return values.mean(0, keepdim=True), values.std(0, keepdim=True) / sqrt(nets)


def test_the_mean_over_random_networks_has_the_closed_form(photo):
    mean, error = mean_of("guided_backprop", photo, 40, n_filters=48)
    expected = expected_guided_backprop(photo, n_filters=48).double()
    assert recovery(mean, expected).mean > 0.99
    assert float((mean * expected).sum() / expected.square().sum()) == pytest.approx(1, abs=0.03)
    away = ((mean - expected) / error).square().mean()
    assert float(away) == pytest.approx(1, abs=0.35), "the misfit is that of the sampling"


@pytest.mark.parametrize("method", ["saliency", "deconvnet"])
def test_the_others_have_mean_zero(method, photo):
    mean, error = mean_of(method, photo, 40, n_filters=16)
    assert float((mean / error).square().mean()) == pytest.approx(1, abs=0.35)
    assert abs(recovery(mean, equalised(photo)).mean) < 0.4


@pytest.mark.parametrize(("n_filters", "shown", "alike"), [(16, 0.45, 0.55), (64, 0.8, 0.76), (256, 0.945, 0.92)])
def test_more_filters_show_more_of_the_image_and_less_of_the_class(n_filters, shown, alike, photo):
    scores = []
    for seed in range(4):
        net = random_net(photo, n_filters=n_filters, seed=seed)
        values = attribute.guided_backprop(net, photo, FIRST).native
        scores.append(
            (
                recovery(values, equalised(photo)).mean,
                class_similarity(attribute.guided_backprop, net, photo, FIRST, SECOND).mean,
            )
        )
    mean = torch.tensor(scores).mean(0)
    assert mean.tolist() == pytest.approx([shown, alike], abs=0.12)


def test_recovery_grows_with_the_filters_as_the_theory_says(photo):
    # Signal grows as N, noise as the square root of N: cos = 1 / sqrt(1 + c / N), so (1/cos² - 1) N stays what it is.
    constants = []
    for n_filters in (64, 256):
        cosines = [
            recovery(
                attribute.guided_backprop(random_net(photo, n_filters=n_filters, seed=seed), photo, 3).native,
                equalised(photo),
            ).mean
            for seed in range(6)
        ]
        constants.append((1 / (sum(cosines) / 6) ** 2 - 1) * n_filters)
    assert constants[1] == pytest.approx(constants[0], rel=0.4)


def test_max_pooling_makes_deconvnet_forget_the_class_and_see_the_image(photo):
    def alike(pool: int) -> float:
        net = random_net(photo, n_filters=128, pool=pool, seed=1)
        return class_similarity(attribute.deconvnet, net, photo, FIRST, SECOND).mean

    assert alike(1) < 0.5
    assert alike(9) > 0.7
    unpooled = random_net(photo, n_filters=32, seed=1)
    a = attribute.deconvnet(unpooled, photo, 3).native
    torch.testing.assert_close(attribute.deconvnet(unpooled, photo.flip(3), 3).native, a)
    pooled = random_net(photo, n_filters=32, pool=9, seed=1)
    assert (
        recovery(
            attribute.deconvnet(pooled, photo.flip(3), 3).native, attribute.deconvnet(pooled, photo, 3).native
        ).mean
        < 0.9
    )


def test_saliency_of_two_classes_has_nothing_in_common(photo):
    net = random_net(photo, n_filters=128, seed=1)
    score = class_similarity(attribute.saliency, net, photo, FIRST, SECOND)
    assert abs(score.mean) < 0.05
    assert float(score.extras["distance"]) == pytest.approx(sqrt(2), abs=0.03)


def test_distance_is_that_of_the_maps_as_unit_vectors():
    a, b = torch.randn(2, 3, 4, 4), torch.randn(2, 3, 4, 4)
    score = cosine_score("x", a, b, "down")
    expected = (F.normalize(a.flatten(1)) - F.normalize(b.flatten(1))).norm(dim=1)
    torch.testing.assert_close(score.extras["distance"], expected, rtol=1e-4, atol=1e-4)
    assert cosine_score("x", a, torch.zeros_like(a), "down").reason == ("constant_map", "constant_map")


@pytest.fixture(scope="module")
def trained():
    model = zoo.load("creatures_cnn")
    scenes = data.scenes("creatures", n=4, size=64, seed=9)
    return model.module, model.preprocess.normalise(scenes.images)


def test_a_trained_network_too_gives_two_classes_nearly_the_same_guided_backprop(trained):
    net, images = trained
    with torch.no_grad():
        order = net(images).argsort(1, descending=True)
    top, other = order[:, 0], order[:, 6]
    guided = class_similarity(attribute.guided_backprop, net, images, top, other).mean
    assert guided > 0.8
    assert class_similarity(attribute.saliency, net, images, top, other).mean < 0.3


def test_a_changed_decision_hardly_changes_guided_backprop(trained):
    net, images = trained
    leaf = images.clone().requires_grad_()
    output = net(leaf)
    top, second = output.topk(2, 1).indices.T
    rows = range(len(images))
    (slope,) = torch.autograd.grad((output[rows, second] - output[rows, top]).sum(), leaf)
    attacked = images + 0.12 * slope.sign()
    changed = net(attacked).argmax(1) != top
    assert changed.float().mean() >= 0.5
    images, attacked = images[changed], attacked[changed]
    guided = adversarial_similarity(attribute.guided_backprop, net, images, attacked).mean
    plain = adversarial_similarity(attribute.saliency, net, images, attacked).mean
    assert guided > plain + 0.3


def test_partly_random_networks_keep_the_layers_that_they_should(trained):
    net, _ = trained
    names = layers_with_weights(net)

    def changed(order, depth) -> list[str]:
        other = partly_random(net, order, depth)
        return [n for n in names if not torch.equal(other.get_submodule(n).weight, net.get_submodule(n).weight)]

    assert changed("part", 2) == names[2:]
    assert changed("part", len(names)) == []
    assert changed("reverse", 2) == names[:2]
    assert changed("only", 3) == [names[3]]
    ratio = (
        partly_random(net, "only", 1).get_submodule(names[1]).weight.std() / net.get_submodule(names[1]).weight.std()
    )
    assert float(ratio.detach()) == pytest.approx(1, abs=0.1)
    with pytest.raises(BadInput, match="outside 0"):
        partly_random(net, "only", len(names))


def test_the_last_step_of_a_schedule_is_the_trained_network(photo):
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(0)
        net = nn.Sequential(
            nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 8, 3), nn.ReLU(), nn.Flatten(), nn.Linear(6272, 4)
        )
    steps = weight_schedule(attribute.guided_backprop, net.eval(), photo, torch.tensor([2]), "part")
    assert len(steps) == 4
    assert steps[-1][0].mean == pytest.approx(1)
    assert steps[0][0].mean < 0.99
    assert len(weight_schedule(attribute.saliency, net, photo, torch.tensor([2]), "only")) == 3


def test_what_makes_no_sense_is_an_error(photo):
    with pytest.raises(BadInput, match="must be odd"):
        random_net(photo, kernel=4)
    with pytest.raises(BadInput, match="cannot show images"):
        recovery(torch.zeros(1, 8, 8), photo)
