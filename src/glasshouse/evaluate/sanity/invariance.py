"""Sanity: does the map stay when the images are shifted and the model takes the shift back?"""

import torch
from torch import nn

from glasshouse.core import BadInput, Explanation, GlasshouseError, Images, Model, Score, registered
from glasshouse.evaluate.metric import Result, belongs, score_of, undefined
from glasshouse.evaluate.sanity.randomising import own_copy
from glasshouse.evaluate.sanity.replaying import passes, replay, same_values


@registered("evaluate", paper="Kindermans et al., 2019")
def input_invariance(
    model: Model | nn.Module, inputs: Images, explanation: Explanation, *, shift: float = 1.0, tolerance: float = 1e-3
) -> Score:
    """How much the map changes when a constant is added to the image and taken away again in the model. 0: not at all.

        max |a' - a| / max |a|,   a' of the model x -> f(x - shift) at x + shift

    Kindermans et al., "The (un)reliability of saliency methods", 2019. Nothing has changed for the model, so nothing
    should change in the map; methods with a fixed baseline, and those that multiply by the input, fail.
    `extras["holds"]` is 1 where the change is within `tolerance`.
    Differs: the shift is taken away in front of the first layer instead of in its bias. The two are the same function
    where the layer has no padding; in front of it they are so at borders too, and for any first layer.

    Args:
        shift: the constant, in the model's input space.
        tolerance: largest change that counts as none, for rounding.
    """
    belongs(explanation, inputs)
    if shift == 0 or tolerance < 0:
        raise BadInput(f"shift {shift} and tolerance {tolerance} test nothing.", "Try shift=1.0, tolerance=1e-3.")
    found = replay(explanation)
    if isinstance(found, str):
        return undefined("input_invariance", explanation, found, "down")
    module = own_copy(model)
    if module is None:
        return undefined("input_invariance", explanation, "model_not_copyable", "down")
    module.register_forward_pre_hook(lambda module, args: (args[0] - shift, *args[1:]))
    try:
        again = found.info.function(module, inputs + shift, list(explanation.target), **found.settings)
    except GlasshouseError:
        return undefined("input_invariance", explanation, "rerun_failed", "down")
    pair = same_values(explanation, again)
    if isinstance(pair, str):
        return undefined("input_invariance", explanation, pair, "down")
    first, second = pair
    change = (second - first).abs().flatten(1).amax(1) / first.abs().flatten(1).amax(1)
    finite, some = first.isfinite().flatten(1).all(1).tolist(), (first != 0).flatten(1).any(1).tolist()
    reason = tuple(
        "not_finite" if not good else "zero_total" if not weighty else "" if known else "shifted_not_finite"
        for good, weighty, known in zip(finite, some, change.isfinite().tolist(), strict=True)
    )
    extras = {"holds": (change <= tolerance).float()}
    result = Result(change, torch.zeros_like(change), reason, extras)
    settings = {"shift": shift, "tolerance": tolerance}
    return score_of("input_invariance", result, None, "down", settings, *passes(explanation, inputs, 1))
