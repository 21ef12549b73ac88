"""Retraining on a task whose deciding pixels are known, and what networks are given, against slow loops."""

import math

import numpy as np
import pytest
import torch
from torch import nn

from glasshouse.core import BadInput, watching
from glasshouse.evaluate.faithfulness.retraining import Retraining, error_of, kar, ranked, roar, train_small_cnn

SIDE, PATCH = 12, 4


def scenes(n, seed, size=(SIDE, SIDE + 2)):
    """Noise with a square at a random place, red for class 0 and blue for class 1; and where it is."""
    draws = torch.Generator().manual_seed(seed)
    images, labels = 0.5 * torch.randn(n, 3, *size, generator=draws), torch.randint(2, (n,), generator=draws)
    truth = torch.zeros(n, *size)
    for image, label, where in zip(images, labels, truth, strict=True):
        y, x = (int(torch.randint(s - PATCH + 1, (1,), generator=draws)) for s in size)
        image[0 if label == 0 else 2, y : y + PATCH, x : x + PATCH] += 1.5
        where[y : y + PATCH, x : x + PATCH] = 1
    return images, labels, truth


class Nearest(nn.Module):
    """The class whose mean colour is nearest to that of the image."""

    def __init__(self, means):
        super().__init__()
        self.means = means

    def forward(self, x):
        return -torch.cdist(x.mean((2, 3)), self.means)


def fit_colours(images, labels, seed):
    """Exact and quick. The seed leaves out a fifth of the images, as trainings differ."""
    rows = torch.rand(len(images), generator=torch.Generator().manual_seed(seed)) < 0.8
    rows[:10] = True
    colours = images.mean((2, 3))
    return Nearest(torch.stack([colours[rows & (labels == k)].mean(0) for k in range(2)]))


class Fixed(nn.Module):
    """Says class 1 for the images that it was told to."""

    def __init__(self, ones):
        super().__init__()
        self.ones = ones

    def forward(self, x):
        return torch.stack([torch.zeros(len(x)), self.ones.float() - 0.5], 1)


@pytest.fixture(scope="module")
def sets():
    draws = torch.Generator().manual_seed(2)
    (train, train_labels, train_truth), (test, test_labels, test_truth) = scenes(300, 0), scenes(200, 1)
    return {
        "images": (train, train_labels, test, test_labels),
        "oracle": (train_truth, test_truth),
        "noise": tuple(torch.rand(truth.shape, generator=draws) for truth in (train_truth, test_truth)),
    }


def test_maps_of_the_deciding_pixels_lose_accuracy_much_faster_than_random_ones(sets):
    result = roar(*sets["images"], *sets["oracle"], fit=fit_colours)
    assert result.direction == "down"
    assert result.mean < -0.2
    assert result.mean < -5 * result.error
    assert result.clean.min() > 0.85
    assert (result.random[0] > 0.8).all()  # nine tenths of the square are still there
    assert (result.accuracy - 0.5).abs().max() < 0.15  # the square is gone at the first fraction


def test_kept_alone_the_deciding_pixels_are_enough_and_random_ones_are_not(sets):
    result = kar(*sets["images"], *sets["oracle"], fit=fit_colours)
    assert result.direction == "up"
    assert result.mean > 5 * result.error > 0
    assert (result.accuracy[0] > 0.95).all()
    assert (result.accuracy[0] - result.random[0] > 0.2).all()


@pytest.mark.parametrize("protocol", [roar, kar])
@pytest.mark.parametrize("sign", [1.0, -1.0])
def test_the_reversed_truth_is_on_the_other_side_of_chance(sets, protocol, sign):
    maps = [sign * truth for truth in sets["oracle"]]
    wanted = sign if protocol is kar else -sign
    assert wanted * protocol(*sets["images"], *maps, fit=fit_colours, n_seeds=2).mean > 0.05


