"""Examples to learn from: a query, what a teacher is shown before it, what a student is shown, and the answer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, TypeAlias

from PIL import Image

from icl.common.files import digest
from icl.data.records import Records

Message: TypeAlias = Mapping[str, Any]
"""A message as ``apply_chat_template`` takes it: a role, and parts {"type": "text", "text": ...} or {"type": "image",
"image": ...}, whose image is of Pillow, a path, or the bytes of a file."""


class Examples(Protocol):
    """A list of examples, or :class:`icl.bank.DemonstratedRecords`."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int, /) -> Example: ...


@dataclass(frozen=True)
class Example:
    """Two prompts that end with the same message, the query, and what is to be answered.

    Args:
        id: a name for messages.
        teacher, student: the prompts.
        answer: ``None`` if it is not known: such an example can only be held to the teacher.
        references: all answers that count as right.
    """

    id: str
    teacher: Sequence[Message]
    student: Sequence[Message]
    answer: str | None
    references: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        for name, messages in (("teacher", self.teacher), ("student", self.student)):
            if not messages or messages[-1].get("role") != "user":
                got = messages[-1].get("role") if messages else "no message"
                raise ValueError(f"Example {self.id}: {name} must end with the user's query, got {got}")
        if self.answer is not None and not self.answer.strip():
            raise ValueError(f"Example {self.id}: answer must have text, or be None where it is not known, got blank")

    @classmethod
    def from_task(cls, row: Mapping[str, Any]) -> Example:
        """Make an example of a row of :func:`icl.testbed.load_task`."""
        teacher, student = ([_without_empty(message) for message in row[prompt]] for prompt in ("teacher", "student"))
        answer = row["answer"]
        return cls(row["id"], teacher, student, answer, () if answer is None else (answer,))


def _without_empty(message: Mapping[str, Any]) -> Message:
    """Drop the empty fields that a table has: templates ask whether a part has an image, not whether it is one."""
    parts = [{name: value for name, value in part.items() if value is not None} for part in message["content"]]
    return {"role": message["role"], "content": parts}


def digest_content(message: Message, images: Sequence[Image.Image]) -> str:
    """Return what tells whether two demonstrations are the same: a digest of their images' pixels, else their text."""
    if images:
        return digest("".join(digest(f"{image.size}".encode() + image.tobytes()) for image in images))
    parts = message["content"]
    texts = [parts] if isinstance(parts, str) else [part.get("text", "") for part in parts]
    return digest(" ".join(" ".join(texts).split()))


def format_query(records: Records, row: int, prompt: str) -> str:
    """Return what is asked about a record: ``prompt`` with its fields. ``ValueError`` if it has other fields."""
    fields = records[row].fields
    try:
        return prompt.format_map(fields).strip()
    except KeyError as error:
        raise ValueError(f"DemonstratedRecords: prompt must have fields of {', '.join(fields)}, got {error}") from None
    except (LookupError, ValueError, AttributeError, TypeError) as error:
        raise ValueError(
            f'DemonstratedRecords: prompt must be such as "{{question}}", got {prompt!r}: {error}'
        ) from None
