"""The recursive skip on GPUs: Triton kernels that hold a row in registers from its one read to its one write.

`forward` and `backward` are the closed form (affine map last), `forward_steps` and `backward_steps` the steps one by one
with an affine map after each. Sums are in float32. Each program takes every so many rows and keeps its own sums for the
gradients of gain and bias, which are added up at the end.
"""

import torch
from torch import Tensor

try:
    import triton
    import triton.language as tl

    AVAILABLE = True
except ImportError:  # on macOS and Windows torch comes without it
    AVAILABLE = False

DTYPES = {torch.float32, torch.bfloat16, torch.float16}  # sums are in float32, too short for float64
WIDEST = 16384  # a row that still fits into the registers of one program
WARPS = 32  # of all programs together, per multiprocessor

if AVAILABLE:

    @triton.jit
    def _recur(A, W, c, order: tl.constexpr, eps):
        """alpha and beta of y = alpha u + beta e after so many steps, and the scale of the last norm."""
        s = 1.0 / tl.sqrt(c * c * A + W + eps)
        alpha = c * s
        beta = s
        for _ in tl.static_range(order - 1):
            s = 1.0 / tl.sqrt((1.0 + alpha) * (1.0 + alpha) * A + beta * beta * W + eps)
            alpha = (1.0 + alpha) * s
            beta = beta * s
        return alpha, beta, s

    @triton.jit
    def _centred(values, inside, width):
        mean = tl.sum(tl.where(inside, values, 0.0), 0) / width
        return tl.where(inside, values - mean, 0.0)

    @triton.jit
    def _basis(x, t, inside, width):
        """The centred u and e, the part of the centred sum across u, with their averages."""
        u = _centred(x, inside, width)
        v = _centred(t, inside, width)
        A = tl.sum(u * u, 0) / width
        # Where x varies next to nothing, beside the sum or at all, the division could overflow.
        some = 1e-30 * (tl.sum(v * v, 0) / width) + 1e-37 < A
        c = tl.where(some, tl.sum(u * v, 0) / width / tl.where(some, A, 1.0), 0.0)
        e = v - c * u
        return u, e, c, A, tl.sum(e * e, 0) / width

    @triton.jit
    def _forward(X, H, WEIGHT, BIAS, Y, rows, width, eps, order: tl.constexpr, affine: tl.constexpr, block: tl.constexpr):
        column = tl.arange(0, block)
        inside = column < width
        for row in range(tl.program_id(0).to(tl.int64), rows, tl.num_programs(0)):
            at = row * width + column
            x = tl.load(X + at, mask=inside, other=0.0).to(tl.float32)
            t = x + tl.load(H + at, mask=inside, other=0.0).to(tl.float32)
            u, e, c, A, W = _basis(x, t, inside, width)
            alpha, beta, _ = _recur(A, W, c, order, eps)
            y = alpha * u + beta * e
            if affine:
                y = y * tl.load(WEIGHT + column, mask=inside, other=0.0) + tl.load(BIAS + column, mask=inside, other=0.0)
            tl.store(Y + at, y.to(Y.dtype.element_ty), mask=inside)

    @triton.jit
    def _backward(
        G, X, H, WEIGHT, DX, DH, DWEIGHT, DBIAS, rows, width, eps, order: tl.constexpr, affine: tl.constexpr, block: tl.constexpr
    ):
        column = tl.arange(0, block)
        inside = column < width
        dweight = tl.zeros([block], tl.float32)
        dbias = tl.zeros([block], tl.float32)
        for row in range(tl.program_id(0).to(tl.int64), rows, tl.num_programs(0)):
            at = row * width + column
            x = tl.load(X + at, mask=inside, other=0.0).to(tl.float32)
            t = x + tl.load(H + at, mask=inside, other=0.0).to(tl.float32)
            o = tl.load(G + at, mask=inside, other=0.0).to(tl.float32)
            u, e, c, A, W = _basis(x, t, inside, width)
            alpha, beta, _ = _recur(A, W, c, order, eps)
            g = o
            if affine:
                dweight += o * (alpha * u + beta * e)
                dbias += o
                g = o * tl.load(WEIGHT + column, mask=inside, other=0.0)
            g = _centred(g, inside, width)
            gu = tl.sum(g * u, 0) / width
            ge = tl.sum(g * e, 0) / width
            # The gradient of a sum, h_g g + h_u u + h_e e, and of all sums.
            h_g = A * 0.0 + 1.0
            h_u = A * 0.0
            h_e = A * 0.0
            x_g = A * 0.0
            x_u = A * 0.0
            x_e = A * 0.0
            for back in tl.static_range(order):
                # The scalars of step order - back, computed anew: a few operations a row, and no memory.
                alpha, beta, s = _recur(A, W, c, order - back, eps)
                along = alpha * (h_g * gu + h_u * A) + beta * (h_g * ge + h_e * W)
                h_g = s * h_g
                h_u = s * (h_u - along * alpha)
                h_e = s * (h_e - along * beta)
                x_g += h_g
                x_u += h_u
                x_e += h_e
            dh = h_g * g + h_u * u + h_e * e
            dx = x_g * g + x_u * u + x_e * e
            tl.store(DH + at, dh.to(DH.dtype.element_ty), mask=inside)
            tl.store(DX + at, dx.to(DX.dtype.element_ty), mask=inside)
        if affine:
            mine = tl.program_id(0) * width + column
            tl.store(DWEIGHT + mine, dweight, mask=inside)
            tl.store(DBIAS + mine, dbias, mask=inside)

    @triton.jit
    def _steps(x, h, WEIGHT, BIAS, column, inside, width, eps, steps: tl.constexpr):
        """y after so many steps, from x and h in registers."""
        y = h
        for k in tl.static_range(steps):
            z = _centred(x + y, inside, width)
            z = z / tl.sqrt(tl.sum(z * z, 0) / width + eps)
            weight = tl.load(WEIGHT + k * width + column, mask=inside, other=0.0)
            y = z * weight + tl.load(BIAS + k * width + column, mask=inside, other=0.0)
        return y

    @triton.jit
    def _forward_steps(X, H, WEIGHT, BIAS, Y, rows, width, eps, order: tl.constexpr, block: tl.constexpr):
        column = tl.arange(0, block)
        inside = column < width
        for row in range(tl.program_id(0).to(tl.int64), rows, tl.num_programs(0)):
            at = row * width + column
            x = tl.load(X + at, mask=inside, other=0.0).to(tl.float32)
            h = tl.load(H + at, mask=inside, other=0.0).to(tl.float32)
            y = _steps(x, h, WEIGHT, BIAS, column, inside, width, eps, order)
            tl.store(Y + at, y.to(Y.dtype.element_ty), mask=inside)

    @triton.jit
    def _backward_steps(G, X, H, WEIGHT, BIAS, DX, DH, DWEIGHT, DBIAS, rows, width, eps, order: tl.constexpr, block: tl.constexpr):
        column = tl.arange(0, block)
        inside = column < width
        sums = tl.program_id(0) * order * width + column
        for row in range(tl.program_id(0).to(tl.int64), rows, tl.num_programs(0)):
            at = row * width + column
            x = tl.load(X + at, mask=inside, other=0.0).to(tl.float32)
            h = tl.load(H + at, mask=inside, other=0.0).to(tl.float32)
            g = tl.load(G + at, mask=inside, other=0.0).to(tl.float32)
            dx = tl.zeros([block], tl.float32)
            for back in tl.static_range(order):
                # The input of the step, computed anew: arithmetic is cheap here, and memory is not.
                y = _steps(x, h, WEIGHT, BIAS, column, inside, width, eps, order - 1 - back)
                z = _centred(x + y, inside, width)
                scale = 1.0 / tl.sqrt(tl.sum(z * z, 0) / width + eps)
                z = z * scale
                of_step = sums + (order - 1 - back) * width
                # Programs own their sums, so that adding needs no atomic operation.
                tl.store(DWEIGHT + of_step, tl.load(DWEIGHT + of_step, mask=inside, other=0.0) + g * z, mask=inside)
                tl.store(DBIAS + of_step, tl.load(DBIAS + of_step, mask=inside, other=0.0) + g, mask=inside)
                g = g * tl.load(WEIGHT + (order - 1 - back) * width + column, mask=inside, other=0.0)
                g = scale * (_centred(g, inside, width) - z * (tl.sum(g * z, 0) / width))
                dx += g
            tl.store(DH + at, g.to(DH.dtype.element_ty), mask=inside)
            tl.store(DX + at, dx.to(DX.dtype.element_ty), mask=inside)


