"""Expected gradients: closed forms, integrated gradients as the limit, and what is drawn."""

import pytest
import torch
from torch import Tensor, nn

from conformance.architectures import Residual, fresh, pictures
from glasshouse.attribute import expected_gradients, integrated_gradients
from glasshouse.attribute.expected import draws
from glasshouse.core import BadInput

SIZE = (14, 18)


@pytest.fixture
def net() -> nn.Module:
    return fresh("toy").double()


@pytest.fixture
def images() -> Tensor:
    return pictures(2, SIZE).double()


@pytest.fixture
def several() -> Tensor:
    return pictures(5, SIZE, seed=1).double()


def test_on_a_linear_network_it_is_the_weight_times_the_distance_to_the_mean_baseline(images, several):
    net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.AvgPool2d(2), nn.Flatten(), nn.Linear(4 * 6 * 8, 5)).double()
    weight = torch.autograd.functional.jacobian(lambda x: net(x)[0, 3], images[:1])
    e = expected_gradients(net, images, 3, baselines=several, n_samples=10)  # each baseline twice
    torch.testing.assert_close(e.native, (images - several.mean(0)) * weight, rtol=1e-10, atol=1e-12)
    assert float(e.extras["gap"].max()) < 1e-10


def test_it_is_the_mean_of_what_the_samples_say(net, images, several):
    e = expected_gradients(net, images, 2, baselines=several, n_samples=7, seed=3)
    chosen, places = draws(5, 7, seed=3)
    total = torch.zeros_like(images)
    for baseline, place in zip(chosen.tolist(), places.tolist(), strict=True):
        point = (several[baseline] + place * (images - several[baseline])).requires_grad_()
        (slope,) = torch.autograd.grad(net(point)[:, 2].sum(), point)
        total += (images - several[baseline]) * slope / 7
    torch.testing.assert_close(e.native, total, rtol=1e-8, atol=1e-12)
    with torch.no_grad():
        change = net(images)[:, 2] - net(several[chosen])[:, 2].mean()
    gap = (total.flatten(1).sum(1) - change).abs() / change.abs()
    torch.testing.assert_close(e.extras["gap"], gap, rtol=1e-6, atol=1e-9)


def test_many_samples_reach_integrated_gradients_averaged_over_the_baselines(net, images, several):
    exact = torch.stack(
        [integrated_gradients(net, images, 2, baselines=b, n_steps=300, rule="midpoint").native for b in several[:2]]
    ).mean(0)

    def error(n: int) -> float:
        found = expected_gradients(net, images, 2, baselines=several[:2], n_samples=n, chunk=64).native
        return float((found - exact).norm() / exact.norm())

    assert error(512) < 0.03
    assert error(512) < 0.2 * error(8)


def test_a_number_is_a_set_of_one_image(net, images):
    number = expected_gradients(net, images, 2, baselines=0.25, n_samples=6)
    image = expected_gradients(net, images, 2, baselines=torch.full((1, 3, *SIZE), 0.25), n_samples=6)
    colour = expected_gradients(net, images, 2, baselines=torch.full((3, 1, 1), 0.25), n_samples=6)
    assert torch.equal(number.native, image.native)
    assert torch.equal(number.native, colour.native)


@pytest.mark.parametrize(("n_baselines", "n_samples"), [(1, 5), (3, 12), (5, 12), (20, 4)])
def test_places_fill_the_way_evenly_and_baselines_take_turns(n_baselines, n_samples):
    chosen, places = draws(n_baselines, n_samples, seed=0)
    assert ((places * n_samples).long() == torch.arange(n_samples)).all()
    times = chosen.bincount(minlength=n_baselines)
    assert times.max() - times.min() <= 1
    assert len(chosen) == n_samples
    assert not torch.equal(places, draws(n_baselines, n_samples, seed=1)[1])


def test_baselines_that_are_not_drawn_change_nothing(net, images, several):
    chosen, _ = draws(5, 2, seed=0)
    other = several.clone()
    other[[b for b in range(5) if b not in chosen.tolist()]] = 9.0
    first, second = (expected_gradients(net, images, 2, baselines=b, n_samples=2) for b in (several, other))
    assert torch.equal(first.native, second.native)
    assert torch.equal(first.extras["gap"], second.extras["gap"])


def test_each_image_asks_the_baselines_its_own_question(net, images, several):
    mixed = expected_gradients(net, images, [1, 4], baselines=several, n_samples=10)
    for n, target in enumerate((1, 4)):
        alone = expected_gradients(net, images[n : n + 1], target, baselines=several, n_samples=10)
        torch.testing.assert_close(mixed.native[n : n + 1], alone.native)
        torch.testing.assert_close(mixed.extras["gap"][n : n + 1], alone.extras["gap"])


def test_images_of_one_channel_and_odd_size_are_explained():
    e = expected_gradients(
        Residual(1).eval(), pictures(2, (33, 47), 1), baselines=pictures(3, (33, 47), 1), n_samples=6
    )
    assert e.native.shape == (2, 1, 33, 47)


@pytest.mark.parametrize(
    "settings",
    [{"n_samples": 0}, {"chunk": 0}, {"baselines": torch.zeros(2, 3, 5, 5)}, {"baselines": torch.zeros(0, 3, *SIZE)}],
)
def test_settings_that_make_no_sense_are_errors(net, images, settings):
    with pytest.raises(BadInput):
        expected_gradients(net, images, **settings)