@pytest.mark.parametrize("protocol", [roar, kar])
@pytest.mark.parametrize("kind", ["noise", "constant"])
def test_maps_without_information_are_at_chance_within_errors(sets, protocol, kind):
    maps = sets["noise"] if kind == "noise" else [torch.ones_like(truth) for truth in sets["oracle"]]
    result = protocol(*sets["images"], *maps, fit=fit_colours, n_seeds=5)
    assert abs(result.mean) < 3 * result.error
    assert 0 < result.error < 0.05


def test_the_error_covers_chance_as_often_as_it_should(sets):
    images = tuple(part[:60] for part in sets["images"])
    maps = [torch.ones(60, SIDE, SIDE + 2)] * 2
    results = [roar(*images, *maps, fit=fit_colours, fractions=(0.9,), seed=10 * k) for k in range(40)]
    outside = sum(abs(result.mean) > 2 * result.error for result in results)
    assert outside <= 6  # 2 expected, were the errors exact; 6 or more happen once in 70 cases
    assert np.std([result.mean for result in results]) > 0.3 * np.mean([result.error for result in results])


def test_a_small_network_finds_the_square_and_nothing_once_it_is_removed():
    (train, labels, truth), (test, test_labels, test_truth) = scenes(200, 3), scenes(150, 4)

    def fit(images, labels, seed):
        return train_small_cnn(images, labels, seed, n_steps=40, batch=32, width=6)

    result = roar(train, labels, test, test_labels, truth, test_truth, fit=fit, fractions=(0.2,), n_seeds=2)
    assert result.clean.min() > 0.9
    assert result.random.min() > 0.85
    assert (result.accuracy - 0.5).abs().max() < 0.15
    assert result.mean < -5 * result.error


@pytest.mark.slow
def test_small_networks_agree_with_the_truth_in_both_protocols():
    (train, labels, truth), (test, test_labels, test_truth) = scenes(300, 5), scenes(300, 6)
    noise = [torch.rand(t.shape, generator=torch.Generator().manual_seed(7)) for t in (truth, test_truth)]

    def fit(images, labels, seed):
        return train_small_cnn(images, labels, seed, n_steps=60, batch=32, width=6)

    for protocol, sign in ((roar, -1), (kar, 1)):
        few = {"fit": fit, "fractions": (0.1, 0.5), "n_seeds": 2}
        found = protocol(train, labels, test, test_labels, truth, test_truth, **few)
        assert sign * found.mean > max(0.05, 5 * found.error)
        chance = protocol(train, labels, test, test_labels, *noise, **few)
        assert abs(chance.mean) < 3 * chance.error


@pytest.mark.parametrize("protocol", [roar, kar])
def test_networks_get_the_images_with_the_mean_colour_at_the_marked_pixels(protocol):
    draws = torch.Generator().manual_seed(0)
    train, test = torch.randn(4, 3, 3, 5, generator=draws), torch.randn(3, 3, 3, 5, generator=draws) + 1
    maps = [torch.randn(len(part), 3, 5, generator=draws) for part in (train, test)]
    labels = torch.tensor([0, 1, 1, 0]), torch.tensor([1, 0, 1])
    given, shown = [], []

    class Spy(nn.Module):
        def forward(self, x):
            shown.append(x.clone())
            return torch.zeros(len(x), 2)

    def fit(images, labels, seed):
        given.append((images.clone(), labels.tolist(), seed))
        return Spy()

    protocol(train, labels[0], test, labels[1], *maps, fit=fit, fractions=(0.2, 0.6), n_seeds=2, seed=7)
    assert [seed for _, _, seed in given] == [7] * 5 + [8] * 5
    assert all(seen == [0, 1, 1, 0] for _, seen, _ in given)
    for trial in range(2):
        images, tests = [row[0] for row in given[5 * trial : 5 * trial + 5]], shown[5 * trial : 5 * trial + 5]
        assert images[0].equal(train)
        assert tests[0].equal(test)
        for place, count in ((1, 3), (2, 9)):
            for seen, part, ranking in ((images[place], train, maps[0]), (tests[place], test, maps[1])):
                for n in range(len(part)):
                    order = sorted(range(15), key=lambda p, n=n, ranking=ranking: -ranking[n].flatten()[p])
                    gone = order[:count] if protocol is roar else order[count:]
                    for c in range(3):
                        expected = part[n, c].flatten().tolist()
                        for p in gone:
                            expected[p] = float(train[:, c].mean())
                        assert seen[n, c].flatten().tolist() == pytest.approx(expected, abs=1e-6)
        for place, count in ((3, 3), (4, 9)):
            for seen, part in ((images[place], train), (tests[place], test)):
                changed = (seen != part).all(1).flatten(1).sum(1)
                assert (changed == (count if protocol is roar else 15 - count)).all()
    assert not given[3][0].equal(given[8][0])  # another random ranking for another seed


