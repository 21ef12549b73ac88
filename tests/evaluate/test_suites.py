"""Several metrics at once: the numbers of one after the other, for the price of the questions that differ."""

import pytest
import torch
from torch import nn

from glasshouse import attribute, evaluate
from glasshouse.core import BadInput, Explanation, NotFound, Score, find_method
from glasshouse.evaluate.engine import Answers

CHEAP = {
    "deletion": {"n_steps": 7},
    "insertion": {"n_steps": 7},
    "srg": {"n_steps": 4},
    "faithfulness_correlation": {"n_samples": 16},
    "mu_fidelity": {"n_samples": 16},
    "sensitivity_n": {"n_samples": 16, "n_sizes": 3},
    "road": {"fractions": (0.2, 0.6)},
    "average_drop": {},
    "average_gain": {},
    "effective_complexity": {"n_samples": 2},
    "completeness_gap": {},
    "sparseness": {},
    "pointing_game": {},
    "relevance_mass": {},
    "max_sensitivity": {"n_samples": 2},
    "class_sensitivity": {},
}


QUICK = {"deletion": {"n_steps": 7}, "srg": {"n_steps": 4}, "mu_fidelity": {"n_samples": 16}}


@pytest.fixture
def masks():
    masks = torch.zeros(3, 14, 18, dtype=torch.bool)
    masks[:, 2:7, 3:8] = True
    return masks


@pytest.fixture
def two(cnn, images):
    return {
        "exact": attribute.integrated_gradients(cnn, images, n_steps=2),
        "quick": attribute.input_x_gradient(cnn, images),
    }


def one_by_one(model, images, explanation, masks, seed):
    found = {}
    for name, settings in CHEAP.items():
        info = find_method(name, "evaluate")
        given = {key: value for key, value in {"masks": masks, "seed": seed}.items() if key in info.defaults}
        given |= {"masks": masks} if "masks" in info.parameters.parameters else {}
        found[name] = info.function(model, images, explanation, **given, **settings)
    return found


def test_values_are_those_of_metrics_called_one_by_one_and_cost_less(cnn, images, two, masks, counted):
    sizes = counted(cnn)
    found = evaluate.suite(cnn, images, two, CHEAP, masks=masks, seed=5)
    together = sum(sizes)
    assert found.n_forward == together
    assert together == sum(score.n_forward for own in found.scores.values() for score in own.values())
    assert found.skipped == {"exact": {}, "quick": {}}
    sizes.clear()
    for name, explanation in two.items():
        assert list(found[name]) == list(CHEAP)
        for metric, alone in one_by_one(cnn, images, explanation, masks, 5).items():
            together_with = found[name][metric]
            torch.testing.assert_close(together_with.value, alone.value, atol=1e-6, rtol=1e-5, equal_nan=True)
            torch.testing.assert_close(together_with.stderr, alone.stderr, atol=1e-6, rtol=1e-5, equal_nan=True)
            assert together_with.reason == alone.reason
            assert (together_with.direction, together_with.chance) == (alone.direction, alone.chance)
    assert together < sum(sizes) - 3 * (2 * 8 + 16)  # clean and empty images, and one set of random masks


def test_every_distinct_question_is_asked_once(cnn, images, two, counted):
    sizes = counted(cnn)
    curves = evaluate.suite(cnn, images, two, {"deletion": {"n_steps": 7}, "insertion": {"n_steps": 7}})
    answers = Answers(cnn, images, list(two["exact"].target))
    for explanation in two.values():
        for metric in (evaluate.deletion, evaluate.insertion):
            metric(cnn, images, explanation, n_steps=7, answers=answers)
    assert curves.n_forward == 3 * len(answers.table)
    assert sum(sizes) == 2 * curves.n_forward
    sizes.clear()
    masks = {"mu_fidelity": {"n_samples": 16}}
    assert evaluate.suite(cnn, images, two, masks).n_forward == sum(sizes) == 3 * (1 + 16)


