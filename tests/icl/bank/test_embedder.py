"""Embeddings of tiny random models, made here, against what transformers computes for the same inputs by itself."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from PIL import Image
from torch.nn.functional import normalize
from transformers import AutoModel, AutoProcessor

from hyperbolic.plot.pictures import load_image
from icl.bank.embedding.embedder import Embedder
from tests.icl.models import tiny_model

TEXTS = ["a red square", "blue", "a very long sentence " * 40, "", "green circle"]


@pytest.fixture(scope="module", params=["clip", "siglip"])
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_model(request.param, tmp_path_factory.mktemp(request.param))


def images(folder: Path, count: int = 5) -> list[Path]:
    generator = np.random.default_rng(0)
    paths = [folder / f"{i}.{'png' if i % 2 else 'jpg'}" for i in range(count)]
    for i, path in enumerate(paths):
        Image.fromarray(generator.integers(0, 255, (20 + 7 * i, 31, 3), dtype=np.uint8)).save(path)
    return paths


def test_as_transformers_embeds(folder: Path, tmp_path: Path) -> None:
    """The model's own forward pass on a batch of one gives unit vectors of both kinds."""
    embedder, paths = Embedder(folder, batch_size=2), images(tmp_path)
    model, processor = AutoModel.from_pretrained(folder).eval(), AutoProcessor.from_pretrained(folder)
    length = model.config.text_config.max_position_embeddings
    done = embedder.images(paths), embedder.texts(TEXTS)
    for i, (path, text) in enumerate(zip(paths, TEXTS)):
        picture = Image.open(path).convert("RGB")
        inputs = processor(
            text=[text], images=[picture], return_tensors="pt", padding="max_length", max_length=length, truncation=True
        )
        with torch.no_grad():
            out = model(**inputs)
        for got, want in zip(done, (out.image_embeds, out.text_embeds)):
            torch.testing.assert_close(got.embeddings[i], normalize(want[0], dim=0), rtol=1e-4, atol=1e-5)
    for got in done:
        assert got.rows.tolist() == [0, 1, 2, 3, 4]
        assert not got.failures
        assert got.embeddings.dtype == torch.float32
        assert not got.embeddings.requires_grad
        torch.testing.assert_close(got.embeddings.norm(dim=1), torch.ones(5))
    assert embedder.width == done[0].embeddings.shape[1]


def test_batches_and_types_only_round(folder: Path, tmp_path: Path) -> None:
    paths = images(tmp_path)
    one = Embedder(folder, batch_size=64)
    for other, tolerance in (
        (Embedder(folder, batch_size=1), 1e-5),
        (Embedder(folder, batch_size=3, dtype=torch.float64), 1e-5),
        (Embedder(folder, batch_size=3, dtype=torch.bfloat16), 0.1),
    ):
        torch.testing.assert_close(other.images(paths).embeddings, one.images(paths).embeddings, rtol=0, atol=tolerance)
        torch.testing.assert_close(other.texts(TEXTS).embeddings, one.texts(TEXTS).embeddings, rtol=0, atol=tolerance)


def test_what_is_no_image_is_reported_and_skipped(folder: Path, tmp_path: Path) -> None:
    good = images(tmp_path, 3)
    (tmp_path / "text.png").write_text("not an image")
    (tmp_path / "cut.png").write_bytes(good[1].read_bytes()[:60])
    files = [good[0], tmp_path / "text.png", tmp_path / "missing.jpg", good[1], tmp_path / "cut.png", good[2]]
    embedder = Embedder(folder, batch_size=2)
    done = embedder.images(files)
    assert done.rows.tolist() == [0, 3, 5]
    assert [(f.row, f.what) for f in done.failures] == [(i, str(files[i])) for i in (1, 2, 4)]
    kinds = [f.reason.split(":")[0] for f in done.failures]
    assert kinds[:2] == ["UnidentifiedImageError", "FileNotFoundError"]
    assert kinds[2] in ("OSError", "SyntaxError")  # Pillow's words for a file that ends early
    torch.testing.assert_close(done.embeddings, embedder.images(good).embeddings, rtol=0, atol=1e-5)
    nothing: Any = [None, 3]
    failed = embedder.texts(nothing)
    assert failed.embeddings.shape == (0, embedder.width)
    assert [f.reason for f in failed.failures] == [
        "TypeError: not a text but NoneType",
        "TypeError: not a text but int",
    ]


def test_a_bomb_is_refused(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    paths = images(tmp_path, 2)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 300)  # twice as many raise: the first has 620, the second 837
    done = Embedder(folder).images(paths)
    assert [f.reason.split(":")[0] for f in done.failures] == ["DecompressionBombError"] * 2


def test_images_stand_upright_and_in_colour(tmp_path: Path) -> None:
    picture = Image.fromarray(np.arange(12, dtype=np.uint8).reshape(3, 4) * 20)
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned by 90 degrees clockwise
    picture.save(tmp_path / "turned.png", exif=exif)
    got = np.asarray(load_image(tmp_path / "turned.png"))
    assert got.shape == (4, 3, 3)
    np.testing.assert_array_equal(got[..., 0], np.rot90(np.asarray(picture), -1))
    np.testing.assert_array_equal(np.asarray(load_image(picture))[..., 2], np.asarray(picture))


def test_arguments(tmp_path: Path) -> None:
    config = transformers.BertConfig(vocab_size=8, hidden_size=8, num_hidden_layers=1, num_attention_heads=1)
    transformers.BertModel(config).save_pretrained(tmp_path / "bert")
    with pytest.raises(ValueError, match="is a BertModel, which has no get_image_features"):
        Embedder(tmp_path / "bert")
    with pytest.raises(ValueError, match="batch_size must be at least 1, got 0"):
        Embedder(tmp_path / "bert", batch_size=0)
