"""Games of parts: values by brute force, by closed form and by glass models; scenes drawn one by one."""

from itertools import chain, combinations, permutations, product

import pytest
import torch
from torch import nn

from glasshouse import data, evaluate
from glasshouse.core import BadInput, Model, NotFound, Preprocess
from glasshouse.data import glass
from glasshouse.evaluate.truth.effects import effects_elsewhere, part_responses

H, W = 8, 12


def draws(seed=0):
    return torch.Generator().manual_seed(seed)


def masks_of(n, count):
    """Columns of a picture, one for each part; the last columns belong to none."""
    masks = torch.zeros(n, count, H, W, dtype=torch.bool)
    for part in range(count):
        masks[:, part, :, part] = True
    return masks


def game_of(worth, kept=None, masks=None):
    worth = torch.as_tensor(worth, dtype=torch.float64)
    worth = worth[None] if worth.ndim == 1 else worth
    n, count = len(worth), worth.shape[1].bit_length() - 1
    kept = worth > 0.5 if kept is None else kept
    masks = masks_of(n, count) if masks is None else masks
    names = tuple(f"part {part}" for part in range(count))
    return evaluate.PartGame(worth, kept, masks, names, (0,) * n, torch.zeros(n, 3, H, W))


def number_of(chosen):
    return sum(1 << part for part in chosen)


def subsets(players):
    return chain.from_iterable(combinations(players, size) for size in range(len(players) + 1))


def table_of(count, worth):
    """The worth of every set of players, from a function of the set."""
    return [float(worth({part for part in range(count) if number >> part & 1})) for number in range(2**count)]


def random_game(n=3, count=4, seed=0):
    worth = torch.randn(n, 2**count, generator=draws(seed), dtype=torch.float64)
    return game_of(worth, torch.rand(n, 2**count, generator=draws(seed + 1)) < 0.4)


# By definition


def test_an_effect_is_what_is_lost_with_one_part():
    game = random_game()
    for n in range(3):
        for part in range(4):
            rest = number_of(set(range(4)) - {part})
            assert float(game.effect[n, part]) == float(game.worth[n, 15] - game.worth[n, rest])
    assert game.score.equal(game.worth[:, 15])


def test_shapley_values_are_means_over_all_orders_of_arrival():
    game = random_game()
    for n, worth in enumerate(game.worth.tolist()):
        total = [0.0] * 4
        for order in permutations(range(4)):
            for place, part in enumerate(order):
                before = number_of(order[:place])
                total[part] += worth[before | 1 << part] - worth[before]
        assert game.shapley[n].tolist() == pytest.approx([value / 24 for value in total])
    torch.testing.assert_close(game.shapley.sum(1), game.score - game.worth[:, 0])


def test_banzhaf_values_are_means_over_all_sets_of_the_others():
    game = random_game()
    for n in range(3):
        for part in range(4):
            others = [number_of(chosen) for chosen in subsets(sorted(set(range(4)) - {part}))]
            gains = [float(game.worth[n, number | 1 << part] - game.worth[n, number]) for number in others]
            assert float(game.banzhaf[n, part]) == pytest.approx(sum(gains) / 8)


@pytest.mark.parametrize("seed", range(6))
def test_sufficient_sets_are_those_that_keep_the_answer_while_no_smaller_one_within_does(seed):
    game = random_game(seed=seed)
    for n in range(3):
        keep = [set(chosen) for chosen in subsets(range(4)) if game.kept[n, number_of(chosen)]]
        expected = [chosen for chosen in keep if not any(other < chosen for other in keep)]
        found = game.sufficient(n)
        assert sorted(map(sorted, expected)) == sorted(map(sorted, found))
        assert [len(chosen) for chosen in found] == sorted(len(chosen) for chosen in found)


def test_a_part_is_idle_if_it_never_matters_whatever_else_is_there():
    game = random_game(count=3)
    worth = torch.stack([game.worth, game.worth + 1e-4], 2).flatten(1)  # bit 0 adds next to nothing
    found = game_of(worth)
    assert found.idle.tolist() == [[True, False, False, False]] * 3
    assert not game_of(table_of(2, lambda there: len(there) == 1)).idle.any()


def test_every_part_is_idle_and_none_matters_where_only_rounding_moves_the_score():
    """A model that looks at nothing but the background: the last bits differ from drawing to drawing."""
    still = game_of(torch.full((1, 8), 14.0) + 1e-6 * torch.rand(1, 8, generator=draws()))
    for game in (still, game_of([0.0] * 8), game_of([3.0] * 8)):
        assert game.idle.all()
        assert not game.relevant.any()
    tiny = game_of(table_of(3, lambda there: 1e-9 * len(there)))
    assert not tiny.idle.any()
    assert tiny.relevant.equal(tiny.masks.any(1))


