"""Hierarchy bias: attention between the segments of a prompt by the place of their demonstrations in hyperbolic space.

    softmax(s q k' + lambda H(i, j) + mask) v

for a query in segment i and a key in segment j, with x_i their points on the hyperboloid of curvature -c and H one of

    neg_dist    -d(x_i, x_j)
    inverse     1 / (1 + d(x_i, x_j))
    bilinear    c <x_i, x_j>_L

There is no T x T matrix: a token has a row of H as long as there are segments, and a key one column of it.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor, nn

from hyperbolic import lorentz, pairwise
from icl.adapters.base import Adapter, AdapterConfig, AdapterLayer
from icl.adapters.container import Adapters
from icl.attention import LayerShape
from icl.common.configuration import PositiveFloat, configuration


class HierarchyBias(Adapter):
    """The identity at the start, where lambda is 0, and in passes outside of :meth:`demonstrations`."""

    config: HierarchyBiasConfig
    _adapters: Adapters

    def install(self, adapters: Adapters) -> None:
        """Have the layers look here for the demonstrations of a pass."""
        # Not as submodules, which would make circles.
        self.__dict__["_adapters"] = adapters
        for layer in self.layers.values():
            layer.__dict__["owner"] = self

    @property
    def segments(self) -> _Segments | None:
        """The segments of the pass that runs."""
        return self._adapters.step.notes.get(self.key)

    @property
    def past(self) -> int:
        """Tokens in the cache before this pass."""
        return self._adapters.step.past

    @contextmanager
    def demonstrations(self, points: Tensor, segments: Tensor) -> Iterator[None]:
        """Bias the passes inside the block by these segments of their prompts.

        Args:
            points: of the segments of each prompt, (B, S, D), on the hyperboloid; gradients reach them, also in a
                backward pass after the block unless it checkpoints.
            segments: of each token of the prompt, (B, T), from 0 to S - 1, or -1 for tokens that get no bias, such as
                padding. Tokens after the prompt belong to the segment of its last one.

        A batch of a multiple of B, as beam search makes it, repeats each row.

        Raises:
            ValueError: for other shapes or segments.
            TypeError: for points that are not floating point, or segments that are not integers.
        """
        _check_segments(points, segments)
        value = _Segments(_relate(points, self.config), segments)
        with self._adapters.scoped.setting(self.key, value, by="demonstrations"):
            yield


def _check_segments(points: Tensor, segments: Tensor) -> None:
    if points.ndim != 3 or segments.ndim != 2 or len(points) != len(segments) or 0 in (*points.shape, *segments.shape):
        got = f"{tuple(points.shape)} and {tuple(segments.shape)}"
        raise ValueError(f"demonstrations: points and segments must be (B, S, D) and (B, T), got {got}")
    if not points.is_floating_point() or segments.is_floating_point() or segments.dtype == torch.bool:
        got = f"{points.dtype} and {segments.dtype}"
        raise TypeError(f"demonstrations: points must be floating point and segments integers, got {got}")
    low, high = int(segments.min()), int(segments.max())
    if low < -1 or high >= points.shape[1]:
        raise ValueError(f"demonstrations: segments must be from -1 to {points.shape[1] - 1}, got {low} to {high}")


def _relate(points: Tensor, config: HierarchyBiasConfig) -> Tensor:
    """Return H of all pairs of segments, (B, S, S)."""
    if config.kind == "bilinear":
        return config.c * lorentz.inner(points[:, :, None], points[:, None], c=config.c)
    dist = pairwise.pairwise_dist(points, points, c=config.c)
    return -dist if config.kind == "neg_dist" else 1 / (1 + dist)


@dataclass
class _Segments:
    """H of all pairs of segments (B, S, S), and the segment of each token of the prompt (B, T)."""

    relation: Tensor
    segments: Tensor

    def factors(self, query: Tensor, keys: int, past: int) -> tuple[Tensor, Tensor]:
        """Return rows of H (B, T, S) for the queries of a pass, and which segment each key is in (B, keys, S)."""
        repeats, rest = divmod(len(query), len(self.segments))
        if rest:
            raise ValueError(f"demonstrations: told for {len(self.segments)} prompts, got a batch of {len(query)}")
        relation, segments = (a.to(query.device).repeat_interleave(repeats, 0) for a in (self.relation, self.segments))
        tokens, last = query.shape[2], segments.shape[1] - 1
        # A cache with room for more holds the first tokens at its start; one of a window holds the last ones.
        first = max(0, past + tokens - keys)
        queries, keys_at = (
            segments[:, torch.arange(start, start + count, device=query.device).clamp(max=last)]
            for start, count in ((past, tokens), (first, keys))
        )
        rows = relation.gather(1, queries.clamp(min=0)[..., None].expand(-1, -1, relation.shape[2]).long())
        columns = torch.arange(relation.shape[2], device=query.device)
        return rows * (queries >= 0)[..., None], (keys_at[..., None] == columns).to(rows.dtype)


class _Layer(AdapterLayer):
    owner: HierarchyBias

    def __init__(self, config: HierarchyBiasConfig, shape: LayerShape):
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(shape.heads))

    def score_bias(self, query: Tensor, keys: int) -> tuple[Tensor, Tensor] | None:
        segments = self.owner.segments
        if segments is None:
            return None
        rows, columns = segments.factors(query, keys, self.owner.past)
        return self.weight[:, None, None] * rows[:, None], columns[:, None]


@configuration
class HierarchyBiasConfig(AdapterConfig):
    """One parameter a head, lambda.

    Args:
        kind: of H.
        c: the curvature.
    """

    kind: Literal["neg_dist", "inverse", "bilinear"] = "neg_dist"
    c: PositiveFloat = 1.0

    method: ClassVar[str] = "hierarchy_bias"
    adapter_type: ClassVar[type[Adapter]] = HierarchyBias
    layer_type: ClassVar[type] = _Layer
