"""Open black boxes that see: verbs in, nouns out.

    import glasshouse as gh

    model = gh.zoo.load("efficientnet_lite0")
    explanation = gh.attribute.grad_cam(model, model.preprocess("cat.jpg"))

Names are imported when they are first used, so that the command line answers `--help` without loading torch.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from glasshouse._version import __version__ as __version__

if TYPE_CHECKING:
    from glasshouse import attribute as attribute
    from glasshouse import data as data
    from glasshouse import diagnose as diagnose
    from glasshouse import dissect as dissect
    from glasshouse import evaluate as evaluate
    from glasshouse import report as report
    from glasshouse import visualize as visualize
    from glasshouse import zoo as zoo
    from glasshouse.core import BadImage as BadImage
    from glasshouse.core import BadInput as BadInput
    from glasshouse.core import BadModel as BadModel
    from glasshouse.core import Card as Card
    from glasshouse.core import Explanation as Explanation
    from glasshouse.core import GlasshouseError as GlasshouseError
    from glasshouse.core import Model as Model
    from glasshouse.core import Noun as Noun
    from glasshouse.core import Preprocess as Preprocess
    from glasshouse.core import Score as Score
    from glasshouse.core import edit as edit
    from glasshouse.core import find_method as find_method
    from glasshouse.core import geometry as geometry
    from glasshouse.core import list_methods as list_methods
    from glasshouse.core import method as method
    from glasshouse.core import probe as probe
    from glasshouse.study import Study as Study

FOLDERS = ("attribute", "data", "diagnose", "dissect", "evaluate", "report", "visualize", "zoo")
FROM_CORE = (
    *("BadImage", "BadInput", "BadModel", "Card", "Explanation", "GlasshouseError", "Model", "Noun", "Preprocess"),
    *("Score", "edit", "find_method", "geometry", "list_methods", "method", "probe"),
)


def __getattr__(name: str) -> Any:
    if name in FOLDERS:
        return import_module(f"glasshouse.{name}")
    if name in FROM_CORE:
        for folder in FOLDERS:  # so that the registry and the drawings are complete
            import_module(f"glasshouse.{folder}")
        return getattr(import_module("glasshouse.core"), name)
    if name == "Study":
        return import_module("glasshouse.study").Study
    raise AttributeError(f"module 'glasshouse' has no attribute '{name}'")


def __dir__() -> list[str]:
    return [*FOLDERS, *FROM_CORE, "Study", "__version__"]
