"""Which images of a data set excite a unit, found in one pass that keeps no activations."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

import torch
from einops import rearrange, repeat
from jaxtyping import Float, Int
from torch import Tensor, nn

from glasshouse.core import LayerGeometry, Model, Progress, Units, registered
from glasshouse.core.fingerprints import names_of
from glasshouse.core.shards import Data, Engine, serial
from glasshouse.core.stats import Moments, Quantiles, Sample, Stat, TopK, TopMaps, UpperTail
from glasshouse.dissect.exhibits import Exemplars, Picks, Reduction
from glasshouse.dissect.passes import Course, key_of, reading, run

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
    shard_size: int = 1024,
    into: Path | None = None,
    engine: Engine = serial,
    seed: int = 0,
    progress: Progress | None = None,
) -> Exemplars:
    """The images that excite each unit of `layer` most and least, with the place in each that does it.

        s_k(x) = max_ij A_k,ij(x)     (or the mean, or the energy sum_ij A_k,ij²)

    Zeiler and Fergus, "Visualizing and understanding convolutional networks", ECCV 2014, fig. 2, which
    shows the nine strongest. Beside them stand random images and the deciles of the score, because the
    strongest alone suggest a purer unit than there is.

    One pass over the data, which ends at the layer and keeps no activations but the strongest maps. Equal scores
    are ordered by index. Another `batch_size` may change the last bits of a convolution, and so swap images whose
    scores are that close; nothing else depends on it.

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
    with reading(model, data, [layer], units) as read:
        (layer, place), chosen = next(iter(read.places.items())), next(iter(read.units.values()))
        ranking = Ranking(place, chosen, len(data), k, score, level, seed)
        key = key_of(model, f"exemplars of {layer} {chosen.tolist()} by {score}") if into else ""
        course = Course(batch_size, into, key, engine, progress, shard_size)
        seen = run(read, data, {layer: {"ranking": ranking}}, course)[layer]["ranking"]
        return ranking.finish(seen, data, batch_size)


@dataclass(frozen=True)
class Ranking:
    """How the images of a data set are ranked for each unit: what `exemplars` counts in its pass."""

    place: LayerGeometry
    units: Int[Tensor, " u"]
    n_images: int
    k: int
    score: Reduction
    level: float
    seed: int

    def stats(self) -> dict[str, Stat]:
        return {
            "strongest": TopMaps(self.k),
            "weakest": TopK(self.k, largest=False),
            "sample": Sample(max(self.k, N_SAMPLED), self.seed),
            "mean": Moments(),
            "resting": Moments(),
            "values": distribution(self.level, self.n_images * prod(self.place.grid), len(self.units)),
        }

    def count(self, maps: Units, batch: Any, ids: Int[Tensor, " n"]) -> dict[str, tuple[Tensor, ...]]:
        flat = rearrange(maps, "n k i j -> n k (i j)")
        mean = flat.mean(2)
        values, positions = _scores(flat, mean, self.score)
        scored = (values, ids.to(flat.device), positions)
        resting = (flat == 0).sum(2) / flat.shape[2]
        alike = dict.fromkeys(("weakest", "sample"), scored)
        return {**alike, "strongest": (*scored, maps), "mean": (mean,), "resting": (resting,), "values": (flat,)}

    def finish(self, seen: Mapping[str, Any], data: Data, batch_size: int) -> Exemplars:
        """What the statistics say."""
        best, least, sample, values = (seen[name] for name in ("strongest", "weakest", "sample", "values"))
        k, names = min(self.k, len(data)), names_of(data)
        picks = {
            "strongest": _picks(self.place, best.ids, best.values, best.positions),
            "weakest": _picks(self.place, least.ids, least.values, least.positions),
            "random": _sampled(self.place, sample, repeat(torch.arange(k), "k -> u k", u=len(self.units))),
            "spectrum": _sampled(self.place, sample, _deciles(sample)),
        }
        shown = {i for pick in picks.values() for i in pick.ids.unique().tolist()} if hasattr(data, "ids") else ()
        return Exemplars(
            self.place.name,
            self.units,
            self.score,
            **picks,
            maps=best.maps.cpu(),
            peak=values.at(1.0),
            mean=seen["mean"].mean,
            resting=seen["resting"].mean,
            threshold=values.at(self.level),
            level=self.level,
            rank_error=getattr(values, "rank_error", 0.0),
            local=self.place.local,
            window=(round(self.place.rows.size), round(self.place.cols.size)),
            image_size=self.place.image,
            n_images=len(data),
            names={index: str(names[index]) for index in sorted(shown)},
            settings={"k": self.k, "batch_size": batch_size, "seed": self.seed},
        )


def _scores(
    flat: Float[Tensor, "n k p"], mean: Float[Tensor, "n k"], score: Reduction
) -> tuple[Float[Tensor, "n k"], Int[Tensor, "n k"]]:
    """One number per image and unit, and the flat position that is shown for it."""
    if score == "energy":
        energy = flat.square()
        return energy.sum(2), energy.argmax(2)
    peak = flat.max(2)
    return (peak.values if score == "max" else mean), peak.indices


def distribution(level: float, n_values: int, n_units: int) -> UpperTail | Quantiles:
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
