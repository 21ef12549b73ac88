"""Is a single unit important? Small networks are trained, and every unit of their last layer is removed in turn.

Trained plainly, with batch normalisation and with dropout; then the same again after a random rotation of the units,
which leaves the network's answers as they are.
"""

import os
from copy import deepcopy
from math import atanh, isfinite, tanh
from pathlib import Path
from statistics import mean, stdev

import torch
import torch.nn.functional as F
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor, nn

from glasshouse import data, dissect

STEPS, IMAGES = int(os.environ.get("GLASSHOUSE_STEPS", "600")), int(os.environ.get("GLASSHOUSE_IMAGES", "3000"))
SIZE, UNITS, CLASSES, SEEDS = 32, 24, 12, range(5 if STEPS > 100 else 1)
KINDS = ("plain", "batch norm", "dropout")


def houses(n: int, seed: int) -> tuple[Tensor, Tensor]:
    scenes = data.scenes("houses", n, size=SIZE, seed=seed, labels=False)
    return (scenes.images - 0.5) / 0.25, scenes.categories


def network(kind: str) -> nn.Sequential:
    def block(n_in: int, n_out: int) -> list[nn.Module]:
        norm = [nn.BatchNorm2d(n_out)] if kind == "batch norm" else []
        return [nn.Conv2d(n_in, n_out, 3, 2, 1), *norm, nn.ReLU()]

    trunk = nn.Sequential(*block(3, 32), *block(32, 48), *block(48, UNITS))
    drop = nn.Dropout(0.5 if kind == "dropout" else 0.0)
    return nn.Sequential(trunk, nn.Identity(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), drop, nn.Linear(UNITS, CLASSES))


def train(model: nn.Module, images: Tensor, classes: Tensor, draws: torch.Generator) -> nn.Module:
    optimiser = torch.optim.AdamW(model.parameters(), weight_decay=1e-4)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, 4e-3, total_steps=STEPS)
    for _ in range(STEPS):
        batch = torch.randint(len(images), (64,), generator=draws)
        optimiser.zero_grad()
        F.cross_entropy(model(images[batch]), classes[batch]).backward()
        optimiser.step()
        schedule.step()
    return model.eval()


# --8<-- [start:rotate]
def rotated(model: nn.Sequential, draws: torch.Generator) -> nn.Sequential:
    """The same function, whose last layer is seen in another basis: A' = Q A, and the head takes Q back."""
    q, _ = torch.linalg.qr(torch.randn(UNITS, UNITS, generator=draws))
    turned = deepcopy(model)
    turned[1] = nn.Conv2d(UNITS, UNITS, 1, bias=False)
    with torch.no_grad():
        turned[1].weight.copy_(q[:, :, None, None])
        turned[5].weight.copy_(model[5].weight @ q.T)
    return turned.eval()


# --8<-- [end:rotate]


class Held:
    """Images with their classes, none of which was trained on."""

    def __init__(self, images: Tensor, classes: Tensor):
        self.images, self.classes = images, classes

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int, /) -> tuple[Tensor, Tensor]:
        return self.images[index], self.classes[index]


train_images, train_classes = houses(IMAGES, seed=0)
held = Held(*houses(IMAGES, seed=1_000_000))
results: dict[str, list[dissect.Ablation]] = {}
for seed in SEEDS:
    for kind in KINDS:
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(seed)
            draws = torch.Generator().manual_seed(seed)
            model = train(network(kind), train_images, train_classes, draws)
        # --8<-- [start:call]
        single = dissect.ablate_units(model, held, layer="1", batch_size=64)
        turned = dissect.ablate_units(rotated(model, draws), held, layer="1", batch_size=64)
        # --8<-- [end:call]
        assert (single.right - turned.right).abs().sum() <= 0.01 * IMAGES + 1  # the same function, up to rounding
        results.setdefault(kind, []).append(single)
        results.setdefault(f"{kind}, rotated", []).append(turned)


def over_runs(values: list[float]) -> str:
    spread = stdev(values) / len(values) ** 0.5 if len(values) > 1 else float("nan")
    return f"{mean(values):.3f} ± {spread:.3f}"


def together(found: list[dissect.Correlation]) -> str:
    """One coefficient for all runs, by the mean of Fisher's z; its variance in a run is (1 + r²/2) / (n - 3)."""
    if not all(isfinite(one.value) and abs(one.value) < 1 for one in found):
        return "       -"
    z = mean(atanh(one.value) for one in found)
    reach = 1.96 * sum((1 + one.value**2 / 2) / (one.n - 3) for one in found) ** 0.5 / len(found)
    return f"{tanh(z):+.2f} [{tanh(z - reach):+.2f}, {tanh(z + reach):+.2f}]"


for name, runs in results.items():
    print(
        f"\n{name}: accuracy {over_runs([float(run.accuracy.nanmean()) for run in runs])}; mean and largest over units"
    )
    for drop in ("overall_drop", "max_class_drop"):
        drops = [getattr(run, drop) for run in runs]
        shown = [over_runs([float(pick(one)) for one in drops]) for pick in (torch.mean, torch.max)]
        print(f"  {drop:15} {shown[0]}, {shown[1]}")
    for trait in ("selectivity", "class_correlation", "mean", "outgoing"):
        both = [together([run.correlations(d)[trait] for run in runs]) for d in ("overall_drop", "max_class_drop")]
        print(f"  {trait:17} goes with overall drop {both[0]}, with max class drop {both[1]}")

SIDE, PAD, BLUE, RED = 300, 56, "#0b5a8a", "#b3261e"
sheet = Image.new("RGB", (len(KINDS) * (SIDE + PAD) + PAD // 2, SIDE + 2 * PAD), "white")
draw, font = ImageDraw.Draw(sheet), ImageFont.load_default(17)
right = 0.4 if max(float(run.overall_drop.max()) for runs in results.values() for run in runs) < 0.4 else 1.0
for place, kind in enumerate(KINDS):
    left, top = PAD + place * (SIDE + PAD), PAD
    draw.text((left, top - 28), kind, "#1a1a1a", font=font)
    draw.rectangle((left, top, left + SIDE, top + SIDE), outline="#c8c8c8")
    for tick in range(5):
        draw.text((left - 40, top + SIDE * (1 - tick / 4) - 9), f"{tick / 4:.0%}".rjust(4), "#5a5a5a", font=font)
        draw.text((left + SIDE * tick / 4 - 12, top + SIDE + 6), f"{right * tick / 4:.0%}", "#5a5a5a", font=font)
    for name, colour in ((f"{kind}, rotated", RED), (kind, BLUE)):
        for run in results[name]:
            for x, y in zip(run.overall_drop.tolist(), run.max_class_drop.tolist(), strict=True):
                at = left + SIDE * max(x, 0) / right, top + SIDE * (1 - max(y, 0))
                draw.ellipse((at[0] - 3, at[1] - 3, at[0] + 3, at[1] + 3), outline=colour, width=2)
draw.text((PAD, SIDE + PAD + 28), "overall drop of one unit", "#1a1a1a", font=font)
draw.text((PAD + 110, PAD - 28), "drop of its worst class", "#1a1a1a", font=font)
draw.text((PAD + SIDE + PAD, SIDE + PAD + 28), "units as trained", BLUE, font=font)
draw.text((PAD + SIDE + PAD + 160, SIDE + PAD + 28), "rotated at random", RED, font=font)
folder = Path(os.environ.get("GLASSHOUSE_FIGURES", "figures"))
folder.mkdir(parents=True, exist_ok=True)
sheet.quantize().save(folder / "single_units.png", optimize=True)
