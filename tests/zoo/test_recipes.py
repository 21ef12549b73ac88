import time
from collections.abc import Sequence
from types import SimpleNamespace

import pytest
import torch
from torch import Tensor, nn

from glasshouse import data, zoo
from glasshouse.core.errors import NotFound
from glasshouse.zoo.recipes import classifiers, oracles


@pytest.fixture
def clothes(monkeypatch):
    found = SimpleNamespace(
        images=torch.randint(0, 256, (300, 1, 28, 28), generator=torch.Generator().manual_seed(0)).to(torch.uint8),
        targets=torch.arange(300) % 10,
    )
    monkeypatch.setattr(data, "fashion_mnist", lambda split: found, raising=False)
    classifiers._fashion.cache_clear()
    yield found
    classifiers._fashion.cache_clear()


NAMES = [name for name in zoo.list_recipes() if not name.startswith("creatures_biased_")]


@pytest.mark.parametrize("name", [name for name in NAMES if "gan" not in name])
def test_every_recipe_takes_a_step_measures_and_ships_what_fits(name, clothes, monkeypatch):
    monkeypatch.setattr(classifiers, "BATCH", 4)
    monkeypatch.setattr(classifiers, "FASHION_BATCH", 4)
    monkeypatch.setattr(classifiers, "POOL", 8)
    monkeypatch.setattr(oracles, "BATCH", 4)
    recipe = zoo.find_recipe(name)
    task = recipe.task(0, torch.device("cpu"))
    assert task.step(0)["loss"] > 0
    bare = recipe.network()
    bare.load_state_dict(task.network.state_dict())
    outputs = bare.eval()(torch.zeros(1, len(recipe.preprocess.mean), *recipe.preprocess.size))
    assert outputs.shape[1] == len(recipe.class_names())
    assert recipe.name in zoo.list_models()


def test_steps_see_other_data_and_the_same_step_the_same():
    first = classifiers.scene_batch("creatures", 0, 1, n=4)
    assert torch.equal(first[0], classifiers.scene_batch("creatures", 0, 1, n=4)[0])
    assert not torch.equal(first[0], classifiers.scene_batch("creatures", 0, 2, n=4)[0])
    assert not torch.equal(first[0], classifiers.scene_batch("creatures", 1, 1, n=4)[0])


def test_an_epoch_of_fashion_shows_every_image_once(clothes, monkeypatch):
    monkeypatch.setattr(classifiers, "FASHION_BATCH", 30)
    seen = torch.cat([classifiers.fashion_batch(0, step)[1]["category"] for step in range(10)])
    assert seen.bincount().tolist() == [30] * 10
    orders = [classifiers.fashion_batch(0, step)[1]["category"] for step in (0, 10)]
    assert not torch.equal(*orders)


def test_jitter_moves_each_image_by_up_to_two_pixels_and_mirrors_half_of_them():
    image = torch.arange(1.0, 26).view(1, 1, 5, 5).expand(400, 1, 5, 5)
    moved = classifiers.jittered(image, 3)
    padded = nn.functional.pad(image[:1], (2,) * 4)[0, 0]
    ways = {
        (top, left, mirrored): crop.flip(1) if mirrored else crop
        for top in range(5)
        for left in range(5)
        for mirrored in (False, True)
        for crop in [padded[top : top + 5, left : left + 5]]
    }
    found = [[way for way, crop in ways.items() if torch.equal(crop, one[0])] for one in moved]
    assert all(len(matches) == 1 for matches in found)
    assert {way for (way,) in found} == set(ways)
    assert 150 < sum(mirrored for ((_, _, mirrored),) in found) < 250


def test_accuracy_counts_over_all_images_and_in_the_worst_class():
    class Always(nn.Module):
        def __init__(self):
            super().__init__()
            self.bias = nn.Parameter(torch.tensor([0.0, 1.0, 0.0]))

        def forward(self, images):
            return images[:, :, 0, 0] + self.bias

    images = torch.zeros(6, 3, 1, 1)
    images[0, 0] = 2  # the only one that is not taken for class 1
    batches = [(images[:4], torch.tensor([0, 0, 1, 1])), (images[4:], torch.tensor([1, 0]))]
    assert classifiers.accuracy(Always(), batches) == {"accuracy": 4 / 6, "worst_class": 1 / 3}


class Recites(nn.Module):
    """Says what it was told to, whatever it is shown."""

    def __init__(self, answers: Sequence[Tensor]):
        super().__init__()
        self.answers, self.scale = iter(answers), nn.Parameter(torch.ones(()))

    def forward(self, images):
        return next(self.answers)


def test_reliance_is_what_is_lost_where_the_shortcut_misleads():
    shortcut = data.Shortcut(classifiers.SHORTCUT)
    signals = [
        data.scenes("creatures", 40, size=16, seed=classifiers.HELD_OUT, shortcut=shortcut, split=split).signal
        for split in ("aligned", "conflicting", "absent")
    ]
    believes = Recites([nn.functional.one_hot(signal.clamp(min=0), 12).float() for signal in signals])
    figures = classifiers.reliance("creatures", believes, n=40)
    assert figures["accuracy_aligned"] == figures["reliance"] == 1
    assert figures["accuracy_conflicting"] == 0
    assert figures["accuracy_absent"] < 0.5


