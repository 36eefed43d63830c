"""The demo's jobs, done in a process of their own: those of one task and base share what they can."""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from statistics import median
from time import perf_counter, process_time
from typing import Any

import torch

from icl.adapters import AdapterConfig, Adapters, attach
from icl.common.files import read_json, write_json
from icl.data import Example
from icl.demo.demo_plan import DemoJob
from icl.demo.selection import data_uri, measure_strategies
from icl.evaluation import greedy_config
from icl.prompts import Collator
from icl.testbed import BASES, END, PreparedTask, TrialOutcome, load, load_examples, run_trial
from icl.training import fit_examples

Advance = Callable[[float], None]
# Examples that vectors are read off, and those that choose their layer or heads.
_READ, _CHOOSE = 100, 48
BARE, SHOTS = "zero-shot", "16-shot"


def run_jobs(folder: Path, jobs: Sequence[DemoJob], advance: Callable[[DemoJob, float], None]) -> None:
    """Do the jobs, and write each one's file as soon as it is done.

    ``advance`` is called with a job and how much of its cost was done since.
    """
    torch.set_num_threads(1)
    tasks: dict[tuple[str, int], PreparedTask] = {}
    for job in jobs:
        done = 0.0

        def add_cost(cost: float, job: DemoJob = job) -> None:
            nonlocal done
            cost = min(cost, job.cost - done)
            done += cost
            advance(job, cost)

        started = process_time()
        result = _run_job(job, folder, tasks, add_cost)
        write_result(folder, job, {**result, "cpu_seconds": round(process_time() - started, 2)})
        add_cost(job.cost)


def write_result(folder: Path, job: DemoJob, result: dict[str, Any]) -> None:
    """Write the file of a job, as a whole or not at all."""
    file = result_file(folder, job)
    file.parent.mkdir(parents=True, exist_ok=True)
    write_json(file, {"fingerprint": job.fingerprint, "result": result}, indent=None)


def read_result(folder: Path, job: DemoJob) -> dict[str, Any] | None:
    """Return what the job has left, ``None`` if it is not done or was another then."""
    try:
        content = read_json(result_file(folder, job))
    except (OSError, ValueError):
        return None
    result: dict[str, Any] | None = content.get("result") if content.get("fingerprint") == job.fingerprint else None
    return result


def result_file(folder: Path, job: DemoJob) -> Path:
    """Return where the result of a job is."""
    return folder / "results" / f"{job.key}.json"


def _run_job(
    job: DemoJob, folder: Path, tasks: dict[tuple[str, int], PreparedTask], advance: Advance
) -> dict[str, Any]:
    if job.kind == "selection":
        return measure_strategies(folder / "banks" / BASES[job.seed], job.seed, *job.subject)
    if job.kind == "attention":
        return _record_attention(job, folder)
    if job.kind == "latency":
        return _measure_latency(job.seed, *job.subject)
    if (job.task, job.seed) not in tasks:
        tasks[job.task, job.seed] = PreparedTask(job.task, job.seed)
    task = tasks[job.task, job.seed]
    if job.kind == "base":
        return {"frozen": task.answers(), "teacher": task.answers("teacher")}
    if job.kind == "vector":
        return asdict(_fit_vector(job, task))
    step_cost = job.cost / job.subject.steps
    outcome = run_trial(job.subject, task, _adapter_folder(folder, job), lambda n: advance(n * step_cost))
    return asdict(outcome)


def _adapter_folder(folder: Path, job: DemoJob) -> Path:
    return folder / "adapters" / job.key


