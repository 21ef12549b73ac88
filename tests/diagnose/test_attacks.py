"""Attacks against closed forms on linear models, a literal loop, and the ball they must stay in."""

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from glasshouse import diagnose
from glasshouse.core import BadInput, Model, Preprocess, find_method, list_methods
from glasshouse.diagnose.attacks import Ball

COLOUR = Preprocess(size=(14, 18), mean=(0.5, 0.4, 0.3), std=(0.2, 0.25, 0.5), channel_order="bgr")


@pytest.fixture
def linear(images) -> nn.Sequential:
    """Two classes; the gradient of the margin is the difference of two rows of weights."""
    net = nn.Sequential(nn.Flatten(), nn.Linear(images[0].numel(), 2)).double().eval()
    nn.init.normal_(net[1].weight, std=0.02, generator=torch.Generator().manual_seed(0))
    return net


@pytest.fixture
def pixels() -> Tensor:
    """Photographs with values at both ends of the range."""
    return torch.rand(3, 3, 14, 18, generator=torch.Generator().manual_seed(1)).mul(1.2).sub(0.1).clamp(0, 1)


@pytest.fixture
def model(cnn) -> Model:
    return Model.of(cnn, preprocess=COLOUR)


def toward_the_other(net: nn.Sequential, images: Tensor) -> Tensor:
    """For each image, the direction in which the class that is not on top gains."""
    top = net(images).argmax(1)
    weight = net[1].weight.detach()
    return (weight[1 - top] - weight[top]).view_as(images)


def test_one_step_on_a_linear_model_has_a_closed_form(linear, images):
    images = images.double()
    found = diagnose.fgsm(linear, images, epsilon=0.1)
    direction = toward_the_other(linear, images)
    torch.testing.assert_close(found.images, images + 0.1 * direction.sign())
    margin = (linear(images)[:, 0] - linear(images)[:, 1]).abs()
    gain = 0.1 * direction.flatten(1).abs().sum(1)
    assert torch.equal(found.success, gain > margin)
    assert torch.equal(found.labels, linear(images).argmax(1))
    torch.testing.assert_close(found.distance, torch.full((3,), 0.1).double())


def test_steps_of_fixed_length_on_a_linear_model_end_at_the_border_of_the_ball(linear, images):
    images = images.double()
    found = diagnose.pgd(linear, images, epsilon=0.5, step_size=0.2, n_steps=60, norm="l2")
    direction = toward_the_other(linear, images)
    nearest = direction / direction.flatten(1).norm(dim=1).view(-1, 1, 1, 1)
    torch.testing.assert_close(found.images, images + 0.5 * nearest, rtol=0, atol=1e-6)
    torch.testing.assert_close(found.distance, torch.full((3,), 0.5).double())


def test_a_targeted_attack_goes_to_its_class_and_the_other_kind_away_from_it(linear, images):
    images = images.double()
    away = diagnose.fgsm(linear, images, 0, epsilon=0.3)
    to = diagnose.fgsm(linear, images, 1, epsilon=0.3, targeted=True)
    torch.testing.assert_close(away.images, to.images)  # there are two classes only
    assert torch.equal(to.success, to.after == 1)
    assert torch.equal(away.success, away.after != 0)


def by_hand(net, image, label, *, epsilon, step_size, n_steps, norm, start, sign=1):
    """One image in the model's input space, without a range."""
    x, delta = image.clone(), start.clone()
    for _ in range(n_steps):
        point = (x + delta).requires_grad_()
        loss = -net(point).log_softmax(1)[0, label]
        (slope,) = torch.autograd.grad(sign * loss, point)
        if norm == "linf":
            delta = (delta + step_size * slope.sign()).clamp(-epsilon, epsilon)
        else:
            delta = delta + step_size * slope / slope.norm()
            delta = delta * min(1.0, epsilon / float(delta.norm()))
    return x + delta


@pytest.mark.parametrize(("norm", "epsilon", "step_size"), [("linf", 0.1, 0.03), ("l2", 1.0, 0.3)])
@pytest.mark.parametrize("targeted", [False, True])
def test_equals_a_loop_over_single_images(cnn, images, norm, epsilon, step_size, targeted):
    net, images, labels = cnn.double(), images.double(), [0, 3, 1]
    settings = {"epsilon": epsilon, "step_size": step_size, "n_steps": 5, "norm": norm}
    found = diagnose.pgd(net, images, labels, targeted=targeted, random_start=False, **settings)
    for n, label in enumerate(labels):
        one = images[n : n + 1]
        expected = by_hand(net, one, label, start=torch.zeros_like(one), sign=-1 if targeted else 1, **settings)
        torch.testing.assert_close(found.images[n : n + 1], expected)


