"""What the network answers when only some regions of an image are shown: the samples of LIME and of Shapley values."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeAlias

import torch
import torch.nn.functional as F
from einops import rearrange
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from glasshouse.attribute.answers import Classes, ask, wide
from glasshouse.attribute.baselines import Baselines, baseline_images
from glasshouse.core import Aim, Images, Reading, in_chunks
from glasshouse.core.superpixels import Labels, means

Coalitions: TypeAlias = Bool[Tensor, "s m"]
"""One row per sample, true for the regions of one image that it shows."""


@dataclass(frozen=True)
class Game:
    """Images cut into regions, and what is seen where a region is hidden."""

    images: Images
    labels: Labels
    cover: Images

    @property
    def players(self) -> list[int]:
        """How many regions each image has."""
        return [last + 1 for last in self.labels.flatten(1).amax(1).tolist()]

    def show(self, image: Int[Tensor, " r"], shown: Bool[Tensor, "r m"]) -> Images:
        """Copies of images by number, each with its own choice of regions."""
        visible = shown.gather(1, self.labels[image].flatten(1)).view(-1, 1, *self.images.shape[-2:])
        return torch.where(visible, self.images[image], self.cover[image])

    def paint(self, values: Sequence[Float[Tensor, "_ q"]]) -> Float[Tensor, "n q h w"]:
        """Every pixel gets the value of its region; one table of values per image."""
        tables = [value.T.to(self.images.device, wide(self.images)) for value in values]
        return torch.stack([table[:, labels] for table, labels in zip(tables, self.labels, strict=True)])


def game_of(images: Images, labels: Labels, baselines: Baselines | None) -> Game:
    """Regions hidden behind `baselines`, or behind their own mean colour where that is None."""
    cover = mean_colours(images, labels) if baselines is None else baseline_images(baselines, images)
    return Game(images, labels, cover)


def mean_colours(images: Images, labels: Labels) -> Images:
    """Each region filled with its mean colour."""
    filled: list[Tensor] = []
    for image, regions in zip(images.to(wide(images)), labels, strict=True):
        pixels = rearrange(image, "c h w -> (h w) c")
        colours = means(pixels, regions.flatten(), int(regions.max()) + 1)
        filled.append(rearrange(colours[regions], "h w c -> c h w"))
    return torch.stack(filled).to(images)


def play(
    model: nn.Module,
    game: Game,
    coalitions: Sequence[Bool[Tensor, "_ _"]],
    aim: Aim,
    score: Reading,
    classes: Classes,
    chunk: int,
) -> list[Float[Tensor, "_ q"]]:
    """For each image the answers to its coalitions, in double precision on the CPU."""
    device, lengths, most = game.images.device, [len(rows) for rows in coalitions], max(game.players)
    image_of = torch.arange(len(lengths)).repeat_interleave(torch.tensor(lengths)).to(device)
    shown = torch.cat([F.pad(rows, (0, most - rows.shape[1])) for rows in coalitions]).to(device)

    def run(part: Int[Tensor, " r"]) -> Float[Tensor, "r q"]:
        image = image_of[part]
        return ask(model, game.show(image, shown[part]), aim.rows(image), score, classes)

    answers = [found for _, found in in_chunks(run, len(shown), chunk, device)]
    return list(torch.cat(answers).cpu().double().split(lengths))
