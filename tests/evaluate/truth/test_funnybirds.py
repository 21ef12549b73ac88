"""The FunnyBirds protocol on games whose smallest sufficient sets are known."""

from dataclasses import replace
from itertools import chain, combinations

import pytest
import torch
from scipy.stats import spearmanr
from torch import nn

from glasshouse import attribute, data, evaluate
from glasshouse.core import BadInput, Model, NotFound, Preprocess
from glasshouse.data import glass
from glasshouse.evaluate.truth.controls import oracle
from glasshouse.evaluate.truth.funnybirds import CHECKS, THRESHOLDS, background_independence, protocol
from glasshouse.evaluate.truth.tracks import map_tracks, track

H, W = 8, 12


def draws(seed=0):
    return torch.Generator().manual_seed(seed)


def game_of(worth, kept, masks=None):
    """One scene whose parts are columns of the picture."""
    n, count = len(worth), worth.shape[1].bit_length() - 1
    if masks is None:
        masks = torch.zeros(n, count, H, W, dtype=torch.bool)
        for part in range(count):
            masks[:, part, :, 2 * part] = True
    names = tuple(f"part {part}" for part in range(count))
    return evaluate.PartGame(worth, kept, masks, names, (1,) * n, torch.zeros(n, 3, H, W))


def gate(kind, masks=None):
    """Of three parts the third is idle; of the others both or either must be there."""
    sets = torch.arange(8)
    first, second = sets & 1, sets >> 1 & 1
    on = (first & second if kind == "and" else first | second)[None]
    return game_of(on.float(), on.bool(), masks)


def on_parts(*weights):
    maps = torch.zeros(1, H, W)
    for part, weight in enumerate(weights):
        maps[0, :, 2 * part] = weight / H
    return maps


def values(game, maps, *names):
    found = protocol(game, maps)
    return tuple(round(float(found[name].value[0]), 4) for name in names)


COMPLETE = ("preservation", "deletion", "sufficient", "distractibility", "completeness")


@pytest.mark.parametrize(
    ("kind", "weights", "expected"),
    [
        ("or", (1, 1, 0), (1, 1, 1, 1, 1)),
        ("or", (1, 0, 0), (1, 0, 1, 1, 5 / 6)),  # the other one is enough
        ("or", (0, 0, 1), (0, 0, 0, 0, 0)),
        ("or", (1, 1, 1), (1, 1, 1, 0, 1 / 2)),
        ("and", (1, 1, 0), (1, 1, 1, 1, 1)),
        ("and", (1, 0, 0), (0, 1, 0.5, 1, 3 / 4)),
        ("and", (0, 0, 1), (0, 0, 0, 0, 0)),
        ("and", (1, 0, 1), (0, 1, 0.5, 0, 1 / 4)),
    ],
)
def test_gates_get_what_the_marked_parts_deserve(kind, weights, expected):
    assert values(gate(kind), on_parts(*weights), *COMPLETE) == tuple(round(value, 4) for value in expected)


def test_a_part_is_marked_by_its_share_of_the_largest_one():
    """0.15 is above two of the four thresholds."""
    assert THRESHOLDS == (0.05, 0.1, 0.2, 0.3)
    assert values(gate("and"), on_parts(1, 0.15, 0), *COMPLETE) == (0.5, 1, 0.75, 1, 0.875)
    assert values(gate("or"), on_parts(1, 0.15, 0), "deletion") == (0.5,)
    assert values(gate("or"), on_parts(1, 1, 0.25), "distractibility") == (0.25,)
    assert values(gate("and"), 1000 * on_parts(1, 0.15, 0), *COMPLETE) == (0.5, 1, 0.75, 1, 0.875)


def test_nothing_is_marked_by_a_map_without_positive_parts():
    for maps in (on_parts(0, 0, 0), on_parts(-1, -2, -3)):
        assert values(gate("and"), maps, *COMPLETE) == (0, 0, 0, 1, 0.5)


def test_parts_that_cannot_be_seen_are_left_as_they_are():
    masks = gate("and").masks.clone()
    masks[:, 1] = False
    game = gate("and", masks)
    assert game.seen.tolist() == [[True, False, True]]
    assert values(game, on_parts(1, 0, 0), *COMPLETE) == (1, 1, 1, 1, 1)


