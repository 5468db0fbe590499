"""Decoding: crops inside the image, torchvision's boxes, every colour mode."""

import io
import warnings

import numpy as np
import pytest
from PIL import Image

from eenet_jax.data import decode
from eenet_jax.errors import UserError


def _encoded(image: Image.Image, kind: str = "PNG", **options) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def _gradient(width: int, height: int) -> np.ndarray:
    """Red grows by 1 a column, green by 1 a row."""
    pixels = np.zeros((height, width, 3), np.uint8)
    pixels[..., 0], pixels[..., 1] = np.arange(width), np.arange(height)[:, None]
    return pixels


def _smooth(width: int, height: int) -> np.ndarray:
    y, x = np.mgrid[:height, :width] / 40
    waves = [np.sin(x + y), np.cos(x - 2 * y), np.sin(3 * x)]
    return np.stack([127 + 100 * wave for wave in waves], -1).astype(np.uint8)


def test_evaluation_takes_the_centre_exactly():
    pixels = _gradient(200, 100)
    cut = decode.eval_image(_encoded(Image.fromarray(pixels)), 80, 100)
    np.testing.assert_array_equal(cut, pixels[10:90, 60:140])


@pytest.mark.parametrize(("width", "height"), [(90, 61), (61, 90), (75, 75), (40, 33)])
def test_evaluation_resizes_then_crops_as_torchvision(width, height):
    image = Image.fromarray(_smooth(width, height))
    size, resize = 44, 50
    scaled = [int(resize * side / min(width, height)) for side in (width, height)]
    whole = np.asarray(image.resize(scaled, Image.Resampling.BILINEAR))
    left, top = (int(round((side - size) / 2.0)) for side in scaled)
    expected = whole[top : top + size, left : left + size].astype(int)
    ours = decode.eval_image(_encoded(image), size, resize)
    assert ours.shape == (size, size, 3) and ours.dtype == np.uint8
    assert np.abs(ours - expected).max() <= 1


def test_training_boxes_cover_areas_and_ratios_and_stay_inside():
    rng = np.random.default_rng(0)
    boxes = np.array([decode.random_box(400, 300, rng) for _ in range(3000)])
    left, top, right, bottom = boxes.T
    assert left.min() == 0 and top.min() == 0  # reached,
    assert right.max() == 400 and bottom.max() == 300  # and not left
    width, height = right - left, bottom - top
    area, ratio = width * height / (400 * 300), width / height
    assert 0.075 < area.min() < 0.1 and 0.95 < area.max() <= 1
    assert 0.74 < ratio.min() < 0.77 and 1.3 < ratio.max() < 1.35
    counts, _ = np.histogram(area, bins=8, range=(0.08, 1))
    assert counts[:4].min() > 0.85 * counts[:4].max()  # even, while all ratios fit
    assert counts[-1] > 20
    assert abs(np.log(ratio).mean()) < 0.06


@pytest.mark.parametrize(
    ("width", "height", "box"),
    [(1000, 3, (498, 0, 502, 3)), (3, 1000, (0, 498, 3, 502)), (1, 1, (0, 0, 1, 1))],
)
def test_a_narrow_image_is_shown_from_its_centre(width, height, box):
    rng = np.random.default_rng(0)
    assert decode.random_box(width, height, rng) == box
    pixels = decode.train_image(
        _encoded(Image.new("RGB", (width, height), (9, 8, 7))), 8, rng
    )
    np.testing.assert_array_equal(pixels, np.broadcast_to([9, 8, 7], (8, 8, 3)))


def test_training_shows_the_box_and_mirrors_half():
    data = _encoded(Image.fromarray(_gradient(240, 180)))
    mirrored = 0
    for seed in range(60):
        pixels = decode.train_image(data, 16, np.random.default_rng(seed)).astype(int)
        box = decode.random_box(240, 180, np.random.default_rng(seed))
        step = (box[2] - box[0]) / 16
        centres = box[0] + (np.arange(16) + 0.5) * step - 0.5
        red = pixels[8, :, 0]
        if red[0] > red[-1]:
            red, mirrored = red[::-1], mirrored + 1
        # A window at the image's border is narrower, which shifts its mean.
        np.testing.assert_allclose(red[1:-1], centres[1:-1], atol=1.01)
        rows = box[1] + (np.arange(16) + 0.5) * (box[3] - box[1]) / 16 - 0.5
        np.testing.assert_allclose(pixels[1:-1, 8, 1], rows[1:-1], atol=1.01)
    assert 18 < mirrored < 42
    for seed in range(8):
        rng = np.random.default_rng(seed)
        pixels = decode.train_image(data, 16, rng, flip=False).astype(int)
        assert pixels[8, 0, 0] < pixels[8, -1, 0]


