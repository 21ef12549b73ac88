"""One unit, asked everything."""

import pytest
import torch
from torch import nn

from glasshouse.core import BadInput, NotFound, find_method
from glasshouse.core.result import draw
from glasshouse.dissect.ablations.ablation import ablate_units
from glasshouse.dissect.activity import exemplars
from glasshouse.dissect.circuitry.families import equivariance
from glasshouse.dissect.circuitry.interrogation import Interrogation, interrogate, links
from glasshouse.dissect.circuitry.joint import joint_tuning
from glasshouse.dissect.circuitry.tuning import tuning_curves
from glasshouse.report import interrogations

PHOTOS = torch.randn(30, 3, 14, 18, generator=torch.Generator().manual_seed(1))
FEW = {"edge": {"orientation": (0, 90, 180, 270)}, "curve": {"orientation": (0, 180), "radius": (3, 6)}}


def test_the_distribution_is_that_of_all_positions_of_all_images(cnn):
    found = interrogate(cnn, PHOTOS, layer="3", unit=2, stimuli=FEW, k=3, batch_size=7)
    values = cnn[:4](PHOTOS)[:, 2].detach().flatten()
    counts, edges = torch.histogram(values, 64)
    assert int(found.counts.sum()) == len(values)
    assert (found.counts - counts.long()).abs().sum() <= 4  # edges differ in their last bits
    torch.testing.assert_close(found.edges, edges, rtol=1e-4, atol=1e-5)
    assert found.firing == pytest.approx(float((values > 0).double().mean()))
    assert found.mean == pytest.approx(float(values.double().mean()), abs=1e-6)
    assert found.std == pytest.approx(float(values.double().std(correction=0)), rel=1e-6)
    assert float((found.density * torch.diff(found.edges.double())).sum()) == pytest.approx(1)
    empty = found.counts == 0
    assert found.log_density[empty].isinf().all()


def test_parts_are_what_the_methods_give_by_themselves(cnn):
    found = interrogate(cnn, PHOTOS, layer="4", unit=5, stimuli=FEW, k=3, seed=4)
    alone = exemplars(cnn, PHOTOS, layer="4", units=[5], k=3, seed=4)
    assert torch.equal(found.exemplars.strongest.ids, alone.strongest.ids)
    assert torch.equal(found.exemplars.spectrum.ids, alone.spectrum.ids)
    curve = tuning_curves(cnn, "curve", FEW["curve"], layer="4", units=[5], size=(14, 18), data=PHOTOS)
    torch.testing.assert_close(found.tunings["curve"].deviations, curve.deviations)
    assert found.best_stimulus["curve"] == pytest.approx(float(curve.deviations.max()), rel=1e-5)


def test_inputs_and_outputs_are_the_kernels_next_to_the_unit(cnn):
    found = interrogate(cnn, PHOTOS, layer="1", unit=4, stimuli=(), k=2, n_links=5)
    assert found.inputs is not None
    assert found.outputs is not None
    assert (found.inputs.layer, found.outputs.layer) == ("0", "3")
    norms = cnn[3].weight[:, 4].detach().double().flatten(1).norm(dim=1)
    assert found.outputs.units.tolist() == norms.argsort(descending=True)[:5].tolist()
    torch.testing.assert_close(found.outputs.size, norms.sort(descending=True).values[:5])
    for row, unit in enumerate(found.inputs.units.tolist()):
        kernel = cnn[0].weight[4, unit].detach().double()
        torch.testing.assert_close(found.inputs.weights[row], kernel)
        assert float(found.inputs.total[row]) == pytest.approx(float(kernel.sum()))
    last = interrogate(cnn, PHOTOS, layer="4", unit=3, stimuli=(), k=2).outputs
    assert last is not None
    torch.testing.assert_close(
        last.weights.flatten().sort().values, cnn[7].weight[:, 3].detach().double().sort().values
    )