def test_single_deletion_is_the_rank_correlation_with_the_effects():
    worth = torch.randn(2, 16, generator=draws(1))
    game, maps = game_of(worth, worth > 0), torch.randn(2, H, W, generator=draws(2))
    found = protocol(game, maps)
    for n in range(2):
        mass = [float(maps[n, :, 2 * part].sum()) for part in range(4)]
        effect = [float(worth[n, 15] - worth[n, 15 ^ 1 << part]) for part in range(4)]
        assert float(found["single_deletion"].value[n]) == pytest.approx((spearmanr(mass, effect)[0] + 1) / 2)
    assert found["correctness"].value.equal(found["single_deletion"].value)
    importance = map_tracks(evaluate.Effects.of(game), maps)["importance"]
    torch.testing.assert_close(found["correctness"].value, (importance.value + 1) / 2)
    torch.testing.assert_close(found["correctness"].stderr, importance.stderr / 2)
    assert (importance.stderr > 0).all()
    assert found["correctness"].chance == 0.5
    still = protocol(game, torch.ones(2, H, W))
    assert still["correctness"].reason == ("constant_sums",) * 2


def test_target_sensitivity_comes_from_the_contrast_of_the_first_scenes():
    few = torch.tensor([False, True])
    given = track("contrast", torch.tensor([0.5, -1.0]), {"few_parts": few}, torch.tensor([0.2, 0.2]))
    found = protocol(gate("or"), on_parts(1, 1, 0), given)
    assert found["target_sensitivity"].value.tolist() == found["contrastivity"].value.tolist() == [0.75]
    assert found["target_sensitivity"].stderr.tolist() == pytest.approx([0.1])
    twice = game_of(*(side.expand(2, -1) for side in (gate("or").worth, gate("or").kept)))
    assert protocol(twice, on_parts(1, 1, 0).expand(2, -1, -1), given)["contrastivity"].reason == ("", "few_parts")
    assert set(found) == set(CHECKS)
    assert "target_sensitivity" not in protocol(gate("or"), on_parts(1, 1, 0))


@pytest.mark.parametrize("seed", range(4))
def test_any_game_equals_a_slow_derivation(seed):
    n, count = 6, 4
    worth = torch.randn(n, 16, generator=draws(seed))
    worth[:3, 8:] = worth[:3, :8]  # the last part is idle in half of the scenes
    kept = torch.rand(n, 16, generator=draws(seed + 10)) < 0.5
    kept[:, 15] = True
    game, maps = game_of(worth, kept), torch.rand(n, H, W, generator=draws(seed + 20)).pow(6)
    found = protocol(game, maps)

    def stays(row, parts):
        return bool(kept[row, sum(1 << part for part in parts)])

    for row in range(n):
        every = [set(s) for s in chain.from_iterable(combinations(range(count), size) for size in range(count + 1))]
        keep = [chosen for chosen in every if stays(row, chosen)]
        smallest = [chosen for chosen in keep if not any(other < chosen for other in keep)]
        mass = [float(maps[row, :, 2 * part].sum()) for part in range(count)]
        checks = []
        for share in THRESHOLDS:
            marked = {part for part in range(count) if mass[part] >= share * max(mass)}
            covered = max((len(s & marked) / len(s) if s else 1.0 for s in smallest), default=None)
            rest = set(range(count)) - marked
            checks.append((stays(row, marked), not stays(row, rest), covered, 3 not in marked))
        preservation, deletion, covered, spared = zip(*checks, strict=True)
        assert float(found["preservation"].value[row]) == pytest.approx(sum(preservation) / 4)
        assert float(found["deletion"].value[row]) == pytest.approx(sum(deletion) / 4)
        assert float(found["sufficient"].value[row]) == pytest.approx(sum(covered) / 4)
        three = (sum(preservation) + sum(deletion) + sum(covered)) / 12
        if row < 3:
            assert float(found["distractibility"].value[row]) == pytest.approx(sum(spared) / 4)
            assert float(found["completeness"].value[row]) == pytest.approx((three + sum(spared) / 4) / 2)
        else:
            assert found["distractibility"].reason[row] == "no_idle_part"
            assert float(found["completeness"].value[row]) == pytest.approx(three)


