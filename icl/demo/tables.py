"""JobResults as rows: what each method reaches on each task, what it costs, and whether that is what was promised."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from statistics import fmean
from typing import Any

from icl.demo.demo_plan import DemoJob, DemoPlan, method_of
from icl.demo.selection import STRATEGIES
from icl.evaluation import mean_interval, wilson_interval
from icl.testbed import BASES, TRIALS, AccuracyBound, Trial

JobResults = Mapping[DemoJob, Mapping[str, Any]]
DIFFERENCE = "rank 4 less rank 1"
"""Not a method, but a row: what three more ranks add to the accuracy, and the mark of it."""
_RANKS = AccuracyBound(0.10)

_BESIDE = {
    "LIVE, logits and CE": "Beside: one direction a layer, the same for every token and every query.",
    "LoRA, CE": "Beside: the usual way, with several times the parameters.",
    "Task vector": "Beside, read off the base: one state is put in the place of what the model saw, whatever it saw.",
    "Function vector": "Beside, read off the base: one vector for all queries says that a word is wanted, not which.",
    "In-context vector": "Beside, read off the base: one direction a layer for all queries.",
}
NOTES = {
    ("Hyper-ICL, CE", "fixed_map"): "Negative control: it only redirects attention, and the word to say is not in the "
    "prompt. At best it says one or two of the ten words where they are right.",
    ("Hyper-ICL of rank 1, CE", "options"): "One direction a head does not tell ten digits apart.",
    ("HiFICL, CE", "unseen_classes"): "Asked for 7, 8 and 9, which had no label in training: answers alone cannot "
    "teach what they do not hold. The next row has a teacher.",
    ("HiFICL, anchor, no labels", "fixed_map"): "No label of a query is ever seen: all comes from the "
    "teacher's states.",
    **{(method, task): note for method, note in _BESIDE.items() for task in ("fixed_map", "options")},
}
"""Why a method does not reach more; for the table."""


@dataclass(frozen=True)
class MethodRow:
    """A method on a task. Accuracies are of the test split, over seeds; seconds and parameters their means."""

    task: str
    method: str
    accuracy: float
    low: float
    high: float
    seeds: int
    interval_of: str
    """"seeds" (Student's t) or "answers" (Wilson), where there is one seed alone."""
    mark: str | None = None
    holds: bool | None = None
    """``None`` where nothing was promised, or training was cut short."""
    parameters: int | None = None
    seconds: float | None = None
    latency: float | None = None
    """Of an answer, as a multiple of zero-shot's; ``latency_16`` of that with 16 demonstrations."""
    latency_16: float | None = None
    note: str = ""


def accuracy_of(correct: Sequence[Sequence[bool]]) -> dict[str, Any]:
    """The fields of a row that answers by seed decide."""
    values = [fmean(answers) for answers in correct]
    if len(values) > 1:
        low, high = (min(1.0, max(0.0, bound)) for bound in mean_interval(values))
    else:
        low, high = wilson_interval(sum(correct[0]), len(correct[0]))
    of = "seeds" if len(values) > 1 else "answers"
    return {"accuracy": fmean(values), "low": low, "high": high, "seeds": len(values), "interval_of": of}


def methods(plan: DemoPlan, results: JobResults) -> list[MethodRow]:
    """By task: without an adapter, with demonstrations, with each adapter."""
    found = {(job.kind, job.name, job.task, job.seed): result for job, result in results.items()}
    latency: Mapping[str, Any] = next(
        (result["methods"] for job, result in results.items() if job.kind == "latency"), {}
    )

    def over_seeds(kind: str, name: str, task: str) -> list[Mapping[str, Any]]:
        return [found[at] for seed in plan.seeds if (at := (kind, name, task, seed)) in found]

    rows = []
    for task in dict.fromkeys(trial.task for trial in plan.trials):
        bases = over_seeds("base", "answers", task)
        for name, prompt in (("zero-shot", "frozen"), ("16-shot", "teacher")):
            if bases:
                marks = [trial.frozen_bound for trial in TRIALS if trial.task == task and trial.frozen_bound]
                row = accuracy_of([base[prompt] for base in bases])
                mark = marks[0] if marks and prompt == "frozen" else None
                holds = mark.holds(row["accuracy"]) if mark and len(bases) == len(BASES) else None
                rows.append(
                    MethodRow(
                        task,
                        name,
                        **row,
                        mark=None if mark is None else str(mark),
                        holds=holds,
                        **_times(latency, name),
                    )
                )
        for trial in (trial for trial in plan.trials if trial.task == task):
            outcomes = over_seeds("trial", trial.name, task)
            if outcomes:
                rows.append(_trained(plan, trial, outcomes, latency))
                if trial.name == "Hyper-ICL of rank 1, CE" and (four := over_seeds("trial", "Hyper-ICL, CE", task)):
                    rows.append(_difference(plan, outcomes, four))
        for name in plan.vectors if task in plan.vector_tasks else ():
            if outcomes := over_seeds("vector", name, task):
                row = accuracy_of([outcome["correct"] for outcome in outcomes])
                row |= {"parameters": 0, "seconds": fmean(outcome["seconds"] for outcome in outcomes)}
                rows.append(MethodRow(task, name, **row, **_times(latency, name), note=NOTES.get((name, task), "")))
    return rows


def _trained(
    plan: DemoPlan, trial: Trial, outcomes: Sequence[Mapping[str, Any]], latency: Mapping[str, Any]
) -> MethodRow:
    row = accuracy_of([outcome["correct"] for outcome in outcomes])
    note = NOTES.get((trial.name, trial.task), "")
    cut = plan.cut(trial).steps
    if cut < trial.steps:
        note = f"{cut} of {trial.steps} steps. {note}"
    judged = cut == trial.steps and len(outcomes) == len(BASES)
    return MethodRow(
        trial.task,
        trial.name,
        **row,
        mark=None if trial.bound is None else str(trial.bound),
        holds=trial.bound.holds(row["accuracy"]) if judged and trial.bound else None,
        parameters=outcomes[0]["parameters"],
        seconds=fmean(outcome["seconds"] for outcome in outcomes),
        **_times(latency, method_of(trial)),
        note=note,
    )


def _difference(plan: DemoPlan, one: Sequence[Mapping[str, Any]], four: Sequence[Mapping[str, Any]]) -> MethodRow:
    """What rank 4 has over rank 1, base by base, or where there is one base answer by answer."""
    pairs = [list(zip(a["correct"], b["correct"])) for a, b in zip(one, four)]
    gains = [fmean(b - a for a, b in answers) for answers in pairs]
    low, high = mean_interval(gains if len(gains) > 1 else [float(b - a) for a, b in pairs[0]])
    judged = plan.steps is None and len(gains) == len(BASES)
    return MethodRow(
        "options",
        DIFFERENCE,
        fmean(gains),
        low,
        high,
        len(gains),
        "seeds" if len(gains) > 1 else "answers",
        str(_RANKS),
        _RANKS.holds(fmean(gains)) if judged else None,
    )


def _times(latency: Mapping[str, Any], method: str) -> dict[str, Any]:
    found = latency.get(method, {})
    return {"latency": found.get("of_zero-shot"), "latency_16": found.get("of_16-shot")}


@dataclass(frozen=True)
class AblationRow:
    """One row of the ablations."""

    method: str
    task: str
    group: str
    variant: str
    accuracy: float
    low: float
    high: float
    seeds: int
    interval_of: str
    parameters: int
    steps: int


def ablations(plan: DemoPlan, results: JobResults) -> list[AblationRow]:
    found = {(job.name, job.seed): result for job, result in results.items() if job.kind == "ablation"}
    rows = []
    for ablation in plan.ablations:
        trial = plan.ablated(ablation)
        outcomes = [found[at] for seed in plan.ablation_seeds if (at := (trial.name, seed)) in found]
        if outcomes:
            row = accuracy_of([outcome["correct"] for outcome in outcomes])
            size = {"parameters": outcomes[0]["parameters"], "steps": trial.steps}
            method = method_of(ablation.trial)
            rows.append(AblationRow(method, trial.task, ablation.group, ablation.variant, **row, **size))
    return rows


@dataclass(frozen=True)
class StrategyRow:
    """A strategy with a number of demonstrations."""

    strategy: str
    shots: int
    accuracy: float
    low: float
    high: float
    seeds: int
    interval_of: str


def choices(plan: DemoPlan, results: JobResults) -> list[StrategyRow]:
    found = [result for job, result in results.items() if job.kind == "selection"]
    rows = []
    for name in STRATEGIES:
        for k in plan.shots:
            right = [(result["right"][f"{name}/{k}"], result["queries"]) for result in found]
            correct = [[True] * hits + [False] * (total - hits) for hits, total in right]
            if correct:
                rows.append(StrategyRow(name, k, **accuracy_of(correct)))
    return rows


def as_csv(rows: Sequence[Any]) -> str:
    out = io.StringIO()
    if rows:
        writer = csv.writer(out, lineterminator="\n")
        names = [field.name for field in fields(rows[0])]
        writer.writerow(names)
        values = ([getattr(row, name) for name in names] for row in rows)
        writer.writerows([f"{v:.6g}" if isinstance(v, float) else v for v in row] for row in values)
    return out.getvalue()
