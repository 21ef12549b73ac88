"""Models that forget: copies in which layer after layer gets random weights."""

import copy
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any, Literal, NamedTuple, TypeAlias, TypeVar, get_args

import torch
from torch import Tensor, nn

from glasshouse.core import BadInput, GlasshouseError, Model, generator
from glasshouse.core.backward import python_module
from glasshouse.core.lift import module_of
from glasshouse.evaluate.metric import Result

T = TypeVar("T")
Cascade = Literal["full", "top_down", "bottom_up", "independent"]
Renewal = Literal["permute", "reset"]
Norms = Literal["keep", "reset"]
Comparison: TypeAlias = tuple[Tensor, Tensor, tuple[str, ...], dict[str, Tensor]]
"""Of two maps per image: similarity, its error, reasons where undefined, other similarities."""


class Randomising(NamedTuple):
    """Which layers become random, how, and how often all of it is done.

    Args:
        order: all layers at once; one after the other from either end; or each by itself.
        how: permute the values of each tensor, or call the module's own `reset_parameters` where it has one, and
            permute what that leaves as it was.
        bn: whether the running statistics of a norm stay when its turn comes, or become mean 0 and variance 1.
    """

    order: Cascade = "full"
    how: Renewal = "permute"
    bn: Norms = "keep"
    n_draws: int = 1
    seed: int = 0

    def checked(self) -> "Randomising":
        for name, value, known in (("order", self.order, Cascade), ("how", self.how, Renewal), ("bn", self.bn, Norms)):
            if value not in get_args(known):
                raise BadInput(f"{name} '{value}' is unknown.", f"Use {', '.join(map(repr, get_args(known)))}.")
        if self.n_draws < 1:
            raise BadInput(f"{self.n_draws} draws of random weights are too few.", "Use at least 1.")
        return self

    def layers(self, module: nn.Module) -> list[str]:
        """Modules that hold something to randomise, in the order in which their turn comes."""
        top_down = [
            name
            for name, part in module.named_modules()
            if any(value is not None for value in part._parameters.values()) or (self.bn == "reset" and counts(part))
        ][::-1]
        return top_down[::-1] if self.order == "bottom_up" else top_down


def counts(part: nn.Module) -> bool:
    """Whether a module keeps running statistics."""
    return isinstance(getattr(part, "running_mean", None), Tensor)


def renewed(part: nn.Module, how: Renewal, bn: Norms, seed: int) -> dict[str, Tensor]:
    """Random values for what one module itself holds; the same for a seed, whatever else is random."""
    own, draws = (
        {name: value.detach() for name, value in part._parameters.items() if value is not None},
        generator(seed),
    )
    values = initialised(part, own, seed) if how == "reset" and hasattr(part, "reset_parameters") else {}
    for name, value in own.items():
        if name not in values or values[name].equal(value):
            order = torch.randperm(value.numel(), generator=draws).to(value.device)
            values[name] = value.flatten()[order].view_as(value)
    if bn == "reset" and counts(part):
        mean, variance = part.get_buffer("running_mean"), part.get_buffer("running_var")
        values |= {"running_mean": torch.zeros_like(mean), "running_var": torch.ones_like(variance)}
    return values


def initialised(part: nn.Module, own: dict[str, Tensor], seed: int) -> dict[str, Tensor]:
    """What a module's own initialiser makes of its parameters."""
    fresh: Any = copy.deepcopy(part).cpu()
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        fresh.reset_parameters()
    return {name: fresh._parameters[name].detach().to(value.device) for name, value in own.items()}


def write(part: nn.Module, values: dict[str, Tensor]) -> None:
    """Overwrite parameters and buffers of one module."""
    with torch.no_grad():
        for name, value in values.items():
            getattr(part, name).copy_(value)


def ever_more_random(module: nn.Module, plan: Randomising, draw: int) -> Iterator[nn.Module]:
    """The module itself at each step of the cascade, changed in place."""
    layers = plan.layers(module)
    for place, layer in enumerate(layers):
        part = module.get_submodule(layer)
        index = len(layers) - 1 - place if plan.order == "bottom_up" else place
        values = renewed(part, plan.how, plan.bn, (plan.seed * 1_000_003 + draw * 10_007 + index) % 2**63)
        before = {name: getattr(part, name).detach().clone() for name in values}
        write(part, values)
        if plan.order != "full" or place == len(layers) - 1:
            yield module
        if plan.order == "independent":
            write(part, before)


def own_copy(model: Model | nn.Module) -> nn.Module | None:
    """A copy in evaluation mode, which gradients can go through whatever mode the caller is in.

    None if copying fails, or if a `forward` that was set on an instance may still call the original: then nothing that
    becomes of the copy's weights would be seen.
    """
    try:
        with torch.inference_mode(False):
            module = copy.deepcopy(python_module(module_of(model))).eval()
    except Exception:  # anything may happen in a user's __deepcopy__
        return None
    parts = set(module.modules())
    return module if all(own_forward(part, parts) for part in parts) else None


def own_forward(part: nn.Module, parts: set[nn.Module]) -> bool:
    """Whether what runs a copied module is of the copy: bound methods and partial functions are copied, others not."""
    forward = vars(part).get("forward")
    compiled = hasattr(part, "_orig_mod")  # which makes its forward anew when it is copied
    return forward is None or compiled or isinstance(forward, partial) or getattr(forward, "__self__", None) in parts


def over_random_models(model: Model | nn.Module, plan: Randomising, ask: Callable[[nn.Module], T]) -> list[T] | str:
    """What `ask` says of every random model, draw after draw; or one word that says why there is no answer.

    The model with its own weights is not among them.
    """
    if not plan.layers(python_module(module_of(model))):
        return "no_parameters"
    answers = list[T]()
    for draw in range(plan.n_draws):
        module = own_copy(model)
        if module is None:
            return "model_not_copyable"
        for changed in ever_more_random(module, plan, draw):
            try:
                answers.append(ask(changed))
            except GlasshouseError:
                return "rerun_failed"
    return answers


def averaged(comparisons: Sequence[Comparison], plan: Randomising) -> Result:
    """Mean over draws and steps; with the steps one by one in `extras` where there are several."""
    runs = torch.stack([value for value, *_ in comparisons])
    n_draws, n = plan.n_draws, runs.shape[1]
    drawn = runs.view(n_draws, -1, n).mean(1)
    errors = torch.stack([stderr for _, stderr, *_ in comparisons])
    stderr = drawn.std(0) / n_draws**0.5 if n_draws > 1 else errors.mean(0)
    reason = tuple(next((why for why in each if why), "") for each in zip(*(c[2] for c in comparisons), strict=True))
    further = {key: torch.stack([c[3][key] for c in comparisons]) for key in comparisons[0][3]}
    extras = {key: values.mean(0) for key, values in further.items()}
    if plan.order != "full":
        steps = {"cascade": runs, **{f"cascade_{key}": values for key, values in further.items()}}
        extras |= {key: values.view(n_draws, -1, n).mean(0).T for key, values in steps.items()}
    return Result(runs.mean(0), stderr, reason, extras)
