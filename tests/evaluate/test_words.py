"""The card in words: what it says of every combination of scores, and what it warns of."""

import re
from dataclasses import replace
from itertools import product

import pytest
import torch

from glasshouse import (
    attribute,  # noqa: F401 - fills the registry
    evaluate,
)
from glasshouse.core import Card, Score, find_method
from glasshouse.evaluate import words
from glasshouse.evaluate.words import sentence


def score(name, values, stderr=0.01, chance=0.0, direction="up", **more):
    value = torch.tensor(values)
    reason = tuple("" if known else "constant_map" for known in (~value.isnan()).tolist())
    return Score(name, value, torch.full_like(value, stderr), chance, direction, reason, **more)


def unasked(name, tier, passes):
    nothing = torch.tensor([torch.nan])
    return Score(name, nothing, nothing, 0.0, "up", ("not_asked",), settings={"tier": tier, "passes": passes})


def test_verdicts_need_three_standard_errors():
    values = [0.0, 0.029, 0.031, -0.031, float("nan")]
    assert evaluate.verdicts(score("srg", values)) == ("unclear", "unclear", "better", "worse", "undefined")
    assert evaluate.verdicts(score("x", [1.0, 0.5], 0.0, 1.0, "down")) == ("unclear", "better")
    assert evaluate.verdicts(score("x", [1.0], 0.0, None)) == ("unjudged",)
    assert evaluate.verdicts(score("randomise_parameters", [0.95, 0.85], 1e-3, 1.0, "down")) == ("unclear", "better")


GAINS = {
    "absent": None,
    "not asked": unasked("srg", "lite", 34),
    "undefined": score("srg", [float("nan")]),
    **{
        kind: score("srg", [value], error)
        for kind, value, error in (
            ("faster", 0.4, 0.01),
            ("slower", -0.4, 0.01),
            ("perhaps", 0.02, 0.01),
            ("little", 0.005, 0.0005),
            ("none", 0.0, 0.0),
            ("backwards", -0.02, 0.01),
        )
    },
}
PATCHES = {None: None, "": unasked("mu_fidelity", "standard", 32)} | {
    value: score("mu_fidelity", [value]) for value in (0.5, 0.02, -0.3)
}
RERUNS = {None: (None, None)} | {
    (forgets, follows): (
        None if forgets is None else score("randomise_parameters", [forgets], 0.01, 1.0, "down"),
        None if follows is None else score("class_sensitivity", [follows]),
    )
    for forgets, follows in product((None, 0.1, 0.95), (None, 0.02, 0.8))
    if (forgets, follows) != (None, None)
}
RERUNS |= {
    tier: tuple(unasked(name, tier, 700) for name in ("randomise_parameters", "class_sensitivity"))
    for tier in ("standard", "")
}
GAPS = {
    value: None if value is None else score("completeness_gap", [value], 0.0, None, "down")
    for value in (None, 0.01, 0.3, 50.0)
}


def claims(gain, still, patches, rerun, gap, blind):
    """What the card may say and when it is true: a piece of text for each, and whether it has to be there."""
    tested = gain not in ("absent", "not asked", "undefined")
    left = gain != "undefined"
    forgets, follows = rerun if isinstance(rerun, tuple) else (None, None)
    stays = forgets == 0.95
    return {
        "was not tested by removing parts": gain in ("absent", "not asked"),
        "could not be tested: the map has the same value everywhere": gain == "undefined",
        "first lowers the score faster than removing it last (": gain == "faster",
        "more slowly than removing it last (-0.40 ± 0.01; 0 would be chance): it points away": gain == "slower",
        "last, but that may be chance (0.02 ± 0.01": gain == "perhaps",
        "lowers the score only a little faster than removing it last (0.0050 ± 0.0005": gain == "little",
        "does not lower the score faster": gain in ("none", "backwards"),
        "last (0.00 ± 0.00;": gain == "none",
        "Even removing everything hardly changes the score, so this says little.": tested and still,
        "patches speaks for the map (correlation 0.50": tested and patches == 0.5,
        "patches speaks against it (correlation -0.30": tested and patches == -0.3,
        "patches decides nothing (correlation 0.02": tested and patches == 0.02,
        "The map changes when the model's weights": forgets == 0.1,
        "The map stays the same when the model's weights": stays,
        "it shows the image, not the model": stays and follows != 0.8,
        "yet it changes with the class: try other": stays and follows == 0.8,
        "randomised, and with the class.": forgets == 0.1 and follows == 0.8,
        "The map changes with the class.": forgets is None and follows == 0.8,
        "randomised, but hardly with the class": forgets == 0.1 and follows == 0.02,
        "The map hardly changes with the class": forgets is None and follows == 0.02,
        "is known to": blind and follows is None and not stays,
        "do not read it as evidence": not stays and (follows == 0.02 or (follows is None and blind)),
        "add up to the difference of scores, as they should.": gap == 0.01,
        "should add up to by 30 %.": gap == 0.3,
        "should add up to by more than 10 times as much.": gap == 50.0,
        "Not tried, to save 32 passes of the model": left and patches == "",
        "two more runs of the method": left and rerun in ("standard", ""),
        ": removing random patches": left and patches == "",
        "asking about another class and randomising the model's weights": left and rerun in ("standard", ""),
        "A standard card tries these.": left and rerun == "standard",
        "A standard card tries this.": left and patches == "" and rerun != "standard",
        "No card is so dear; class_sensitivity and randomise_parameters try these.": left and rerun == "",
    }  # fmt: skip


