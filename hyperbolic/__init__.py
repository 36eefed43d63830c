"""Hyperbolic geometry for machine learning, exact to the last digits.

>>> import torch
>>> from hyperbolic import lorentz
>>> lorentz.dist(torch.tensor([1.0, 0.0]), torch.tensor([1.001, 0.0]))
tensor(0.0007)
"""

from hyperbolic import lorentz, models, pairwise, poincare
from hyperbolic.ops.native import kernels
from hyperbolic.validation import checks
from hyperbolic.version import __version__

__all__ = ["__version__", "checks", "kernels", "lorentz", "models", "pairwise", "poincare"]
