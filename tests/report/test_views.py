"""Several methods on several photographs."""

import pytest
import torch
from torch import nn

from glasshouse import attribute, report, zoo
from glasshouse.core import BadInput, LayerNotFound, Model, NotFound, NothingMatched
from glasshouse.report.views import first_look


def test_each_map_is_what_the_method_gives_for_that_photograph_alone(model, photos, views):
    for photo, view in zip(photos, views, strict=True):
        images = model.preprocess(photo)
        for explanation in view.explanations:
            alone = getattr(attribute, explanation.method)(model, images, 0)
            torch.testing.assert_close(explanation.heatmap, alone.heatmap)
            assert explanation.card is not None
            assert explanation.card.tier == "lite"


def test_predictions_are_the_softmax_in_descending_order(model, photos, views):
    wanted = model.module(model.preprocess(photos[0])).softmax(1)[0]
    shares = [share for _, _, share in views[0].top]
    assert shares == sorted(shares, reverse=True)
    for index, name, share in views[0].top:
        assert name == model.class_names[index]
        assert share == pytest.approx(float(wanted[index].detach()), rel=1e-4)


def test_without_a_target_each_photograph_is_asked_for_its_own_top_class(model, photos):
    for view in report.explain(model, photos, methods=["saliency"], tier="none"):
        assert view.explanations[0].target == (view.top[0][0],)
        assert view.explanations[0].attached is None


def test_a_method_that_does_not_suit_the_network_is_noted(photos, model):
    smooth_net = nn.Sequential(
        nn.Conv2d(3, 4, 3), nn.GELU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 3)
    ).eval()
    other = Model.of(smooth_net, preprocess=model.preprocess)
    (view,) = report.explain(other, photos[0], methods=["guided_backprop", "saliency"], tier="none")
    assert [e.method for e in view.explanations] == ["saliency"]
    assert "gelu" in view.skipped["guided_backprop"]
    with pytest.raises(NothingMatched, match="gelu"):
        report.explain(other, photos[0], methods=["guided_backprop"], tier="none")


def test_progress_rises_over_all_photographs_to_the_total(model, photos):
    seen: list[tuple[int, int]] = []
    report.explain(
        model, photos, methods=["saliency", "cam"], tier="free", progress=lambda done, total: seen.append((done, total))
    )
    done = [step for step, _ in seen]
    assert done == sorted(done)
    assert (1000, 2000) in seen
    assert seen[-1] == (2000, 2000)


def test_several_classes_are_explained_side_by_side(model, photos):
    (view,) = report.explain(model, photos[0], methods=["saliency", "cam"], target=["cat", 3, "cat"], tier="lite")
    assert [(e.method, e.target) for e in view.explanations] == [
        ("saliency", (0,)),
        ("cam", (0,)),
        ("saliency", (3,)),
        ("cam", (3,)),
    ]
    alone = report.explain(model, photos[0], methods=["cam"], target="fish", tier="lite")[0].explanations[0]
    torch.testing.assert_close(view.explanations[3].heatmap, alone.heatmap)
    assert view.explanations[3].card.sentences == alone.card.sentences
    page = report.explain_page(model, [view])
    assert "CAM <span" in page
    assert "for fish" in page
    assert page.count("— explained") == 2


def test_names_are_checked_before_anything_runs(model, photos):
    def progress(done: int, total: int) -> None:
        pytest.fail("something ran")

    with pytest.raises(NotFound, match="no method 'grad_cm'"):
        report.explain(model, photos, methods=["saliency", "grad_cm"], progress=progress)
    with pytest.raises(NotFound, match="no class 'cart'"):
        report.explain(model, photos, methods=["saliency"], target="cart", progress=progress)
    with pytest.raises(BadInput, match="no method was named"):
        report.explain(model, photos, methods=[], progress=progress)


def test_a_view_survives_saving(views, tmp_path):
    again = report.View.load(views[0].save(tmp_path / "view.safetensors"))
    assert again.top == views[0].top
    torch.testing.assert_close(again.explanations[1].heatmap, views[0].explanations[1].heatmap)
    assert again.explanations[0].card.sentences == views[0].explanations[0].card.sentences


def test_a_method_whose_settings_do_not_fit_small_images_is_noted_too(model, photos):
    (view,) = report.explain(model, photos[1], methods=["occlusion", "saliency"], tier="none")
    assert "does not cover an image of 24×24" in view.skipped["occlusion"]
    with pytest.raises(LayerNotFound, match="no layer 'nowhere'"):
        report.explain(model, photos[1], methods=["saliency", "grad_cam"], layer="nowhere")


def test_a_first_look_takes_one_method_of_each_kind_that_suits_the_network():
    cnn, vit = zoo.load("creatures_cnn"), zoo.load("creatures_vit")
    photo = torch.rand(3, 64, 64, generator=torch.Generator().manual_seed(0))
    assert first_look(cnn, cnn.preprocess([photo])) == report.QUICK
    (view,) = report.explain(vit, photo, tier="none")
    assert not view.skipped
    assert view.explanations[0].method == "attention_relevance"
    assert len(view.explanations) == 6
