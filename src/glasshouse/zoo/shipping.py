"""Weights that come with glasshouse: written by `publish` from a training, with a card that was measured.

One safetensors file per model. Matrices and kernels are stored in half precision; biases and norms, which are few, as
they are. The figures in the header are those of the bytes shipped, not of the training's own weights.
"""

import json
from dataclasses import dataclass
from functools import cached_property
from importlib import resources
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from glasshouse.core.errors import BadInput, BadModel, NotFound
from glasshouse.core.model import Preprocess
from glasshouse.zoo.training import CHECKPOINT, Recipe, open_run, write_tensors
from glasshouse.zoo.weights import StateDict, check_finite, decode_weights, fit_weights

FOLDER: Traversable = resources.files("glasshouse.zoo") / "trained"
SCHEMA = 1


@dataclass(frozen=True)
class Shipped:
    """The trained weights of a recipe, and what was measured of them.

    Attributes:
        folder: where the file is; None for those that come with glasshouse.
    """

    name: str
    folder: Path | None = None

    @property
    def file(self) -> Traversable:
        return (self.folder or FOLDER) / f"{self.name}.safetensors"

    @property
    def exists(self) -> bool:
        return self.file.is_file()

    @cached_property
    def about(self) -> dict[str, Any]:
        """The card: `about`, `steps`, `seed`, `seconds`, `figures`, `class_names`, … Reads the header only."""
        if not self.exists:
            raise NotFound(
                f"no trained weights of '{self.name}' come with this version.",
                f"Train it: glasshouse train {self.name}",
            )
        try:
            with self.file.open("rb") as file:
                header = json.loads(file.read(int.from_bytes(file.read(8), "little")))
            return dict(json.loads(header["__metadata__"]["glasshouse"]))
        except (LookupError, TypeError, ValueError, OverflowError, MemoryError) as error:
            raise BadModel(f"'{self.file}' is damaged: {type(error).__name__} in its header.") from error

    @property
    def preprocess(self) -> Preprocess | None:
        """How photographs become inputs, as recorded."""
        found = self.about["preprocess"]
        return Preprocess.from_dict(found) if found else None

    def weights(self) -> StateDict:
        """The state dict, in single precision."""
        found = decode_weights(self.file.read_bytes(), str(self.file))
        return {name: _single(value) for name, value in found.items()}

    def fit(self, network: nn.Module) -> nn.Module:
        """The network with these weights, in evaluation mode."""
        fit_weights(network, self.weights(), self.name)
        return network.eval()


def publish(recipe: Recipe, into: str | Path, *, folder: str | Path | None = None) -> Path:
    """Write the weights that training left in `into` as `NAME.safetensors`, with figures measured from that file.

    Args:
        folder: where to; None is the folder whose files come with glasshouse and make `zoo.load(NAME)` work.
    """
    if not (Path(into) / CHECKPOINT).is_file():
        raise NotFound(f"nothing was trained in '{into}'.", f"Type: glasshouse train {recipe.name} --out '{into}'")
    to = Path(folder) if folder else Path(str(FOLDER))
    run = open_run(recipe, into, seed=None)
    state = run.task.network.state_dict()
    check_finite(state, recipe.name)
    stored = {name: _half(value) for name, value in state.items()}
    check_finite(stored, f"{recipe.name} in half precision")
    to.mkdir(parents=True, exist_ok=True)
    card: dict[str, Any] = {
        "schema": SCHEMA,
        "name": recipe.name,
        "about": recipe.about,
        "n_weights": sum(p.numel() for p in run.task.network.parameters()),
        "steps": run.step,
        "of": recipe.steps,
        "seed": run.seed,
        "seconds": round(run.seconds),
        "torch": str(torch.__version__),
        "data": recipe.data,
        "licence": recipe.licence,
        "paper": recipe.paper,
        "preprocess": recipe.preprocess.as_dict() if recipe.preprocess else None,
        "class_names": recipe.class_names(),
        "figures": {},
    }
    path = to / f"{recipe.name}.safetensors"
    trial = Shipped(f".{recipe.name}.trial", to)
    try:
        write_tensors(Path(str(trial.file)), stored, card)
        card["figures"] = measure(recipe, trial)
    finally:
        Path(str(trial.file)).unlink(missing_ok=True)
    write_tensors(path, stored, card)
    path.chmod(0o644)  # safetensors lets only the writer read
    return path


def measure(recipe: Recipe, shipped: Shipped | None = None) -> dict[str, float]:
    """The card's figures, measured anew from the shipped file."""
    shipped = shipped or Shipped(recipe.name)
    if not shipped.exists:
        raise BadInput(f"'{recipe.name}' has no trained weights yet.", f"Type: glasshouse train {recipe.name}")
    return {name: float(value) for name, value in recipe.figures(shipped.fit(recipe.network())).items()}


def _half(value: Tensor) -> Tensor:
    return value.half() if value.is_floating_point() and value.ndim > 1 else value


def _single(value: Tensor) -> Tensor:
    return value.float() if value.is_floating_point() else value
