"""Packages whose names are imported on first use (PEP 562), so that a command pays only for what it works with.

A wing lists what others may use once, as imports under ``TYPE_CHECKING``, where type checkers, editors and
import-linter find them too.
"""

from __future__ import annotations

import ast
import sys
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any


def attach(package: str) -> tuple[Callable[[str], Any], Callable[[], list[str]], list[str]]:
    """Return ``__getattr__``, ``__dir__`` and ``__all__`` of a package, from what it imports under ``TYPE_CHECKING``.

    A name of the package must not be that of a module in it, which would take its place once imported.
    """
    module = sys.modules[package]
    body = ast.parse(Path(str(module.__file__)).read_text(encoding="utf-8")).body
    block = next(node for node in body if isinstance(node, ast.If))
    homes = {
        alias.asname or alias.name: (str(node.module), alias.name)
        for node in block.body
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    }

    def getattribute(name: str) -> Any:
        if name not in homes:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        home, original = homes[name]
        if home == package:
            return import_module(f"{package}.{original}")
        value = getattr(import_module(home), original)
        setattr(module, name, value)
        return value

    names = sorted(homes)
    return getattribute, lambda: names, names
