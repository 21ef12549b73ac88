"""The smallest part of an image that is enough: extremal perturbations with the area searched for."""

from collections.abc import Mapping, Sequence
from functools import partial
from math import prod
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from glasshouse.attribute.areas import Game, area_counts, climb
from glasshouse.attribute.extremal import force_at, trial
from glasshouse.attribute.pyramids import Perturbation, pyramid
from glasshouse.attribute.smooth_masks import draw_masks, inside, lattice
from glasshouse.core import Aim, BadInput, Cost, Images, Reading, Target, method, select, steps

SMALLEST = 0.005  # below which no area is tried


def passes(settings: Mapping[str, Any], shape: Sequence[int]) -> Cost:
    """The clean image, and in every round each step, of which the last only looks."""
    rounds, n = settings["n_rounds"], settings["n_steps"]
    return Cost(1 + rounds * n, rounds * (n - 1))


@method(
    cost=passes,
    paper="Fong et al., ICCV 2019",
    warning="the search may miss a smaller area; it never misses that the one it shows is enough",
    example={"n_rounds": 2, "n_steps": 4, "perturbation": "fade", "chunk": 8},
)
def smallest_area(
    model: nn.Module,
    inputs: Images,
    target: Target = None,
    *,
    share: float = 0.9,
    n_rounds: int = 5,
    perturbation: Perturbation = "blur",
    n_steps: int = 200,
    learning_rate: float = 0.04,
    step: int = 7,
    sigma: float | int = 21,
    score: Reading = "logit",
    chunk: int = 16,
) -> tuple[Float[Tensor, "n 1 h w"], dict[str, Tensor]]:
    """The smallest part of the image that gives most of the score by itself, as a smooth mask.

        a* = min { a : y(x seen through m_a) >= share · y(x) },   map = m_a*

    Fong, Patrick and Vedaldi, ICCV 2019, sec. 3.1, with `m_a` as in `extremal_perturbation`. Areas between 0.005 and 1
    are halved in ratio, `n_rounds` times, each search going on from the smallest mask that was enough. `extras` holds
    the area of each image's mask (`area`, margins included; about 1 where nothing smaller was enough), its score
    (`reward`), and the areas and scores of all rounds (`tried`, `rewards`).

    Args:
        share: of the score of the clean image, which must be above 0 for this to mean something.
        n_rounds: 5 find the area to within a fifth.
        n_steps, learning_rate: of each round; the others are those of `extremal_perturbation`.
    """
    if n_rounds < 1 or n_steps < 1 or chunk < 1 or learning_rate <= 0 or share <= 0:
        seen = f"share {share}, n_rounds {n_rounds}, n_steps {n_steps}, learning_rate {learning_rate}, chunk {chunk}"
        raise BadInput(f"not all above 0: {seen}.")
    aim, n = Aim.of(target), len(inputs)
    with torch.no_grad():
        enough = share * select(model(inputs), aim, score)
    on, image = lattice(inputs, step, sigma), torch.arange(n, device=inputs.device)
    play = trial(model, aim, pyramid(inputs, perturbation), image, on, n_steps - 1, score=score)
    low, high = on.weights.new_full((n,), SMALLEST), on.weights.new_ones(n)
    cells, reward = on.weights.new_ones(n, *on.cells), enough / share
    tried, rewards = list[Tensor](), list[Tensor]()
    for _ in steps(n_rounds):
        areas = (low * high).sqrt()
        counts = area_counts(areas.tolist(), prod(on.whole)).to(image.device)
        game = Game(partial(draw_masks, on=on), play, counts, force_at(learning_rate))
        found = climb(game, cells, n_steps, learning_rate, chunk)
        fine = found.reward >= enough
        low, high = torch.where(fine, low, areas), torch.where(fine, areas, high)
        cells = torch.where(fine[:, None, None], found.cells, cells)
        reward = torch.where(fine, found.reward, reward)
        tried.append(areas)
        rewards.append(found.reward)
    with torch.no_grad():
        masks = draw_masks(cells, on)
    extras = {"area": masks.mean((1, 2)), "reward": reward}
    extras |= {"tried": torch.stack(tried, 1), "rewards": torch.stack(rewards, 1)}
    return inside(masks, on)[:, None].to(inputs.dtype), extras
