"""What a generator draws, as an oracle sees it: areas, presence, confidence, and what switching units off removes.

The same oracle looks at rendered images, so that what it gets wrong cancels. Bau et al., "GAN Dissection", ICLR 2019.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor

from glasshouse.core.errors import NothingMatched
from glasshouse.core.generative import Generator, Latent, LayerEdit
from glasshouse.core.suffix import Suffix
from glasshouse.core.types import Images

Segmenter: TypeAlias = Callable[[Images], Float[Tensor, "n k h w"]]
"""Pixels in 0…1 to one logit per part."""

PRESENT = 4  # a part is seen where it has more pixels than that
CHANGED = 0.1  # a pixel has changed where a colour of 0…1 differs by more
LARGE, VISIBLE = 0.02, 0.01  # shares of area from which areas, and presence, are compared
MOST_UNITS = 0.25  # share of a layer's units that may be switched off
MOST_CHANGED = 0.08  # of the other pixels
PART, SOME = 100, 16  # images per pass


@dataclass(frozen=True)
class Census:
    """What is in some images.

    Args:
        area: share of all pixels that each part has.
        presence: share of images in which it has more than 4 pixels.
        confidence: mean over pixels of the probability of the part that is said.
    """

    area: Float[Tensor, " k"]
    presence: Float[Tensor, " k"]
    confidence: float


@torch.no_grad()
def census(segmenter: Segmenter, pixels: Images) -> Census:
    """Count the parts in images."""
    counts, sure = list[Tensor](), 0.0
    for part in pixels.split(PART):
        probability, said = segmenter(part).softmax(1).max(1)
        k = segmenter(part[:1]).shape[1]
        counts.append(F.one_hot(said, k).sum((1, 2)))
        sure += float(probability.double().sum())
    count = torch.cat(counts).double()
    n_pixels = pixels[0, 0].numel()
    return Census(count.mean(0) / n_pixels, (count > PRESENT).double().mean(0), sure / (len(pixels) * n_pixels))


@torch.no_grad()
def variety(drawn: Images, rendered: Images) -> float:
    """Mean distance of an image to the nearest of the others, generated, as a share of the data's.

    1 is as varied as the data; a generator that draws a few pictures again and again is near 0.
    """
    mean = list[float]()
    for images in (drawn, rendered[: len(drawn)]):
        rows = images.flatten(1)
        distance = torch.cdist(rows, rows, compute_mode="donot_use_mm_for_euclid_dist")
        mean.append(float(distance.fill_diagonal_(torch.inf).min(1).values.mean()))
    return mean[0] / mean[1]


def beside(drawn: Census, rendered: Census, names: Sequence[str]) -> dict[str, float]:
    """Areas and presence of the parts that are rendered, generated beside data, and where they differ most.

    `area_error` is the largest relative error of a part with at least 2 % of the area, `presence_gap` the largest
    difference in presence of a part with at least 1 %.
    """
    figures = {"confidence": drawn.confidence, "confidence_data": rendered.confidence}
    errors, gaps = [0.0], [0.0]
    for i, name in enumerate(names):
        area, truth = float(drawn.area[i]), float(rendered.area[i])
        gap = float(drawn.presence[i] - rendered.presence[i])
        if truth >= LARGE:
            errors.append(abs(area - truth) / truth)
        if truth >= VISIBLE:
            gaps.append(abs(gap))
        if truth > 0:
            figures |= {f"area_{name}": area, f"area_{name}_data": truth}
            figures |= {
                f"presence_{name}": float(drawn.presence[i]),
                f"presence_{name}_data": float(rendered.presence[i]),
            }
    return {"area_error": max(errors), "presence_gap": max(gaps)} | figures


@torch.no_grad()
def removal(generator: Generator, segmenter: Segmenter, part: int, layer: str, *, n: int = 64) -> dict[str, float]:
    """What switching off the best units of a layer leaves of a part, and how many other pixels it changes.

    Units are ranked in three ways: by the intersection over union of where they are most active with where the part
    is; by how much of the part's probability is lost where one unit alone is switched off; and by descent on all of
    them together. Which ranking, and how many units (at most a quarter), is decided on other latents than those
    measured; beside that, the figures of each ranking are given for a quarter of the units.
    """
    tried, held_out = (_with_part(generator, segmenter, part, n, seed) for seed in (0, 1))
    rankings = {
        "overlap": by_overlap(generator, segmenter, tried, part, layer),
        "effect": by_effect(generator, segmenter, tried, part, layer),
        "descent": by_descent(generator, segmenter, tried, part, layer),
    }
    most = int(len(rankings["effect"]) * MOST_UNITS)
    counts = sorted({max(1, most * quarter // 4) for quarter in range(1, 5)})
    outcomes = {
        (name, count): switched_off(generator, segmenter, tried, part, layer, order[:count].tolist())
        for name, order in rankings.items()
        for count in counts
    }
    name, count = min(outcomes, key=lambda key: outcomes[key][0] + max(0.0, outcomes[key][1] - MOST_CHANGED) * 10)
    figures: dict[str, float] = {}
    for which, order in rankings.items():
        left, changed, _ = switched_off(generator, segmenter, held_out, part, layer, order[:most].tolist())
        figures |= {f"left_by_{which}": left, f"others_changed_by_{which}": changed}
    left, changed, renamed = switched_off(generator, segmenter, held_out, part, layer, rankings[name][:count].tolist())
    return {"left": left, "others_changed": changed, "others_renamed": renamed, "units": float(count)} | figures


def _with_part(generator: Generator, segmenter: Segmenter, part: int, n: int, seed: int) -> Latent:
    """The first n latents of a seed whose images have the part."""
    drawn = generator.sample_z(8 * n, seed)
    areas = _where(segmenter, generator.synthesize(drawn).pixels, part).sum((1, 2))
    rows = (areas > PRESENT).nonzero()[:n, 0]
    if len(rows) == 0:
        raise NothingMatched(f"none of {8 * n} generated images has part {part}.")
    return Latent("z", drawn.data[rows])


def _where(segmenter: Segmenter, pixels: Images, part: int) -> Bool[Tensor, "n h w"]:
    return _seen(segmenter, pixels) == part


def _seen(segmenter: Segmenter, pixels: Images) -> Int[Tensor, "n h w"]:
    return torch.cat([segmenter(some).argmax(1) for some in pixels.split(PART)])


def switched_off(
    generator: Generator, segmenter: Segmenter, latent: Latent, part: int, layer: str, units: Sequence[int]
) -> tuple[float, float, float]:
    """What happens without some units: share of the part's pixels that are left, share of the other pixels that change
    colour, and share of the other pixels at which another part is seen than before.
    """
    before = generator.synthesize(latent).pixels
    after = generator.synthesize(latent, edits=[LayerEdit(layer, units=units)]).pixels
    was, now = _seen(segmenter, before), _seen(segmenter, after)
    others = was != part
    changed = ((after - before).abs().amax(1) > CHANGED)[others]
    left = (now == part).sum() / (~others).sum()
    return float(left), float(changed.double().mean()), float((was != now)[others].double().mean())


def by_overlap(generator: Generator, segmenter: Segmenter, latent: Latent, part: int, layer: str) -> Int[Tensor, " k"]:
    """Units by IoU with a part, best first; a unit is active in as many pixels as the part has."""
    seen = generator.synthesize(latent, retain=[layer])
    there = _where(segmenter, seen.pixels, part)
    maps = F.interpolate(seen.activations[layer], size=there.shape[1:], mode="bilinear", align_corners=False)
    flat, truth = maps.transpose(0, 1).flatten(1), there.flatten()
    level = flat.topk(int(truth.sum()), dim=1).values[:, -1:]
    active = flat > level
    iou = (active & truth).sum(1) / (active | truth).sum(1)
    return iou.argsort(descending=True, stable=True)


def by_effect(generator: Generator, segmenter: Segmenter, latent: Latent, part: int, layer: str) -> Int[Tensor, " k"]:
    """Units by how much of a part's probability is lost where one of them alone is switched off, most first."""
    rest = generator.start_from(latent, layer)
    left = list[float]()
    for unit in range(rest.activation.shape[1]):
        images = rest(LayerEdit(layer, units=(unit,))(rest.activation))
        left.append(float(segmenter(images / 2 + 0.5).softmax(1)[:, part].double().sum()))
    return torch.tensor(left).argsort(stable=True)


