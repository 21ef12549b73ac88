"""Preprocessing against torchvision's and timm's own, and the noun that carries a network."""

import json

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from glasshouse.core.errors import BadImage, BadInput, BadModel, NotFound
from glasshouse.core.model import Model, Preprocess

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
SIZES = [(300, 400), (400, 301), (97, 61), (256, 256), (20, 333)]


def noise(height: int, width: int) -> Image.Image:
    return Image.fromarray(np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8))


def plain(**settings) -> Preprocess:
    """Pixels stay as they are."""
    return Preprocess(**{"size": (8, 12), "mean": (0.0,) * 3, "std": (1.0,) * 3, **settings})


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("interpolation", ["bicubic", "bilinear"])
def test_inputs_are_those_of_torchvisions_transforms(torchvision, size, interpolation):
    transforms = pytest.importorskip("torchvision.transforms")
    theirs = transforms.Compose(
        [
            transforms.Resize(128, transforms.InterpolationMode(interpolation)),
            transforms.CenterCrop(112),
            transforms.ToTensor(),
            transforms.Normalize(MEAN, STD),
        ]
    )
    ours = Preprocess(size=(112, 112), mean=MEAN, std=STD, crop_pct=0.875, interpolation=interpolation)
    photo = noise(*size)
    torch.testing.assert_close(ours(photo)[0], theirs(photo), rtol=0, atol=1e-6)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize(("crop_mode", "shape"), [("center", (112, 112)), ("squash", (112, 96))])
def test_inputs_are_those_of_timms_transforms(timm, size, crop_mode, shape):
    theirs = timm.data.create_transform(
        (3, *shape), interpolation="bicubic", mean=MEAN, std=STD, crop_pct=0.9, crop_mode=crop_mode
    )
    ours = Preprocess(size=shape, mean=MEAN, std=STD, crop_pct=0.9, crop_mode=crop_mode)
    photo = noise(*size)
    torch.testing.assert_close(ours(photo)[0], theirs(photo), rtol=0, atol=1e-6)


def test_a_path_an_image_and_a_tensor_of_bytes_are_the_same_photograph(tmp_path):
    photo = noise(30, 40)
    photo.save(tmp_path / "a.png")
    as_tensor = torch.from_numpy(np.array(photo)).permute(2, 0, 1)
    inputs = plain()([str(tmp_path / "a.png"), tmp_path / "a.png", photo, as_tensor])
    assert inputs.shape == (4, 3, 8, 12)
    assert all(torch.equal(each, inputs[0]) for each in inputs)
    assert torch.equal(plain()(as_tensor), inputs[:1])
    assert torch.equal(plain()(as_tensor[None]), inputs[:1])


def triangle(n_in: int, n_out: int) -> torch.Tensor:
    """Linear resizing as a matrix: each output is a mean under a triangle two output steps wide."""
    step = n_in / n_out
    centres = (torch.arange(n_out, dtype=torch.float64) + 0.5) * step
    distance = (torch.arange(n_in, dtype=torch.float64) + 0.5 - centres[:, None]).abs()
    weights = (1 - distance / step).clamp(min=0)
    return weights / weights.sum(1, keepdim=True)


def test_floats_are_resized_without_rounding_to_bytes():
    pixels = torch.rand(3, 30, 40, generator=torch.Generator().manual_seed(0))
    inputs = plain(interpolation="bilinear")(pixels)
    # 30 x 40 covers 8 x 12 as 9 x 12, of which the first 8 rows are the centre (half a row rounds down).
    expected = (triangle(30, 9) @ pixels.double() @ triangle(40, 12).T)[:, :8]
    torch.testing.assert_close(inputs[0].double(), expected, rtol=0, atol=1e-6)
    as_bytes = plain(interpolation="bilinear")((pixels * 255).round().to(torch.uint8))
    assert 1e-4 < (inputs - as_bytes).abs().max() <= 1.5 / 255


def test_a_photograph_that_fits_is_not_touched():
    pixels = torch.rand(3, 8, 12, generator=torch.Generator().manual_seed(0))
    for mode in ("center", "squash", "none"):
        assert torch.equal(plain(crop_mode=mode)(pixels)[0], pixels)


def test_the_share_that_is_kept_is_not_lost_to_float_division():
    photo = noise(450, 450)
    inputs = plain(size=(384, 384), crop_pct=384 / 450)(photo)  # 450 px already: cropped, not resized
    assert np.array_equal((inputs[0] * 255).round().permute(1, 2, 0), np.asarray(photo)[33:417, 33:417])


def test_grey_becomes_colour_and_colour_becomes_grey():
    grey = torch.rand(1, 8, 12, generator=torch.Generator().manual_seed(0))
    assert torch.equal(plain()(grey)[0], grey.expand(3, -1, -1))
    to_grey = plain(mean=(0.0,), std=(1.0,))
    colour = torch.rand(3, 8, 12, generator=torch.Generator().manual_seed(0))
    luma = 0.299 * colour[0] + 0.587 * colour[1] + 0.114 * colour[2]
    torch.testing.assert_close(to_grey(colour)[0, 0], luma)
    as_bytes = (colour * 255).round().to(torch.uint8)
    assert (to_grey(as_bytes)[0, 0] - luma).abs().max() <= 1.01 / 255
    assert to_grey(noise(8, 12)).shape == (1, 1, 8, 12)


