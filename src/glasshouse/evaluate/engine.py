"""Asks a model about perturbed images: each distinct question once, in chunks, for several metrics together.

A metric is a plan, the questions it needs answered, and a reduction of the answers to a score. A question
names which cells of an image stay and what replaces the others; pixels are made from it only for the chunk
that is being run, so memory does not grow with the number of questions. Answers are kept, so that metrics and
explanations share them: the clean image, the empty one, and random masks, which do not depend on any
explanation.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple, TypeAlias, get_args

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from glasshouse.core import (
    Aim,
    BadInput,
    Images,
    Maps,
    Model,
    Progress,
    Reading,
    Target,
    blur,
    borrow,
    generator,
)
from glasshouse.core.lift import checked_images
from glasshouse.core.mask import blend, cell_sums, cells, ranks
from glasshouse.core.target import logits

READINGS: tuple[Reading, ...] = get_args(Reading)
Baseline: TypeAlias = float | int | str
"""What takes the place of removed cells, in the model's input space: a number; "mean" (0, the data set's mean
where inputs were normalised by it); "image_mean" (each channel's own); "blur", "blur:SIGMA" or
"blur:SIGMA:TAPS". Plain "blur" has the sigma of Fong and Vedaldi (2017): 10 pixels for an image of 224."""
Grid: TypeAlias = tuple[int, int]


@dataclass(frozen=True)
class Cells:
    """Which cells of a grid stay, one byte each, the same for every image."""

    grid: Grid
    kept: bytes

    @property
    def key(self) -> tuple[Any, ...]:
        return self.grid, self.kept


@dataclass(frozen=True)
class Order:
    """The cells of each image by importance: `ranks` is 0 for the one that an explanation marks most."""

    grid: Grid
    ranks: Int[Tensor, "n g"]
    name: str


@dataclass(frozen=True)
class Ranked:
    """The cells whose rank lies in `low … high - 1` stay."""

    order: Order
    low: int
    high: int

    @property
    def key(self) -> tuple[Any, ...]:
        return self.order.grid, self.order.name, self.low, self.high


Keep: TypeAlias = Cells | Ranked
FULL, NOTHING = Cells((1, 1), b"\1"), Cells((1, 1), b"\0")


class Question(NamedTuple):
    """One perturbed version of every image."""

    keep: Keep
    baseline: Baseline

    @property
    def key(self) -> tuple[Any, ...]:
        return (*self.keep.key, self.baseline)


CLEAN = Question(FULL, "")


def keeping(keep: Keep, baseline: Baseline) -> Question:
    """The question in its shortest form, so that equal ones are recognised."""
    if isinstance(keep, Ranked):
        total = keep.order.ranks.shape[1]
        everything, nothing = keep.low <= 0 and keep.high >= total, keep.low >= min(keep.high, total)
    else:
        everything, nothing = 0 not in keep.kept, 1 not in keep.kept
    return CLEAN if everything else Question(NOTHING if nothing else keep, baseline)


def substrate(images: Images, baseline: Baseline) -> Images:
    """What replaces removed pixels. See `Baseline`."""
    if not isinstance(baseline, str):
        return torch.full_like(images, float(baseline))
    kind, *numbers = baseline.split(":")
    try:
        if kind == "mean" and not numbers:
            return torch.zeros_like(images)
        if kind == "image_mean" and not numbers:
            return images.mean((2, 3), keepdim=True).expand_as(images)
        if kind == "blur" and len(numbers) <= 2:
            sigma = float(numbers[0]) if numbers else 10 / 224 * min(images.shape[-2:])
            return blur(images, sigma, int(numbers[1]) if len(numbers) == 2 else None)
    except ValueError as error:
        raise BadInput(f"baseline '{baseline}' has a number that cannot be read.", "Try 'blur:5:11'.") from error
    raise BadInput(f"baseline '{baseline}' is unknown.", "Use a number, 'mean', 'image_mean', 'blur' or 'blur:5:11'.")


def grid_of(size: tuple[int, int], cells_px: int = 16) -> Grid:
    """Rows and columns of about `cells_px` pixels: 7 to 14 along the shorter side, if it has as many."""
    shorter = min(size)
    side = shorter / min(shorter, 14, max(7, shorter // cells_px))
    return round(size[0] / side), round(size[1] / side)


def order_of(maps: Maps, grid: Grid | None, seed: int) -> Order:
    """Cells (pixels for None) ranked by the sum of the map in them; ties in a random order."""
    size = (maps.shape[-2], maps.shape[-1])
    values = maps.flatten(1) if grid is None or grid == size else cell_sums(maps, cells(size, grid))
    places = ranks(values, generator(seed)).int()
    name = hashlib.blake2b(places.cpu().numpy().tobytes(), digest_size=16).hexdigest()
    return Order(grid or size, places, name)


@dataclass(eq=False)
class Answers:
    """What a model said about some images and a target, and every question asked of it so far.

    Hand the same object to several metrics, or to the cards of several explanations of the same images and
    target: what one has asked costs the next nothing.

    Args:
        target: what the explanations explain.
        chunk: perturbed images per forward pass, by their size for None. Any number gives the same result.
        n_forward: forward passes spent so far, counted in single images; `charged` is what scores have declared.
    """

    model: Model | nn.Module
    images: Images
    target: Target = None
    chunk: int | None = None
    progress: Progress | None = None
    n_forward: int = 0
    top: Int[Tensor, "n t"] | None = field(default=None, repr=False)
    table: dict[tuple[Any, ...], Float[Tensor, "3 n"]] = field(default_factory=dict, repr=False)
    charged: set[tuple[Any, ...]] = field(default_factory=set, repr=False)

    def __post_init__(self):
        self.images = checked_images(self.images).detach()
        self.aim = Aim.of(self.target)
        if self.chunk is None:
            self.chunk = min(256, max(1, 2**22 // self.images[0].numel()))
        if self.chunk < 1:
            raise BadInput(f"chunk {self.chunk} is not at least 1.")

    def ask(self, questions: Sequence[Question]) -> int:
        """Find out what is not known yet; returns the forward passes spent."""
        before, distinct = self.n_forward, {question.key: question for question in questions}
        fresh = [question for key, question in distinct.items() if key not in self.table and question != CLEAN]
        if fresh or CLEAN.key not in self.table:
            with borrow(self.model, self.images) as network, torch.no_grad():
                if CLEAN.key not in self.table:
                    self._run_clean(network)
                if fresh:
                    self._run(network, fresh)
        return self.n_forward - before

    def read(self, questions: Sequence[Question], score: Reading) -> Float[Tensor, "n r"]:
        """The target's score under each question, in float64; asks what is not known yet."""
        self.ask(questions)
        return torch.stack([self.table[question.key][READINGS.index(score)] for question in questions], 1)

    def charge(self, questions: Sequence[Question]) -> int:
        """What these questions and the clean image cost, in forward passes, less what was charged before."""
        new = {question.key for question in (CLEAN, *questions)} - self.charged
        self.charged |= new
        return len(new) * len(self.images)

    def _run_clean(self, network: nn.Module) -> None:
        assert self.chunk is not None
        output = torch.cat([logits(network(part)) for part in self.images.split(self.chunk)])
        self.table[CLEAN.key] = readings(self.aim, output)
        if output.ndim == 2:
            self.top = output.topk(min(2, output.shape[1]), dim=1).indices
        self.n_forward += len(self.images)

    def _run(self, network: nn.Module, fresh: list[Question]) -> None:
        assert self.chunk is not None
        n, count = len(self.images), len(fresh)
        device = self.images.device
        values = torch.empty(3, n * count, dtype=torch.float64, device=device)
        for rows in torch.arange(n * count).split(self.chunk):
            image, which = rows // count, rows % count
            output = network(perturbed(self.images, fresh, image.to(device), which))
            values[:, rows.to(device)] = readings(self.aim.rows(image), output)
            if self.progress is not None:
                self.progress(int(rows[-1]) + 1, n * count)
        for index, question in enumerate(fresh):
            self.table[question.key] = values.view(3, n, count)[:, :, index].clone()
        self.n_forward += n * count


def readings(aim: Aim, output: Any) -> Float[Tensor, "3 n"]:
    """The score as logit, probability and log-probability."""
    return torch.stack([aim.read(output, score).double() for score in READINGS])


def perturbed(
    images: Images, questions: list[Question], image: Int[Tensor, " m"], which: Int[Tensor, " m"]
) -> Float[Tensor, "m c h w"]:
    """Row r is image `image[r]` as question `which[r]` wants it. Rows of one image follow each other."""
    first, last = int(image[0]), int(image[-1]) + 1
    result = images[image]
    groups: dict[tuple[Any, ...], list[int]] = {}
    for row, index in enumerate(which.tolist()):
        keep, baseline = questions[index]
        name = keep.order.name if isinstance(keep, Ranked) else ""
        groups.setdefault((keep.key[0], name, baseline), []).append(row)
    filled: dict[Baseline, Tensor] = {}
    for (grid, _, baseline), rows in groups.items():
        if baseline not in filled:
            filled[baseline] = substrate(images[first:last], baseline)
        at = torch.tensor(rows, device=images.device)
        mask = kept([questions[index].keep for index in which[rows].tolist()], grid, image[at], images)
        result[at] = blend(result[at], mask, filled[baseline][image[at] - first])
    return result


def kept(keeps: list[Keep], grid: Grid, image: Int[Tensor, " m"], images: Images) -> Bool[Tensor, "m h w"]:
    """Masks of several questions that share a grid, and an order if they have one."""
    if isinstance(keeps[0], Ranked):
        low = torch.tensor([keep.low for keep in keeps if isinstance(keep, Ranked)], device=image.device)
        high = torch.tensor([keep.high for keep in keeps if isinstance(keep, Ranked)], device=image.device)
        place = keeps[0].order.ranks.to(image.device)[image]
        stays = (place >= low[:, None]) & (place < high[:, None])
    else:
        joined = b"".join(keep.kept for keep in keeps if isinstance(keep, Cells))
        stays = torch.frombuffer(bytearray(joined), dtype=torch.uint8).view(len(keeps), -1).bool().to(image.device)
    size = (images.shape[-2], images.shape[-1])
    if grid != size:
        stays = stays[:, cells(size, grid).flatten().to(image.device)]
    return stays.view(len(keeps), *size)
