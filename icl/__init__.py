"""In-context learning with vision-language models on hyperbolic geometry: demonstrations, ranked or distilled."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from hyperbolic.version import __version__ as __version__

__all__ = ["__version__"]


def __getattr__(name: str) -> str:
    """The version on first use: it is that of ``hyperbolic``, which imports torch."""
    if name != "__version__":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from hyperbolic.version import __version__

    return __version__
