"""Pictures of any kind in RGB, 8 bits a channel, as a person sees them."""

from __future__ import annotations

import io
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from PIL.Image import Image

# White in pictures of numbers, whose format does not say it.
_WHITE = {"I": (255, 65535), "F": (1, 255, 65535)}
# How far numbers may be past black and white, which smoothing does; and how bright the brightest must be, both in parts
# of white. A picture that is darker on one scale is likely to be of another.
_PAST, _DARKEST = 0.05, 1 / 16
# On white paper a drawing with less contrast, in levels of 255, cannot be seen.
_CONTRAST = 16


def load_image(image: str | Path | bytes | Image) -> Image:
    """Return a picture, from its file, the bytes of one, or Pillow's, in RGB: upright, and as bright as it was meant.

    16 bits of grey become the upper 8. Numbers (Pillow's modes I and F) are from 0 to 255 or 65535, or to 1 where they
    are floating; ``ValueError`` if they are not, because nobody knows then what is white. What is transparent lies on
    white, or on black if nothing would be seen on white. Raises what Pillow raises for what is no picture, or too large
    a one.
    """
    from PIL import Image

    if isinstance(image, Image.Image):
        return _rgb(image)
    with Image.open(io.BytesIO(image) if isinstance(image, bytes) else image) as file:
        return _rgb(file)


def _rgb(image: Image) -> Image:
    from PIL import ImageOps

    upright = ImageOps.exif_transpose(image)
    if upright.mode in ("I", "F") or upright.mode.startswith("I;16"):
        upright = _eight_bits(upright, image)
    if upright.mode == "La":  # has no way to RGBA of its own
        upright = upright.convert("LA")
    if not upright.has_transparency_data:
        return upright.convert("RGB")
    drawing = upright.convert("RGBA")
    white = _on(drawing, "white")
    if _contrast(white) >= _CONTRAST:
        return white
    return max(white, _on(drawing, "black"), key=_contrast)


def _on(drawing: Image, colour: str) -> Image:
    from PIL import Image

    return Image.alpha_composite(Image.new("RGBA", drawing.size, colour), drawing).convert("RGB")


def _contrast(image: Image) -> float:
    return max(high - low for low, high in image.getextrema())  # type: ignore[misc]


def _eight_bits(image: Image, file: Image) -> Image:
    """Greys of more bits or of numbers as L, or as LA if one of them stands for transparent."""
    from PIL import Image

    values = np.asarray(image)
    sixteen = image.mode.startswith("I;16") or file.format in ("PNG", "PPM")
    grey = (values.astype(np.float64) / (65535 if sixteen else _white(values, image.mode))).clip(0, 1)
    if getattr(file, "tag_v2", {}).get(262) == 0:  # PhotometricInterpretation: white is zero
        grey = 1 - grey
    made = Image.fromarray(np.rint(255 * grey).astype(np.uint8))
    if "transparency" in file.info:
        made.putalpha(Image.fromarray(np.where(values == file.info["transparency"], 0, 255).astype(np.uint8)))
    return made


def _white(values: np.ndarray, mode: str) -> int:
    low, high = values.min(), values.max()
    least, *_ = scales = _WHITE[mode]
    for white in scales:
        if low >= -_PAST * white and high <= (1 + _PAST) * white and (white == least or high >= _DARKEST * white):
            return white
    raise ValueError(
        f"it is not known what is white in a picture of numbers from {low:g} to {high:g}: "
        f"they must be from 0 to {', '.join(map(str, scales))}, or the picture have 8 or 16 bits"
    )
