"""What `render` returns: pictures, and how strongly the network answers them."""

import base64
from dataclasses import dataclass, field
from html import escape
from io import BytesIO
from typing import Any

from jaxtyping import Bool, Float
from PIL import Image
from torch import Tensor

from glasshouse.core import BadInput, Images, Noun, PerImage, draw


@dataclass(frozen=True, repr=False)
class Picture(Noun):
    """Pictures drawn for an objective, one per row.

    Args:
        pixels: 0…1, before any preprocessing.
        history: the objective at each step, on the picture as it was then and after that step's transforms.
        activation: what the finished picture reaches without transforms, penalties left out.
        labels: what each picture was drawn for.
        objective: in words, as it would be typed.
        drawn: False where the objective never had a gradient: the picture is the noise it started from.
        settings: every argument of the call, defaults included.
        reference: the most that any of the reference images reaches; None where none were given.
        peak: the objective at the one position of the layer where the finished picture is best for it; None where a
            position alone has no value.
        patch: the same for the best position of any reference image: what the best patch of the data reaches.
    """

    pixels: Images
    history: Float[Tensor, "n s"]
    activation: PerImage
    labels: tuple[str, ...]
    objective: str
    drawn: Bool[Tensor, " n"]
    settings: dict[str, Any] = field(default_factory=dict[str, Any])
    reference: PerImage | None = None
    provenance: dict[str, Any] = field(default_factory=dict[str, Any])
    peak: PerImage | None = None
    patch: PerImage | None = None

    def __repr__(self) -> str:
        n, _, h, w = self.pixels.shape
        values = ", ".join(f"{value:.3g}" for value in self.activation[:4].tolist()) + (", …" if n > 4 else "")
        lost = int((~self.drawn).sum())
        without = f", {lost} without gradient" if lost else ""
        return f"Picture({self.objective}, {n} × {h}×{w}, activation {values}{without})"

    def __len__(self) -> int:
        return len(self.pixels)

    @property
    def excess(self) -> PerImage:
        """How far each picture's activation lies above the best reference image's."""
        if self.reference is None:
            raise BadInput("no reference images were given.", "Call render(…, reference=images).")
        return self.activation - self.reference

    @property
    def patch_excess(self) -> PerImage:
        """How far the best position of each picture lies above the best position of any reference image."""
        if self.peak is None or self.patch is None:
            raise BadInput(
                f"no best patch is known for {self.objective}.",
                "Call render(…, reference=images) for units, neurons or directions of one layer.",
            )
        return self.peak - self.patch

    def photos(self) -> list[Image.Image]:
        """One image per picture, to show or to save; other than 1 or 3 channels are averaged to grey."""
        values = self.pixels if self.pixels.shape[1] in (1, 3) else self.pixels.mean(1, keepdim=True)
        bytes_ = (values.detach().cpu().float().clamp(0, 1) * 255).round().byte().permute(0, 2, 3, 1).numpy()
        return [Image.fromarray(rows[..., 0] if rows.shape[-1] == 1 else rows) for rows in bytes_]


@draw.register
def draw_picture(noun: Picture) -> str:
    """Each picture with its label and activation."""
    return "".join(
        f'<figure style="display:inline-block;margin:4px"><img alt="{escape(label)}" src="{png_url(photo)}">'
        f"<figcaption>{escape(label)}<br>{caption(noun, row)}</figcaption></figure>"
        for row, (label, photo) in enumerate(zip(noun.labels, noun.photos(), strict=True))
    )


def caption(picture: Picture, row: int) -> str:
    if not picture.drawn[row]:
        return "no gradient: noise"
    best = "" if picture.reference is None else f", best reference {picture.reference[row]:.3g}"
    return f"activation {picture.activation[row]:.3g}{best}"


def png_url(photo: Image.Image) -> str:
    """The image as a `data:` address, so that the page needs no other file."""
    buffer = BytesIO()
    photo.save(buffer, "PNG")
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode("ascii")
