"""Chats as tokens, in both styles."""

import pytest

from icl.testbed.vocabulary import END, STYLES, WORDS, build_processor
from tests.icl.digit_chats import chat, inputs_of


@pytest.mark.parametrize(("style", "per_image"), [("base", ["<image>"]), ("long", None)])
def test_chat_as_tokens(style: str, per_image: list[str] | None) -> None:
    processor = build_processor(STYLES[style])
    boundary = "<fake_token_around_image>"
    per_image = per_image or [boundary, *["<image>"] * 4, boundary]
    ids = inputs_of(processor, [chat([(0, "apple"), (30, "seven")], 50)])["input_ids"]
    ask, lead = ([], ["is"]) if style == "base" else (["what", "is", "this", "called", "?", END], None)
    lead = lead or ["Assistant:", "this", "is", "called"]
    question = [*(["User:"] if style == "long" else []), *per_image, *ask, *lead]
    want = ["<s>", *question, "apple", END, *question, "seven", END, *question]
    assert processor.tokenizer.convert_ids_to_tokens(ids[0]) == want
    assert "<unk>" not in processor.tokenizer.convert_ids_to_tokens(processor.tokenizer(" ".join(WORDS))["input_ids"])
