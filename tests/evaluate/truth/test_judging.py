"""Metrics judged: those that can tell the oracle from noise pass, those that cannot are shown as what they are."""

from dataclasses import replace
from inspect import signature
from statistics import mean, stdev

import pytest
import torch
from sklearn.metrics import roc_auc_score

from glasshouse import data, evaluate
from glasshouse.cli.benchmarks import KEPT_BACK, bench_truth
from glasshouse.core import BadInput, generator, registered, registry
from glasshouse.data.glass import colours, wired_classifier
from glasshouse.evaluate.metric import Result, score_of
from glasshouse.evaluate.truth.controls import IGNORANT
from glasshouse.evaluate.truth.games import glass_game
from glasshouse.evaluate.truth.judgements import HELD_OUT, ORACLE, RANDOM, SETTLED, JudgedTwice
from glasshouse.evaluate.truth.judging import (
    JUDGED,
    NOISE,
    comparable,
    in_order,
    judge,
    judge_twice,
    leads,
    maps_to_judge,
    noisy,
)

GOOD = {
    "faithfulness_correlation": {"n_samples": 32},
    "mu_fidelity": {"n_samples": 32},
    "faithfulness_estimate": {},
    "relevance_mass": {},
    "localisation_auc": {},
    "shapley_gap": {},
    "deletion": {"n_steps": 16, "score": "logit", "grid": (8, 8)},
}
BLIND = {"monotonicity": {"grid": (2, 2)}, "part_single_deletion": {}}


@pytest.fixture(scope="module")
def model():
    return wired_classifier()


@pytest.fixture(scope="module")
def game(model):
    return glass_game(model, data.scenes("shapes", 20, size=32, seed=3, n_objects=2).images)


@pytest.fixture(scope="module")
def judged(model, game):
    return judge(model, game, GOOD | BLIND, seed=3)


@pytest.fixture
def metric():
    """Registers a metric of one value per map under a name of its own, and takes it back."""
    names = []

    def metric(name, value_of, direction="up", fail=None):
        def function(model, inputs, explanation, *, masks):
            if fail is not None:
                raise fail
            value = value_of(explanation.heatmap, masks)
            why = tuple("" if known else "no_positive" for known in value.isfinite().tolist())
            return score_of(name, Result(value, torch.zeros_like(value), why), None, direction, {})

        function.__name__ = name
        registered("evaluate")(function)
        names.append(f"evaluate.{name}")
        return {name: {}}

    yield metric
    for name in names:
        del registry._registry[name]


def on_what_matters(maps, masks):
    return (maps.clamp(min=0) * masks).flatten(1).sum(1) / maps.clamp(min=0).flatten(1).sum(1)


# On a model whose truth is known


def test_metrics_that_can_tell_put_the_oracle_first_and_noise_last(judged):
    assert set(GOOD) <= set(judged.passing)
    for name in judged.passing:
        sign = -1 if judged.directions[name] == "down" else 1
        best = sign * judged.means[name][ORACLE]
        for control in IGNORANT:
            assert not best <= sign * judged.means[name][control]  # a constant map may have no number
        assert judged.auroc[name] > 0.7
        assert judged.faults(name) == ()
        assert judged.behind_oracle[name][ORACLE] == 0


def test_a_model_that_only_adds_is_monotone_in_any_order_and_the_metric_cannot_tell(judged):
    means = judged.means["monotonicity"]
    assert all(value == 1 for who, value in means.items() if who != "constant")
    assert judged.auroc["monotonicity"] == 0.5
    assert judged.faults("monotonicity") == ("oracle not first",)


