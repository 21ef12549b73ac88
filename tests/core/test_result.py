"""Nouns come back from their files as they were; other files are refused."""

import json
import math
import pickle
from dataclasses import dataclass, field, fields
from importlib import import_module
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from glasshouse.core import BadInput, Card, Explanation, Noun, Score, draw
from glasshouse.core import result as result_module
from glasshouse.core.result import kinds


@dataclass(frozen=True, repr=False)
class Everything(Noun):
    """One field of each kind that can be saved."""

    content: Any
    more: dict[str, Any] = field(default_factory=dict)

    def __repr__(self) -> str:
        return "Everything"


def score() -> Score:
    return Score(
        "deletion",
        torch.tensor([0.2, math.nan, 0.4]),
        torch.tensor([0.01, 0.0, 0.02]),
        None,
        "down",
        ("", "constant", ""),
        n_forward=30,
        settings={"steps": 7, "edge": "shift", "size": (3, 4), "none": None, "weights": torch.arange(3)},
        extras={"curve": torch.randn(3, 5)},
    )


def explanation() -> Explanation:
    return Explanation(
        heatmap=torch.randn(3, 6, 7),
        native=torch.randn(3, 2, 3, dtype=torch.float64),
        method="grad_cam",
        target=(1, 0, 3),
        score=torch.randn(3),
        settings={"layer": "4", "chunk": 16},
        layer="4",
        extras={"gap": torch.rand(3), "grid": torch.rand(2, 2)},
        attached=Card("lite", {"deletion": score(), "insertion": score()}, ("a", "b", "c")),
        provenance={"seconds": 0.25},
    )


def same(a: Any, b: Any) -> bool:
    if isinstance(a, Tensor):
        return (
            isinstance(b, Tensor)
            and a.dtype == b.dtype
            and a.shape == b.shape
            and torch.equal(
                a.nan_to_num(-7.25) if a.is_floating_point() else a, b.nan_to_num(-7.25) if b.is_floating_point() else b
            )
        )
    if isinstance(a, Noun):
        return type(a) is type(b) and all(same(getattr(a, f.name), getattr(b, f.name)) for f in fields(a))
    if isinstance(a, dict):
        return type(b) is dict and list(a) == list(b) and all(same(a[key], b[key]) for key in a)
    if isinstance(a, tuple | list):
        return type(a) is type(b) and len(a) == len(b) and all(map(same, a, b))
    if isinstance(a, float) and math.isnan(a):
        return isinstance(b, float) and math.isnan(b)
    return type(a) is type(b) and a == b


CONTENTS = {
    "numbers": [1, -2, 0.1, 1e300, True, False, None, math.inf, -math.inf, math.nan],
    "text": ["", "größe", "a\nb", "$tensor", {"$noun": "Score"}, {"$tuple": [1]}],
    "nested": {"a": [1, (2, [3, {"b": (4,)}])], "c": ()},
    "keys": {1: "one", "1": "text", "a.b": torch.zeros(2), "a": {"b": torch.ones(3)}, "a.b'": torch.ones(1)},
    "tensors": [
        torch.randn(2, 3).to(kind)
        for kind in (torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.int64, torch.uint8, torch.bool)
    ],
    "shapes": [torch.tensor(3.5), torch.zeros(0, 4), torch.arange(12).view(3, 4).T, torch.ones(1).expand(5)],
    "values": torch.tensor([math.nan, math.inf, -0.0]),
    "nouns": (score(), [explanation()], {"card": Card("full", {}, ())}),
}


@pytest.mark.parametrize("name", CONTENTS)
def test_what_is_saved_is_loaded(tmp_path, name):
    noun = Everything(CONTENTS[name], {"again": CONTENTS[name]})
    path = noun.save(tmp_path / "folder" / "a.safetensors")
    assert same(Everything.load(path), noun)
    assert same(Noun.load(str(path)), noun)


@pytest.mark.parametrize("make", [score, explanation, lambda: explanation().card, lambda: explanation()[1]])
def test_every_noun_of_core_is_loaded_as_it_was(tmp_path, make):
    noun = make()
    assert same(type(noun).load(noun.save(tmp_path / "a")), noun)


def test_graphs_and_later_changes_are_not_saved(tmp_path):
    values = torch.ones(2, requires_grad=True)
    path = Everything(values * 2).save(tmp_path / "a")
    assert not Everything.load(path).content.requires_grad


def test_files_that_are_no_results_are_refused(tmp_path):
    path = tmp_path / "a"
    with pytest.raises(BadInput, match="cannot read"):
        Noun.load(path)
    path.write_bytes(pickle.dumps({"a": 1}))
    with pytest.raises(BadInput, match="cannot read"):
        Noun.load(path)
    path.write_bytes(b"")
    with pytest.raises(BadInput, match="cannot read"):
        Noun.load(path)
    torch.save({"a": torch.zeros(1)}, path)
    with pytest.raises(BadInput, match="cannot read"):
        Noun.load(path)
    save_file({"a": torch.zeros(1)}, path)
    with pytest.raises(BadInput, match="has result format none"):
        Noun.load(path)


@pytest.mark.parametrize(
    "header",
    [
        "{not json",
        "[]",
        json.dumps({"schema": 1}),
        json.dumps({"schema": 1, "noun": {"$noun": "Everything", "fields": {"content": {"$tensor": "gone"}}}}),
        json.dumps({"schema": 1, "noun": {"$noun": "Everything", "fields": {}}}),
        json.dumps({"schema": 1, "noun": {"$what": 3}}),
        json.dumps({"schema": 1, "noun": {"$noun": "Everything", "fields": {"content": {"$float": "cat"}}}}),
    ],
)
def test_a_damaged_header_is_an_error_that_names_the_file(tmp_path, header):
    save_file({"a": torch.zeros(1)}, tmp_path / "broken", metadata={"glasshouse": header})
    with pytest.raises(BadInput, match="broken"):
        Noun.load(tmp_path / "broken")


