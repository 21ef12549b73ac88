"""Measured receptive fields: kernels whose field is known, a loop over patches and pixels, and what is not run."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from glasshouse.core import BadInput, NotFound, find_method
from glasshouse.dissect import exemplars
from glasshouse.dissect.empirical import ReceptiveFields, receptive_fields

PHOTOS = torch.rand(12, 1, 20, 24, generator=torch.Generator().manual_seed(1))


def convolution(weight: Tensor) -> nn.Module:
    """One convolution without padding, then a class score."""
    conv = nn.Conv2d(1, len(weight), tuple(weight.shape[2:]), bias=False)
    with torch.no_grad():
        conv.weight.copy_(weight)
    return nn.Sequential(conv, nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten()).eval()


@pytest.fixture
def sparse() -> nn.Module:
    """A window of 7×7 of which only the inner 3×3 is read, and one that reads a single pixel, off the middle."""
    weight = torch.zeros(2, 1, 7, 7)
    weight[0, 0, 2:5, 2:5] = torch.tensor([[1.0, 2, 1], [2, 3, 2], [1, 2, 1]]) / 15
    weight[1, 0, 1, 4] = 1
    return convolution(weight)


def test_patches_of_one_pixel_give_the_weights_that_are_read(sparse):
    # |A(x) - A(x with pixel p black)| = |w_p| x_p, averaged over images of which all pixels are 1.
    seen = exemplars(sparse, torch.ones(5, 1, 20, 24), layer="0", k=5)
    fields = receptive_fields(sparse, torch.ones(5, 1, 20, 24), seen, sliding_window_shapes=1, strides=1, baselines=0.0)
    middle = fields.fields.shape[1] // 2, fields.fields.shape[2] // 2
    around = fields.fields[:, middle[0] - 3 : middle[0] + 4, middle[1] - 3 : middle[1] + 4]
    torch.testing.assert_close(around, sparse[0].weight.detach()[:, 0])
    assert fields.fields.sum() == pytest.approx(sparse[0].weight.sum().item())
    assert fields.area.tolist() == [5, 1]
    assert fields.window == (7, 7)


def test_what_is_read_counts_and_not_the_window(sparse):
    seen = exemplars(sparse, PHOTOS, layer="0", k=3)
    fine = receptive_fields(sparse, PHOTOS, seen, sliding_window_shapes=1, strides=1, level=0.01)
    assert fine.size.tolist() == [3, 1]
    coarse = receptive_fields(sparse, PHOTOS, seen, sliding_window_shapes=5, strides=1, level=1e-6)
    assert coarse.size.tolist() == [7, 5]  # 3 + 5 - 1 and 1 + 5 - 1, not 7
    half = receptive_fields(sparse, PHOTOS, seen, sliding_window_shapes=5, strides=1)
    assert 4 <= half.size[0] <= 6.5
    assert half.size[1] == 5


def test_a_layer_that_passes_pixels_on_sees_as_far_as_the_patch():
    net = convolution(torch.ones(1, 1, 1, 1))
    seen = exemplars(net, PHOTOS, layer="0", k=6)
    fields = receptive_fields(net, PHOTOS, seen, sliding_window_shapes=(3, 5), strides=1)
    assert fields.window == (1, 1)
    assert fields.area.tolist() == [15]
    middle = fields.fields.shape[1] // 2, fields.fields.shape[2] // 2
    on = (fields.fields[0] > 0).nonzero() - torch.tensor(middle)
    assert (on.amin(0).tolist(), on.amax(0).tolist()) == ([-1, -2], [1, 2])


def test_fields_stay_within_the_window_and_a_patch(cnn):
    photos = torch.randn(3, 3, 26, 30, generator=torch.Generator().manual_seed(3))
    for layer in ("1", "3"):
        seen = exemplars(cnn, photos, layer=layer, k=1)
        fields = receptive_fields(cnn, photos, seen, sliding_window_shapes=4, strides=1, level=1e-9)
        rows, cols = (fields.fields.amax(side) > 0 for side in ((0, 2), (0, 1)))
        assert int(rows.sum()) <= fields.window[0] + 4 - 1 + 1  # the middle may lie between two pixels
        assert int(cols.sum()) <= fields.window[1] + 4 - 1 + 1


def test_fields_are_the_mean_over_images_of_a_loop_over_patches(cnn):
    photos = torch.randn(9, 3, 16, 20, generator=torch.Generator().manual_seed(3))
    seen = exemplars(cnn, photos, layer="4", k=3, units=[1, 6])
    fields = receptive_fields(cnn, photos, seen, sliding_window_shapes=5, strides=1, baselines=0.25, chunk=7)
    height, width = fields.fields.shape[1:]
    with torch.no_grad():
        for row, unit in enumerate((1, 6)):
            total, count = torch.zeros(height, width), torch.zeros(height, width)
            for image, (i, j) in zip(seen.strongest.ids[row], seen.strongest.positions[row], strict=True):
                clean = cnn[:5](photos[image][None])[0, unit, i, j]
                for top in range(16 - 5 + 1):
                    for left in range(20 - 5 + 1):
                        covered = photos[image].clone()
                        covered[:, top : top + 5, left : left + 5] = 0.25
                        change = (cnn[:5](covered[None])[0, unit, i, j] - clean).abs()
                        # A position of the second convolution sees pixels around 2 i + 0.5; patches around top + 2.
                        for y, x in ((top + 2 - 2 * int(i), left + 2 - 2 * int(j)),):
                            for dy, dx in ((0, 0), (-1, 0), (0, -1), (-1, -1)):
                                at = height // 2 + y + dy, width // 2 + x + dx
                                if 0 <= at[0] < height and 0 <= at[1] < width:
                                    total[at] += change / 4
                                    count[at] += 1 / 4
            inside = fields.counts[row] == 3
            torch.testing.assert_close(count[inside], torch.full_like(count[inside], 3))
            torch.testing.assert_close(fields.fields[row][inside], total[inside] / 3, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("change", [{"chunk": 3}, {"engine": "incremental"}, {"engine": "dense"}], ids=str)
def test_how_it_is_computed_makes_no_difference(change: dict[str, Any], cnn):
    photos = torch.randn(3, 3, 26, 30, generator=torch.Generator().manual_seed(3))
    seen = exemplars(cnn, photos, layer="4", k=2)
    one, other = (receptive_fields(cnn, photos, seen, **settings) for settings in ({}, change))
    torch.testing.assert_close(one.fields, other.fields)
    assert torch.equal(one.counts, other.counts)


def test_some_units_give_what_all_of_them_give(cnn):
    photos = torch.randn(6, 3, 26, 30, generator=torch.Generator().manual_seed(3))
    seen = exemplars(cnn, photos, layer="4", k=2)
    every, some = receptive_fields(cnn, photos, seen), receptive_fields(cnn, photos, seen, units=[5, 1])
    assert some.units.tolist() == [5, 1]
    torch.testing.assert_close(some.fields, every.fields[[5, 1]])


def test_units_share_covered_images_and_nothing_runs_behind_the_layer(cnn):
    counts = {"layer": 0, "behind": 0}

    class Counting(nn.Module):
        def __init__(self, name: str):
            super().__init__()
            self.name = name

        def forward(self, values: Tensor) -> Tensor:
            counts[self.name] += len(values)
            return values + 0

    photos = torch.randn(6, 3, 26, 30, generator=torch.Generator().manual_seed(3))
    net = nn.Sequential(cnn[:5], Counting("layer"), cnn[5:], Counting("behind")).eval()
    seen = exemplars(net, photos, layer="0", k=6)
    receptive_fields(net, photos, seen, engine="dense")
    started = dict(counts)
    receptive_fields(net, photos, seen, engine="dense", sliding_window_shapes=10, strides=10)
    assert counts == started  # the layer itself ends the pass
    seen = exemplars(net, photos, layer="1", k=6)
    started = dict(counts)
    receptive_fields(net, photos, seen, engine="dense", sliding_window_shapes=10, strides=10)
    assert counts["behind"] == started["behind"]
    assert 6 < counts["layer"] - started["layer"] <= 6 * (2 * 3 + 1)  # for all of the 6 units, on 6 images


def test_patches_that_no_window_reaches_are_not_run(sparse):
    ran: list[int] = []
    seen = exemplars(sparse, PHOTOS, layer="0", k=1, units=[0])
    sparse[0].register_forward_hook(lambda module, args, output: ran.append(len(args[0])))
    receptive_fields(sparse, PHOTOS, seen, sliding_window_shapes=2, strides=2, engine="dense")
    assert sum(ran) < 30 < (20 // 2) * (24 // 2)


def test_a_network_that_looks_everywhere_is_covered_everywhere():
    class Everywhere(nn.Module):
        def __init__(self):
            super().__init__()
            self.body, self.out = nn.Conv2d(1, 2, 1), nn.Identity()

        def forward(self, images: Tensor) -> Tensor:
            maps = self.body(images)
            return self.out(maps * maps.mean((2, 3), keepdim=True).sigmoid()).mean((2, 3))

    net = Everywhere().eval()
    seen = exemplars(net, PHOTOS, layer="out", k=2)
    fields = receptive_fields(net, PHOTOS, seen, sliding_window_shapes=4, strides=4, level=1e-9)
    assert not seen.local
    assert ((fields.fields > 0) == (fields.counts > 0)).double().mean() > 0.95


def test_a_unit_that_nothing_changes_has_no_field():
    net = convolution(torch.zeros(2, 1, 3, 3))
    seen = exemplars(net, PHOTOS, layer="1", k=2)
    fields = receptive_fields(net, PHOTOS, seen)
    assert fields.area.tolist() == [0, 0]
    assert "no pixels wide" in repr(fields)


def test_the_same_seed_gives_the_same_and_the_model_comes_back_as_it_was(cnn, tmp_path):
    photos = torch.randn(4, 3, 26, 30, generator=torch.Generator().manual_seed(3))
    before = {name: weight.clone() for name, weight in cnn.state_dict().items()}
    told: list[tuple[int, int]] = []
    seen = exemplars(cnn, photos, layer="4", k=2)
    with torch.inference_mode():
        one = receptive_fields(cnn, photos, seen, progress=lambda *at: told.append(at))
    assert told[-1] == (len(seen.strongest.ids.unique()),) * 2
    assert one.to_dict() == receptive_fields(cnn, photos, seen).to_dict()
    assert not torch.equal(one.fields, receptive_fields(cnn, photos, seen, seed=1).fields)
    assert all(torch.equal(weight, before[name]) for name, weight in cnn.state_dict().items())
    assert not any(module._forward_hooks for module in cnn.modules())
    again = ReceptiveFields.load(one.save(tmp_path / "fields.safetensors"))
    assert again.to_dict() == one.to_dict()


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"sliding_window_shapes": 21}, "a patch of 21×21 pixels moved by 3×3"),
        ({"strides": 12}, "a patch of 11×11 pixels moved by 12×12"),
        ({"level": 0.0}, "at level 0.0"),
        ({"units": [7]}, "unit 7 is not among the 2 units"),
        ({"data": PHOTOS[:3]}, "these are 3 images, but exemplars were chosen among 12"),
    ],
    ids=lambda x: next(iter(x)) if isinstance(x, dict) else "",
)
def test_a_mistake_is_named(settings: dict[str, Any], said: str, sparse):
    seen = exemplars(sparse, PHOTOS, layer="0", k=2)
    with pytest.raises((BadInput, NotFound), match=said):
        receptive_fields(sparse, **{"data": PHOTOS, "exemplars": seen} | settings)


def test_it_is_found_by_its_name():
    assert find_method("receptive_fields", "dissect").function is receptive_fields
