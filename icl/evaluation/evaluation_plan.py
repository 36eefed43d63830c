"""``icl eval``: a model, its demonstrations and adapters are put to a test, each mode of answering once."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

from icl.adapters import AdapterConfig, Adapters, count_parameters, read_config
from icl.attention import load_model
from icl.bank import check_rows
from icl.common.configuration import meant
from icl.data import LIST_COLUMNS, TEXT_COLUMNS, Examples
from icl.evaluation.evaluator import AnsweringMode, Evaluation, Progress
from icl.evaluation.metrics.scoring import check_references
from icl.evaluation.result_rows import K_SHOT, ZERO_SHOT
from icl.evaluation.results import Results
from icl.evaluation.settings import EvaluationPlan
from icl.training import (
    DemonstrationSettings,
    FileSplit,
    Split,
    TrainingRun,
    describe_method,
    open_split,
    read_run,
)


@dataclass(frozen=True)
class TrainedAdapter:
    """An adapter's folder, the name it is attached under, and its training run with its record, if there is one."""

    folder: Path
    name: str
    run: TrainingRun | None
    record: dict[str, Any]

    @classmethod
    def open(cls, folder: Path, name: str) -> TrainedAdapter:
        """Read a folder. ``ValueError`` if its training is not finished, or if it is no adapter's."""
        record = read_run(folder)
        if record is not None and not record["finished"]:
            raise ValueError(f"{folder} is not finished: run the same icl train again, it goes on there")
        read_config(folder)
        return cls(folder, name, None if record is None else TrainingRun.from_dict(record["run"]), record or {})

    @property
    def label(self) -> str:
        """The name of its method in a table."""
        if self.run is not None:
            return self.run.label
        return " + ".join(describe_method(AdapterConfig.from_dict(part)) for part in read_config(self.folder)["parts"])

    @property
    def setting(self) -> str | None:
        """All that its training has in common with that of other seeds."""
        if self.run is None:
            return None
        return json.dumps(replace(self.run, training=replace(self.run.training, seed=0)).to_dict(), sort_keys=True)

    def note(self, split: Split, seed: int) -> str | None:
        """Return what a reader of its figures has to know."""
        if self.run is None:
            return "no run.json: nobody knows how its epoch was chosen"
        digest = split.digest(seed)
        same = [part for part, theirs in self.record.get("digests", {}).items() if theirs == digest]
        if same:
            return f"not a test: its {' and '.join(same)} set"
        selection = self.record.get("chosen")
        return "last epoch, no dev set" if selection is not None and selection["by"] is None else None


def evaluate(plan: EvaluationPlan, results: Results, progress: Progress | None = None) -> None:
    """Measure what the plan asks for into ``results``; what is there already is not measured again.

    What can be wrong with files, rows and metrics shows before the model is loaded, and what can be wrong with a prompt
    before the first answer: ``ValueError``.
    """
    trained = [TrainedAdapter.open(folder, f"adapter-{i}") for i, folder in enumerate(plan.adapters)]
    runs = [adapter.run for adapter in trained if adapter.run is not None]
    model_name = plan.model or (runs[0].model if runs else None)
    if model_name is None:
        raise ValueError("model must be given where no adapter has a run.json that names it")
    split = _open_test(plan, runs[0].data.demonstrations if runs else DemonstrationSettings())
    modes = list(_list_modes(plan, split, trained))
    hint = meant(split.records.columns, (*TEXT_COLUMNS, *LIST_COLUMNS)) if isinstance(split, FileSplit) else ""
    check_references(plan.metrics, split.references(modes[0].seed), hint)
    # of a pool with a bank only what is in the bank is shown, and banks leave out what cannot be read
    sampled = [mode.examples for mode in modes if mode.strategy in (None, "random")]
    check_rows({str(i): examples for i, examples in enumerate(sampled)}, answered=())
    results.check_writable()
    model, processor = load_model(model_name)
    for adapter in trained:
        Adapters.from_pretrained(model, adapter.folder, adapter.name)
    evaluation = Evaluation(model, processor, results, plan.metrics, plan.max_new_tokens, plan.batch_size)
    # adapters answer the same prompts, which are read once
    by_prompts = {(id(mode.examples), mode.prompt): mode for mode in modes}
    prompts = {key: evaluation.read(mode.examples, mode.prompt) for key, mode in by_prompts.items()}
    for mode in modes:
        evaluation.measure(plan.data, mode, prompts[id(mode.examples), mode.prompt], progress)


def _open_test(plan: EvaluationPlan, usual: DemonstrationSettings) -> Split:
    demonstrations = DemonstrationSettings(
        plan.pool or usual.pool,
        plan.bank or usual.bank,
        usual.prompt if plan.prompt is None else plan.prompt,
        usual.system if plan.system is None else plan.system,
    )
    split, most = open_split(plan.data, "test", demonstrations), max(plan.shots)
    if most:
        if demonstrations.pool is None and isinstance(split, FileSplit):
            raise ValueError("pool must be given where shots are: rows to show, such as those to train on")
        if isinstance(split, FileSplit) and most > len(split.pool):
            raise ValueError(f"shots must be at most {len(split.pool)}, the rows of the pool, got {most}")
        split.refuse_overlap()
    return split


def _list_modes(plan: EvaluationPlan, split: Split, trained: list[TrainedAdapter]) -> Iterator[AnsweringMode]:
    """Yield zero-shot first, then numbers of demonstrations and strategies, then adapters."""
    seeds = plan.seeds or tuple(sorted({each.run.training.seed for each in trained if each.run})) or (0,)
    most = max(plan.shots)
    examples = cache(split.examples)

    def teacher(seed: int) -> Examples:
        return examples(most, plan.strategies[0], seed) if most else ()

    for shots in dict.fromkeys((0, *plan.shots)):
        for strategy in plan.strategies if shots else ("random",):
            # a seed that decides nothing is always the same
            for seed in seeds if split.depends_on_seed(shots, strategy) else (0,):
                yield AnsweringMode(
                    K_SHOT if shots else ZERO_SHOT,
                    examples(shots, strategy, seed),
                    prompt="teacher" if shots else "student",
                    shots=shots,
                    strategy=strategy if shots else None,
                    seed=seed,
                    teacher=() if shots else teacher(seed),
                    settings=split.settings(shots),
                )
    labels = _label_adapters(trained)
    for adapter in trained:
        seed = seeds[0] if adapter.run is None else adapter.run.training.seed
        yield AnsweringMode(
            labels[adapter.name],
            examples(0, "random", seed if split.depends_on_seed(0, "random") else 0),
            adapter=adapter.name,
            seed=seed,
            teacher=teacher(seed),
            parameters=count_parameters(adapter.folder),
            train_seconds=adapter.record.get("seconds"),
            note=adapter.note(split, seed),
            settings={**split.settings(0), "training": adapter.setting or str(adapter.folder)},
        )


def _label_adapters(trained: list[TrainedAdapter]) -> dict[str, str]:
    """Return each adapter's method, with its folder where others of that name are not its other seeds."""
    by_label: dict[str, list[TrainedAdapter]] = {}
    for adapter in trained:
        by_label.setdefault(adapter.label, []).append(adapter)
    labels = {}
    for label, same in by_label.items():
        seeds = [adapter.run.training.seed for adapter in same if adapter.run is not None]
        repeated = len({adapter.setting for adapter in same}) > 1 or len(set(seeds)) < len(same)
        for adapter in same:
            labels[adapter.name] = f"{label} ({adapter.folder})" if repeated and len(same) > 1 else label
    return labels
