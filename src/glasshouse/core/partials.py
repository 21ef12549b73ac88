"""The folder of a pass over data: one file of partial results per shard, which only that very pass reads."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any, cast

from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from glasshouse.core.errors import BadInput, Interrupted
from glasshouse.core.files import written
from glasshouse.core.fingerprints import update_digest

FORMAT = 2
SETTINGS = "sweep.json"


@dataclass(frozen=True)
class Partial:
    """What one shard adds: the states of all statistics, and the items left out with the reason."""

    tensors: dict[str, Tensor]
    skipped: dict[str, str]


def file_of(shard: int) -> str:
    """The name of a shard's file."""
    return f"shard-{shard:06d}.safetensors"


def claim(into: Path, settings: Mapping[str, Any]) -> str:
    """Make a folder serve the pass with these settings, or say what differs if it serves another.

    Gives the mark that its files bear, so that one which strayed in from another folder is not counted.
    """
    into.mkdir(parents=True, exist_ok=True)
    path, now = into / SETTINGS, json.loads(json.dumps({"format": FORMAT, **settings}))
    if not path.exists():
        with written(path) as file:
            file.write(json.dumps(now, indent=2).encode())
    then = read_settings(path)
    for name in [*now, *then]:
        was, new = then.get(name), now.get(name)
        if was != new:
            raise BadInput(
                f"'{into}' holds results of another pass: {name} was {was!r} there, and is {new!r} here.",
                "Use another folder, delete this one, or go back to the old value.",
            )
    return mark_of(now)


def mark_of(settings: Mapping[str, Any]) -> str:
    """What the files of a pass with these settings bear."""
    return sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()


def read_settings(path: Path) -> dict[str, Any]:
    """What `sweep.json` says of its pass."""
    try:
        settings: Any = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise BadInput(f"'{path}' is damaged: {error}.", "Delete its folder and run the pass again.") from error
    if not isinstance(settings, dict):
        raise BadInput(f"'{path}' is damaged: it is no table.", "Delete its folder and run the pass again.")
    return cast(dict[str, Any], settings)


def write_partial(into: Path, shard: int, mark: str, partial: Partial) -> None:
    """The shard's whole file or none of it, whenever the machine stops."""
    tensors = {name: x.contiguous() for name, x in partial.tensors.items()}
    about = {"pass": mark, "shard": shard, "skipped": partial.skipped}
    whole = {**about, "sha256": _digest(tensors, about)}
    content = save(tensors, {"partial": json.dumps(whole)})  # one entry: the order of several would vary
    with written(into / file_of(shard)) as file:
        file.write(content)


def read_partial(into: Path, shard: int, mark: str) -> Partial:
    """What `write_partial` wrote, to the bit."""
    path = into / file_of(shard)
    if not path.exists():
        raise Interrupted(f"the engine came back without '{path}'.", "Run the pass again: it goes on from here.")
    try:
        with cast(Any, safe_open)(path, "pt") as file:
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
            about: dict[str, Any] = json.loads(file.metadata()["partial"])
        digest, skipped = about.pop("sha256"), dict[str, str](about["skipped"])
    except (OSError, SafetensorError, AttributeError, LookupError, TypeError, ValueError, RecursionError) as error:
        raise BadInput(f"'{path}' is damaged: {error}.", "Delete it and run the pass again.") from error
    if digest != _digest(tensors, about):
        raise BadInput(f"'{path}' is damaged: its bytes are not those written.", "Delete it and run the pass again.")
    if (about.get("pass"), about.get("shard")) != (mark, shard):
        raise BadInput(
            f"'{path}' is shard {about.get('shard')} of another pass.",
            "Delete it, or copy in the files of a pass with the same model, data and settings.",
        )
    return Partial(tensors, skipped)


def _digest(tensors: Mapping[str, Tensor], about: Mapping[str, Any]) -> str:
    digest = sha256(json.dumps(about, sort_keys=True).encode())
    for name in sorted(tensors):
        update_digest(digest, name, tensors[name])
    return digest.hexdigest()
