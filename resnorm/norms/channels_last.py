r"""Group norm of images in channels_last on CPU, in 32 bits: a small C++ file, compiled at first use where there is a compiler.

torch's kernel for this layout takes the variance as $\operatorname{E}[x^2] - \operatorname{E}[x]^2$ in 32 bits, and loses
$1 + \mu^2 / \sigma^2$ of its precision. This one reads an image as often, twice: first for each channel's sums of
$u = x - x_0$ and $u^2$ beside the median $x_0$ of three of its pixels, in 32 bits over 32 pixels and in 64 bits over all; then
to write

$$y = (x - \mu) \frac{\gamma}{\sigma} + \beta, \qquad
dx = \frac{1}{\sigma} \left(\gamma g - \overline{\gamma g} - \hat x \, \overline{\gamma g \hat x}\right), \qquad
\hat x = (x - \mu) / \sigma$$

with bars for means of a group. $\mu$ is split into a number of 32 bits, whose difference to x is exact where the mean is
large, and the rest, which joins $\beta$. The backward pass reads x and the gradient g as often, once for the sums of
$g$ and $g (x - \mu)$ of each channel and once to write.
"""

from __future__ import annotations

import functools
import math
from ctypes import CDLL, c_double, c_int, c_int64, c_void_p
from pathlib import Path

import torch
from torch import Tensor, nn

from resnorm import compiled

SOURCE = Path(__file__).with_suffix(".cpp")
SMALL = 2**14  # with fewer elements copies cost less
GRAIN = 2**15  # elements for each thread at least, as in torch
LAST = {4: torch.channels_last, 5: torch.channels_last_3d}


def takes(x: Tensor, groups: int, weight: Tensor | None, bias: Tensor | None) -> bool:
    """Whether `group_norm` takes a tensor and its gain and bias, here and now: in channels_last, and plain memory of 32 bits."""
    affine = [one for one in (weight, bias) if one is not None]
    return (
        not torch.compiler.is_compiling()
        and x.numel() >= SMALL
        and _plain(x, *affine)
        and x.is_contiguous(memory_format=LAST[x.dim()])
        and x.shape[1] % groups == 0
        and all(one.shape == x.shape[1:2] for one in affine)
        and _library() is not None
    )


def group_norm(x: Tensor, groups: int, weight: Tensor | None, bias: Tensor | None, eps: float) -> Tensor:
    """Group norm of a tensor that `takes` accepts; output and gradient are in channels_last."""
    if torch.is_grad_enabled() and any(one is not None and one.requires_grad for one in (x, weight, bias)):
        return _GroupNorm.apply(x, groups, weight, bias, eps)
    return _forward(x, groups, weight, bias, eps)[0]


def transformed() -> bool:
    """Whether torch.func (grad, vmap, jvp) or forward-mode derivatives are at work, which take no function of our own."""
    return torch._C._are_functorch_transforms_active() or torch.autograd.forward_ad._current_level >= 0


def _plain(*tensors: Tensor) -> bool:
    """Whether the tensors are memory of 32 bits that nobody watches: no subclass, no tracer, no transform."""
    for one in tensors:
        if type(one) not in (Tensor, nn.Parameter) or one.dtype != torch.float32 or one.device.type != "cpu":
            return False
        if torch._C._functorch.is_legacy_batchedtensor(one):  # is_grads_batched
            return False
    return not torch.jit.is_tracing() and not torch._C._len_torch_dispatch_stack() and not transformed()


class _GroupNorm(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x: Tensor, groups: int, weight: Tensor | None, bias: Tensor | None, eps: float) -> Tensor:
        y, statistics = _forward(x, groups, weight, bias, eps)
        ctx.save_for_backward(x, weight, statistics)
        ctx.groups, ctx.eps = groups, eps
        return y

    @staticmethod
    def backward(ctx, gradient: Tensor) -> tuple[Tensor | None, ...]:
        x, weight, statistics = ctx.saved_tensors
        of_x, _, of_weight, of_bias, _ = ctx.needs_input_grad
        # Recorded, for a second derivative, or one of many.
        if torch.is_grad_enabled() or torch.compiler.is_compiling() or not _plain(gradient):
            dx, dweight, dbias = _written(gradient, x, ctx.groups, weight, ctx.eps)
        else:
            dx = torch.empty(x.shape, memory_format=LAST[x.dim()]) if of_x else None  # type: ignore[assignment]
            gradient = gradient.contiguous(memory_format=LAST[x.dim()])
            affine = torch.empty(2, *x.shape[:2], dtype=torch.float64)
            _call("backward", [gradient, x, _contiguous(weight), statistics, dx, affine], x, ctx.groups)
            dweight, dbias = affine.sum(1).float()
        return dx if of_x else None, None, dweight if of_weight else None, dbias if of_bias else None, None


def _written(gradient: Tensor, x: Tensor, groups: int, weight: Tensor | None, eps: float) -> tuple[Tensor, Tensor, Tensor]:
    """The gradients of x, weight and bias in operations that can be differentiated again."""
    u, g = (tensor.reshape(len(x), groups, x.shape[1] // groups, -1) for tensor in (x, gradient))
    u = u - u.mean((2, 3), keepdim=True)
    scale = (u.square().mean((2, 3), keepdim=True) + eps).rsqrt()
    normal = u * scale
    dweight, dbias = ((g * normal).sum((0, 3)).reshape(-1), g.sum((0, 3)).reshape(-1))
    if weight is not None:
        g = g * weight.view(groups, -1, 1)
    dx = scale * (g - g.mean((2, 3), keepdim=True) - normal * (g * normal).mean((2, 3), keepdim=True))
    return dx.reshape(x.shape), dweight, dbias


def _forward(x: Tensor, groups: int, weight: Tensor | None, bias: Tensor | None, eps: float) -> tuple[Tensor, Tensor]:
    y = torch.empty(x.shape, memory_format=LAST[x.dim()])
    statistics = torch.empty(2, x.shape[0], groups, dtype=torch.float64)
    _call("forward", [x, _contiguous(weight), _contiguous(bias), y, statistics], x, groups, eps)
    return y, statistics


def _contiguous(affine: Tensor | None) -> Tensor | None:
    return None if affine is None else affine.contiguous()


def _call(name: str, tensors: list[Tensor | None], x: Tensor, groups: int, *numbers: float) -> None:
    samples, channels, *pixels = x.shape
    addresses = [None if tensor is None else tensor.data_ptr() for tensor in tensors]
    threads = max(1, min(torch.get_num_threads(), x.numel() // GRAIN))
    getattr(_library(), name)(*addresses, samples, math.prod(pixels), channels, groups, *numbers, threads)


@functools.cache
def _library() -> CDLL | None:
    library = compiled.library(SOURCE)
    if library is not None:
        library.forward.argtypes = [c_void_p] * 5 + [c_int64] * 4 + [c_double, c_int]
        library.backward.argtypes = [c_void_p] * 6 + [c_int64] * 4 + [c_int]
    return library