def test_a_choice_is_the_number_whose_bits_are_the_parts():
    game = random_game(n=16)
    every = torch.tensor([[bool(number >> part & 1) for part in range(4)] for number in range(16)])
    assert game.choice(every).tolist() == list(range(16))


# Gates


def test_where_both_are_needed_each_has_the_whole_effect_and_half_the_value():
    game = game_of(table_of(2, lambda there: len(there) == 2))
    assert game.effect.tolist() == [[1, 1]]
    assert game.shapley.tolist() == game.banzhaf.tolist() == [[0.5, 0.5]]
    assert game.sufficient(0) == ((0, 1),)


def test_where_either_is_enough_neither_has_an_effect_and_each_half_the_value():
    game = game_of(table_of(2, lambda there: len(there) >= 1))
    assert game.effect.tolist() == [[0, 0]]
    assert game.shapley.tolist() == game.banzhaf.tolist() == [[0.5, 0.5]]
    assert game.sufficient(0) == ((0,), (1,))
    assert not game.idle.any()


def test_where_one_excludes_the_other_effects_are_negative_and_values_cancel():
    game = game_of(table_of(2, lambda there: len(there) == 1))
    assert game.effect.tolist() == [[-1, -1]]
    assert game.shapley.tolist() == game.banzhaf.tolist() == [[0, 0]]
    assert not game.relevant.any()


def test_in_a_weighted_sum_effect_and_values_are_the_weights():
    weights = [0.5, -2.0, 0.0, 3.0]
    game = game_of(table_of(4, lambda there: sum(weights[part] for part in there)))
    for found in (game.effect, game.shapley, game.banzhaf):
        assert found[0].tolist() == pytest.approx(weights)
    assert game.idle.tolist() == [[False, False, True, False]]
    assert game.relevant.equal(game.masks[:, 0] | game.masks[:, 3])


def test_with_a_majority_of_three_values_are_thirds():
    game = game_of(table_of(3, lambda there: len(there) >= 2))
    assert game.shapley[0].tolist() == pytest.approx([1 / 3] * 3)
    assert game.banzhaf[0].tolist() == pytest.approx([1 / 2] * 3)
    assert game.sufficient(0) == ((0, 1), (0, 2), (1, 2))


def test_an_answer_that_needs_no_part_has_the_empty_set_and_one_never_given_has_none():
    worth, yes = table_of(2, len), torch.ones(1, 4, dtype=torch.bool)
    assert game_of(worth, yes).sufficient(0) == ((),)
    assert game_of(worth, ~yes).sufficient(0) == ()


def test_a_part_of_less_than_four_pixels_has_no_effect_to_speak_of():
    masks = masks_of(1, 3)
    masks[0, 1] = False
    masks[0, 1, 0, :3] = True
    game = game_of(table_of(3, len), masks=masks)
    assert game.seen.tolist() == [[True, False, True]]
    assert game.effect.isnan().tolist() == [[False, True, False]]
    assert game.shapley[0].tolist() == pytest.approx([1, 1, 1])
    assert not game.idle.any()


def test_relevant_are_the_pixels_of_parts_with_a_tenth_of_the_largest_effect():
    weights = [1.0, 0.11, 0.09, -5.0]
    game = game_of(table_of(4, lambda there: sum(weights[part] for part in there)))
    assert game.relevant.equal(game.masks[:, 0] | game.masks[:, 1])


def test_effects_of_a_game_are_its_single_ones(tmp_path):
    game = random_game()
    effects = evaluate.Effects.of(game)
    assert effects.effect.equal(game.effect)
    assert effects.relevant.equal(game.relevant)
    assert effects.score.equal(game.score)
    assert repr(game) == "PartGame(3 scenes, 4 parts, 16 choices)"
    assert len(evaluate.PartGame.load(game.save(tmp_path / "game.safetensors"))) == 3


# Glass models


def glass_models():
    weight = torch.randn(3, 3, 24, 32, generator=draws()) / 50
    return {
        "wired_classifier": glass.wired_classifier(),
        "null_channels": glass.null_channels(),
        "separate_evidence": glass.separate_evidence(grid=(2, 3), size=(24, 30)),
        "linear_classifier": glass.linear_classifier(weight, torch.tensor([0.1, 0.0, -0.1]), grid=(2, 3)),
    }


