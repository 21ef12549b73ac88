"""Tracks: what knows the model gets the best number, what does not is at chance, and every gap has its reason."""

from dataclasses import replace

import pytest
import torch
from scipy.stats import spearmanr
from sklearn.metrics import roc_auc_score

from glasshouse import evaluate
from glasshouse.evaluate.truth.controls import IGNORANT, blurred_oracle, ignorant, oracle
from glasshouse.evaluate.truth.methods import Benchmark
from glasshouse.evaluate.truth.tracks import TRACKS, auc, contrast, hits, map_tracks, other_class, steady

N, H, W = 6, 16, 20
WEIGHTS = (4.0, 2.0, 1.0, 0.0, -1.0)
IDLE = 3


def draws(seed=0):
    return torch.Generator().manual_seed(seed)


def part_masks(n=N):
    """Five parts of different sizes; a fifth of the picture is in none."""
    masks = torch.zeros(n, 5, H, W, dtype=torch.bool)
    masks[:, 0, :4, :5], masks[:, 1, :4, 5:], masks[:, 2, 4:9, :8] = True, True, True
    masks[:, 3, 4:9, 8:], masks[:, 4, 9:13] = True, True
    return masks


def game_of(weights=WEIGHTS, n=N, masks=None, noise=0.0):
    """A weighted sum of parts, a little different in each scene."""
    masks = part_masks(n) if masks is None else masks
    own = torch.tensor(weights) * (1 + noise * torch.rand(n, len(weights), generator=draws(5)))
    bits = torch.arange(2 ** len(weights))[:, None] >> torch.arange(len(weights)) & 1
    worth = own @ bits.T.float()
    names = tuple(f"part {part}" for part in range(len(weights)))
    return evaluate.PartGame(worth, worth > 0, masks, names, (0,) * n, torch.rand(n, 3, H, W, generator=draws(6)))


def means(game, maps):
    effects = evaluate.Effects.of(game)
    return {name: score.mean for name, score in map_tracks(effects, maps, game).items()}


# Laws


def test_the_oracle_gets_the_best_number_on_every_track():
    game = game_of(noise=0.1)
    found = means(game, oracle(game.effect, game.masks))
    assert found["importance"] == pytest.approx(1)
    assert found["shapley"] == pytest.approx(1)
    area = float(game.relevant.float().mean())
    assert found["relevant_mass"] == pytest.approx(1 - area)
    assert found["pointing"] == pytest.approx(1 - area)
    assert found["relevant_auc"] == pytest.approx(1)
    assert found["null_mass"] == pytest.approx(-float(game.masks[0, IDLE].float().mean()))
    second = evaluate.Effects.of(game_of((0.0, 1.0, 3.0, 0.5, 2.0)))
    first = evaluate.Effects.of(game)
    maps = oracle(first.effect, first.masks), oracle(second.effect, second.masks)
    assert contrast(first, second, *maps).value.tolist() == pytest.approx([1.0] * N)
    assert contrast(first, second, *reversed(maps)).value.tolist() == pytest.approx([-1.0] * N)


def test_random_maps_are_at_chance():
    n = 400
    game = game_of(n=n)
    effects = evaluate.Effects.of(game)
    found = map_tracks(effects, torch.randn(n, H, W, generator=draws(1)), game)
    for name in ("relevant_mass", "relevant_auc", "pointing", "null_mass", "importance", "shapley"):
        score, chance = found[name], TRACKS[name].chance or 0.0  # maps of both signs have no sums to speak of
        assert abs(score.mean - chance) < 4 * score.error, name
        assert score.chance == TRACKS[name].chance


def test_a_map_of_idle_parts_alone_is_all_null_mass():
    game = game_of()
    found = means(game, game.masks[:, IDLE].float())
    assert found["null_mass"] == pytest.approx(1 - float(game.masks[0, IDLE].float().mean()))
    assert found["relevant_mass"] == pytest.approx(-float(game.relevant.float().mean()))
    assert found["shapley"] == pytest.approx(0)
    assert found["relevant_auc"] < 0.5


def test_null_mass_counts_what_speaks_against_as_well():
    game = game_of()
    maps = game.masks[:, 0].float() / game.masks[0, 0].sum() - game.masks[:, IDLE].float() / game.masks[0, IDLE].sum()
    assert means(game, maps)["null_mass"] == pytest.approx(0.5 - float(game.masks[0, IDLE].float().mean()))


def test_the_constant_map_has_no_mass_to_spare():
    found = map_tracks(evaluate.Effects.of(game_of()), torch.ones(N, H, W), game_of())
    assert found["relevant_mass"].mean == pytest.approx(0, abs=1e-6)
    assert found["relevant_auc"].value.tolist() == [0.5] * N
    assert found["pointing"].reason == ("constant_map",) * N
    assert found["null_mass"].mean == pytest.approx(0, abs=1e-6)
    assert found["importance"].valid.all()  # large parts have more of it


