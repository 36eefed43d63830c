"""Jobs done, in a process of their own: those of one task and base share what they can."""

from __future__ import annotations

import io
import json
import os
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import asdict
from pathlib import Path
from statistics import median
from time import perf_counter, process_time
from typing import Any

import torch

from icl.adapters import AdapterConfig, Adapters, attach
from icl.data import Example
from icl.demo.demo_plan import DemoJob
from icl.demo.selection import data_uri, selection
from icl.evaluation import greedy_config
from icl.prompts import Collator
from icl.testbed import BASES, END, PreparedTask, TrialOutcome, load, load_examples, run_trial
from icl.training import fit_examples

Advance = Callable[[float], None]
# Examples that vectors are read off, and those that choose their layer or heads.
_READ, _CHOOSE = 100, 48
BARE, SHOTS = "zero-shot", "16-shot"


def work(folder: Path, jobs: Sequence[DemoJob], advance: Callable[[DemoJob, float], None]) -> None:
    """Do them, each into its file as soon as it is done. ``advance`` is told how much of its cost a job has done."""
    torch.set_num_threads(1)
    grounds: dict[tuple[str, int], PreparedTask] = {}
    for job in jobs:
        done = 0.0

        def more(cost: float, job: DemoJob = job) -> None:
            nonlocal done
            cost = min(cost, job.cost - done)
            done += cost
            advance(job, cost)

        started = process_time()
        result = _do(job, folder, grounds, more)
        write(folder, job, {**result, "cpu_seconds": round(process_time() - started, 2)})
        more(job.cost)


def write(folder: Path, job: DemoJob, result: dict[str, Any]) -> None:
    """At once, or not at all."""
    file = file_of(folder, job)
    file.parent.mkdir(parents=True, exist_ok=True)
    draft = file.with_suffix(".tmp")
    draft.write_text(json.dumps({"fingerprint": job.fingerprint, "result": result}) + "\n", encoding="utf-8")
    os.replace(draft, file)


