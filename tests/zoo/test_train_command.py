import json
import signal
from dataclasses import replace

import pytest
from torch import nn

from glasshouse import cli, zoo
from glasshouse.cli.training import seconds
from glasshouse.zoo import shipping
from glasshouse.zoo.training import Recipe


class Counts:
    """A task whose network holds the number of steps taken."""

    interrupt = False

    def __init__(self):
        self.network = nn.Linear(1, 1)
        nn.init.zeros_(self.network.bias)

    def step(self, step):
        if self.interrupt and step == 3:
            signal.raise_signal(signal.SIGINT)
        self.network.bias.data += 1
        return {"loss": 1 / (step + 1)}

    def measure(self):
        return {"accuracy": 0.5}

    def state(self):
        return self.network.state_dict()

    def load(self, state):
        self.network.load_state_dict(state)


@pytest.fixture
def counts(tmp_path, monkeypatch) -> Recipe:
    monkeypatch.setattr(shipping, "FOLDER", tmp_path / "shipped")
    monkeypatch.setattr(zoo.recipes, "_RECIPES", {})
    monkeypatch.setattr(zoo.registry, "_ENTRIES", {})
    monkeypatch.chdir(tmp_path)
    return zoo.add_recipe(
        Recipe(
            name="counts",
            about="Counts.",
            steps=10,
            task=lambda seed, device: Counts(),
            network=lambda: nn.Linear(1, 1),
            figures=lambda network: {"bias": float(network.bias)},
        )
    )


def test_training_ends_with_weights_and_their_figures(counts, tmp_path, capsys):
    assert cli.main(["train", "counts", "--out", "run"]) == 0
    said = capsys.readouterr().out
    assert "counts: 10 of 10 steps" in said
    assert "bias  10" in said
    assert (tmp_path / "run" / "counts.safetensors").is_file()
    assert not (tmp_path / "shipped").exists()


def test_published_weights_load_by_name(counts, capsys):
    assert cli.main(["--quiet", "train", "counts", "--publish"]) == 0
    assert float(zoo.load("counts").module.bias) == 10
    assert capsys.readouterr().err == ""


def test_stopped_and_gone_on_it_says_from_where(counts, capsys):
    assert cli.main(["train", "counts", "--steps", "4"]) == 0
    assert "To go on, type: glasshouse train counts --out 'glasshouse-train/counts'" in capsys.readouterr().err
    assert cli.main(["train", "counts"]) == 0
    assert "goes on at step 4 of 10" in capsys.readouterr().err


def test_out_of_time_is_partly_done(counts, capsys):
    assert cli.main(["train", "counts", "--time-budget", "1e-9s", "--json"]) == 3
    found = json.loads(capsys.readouterr().out)
    assert (found["step"], found["finished"], found["weights"]) == (0, False, None)


def test_ctrl_c_keeps_the_step_and_says_how_to_go_on(counts, capsys, monkeypatch):
    monkeypatch.setattr(Counts, "interrupt", True)
    assert cli.main(["train", "counts", "--seed", "2"]) == 130
    said = capsys.readouterr().err
    assert "the checkpoint holds 4 of 10 steps" in said
    assert "--seed 2" in said
    assert "nothing was written" not in said
    monkeypatch.setattr(Counts, "interrupt", False)
    assert cli.main(["train", "counts", "--seed", "2"]) == 0


def test_the_list_shows_steps_weights_and_figures(counts, capsys):
    assert cli.main(["train", "--list"]) == 0
    assert "none yet" in capsys.readouterr().out
    cli.main(["train", "counts", "--publish"])
    capsys.readouterr()
    assert cli.main(["train", "--list", "--json"]) == 0
    (entry,) = json.loads(capsys.readouterr().out)["found"]
    assert (entry["name"], entry["n_weights"], entry["figures"]) == ("counts", 2, {"bias": 10.0})


def test_measuring_again_warns_where_the_card_says_otherwise(counts, capsys):
    cli.main(["train", "counts", "--publish"])
    capsys.readouterr()
    assert cli.main(["measure", "counts"]) == 0
    told = capsys.readouterr()
    assert "bias    10.0000   10.0000" in told.out
    assert "warning" not in told.err
    zoo.recipes._RECIPES["counts"] = replace(counts, figures=lambda network: {"bias": 9.0})
    assert cli.main(["measure", "counts"]) == 0
    assert "bias is 9 here, and 10 on the card" in capsys.readouterr().err


@pytest.mark.parametrize(("text", "value"), [("90", 90), ("90s", 90), ("10m", 600), ("1.5h", 5400)])
def test_lengths_of_time_are_read(text, value):
    assert seconds(text) == value


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["train"], "name a recipe"),
        (["train", "counts", "--time-budget", "soon"], "'soon' is no length of time"),
        (["train", "counts", "--time-budget", "-3s"], "is no length of time"),
    ],
)
def test_wrong_usage_says_what_to_type(counts, capsys, words, message):
    assert cli.main(words) == 2
    assert message in capsys.readouterr().err


def test_a_recipe_that_is_not_there_names_the_nearest(counts, capsys):
    assert cli.main(["train", "count"]) == 1
    assert "Did you mean 'counts'" in capsys.readouterr().err


def test_a_model_without_weights_cannot_be_measured(counts, capsys):
    assert cli.main(["measure", "counts"]) == 1
    assert "glasshouse train counts" in capsys.readouterr().err
