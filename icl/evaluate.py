"""How well a model answers, with demonstrations, without, and with adapters in their place; and at what cost."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import dataclass, replace
from functools import partial
from statistics import fmean
from typing import Any

import torch
from safetensors.torch import save
from torch import Tensor
from transformers import ProcessorMixin

from icl import internals
from icl.adapters import Adapters, attached
from icl.adapters.decoder import Decoder
from icl.answers import exact_match, vqa_accuracy
from icl.captions import bleu4, chair, cider_d, mentioned
from icl.chat import Role
from icl.cost import Cost, Inputs, cost, greedy
from icl.embed import digest
from icl.examples import Example
from icl.objective import Losses, Objective, Query
from icl.prompt import IGNORED, Collator
from icl.results import Cell, Distances, Results, Score
from icl.splits import Examples
from icl.teacher import Teacher, observe

Progress = Callable[[int], None]
# Examples that the states of student and teacher are compared on.
_COMPARED = 64
_DISTANCES = Objective(ce=0, anchor=1, alignment=1, attention=1, feature_scale="unit")

References = Sequence[Sequence[str]]


def _mean(rows: Sequence[float]) -> Score:
    return Score(fmean(rows), tuple(rows))


def _chair(answers: Sequence[str], references: References) -> Any:
    objects = [{name for text in row for name in mentioned(text)} for row in references]
    return chair(answers, objects)


METRICS: Mapping[str, Callable[[Sequence[str], References], Score]] = {
    "exact": lambda said, right: _mean(exact_match(said, right)),
    "vqa": lambda said, right: _mean(vqa_accuracy(said, right)),
    "cider": lambda said, right: _mean(cider_d(said, right)),
    "bleu4": lambda said, right: Score(bleu4(said, right), None),
    "chair_s": lambda said, right: _mean([float(bool(row)) for row in _chair(said, right).hallucinated]),
    "chair_i": lambda said, right: Score(_chair(said, right).instance, None),
}
"""By name, from answers and all references of each. The objects in an image, for CHAIR, are those that its reference
captions mention: where labels of segments are at hand too, :func:`icl.captions.chair` takes both, as the paper does."""


@dataclass(frozen=True)
class Way:
    """One way to have the examples answered.

    Args:
        method: its name in tables: "zero-shot", "k-shot", or what an adapter is.
        examples: with a sequence of references each. The digest of ``test`` is of all of them.
        prompt: which of an example's prompts is answered.
        adapter: the one in use, by the name it is attached under; ``None`` for the base alone.
        teacher: examples whose two prompts are compared: how far the states of the student, with the adapter, are
            from the teacher's. The first of them only.
        note: for the table.
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

    @property
    def row(self) -> tuple[str, int, str | None]:
        return self.method, self.shots, self.strategy


