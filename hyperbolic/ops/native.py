"""Loads the compiled kernels, which take over from the reference operators on the devices they are built for."""

from __future__ import annotations

import ctypes
import os
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

CHOICES = ("reference", "baseline", "avx2", "avx512")
"""What the environment variable ``HYPERBOLIC_KERNELS`` may name, best last. Unset: the best that this machine runs."""

_PACKAGE = Path(__file__).parent.parent


@dataclass(frozen=True)
class Kernels:
    """What runs for tensors on the CPU and on a GPU, and why."""

    cpu: str
    reason: str
    cuda: str
    cuda_reason: str


def _load() -> tuple[str, str]:
    wanted = os.environ.get("HYPERBOLIC_KERNELS", "")
    if wanted and wanted not in CHOICES:
        raise ValueError(f"HYPERBOLIC_KERNELS must be one of {', '.join(CHOICES)}, got {wanted!r}")
    if wanted == "reference":
        return "reference", "HYPERBOLIC_KERNELS=reference"
    path = _PACKAGE / "_kernels.abi3.so"
    try:
        torch.ops.load_library(str(path))
    except OSError as error:
        return _reference(str(error) if path.exists() else "the package was installed without a C++ compiler")
    library = ctypes.CDLL(str(path))
    try:
        used, built = _text(library.hyperbolic_isa), _text(library.hyperbolic_isas).split(":")[1].split()
    except AttributeError as error:  # a function that the library lacks
        return _reference(f"{path} was built from other sources, build it again: {error}")
    if not wanted and not used:
        return _reference(f"this machine does not run what the kernels were built for: {', '.join(built)}")
    if not wanted:
        of = "" if set(CHOICES[1:]) == set(built) else f", of those that the kernels were built for: {', '.join(built)}"
        return used, f"the best that this machine runs{of}"
    reason = f"HYPERBOLIC_KERNELS={wanted}"
    if used == wanted:
        return used, reason
    if wanted in built:
        reason += ", which this machine does not run"
    else:
        reason += f", for which they were not built, but for {', '.join(built)} (HYPERBOLIC_BUILD_CPU in setup.py)"
    if not used:
        return _reference(reason)
    if wanted not in built:
        warnings.warn(f"hyperbolic: running the {used} kernels: {reason}", RuntimeWarning, 2)
    return used, reason


def _text(function: Any) -> str:
    function.restype = ctypes.c_char_p
    return str(function().decode())


def _reference(reason: str) -> tuple[str, str]:
    warnings.warn(f"hyperbolic: no compiled kernels, running on the reference: {reason}", RuntimeWarning, 3)
    return "reference", reason


def _load_cuda() -> str:
    """Return why there are no kernels for GPUs; "" where there are.

    Whether there is a GPU is not asked: to ask at import would keep the processes that this one forks from using it.
    """
    if os.environ.get("HYPERBOLIC_KERNELS") == "reference":
        return "HYPERBOLIC_KERNELS=reference"
    if torch.version.cuda is None:
        return "this build of torch is one without CUDA"
    path = _PACKAGE / "_kernels_cuda.abi3.so"
    try:
        torch.ops.load_library(str(path))
    except OSError as error:
        return str(error) if path.exists() else "the package was installed without nvcc"
    return ""


_cpu, _missing = _load(), _load_cuda()


def kernels() -> Kernels:
    """Return what runs here and why.

    ``cpu`` names an instruction set, ``cuda`` the compute capability of the current GPU, and either may be "reference".

    The compiled kernels serve CPU tensors and, where the package was installed with nvcc, CUDA tensors; any other
    device runs the reference, on its own arithmetic. The environment variable ``HYPERBOLIC_KERNELS``, read at import,
    forces "reference" or a lower instruction set; of one that the kernels were not built for, a warning says so.

    >>> import hyperbolic
    >>> hyperbolic.kernels().cpu in ("reference", "baseline", "avx2", "avx512")
    True
    """
    if _missing or not torch.cuda.is_available():
        return Kernels(*_cpu, "reference", _missing or "there is no GPU here")
    major, minor = torch.cuda.get_device_capability()
    return Kernels(*_cpu, f"{major}.{minor}", "the GPU's compute capability; not yet run on hardware")
