"""Maps against interventions: effects are differences of scores, the oracle is first, noise is not above chance."""

from dataclasses import replace
from functools import partial

import pytest
import torch
from torch import Tensor, nn

from glasshouse import attribute, data, evaluate, zoo
from glasshouse.core import BadInput, Model, NothingMatched, Preprocess, Score
from glasshouse.core.mask import blend
from glasshouse.data import glass
from glasshouse.evaluate.truth.effects import Responses, part_responses
from glasshouse.evaluate.truth.leads import CLEAR, in_errors, least_lead, scenes_to_tell


@pytest.fixture(scope="module")
def model() -> Model:
    return zoo.load("creatures_cnn")


@pytest.fixture(scope="module")
def scenes() -> data.Scenes:
    return data.scenes("creatures", n=6, size=64, seed=5)


@pytest.fixture(scope="module")
def responses(model, scenes) -> Responses:
    return part_responses(model, scenes)


@pytest.fixture(scope="module")
def elsewhere(model, scenes) -> Responses:
    return part_responses(model, scenes.do(background=7))


@pytest.fixture(scope="module")
def asked(responses, elsewhere) -> dict[str, Responses]:
    return {"responses": responses, "elsewhere": elsewhere}


@pytest.fixture(scope="module")
def effects(responses) -> evaluate.Effects:
    return responses.effects()


def test_an_effect_is_the_fall_of_the_score_without_the_part(model, scenes, effects):
    place = effects.parts.index("head")
    with torch.no_grad():
        clean = model.module(model.preprocess.normalise(scenes.images))
        without = model.module(model.preprocess.normalise(scenes.do(remove="head").images))
    rows = range(len(scenes))
    expected = (clean - without)[rows, list(effects.target)]
    torch.testing.assert_close(effects.effect[:, place], expected, rtol=1e-3, atol=1e-3)
    torch.testing.assert_close(effects.score, clean.amax(1), rtol=1e-4, atol=1e-4)
    assert effects.target == tuple(clean.argmax(1).tolist())


def test_a_part_that_cannot_be_seen_has_no_effect_to_speak_of(effects):
    hidden = effects.masks.flatten(2).sum(2) < 4
    assert torch.equal(effects.effect.isnan(), hidden)
    assert hidden.any()
    assert not hidden.all()


def test_relevant_pixels_are_those_of_parts_that_matter(effects):
    least = 0.1 * effects.effect.nan_to_num().amax(1)
    for row in range(len(effects.effect)):
        mask = torch.zeros(64, 64, dtype=torch.bool)
        for part, effect in enumerate(effects.effect[row].nan_to_num().tolist()):
            if effect > 0 and effect >= least[row]:
                mask |= effects.masks[row, part]
        assert torch.equal(mask, effects.relevant[row])


class Watcher(nn.Module):
    """Looks at the red of one half only, so that everything on the other half is worth nothing."""

    def forward(self, inputs: Tensor) -> Tensor:
        red = inputs[:, 0, :, :32].mean((1, 2))
        return torch.stack([red, -red], 1)


def test_everything_that_stands_before_sky_and_ground_is_a_part(scenes, effects):
    assert set(effects.parts) == set(scenes.part_names) - {"sky", "ground"}


def test_a_model_that_ignores_a_part_gives_it_no_effect(scenes):
    pre = Preprocess(size=(64, 64), mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0))
    parts = ("eye", "crown")  # which cast no shadow
    effects = evaluate.part_effects(Model(Watcher(), pre, ("left", "right")), scenes, 0, parts=parts)
    right = torch.zeros(64, 64, dtype=torch.bool)
    right[:, 34:] = True
    unseen = (effects.masks <= right).flatten(2).all(2) & effects.effect.isfinite()
    assert unseen.any()
    assert (effects.effect[unseen].abs() < 1e-5).all()
    assert (effects.effect[~unseen & effects.effect.isfinite()].abs() > 1e-5).any()


def test_the_oracle_is_first_and_the_random_map_is_not_above_chance(model, scenes, asked):
    result = evaluate.benchmark(model, scenes, {"saliency": attribute.saliency}, **asked)
    assert result.ranking()[0] == "oracle"
    assert result.scores["oracle"]["importance"].mean == pytest.approx(1, abs=1e-5)
    assert "not above chance" in result.flags("random")
    assert "not above chance" not in result.flags("oracle")
    assert abs(result.scores["random"]["relevant_mass"].mean) < 0.02
    assert result.scores["constant"]["relevant_mass"].mean == pytest.approx(0, abs=1e-6)
    assert result.scores["constant"]["pointing"].reason == ("constant_map",) * 6
    assert result.scores["oracle"]["pointing"].mean > 0.8


