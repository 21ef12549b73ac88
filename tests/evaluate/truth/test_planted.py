"""Pairs of unit and concept that were found, against those that were planted."""

import pytest

from glasshouse import data, dissect, evaluate
from glasshouse.core import BadInput
from glasshouse.data.glass.colours import PALETTE
from glasshouse.evaluate.truth.planted import planted_pairs

TRUE = [(0, "red"), (1, "blue"), (2, "green")]


def test_precision_and_recall_count_pairs():
    found = planted_pairs([(0, "red"), (1, "green"), (5, "blue"), (2, "green")], TRUE)
    assert (found.precision, found.recall) == (2 / 4, 2 / 3)
    assert found.f1 == pytest.approx(2 * 2 / (4 + 3))
    assert found.missed == ((1, "blue"),)
    assert found.wrong == ((1, "green"), (5, "blue"))


def test_nothing_found_is_right_as_far_as_it_goes():
    nothing = planted_pairs([], TRUE)
    assert (nothing.precision, nothing.recall, nothing.f1) == (1.0, 0.0, 0.0)


def test_nothing_planted_cannot_be_found():
    with pytest.raises(BadInput, match="nothing was planted"):
        planted_pairs([(0, "red")], [])


def test_dissection_finds_most_units_that_were_planted():
    names = [f"{name}-c" for name in PALETTE]
    labelled = data.with_labels(data.scenes("shapes", 96, size=32, seed=1, n_objects=3))
    seen = dissect.units(data.glass.colour_detector(), labelled, layer="inside_on", concepts=names)
    said = [(unit, seen.label(unit).name) for unit in range(8) if bool(seen.detectors[unit])]
    found = evaluate.planted_pairs(said, list(enumerate(names)))
    assert found.precision > 0.7
    assert found.recall > 0.6
