"""Results as tables: what each method reaches on each task, what it costs, and whether that is what was promised."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any

from icl.demo.demo_plan import DemoJob, DemoPlan, method_of
from icl.demo.selection import STRATEGIES
from icl.evaluation import mean_interval, wilson_interval
from icl.testbed import BASES, TRIALS, AccuracyBound

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
    """A method on a task. Accuracies are of the test split, over seeds; seconds and parameters are means.

    Args:
        interval_of: "seeds" (Student's t), or "answers" (Wilson) where there is one seed alone.
        mark: what was promised of the accuracy.
        holds: whether it is; ``None`` where nothing was promised, or training was cut short.
        latency: of an answer, as a multiple of zero-shot's; ``latency_16`` of that with 16 demonstrations.
    """

    task: str
    method: str
    accuracy: float
    low: float
    high: float
    seeds: int
    interval_of: str
    mark: str | None = None
    holds: bool | None = None
    parameters: int | None = None
    seconds: float | None = None
    latency: float | None = None
    latency_16: float | None = None
    note: str = ""


@dataclass(frozen=True)
class AblationRow:
    """A variant of a method, trained for a few steps."""

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


def accuracy_of(correct: Sequence[Sequence[bool]]) -> dict[str, Any]:
    """Return the fields of a row that its answers, by seed, decide."""
    values = [fmean(answers) for answers in correct]
    if len(values) > 1:
        low, high = (min(1.0, max(0.0, bound)) for bound in mean_interval(values))
    else:
        low, high = wilson_interval(sum(correct[0]), len(correct[0]))
    of = "seeds" if len(values) > 1 else "answers"
    return {"accuracy": fmean(values), "low": low, "high": high, "seeds": len(values), "interval_of": of}


def method_rows(plan: DemoPlan, results: JobResults) -> list[MethodRow]:
    """Return a row for each task without an adapter, with demonstrations, and with each adapter."""
    rows = []
    by_job = {(job.kind, job.name, job.task, job.seed): result for job, result in results.items()}
    latencies: Mapping[str, Any] = next(
        (result["methods"] for job, result in results.items() if job.kind == "latency"), {}
    )

    def over_seeds(kind: str, name: str, task: str, field: str = "correct") -> list[Any]:
        return [by_job[key][field] for seed in plan.seeds if (key := (kind, name, task, seed)) in by_job]

    def make_row(method: str, task: str, correct: Any, bound: AccuracyBound | None, whole: bool, **fields: Any) -> Any:
        accuracy = accuracy_of(correct)
        judged = bound is not None and whole and len(correct) == len(BASES)
        latency = latencies.get(method.partition(",")[0], {})
        return MethodRow(
            task,
            method,
            **accuracy,
            mark=None if bound is None else str(bound),
            holds=bound.holds(accuracy["accuracy"]) if bound is not None and judged else None,
            latency=latency.get("of_zero-shot"),
            latency_16=latency.get("of_16-shot"),
            **fields,
        )

    for task in dict.fromkeys(trial.task for trial in plan.trials):
        bounds = [trial.frozen_bound for trial in TRIALS if trial.task == task and trial.frozen_bound]
        if frozen := over_seeds("base", "answers", task, "frozen"):
            rows.append(make_row("zero-shot", task, frozen, bounds[0] if bounds else None, True))
            rows.append(make_row("16-shot", task, over_seeds("base", "answers", task, "teacher"), None, True))
        for trial in (trial for trial in plan.trials if trial.task == task):
            if not (correct := over_seeds("trial", trial.name, task)):
                continue
            note, steps = NOTES.get((trial.name, task), ""), plan.cut(trial).steps
            note = note if steps == trial.steps else f"{steps} of {trial.steps} steps. {note}"
            size = over_seeds("trial", trial.name, task, "parameters")[0]
            cost = {"parameters": size, "seconds": fmean(over_seeds("trial", trial.name, task, "seconds"))}
            rows.append(make_row(trial.name, task, correct, trial.bound, steps == trial.steps, **cost, note=note))
            if trial.name == "Hyper-ICL of rank 1, CE" and (four := over_seeds("trial", "Hyper-ICL, CE", task)):
                rows.append(_compare_ranks(plan, correct, four))
        for name in plan.vectors if task in plan.vector_tasks else ():
            if correct := over_seeds("vector", name, task):
                seconds = fmean(over_seeds("vector", name, task, "seconds"))
                note = NOTES.get((name, task), "")
                rows.append(make_row(name, task, correct, None, True, parameters=0, seconds=seconds, note=note))
    return rows


def _compare_ranks(plan: DemoPlan, one: Sequence[Sequence[bool]], four: Sequence[Sequence[bool]]) -> MethodRow:
    """Return what rank 4 has over rank 1, base by base, or where there is one base answer by answer."""
    differences = [[float(b - a) for a, b in zip(*pair)] for pair in zip(one, four)]
    gains = [fmean(answers) for answers in differences]
    several = len(gains) > 1
    low, high = mean_interval(gains if several else differences[0])
    judged = plan.steps is None and len(gains) == len(BASES)
    return MethodRow(
        "options",
        DIFFERENCE,
        fmean(gains),
        low,
        high,
        len(gains),
        "seeds" if several else "answers",
        str(_RANKS),
        _RANKS.holds(fmean(gains)) if judged else None,
    )


def ablation_rows(plan: DemoPlan, results: JobResults) -> list[AblationRow]:
    """Return a row for each ablation of the plan that was trained."""
    by_job = {(job.name, job.seed): result for job, result in results.items() if job.kind == "ablation"}
    rows = []
    for ablation in plan.ablations:
        trial = plan.ablated(ablation)
        outcomes = [by_job[key] for seed in plan.ablation_seeds if (key := (trial.name, seed)) in by_job]
        if outcomes:
            accuracy = accuracy_of([outcome["correct"] for outcome in outcomes])
            size = {"parameters": outcomes[0]["parameters"], "steps": trial.steps}
            method = method_of(ablation.trial)
            rows.append(AblationRow(method, trial.task, ablation.group, ablation.variant, **accuracy, **size))
    return rows


def strategy_rows(plan: DemoPlan, results: JobResults) -> list[StrategyRow]:
    """Return a row for each strategy and number of demonstrations."""
    measured = [result for job, result in results.items() if job.kind == "selection"]
    rows = []
    for name in STRATEGIES if measured else ():
        for k in plan.shots:
            right = [(result["right"][f"{name}/{k}"], result["queries"]) for result in measured]
            correct = [[True] * hits + [False] * (total - hits) for hits, total in right]
            rows.append(StrategyRow(name, k, **accuracy_of(correct)))
    return rows
