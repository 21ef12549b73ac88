"""Sanity: does the map depend on what the model has learnt, and on the class it is asked about?"""

import copy
import re
from collections.abc import Sequence
from typing import Any, Literal, get_args

import torch
from jaxtyping import Int
from torch import Tensor, nn

from glasshouse.core import (
    BadInput,
    Cost,
    Explanation,
    GlasshouseError,
    Images,
    Info,
    Maps,
    Model,
    Score,
    generator,
    registered,
)
from glasshouse.core.lift import module_of
from glasshouse.evaluate.agreement import cosine, spearman, ssim
from glasshouse.evaluate.engine import CLEAN, Answers, grid_of
from glasshouse.evaluate.metric import Result, asked, belongs, flaws, known_method, score_of, undefined

Cascade = Literal["full", "top_down"]


def replay(explanation: Explanation) -> tuple[Info, dict[str, Any]] | str:
    """The method and the settings of an explanation, or one word that says why it cannot be run again."""
    if not explanation.target:
        return "custom_target"
    info = known_method(explanation)
    if info is None:
        return "unknown_method"
    known, settings = info.parameters.parameters, dict[str, Any]()
    for name, value in explanation.settings.items():
        if name not in known:
            return "settings_not_kept"
        default = known[name].default
        if not isinstance(value, str) or value == default or is_text(str(known[name].annotation), value):
            settings[name] = value
        elif value != getattr(default, "__name__", None):  # else the default function, recorded by its name
            return "settings_not_kept"
    return info, settings


def is_text(annotation: str, value: str) -> bool:
    """Whether a recorded text is the argument itself and not the description of a tensor or function."""
    return not value.startswith("tensor (") and re.search(r"\b(str|Literal|Any)\b", annotation) is not None


def price(explanation: Explanation, images: Images) -> Cost | None:
    """What the explanation of one image cost; None where the method does not say."""
    info = known_method(explanation)
    return info.price(explanation.settings, images.shape) if info else None


def passes(explanation: Explanation, images: Images, runs: int) -> tuple[int, int]:
    """Forward and backward passes of running the method again, counted in single images."""
    cost, count = price(explanation, images) or Cost(0), runs * len(images)
    return round(cost.forward * count), round(cost.backward * count)


def compared(
    name: str, first: Maps, second: Maps, seed: int, absolute: bool
) -> tuple[Tensor, Tensor, tuple[str, ...], dict[str, Tensor]]:
    """Spearman correlation of two maps per image, its error, reasons where undefined, other similarities."""
    a, b = (first.abs(), second.abs()) if absolute else (first, second)
    size = (first.shape[-2], first.shape[-1])
    value, stderr = spearman(a, b, seed, grid_of(size))
    reason = tuple(
        mine or (f"{name}_{other}" if other else "" if known else "constant_map")
        for mine, other, known in zip(flaws(first), flaws(second), value.isfinite().tolist(), strict=True)
    )
    return value, stderr, reason, {"ssim": ssim(a, b), "cosine": cosine(first, second)}


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


def other_classes(answers: Answers, other: int | Sequence[int] | None, target: tuple[int, ...]) -> Int[Tensor, " n"]:
    """The class to compare with: the one given, or each image's highest-scoring one besides its target."""
    mine = torch.tensor(target)
    if other is not None:
        given = torch.as_tensor(other)
        return given.expand(len(mine)) if given.ndim == 0 else given
    answers.ask([CLEAN])
    assert answers.top is not None
    top = answers.top.cpu()
    return torch.where(top[:, 0] == mine, top[:, -1], top[:, 0])


@registered("evaluate", paper="Nie et al., ICML 2018; Sixt et al., ICML 2020")
def class_sensitivity(
    model: Model | nn.Module,
    inputs: Images,
    explanation: Explanation,
    *,
    other: int | Sequence[int] | None = None,
    seed: int = 0,
    answers: Answers | None = None,
) -> Score:
    """How much the map changes with the class it is asked about: 0 means it shows the same for another class.

        1 - Spearman correlation of a(target) and a(other class)

    Nie, Zhang and Patel, "A theoretical explanation for perplexing behaviors of backpropagation-based
    visualizations", ICML 2018; Sixt et al., "When explanations lie", ICML 2020. Maps are compared with their
    sign: 2 is the exact opposite. The error is a bootstrap over cells of the map. `extras["other"]` holds the
    class compared.

    Args:
        other: the other class, one for all or one per image; None takes each image's runner-up.
    """
    found = replay(explanation)
    answers = asked(model, inputs, explanation, None, answers)
    if isinstance(found, str) or answers is None:
        return undefined("class_sensitivity", explanation, found if isinstance(found, str) else "custom_target")
    info, settings = found
    compare = other_classes(answers, other, explanation.target)
    try:
        second = info.function(model, inputs, compare.tolist(), **settings).heatmap.to(inputs.device)
    except GlasshouseError:
        if other is not None:  # perhaps no class of this model: the caller's to know
            raise
        return undefined("class_sensitivity", explanation, "rerun_failed")
    first = explanation.heatmap.to(inputs.device)
    value, stderr, reason, extras = compared("other", first, second, seed, absolute=False)
    same = (compare == torch.tensor(explanation.target)).tolist()
    reason = tuple("no_other_class" if alone else why for alone, why in zip(same, reason, strict=True))
    forward, backward = passes(explanation, inputs, 1)
    result = Result(1 - value, stderr, reason, {**extras, "other": compare})
    spent = forward + (answers.charge([]) if other is None else 0)
    return score_of("class_sensitivity", result, 0.0, "up", {"seed": seed}, spent, backward)
