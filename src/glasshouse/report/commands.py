"""The Python and the command line that show the same again."""

import shlex
from collections.abc import Mapping
from typing import Any

from glasshouse.core import Explanation, Info, find_method
from glasshouse.core.errors import NotFound
from glasshouse.report.words import python_value


def python_for(photo: str, explanation: Explanation, loading: Mapping[str, str]) -> str:
    """Python that computes one heat map.

    Args:
        loading: the arguments of `zoo.load`, `spec` among them; empty for a network of the reader's own.
    """
    arguments = [repr(value) if name == "spec" else f"{name}={value!r}" for name, value in loading.items()]
    model = f"zoo.load({', '.join(arguments)})" if loading else "…  # the model that was explained"
    info, call = _info(explanation.method), _call(explanation)
    if info is not None and info.function.__module__.startswith("glasshouse.attribute"):
        lines, function = ["from glasshouse import attribute, zoo", ""], f"attribute.{explanation.method}"
    else:
        lines = ["from glasshouse import zoo", "from glasshouse.core import find_method", ""]
        function = f'find_method("{explanation.method}").function'
    source = repr(photo) if loading else "…  # the photograph"
    lines += [f"model = {model}", f"images = model.preprocess({source})"]
    return "\n".join([*lines, f"explanation = {function}(model, images{call})"])


def command_for(photo: str, explanation: Explanation, loading: Mapping[str, str]) -> str:
    """The command line that makes a page with one heat map; empty where settings have no place on it."""
    if not loading or set(_changed(explanation)) - {"layer", "seed", "chunk"}:
        return ""
    words = ["glasshouse", "explain", loading["spec"], photo]
    for name, value in loading.items():
        words += [f"--{name}", value] if name != "spec" else []
    words += ["--method", explanation.method]
    words += ["--target", str(explanation.target[0])] if explanation.target else []
    words += ["--layer", explanation.layer] if explanation.layer else []
    words += ["--seed", str(explanation.settings["seed"])] if explanation.settings.get("seed") else []
    return shlex.join([*words, "--out", "report.html"])


def _info(method: str) -> Info | None:
    try:
        return find_method(method, "attribute")
    except NotFound:
        return None


def _call(explanation: Explanation) -> str:
    target = [str(explanation.target[0])] if explanation.target else []
    options = [f"{name}={python_value(value)}" for name, value in _changed(explanation).items()]
    return "".join(f", {part}" for part in target + options)


def _changed(explanation: Explanation) -> dict[str, Any]:
    """Settings that differ from the method's defaults."""
    info = _info(explanation.method)
    defaults = {} if info is None else info.parameters.parameters
    changed = {
        name: value
        for name, value in explanation.settings.items()
        if name not in defaults or not _same(value, defaults[name].default)
    }
    changed.pop("chunk", None)  # changes no result
    return changed


def _same(value: Any, default: Any) -> bool:
    return type(value) is type(default) and not hasattr(value, "shape") and value == default
