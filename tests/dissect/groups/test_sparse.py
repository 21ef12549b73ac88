"""Sparse dictionaries: planted atoms are found, codes are as sparse as asked, and gradients are the papers'."""

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from glasshouse.core import BadInput, edit, find_method
from glasshouse.dissect.groups import codes, sparse_training
from glasshouse.dissect.groups.codes import SparseDictionary, largest
from glasshouse.dissect.groups.matching import match
from glasshouse.dissect.groups.sparse import KINDS, measure, sparse_dictionary
from glasshouse.dissect.groups.sparse_training import Autoencoder, Jump, Step, positions
from glasshouse.dissect.stored import Activations, activations


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def planted(n_units: int, n_atoms: int, k: int, n_images: int, grid: int = 10) -> tuple[Tensor, Tensor]:
    """Atoms of length 1, and maps `n u i j` in which k of them are active at each position."""
    draw, n = seeded(0), n_images * grid**2
    atoms = F.normalize(torch.randn(n_atoms, n_units, generator=draw), dim=1)
    active = torch.rand(n, n_atoms, generator=draw).topk(k, 1).indices
    strength = torch.zeros(n, n_atoms).scatter(1, active, 0.5 + torch.rand(n, k, generator=draw))
    return atoms, (strength @ atoms).view(n_images, grid, grid, n_units).permute(0, 3, 1, 2)


def found_again(dictionary: SparseDictionary, atoms: Tensor) -> float:
    """The mean over the planted atoms of the largest cosine with one that was found."""
    return float((atoms @ dictionary.decoder.T).amax(1).mean())


@pytest.fixture(scope="module")
def small() -> tuple[Tensor, Tensor]:
    return planted(16, 24, 2, 40)


@pytest.fixture(scope="module", params=KINDS)
def each_kind(request: pytest.FixtureRequest, small: tuple[Tensor, Tensor]) -> SparseDictionary:
    return sparse_dictionary(small[1], 24, kind=request.param, k=2, n_steps=400, batch_size=256)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["top_k", "jump_relu"])
def test_a_planted_dictionary_is_recovered(kind):
    atoms, maps = planted(64, 128, 5, 500)
    found = sparse_dictionary(maps, 128, kind=kind, k=5, n_steps=600, batch_size=512)
    assert found_again(found, atoms) > 0.95
    assert found.l0 == pytest.approx(5, abs=0.5)
    assert found.r2 > 0.85


def test_every_kind_finds_a_small_planted_dictionary(each_kind, small):
    assert found_again(each_kind, small[0]) > 0.9
    assert each_kind.r2 > 0.8
    assert each_kind.loss[-1] < 0.5 * each_kind.loss[0]
    torch.testing.assert_close(each_kind.decoder.norm(dim=1), torch.ones(24))


def test_codes_are_as_sparse_as_asked(each_kind, small):
    active = (each_kind.encode(small[1]) > 0).float().sum(1)
    assert each_kind.l0 == pytest.approx(float(active.mean()), abs=1e-4)
    if each_kind.kind == "top_k":
        assert (active == 2).all()
    if each_kind.kind in ("batch_top_k", "jump_relu"):
        assert float(active.mean()) == pytest.approx(2, abs=0.5)


def test_codes_are_those_of_the_formula(each_kind, small):
    maps = small[1][:2]
    codes = each_kind.encode(maps)
    assert codes.shape == (2, 24, 10, 10)
    weights = (each_kind.encoder, each_kind.offset, each_kind.decoder, each_kind.bias, each_kind.threshold)
    encoder, offset, decoder, bias, threshold = (part.double().numpy() for part in weights)
    for image, i, j in [(0, 0, 0), (1, 4, 7)]:
        before = encoder @ (maps[image, :, i, j].double().numpy() - bias) + offset
        least = np.sort(before)[-2] if each_kind.kind == "top_k" else np.nextafter(threshold, 1)
        kept = (before >= least) & (before > 0)
        np.testing.assert_allclose(codes[image, :, i, j], np.where(kept, before, 0), atol=1e-5)
        np.testing.assert_allclose(each_kind.decode(codes)[image, :, i, j], (before * kept) @ decoder + bias, atol=1e-5)
    torch.testing.assert_close(each_kind.rebuilt(maps), each_kind.decode(codes))


