"""A training that has come so far, in a file: interrupted ones go on from it, to the same bits."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor, nn

from glasshouse.core.errors import BadInput
from glasshouse.core.result import Noun


@dataclass(frozen=True, eq=False, repr=False)
class Checkpoint(Noun):
    """Weights, the optimiser's memory, and the losses until here.

    Args:
        key: what the training depends on; a file serves one key.
    """

    key: str
    weights: dict[str, Tensor]
    optimiser: dict[int, dict[str, Tensor]]
    loss: Float[Tensor, " t"]


def save_training(
    path: Path, key: str, net: nn.Module, optimiser: torch.optim.Optimizer, losses: Sequence[float]
) -> None:
    """Write how far a training has come; the file is replaced when the new one is complete."""
    told = torch.tensor(losses, dtype=torch.float64)
    Checkpoint(key, net.state_dict(), optimiser.state_dict()["state"], told).save(path)


def resume_training(path: Path, key: str, net: nn.Module, optimiser: torch.optim.Optimizer) -> list[float]:
    """Bring a training back to where it was saved; gives its losses."""
    then = Checkpoint.load(path)
    if then.key != key:
        raise BadInput(
            f"'{path}' holds another training: {then.key} there, {key} here.",
            "Use another folder, delete this one, or go back to the old settings.",
        )
    net.load_state_dict(then.weights)
    optimiser.load_state_dict({"state": then.optimiser, "param_groups": optimiser.state_dict()["param_groups"]})
    return then.loss.tolist()
