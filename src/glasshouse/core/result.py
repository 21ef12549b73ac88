"""Nouns: small frozen objects that verbs return. All of them save, load and show themselves the same way.

A noun is written as one safetensors file: its tensors as they are, the rest as JSON in the header.
Nothing is pickled, so a file from a stranger can be read.
"""

import json
import math
import os
from dataclasses import dataclass, field, fields, replace
from functools import singledispatch
from importlib import import_module
from pathlib import Path
from typing import Any, ClassVar, Literal, TypeAlias, TypeVar
from weakref import ref

import torch
from jaxtyping import Float
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from glasshouse.core.errors import BadInput
from glasshouse.core.types import Maps, PerImage

SCHEMA = 1
Json: TypeAlias = dict[str, Any] | list[Any] | str | int | float | bool | None
N = TypeVar("N", bound="Noun")


@singledispatch
def draw(noun: object) -> str:
    """HTML fragment that shows a noun: self-contained, without scripts. `glasshouse.report` adds one per noun."""
    return f"<code>{noun!r}</code>"


@dataclass(frozen=True)
class Noun:
    """What every result has in common."""

    def save(self, path: str | os.PathLike[str]) -> Path:
        """Write to one safetensors file; a file of that name is replaced only once the new one is complete."""
        path, tensors = Path(path), dict[str, Tensor]()
        header = {"schema": SCHEMA, "noun": pack(self, "", tensors)}
        path.parent.mkdir(parents=True, exist_ok=True)
        partial = path.with_name(f"{path.name}.tmp-{os.getpid()}")
        try:
            save_file(tensors, partial, metadata={"glasshouse": json.dumps(header)})
            partial.replace(path)
        finally:
            partial.unlink(missing_ok=True)
        return path

    @classmethod
    def load(cls: type[N], path: str | os.PathLike[str]) -> N:
        """Read what `save` wrote. The file must hold this kind of noun."""
        try:
            with safe_open(path, framework="pt") as file:
                text = (file.metadata() or {}).get("glasshouse")
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        except (OSError, SafetensorError) as error:
            raise BadInput(f"cannot read '{path}' as a result of glasshouse: {error}.") from error
        try:
            header = json.loads(text) if text else {}
            if header.get("schema") != SCHEMA:
                seen = header.get("schema", "none")
                raise BadInput(
                    f"'{path}' has result format {seen}; this version reads format {SCHEMA}.",
                    "Save it again with this version.",
                )
            noun = unpack(header["noun"], tensors)
        except BadInput:
            raise
        except (AttributeError, LookupError, TypeError, ValueError, RecursionError) as error:
            raise BadInput(f"'{path}' is damaged: {type(error).__name__} in its header.") from error
        if not isinstance(noun, cls):
            raise BadInput(f"'{path}' holds a {type(noun).__name__}, not a {cls.__name__}.")
        return noun

    def to_dict(self) -> dict[str, Any]:
        """Everything as plain numbers, lists and text, ready for JSON."""
        return {f.name: plain(getattr(self, f.name)) for f in fields(self)}

    def _repr_html_(self) -> str:
        import_module("glasshouse.report")  # registers the drawings; found by name, as core knows no folder above it
        return draw(self)


def kinds() -> dict[str, type[Noun]]:
    """Every noun class by name, the ones of plug-ins included."""
    found, todo = dict[str, type[Noun]](), [Noun]
    while todo:
        kind = todo.pop()
        found[kind.__name__] = kind
        todo += kind.__subclasses__()
    return found


def pack(value: Any, name: str, tensors: dict[str, Tensor]) -> Json:
    """JSON for `value`; tensors go into `tensors` under dotted names."""
    if isinstance(value, Tensor):
        while name in tensors:  # {"a.b": …} and {"a": {"b": …}} would share a name
            name += "'"
        tensors[name] = value.detach().cpu().contiguous().clone()
        return {"$tensor": name}
    if isinstance(value, Noun):
        packed = {f.name: pack(getattr(value, f.name), f"{name}.{f.name}".strip("."), tensors) for f in fields(value)}
        return {"$noun": type(value).__name__, "fields": packed}
    if isinstance(value, dict):
        if strange := [key for key in value if not isinstance(key, str | int | float)]:
            raise BadInput(f"cannot save '{name}': its key {strange[0]!r} is neither text nor number.")
        return {"$dict": [[k, pack(v, f"{name}.{k}", tensors)] for k, v in value.items()]}
    if isinstance(value, tuple | list):
        items = [pack(item, f"{name}.{index}", tensors) for index, item in enumerate(value)]
        return {"$tuple": items} if isinstance(value, tuple) else items
    if isinstance(value, float) and not math.isfinite(value):
        return {"$float": repr(value)}
    if value is None or isinstance(value, str | int | float | bool):
        return value
    raise BadInput(f"cannot save '{name}': a {type(value).__name__} is neither tensor, number, text nor noun.")


