"""Training of inverters on a data set: seeded, and resumed to the same bits after it was stopped."""

import math
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from glasshouse.core import (
    BadInput,
    Images,
    Model,
    Preprocess,
    Progress,
    borrow,
    generator,
    geometry,
    registered,
    unit_maps,
)
from glasshouse.core.checkpoints import resume_training, save_training
from glasshouse.core.fingerprints import fingerprint, fingerprint_data
from glasshouse.core.lift import module_of, provenance
from glasshouse.core.shards import Data
from glasshouse.visualize.inversion import Read, pixels_of, reader
from glasshouse.visualize.inverters import Decoder, Inverter, decoder, device_of, preprocess_of, stacked

SAVE_EVERY = 100  # steps
BEGINNING = 256  # images that features are scaled by


@registered(
    "visualize",
    paper="Dosovitskiy and Brox, CVPR 2016",
    warning="it draws the average of all images that share the features, and what it learnt of the data beside them.",
    example={"steps": 4, "batch_size": 8, "width": 16},
)
def train_inverter(
    model: Model | nn.Module,
    data: Data,
    *,
    layer: str | None = None,
    steps: int = 2000,
    batch_size: int = 64,
    learning_rate: float = 1e-3,
    width: int = 256,
    seed: int = 0,
    preprocess: Preprocess | None = None,
    into: Path | None = None,
    progress: Progress | None = None,
) -> Inverter:
    """A network that draws images from the features of a layer: what the layer has kept of them, on average.

        min_W  E |x - g_W(Φ(x))|²,   whose optimum is g(Φ0) = E[x | Φ(x) = Φ0]

    over pixels x, with features Φ of the frozen model. g resizes and convolves up to the full image, with leaky ReLUs
    of slope 0.2, trained by Adam (β 0.9 and 0.999). Dosovitskiy and Brox, "Inverting visual representations with
    convolutional networks", CVPR 2016.

    Differs: kernels of 3 × 3 rather than 5 × 5, two layers on the grid rather than three, and 2048 channels rather
    than 4096 for features without positions; features are brought to unit variance; the learning rate falls along
    half a cosine rather than by hand.

    Args:
        data: as the model is fed. Images and features are made again at every step, so none need fit into memory.
        layer: None takes the last one with positions. Tokens before the grid (a class token) are left out.
        width: channels of the decoder on the layer's grid; they are halved with each doubling of its sides.
        seed: of the first weights and of the order of images.
        preprocess: what turned pixels (0…1) into inputs; None takes the model's own, or takes inputs for pixels.
        into: folder that the training is kept in; a stopped one goes on from there, to the same bits.
    """
    start = time.perf_counter()
    if not len(data):
        raise BadInput("the data set is empty.", "Check the folder, or the filter that made it.")
    if min(steps, batch_size, width) < 1 or not learning_rate > 0:
        raise BadInput(f"steps={steps}, batch_size={batch_size}, width={width}, learning_rate={learning_rate}.")
    preprocess = preprocess or preprocess_of(model)
    device = device_of(model)
    first = stacked(data, torch.randperm(len(data), generator=generator(seed))[:BEGINNING]).to(device)
    with borrow(model, first) as network:
        layer = layer or geometry(network, first).usual()
    settings: dict[str, Any] = {"steps": steps, "batch_size": batch_size, "learning_rate": learning_rate}
    settings |= {"seed": seed, "preprocess": None if preprocess is None else repr(preprocess)}
    with borrow(model, first, [layer]) as network:
        place = unit_maps(network, first, layer)
        shape = (int(first.shape[1]), int(first.shape[2]), int(first.shape[3]))
        read = reader(network, first, layer)
        with torch.no_grad():
            features = torch.cat([read(part) for part in first.split(batch_size)])
            net = decoder(place.units, place.grid, shape, width, device)
            net.begin(features, pixels_of(first, preprocess).float(), seed)
        key = ""
        if into is not None:
            key = f"{layer} {width} {settings} {fingerprint(module_of(model))[:16]} {fingerprint_data(data)[:16]}"
        loss = Training(net, read, data, preprocess, steps, batch_size, learning_rate, seed, key).run(into, progress)
    weights = {name: value.detach().cpu() for name, value in net.state_dict().items()}
    return Inverter(
        layer,
        place.units,
        place.grid,
        shape,
        width,
        weights,
        loss,
        settings=settings,
        provenance=provenance(first, time.perf_counter() - start),
    )


@dataclass(frozen=True)
class Training:
    """One training of a decoder, in place.

    Args:
        key: whatever it depends on; a folder serves one key.
    """

    net: Decoder
    read: Read
    data: Data
    preprocess: Preprocess | None
    steps: int
    batch_size: int
    learning_rate: float
    seed: int
    key: str

    def run(self, into: Path | None, progress: Progress | None) -> Float[Tensor, " t"]:
        """The loss of every step, those before an interruption included."""
        optimiser = torch.optim.Adam(self.net.parameters(), lr=self.learning_rate)
        saved = into / "training.safetensors" if into else None
        losses: list[float] = []
        if saved is not None and saved.exists():
            losses = resume_training(saved, self.key, self.net, optimiser)
        device = self.net.centre.device
        batches = orders(len(self.data), self.batch_size, self.seed, len(losses))
        for step in range(len(losses), self.steps):
            for group in optimiser.param_groups:
                group["lr"] = self.learning_rate * (1 + math.cos(math.pi * step / self.steps)) / 2
            loss = self.loss(stacked(self.data, next(batches)).to(device))
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            losses.append(float(loss.detach()))
            if saved is not None and ((step + 1) % SAVE_EVERY == 0 or step + 1 == self.steps):
                save_training(saved, self.key, self.net, optimiser, losses)
            if progress is not None:
                progress(step + 1, self.steps)
        return torch.tensor(losses)

    def loss(self, inputs: Images) -> Float[Tensor, ""]:
        """Mean squared error of pixels."""
        with torch.no_grad():
            features = self.read(inputs).float()
        return (self.net(features) - pixels_of(inputs, self.preprocess).float()).square().mean()


def orders(n: int, batch_size: int, seed: int, first: int = 0) -> Iterator[Int[Tensor, " r"]]:
    """Batches of indices without end, from step `first` on; each time round in another order, given by the seed."""
    lap, skipped = divmod(first, -(-n // batch_size))
    while True:
        order = torch.randperm(n, generator=generator((seed * 1_000_003 + lap) % 2**63))
        yield from order.split(batch_size)[skipped:]
        lap, skipped = lap + 1, 0