def test_the_table_has_those_that_pass_first_and_strikes_the_others_through(judged):
    lines = judged.table().splitlines()
    shown = [line.split("|")[1].strip() for line in lines[2:]]
    passing, failing = len(judged.passing), len(judged.means) - len(judged.passing)
    assert failing >= 1
    assert all(name.startswith("`") for name in shown[:passing])
    assert all(name.startswith("~~") for name in shown[passing:])
    assert "~~monotonicity~~ ↑" in shown
    assert "`deletion` ↓" in shown
    assert lines[0].startswith("| metric | oracle | 25 % noise | 50 % noise | 75 % noise | centre |")
    assert lines[0].endswith("| AUROC | verdict | from the means alone |")
    blind = next(line for line in lines if "~~monotonicity~~" in line)
    plain = "centre, edges, random level with the oracle; centre, edges level with random"
    assert blind.endswith(f"| oracle not first | {plain} |")
    assert all(line.split("|")[-3] == " passes " for line in lines[2 : 2 + passing])
    first = [float(line.split("|")[-4]) for line in lines[2 : 2 + passing]]
    assert first == sorted(first, reverse=True)
    assert repr(judged) == f"Judgement({passing} of {passing + failing} metrics pass)"


def test_the_same_seed_gives_the_same_judgement_and_it_is_saved(model, game, judged, tmp_path):
    few = {name: GOOD[name] for name in ("mu_fidelity", "relevance_mass")}
    again = judge(model, game, few, seed=3)
    assert all(again.means[name] == pytest.approx(judged.means[name], nan_ok=True) for name in few)
    assert all(again.auroc[name] == judged.auroc[name] for name in few)
    back = evaluate.Judgement.load(judged.save(tmp_path / "judgement.safetensors"))
    assert back.table() == judged.table()


def test_all_metrics_to_be_judged_are_there():
    assert set(JUDGED) <= set(evaluate.list_metrics())


# Metrics that are wrong by construction


def test_a_metric_of_what_matters_passes_and_upside_down_it_does_not_put_the_oracle_first(model, game, metric):
    right = metric("right", on_what_matters)
    downwards = metric("downwards", lambda maps, masks: -on_what_matters(maps, masks), "down")
    inverted = metric("inverted", lambda maps, masks: -on_what_matters(maps, masks))
    mislabelled = metric("mislabelled", on_what_matters, "down")
    found = judge(model, game, right | downwards | inverted | mislabelled)
    assert found.passing == ("right", "downwards")
    for name in ("inverted", "mislabelled"):
        assert found.faults(name)[0] == "oracle not first"
        assert found.auroc[name] == pytest.approx(1 - found.auroc["right"])
        assert found.behind_oracle[name][RANDOM] < -3
    assert found.auroc["right"] == found.auroc["downwards"] > 0.95


def test_a_metric_that_answers_noise_does_not_pass(model, game, metric):
    draws = generator(0)
    noise = metric("noise", lambda maps, masks: torch.rand(len(maps), generator=draws))
    same = metric("same", lambda maps, masks: torch.ones(len(maps)))
    found = judge(model, game, noise | same)
    assert found.passing == ()
    assert found.faults("noise")[0] == found.faults("same")[0] == "oracle not first"
    assert found.auroc["same"] == 0.5
    assert abs(found.auroc["noise"] - 0.5) < 0.15
    assert set(found.behind_oracle["same"].values()) == {0.0}


def test_a_metric_that_puts_something_else_behind_noise_is_told(model, game, metric):
    """It likes the oracle best, but dislikes maps that stay the same upside down more than noise."""

    def lopsided(maps, masks):
        even = torch.isclose(maps, maps.flip(1)).flatten(1).all(1) & (maps.flatten(1).std(1) > 0)
        return on_what_matters(maps, masks) - even.float()

    found = judge(model, game, metric("lopsided", lopsided))
    assert found.above_random["lopsided"]["centre"] < -3
    assert found.faults("lopsided") == ("random not last",)
    assert RANDOM not in found.above_random["lopsided"]


def test_metrics_that_cannot_be_computed_are_noted_with_the_reason(model, game, metric):
    refuses = metric("refuses", on_what_matters, fail=BadInput("not for these."))
    found = judge(model, game, refuses | {"no_such_metric": {}, "card": {}})
    assert found.skipped["refuses"] == "not for these."
    assert "no_such_metric" in found.skipped["no_such_metric"]
    assert found.means == {}
    assert found.passing == ()
    assert found.table().count("\n") == 2


