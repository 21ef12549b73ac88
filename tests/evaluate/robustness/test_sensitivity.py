"""Sensitivity, Lipschitz constant, continuity: closed forms, slow loops, and Captum."""

import math
from functools import partial

import pytest
import torch
from captum.metrics import sensitivity_max
from torch import nn

from glasshouse import attribute, evaluate
from glasshouse.core import BadInput, Model, Preprocess
from glasshouse.evaluate.robustness.neighbours import largest, noise
from glasshouse.evaluate.robustness.sensitivity import (
    SHIFTS,
    avg_sensitivity,
    continuity,
    local_lipschitz,
    max_sensitivity,
    translated,
)
from glasshouse.evaluate.sanity import replaying

NOISY = (max_sensitivity, avg_sensitivity, local_lipschitz)


def draw(shape: torch.Size, seed: int, number: int, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    """The noise that the documentation promises: uniform, by the number of the copy."""
    source = torch.Generator().manual_seed(seed * 1_000_003 + number)
    return (2 * torch.rand(shape, generator=source, dtype=torch.float64) - 1).to(dtype)


@pytest.mark.parametrize("metric", NOISY)
def test_the_gradient_of_a_linear_model_is_perfectly_stable(metric, linear, inputs):
    score = metric(linear, inputs, attribute.saliency(linear, inputs, 0))
    assert score.value.tolist() == score.stderr.tolist() == [0, 0, 0]
    assert (score.direction, score.chance) == ("down", None)


@pytest.mark.parametrize("h", [0.5, -3.0])
def test_the_lipschitz_constant_of_a_round_quadratic_is_its_curvature(quadratic, inputs, h):
    quadratic.h.data.copy_(h * torch.eye(48))
    score = local_lipschitz(quadratic, inputs, attribute.saliency(quadratic, inputs))
    torch.testing.assert_close(score.value, torch.full((3,), abs(h)), atol=1e-5, rtol=1e-5)


def test_the_lipschitz_constant_of_a_quadratic_is_below_the_largest_singular_value(quadratic, inputs):
    bound = torch.linalg.svdvals(quadratic.h.detach())[0]
    score = local_lipschitz(quadratic, inputs, attribute.saliency(quadratic, inputs), n_samples=50)
    assert (score.value < bound).all()
    assert (score.value > 0.4 * bound).all(), "of 48 directions, random ones see the mean square of the curvature"


@pytest.mark.parametrize("same", [True, False])
def test_all_three_are_a_slow_loop_over_copies(cnn, images, same):
    explanation = attribute.input_x_gradient(cnn, images)
    relative, steep, counted = (torch.zeros(3, 6, dtype=torch.float64) for _ in range(3))
    for index in range(3):
        for number in range(6):
            copy = images[index] + 1.5 * draw(images.shape[1:], 4, number)
            moved = attribute.input_x_gradient(cnn, copy[None], explanation.target[index]).native[0]
            change = float((moved - explanation.native[index]).norm())
            relative[index, number] = change / float(explanation.native[index].norm())
            steep[index, number] = change / float((copy - images[index]).norm())
            counted[index, number] = not same or bool(cnn(copy[None]).argmax() == cnn(images[index][None]).argmax())
    options = {"radius": 1.5, "n_samples": 6, "same_prediction": same, "seed": 4}
    expected = {
        max_sensitivity: (relative * counted).amax(1),
        avg_sensitivity: (relative * counted).sum(1) / counted.sum(1),
        local_lipschitz: (steep * counted).amax(1),
    }
    assert not same or 0 < counted.mean() < 1, "some copies change class, or the test tests nothing"
    for metric, value in expected.items():
        score = metric(cnn, images, explanation, **options)
        torch.testing.assert_close(score.value, value.float(), atol=1e-4, rtol=1e-3)
        torch.testing.assert_close(score.extras["dropped"], 1 - counted.mean(1).float())
        assert (score.n_forward, score.n_backward) == (18 + 21 * same, 18)


def test_captum_agrees_on_the_same_copies(cnn, images):
    explanation = attribute.input_x_gradient(cnn, images)

    def explain(inputs, target):
        inputs = inputs[0] if isinstance(inputs, tuple) else inputs
        return (attribute.input_x_gradient(cnn, inputs, target).native,)

    def disturb(inputs):
        inputs = inputs[0] if isinstance(inputs, tuple) else inputs
        steps = torch.stack([0.3 * draw(images.shape[1:], 2, number) for number in range(5)])
        return inputs + steps.repeat(len(inputs) // 5, 1, 1, 1)

    target = torch.tensor(explanation.target)
    theirs = sensitivity_max(explain, images, perturb_func=disturb, n_perturb_samples=5, target=target)
    mine = max_sensitivity(cnn, images, explanation, radius=0.3, n_samples=5, same_prediction=False, seed=2)
    torch.testing.assert_close(mine.value, theirs, atol=1e-4, rtol=1e-3)


def test_a_radius_is_in_units_of_the_picture_where_the_preprocessing_is_known(cnn, images):
    model = Model.of(cnn, preprocess=Preprocess(size=(14, 18), mean=(0.4, 0.5, 0.6), std=(0.2, 0.5, 0.25)))
    disturb = noise(model, images, 0.1, 40, 0)
    reach = torch.stack([disturb(torch.tensor([0]), [s])[0] - images[0] for s in range(40)]).abs().amax((0, 2, 3))
    torch.testing.assert_close(reach, torch.tensor([0.5, 0.2, 0.4]), atol=0.0, rtol=0.01)
    explanation = attribute.saliency(cnn, images)
    bare = noise(cnn, images, 0.1, 40, 0)
    assert (bare(torch.tensor([0]), [3])[0] - images[0]).abs().max() <= 0.1 + 1e-6
    assert not torch.allclose(
        max_sensitivity(model, images, explanation).value, max_sensitivity(cnn, images, explanation).value
    )


def test_a_preprocessing_of_other_channels_is_refused(cnn, images):
    model = Model.of(cnn, preprocess=Preprocess(size=(14, 18), mean=(0.4,), std=(0.2,)))
    with pytest.raises(BadInput, match="3 channels where the preprocessing has 1"):
        max_sensitivity(model, images, attribute.saliency(cnn, images))


def test_the_number_of_copies_explained_at_once_does_not_matter(cnn, images, monkeypatch):
    metric = avg_sensitivity  # all of them are made of the same copies
    explanation = attribute.smooth(cnn, images, n_samples=2)
    whole = metric(cnn, images, explanation, n_samples=4)
    monkeypatch.setattr(replaying, "MOST_AT_ONCE", 5)
    torch.testing.assert_close(metric(cnn, images, explanation, n_samples=4).value, whole.value, atol=1e-5, rtol=1e-4)


def test_more_copies_only_raise_the_maximum(cnn, images):
    explanation = attribute.input_x_gradient(cnn, images)
    few, many = (max_sensitivity(cnn, images, explanation, n_samples=n).value for n in (3, 12))
    assert (many >= few - 1e-6).all()


def test_the_error_of_a_maximum_is_that_of_a_bootstrap():
    draws = torch.Generator().manual_seed(0)
    value = torch.rand(1, 9, dtype=torch.float64, generator=draws).expand(2, 9).clone()
    counted = torch.ones(2, 9, dtype=torch.bool)
    value[1, 4:], counted[1, 4:] = torch.nan, False
    found, error = largest(value, counted)
    for row, m in ((0, 9), (1, 4)):
        again = value[row, torch.randint(m, (200_000, m), generator=draws)].amax(1)
        assert float(found[row]) == float(value[row, :m].max())
        assert float(error[row]) == pytest.approx(float(again.std()), rel=0.02)


class Step(nn.Module):
    """Class 1 from a mean of 0.5 upwards, with a gradient that never vanishes."""

    def forward(self, x):
        mean = x.flatten(1).mean(1)
        return torch.stack([torch.full_like(mean, 0.5), mean + 0 * mean**2], 1)


def test_copies_of_another_class_do_not_count():
    images = torch.full((2, 1, 6, 8), 0.5001)
    images[1] = 5.0
    explanation = attribute.input_x_gradient(Step(), images)
    score = max_sensitivity(Step(), images, explanation, n_samples=30)
    assert 0.1 < float(score.extras["dropped"][0]) < 0.9
    assert float(score.extras["dropped"][1]) == 0
    assert score.valid.all()


def test_where_every_copy_changes_class_there_is_a_reason():
    images = torch.full((1, 1, 6, 8), 0.5 + 1e-6, dtype=torch.float64)
    explanation = attribute.input_x_gradient(Step(), images)
    falls = [seed for seed in range(30) if draw(images.shape[1:], seed, 0, torch.float64).mean() < -0.01]
    score = max_sensitivity(Step(), images, explanation, n_samples=1, seed=falls[0])
    assert score.reason == ("no_neighbour",)
    assert score.extras["dropped"].tolist() == [1]
    assert max_sensitivity(Step(), images, explanation, n_samples=1, seed=falls[0], same_prediction=False).valid.all()


class Total(nn.Module):
    """Linear with one score: weights all 1."""

    def forward(self, x):
        return x.flatten(1).sum(1, keepdim=True)


def local_net(channels: int = 2) -> nn.Module:
    """A function of each pixel by itself, summed: it moves with the image."""
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(0)
        return nn.Sequential(
            nn.Conv2d(channels, 4, 1), nn.Tanh(), nn.Conv2d(4, 3, 1), nn.AdaptiveAvgPool2d(1), nn.Flatten()
        ).eval()


def test_a_map_that_follows_its_image_is_continuous_once_it_is_moved_back():
    images = torch.randn(2, 2, 9, 13, generator=torch.Generator().manual_seed(0))
    model, options = local_net(), {"shifts": ((0, 1), (1, 0), (-2, 3), (4, -5)), "same_prediction": False}
    explanation = attribute.input_x_gradient(model, images)
    plain, followed = (continuity(model, images, explanation, equivariant=e, **options) for e in (False, True))
    assert (plain.value > 1e-3).all()
    assert followed.value.max() < 1e-6
    assert followed.stderr.tolist() == [0, 0]


def test_continuity_is_a_slow_loop_over_shifts(cnn, images):
    explanation = attribute.input_x_gradient(cnn, images)
    shifts = ((0, 2), (3, 0), (-1, 4))
    for equivariant in (False, True):
        score = continuity(cnn, images, explanation, shifts=shifts, equivariant=equivariant, same_prediction=False)
        for index in range(3):
            for place, (down, right) in enumerate(shifts):
                rows = (torch.arange(14) - down).clamp(0, 13)
                columns = (torch.arange(18) - right).clamp(0, 17)
                moved = images[index][:, rows][:, :, columns]
                a = explanation.heatmap[index]
                b = attribute.input_x_gradient(cnn, moved[None], explanation.target[index]).heatmap[0]
                total = 0.0
                for i in range(14):
                    for j in range(18):
                        if not equivariant:
                            total += abs(float(b[i, j] - a[i, j]))
                        elif 0 <= i + down < 14 and 0 <= j + right < 18:
                            total += abs(float(b[i + down, j + right] - a[i, j]))
                expected = total / float((moved - images[index]).norm())
                assert float(score.extras["curve"][index, place]) == pytest.approx(expected, rel=1e-3)
        torch.testing.assert_close(score.value, score.extras["curve"].amax(1))


def test_images_move_by_whole_pixels_and_borders_repeat():
    image = torch.arange(12.0).view(1, 1, 3, 4)
    assert translated(image, 1, 0)[0, 0].tolist() == [[0, 1, 2, 3], [0, 1, 2, 3], [4, 5, 6, 7]]
    assert translated(image, 0, -2)[0, 0].tolist() == [[2, 3, 3, 3], [6, 7, 7, 7], [10, 11, 11, 11]]


def test_quantus_crashes_with_numpy_2_where_a_shift_changes_the_class_but_here_that_shift_does_not_count():
    image = torch.full((1, 1, 6, 8), 0.45)
    image[..., -1] = 0.95  # the mean is 0.51; one step to the right and it is 0.45
    explanation = attribute.input_x_gradient(Step(), image)
    score = continuity(Step(), image, explanation, shifts=((0, 1), (0, -1)))
    assert score.extras["dropped"].tolist() == [0.5]
    torch.testing.assert_close(score.value, score.extras["curve"][:, 1])


def test_a_flat_image_does_not_move():
    images = torch.stack([torch.ones(1, 9, 9), torch.randn(1, 9, 9, generator=torch.Generator().manual_seed(0))])
    explanation = attribute.saliency(Total(), images)
    score = continuity(Total(), images, explanation)
    assert score.reason == ("no_neighbour", "")
    assert score.value[1] == 0
    assert len(score.settings["shifts"]) == len(SHIFTS)


@pytest.mark.parametrize("metric", [*NOISY, continuity])
def test_maps_without_meaning_have_reasons(metric, cnn, images, explained):
    metric = metric if metric is continuity else partial(metric, n_samples=2)
    changed = metric(cnn, images, explained(torch.rand(3, 14, 18), 1, method="saliency"))
    assert metric is continuity or set(changed.reason) == {"edited_map"}
    broken = attribute.saliency(cnn, images)
    broken.native[1] = math.nan
    assert metric(cnn, images, broken).reason == ("", "not_finite", "")
    cnn[7].weight.data.zero_()
    empty = metric(cnn, images, attribute.saliency(cnn, images, 0))
    stable = getattr(metric, "func", metric) in (local_lipschitz, continuity)
    assert empty.value.tolist() == [0, 0, 0] if stable else set(empty.reason) == {"zero_total"}
    custom = attribute.saliency(cnn, images, lambda output: output[:, 0])
    assert set(metric(cnn, images, custom).reason) == {"custom_target"}


def test_a_lone_grey_image_with_a_layers_map_works(random_maps):
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(0)
        model = nn.Sequential(
            nn.Conv2d(1, 4, 3, stride=2), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 3)
        ).eval()
    image = random_maps(1, (11, 23))[:, None]
    explanation = attribute.grad_cam(model, image)
    for metric in (max_sensitivity, continuity):
        assert metric(model, image, explanation).valid.all()


def test_wrong_settings_are_refused(cnn, images):
    explanation = attribute.saliency(cnn, images)
    for metric in NOISY:
        for wrong in ({"radius": 0.0}, {"radius": math.nan}, {"n_samples": 0}):
            with pytest.raises(BadInput, match="must be above 0"):
                metric(cnn, images, explanation, **wrong)
    for shifts in (((0, 0),), ((14, 0),), ((0, -18),)):
        with pytest.raises(BadInput, match="out of sight"):
            continuity(cnn, images, explanation, shifts=shifts)
    with pytest.raises(BadInput, match="no shifts"):
        continuity(cnn, images, explanation, shifts=())
    with pytest.raises(BadInput, match="not of these images"):
        max_sensitivity(cnn, images[:1], explanation)


def test_in_a_suite_metrics_of_the_same_noisy_copies_explain_them_once(cnn, images, counted):
    explanation, sizes = attribute.input_x_gradient(cnn, images), counted(cnn)
    noisy = {"radius": 0.1, "n_samples": 7, "same_prediction": False}
    wanted = {metric.__name__: noisy for metric in NOISY}
    together = evaluate.suite(cnn, images, explanation, {**wanted, "avg_sensitivity": {**noisy, "radius": 0.2}})
    scores = together[explanation.method]
    assert sum(sizes) == 3 * (7 + 7), "the copies that two metrics share, and those of the third"
    assert [scores[metric.__name__].n_forward for metric in NOISY] == [21, 21, 0]
    assert together.n_forward == 42
    for name, score in scores.items():
        alone = getattr(evaluate, name)(cnn, images, explanation, **{**noisy, "radius": score.settings["radius"]})
        torch.testing.assert_close(score.value, alone.value)
        torch.testing.assert_close(score.stderr, alone.stderr)
        assert alone.n_forward == 21
