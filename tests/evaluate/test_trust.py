"""The card: what each tier costs and holds, and what it says."""

import gc
import pickle
from dataclasses import replace

import pytest
import torch
from torch import nn

from glasshouse import attribute, evaluate
from glasshouse.core import BadInput, find_method, list_methods
from glasshouse.core.registry import Cost, _registry
from glasshouse.evaluate.trust import HEADLINES, TIERS
from test_cost import Counted, CountedTokens


@pytest.mark.parametrize(("tier", "passes"), [("free", 0), ("lite", 18 + 16), ("standard", 66 + 16)])
def test_a_tier_costs_what_it_says(cnn, images, explained, random_maps, counted, tier, passes):
    explanation = explained(random_maps(3, (14, 18)), 1)
    sizes = counted(cnn)
    card = evaluate.card(cnn, images, explanation, tier=tier)
    assert sum(sizes) == sum(s.n_forward for s in card.scores.values()) == 3 * passes
    assert card.tier == tier


def test_the_standard_tier_holds_the_headline_scores(cnn, images):
    card = evaluate.card(cnn, images, attribute.integrated_gradients(cnn, images, n_steps=4), tier="standard")
    assert {
        "srg",
        "mu_fidelity",
        "completeness_gap",
        "class_sensitivity",
        "randomise_parameters",
        "sparseness",
    } <= set(card.scores)
    assert all(s.valid.all() and s.stderr.isfinite().all() for s in card.scores.values())


def test_card_scores_are_those_of_the_metrics(cnn, images):
    explanation = attribute.input_x_gradient(cnn, images)
    card = evaluate.card(cnn, images, explanation, tier="standard", seed=5)
    alone = {
        "srg": evaluate.srg(cnn, images, explanation, seed=5),
        "mu_fidelity": evaluate.mu_fidelity(cnn, images, explanation, n_samples=32, baseline="blur", seed=5),
        "sparseness": evaluate.sparseness(cnn, images, explanation),
    }
    for name, metric in alone.items():
        torch.testing.assert_close(card.scores[name].value, metric.value, atol=1e-5, rtol=1e-4)


def test_ten_methods_pay_for_the_random_masks_once(cnn, images, explained, random_maps, counted):
    sizes, answers = counted(cnn), evaluate.Answers(cnn, images, 1)
    for seed in range(3):
        evaluate.card(cnn, images, explained(random_maps(3, (14, 18), seed), 1), tier="standard", answers=answers)
    assert sum(sizes) == answers.n_forward == 3 * (2 + 16 + 32 + 3 * 32)


AUTOMATIC = [
    (20, "lite"),
    (163, "lite"),
    (164, "standard"),
    (343, "standard"),
    (344, "full"),
    (501, "full"),
    (None, "lite"),
]


@pytest.mark.parametrize(("own", "tier"), AUTOMATIC)
def test_the_automatic_tier_stays_within_half_of_the_methods_cost(cnn, images, counted, monkeypatch, own, tier):
    info = _registry["attribute.saliency"]
    cost = None if own is None else lambda settings, shape: Cost(own)
    explanation, sizes = attribute.saliency(cnn, images), counted(cnn)
    monkeypatch.setitem(_registry, info.name, replace(info, cost=cost))
    card = evaluate.card(cnn, images, explanation)
    assert card.tier == tier
    assert sum(sizes) <= 3 * max(18 + 16, (own or 0) / 2)
    assert set(card.scores["class_sensitivity"].reason) == {"not_asked"}


def test_every_tier_holds_six_headline_scores_and_says_of_each_that_is_missing_why_and_what_asks_it(cnn, images):
    missing = {
        "free": {"srg": "lite", "mu_fidelity": "standard", "class_sensitivity": "standard"},
        "lite": {"mu_fidelity": "standard", "class_sensitivity": "standard"},
        "standard": {},
    }
    explanation = attribute.integrated_gradients(cnn, images, n_steps=5)
    cards = {tier: evaluate.card(cnn, images, explanation, tier=tier).scores for tier in missing}
    for tier, names in missing.items():
        scores, measured = cards[tier], cards["standard"]
        assert {*HEADLINES, "sparseness"} <= set(scores)
        left = {name: scores[name].settings["tier"] for name in scores if "not_asked" in scores[name].reason}
        assert left == (names | {"randomise_parameters": "standard"} if names else {})
        assert all(not scores[name].valid.any() and scores[name].n_forward == 0 for name in left)
        assert [scores[name].settings["passes"] for name in left if name.startswith(("mu", "class"))] == [32, 12][
            : len(left)
        ]
        for name, (chance, direction) in HEADLINES.items():
            assert (measured[name].chance, measured[name].direction) == (chance, direction)
            assert (scores[name].chance, scores[name].direction) == (chance, direction)


