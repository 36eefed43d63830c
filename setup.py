"""Builds the kernels of csrc/ against torch's stable ABI: one library for every torch from 2.10 on and any Python.

The library is loaded by torch, not imported by Python. Without a compiler the package installs all the same and runs
on its reference implementations.
"""

import platform
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext
from torch.utils.cpp_extension import include_paths, library_paths

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
    "-DTORCH_TARGET_VERSION=0x020a000000000000",
    # not ours to warn about
    *(f"-isystem{path}" for path in include_paths() if "torch" in path),
]
# By the name of the file.
AVX2 = ["-mavx2", "-mfma", "-mf16c"]
AVX512 = [f"-mavx512{part}" for part in ("f", "cd", "bw", "dq", "vl")]
INSTRUCTION_SETS = {"avx2.cpp": AVX2, "avx512.cpp": [*AVX2, *AVX512, "-mprefer-vector-width=512"]}


class BuildKernels(build_ext):
    def get_ext_filename(self, name: str) -> str:
        # the same for every Python
        return str(Path(*name.split("."))) + (".pyd" if sys.platform == "win32" else ".abi3.so")

    def build_extension(self, ext: Extension) -> None:
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
    sources=sorted(map(str, Path("csrc").rglob("*.cpp"))),
    depends=sorted(map(str, Path("csrc").rglob("*.h"))),
    library_dirs=library_paths(),
    libraries=["torch_cpu"],
    extra_compile_args=FLAGS,
    optional=True,
)

setup(ext_modules=[kernels], cmdclass={"build_ext": BuildKernels})
