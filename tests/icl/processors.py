"""Processors of several families, made without the hub: small tokenizers, and images as the zoo's models read them.

What tokenizers do to borders differs most: those of Llama write the first word of a text with a space before it.
"""

from __future__ import annotations

from functools import cache
from typing import Any, Literal

import numpy as np
import torch
import transformers
from PIL import Image
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, processors, trainers

from icl.data.examples import Example
from tests.icl import zoo

# Where the zoo's models look for them.
SPECIAL = ["<pad>", "<s>", "</s>", "<image>", "<start>", "<end>", "<video>", "<|im_start|>", "<|im_end|>", "<fake>"]
assert [SPECIAL.index(t) for t in ("<pad>", "<s>", "</s>", "<image>", "<start>", "<end>", "<video>")] == [
    zoo.PAD, zoo.BOS, zoo.EOS, zoo.IMAGE, zoo.START, zoo.END, zoo.VIDEO,
]  # fmt: skip
TEXT = "User: system Assistant: USER ASSISTANT user assistant Question: what is this ? Short answer: a red apple boat"

_PART = "{% if part['type'] == 'image' %}IMAGE{% else %}{{ part['text'] }}{% endif %}"
_PARTS = "{% for part in message['content'] %}" + _PART + "{% endfor %}"
LLAVA = (  # of llava-hf/llava-1.5-7b-hf: nothing ends an answer but a space
    "{% for message in messages %}"
    "{% if message['role'] != 'system' %}{{ message['role'].upper() + ': ' }}{% endif %}"
    "{% for part in message['content'] %}{% if part['type'] == 'image' %}<image>\n{% endif %}{% endfor %}"
    "{% for part in message['content'] %}{% if part['type'] == 'text' %}{{ part['text'] + ' ' }}{% endif %}{% endfor %}"
    "{% endfor %}{% if add_generation_prompt %}ASSISTANT:{% endif %}"
)
QWEN = (  # of Qwen/Qwen2-VL-7B-Instruct: a system message of its own; asks whether a part has an image
    "{% for message in messages %}"
    "{% if loop.first and message['role'] != 'system' %}<|im_start|>system\na red boat<|im_end|>\n{% endif %}"
    "<|im_start|>{{ message['role'] }}\n"
    "{% for part in message['content'] %}"
    "{% if part['type'] == 'image' or 'image' in part %}<start><image><end>{% else %}{{ part['text'] }}{% endif %}"
    "{% endfor %}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
IDEFICS = (  # of HuggingFaceM4/idefics2-8b-chatty: a turn ends with a special token and a line
    "{% for message in messages %}{{ message['role'].capitalize() + ': ' }}"
    + _PARTS.replace("IMAGE", "<image>")
    + "<end_of_utterance>\n{% endfor %}{% if add_generation_prompt %}Assistant:{% endif %}"
)
GEMMA = (  # of google/gemma-3-4b-it: begins the text itself, and folds the system's message into the first user's
    "{{ bos_token }}{% if messages[0]['role'] == 'system' %}"
    "{% set first = messages[0]['content'][0]['text'] + '\n\n' %}{% set rest = messages[1:] %}"
    "{% else %}{% set first = '' %}{% set rest = messages %}{% endif %}"
    "{% for message in rest %}<|im_start|>{{ message['role'] }}\n{% if loop.first %}{{ first }}{% endif %}"
    + _PARTS.replace("IMAGE", "<start>").replace("part['text'] }}", "part['text'] | trim }}")
    + "<|im_end|>\n{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def tokenizer(kind: Literal["llama", "bytes"], *more: str, **options: Any) -> transformers.PreTrainedTokenizerFast:
    """Byte pairs, learned from a few words."""
    made = Tokenizer(models.BPE(byte_fallback=kind == "llama", unk_token=None))
    space = pre_tokenizers.Metaspace(prepend_scheme="always", split=False)
    made.pre_tokenizer = space if kind == "llama" else pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = decoders.Metaspace() if kind == "llama" else decoders.ByteLevel()
    special = [AddedToken(token, normalized=False, special=True) for token in (*SPECIAL, *more)]
    letters = [*sorted(set(TEXT)), "\n"] if kind == "llama" else pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=len(special) + len(letters) + 60,
        special_tokens=special,
        initial_alphabet=letters,
        show_progress=False,
    )
    made.train_from_iterator([TEXT, TEXT.replace(" ", "\n")], trainer)
    if kind == "llama":
        made.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", zoo.BOS)])
    return transformers.PreTrainedTokenizerFast(
        tokenizer_object=made, pad_token="<pad>", bos_token="<s>", eos_token="</s>", **options
    )


class _WithoutVideo:
    """The real processors ask for one of videos, which takes torchvision."""

    def check_argument_for_proper_class(self, name: str, argument: Any) -> Any:
        return None if name == "video_processor" else super().check_argument_for_proper_class(name, argument)  # type: ignore[misc]


class Qwen2VLProcessor(_WithoutVideo, transformers.Qwen2VLProcessor):
    pass


def llava() -> transformers.LlavaProcessor:
    side = {"height": zoo.SIZE, "width": zoo.SIZE}
    pixels = transformers.CLIPImageProcessorPil(size={"shortest_edge": zoo.SIZE}, crop_size=side)
    return transformers.LlavaProcessor(
        pixels, tokenizer("llama"), patch_size=4, vision_feature_select_strategy="default",
        num_additional_image_tokens=1, chat_template=LLAVA,
    )  # fmt: skip


def qwen2_vl() -> transformers.Qwen2VLProcessor:
    """Of images of any size up to 16 x 16 pixels."""
    pixels = transformers.Qwen2VLImageProcessorPil(patch_size=2, size={"shortest_edge": 16, "longest_edge": 256})
    words = tokenizer("bytes", extra_special_tokens={"image_token": "<image>", "video_token": "<video>"})
    return Qwen2VLProcessor(pixels, words, video_processor=None, chat_template=QWEN)


def idefics() -> transformers.IdeficsProcessor:
    pixels = transformers.IdeficsImageProcessorPil(image_size=zoo.SIZE)
    made = transformers.IdeficsProcessor(pixels, tokenizer("llama", "<fake_token_around_image>", "<end_of_utterance>"))
    made.chat_template = IDEFICS
    return made


def idefics2() -> transformers.Idefics2Processor:
    pixels = transformers.Idefics2ImageProcessorPil(size={"shortest_edge": 4, "longest_edge": zoo.SIZE})
    return transformers.Idefics2Processor(pixels, tokenizer("llama"), image_seq_len=4, chat_template=IDEFICS)


def idefics3() -> transformers.Idefics3Processor:
    pixels = transformers.Idefics3ImageProcessorPil(
        size={"longest_edge": zoo.SIZE}, max_image_size={"longest_edge": zoo.SIZE}, do_image_splitting=False
    )
    return transformers.Idefics3Processor(pixels, tokenizer("bytes"), image_seq_len=4, chat_template=IDEFICS)


def gemma3() -> transformers.Gemma3Processor:
    pixels = transformers.Gemma3ImageProcessorPil(size={"height": zoo.SIZE, "width": zoo.SIZE})
    named = {"image_token": "<image>", "boi_token": "<start>", "eoi_token": "<end>"}
    words = tokenizer("llama", extra_special_tokens=named)
    return transformers.Gemma3Processor(pixels, words, chat_template=GEMMA, image_seq_length=4)


PROCESSORS = {f.__name__: f for f in (llava, qwen2_vl, idefics, idefics2, idefics3, gemma3)}


def picture(seed: int, width: int = zoo.SIZE, height: int = zoo.SIZE) -> Image.Image:
    return Image.fromarray(np.random.RandomState(seed).randint(0, 256, (height, width, 3), dtype=np.uint8))


def model(name: str, processor: transformers.ProcessorMixin) -> torch.nn.Module:
    """The zoo's, that reads what the processor writes."""
    return zoo.make(name, vocab_size=len(processor.tokenizer))


@cache
def asked(family: str) -> tuple[Any, list[Example]]:
    """A processor, and examples with one image or two, with an answer or without."""
    processor = PROCESSORS[family]()

    def ask(*seeds: int) -> dict[str, Any]:
        shown = [{"type": "image", "image": picture(s, *((12, 8) if s % 2 else (8, 8)))} for s in seeds]
        return {"role": "user", "content": [*shown, {"type": "text", "text": "what is this ?" * (1 + len(seeds))}]}

    said = {"role": "assistant", "content": [{"type": "text", "text": "a red boat"}]}
    return processor, [
        Example("a", [ask(1), said, ask(2, 4)], [ask(2, 4)], "a red apple"),
        Example("b", [ask(3), said, ask(4), said, ask(5)], [ask(5)], "boat"),
        Example("c", [ask(6), said, ask(7)], [ask(7)], None),
    ]
