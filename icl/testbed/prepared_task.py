"""A task on one of the bases, with what all that is trained there has in common.

On a model this small most of the time goes to what no adapter changes: reading chats, and looking at images. Both are
done once: prompts are kept as embeddings of their words and images, from which the decoder starts.
"""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Callable, Sequence
from functools import cache, cached_property
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from icl.data import Example
from icl.evaluation import greedy_config
from icl.prompts import CollatedBatch, CollatedExamples, Collator, Role
from icl.testbed import images
from icl.testbed.model import encode_images, load
from icl.testbed.tasks import SPLITS, rows
from icl.training import TeacherStates

BASES = ("base-0", "base", "base-2")
"""Three trainings of the model. Each trial runs on all, with what the task hides drawn anew for each."""


# Examples that are collated at a time.
_TOGETHER = 32


@cache
def load_examples(task: str, split: str, seed: int) -> list[Example]:
    """Those of :func:`icl.testbed.tasks.load_split`, without a table between."""
    return [Example.from_task(row) for row in rows(task, split, seed, _pictures(split))]


@cache
def _pictures(split: str) -> list[Image.Image]:
    return [Image.fromarray(pixels.numpy()).convert("RGB") for pixels in images.load_digits(split).pixels]


class EmbeddingCollator(Collator):
    """What a collator makes, with embeddings in the place of tokens and images: ``embed`` has those of each prompt."""

    def __init__(self, processor: Any, embed: Callable[[Any, Any], dict[str, Any]], teacher: bool = True):
        super().__init__(processor, teacher=teacher)
        self.embed = embed

    def __call__(self, examples: Sequence[Example]) -> CollatedBatch:
        batch = super().__call__(examples)
        for role in ("teacher", "student"):
            if role in batch:
                batch[role] = self.embed([getattr(example, role) for example in examples], batch[role])
        return batch

    def prompts(self, examples: Sequence[Example], which: Role = "student") -> dict[str, Any]:
        inputs = super().prompts(examples, which)
        return self.embed([getattr(example, which) for example in examples], inputs)


class ChunkedCollation(CollatedExamples):
    """Examples that are collated many at a time, which is faster than one by one."""

    def __getitem__(self, index: int) -> CollatedBatch:
        if index not in self._batches:
            start = index - index % _TOGETHER
            batch = self.collator(rows := self.examples[start : start + _TOGETHER])
            self._batches.update((start + i, _row(batch, i)) for i in range(len(rows)))
        return self._batches[index]


def _row(batch: CollatedBatch, i: int) -> CollatedBatch:
    """What the collator makes of an example alone: without what the others of its batch are padded for."""
    tokens = int(batch["aligned"][i].sum())
    row: CollatedBatch = {}
    for name, value in batch.items():
        if isinstance(value, dict):
            length = int(value["attention_mask"][i].sum())
            row[name] = {key: rows[i : i + 1, :length] for key, rows in value.items()}
        else:
            row[name] = value[i : i + 1, :tokens] if isinstance(value, Tensor) else value[i : i + 1]
    return row


class PreparedTask:
    """A task on base ``BASES[seed]``. ``seed`` is also what the task hides.

    ``model`` has no vision tower: it takes what ``collator`` makes.
    """

    def __init__(self, task: str, seed: int):
        self.task, self.seed = task, seed
        self.model: Any
        self.model, self.processor = load(BASES[seed])
        with torch.no_grad():
            self._features = _features(self.model)
        # Each step goes through all modules several times: those that have done their work need not be there.
        del self.model.model.vision_model, self.model.model.connector
        self.collator = EmbeddingCollator(_blind(self.processor), self._embed)
        self.teachers: dict[str, TeacherStates] = {}
        """What teachers make of their prompts, which is the same in all trials."""
        self._shown: dict[Any, ChunkedCollation] = {}
        self._asked: dict[Role, Any] = {}

    def shown(self, key: Any, chosen: Callable[[], list[Example]], teacher: bool) -> ChunkedCollation:
        """What ``chosen`` gives, collated once for all trials of the same ``key``."""
        if (key, True) in self._shown:  # more than is wanted does no harm
            return self._shown[key, True]
        if (key, teacher) not in self._shown:
            rows = chosen()
            if not teacher:  # no need to read what nobody looks at
                rows = [dataclasses.replace(example, teacher=example.student) for example in rows]
            self._shown[key, teacher] = ChunkedCollation(
                rows, EmbeddingCollator(self.collator.processor, self._embed, teacher)
            )
        return self._shown[key, teacher]

    @cached_property
    def test(self) -> list[Example]:
        return load_examples(self.task, "test", self.seed)

    def answers(self, prompt: Role = "student") -> tuple[bool, ...]:
        """Whether the model, as it is, answers each query of the test split rightly."""
        if prompt not in self._asked:
            # the other prompt of an example is not asked for, and reading it takes as long
            rows = [dataclasses.replace(e, teacher=getattr(e, prompt), student=getattr(e, prompt)) for e in self.test]
            self._asked[prompt] = self.collator.prompts(rows)
        config = greedy_config(self.model.generation_config)
        config.update(max_new_tokens=1)
        generated = self.model.generate(**self._asked[prompt], generation_config=config)
        said = self.processor.batch_decode(generated[:, -1:], skip_special_tokens=True)
        return tuple(word.strip() == example.answer for word, example in zip(said, self.test))

    @torch.no_grad()
    def _embed(self, prompts: Sequence[Sequence[Any]], inputs: dict[str, Any]) -> dict[str, Any]:
        """The inputs of the model for these prompts, with embeddings for tokens and images."""
        shown = [part["image"] for messages in prompts for m in messages for part in m["content"] if "image" in part]
        features = torch.stack([self._features[id(picture)] for picture in shown])
        embeddings = self.model.get_input_embeddings()(inputs["input_ids"])
        at = (inputs["input_ids"] == self.model.config.image_token_id).unsqueeze(-1)
        kept = {name: value for name, value in inputs.items() if name in ("attention_mask", "labels")}
        return {"inputs_embeds": embeddings.masked_scatter(at, features), **kept}


def _blind(processor: Any) -> Any:
    """One that makes nothing ready for a vision tower."""
    blind = copy.deepcopy(processor)
    for work in ("do_convert_rgb", "do_resize", "do_image_splitting", "do_rescale", "do_normalize"):
        setattr(blind.image_processor, work, False)
    return blind


def _features(model: Any) -> dict[int, Tensor]:
    """What the decoder sees of each image, by the picture, of which there is one."""
    found: dict[int, Tensor] = {}
    for split in SPLITS:
        seen = encode_images(model, images.pixel_values(images.load_digits(split).pixels))
        found.update(zip(map(id, _pictures(split)), seen))
    return found
