"""The page's figures, as plotly draws them. Colours of text and lines are the page's, which knows light from dark."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import fmean
from typing import Any

import torch

from hyperbolic import plot
from icl.demo.tables import DIFFERENCE, JobResults, MethodRow, StrategyRow

Figure = dict[str, Any]
# The colours of Okabe and Ito, told apart with any colour vision, on white and on black.
_COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#999999")
_DASHES = ("solid", "dash", "dot", "dashdot")
_RING = "rgba(128, 138, 150, 0.6)"
_LEGEND = {"orientation": "h", "x": 0, "y": -0.22, "yanchor": "top"}


def disk(sample: Mapping[str, Any]) -> Figure:
    """Draw the bank's sample on the Poincaré disk."""
    points, edges = torch.tensor(sample["points"]), torch.tensor(sample["edges"])
    figure = plot.figure(
        points, sample["c"], labels=sample["labels"], texts=sample["names"], edges=edges, stars=sample["stars"]
    ).to_plotly_json()
    for shape in figure["layout"]["shapes"]:
        shape.pop("fillcolor", None)
        shape["line"]["color"] = _RING
    return {"data": _plain_values(figure["data"]), "layout": _plain_values(figure["layout"]) | {"height": 580}}


def strategies(rows: Sequence[StrategyRow]) -> Figure:
    """Draw accuracy against the number of demonstrations, a line for each strategy."""
    data = []
    for colour, name in zip(_COLOURS, dict.fromkeys(row.strategy for row in rows)):
        line = [row for row in rows if row.strategy == name]
        style = {"name": name, "mode": "lines+markers", "line": {"color": colour}}
        data.append({"x": [str(row.shots) for row in line], **_draw_accuracies(line, "y"), **style})
    x = {"title": {"text": "demonstrations"}, "type": "category"}
    y = {"title": {"text": "accuracy"}, "range": [-0.03, 1.03]}
    return {"data": data, "layout": {"xaxis": x, "yaxis": y, "legend": _LEGEND, "height": 420}}


def accuracies(rows: Sequence[MethodRow]) -> Figure:
    """Draw each method on each task, with its interval."""
    data = []
    rows = [row for row in rows if row.method != DIFFERENCE]
    for colour, task in zip(_COLOURS, dict.fromkeys(row.task for row in rows)):
        line = [row for row in rows if row.task == task][::-1]
        style = {"name": task, "mode": "markers", "marker": {"color": colour, "size": 9}}
        data.append({"y": [f"{row.method}, {task}" for row in line], **_draw_accuracies(line, "x"), **style})
    x = {"title": {"text": "accuracy on the test split"}, "range": [-0.03, 1.03]}
    y = {"automargin": True, "tickfont": {"size": 11}}
    legend = _LEGEND | {"y": -0.08}
    return {"data": data, "layout": {"xaxis": x, "yaxis": y, "legend": legend, "height": 120 + 21 * len(rows)}}


def curves(results: JobResults) -> Figure:
    """Draw the loss of each trial as it is trained, the mean over its bases; lines of the first task are visible."""
    by_trial: dict[str, dict[str, list[Any]]] = {}
    for job, result in results.items():
        if job.kind == "trial":
            by_trial.setdefault(job.task, {}).setdefault(job.name, []).append(result["curve"])
    data = []
    for task, trials in by_trial.items():
        for i, (name, trial) in enumerate(trials.items()):
            losses = zip(*([loss for _, loss in curve] for curve in trial))
            data.append(
                {
                    "x": [step for step, _ in trial[0]],
                    "y": [fmean(values) for values in losses],
                    "name": f"{name}, {task}",
                    "mode": "lines",
                    "line": {"color": _COLOURS[i % len(_COLOURS)], "dash": _DASHES[i // len(_COLOURS)]},
                    "legendgroup": task,
                    "visible": True if task == next(iter(by_trial)) else "legendonly",
                }
            )
    x, y = {"title": {"text": "step"}}, {"title": {"text": "loss"}, "type": "log"}
    legend = _LEGEND | {"groupclick": "toggleitem"}
    return {"data": data, "layout": {"xaxis": x, "yaxis": y, "legend": legend, "height": 460 + 20 * len(data)}}


def _draw_accuracies(rows: Sequence[Any], axis: str) -> Figure:
    """Return the accuracies of rows along an axis, with bars from low to high."""
    above, below = [row.high - row.accuracy for row in rows], [row.accuracy - row.low for row in rows]
    bars = {"type": "data", "symmetric": False, "array": above, "arrayminus": below, "thickness": 1}
    return {axis: [row.accuracy for row in rows], f"error_{axis}": bars}


def _plain_values(value: Any) -> Any:
    """Return lists and numbers for what plotly keeps as arrays."""
    if isinstance(value, Mapping):
        return {key: _plain_values(part) for key, part in value.items() if key != "template"}
    if hasattr(value, "tolist"):
        return _plain_values(value.tolist())
    if isinstance(value, list | tuple):
        return [_plain_values(part) for part in value]
    return None if isinstance(value, float) and value != value else value