PROSE = re.compile(r"(?:[A-Z][^.]*(?:\d\.\d[^.]*)*\.(?: |$))+")


@pytest.mark.parametrize("gain", GAINS)
def test_every_combination_of_scores_gets_sentences_that_are_true_of_it(gain, explained, random_maps, monkeypatch):
    explanation, ends = explained(random_maps(1)), (False, True) if GAINS[gain] and GAINS[gain].valid else (False,)
    for blind in (False, True):
        known = find_method("guided_backprop") if blind else None
        monkeypatch.setattr(words, "known_method", lambda explanation, known=known: known)
        for still, patches, rerun, gap in product(ends, PATCHES, RERUNS, GAPS):
            found = (GAINS[gain], PATCHES[patches], *RERUNS[rerun], GAPS[gap])
            scores = {each.metric: each for each in found if each is not None}
            if gain not in ("absent", "not asked"):
                scores["srg"].extras["change"] = torch.tensor([0.01 if still else 0.5])
            said = sentence(explanation, scores, 0)
            assert PROSE.fullmatch(said), said
            assert not re.search(r"nan|None|inf|  |-0\.00\b|\(\)", said), said
            wrong = {
                text: holds
                for text, holds in claims(gain, still, patches, rerun, gap, blind).items()
                if (text in said) != holds
            }
            assert not wrong, said


def test_what_was_left_out_is_said_with_its_price_and_with_what_asks_it(explained, random_maps):
    scores = {"srg": score("srg", [0.4]), "mu_fidelity": unasked("mu_fidelity", "standard", 32)}
    said = sentence(explained(random_maps(1)), scores, 0)
    assert said.endswith(
        "Not tried, to save 32 passes of the model: removing random patches. A standard card tries this."
    )
    scores["class_sensitivity"] = unasked("class_sensitivity", "standard", 102)
    assert sentence(explained(random_maps(1)), scores, 0).endswith(
        "Not tried, to save 32 passes of the model and one more run of the method: removing random patches and asking "
        "about another class. A standard card tries these."
    )


WARNINGS = {
    "hardly changes with the class": {"class_sensitivity": [0.05, 0.5]},
    "stays the same when the model's weights are randomised": {"randomise_parameters": [0.95, 0.2]},
    "by over 5 %": {"completeness_gap": [0.06, 0.04]},
    "no faster than chance may": {"srg": [0.019, 0.021]},
}


@pytest.mark.parametrize(("text", "values"), WARNINGS.items())
def test_a_warning_names_the_images_it_is_about(text, values, explained, random_maps):
    scores = {name: score(name, v) for name, v in values.items()}
    (warning,) = evaluate.warnings(explained(random_maps(2)), Card("standard", scores, ("", "")))
    assert text in warning
    assert warning.endswith("(image 0)")


def test_that_a_method_is_known_to_ignore_the_class_is_a_warning_until_it_was_measured(
    explained, random_maps, monkeypatch
):
    info = replace(find_method("guided_backprop"), warning="")
    monkeypatch.setattr(words, "known_method", lambda explanation: info)
    explanation, cards = explained(random_maps(1)), {None: {}, 0.5: {"class_sensitivity": RERUNS[0.1, 0.8][1]}}
    for measured, scores in cards.items():
        found = evaluate.warnings(explanation, Card("standard", scores, ("",)))
        expected = () if measured else ("this method is known to show much the same for every class",)
        assert found == expected


def test_nothing_to_warn_about_is_nothing(explained, random_maps):
    scores = {"srg": score("srg", [0.4]), "class_sensitivity": score("class_sensitivity", [0.5])}
    assert evaluate.warnings(explained(random_maps(1)), Card("standard", scores, ("",))) == ()


def test_a_map_whose_class_changes_nothing_at_all_is_warned_about(explained, random_maps):
    scores = {"class_sensitivity": score("class_sensitivity", [0.0])}
    assert len(evaluate.warnings(explained(random_maps(1)), Card("standard", scores, ("",)))) == 1