def test_to_keep_the_top_is_to_remove_the_top_of_the_reversed_map(sets):
    kept = kar(*sets["images"], *sets["noise"], fit=fit_colours, fractions=(0.25, 0.5), n_seeds=2)
    reverse = [-maps for maps in sets["noise"]]
    removed = roar(*sets["images"], *reverse, fit=fit_colours, fractions=(0.75, 0.5), n_seeds=2)
    assert kept.accuracy.equal(removed.accuracy)
    assert kept.clean.equal(removed.clean)


def test_equal_values_are_ordered_at_random_for_each_image_by_itself():
    places = ranked(torch.zeros(2000, 2, 3), torch.Generator().manual_seed(0))
    assert places.flatten(1).sort(1).values.equal(torch.arange(6, dtype=torch.int32).expand(2000, 6))
    assert (places.double().mean(0) - 2.5).abs().max() < 4 * 1.708 / math.sqrt(2000)
    partly = torch.tensor([[[2.0, 0.0, 1.0], [0.0, 3.0, 0.0]]]).expand(600, 2, 3)
    places = ranked(partly, torch.Generator().manual_seed(1)).flatten(1)
    assert places[:, [4, 0, 2]].equal(torch.tensor([0, 1, 2], dtype=torch.int32).expand(600, 3))
    assert {tuple(row) for row in places[:, [1, 3, 5]].tolist()} == {
        (3, 4, 5), (3, 5, 4), (4, 3, 5), (4, 5, 3), (5, 3, 4), (5, 4, 3)
    }  # fmt: skip


def test_accuracies_and_error_follow_from_what_was_predicted(sets):
    train, labels, test, test_labels = (part[:20] for part in sets["images"])
    draws, said = torch.Generator().manual_seed(5), []

    def fit(images, labels, seed):
        said.append(torch.rand(20, generator=draws) < 0.5)
        return Fixed(said[-1])

    result = roar(train, labels, test, test_labels, train[:, 0], test[:, 0], fit=fit, fractions=(0.2, 0.5), n_seeds=3)
    right = np.array([[float(bool(s) == bool(y)) for s, y in zip(row, test_labels, strict=True)] for row in said])
    gains = np.zeros((3, 20))
    for s in range(3):
        rows = right[5 * s : 5 * s + 5]
        assert result.clean[s].item() == pytest.approx(rows[0].mean())
        assert result.accuracy[:, s].tolist() == pytest.approx(rows[1:3].mean(1).tolist())
        assert result.random[:, s].tolist() == pytest.approx(rows[3:5].mean(1).tolist())
        gains[s] = (rows[1:3] - rows[3:5]).mean(0)
    assert result.mean == pytest.approx(gains.mean(), abs=1e-6)
    expected = math.sqrt(gains.mean(1).var(ddof=1) / 3 + gains.mean(0).var(ddof=1) / 20)
    assert result.error == pytest.approx(expected)
    assert result.majority == pytest.approx(
        max(test_labels.float().mean().item(), 1 - test_labels.float().mean().item())
    )


