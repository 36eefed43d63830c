"""The testbed's images: those of scikit-learn, split, as PNG files, and augmented."""

import io
from collections import Counter

import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.datasets import load_digits

from icl.testbed import images
from icl.testbed.vocabulary import STYLES, build_processor


def test_images_are_those_of_scikit_learn() -> None:
    data = load_digits()
    known = {
        (image.tobytes(), label) for image, label in zip(np.rint(data.images * 255 / 16).astype(np.uint8), data.target)
    }
    parts = [images.load_digits(name) for name in ("train", "dev", "test")]
    ours = [(image.numpy().tobytes(), int(label)) for part in parts for image, label in zip(part.pixels, part.labels)]
    assert len(ours) == len(data.target) == len(set(ours))
    assert set(ours) == known


def test_splits_share_no_image() -> None:
    parts = {name: images.load_digits(name) for name in ("train", "dev", "test")}
    assert {name: len(part) for name, part in parts.items()} == {"train": 1437, "dev": 120, "test": 240}
    for name, each in (("dev", 12), ("test", 24)):
        assert parts[name].labels.bincount().tolist() == [each] * 10
    files = [part.png(i) for part in parts.values() for i in range(len(part))]
    assert len(set(files)) == len(files) == 1797
    held_out = images.load_digits("held_out")
    assert {held_out.png(i) for i in range(360)} == set(files[1437:])
    with pytest.raises(ValueError, match="'validation'"):
        images.load_digits("validation")


def test_png_and_processor_give_the_pixels_of_training() -> None:
    dev = images.load_digits("dev")
    read = np.stack([np.asarray(Image.open(io.BytesIO(dev.png(i)))) for i in range(len(dev))])
    assert np.array_equal(read, dev.pixels.numpy())
    rows = [[Image.fromarray(x)] for x in read]
    processed = build_processor(STYLES["base"]).image_processor(rows, return_tensors="pt")["pixel_values"]
    torch.testing.assert_close(processed, images.pixel_values(dev.pixels), rtol=0, atol=1e-6)
    assert (processed.min(), processed.max()) == (-1, 1)


def test_augmentation_shifts_by_a_pixel_at_most() -> None:
    pixels = torch.zeros(2000, 8, 8, dtype=torch.uint8)
    pixels[:, 3, 4] = 255
    values = images.augment(pixels, torch.Generator().manual_seed(0))[:, 0, 0]
    at = values.flatten(1).argmax(1)
    moves = Counter(zip((at // 8 - 3).tolist(), (at % 8 - 4).tolist()))
    assert set(moves) == {(i, j) for i in (-1, 0, 1) for j in (-1, 0, 1)}
    assert abs(moves[0, 0] / 2000 - (1 / 2 + 1 / 18)) < 0.04
    peak = values.flatten(1).amax(1)  # 2 ink - 1, ink uniform on .8 to 1.2, and noise of .1
    assert abs(peak.mean() - 1) < 0.02
    assert abs(peak.var() - ((2 * 0.4) ** 2 / 12 + 0.01)) < 0.006
    background = values.flatten(1).kthvalue(32, 1).values
    assert abs(background.mean() + 1) < 0.02
