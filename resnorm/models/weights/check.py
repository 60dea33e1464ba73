"""Two networks compared: the settings of the modules that correspond, and the outputs for one input."""

from collections.abc import Iterator, Mapping
from itertools import chain
from typing import Any

import torch
from torch import Tensor, nn

from resnorm.norms.checking import evaluating

# Settings of a module that change what it computes, and no tensor tells.
SETTINGS = ("eps", "num_groups", "stride", "padding", "dilation", "groups", "padding_mode")
# Of the largest output.
TOLERANCE = 1e-4


def settings(pairs: Mapping[str, str], ours: nn.Module, theirs: nn.Module) -> Iterator[str]:
    """One reason for each setting in which two corresponding modules differ; `pairs`: from our name to theirs."""
    for mine, its in pairs.items():
        one, other = _module(ours, mine), _module(theirs, its)
        if one is None or other is None:
            continue
        for name in SETTINGS:
            values = [_value(getattr(module, name, None)) for module in (one, other)]
            if None not in values and values[0] != values[1]:
                yield f"{its!r} has {name}={getattr(other, name)}, and {mine!r} of this model {getattr(one, name)}"


def _module(network: nn.Module, name: str) -> nn.Module | None:
    try:
        return network.get_submodule(name)
    except AttributeError:
        return None


def _value(value: Any) -> Any:
    return tuple(value) if isinstance(value, list | tuple) else float(value) if isinstance(value, int | float) else value


def outputs(
    ours: nn.Module, theirs: nn.Module, loaded: dict[str, Tensor], inputs: tuple, head: tuple[str, str | None] | None
) -> float:
    """The largest difference of the outputs of both for one input, as a share of the largest output.

    `loaded`: the tensors that ours would have. `head`: the names of both heads, where the inputs of those are compared; None
    in the place of theirs stands for the output of the network below it, which is not compared where it has another shape.
    Both compute in 32 bits, whatever their tensors are stored in; where these differ by more than the tolerance, in 64, in
    which the rounding of a deep network, or of a GPU's shorter products, adds up to nothing.
    """
    difference = _difference(ours, theirs, loaded, inputs, head, torch.float32)
    if difference <= TOLERANCE:
        return difference
    try:
        return _difference(ours, theirs, loaded, inputs, head, torch.float64)
    except (RuntimeError, TypeError):  # a network that makes 32-bit numbers of its own, a device without 64-bit numbers
        return difference


def _difference(
    ours: nn.Module,
    theirs: nn.Module,
    loaded: dict[str, Tensor],
    inputs: tuple,
    head: tuple[str, str | None] | None,
    kind: torch.dtype,
) -> float:
    mine = _output(ours, loaded, inputs, head and head[0], kind)
    if head is not None and head[1] is None:
        its = _output(getattr(theirs, "base_model", theirs), {}, inputs, None, kind)
        its = mine if its.numel() != mine.numel() else its.reshape(mine.shape)
    else:
        its = _output(theirs, {}, inputs, head and head[1], kind)
    if mine.shape != its.shape:
        return float("inf")
    return ((mine - its).abs().max() / its.abs().max().clamp(min=1e-12)).item()


def _output(network: nn.Module, tensors: dict[str, Tensor], inputs: tuple, head: str | None, kind: torch.dtype) -> Tensor:
    """The logits, or with `head` its input, of a network with these tensors in place of its own, all of this type."""
    own = dict(chain(network.named_parameters(remove_duplicate=False), network.named_buffers(remove_duplicate=False)))
    device = next(iter(own.values())).device
    wide = {name: _as(kind, tensors.get(name, value).to(device)) for name, value in own.items()}
    inputs = tuple(_as(kind, one.to(device)) for one in inputs)
    seen: list[Tensor] = []
    with evaluating(network):
        keep = lambda module, given: seen.append(given[0])  # noqa: E731
        hook = head is not None and network.get_submodule(head).register_forward_pre_hook(keep)
        try:
            output = torch.func.functional_call(network, wide, inputs, tie_weights=False)
        finally:
            if hook:
                hook.remove()
    named = (getattr(output, name, None) for name in ("logits", "last_hidden_state"))
    output = seen[0].flatten(1) if head is not None else next((one for one in named if one is not None), output)
    return output.double().cpu()


def _as(kind: torch.dtype, value: Tensor) -> Tensor:
    return value.to(kind) if value.is_floating_point() else value
