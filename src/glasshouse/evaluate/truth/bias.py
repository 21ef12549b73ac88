"""Does a method show that a model goes by a shortcut? Biased models told from clean ones by their maps."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from math import exp, isnan, lgamma, log, nan
from typing import Any

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from glasshouse.core import (
    BadInput,
    GlasshouseError,
    Images,
    Maps,
    Model,
    Noun,
    PerImage,
    borrow,
    generator,
    resize,
    steps,
)
from glasshouse.data import Scenes
from glasshouse.evaluate.truth.controls import ignorant
from glasshouse.evaluate.truth.games import answers_to
from glasshouse.evaluate.truth.methods import MapOf, apart, values_of

BIASED, CLEAN = 0.3, 0.05
"""From which reliance a model counts as biased, and below which as clean; those between are left out."""

BLIND_GRID = (8, 8)


@dataclass(frozen=True, repr=False)
class BiasDetection(Noun):
    """How well each method's maps tell biased models from clean ones.

    Args:
        auroc: by method, the chance that a biased model has more of its map on the shortcut than a clean one.
        error: of `auroc`, by the formula of Hanley and McNeil (1982).
        on_shortcut: by method, by model: mean share of positive values on the shortcut, less its share of pixels.
        blind: by method, the adjusted mutual information of two clusters of maps and of which images the shortcut
            decided, averaged over the biased models that it decides for some images and not for others.
        reliance: by model, accuracy where the shortcut tells the truth less accuracy where it lies.
    """

    auroc: dict[str, float]
    error: dict[str, float]
    on_shortcut: dict[str, dict[str, float]]
    blind: dict[str, float]
    reliance: dict[str, float]
    skipped: dict[str, str] = field(default_factory=dict[str, str])
    settings: dict[str, Any] = field(default_factory=dict[str, Any])

    def __repr__(self) -> str:
        return f"BiasDetection({len(self.auroc)} methods, {len(self.biased)} biased and {len(self.clean)} clean models)"

    @property
    def biased(self) -> tuple[str, ...]:
        """Models that go by the shortcut."""
        return tuple(name for name, value in self.reliance.items() if value > BIASED)

    @property
    def clean(self) -> tuple[str, ...]:
        """Models that do not."""
        return tuple(name for name, value in self.reliance.items() if value < CLEAN)

    def table(self) -> str:
        """The table in Markdown, best first."""
        lines = ["| method | AUROC | on the shortcut, biased | clean | blind clusters |", "|---|---|---|---|---|"]
        for name in sorted(self.auroc, key=lambda name: -self.auroc[name]):
            own = self.on_shortcut[name]
            biased, clean = (sum(own[m] for m in pool) / len(pool) for pool in (self.biased, self.clean))
            blind = f"{self.blind[name]:.2f}" if self.blind[name] == self.blind[name] else "–"
            lines.append(
                f"| `{name}` | {self.auroc[name]:.2f} ± {self.error[name]:.2f} | {biased:.2f} | {clean:.2f} | {blind} |"
            )
        return "\n".join(lines) + "\n"


def predictions(model: Model, scenes: Scenes, chunk: int = 64) -> Int[Tensor, " n"]:
    """The class that wins in each scene."""
    images = model.preprocess.normalise(scenes.images)
    with borrow(model, images) as network, torch.no_grad():
        return answers_to(network, images, chunk).argmax(1)


def shortcut_reliance(model: Model, scenes: Scenes) -> float:
    """Accuracy where the shortcut shows the category, less accuracy where it shows another: 0 is none, 1 is all.

    Args:
        scenes: with a shortcut; they are drawn again with the signal of the right category, and of another.
    """
    if scenes.shortcut is None:
        raise BadInput("these scenes have no shortcut.", "Pass shortcut=Shortcut(…), split='aligned' to data.scenes.")
    shift = torch.arange(len(scenes)) % (len(scenes.class_names) - 1) + 1
    shown = (scenes.categories, (scenes.categories + shift) % len(scenes.class_names))
    right = [(predictions(model, scenes.do(signal=s)).cpu() == scenes.categories).double().mean() for s in shown]
    return float(right[0] - right[1])


def bias_detection(
    models: Mapping[str, tuple[Model, Scenes]],
    methods: Mapping[str, MapOf],
    *,
    reliance: Mapping[str, float] | None = None,
    seed: int = 0,
) -> BiasDetection:
    """Tell models that go by a shortcut from those that do not, by where their maps lie.

    For each model the mean share of a map's positive values inside the shortcut, less the shortcut's share of pixels;
    over models the area under the ROC curve. Adebayo et al., "Debugging tests for model explanations", NeurIPS 2020,
    ask whether people can; here the statistic is fixed. The blind variant does not know where the shortcut is: maps
    are clustered in two, as in SpRAy (Lapuschkin et al., Nature Communications 2019), and the clusters are compared
    with what is true: whether taking the shortcut away changes the model's answer.

    Args:
        models: by name, each with the scenes to explain: with a shortcut, `split="aligned"`. The class explained is the
            model's own answer.
        methods: as for `benchmark`; one that fails for a model, or shows nothing positive in any of its scenes, is left
            out.
        reliance: by model, where it was measured before; else `shortcut_reliance` of these scenes.
    """
    apart(methods)
    for name, (_, scenes) in models.items():
        if not bool(scenes.shortcut_mask.any()):
            raise BadInput(
                f"nothing is known of where the shortcut is in the scenes of '{name}'.",
                "Pass shortcut=Shortcut(…), split='aligned', labels=True to data.scenes.",
            )
    if missing := [] if reliance is None else [name for name in models if name not in reliance]:
        raise BadInput(f"no reliance is given for {', '.join(missing[:3])}.", "Give all, or none to have it measured.")
    measured = {name: shortcut_reliance(*pair) if reliance is None else reliance[name] for name, pair in models.items()}
    if not any(v > BIASED for v in measured.values()) or not any(v < CLEAN for v in measured.values()):
        seen = ", ".join(f"{name} {value:.2f}" for name, value in measured.items())
        raise BadInput(
            f"no model is biased, or none is clean: {seen}.", f"Above {BIASED}, and below {CLEAN}, is meant."
        )
    used = {name: pair for name, pair in models.items() if measured[name] > BIASED or measured[name] < CLEAN}
    on: dict[str, dict[str, float]] = {}
    clusters: dict[str, list[float]] = {}
    skipped, names = dict[str, str](), list(used)
    for place in steps(len(names)):
        model, scenes = used[names[place]]
        images, classes = model.preprocess.normalise(scenes.images), predictions(model, scenes)
        decided = predictions(model, scenes.do(signal=-1)) != classes
        for who, maps in all_maps(model, images, classes, methods, skipped, seed).items():
            share = float(mass_on(maps, scenes.shortcut_mask).nanmean())
            if isnan(share):
                skipped[who] = f"nothing positive in any map of '{names[place]}'"
                continue
            on.setdefault(who, {})[names[place]] = share
            if measured[names[place]] > BIASED and 0.1 < float(decided.float().mean()) < 0.9:
                found = two_clusters(maps, seed)
                clusters.setdefault(who, []).append(mutual_information(found, decided.long().cpu()))
    whole = {who: own for who, own in on.items() if len(own) == len(used)}
    pools = [[name for name in used if (measured[name] > BIASED) == biased] for biased in (True, False)]
    auroc = {who: area([own[m] for m in pools[0]], [own[m] for m in pools[1]]) for who, own in whole.items()}
    error = {who: area_error(value, len(pools[0]), len(pools[1])) for who, value in auroc.items()}
    blind = {who: sum(clusters[who]) / len(clusters[who]) if clusters.get(who) else nan for who in whole}
    return BiasDetection(auroc, error, whole, blind, measured, skipped, {"seed": seed, "n_models": len(used)})


def all_maps(
    model: Model,
    images: Images,
    classes: Int[Tensor, " n"],
    methods: Mapping[str, MapOf],
    skipped: dict[str, str],
    seed: int,
) -> dict[str, Maps]:
    """The maps of every method and of the controls that know nothing; what fails is noted."""
    found = ignorant(images, seed)
    for who, method in methods.items():
        try:
            found[who] = values_of(method(model, images, classes))[0].to(images.device)
        except GlasshouseError as reason:
            skipped[who] = str(reason)
    return found


def mass_on(maps: Maps, mask: Bool[Tensor, "n h w"]) -> PerImage:
    """The share of positive values inside a mask, less the mask's share of pixels; not-a-number where none is."""
    positive, inside = maps.clamp(min=0).flatten(1).double(), mask.to(maps.device).flatten(1)
    return (positive * inside).sum(1) / positive.sum(1) - inside.double().mean(1)


