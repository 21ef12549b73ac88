"""Studies with people: which questions to ask, in which order, and the answers, which are kept apart from them."""

import hashlib
import json
import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from glasshouse.core import BadInput, Explanation, Images, Noun, generator
from glasshouse.core.files import written
from glasshouse.evaluate.human.drafting import OPTIONS, Kind, agreement_drafts, bias_drafts, distinction_drafts


@dataclass(frozen=True, repr=False)
class Trial(Noun):
    """One question, without its answer.

    Args:
        name: drawn at random; says nothing of what is asked.
        images: which of the study's images are shown, one per map.
        maps: which of the study's maps.
        label: the class that the participant is told, or empty.
    """

    name: str
    images: tuple[int, ...]
    maps: tuple[int, ...]
    label: str = ""

    def __repr__(self) -> str:
        return f"Trial({self.name}: {len(self.maps)} map{'s' if len(self.maps) > 1 else ''})"


@dataclass(frozen=True, repr=False)
class AnswerKey(Noun):
    """The right answers of a study, to be kept from its participants.

    Args:
        answers: of each trial: "right" or "wrong" of a prediction, the letter of a map, "biased" or "clean".
        about: of each trial, what its answer rests on: numbers of images and explanations, classes.
    """

    study: str
    kind: Kind
    answers: dict[str, str]
    about: dict[str, dict[str, Any]] = field(default_factory=dict[str, dict[str, Any]])
    settings: dict[str, Any] = field(default_factory=dict[str, Any])

    def __repr__(self) -> str:
        return f"AnswerKey({self.kind} {self.study}, {len(self.answers)} trials)"

    def write(self, path: str | os.PathLike[str]) -> Path:
        """Write as JSON, which people can read."""
        path = Path(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        with written(path) as file:
            file.write((json.dumps({"format": 1, **self.to_dict()}, indent=1) + "\n").encode())
        return path

    @classmethod
    def read(cls, path: str | os.PathLike[str]) -> "AnswerKey":
        """Read what `write` wrote."""
        try:
            found = json.loads(Path(path).read_text(encoding="utf-8"))
            key = cls(found["study"], found["kind"], dict(found["answers"]), dict(found["about"]), found["settings"])
        except (OSError, ValueError, LookupError, TypeError) as error:
            raise BadInput(
                f"'{path}' is no answer key: {error}.", "Pass the file that AnswerKey.write made."
            ) from error
        allowed = possible(key.kind)
        if not allowed or not set(key.answers.values()) <= set(allowed):
            raise BadInput(f"'{path}' is no answer key: kind '{key.kind}' with other answers than {allowed}.")
        return key


@dataclass(frozen=True, repr=False)
class HumanStudy(Noun):
    """Questions for people about explanations, in the order in which they are asked.

    `report.study_form(study)` makes the page that participants get; `key` is what they must not get. A file made by
    `save` holds both.

    Args:
        name: drawn from the content; the page and the answers that come back carry it.
        pixels: all images, in 0…1.
        maps: all maps, which the trials pick from.
    """

    kind: Kind
    name: str
    pixels: Images
    maps: Float[Tensor, "m h w"]
    trials: tuple[Trial, ...]
    key: AnswerKey

    def __repr__(self) -> str:
        n, maps = len(self.trials), len(self.trials[0].maps)
        return f"HumanStudy({self.kind} {self.name}, {n} trials of {maps} map{'s' if maps > 1 else ''})"


def possible(kind: str) -> tuple[str, ...]:
    """What a key may hold for a trial of this kind; empty for an unknown kind."""
    return {"agreement": ("right", "wrong"), "distinction": OPTIONS["distinction"], "bias": OPTIONS["bias"]}.get(
        kind, ()
    )


def human_study(
    kind: Kind,
    pixels: Images,
    explanations: Explanation | Sequence[Explanation],
    *,
    truth: Sequence[int] | Sequence[bool] | Tensor | None = None,
    class_names: Sequence[str] | None = None,
    n_trials: int | None = None,
    n_maps: int = 6,
    seed: int = 0,
) -> HumanStudy:
    """Questions that show whether explanations help people: shuffled, balanced, with names that give nothing away.

    - "agreement": a prediction with its explanation; is it right? (1-4). As many right ones as wrong ones, so that
      chance is 50 %.
    - "distinction": four maps of one image, for the predicted class and for three others; which is of the prediction?
      It stands at each of the four places equally often. Chance 25 %.
    - "bias": several maps of one model; has it learnt the bias? Each set of images is shown once with maps of a biased
      and once with maps of a clean model, so that the images decide nothing. Chance 50 %.

    Kim et al., "HIVE", ECCV 2022, for the first two. Differs: the wording is ours, and distinction asks for the
    prediction, whether it is right or wrong. The order follows from `seed`: take one that participants do not know.

    Args:
        pixels: the images as people see them, in 0…1.
        explanations: "agreement": of the predicted classes. "distinction": four, of the predicted classes first and
            then of three other classes per image. "bias": of the same images by each of several models.
        truth: "agreement": the right class of each image. "bias": of each explanation, whether its model is biased.
        class_names: to tell the predicted class on agreement forms; None hides it, so that only the map can help.
        n_trials: None takes as many as balance allows; even for "agreement" and "bias".
        n_maps: maps in a trial of "bias".
    """
    given = [explanations] if isinstance(explanations, Explanation) else list(explanations)
    check(kind, pixels, given, truth)
    if n_trials is not None and n_trials < 1:
        raise BadInput(f"n_trials {n_trials} is not at least 1.")
    facts = [] if truth is None else [int(fact) for fact in torch.as_tensor(truth).tolist()]
    draws = generator(seed)
    if kind == "agreement":
        drafts = agreement_drafts(given[0], facts, class_names, n_trials, draws)
    elif kind == "distinction":
        drafts = distinction_drafts(given, n_trials, draws)
    else:
        drafts = bias_drafts(given, facts, n_trials, n_maps, draws)
    drafts = [drafts[place] for place in torch.randperm(len(drafts), generator=draws).tolist()]
    maps = torch.cat([e.heatmap.detach().cpu().float() for e in given])
    pixels = pixels.detach().cpu().float()
    name = "s" + digest(kind, str(seed), *(t.contiguous().numpy().tobytes() for t in (pixels, maps)), repr(drafts))
    names = trial_names(name, len(drafts), draws)
    trials = tuple(Trial(t, d.images, d.maps, d.label) for t, d in zip(names, drafts, strict=True))
    key = AnswerKey(
        name,
        kind,
        {t: d.answer for t, d in zip(names, drafts, strict=True)},
        {t: d.about for t, d in zip(names, drafts, strict=True)},
        {"seed": seed, "methods": [e.method for e in given], "n_trials": len(drafts)},
    )
    return HumanStudy(kind, name, pixels, maps, trials, key)


def check(
    kind: str, pixels: Images, given: Sequence[Explanation], truth: Sequence[int] | Sequence[bool] | Tensor | None
) -> None:
    """Raise where no study of this kind can be made of these things."""
    if kind not in OPTIONS:
        raise BadInput(f"kind '{kind}' is unknown.", f"Use one of {', '.join(map(repr, OPTIONS))}.")
    wanted = {"agreement": len(given) == 1, "distinction": len(given) == 4, "bias": len(given) >= 2}
    if not wanted[kind]:
        hint = {
            "agreement": "one explanation",
            "distinction": "four, the predicted class's first",
            "bias": "two or more",
        }
        raise BadInput(f"'{kind}' got {len(given)} explanations.", f"Pass {hint[kind]}.")
    if not len(pixels) or not (pixels.min() >= 0 and pixels.max() <= 1):
        raise BadInput("the images are not pixels in 0…1.", "Use model.preprocess.pixels(images).")
    if pixels.shape[1] not in (1, 3):
        raise BadInput(f"the images have {pixels.shape[1]} channels; people can be shown 1 or 3.")
    for e in given:
        if len(e) != len(pixels) or e.heatmap.shape[-2:] != pixels.shape[-2:]:
            seen, images = tuple(e.heatmap.shape), tuple(pixels.shape)
            raise BadInput(f"the maps {seen} are not of these images {images}.", "Pass the images that were explained.")
        if not e.heatmap.isfinite().all():
            bad = (~e.heatmap.flatten(1).isfinite().all(1)).nonzero()[:4, 0].tolist()
            raise BadInput(f"maps {bad} of '{e.method}' hold values that are no numbers.", "Leave those images out.")
        if kind != "bias" and len(e.target) != len(pixels):
            raise BadInput(
                f"an explanation of '{e.method}' has no class for each image.", "Explain with target=classes."
            )
    wanted_facts = {"agreement": len(pixels), "distinction": 0, "bias": len(given)}[kind]
    if (0 if truth is None else len(truth)) != wanted_facts:
        seen = "no truth" if truth is None else f"{len(truth)} entries of truth"
        meant = {"agreement": "the right class of each image", "distinction": "none", "bias": "a bool per explanation"}
        raise BadInput(f"'{kind}' got {seen} where {wanted_facts} are needed.", f"It is {meant[kind]}.")


def digest(*parts: str | bytes) -> str:
    """Eight letters and figures that stand for a content."""
    found = hashlib.blake2b(digest_size=4)
    for part in parts:
        found.update(part.encode() if isinstance(part, str) else part)
    return found.hexdigest()


def trial_names(study: str, count: int, draws: torch.Generator) -> list[str]:
    """Distinct names, which belong to this study alone, and which no spreadsheet takes for numbers."""
    names = dict[str, None]()
    while len(names) < count:
        names["t" + digest(study, str(int(torch.randint(2**62, (1,), generator=draws))))] = None
    return list(names)
