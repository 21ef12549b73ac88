"""The gate: tables of numbers with tolerances, and the quick benchmark held against the one that is kept.

`quick.json` holds the numbers of `quick_truth`. Write it again after a change that is meant to move them, look at what
moved, and say why in the commit:

    import json
    from pathlib import Path

    from glasshouse import evaluate
    from tests.evaluate.truth.test_gate import METHODS, N, TABLE

    found = evaluate.numbers(evaluate.quick_truth(METHODS, n=N))
    print("\\n".join(evaluate.differences(found, evaluate.read_numbers(TABLE))))
    TABLE.write_text(json.dumps(found, indent=1) + "\\n", encoding="utf-8")
"""

import json
from copy import deepcopy
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
import torch

from glasshouse import attribute, evaluate
from glasshouse.core import BadInput, Score
from glasshouse.evaluate.truth.controls import CONTROLS
from glasshouse.evaluate.truth.judgements import JudgedTwice

TABLE = Path(__file__).with_name("quick.json")
N = 6
METHODS = {
    "input_x_gradient": attribute.input_x_gradient,
    "integrated_gradients": partial(attribute.integrated_gradients, n_steps=8),
    "saliency": attribute.saliency,
}


@pytest.fixture(scope="module")
def quick():
    return evaluate.quick_truth(METHODS, n=N)


# The benchmark that is kept


def test_the_quick_benchmark_has_not_moved(quick):
    assert evaluate.differences(evaluate.numbers(quick), evaluate.read_numbers(TABLE)) == []


def test_the_quick_benchmark_is_of_glass_models_where_the_oracle_is_right(quick):
    assert set(quick) == {"wired_classifier", "null_channels", "metrics"}
    for name in ("wired_classifier", "null_channels"):
        scores = quick[name].scores
        assert set(scores) == {*METHODS, *CONTROLS}
        for track in ("importance", "shapley", "contrast"):
            assert scores["oracle"][track].mean == pytest.approx(1, abs=1e-4)
        assert set(quick[name].checks) == set(scores)
    # both models add up what their regions hold, pixel by pixel: gradients times pixels from black are exact
    assert quick["null_channels"].scores["input_x_gradient"]["shapley"].mean == pytest.approx(1, abs=1e-4)
    assert quick["wired_classifier"].scores["integrated_gradients"]["shapley"].mean > 0.99
    assert quick["metrics"].skipped == {}


def test_the_kept_table_is_well_formed():
    values = evaluate.read_numbers(TABLE)["values"]
    assert len(values) > 100
    for name, entry in values.items():
        assert name.partition("/")[0] in ("wired_classifier", "null_channels", "metrics")
        assert set(entry) == {"mean", "tolerance"}
        assert entry["mean"] == entry["mean"]
        assert entry["tolerance"] >= 0.02


# Differences


def table(**means):
    return {"schema": 1, "values": {name: {"mean": mean, "tolerance": 0.05} for name, mean in means.items()}}


def test_a_table_does_not_differ_from_itself(quick):
    found = evaluate.numbers(quick)
    assert evaluate.differences(found, found) == []
    assert evaluate.differences(json.loads(json.dumps(found)), deepcopy(found)) == []


def test_a_method_that_got_worse_is_found(quick):
    """As if its maps had become noise."""
    wired = quick["wired_classifier"]
    worse = replace(wired, scores=wired.scores | {"integrated_gradients": wired.scores["random"]})
    found = evaluate.differences(evaluate.numbers({**quick, "wired_classifier": worse}), evaluate.numbers(quick))
    moved = {line.partition(":")[0] for line in found}
    assert {f"wired_classifier/integrated_gradients/{track}" for track in ("relevant_mass", "relevant_auc")} <= moved
    assert all("integrated_gradients" in name for name in moved)


def test_what_moved_is_gone_or_new_gets_a_line_each():
    old, new = table(a=0.5, b=0.5, c=0.5, gone=0.1), table(a=0.549, b=0.551, c=0.449, new=0.9)
    assert evaluate.differences(new, old) == [
        "b: was 0.500, is 0.551; 0.050 is allowed",
        "c: was 0.500, is 0.449; 0.050 is allowed",
        "gone: was 0.100, is gone",
        "new: is new, 0.900",
    ]


