"""The testbed's images: those of scikit-learn."""

import numpy as np
from sklearn.datasets import load_digits

from icl.testbed import images


def test_images_are_those_of_scikit_learn() -> None:
    data = load_digits()
    known = {
        (image.tobytes(), label) for image, label in zip(np.rint(data.images * 255 / 16).astype(np.uint8), data.target)
    }
    parts = [images.load_digits(name) for name in ("train", "dev", "test")]
    ours = [(image.numpy().tobytes(), int(label)) for part in parts for image, label in zip(part.pixels, part.labels)]
    assert len(ours) == len(data.target) == len(set(ours))
    assert set(ours) == known
