"""What ``icl eval`` does: a model, its demonstrations and adapters are put to a test, each way to answer once."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from icl.adapters import Adapters, attached
from icl.evaluate import METRICS, Evaluation, Progress, Way
from icl.models import load_model
from icl.results import SHOTS, ZERO, Results
from icl.run_folder import read_run
from icl.runs import Run, label_of
from icl.select import Strategy
from icl.splits import Show, Split, open_split


@dataclass(frozen=True)
class Plan:
    """Zero-shot, these numbers of demonstrations chosen by these strategies, and these adapters, on ``data``.

    Args:
        data: a path, or a task of the testbed.
        model: for :func:`icl.models.load_model`. This, ``pool``, ``bank``, ``prompt`` and ``system`` are by default as
            in the first adapter's run.
        adapters: folders.
        seeds: of demonstrations, and of what tasks of the testbed hide; by default those of the adapters. An adapter
            is measured for the seed that it was trained with.
    """

    data: str
    model: str | None = None
    adapters: tuple[Path, ...] = ()
    shots: tuple[int, ...] = (0,)
    strategies: tuple[Strategy, ...] = ("random",)
    seeds: tuple[int, ...] = ()
    pool: str | None = None
    bank: str | None = None
    prompt: str | None = None
    system: str | None = None
    metrics: tuple[str, ...] = ("exact",)
    max_new_tokens: int = 32
    batch_size: int = 16

    def __post_init__(self) -> None:
        if any(k < 0 for k in self.shots) or any(seed < 0 for seed in self.seeds):
            raise ValueError(f"shots and seeds must not be negative, got {self.shots} and {self.seeds}")
        if not self.metrics or not set(self.metrics) <= set(METRICS):
            raise ValueError(f"metric must be of {', '.join(METRICS)}, got {', '.join(self.metrics) or 'none'}")


@dataclass(frozen=True)
class _Trained:
    """An adapter's folder, and what is told there."""

    folder: Path
    name: str
    run: Run | None
    told: dict[str, Any]

    def note(self, split: Split, seed: int) -> str | None:
        """What a reader of its figures has to know."""
        if self.run is None:
            return "no run.json: nobody knows how its epoch was chosen"
        digest = split.digest(seed)
        seen = [part for part, theirs in self.told.get("digests", {}).items() if theirs == digest]
        if seen:
            return f"not a test: its {' and '.join(seen)} set"
        chosen = self.told.get("chosen")
        return "last epoch, no dev set" if chosen is not None and chosen["by"] is None else None


def evaluate(plan: Plan, results: Results, progress: Progress | None = None) -> None:
    """Measure what the plan asks for into ``results``; what is there already is not measured again."""
    trained = []
    for i, folder in enumerate(plan.adapters):
        told = read_run(folder)
        if told is not None and not told["finished"]:
            raise ValueError(f"{folder} is not finished: run the same icl train again, it goes on there")
        run = None if told is None else Run.from_dict(told["run"])
        trained.append(_Trained(folder, f"adapter-{i}", run, told or {}))
    runs = [each.run for each in trained if each.run is not None]
    model_name = plan.model or (runs[0].model if runs else None)
    if model_name is None:
        raise ValueError("model must be given where no adapter has a run.json that names it")
    usual = runs[0].data.show if runs else Show(pool=plan.data)
    show = Show(
        plan.pool or usual.pool,
        plan.bank or usual.bank,
        usual.prompt if plan.prompt is None else plan.prompt,
        usual.system if plan.system is None else plan.system,
    )
    split = open_split(plan.data, "test", show)
    model, processor = load_model(model_name)
    for each in trained:
        Adapters.from_pretrained(model, each.folder, each.name)
    evaluation = Evaluation(model, processor, results, plan.metrics, plan.max_new_tokens, plan.batch_size)
    for way in _ways(plan, split, trained, attached(model)):
        evaluation.measure(plan.data, way, split.digest(way.seed), progress)


def _ways(plan: Plan, split: Split, trained: list[_Trained], adapters: Adapters | None) -> Iterator[Way]:
    seeds = plan.seeds or tuple(sorted({each.run.training.seed for each in trained if each.run})) or (0,)
    most = max(plan.shots)
    for shots in dict.fromkeys((0, *plan.shots)):
        for strategy in plan.strategies if shots else ("random",):
            for seed in seeds if split.drawn(shots, strategy) else seeds[:1]:
                yield Way(
                    SHOTS if shots else ZERO,
                    split.examples(shots, strategy, seed),
                    prompt="teacher" if shots else "student",
                    shots=shots,
                    strategy=strategy if shots else None,
                    seed=seed,
                    teacher=() if shots or not most else split.examples(most, plan.strategies[0], seed),
                )
    for each in trained:
        assert adapters is not None
        parts = adapters[each.name]
        run = each.run
        seed = seeds[0] if run is None else run.training.seed
        yield Way(
            " + ".join(label_of(part.config) for part in parts) if run is None else run.label,
            split.examples(0, seed=seed),
            adapter=each.name,
            seed=seed,
            teacher=split.examples(most, plan.strategies[0], seed) if most else (),
            parameters=sum(t.numel() for part in parts for t in part.state_dict().values()),
            train_seconds=each.told.get("seconds"),
            note=each.note(split, seed),
        )
