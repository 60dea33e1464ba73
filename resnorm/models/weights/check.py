"""Two networks compared: the settings of the modules that correspond, and the outputs for one input."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

# Settings of a module that change what it computes, and no tensor tells.
SETTINGS = ("eps", "num_groups", "stride", "padding", "dilation", "groups", "padding_mode")
TOLERANCE = 1e-3


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


def outputs(ours: nn.Module, theirs: nn.Module, loaded: dict[str, Tensor], inputs: tuple, head: tuple[str, str] | None) -> float:
    """The largest difference of the outputs of both for one input, as a share of the largest output.

    `loaded`: the tensors that ours would have. `head`: the names of both heads, where the inputs of those are compared.
    """
    kept = {}

    def keep(which: str, name: str):
        return lambda module, given: kept.setdefault(which, given[0])

    with evaluating(ours), evaluating(theirs), torch.no_grad():
        hooks = []
        if head is not None:
            hooks = [
                network.get_submodule(name).register_forward_pre_hook(keep(which, name))
                for which, network, name in (("ours", ours, head[0]), ("theirs", theirs, head[1]))
            ]
        try:
            tensors = {name: value.to(ours.state_dict()[name]) for name, value in loaded.items()}
            mine = torch.func.functional_call(ours, tensors, inputs, tie_weights=False)
            its = theirs(*(one.to(_kind(theirs)) if one.is_floating_point() else one for one in inputs))
            its = getattr(its, "logits", its)
        finally:
            for hook in hooks:
                hook.remove()
    if head is not None:
        mine, its = (kept[which].flatten(1) for which in ("ours", "theirs"))
    if mine.shape != its.shape:
        return float("inf")
    mine, its = mine.double().cpu(), its.double().cpu()
    return ((mine - its).abs().max() / its.abs().max().clamp(min=1e-12)).item()


def _kind(network: nn.Module) -> torch.dtype:
    return next((one.dtype for one in network.parameters() if one.is_floating_point()), torch.get_default_dtype())


@contextmanager
def evaluating(network: nn.Module):
    """Evaluation mode inside, and each module's own mode afterwards."""
    modes = {module: module.training for module in network.modules()}
    network.eval()
    try:
        yield
    finally:
        for module, mode in modes.items():
            module.training = mode
