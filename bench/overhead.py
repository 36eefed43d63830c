"""What a call costs: the row-wise functions on tensors too small for anything else to count."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any

from harness import peers
from harness.measure import FORWARD, OURS, WAYS, Group, Implementation
from harness.rows import MODULES, functions, inputs
from harness.sizes import Sizes, shape
from torch import Tensor

OP = "overhead"
FLOOR = "torch.add"
GRADIENTS = {"forward": False, "forward, recorded for backward": True}


def arguments(model: str, name: str, sizes: tuple[int, int], gradients: bool) -> list[Tensor]:
    """Return the arguments of one measurement."""
    return [a.requires_grad_(gradients) for a in inputs(model, name, *sizes, backward=False)]


def leaves(prepare: Callable[..., Sequence[Any]], *args: Tensor) -> list[Tensor]:
    """Return the arguments prepared, as leaves of a new graph."""
    return [a.detach().requires_grad_(args[0].requires_grad) for a in prepare(*args)]


def groups(sizes: Sizes) -> Iterator[Group]:
    """Yield the groups of implementations that are timed side by side."""
    for model, module in MODULES.items():
        for name in functions(model):
            for passes, gradients in GRADIENTS.items():
                implementations = {
                    OURS: Implementation(getattr(module, name)),
                    FLOOR: Implementation(lambda x, *_: x + x),
                }
                for peer, (run, prepare) in peers.row_wise(model, name, WAYS[FORWARD]).items():
                    implementations[peer] = Implementation(run, partial(leaves, prepare))
                make = partial(arguments, model, name, sizes.small, gradients)
                described = shape(*sizes.small)
                yield Group(OP, name, model, passes, described, make, implementations, FLOOR, calls=sizes.calls)


def test_overhead(group: Group, implementation: str, compare: Callable[[Group, str], None]) -> None:
    """Time one implementation of a group."""
    compare(group, implementation)
