"""The rotation test: matrices that are rotations, and counts that are those of `units` along other directions."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from dissect.marked import Marked, random_net
from glasshouse.core import BadInput
from glasshouse.dissect import units
from glasshouse.dissect.netdissect.rotations import Rotations, rotation, rotation_test


@pytest.mark.parametrize("n", [1, 2, 5, 8, 64])
def test_powers_of_a_rotation_are_rotations(n: int):
    whole = rotation(n, seed=3)
    for alpha in (0.0, 0.3, 1.0):
        part = rotation(n, alpha, seed=3)
        torch.testing.assert_close(part @ part.T, torch.eye(n).double(), atol=1e-12, rtol=0)
        assert float(torch.linalg.det(part)) == pytest.approx(1)
    torch.testing.assert_close(rotation(n, 0.0, seed=3), torch.eye(n).double(), atol=1e-12, rtol=0)
    torch.testing.assert_close(rotation(n, 0.25, seed=3).matrix_power(4), whole, atol=1e-12, rtol=0)
    torch.testing.assert_close(rotation(n, 0.3, seed=3) @ rotation(n, 0.7, seed=3), whole, atol=1e-12, rtol=0)


def test_every_plane_turns_by_its_share_of_the_angle():
    whole, half = (torch.linalg.eigvals(rotation(6, alpha)).angle().abs().sort().values for alpha in (1.0, 0.5))
    torch.testing.assert_close(half, whole / 2)


def test_rotations_are_drawn_evenly():
    # Under the even distribution an entry has mean 0 and variance 1/n, and the trace mean 0 and variance 1.
    drawn = torch.stack([rotation(4, seed=seed) for seed in range(600)])
    assert float(drawn.mean(0).abs().max()) < 4 / (4 * 600) ** 0.5
    torch.testing.assert_close(drawn.square().mean(0), torch.full((4, 4), 0.25).double(), atol=0.04, rtol=0)
    traces = drawn.diagonal(dim1=1, dim2=2).sum(1)
    assert abs(float(traces.mean())) < 0.17
    assert float(traces.var()) == pytest.approx(1, abs=0.2)
    assert torch.equal(rotation(4, seed=1), rotation(4, seed=1))


def test_each_angle_counts_what_units_count_along_those_directions():
    marked, net = Marked(n=40), random_net(6)
    options: dict[str, Any] = {"layer": "1", "min_images": 1, "min_iou": 0.01}
    seen = rotation_test(net, marked, alphas=(0.5, 1), n_rotations=2, seed=7, **options)
    assert seen.alphas == (0.0, 0.5, 1.0)
    for row, alpha in enumerate(seen.alphas):
        for draw in range(2):
            turn = None if not alpha else rotation(6, alpha, seed=7 + draw)
            one = units(net, marked, rotation=turn, **options)
            assert seen.unique[row, draw] == len(one.unique("any"))
            assert seen.best[row, draw] == len(one.unique("best"))
            assert seen.detectors[row, draw] == one.detectors.sum()
            assert float(seen.iou[row, draw]) == pytest.approx(float(one.iou.amax(1).mean()))
            counts = {name: int(table[row, draw]) for name, table in seen.by_category.items()}
            assert counts == one.by_category("any")
    assert seen.unique[0, 0] == seen.unique[0, 1]


def test_all_angles_share_one_run_of_the_network():
    runs = 0

    class Counted(nn.Module):
        def forward(self, images: Tensor) -> Tensor:
            nonlocal runs
            runs += len(images)
            return images + 0

    marked = Marked(n=40)
    net = nn.Sequential(Counted(), *random_net()).eval()
    rotation_test(net, marked, layer="2", alphas=(1.0,), n_rotations=1, min_images=1)
    before = runs
    rotation_test(net, marked, layer="2", min_images=1)
    assert runs - before == 40


def test_intervals_are_students_over_rotations():
    counts = torch.tensor([[5, 5, 5], [1, 2, 3]])
    seen = Rotations("l", 4, 9, (0.0, 1.0), counts, counts, counts, counts.double(), {})
    reach = 4.302653 / 3**0.5
    torch.testing.assert_close(
        seen.interval(), torch.tensor([[5, 5], [max(2 - reach, 0), 2 + reach]]).double(), rtol=1e-4, atol=0
    )
    assert seen.fall.tolist() == [0, 0.6]
    alone = Rotations("l", 4, 9, (0.0,), counts[:1, :1], counts[:1, :1], counts[:1, :1], counts[:1, :1].double(), {})
    assert alone.interval().isnan().all()


def test_it_saves_loads_and_refuses_other_shares(tmp_path: Path):
    marked, net = Marked(n=10), random_net()
    seen = rotation_test(net, marked, layer="1", alphas=(1.0,), n_rotations=1, min_images=1)
    assert Rotations.load(seen.save(tmp_path / "seen.safetensors")).to_dict() == seen.to_dict()
    for wrong in ((-0.1,), (1.2,)):
        with pytest.raises(BadInput, match="Shares lie in 0…1"):
            rotation_test(net, marked, layer="1", alphas=wrong)
    with pytest.raises(BadInput, match="n_rotations=0"):
        rotation_test(net, marked, layer="1", n_rotations=0)
