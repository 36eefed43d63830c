"""What the kernels are held to, and what the rows of a CSV say to that."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import groupby
from typing import NamedTuple

from harness.measure import BACKWARD, FORWARD, OURS
from harness.rows import ONE_INPUT, TWO_INPUTS
from harness.sizes import Sizes, shape
from harness.table import KEY, Row


class Target(NamedTuple):
    """A bound on the worst of the groups whose key has these values.

    It is one on the ratio to the floor unless another ``figure`` is named: "memory MB", "us", or "times faster
    than", followed by the name of a peer, for which the bound is from below.
    """

    text: str
    bound: float
    where: Mapping[str, str | tuple[str, ...]]
    figure: str = "ratio"

    @property
    def from_below(self) -> bool:
        """Whether a figure must be at least the bound."""
        return self.figure.startswith(FASTER)

    def met(self, value: float) -> bool:
        """Whether a figure is within the bound."""
        return value >= self.bound if self.from_below else value <= self.bound


class Finding(NamedTuple):
    """How a target fared."""

    target: Target
    value: float | None  # of the worst group, if there is one
    group: str
    floor: str


FASTER = "times faster than "
FORMULA = FASTER + "matmul+acosh"


def targets(sizes: Sizes) -> Iterator[Target]:
    """Yield the targets at these sizes."""
    n = sizes.pairs
    wide, narrow = shape(n, n, sizes.wide), shape(n, n, sizes.narrow)
    for model in ("lorentz", "poincare"):
        pairs = {"op": "pairwise_dist", "model": model, "case": "spread", "pass": FORWARD}
        name = f"`pairwise_dist` {model}, N = M = {n}"
        yield Target(f"{name}, D = {sizes.wide}, forward", 1.5, {**pairs, "shape": wide})
        yield Target(f"{name}, D = {sizes.narrow}, forward", 2.2, {**pairs, "shape": narrow})
        yield Target(f"{name}, D = {sizes.wide}, forward+backward", 4.5, {**pairs, "shape": wide, "pass": BACKWARD})
        yield Target(f"{name}, D = {sizes.wide}, forward", 3, {**pairs, "shape": wide}, FORMULA)
        yield Target(f"{name}, D = {sizes.narrow}, forward", 6, {**pairs, "shape": narrow}, FORMULA)
        for case, bound in (("16 clusters", 3.5), ("2 clusters", 8)):
            where = {**pairs, "shape": wide, "case": case}
            yield Target(f"{name}, D = {sizes.wide}, {case} at radius 3, forward", bound, where)
    rows, dim = sizes.bank
    text = f"`nearest`, bank {rows} x {dim}, {sizes.queries} queries, k = {sizes.neighbors}"
    yield Target(text, 1.5, {"op": "nearest", "pass": FORWARD})
    loss = {"op": "contrastive_loss", "shape": shape(sizes.loss, sizes.loss, sizes.wide), "pass": BACKWARD}
    text = f"`contrastive_loss`, N = {sizes.loss}, D = {sizes.wide}, forward+backward"
    yield Target(text, 6, loss)
    yield Target(f"{text}, peak memory beyond the inputs, gradients included", 100, loss, "memory MB")
    for inputs, names, bound in (("one-input", ONE_INPUT, 2), ("two-input", TWO_INPUTS, 3)):
        text = f"row-wise, {shape(*sizes.rows)}, {inputs} functions"
        yield Target(f"{text}, forward", bound, {"op": "rowwise", "case": names, "pass": FORWARD})
        yield Target(f"{text}, forward+backward", 6, {"op": "rowwise", "case": names, "pass": BACKWARD})
    for dtype in ("float32", "bfloat16"):
        text = f"`dist_exp0`, {shape(*sizes.tangents)}, {dtype}, forward+backward"
        yield Target(text, 2, {"op": "dist_exp0", "dtype": dtype, "pass": BACKWARD})
    text = f"a call of a row-wise function on {shape(*sizes.small)}, forward"
    yield Target(text, 10, {"op": "overhead", "pass": FORWARD}, "us")


def grouped(rows: Sequence[Row]) -> list[dict[str, Row]]:
    """The rows of each group, by implementation."""
    by_key = groupby(rows, lambda row: [row[name] for name in KEY])
    return [{row["implementation"]: row for row in group} for _, group in by_key]


def find(target: Target, groups: Sequence[dict[str, Row]]) -> Finding:
    """Return the worst group of a target."""
    values, floor = {}, "the floor"
    for group in groups:
        ours = group[OURS]
        if any(ours[name] not in ((want,) if isinstance(want, str) else want) for name, want in target.where.items()):
            continue
        if target.from_below:
            peer = group.get(target.figure.removeprefix(FASTER))
            value = float(peer["p50 s"]) / float(ours["p50 s"]) if peer else None
        else:
            value = float(ours["p50 s"]) * 1e6 if target.figure == "us" else float(ours[target.figure])
        if value is not None:
            values[f"{ours['model']} {ours['case']}".strip()], floor = value, ours["floor"]
    if not values:
        return Finding(target, None, "", floor)
    worst = (min if target.from_below else max)(values, key=values.__getitem__)
    return Finding(target, values[worst], worst, floor)
