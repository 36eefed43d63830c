"""Builds csrc/cuda for the host and registers its operators for CPU tensors, as ``torch.ops.hyperbolic_simt``."""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
import subprocess
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import torch
from torch.utils.cpp_extension import include_paths, library_paths

HERE = Path(__file__).parent
ROOT = HERE.parents[2]
COMPILER = shutil.which(os.environ.get("CXX", "g++")) or ""
NAMESPACE = "hyperbolic_simt"
FLAGS = [
    "-std=c++17",
    "-O1",
    "-fPIC",
    "-fvisibility=hidden",
    "-Wall",
    "-Wextra",
    "-Werror",
    "-Wno-unknown-pragmas",  # loops that nvcc is to unroll
    f"-Dhyperbolic={NAMESPACE}",
    "-DUSE_CUDA",
    "-DTORCH_TARGET_VERSION=0x020a000000000000",
    f"-I{HERE}",  # a cuda_runtime.h
    *(flag for path in include_paths() if "torch" in path for flag in ("-isystem", path)),
]
# By the suffix of the file: kernels know a GPU's compiler by this name.
OWN_FLAGS = {".cu": ["-D__CUDACC__", "-include", "cuda_runtime.h", "-x", "c++"], ".cpp": ["-include", "torch_on_cpu.h"]}


def library() -> Path:
    """The library, made by whichever process comes first."""
    sources = sorted(path for path in (ROOT / "csrc" / "cuda").iterdir() if path.suffix in OWN_FLAGS)
    seen = [path for folder in (ROOT / "csrc", HERE) for path in sorted(folder.rglob("*")) if path.is_file()]
    key = hashlib.sha256(b"".join(path.read_bytes() for path in seen) + torch.__version__.encode()).hexdigest()[:16]
    folder = ROOT / "build" / "simt"
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        built = folder / key / "simt.so"
        if not built.exists():
            for old in folder.glob("*/"):
                shutil.rmtree(old)
            built.parent.mkdir()
            _compile(sources, built)
    return built


def _compile(sources: list[Path], built: Path) -> None:
    def compile_one(source: Path, own: list[str]) -> str:
        obj = str(built.parent / f"{source.name}.o")
        subprocess.run([COMPILER, *FLAGS, *own, "-c", str(source), "-o", obj], check=True)
        return obj

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        jobs = [pool.submit(compile_one, source, OWN_FLAGS[source.suffix]) for source in sources]
        jobs.append(pool.submit(compile_one, HERE / "simt.cpp", []))
        objects = [job.result() for job in jobs]
    torch_library = [*(f"-L{path}" for path in library_paths()), "-ltorch_cpu"]
    unfinished = built.with_suffix(".tmp")
    subprocess.run([COMPILER, "-shared", "-Wl,-Bsymbolic", *objects, *torch_library, "-o", str(unfinished)], check=True)
    unfinished.rename(built)


def register(names: list[str]) -> torch.library.Library:
    """Declares the operators ``hyperbolic::name`` in the other namespace and loads what implements them there."""
    registry = torch.library.Library(NAMESPACE, "DEF")
    for name in names:
        registry.define(str(getattr(torch.ops.hyperbolic, name).default._schema).removeprefix("hyperbolic::"))
    torch.ops.load_library(str(library()))
    return registry
