"""How well the testbed's model learns in context: accuracy by number and choice of demonstrations, and on the tasks."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

import torch
from torch import Tensor
from transformers import Idefics2ForConditionalGeneration, Idefics2Processor

from icl.evaluation import wilson_interval
from icl.testbed.episodes import EpisodeLayout
from icl.testbed.images import load_digits, load_pictures, pixel_values
from icl.testbed.model import compute_logits, embed_images, encode_images
from icl.testbed.tasks import TASKS, make_rows
from icl.testbed.vocabulary import WORDS

Choice = Literal["class present", "nearest", "random", "class absent"]
SHOTS = (0, 1, 2, 4, 8, 16)
SCORE_COUNT = len(get_args(Choice)) * (len(SHOTS) - 1) + 1 + 2 * len(TASKS)
_TASK_BATCH = 120
# Of prompts with many images: what the layers make of more is slower to reach.
_PROMPT_BATCH = 40


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
        """The share of right answers."""
        return self.right / self.prompts

    @property
    def interval(self) -> tuple[float, float]:
        """Wilson's 95 % interval of the accuracy."""
        return wilson_interval(self.right, self.prompts)


def measure_scores(
    model: Idefics2ForConditionalGeneration, processor: Idefics2Processor, seed: int = 0
) -> Iterator[TestbedScore]:
    """Yield all scores of a model, ``SCORE_COUNT`` in number; ``seed`` is of demonstrations, words and tasks."""
    yield from measure_choices(model, processor, seed)
    for name in TASKS:
        rows = list(make_rows(name, "test", seed, load_pictures("test")))
        for prompt in ("student", "teacher"):
            yield TestbedScore(name, prompt, answer_task(model, processor, rows, prompt), len(rows))


@torch.inference_mode()
def measure_choices(
    model: Idefics2ForConditionalGeneration, processor: Idefics2Processor, seed: int = 0
) -> Iterator[TestbedScore]:
    """Name every held-out image once with each number and choice of demonstrations, by words drawn for it alone.

    Demonstrations are other held-out images: any ("random"), any but one of the query's class at least ("class
    present"), none of it ("class absent"), or the nearest by the cosine of the vision encoder's mean, the nearest last
    (RICES, Yang et al., 2022).
    """
    images = load_digits("held_out")
    values = pixel_values(images.pixels)
    features = encode_images(model, values)
    embeddings = embed_images(model, values)
    similarity = (embeddings @ embeddings.T).fill_diagonal_(-torch.inf)
    queries = torch.arange(len(images))[:, None]
    for choice in get_args(Choice):
        for k in SHOTS if choice == "class present" else SHOTS[1:]:
            generator = torch.Generator().manual_seed(seed)
            words = draw_words(processor, len(images), generator)
            rows = torch.cat([choose_rows(choice, k, images.labels, similarity, generator), queries], 1)
            right = count_right(model, processor, features[rows], images.labels[rows], words)
            yield TestbedScore(choice, str(k), right, len(images))


def draw_words(processor: Idefics2Processor, count: int, generator: torch.Generator) -> Tensor:
    """Return the tokens of ten different words, one for each digit, drawn anew for each query: (count, 10)."""
    words = torch.tensor(processor.tokenizer.convert_tokens_to_ids(list(WORDS)))
    return words[torch.rand(count, len(words), generator=generator).argsort(1)[:, :10]]


@torch.inference_mode()
def count_right(
    model: Idefics2ForConditionalGeneration,
    processor: Idefics2Processor,
    features: Tensor,
    digits: Tensor,
    words: Tensor,
) -> int:
    """Return for how many queries the model names the word of the query's digit.

    Args:
        model: the testbed's model.
        processor: of the model.
        features: (N, k + 1, image tokens, width), of :func:`icl.testbed.encode_images`: k demonstrations and the query.
        digits: (N, k + 1), what these images show.
        words: (N, 10), the tokens that stand for the digits (:func:`draw_words`).
    """
    labels = words.gather(1, digits)
    ids = make_prompts(EpisodeLayout.chat(processor, "image"), labels[:, :-1], processor.tokenizer.bos_token_id)
    batches = zip(ids.split(_PROMPT_BATCH), features.split(_PROMPT_BATCH))
    answers = [compute_logits(model, prompts, images.flatten(0, 2))[:, -1].argmax(-1) for prompts, images in batches]
    return int((torch.cat(answers) == labels[:, -1]).sum())


def choose_rows(choice: Choice, k: int, labels: Tensor, similarity: Tensor, generator: torch.Generator) -> Tensor:
    """Return the rows (N, k) of each query's demonstrations, never the query's own.

    Args:
        choice: how demonstrations are chosen.
        k: how many there are.
        labels: (N,), the classes.
        similarity: (N, N), -inf on the diagonal.
        generator: of all that is random.
    """
    same = labels[:, None] == labels
    rank = torch.rand(similarity.shape, generator=generator).masked_fill(similarity.isneginf(), -1.0)
    if choice == "nearest":
        rank = similarity
    elif choice == "class absent":
        rank = rank.masked_fill(same, -1.0)
    rows = rank.topk(k, dim=1).indices.flip(1)
    if choice == "class present" and k:
        own_class = rank.masked_fill(~same, -1.0).argmax(1)
        place = torch.randint(k, (len(labels),), generator=generator)
        lacking = ~same.gather(1, rows).any(1)
        rows[lacking, place[lacking]] = own_class[lacking]
    return rows


def make_prompts(layout: EpisodeLayout, labels: Tensor, bos: int) -> Tensor:
    """Return the tokens (N, T) of pairs with these labels (N, k), then of a query up to where its label would be."""
    start = torch.full((len(labels), 1), bos)
    query = layout.tokens[: layout.label].expand(len(labels), -1)
    return torch.cat([start, layout.write(layout.tokens, labels), query], 1)


def answer_task(
    model: Idefics2ForConditionalGeneration,
    processor: Idefics2Processor,
    rows: Sequence[Mapping[str, Any]],
    prompt: str,
) -> int:
    """Return how many "teacher" or "student" prompts of a task are answered rightly, generated from their messages."""
    right = 0
    for start in range(0, len(rows), _TASK_BATCH):
        batch = rows[start : start + _TASK_BATCH]
        inputs: Any = processor.apply_chat_template(
            [row[prompt] for row in batch],
            add_generation_prompt=True,
            tokenize=True,
            return_dict=True,
            return_tensors="pt",
            processor_kwargs={"padding": True},
        )
        generate: Any = model.generate  # annotated for one release of transformers and not for the next
        generated = generate(**inputs, max_new_tokens=1, do_sample=False)
        answers = processor.batch_decode(generated[:, inputs["input_ids"].shape[1] :])
        right += sum(answer == row["answer"] for answer, row in zip(answers, batch))
    return right
