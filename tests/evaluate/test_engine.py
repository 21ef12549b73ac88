"""Questions to a model: each asked once, in chunks of any size, with the answers a slow loop would get."""

import pytest
import torch

from glasshouse import evaluate
from glasshouse.core import BadInput, blur
from glasshouse.evaluate.baselines import substrate
from glasshouse.evaluate.engine import Answers
from glasshouse.evaluate.questions import CLEAN, FULL, NOTHING, Cells, Changed, Ranked, grid_of, keeping, order_of


def questions(maps, baseline="mean"):
    order = order_of(maps, None, 0)
    total = order.ranks.shape[1]
    ranked = [keeping(Ranked(order, low, high), baseline) for low, high in [(0, 9), (50, total), (7, 90)]]
    bits = torch.randint(2, (4, 12), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    return [*ranked, *(keeping(Cells((3, 4), bytes(row.tolist())), baseline) for row in bits)]


def by_hand(model, image, maps, question, baseline):
    """The answer to one question about one image, pixel by pixel."""
    h, w = image.shape[-2:]
    places = {pixel: place for place, pixel in enumerate(maps.flatten().argsort(descending=True).tolist())}
    changed = image.clone()
    for row in range(h):
        for col in range(w):
            if isinstance(question.keep, Ranked):
                stays = question.keep.low <= places[row * w + col] < question.keep.high
            else:
                rows, cols = question.keep.grid
                stays = question.keep.kept[(row * rows // h) * cols + col * cols // w]
            if not stays:
                changed[:, row, col] = baseline[:, row, col]
    return model(changed[None]).softmax(1)[0, 2]


@pytest.mark.parametrize("baseline", ["mean", "image_mean", 0.7, "blur:2"])
def test_the_engine_equals_a_loop_over_images_and_pixels(cnn, images, random_maps, baseline):
    maps = random_maps(3, (14, 18))
    asked = questions(maps, baseline)
    table = Answers(cnn, images, 2).read(asked, "prob")
    filled = {
        "mean": torch.zeros_like(images),
        "image_mean": images.mean((2, 3), keepdim=True) * torch.ones_like(images),
        0.7: torch.full_like(images, 0.7),
        "blur:2": blur(images, 2.0),
    }[baseline]
    with torch.no_grad():
        slow = [[by_hand(cnn, images[n], maps[n], q, filled[n]) for q in asked] for n in range(3)]
    torch.testing.assert_close(table, torch.tensor(slow).double(), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("chunk", [1, 4, 5, 1000])
def test_the_size_of_a_chunk_changes_nothing_and_bounds_every_batch(cnn, images, random_maps, counted, chunk):
    asked = questions(random_maps(3, (14, 18)))
    sizes = counted(cnn)
    table = Answers(cnn, images, 2, chunk=chunk).read(asked, "logit")
    assert max(sizes) <= chunk
    torch.testing.assert_close(table, Answers(cnn, images, 2).read(asked, "logit"), atol=1e-6, rtol=1e-5)


def test_equal_questions_are_asked_once(cnn, images, random_maps, counted):
    maps = random_maps(3, (14, 18))
    sizes, answers = counted(cnn), Answers(cnn, images)
    assert answers.ask(questions(maps)) == 3 * (1 + 7)
    assert answers.ask([*questions(maps.clone()), CLEAN]) == 0
    assert answers.n_forward == sum(sizes) == 24


def test_a_question_that_keeps_all_or_nothing_is_recognised(random_maps):
    order = order_of(random_maps(2), None, 0)
    assert keeping(Ranked(order, 0, 48), "blur") == keeping(Cells((2, 2), b"\1\1\1\1"), 0.5) == CLEAN
    assert keeping(Ranked(order, 7, 7), "mean") == keeping(Cells((2, 2), b"\0\0\0\0"), "mean")
    assert keeping(Ranked(order, 7, 7), "mean").keep == NOTHING != FULL


def test_answers_are_read_as_logit_probability_and_its_logarithm(cnn, images):
    answers = Answers(cnn, images, [0, 1, 2])
    logit = cnn(images).detach().double()
    rows = torch.arange(3)
    torch.testing.assert_close(answers.read([CLEAN], "logit")[:, 0], logit[rows, rows])
    torch.testing.assert_close(answers.read([CLEAN], "prob")[:, 0], logit.softmax(1)[rows, rows])
    torch.testing.assert_close(answers.read([CLEAN], "logprob")[:, 0], logit.log_softmax(1)[rows, rows])


def test_a_target_may_be_a_function_of_the_output(cnn, images, random_maps):
    asked = questions(random_maps(3, (14, 18)))
    difference = Answers(cnn, images, lambda output: output[:, 0] - output[:, 3]).read(asked, "logit")
    first, last = (Answers(cnn, images, index).read(asked, "logit") for index in (0, 3))
    torch.testing.assert_close(difference, first - last, atol=1e-6, rtol=1e-5)


def places(values, seed):
    return order_of(values, None, seed).ranks


def test_equal_values_are_ordered_at_random_and_not_by_position():
    first = [int(places(torch.zeros(1, 5, 10), seed)[0].argmin()) for seed in range(40)]
    assert len(set(first)) > 15
    found = places(torch.tensor([[[1.0, 3.0, 2.0, 3.0]]]), 0)[0].tolist()
    assert sorted(found[1::2]) == [0, 1]
    assert found[::2] == [3, 2]


def test_the_same_seed_gives_the_same_order_and_leaves_the_global_one_alone():
    flat, before = torch.zeros(2, 5, 6), torch.random.get_rng_state()
    assert places(flat, 5).equal(places(flat, 5))
    assert not places(flat, 5).equal(places(flat, 6))
    assert before.equal(torch.random.get_rng_state())


def test_cells_are_nearly_square_and_not_smaller_than_a_pixel():
    assert grid_of((224, 224)) == (14, 14)
    assert grid_of((32, 64)) == (8, 16)
    assert grid_of((64, 64)) == (8, 8)
    assert grid_of((299, 299)) == (13, 13)
    assert grid_of((37, 37)) == (7, 7)
    assert grid_of((5, 9)) == (5, 9)
    assert grid_of((160, 112)) == (10, 7)


@pytest.mark.parametrize("baseline", ["black", "blur:x", "mean:3", "blur:1:2:3"])
def test_an_unknown_baseline_says_what_there_is(baseline, images):
    with pytest.raises(BadInput, match=r"Use a number|Try 'blur"):
        substrate(images, baseline)


def test_answers_about_something_else_are_refused(cnn, images, explained, random_maps):
    explanation = explained(random_maps(3, (14, 18)), 2)
    for answers in (Answers(cnn, images + 1, 2), Answers(cnn, images, 1)):
        with pytest.raises(BadInput, match="the answers given are about another"):
            evaluate.srg(cnn, images, explanation, answers=answers)


@pytest.mark.parametrize("target", [1, [2, 2, 1], torch.tensor([1, 2, 2]), lambda output: output[:, 1]], ids=type)
def test_answers_about_another_target_than_the_one_asked_for_are_refused(cnn, images, explained, random_maps, target):
    explanation = explained(random_maps(3, (14, 18)), 2)
    for own in (2, None, lambda output: output[:, 2], torch.eye(4)[[2, 2, 2]]):
        with pytest.raises(BadInput, match="about another target"):
            evaluate.srg(cnn, images, explanation, target=target, answers=Answers(cnn, images, own))
    same = evaluate.srg(cnn, images, explanation, target=target, answers=Answers(cnn, images, target))
    assert same.valid.all()


@pytest.mark.parametrize("target", [2, [2, 2, 2], torch.tensor([2, 2, 2]), torch.tensor(2), None], ids=str)
def test_the_same_classes_are_one_target_however_they_are_written(cnn, images, explained, random_maps, target):
    explanation = explained(random_maps(3, (14, 18)), 2)
    score = evaluate.srg(cnn, images, explanation, n_steps=1, target=target, answers=Answers(cnn, images, 2))
    assert score.valid.all()


def test_answers_about_images_that_were_changed_since_are_refused(cnn, images, explained, random_maps):
    answers = Answers(cnn, images, 2)
    images += 1
    with pytest.raises(BadInput, match="other images"):
        evaluate.srg(cnn, images, explained(random_maps(3, (14, 18)), 2), answers=answers)


def test_passes_are_counted_also_where_a_later_one_fails(cnn, images, counted):
    def fail(shown, image):
        raise BadInput("no.")

    sizes, answers = counted(cnn), Answers(cnn, images, 2, chunk=4)
    for _ in range(2):
        with pytest.raises(BadInput):
            answers.ask([keeping(NOTHING, shade) for shade in range(4)] + [Changed(("fail",), fail)])
    assert answers.n_forward == sum(sizes) == 3 + 2 * 4


def test_maps_of_another_size_are_refused(cnn, images, explained, random_maps):
    for metric in (evaluate.srg, evaluate.sparseness, evaluate.card):
        with pytest.raises(BadInput, match="Pass the images that were explained"):
            metric(cnn, images, explained(random_maps(3)))


def test_the_passes_of_a_vision_transformer_are_asked_alike(random_maps, explained):
    from conformance.architectures import Attentive

    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(0)
        model = Attentive(classes=4).eval()
    images = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(1))
    wanted = {
        "srg": {"n_steps": 2},
        "road": {"fractions": (0.5,)},
        "sensitivity_n": {"n_samples": 16, "n_sizes": 2},
        "infidelity": {"n_samples": 4},
        "irof": {},
    }
    found = evaluate.suite(model, images, explained(random_maps(2, (32, 32)), 2), wanted)
    assert not found.skipped["by_hand"]
    for score in found["by_hand"].values():
        assert score.valid.all()
    order = order_of(random_maps(2, (32, 32)), (4, 4), 0)
    (answer,) = Answers(model, images, 2).read([keeping(Ranked(order, 5, 16), 0.0)], "logit").T
    for row, image in enumerate(images):
        keep = (order.ranks[row] >= 5).view(4, 4).repeat_interleave(8, 0).repeat_interleave(8, 1)
        with torch.no_grad():
            expected = model((image * keep)[None])[0, 2]
        torch.testing.assert_close(answer[row].float(), expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_moves_scores_by_less_than_a_hundredth(cnn, images, random_maps, explained, dtype):
    explanation = explained(random_maps(3, (14, 18)), 2)
    for metric, tolerance, settings in (
        (evaluate.srg, 0.01, {}),
        (evaluate.deletion, 0.01, {"n_steps": 28}),
        (evaluate.mu_fidelity, 0.1, {}),  # ranks of drops that hardly differ
    ):
        exact = metric(cnn, images, explanation, **settings)
        with torch.autocast("cpu", dtype=dtype):
            rounded = metric(cnn, images, explanation, **settings)
        torch.testing.assert_close(rounded.value, exact.value, atol=tolerance, rtol=0)
