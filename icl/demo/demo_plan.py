"""The plan of the demo: jobs, each of which leaves one file of results."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from dataclasses import dataclass, field
from importlib import metadata
from typing import Any, Literal

from icl.adapters import (
    AdapterConfig,
    FunctionVectorConfig,
    HiFICLConfig,
    HyperICLConfig,
    InContextVectorConfig,
    MimICConfig,
    TaskVectorConfig,
)
from icl.common.files import digest
from icl.testbed import ANCHOR, ANCHOR_CE, BASES, CE, L2_CE, LOGITS_CE, TRIALS, Trial, weights_folder

JobKind = Literal["selection", "base", "trial", "vector", "ablation", "attention", "latency"]

_HYPER = Trial("Hyper-ICL", "options", (HyperICLConfig(),), ANCHOR_CE, 150, data=500)
_HIFI = Trial("HiFICL", "fixed_map", (HiFICLConfig(),), CE, 100, 2e-2, 500)
_MIMIC = Trial("MimIC", "fixed_map", (MimICConfig(),), L2_CE, 250, 2e-2, 500)


@dataclass(frozen=True)
class Ablation:
    """A trial with one thing changed, as the variant of a group."""

    group: str
    variant: str
    trial: Trial


def _ablate(group: str, variant: str, trial: Trial, config: AdapterConfig | None = None, **changes: Any) -> Ablation:
    configs = trial.configs if config is None else (config,)
    name = f"{trial.name}, {group} {variant}"
    return Ablation(group, variant, dataclasses.replace(trial, name=name, configs=configs, **changes))


ABLATIONS = (
    _ablate("loss", "CE alone", _HYPER, objective=CE),
    _ablate("loss", "L2 and CE", _HYPER, objective=L2_CE),
    _ablate("loss", "anchor alone", _HYPER, objective=ANCHOR),
    _ablate("loss", "anchor and CE", _HYPER),
    *(_ablate("rank", str(r), _HYPER, HyperICLConfig(rank=r)) for r in (1, 2, 4, 8)),
    _ablate("gate", "layer", _HYPER, HyperICLConfig(gate="layer")),
    _ablate("gate", "head", _HYPER, HyperICLConfig(gate="head")),
    _ablate("gate", "token", _HYPER),
    *(_ablate("curvature", f"{c:g}", _HYPER, objective=dataclasses.replace(ANCHOR_CE, c=c)) for c in (0.01, 0.1, 1.0)),
    *(_ablate("teacher's shots", str(k), _HYPER, shots=k) for k in (4, 8, 16)),
    _ablate("corrects", "scores", _HYPER),
    _ablate("corrects", "output", _HYPER, HyperICLConfig(correct="output")),
    _ablate("start", "paper", _HIFI),
    _ablate("start", "identity", _HIFI, HiFICLConfig(start="identity")),
    _ablate("factors of", "both", _HIFI),
    _ablate("factors of", "keys", _HIFI, HiFICLConfig(factorise="keys")),
    _ablate("factors of", "values", _HIFI, HiFICLConfig(factorise="values")),
    _ablate("factors of", "none", _HIFI, HiFICLConfig(factorise="none")),
    _ablate("mass", "shared", _HIFI),
    _ablate("mass", "added", _HIFI, HiFICLConfig(mass="added")),
    _ablate("direction for each", "head", _MIMIC),
    _ablate("direction for each", "layer", _MIMIC, MimICConfig(direction="layer")),
    _ablate("mass by", "query", _MIMIC),
    _ablate("mass by", "constant", _MIMIC, MimICConfig(mass="constant")),
    _ablate("teaches", "states", _MIMIC),
    _ablate("teaches", "logits", _MIMIC, objective=LOGITS_CE),
)
"""The ablations. A variant that is the method's default stands in several groups, and is trained once."""

VECTORS = {
    "Task vector": TaskVectorConfig(),
    "Function vector": FunctionVectorConfig(heads=4),
    "In-context vector": InContextVectorConfig(),
}
"""Methods that are read off the base, without training."""


@dataclass(frozen=True)
class DemoJob:
    """A piece of work that leaves a file of results.

    ``cost`` is about how many steps of training take as long; ``subject`` is what the job's kind takes: a trial, a
    configuration, or numbers.
    """

    kind: JobKind
    name: str
    task: str
    seed: int
    cost: float = field(repr=False)
    subject: Any = None

    @property
    def key(self) -> str:
        """The name of its file."""
        name = f"{self.kind} {self.name} {self.task} {self.seed}".lower()
        return "-".join("".join(c if c.isalnum() or c == "_" else " " for c in name.replace("+", " and ")).split())

    @property
    def fingerprint(self) -> str:
        """The digest of all that decides its results."""
        versions = [metadata.version(name) for name in ("hyperbolic-icl", "torch", "transformers")]
        weights = (weights_folder(BASES[self.seed]) / "model.safetensors").read_bytes()
        return digest(repr((self, versions, digest(weights))))


