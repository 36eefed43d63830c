"""Commands run in this process, and the files that their tests work on."""

import json
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor
from typer.testing import CliRunner, Result

from hyperbolic import lorentz
from icl.cli.app import app
from icl.testbed import images
from icl.testbed.vocabulary import WORDS


def run(*args: Any, code: int = 0) -> Result:
    """Run a command that has to end with this exit code."""
    result = CliRunner().invoke(app, [str(arg) for arg in args], env={"COLUMNS": "300", "TERM": "dumb"})
    assert result.exit_code == code, result.output + repr(result.exception)
    return result


def read(*args: Any) -> Any:
    """Return what --json prints: one value and nothing else."""
    return json.loads(run(*args, "--json").stdout)


def points(n: int, seed: int = 0) -> Tensor:
    """Return points (n, 3) on the hyperboloid."""
    return lorentz.expmap0(torch.randn(n, 3, generator=torch.Generator().manual_seed(seed)))


def write_rows(path: Path, x: Tensor, first: int = 0, **columns: list[Any]) -> Path:
    """Write a file of rows with these points, and return its path."""
    rows = [
        {"id": f"demo-{i}", "text": f"text {i}", "point": p, **{k: v[i - first] for k, v in columns.items()}}
        for i, p in enumerate(x.tolist(), first)
    ]
    path.write_text("\n".join(map(json.dumps, rows)))
    return path


def write_digits(folder: Path, name: str, split: str, rows: range, **more: Any) -> None:
    """Write a file of digits, each called by a word of its own."""
    source = images.load_digits(split)
    with (folder / f"{name}.jsonl").open("w") as file:
        for i in rows:
            Image.fromarray(source.pixels[i].numpy()).save(folder / "images" / f"{name}-{i}.png")
            digit = int(source.labels[i])
            row = {"id": f"{name}-{i}", "image": f"images/{name}-{i}.png", "answer": WORDS[digit], "kind": digit}
            place = [float(digit == d) for d in range(10)]
            point = [(1 + digit / 20) * value for value in place]
            file.write(json.dumps({**row, "point": point, "image_embedding": place, **more}) + "\n")


BRIEF = ("--model", "testbed", "--shots", "2", "--epochs", "2", "--batch-size", "20", "--lr", "0.005")
FILES = ("--data", "train.jsonl", "--dev", "dev.jsonl", *BRIEF)
