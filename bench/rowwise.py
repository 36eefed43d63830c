"""The row-wise maps and distances of both models against a copy of their first argument, and other libraries."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial

from harness import peers
from harness.measure import BACKWARD, OURS, PASSES, WAYS, Group, Implementation
from harness.rows import MODULES, functions, inputs
from harness.sizes import Sizes, shape
from torch import Tensor

OP = "rowwise"
FLOOR = "copy"


def into(x: Tensor, *_: Tensor) -> list[Tensor]:
    """Return the arguments of a copy."""
    # Pages that are there: half the cost of a copy into new memory is to get them from the system.
    return [x, x.clone()]


def groups(sizes: Sizes) -> Iterator[Group]:
    """Yield the groups of implementations that are timed side by side."""
    for model, module in MODULES.items():
        for name in functions(model):
            for passes in PASSES:
                way = WAYS[passes]
                implementations = {
                    OURS: Implementation(way(getattr(module, name))),
                    FLOOR: Implementation(lambda x, *_: x.clone()),
                    "copy into": Implementation(lambda x, out: out.copy_(x), into),
                    **peers.row_wise(model, name, way),
                }
                make = partial(inputs, model, name, *sizes.rows, passes == BACKWARD)
                yield Group(OP, name, model, passes, shape(*sizes.rows), make, implementations, FLOOR)


def test_rowwise(group: Group, implementation: str, compare: Callable[[Group, str], None]) -> None:
    """Time one implementation of a group."""
    compare(group, implementation)
