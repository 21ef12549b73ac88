"""Studies: balanced, shuffled, the same for the same seed, and silent about their answers."""

import json
from collections import Counter
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from glasshouse.core import BadInput, Explanation
from glasshouse.evaluate.human.studies import AnswerKey, HumanStudy, human_study

N, SIZE = 20, (6, 9)


def maps(shift: int, n: int = N) -> Explanation:
    """Maps of class `row + shift` out of 7, all different."""
    values = torch.randn(n, *SIZE, generator=torch.Generator().manual_seed(shift))
    classes = tuple((row + shift) % 7 for row in range(n))
    return Explanation(values, values, "by_hand", classes, torch.zeros(n), {})


@pytest.fixture
def pixels() -> Tensor:
    return torch.rand(N, 3, *SIZE, generator=torch.Generator().manual_seed(9))


@pytest.fixture
def truth() -> list[int]:
    """The right classes: the first 12 predictions of `maps(0)` are right."""
    return [row % 7 if row < 12 else (row + 3) % 7 for row in range(N)]


def test_agreement_shows_as_many_right_as_wrong_predictions_each_with_its_own_map(pixels, truth):
    study = human_study("agreement", pixels, maps(0), truth=truth, class_names=list("abcdefg"))
    assert len(study.trials) == 16
    assert Counter(study.key.answers.values()) == {"right": 8, "wrong": 8}
    shown = set()
    for trial in study.trials:
        (row,), (image,) = trial.maps, trial.images
        assert row == image
        shown.add(image)
        assert trial.label == "abcdefg"[image % 7]
        assert study.key.answers[trial.name] == ("right" if image < 12 else "wrong")
        assert study.key.about[trial.name] == {"image": image, "predicted": image % 7, "true": truth[image]}
    assert len(shown) == 16


def test_without_names_nobody_is_told_the_prediction(pixels, truth):
    assert {t.label for t in human_study("agreement", pixels, maps(0), truth=truth).trials} == {""}