def test_a_single_seed_leaves_the_error_of_the_images():
    gain = torch.tensor([[1.0, 0.0, -1.0, 1.0]], dtype=torch.float64)
    assert error_of(gain) == pytest.approx(np.std([1, 0, -1, 1], ddof=1) / 2)
    assert math.isnan(error_of(gain[:, :1]))


def test_the_same_seed_gives_the_same_result_and_no_other_randomness_moves():
    (train, labels, truth), (test, test_labels, test_truth) = scenes(40, 0), scenes(30, 1)

    def fit(images, labels, seed):
        return train_small_cnn(images, labels, seed, n_steps=5, batch=8, width=4)

    before = torch.random.get_rng_state()
    arguments = (train, labels, test, test_labels, truth, test_truth)
    first, second = (roar(*arguments, fit=fit, fractions=(0.5,), n_seeds=2) for _ in range(2))
    assert first.accuracy.equal(second.accuracy)
    assert first.random.equal(second.random)
    assert before.equal(torch.random.get_rng_state())
    with torch.inference_mode():
        inside = roar(*(part.clone() for part in arguments), fit=fit, fractions=(0.5,), n_seeds=2)
    assert inside.accuracy.equal(first.accuracy)
    with torch.no_grad():
        assert roar(*arguments, fit=fit, fractions=(0.5,), n_seeds=2).random.equal(first.random)


def test_grey_images_and_a_network_of_many_classes():
    draws = torch.Generator().manual_seed(0)
    images, labels = torch.randn(30, 1, 9, 7, generator=draws), torch.arange(30) % 5
    result = kar(
        images, labels, images, labels, images[:, 0], images[:, 0], fractions=(0.5,), n_seeds=1,
        fit=lambda images, labels, seed: train_small_cnn(images, labels, seed, n_steps=3, width=4),
    )  # fmt: skip
    assert result.majority == pytest.approx(0.2)
    assert result.accuracy.shape == (1, 1)


def test_a_result_is_saved_and_shown(sets, tmp_path):
    result = roar(*sets["images"], *sets["oracle"], fit=fit_colours, fractions=(0.1, 0.5), n_seeds=2)
    again = Retraining.load(result.save(tmp_path / "roar.safetensors"))
    assert again.accuracy.equal(result.accuracy)
    assert (again.fractions, again.error, again.settings) == (result.fractions, result.error, result.settings)
    assert repr(again) == repr(result)
    assert repr(result).startswith(f"Retraining(roar {result.mean:+.3f} ± ")
    assert repr(result).endswith("chance 0, 2 fractions × 2 seeds, lower is better)")
    assert result.to_dict()["protocol"] == "roar"


def test_progress_counts_trainings(sets):
    told = []
    with watching(lambda done, total: told.append((done, total))):
        roar(*sets["images"], *sets["oracle"], fit=fit_colours, fractions=(0.1, 0.5), n_seeds=2)
    assert told == [(k + 1, 10) for k in range(10)]


@pytest.mark.parametrize("settings", [{"fractions": (0.0, 0.5)}, {"fractions": (1.0,)}, {"fractions": ()}], ids=str)
def test_fractions_lie_between_0_and_1(sets, settings):
    with pytest.raises(BadInput, match="not between 0 and 1"):
        roar(*sets["images"], *sets["oracle"], fit=fit_colours, **settings)


def test_what_does_not_belong_together_is_refused(sets):
    train, labels, test, test_labels = sets["images"]
    maps, test_maps = sets["oracle"]
    with pytest.raises(BadInput, match="n_seeds 0"):
        roar(train, labels, test, test_labels, maps, test_maps, fit=fit_colours, n_seeds=0)
    hole = maps.clone()
    hole[3, 0, 0] = torch.nan
    with pytest.raises(BadInput, match="1 of 300 train_maps are not finite"):
        kar(train, labels, test, test_labels, hole, test_maps, fit=fit_colours)