def test_one_scene_has_no_spread(model):
    game = glass_game(model, data.scenes("shapes", 1, size=32, seed=3).images)
    with pytest.raises(BadInput, match="two scenes or more"):
        judge(model, game, GOOD)


def test_scenes_in_which_no_part_is_worth_anything_are_left_out(model, game, metric):
    """Nothing but grey: the oracle is flat there, and no map is better than another."""
    shown = game.images[game.relevant.flatten(1).any(1)]
    shown[::2] = torch.tensor(colours.PALETTE["grey"])[:, None, None]
    found = glass_game(model, shown)
    some = metric("some", lambda maps, masks: 1 + on_what_matters(maps, masks).nan_to_num(5.0))
    judged = judge(model, found, some)
    assert judged.means["some"][ORACLE] == pytest.approx(2)
    assert judged.auroc["some"] > 0.95
    with pytest.raises(BadInput, match="parts matter in 0 of 20 scenes"):
        judge(model, glass_game(model, shown[:1].expand(20, -1, -1, -1)), some)


# The plain criterion, and what the rule can tell


def judgement(means, behind=None, above=None, direction="up", n=16):
    """One metric, and what is known of it; without leads, every map lies where it should."""
    full = dict.fromkeys((*(who for who in (ORACLE, *IGNORANT) if who not in means),), 0.5)
    behind = {ORACLE: 0.0} | dict.fromkeys(IGNORANT, 9.0) | (behind or {})
    above = dict.fromkeys((ORACLE, "centre", "edges", "constant"), 9.0) | (above or {})
    return evaluate.Judgement(
        {"some": full | means}, {"some": behind}, {"some": above}, {"some": direction}, {"some": 0.9}, {}, {"n": n}
    )


@pytest.mark.parametrize(
    ("means", "broken"),
    [
        ({ORACLE: 1.0, RANDOM: 0.0}, ""),
        ({ORACLE: 1.0, RANDOM: 0.0, "constant": float("nan")}, ""),
        ({ORACLE: 1.0, RANDOM: 0.0, "25 % noise": 2.0}, ""),  # is no control
        ({ORACLE: 1.0, RANDOM: 0.0, "edges": 1.1}, "edges ahead of the oracle"),
        ({ORACLE: 0.5, RANDOM: 0.0, "edges": 0.4}, "centre, constant level with the oracle"),
        (
            {ORACLE: 1.0, RANDOM: 0.49, "edges": 0.48, "constant": 0.49},
            "edges behind random; constant level with random",
        ),
        ({ORACLE: 0.0, RANDOM: 0.5}, "centre, edges, constant, random ahead of the oracle; "),
        ({ORACLE: 1.0, RANDOM: float("nan")}, "random has no score"),
    ],
)
def test_the_plain_criterion_looks_at_the_means_of_the_five_controls_alone(means, broken):
    up = judgement(means)
    down = judgement(
        {who: -value for who, value in {**dict.fromkeys(IGNORANT, 0.5), **means}.items()}, direction="down"
    )
    for found in (up, down):
        assert found.literal("some").startswith(broken or "holds")
        assert bool(found.literally("some")) == bool(broken)
        assert found.faults("some") == (), "the rule goes by leads"


def test_a_metric_whose_oracle_leads_but_not_clearly_is_told_how_many_scenes_it_would_take():
    assert judgement({}, {"centre": 3.01}).verdict("some") == "passes"
    assert judgement({}, {"centre": 1.92}).verdict("some") == "oracle not first (some 64 scenes would tell)"
    assert judgement({}, {"centre": 1.92, "edges": 2.5}).power("some") == "some 64 scenes would tell"
    assert judgement({}, {"centre": 1.92, "25 % noise": -1.49}).power("some")
    for behind in ({"centre": 0.0}, {"centre": -1.0}, {"centre": 1.92, "25 % noise": -1.51}):  # no number of them
        assert judgement({}, behind).verdict("some") == "oracle not first"
    assert judgement({}, above={"centre": -3.1}).verdict("some") == "random not last"
    both = judgement({}, {"centre": 1.92}, {"edges": -3.1}).verdict("some")
    assert both == "oracle not first, random not last (some 64 scenes would tell)"


