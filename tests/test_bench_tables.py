"""`glasshouse bench truth`: what is asked for is refused early or written whole, each table to a file of its own."""

import json
import re
from importlib import import_module
from pathlib import Path

import pytest
import torch

from glasshouse import evaluate
from glasshouse.cli import main
from glasshouse.cli.benchmark_tables import numbered, tables
from glasshouse.diagnose import Detection
from glasshouse.evaluate import Judgement, Simulatability
from glasshouse.evaluate.truth import judging
from glasshouse.evaluate.truth.judgements import HELD_OUT, JudgedTwice


def pupil(gain: float) -> Simulatability:
    right, ends = torch.ones(4), (gain - 0.1, gain + 0.2)
    settings = {"seed": 5}
    return Simulatability("knn", gain, ends, gain, ends, 0.0, (0.0, 0.0), 0.2, 32, right, right / 2, right, settings)


def caught(accuracy: float) -> Detection:
    return Detection("saliency", accuracy, 0.05, 0.5, 0.02, torch.zeros(9, 2), torch.arange(9), {"seed": 5})


def judged(seed: int) -> Judgement:
    means = {"oracle": 1.0, "centre": 0.5, "random": 0.0}
    behind = {"oracle": 0.0, "centre": 9.0, "random": 9.0}
    above = {"oracle": 9.0, "centre": 9.0}
    return Judgement({"srg": means}, {"srg": behind}, {"srg": above}, {"srg": "up"}, {"srg": 0.9}, {}, {"seed": seed})


benchmarks = import_module("glasshouse.cli.benchmarks")  # the name stands for its commands in the folder
STUDENTS = {"constant": pupil(0.0), "lrp": pupil(0.25), "rise": pupil(-0.1)}


@pytest.fixture
def asked(monkeypatch, tmp_path):
    """Every subject answers at once; returns what was asked, with which seed."""
    seen = list[tuple[str, int]]()

    def answering(subject, result):
        def ask(model, methods, n, games, seed):
            seen.append((subject, seed))
            return {subject: result}

        return ask

    answers = {
        "metrics": judged(1000),
        "students": STUDENTS,
        "attacks": {"saliency": caught(0.9), "random": caught(0.5)},
    }
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(benchmarks, "ASK", {name: answering(name, one) for name, one in answers.items()})
    return seen


def about(*subjects: str) -> list[str]:
    return ["--quiet", "bench", "truth", *(word for name in subjects for word in ("--about", name))]


@pytest.mark.parametrize(
    "words",
    [
        [*about("students"), "--out", "table.txt"],
        [*about("students"), "--out", "not/there.md"],
        [*about("students"), "--held-out"],
        ["bench", "truth", "--quick", "--held-out"],
        about("nothing"),
    ],
)
def test_what_cannot_be_done_is_refused_before_anything_is_asked(asked, words):
    assert main(words) != 0
    assert asked == []


def test_a_folder_gets_a_file_for_each_table_with_how_it_was_made_on_top(asked, tmp_path, capsys):
    assert main([*about("metrics", "students", "attacks"), "--out", str(tmp_path)]) == 0
    assert {path.name for path in tmp_path.iterdir()} == {"judged.md", "students.md", "attacks.md"}
    students = (tmp_path / "students.md").read_text().splitlines()
    assert students[0].startswith("Student: knn, 32 lessons, 4 tests; without maps it is right in 0.50")
    assert [line.split("|")[1].strip() for line in students[4:]] == ["`lrp`", "constant", "`rise`"]
    assert students[4] == "| `lrp` | 1.00 | +0.250 [+0.150, +0.450] | +0.250 [+0.150, +0.450] |"
    assert "| `saliency` | 0.90 ± 0.05 | 0.50 ± 0.02 | 9 |" in (tmp_path / "attacks.md").read_text()
    assert (tmp_path / "judged.md").read_text().startswith("Settings: seed 1000.\n\n| metric | oracle |")
    assert "## students" in capsys.readouterr().out


def test_lessons_and_attacks_have_a_page_and_numbers_of_their_own(asked, capsys):
    assert main([*about("students", "attacks"), "--out", "page.html"]) == 0
    assert ">Simulated students</h2>" in Path("page.html").read_text()
    assert main([*about("students", "attacks"), "--out", "now.json"]) == 0
    now = json.loads(Path("now.json").read_text())
    assert now["values"]["students/lrp"] == {"mean": 0.25, "tolerance": pytest.approx(0.3 / 1.96, abs=1e-4)}
    assert now["values"]["attacks/saliency"] == {"mean": 0.9, "tolerance": 0.1}
    now["values"]["attacks/saliency"]["mean"] = 0.5
    Path("then.json").write_text(json.dumps(now))
    assert main([*about("students", "attacks"), "--compare", "then.json"]) == 1
    assert "moved: attacks/saliency: was 0.500, is 0.900" in capsys.readouterr().out


def test_planted_units_are_numbers_too():
    units = evaluate.planted_units([(0, "red")], [(0, "red"), (1, "blue")], n_units=4, n_concepts=2)
    found = numbered({"units": units})["values"]
    assert {name: entry["mean"] for name, entry in found.items()} == {
        "units/precision": 1.0,
        "units/recall": 0.5,
        "units/F1": pytest.approx(2 / 3, abs=1e-4),
    }


def test_dissection_and_concept_vectors_are_held_against_what_was_planted(capsys):
    assert main([*about("units", "concepts"), "--n", "60"]) == 0
    out = capsys.readouterr().out
    assert "| precision | 1.00" in out
    assert float(re.search(r"\| cosine \| ([-.\d]+)", out)[1]) > 0.9


def test_metrics_judged_twice_are_three_tables():
    shown = tables({"metrics": JudgedTwice(judged(1000), judged(HELD_OUT))})
    assert [each.file for each in shown] == ["judged", "judged_settled", "judged_held_out"]
    assert shown[0].made == f"Settings: seed {HELD_OUT}, seed of the first 1000."
    assert shown[2].made == f"Settings: seed {HELD_OUT}."
    assert "settled on (seed 1000)" in shown[0].text


def test_held_out_scenes_are_drawn_from_their_seed_for_both_models(asked, monkeypatch, tmp_path):
    drawn = []

    def judge(model, game, metrics, *, baseline, seed):
        drawn.append((model.name, len(game), baseline, seed))
        return judged(seed)

    monkeypatch.setattr(judging, "judge", judge)
    monkeypatch.setattr(benchmarks, "GAME", ("head",))
    words = [*about("metrics"), "--held-out", "--n", "3", "--games", "2", "--out", str(tmp_path)]
    assert main(words) == 0
    assert [(name, n, seed) for name, n, _, seed in drawn] == [
        *(("wired_classifier", 3, seed) for seed in (1000, HELD_OUT)),
        *(("creatures_cnn", 2, seed) for seed in (1000, HELD_OUT)),
    ]
    assert [baseline for _, _, baseline, _ in drawn] == [0.0, 0.0, "blur", "blur"]
    assert {path.name for path in tmp_path.iterdir()} == {
        *("judged.md", "judged_settled.md", "judged_held_out.md"),
        *("judged_trained.md", "judged_trained_settled.md", "judged_trained_held_out.md"),
    }