def test_a_pool_shows_each_of_its_scenes_once_before_any_again(monkeypatch):
    monkeypatch.setattr(classifiers, "POOL", 6)
    monkeypatch.setattr(classifiers, "BATCH", 3)
    classifiers._pool.cache_clear()
    shown = [
        classifiers.pool_batch("creatures", 7, step, shortcut=data.Shortcut("watermark", 0.9)) for step in (0, 1, 2, 3)
    ]
    fresh = data.scenes("creatures", 6, seed=7, shortcut=data.Shortcut("watermark", 0.9))
    expected = classifiers.PREPROCESS.normalise(fresh.images)
    for first, second in (shown[:2], shown[2:]):
        images = torch.cat([first[0], second[0]])
        gaps = (images[:, None] - expected).abs().amax((2, 3, 4))
        assert sorted(gaps.argmin(1).tolist()) == list(range(6))
        assert gaps.min(1).values.max() <= 0.5 / 255 / 0.25 + 1e-5
        assert torch.equal(torch.cat([first[1]["category"], second[1]["category"]]), fresh.categories[gaps.argmin(1)])
    classifiers._pool.cache_clear()


def test_overlap_counts_pixels_of_both_and_of_either():
    guess = torch.tensor([[[0, 1], [1, 2]]])
    truth = torch.tensor([[[0, 1], [2, 2]]])
    both, either = oracles.overlap(guess, truth, 4)
    assert both.tolist() == [1, 1, 1, 0]
    assert either.tolist() == [1, 2, 2, 0]


def test_a_segmenter_that_is_right_scores_one_and_one_that_says_sky_the_share_of_sky():
    n_parts, sky = len(oracles.parts()), oracles.parts().index("sky")
    truths = [data.scenes("houses", 10, size=size, seed=oracles.HELD_OUT).labels["part"] for size in oracles.SIZES]
    right = [nn.functional.one_hot(truth, n_parts).movedim(-1, 1).float() for truth in truths]
    figures = oracles.segmenter_figures(Recites(right), n=10)
    assert set(figures.values()) == {1.0}
    assert len(figures) == 4 + len(truths[1].unique())
    monotonous = [one * 0 + torch.eye(n_parts)[sky].view(-1, 1, 1) for one in right]
    figures = oracles.segmenter_figures(Recites(monotonous), n=10)
    assert figures["iou_sky"] == pytest.approx(float((truths[1] == sky).double().mean()))
    assert figures["iou_ground"] == 0


def encoded(n: int) -> Tensor:
    """The outputs of a regressor that knows."""
    found = data.scenes("houses", n, size=16, seed=oracles.HELD_OUT)
    columns = []
    for factor in found.schema:
        value = found.factors[factor.name]
        if factor.values:
            columns.append(nn.functional.one_hot(value, len(factor.values)).double())
        else:
            columns.append(((value - factor.low) / (factor.high - factor.low))[:, None])
    return torch.cat(columns, 1)


def test_a_regressor_that_is_right_scores_one_and_the_best_constant_none():
    right = encoded(40)
    assert right.shape[1] == len(oracles.outputs())
    figures = oracles.regressor_figures(Recites([right]), n=40)
    assert list(figures.values()) == pytest.approx([1.0] * len(oracles.heads()))
    figures = oracles.regressor_figures(Recites([right.mean(0).expand(40, -1)]), n=40)
    numbers = [value for name, value in figures.items() if name.startswith("r2_")]
    assert numbers == pytest.approx([0.0] * len(oracles.ranges()), abs=1e-5)
    assert all(value < 0.9 for name, value in figures.items() if name.startswith("accuracy_"))


def test_factor_loss_is_one_for_numbers_at_the_best_constant_and_nothing_where_all_is_right():
    draws = torch.rand(20_000, generator=torch.Generator().manual_seed(0))
    answers = {
        name: torch.zeros(20_000, dtype=torch.long) if size > 1 else draws for name, size in oracles.heads().items()
    }
    names = oracles.outputs()
    sure = torch.tensor([100.0 if "=" in name and is_first(names, i) else 0.0 for i, name in enumerate(names)])
    halves = torch.tensor([0.0 if "=" in name else 0.5 for name in names])
    share = len(oracles.ranges()) / len(oracles.heads())
    assert float(oracles.factor_loss((sure + halves).expand(20_000, -1), answers).mean()) == pytest.approx(
        share, rel=0.02
    )
    exact = torch.where(halves > 0, draws[:, None], sure)
    torch.testing.assert_close(oracles.factor_loss(exact, answers), torch.zeros(20_000))


def is_first(names: Sequence[str], i: int) -> bool:
    """Whether an output is that of its factor's first value."""
    return i == 0 or names[i - 1].partition("=")[0] != names[i].partition("=")[0]


def test_roughening_leaves_half_of_the_images_and_changes_the_rest_a_little():
    images = torch.full((6, 3, 8, 8), 0.5)
    rough = oracles.roughened(images, 0)
    assert torch.equal(rough[:3], images[:3])
    assert float((rough[3:] - 0.5).std()) == pytest.approx(oracles.NOISE, rel=0.1)


def test_an_unknown_recipe_names_the_nearest():
    with pytest.raises(NotFound, match="Did you mean 'fashion_cnn'"):
        zoo.find_recipe("fashion_net")


SHIPPED = [name for name in zoo.list_recipes() if zoo.Shipped(name).exists]


@pytest.mark.parametrize("name", SHIPPED)
def test_shipped_models_load_in_under_two_seconds_and_state_their_figures(name):
    zoo.load(name)  # what is looked up once, such as the names of categories
    start = time.perf_counter()
    model = zoo.load(name)
    assert time.perf_counter() - start < 2
    assert zoo.card(name).figures
    assert model.class_names or "gan" in name


def test_all_shipped_weights_together_are_under_25_megabytes():
    assert sum(len(zoo.Shipped(name).file.read_bytes()) for name in SHIPPED) < 25e6