def test_what_was_measured_is_what_a_plain_count_gives(each_kind, small, monkeypatch):
    maps = small[1][:7] + 3.0
    monkeypatch.setattr(codes, "BLOCK", 2 * 24 * 100)
    seen = each_kind.measured(maps)
    flat = maps.permute(0, 2, 3, 1).flatten(0, 2).double()
    again = each_kind.rebuilt(maps).permute(0, 2, 3, 1).flatten(0, 2).double()
    r2 = 1 - (flat - again).square().sum() / (flat - flat.mean(0)).square().sum()
    active = (each_kind.encode(maps) > 0).float()
    assert seen.r2 == pytest.approx(float(r2), abs=1e-4)
    assert seen.l0 == pytest.approx(float(active.sum(1).mean()), abs=1e-5)
    torch.testing.assert_close(seen.rate, active.mean((0, 2, 3)))
    assert torch.equal(seen.dead, active.sum((0, 2, 3)) == 0)
    assert torch.equal(seen.decoder, each_kind.decoder)


def test_scaling_the_activations_scales_the_codes_alone(small):
    one = sparse_dictionary(small[1], 24, kind="jump_relu", k=2, n_steps=40, batch_size=128)
    ten = sparse_dictionary(8 * small[1], 24, kind="jump_relu", k=2, n_steps=40, batch_size=128)
    torch.testing.assert_close(ten.decoder, one.decoder, atol=1e-4, rtol=1e-3)
    torch.testing.assert_close(ten.encode(8 * small[1]), 8 * one.encode(small[1]), atol=0.02, rtol=0.01)


def test_the_gradient_of_jump_relu_is_its_formula():
    width, threshold = 0.2, torch.tensor([0.5, 1.0], dtype=torch.float64, requires_grad=True)
    z = (2 * torch.rand(50, 2, generator=seeded(1), dtype=torch.float64)).requires_grad_()
    slope = torch.randn(50, 2, generator=seeded(2), dtype=torch.float64)
    by_z, by_threshold = torch.autograd.grad(Jump.apply(z, threshold, width), (z, threshold), slope)
    z = z.detach()
    (of_step,) = torch.autograd.grad(Step.apply(z, threshold, width).sum(), threshold)
    for atom, at in enumerate((0.5, 1.0)):
        jump, step = 0.0, 0.0
        for row in range(50):
            kernel = 1.0 if abs((float(z[row, atom]) - at) / width) < 0.5 else 0.0
            jump -= at / width * kernel * float(slope[row, atom])
            step -= kernel / width
        assert float(by_threshold[atom]) == pytest.approx(jump)
        assert float(of_step[atom]) == pytest.approx(step)
    torch.testing.assert_close(by_z, slope * (z > threshold))


def test_on_average_the_gradients_are_those_of_the_expected_loss():
    # For z uniform on 0…2: E H(z - t) = 1 - t/2 and E z H(z - t) = 1 - t²/4.
    threshold = torch.tensor([0.8], dtype=torch.float64, requires_grad=True)
    z = (torch.arange(200_000, dtype=torch.float64) / 100_000)[:, None]
    for function, wanted in ((Step, -0.5), (Jump, -0.4)):
        (slope,) = torch.autograd.grad(function.apply(z, threshold, 0.01).mean(), threshold)
        assert float(slope) == pytest.approx(wanted, rel=1e-3)


def test_batch_top_k_keeps_as_many_as_k_for_each_position():
    net = Autoencoder(torch.zeros(4), F.normalize(torch.randn(9, 4, generator=seeded(3)), dim=1), "batch_top_k", 2, 0.0)
    before = torch.rand(50, 9, generator=seeded(4)) * torch.rand(50, 1, generator=seeded(5))
    kept = net.codes(before)
    assert int((kept > 0).sum()) == 100
    assert kept[kept > 0].min() >= before[kept == 0].max()
    torch.testing.assert_close(largest(before, 2), torch.where(before >= before.sort(1).values[:, -2:-1], before, 0))


def test_a_silent_atom_is_trained_on_what_the_others_leave():
    rows = torch.randn(30, 4, generator=seeded(6))
    net = Autoencoder(torch.zeros(4), F.normalize(torch.randn(6, 4, generator=seeded(7)), dim=1), "top_k", 1, 0.0)
    with torch.no_grad():
        net.offset += 10.0
        net.encoder[2], net.offset[2] = 0.1 * net.encoder[2], 0.5  # weak, and never the largest
    net(rows).backward()
    assert net.decoder.grad[2].norm() == 0
    net.zero_grad()
    net.idle[2] = 10**6
    net(rows).backward()
    with torch.no_grad():  # the loss of one dead atom is |e - z d|² / |e|² / 32, with e held fixed
        before = F.linear(rows, net.encoder, net.offset).relu()
        left, z = rows - largest(before, 1) @ net.decoder, before[:, 2:3]
        by_hand = 2 * (z * (z * net.decoder[2] - left)).sum(0) / left.square().sum() / 32
    torch.testing.assert_close(net.decoder.grad[2], by_hand)
    assert net.idle[2] == 10**6 + 30


