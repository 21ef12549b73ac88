"""Shapley values against all orders of the players, their axioms, and the scatter of the sampled estimate."""

from collections.abc import Callable
from itertools import permutations
from math import comb

import pytest
import torch
from torch import Tensor, nn

from glasshouse import attribute, data
from glasshouse.attribute.games import passes, sample, shapley
from glasshouse.core import BadInput, find_method
from glasshouse.core.mask import cells

Worth = Callable[[Tensor], Tensor]
EXACT = {"n_samples": 62, "feature_mask": "grid", "n_regions": 6, "chunk": 20}


def game(players: int, seed: int = 0) -> Worth:
    """A worth for every coalition (float64 rows of 0 and 1), drawn at random: nothing about it is additive."""
    table = torch.randn(2**players, generator=torch.Generator().manual_seed(seed)).double()
    powers = 2 ** torch.arange(players)
    return lambda shown: table[(shown.long() * powers).sum(-1)]


def smooth_game(players: int) -> Worth:
    """A worth that is mostly additive, with pairs that work together."""
    source = torch.Generator().manual_seed(0)
    alone = torch.randn(players, generator=source).double()
    pairs = torch.randn(players, players, generator=source).double() / players
    return lambda shown: shown @ alone + torch.tanh(2 * ((shown @ pairs) * shown).sum(-1))


def all_orders(worth: Worth, players: int) -> Tensor:
    """The mean gain that each player brings when it comes in, over every order in which players can come."""
    total = torch.zeros(players).double()
    orders = list(permutations(range(players)))
    for order in orders:
        shown = torch.zeros(players).double()
        before = worth(shown)
        for player in order:
            shown[player] = 1
            after = worth(shown)
            total[player] += after - before
            before = after
    return total / len(orders)


