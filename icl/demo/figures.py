"""The page's figures, as plotly draws them. Colours of text and lines are the page's, which knows light from dark."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import fmean
from typing import Any

import torch

from hyperbolic import plot
from icl.demo import tables
from icl.demo.demo_plan import DemoPlan
from icl.demo.tables import JobResults, MethodRow, StrategyRow

Figure = dict[str, Any]
# The colours of Okabe and Ito, told apart with any colour vision, on white and on black.
_COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#999999")
_DASHES = ("solid", "dash", "dot", "dashdot")
_RING = "rgba(128, 138, 150, 0.6)"
_LEGEND = {"orientation": "h", "x": 0, "y": -0.22, "yanchor": "top"}


def disk(found: Mapping[str, Any]) -> Figure:
    """The bank's sample on the Poincaré disk."""
    points, edges = torch.tensor(found["points"]), torch.tensor(found["edges"])
    shown = plot.figure(
        points, found["c"], labels=found["labels"], texts=found["names"], edges=edges, stars=found["stars"]
    ).to_plotly_json()
    for shape in shown["layout"]["shapes"]:
        shape.pop("fillcolor", None)
        shape["line"]["color"] = _RING
    return {"data": [_plain(trace) for trace in shown["data"]], "layout": _plain(shown["layout"]) | {"height": 580}}


def choices(rows: Sequence[StrategyRow]) -> Figure:
    """Accuracy against the number of demonstrations, a line for each strategy."""
    data = []
    for i, name in enumerate(dict.fromkeys(row.strategy for row in rows)):
        line = [row for row in rows if row.strategy == name]
        data.append(
            {
                "x": [str(row.shots) for row in line],
                "y": [row.accuracy for row in line],
                "error_y": _bars(line),
                "name": name,
                "mode": "lines+markers",
                "line": {"color": _COLOURS[i]},
            }
        )
    return {
        "data": data,
        "layout": {
            "xaxis": {"title": {"text": "demonstrations"}, "type": "category"},
            "yaxis": {"title": {"text": "accuracy"}, "range": [-0.03, 1.03]},
            "legend": _LEGEND,
            "height": 420,
        },
    }


def accuracies(rows: Sequence[MethodRow]) -> Figure:
    """Each method on each task, with its interval."""
    data = []
    rows = [row for row in rows if row.method != tables.DIFFERENCE]
    for i, task in enumerate(dict.fromkeys(row.task for row in rows)):
        line = [row for row in rows if row.task == task][::-1]
        data.append(
            {
                "x": [row.accuracy for row in line],
                "y": [f"{row.method}, {task}" for row in line],
                "error_x": _bars(line),
                "name": task,
                "mode": "markers",
                "marker": {"color": _COLOURS[i], "size": 9},
            }
        )
    return {
        "data": data,
        "layout": {
            "xaxis": {"title": {"text": "accuracy on the test split"}, "range": [-0.03, 1.03]},
            "yaxis": {"automargin": True, "tickfont": {"size": 11}},
            "legend": _LEGEND | {"y": -0.08},
            "height": 120 + 21 * len(rows),
        },
    }


def curves(plan: DemoPlan, results: JobResults) -> Figure:
    """The loss of each trial as it is trained, the mean over its bases."""
    lines: dict[tuple[str, str], list[Any]] = {}
    for job, result in results.items():
        if job.kind == "trial":
            lines.setdefault((job.task, job.name), []).append(result["curve"])
    tasks = list(dict.fromkeys(task for task, _ in lines))
    data = []
    for (task, name), found in lines.items():
        place = [other for other in lines if other[0] == task].index((task, name))
        losses = zip(*([loss for _, loss in points] for points in found))
        data.append(
            {
                "x": [step for step, _ in found[0]],
                "y": [fmean(values) for values in losses],
                "name": f"{name}, {task}",
                "mode": "lines",
                "line": {"color": _COLOURS[place % len(_COLOURS)], "dash": _DASHES[place // len(_COLOURS)]},
                "legendgroup": task,
                "visible": True if task == tasks[0] else "legendonly",
            }
        )
    return {
        "data": data,
        "layout": {
            "xaxis": {"title": {"text": "step"}},
            "yaxis": {"title": {"text": "loss"}, "type": "log"},
            "legend": _LEGEND | {"groupclick": "toggleitem"},
            "height": 460 + 20 * len(data),
        },
    }


def _bars(rows: Sequence[Any]) -> Figure:
    return {
        "type": "data",
        "symmetric": False,
        "array": [row.high - row.accuracy for row in rows],
        "arrayminus": [row.accuracy - row.low for row in rows],
        "thickness": 1,
    }


def _plain(value: Any) -> Any:
    """Lists and numbers for what plotly keeps as arrays."""
    if isinstance(value, Mapping):
        return {key: _plain(part) for key, part in value.items() if key != "template"}
    if hasattr(value, "tolist"):
        return _plain(value.tolist())
    if isinstance(value, list | tuple):
        return [_plain(part) for part in value]
    return None if isinstance(value, float) and value != value else value