@dataclass(frozen=True)
class DemoPlan:
    """How much of the demo is done.

    Args:
        name: of the plan, for the page.
        seeds: of trials, by the place in ``BASES``; ``ablation_seeds`` of ablations.
        steps: the most of any trial; ``None`` for all, which marks are of.
        queries: held-out images that are asked for with demonstrations of each strategy.
        rounds: in which latencies are measured in turns.
    """

    name: str = "full"
    seeds: tuple[int, ...] = (0, 1, 2)
    trials: tuple[Trial, ...] = TRIALS
    vectors: tuple[str, ...] = tuple(VECTORS)
    vector_tasks: tuple[str, ...] = ("fixed_map", "options")
    ablations: tuple[Ablation, ...] = ABLATIONS
    ablation_seeds: tuple[int, ...] = (1,)
    steps: int | None = None
    shots: tuple[int, ...] = (1, 4, 8, 16)
    queries: int = 360
    rounds: int = 21

    def cut(self, trial: Trial) -> Trial:
        """Return the trial with no more steps than this plan takes."""
        return trial if self.steps is None else dataclasses.replace(trial, steps=min(trial.steps, self.steps))

    def jobs(self) -> list[DemoJob]:
        """Return all jobs in the order of the page; those that need what others leave come last."""
        return list(self._list_jobs())

    def _list_jobs(self) -> Iterator[DemoJob]:
        trials = [self.cut(trial) for trial in self.trials]
        for seed in self.seeds:
            yield DemoJob("selection", "strategies", "", seed, 400, (self.shots, self.queries))
        for task in dict.fromkeys(trial.task for trial in trials):
            for seed in self.seeds:
                yield DemoJob("base", "answers", task, seed, 100)
        for trial in trials:
            for seed in self.seeds:
                yield _training_job("trial", trial, seed)
        for task in self.vector_tasks:
            for name in self.vectors:
                for seed in self.seeds:
                    yield DemoJob("vector", name, task, seed, 60, VECTORS[name])
        for trial in dict.fromkeys(self.ablated(ablation) for ablation in self.ablations):
            for seed in self.ablation_seeds:
                yield _training_job("ablation", trial, seed)
        seed = self.seeds[0]
        for trial in trials:
            if trial.name == "Hyper-ICL, CE" and trial.task in ("options", "last_block"):
                yield DemoJob("attention", trial.name, trial.task, seed, 30, trial)
        yield DemoJob("latency", "methods", "fixed_map", seed, 200, (self.rounds, tuple(self.methods().items())))

    def ablated(self, ablation: Ablation) -> Trial:
        """Return the trial of an ablation, the same for two that do not differ in more than their names."""
        trial, config = ablation.trial, ablation.trial.configs[0]
        name = digest(f"{type(config).__name__} {config} {trial.objective} {trial.shots}")[:8]
        return dataclasses.replace(self.cut(trial), name=name)

    def methods(self) -> dict[str, tuple[AdapterConfig, ...]]:
        """Return those that differ in what they do to the model, by the names of their configurations."""
        configs = {method_of(trial): trial.configs for trial in self.trials}
        vectors = {name: (VECTORS[name],) for name in self.vectors}
        if "Task vector" in vectors:  # fitted, it stands at one layer
            vectors["Task vector"] = (TaskVectorConfig(layers=(2,)),)
        return {**configs, **vectors}


def method_of(trial: Trial) -> str:
    """Return a trial's name without what it is trained on."""
    return trial.name.partition(",")[0]


def _training_job(kind: JobKind, trial: Trial, seed: int) -> DemoJob:
    # prompts of these are the longest, with images among their words
    cost = (20 + trial.steps) * (2.0 if trial.task in ("last_block", "set_conflict") else 1.0)
    return DemoJob(kind, trial.name, trial.task, seed, cost, trial)


FULL = DemoPlan()
STANDARD = DemoPlan("standard", seeds=(1,))
"""One training of the base, and every trial as long as it takes. Marks are of three, which is for ``FULL`` to judge."""
QUICK = DemoPlan("quick", seeds=(1,), ablations=ABLATIONS[:4], steps=60, shots=(1, 4, 16), rounds=9)
