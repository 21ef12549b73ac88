"""A fidelity card in everyday words: verdicts against chance, a sentence per image, warnings."""

import math
from typing import Literal, TypeAlias

import torch

from glasshouse.core import Card, Explanation, Score
from glasshouse.evaluate.metric import flaws, known_method

Verdict: TypeAlias = Literal["better", "unclear", "worse", "undefined", "unjudged"]
CLEAR, DOUBT = 3.0, 2.0  # standard errors above chance: for "better", and below which a warning is due
SAME = 0.9  # a rank correlation from which two maps count as the same
BOUNDS = {"srg": 0.01, "class_sensitivity": 1 - SAME, "randomise_parameters": 1 - SAME}  # least lead that counts
LITTLE = 0.05  # a change of the score, of the clean to the empty image, that leaves nothing to divide up
GAP = 0.05  # Sundararajan et al., 2017, sec. 5
MOST = 10  # times the difference of scores; a gap beyond it is not told in per cent
NOT_ASKED = "not_asked"  # the reason of a headline score that a card left out
UNTRIED = {
    "mu_fidelity": "removing random patches",
    "class_sensitivity": "asking about another class",
    "randomise_parameters": "randomising the model's weights",
}
REASONS = {
    "constant_map": "the map has the same value everywhere",
    "not_finite": "the map holds values that are no numbers",
    "custom_target": "it explains a target of your own; pass target= to test it",
    "score_not_finite": "the model's score is no number on a perturbed image",
}


def verdicts(score: Score) -> tuple[Verdict, ...]:
    """Each image's value against chance: "better" or "worse" by over three standard errors, else "unclear".

    However small the error, a lead must also reach 0.01 for `srg`, and 0.1 (a rank correlation of 0.9) for
    `class_sensitivity` and `randomise_parameters`.
    "undefined" where there is no value, "unjudged" where no direction is better or chance is not known.
    """
    if score.direction == "diagnostic" or score.chance is None:
        return tuple("unjudged" if known else "undefined" for known in score.valid.tolist())
    lead = (score.value - score.chance).double() * (1 if score.direction == "up" else -1)
    margin = (CLEAR * score.stderr.double()).clamp(min=BOUNDS.get(score.metric, 0.0))
    return tuple(
        "undefined" if math.isnan(ahead) else "better" if ahead > by else "worse" if -ahead > by else "unclear"
        for ahead, by in zip(lead.tolist(), margin.tolist(), strict=True)
    )


def sentence(explanation: Explanation, scores: dict[str, Score], image: int) -> str:
    """What the card says of one image."""
    info = known_method(explanation)
    blind = info is not None and not info.class_sensitive
    said = [faithful(scores, image), *sane(scores, image, blind), *complete(scores, image), *untried(scores, image)]
    return " ".join(said)


def faithful(scores: dict[str, Score], image: int) -> str:
    """What removing parts of the image said."""
    score = scores.get("srg")
    if score is None or score.reason[image] == NOT_ASKED:
        return "This map was not tested by removing parts of the image."
    start = "Removing what this map marks first"
    numbers = f"({with_error(score, image)}; 0 would be chance)"
    match verdicts(score)[image]:
        case "better":
            text = f"{start} lowers the score faster than removing it last {numbers}."
        case "worse":
            text = (
                f"{start} lowers the score more slowly than removing it last {numbers}: "
                "it points away from what the model uses."
            )
        case "unclear":
            text = f"{start} {unclear(float(score.value[image]), float(score.stderr[image]))} {numbers}."
        case _:
            return f"This map could not be tested: {REASONS.get(score.reason[image], score.reason[image])}."
    if "change" in score.extras and abs(float(score.extras["change"][image])) < LITTLE:
        text += " Even removing everything hardly changes the score, so this says little."
    return text + confirmation(scores, image)


def unclear(gain: float, error: float) -> str:
    """A gain that does not count: too small, within its error, or none."""
    if gain > CLEAR * error:
        return "lowers the score only a little faster than removing it last"
    if gain > 0:
        return "lowers the score faster than removing it last, but that may be chance"
    return "does not lower the score faster than removing it last"


def confirmation(scores: dict[str, Score], image: int) -> str:
    """What removing random patches said."""
    if value_at(scores, "mu_fidelity", image) is None:
        return ""
    score = scores["mu_fidelity"]
    says = {"better": "speaks for the map", "worse": "speaks against it"}
    text = says.get(verdicts(score)[image], "decides nothing")
    return f" Removing random patches {text} (correlation {with_error(score, image)})."


def with_error(score: Score, image: int) -> str:
    """A value and its standard error, with as many places as the error deserves, two to five."""
    value, error = float(score.value[image]), float(score.stderr[image])
    places = min(5, max(2, -math.floor(math.log10(error) + 1e-3))) if 0 < error < math.inf else 2
    return f"{round(value, places) + 0.0:.{places}f} ± {error:.{places}f}"  # + 0.0: no minus before a zero


