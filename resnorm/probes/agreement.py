"""Compare two ways to compute the same: outputs and gradients."""

from collections.abc import Callable, Iterable, Sequence

import torch
from torch import Tensor


def largest_difference(first: Tensor | Sequence[Tensor], second: Tensor | Sequence[Tensor]) -> float:
    r"""Return $\max \lvert a - b \rvert$ over the values of two tensors, or over two sequences of tensors.

    Shapes: `first` and `second` the same, pair by pair. Raises `ValueError` where they are not: nothing is broadcast.
    """
    if isinstance(first, Tensor) and isinstance(second, Tensor):
        first, second = [first], [second]
    shapes = [[tuple(tensor.shape) for tensor in tensors] for tensors in (first, second)]
    if shapes[0] != shapes[1]:
        raise ValueError(f"the shapes are {shapes[0]} and {shapes[1]}; only tensors of one shape are compared")
    return max((a - b).abs().max().item() for a, b in zip(first, second, strict=True))


def agreement(
    first: Callable[..., Tensor], second: Callable[..., Tensor], *inputs: Tensor, parameters: Iterable[Tensor] = ()
) -> dict[str, float]:
    r"""Return how far two functions are apart: the largest differences of their outputs and of their gradients.

    `output`: $\max \lvert f(x) - g(x) \rvert$; `gradients`: the same of the derivatives of $\langle r, f(x) \rangle$
    for one normal r of the output's shape, by all `inputs` and by the `parameters` that both use.
    Raises `ValueError` where the outputs have two shapes.
    """
    given = [x.detach().requires_grad_() for x in inputs]
    wanted = [*given, *parameters]
    outputs = [first(*given), second(*given)]
    difference = largest_difference(*outputs)
    r = torch.randn(outputs[0].shape, generator=torch.Generator().manual_seed(0)).to(outputs[0])
    gradients = [torch.autograd.grad(y, wanted, r) for y in outputs]
    return {"output": difference, "gradients": largest_difference(*gradients)}
