"""Class vectors as sums of concepts: logits split to the last digit, maps that add up, and what is not linear told."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from glasshouse.core import BadInput, NotFound, borrow, probe
from glasshouse.core.labelled import Label
from glasshouse.dissect.concepts.basis import Decomposition, decompose
from glasshouse.dissect.concepts.directions import ConceptVectors
from glasshouse.dissect.concepts.shares import ConceptSplit


def learnt(vectors: Tensor, layer: str, units: Tensor | None = None) -> ConceptVectors:
    """These vectors, as if they had been learnt."""
    c, d = vectors.shape
    ones, zeros = torch.ones(c), torch.zeros(c)
    labels = tuple(Label(number, f"concept {number}", "object") for number in range(c))
    return ConceptVectors(
        layer,
        torch.arange(d) if units is None else units,
        (7, 9),
        labels,
        "positions",
        "logistic",
        F.normalize(vectors),
        ones,
        zeros,
        vectors,
        *(ones,) * 4,
        ones.long(),
        ones.long(),
    )


@pytest.fixture
def vectors() -> ConceptVectors:
    return learnt(torch.randn(12, 8, generator=torch.Generator().manual_seed(1)), "4")


@pytest.fixture
def photos() -> Tensor:
    return torch.randn(5, 3, 14, 18, generator=torch.Generator().manual_seed(2))


def test_class_vectors_are_the_rows_of_the_last_layer_found_without_looking_for_it(cnn, photos, vectors):
    found = decompose(cnn, photos, vectors)
    assert found.exact
    torch.testing.assert_close(found.weights, cnn[-1].weight, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(found.bias, cnn[-1].bias, rtol=1e-4, atol=1e-6)
    assert found.classes == (0, 1, 2, 3)


@pytest.mark.parametrize("solver", ["nnls", "gram_schmidt"])
def test_class_vectors_are_concepts_and_what_is_left(cnn, photos, vectors, solver):
    found = decompose(cnn, photos, vectors, n_concepts=4, solver=solver)
    torch.testing.assert_close(found.basis.mean(1), torch.zeros(12), rtol=0, atol=1e-6)
    torch.testing.assert_close(found.basis.norm(dim=1), torch.ones(12))
    assert found.chosen.shape == (4, 4)
    goal = F.normalize(cnn[-1].weight.detach())
    for row in range(4):
        members = found.basis[found.chosen[row].clamp(min=0)]
        left = goal[row] - found.coefficients[row] @ members
        torch.testing.assert_close(found.residual[row], left, rtol=1e-4, atol=1e-5)
        if solver == "nnls":
            assert (found.coefficients[row] >= 0).all()
            assert (members @ left)[found.coefficients[row] > 0].abs().max() < 1e-5
            torch.testing.assert_close(left.norm(), found.errors[row, -1], rtol=1e-4, atol=1e-5)
    assert (found.errors.diff(dim=1) <= 1e-6).all()


@pytest.mark.parametrize("solver", ["nnls", "gram_schmidt"])
def test_contributions_sum_to_the_logit_and_maps_to_the_class_activation_map(cnn, photos, vectors, solver):
    seen = decompose(cnn, photos, vectors, solver=solver).explain(cnn, photos, [0, 1, 2, 3, 3])
    with torch.no_grad(), probe(cnn, "4") as kept:
        logits = cnn(photos)
    target = torch.tensor([0, 1, 2, 3, 3])
    expected = logits[torch.arange(5), target]
    torch.testing.assert_close(seen.logit, expected, rtol=1e-4, atol=1e-5)
    summed = seen.contributions.sum(1) + seen.residual + seen.bias
    torch.testing.assert_close(summed, expected, rtol=0, atol=1e-5)
    assert seen.rest.abs().max() < 1e-5
    cam = torch.einsum("nk,nkij->nij", cnn[-1].weight[target], kept["4"]).detach()
    torch.testing.assert_close(seen.maps.sum(1), cam, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(seen.maps[:, :-1].mean((2, 3)), seen.contributions)
    assert seen.class_map().shape == (5, 14, 18)


def test_each_map_is_the_concept_read_at_each_position(cnn, photos, vectors):
    found = decompose(cnn, photos, vectors, n_concepts=3)
    seen = found.explain(cnn, photos, 2)
    with torch.no_grad(), probe(cnn, "4") as kept:
        cnn(photos)
    length, row = float(cnn[-1].weight[2].detach().norm()), found.row(2)
    for rank in range(3):
        q, s = found.basis[found.chosen[row, rank]], float(found.coefficients[row, rank])
        by_hand = length * s * sum(q[u] * kept["4"][:, u] for u in range(8))
        torch.testing.assert_close(seen.maps[:, rank], by_hand, rtol=1e-4, atol=1e-5)
        assert seen.concepts[0][rank] == f"concept {int(found.chosen[row, rank])}"


def test_a_head_of_several_reshaping_layers_is_as_linear(photos, vectors):
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(3)
        head = [nn.AvgPool2d((7, 9)), nn.Flatten(), nn.Linear(8, 6), nn.Dropout(), nn.Linear(6, 3)]
        net = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2), nn.Identity(), *head).eval()
    found = decompose(net, photos, learnt(vectors.vectors, "3"))
    assert found.exact
    torch.testing.assert_close(found.weights, net[8].weight @ net[6].weight, rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(found.bias, net[8].weight @ net[6].bias + net[8].bias, rtol=1e-3, atol=1e-5)


def test_where_it_is_not_linear_weights_are_mean_gradients_and_the_rest_is_told(cnn, photos, vectors):
    found = decompose(cnn, photos, learnt(vectors.vectors[:, :6], "1"), classes=[2, 0], batch_size=2)
    assert not found.exact
    assert "by mean gradients" in repr(found)
    slopes = []
    for image in photos:
        with probe(cnn, "1") as kept:
            output = cnn(image[None])
        slopes.append(torch.autograd.grad(output[0, 2], kept["1"])[0].sum((2, 3))[0])
    torch.testing.assert_close(found.weights[0], torch.stack(slopes).mean(0), rtol=1e-4, atol=1e-5)
    seen = found.explain(cnn, photos, 2)
    summed = seen.contributions.sum(1) + seen.residual + seen.bias + seen.rest
    torch.testing.assert_close(summed, seen.logit, rtol=0, atol=1e-5)
    assert seen.rest.abs().max() > 1e-3
    torch.testing.assert_close(seen.rest.mean(), torch.tensor(0.0), rtol=0, atol=1e-5)  # the bias is the mean of it


def test_linear_in_the_mean_of_some_units_only_is_not_called_exact(cnn, photos, vectors):
    units = torch.tensor([0, 2, 5])
    found = decompose(cnn, photos, learnt(vectors.vectors[:, :3], "4", units))
    assert not found.exact
    torch.testing.assert_close(found.weights, cnn[-1].weight[:, units], rtol=1e-4, atol=1e-5)


def test_a_weighted_pooling_is_not_called_exact(photos, vectors):
    class Centre(nn.Module):
        def forward(self, maps: Tensor) -> Tensor:
            return maps[:, :, 2:5, 3:6].mean((2, 3))

    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(3)
        net = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.MaxPool2d(2), Centre(), nn.Linear(8, 3)).eval()
    assert not decompose(net, photos, learnt(vectors.vectors, "1")).exact


def test_the_users_model_is_left_as_it_was(cnn, photos, vectors):
    before = {name: weight.clone() for name, weight in cnn.state_dict().items()}
    found = decompose(cnn, photos, vectors)
    found.explain(cnn, photos)
    assert all(torch.equal(before[name], weight) for name, weight in cnn.state_dict().items())
    assert all(weight.grad is None and weight.requires_grad for weight in cnn.parameters())
    with borrow(cnn, photos) as network:
        assert not any(module._forward_hooks for module in network.modules())


def split(contributions: list[float], residual: float) -> ConceptSplit:
    values = torch.tensor([[*contributions, residual]])
    logit = values.sum(1) + 0.5
    maps = values[:, :, None, None].expand(-1, -1, 2, 3)
    names = (("roof", "window", "door"),)
    part = (values[:, :-1], values[:, -1], torch.tensor([0.5]), torch.zeros(1), logit)
    return ConceptSplit("layer", (1,), names, *part, maps, (8, 12), ("sky", "house"))


def test_captions_name_the_largest_shares():
    seen = split([1.0, 2.0, -0.5], 1.5)
    assert seen.captions(2) == ["house: window 50 %, roof 25 %"]
    assert "house: window 50 %" in repr(seen)
    torch.testing.assert_close(seen.share.sum() + 1.5 / 4, torch.tensor(1.0))


def test_a_layer_that_speaks_against_the_class_has_no_shares_and_captions_in_logits():
    seen = split([1.0, -2.0, 0.5], -3.0)
    assert seen.share.isnan().all()
    assert seen.captions(2) == ["house: roof +1.00, door +0.50"]


def test_heat_maps_of_single_concepts_are_explanations_to_draw():
    seen = split([1.0, 2.0, -0.5], 1.5)
    drawn = seen.explanation(0)
    assert (drawn.method, drawn.target, drawn.settings["concepts"]) == ("decompose", (1,), ("window",))
    torch.testing.assert_close(drawn.heatmap, torch.full((1, 8, 12), 2.0))
    assert seen.explanation(-1).settings["concepts"] == ("residual",)
    with pytest.raises(BadInput, match="rank 3"):
        seen.explanation(3)


def test_recipes_and_results_save_and_load(cnn, photos, vectors, tmp_path):
    found = decompose(cnn, photos, vectors, n_concepts=3)
    recipe = found.recipe(1)
    assert list(recipe.values()) == sorted(recipe.values(), reverse=True)
    again = Decomposition.load(found.save(tmp_path / "basis.safetensors"))
    assert again.to_dict() == found.to_dict()
    seen = found.explain(cnn, photos)
    assert ConceptSplit.load(seen.save(tmp_path / "split.safetensors")).to_dict() == seen.to_dict()
    assert seen.target == tuple(cnn(photos).argmax(1).tolist())


def test_what_cannot_be_decomposed_is_said(cnn, photos, vectors):
    with pytest.raises(BadInput, match="two or more"):
        decompose(cnn, photos[:1], vectors)
    with pytest.raises(BadInput, match="a number for every position"):
        decompose(cnn, photos, learnt(vectors.vectors, "4", torch.arange(2)))
    with pytest.raises(BadInput, match="not all among the 4"):
        decompose(cnn, photos, vectors, classes=[4])
    with pytest.raises(BadInput, match="n_concepts=0"):
        decompose(cnn, photos, vectors, n_concepts=0)
    with pytest.raises(NotFound, match="class 3 was not decomposed"):
        decompose(cnn, photos, vectors, classes=[1]).explain(cnn, photos, 3)
