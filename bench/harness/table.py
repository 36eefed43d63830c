"""The CSV: one row for each implementation of a group, with everything that decided its figures."""

from __future__ import annotations

import csv
import platform
import re
from collections.abc import Iterable, Mapping
from importlib import metadata
from pathlib import Path

import torch

from harness.measure import Group, Result
from hyperbolic import __version__, kernels

KEY = ("op", "model", "case", "pass", "shape", "dtype")
FIGURES = ("implementation", "rounds", "p20 s", "p50 s", "p80 s", "floor", "ratio", "memory MB")
PACKAGES = ("geoopt", "hypll", "faiss-cpu")
ENVIRONMENT = ("sizes", "hyperbolic", "kernels", "torch", *PACKAGES, "python", "cpu", "threads")
HEADER = (*KEY, *FIGURES, *ENVIRONMENT)

Row = dict[str, str]


def rows(group: Group, results: Mapping[str, Result], sizes: str) -> list[Row]:
    """Return the rows of a group."""
    _, floor, _ = results[group.floor].quantiles()
    table = []
    for name, result in results.items():
        times = result.quantiles()
        figures = [name, str(len(result.seconds)), *(f"{t:.4g}" for t in times), group.floor]
        figures += [f"{times[1] / floor:.4g}", f"{result.memory:.4g}"]
        table.append({**group.key, **dict(zip(FIGURES, figures)), **environment(sizes)})
    return table


def environment(sizes: str) -> Row:
    """Return the columns that are alike in all rows."""
    row = {"sizes": sizes, "hyperbolic": __version__, "kernels": kernels().cpu, "torch": torch.__version__}
    for name in PACKAGES:
        try:
            row[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            row[name] = ""
    return {**row, "python": platform.python_version(), "cpu": _cpu(), "threads": str(torch.get_num_threads())}


def _cpu() -> str:
    information = Path("/proc/cpuinfo")
    found = re.search(r"model name\s*: (.*)", information.read_text()) if information.exists() else None
    return found[1] if found else platform.processor() or platform.machine()


def read(path: Path) -> list[Row]:
    """Read rows from CSV."""
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def replace(path: Path, new: Iterable[Row]) -> None:
    """Write ``new`` in the place of the rows of the same ops, or after the others."""
    by_op: dict[str, list[Row]] = {}
    for row in read(path) if path.exists() else ():
        by_op.setdefault(row["op"], []).append(row)
    fresh: dict[str, list[Row]] = {}
    for row in new:
        fresh.setdefault(row["op"], []).append(row)
    by_op.update(fresh)
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, HEADER, lineterminator="\n")
        writer.writeheader()
        for rows_of_op in by_op.values():
            writer.writerows(rows_of_op)