def test_a_headline_score_that_no_card_could_hold_says_so(cnn, images, explained, random_maps):
    by_hand = evaluate.card(cnn, images, explained(random_maps(3, (14, 18)), 1), tier="lite").scores
    assert by_hand["class_sensitivity"].reason[0] == by_hand["randomise_parameters"].reason[0] == "unknown_method"
    assert by_hand["completeness_gap"].reason[0] == "not_claimed"
    dear = attribute.rise(cnn, images, n_masks=600)
    card = evaluate.card(cnn, images, dear, tier="full")
    assert card.scores["class_sensitivity"].settings == {"tier": "", "passes": 601.0}
    assert "No card is so dear; class_sensitivity and randomise_parameters try these." in card.sentences[0]


STANDARD = ("saliency", "grad_cam", "deep_lift", "integrated_gradients", "occlusion")


@pytest.mark.parametrize("name", STANDARD)
def test_what_the_standard_tier_declares_is_what_it_spends(name):
    info, net = find_method(name), Counted().eval()
    images = torch.randn(3, 3, 32, 32, generator=torch.Generator().manual_seed(1))
    explanation = info.function(net, images, 1, **info.example)
    net.passes.forward = net.passes.backward = 0
    scores = evaluate.card(net, images, explanation, tier="standard").scores
    declared = sum(s.n_forward + s.n_backward for s in scores.values())
    own = sum(info.price(explanation.settings, images.shape))
    assert declared == 3 * (66 + 16 + ("complete" in info.claims and "gap" not in explanation.extras) + 2 * own)
    prepared = net.passes.forward + net.passes.backward - declared
    assert 0 <= prepared <= 5, "on one image each: that private copies of the model and of its random twin are right"


def test_a_gap_that_the_method_did_not_measure_itself_costs_one_pass(cnn, images, monkeypatch):
    info = _registry["attribute.input_x_gradient"]
    monkeypatch.setitem(_registry, info.name, replace(info, claims=frozenset({"complete"})))
    explanation = attribute.input_x_gradient(cnn, images)
    gap = evaluate.card(cnn, images, explanation, tier="lite").scores["completeness_gap"]
    assert gap.n_forward == 3
    torch.testing.assert_close(gap.value, evaluate.completeness_gap(cnn, images, explanation).value)


def test_a_cheap_method_is_run_again_for_the_lite_tier_within_its_budget(cnn, images, counted):
    explanation, sizes = attribute.grad_cam(cnn, images), counted(cnn)
    card = evaluate.card(cnn, images, explanation)
    assert card.tier == "lite"
    assert card.scores["class_sensitivity"].valid.all()
    assert card.scores["randomise_parameters"].valid.all()
    spent = sum(s.n_forward + s.n_backward for s in card.scores.values()) / 3
    assert spent <= 18 + 16 + 2 * 2
    assert sum(sizes) <= 3 * (18 + 16 + 2 * 1)  # the randomised copy counts into the same list


def test_the_full_tier_adds_a_second_baseline_noise_and_masks(cnn, images, counted):
    explanation, sizes = attribute.input_x_gradient(cnn, images), counted(cnn)
    masks = torch.zeros(3, 14, 18, dtype=torch.bool)
    masks[:, 3:9, 3:9] = True
    card = evaluate.card(cnn, images, explanation, tier="full", masks=masks)
    assert sum(sizes) <= 3 * (140 + 32 + 10)
    assert {"srg", "srg_image_mean", "mu_fidelity", "mu_fidelity_image_mean", "max_sensitivity"} < set(card.scores)
    expected = evaluate.srg(cnn, images, explanation, baseline="image_mean")
    torch.testing.assert_close(card.scores["srg_image_mean"].value, expected.value, atol=1e-5, rtol=1e-4)
    assert card.scores["relevance_mass"].value.equal(evaluate.relevance_mass(cnn, images, explanation, masks).value)


def test_every_explanation_has_a_card_of_its_own_made_when_it_is_read(cnn, images, counted):
    explanation, sizes = attribute.grad_cam(cnn, images), counted(cnn)
    assert explanation.attached is None
    assert not sizes
    card = explanation.card
    assert card is not None
    assert card.sentences == evaluate.card(cnn, images, explanation).sentences
    before = len(sizes)
    assert explanation.card is card
    assert len(sizes) == before


def test_a_single_explanation_of_several_keeps_its_card_within_reach(cnn, images):
    explanation = attribute.input_x_gradient(cnn, images)
    one = explanation[1].card
    assert one is not None
    torch.testing.assert_close(one.scores["srg"].value, explanation.card.scores["srg"].value[1:2], atol=1e-5, rtol=1e-4)


