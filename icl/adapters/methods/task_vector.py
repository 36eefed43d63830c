"""Task vectors (Hendel et al., 2023): the state that demonstrations lead to at the last prompt token, put there.

    h_l[last] = mean over prompts with demonstrations of h_l[last]

at one layer l, the one that gives the best answers without demonstrations.
"""

from __future__ import annotations

import dataclasses
from typing import ClassVar, cast

import torch
from torch import Tensor, nn

from icl.adapters.base import Adapter, AdapterConfig
from icl.adapters.container import Adapters
from icl.adapters.fitting import (
    FittedAdapter,
    FittingPrompts,
    LastTokenLayer,
    Progress,
    answer_log_probabilities,
    last_token_outputs,
    mean_over_prompts,
)
from icl.common.configuration import configuration


class _Layer(LastTokenLayer):
    def change(self, state: Tensor) -> Tensor:
        return torch.where(self.vector.any(), self.vector, state)


class TaskVector(FittedAdapter):
    """After ``fit`` it has one layer alone, the best, and its ``config`` says which."""

    def fit(self, adapters: Adapters, name: str, prompts: FittingPrompts, progress: Progress) -> None:
        """Set the vectors to the mean states of the teacher, and drop all layers but the best on dev."""
        vectors = mean_over_prompts(last_token_outputs(adapters, prompts.teacher, progress))
        candidates = dict(self.layers.items())
        for index, layer in candidates.items():
            cast(_Layer, layer).vector.copy_(vectors[int(index)])
        best = next(iter(candidates))
        if len(candidates) > 1:
            scores = {}
            for index, layer in candidates.items():
                self.layers = nn.ModuleDict({index: layer})
                scores[index] = _score(adapters, name, prompts, progress)
            best = max(scores, key=lambda index: scores[index])
        self.layers = nn.ModuleDict({best: candidates[best]})
        self.config = dataclasses.replace(self.config, layers=(int(best),))


def _score(adapters: Adapters, name: str, prompts: FittingPrompts, progress: Progress) -> tuple[int, float]:
    """Return how many dev prompts are answered right, and the sum of the log-probabilities of all answers."""
    right, likelihood, rows = 0, 0.0, 0
    for inputs, answers in prompts.dev:
        with adapters.use(name):
            scores, hits = answer_log_probabilities(adapters, inputs, answers)
        right, likelihood, rows = right + int(hits.sum()), likelihood + float(scores.sum()), rows + len(answers)
        progress(len(answers))
    if not rows:
        raise ValueError("fit: dev must have prompts to choose the layer of a task vector by, got none")
    return right, likelihood


@configuration
class TaskVectorConfig(AdapterConfig):
    """No parameters to train: :func:`icl.adapters.fit` sets one vector of width d.

    ``layers`` are those to choose from, by the share of right answers, and by their likelihood where that is equal.
    """

    method: ClassVar[str] = "task_vector"
    adapter_type: ClassVar[type[Adapter]] = TaskVector
    layer_type: ClassVar[type] = _Layer
    fitted: ClassVar[bool] = True
    needs_attention: ClassVar[bool] = False