@pytest.mark.parametrize("name", glass_models())
def test_the_game_of_a_glass_model_is_that_of_its_network_on_what_is_kept(name):
    model = glass_models()[name]
    if name == "wired_classifier":
        images = data.scenes("shapes", 2, size=16, seed=1, n_objects=3).images
    else:
        images = torch.rand(3, 3, *model.preprocess.size, generator=draws(2))
    n, rows = len(images), torch.arange(len(images))
    choices = [list(kept) for kept in product((False, True), repeat=len(model.truth.region_names))]
    kept = [torch.tensor(choice[::-1]).expand(n, -1) for choice in choices]  # bit 0 is the last to change
    outputs = torch.stack([model.module(model.truth.keep(images, each)) for each in kept], 1)
    for target in (None, 1, [0, 2, 1][:n]):
        game = evaluate.glass_game(model, images, target)
        classes = torch.tensor(game.target)
        assert target is not None or classes.equal(outputs[:, -1].argmax(1))
        torch.testing.assert_close(game.worth, outputs[rows, :, classes], atol=1e-5, rtol=1e-4)
        removal, values = model.truth.removal(images), model.truth.shapley(images)
        effect = torch.where(game.seen, removal[rows, :, classes], torch.nan)
        torch.testing.assert_close(game.effect, effect, atol=1e-6, rtol=1e-4, equal_nan=True)
        torch.testing.assert_close(game.shapley, values[rows, :, classes], atol=1e-5, rtol=1e-4)
        assert game.masks.equal(model.truth.regions(images))


@pytest.mark.parametrize("name", ["null_channels", "separate_evidence"])
def test_an_empty_scene_keeps_no_answer_though_its_scores_are_tied(name):
    model = glass_models()[name]
    images = torch.rand(12, 3, *model.preprocess.size, generator=draws(3))
    game = evaluate.glass_game(model, images)
    assert 0 in game.target  # which a tie that goes by the index would favour
    assert game.kept[:, -1].all()
    assert not game.kept[:, 0].any()


def test_an_answer_tied_from_the_start_is_kept_while_no_more_classes_are_tied():
    """One colour of the warm ones makes "warm" and "either" equal."""
    model, orange = glass.wired_classifier(), glass.colours.PALETTE["orange"]
    images = torch.zeros(1, 3, 16, 16)
    images[0, :, :4, :4] = torch.tensor(orange)[:, None, None]
    images[0, :, 8:, 8:] = torch.tensor(glass.colours.PALETTE["grey"])[:, None, None]
    game = evaluate.glass_game(model, images)
    assert game.target == (0,)
    place = game.parts.index("orange")
    assert game.sufficient(0) == ((place,),)


def test_a_glass_model_of_too_many_regions_is_refused():
    model = glass.linear_classifier(torch.ones(2, 3, 8, 8), grid=(4, 4))
    with pytest.raises(BadInput, match="16 regions make 65536 choices"):
        evaluate.glass_game(model, torch.rand(1, 3, 8, 8))


# Scenes drawn again

PARTS = ("figure", "figure_2", "figure_3")


class Reader(nn.Module):
    """Three scores that multiply what is seen in different places, so that parts matter together."""

    def forward(self, x):
        rows = x.mean((1, 3))
        left, right = rows[:, :16], rows[:, 16:]
        return torch.stack([left.mean(1) * right.mean(1), left.amax(1), -right.mean(1)], 1)


@pytest.fixture(scope="module")
def model():
    return Model(Reader(), Preprocess(size=(32, 32), mean=(0.4,) * 3, std=(0.3,) * 3), ("a", "b", "c"), "reader")


@pytest.fixture(scope="module")
def scenes():
    return data.scenes("shapes", 3, size=32, seed=4, n_objects=3)


@pytest.fixture(scope="module")
def drawn(scenes):
    """The scenes with every choice of parts, each drawn by itself."""
    whole = {chosen: [name for part, name in enumerate(PARTS) if part not in chosen] for chosen in subsets(range(3))}
    return {chosen: (scenes.do(remove=gone) if gone else scenes).images for chosen, gone in whole.items()}


