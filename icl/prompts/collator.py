"""From examples to what a model reads: one batch of teachers' prompts, one of students', and where they agree.

A teacher is compared with a student token by token, so the tokens of query and answer must be the same in both,
whatever comes before. A tokenizer does not promise that: some merge characters across the border of two messages, some
write the first word of a text in a way of its own. Therefore a query is also tokenized by itself, and where a whole
prompt does not end with just these tokens, it is put together from those of what comes before and these.

Pixels and all else are made by the model's processor from the whole text, so nothing here depends on a family.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import zip_longest
from typing import Any, Literal, get_args

import torch
from PIL import Image
from torch import Tensor
from transformers import ProcessorMixin

from icl.common.files import digest
from icl.data import Example
from icl.prompts.chat_template import ChatPrompt, ChatTemplate, Role, count_common

IGNORED = -100
"""The label of a token that is not supervised."""


class Collator:
    """Collate examples into one batch for training, by the model's processor and chat template.

    Args:
        processor: of any vision-language model of transformers, with a chat template.
        max_length: the most tokens that a prompt with its answer may have; nothing is ever cut.
        teacher: whether the teacher's prompts are wanted. Without them there is no ``teacher``, no
            ``teacher_positions`` and no ``digest``.

    Calls return a dictionary of

    =====================  ==========================================================================================
    student, teacher       inputs of the model, padded on the right, with ``labels``: the answer's tokens and the one
                           that ends the turn, if the template has one, else -100
    student_positions      (B, S) where the tokens of query and answer are in ``student``, and 0 after the last
    teacher_positions      (B, S) where the same tokens are in ``teacher``
    aligned                (B, S) which of these are tokens, and not padding
    predicts               (B, S) after which of these comes a token of the answer: the first is the last of the
                           query, the only one where the answer is not known
    id                     of each example
    digest                 of each teacher's prompt and answer, tokens, images and how these are read: a name for
                           what the teacher makes of it
    =====================  ==========================================================================================

    Raises:
        ValueError: it names the example. A query is among its own demonstrations (the same pixels or, without images,
            the same text), prompts do not end alike, an image cannot be read, or there are too many tokens.

    >>> from icl import testbed
    >>> rows, (_, processor) = testbed.load_task("fixed_map")["test"], testbed.load()
    >>> batch = Collator(processor)([Example.from_task(rows[0])])
    >>> processor.batch_decode(batch["student"]["input_ids"])
    ['<s> <image> is daisy <end_of_utterance>']
    >>> batch["student_positions"].tolist(), batch["teacher_positions"].tolist()
    ([[1, 2, 3, 4]], [[65, 66, 67, 68]])
    >>> batch["predicts"].tolist()
    [[False, True, True, False]]
    """

    def __init__(self, processor: ProcessorMixin, max_length: int | None = None, teacher: bool = True):
        if getattr(processor, "chat_template", None) is None:
            raise ValueError(f"Collator: processor must have a chat_template, and {type(processor).__name__} has none")
        if processor.tokenizer.pad_token_id is None:
            raise ValueError("Collator: processor.tokenizer must have a pad_token, and has none")
        if max_length is not None and max_length < 1:
            raise ValueError(f"Collator: max_length must be at least 1, got {max_length}")
        self.processor, self.tokenizer, self.max_length = processor, processor.tokenizer, max_length
        self.teacher = teacher
        self.chat = ChatTemplate(processor)

    def __call__(self, examples: Sequence[Example]) -> dict[str, Any]:
        """Return the batch of these examples."""
        teachers, students = self._write_prompts(examples)
        queries = self._tokenize_queries(students)
        answers = [
            [] if example.answer is None else self._tokenize_after(prompt.query, self.chat.answer(example, prompt))
            for example, prompt in zip(examples, students)
        ]
        lengths = torch.tensor([[len(query) + len(answer)] for query, answer in zip(queries, answers)])
        first = torch.tensor([[len(query) - 1] for query in queries])
        steps = torch.tensor([[max(1, len(answer))] for answer in answers])
        columns = torch.arange(int(lengths.max()))
        aligned = columns < lengths
        batch: dict[str, Any] = {"id": [example.id for example in examples], "aligned": aligned}
        batch["predicts"] = (columns >= first) & (columns < first + steps)
        for role, prompts in (("teacher", teachers), ("student", students))[not self.teacher :]:
            rows, inputs = self._make_inputs(examples, prompts, queries, answers, "right")
            ends = torch.tensor([[len(row)] for row in rows])
            inputs["labels"] = torch.full_like(inputs["input_ids"], IGNORED)
            for labels, row, answer in zip(inputs["labels"], rows, answers):
                labels[len(row) - len(answer) : len(row)] = torch.tensor(answer)
            batch[role] = inputs
            batch[f"{role}_positions"] = (ends - lengths + columns) * aligned
            if role == "teacher":
                reading = self.processor.image_processor.to_json_string()
                batch["digest"] = [digest(repr((row, prompt.contents, reading))) for row, prompt in zip(rows, prompts)]
        return batch

    def prompts(self, examples: Sequence[Example], which: Role = "student") -> dict[str, Any]:
        """Return inputs for ``generate``: the same tokens as in training up to the answer, padded on the left."""
        if which not in get_args(Role):
            raise ValueError(f"prompts: which must be one of {', '.join(get_args(Role))}, got {which!r}")
        prompts = self._write_prompts(examples)[get_args(Role).index(which)]
        return self._make_inputs(examples, prompts, self._tokenize_queries(prompts), [[] for _ in prompts], "left")[1]

    def digest(self, prompt: ChatPrompt) -> str:
        """Return a digest of all that the model reads of a prompt: text, tokens, images and their processing."""
        return digest(
            repr((prompt.text, self._tokenize(prompt.text), prompt.contents, self.processor.to_json_string()))
        )

    def _write_prompts(self, examples: Sequence[Example]) -> tuple[list[ChatPrompt], list[ChatPrompt]]:
        if not examples:
            raise ValueError("Collator: examples must not be empty")
        pairs = [self.chat.prompts(example) for example in examples]
        return [teacher for teacher, _ in pairs], [student for _, student in pairs]

    def _tokenize(self, text: str) -> list[int]:
        tokens: list[int] = self.tokenizer(text, add_special_tokens=False)["input_ids"]
        return tokens

    def _tokenize_after(self, query: str, answer: str) -> list[int]:
        """Return the tokens of an answer whose query's tokens stay as they are: they are what is answered."""
        before, both = self._tokenize(query), self._tokenize(query + answer)
        return both[len(before) :] if both[: len(before)] == before else self._tokenize(answer)

    def _tokenize_queries(self, prompts: Sequence[ChatPrompt]) -> list[list[int]]:
        """Return the tokens of each query by itself."""
        texts = [prompt.query for prompt in prompts]
        rows = _unpad(self._process(texts, [prompt.query_images for prompt in prompts], begin=False))
        # Some processors begin every text with this token, asked or not.
        bos, bos_id = self.tokenizer.bos_token, self.tokenizer.bos_token_id
        return [row[1:] if row[0] == bos_id and not text.startswith(bos) else row for row, text in zip(rows, texts)]

    def _process(self, texts: Sequence[str], images: Sequence[list[Image.Image]], begin: bool) -> dict[str, Any]:
        """Call the processor. ``begin`` asks for the token that begins a prompt."""
        options: dict[str, Any] = {"text": list(texts), "images": list(images) if any(images) else None}
        if any(images) and not hasattr(self.processor, "image_token"):
            # The first Idefics has texts and images in one list.
            pairs = [zip_longest(text.split(self.chat.image), own) for text, own in zip(texts, images)]
            options = {"text": [[piece for pair in each for piece in pair if piece] for each in pairs], "images": None}
        if not begin or (self.tokenizer.bos_token and texts[0].startswith(self.tokenizer.bos_token)):
            options["add_special_tokens"] = False  # not twice: some templates write it, as apply_chat_template minds
        return dict(self.processor(**options, padding=True, return_tensors="pt"))

    def _make_inputs(
        self,
        examples: Sequence[Example],
        prompts: Sequence[ChatPrompt],
        queries: list[list[int]],
        answers: list[list[int]],
        side: Literal["left", "right"],
    ) -> tuple[list[list[int]], dict[str, Any]]:
        """Return the tokens of prompts and answers, and the model's inputs, padded on a side."""
        out = self._process([prompt.text for prompt in prompts], [prompt.images for prompt in prompts], begin=True)
        processed = _unpad(out)
        rows = list(processed)
        # Where a prompt does not end with the query's own tokens, it is put together from its two parts.
        apart = [i for i, query in enumerate(queries) if processed[i][-len(query) :] != query]
        if apart:
            prefixes = [prompts[i].prefix for i in apart]
            parts = self._process(prefixes, [prompts[i].prefix_images for i in apart], begin=True)
            for i, row in zip(apart, _unpad(parts)):
                rows[i] = row + queries[i]
        sources, image_tokens = [], set(self.processor.image_token_ids)
        for i, (example, answer) in enumerate(zip(examples, answers)):
            own, whole = (sum(token in image_tokens for token in row) for row in (rows[i], processed[i]))
            if own != whole:
                raise ValueError(
                    f"example {example.id}: the processor must write a query's images alone as it does after others, "
                    f"and makes {own} tokens of all images in one way and {whole} in the other"
                )
            # An answer is text after the prompt: what holds for the prompt's last token holds for it.
            sources.append(_match_tokens(processed[i], rows[i]) + [len(processed[i]) - 1] * len(answer))
            rows[i] = rows[i] + answer
            if self.max_length is not None and len(rows[i]) > self.max_length:
                raise ValueError(
                    f"example {example.id}: it has {len(rows[i])} tokens, and max_length is {self.max_length}"
                )
        return rows, self._pad(out, rows, sources, side)

    def _pad(
        self, out: dict[str, Any], rows: list[list[int]], sources: list[list[int]], side: Literal["left", "right"]
    ) -> dict[str, Any]:
        """Pad the rows, and all that the processor says of tokens, which each token takes from its source.

        In training padding comes after: no token looks ahead, so none sees it, and the places of tokens, which models
        count from the left, are right without ``position_ids``. ``generate`` goes on at the end, and minds the places.
        """
        length = max(map(len, rows))
        spans = [slice(length - len(row), length) if side == "left" else slice(len(row)) for row in rows]
        places = [mask.nonzero()[:, 0] for mask in out["attention_mask"]]
        ids = torch.full((len(rows), length), self.tokenizer.pad_token_id)
        inputs: dict[str, Any] = {"input_ids": ids}
        for i, span in enumerate(spans):
            ids[i, span] = torch.tensor(rows[i])
        image_inputs = self.processor.image_processor.model_input_names
        for name, value in out.items():
            if name in image_inputs or not isinstance(value, Tensor) or value.shape[:2] != out["input_ids"].shape:
                inputs[name] = value
            elif name != "input_ids":
                inputs[name] = value.new_zeros(len(rows), length, *value.shape[2:])
                for i, span in enumerate(spans):
                    inputs[name][i, span] = value[i, places[i][sources[i]]]
        return inputs


def _unpad(out: Mapping[str, Any]) -> list[list[int]]:
    """Return the tokens that a processor made, without padding."""
    return [ids[mask.bool()].tolist() for ids, mask in zip(out["input_ids"], out["attention_mask"])]


def _match_tokens(old: list[int], new: list[int]) -> list[int]:
    """Return for each token of ``new`` the place of the token of ``old`` that it is.

    Both write the same text, and differ in a few tokens at the most: these are taken to be as the one before them.
    """
    start = count_common(old, new)
    end = count_common(old[start:][::-1], new[start:][::-1])
    middle = [max(0, start - 1)] * (len(new) - start - end)
    return [*range(start), *middle, *range(len(old) - end, len(old))]