def solve(worth: Worth, players: int, n_samples: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    drawn = sample(players, n_samples, seed)
    empty = worth(torch.zeros(players).double())
    whole = (worth(torch.ones(players).double()) - empty)[None]
    values, error = shapley(drawn, (worth(drawn.shown.double()) - empty)[:, None], whole)
    return values[:, 0], error


def cell_values(e, labels: Tensor) -> Tensor:
    """`n m`: the value of each region, which all of its pixels carry."""
    maps = e.native[:, 0]
    values = torch.stack([maps[:, labels == k].mean(1) for k in range(int(labels.max()) + 1)], 1)
    torch.testing.assert_close(values[:, labels], maps)
    return values


@pytest.fixture
def sure(cnn) -> nn.Module:
    cnn = cnn.double()
    cnn[-1].weight.data *= 40
    return cnn


@pytest.mark.parametrize("players", [1, 2, 3, 5, 6])
def test_with_all_coalitions_the_values_are_those_of_all_orders(players):
    values, error = solve(game(players), players, max(6, 2**players - 2))
    torch.testing.assert_close(values, all_orders(game(players), players), rtol=1e-9, atol=1e-9)
    assert not error.any()


def test_the_network_plays_the_game(sure, images):
    images, labels, baseline = images.double(), cells((14, 18), (2, 3)), 0.7

    def worth(image: Tensor) -> Worth:
        def score(shown: Tensor) -> Tensor:
            keep = shown.bool()[..., labels]
            seen = torch.where(keep[..., None, :, :], image, baseline)
            return sure(seen.reshape(-1, 3, 14, 18)).softmax(1)[:, 2].detach().view(shown.shape[:-1])

        return score

    e = attribute.kernel_shap(sure, images, 2, **EXACT, baselines=baseline)
    table = 2 ** torch.arange(6)
    for n, image in enumerate(images):
        every = worth(image)(((torch.arange(64)[:, None] // table) % 2).double())
        expected = all_orders(lambda shown, every=every: every[(shown.long() * table).sum()], 6)
        torch.testing.assert_close(cell_values(e, labels)[n], expected)
        torch.testing.assert_close(e.extras["empty"][n], every[0])
    assert not e.extras["stderr"].any()


@pytest.mark.parametrize("n_samples", [40, 62])
@pytest.mark.parametrize("score", ["logit", "prob", "logprob"])
def test_the_values_sum_to_what_the_regions_are_worth_together(sure, images, n_samples, score):
    images = images.double()
    e = attribute.kernel_shap(sure, images, 1, **{**EXACT, "n_samples": n_samples}, score=score)
    total = cell_values(e, cells((14, 18), (2, 3))).sum(1)
    torch.testing.assert_close(total, e.score.double() - e.extras["empty"], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("n_samples", [30, 62, 254])
def test_linear_games_are_shared_exactly_from_any_sample(n_samples):
    weights = torch.randn(8, generator=torch.Generator().manual_seed(0)).double()
    values, error = solve(lambda shown: shown @ weights + 3, 8, n_samples)
    torch.testing.assert_close(values, weights)
    assert float(error.max()) < 1e-9


def test_players_that_are_alike_get_the_same_and_one_that_does_nothing_gets_nothing():
    def worth(shown: Tensor) -> Tensor:
        return shown[..., 0] * shown[..., 1] * 6 + shown[..., 2] * (1 - shown[..., 0]) + 0 * shown[..., 3]

    values, _ = solve(worth, 4, 14)
    # Player 2 gains 1 unless 0 came before; 0 and 1 gain 6 when both are there, and 0 takes 1 from 2.
    torch.testing.assert_close(values, torch.tensor([3 - 0.5, 3, 0.5, 0]).double())


def test_values_of_a_sum_of_games_are_sums():
    one, two = game(5, seed=1), game(5, seed=2)
    both, _ = solve(lambda shown: one(shown) - 2 * two(shown), 5, 30)
    torch.testing.assert_close(both, solve(one, 5, 30)[0] - 2 * solve(two, 5, 30)[0])


@pytest.mark.parametrize(("players", "n_samples"), [(7, 60), (10, 200), (16, 500), (50, 2048)])
def test_coalitions_are_as_many_as_asked_for_and_weigh_what_their_sizes_do(players, n_samples):
    drawn = sample(players, n_samples, seed=1)
    assert len(drawn.shown) == n_samples
    assert torch.equal(drawn.shown[-2 * drawn.n_pairs : -drawn.n_pairs], ~drawn.shown[-drawn.n_pairs :])
    sizes = drawn.shown.sum(1)
    assert sizes.min() >= 1
    assert sizes.max() < players
    kernel = torch.tensor([(players - 1) / (s * (players - s)) for s in range(1, players)]).double()
    assert float(drawn.weight.sum()) == pytest.approx(float(kernel.sum()))
    fixed = drawn.shown[: -2 * drawn.n_pairs]
    for size in fixed.sum(1).unique().tolist():  # sizes taken in full, each set once, with its own weight
        mine = sizes[: len(fixed)] == size
        assert len(fixed[mine].unique(dim=0)) == int(mine.sum()) == comb(players, size)
        weight = drawn.weight[: len(fixed)][mine]
        torch.testing.assert_close(weight, (kernel[size - 1] / comb(players, size)).expand_as(weight))
    assert {1, players - 1} <= set(fixed.sum(1).tolist())


@pytest.mark.parametrize(("players", "n_samples"), [(8, 60), (14, 150)])
def test_sampled_values_lie_around_the_exact_ones_and_the_standard_error_is_their_scatter(players, n_samples):
    worth = smooth_game(players)
    runs = [solve(worth, players, n_samples, seed) for seed in range(100)]
    values, errors = (torch.stack(parts) for parts in zip(*runs, strict=True))
    exact, _ = solve(worth, players, 2**players - 2)
    scatter = values.std(0)
    assert ((values.mean(0) - exact).abs() < scatter).all()  # least squares on few samples leans a little
    stated = errors.square().mean(0).sqrt()
    assert float(stated.norm() / scatter.norm()) == pytest.approx(1, abs=0.25)


def test_more_coalitions_come_closer():
    worth = smooth_game(12)
    exact, _ = solve(worth, 12, 4094)
    gaps = [torch.stack([solve(worth, 12, n, seed)[0] - exact for seed in range(10)]).norm() for n in (60, 400, 2000)]
    assert gaps[0] > 2 * gaps[1] > 4 * gaps[2]


@pytest.mark.parametrize("name", ["logic_gates", "weighted_sum", "counter"])
def test_glass_boxes_get_their_exact_shares(name):
    model, image = getattr(data.glass, name)(), torch.zeros(1, 3, 48, 48)
    codes = {"logic_gates": (6, 9), "weighted_sum": (1, 2, 4, 8), "counter": (6, 6, 6)}[name]
    for code, (top, left) in zip(codes, [(2, 3), (4, 30), (30, 5), (33, 31)], strict=False):
        image = data.glass.stamp(image, data.glass.plate(code), top, left)
    regions = model.truth.regions(image)[0]
    regions = regions[regions.any((1, 2))]
    labels = (regions * torch.arange(1, len(regions) + 1).view(-1, 1, 1)).sum(0)
    e = attribute.kernel_shap(model, image, 0, n_samples=64, feature_mask=labels, score="logit", classes="all")
    maps, expected = e.extras["classes"][0], model.truth.shapley(image)[0]
    for k, region in enumerate(regions):
        torch.testing.assert_close(maps[:, region].mean(1), expected[k], rtol=1e-4, atol=1e-4)
    assert float(maps[:, labels == 0].abs().max()) < 1e-4


def test_all_classes_come_from_the_same_coalitions(sure, images):
    settings = {**EXACT, "n_samples": 40}
    every = attribute.kernel_shap(sure, images.double(), [0, 3, 1], classes="all", **settings)
    for k in range(4):
        alone = attribute.kernel_shap(sure, images.double(), k, **settings)
        torch.testing.assert_close(every.extras["classes"][:, k], alone.native[:, 0])


def test_images_with_regions_of_their_own_are_explained_as_if_alone(sure, images):
    settings = {"n_samples": 60, "n_regions": 9, "chunk": 7}
    together = attribute.kernel_shap(sure, images.double(), 1, **settings)
    assert len(set(together.extras["regions"].amax((1, 2)).tolist())) > 1
    for n in range(3):
        alone = attribute.kernel_shap(sure, images[n : n + 1].double(), 1, **settings)
        torch.testing.assert_close(alone.native[0], together.native[n])
        torch.testing.assert_close(alone.extras["stderr"][0], together.extras["stderr"][n])


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({"n_samples": 2048}, 2050),
        ({"n_samples": 2048, "n_regions": 9, "feature_mask": "grid"}, 512),
        ({"n_samples": 101, "n_regions": 9, "feature_mask": "grid"}, 102),
        ({"feature_mask": torch.tensor([[0, 3], [3, 5]]).repeat(7, 9)}, 8),
    ],
)
def test_the_passes_declared_are_those_made(cnn, images, settings, expected):
    info = find_method("kernel_shap")
    assert passes({**info.defaults, **settings}, (1, 3, 14, 18)).forward == expected
    if expected < 2000:
        seen = []
        cnn.register_forward_hook(lambda module, inputs, output: seen.append(len(output)))
        attribute.kernel_shap(cnn, images[:1], 1, **settings)
        assert sum(seen) == expected


def test_too_few_coalitions_are_refused_with_the_number_that_does(cnn, images):
    with pytest.raises(BadInput, match=r"n_samples 20 is too few for 9 regions\. Use 22 or more"):
        attribute.kernel_shap(cnn, images, n_samples=20, feature_mask="grid", n_regions=9)
    attribute.kernel_shap(cnn, images, n_samples=22, feature_mask="grid", n_regions=9)


@pytest.mark.parametrize(
    "settings", [{"chunk": 0}, {"n_regions": 0}, {"n_samples": 0}, {"classes": [-1]}, {"baselines": torch.zeros(5)}]
)
def test_settings_that_make_no_sense_are_refused(cnn, images, settings):
    with pytest.raises(BadInput):
        attribute.kernel_shap(cnn, images, **{**EXACT, **settings})
