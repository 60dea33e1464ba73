"""What a computation costs: passes over memory, counted without a clock, and seconds, measured in turns."""

from collections.abc import Callable, Mapping
from time import perf_counter
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from resnorm.extras import needed_for


class _Traffic(TorchDispatchMode):
    """Count the tensors of one size that operations read and write; views move nothing."""

    def __init__(self, size: int):
        super().__init__()
        self.size, self.passes = size, 0

    def __torch_dispatch__(self, operation: Any, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        result = operation(*args, **(kwargs or {}))
        leaves = tree_leaves((args, kwargs, result)) if not operation.is_view else ()
        self.passes += sum(torch.is_tensor(leaf) and leaf.numel() == self.size for leaf in leaves)
        return result


def memory_passes(function: Callable[..., Tensor], *inputs: Tensor) -> int:
    """Return how many tensors of the first input's size a function reads and writes, forward and backward.

    Every operation of PyTorch counts, line by line, as without a compiler; the gradient is taken by all `inputs`.
    The output has the first input's shape.
    """
    given = [x.detach().requires_grad_() for x in inputs]
    gradient = torch.ones_like(given[0])
    with _Traffic(given[0].numel()) as traffic:
        torch.autograd.grad(function(*given), given, gradient)
    return traffic.passes


def times(steps: Mapping[Any, Callable[[], Any]], rounds: int = 7):
    """Time functions in turn, so that a slow moment of the machine hits all of them: a frame of seconds, one row a round.

    `steps`: functions without arguments, by the names of the columns. A first round warms up and is left out; on a GPU
    each step is waited for.
    """
    with needed_for("tables of measurements"):
        import pandas

    rows = []
    for _ in range(rounds + 1):
        row = {}
        for name, step in steps.items():
            start = perf_counter()
            step()
            if torch.cuda.is_available():
                torch.cuda.synchronize()
            row[name] = perf_counter() - start
        rows.append(row)
    return pandas.DataFrame(rows[1:], columns=list(steps))
