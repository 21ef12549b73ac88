"""Is it the units that mean something, or any direction of their space?

Turning all units of a layer by an orthogonal matrix changes nothing that the network could not undo one layer later.
If concepts were carried by the space as a whole, turned units would detect as many of them.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from math import prod
from pathlib import Path
from typing import Any, NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from glasshouse.core import BadInput, Model, Noun, Progress, registered
from glasshouse.core.labelled import Labelled, find_labels
from glasshouse.core.seed import generator
from glasshouse.core.shards import Engine, serial
from glasshouse.core.stats.student import t_limit
from glasshouse.dissect.netdissect.detection import (
    MOST_KEPT,
    Counting,
    Mode,
    Overlapping,
    Remembered,
    Settings,
    Turned,
    find_thresholds,
)
from glasshouse.dissect.netdissect.tally import Tally
from glasshouse.dissect.passes import Course, key_of, reading, run


def rotation(n: int, alpha: float = 1.0, seed: int = 0) -> Float[Tensor, "n n"]:
    """A share of a random rotation Q, drawn evenly from SO(n): alpha 0 is no rotation, 1 is all of it (float64).

        Q^alpha = V diag(exp(i alpha θ)) V*        where Q = V diag(exp(i θ)) V*, -π < θ < π

    Q turns n/2 planes by an angle θ each; Q^alpha turns the same planes by alpha θ.
    """
    return _Planes.drawn(n, seed).turned(alpha)


class _Planes(NamedTuple):
    """A rotation, by the complex vectors that span its planes and the angle of each."""

    vectors: Tensor
    angles: Tensor

    @classmethod
    def drawn(cls, n: int, seed: int) -> "_Planes":
        q, r = torch.linalg.qr(torch.randn(n, n, dtype=torch.float64, generator=generator(seed)))
        q = q * r.diagonal().sign()
        q[:, 0] *= torch.linalg.slogdet(q)[0]
        values, vectors = torch.linalg.eig(q)
        return cls(vectors, values.angle())

    def turned(self, alpha: float) -> Float[Tensor, "n n"]:
        q = (self.vectors * torch.exp(1j * alpha * self.angles) @ self.vectors.mH).real
        return 1.5 * q - 0.5 * q @ q.T @ q  # one step to the nearest orthogonal matrix


@dataclass(frozen=True, repr=False)
class Rotations(Noun):
    """What u units detect when they are turned further and further, for s random rotations.

    Args:
        alphas: share of the rotation; 0 is the units themselves.
        unique, best: unique detectors by the rules "any" and "best" of `Tally.unique`.
        detectors: units with a concept above `min_iou`.
        iou: mean over units of the IoU with the best concept.
        by_category: unique detectors by the rule "any".
    """

    layer: str
    n_units: int
    n_images: int
    alphas: tuple[float, ...]
    unique: Int[Tensor, "a s"]
    best: Int[Tensor, "a s"]
    detectors: Int[Tensor, "a s"]
    iou: Float[Tensor, "a s"]
    by_category: dict[str, Tensor]
    min_iou: float = 0.04
    settings: dict[str, Any] = field(default_factory=dict[str, Any])

    def __repr__(self) -> str:
        counts = ", ".join(f"{count:.3g}" for count in self.unique.double().mean(1).tolist())
        return f"Rotations({self.layer}, {self.n_units} units: {counts} unique detectors at {self.alphas})"

    def interval(self, level: float = 0.95) -> Float[Tensor, "a 2"]:
        """Confidence limits for the mean number of unique detectors over rotations (Student's t).

        Not-a-number with a single rotation.
        """
        counts = self.unique.double()
        n = counts.shape[1]
        if n < 2:
            return torch.full((len(counts), 2), torch.nan, dtype=torch.float64)
        reach = t_limit(level, n - 1) * counts.std(1) / n**0.5
        return torch.stack([(counts.mean(1) - reach).clamp(min=0), counts.mean(1) + reach], 1)

    @property
    def fall(self) -> Float[Tensor, " a"]:
        """The share of the units' own unique detectors that is lost at each alpha; below 0 where there are more."""
        counts = self.unique.double().mean(1)
        return 1 - counts / counts[self.alphas.index(0.0)].clamp(min=1)


@registered(
    "dissect",
    paper="Bau et al., CVPR 2017, sec. 3.2",
    warning="a fall says that the units are special among directions, not that the network needs them.",
    example={"batch_size": 8, "min_images": 1, "alphas": (0.0, 1.0), "n_rotations": 1},
)
def rotation_test(
    model: Model | nn.Module,
    data: Labelled,
    *,
    layer: str | None = None,
    alphas: Sequence[float | int] = (0.0, 0.2, 0.4, 0.6, 0.8, 1.0),
    n_rotations: int = 3,
    concepts: Sequence[str | int] | None = None,
    mode: Mode = "2017",
    level: float | None = None,
    min_iou: float = 0.04,
    min_images: int = 10,
    batch_size: int = 16,
    shard_size: int = 1024,
    into: Path | None = None,
    engine: Engine = serial,
    seed: int = 0,
    progress: Progress | None = None,
) -> Rotations:
    """How many concepts have a detector when the units of `layer` are turned by a share of a random rotation.

        a' = Q^alpha a        then as `units`, with thresholds of their own

    Bau, Zhou, Khosla, Oliva and Torralba, "Network Dissection", CVPR 2017, sec. 3.2: in AlexNet's conv5 on Places205
    the number falls steadily, by four fifths at alpha = 1. All angles and rotations are counted in the same passes.

    Differs: the paper draws one rotation; `interval` says how the number varies over several.

    Args:
        data: as `units` takes it, like all arguments that are not named here.
        alphas: shares of the rotation, 0…1; 0 is counted in any case.
        seed: of the first rotation; the others follow.
    """
    shares = tuple(sorted({0.0, *(float(alpha) for alpha in alphas)}))
    if not 0 <= shares[0] <= shares[-1] <= 1 or n_rotations < 1:
        raise BadInput(f"alphas={tuple(alphas)}, n_rotations={n_rotations}.", "Shares lie in 0…1; draw 1 or more.")
    settings = Settings(mode, level, min_iou=min_iou, min_images=min_images, n_groups=1)
    wanted = find_labels(data.labels, concepts)
    with reading(model, data, [layer]) as read:
        (layer, place), units = next(iter(read.places.items())), next(iter(read.units.values()))
        turns: dict[str, Tensor | None] = {"0": None}
        for draw in range(n_rotations):
            planes = _Planes.drawn(len(units), seed + draw)
            turns |= {f"{alpha} {draw}": planes.turned(alpha) for alpha in shares[1:]}
        tasks = {name: Counting(place, units, data, settings) for name in turns}
        key = key_of(model, f"rotations of {layer} {shares} {n_rotations} {seed} {settings}") if into else ""
        course = Course(batch_size, into, key, engine, progress, shard_size)
        fits = engine is serial and len(data) * len(units) * prod(place.grid) <= MOST_KEPT
        maps = Remembered(read, len(data)) if fits else read
        turned = Turned(maps, layer, turns)
        limits, n_read = find_thresholds(turned, data, tasks, fits, course)
        analyses = {name: {"overlap": Overlapping(task, limits[name])} for name, task in tasks.items()}
        seen = run(turned, data, analyses, course.below("counts"))
        tallies = {
            name: task.finish(seen[name]["overlap"]["overlap"], limits[name], n_read, wanted, {}).tally
            for name, task in tasks.items()
        }
    table = [[tallies[f"{alpha} {draw}" if alpha else "0"] for draw in range(n_rotations)] for alpha in shares]
    return Rotations(
        layer,
        len(units),
        len(data),
        shares,
        unique=torch.tensor([[len(tally.unique("any")) for tally in row] for row in table]),
        best=torch.tensor([[len(tally.unique("best")) for tally in row] for row in table]),
        detectors=torch.tensor([[tally.n_detectors for tally in row] for row in table]),
        iou=torch.tensor([[_mean_iou(tally) for tally in row] for row in table], dtype=torch.float64),
        by_category={
            category: torch.tensor([[tally.by_category("any")[category] for tally in row] for row in table])
            for category in data.categories
        },
        min_iou=min_iou,
        settings={"mode": mode, "batch_size": batch_size, "seed": seed},
    )


def _mean_iou(tally: Tally) -> float:
    found = [winner[1].iou for row in range(len(tally.best)) if (winner := tally.winner(row))]
    return sum(found) / len(found)
