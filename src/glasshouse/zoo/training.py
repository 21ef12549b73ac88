"""Training that can be stopped, continued and repeated: the harness around every recipe of the zoo.

A `Recipe` says how a `Task` is made; `train` takes its steps one by one, logs, and keeps a checkpoint that any later
call continues from, on the CPU bit for bit. What a step does depends on the seed and the step's number alone.
Checkpoints are safetensors with JSON in the header, replaced only once the new one is complete.
"""

import json
import math
import os
import signal
import threading
import time
from collections.abc import Callable, Generator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol, TypeAlias, runtime_checkable

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from glasshouse.core.errors import BadInput, BadModel
from glasshouse.core.model import Preprocess
from glasshouse.core.result import Noun
from glasshouse.core.types import Progress

CHECKPOINT = "checkpoint.safetensors"
SECONDS_BETWEEN_CHECKPOINTS = 30.0
ROWS, MEASUREMENTS = 200, 20  # over a whole training
FIRST_HELD_OUT_SEED = 1_000_000
SCHEMA = 1

Row: TypeAlias = dict[str, float | int]
Log: TypeAlias = Callable[[Row], None]


@runtime_checkable
class Task(Protocol):
    """A training, one step at a time.

    Attributes:
        network: what is shipped: the averaged weights where there is an average.
    """

    network: nn.Module

    def step(self, step: int) -> dict[str, float]:
        """One step of optimisation, on data that depend on the seed and `step` alone; returns what to log."""
        ...

    def measure(self) -> dict[str, float]:
        """A quick look at held-out data, logged now and then."""
        ...

    def state(self) -> dict[str, Tensor]:
        """Everything that changes, flat: weights, averages, the optimiser's moments."""
        ...

    def load(self, state: Mapping[str, Tensor]) -> None:
        """The inverse of `state`."""
        ...


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """How a model of the zoo is trained, measured and described.

    Attributes:
        about: what the model is, in one sentence.
        task: makes the training from a seed and a device.
        network: the bare network, to load weights into.
        figures: what the model card says, measured on held-out data; the same each time.
        class_names: in the order of the outputs; asked for when the model is published.
        data: what it was trained on, in one sentence.
    """

    name: str
    about: str
    steps: int
    task: Callable[[int, torch.device], Task]
    network: Callable[[], nn.Module]
    figures: Callable[[nn.Module], dict[str, float]]
    preprocess: Preprocess | None = None
    class_names: Callable[[], tuple[str, ...]] = tuple
    data: str = ""
    licence: str = "Apache-2.0"
    paper: str = ""


@dataclass(frozen=True, repr=False)
class Trained(Noun):
    """How far a training came.

    Args:
        step: how many steps are done, of `steps`.
        seconds: spent on them, over all calls.
        history: rows of `step`, `seconds` and the values logged, each the mean since the row before.
        path: the checkpoint.
    """

    recipe: str
    seed: int
    step: int
    steps: int
    seconds: float
    history: tuple[Row, ...]
    path: str

    @property
    def finished(self) -> bool:
        """Whether all steps of the recipe are done."""
        return self.step >= self.steps

    def __repr__(self) -> str:
        last = ", ".join(f"{k} {v:.4g}" for k, v in (self.history[-1] if self.history else {}).items() if k != "step")
        return f"Trained({self.recipe}, {self.step} of {self.steps} steps{f', {last}' if last else ''})"


