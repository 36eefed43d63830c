"""Prompts as chat templates write them, and answers after them."""

import re
from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from transformers import ProcessorMixin

from icl.data.examples import Example, Message
from icl.prompts.chat_template import Role
from icl.prompts.collator import Collator
from tests.icl.conversations import ASKED, ROLES, assistant, bare, example, examples, row, user, with_template
from tests.icl.processors import PROCESSORS


def messages_with_images(e: Example, role: Role) -> list[Message]:
    return [{"role": m["role"], "content": [dict(part) for part in m["content"]]} for m in getattr(e, role)]


def test_templates_with_a_system_message(built: Callable[[str], ProcessorMixin]) -> None:
    """Before the demonstrations, or folded into the first message, which may be the query."""
    system = {"role": "system", "content": [{"type": "text", "text": "is this a boat ?"}]}
    for name in ("qwen2_vl", "gemma3", "llava", "idefics2"):
        plain = examples()[0]
        with_system = replace(plain, teacher=[system, *plain.teacher], student=[system, *plain.student])
        batch = Collator(built(name))([with_system])
        for role in ROLES:
            text = built(name).tokenizer.decode(row(batch[role], 0))
            assert bare(text).count("isthisaboat?") == 1
            before = row(batch[role], 0)[: int(batch[f"{role}_positions"][0, 0])]
            assert "isthisaboat?" in bare(built(name).tokenizer.decode(before))
        shared = batch["student"]["input_ids"][0, batch["student_positions"][0]]
        assert bare(ASKED) in bare(built(name).tokenizer.decode(shared))
        assert (shared == 3).sum() == 4


def test_an_answer_is_written_as_it_goes_on(built: Callable[[str], ProcessorMixin]) -> None:
    """Not as a text that begins, before which this tokenizer writes a space."""
    words = built("gemma3").tokenizer
    joint = words.tokenize("assistant\nboat<|im_end|>")[-2:]
    assert words.tokenize("boat<|im_end|>") != joint
    labels = Collator(built("gemma3"))([example("x", [], user("what ?"), "boat")])["student"]["labels"][0]
    assert words.convert_ids_to_tokens(labels[labels != -100]) == joint


def test_an_answer_that_would_merge_with_its_prompt() -> None:
    """What is generated follows the prompt's tokens, so these stay as they are."""
    template = (
        "{% for m in messages %}{{ m['content'][0]['text'] }}{{ ' ' if m['role'] == 'user' else '\n' }}{% endfor %}"
    )
    processor = with_template(template)
    words = processor.tokenizer
    assert words.tokenize("is a") != [*words.tokenize("is "), *words.tokenize("a")]
    collate = Collator(processor)
    merging = example("x", [(user("this"), "red")], user("what is"), "apple")
    batch = collate([merging])
    labels = batch["student"]["labels"][0]
    assert words.decode(labels[labels != -100]) == "apple"
    prompt = collate.prompts([merging])["input_ids"][0]
    assert prompt.equal(batch["student"]["input_ids"][0, : len(prompt)])
    assert words.decode(prompt) == "what is "


def test_a_past_turn_written_otherwise_than_a_new_one() -> None:
    """As in LLaVA-OneVision: "<|im_start|>assistant \\n" in the past."""
    template = (
        "{% for m in messages %}<|im_start|>{{ m['role'] }} \n{{ m['content'][0]['text'] }}<|im_end|>{% endfor %}"
        "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
    )
    processor = with_template(template)
    batch = Collator(processor)([example("x", [(user("this"), "apple")], user("is apple red"), "apple")])
    labels = batch["student"]["labels"][0]
    assert processor.tokenizer.decode(labels[labels != -100]) == "apple<|im_end|>"
    assert processor.tokenizer.decode(row(batch["student"], 0)).endswith("<|im_start|>assistant\napple<|im_end|>")


def conversation(e: Example, role: Role) -> list[Message]:
    """With the answer, and without images, as templates are given them."""
    messages = [*getattr(e, role), *([assistant(e.answer)] if e.answer else [])]
    plain = [[{k: v for k, v in part.items() if k != "image"} for part in m["content"]] for m in messages]
    return [{"role": m["role"], "content": parts} for m, parts in zip(messages, plain)]


@pytest.mark.parametrize("name", PROCESSORS)
def test_tokens_say_what_the_template_writes(built: Callable[[str], ProcessorMixin], name: str) -> None:
    processor = built(name)
    batch = Collator(processor)(examples())
    assert batch["id"] == ["one", "several", "text", "none"]
    for role in ROLES:
        inputs = batch[role]
        for i, e in enumerate(examples()):
            written = processor.apply_chat_template(
                conversation(e, role), tokenize=False, add_generation_prompt=not e.answer
            )
            words = bare(re.sub("<[^<>]*>", "", written))
            text = bare(re.sub("<[^<>]*>", "", processor.tokenizer.decode(row(inputs, i))))
            assert text == words
            images = sum(part["type"] == "image" for m in getattr(e, role) for part in m["content"])
            assert (row(inputs, i) == 3).sum() == images * (1 if name == "idefics" else 4)
            assert (row(inputs, i) == 1).sum() == (0 if name in ("qwen2_vl", "idefics3") else 1)
        mask = inputs["attention_mask"]
        assert mask.eq(mask.sort(1, descending=True).values).all(), "padding comes after"


@pytest.mark.parametrize("name", ["llava", "qwen2_vl", "idefics3", "gemma3"])
@pytest.mark.parametrize("role", ROLES)
def test_prompts_are_those_of_the_chat_template(built: Callable[[str], ProcessorMixin], name: str, role: Role) -> None:
    """Where borders do not merge, to the last input."""
    processor = built(name)
    got = Collator(processor).prompts(examples(), role)
    want = processor.apply_chat_template(
        [messages_with_images(e, role) for e in examples()],
        add_generation_prompt=True,
        tokenize=True,
        return_dict=True,
        return_tensors="pt",
        processor_kwargs={"padding": True, "padding_side": "left"},
    )
    assert set(got) == set(want)
    for key, value in want.items():
        torch.testing.assert_close(got[key], value)
