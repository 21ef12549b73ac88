"""The smallest region whose removal takes the score away, or whose presence keeps it, found by gradient descent."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from math import ceil, hypot
from typing import Any, Literal, NamedTuple

import torch
import torch.nn.functional as F
from einops import rearrange
from jaxtyping import Float, Int
from torch import Tensor, nn

from glasshouse.core import (
    Aim,
    BadInput,
    Cost,
    Images,
    LayerMaps,
    Maps,
    PerImage,
    Reading,
    Target,
    blur,
    generator,
    in_chunks,
    method,
    resize,
    select,
    steps,
)
from glasshouse.core.gradient import gradient
from glasshouse.core.mask import blend
from glasshouse.core.target import logits

Objective = Literal["deletion", "preservation"]
Perturbation = Literal["blur", "constant", "noise"]

SIDE = 224  # pixels: the shorter side of the images that the paper's lengths are meant for
DISC_STEP, DISC_EDGE = 5.0, 10.0  # between radii, and standard deviation of the edge, in those pixels
REMAINDER = 0.01  # share of the score's fall that the first disc may leave
DECAY, DECAY_OF_SQUARE, EPSILON = 0.9, 0.999, 1e-8


def passes(settings: Mapping[str, Any], shape: Sequence[int]) -> Cost:
    """Of meaningful perturbation: the clean image, the discs to start from, the steps, and where they end."""
    n_steps = settings["n_steps"]
    return Cost(1 + len(radii(shape[-2], shape[-1])) + 1 + n_steps + 1, n_steps)


@method(
    cost=passes,
    claims=("implementation", "silent"),
    paper="Fong & Vedaldi, ICCV 2017",
    example={"n_steps": 6, "l1": 1e-6},
)
def meaningful_perturbation(
    model: nn.Module,
    inputs: Images,
    target: Target = None,
    *,
    game: Objective = "deletion",
    perturbation: Perturbation = "blur",
    n_steps: int = 300,
    lr: float = 0.1,
    l1: float = 1e-4,
    l2: float = 1e-2,
    beta: float = 3.0,
    mask_stride: float | int = 8,
    mask_sigma: float | int = 5.0,
    blur_sigma: float | int = 10.0,
    jitter: float | int = 4,
    seed: int = 0,
    score: Reading = "prob",
    chunk: int = 16,
) -> tuple[Float[Tensor, "n 1 h w"], dict[str, Tensor]]:
    """How far each pixel had to be blurred to take the score away with as little blur as possible, 0…1.

        deletion:      min_m  l1 sum (1 - m) + y(x m + x0 (1 - m)) + l2 sum |grad m|^beta,   map = 1 - m
        preservation:  min_m  l1 sum m       - y(x m + x0 (1 - m)) + l2 sum |grad m|^beta,   map = m

    Fong and Vedaldi, "Interpretable explanations of black boxes by meaningful perturbation", ICCV 2017, eqs. 3 and 6,
    by Adam from the smallest centred disc that takes 99 % of what a perturbation of everything takes. `extras` hold
    the coarse `mask` m (1 keeps), the score of the `perturbed` image, and what was minimised as `history`.

    Differs: the image fades into its blurred copy x0, as in the authors' code, where eq. 4 widens the blur instead.

    Args:
        perturbation: what takes the place of the image: its blurred copy, its mean colour, or noise with the mean and
            variance of its colours.
        l1, l2, beta: of the sums over the cells of the mask. For localisation the paper takes l1=1e-3, beta=2 and the
            five top classes together, here a target of weights `n k`.
        mask_stride, mask_sigma, blur_sigma, jitter: cell of the mask, its blur, that of x0, and the largest shift of
            the image between steps; in pixels where the shorter side has 224, in proportion elsewhere.
        seed: of shifts and noise, which are the same for all images.
        chunk: images per pass; any number gives the same result.
    """
    if game not in ("deletion", "preservation"):
        raise BadInput(f"game '{game}' is unknown.", "Use 'deletion' or 'preservation'.")
    if min(n_steps, chunk, beta) < 1 or min(lr, mask_stride) <= 0 or min(l1, l2, jitter) < 0:
        raise BadInput(
            f"n_steps {n_steps}, chunk {chunk}, beta {beta}, lr {lr}, mask_stride {mask_stride}, l1 {l1}, l2 {l2} and "
            f"jitter {jitter} are not all in range.",
            "n_steps, chunk and beta are at least 1, lr and mask_stride above 0, the others not below 0.",
        )
    aim, draws, size = Aim.of(target), generator(seed), inputs.shape[-2:]
    pixel, shift = min(size) / SIDE, ceil(jitter * min(size) / SIDE)
    nothing = stand_in(inputs, perturbation, blur_sigma * pixel, draws)
    start, end, sign = (inputs, nothing, 1) if game == "deletion" else (nothing, inputs, -1)
    still = Way(model, start, end, aim, score, sign, mask_sigma * pixel, (size[0], size[1]))
    moving = still.resized((size[0] + shift, size[1] + shift))
    with torch.no_grad():
        select(model(inputs), aim, score)
        part = smallest_disc(still, mask_stride * pixel, chunk)
    adam, price, history = Adam.at(part), partial(penalty, l1=l1, l2=l2, beta=beta), list[Tensor]()
    for _ in steps(n_steps):
        top, left = torch.randint(shift + 1, (2,), generator=draws).tolist()
        slope = partial(descent, moving, part, price, top, left)
        values, slopes = zip(*(found for _, found in in_chunks(slope, len(part), chunk, part.device)), strict=True)
        history.append(torch.cat(values))
        change, adam = adam.step(torch.cat(slopes))
        part = (part - lr * change).clamp(0, 1)
    with torch.no_grad():
        ends = in_chunks(lambda rows: still.score_of(part[rows], rows), len(part), chunk, part.device)
        perturbed = torch.cat([found for _, found in ends])
    extras = {
        "mask": 1 - part if game == "deletion" else part,
        "perturbed": sign * perturbed,
        "history": torch.stack(history, 1),
    }
    return enlarged(part, still.size, still.sigma)[:, None], extras


@dataclass(frozen=True)
class Way:
    """From the images at the `start`, of high score, to those at the `end`; a part of each image can go ahead.

    Args:
        sign: -1 where a high score is what the game wants.
        sigma: of the blur on the enlarged part, in pixels.
        size: of what the model sees, a window on the images.
    """

    model: nn.Module
    start: Images
    end: Images
    aim: Aim
    score: Reading
    sign: int
    sigma: float
    size: tuple[int, int]

    def resized(self, size: tuple[int, int]) -> "Way":
        return replace(self, start=resize(self.start, size), end=resize(self.end, size))

    def score_of(self, part: LayerMaps, rows: Int[Tensor, " n"], top: int = 0, left: int = 0) -> PerImage:
        """What the game wants low, for the images `rows`, each with a part of it at the end of the way."""
        window = (rows, slice(None), slice(top, top + self.size[0]), slice(left, left + self.size[1]))
        images = blend(self.end[window], enlarged(part, self.size, self.sigma), self.start[window])
        output = logits(self.model(images)).to(part.dtype)  # in half precision probabilities near 1 have no slope
        return self.sign * select(output, self.aim.rows(rows), self.score)


class Adam(NamedTuple):
    """The memory of Adam (Kingma & Ba, ICLR 2015), for each number by itself."""

    mean: Tensor
    square: Tensor
    taken: int

    @staticmethod
    def at(theta: Tensor) -> "Adam":
        return Adam(torch.zeros_like(theta), torch.zeros_like(theta), 0)

    def step(self, slope: Tensor) -> tuple[Tensor, "Adam"]:
        """The step uphill for a learning rate of 1, and the memory after it."""
        mean = torch.lerp(slope, self.mean, DECAY)
        square = torch.lerp(slope.square(), self.square, DECAY_OF_SQUARE)
        taken = self.taken + 1
        spread = (square / (1 - DECAY_OF_SQUARE**taken)).sqrt() + EPSILON
        return mean / (1 - DECAY**taken) / spread, Adam(mean, square, taken)


def descent(
    way: Way,
    part: Float[Tensor, "m i j"],
    price: Callable[[LayerMaps], PerImage],
    top: int,
    left: int,
    rows: Int[Tensor, " n"],
) -> tuple[PerImage, LayerMaps]:
    """What is minimised for the images `rows`, and its gradient with respect to their parts."""
    leaf = part[rows].requires_grad_()
    y, paid = way.score_of(leaf, rows, top, left), price(leaf)
    return (y + paid).detach(), gradient(y, leaf) + gradient(paid, leaf)


def penalty(part: LayerMaps, l1: float, l2: float, beta: float) -> PerImage:
    """`l1 sum p + l2 sum |grad p|^beta`, with differences to the next cell below and to the right."""
    down = F.pad(part.diff(dim=1), (0, 0, 0, 1))
    right = F.pad(part.diff(dim=2), (0, 1))
    steepness = (down.square() + right.square()).clamp(min=torch.finfo(part.dtype).tiny)  # a root has no slope at 0
    return l1 * part.sum((1, 2)) + l2 * steepness.pow(beta / 2).sum((1, 2))


def enlarged(part: LayerMaps, size: tuple[int, int], sigma: float) -> Maps:
    """A part on the pixel grid: each cell a rectangle, then all of it blurred."""
    return blur(F.interpolate(part[:, None], size, mode="nearest"), sigma)[:, 0]


def stand_in(images: Images, perturbation: Perturbation, sigma: float, draws: torch.Generator) -> Images:
    """What takes the place of each image."""
    if perturbation == "blur":
        return blur(images, sigma)
    colour = images.mean((2, 3), keepdim=True)
    if perturbation == "constant":
        return colour.expand_as(images)
    if perturbation == "noise":
        noise = torch.randn(images.shape[1:], generator=draws).to(images)
        return colour + images.std((2, 3), correction=0, keepdim=True) * noise
    raise BadInput(f"perturbation '{perturbation}' is unknown.", "Use 'blur', 'constant' or 'noise'.")


def radii(h: int, w: int) -> list[float]:
    """Of the discs to start from, in pixels: from nothing to beyond the corners; 0 to 170 for 224×224."""
    pixel = min(h, w) / SIDE
    count = 1 + ceil((hypot(h, w) / 2 / pixel + DISC_EDGE) / DISC_STEP)
    return [DISC_STEP * pixel * place for place in range(count)]


def smallest_disc(way: Way, stride: float, chunk: int) -> LayerMaps:
    """For each image the smallest disc that goes nearly the whole way of the score; everything, where none does."""
    (h, w), n = way.size, len(way.start)
    grid = min(h, max(1, round(h / stride))), min(w, max(1, round(w / stride)))
    y, x = torch.arange(h) - (h - 1) / 2, torch.arange(w) - (w - 1) / 2
    inside = torch.hypot(y[:, None], x) < torch.tensor(radii(h, w))[:, None, None]
    precision = torch.promote_types(way.start.dtype, torch.float32)
    soft = resize(blur(inside[:, None].to(precision), DISC_EDGE * min(h, w) / SIDE), grid)[:, 0]
    discs = torch.cat([soft, torch.ones(1, *grid)]).to(way.start.device, precision)
    tried = in_chunks(lambda rows: way.score_of(discs[rows // n], rows % n), len(discs) * n, chunk, discs.device)
    y = rearrange(torch.cat([found for _, found in tried]), "(r n) -> r n", n=n)
    enough = y <= y[-1] + REMAINDER * (y[0] - y[-1])
    return discs[enough.int().argmax(0)]
