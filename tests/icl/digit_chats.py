"""Chats about digits for the testbed, and what the cards of its weights say."""

from typing import Any

import torch
from PIL import Image
from transformers import Idefics2Processor

from icl.testbed import accuracy, images, report

SHIPPED = ("base", "base-0", "base-2")


def picture(i: int, split: str = "test") -> Image.Image:
    """Return a picture of a split."""
    return Image.fromarray(images.load_digits(split).pixels[i].numpy())


def chat(shown: list[tuple[int, str]], query: int) -> list[dict[str, Any]]:
    messages = []
    for i, word in shown:
        messages.append({"role": "user", "content": [{"type": "image", "image": picture(i)}]})
        messages.append({"role": "assistant", "content": [{"type": "text", "text": word}]})
    return [*messages, {"role": "user", "content": [{"type": "image", "image": picture(query)}]}]


def inputs_of(processor: Idefics2Processor, chats: list[list[dict[str, Any]]]) -> dict[str, torch.Tensor]:
    template: Any = processor
    return dict(
        template.apply_chat_template(
            chats,
            add_generation_prompt=True,
            tokenize=True,
            return_dict=True,
            return_tensors="pt",
            processor_kwargs={"padding": True},
        )
    )


def card_scores(weights: str = "base") -> dict[tuple[str, str], accuracy.TestbedScore]:
    """Return what the card says of weights that come with the package."""
    scores = [accuracy.TestbedScore(**score) for score in report.read_card(weights)["scores"]]
    return {(score.what, score.prompt): score for score in scores}