@pytest.mark.parametrize("order", ["rgb", "bgr"])
def test_pixels_undoes_normalise(order):
    preprocess = Preprocess(size=(8, 12), mean=MEAN, std=STD, channel_order=order)
    pixels = torch.rand(2, 3, 8, 12, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(preprocess.pixels(preprocess.normalise(pixels)), pixels)
    assert preprocess.pixels(torch.full((1, 3, 8, 12), 99.0)).max() == 1


def test_bgr_puts_blue_first():
    red = torch.tensor([1.0, 0, 0])[:, None, None].expand(3, 8, 12)
    assert plain(channel_order="bgr")(red)[0, :, 0, 0].tolist() == [0, 0, 1]


def test_settings_survive_json():
    preprocess = Preprocess(size=(8, 12), mean=MEAN, std=STD, crop_mode="squash", interpolation="bilinear")
    again = Preprocess.from_dict(json.loads(json.dumps(preprocess.as_dict())))
    assert again == preprocess
    assert hash(again) == hash(preprocess)
    assert "\n" not in repr(preprocess)
    with pytest.raises(BadInput, match=r"no setting 'crop'.*Did you mean"):
        Preprocess.from_dict({**preprocess.as_dict(), "crop": 1})
    with pytest.raises(BadInput, match="needs mean, std"):
        Preprocess.from_dict({"size": (8, 12)})


@pytest.mark.parametrize(
    ("settings", "seen"),
    [
        ({"size": (0, 8)}, "size is"),
        ({"std": (1, 0, 1)}, "positive std"),
        ({"mean": (0, 0)}, "one number per channel"),
        ({"crop_pct": 1.5}, "crop_pct is a share"),
        ({"crop_pct": 0.0}, "crop_pct is a share"),
        ({"crop_mode": "border"}, "no crop_mode 'border'"),
    ],
)
def test_settings_that_make_no_sense_are_refused(settings, seen):
    with pytest.raises(BadInput, match=seen):
        Preprocess.from_dict({**plain().as_dict(), **settings})


@pytest.mark.parametrize(
    ("photo", "seen"),
    [
        (torch.zeros(8, 12), "is c h w"),
        (torch.zeros(8, 12, 3), "is c h w"),
        (torch.zeros(3, 0, 12), "is c h w"),
        (torch.zeros(3, 8, 12, dtype=torch.int64), "uint8, or float"),
        (torch.full((3, 8, 12), 255.0), r"0…1, not 255…255.*Divide by 255"),
        (torch.full((3, 8, 12), float("nan")), "not nan"),
        ([], "list is empty"),
    ],
)
def test_tensors_that_are_no_photographs_are_refused(photo, seen):
    with pytest.raises(BadInput, match=seen):
        plain()(photo)


def test_a_photograph_too_narrow_to_resize_is_refused():
    with pytest.raises(BadImage, match="too narrow"):
        plain(size=(224, 224))(Image.new("RGB", (10, 20_000)))


def test_without_resizing_only_the_right_size_will_do():
    with pytest.raises(BadImage, match=r"8 x 13 px.*takes only 8 x 12"):
        plain(crop_mode="none")(torch.zeros(3, 8, 13))


def test_images_with_the_wrong_channels_are_refused():
    with pytest.raises(BadInput, match="4 channels where this preprocessing has 3"):
        plain().pixels(torch.zeros(1, 4, 8, 12))


def test_a_model_computes_what_its_module_computes(cnn, images):
    assert torch.equal(Model.of(cnn)(images), cnn(images))


def test_wrapping_leaves_the_mode_alone_and_says_it(cnn):
    model = Model.of(cnn.train())
    assert model.module is cnn
    assert cnn.training
    assert "in training mode" in repr(model)
    assert "in training mode" not in repr(Model.of(cnn.eval()))


def test_layers_are_all_named_modules_but_the_root():
    module = nn.Sequential(nn.Sequential(nn.Conv2d(3, 4, 1), nn.ReLU()), nn.Flatten())
    assert Model.of(module).layers() == ["0", "0.0", "0.1", "1"]


def test_an_unknown_preprocessing_is_an_error_not_a_guess(cnn):
    model = Model.of(cnn, name="mine")
    assert model.preprocessing is None
    with pytest.raises(BadModel, match=r"preprocessing of 'mine' is unknown.*preprocess=Preprocess\(size="):
        model.preprocess(torch.zeros(3, 8, 8))
    assert Model.of(cnn, preprocess=plain()).preprocess(torch.zeros(3, 8, 12)).shape == (1, 3, 8, 12)


def test_classes_are_found_by_name_or_number(cnn):
    model = Model.of(cnn, class_names=["tiger cat", "Crane", "crane", "7"])
    assert [model.label(i) for i in (0, 3, 4, -1)] == ["tiger cat", "7", "class 4", "class -1"]
    assert model.index("Tiger_Cat") == 0
    assert model.index(2) == 2
    assert model.index("7") == 3  # the class of that name, not the number
    assert model.index("2") == 2
    with pytest.raises(BadInput, match="2 classes are called 'crane': 1, 2"):
        model.index("crane")
    with pytest.raises(NotFound, match="Did you mean 'tiger cat'"):
        model.index("tigercat")
    with pytest.raises(NotFound, match="Classes count from 0 to 3"):
        model.index(4)


def test_without_names_classes_are_numbers(cnn):
    model = Model.of(cnn)
    assert model.label(281) == "class 281"
    assert model.index("281") == 281
    with pytest.raises(NotFound, match="no class 'cat'"):
        model.index("cat")
    with pytest.raises(NotFound, match="0 upwards"):
        model.index(-1)


def test_a_model_describes_itself_and_what_it_does_not_know(cnn):
    model = Model.of(cnn, class_names=["<cat>", "dog"], name="mine")
    assert "\n" not in repr(model)
    text = model.describe()
    for expected in ("mine: Sequential", "2: <cat>, dog", "preprocessing: unknown", "class names: given"):
        assert expected in text
    assert "&lt;cat&gt;" in model._repr_html_()