def test_norms_are_folded_and_groups_keep_to_themselves():
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(0)
        net = nn.Sequential(
            nn.Conv2d(4, 6, 3, groups=2, bias=False),
            nn.BatchNorm2d(6),
            nn.ReLU(),
            nn.Conv2d(6, 6, 3, groups=3, bias=False),
            nn.BatchNorm2d(6),
            nn.ReLU(),
            nn.Flatten(),
            nn.Linear(6 * 4, 3),
        ).eval()
        for norm in (net[1], net[4]):
            norm.running_var.uniform_(0.5, 2)
            norm.weight.data.uniform_(0.5, 2)
    image = torch.randn(1, 4, 6, 6, generator=torch.Generator().manual_seed(0))
    scales = [norm.weight / (norm.running_var + norm.eps).sqrt() for norm in (net[1], net[4])]
    before, behind = links(net, image, "2", 4, 6, 9)
    assert before is not None
    assert behind is not None
    assert sorted(before.units.tolist()) == [2, 3]
    assert sorted(behind.units.tolist()) == [4, 5]
    for row, unit in enumerate(before.units.tolist()):
        expected = net[0].weight[4, unit - 2] * scales[0][4]
        torch.testing.assert_close(before.weights[row], expected.detach().double(), rtol=1e-5, atol=1e-6)
    for row, unit in enumerate(behind.units.tolist()):
        expected = net[3].weight[unit, 0] * scales[1][unit]
        torch.testing.assert_close(behind.weights[row], expected.detach().double(), rtol=1e-5, atol=1e-6)
    _, head = links(net, image, "5", 2, 6, 9)
    assert head is not None
    assert head.weights.shape == (3, 1, 4)
    row = head.units.tolist().index(1)
    torch.testing.assert_close(head.weights[row, 0], net[7].weight[1, 8:12].detach().double())


def test_dead_units_and_units_without_neighbours_can_be_asked_too(cnn):
    with torch.no_grad():
        cnn[3].bias[2] = -100
    found = interrogate(cnn, PHOTOS[:4], layer="4", unit=2, stimuli=FEW, k=2)
    assert found.firing == 0
    assert int(found.counts.max()) == 4 * 7 * 9
    assert found.inputs is not None
    assert interrogate(cnn, PHOTOS[:4], layer="7", unit=1, stimuli=(), k=2).outputs is None


def test_an_interrupted_pass_goes_on_and_the_noun_saves(cnn, tmp_path):
    first = interrogate(cnn, PHOTOS, layer="4", unit=1, stimuli=FEW, k=2, into=tmp_path / "parts")
    second = interrogate(cnn, PHOTOS, layer="4", unit=1, stimuli=FEW, k=2, into=tmp_path / "parts")
    assert torch.equal(first.counts, second.counts)
    again = Interrogation.load(first.save(tmp_path / "unit"))
    assert torch.equal(again.tunings["edge"].responses, first.tunings["edge"].responses)
    assert "Interrogation(4 unit 1, mean" in repr(again)


def test_a_page_shows_all_of_it(cnn):
    labelled = [(photo, index % 4) for index, photo in enumerate(PHOTOS)]
    ablation = ablate_units(cnn, labelled, layer="1", units=[3, 4])
    families = equivariance(cnn, layer="0")
    found = interrogate(cnn, PHOTOS, layer="1", unit=4, stimuli=FEW, k=2, ablation=ablation, families=families)
    page = interrogations.interrogation_page(found, PHOTOS.sigmoid())
    assert page.count("<svg") == 3
    for words in ("Unit 4 of", "Strongest inputs", "Strongest outputs", "Without it, accuracy", "Families(0, 6 units"):
        assert words in page
    assert "nan" not in page.split("<main")[1].lower().replace("nanum", "")
    joint = joint_tuning(cnn, PHOTOS, exemplars(cnn, PHOTOS, layer="1", k=2), unit=4, n_angles=4)
    for noun in (found, *found.tunings.values(), joint, families, found.inputs):
        assert draw(noun).startswith("<div>")


@pytest.mark.parametrize(
    ("change", "said"), [({"unit": 9}, "no unit 9 in layer '4'"), ({"stimuli": ["bogus"]}, "no stimulus 'bogus'")]
)
def test_a_mistake_is_named(change: dict, said: str, cnn):
    with pytest.raises((BadInput, NotFound), match=said):
        interrogate(cnn, PHOTOS[:3], **{"layer": "4", "unit": 0, "k": 1} | change)
    labelled = [(photo, index % 4) for index, photo in enumerate(PHOTOS[:8])]
    with pytest.raises(BadInput, match="ablation is of units 3, not of 0"):
        interrogate(cnn, PHOTOS, layer="4", unit=0, ablation=ablate_units(cnn, labelled, layer="4", units=[3]))


def test_it_is_found_by_its_name():
    assert find_method("interrogate", "dissect").function is interrogate
