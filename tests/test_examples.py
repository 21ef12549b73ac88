"""Every example runs: without a network, in an empty folder, with its figures where they are asked for."""

import re
from pathlib import Path

import pytest

from glasshouse.core.errors import MissingPackage

EXAMPLES = Path(__file__).parents[1] / "examples"
SCRIPTS = sorted(path.relative_to(EXAMPLES).with_suffix("").as_posix() for path in EXAMPLES.rglob("*.py"))


@pytest.fixture
def figures(tmp_path, monkeypatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("GLASSHOUSE_FIGURES", str(tmp_path / "figures"))
    monkeypatch.setenv("GLASSHOUSE_STEPS", "12")  # `make figures` takes its time
    monkeypatch.setenv("GLASSHOUSE_IMAGES", "24")
    return tmp_path / "figures"


MOST = {"n_samples": 120, "n_masks": 60, "n_steps": 12, "n_filters": 32}
"""The long loops of examples, cut short: what they show must run, not converge."""


def source(name: str) -> str:
    return (EXAMPLES / f"{name}.py").read_text()


def shortened(text: str) -> str:
    def least(found: re.Match[str]) -> str:
        return f"{found[1]}{found[2]}{min(int(found[3]), MOST[found[1]])}"

    return re.sub(rf'\b({"|".join(MOST)})(=|": )(\d+)', least, text)


def marked(name: str):
    text = source(name)
    real = [pytest.mark.real, pytest.mark.slow] if "zoo.load(" in text else []
    return pytest.param(name, marks=real)


@pytest.mark.parametrize("name", [marked(name) for name in SCRIPTS])
def test_the_example_runs_and_saves_what_it_promises(name, figures):
    try:
        path = EXAMPLES / f"{name}.py"
        exec(compile(shortened(source(name)), path, "exec"), {"__name__": "__main__", "__file__": str(path)})
    except MissingPackage as error:
        pytest.skip(str(error))
    saved = [path.name for path in figures.glob("*.png")]
    assert saved == ([f"{Path(name).name}.png"] if "GLASSHOUSE_FIGURES" in source(name) else [])
    left = [path.name for path in figures.parent.iterdir() if path != figures]
    assert not left, f"{name} leaves {left} behind"


@pytest.mark.parametrize("name", SCRIPTS)
def test_every_snippet_that_begins_also_ends(name):
    lines = [line.strip() for line in source(name).splitlines() if "--8<--" in line]
    begun = [line.split("start:")[1] for line in lines if "start:" in line]
    ended = [line.split("end:")[1] for line in lines if "end:" in line]
    assert begun == ended
    assert len(set(begun)) == len(begun)
