"""Builds the kernels of csrc/ against torch's stable ABI.

That makes one library for every torch from 2.10 on and any Python, and where there is nvcc a second one for GPUs. The
libraries are loaded by torch, not imported by Python. Without a compiler the package installs all the same and
runs on its reference implementations.

Environment variables say how much is built, for machines that need not have all of it; the first of each is what is
built if nothing is said:

HYPERBOLIC_BUILD_CPU   "all" instruction sets; "native": the best that this machine runs; "none"; or names of them:
                       "avx2,baseline". A library that has these and more stays as it is.
HYPERBOLIC_BUILD_CUDA  "nvcc": where there is nvcc, with a GPU or not; "gpu": where there are nvcc, a GPU, and a torch
                       that uses it; "none".
HYPERBOLIC_BUILD_FLAGS more flags for the compiler and the linker of the CPU library, after all others: sanitizers.

What was compiled for one of them is kept in build/ and not compiled again for the next, if nothing has changed.
"""

import os
import platform
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext
from setuptools.modified import newer_group

# Torch, which takes seconds to import, is imported where something is built and not before.

FLAGS = [
    "-std=c++17",
    "-O3",
    "-g0",
    # sqrt without a call that sets errno, conditionals that may compute both sides: what vectorising them takes
    "-fno-math-errno",
    "-fno-trapping-math",
    "-fvisibility=hidden",
    "-Wall",
    "-Wextra",
    "-Wno-psabi",  # vectors are passed to inlined functions only
]
AVX2 = ["-mavx2", "-mfma", "-mf16c"]
AVX512 = [f"-mavx512{part}" for part in ("f", "cd", "bw", "dq", "vl")]
# Best first. Each is a file of csrc/cpu/kernels.
INSTRUCTION_SETS = {"avx512": [*AVX2, *AVX512, "-mprefer-vector-width=512"], "avx2": AVX2, "baseline": []}
BUILD_CPU = os.environ.get("HYPERBOLIC_BUILD_CPU") or "all"
BUILD_CUDA = os.environ.get("HYPERBOLIC_BUILD_CUDA") or "nvcc"
BUILD_FLAGS = shlex.split(os.environ.get("HYPERBOLIC_BUILD_FLAGS", ""))

NVCC = shutil.which("nvcc", path=f"{os.environ['CUDA_HOME']}/bin" if "CUDA_HOME" in os.environ else None)
HOST_COMPILER = [f"-ccbin={os.environ['CXX']}"] if "CXX" in os.environ else []
# sm_90 and not sm_90a, whose matrix and copy engines these kernels do not use. Its PTX serves what is newer.
ARCHITECTURES = ["-gencode=arch=compute_80,code=sm_80", "-gencode=arch=compute_90,code=[sm_90,compute_90]"]
CUDA_FLAGS = [
    *ARCHITECTURES,
    "-std=c++17",
    "-O3",
    "--expt-relaxed-constexpr",  # std::array, std::min and numeric_limits in kernels
    # no product is rounded together with a sum, as where the kernels are tested without a GPU
    "-fmad=false",
    "-Xcompiler=-fPIC,-fvisibility=hidden,-Wall",
    "-Werror=all-warnings",
    "-DUSE_CUDA",
]


