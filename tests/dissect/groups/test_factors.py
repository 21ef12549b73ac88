"""Neuron groups: the error that others reach, the laws of the factors, planted parts, what groups add."""

import numpy as np
import pytest
import torch
from torch import Tensor

from glasshouse import attribute
from glasshouse.core import BadInput, find_method
from glasshouse.dissect.groups import factors
from glasshouse.dissect.groups.factors import NeuronGroups, descend, neuron_groups
from glasshouse.dissect.stored import Activations, activations


def drawn(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def rows_of(maps: Tensor) -> Tensor:
    return maps.permute(0, 2, 3, 1).flatten(0, 2)


@pytest.fixture
def planted() -> tuple[Tensor, Tensor]:
    """Maps made of three groups of four units each, and their directions, the strongest first."""
    directions = torch.zeros(3, 12)
    for group in range(3):
        directions[group, 4 * group : 4 * group + 4] = 0.5
    strengths = drawn(8, 3, 5, 6).pow(4) * torch.tensor([3.0, 2.0, 1.0])[:, None, None]
    return torch.einsum("ngij,gu->nuij", strengths, directions), directions


@pytest.fixture
def maps() -> Tensor:
    """Sparse activations without a simple structure."""
    return (drawn(6, 14, 5, 4, seed=3) - 0.4).clamp(min=0)


def test_planted_groups_are_found_in_the_order_of_their_mass(planted):
    maps, directions = planted
    found = neuron_groups(maps, 3, tolerance=1e-9)
    torch.testing.assert_close(found.directions, directions, atol=2e-3, rtol=0)
    assert found.explained > 0.99999
    mass = torch.stack([maps[:, 4 * group : 4 * group + 4].sum() for group in range(3)]) / maps.sum()
    torch.testing.assert_close(found.share, mass, atol=1e-3, rtol=0)
    torch.testing.assert_close(found.rebuilt(slice(2, 4)), maps[2:4], atol=1e-2, rtol=0)


@pytest.mark.parametrize("n_groups", [1, 2, 5])
def test_the_error_is_as_low_as_that_of_scikit_learn(maps, n_groups):
    decomposition = pytest.importorskip("sklearn.decomposition")
    peer = decomposition.NMF(n_groups, init="nndsvda", tol=1e-5, max_iter=2000)
    flat = rows_of(maps).double().numpy()
    peer.fit(flat)
    found = neuron_groups(maps, n_groups, iterations=1000, tolerance=1e-7)
    error = float((maps - found.rebuilt()).double().square().sum())
    assert error <= 1.005 * peer.reconstruction_err_**2
    assert found.explained == pytest.approx(1 - error / float(maps.double().square().sum()), abs=1e-6)


def test_one_group_is_the_first_singular_pair(maps):
    found = neuron_groups(maps, 1, tolerance=1e-12)
    _, size, right = np.linalg.svd(rows_of(maps).double().numpy())
    np.testing.assert_allclose(found.directions[0], np.abs(right[0]), atol=1e-4)  # Perron and Frobenius
    assert found.explained == pytest.approx(size[0] ** 2 / (size**2).sum(), abs=1e-6)


def test_the_start_is_that_of_nndsvda(maps):
    nmf = pytest.importorskip("sklearn.decomposition._nmf")
    flat = rows_of(maps.double())
    strengths, directions = factors.start(
        factors._Blocks(maps.double(), None, False), 4, flat.T @ flat, float(flat.mean())
    )
    wanted, other = nmf._initialize_nmf(flat.numpy(), 4, init="nndsvda", random_state=0)
    np.testing.assert_allclose(strengths.T, wanted, atol=1e-6)
    np.testing.assert_allclose(directions, other, atol=1e-6)


@pytest.mark.parametrize("weighted", [False, True])
def test_factors_have_no_negative_entry_and_length_1_and_the_error_never_rises(maps, weighted):
    maps = maps.double()
    weights = drawn(*maps.shape, seed=5, dtype=torch.float64) ** 3 if weighted else None
    found = neuron_groups(maps, 4, weights=weights, tolerance=0.0, iterations=60)
    assert (found.maps >= 0).all()
    assert (found.directions >= 0).all()
    torch.testing.assert_close(found.directions.norm(dim=1), torch.ones(4, dtype=torch.float64))
    assert (found.error.diff() <= 1e-12 * found.error[0]).all()
    assert (found.share.diff() <= 0).all()


def test_a_sweep_sets_each_coordinate_to_its_best(maps):
    flat = rows_of(maps)[:9].double()
    weights = drawn(*flat.shape, seed=7, dtype=torch.float64)
    directions, found = drawn(3, 14, seed=8, dtype=torch.float64), drawn(3, 9, seed=9, dtype=torch.float64)
    by_hand = found.clone()
    for group in range(3):
        for row in range(9):
            rest = flat[row] - sum(by_hand[g, row] * directions[g] for g in range(3) if g != group)
            best = (weights[row] * rest * directions[group]).sum() / (weights[row] * directions[group] ** 2).sum()
            by_hand[group, row] = max(best, 0)
    descend(found, *factors.normal(flat, directions, weights))
    torch.testing.assert_close(found, by_hand)


def test_weights_of_one_change_nothing_and_weights_of_zero_hide_a_unit(maps):
    plain = neuron_groups(maps, 3)
    ones = neuron_groups(maps, 3, weights=torch.ones_like(maps))
    torch.testing.assert_close(ones.directions, plain.directions, atol=1e-4, rtol=1e-3)
    blind = torch.ones_like(maps)
    blind[:, 5] = 0
    loud = maps.clone()
    loud[:, 5] = 100 * drawn(*maps[:, 5].shape, seed=11)
    hidden = neuron_groups(loud, 3, weights=blind, tolerance=1e-9, iterations=1000)
    kept = [unit for unit in range(14) if unit != 5]
    without = neuron_groups(maps[:, kept], 3, tolerance=1e-9, iterations=1000)
    assert hidden.explained == pytest.approx(without.explained, abs=0.01)
    assert plain.explained > 0.5


def test_strengths_in_new_maps_are_the_non_negative_least_squares(maps):
    optimise = pytest.importorskip("scipy.optimize")
    found = neuron_groups(maps, 4)
    new = drawn(2, 14, 3, 2, seed=21)
    strengths = found.transform(new)
    for image, i, j in np.ndindex(2, 3, 2):
        wanted, _ = optimise.nnls(found.directions.T.double().numpy(), new[image, :, i, j].double().numpy())
        np.testing.assert_allclose(strengths[image, :, i, j], wanted, atol=1e-4)
    torch.testing.assert_close(found.transform(maps), found.maps, atol=1e-4, rtol=1e-3)


def test_blocks_do_not_change_the_groups(maps, monkeypatch):
    whole = neuron_groups(maps.double(), 4)
    monkeypatch.setattr(factors, "BLOCK", 2 * 14 * 5 * 4)
    parts = neuron_groups(maps.double(), 4)
    torch.testing.assert_close(parts.directions, whole.directions)
    torch.testing.assert_close(parts.maps, whole.maps)


def test_stored_activations_give_the_groups_of_their_maps(cnn, tmp_path):
    images = torch.randn(10, 3, 14, 18, generator=torch.Generator().manual_seed(1))
    stored = activations(cnn, images, layer="4", units=[1, 2, 3, 5, 7], into=tmp_path / "stored")
    assert isinstance(stored, Activations)
    told: list[tuple[int, int]] = []
    found = neuron_groups(stored, 2, progress=lambda done, total: told.append((done, total)))
    torch.testing.assert_close(found.maps, neuron_groups(stored.rows(slice(None)), 2).maps)
    with pytest.raises(BadInput, match=r"weights \(1, 5, 7, 9\) for activations \(10, 5, 7, 9\)"):
        neuron_groups(stored, 2, weights=torch.ones(1, 5, 7, 9))
    assert (found.layer, found.units.tolist()) == ("4", [1, 2, 3, 5, 7])
    assert told[0] == (1, 200)
    assert len(told) == len(found.error)
    back = NeuronGroups.load(found.save(tmp_path / "groups.safetensors"))
    assert back.to_dict() == found.to_dict()
    assert repr(back).startswith("NeuronGroups(4, 2 groups of 5 units on 10 images, ")


def test_groups_and_what_they_leave_out_add_what_all_units_add(cnn, images):
    stored = activations(cnn, images, layer="4")
    found = neuron_groups(stored, 3)
    groups = attribute.group_attribution(cnn, images, 2, groups=found.directions.T, strengths=found.maps, layer="4")
    units = attribute.channel_attribution(cnn, images, 2, layer="4")
    torch.testing.assert_close(groups.values.sum(1) + groups.extras["residual"], units.values.sum(1))
    # Behind the layer stand pooling and a linear map: the slope is w / (i j), and what is left out is the misfit's.
    slope = cnn[-1].weight[2] / found.maps[0, 0].numel()
    left = torch.einsum("nuij,u->n", stored.maps - found.rebuilt(), slope)
    torch.testing.assert_close(groups.extras["residual"], left, atol=1e-5, rtol=1e-4)


def test_weighting_by_the_squared_slope_keeps_more_of_what_units_add(planted):
    maps, _ = planted
    maps = maps + 2 * drawn(*maps.shape, seed=13)
    slope = torch.zeros(12)
    slope[3], slope[9] = 1.0, -1.0
    weights = (slope**2 + 1e-3)[None, :, None, None].expand(maps.shape)

    def missed(found: NeuronGroups) -> float:
        return float(torch.einsum("nuij,u->nij", maps - found.rebuilt(), slope).square().sum())

    assert missed(neuron_groups(maps, 2, weights=weights)) < 0.5 * missed(neuron_groups(maps, 2))


def test_colours_go_around_the_wheel_and_paint_what_is_strong(planted):
    found = neuron_groups(planted[0], 3)
    assert found.colours.tolist() == [[1, 0, 0], [0, 1, 0], [0, 0, 1]]
    painted = found.painted()
    torch.testing.assert_close(painted, found.maps / found.maps.sum(1).max())
    assert painted.max() <= 1
    assert found.painted(slice(1, 3)).shape == (2, 3, 5, 6)


@pytest.mark.parametrize("kind", ["zeros", "a dead unit", "one position", "float16", "as many groups as units"])
def test_odd_activations_are_factorised(maps, kind):
    if kind == "zeros":
        maps = torch.zeros_like(maps)
    if kind == "a dead unit":
        maps[:, 3] = 0
    if kind == "one position":
        maps = maps[..., :1, :1]
    if kind == "float16":
        maps = maps.half()
    found = neuron_groups(maps, 14 if kind == "as many groups as units" else 2)
    assert found.maps.isfinite().all()
    assert found.directions.isfinite().all()
    assert found.maps.dtype == torch.float32
    if kind == "zeros":
        assert float(found.maps.sum()) == 0
    if kind == "a dead unit":
        assert (found.directions[:, 3].abs() < 1e-3).all()


def test_negative_activations_are_refused_or_cut_off(maps):
    signed = maps - 0.1
    with pytest.raises(BadInput, match=r"down to -0\.1.*rectify=True"):
        neuron_groups(signed, 2)
    cut = neuron_groups(signed, 2, rectify=True)
    torch.testing.assert_close(cut.maps, neuron_groups(signed.clamp(min=0), 2).maps)


def test_impossible_questions_are_refused(maps):
    with pytest.raises(BadInput, match="15 groups of 14 units"):
        neuron_groups(maps, 15)
    with pytest.raises(BadInput, match="0 groups"):
        neuron_groups(maps, 0)
    with pytest.raises(BadInput, match="weights"):
        neuron_groups(maps, 2, weights=-torch.ones_like(maps))


def test_the_registry_knows_it():
    info = find_method("dissect.neuron_groups")
    assert "Distill" in info.paper
