"""A small data set with images: a question and an answer a row."""

import json
from pathlib import Path
from typing import Any

from tests.icl.processors import picture

N = 6


def write_images(folder: Path) -> Path:
    (folder / "images").mkdir()
    for i in range(N):
        picture(i).save(folder / "images" / f"{i}.png")
    return folder


def table(**more: list[Any]) -> dict[str, list[Any]]:
    columns = {
        "id": [f"q{i}" for i in range(N)],
        "image": [f"images/{i}.png" for i in range(N)],
        "question": [f"what is {i} ?" for i in range(N)],
        "answer": [f"word {i}" for i in range(N)],
    }
    return {**columns, **more}


def jsonl(folder: Path, columns: dict[str, list[Any]], name: str = "rows.jsonl") -> Path:
    rows = [dict(zip(columns, values)) for values in zip(*columns.values())]
    (folder / name).write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder / name