class BuildKernels(build_ext):
    """Both libraries at once, as many files at a time as there are cores."""

    def finalize_options(self) -> None:
        """Build both libraries side by side."""
        super().finalize_options()
        self.parallel = 2  # libraries; their files share the pool

    def build_extensions(self) -> None:
        """Find torch, and build with a pool of compilers."""
        from torch.utils.cpp_extension import include_paths, library_paths

        # not ours to warn about
        headers = [flag for path in include_paths() if "torch" in path for flag in ("-isystem", path)]
        self.torch_flags = ["-DTORCH_TARGET_VERSION=0x020a000000000000", *headers]
        self.torch_folders = library_paths()
        with ThreadPoolExecutor(os.cpu_count()) as self.pool:
            super().build_extensions()

    def get_ext_filename(self, name: str) -> str:
        """Return the name of a library, the same for every Python."""
        return str(Path(*name.split("."))) + (".pyd" if sys.platform == "win32" else ".abi3.so")

    def build_extension(self, ext: Extension) -> None:
        """Build one library."""
        self.build_cuda(ext) if ext is cuda_kernels else self.build_cpu(ext)

    def build_cuda(self, ext: Extension) -> None:
        """All by nvcc, which knows where its headers and libraries are."""
        library, temp = Path(self.get_ext_fullpath(ext.name)), Path(self.build_temp) / "cuda"
        if not self.force and not newer_group([*ext.sources, *ext.depends], str(library), "newer"):
            return
        temp.mkdir(parents=True, exist_ok=True)
        library.parent.mkdir(parents=True, exist_ok=True)
        objects, jobs = [], []
        for source in ext.sources:
            objects.append(str(temp / f"{Path(source).name}.o"))
            command = [NVCC, *HOST_COMPILER, *CUDA_FLAGS, *self.torch_flags, "-c", source, "-o", objects[-1]]
            inputs = [source, *ext.depends]
            jobs.append(self.pool.submit(compile_if_changed, objects[-1], inputs, command, self.spawn, command))
        for job in jobs:
            job.result()
        # What is to be found in torch's CUDA half when the library is loaded. A torch without one can be built against
        # too, so what is linked is a library of that name with nothing in it.
        empty, half = temp / "empty.cpp", str(temp / "libtorch_cuda.so")
        empty.touch()
        link = [NVCC, *HOST_COMPILER, *ARCHITECTURES, "-shared", "-cudart=shared"]
        self.spawn([*link, "-Xlinker=-soname=libtorch_cuda.so", str(empty), "-o", half])
        libraries = [*(f"-L{path}" for path in self.torch_folders), "-ltorch_cpu"]
        self.spawn([*link, *objects, *libraries, f"-Xlinker=--no-as-needed,{half}", "-o", str(library)])

    def build_cpu(self, ext: Extension) -> None:
        """As setuptools does, with the files compiled side by side, each for its instruction set."""
        library = Path(self.get_ext_fullpath(ext.name))
        wanted = self.wanted_instruction_sets()
        if library.exists() and not set(wanted) <= set(built_instruction_sets(library)):
            os.utime(library, (0, 0))  # older than its sources
        flags_of = {f"{name}.cpp": flags for name, flags in INSTRUCTION_SETS.items()}
        flags_of["isa.cpp"] = [f"-DHYPERBOLIC_HAS_{name.upper()}" for name in wanted]
        left_out = {f"{name}.cpp" for name in INSTRUCTION_SETS if name not in wanted}
        ext.extra_compile_args, ext.library_dirs = [*FLAGS, *self.torch_flags, *BUILD_FLAGS], self.torch_folders
        ext.extra_link_args = BUILD_FLAGS
        ext.sources = [source for source in ext.sources if Path(source).name not in left_out]
        compile_one, link = self.compiler._compile, self.compiler.link_shared_object
        calls, jobs = [], []

        def collect(obj, source, ext_of_source, cc_args, flags, options):
            calls.append((obj, source, ext_of_source, cc_args, [*flags, *flags_of.get(Path(source).name, [])], options))

        def finish(*args, **kwargs):
            # kernels take ten times as long as anything else
            for call in sorted(calls, key=lambda call: Path(call[1]).parent.name != "kernels"):
                obj, source, _, cc_args, flags, options = call
                command = [*self.compiler.compiler_so_cxx, source, *cc_args, *flags, *options]
                inputs = [source, *ext.depends]
                jobs.append(self.pool.submit(compile_if_changed, obj, inputs, command, compile_one, *call))
            for job in jobs:
                job.result()
            link(*args, **kwargs)

        self.compiler._compile, self.compiler.link_shared_object = collect, finish
        super().build_extension(ext)

    def wanted_instruction_sets(self) -> list[str]:
        """Return the names of those that ``HYPERBOLIC_BUILD_CPU`` asks for, best first."""
        if platform.machine() not in ("x86_64", "AMD64"):
            return ["baseline"]
        if BUILD_CPU == "all":
            return list(INSTRUCTION_SETS)
        if BUILD_CPU != "native":
            return [name for name in INSTRUCTION_SETS if name in BUILD_CPU.split(",")]
        ask = [*self.compiler.compiler_so[:1], "-march=native", "-dM", "-E", "-x", "c", os.devnull]
        try:
            macros = subprocess.run(ask, check=True, capture_output=True, text=True).stdout
        except (OSError, subprocess.CalledProcessError):
            return list(INSTRUCTION_SETS)
        defined = set(re.findall(r"#define (\w+) 1\n", macros))
        for name, flags in INSTRUCTION_SETS.items():
            if all(f"__{flag[2:].upper()}__" in defined for flag in flags if "=" not in flag):
                return [name]


