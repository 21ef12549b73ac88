"""`glasshouse data`: sets of scenes from the command line, and what is in a folder."""

import json
from pathlib import Path

import pytest
import torch

from glasshouse.cli import DONE, FAILED, INTERRUPTED, USAGE, main
from glasshouse.data import scene_files, scenes
from glasshouse.data.scene_files import about_set, read_set


@pytest.fixture(autouse=True)
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def made(*words: str) -> list[str]:
    return ["data", "scenes", "--n", "4", "--size", "16", "--out", "set", *words]


@pytest.mark.parametrize("form", ["folder", "broden"])
def test_the_set_on_disk_holds_the_scenes_that_python_gives(form, capsys):
    words = ["--preset", "shapes", "--seed", "3", "--start", "2", "--n-objects", "2", "--fixed", "texture=rings"]
    assert main(made(*words, "--fixed", "angle=-5.5", "--format", form)) == DONE
    assert "The set: set" in capsys.readouterr().out
    same = scenes("shapes", 4, size=16, seed=3, start=2, n_objects=2, fixed={"texture": "rings", "angle": -5.5})
    read = read_set("set")
    found = {name.removesuffix(".png"): item["image"] for name, item in zip(read.ids, read, strict=True)}
    for name, image in zip(same.ids, same.images, strict=True):
        torch.testing.assert_close(found[name], (image * 255).round() / 255)
    assert about_set("set")["settings"]["fixed"] == {"texture": "rings", "angle": -5.5}


def test_a_shortcut_and_its_split_reach_the_scenes():
    assert main(made("--preset", "creatures", "--shortcut", "watermark", "--split", "conflicting")) == DONE
    rows = [json.loads(line) for line in Path("set/manifest.jsonl").read_text().splitlines()]
    assert all(row["signal"] not in (None, row["label"]) for row in rows)
    assert main(made("--shortcut", "hue", "--strength", "0.25", "--force")) == DONE
    assert about_set("set")["shortcut"] == {"kind": "hue", "strength": 0.25}


def test_a_grid_is_written_whole():
    grid = ["--preset", "shapes", "--grid", "kind", "--grid", "angle=2", "--size", "16", "--out", "grid"]
    assert main(["data", "scenes", *grid]) == DONE
    rows = [json.loads(line)["factors"] for line in Path("grid/manifest.jsonl").read_text().splitlines()]
    assert len({(row["kind"], row["angle"]) for row in rows}) == len(rows) == 6 * 2
    assert main(["data", "scenes", *grid, "--start", "10", "--force"]) == DONE
    later = [json.loads(line)["factors"] for line in Path("grid/manifest.jsonl").read_text().splitlines()]
    assert later == rows[10:]


def test_json_is_one_document(capsys):
    assert main(made("--json", "--quiet", "--preset", "creatures")) == DONE
    out, err = capsys.readouterr()
    document = json.loads(out)
    assert (document["command"], document["format"], document["n_images"]) == ("data scenes", "folder", 4)
    assert sum(document["splits"].values()) == 4
    assert err == ""
    assert main(["data", "info", "set", "--json"]) == DONE
    told = json.loads(capsys.readouterr().out)
    assert told["made"]["preset"] == "creatures"
    assert told["counts"] == document["counts"]


@pytest.mark.parametrize("form", ["folder", "broden"])
def test_info_says_what_is_in_it(form, capsys):
    main(made("--format", form))
    capsys.readouterr()
    assert main(["data", "info", "set"]) == DONE
    out = capsys.readouterr().out
    assert "made    scenes of 'houses', size 16, seed 0" in out
    assert "splits  " in out
    assert ("images per class" if form == "folder" else "frequency of labels: material") in out


@pytest.mark.parametrize("form", ["folder", "broden"])
def test_check_lists_what_is_broken_and_fails(form, capsys):
    main(made("--format", form))
    assert main(["data", "check", "set"]) == DONE
    assert "no problem" in capsys.readouterr().out
    broken = sorted(Path("set/images").rglob("0*0.png"))[0]
    broken.write_bytes(broken.read_bytes()[:50])
    assert main(["data", "check", "set", "--json"]) == FAILED
    document = json.loads(capsys.readouterr().out)
    assert document["ok"] is False
    assert len(document["problems"]) == 1
    assert broken.name in document["problems"][0]["message"]
    assert main(["data", "check", "set"]) == FAILED
    assert "1 problem." in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "seen"),
    [
        (["--preset", "house"], "no preset 'house'"),
        (["--preset", "shapes", "--grid", "hue"], "no factor 'hue'"),
        (["--format", "voc"], "no format 'voc'"),
        (["--shortcut", "watermarks"], "no shortcut 'watermarks'"),
        (["--shortcut", "hue", "--split", "test"], "no split 'test'"),
        (["--shortcut", "hue", "--strength", "1.5"], "1.5 is not in 0…1"),
        (["--size", "8"], "16…1024"),
        (["--fixed", "mains=car"], "no factor 'mains'"),
        (["--fixed", "main=boat"], "no value of 'main' 'boat'"),
        (["--train-share", "2"], "train=2"),
        (["--grid", "main", "--n", "9"], "0…3, and 9 from 0 on"),
        (["--grid", "main", "--start", "9"], "from 9 on"),
        (["--out", "no/set"], "there is no folder"),
        (["--out", "full"], "already there"),
        (["--out", "full", "--force"], "no set of scenes"),
    ],
)
def test_a_wrong_setting_is_one_message_with_a_hint_and_leaves_nothing(words, seen, capsys):
    Path("full").mkdir()
    Path("full/mine.txt").write_text("precious")
    before = sorted(Path().rglob("*"))
    assert main(made(*words)) == FAILED
    out, err = capsys.readouterr()
    assert out == ""
    assert seen in err
    assert err.count("error: ") == err.count("hint: ") == 1
    assert "internal error" not in err
    assert sorted(Path().rglob("*")) == before


@pytest.mark.parametrize(
    "words",
    [
        ["--split", "aligned"],
        ["--strength", "1"],
        ["--fixed", "main"],
        ["--fixed", "=car"],
        ["--fixed", "horizon=nan"],
        ["--grid", "=3"],
        ["--grid", "main=0"],
        ["--grid", "main=x"],
        ["--n", "0"],
    ],
)
def test_wrong_usage_is_told_apart(words, capsys):
    assert main(made(*words)) == USAGE
    assert "--help" in capsys.readouterr().err
    assert not list(Path().iterdir())


@pytest.mark.parametrize("command", ["info", "check"])
def test_a_folder_that_is_not_there(command, capsys):
    assert main(["data", command, "none"]) == FAILED
    assert "no folder 'none'" in capsys.readouterr().err


@pytest.mark.parametrize("form", ["folder", "broden"])
def test_an_interrupted_run_leaves_nothing(form, monkeypatch, capsys):
    seen: list[str] = []

    def stop(*given):
        seen.append(next(Path().glob(".set.tmp-*")).name)
        raise KeyboardInterrupt

    monkeypatch.setattr(scene_files, "image_hash", stop)
    assert main(made("--format", form)) == INTERRUPTED
    assert "interrupted; nothing was written" in capsys.readouterr().err
    assert seen
    assert not list(Path().iterdir())
