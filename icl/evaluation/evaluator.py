"""How well a model answers, with demonstrations, without, and with adapters in their place; and at what cost."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, nullcontext
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
from icl.evaluation.cost import Inputs, cost, greedy_config
from icl.evaluation.measurement import Cost, Distances, Measurement
from icl.evaluation.metrics.scoring import METRICS, References, check_references
from icl.evaluation.results import Results
from icl.losses import Objective, ObjectiveLoss, QueryTokens
from icl.prompts import IGNORED, Collator, Role
from icl.training import Teacher, fingerprint, observe_states

Progress = Callable[[int], None]
# Examples that the states of student and teacher are compared on.
_COMPARED = 64
_DISTANCES = Objective(ce=0, anchor=1, alignment=1, attention=1, feature_scale="unit")


class PromptDigests(NamedTuple):
    """What :meth:`Evaluation.read` finds in examples."""

    test: str
    """Digest of ids, references, and the queries' images."""
    texts: str
    """Digest of every prompt, its images included."""
    ids: tuple[str, ...]
    references: References


@dataclass(frozen=True)
class AnsweringMode:
    """One mode to have the examples answered.

    Args:
        method: its name in tables: "zero-shot", "k-shot", or what an adapter is.
        examples: with a sequence of references each.
        prompt: which of an example's prompts is answered.
        adapter: the one in use, by the name it is attached under; ``None`` for the base alone.
        teacher: examples whose two prompts are compared: how far the states of the student, with the adapter, are
            from the teacher's. The first of them only.
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
    """Measures ways to answer the examples of tasks, each once.

    Args:
        model: with or without adapters.
        processor: the model's.
        results: where cells are kept. What was answered already, by the same weights to the same prompts, is not
            answered again; scores are taken of the answers that are there.
        metrics: names of ``METRICS``.
        max_new_tokens: of an answer, which also ends with the model's or the chat template's token for it, or with the
            line.
        batch_size: prompts that are answered at a time.

    >>> from icl import testbed
    >>> rows = [Example.from_task(row) for row in testbed.load_task("fixed_map")["test"].select(range(4))]
    >>> evaluation = Evaluation(*testbed.load())
    >>> cell = evaluation.measure("fixed_map", AnsweringMode("k-shot", rows, prompt="teacher", shots=16))
    >>> cell.scores["exact"].value
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
        """Read every prompt once: what is wrong with one shows before the first is answered.

        ``ValueError`` names an example whose prompt cannot be made, or that has too few references for a metric.
        """
        texts, described = [], []
        for example in (example for batch in _batches(examples, 1) for example in batch):
            written = self.collator.chat.prompts(example)[get_args(Role).index(prompt)]
            texts.append(self.collator.digest(written))
            described.append((example.id, example.references, written.contents[-1] if written.query_images else None))
        check_references(self.metrics, ((f"example {name}", references) for name, references, _ in described))
        ids, references, _ = zip(*described)
        return PromptDigests(digest(json.dumps(described)), digest(json.dumps(texts)), ids, references)

    def measure(
        self, task: str, mode: AnsweringMode, prompts: PromptDigests | None = None, progress: Progress | None = None
    ) -> Measurement:
        """The cell of a task and a mode to answer it, measured or found.

        Costs and distances come first and scores last, so that answers are kept whatever fails. ``prompts`` are those
        of ``mode``, where they were read before. ``progress`` is told the number of examples after each batch.
        ``ValueError`` as in :meth:`read`.
        """
        prompts = self.read(mode.examples, mode.prompt) if prompts is None else prompts
        base = fingerprint(self.model)
        choice = self._choice(mode, base, prompts)
        compared = self._digest(mode.teacher) if len(mode.teacher) else None
        settings = {**mode.settings, "max_new_tokens": str(self.max_new_tokens)}
        row = self.name, base, task, mode.method, mode.shots, mode.strategy
        cell = self.results.find((row, mode.seed, prompts.test, choice))
        if cell is None:
            cell = Measurement(
                *row,
                seed=mode.seed,
                test=prompts.test,
                choice=choice,
                settings=settings,
                cost=self._cost(mode),
                distances=self.distances(mode.teacher, mode.adapter) if compared else None,
                ids=prompts.ids,
                answers=tuple(answer for _, answer in self.answers(mode, progress)),
                scores={},
                parameters=mode.parameters,
                train_seconds=mode.train_seconds,
                note=mode.note,
            )
            self.results.add(cell)
        if compared and (cell.distances is None or cell.distances.prompts != compared):
            cell = replace(cell, distances=self.distances(mode.teacher, mode.adapter))
        cell = replace(
            cell, settings=settings, parameters=mode.parameters, train_seconds=mode.train_seconds, note=mode.note
        )
        scores = dict(cell.scores)
        try:
            for name in self.metrics:
                scores[name] = METRICS[name](cell.answers, prompts.references)
        finally:
            cell = self.results.add(replace(cell, scores=scores))
        return cell

    def answers(self, mode: AnsweringMode, progress: Progress | None = None) -> Iterator[tuple[Example, str]]:
        """Each example, and what the model says to its prompt, greedily: the first line of it."""
        config, tokenizer = self._generation(mode.examples[0]), self.collator.tokenizer
        for batch in _batches(mode.examples, self.batch_size):
            inputs = self._prompts(batch, mode.prompt)
            # not around the yield, which would leave the choice to whoever takes the answers
            with self._evaluating(), self._use(mode.adapter):
                out = self.model.generate(**inputs, generation_config=config)
            texts = tokenizer.batch_decode(out[:, inputs["input_ids"].shape[1] :], skip_special_tokens=True)
            if progress is not None:
                progress(len(batch))
            yield from zip(batch, (text.strip().partition("\n")[0].strip() for text in texts))

    @torch.no_grad()
    def distances(self, examples: Examples, adapter: str | None) -> Distances:
        """How far the states of the student, with the adapter in use, are from those of the teacher, the base."""
        adapters = attached(self.model)
        temporary = adapters is None
        if adapters is None:
            adapters = Adapters(self.model)
        losses = ObjectiveLoss(_DISTANCES, adapters.decoder.layers[0].shape.width).eval()
        teacher = Teacher(adapters, _DISTANCES)
        sums, count = torch.zeros(len(_DISTANCES.terms)), 0
        try:
            with self._evaluating():
                for batch in _batches(examples, self.batch_size, _COMPARED):
                    inputs = _on(self.collator(batch), self.model)
                    query = QueryTokens.from_batch(inputs)
                    taught = teacher(self.model, inputs, query)
                    with adapters.use(*([adapter] if adapter else [])), ExitStack() as stack:
                        seen = observe_states(self.model, adapters, inputs, "student", query, _DISTANCES, False, stack)
                    tokens = int(query.aligned.sum())
                    terms = losses(seen, taught, query)
                    sums += tokens * torch.stack([terms[name].float().cpu() for name in _DISTANCES.terms])
                    count += tokens
        finally:
            if temporary:
                adapters.detach()
        anchor, alignment, attention = (sums / count).tolist()
        return Distances(math.sqrt(anchor), math.sqrt(alignment), attention, self._digest(examples))

    def _digest(self, examples: Examples) -> str:
        """Of both prompts of the examples that :meth:`distances` compares, and their answers."""
        compared = [example for batch in _batches(examples, 1, _COMPARED) for example in batch]
        prompts = [[self.collator.digest(p) for p in self.collator.chat.prompts(example)] for example in compared]
        return digest(json.dumps([prompts, [example.answer for example in compared]]))

    def _cost(self, mode: AnsweringMode) -> Cost:
        example = mode.examples[0]
        zero = None
        if mode.prompt != "student" or mode.adapter is not None:
            zero = self._prompts([example], "student"), partial(self._use, None)
        with self._evaluating():
            return cost(self.model, self._prompts([example], mode.prompt), partial(self._use, mode.adapter), zero)

    def _prompts(self, examples: Sequence[Example], prompt: Role) -> Inputs:
        inputs: Inputs = _on(self.collator.prompts(examples, prompt), self.model)
        return inputs

    def _use(self, adapter: str | None) -> Any:
        adapters = attached(self.model)
        if adapters is None:
            if adapter is not None:
                raise ValueError(f"evaluate: the model has no adapters, and {adapter!r} is to be used")
            return nullcontext()
        return adapters.use(*([] if adapter is None else [adapter]))

    @contextmanager
    def _evaluating(self) -> Iterator[None]:
        training = self.model.training
        self.model.eval()
        try:
            yield
        finally:
            self.model.train(training)

    def _generation(self, example: Example) -> GenerationConfig:
        config = greedy_config(self.model.generation_config)
        config.update(max_new_tokens=self.max_new_tokens, eos_token_id=self._ends(example))
        if config.pad_token_id is None:
            config.pad_token_id = self.collator.tokenizer.pad_token_id
        return config

    def _ends(self, example: Example) -> list[int]:
        """The tokens that end an answer: the model's, and the one that the chat template ends a turn with."""
        known = self.model.generation_config.eos_token_id
        ends = {known} if isinstance(known, int) else set(known or ())
        if example.answer is not None:
            labels = self.collator([example])["student"]["labels"]
            last = int(labels[labels != IGNORED][-1])
            if last in self.collator.tokenizer.all_special_ids:
                ends.add(last)
        return sorted(ends)

    def _choice(self, mode: AnsweringMode, base: str, prompts: PromptDigests) -> str:
        """Digest of all that decides the answers."""
        adapters = attached(self.model)
        weights: list[Any] = []
        if mode.adapter is not None and adapters is not None:
            for part in adapters[mode.adapter]:
                tensors = {name: t.detach().cpu().contiguous() for name, t in part.state_dict().items()}
                weights += [part.config.to_dict(), digest(save(tensors))]
        generation = self._generation(mode.examples[0]).to_diff_dict()
        generation.pop("transformers_version", None)
        return digest(json.dumps([base, weights, prompts.texts, generation], sort_keys=True, default=str))


def _batches(examples: Examples, size: int, most: int | None = None) -> Iterator[list[Example]]:
    count = len(examples) if most is None else min(most, len(examples))
    for start in range(0, count, size):
        yield [examples[i] for i in range(start, min(start + size, count))]


def _on(value: Any, model: Any) -> Any:
    """Where the model is, and floating point as it is."""
    if isinstance(value, Mapping):
        return {name: _on(part, model) for name, part in value.items()}
    if isinstance(value, Tensor):
        return value.to(model.device, model.dtype if value.is_floating_point() else value.dtype)
    return value
