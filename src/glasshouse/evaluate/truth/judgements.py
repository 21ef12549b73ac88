"""What a judgement says of metrics: whether the best map came first and noise last, and how sure that is.

The rule of `Judgement.faults`, and the settings that metrics are judged with, were chosen with scenes of the seed
`SETTLED` in view; those of seed 3 serve in tests. Scenes of the seed `HELD_OUT` were kept back. Whoever changes the
rule or the settings looks at the former only, and then takes a new number for the latter: once looked at, scenes are
held out no more.
"""

from dataclasses import dataclass, field
from math import ceil, inf
from typing import Any

from glasshouse.core import Noun
from glasshouse.evaluate.truth.controls import CONTROLS, IGNORANT
from glasshouse.evaluate.truth.leads import CLEAR, scenes_to_tell

ORACLE, RANDOM = "oracle", "random"
SETTLED, HELD_OUT = 1000, 2026
HOLDS, PASSES, NOT_FIRST, NOT_LAST = "holds", "passes", "oracle not first", "random not last"


@dataclass(frozen=True, repr=False)
class Judgement(Noun):
    """How each metric ranks maps whose worth is known.

    Args:
        means: by metric, by map: the mean over images.
        behind_oracle: by metric, by map: how far behind the oracle, in standard errors of the mean difference over
            images; below 0 is ahead of it.
        above_random: the same, ahead of the random map.
        directions: whether a metric goes up or down with quality.
        auroc: by metric, the chance that it puts the map with less noise ahead, image by image; 0.5 is a coin.
        skipped: metrics that could not be computed, and why.
    """

    means: dict[str, dict[str, float]]
    behind_oracle: dict[str, dict[str, float]]
    above_random: dict[str, dict[str, float]]
    directions: dict[str, str]
    auroc: dict[str, float]
    skipped: dict[str, str] = field(default_factory=dict[str, str])
    settings: dict[str, Any] = field(default_factory=dict[str, Any])

    def __repr__(self) -> str:
        return f"Judgement({len(self.passing)} of {len(self.means)} metrics pass)"

    @property
    def passing(self) -> tuple[str, ...]:
        """Metrics that put the oracle first and noise last."""
        return tuple(name for name in self.means if not self.faults(name))

    def faults(self, name: str) -> tuple[str, ...]:
        """What speaks against a metric: "oracle not first", "random not last"."""
        behind, above, found = self.behind_oracle[name], self.above_random[name], list[str]()
        if any(gap < -CLEAR for gap in behind.values()) or any(behind.get(who, CLEAR) < CLEAR for who in IGNORANT):
            found.append(NOT_FIRST)
        if RANDOM not in behind or any(gap < -CLEAR for who, gap in above.items() if who != "constant"):
            found.append(NOT_LAST)
        return tuple(found)

    def power(self, name: str) -> str:
        """Of a metric that fails because the oracle leads, but not clearly: how many scenes would most likely tell.

        Four times in five, if leads stay what they are. Empty where more scenes are no help: where a control is level
        with the oracle or ahead of it, or another map would then be clearly ahead.
        """
        gaps, n = self.behind_oracle[name], self.settings.get("n", 0)
        most = max((scenes_to_tell(gaps[who], n) for who in IGNORANT if who in gaps), default=inf)
        if NOT_FIRST not in self.faults(name) or not 0 < most < inf:
            return ""
        others = min(gaps.values()) * (most / n) ** 0.5
        return f"some {ceil(most)} scenes would tell" if others >= -CLEAR else ""

    def verdict(self, name: str) -> str:
        """Either "passes" or the faults, with the number of scenes that would tell."""
        power = f" ({self.power(name)})" if self.power(name) else ""
        return ", ".join(self.faults(name)) + power or PASSES

    def literally(self, name: str) -> tuple[str, ...]:
        """What breaks the plain criterion; nothing, if the oracle is first and noise last of the five controls.

        From the means alone, ties included, without any standard error. Maps that have no score are passed over.
        """
        sign = -1 if self.directions[name] == "down" else 1
        means = {who: sign * v for who, v in self.means[name].items() if who in CONTROLS and v == v}
        best, noise = means.get(ORACLE, -inf), means.get(RANDOM)
        if noise is None:
            return (f"{RANDOM} has no score",)
        found = {
            "ahead of the oracle": [who for who in means if means[who] > best],
            "level with the oracle": [who for who in means if means[who] == best and who != ORACLE],
            f"behind {RANDOM}": [who for who in means if means[who] < noise and who != ORACLE],
            f"level with {RANDOM}": [who for who in means if means[who] == noise and who not in (ORACLE, RANDOM)],
        }
        return tuple(f"{', '.join(who)} {place}" for place, who in found.items() if who)

    def literal(self, name: str) -> str:
        """The plain criterion in words: "holds", or what breaks it."""
        return "; ".join(self.literally(name)) or HOLDS

    @property
    def order(self) -> list[str]:
        """Metrics that pass, then the others; each by AUROC."""
        return sorted(self.means, key=lambda name: (bool(self.faults(name)), -self.auroc[name]))

    def table(self) -> str:
        """The table in Markdown, metrics that pass first, the others struck through."""
        maps = list(next(iter(self.means.values()), ()))
        heads = ["metric", *maps, "AUROC", "verdict", "from the means alone"]
        lines = [f"| {' | '.join(heads)} |", "|---" * len(heads) + "|"]
        for name in self.order:
            cells = [f"{v:.3g}" if (v := self.means[name][who]) == v else "–" for who in maps]
            last = [f"{self.auroc[name]:.2f}", self.verdict(name), self.literal(name)]
            lines.append(f"| {self.shown(name)} | {' | '.join([*cells, *last])} |")
        return "\n".join(lines) + "\n"

    def shown(self, name: str) -> str:
        """A metric's name in Markdown, struck through if it fails, with an arrow towards better."""
        arrow = {"up": " ↑", "down": " ↓"}.get(self.directions[name], "")
        return (f"~~{name}~~" if self.faults(name) else f"`{name}`") + arrow


