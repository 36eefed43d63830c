"""Rows for :class:`icl.data.Records` from the files that VQAv2, OK-VQA and COCO captions are published in.

Formats: https://visualqa.org/download.html for questions and annotations, which OK-VQA shares (its ``answer`` is
stemmed, and is what its evaluator compares), and ``dataset_coco.json`` of Karpathy and Fei-Fei, 2015, for captions.
"""

from __future__ import annotations

import json
import os
import random
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

Rows = list[dict[str, Any]]

QUESTIONS = {
    "vqav2": ("v2_OpenEnded_mscoco_{part}2014_questions.json", "v2_mscoco_{part}2014_annotations.json"),
    "okvqa": ("OpenEnded_mscoco_{part}2014_questions.json", "mscoco_{part}2014_annotations.json"),
}
# Images that choices are made by, which nothing is learned from.
HELD_OUT = 500


def vqa(questions: Path, annotations: Path, images: Path) -> Rows:
    """One row a question, with the ten answers of its annotation. ``ValueError`` names what is not of the format."""
    whole, asked = _read(questions, "questions", ("image_id", "question_id", "question"))
    folder = whole.get("data_subtype")
    if not isinstance(folder, str):
        raise ValueError(f"{questions}: data_subtype must name the images' folder, such as val2014, got {folder!r}")
    _, annotated = _read(annotations, "annotations", ("image_id", "question_id", "answers"))
    answers = {each["question_id"]: each for each in annotated}
    rows = []
    for each in asked:
        known = answers.get(each["question_id"])
        if known is None or known["image_id"] != each["image_id"]:
            raise ValueError(f"{annotations}: question {each['question_id']} of {questions.name} is not annotated")
        rows.append(
            {
                "id": str(each["question_id"]),
                "image": str((images / folder / f"COCO_{folder}_{each['image_id']:012d}.jpg").absolute()),
                "question": each["question"],
                "answers": [answer["answer"] for answer in known["answers"]],
            }
        )
    return rows


def captions(karpathy: Path, images: Path, splits: Sequence[str]) -> Rows:
    """One row an image of these splits, with all its captions; the first is the one that is learned."""
    _, found = _read(karpathy, "images", ("split", "filepath", "filename", "cocoid", "sentences"))
    return [
        {
            "id": str(each["cocoid"]),
            "image": str((images / each["filepath"] / each["filename"]).absolute()),
            "answers": [" ".join(sentence["raw"].split()) for sentence in each["sentences"]],
        }
        for each in found
        if each["split"] in splits
    ]


def splits(task: str, source: Path, images: Path) -> dict[str, Rows]:
    """Rows to learn from, to choose by ("dev"), and to be tested by.

    VQAv2 and OK-VQA are tested on their validation sets. Karpathy's validation set is what is chosen by; of the others
    some training images with all their questions are held out.
    """
    if task == "coco":
        parts = {"train": ("train", "restval"), "dev": ("val",), "test": ("test",)}
        made = {part: captions(source, images, names) for part, names in parts.items()}
        made["dev"] = drawn(made["dev"], HELD_OUT)
    else:
        questions, annotations = (
            {part: source / name.format(part=part) for part in ("train", "val")} for name in QUESTIONS[task]
        )
        train = vqa(questions["train"], annotations["train"], images)
        names = sorted({row["image"] for row in train})
        held = set(random.Random(0).sample(names, min(HELD_OUT, len(names) // 10)))
        made = {
            "train": [row for row in train if row["image"] not in held],
            "dev": [row for row in train if row["image"] in held],
            "test": vqa(questions["val"], annotations["val"], images),
        }
    for part, rows in made.items():
        if not rows:
            raise ValueError(f"{source}: there are no rows for {part}")
    return made


def drawn(rows: Rows, count: int | None) -> Rows:
    """So many of them in their order, always the same, or all if there are no more."""
    if count is None or count >= len(rows):
        return rows
    return [rows[i] for i in sorted(random.Random(0).sample(range(len(rows)), count))]


def write(rows: Iterable[dict[str, Any]], file: Path) -> None:
    """Write rows as lines of JSON."""
    file.parent.mkdir(parents=True, exist_ok=True)
    draft = file.with_name(file.name + ".tmp")
    with draft.open("w", encoding="utf-8") as out:
        for row in rows:
            out.write(json.dumps(row, ensure_ascii=False) + "\n")
    os.replace(draft, file)


def _read(file: Path, name: str, fields: Sequence[str]) -> tuple[dict[str, Any], Rows]:
    """The file, and the entries under ``name``, which have these fields."""
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ValueError(f"{file} cannot be read: {error}") from error
    entries = found.get(name) if isinstance(found, dict) else None
    if not isinstance(entries, list) or not entries:
        raise ValueError(f"{file}: {name} must be a list of entries")
    for i, entry in enumerate(entries):
        missing = [field for field in fields if not isinstance(entry, dict) or field not in entry]
        if missing:
            raise ValueError(f"{file}: {name}[{i}] has no {', '.join(missing)}")
    return found, entries