def unpack(value: Json, tensors: dict[str, Tensor]) -> Any:
    """The inverse of `pack`."""
    if isinstance(value, list):
        return [unpack(item, tensors) for item in value]
    if not isinstance(value, dict):
        return value
    if "$tensor" in value:
        return tensors[value["$tensor"]]
    if "$tuple" in value:
        return tuple(unpack(item, tensors) for item in value["$tuple"])
    if "$float" in value:
        return float(value["$float"])
    if "$dict" in value:
        return {key: unpack(item, tensors) for key, item in value["$dict"]}
    kind = kinds().get(value["$noun"])
    if kind is None:
        raise BadInput(f"unknown result '{value['$noun']}'.", "Import the package that defines it first.")
    known = {f.name for f in fields(kind)}
    return kind(**{key: unpack(item, tensors) for key, item in value["fields"].items() if key in known})


def plain(value: Any) -> Any:
    """Numbers, lists and text only; not-a-number becomes None, as JSON has no word for it."""
    if isinstance(value, Tensor):
        return plain(value.tolist())
    if isinstance(value, Noun):
        return value.to_dict()
    if isinstance(value, dict):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, tuple | list):
        return [plain(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


Direction: TypeAlias = Literal["up", "down", "diagnostic"]


@dataclass(frozen=True, repr=False)
class Score(Noun):
    """A metric's answer for each image, with what is needed to read it.

    Args:
        value: one number per image; not-a-number where undefined, and then `reason` says why.
        stderr: standard error of `value` from the metric's own sampling; 0 where it is exact.
        chance: what an explanation without information would score; None where that is not known.
        direction: "up" if higher is better, "down" if lower is, "diagnostic" if neither.
        reason: one word per image, empty where the value is defined.
        n_forward: forward passes spent, counted in single images; n_backward likewise.
    """

    metric: str
    value: PerImage
    stderr: PerImage
    chance: float | None
    direction: Direction
    reason: tuple[str, ...]
    n_forward: int = 0
    n_backward: int = 0
    settings: dict[str, Any] = field(default_factory=dict[str, Any])
    extras: dict[str, Tensor] = field(default_factory=dict[str, Tensor])

    def __repr__(self) -> str:
        arrow = {"up": "higher is better", "down": "lower is better", "diagnostic": "diagnostic"}[self.direction]
        chance = "" if self.chance is None else f", chance {self.chance:.3g}"
        return f"Score({self.metric} {self.mean:.3f} ± {self.error:.3f}, n={len(self.value)}{chance}, {arrow})"

    @property
    def valid(self) -> Tensor:
        """Which images have a value, `bool n`."""
        return ~self.value.isnan()

    @property
    def mean(self) -> float:
        """Mean over the images that have a value."""
        return float(self.value[self.valid].double().mean()) if self.valid.any() else math.nan

    @property
    def error(self) -> float:
        """Standard error of `mean`: of the images for two or more, else of the metric's own sampling."""
        value, stderr = self.value[self.valid].double(), self.stderr[self.valid].double()
        if len(value) == 0:
            return math.nan
        return float(value.std() / math.sqrt(len(value)) if len(value) > 1 else stderr[0])


@dataclass(frozen=True, repr=False)
class Card(Noun):
    """How far an explanation can be trusted: headline scores by name, what they cost, one plain sentence per image."""

    tier: str
    scores: dict[str, Score]
    sentences: tuple[str, ...]

    def __repr__(self) -> str:
        known = {name: score.mean for name, score in self.scores.items() if score.valid.any()}
        shown = ", ".join(f"{name} {mean:.2f}" for name, mean in known.items())
        return f"Card({self.tier}: {shown})"


@dataclass(frozen=True, eq=False)
class Subject:
    """What an explanation is about, so that it can be put to the test later.

    Args:
        module: the user's network, for as long as somebody else keeps it.
        images: as they were given; not copied.
        notes: what was found out about them, shared by all explanations of one call.
    """

    module: "ref[nn.Module]"
    images: Tensor
    notes: dict[Any, Any] = field(default_factory=dict[Any, Any])


@dataclass(frozen=True, repr=False)
class Explanation(Noun):
    """What each pixel contributed to a score, according to one method.

    Args:
        heatmap: signed, on the pixel grid, never normalised.
        native: the method's own values on its own grid: `n c h w` for gradients, `n i j` for class activation maps.
        method: name of the method, as `list_methods` shows it.
        target: the class explained, one per image; empty where the target was a function or a weighting.
        score: the model's score for that target on the clean image.
        settings: every argument of the call, defaults included.
        layer: the layer that was used, if the method has one.
        extras: further quantities the method measured, by name.
        attached: the fidelity card, once it was asked for or given; `card` asks for it.
    """

    heatmap: Maps
    native: Tensor
    method: str
    target: tuple[int, ...]
    score: PerImage
    settings: dict[str, Any]
    layer: str | None = None
    extras: dict[str, Tensor] = field(default_factory=dict[str, Tensor])
    attached: Card | None = None
    provenance: dict[str, Any] = field(default_factory=dict[str, Any])
    subject: ClassVar[Subject | None] = None  # set on single explanations by `about`; neither saved nor copied

    @property
    def card(self) -> Card | None:
        """How far to trust it: `evaluate.card` in the highest tier that its own cost pays for, made when first read.

        None where the model is not at hand: for what was loaded from a file, changed by hand, or outlived its model.
        """
        if self.attached is None and self.subject is not None and self.subject.module() is not None:
            evaluate = import_module("glasshouse.evaluate")  # by name, as core knows no folder above it
            object.__setattr__(self, "attached", evaluate.own_card(self))
        return self.attached

    def about(self, subject: Subject) -> "Explanation":
        """The same explanation, knowing what it is about."""
        known = replace(self)
        object.__setattr__(known, "subject", subject)
        return known

    def to_dict(self) -> dict[str, Any]:
        """Everything as plain numbers, lists and text; the card is there if it was asked for."""
        found = super().to_dict()
        return {"card" if name == "attached" else name: value for name, value in found.items()}

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in vars(self).items() if name != "subject"}

    def __repr__(self) -> str:
        n, h, w = self.heatmap.shape
        at = f" at {self.layer}" if self.layer else ""
        goal = (
            f"target {', '.join(map(str, self.target[:4]))}{'…' if n > 4 else ''}" if self.target else "custom target"
        )
        return f"Explanation({self.method}{at}, {n} × {h}×{w}, {goal})"

    def __len__(self) -> int:
        return len(self.heatmap)

    def __getitem__(self, index: int) -> "Explanation":
        """The explanation of one image, still with a batch axis of 1."""
        n = len(self)
        if not -n <= index < n:
            raise IndexError(f"image {index} of {n}")
        one = slice(index % n, index % n + 1)
        extras = {name: value[one] if value.shape[:1] == (n,) else value for name, value in self.extras.items()}
        single = replace(
            self,
            heatmap=self.heatmap[one],
            native=self.native[one],
            target=self.target[one],
            score=self.score[one],
            extras=extras,
            attached=None,
        )
        subject = self.subject
        return single.about(Subject(subject.module, subject.images[one])) if subject else single

    def with_card(self, card: Card) -> "Explanation":
        """The same explanation with a fidelity card."""
        return replace(self, attached=card)

    def positive(self) -> Float[Tensor, "n h w"]:
        """Evidence for the target only: `max(heatmap, 0)`."""
        return self.heatmap.clamp(min=0)

    def normalised(self, percentile: float = 99.0) -> Float[Tensor, "n h w"]:
        """Heat map in -1…1 for display: divided by a percentile of its absolute values, per image, and clipped."""
        values = self.heatmap.abs().flatten(1).float()
        place = max(1, math.ceil(values.shape[1] * percentile / 100))
        scale = values.kthvalue(place, dim=1).values
        return (self.heatmap / scale.clamp(min=torch.finfo(torch.float32).tiny).view(-1, 1, 1)).clamp(-1, 1)
