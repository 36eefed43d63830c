"""A folder as a user has it: rows, images, a bank, adapters, a run cut short. Each is made once for all rounds."""

from __future__ import annotations

import contextlib
import io
import json
import os
import tempfile
from collections.abc import Callable
from functools import cache, partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.feather
import pyarrow.parquet as pq
import torch
import yaml  # type: ignore[import-untyped]
from filelock import FileLock
from PIL import Image

from fuzz import STATE
from fuzz.isolation import isolated
from hyperbolic import lorentz

# Of the testbed's vocabulary, which is small.
_WORDS = ("apple", "bell", "canoe", "seven", "three")


@cache
def _folder() -> Path:
    return Path(os.environ.get(STATE) or tempfile.mkdtemp(prefix="fuzz-"), "workspace")


def workspace(*wanted: str) -> Path:
    """The folder with the small files, and those of ``MADE`` that are wanted. Nobody writes to it: copy what is needed.

    Each is made in a fork, because the libraries of banks do not let a process fork that has used them.
    """
    folder = _folder()
    with FileLock(folder.with_suffix(".lock")):
        if not folder.exists():
            isolated(lambda: _small(_draft()), 300)
            _draft().rename(folder)
        for name in wanted:
            if name in MADE and not (folder / name).exists():
                isolated(partial(MADE[name], folder, _draft()), 600)
                _draft().rename(folder / name)
    return folder


def _draft() -> Path:
    return _folder().with_name("draft")


def _small(folder: Path) -> None:
    (folder / "rows" / "images").mkdir(parents=True)
    (folder / "pictures").mkdir()
    (folder / "empty").mkdir()
    (folder / "junk.bin").write_bytes(bytes(range(256)) * 8)
    (folder / "none.jsonl").write_bytes(b"")
    _rows(folder / "rows")
    _pictures(folder / "pictures")
    _vectors(folder)


def _rows(folder: Path) -> None:
    """The same rows in every format, beside their images."""
    rows = []
    for i, word in enumerate(_WORDS):
        Image.new("RGB", (8, 8), (40 * i, 10, 200)).save(folder / "images" / f"{i}.png")
        rows.append({"id": f"row-{i}", "image": f"images/{i}.png", "question": f"lamp {word}", "answer": word})
    table = pa.Table.from_pylist(rows)
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    pq.write_table(table, folder / "rows.parquet")
    pyarrow.feather.write_feather(table, folder / "rows.arrow")
    lines = [",".join(rows[0]), *(",".join(f'"{value}"' for value in row.values()) for row in rows)]
    (folder / "rows.csv").write_text("\n".join(lines) + "\n")
    run = {
        "model": "testbed",
        "data": {"train": "rows/rows.jsonl", "dev": None, "shots": 1, "samples": 2, "strategy": "random"},
        "method": [{"name": "hificl", "tokens": 2, "layers": [0, 1]}],
        "objective": {"anchor": 1.0, "ce": 0.5},
        "training": {"epochs": 1.0, "learning_rate": 5e-3, "batch_size": 2, "seed": 0},
    }
    (folder.parent / "run.yaml").write_text(yaml.safe_dump(run))


def _pictures(folder: Path) -> None:
    picture = Image.effect_mandelbrot((13, 11), (-2, -1, 1, 1), 20)
    for mode, names in {"RGB": ("a.png", "a.jpg", "a.webp", "a.bmp"), "P": ("a.gif",), "I;16": ("a.tif",)}.items():
        for name in names:
            wide = Image.fromarray(np.asarray(picture).astype(np.uint16) * 256) if mode == "I;16" else None
            (wide or picture.convert(mode)).save(folder / name)
    picture.convert("RGBA").save(folder / "b.png")


