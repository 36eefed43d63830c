"""A testbed task on one of the bases, with prompts encoded once, so that many methods can be trained on it.

On a model this small most of the time goes to what no adapter changes: reading chats, and looking at images. Both are
done once: prompts are kept as embeddings of their words and images, from which the decoder starts.
"""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Callable, Hashable, Sequence
from functools import cache, cached_property
from typing import Any

import torch
from torch import Tensor

from icl.data import Example
from icl.evaluation import greedy_config
from icl.prompts import CollatedBatch, CollatedExamples, Collator, Role
from icl.testbed.images import load_digits, load_pictures, pixel_values
from icl.testbed.model import embed_tokens, encode_images, load
from icl.testbed.tasks import SPLITS, make_rows
from icl.training import TeacherStates

BASES = ("base-0", "base", "base-2")
"""Three trainings of the model. Each trial runs on all, with what the task hides drawn anew for each."""
# Examples that are collated at a time.
_CHUNK = 32


@cache
def load_examples(task: str, split: str, seed: int) -> list[Example]:
    """Return the examples of :func:`icl.testbed.tasks.load_split`, without a table between."""
    return [Example.from_task(row) for row in make_rows(task, split, seed, load_pictures(split))]


class EmbeddingCollator(Collator):
    """A collator whose batches hold embeddings in the place of tokens and images; ``embed`` makes those of prompts."""

    def __init__(self, processor: Any, embed: Callable[[Any, Any], dict[str, Any]], teacher: bool = True):
        super().__init__(processor, teacher=teacher)
        self.embed = embed

    def __call__(self, examples: Sequence[Example]) -> CollatedBatch:
        """Return the batch of :class:`icl.prompts.Collator` with embedded prompts."""
        batch = super().__call__(examples)
        for role in ("teacher", "student"):
            if role in batch:
                batch[role] = self.embed([getattr(example, role) for example in examples], batch[role])
        return batch

    def prompts(self, examples: Sequence[Example], which: Role = "student") -> dict[str, Any]:
        """Return the embedded prompts up to where the answers begin."""
        inputs = super().prompts(examples, which)
        return self.embed([getattr(example, which) for example in examples], inputs)


class ChunkedCollation(CollatedExamples):
    """Examples that are collated many at a time, which is faster than one by one."""

    def __getitem__(self, index: int) -> CollatedBatch:
        if index not in self._batches:
            start = index - index % _CHUNK
            batch = self.collator(examples := self.examples[start : start + _CHUNK])
            self._batches.update((start + i, _take_row(batch, i)) for i in range(len(examples)))
        return self._batches[index]


def _take_row(batch: CollatedBatch, i: int) -> CollatedBatch:
    """Return example ``i`` of a batch as collated alone: without what the others of its batch are padded for."""
    tokens = int(batch["aligned"][i].sum())
    row: CollatedBatch = {}
    for name, value in batch.items():
        if isinstance(value, dict):
            length = int(value["attention_mask"][i].sum())
            row[name] = {key: values[i : i + 1, :length] for key, values in value.items()}
        else:
            row[name] = value[i : i + 1, :tokens] if isinstance(value, Tensor) else value[i : i + 1]
    return row


class PreparedTask:
    """A task on base ``BASES[seed]``. ``seed`` is also that of what the task hides.

    ``model`` has no vision tower: it takes what ``collator`` makes.
    """

    def __init__(self, task: str, seed: int):
        self.task, self.seed = task, seed
        self.model: Any
        self.model, self.processor = load(BASES[seed])
        with torch.no_grad():
            self._features = _encode_pictures(self.model)
        # Each step goes through all modules several times: those that have done their work need not be there.
        del self.model.model.vision_model, self.model.model.connector
        self.collator = EmbeddingCollator(_skip_pixels(self.processor), self._embed)
        self.teachers: dict[str, TeacherStates] = {}
        """The teachers' states at their prompts, which are the same in all trials."""
        self._collated: dict[Hashable, ChunkedCollation] = {}
        self._prompts: dict[Role, Any] = {}

    def collate(self, key: Hashable, make: Callable[[], list[Example]], teacher: bool) -> ChunkedCollation:
        """Return the examples that ``make`` returns, with or without a teacher, collated once for each ``key``."""
        if (key, True) in self._collated:  # A teacher that nobody asks for does no harm.
            return self._collated[key, True]
        if (key, teacher) not in self._collated:
            examples = make()
            if not teacher:  # There is no need to read what nobody looks at.
                examples = [dataclasses.replace(example, teacher=example.student) for example in examples]
            collator = EmbeddingCollator(self.collator.processor, self._embed, teacher)
            self._collated[key, teacher] = ChunkedCollation(examples, collator)
        return self._collated[key, teacher]

    @cached_property
    def test(self) -> list[Example]:
        """The examples of the test split."""
        return load_examples(self.task, "test", self.seed)

    def answers(self, prompt: Role = "student") -> tuple[bool, ...]:
        """Return whether the model, as it is, answers each query of the test split rightly."""
        if prompt not in self._prompts:
            # The other prompt of an example is not asked for, and reading it takes as long.
            same = [dataclasses.replace(e, teacher=getattr(e, prompt), student=getattr(e, prompt)) for e in self.test]
            self._prompts[prompt] = self.collator.prompts(same)
        config = greedy_config(self.model.generation_config)
        config.update(max_new_tokens=1)
        generated = self.model.generate(**self._prompts[prompt], generation_config=config)
        words = self.processor.batch_decode(generated[:, -1:], skip_special_tokens=True)
        return tuple(word.strip() == example.answer for word, example in zip(words, self.test))

    @torch.no_grad()
    def _embed(self, prompts: Sequence[Sequence[Any]], inputs: dict[str, Any]) -> dict[str, Any]:
        """Return the model's inputs for these prompts, with embeddings for tokens and images."""
        pictures = [part["image"] for messages in prompts for m in messages for part in m["content"] if "image" in part]
        features = torch.stack([self._features[id(picture)] for picture in pictures])
        others = {name: value for name, value in inputs.items() if name in ("attention_mask", "labels")}
        return {"inputs_embeds": embed_tokens(self.model, inputs["input_ids"], features), **others}


def _skip_pixels(processor: Any) -> Any:
    """Return a processor that makes nothing ready for a vision tower."""
    processor = copy.deepcopy(processor)
    for step in ("do_convert_rgb", "do_resize", "do_image_splitting", "do_rescale", "do_normalize"):
        setattr(processor.image_processor, step, False)
    return processor


def _encode_pictures(model: Any) -> dict[int, Tensor]:
    """Return what the decoder sees of each image, by the id of the picture, of which there is one."""
    features: dict[int, Tensor] = {}
    for split in SPLITS:
        pictures, encoded = load_pictures(split), encode_images(model, pixel_values(load_digits(split).pixels))
        features |= zip(map(id, pictures), encoded)
    return features
