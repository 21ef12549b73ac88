"""RISE beside TorchRay, LIME and Kernel SHAP beside Captum: the same number of passes, on the same regions."""

import copy
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.case import TARGET, Case, Settings, Sides
from benchmarks.nets import peer
from glasshouse import attribute
from glasshouse.attribute.random_masks import draw_masks
from glasshouse.attribute.surrogates import closeness, draw

AT_ONCE = 16  # images per pass of the peers, as of ours
SAME = 64  # samples of LIME that both are given for the comparison


def rise(model: nn.Module, images: Tensor, settings: Settings) -> Sides:
    """TorchRay takes a sigmoid and leaves out 1 / p; ours is asked the same, on the same masks, for the comparison."""
    theirs, n = copy.deepcopy(model), settings["n_masks"]
    other = peer("torchray.attribution.rise").rise
    size = (images.shape[2], images.shape[3])

    def sigmoid(output: Tensor) -> Tensor:
        return output[:, TARGET].sigmoid()

    def check() -> tuple[Tensor, Tensor]:
        masks = draw_masks(AT_ONCE, size, (7, 7), 0.5, 0).of(torch.arange(AT_ONCE))[:, None].float()
        found = attribute.rise(model, images, sigmoid, n_masks=AT_ONCE, score="logit")
        expected = other(theirs, images, num_masks=AT_ONCE, filter_masks=masks, batch_size=AT_ONCE)
        return 0.5 * found.native[:, 0], expected[:, TARGET]

    return Sides(
        lambda: attribute.rise(model, images, TARGET, **settings).native,
        lambda: other(theirs, images, num_masks=n, batch_size=AT_ONCE)[:, TARGET],
        check,
    )


def regions_of(images: Tensor) -> Tensor:
    """Labels as Captum wants them."""
    return attribute.regions(images, kind="grid", count=49)[:, None]


def lime(model: nn.Module, images: Tensor, settings: Settings) -> Sides:
    """Captum's default fit is a Lasso; a ridge is taken there too. For the comparison it is given our samples."""
    captum, theirs = peer("captum.attr"), copy.deepcopy(model)
    fit = peer("captum._utils.models.linear_model").SkLearnRidge
    other, labels = captum.Lime(theirs, interpretable_model=fit(alpha=1.0)), regions_of(images)
    ours: dict[str, Any] = {"feature_mask": labels, "baselines": 0.0, "score": "logit"}
    shown = draw(SAME, int(labels.max()) + 1, 0)

    def rows(*_: Any, **__: Any) -> Iterator[Tensor]:
        yield from shown[:, None].float()

    base = captum.LimeBase(
        theirs,
        fit(alpha=1.0),
        similarity_func=lambda _, __, row, **___: float(closeness(row.bool(), 0.25)),
        perturb_func=rows,
        perturb_interpretable_space=True,
        from_interp_rep_transform=lambda row, image, **_: torch.where(row[0].bool()[labels], image, 0.0),
        to_interp_rep_transform=None,
    )

    def check() -> tuple[Tensor, Tensor]:
        found = attribute.lime(model, images, TARGET, n_samples=SAME, **ours).native
        values = base.attribute(images, target=TARGET, n_samples=SAME, perturbations_per_eval=AT_ONCE)
        return found, values[0][labels]

    batches = {"perturbations_per_eval": AT_ONCE, **settings}
    return Sides(
        lambda: attribute.lime(model, images, TARGET, **ours, **settings).native,
        lambda: other.attribute(images, target=TARGET, feature_mask=labels, **batches)[:, :1],
        check,
    )


def kernel_shap(model: nn.Module, images: Tensor, settings: Settings) -> Sides:
    """The draws differ; for the comparison both take many of a few regions."""
    other = peer("captum.attr").KernelShap(copy.deepcopy(model))

    def own(labels: Tensor, n_samples: int) -> Tensor:
        return attribute.kernel_shap(
            model, images, TARGET, feature_mask=labels, n_samples=n_samples, score="logit"
        ).native

    def theirs(labels: Tensor, n_samples: int) -> Tensor:
        samples = {"n_samples": n_samples, "perturbations_per_eval": AT_ONCE}
        return other.attribute(images, target=TARGET, feature_mask=labels, **samples)[:, :1]

    few = attribute.regions(images, kind="grid", count=4)[:, None]
    many, n = regions_of(images), settings["n_samples"]
    return Sides(lambda: own(many, n), lambda: theirs(many, n), lambda: (own(few, 14), theirs(few, 200)))


SAMPLES: dict[str, Any] = {
    "settings": {"n_samples": 256},
    "quick": {"n_samples": 128},
    "limit_batch": AT_ONCE,
    "share": 0.9,
    "faster": 1.3,
}

CASES: tuple[Case, ...] = (
    Case(
        "rise",
        "resnet18",
        1,
        "torchray",
        rise,
        settings={"n_masks": 256},
        quick={"n_masks": 32},
        limit_batch=AT_ONCE,
        faster=2.2,
        share=0.9,
    ),
    Case("lime", "resnet18", 1, "captum", lime, **SAMPLES),
    Case("kernel_shap", "resnet18", 1, "captum", kernel_shap, agreement=0.98, **SAMPLES),
)
