"""`glasshouse study`, `report`, `check` and `export`."""

import json
import shutil
from pathlib import Path

import pytest

from glasshouse.cli import DONE, FAILED, USAGE, main

STUDY = ["study", "houses", "--model", "houses_cnn", "--data", "scenes:houses:24", "--layers", "stages.2"]
QUICK = ["--min-images", "2", "--k", "2", "--no-ablate"]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a study in it."""
    folder = tmp_path_factory.mktemp("place")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        assert main([*STUDY, *QUICK]) == DONE
    return folder


@pytest.fixture(autouse=True)
def here(place: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(place)
    return place


def test_the_same_command_finds_that_all_is_done(capsys):
    assert main(["--json", *STUDY, *QUICK]) == DONE
    document = json.loads(capsys.readouterr().out)
    assert (document["command"], document["path"], document["layers"]) == ("study", "houses", ["stages.2"])


def test_the_answer_says_what_was_found_and_the_rest_what_was_taken(capsys):
    assert main([*STUDY, *QUICK]) == DONE
    out, err = capsys.readouterr()
    assert "Exemplars(stages.2, 128 units, 2 of 24 images" in out
    assert "detectors" in out
    assert "images: rendered, houses:24." in err


def test_pages_are_written_as_one_file_or_a_folder(capsys):
    assert main(["report", "houses", "--out", "houses.html", "--max-units", "3"]) == DONE
    assert Path("houses.html").read_text("utf-8").startswith("<!doctype html>")
    assert main(["report", "houses", "--out", "pages"]) == DONE
    assert Path("pages/index.html").exists()


def test_a_whole_study_passes_the_check_and_a_cut_one_fails_it(capsys, tmp_path: Path):
    assert main(["check", "houses"]) == DONE
    shutil.copytree("houses", tmp_path / "cut")
    largest = max((tmp_path / "cut").rglob("*.safetensors"), key=lambda file: file.stat().st_size)
    largest.write_bytes(largest.read_bytes()[:-9])
    capsys.readouterr()
    assert main(["--json", "check", str(tmp_path / "cut")]) == FAILED
    document = json.loads(capsys.readouterr().out)
    assert not document["whole"]
    assert any(largest.name in finding["where"] for finding in document["findings"])


def test_tables_are_exported(capsys):
    assert main(["export", "houses", "--out", "tables", "--format", "csv"]) == DONE
    assert Path("tables/units.csv").read_text("utf-8").count("\n") == 129
    assert main(["export", "houses", "--out", "tables", "--format", "xml"]) == USAGE


def test_what_is_no_study_is_said_so(capsys, tmp_path: Path):
    assert main(["report", str(tmp_path)]) == FAILED
    assert "is no study" in capsys.readouterr().err
    assert main(["check", str(tmp_path / "none")]) == FAILED


def test_wrong_engines_and_images_without_labels_are_refused(capsys, tmp_path: Path):
    assert main([*STUDY, "--engine", "spark"]) == USAGE
    assert main([*STUDY[:-2], "--concepts", str(tmp_path)]) == FAILED