def test_importance_is_scipys_rank_correlation_over_the_parts_seen():
    masks = part_masks()
    masks[:2, 2] = False
    masks[:2, 2, 4, :3] = True  # three pixels are not seen
    game = game_of(masks=masks, noise=3.0)
    maps = torch.randn(N, H, W, generator=draws(2))
    found = map_tracks(evaluate.Effects.of(game), maps)["importance"]
    for n in range(N):
        parts = [part for part in range(5) if part != 2 or n >= 2]
        mass = [float(maps[n][masks[n, part]].sum()) for part in parts]
        assert float(found.value[n]) == pytest.approx(spearmanr(mass, game.effect[n, parts]).statistic, abs=1e-6)
    assert (found.stderr > 0).any()


def test_a_scene_has_the_same_numbers_alone_and_among_others():
    game, maps = game_of(noise=2.0), torch.randn(N, H, W, generator=draws(3))
    together = map_tracks(evaluate.Effects.of(game), maps, game)
    alone = game_of(noise=2.0)
    fields = {"worth": alone.worth[2:3], "kept": alone.kept[2:3], "masks": alone.masks[2:3]}
    one = evaluate.PartGame(**fields, parts=game.parts, target=(0,), images=game.images[2:3])
    for name, score in map_tracks(evaluate.Effects.of(one), maps[2:3], one).items():
        torch.testing.assert_close(score.value, together[name].value[2:3])


# Area under the curve


