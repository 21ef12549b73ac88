"""TCAV: closed forms on linear networks, one matrix product against a loop over runs, and honest rates of error."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from glasshouse.core import BadInput, edit, probe
from glasshouse.dissect.concepts.classifiers import fit
from glasshouse.dissect.concepts.sensitivity import AT_ONCE, Tcav, learnt, tcav
from glasshouse.dissect.concepts.significance import p_values, welch
from glasshouse.dissect.stored import Activations

UNITS = 8
AXIS = F.normalize(torch.tensor([1.0, -1, 2, 0, 0, 0.5, 0, 0]), dim=0)


def stored(maps: Tensor, layer: str = "0") -> Activations:
    n, u = maps.shape[:2]
    none = torch.zeros(n, 0, dtype=torch.long)
    return Activations(layer, torch.arange(u), maps, torch.full((n,), -1), none[:, :, None, None], none, (), (4, 4))


def linear_net(weight: Tensor) -> nn.Sequential:
    """Layer `0` hands on its input; then average pooling and one linear layer of these weights."""
    same = nn.Conv2d(weight.shape[1], weight.shape[1], 1, bias=False)
    head = nn.Linear(weight.shape[1], len(weight))
    with torch.no_grad():
        nn.init.dirac_(same.weight)
        head.weight.copy_(weight)
    return nn.Sequential(same, nn.AdaptiveAvgPool2d(1), nn.Flatten(), head).eval()


@pytest.fixture(scope="module")
def curved() -> tuple[nn.Sequential, Tensor]:
    """A network that bends behind layer `0`, and images of two classes."""
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(0)
        net = nn.Sequential(
            nn.Conv2d(3, UNITS, 3, padding=1),
            nn.ReLU(),
            nn.Conv2d(UNITS, 5, 3),
            nn.Tanh(),
            nn.Flatten(),
            nn.Linear(20, 2),
        ).eval()
        return net, torch.randn(13, 3, 4, 4)


@pytest.fixture(scope="module")
def planted() -> Activations:
    """Layer maps in which the first 60 images have a concept: AXIS is added at every position."""
    maps = torch.randn(300, UNITS, 4, 4, generator=torch.Generator().manual_seed(1))
    maps[:60] += 2 * AXIS[:, None, None]
    return stored(maps)


def test_a_planted_concept_is_recovered_and_only_the_classes_that_read_it_rise(planted):
    aside = torch.randn(UNITS, generator=torch.Generator().manual_seed(2))
    aside = F.normalize(aside - (aside @ AXIS) * AXIS, dim=0)
    net, images = linear_net(torch.stack([3 * AXIS, -AXIS, aside])), torch.randn(6, UNITS, 4, 4)
    found = tcav(net, images, [0, 0, 1, 1, 2, 2], planted, positives={"it": range(60)}, pooling="mean")
    assert F.cosine_similarity(found.vectors[0], AXIS, dim=0) > 0.95
    assert found.classes == (0, 1, 2)
    torch.testing.assert_close(found.score[0, :2], torch.tensor([1.0, 0.0]))
    torch.testing.assert_close(found.slope[0, :2], torch.tensor([3.0, -1.0]), rtol=0.05, atol=0)
    assert found.significant()[0, :2].all()
    assert found.told.all()
    assert abs(found.slope[0, 2]) < 0.3


def test_one_matrix_product_equals_a_loop_over_runs_classes_and_images(curved):
    net, images = curved
    maps = torch.randn(80, UNITS, 4, 4, generator=torch.Generator().manual_seed(3))
    target = [0] * 6 + [1] * 7
    found = tcav(net, images, target, stored(maps), positives={"it": range(30)}, n_runs=6, l2=0.1, batch_size=4)
    drawn = torch.Generator().manual_seed(0)
    mine, others = torch.arange(30), torch.arange(30, 80)
    halves = [[mine[torch.randperm(30, generator=drawn)] for _ in range(3)]]
    halves += [[others[torch.randperm(50, generator=drawn)[:30]] for _ in range(3)]]
    for run in range(6):
        one, other = halves[0][run // 2], halves[1][run // 2]
        learn, test = (one[:15], one[15:]) if run % 2 == 0 else (one[15:], one[:15])
        x = torch.cat([maps[learn], maps[test], maps[other]]).flatten(1).double()
        positive, used = torch.arange(60) < 30, torch.arange(60) % 30 < 15
        w, bias = fit(x[None], positive[None], used[None], "logistic", 0.1)
        told = ((x @ w[0] + bias) > 0) == positive
        assert float(found.runs.accuracy[0, run]) == pytest.approx(float(told[~used].double().mean()))
        vector = F.normalize(w[0], dim=0).float()
        for k in (0, 1):
            rises = []
            for image in images[torch.tensor(target) == k]:
                with probe(net, "0") as seen:
                    output = net(image[None])
                (slope,) = torch.autograd.grad(output[0, k], seen["0"])
                rises.append(float(slope.flatten() @ vector))
            assert float(found.runs.slopes[0, k, run]) == pytest.approx(sum(rises) / len(rises), rel=1e-3, abs=1e-5)
            assert float(found.runs.scores[0, k, run]) == pytest.approx(sum(r > 0 for r in rises) / len(rises))


def test_the_sign_is_that_of_a_finite_step_of_the_logit(curved):
    net, images = curved
    maps = torch.randn(60, UNITS, 4, 4, generator=torch.Generator().manual_seed(4)).double()
    net, images = net.double(), images.double()
    found = tcav(net, images, 1, stored(maps.float()), positives={"it": range(20)}, n_runs=4, solver="mean_difference")
    step = 1e-4 * found.vectors[0].double().view(UNITS, 4, 4)
    with edit(net, {"0": lambda maps: maps + step}), torch.no_grad():
        moved = net(images)[:, 1]
    with torch.no_grad():
        rise = (moved - net(images)[:, 1]) / 1e-4
    net.float()
    assert torch.sign(rise.mean()) == torch.sign(found.slope[0, 0].double())


def test_batches_blocks_and_the_length_of_vectors_change_nothing(curved, monkeypatch):
    net, images = curved
    kept = stored(torch.randn(80, UNITS, 4, 4, generator=torch.Generator().manual_seed(3)))
    settings = {"positives": {"it": range(30), "that": range(20, 50)}, "n_runs": 6, "seed": 5}
    whole = tcav(net, images, 0, kept, batch_size=13, **settings)
    monkeypatch.setattr("glasshouse.dissect.concepts.sensitivity.AT_ONCE", 1)
    monkeypatch.setattr("glasshouse.dissect.concepts.directions.BLOCK", 9)
    parts = tcav(net, images, 0, kept, batch_size=3, **settings)
    torch.testing.assert_close(whole.runs.slopes, parts.runs.slopes, rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(whole.runs.scores, parts.runs.scores)
    larger = Activations(**{**vars(kept), "maps": 100 * kept.maps})
    torch.testing.assert_close(tcav(net, images, 0, larger, **settings).slope, whole.slope, rtol=1e-3, atol=1e-6)


def test_directions_have_length_one_and_are_made_of_their_own_samples():
    x = torch.randn(30, 5, generator=torch.Generator().manual_seed(6), dtype=torch.float64)
    index = torch.stack([torch.randperm(30, generator=torch.Generator().manual_seed(run))[:20] for run in range(3)])
    found = learnt(x @ x.T, index, "ridge", 0.1)
    torch.testing.assert_close((found.of_samples @ x).norm(dim=1), torch.ones(3).double())
    for run in range(3):
        assert set(found.of_samples[run].nonzero()[:, 0].tolist()) <= set(index[run].tolist())
    assert AT_ONCE > 3


def random_concepts(n_trials: int, n_sets: int, n_images: int) -> tuple[Tensor, Tensor, Tensor]:
    """p-values of both tests for images that are no concept, without regard to accuracy; and who passes that."""
    seed, net = torch.Generator().manual_seed(7), linear_net(torch.eye(UNITS)[:1])
    honest, published, told = [], [], []
    for trial in range(n_trials):
        maps = torch.randn(400, UNITS, 1, 1, generator=seed) * torch.linspace(2, 0.3, UNITS)[:, None, None]
        sets = torch.randperm(400, generator=seed)[: n_sets * n_images].view(n_sets, n_images).tolist()
        named = {f"set {number}": rows for number, rows in enumerate(sets)}
        settings = {"positives": named, "n_runs": 20, "solver": "mean_difference", "seed": trial}
        found = tcav(net, maps[:1], 0, stored(maps), **settings)
        honest.append(p_values(found.slope, found.error, found.freedom[:, None]))
        published.append(welch(found.runs.scores, found.random.scores))
        told.append(found.told)
    return torch.cat(honest), torch.cat(published), torch.cat(told)


def test_random_images_are_significant_at_the_promised_rate_and_far_above_it_in_the_published_test():
    honest, published, told = random_concepts(20, 10, 20)
    assert (honest < 0.05).double().mean() < 0.05 + 2.6 * (0.05 * 0.95 / 200) ** 0.5
    assert (honest < 0.5).double().mean() > 0.3  # p-values are spread out, not all near 1
    assert (published < 0.05).double().mean() > 0.25
    assert told.double().mean() < 0.1


def test_the_error_is_that_of_drawing_other_images_of_the_concept():
    seed, slopes, errors = torch.Generator().manual_seed(8), [], []
    net = linear_net(torch.ones(1, UNITS))
    for trial in range(30):
        maps = torch.randn(400, UNITS, 1, 1, generator=seed)
        maps[:30] += 3 * AXIS[:, None, None]
        found = tcav(
            net, maps[:1], 0, stored(maps), positives={"it": range(30)}, n_runs=20, solver="mean_difference", seed=trial
        )
        slopes.append(found.slope)
        errors.append(found.error)
    ratio = torch.cat(errors).mean() / torch.cat(slopes).std()
    assert 0.75 < ratio < 1.35


def test_concepts_at_chance_have_no_p_values_and_do_not_count_as_hypotheses(planted):
    net, images = linear_net(AXIS[None]), torch.randn(2, UNITS, 4, 4)
    nothing = torch.randperm(240, generator=torch.Generator().manual_seed(9))[:40] + 60
    found = tcav(net, images, 0, planted, positives={"it": range(60), "none": nothing.tolist()}, pooling="mean")
    assert found.told.tolist() == [True, False]
    assert found.p_values().isnan().tolist() == [[False], [True]]
    assert found.p_values("runs").isnan().tolist() == [[False], [True]]
    p = found.p_values()[0, 0]
    assert found.significant(level=2 * float(p)).tolist() == [[True], [False]]
    assert "1 of the concepts at chance" in repr(found)


def test_bonferroni_divides_the_level_by_the_number_of_hypotheses(planted):
    net, images = linear_net(torch.stack([AXIS, -AXIS])), torch.randn(2, UNITS, 4, 4)
    found = tcav(net, images, [0, 1], planted, positives={"it": range(60)}, pooling="mean")
    p = float(found.p_values()[0, 0])
    assert found.significant(level=2.1 * p)[0, 0]
    assert not found.significant(level=1.9 * p)[0, 0]


def test_random_images_never_show_the_concept_and_are_those_asked_for(planted):
    net, images = linear_net(AXIS[None]), torch.randn(1, UNITS, 4, 4)
    spoilt = planted.maps.clone()
    spoilt[250:] = torch.nan  # images that must not be drawn
    found = tcav(net, images, 0, stored(spoilt), positives={"it": range(60)}, negatives=range(250), n_runs=4)
    assert found.runs.slopes.isfinite().all()
    assert found.n_images.tolist() == [60]


def test_few_images_leave_a_concept_out_and_too_few_are_an_error(planted):
    net, images = linear_net(AXIS[None]), torch.randn(1, UNITS, 4, 4)
    found = tcav(net, images, 0, planted, positives={"it": range(13), "rare": range(9)}, n_runs=4)
    assert (found.concepts, found.dropped, found.n_images.tolist()) == (("it",), ("rare",), [12])
    with pytest.raises(BadInput, match="none of 1 concepts has 10 images"):
        tcav(net, images, 0, planted, positives={"rare": range(9)})
    with pytest.raises(BadInput, match="pairs"):
        tcav(net, images, 0, planted, positives={"it": range(30)}, n_runs=5)
    with pytest.raises(BadInput, match="2 classes for 1 images"):
        tcav(net, images, [0, 0], planted, positives={"it": range(30)})
    with pytest.raises(BadInput, match="Bring all of them to one size"):
        tcav(net, torch.randn(1, UNITS, 6, 6), 0, planted, positives={"it": range(30)})


def test_it_saves_and_loads_and_repeats_by_seed(planted, tmp_path):
    net, images = linear_net(AXIS[None]), torch.randn(1, UNITS, 4, 4)
    found = tcav(net, images, 0, planted, positives={"it": range(30)}, n_runs=4, seed=1)
    again = Tcav.load(found.save(tmp_path / "tcav.safetensors"))
    assert again.to_dict() == found.to_dict()
    repeated = tcav(net, images, 0, planted, positives={"it": range(30)}, n_runs=4, seed=1)
    other = tcav(net, images, 0, planted, positives={"it": range(30)}, n_runs=4, seed=2)
    assert torch.equal(repeated.runs.slopes, found.runs.slopes)
    assert not torch.equal(other.runs.slopes, found.runs.slopes)
