"""Sanity: does the map depend on what the model has learnt?"""

import copy
from typing import Any, Literal, get_args

import torch
from torch import nn

from glasshouse.core import (
    BadInput,
    Explanation,
    GlasshouseError,
    Images,
    Model,
    Score,
    generator,
    registered,
)
from glasshouse.core.lift import module_of
from glasshouse.evaluate.metric import Result, belongs, score_of, undefined
from glasshouse.evaluate.sanity.replaying import compared, passes, replay

Cascade = Literal["full", "top_down"]


def layers_from_the_top(module: nn.Module) -> list[str]:
    """Modules that hold parameters of their own, last defined first: the output's side."""
    return [name for name, part in module.named_modules() if part._parameters][::-1]


def shuffle(module: nn.Module, layer: str, draws: torch.Generator) -> None:
    """Permute the values within each parameter of one module."""
    with torch.no_grad():
        for parameter in module.get_submodule(layer)._parameters.values():
            if parameter is not None:
                order = torch.randperm(parameter.numel(), generator=draws).to(parameter.device)
                parameter.copy_(parameter.flatten()[order].view_as(parameter))


@registered("evaluate", paper="Adebayo et al., NeurIPS 2018", example={"order": "full"})
def randomise_parameters(
    model: Model | nn.Module,
    inputs: Images,
    explanation: Explanation,
    *,
    order: Cascade = "full",
    n_draws: int = 1,
    seed: int = 0,
) -> Score:
    """How much of the map survives when the model forgets everything: 1 means it never looked at the model.

        Spearman correlation of |a| and |a'|, the same method's map of a model with random weights

    Adebayo et al., "Sanity checks for saliency maps", NeurIPS 2018; the fully randomised model alone as in
    Hedstroem et al., "A fresh look at sanity checks", 2023. The error is a bootstrap over cells of the map,
    or over draws where there are several. `extras` hold SSIM and the cosine.
    Differs: values are permuted within each tensor instead of drawn from an initialiser. That keeps their
    scale, so deep networks neither fade nor explode, and reaches parameters that have no initialiser. The
    statistics of batch norms stay.

    Args:
        order: "full" randomises all layers at once; "top_down" adds one after the other, from the output to
            the input, and scores the mean over those steps (`extras["cascade"]`, `settings["layers"]`).
        n_draws: random models to average over.
    """
    belongs(explanation, inputs)
    found = replay(explanation)
    if isinstance(found, str):
        return undefined("randomise_parameters", explanation, found, "down")
    if n_draws < 1 or order not in get_args(Cascade):
        raise BadInput(f"order '{order}' with {n_draws} draws.", "Use 'full' or 'top_down', and at least 1 draw.")
    info, settings = found
    try:
        copies = [copy.deepcopy(module_of(model)).eval() for _ in range(n_draws)]
    except Exception:  # anything may happen in a user's __deepcopy__
        return undefined("randomise_parameters", explanation, "model_not_copyable", "down")
    draws, results, layers = generator(seed), [], layers_from_the_top(copies[0])
    if not layers:
        return undefined("randomise_parameters", explanation, "no_parameters", "down")
    for module in copies:
        for place, layer in enumerate(layers):
            shuffle(module, layer, draws)
            if order == "top_down" or place == len(layers) - 1:
                try:
                    other = info.function(module, inputs, list(explanation.target), **settings)
                except GlasshouseError:
                    return undefined("randomise_parameters", explanation, "rerun_failed", "down")
                first, second = explanation.heatmap.to(inputs.device), other.heatmap.to(inputs.device)
                results.append(compared("randomised", first, second, seed, absolute=True))
    runs = torch.stack([value for value, *_ in results])
    errors = torch.stack([stderr for _, stderr, *_ in results])
    drawn = runs.view(n_draws, -1, len(inputs)).mean(1)
    stderr = drawn.std(0) / n_draws**0.5 if n_draws > 1 else errors.mean(0)
    reason = tuple(next((why for why in each if why), "") for each in zip(*(r[2] for r in results), strict=True))
    extras = {key: torch.stack([r[3][key] for r in results]).mean(0) for key in results[0][3]}
    recorded: dict[str, Any] = {"order": order, "n_draws": n_draws, "seed": seed}
    if order == "top_down":
        extras["cascade"] = runs.view(n_draws, -1, len(inputs)).mean(0).T
        recorded["layers"] = tuple(layers)
    result = Result(runs.mean(0), stderr, reason, extras)
    spent = passes(explanation, inputs, len(results))
    return score_of("randomise_parameters", result, 1.0, "down", recorded, *spent)
