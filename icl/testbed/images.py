"""scikit-learn's handwritten digits: 8 x 8 pixels, split by image, as tensors and as PNG files.

``digits.csv.gz`` is scikit-learn's file, so that scikit-learn need not be installed for it: the test part of "Optical
Recognition of Handwritten Digits" by E. Alpaydin and C. Kaynak (1998), https://doi.org/10.24432/C50P49, CC BY 4.0.
"""

from __future__ import annotations

import io
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

SIZE = 8
# Images of each digit that training never sees: 12 for dev, 24 for test.
_DEV, _TEST = 12, 24


@dataclass(frozen=True)
class DigitImages:
    """N images, those of one digit together, in the order of the digits."""

    pixels: Tensor
    """(N, 8, 8) uint8, 0 the paper, 255 the ink."""
    labels: Tensor
    """(N,) int64, the digit."""

    def __len__(self) -> int:
        return len(self.labels)

    def png(self, i: int) -> bytes:
        """Return image ``i`` as a PNG file."""
        file = io.BytesIO()
        Image.fromarray(self.pixels[i].numpy()).save(file, "png")
        return file.getvalue()


@cache
def load_digits(name: str) -> DigitImages:
    """Return the images of "train", "dev", "test", or "held_out", the last two together.

    >>> [len(load_digits(name)) for name in ("train", "dev", "test", "held_out")]
    [1437, 120, 240, 360]
    """
    parts = {
        "test": slice(0, _TEST),
        "dev": slice(_TEST, _TEST + _DEV),
        "held_out": slice(0, _TEST + _DEV),
        "train": slice(_TEST + _DEV, None),
    }
    if name not in parts:
        raise ValueError(f"load_digits: name must be one of {', '.join(parts)}, got {name!r}")
    # A line is an image: 64 pixels, 0 the paper and 16 the ink, and the digit.
    table = np.loadtxt(Path(__file__).parent / "data" / "digits.csv.gz", delimiter=",", dtype=np.int64)
    pixels, labels = table[:, :-1].reshape(-1, SIZE, SIZE), table[:, -1]
    # numpy keeps the stream of RandomState for good, so the split is the same everywhere.
    random = np.random.RandomState(0)
    order = [random.permutation(np.flatnonzero(labels == digit)) for digit in range(10)]
    rows = np.concatenate([members[parts[name]] for members in order])
    shades = np.rint(pixels[rows] * (255 / 16)).astype(np.uint8)
    return DigitImages(torch.from_numpy(shades), torch.from_numpy(labels[rows]))


@cache
def load_pictures(name: str) -> list[Image.Image]:
    """Return the images of :func:`load_digits` in RGB, each the same object at every call."""
    return [Image.fromarray(pixels.numpy()).convert("RGB") for pixels in load_digits(name).pixels]


def pixel_values(pixels: Tensor) -> Tensor:
    """Return what the image processor makes of ``pixels`` (N, 8, 8): (N, 1, 3, 8, 8), one image a row, in [-1, 1]."""
    return (pixels / 127.5 - 1)[:, None, None].expand(-1, 1, 3, -1, -1)


def augment(pixels: Tensor, generator: torch.Generator) -> Tensor:
    """Return :func:`pixel_values` of the digits in another hand: half of them shifted, thicker or fainter, noisy."""
    n = len(pixels)
    shift = torch.randint(-1, 2, (2, n, 1), generator=generator) * (torch.rand(n, 1, generator=generator) < 0.5)
    rows, columns = (torch.arange(1, SIZE + 1) + s for s in shift)
    padded = torch.nn.functional.pad(pixels, (1, 1, 1, 1))
    moved = padded[torch.arange(n)[:, None, None], rows[:, :, None], columns[:, None, :]]
    values = pixel_values(moved * (0.8 + 0.4 * torch.rand(n, 1, 1, generator=generator)))
    return values + 0.1 * torch.randn(n, 1, 1, SIZE, SIZE, generator=generator)
