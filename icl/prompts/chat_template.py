"""An example's two prompts as text, by the model's chat template: prefix, query, and the answer after them."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple, NoReturn

from PIL import Image
from transformers import ProcessorMixin

from hyperbolic.plot.pictures import load_image
from icl.data import Example, Message, digest_content

Role = Literal["teacher", "student"]


@dataclass(frozen=True)
class ChatPrompt:
    """One of an example's two prompts, cut where the query begins."""

    prefix: str
    query: str
    """The last message, and all that is written up to where the model begins to speak."""
    images: list[Image.Image]
    """Those of the query last."""
    asked: int
    """How many are the query's."""
    contents: tuple[str, ...]
    """What each message shows (:func:`icl.data.digest_content`)."""

    @property
    def text(self) -> str:
        return self.prefix + self.query


class _RenderedPrompt(NamedTuple):
    """A prompt as the template writes it."""

    whole: str
    last: str
    """Without what it writes of the messages before the last."""
    images: list[list[Image.Image]]
    contents: list[str]


class ChatTemplate:
    """The chat template of a processor, as prompts are cut by it. Errors name the example."""

    def __init__(self, processor: ProcessorMixin):
        self.processor = processor
        # the first Idefics has no attribute for it
        self.image: str = getattr(processor, "image_token", "<image>")
        tokens = processor.tokenizer.added_tokens_decoder.values()
        special = "|".join(re.escape(token.content) for token in tokens if token.special)
        self._special = re.compile(special or r"(?!)")

    def prompts(self, example: Example) -> tuple[ChatPrompt, ChatPrompt]:
        """The teacher's and the student's, which end with the same query."""
        where = f"example {example.id}"
        both = [self._read(example.teacher, "teacher", where)]
        same = example.student is example.teacher  # reading takes long
        both.append(both[0] if same else self._read(example.student, "student", where))
        # What a template writes before any message shows in comparison only, if a prompt is the query alone.
        shared = common([text.last[::-1] for text in both])
        query = both[0].last[len(both[0].last) - shared :]
        texts, others = (_texts(messages[-1]) for messages in (example.teacher, example.student))
        entire = query in (both[0].last, both[1].last) or all(text.strip() in query for text in texts)
        if texts != others or not entire:
            self._refuse(where, both[0].last, both[1].last)
        if both[0].contents[-1] != both[1].contents[-1]:
            raise ValueError(f"{where}: the queries of teacher and student must be the same, and show other images")
        teacher, student = (
            ChatPrompt(
                text.whole[: len(text.whole) - shared],
                query,
                [image for images in text.images for image in images],
                len(text.images[-1]),
                tuple(text.contents),
            )
            for text in both
        )
        return teacher, student

    def answer(self, example: Example, prompt: ChatPrompt) -> str:
        """What the model is to say after the student's prompt, up to the token that ends its turn, if there is one."""
        assert example.answer is not None
        said = {"role": "assistant", "content": [{"type": "text", "text": example.answer}]}
        answer = example.answer.strip()  # as many templates do
        whole = self._render([*example.student, said])
        # Some templates write a turn in the past otherwise than they begin one. Then only how it ends is taken.
        begun = whole.startswith(prompt.text)
        start = whole.find(answer, len(prompt.text)) if begun else whole.rfind(answer)
        if start < 0:
            raise ValueError(f"example {example.id}: the chat template does not write the answer {answer!r} as it is")
        lead = whole[len(prompt.text) : start] if begun else ""
        rest = whole[start + len(answer) :]
        end = self._special.search(rest)
        return lead + answer + (rest[: end.end()] if end else "")

    def _read(self, messages: Sequence[Message], role: Role, where: str) -> _RenderedPrompt:
        images = [_images(message, where) for message in messages]
        contents = [digest_content(message, shown) for message, shown in zip(messages, images)]
        if contents[-1] in (c for c, message in zip(contents[:-1], messages) if message["role"] == "user"):
            raise ValueError(f"{where}: its query is among the {role}'s demonstrations")
        whole = self._render(messages, add_generation_prompt=True)
        before = self._render(messages[:-1]) if len(messages) > 1 else ""
        if not whole.startswith(before):
            raise ValueError(
                f"{where}: the chat template writes what comes before a query in another way when one follows, so "
                f"the {role}'s demonstrations cannot be told from it"
            )
        if whole.count(self.image) != sum(map(len, images)):
            raise ValueError(f"{where}: {self.image} must stand for an image, and is in a text of the {role}")
        return _RenderedPrompt(whole, whole[len(before) :], images, contents)

    def _render(self, messages: Sequence[Message], **options: Any) -> str:
        """By the template, which sees where images are but not the images, and no part that is empty."""
        plain = []
        for message in messages:
            parts = message["content"]
            if not isinstance(parts, str):
                parts = [{name: part[name] for name in ("type", "text") if name in part} for part in parts]
            plain.append({"role": message["role"], "content": parts})
        text: str = self.processor.apply_chat_template(plain, tokenize=False, **options)
        return text

    def _refuse(self, where: str, teacher: str, student: str) -> NoReturn:
        tokenizer = self.processor.tokenizer
        ids = [tokenizer(text, add_special_tokens=False)["input_ids"] for text in (teacher, student)]
        shared = common([row[::-1] for row in ids])
        first, second = (repr(tokenizer.decode(row[: len(row) - shared][-1:])) for row in ids)
        raise ValueError(
            f"{where}: the queries of teacher and student must be the same; counted from the end, token {shared + 1} "
            f"is {first} in the teacher's and {second} in the student's"
        )


def common(pair: Sequence[Sequence[Any]]) -> int:
    """How many items two sequences begin with alike.

    >>> common(["apple", "apricot"])
    2
    """
    first, second = pair
    return next((i for i, (a, b) in enumerate(zip(first, second)) if a != b), min(len(first), len(second)))


def _images(message: Message, where: str) -> list[Image.Image]:
    """In the order of the text."""
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


def _texts(message: Message) -> list[str]:
    parts = message["content"]
    return [parts] if isinstance(parts, str) else [part["text"] for part in parts if part["type"] == "text"]