def test_explanations_compared_at_once_share_the_passes_of_their_cards(cnn, images, counted):
    found = attribute.compare(cnn, images, ["saliency", "grad_cam"], [1])
    sizes = counted(cnn)
    first, second = (found[name][0].card for name in ("saliency", "grad_cam"))
    assert first.scores["srg"].n_forward == 3 * (18 + 16)
    assert second.scores["srg"].n_forward == 3 * 16
    assert sizes


def test_an_explanation_that_outlived_its_model_has_no_card(images):
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten()).eval()
    explanation = attribute.saliency(model, images)
    del model
    gc.collect()
    assert explanation.card is None


def test_a_changed_map_or_a_loaded_one_does_not_inherit_a_card(cnn, images, tmp_path):
    explanation = attribute.saliency(cnn, images)
    assert replace(explanation, heatmap=-explanation.heatmap).card is None
    assert type(explanation).load(explanation.save(tmp_path / "e.safetensors")).card is None


def test_a_model_that_has_changed_since_is_noticed(cnn, images):
    explanation = attribute.saliency(cnn, images)
    with torch.no_grad():
        cnn[-1].weight.mul_(2)
    with pytest.raises(BadInput, match="no longer those explained"):
        _ = explanation.card


def test_images_that_have_changed_since_are_noticed(cnn, images):
    explanation = attribute.saliency(cnn, images)
    images.mul_(3)
    with pytest.raises(BadInput, match="no longer those explained"):
        _ = explanation.card


def test_an_explanation_can_be_sent_to_another_process(cnn, images):
    explanation = attribute.saliency(cnn, images)
    again = pickle.loads(pickle.dumps(explanation))
    assert again.heatmap.equal(explanation.heatmap)
    assert again.card is None


@pytest.mark.parametrize("name", [name for name in list_methods("attribute.*") if find_method(name).maps])
def test_the_card_of_every_method_stays_within_its_tier(name, images):
    info = find_method(name)
    net = CountedTokens().eval() if info.needs == "attention" else Counted().eval()
    inputs = torch.randn(1, 3, 32, 32, generator=torch.Generator().manual_seed(1))
    explanation = info.function(net, inputs, 1, **info.example)
    net.passes.forward = net.passes.backward = 0
    card = explanation.card
    tier = TIERS[card.tier]
    cost = info.price(explanation.settings, inputs.shape)
    own = cost.forward + cost.backward if cost else 0
    declared = sum(s.n_forward + s.n_backward for s in card.scores.values())
    assert declared <= tier.passes + tier.shared + 1 + tier.explanations * own
    prepared = net.passes.forward + net.passes.backward - declared
    assert 0 <= prepared <= 5  # on one image: that private copies of the model and of its random twin are right
    assert tier.passes <= max(18, own / 2)
    assert {*HEADLINES, "sparseness"} <= set(card.scores)
    assert all(score.reason[0] or score.value.isfinite().all() for score in card.scores.values())


def test_a_good_map_of_a_linear_model_is_clearly_better_than_chance(linear, explained, random_maps):
    linear.weight.data = torch.linspace(-1, 2, 48, dtype=torch.float64).view(1, 6, 8) / 20
    bright = torch.ones(2, 1, 6, 8, dtype=torch.float64)
    maps = torch.stack([linear.weight[0].detach().float(), random_maps(1)[0]])
    card = evaluate.card(linear, bright, explained(maps), tier="lite")
    assert evaluate.verdicts(evaluate.srg(linear, bright, explained(maps), baseline=0.0)) == ("better", "unclear")
    assert card.scores["srg"].chance == 0


def test_a_score_that_nothing_can_lower_is_no_evidence(linear, inputs, contributions, explained):
    linear.weight.data.mul_(1e-4)
    explanation = explained(contributions.float())
    card = evaluate.card(linear, inputs, explanation, tier="lite")
    assert set(evaluate.verdicts(card.scores["srg"])) == {"unclear"}
    assert "Even removing everything hardly changes the score" in card.sentences[0]


def test_an_image_gets_a_sentence_that_anyone_can_read(linear, inputs, contributions, explained):
    card = evaluate.card(linear, inputs, explained(contributions.float()), tier="lite")
    value, error = (float(card.scores["srg"].value[0]), float(card.scores["srg"].stderr[0]))
    assert len(card.sentences) == 3
    assert card.sentences[0].startswith("Removing what this map marks first ")
    assert f"{value:.2f}"[:3] in card.sentences[0]
    assert "± " in card.sentences[0]
    assert error > 0


