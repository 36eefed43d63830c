"""Runs the groups of every file under pytest-benchmark: `pytest bench`, or one file of it.

A file has ``groups(sizes)`` and a test that hands them to ``compare``. pytest-benchmark times one function after the
other; here a group is measured as a whole, in turns, when its first implementation comes up, and pytest-benchmark is
given the samples of each for its table.
"""

from __future__ import annotations

import gc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from harness import peers, table
from harness.measure import Group, Result, both_ways, measure
from harness.sizes import FULL, QUICK

collect_ignore = [
    "accuracy.py",
    "ann.py",
    "bank.py",
    "fuzz",
    "gpu.py",
    "latency.py",
    "losses.py",
    "methods.py",
    "performance.py",
    "published.py",
    "ranking.py",
    "scaling.py",
    "wordnet.py",
    "harness",
]
THREADS = 2
measured: dict[str, dict[str, Result]] = {}
rows: list[dict[str, str]] = []


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the options of the benchmarks."""
    parser.addoption("--quick", action="store_true", help="Small sizes: shows only that everything runs.")
    parser.addoption("--csv", type=Path, metavar="FILE", help="Put the rows there, in place of those of the same ops.")


def pytest_configure(config: pytest.Config) -> None:
    """Set the number of threads."""
    # On small tensors a second thread only waits.
    torch.set_num_threads(1 if config.getoption("quick") else THREADS)
    # The first gradient makes torch import sympy, 35 MB that are no one's.
    both_ways(torch.neg)(torch.ones(1), torch.ones(1))


def pytest_report_header() -> list[str]:
    """Say which peers are missing."""
    return [f"not installed, so left out: {name}" for name in peers.MISSING]


def pytest_collection_finish() -> None:
    """Keep garbage collection out of what is timed."""
    # All that has been imported stays; collecting garbage before each measurement need not look at it.
    gc.freeze()


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Make a test of every implementation of every group."""
    sizes = QUICK if metafunc.config.getoption("quick") else FULL
    pairs = [(group, name) for group in metafunc.module.groups(sizes) for name in group.implementations]
    metafunc.parametrize(("group", "implementation"), pairs, ids=[f"{group}, {name}" for group, name in pairs])


@pytest.fixture
def compare(benchmark: Any, request: pytest.FixtureRequest) -> Callable[[Group, str], None]:
    """Return the function that times one implementation of a group."""
    sizes = QUICK if request.config.getoption("quick") else FULL

    def measure_or_look_up(group: Group, implementation: str) -> None:
        if str(group) not in measured:
            measured[str(group)] = measure(group, sizes.budget)
            rows.extend(table.rows(group, measured[str(group)], sizes.name))
        benchmark.group, benchmark.name = str(group), implementation
        if benchmark.enabled:
            # What benchmark.pedantic does with the times that it takes itself.
            benchmark._mode = "compare"
            stats = benchmark._make_stats(1)
            for seconds in measured[str(group)][implementation].seconds:
                stats.update(seconds)

    return measure_or_look_up


def pytest_sessionfinish(session: pytest.Session) -> None:
    """Write the rows that were measured."""
    path = session.config.getoption("csv")
    if path and rows:
        table.replace(path, rows)
