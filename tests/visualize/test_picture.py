"""What `render` returns: saved, shown, turned into image files."""

import base64
import re
from io import BytesIO

import numpy as np
import pytest
import torch
from PIL import Image

from glasshouse.core import BadInput, generator
from glasshouse.visualize import Picture


def picture(n=2, channels=3, **changes):
    pixels = torch.rand(n, channels, 4, 6, generator=generator(0))
    fields = {
        "pixels": pixels,
        "history": torch.zeros(n, 3),
        "activation": torch.tensor([1.5, 2.5])[:n],
        "labels": ("a <unit> 1", "a unit 2")[:n],
        "objective": "unit('a', [1, 2])",
        "drawn": torch.ones(n, dtype=torch.bool),
        "settings": {"size": (4, 6), "steps": 3},
    }
    return Picture(**{**fields, **changes})


def test_saving_and_loading_gives_the_same_picture(tmp_path):
    before = picture(reference=torch.tensor([1.0, 4.0]))
    after = Picture.load(before.save(tmp_path / "p.safetensors"))
    assert torch.equal(after.pixels, before.pixels)
    assert torch.equal(after.reference, before.reference)
    assert after.settings == before.settings
    assert repr(after) == repr(before) == "Picture(unit('a', [1, 2]), 2 × 4×6, activation 1.5, 2.5)"


@pytest.mark.parametrize(("channels", "mode"), [(1, "L"), (3, "RGB"), (5, "L")])
def test_photos_are_the_pixels_in_bytes(channels, mode):
    noun = picture(channels=channels)
    photo = noun.photos()[1]
    assert (photo.mode, photo.size) == (mode, (6, 4))
    values = np.asarray(photo, dtype=np.float64).reshape(4, 6, -1) / 255
    expected = noun.pixels[1] if channels in (1, 3) else noun.pixels[1].mean(0, keepdim=True)
    np.testing.assert_allclose(values.transpose(2, 0, 1), expected.numpy(), atol=0.5 / 255 + 1e-6)


def test_the_html_shows_every_picture_with_its_label():
    noun = picture(drawn=torch.tensor([True, False]))
    html = noun._repr_html_()
    shown = re.findall(r'src="data:image/png;base64,([^"]+)"', html)
    found = [np.asarray(Image.open(BytesIO(base64.b64decode(code)))) for code in shown]
    for values, photo in zip(found, noun.photos(), strict=True):
        np.testing.assert_array_equal(values, np.asarray(photo))
    assert "a &lt;unit&gt; 1" in html
    assert "activation 1.5" in html
    assert "no gradient" in html


def test_the_excess_needs_a_reference():
    assert picture(reference=torch.tensor([1.0, 4.0])).excess.tolist() == [0.5, -1.5]
    with pytest.raises(BadInput, match="no reference images were given"):
        _ = picture().excess
