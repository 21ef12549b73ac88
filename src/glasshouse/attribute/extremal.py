"""Extremal perturbations: the part of an image, of a given area, that alone gives the highest score."""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from math import prod
from typing import Any, Literal

import torch
from einops import reduce
from jaxtyping import Float, Int
from torch import Tensor, nn

from glasshouse.attribute.areas import Game, Play, area_counts, climb
from glasshouse.attribute.pyramids import Perturbation, at_level, blur_into_zero, pyramid
from glasshouse.attribute.smooth_masks import Lattice, draw_masks, inside, lattice
from glasshouse.core import Aim, BadInput, Cost, Images, PerImage, Reading, Target, method, select
from glasshouse.core.target import logits, readings

Mode = Literal["preserve", "delete", "dual"]
Reward = Literal["simple", "contrastive"]


def passes(settings: Mapping[str, Any], shape: Sequence[int]) -> Cost:
    """Of an extremal perturbation: the clean image, and each area at every step, of which the last only looks."""
    masks = len(listed(settings["areas"])) * (2 if settings["mode"] == "dual" else 1)
    return Cost(1 + settings["n_steps"] * masks, (settings["n_steps"] - 1) * masks)


def listed(areas: float | Sequence[float]) -> tuple[float, ...]:
    return tuple(map(float, areas)) if isinstance(areas, Sequence) else (float(areas),)


@method(
    cost=passes,
    paper="Fong et al., ICCV 2019",
    warning="small areas can be filled by patterns that please the network alone; compare several",
    example={"areas": (0.1, 0.3), "perturbation": "fade", "n_steps": 6, "chunk": 8},
)
def extremal_perturbation(
    model: nn.Module,
    inputs: Images,
    target: Target = None,
    *,
    areas: float | Sequence[float] = (0.025, 0.05, 0.1, 0.2),
    mode: Mode = "preserve",
    perturbation: Perturbation = "blur",
    n_steps: int = 800,
    learning_rate: float = 0.01,
    step: int = 7,
    sigma: float | int = 21,
    reward: Reward = "simple",
    smooth: float | int = 0.0,
    tolerance: float = 0.0,
    score: Reading = "logit",
    chunk: int = 16,
) -> tuple[Float[Tensor, "n 1 h w"], dict[str, Tensor]]:
    """Where to look if only a given share of the image may be seen: one smooth mask for each area, added up.

        m_a = argmax y(x seen through m) - lambda_t (difference in area),   map = sum_a m_a

    Fong, Patrick and Vedaldi, "Understanding deep networks via extremal perturbations and smooth masks", ICCV 2019,
    eqs. 1-5. `extras` holds the masks (`n a h w`), the share of each mask that is on (`area`, margins included), the
    score of what each shows (`reward`), and that score at every step (`history`).

    Differs: images, targets and areas are searched together, each as if alone. Equal values of a mask share their place
    in the order that the area penalty needs, where the authors' code lets sorting decide.

    Args:
        areas: share of the pixels that may be seen; a margin of `sigma` pixels around the image counts too.
        mode: what the mask is for: "preserve" the score inside, "delete" it by what is hidden inside, or "dual", both.
        perturbation: what hidden pixels become: "blur" (sigma 20) or "fade" (to 0, the data set's mean colour).
        n_steps, learning_rate: their product is the length of the way, on which the area is held ever more firmly; it
            is reached at about 8. Fewer and longer steps, such as 200 of 0.04, are quicker and less exact.
        step, sigma: pixels from one cell of the mask to the next, and how far a cell reaches.
        reward: "simple" is the score of the target, "contrastive" its lead over the best other class.
        smooth: blurs the map in the end, as a share of the image's shorter side; the pointing game uses 0.09.
        tolerance: above 0, a mask rests early, once it differs by less from black and white and its score stands still;
            0.02 saves time at little loss.
        chunk: masked images per forward pass; any number gives the same result.
    """
    areas = listed(areas)
    if n_steps < 1 or chunk < 1 or smooth < 0 or learning_rate <= 0:
        seen = f"n_steps {n_steps}, learning_rate {learning_rate}, chunk {chunk}, smooth {smooth}"
        raise BadInput(f"not all in range: {seen}.", "All but smooth must be above 0.")
    aim, n_areas = Aim.of(target), len(areas)
    with torch.no_grad():
        select(model(inputs), aim, score)
    on, stages = lattice(inputs, step, sigma), pyramid(inputs, perturbation)
    image = torch.arange(len(inputs), device=inputs.device).repeat_interleave(n_areas)
    play = trial(model, aim, stages, image, on, n_steps - 1, mode, reward, score)
    counts = area_counts(areas, prod(on.whole)).to(image.device).repeat(len(inputs))
    cells = on.weights.new_ones(len(image), *on.cells)
    chunk = max(1, chunk // 2) if mode == "dual" else chunk
    game = Game(partial(draw_masks, on=on), play, counts, force_at(learning_rate))
    found = climb(game, cells, n_steps, learning_rate, chunk, tolerance)
    extras = {
        "masks": inside(found.masks, on),
        "area": found.masks.mean((1, 2)),
        "reward": found.reward,
        "history": found.history,
    }
    extras = {name: value.unflatten(0, (-1, n_areas)) for name, value in extras.items()}
    total = reduce(extras["masks"], "n a h w -> n 1 h w", "sum")
    native = blur_into_zero(total, smooth * min(total.shape[2:]))
    return native.to(inputs.dtype), extras


def force_at(learning_rate: float) -> Callable[[int], float]:
    """How firmly the area is held at each step: the authors' lambda, which grows by the way that has been gone."""
    return lambda step: 300 * 1.0035 ** (step * learning_rate / 0.01)


def trial(
    model: nn.Module,
    aim: Aim,
    stages: Float[Tensor, "n l h w c"],
    image: Int[Tensor, " r"],
    on: Lattice,
    last: int,
    mode: Mode = "preserve",
    reward: Reward = "simple",
    score: Reading = "logit",
) -> Play:
    """What masks are worth: the score of the image seen through them, mirrored at every other step but the last.

    Args:
        image: the image that each row of masks belongs to.
    """
    if mode not in ("preserve", "delete", "dual") or reward not in ("simple", "contrastive"):
        raise BadInput(f"mode '{mode}' or reward '{reward}' is unknown.", "See help.")

    def play(rows: Int[Tensor, " r"], masks: Float[Tensor, "r fh fw"], step: int) -> PerImage:
        seen, index = inside(masks, on), image[rows]
        if mode == "delete":
            seen = 1 - seen
        elif mode == "dual":
            seen, index = torch.cat([seen, 1 - seen]), index.repeat(2)
        shown = at_level(stages, index, seen)
        if step % 2 == 0 and step < last:
            shown = shown.flip(3)
        worth = rated(logits(model(shown)), aim.rows(index), reward, score).to(masks.dtype)
        if mode == "dual":
            return worth[: len(rows)] - worth[len(rows) :]
        return -worth if mode == "delete" else worth

    return play


def rated(output: Tensor, aim: Aim, reward: Reward, score: Reading) -> PerImage:
    """The score of the target, or its lead over the best other class."""
    own = select(output, aim, score)
    if reward == "simple":
        return own
    if aim.indices is None:
        raise BadInput("a contrastive reward needs a class to set against the others.", "Use reward='simple'.")
    return own - readings(output, score).scatter(1, aim.indices[:, None], -torch.inf).amax(1)