def test_the_same_explanation_twice_costs_nothing_more(cnn, images, two, counted):
    once = evaluate.suite(cnn, images, {"a": two["exact"]}, QUICK)
    twice = evaluate.suite(cnn, images, {"a": two["exact"], "b": two["exact"]}, QUICK)
    assert once.n_forward == twice.n_forward
    torch.testing.assert_close(twice["a"]["srg"].value, twice["b"]["srg"].value, atol=0, rtol=0)


def test_questions_are_asked_in_full_chunks(cnn, images, two, counted):
    sizes = counted(cnn)
    answers = Answers(cnn, images, list(two["exact"].target), chunk=50)
    found = evaluate.suite(cnn, images, two, QUICK, answers=answers)
    assert found.n_forward == sum(sizes)
    clean, *full = sizes
    assert clean == 3
    assert all(size == 50 for size in full[:-1])


def test_metrics_of_the_map_alone_cost_no_pass(cnn, images, two, masks, counted):
    sizes = counted(cnn)
    found = evaluate.suite(cnn, images, two, ["sparseness", "entropy", "pointing_game"], masks=masks)
    assert found.n_forward == sum(sizes) == 0
    assert found["exact"]["sparseness"].valid.all()


def test_passes_that_a_metric_makes_by_itself_are_counted(cnn, images, two, counted):
    sizes = counted(cnn)
    found = evaluate.suite(cnn, images, two, {"max_sensitivity": {"n_samples": 2}, "class_sensitivity": {}})
    assert found.n_forward == sum(sizes) > 0


def test_answers_known_before_are_used_and_not_counted_again(cnn, images, two, counted):
    answers = Answers(cnn, images, list(two["exact"].target))
    first = evaluate.suite(cnn, images, two["exact"], QUICK, answers=answers)
    assert first.n_forward == answers.n_forward
    sizes = counted(cnn)
    again = evaluate.suite(cnn, images, two["exact"], QUICK, answers=answers)
    assert again.n_forward == sum(sizes) == 0
    torch.testing.assert_close(
        again["integrated_gradients"]["deletion"].value, first.scores["integrated_gradients"]["deletion"].value
    )


def test_one_explanation_goes_by_the_name_of_its_method(cnn, images, two):
    found = evaluate.suite(cnn, images, two["quick"], ["sparseness"])
    assert list(found.scores) == ["input_x_gradient"]
    torch.testing.assert_close(
        found["input_x_gradient"]["sparseness"].value, evaluate.sparseness(cnn, images, two["quick"]).value
    )


# What cannot be


def test_an_image_without_a_value_has_its_reason(cnn, images, explained):
    maps = torch.randn(3, 14, 18, generator=torch.Generator().manual_seed(0))
    maps[1], maps[2] = 1, torch.nan
    found = evaluate.suite(cnn, images, explained(maps), {**QUICK, "sparseness": {}})
    for score in found["by_hand"].values():
        assert score.reason[0] == ""
        assert score.reason[1] in ("", "constant_map", "constant_sums")
        assert score.reason[2] == "not_finite"


def test_a_metric_that_cannot_be_computed_is_noted_and_the_others_are(cnn, images, two):
    wanted = {"deletion": {"baseline": "rgb:0.5"}, "irof": {"baseline": "patch_mean:99"}, "sparseness": {}}
    found = evaluate.suite(cnn, images, two, wanted)
    for name in two:
        assert list(found[name]) == ["sparseness"]
        assert "normalisation" in found.skipped[name]["deletion"]
        assert "do not fit" in found.skipped[name]["irof"]
    assert "deletion" not in found.table()


def test_a_target_that_was_not_kept_gives_reasons_unless_it_is_given(cnn, images):
    def lead(output):
        return output[:, 0] - output[:, 1]

    explanation = attribute.input_x_gradient(cnn, images, lead)
    wanted = {"deletion": {"score": "logit", "n_steps": 7}, "sparseness": {}}
    blind = evaluate.suite(cnn, images, explanation, wanted)["input_x_gradient"]
    assert blind["deletion"].reason == ("custom_target",) * 3
    assert blind["sparseness"].valid.all()
    told = evaluate.suite(cnn, images, explanation, wanted, target=lead)["input_x_gradient"]
    alone = evaluate.deletion(cnn, images, explanation, score="logit", n_steps=7, target=lead)
    torch.testing.assert_close(told["deletion"].value, alone.value)