def test_where_another_class_is_first_there_is_no_answer_to_keep_or_to_lose():
    """A map of any other class would else lose it by whatever it marks."""
    game = game_of(torch.arange(8.0)[None], torch.tensor([[False, True] * 3 + [True, False]]))
    found = protocol(game, on_parts(1, 1, 0))
    for name in ("preservation", "deletion", "sufficient", "completeness"):
        assert found[name].reason == ("not_first",)
    assert found["single_deletion"].valid.all()


def with_background(game, effect):
    """Effects of a game's three parts, and of a bush and a post: column 8 and column 10."""
    n, masks = len(game), torch.zeros(len(game), 2, H, W, dtype=torch.bool)
    masks[:, 0, :, 8], masks[:, 1, :, 10] = True, True
    own = torch.cat([game.effect, torch.tensor(effect).expand(n, 2)], 1)
    every = torch.cat([game.masks, masks], 1)
    return evaluate.Effects(
        own, every, game.relevant, (*game.parts, "bush", "post"), game.target, game.images, game.score
    )


@pytest.mark.parametrize(
    ("effect", "on_bush", "expected"),
    [
        ((0.0, 0.0), 0.0, 1.0),  # the idle part and both things are left out
        ((0.0, 0.0), 1.0, 2 / 3),
        ((0.0, 0.0), 0.15, 5 / 6),  # above two of four thresholds
        ((0.04, torch.nan), 1.0, 1 / 2),  # under a twentieth of the score; the post is not seen
        ((0.06, 0.0), 1.0, 1.0),  # the bush is needed, and may be marked
        ((-3.0, 0.0), 1.0, 2 / 3),  # without it the score rises: it is no reason for the class
        ((0.0, 0.0), -1.0, 1.0),
    ],
)
def test_things_in_the_background_that_are_not_needed_must_not_be_marked(effect, on_bush, expected):
    game, maps = gate("and"), on_parts(1, 1, 0)
    maps[0, :, 8] = on_bush / H
    found = protocol(game, maps, effects=with_background(game, effect))
    assert float(found["distractibility"].value) == pytest.approx(expected)
    assert float(found["completeness"].value) == pytest.approx((1 + expected) / 2)


def test_a_map_of_the_background_alone_marks_it():
    game, maps = gate("and"), torch.zeros(1, H, W)
    maps[0, :, 8] = 1
    assert float(protocol(game, maps, effects=with_background(game, (0.0, 0.0)))["distractibility"].value) == (
        pytest.approx(2 / 3)
    )


def test_effects_of_other_classes_are_refused():
    game = gate("and")
    other = with_background(evaluate.PartGame(**{**vars(gate("and")), "target": (0,)}), (0.0, 0.0))
    with pytest.raises(BadInput, match="other classes"):
        protocol(game, on_parts(1, 1, 0), effects=other)


def test_background_independence_is_the_share_of_things_that_are_not_needed():
    worth = torch.tensor([[0.0, 0.0, 0.0, 10.0, 0.0, 0.0, 0.0, 10.0]]).expand(4, -1)
    game = game_of(worth, worth > 0)
    effects = with_background(game, (0.0, 0.0))
    own = effects.effect.clone()
    own[:, 3:] = torch.tensor([[0.0, 0.0], [0.6, 0.4], [0.6, torch.nan], [torch.nan, torch.nan]])
    score = background_independence(replace(effects, effect=own), ("bush", "post"))
    assert score.value[:3].tolist() == [1.0, 0.5, 0.0]
    assert score.reason == ("", "", "", "few_parts")
    with pytest.raises(NotFound, match="hedge"):
        background_independence(effects, ("hedge",))


def test_maps_that_say_nothing_have_a_reason_and_never_a_number_that_means_nothing():
    masks = gate("or").masks
    worth, kept = gate("or").worth.expand(3, -1), gate("or").kept.expand(3, -1)
    maps = torch.cat([torch.ones(1, H, W), torch.full((1, H, W), torch.nan), on_parts(1, 1, 0)])
    found = protocol(game_of(worth, kept, masks.expand(3, -1, -1, -1)), maps)
    for score in found.values():
        assert score.reason[1] == "not_finite"
        assert (score.value.isnan() == torch.tensor([bool(reason) for reason in score.reason])).all()
    assert found["single_deletion"].reason == ("constant_score", "not_finite", "constant_score")
    assert found["completeness"].value[2] == 1


