"""Maps against interventions: effects are differences of scores, the oracle is first, noise is not above chance."""

from functools import partial

import pytest
import torch
from torch import Tensor, nn

from glasshouse import attribute, data, evaluate, zoo
from glasshouse.core import BadInput, Model, NothingMatched, Preprocess
from glasshouse.core.mask import blend
from glasshouse.data import glass


@pytest.fixture(scope="module")
def model() -> Model:
    return zoo.load("creatures_cnn")


@pytest.fixture(scope="module")
def scenes() -> data.Scenes:
    return data.scenes("creatures", n=6, size=64, seed=5)


@pytest.fixture(scope="module")
def effects(model, scenes) -> evaluate.Effects:
    return evaluate.part_effects(model, scenes)


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


def test_a_model_that_ignores_a_part_gives_it_no_effect(scenes):
    names = tuple(scenes.part_names)
    pre = Preprocess(size=(64, 64), mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0))
    effects = evaluate.part_effects(Model(Watcher(), pre, ("left", "right")), scenes, 0)
    right = torch.zeros(64, 64, dtype=torch.bool)
    right[:, 34:] = True
    shadowless = [place for place, name in enumerate(effects.parts) if name in ("eye", "crown")]
    for place in shadowless:
        only_right = (effects.masks[:, place] <= right).flatten(1).all(1) & effects.effect[:, place].isfinite()
        assert (effects.effect[only_right, place].abs() < 1e-5).all()
    assert set(effects.parts) == set(names) - {"sky", "ground"}


def test_the_oracle_is_first_and_the_random_map_is_not_above_chance(model, scenes, effects):
    result = evaluate.benchmark(model, scenes, {"saliency": attribute.saliency}, effects=effects)
    assert result.ranking()[0] == "oracle"
    assert result.scores["oracle"]["importance"].mean == pytest.approx(1, abs=1e-5)
    assert "not above chance" in result.flags("random")
    assert "not above chance" not in result.flags("oracle")
    assert abs(result.scores["random"]["relevant_mass"].mean) < 0.02
    assert result.scores["constant"]["relevant_mass"].mean == pytest.approx(0, abs=1e-6)
    assert result.scores["constant"]["pointing"].reason == ("constant_map",) * 6
    assert result.scores["oracle"]["pointing"].mean > 0.8


def test_a_method_is_judged_by_its_values_whoever_wrote_it(model, scenes, effects):
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
    result = evaluate.benchmark(model, scenes, methods, effects=effects)
    assert result.scores["covered"]["importance"].mean > result.scores["edges"]["importance"].mean + 0.2
    assert result.flags("insensitive")[-1] == "class-insensitive"
    assert result.scores["insensitive"]["other_class"].mean == pytest.approx(1)
    assert "class-insensitive" not in result.flags("covered")
    table = result.table()
    assert table.count("\n") == 2 + 5 + 3
    assert "| `covered` |" in table
    assert "| oracle |" in table


def test_a_method_that_does_not_suit_is_noted(model, scenes, effects):
    def fails(model: Model, images: Tensor, classes: Tensor) -> Tensor:
        raise NothingMatched("no attention here.")

    result = evaluate.benchmark(model, scenes, {"rollout": fails}, effects=effects)
    assert result.skipped == {"rollout": "no attention here."}
    assert "rollout" not in result.scores


def test_the_same_seed_gives_the_same_table_and_it_is_saved(model, scenes, effects, tmp_path):
    first = evaluate.benchmark(model, scenes, {"saliency": attribute.saliency}, effects=effects, seed=3)
    again = evaluate.benchmark(model, scenes, {"saliency": attribute.saliency}, seed=3)
    assert first.table() == again.table()
    back = evaluate.Benchmark.load(first.save(tmp_path / "b.safetensors"))
    assert back.table() == first.table()


# Glass models and other people's methods


@pytest.fixture(scope="module")
def shapes() -> data.Scenes:
    return data.scenes("shapes", 10, size=32, seed=3, n_objects=3)