# Scenes that were kept back


def test_verdicts_on_fresh_scenes_stand_beside_those_that_the_rule_was_settled_on(tmp_path):
    good, poor = judgement({ORACLE: 1.0, RANDOM: 0.0}), judgement({ORACLE: 1.0, RANDOM: 0.0}, {"edges": 2.0})
    fickle = evaluate.Judgement(*({"other": table["some"]} for table in tables(good)), {"gone": "why"}, {"seed": 7})
    joined = replace(fickle, **{name: getattr(fickle, name) | getattr(poor, name) for name in TABLES})
    first = replace(
        joined, **{name: {key: getattr(good, name)["some"] for key in ("some", "other")} for name in TABLES}
    )
    found = JudgedTwice(replace(first, settings={"seed": 1000}), joined)
    assert found.changed == ("some",)
    assert found.order == ["other", "some"]
    assert repr(found) == "JudgedTwice(2 and 1 of 2 metrics pass, 1 verdicts changed)"
    lines = found.table().splitlines()
    assert "settled on (seed 1000): AUROC" in lines[0]
    assert "held out (seed 7): AUROC" in lines[0]
    assert lines[2] == "| `other` ↑ | 0.90 | passes | holds | 0.90 | passes | holds |  |"
    assert lines[3] == "| ~~some~~ ↑ | 0.90 | passes | holds | 0.90 | oracle not first | holds | **changed** |"
    assert JudgedTwice.load(found.save(tmp_path / "twice.safetensors")).table() == found.table()
    alone = JudgedTwice(good, fickle)
    assert alone.table().splitlines()[3] == "| `some` ↑ | 0.90 | passes | holds | – | – | – |  |"
    assert alone.changed == ()
    assert alone.skipped == {"gone": "why"}


TABLES = ("means", "behind_oracle", "above_random", "directions", "auroc")


def tables(noun):
    return [getattr(noun, name) for name in TABLES]


def test_fresh_scenes_noise_and_controls_come_from_a_seed_that_nothing_was_settled_on(model, metric):
    drawn = []

    def game_of(seed):
        drawn.append(seed)
        return glass_game(model, data.scenes("shapes", 2, size=32, seed=seed, n_objects=2).images)

    found = judge_twice(model, game_of, metric("right", on_what_matters))
    assert drawn == [SETTLED, HELD_OUT] == [1000, 2026]
    assert [noun.settings["seed"] for noun in (found.settled, found.fresh)] == drawn
    assert found.settled.means["right"][RANDOM] != found.fresh.means["right"][RANDOM]
    same = judge(model, game_of(HELD_OUT), {"right": {}}, seed=HELD_OUT)
    assert same.means["right"] == found.fresh.means["right"]
    with pytest.raises(BadInput, match="nothing is held out"):
        judge_twice(model, game_of, {}, seeds=(HELD_OUT, HELD_OUT))


def test_what_runs_by_default_leaves_the_scenes_that_are_kept_back_alone():
    for function in (bench_truth, evaluate.quick_truth, judge):
        assert signature(function).parameters["seed"].default != HELD_OUT
    assert signature(bench_truth).parameters["seed"].default == SETTLED
    assert str(HELD_OUT) in KEPT_BACK


# Statistics