def test_an_explanation_of_an_unknown_target_is_not_scored_for_that_of_another(cnn, images, two):
    custom = attribute.input_x_gradient(cnn, images, lambda output: output[:, 0] - output[:, 1])
    for named in ({"known": two["quick"], "custom": custom}, {"custom": custom, "known": two["quick"]}):
        found = evaluate.suite(cnn, images, named, QUICK)
        assert found["custom"]["deletion"].reason == ("custom_target",) * 3
        assert found["known"]["deletion"].valid.all()


def test_explanations_of_other_images_or_targets_are_refused(cnn, images, two, explained, random_maps):
    with pytest.raises(BadInput, match="Pass the images that were explained"):
        evaluate.suite(cnn, images, {**two, "odd": explained(random_maps(3))}, ["sparseness"])
    other = attribute.input_x_gradient(cnn, images, [0, 1, 2])
    same = attribute.input_x_gradient(cnn, images, [1, 1, 1])
    with pytest.raises(BadInput, match="about another target"):
        evaluate.suite(cnn, images, {"a": other, "b": same}, ["deletion"])
    answers = Answers(nn.Sequential(nn.Flatten(), nn.Linear(3 * 14 * 18, 4)), images, 0)
    with pytest.raises(BadInput, match="another model"):
        evaluate.suite(cnn, images, two, ["deletion"], answers=answers)


def test_unknown_names_and_settings_are_refused_with_what_there_is(cnn, images, two):
    with pytest.raises(NotFound, match=r"delation.*Did you mean 'deletion'"):
        evaluate.suite(cnn, images, two, ["delation"])
    with pytest.raises(BadInput, match=r"deletion has no setting 'steps'\. It has n_steps, "):
        evaluate.suite(cnn, images, two, {"deletion": {"steps": 3}})
    for explanations, metrics in ((two, []), ({}, ["deletion"])):
        with pytest.raises(BadInput, match="Give at least one of each"):
            evaluate.suite(cnn, images, explanations, metrics)


def test_a_metric_that_needs_more_says_so_and_gets_it_from_its_settings(cnn, images, two, masks):
    for name, what in (("pointing_game", "masks"), ("data_randomisation", "other_model")):
        with pytest.raises(BadInput, match=f"{name} needs more than was given: .*'{what}'"):
            evaluate.suite(cnn, images, two, [name])
    found = evaluate.suite(
        cnn, images, two, {"data_randomisation": {"other_model": cnn}, "pointing_game": {"masks": masks}}
    )
    assert found["exact"]["data_randomisation"].valid.all()
    assert found["exact"]["pointing_game"].valid.all()


# What is shown


def test_the_table_has_a_row_for_each_metric_and_a_column_for_each_explanation(cnn, images, two, masks, explained):
    flat = explained(torch.ones(3, 14, 18), two["exact"].target)
    wanted = {"deletion": {"n_steps": 7}, "insertion": {"n_steps": 7}, "total_variation": {}}
    found = evaluate.suite(cnn, images, {**two, "flat": flat}, wanted)
    lines = found.table().splitlines()
    assert lines[0] == "| metric | exact | quick | flat |"
    assert lines[1] == "|---|---|---|---|"
    assert [line.split(" | ")[0] for line in lines[2:]] == ["| `deletion` ↓", "| `insertion` ↑", "| `total_variation`"]
    deletion = found["quick"]["deletion"]
    assert lines[2].split(" | ")[2] == f"{deletion.mean:.3g} ± {deletion.error:.2g}"
    assert lines[2].endswith("| – |")  # a constant map has no order
    assert found.table().endswith("\n")


def test_a_suite_is_saved_and_shown(cnn, images, two, tmp_path):
    found = evaluate.suite(cnn, images, two, QUICK)
    assert repr(found) == f"Suite(2 explanations, 3 metrics, {found.n_forward} forward passes)"
    back = evaluate.Suite.load(found.save(tmp_path / "suite.safetensors"))
    assert back.table() == found.table()
    assert back["quick"]["deletion"].value.equal(found["quick"]["deletion"].value)


