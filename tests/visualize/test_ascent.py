"""The optimiser beside torch's, and what happens where there is no gradient or no number."""

import math

import pytest
import torch

from glasshouse.core import BadModel, generator
from glasshouse.core.backward import Rules
from glasshouse.visualize.ascent import REDIRECT, ascend, plain


def hill(theta):
    return -(theta - torch.arange(3).double()).square().sum(1) * torch.tensor([1.0, 50.0]).double()


def start(n=2):
    return torch.randn(n, 3, generator=generator(0), dtype=torch.float64)


def test_ascent_is_adam_number_by_number():
    theta, history, drawn = ascend(hill, start(), 30, 0.05)
    steepness = (1.0, 50.0)
    for row, numbers in enumerate(start().tolist()):
        for place, x in enumerate(numbers):
            mean = square = 0.0
            for t in range(1, 31):
                slope = -2 * (x - place) * steepness[row]
                mean, square = 0.9 * mean + 0.1 * slope, 0.999 * square + 0.001 * slope**2
                x += 0.05 * (mean / (1 - 0.9**t)) / (math.sqrt(square / (1 - 0.999**t)) + 1e-8)
            assert float(theta[row, place]) == pytest.approx(x, abs=1e-12)
    torch.testing.assert_close(history[:, 0], hill(start()))
    assert history.shape == (2, 30)
    assert drawn.all()


def test_a_step_that_is_no_number_is_left_out_for_that_picture_alone():
    calls = iter(range(100))

    def climb(theta):
        bad = torch.tensor([1.0, torch.nan if next(calls) == 4 else 1.0]).double()
        return hill(theta) * bad

    broken, history, _ = ascend(climb, start(), 5, 0.05)
    whole, _, _ = ascend(hill, start(), 5, 0.05)
    shorter, _, _ = ascend(hill, start(), 4, 0.05)
    assert torch.equal(broken[0], whole[0])
    assert torch.equal(broken[1], shorter[1])
    assert history[1, 4].isnan()


def test_the_step_is_halved_after_one_that_is_no_number():
    def flat(broken):
        calls = iter(range(100))

        def climb(theta):
            return theta.sum(1) * (torch.nan if next(calls) in broken else 1.0)

        return climb

    once, _, _ = ascend(flat({0}), start(), 2, 0.05)
    torch.testing.assert_close(once - start(), torch.full((2, 3), 0.025, dtype=torch.float64))


def test_an_objective_that_stays_no_number_is_an_error():
    with pytest.raises(BadModel, match="objective of picture 1 is not finite"):
        ascend(lambda theta: hill(theta) * torch.tensor([1.0, torch.nan]), start(), 20, 0.05)


def test_pictures_without_any_gradient_are_reported():
    _, _, drawn = ascend(lambda theta: theta.sum(1) * torch.tensor([0.0, 1.0]), start(), 3, 0.05)
    assert drawn.tolist() == [False, True]


@pytest.mark.parametrize("kind", ["relu", "relu6"])
def test_a_redirected_relu_is_the_plain_one_unless_a_picture_gets_nothing_at_all(kind):
    function = getattr(torch.nn.functional, kind)
    value = torch.tensor([[-1.0, 2.0, 7.0], [-1.0, -2.0, 7.0], [-1.0, -2.0, -3.0]]).double().requires_grad_()
    weight = torch.tensor([[1.0, 2.0, -3.0], [1.0, -2.0, -3.0], [1.0, -2.0, 4.0]]).double()
    with Rules(REDIRECT):
        output = function(value)
    assert torch.equal(output, function(value))
    (gradient,) = torch.autograd.grad((output * weight).sum(), value)
    high = float("inf") if kind == "relu" else 6.0
    for v, w, g in zip(value.tolist(), weight.tolist(), gradient.tolist(), strict=True):
        plain = [b if 0 < a < high else 0.0 for a, b in zip(v, w, strict=True)]
        up = [
            b if 0 < a < high or (a <= 0 and b > 0) or (a >= high and b < 0) else 0.0 for a, b in zip(v, w, strict=True)
        ]
        assert g == (plain if any(plain) else up)


def test_progress_is_told_every_step():
    told = []
    ascend(hill, start(), 3, 0.05, lambda done, total: told.append((done, total)))
    assert told == [(1, 3), (2, 3), (3, 3)]


def test_plain_ascent_with_momentum_number_by_number():
    theta, _, _ = ascend(hill, start(), 6, 0.01, optimiser=plain(0.9))
    steepness = (1.0, 50.0)
    for row, numbers in enumerate(start().tolist()):
        for place, x in enumerate(numbers):
            velocity = 0.0
            for _ in range(6):
                velocity = 0.9 * velocity - 2 * (x - place) * steepness[row]
                x += 0.01 * velocity
            assert float(theta[row, place]) == pytest.approx(x, rel=1e-9)


def test_filters_come_in_their_order_and_leave_out_pictures_without_a_number():
    seen = []

    def halve(values, moment):
        seen.append(("gradient", moment.step, moment.steps))
        return values / 2

    def shift(values, moment):
        seen.append(("picture", moment.step, moment.done))
        return values + 1

    def climb(theta):
        return theta.sum(1) * torch.tensor([1.0, torch.nan]).double()

    theta, _, _ = ascend(climb, start(), 2, 0.1, optimiser=plain(), gradients=[halve], filters=[shift])
    torch.testing.assert_close(theta[0], start()[0] + 2 * (0.05 + 1))
    assert torch.equal(theta[1], start()[1])
    assert seen == [("gradient", 0, 2), ("picture", 0, 0.0), ("gradient", 1, 2), ("picture", 1, 1.0)]
