"""Simulated students: the right maps teach, random ones do not; students agree with loops and with scikit-learn."""

import pytest
import torch
from torch import Tensor, nn

from glasshouse import attribute
from glasshouse.core import BadInput
from glasshouse.evaluate.human.simulation import Simulatability, checked, interval, simulatability, simulated_students
from glasshouse.evaluate.human.students import knn, logistic, scattered, seen, standardised, taught, told

H, W = 24, 32
GRID = (7, 9)  # does not divide it


def looked_at(images: Tensor) -> Tensor:
    """A model that answers with the strongest colour of one patch and sees nothing else."""
    return images[:, :, 4:10, 18:25].mean((2, 3)).argmax(1)


def scenes(n: int, seed: int) -> Tensor:
    """Patches of random colours everywhere."""
    coarse = torch.randn(n, 3, 6, 8, generator=torch.Generator().manual_seed(seed))
    return torch.nn.functional.interpolate(coarse, (H, W), mode="nearest")


@pytest.fixture(scope="module")
def lesson() -> tuple[Tensor, Tensor, Tensor, Tensor]:
    return scenes(80, 0), looked_at(scenes(80, 0)), scenes(200, 1), looked_at(scenes(200, 1))


@pytest.fixture(scope="module")
def true_maps() -> Tensor:
    maps = torch.zeros(80, H, W)
    maps[:, 4:10, 18:25] = 1.0
    return maps


@pytest.mark.parametrize("student", ["knn", "logistic"])
def test_true_maps_help_and_random_maps_do_not(lesson, true_maps, student):
    images, answers, test, truth = lesson
    right = simulatability(images, true_maps, answers, test, truth, student=student, n_random=3, grid=GRID)
    assert right.interval[0] > 0.15
    assert right.interval_over_random[0] > 0.15
    assert right.random_interval[0] <= 0.0
    noise = torch.rand(80, H, W, generator=torch.Generator().manual_seed(5))
    wrong = simulatability(images, noise, answers, test, truth, student=student, n_random=3, grid=GRID)
    assert wrong.interval[0] <= 0.0
    assert abs(wrong.gain_over_random) < right.gain_over_random / 4
    assert right.accuracy[1] == wrong.accuracy[1]


@pytest.mark.parametrize("student", ["knn", "logistic"])
def test_maps_that_say_nothing_gain_exactly_nothing(lesson, student):
    images, answers, test, truth = lesson
    for maps in (torch.zeros(80, H, W), torch.full((80, H, W), -2.0)):
        score = simulatability(images, maps, answers, test, truth, student=student, n_random=2)
        assert score.gain == 0.0
        assert score.interval == (0.0, 0.0)
        assert score.random_gain == 0.0


def test_size_counts_and_neither_sign_nor_scale(lesson, true_maps):
    images, answers, test, truth = lesson
    first = simulatability(images, true_maps, answers, test, truth, n_random=1)
    second = simulatability(images, -7 * true_maps, answers, test, truth, n_random=1)
    assert first.with_maps.equal(second.with_maps)


@pytest.mark.parametrize("student", ["knn", "logistic"])
def test_each_lesson_keeps_its_map_in_whatever_order_lessons_come(lesson, student):
    images, answers, test, truth = lesson
    maps = torch.rand(80, H, W, generator=torch.Generator().manual_seed(5)) ** 8  # another one for each
    turned = torch.arange(79, -1, -1)
    first = simulatability(images, maps, answers, test, truth, student=student, n_random=1)
    second = simulatability(images[turned], maps[turned], answers[turned], test, truth, student=student, n_random=1)
    assert first.with_maps.equal(second.with_maps)
    assert not first.with_maps.equal(first.without)


def test_the_figures_are_means_of_what_is_kept_per_image(lesson, true_maps):
    images, answers, test, truth = lesson
    score = simulatability(images, true_maps, answers, test, truth)
    taught, untaught, random = score.accuracy
    assert score.gain == pytest.approx(taught - untaught)
    assert score.gain_over_random == pytest.approx(taught - random)
    assert score.random_gain == pytest.approx(random - untaught)
    assert score.utility == pytest.approx(taught / untaught)
    assert score.chance == pytest.approx(max(truth.bincount().tolist()) / 200)
    assert len(score.with_maps) == 200
    assert set(score.with_maps.tolist()) == {0.0, 1.0}


