"""What a classifier says without some units of a layer: three exact ways, the cheapest that the network allows.

- linear: only affine operations follow the layer. The logits without a unit are the clean ones minus its share,
  `Z - F_u W_u`, and no more of the network is run than the clean pass.
- suffix: what follows the layer is run again from its cached activation, for pairs of an image and a group.
- full: the whole network is run again, with a hook, where it cannot be cut at the layer.

Pairs that a removal leaves as they are (the unit is 0 everywhere in that image) are never run.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, TypeAlias

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from glasshouse.core import BadInput, BadModel, Images, LayerGeometry, Units, cut, edit, in_chunks, probe
from glasshouse.core.activations import find
from glasshouse.core.layers import learnt
from glasshouse.core.suffix import Suffix, whole
from glasshouse.core.target import logits

Route: TypeAlias = Literal["linear", "suffix", "full"]

RESHAPINGS = {"flatten", "reshape", "view", "squeeze", "unsqueeze", "permute", "transpose", "contiguous", "__getitem__"}
AVERAGES = {"adaptive_avg_pool2d", "avg_pool2d", "mean", "sum"}
AFFINE = {"linear", "conv2d", "batch_norm", "dropout"} | AVERAGES | RESHAPINGS
VALUES = 2**22  # of the head's operands held at a time
ACTIVATIONS = 2**20  # of the layer run on at a time


@dataclass(frozen=True)
class Head:
    """What follows the layer, as one matrix: logits = sum_kp F_kp W_kp + b.

    Args:
        weight: with p = 1 where all positions of a unit count alike, and F is their sum.
    """

    weight: Float[Tensor, "k p c"]
    bias: Float[Tensor, " c"]

    def features(self, maps: Units) -> Float[Tensor, "n k p"]:
        flat = maps.to(self.weight).flatten(2)
        return flat.sum(2, keepdim=True) if self.weight.shape[1] == 1 else flat

    def gives(self, maps: Units, output: Float[Tensor, "n c"]) -> bool:
        """Whether it is what the network computes, for these images too."""
        again = self.features(maps).flatten(1) @ self.weight.flatten(0, 1) + self.bias
        return torch.allclose(again, output.to(again), rtol=1e-3, atol=1e-4 * float(output.abs().max()))


@dataclass(frozen=True)
class Without:
    """A batch, clean and with each group of units replaced.

    Args:
        maps: of the layer.
        output: the clean logits.
        top: class with the largest logit (the first of equals) without each group.
        idle: where the removal leaves the layer as it is.
        reruns: pairs of an image and a group for which some of the network was run again.
    """

    maps: Units
    output: Float[Tensor, "n c"]
    top: Int[Tensor, "n g"]
    idle: Bool[Tensor, "n g"]
    reruns: int = 0


@dataclass(frozen=True)
class Removal:
    """How groups of units are taken out of a layer of one network.

    Args:
        members: units of each group.
        chunk: rows run on at a time; None chooses by the size of the layer.
    """

    network: nn.Module
    place: LayerGeometry
    layer: str
    members: Bool[Tensor, "g k"]
    route: Route
    head: Head | None
    chunk: int | None

    def __call__(self, images: Images, substitute: Float[Tensor, "#n #k #i #j"]) -> Without:
        """The classes that win when the groups' maps are those of `substitute`, one group at a time."""
        if self.route == "full":
            return self._in_full(images, substitute)
        if self.route == "linear":
            maps, output = self._clean(images)
            assert self.head is not None
            if self.head.gives(maps, output):
                return self._at_head(self.head, maps, output, substitute)
        return self._from_layer(images, substitute)

    def _at_head(self, head: Head, maps: Units, output: Float[Tensor, "n c"], substitute: Tensor) -> Without:
        """Without the pairs whose margin is wider than all that the removal can move."""
        clean, change = output.to(head.weight), head.features(maps - substitute)
        span = head.weight.amax(2) - head.weight.amin(2)
        reach = (change.abs() * span).sum(2) @ self.members.to(span).T
        first, second = clean.topk(2, 1).values.T
        slack = 1e-5 * (reach + clean.abs().amax(1, keepdim=True))
        image, group = (reach + slack >= (first - second)[:, None]).nonzero(as_tuple=True)
        units = self.members.to(torch.int8).argmax(1)
        alone = bool((self.members.sum(1) == 1).all())

        def winner(rows: Tensor) -> Int[Tensor, " r"]:
            which, those = image[rows], group[rows]
            if alone:
                moved = torch.einsum("rp,rpc->rc", change[which, units[those]], head.weight[units[those]])
            else:
                part = change[which] * self.members[those][:, :, None]
                moved = part.flatten(1) @ head.weight.flatten(0, 1)
            return (clean[which] - moved).argmax(1)

        top = output.argmax(1)[:, None].repeat(1, len(self.members))
        width = max(head.weight[0].numel() if alone else change[0].numel(), clean.shape[1])
        self._fill(top, image, group, winner, max(1, VALUES // width))
        return Without(maps, output, top, self._idle(maps, substitute))

    def _from_layer(self, images: Images, substitute: Tensor) -> Without:
        rest = cut(self.network, images, self.layer)
        maps, new = self.place.maps(rest.activation), substitute.expand(len(images), -1, -1, -1)
        idle = self._idle(maps, substitute)
        image, group = (~idle).nonzero(as_tuple=True)

        def winner(rows: Tensor) -> Int[Tensor, " r"]:
            part = rest.rows(image[rows])
            removed = self.members[group[rows]][:, :, None, None]
            changed = torch.where(removed, new[image[rows]], self.place.maps(part.activation))
            return logits(part(self.place.unmaps(changed, part.activation))).argmax(1)

        top = rest.output.argmax(1)[:, None].repeat(1, len(self.members))
        chunk = self.chunk or min(256, max(16, ACTIVATIONS // rest.activation[0].numel()))
        self._fill(top, image, group, winner, chunk)
        return Without(maps, rest.output, top, idle, len(image))

    def _in_full(self, images: Images, substitute: Tensor) -> Without:
        maps, output = self._clean(images)
        new, idle = substitute.expand(len(images), -1, -1, -1), self._idle(maps, substitute)
        top = output.argmax(1)[:, None].repeat(1, len(self.members))
        for group, members in enumerate(self.members):
            rows = (~idle[:, group]).nonzero()[:, 0]
            if len(rows):
                removed, there = members[:, None, None], new[rows]
                with edit(self.network, {self.layer: lambda now, r=removed, t=there: torch.where(r, t, now)}):
                    top[rows, group] = logits(self.network(images[rows])).argmax(1)
        return Without(maps, output, top, idle, int((~idle).sum()))

    def _clean(self, images: Float[Tensor, "n rgb h w"]) -> tuple[Units, Float[Tensor, "n c"]]:
        with probe(self.network, self.layer) as seen:
            output = logits(self.network(images))
        return self.place.maps(seen[self.layer]), output

    def _idle(self, maps: Units, substitute: Tensor) -> Bool[Tensor, "n g"]:
        differs = (maps != substitute).flatten(2).any(2)
        return differs.float() @ self.members.float().T == 0

    def _fill(self, top: Tensor, image: Tensor, group: Tensor, winner: Callable[[Tensor], Tensor], chunk: int) -> None:
        for rows, found in in_chunks(winner, len(image), chunk, top.device):
            top[image[rows], group[rows]] = found


def plan_removal(
    network: nn.Module, first: Images, place: LayerGeometry, layer: str, members: Bool[Tensor, "g k"], chunk: int | None
) -> Removal:
    """The cheapest way that is exact for this network, found on its first image."""
    head: Head | None = None
    route: Route = "suffix"
    try:
        rest = cut(network, first, layer)
        rest.rows(torch.zeros(2, dtype=torch.int64))
    except BadInput:  # it runs several times, or is called differently each time
        check_scores(logits(network(first)))
        route = "full"
    else:
        check_scores(rest.output)
        head = read_head(rest, place) if affine_behind(network, first, layer) else None
        route = "linear" if head else "suffix"
    return Removal(network, place, layer, members.to(first.device), route, head, chunk)


def check_scores(output: Tensor) -> None:
    """Ablation counts how often each class wins, so there must be classes."""
    if output.ndim != 2 or output.shape[1] < 2:
        raise BadModel(
            f"the model gives {tuple(output.shape)} for one image, which are no scores of two classes or more.",
            "Wrap it in a module that returns them as `n k`.",
        )


def read_head(rest: Suffix, place: LayerGeometry) -> Head | None:
    """The matrix of an affine rest, row by row from the gradients of the logits of one image."""
    dtype, parts = torch.promote_types(rest.output.dtype, torch.float32), list[Tensor]()
    at_a_time = max(1, VALUES // rest.activation.numel())
    for classes in torch.arange(rest.output.shape[1], device=rest.output.device).split(at_a_time):
        part = rest.rows(torch.zeros_like(classes))
        with torch.enable_grad():
            leaf = part.activation.requires_grad_()
            score = logits(part(leaf)).gather(1, classes[:, None]).sum()
        (gradient,) = torch.autograd.grad(score, leaf)
        flat = place.maps(gradient).to(dtype).flatten(2)
        alike = torch.equal(flat, flat[:, :, :1].expand_as(flat))
        parts.append(flat[:, :, :1].clone() if alike else flat)
    if len({part.shape[2] for part in parts}) > 1:
        return None
    output, maps = rest.output.to(dtype), place.maps(rest.activation)
    weight = torch.cat(parts).permute(1, 2, 0).contiguous()
    bias = output[0] - Head(weight, output[0]).features(maps)[0].flatten() @ weight.flatten(0, 1)
    return Head(weight, bias)


def affine_behind(network: nn.Module, image: Images, layer: str) -> bool:
    """Whether the layer runs once, and nothing but affine operations of its output alone run after it."""
    trace = learnt(network, image, whole)
    at_input, name = find(network, layer).at_input, layer.split("#")[0]
    runs = trace.calls.get(name.removesuffix(".input") if at_input else name, [])
    if len(runs) != 1:
        return False
    end = runs[0].started if at_input else runs[0].ended
    return all(op.name in AFFINE for op in trace.ops[end:])