def test_large_jpegs_are_decoded_smaller_with_like_results(monkeypatch):
    image = Image.fromarray(_smooth(1000, 800))
    files = _encoded(image, "JPEG", quality=95), _encoded(image, "BMP")
    decoded = []
    original = Image.Image.resize

    def resize(self, *args, **kwargs):
        decoded.append(self.size)
        return original(self, *args, **kwargs)

    monkeypatch.setattr(Image.Image, "resize", resize)
    cuts = [decode.eval_image(file, 56, 64).astype(int) for file in files]
    assert decoded == [(250, 200), (1000, 800)]  # a quarter: still twice 64 pixels
    assert np.abs(cuts[0] - cuts[1]).mean() < 1.5
    for seed in range(20):
        pair = [
            decode.train_image(file, 32, np.random.default_rng(seed)).astype(int)
            for file in files
        ]
        assert np.abs(pair[0] - pair[1]).mean() < 2
        box = decode.random_box(1000, 800, np.random.default_rng(seed))
        scale = decoded[-2][0] / 1000
        assert scale * min(box[2] - box[0], box[3] - box[1]) >= 31.9


COLOUR = (200, 40, 90)
MODES = {
    "gray": (Image.new("L", (20, 16), 77), "PNG", {}, (77,) * 3),
    "gray jpeg": (Image.new("L", (20, 16), 77), "JPEG", {}, (77,) * 3),
    "bilevel": (Image.new("1", (20, 16), 1), "PNG", {}, (255,) * 3),
    "alpha": (Image.new("RGBA", (20, 16), (*COLOUR, 128)), "PNG", {}, COLOUR),
    "gray alpha": (Image.new("LA", (20, 16), (77, 3)), "PNG", {}, (77,) * 3),
    "palette": (Image.new("RGB", (20, 16), COLOUR).quantize(4), "PNG", {}, COLOUR),
    "transparent palette": (
        Image.new("RGB", (20, 16), COLOUR).quantize(4),
        "PNG",
        {"transparency": b"\x80\x00"},
        COLOUR,
    ),
    "gif": (Image.new("RGB", (20, 16), COLOUR).quantize(4), "GIF", {}, COLOUR),
    "webp": (Image.new("RGB", (20, 16), COLOUR), "WEBP", {"lossless": True}, COLOUR),
    "cmyk": (Image.new("CMYK", (20, 16), (0, 255, 0, 0)), "JPEG", {}, (255, 0, 255)),
}


@pytest.mark.parametrize("name", MODES)
def test_every_colour_mode_becomes_rgb(name):
    image, kind, options, colour = MODES[name]
    data = _encoded(image, kind, **options)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        results = (
            decode.train_image(data, 8, np.random.default_rng(0)),
            decode.eval_image(data, 8, 10),
            decode.whole_image(data),
        )
    assert results[2].shape == (16, 20, 3)
    for pixels in results:
        assert pixels.dtype == np.uint8
        assert np.abs(pixels.astype(int) - np.array(colour)[None, None]).max() <= 3


DAMAGED = {
    "empty": b"",
    "text": b"not an image",
    "cut png": _encoded(Image.fromarray(_smooth(60, 50)))[:400],
    "cut jpeg": _encoded(Image.fromarray(_smooth(60, 50)), "JPEG")[:-300],
    "header only": _encoded(Image.fromarray(_smooth(60, 50)))[:30],
    "16 bits": _encoded(Image.fromarray(np.full((9, 9), 5000, np.uint16))),
}


@pytest.mark.parametrize("name", DAMAGED)
def test_what_cannot_be_decoded_is_refused(name):
    rng = np.random.default_rng(0)
    for function in (
        lambda data: decode.train_image(data, 8, rng),
        lambda data: decode.eval_image(data, 8, 10),
        decode.whole_image,
    ):
        with pytest.raises(UserError, match="replace or remove it|scale it to 8 bits"):
            function(DAMAGED[name])
