"""What is right where Quantus 0.6.0 is known to be wrong: one test for each of 21 defects, in the order of their list.

Each value is derived from the smallest model that shows it, not from the library.
"""

import pytest
import torch
from torch import nn

from glasshouse import attribute, evaluate

GRID = (6, 8)  # every pixel of the images in conftest
RGB = (6, 10)


class Weighted(nn.Module):
    """Two classes on RGB: the weighted sum, and its opposite."""

    def __init__(self, weight):
        super().__init__()
        self.weight = nn.Parameter(weight)

    def forward(self, x):
        score = (self.weight * x).flatten(1).sum(1)
        return torch.stack([score, -score], 1)


@pytest.fixture
def coloured():
    return Weighted(torch.randn(1, 3, *RGB, generator=torch.Generator().manual_seed(5)))


@pytest.fixture
def pictures():
    return torch.randn(3, 3, *RGB, generator=torch.Generator().manual_seed(6))


def test_1_one_harmful_pixel_makes_one_step_of_the_insertion_fall(linear, explained):
    parts = torch.ones(1, 1, *GRID, dtype=torch.float64)
    parts[0, 0, 2, 3] = -0.5
    score = evaluate.monotonicity(linear, parts / linear.weight.detach(), explained(parts[:, 0]), grid=GRID)
    assert score.value.item() == pytest.approx(1 - 1 / 48)
    assert score.extras["monotone"].item() == 0


def test_2_exact_contributions_have_sensitivity_n_of_1_at_every_size_whatever_the_batch(
    linear, inputs, explained, contributions
):
    everything = {"grid": GRID, "n_samples": 20, "n_sizes": 4}
    score = evaluate.sensitivity_n(linear, inputs, explained(contributions), **everything)
    torch.testing.assert_close(score.extras["by_size"], torch.ones(3, 4), atol=1e-6, rtol=0)
    alone = evaluate.sensitivity_n(linear, inputs[:1], explained(contributions[:1]), **everything)
    assert alone.value.item() == pytest.approx(1)


def test_3_road_gives_each_rgb_image_its_own_score(coloured, explained, random_maps):
    flat = torch.tensor([[1.0, 2, 3], [-1, 0, 4], [2, 2, -3]])[:, :, None, None].expand(3, 3, *RGB)
    settings = {"order": "morf", "baseline": "road:0", "score": "logit"}  # imputation leaves an even image as it is
    score = evaluate.road(coloured, flat, explained(random_maps(3, RGB)), **settings)
    with torch.no_grad():
        torch.testing.assert_close(score.value, coloured(flat)[:, 0], rtol=1e-3, atol=1e-3)


def test_4_irof_of_equal_superpixels_of_an_rgb_image_is_a_half(explained, random_maps):
    even = Weighted(torch.ones(1, 3, *RGB))
    stripes = torch.arange(10).div(2, rounding_mode="floor").expand(3, *RGB)
    settings = {"segments": stripes, "baseline": 0.0, "score": "logit"}
    score = evaluate.irof(even, torch.ones(3, 3, *RGB), explained(random_maps(3, RGB)), **settings)
    torch.testing.assert_close(score.value, torch.full((3,), 0.5))


def test_5_infidelity_sees_one_square_at_a_time_of_any_size(linear, inputs, explained):
    zero = explained(torch.zeros(3, *GRID))
    settings = {"perturbation": "square", "largest": 5, "n_samples": 10_000}  # all there are; 5 divides neither side
    score = evaluate.infidelity(linear, inputs, zero, **settings)
    held, drops = (linear.weight * inputs).detach()[:, 0], []
    for side in range(1, 6):
        for row in range(7 - side):
            drops += [held[:, row : row + side, col : col + side].sum((1, 2)) for col in range(9 - side)]
    torch.testing.assert_close(score.value, torch.stack(drops).square().mean(0).float())


def test_6_attributions_that_add_up_to_rounding_are_complete(coloured, pictures):
    explanation = attribute.integrated_gradients(coloured, pictures, 0, n_steps=7)
    assert evaluate.completeness_gap(coloured, pictures, explanation).value.max() < 1e-4


def test_7_an_empty_mask_is_neither_hit_nor_miss(linear, inputs, explained, random_maps):
    masks = torch.ones(3, *GRID, dtype=torch.bool)
    masks[1] = False
    score = evaluate.pointing_game(linear, inputs, explained(random_maps(3)), masks)
    assert [bool(reason) for reason in score.reason] == [False, True, False]
    assert score.value.isnan().tolist() == [False, True, False]


