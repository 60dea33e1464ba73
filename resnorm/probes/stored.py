"""Count what a network keeps of a forward pass for the backward pass, and what it learns."""

from typing import Any

import torch
from torch import Tensor, nn


def stored_bytes(model: nn.Module, x: Tensor, **inputs: Any) -> int:
    """Return the bytes of all tensors that automatic differentiation keeps for the backward pass, parameters left out.

    A tensor that several operations keep counts once. Nothing of the model changes, its running statistics aside.
    `inputs`: further arguments of the model. Shapes: `x` as the model takes it.
    """
    own = {tensor.untyped_storage().data_ptr() for tensor in (*model.parameters(), *model.buffers())}
    kept: dict[int, int] = {}

    def note(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        y = model(x, **inputs)  # as long as it lives, nothing that was kept is freed and its address given away
    total = sum(kept.values())
    del y
    return total


def parameter_count(model: nn.Module, of: str = "") -> int:
    """Return how many numbers the model learns; `of`: only of parameters with this text in their name, such as ".n."."""
    return sum(p.numel() for name, p in model.named_parameters() if p.requires_grad and of in name)