def _vectors(folder: Path) -> None:
    """Rows with points and with embeddings, and arrays that are queries or not."""
    generator = torch.Generator().manual_seed(0)
    points = lorentz.expmap0(torch.randn(40, 3, generator=generator))
    tasks = ("vqa", "ocr", "[red]", "it's")
    rows: list[dict[str, Any]] = [
        {"id": f"demo-{i}", "text": f"text {i}", "point": point, "task": tasks[i % 4]}
        for i, point in enumerate(points.tolist())
    ]
    (folder / "demos.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows[:30]))
    (folder / "more.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows[30:35]))
    queries = [{key: row[key] for key in ("id", "text", "point")} for row in rows[35:]]
    (folder / "queries.jsonl").write_text("".join(json.dumps(row) + "\n" for row in queries))
    e = torch.nn.functional.normalize(torch.randn(40, 4, generator=generator), dim=1)
    columns = {"image_embedding": e.tolist(), "text_embedding": (e + 0.1).tolist()}
    parents = [None if i < 4 else f"r{i % 4}" for i in range(40)]
    table = {"id": [f"r{i}" for i in range(40)], "label": [i % 4 for i in range(40)], "parent": parents, **columns}
    pq.write_table(pa.table(table), folder / "embeddings.parquet")
    arrays = {
        "queries": points[:2].numpy(),
        "whole": np.arange(6).reshape(2, 3),
        "texts": np.array([["a", "b", "c"]]),
        "complex": np.ones((2, 3), dtype=complex),
        "big": np.ones((2, 3), dtype=">f8"),
        "wide": np.ones((2, 4)),
        "flat": np.ones(3),
        "one": np.ones(()),
        "no": np.ones((0, 3)),
        "nan": np.full((2, 3), np.nan),
        "times": np.ones((2, 3), dtype="datetime64[s]"),
        "records": np.ones(2, dtype=[("x", "f4"), ("y", "f4"), ("z", "f4")]),
    }
    for name, array in arrays.items():
        np.save(folder / f"{name}.npy", array)
    np.save(folder / "objects.npy", np.array([[None, 1, "x"]], dtype=object))


def _bank(folder: Path, out: Path) -> None:
    from icl.bank import AnchorBank, build_index

    bank = AnchorBank.build(out, folder / "demos.jsonl")
    bank.append(folder / "more.jsonl")
    build_index(bank)


def _lift(folder: Path, out: Path) -> None:
    from icl.bank import HyperbolicLift

    HyperbolicLift(4, dim=3).save(out)


def _lifted(folder: Path, out: Path) -> None:
    from icl.bank import AnchorBank, HyperbolicLift

    AnchorBank.build(out, folder / "embeddings.parquet", lift=HyperbolicLift(4, dim=3))


def _adapter(folder: Path, out: Path) -> None:
    _train(folder, out, epochs=1)


def _stopped(folder: Path, out: Path) -> None:
    """A run that was stopped after the first of its epochs."""
    with contextlib.suppress(KeyboardInterrupt):
        _train(folder, out, epochs=2)


def _train(folder: Path, out: Path, epochs: int) -> None:
    from icl.training import TrainingRun, train

    def stop(step: int, total: int, best: float | None) -> None:
        if step == 2:
            raise KeyboardInterrupt

    rows = str(folder / "rows" / "rows.jsonl")
    data = {"train": rows, "dev": rows, "samples": 2, "shots": 1}
    training = {"epochs": epochs, "batch_size": 2}
    train(
        TrainingRun.from_dict({"model": "testbed", "data": data, "method": "hificl", "training": training}), out, stop
    )


def _tested(folder: Path, out: Path) -> None:
    from icl.cli.app import app

    rows = str(folder / "rows" / "rows.jsonl")
    with contextlib.redirect_stdout(io.StringIO()):
        app(["eval", "--model", "testbed", "--data", rows, "--out", str(out)], standalone_mode=False)


MADE: dict[str, Callable[[Path, Path], None]] = {
    "bank": _bank, "lift": _lift, "lifted": _lifted, "adapter": _adapter, "stopped": _stopped, "tested": _tested,
}  # fmt: skip