@pytest.mark.parametrize("seed", range(8))
def test_auc_is_that_of_scikit_learn_ties_included(seed):
    levels = (2, 3, 5, 30)[seed % 4]
    values = torch.randint(levels, (5, 60), generator=draws(seed)).float()
    values[0] = torch.randn(60, generator=draws(seed))
    inside = torch.rand(5, 60, generator=draws(seed + 100)) < (0.1, 0.5)[seed // 4]
    inside[:, 0], inside[:, 1] = True, False
    expected = [roc_auc_score(inside[n], values[n]) for n in range(5)]
    assert auc(values, inside).tolist() == pytest.approx(expected)


def test_auc_of_nothing_is_undefined():
    values, inside = torch.rand(3, 9, generator=draws()), torch.zeros(3, 9, dtype=torch.bool)
    inside[1] = True
    inside[2, :4] = True
    values[2, 6] = torch.nan
    assert auc(values, inside).isnan().all()


def test_of_equally_strong_pixels_the_share_counts_that_is_relevant():
    maps = torch.zeros(1, 2, 3)
    maps[0, 0] = 7
    relevant = torch.tensor([[[True, False, False], [True, True, True]]]).flatten(1)
    assert hits(maps, relevant).tolist() == pytest.approx([1 / 3])


# Another class, another background


def two_classes():
    return evaluate.Effects.of(game_of()), evaluate.Effects.of(game_of((0.0, 2.0, 3.0, 1.0, -1.0)))


def test_a_method_that_ignores_the_class_has_no_contrast():
    first, second = two_classes()
    maps = torch.randn(N, H, W, generator=draws())
    score = contrast(first, second, maps, maps.clone())
    assert score.value.tolist() == [0.0] * N
    assert score.stderr.tolist() == [0.0] * N
    noise = maps * (1 + 1e-7 * torch.randn(N, H, W, generator=draws(1)))
    assert contrast(first, second, oracle(first.effect, first.masks), oracle(first.effect, first.masks)).mean == 0
    assert contrast(first, second, maps.abs(), noise.abs()).value.tolist() == [0.0] * N


def test_effects_that_only_rounding_tells_apart_have_no_contrast_to_follow():
    """Two classes that read the same parts: the oracle must not be judged by the last bit."""
    first = evaluate.Effects.of(game_of((4.0, 2.0, 1.0, 0.0, -1.0)))
    second = evaluate.Effects.of(game_of((4.0, 2.0 + 2e-7, 1.0 - 1e-7, 0.0, -1.0)))
    maps = oracle(first.effect, first.masks), oracle(second.effect, second.masks)
    assert contrast(first, second, *maps).reason == ("constant_score",) * N


def test_contrast_is_the_rank_correlation_of_differences():
    first, second = two_classes()
    maps, others = torch.randn(2, N, H, W, generator=draws(4))
    score = contrast(first, second, maps, others)
    for n in range(N):
        mass = [float((maps - others)[n][first.masks[n, part]].sum()) for part in range(5)]
        gap = first.effect[n] - second.effect[n]
        assert float(score.value[n]) == pytest.approx(spearmanr(mass, gap).statistic, abs=1e-6)


def test_maps_of_two_classes_are_compared_by_their_cosine():
    values = torch.randn(3, 2, 4, 4, generator=draws())
    assert other_class(values, values * 3).value.tolist() == pytest.approx([1.0] * 3)
    assert other_class(values, -values).value.tolist() == pytest.approx([-1.0] * 3)
    score = other_class(values, torch.zeros_like(values))
    assert score.reason == ("zero_mass",) * 3
    one, two = torch.tensor([[[[3.0, 4.0]]]]), torch.tensor([[[[4.0, 3.0]]]])
    assert other_class(one, two).value.tolist() == pytest.approx([24 / 25])


def test_a_map_that_stays_where_it_is_is_steady():
    effects = evaluate.Effects.of(game_of())
    maps = oracle(effects.effect, effects.masks)
    outside = ~effects.masks.any(1)
    assert steady(effects, maps, 3 * maps + 5 * outside).value.tolist() == pytest.approx([0.0] * N, abs=1e-6)
    swapped = oracle(effects.effect[:, [1, 0, 2, 3, 4]], effects.masks)
    a, b = effects.effect[0].double(), effects.effect[0, [1, 0, 2, 3, 4]].double()
    expected = 1 - float(a @ b / a.norm() / b.norm())
    assert steady(effects, maps, swapped).value.tolist() == pytest.approx([expected] * N)
    assert steady(effects, maps, -maps).value.tolist() == pytest.approx([2.0] * N)
    assert steady(effects, maps, 0 * maps).reason == ("zero_mass",) * N


def test_maps_that_follow_their_parts_elsewhere_are_steady():
    """The horizon has moved, and the third part with it: its sum is asked of where it is now."""
    before = evaluate.Effects.of(game_of())
    masks = before.masks.clone()
    masks[:, 2] = False
    masks[:, 2, 13:, 10:] = True
    after = replace(before, masks=masks)
    maps, moved = oracle(before.effect, before.masks), oracle(after.effect, after.masks)
    assert steady(before, maps, moved, after).value.tolist() == pytest.approx([0.0] * N, abs=1e-6)
    assert steady(before, maps, maps, after).mean > 0.01
    assert steady(before, maps, moved).mean > 0.01


def test_where_the_background_did_matter_nothing_is_said_of_the_map():
    before = evaluate.Effects.of(game_of())
    own = before.effect.clone()
    own[0] *= 3  # the same shares
    own[1, 1] += 1.5  # 1 - cosine is 0.03
    own[2, 0] += 1  # 1 - cosine is 0.004
    own[3] = own[3].flip(0)
    own[4, 1] = torch.nan  # hidden there
    own[5] = 0
    after = replace(before, effect=own)
    maps = oracle(before.effect, before.masks)
    score = steady(before, maps, oracle(own, before.masks), after)
    assert score.reason == ("", "effects_moved", "", "effects_moved", "", "zero_mass")
    for n in (1, 2):
        a, b = before.effect[n].double(), own[n].double()
        assert float(score.extras["truth"][n]) == pytest.approx(1 - float(a @ b / a.norm() / b.norm()), abs=1e-6)
    assert float(score.value[2]) == pytest.approx(float(score.extras["truth"][2]), abs=1e-6)  # the oracle moves alike
    assert score.value[[0, 4]].tolist() == pytest.approx([0.0] * 2, abs=1e-6)


def test_what_rounding_tells_apart_is_tied_in_the_ranking():
    """Two parts that the model does not use, whose effects are the last bits of a sum."""
    masks = torch.zeros(2, 4, H, W, dtype=torch.bool)
    for part in range(4):
        masks[:, part, 4 * part : 4 * part + 4] = True
    game = game_of((3.0, 1.0, 0.0, 0.0), 2, masks)
    effects = evaluate.Effects.of(game)
    effects.effect[:, 2:] = torch.tensor([[1e-7, -1e-7], [-1e-7, 1e-7]])
    maps = oracle(torch.tensor([[3.0, 1.0, 2e-8, -1e-8]]).expand(2, 4), masks)
    assert map_tracks(effects, maps)["importance"].value.tolist() == pytest.approx([1.0] * 2)


# Reasons


def test_every_gap_has_its_reason_and_no_other_scene_suffers():
    game = game_of()
    effects = evaluate.Effects.of(game)
    maps = torch.randn(N, H, W, generator=draws(7))
    good = map_tracks(effects, maps, game)
    maps[0] = torch.nan
    maps[1, 3, 4] = torch.inf
    maps[2] = 0
    maps[3] = -1
    for name, score in map_tracks(effects, maps, game).items():
        assert score.reason[0] == score.reason[1] == "not_finite"
        assert (score.value.isnan() == torch.tensor([bool(reason) for reason in score.reason])).all()
        torch.testing.assert_close(score.value[4:], good[name].value[4:])
    found = map_tracks(effects, maps, game)
    assert found["importance"].reason[2] == "constant_sums"
    assert found["relevant_mass"].reason[2:4] == ("no_positive",) * 2
    assert found["pointing"].reason[2:4] == ("constant_map",) * 2
    assert found["shapley"].reason[2] == found["null_mass"].reason[2] == "zero_mass"
    assert contrast(effects, two_classes()[1], maps, maps).reason[:2] == ("not_finite",) * 2
    assert steady(effects, maps, maps).reason[:3] == ("not_finite", "not_finite", "zero_mass")
    assert other_class(maps, maps).reason[:3] == ("not_finite", "not_finite", "zero_mass")


def test_a_model_that_uses_nothing_or_the_whole_picture_leaves_nothing_to_tell_apart():
    maps = torch.rand(N, H, W, generator=draws())
    nothing = map_tracks(evaluate.Effects.of(game_of((0.0,) * 5)), maps, game_of((0.0,) * 5))
    for name in ("relevant_mass", "relevant_auc", "pointing"):
        assert nothing[name].reason == ("empty_mask",) * N
    assert nothing["importance"].reason == nothing["shapley"].reason == ("constant_score",) * N
    halves = torch.zeros(N, 2, H, W, dtype=torch.bool)
    halves[:, 0, :8], halves[:, 1, 8:] = True, True
    both = game_of((1.0, 2.0), masks=halves)
    everything = map_tracks(evaluate.Effects.of(both), maps, both)
    for name in ("relevant_mass", "relevant_auc", "pointing"):
        assert everything[name].reason == ("full_mask",) * N
    assert everything["importance"].reason == ("few_parts",) * N
    assert everything["null_mass"].reason == ("no_idle_part",) * N
    assert everything["shapley"].valid.all()


# Controls


def test_the_oracle_spreads_each_value_evenly_over_its_part():
    game = game_of()
    maps = oracle(game.effect, game.masks)
    sums = torch.einsum("nhw,nphw->np", maps, game.masks.float())
    torch.testing.assert_close(sums, game.effect)
    assert maps[0][game.masks[0, 1]].unique().numel() == 1
    assert not maps[~game.masks.any(1)].any()
    hidden = game.masks.clone()
    hidden[:, 1] = False
    assert oracle(game.effect, hidden)[game.masks[:, 1]].unique().tolist() == [0]


@pytest.mark.parametrize("share", [0.25, 0.75])
def test_the_oracle_with_noise_has_its_share_of_each(share):
    game = game_of()
    best = oracle(game.effect, game.masks)
    found = blurred_oracle(best, share, 0)
    assert found.equal(blurred_oracle(best, share, 0))
    noise = (found - (1 - share) * best) / share
    torch.testing.assert_close(noise.flatten(1).std(1), best.flatten(1).std(1), rtol=0.15, atol=0)
    assert blurred_oracle(best, 0.0, 0).equal(best)


def test_controls_know_nothing_of_the_model_and_all_images_have_the_same_chance():
    images = torch.rand(3, 3, H, W, generator=draws())
    found = ignorant(images, 4)
    assert tuple(found) == IGNORANT
    centre = found["centre"]
    assert centre[0].equal(centre[1])
    torch.testing.assert_close(centre, centre.flip(1, 2))
    assert centre[0, 7:9, 9:11].min() == centre.max()
    assert found["constant"].unique().tolist() == [1]
    assert found["random"].equal(ignorant(images, 4)["random"])
    assert not found["random"].equal(ignorant(images, 5)["random"])
    plain = ignorant(torch.full((1, 3, H, W), 0.3), 4)
    assert float(plain["edges"].abs().max()) < 1e-5


# The table that tracks make


def test_a_method_is_above_chance_by_its_lead_over_the_constant_map_which_may_have_no_number():
    """Parts of equal size: the constant map ranks none before another, which is no correlation."""
    n = 12
    masks = torch.zeros(n, 4, H, W, dtype=torch.bool)
    for part in range(4):
        masks[:, part, 4 * part : 4 * part + 4] = True
    game = game_of((4.0, 3.0, 2.0, 1.0), n, masks)
    effects = evaluate.Effects.of(game)
    maps = {
        "oracle": oracle(effects.effect, masks) + 1e-3 * torch.rand(n, H, W, generator=draws()),
        "constant": torch.ones(n, H, W),
        "random": torch.rand(n, H, W, generator=draws(1)),
    }
    table = Benchmark({name: map_tracks(effects, each, game) for name, each in maps.items()})
    assert table.scores["constant"]["importance"].reason == ("constant_sums",) * n
    assert table.flags("oracle") == ()
    assert table.flags("random") == ("not above chance",)
    assert table.ranking()[0] == "oracle"
    assert "relevant_mass" not in table.tracks  # the whole picture is relevant
