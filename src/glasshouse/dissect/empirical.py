"""How much of the image a unit really sees: its receptive field, measured by covering the image patch by patch."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from math import ceil
from typing import Any, Literal, TypeAlias

import torch
from einops import einsum
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from glasshouse.core import BadInput, LayerGeometry, Model, Noun, Progress, generator, probe, registered, watching
from glasshouse.core import steps as each
from glasshouse.core.field import Extent, pair
from glasshouse.core.patches import Engine, Image, patched_outputs
from glasshouse.core.shards import Data
from glasshouse.dissect.exhibits import Exemplars, image_of
from glasshouse.dissect.passes import reading

Cover: TypeAlias = float | Literal["shuffled"]
"""What covers a patch: a number in input space, or the image's own pixels in a random order."""


@dataclass(frozen=True, repr=False)
class ReceptiveFields(Noun):
    """Where around its strongest place each of u units reacts to a change of the image.

    Args:
        fields: mean change of the activation when a patch at this place is covered; the unit's own place, where it
            was strongest, is in the middle, and one step is one pixel.
        counts: how many images each value is the mean of; 0 where no patch could be put, and then the field is 0.
        level: share of a field's peak from which a pixel belongs to it.
        window: height and width of the receptive field that follows from the layers alone.
        patch: height and width of what was covered; nothing smaller can be told apart.
    """

    layer: str
    units: Int[Tensor, " u"]
    fields: Float[Tensor, "u h w"]
    counts: Int[Tensor, "u h w"]
    level: float
    window: tuple[int, int]
    patch: tuple[int, int]
    settings: dict[str, Any] = field(default_factory=dict[str, Any])

    def __repr__(self) -> str:
        seen = self.size[self.size > 0]
        mean = f"{seen.mean():.1f} ± {seen.std(correction=0):.1f}" if len(seen) else "no"
        theory = "×".join(str(side) for side in self.window)
        return f"ReceptiveFields({self.layer}, {len(self.units)} units, {mean} pixels wide of {theory})"

    @property
    def area(self) -> Int[Tensor, " u"]:
        """Pixels at which a unit's field reaches `level` of its peak; 0 for a unit that nothing changes."""
        peak = self.fields.amax((1, 2))[:, None, None]
        return ((self.fields >= self.level * peak) & (self.fields > 0)).sum((1, 2))

    @property
    def size(self) -> Float[Tensor, " u"]:
        """Side of a square of the same area, as in the paper's table."""
        return self.area.float().sqrt()


