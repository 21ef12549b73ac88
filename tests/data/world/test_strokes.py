"""Sheets of strokes: how values, slots, owners and light are kept."""

import torch

from glasshouse.data.world.colours import COLOURS, rgb
from glasshouse.data.world.strokes import SHAPES, Sheet


def sheet() -> Sheet:
    made = Sheet(3, ("-", "hat", "coat"), ("-", "person", "dog"))
    made.add("ellipse", 0.5, 0.5, 0.1, 0.1, rgb(0.0, 0.0, 0.0), soft=0.1, owner="coat", object="person")
    made.add("box", torch.tensor([0.1, 0.2, 0.3]), 0.5, 0.1, 0.2, rgb(1.0, 1.0, 1.0), part="coat", object="person")
    made.add("star", 0.5, 0.5, 0.1, 0.1, rgb(1.0, 1.0, 1.0), part="hat", slot="hat_2", object=torch.tensor([1, 2, 1]),
             material="light", present=torch.tensor([True, False, True]))  # fmt: skip
    return made


def test_values_are_one_for_all_images_or_one_each_and_absent_shapes_are_minus_one():
    strokes = sheet().strokes()
    assert strokes.shape.tolist() == [[0, 1, 7], [0, 1, -1], [0, 1, 7]]
    torch.testing.assert_close(strokes.place[:, 1, 0], torch.tensor([0.1, 0.2, 0.3]))
    assert strokes.object.tolist() == [[1, 1, 1], [1, 1, 2], [1, 1, 1]]


def test_strokes_without_a_part_have_no_slot_and_come_and_go_with_their_owner():
    strokes = sheet().strokes()
    assert strokes.slot == (-1, 0, 1)
    assert strokes.parts == ("coat", "hat_2")
    assert strokes.owner == ("coat", "coat", "hat_2")


def test_coloured_light_falls_on_all_that_does_not_shine_and_changes_no_colour_name():
    tint = torch.tensor([[0.5, 0.5, 1.0]]).expand(3, 3)
    white, blue = sheet().strokes(), sheet().strokes(tint)
    torch.testing.assert_close(blue.paint[:, :2], white.paint[:, :2] * tint[:, None, None])
    assert torch.equal(blue.paint[:, 2], white.paint[:, 2])
    assert torch.equal(blue.colour, white.colour)
    assert [COLOURS[i] for i in blue.colour[0, :, 0].tolist()] == ["black", "white", "white"]


def test_without_takes_a_slot_a_part_or_an_object_where_asked():
    strokes = sheet().strokes()
    everywhere = torch.ones(3, dtype=torch.bool)

    def left(name: str, where: torch.Tensor) -> list[list[bool]]:
        return (strokes.without(name, where, ("-", "hat", "coat"), ("-", "person", "dog")).shape >= 0).tolist()

    assert left("coat", everywhere) == [[False, False, True], [False, False, False], [False, False, True]]
    assert left("hat", everywhere) == left("hat_2", everywhere) == [[True, True, False]] * 3
    assert left("person", everywhere) == [[False] * 3] * 3
    first = torch.tensor([True, False, False])
    assert left("person", first) == [[False] * 3, [True, True, False], [True, True, True]]


def test_rows_are_the_same_strokes_of_some_images():
    strokes = sheet().strokes()
    some = strokes.rows(1, 3)
    assert len(some) == 2
    assert torch.equal(some.place, strokes.place[1:])
    assert some.slot == strokes.slot
    assert len(SHAPES) == 9
