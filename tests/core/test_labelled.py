"""Labels: where each concept of a batch is, which labels are meant, and label maps in other sizes."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from glasshouse.core.errors import BadInput, NotFound
from glasshouse.core.labelled import (
    Label,
    Labelled,
    completed,
    concept_masks,
    find_labels,
    last_number,
    resize_labels,
)

LABELS = (Label(2, "sky", "object"), Label(5, "wood", "material"), Label(9, "sky", "part"))


@given(st.tuples(*[st.integers(1, 9)] * 4))
def test_resizing_takes_the_label_at_each_pixels_centre(sides: tuple[int, int, int, int]):
    h, w, i, j = sides
    planes = torch.arange(2 * h * w).view(2, h, w)
    seen = resize_labels(planes, (i, j))
    rows, columns = (np.floor((np.arange(n) + 0.5) * m / n).astype(int) for n, m in ((i, h), (j, w)))
    assert np.array_equal(seen.numpy(), planes.numpy()[:, rows][:, :, columns])


def test_labels_are_found_by_name_or_number_in_the_order_asked_for():
    assert find_labels(LABELS, None) == LABELS
    assert find_labels(LABELS, ["wood", 9, "sky"]) == (LABELS[1], LABELS[2], LABELS[0])
    for wanted, said in (("wod", "no concept 'wod'.*'wood'"), (3, "no concept '3'")):
        with pytest.raises(NotFound, match=said):
            find_labels(LABELS, [wanted])


def test_masks_of_concepts_equal_a_loop():
    source = torch.Generator().manual_seed(0)
    planes = torch.randint(0, 6, (4, 3, 5, 7), generator=source)
    whole = torch.tensor([[2, 0], [0, 0], [9, 5], [5, 5]])
    numbers = [9, 2, 5, 40]
    seen = concept_masks(planes, whole, numbers)
    for row in range(4):
        for place, number in enumerate(numbers):
            for y in range(5):
                for x in range(7):
                    carried = [*planes[row, :, y, x].tolist(), *whole[row].tolist()]
                    assert bool(seen[row, place, y, x]) == (number in carried)


def test_no_planes_and_no_labels_are_no_masks():
    planes, whole = torch.zeros(2, 0, 3, 3, dtype=torch.int32), torch.tensor([[1], [0]])
    assert concept_masks(planes, whole, [1]).flatten(1).any(1).tolist() == [True, False]
    assert concept_masks(planes, whole, []).shape == (2, 0, 3, 3)


def test_batches_are_completed_where_the_data_set_does_that_and_refused_without_label_maps():
    class Late:
        def complete(self, batch: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
            return {**batch, "planes": batch["image"][:, :1].long()}

    images = torch.ones(2, 3, 4, 4)
    assert completed(Late(), {"image": images})["planes"].shape == (2, 1, 4, 4)
    for batch in (images, {"image": images}):
        with pytest.raises(BadInput, match="have no label maps"):
            completed(images, batch)


def test_tables_reach_to_the_largest_number():
    class Three:
        categories, labels = ("object", "material", "part"), LABELS

        def __len__(self) -> int:
            return 1

        def __getitem__(self, index: int, /) -> dict[str, torch.Tensor]:
            return {}

    assert isinstance(Three(), Labelled)
    assert last_number(Three()) == 9