class Lights(nn.Module):
    """Scores of two classes: how much is unlike the first pixel in the upper and in the lower half."""

    def forward(self, x):
        unlike = (x - x[:, :, :1, :1]).abs().mean((1, 3))
        half = x.shape[2] // 2
        return torch.stack([unlike[:, :half].mean(1), unlike[:, half:].mean(1)], 1)


@pytest.mark.parametrize("weights", [(1.0, 0.15, 0.25), (0.12, 1.0, 0.07), (0.0, 0.0, 1.0)])
def test_the_protocol_by_hand_on_one_rendered_scene(weights):
    """Every set of three parts is drawn and asked about here, with no game in between."""
    names = ("figure", "figure_2", "figure_3")
    scenes = data.scenes("shapes", 1, size=32, seed=9, n_objects=3)
    model = Model(Lights(), Preprocess(size=(32, 32), mean=(0.0,) * 3, std=(1.0,) * 3), ("up", "down"), "lights")
    every = [frozenset(s) for s in chain.from_iterable(combinations(names, size) for size in range(4))]
    out = {s: model.module(scenes.do(remove=[x for x in names if x not in s]).images)[0].tolist() for s in every}
    said = {s: scores.index(max(scores)) for s, scores in out.items()}
    answer, whole = said[frozenset(names)], frozenset(names)
    keep = [s for s in every if said[s] == answer]
    smallest = [s for s in keep if not any(other < s for other in keep)]
    gains = {x: [out[s][answer] - out[s - {x}][answer] for s in every if x in s] for x in names}
    idle = {x for x in names if max(map(abs, gains[x])) < 0.01 * max(abs(g) for own in gains.values() for g in own)}
    assert smallest == [frozenset(names[:2])]
    assert idle == set(names[2:])
    masks = scenes.masks[0, [scenes.part(x) for x in names]].float()
    maps = (torch.tensor(weights) / masks.sum((1, 2))) @ masks.flatten(1)
    marked = [{x for x, w in zip(names, weights, strict=True) if w >= t * max(weights)} for t in THRESHOLDS]
    found = protocol(evaluate.play(model, scenes, names), maps.view(1, 32, 32))
    expected = {
        "preservation": [said[frozenset(m)] == answer for m in marked],
        "deletion": [said[whole - m] != answer for m in marked],
        "sufficient": [max(len(s & m) / len(s) for s in smallest) for m in marked],
        "distractibility": [len(idle - m) / len(idle) for m in marked],
    }
    means = {name: sum(values) / 4 for name, values in expected.items()}
    three = (means["preservation"] + means["deletion"] + means["sufficient"]) / 3
    means["completeness"] = (three + means["distractibility"]) / 2
    means["single_deletion"] = (
        spearmanr(weights, [round(out[whole][answer] - out[whole - {x}][answer], 6) for x in names]).statistic + 1
    ) / 2
    assert {name: float(found[name].value) for name in means} == pytest.approx(means)


def test_the_oracle_of_a_glass_model_with_evidence_in_one_place_is_complete():
    model = glass.separate_evidence(grid=(2, 3), size=(24, 30))
    images = torch.rand(12, 3, 24, 30, generator=draws()) * torch.linspace(0.6, 1, 12)[:, None, None, None]
    game = evaluate.glass_game(model, images)
    assert 0 in game.target
    found = protocol(game, oracle(game.effect, game.masks))
    for name in COMPLETE:
        assert found[name].value.tolist() == [1.0] * 12, name


def test_the_table_of_checks_is_most_complete_first():
    scenes = data.scenes("shapes", 4, size=32, seed=3, n_objects=3)
    methods = {"gradient": attribute.input_x_gradient}
    result = evaluate.benchmark(glass.wired_classifier(), scenes, methods)
    lines = result.checks_table().splitlines()
    assert lines[0].startswith("| method | preservation | deletion |")
    means = [float(line.split("|")[8].split("±")[0]) for line in lines[2:]]
    assert lines[0].split("|")[8].strip() == "completeness"
    assert means == sorted(means, reverse=True)
    assert any(line.startswith("| `gradient` |") for line in lines)
    assert any(line.startswith("| oracle |") for line in lines)
    with pytest.raises(BadInput, match="no game of parts"):
        evaluate.Benchmark(result.scores).checks_table()
