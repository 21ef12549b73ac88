"""Everything that is asked of a single unit, in one place."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from glasshouse.core import BadInput, Images, Model, Noun, Preprocess, Progress, Units, borrow, registered
from glasshouse.core.activations import find
from glasshouse.core.shards import Data, Engine, serial
from glasshouse.core.stats import Histogram, Moments, Quantiles, Stat
from glasshouse.core.trace import Op, record
from glasshouse.dissect.ablations.damage import Ablation
from glasshouse.dissect.ablations.wiring import WEIGHTED, maker, reader
from glasshouse.dissect.activity import Ranking
from glasshouse.dissect.circuitry.families import Families
from glasshouse.dissect.circuitry.responses import Tuning
from glasshouse.dissect.circuitry.tuning import Spread, tuning_curves
from glasshouse.dissect.exhibits import Exemplars
from glasshouse.dissect.passes import Course, key_of, reading, run

N_BINS = 64
SIGNS = Histogram(0.0, 1.0, 1)  # what lies below 0, and what is 0
USUAL: tuple[str, ...] = ("edge", "line", "curve", "grating", "colour_patch")


@dataclass(frozen=True, repr=False)
class Links(Noun):
    """Other units by the weights that tie them to one, the strongest first.

    Args:
        layer: the convolution or linear layer that holds the weights.
        units: numbers of its input channels, or of its outputs.
        size: L2 norm of the kernel between the two; total: its sum, whose sign says whether it excites.
        weights: the kernels; 1 x 1 in a linear layer.
    """

    layer: str
    units: Int[Tensor, " m"]
    size: Float[Tensor, " m"]
    total: Float[Tensor, " m"]
    weights: Float[Tensor, "m p q"]

    def __repr__(self) -> str:
        shown = ", ".join(f"{unit} {total:+.2g}" for unit, total in zip(self.units[:5], self.total[:5], strict=True))
        return f"Links({self.layer}: {shown}{', …' if len(self.units) > 5 else ''})"


@dataclass(frozen=True, repr=False)
class Interrogation(Noun):
    """What is known of one unit.

    Args:
        exemplars: images that excite it most and least, and at the deciles of its response.
        counts: how often its activation lies in each of equal bins, over all positions of all images.
        edges: of the bins, one more than there are bins.
        firing: share of these activations above 0.
        tunings: its responses to synthetic stimuli, by name.
        inputs, outputs: units next to it by weight; None where no single convolution or linear layer lies there.
        picture: drawn for it; ablation: what is lost without it; families: its relatives; expanded: weights to layers
            further away. As they were handed in.
    """

    layer: str
    unit: int
    exemplars: Exemplars
    counts: Int[Tensor, " b"]
    edges: Float[Tensor, " e"]
    mean: float
    std: float
    firing: float
    tunings: dict[str, Tuning]
    inputs: Links | None
    outputs: Links | None
    picture: Noun | None = None
    ablation: Ablation | None = None
    families: Families | None = None
    expanded: Noun | None = None
    settings: dict[str, Any] = field(default_factory=dict[str, Any])

    def __repr__(self) -> str:
        numbers = f"mean {self.mean:.3g} ± {self.std:.3g}, above 0 at {self.firing:.0%} of places"
        return f"Interrogation({self.layer} unit {self.unit}, {numbers}, {', '.join(self.tunings) or 'no tuning'})"

    @property
    def density(self) -> Float[Tensor, " b"]:
        """Of activations, per unit of activation: it integrates to 1."""
        widths = torch.diff(self.edges.double())
        return self.counts / (self.counts.sum() * widths)

    @property
    def log_density(self) -> Float[Tensor, " b"]:
        """Its natural logarithm, in which rare strong activations are seen; -inf for an empty bin."""
        return self.density.log()

    @property
    def best_stimulus(self) -> dict[str, float]:
        """How many standard deviations above the mean the best stimulus of each kind reaches."""
        return {name: float(tuning.deviations.max()) for name, tuning in self.tunings.items()}


@registered(
    "dissect",
    paper="Cammarata et al., Distill 2020",
    warning="a page of evidence is no proof: what was not shown to the unit cannot have excited it.",
    example={"unit": 0, "stimuli": {"edge": {"orientation": (0, 120, 240)}}, "k": 2, "batch_size": 8},
)
def interrogate(
    model: Model | nn.Module,
    data: Data,
    *,
    layer: str | None = None,
    unit: int,
    stimuli: Sequence[str] | Mapping[str, Mapping[str, Sequence[float | int]]] = USUAL,
    picture: Noun | None = None,
    ablation: Ablation | None = None,
    families: Families | None = None,
    expanded: Noun | None = None,
    k: int = 9,
    n_links: int = 12,
    preprocess: Preprocess | None = None,
    batch_size: int = 16,
    into: Path | None = None,
    engine: Engine = serial,
    seed: int = 0,
    progress: Progress | None = None,
) -> Interrogation:
    """All that can be asked of one unit: what excites it, how often, what it is tuned to, and how it is wired.

    After Cammarata et al., "Curve detectors", Distill 2020, which asks each of these of a unit before calling it a
    detector of anything: exemplars over its whole range, the distribution of its activation, synthetic stimuli, and
    what it does in the network.

    Two passes over the data up to the layer, and one run for each stimulus, at the size of the data's images. Weights
    are those of the next convolution or linear layer on either side, with batch norms folded in.

    Args:
        data: as `exemplars` takes it.
        layer: None takes the last one with positions.
        unit: number of the output channel.
        stimuli: names as in `tuning_curves`, or what is varied by name; empty for none.
        picture: from `visualize.render`.
        ablation: from `ablate_units`, with this unit among others.
        families: from `equivariance` or `Tuning.families`.
        expanded: weights to layers further away.
        k: images in each group; with fewer in the data set, all of them.
        n_links: how many inputs and outputs are kept.
        preprocess: turns pixels (0…1) of stimuli into inputs; None takes the model's own, or leaves pixels as they are.
        into: folder for partial results, from which interrupted passes go on.
    """
    if ablation is not None and str(unit) not in ablation.names:
        raise BadInput(f"the ablation is of units {', '.join(ablation.names[:8])}, not of {unit}.")
    with reading(model, data, [layer], [unit]) as read:
        (layer, place), chosen, first = next(iter(read.places.items())), torch.tensor([unit]), read.first
        key = key_of(model, f"interrogation of {layer} {unit} k={k} seed={seed}") if into else ""
        course = Course(batch_size, into, key, engine, progress)
        ranking = Ranking(place, chosen, len(data), k, "max", 0.995, seed)
        asked = {"ranking": ranking, "spread": Spread(), "range": Values({"sign": SIGNS, "extremes": Quantiles()})}
        found = run(read, data, {layer: asked}, course.below("range"))[layer]
        extremes: Quantiles = found["range"]["extremes"]
        low, high = float(extremes.at(0.0)), float(extremes.at(1.0))
        bins = Histogram(low, high, N_BINS) if low < high else Histogram(low - 0.5, low + 0.5, N_BINS)
        binned = run(read, data, {layer: {"values": Values({"bins": bins})}}, course.below("histogram"))[layer]
        seen = ranking.finish(found["ranking"], data, batch_size)
    moments: Moments = found["spread"]["moments"]
    signs: Histogram = found["range"]["sign"]
    shown = stimuli if isinstance(stimuli, Mapping) else dict.fromkeys(stimuli)
    tunings = {
        name: replace(
            tuning_curves(
                model,
                name,
                over,
                layer=layer,
                units=[unit],
                size=(first.shape[-2], first.shape[-1]),
                channels=first.shape[1],
                preprocess=preprocess,
                batch_size=batch_size,
            ),
            mean=moments.mean,
            std=moments.std,
        )
        for name, over in shown.items()
    }
    inputs, outputs = links(model, first, layer, unit, place.units, n_links)
    counted: Histogram = binned["values"]["bins"]
    return Interrogation(
        layer,
        unit,
        seen,
        counted.counts[0],
        counted.edges,
        float(moments.mean),
        float(moments.std),
        1 - float((signs.below + signs.zeros) / signs.total),
        tunings,
        inputs,
        outputs,
        picture,
        ablation,
        families,
        expanded,
        settings={"k": k, "batch_size": batch_size, "seed": seed},
    )


@dataclass(frozen=True)
class Values:
    """Statistics of single activations, wherever they lie."""

    kinds: Mapping[str, Histogram | Quantiles]

    def stats(self) -> dict[str, Stat]:
        return {name: kind.fresh() for name, kind in self.kinds.items()}

    def count(self, maps: Units, batch: Any, ids: Tensor) -> dict[str, tuple[Tensor, ...]]:
        return dict.fromkeys(self.kinds, (maps,))


def links(
    model: Model | nn.Module, image: Images, layer: str, unit: int, n_units: int, n_links: int
) -> tuple[Links | None, Links | None]:
    """The strongest inputs and outputs of a unit in the weights next to it, batch norms folded in.

    Operations on each unit by itself (an activation function, pooling) may lie between.
    """
    with borrow(model, image) as network:
        trace = record(network, image)
        at_input, name = find(network, layer).at_input, layer.split("#")[0]
        runs = trace.calls.get(name.removesuffix(".input") if at_input else name, [])
        if len(runs) != 1:
            return None, None
        value = (runs[0].inputs if at_input else runs[0].outputs)[0]
        before, behind = maker(trace, value), reader(trace, value)
        return incoming(network, before, unit, n_units, n_links), outgoing(network, behind, unit, n_units, n_links)


def incoming(network: nn.Module, op: Op | None, unit: int, n_units: int, n_links: int) -> Links | None:
    """What a unit reads: its own kernels."""
    weight = signed_weight(network, op)
    if op is None or weight is None or len(weight) != n_units:
        return None
    groups = inputs_of(op) // weight.shape[1]
    first = unit // (n_units // groups) * weight.shape[1]
    return strongest(op.layer, weight[unit], torch.arange(weight.shape[1]) + first, n_links)


def outgoing(network: nn.Module, op: Op | None, unit: int, n_units: int, n_links: int) -> Links | None:
    """What reads a unit; a flattened one has an input for every position."""
    weight = signed_weight(network, op)
    if op is None or weight is None or inputs_of(op) % n_units:
        return None
    if (places := inputs_of(op) // n_units) > 1:
        return strongest(op.layer, weight.flatten(1).unflatten(1, (n_units, 1, places))[:, unit], None, n_links)
    each = weight.shape[1]
    rows = len(weight) // (n_units // each)
    first = unit // each * rows
    kernels = weight[first : first + rows, unit % each]
    return strongest(op.layer, kernels, torch.arange(rows) + first, n_links)


def strongest(layer: str, kernels: Float[Tensor, "m p q"], units: Int[Tensor, " m"] | None, n_links: int) -> Links:
    """The largest kernels by L2 norm."""
    units = torch.arange(len(kernels)) if units is None else units
    size = kernels.flatten(1).norm(dim=1)
    order = size.argsort(descending=True, stable=True)[:n_links]
    return Links(layer, units[order], size[order], kernels.sum((1, 2))[order], kernels[order])


def signed_weight(network: nn.Module, op: Op | None) -> Float[Tensor, "o i p q"] | None:
    """Weights of a convolution or linear operation, in float64, a linear one's as 1 x 1 kernels."""
    if op is None or op.name not in WEIGHTED:
        return None
    weight = getattr(network.get_submodule(op.layer), "weight", None)
    if not isinstance(weight, Tensor) or weight.shape != op.args[1]:
        return None
    return weight.detach().cpu().double().reshape(*weight.shape, *[1] * (4 - weight.ndim))


def inputs_of(op: Op) -> int:
    """How many channels or features an operation reads."""
    return op.args[0][1 if op.name == "conv2d" else -1]
