"""A small vision-language model that really learns in context, and tasks that tell methods apart (docs/testbed.md)."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from icl.testbed.model import load
    from icl.testbed.tasks import TASKS, load_task

__all__ = ["TASKS", "load", "load_task"]


def __getattr__(name: str) -> Any:
    """On first use: transformers and datasets take seconds to import, and the command line mounts this package."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module("icl.testbed.model" if name == "load" else "icl.testbed.tasks"), name)
