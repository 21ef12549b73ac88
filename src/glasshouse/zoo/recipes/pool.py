"""Two dozen very small classifiers, half of which go by a shortcut: can the maps of a method tell which?

Every net has a twin whose scenes show the same kind of shortcut, which tells nothing there. So what can be seen in
the images is the same for both, and only what the net makes of it differs.
"""

import time
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from glasshouse import data
from glasshouse.core.chunks import steps
from glasshouse.core.errors import BadInput, not_found
from glasshouse.core.model import Model, Preprocess
from glasshouse.core.seed import generator
from glasshouse.core.types import Images
from glasshouse.data.world.presets import PresetName
from glasshouse.data.world.shortcuts import ShortcutKind, Split
from glasshouse.zoo.recipes.classifiers import BATCH, accuracy, class_names, cross_entropy
from glasshouse.zoo.recipes.supervised import Answers, Schedule, Supervised
from glasshouse.zoo.shipping import SCHEMA, Shipped
from glasshouse.zoo.training import FIRST_HELD_OUT_SEED, write_tensors
from glasshouse.zoo.weights import check_finite, fit_weights

NAME = "shortcut_pool"
PRESET: PresetName = "shapes"
SIZE = 32
PREPROCESS = Preprocess(size=(SIZE, SIZE), mean=(0.5,) * 3, std=(0.25,) * 3)
LAYERS = ((16, 2), (16, 1), (24, 2), (32, 1))  # channels, stride
STEPS, RATE, WARMUP = 1_000, 1e-2, 30
N_SCENES, N_HELD_OUT, PART = 6_000, 2_000, 500

KINDS: tuple[ShortcutKind, ...] = ("watermark", "border", "distractor")  # those with a place of their own
STRENGTHS = (0.95, 0.96, 0.98, 1.0)  # of the biased nets, one after another; the clean ones have 0
SPLITS: tuple[Split, ...] = ("aligned", "conflicting", "absent")


@dataclass(frozen=True)
class ShortcutNet:
    """A net of the pool.

    Attributes:
        shortcut: its kind, and how often it told the category while training; else it showed any.
        figures: on 2,000 scenes per split that training never saw: `accuracy_aligned`, `accuracy_conflicting`,
            `accuracy_absent`, and `reliance`, the first less the second.
    """

    model: Model
    shortcut: data.Shortcut
    figures: Mapping[str, float]

    @property
    def reliance(self) -> float:
        """How far it goes by the shortcut: 0 not at all, 1 by nothing else."""
        return self.figures["reliance"]

    def scenes(self, n: int = 32, *, seed: int = FIRST_HELD_OUT_SEED + 2) -> data.Scenes:
        """Scenes to explain, with the shortcut telling the truth; the same for all nets with this kind of it."""
        return data.scenes(PRESET, n, size=SIZE, seed=seed, shortcut=data.Shortcut(self.shortcut.kind), split="aligned")


def pool_shortcuts() -> dict[str, data.Shortcut]:
    """By the name of each net, the shortcut in the scenes it is trained on."""
    return {
        f"{kind}_{side}_{number}": data.Shortcut(kind, strength if side == "biased" else 0.0)
        for kind in KINDS
        for side in ("biased", "clean")
        for number, strength in enumerate(STRENGTHS)
    }


def shortcut_pool(path: str | Path | None = None) -> dict[str, ShortcutNet]:
    """Twenty-four nets of 13,000 weights by name, in evaluation mode, with their measured reliance.

    For `evaluate.bias_detection`: twelve go by a watermark, a border or a distractor, and twelve, trained on scenes
    with the same things in them, do not.

    Args:
        path: what `train_pool` wrote; None is the pool that comes with glasshouse.
    """
    shipped = Shipped(NAME) if path is None else Shipped(Path(path).stem, Path(path).parent)
    about, weights, found = shipped.about, shipped.weights(), dict[str, ShortcutNet]()
    for name, card in about["nets"].items():
        own = {key.removeprefix(f"{name}."): value for key, value in weights.items() if key.startswith(f"{name}.")}
        network = small_net(len(about["class_names"]))
        fit_weights(network, own, name)
        model = Model.of(network.eval(), preprocess=shipped.preprocess, class_names=about["class_names"], name=name)
        found[name] = ShortcutNet(model, data.Shortcut(card["kind"], card["strength"]), card["figures"])
    return found