def forward(x: Tensor, h: Tensor, order: int, weight: Tensor | None, bias: Tensor | None, eps: float) -> Tensor:
    """y of contiguous x and h; weight and bias in float32."""
    y, grid, sizes, options = torch.empty_like(x), *_launch(x)
    with torch.cuda.device_of(x):
        _forward[grid](x, h, weight, bias, y, *sizes, eps, order=order, affine=weight is not None, **options)
    return y


def backward(
    gradient: Tensor, x: Tensor, h: Tensor, order: int, weight: Tensor | None, eps: float
) -> tuple[Tensor, Tensor, Tensor | None, Tensor | None]:
    """The gradients of x, h, weight and bias; the last two are None without a weight."""
    dx, dh, grid, sizes, options = torch.empty_like(x), torch.empty_like(h), *_launch(x)
    sums = [None if weight is None else weight.new_empty(*grid, x.shape[-1]) for _ in range(2)]
    with torch.cuda.device_of(x):
        _backward[grid](gradient, x, h, weight, dx, dh, *sums, *sizes, eps, order=order, affine=weight is not None, **options)
    return (dx, dh, None, None) if weight is None else (dx, dh, *(one.sum(0) for one in sums))


def forward_steps(x: Tensor, h: Tensor, weights: Tensor, biases: Tensor, eps: float) -> Tensor:
    """y of contiguous x and h; weights and biases (steps, features)."""
    y, grid, sizes, options = torch.empty_like(x), *_launch(x)
    affine = (weights.float().contiguous(), biases.float().contiguous())
    with torch.cuda.device_of(x):
        _forward_steps[grid](x, h, *affine, y, *sizes, eps, order=len(weights), **options)
    return y


