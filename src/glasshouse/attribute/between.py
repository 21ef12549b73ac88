"""From one layer to another: what the positions of the earlier one add to the later one's activity."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from glasshouse.attribute.units import LayerAttribution
from glasshouse.core import BadInput, Images, Model, borrow, probe, steps, unit_maps
from glasshouse.core.layers import LayerGeometry
from glasshouse.core.lift import checked_images


def layer_attribution(
    model: Model | nn.Module,
    inputs: Images,
    *,
    source: str,
    to: str,
    positions: Sequence[tuple[int, int]] | None = None,
) -> LayerAttribution:
    """What each position of one layer adds to the activity at each position of a later one.

        m(v, u) = sum_k A_k,u dy_v / dA_k,u,   y_v = sum_l B_l,v stop(B_l,v)

    A is the layer `source` and B the layer `to`; stop(B) counts as a constant, so that y_v is how far B at v goes in
    its own direction. Olah et al., "The building blocks of interpretability", Distill 2018. `extras["rest"]` is what
    a row misses of y_v, `extras["prefix"]` what tokens before the grid of `source` add. Costs one run up to `to`, and
    one way back between both layers for each position.

    Args:
        positions: of `to`, as (row, column); None asks about all of them.
    """
    images = checked_images(inputs)
    with borrow(model, images, [source, to]) as network:
        images = images.detach().clone().requires_grad_()
        units, later = unit_maps(network, images, source), unit_maps(network, images, to)
        asked = checked_positions(positions, later)
        with probe(network, source, to, stop=True) as seen:
            network(images)
        start, maps = seen[source], later.maps(seen[to])
        goals = (maps * maps.detach()).sum(1)
        values, prefix = list[Tensor](), list[Tensor]()
        for place in steps(len(asked)):
            product = start.detach() * slope(goals[:, *asked[place]], start, source, to)
            values.append(units.maps(product).sum(1).flatten(1))
            total = product.flatten(1).sum(1)
            prefix.append(total - values[-1].sum(1) if units.prefix else torch.zeros_like(total))
    strength = torch.stack([goals.detach()[:, *place] for place in asked], 1)
    rows, before = torch.stack(values, 1), torch.stack(prefix, 1)
    return LayerAttribution(
        values=rows,
        source=source,
        to=to,
        positions=asked,
        grid=units.grid,
        strength=strength,
        settings={"source": source, "to": to, "positions": positions and asked},
        extras={"rest": strength - rows.sum(2) - before, "prefix": before},
    )


def slope(goal: Tensor, start: Tensor, source: str, to: str) -> Tensor:
    """The gradient of one position's activity, with the graph kept for the next one."""
    found = torch.autograd.grad(goal.sum(), start, retain_graph=True, allow_unused=True)
    if found[0] is None:  # type: ignore[reportUnnecessaryComparison] - torch's types leave None out
        raise BadInput(f"layer '{to}' does not depend on '{source}'.", "Name the earlier layer as `source`.")
    return found[0]


def checked_positions(positions: Sequence[tuple[int, int]] | None, layer: LayerGeometry) -> tuple[tuple[int, int], ...]:
    rows, columns = layer.grid
    if positions is None:
        return tuple((i, j) for i in range(rows) for j in range(columns))
    if not positions or any(not (0 <= i < rows and 0 <= j < columns) for i, j in positions):
        raise BadInput(
            f"positions {list(positions)} do not all lie on '{layer.name}', which has {rows}×{columns} positions."
        )
    return tuple((int(i), int(j)) for i, j in positions)
