"""Asks a model about perturbed images: each distinct question once, in chunks, for several metrics together.

A metric is a plan, the questions it needs answered, and a reduction of the answers to a score. A question
names which parts of an image stay and what replaces the others; pixels are made from it only for the chunk
that is being run, so memory does not grow with the number of questions. Answers are kept, so that metrics and
explanations share them: the clean image, the empty one, and random masks, which do not depend on any
explanation.
"""

from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any, TypeVar, get_args

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from glasshouse.core import Aim, BadInput, Images, Model, Progress, Reading, Target, borrow, in_chunks, watching
from glasshouse.core.lift import checked_images, module_of
from glasshouse.core.mask import blend
from glasshouse.core.target import logits
from glasshouse.evaluate.baselines import Baseline, depends_on_mask, imputed, substrate
from glasshouse.evaluate.questions import CLEAN, Asked, Changed, Question, Ranked, features_key, kept, parts_of

T = TypeVar("T")
READINGS: tuple[Reading, ...] = get_args(Reading)
LIGHT = 2**20
"""Weights of a network that stay in a processor's caches between passes."""


_found: ContextVar[dict[Any, Any] | None] = ContextVar("found", default=None)


@contextmanager
def sharing() -> Generator[None]:
    """Inside, what several metrics would find out in the same way is found out `once`."""
    token = _found.set({})
    try:
        yield
    finally:
        _found.reset(token)


def once(key: tuple[Any, ...], find: Callable[[], T]) -> tuple[T, bool]:
    """What `find` gives, and whether it was run for it. Outside `sharing` it always is."""
    found = _found.get()
    if found is None:
        return find(), True
    fresh = key not in found
    if fresh:
        found[key] = find()
    return found[key], fresh


class Gathered(Exception):
    """Questions were noted instead of asked: whoever wanted the answers has to come again."""


@dataclass(eq=False)
class Answers:
    """What a model said about some images and a target, and every question asked of it so far.

    Hand the same object to several metrics, or to the cards of several explanations of the same images and
    target: what one has asked costs the next nothing.

    Args:
        target: what the explanations explain.
        chunk: perturbed images per forward pass; None takes 16 large ones or more small ones, and any number gives
            the same result. Halved where memory runs out.
        progress: called with (done, total) in perturbed images; None leaves it to `core.watching`.
        n_forward: forward passes spent so far, counted in single images; `charged` is what scores have declared.
    """

    model: Model | nn.Module
    images: Images
    target: Target = None
    chunk: int | None = None
    progress: Progress | None = None
    n_forward: int = 0
    top: Int[Tensor, "n t"] | None = field(default=None, repr=False)
    table: dict[tuple[Any, ...], Float[Tensor, "4 n"]] = field(default_factory=dict, repr=False)
    charged: set[tuple[Any, ...]] = field(default_factory=set, repr=False)
    noted: list[Asked] | None = field(default=None, repr=False)

    def __post_init__(self):
        self.images = checked_images(self.images).detach().clone()
        self.aim = Aim.of(self.target)
        if self.chunk is None:
            self.chunk = chunk_of(self.images, module_of(self.model))
        if self.chunk < 1:
            raise BadInput(f"chunk {self.chunk} is not at least 1.")

    def ask(self, questions: Sequence[Asked]) -> int:
        """Find out what is not known yet; returns the forward passes spent."""
        before, distinct = self.n_forward, {part.key: part for question in questions for part in parts_of(question)}
        fresh = [question for key, question in distinct.items() if key not in self.table and key != CLEAN.key]
        if self.noted is not None and fresh:
            self.noted += fresh
            raise Gathered
        if fresh or CLEAN.key not in self.table:
            with borrow(self.model, self.images) as network, torch.no_grad(), watching_if(self.progress):
                if CLEAN.key not in self.table:
                    self._run_clean(network)
                if fresh:
                    self._run(network, fresh)
        return self.n_forward - before

    def read(self, questions: Sequence[Asked], score: Reading) -> Float[Tensor, "n r"]:
        """The target's score under each question, in float64, the mean over donors; asks what is not known yet."""
        self.ask(questions)
        which = READINGS.index(score)
        answers = [[self.table[part.key][which] for part in parts_of(question)] for question in questions]
        return torch.stack([torch.stack(each).mean(0) if len(each) > 1 else each[0] for each in answers], 1)

    def charge(self, questions: Sequence[Asked]) -> int:
        """What these questions and the clean image cost, in forward passes, less what was charged before."""
        new = {part.key for question in (CLEAN, *questions) for part in parts_of(question)} - self.charged
        self.charged |= new
        return len(new) * len(self.images)

    @contextmanager
    def listening(self) -> Generator[list[Asked]]:
        """Inside, new questions are noted instead of asked, and `Gathered` is raised, which ends here."""
        self.ask([CLEAN])
        self.noted = []
        try:
            yield self.noted
        except Gathered:
            pass
        finally:
            self.noted = None

    def _run_clean(self, network: nn.Module) -> None:
        assert self.chunk is not None
        outputs = list[Tensor]()
        for rows, part in in_chunks(lambda rows: logits(network(self.images[rows])), len(self.images), self.chunk):
            outputs.append(part)
            self.n_forward += len(rows)
        output = torch.cat(outputs)
        self.table[CLEAN.key] = readings(self.aim, output)
        if output.ndim == 2:
            self.top = output.topk(min(2, output.shape[1]), dim=1).indices

    def _run(self, network: nn.Module, fresh: list[Asked]) -> None:
        assert self.chunk is not None
        n, count, device = len(self.images), len(fresh), self.images.device
        values = torch.empty(len(READINGS), n * count, dtype=torch.float64, device=device)
        shown = drawing(self.images, fresh, self.model)

        def run(rows: Int[Tensor, " r"]) -> Float[Tensor, "4 r"]:
            image, which = rows // count, rows % count
            return readings(self.aim.rows(image), network(shown(image.to(device), which)))

        for rows, found in in_chunks(run, n * count, self.chunk):
            values[:, rows.to(device)] = found
            self.n_forward += len(rows)
        for index, question in enumerate(fresh):
            self.table[question.key] = values.view(len(READINGS), n, count)[:, :, index].clone()


