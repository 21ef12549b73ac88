"""The command line: results on stdout, the rest on stderr, the right exit code, nothing half-written."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from PIL import Image
from torch import nn

import glasshouse
from glasshouse import zoo
from glasshouse._version import __version__
from glasshouse.cli import DONE, FAILED, INTERRUPTED, PARTIAL, USAGE, main, reports
from glasshouse.cli.console import Console, columns, new_file
from glasshouse.core import BadInput, Explanation, Interrupted, Model, Preprocess, method, registered, select
from glasshouse.zoo import registry


@pytest.fixture
def tiny(cnn: nn.Module, monkeypatch: pytest.MonkeyPatch) -> str:
    """The name of a registered model with three named classes."""
    preprocess = Preprocess(size=(24, 24), mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5))
    made = Model(cnn, preprocess, ("cat", "dog", "bird", "fish"), "tiny", {"weights": "own"}, ("all: made up.",))
    monkeypatch.setattr(registry, "_ENTRIES", dict(registry._ENTRIES))
    zoo.register("tiny")(lambda: made)
    return "tiny"


@pytest.fixture
def photo(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.chdir(tmp_path)
    values = torch.randint(0, 256, (30, 40, 3), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    Image.fromarray(values.numpy()).save("cat.png")
    return "cat.png"


def test_help_is_quick_and_does_not_import_torch():
    code = "import sys; from glasshouse.cli import main; main(['--help']); sys.exit('torch' in sys.modules)"
    best = 9.0
    for _ in range(3):
        start = time.perf_counter()
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
        best = min(best, time.perf_counter() - start)
        assert done.returncode == 0, "torch was imported"
        assert "explain" in done.stdout
    assert best < 0.8


def test_version_alone(capsys):
    assert main(["--version"]) == DONE
    assert capsys.readouterr().out == f"glasshouse {__version__}\n"


def test_explain_writes_one_page_and_says_what_it_found(tiny, photo, capsys):
    assert main(["explain", tiny, photo, "--method", "saliency", "--method", "cam", "--out", "page.html"]) == DONE
    out, err = capsys.readouterr()
    assert "Saliency" in out
    assert "The page: page.html" in out
    assert "all: made up." in err, "what was chosen is told, apart from the results"
    page = Path("page.html").read_text()
    assert page.startswith("<!doctype html>")
    assert "glasshouse explain tiny cat.png --method saliency" in page
    assert sorted(p.name for p in Path().iterdir()) == ["cat.png", "page.html"]


def test_json_is_one_document_and_quiet_is_quiet(tiny, photo, capsys):
    assert main(["explain", tiny, photo, "--method", "saliency", "--json", "--quiet", "--target", "dog"]) == DONE
    out, err = capsys.readouterr()
    document = json.loads(out)
    assert (document["schema"], document["command"], document["report"]) == (1, "explain", "report.html")
    (view,) = document["views"]
    assert view["explanations"][0]["target"] == [1]
    assert sum(item["probability"] for item in view["top"]) == pytest.approx(1, abs=1e-5)
    assert err == ""


def test_an_error_is_a_json_document_too(tiny, photo, capsys):
    assert main(["--json", "explain", tiny, photo, "--target", "cart"]) == FAILED
    out, err = capsys.readouterr()
    assert "cat" in json.loads(out)["hint"]
    assert "no class 'cart'" in err


@pytest.mark.parametrize("words", [["explain"], ["explian"], ["explain", "m", "p", "--seed", "x"], ["list", "nothing"]])
def test_wrong_usage_points_to_help(words, capsys):
    assert main(words) == USAGE
    assert "--help" in capsys.readouterr().err


def test_settings_reach_the_method(tiny, photo, capsys):
    words = [
        "attribute",
        "occlusion",
        tiny,
        photo,
        "--sliding-window-shapes",
        "8,6",
        "--strides",
        "4",
        "--edge",
        "shift",
    ]
    assert main([*words, "--score", "logit", "--target", "2", "--out", "o.safetensors"]) == DONE
    explanation = Explanation.load("o.safetensors")
    assert explanation.settings["sliding_window_shapes"] == (8, 6)
    assert (explanation.settings["strides"], explanation.settings["edge"]) == (4, "shift")
    assert (explanation.method, explanation.target) == ("occlusion", (2,))
    assert main(["attribute", "saliency", tiny, photo, "--out", "s.png"]) == DONE
    with Image.open("s.png") as picture:
        assert picture.size == (24, 24)


def test_a_method_of_a_plug_in_has_a_command_at_once(tiny, photo, monkeypatch, capsys):
    methods = sys.modules["glasshouse.core.registry"]
    monkeypatch.setattr(methods, "_registry", dict(methods._registry))

    @method
    def brightness(model, inputs, target=None, *, gain: float = 1.0):
        """How bright each pixel is."""
        select(model(inputs), target)
        return gain * inputs

    assert main(["attribute", "brightness", "--help"]) == DONE
    assert "--gain" in capsys.readouterr().out
    assert main(["attribute", "brightness", tiny, photo, "--gain", "3"]) == DONE
    assert Explanation.load("brightness.safetensors").settings == {"gain": 3.0}


def test_lists(tiny, capsys):
    assert main(["list", "models"]) == DONE
    assert "tiny" in capsys.readouterr().out.split()
    assert main(["list", "methods", "*cam*", "--json"]) == DONE
    assert {"attribute.cam", "attribute.grad_cam"} <= {i["name"] for i in json.loads(capsys.readouterr().out)["found"]}
    assert main(["list", "metrics"]) == DONE
    assert "evaluate.srg" in capsys.readouterr().out
    assert main(["list", "layers", tiny, "--json"]) == DONE
    layers = {entry["name"]: entry for entry in json.loads(capsys.readouterr().out)["found"]}
    assert layers["3"]["units"] == 8
    assert layers["3"]["grid"] == [12, 12]
    assert layers["3"]["receptive_field"] == [8, 8]


def test_the_list_of_methods_shows_what_they_explain_and_what_it_costs(capsys):
    assert main(["list", "methods"]) == DONE
    lines = capsys.readouterr().out.splitlines()
    assert max(map(len, lines)) <= 120
    assert "processing.salience: what in this input led to this answer" in lines
    assert any(line.split() == ["attribute.grad_cam", "heatmap", "1", "F", "+", "1", "B"] for line in lines)
    assert any("Promises: complete, dummy, equivariant" in line for line in lines)
    assert main(["list", "methods", "--family", "processing.*", "--form", "mask", "--json"]) == DONE
    found = json.loads(capsys.readouterr().out)["found"]
    assert {"attribute.extremal_perturbation", "attribute.meaningful_perturbation"} <= {
        entry["name"] for entry in found
    }
    assert {entry["form"] for entry in found} == {"mask"}
    assert found[0]["cost"]["forward"] > 1
    assert "srg" in found[0]["evaluations"]


def test_the_list_of_metrics_shows_which_way_is_better_and_what_chance_scores(capsys):
    assert main(["list", "metrics"]) == DONE
    lines = capsys.readouterr().out.splitlines()
    assert max(map(len, lines)) <= 120
    assert lines[0] == "E1: is it true of the model?"
    assert any(line.split() == ["evaluate.srg", "higher", "is", "better", "chance:", "0"] for line in lines)


def test_a_plug_in_that_does_not_say_where_it_stands_is_listed_too(monkeypatch, capsys):
    glasshouse.list_methods()  # fills the registry
    methods = sys.modules["glasshouse.core.registry"]
    monkeypatch.setattr(methods, "_registry", dict(methods._registry))

    @registered("dissect")
    def weigh(model):
        """How heavy a network is."""

    @registered("evaluate")
    def charm(model, inputs, explanation):
        """How charming a map is."""

    for kind, name in (("methods", "dissect.weigh"), ("metrics", "evaluate.charm")):
        assert main(["list", kind, name]) == DONE
        heading, line = capsys.readouterr().out.splitlines()[:2]
        assert heading.startswith("not said")
        assert line.split()[0] == name


def test_the_doctor_names_what_is_missing_and_the_cure(monkeypatch, capsys):
    from glasshouse.cli import checkup

    monkeypatch.setattr(checkup, "OPTIONAL", {"no-such-package": "imagenet"})
    assert main(["doctor", "--json"]) == DONE
    found = json.loads(capsys.readouterr().out)
    assert found["optional"]["no-such-package"]["cure"] == 'type: pip install "glasshouse[imagenet]"'
    assert found["required"]["torch"].startswith(torch.__version__.split("+")[0])
    assert main(["doctor", "--strict"]) == FAILED


def test_an_interrupted_run_leaves_nothing(tiny, photo, monkeypatch, capsys):
    from glasshouse import report

    def stopped(*args, **settings):
        assert list(Path().glob(".report.tmp-*")), "the file is made before the work"
        raise KeyboardInterrupt

    monkeypatch.setattr(report, "explain", stopped)
    assert main(["explain", tiny, photo]) == INTERRUPTED
    assert [p.name for p in Path().iterdir()] == ["cat.png"]
    assert "interrupted" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("error", "code", "words"),
    [
        (Interrupted("half done.", "Run it again."), PARTIAL, "hint: Run it again."),
        (ZeroDivisionError("oops"), FAILED, "internal error: ZeroDivisionError"),
        (RuntimeError("CUDA out of memory. Tried"), FAILED, "--batch-size"),
        (PermissionError(13, "Permission denied", "x.txt"), FAILED, "Permission denied: 'x.txt'"),
    ],
)
def test_every_failure_is_a_sentence(error, code, words, tiny, photo, monkeypatch, capsys):
    from glasshouse import report

    def fail(*args, **settings):
        raise error

    monkeypatch.setattr(report, "explain", fail)
    assert main(["explain", tiny, photo]) == code
    err = capsys.readouterr().err
    assert words in err
    assert "Traceback" not in err
    assert main(["explain", tiny, photo, "--debug"]) == code
    assert "Traceback" in capsys.readouterr().err


def fill(path: Path, text: str, error: type[Exception] | None = None) -> None:
    with new_file(path) as part:
        part.write_text(text)
        if error:
            raise error


def test_a_new_file_takes_its_name_only_when_it_is_complete(tmp_path):
    path = tmp_path / "a.txt"
    path.write_text("old")
    with pytest.raises(ZeroDivisionError):
        fill(path, "half", ZeroDivisionError)
    assert path.read_text() == "old"
    fill(path, "new")
    assert path.read_text() == "new"
    assert os.listdir(tmp_path) == ["a.txt"]
    with pytest.raises(BadInput, match="is a folder"):
        fill(tmp_path, "")


def test_progress_off_a_terminal_is_a_line_every_ten_seconds(monkeypatch, capsys):
    clock = iter([0.0, 1.0, 11.0, 12.0, 22.0])
    monkeypatch.setattr(time, "monotonic", lambda: next(clock))
    with Console().progress("work") as progress:
        for done in (1, 2, 3, 4):
            progress(done, 8)
    lines = capsys.readouterr().err.splitlines()
    assert lines == ["work: 2 of 8, 11 s, about 33 s left", "work: 4 of 8, 22 s, about 22 s left"]
    with Console(quiet=True).progress("work") as progress:
        progress(1, 8)
    assert capsys.readouterr().err == ""


def test_columns_line_up():
    assert columns([("a", "bb"), ("ccc", "d")]) == ["a    bb", "ccc  d"]


@pytest.mark.slow
@pytest.mark.real
def test_the_demo_explains_real_photographs(tmp_path, lite0, monkeypatch, capsys):
    pytest.importorskip("skimage")
    monkeypatch.setattr(reports, "PHOTOS", reports.PHOTOS[:2])  # `make demo` shows them all
    assert main(["demo", "--out", str(tmp_path / "demo"), "--json"]) == DONE
    document = json.loads(capsys.readouterr().out)
    tops = {Path(view["photo"]).name: view["top"][0]["name"] for view in document["views"]}
    assert "cat" in tops["chelsea.png"]
    assert tops["coffee.png"] == "espresso"
    page = Path(document["report"]).read_text()
    assert "What units of" in page
    assert len(page) < 6e6


def test_bench_truth_shows_and_writes_the_table(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    words = ["bench", "truth", "creatures_cnn", "--about", "methods", "--games", "0", "--n", "3"]
    words += ["--method", "saliency", "--method", "attention_rollout"]
    assert main([*words, "--out", "table.md"]) == DONE
    out, err = capsys.readouterr()
    assert Path("table.md").read_text() == out.rstrip("\n") + "\n"
    assert out.startswith("| method | importance |")
    assert "| `saliency` |" in out
    assert "attention_rollout does not suit creatures_cnn" in err
    assert main(["--json", *words]) == DONE
    document = json.loads(capsys.readouterr().out)
    assert document["scores"]["oracle"]["importance"]["mean"] == pytest.approx(1, abs=1e-5)
    assert document["settings"]["n"] == 3