@pytest.mark.parametrize(("target", "score"), [(None, "logit"), (2, "prob"), ([0, 1, 2], "margin")])
def test_playing_equals_drawing_every_scene_without_every_choice_of_parts(model, scenes, drawn, target, score):
    game = evaluate.play(model, scenes, PARTS, target, score=score, chunk=2)
    whole = model.module((scenes.images - 0.4) / 0.3)
    classes = whole.argmax(1).tolist() if target is None else [2] * 3 if target == 2 else target
    assert game.target == tuple(classes)
    for chosen, images in drawn.items():
        output, number = model.module((images - 0.4) / 0.3), number_of(chosen)
        for n, wanted in enumerate(classes):
            others = [float(output[n, k]) for k in range(3) if k != wanted]
            lead = float(output[n, wanted]) - max(others)
            read = {"logit": output[n, wanted], "prob": output[n].softmax(0)[wanted], "margin": lead}[score]
            assert float(game.worth[n, number]) == pytest.approx(float(read), abs=1e-5)
            assert bool(game.kept[n, number]) == (lead > 0)
    assert game.masks.equal(scenes.masks[:, [scenes.part(name) for name in PARTS]])
    torch.testing.assert_close(game.images, (scenes.images - 0.4) / 0.3)


def test_without_a_part_nothing_else_is_drawn_otherwise():
    """The truth is that of an intervention: beyond the soft rim of the part no pixel moves. The body has a shadow."""
    scenes = data.scenes("creatures", 3, size=32, seed=4)
    for name in ("head", "tail"):
        changed = (scenes.do(remove=name).images != scenes.images).any(1)
        place = scenes.amodal[:, scenes.part(name)].float()[:, None]
        near = nn.functional.max_pool2d(place, 5, 1, 2)[:, 0] > 0
        assert not (changed & ~near).any()
        assert changed[scenes.masks[:, scenes.part(name)]].float().mean() > 0.9


def test_single_effects_of_a_game_are_those_asked_one_by_one_for_every_class(model, scenes):
    found = part_responses(model, scenes, PARTS[1:])
    for target, score in ((None, "logit"), ([2, 0, 1], "prob")):
        game, effects = evaluate.play(model, scenes, PARTS[1:], target, score=score), found.effects(target, score)
        torch.testing.assert_close(game.effect, effects.effect, atol=1e-6, rtol=1e-4, equal_nan=True)
        assert game.target == effects.target
        assert game.relevant.equal(effects.relevant)
    asked = evaluate.part_effects(model, scenes, [2, 0, 1], parts=PARTS[1:], score="prob")
    torch.testing.assert_close(asked.effect, effects.effect, rtol=0, atol=0, equal_nan=True)


def test_what_cannot_be_played_says_why(model, scenes):
    for parts in ((), PARTS[:1] * 11):
        with pytest.raises(BadInput, match=r"Take 1…10 parts"):
            evaluate.play(model, scenes, parts)
    with pytest.raises(BadInput, match="named twice in figure, figure"):
        evaluate.play(model, scenes, ("figure", "figure"))
    with pytest.raises(NotFound, match="figrue"):
        evaluate.play(model, scenes, ("figrue",))
    with pytest.raises(BadInput, match="2 targets for 3 images"):
        evaluate.play(model, scenes, PARTS, [0, 1])
    with pytest.raises(BadInput, match="target 3 is out of range"):
        evaluate.part_effects(model, scenes, 3, parts=PARTS)
    with pytest.raises(BadInput, match="no part was named"):
        evaluate.part_effects(model, scenes, parts=())


def test_playing_leaves_the_model_as_it_was(model, scenes):
    model.module.train()
    evaluate.play(model, scenes, PARTS[:1])
    assert model.module.training
    model.module.eval()


# Elsewhere


def test_what_parts_are_worth_elsewhere_is_asked_of_the_same_parts_and_classes(model, scenes):
    before = evaluate.part_effects(model, scenes, [2, 0, 1], parts=PARTS[:1], score="margin")
    after = effects_elsewhere(model, scenes, before, background=5, score="margin")
    again = evaluate.part_effects(model, scenes.do(background=5), [2, 0, 1], parts=PARTS[:1], score="margin")
    assert (after.parts, after.target) == (before.parts, before.target)
    torch.testing.assert_close(after.effect, again.effect, rtol=0, atol=0, equal_nan=True)
    assert after.masks.equal(before.masks)
    assert not after.images.equal(before.images)


def test_where_a_glass_model_looks_at_nothing_all_turns_black_and_every_effect_stays():
    model, shapes = glass.wired_classifier(), data.scenes("shapes", 3, size=32, seed=3, n_objects=3)
    before = evaluate.Effects.of(evaluate.glass_game(model, shapes.images))
    after = effects_elsewhere(model, shapes, before)
    assert (before.effect > 0).any()
    torch.testing.assert_close(after.effect, before.effect, rtol=0, atol=0, equal_nan=True)
    assert after.masks.equal(before.masks)
    assert not after.images.equal(before.images)
    torch.testing.assert_close(model.module(after.images), model.module(before.images))
