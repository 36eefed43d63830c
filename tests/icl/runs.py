"""Small runs of training on the testbed's model, cut short or damaged on purpose."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from safetensors.torch import load_file

from icl.testbed import images
from icl.testbed.vocabulary import WORDS
from icl.training.run_configuration import TrainingRun

EPOCHS = 4


def write_rows(folder: Path, name: str, first: int, count: int = 12) -> None:
    source = images.load_digits("train")
    rows = []
    for i in range(first, first + count):
        Image.fromarray(source.pixels[100 * i % 1437].numpy()).save(folder / f"{i}.png")
        rows.append({"id": str(i), "image": f"{i}.png", "question": "is", "answer": WORDS[i % 10]})
    (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


def describe_run(**changes: Any) -> TrainingRun:
    values: dict[str, Any] = {
        "model": "testbed", "data": {"train": "train.jsonl", "dev": "dev.jsonl", "shots": 2}, "method": "hyper_icl",
        "training": {"epochs": EPOCHS, "batch_size": 6, "learning_rate": 5e-3},
    }  # fmt: skip
    for section, change in changes.items():
        values[section] = {**values[section], **change} if section in ("data", "training") else change
    return TrainingRun.from_dict(values)


class CutError(Exception):
    pass


def cut_at(step: int) -> Callable[[int, int, float | None], None]:
    def stop(done: int, total: int, dev: float | None) -> None:
        if done == step:
            raise CutError

    return stop


def weights_of(folder: str | Path) -> dict[str, torch.Tensor]:
    return load_file(Path(folder) / "adapter_model.safetensors")


def assert_same_adapter(a: str | Path, b: str | Path) -> None:
    first, second = weights_of(a), weights_of(b)
    assert first.keys() == second.keys()
    assert all(torch.equal(first[name], second[name]) for name in first)


def truncate(file: Path) -> None:
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])


def flip(file: Path) -> None:
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)


def empty(file: Path) -> None:
    file.write_bytes(b"")


DAMAGES = (truncate, flip, empty, Path.unlink)


def edit(name: str, row: int, **fields: Any) -> Callable[[], None]:
    def change() -> None:
        rows = [json.loads(line) for line in Path(name).read_text().splitlines()]
        rows[row].update(fields)
        Path(name).write_text("".join(json.dumps(each) + "\n" for each in rows))

    return change
