"""Bits that look random and depend on nothing but a number and a seed."""

from jaxtyping import Int
from torch import Tensor


def _signed(x: int) -> int:
    return (x + 2**63) % 2**64 - 2**63


_GOLDEN = 0x9E3779B97F4A7C15
_FIRST = _signed(0xBF58476D1CE4E5B9)
_SECOND = _signed(0x94D049BB133111EB)


def scramble(numbers: Int[Tensor, "*shape"], seed: int) -> Int[Tensor, "*shape"]:
    """One random-looking int64 per number, different for different numbers (splitmix64).

    Steele, Lea and Flood, "Fast splittable pseudorandom number generators", OOPSLA 2014.
    """
    x = numbers.long() + _signed((seed + 1) * _GOLDEN)
    x = (x ^ _shift(x, 30)) * _FIRST
    x = (x ^ _shift(x, 27)) * _SECOND
    return x ^ _shift(x, 31)


def _shift(x: Tensor, n: int) -> Tensor:
    # int64 shifts bring in copies of the sign; a hash wants zeros.
    return (x >> n) & ((1 << (64 - n)) - 1)