def test_one_projected_step_of_full_length_is_the_fast_method(model, pixels):
    images = COLOUR.normalise(pixels)
    one = diagnose.pgd(model, images, epsilon=0.05, step_size=0.05, n_steps=1, random_start=False)
    assert torch.equal(one.images, diagnose.fgsm(model, images, epsilon=0.05).images)


def test_pixels_move_by_epsilon_unless_they_meet_black_or_white(model, pixels):
    found = diagnose.fgsm(model, COLOUR.normalise(pixels), epsilon=8 / 255)
    moved = COLOUR.pixels(found.images) - pixels
    room = torch.where(moved > 0, 1 - pixels, pixels)
    slope = moved.abs() > 1e-6  # where the network looks, and there was room
    expected = torch.minimum(torch.full_like(room, 8 / 255), room)
    torch.testing.assert_close(moved.abs()[slope], expected[slope], rtol=0, atol=1e-6)
    assert slope.float().mean() > 0.8
    assert (expected[slope] < 8 / 255 - 1e-4).any()


@pytest.mark.parametrize("random_start", [True, False])
@pytest.mark.parametrize(("norm", "epsilon"), [("linf", 0.1), ("l2", 0.7)])
def test_what_comes_out_lies_in_the_ball_and_in_the_range_of_pixels(model, pixels, norm, epsilon, random_start):
    images = COLOUR.normalise(pixels)
    found = diagnose.pgd(
        model, images, epsilon=epsilon, step_size=epsilon / 3, n_steps=7, norm=norm, random_start=random_start
    )
    spread = COLOUR.normalise(torch.ones(1, 3, 1, 1)) - COLOUR.normalise(torch.zeros(1, 3, 1, 1))
    change = ((found.images - images) / spread).flatten(1)
    length = change.abs().amax(1) if norm == "linf" else change.norm(dim=1)
    assert (length <= epsilon + 1e-5).all()
    torch.testing.assert_close(length, found.distance, rtol=1e-4, atol=1e-5)
    black, white = (COLOUR.normalise(torch.full((1, 3, 1, 1), value)) for value in (0.0, 1.0))
    assert (found.images >= black - 1e-5).all()
    assert (found.images <= white + 1e-5).all()


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_no_room_means_no_change(model, pixels, norm):
    images = COLOUR.normalise(pixels)
    found = diagnose.pgd(model, images, epsilon=0.0, norm=norm)
    assert torch.equal(found.images, images)
    assert torch.equal(found.before, found.after)
    assert not found.success.any()
    assert not found.distance.any()


def test_where_nothing_matters_nothing_moves(images):
    net = nn.Sequential(nn.Flatten(), nn.Linear(images[0].numel(), 2))
    nn.init.zeros_(net[1].weight)
    for norm in ("linf", "l2"):
        assert torch.equal(diagnose.pgd(net, images, norm=norm, random_start=False).images, images)


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_where_the_loss_is_convex_every_step_raises_it(linear, images, norm):
    images, labels = images.double(), torch.tensor([0, 1, 0])

    def loss(steps: int) -> Tensor:
        found = diagnose.pgd(
            linear, images, labels, epsilon=0.2, step_size=0.03, n_steps=steps, norm=norm, random_start=False
        )
        return -linear(found.images).log_softmax(1)[range(3), labels].detach()

    losses = torch.stack([loss(steps) for steps in range(1, 9)])
    assert (losses.diff(dim=0) >= -1e-12).all()
    assert (losses[-1] > losses[0]).all()


def test_random_starts_fill_the_ball_evenly():
    # In a ball of d dimensions a share s^d of the volume lies within the share s of the radius.
    draws, image = torch.Generator().manual_seed(0), torch.zeros(1, 1, 2, 2)
    lengths = torch.stack([Ball("l2", 2.0, 0.0, 1, draws).start(image).norm() for _ in range(2000)])
    assert lengths.max() <= 2
    assert abs(float((lengths < 2 * 0.5**0.25).float().mean()) - 0.5) < 0.05
    values = torch.cat([Ball("linf", 2.0, 0.0, 1, draws).start(image) for _ in range(2000)])
    assert values.abs().max() <= 2
    assert abs(float(values.mean())) < 0.05
    assert abs(float(values.abs().mean()) - 1) < 0.05


def test_more_steps_cost_the_class_more_than_one(cnn, images):
    fast = diagnose.fgsm(cnn, images, epsilon=0.3)
    slow = diagnose.pgd(cnn, images, epsilon=0.3, step_size=0.06, n_steps=20, random_start=False)

    def left(found: diagnose.Adversarial) -> Tensor:
        return cnn(found.images).log_softmax(1).gather(1, found.labels[:, None])

    assert (left(slow) <= left(fast) + 1e-6).all()


