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
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, Literal

import yaml  # type: ignore[import-untyped]

from icl.adapters import METHODS, AdapterConfig
from icl.common.choices import Strategy
from icl.common.configuration import brief, build, check_names, convert, nearest
from icl.losses import TERMS, Objective
from icl.training.splits import DemonstrationSettings


@dataclass(frozen=True)
class DataSettings:
    """Rows to learn from, and what is shown before each.

    Args:
        train, dev: paths, or tasks of the testbed. Without ``dev`` the last epoch is taken.
        samples: how many rows of ``train`` are used, drawn by the seed; ``None`` for all.
        shots: demonstrations that the teacher sees; ``None`` is 8, or all that a task of the testbed brings.
        strategy: how they are chosen (:func:`icl.bank.select`); "random" draws anew in every epoch.
        pool, bank, prompt, system: of :class:`icl.training.DemonstrationSettings`; the default pool is ``train``.
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
    def demonstrations(self) -> DemonstrationSettings:
        return DemonstrationSettings(self.pool or self.train, self.bank, self.prompt, self.system)


@dataclass(frozen=True)
class TrainingSettings:
    """How it is learned, beyond the papers' defaults (:func:`icl.training.training_arguments`).

    Args:
        epochs: at the end of each, ``dev`` is looked at.
        steps: of the optimiser, instead of ``epochs``.
        batch_size: examples in memory at a time; a step takes ``accumulation`` times as many.
        learning_rate: of AdamW, at the height of a cosine. ``None`` looks for one by short trainings
            (:mod:`icl.training.learning_rate`): what is right for one base and method is not for others.
        choose_by: what of ``dev`` decides which epoch is kept: the least loss, or the most answers whose tokens are
            all right.
        seed: of the parameters' start, the order of examples and their demonstrations.
        cache: keep the teacher's states on disk, for demonstrations that are the same in each epoch.
    """

    epochs: float = 5.0
    steps: int | None = None
    learning_rate: float | None = None
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
        if self.learning_rate is not None and self.learning_rate > 1:
            raise ValueError(f"training.learning_rate must be at most 1, got {self.learning_rate}")
        if not 0 <= self.seed < 2**32:
            raise ValueError(f"training.seed must be from 0 to 2**32 - 1, got {self.seed}")


@dataclass(frozen=True)
class TrainingRun:
    """All that is needed to do it again.

    >>> run = TrainingRun.from_dict({"model": "testbed", "data": {"train": "testbed:options"}, "method": "hyper_icl"})
    >>> run.label, run.aim.terms
    ('hyper_icl', {'ce': 0.5, 'anchor': 1.0})
    >>> method = {"name": "hificl", "token": 4}
    >>> TrainingRun.from_dict({"model": "testbed", "data": {"train": "rows.jsonl"}, "method": method})
    Traceback (most recent call last):
    ...
    ValueError: method: there is no 'token'; did you mean tokens?
    """

    model: str
    data: DataSettings
    method: tuple[AdapterConfig, ...]
    objective: Objective | None = None
    training: TrainingSettings = field(default_factory=TrainingSettings)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> TrainingRun:
        """``ValueError`` names what is not known, with the nearest name, what is missing, and what is of no use."""
        check_names("run", cls, values)
        given = values["method"]
        objective = values.get("objective")
        return cls(
            convert("model", str, values["model"]),
            build("data", DataSettings, values["data"]),
            tuple(_method(each) for each in (given if isinstance(given, list) and given else [given])),
            None if objective is None else build("objective", Objective, objective),
            build("training", TrainingSettings, {} if values.get("training") is None else values["training"]),
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
        label = " + ".join(describe_method(config) for config in self.method)
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


def describe_method(config: AdapterConfig) -> str:
    """The method, and the fields that are not as it has them by default.

    >>> from icl.adapters import HyperICLConfig
    >>> describe_method(HyperICLConfig(rank=2))
    'hyper_icl rank=2'
    """
    changed = [f for f in fields(config) if getattr(config, f.name) != f.default]
    return " ".join([config.method, *(f"{f.name}={getattr(config, f.name)}".replace(" ", "") for f in changed)])


def read_yaml(path: str | Path) -> dict[str, Any]:
    """What a run's file says, for :meth:`TrainingRun.from_dict`."""
    try:
        values = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
    except (yaml.YAMLError, ValueError, OverflowError, RecursionError) as error:
        raise ValueError(f"{path} is not YAML: {error}") from error
    if not isinstance(values, dict):
        raise ValueError(
            f"{path}: a run must have {', '.join(f.name for f in fields(TrainingRun))}, got {brief(values)}"
        )
    return values


def override_settings(values: dict[str, Any], options: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """The values of a run's file, and in their place those of options, by section, that are not ``None``.

    ``ValueError`` for a section of the file that has no fields.
    """
    values = dict(values)
    for section, given in options.items():
        given = {name: value for name, value in given.items() if value is not None}
        if not section:
            values |= given
        elif given:
            fields_of_file = {} if values.get(section) is None else values[section]
            if not isinstance(fields_of_file, Mapping):
                raise ValueError(f"{section} must have fields, got {brief(fields_of_file)}")
            values[section] = {**fields_of_file, **given}
    return values


def _method(given: Any) -> AdapterConfig:
    values = {"name": given} if isinstance(given, str) else given
    if not isinstance(values, Mapping) or not isinstance(values.get("name"), str):
        raise ValueError(
            f"method must be a name, or a name and its fields ({{name: ..., rank: 4}}), got {brief(given)}"
        )
    name = values["name"]
    if name not in METHODS:
        raise ValueError(f"method: there is no {brief(name)}{nearest(name, METHODS)}")
    return build("method", METHODS[name], {k: v for k, v in values.items() if k != "name"})
