"""Training of sparse autoencoders on the positions of stored activations."""

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from einops import rearrange
from jaxtyping import Bool, Float
from torch import Tensor, nn

from glasshouse.core import Progress, Units, generator
from glasshouse.core.checkpoints import resume_training, save_training
from glasshouse.dissect.groups.codes import Kind, largest

BUFFER = 2**18  # positions shuffled together
BANDWIDTH = 0.01  # of the kernel, as a share of the mean length of an activation
REVIVAL = 1 / 32  # weight of the loss that dead atoms are trained by
IDLE = 100_000  # positions without activity after which an atom counts as dead
WARM_UP, COOL_DOWN = 0.05, 0.2  # shares of the steps in which the learning rate rises and falls
SAVE_EVERY = 250  # steps
BEGINNING = 4096  # positions that thresholds are set on before the first step


class Jump(torch.autograd.Function):
    """JumpReLU, `z H(z - θ)`, whose derivative by θ is that of a smoothed loss: -θ/ε K((z - θ)/ε), K = 1 on ±1/2."""

    @staticmethod
    def forward(ctx: Any, z: Tensor, threshold: Tensor, width: float) -> Tensor:
        ctx.save_for_backward(z, threshold)
        ctx.width = width
        return z * (z > threshold)

    @staticmethod
    def backward(ctx: Any, *slopes: Tensor) -> tuple[Tensor, Tensor, None]:
        (slope,), (z, threshold) = slopes, ctx.saved_tensors
        near = (z - threshold).abs() < ctx.width / 2
        return slope * (z > threshold), -(threshold / ctx.width * near * slope).sum(0), None


class Step(torch.autograd.Function):
    """The Heaviside step H(z - θ): 0 by z, -1/ε K((z - θ)/ε) by θ."""

    @staticmethod
    def forward(ctx: Any, z: Tensor, threshold: Tensor, width: float) -> Tensor:
        ctx.save_for_backward(z, threshold)
        ctx.width = width
        return (z > threshold).to(z)

    @staticmethod
    def backward(ctx: Any, *slopes: Tensor) -> tuple[None, Tensor, None]:
        (slope,), (z, threshold) = slopes, ctx.saved_tensors
        near = (z - threshold).abs() < ctx.width / 2
        return None, -(near * slope / ctx.width).sum(0), None


