"""What methods without training share: states at the last prompt token, and vectors that act there alone.

Vectors are averages over prompts. They are held in buffers, and zero until :func:`fit`, which is the identity.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor

from icl.adapters.base import Adapter, AdapterLayer
from icl.adapters.container import Adapters
from icl.adapters.forward_pass import ForwardPass

ModelInputs = Mapping[str, Any]
"""Arguments of ``model(...)`` for a batch of prompts, which end where the answer would start."""
Progress = Callable[[int], None]


class FittingPrompts(NamedTuple):
    """Batches of them; those of ``dev`` with the ids (B,) of the first tokens of the answers."""

    teacher: Iterable[ModelInputs]
    student: Iterable[ModelInputs]
    dev: Iterable[tuple[ModelInputs, Tensor]]


class FittedAdapter(Adapter):
    """A method whose vectors are read off the base."""

    @abstractmethod
    def fit(self, adapters: Adapters, name: str, prompts: FittingPrompts, progress: Progress) -> None:
        """Set the vectors. ``name`` is the adapter that this is a part of."""


def fit(
    adapters: Adapters,
    name: str = "default",
    *,
    teacher: Iterable[ModelInputs],
    student: Iterable[ModelInputs] = (),
    dev: Iterable[tuple[ModelInputs, Tensor]] = (),
    progress: Progress | None = None,
) -> None:
    """Set the vectors of those methods of adapter ``name`` that need no training.

    All take averages over ``teacher``, prompts with demonstrations, on the base alone. Beyond that

    * a task vector chooses its layer by the answers to ``dev``, prompts without demonstrations, unless it has but one;
    * a function vector chooses its heads by the answers to ``dev``, prompts whose demonstrations have been given the
      answers of others;
    * an in-context vector compares each batch of ``teacher`` with one of ``student``, the same queries alone.

    The model should be in eval mode. ``progress`` is told the number of prompts after each pass through the model.

    Raises ``ValueError`` if the adapter has no such method, or if prompts are missing, do not pair up, or can be gone
    through only once.
    """
    prompts = FittingPrompts(teacher, student, dev)
    for argument, batches in prompts._asdict().items():
        if isinstance(batches, Iterator):
            raise ValueError(f"fit: {argument} must be a list, or what can be gone through again, got {batches!r}")
        if argument == "teacher" and not any(True for _ in batches):
            raise ValueError("fit: teacher must have prompts, got none")
    parts = [part for part in adapters[name] if isinstance(part, FittedAdapter)]
    if not parts:
        methods = ", ".join(part.config.method for part in adapters[name])
        raise ValueError(f"fit: adapter {name!r} is {methods}, and nothing that is fitted without training")
    # Off, also because what is in use is looked up again afterwards: a method may have dropped layers.
    with torch.no_grad(), adapters.off(), adapters.scoped.setting("prompt", None):
        for part in parts:
            part.fit(adapters, name, prompts, progress or (lambda rows: None))


def states(adapters: Adapters, batches: Iterable[ModelInputs], progress: Progress) -> Iterator[Tensor]:
    """What the decoder layers of the base put out at the last token of each prompt, (B, L, D), float32, by batch."""
    for inputs in batches:
        with adapters.record() as seen:
            adapters.model(**inputs, use_cache=False)
        yield torch.stack([at_end(adapters, seen.hidden[i]).cpu() for i in sorted(seen.hidden)], 1)
        progress(len(seen.hidden[0]))


def heads(adapters: Adapters, batches: Iterable[ModelInputs], progress: Progress) -> Iterator[Tensor]:
    """What the attention heads of the base put out at the last token of each prompt, (B, L, H, dh), likewise."""
    for inputs in batches:
        with adapters.record(hidden=False, heads=True) as seen:
            adapters.model(**inputs, use_cache=False)
        yield torch.stack([at_end(adapters, seen.heads[i]).cpu() for i in sorted(seen.heads)], 1)
        progress(len(seen.heads[0]))


def mean(batches: Iterator[Tensor]) -> Tensor:
    """Over the rows of all."""
    total, rows = torch.zeros(()), 0
    for batch in batches:
        total, rows = total + batch.sum(0), rows + len(batch)
    return total / rows


def log_probabilities(adapters: Adapters, inputs: ModelInputs, answers: Tensor) -> tuple[Tensor, Tensor]:
    """Of the answers' first tokens (B,), under the adapters in use, and whether they are the likeliest."""
    scores = at_end(adapters, adapters.model(**inputs, use_cache=False).logits).log_softmax(-1)
    answers = answers.to(scores.device)
    return scores.gather(1, answers[:, None])[:, 0], scores.argmax(-1) == answers


def at_end(adapters: Adapters, rows: Tensor) -> Tensor:
    """What (B, T, ...) of the last pass has at the last token of the prompts, float32."""
    end = adapters.step.end
    if end is None:
        raise ValueError("fit: prompts must have input_ids, inputs_embeds or an attention_mask")
    return rows[torch.arange(len(rows), device=rows.device), end.to(rows.device)].float()


class LastToken(AdapterLayer):
    """Changes the state at the last token of the prompt; tokens that are generated see it through attention alone.

    Where that token is comes from ``generate``, whatever passes it makes; from labels; from a first pass on an empty
    cache; or from :meth:`Adapters.prompt`. Passes of which none of these tells raise ``ValueError``.
    """

    needs_end = True
    vector: Tensor

    def __init__(self, width: int):
        super().__init__()
        self.register_buffer("vector", torch.zeros(width))

    @abstractmethod
    def change(self, state: Tensor) -> Tensor:
        """(B, D), float32, to the same."""

    def residual(self, hidden: Tensor, step: ForwardPass) -> Tensor:
        if step.end is None:
            return hidden
        step.acted = True
        rows, end = torch.arange(len(hidden), device=hidden.device), step.end.to(hidden.device)
        # Some rows may end in another pass.
        here = torch.arange(hidden.shape[1], device=hidden.device) == end[:, None]
        changed = self.change(hidden[rows, end.clamp(0, hidden.shape[1] - 1)].float()).to(hidden.dtype)
        return torch.where(here[..., None], changed[:, None], hidden)
