"""Weights of a network rewritten edge by edge, in a copy of it, and what that does to its predictions."""

from collections.abc import Sequence
from contextlib import ExitStack
from copy import deepcopy
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from glasshouse.core import BadInput, BadModel, Model, NothingMatched, Noun, Progress, generator, registered
from glasshouse.core.errors import LayerNotFound, not_found
from glasshouse.core.lift import checked_images, module_of
from glasshouse.core.plan import untouched
from glasshouse.core.shards import Data, sweep
from glasshouse.core.stats.protocol import Counted
from glasshouse.dissect.exhibits import image_of, targets_of


@dataclass(frozen=True)
class EdgeEdit:
    """What becomes of the edges from some inputs to some units of a convolution or linear layer.

    Args:
        layer: dotted name; its weights are `k c ...`, so of a grouped convolution inputs count within the group.
        units: output channels; None takes all.
        inputs: input channels; None takes all, and the bias of the units with them, so that 0 silences them.
        factor: weights are multiplied by it.
        weights: these take their place instead, in any shape that spreads over `k c ...` of the chosen edges.
    """

    layer: str
    units: Sequence[int] | None = None
    inputs: Sequence[int] | None = None
    factor: float = 0.0
    weights: Float[Tensor, "..."] | None = None


@registered("dissect", paper="Cammarata et al., Distill 2021")
def edit_circuit(model: Model | nn.Module, edits: Sequence[EdgeEdit]) -> Model:
    """A copy of the model with some of its edges cut, scaled or rewritten; the model itself is left alone.

        W'[k, c] = factor W[k, c]     or the weights given

    Edits apply in order. A layer whose weights two layers share changes in both, as it does in the model.
    Cammarata et al., "Curve circuits", Distill 2021, which edits circuits by removing and by replacing their weights.
    """
    if not edits:
        raise NothingMatched("no edits were given.", "Give at least one EdgeEdit(layer, units, inputs).")
    copied = deepcopy(module_of(model))
    with torch.no_grad():
        for change in edits:
            apply_edit(copied, change)
    return replace(model, module=copied) if isinstance(model, Model) else Model.of(copied)


def apply_edit(net: nn.Module, change: EdgeEdit) -> None:
    """Rewrite the weights of one layer, in place."""
    layer = weighted(net, change.layer)
    rows = chosen(change.units, len(layer.weight), "unit", change.layer)
    columns = chosen(change.inputs, layer.weight.shape[1], "input", change.layer)
    edges = layer.weight[rows[:, None], columns]
    if change.weights is None:
        layer.weight[rows[:, None], columns] = change.factor * edges
        if change.inputs is None and layer.bias is not None:
            layer.bias[rows] *= change.factor
        return
    try:
        layer.weight[rows[:, None], columns] = change.weights.to(edges).expand_as(edges)
    except RuntimeError as error:
        shape = tuple(change.weights.shape)
        raise BadInput(
            f"weights of shape {shape} do not spread over the edges chosen.", f"They have {tuple(edges.shape)}."
        ) from error


def weighted(net: nn.Module, name: str) -> Any:
    """The layer of that name, which must have weights of its own."""
    layers = dict(net.named_modules())
    if name not in layers or not name:
        raise not_found("layer", name, [known for known in layers if known], LayerNotFound)
    kinds = (nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.Linear)
    if not isinstance(layers[name], kinds):
        raise BadModel(
            f"layer '{name}' is a {type(layers[name]).__name__}, which has no edges from inputs to units.",
            "Name a convolution or a linear layer.",
        )
    return layers[name]


def chosen(numbers: Sequence[int] | None, count: int, kind: str, layer: str) -> Int[Tensor, " u"]:
    """Channel numbers, checked; all of them for None."""
    if numbers is None:
        return torch.arange(count)
    if not len(numbers):
        raise NothingMatched(f"an edit of '{layer}' names no {kind}.", "Give at least one number, or None for all.")
    if not 0 <= min(numbers) <= max(numbers) < count:
        raise BadInput(f"{kind}s {min(numbers)}…{max(numbers)} are not in layer '{layer}'.", f"It has 0…{count - 1}.")
    return torch.tensor(list(numbers))


def random_control(before: nn.Module, after: nn.Module, rng: torch.Generator) -> nn.Module:
    """A copy of `before` in which as many edges change by as much as in `after`, but other ones, drawn at random.

    Each change of an edge is given to an edge of the same layer that did not change; a change of bias to another unit.
    Norms are therefore equal, edge by edge.
    """
    copied = deepcopy(before)
    with torch.no_grad():
        for (name, old), (_, new), (_, target) in zip(
            before.named_parameters(), after.named_parameters(), copied.named_parameters(), strict=True
        ):
            depth = min(old.ndim, 2)
            change, flat = (new - old).flatten(0, depth - 1), target.flatten(0, depth - 1)
            moved = change.reshape(len(change), -1).any(1)
            if not moved.any():
                continue
            free = (~moved).nonzero()[:, 0]
            if len(free) < int(moved.sum()):
                raise BadInput(
                    f"{int(moved.sum())} of the {len(moved)} edges of '{name}' change, too many for a control.",
                    "Edit less than half of them, or set n_controls=0.",
                )
            at = free[torch.randperm(len(free), generator=rng)[: int(moved.sum())]]
            flat[at] += change[moved]
            target.copy_(flat.view_as(target))
    return copied


