"""Difference from a reference: what each input value adds, operation by operation, on the way from a baseline."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_map

from glasshouse.attribute.accounts import (
    ACCOUNTS,
    Arguments,
    Call,
    depends,
    in_place,
    no_rule,
    own_gradient_accounts,
    plain_name,
)
from glasshouse.attribute.baselines import baseline_images
from glasshouse.attribute.gradients import relative_gap
from glasshouse.core import Aim, BadModel, Cost, Images, PerImage, Reading, Target, method, select, steps
from glasshouse.core.gradient import gradient
from glasshouse.core.target import logits
from glasshouse.core.trace import plain_attention, tensors


def count(baselines: float | Tensor) -> int:
    """How many baselines were given: the length of a tensor of five axes, else one."""
    return len(baselines) if isinstance(baselines, Tensor) and baselines.ndim == 5 else 1


def passes(settings: Mapping[str, Any], shape: Sequence[int]) -> Cost:
    """Of DeepLIFT: for each baseline, it and the image forward, and one way back."""
    n = count(settings["baselines"])
    return Cost(2 * n, n)


@method(cost=passes, claims=("complete", "dummy", "equivariant", "linear"), paper="Shrikumar et al., ICML 2017")
def deep_lift(
    model: nn.Module,
    inputs: Images,
    target: Target = None,
    *,
    baselines: float | Tensor = 0.0,
    score: Reading = "logit",
) -> tuple[Images, dict[str, PerImage]]:
    """What each input value adds to the score compared with a baseline, through every operation's whole change.

        (x - x0) * m,   m = product of the multipliers (out - out0) / (in - in0) along all paths

    Shrikumar, Greenside and Kundaje, "Learning important features through propagating activation differences",
    ICML 2017, sec. 3, with the rescale rule. Several baselines give the mean (DeepSHAP: Lundberg and Lee, NeurIPS
    2017, sec. 4). The values sum to `y(x) - y(x0)`; how far they miss it is reported as `extras["gap"]`, relative to
    that difference, and is rounding only.

    Differs: the paper has rules for functions of one number and leaves out what two signals make together. Here a
    product shares it equally between both, and softmax, layer norm and max-pooling have multipliers that are exact,
    so attention and gates are accounted for too. An operation without a rule is an error.

    Args:
        baselines: x0, in the model's input space; a number, a tensor that broadcasts to the images, or several of
            those with an axis of their own in front: `b n c h w` or `b 1 c h w`.
    """
    several = baselines if isinstance(baselines, Tensor) and baselines.ndim == 5 else [baselines]
    aim, values, change = Aim.of(target), torch.zeros_like(inputs), inputs.new_zeros(len(inputs))
    for index in steps(len(several)):
        start = baseline_images(several[index], inputs)
        slope, rise = multipliers(model, inputs, start, aim, score)
        values += (inputs - start) * slope / len(several)
        change += rise / len(several)
    return values, {"gap": relative_gap(values, change)}


def multipliers(model: nn.Module, inputs: Images, start: Images, aim: Aim, score: Reading) -> tuple[Images, PerImage]:
    """The multiplier of each input value, and the difference of the two scores."""
    images, before = inputs.detach().clone().requires_grad_(), Reference()
    with plain_attention():
        with torch.no_grad(), before:
            silent = logits(model(start.clone()))
        after = Differences(before.calls)
        with after:
            output = logits(model(images))
        select(output.detach(), aim, score)  # the target is resolved on the image, before the baseline is read
        with torch.no_grad(), before:
            low = select(silent, aim, score)
        with after:
            high = select(output, aim, score)
    return gradient(high, images), high.detach() - low


class Reference(TorchFunctionMode):
    """Writes down what every operation that has a rule was given."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[tuple[str, Arguments]] = []

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs, name = kwargs or {}, plain_name(func)
        if name in ACCOUNTS:
            self.calls.append((name, tree_map(copied, (args, kwargs))))
        return func(*args, **kwargs)


class Differences(TorchFunctionMode):
    """Runs a model beside what a `Reference` wrote down, with multipliers in place of derivatives."""

    def __init__(self, calls: Sequence[tuple[str, Arguments]]):
        super().__init__()
        self.calls = calls
        self.done = 0

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs, name = kwargs or {}, plain_name(func)
        if name not in ACCOUNTS:
            seen, out = any(map(depends, tensors((args, kwargs)))), func(*args, **kwargs)
            if seen and any(map(depends, tensors(out))) and not own_gradient_accounts(name, (args, kwargs)):
                raise no_rule(func.__name__)
            return out
        silent = self.take(name, (args, kwargs))
        if not any(map(depends, tensors((args, kwargs)))):
            return func(*args, **kwargs)
        out = ACCOUNTS[name](Call(func, args, kwargs, silent))
        return args[0].copy_(out) if in_place(func, args, kwargs) else out

    def take(self, name: str, given: Arguments) -> Arguments:
        """The same call's arguments in the other run."""
        before, silent = self.calls[self.done] if self.done < len(self.calls) else ("nothing", ((), {}))
        self.done += 1
        if before != name or [t.shape for t in tensors(given)] != [t.shape for t in tensors(silent)]:
            raise BadModel(
                f"the model runs differently on the image ({name}) and on the baseline ({before}).",
                "Use integrated_gradients, which compares no operations.",
            )
        return silent


def copied(leaf: Any) -> Any:
    """A tensor as it is now: operations in place may change it later. Weights are not changed."""
    return leaf.clone() if isinstance(leaf, Tensor) and not isinstance(leaf, nn.Parameter) else leaf
