"""Trainers of the testbed's model, and examples for them."""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from icl import testbed
from icl.adapters import HyperICLConfig, attach
from icl.data.examples import Example
from icl.losses.objective import Objective
from icl.prompts.batches import CollatedExamples
from icl.prompts.collator import Collator
from icl.testbed.tasks import load_split
from icl.training.arguments import training_arguments
from icl.training.trainer import DistillTrainer

ALL = Objective(ce=0.5, anchor=1.0, alignment=0.5, relational=0.25, contrastive=0.1, logits=0.3, attention=0.2)
PER_TOKEN = replace(ALL, relational=0.0, contrastive=0.0)
LEARNED = Objective(ce=0.5, anchor=1.0, feature_scale="lift", dim=8, learn_curvature=True)


@cache
def examples(task: str = "options", n: int = 16, split: str = "dev") -> list[Example]:
    rows = load_split(task, split)
    return [Example.from_task(rows[i]) for i in range(0, len(rows), len(rows) // n)][:n]


@cache
def mixed(n: int = 16) -> list[Example]:
    """Prompts of different lengths, some of them without an answer."""
    made = [e for pair in zip(examples("options", n), examples("last_block", n)) for e in pair][:n]
    return [replace(e, answer=None, references=()) if i % 3 == 0 else e for i, e in enumerate(made)]


@cache
def collated(mixture: bool = True) -> CollatedExamples:
    """Those of :func:`mixed` or :func:`examples`, collated once for all trainers that keep examples in memory."""
    return CollatedExamples(mixed() if mixture else examples(), collator())


def collator() -> Collator:
    return Collator(testbed.load()[1])


def start(config: Any = None, seed: int = 0, noise: float = 0.0, dtype: torch.dtype = torch.float32) -> Any:
    """The testbed's model with an adapter; ``noise`` takes it away from its start, where most are the identity."""
    base: Any = testbed.load()[0]
    model = base.to(dtype)
    torch.manual_seed(seed)
    adapters = attach(model, HyperICLConfig() if config is None else config)
    with torch.no_grad():
        for p in adapters.parameters():
            p.add_(noise * torch.randn_like(p))
    return model


def trainer(model: Any, folder: Path, data: Any, objective: Objective | None = None, **settings: Any) -> Any:
    own = ("eval_dataset", "teacher_cache", "keep_in_memory", "compute_metrics", "adapter", "callbacks")
    settings.setdefault("keep_in_memory", isinstance(data, CollatedExamples))
    options = {name: settings.pop(name) for name in own if name in settings}
    defaults = {"per_device_train_batch_size": 4, "max_steps": 4, "save_strategy": "no", "logging_steps": 1}
    args = training_arguments(folder, **{**defaults, "disable_tqdm": True, "use_cpu": True, **settings})
    return DistillTrainer(
        model, args, train_dataset=data, data_collator=collator(), objective=objective, **options
    )  # fmt: skip


def weights(model: Any) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in model.state_dict().items()}


def logged(trained: Any, key: str = "loss") -> list[float]:
    return [entry[key] for entry in trained.state.log_history if key in entry]


def assert_equal(a: dict[str, Tensor], b: dict[str, Tensor]) -> None:
    assert a.keys() == b.keys()
    for name, value in a.items():
        assert torch.equal(value, b[name]), name