def test_the_threshold_of_a_silent_atom_falls():
    rows = torch.randn(30, 4, generator=seeded(6))
    net = Autoencoder(torch.zeros(4), F.normalize(torch.randn(6, 4, generator=seeded(7)), dim=1), "jump_relu", 1, 0.1)
    with torch.no_grad():
        net.log_threshold[2] = math.log(50.0)
    net.idle[2] = 10**6
    net(rows).backward()
    # The atom lacks 50 - (w x + c) at every position: by log θ that changes by 50.
    assert float(net.log_threshold.grad[2]) == pytest.approx(50 / 32)


def test_positions_come_each_once_in_every_lap_in_an_order_of_the_seed(monkeypatch):
    maps = torch.arange(5 * 6.0).view(5, 1, 2, 3)
    monkeypatch.setattr(sparse_training, "BUFFER", 12)  # two images at a time

    def drawn(seed: int, first: int = 0, count: int = 20) -> list[list[float]]:
        stream = positions(maps, 5, seed, first)
        return [next(stream).flatten().tolist() for _ in range(count)]

    lap = [value for batch in drawn(0)[:8] for value in batch]  # buffers of 12, 12 and 6 in batches of 5
    assert sorted(lap) == list(range(30))
    assert drawn(0) == drawn(0) != drawn(1)
    assert drawn(0)[8:16] != drawn(0)[:8]
    for first in range(20):
        assert drawn(0, first, 20 - first) == drawn(0)[first:]


def test_the_same_seed_gives_the_same_bits_and_another_one_others(small):
    runs = [sparse_dictionary(small[1], 20, k=2, n_steps=30, batch_size=64, seed=seed) for seed in (0, 0, 1)]
    assert runs[0].to_dict() == runs[1].to_dict()
    assert not torch.equal(runs[0].decoder, runs[2].decoder)


@pytest.mark.parametrize("kind", ["batch_top_k", "jump_relu"])
def test_a_killed_training_goes_on_to_the_same_bits(small, tmp_path, monkeypatch, kind):
    monkeypatch.setattr(sparse_training, "SAVE_EVERY", 10)
    settings = {"kind": kind, "k": 2, "n_steps": 35, "batch_size": 64}
    whole = sparse_dictionary(small[1], 20, **settings)

    class Killed(Exception):
        pass

    def kill(done: int, total: int) -> None:
        if done == 27:
            raise Killed

    with pytest.raises(Killed):
        sparse_dictionary(small[1], 20, **settings, into=tmp_path, progress=kill)
    told: list[int] = []
    again = sparse_dictionary(small[1], 20, **settings, into=tmp_path, progress=lambda done, total: told.append(done))
    assert told[0] == 21
    assert again.to_dict() == whole.to_dict()
    finished = sparse_dictionary(small[1], 20, **settings, into=tmp_path)
    assert finished.to_dict() == whole.to_dict()
    with pytest.raises(BadInput, match="holds another training"):
        sparse_dictionary(small[1], 20, **settings, into=tmp_path, seed=1)


def test_a_dictionary_comes_back_from_a_file(each_kind, small, tmp_path):
    back = SparseDictionary.load(each_kind.save(tmp_path / "dictionary.safetensors"))
    assert back.to_dict() == each_kind.to_dict()
    torch.testing.assert_close(back.encode(small[1][:1]), each_kind.encode(small[1][:1]))
    assert repr(back).startswith(f"SparseDictionary({each_kind.kind}, 24 atoms of 16 units, ")


def test_partners_are_the_best_assignment():
    optimise = pytest.importorskip("scipy.optimize")
    for seed, shape in enumerate([(1, 1), (4, 7), (7, 4), (30, 30)]):
        gain = torch.randn(shape, generator=seeded(seed))
        for found, wanted in zip(match(gain), optimise.linear_sum_assignment(-gain.numpy()), strict=True):
            assert found.tolist() == wanted.tolist()