class Autoencoder(nn.Module):
    """The dictionary while it is trained, on activations scaled to a mean length of sqrt(u).

    Args:
        k: active atoms per position; "relu_l1" ignores it.
        penalty: weight of what "jump_relu" and "relu_l1" pay for active atoms.
    """

    idle: Tensor
    cut: Tensor

    def __init__(self, mean: Float[Tensor, " u"], atoms: Float[Tensor, "a u"], kind: Kind, k: int, penalty: float):
        super().__init__()
        self.kind, self.k, self.penalty = kind, k, penalty
        self.width = BANDWIDTH * math.sqrt(atoms.shape[1])
        self.bias = nn.Parameter(mean.clone())
        self.decoder = nn.Parameter(atoms.clone())
        self.encoder = nn.Parameter(atoms.clone())
        self.offset = nn.Parameter(torch.zeros(len(atoms)))
        self.log_threshold = nn.Parameter(torch.zeros(len(atoms)))
        self.register_buffer("idle", torch.zeros(len(atoms), dtype=torch.int64))
        self.register_buffer("cut", torch.zeros(()))

    @torch.no_grad()
    def begin(self, rows: Float[Tensor, "p u"]) -> None:
        """Set the thresholds of "jump_relu" so that each atom is active at its part of these positions."""
        before = F.linear(rows - self.bias, self.encoder, self.offset).sort(0).values
        row = round((1 - self.k / len(self.offset)) * (len(rows) - 1))
        self.log_threshold.copy_(before[row].clamp(min=self.width).log())

    @property
    def threshold(self) -> Float[Tensor, " a"]:
        """What codes are compared with when the training is over."""
        if self.kind == "jump_relu":
            return self.log_threshold.exp()
        return self.cut.expand(len(self.offset))

    def codes(self, before: Float[Tensor, "p a"]) -> Float[Tensor, "p a"]:
        """What the kind keeps of the encoder's answer."""
        if self.kind == "top_k":
            return largest(before, self.k)
        if self.kind == "batch_top_k":
            return largest(before.reshape(1, -1), self.k * len(before)).view_as(before)
        if self.kind == "jump_relu":
            return Jump.apply(before, self.log_threshold.exp(), self.width)  # pyright: ignore[reportReturnType]
        return before

    def forward(self, rows: Float[Tensor, "p u"]) -> Float[Tensor, ""]:
        """The loss, per unit; counts for how long each atom has been silent."""
        n_units = rows.shape[1]
        before = F.linear(rows - self.bias, self.encoder, self.offset).relu()
        codes = self.codes(before)
        rest = rows - codes @ self.decoder - self.bias
        loss = rest.square().mean()
        if self.kind == "relu_l1":
            loss = loss + self.penalty * codes.sum(1).mean() / math.sqrt(n_units)
        if self.kind == "jump_relu":
            active: Any = Step.apply(before, self.log_threshold.exp(), self.width)
            loss = loss + self.penalty * (active.sum(1).mean() / self.k - 1).square()
        if (dead := self.idle >= IDLE).any():
            loss = loss + REVIVAL * self.revival(rows - self.bias, rest.detach(), dead)
        self.count(codes.detach())
        return loss

    def revival(
        self, rows: Float[Tensor, "p u"], rest: Float[Tensor, "p u"], dead: Bool[Tensor, " a"]
    ) -> Float[Tensor, ""]:
        """How badly dead atoms explain what the others leave, as a share of it (Gao et al., 2024, app. A.2).

        Those of "jump_relu" also pay for what they lack to their thresholds, which otherwise would never fall (Conerly
        et al., "Dictionary learning optimization techniques", 2025).
        """
        before = F.linear(rows, self.encoder[dead], self.offset[dead])
        codes = largest(before.relu(), min(rows.shape[1] // 2 or 1, before.shape[1]))
        left = (rest - codes @ self.decoder[dead]).square().sum() / rest.square().sum().clamp(min=1e-30)
        if self.kind == "jump_relu":
            left = left + (self.log_threshold[dead].exp() - before).relu().mean()
        return left

    @torch.no_grad()
    def count(self, codes: Float[Tensor, "p a"]) -> None:
        """Remember when each atom was last active, and at which strength "batch_top_k" cuts."""
        fired = (codes > 0).any(0)
        self.idle.copy_(torch.where(fired, 0, self.idle + len(codes)))
        if self.kind == "batch_top_k":
            least = codes[codes > 0].min() if fired.any() else self.cut
            self.cut.copy_(least if self.cut == 0 else self.cut.lerp(least, 0.01))

    @torch.no_grad()
    def straighten(self) -> None:
        """Take from the decoder's gradient what would change the lengths of atoms."""
        assert self.decoder.grad is not None
        along = (self.decoder.grad * self.decoder).sum(1, keepdim=True)
        self.decoder.grad -= along * self.decoder

    @torch.no_grad()
    def normalise(self) -> None:
        """Make every atom as long as 1 again."""
        self.decoder.div_(self.decoder.norm(dim=1, keepdim=True).clamp(min=1e-30))


def train(
    net: Autoencoder,
    maps: Units,
    scale: float,
    *,
    n_steps: int,
    batch_size: int,
    learning_rate: float,
    seed: int,
    saved: Path | None = None,
    key: str = "",
    progress: Progress | None = None,
) -> Float[Tensor, " t"]:
    """Train in place, on activations times `scale`; gives the loss of every step.

    Args:
        saved: file that the training is kept in now and then; it goes on from there, to the same bits.
        key: whatever the training depends on; a file serves one key.
    """
    optimiser = torch.optim.Adam(net.parameters(), lr=learning_rate)
    losses: list[float] = []
    if saved is not None and saved.exists():
        losses = resume_training(saved, key, net, optimiser)
    else:
        net.begin(scale * next(positions(maps, BEGINNING, seed)).to(net.bias.device))
    batches = positions(maps, batch_size, seed, len(losses))
    for step in range(len(losses), n_steps):
        for group in optimiser.param_groups:
            group["lr"] = learning_rate * pace(step, n_steps)
        loss = net(scale * next(batches).to(net.bias.device))
        optimiser.zero_grad()
        loss.backward()
        net.straighten()
        optimiser.step()
        net.normalise()
        losses.append(float(loss.detach()))
        if saved is not None and ((step + 1) % SAVE_EVERY == 0 or step + 1 == n_steps):
            save_training(saved, key, net, optimiser, losses)
        if progress:
            progress(step + 1, n_steps)
    return torch.tensor(losses)


def pace(step: int, n_steps: int) -> float:
    """The learning rate as a share of its largest: it rises at the beginning and falls at the end."""
    return min(1.0, (step + 1) / (WARM_UP * n_steps), (n_steps - step) / (COOL_DOWN * n_steps))


def positions(maps: Units, batch_size: int, seed: int, first: int = 0) -> Iterator[Float[Tensor, "p u"]]:
    """Batches of positions without end, from step `first` on: shuffled images, and the positions of some at a time.

    Each time round the order is another, given by the seed alone. The last batch of a buffer may be smaller.
    """
    n, _, i, j = maps.shape
    at_once = max(1, BUFFER // (i * j))
    starts = range(0, n, at_once)
    sizes = [-(-min(at_once, n - start) * i * j // batch_size) for start in starts]
    lap, first = divmod(first, sum(sizes))
    while True:
        order = torch.randperm(n, generator=generator(_mix(seed, lap, 0)))
        for number, (start, size) in enumerate(zip(starts, sizes, strict=True), 1):
            if first >= size:
                first -= size
                continue
            flat = rearrange(maps[order[start : start + at_once].sort().values].float(), "n u i j -> (n i j) u")
            places = torch.randperm(len(flat), generator=generator(_mix(seed, lap, number)))
            for batch in places.split(batch_size)[first:]:
                yield flat[batch]
            first = 0
        lap += 1


def _mix(seed: int, lap: int, number: int) -> int:
    return (seed * 1_000_003 + lap * 10_007 + number) % 2**63
