"""How often chance alone would give a difference as large."""

import torch
from jaxtyping import Float
from torch import Tensor

from glasshouse.core.stats.student import two_sided


def welch(one: Float[Tensor, "*cells r"], other: Float[Tensor, "*cells m"]) -> Float[Tensor, "*cells"]:
    """Two-sided p-values that two samples have the same mean, their variances unknown and perhaps different.

        t = (a - b) / sqrt(va/r + vb/m),   df = (va/r + vb/m)² / ((va/r)²/(r-1) + (vb/m)²/(m-1))

    Welch, Biometrika 1947. Where neither sample varies: 1 if they are equal, else 0.
    """
    errors = [x.double().var(-1) / x.shape[-1] for x in (one, other)]
    total = errors[0] + errors[1]
    freedom = total.square() / sum(e.square() / (x.shape[-1] - 1) for e, x in zip(errors, (one, other), strict=True))
    return p_values((one.double().mean(-1) - other.double().mean(-1)), total.sqrt(), freedom)


def p_values(
    difference: Float[Tensor, "*cells"], spread: Float[Tensor, "*cells"], freedom: Float[Tensor, "*cells"]
) -> Float[Tensor, "*cells"]:
    """P(|T| >= |difference / spread|) for T of Student's distribution."""

    def one(gap: float, width: float, df: float) -> float:
        if not width > 0:
            return 1.0 if gap == 0 else 0.0
        return two_sided(gap / width, df)

    rows = zip(*(x.flatten().tolist() for x in (difference, spread, freedom)), strict=True)
    return torch.tensor([one(*row) for row in rows], dtype=torch.float64).reshape(difference.shape)
