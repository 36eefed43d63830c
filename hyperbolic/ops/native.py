"""Loads the compiled kernels, which take over from the reference operators on the devices they are built for."""

from __future__ import annotations

import ctypes
import os
import warnings
from dataclasses import dataclass
from pathlib import Path

import torch

CHOICES = ("reference", "baseline", "avx2", "avx512")
"""What the environment variable ``HYPERBOLIC_KERNELS`` may name. Unset: the best that this machine runs."""


@dataclass(frozen=True)
class Kernels:
    """What runs for tensors on the CPU, and why."""

    cpu: str
    reason: str


def _load() -> Kernels:
    wanted = os.environ.get("HYPERBOLIC_KERNELS", "")
    if wanted and wanted not in CHOICES:
        raise ValueError(f"HYPERBOLIC_KERNELS must be one of {', '.join(CHOICES)}, got {wanted!r}")
    if wanted == "reference":
        return Kernels("reference", "HYPERBOLIC_KERNELS=reference")
    path = Path(__file__).parent.parent / "_kernels.abi3.so"
    try:
        torch.ops.load_library(str(path))
    except OSError as error:
        reason = str(error) if path.exists() else "the package was installed without a C++ compiler"
        warnings.warn(f"hyperbolic: no compiled kernels, running on the reference: {reason}", RuntimeWarning, 2)
        return Kernels("reference", reason)
    name = ctypes.CDLL(str(path)).hyperbolic_isa
    name.restype = ctypes.c_char_p
    isa = name().decode()
    if not wanted:
        return Kernels(isa, "the best that this machine runs")
    return Kernels(isa, f"HYPERBOLIC_KERNELS={wanted}" + ("" if isa == wanted else ", which this machine does not run"))


loaded = _load()


def kernels() -> Kernels:
    """What runs here and why: the name of an instruction set, or "reference".

    The compiled kernels serve CPU tensors; any other device runs the reference, on its own arithmetic. The
    environment variable ``HYPERBOLIC_KERNELS``, read at import, forces "reference" or a lower instruction set.

    >>> import hyperbolic
    >>> hyperbolic.kernels().cpu in ("reference", "baseline", "avx2", "avx512")
    True
    """
    return loaded
