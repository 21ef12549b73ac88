"""Random masks: the score of the image seen through them says which pixels it needs."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import ceil
from typing import Any, Literal, TypeAlias, get_args

import torch
import torch.nn.functional as F
from einops import einsum, rearrange
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from glasshouse.attribute.answers import Classes, ask, wide
from glasshouse.attribute.baselines import Baselines, baseline_images
from glasshouse.core import Aim, BadInput, Cost, Images, Reading, Target, generator, in_chunks, method, steps
from glasshouse.core.field import pair
from glasshouse.core.mask import blend

Estimator: TypeAlias = Literal["paper", "normalized", "centered"]
Asked: TypeAlias = tuple[Int[Tensor, " r"], Int[Tensor, " r"], Float[Tensor, "r q"]]
"""Numbers of images and masks, and the answers to them."""

N_BLOCKS = 16  # parts of the masks whose maps are compared for the standard error
ENOUGH = 4  # blocks after which the standard error can be trusted to stop


def passes(settings: Mapping[str, Any], shape: Sequence[int]) -> Cost:
    """Of RISE: the image, and one per mask; fewer where `tol` is reached."""
    return Cost(1 + settings["n_masks"])


@method(
    cost=passes,
    claims=("implementation", "linear"),
    paper="Petsiuk et al., BMVC 2018",
    example={"n_masks": 48, "chunk": 8},
)
def rise(
    model: nn.Module,
    inputs: Images,
    target: Target = None,
    *,
    n_masks: int = 4000,
    grid: int | tuple[int, int] = 7,
    p: float = 0.5,
    estimator: Estimator = "paper",
    tol: float | None = None,
    baselines: Baselines = 0.0,
    classes: Classes = None,
    score: Reading = "prob",
    seed: int = 0,
    chunk: int = 16,
) -> tuple[Float[Tensor, "n 1 h w"], dict[str, Tensor]]:
    """The mean score of the image seen through random masks, each mask counted where it shows the pixel.

        "paper":       Σ_i y_i m_i(u) / (N p)
        "normalized":  Σ_i y_i m_i(u) / Σ_i m_i(u)
        "centered":    Σ_i (y_i - mean y) m_i(u) / (N p),        y_i = y(m_i x + (1 - m_i) baseline)

    Petsiuk, Das and Saenko, "RISE: randomized input sampling for explanation of black-box models", BMVC 2018, eq. 6;
    masks as in sec. 3.2: cells of a coarse grid shown with probability p, enlarged bilinearly, shifted at random by
    less than a cell. The paper takes 4000 masks for VGG-16 and 8000 for ResNet-50. A model that answers the same to
    everything gives a map of that answer, not of 0, with grain from pixels that were shown more often than others;
    "centered" takes both away.

    `extras["stderr"]` is the standard error, from the maps of 16 parts of the masks.

    Args:
        grid: rows and columns of cells.
        p: share of cells that are shown.
        tol: stop an image early, once the root mean square of `stderr` is below this share of the map's standard
            deviation; `extras["n_masks"]` says after how many.
        baselines: what is seen where the mask is 0, in input space (0 is the data set's mean colour).
        classes: further classes, or "all", from the same passes: `extras["classes"]`, `n k h w`.
        seed: decides the masks; all images get the same.
        chunk: masked images per forward pass; any number gives the same result.
    """
    check(n_masks, p, estimator, tol, chunk)
    aim, cover, ends = Aim.of(target), baseline_images(baselines, inputs), blocks(n_masks)
    masks = draw_masks(n_masks, (inputs.shape[-2], inputs.shape[-1]), pair(grid), p, seed)
    masks = masks.to(inputs.device, wide(inputs))
    with torch.no_grad():
        clean = ask(model, inputs, aim, score, classes)
        total, spread = Sums(masks, clean), Spread(inputs)
        active = torch.arange(len(inputs), device=inputs.device)
        for block in steps(len(ends) - 1):
            first, rows = ends[block], len(active) * (ends[block + 1] - ends[block])
            part = Sums(masks, clean[:, :1])

            def run(row: Int[Tensor, " r"], images: Tensor = active, first: int = first) -> Asked:
                image, mask = images[row % len(images)], first + row // len(images)
                seen = blend(inputs[image], masks.of(mask), cover[image])
                return image, mask, ask(model, seen, aim.rows(image), score, classes)

            for _, (image, mask, answer) in in_chunks(run, rows, chunk, inputs.device):
                total.add(image, mask, answer)
                part.add(image, mask, answer[:, :1])
            spread.add(active, part.maps(estimator, p)[active, 0])
            if tol is not None and block + 1 >= ENOUGH:
                active = active[spread.noise[active] > tol]
            if not len(active):
                break
    maps = total.maps(estimator, p)
    extras = {"stderr": spread.stderr}
    if tol is not None:
        extras["n_masks"] = total.scores[:, 0].long()
    return maps[:, :1], extras if classes is None else {**extras, "classes": maps[:, 1:]}


def check(n_masks: int, p: float, estimator: str, tol: float | None, chunk: int) -> None:
    """Refuse settings that make no sense together."""
    if estimator not in get_args(Estimator):
        raise BadInput(f"estimator '{estimator}' is unknown.", "Use 'paper', 'normalized' or 'centered'.")
    if n_masks < 2 or not 0 < p < 1 or chunk < 1 or (tol is not None and tol <= 0):
        raise BadInput(f"n_masks {n_masks}, p {p}, chunk {chunk} and tol {tol} are not all in range.", "See help.")


def blocks(n_masks: int) -> list[int]:
    """Where the parts begin whose maps are compared, and the end: 16 parts, or fewer of 16 masks, but at least two."""
    parts = max(2, min(N_BLOCKS, n_masks // 16))
    return [part * n_masks // parts for part in range(parts + 1)]


@dataclass(frozen=True)
class Masks:
    """Random masks, made when they are needed from cells that are shown or not, and a shift.

    Args:
        bits: one grid of cells per mask.
        shift: which shift it has, down and right in one number.
        down, right: for each shift along one axis, what every pixel takes from every cell.
    """

    bits: Bool[Tensor, "m s t"]
    shift: Int[Tensor, " m"]
    down: Float[Tensor, "a h s"]
    right: Float[Tensor, "b w t"]

    def to(self, device: torch.device, dtype: torch.dtype) -> "Masks":
        """The same masks elsewhere, and as other numbers."""
        down, right = (axis.to(device, dtype) for axis in (self.down, self.right))
        return Masks(self.bits.to(device), self.shift.to(device), down, right)

    def of(self, index: Int[Tensor, " r"]) -> Float[Tensor, "r h w"]:
        """Masks by number."""
        shift = self.shift[index]
        down, right = self.down[shift // len(self.right)], self.right[shift % len(self.right)]
        return down @ self.bits[index].to(down) @ right.mT

    def enlarge(self, cells: Float[Tensor, "n d q s t"]) -> Float[Tensor, "n q h w"]:
        """A sum of masks, from the sum of their cells for each shift."""
        shifts = rearrange(cells, "n (a b) q s t -> n a b q s t", b=len(self.right))
        wide_only = einsum(shifts, self.right, "n a b q s t, b w t -> n a q s w")
        return einsum(wide_only, self.down, "n a q s w, a h s -> n q h w")


def draw_masks(n_masks: int, size: tuple[int, int], grid: tuple[int, int], p: float, seed: int) -> Masks:
    """Masks for images of a size."""
    if not (1 <= grid[0] <= size[0] and 1 <= grid[1] <= size[1]):
        raise BadInput(f"a grid of {grid[0]}×{grid[1]} cells does not fit {size[0]}×{size[1]} pixels.")
    down, right = (shifted(pixels, cells) for pixels, cells in zip(size, grid, strict=True))
    source = generator(seed)
    bits = torch.rand(n_masks, *grid, generator=source) < p
    return Masks(bits, torch.randint(len(down) * len(right), (n_masks,), generator=source), down, right)


def shifted(pixels: int, cells: int) -> Float[Tensor, "d p s"]:
    """What each pixel of one axis takes from each cell, for every shift by less than a cell.

    The cells are enlarged bilinearly to one more cell than the axis needs, and a window of it is taken.
    """
    length = ceil(pixels / cells)
    line = F.interpolate(torch.eye(cells).double()[None], (cells + 1) * length, mode="linear", align_corners=False)[0]
    return rearrange(line.unfold(1, pixels, 1)[:, :length], "s d p -> d p s")


class Sums:
    """Sums over masks of 1 and of each answer, times the mask; kept cell by cell for each shift.

    A mask is a linear function of its cells, so the sum of many masks of one shift is that of their cells, enlarged
    once. Answers are counted from the clean one, and a network that never changes its answer gives exact zeros.
    """

    def __init__(self, masks: Masks, clean: Float[Tensor, "n q"]):
        n, q = clean.shape
        self.masks, self.clean, self.n_shifts = masks, clean, len(masks.down) * len(masks.right)
        self.scores = clean.new_zeros(n, 1 + q)
        self.cells = clean.new_zeros(n * self.n_shifts, 1 + q, *masks.bits.shape[1:])

    def add(self, image: Int[Tensor, " r"], mask: Int[Tensor, " r"], answer: Float[Tensor, "r q"]) -> None:
        """Answers to images seen through masks."""
        gain = F.pad(answer - self.clean[image], (1, 0), value=1.0)
        self.scores.index_add_(0, image, gain)
        weighted = gain[:, :, None, None] * self.masks.bits[mask, None].to(gain)
        self.cells.index_add_(0, image * self.n_shifts + self.masks.shift[mask], weighted)

    def maps(self, estimator: Estimator, p: float) -> Float[Tensor, "n q h w"]:
        """The estimate for each image and answer."""
        sums = self.masks.enlarge(rearrange(self.cells, "(n d) q s t -> n d q s t", d=self.n_shifts))
        shown, gain, count = sums[:, :1], sums[:, 1:], self.scores[:, :1, None, None].clamp(min=1)
        clean = self.clean[:, :, None, None]
        if estimator == "normalized":
            return clean + gain / shown.clamp(min=torch.finfo(shown.dtype).tiny)
        level = clean if estimator == "paper" else -self.scores[:, 1:, None, None] / count
        return (gain + level * shown) / (count * p)


class Spread:
    """Mean and standard error of the maps of each image (Welford, Technometrics 1962)."""

    def __init__(self, images: Images):
        self.count = torch.zeros(len(images), 1, 1, device=images.device)
        self.mean = images.new_zeros(len(images), *images.shape[-2:], dtype=wide(images))
        self.squares = torch.zeros_like(self.mean)

    def add(self, image: Int[Tensor, " r"], maps: Float[Tensor, "r h w"]) -> None:
        """One more map of each of some images."""
        self.count[image] += 1
        gap = maps - self.mean[image]
        self.mean[image] += gap / self.count[image]
        self.squares[image] += gap * (maps - self.mean[image])

    @property
    def stderr(self) -> Float[Tensor, "n h w"]:
        """Standard error of the mean, pixel by pixel."""
        return (self.squares / (self.count * (self.count - 1))).sqrt()

    @property
    def noise(self) -> Float[Tensor, " n"]:
        """The standard error over the image, as a share of how much the mean varies over it."""
        return self.stderr.square().mean((1, 2)).sqrt() / self.mean.std((1, 2))
