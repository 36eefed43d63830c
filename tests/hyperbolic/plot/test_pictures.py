"""Pictures of every mode of Pillow and of files that other programs write, against their pixels worked out by hand."""

import struct
import zlib
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch
from PIL import Image

from hyperbolic import plot
from hyperbolic.plot.pictures import load_image
from icl.data.examples import digest_content


def pixels(image: Any) -> list[list[int]]:
    return np.asarray(load_image(image)).reshape(-1, 3).tolist()


def png(depth: int, colour: int, width: int, samples: bytes, transparent: bytes = b"") -> bytes:
    """A file of one row, by the specification: https://www.w3.org/TR/png."""

    def chunk(name: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    head = chunk(b"IHDR", struct.pack(">IIBBBBB", width, 1, depth, colour, 0, 0, 0))
    keyed = chunk(b"tRNS", transparent) if transparent else b""
    return b"\x89PNG\r\n\x1a\n" + head + keyed + chunk(b"IDAT", zlib.compress(b"\0" + samples)) + chunk(b"IEND", b"")


GREYS = [0, 257, 128 * 257, 65535]  # 0, 1, 128 and 255 of 255
WANTED = [[0] * 3, [1] * 3, [128] * 3, [255] * 3]


@pytest.mark.parametrize(
    "image",
    [
        png(16, 0, 4, struct.pack(">4H", *GREYS)),
        b"P5 4 1 65535\n" + struct.pack(">4H", *GREYS),
        Image.fromarray(np.array([GREYS], np.uint16)),
        Image.frombytes("I;16B", (4, 1), struct.pack(">4H", *GREYS)),
        Image.fromarray(np.array([GREYS], np.int32)),
        Image.fromarray(np.array([GREYS], np.float32)),
        Image.fromarray(np.array([GREYS], np.float32) / 65535),
        Image.fromarray(np.array([GREYS], np.float32) / 257),
        Image.fromarray(np.array([GREYS], np.int32) // 257),
    ],
    ids=["PNG", "PGM", "I;16", "I;16B", "I", "F to 65535", "F to 1", "F to 255", "I to 255"],
)
def test_greys_of_more_than_eight_bits(image: Any, tmp_path: Path) -> None:
    assert pixels(image) == WANTED
    if isinstance(image, Image.Image):
        image.save(tmp_path / "grey.tif")
        assert pixels(tmp_path / "grey.tif") == WANTED
        if image.mode in ("I;16", "F"):  # the others Pillow does not read so
            image.save(tmp_path / "inverted.tif", tiffinfo={262: 0})  # white is zero
            assert pixels(tmp_path / "inverted.tif") == [[255 - level for level in pixel] for pixel in WANTED]


def test_other_brightness_is_another_picture() -> None:
    images = [Image.fromarray(np.full((4, 4), 257 * grey, np.uint16)) for grey in (60, 200)]
    first, second = (digest_content({"role": "user", "content": []}, [load_image(image)]) for image in images)
    assert first != second


@pytest.mark.parametrize("values", [[-1, 1], [0, 4.5], [0, 300.0], [0, 1e6], [0, float("nan")], [0, float("inf")]])
def test_numbers_without_a_known_white_are_refused(values: list[float]) -> None:
    with pytest.raises(ValueError, match="not known what is white in a picture of numbers from ") as raised:
        load_image(Image.fromarray(np.array([values], np.float32)))
    assert f" to {values[1]:g}: " in str(raised.value) or values[1] != values[1]
    assert pixels(Image.fromarray(np.array([[-1e-3, 1 + 1e-3]], np.float32))) == [[0] * 3, [255] * 3]


def drawing(mode: str, ink: int) -> Image.Image:
    """A dot of ink on what is transparent, and half a dot."""
    alpha = Image.fromarray(np.array([[0, 255, 128]], np.uint8))
    if mode == "PA":
        image = Image.merge("PA", (Image.new("L", (3, 1), 0), alpha))
        image.putpalette([ink] * 3)
        return image
    image = Image.merge("LA", (Image.new("L", (3, 1), ink), alpha))
    return image.convert(mode) if mode in ("LA", "La") else image.convert("RGBA").convert(mode)


@pytest.mark.parametrize("mode", ["LA", "RGBA", "La", "RGBa", "PA"])
def test_what_is_transparent_lies_on_white(mode: str) -> None:
    assert pixels(drawing(mode, 0)) == [[255] * 3, [0] * 3, [127] * 3]
    assert pixels(drawing(mode, 255)) == [[0] * 3, [255] * 3, [128] * 3], "white ink, which white paper would hide"


def test_transparent_files(tmp_path: Path) -> None:
    drawing("RGBA", 0).save(tmp_path / "black.webp", lossless=True)
    assert pixels(tmp_path / "black.webp") == [[255] * 3, [0] * 3, [127] * 3]
    palette = Image.new("P", (2, 1), 0)
    palette.putpalette([0, 0, 0, 200, 0, 0])
    palette.putpixel((1, 0), 1)
    for name in ("p.png", "p.gif"):
        palette.save(tmp_path / name, transparency=0)
        assert pixels(tmp_path / name) == [[255] * 3, [200, 0, 0]]
    palette.save(tmp_path / "bytes.png", transparency=b"\0\xff")
    assert pixels(tmp_path / "bytes.png") == [[255] * 3, [200, 0, 0]]
    assert pixels(png(8, 0, 2, b"\0\x40", b"\0\0")) == [[255] * 3, [64] * 3], "a key of grey"
    assert pixels(png(16, 0, 2, struct.pack(">2H", 0, 64 * 257), b"\0\0")) == [[255] * 3, [64] * 3]
    assert pixels(png(16, 4, 2, struct.pack(">4H", 0, 0, 257, 65535))) == [[255] * 3, [1] * 3]
    assert pixels(png(8, 2, 2, bytes([1, 2, 3, 0, 0, 0]), struct.pack(">3H", 1, 2, 3))) == [[255] * 3, [0] * 3]


@pytest.mark.parametrize(
    ("mode", "colour", "wanted"),
    [
        ("1", 1, [255, 255, 255]), ("L", 7, [7, 7, 7]), ("P", 0, [0, 0, 0]), ("RGB", (1, 2, 3), [1, 2, 3]),
        ("RGBX", (1, 2, 3, 0), [1, 2, 3]), ("CMYK", (0, 0, 0, 255), [0, 0, 0]), ("CMYK", (255, 0, 0, 0), [0, 255, 255]),
        ("YCbCr", (255, 128, 128), [255, 255, 255]), ("HSV", (0, 0, 200), [200, 200, 200]),
    ],
)  # fmt: skip
def test_other_modes(mode: str, colour: Any, wanted: list[int]) -> None:
    assert pixels(Image.new(mode, (1, 1), colour)) == [wanted]


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_turned_by_exif(tmp_path: Path, dtype: Any) -> None:
    image = Image.fromarray(np.array([[1, 2], [3, 4], [5, 6]], dtype) * (np.iinfo(dtype).max // 255))
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned by 90 degrees clockwise
    image.save(tmp_path / "turned.png", exif=exif)
    assert np.asarray(load_image(tmp_path / "turned.png"))[..., 0].tolist() == [[5, 3, 1], [6, 4, 2]]


def test_thumbnails_are_loaded_so(tmp_path: Path) -> None:
    Image.fromarray(np.full((8, 8), 100 * 257, np.uint16)).save(tmp_path / "grey.png")
    axes = plot.disk(torch.zeros(1, 2), images=[tmp_path / "grey.png"])
    (box,) = [artist for artist in axes.artists if hasattr(artist, "offsetbox")]
    assert np.unique(box.offsetbox.get_data()).tolist() == [100]
    plt.close(axes.figure)