@dataclass(frozen=True, eq=False, repr=False)
class Line:
    """The patches along one axis of the image, and the places around a unit's own at which its field is wanted."""

    size: int
    patch: int
    stride: int
    reach: int

    @staticmethod
    def of(extent: Extent, size: int, patch: int, stride: int) -> "Line":
        """As far as a patch can matter, and no further than half of the image."""
        return Line(size, patch, stride, min(size // 2, ceil(extent.size / 2) + patch))

    @property
    def starts(self) -> Int[Tensor, " p"]:
        return torch.arange(0, self.size - self.patch + 1, self.stride)

    def around(self, centres: Float[Tensor, " m"]) -> tuple[Float[Tensor, "m d p"], Bool[Tensor, "m d"]]:
        """How the values at the patches' middles are interpolated at each distance from some centres, and where.

        Beyond the first and the last middle, and where a patch would leave the image, there is nothing.
        """
        offset = torch.arange(-self.reach, self.reach + 1, dtype=torch.float64)
        place = (centres[:, None].double() + offset - (self.patch - 1) / 2) / self.stride
        last = len(self.starts) - 1
        share = (1 - (place[..., None] - torch.arange(last + 1)).abs()).clamp(min=0)
        inside = (place >= 0) & (place <= last)
        return (share * inside[..., None]).float(), inside


class Reading(nn.Module):
    """A network up to one layer, of which it gives some units, each at a position of its own."""

    def __init__(self, network: nn.Module, place: LayerGeometry, at: tuple[Tensor, Tensor, Tensor]):
        super().__init__()
        self.network, self.place, self.at = network, place, at

    def forward(self, images: Tensor) -> Tensor:
        with probe(self.network, self.place.name, stop=True) as seen:
            self.network(images)
        units, rows, cols = self.at
        return self.place.maps(seen[self.place.name])[:, units, rows, cols]


@registered(
    "dissect",
    paper="Zhou et al., ICLR 2015",
    warning="nothing finer than the patch can be told apart, and a field is that of the strongest images only.",
    example={"sliding_window_shapes": 4, "strides": 4},
)
def receptive_fields(
    model: Model | nn.Module,
    data: Data,
    exemplars: Exemplars,
    *,
    units: Sequence[int] | None = None,
    sliding_window_shapes: int | tuple[int, int] = 11,
    strides: int | tuple[int, int] = 3,
    baselines: Cover = "shuffled",
    level: float = 0.5,
    engine: Engine = "auto",
    chunk: int = 16,
    seed: int = 0,
    progress: Progress | None = None,
) -> ReceptiveFields:
    """The part of the image that changes a unit when it is covered, around the place where the unit is strongest.

        field_u(d) = mean over the unit's strongest images x of |A_u(x) - A_u(x covered at c_x + d)|

    with A_u read at the position of its maximum, whose receptive field has its middle at pixel c_x. Zhou et al.,
    "Object detectors emerge in deep scene CNNs", ICLR 2015, sec. 3.2: patches of 11×11 pixels of random values, moved
    by 3. The field ends where it falls to `level` of its peak. A field narrower than the patch comes out as wide as the
    patch at half of the peak, a wider one as it is.

    A covered image serves every unit that has it among its strongest, the network ends at the layer, and patches that
    no window reaches are left out.

    Differs: the paper gives no threshold; half of the peak is ours. Its random values are the image's own pixels here.

    Args:
        data: the images that `exemplars` was made from.
        exemplars: of the layer and the units; all of its strongest images are covered.
        units: None takes all of those.
        sliding_window_shapes: height and width of the patch in pixels.
        strides: pixels between patches.
        engine: as for `attribute.occlusion`.
        chunk: covered images per forward pass; any number gives the same result.
    """
    (ph, pw), (sh, sw), (h, w) = pair(sliding_window_shapes), pair(strides), exemplars.image_size
    if not (0 < ph <= h and 0 < pw <= w and 0 < sh <= ph and 0 < sw <= pw and 0 < level <= 1 and chunk > 0):
        raise BadInput(
            f"a patch of {ph}×{pw} pixels moved by {sh}×{sw}, at level {level}, on images of {h}×{w}.",
            "The patch must fit into the image, the stride into the patch, and the level into 0…1.",
        )
    if len(data) != exemplars.n_images:
        raise BadInput(
            f"these are {len(data)} images, but exemplars were chosen among {exemplars.n_images}.",
            "Pass the whole data set, in the same order.",
        )
    wanted = exemplars.units.tolist() if units is None else list(units)
    seen = [exemplars.unit(unit).strongest for unit in wanted]
    ids, at = torch.cat([one.ids for one in seen]), torch.cat([one.positions for one in seen])
    with reading(model, data, [exemplars.layer], wanted) as read, watching(progress):
        place = read.places[exemplars.layer]
        lines = Line.of(place.rows, h, ph, sh), Line.of(place.cols, w, pw, sw)
        shape = len(wanted), 2 * lines[0].reach + 1, 2 * lines[1].reach + 1
        total, counts = torch.zeros(shape), torch.zeros(shape, dtype=torch.int32)
        images = ids.unique().tolist()
        for step in each(len(images)):
            row, rank = (ids == images[step]).nonzero(as_tuple=True)
            i, j = at[row, rank].unbind(1)
            image = image_of(data[images[step]])[None].to(read.first.device)
            network = Reading(read.network, place, (torch.tensor(wanted)[row], i, j))
            cover = _cover(image, baselines, seed + images[step])
            change = _changes(network, image, cover, lines, engine, chunk)
            down, across = (
                line.around(extent.start + extent.jump * position)
                for line, extent, position in zip(lines, (place.rows, place.cols), (i, j), strict=True)
            )
            total.index_add_(0, row, einsum(down[0], change, across[0], "m d p, p q m, m e q -> m d e"))
            counts.index_add_(0, row, (down[1][:, :, None] & across[1][:, None]).int())
    return ReceptiveFields(
        layer=exemplars.layer,
        units=torch.tensor(wanted),
        fields=total / counts.clamp(min=1),
        counts=counts,
        level=level,
        window=(round(place.rows.size), round(place.cols.size)),
        patch=(ph, pw),
        settings={"strides": (sh, sw), "baselines": baselines, "seed": seed, "k": ids.shape[1]},
    )


def _changes(
    network: Reading, image: Image, cover: Image, lines: tuple[Line, Line], engine: Engine, chunk: int
) -> Float[Tensor, "p q m"]:
    """How much each of m values changes under each patch; 0 where the patch lies outside of its window."""
    top, left = torch.meshgrid(lines[0].starts, lines[1].starts, indexing="ij")
    boxes = torch.stack([top, left, top + lines[0].patch, left + lines[1].patch], 2).flatten(0, 1)
    _, rows, cols = network.at
    reached = torch.ones(len(boxes), len(rows), dtype=torch.bool)
    if network.place.local:
        window = network.place.boxes(rows * network.place.grid[1] + cols)
        reached = ((boxes[:, None, :2] < window[:, 2:]) & (window[:, :2] < boxes[:, None, 2:])).all(2)
    some = reached.any(1)
    with torch.no_grad():
        clean = network(image)
    answers = patched_outputs(network, image, boxes[some], cover, engine=engine, chunk=chunk)
    change = torch.zeros(len(boxes), len(rows))
    change[some] = (torch.cat([answer.output for answer in answers]) - clean).abs().float().cpu()
    return (change * reached).unflatten(0, tuple(top.shape))


def _cover(image: Image, baselines: Cover, seed: int) -> Image:
    if isinstance(baselines, float | int):
        return torch.full_like(image, baselines)
    if baselines != "shuffled":
        raise BadInput(f"baselines='{baselines}' is unknown.", "Give a number in input space, or 'shuffled'.")
    order = torch.randperm(image.shape[2] * image.shape[3], generator=generator(seed)).to(image.device)
    return image.flatten(2)[:, :, order].view_as(image)
