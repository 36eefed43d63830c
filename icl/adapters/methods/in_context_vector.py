"""In-context vectors (Liu et al., 2024): the main direction in which demonstrations move states, added at every layer.

    h' = (h + strength |h| v_l) |h| / |h + strength |h| v_l|

for every token. v is the first principal direction of the differences between the states at the last prompt token with
and without demonstrations, those of all layers side by side, and v_l its part for layer l, of norm 1.
"""

from __future__ import annotations

from itertools import zip_longest
from typing import ClassVar, cast

import torch
from torch import Tensor
from torch.linalg import vector_norm
from torch.nn.functional import normalize

from icl.adapters.base import Adapter, AdapterConfig, AdapterLayer
from icl.adapters.container import Adapters
from icl.adapters.fitting import FittedAdapter, FittingPrompts, Progress, last_token_outputs
from icl.adapters.forward_pass import ForwardPass
from icl.adapters.methods.live import turn
from icl.attention import LayerShape
from icl.common.configuration import PositiveFloat, configuration


class _Layer(AdapterLayer):
    vector: Tensor

    def __init__(self, config: InContextVectorConfig, shape: LayerShape):
        super().__init__()
        self.strength = config.strength
        self.register_buffer("vector", torch.zeros(shape.width))

    def residual(self, hidden: Tensor, step: ForwardPass) -> Tensor:
        wide = hidden.float()
        return turn(wide, self.strength * vector_norm(wide, dim=-1, keepdim=True) * self.vector)


class InContextVector(FittedAdapter):
    """A vector a layer."""

    def fit(self, adapters: Adapters, name: str, prompts: FittingPrompts, progress: Progress) -> None:
        """Set the vectors to the principal direction of the teacher's states less the student's."""
        layers = [int(index) for index in self.layers]
        moves = []
        states = (last_token_outputs(adapters, batches, progress) for batches in (prompts.teacher, prompts.student))
        for teacher, student in zip_longest(*states):
            if teacher is None or student is None or len(teacher) != len(student):
                raise ValueError(
                    "fit: student must have the queries of teacher, batch by batch, for an in-context vector"
                )
            moves.append((teacher - student)[:, layers])
        direction = principal_direction(torch.cat(moves).flatten(1)).view(len(layers), -1)
        for layer, vector in zip(self.layers.values(), normalize(direction)):
            cast(_Layer, layer).vector.copy_(vector)


def principal_direction(rows: Tensor) -> Tensor:
    """Return the unit vector (D,) that rows (N, D) have the largest squares along, in the direction of their mean.

    Not of the rows less their mean, because it is what they have in common that matters.

    >>> principal_direction(torch.tensor([[0.0, -3.0], [0.0, -2.0], [0.5, 0.0]]))
    tensor([-0., -1.])
    """
    direction: Tensor = torch.linalg.svd(rows, full_matrices=False).Vh[0]
    return direction * (1 if rows.mean(0) @ direction >= 0 else -1)


@configuration
class InContextVectorConfig(AdapterConfig):
    """No parameters to train: :func:`icl.adapters.fit` sets one vector of width d a layer.

    ``strength`` is the length of what is added, in units of the state's.
    """

    strength: PositiveFloat = 0.1

    method: ClassVar[str] = "in_context_vector"
    adapter_type: ClassVar[type[Adapter]] = InContextVector
    layer_type: ClassVar[type] = _Layer
    fitted: ClassVar[bool] = True
    needs_attention: ClassVar[bool] = False
