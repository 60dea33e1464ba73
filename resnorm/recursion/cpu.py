"""The closed form of the recursive skip on CPU: a small C++ file, compiled at first use where there is a compiler."""

import ctypes
import functools
import os
import platform
import shutil
import subprocess
import tempfile
from ctypes import c_double, c_int, c_int64, c_void_p
from pathlib import Path

import torch
from torch import Tensor

SOURCE = Path(__file__).with_name("rows.cpp")
COMPUTED = (torch.float32, torch.bfloat16, torch.float64)
DTYPES = {*COMPUTED, torch.float16}
# Sums may be added in another order, as in every vectorised norm; NaN and infinity keep their meaning.
FLAGS = (
    "-O3 -march=native -fopenmp -fno-math-errno -fno-trapping-math -fno-signed-zeros -fassociative-math "
    "-freciprocal-math -shared -fPIC -Wl,--as-needed"
).split()


@functools.cache
def library() -> ctypes.CDLL | None:
    """The compiled kernels, or None where no compiler makes them; about a second, once in a process."""
    compiler = os.environ.get("CXX") or shutil.which("g++") or shutil.which("c++")
    if compiler is None or platform.system() != "Linux":
        return None
    flags = [*FLAGS, "-mprefer-vector-width=512"] if platform.machine() == "x86_64" else FLAGS
    # torch's own OpenMP, so that both use the same threads.
    openmp = [str(path) for path in (Path(torch.__file__).parent / "lib").glob("libgomp*.so*")]
    with tempfile.TemporaryDirectory() as folder:
        target = Path(folder) / "rows.so"
        try:
            subprocess.run([compiler, str(SOURCE), *openmp, *flags, "-o", str(target)], check=True, capture_output=True)
            loaded = ctypes.CDLL(str(target))
        except (OSError, subprocess.CalledProcessError):
            return None
    for name in (str(dtype).removeprefix("torch.") for dtype in COMPUTED):
        sizes = [c_int64, c_int64, c_int, c_double, c_int]
        getattr(loaded, f"forward_{name}").argtypes = [c_void_p] * 5 + sizes
        getattr(loaded, f"backward_{name}").argtypes = [c_void_p] * 7 + sizes
    return loaded


def forward(x: Tensor, h: Tensor, order: int, weight: Tensor | None, bias: Tensor | None, eps: float) -> Tensor:
    """y of contiguous x and h; weight and bias in float32, or in float64 with x."""
    y = torch.empty_like(x)
    _call("forward", [x, h, weight, bias, y], x, order, eps)
    return y


def backward(
    gradient: Tensor, x: Tensor, h: Tensor, order: int, weight: Tensor | None, eps: float
) -> tuple[Tensor, Tensor, Tensor | None, Tensor | None]:
    """The gradients of x, h, weight and bias; the last two are None without a weight."""
    dx, dh = torch.empty_like(x), torch.empty_like(h)
    partial = None
    if weight is not None:
        partial = torch.zeros(torch.get_num_threads(), 2, x.shape[-1], dtype=weight.dtype)
    _call("backward", [gradient, x, h, weight, dx, dh, partial], x, order, eps)
    return (dx, dh, None, None) if partial is None else (dx, dh, partial[:, 0].sum(0), partial[:, 1].sum(0))


def _call(name: str, tensors: list[Tensor | None], x: Tensor, order: int, eps: float) -> None:
    width = x.shape[-1]
    function = getattr(library(), f"{name}_{str(x.dtype).removeprefix('torch.')}")
    addresses = [None if tensor is None else tensor.data_ptr() for tensor in tensors]
    function(*addresses, x.numel() // width, width, order, eps, torch.get_num_threads())