@dataclass
class Run:
    """A training under way."""

    recipe: Recipe
    seed: int
    task: Task
    path: Path
    step: int = 0
    seconds: float = 0.0
    rows: list[Row] = field(default_factory=list[Row])
    sums: dict[str, list[float]] = field(default_factory=dict[str, list[float]])

    def advance(self) -> None:
        """One step. A value that is no number is an error, and the checkpoint stays as it was."""
        for name, value in self.task.step(self.step).items():
            if not math.isfinite(value):
                kept = "The checkpoint from before is kept" if self.path.is_file() else "There is no checkpoint yet"
                raise BadModel(
                    f"training {self.recipe.name} diverged: {name} is {value} at step {self.step + 1}.",
                    f"{kept}; try another seed in another folder, or a lower learning rate.",
                )
            total, count = self.sums.get(name, (0.0, 0))
            self.sums[name] = [total + value, count + 1]
        self.step += 1

    def row(self) -> Row | None:
        """The next row of the history, where one is due."""
        steps, end = self.recipe.steps, self.step == self.recipe.steps
        if not end and self.step % max(1, steps // ROWS):
            return None
        row: Row = {"step": self.step, "seconds": round(self.seconds, 3)}
        row |= {name: total / count for name, (total, count) in self.sums.items()}
        if end or not self.step % (max(1, steps // ROWS) * (ROWS // MEASUREMENTS)):
            row |= self.task.measure()
        self.sums.clear()
        self.rows.append(row)
        return row

    def save(self) -> None:
        about = {
            "schema": SCHEMA,
            "recipe": self.recipe.name,
            "seed": self.seed,
            "step": self.step,
            "steps": self.recipe.steps,
            "seconds": self.seconds,
            "rows": self.rows,
            "sums": self.sums,
        }
        write_tensors(self.path, self.task.state(), about)

    def trained(self) -> Trained:
        done = (self.recipe.name, self.seed, self.step, self.recipe.steps, self.seconds)
        return Trained(*done, tuple(self.rows), str(self.path))


def train(
    recipe: Recipe,
    into: str | Path,
    *,
    seed: int = 0,
    device: str | torch.device = "cpu",
    max_steps: int | None = None,
    time_budget_s: float | int | None = None,
    progress: Progress | None = None,
    log: Log | None = None,
) -> Trained:
    """Train as the recipe says, or go on where the checkpoint in the folder `into` stopped.

    The checkpoint is written every half minute, at the end, when time is up and on Ctrl-C, which waits for the end
    of the step (a second one does not). Bit-exact on the CPU: stopping and going on changes nothing.

    Args:
        max_steps: stop once so many steps are done in all; schedules still span the recipe's own number.
        time_budget_s: stop after so many seconds of this call.
        log: called with each new row of the history.
    """
    began = kept = time.monotonic()
    run = open_run(recipe, into, seed=seed, device=device)
    last = recipe.steps if max_steps is None else min(max_steps, recipe.steps)
    before, started = run.seconds, time.monotonic()
    with _whole_steps() as interrupted:
        while run.step < last and (time_budget_s is None or time.monotonic() - began < time_budget_s):
            run.advance()
            run.seconds = before + time.monotonic() - started
            try:
                row = run.row()
                if row and log:
                    log(row)
                if progress:
                    progress(run.step, last)
                if interrupted:
                    raise KeyboardInterrupt
            except BaseException:
                run.save()
                raise
            if time.monotonic() - kept >= SECONDS_BETWEEN_CHECKPOINTS:
                run.save()
                kept = time.monotonic()
        run.save()
    return run.trained()


def step_reached(into: str | Path) -> int:
    """How many steps the checkpoint in a folder holds; 0 where there is none."""
    path = Path(into) / CHECKPOINT
    return int(read_about(path)["step"]) if path.is_file() else 0


def open_run(recipe: Recipe, into: str | Path, *, seed: int | None = 0, device: str | torch.device = "cpu") -> Run:
    """The training in a folder as its checkpoint left it, or at its start. A seed of None is the checkpoint's."""
    path = Path(into) / CHECKPOINT
    found = read_about(path) if path.is_file() else None
    if seed is None:
        seed = int(found["seed"]) if found else 0
    if not 0 <= seed < FIRST_HELD_OUT_SEED:
        raise BadInput(f"seed {seed} is not in 0…{FIRST_HELD_OUT_SEED - 1}; larger ones are for held-out data.")
    if found is None:
        path.parent.mkdir(parents=True, exist_ok=True)
        return Run(recipe, seed, recipe.task(seed, torch.device(device)), path)
    for name, seen, wanted in (
        ("schema", found.get("schema"), SCHEMA),
        ("recipe", found.get("recipe"), recipe.name),
        ("seed", found.get("seed"), seed),
        ("steps", found.get("steps"), recipe.steps),
    ):
        if seen != wanted:
            raise BadInput(
                f"the checkpoint in '{into}' has {name} {seen}, not {wanted}.",
                "Name another folder, or delete this one to begin again.",
            )
    run = Run(recipe, seed, recipe.task(seed, torch.device(device)), path)
    with safe_open(path, framework="pt") as file:
        run.task.load({name: file.get_tensor(name) for name in file.keys()})  # noqa: SIM118
    run.step, run.seconds = int(found["step"]), float(found["seconds"])
    run.rows, run.sums = list(found["rows"]), dict(found["sums"])
    return run


def write_tensors(path: Path, tensors: Mapping[str, Tensor], about: Mapping[str, Any]) -> None:
    """A safetensors file with JSON in its header; one of that name is replaced once the new one is complete."""
    whole = {name: value.detach().cpu().contiguous().clone() for name, value in tensors.items()}
    partial = path.with_name(f".{path.name}.tmp-{os.getpid()}")
    try:
        save_file(whole, partial, metadata={"glasshouse": json.dumps(about)})
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


def read_about(path: Path) -> dict[str, Any]:
    """The JSON in the header of what `write_tensors` wrote."""
    try:
        with safe_open(path, framework="pt") as file:
            return dict(json.loads((file.metadata() or {})["glasshouse"]))
    except (OSError, SafetensorError, LookupError, TypeError, ValueError) as error:
        raise BadInput(
            f"cannot read '{path}' as a checkpoint: {type(error).__name__}: {error}.",
            "Delete it to begin again.",
        ) from error


@contextmanager
def seeded(seed: int) -> Generator[None]:
    """Random weights drawn in the body are those of the seed, and nobody else's draws change."""
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        yield


def optimiser_state(optimiser: torch.optim.Optimizer) -> dict[str, Tensor]:
    """What an optimiser remembers, as flat tensors: `3.exp_avg` for its fourth parameter, and so on."""
    parameters = [p for group in optimiser.param_groups for p in group["params"]]
    return {
        f"{i}.{name}": value if isinstance(value, Tensor) else torch.tensor(value)
        for i, parameter in enumerate(parameters)
        for name, value in optimiser.state.get(parameter, {}).items()
        if value is not None
    }


def load_optimiser(optimiser: torch.optim.Optimizer, state: Mapping[str, Tensor]) -> None:
    """The inverse of `optimiser_state`; moments take the parameter's memory layout, which rounding can depend on."""
    parameters = [p for group in optimiser.param_groups for p in group["params"]]
    optimiser.state.clear()
    for key, value in state.items():
        index, _, name = key.partition(".")
        parameter = parameters[int(index)]
        own = torch.empty_like(parameter).copy_(value) if value.shape == parameter.shape else value.clone()
        optimiser.state[parameter][name] = own.detach()


@contextmanager
def _whole_steps() -> Generator[list[bool]]:
    """Ctrl-C in the body only adds to the list that is handed out; the second one interrupts at once."""
    asked: list[bool] = []
    if threading.current_thread() is not threading.main_thread():
        yield asked
        return

    def note(*_: object) -> None:
        asked.append(True)
        signal.signal(signal.SIGINT, former)

    former = signal.signal(signal.SIGINT, note) or signal.SIG_DFL
    try:
        yield asked
    finally:
        signal.signal(signal.SIGINT, former)
