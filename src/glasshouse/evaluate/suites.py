"""Several metrics of several explanations at once: every question is asked one time, all of them together."""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
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
        shared = asked(model, inputs, explanation, target, answers)
        answers = shared if answers is None else answers
    common: dict[str, Any] = {"target": target, "seed": seed, "answers": answers}
    common |= {} if masks is None else {"masks": masks}
    before = answers.n_forward if answers else 0
    if answers is not None:
        answers.ask(gathered(model, inputs, named, calls, common, answers))
    scores, skipped = {name: dict[str, Score]() for name in named}, {name: dict[str, str]() for name in named}
    for name, explanation in named.items():
        for short, (info, own) in calls.items():
            try:
                scores[name][short] = info.function(model, inputs, explanation, **given(info, own, common))
            except TypeError as error:  # an argument that only this metric needs, such as other images
                raise BadInput(f"{short} needs more than was given: {error}.", "Put it into its settings.") from error
            except GlasshouseError as error:
                skipped[name][short] = str(error)
    spent = (answers.n_forward if answers else 0) - before
    return Suite(scores, skipped, spent, round(time.perf_counter() - started, 4))


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


def gathered(
    model: Model | nn.Module,
    inputs: Images,
    named: Mapping[str, Explanation],
    calls: Mapping[str, tuple[Info, dict[str, Any]]],
    common: Mapping[str, Any],
    answers: Answers,
) -> list[Asked]:
    """Every question that the metrics will ask first, none of them asked yet."""
    found = list[Asked]()
    for explanation in named.values():
        for info, own in calls.values():
            if "answers" in info.parameters.parameters:
                with answers.listening() as noted:
                    try:
                        info.function(model, inputs, explanation, **given(info, own, common))
                    except (GlasshouseError, TypeError):
                        continue  # it is said when the metric is called in earnest
                found += noted
    return found
