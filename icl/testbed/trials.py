"""Trials of each method on the testbed: a task, a budget, and a bound that its accuracy has to reach or must not."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from icl.adapters import AdapterConfig, HiFICLConfig, HyperICLConfig, LIVEConfig, LoRAConfig, MimICConfig
from icl.data import Example
from icl.losses import Objective
from icl.testbed.images import load_digits
from icl.testbed.prepared_task import PreparedTask, load_examples
from icl.testbed.tasks import SHOTS

CE = Objective()
ANCHOR_CE = Objective(anchor=1.0, ce=0.5)
ANCHOR = Objective(anchor=1.0, ce=0.0)
L2_CE = Objective(alignment=1.0, ce=0.5, feature_scale="unit")
LOGITS_CE = Objective(logits=1.0, ce=0.5)


@dataclass(frozen=True)
class AccuracyBound:
    """A bound that the mean accuracy over the seeds has to reach, or with ``upper`` must not pass."""

    value: float
    upper: bool = False

    def holds(self, accuracy: float) -> bool:
        """Return whether an accuracy keeps to the bound."""
        return accuracy <= self.value if self.upper else accuracy >= self.value

    def __str__(self) -> str:
        return f"{'≤' if self.upper else '≥'} {self.value:.2f}"


@dataclass(frozen=True)
class Trial:
    """One or more adapters, what they are trained on, and for how long.

    Args:
        name: of the methods and of what they are trained on.
        task: of the testbed (:data:`icl.testbed.TASKS`).
        configs: of the adapters, which act together.
        objective: that they are trained by.
        steps: of training, with 32 examples each.
        learning_rate: of AdamW.
        data: rows of the training split: their number, ``None`` for all, "one a class", or "unlabelled" for 300
            queries without an answer, whose teacher sees one and the same demonstration of each class.
        bound: of the accuracy on the test split; ``None`` for what is measured beside.
        frozen_bound: the same of the base without an adapter.
        shots: how many of its 16 demonstrations the teacher sees, one with the answer among them.
    """

    name: str
    task: str
    configs: tuple[AdapterConfig, ...]
    objective: Objective = CE
    steps: int = 200
    learning_rate: float = 5e-3
    data: int | str | None = None
    bound: AccuracyBound | None = None
    frozen_bound: AccuracyBound | None = None
    shots: int = SHOTS

    @property
    def key(self) -> str:
        """The name and the task, for a file."""
        return f"{self.name} on {self.task}".lower().replace(" ", "-").replace(",", "").replace("+", "and")


_at_least, _at_most = AccuracyBound, partial(AccuracyBound, upper=True)
HYPER, HIFI, MIMIC = HyperICLConfig(), HiFICLConfig(), MimICConfig()
_FAST = 2e-2

TRIALS = (
    Trial("Hyper-ICL, CE", "options", (HYPER,), CE, 400, bound=_at_least(0.95), frozen_bound=_at_most(0.40)),
    Trial("Hyper-ICL, anchor and CE", "options", (HYPER,), ANCHOR_CE, 300, data=500, bound=_at_least(0.92)),
    Trial("Hyper-ICL of rank 1, CE", "options", (HyperICLConfig(rank=1),), CE, 400),
    Trial("Hyper-ICL, CE", "last_block", (HYPER,), CE, 100, bound=_at_least(0.93), frozen_bound=_at_most(0.55)),
    Trial("Hyper-ICL, CE", "set_conflict", (HYPER,), CE, 300, bound=_at_least(0.82)),
    Trial("Hyper-ICL, CE", "fixed_map", (HYPER,), CE, 400, bound=_at_most(0.15)),
    Trial("HiFICL, CE", "fixed_map", (HIFI,), CE, 200, _FAST, 500, _at_least(0.97), _at_most(0.02)),
    Trial("HiFICL, CE, one a class", "fixed_map", (HIFI,), CE, 200, _FAST, "one a class", _at_least(0.95)),
    Trial("HiFICL, CE", "last_block", (HIFI,), CE, 100, _FAST, bound=_at_least(0.95)),
    Trial("HiFICL, anchor, no labels", "fixed_map", (HIFI,), ANCHOR, 300, _FAST, "unlabelled", _at_least(0.95)),
    Trial("HiFICL, CE", "unseen_classes", (HIFI,), CE, 200, _FAST, 500, _at_most(0.05)),
    Trial("HiFICL, L2 and CE", "unseen_classes", (HIFI,), L2_CE, 300, _FAST, 500, _at_least(0.80)),
    Trial("MimIC, CE", "fixed_map", (MIMIC,), CE, 800, _FAST, 500, _at_least(0.95)),
    Trial("MimIC, L2 and CE", "fixed_map", (MIMIC,), L2_CE, 800, _FAST, 500, _at_least(0.75)),
    Trial("Hyper-ICL and HiFICL, CE", "set_conflict", (HYPER, HIFI), CE, 300, 1e-2, bound=_at_least(0.95)),
    Trial("LIVE, logits and CE", "fixed_map", (LIVEConfig(),), LOGITS_CE, 300, _FAST, 500),
    Trial("LIVE, logits and CE", "options", (LIVEConfig(),), LOGITS_CE, 300, _FAST, 500),
    Trial("LoRA, CE", "fixed_map", (LoRAConfig(),), CE, 200, 5e-3, 500),
    Trial("LoRA, CE", "options", (LoRAConfig(),), CE, 200, 5e-3, 500),
)

_ALIGNMENTS = {
    "no teacher": Objective(),
    "L2": Objective(alignment=1.0, ce=0.5, feature_scale="unit"),
    "geodesic": Objective(anchor=1.0, ce=0.5),
    "geodesic, paper scale, c = 1": Objective(anchor=1e-2, ce=0.5, feature_scale="paper", c=1.0),
    "L2, radius by layer": Objective(alignment=1.0, ce=0.5, feature_scale="layer"),
    "geodesic, radius by layer, c = 1": Objective(anchor=1.0, ce=0.5, feature_scale="layer", c=1.0),
    "L2, learned lift": Objective(alignment=1.0, ce=0.5, feature_scale="lift", dim=32),
    "geodesic, learned lift, c = 1": Objective(anchor=1.0, ce=0.5, feature_scale="lift", c=1.0, dim=32),
    "L2, relations": Objective(relational=1.0, ce=0.5, metric="l2"),
    "geodesic, relations, c = 1": Objective(relational=1.0, ce=0.5, c=1.0),
}
# Budgets at which neither is at its ceiling: what a loss is worth shows where there is something left to win.
COMPARISONS = tuple(
    trial
    for name, objective in _ALIGNMENTS.items()
    for trial in (
        Trial(name, "unseen_classes", (HIFI,), objective, 150, _FAST, 200),
        Trial(name, "options", (HYPER,), objective, 150, 5e-3, 200),
    )
)
"""The same two adapters with one loss after the other: does geometry matter?"""


def training_examples(trial: Trial, seed: int) -> list[Example]:
    """Return the examples that the trial is trained on."""
    examples = load_examples(trial.task, "train", seed)
    random = np.random.RandomState(seed)
    digits = load_digits("train").labels.numpy()
    if trial.data == "one a class":
        selected = [examples[int(random.choice(np.flatnonzero(digits == digit)))] for digit in range(10)]
    elif trial.data == "unlabelled":
        selected = _hide_answers(examples, digits, random)
    else:
        count = len(examples) if trial.data is None else int(trial.data)
        selected = [examples[i] for i in random.permutation(len(examples))[:count].tolist()]
    return [_keep_shots(example, trial.shots) for example in selected] if trial.shots < SHOTS else selected


def _hide_answers(examples: list[Example], digits: Any, random: np.random.RandomState) -> list[Example]:
    """Return queries whose answers only a teacher with one demonstration of each class knows."""
    order = random.permutation(len(examples)).tolist()
    first = [next(i for i in order if digits[i] == digit) for digit in random.permutation(10)]
    demonstrations: list[Any] = []
    for i in first:
        answer = {"role": "assistant", "content": [{"type": "text", "text": examples[i].answer}]}
        demonstrations += [examples[i].student[-1], answer]
    queries = [examples[i] for i in order if i not in first][:300]
    return [dataclasses.replace(q, teacher=[*demonstrations, q.student[-1]], answer=None) for q in queries]


def _keep_shots(example: Example, shots: int) -> Example:
    """Return the example with so many of its teacher's demonstrations, the last of them one that has the answer."""
    *demonstrations, query = example.teacher
    pairs = list(zip(demonstrations[::2], demonstrations[1::2]))
    right = [pair for pair in pairs if pair[1]["content"][0]["text"] == example.answer][-1:]
    others = [pair for pair in pairs if pair not in right]
    messages = [message for pair in [*others[len(others) - shots + len(right) :], *right] for message in pair]
    return dataclasses.replace(example, teacher=[*messages, query])


