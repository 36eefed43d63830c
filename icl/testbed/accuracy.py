"""How well the model learns in context: by number and choice of demonstrations, and on the tasks."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal, get_args

import torch
from datasets import Dataset
from torch import Tensor
from torch.nn.functional import normalize
from transformers import Idefics2ForConditionalGeneration, Idefics2Processor

from icl.evaluation import wilson_interval
from icl.testbed.episodes import EpisodeLayout
from icl.testbed.images import load_digits, pixel_values
from icl.testbed.model import compute_logits, encode_images
from icl.testbed.tasks import TASKS, load_split
from icl.testbed.vocabulary import WORDS

Choice = Literal["class present", "nearest", "random", "class absent"]
SHOTS = (0, 1, 2, 4, 8, 16)
SCORE_COUNT = len(get_args(Choice)) * (len(SHOTS) - 1) + 1 + 2 * len(TASKS)
_BATCH = 120


@dataclass(frozen=True)
class TestbedScore:
    """Right answers to a number of prompts of one kind."""

    what: str
    """A task, or how demonstrations were chosen."""
    prompt: str
    """"student", "teacher", or the number of demonstrations."""
    right: int
    prompts: int

    @property
    def accuracy(self) -> float:
        return self.right / self.prompts

    @property
    def interval(self) -> tuple[float, float]:
        """Of 95 %, Wilson's."""
        return wilson_interval(self.right, self.prompts)


def measure_scores(
    model: Idefics2ForConditionalGeneration, processor: Idefics2Processor, seed: int = 0
) -> Iterator[TestbedScore]:
    """All of them, ``SCORE_COUNT`` in number."""
    yield from by_shots(model, processor, seed)
    yield from on_tasks(model, processor, seed)


@torch.inference_mode()
def by_shots(
    model: Idefics2ForConditionalGeneration, processor: Idefics2Processor, seed: int = 0
) -> Iterator[TestbedScore]:
    """Every held-out image is named once, each time with a map of the digits to words that is drawn for it alone.

    Demonstrations are other held-out images: any ("random"), any but one of the query's class at least ("class
    present"), none of it ("class absent"), or the nearest by the cosine of the vision encoder's mean, the nearest last
    (RICES, Yang et al., 2022).
    """
    images = load_digits("held_out")
    values = pixel_values(images.pixels)
    seen = encode_images(model, values)
    layout = EpisodeLayout.chat(processor, "image")
    words = torch.tensor(processor.tokenizer.convert_tokens_to_ids(list(WORDS)))
    vision = normalize(model.get_image_features(values.transpose(0, 1)).last_hidden_state.mean(1), dim=-1)
    similarity = (vision @ vision.T).fill_diagonal_(-torch.inf)
    for choice in get_args(Choice):
        for k in SHOTS if choice == "class present" else SHOTS[1:]:
            generator = torch.Generator().manual_seed(seed)
            names = words[torch.rand(len(images), len(words), generator=generator).argsort(1)[:, :10]]
            shown = _choose(choice, k, images.labels, similarity, generator)
            right = 0
            for rows in torch.arange(len(images)).split(_BATCH):
                labels = names[rows].gather(1, images.labels[shown[rows]])
                ids = make_prompts(layout, labels, processor.tokenizer.bos_token_id)
                pictures = seen[torch.cat([shown[rows], rows[:, None]], 1)].flatten(0, 2)
                answers = compute_logits(model, ids, pictures)[:, -1].argmax(-1)
                right += int((answers == names[rows, images.labels[rows]]).sum())
            yield TestbedScore(choice, str(k), right, len(images))


def _choose(choice: Choice, k: int, labels: Tensor, similarity: Tensor, generator: torch.Generator) -> Tensor:
    """Rows (N, k), never the query's own."""
    same = labels[:, None] == labels
    rank = torch.rand(similarity.shape, generator=generator).masked_fill(similarity.isneginf(), -1.0)
    if choice == "nearest":
        rank = similarity
    elif choice == "class absent":
        rank = rank.masked_fill(same, -1.0)
    chosen = rank.topk(k, dim=1).indices.flip(1)
    if choice == "class present" and k:
        own = rank.masked_fill(~same, -1.0).argmax(1)
        place = torch.randint(k, (len(labels),), generator=generator)
        lacking = ~same.gather(1, chosen).any(1)
        chosen[lacking, place[lacking]] = own[lacking]
    return chosen


def make_prompts(layout: EpisodeLayout, labels: Tensor, bos: int) -> Tensor:
    """Pairs with these labels (N, k), then a query up to where its label would be."""
    start = torch.full((len(labels), 1), bos)
    query = layout.tokens[: layout.label].expand(len(labels), -1)
    return torch.cat([start, layout.write(layout.tokens, labels), query], 1)


def on_task(
    model: Idefics2ForConditionalGeneration, processor: Idefics2Processor, rows: Dataset, prompt: str
) -> tuple[int, int]:
    """Right answers, and how many there could be, of "teacher" or "student" prompts, generated from their messages."""
    right = total = 0
    for batch in rows.iter(_BATCH):
        inputs: Any = processor.apply_chat_template(
            batch[prompt],
            add_generation_prompt=True,
            tokenize=True,
            return_dict=True,
            return_tensors="pt",
            processor_kwargs={"padding": True},
        )
        generate: Any = model.generate  # annotated for one release of transformers and not for the next
        out = generate(**inputs, max_new_tokens=1, do_sample=False)
        said = processor.batch_decode(out[:, inputs["input_ids"].shape[1] :])
        right += sum(a == b for a, b in zip(said, batch["answer"]))
        total += len(said)
    return right, total


def on_tasks(
    model: Idefics2ForConditionalGeneration, processor: Idefics2Processor, seed: int = 0
) -> Iterator[TestbedScore]:
    """Of the test split of every task, as student and as teacher."""
    for name in TASKS:
        rows = load_split(name, "test", seed)
        for prompt in ("student", "teacher"):
            yield TestbedScore(name, prompt, *on_task(model, processor, rows, prompt))