def test_8_weighted_localisation_of_an_even_map_is_1_for_a_mask_of_any_area(linear, inputs, explained):
    masks = torch.zeros(3, *GRID, dtype=torch.bool)
    for image, columns in enumerate((1, 3, 7)):
        masks[image, :, :columns] = True
    even = explained(torch.ones(3, *GRID))
    plain = evaluate.attribution_localisation(linear, inputs, even, masks)
    torch.testing.assert_close(plain.value, torch.tensor([1, 3, 7]) / 8)
    weighted = evaluate.attribution_localisation(linear, inputs, even, masks, weighted=True)
    torch.testing.assert_close(weighted.value, torch.ones(3))


def test_9_the_mass_of_a_signed_map_is_a_share_of_what_is_positive(linear, inputs, explained):
    maps, masks = torch.zeros(1, *GRID), torch.zeros(1, *GRID, dtype=torch.bool)
    maps[0, 0, :4] = torch.tensor([3.0, -5.0, 1.0, 1.0])  # in all 0, so a quotient of plain sums is infinite
    masks[0, 0, :2] = True
    score = evaluate.relevance_mass(linear, inputs[:1], explained(maps), masks)
    assert score.value.item() == pytest.approx(3 / 5)


def test_10_the_mean_over_a_cascade_is_over_random_models_and_similarity_is_of_pictures(cnn, images):
    explanation = attribute.saliency(cnn, images)
    score = evaluate.randomise_parameters(cnn, images, explanation, order="top_down")
    steps = score.extras["cascade"]
    assert steps.shape == (3, 3), "three layers with weights, and no step before the first"
    assert (steps < 0.9999).all()
    torch.testing.assert_close(score.value, steps.mean(1))
    assert score.extras["cascade_ssim"].isfinite().all()


def test_11_smoothing_over_no_noise_is_the_explanations_own_method(cnn, images):
    values = []
    for explain in (attribute.saliency, attribute.grad_cam):
        explanation = explain(cnn, images)
        smooth = evaluate.smooth_mprt(cnn, images, explanation, n_samples=1, sigma=0.0)
        torch.testing.assert_close(smooth.value, evaluate.randomise_parameters(cnn, images, explanation).value)
        values.append(smooth.value)
    assert not torch.allclose(*values, atol=0.01)


def test_12_another_class_is_found_among_two_and_its_map_is_the_opposite(coloured, pictures):
    explanation = attribute.input_x_gradient(coloured, pictures, 0)
    torch.testing.assert_close(evaluate.random_logit(coloured, pictures, explanation).value, -torch.ones(3))


def test_13_a_neighbour_of_another_class_is_left_out_and_the_rest_decides(coloured, pictures):
    near = pictures[:1] * (1 - 1e-6)
    with torch.no_grad():
        weight = coloured.weight / coloured.weight.norm()
        near = near - (weight * near).sum() * weight  # the score is 0 up to rounding: half of the copies flip
    explanation = attribute.input_x_gradient(coloured, near, 0)
    score = evaluate.relative_input_stability(coloured, near, explanation, n_samples=200)
    assert 0.3 < score.extras["dropped"].item() < 0.7
    assert score.value.item() == pytest.approx(1, abs=1e-3)  # input x gradient of a linear model moves as its input


def test_14_a_shift_that_changes_the_class_does_not_count_for_continuity(coloured, pictures):
    explanation = attribute.input_x_gradient(coloured, pictures)
    shifts, weight = [(0, 1), (1, 0), (0, -2), (-1, 0), (2, 3)], coloured.weight.detach()[0]
    score = evaluate.continuity(coloured, pictures, explanation, shifts=shifts)
    for image, target in enumerate(explanation.target):
        slopes = []
        for down, right in shifts:
            rows = (torch.arange(RGB[0]) - down).clamp(0, RGB[0] - 1)
            columns = (torch.arange(RGB[1]) - right).clamp(0, RGB[1] - 1)
            step = pictures[image][:, rows][:, :, columns] - pictures[image]
            if int(coloured(pictures[image][None] + step)[0].argmax()) == target:
                slopes.append(float((weight * step).sum(0).abs().sum() / step.norm()))
        assert score.extras["dropped"][image].item() == pytest.approx(1 - len(slopes) / len(shifts))
        assert not slopes or score.value[image].item() == pytest.approx(max(slopes), rel=1e-4)
        assert bool(score.reason[image]) == (not slopes)
    assert 0 < score.extras["dropped"].sum() < 3


def test_15_a_score_of_0_has_a_monotonicity_correlation(coloured, pictures, explained):
    with torch.no_grad():
        weight = coloured.weight / coloured.weight.norm()
        balanced = pictures - (weight * pictures).sum((1, 2, 3), keepdim=True) * weight
        held = (coloured.weight * balanced).sum(1)
        assert coloured(balanced)[:, 0].abs().max() < 1e-4
    nothing = torch.zeros(1, 3, *RGB)  # what each pixel is replaced by: the effect is its contribution squared
    score = evaluate.monotonicity_correlation(coloured, balanced, explained(held), donors=nothing, grid=RGB)
    torch.testing.assert_close(score.value, torch.ones(3), atol=1e-4, rtol=0)


