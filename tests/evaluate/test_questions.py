"""What can be asked: every kind of feature and every baseline beside a slow derivation, changes, and listening."""

from itertools import chain
from statistics import mean

import numpy as np
import pytest
import torch
from scipy.ndimage import gaussian_filter

from glasshouse import evaluate
from glasshouse.core import BadInput, Model, Preprocess, generator
from glasshouse.evaluate.baselines import Donors, filling, substrate
from glasshouse.evaluate.engine import Answers
from glasshouse.evaluate.questions import (
    CLEAN,
    NOTHING,
    Cells,
    Changed,
    Elements,
    Ranked,
    Segments,
    fingerprint,
    keeping,
    order_of,
    ranking,
    soft_mask,
    sums_over,
    total_of,
)

SIZE = (14, 18)
"""Of the images in `conftest.py`: not square, and not divisible by the grids below."""


def draws(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def labels_of(counts, size=SIZE, seed=0):
    """Label maps with different numbers of segments, of any shape, every number of them used."""
    maps = []
    for row, count in enumerate(counts):
        drawn = torch.randint(count, size, generator=torch.Generator().manual_seed(seed + row))
        drawn.flatten()[:count] = torch.arange(count)
        maps.append(drawn)
    return torch.stack(maps)


def answer_of(model, image, target):
    return float(model(image[None]).double().softmax(1)[0, target].detach())


# Features


def test_segments_are_counted_from_zero_in_each_image():
    labels = torch.tensor([[[7, 7], [3, 9]], [[5, 5], [5, 5]]])
    found = Segments.of(labels)
    assert found.labels.tolist() == [[[1, 1], [0, 2]], [[0, 0], [0, 0]]]
    assert found.counts.tolist() == [3, 1]
    assert total_of(found) == 3
    assert found.key == Segments.of(labels * 2).key != Segments.of(labels.flip(0)).key


@pytest.mark.parametrize("features", [SIZE, (3, 4), (1, 1), Elements((3, *SIZE)), Segments.of(labels_of([5, 9, 2]))])
def test_sums_over_features_are_those_of_a_loop(features):
    values = draws(3, 3, *SIZE) if isinstance(features, Elements) else draws(3, *SIZE)
    found = sums_over(values, features)
    expected = torch.zeros(3, total_of(features), dtype=torch.float64)
    for n in range(3):
        for row in range(SIZE[0]):
            for col in range(SIZE[1]):
                if isinstance(features, Elements):
                    for c in range(3):
                        expected[n, (c * SIZE[0] + row) * SIZE[1] + col] += values[n, c, row, col]
                elif isinstance(features, Segments):
                    expected[n, features.labels[n, row, col]] += values[n, row, col]
                else:
                    rows, cols = features
                    expected[n, (row * rows // SIZE[0]) * cols + col * cols // SIZE[1]] += values[n, row, col]
    torch.testing.assert_close(found, expected)


def test_elements_need_a_value_for_each_channel():
    with pytest.raises(BadInput, match="native values are n c h w"):
        sums_over(draws(2, *SIZE), Elements((3, *SIZE)))


def test_ranks_of_segments_are_the_places_of_an_images_own():
    counts = [4, 7, 1]
    features = Segments.of(labels_of(counts))
    maps = draws(3, *SIZE)
    ranks = order_of(maps, features, 0).ranks
    sums = sums_over(maps, features)
    for n, count in enumerate(counts):
        own = sums[n, :count].tolist()
        assert ranks[n, :count].tolist() == [sum(other > value for other in own) for value in own]


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("count", [3, 15, 17])
def test_ties_between_segments_do_not_depend_on_how_many_other_images_have(seed, count):
    own = labels_of([count])
    alone = ranking(torch.zeros(1, count), Segments.of(own), seed).ranks[0]
    for more in (2, 16, 40, 100):
        others = Segments.of(torch.cat([own, labels_of([more])]))
        together = ranking(torch.zeros(2, max(count, more)), others, seed).ranks[0]
        assert together[:count].equal(alone)
    assert sorted(alone.tolist()) == list(range(count))


def test_ties_between_segments_are_broken_by_chance():
    features = Segments.of(labels_of([6]))
    first = {int(ranking(torch.zeros(1, 6), features, seed).ranks[0].argmin()) for seed in range(40)}
    assert first == set(range(6))


def test_images_with_different_numbers_of_segments_do_not_influence_each_other(cnn, images):
    counts = [3, 11, 6]
    labels, maps = labels_of(counts), draws(3, *SIZE)
    maps[0] = 0  # all segments tied

    def asked(which):
        features = Segments.of(labels[which])
        order = order_of(maps[which], features, 4)
        bits = torch.tensor([1, 0, 0, 1, 1, 0, 1, 0, 1, 1, 0], dtype=torch.uint8)[: total_of(features)]
        ranked = [keeping(Ranked(order, low, high), "image_mean") for low, high in [(0, 1), (1, 3), (2, 99)]]
        return [*ranked, keeping(Cells(features, bytes(bits.tolist())), "image_mean")]

    together = Answers(cnn, images, 2).read(asked([0, 1, 2]), "prob")
    for n in range(3):
        alone = Answers(cnn, images[n : n + 1], 2).read(asked([n]), "prob")
        torch.testing.assert_close(alone[0], together[n], atol=1e-6, rtol=1e-5)


def test_segments_and_elements_equal_a_loop_and_can_be_asked_together_with_cells(cnn, images):
    labels, maps = labels_of([3, 11, 6]), draws(3, *SIZE)
    segments, elements = Segments.of(labels), Elements((3, *SIZE))
    own = draws(3, 3, *SIZE, seed=1)
    by_segment, by_element = order_of(maps, segments, 0), order_of(own, elements, 0)
    some = bytes([1, 0, 1, 1, 0, 0, 1, 0, 1, 0, 0])
    asked = [
        keeping(Ranked(by_segment, 0, 2), 0.3),
        keeping(Cells(segments, some), 0.3),
        keeping(Ranked(by_element, 40, 600), 0.3),
        keeping(Cells((1, 2), b"\1\0"), 0.3),
        CLEAN,
    ]
    table = Answers(cnn, images, 1, chunk=4).read(asked, "prob")
    sums = sums_over(maps, segments)
    for n in range(3):
        count = int(labels[n].max()) + 1
        best = sorted(range(count), key=lambda s, n=n: -float(sums[n, s]))[:2]
        shown = [images[n].clone() for _ in asked]
        places = own[n].flatten().argsort(descending=True).argsort().view(3, *SIZE)
        for row in range(SIZE[0]):
            for col in range(SIZE[1]):
                segment = int(labels[n, row, col])
                if segment not in best:
                    shown[0][:, row, col] = 0.3
                if not some[segment]:
                    shown[1][:, row, col] = 0.3
                for c in range(3):
                    if not 40 <= int(places[c, row, col]) < 600:
                        shown[2][c, row, col] = 0.3
        shown[3][:, :, 9:] = 0.3
        expected = [answer_of(cnn, image, 1) for image in shown]
        assert table[n].tolist() == pytest.approx(expected, abs=1e-6)


def test_a_channel_cannot_be_imputed_from_its_neighbours_alone(cnn, images):
    order = order_of(draws(3, 3, *SIZE), Elements((3, *SIZE)), 0)
    with pytest.raises(BadInput, match="whole pixels"):
        Answers(cnn, images, 0).read([keeping(Ranked(order, 0, 9), "road")], "logit")


# Baselines

PRE = Preprocess(size=SIZE, mean=(0.2, 0.4, 0.6), std=(0.5, 0.25, 2.0))


@pytest.fixture(params=[(3, 3, *SIZE), (2, 1, 9, 7)], ids=["rgb", "grey"])
def pictures(request):
    return draws(*request.param, seed=6)


def test_numbers_and_means(pictures):
    assert substrate(pictures, 0.7).unique().tolist() == [0.7]
    assert substrate(pictures, -2).unique().tolist() == [-2]
    assert substrate(pictures, "mean").unique().tolist() == [0]
    found = substrate(pictures, "image_mean")
    for n, image in enumerate(pictures):
        for c, channel in enumerate(image):
            assert found[n, c].flatten().tolist() == pytest.approx([mean(channel.flatten().tolist())] * channel.numel())


def test_a_colour_goes_through_the_models_own_normalisation(cnn, images):
    model = Model(cnn, PRE, ("a", "b", "c", "d"))
    grey, colour = (substrate(images, name, model=model)[0, :, 3, 5].tolist() for name in ("rgb:0.5", "rgb:1,0,.25"))
    assert grey == pytest.approx([(0.5 - 0.2) / 0.5, (0.5 - 0.4) / 0.25, (0.5 - 0.6) / 2.0])
    assert colour == pytest.approx([(1 - 0.2) / 0.5, -0.4 / 0.25, (0.25 - 0.6) / 2.0])
    table = Answers(model, images, 1).read([keeping(NOTHING, "rgb:1,0,.25")], "prob")
    expected = answer_of(cnn, torch.tensor(colour)[:, None, None].expand(3, *SIZE), 1)
    assert table[:, 0].tolist() == pytest.approx([expected] * 3)
    with pytest.raises(BadInput, match="a bare network has none"):
        substrate(images, "rgb:0.5", model=cnn)
    with pytest.raises(BadInput, match="Divide by 255"):
        substrate(images, "rgb:128", model=model)
    with pytest.raises(BadInput, match="3 numbers for 1 channels"):
        substrate(images[:, :1], "rgb:1,0,0", model=model)


@pytest.mark.parametrize(
    ("name", "sigma", "radius"), [("blur:1.5", 1.5, 4), ("blur:2:5", 2.0, 2), ("blur", None, None)]
)
def test_blurs_are_those_of_scipy(pictures, name, sigma, radius):
    sigma = sigma or 10 / 224 * min(pictures.shape[-2:])
    radius = radius or max(1, round(3 * sigma))
    found = substrate(pictures, name)
    for n, image in enumerate(pictures.numpy()):
        for c, channel in enumerate(image):
            expected = gaussian_filter(channel, sigma, mode="nearest", radius=radius)
            np.testing.assert_allclose(found[n, c].numpy(), expected, atol=1e-6)


@pytest.mark.parametrize("side", [1, 4, 7])
def test_patch_means_are_means_of_squares_of_about_that_side(pictures, side):
    (h, w), found = pictures.shape[-2:], substrate(pictures, f"patch_mean:{side}")
    rows, cols = -(-h // side), -(-w // side)
    for row in range(h):
        for col in range(w):
            mine = [r for r in range(h) if r * rows // h == row * rows // h]
            across = [c for c in range(w) if c * cols // w == col * cols // w]
            assert len(mine) <= side
            assert len(across) <= side
            expected = pictures[:, :, mine][..., across].mean((2, 3))
            torch.testing.assert_close(found[..., row, col], expected)


def test_noise_is_uniform_in_each_channels_range_and_one_draw_for_all_images(pictures):
    found = substrate(pictures, "noise:3")
    low, high = pictures.amin((2, 3), keepdim=True), pictures.amax((2, 3), keepdim=True)
    drawn = (found - low) / (high - low)
    torch.testing.assert_close(drawn, drawn[:1].expand_as(drawn))
    assert drawn.min() >= 0
    assert drawn.max() <= 1
    assert float(drawn[0].mean()) == pytest.approx(0.5, abs=3 * (1 / 12 / drawn[0].numel()) ** 0.5)
    assert found.equal(substrate(pictures, "noise:3"))
    assert not found.equal(substrate(pictures, "noise"))
    assert substrate(pictures, "noise").equal(substrate(pictures, "noise:0"))


def test_permuted_pixels_keep_their_channels_and_go_to_the_same_place_in_every_image(pictures):
    found = substrate(pictures, "permute:5").flatten(2)
    before = pictures.flatten(2)
    came_from = [before[0, 0].tolist().index(value) for value in found[0, 0].tolist()]
    assert sorted(came_from) == list(range(before.shape[2]))
    assert came_from != sorted(came_from)
    assert found.equal(before[:, :, came_from])
    assert not found.equal(substrate(pictures, "permute").flatten(2))


def test_an_image_is_filled_in_the_same_alone_and_among_others(pictures):
    for name in ("image_mean", "blur", "patch_mean:3", "noise", "permute"):
        alone = substrate(pictures[1:2], name, torch.tensor([1]))
        torch.testing.assert_close(alone[0], substrate(pictures, name)[1])


@pytest.mark.parametrize("chunk", [1, 2, 100])
def test_images_to_fill_in_with_are_one_for_all_or_one_for_each(cnn, images, chunk):
    one, each = (draws(k, 3, *SIZE, seed=k).float() for k in (1, 3))
    asked = [keeping(Cells((1, 2), b"\0\1"), one), keeping(Cells((1, 2), b"\0\1"), each)]
    table = Answers(cnn, images, 3, chunk=chunk).read(asked, "prob")
    for n in range(3):
        for place, filled in enumerate((one[0], each[n])):
            shown = images[n].clone()
            shown[:, :, :9] = filled[:, :, :9]
            assert float(table[n, place]) == pytest.approx(answer_of(cnn, shown, 3), abs=1e-6)


def test_equal_images_to_fill_in_with_are_one_question_and_others_another(cnn, images):
    first, answers = draws(1, 3, *SIZE), Answers(cnn, images, 0)
    assert answers.ask([keeping(NOTHING, first), keeping(NOTHING, first.clone())]) == 3 * 2
    assert answers.ask([keeping(NOTHING, first + 1)]) == 3
    assert filling(first).name != filling(first.flatten(2)[..., None]).name
    halves = first.half(), first.half().view(torch.bfloat16)  # the same bits
    assert filling(halves[0]).name != filling(halves[1]).name


def test_images_to_fill_in_with_that_do_not_fit_are_refused(cnn, images):
    for wrong, seen in ((draws(3, *SIZE), "is not images"), (draws(1, 3, 14, 17), "do not have the shape")):
        with pytest.raises(BadInput, match=seen):
            substrate(images, wrong)
    two = draws(2, 3, *SIZE)
    with pytest.raises(BadInput, match="2 baseline images for 3"):
        substrate(images, two)
    with pytest.raises(BadInput, match="2 baseline images for 3"):
        Answers(cnn, images, 0).read([keeping(NOTHING, two)], "logit")


@pytest.mark.parametrize("name", ["road", "road:0.2"])
def test_road_fills_in_what_the_mask_leaves(cnn, images, name):
    kept = bytes([1, 0, 0, 1, 1, 1])
    table = Answers(cnn, images, 2).read([keeping(Cells((2, 3), kept), name)], "prob")
    mask = torch.zeros(*SIZE, dtype=torch.bool)
    for row in range(14):
        for col in range(18):
            mask[row, col] = bool(kept[(row * 2 // 14) * 3 + col * 3 // 18])
    for n in range(3):
        filled = evaluate.impute(images[n : n + 1], mask[None], noise=0.2 if ":" in name else 0.01)[0]
        assert filled[:, mask].equal(images[n][:, mask])
        assert float(table[n, 0]) == pytest.approx(answer_of(cnn, filled, 2), abs=1e-5)


@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("road:much", "not 'road' and one number"),
        ("road:0.1:7", "not 'road' and one number"),
        ("road:nan", "not finite"),
        ("noise:inf", "a number that cannot be read"),
        (float("nan"), "not finite"),
        (torch.full((1, 3, *SIZE), torch.inf), "NaN or infinite"),
        ("noise:x", "a number that cannot be read"),
        ("blur:-1", "not above 0"),
        ("blur:2:4", "has no middle"),
        ("patch_mean:99", "do not fit"),
        ("patch_mean:0", "do not fit"),
        ("rgb", "is unknown"),
        ("rgb:1,0", "is unknown"),
    ],
)
def test_a_baseline_that_cannot_be_made_says_why(cnn, images, name, why):
    with pytest.raises(BadInput, match=why):
        Answers(cnn, images, 0).read([keeping(Cells((1, 2), b"\0\1"), name)], "logit")


# Donors


@pytest.mark.parametrize("chunk", [1, 5, 100])
@pytest.mark.parametrize("score", ["logit", "prob", "margin"])
def test_an_answer_over_donors_is_the_mean_of_the_answers_over_each(cnn, images, chunk, score):
    givers, maps = draws(4, 3, *SIZE, seed=8).float(), draws(3, *SIZE)
    donors, order = Donors.of(givers), order_of(maps, None, 0)
    weights = torch.rand(3, *SIZE, generator=generator(0))
    keeps = [Cells((1, 2), b"\0\1"), Ranked(order, 0, 80), NOTHING]
    asked = [*(keeping(keep, donors) for keep in keeps), soft_mask(weights, donors), CLEAN]
    answers = Answers(cnn, images, 3, chunk=chunk)
    table = answers.read(asked, score)
    half = torch.zeros(3, *SIZE)
    half[:, :, 9:] = 1
    for place, keep in enumerate([half, (order.ranks < 80).view(3, *SIZE), torch.zeros(3, *SIZE), weights]):
        shown = torch.stack([keep[:, None] * images + (1 - keep[:, None].float()) * giver for giver in givers])
        with torch.no_grad():
            logits = cnn(shown.flatten(0, 1)).double()
        rest = logits[:, :3].amax(1)
        value = {"logit": logits[:, 3], "prob": logits.softmax(1)[:, 3], "margin": logits[:, 3] - rest}[score]
        torch.testing.assert_close(table[:, place], value.view(4, 3).mean(0), atol=1e-6, rtol=1e-5)
    assert answers.n_forward == answers.charge(asked) == 3 * (1 + 4 * 4)


def test_a_donor_is_asked_once_whoever_else_has_it_and_however_often_it_is_given(cnn, images):
    givers, answers = draws(3, 3, *SIZE, seed=8).float(), Answers(cnn, images, 0)
    keep = Cells((1, 2), b"\0\1")
    assert answers.ask([keeping(keep, Donors.of(givers))]) == 3 * (1 + 3)
    assert answers.ask([keeping(keep, Donors.of(givers[1:])), keeping(keep, givers[:1])]) == 0
    twice = Donors.of(givers[[0, 0, 1]])
    assert twice.passes == 2
    single = answers.read([keeping(keep, giver[None]) for giver in givers], "logit")
    value = answers.read([keeping(keep, twice)], "logit")[:, 0]
    torch.testing.assert_close(value, (2 * single[:, 0] + single[:, 1]) / 3)
    assert answers.n_forward == 12


def test_metrics_over_donors_share_the_answers_of_those_that_draw_from_them(cnn, images, explained):
    givers, explanation = draws(2, 3, *SIZE, seed=8).float(), explained(draws(3, *SIZE).float(), 1)
    answers = Answers(cnn, images, [1] * 3)
    drawn = evaluate.monotonicity_correlation(cnn, images, explanation, donors=givers, n_samples=2, answers=answers)
    spent = answers.n_forward
    mean = evaluate.faithfulness_estimate(cnn, images, explanation, baseline=Donors.of(givers), answers=answers)
    assert answers.n_forward == spent == drawn.n_forward
    assert mean.n_forward == 0
    assert mean.valid.all()


def test_donors_are_the_mean_pixel_where_only_that_can_be_shown(pictures):
    givers = draws(5, *pictures.shape[1:], seed=8)
    torch.testing.assert_close(substrate(pictures, Donors.of(givers)), givers.mean(0).expand_as(pictures))


def test_donors_that_do_not_fit_are_refused(cnn, images):
    for wrong in (draws(3, *SIZE), draws(0, 3, *SIZE)):
        with pytest.raises(BadInput, match="are not images k c h w"):
            Donors.of(wrong)
    with pytest.raises(BadInput, match="do not have the shape"):
        Answers(cnn, images, 0).read([keeping(NOTHING, Donors.of(draws(2, 3, 14, 17)))], "logit")


# Changes


def brighter(by, calls=None):
    def change(shown, image):
        if calls is not None:
            calls.append(image.tolist())
        return shown + by * (1 + image.to(shown))[:, None, None, None]

    return Changed(("brighter", by), change)


@pytest.mark.parametrize("chunk", [1, 4, 100])
def test_a_change_is_given_each_image_and_its_number(cnn, images, chunk):
    asked = [brighter(0.5), keeping(Cells((2, 1), b"\0\1"), "mean"), brighter(-1.0)]
    table = Answers(cnn, images, 1, chunk=chunk).read(asked, "prob")
    for n in range(3):
        half = images[n].clone()
        half[:, :7] = 0
        shown = [images[n] + 0.5 * (1 + n), half, images[n] - (1 + n)]
        assert table[n].tolist() == pytest.approx([answer_of(cnn, image, 1) for image in shown], abs=1e-6)


def test_changes_of_one_name_are_made_once(cnn, images):
    calls, answers = [], Answers(cnn, images, 0)
    assert answers.ask([brighter(0.5, calls), brighter(0.5, calls), brighter(0.25)]) == 3 * 3
    assert answers.ask([brighter(0.5, calls)]) == 0
    assert sorted(chain(*calls)) == [0, 1, 2]


def test_a_change_leaves_the_images_as_they_were(cnn, images):
    def wreck(shown, image):
        return shown.zero_()

    before, answers = images.clone(), Answers(cnn, images, 0)
    answers.ask([Changed(("wreck",), wreck)])
    assert answers.images.equal(before)
    assert images.equal(before)


@pytest.mark.parametrize("baseline", [0.0, 0.4, "blur:2", "image_mean", "tensor"])
def test_a_soft_mask_mixes_image_and_baseline(cnn, images, baseline):
    weights = torch.rand(3, *SIZE, generator=generator(0))
    filled = draws(3, 3, *SIZE).float() if baseline == "tensor" else baseline
    table = Answers(cnn, images, 2, chunk=2).read([soft_mask(weights, filled)], "prob")
    behind = substrate(images, filled)
    for n in range(3):
        shown = weights[n] * images[n] + (1 - weights[n]) * behind[n]
        assert float(table[n, 0]) == pytest.approx(answer_of(cnn, shown, 2), abs=1e-5)


def test_a_soft_mask_of_zeros_and_ones_is_a_hard_one(cnn, images):
    kept = torch.zeros(3, *SIZE)
    kept[:, 7:] = 1
    asked = [soft_mask(kept, "blur:2"), keeping(Cells((2, 1), b"\0\1"), "blur:2")]
    table = Answers(cnn, images, 2).read(asked, "logit")
    torch.testing.assert_close(table[:, 0], table[:, 1], atol=1e-6, rtol=1e-6)


def test_soft_masks_are_one_question_only_if_mask_and_baseline_are_equal(images):
    weights = torch.rand(3, *SIZE, generator=generator(0))
    assert soft_mask(weights).key == soft_mask(weights.clone(), 0).key
    assert soft_mask(weights).key != soft_mask(weights, "blur").key
    assert soft_mask(weights).key != soft_mask(1 - weights).key
    assert fingerprint(weights) != fingerprint(weights.double())
    with pytest.raises(BadInput, match="a soft mask has none"):
        soft_mask(weights, "road")


# Listening


def test_while_listening_questions_are_noted_and_not_asked(cnn, images, counted):
    sizes, answers = counted(cnn), Answers(cnn, images, 0)
    after = []
    with answers.listening() as noted:
        answers.read([CLEAN], "logit")  # known: the clean image is asked first
        answers.read([brighter(0.5), CLEAN], "logit")
        after.append("never")
    assert [question.key for question in noted] == [brighter(0.5).key]
    assert after == []
    assert sum(sizes) == answers.n_forward == 3
    answers.ask(noted)
    assert sum(sizes) == answers.n_forward == 6
    with answers.listening() as noted:
        answers.read([brighter(0.5)], "logit")
        after.append("known")
    assert noted == []
    assert after == ["known"]


def test_an_error_ends_listening_too(cnn, images):
    answers = Answers(cnn, images, 0)
    with pytest.raises(ZeroDivisionError), answers.listening():
        raise ZeroDivisionError
    assert answers.ask([brighter(0.5)]) == 3


def test_a_question_is_charged_to_the_first_who_asks(cnn, images):
    answers = Answers(cnn, images, 0)
    assert answers.charge([brighter(0.5)]) == 6  # with the clean image
    assert answers.charge([brighter(0.5), brighter(1.0), CLEAN]) == 3
    assert answers.charge([brighter(1.0)]) == 0


def test_equal_bytes_over_different_features_are_different_questions(cnn, images):
    kept, labels = bytes([1, 0]), torch.zeros(3, *SIZE, dtype=torch.long)
    labels[:, 3:] = 1
    asked = [keeping(Cells(features, kept), 0.0) for features in ((1, 2), (2, 1), Segments.of(labels))]
    table = Answers(cnn, images, 0).read(asked, "logit")
    assert len({question.key for question in asked}) == 3
    assert len(set(table[0].tolist())) == 3


def test_a_colour_reaches_masks_and_parts_through_the_models_normalisation(cnn, images, explained, random_maps):
    model = Model.of(cnn, preprocess=Preprocess(size=(14, 18), mean=(0.2, 0.3, 0.4), std=(0.5, 0.6, 0.7)))
    explanation = explained(random_maps(3, (14, 18)), 1)
    grey = ((0.5 - torch.tensor([0.2, 0.3, 0.4])) / torch.tensor([0.5, 0.6, 0.7])).view(1, 3, 1, 1).expand(1, 3, 14, 18)
    parts = torch.zeros(3, 3, 14, 18, dtype=torch.bool)
    parts[:, 0, :5], parts[:, 1, 5:9], parts[:, 2, 9:] = True, True, True
    for metric, extra in ((evaluate.average_drop, ()), (evaluate.part_single_deletion, (parts,))):
        told = metric(model, images, explanation, *extra, baseline="rgb:0.5")
        given = metric(model, images, explanation, *extra, baseline=grey)
        torch.testing.assert_close(told.value, given.value)
