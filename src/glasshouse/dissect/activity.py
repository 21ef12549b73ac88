"""Which images of a data set excite a unit, found in one pass that keeps no activations."""

from collections.abc import Callable, Sequence
from functools import partial
from hashlib import sha256
from math import prod
from pathlib import Path
from typing import Any, TypeAlias

import torch
from einops import rearrange, repeat
from jaxtyping import Float, Int
from torch import Tensor, nn

from glasshouse.core import (
    BadInput,
    LayerGeometry,
    Model,
    NotFound,
    Progress,
    Units,
    borrow,
    geometry,
    probe,
    registered,
    unit_maps,
)
from glasshouse.core.lift import checked_images, module_of
from glasshouse.core.shards import Data, sweep
from glasshouse.core.stats import Moments, Quantiles, Sample, Stat, TopK, UpperTail
from glasshouse.dissect.exhibits import Exemplars, Picks, Reduction, image_of

Reader: TypeAlias = Callable[[Any, Tensor], Units]
"""From a batch of a data set and the indices of its items to the maps of the units asked for."""

N_SAMPLED = 1024  # images that the random ones and the spectrum are drawn from
MOST_KEPT = 2**23  # activations kept to read thresholds off exactly; beyond that a sketch stands in


@registered(
    "dissect",
    paper="Zeiler and Fergus, ECCV 2014",
    warning="the strongest images show one end of a unit's range; look at the spectrum as well.",
    example={"k": 3, "batch_size": 8},
)
def exemplars(
    model: Model | nn.Module,
    data: Data,
    *,
    layer: str | None = None,
    units: Sequence[int] | None = None,
    k: int = 9,
    score: Reduction = "max",
    level: float = 0.995,
    batch_size: int = 16,
    into: Path | None = None,
    seed: int = 0,
    progress: Progress | None = None,
) -> Exemplars:
    """The images that excite each unit of `layer` most and least, with the place in each that does it.

        s_k(x) = max_ij A_k,ij(x)     (or the mean, or the energy sum_ij A_k,ij²)

    Zeiler and Fergus, "Visualizing and understanding convolutional networks", ECCV 2014, fig. 2, which
    shows the nine strongest. Beside them stand random images and the deciles of the score, because the
    strongest alone suggest a purer unit than there is.

    One pass over the data, which ends at the layer and keeps no activations, then one over the strongest
    images for their maps. Equal scores are ordered by index. Another `batch_size` may change the last bits
    of a convolution, and so swap images whose scores are that close; nothing else depends on it.

    Args:
        data: images `n c h w`, or a data set whose items are an image, or a tuple that starts with one;
            its `ids`, if it has them, name images in errors and results.
        layer: None takes the last one with positions.
        units: numbers of output channels; None takes all.
        k: images in each group; with fewer in the data set, all of them.
        score: which place is shown is always that of the largest activation (in size, for the energy).
        level: share of all activations of a unit that lie below its threshold.
        into: folder for partial results, from which an interrupted pass goes on.
        seed: of the random images.
    """
    if not len(data):
        raise BadInput("the data set is empty.", "Check the folder, or the filter that made it.")
    device = next((weight.device for weight in module_of(model).parameters()), torch.device("cpu"))
    names, first = _names(data), checked_images(image_of(data[0])[None]).to(device)
    with borrow(model, first) as network:
        layer = layer or geometry(network, first).usual()
    with borrow(model, first, [layer]) as network, torch.no_grad():
        place = unit_maps(network, first, layer)
        chosen = _chosen(units, place)
        read = _reader(network, layer, place, chosen, first, names)
        stats: dict[str, Stat] = {
            "strongest": TopK(k),
            "weakest": TopK(k, largest=False),
            "sample": Sample(max(k, N_SAMPLED), seed),
            "mean": Moments(),
            "resting": Moments(),
            "values": _distribution(level, len(data) * prod(place.grid), len(chosen)),
        }
        key = _key(module_of(model), layer, chosen, score) if into else ""
        step = partial(_step, read, score, names)
        seen: Any = sweep(step, data, stats, batch_size=batch_size, into=into, key=key, progress=progress)
        maps = _maps(read, data, seen["strongest"], place.grid, batch_size, progress)
    best, least, sample, values = (seen[name] for name in ("strongest", "weakest", "sample", "values"))
    picks = {
        "strongest": _picks(place, best.ids, best.values, best.positions),
        "weakest": _picks(place, least.ids, least.values, least.positions),
        "random": _sampled(place, sample, repeat(torch.arange(min(k, len(data))), "k -> u k", u=len(chosen))),
        "spectrum": _sampled(place, sample, _deciles(sample)),
    }
    shown = {i for pick in picks.values() for i in pick.ids.unique().tolist()} if hasattr(data, "ids") else ()
    return Exemplars(
        layer,
        chosen,
        score,
        **picks,
        maps=maps,
        peak=values.at(1.0),
        mean=seen["mean"].mean,
        resting=seen["resting"].mean,
        threshold=values.at(level),
        level=level,
        rank_error=getattr(values, "rank_error", 0.0),
        local=place.local,
        window=(round(place.rows.size), round(place.cols.size)),
        image_size=place.image,
        n_images=len(data),
        names={index: str(names[index]) for index in sorted(shown)},
        settings={"k": k, "batch_size": batch_size, "seed": seed},
    )


def _names(data: Data) -> Sequence[Any]:
    ids: Any = getattr(data, "ids", None)
    names: Any = ids() if callable(ids) else ids
    return range(len(data)) if names is None else names


