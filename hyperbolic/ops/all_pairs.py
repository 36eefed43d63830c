"""The operators over all pairs of points of a model, made from its distance of two points."""

from __future__ import annotations

from hyperbolic.ops import triton
from hyperbolic.ops.contrast import Contrast
from hyperbolic.ops.dispatch import Op
from hyperbolic.ops.nearest import Nearest
from hyperbolic.ops.pairs import PairsOp
from hyperbolic.ops.repair import Repair


class AllPairs:
    """One of each: distances, nearest rows, the sums of the contrastive loss, and the repair of a matrix of distances.

    Kernels are registered for CUDA tensors too where there may be any.
    """

    def __init__(self, row_dist: Op):
        model = row_dist.title.partition(".")[0]
        self.row_dist = row_dist
        self.dist = PairsOp(f"{model}.pairwise_dist", row_dist)
        self.nearest = Nearest(model, row_dist)
        self.contrast = Contrast(model, self.dist)
        self.repair = Repair(model, row_dist)
        triton.register(model, self.dist, self.nearest, self.contrast)
