"""Examples of conversations about pictures, and what is read off a batch of them."""

import re
from typing import Any

from torch import Tensor
from transformers import LlavaProcessor

from icl.data.examples import Example, Message
from icl.prompts.chat_template import Role
from tests.icl import processors
from tests.icl.processors import picture

ASKED = "Question: what is this ? Short answer:"


ROLES: tuple[Role, Role] = ("teacher", "student")


def user(*parts: Any) -> Message:
    kind = [{"type": "text", "text": p} if isinstance(p, str) else {"type": "image", "image": p} for p in parts]
    return {"role": "user", "content": kind}


def assistant(text: str) -> Message:
    return {"role": "assistant", "content": [{"type": "text", "text": text}]}


def example(name: str, demonstrations: list[tuple[Message, str]], query: Message, answer: str | None) -> Example:
    return Example(
        name, [m for asked, text in demonstrations for m in (asked, assistant(text))] + [query], [query], answer
    )


def examples() -> list[Example]:
    """One image each, several in a demonstration and none, text only and not labelled, and no demonstration at all."""
    pairs = [(user(picture(1), ASKED), "a red apple"), (user(picture(2), ASKED), "boat")]
    several = [(user(picture(3), picture(4), "what is this ?"), "red"), (user("Short answer:"), "a boat")]
    return [
        example("one", pairs, user(picture(0), ASKED), "a boat"),
        example("several", several, user(picture(5), picture(6), ASKED), "red apple"),
        example("text", [(user("what ?"), "red")], user("what is this ?"), None),
        example("none", [], user(picture(7), ASKED), "this"),
    ]


def bare(text: str) -> str:
    return re.sub(r"\s", "", text)


def row(inputs: dict[str, Tensor], i: int) -> Tensor:
    return inputs["input_ids"][i][inputs["attention_mask"][i].bool()]


def with_template(template: str) -> LlavaProcessor:
    processor = processors.llava()
    processor.tokenizer = processors.tokenizer("bytes")
    processor.chat_template = template
    return processor
