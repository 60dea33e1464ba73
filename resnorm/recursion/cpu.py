"""The closed form of the recursive skip on CPU: a small C++ file, compiled at first use where there is a compiler."""

from ctypes import CDLL, c_double, c_int64, c_void_p
from pathlib import Path

import torch
from torch import Tensor

from resnorm import compiled

SOURCE = Path(__file__).with_name("rows.cpp")
COMPUTED = (torch.float32, torch.bfloat16, torch.float64)
DTYPES = {*COMPUTED, torch.float16}
# Sums may be added in another order, as in every vectorised norm; NaN and infinity keep their meaning.
FLAGS = ("-fno-signed-zeros", "-fassociative-math", "-freciprocal-math")


def library() -> CDLL | None:
    """The compiled kernels, or None where no compiler makes them."""
    return compiled.library(SOURCE, *FLAGS)


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
    addresses = [c_void_p(None if tensor is None else tensor.data_ptr()) for tensor in tensors]
    function(*addresses, c_int64(x.numel() // width), c_int64(width), order, c_double(eps), torch.get_num_threads())