@dataclass(eq=False, repr=False)
class Confusions(Counted):
    """How often each of g networks takes images of each class for each class."""

    counts: Int[Tensor, "g c c"] = field(init=False, default_factory=lambda: torch.zeros(0, 0, 0, dtype=torch.int64))

    @property
    def shape(self) -> tuple[int, ...]:
        return tuple(self.counts.shape)

    def update(self, targets: Int[Tensor, " n"], answers: Int[Tensor, "g n"], n_classes: int) -> None:
        """Classes of n images: the true ones, and what each network said."""
        pairs = targets * n_classes + answers
        counts = torch.stack([row.bincount(minlength=n_classes**2) for row in pairs])
        self.counts = counts.unflatten(1, (n_classes, n_classes)) + (self.counts if self.counts.numel() else 0)

    def _join(self, other: "Confusions") -> None:
        self.counts = self.counts + other.counts


@dataclass(frozen=True, repr=False)
class EditEffect(Noun):
    """Predictions of a model before and after an edit, and after equally large edits of random other edges.

    Args:
        before, after: images of each class (row) taken for each class (column).
        controls: the same for m random edits of equal norm.
        norm: of the change of all weights, by that of the weights of the layers it lies in.
    """

    before: Int[Tensor, "c c"]
    after: Int[Tensor, "c c"]
    controls: Int[Tensor, "m c c"]
    norm: float
    class_names: tuple[str, ...] = ()
    settings: dict[str, Any] = field(default_factory=dict[str, Any])

    def __repr__(self) -> str:
        was, now = (float(accuracy(counts)) for counts in (self.before, self.after))
        random = f", random {float(accuracy(self.controls).mean()):.1%}" if len(self.controls) else ""
        return f"EditEffect({int(self.before.sum())} images, accuracy {was:.1%} to {now:.1%}{random})"

    @property
    def shift(self) -> Float[Tensor, " c"]:
        """By how much the share of images taken for each class grows, in all images."""
        return (self.after.sum(0) - self.before.sum(0)) / self.before.sum()

    @property
    def control_shift(self) -> Float[Tensor, "m c"]:
        """The same for each control."""
        return (self.controls.sum(1) - self.before.sum(0)) / self.before.sum()

    @property
    def drop(self) -> Float[Tensor, " c"]:
        """Accuracy that each class loses; not-a-number for a class without images."""
        return recall(self.before) - recall(self.after)

    @property
    def control_drop(self) -> Float[Tensor, "m c"]:
        """The same for each control."""
        return recall(self.before) - recall(self.controls)


def accuracy(counts: Int[Tensor, "*m c c"]) -> Float[Tensor, "*m"]:
    """Share of images on the diagonal."""
    return counts.diagonal(dim1=-2, dim2=-1).sum(-1) / counts.sum((-2, -1))


def recall(counts: Int[Tensor, "*m c c"]) -> Float[Tensor, "*m c"]:
    """Share of each class's images on the diagonal."""
    return counts.diagonal(dim1=-2, dim2=-1) / counts.sum(-1)


def edit_effect(
    model: Model | nn.Module,
    edits: Sequence[EdgeEdit],
    data: Data,
    *,
    n_controls: int = 3,
    batch_size: int = 16,
    seed: int = 0,
    progress: Progress | None = None,
) -> EditEffect:
    """How predictions change when a circuit is edited, against random edits of the same size.

    A control moves each change to another edge of the same layer that the edit leaves alone, so it is as large, edge
    by edge. One pass over the data runs all networks.

    Cammarata et al., "Curve circuits", Distill 2021, who report accuracy with and without the circuit. Differs: the
    controls are ours.

    Args:
        data: items are (image, class, …) or dictionaries with "image" and "target"; those with class -1 are left out.
        n_controls: random edits; 0 for none.
        seed: of the controls.
    """
    if n_controls < 0:
        raise BadInput(f"n_controls={n_controls} is negative.", "Use 0 for none.")
    before, after = module_of(model), module_of(edit_circuit(model, edits))
    rng = generator(seed)
    networks = [before, after, *(random_control(before, after, rng) for _ in range(n_controls))]
    device = next(before.parameters()).device

    def step(batch: Any, ids: Tensor) -> tuple[Tensor, Tensor, int]:
        targets = targets_of(batch)
        images, known = checked_images(image_of(batch)).to(device), targets >= 0
        with torch.no_grad():
            logits = torch.stack([network(images).float().cpu() for network in networks])
        if (targets >= logits.shape[2]).any():
            raise BadInput(f"class {int(targets.max())} is in the data; the model has {logits.shape[2]}.")
        return targets[known], logits.argmax(2)[:, known], logits.shape[2]

    with ExitStack() as stack:
        for network in networks:
            stack.enter_context(untouched(network))
        counts = sweep(step, data, Confusions(), batch_size=batch_size, progress=progress).counts
    if not counts.sum():
        raise BadInput("no item of the data set has a class.", "Give (image, class), with classes from 0.")
    names = tuple(model.class_names) if isinstance(model, Model) else ()
    settings = {"n_controls": n_controls, "seed": seed}
    return EditEffect(counts[0], counts[1], counts[2:], relative_norm(before, after), names, settings)


def relative_norm(before: nn.Module, after: nn.Module) -> float:
    """Of the change between two sets of weights, by that of the tensors that change."""
    pairs = [(old.detach(), new.detach()) for old, new in zip(before.parameters(), after.parameters(), strict=True)]
    changed = [(old, new) for old, new in pairs if not torch.equal(old, new)]
    if not changed:
        return 0.0
    squares = sum((new - old).double().square().sum() for old, new in changed)
    return float((squares / sum(old.double().square().sum() for old, _ in changed)) ** 0.5)
