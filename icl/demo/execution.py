"""The demo's jobs in parallel processes, which go on where an earlier run was cut short.

joblib would not do: a worker tells of parts of its job as it goes, ends with its parent, and is set up once.
"""

from __future__ import annotations

import atexit
import gc
import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from pathlib import Path
from typing import Any

from icl.demo.demo_plan import DemoJob, DemoPlan
from icl.demo.jobs import read_result, run_jobs

Progress = Callable[[DemoJob, float], None]
# What a group of jobs should take at most, in steps of training: with shorter ones more is made twice, and with longer
# ones a process may be left with one at the end.
_GROUP_COST = 2500.0
_POLL_SECONDS = 0.2
# Attention is recorded of adapters that are trained, and latency wants the machine for itself.
_LAST = ("attention", "latency")


def run_plan(
    plan: DemoPlan, folder: Path, progress: Progress, processes: int | None = None
) -> dict[DemoJob, dict[str, Any]]:
    """Return the result of each job of the plan, which is done now or kept in ``folder``.

    Two processes never do the same job, and a run that is killed loses no job but those that it was at.

    Args:
        plan: what is done.
        folder: where results are kept.
        progress: called with a job and how much of its cost was done since.
        processes: how many work at a time; as many as there are cores by default.
    """
    jobs = plan.jobs()
    finished = {job: result for job in jobs if (result := read_result(folder, job)) is not None}
    for job in finished:
        progress(job, job.cost)
    left = [job for job in jobs if job not in finished]
    last = [job for job in left if job.kind in _LAST]
    if left:
        first = group_jobs([job for job in left if job not in last])
        _run_phases((first, [last]), folder, progress, processes or os.cpu_count() or 1)
    return {job: result for job in jobs if (result := read_result(folder, job)) is not None}


def group_jobs(jobs: Sequence[DemoJob]) -> list[list[DemoJob]]:
    """Return groups of jobs that share a task and a base, cut where a group is long enough, the longest first."""

    def data_and_teacher(job: DemoJob) -> tuple[str, bool]:
        # what is trained on the same is next to each other, those with a teacher first: it is made once
        objective = getattr(job.subject, "objective", None)
        return repr(getattr(job.subject, "data", "")), objective is None or not objective.needs_teacher

    def total_cost(group: Sequence[DemoJob]) -> float:
        return sum(job.cost for job in group)

    groups: dict[tuple[str, int, int], list[DemoJob]] = {}
    parts: dict[tuple[str, int], int] = {}
    for job in sorted(jobs, key=data_and_teacher):
        shared = job.task, job.seed
        group = groups.setdefault((*shared, parts.setdefault(shared, 0)), [])
        if group and total_cost([*group, job]) > _GROUP_COST:
            parts[shared] += 1
            group = groups.setdefault((*shared, parts[shared]), [])
        group.append(job)
    return sorted(groups.values(), key=total_cost, reverse=True)


_progress_queue: Any = None  # of a worker, which puts keys of jobs on it and how much of their cost was done


def _start_worker(queue: Any) -> None:
    global _progress_queue
    _progress_queue = queue
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the first process ends the others
    threading.Thread(target=_end_with, args=(multiprocessing.parent_process(),), daemon=True).start()
    import transformers

    from icl.training import DistillTrainer  # noqa: F401

    transformers.logging.set_verbosity_error()
    # Trainer looks for garbage each time it begins; what was imported is none.
    gc.freeze()
    atexit.register(gc.unfreeze)  # extension modules look for what they leave behind


def _end_with(parent: Any) -> None:
    """End this process once its parent has ended, however that was: nobody waits for what comes after."""
    parent.join()
    os._exit(1)


def _run_group(folder: Path, jobs: Sequence[DemoJob]) -> None:
    run_jobs(folder, jobs, lambda job, cost: _progress_queue.put((job.key, cost)))


def _run_phases(
    phases: Sequence[Sequence[Sequence[DemoJob]]], folder: Path, progress: Progress, processes: int
) -> None:
    """Run the groups of one phase after those of another, in new processes and not forks: threads may hold locks."""
    by_key = {job.key: job for groups in phases for group in groups for job in group}
    context = multiprocessing.get_context("spawn")
    queue = context.SimpleQueue()
    others = multiprocessing.active_children()
    with ProcessPoolExecutor(processes, context, _start_worker, (queue,)) as pool:
        try:
            for groups in phases:
                pending: set[Future[None]] = {pool.submit(_run_group, folder, group) for group in groups}
                while pending:
                    done, pending = wait(pending, _POLL_SECONDS, FIRST_COMPLETED)
                    while not queue.empty():
                        key, cost = queue.get()
                        progress(by_key[key], cost)
                    for future in done:
                        future.result()
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            for process in multiprocessing.active_children():
                if process not in others:
                    process.terminate()
            raise