def test_a_method_is_judged_by_its_values_whoever_wrote_it(model, scenes, asked, effects):
    def covered(model: Model, images: Tensor, classes: Tensor) -> Tensor:
        """Each part covered by grey, one after the other: another way to ask what the parts are worth."""
        found = torch.zeros(len(images), 64, 64)
        with torch.no_grad():
            clean = model.module(images).gather(1, classes[:, None])[:, 0]
            for part in range(len(effects.parts)):
                mask = effects.masks[:, part]
                changed = blend(images, ~mask, torch.zeros(1, 3, 1, 1))
                fall = clean - model.module(changed).gather(1, classes[:, None])[:, 0]
                found += mask * (fall / mask.flatten(1).sum(1).clamp(min=1))[:, None, None]
        return found

    def insensitive(model: Model, images: Tensor, classes: Tensor) -> Tensor:
        return images.abs().amax(1)

    methods = {
        "covered": covered,
        "insensitive": insensitive,
        "grad_cam": partial(attribute.grad_cam, layer="stages.1"),
    }
    result = evaluate.benchmark(model, scenes, methods, **asked)
    assert result.scores["covered"]["importance"].mean > result.scores["edges"]["importance"].mean + 0.2
    assert result.flags("insensitive")[-1] == "class-insensitive"
    assert result.scores["insensitive"]["other_class"].mean == pytest.approx(1)
    assert "class-insensitive" not in result.flags("covered")
    table = result.table()
    assert table.count("\n") == 2 + 5 + 3
    assert "| `covered` |" in table
    assert "| oracle |" in table


def test_a_method_that_does_not_suit_is_noted(model, scenes, asked):
    def fails(model: Model, images: Tensor, classes: Tensor) -> Tensor:
        raise NothingMatched("no attention here.")

    result = evaluate.benchmark(model, scenes, {"rollout": fails}, **asked)
    assert result.skipped == {"rollout": "no attention here."}
    assert "rollout" not in result.scores


def test_what_the_model_was_asked_before_is_not_asked_again_whichever_the_class(
    model, scenes, asked, responses, counted
):
    """Neither about the classes that win, nor about those that maps are compared with, nor before other backgrounds."""

    def dark(model: Model, images: Tensor, classes: Tensor) -> Tensor:
        return -images[:, 0]

    sizes = counted(model.module)
    classes = (responses.whole.argsort(1, descending=True)[:, 1]).tolist()
    for target in (None, classes):
        found = evaluate.benchmark(model, scenes, {"dark": dark}, **asked, target=target)
        assert found.scores["oracle"]["importance"].mean == pytest.approx(1, abs=1e-5)
    assert sizes == []
    assert found.settings["target"] == classes


def test_the_same_seed_gives_the_same_table_and_it_is_saved(model, tmp_path):
    few = data.scenes("shapes", n=2, size=64, seed=5, n_objects=3)
    first = evaluate.benchmark(
        model, few, {"saliency": attribute.saliency}, responses=part_responses(model, few), seed=3
    )
    again = evaluate.benchmark(model, few, {"saliency": attribute.saliency}, seed=3)
    assert first.table() == again.table()
    back = evaluate.Benchmark.load(first.save(tmp_path / "b.safetensors"))
    assert back.table() == first.table()


def test_a_class_that_was_chosen_is_the_one_that_is_explained(model, scenes, asked):
    seen = []

    def where_dark(model: Model, images: Tensor, classes: Tensor) -> Tensor:
        seen.append(classes.tolist())
        return -images[:, 0]

    found = evaluate.benchmark(model, scenes, {"dark": where_dark}, **asked, target=3)
    assert seen[0] == [3] * 6
    assert not set(seen[1]) & {3}
    assert found.settings["target"] == [3] * 6
    shapes = data.scenes("shapes", 2, size=32, seed=3, n_objects=3)
    evaluate.benchmark(glass.wired_classifier(), shapes, {"dark": where_dark}, target=1)
    assert seen[3] == [1, 1]


# What a lead over chance is worth


def of_leads(*leads: float) -> evaluate.Benchmark:
    """A method that is so far above the constant map in each scene."""

    def score(name: str, values: Tensor) -> Score:
        return Score(name, values, torch.zeros_like(values), None, "up", ("",) * len(values))

    same = torch.linspace(-1, 1, len(leads))
    tracks = {"constant": same, "some": same + torch.tensor(leads)}
    return evaluate.Benchmark({who: {"importance": score("importance", v)} for who, v in tracks.items()})


def test_a_method_is_above_chance_from_three_standard_errors_of_its_lead():
    spread = [-1.0, 1.0] * 8
    error = (16 / 15) ** 0.5 / 4  # standard deviation of plus and minus one, over the root of sixteen
    for errors, flags in ((2.99, ("not above chance",)), (3.01, ())):
        assert of_leads(*(each + errors * error for each in spread)).flags("some") == flags
    found = of_leads(*spread)
    assert found.note("some") == f"not above chance ({3.84 * error:.2f} more would be)"


