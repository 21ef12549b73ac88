"""Nonnegative sums: SciPy's solutions, every greedy step the best there is, and what the first published code does."""

import itertools

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from glasshouse.dissect.concepts.cones import Choice, gram_schmidt, greedy_nnls, nnls


def unit(*shape: int, seed: int, shared: float = 0.0) -> Tensor:
    """Random vectors of length 1; `shared` pulls them towards each other."""
    drawn = torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return F.normalize(drawn + shared)


def best(vectors: Tensor, goal: Tensor, members: list[int]) -> float:
    """What SciPy's nonnegative least squares leave."""
    optimize = pytest.importorskip("scipy.optimize")
    return float(optimize.nnls(vectors[members].T.numpy(), goal.numpy())[1])


@pytest.mark.parametrize("shared", [0.0, 1.0, 4.0])
def test_coefficients_are_those_of_scipy(shared):
    optimize = pytest.importorskip("scipy.optimize")
    vectors, goals = unit(7, 12, seed=0, shared=shared), unit(40, 12, seed=1, shared=shared / 2)
    found = nnls((vectors @ vectors.T).expand(40, -1, -1), goals @ vectors.T)
    for goal, coefficients in zip(goals, found, strict=True):
        torch.testing.assert_close(coefficients, torch.tensor(optimize.nnls(vectors.T.numpy(), goal.numpy())[0]))
    assert (found == 0).any()


@pytest.mark.parametrize(("seed", "shared"), [(0, 0.0), (1, 0.7), (2, 1.5), (3, 3.0)])
def test_every_step_takes_the_vector_that_leaves_least(seed, shared):
    vectors, goals = unit(9, 6, seed=seed, shared=shared), unit(12, 6, seed=seed + 50)
    vectors[3] = vectors[1]  # the same concept twice
    found = greedy_nnls(goals, vectors, 5)
    for goal, chosen, errors in zip(goals, found.chosen.tolist(), found.errors.tolist(), strict=True):
        members, before = list[int](), 1.0
        for number, error in zip(chosen, errors, strict=True):
            rest = [best(vectors, goal, [*members, c]) for c in range(9) if c not in members]
            assert error == pytest.approx(min(min(rest), before), abs=1e-7)
            if number >= 0:
                members.append(number)
            assert (
                best(vectors, goal, members) == pytest.approx(error, abs=1e-7) if members else error == pytest.approx(1)
            )
            before = error


def test_one_vector_is_the_best_of_all_and_more_are_at_best_the_best_of_all_sets():
    vectors, goals = unit(8, 6, seed=5, shared=0.5), unit(10, 6, seed=6)
    found = greedy_nnls(goals, vectors, 3)
    for goal, errors in zip(goals, found.errors.tolist(), strict=True):
        for size, error in enumerate(errors, 1):
            least = min(best(vectors, goal, list(members)) for members in itertools.combinations(range(8), size))
            assert error >= least - 1e-9
            assert size > 1 or error == pytest.approx(least)


def check_conditions(goals: Tensor, vectors: Tensor, found: Choice) -> None:
    left = goals - torch.einsum("ks,ksd->kd", found.coefficients, vectors[found.chosen.clamp(min=0)])
    pull = torch.einsum("ksd,kd->ks", vectors[found.chosen.clamp(min=0)], left)
    there = found.chosen >= 0
    assert (found.coefficients >= 0).all()
    assert (pull[there & (found.coefficients > 0)].abs() < 1e-10).all()
    assert (pull[there & (found.coefficients == 0)] < 1e-10).all()
    torch.testing.assert_close(left.norm(dim=1), found.errors[:, -1])
    assert (found.errors.diff(dim=1) <= 1e-12).all()


@pytest.mark.parametrize("shared", [0.0, 2.0])
def test_residuals_obey_the_conditions_of_the_optimum_and_never_grow(shared):
    vectors, goals = unit(30, 16, seed=7, shared=shared), unit(50, 16, seed=8)
    check_conditions(goals, vectors, greedy_nnls(goals, vectors, 7))


def test_planted_sums_of_orthogonal_vectors_come_back_exactly_and_the_choice_ends_there():
    vectors = torch.eye(8, dtype=torch.float64)
    goals = torch.tensor([[0.0, 3, 0, 0, 1, 0, 0, 2], [-1, -1, 0, 0, 0, 0, 0, 0]], dtype=torch.float64)
    found = greedy_nnls(goals, vectors, 5)
    assert found.chosen.tolist() == [[1, 7, 4, -1, -1], [-1] * 5]
    assert found.coefficients.tolist() == [[3, 2, 1, 0, 0], [0] * 5]
    torch.testing.assert_close(found.errors[0, 2:], torch.zeros(3).double())


def test_vectors_without_length_and_copies_are_never_chosen_twice():
    vectors = unit(4, 6, seed=9)
    vectors = torch.cat([vectors, vectors, torch.zeros(2, 6, dtype=torch.float64)])
    found = greedy_nnls(unit(20, 6, seed=10), vectors, 6)
    for row in found.chosen.tolist():
        used = [number % 4 for number in row if number >= 0]
        assert all(number < 8 for number in row)
        assert len(set(used)) == len(used)


def test_the_first_published_code_can_give_negative_coefficients_and_nonnegative_least_squares_does_not():
    rows = [[4.0, -1, -2, 1], [-1, -1, 4, 0], [-1, 0, -1, -2]]
    vectors = F.normalize(torch.tensor(rows, dtype=torch.float64))
    goal = F.normalize(torch.tensor([[1.0, -2, 2, -1]], dtype=torch.float64))
    reference, ours = gram_schmidt(goal, vectors, 3), greedy_nnls(goal, vectors, 3)
    assert reference.coefficients.min() < -0.2
    assert (ours.coefficients >= 0).all()
    check_conditions(goal, vectors, ours)


def test_gram_schmidt_by_hand():
    vectors, goal = unit(6, 9, seed=12, shared=0.5), unit(1, 9, seed=13, shared=0.5)
    found = gram_schmidt(goal, vectors, 3)
    members, axes, left = list[int](), list[Tensor](), goal[0].clone()
    for _ in range(3):
        apart = [v - sum(((v @ axis) * axis for axis in axes), torch.zeros(9).double()) for v in vectors]
        along = [float(F.normalize(a, dim=0) @ goal[0]) if a.norm() > 1e-6 else -1 for a in apart]
        members.append(max(range(6), key=lambda c: along[c]))
        axes.append(F.normalize(apart[members[-1]], dim=0))
        left = left - (left @ axes[-1]) * axes[-1]
        assert float(left.norm()) == pytest.approx(float(found.errors[0, len(members) - 1]))
    columns = [*vectors[members], F.normalize(left.clamp(min=0), dim=0), F.normalize((-left).clamp(min=0), dim=0)]
    expected = torch.linalg.lstsq(torch.stack(columns, 1), goal[0, :, None]).solution[:3, 0]
    assert found.chosen[0].tolist() == members
    torch.testing.assert_close(found.coefficients[0], expected)