@pytest.mark.parametrize("chunk", [1, 2, 7])
def test_images_do_not_influence_each_other(model, pixels, chunk):
    images = COLOUR.normalise(pixels)
    together = diagnose.pgd(model, images)
    parts = diagnose.pgd(model, images, chunk=chunk)
    torch.testing.assert_close(parts.images, together.images, rtol=0, atol=1e-5)
    alone = diagnose.pgd(model, images[1:2])
    torch.testing.assert_close(alone.images, together.images[1:2], rtol=0, atol=1e-5)


def test_answers_before_and_after_are_the_models_own(model, pixels):
    images = COLOUR.normalise(pixels)
    found = diagnose.pgd(model, images, epsilon=0.2, step_size=0.05)
    assert torch.equal(found.before, model(images).argmax(1))
    assert torch.equal(found.after, model(found.images).argmax(1))
    assert torch.equal(found.changed, found.before != found.after)


class Passes:
    """Images that went through. Copies of a network share it."""

    def __init__(self):
        self.forward, self.backward = 0, 0

    def __deepcopy__(self, memo: dict[int, Any]) -> "Passes":
        return self


class Counted(nn.Module):
    def __init__(self):
        super().__init__()
        self.passes, self.head = Passes(), nn.Linear(3 * 14 * 18, 4)

    def forward(self, inputs: Tensor) -> Tensor:
        out = self.head(inputs.flatten(1))
        self.passes.forward += len(inputs)
        if out.requires_grad:
            out.register_hook(self.count)
        return out

    def count(self, gradient: Tensor) -> None:
        self.passes.backward += len(gradient)


@pytest.mark.parametrize("name", ["fgsm", "pgd"])
def test_an_attack_makes_the_passes_that_it_declares(images, name):
    info, net = find_method(name, "diagnose"), Counted().eval()
    info.function(net, images)
    net.passes.forward = net.passes.backward = 0
    info.function(net, images)
    assert info.cost is not None
    cost = info.cost(info.defaults, tuple(images.shape))
    assert (net.passes.forward, net.passes.backward) == (3 * cost.forward, 3 * cost.backward)


def test_the_model_and_the_images_are_left_as_they_were(cnn, images):
    cnn.requires_grad_(True)
    cnn(images).sum().backward()
    weights, gradients = copy.deepcopy(cnn.state_dict()), [p.grad.clone() for p in cnn.parameters()]
    before = images.clone()
    with torch.no_grad():
        diagnose.pgd(cnn, images)
    assert torch.equal(images, before)
    assert not images.requires_grad
    assert all(torch.equal(value, weights[name]) for name, value in cnn.state_dict().items())
    assert all(torch.equal(p.grad, old) for p, old in zip(cnn.parameters(), gradients, strict=True))


def test_an_attack_is_repeated_by_its_settings_and_saved(model, pixels, tmp_path):
    images = COLOUR.normalise(pixels)
    found = diagnose.pgd(model, images, norm="l2", epsilon=1.0, step_size=0.3, seed=4)
    again = diagnose.pgd(model, images, found.labels, **found.settings)
    assert torch.equal(again.images, found.images)
    back = diagnose.Adversarial.load(found.save(tmp_path / "attack.safetensors"))
    assert torch.equal(back.images, found.images)
    assert repr(back) == repr(found)
    assert "pgd, 3 images" in repr(found)


def test_attacks_are_in_the_registry():
    assert {"diagnose.fgsm", "diagnose.pgd", "diagnose.detect_adversarial", "diagnose.recover_labels"} <= set(
        list_methods("diagnose.*")
    )


@pytest.mark.parametrize(
    ("target", "settings", "words"),
    [
        (None, {"targeted": True}, "where to"),
        (lambda output: output[:, 0], {}, "a class for each image"),
        (7, {}, "out of range"),
        (None, {"epsilon": -0.1}, "in range"),
        (None, {"n_steps": 0}, "in range"),
    ],
    ids=["no goal", "function", "class", "epsilon", "steps"],
)
def test_what_makes_no_sense_is_an_error(cnn, images, target, settings, words):
    with pytest.raises(BadInput, match=words):
        diagnose.pgd(cnn, images, target, **settings)


def test_images_that_are_no_photographs_are_an_error_where_pixels_are_asked_for(model, pixels):
    with pytest.raises(BadInput, match=r"beyond 0…1"):
        diagnose.fgsm(model, COLOUR.normalise(pixels) * 2)
