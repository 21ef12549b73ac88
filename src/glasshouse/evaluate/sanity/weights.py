"""Sanity: does the map depend on what the model has learnt?"""

from typing import Any

from torch import nn

from glasshouse.core import Explanation, Images, Model, Score, registered
from glasshouse.core.backward import python_module
from glasshouse.core.lift import module_of
from glasshouse.evaluate.metric import Result, belongs, score_of, undefined
from glasshouse.evaluate.sanity.randomising import (
    Cascade,
    Norms,
    Randomising,
    Renewal,
    averaged,
    over_random_models,
)
from glasshouse.evaluate.sanity.replaying import compared, passes, replay


@registered("evaluate", paper="Adebayo et al., NeurIPS 2018", example={"order": "full"})
def randomise_parameters(
    model: Model | nn.Module,
    inputs: Images,
    explanation: Explanation,
    *,
    order: Cascade = "full",
    how: Renewal = "permute",
    bn: Norms = "keep",
    n_draws: int = 1,
    seed: int = 0,
) -> Score:
    """How much of the map survives when the model forgets everything: 1 means it never looked at the model.

        Spearman correlation of |a| and |a'|, the same method's map of a model with random weights

    Adebayo et al., "Sanity checks for saliency maps", NeurIPS 2018; the fully randomised model alone as in
    Hedstroem et al., "A fresh look at sanity checks", 2023. The error is a bootstrap over cells of the map,
    or over draws where there are several. `extras` hold `ssim`, `cosine`, `spearman_signed` and `hog`, the
    correlation of histograms of oriented gradients. Binder et al. (CVPR 2023) show that random networks keep
    the scale of activations, so that part of a cascade's similarity says nothing about the method.
    Differs: values are permuted within each tensor instead of drawn from an initialiser. That keeps their
    scale, so deep networks neither fade nor explode, and reaches parameters that have no initialiser: class
    tokens, position embeddings, layer scales. A tensor of equal values stays as it is.

    Args:
        order: "full" randomises all layers at once. The others go step by step, score the mean over the steps,
            all of which have random weights, and keep each step in `extras["cascade"]` (`n` × steps, named in
            `settings["layers"]`; `cascade_ssim` and so on for the rest): "top_down" from the output to the
            input, "bottom_up" the other way round, "independent" each layer alone.
        how: "reset" calls a module's own `reset_parameters`, and permutes where it has none, or where that leaves a
            tensor as it was.
        bn: "keep" leaves the running statistics of norms, "reset" makes them mean 0 and variance 1. To measure them
            again on the images explained would make the score of one image depend on the others.
        n_draws: random models to average over.
    """
    belongs(explanation, inputs)
    plan = Randomising(order, how, bn, n_draws, seed).checked()
    found = replay(explanation)
    if isinstance(found, str):
        return undefined("randomise_parameters", explanation, found, "down")
    first = explanation.heatmap.to(inputs.device)

    def ask(module: nn.Module) -> Any:
        again = found.info.function(module, inputs, list(explanation.target), **found.settings)
        return compared("randomised", first, again.heatmap.to(inputs.device), seed, absolute=True)

    runs = over_random_models(model, plan, ask)
    if isinstance(runs, str):
        return undefined("randomise_parameters", explanation, runs, "down")
    recorded = recorded_plan(model, plan)
    spent = passes(explanation, inputs, len(runs))
    return score_of("randomise_parameters", averaged(runs, plan), 1.0, "down", recorded, *spent)


def recorded_plan(model: Model | nn.Module, plan: Randomising) -> dict[str, Any]:
    """Settings of a score, with the layers in the order of the steps."""
    settings: dict[str, Any] = dict(plan._asdict())
    if plan.order != "full":
        settings["layers"] = tuple(plan.layers(python_module(module_of(model))))
    return settings


@registered("evaluate", paper="Adebayo et al., NeurIPS 2018")
def data_randomisation(
    model: Model | nn.Module,
    inputs: Images,
    explanation: Explanation,
    *,
    other_model: Model | nn.Module,
    seed: int = 0,
) -> Score:
    """How much of the map remains for a model that was trained on permuted labels: 1 means that labels do not matter.

        Spearman correlation of |a| and |a'|, the map of a model that learnt the same images with random labels

    Adebayo et al., "Sanity checks for saliency maps", NeurIPS 2018, sec. 4. `extras` as in `randomise_parameters`.
    Yona and Greenfeld (2021) show that where the labelled object is all there is to see, even a good method finds
    it for both models.

    Args:
        other_model: of the same architecture, fitted to the same images with their labels permuted.
    """
    belongs(explanation, inputs)
    found = replay(explanation)
    if isinstance(found, str):
        return undefined("data_randomisation", explanation, found, "down")
    other = found.info.function(other_model, inputs, list(explanation.target), **found.settings)
    first, second = explanation.heatmap.to(inputs.device), other.heatmap.to(inputs.device)
    result = Result(*compared("other_model", first, second, seed, absolute=True))
    return score_of("data_randomisation", result, 1.0, "down", {"seed": seed}, *passes(explanation, inputs, 1))
