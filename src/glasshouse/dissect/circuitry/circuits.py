"""Circuits: the strongest wires that lead to a unit, layer by layer, as a graph."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple, TypeAlias

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from glasshouse.core import BadInput, Images, Model, NotFound, Noun, borrow, in_chunks, probe, registered
from glasshouse.core.gradient import gradient, keeping_graphs
from glasshouse.core.lift import checked_images
from glasshouse.dissect.circuitry.connections import CHUNK, expanded_weights
from glasshouse.dissect.circuitry.stretches import Stretch
from glasshouse.dissect.passes import chosen_units

By: TypeAlias = Literal["weight", "contribution"]


class Node(NamedTuple):
    """A unit of a layer."""

    layer: str
    unit: int


class Edge(NamedTuple):
    """A wire from a unit to one of a later layer. `share` is its part in the sizes of all that lead there."""

    source: Node
    target: Node
    value: float
    share: float


@dataclass(frozen=True, eq=False, repr=False)
class Circuit(Noun):
    """A graph of units and the strongest wires between them.

    Args:
        layers: in the order of the network.
        roots: units of the last layer that it was grown from.
        sources, targets: of each edge, as (place in `layers`, unit); those of one unit stand together, strongest first.
        values: positive where the source excites its target, negative where it inhibits it.
        shares: |value| over the sum of |values| of all units of the layer before, shown or not.
    """

    layers: tuple[str, ...]
    roots: Int[Tensor, " r"]
    sources: Int[Tensor, "e 2"]
    targets: Int[Tensor, "e 2"]
    values: Float[Tensor, " e"]
    shares: Float[Tensor, " e"]
    by: By
    settings: dict[str, Any] = field(default_factory=dict[str, Any])

    def __repr__(self) -> str:
        path = " → ".join(self.layers)
        return f"Circuit({path}, {len(self.nodes)} units, {len(self.values)} edges by {self.by})"

    @property
    def nodes(self) -> tuple[Node, ...]:
        """All units, from the first layer to the last, by number."""
        last = len(self.layers) - 1
        seen = {(last, unit) for unit in self.roots.tolist()}
        seen |= {(layer, unit) for ends in (self.sources, self.targets) for layer, unit in ends.tolist()}
        return tuple(Node(self.layers[layer], unit) for layer, unit in sorted(seen))

    @property
    def edges(self) -> tuple[Edge, ...]:
        """All wires, in the order in which the graph was grown."""
        columns = (part.tolist() for part in (self.sources, self.targets, self.values, self.shares))
        return tuple(
            Edge(Node(self.layers[a], u), Node(self.layers[b], v), value, share)
            for (a, u), (b, v), value, share in zip(*columns, strict=True)
        )

    @property
    def ranking(self) -> tuple[Edge, ...]:
        """The wires by size, the largest first."""
        return tuple(sorted(self.edges, key=lambda edge: -abs(edge.value)))

    def inputs_of(self, layer: str, unit: int) -> tuple[Edge, ...]:
        """The wires that lead to a unit, the strongest first."""
        return tuple(edge for edge in self.edges if edge.target == self._known(layer, unit))

    def outputs_of(self, layer: str, unit: int) -> tuple[Edge, ...]:
        """The wires that leave a unit, the strongest first."""
        return tuple(edge for edge in self.ranking if edge.source == self._known(layer, unit))

    def between(self, families: Mapping[str, Sequence[tuple[str, int]]]) -> dict[tuple[str, str], float]:
        """What families of units do to each other: values summed over the wires from one to another.

        Args:
            families: units as (layer, number), under the family's name; a unit of none counts nowhere.
        """
        home = {Node(*self._known(*member)): name for name, members in families.items() for member in members}
        if len(home) < sum(len(members) for members in families.values()):
            raise BadInput("a unit is in more than one family, or in one twice.", "Give each unit one family.")
        totals: dict[tuple[str, str], float] = {}
        for edge in self.edges:
            if edge.source in home and edge.target in home:
                pair = home[edge.source], home[edge.target]
                totals[pair] = totals.get(pair, 0.0) + edge.value
        return dict(sorted(totals.items(), key=lambda item: -abs(item[1])))

    def to_dict(self) -> dict[str, Any]:
        """Nodes and edges as lists, ready for JSON and for graph libraries."""
        number = {node: index for index, node in enumerate(self.nodes)}
        edges = [
            {"source": number[edge.source], "target": number[edge.target], "value": edge.value, "share": edge.share}
            for edge in self.edges
        ]
        nodes = [node._asdict() for node in self.nodes]
        return {"layers": list(self.layers), "by": self.by, "nodes": nodes, "edges": edges, "settings": self.settings}

    def _known(self, layer: str, unit: int) -> Node:
        if Node(layer, unit) not in self.nodes:
            raise NotFound(f"unit {unit} of '{layer}' is not in this circuit.", "Its units are in `nodes`.")
        return Node(layer, unit)


@registered(
    "dissect",
    paper="Olah et al., Distill 2020",
    warning="only the strongest wires are followed; many weak ones can outweigh them, and `shares` says how far.",
)
def circuit(
    model: Model | nn.Module,
    inputs: Images | None = None,
    *,
    layers: Sequence[str],
    units: Sequence[int],
    by: By = "weight",
    k: int = 4,
    threshold: float | int = 0.1,
    baselines: Float[Tensor, "m c h w"] | None = None,
) -> Circuit:
    """The wires that lead to units of the last of some layers, grown backwards: the k strongest of each unit met.

    "weight": the L2 norm of the linear expanded weights W_uv of `expanded_weights`, with the sign of their sum. They
    are the same for all images.
    "contribution": what the source adds to its target at the place p* of each image where the target is strongest,
    the change of activation from the baseline times the gradient, averaged over images:

        C_uv = mean_n sum_p  (A_v,p - A'_v,p)  dA_u,p* / dA_v,p

    which sum over v to A_u,p* where no bias acts, the baseline is 0, and only ReLUs lie between. Olah et al., "Zoom in:
    an introduction to circuits", Distill 2020; to rank edges by activation difference times gradient: Syed, Rager and
    Conmy, "Attribution patching outperforms automated circuit discovery", 2023.

    Args:
        inputs: for "weight" their size only; None takes the size of the model's preprocessing.
        layers: in the order of the network, two or more. Wires join each to the next; what goes around one is not seen.
        units: of the last layer, from which the graph is grown.
        threshold: wires weaker than this share of the strongest that leads to the same unit are left out.
        baselines: one image, or one for each input, whose activations count as none; None takes activations of 0.
    """
    if len(layers) < 2 or len(set(layers)) < len(layers) or k < 1 or not 0 <= threshold <= 1:
        raise BadInput(
            f"layers={list(layers)}, k={k} and threshold={threshold} make no circuit.",
            "Name two layers or more, in the order of the network; k is 1 or more, threshold a share.",
        )
    if by not in ("weight", "contribution"):
        raise BadInput(f"no circuit by '{by}'.", "There are 'weight' and 'contribution'.")
    met, rows = torch.tensor(list(units)), list[tuple[list[int], list[int], float, float]]()
    for place in range(len(layers) - 1, 0, -1):
        source, layer = layers[place - 1], layers[place]
        if by == "weight":
            strength = by_weight(model, inputs, source, layer, met.tolist())
        else:
            strength = by_contribution(model, checked_images(inputs), baselines, source, layer, met.tolist())
        found = set[int]()
        for unit, values in zip(met.tolist(), strength.cpu(), strict=True):
            sizes, total = values.abs(), float(values.abs().sum())
            for of in sizes.argsort(descending=True, stable=True)[:k].tolist():
                if sizes[of] > 0 and sizes[of] >= threshold * sizes.max():
                    found.add(of)
                    rows.append(([place - 1, of], [place, unit], float(values[of]), float(sizes[of]) / total))
        if not found:
            break
        met = torch.tensor(sorted(found))
    sources, targets, values, shares = zip(*rows, strict=True) if rows else ([], [], [], [])
    return Circuit(
        tuple(layers),
        torch.tensor(list(units)),
        torch.tensor(sources).view(-1, 2).long(),
        torch.tensor(targets).view(-1, 2).long(),
        torch.tensor(values),
        torch.tensor(shares),
        by,
        settings={"k": k, "threshold": threshold, "n_images": 0 if inputs is None or by == "weight" else len(inputs)},
    )


def by_weight(
    model: Model | nn.Module, inputs: Images | None, source: str, layer: str, units: list[int]
) -> Float[Tensor, "u v"]:
    """Norms of the expanded weights, with the sign of their sums."""
    wires = expanded_weights(model, inputs, source=source, layer=layer, units=units)
    return wires.norm * wires.weights.sum((2, 3)).sign()


def by_contribution(
    model: Model | nn.Module,
    images: Images,
    baselines: Float[Tensor, "m c h w"] | None,
    source: str,
    layer: str,
    units: list[int],
) -> Float[Tensor, "u v"]:
    """What each unit of `source` adds to each of these units, averaged over images."""
    n, base = len(images), baselines
    if base is not None:
        base = checked_images(base)
        if len(base) not in (1, n) or base.shape[1:] != images.shape[1:]:
            raise BadInput(f"baselines {tuple(base.shape)} for inputs {tuple(images.shape)}.", "Give one, or one each.")
        base = base.to(images).expand_as(images)
    with borrow(model, images, [source, layer]) as network:
        stretch = Stretch.of(network, images, source, layer, linear=False)
        chosen = chosen_units(units, stretch.layer)

        def part(rows: Int[Tensor, " r"]) -> Float[Tensor, "u v"]:
            leaf, maps = stretch.run(images[rows])
            change = stretch.source.maps(leaf.detach())
            if base is not None:
                with torch.no_grad(), probe(network, source, stop=True) as seen:
                    network(base[rows])
                change = change - stretch.source.maps(seen[source])
            with keeping_graphs():
                peaks = (maps[:, unit].flatten(1).amax(1) for unit in chosen.tolist())
                pulls = [stretch.source.maps(gradient(peak, leaf)) for peak in peaks]
            return torch.stack([(change * pull).sum((0, 2, 3)) for pull in pulls])

        return torch.stack([added for _, added in in_chunks(part, n, CHUNK, images.device)]).sum(0) / n