def test_a_test_image_is_judged_the_same_alone_and_the_seed_fixes_the_rest(lesson, true_maps):
    images, answers, test, truth = lesson
    before = torch.random.get_rng_state()
    for student in ("knn", "logistic"):
        whole = simulatability(images, true_maps, answers, test, truth, student=student, n_random=1, seed=3)
        again = simulatability(images, true_maps, answers, test, truth, student=student, n_random=1, seed=3)
        assert whole.to_dict() == again.to_dict()
        alone = simulatability(images, true_maps, answers, test[7:8], truth[7:8], student=student, n_random=1, seed=3)
        assert alone.with_maps[0] == whole.with_maps[7]
        assert alone.random[0] == whole.random[7]
    assert before.equal(torch.random.get_rng_state())
    with torch.inference_mode():
        inside = simulatability(images, true_maps, answers, test, truth, student="logistic", n_random=1, seed=3)
    assert inside.gain == whole.gain


def test_knn_is_the_vote_of_the_nearest_by_a_slow_loop():
    source = torch.Generator().manual_seed(0)
    train = torch.randn(15, 2, 4, generator=source, dtype=torch.float64)
    test = torch.randn(60, 2, 4, generator=source, dtype=torch.float64)
    weights = torch.rand(15, 4, generator=source, dtype=torch.float64)
    labels = torch.randint(3, (15,), generator=source)
    said = knn(train, weights, labels, test, 4)
    ties = 0
    for x, answer in zip(test, said.tolist(), strict=True):
        distances = []
        for i in range(15):
            total = sum(weights[i, g] * (x[:, g] - train[i, :, g]).square().sum() for g in range(4))
            distances.append((float(total / weights[i].sum()), int(labels[i])))
        nearest = [label for _, label in sorted(distances)[:4]]
        most = max(nearest.count(label) for label in set(nearest))
        winners = [label for label in set(nearest) if nearest.count(label) == most]
        ties += len(winners) > 1
        assert answer == next(label for label in nearest if label in winners)
    assert ties > 5


def test_plain_students_are_those_of_scikit_learn(lesson):
    neighbors = pytest.importorskip("sklearn.neighbors")
    linear = pytest.importorskip("sklearn.linear_model")
    preprocessing = pytest.importorskip("sklearn.preprocessing")
    images, answers, test, truth = lesson
    plain = simulatability(images, torch.ones(80, H, W), answers, test, truth, grid=(6, 8), neighbours=1)
    x, t = (torch.nn.functional.avg_pool2d(part, 4).flatten(1).double().numpy() for part in (images, test))
    scaler = preprocessing.StandardScaler().fit(x)
    x, t = scaler.transform(x), scaler.transform(t)
    peer = neighbors.KNeighborsClassifier(1).fit(x, answers.numpy())
    assert plain.without.tolist() == (peer.predict(t) == truth.numpy()).astype(float).tolist()
    ours = simulatability(
        images, torch.ones(80, H, W), answers, test, truth, grid=(6, 8), student="logistic", penalty=4.0
    )
    model = linear.LogisticRegression(C=0.25, max_iter=2000, tol=1e-10).fit(x, answers.numpy())
    assert ours.without.tolist() == (model.predict(t) == truth.numpy()).astype(float).tolist()


def test_logistic_overlooks_a_place_that_was_always_masked():
    source = torch.Generator().manual_seed(2)
    train = torch.randn(40, 1, 3, generator=source, dtype=torch.float64)
    labels = (train[:, 0, 1] > 0).long()
    weights = torch.tensor([0.0, 1.0, 0.0], dtype=torch.float64).expand(40, 3)
    test = torch.randn(30, 1, 3, generator=source, dtype=torch.float64)
    other = test.clone()
    other[:, :, [0, 2]] = 100 * torch.randn(30, 1, 2, generator=source, dtype=torch.float64)
    assert logistic(train, weights, labels, test, 1.0).equal(logistic(train, weights, labels, other, 1.0))