def test_stability_finds_a_shuffled_dictionary_again(each_kind, small):
    order = torch.randperm(24, generator=seeded(8))
    shuffled = replace(each_kind, decoder=each_kind.decoder[order])
    torch.testing.assert_close(each_kind.stability(shuffled), torch.ones(24))
    fewer = sparse_dictionary(small[1], 20, k=2, n_steps=2)
    assert int((each_kind.stability(fewer) == 0).sum()) == 4
    assert (fewer.stability(each_kind) > 0).all()
    with pytest.raises(BadInput, match="16 and of 3 units"):
        each_kind.stability(sparse_dictionary(small[1][:, :3], 20, k=2, n_steps=2))


@pytest.fixture
def stored(cnn: nn.Module) -> tuple[Tensor, Activations]:
    images = torch.randn(12, 3, 14, 18, generator=seeded(9))
    return images, activations(cnn, images, layer="4")


def test_atoms_are_read_like_units(cnn, stored, tmp_path):
    _, acts = stored
    found = sparse_dictionary(acts, 20, k=3, n_steps=20, batch_size=64)
    assert (found.layer, found.units.tolist()) == ("4", list(range(8)))
    atoms = found.apply(acts)
    assert (atoms.layer, len(atoms.units), len(atoms)) == ("4:dictionary", 20, 12)
    torch.testing.assert_close(atoms.rows(slice(2, 5)), found.encode(acts.rows(slice(2, 5))))
    assert atoms.labels == acts.labels
    in_file = found.apply(acts, into=tmp_path / "codes.npy")
    assert torch.equal(in_file.maps, atoms.maps)
    assert np.load(tmp_path / "codes.npy", allow_pickle=False).shape == atoms.maps.shape


def test_the_loss_that_is_recovered_is_that_of_a_spliced_network(cnn, stored):
    images, acts = stored
    found = sparse_dictionary(acts, 20, k=3, n_steps=60, batch_size=64)
    targets = torch.randint(0, 4, (12,), generator=seeded(10))
    with torch.no_grad():
        maps = cnn[:5](images)
        entropy = [float(F.cross_entropy(cnn[5:](inside), targets)) for inside in (maps, 0 * maps, found.rebuilt(maps))]
        with edit(cnn, {"4": found.rebuilt}):
            torch.testing.assert_close(cnn(images), cnn[5:](found.rebuilt(maps)))
    wanted = (entropy[1] - entropy[2]) / (entropy[1] - entropy[0])
    assert found.loss_recovered(cnn, images, targets, batch_size=5) == pytest.approx(wanted, rel=1e-4)


def test_stored_files_are_read_in_blocks_and_give_what_memory_gives(cnn, stored, tmp_path, monkeypatch):
    images, acts = stored
    monkeypatch.setattr(sparse_training, "BUFFER", 200)
    from_file = activations(cnn, images, layer="4", into=tmp_path)
    one, other = (sparse_dictionary(a, 12, k=2, n_steps=25, batch_size=64) for a in (acts, from_file))
    assert torch.equal(one.decoder, other.decoder)
    mean, length = measure(acts.maps)
    flat = acts.maps.permute(0, 2, 3, 1).flatten(0, 2)
    torch.testing.assert_close(mean, flat.mean(0))
    assert length == pytest.approx(float(flat.norm(dim=1).mean()), rel=1e-5)


@pytest.mark.parametrize("kind", ["one position", "a dead unit", "float16", "as many as atoms"])
def test_odd_activations_are_learnt(small, kind):
    maps, k = small[1][:6].clone(), 2
    if kind == "one position":
        maps = maps[..., :1, :1]
    if kind == "a dead unit":
        maps[:, 3] = 0
    if kind == "float16":
        maps = maps.half()
    if kind == "as many as atoms":
        k = 20
    found = sparse_dictionary(maps, 20, k=k, n_steps=5, batch_size=16)
    assert found.decoder.isfinite().all()
    assert math.isfinite(found.r2)


def test_impossible_questions_are_refused(small, tmp_path: Path):
    maps = small[1][:2]
    with pytest.raises(BadInput, match="30 of 24 atoms"):
        sparse_dictionary(maps, 24, k=30)
    with pytest.raises(BadInput, match="n_steps=0"):
        sparse_dictionary(maps, 24, n_steps=0)
    with pytest.raises(BadInput, match="all activations are 0"):
        sparse_dictionary(torch.zeros(2, 3, 4, 4), 24)
    found = sparse_dictionary(maps, 24, k=2, n_steps=2)
    with pytest.raises(BadInput, match=r"have 3 units, the dictionary was made for 16"):
        found.measured(torch.zeros(2, 3, 4, 4))


def test_the_registry_knows_it():
    assert "stability" in find_method("dissect.sparse_dictionary").warning
