"""Small C++ files compiled at first use, where there is a compiler: the package's loops on CPU."""

import ctypes
import functools
import os
import platform
import shutil
import subprocess
import tempfile
from pathlib import Path

import torch

FLAGS = "-std=c++17 -O3 -march=native -fopenmp -fno-math-errno -fno-trapping-math -shared -fPIC -Wl,--as-needed".split()


@functools.cache
def library(source: Path, *flags: str) -> ctypes.CDLL | None:
    """The compiled functions of a C++ file, or None where no compiler makes them; about a second, once in a process.

    The compiler is `CXX` or the system's; Linux only. `flags` follow the common ones.
    """
    compiler = os.environ.get("CXX") or shutil.which("g++") or shutil.which("c++")
    if compiler is None or platform.system() != "Linux":
        return None
    wide = ["-mprefer-vector-width=512"] if platform.machine() == "x86_64" else []
    # torch's own OpenMP, so that both use the same threads.
    openmp = [str(path) for path in (Path(torch.__file__).parent / "lib").glob("libgomp*.so*")]
    with tempfile.TemporaryDirectory() as folder:
        target = Path(folder) / f"{source.stem}.so"
        try:
            command = [compiler, str(source), *openmp, *FLAGS, *wide, *flags, "-o", str(target)]
            subprocess.run(command, check=True, capture_output=True)
            return ctypes.CDLL(str(target))
        except (OSError, subprocess.CalledProcessError):
            return None