def area(above: list[float], below: list[float]) -> float:
    """The chance that one of the first is greater than one of the second; ties count half."""
    first, second = (torch.tensor(values, dtype=torch.float64) for values in (above, below))
    lead = first[:, None] - second
    return float(((lead > 0).double() + 0.5 * (lead == 0).double()).mean())


def area_error(value: float, n_above: int, n_below: int) -> float:
    """Standard error of an area under the ROC curve (Hanley and McNeil, Radiology 1982); at 0 and 1 it is 0."""
    one, two = value / (2 - value), 2 * value**2 / (1 + value)
    spread = value * (1 - value) + (n_above - 1) * (one - value**2) + (n_below - 1) * (two - value**2)
    return max(0.0, spread / (n_above * n_below)) ** 0.5


def two_clusters(maps: Maps, seed: int, n_rounds: int = 20, n_starts: int = 8) -> Int[Tensor, " n"]:
    """Two clusters of maps by k-means, on a coarse grid and of equal length; the best of several starts."""
    points = resize(maps.nan_to_num(0, 0, 0).clamp(min=0)[:, None], BLIND_GRID).flatten(1).double()
    points = points / points.norm(dim=1, keepdim=True).clamp(min=1e-12)
    draws, best, chosen = generator(seed), float("inf"), torch.zeros(len(points), dtype=torch.long)
    for _ in range(n_starts):
        middles = points[torch.randperm(len(points), generator=draws)[:2].to(points.device)]
        nearest = torch.cdist(points, middles).argmin(1)
        for _ in range(n_rounds):
            own = [points[nearest == k].mean(0) if bool((nearest == k).any()) else middles[k] for k in range(2)]
            middles = torch.stack(own)
            nearest = torch.cdist(points, middles).argmin(1)
        distance = float(torch.cdist(points, middles).amin(1).square().sum())
        if distance < best:
            best, chosen = distance, nearest
    return chosen.cpu()


