"""Pictures as text: tensors drawn, encoded and put into a page without a second file."""

import base64
import io
from typing import Literal, TypeAlias

import numpy as np
import torch
from jaxtyping import Float
from PIL import Image
from torch import Tensor

from glasshouse.core import BadInput, Explanation, Images
from glasshouse.report.colour import Scale, colours, scale, veiled, zero_level

Format: TypeAlias = Literal["PNG", "JPEG", "WEBP"]


FADE = {True: 0.55, False: 0.6}
"""How much of the grey photograph shows through the colour of zero, for maps with and without a sign."""


def overlay(pixels: Images, explanation: Explanation) -> Images:
    """Heat maps as coloured paint over the grey photographs, as pixels in 0…1.

    The photograph is faded towards the colour of zero; values of zero leave it visible, the ends of the scale hide it.
    """
    if len(pixels) != len(explanation) or pixels.shape[-2:] != explanation.heatmap.shape[-2:]:
        seen, wanted = tuple(pixels.shape), tuple(explanation.heatmap.shape)
        raise BadInput(f"pixels {seen} do not belong to heat maps {wanted}.", "Use model.preprocess.pixels(images).")
    rows: list[Tensor] = []
    for photo, heat in zip(pixels, explanation.heatmap, strict=True):
        how = scale(heat)
        paint = torch.as_tensor(veiled(how.signed)[how.levels(heat)]).to(photo) / 255
        zero = torch.as_tensor(colours(how.signed)[zero_level(how.signed)]).to(photo)[:, None, None]
        faded = torch.lerp(zero, grey(photo).expand(3, -1, -1), FADE[how.signed])
        rows.append(torch.lerp(faded, paint[..., :3].permute(2, 0, 1), paint[..., 3]))
    return torch.stack(rows)


def grey(photo: Float[Tensor, "c h w"]) -> Float[Tensor, "1 h w"]:
    """Luma of a photograph (ITU-R 601); of one channel, itself."""
    if len(photo) == 1:
        return photo
    return torch.einsum("c,chw->hw", torch.tensor([0.299, 0.587, 0.114]).to(photo), photo)[None]


def to_image(photo: Float[Tensor, "c h w"]) -> Image.Image:
    """Pixels in 0…1, of one or three channels, as an 8-bit image."""
    values = (photo.detach().cpu().float().clamp(0, 1) * 255).round().to(torch.uint8)
    array = values.expand(3, -1, -1).permute(1, 2, 0).contiguous().numpy()
    return Image.fromarray(array)


def heat_image(values: Float[Tensor, "h w"], how: Scale, *, paint: bool = True) -> Image.Image:
    """A heat map as an image with a palette.

    Args:
        paint: with transparency, to be laid over a photograph or over the colour of zero; else opaque.
    """
    image = Image.fromarray(how.levels(values)).convert("P")
    table = veiled(how.signed)
    opaque = np.rint(255 * colours(how.signed)).astype(np.uint8)
    image.putpalette((table[:, :3] if paint else opaque).tobytes())
    if paint:
        image.info["transparency"] = table[:, 3].tobytes()
    return image


def css(colour: Float[np.ndarray, " 3"]) -> str:
    """A colour in 0…1 as `#rrggbb`."""
    return "#" + bytes(np.rint(255 * colour).astype(np.uint8)).hex()


def ground(signed: bool) -> str:
    """The colour of zero."""
    return css(colours(signed)[zero_level(signed)])


def gradient(signed: bool) -> str:
    """The colour map from left to right, as a CSS gradient of 17 stops."""
    table = colours(signed)
    stops = [css(table[round(place)]) for place in np.linspace(0, len(table) - 1, 17)]
    return f"linear-gradient(to right, {', '.join(stops)})"


def uri(image: Image.Image, kind: Format = "PNG", quality: int = 88) -> str:
    """An image as a `data:` address."""
    file = io.BytesIO()
    options = {"optimize": True} if kind == "PNG" else {"quality": quality}
    image.save(file, kind, **options)
    return f"data:image/{kind.lower()};base64,{base64.b64encode(file.getvalue()).decode()}"


def where(values: Float[Tensor, "h w"]) -> str:
    """In words, where a heat map is strong: for readers who do not see it."""
    sizes = values.detach().cpu().double().abs()
    total = float(sizes.sum())
    if total == 0:
        return "zero everywhere"
    ninths = torch.nn.functional.adaptive_avg_pool2d(sizes[None], 3)[0]
    row, column = divmod(int(ninths.argmax()), 3)
    place = f"{('upper', 'middle', 'lower')[row]} {('left', 'centre', 'right')[column]}".replace(
        "middle centre", "centre"
    )
    ordered = sizes.flatten().sort(descending=True).values.cumsum(0)
    share = (int((ordered < total / 2).sum()) + 1) / ordered.numel()
    return f"strongest in the {place}; half of its weight lies on {100 * share:.0f} % of the pixels"


def overlay_sheet(pixels: Images, explanation: Explanation) -> Image.Image:
    """Overlays of several images in one row, as one picture."""
    return to_image(torch.cat(list(overlay(pixels, explanation)), 2))