def train_pool(path: str | Path, seed: int = 0, *, names: Sequence[str] | None = None, n_steps: int = STEPS) -> Path:
    """Train and measure all nets, and write them to one file; a few minutes on one core.

    The same seed makes the same file on the same machine with as many threads, but for the seconds on its card.

    Args:
        path: of the file, `.safetensors`.
        names: of the nets to train; all when left out.
        n_steps: of training, for each net.
    """
    path, began, shortcuts = Path(path), time.monotonic(), pool_shortcuts()
    chosen, tensors, nets = list(shortcuts if names is None else names), dict[str, Tensor](), dict[str, Any]()
    if path.suffix != ".safetensors":
        raise BadInput(f"'{path}' is no name of a weights file.", "Let it end in .safetensors.")
    for place in steps(len(chosen)):
        name = chosen[place]
        network = train_net(name, seed, n_steps=n_steps)
        state = {key: _half(value) for key, value in network.state_dict().items()}
        check_finite(state, f"{name} in half precision")
        network.load_state_dict(state)  # what is measured is what is stored
        tensors |= {f"{name}.{key}": value for key, value in state.items()}
        shortcut, figures = shortcuts[name], net_figures(network, shortcuts[name].kind)
        nets[name] = {"kind": shortcut.kind, "strength": shortcut.strength, "figures": figures}
    names_of_classes = class_names(PRESET)
    about = {
        "schema": SCHEMA,
        "name": NAME,
        "about": "Very small classifiers of shapes; half of them go by a shortcut in their scenes, half do not.",
        "n_weights": sum(p.numel() for p in small_net(len(names_of_classes)).parameters()),
        "steps": n_steps,
        "seed": seed,
        "seconds": round(time.monotonic() - began),
        "torch": str(torch.__version__),
        "data": f"{N_SCENES:,} {PRESET} of the scene world for each, {SIZE} px; measured on {N_HELD_OUT:,} others.",
        "licence": "Apache-2.0",
        "preprocess": PREPROCESS.as_dict(),
        "class_names": names_of_classes,
        "nets": nets,
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    write_tensors(path, tensors, about)
    path.chmod(0o644)  # safetensors lets only the writer read
    return path


def train_net(name: str, seed: int = 0, *, n_steps: int = STEPS, n_scenes: int = N_SCENES) -> nn.Module:
    """One net of the pool, trained; weights and scenes are drawn from the seed and its place in the pool."""
    shortcuts = pool_shortcuts()
    if name not in shortcuts:
        raise not_found("net of the pool", name, shortcuts)
    if not 0 <= seed < FIRST_HELD_OUT_SEED // len(shortcuts):
        raise BadInput(f"seed {seed} is not in 0…{FIRST_HELD_OUT_SEED // len(shortcuts) - 1}.")
    own = seed * len(shortcuts) + list(shortcuts).index(name)
    images, categories = rendered(n_scenes, own, shortcuts[name], "train")

    def batch(step: int) -> tuple[Images, Answers]:
        rows = torch.randint(n_scenes, (BATCH,), generator=generator((own << 32) + step))
        return images[rows], {"category": categories[rows]}

    task = Supervised(
        partial(small_net, len(class_names(PRESET))),
        batch=batch,
        loss=cross_entropy,
        look=lambda network: {},
        schedule=Schedule(RATE, n_steps, WARMUP),
        seed=own,
        device=torch.device("cpu"),
        low_precision=False,
    )
    for step in range(n_steps):
        task.step(step)
    return task.network


def net_figures(
    network: nn.Module, kind: ShortcutKind, *, n: int = N_HELD_OUT, seed: int = FIRST_HELD_OUT_SEED
) -> dict[str, float]:
    """Accuracy where the shortcut tells the category, where it shows another, where there is none; and reliance."""
    found = {
        f"accuracy_{split}": accuracy(network, [rendered(n, seed, data.Shortcut(kind), split)])["accuracy"]
        for split in SPLITS
    }
    return found | {"reliance": found["accuracy_aligned"] - found["accuracy_conflicting"]}


def rendered(n: int, seed: int, shortcut: data.Shortcut, split: Split) -> tuple[Images, Tensor]:
    """Scenes as a net gets them, and their categories."""
    make = partial(data.scenes, PRESET, size=SIZE, seed=seed, shortcut=shortcut, split=split, labels=False)
    parts = [(PREPROCESS.normalise(s.images), s.categories) for s in data.stream(make, n, batch_size=PART)]
    images, categories = zip(*parts, strict=True)
    return torch.cat(images), torch.cat(categories)


def small_net(n_classes: int) -> nn.Sequential:
    """Four convolutions, each with norm and ReLU, on 16 × 16 and 8 × 8; mean over positions; a linear classifier."""
    layers, n_in = OrderedDict[str, nn.Module](), 3
    for number, (n_out, stride) in enumerate(LAYERS, 1):
        layers[f"conv{number}"] = nn.Conv2d(n_in, n_out, 3, stride, 1, bias=False)
        layers[f"norm{number}"] = nn.BatchNorm2d(n_out)
        layers[f"relu{number}"] = nn.ReLU()
        n_in = n_out
    head = {"pool": nn.AdaptiveAvgPool2d(1), "flatten": nn.Flatten(), "head": nn.Linear(n_in, n_classes)}
    return nn.Sequential(layers | head)


def _half(value: Tensor) -> Tensor:
    return value.half() if value.is_floating_point() and value.ndim > 1 else value