def backward_steps(
    gradient: Tensor, x: Tensor, h: Tensor, weights: Tensor, biases: Tensor, eps: float
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """The gradients of x, h, weights and biases."""
    dx, dh, grid, sizes, options = torch.empty_like(x), torch.empty_like(h), *_launch(x)
    affine = (weights.float().contiguous(), biases.float().contiguous())
    sums = [torch.zeros(*grid, *weights.shape, dtype=torch.float32, device=x.device) for _ in range(2)]
    with torch.cuda.device_of(x):
        _backward_steps[grid](gradient, x, h, *affine, dx, dh, *sums, *sizes, eps, order=len(weights), **options)
    return dx, dh, *(one.sum(0).to(weights.dtype) for one in sums)


def _launch(x: Tensor) -> tuple[tuple[int], tuple[int, int], dict[str, int]]:
    """The grid, the sizes (rows, width) and the options of a launch."""
    width = x.shape[-1]
    rows, block = x.numel() // width, triton.next_power_of_2(width)
    num_warps = min(max(block // 256, 1), 16)
    at_once = 8  # of Triton's interpreter, which has no multiprocessors
    if x.device.type == "cuda":
        at_once = WARPS // num_warps * torch.cuda.get_device_properties(x.device).multi_processor_count
    return (min(rows, at_once),), (rows, width), dict(block=block, num_warps=num_warps)
