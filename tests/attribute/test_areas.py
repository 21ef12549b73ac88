"""The sorted area penalty and the ascent under it, against the paper's own expression and torch's optimiser."""

import pytest
import torch
from torch import Tensor

from glasshouse.attribute.areas import Game, area_counts, climb, settled, template
from glasshouse.core import BadInput, BadModel


def rows(*shape: int) -> Tensor:
    return torch.rand(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(0))


def test_areas_are_shares_or_numbers():
    assert area_counts((0.1, 0.025, 1.0, 3), 67_600).tolist() == [6760, 1690, 67_600, 3]
    assert area_counts((0.01,), 8).tolist() == [1]


@pytest.mark.parametrize("areas", [(), (0.0,), (1.5,), (-0.1, 0.2), (0,), (9,)])
def test_areas_that_make_no_sense_are_an_error(areas):
    with pytest.raises(BadInput, match="areas"):
        area_counts(areas, 8)


def test_the_template_is_sorting_where_no_values_are_equal():
    values, counts = rows(3, 50), torch.tensor([1, 7, 50])
    order, expected = values.argsort(1), torch.zeros_like(values)
    for row, count in enumerate(counts.tolist()):
        expected[row, order[row, 50 - count :]] = 1
    assert torch.equal(template(values, counts), expected)


def test_equal_values_share_their_place():
    values = torch.tensor([[0.2, 0.9, 0.9, 0.9 + 1e-7, 1.0, 0.2]])
    torch.testing.assert_close(template(values, torch.tensor([3])), torch.tensor([[0, 2 / 3, 2 / 3, 2 / 3, 1, 0]]))
    torch.testing.assert_close(template(torch.ones(1, 8), torch.tensor([2])), torch.full((1, 8), 0.25))


def test_the_template_has_the_area_asked_for():
    values = rows(4, 60).mul(6).round()
    counts = torch.tensor([1, 10, 31, 60])
    torch.testing.assert_close(template(values, counts).sum(1), counts.double())


def quadratic(best: Tensor) -> Game:
    """A reward that peaks at `best`, on masks that are their own free numbers."""

    def play(part: Tensor, masks: Tensor, step: int) -> Tensor:
        return -5 * (masks - best[part]).square().sum(1)

    return Game(lambda cells: cells, play, torch.tensor([4, 9]), lambda step: 300 * 1.0035**step)


def test_the_ascent_is_that_of_torchs_sgd_under_the_papers_penalty():
    best, start = rows(2, 20), 0.2 + 0.6 * rows(2, 20).flip(1)
    free, weight = start.clone(), 300.0
    optimiser, rewards = torch.optim.SGD([free], lr=0.01, momentum=0.9, dampening=0.9), []
    for _ in range(29):
        free.requires_grad_()
        reference = torch.zeros(2, 20).double()
        reference[0, 16:], reference[1, 11:] = 1, 1
        reward = -5 * (free - best).square().sum(1)
        penalty = weight * (free.sort(1)[0] - reference).square().mean(1)
        optimiser.zero_grad()
        (penalty - reward).sum().backward()
        optimiser.step()
        free.data.clamp_(0, 1)
        rewards.append(reward.detach())
        weight *= 1.0035
    found = climb(quadratic(best), start, 30, 0.01, 16)
    torch.testing.assert_close(found.cells, free.detach())
    torch.testing.assert_close(found.history[:, :-1], torch.stack(rewards, 1))
    torch.testing.assert_close(found.reward, -5 * (free.detach() - best).square().sum(1))
    assert torch.equal(found.history[:, -1], found.reward)


@pytest.mark.parametrize("chunk", [1, 16])
def test_a_row_does_not_know_its_neighbours(chunk):
    best, start = rows(2, 20), torch.ones(2, 20).double()
    both = climb(quadratic(best), start, 40, 0.01, chunk)
    game = quadratic(best[1:])
    alone = climb(game._replace(counts=torch.tensor([9])), start[1:], 40, 0.01, 16)
    torch.testing.assert_close(both.cells[1:], alone.cells, rtol=0, atol=1e-14)


def test_one_step_only_looks():
    best = rows(2, 20)
    found = climb(quadratic(best), torch.ones(2, 20).double(), 1, 0.01, 16)
    assert torch.equal(found.cells, torch.ones(2, 20).double())
    assert found.history.shape == (2, 1)


def test_a_mask_that_has_settled_rests_while_others_go_on():
    best = torch.zeros(2, 20).double()
    best[0, :4] = 1
    best[1] = 0.5  # wants to be grey, so its area is never reached
    calls: list[int] = []
    game = quadratic(best)

    def play(part: Tensor, masks: Tensor, step: int) -> Tensor:
        calls.append(len(part))
        return game.play(part, masks, step)

    found = climb(game._replace(play=play), torch.ones(2, 20).double(), 300, 0.01, 16, tolerance=0.02)
    assert calls[0] == 2
    assert 1 in calls
    assert calls[-1] == 2  # in the end all are looked at
    assert found.history.isfinite().all()
    assert found.history[0, -100:].unique().numel() == 1


def test_a_reward_that_still_moves_has_not_settled():
    gap, ramp = torch.tensor([0.0, 0.0, 0.5]), torch.linspace(0, 1, 200)
    flat = torch.cat([torch.linspace(0, 1, 50), torch.ones(150)])
    assert settled(torch.stack([ramp, flat, flat]), gap, 0.02).tolist() == [False, True, False]
    assert not settled(flat[None, :99], gap[:1], 0.02).any()


def test_a_reward_without_a_gradient_is_an_error():
    game = Game(
        lambda cells: cells, lambda part, masks, step: masks.detach().sum(1), torch.tensor([3]), lambda step: 300.0
    )
    with pytest.raises(BadModel, match="differentiated"):
        climb(game, torch.ones(1, 8), 5, 0.01, 16)
