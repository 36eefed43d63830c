"""Builds the kernels of csrc/ against torch's stable ABI: one library for every torch from 2.10 on and any Python, and
where there is nvcc a second one for GPUs.

The libraries are loaded by torch, not imported by Python. Without a compiler the package installs all the same and
runs on its reference implementations.
"""

import os
import platform
import shutil
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext
from setuptools.modified import newer_group
from torch.utils.cpp_extension import include_paths, library_paths

TORCH = [
    "-DTORCH_TARGET_VERSION=0x020a000000000000",
    # not ours to warn about
    *(flag for path in include_paths() if "torch" in path for flag in ("-isystem", path)),
]
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
    *TORCH,
]
# By the name of the file.
AVX2 = ["-mavx2", "-mfma", "-mf16c"]
AVX512 = [f"-mavx512{part}" for part in ("f", "cd", "bw", "dq", "vl")]
INSTRUCTION_SETS = {"avx2.cpp": AVX2, "avx512.cpp": [*AVX2, *AVX512, "-mprefer-vector-width=512"]}

# Whether there is a GPU does not matter.
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
    *TORCH,
]


class BuildKernels(build_ext):
    def get_ext_filename(self, name: str) -> str:
        # the same for every Python
        return str(Path(*name.split("."))) + (".pyd" if sys.platform == "win32" else ".abi3.so")

    def build_extension(self, ext: Extension) -> None:
        self.build_cuda(ext) if ext is cuda_kernels else self.build_cpu(ext)

    def build_cuda(self, ext: Extension) -> None:
        """All by nvcc, which knows where its headers and libraries are."""
        library, temp = Path(self.get_ext_fullpath(ext.name)), Path(self.build_temp) / "cuda"
        if not self.force and not newer_group([*ext.sources, *ext.depends], str(library), "newer"):
            return
        temp.mkdir(parents=True, exist_ok=True)
        library.parent.mkdir(parents=True, exist_ok=True)
        objects = [str(temp / f"{Path(source).name}.o") for source in ext.sources]
        with ThreadPoolExecutor(os.cpu_count()) as pool:
            jobs = [
                pool.submit(self.spawn, [NVCC, *HOST_COMPILER, *CUDA_FLAGS, "-c", source, "-o", obj])
                for source, obj in zip(ext.sources, objects)
            ]
            for job in jobs:
                job.result()
        # What is to be found in torch's CUDA half when the library is loaded. A torch without one can be built against
        # too, so what is linked is a library of that name with nothing in it.
        empty, half = temp / "empty.cpp", str(temp / "libtorch_cuda.so")
        empty.touch()
        link = [NVCC, *HOST_COMPILER, *ARCHITECTURES, "-shared", "-cudart=shared"]
        self.spawn([*link, "-Xlinker=-soname=libtorch_cuda.so", str(empty), "-o", half])
        torch = [*(f"-L{path}" for path in library_paths()), "-ltorch_cpu"]
        self.spawn([*link, *objects, *torch, f"-Xlinker=--no-as-needed,{half}", "-o", str(library)])

    def build_cpu(self, ext: Extension) -> None:
        """As setuptools does, with the files compiled side by side, each for its instruction set."""
        compile_one, link = self.compiler._compile, self.compiler.link_shared_object
        x86 = platform.machine() in ("x86_64", "AMD64")
        with ThreadPoolExecutor() as pool:
            jobs = []

            def start(obj, src, ext, cc_args, flags, options):
                own = INSTRUCTION_SETS.get(Path(src).name, []) if x86 else []
                jobs.append(pool.submit(compile_one, obj, src, ext, cc_args, [*flags, *own], options))

            def finish(*args, **kwargs):
                for job in jobs:
                    job.result()
                link(*args, **kwargs)

            self.compiler._compile, self.compiler.link_shared_object = start, finish
            super().build_extension(ext)


kernels = Extension(
    "hyperbolic._kernels",
    sources=["csrc/library.cpp", *sorted(map(str, Path("csrc/cpu").rglob("*.cpp")))],
    depends=sorted(str(path) for folder in ("cpu", "math") for path in Path("csrc", folder).rglob("*.h")),
    library_dirs=library_paths(),
    libraries=["torch_cpu"],
    extra_compile_args=FLAGS,
    optional=True,
)

cuda_kernels = Extension(
    "hyperbolic._kernels_cuda",
    sources=sorted(str(path) for path in Path("csrc/cuda").iterdir() if path.suffix in (".cu", ".cpp")),
    depends=sorted(str(path) for path in Path("csrc").rglob("*") if path.suffix in (".h", ".cuh")),
    optional=True,
)

setup(
    ext_modules=[kernels, *([cuda_kernels] if NVCC else [])],
    cmdclass={"build_ext": BuildKernels},
)
