"""From a function that holds a paper's mathematics to a public method.

`@method` adds, once for every attribution method: the model comes back untouched, the target is resolved once, the
layer is found, the settings are recorded, the values are brought to the pixel grid, and the name is registered.
"""

import time
from collections.abc import Callable, Generator, Iterable, Mapping, Sequence
from contextlib import contextmanager
from functools import wraps
from inspect import signature
from typing import Any, Concatenate, ParamSpec, TypeAlias, overload
from weakref import ref

import torch
from einops import reduce
from torch import Tensor, nn

from glasshouse._version import __version__
from glasshouse.core.chunks import in_chunks, recording
from glasshouse.core.errors import BadInput
from glasshouse.core.image import resize
from glasshouse.core.layers import geometry
from glasshouse.core.model import Model
from glasshouse.core.plan import prepare, untouched
from glasshouse.core.registry import Claim, CostOf, Info, Need, Reduction, ReductionOf, register
from glasshouse.core.result import Explanation, Subject
from glasshouse.core.target import Aim

P = ParamSpec("P")
Values: TypeAlias = Tensor | tuple[Tensor, dict[str, Tensor]]
Raw: TypeAlias = Callable[Concatenate[nn.Module, Tensor, P], Values]
Lifted: TypeAlias = Callable[Concatenate[Model | nn.Module, Tensor, P], Explanation]


def module_of(model: Model | nn.Module) -> nn.Module:
    """The network in what the user passed."""
    module = model.module if isinstance(model, Model) else model
    if not isinstance(module, nn.Module):
        raise BadInput(
            f"a {type(model).__name__} is no model.",
            "Pass an nn.Module, or what glasshouse.zoo.load returns.",
        )
    return module


def checked_images(inputs: Any) -> Tensor:
    """Images as methods need them: `n c h w`, floating point, finite."""
    if not isinstance(inputs, Tensor):
        raise BadInput(
            f"images are a {type(inputs).__name__}, not a tensor `n c h w`.", "Use model.preprocess(photos)."
        )
    shape = tuple(inputs.shape)
    if inputs.ndim == 3:
        raise BadInput(f"images have shape {shape}: the batch axis is missing.", "Use images[None].")
    if inputs.ndim != 4 or 0 in shape:
        raise BadInput(f"images have shape {shape}; `n c h w` is needed, with at least one image.")
    if not inputs.is_floating_point():
        raise BadInput(f"images are {inputs.dtype}.", "Use model.preprocess, or images.float() / 255 and normalise.")
    if not torch.isfinite(inputs).all():
        rows = (~torch.isfinite(inputs)).flatten(1).any(1).nonzero()[:, 0].tolist()
        raise BadInput(f"images {rows[:5]} hold NaN or infinite values.")
    return inputs


@contextmanager
def borrow(
    model: Model | nn.Module, inputs: Tensor, layers: Sequence[str] = (), exact: bool = False
) -> Generator[nn.Module]:
    """The network to run inside the `with`: its fast private copy where there is one, else itself, untouched after.

    Inside, gradients work whatever mode the caller is in.
    """
    module = module_of(model)
    with untouched(module), torch.inference_mode(False), torch.enable_grad():
        yield prepare(module, inputs, layers, exact).model


@overload
def method(raw: Raw[P]) -> Lifted[P]: ...
@overload
def method(
    *,
    reduction: Reduction | ReductionOf = ...,
    cost: CostOf | None = ...,
    claims: Iterable[Claim] = ...,
    class_sensitive: bool = ...,
    warning: str = ...,
    paper: str = ...,
    example: Mapping[str, Any] | None = ...,
    needs: Need = ...,
    place: object = ...,
) -> Callable[[Raw[P]], Lifted[P]]: ...
def method(
    raw: Any = None,
    *,
    reduction: Reduction | ReductionOf = "sum",
    cost: CostOf | None = None,
    claims: Iterable[Claim] = (),
    class_sensitive: bool = True,
    warning: str = "",
    paper: str = "",
    example: Mapping[str, Any] | None = None,
    needs: Need = "",
    place: object = None,
) -> Any:
    """Make an attribution method of a function `(model, inputs, target, *, …) -> values`.

    The function returns `n c h w` on the pixel grid or `n i j` on a layer's grid, and may add a dict of further
    tensors. It must read the output of the clean images before any other. It stays reachable as `.__wrapped__`.

    Args:
        reduction: how channels become one value per pixel, or a function from the settings to that.
    """

    def lift(raw: Raw[P]) -> Lifted[P]:
        parameters = signature(raw)

        @wraps(raw)
        def lifted(model: Model | nn.Module, inputs: Tensor, *args: P.args, **settings: P.kwargs) -> Explanation:
            call = parameters.bind(model, inputs, *args, **settings)
            call.apply_defaults()
            options = dict(list(call.arguments.items())[2:])
            images, aim = checked_images(inputs), Aim.of(options.pop("target"))
            layer = options.get("layer")
            with borrow(model, images, [layer] if layer else []) as network:
                found = answer(info, network, images.detach().clone(), aim, options)
            return found.about(Subject(ref(module_of(model)), images.detach()))

        info = Info(
            f"attribute.{raw.__name__}",
            lifted,
            cost,
            frozenset(claims),
            class_sensitive,
            warning,
            paper,
            example or {},
            reduction,
            maps=True,
            needs=needs,
            place=place,
        )
        register(info)
        return lifted

    return lift if raw is None else lift(raw)


