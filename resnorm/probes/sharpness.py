"""Look how sharply an attention chooses: the largest weight that a query gives."""

from typing import Any

import torch
from torch import Tensor, nn

from resnorm.norms.checking import evaluating
from resnorm.streams import Stack


def sharpness(model: nn.Module, x: Tensor, *, part: Stack | None = None, **inputs: Any) -> float:
    r"""Return the largest weight of a query, $\max_j \operatorname{softmax}_j(q_i^\top k_j / \sqrt{d_h})$, mean over queries.

    Of the last plain self-attention `A` of the stack `part` (default: of the model), over all heads, without a mask: from
    1 / tokens, where every position counts the same, to 1, where each query has chosen one. In eval mode; the model is left
    as it was. Shapes: x as the model takes it, without padding. Raises `ValueError` where the stack has no such attention.
    """
    stack = model if part is None else part
    found = stack.parts("A") if isinstance(stack, Stack) else []
    if not found or not hasattr(found[-1], "query_key_value"):
        raise ValueError(f"{type(stack).__name__} has no self-attention with one matrix for queries, keys and values")
    attention: Any = found[-1]
    given: list[Tensor] = []
    hook = attention.register_forward_pre_hook(lambda _, args: given.append(args[0]))
    try:
        with evaluating(model), torch.no_grad():
            model(x, **inputs)
            q, k, _ = attention.query_key_value(given[0]).chunk(3, -1)
    finally:
        hook.remove()
    q, k = (side.unflatten(-1, (attention.heads, -1)).transpose(-2, -3) for side in (q, k))
    logits = q @ k.transpose(-1, -2) / q.shape[-1] ** 0.5
    return logits.softmax(-1).amax(-1).mean().item()
