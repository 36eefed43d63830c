"""A training run as data: what is learned from what, by which method, and how. ``icl train`` reads it from YAML.

model: testbed                  # or a path, or a name on the hub
data:
  train: testbed:options        # or JSONL, Parquet, Arrow, CSV, a folder of these or of datasets
  dev: testbed:options
method: hyper_icl               # or {name: hyper_icl, rank: 2}, or a list of them, which act together
objective: {anchor: 1, ce: 0.5} # by default what the method's paper has
training: {epochs: 10, batch_size: 32}
"""

from __future__ import annotations

import dataclasses
import json
import types
from collections.abc import Mapping
from dataclasses import MISSING, dataclass, field, fields
from difflib import get_close_matches
from pathlib import Path
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

import yaml  # type: ignore[import-untyped]

from icl.adapters import AdapterConfig
from icl.adapters.base import METHODS
from icl.objective import TERMS, Objective
from icl.select import Strategy
from icl.splits import Show

T = TypeVar("T")


@dataclass(frozen=True)
class Data:
    """Rows to learn from, and what is shown before each.

    Args:
        train, dev: paths, or tasks of the testbed. Without ``dev`` the last epoch is taken.
        samples: how many rows of ``train`` are used, drawn by the seed; ``None`` for all.
        shots: demonstrations that the teacher sees; ``None`` is 8, or all that a task of the testbed brings.
        strategy: how they are chosen (:func:`icl.select.select`); "random" draws anew in every epoch.
        pool, bank, prompt, system: of :class:`icl.splits.Show`; the default pool is ``train``.
    """

    train: str
    dev: str | None = None
    samples: int | None = None
    shots: int | None = None
    strategy: Strategy = "random"
    pool: str | None = None
    bank: str | None = None
    prompt: str = "{question}"
    system: str | None = None

    @property
    def show(self) -> Show:
        return Show(self.pool or self.train, self.bank, self.prompt, self.system)


@dataclass(frozen=True)
class Training:
    """How it is learned, beyond the papers' defaults (:func:`icl.train.training_arguments`).

    Args:
        epochs: at the end of each, ``dev`` is looked at.
        steps: of the optimiser, instead of ``epochs``.
        batch_size: examples in memory at a time; a step takes ``accumulation`` times as many.
        choose_by: what of ``dev`` decides which epoch is kept: the least loss, or the most answers whose tokens are
            all right.
        seed: of the parameters' start, the order of examples and their demonstrations.
        cache: keep the teacher's states on disk, for demonstrations that are the same in each epoch.
    """

    epochs: float = 5.0
    steps: int | None = None
    learning_rate: float = 5e-3
    batch_size: int = 8
    accumulation: int = 1
    choose_by: Literal["loss", "accuracy"] = "loss"
    seed: int = 0
    bf16: bool = False
    checkpointing: bool = False
    cache: bool = False

    def __post_init__(self) -> None:
        for name in ("epochs", "steps", "learning_rate", "batch_size", "accumulation"):
            value = getattr(self, name)
            if value is not None and not value > 0:
                raise ValueError(f"training.{name} must be positive, got {value}")
        if self.seed < 0:
            raise ValueError(f"training.seed must not be negative, got {self.seed}")


@dataclass(frozen=True)
class Run:
    """All that is needed to do it again.

    >>> run = Run.from_dict({"model": "testbed", "data": {"train": "testbed:options"}, "method": "hyper_icl"})
    >>> run.label, run.aim.terms
    ('hyper_icl', {'ce': 0.5, 'anchor': 1.0})
    >>> Run.from_dict({"model": "testbed", "data": {"train": "rows.jsonl"}, "method": {"name": "hificl", "token": 4}})
    Traceback (most recent call last):
    ...
    ValueError: method: there is no 'token'; did you mean tokens?
    """

    model: str
    data: Data
    method: tuple[AdapterConfig, ...]
    objective: Objective | None = None
    training: Training = field(default_factory=Training)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Run:
        """``ValueError`` names what is not known, with the nearest name, what is missing, and what is of no use."""
        _check_names("run", cls, values)
        given = values["method"]
        objective = values.get("objective")
        return cls(
            _value("model", str, values["model"]),
            _made("data", Data, values["data"]),
            tuple(_method(each) for each in (given if isinstance(given, list) else [given])),
            None if objective is None else _made("objective", Objective, objective),
            _made("training", Training, values.get("training") or {}),
        )

    def to_dict(self) -> dict[str, Any]:
        values = dataclasses.asdict(self)
        methods = [config.to_dict() for config in self.method]
        values["method"] = [{"name": method.pop("method"), **method} for method in methods]
        found: dict[str, Any] = json.loads(json.dumps(values))
        return found

    @property
    def aim(self) -> Objective:
        """The objective, by default that of the methods, the first that looks at a teacher."""
        if self.objective is not None:
            return self.objective
        defaults = [config.objective for config in self.method]
        return next((objective for objective in defaults if objective.needs_teacher), defaults[0])

    @property
    def label(self) -> str:
        """What tells it from others in a table: methods, and what is not as they have it by default."""
        label = " + ".join(label_of(config) for config in self.method)
        if self.objective is None or self.objective == dataclasses.replace(self, objective=None).aim:
            return label
        usual = Objective()
        weights = [f"{name}={weight:g}" for name, weight in self.objective.terms.items()]
        others = [
            f"{f.name}={getattr(self.objective, f.name)}"
            for f in fields(Objective)
            if f.name not in TERMS and getattr(self.objective, f.name) != getattr(usual, f.name)
        ]
        return f"{label}, {' '.join(weights + others)}"


