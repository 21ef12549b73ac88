"""Questions to the taxonomy, its tables, and what plug-ins add."""

import json
from dataclasses import FrozenInstanceError
from pathlib import Path

import pytest
import torch
from torch import nn

import glasshouse
from glasshouse.core import BadInput, Cost, Explanation, Images, NotFound, Noun, Target, method, registered, select
from glasshouse.core import registry as core
from glasshouse.evaluate import taxonomy
from glasshouse.evaluate.taxonomy import MethodSpec, MetricSpec

glasshouse.list_methods()  # fills the registry
PAGE = Path(__file__).parents[3] / "docs" / "evaluate" / "taxonomy.md"


@pytest.fixture
def spare(monkeypatch):
    """A registry that may be added to."""
    monkeypatch.setattr(core, "_registry", dict(core._registry))


def test_what_explains_a_model_of_which_only_outputs_are_to_be_had():
    assert taxonomy.find("processing.*", access={"forward"}) == (
        "attribute.kernel_shap",
        "attribute.lime",
        "attribute.occlusion",
        "attribute.rise",
    )


def test_methods_are_found_by_what_they_are():
    assert taxonomy.find(form="mask", max_cost=1000) == ("attribute.meaningful_perturbation",)
    assert taxonomy.find("representation.vector", question="why_output") == ("dissect.tcav",)
    assert taxonomy.find("producing.attention", models="cnn") == ()
    assert {"attribute.grad_cam", "attribute.token_occlusion"} <= set(taxonomy.find("processing.*", models="vit"))
    assert "attribute.cam" not in taxonomy.find(models="vit")
    assert "dissect.units" in taxonomy.find(models="vit", scope="dataset")
    assert taxonomy.find("no.such") == ()
    assert set(taxonomy.find()) == set(taxonomy.find("processing.*")) | set(taxonomy.find("[!p]*")) | set(
        taxonomy.find("producing.*")
    )


def test_more_access_and_more_time_never_find_less():
    for less, more in (({"forward"}, {"forward", "gradient"}), (set(), {"weights"})):
        assert set(taxonomy.find(access=less)) <= set(taxonomy.find(access=more))
    assert set(taxonomy.find(max_cost=2)) < set(taxonomy.find(max_cost=200)) < set(taxonomy.find(max_cost=1e9))


def test_passes_there_and_back_both_count():
    assert "attribute.cam" in taxonomy.find(max_cost=1)
    assert "attribute.grad_cam" in set(taxonomy.find(max_cost=2)) - set(taxonomy.find(max_cost=1))
    assert "attribute.ablation_cam" not in taxonomy.find(max_cost=1e9)  # as many as the layer has units


def test_the_cost_of_a_method_is_that_of_its_defaults():
    assert taxonomy.describe("grad_cam").cost == Cost(1, 1)
    assert taxonomy.describe("attribute.integrated_gradients").cost_in_words == "52 F + 50 B"
    assert taxonomy.describe("score_cam").cost is None
    assert taxonomy.describe("score_cam").cost_in_words == "1 F, and 1 F per unit of the layer"


def test_evaluations_say_their_kind_and_what_they_need():
    found = {each.metric: each for each in taxonomy.evaluations("grad_cam")}
    assert found["srg"] == ("srg", "E1", "up", frozenset(), "evaluate.srg")
    assert (found["relevance_mass"].kind, found["relevance_mass"].needs) == ("E2", {"masks"})
    assert "completeness_gap" not in found
    assert "completeness_gap" in {each.metric for each in taxonomy.evaluations("integrated_gradients")}
    assert [each.kind for each in found.values()] == sorted(each.kind for each in found.values())


def test_evaluations_can_be_narrowed_to_what_is_at_hand():
    nothing = taxonomy.evaluations("grad_cam", given=())
    assert {each.metric for each in nothing} < {each.metric for each in taxonomy.evaluations("grad_cam")}
    assert not any(each.needs for each in nothing)
    assert {each.kind for each in taxonomy.evaluations("grad_cam", kind="E2")} == {"E2"}
    assert taxonomy.evaluations("grad_cam", kind="E2", given=()) == ()
    assert "dissect.decompose.errors" in [each.call for each in taxonomy.evaluations("dissect.decompose")]


def test_evaluations_and_methods_are_two_views_of_one_relation():
    forward = {(each.metric, name) for name in taxonomy.find() for each in taxonomy.evaluations(name)}
    assert forward == {(metric, name) for metric in taxonomy.metric_names() for name in taxonomy.methods_for(metric)}
    assert taxonomy.methods_for("evaluate.completeness_gap") == taxonomy.methods_for("completeness_gap")
    assert set(taxonomy.methods_for("completeness_gap")) == {
        "attribute.deep_lift",
        "attribute.expected_gradients",
        "attribute.integrated_gradients",
    }


def test_wrong_names_are_told_with_what_is_near():
    with pytest.raises(NotFound, match="grad_cam"):
        taxonomy.describe("grad_camm")
    with pytest.raises(NotFound, match="'srg'"):
        taxonomy.metric_spec("srgg")
    with pytest.raises(BadInput, match="is a metric"):
        taxonomy.describe("evaluate.srg")


def test_entries_cannot_be_changed_by_accident():
    with pytest.raises(FrozenInstanceError):
        taxonomy.describe("grad_cam").spec.family = "processing.rule_extraction"


def brighten(place: MethodSpec | None) -> None:
    """Register an attribution method, as another package does."""

    @method(cost=lambda settings, shape: Cost(1, 1), place=place)
    def brightness(model: nn.Module, inputs: Images, target: Target = None, *, layer: str | None = None) -> Images:
        """How bright each pixel is."""
        select(model(inputs), target)
        return inputs


