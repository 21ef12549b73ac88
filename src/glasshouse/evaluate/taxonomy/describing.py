"""What is known of a method, from the registry and from the taxonomy, in one view."""

from dataclasses import dataclass
from typing import Any

import torch

from glasshouse.core import BadInput, Claim, Cost, Explanation, Info, NotFound, Noun, find_method
from glasshouse.evaluate.taxonomy.entries import method_spec
from glasshouse.evaluate.taxonomy.specs import MEANINGS, Access, Architecture, Asks, MethodSpec, Scope

STANDARD = (1, 3, 224, 224)
"""The shape of the image that costs are quoted for."""


@dataclass(frozen=True)
class Described:
    """A method: what the registry knows (`info`), what is written down (`spec`), and what both tell together."""

    info: Info
    spec: MethodSpec

    def __repr__(self) -> str:
        return f"Described({self.info.name}: {self.spec.family}, {self.spec.form}, {self.cost_in_words})"

    @property
    def name(self) -> str:
        return self.info.name

    @property
    def question(self) -> Asks:
        """What it answers, by its family where nothing else is said."""
        family = self.spec.family
        natural: Asks = (
            "how_trained"
            if family == "ext.training_dynamics"
            else "why_output"
            if family.startswith("processing") or family == "producing.attention"
            else "what_encoded"
        )
        return self.spec.question or natural

    @property
    def scope(self) -> Scope:
        """An instance where it takes images, else what its entry says."""
        return self.spec.scope or ("instance" if "inputs" in self.info.parameters.parameters else "model")

    @property
    def access(self) -> frozenset[Access]:
        """What it needs of a model: what its entry says, else what its cost and its arguments tell."""
        if self.spec.access is not None:
            return self.spec.access
        found: set[Access] = {"forward"}
        if self.cost is not None and self.cost.backward > 0:
            found.add("gradient")
        if "layer" in self.info.parameters.parameters:
            found.add("activations")
        return frozenset(found)

    @property
    def models(self) -> frozenset[Architecture]:
        """The networks it is for."""
        if self.spec.models is not None:
            return self.spec.models
        if self.info.needs == "attention":
            return frozenset({"vit"})
        return frozenset({"cnn", "vit"}) if self.info.folder == "attribute" else frozenset({"any"})

    @property
    def stochastic(self) -> bool:
        """Whether it draws at random; the same `seed` then gives the same."""
        return "seed" in self.info.parameters.parameters

    @property
    def claims(self) -> frozenset[Claim]:
        return self.info.claims

    @property
    def cost(self) -> Cost | None:
        """Passes for one image of 3 × 224 × 224 under default settings; None where that depends on more."""
        return self.info.price(self.info.defaults, STANDARD)

    @property
    def cost_in_words(self) -> str:
        """`1 F + 1 B`: a forward and a backward pass."""
        cost = self.cost
        if cost is None:
            return self.spec.effort or "?"
        passes = ((cost.forward, "F"), (cost.backward, "B"))
        return " + ".join(f"{count:.4g} {letter}" for count, letter in passes if count) or "none"

    @property
    def meaning(self) -> str:
        """What its family explains, in words."""
        return MEANINGS[self.spec.family]

    def to_dict(self) -> dict[str, Any]:
        """Everything as plain numbers, lists and text, ready for JSON."""
        info, spec, cost = self.info, self.spec, self.cost
        return {
            "name": self.name,
            "title": info.title,
            "family": spec.family,
            "question": self.question,
            "scope": self.scope,
            "access": sorted(self.access),
            "models": sorted(self.models),
            "form": spec.form,
            "unit": spec.unit,
            "stochastic": self.stochastic,
            "cost": None if cost is None else {"forward": cost.forward, "backward": cost.backward},
            "cost_in_words": self.cost_in_words,
            "claims": sorted(self.claims),
            "class_sensitive": info.class_sensitive if info.maps else None,
            "controls": [control._asdict() for control in spec.controls],
            "paper": info.paper,
            "cites": list(spec.cites),
            "peers": list(spec.peers),
            "warning": info.warning,
        }


def describe(method: str) -> Described:
    """All that is known of a method, by its full or short name.

    The registry knows the folders that were imported; `glasshouse.list_methods()` imports all of them.
    """
    info = find_method(method)
    if info.folder == "evaluate":
        raise BadInput(f"'{info.name}' is a metric.", "Call taxonomy.metric_spec for what it asks.")
    if (spec := method_spec(info)) is None:
        raise NotFound(
            f"nothing is known of what '{info.name}' explains.", "Register it with place=taxonomy.MethodSpec(…)."
        )
    return Described(info, spec)


def size(result: Noun) -> int:
    """How many pieces a reader has to take in: pixels that share a map's weight, nodes, concepts, units, pictures.

    Of maps the effective support exp(-sum p ln p), p = |a| / sum |a|, on average over images that have any. It is worth
    something at equal faithfulness only: the smallest explanation is none.
    """
    if isinstance(result, Explanation):
        weight = result.heatmap.flatten(1).double().abs()
        weight = weight[weight.isfinite().all(1) & (weight > 0).any(1)]
        if not len(weight):
            return 0
        return round(float(torch.special.entr(weight / weight.sum(1, keepdim=True)).sum(1).exp().mean()))
    for pieces in ("nodes", "vectors", "basis", "directions", "decoder", "presets", "pixels", "units", "values"):
        found = getattr(result, pieces, None)
        if found is not None:
            return found.shape[1] if pieces == "values" else len(found)
    raise BadInput(f"nobody has said what a {type(result).__name__} is made of.", "Count its pieces yourself.")
