"""A network, with what is needed to use it: how photographs become inputs and what outputs are called."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from html import escape
from typing import Any, Literal, TypeAlias, get_args

import numpy as np
import torch
from einops import rearrange
from jaxtyping import Float
from PIL import Image
from torch import Tensor, nn

from glasshouse.core.errors import BadImage, BadInput, BadModel, NotFound, nearest
from glasshouse.core.photo import MAX_PIXELS, Photo, to_planes
from glasshouse.core.types import Images

CropMode: TypeAlias = Literal["center", "squash", "none"]
Interpolation: TypeAlias = Literal["bicubic", "bilinear"]
ChannelOrder: TypeAlias = Literal["rgb", "bgr"]
CHOICES = {
    "crop_mode": get_args(CropMode),
    "interpolation": get_args(Interpolation),
    "channel_order": get_args(ChannelOrder),
}


@dataclass(frozen=True, kw_only=True, repr=False)
class Preprocess:
    """How a photograph becomes an input: resized, cropped to `size`, then `(pixels - mean) / std`.

    Attributes:
        size: height and width of the input.
        crop_pct: share of the resized photograph's side that the centre crop keeps.
        crop_mode: `center` keeps the photograph's proportions, `squash` does not, `none` accepts only
            photographs that already have `size`.
        mean: per channel, for pixels in 0…1 and in `channel_order`; a single number makes inputs grey.
    """

    size: tuple[int, int]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    crop_pct: float = 1.0
    crop_mode: CropMode = "center"
    interpolation: Interpolation = "bicubic"
    channel_order: ChannelOrder = "rgb"

    def __post_init__(self):
        if len(self.size) != 2 or min(self.size) < 1:
            raise BadInput(f"size is (height, width) in pixels, not {self.size}.", "Try size=(224, 224).")
        if len(self.mean) not in (1, 3) or len(self.mean) != len(self.std) or not min(self.std) > 0:
            raise BadInput(
                f"mean and positive std need one number per channel, not {self.mean} and {self.std}.",
                "Give three each for colour, one each for grey.",
            )
        if not 0 < self.crop_pct <= 1:
            raise BadInput(f"crop_pct is a share in (0, 1], not {self.crop_pct}.", "Try crop_pct=0.875.")
        _check_choices(vars(self))

    def __call__(self, photos: Photo | Sequence[Photo]) -> Images:
        """Inputs from one photograph, a list of them, or a tensor `n c h w`."""
        if isinstance(photos, Tensor) and photos.ndim == 4:
            photos = list(photos)
        elif not isinstance(photos, Sequence) or isinstance(photos, str):
            photos = [photos]
        if not len(photos):
            raise BadInput("no photographs to preprocess: the list is empty.", "Give at least one.")
        return self.normalise(torch.stack([self._fit(photo) for photo in photos]))

    def normalise(self, pixels: Images) -> Images:
        """Inputs from pixels (0…1) that already have the model's size; the inverse of `pixels`."""
        if self.channel_order == "bgr":
            pixels = pixels.flip(1)
        return (pixels - self._column(self.mean, pixels)) / self._column(self.std, pixels)

    def pixels(self, images: Images) -> Images:
        """The pixels (0…1, RGB) that inputs stand for, clamped where inputs left the range of photographs."""
        pixels = images * self._column(self.std, images) + self._column(self.mean, images)
        if self.channel_order == "bgr":
            pixels = pixels.flip(1)
        return pixels.clamp(0, 1)

    def as_dict(self) -> dict[str, Any]:
        """All settings as plain values, for JSON."""
        return asdict(self)

    @classmethod
    def from_dict(cls, settings: Mapping[str, Any]) -> "Preprocess":
        """The inverse of `as_dict`, also after a trip through JSON or from another library's settings."""
        known = [f.name for f in fields(cls)]
        for name in settings:
            if name not in known:
                raise BadInput(f"preprocessing has no setting '{name}'.", nearest(name, known))
        if missing := [name for name in ("size", "mean", "std") if name not in settings]:
            raise BadInput(f"preprocessing needs {', '.join(missing)}.", f"Seen were: {', '.join(settings)}.")
        _check_choices(settings)
        kinds = {"size": int, "mean": float, "std": float}
        lists: dict[str, Any] = {name: tuple(map(kind, settings[name])) for name, kind in kinds.items()}
        return cls(**{**settings, **lists})

    def __repr__(self) -> str:
        mean, std = (", ".join(f"{value:.3g}" for value in values) for values in (self.mean, self.std))
        return (
            f"Preprocess({self.size[0]} x {self.size[1]} px, {self.crop_mode} crop {self.crop_pct:.3g}, "
            f"{self.interpolation}, {self.channel_order}, mean {mean}, std {std})"
        )

    def _column(self, values: tuple[float, ...], like: Tensor) -> Tensor:
        if like.shape[1] != len(values):
            raise BadInput(
                f"images have {like.shape[1]} channels where this preprocessing has {len(values)}.",
                f"It is {self!r}.",
            )
        return rearrange(torch.tensor(values, dtype=like.dtype, device=like.device), "c -> 1 c 1 1")

    def _fit(self, photo: Photo) -> Float[Tensor, "c h w"]:
        """One photograph resized and cropped, as pixels in 0…1."""
        planes, white = to_planes(photo, "RGB" if len(self.mean) == 3 else "L")
        width, height = planes[0].size
        (h, w), (top, left) = self._layout(height, width)
        if (h, w) != (height, width):
            resample = Image.Resampling[self.interpolation.upper()]
            planes = [plane.resize((w, h), resample) for plane in planes]
        box = (left, top, left + self.size[1], top + self.size[0])
        values = np.stack([np.asarray(plane.crop(box), dtype=np.float32) for plane in planes])
        return torch.as_tensor(values / white).clamp(0, 1)

    def _layout(self, height: int, width: int) -> tuple[tuple[int, int], tuple[int, int]]:
        """Height and width to resize to, then top and left of the crop."""
        if self.crop_mode == "none":
            if (height, width) != self.size:
                raise BadImage(
                    f"the photograph has {height} x {width} px, this preprocessing takes only "
                    f"{self.size[0]} x {self.size[1]}.",
                    "Resize it, or set crop_mode to 'center' or 'squash'.",
                )
            return self.size, (0, 0)
        # In floats 384 / (384 / 450) falls just short of 450.
        h, w = (math.floor(side / self.crop_pct + 1e-6) for side in self.size)
        if self.crop_mode == "center":  # the smallest scale that still covers h x w
            h, w = (h, h * width // height) if h * width >= w * height else (w * height // width, w)
        if h * w > MAX_PIXELS:
            raise BadImage(
                f"the photograph has {height} x {width} px, too narrow to keep its proportions.",
                "Crop it, or set crop_mode='squash'.",
            )
        return (h, w), (round((h - self.size[0]) / 2), round((w - self.size[1]) / 2))


def _check_choices(settings: Mapping[str, Any]) -> None:
    for name, choices in CHOICES.items():
        if settings.get(name, choices[0]) not in choices:
            raise BadInput(f"no {name} '{settings[name]}'.", f"There are: {', '.join(map(repr, choices))}.")


@dataclass(frozen=True, eq=False, repr=False)
class Model:
    """A network, how it wants its photographs, and what its classes are called.

    Make one with `zoo.load(…)`, or with `Model.of(module, …)` around a network of your own.

    Attributes:
        preprocessing: None where unknown; `preprocess` is the same, but an error where unknown.
        source: where the weights came from: `weights`, `licence`, `url`, … as far as known.
        chosen: sentences that say what was inferred rather than given.
    """

    module: nn.Module
    preprocessing: Preprocess | None = None
    class_names: tuple[str, ...] = ()
    name: str = "model"
    source: Mapping[str, str] = field(default_factory=dict[str, str])
    chosen: tuple[str, ...] = ()

    @classmethod
    def of(
        cls,
        module: nn.Module,
        *,
        preprocess: Preprocess | None = None,
        class_names: Sequence[str] | None = None,
        name: str | None = None,
    ) -> "Model":
        """Wrap a network of your own. Nothing is guessed: what is not given stays unknown."""
        chosen = ["preprocessing: given." if preprocess else "preprocessing: unknown, none was given."]
        chosen += ["class names: given." if class_names else "class names: unknown, none were given."]
        title = name or type(module).__name__
        return cls(module, preprocess, tuple(class_names or ()), title, chosen=tuple(chosen))

    @property
    def preprocess(self) -> Preprocess:
        """Makes inputs from photographs."""
        if self.preprocessing is None:
            raise BadModel(
                f"the preprocessing of '{self.name}' is unknown, and guessing it would change every answer.",
                "Pass preprocess=Preprocess(size=(h, w), mean=(…), std=(…)), the values it was trained with.",
            )
        return self.preprocessing

    def __call__(self, images: Images) -> Float[Tensor, "n ..."]:
        return self.module(images)

    def layers(self) -> list[str]:
        """Dotted names of all layers, containers included, in the order of definition."""
        return [name for name, _ in self.module.named_modules() if name]  # pyright: ignore[reportUnknownVariableType]

    def label(self, index: int) -> str:
        """What a class is called: its name, or `class 281` where names are unknown."""
        return self.class_names[index] if 0 <= index < len(self.class_names) else f"class {index}"

    def index(self, target: str | int) -> int:
        """The number of a class, from its name (in any case) or from its number, which is checked."""
        if isinstance(target, str):
            plain = [_plain(name) for name in self.class_names]
            found = [i for i, name in enumerate(plain) if name == _plain(target)]
            if len(found) == 1:
                return found[0]
            if found:
                raise BadInput(
                    f"{len(found)} classes are called '{target}': {', '.join(map(str, found))}.",
                    "Give the number.",
                )
            if not target.isdecimal():
                raise NotFound(f"no class '{target}' in '{self.name}'.", nearest(target, self.class_names))
        index = int(target)
        if index < 0 or (self.class_names and index >= len(self.class_names)):
            last = f"0 to {len(self.class_names) - 1}" if self.class_names else "0 upwards"
            raise NotFound(f"no class {index} in '{self.name}'.", f"Classes count from {last}.")
        return index

    def describe(self) -> str:
        """What this model is and what was inferred about it, on several lines."""
        n_classes = len(self.class_names)
        shown = ", ".join(self.class_names[:3]) + (", …" if n_classes > 3 else "")
        lines = [
            self._title(),
            f"  preprocess  {self.preprocessing or 'unknown'}",
            f"  classes     {f'{n_classes}: {shown}' if n_classes else 'names unknown'}",
            *(f"  {key:<11} {value}" for key, value in self.source.items()),
            *(f"  chosen      {sentence}" for sentence in self.chosen),
        ]
        return "\n".join(lines)

    def __repr__(self) -> str:
        return f"Model({self._title()})"

    def _repr_html_(self) -> str:
        return f"<pre>{escape(self.describe())}</pre>"

    def _title(self) -> str:
        n_weights = sum(p.numel() for p in self.module.parameters())
        size = f"{n_weights / 1e6:.1f} M" if n_weights >= 1e5 else f"{n_weights}"
        mode = ", in training mode" if self.module.training else ""
        return f"{self.name}: {type(self.module).__name__}, {size} weights{mode}"


def _plain(name: str) -> str:
    return " ".join(name.replace("_", " ").lower().split())