def read(folder: Path, job: DemoJob) -> dict[str, Any] | None:
    """What the job has left, ``None`` if it is not done or was another then."""
    try:
        found = json.loads(file_of(folder, job).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    result: dict[str, Any] | None = found.get("result") if found.get("fingerprint") == job.fingerprint else None
    return result


def file_of(folder: Path, job: DemoJob) -> Path:
    return folder / "results" / f"{job.key}.json"


def _do(job: DemoJob, folder: Path, grounds: dict[tuple[str, int], PreparedTask], more: Advance) -> dict[str, Any]:
    if job.kind == "selection":
        return selection(folder / "banks" / BASES[job.seed], job.seed, *job.what)
    if job.kind == "attention":
        return _attention(job, folder)
    if job.kind == "latency":
        return _latency(job.seed, *job.what)
    at = (job.task, job.seed)
    if at not in grounds:
        grounds[at] = PreparedTask(*at)
    ground = grounds[at]
    if job.kind == "base":
        return {"frozen": ground.answers(), "teacher": ground.answers("teacher")}
    if job.kind == "vector":
        return asdict(_vector(job, ground))
    a_step = job.cost / job.what.steps
    return asdict(run_trial(job.what, ground, adapter_of(folder, job), lambda steps: more(steps * a_step)))


def adapter_of(folder: Path, job: DemoJob) -> Path:
    return folder / "adapters" / job.key


def _vector(job: DemoJob, ground: PreparedTask) -> TrialOutcome:
    started = perf_counter()
    adapters = attach(ground.model, job.what)
    train, dev = (load_examples(job.task, split, job.seed) for split in ("train", "dev"))
    order = torch.randperm(len(train), generator=torch.Generator().manual_seed(job.seed))[:_READ].tolist()
    fit_examples(adapters, ground.collator, [train[i] for i in order], dev[:: len(dev) // _CHOOSE])
    correct = ground.answers()
    adapters.detach()
    return TrialOutcome(correct, 0, perf_counter() - started, ())


@torch.no_grad()
def _attention(job: DemoJob, folder: Path) -> dict[str, Any]:
    """What the answer is read from, with and without the adapter, at an example that the adapter puts right."""
    model, processor = load(BASES[job.seed])
    trained = adapter_of(folder, DemoJob("trial", job.name, job.task, job.seed, 0))
    adapters = Adapters.from_pretrained(model, trained)
    collator = Collator(processor)
    kept: dict[str, Any] = {}
    for example in load_examples(job.task, "test", job.seed):
        inputs = collator.prompts([example])
        last = torch.tensor([[inputs["input_ids"].shape[1] - 1]])
        seen = {}
        for name in ("without", "with"):
            with ExitStack() as stack:
                stack.enter_context(adapters.off() if name == "without" else adapters.use("default"))
                record = stack.enter_context(adapters.record(hidden=False, attention=last))
                said = model(**inputs, use_cache=False).logits[0, -1].argmax()
            weights = [record.attention[i][0, :, 0] for i in sorted(record.attention)]
            word = processor.decode([int(said)]).strip()
            seen[name] = {"said": word, "attention": torch.cat(weights).tolist()}
        kept = {"answer": example.answer, "heads": len(weights[0]), **seen}
        kept["tokens"] = _tokens(processor, inputs["input_ids"][0].tolist(), example)
        if seen["without"]["said"] != example.answer == seen["with"]["said"]:
            break
    return kept


def _tokens(processor: Any, ids: list[int], example: Example) -> list[dict[str, str]]:
    """Words of a prompt, and images in the place of theirs."""
    pictures = iter([part["image"] for m in example.student for part in m["content"] if "image" in part])
    shown = []
    for word in processor.tokenizer.convert_ids_to_tokens(ids):
        token = {"word": "↵" if word == END else word}
        if word == processor.image_token:
            file = io.BytesIO()
            next(pictures).save(file, "png")
            token["picture"] = data_uri(file.getvalue())
        shown.append(token)
    return shown


@torch.no_grad()
def _latency(seed: int, rounds: int, methods: Sequence[tuple[str, Sequence[AdapterConfig]]]) -> dict[str, Any]:
    """Milliseconds to the answer of one query, each method in turns with zero-shot and 16-shot; medians, and ratios."""
    bare, processor = load(BASES[seed])
    example = next(iter(load_examples("fixed_map", "test", seed)))
    collator = Collator(processor)
    zero, shots = (collator.prompts([example], role) for role in ("student", "teacher"))
    found: dict[str, Any] = {}
    for name, configs in methods:
        model = load(BASES[seed])[0]
        attach(model, configs)
        ways = {name: (model, zero), BARE: (bare, zero), SHOTS: (bare, shots)}
        taken: dict[str, list[float]] = {way: [] for way in ways}
        for round_ in range(-1, rounds):
            for way, (which, inputs) in ways.items():
                started = perf_counter()
                _answer(which, inputs)
                if round_ >= 0:  # the first warms up
                    taken[way].append(1e3 * (perf_counter() - started))
        ms = {way: median(values) for way, values in taken.items()}
        ratios = {f"of_{other}": median(a / b for a, b in zip(taken[name], taken[other])) for other in (BARE, SHOTS)}
        found[name] = {"ms": ms[name], **ratios}
        found.setdefault(BARE, {"ms": ms[BARE], "of_zero-shot": 1.0, "of_16-shot": ms[BARE] / ms[SHOTS]})
        found.setdefault(SHOTS, {"ms": ms[SHOTS], "of_zero-shot": ms[SHOTS] / ms[BARE], "of_16-shot": 1.0})
    return {"rounds": rounds, "methods": found}


def _answer(model: Any, inputs: Any) -> None:
    config = greedy_config(model.generation_config)
    config.update(max_new_tokens=1)
    model.generate(**inputs, generation_config=config)
