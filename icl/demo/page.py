"""The report: one file that needs no other and no network, for screens wide and narrow, light and dark."""

from __future__ import annotations

import platform
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from importlib import metadata
from itertools import groupby
from operator import attrgetter
from pathlib import Path
from typing import Any

import jinja2
from plotly.offline import get_plotlyjs

from icl.common.files import write_json, write_text
from icl.demo import figures, tables, verdict
from icl.demo.demo_plan import DemoPlan
from icl.evaluation import csv_table
from icl.testbed import BASES

# autoescape: every value that is put in is escaped, whatever it is.
_PAGES = jinja2.Environment(
    loader=jinja2.PackageLoader("icl.demo", ""), autoescape=True, trim_blocks=True, lstrip_blocks=True
)


def write_page(plan: DemoPlan, results: tables.JobResults, folder: Path) -> Path:
    """Write ``report.html``, and its tables as ``results.json`` and as CSV. Return the page's path."""
    rows = tables.method_rows(plan, results)
    ablations, strategies = tables.ablation_rows(plan, results), tables.strategy_rows(plan, results)
    versions = [f"{name} {metadata.version(name)}" for name in ("hyperbolic-icl", "torch", "transformers")]
    by_kind: dict[str, list[Mapping[str, Any]]] = {}
    for job, result in results.items():
        by_kind.setdefault(job.kind, []).append({"method": job.name, "task": job.task, **result})
    selection = by_kind["selection"][0]
    verdicts = verdict.judge_tasks(rows)
    cpu = sum(result["cpu_seconds"] for result in results.values())
    page = _PAGES.get_template("page.html").render(
        plan=plan,
        bases=", ".join(BASES[seed] for seed in plan.seeds),
        cpu=cpu,
        versions=", ".join([*versions, f"Python {platform.python_version()}"]),
        selection=selection,
        verdicts=verdicts,
        headline=verdict.headline(verdicts),
        comparison=verdict.compare_strategies(strategies),
        strategies={name: list(line) for name, line in groupby(strategies, attrgetter("strategy"))},
        methods=rows,
        ablations=ablations,
        attention=by_kind.get("attention", []),
        figures={
            "disk": figures.disk(selection["disk"]),
            "choices": figures.strategies(strategies),
            "accuracies": figures.accuracies(rows),
            "curves": figures.curves(results),
        },
        plotly=get_plotlyjs(),
    )
    folder.mkdir(parents=True, exist_ok=True)
    parts: dict[str, Sequence[Any]] = {"methods": rows, "ablations": ablations, "selection": strategies}
    lists = {name: [asdict(row) for row in part] for name, part in parts.items()}
    write_json(folder / "results.json", {"plan": plan.name, "cpu_seconds": cpu, **lists}, indent=1)
    for name, part in lists.items():
        write_text(folder / ("results.csv" if name == "methods" else f"{name}.csv"), csv_table(part))
    write_text(folder / "report.html", page)
    return folder / "report.html"
