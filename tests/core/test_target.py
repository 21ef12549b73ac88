"""What can be asked of an output, each question against the plain arithmetic."""

import numpy as np
import pytest
import torch

from glasshouse.core import Aim, BadInput, select
from glasshouse.core.target import logits


@pytest.fixture
def output() -> torch.Tensor:
    return torch.randn(3, 5, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


@pytest.mark.parametrize(
    "spec", [2, (2,), [2, 2, 2], torch.tensor(2), torch.tensor([2, 2, 2]), np.int64(2), np.array([2, 2, 2])], ids=str
)
def test_one_class_can_be_named_in_many_ways(output, spec):
    torch.testing.assert_close(Aim(spec).read(output), output[:, 2], rtol=0, atol=0)


@pytest.mark.parametrize(
    "spec", [[4, 0, 1], torch.tensor([4, 0, 1]), torch.tensor([4, 0, 1], dtype=torch.int32)], ids=str
)
def test_each_image_can_have_its_own_class(output, spec):
    expected = torch.stack([output[0, 4], output[1, 0], output[2, 1]])
    torch.testing.assert_close(select(output, spec), expected, rtol=0, atol=0)


def test_none_is_the_top_class_of_each_image(output):
    torch.testing.assert_close(select(output, None), output.amax(1), rtol=0, atol=0)


def test_weights_and_functions_are_read_as_they_are(output):
    weights = torch.randn(3, 5)
    expected = torch.stack([sum(weights[n, k].double() * output[n, k] for k in range(5)) for n in range(3)])
    torch.testing.assert_close(select(output, weights), expected)
    torch.testing.assert_close(select(output, lambda y: y[:, 1] - y[:, 3]), output[:, 1] - output[:, 3])


def test_a_tuple_indexes_an_output_with_positions():
    output = torch.randn(2, 4, 3, 5)
    torch.testing.assert_close(select(output, (1, 2, 4)), output[:, 1, 2, 4], rtol=0, atol=0)


def test_readings_are_softmax_and_its_logarithm(output):
    share = output.exp() / output.exp().sum(1, keepdim=True)
    torch.testing.assert_close(select(output, [4, 0, 1], "prob"), share[[0, 1, 2], [4, 0, 1]])
    torch.testing.assert_close(select(output, [4, 0, 1], "logprob"), share[[0, 1, 2], [4, 0, 1]].log())


@pytest.mark.parametrize(
    ("spec", "text"),
    [
        (5, r"target 5 is out of range: the model has 5 classes. Use 0…4"),
        (-1, "out of range"),
        ([0, 1, 7], "target 7 is out of range"),
        ([0, 1], "2 targets for 3 images"),
        ([[0], [1], [2]], "3 targets for 3 images"),
        (True, "is no class"),
        (1.0, "is no class"),
        ([0.2, 1.7, 2.0], "is no class"),
        (torch.tensor([1.0, 2.0, 0.0]), "is no class"),
        (torch.tensor([True, False, True]), "is no class"),
        ("cat", "is no class"),
        (["cat", "dog", "cow"], "is no class"),
        ((1, 2), r"\(1, 2\) does not index"),
        ((5,), "outside"),
        ((-1,), "outside"),
        (torch.zeros(2, 5), "weights of shape"),
        (torch.zeros(3, 4), "weights of shape"),
        (lambda y: y, "must return shape"),
        (lambda y: y.sum(), "must return shape"),
        (lambda y: 1.0, "returned float"),
    ],
)
def test_a_question_that_makes_no_sense_is_an_error(output, spec, text):
    with pytest.raises(BadInput, match=text):
        Aim(spec).read(output)


def test_a_class_of_an_output_with_positions_needs_a_tuple():
    with pytest.raises(BadInput, match=r"Give a tuple such as \(class, row, column\)"):
        select(torch.zeros(2, 4, 3, 5), 1)


def test_scores_are_found_in_what_models_return(output):
    class Named:
        logits = output

    for found in (output, Named(), {"logits": output, "aux": None}, {"out": output}, (output, 1), [output]):
        assert logits(found) is output
    for nothing in (None, {}, [], 3.0, {"a": 1}, (None,), torch.zeros(3)):
        with pytest.raises(BadInput):
            logits(nothing)


def test_the_top_class_is_frozen_at_the_first_reading(output):
    aim = Aim(None)
    assert aim.indices is None
    first = select(output, aim)
    assert aim.indices.tolist() == output.argmax(1).tolist()
    torch.testing.assert_close(aim.clean, first)
    other = -output
    torch.testing.assert_close(select(other, aim), other[range(3), output.argmax(1)], rtol=0, atol=0)
    torch.testing.assert_close(aim.clean, first)
    assert Aim.of(aim) is aim


@pytest.mark.parametrize("spec", [None, 3, [4, 0, 1], "weights", "function", (2,)])
def test_rows_ask_the_same_question_of_copies_of_the_images(output, spec):
    spec = torch.rand(3, 5) if spec == "weights" else (lambda y: y[:, 0] * 2) if spec == "function" else spec
    aim, index = Aim(spec), torch.tensor([2, 0, 0, 1])
    clean = select(output, aim)
    torch.testing.assert_close(select(output[index], aim.rows(index)), clean[index], rtol=0, atol=0)
    twice = torch.tensor([3, 1])
    torch.testing.assert_close(select(output[index][twice], aim.rows(index).rows(twice)), clean[index[twice]])


def test_rows_of_a_target_that_was_never_read_are_an_error():
    with pytest.raises(BadInput, match="must first be read on the clean images"):
        Aim(None).rows(torch.tensor([0]))


def test_the_gradient_of_a_logit_is_one_hot(output):
    output = output.requires_grad_()
    (gradient,) = torch.autograd.grad(select(output, [4, 0, 1]).sum(), output)
    torch.testing.assert_close(gradient, torch.eye(5, dtype=torch.float64)[[4, 0, 1]])
    assert Aim(2).clean is None
    aim = Aim(2)
    select(output, aim)
    assert not aim.clean.requires_grad
