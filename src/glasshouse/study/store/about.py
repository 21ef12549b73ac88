"""`study.json`: what a study is of, and what it was made with."""

import json
import platform
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from torch import nn

from glasshouse._version import __version__
from glasshouse.core.errors import BadInput
from glasshouse.core.files import written
from glasshouse.core.fingerprints import fingerprint, fingerprint_data
from glasshouse.core.model import Model
from glasshouse.core.result import plain
from glasshouse.core.shards import Data
from glasshouse.study.store.catalog import SCHEMA

ABOUT = "study.json"
FORMAT = "glasshouse study"


def description(
    model: Model | nn.Module | None, data: Data | None, layers: list[Any], seed: int | None, arguments: dict[str, Any]
) -> dict[str, Any]:
    """What `study.json` says of a new study."""
    module = model.module if isinstance(model, Model) else model
    network: dict[str, Any] = {}
    if module is not None:
        weight = next(module.parameters(), torch.empty(0))
        network = {"class": type(module).__name__, "fingerprint": fingerprint(module)}
        network |= {"device": str(weight.device), "dtype": str(weight.dtype)}
    preprocess = None
    if isinstance(model, Model):
        preprocess = model.preprocessing and model.preprocessing.as_dict()
        network |= {"name": model.name, "class_names": list(model.class_names)}
    return {
        "format": FORMAT,
        "schema_version": SCHEMA,
        "provenance": {**environment(), "seed": seed, "arguments": arguments},
        "model": network,
        "preprocess": preprocess,
        "data": {} if data is None else {"n_items": len(data), "fingerprint": fingerprint_data(data)},
        "layers": layers,
    }


def environment() -> dict[str, Any]:
    """What results may depend on beside arguments: versions, machine, threads."""
    return {
        "glasshouse": __version__,
        "torch": torch.__version__,
        "numpy": np.__version__,
        "python": platform.python_version(),
        "machine": f"{platform.system()} {platform.machine()}",
        "threads": torch.get_num_threads(),
        "made": datetime.now(UTC).isoformat(timespec="seconds"),
    }


def read_about(root: Path) -> dict[str, Any]:
    """`study.json`, if it is one."""
    path = root / ABOUT
    if not path.is_file():
        raise BadInput(f"'{root}' is no study: there is no {ABOUT} in it.", "Make one with Store.create.")
    try:
        about: Any = json.loads(path.read_text("utf-8"))
        if about["format"] != FORMAT or not isinstance(about["schema_version"], int):
            raise ValueError("it is of another format")
        if not all(isinstance(about[key], dict) for key in ("model", "data", "provenance")):
            raise ValueError("parts are missing")
        [layer["name"] for layer in about["layers"]]
    except (OSError, LookupError, TypeError, ValueError, RecursionError) as error:
        raise BadInput(f"'{path}' is damaged: {error}.", "Restore it from a copy of the study.") from error
    return cast(dict[str, Any], about)


def write_about(root: Path, about: Mapping[str, Any]) -> None:
    """Replace `study.json`, whole."""
    with written(root / ABOUT) as file:
        file.write(to_json(about, indent=2).encode())


def to_json(value: Mapping[str, Any], indent: int | None = None) -> str:
    """Tensors and NumPy's numbers as plain ones, not-a-number as null."""

    def number(scalar: Any) -> Any:
        return plain(scalar.item())

    return json.dumps(plain(dict(value)), default=number, indent=indent, allow_nan=False, ensure_ascii=False)