def compile_if_changed(obj: str, inputs: Sequence[str], command: Sequence[str], run: Callable, *args) -> None:
    """Compile one file, unless that was done by the same command after all its inputs were last changed."""
    import torch

    record = Path(f"{obj}.command")
    text = f"{shlex.join(map(str, command))}\ntorch {torch.__version__}\n"
    if record.exists() and record.read_text() == text and not newer_group(inputs, obj):
        return
    record.unlink(missing_ok=True)
    run(*args)
    record.write_text(text)


def built_instruction_sets(library: Path) -> list[str]:
    """Those of a library, from the text that csrc/cpu/isa.cpp leaves in it."""
    found = re.search(rb"hyperbolic kernels:([a-z0-9 ]*)", library.read_bytes()) if library.exists() else None
    return found[1].decode().split() if found else []


def has_gpu() -> bool:
    """Whether there is a GPU here, and torch uses it."""
    import torch

    if torch.version.cuda is None:
        return False
    if any(Path("/dev").glob("nvidia[0-9]*")):
        return True
    ask = shutil.which("nvidia-smi")
    return ask is not None and subprocess.run([ask, "-L"], capture_output=True).returncode == 0


if BUILD_CPU not in ("all", "native", "none") and not set(BUILD_CPU.split(",")) <= set(INSTRUCTION_SETS):
    names = ", ".join(INSTRUCTION_SETS)
    raise ValueError(f"HYPERBOLIC_BUILD_CPU must be all, native, none, or some of {names}, got {BUILD_CPU!r}")
if BUILD_CUDA not in ("nvcc", "gpu", "none"):
    raise ValueError(f"HYPERBOLIC_BUILD_CUDA must be nvcc, gpu or none, got {BUILD_CUDA!r}")

kernels = Extension(
    "hyperbolic._kernels",
    sources=sorted(map(str, Path("csrc/cpu").rglob("*.cpp"))),
    depends=sorted(str(path) for folder in ("common", "cpu", "math") for path in Path("csrc", folder).rglob("*.h")),
    libraries=["torch_cpu"],
    optional=True,
)

cuda_kernels = Extension(
    "hyperbolic._kernels_cuda",
    sources=sorted(str(path) for path in Path("csrc/cuda").iterdir() if path.suffix in (".cu", ".cpp")),
    depends=sorted(str(path) for path in Path("csrc").rglob("*") if path.suffix in (".h", ".cuh")),
    optional=True,
)

with_cuda = NVCC and (BUILD_CUDA == "nvcc" or (BUILD_CUDA == "gpu" and has_gpu()))

setup(
    ext_modules=[*([kernels] if BUILD_CPU != "none" else []), *([cuda_kernels] if with_cuda else [])],
    cmdclass={"build_ext": BuildKernels},
)
