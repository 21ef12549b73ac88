"""Several metrics of several explanations at once: every question is asked one time, all of them together."""

import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import product
from typing import Any

from torch import nn

from glasshouse.core import (
    BadInput,
    Explanation,
    GlasshouseError,
    Images,
    Info,
    Masks,
    Model,
    Noun,
    Score,
    Target,
    find_method,
)
from glasshouse.evaluate.engine import Answers
from glasshouse.evaluate.metric import asked, belongs
from glasshouse.evaluate.questions import Asked

Wanted = Sequence[str] | Mapping[str, Mapping[str, Any]]


@dataclass(frozen=True, repr=False)
class Suite(Noun):
    """Scores of several explanations of the same images.

    Args:
        scores: by explanation, by metric.
        skipped: metrics that could not be computed, and why, by explanation and metric.
        n_forward: forward passes spent, counted in single images: each distinct question once.
    """

    scores: dict[str, dict[str, Score]]
    skipped: dict[str, dict[str, str]] = field(default_factory=dict[str, dict[str, str]])
    n_forward: int = 0
    seconds: float = 0.0

    def __repr__(self) -> str:
        metrics = dict.fromkeys(name for own in self.scores.values() for name in own)
        return f"Suite({len(self.scores)} explanations, {len(metrics)} metrics, {self.n_forward} forward passes)"

    def __getitem__(self, name: str) -> dict[str, Score]:
        """The scores of one explanation."""
        return self.scores[name]

    def table(self) -> str:
        """The table in Markdown: a row for each metric, a column for each explanation."""
        metrics = dict.fromkeys(name for own in self.scores.values() for name in own)
        lines = [f"| metric | {' | '.join(self.scores)} |", "|---" * (len(self.scores) + 1) + "|"]
        for metric in metrics:
            found = [own.get(metric) for own in self.scores.values()]
            first = next(score for score in found if score is not None)
            arrow = {"up": " ↑", "down": " ↓"}.get(first.direction, "")
            cells = [f"{s.mean:.3g} ± {s.error:.2g}" if s is not None and s.valid.any() else "–" for s in found]
            lines.append(f"| `{metric}`{arrow} | {' | '.join(cells)} |")
        return "\n".join(lines) + "\n"


def suite(
    model: Model | nn.Module,
    inputs: Images,
    explanations: Explanation | Mapping[str, Explanation],
    metrics: Wanted,
    *,
    masks: Masks | None = None,
    target: Target = None,
    seed: int = 0,
    answers: Answers | None = None,
) -> Suite:
    """Several metrics of one or several explanations, for the price of the questions that differ.

    The questions of all metrics and explanations are gathered first, doubles are dropped, and the rest is asked in
    full chunks: the clean image, the empty one and random masks are shared. Values are those of the metrics called
    one by one.

    Args:
        explanations: of the same images and target; by name, or a single one.
        metrics: names of `list_metrics`, or for each name the settings that differ from its defaults.
        masks: where the object is, for the metrics that need to know.
        target: only needed where the explanations' target was a function or weights.
        seed: for every metric that draws.
        answers: what was asked before; a new one is made if none is given.
    """
    started = time.perf_counter()
    named = {explanations.method: explanations} if isinstance(explanations, Explanation) else dict(explanations)
    calls = {info.short: (info, settings) for info, settings in chosen(metrics)}
    if not named or not calls:
        raise BadInput(f"{len(named)} explanations and {len(calls)} metrics were given.", "Give at least one of each.")
    for explanation in named.values():
        belongs(explanation, inputs)
    before = 0 if answers is None else answers.n_forward
    asking = [short for short, (info, _) in calls.items() if "answers" in info.parameters.parameters]
    answers, known = answers_of(model, inputs, named, target, answers) if asking else (None, list[str]())
    common: dict[str, Any] = {"target": target, "seed": seed} | ({} if masks is None else {"masks": masks})
    scores, skipped = {name: dict[str, Score]() for name in named}, {name: dict[str, str]() for name in named}
    apart = 0  # passes that metrics make by themselves, such as to explain once more

    def call(name: str, short: str) -> None:
        nonlocal apart
        (info, own), found = calls[short], answers if name in known else None
        charged = len(found.charged) if found else 0
        try:
            score = info.function(model, inputs, named[name], **given(info, own, common | {"answers": found}))
        except TypeError as error:  # an argument that only this metric needs, such as other images
            raise BadInput(f"{short} needs more than was given: {error}.", "Put it into its settings.") from error
        except GlasshouseError as error:
            skipped[name][short] = str(error)
            return
        scores[name][short] = score
        apart += score.n_forward - (len(found.charged) - charged if found else 0) * len(inputs)

    if answers is not None:
        waiting = list[Asked]()
        for name, short in product(known, asking):
            with answers.listening() as noted:
                call(name, short)
            waiting += noted
        with suppress(GlasshouseError):  # each metric then asks for itself, and the one at fault is noted
            answers.ask(waiting)
    for name in named:
        for short in calls:
            if short not in scores[name] and short not in skipped[name]:
                call(name, short)
        scores[name] = {short: scores[name][short] for short in calls if short in scores[name]}
    together = answers.n_forward - before if answers else 0
    return Suite(scores, skipped, together + apart, round(time.perf_counter() - started, 4))


def answers_of(
    model: Model | nn.Module,
    inputs: Images,
    named: Mapping[str, Explanation],
    target: Target,
    answers: Answers | None,
) -> tuple[Answers | None, list[str]]:
    """The answers that explanations share, and which do: not those whose target was not kept, unless it is given."""
    given, known = answers is not None or target is not None, list[str]()
    for name, explanation in named.items():
        if given or explanation.target:
            mine = asked(model, inputs, explanation, target, answers)
            answers = mine if answers is None else answers
            known.append(name)
    return answers, known


def chosen(metrics: Wanted) -> list[tuple[Info, dict[str, Any]]]:
    """The metrics asked for, each with its own settings, which are checked."""
    named = metrics if isinstance(metrics, Mapping) else {name: dict[str, Any]() for name in metrics}
    found = [(find_method(name, "evaluate"), dict(settings)) for name, settings in named.items()]
    for info, settings in found:
        if strange := set(settings) - set(info.parameters.parameters):
            raise BadInput(f"{info.short} has no setting '{min(strange)}'.", f"It has {', '.join(info.defaults)}.")
    return found


def given(info: Info, own: Mapping[str, Any], common: Mapping[str, Any]) -> dict[str, Any]:
    """What one metric is called with: what is common and it takes, and its own settings."""
    known = info.parameters.parameters
    return {name: value for name, value in common.items() if name in known} | dict(own)