def sane(scores: dict[str, Score], image: int, blind: bool) -> list[str]:
    """What other weights and another class did to the map. `blind`: the method is known to ignore the class."""
    survived = value_at(scores, "randomise_parameters", image)
    change = value_at(scores, "class_sensitivity", image)
    follows = None if change is None else change >= 1 - SAME
    beware = "do not read it as evidence for this class."
    if survived is not None and survived > SAME:
        stays = "The map stays the same when the model's weights are randomised"
        if follows:
            return [f"{stays}, yet it changes with the class: try other random weights."]
        return [f"{stays}: it shows the image, not the model."]
    if survived is None and follows is None:
        return [f"This method is known to show much the same for every class: {beware}"] if blind else []
    if survived is None:
        return ["The map changes with the class." if follows else f"The map hardly changes with the class: {beware}"]
    weights = "The map changes when the model's weights are randomised"
    if follows:
        return [f"{weights}, and with the class."]
    if follows is not None:
        return [f"{weights}, but hardly with the class: {beware}"]
    return [f"{weights}, but its method is known to ignore the class: {beware}" if blind else f"{weights}."]


def complete(scores: dict[str, Score], image: int) -> list[str]:
    """Whether the values add up."""
    gap = value_at(scores, "completeness_gap", image)
    if gap is None:
        return []
    if gap > GAP:
        by = f"{100 * gap:.0f} %" if gap < MOST else f"more than {MOST} times as much"
        return [f"Its values miss the difference of scores they should add up to by {by}."]
    return ["Its values add up to the difference of scores, as they should."]


def untried(scores: dict[str, Score], image: int) -> list[str]:
    """Which tests a card left out, what they would cost, and what makes them; nothing of a map that failed the first.

    Scores that were not asked hold in `settings` the `tier` that asks them, "" where none does, and their `passes`.
    """
    if "srg" in scores and scores["srg"].reason[image] not in ("", NOT_ASKED):
        return []
    left = [name for name in UNTRIED if name in scores and scores[name].reason[image] == NOT_ASKED]
    said = list[str]()
    for tier in dict.fromkeys(str(scores[name].settings["tier"]) for name in left):
        names = [name for name in left if scores[name].settings["tier"] == tier]
        again = sum(name != "mu_fidelity" for name in names)
        prices = [f"{scores[name].settings['passes']} passes of the model" for name in names if name == "mu_fidelity"]
        prices += [f"{('one more run', 'two more runs')[again - 1]} of the method"] if again else []
        them = "these" if len(names) > 1 else "this"
        would = f"A {tier} card tries {them}." if tier else f"No card is so dear; {listed(names)} try {them}."
        said.append(f"Not tried, to save {listed(prices)}: {listed([UNTRIED[name] for name in names])}. {would}")
    return said


def listed(words: list[str]) -> str:
    """One, two or three things in a row."""
    return " and ".join([", ".join(words[:-1]), words[-1]] if len(words) > 1 else words)


def value_at(scores: dict[str, Score], name: str, image: int) -> float | None:
    """One value, or None where it was not measured or is undefined."""
    if name not in scores or not scores[name].valid[image]:
        return None
    return float(scores[name].value[image])


def warnings(explanation: Explanation, card: Card) -> tuple[str, ...]:
    """What a reader has to know before trusting these maps; empty if nothing speaks against them.

    Of `srg` it warns below two standard errors, the usual bound; `verdicts` are stricter.

    Args:
        card: of the same explanation.
    """
    n, scores, info = len(explanation), card.scores, known_method(explanation)

    def above(name: str, bound: float) -> list[int]:
        return [i for i in range(n) if (value := value_at(scores, name, i)) is not None and value > bound]

    tracked = "class_sensitivity" in scores and bool(scores["class_sensitivity"].valid.any())
    moved = above("class_sensitivity", 1 - SAME)
    gain = scores.get("srg")
    doubtful = gain.valid & (gain.value <= DOUBT * gain.stderr) if gain else torch.zeros(n, dtype=torch.bool)
    faults = flaws(explanation.heatmap)
    found = [
        (
            [i for i, fault in enumerate(faults) if fault == "constant_map"],
            "the map is constant: it says nothing",
        ),
        (
            [i for i, fault in enumerate(faults) if fault == "not_finite"],
            "the map holds values that are no numbers: it says nothing",
        ),
        (
            [i for i in range(n) if value_at(scores, "class_sensitivity", i) is not None and i not in moved],
            "the map hardly changes with the class: do not read it as evidence for this class",
        ),
        (
            above("randomise_parameters", SAME),
            "the map stays the same when the model's weights are randomised: it shows the image, not the model",
        ),
        (
            above("completeness_gap", GAP),
            f"the values miss the difference of scores they should add up to by over {100 * GAP:.0f} %",
        ),
        (
            doubtful.nonzero()[:, 0].tolist(),
            "removing what the map marks first lowers the score no faster than chance may",
        ),
    ]
    known = info.warning if info else ""
    if info and not info.class_sensitive and not known and not tracked:
        known = "this method is known to show much the same for every class"
    return (*((known,) if known else ()), *(f"{text}{which(rows, n)}" for rows, text in found if rows))


def which(rows: list[int], n: int) -> str:
    """The images meant, in brackets; nothing where it is all of them."""
    if len(rows) == n:
        return ""
    shown = ", ".join(map(str, rows[:8])) + (", …" if len(rows) > 8 else "")
    return f" (image{'s' if len(rows) > 1 else ''} {shown})"
