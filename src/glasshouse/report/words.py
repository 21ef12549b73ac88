"""What numbers and names say in plain English."""

import re
from html import escape
from math import floor, isfinite, log10
from typing import Any

from glasshouse.core import Explanation, find_method
from glasshouse.core.errors import NotFound

TITLES = {
    "cam": "CAM",
    "grad_cam": "Grad-CAM",
    "integrated_gradients": "Integrated gradients",
    "input_x_gradient": "Input × gradient",
    "deconvnet": "DeconvNet",
    "guided_backprop": "Guided backprop",
    "guided_grad_cam": "Guided Grad-CAM",
    "grad_cam_pp": "Grad-CAM++",
    "layer_cam": "LayerCAM",
    "hires_cam": "HiResCAM",
    "xgrad_cam": "XGrad-CAM",
    "score_cam": "Score-CAM",
    "ablation_cam": "Ablation-CAM",
    "eigen_cam": "EigenCAM",
    "lrp": "LRP",
    "deep_lift": "DeepLIFT",
    "rise": "RISE",
    "lime": "LIME",
    "kernel_shap": "KernelSHAP",
    "srg": "Removal order",
    "srg_image_mean": "Removal order, mean colour",
    "mu_fidelity_image_mean": "Random removals, mean colour",
    "max_sensitivity": "Most moved by noise",
    "relevance_mass": "Share on the mask",
    "mu_fidelity": "Random removals",
    "completeness_gap": "Sum is off by",
    "class_sensitivity": "Change with class",
    "randomise_parameters": "Kept by random weights",
    "sparseness": "Sparseness",
}
JUDGED = ("srg", "mu_fidelity", "deletion", "insertion", "faithfulness_correlation")
"""The scores whose distance from chance says how faithful a map is; that a map is sparse says nothing of the kind."""

VERDICTS = {
    "better": ("● better than chance", "good"),
    "unclear": ("◐ not clearly better than chance", ""),
    "worse": ("○ worse than chance", "bad"),
}
ARROWS = {"up": " ↑", "down": " ↓", "diagnostic": ""}
ARROW_WORDS = {"up": "higher is better", "down": "lower is better", "diagnostic": "neither is better"}


def title(name: str) -> str:
    """A method or metric as a heading."""
    return TITLES.get(name) or name.replace("_", " ").capitalize()


def method_title(explanation: Explanation) -> str:
    """The heading of a heat map; an average over noisy copies names what was averaged."""
    if explanation.method == "smooth":
        of = str(explanation.settings.get("of", "saliency"))
        return "SmoothGrad" if of == "saliency" else f"Smoothed {title(of).lower()}"
    return title(explanation.method)


def what_it_shows(method: str) -> str:
    """The first line of a method's docstring, as HTML; empty for one that is not registered here."""
    try:
        text = escape(find_method(method).title)
    except NotFound:
        return ""
    return re.sub(r"`([^`]+)`", r"<code>\1</code>", text)


def number(value: float) -> str:
    """Three digits, with a true minus sign."""
    if not isfinite(value):
        return "undefined" if value != value else "∞".rjust(1 + (value < 0), "−")
    size = abs(value)
    text = f"{value:.1e}" if size and (size < 1e-3 or size >= 1e5) else f"{value:.3g}"
    return text.replace("e-0", "e-").replace("e+0", "e").replace("-", "−")


def measured(value: float, error: float) -> str:
    """A value with its standard error, both to the error's second digit."""
    if not (isfinite(value) and isfinite(error) and error > 0):
        return number(value)
    digits = max(0, 1 - floor(log10(error)))
    if digits > 5:
        return f"{number(value)} ± {number(error)}"
    return f"{value:.{digits}f} ± {error:.{digits}f}".replace("-", "−")


def percent(share: float) -> str:
    """A share as a percentage; small ones keep a digit."""
    shown = 100 * share
    return f"{shown:.0f} %" if shown >= 0.95 or shown == 0 else "< 0.1 %" if shown < 0.1 else f"{shown:.1f} %"


def python_value(value: Any) -> str:
    """A setting as it is typed in Python."""
    return repr(list(value)) if isinstance(value, list) else repr(value)
