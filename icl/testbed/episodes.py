"""The testbed's training data: episodes of 24 pairs of a key and a label.

A batch has three kinds. Maps: keys are images, labels words that are drawn anew for every episode, so that they can
only be read off earlier pairs. Symbols: keys are words as well; looking for the same key again is learned here, before
images can be told apart. Captions: images with the name of their digit, which the model comes to know by heart.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from PIL import Image
from torch import Tensor
from torch.nn.functional import pad
from transformers import Idefics2Processor

from icl.testbed.images import SIZE
from icl.testbed.vocabulary import DIGITS, WORDS

PAIRS = 24
_MAPS, _CAPTIONS, _SYMBOLS = 20, 6, 6
# A batch has fewer episodes where these would be more tokens.
_TOKENS = 4096
# Of the maps, how many give one word to several digits.
_MANY_TO_ONE = 0.3
# Weights in the loss. The label of a class not seen before can only be guessed. Keys are noise, but without predicting
# them looking for earlier keys was not learned. The end of an answer is the same everywhere.
_FIRST, _KEY, _END = 0.1, 0.3, 0.1


@dataclass(frozen=True)
class EpisodeLayout:
    """The tokens of one pair, and where in them the key and the label stand."""

    tokens: Tensor
    key: Tensor
    label: int

    @classmethod
    def bare(cls, key: list[int]) -> EpisodeLayout:
        """Return the layout of nothing but the key and the label."""
        return cls(torch.tensor([*key, 0]), torch.arange(len(key)), len(key))

    @classmethod
    def chat(cls, processor: Idefics2Processor, key: str) -> EpisodeLayout:
        """Return the chat template's layout of a user who shows a key, "image" or "text", and an assistant's name."""
        key_token, label_token = ("<image>" if key == "image" else WORDS[0]), WORDS[1]
        user, assistant = {"type": key, "text": key_token}, {"type": "text", "text": label_token}
        chat: Any = [{"role": "user", "content": [user]}, {"role": "assistant", "content": [assistant]}]
        images = Image.new("L", (SIZE, SIZE)) if key == "image" else None
        ids = processor(text=processor.apply_chat_template(chat), images=images)["input_ids"][0]
        key_id, label_id = processor.tokenizer.convert_tokens_to_ids([key_token, label_token])
        tokens = torch.tensor(ids[1:])  # without <s>
        return cls(tokens, (tokens == key_id).nonzero()[:, 0], int((tokens == label_id).nonzero()))

    def write(self, values: Tensor, labels: Tensor, keys: Tensor | None = None) -> Tensor:
        """Return ``values``, one for each token, for each pair with its label and key (E, N): (E, N * tokens)."""
        pairs = values.repeat(*labels.shape, 1)
        pairs[..., self.label] = labels
        if keys is not None:
            pairs[..., self.key] = keys[..., None]
        return pairs.flatten(1)


class EpisodeBatch(NamedTuple):
    """E episodes of T tokens, padded at their ends."""

    input_ids: Tensor
    """(E, T)"""
    images: Tensor
    """Rows of the pool, in the order of their tokens."""
    weights: Tensor
    """(E, T), in the loss, of each token as the one to predict."""
    judged: Tensor
    """(E, T), labels of maps whose class the episode has shown before."""


class EpisodeSampler:
    """Draws batches from a pool of images, those of a digit together, whose digits are ``pool``."""

    def __init__(self, processor: Idefics2Processor, pool: Tensor):
        tokenizer = processor.tokenizer
        self.words, self.digits = (torch.tensor(tokenizer.convert_tokens_to_ids(list(w))) for w in (WORDS, DIGITS))
        self.bos, self.padding = tokenizer.bos_token_id, tokenizer.pad_token_id
        self.pool, self.count = pool, pool.bincount(minlength=10)
        self.start = self.count.cumsum(0) - self.count

    def batch(
        self,
        image: EpisodeLayout,
        word: EpisodeLayout,
        fewest_classes: int,
        digit_names: float,
        generator: torch.Generator,
    ) -> EpisodeBatch:
        """Draw episodes of ``fewest_classes`` to 10 classes; in a share ``digit_names`` of maps labels name digits.

        Keys that are images are laid out by ``image``, those that are words by ``word``.
        """
        scale = min(1.0, _TOKENS / ((_MAPS + _CAPTIONS + _SYMBOLS) * PAIRS * len(image.tokens)))
        counts = [round(scale * n) for n in (_MAPS, _CAPTIONS, _SYMBOLS)]
        maps, captions, symbols = torch.arange(sum(counts)).split(counts)
        with_images = torch.cat([maps, captions])

        classes = _draw_classes(sum(counts), fewest_classes, generator)
        repeats = (classes[:, :, None] == classes[:, None, :]).tril(-1).sum(2)  # of the class, earlier in the episode
        names, key_words = self._draw_names(sum(counts), digit_names, generator)
        names[captions] = self.digits
        labels, keys = names.gather(1, classes), key_words.gather(1, classes)
        weights = torch.where(repeats > 0, 1.0, _FIRST)
        weights[captions] = 1.0
        judged = repeats > 0
        judged[captions] = judged[symbols] = False
        # Each class takes its images in an order of the episode's own, and none twice.
        order = (self.pool + 0.5 * torch.rand(sum(counts), len(self.pool), generator=generator)).argsort(1)
        images = order.gather(1, self.start[classes] + repeats % self.count[classes])[with_images].flatten()

        columns = []
        for layout, part, key_ids, key_weights in (
            (image, with_images, None, None),
            (word, symbols, keys[symbols], torch.full_like(weights[symbols], _KEY)),
        ):
            rest = torch.zeros(len(layout.tokens))
            rest[layout.label + 1 : layout.label + 2] = _END
            columns.append(
                (
                    layout.write(layout.tokens, labels[part], key_ids),
                    layout.write(rest, weights[part], key_weights),
                    layout.write(rest.new_zeros(len(rest), dtype=torch.bool), judged[part]),
                )
            )
        length = max(ids.shape[1] for ids, _, _ in columns)
        ids, loss_weights, judged_ids = (
            torch.cat([pad(x, (1, length - x.shape[1]), value=fill) for x in parts])
            for parts, fill in zip(zip(*columns), (self.padding, 0, False))
        )
        ids[:, 0] = self.bos
        return EpisodeBatch(ids, images, loss_weights, judged_ids)

    def _draw_names(self, episodes: int, digit_names: float, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Draw the names of the ten classes of each episode, and ten other words to be keys: (episodes, 10) each."""
        words = self.words[torch.rand(episodes, len(WORDS), generator=generator).argsort(1)]
        names, key_words = words[:, :10].clone(), words[:, 10:20]
        of_digits = torch.rand(episodes, generator=generator) < digit_names
        names[of_digits] = self.digits[torch.rand(episodes, 10, generator=generator).argsort(1)][of_digits]
        merged = torch.rand(episodes, generator=generator) < _MANY_TO_ONE
        fewer = torch.randint(2, 6, (episodes, 1), generator=generator)
        names[merged] = names.gather(1, (torch.rand(episodes, 10, generator=generator) * fewer).long())[merged]
        return names, key_words


def _draw_classes(episodes: int, fewest: int, generator: torch.Generator) -> Tensor:
    """Draw the class of each pair, (episodes, pairs), from ``fewest`` to all of 0 to 9 in an episode."""
    number = torch.randint(fewest, 11, (episodes, 1), generator=generator)
    subset = torch.rand(episodes, 10, generator=generator).argsort(1)
    return subset.gather(1, (torch.rand(episodes, PAIRS, generator=generator) * number).long())
