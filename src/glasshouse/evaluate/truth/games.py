"""What parts are worth to a model, alone and together: asked by drawing every scene without them.

Scenes can be drawn again without a part, with everything else as it was, and glass models say what they would answer.
So the truth here is about the model, not about the picture: a part that the model does not use is worth nothing,
however much it looks like the object.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from glasshouse.core import BadInput, Images, Model, Noun, PerImage, Reading, borrow, in_chunks, select, steps
from glasshouse.core.target import logits, resolve
from glasshouse.data import Scenes
from glasshouse.data.glass import Glass
from glasshouse.evaluate.faithfulness.players import MOST_PLAYERS, shapley_values

LEAST_PIXELS = 4
SHARE, IDLE = 0.1, 0.01
"""Of the scene's largest effect: from where a part matters, and below which it is idle."""

ROUNDING = 1e-5  # of the largest value: what is nearer together may differ by rounding alone


@dataclass(frozen=True, repr=False)
class PartGame(Noun):
    """The score of each scene with every choice of its parts: bit p of a choice's number says that part p is there.

    Args:
        worth: the target's score for each of the 2^p choices; the last one is the whole scene.
        kept: whether the target is still the model's first class, alone or tied with no more than in the whole scene.
        masks: where each part is seen.
        parts: their names.
        target: the class that was asked about.
        images: the scenes as the model gets them.
    """

    worth: Float[Tensor, "n s"]
    kept: Bool[Tensor, "n s"]
    masks: Bool[Tensor, "n p h w"]
    parts: tuple[str, ...]
    target: tuple[int, ...]
    images: Images

    def __repr__(self) -> str:
        return f"PartGame({len(self.worth)} scenes, {len(self.parts)} parts, {self.worth.shape[1]} choices)"

    def __len__(self) -> int:
        return len(self.worth)

    @property
    def score(self) -> PerImage:
        """Of the whole scenes."""
        return self.worth[:, -1]

    @cached_property
    def seen(self) -> Bool[Tensor, "n p"]:
        """Which parts show at least four pixels."""
        return visible(self.masks)

    @cached_property
    def gains(self) -> Float[Tensor, "n p m"]:
        """What each part adds to the score in every choice of the others, all of them last."""
        sets = torch.arange(self.worth.shape[1])
        others = [sets[(sets >> part & 1) == 0] for part in range(len(self.parts))]
        return torch.stack([self.worth[:, c | 1 << part] - self.worth[:, c] for part, c in enumerate(others)], 1)

    @cached_property
    def effect(self) -> Float[Tensor, "n p"]:
        """The fall of the score when one part is not drawn; not-a-number where it cannot be seen anyway.

        D_p = v(all) - v(all without p)
        """
        return torch.where(self.seen, self.gains[:, :, -1], torch.nan)

    @cached_property
    def shapley(self) -> Float[Tensor, "n p"]:
        """Shapley value of each part; they sum to the score less that of the scene without any part."""
        return shapley_values(self.worth).to(self.worth.dtype)

    @cached_property
    def banzhaf(self) -> Float[Tensor, "n p"]:
        """Banzhaf value of each part: its mean effect over all choices of the others."""
        return self.gains.mean(2)

    @cached_property
    def relevant(self) -> Bool[Tensor, "n h w"]:
        """The pixels of the parts that matter: their effect is at least a tenth of the scene's largest."""
        return that_matter(self.effect, self.masks, self.worth.abs().amax(1))

    @cached_property
    def idle(self) -> Bool[Tensor, "n p"]:
        """Seen parts that no choice of the others makes matter: every effect is under a hundredth of the largest.

        All of them are where the score moves by no more than rounding.
        """
        most = self.gains.abs().amax(2)
        least = (IDLE * most.amax(1)).clamp(min=ROUNDING * self.worth.abs().amax(1))[:, None]
        return self.seen & ((most < least) | (most == 0))

    @cached_property
    def smallest(self) -> Bool[Tensor, "n s"]:
        """The choices that keep the model's answer whatever else is gone, and can spare no part."""
        sets, within, less = torch.arange(self.kept.shape[1]), self.kept.clone(), torch.zeros_like(self.kept)
        with_part = [sets[(sets >> part & 1) == 1] for part in range(len(self.parts))]
        for part, those in enumerate(with_part):  # whether the choice, or one within it, keeps the answer
            within[:, those] |= within[:, those ^ 1 << part]
        for part, those in enumerate(with_part):
            less[:, those] |= within[:, those ^ 1 << part]
        return self.kept & ~less

    def sufficient(self, image: int) -> tuple[tuple[int, ...], ...]:
        """The parts of each of the `smallest` choices of one scene, the fewest first."""
        numbers = sorted(self.smallest[image].nonzero()[:, 0].tolist(), key=int.bit_count)
        return tuple(tuple(p for p in range(len(self.parts)) if number >> p & 1) for number in numbers)

    def choice(self, chosen: Bool[Tensor, "n p"]) -> Int[Tensor, " n"]:
        """The number of a choice of parts in each scene."""
        return (chosen.long() << torch.arange(len(self.parts), device=chosen.device)).sum(1)