def test_a_lead_is_the_mean_difference_in_standard_errors():
    first, other = torch.rand(2, 30, generator=generator(0))
    gap = (first - other).tolist()
    expected = mean(gap) / (stdev(gap) / 30**0.5)
    assert leads(first, {"other": other}, "up", 1) == {"other": pytest.approx(expected, rel=1e-5)}
    assert leads(first, {"other": other}, "down", 1) == {"other": pytest.approx(-expected, rel=1e-5)}
    assert leads(first, {"other": other}, "up", -1) == {"other": pytest.approx(-expected, rel=1e-5)}
    assert leads(first, {RANDOM: other}, "up", -1) == {}
    assert RANDOM in leads(first, {RANDOM: other}, "up", 1)


def test_a_lead_without_spread_is_endless_or_none_and_gaps_are_left_out():
    first = torch.tensor([1.0, 2.0, torch.nan, 3.0])
    assert leads(first, {"behind": first - 1, "same": first.clone()}, "up", 1) == {"behind": torch.inf, "same": 0.0}
    assert leads(first, {"ahead": first + 1}, "up", 1) == {"ahead": -torch.inf}
    assert leads(first, {"alone": torch.tensor([0.0, torch.nan, 0.0, torch.nan])}, "up", 1) == {}


@pytest.mark.parametrize("direction", ["up", "down"])
def test_the_order_of_noisy_maps_is_the_auroc_over_pairs_of_one_image(direction):
    ladder = [torch.randint(6, (12,), generator=generator(k)).double() for k in range(4)]
    ladder[2][3] = torch.nan
    areas, sign = [], 1 if direction == "up" else -1
    for better in range(4):
        for worse in range(better + 1, 4):
            for image in range(12):
                pair = [sign * float(ladder[place][image]) for place in (better, worse)]
                if pair[0] == pair[0] and pair[1] == pair[1]:
                    areas.append(roc_auc_score([1, 0], pair))
    assert in_order(ladder, direction) == pytest.approx(mean(areas))
    assert in_order(list(map(torch.tensor, ([3.0], [2.0], [1.0]))), "up") == 1
    assert in_order(list(map(torch.tensor, ([3.0], [2.0], [1.0]))), "down") == 0


def test_values_that_only_rounding_tells_apart_are_tied_on_every_machine(game):
    def score(value):
        return score_of("some", Result(value, torch.zeros(3), ("",) * 3), None, "up", {})

    def levelled_all(scores):
        return comparable(scores, torch.ones(3, dtype=torch.bool))

    first, tiny = torch.tensor([1.0, 1e-8, -4.0]), torch.tensor([1e-7, 1e-15, 4e-7])
    values = levelled_all({"a": score(first), "b": score(first + tiny), "c": score(2 * first)})
    assert values["a"].equal(values["b"])
    torch.testing.assert_close(values["c"], 2 * first.double(), rtol=1e-4, atol=0)
    zeros = levelled_all({"a": score(torch.zeros(3)), "b": score(torch.zeros(3))})
    assert zeros["a"].tolist() == [0.0] * 3
    endless = levelled_all({"a": score(torch.tensor([torch.inf, 1.0, -torch.inf])), "b": score(torch.ones(3))})
    assert endless["a"].isfinite().tolist() == [False, True, False], "no number says how far ahead it is"
    assert endless["b"].tolist() == pytest.approx([1.0] * 3)


# What is given to metrics


def test_every_metric_gets_the_oracle_the_oracle_with_noise_and_the_controls(game):
    maps = maps_to_judge(game, 0)
    assert tuple(maps) == (ORACLE, *(noisy(share) for share in NOISE), *IGNORANT)
    sums = torch.einsum("nhw,nphw->np", maps[ORACLE], game.masks.float())
    torch.testing.assert_close(sums, torch.where(game.masks.flatten(2).any(2), game.shapley, 0.0))
    assert noisy(0.25) == "25 % noise"


def test_questions_that_maps_share_are_asked_once(model, game, counted):
    sizes = counted(model.module)
    judge(model, game, {"mu_fidelity": {"n_samples": 16}, "faithfulness_correlation": {"n_samples": 16}})
    assert sum(sizes) == 20 * (1 + 16 + 16)
    model.module._forward_hooks.clear()
