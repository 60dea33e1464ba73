"""The gradient of a weight, example by example."""

from collections.abc import Callable

import torch
from torch import Tensor, nn


def example_gradients(layer: nn.Module, loss: Callable[[], Tensor]) -> Tensor:
    r"""Return $\lVert \partial \ell_i / \partial W \rVert_F$ of a linear layer for every example i, in one backward pass.

    For $y_i = W h_i$ the gradient is $g_i h_i^\top$ with $g_i = \partial \ell_i / \partial y_i$, of the norm
    $\lVert g_i \rVert \, \lVert h_i \rVert$. `loss`: runs the model and returns $\sum_i \ell_i$; every example passes through
    the layer as one vector of its own. Shapes: that of the layer's output without its last dimension.
    Raises ValueError where the layer does not run once.
    """
    passed: list[tuple[Tensor, Tensor]] = []
    hook = layer.register_forward_hook(lambda _, given, made: passed.append((given[0], made)))
    try:
        total = loss()
    finally:
        hook.remove()
    if len(passed) != 1:
        raise ValueError(f"the layer ran {len(passed)} times: give one that the model runs once")
    ((h, y),) = passed
    (g,) = torch.autograd.grad(total, y)
    return (h.norm(dim=-1) * g.norm(dim=-1)).detach()