def label_of(config: AdapterConfig) -> str:
    """The method, and the fields that are not as it has them by default.

    >>> from icl.adapters import HyperICLConfig
    >>> label_of(HyperICLConfig(rank=2))
    'hyper_icl rank=2'
    """
    changed = [f for f in fields(config) if getattr(config, f.name) != f.default]
    return " ".join([config.method, *(f"{f.name}={getattr(config, f.name)}".replace(" ", "") for f in changed)])


def read_yaml(path: str | Path) -> dict[str, Any]:
    """What a run's file says, for :meth:`Run.from_dict`."""
    try:
        found = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ValueError(f"{path}: {error}") from error
    if not isinstance(found, dict):
        raise ValueError(f"{path}: a run must have {', '.join(f.name for f in fields(Run))}, got {found!r:.80}")
    return found


def _method(given: Any) -> AdapterConfig:
    values = {"name": given} if isinstance(given, str) else given
    if not isinstance(values, Mapping) or not isinstance(values.get("name"), str):
        raise ValueError(f"method must be a name, or a name and its fields ({{name: ..., rank: 4}}), got {given!r}")
    name = values["name"]
    if name not in METHODS:
        raise ValueError(f"method: there is no {name!r}{_nearest(name, METHODS)}")
    return _made("method", METHODS[name], {k: v for k, v in values.items() if k != "name"})


def _made(where: str, kind: type[T], values: Any) -> T:
    """A dataclass from what was read."""
    if not isinstance(values, Mapping):
        raise ValueError(f"{where} must have fields, got {values!r}")
    _check_names(where, kind, values)
    hints = get_type_hints(kind)
    return kind(**{name: _value(f"{where}.{name}", hints[name], value) for name, value in values.items()})


def _check_names(where: str, kind: Any, values: Mapping[str, Any]) -> None:
    known = {f.name: f for f in fields(kind)}
    for name in values:
        if name not in known:
            raise ValueError(f"{where}: there is no {name!r}{_nearest(str(name), known)}")
    for name, f in known.items():
        if name not in values and f.default is MISSING and f.default_factory is MISSING:
            raise ValueError(f"{where}: {name} is missing")


def _nearest(name: str, known: Any) -> str:
    near = get_close_matches(name.lower(), known, n=1)
    return f"; did you mean {near[0]}?" if near else f", only {', '.join(sorted(known))}"


def _value(name: str, kind: Any, value: Any) -> Any:
    """What was read, as a field of this type has it: a list as a tuple, 5e-3, which YAML takes for a text, as a number.

    ``ValueError`` if it is of another type.
    """
    origin, kinds = get_origin(kind), get_args(kind)
    if origin in (Union, types.UnionType):
        if value is None and type(None) in kinds:
            return None
        (rest,) = [k for k in kinds if k is not type(None)]
        return _value(name, rest, value)
    if origin is Literal:
        if value in kinds:
            return value
        raise ValueError(f"{name} must be one of {', '.join(map(str, kinds))}, got {value!r}")
    if origin is tuple:
        if isinstance(value, list | tuple):
            return tuple(_value(name, kinds[0], each) for each in value)
        raise ValueError(f"{name} must be a list, got {value!r}")
    if kind is float and isinstance(value, str | int) and not isinstance(value, bool):
        try:
            return float(value)
        except ValueError:
            pass
    elif isinstance(value, kind) and not (isinstance(value, bool) and kind is not bool):
        return value
    raise ValueError(f"{name} must be of type {kind.__name__}, got {value!r}")