def test_cells_are_means_and_what_is_told_of_one_is_its_share_of_the_largest():
    images = torch.rand(2, 3, 7, 10, generator=torch.Generator().manual_seed(0))
    what = seen(images, (2, 3), None)
    assert what.shape == (2, 3, 6)
    rows, cols = [range(0, 4), range(4, 7)], [range(0, 4), range(4, 7), range(7, 10)]
    for place in range(6):
        box = images[1, 2][rows[place // 3]][:, cols[place % 3]]
        assert float(what[1, 2, place]) == pytest.approx(float(box.mean()), abs=1e-6)
    maps = torch.zeros(2, 7, 10)
    maps[0, 0, 0], maps[0, 6, 9] = -16.0, 3.0  # cells of 16 and of 9 pixels
    assert told(maps, (2, 3)).tolist() == [[1, 0, 0, 0, 0, pytest.approx(1 / 3)], [1] * 6]


def test_random_maps_keep_the_values_and_lose_the_places():
    weights = torch.arange(12.0, dtype=torch.float64).view(2, 6)
    moved = scattered(weights, torch.Generator().manual_seed(0))
    assert moved.sort(1).values.equal(weights)
    assert not moved.equal(weights)


def test_what_does_not_vary_in_the_lessons_is_no_feature():
    train = torch.randn(8, 2, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    train[:, 0, 1] = 0.7
    ours, theirs = standardised(train, train + 5)
    assert (ours[:, 0, 1] == 0).all()
    assert (theirs[:, 0, 1] == 0).all()
    torch.testing.assert_close(ours[:, 1].std(0, correction=0), torch.ones(3, dtype=torch.float64))


def test_the_interval_is_that_of_the_normal_law_for_many_images():
    values = (torch.rand(400, generator=torch.Generator().manual_seed(0)) < 0.3).double()
    low, high = interval(values, 0)
    error = float(values.std() / 20)
    assert low == pytest.approx(float(values.mean()) - 1.96 * error, abs=0.006)
    assert high == pytest.approx(float(values.mean()) + 1.96 * error, abs=0.006)


def test_a_student_may_see_features_of_its_own(lesson, true_maps):
    images, answers, test, truth = lesson

    def edges(batch: Tensor) -> Tensor:
        return torch.nn.functional.avg_pool2d(batch, 4)

    own = simulatability(images, true_maps, answers, test, truth, features=edges)
    plain = simulatability(images, true_maps, answers, test, truth, grid=(6, 8))
    assert own.settings["grid"] == (6, 8)
    assert own.with_maps.equal(plain.with_maps)
    assert own.without.equal(plain.without)


def test_a_class_that_was_never_taught_cannot_be_said(lesson, true_maps):
    images, answers, test, truth = lesson
    score = simulatability(images, true_maps, answers, test, truth + 10)
    assert score.accuracy == (0.0, 0.0, 0.0)
    assert score.utility == float("inf")


def test_what_does_not_fit_together_is_refused(lesson, true_maps):
    images, answers, test, truth = lesson
    with pytest.raises(BadInput, match=r"not one class for each of \(80, 200\)"):
        simulatability(images, true_maps, answers[:5].tolist(), test, truth)
    with pytest.raises(BadInput, match=r"the maps \(80, 3, 32\) are not of the lessons"):
        getattr(checked, "__wrapped__", checked)(images, true_maps[:, :3], answers, test, truth)
    with pytest.raises(BadInput, match=r"student 'teacher' is unknown"):
        getattr(taught, "__wrapped__", taught)(
            "teacher", torch.zeros(2, 1, 1), torch.ones(2, 1), answers[:2], torch.zeros(2, 1, 1), 1, 1.0
        )
    with pytest.raises(BadInput, match=r"must be positive"):
        simulatability(images, true_maps, answers, test, truth, neighbours=0)
    with pytest.raises(BadInput, match=r"0 tests"):
        simulatability(images, true_maps, answers, test[:0], truth[:0])
    broken = true_maps.clone()
    broken[4, 0, 0] = torch.nan
    with pytest.raises(BadInput, match=r"maps \[4\] hold"):
        simulatability(images, broken, answers, test, truth)


def test_the_score_is_saved_and_shown(lesson, true_maps, tmp_path):
    images, answers, test, truth = lesson
    score = simulatability(images, true_maps, answers, test, truth)
    again = Simulatability.load(score.save(tmp_path / "score.safetensors"))
    assert repr(again) == repr(score)
    assert "80 lessons, 200 tests" in repr(score)


class Patch(nn.Module):
    """The model that looks at one patch, as a network."""

    def forward(self, x: Tensor) -> Tensor:
        return x[:, :, 4:10, 18:25].mean((2, 3))


def test_the_controls_stand_beside_the_methods_and_only_maps_that_know_teach(lesson, true_maps):
    images, answers, test, truth = lesson
    asked = []

    def explain(model: nn.Module, x: Tensor, classes: Tensor) -> Tensor:
        asked.append(classes)
        return true_maps + 0.02

    methods = {"gradient": attribute.saliency, "by_hand": explain}
    found = simulated_students(Patch(), images, test, methods, oracle=true_maps)
    assert list(found) == ["oracle", "centre", "edges", "constant", "random", "gradient", "by_hand"]
    assert asked[0].equal(answers)
    assert found["constant"].gain == 0.0
    assert len({score.accuracy[1] for score in found.values()}) == 1
    for name, score in found.items():
        assert (score.interval_over_random[0] > 0.1) == (name in ("oracle", "gradient", "by_hand")), name
    alone = simulatability(images, true_maps, answers, test, truth)
    assert found["oracle"].with_maps.equal(alone.with_maps)
