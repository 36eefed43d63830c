"""The operators over all pairs on CUDA tensors, as Triton kernels."""

from __future__ import annotations

import os
from collections.abc import Callable
from importlib import import_module
from importlib.util import find_spec
from typing import Any

import torch

from hyperbolic.ops.contrast import Contrast
from hyperbolic.ops.dispatch import after, library
from hyperbolic.ops.nearest import Nearest
from hyperbolic.ops.pairs import PairsOp

# With the tensor cores that multiply bfloat16 and float64.
_OLDEST = (8, 0)


def register(model: str, dist: PairsOp, nearest: Nearest, contrast: Contrast) -> None:
    """Makes the kernels those of CUDA tensors, if there may be any. Triton is imported when the first is called."""
    built = torch.backends.cuda.is_built() and torch.version.cuda is not None and find_spec("triton") is not None
    if not built or os.environ.get("HYPERBOLIC_KERNELS") == "reference":
        return
    level, derivative = dist.level, dist.level.derivative
    _serve(model, "pairwise_dist", "pairwise_dist", level.check, level.evaluate)
    _serve(model, "pairwise_dist", "pairwise_dist_backward", derivative.check, derivative.evaluate)
    _serve(model, "nearest", "nearest", nearest.check, nearest.evaluate)
    _serve(model, "contrast", "contrast", contrast.check, contrast.evaluate)
    _serve(model, "contrast", "contrast_backward", contrast.check, contrast.evaluate_backward)


def _serve(model: str, file: str, name: str, check: Callable[..., Any], reference: Callable[..., Any]) -> None:
    def kernel(*args: Any) -> Any:
        device = args[0].device
        if torch.cuda.get_device_capability(device) < _OLDEST:
            return reference(*args)
        function = getattr(import_module(f"hyperbolic.ops.triton.{file}"), name)
        with torch.cuda.device(device):
            return function(model, *args)

    library.impl(f"{model}_{name}", after(check, kernel), "CUDA")