def test_16_insensitivity_is_compared_on_features_of_several_pixels(explained, inputs):
    weight = torch.ones(1, *GRID, dtype=torch.float64)
    weight[..., 4:] = 0
    blind = nn.Sequential(nn.Flatten(), nn.Linear(48, 2, bias=False).double())
    with torch.no_grad():
        blind[1].weight.copy_(torch.stack([weight.flatten(), torch.zeros(48)]))
    for maps, wrong in ((weight.expand(3, -1, -1), 0), (torch.ones(3, *GRID), 0.5)):
        score = evaluate.non_sensitivity(blind, inputs, explained(maps), grid=(3, 4))
        torch.testing.assert_close(score.value, torch.full((3,), float(wrong)))


@pytest.mark.parametrize(
    "metric",
    [
        evaluate.deletion,
        evaluate.sensitivity_n,
        evaluate.monotonicity,
        evaluate.faithfulness_correlation,
        evaluate.infidelity,
    ],
)
def test_17_every_metric_reads_the_output_that_it_was_told_to(metric, cnn, images):
    explanation, values = attribute.input_x_gradient(cnn, images), []
    for reading in ("logit", "prob"):
        score = metric(
            cnn, images, explanation, score=reading, **({"n_steps": 4} if metric is evaluate.deletion else {})
        )
        assert score.settings["score"] == reading
        values.append(score.value)
    assert not torch.allclose(*values)
    with torch.no_grad():
        curve = evaluate.deletion(cnn, images, explanation, n_steps=4, score="logit").extras["curve"]
        torch.testing.assert_close(curve[:, 0], cnn(images).amax(1), atol=1e-5, rtol=1e-5)


def test_18_a_count_of_pixels_is_the_same_beside_a_map_of_huge_values(linear, inputs, explained):
    maps = torch.rand(2, *GRID, generator=torch.Generator().manual_seed(0)) + 0.5
    beside = torch.stack([maps[0], 1e6 * maps[1]])
    score = evaluate.effective_complexity_count(linear, inputs[:2], explained(beside))
    assert score.value.tolist() == [48, 48]


def test_19_a_curve_has_an_area_with_both_ends_and_over_0_to_1(linear, explained, random_maps):
    one = 1 / linear.weight.detach()[None]
    score = evaluate.deletion(linear, one, explained(random_maps(1)), n_steps=5, baseline=0.0, score="logit")
    assert score.extras["curve"].shape == (1, 6)
    assert score.value.item() == pytest.approx(48 / 2)  # a straight line from 48 to 0


def test_20_no_pass_is_made_twice_or_for_another_image(cnn, images, counted):
    explanation, sizes = attribute.saliency(cnn, images), counted(cnn)
    score = evaluate.non_sensitivity(cnn, images, explanation, grid=(2, 3), n_samples=2)
    assert score.n_forward == sum(sizes) == 3 * (2 * 6 + 1)
    sizes.clear()
    score = evaluate.relative_input_stability(cnn, images, explanation, n_samples=5, same_prediction=False)
    assert score.n_forward == sum(sizes) == 3 * 5
    sizes.clear()
    score = evaluate.relative_output_stability(cnn, images, explanation, n_samples=5, same_prediction=False)
    assert score.n_forward == sum(sizes) == 3 * (5 + 5 + 1)


def test_21_focus_counts_the_cells_of_the_class_and_larger_drops_are_called_better(
    linear, inputs, explained, contributions
):
    kinds = [0, 0, 1, 1, 2, 2]
    images = torch.tensor(kinds)[:, None, None, None].expand(6, 1, 3, 5).double()  # wider than high, a shade per class

    def explain(model: object, mosaics: torch.Tensor, target: list[int]) -> torch.Tensor:
        return (mosaics[:, 0] == torch.tensor(target)[:, None, None]).double()

    score = evaluate.focus(nn.Identity(), images, kinds, explain, n_mosaics=20)
    torch.testing.assert_close(score.value, torch.ones_like(score.value))
    assert score.chance is not None
    right, wrong = (
        evaluate.region_perturbation(linear, inputs, explained(sign * contributions), patch_px=2, score="logit")
        for sign in (1, -1)
    )
    assert right.direction == "up"
    assert (right.value > wrong.value).all()


def test_there_are_21(request: pytest.FixtureRequest):
    numbers = {name.split("_")[1] for name in vars(request.module) if name.startswith("test_")}
    assert {str(number) for number in range(1, 22)} <= numbers
