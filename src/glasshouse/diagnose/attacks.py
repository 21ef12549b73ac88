"""Attacks: changes of an image, too small to be seen, that change the model's answer."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Literal

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from glasshouse.core import (
    Aim,
    BadInput,
    Cost,
    Images,
    Model,
    Noun,
    PerImage,
    Target,
    borrow,
    generator,
    in_chunks,
    registered,
    select,
    steps,
)
from glasshouse.core.gradient import gradient
from glasshouse.core.lift import checked_images
from glasshouse.core.target import logits

Norm = Literal["linf", "l2"]
ROUNDING = 1e-3  # by how much pixels may leave 0…1


@dataclass(frozen=True, repr=False)
class Adversarial(Noun):
    """Images that were changed to change the answer, and what became of it.

    Args:
        images: in the model's input space.
        labels: the class to get away from, or to come to where `targeted`.
        before, after: top class of the clean and of the changed image.
        distance: length of the change in `norm`; of pixels (0…1) where the preprocessing is known, else of inputs.
    """

    attack: str
    images: Images
    labels: Int[Tensor, " n"]
    before: Int[Tensor, " n"]
    after: Int[Tensor, " n"]
    distance: PerImage
    norm: Norm
    targeted: bool = False
    settings: dict[str, Any] = field(default_factory=dict[str, Any])

    @property
    def success(self) -> Bool[Tensor, " n"]:
        """Which images got the answer that the attack wanted."""
        return (self.after == self.labels) == self.targeted

    @property
    def changed(self) -> Bool[Tensor, " n"]:
        """Which images got another answer than before."""
        return self.after != self.before

    def __len__(self) -> int:
        return len(self.images)

    def __repr__(self) -> str:
        share, largest = self.success.double().mean(), self.distance.max()
        return f"Adversarial({self.attack}, {len(self)} images, {share:.0%} succeed, {self.norm} ≤ {largest:.3g})"


@registered("diagnose", cost=lambda settings, shape: Cost(3, 1), paper="Goodfellow et al., ICLR 2015")
def fgsm(
    model: Model | nn.Module,
    inputs: Images,
    target: Target = None,
    *,
    epsilon: float | int = 8 / 255,
    targeted: bool = False,
    chunk: int = 16,
) -> Adversarial:
    """Every value of the image moved by the same amount, in the direction that costs its class most.

        x + epsilon sign(dJ / dx),   J = -log p_target

    Goodfellow, Shlens and Szegedy, "Explaining and harnessing adversarial examples", ICLR 2015, sec. 4.

    Args:
        target: the class to get away from; None takes the top class of each image. With `targeted`, the class to
            come to, whose J the step lowers.
        epsilon: of pixels (0…1), which stay in their range, where the model's preprocessing is known; else of inputs.
    """
    settings: dict[str, Any] = {"epsilon": epsilon, "targeted": targeted, "chunk": chunk}
    ball = Ball("linf", epsilon, step_size=epsilon, n_steps=1)
    return attack("fgsm", model, inputs, target, ball, targeted, chunk, settings)


def passes(settings: Mapping[str, Any], shape: Sequence[int]) -> Cost:
    """Of projected gradient descent: the clean image, the steps, and the image that they end at."""
    return Cost(settings["n_steps"] + 2, settings["n_steps"])


@registered("diagnose", cost=passes, paper="Madry et al., ICLR 2018")
def pgd(
    model: Model | nn.Module,
    inputs: Images,
    target: Target = None,
    *,
    epsilon: float | int = 8 / 255,
    step_size: float | int = 2 / 255,
    n_steps: int = 10,
    norm: Norm = "linf",
    targeted: bool = False,
    random_start: bool = True,
    seed: int = 0,
    chunk: int = 16,
) -> Adversarial:
    """The image near the given one whose class costs most, by steps uphill that are projected back into a ball.

        x_0 in B(x, epsilon),   x_t+1 = project(x_t + step_size sign(dJ / dx)),   J = -log p_target

    Madry et al., "Towards deep learning models resistant to adversarial attacks", ICLR 2018, eq. 2; for `norm="l2"`
    the gradient is divided by its length instead. From the image itself (`random_start=False`) and with
    `step_size=1 / 255` this is the basic iterative method (Kurakin, Goodfellow and Bengio, ICLR workshop 2017, eq. 2).

    Args:
        target: the class to get away from; None takes the top class of each image. With `targeted`, the class to
            come to, whose J the steps lower.
        epsilon, step_size: of pixels (0…1), which stay in their range, where the model's preprocessing is known;
            else of inputs.
        seed: of the start, whose direction is the same for all images.
    """
    settings: dict[str, Any] = {
        "epsilon": epsilon,
        "step_size": step_size,
        "n_steps": n_steps,
        "norm": norm,
        "targeted": targeted,
        "random_start": random_start,
        "seed": seed,
        "chunk": chunk,
    }
    ball = Ball(norm, epsilon, step_size, n_steps, generator(seed) if random_start else None)
    return attack("pgd", model, inputs, target, ball, targeted, chunk, settings)


@dataclass(frozen=True)
class Ball:
    """How far images may be changed, and by which steps. Lengths in pixels."""

    norm: Norm
    epsilon: float | int
    step_size: float | int
    n_steps: int
    draws: torch.Generator | None = None

    def __post_init__(self):
        if self.norm not in ("linf", "l2"):
            raise BadInput(f"norm '{self.norm}' is unknown.", "Use 'linf' or 'l2'.")
        if not (self.epsilon >= 0 and self.step_size >= 0 and self.n_steps >= 1):
            raise BadInput(
                f"epsilon {self.epsilon}, step_size {self.step_size} and n_steps {self.n_steps} are not all in range.",
                "Lengths are not below 0, and there is at least one step.",
            )

    def start(self, images: Images) -> Float[Tensor, "1 c h w"]:
        """No change, or one drawn evenly from the ball, for all images."""
        nothing = torch.zeros_like(images[:1])
        if self.draws is None:
            return nothing
        if self.norm == "linf":
            return self.epsilon * (2 * torch.rand(nothing.shape, generator=self.draws) - 1).to(images)
        direction = torch.randn(nothing.shape, generator=self.draws, dtype=torch.float64)
        radius = self.epsilon * torch.rand((), generator=self.draws).double() ** (1 / direction.numel())
        return (radius * direction / direction.norm()).to(images)

    def uphill(self, slope: Images) -> Images:
        """The step that gains most for its length."""
        return self.step_size * (slope.sign() if self.norm == "linf" else slope / positive(lengths(slope, "l2")))

    def project(self, change: Images) -> Images:
        """The nearest change inside the ball."""
        if self.norm == "linf":
            return change.clamp(-self.epsilon, self.epsilon)
        return change * (self.epsilon / positive(lengths(change, "l2"))).clamp(max=1)


@dataclass(frozen=True)
class Room:
    """What a change in pixels is in inputs (`scale` times it), and how far each pixel may fall and rise."""

    scale: Tensor
    lowest: Tensor
    highest: Tensor

    def rows(self, rows: Int[Tensor, " r"]) -> "Room":
        return Room(self.scale, self.lowest[rows], self.highest[rows])

    def fit(self, change: Images) -> Images:
        return torch.minimum(torch.maximum(change, self.lowest), self.highest)


def room(model: Model | nn.Module, images: Images) -> Room:
    """Pixels from 0 to 1 where the model says how they become inputs, else inputs without limit."""
    if not isinstance(model, Model) or model.preprocessing is None:
        endless = torch.full_like(images, torch.inf)
        return Room(torch.ones_like(images[:1, :, :1, :1]), -endless, endless)
    spot = torch.zeros_like(images[:1, :, :1, :1])
    black, white = model.preprocessing.normalise(spot), model.preprocessing.normalise(spot + 1)
    pixels = (images - black) / (white - black)
    low, high = float(pixels.min()), float(pixels.max())
    if low < -ROUNDING or high > 1 + ROUNDING:
        raise BadInput(
            f"the images stand for pixels from {low:.3g} to {high:.3g}, beyond 0…1.",
            "Use model.preprocess(photos), or pass model.module, whose inputs have no range.",
        )
    return Room(white - black, (-pixels).clamp(max=0), (1 - pixels).clamp(min=0))


def attack(
    name: str,
    model: Model | nn.Module,
    inputs: Images,
    target: Target,
    ball: Ball,
    targeted: bool,
    chunk: int,
    settings: dict[str, Any],
) -> Adversarial:
    """Climb within a ball around each image, and look what the model says of where that ends."""
    if targeted and target is None:
        raise BadInput("a targeted attack needs to know where to.", "Give target=…, one class or one per image.")
    images = checked_images(inputs).detach().clone()
    n, free, aim, sign = len(images), room(model, images), Aim.of(target), -1 if targeted else 1
    with borrow(model, images) as network:
        with torch.no_grad():
            look = in_chunks(lambda rows: logits(network(images[rows])), n, chunk, images.device)
            clean = torch.cat([found for _, found in look])
            select(clean, aim)
        if aim.indices is None:
            raise BadInput("an attack needs a class for each image.", "Give an int, or one int per image.")
        start = ball.start(images)
        run = partial(climbed, network, images, aim, ball, free, start, sign)
        changes = torch.cat([found for _, found in in_chunks(run, n, chunk, images.device)])
        found = images + free.scale * changes
        with torch.no_grad():
            look = in_chunks(lambda rows: logits(network(found[rows])).argmax(1), n, chunk, images.device)
            after = torch.cat([top for _, top in look])
    return Adversarial(
        attack=name,
        images=found,
        labels=aim.indices,
        before=clean.argmax(1),
        after=after,
        distance=lengths(changes, ball.norm).flatten(),
        norm=ball.norm,
        targeted=targeted,
        settings=settings,
    )


def climbed(
    network: nn.Module,
    images: Images,
    aim: Aim,
    ball: Ball,
    free: Room,
    start: Float[Tensor, "1 c h w"],
    sign: int,
    rows: Int[Tensor, " r"],
) -> Float[Tensor, "r c h w"]:
    """The change, in pixels, that steps uphill lead to for the images `rows`."""
    clean, free, question = images[rows], free.rows(rows), aim.rows(rows)
    change = free.fit(start.expand_as(clean))
    for _ in steps(ball.n_steps):
        points = (clean + free.scale * change).requires_grad_()
        cost = -sign * select(network(points), question, "logprob")
        change = free.fit(ball.project(change + ball.uphill(free.scale * gradient(cost, points))))
    return change


def lengths(change: Images, norm: Norm) -> Float[Tensor, "n 1 1 1"]:
    """Of each image's change, in a norm."""
    order = torch.inf if norm == "linf" else 2
    return torch.linalg.vector_norm(change, order, (1, 2, 3), keepdim=True)


def positive(length: Tensor) -> Tensor:
    """To divide by."""
    return length.clamp(min=torch.finfo(length.dtype).tiny)
