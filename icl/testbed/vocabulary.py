"""The testbed's words, and the processor that turns chats and images into what the model reads.

Two ways of writing the same chat. "base" is as short as can be, one token an image:

    <s><image> is apple<end_of_utterance><image> is

"long" is written as the large models are, with turns, a question, and boundaries around four tokens an image:

    <s>User: <fake_token_around_image><image><image><image><image><fake_token_around_image> what is this called ?
    <end_of_utterance> Assistant: this is called apple<end_of_utterance>
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import transformers
from tokenizers import AddedToken, Tokenizer, models, pre_tokenizers, processors
from transformers import Idefics2ImageProcessorPil, PreTrainedTokenizerFast

from icl.testbed.images import SIZE

_NOUNS = """
apple arrow badge bell berry bird boat book bowl brick bridge broom brush bucket button cabin camel candle
canoe carrot castle chain chair cherry cloud clover coat comet copper coral crown daisy desk dice dove drum
eagle feather fern flag flute forest fox garden ghost glove goat hammer harbor hat honey horse island ivory
jacket jewel kettle key kite ladder lamp lemon lion mango
"""
WORDS = tuple(_NOUNS.split())
DIGITS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
END = "<end_of_utterance>"
_BOUNDARY = "<fake_token_around_image>"
_LISTED = 20
_SPECIAL = ("<pad>", "<unk>", "<s>", "</s>", "<image>", _BOUNDARY, END)
_BETWEEN = re.compile("|".join([r"\s+", *map(re.escape, _SPECIAL)]))


@dataclass(frozen=True)
class ChatStyle:
    """How a chat is written.

    Args:
        image_tokens: between boundaries, or 1 without.
        opening: before what the user says.
        closing: after it.
        lead: before what the assistant says, and so at the end of a prompt.
    """

    image_tokens: int
    opening: str
    closing: str
    lead: str

    @property
    def vocabulary(self) -> tuple[str, ...]:
        """All tokens, in the order of their ids."""
        text = f"{self.opening} {self.closing.replace(END, ' ')} {self.lead}"
        return (*_SPECIAL, *dict.fromkeys(text.split()), *WORDS, *DIGITS)

    @property
    def chat_template(self) -> str:
        """The template in Jinja, for transformers."""
        return (
            "{% for message in messages %}"
            "{% if message['role'] == 'assistant' %}" + self.lead + " {% else %}" + self.opening + "{% endif %}"
            "{% for part in message['content'] %}"
            "{% if part['type'] == 'image' %}<image>{% else %}{{ part['text'] }}{% endif %}"
            "{% endfor %}"
            "{% if message['role'] == 'assistant' %}" + END + "{% else %}" + self.closing + "{% endif %}"
            "{% endfor %}"
            "{% if add_generation_prompt %}" + self.lead + "{% endif %}"
        )


STYLES = {
    "base": ChatStyle(1, "", "", " is"),
    "long": ChatStyle(4, "User: ", f" what is this called ?{END}", " Assistant: this is called"),
}


class Idefics2Processor(transformers.Idefics2Processor):
    """The processor of transformers, for a vocabulary of few words: it refuses chats with others.

    It has the name of the class that it extends, because the files that it saves say by which class they are loaded.
    """

    def check_words(self, texts: Iterable[str]) -> None:
        """Raise ``ValueError`` with the words of the texts that the testbed does not know."""
        words = {word for text in texts for word in _BETWEEN.split(text)}
        if unknown := sorted(words - set(self.tokenizer.get_vocab()) - {""}):
            listed = ", ".join(unknown[:_LISTED]) + (f" and {len(unknown) - _LISTED} more" if unknown[_LISTED:] else "")
            raise ValueError(
                f"testbed: its {len(WORDS) + len(DIGITS)} words (icl.testbed.vocabulary) are such as {WORDS[0]}, "
                f"{WORDS[1]} and {DIGITS[0]}, and these are not among them: {listed}. For other words, name another "
                "model"
            )

    def apply_chat_template(self, conversation: Any, *args: Any, **options: Any) -> Any:
        """Write chats as transformers does, with :meth:`check_words` before."""
        chats = conversation if isinstance(conversation[0], list) else [conversation]
        contents = [message["content"] for chat in chats for message in chat]
        parts = [part for content in contents if not isinstance(content, str) for part in content]
        texts = [content for content in contents if isinstance(content, str)]
        texts += [part["text"] for part in parts if part["type"] == "text"]
        self.check_words(texts)
        return super().apply_chat_template(conversation, *args, **options)


def build_processor(style: ChatStyle) -> Idefics2Processor:
    """Return the processor of transformers for Idefics2, around a tokenizer of whole words."""
    tokenizer = Tokenizer(models.WordLevel({w: i for i, w in enumerate(style.vocabulary)}, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer.add_special_tokens([AddedToken(token, normalized=False) for token in _SPECIAL])
    bos = ("<s>", style.vocabulary.index("<s>"))
    tokenizer.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[bos])
    # The processor writes a boundary, the image tokens and a boundary, and then one boundary for two that meet. Where
    # <image> is its own boundary with nothing between, one <image> remains.
    between, boundary = (0, "<image>") if style.image_tokens == 1 else (style.image_tokens, _BOUNDARY)
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token="<s>",
        eos_token="</s>",
        unk_token="<unk>",
        pad_token="<pad>",
        padding_side="left",
        extra_special_tokens={"image_token": "<image>", "image_boundary_token": boundary},
    )
    pixels = Idefics2ImageProcessorPil(
        size={"shortest_edge": SIZE, "longest_edge": SIZE}, image_mean=[0.5] * 3, image_std=[0.5] * 3
    )
    return Idefics2Processor(pixels, fast, image_seq_len=between, chat_template=style.chat_template)
