"""What single parts are worth to a model: as many as a scene has, asked one at a time."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from glasshouse.core import BadInput, Images, Model, Noun, PerImage, Reading, borrow, select, steps
from glasshouse.core.target import resolve
from glasshouse.data import Scenes
from glasshouse.data.glass import Glass
from glasshouse.evaluate.truth.games import PartGame, answers_to, glass_game, that_matter, visible

CANVAS = ("sky", "ground")
ELSEWHERE = 7  # the seed of the backgrounds that scenes are moved to


@dataclass(frozen=True, repr=False)
class Effects(Noun):
    """What each part of each scene is worth to a model.

    Args:
        effect: the fall of the score when a part is not drawn; not-a-number where it cannot be seen anyway.
        masks: where each part is seen.
        relevant: the pixels of the parts that matter: their effect is at least a tenth of the scene's largest.
        parts: their names.
        target: the class that was asked about.
        images: the scenes as the model gets them.
        score: of the untouched scenes.
    """

    effect: Float[Tensor, "n p"]
    masks: Bool[Tensor, "n p h w"]
    relevant: Bool[Tensor, "n h w"]
    parts: tuple[str, ...]
    target: tuple[int, ...]
    images: Images
    score: PerImage

    def __repr__(self) -> str:
        return f"Effects({len(self.effect)} scenes, {len(self.parts)} parts)"

    @staticmethod
    def of(game: PartGame) -> "Effects":
        """The single effects of a whole game."""
        return Effects(game.effect, game.masks, game.relevant, game.parts, game.target, game.images, game.score)


@dataclass(frozen=True)
class Responses:
    """A model's answers about scenes, whole and without each part.

    Args:
        whole: class scores of the scenes, `n k`.
        without: class scores without each part, `n p k`.
    """

    whole: Float[Tensor, "n k"]
    without: Float[Tensor, "n p k"]
    masks: Bool[Tensor, "n p h w"]
    parts: tuple[str, ...]
    images: Images

    def effects(self, target: int | Sequence[int] | None = None, score: Reading = "logit") -> Effects:
        """What each part is worth for one class of each scene; None takes the first."""
        classes = resolve(target, self.whole)
        clean = select(self.whole, classes, score)
        rest = torch.stack([select(self.without[:, part], classes, score) for part in range(len(self.parts))], 1)
        effect = torch.where(visible(self.masks), clean[:, None] - rest, torch.nan)
        relevant = that_matter(effect, self.masks, torch.maximum(clean.abs(), rest.abs().amax(1)))
        return Effects(effect, self.masks, relevant, self.parts, tuple(classes.tolist()), self.images, clean)


def part_responses(model: Model, scenes: Scenes, parts: Sequence[str] | None = None, chunk: int = 64) -> Responses:
    """Ask the model about every scene without each of its parts, drawn again.

    Args:
        parts: which to remove; None takes everything that stands in front of sky and ground.
        chunk: images per forward pass.
    """
    names = [name for name in scenes.part_names if name not in CANVAS] if parts is None else list(parts)
    if not names:
        raise BadInput("no part was named.", f"Scenes of '{scenes.preset}' have {', '.join(scenes.part_names)}.")
    images, bare = model.preprocess.normalise(scenes.images), replace(scenes, with_labels=False)
    with borrow(model, images) as network, torch.no_grad():
        whole = answers_to(network, images, chunk)
        shown = (model.preprocess.normalise(bare.do(remove=names[p]).images) for p in steps(len(names)))
        without = [answers_to(network, each, chunk) for each in shown]
    return Responses(
        whole, torch.stack(without, 1), scenes.masks[:, [scenes.part(n) for n in names]], tuple(names), images
    )


def part_effects(
    model: Model,
    scenes: Scenes,
    target: int | Sequence[int] | None = None,
    *,
    parts: Sequence[str] | None = None,
    score: Reading = "logit",
    chunk: int = 64,
) -> Effects:
    """Ask the model about every scene without each of its parts.

        D_p = y(x) - y(do(remove p))

    Hesse, Schaub-Meyer and Roth, "FunnyBirds", ICCV 2023, use the same interventions on rendered birds.

    Args:
        parts: which to remove; None takes everything that stands in front of sky and ground.
        chunk: images per forward pass.
    """
    return part_responses(model, scenes, parts, chunk).effects(target, score)


def effects_elsewhere(
    model: Model,
    scenes: Scenes,
    effects: Effects,
    *,
    background: str | int = ELSEWHERE,
    score: Reading = "logit",
    chunk: int = 64,
) -> Effects:
    """What the same parts are worth to the same classes where the surroundings, which should not matter, are others.

    Whether they do is seen in the effects: `steady` leaves out the scenes where they moved. For a glass model all that
    is in no region turns black, which leaves its scores as they are.

    Args:
        scenes, effects: as they were, and what `part_effects` said of them.
        background: as `Scenes.do` takes it.
    """
    target = list(effects.target)
    if isinstance(model, Glass):
        bare = effects.images * model.truth.pixels(effects.images)[:, None]
        return Effects.of(glass_game(model, bare, target))
    moved = scenes.do(background=background)
    return part_effects(model, moved, target, parts=effects.parts, score=score, chunk=chunk)
