"""The gradient of a weight, example by example, and of the last layer in the setting of Theorem 1."""

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, layer_norm

from resnorm.streams import Stack


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


def last_layer_gradient(stack: Stack, width: int, classes: int = 32, count: int = 64) -> float:
    r"""Return the mean of $\lVert \partial \ell_i / \partial W_2 \rVert_F$ over examples, $W_2$ of the stack's last `M`.

    That is the quantity of Theorem 1: each example is one position, $x_i = \mathrm{LN}(z_i)$ with $z_i \sim N(0, I)$, the
    target is random, and a head of Xavier's weights gives the logits. Shapes: the stack's (batch, positions, width).
    Raises ValueError where no block has a letter `M`. Citation: xiong2020layer.
    """
    head = nn.init.xavier_normal_(torch.empty(classes, width))
    x = layer_norm(torch.randn(count, 1, width), (width,))
    targets = torch.randint(classes, (count,))
    output = stack.parts("M")[-1].get_submodule("output")
    return example_gradients(output, lambda: cross_entropy((stack(x) @ head.T)[:, 0], targets, reduction="sum")).mean().item()