def test_an_attribution_method_of_a_plug_in_has_a_place_at_once(spare):
    brighten(None)
    found = taxonomy.describe("brightness")
    assert (found.spec.family, found.spec.form, found.question) == ("processing.salience", "heatmap", "why_output")
    assert found.access == {"forward", "gradient", "activations"}
    assert "srg" in {each.metric for each in taxonomy.evaluations("brightness")}
    assert "attribute.brightness" in taxonomy.find("processing.salience")


def test_a_plug_in_may_say_where_its_attribution_method_stands(spare):
    brighten(MethodSpec("producing.generated", "heatmap", "pixel", access=frozenset({"forward"})))
    found = taxonomy.describe("brightness")
    assert (found.spec.family, found.access) == ("producing.generated", {"forward"})
    assert taxonomy.evaluations("brightness") == ()
    assert taxonomy.find("producing.generated", access={"forward"}) == ("attribute.brightness",)


def test_another_method_of_a_plug_in_must_say_where_it_stands(spare):
    def weigh(model: nn.Module) -> float:
        """How heavy a network is."""
        return 0.0

    registered("dissect")(weigh)
    with pytest.raises(NotFound, match=r"place=taxonomy.MethodSpec"):
        taxonomy.describe("weigh")
    assert "dissect.weigh" not in taxonomy.find()
    registered("dissect", place="ext.circuit")(weigh)
    with pytest.raises(NotFound, match=r"place=taxonomy.MethodSpec"):
        taxonomy.describe("weigh")
    assert "dissect.units" in taxonomy.find()  # a plug-in's mistake takes nothing else with it
    registered("dissect", place=MethodSpec("ext.circuit", "score", "layer"))(weigh)
    assert taxonomy.find("ext.circuit", form="score") == ("dissect.weigh",)
    assert (taxonomy.describe("weigh").scope, taxonomy.describe("weigh").cost_in_words) == ("model", "?")


def test_a_metric_of_a_plug_in_says_what_it_asks_where_it_is_registered(spare):
    spec = MetricSpec("how red is it?", "E1", "inside", "down", families=("processing.salience",))

    @registered("evaluate", place=spec)
    def redness(model: nn.Module, inputs: Images, explanation: Explanation) -> None:
        """How red a map is."""

    assert taxonomy.metric_spec("evaluate.redness") == taxonomy.metric_spec("redness") == spec
    assert "redness" in taxonomy.metric_names()
    (found,) = [each for each in taxonomy.evaluations("grad_cam") if each.metric == "redness"]
    assert found == ("redness", "E1", "down", frozenset(), "evaluate.redness")
    assert set(taxonomy.methods_for("redness")) == set(taxonomy.find("processing.salience", form="heatmap")) | set(
        taxonomy.find("processing.salience", form="mask")
    )
    told = taxonomy.to_dict()
    assert told["metrics"][-1]["name"] == "redness"
    assert "redness" not in taxonomy.metric_table()  # the page is of this package


def test_everything_goes_into_json():
    told = json.loads(json.dumps(taxonomy.to_dict()))
    assert [entry["name"] for entry in told["methods"]] == list(taxonomy.find())
    assert [entry["name"] for entry in told["metrics"]] == list(taxonomy.metric_names())
    grad_cam = next(entry for entry in told["methods"] if entry["name"] == "attribute.grad_cam")
    assert grad_cam["cost"] == {"forward": 1, "backward": 1}
    assert grad_cam["access"] == ["activations", "forward", "gradient"]
    assert "srg" in grad_cam["evaluations"]
    assert "pytorch_grad_cam.GradCAM" in grad_cam["peers"]
    srg = next(entry for entry in told["metrics"] if entry["name"] == "srg")
    assert (srg["kind"], srg["chance"], srg["registered"]) == ("E1", 0, True)
    assert srg["cost"]["forward"] >= 34


@pytest.mark.parametrize("table", [taxonomy.table, taxonomy.metric_table])
def test_the_page_shows_what_is_there(table):
    assert table() in PAGE.read_text(), "write it again: GLASSHOUSE_PAGES=docs python examples/evaluate/taxonomy.py"


@pytest.mark.parametrize("table", [taxonomy.table, taxonomy.metric_table])
def test_rows_have_as_many_cells_as_the_heading(table):
    assert len({row.count("|") for row in table().split("\n")}) == 1


def explanation(maps: torch.Tensor) -> Explanation:
    return Explanation(maps, maps, "by_hand", (0,) * len(maps), torch.zeros(len(maps)), {})


def test_the_size_of_a_map_is_the_number_of_pixels_that_evenly_share_its_weight():
    maps = torch.zeros(2, 4, 6)
    maps[0, 1, :3] = torch.tensor([2.0, -2.0, 2.0])  # three pixels, whatever their sign
    maps[1, 2, 0:5] = 1.0
    assert taxonomy.size(explanation(maps)) == 4  # the mean of 3 and 5
    assert taxonomy.size(explanation(torch.ones(1, 4, 6))) == 24
    assert taxonomy.size(explanation(torch.zeros(1, 4, 6))) == 0
    assert taxonomy.size(explanation(torch.full((1, 4, 6), torch.nan))) == 0


def test_the_size_of_other_results_is_the_number_of_their_parts(cnn, images):
    from glasshouse import attribute, dissect, visualize

    assert taxonomy.size(attribute.channel_attribution(cnn, images, layer="3")) == 8
    assert taxonomy.size(visualize.first_layer_filters(cnn)) == 6
    wires = dissect.circuit(cnn, images, layers=["0", "3"], units=[1], k=2, threshold=0.0)
    assert taxonomy.size(wires) == 3
    with pytest.raises(BadInput, match="Noun"):
        taxonomy.size(Noun())