def test_another_format_kind_or_unknown_noun_is_refused(tmp_path, monkeypatch):
    path = score().save(tmp_path / "a")
    with pytest.raises(BadInput, match="holds a Score, not a Explanation"):
        Explanation.load(path)
    save_file({}, path, metadata={"glasshouse": json.dumps({"schema": 1, "noun": {"$noun": "Gone", "fields": {}}})})
    with pytest.raises(BadInput, match="unknown result 'Gone'"):
        Noun.load(path)
    monkeypatch.setattr(result_module, "SCHEMA", 2)
    score().save(path)
    monkeypatch.undo()
    with pytest.raises(BadInput, match="has result format 2; this version reads format 1"):
        Score.load(path)


def test_fields_that_this_version_does_not_know_are_left_out(tmp_path):
    tensors = {"content": torch.ones(1)}
    noun = {"$noun": "Everything", "fields": {"content": {"$tensor": "content"}, "later": 1}}
    save_file(tensors, tmp_path / "a", metadata={"glasshouse": json.dumps({"schema": 1, "noun": noun})})
    assert Everything.load(tmp_path / "a").content.tolist() == [1]


def test_a_failed_save_leaves_the_old_file_and_nothing_else(tmp_path, monkeypatch):
    path = Everything(1).save(tmp_path / "a")
    for bad in (object(), {"deep": [lambda: 1]}, {(1, 2): "a tuple for a key"}):
        with pytest.raises(BadInput, match="cannot save"):
            Everything(bad).save(path)

    def full(tensors, file, metadata):
        file.write_bytes(b"half")
        raise OSError("no space left on device")

    monkeypatch.setattr(result_module, "save_file", full)
    with pytest.raises(OSError, match="no space"):
        Everything(2).save(path)
    assert [p.name for p in tmp_path.iterdir()] == ["a"]
    assert Everything.load(path).content == 1


def test_a_dictionary_of_a_noun_is_json(tmp_path):
    data = json.loads(json.dumps(explanation().to_dict(), allow_nan=False))
    assert data["target"] == [1, 0, 3]
    assert data["card"]["scores"]["deletion"]["value"][1] is None
    assert torch.tensor(data["heatmap"]).shape == (3, 6, 7)


def test_nouns_of_plug_ins_are_known_by_name():
    assert kinds()["Everything"] is Everything


def test_every_noun_shows_itself_in_one_line():
    for noun in (score(), explanation(), explanation().card):
        assert "\n" not in repr(noun)
        assert type(noun).__name__ in repr(noun)
        assert noun._repr_html_() == draw(noun)
    assert repr(explanation()) == "Explanation(grad_cam at 4, 3 × 6×7, target 1, 0, 3)"
    assert "deletion 0.300 ± 0.100, n=3, lower is better" in repr(score())


def test_a_score_averages_what_is_defined():
    s = score()
    assert s.valid.tolist() == [True, False, True]
    assert s.mean == pytest.approx(0.3)
    assert s.error == pytest.approx(math.sqrt(0.02 / 1) / math.sqrt(2))  # values 0.2 and 0.4: variance 0.02
    one = Score("m", torch.tensor([0.5]), torch.tensor([0.07]), 0.1, "up", ("",))
    assert one.error == pytest.approx(0.07)
    none = Score("m", torch.tensor([math.nan]), torch.zeros(1), 0.1, "up", ("zero",))
    assert math.isnan(none.mean)
    assert math.isnan(none.error)


def test_one_image_of_an_explanation_keeps_its_batch_axis():
    e = explanation()
    for index in (1, -2):
        one = e[index]
        assert torch.equal(one.heatmap, e.heatmap[1:2])
        assert torch.equal(one.native, e.native[1:2])
        assert one.target == (0,)
        assert torch.equal(one.score, e.score[1:2])
        assert torch.equal(one.extras["gap"], e.extras["gap"][1:2])
        assert torch.equal(one.extras["grid"], e.extras["grid"])
        assert len(one) == 1
    assert [part.target for part in e] == [(1,), (0,), (3,)]
    with pytest.raises(IndexError):
        e[3]


def test_display_values_lie_between_minus_one_and_one_and_keep_their_sign():
    e = explanation()
    shown = e.normalised(50.0)
    assert shown.abs().max() == 1
    assert torch.equal(shown.sign(), e.heatmap.sign())
    per_image = e.heatmap.abs().flatten(1).sort(1).values[:, 20]  # 50 % of 42 values, rounded up: the 21st
    torch.testing.assert_close(shown, (e.heatmap / per_image.view(-1, 1, 1)).clamp(-1, 1))
    empty = Explanation(torch.zeros(1, 2, 2), torch.zeros(1, 2, 2), "m", (), torch.zeros(1), {})
    assert not empty.normalised().any()
    assert torch.equal(e.positive(), e.heatmap.clamp(min=0))


def test_no_two_results_of_the_package_share_a_name():
    """Files say by name what they hold."""
    for folder in ("report", "study"):
        import_module(f"glasshouse.{folder}")
    found: list[type[Noun]] = []
    todo = [Noun]
    while todo:
        todo += (below := todo.pop().__subclasses__())
        found += [kind for kind in below if kind.__module__.startswith("glasshouse")]
    names = [kind.__name__ for kind in found]
    assert sorted(names) == sorted(set(names))
