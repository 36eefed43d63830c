"""The demo, job by job: in parallel, and where an earlier run was cut short, from there."""

from __future__ import annotations

import atexit
import gc
import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from pathlib import Path
from typing import Any

from icl.demo.demo_plan import DemoJob, DemoPlan
from icl.demo.jobs import read, work

Progress = Callable[[DemoJob, float], None]
# What a group of jobs should take at most, in steps of training: with shorter ones more is made twice, and with longer
# ones a process may be left with one at the end.
_GROUP = 2500.0
_SECONDS = 0.2
# Attention is of adapters that are trained, and latency wants the machine for itself.
_LAST = ("attention", "latency")


def run_plan(
    plan: DemoPlan, folder: Path, progress: Progress, processes: int | None = None
) -> dict[DemoJob, dict[str, Any]]:
    """What each job of the plan leaves, done now or found in ``folder``.

    ``progress`` is told of each job how much of its cost is done. Two processes never do the same job, and a run that
    is killed loses no job but those that it was at.
    """
    jobs = plan.jobs()
    found = {job: result for job in jobs if (result := read(folder, job)) is not None}
    for job in found:
        progress(job, job.cost)
    left = [job for job in jobs if job not in found]
    last = [job for job in left if job.kind in _LAST]
    if left:
        first = group_jobs([job for job in left if job not in last])
        _in_processes((first, [last]), folder, progress, processes or os.cpu_count() or 1)
    return {job: result for job in jobs if (result := read(folder, job)) is not None}


def group_jobs(jobs: Sequence[DemoJob]) -> list[list[DemoJob]]:
    """Those that share a task and a base together, cut where a group is long enough, the longest first."""
    together: dict[tuple[str, int], list[DemoJob]] = {}
    for job in jobs:
        together.setdefault((job.task, job.seed), []).append(job)
    groups = [part for shared in together.values() for part in _cut(shared)]
    return sorted(groups, key=_cost, reverse=True)


def _cut(jobs: list[DemoJob]) -> Iterator[list[DemoJob]]:
    order = sorted(jobs, key=_material)
    part: list[DemoJob] = []
    for job in order:
        if part and _cost([*part, job]) > _GROUP:
            yield part
            part = []
        part.append(job)
    yield part


def _material(job: DemoJob) -> tuple[str, bool]:
    """What is trained on the same is next to each other, those with a teacher first: it is made once."""
    objective = getattr(job.what, "objective", None)
    return repr(getattr(job.what, "data", "")), objective is None or not objective.needs_teacher


def _cost(jobs: Sequence[DemoJob]) -> float:
    return sum(job.cost for job in jobs)


_told: Any = None  # in a worker, the queue on which it tells of its progress


def _begin(told: Any) -> None:
    global _told
    _told = told
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the first process ends the others
    threading.Thread(target=_end_with, args=(multiprocessing.parent_process(),), daemon=True).start()
    import transformers

    from icl.training import DistillTrainer  # noqa: F401

    transformers.logging.set_verbosity_error()
    # Trainer looks for garbage each time it begins; what was imported is none.
    gc.freeze()
    atexit.register(gc.unfreeze)  # extension modules look for what they leave behind


def _end_with(parent: Any) -> None:
    """However it ends: nobody waits for what comes after."""
    parent.join()
    os._exit(1)


def _work(folder: Path, jobs: Sequence[DemoJob]) -> None:
    work(folder, jobs, lambda job, cost: _told.put((job.key, cost)))


def _in_processes(
    phases: Sequence[Sequence[Sequence[DemoJob]]], folder: Path, progress: Progress, processes: int
) -> None:
    """Groups of one phase at a time, in new processes and not forks: this one may have threads that hold locks."""
    by_key = {job.key: job for groups in phases for group in groups for job in group}
    context = multiprocessing.get_context("spawn")
    told = context.SimpleQueue()
    others = multiprocessing.active_children()
    with ProcessPoolExecutor(processes, context, _begin, (told,)) as pool:
        try:
            for groups in phases:
                pending: set[Future[None]] = {pool.submit(_work, folder, group) for group in groups}
                while pending:
                    done, pending = wait(pending, _SECONDS, FIRST_COMPLETED)
                    while not told.empty():
                        key, cost = told.get()
                        progress(by_key[key], cost)
                    for future in done:
                        future.result()
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            for process in multiprocessing.active_children():
                if process not in others:
                    process.terminate()
            raise
