"""The same units drawn with every family of regularisers, beside what each of them costs and brings."""

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

import torch
from jaxtyping import Float
from torch import Tensor, nn

from glasshouse.core import BadInput, Images, Model, Noun, Preprocess, Progress, draw, registered
from glasshouse.visualize.images import fineness
from glasshouse.visualize.objectives import Objective
from glasshouse.visualize.picture import Picture, png_url
from glasshouse.visualize.presets import PRESETS
from glasshouse.visualize.synthesis import render


@dataclass(frozen=True, repr=False)
class PresetComparison(Noun):
    """Pictures of one objective by each of p presets, and how they differ.

    Args:
        presets: their names, in the order of `pictures`.
        activation: what each finished picture reaches.
        fineness: share of its power above a quarter of a cycle per pixel, the mark of noise.
        seconds: for all pictures of a preset together.
    """

    presets: tuple[str, ...]
    pictures: tuple[Picture, ...]
    activation: Float[Tensor, "p n"]
    fineness: Float[Tensor, "p n"]
    seconds: tuple[float, ...]

    def __repr__(self) -> str:
        first = self.pictures[0]
        return f"PresetComparison({first.objective}, {len(self.presets)} presets × {len(first)} pictures)"

    def __getitem__(self, preset: str) -> Picture:
        if preset not in self.presets:
            raise BadInput(f"no pictures by preset '{preset}'.", f"There are {', '.join(self.presets)}.")
        return self.pictures[self.presets.index(preset)]

    @property
    def excess(self) -> Float[Tensor, "p n"]:
        """How far each activation lies above the best reference image's."""
        return torch.stack([picture.excess for picture in self.pictures])

    @property
    def patch_excess(self) -> Float[Tensor, "p n"]:
        """How far the best position of each picture lies above the best position of any reference image."""
        return torch.stack([picture.patch_excess for picture in self.pictures])

    def sheet(self, gap: int = 4) -> Images:
        """All pictures as one: a row for each preset, a column for each unit, with white between them."""
        framed = [nn.functional.pad(picture.pixels, (0, gap, 0, gap), value=1.0) for picture in self.pictures]
        rows = [torch.cat(list(pixels), 2) for pixels in framed]
        return torch.cat(rows, 1)[None, :, : -gap or None, : -gap or None]


@registered("visualize", paper="Olah et al., Distill 2017", example={"steps": 2, "presets": ("fourier", "tyka2016")})
def compare_presets(
    model: Model | nn.Module,
    objective: Objective,
    *,
    presets: Sequence[str] | None = None,
    size: int | tuple[int, int] | None = None,
    channels: int | None = None,
    n_images: int | None = None,
    steps: int = 512,
    seed: int = 0,
    preprocess: Preprocess | None = None,
    reference: Images | None = None,
    progress: Progress | None = None,
) -> PresetComparison:
    """What each family of regularisers draws for the same objective, from the same seeds in as many steps.

        fineness = Σ_{f > 1/4} |P_f|² / Σ_{f > 0} |P_f|²

    with P the Fourier transform of the picture and f in cycles per pixel, over all channels. The comparison of
    "Feature visualization" (Olah et al., Distill 2017, "The enemy of feature visualization"), with numbers.

    Args:
        presets: names in `PRESETS`; None takes all, and "distill2017", which is "distill", only once.
        reference: inputs, say of photographs; their best activations stand beside those of the pictures.
        progress: counts the steps of all presets together.
    """
    presets = tuple(name for name in PRESETS if name != "distill2017") if presets is None else tuple(presets)
    if not presets:
        raise BadInput("no presets to compare.", f"Name some of {', '.join(PRESETS)}.")

    pictures = tuple(
        render(
            model,
            objective,
            preset=preset,
            size=size,
            channels=channels,
            n_images=n_images,
            steps=steps,
            seed=seed,
            preprocess=preprocess,
            reference=reference,
            progress=after(progress, done, len(presets)),
        )
        for done, preset in enumerate(presets)
    )
    return PresetComparison(
        presets=presets,
        pictures=pictures,
        activation=torch.stack([picture.activation for picture in pictures]),
        fineness=torch.stack([fineness(picture.pixels) for picture in pictures]),
        seconds=tuple(float(picture.provenance["seconds"]) for picture in pictures),
    )


def after(progress: Progress | None, done: int, total: int) -> Progress | None:
    """Progress of one of `total` equal parts, as a part of the whole."""
    if progress is None:
        return None
    tell = progress
    return lambda step, steps: tell(done * steps + step, total * steps)


@draw.register
def draw_comparison(noun: PresetComparison) -> str:
    """A row for each preset: its pictures, the mean activation, and the share of fine power."""
    head = "".join(f"<th>{escape(label)}</th>" for label in noun.pictures[0].labels)
    rows = [
        f"<tr><th>{escape(preset)}</th>"
        + "".join(f'<td><img alt="{escape(preset)}" src="{png_url(photo)}"></td>' for photo in picture.photos())
        + f"<td>{activation:.3g}</td><td>{fine:.1%}</td></tr>"
        for preset, picture, activation, fine in zip(
            noun.presets, noun.pictures, noun.activation.mean(1).tolist(), noun.fineness.mean(1).tolist(), strict=True
        )
    ]
    head = f"<tr><th></th>{head}<th>activation</th><th>fine</th></tr>"
    return f"<table>{head}{''.join(rows)}</table>"
