"""How well the model answers with demonstrations that each strategy selects from a bank of the training images."""

from __future__ import annotations

import base64
import json
import shutil
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from hyperbolic import plot
from icl.bank import AnchorBank, HyperbolicLift, LiftTraining, Queries, fit_lift, same_label_pairs, select
from icl.testbed import (
    BASES,
    DIGITS,
    DigitImages,
    count_right,
    draw_words,
    embed_images,
    encode_images,
    load,
    load_digits,
    pixel_values,
)

STRATEGIES: dict[str, dict[str, Any]] = {
    "random": {"strategy": "random"},
    "RICES": {"strategy": "rices"},
    "hyperbolic": {"strategy": "hyperbolic"},
    "hyperbolic, diverse": {"strategy": "hyperbolic", "diversity": 0.3},
}
"""Options of :func:`icl.bank.select` by name. Without TopK-CLIP: it compares texts too, and these queries have none."""
_DIM, _EPOCHS = 16, 5
# Points on the disk, queries among them, and neighbours of each query.
_POINTS, _QUERIES, _NEIGHBOURS = 300, 3, 4


def measure_strategies(folder: Path, seed: int, shots: tuple[int, ...], queries: int) -> dict[str, Any]:
    """Return right answers by strategy and number of demonstrations, how good the lift is, and the bank on the disk.

    The images and a list of them stay in ``demonstrations``, the bank in ``bank``: what a user begins with, and what
    ``icl bank`` and ``icl select`` work on.
    """
    torch.manual_seed(seed)  # where the lift starts
    model, processor = load(BASES[seed])
    train, held = load_digits("train"), load_digits("held_out")
    embedded, held_embedded = (embed_images(model, pixel_values(split.pixels)) for split in (train, held))
    files = _export_images(folder / "demonstrations", train)
    lift = HyperbolicLift(embedded.shape[1], dim=_DIM)
    pairs = same_label_pairs(train.labels, seed)
    fitted = fit_lift(lift, embedded, pairs, LiftTraining(_EPOCHS, seed=seed), groups=train.labels)
    lift.eval()
    shutil.rmtree(folder / "bank", ignore_errors=True)
    names = [file.stem for file in files]
    labels = [DIGITS[digit] for digit in train.labels.tolist()]
    rows = {"id": names, "image": [str(file) for file in files], "label": labels, "image_embedding": embedded}
    bank = AnchorBank.build(folder / "bank", rows, lift=lift)
    asked = torch.randperm(len(held), generator=torch.Generator().manual_seed(seed))[:queries].sort().values
    with torch.no_grad():
        points = lift(held_embedded[asked])
    bank_queries = Queries(points, held_embedded[asked], ids=[f"held-out-{i}" for i in asked.tolist()])
    with torch.inference_mode():
        features, held_features = (encode_images(model, pixel_values(split.pixels)) for split in (train, held))
    right, sheets = {}, []
    for name, options in STRATEGIES.items():
        for k in shots:
            rows_by_query = select(bank, bank_queries, k, seed=seed, **options)
            if k == shots[min(1, len(shots) - 1)]:
                cards = [_make_card(train, row) for row in rows_by_query[0].tolist()]
                sheets.append({"strategy": name, "cards": cards})
            pictures = torch.cat([features[rows_by_query], held_features[asked][:, None]], 1)
            digits = torch.cat([train.labels[rows_by_query], held.labels[asked][:, None]], 1)
            words = draw_words(processor, len(asked), torch.Generator().manual_seed(seed))
            right[f"{name}/{k}"] = count_right(model, processor, pictures, digits, words)
    return {
        "queries": len(asked),
        "right": right,
        "lift": asdict(fitted),
        "bank": {"rows": len(bank), "dim": bank.meta.dim, "c": bank.meta.c},
        "disk": _reduce_sample(bank, train, held, points, asked, seed),
        "samples": [_make_card(train, int((train.labels == digit).nonzero()[0])) for digit in range(len(DIGITS))],
        "query": _make_card(held, int(asked[0])),
        "sheets": sheets,
    }


def _make_card(split: DigitImages, row: int) -> dict[str, str]:
    """Return an image with its label, for a page."""
    return {"picture": data_uri(split.png(row)), "label": DIGITS[int(split.labels[row])]}


def _export_images(folder: Path, split: DigitImages) -> list[Path]:
    """Write a folder of PNG files, and a list of them with their labels, as users have them."""
    folder.mkdir(parents=True, exist_ok=True)
    files = [folder.resolve() / f"{i:04d}.png" for i in range(len(split))]
    lines = []
    for i, file in enumerate(files):
        file.write_bytes(split.png(i))
        lines.append(json.dumps({"id": file.stem, "image": file.name, "label": DIGITS[int(split.labels[i])]}) + "\n")
    (folder / "demonstrations.jsonl").write_text("".join(lines))
    return files


def _reduce_sample(
    bank: AnchorBank, train: DigitImages, held: DigitImages, points: Tensor, asked: Tensor, seed: int
) -> dict[str, Any]:
    """Return a sample of the bank and a few queries with their neighbours, in two dimensions."""
    sample = torch.randperm(len(bank), generator=torch.Generator().manual_seed(seed))[:_POINTS]
    queries = torch.linspace(0, len(points) - 1, _QUERIES + 2)[1:-1].long()
    hits = bank.search(points[queries], _NEIGHBOURS)
    rows = torch.cat([sample, hits.rows.flatten()]).unique()
    reduced = plot.reduce(torch.cat([bank.gather(rows), points[queries]]), c=bank.meta.c, keep_depth=True)
    neighbours = torch.searchsorted(rows, hits.rows)
    stars = len(rows) + torch.arange(len(queries))
    edges = torch.stack([neighbours, stars[:, None].expand_as(neighbours)], -1).flatten(0, 1)
    held_rows = asked[queries].tolist()
    return {
        "points": reduced.points.tolist(),
        "c": bank.meta.c,
        "stress": reduced.stress,
        "explained": reduced.explained,
        "labels": [DIGITS[digit] for digit in train.labels[rows].tolist()] + ["query"] * len(held_rows),
        "names": [f"{row:04d}" for row in rows.tolist()]
        + [f"query, a {DIGITS[int(held.labels[i])]}" for i in held_rows],
        "pictures": [data_uri(train.png(row)) for row in rows.tolist()] + [data_uri(held.png(i)) for i in held_rows],
        "edges": edges.tolist(),
        "stars": stars.tolist(),
    }


def data_uri(png: bytes) -> str:
    """Return the address of an image that is part of its page."""
    return "data:image/png;base64," + base64.b64encode(png).decode()
