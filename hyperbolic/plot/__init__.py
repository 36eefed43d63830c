"""The Poincaré disk, drawn: points, geodesics between them, and points of more dimensions brought down to two.

Needs matplotlib, and plotly for :func:`interactive`; ``hyperbolic`` itself imports neither this module nor those.

>>> import torch
>>> from hyperbolic import lorentz
>>> points, stress, explained = reduce(lorentz.expmap0(torch.eye(5)), dim=2)
>>> ax = disk(points, labels=["a", "a", "b", "b", "b"], edges=torch.tensor([[0, 1], [2, 3]]))
"""

from hyperbolic.plot.axes import depths as depths
from hyperbolic.plot.axes import disk as disk
from hyperbolic.plot.mds import Reduced as Reduced
from hyperbolic.plot.mds import reduce as reduce
from hyperbolic.plot.web import figure as figure
from hyperbolic.plot.web import interactive as interactive
