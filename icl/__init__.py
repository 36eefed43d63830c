"""In-context learning with vision-language models on hyperbolic geometry: demonstrations, ranked or distilled."""

from hyperbolic.version import __version__

__all__ = ["__version__"]