@dataclass(frozen=True)
class TrialOutcome:
    """The outcome of a trial on one base.

    Args:
        correct: whether each answer to the test split is right.
        parameters: that were trained.
        seconds: of training.
        curve: the loss at some steps.
    """

    correct: tuple[bool, ...]
    parameters: int
    seconds: float
    curve: tuple[tuple[int, float], ...]

    @property
    def accuracy(self) -> float:
        """The share of right answers."""
        return float(np.mean(self.correct))


def run_trial(
    trial: Trial, prepared: PreparedTask, folder: Path, advance: Callable[[int], None] | None = None
) -> TrialOutcome:
    """Train on the base of ``prepared`` and test, once, after the last step. The adapter stays in ``folder``.

    ``advance`` is called with 1 after every step.
    """
    import torch
    from transformers import PrinterCallback, TrainerCallback

    from icl.adapters import attach
    from icl.training import DistillTrainer, training_arguments

    class StepCallback(TrainerCallback):
        def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            if advance is not None:
                advance(1)

    seed, model = prepared.seed, prepared.model
    torch.manual_seed(seed)
    adapters = attach(model, trial.configs)
    arguments = training_arguments(
        folder,
        max_steps=trial.steps,
        per_device_train_batch_size=32,
        learning_rate=trial.learning_rate,
        logging_steps=10,
        save_strategy="no",
        disable_tqdm=True,
        seed=seed,
    )
    examples = prepared.collate(
        (trial.data, trial.shots), lambda: training_examples(trial, seed), trial.objective.needs_teacher
    )
    trainer = DistillTrainer(
        model,
        arguments,
        objective=trial.objective,
        train_dataset=examples,
        data_collator=prepared.collator,
        teacher_cache=prepared.teachers,
        keep_in_memory=True,
        callbacks=[StepCallback()],
    )
    trainer.remove_callback(PrinterCallback)
    seconds = trainer.train().metrics["train_runtime"]
    adapters.save_pretrained(folder)
    curve = tuple((int(entry["step"]), float(entry["loss"])) for entry in trainer.state.log_history if "loss" in entry)
    parameters = sum(p.numel() for p in adapters.parameters())
    model.eval()
    correct = prepared.answers()
    adapters.detach()
    return TrialOutcome(correct, parameters, seconds, curve)
