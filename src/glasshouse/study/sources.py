"""The images of a study by name: a folder, a data set in Broden's format, or scenes made on the spot."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import cast, get_args

from glasshouse.core import BadInput, Model
from glasshouse.core.errors import not_found
from glasshouse.core.shards import Data
from glasshouse.data import Folder, Scenes, broden, folder, scenes, with_labels
from glasshouse.data.scene_files import MANIFEST, MASKS, about_set
from glasshouse.data.world.presets import PresetName

SCENES = "scenes:"


def find_images(
    name: str, model: Model, *, masks: str | None = None, names: Sequence[str] | None = None
) -> tuple[Data, list[str]]:
    """Images for a model, cut to its size but not normalised, and sentences that say what was found.

    Args:
        name: path of a folder, of a data set in Broden's format or of a set of scenes; or `scenes:houses:400`, which
            renders the first 400 scenes of a preset, `scenes:houses:400:7` with seed 7.
        masks: folder with a mask for each image.
        names: what the values of masks mean, from 1 on.
    """
    size = model.preprocess.size
    if name.startswith(SCENES):
        return with_labels(_rendered(name, size[0])), [f"images: rendered, {name.removeprefix(SCENES)}."]
    root = Path(name).expanduser()
    if (root / "index.csv").is_file():
        found = broden(root, size=size)
        return found, [f"images: {found!r}."]
    crop = model.preprocess.crop_mode
    manifest = MANIFEST if (root / MANIFEST).is_file() else None
    found = folder(root, manifest=manifest, masks=masks, size=size, crop="center" if crop == "none" else crop)
    said = [f"images: {found!r}.", *found.chosen]
    found = _renumbered(found, model, said)
    if not found.has_masks:
        return found, said
    vocabulary = about_set(root).get("vocabulary", {}).get(MASKS[0], ["-"])[1:]
    return with_labels(found, names or vocabulary or None), said


def _rendered(name: str, size: int) -> Scenes:
    preset, n, seed = (*name.removeprefix(SCENES).split(":"), "400", "0")[:3]
    if preset not in get_args(PresetName):
        raise not_found("preset of scenes", preset, get_args(PresetName))
    if name.count(":") > 3 or not (n.isdecimal() and seed.isdecimal()):
        raise BadInput(f"'{name}' does not say how many scenes.", f"Write {SCENES}{preset}:400, or with a seed :400:7.")
    return scenes(cast(PresetName, preset), int(n), size=size, seed=int(seed))


def _renumbered(found: Folder, model: Model, said: list[str]) -> Folder:
    """The same images with the classes' numbers in the model; -1 for those whose names the model does not know."""
    if not found.class_names or tuple(found.class_names) == tuple(model.class_names):
        return found
    plain = {name.lower().replace("_", " "): number for number, name in reversed([*enumerate(model.class_names)])}
    numbers = [plain.get(name.lower().replace("_", " "), -1) for name in found.class_names]
    known = sum(number >= 0 for number in numbers)
    said.append(f"classes: {known} of {len(numbers)} are called like a class of '{model.name}'.")
    entries = [replace(entry, target=numbers[entry.target] if entry.target >= 0 else -1) for entry in found.entries]
    return replace(found, entries=tuple(entries), class_names=tuple(model.class_names))