def answer(info: Info, network: nn.Module, images: Tensor, aim: Aim, options: dict[str, Any]) -> Explanation:
    """Run a method's mathematics on a borrowed network, and put a name to everything that comes out.

    Images that do not fit into memory together are explained in parts, which is recorded.
    """
    start, raw, n = time.perf_counter(), info.function.__wrapped__, len(images)  # type: ignore[attr-defined]
    if "layer" in options and options["layer"] is None:
        options = {**options, "layer": geometry(network, images).usual()}

    def explain(rows: Tensor) -> tuple[Aim, Tensor, dict[str, Tensor]]:
        question = aim if len(rows) == n else aim.part(rows)
        values = raw(network, images if len(rows) == n else images[rows], question, **options)
        assert question.clean is not None, f"{raw.__name__} never read the clean output"
        native, extras = values if isinstance(values, tuple) else (values, {})
        return question, native.detach(), {name: value.detach() for name, value in extras.items()}

    rows = torch.arange(n, device=images.device)
    with recording() as watch:
        together = [explain(rows)] if any(one_each(value, n) for value in options.values()) else None
        parts = together or [part for _, part in in_chunks(explain, n, n, images.device)]
    aims, natives, extras = zip(*parts, strict=True)
    if len(parts) > 1:
        aim.join(aims)
    native = torch.cat(natives)
    done = {name: setting(value) for name, value in options.items()}
    if watch.chunk and "chunk" in done:
        done["chunk"] = min(watch.chunk, done["chunk"])
    assert aim.clean is not None
    return Explanation(
        heatmap=heatmap(native.float(), images, reduction_of(info.reduction, options)),
        native=native,
        method=info.short,
        target=tuple(aim.indices.tolist()) if aim.indices is not None else (),
        score=aim.clean.float(),
        settings=done,
        layer=options.get("layer"),
        extras={name: torch.cat([part[name] for part in extras]) for name in extras[0]},
        provenance=provenance(images, time.perf_counter() - start)
        | ({"images_at_once": watch.chunk} if watch.chunk else {}),
    )


def one_each(value: Any, n: int) -> bool:
    """Whether a setting may hold something for each image, so that images cannot be explained in parts."""
    return isinstance(value, Tensor) and value.ndim > 2 and n > 1 and n in value.shape[:2]


def reduction_of(reduction: Reduction | ReductionOf, settings: Mapping[str, Any]) -> Reduction:
    return reduction(settings) if callable(reduction) else reduction


def heatmap(values: Tensor, images: Tensor, reduction: Reduction) -> Tensor:
    """`n c h w` reduced over channels, or `n i j` resized to the pixels of `images`."""
    if values.ndim == 4:
        return values.abs().amax(1) if reduction == "max_abs" else reduce(values, "n c h w -> n h w", "sum")
    height, width = images.shape[-2:]
    return resize(values[:, None], (height, width))[:, 0]


def setting(value: Any) -> Any:
    """An argument as it is recorded: numbers and text as they are, functions by name, tensors and the rest in words."""
    if value is None or isinstance(value, str | int | float | bool):
        return value
    if isinstance(value, tuple | list):
        return tuple(setting(item) for item in value)
    if isinstance(value, Tensor):
        return value.detach() if value.numel() <= 16 else f"tensor {tuple(value.shape)}"
    return getattr(value, "__name__", type(value).__name__)


def provenance(images: Tensor, seconds: float) -> dict[str, Any]:
    """Where a result comes from: versions, device, number type, time spent."""
    return {
        "glasshouse": __version__,
        "torch": torch.__version__,
        "device": str(images.device),
        "dtype": str(images.dtype).removeprefix("torch."),
        "seconds": round(seconds, 4),
    }
