"""Measures implementations of one operation against each other: time round by round, and peak memory.

A machine is not equally fast all the time. So the implementations of a group take turns (A B C A B C, not A A A),
and each is compared by its median with that of the group's floor, the least that such an operation can cost.
"""

from __future__ import annotations

import ctypes
import gc
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from math import nan
from pathlib import Path
from time import perf_counter, sleep
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

OURS = "hyperbolic"
FORWARD, BACKWARD = "forward", "forward+backward"
PASSES = (FORWARD, BACKWARD)
FEWEST, MOST = 3, 25  # rounds
# Idle threads of an OpenMP spin for about a millisecond before they sleep: those of the implementation before.
PAUSE = 0.003

_STATUS, _CLEAR = Path("/proc/self/status"), Path("/proc/self/clear_refs")


def as_given(*inputs: Any) -> Sequence[Any]:
    """Return the inputs as they are."""
    return inputs


class Implementation(NamedTuple):
    """What is timed, and what turns the inputs of the group into the arguments that it takes, which is not."""

    run: Callable[..., Any]
    prepare: Callable[..., Sequence[Any]] = as_given


@dataclass(frozen=True)
class Group:
    """Implementations that are measured in turns on the same inputs."""

    op: str
    case: str
    model: str
    passes: str
    shape: str
    inputs: Callable[[], Sequence[Any]]
    implementations: Mapping[str, Implementation]
    floor: str
    dtype: str = "float32"
    calls: int = 1  # that are timed together, where one is too short for the clock

    @property
    def key(self) -> dict[str, str]:
        """The columns that name a group in the table."""
        names = {"op": self.op, "model": self.model, "case": self.case, "pass": self.passes}
        return {**names, "shape": self.shape, "dtype": self.dtype}

    def __str__(self) -> str:
        return ", ".join(filter(None, self.key.values()))


class Result(NamedTuple):
    """Times of an implementation, and the memory that it took."""

    seconds: list[float]
    memory: float

    def quantiles(self) -> tuple[float, float, float]:
        """Return the 20 %, 50 % and 80 % quantiles of the times."""
        p20, p50, p80 = np.quantile(self.seconds, (0.2, 0.5, 0.8)).tolist()
        return p20, p50, p80


def both_ways(function: Callable[..., Tensor]) -> Callable[..., Sequence[Tensor]]:
    """``function``, then the gradients of all its arguments. Takes the cotangent of the result as its last argument.

    The cotangent is an argument so that it is made outside of what is measured, dense, as another layer's would be.
    """

    def run(*args: Tensor) -> Sequence[Tensor]:
        *inputs, cotangent = args
        leaves = [a.detach().requires_grad_() for a in inputs]
        return torch.autograd.grad(function(*leaves), leaves, cotangent)

    return run


def one_way(function: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """Return the function: a forward pass alone."""
    return function


WAYS: dict[str, Callable[[Callable[..., Tensor]], Callable[..., Any]]] = {FORWARD: one_way, BACKWARD: both_ways}


def measure(group: Group, budget: float) -> dict[str, Result]:
    """Time the implementations of a group in turns, until the budget of seconds is spent."""
    inputs = group.inputs()
    calls = {name: partial(i.run, *i.prepare(*inputs)) for name, i in group.implementations.items()}
    memory, rounds = {}, {}
    for name, call in calls.items():
        memory[name], seconds = first_call(call)
        if seconds < budget:  # a first call may load and compile
            seconds = timed(call, group.calls)
        rounds[name] = min(MOST, max(FEWEST, int(budget / seconds)))
    samples: dict[str, list[float]] = {name: [] for name in calls}
    turns = max(rounds.values())
    gc.collect()
    gc.disable()
    try:
        for turn in range(turns):
            for name, call in calls.items():
                # The slow ones pass most turns, evenly.
                if (turn + 1) * rounds[name] // turns > turn * rounds[name] // turns:
                    sleep(PAUSE)
                    samples[name].append(timed(call, group.calls) / group.calls)
    finally:
        gc.enable()
    return {name: Result(samples[name], memory[name]) for name in calls}


def timed(call: Callable[[], Any], calls: int) -> float:
    """Return the seconds that one of several calls takes."""
    start = perf_counter()
    for _ in range(calls):
        out = call()
    end = perf_counter()
    del out
    return end - start


def first_call(call: Callable[[], Any]) -> tuple[float, float]:
    """The largest growth of the process in MB while it runs, results included, and the seconds that it takes.

    The first call, because later ones find buffers that the libraries have kept. Pages of files are left out:
    they are the code of the libraries.
    """
    if not _CLEAR.exists():  # not Linux
        return nan, timed(call, 1)
    gc.collect()
    # What malloc keeps would hide as much of what the call takes.
    ctypes.CDLL(None).malloc_trim(0)
    _CLEAR.write_text("5")  # the peak is now the present size
    before = _memory()
    start = perf_counter()
    out = call()
    seconds = perf_counter() - start
    after = _memory()
    del out
    grown = after["VmHWM"] - before["VmRSS"] - (after["RssFile"] - before["RssFile"])
    return max(0, grown) * 1024 / 1e6, seconds


def _memory() -> dict[str, int]:
    return {name: int(kib) for name, kib in re.findall(r"^(\w+):\s+(\d+) kB$", _STATUS.read_text(), re.MULTILINE)}
