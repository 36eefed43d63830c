"""How well a model answers, and at what cost: with demonstrations, without, or with adapters in their place."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, nullcontext
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, NamedTuple, get_args

import torch
from safetensors.torch import save
from torch import Tensor
from transformers import GenerationConfig, ProcessorMixin

from icl.adapters import Adapters, attached
from icl.attention import internals
from icl.common.files import digest
from icl.data import Example, Examples
from icl.evaluation.cost import Inputs, greedy_config, measure_cost
from icl.evaluation.measurement import Cost, Distances, Measurement
from icl.evaluation.metrics.scoring import METRICS, References, check_references
from icl.evaluation.results import Results
from icl.losses import Objective, ObjectiveLoss, QueryTokens
from icl.prompts import IGNORED, Collator, Role
from icl.training import Teacher, evaluating, fingerprint, observe_states

Progress = Callable[[int], None]
# Examples that the states of student and teacher are compared on.
_COMPARED = 64
_DISTANCES = Objective(ce=0, anchor=1, alignment=1, attention=1, feature_scale="unit")


class PromptDigests(NamedTuple):
    """Digests that tell the prompts of a test set from others, and the references of their answers.

    ``test`` is the digest of ids, references and the queries' images, ``texts`` that of every prompt with its images.
    """

    test: str
    texts: str
    ids: tuple[str, ...]
    references: References


@dataclass(frozen=True)
class AnsweringMode:
    """One way to have the examples of a test set answered.

    Args:
        method: its name in tables: "zero-shot", "k-shot", or what an adapter is.
        examples: with a sequence of references each.
        prompt: which of an example's prompts is answered.
        adapter: the one in use, by the name it is attached under; ``None`` for the base alone.
        teacher: examples whose two prompts are compared: how far the states of the student, with the adapter, are
            from the teacher's. The first 64 of them only.
        note: for the table.
        settings: what rows of a table must share to be compared, and seeds to be averaged, by name.
    """

    method: str
    examples: Examples
    prompt: Role = "student"
    adapter: str | None = None
    shots: int = 0
    strategy: str | None = None
    seed: int = 0
    teacher: Examples = ()
    parameters: int = 0
    train_seconds: float | None = None
    note: str | None = None
    settings: Mapping[str, str] = field(default_factory=dict)


class Evaluation:
    """Measures each mode of answering the examples of a task once.

    Args:
        model: with or without adapters.
        processor: the model's.
        results: where measurements are kept. What was answered already, by the same weights to the same prompts, is
            not answered again; scores are taken of the answers that are there.
        metrics: names of ``METRICS``.
        max_new_tokens: of an answer, which also ends with the model's or the chat template's token for it, or with the
            line.
        batch_size: prompts that are answered at a time.

    >>> from icl import testbed
    >>> rows = [Example.from_task(row) for row in testbed.load_task("fixed_map")["test"].select(range(4))]
    >>> evaluation = Evaluation(*testbed.load())
    >>> measurement = evaluation.measure("fixed_map", AnsweringMode("k-shot", rows, prompt="teacher", shots=16))
    >>> measurement.scores["exact"].value
    1.0
    """

    def __init__(
        self,
        model: Any,
        processor: ProcessorMixin,
        results: Results | None = None,
        metrics: Sequence[str] = ("exact",),
        max_new_tokens: int = 32,
        batch_size: int = 16,
    ):
        if not metrics or not set(metrics) <= set(METRICS):
            raise ValueError(f"Evaluation: metrics must be of {', '.join(METRICS)}, got {', '.join(metrics) or 'none'}")
        for name, value in (("max_new_tokens", max_new_tokens), ("batch_size", batch_size)):
            if value < 1:
                raise ValueError(f"Evaluation: {name} must be at least 1, got {value}")
        self.model, self.processor, self.metrics = model, processor, tuple(metrics)
        config: Any = internals.unwrapped(model)[-1].config
        self.name = str(config.name_or_path or type(model).__name__)
        self.collator = Collator(processor)
        self.results = Results() if results is None else results
        self.max_new_tokens, self.batch_size = max_new_tokens, batch_size

    def read(self, examples: Examples, prompt: Role = "student") -> PromptDigests:
        """Read every prompt once, so that what is wrong with one shows before the first is answered.

        ``ValueError`` names an example whose prompt cannot be made, or that has too few references for a metric.
        """
        texts, described = [], []
        for example in (example for batch in _split_batches(examples, 1) for example in batch):
            text = self.collator.chat.prompts(example)[get_args(Role).index(prompt)]
            texts.append(self.collator.digest(text))
            described.append((example.id, example.references, text.contents[-1] if text.query_images else None))
        check_references(self.metrics, ((f"example {name}", references) for name, references, _ in described))
        ids, references, _ = zip(*described)
        return PromptDigests(digest(json.dumps(described)), digest(json.dumps(texts)), ids, references)

    def measure(
        self, task: str, mode: AnsweringMode, prompts: PromptDigests | None = None, progress: Progress | None = None
    ) -> Measurement:
        """Return the measurement of a task in a mode, which is taken now or kept in the results.

        Costs and distances come first and scores last, so that answers are kept whatever fails.

        Args:
            task: name of the test set.
            mode: how it is answered.
            prompts: those of ``mode``, where :meth:`read` has returned them before.
            progress: called with the number of examples after each batch.

        Raises:
            ValueError: as :meth:`read`.
        """
        prompts = self.read(mode.examples, mode.prompt) if prompts is None else prompts
        base = fingerprint(self.model)
        choice = self._digest_choice(mode, base, prompts)
        compared = self._digest_compared(mode.teacher) if len(mode.teacher) else None
        described: dict[str, Any] = {
            "settings": {**mode.settings, "max_new_tokens": str(self.max_new_tokens)},
            "parameters": mode.parameters,
            "train_seconds": mode.train_seconds,
            "note": mode.note,
        }
        row = self.name, base, task, mode.method, mode.shots, mode.strategy
        measurement = self.results.find((row, mode.seed, prompts.test, choice))
        if measurement is None:
            measurement = Measurement(
                *row,
                seed=mode.seed,
                test=prompts.test,
                choice=choice,
                cost=self._measure_cost(mode),
                distances=self.distances(mode.teacher, mode.adapter) if compared else None,
                ids=prompts.ids,
                answers=tuple(answer for _, answer in self.answers(mode, progress)),
                scores={},
                **described,
            )
            self.results.add(measurement)
        if compared and (measurement.distances is None or measurement.distances.prompts != compared):
            measurement = replace(measurement, distances=self.distances(mode.teacher, mode.adapter))
        scores = dict(measurement.scores)
        try:
            for name in self.metrics:
                scores[name] = METRICS[name](measurement.answers, prompts.references)
        finally:
            measurement = self.results.add(replace(measurement, scores=scores, **described))
        return measurement

    def answers(self, mode: AnsweringMode, progress: Progress | None = None) -> Iterator[tuple[Example, str]]:
        """Yield each example with the first line of the model's greedy answer to its prompt."""
        config, tokenizer = self._generation_config(mode.examples[0]), self.collator.tokenizer
        for batch in _split_batches(mode.examples, self.batch_size):
            inputs = self._collate(batch, mode.prompt)
            # not around the yield, which would leave the adapter in use to whoever takes the answers
            with evaluating(self.model), self._use(mode.adapter):
                out = self.model.generate(**inputs, generation_config=config)
            texts = tokenizer.batch_decode(out[:, inputs["input_ids"].shape[1] :], skip_special_tokens=True)
            if progress is not None:
                progress(len(batch))
            yield from zip(batch, (text.strip().partition("\n")[0].strip() for text in texts))

    @torch.no_grad()
    def distances(self, examples: Examples, adapter: str | None) -> Distances:
        """Measure how far the states of the student, with the adapter in use, are from those of the teacher, the base.

        Of many examples the first 64 are compared.
        """
        adapters = attached(self.model)
        temporary = adapters is None
        if adapters is None:
            adapters = Adapters(self.model)
        losses = ObjectiveLoss(_DISTANCES, adapters.decoder.layers[0].shape.width).eval()
        teacher = Teacher(adapters, _DISTANCES)
        sums, count = torch.zeros(len(_DISTANCES.terms)), 0
        try:
            with evaluating(self.model):
                for batch in _split_batches(examples, self.batch_size, _COMPARED):
                    inputs = _move_to(self.collator(batch), self.model)
                    query = QueryTokens.from_batch(inputs)
                    teacher_states = teacher(self.model, inputs, query)
                    with adapters.use(*([adapter] if adapter else [])), ExitStack() as stack:
                        states = observe_states(
                            self.model, adapters, inputs, "student", query, _DISTANCES, False, stack
                        )
                    tokens = int(query.aligned.sum())
                    terms = losses(states, teacher_states, query)
                    sums += tokens * torch.stack([terms[name].float().cpu() for name in _DISTANCES.terms])
                    count += tokens
        finally:
            if temporary:
                adapters.detach()
        anchor, alignment, attention = (sums / count).tolist()
        return Distances(math.sqrt(anchor), math.sqrt(alignment), attention, self._digest_compared(examples))

    def _digest_compared(self, examples: Examples) -> str:
        """Return the digest of both prompts of the examples that :meth:`distances` compares, and of their answers."""
        compared = [example for batch in _split_batches(examples, 1, _COMPARED) for example in batch]
        prompts = [[self.collator.digest(p) for p in self.collator.chat.prompts(example)] for example in compared]
        return digest(json.dumps([prompts, [example.answer for example in compared]]))

    def _measure_cost(self, mode: AnsweringMode) -> Cost:
        example, zero_shot = mode.examples[0], None
        if mode.prompt != "student" or mode.adapter is not None:
            zero_shot = self._collate([example], "student"), partial(self._use, None)
        with evaluating(self.model):
            inputs = self._collate([example], mode.prompt)
            return measure_cost(self.model, inputs, partial(self._use, mode.adapter), zero_shot)

    def _collate(self, examples: Sequence[Example], prompt: Role) -> Inputs:
        inputs: Inputs = _move_to(self.collator.prompts(examples, prompt), self.model)
        return inputs

    def _use(self, adapter: str | None) -> AbstractContextManager[Any]:
        adapters = attached(self.model)
        if adapters is not None:
            return adapters.use(*([] if adapter is None else [adapter]))
        if adapter is not None:
            raise ValueError(f"evaluate: the model has no adapters, and {adapter!r} is to be used")
        return nullcontext()

    def _generation_config(self, example: Example) -> GenerationConfig:
        config = greedy_config(self.model.generation_config)
        config.update(max_new_tokens=self.max_new_tokens, eos_token_id=self._end_tokens(example))
        if config.pad_token_id is None:
            config.pad_token_id = self.collator.tokenizer.pad_token_id
        return config

    def _end_tokens(self, example: Example) -> list[int]:
        """Return the tokens that end an answer: the model's, and the one that the chat template ends a turn with."""
        own = self.model.generation_config.eos_token_id
        ends = {own} if isinstance(own, int) else set(own or ())
        if example.answer is not None:
            labels = self.collator([example])["student"]["labels"]
            last = int(labels[labels != IGNORED][-1])
            if last in self.collator.tokenizer.all_special_ids:
                ends.add(last)
        return sorted(ends)

    def _digest_choice(self, mode: AnsweringMode, base: str, prompts: PromptDigests) -> str:
        """Return the digest of all that decides the answers."""
        adapters = attached(self.model)
        weights: list[Any] = []
        if mode.adapter is not None and adapters is not None:
            for part in adapters[mode.adapter]:
                tensors = {name: t.detach().cpu().contiguous() for name, t in part.state_dict().items()}
                weights += [part.config.to_dict(), digest(save(tensors))]
        generation = self._generation_config(mode.examples[0]).to_diff_dict()
        generation.pop("transformers_version", None)
        return digest(json.dumps([base, weights, prompts.texts, generation], sort_keys=True, default=str))


def _split_batches(examples: Examples, size: int, most: int | None = None) -> Iterator[list[Example]]:
    count = len(examples) if most is None else min(most, len(examples))
    for start in range(0, count, size):
        yield [examples[i] for i in range(start, min(start + size, count))]


def _move_to(value: Any, model: Any) -> Any:
    """Return the tensors of a batch on the model's device, floating point in its precision."""
    if isinstance(value, Mapping):
        return {name: _move_to(part, model) for name, part in value.items()}
    if isinstance(value, Tensor):
        return value.to(model.device, model.dtype if value.is_floating_point() else value.dtype)
    return value