def visible(masks: Bool[Tensor, "n p h w"]) -> Bool[Tensor, "n p"]:
    """Which parts show at least four pixels."""
    return masks.flatten(2).sum(2) >= LEAST_PIXELS


def that_matter(effect: Float[Tensor, "n p"], masks: Bool[Tensor, "n p h w"], size: PerImage) -> Bool[Tensor, "n h w"]:
    """The pixels of the parts whose effect is at least a tenth of the scene's largest.

    Args:
        size: of the scene's scores; what is lost in their rounding does not matter.
    """
    known = effect.nan_to_num()
    least = (SHARE * known.amax(1)).clamp(min=ROUNDING * size)
    return (masks & ((known >= least[:, None]) & (known > 0))[:, :, None, None]).any(1)


def answers_to(network: nn.Module, images: Images, chunk: int) -> Float[Tensor, "n k"]:
    """Class scores of many images, some at a time."""
    return torch.cat([found for _, found in in_chunks(lambda r: logits(network(images[r])), len(images), chunk)])


def still_first(
    scores: Float[Tensor, "n k"], classes: Int[Tensor, " n"], whole: Float[Tensor, "n k"]
) -> Bool[Tensor, " n"]:
    """Whether a class is first, tied with no more others than the first of the whole scene.

    An empty scene, for which a glass model says 0 to every class, thus keeps no answer, whatever the class's number.
    """
    first, rivals = scores == scores.amax(1, keepdim=True), (whole == whole.amax(1, keepdim=True)).sum(1)
    return first.gather(1, classes[:, None])[:, 0] & (first.sum(1) <= rivals)


def play(
    model: Model,
    scenes: Scenes,
    parts: Sequence[str],
    target: int | Sequence[int] | None = None,
    *,
    score: Reading = "logit",
    chunk: int = 64,
) -> PartGame:
    """Ask the model about every scene with every choice of some parts: 2^p renderings of each.

    The full game of the interventions of Hesse, Schaub-Meyer and Roth, "FunnyBirds", ICCV 2023.

    Args:
        parts: at most ten; all others stay.
        target: None takes each scene's first class.
        chunk: images per forward pass.
    """
    if not 1 <= len(parts) <= MOST_PLAYERS:
        raise BadInput(f"{len(parts)} parts make {2 ** len(parts)} renderings.", f"Take 1…{MOST_PLAYERS} parts.")
    if len(set(parts)) < len(parts):
        raise BadInput(f"a part is named twice in {', '.join(parts)}.", "Name each once.")
    masks, bare = scenes.masks[:, [scenes.part(name) for name in parts]], replace(scenes, with_labels=False)
    images, every = model.preprocess.normalise(scenes.images), 2 ** len(parts) - 1
    with borrow(model, images) as network, torch.no_grad():
        whole = answers_to(network, images, chunk)
        classes = resolve(target, whole)
        worth = torch.empty(len(images), every + 1, dtype=whole.dtype, device=whole.device)
        kept = torch.empty(len(images), every + 1, dtype=torch.bool, device=whole.device)
        for number in steps(every + 1):
            gone = [name for place, name in enumerate(parts) if not number >> place & 1]
            shown = bare.do(remove=gone).images if gone else None
            output = whole if shown is None else answers_to(network, model.preprocess.normalise(shown), chunk)
            worth[:, number], kept[:, number] = select(output, classes, score), still_first(output, classes, whole)
    return PartGame(worth, kept, masks, tuple(parts), tuple(classes.tolist()), images)


def glass_game(glass: Glass, images: Images, target: int | Sequence[int] | None = None) -> PartGame:
    """The game of a glass model's regions, by its formula: no pass of the network is needed.

    Regions that are left out are black, which stands for nothing at all in these models.
    """
    truth = glass.truth
    count = len(truth.region_names)
    if count > MOST_PLAYERS:
        raise BadInput(f"{count} regions make {2**count} choices.", f"Take a model with at most {MOST_PLAYERS}.")
    whole = truth.scores(images)
    classes = resolve(target, whole)
    worth, kept = list[Tensor](), list[Tensor]()
    for number in range(2**count):
        chosen = torch.tensor([bool(number >> p & 1) for p in range(count)]).expand(len(images), count)
        scores = truth.worth(images, chosen.to(images.device))
        worth.append(scores.gather(1, classes[:, None])[:, 0])
        kept.append(still_first(scores, classes, whole))
    regions = truth.regions(images)
    return PartGame(
        torch.stack(worth, 1), torch.stack(kept, 1), regions, truth.region_names, tuple(classes.tolist()), images
    )
