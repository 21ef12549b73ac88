"""Meaningful perturbation, beside the passes that it makes: no peer descends on masks of several images at once."""

from torch import Tensor, nn

from benchmarks.case import TARGET, Case, Settings, Sides
from glasshouse import attribute


def meaningful_perturbation(model: nn.Module, images: Tensor, settings: Settings) -> Sides:
    return Sides(lambda: attribute.meaningful_perturbation(model, images, TARGET, **settings).native)


CASES: tuple[Case, ...] = (
    Case(
        "meaningful_perturbation",
        "resnet18",
        4,
        "",
        meaningful_perturbation,
        settings={"n_steps": 20},
        quick={"n_steps": 4},
        share=0.8,
    ),
)
