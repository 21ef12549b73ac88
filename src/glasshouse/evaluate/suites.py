"""Several metrics of several explanations at once: every question is asked one time, all of them together."""

import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import product
from typing import Any

import torch
from torch import Tensor, nn

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
from glasshouse.evaluate.agreement import mean_ranks
from glasshouse.evaluate.engine import Answers, sharing
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
        metrics = self._metrics()
        return f"Suite({len(self.scores)} explanations, {len(metrics)} metrics, {self.n_forward} forward passes)"

    def __getitem__(self, name: str) -> dict[str, Score]:
        """The scores of one explanation."""
        return self.scores[name]

    def table(self) -> str:
        """The table in Markdown: a row for each metric, a column for each explanation."""
        metrics = self._metrics()
        lines = [f"| metric | {' | '.join(self.scores)} |", "|---" * (len(self.scores) + 1) + "|"]
        for metric in metrics:
            found = [own.get(metric) for own in self.scores.values()]
            first = next(score for score in found if score is not None)
            arrow = {"up": " ↑", "down": " ↓"}.get(first.direction, "")
            cells = [f"{s.mean:.3g} ± {s.error:.2g}" if s is not None and s.valid.any() else "–" for s in found]
            lines.append(f"| `{metric}`{arrow} | {' | '.join(cells)} |")
        return "\n".join(lines) + "\n"

    def places(self) -> dict[str, tuple[float, float]]:
        """Each explanation's mean place over metrics, 1 the best, and how far its places scatter.

        Metrics disagree (LATEC, Klein et al., 2024): a single one decides nothing, and a large scatter says so. Metrics
        that point neither way, or are undefined for some explanation, are left out.
        """
        ranked = [order for metric in self._metrics() if (order := self._ranks(metric)) is not None]
        if not ranked:
            raise BadInput("no metric has a direction and a value for every explanation.", "Add one, such as srg.")
        table = torch.stack(ranked)
        spread = table.std(0) if len(table) > 1 else torch.zeros(table.shape[1])
        return dict(zip(self.scores, zip(table.mean(0).tolist(), spread.tolist(), strict=True), strict=True))

    def agreement(self, first: str, second: str) -> float:
        """Kendall's tau-b of two metrics over the explanations: 1 for the same order, -1 for the opposite.

        Below 0.5 between two baselines of one metric, what it says depends on what is filled in.
        """
        orders = [order for metric in (first, second) if (order := self._ranks(metric)) is not None]
        if len(orders) < 2 or any(order.eq(order[0]).all() for order in orders):
            raise BadInput(f"'{first}' and '{second}' do not both order these explanations.", "Take two that do.")
        a, b = ((order[:, None] - order).sign() for order in orders)
        return float((a * b).sum() / (a.square().sum() * b.square().sum()).sqrt())

    def _metrics(self) -> list[str]:
        return list(dict.fromkeys(name for own in self.scores.values() for name in own))

    def _ranks(self, metric: str) -> Tensor | None:
        """The place of each explanation, 1 the best, equal means sharing theirs; None where there is no order.

        Means are over the images that have a value for every explanation.
        """
        found = [own[metric] for own in self.scores.values() if metric in own]
        if len(found) < len(self.scores) or found[0].direction == "diagnostic":
            return None
        values = torch.stack([score.value.double() for score in found])
        means = values[:, ~values.isnan().any(0)].mean(1, keepdim=True).T
        return None if means.isnan().any() else mean_ranks(means if found[0].direction == "down" else -means)[0] + 1


@sharing()
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
    full chunks: the clean image, the empty one, random masks and noisy copies are shared. Values are those of the
    metrics called one by one.

    Args:
        explanations: of the same images and target; by name, or a single one.
        metrics: names of `list_metrics`, or for each name the settings that differ from its defaults. A metric may come
            twice under names such as `"srg"` and `"srg@mean"`: what follows the @ is yours.
        masks: where the object is, for the metrics that need to know.
        target: only needed where the explanations' target was a function or weights.
        seed: for every metric that draws.
        answers: what was asked before; a new one is made if none is given.
    """
    started = time.perf_counter()
    named = {explanations.method: explanations} if isinstance(explanations, Explanation) else dict(explanations)
    calls = chosen(metrics)
    if not named or not calls:
        raise BadInput(f"{len(named)} explanations and {len(calls)} metrics were given.", "Give at least one of each.")
    for explanation in named.values():
        belongs(explanation, inputs)
    before = 0 if answers is None else answers.n_forward
    common: dict[str, Any] = {"target": target, "seed": seed} | ({} if masks is None else {"masks": masks})
    for short, (info, own) in calls.items():
        if lacking := set(list(info.parameters.parameters)[3:]) - set(info.defaults) - set(common) - set(own):
            raise BadInput(f"{short} needs more than was given: '{min(lacking)}'.", "Put it into its settings.")
    asking = [short for short, (info, _) in calls.items() if "answers" in info.parameters.parameters]
    answers, known = answers_of(model, inputs, named, target, answers) if asking else (None, list[str]())
    scores, skipped = {name: dict[str, Score]() for name in named}, {name: dict[str, str]() for name in named}
    apart = 0  # passes that metrics make by themselves, such as to explain once more

    def call(name: str, short: str) -> None:
        nonlocal apart
        (info, own), found = calls[short], answers if name in known else None
        charged = len(found.charged) if found else 0
        try:
            score = info.function(model, inputs, named[name], **given(info, own, common | {"answers": found}))
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


def chosen(metrics: Wanted) -> dict[str, tuple[Info, dict[str, Any]]]:
    """The metrics asked for, by the names they go by, each with its own settings, which are checked."""
    named = metrics if isinstance(metrics, Mapping) else {name: dict[str, Any]() for name in metrics}
    found = dict[str, tuple[Info, dict[str, Any]]]()
    for name, settings in named.items():
        metric, _, variant = name.partition("@")
        info = find_method(metric, "evaluate")
        if strange := set(settings) - set(info.parameters.parameters):
            raise BadInput(f"{info.short} has no setting '{min(strange)}'.", f"It has {', '.join(info.defaults)}.")
        found[info.short + (f"@{variant}" if variant else "")] = (info, dict(settings))
    return found


def given(info: Info, own: Mapping[str, Any], common: Mapping[str, Any]) -> dict[str, Any]:
    """What one metric is called with: what is common and it takes, and its own settings."""
    known = info.parameters.parameters
    return {name: value for name, value in common.items() if name in known} | dict(own)
