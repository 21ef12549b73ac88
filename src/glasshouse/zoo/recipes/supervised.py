"""What all recipes with known answers share: one step of AdamW on an averaged network."""

import math
from collections.abc import Callable, Mapping
from copy import deepcopy
from dataclasses import dataclass
from typing import Any, TypeAlias

import torch
from jaxtyping import Shaped
from torch import Tensor, nn

from glasshouse.core.types import Images, PerImage
from glasshouse.zoo.training import load_optimiser, optimiser_state, seeded

AVERAGE = 0.999
CLIP = 1.0

Answers: TypeAlias = Mapping[str, Shaped[Tensor, "n ..."]]
Batch: TypeAlias = Callable[[int], tuple[Images, Answers]]
Loss: TypeAlias = Callable[[Any, Answers], PerImage]


@dataclass(frozen=True)
class Schedule:
    """Learning rate: a linear start, then half a cosine down to nothing; once more from each restart on.

    Loshchilov and Hutter, "SGDR", ICLR 2017.
    """

    peak: float
    steps: int
    warmup: int = 100
    restarts: tuple[int, ...] = ()

    def at(self, step: int) -> float:
        begin = max(start for start in (0, *self.restarts) if start <= step)
        end = min(stop for stop in (*self.restarts, self.steps) if stop > begin)
        warm = min(1.0, (step - begin + 1) / self.warmup)
        return self.peak * warm * (1 + math.cos(math.pi * (step - begin) / (end - begin))) / 2


class Supervised:
    """Training on batches with answers: AdamW, clipped gradients, and an exponential average of the weights.

    The average starts short, `min(0.999, (1 + step) / (10 + step))`, so that it is of use from the first steps on.
    Passes run in bfloat16 and channels last, which halves the time of a step on CPUs that know both; weights,
    average and loss are float32.

    Args:
        make: makes the network; its weights are drawn from the seed.
        batch: images and answers of a step.
        loss: one number per image.
        look: held-out figures of the averaged network.
    """

    def __init__(
        self,
        make: Callable[[], nn.Module],
        *,
        batch: Batch,
        loss: Loss,
        look: Callable[[nn.Module], dict[str, float]],
        schedule: Schedule,
        seed: int,
        device: torch.device,
        weight_decay: float = 0.02,
        low_precision: bool = True,
    ):
        with seeded(seed):
            made = make()
        # Module.to has no overload for a layout alone in torch's annotations
        self.learner: nn.Module = made.to(device).to(memory_format=torch.channels_last).train()  # pyright: ignore
        self.network: nn.Module = deepcopy(self.learner).eval()
        self.batch, self.loss, self.look, self.schedule = batch, loss, look, schedule
        self.device, self.low_precision = device, low_precision
        weights = list(self.learner.parameters())
        decayed = [w for w in weights if w.ndim > 1]
        rest = [w for w in weights if w.ndim <= 1]
        groups = [{"params": decayed, "weight_decay": weight_decay}, {"params": rest, "weight_decay": 0.0}]
        self.optimiser = torch.optim.AdamW(groups, lr=schedule.peak, betas=(0.9, 0.99))

    def step(self, step: int) -> dict[str, float]:
        rate = self.schedule.at(step)
        images, answers = self.batch(step)
        images = images.to(self.device).contiguous(memory_format=torch.channels_last)
        answers = {name: value.to(self.device) for name, value in answers.items()}
        with torch.enable_grad():
            with torch.autocast(self.device.type, torch.bfloat16, enabled=self.low_precision):
                outputs = self.learner(images)
            loss = self.loss(outputs.float(), answers).mean()
            weights = list(self.learner.parameters())
            for weight, gradient in zip(weights, torch.autograd.grad(loss, weights), strict=True):
                weight.grad = gradient
        norm = nn.utils.clip_grad_norm_(weights, CLIP)
        for group in self.optimiser.param_groups:
            group["lr"] = rate
        self.optimiser.step()
        self._average(min(AVERAGE, (1 + step) / (10 + step)))
        return {"loss": loss.item(), "gradient": norm.item(), "rate": rate}

    def measure(self) -> dict[str, float]:
        return self.look(self.network)

    def state(self) -> dict[str, Tensor]:
        parts = {
            "learner": self.learner.state_dict(),
            "network": self.network.state_dict(),
            "optimiser": optimiser_state(self.optimiser),
        }
        return {f"{part}.{name}": value for part, values in parts.items() for name, value in values.items()}

    def load(self, state: Mapping[str, Tensor]) -> None:
        self.learner.load_state_dict(_part(state, "learner."))
        self.network.load_state_dict(_part(state, "network."))
        load_optimiser(self.optimiser, _part(state, "optimiser."))

    @torch.no_grad()
    def _average(self, keep: float) -> None:
        for mean, value in zip(self.network.state_dict().values(), self.learner.state_dict().values(), strict=True):
            if mean.is_floating_point():
                mean.lerp_(value, 1 - keep)
            else:
                mean.copy_(value)


def _part(state: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): value for name, value in state.items() if name.startswith(prefix)}
