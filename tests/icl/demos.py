"""A small plan of the demo, and invented results."""

from pathlib import Path
from typing import Any

from icl.demo import page
from icl.demo.demo_plan import DemoJob, DemoPlan
from icl.demo.selection import STRATEGIES
from icl.testbed.trials import TRIALS

ONE_A_CLASS = next(trial for trial in TRIALS if trial.data == "one a class")


TINY = DemoPlan(
    "tiny", seeds=(1,), trials=(ONE_A_CLASS,), vectors=("Task vector",), vector_tasks=("fixed_map",), ablations=(),
    steps=12, shots=(4,), queries=40, rounds=1,
)  # fmt: skip


def invented(job: DemoJob) -> dict[str, Any]:
    """What the job could have left; ``right`` of 10 answers are right, more for a later seed."""
    size = 7 + job.seed
    correct = [True] * size + [False] * (10 - size)
    answers: dict[str, Any] = {"correct": correct, "parameters": 520, "seconds": 2.5, "curve": [[10, 2.0], [20, 0.5]]}
    shots, queries = job.subject if job.kind == "selection" else ((), 0)
    names = [name for name, _ in job.subject[1]] if job.kind == "latency" else []
    times = {name: {"ms": 8.0, "of_zero-shot": 1.25, "of_16-shot": 0.625} for name in ["zero-shot", "16-shot", *names]}
    heads = {"word": "apple", "attention": [[0.25, 0.75], [1.0, 0.0]]}
    picture = (
        "data:image/png;base64,"
        "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAAAAAA6fptVAAAACklEQVR4nGNgAAAAAgABSK+kcQAAAABJRU5ErkJggg=="
    )
    card = {"picture": picture, "label": "one"}
    left: dict[str, dict[str, Any]] = {
        "selection": {
            "samples": [card] * 10,
            "query": card,
            "sheets": [{"strategy": name, "cards": [card] * 4} for name in STRATEGIES],
            "queries": queries,
            "right": {f"{name}/{k}": queries // 2 for name in STRATEGIES for k in shots},
            "lift": {"before": {"loss": 1.0}, "after": {"loss": 0.25}},
            "bank": {"rows": 1437, "dim": 16, "c": 0.5},
            "disk": {
                "points": [[0.5 * i, 0.3] for i in range(5)],
                "c": 0.5,
                "stress": 0.2,
                "explained": 0.8,
                "labels": ["one", "two", "one", "two", "query"],
                "names": [f"image {i}" for i in range(5)],
                "pictures": [picture] * 5,
                "edges": [[0, 4]],
                "stars": [4],
            },
        },
        "base": {"frozen": [False] * 10, "teacher": [True] * 10},
        "latency": {"rounds": 3, "methods": times},
        "attention": {
            "answer": "arrow",
            "heads": 2,
            "tokens": [{"word": "<image>", "picture": picture}, {"word": "is"}],
            "without": heads,
            "with": {**heads, "word": "arrow"},
        },
    }
    return {**left.get(job.kind, answers), "cpu_seconds": 1.5}


def written(plan: DemoPlan, folder: Path) -> str:
    return page.write_page(plan, {job: invented(job) for job in plan.jobs()}, folder).read_text(encoding="utf-8")