def _chosen(units: Sequence[int] | None, place: LayerGeometry) -> Int[Tensor, " u"]:
    if units is None:
        return torch.arange(place.units)
    wrong = [unit for unit in units if not 0 <= unit < place.units]
    if wrong or not len(units):
        raise NotFound(
            f"no unit {wrong[0]} in layer '{place.name}'." if wrong else "no units were asked for.",
            f"It has {place.units}; they count from 0.",
        )
    return torch.tensor(list(units))


def _reader(
    network: nn.Module, layer: str, place: LayerGeometry, units: Tensor, first: Tensor, names: Sequence[Any]
) -> Reader:
    every = torch.equal(units, torch.arange(place.units))

    def read(batch: Any, ids: Tensor) -> Units:
        images = image_of(batch)
        if images.shape[1:] != first.shape[1:] or images.dtype != first.dtype:
            raise BadInput(
                f"image {str(names[int(ids[0])])!r} is {tuple(images.shape[1:])} {images.dtype}, "
                f"the first is {tuple(first.shape[1:])} {first.dtype}.",
                "Bring all of them to one size and type, for instance with model.preprocess.",
            )
        with probe(network, layer, stop=True) as seen:
            network(images.to(first.device))
        maps = place.maps(seen[layer])
        maps = maps if every else maps[:, units.to(maps.device)]
        return maps.float() if maps.dtype.itemsize < 4 else maps

    return read


def _step(
    read: Reader, score: Reduction, names: Sequence[Any], batch: Any, ids: Tensor
) -> dict[str, tuple[Tensor, ...]]:
    """What each statistic counts of one batch."""
    flat = rearrange(read(batch, ids), "n k i j -> n k (i j)")
    mean = flat.mean(2)
    if not mean.isfinite().all():
        row = int((~mean.isfinite()).any(1).nonzero()[0])
        raise BadInput(
            f"image {str(names[int(ids[row])])!r} gives activations that are NaN or infinite.",
            "Look at its pixels, or run the model in float32.",
        )
    values, positions = _scores(flat, mean, score)
    scored = (values, ids.to(flat.device), positions)
    resting = (flat == 0).sum(2) / flat.shape[2]
    alike = dict.fromkeys(("strongest", "weakest", "sample"), scored)
    return {**alike, "mean": (mean,), "resting": (resting,), "values": (flat,)}


def _scores(
    flat: Float[Tensor, "n k p"], mean: Float[Tensor, "n k"], score: Reduction
) -> tuple[Float[Tensor, "n k"], Int[Tensor, "n k"]]:
    """One number per image and unit, and the flat position that is shown for it."""
    if score == "energy":
        energy = flat.square()
        return energy.sum(2), energy.argmax(2)
    peak = flat.max(2)
    return (peak.values if score == "max" else mean), peak.indices


def _distribution(level: float, n_values: int, n_units: int) -> UpperTail | Quantiles:
    """The statistic that thresholds are read off: exact where that fits in memory."""
    tail = UpperTail(level, n_values)
    return tail if tail.n_kept * n_units <= MOST_KEPT else Quantiles()


def _sampled(place: LayerGeometry, sample: Sample, rows: Int[Tensor, "u k"]) -> Picks:
    """For each unit, some rows of the sample."""
    values, positions = (whole.T.gather(1, rows) for whole in (sample.values, sample.positions))
    return _picks(place, sample.ids[rows], values, positions)


def _picks(place: LayerGeometry, ids: Tensor, values: Tensor, positions: Tensor) -> Picks:
    columns = place.grid[1]
    grid = torch.stack([positions // columns, positions % columns], 2)
    boxes = place.boxes(positions.flatten()).unflatten(0, tuple(positions.shape))
    return Picks(ids, values, grid, boxes)


def _deciles(sample: Sample) -> Int[Tensor, "u nine"]:
    """Rows of the sample at the nine deciles of each unit: the least with 10 %, 20 %, … up to it."""
    by_id = sample.ids.argsort()
    order = by_id[sample.values.T[:, by_id].sort(dim=1, stable=True).indices]
    places = [-(-tenth * len(by_id) // 10) - 1 for tenth in range(1, 10)]
    return order[:, places]


def _maps(
    read: Reader,
    data: Data,
    best: TopK,
    grid: tuple[int, int],
    batch_size: int,
    progress: Progress | None,
) -> Float[Tensor, "u k i j"]:
    """Maps of each unit on its own images; an image that several units share is run once."""
    wanted, place = best.ids.unique(return_inverse=True)
    maps = torch.zeros(*best.ids.shape, *grid, dtype=best.values.dtype)
    for start in range(0, len(wanted), batch_size):
        batch = wanted[start : start + batch_size]
        images = torch.stack([image_of(data[index]) for index in batch.tolist()])
        seen = read(images, batch).cpu()
        unit, rank = ((place >= start) & (place < start + len(batch))).nonzero().T
        maps[unit, rank] = seen[place[unit, rank] - start, unit]
        if progress:
            progress(len(data) + start + len(batch), len(data) + len(wanted))
    return maps


def _key(module: nn.Module, layer: str, units: Tensor, score: str) -> str:
    """What the answer depends on beside the data: the weights, to the bit, and what was asked."""
    digest = sha256(str(units.tolist()).encode())
    for name, weight in module.state_dict().items():
        digest.update(name.encode())
        digest.update(weight.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())
    return f"exemplars of {layer} by {score}, {type(module).__name__} {digest.hexdigest()[:16]}"
