"""From an encoded image to the pixels a network is shown; NumPy and Pillow only.

Boxes and rounding are torchvision's (``RandomResizedCrop``; ``Resize`` and
``CenterCrop``), so that weights trained there see what they expect. As there,
orientation tags of cameras are not followed. Of large JPEG files only as many pixels
are decoded as are needed.
"""

import contextlib
import io
import math
from collections.abc import Iterator

import numpy as np
from PIL import Image, UnidentifiedImageError

from eenet_jax.errors import UserError

AREA = (0.08, 1.0)  # of a random crop, as a share of the image
RATIO = (3 / 4, 4 / 3)  # its width / height
_TRIES = 10

Box = tuple[float, float, float, float]  # left, top, right, bottom


def train_image(
    data: bytes, size: int, rng: np.random.Generator, flip: bool = True
) -> np.ndarray:
    """Decodes an image and cuts out a random part, resized and perhaps mirrored.

    Args:
      data: The encoded image, of any format and colour mode of 8 bits.
      size: Side of the result in pixels.
      rng: Draws the crop, and after it the mirroring.
      flip: Mirrors left-right with probability 1/2.

    Returns:
      uint8 ``[size, size, 3]``.

    Raises:
      UserError: If it cannot be decoded. The message does not name the image: a caller
        that knows the name puts it in front.
    """
    with _refusing():
        image = Image.open(io.BytesIO(data))
        pixels = _resized(image, random_box(*image.size, rng), size)
    if flip and rng.random() < 0.5:
        pixels = pixels[:, ::-1]
    return np.ascontiguousarray(pixels)


def eval_image(data: bytes, size: int, resize: int) -> np.ndarray:
    """Decodes an image, resizes its shorter side and cuts out the centre.

    Args:
      data: The encoded image, of any format and colour mode of 8 bits.
      size: Side of the result in pixels.
      resize: Length of the shorter side before the cut, at least ``size``.

    Returns:
      uint8 ``[size, size, 3]``.

    Raises:
      UserError: If it cannot be decoded; see ``train_image``.
    """
    with _refusing():
        image = Image.open(io.BytesIO(data))
        # Twice the pixels needed, for a result that is within a grey level or so.
        return _resized(image, centre_box(*image.size, size, resize), size, gap=2)


def whole_image(data: bytes) -> np.ndarray:
    """Decodes an image as it is, to uint8 ``[H, W, 3]``; refuses as ``train_image``."""
    with _refusing():
        return np.asarray(_rgb(Image.open(io.BytesIO(data))))


def label_map(data: bytes) -> np.ndarray:
    """Decodes a map of labels, to uint8 ``[H, W]``; refuses as ``train_image``."""
    with _refusing():
        image = Image.open(io.BytesIO(data))
        if image.mode not in ("L", "P"):
            raise UserError(
                f"has labels of mode {image.mode!r}; a label map has one channel of 8 "
                "bits"
            )
        return np.asarray(image)


def random_box(width: int, height: int, rng: np.random.Generator) -> Box:
    """Draws the part of an image that is shown in training.

    Args:
      width: Of the image, at least 1.
      height: Likewise.
      rng: Where the draw comes from.

    Returns:
      A box of whole pixels with its area within ``AREA`` and its ratio within
      ``RATIO``, both up to rounding. If ten draws do not fit into the image, the
      largest centred box within ``RATIO``.
    """
    low, high = math.log(RATIO[0]), math.log(RATIO[1])
    for _ in range(_TRIES):
        area = width * height * rng.uniform(*AREA)
        ratio = math.exp(rng.uniform(low, high))
        w, h = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
        if 0 < w <= width and 0 < h <= height:
            left = int(rng.integers(width - w + 1))
            top = int(rng.integers(height - h + 1))
            return left, top, left + w, top + h
    w = min(width, round(height * RATIO[1]))
    h = min(height, round(width / RATIO[0]))
    left, top = (width - w) // 2, (height - h) // 2
    return left, top, left + w, top + h


def centre_box(width: int, height: int, size: int, resize: int) -> Box:
    """Returns the part of an image that is shown in evaluation.

    Args:
      width: Of the image.
      height: Likewise.
      size: Side of the square that is cut out after resizing.
      resize: Length of the shorter side after resizing, at least ``size``.

    Returns:
      The square as a box of the image before resizing, in parts of pixels.
    """
    shorter = min(width, height)
    scaled_width, scaled_height = (resize * s // shorter for s in (width, height))
    x, y = width / scaled_width, height / scaled_height
    left, top = round((scaled_width - size) / 2), round((scaled_height - size) / 2)
    return left * x, top * y, (left + size) * x, (top + size) * y


def _resized(image: Image.Image, box: Box, size: int, gap: int = 1) -> np.ndarray:
    """Decodes, at no less than ``gap * size`` pixels a side of the box, and resizes."""
    width, height = image.size
    shrink = max(1, int(min(box[2] - box[0], box[3] - box[1]) / (gap * size)))
    # Only JPEG files have draughts; the others stay as they are and return None.
    draft = image.draft(None, (-(-width // shrink), -(-height // shrink)))
    scale = draft[1][2] / width if draft else 1.0
    image = _rgb(image)
    left, top, right, bottom = (scale * side for side in box)
    box = (left, top, min(right, image.width), min(bottom, image.height))
    return np.asarray(image.resize((size, size), Image.Resampling.BILINEAR, box=box))


def _rgb(image: Image.Image) -> Image.Image:
    if image.mode in ("I", "F") or image.mode.startswith("I;"):
        raise UserError(
            f"has more than 8 bits a channel (mode {image.mode!r}), which would be cut "
            "off; scale it to 8 bits"
        )
    image.info.pop("transparency", None)  # of palettes; Pillow warns of it
    return image if image.mode == "RGB" else image.convert("RGB")


@contextlib.contextmanager
def _refusing() -> Iterator[None]:
    try:
        yield
    except UserError:
        raise
    except UnidentifiedImageError:
        raise UserError(
            "is not an image of a format that Pillow reads; replace or remove it"
        ) from None
    except Exception as error:  # Pillow has many ways to fail on a damaged file
        raise UserError(
            f"cannot be decoded ({error or type(error).__name__}); replace or remove it"
        ) from error
