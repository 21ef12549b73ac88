"""Surrogates whose fidelity is known: the box itself, a constant, a box with planted mistakes."""

import math

import pytest
import torch
from scipy import stats
from sklearn.metrics import r2_score
from sklearn.tree import DecisionTreeClassifier

from glasshouse.core import BadInput
from glasshouse.evaluate.inside.surrogates import Fidelity, one_in, surrogate_fidelity


def draw(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@pytest.fixture
def box():
    return draw(60, 4)


def flipped(logits, rows):
    other = logits.clone()
    other[rows] = -other[rows]
    return other


def test_the_box_is_its_own_perfect_surrogate(box):
    seen = surrogate_fidelity(box, box, box.argmax(1), fitted_on=[100, 101])
    assert seen.agreement.share == seen.coverage.share == seen.r2 == 1.0
    assert len(seen.disagreement) == 0
    assert seen.held_out
    limit = 1 - seen.agreement.interval[0]
    assert seen.sentence == (
        f"The surrogate disagrees on none of 60 images; with others it may on up to {one_in(limit)}."
    )


def test_a_constant_surrogate_has_the_share_of_the_commonest_class(box):
    commonest = int(box.argmax(1).mode().values)
    share = float((box.argmax(1) == commonest).double().mean())
    seen = surrogate_fidelity(box, torch.full((60,), commonest))
    assert seen.agreement.share == pytest.approx(share)
    assert seen.chance == pytest.approx(share)
    assert math.isnan(seen.r2)


def test_every_number_is_what_a_loop_counts(box):
    other, labels = flipped(box, [3, 4, 50]), draw(60, 4, seed=2).argmax(1)
    rows = torch.arange(60) < 10
    seen = surrogate_fidelity(box, other, labels, slices={"first": rows, "rest": ~rows})
    said, told = box.argmax(1).tolist(), other.argmax(1).tolist()
    assert seen.disagreement.tolist() == [3, 4, 50]
    assert seen.agreement.hits == 57
    wrong = [i for i in range(60) if said[i] != labels[i]]
    assert (seen.where_wrong.hits, seen.where_wrong.total) == (sum(said[i] == told[i] for i in wrong), len(wrong))
    for c, rate in seen.by_class.items():
        images = [i for i in range(60) if said[i] == c]
        assert (rate.hits, rate.total) == (sum(told[i] == c for i in images), len(images))
    assert (seen.by_slice["first"].hits, seen.by_slice["first"].total) == (8, 10)
    name, rate = seen.worst
    low = stats.beta.ppf(0.0125, 8, 3)
    assert (name, rate.share) == ("first", 0.8)
    assert rate.interval[0] == pytest.approx(low)
    assert "1 image in 20" in seen.sentence


def test_without_slices_the_worst_class_is_named(box):
    seen = surrogate_fidelity(box, flipped(box, box.argmax(1) == 2))
    assert seen.worst[0] == 2
    assert seen.worst[1].share == 0


def test_r2_is_scikit_learns_for_the_target(box):
    other = box + 0.5 * draw(60, 4, seed=1)
    for target in (2, [i % 4 for i in range(60)], None):
        asked = box.argmax(1) if target is None else torch.as_tensor(target).expand(60)
        true, told = (logits.gather(1, asked[:, None])[:, 0].double() for logits in (box, other))
        seen = surrogate_fidelity(box, other, target=target)
        assert seen.r2 == pytest.approx(r2_score(true.numpy(), told.numpy()), abs=1e-9)
        assert 0 < seen.r2_error < 0.5


def test_r2_of_a_logit_that_does_not_vary_is_not_known():
    assert math.isnan(surrogate_fidelity(torch.zeros(4, 2), draw(4, 2)).r2)


def test_images_that_it_was_fitted_on_are_refused(box):
    with pytest.raises(BadInput, match=r"fitted on 2 of these 60 images \(7, 9\)"):
        surrogate_fidelity(box, box, fitted_on=[9, 7, 400])
    numbers = torch.arange(60) + 400
    assert surrogate_fidelity(box, box, fitted_on=[9, 7], images=numbers).held_out
    with pytest.raises(BadInput, match="fitted on 1 of these"):
        surrogate_fidelity(box, box, fitted_on=[459], images=numbers)
    assert "not known to be held out" in repr(surrogate_fidelity(box, box))


def test_unanswered_images_lower_the_coverage_and_not_the_agreement(box):
    other = box.clone()
    other[:15] = torch.nan
    seen = surrogate_fidelity(box, other)
    assert (seen.coverage.share, seen.agreement.share, seen.agreement.total) == (0.75, 1.0, 45)
    classes = box.argmax(1).clone()
    classes[:15] = -1
    assert surrogate_fidelity(box, classes).coverage.share == 0.75
    nothing = surrogate_fidelity(box, torch.full((60,), -1))
    assert nothing.sentence == "The surrogate answers for no image."
    with pytest.raises(BadInput, match="no slice"):
        _ = nothing.worst


def test_equal_logits_are_decided_alike_for_both_and_not_by_the_order_of_classes():
    ties = torch.zeros(2000, 4)
    assert surrogate_fidelity(ties, ties).agreement.share == 1.0
    share = surrogate_fidelity(ties, torch.zeros(2000, dtype=torch.long)).agreement.share
    assert share == pytest.approx(0.25, abs=0.04)


def test_one_image_alone_is_judged():
    logits = torch.tensor([[1.0, 0.0]])
    seen = surrogate_fidelity(logits, logits)
    assert seen.agreement.share == 1.0
    assert math.isnan(seen.r2)
    assert surrogate_fidelity(logits, -logits).sentence.startswith("The surrogate disagrees on 1 image in 1 ")


def test_a_real_tree_is_worse_on_images_that_it_has_not_seen():
    x, weight = draw(400, 6), draw(6, 3, seed=5)
    logits = torch.tanh(x @ weight + 2 * x[:, :3] * x[:, 3:])
    tree = DecisionTreeClassifier(max_depth=6, random_state=0).fit(x[:200].numpy(), logits[:200].argmax(1).numpy())
    told = torch.as_tensor(tree.predict(x.numpy())).long()
    fitted = surrogate_fidelity(logits[:200], told[:200])
    held_out = surrogate_fidelity(logits[200:], told[200:], images=range(200, 400), fitted_on=range(200))
    assert held_out.chance < held_out.agreement.share < fitted.agreement.share


@pytest.mark.parametrize(
    ("surrogate", "message"),
    [(torch.zeros(59, 4), "60 images"), (torch.zeros(60, 3), "4 classes and the surrogate 3")],
)
def test_predictions_that_do_not_fit_are_refused(box, surrogate, message):
    with pytest.raises(BadInput, match=message):
        surrogate_fidelity(box, surrogate)
    broken = box.clone()
    broken[3, 1] = torch.nan
    with pytest.raises(BadInput, match="not all finite"):
        surrogate_fidelity(broken, box)
    with pytest.raises(BadInput, match="not-a-number"):
        surrogate_fidelity(box, broken)
    with pytest.raises(BadInput, match="59 different numbers"):
        surrogate_fidelity(box, box, images=[0, *range(59)])
    with pytest.raises(BadInput, match="target 7 is out of range"):
        surrogate_fidelity(box, box, target=7)
    with pytest.raises(BadInput, match="2 targets for 60 images"):
        surrogate_fidelity(box, box, target=[0, 1])
    with pytest.raises(BadInput, match="level=95"):
        surrogate_fidelity(box, box, level=95.0)


def test_a_fidelity_is_saved_and_shown(box, tmp_path):
    seen = surrogate_fidelity(box, flipped(box, [1]), box.argmax(1), slices={"all": torch.ones(60).bool()})
    again = Fidelity.load(seen.save(tmp_path / "fidelity"))
    assert repr(again) == repr(seen)
    assert again.worst == seen.worst
    assert "agreement 0.983" in repr(again)
