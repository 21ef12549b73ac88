"""Shapes that cross files. Axis letters: n images, c channels, h w pixels, k units or classes, i j a layer's grid."""

from collections.abc import Callable, Sequence
from typing import Literal, TypeAlias

from jaxtyping import Bool, Float, Int
from torch import Tensor

Images: TypeAlias = Float[Tensor, "n c h w"]
Maps: TypeAlias = Float[Tensor, "n h w"]
LayerMaps: TypeAlias = Float[Tensor, "n i j"]
Units: TypeAlias = Float[Tensor, "n k i j"]
Logits: TypeAlias = Float[Tensor, "n k"]
PerImage: TypeAlias = Float[Tensor, " n"]
Boxes: TypeAlias = Int[Tensor, "n 4"]
Masks: TypeAlias = Bool[Tensor, "n h w"]

Reading: TypeAlias = Literal["logit", "prob", "logprob", "margin"]
"""How a class score is read from the output: the raw logit, its softmax, the log of its softmax, or its lead over the
best other class."""

Progress: TypeAlias = Callable[[int, int], None]
"""Called with (done, total) after each step of a long job."""

Names: TypeAlias = Sequence[str]
