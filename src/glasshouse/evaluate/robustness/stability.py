"""Changes of the map relative to those of the image, of the scores, of what the model makes of the image."""

from collections.abc import Callable
from typing import Any, Literal, get_args

import torch
from jaxtyping import Float
from torch import Tensor, nn

from glasshouse.core import BadInput, Explanation, Images, Model, Score, registered
from glasshouse.core.lift import module_of
from glasshouse.evaluate.metric import belongs, undefined
from glasshouse.evaluate.robustness.neighbours import Looking, Pairs, around, largest, neighbour_score, noise

Denominator = Literal["element", "norm"]
LEAST = 1e-6  # in place of smaller denominators


def relative(before: Tensor, after: Tensor, denom: Denominator) -> Float[Tensor, " r"]:
    """How much each row changed, relative to what it was: value by value, or as a whole."""
    first, second = before.flatten(1), after.flatten(1)
    if denom == "norm":
        return (second - first).norm(dim=1) / first.norm(dim=1).clamp(min=LEAST)
    return ((second - first) / torch.where(first == 0, LEAST, first)).norm(dim=1)


def stability(
    name: str,
    model: Model | nn.Module,
    inputs: Images,
    explanation: Explanation,
    settings: dict[str, Any],
    divisor: Callable[[Pairs], Float[Tensor, " r"]],
    scores: bool,
) -> Score:
    """Largest relative change of the map over that of something else. `scores`: whether that takes the model."""
    belongs(explanation, inputs)
    denom, n_samples = settings["denom"], settings["n_samples"]
    if denom not in get_args(Denominator):
        raise BadInput(f"denom '{denom}' is unknown.", "Use 'element' or 'norm'.")

    def measure(pairs: Pairs) -> Float[Tensor, "r 1"]:
        return (relative(pairs.maps, pairs.moved, denom) / divisor(pairs).clamp(min=LEAST))[:, None]

    disturb = noise(model, inputs, settings["radius"], n_samples, settings["seed"])
    looking = Looking(measure, "native", settings.get("layer"), scores)
    found = around(model, inputs, explanation, disturb, n_samples, looking, settings["same_prediction"])
    return neighbour_score(name, explanation, found, largest, settings, extras=lambda value: {"log": value.log()})


@registered("evaluate", paper="Agarwal et al., 2022", example={"n_samples": 3})
def relative_input_stability(
    model: Model | nn.Module,
    inputs: Images,
    explanation: Explanation,
    *,
    denom: Denominator = "element",
    radius: float = 0.05,
    n_samples: int = 10,
    same_prediction: bool = True,
    seed: int = 0,
) -> Score:
    """How much more the map changes than the image does, both relative to what they were: 1 is in proportion.

        max_s || (a_s - a) / a ||_2 / max(|| (x_s - x) / x ||_2, 1e-6)

    Agarwal et al., "Rethinking stability for attribution-based explanations", 2022. Of the method's own values
    (`native`). `extras["log"]` is its logarithm, `extras["dropped"]` the share of copies that the model puts into
    another class; they do not count, and as many as are left decide. Values near 0 decide the quotient by element:
    use `denom="norm"` for maps with many of them. The error is a bootstrap over copies.
    Differs: copies are uniform in a cube. Only denominators of exactly 0 become 1e-6.

    Args:
        denom: "element" divides value by value, as the paper does; "norm" takes ||a_s - a|| / ||a||, and the same of x.
        radius, n_samples, same_prediction: as in `max_sensitivity`.
    """
    settings = {
        "denom": denom,
        "radius": radius,
        "n_samples": n_samples,
        "same_prediction": same_prediction,
        "seed": seed,
    }

    def divisor(pairs: Pairs) -> Float[Tensor, " r"]:
        return relative(pairs.images, pairs.copies, denom)

    return stability("relative_input_stability", model, inputs, explanation, settings, divisor, scores=False)


@registered("evaluate", paper="Agarwal et al., 2022", example={"n_samples": 3})
def relative_output_stability(
    model: Model | nn.Module,
    inputs: Images,
    explanation: Explanation,
    *,
    denom: Denominator = "element",
    radius: float = 0.05,
    n_samples: int = 10,
    same_prediction: bool = True,
    seed: int = 0,
) -> Score:
    """How much the map changes per change of the model's scores.

        max_s || (a_s - a) / a ||_2 / max(|| f(x_s) - f(x) ||_2, 1e-6),   f: all logits

    Agarwal et al., "Rethinking stability for attribution-based explanations", 2022. A map may change where the
    model's answer does. As `relative_input_stability` in everything else.

    Args:
        denom: of the map only; logits are compared as they are.
    """
    settings = {
        "denom": denom,
        "radius": radius,
        "n_samples": n_samples,
        "same_prediction": same_prediction,
        "seed": seed,
    }

    def divisor(pairs: Pairs) -> Float[Tensor, " r"]:
        return (pairs.seen_there - pairs.seen).norm(dim=1)

    return stability("relative_output_stability", model, inputs, explanation, settings, divisor, scores=True)


def head_of(module: nn.Module) -> str | None:
    """What enters the last linear layer; None where there is none with a name."""
    linear = [name for name, part in module.named_modules() if isinstance(part, nn.Linear) and name]
    return f"{linear[-1]}.input" if linear else None


@registered("evaluate", paper="Agarwal et al., 2022", example={"n_samples": 3})
def relative_representation_stability(
    model: Model | nn.Module,
    inputs: Images,
    explanation: Explanation,
    *,
    layer: str | None = None,
    denom: Denominator = "element",
    radius: float = 0.05,
    n_samples: int = 10,
    same_prediction: bool = True,
    seed: int = 0,
) -> Score:
    """How much the map changes per change of what the model makes of the image.

        max_s || (a_s - a) / a ||_2 / max(|| (L(x_s) - L(x)) / L(x) ||_2, 1e-6),   L: a layer's output

    Agarwal et al., "Rethinking stability for attribution-based explanations", 2022. As
    `relative_input_stability` in everything else. Behind a ReLU many values are exactly 0; take `denom="norm"` there.

    Args:
        layer: its name, or `name.input`; None takes what enters the last linear layer, which is recorded.
    """
    place = layer or head_of(module_of(model))
    if place is None:
        return undefined("relative_representation_stability", explanation, "no_linear_layer", "down")
    settings = {
        "layer": place,
        "denom": denom,
        "radius": radius,
        "n_samples": n_samples,
        "same_prediction": same_prediction,
        "seed": seed,
    }

    def divisor(pairs: Pairs) -> Float[Tensor, " r"]:
        return relative(pairs.seen, pairs.seen_there, denom)

    return stability("relative_representation_stability", model, inputs, explanation, settings, divisor, scores=True)