def test_distinction_puts_the_prediction_at_each_place_equally_often(pixels):
    study = human_study("distinction", pixels, [maps(shift) for shift in range(4)])
    assert Counter(study.key.answers.values()) == dict.fromkeys("ABCD", 5)
    for trial in study.trials:
        assert len(set(trial.images)) == 1
        place = "ABCD".index(study.key.answers[trial.name])
        which = [row // N for row in trial.maps]
        assert sorted(which) == [0, 1, 2, 3]
        assert which[place] == 0
        assert {row % N for row in trial.maps} == {trial.images[0]}
        assert study.key.about[trial.name]["classes"] == [(trial.images[0] + shift) % 7 for shift in which]
    orders = Counter(tuple(row // N for row in trial.maps) for trial in study.trials)
    assert len(orders) > 8  # the three others are shuffled too


def test_no_letter_of_distinction_is_more_frequent_over_studies_of_few_trials(pixels):
    """Five trials hold one letter twice; which one is not foretold."""
    given = [maps(shift) for shift in range(4)]
    more = Counter[str]()
    for seed in range(80):
        study = human_study("distinction", pixels[:, :1], given, n_trials=5, seed=seed)
        counts = Counter(study.key.answers.values())
        assert sorted(counts.values()) == [1, 1, 1, 2]
        more[counts.most_common(1)[0][0]] += 1
    assert all(8 < more[letter] < 32 for letter in "ABCD")


def test_bias_shows_every_set_of_images_once_with_either_kind_of_model(pixels):
    models = [maps(shift) for shift in range(5)]
    biased = [True, False, False, True, False]
    study = human_study("bias", pixels, models, truth=biased, n_maps=4)
    assert len(study.trials) == 10
    sets = Counter[tuple[int, ...]]()
    for trial in study.trials:
        answer = study.key.answers[trial.name]
        (model,) = {row // N for row in trial.maps}
        assert answer == ("biased" if biased[model] else "clean")
        assert [row % N for row in trial.maps] == list(trial.images)
        assert len(set(trial.images)) == 4
        sets[trial.images] += 1
    assert set(sets.values()) == {2}
    assert Counter(image for images in sets for image in images) == dict.fromkeys(range(N), 1)
    shown = Counter(study.key.about[trial.name]["explanation"] for trial in study.trials)
    assert sorted(shown.values()) == [1, 2, 2, 2, 3]


def test_more_sets_than_images_allow_use_all_images_equally_often(pixels):
    study = human_study("bias", pixels, [maps(0), maps(1)], truth=[True, False], n_maps=5, n_trials=24)
    used = Counter(image for trial in study.trials for image in trial.images)
    assert sum(used.values()) == 24 * 5
    assert set(used.values()) == {6}


def test_the_seed_fixes_everything_and_another_changes_names_and_order(pixels, truth):
    def made(seed: int) -> HumanStudy:
        return human_study("agreement", pixels, maps(0), truth=truth, seed=seed)

    assert made(4).trials == made(4).trials
    assert made(4).key == made(4).key
    assert made(4).name != made(5).name
    assert not {t.name for t in made(4).trials} & {t.name for t in made(5).trials}
    assert [t.images for t in made(4).trials] != [t.images for t in made(5).trials]


def test_two_studies_with_one_seed_share_no_names(pixels, truth):
    first = human_study("agreement", pixels, maps(0), truth=truth)
    second = human_study("agreement", 1 - pixels, maps(0), truth=truth)
    assert not {t.name for t in first.trials} & {t.name for t in second.trials}


def test_answers_are_neither_in_the_order_nor_in_the_names(pixels, truth):
    """Over many seeds the first trial is right about half the time, and names do not sort by answer."""
    firsts, lows = 0, 0
    for seed in range(100):
        study = human_study("agreement", pixels[:, :1], maps(0), truth=truth, n_trials=4, seed=seed)
        answers = study.key.answers
        firsts += answers[study.trials[0].name] == "right"
        lows += answers[min(answers)] == "right"
    assert 30 < firsts < 70
    assert 30 < lows < 70


def test_a_study_and_its_key_are_saved_and_read(pixels, truth, tmp_path):
    study = human_study("agreement", pixels, maps(0), truth=truth)
    again = HumanStudy.load(study.save(tmp_path / "study.safetensors"))
    assert again.trials == study.trials
    assert again.key == study.key
    key = AnswerKey.read(study.key.write(tmp_path / "new" / "key.json"))
    assert key.answers == study.key.answers
    assert (key.study, key.kind, key.about) == (study.name, "agreement", study.key.about)
    assert json.loads((tmp_path / "new" / "key.json").read_text())["format"] == 1
    for answer in study.key.answers.values():
        assert answer not in repr(study)


def test_what_cannot_be_a_study_is_refused(pixels, truth):
    e = maps(0)
    with pytest.raises(BadInput, match=r"kind 'guess' is unknown.*'agreement'"):
        getattr(human_study, "__wrapped__", human_study)("guess", pixels, e)
    with pytest.raises(BadInput, match=r"not pixels in 0…1"):
        human_study("agreement", pixels - 0.5, e, truth=truth)
    with pytest.raises(BadInput, match=r"not of these images"):
        human_study("agreement", pixels[:4], e, truth=truth[:4])
    with pytest.raises(BadInput, match=r"no truth where 20 are needed"):
        human_study("agreement", pixels, e)
    with pytest.raises(BadInput, match=r"20 right and 0 wrong"):
        human_study("agreement", pixels, e, truth=e.target)
    with pytest.raises(BadInput, match=r"12 right and 8 wrong predictions: not 9"):
        human_study("agreement", pixels, e, truth=truth, n_trials=18)
    with pytest.raises(BadInput, match=r"3 is odd.*Use 4"):
        human_study("agreement", pixels, e, truth=truth, n_trials=3)
    with pytest.raises(BadInput, match=r"n_trials 0"):
        human_study("agreement", pixels, e, truth=truth, n_trials=0)
    with pytest.raises(BadInput, match=r"class 6 has none of the 2"):
        human_study("agreement", pixels, e, truth=truth, class_names=["a", "b"])
    with pytest.raises(BadInput, match=r"got 2 explanations"):
        human_study("distinction", pixels, [e, maps(1)])
    with pytest.raises(BadInput, match=r"two of the four explanations of image 0"):
        human_study("distinction", pixels, [e, maps(1), maps(2), maps(1)])
    with pytest.raises(BadInput, match=r"has no class for each image"):
        human_study("distinction", pixels, [replace(e, target=()), maps(1), maps(2), maps(3)])
    with pytest.raises(BadInput, match=r"2 models are biased and 0 clean"):
        human_study("bias", pixels, [e, maps(1)], truth=[True, True])
    with pytest.raises(BadInput, match=r"n_maps 21"):
        human_study("bias", pixels, [e, maps(1)], truth=[True, False], n_maps=21)
    broken = e.heatmap.clone()
    broken[3, 0, 0] = torch.nan
    with pytest.raises(BadInput, match=r"maps \[3\] of 'by_hand'"):
        human_study("agreement", pixels, replace(e, heatmap=broken), truth=truth)


def test_a_file_that_is_no_key_is_refused(tmp_path):
    path = tmp_path / "key.json"
    path.write_text("{}")
    with pytest.raises(BadInput, match=r"is no answer key"):
        AnswerKey.read(path)
    path.write_text('{"study": "s", "kind": "bias", "answers": {"t": "right"}, "about": {}, "settings": {}}')
    with pytest.raises(BadInput, match=r"kind 'bias' with other answers"):
        AnswerKey.read(path)
