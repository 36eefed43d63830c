"""What the anchor loss costs, against the L2 loss on the same features: forward, and the gradient of the states."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Annotated

import torch
import typer
from harness.measure import BACKWARD, OURS, Group, Implementation, measure
from harness.sizes import shape
from rich.console import Console
from rich.table import Table
from torch import Tensor

from icl.losses import AnchorLoss

FLOOR = "l2"
SCALES = ("unit", "layer")


def states(layers: int, batch: int, tokens: int, width: int, dtype: torch.dtype) -> list[Sequence[Tensor]]:
    """Of a student near its teacher, and which tokens are valid: a tenth is padding."""
    generator = torch.Generator().manual_seed(0)
    size = (batch, tokens, width)
    teacher = [torch.randn(size, generator=generator) for _ in range(layers)]
    student = [t + 0.3 * torch.randn(size, generator=generator) for t in teacher]
    mask = torch.rand(batch, tokens, generator=generator) < 0.9
    return [[s.to(dtype) for s in student], [t.to(dtype) for t in teacher], [mask]]


def run(loss: AnchorLoss, student: Sequence[Tensor], teacher: Sequence[Tensor], mask: Sequence[Tensor]) -> object:
    """Evaluate a loss and its gradient."""
    leaves = [s.detach().requires_grad_() for s in student]
    return torch.autograd.grad(loss(leaves, teacher, mask[0]), leaves)


def main(
    layers: Annotated[int, typer.Option()] = 8,
    batch: Annotated[int, typer.Option()] = 8,
    tokens: Annotated[int, typer.Option(help="Of a row of the batch.")] = 64,
    width: Annotated[int, typer.Option(help="Of the states.")] = 4096,
    budget: Annotated[float, typer.Option(help="Seconds for each implementation of a row.")] = 5.0,
) -> None:
    """Measure the losses in turns, on one thread, and compare their medians.

    Example: python bench/losses.py --width 64 --budget 0
    """
    torch.set_num_threads(1)
    sizes = (layers, batch, tokens, width)
    table = Table("features", "states", "geodesic ms", "l2 ms", "ratio", "MB", title=f"{shape(*sizes)}, {BACKWARD}")
    for scale in SCALES:
        for dtype in (torch.float32, torch.bfloat16):
            name = str(dtype).removeprefix("torch.")
            losses = {OURS: AnchorLoss(feature_scale=scale), FLOOR: AnchorLoss("l2", feature_scale=scale)}
            implementations = {key: Implementation(partial(run, loss)) for key, loss in losses.items()}
            make = partial(states, *sizes, dtype)
            group = Group("losses", scale, "lorentz", BACKWARD, shape(*sizes), make, implementations, FLOOR, name)
            results = measure(group, budget)
            ours, floor = (results[key].quantiles()[1] for key in (OURS, FLOOR))
            memory = " / ".join(f"{results[key].memory:.0f}" for key in (OURS, FLOOR))
            table.add_row(scale, name, f"{1e3 * ours:.0f}", f"{1e3 * floor:.0f}", f"{ours / floor:.2f}", memory)
    Console().print(table)


if __name__ == "__main__":
    typer.run(main)