def test_the_older_tables_tolerance_counts_and_no_number_is_never_within_it():
    old, new = table(a=0.5), table(a=0.6)
    new["values"]["a"]["tolerance"] = 9
    assert len(evaluate.differences(new, old)) == 1
    assert evaluate.differences(old, new) == []
    assert len(evaluate.differences(table(a=float("nan")), old)) == 1


def test_tables_of_another_format_are_not_compared():
    with pytest.raises(BadInput, match="format 2 cannot be compared with one of 1"):
        evaluate.differences(table(a=1), table(a=1) | {"schema": 2})


# Numbers


def score_of(values, direction="up"):
    values = torch.tensor(values)
    reason = tuple("few_parts" if value != value else "" for value in values.tolist())
    return Score("importance", values, torch.zeros(len(values)), None, direction, reason)


def test_a_mean_may_move_by_two_of_its_errors_and_by_a_little_in_any_case():
    nan = float("nan")
    scores = {
        "wide": {"importance": score_of([0.0, 1.0, 0.0, 1.0])},
        "narrow": {"importance": score_of([0.5, 0.5, 0.5])},
        "single": {"importance": score_of([0.25, nan])},
        "none": {"importance": score_of([nan, nan])},
    }
    found = evaluate.numbers({"bench": evaluate.Benchmark(scores, checks=scores)})["values"]
    for kind in ("", "check/"):
        wide = found[f"bench/{kind}wide/importance"]
        error = (1 / 3) ** 0.5 / 4**0.5  # spread of four values over the square root of how many
        assert wide == {"mean": 0.5, "tolerance": pytest.approx(2 * error, abs=1e-4)}
        assert found[f"bench/{kind}narrow/importance"] == {"mean": 0.5, "tolerance": 0.02}
        assert found[f"bench/{kind}single/importance"] == {"mean": 0.25, "tolerance": 0.02}
        assert f"bench/{kind}none/importance" not in found


def test_judgements_and_bias_detection_have_their_auroc_where_there_is_one():
    nan = float("nan")
    judged = evaluate.Judgement({}, {}, {}, {}, {"deletion": 0.75, "odd": nan})
    bias = evaluate.BiasDetection({"saliency": 0.9, "odd": nan}, {"saliency": 0.1, "odd": nan}, {}, {}, {})
    found = evaluate.numbers({"metrics": judged, "bias": bias})["values"]
    assert found == {
        "metrics/deletion/auroc": {"mean": 0.75, "tolerance": 0.02},
        "bias/saliency/auroc": {"mean": 0.9, "tolerance": 0.2},
    }


def test_metrics_judged_twice_and_plain_means_are_held_against_a_table_too():
    first, again = (evaluate.Judgement({}, {}, {}, {}, {"deletion": auroc}) for auroc in (0.75, 0.5))
    means = {"lrp": (0.25, 0.03), "rise": (0.1, float("nan")), "lime": (float("nan"), 0.1)}
    found = evaluate.numbers({"metrics": JudgedTwice(first, again), "students": means})["values"]
    assert found == {
        "metrics/settled/deletion/auroc": {"mean": 0.75, "tolerance": 0.02},
        "metrics/fresh/deletion/auroc": {"mean": 0.5, "tolerance": 0.02},
        "students/lrp": {"mean": 0.25, "tolerance": 0.06},
        "students/rise": {"mean": 0.1, "tolerance": 0.02},
    }


def test_a_table_is_written_and_read_again(quick, tmp_path):
    path, found = tmp_path / "table.json", evaluate.numbers(quick)
    path.write_text(json.dumps(found))
    assert evaluate.read_numbers(path) == evaluate.read_numbers(str(path)) == found


@pytest.mark.parametrize("text", [None, "not json", "[1, 2]", '{"schema": 1}'])
def test_a_file_that_is_no_table_is_refused(tmp_path, text):
    path = tmp_path / "table.json"
    if text is not None:
        path.write_text(text)
    with pytest.raises(BadInput, match=r"table of results"):
        evaluate.read_numbers(path)