def mutual_information(first: Int[Tensor, " n"], second: Int[Tensor, " n"]) -> float:
    """Adjusted mutual information of two groupings: 1 for the same, 0 in expectation for unrelated ones.

    (I - E I) / (mean of the entropies - E I), expectations over all groupings of the same sizes.

    Vinh, Epps and Bailey, "Information theoretic measures for clusterings comparison", JMLR 2010.
    """
    n = len(first)
    a, b = first.unique(return_counts=True)[1].tolist(), second.unique(return_counts=True)[1].tolist()
    rows, columns = first.unique(return_inverse=True)[1], second.unique(return_inverse=True)[1]
    table = torch.zeros(len(a), len(b)).index_put_((rows, columns), torch.ones(n), accumulate=True)

    def entropy(counts: list[int]) -> float:
        return -sum(c / n * log(c / n) for c in counts)

    shared = sum(
        float(c) / n * log(n * float(c) / (a[i] * b[j])) for i, row in enumerate(table) for j, c in enumerate(row) if c
    )
    expected = sum(expected_share(n, x, y) for x in a for y in b)
    span = (entropy(a) + entropy(b)) / 2 - expected
    return (shared - expected) / span if abs(span) > 1e-12 else float(len(a) == len(b) == 1)


def expected_share(n: int, a: int, b: int) -> float:
    """What a pair of groups of sizes a and b adds to the expected mutual information, by the hypergeometric law."""
    total = 0.0
    fixed = lgamma(a + 1) + lgamma(b + 1) + lgamma(n - a + 1) + lgamma(n - b + 1) - lgamma(n + 1)
    for c in range(max(1, a + b - n), min(a, b) + 1):
        chance = fixed - lgamma(c + 1) - lgamma(a - c + 1) - lgamma(b - c + 1) - lgamma(n - a - b + c + 1)
        total += c / n * log(n * c / (a * b)) * exp(chance)
    return total
