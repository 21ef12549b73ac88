"""Glass models that match templates: one detector per template, the best place of each, then a simple rule.

For pixels in 0…1 and a template t of zeros and ones, the L1 distance between a window and the template is linear,

    Σ |x - t| = |t| - Σ (2t - 1) x,

so a convolution with weights ±1 / margin and a ReLU give relu(1 - distance / margin): 1 at an exact match, 0 beyond
the margin.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor, nn

from glasshouse.core.errors import BadInput
from glasshouse.core.types import Images
from glasshouse.data.glass.truth import Glass, Truth, chain, conv, glass, linear

PLATE_PX = 10


def plate(code: int) -> Float[Tensor, "3 10 10"]:
    """A patch like a watermark: a white frame around 2 × 2 cells, light where `code` has a 1 among its four bits."""
    if not 0 <= code < 16:
        raise BadInput(f"code {code} is not in 0…15.")
    patch = torch.ones(PLATE_PX, PLATE_PX)
    for bit in range(4):
        top, left = 1 + 4 * (bit // 2), 1 + 4 * (bit % 2)
        patch[top : top + 4, left : left + 4] = code >> bit & 1
    return patch.expand(3, -1, -1).clone()


def stamp(images: Images, patch: Float[Tensor, "c i j"], top: int, left: int) -> Images:
    """The images with a patch put on them, its upper left corner at (top, left)."""
    (height, width), (i, j) = images.shape[2:], patch.shape[1:]
    if not (0 <= top <= height - i and 0 <= left <= width - j):
        raise BadInput(f"a patch of {i}×{j} at ({top}, {left}) leaves the image of {height}×{width}.")
    stamped = images.clone()
    stamped[:, :, top : top + i, left : left + j] = patch.to(images)
    return stamped


@dataclass(frozen=True)
class Templates:
    """Templates of zeros and ones, `k c i j`, and the L1 distance at which a detector falls silent."""

    patches: Tensor
    margin: float

    def fit(self, images: Float[Tensor, "n c h w"]) -> Float[Tensor, "n k i j"]:
        """relu(1 - distance / margin) at each place, from the distances themselves."""
        kernel = self.patches.shape[2:]
        windows = images.unfold(2, kernel[0], 1).unfold(3, kernel[1], 1)  # n c a b i j
        gaps = [(windows - patch[:, None, None]).abs().sum((1, 4, 5)) for patch in self.patches.to(images)]
        return (1 - torch.stack(gaps, 1) / self.margin).clamp(min=0)

    def layers(self) -> dict[str, nn.Module]:
        """The same as a convolution and a ReLU."""
        weight = (2 * self.patches - 1) / self.margin
        return {"match": conv(weight, 1 - self.patches.sum((1, 2, 3)) / self.margin), "match_on": nn.ReLU()}

    def best(self, images: Float[Tensor, "n c h w"]) -> tuple[Tensor, Tensor]:
        """How well each template fits at its best place, and the pixels of that window; none where it is silent."""
        fit = self.fit(images)
        value, place = fit.flatten(2).max(2)
        return value, self.windows(images, place, fit.shape[3]) & (value > 0)[:, :, None, None]

    def windows(self, images: Tensor, place: Tensor, columns: int) -> Bool[Tensor, "n r h w"]:
        """Masks of windows by flat place, `n r`."""
        (height, width), (i, j) = images.shape[2:], self.patches.shape[2:]
        down = torch.arange(height, device=images.device) - (place // columns)[..., None]
        right = torch.arange(width, device=images.device) - (place % columns)[..., None]
        rows, cols = (down >= 0) & (down < i), (right >= 0) & (right < j)
        return rows[..., :, None] & cols[..., None, :]


def checked_templates(patches: Float[Tensor, "k c i j"], margin: float | int | None) -> Templates:
    """Templates and their margin: by default half the least distance to another one at any shift, or to nothing."""
    if not bool(((patches == 0) | (patches == 1)).all()):
        raise BadInput("templates consist of zeros and ones.", "Round them, or use a mask.")
    nearest = nearest_distance(patches)
    chosen = nearest / 2 if margin is None else float(margin)
    if not 0 < chosen <= nearest:
        raise BadInput(f"margin={chosen}: a detector would answer to other templates.", f"Above 0, up to {nearest:g}.")
    return Templates(patches.float(), chosen)


def nearest_distance(patches: Float[Tensor, "k c i j"]) -> float:
    """Least L1 distance between a template and, on black, another one at any shift, itself shifted, or nothing."""
    i, j = patches.shape[2:]
    scene = F.pad(patches, (j, j, i, i))
    distance = patches.sum((1, 2, 3))[:, None, None] - F.conv2d(scene, 2 * patches - 1)  # scene, template, place
    for k in range(len(patches)):
        distance[k, k, i, j] = torch.inf
    return float(distance.min())


def template_matcher(
    templates: Float[Tensor, "k c i j"] | None = None,
    class_names: Sequence[str] | None = None,
    *,
    margin: float | int | None = None,
) -> Glass:
    """Class score = how well a template fits at its best place.

        score_k = max over places of relu(1 - Σ |window - template_k| / margin)

    Region k: the window of that place, empty where the score is 0; its removal and Shapley value are score_k for class
    k and 0 for the others. Holds where templates do not overlap.

    Args:
        templates: zeros and ones; plates with one light cell when left out.
        margin: distance at which a detector falls silent. By default half the distance to the nearest other
            template at any shift, so that each answers to its own part only.
    """
    chosen = torch.stack([plate(1 << bit) for bit in range(4)]) if templates is None else templates
    found = checked_templates(chosen, margin)
    names = class_names or [f"template {k}" for k in range(len(chosen))]
    return _best_places("template_matcher", found, names, names, torch.eye(len(chosen)))


def weighted_sum(
    weights: Float[Tensor, "c k"] | None = None,
    class_names: Sequence[str] | None = None,
    *,
    templates: Float[Tensor, "k ch i j"] | None = None,
    margin: float | int | None = None,
) -> Glass:
    """Class score = weighted sum of detectors.

        score_c = Σ_k weight_ck a_k,    a_k as in `template_matcher`

    Region k: where template k is; its removal and Shapley value are weight_ck a_k.

    Args:
        weights: by default 3, 2, 1, -2 and 0, 1, -1, 2.
        templates: plates with one light cell when left out.
    """
    chosen = torch.stack([plate(1 << bit) for bit in range(4)]) if templates is None else templates
    weights = torch.tensor([[3.0, 2, 1, -2], [0, 1, -1, 2]]) if weights is None else weights
    if weights.shape[1] != len(chosen):
        raise BadInput(f"{weights.shape[1]} weights for {len(chosen)} templates.")
    names = class_names or [f"sum {c}" for c in range(len(weights))]
    parts = [f"template {k}" for k in range(len(chosen))]
    return _best_places("weighted_sum", checked_templates(chosen, margin), parts, names, weights)


def _best_places(name: str, found: Templates, parts: Sequence[str], classes: Sequence[str], weights: Tensor) -> Glass:
    module = chain(dict(**found.layers(), best=nn.AdaptiveMaxPool2d(1), flat=nn.Flatten(), head=linear(weights)))

    def regions(images: Images) -> Bool[Tensor, "n r h w"]:
        return found.best(images)[1]

    def worth(images: Images, kept: Bool[Tensor, "n r"]) -> Float[Tensor, "n k"]:
        return (found.best(images)[0] * kept) @ weights.to(images).T

    read = weights != 0
    truth = Truth(
        "score_c = Σ_k weight_ck · max over places of relu(1 - Σ |window - template_k| / margin)",
        tuple(parts),
        regions,
        worth,
        {"match": read, "match_on": read, "best": read},
    )
    return glass(name, module, classes, truth)


def logic_gates(
    first: Float[Tensor, "c i j"] | None = None,
    second: Float[Tensor, "c i j"] | None = None,
    *,
    margin: float | int | None = None,
) -> Glass:
    """Three classes that combine two detectors, `and`, `or` and `xor`, by biases and a hidden layer.

        and = relu(a + b - 1),    or = a + b - and,    xor = a + b - 2 and

    a and b say how well each patch fits at its best place (0 absent, 1 exact). With both patches shown, the Shapley
    values of the two are 1/2, 1/2 for `and` and `or`, and 0, 0 for `xor`; removals are 1, 1 for `and`, 0, 0 for `or`
    and -1, -1 for `xor`.

    Args:
        first, second: patches of zeros and ones; two plates, with opposite cells, when left out.
    """
    patches = torch.stack([plate(6) if first is None else first, plate(9) if second is None else second])
    found = checked_templates(patches, margin)
    head = torch.tensor([[0.0, 0, 1], [1, 1, -1], [1, 1, -2]])
    module = chain(
        dict(
            **found.layers(),
            best=nn.AdaptiveMaxPool2d(1),
            flat=nn.Flatten(),
            hidden=linear(torch.tensor([[1.0, 0], [0, 1], [1, 1]]), torch.tensor([0.0, 0, -1])),
            hidden_on=nn.ReLU(),
            head=linear(head),
        )
    )

    def regions(images: Images) -> Bool[Tensor, "n 2 h w"]:
        return found.best(images)[1]

    def worth(images: Images, kept: Bool[Tensor, "n 2"]) -> Float[Tensor, "n 3"]:
        a, b = (found.best(images)[0] * kept).unbind(1)
        both = (a + b - 1).clamp(min=0)
        return torch.stack([both, a + b - both, a + b - 2 * both], 1)

    everything, read = torch.ones(3, 2, dtype=torch.bool), head != 0
    truth = Truth(
        "and = relu(a + b - 1), or = a + b - and, xor = a + b - 2 and",
        ("first", "second"),
        regions,
        worth,
        {"match": everything, "match_on": everything, "best": everything, "hidden": read, "hidden_on": read},
    )
    return glass("logic_gates", module, ("and", "or", "xor"), truth)


def counter(
    template: Float[Tensor, "c i j"] | None = None,
    most: int = 4,
    size: tuple[int, int] = (48, 48),
    *,
    margin: float | int | None = None,
) -> Glass:
    """Class c = the template is there c times, 0…`most`.

        score_c = relu(1 - |N - c|),    N = Σ over places of relu(1 - Σ |window - template| / margin)

    Regions: the `most` windows that fit best, empty where there are fewer. With N exact copies, keeping k of them
    gives 1 to class k and 0 to the others, so the Shapley value of every copy is 1/N for class N and -1/N for class
    0, and for classes between it is 0. Copies must not overlap, and there must be no more than `most`.

    Args:
        template: zeros and ones; a plate when left out.
        size: of the images; this network takes no others.
    """
    patch = plate(6) if template is None else template
    found = checked_templates(patch[None], margin)
    places = (size[0] - patch.shape[1] + 1, size[1] - patch.shape[2] + 1)
    if most < 1 or min(places) < 1:
        raise BadInput(f"most={most} copies of {tuple(patch.shape[1:])} in images of {size}.")
    steps = torch.arange(-1.0, most + 2)
    tents = torch.stack([torch.tensor([1.0, -2, 1, *[0] * most]).roll(c) for c in range(most + 1)])
    module = chain(
        dict(
            **found.layers(),
            total=nn.AvgPool2d(places, divisor_override=1),
            flat=nn.Flatten(),
            steps=linear(torch.ones(len(steps), 1), -steps),
            steps_on=nn.ReLU(),
            head=linear(tents),
        )
    )

    def strongest(images: Tensor) -> tuple[Tensor, Tensor]:
        fit = found.fit(images)
        return fit.flatten(1).topk(most, 1)

    def regions(images: Images) -> Bool[Tensor, "n r h w"]:
        value, place = strongest(images)
        return found.windows(images, place, places[1]) & (value > 0)[:, :, None, None]

    def worth(images: Images, kept: Bool[Tensor, "n r"]) -> Float[Tensor, "n k"]:
        total = (strongest(images)[0] * kept).sum(1)
        return (1 - (total[:, None] - torch.arange(most + 1).to(images)).abs()).clamp(min=0)

    everything, read = torch.ones(most + 1, 1, dtype=torch.bool), tents != 0
    truth = Truth(
        "score_c = relu(1 - |N - c|), N = Σ over places of relu(1 - Σ |window - template| / margin)",
        tuple(f"copy {i}" for i in range(most)),
        regions,
        worth,
        {"match": everything, "match_on": everything, "total": everything, "steps": read, "steps_on": read},
    )
    return glass("counter", module, [str(c) for c in range(most + 1)], truth, size)