def test_the_lead_that_would_be_found_is_found_four_times_in_five_and_half_of_it_seldom():
    draws = torch.randn(1000, 32, generator=torch.Generator().manual_seed(0))
    shares = [
        torch.tensor([in_errors(gap + part * 3.84 / 32**0.5) > CLEAR for gap in draws]).float().mean()
        for part in (0, 0.5, 1)
    ]
    assert shares[0] < 0.01  # by luck
    assert shares[1] < 0.2
    assert float(shares[2]) == pytest.approx(0.8, abs=0.04)
    assert least_lead(draws.flatten()[:32]) == pytest.approx(3.84 * float(draws.flatten()[:32].std()) / 32**0.5)


def test_four_times_the_scenes_show_half_the_lead():
    assert scenes_to_tell(3.84, 20) == pytest.approx(20)
    assert scenes_to_tell(1.92, 20) == pytest.approx(80)
    assert scenes_to_tell(0.0, 20) == scenes_to_tell(-2.0, 20) == torch.inf
    assert in_errors(torch.tensor([1.0])) != in_errors(torch.tensor([1.0])), "one scene has no spread"
    assert in_errors(torch.tensor([1.0, torch.inf, 1.0])) == torch.inf
    assert in_errors(torch.tensor([-1.0, -1.0, torch.nan])) == -torch.inf
    assert in_errors(torch.zeros(3)) == 0


# Glass models and other people's methods


@pytest.fixture(scope="module")
def shapes() -> data.Scenes:
    return data.scenes("shapes", 8, size=32, seed=3, n_objects=3)


def test_a_glass_model_needs_no_drawing_and_its_oracle_is_right_on_every_track(shapes):
    result = evaluate.benchmark(glass.wired_classifier(), shapes, {})
    oracle = result.scores["oracle"]
    for track in ("importance", "shapley", "contrast", "relevant_auc"):
        assert oracle[track].mean == pytest.approx(1, abs=1e-4)
    for track in ("importance", "shapley", "relevant_mass", "relevant_auc", "pointing", "contrast"):
        assert result.ranking(track)[0] == "oracle"
    assert result.checks["oracle"]["correctness"].mean == pytest.approx(1)
    assert result.settings["n_game"] == 8
    assert oracle["steady"].mean == pytest.approx(0, abs=1e-5)  # what a glass model does not look at turns black
    assert result.scores["random"]["steady"].mean < 0.05


def test_methods_of_captum_and_plain_functions_are_scored_in_the_same_table(shapes):
    captum = pytest.importorskip("captum.attr")

    def gradient_times_input(model: Model, images: Tensor, classes: Tensor) -> Tensor:
        return (
            captum.InputXGradient(model.module)
            .attribute(images.clone().requires_grad_(), target=classes)
            .sum(1)
            .detach()
        )

    def integrated(model: Model, images: Tensor, classes: Tensor) -> Tensor:
        shown = images.clone().requires_grad_()
        found = captum.IntegratedGradients(model.module).attribute(shown, 0 * images, classes, n_steps=16)
        return found.sum(1).detach().float()

    def edges_of_one_class(model: Model, images: Tensor, classes: Tensor) -> Tensor:
        return images.diff(dim=3, append=images[..., -1:]).abs().sum(1)

    methods = {
        "captum_input_x_gradient": gradient_times_input,
        "captum_integrated_gradients": integrated,
        "function": edges_of_one_class,
        "input_x_gradient": attribute.input_x_gradient,
        "integrated_gradients": partial(attribute.integrated_gradients, n_steps=16),
    }
    result = evaluate.benchmark(glass.wired_classifier(), shapes, methods)
    assert not result.skipped
    for name in ("input_x_gradient", "integrated_gradients"):
        theirs, ours = result.scores[f"captum_{name}"], result.scores[name]
        for track in ("importance", "shapley", "relevant_mass", "pointing", "contrast"):
            assert theirs[track].mean == pytest.approx(ours[track].mean, abs=0.05), (name, track)
            assert theirs[track].reason == ours[track].reason
    assert result.scores["captum_integrated_gradients"]["shapley"].mean > 0.99
    assert result.scores["function"]["contrast"].mean == 0
    assert "class-insensitive" in result.flags("function")
    rows = [line.split("|")[1].strip() for line in result.table().splitlines()[2:]]
    assert {f"`{name}`" for name in methods} < set(rows)
    assert rows[0] == "oracle"