class Evaluation:
    """Measures ways to answer the examples of tasks, each once.

    Args:
        model: with or without adapters.
        processor: the model's.
        results: where cells are kept. One that is there already is not measured again, but for metrics it lacks,
            which are taken from its answers.
        metrics: names of ``METRICS``.
        max_new_tokens: of an answer, which also ends with the model's or the chat template's token for it, or with the
            line.
        batch_size: prompts that are answered at a time.

    >>> from icl import testbed
    >>> rows = [Example.from_task(row) for row in testbed.load_task("fixed_map")["test"].select(range(4))]
    >>> evaluation = Evaluation(*testbed.load())
    >>> cell = evaluation.measure("fixed_map", Way("k-shot", rows, prompt="teacher", shots=16))
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
        self.collator = Collator(processor)
        self.results = Results() if results is None else results
        self.max_new_tokens, self.batch_size = max_new_tokens, batch_size

    def measure(self, task: str, way: Way, test: str | None = None, progress: Progress | None = None) -> Cell:
        """The cell of a task and a way to answer it, measured or found.

        ``test`` names the set of examples, which is otherwise gone through for its name. ``progress`` is told the
        number of examples after each batch. ``ValueError`` names an example without references.
        """
        test = digest_of(way.examples) if test is None else test
        choice = self._choice(way)
        row = (task, *way.row)
        found = self.results.find(row, way.seed, test, choice)
        if found is not None and set(self.metrics) <= set(found.scores):
            return found
        if found is not None:
            references = [_references(example) for batch in _batches(way.examples, 1) for example in batch]
            cell = replace(found, scores={**found.scores, **self._scores(found.answers, references)})
        else:
            answered = list(self.answers(way, progress))
            said = [answer for _, answer in answered]
            cell = Cell(
                *row,
                seed=way.seed,
                test=test,
                choice=choice,
                ids=tuple(example.id for example, _ in answered),
                answers=tuple(said),
                scores=self._scores(said, [example.references for example, _ in answered]),
                parameters=way.parameters,
                train_seconds=way.train_seconds,
                note=way.note,
                cost=self._cost(way),
                distances=self.distances(way.teacher, way.adapter) if len(way.teacher) else None,
            )
        self.results.add(cell)
        return cell

    def answers(self, way: Way, progress: Progress | None = None) -> Iterator[tuple[Example, str]]:
        """Each example, and what the model says to its prompt, greedily: the first line of it."""
        config = greedy(self.model.generation_config)
        tokenizer: Any = self.collator.tokenizer
        config.update(max_new_tokens=self.max_new_tokens, eos_token_id=self._ends(way.examples[0]))
        if config.pad_token_id is None:
            config.pad_token_id = tokenizer.pad_token_id
        for batch in _batches(way.examples, self.batch_size):
            for example in batch:
                _references(example)
            inputs = self._prompts(batch, way.prompt)
            # not around the yield, which would leave the choice to whoever takes the answers
            with self._evaluating(), self._use(way.adapter):
                out = self.model.generate(**inputs, generation_config=config)
            texts = tokenizer.batch_decode(out[:, inputs["input_ids"].shape[1] :], skip_special_tokens=True)
            if progress is not None:
                progress(len(batch))
            yield from zip(batch, (text.strip().partition("\n")[0].strip() for text in texts))

    def _scores(self, said: Sequence[str], references: References) -> dict[str, Score]:
        return {name: METRICS[name](said, references) for name in self.metrics}

    @torch.no_grad()
    def distances(self, examples: Examples, adapter: str | None) -> Distances:
        """How far the states of the student, with the adapter in use, are from those of the teacher, the base."""
        adapters = attached(self.model)
        temporary = adapters is None
        if adapters is None:
            adapters = Adapters(self.model)
        losses = Losses(_DISTANCES, adapters.decoder.layers[0].shape.width).eval()
        teacher = Teacher(adapters, _DISTANCES)
        sums, count = torch.zeros(len(_DISTANCES.terms)), 0
        try:
            with self._evaluating():
                for batch in _batches(examples, self.batch_size, _COMPARED):
                    inputs = _on(self.collator(batch), self.model)
                    query = Query.of(inputs)
                    taught = teacher(self.model, inputs, query)
                    with adapters.use(*([adapter] if adapter else [])), ExitStack() as stack:
                        seen = observe(self.model, adapters, inputs, "student", query, _DISTANCES, False, stack)
                    tokens = int(query.aligned.sum())
                    terms = losses(seen, taught, query)
                    sums += tokens * torch.stack([terms[name].float().cpu() for name in _DISTANCES.terms])
                    count += tokens
        finally:
            if temporary:
                adapters.detach()
        anchor, alignment, attention = (sums / count).tolist()
        return Distances(math.sqrt(anchor), math.sqrt(alignment), attention)

    def _cost(self, way: Way) -> Cost:
        example = way.examples[0]
        zero = None
        if way.prompt != "student" or way.adapter is not None:
            zero = self._prompts([example], "student"), partial(self._use, None)
        with self._evaluating():
            return cost(self.model, self._prompts([example], way.prompt), partial(self._use, way.adapter), zero)

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

    def _choice(self, way: Way) -> str:
        """Of weights, of base and adapter, and all else that decides the answers."""
        adapters = attached(self.model)
        weights: list[Any] = []
        if way.adapter is not None and adapters is not None:
            for part in adapters[way.adapter]:
                tensors = {name: t.detach().cpu().contiguous() for name, t in part.state_dict().items()}
                weights += [part.config.to_dict(), digest(save(tensors))]
        base = Decoder(internals.unwrapped(self.model)[-1]).fingerprint()
        # The first prompt and the last stand for what is written in all, and which demonstrations are shown.
        ends = [way.examples[0], way.examples[len(way.examples) - 1]]
        prompts = self.collator.prompts(ends, way.prompt)
        read = b"".join(t.numpy().tobytes() for _, t in sorted(prompts.items()) if isinstance(t, Tensor))
        return digest(json.dumps([base, weights, digest(read), self.max_new_tokens], sort_keys=True))


def digest_of(examples: Examples) -> str:
    """What tells a test set from others: ids and references."""
    rows = [(example.id, example.references) for batch in _batches(examples, 1) for example in batch]
    return digest(json.dumps(rows))


def _references(example: Example) -> Sequence[str]:
    if not example.references:
        raise ValueError(f"evaluate: example {example.id} has no answer to compare with")
    return example.references


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
