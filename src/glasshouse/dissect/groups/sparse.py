"""Sparse dictionaries: more directions than a layer has units, of which few are active at a time."""

import math
from hashlib import sha256
from pathlib import Path

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from glasshouse.core import BadInput, Progress, Units, generator, registered
from glasshouse.dissect.groups.codes import Kind, SparseDictionary
from glasshouse.dissect.groups.sparse_training import Autoencoder, train
from glasshouse.dissect.stored import Activations

KINDS = ("top_k", "batch_top_k", "jump_relu", "relu_l1")
EXPANSION = 8  # atoms for each unit
ROWS = 64  # images whose activations are measured together


@registered(
    "dissect",
    paper="Gao et al., 2024",
    warning="atoms change with the seed; compare two dictionaries with `stability` before naming any.",
    example={"n_atoms": 16, "k": 2, "n_steps": 20, "batch_size": 64},
)
def sparse_dictionary(
    activations: Activations | Units,
    n_atoms: int | None = None,
    *,
    kind: Kind = "top_k",
    k: int = 8,
    penalty: float = 0.2,
    n_steps: int = 2000,
    batch_size: int = 1024,
    learning_rate: float | None = None,
    seed: int = 0,
    device: torch.device | str | None = None,
    into: Path | None = None,
    progress: Progress | None = None,
) -> SparseDictionary:
    """Directions of which a few at a time add up to the activation of a layer at any position.

        z = f(W (x - b) + c)    x̂ = z D + b    minimise |x - x̂|² / u + what the kind pays for its codes

    by a sparse autoencoder on the positions of all images. `f` keeps, of what is positive,

    - "top_k": the k largest at each position (Gao et al., "Scaling and evaluating sparse autoencoders", 2024)
    - "batch_top_k": the k largest per position on average over a batch; later, those above the least that was kept
      (Bussmann et al., 2024)
    - "jump_relu": those above a threshold of the atom's own, learnt through a straight-through estimator; pays
      `penalty · (L0 / k - 1)²` (Rajamanoharan et al., "Jumping ahead", 2024, with the aim of its app. F)
    - "relu_l1": all; pays `penalty · sum z / sqrt(u)` (Bricken et al., "Towards monosemanticity", 2023)

    Activations are scaled to a mean length of sqrt(u) for the training, and the result is scaled back. Atoms that
    have been silent for 100,000 positions are trained on what the others leave (Gao et al., app. A.2).

    Differs: thresholds of "jump_relu" start where each atom is active at its part of the positions, and the kernel's
    width is 1 % of the mean length of an activation, not 0.1 %: with thousands of steps rather than hundreds of
    thousands, they would hardly move.

    Args:
        activations: stored ones, or maps `n u i j`; read in shuffled blocks, so they need not fit into memory.
        n_atoms: None takes 8 for each unit.
        k: active atoms at a position; "relu_l1" ignores it.
        learning_rate: of Adam; None takes 2e-4 · sqrt(16384 / n_atoms), as Gao et al. found. It rises over the
            first 5 % of the steps and falls over the last 20 %.
        seed: of the first atoms and of the order of positions.
        device: where to train; None trains where the activations are.
        into: folder that the training is kept in; a killed one goes on from there, to the same bits.
    """
    maps = activations.maps if isinstance(activations, Activations) else activations
    n_units = maps.shape[1]
    n_atoms = n_atoms or EXPANSION * n_units
    if kind not in KINDS:
        raise BadInput(f"a dictionary of kind '{kind}'.", f"Use one of {', '.join(KINDS)}.")
    if not 1 <= k <= n_atoms:
        raise BadInput(f"{k} of {n_atoms} atoms active at a position.", f"Take k from 1 to {n_atoms}.")
    if n_steps < 1 or batch_size < 1:
        raise BadInput(f"n_steps={n_steps} and batch_size={batch_size} must be 1 or more.")
    rate = learning_rate or 2e-4 * math.sqrt(2**14 / n_atoms)
    mean, length = measure(maps)
    if length == 0:
        raise BadInput("all activations are 0.", "Choose another layer, or other images.")
    scale = math.sqrt(n_units) / length
    atoms = F.normalize(torch.randn(n_atoms, n_units, generator=generator(seed)), dim=1)
    net = Autoencoder(scale * mean, atoms, kind, k, penalty).to(device or maps.device)
    settings = {"n_atoms": n_atoms, "k": k, "penalty": penalty, "n_steps": n_steps, "batch_size": batch_size}
    settings |= {"learning_rate": rate, "seed": seed}
    loss = train(
        net,
        maps,
        scale,
        n_steps=n_steps,
        batch_size=batch_size,
        learning_rate=rate,
        seed=seed,
        saved=into / "training.safetensors" if into else None,
        key=f"{kind} {settings} {tuple(maps.shape)} {sha256(mean.numpy().tobytes()).hexdigest()[:16]}",
        progress=progress,
    )
    found = {name: value.detach().cpu() for name, value in net.named_parameters()}
    return SparseDictionary(
        activations.layer if isinstance(activations, Activations) else "",
        activations.units if isinstance(activations, Activations) else torch.arange(n_units),
        kind,
        k,
        encoder=found["encoder"],
        offset=found["offset"] / scale,  # f keeps its form when codes and thresholds are scaled alike
        decoder=found["decoder"],
        bias=found["bias"] / scale,
        threshold=net.threshold.detach().cpu() / scale,
        rate=torch.zeros(n_atoms),
        l0=0.0,
        r2=0.0,
        loss=loss,
        settings=settings,
    ).measured(activations)


def measure(maps: Units) -> tuple[Float[Tensor, " u"], float]:
    """The mean activation, and the mean length of activations, over all positions."""
    total, length = torch.zeros(maps.shape[1], dtype=torch.float64), 0.0
    for rows in maps.split(ROWS):
        total += rows.float().sum((0, 2, 3), dtype=torch.float64).cpu()
        length += float(rows.float().norm(dim=1).sum(dtype=torch.float64))
    count = maps.shape[0] * maps.shape[2] * maps.shape[3]
    return (total / count).float(), length / count