def test_a_method_known_to_ignore_the_class_is_called_so_until_measured(cnn, images):
    explanation = attribute.guided_backprop(cnn, images)
    assert "do not read it as evidence" in evaluate.card(cnn, images, explanation, tier="free").sentences[0]
    measured = evaluate.card(cnn, images, explanation, tier="standard")
    blind = measured.scores["class_sensitivity"].value < 0.1
    assert ["do not read it as evidence" in said for said in measured.sentences] == blind.tolist()


def test_a_known_warning_comes_with_every_card(cnn, images):
    explanation = attribute.guided_backprop(cnn, images)
    card = evaluate.card(cnn, images, explanation, tier="free")
    assert evaluate.warnings(explanation, card)[0] == _registry["attribute.guided_backprop"].warning


def test_a_constant_map_is_a_warning_and_not_an_error(cnn, images, explained):
    explanation = explained(torch.ones(3, 14, 18), 1)
    card = evaluate.card(cnn, images, explanation, tier="standard")
    assert card.sentences[0] == "This map could not be tested: the map has the same value everywhere."
    assert "constant" in evaluate.warnings(explanation, card)[0]


def lead(output):
    return output[:, 0] - output[:, 1]


def test_a_target_of_ones_own_gets_what_can_be_measured(cnn, images):
    weights = torch.tensor([1.0, -1.0, 0.0, 0.0]).expand(3, 4)
    gains = []
    for target in (lead, weights):
        explanation = attribute.integrated_gradients(cnn, images, target, n_steps=4)
        untold = evaluate.card(cnn, images, explanation, tier="standard")
        assert "pass target=" in untold.sentences[0]
        card = evaluate.card(cnn, images, explanation, tier="standard", target=target)
        gains.append(card.scores["srg"].value)
        assert card.scores["mu_fidelity"].valid.all()
        assert card.scores["completeness_gap"].valid.all()
        for name in ("class_sensitivity", "randomise_parameters"):
            assert set(card.scores[name].reason) == set(untold.scores[name].reason) == {"custom_target"}
    torch.testing.assert_close(*gains)  # the same question, asked in two ways


def test_a_class_for_each_image_is_the_class_that_is_tested(cnn, images):
    several = evaluate.card(cnn, images, attribute.saliency(cnn, images, [2, 0, 1]), tier="standard")
    for image, target in enumerate((2, 0, 1)):
        one = images[image : image + 1]
        alone = evaluate.card(cnn, one, attribute.saliency(cnn, one, torch.tensor(target)), tier="standard")
        for name in ("srg", "mu_fidelity", "class_sensitivity", "randomise_parameters"):
            expected = alone.scores[name].value[0]
            torch.testing.assert_close(several.scores[name].value[image], expected, atol=1e-4, rtol=1e-3)
        assert alone.sentences[0].count(".") == several.sentences[image].count(".")


def test_maps_without_meaning_leave_the_others_of_the_batch_alone(cnn, images):
    whole = attribute.saliency(cnn, images)
    maps = whole.heatmap.clone()
    maps[0, 3, 4], maps[1] = torch.nan, 2.0
    broken = replace(whole, heatmap=maps)
    for tier in ("free", "full"):
        card, good = (evaluate.card(cnn, images, e, tier=tier) for e in (broken, whole))
        assert card.sentences[2] == good.sentences[2]
        assert [lights[2] for lights in evaluate.lights(card).values()] == [
            lights[2] for lights in evaluate.lights(good).values()
        ]
        if tier != "free":
            assert card.sentences[0] == "This map could not be tested: the map holds values that are no numbers."
            assert {lights[:2] for lights in evaluate.lights(card).values()} == {("unknown", "unknown")}
    said = evaluate.warnings(broken, evaluate.card(cnn, images, broken, tier="free"))
    assert said == (
        "the map is constant: it says nothing (image 1)",
        "the map holds values that are no numbers: it says nothing (image 0)",
    )


def test_a_card_travels_with_its_explanation(cnn, images, tmp_path):
    explanation = attribute.grad_cam(cnn, images)
    carded = explanation.with_card(evaluate.card(cnn, images, explanation, tier="standard"))
    again = type(explanation).load(carded.save(tmp_path / "e.safetensors"))
    assert again.card is not None
    assert again.card.sentences == carded.card.sentences
    assert again.card.scores["srg"].value.equal(carded.card.scores["srg"].value)


def test_an_unknown_tier_is_refused(cnn, images, explained, random_maps):
    with pytest.raises(Exception, match="tier"):
        evaluate.card(cnn, images, explained(random_maps(3, (14, 18))), tier="gold")


def test_a_card_of_a_model_in_training_mode_restores_it(images, explained, random_maps):
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten()).train()
    evaluate.card(model, images, explained(random_maps(3, (14, 18)), 1), tier="lite")
    assert all(module.training for module in model.modules())