def by_descent(
    generator: Generator, segmenter: Segmenter, latent: Latent, part: int, layer: str, *, n_steps: int = 60
) -> Int[Tensor, " k"]:
    """Units by how far each must be switched off for the part to go and the rest to stay, most first.

    alpha in 0…1 per unit, r' = (1 - alpha) r, minimises P(part) where the part was + 10 mean |change of colour|
    elsewhere + 0.3 mean alpha. Differs from Bau et al. (ICLR 2019, sec. 3.2): nothing is inserted, and side effects
    are counted, without which units that blacken the whole image come first.
    """
    views = list[tuple[Suffix, Images, Bool[Tensor, "n h w"]]]()
    for i in range(0, len(latent), SOME):
        rest = generator.start_from(latent[i : i + SOME], layer)
        with torch.no_grad():
            views.append((rest, rest.output, _where(segmenter, rest.output / 2 + 0.5, part)))
    alpha = torch.full(views[0][0].activation.shape[1:2], 0.3).to(latent.data).requires_grad_()
    optimiser = torch.optim.Adam([alpha], lr=0.05)
    for step in range(n_steps):
        rest, before, there = views[step % len(views)]
        with torch.enable_grad():
            after = rest(LayerEdit(layer, alpha=alpha)(rest.activation))
            left = segmenter(after / 2 + 0.5).softmax(1)[:, part][there].mean()
            changed = (after - before).abs().amax(1)[~there].mean() / 2
            (alpha.grad,) = torch.autograd.grad(left + 10 * changed + 0.3 * alpha.mean(), [alpha])
        optimiser.step()
        alpha.detach().clamp_(0, 1)
    return alpha.detach().argsort(descending=True, stable=True)