def test_a_glass_model_needs_no_drawing_and_its_oracle_is_right_on_every_track(shapes):
    result = evaluate.benchmark(glass.wired_classifier(), shapes, {})
    oracle = result.scores["oracle"]
    for track in ("importance", "shapley", "contrast", "relevant_auc"):
        assert oracle[track].mean == pytest.approx(1, abs=1e-4)
    for track in ("importance", "shapley", "relevant_mass", "relevant_auc", "pointing", "contrast"):
        assert result.ranking(track)[0] == "oracle"
    assert result.checks["oracle"]["correctness"].mean == pytest.approx(1)
    assert result.settings["n_game"] == 10
    assert "steady" not in result.tracks  # nothing says that a glass model ignores the background


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
        found = captum.IntegratedGradients(model.module).attribute(shown, 0 * images, classes, n_steps=32)
        return found.sum(1).detach().float()

    def edges_of_one_class(model: Model, images: Tensor, classes: Tensor) -> Tensor:
        return images.diff(dim=3, append=images[..., -1:]).abs().sum(1)

    methods = {
        "captum_input_x_gradient": gradient_times_input,
        "captum_integrated_gradients": integrated,
        "function": edges_of_one_class,
        "input_x_gradient": attribute.input_x_gradient,
        "integrated_gradients": partial(attribute.integrated_gradients, n_steps=32),
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
    assert result.scores["constant"]["importance"].reason == ("constant_sums",) * 10
    assert result.scores["exact"]["importance"].mean == pytest.approx(1)
    assert result.flags("exact") == ()
    assert "not above chance" in result.flags("noise")


def noise_of_a_seed(model: Model, images: Tensor, classes: Tensor) -> Tensor:
    return torch.rand(len(images), *images.shape[2:], generator=torch.Generator().manual_seed(int(classes.sum())))


def test_a_game_of_the_first_scenes_is_enough(model, scenes, effects, shapes):
    game = evaluate.play(model, data.scenes("creatures", n=2, size=64, seed=5), ("head", "body", "tail"))
    result = evaluate.benchmark(model, scenes, {"saliency": attribute.saliency}, effects=effects, game=game)
    assert len(result.scores["saliency"]["shapley"].value) == len(result.checks["saliency"]["completeness"].value) == 2
    assert len(result.scores["saliency"]["importance"].value) == 6
    assert result.settings["n_game"] == 2
    assert result.checks["oracle"]["correctness"].reason == ("",) * 2
    wired = glass.wired_classifier()
    some = evaluate.benchmark(wired, shapes, {}, game=evaluate.glass_game(wired, shapes.images[:4]))
    assert some.scores["oracle"]["importance"].value.shape == (4,)


def test_backgrounds_that_move_are_asked_about_where_the_scenes_can_be_drawn_again(model, scenes, effects):
    def where_red(model: Model, images: Tensor, classes: Tensor) -> Tensor:
        return images[:, 0]

    def same(model: Model, images: Tensor, classes: Tensor) -> Tensor:
        return torch.linspace(0, 1, 64 * 64).view(64, 64).expand(len(images), -1, -1)

    result = evaluate.benchmark(model, scenes, {"where_red": where_red, "same": same}, effects=effects)
    assert result.scores["same"]["steady"].mean == pytest.approx(0, abs=1e-6)
    assert result.scores["where_red"]["steady"].mean > 0
    assert result.ranking("steady")[0] == "same"


def test_what_does_not_belong_together_is_refused(model, scenes, effects):
    other = [(wanted + 1) % 12 for wanted in effects.target[:2]]
    game = evaluate.play(model, data.scenes("creatures", n=2, size=64, seed=5), ("head",), other)
    with pytest.raises(BadInput, match="about other classes"):
        evaluate.benchmark(model, scenes, {}, effects=effects, game=game)

    class One(nn.Module):
        def forward(self, inputs: Tensor) -> Tensor:
            return inputs.mean((1, 2, 3))[:, None]

    pre = Preprocess(size=(64, 64), mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0))
    with pytest.raises(BadInput, match="one class only"):
        evaluate.benchmark(Model(One(), pre, ("thing",)), data.scenes("creatures", n=1, size=64), {})


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
