"""One measurement, as it is kept: a model that answered one test set in one way, its scores, cost and distances.

The classes are the format of results.json too, so pydantic checks the types of what a file holds.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, TypeAlias

from pydantic import ConfigDict, Field, Strict
from pydantic.dataclasses import dataclass

from icl.evaluation.metrics.scoring import MetricScore

# More than any count or time that was measured; sums of these are finite.
_LARGEST = 1e18
_Count = Annotated[int, Strict(), Field(ge=-_LARGEST, le=_LARGEST)]
_Time = Annotated[float, Strict(), Field(ge=-_LARGEST, le=_LARGEST)]
# Distances of an adapter that diverged are not finite.
_Distance = Annotated[float, Strict()]
RowKey: TypeAlias = tuple[str, str, str, str, int, str | None]
MeasurementKey: TypeAlias = tuple[RowKey, int, str, str]
_AS_WRITTEN = ConfigDict(extra="forbid")


@dataclass(frozen=True, config=_AS_WRITTEN)
class Cost:
    """The cost of answering one prompt, the only one in its batch.

    Times are medians, over rounds in which the prompt and the zero-shot one take turns.

    Args:
        tokens: of the prompt.
        prefill_ms: time to the first token of the answer, with all that is computed of images.
        decode_ms: time to each further token.
        zero_prefill_ms: the zero-shot prompt's, measured in the same rounds; likewise ``zero_decode_ms``.
        cache_bytes: keys and values of the prompt and one token.
        peak_bytes: the most that torch had allocated, the model included; ``None`` but on CUDA.
    """

    tokens: _Count
    prefill_ms: _Time
    decode_ms: _Time
    zero_prefill_ms: _Time
    zero_decode_ms: _Time
    prefill_flops: _Count
    decode_flops: _Count
    cache_bytes: _Count
    peak_bytes: _Count | None


@dataclass(frozen=True, config=_AS_WRITTEN)
class Distances:
    """Distances between a student and its teacher at the tokens of query and answer, averaged over tokens and layers.

    ``geodesic`` and ``l2`` are roots of mean squares, of decoder-layer outputs at the scale "unit" of
    :class:`icl.losses.StateLoss`, ``attention`` the Kullback-Leibler divergence of the attention among these tokens.
    ``prompts`` is the digest of the prompts that were compared.
    """

    geodesic: _Distance
    l2: _Distance
    attention: _Distance
    prompts: str


@dataclass(frozen=True, config=_AS_WRITTEN)
class Measurement:
    """One test set, answered in one mode.

    Args:
        model: name of the base.
        base: digest of its weights and configuration.
        strategy: how demonstrations are selected, if there are any.
        test: digest of the test set: ids, references and the queries' images.
        choice: digest of all that decides the answers: weights, every prompt, and how answers are generated.
        settings: by name, what rows of a table must share to be compared, and seeds to be averaged.
        note: what the reader of a table has to know, such as that no dev set selected the epoch.
    """

    model: str
    base: str
    task: str
    method: str
    shots: _Count
    strategy: str | None
    seed: _Count
    test: str
    choice: str
    settings: Mapping[str, str]
    ids: tuple[str, ...]
    answers: tuple[str, ...]
    scores: Mapping[str, MetricScore]
    parameters: _Count
    train_seconds: _Time | None
    note: str | None
    cost: Cost
    distances: Distances | None

    def __post_init__(self) -> None:
        lengths = {len(self.ids), len(self.answers), *(len(s.rows) for s in self.scores.values() if s.rows is not None)}
        if len(lengths) > 1 or not self.ids:
            raise ValueError(f"ids, answers and scores must have one entry an example, got {sorted(lengths)}")

    @property
    def row(self) -> RowKey:
        """The row of a table that this measurement belongs to."""
        return self.model, self.base, self.task, self.method, self.shots, self.strategy

    @property
    def key(self) -> MeasurementKey:
        """All that tells this measurement from others of a file."""
        return self.row, self.seed, self.test, self.choice
