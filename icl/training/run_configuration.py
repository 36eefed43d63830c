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
from dataclasses import field, fields
from pathlib import Path
from typing import Any

import yaml  # type: ignore[import-untyped]

from icl.adapters import METHODS, AdapterConfig
from icl.common.configuration import brief, check_names, configuration, nearest, parse
from icl.losses import TERMS, Objective
from icl.training.settings import DataSettings, TrainingSettings


@configuration
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
        """Return the run that a file describes.

        Raises:
            ValueError: a field is not one, is missing, or is of no use. It names the field and the nearest one.
        """
        check_names("run", cls, values)
        methods, objective = values["method"], values.get("objective")
        return cls(
            values["model"],
            parse("data", DataSettings, values["data"]),
            tuple(_parse_method(each) for each in (methods if isinstance(methods, list) and methods else [methods])),
            None if objective is None else parse("objective", Objective, objective),
            parse("training", TrainingSettings, {} if values.get("training") is None else values["training"]),
        )

    def to_dict(self) -> dict[str, Any]:
        """Return what a file says of the run, in values of JSON."""
        values = dataclasses.asdict(self)
        methods = [config.to_dict() for config in self.method]
        values["method"] = [{"name": method.pop("method"), **method} for method in methods]
        plain: dict[str, Any] = json.loads(json.dumps(values))
        return plain

    @property
    def aim(self) -> Objective:
        """The objective, by default that of the methods, the first that looks at a teacher."""
        if self.objective is not None:
            return self.objective
        defaults = [config.objective for config in self.method]
        return next((objective for objective in defaults if objective.needs_teacher), defaults[0])

    @property
    def label(self) -> str:
        """The name of the run in a table: its methods, and what is not as they have it by default."""
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
    """Return the name of a method, and the fields that are not as it has them by default.

    >>> from icl.adapters import HyperICLConfig
    >>> describe_method(HyperICLConfig(rank=2))
    'hyper_icl rank=2'
    """
    changed = [f for f in fields(config) if getattr(config, f.name) != f.default]
    return " ".join([config.method, *(f"{f.name}={getattr(config, f.name)}".replace(" ", "") for f in changed)])


def read_yaml(path: str | Path) -> dict[str, Any]:
    """Return what a run's file says, for :meth:`TrainingRun.from_dict`. ``ValueError`` if it is no YAML of fields."""
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
    """Return the values of a run's file, with those options by section in their place that are not ``None``.

    ``ValueError`` for a section of the file that has no fields.
    """
    values = dict(values)
    for section, overrides in options.items():
        changes = {name: value for name, value in overrides.items() if value is not None}
        if not section:
            values |= changes
        elif changes:
            settings = {} if values.get(section) is None else values[section]
            if not isinstance(settings, Mapping):
                raise ValueError(f"{section} must have fields, got {brief(settings)}")
            values[section] = {**settings, **changes}
    return values


def _parse_method(method: Any) -> AdapterConfig:
    """Return the configuration of a method, given by its name or by its name and fields."""
    values = {"name": method} if isinstance(method, str) else method
    if not isinstance(values, Mapping) or not isinstance(values.get("name"), str):
        raise ValueError(
            f"method must be a name, or a name and its fields ({{name: ..., rank: 4}}), got {brief(method)}"
        )
    name = values["name"]
    if name not in METHODS:
        raise ValueError(f"method: there is no {brief(name)}{nearest(name, METHODS)}")
    return parse("method", METHODS[name], {k: v for k, v in values.items() if k != "name"})