@dataclass(frozen=True, repr=False)
class JudgedTwice(Noun):
    """Metrics judged on the scenes that the rule was settled on, and on scenes that were kept back.

    Args:
        settled: what the rule was fitted to, so no evidence for it.
        fresh: what it says of scenes that nobody had looked at.
    """

    settled: Judgement
    fresh: Judgement

    def __repr__(self) -> str:
        both = f"{len(self.settled.passing)} and {len(self.fresh.passing)} of {len(self.order)} metrics pass"
        return f"JudgedTwice({both}, {len(self.changed)} verdicts changed)"

    @property
    def settings(self) -> dict[str, Any]:
        """Those of the judgement on fresh scenes, and the other's seed."""
        return self.fresh.settings | {"seed of the first": self.settled.settings.get("seed")}

    @property
    def skipped(self) -> dict[str, str]:
        """Metrics that could not be computed on either, and why."""
        return self.settled.skipped | self.fresh.skipped

    @property
    def order(self) -> list[str]:
        """Every metric, as they stand on fresh scenes."""
        return list(dict.fromkeys([*self.fresh.order, *self.settled.order]))

    @property
    def changed(self) -> tuple[str, ...]:
        """Metrics that pass on one set of scenes and fail on the other."""
        both = [name for name in self.order if name in self.settled.means and name in self.fresh.means]
        return tuple(name for name in both if bool(self.settled.faults(name)) != bool(self.fresh.faults(name)))

    def table(self) -> str:
        """Both verdicts side by side in Markdown, as they stand on fresh scenes; a changed one in bold."""
        seeds = [f"seed {noun.settings.get('seed')}" for noun in (self.settled, self.fresh)]
        heads = ["metric"]
        for kind, seed in zip(("settled on", "held out"), seeds, strict=True):
            heads += [f"{kind} ({seed}): AUROC", "verdict", "from the means alone"]
        lines = [f"| {' | '.join([*heads, 'changed'])} |", "|---" * (len(heads) + 1) + "|"]
        for name in self.order:
            cells = [self.fresh.shown(name) if name in self.fresh.means else self.settled.shown(name)]
            for noun in (self.settled, self.fresh):
                known = name in noun.means
                cells += [f"{noun.auroc[name]:.2f}", noun.verdict(name), noun.literal(name)] if known else ["–"] * 3
            lines.append(f"| {' | '.join([*cells, '**changed**' if name in self.changed else ''])} |")
        return "\n".join(lines) + "\n"