def chunk_of(images: Images, network: nn.Module) -> int:
    """Images per forward pass: no fewer than 16; more than fill the caches only slow a processor down.

    Weights that do not fit there are read again in every pass, and are worth more images.
    """
    light = sum(weight.numel() for weight in network.parameters()) <= LIGHT
    room = 2**24 if images.is_cuda else 2**17 if light else 2**20
    return min(256, max(16, room // images[0].numel()))


@contextmanager
def watching_if(progress: Progress | None) -> Generator[None]:
    """Somebody's own listener, or whoever listens already."""
    if progress is None:
        yield
    else:
        with watching(progress):
            yield


def readings(aim: Aim, output: Any) -> Float[Tensor, "4 n"]:
    """The score as logit, probability, log-probability and margin."""
    return torch.stack([aim.read(output, score).double() for score in READINGS])


def drawing(
    images: Images, questions: Sequence[Asked], model: Model | nn.Module | None = None
) -> Callable[[Int[Tensor, " m"], Int[Tensor, " m"]], Float[Tensor, "m c h w"]]:
    """A function of rows: row r is image `image[r]` as question `which[r]` wants it. Rows come in order of images."""
    kinds, behind = [group_of(question) for question in questions], dict[Any, tuple[int, Tensor]]()

    def replacing(baseline: Baseline, name: Any, image: Int[Tensor, " m"]) -> Tensor:
        """What to fill in, kept until the rows have moved on to other images; a number as it is."""
        if isinstance(baseline, (int, float)):
            return images.new_tensor(baseline)
        first, last = int(image[0]), int(image[-1]) + 1
        start, filled = behind.get(name, (0, images[:0]))
        if not start <= first < last <= start + len(filled):
            start, filled = first, substrate(images[first:last], baseline, torch.arange(first, last), model)
            behind[name] = start, filled
        return filled[first - start][None] if last == first + 1 else filled[image - start]

    def draw(asked: list[Asked], name: Any, image: Int[Tensor, " m"]) -> Images:
        if isinstance(asked[0], Changed):
            return asked[0].change(images[image], image)
        baseline = asked[0].baseline
        mask = kept([question.keep for question in asked if isinstance(question, Question)], image, size)
        if not depends_on_mask(baseline):
            alone = image[:1] if int(image[0]) == int(image[-1]) else image
            return blend(images[alone], mask, replacing(baseline, name, image))
        if mask.ndim != 3:
            raise BadInput(f"baseline '{baseline}' fills in whole pixels, not single channels.")
        return imputed(images[image], str(baseline), mask)

    def rows_of(image: Int[Tensor, " m"], which: Int[Tensor, " m"]) -> Float[Tensor, "m c h w"]:
        groups = dict[tuple[Any, ...], list[int]]()
        for row, index in enumerate(which.tolist()):
            groups.setdefault(kinds[index], []).append(row)
        result = images.new_empty(len(image), *images.shape[1:])
        for kind, rows in groups.items():
            drawn = draw([questions[index] for index in which[rows].tolist()], kind[-1], image[rows])
            if len(groups) == 1:
                return drawn
            result[rows] = drawn
        return result

    size = (images.shape[-2], images.shape[-1])
    return rows_of


def group_of(question: Asked) -> tuple[Any, ...]:
    """Questions that are made together: of the same features, order and baseline."""
    if isinstance(question, Changed):
        return question.key
    keep = question.keep
    if isinstance(keep, Ranked):
        return features_key(keep.order.grid), keep.order.name, question.key[-1]
    return features_key(keep.grid), "", question.key[-1]
