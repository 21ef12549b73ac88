"""Surrogates: a small model, which can be read, fitted to the network around one image."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from glasshouse.attribute.answers import Classes, ask
from glasshouse.attribute.baselines import Baselines
from glasshouse.attribute.coalitions import Coalitions, game_of, play
from glasshouse.core import Aim, BadInput, Cost, Images, Reading, Target, generator, method
from glasshouse.core.superpixels import Kind, label_maps


def passes(settings: Mapping[str, Any], shape: Sequence[int]) -> Cost:
    """Of LIME: one per sample, the first of which is the image itself."""
    return Cost(settings["n_samples"])


@method(
    cost=passes,
    claims=("implementation", "silent", "linear"),
    paper="Ribeiro et al., KDD 2016",
    example={"n_samples": 40, "n_regions": 9, "chunk": 8},
)
def lime(
    model: nn.Module,
    inputs: Images,
    target: Target = None,
    *,
    n_samples: int = 1000,
    feature_mask: Kind | Int[Tensor, "..."] = "slic",
    n_regions: int = 50,
    baselines: Baselines | None = None,
    kernel_width: float = 0.25,
    alpha: float = 1.0,
    classes: Classes = None,
    score: Reading = "prob",
    seed: int = 0,
    chunk: int = 16,
) -> tuple[Float[Tensor, "n 1 h w"], dict[str, Tensor]]:
    """What showing a region adds to the score, by a linear model fitted to images with regions hidden at random.

        min over b, β:  Σ_s w_s (y(z_s) - b - β · z_s)² + alpha |β|²,
        w_s = sqrt(exp(-d_s² / kernel_width²)),   d_s = 1 - cos(z_s, all shown)

    z_s says which regions sample s shows, each with probability 1/2; the first sample shows all. Ribeiro, Singh and
    Guestrin, "Why should I trust you? Explaining the predictions of any classifier", KDD 2016, eq. 1 and 2, with the
    weights and the ridge regression of the authors' program. Every pixel carries the β of its region.

    `extras` holds the `regions`, `r2` (how much of the score's changes the linear model follows, weighted as above),
    the `intercept`, and `stderr`, the standard error of β by the jackknife over samples.

    Differs: superpixels are SLIC, not quickshift, and none is left out.

    Args:
        feature_mask: "slic" or "grid" for about `n_regions` regions, or a label map of whole numbers, `h w` or `n h w`.
        baselines: what hides a region, in input space; None takes the region's mean colour.
        kernel_width: the smaller it is, the less do samples count that hide much.
        alpha: strength of the ridge; 0 gives weighted least squares.
        classes: further classes, or "all", from the same samples: `extras["classes"]`, `n k h w`.
        seed: decides which regions are shown, whatever other images are in the batch.
        chunk: images per forward pass; any number gives the same result.
    """
    if n_samples < 2 or chunk < 1 or kernel_width <= 0 or alpha < 0:
        seen = f"n_samples {n_samples}, chunk {chunk}, kernel_width {kernel_width} and alpha {alpha}"
        raise BadInput(f"{seen} are not all in range.", "See help.")
    aim = Aim.of(target)
    with torch.no_grad():
        clean = ask(model, inputs, aim, score, classes).cpu().double()
        game = game_of(inputs, label_maps(inputs, feature_mask, n_regions), baselines)
        samples = [draw(n_samples, players, seed) for players in game.players]
        answers = play(model, game, [shown[1:] for shown in samples], aim, score, classes, chunk)
    # Answers less the clean one: a network that never changes its mind then gives zeros, not rounding.
    fits = [
        ridge(shown.double(), torch.cat([0 * own, answer - own]), closeness(shown, kernel_width), alpha)
        for shown, answer, own in zip(samples, answers, clean.split(1), strict=True)
    ]
    maps = game.paint([fit.slopes for fit in fits])
    intercepts = torch.stack([fit.intercept[0] for fit in fits]) + clean[:, 0]
    extras = {
        "regions": game.labels,
        "r2": torch.stack([fit.r2[0] for fit in fits]).to(maps),
        "intercept": intercepts.to(maps),
        "stderr": game.paint([fit.stderr[:, None] for fit in fits])[:, 0],
    }
    return maps[:, :1], extras if classes is None else {**extras, "classes": maps[:, 1:]}


def draw(n_samples: int, players: int, seed: int) -> Coalitions:
    """Each region shown with probability 1/2; all of them in the first sample."""
    shown = torch.rand(n_samples, players, generator=generator(seed)) < 0.5
    shown[0] = True
    return shown


def closeness(shown: Coalitions, kernel_width: float) -> Float[Tensor, " s"]:
    """The weight of each sample: how close it is to the whole image, by the cosine between the two."""
    distance = 1 - shown.double().mean(1).sqrt()
    return (-0.5 * (distance / kernel_width).square()).exp()


class Fit(NamedTuple):
    """A linear model of q answers; the standard error is that of the first."""

    slopes: Float[Tensor, "m q"]
    intercept: Float[Tensor, " q"]
    r2: Float[Tensor, " q"]
    stderr: Float[Tensor, " m"]


def ridge(x: Float[Tensor, "s m"], y: Float[Tensor, "s q"], weight: Float[Tensor, " s"], alpha: float) -> Fit:
    """Weighted ridge regression with an intercept that is not penalised.

        slopes = (X'WX + alpha)⁻¹ X'Wy       with X and y less their weighted means

    Leaving sample s out moves the slopes by (X'WX + alpha)⁻¹ x_s w_s e_s / (1 - h_s), e_s the residual and h_s the
    leverage: Efron, "The jackknife, the bootstrap and other resampling plans", SIAM 1982, sec. 3.
    """
    share = weight / weight.sum()
    x_mean, y_mean = share @ x, share @ y
    x, y = x - x_mean, y - y_mean
    wx = x * weight[:, None]
    root, failed = torch.linalg.cholesky_ex(x.T @ wx + alpha * torch.eye(x.shape[1], dtype=x.dtype))
    if failed:
        raise BadInput(
            f"{len(x)} samples do not tell {x.shape[1]} regions apart.", "Raise n_samples, or set alpha above 0."
        )
    lever = torch.cholesky_solve(wx.T, root)  # m s
    slopes = lever @ y
    residual = y - x @ slopes
    leverage = (x * lever.T).sum(1) + share
    moved = lever * (residual[:, 0] / (1 - leverage).clamp(min=1e-9))
    left, all_of_it = share @ residual.square(), share @ y.square()
    r2 = torch.where(all_of_it > 0, 1 - left / all_of_it, torch.ones_like(left))
    return Fit(slopes, y_mean - x_mean @ slopes, r2, moved.square().sum(1).sqrt())
