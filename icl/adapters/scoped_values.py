"""Values that hold inside ``with`` blocks, for the thread or task that a block stands in alone.

So requests can be served side by side, each with adapters and prompts of its own.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from itertools import count
from typing import Any

_STACKS: ContextVar[Mapping[tuple[int, str], tuple[Any, ...]]] = ContextVar("icl_adapters", default={})  # noqa: B039
"""By owner and name, the values of the blocks that are open, the innermost last."""
_NUMBERS = count()


class ScopedValues:
    """Values of one model's adapters, by name."""

    def __init__(self) -> None:
        self._number = next(_NUMBERS)
        # Name and opener of each block, in any thread, that a pass elsewhere may have been meant for.
        self._open: list[tuple[str, str]] = []

    def __deepcopy__(self, memo: Any) -> ScopedValues:
        return ScopedValues()

    def __reduce__(self) -> Any:
        return ScopedValues, ()

    def _stack(self, name: str) -> tuple[Any, ...]:
        return _STACKS.get().get((self._number, name), ())

    def _set_stack(self, name: str, stack: tuple[Any, ...]) -> None:
        _STACKS.set({**_STACKS.get(), (self._number, name): stack})

    def has(self, name: str) -> bool:
        """Return whether a block of this name is open here."""
        return bool(self._stack(name))

    def get(self, name: str, default: Any = None) -> Any:
        """Return the value of the innermost block."""
        return self._stack(name)[-1] if self.has(name) else default

    def assign(self, name: str, value: Any) -> None:
        """Change a value until the block that set it ends."""
        self._set_stack(name, (*self._stack(name)[:-1], value))

    @contextmanager
    def setting(self, name: str, value: Any, by: str | None = None) -> Iterator[None]:
        """Hold ``value`` inside the block. ``by`` is the method that :meth:`check` asks other threads to call as well.

        Raises:
            RuntimeError: where blocks with ``by`` do not end in the order in which they nest.
        """
        outer = self._stack(name)
        self._set_stack(name, (*outer, value))
        if by is not None:
            self._open.append((name, by))
        try:
            yield
        finally:
            if by is not None:
                self._open.remove((name, by))
            depth = len(self._stack(name))
            if depth > len(outer):  # else a block around this one has ended, and taken this one's value with it
                self._set_stack(name, outer)
            if by is not None and depth != len(outer) + 1:
                raise RuntimeError(
                    f"adapters: a block of `{by}` ended before another one that began inside of it, and what ran in "
                    "between had the wrong choice: generators must not yield inside of such blocks"
                )

    def check(self) -> None:
        """Raise ``RuntimeError`` where a block is open in another thread or task, and none in this one.

        Whoever starts ``generate`` in a thread of its own, to stream from it, expects the choice made around it.
        """
        elsewhere = list(self._open)
        if elsewhere and not any(self.has(name) for name, _ in elsewhere):
            raise RuntimeError(
                f"adapters: `{elsewhere[0][1]}` holds in the thread or task that called it, which is another one: call "
                "it in the one that runs the model, around that call"
            )
