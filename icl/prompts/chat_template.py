"""An example's two prompts as text, written by the model's chat template and cut where the query begins.

A teacher is compared with a student from the query on, so both prompts must end with the same text. What stands before
the query is what the template writes of the other messages alone.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, NoReturn

from PIL import Image
from transformers import ProcessorMixin

from hyperbolic.plot.pictures import load_image
from icl.data import Example, Message, digest_content

Role = Literal["teacher", "student"]


@dataclass(frozen=True)
class ChatPrompt:
    """One of an example's two prompts, cut where the query begins.

    Args:
        prefix: the text before the query.
        query: the text of the last message, up to where the model begins to speak.
        prefix_images, query_images: in the order of the text.
        contents: what each message shows (:func:`icl.data.digest_content`).
    """

    prefix: str
    query: str
    prefix_images: list[Image.Image]
    query_images: list[Image.Image]
    contents: tuple[str, ...]

    @property
    def text(self) -> str:
        """The whole prompt."""
        return self.prefix + self.query

    @property
    def images(self) -> list[Image.Image]:
        """All images, in the order of the text."""
        return self.prefix_images + self.query_images


class ChatTemplate:
    """The chat template of a processor, as prompts are written and cut by it. Errors name the example."""

    def __init__(self, processor: ProcessorMixin):
        self.processor = processor
        # the first Idefics has no attribute for it
        self.image: str = getattr(processor, "image_token", "<image>")
        tokens = processor.tokenizer.added_tokens_decoder.values()
        special = "|".join(re.escape(token.content) for token in tokens if token.special)
        self._special = re.compile(special or r"(?!)")

    def prompts(self, example: Example) -> tuple[ChatPrompt, ChatPrompt]:
        """Return the teacher's and the student's prompt, which end with the same query.

        Raises:
            ValueError: the queries differ, stand among their own demonstrations, or cannot be told from what is before
                them; or an image cannot be read.
        """
        where = f"example {example.id}"
        teacher = student = self._write(example.teacher, "teacher", where)
        if example.student is not example.teacher:  # reading images takes long
            student = self._write(example.student, "student", where)
        # What a template writes before any message shows in comparison only, where a prompt is the query alone.
        shared = count_common(teacher.query[::-1], student.query[::-1])
        query = teacher.query[len(teacher.query) - shared :]
        texts = _list_texts(example.teacher[-1])
        whole = query in (teacher.query, student.query) or all(text.strip() in query for text in texts)
        if texts != _list_texts(example.student[-1]) or not whole:
            self._refuse(where, teacher.query, student.query)
        if teacher.contents[-1] != student.contents[-1]:
            raise ValueError(f"{where}: the queries of teacher and student must be the same, and show other images")
        first, second = (
            replace(prompt, prefix=prompt.text[: len(prompt.text) - shared], query=query)
            for prompt in (teacher, student)
        )
        return first, second

    def answer(self, example: Example, prompt: ChatPrompt) -> str:
        """Return what the model is to say after the student's prompt, with the token that ends its turn, if any."""
        assert example.answer is not None
        turn = {"role": "assistant", "content": [{"type": "text", "text": example.answer}]}
        answer = example.answer.strip()  # as many templates do
        text = self._apply([*example.student, turn])
        # Some templates write a turn in the past otherwise than they begin one. Then only how it ends is taken.
        continues = text.startswith(prompt.text)
        start = text.find(answer, len(prompt.text)) if continues else text.rfind(answer)
        if start < 0:
            raise ValueError(f"example {example.id}: the chat template does not write the answer {answer!r} as it is")
        lead = text[len(prompt.text) : start] if continues else ""
        rest = text[start + len(answer) :]
        end = self._special.search(rest)
        return lead + answer + (rest[: end.end()] if end else "")

    def _write(self, messages: Sequence[Message], role: Role, where: str) -> ChatPrompt:
        """Write a prompt, whose query still begins with all that the template writes after the other messages."""
        images = [_load_images(message, where) for message in messages]
        contents = tuple(map(digest_content, messages, images))
        if contents[-1] in (c for c, message in zip(contents[:-1], messages) if message["role"] == "user"):
            raise ValueError(f"{where}: its query is among the {role}'s demonstrations")
        text = self._apply(messages, add_generation_prompt=True)
        prefix = self._apply(messages[:-1]) if len(messages) > 1 else ""
        if not text.startswith(prefix):
            raise ValueError(
                f"{where}: the chat template writes what comes before a query in another way when one follows, so "
                f"the {role}'s demonstrations cannot be told from it"
            )
        if text.count(self.image) != sum(map(len, images)):
            raise ValueError(f"{where}: {self.image} must stand for an image, and is in a text of the {role}")
        return ChatPrompt(prefix, text[len(prefix) :], [i for each in images[:-1] for i in each], images[-1], contents)

    def _apply(self, messages: Sequence[Message], **options: Any) -> str:
        """Apply the template, which sees where images are but not the images, and no part that is empty."""
        plain = []
        for message in messages:
            parts = message["content"]
            if not isinstance(parts, str):
                parts = [{name: part[name] for name in ("type", "text") if name in part} for part in parts]
            plain.append({"role": message["role"], "content": parts})
        text: str = self.processor.apply_chat_template(plain, tokenize=False, **options)
        return text

    def _refuse(self, where: str, teacher: str, student: str) -> NoReturn:
        """Raise the error of two queries that are not the same, which names the last token that differs."""
        tokenizer = self.processor.tokenizer
        rows = [tokenizer(text, add_special_tokens=False)["input_ids"] for text in (teacher, student)]
        shared = count_common(*(row[::-1] for row in rows))
        first, second = (repr(tokenizer.decode(row[: len(row) - shared][-1:])) for row in rows)
        raise ValueError(
            f"{where}: the queries of teacher and student must be the same; counted from the end, token {shared + 1} "
            f"is {first} in the teacher's and {second} in the student's"
        )


def count_common(first: Sequence[Any], second: Sequence[Any]) -> int:
    """Return how many items two sequences begin with alike.

    >>> count_common("apple", "apricot")
    2
    """
    return next((i for i, (a, b) in enumerate(zip(first, second)) if a != b), min(len(first), len(second)))


def _load_images(message: Message, where: str) -> list[Image.Image]:
    """Read the images of a message, in the order of the text."""
    images = []
    for part in [] if isinstance(message["content"], str) else message["content"]:
        if part.get("type") == "image":
            if not isinstance(part.get("image"), str | Path | bytes | Image.Image):
                got = type(part.get("image")).__name__
                raise ValueError(f"{where}: an image must be of Pillow, a path, or the bytes of a file, got {got}")
            try:
                images.append(load_image(part["image"]))
            except Exception as error:  # decoders raise whatever a broken file makes them raise
                raise ValueError(f"{where}: {error}") from error
        elif part.get("type") != "text" or not isinstance(part.get("text"), str):
            raise ValueError(f"{where}: a part of a message must be an image or a text, got {part!r:.100}")
    return images


def _list_texts(message: Message) -> list[str]:
    parts = message["content"]
    return [parts] if isinstance(parts, str) else [part["text"] for part in parts if part["type"] == "text"]
