"""What was measured of one way to answer one test set, as it is kept in a file."""

from __future__ import annotations

import math
import types
from collections.abc import Mapping
from dataclasses import dataclass, fields, is_dataclass
from typing import Any, TypeAlias, Union, cast, get_args, get_origin, get_type_hints

from icl.evaluation.metrics.scoring import MetricScore

RowKey: TypeAlias = tuple[str, str, str, str, int, str | None]
MeasurementKey: TypeAlias = tuple[RowKey, int, str, str]


@dataclass(frozen=True)
class Cost:
    """What it takes to answer one prompt, the only one in its batch. Times are medians, of rounds in turns."""

    tokens: int
    """Of the prompt."""
    prefill_ms: float
    """The first token of the answer, with all that is made of images."""
    decode_ms: float
    """Each further token."""
    zero_prefill_ms: float
    """Zero-shot's, measured in turns with this; likewise ``zero_decode_ms``."""
    zero_decode_ms: float
    prefill_flops: int
    decode_flops: int
    cache_bytes: int
    """Keys and values of prompt and one token."""
    peak_bytes: int | None
    """The most that torch had allocated, the model included. Only CUDA says so."""

    @property
    def prefill_ratio(self) -> float | None:
        """Of zero-shot's; ``None`` where a loaded machine has swallowed the difference that is a time."""
        return _ratio(self.prefill_ms, self.zero_prefill_ms)

    @property
    def decode_ratio(self) -> float | None:
        """Likewise."""
        return _ratio(self.decode_ms, self.zero_decode_ms)


def _ratio(own: float, zero: float) -> float | None:
    return own / zero if own > 0 and zero > 0 else None


@dataclass(frozen=True)
class Distances:
    """Between a student and its teacher at the tokens of query and answer, averaged over tokens and layers.

    ``geodesic`` and ``l2`` are roots of mean squares, of decoder-layer outputs at the scale "unit" of
    :class:`icl.losses.StateLoss`, ``attention`` the Kullback-Leibler divergence of the attention among these tokens.
    ``prompts`` is the digest of the prompts that were compared.
    """

    geodesic: float
    l2: float
    attention: float
    prompts: str


@dataclass(frozen=True)
class Measurement:
    """One way to answer one test set."""

    model: str
    """Name of the base."""
    base: str
    """Digest of its weights and configuration."""
    task: str
    method: str
    shots: int
    strategy: str | None
    """How demonstrations are chosen, if there are any."""
    seed: int
    test: str
    """Digest of the test set: ids, references and the queries' images."""
    choice: str
    """Digest of all that decides the answers: weights, every prompt, and how answers are generated."""
    settings: Mapping[str, str]
    """By name, what rows of a table must share to be compared, and seeds to be averaged."""
    ids: tuple[str, ...]
    answers: tuple[str, ...]
    scores: Mapping[str, MetricScore]
    parameters: int
    train_seconds: float | None
    note: str | None
    """What the reader of a table has to know, such as that no dev set chose the epoch."""
    cost: Cost
    distances: Distances | None

    def __post_init__(self) -> None:
        lengths = {len(self.ids), len(self.answers), *(len(s.rows) for s in self.scores.values() if s.rows is not None)}
        if len(lengths) > 1 or not self.ids:
            raise ValueError(
                f"Measurement: ids, answers and scores must have one entry an example, got {sorted(lengths)}"
            )

    @property
    def row(self) -> RowKey:
        return self.model, self.base, self.task, self.method, self.shots, self.strategy

    @property
    def key(self) -> MeasurementKey:
        return self.row, self.seed, self.test, self.choice


# More than any count or time that was measured; sums of these are finite.
_LARGEST = 1e15
_JSON: Mapping[Any, tuple[type, ...]] = {str: (str,), int: (int,), float: (float, int)}


def parsed(kind: Any, value: Any, where: str) -> Any:
    """The value, read from JSON, as this annotated type has it; ``ValueError`` names what is of another."""
    origin, arguments = get_origin(kind), get_args(kind)
    if origin in (Union, types.UnionType):
        return None if value is None else parsed(arguments[0], value, where)
    if origin is tuple and isinstance(value, list) and all(_is_scalar(arguments[0], each) for each in value):
        return tuple(value)
    if origin is Mapping and isinstance(value, dict):
        return {name: parsed(arguments[1], each, f"{where}.{name}") for name, each in value.items()}
    if is_dataclass(kind) and isinstance(value, dict):
        names = [field.name for field in fields(kind)]
        if set(value) != set(names):
            raise ValueError(f"{where} must have {', '.join(names)}, got {', '.join(value)}")
        hints, made = get_type_hints(kind), cast("Any", kind)
        return made(**{name: parsed(hints[name], value[name], f"{where}.{name}") for name in names})
    if _is_scalar(kind, value):
        return value
    raise ValueError(f"{where} is {value!r:.40}, and must be of another type")


def _is_scalar(kind: Any, value: Any) -> bool:
    # distances of an adapter that diverged are not finite
    return type(value) in _JSON.get(kind, ()) and (
        isinstance(value, str) or abs(value) < _LARGEST or (kind is float and not math.isfinite(value))
    )
