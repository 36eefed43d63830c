"""Named sources of models and data: a name such as "testbed:options" is looked up by what stands before the colon.

A package registers a source as an entry point in the group ``icl.sources``; the testbed is one (pyproject.toml).
"""

from __future__ import annotations

from importlib.metadata import entry_points
from pathlib import Path
from typing import Any, Protocol

GROUP = "icl.sources"


class NamedSource(Protocol):
    """A source of models and of splits of data, by the rest of a name: "options/dev" of "testbed:options/dev"."""

    def load_model(self, rest: str) -> tuple[Any, Any]:
        """Return a model on the CPU and its processor. ``ValueError`` if there is none of this name."""

    def model_folder(self, rest: str) -> Path:
        """Return the folder of a model's files, by which it is told from another that took its place."""

    def open_split(self, rest: str, split: str) -> Any:
        """Return a :class:`icl.training.Split`. ``ValueError`` if there is none of this name."""


def find_source(name: str) -> tuple[NamedSource, str] | None:
    """Return the source that a name is of, and the rest of the name, or ``None`` for a path or a name on the hub.

    >>> find_source("rows.jsonl") is None
    True
    """
    head, _, rest = name.partition(":")
    points = entry_points(group=GROUP, name=head) if head.isidentifier() else ()
    return next(((point.load(), rest) for point in points), None)
