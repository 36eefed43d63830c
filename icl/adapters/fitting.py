"""Methods without training: states at the last prompt token, and vectors that act there alone.

Vectors are averages over prompts, computed by :func:`fit`. They are held in buffers, and zero until then, which is the
identity.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor

from icl.adapters.base import Adapter, AdapterConfig, AdapterLayer
from icl.adapters.container import Adapters
from icl.adapters.forward_pass import ForwardPass
from icl.attention import LayerShape

ModelInputs = Mapping[str, Any]
"""Arguments of ``model(...)`` for a batch of prompts, which end where the answer would start."""
Progress = Callable[[int], None]
"""Called with a number of prompts after each pass."""


class FittingPrompts(NamedTuple):
    """Batches of prompts to fit a method to; those of ``dev`` with the ids (B,) of the first tokens of the answers."""

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
    """Set the vectors of those methods of adapter ``name`` that need no training. The model should be in eval mode.

    Args:
        adapters: with the adapter; it is the base alone that runs.
        name: of the adapter.
        teacher: prompts with demonstrations, which all methods take averages over.
        student: the same queries alone, batch by batch, which an in-context vector compares with those of ``teacher``.
        dev: prompts with answers. By those without demonstrations a task vector chooses its layer, unless it has but
            one; by those whose demonstrations have the answers of others a function vector chooses its heads.
        progress: called with the number of prompts after each pass through the model.

    Raises:
        ValueError: if the adapter has no such method, or if prompts are missing, do not pair up, or can be gone through
            only once.
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
    # Off, also because the layers in use are looked up again afterwards: a method may have dropped some.
    with torch.no_grad(), adapters.off(), adapters.scoped.setting("prompt", None):
        for part in parts:
            part.fit(adapters, name, prompts, progress or (lambda rows: None))


def last_token_outputs(
    adapters: Adapters, batches: Iterable[ModelInputs], progress: Progress, heads: bool = False
) -> Iterator[Tensor]:
    """Yield, by batch, the base's outputs at the last token of each prompt, float32.

    Those of the decoder layers, (B, L, D), or of the attention ``heads``, (B, L, H, dh).
    """
    for inputs in batches:
        with adapters.record(hidden=not heads, heads=heads) as record:
            adapters.model(**inputs, use_cache=False)
        layers = record.heads if heads else record.hidden
        outputs = torch.stack([at_last_token(adapters, layers[i]).cpu() for i in sorted(layers)], 1)
        yield outputs
        progress(len(outputs))


def mean_over_prompts(batches: Iterator[Tensor]) -> Tensor:
    """Return the mean over the rows of all batches."""
    total, rows = torch.zeros(()), 0
    for batch in batches:
        total, rows = total + batch.sum(0), rows + len(batch)
    return total / rows


def answer_log_probabilities(adapters: Adapters, inputs: ModelInputs, answers: Tensor) -> tuple[Tensor, Tensor]:
    """Return the log-probabilities of the answers' first tokens (B,), and whether they are the likeliest (B,)."""
    scores = at_last_token(adapters, adapters.model(**inputs, use_cache=False).logits).log_softmax(-1)
    answers = answers.to(scores.device)
    return scores.gather(1, answers[:, None])[:, 0], scores.argmax(-1) == answers


def at_last_token(adapters: Adapters, outputs: Tensor) -> Tensor:
    """Return outputs (B, T, ...) of the last pass at the last token of the prompts, (B, ...), float32."""
    end = adapters.step.end
    if end is None:
        raise ValueError("fit: prompts must have input_ids, inputs_embeds or an attention_mask")
    return outputs[torch.arange(len(outputs), device=outputs.device), end.to(outputs.device)].float()


class LastTokenLayer(AdapterLayer):
    """Changes the state at the last token of the prompt; tokens that are generated see it through attention alone.

    Where that token is comes from ``generate``, whatever passes it makes; from labels; from a first pass on an empty
    cache; or from :meth:`Adapters.prompt`. Passes of which none of these tells raise ``ValueError``.
    """

    needs_end = True
    vector: Tensor

    def __init__(self, config: AdapterConfig, shape: LayerShape):
        super().__init__()
        self.register_buffer("vector", torch.zeros(shape.width))

    @abstractmethod
    def change(self, state: Tensor) -> Tensor:
        """Return the states (B, D), float32, changed."""

    def residual(self, hidden: Tensor, step: ForwardPass) -> Tensor:
        """Return the output of the decoder layer (B, T, D), changed at the last token of the prompts."""
        if step.end is None:
            return hidden
        step.acted = True
        rows, end = torch.arange(len(hidden), device=hidden.device), step.end.to(hidden.device)
        # Some rows may end in another pass.
        here = torch.arange(hidden.shape[1], device=hidden.device) == end[:, None]
        changed = self.change(hidden[rows, end.clamp(0, hidden.shape[1] - 1)].float()).to(hidden.dtype)
        return torch.where(here[..., None], changed[:, None], hidden)
