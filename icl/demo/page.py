"""The report: one file that needs no other and no network, for screens wide and narrow, light and dark."""

from __future__ import annotations

import json
import platform
from collections.abc import Mapping
from dataclasses import asdict
from importlib import metadata
from pathlib import Path
from typing import Any

import jinja2
from plotly.offline import get_plotlyjs

from icl.demo import figures, tables, verdict
from icl.demo.demo_plan import DemoPlan
from icl.demo.tables import JobResults
from icl.testbed import BASES

# autoescape: every value that is put in is escaped, whatever it is.
_PAGES = jinja2.Environment(
    loader=jinja2.PackageLoader("icl.demo", ""), autoescape=True, trim_blocks=True, lstrip_blocks=True
)


def write_page(plan: DemoPlan, results: JobResults, folder: Path) -> Path:
    """``report.html``, and its tables as ``results.json`` and as CSV. Returns the page's path."""
    rows, variants, choices = (
        tables.methods(plan, results),
        tables.ablations(plan, results),
        tables.choices(plan, results),
    )
    versions = [f"{name} {metadata.version(name)}" for name in ("hyperbolic-icl", "torch", "transformers")]
    kinds: dict[str, list[Mapping[str, Any]]] = {}
    for job, result in results.items():
        kinds.setdefault(job.kind, []).append({"method": job.name, "task": job.task, **result})
    first = kinds["selection"][0]
    outcomes = verdict.verdicts(rows)
    cpu = sum(result["cpu_seconds"] for result in results.values())
    page = _PAGES.get_template("page.html").render(
        plan=plan,
        bases=", ".join(BASES[seed] for seed in plan.seeds),
        cpu=cpu,
        versions=", ".join([*versions, f"Python {platform.python_version()}"]),
        rounds=plan.rounds,
        bank=first["bank"],
        disk=first["disk"],
        lift=first["lift"],
        samples=first["samples"],
        query=first["query"],
        sheets=first["sheets"],
        outcomes=outcomes,
        headline=verdict.headline(outcomes),
        choice=verdict.choice(choices),
        chosen={
            name: [row for row in choices if row.strategy == name]
            for name in dict.fromkeys(r.strategy for r in choices)
        },
        methods=rows,
        ablations=variants,
        attention=kinds.get("attention", []),
        shown=_shown,
        figures={
            "disk": figures.disk(first["disk"]),
            "choices": figures.choices(choices),
            "accuracies": figures.accuracies(rows),
            "curves": figures.curves(plan, results),
        },
        plotly=get_plotlyjs(),
    )
    folder.mkdir(parents=True, exist_ok=True)
    every = {"plan": plan.name, "cpu_seconds": cpu, "methods": rows, "ablations": variants, "selection": choices}
    (folder / "results.json").write_text(json.dumps(every, default=asdict, indent=1) + "\n", encoding="utf-8")
    (folder / "results.csv").write_text(tables.as_csv(rows), encoding="utf-8")
    (folder / "ablations.csv").write_text(tables.as_csv(variants), encoding="utf-8")
    (folder / "selection.csv").write_text(tables.as_csv(choices), encoding="utf-8")
    (folder / "report.html").write_text(page, encoding="utf-8")
    return folder / "report.html"


def _shown(row: Any) -> str:
    return f"{row.accuracy:.3f} ({row.low:.2f} to {row.high:.2f})"
