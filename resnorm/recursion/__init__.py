r"""The recursive skip at the price of one norm: any order in one read of $x$ and $h$ and one write of $y$.

As written, rSkip of order k with a layer norm $n$ costs k additions and k norms:

$$y_1 = n(x + h), \qquad y_k = n(x + y_{k-1})$$

Without an affine map between the steps, every $y_k$ lies in the plane of the centred $u = x - \bar x$ and of
$e = v - c\,u$, the part across $u$ of the centred sum $v = t - \bar t$, $t = x + h$, with
$c = \overline{uv} / \overline{u^2}$. Two scalars a row say where:

$$y_k = \alpha_k u + \beta_k e, \qquad \alpha_k = p_k s_k, \quad \beta_k = q_k s_k, \qquad
s_k = \left(p_k^2 A + q_k^2 W + \varepsilon\right)^{-1/2}$$

$$p_1 = c, \quad q_1 = 1, \qquad p_{k+1} = 1 + \alpha_k, \quad q_{k+1} = \beta_k$$

with $A = \overline{u^2}$ and $W = \overline{e^2}$, the means of a row. The gain and bias of the last norm follow. The sum
is formed first and the basis is perpendicular, because where a sum $x + y_k$ nearly vanishes, large terms would cancel
in any other.

Backward, with $g$ the centred gradient times the gain, the gradient of the sum $x + y_{j-1}$ is
$g_j = a_j g + b_j u + d_j e$: three scalars a row. From $a = 1$, $b = d = 0$ and from $j = k$ down to 1,

$$m = \alpha_j (a\,\overline{gu} + b A) + \beta_j (a\,\overline{ge} + d W), \qquad
a \leftarrow s_j a, \quad b \leftarrow s_j (b - m \alpha_j), \quad d \leftarrow s_j (d - m \beta_j)$$

where $m$ is the mean of $g_{j+1} y_j$. The skip takes part in every sum and the branch in the first:
$dx = g_1 + \dots + g_k$ and $dh = g_1$.

The order k is that of [liu2020rethinking]; the closed form is this book's. On CPU the rows are a compiled C++ loop
(`resnorm.recursion.cpu`), on GPUs Triton kernels (`resnorm.recursion.cuda`); elsewhere the recursion runs as written.
`fuse` puts them under the blocks of a model.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from resnorm.recursion import cpu

__all__ = ["closed_form", "fuse", "recursion", "recursive_skip", "recursive_skip_steps"]

MOST = 63  # the highest order of the compiled loop
# With fewer elements a call costs more than it saves: on CPU, and on a GPU where it is called from Python.
SMALL, SMALL_ON_GPU = 2**14, 2**24


def recursion(
    x: Tensor, h: Tensor, order: int, weight: Tensor | None = None, bias: Tensor | None = None, eps: float = 1e-5
) -> Tensor:
    r"""Compute the recursive skip as it is written: $y_k = n(x + y_{k-1})$, the last norm with gain and bias.

    Shapes: x, h and the result (..., features), weight and bias (features,). Raises `ValueError` for an order below 1,
    and where a shape or a device does not fit. Citation: liu2020rethinking.
    """
    _check(x, h, order, weight, bias)
    for _ in range(order - 1):
        h = F.layer_norm(x + h, x.shape[-1:], eps=eps)
    return F.layer_norm(x + h, x.shape[-1:], weight, bias, eps)


def closed_form(
    x: Tensor, h: Tensor, order: int, weight: Tensor | None = None, bias: Tensor | None = None, eps: float = 1e-5
) -> Tensor:
    r"""Compute the same in closed form, $y_k = \alpha_k u + \beta_k e$, in plain tensor operations: to read, and to test.

    Shapes and errors: as `recursion`.
    """
    _check(x, h, order, weight, bias)
    t = x + h
    u, v = x - x.mean(-1, keepdim=True), t - t.mean(-1, keepdim=True)
    A = (u * u).mean(-1, keepdim=True)
    c = (u * v).mean(-1, keepdim=True) / A.clamp(min=torch.finfo(A.dtype).tiny)
    e = v - c * u
    W = (e * e).mean(-1, keepdim=True)
    p, q = c, torch.ones_like(c)
    for _ in range(order):
        s = (p * p * A + q * q * W + eps).rsqrt()
        alpha, beta = p * s, q * s
        p, q = 1 + alpha, beta
    y = alpha * u + beta * e
    return y if weight is None else y * weight + bias


def recursive_skip(
    x: Tensor, h: Tensor, order: int, weight: Tensor | None = None, bias: Tensor | None = None, eps: float = 1e-5
) -> Tensor:
    r"""Compute the recursive skip of order k, affine map last, by the fastest way there is: the result of `recursion`.

    On CPU and on GPUs one kernel forward and one backward, of any order; the recursion as written for tensors of fewer
    than 16,384 elements on CPU, of fewer than 16 million on GPUs (but not in CUDA graphs and torch.compile), of float64 on
    GPUs, under the transforms of torch.func and forward-mode derivatives, on other devices, and where there is no compiler. A
    backward pass that is differentiated again (`create_graph`) is that of the recursion as written.
    Shapes: x, h and the result (..., features), weight and bias (features,), both or neither. Where the types of x and h
    differ, both are raised as by x + h; on GPUs autocast computes in float32, as it does for layer norm.
    Raises `ValueError` for an order below 1, and where a shape or a device does not fit. Citation: liu2020rethinking.
    """
    _check(x, h, order, weight, bias)
    if (weight is None) != (bias is None) or not _fused(x, h, order):
        return recursion(x, h, order, weight, bias, eps)
    return torch.ops.resnorm.recursive_skip(*_raised(x, h), order, weight, bias, eps)


def recursive_skip_steps(x: Tensor, h: Tensor, weights: Sequence[Tensor], biases: Sequence[Tensor], eps: float = 1e-5) -> Tensor:
    r"""Compute the recursive skip whose every step has its own gain and bias: $y_k = n_k(x + y_{k-1})$, one pair a step.

    A gain leaves the plane of u and e, so there is no closed form: on GPUs one kernel takes all steps of a row while
    the row is in registers; elsewhere, and for small tensors as in `recursive_skip`, the recursion runs as written, also
    for second derivatives.
    Shapes: x, h and the result (..., features), each weight and bias (features,). Raises `ValueError` where there is no
    step, or not as many biases as weights. Citation: liu2020rethinking.
    """
    if not weights or len(weights) != len(biases):
        raise ValueError(f"{len(weights)} gains and {len(biases)} biases; give one of each for every step, at least one")
    _check(x, h, len(weights), *weights, *biases)
    if x.device.type == "cuda" and _fused(x, h, len(weights)):
        x, h = _raised(x, h)
        return torch.ops.resnorm.recursive_skip_steps(x, h, torch.stack(tuple(weights)), torch.stack(tuple(biases)), eps)
    return _written_steps(x, h, weights, biases, eps)


def _written_steps(x: Tensor, h: Tensor, weights: Sequence[Tensor], biases: Sequence[Tensor], eps: float) -> Tensor:
    for weight, bias in zip(weights, biases, strict=True):
        h = F.layer_norm(x + h, x.shape[-1:], weight, bias, eps)
    return h


def _check(x: Tensor, h: Tensor, order: int, *affine: Tensor | None) -> None:
    if isinstance(order, bool) or not isinstance(order, int) or order < 1:
        raise ValueError(f"order={order!r}; the order of a recursive skip is an integer of 1 or more")
    if x.shape != h.shape:
        raise ValueError(f"x has the shape {tuple(x.shape)} and h {tuple(h.shape)}; the skip and the branch must have the same")
    if x.device != h.device:
        raise ValueError(f"x is on {x.device} and h on {h.device}; move one to the other")
    # The kernels take addresses: what a norm of torch would refuse, they would read.
    for one in affine:
        if one is not None and (one.shape != x.shape[-1:] or one.device != x.device):
            raise ValueError(
                f"a gain or bias has the shape {tuple(one.shape)} on {one.device}; rows of {tuple(x.shape)} on "
                f"{x.device} need {tuple(x.shape[-1:])} on the same device"
            )


def _fused(x: Tensor, h: Tensor, order: int) -> bool:
    # The transforms of torch.func (grad, vmap) and dual tensors take no operator of our own.
    transformed = torch._C._are_functorch_transforms_active() or torch.autograd.forward_ad._current_level >= 0
    if order > MOST or x.numel() == 0 or transformed:
        return False
    if x.device.type == "cuda":
        from resnorm.recursion import cuda

        if not (cuda.AVAILABLE and x.shape[-1] <= cuda.WIDEST and {x.dtype, h.dtype} <= cuda.DTYPES):
            return False
        return x.numel() >= SMALL_ON_GPU or torch.compiler.is_compiling() or _beside_the_default_stream(x)
    return x.device.type == "cpu" and x.numel() >= SMALL and {x.dtype, h.dtype} <= cpu.DTYPES and _has_library()


def _beside_the_default_stream(x: Tensor) -> bool:
    # Where a CUDA graph is tried and recorded. A graph has no calls from Python, and the kernels alone are the fastest.
    return torch.cuda.current_stream(x.device) != torch.cuda.default_stream(x.device)


def _has_library() -> bool:
    return cpu.library() is not None


# What torch.compiler.assume_constant_result does, which would import the compiler already here, for a second.
_has_library._dynamo_marked_constant = True


def _raised(x: Tensor, h: Tensor) -> tuple[Tensor, Tensor]:
    dtype = torch.promote_types(x.dtype, h.dtype)
    if x.device.type == "cuda" and torch.is_autocast_enabled("cuda"):
        dtype = torch.promote_types(dtype, torch.float32)
    return x.to(dtype), h.to(dtype)


# ---------------------------------------------------------------------------------------------------- the operators


@torch.library.custom_op("resnorm::recursive_skip", mutates_args=())
def _forward(x: Tensor, h: Tensor, order: int, weight: Tensor | None, bias: Tensor | None, eps: float) -> Tensor:
    dtype, (x, h) = x.dtype, _computed(x, h)
    affine = [None if tensor is None else _like(tensor, x) for tensor in (weight, bias)]
    return _kernels(x).forward(x, h, order, *affine, eps).to(dtype)


# Schemas of lists are spelled out: torch 2.6 reads none from `list[Tensor]`.
@torch.library.custom_op(
    "resnorm::recursive_skip_backward",
    mutates_args=(),
    schema="(Tensor gradient, Tensor x, Tensor h, int order, Tensor? weight, float eps) -> Tensor[]",
)
def _backward(gradient: Tensor, x: Tensor, h: Tensor, order: int, weight: Tensor | None, eps: float) -> list[Tensor]:
    dtype, (gradient, x, h) = x.dtype, _computed(gradient, x, h)
    affine = None if weight is None else _like(weight, x)
    dx, dh, dweight, dbias = _kernels(x).backward(gradient, x, h, order, affine, eps)
    found = [dx.to(dtype), dh.to(dtype)]
    return found if weight is None else found + [dweight.to(weight.dtype), dbias.to(weight.dtype)]


@_forward.register_fake
def _(x, h, order, weight, bias, eps):
    return torch.empty_like(x, memory_format=torch.contiguous_format)


@_backward.register_fake
def _(gradient, x, h, order, weight, eps):
    found = [torch.empty_like(tensor, memory_format=torch.contiguous_format) for tensor in (x, h)]
    return found if weight is None else found + [torch.empty_like(weight), torch.empty_like(weight)]


def _keep(ctx, inputs, output) -> None:
    x, h, ctx.order, weight, _, ctx.eps = inputs
    ctx.save_for_backward(x, h, weight)


def _differentiate(ctx, gradient: Tensor):
    x, h, weight = ctx.saved_tensors
    if torch.is_grad_enabled():  # the backward pass is recorded, for a second derivative
        dx, dh, *affine = _written_backward(
            gradient,
            x,
            h,
            [] if weight is None else [weight],
            lambda x, h, weight=None: recursion(x, h, ctx.order, weight, None, ctx.eps),
        )
        return dx, dh, None, *([affine[0], _over_rows(gradient).to(weight.dtype)] if affine else [None, None]), None
    found = torch.ops.resnorm.recursive_skip_backward(gradient, x, h, ctx.order, weight, ctx.eps)
    dx, dh, dweight, dbias = found if weight is not None else (*found, None, None)
    return dx, dh, None, dweight, dbias, None


_forward.register_autograd(_differentiate, setup_context=_keep)


@torch.library.custom_op("resnorm::recursive_skip_steps", mutates_args=())
def _forward_steps(x: Tensor, h: Tensor, weights: Tensor, biases: Tensor, eps: float) -> Tensor:
    from resnorm.recursion import cuda

    return cuda.forward_steps(x.contiguous(), h.contiguous(), weights, biases, eps)


@torch.library.custom_op(
    "resnorm::recursive_skip_steps_backward",
    mutates_args=(),
    schema="(Tensor gradient, Tensor x, Tensor h, Tensor weights, Tensor biases, float eps) -> Tensor[]",
)
def _backward_steps(gradient: Tensor, x: Tensor, h: Tensor, weights: Tensor, biases: Tensor, eps: float) -> list[Tensor]:
    from resnorm.recursion import cuda

    return list(cuda.backward_steps(gradient.contiguous(), x.contiguous(), h.contiguous(), weights, biases, eps))


@_forward_steps.register_fake
def _(x, h, weights, biases, eps):
    return torch.empty_like(x, memory_format=torch.contiguous_format)


@_backward_steps.register_fake
def _(gradient, x, h, weights, biases, eps):
    found = [torch.empty_like(tensor, memory_format=torch.contiguous_format) for tensor in (x, h)]
    return found + [torch.empty_like(weights), torch.empty_like(biases)]


def _keep_steps(ctx, inputs, output) -> None:
    *tensors, ctx.eps = inputs
    ctx.save_for_backward(*tensors)


def _differentiate_steps(ctx, gradient: Tensor):
    if torch.is_grad_enabled():  # the backward pass is recorded, for a second derivative
        x, h, weights, biases = ctx.saved_tensors
        return *_written_backward(gradient, x, h, [weights, biases], lambda *given: _written_steps(*given, ctx.eps)), None
    return (*torch.ops.resnorm.recursive_skip_steps_backward(gradient, *ctx.saved_tensors, ctx.eps), None)


_forward_steps.register_autograd(_differentiate_steps, setup_context=_keep_steps)


def _written_backward(gradient: Tensor, x: Tensor, h: Tensor, affine: list[Tensor], written: Callable[..., Tensor]) -> list[Tensor]:
    """The gradients of a recursion as it is written, themselves differentiable; 16 bits are computed in 32."""
    computed = torch.promote_types(x.dtype, torch.float32)
    # New names: h may have been computed from x, and what is wanted is the partial derivative.
    inputs = [
        tensor.to(computed).view_as(tensor) if tensor.requires_grad else tensor.to(computed).detach().requires_grad_()
        for tensor in (x, h, *affine)
    ]
    gradients = torch.autograd.grad(written(*inputs), inputs, gradient.to(computed), create_graph=True)
    return [one.to(tensor.dtype) for one, tensor in zip(gradients, (x, h, *affine), strict=True)]


def _over_rows(gradient: Tensor) -> Tensor:
    return gradient.to(torch.promote_types(gradient.dtype, torch.float32)).flatten(0, -2).sum(0)


def _kernels(x: Tensor):
    if x.device.type == "cpu":
        return cpu
    from resnorm.recursion import cuda

    return cuda


def _computed(*tensors: Tensor) -> list[Tensor]:
    """Contiguous, and float16 raised to float32 on CPU, which has no arithmetic for it."""
    half = tensors[0].device.type == "cpu" and tensors[0].dtype == torch.float16
    return [(tensor.float() if half else tensor).contiguous() for tensor in tensors]


def _like(affine: Tensor, x: Tensor) -> Tensor:
    return affine.to(torch.float64 if x.dtype == torch.float64 else torch.float32).contiguous()


# What it fuses calls the functions above.
from resnorm.recursion.fusing import fuse  # noqa: E402