def test_no_trace_is_left(cnn, images, two, masks):
    cnn.train()
    before, state = images.clone(), torch.random.get_rng_state()
    evaluate.suite(cnn, images, two["quick"], {**QUICK, "class_sensitivity": {}}, masks=masks)
    assert cnn.training
    assert images.equal(before)
    assert state.equal(torch.random.get_rng_state())
    assert all(weight.grad is None for weight in cnn.parameters())
    assert isinstance(two["exact"], Explanation)


def two_metrics(a, b):
    """A suite of four explanations with these means."""

    def score(name, value, direction):
        return Score(name, torch.tensor([float(value)]), torch.zeros(1), 0.0, direction, ("",))

    rows = {
        f"e{k}": {"srg": score("srg", x, "up"), "deletion": score("deletion", y, "down")}
        for k, (x, y) in enumerate(zip(a, b, strict=True))
    }
    return evaluate.Suite(rows)


@pytest.mark.parametrize(
    ("a", "b"), [([4.0, 3, 2, 1], [1.0, 2, 3, 4]), ([1.0, 3, 2, 4], [1.0, 2, 3, 4]), ([1.0, 1, 2, 3], [2.0, 2, 1, 1])]
)
def test_agreement_is_kendalls_tau_of_the_orders(a, b):
    stats = pytest.importorskip("scipy.stats")
    found = two_metrics(a, b).agreement("srg", "deletion")
    assert found == pytest.approx(stats.kendalltau(a, [-value for value in b]).statistic)


def test_places_are_mean_ranks_and_their_scatter():
    places = two_metrics([4.0, 3, 2, 1], [4.0, 3, 2, 1]).places()
    assert places["e0"] == pytest.approx((2.5, 2.1213), abs=1e-3)  # first by srg, last by deletion
    assert places["e1"][0] == pytest.approx(2.5)
    agreed = two_metrics([4.0, 3, 2, 1], [1.0, 2, 3, 4]).places()
    assert [agreed[f"e{k}"] for k in range(4)] == [(1.0, 0.0), (2.0, 0.0), (3.0, 0.0), (4.0, 0.0)]


def test_explanations_are_ordered_by_the_images_that_all_have_a_value_for():
    easy, hard = 0.9, 0.1  # both score the same on each image; the second is undefined on the hard one
    scores = [
        Score("srg", torch.tensor(values), torch.zeros(2), 0.0, "up", reason)
        for values, reason in (([easy, hard], ("", "")), ([easy, torch.nan], ("", "constant_map")))
    ]
    found = evaluate.Suite({name: {"srg": score} for name, score in zip("ab", scores, strict=True)})
    assert found.places() == {"a": (1.5, 0.0), "b": (1.5, 0.0)}
    none = Score("srg", torch.tensor([torch.nan, 1.0]), torch.zeros(2), 0.0, "up", ("constant_map", ""))
    with pytest.raises(BadInput, match="no metric has a direction"):
        evaluate.Suite({"b": {"srg": scores[1]}, "c": {"srg": none}}).places()


def test_a_metric_that_sees_no_difference_agrees_with_none():
    with pytest.raises(BadInput, match="do not both order"):
        two_metrics([1.0, 1, 1], [1.0, 2, 3]).agreement("srg", "deletion")


def test_an_error_inside_a_metric_is_not_taken_for_a_missing_argument(cnn, images, two):
    with pytest.raises(TypeError):
        evaluate.suite(cnn, images, two, {"sparseness": {}, "srg": {"n_steps": "many"}})


def test_a_metric_may_come_twice_with_other_settings(cnn, images):
    explanation = attribute.input_x_gradient(cnn, images)
    found = evaluate.suite(
        cnn, images, explanation, {"srg": {"n_steps": 4}, "srg@mean": {"n_steps": 4, "baseline": "mean"}}
    )
    scores = found["input_x_gradient"]
    assert list(scores) == ["srg", "srg@mean"]
    torch.testing.assert_close(
        scores["srg@mean"].value,
        evaluate.srg(cnn, images, explanation, n_steps=4, baseline="mean").value,
        atol=1e-5,
        rtol=1e-4,
    )
    with pytest.raises(BadInput, match="both order"):
        found.agreement("srg", "srg@mean")