def test_a_method_that_is_exact_is_above_chance_where_the_constant_map_has_no_number(shapes):
    """The regions are quarters of the picture: equal, and all of them matter."""
    result = evaluate.benchmark(
        glass.null_channels(), shapes, {"exact": attribute.input_x_gradient, "noise": noise_of_a_seed}
    )
    assert result.scores["constant"]["importance"].reason == ("constant_sums",) * 8
    assert result.scores["exact"]["importance"].mean == pytest.approx(1)
    assert result.flags("exact") == ()
    assert "not above chance" in result.flags("noise")


def noise_of_a_seed(model: Model, images: Tensor, classes: Tensor) -> Tensor:
    return torch.rand(len(images), *images.shape[2:], generator=torch.Generator().manual_seed(int(classes.sum())))


def test_a_game_of_the_first_scenes_is_enough(model, scenes, asked, shapes):
    game = evaluate.play(model, data.scenes("creatures", n=2, size=64, seed=5), ("head", "body", "tail"))
    result = evaluate.benchmark(model, scenes, {"saliency": attribute.saliency}, **asked, game=game)
    assert len(result.scores["saliency"]["shapley"].value) == len(result.checks["saliency"]["completeness"].value) == 2
    assert len(result.scores["saliency"]["importance"].value) == 6
    assert result.settings["n_game"] == 2
    assert result.checks["oracle"]["correctness"].reason == ("",) * 2
    wired = glass.wired_classifier()
    some = evaluate.benchmark(wired, shapes, {}, game=evaluate.glass_game(wired, shapes.images[:4]))
    assert some.scores["oracle"]["importance"].value.shape == (4,)


def test_backgrounds_that_move_are_asked_about_where_the_scenes_can_be_drawn_again(model, scenes, asked):
    def where_red(model: Model, images: Tensor, classes: Tensor) -> Tensor:
        return images[:, 0]

    def same(model: Model, images: Tensor, classes: Tensor) -> Tensor:
        return torch.linspace(0, 1, 64 * 64).view(64, 64).expand(len(images), -1, -1)

    result = evaluate.benchmark(model, scenes, {"where_red": where_red, "same": same}, **asked)
    assert result.scores["same"]["steady"].mean == pytest.approx(0, abs=1e-4)  # parts end a pixel elsewhere
    assert result.scores["where_red"]["steady"].mean > 0
    assert result.scores["constant"]["steady"].mean == pytest.approx(0, abs=1e-4)
    assert result.ranking("steady")[-1] == "where_red"


def test_what_does_not_belong_together_is_refused(model, scenes, asked, responses, effects, shapes):
    other = [(wanted + 1) % 12 for wanted in effects.target[:2]]
    few = data.scenes("creatures", n=2, size=64, seed=5)
    with pytest.raises(BadInput, match="about other classes"):
        evaluate.benchmark(model, scenes, {}, **asked, game=evaluate.play(model, few, ("head",), other))
    with pytest.raises(BadInput, match="responses to 6 scenes are not about these 2"):
        evaluate.benchmark(model, few, {}, responses=responses)
    with pytest.raises(BadInput, match="responses to 6 scenes are not about these 2"):
        evaluate.benchmark(model, few, {}, elsewhere=responses)
    with pytest.raises(BadInput, match="'constant' is the name of a control"):
        evaluate.benchmark(model, scenes, {"constant": attribute.saliency}, **asked)
    wired = glass.wired_classifier()
    with pytest.raises(BadInput, match="of its logits, not of 'prob'"):
        evaluate.benchmark(wired, shapes, {}, score="prob")
    with pytest.raises(BadInput, match="about other classes"):
        evaluate.benchmark(wired, shapes, {}, game=evaluate.glass_game(wired, shapes.images, 0), target=1)
    with pytest.raises(BadInput, match="no track 'importants'"):
        of_leads(0.0, 1.0).ranking("importants")
    pre = Preprocess(size=(64, 64), mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0))
    one = replace(responses, whole=responses.whole[:, :1], without=responses.without[..., :1])
    with pytest.raises(BadInput, match="one class only"):
        evaluate.benchmark(Model(Watcher(), pre, ("thing",)), scenes, {}, responses=one)


@pytest.mark.slow
def test_attention_rollout_of_a_trained_transformer_is_above_chance_and_blind_to_the_class(scenes):
    methods = {"attention_rollout": attribute.attention_rollout, "attention_relevance": attribute.attention_relevance}
    result = evaluate.benchmark(zoo.load("creatures_vit"), scenes, methods)
    rollout, relevance = (result.scores[name] for name in methods)
    assert rollout["contrast"].mean == 0
    assert rollout["other_class"].mean == pytest.approx(1)
    assert "class-insensitive" in result.flags("attention_rollout")
    assert relevance["contrast"].mean > 0.2
    assert relevance["importance"].mean > rollout["importance"].mean
    assert rollout["relevant_auc"].mean > 0.9
    assert result.ranking()[0] == "oracle"
