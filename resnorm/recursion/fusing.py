"""Put the kernel of the recursive skip under the blocks of a model, without a change to the model."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules import module as torch_module

from resnorm import recursion
from resnorm.norms import LayerNorm, LayerNorm2d

FUSED_NORMS = (LayerNorm, LayerNorm2d)
HOOKS = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
# Of all modules: the dictionaries themselves, which torch fills and empties in place.
GLOBAL_HOOKS = tuple(getattr(torch_module, f"_global{hooks}") for hooks in HOOKS)


def fuse(module: nn.Module) -> nn.Module:
    r"""Let every recursive skip in a module, two or more steps `an` with a layer norm, run as one: $y_k = n(x + y_{k-1})$.

    Returns the module, whose blocks have the same modules, parameters and state dict as before. Each step runs as one call of
    `recursive_skip` or `recursive_skip_steps` and falls back by itself to calling the modules one by one wherever that would
    not be the same: while a hook stands on one of them, or on all modules; where another class, or a sum that is not plain,
    stands in place; where the norms differ in eps or the shapes do not fit; for `layer2d`, outside channels_last.
    The builders of `resnorm.models` call it. Citation: liu2020rethinking.
    """
    for child in module.modules():
        # A block is what has a plan: its steps, segment by segment.
        plan = getattr(child, "plan", None)
        if isinstance(plan, tuple) and all(hasattr(step, "apply") for steps in plan for step in steps):
            child.plan = tuple(_fused(steps, child._modules) for steps in plan)
    return module


class _Recursion:
    """A run of steps a, n, a, n, ... of a plan as one step."""

    symbol = ""

    def __init__(self, steps: tuple[Any, ...]):
        self.steps = steps

    def apply(self, modules: dict[str, nn.Module], h: Tensor, x: Tensor, first: Tensor, inputs: dict[str, dict]) -> Tensor:
        sums, norms = [[modules[step.name] for step in self.steps[start::2]] for start in (0, 1)]
        if all(getattr(one, "plain", False) for one in sums) and not _watched(sums + norms):
            y = _run(x, h, norms)
            if y is not None:
                return y
        for step in self.steps:
            h = step.apply(modules, h, x, first, inputs)
        return h


def _fused(steps: tuple[Any, ...], modules: dict[str, nn.Module]) -> tuple[Any, ...]:
    fused: list[Any] = []
    start = 0
    while start < len(steps):
        end = start
        while [step.symbol for step in steps[end : end + 2]] == ["a", "n"] and type(modules[steps[end + 1].name]) in FUSED_NORMS:
            end += 2
        if end - start > 2:
            fused.append(_Recursion(steps[start:end]))
            start = end
            continue
        step = steps[start]
        fused.append(step.with_parts([_fused(part, modules) for part in step.parts]) if hasattr(step, "parts") else step)
        start += 1
    return tuple(fused)


def _watched(modules: list[nn.Module]) -> bool:
    # Other libraries put a function of their own in the place of one module's forward.
    return any(GLOBAL_HOOKS) or any("forward" in one.__dict__ or any(getattr(one, hooks) for hooks in HOOKS) for one in modules)


def _run(x: Tensor, h: Tensor, norms: list[nn.Module]) -> Tensor | None:
    """All steps in one call, or None where the norms, as they are now, do not allow it."""
    last = norms[-1]
    if not (type(last) in FUSED_NORMS and all(type(norm) is type(last) and norm.eps == last.eps for norm in norms)):
        return None
    affine_last = all(norm.weight is None for norm in norms[:-1])
    affine_steps = x.device.type == "cuda" and all(norm.bias is not None for norm in norms)
    pixels = type(last) is LayerNorm2d
    # A branch whose output is broadcast, or too wide, meets the norms themselves.
    fits = x.shape == h.shape and (x.shape[1 if pixels else -1],) == last.normalized_shape
    if not (fits and (affine_last or affine_steps)) or (pixels and not _channels_last(x, h)):
        return None
    if pixels:
        x, h = x.movedim(1, -1), h.movedim(1, -1)
    if affine_last:
        y = recursion.recursive_skip(x, h, len(norms), last.weight, last.bias, last.eps)
    else:
        y = recursion.recursive_skip_steps(x, h, [norm.weight for norm in norms], [norm.bias for norm in norms], last.eps)
    return y.movedim(-1, 1) if pixels else y


def _channels_last(*tensors: Tensor) -> bool:
    return all(one.dim() == 4 and one.is_contiguous(memory_format=torch.channels_last) for one in tensors)