def _fit_vector(job: DemoJob, task: PreparedTask) -> TrialOutcome:
    started = perf_counter()
    adapters = attach(task.model, job.subject)
    train, dev = (load_examples(job.task, split, job.seed) for split in ("train", "dev"))
    order = torch.randperm(len(train), generator=torch.Generator().manual_seed(job.seed))[:_READ].tolist()
    fit_examples(adapters, task.collator, [train[i] for i in order], dev[:: len(dev) // _CHOOSE])
    correct = task.answers()
    adapters.detach()
    return TrialOutcome(correct, 0, perf_counter() - started, ())


@torch.no_grad()
def _record_attention(job: DemoJob, folder: Path) -> dict[str, Any]:
    """Record where the answer is read from, with and without the adapter, at an example that the adapter puts right."""
    model, processor = load(BASES[job.seed])
    trial = DemoJob("trial", job.name, job.task, job.seed, 0)
    adapters = Adapters.from_pretrained(model, _adapter_folder(folder, trial))
    collator = Collator(processor)
    result: dict[str, Any] = {}
    for example in load_examples(job.task, "test", job.seed):
        inputs = collator.prompts([example])
        last = torch.tensor([[inputs["input_ids"].shape[1] - 1]])
        result = {"answer": example.answer, "tokens": _list_tokens(processor, inputs["input_ids"][0].tolist(), example)}
        for name, use in (("without", adapters.off()), ("with", adapters.use("default"))):
            with use, adapters.record(hidden=False, attention=last) as record:
                token = model(**inputs, use_cache=False).logits[0, -1].argmax()
            weights = [record.attention[i][0, :, 0] for i in sorted(record.attention)]
            word = processor.decode([int(token)]).strip()
            result[name] = {"word": word, "attention": torch.cat(weights).tolist()}
            result["heads"] = len(weights[0])
        if result["without"]["word"] != example.answer == result["with"]["word"]:
            break
    return result


def _list_tokens(processor: Any, ids: list[int], example: Example) -> list[dict[str, str]]:
    """Return the words of a prompt, with images in the place of theirs."""
    pictures = iter([part["image"] for m in example.student for part in m["content"] if "image" in part])
    tokens = []
    for word in processor.tokenizer.convert_ids_to_tokens(ids):
        token = {"word": "↵" if word == END else word}
        if word == processor.image_token:
            file = io.BytesIO()
            next(pictures).save(file, "png")
            token["picture"] = data_uri(file.getvalue())
        tokens.append(token)
    return tokens


@torch.no_grad()
def _measure_latency(seed: int, rounds: int, methods: Sequence[tuple[str, Sequence[AdapterConfig]]]) -> dict[str, Any]:
    """Time the answer to one query, in milliseconds, each method in turns with zero-shot and 16-shot.

    Times are medians, and so are the ratios to those of the other two.
    """
    bare, processor = load(BASES[seed])
    example = next(iter(load_examples("fixed_map", "test", seed)))
    collator = Collator(processor)
    zero, shots = (collator.prompts([example], role) for role in ("student", "teacher"))
    latencies: dict[str, Any] = {}
    for name, configs in methods:
        model = load(BASES[seed])[0]
        attach(model, configs)
        modes = {name: (model, zero), BARE: (bare, zero), SHOTS: (bare, shots)}
        times: dict[str, list[float]] = {mode: [] for mode in modes}
        for turn in range(-1, rounds):
            for mode, (answering, inputs) in modes.items():
                started = perf_counter()
                _answer(answering, inputs)
                if turn >= 0:  # the first warms up
                    times[mode].append(1e3 * (perf_counter() - started))
        ms = {mode: median(values) for mode, values in times.items()}
        ratios = {f"of_{other}": median(a / b for a, b in zip(times[name], times[other])) for other in (BARE, SHOTS)}
        latencies[name] = {"ms": ms[name], **ratios}
        latencies.setdefault(BARE, {"ms": ms[BARE], "of_zero-shot": 1.0, "of_16-shot": ms[BARE] / ms[SHOTS]})
        latencies.setdefault(SHOTS, {"ms": ms[SHOTS], "of_zero-shot": ms[SHOTS] / ms[BARE], "of_16-shot": 1.0})
    return {"rounds": rounds, "methods": latencies}


def _answer(model: Any, inputs: Any) -> None:
    config = greedy_config(model.generation_config)
    config.update(max_new_tokens=1)
    model.generate(**inputs, generation_config=config)
