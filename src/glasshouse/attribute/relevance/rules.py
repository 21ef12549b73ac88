"""Rules for weighted sums `z_j = sum_i x_i w_ij + b_j`: among which contributions the relevance of z_j is dealt out.

A rule is data: the shares of relevance it makes, each with inputs and weights of its own,

    R_i = sum over shares of sum_j  a_i v_ij / (sum_i a_i v_ij + c_j) * amount_j R_j.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias

import torch
from torch import Tensor

Bound: TypeAlias = float | Sequence[float] | Tensor


@dataclass(frozen=True)
class Share:
    """A part of the relevance, dealt out in proportion to contributions `a_i v_ij`.

    Args:
        parts: pairs (a, v) of inputs and weights, whose contributions are added up.
        bias: c, which gets its own part and keeps it: absorbed relevance.
        amount: how much of R_j, per output or for all; None for all of it.
    """

    parts: tuple[tuple[Tensor, Tensor], ...]
    bias: Tensor | None
    amount: Tensor | float | None = None


Shares: TypeAlias = Callable[[Tensor, Tensor, Tensor | None, Tensor | None], tuple[Share, ...]]
"""From inputs x, weights w, bias b and result z (None unless it is asked for) to the shares."""


@dataclass(frozen=True)
class Rule:
    """How a weighted sum deals out its relevance.

    Args:
        shares: None for a single one, in proportion to what each input contributes.
        epsilon: added to the denominator, away from 0; None takes the method's.
        reads_output: whether `shares` looks at z.
    """

    name: str
    shares: Shares | None = None
    epsilon: float | None = None
    reads_output: bool = False


def epsilon(epsilon: float | None = None) -> Rule:
    """In proportion to each contribution `x_i w_ij`, whatever its sign (Bach et al., PLOS ONE 2015, eq. 58)."""
    return Rule("epsilon", None, epsilon)


def z_plus() -> Rule:
    """Among positive contributions only (Montavon et al., Pattern Recognition 2017, eq. 15; any sign of input)."""
    return Rule("z_plus", lambda x, w, b, z: (positive(x, w, b),))


def alpha_beta(alpha: float = 2.0, beta: float = 1.0) -> Rule:
    """`alpha` of it among positive contributions, minus `beta` among negative (Bach et al., PLOS ONE 2015, eq. 60)."""
    return Rule(
        "alpha_beta", lambda x, w, b, z: (positive(x, w, b, alpha), *((negative(x, w, b, -beta),) if beta else ()))
    )


def gamma(gamma: float = 0.25) -> Rule:
    """Contributions of the output's own sign count `1 + gamma` times (Montavon et al., LNCS 11700, 2019, sec. 10.2.3).

    Differs: the paper assumes positive inputs and outputs; this is its generalisation to any sign, as in Zennit.
    """

    def shares(x: Tensor, w: Tensor, b: Tensor | None, z: Tensor | None) -> tuple[Share, ...]:
        assert z is not None
        more, less = w + gamma * w.clamp(min=0), w + gamma * w.clamp(max=0)
        up = None if b is None else b + gamma * b.clamp(min=0)
        down = None if b is None else b + gamma * b.clamp(max=0)
        return (
            Share(halves(x, more, less), up, (z > 0).to(z.dtype)),
            Share(halves(x, less, more), down, (z < 0).to(z.dtype)),
        )

    return Rule("gamma", shares, reads_output=True)


def w_square() -> Rule:
    """In proportion to squared weights, whatever the input (Montavon et al., Pattern Recognition 2017, eq. 12)."""
    return Rule("w_square", lambda x, w, b, z: (Share(((torch.ones_like(x), w.square()),), square(b)),))


def flat() -> Rule:
    """The same to every input that is looked at (Lapuschkin et al., Nature Communications 2019)."""
    return Rule("flat", lambda x, w, b, z: (Share(((torch.ones_like(x), torch.ones_like(w)),), None),))


def z_box(low: Bound, high: Bound) -> Rule:
    """For pixels between `low` and `high` (Montavon et al., Pattern Recognition 2017, eq. 14).

    Contributions are `x_i w_ij - low_i max(w_ij, 0) - high_i min(w_ij, 0)`, none of them negative.

    Args:
        low, high: one number, one per channel, or a tensor like the images.
    """

    def shares(x: Tensor, w: Tensor, b: Tensor | None, z: Tensor | None) -> tuple[Share, ...]:
        parts = (x, w), (like(low, x), -w.clamp(min=0)), (like(high, x), -w.clamp(max=0))
        return (Share(parts, None),)

    return Rule("z_box", shares)


def positive(x: Tensor, w: Tensor, b: Tensor | None, amount: float | None = None) -> Share:
    """Contributions above 0."""
    return Share(halves(x, w.clamp(min=0), w.clamp(max=0)), None if b is None else b.clamp(min=0), amount)


def negative(x: Tensor, w: Tensor, b: Tensor | None, amount: float | None = None) -> Share:
    """Contributions below 0."""
    return Share(halves(x, w.clamp(max=0), w.clamp(min=0)), None if b is None else b.clamp(max=0), amount)


def halves(x: Tensor, above: Tensor, below: Tensor) -> tuple[tuple[Tensor, Tensor], ...]:
    """Positive inputs with one weight and negative ones with another; behind a ReLU there is no second half."""
    if x.amin() >= 0:
        return ((x, above),)
    return (x.clamp(min=0), above), (x.clamp(max=0), below)


def square(bias: Tensor | None) -> Tensor | None:
    return None if bias is None else bias.square()


def like(bound: Bound, x: Tensor) -> Tensor:
    """A bound as a tensor of the shape of `x`; one number per channel goes to axis 1."""
    value = torch.as_tensor(bound, dtype=x.dtype, device=x.device)
    return (value.view(-1, *[1] * (x.ndim - 2)) if value.ndim == 1 else value).expand(x.shape)


Preset: TypeAlias = Literal[
    "epsilon_plus",
    "epsilon_plus_flat",
    "epsilon_gamma_box",
    "epsilon_alpha2_beta1",
    "epsilon_alpha2_beta1_flat",
    "epsilon",
    "zero",
]


def preset_rules(preset: Preset, box: tuple[Bound, Bound]) -> Mapping[str, Rule]:
    """The rules of a preset by kind of operation; `first` is the first weighted sum of the network."""
    convolution = {
        "epsilon_plus": z_plus(),
        "epsilon_plus_flat": z_plus(),
        "epsilon_gamma_box": gamma(),
        "epsilon_alpha2_beta1": alpha_beta(),
        "epsilon_alpha2_beta1_flat": alpha_beta(),
    }
    table = {"convolution": convolution.get(preset, epsilon()), "linear": epsilon()}
    if preset.endswith("flat"):
        table["first"] = flat()
    if preset.endswith("box"):
        table["first"] = z_box(*box)
    return table
